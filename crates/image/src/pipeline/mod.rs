//! Source → decompress → write → sync → read back. Success is said only at the very end.
//!
//! What makes it safe:
//! - What can be refused is refused before the disk is touched: an image that is known to be larger than the disk, one
//!   that is not what its compression says, an empty one.
//! - The first block, which holds the partition table, is written last, after the checksum of the download was found
//!   right. A write that ends early for whatever reason leaves a disk that nothing can boot by accident. The ends of the
//!   disk are zeroed first, so that an older partition table's backup does not come to life either.
//! - Runs of zeros are made zeros on the disk, never skipped.
//! - After a sync the page cache is dropped and all of the image, holes included, is read back and compared by hash.

mod decode;
mod error;
mod extents;
mod progress;
#[cfg(test)]
mod tests;

use std::{io::Read, ops::ControlFlow};

use ring::digest;

use crate::{
    Checksum, ChecksumAlgorithm,
    device::{BlockDevice, write_sparse},
};
use decode::Decoder;
pub use decode::{Compression, Unpacker};
pub use error::ImageError;
pub use progress::{Progress, Stage, Throttle};

/// Zeros are looked for in pieces of this size.
const ZERO_STEP: usize = 64 * 1024;

/// What is to be written, and within which bounds.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Of the file as it is downloaded.
    pub checksum: Checksum,
    /// How the file is packed.
    pub compression: Compression,
    /// Of the image that extents were made from, if they are to be of a certain one.
    pub source: Option<Checksum>,
    /// Upper limit of the download and of what it unpacks to. 0 means: the size of the disk.
    pub max_bytes: u64,
    /// How long the download is, where the server said so.
    pub download_bytes: Option<u64>,
    /// How much is written at once; 1 MiB is right for disks.
    pub block_bytes: usize,
}

impl WriteOptions {
    /// Options with the usual block size and no limit but the disk.
    #[must_use]
    pub fn new(checksum: Checksum, compression: Compression) -> Self {
        Self {
            checksum,
            compression,
            source: None,
            max_bytes: 0,
            download_bytes: None,
            block_bytes: 1024 * 1024,
        }
    }
}

/// Proof that an image is on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the download.
    pub bytes_read: u64,
    /// Bytes of the image on the disk, holes included.
    pub bytes_written: u64,
    /// Of these, bytes that were made zeros instead of being written.
    pub bytes_zeroed: u64,
    /// Hash of the download; equals what was asked for.
    pub download: Checksum,
    /// SHA-256 (hex) of the image, as it was read back; equals what was written.
    pub content_sha256: String,
}

/// Writes an image to a disk and verifies it. `observe` is called for every block; when it breaks, the write ends with
/// [`ImageError::Cancelled`].
pub fn write_image(
    source: &mut dyn Read,
    device: &mut dyn BlockDevice,
    options: &WriteOptions,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Written, ImageError> {
    let limit = if options.max_bytes == 0 { device.size() } else { options.max_bytes };
    if let Some(known) = options.download_bytes {
        if known > limit && options.max_bytes != 0 {
            return Err(ImageError::LimitExceeded { limit });
        }
        if options.compression == Compression::None && known > device.size() {
            return Err(ImageError::TooLarge { image: known, device: device.size() });
        }
    }
    let job = Job { options, limit, observe, zeroed: 0 };
    match options.compression {
        Compression::Extents => job.run_extents(source, device),
        _ => job.run(source, device),
    }
}

struct Job<'a> {
    options: &'a WriteOptions,
    limit: u64,
    observe: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    zeroed: u64,
}

impl Job<'_> {
    fn run(mut self, source: &mut dyn Read, device: &mut dyn BlockDevice) -> Result<Written, ImageError> {
        let block_bytes = self.options.block_bytes.max(ZERO_STEP);
        let mut decoder = Decoder::new(source, self.options, self.limit)?;
        if let Some(content) = decoder.content_bytes() {
            self.check_size(content, device)?;
        }
        // Nothing is touched before the first block has come out whole.
        let mut head = vec![0; block_bytes];
        let filled = decoder.fill(&mut head)?;
        head.truncate(filled);
        if head.is_empty() {
            return Err(ImageError::Empty);
        }
        self.check_size(head.len() as u64, device)?;
        zero_ends(device, block_bytes as u64)?;

        let mut content = ChecksumAlgorithm::Sha256.hasher();
        content.update(&head);
        let mut written = head.len() as u64;
        let mut block = vec![0; block_bytes];
        // A short block is the last one.
        let mut more = filled == block_bytes;
        while more {
            let filled = decoder.fill(&mut block)?;
            more = filled == block_bytes;
            let data = &block[..filled];
            self.check_size(written + filled as u64, device)?;
            content.update(data);
            self.write(device, written, data)?;
            written += filled as u64;
            self.observe(Stage::Writing, decoder.bytes_read(), self.options.download_bytes)?;
        }
        drop(block);
        let content = hex::encode(content.finish());
        let (bytes_read, download) = decoder.finish(&content)?;
        self.complete(device, &head, content, written, (bytes_read, download))
    }

    /// The end of a write whose download was found right: the head, and the proof.
    fn complete(
        self,
        device: &mut dyn BlockDevice,
        head: &[u8],
        content: String,
        written: u64,
        (bytes_read, download): (u64, Checksum),
    ) -> Result<Written, ImageError> {
        let mut job = self;
        job.sync(device)?;
        job.write(device, 0, head)?;
        job.sync(device)?;
        let verified = job.verify(device, &content, written);
        if verified.is_err() {
            // Best effort: what cannot be trusted should not boot. The error that counts is the first.
            let _ = device.write_zeroes(0, written.min(head.len() as u64)).and_then(|()| device.sync());
        }
        verified?;
        Ok(Written {
            bytes_read,
            bytes_written: written,
            bytes_zeroed: job.zeroed,
            download,
            content_sha256: content,
        })
    }

    fn check_size(&self, image: u64, device: &dyn BlockDevice) -> Result<(), ImageError> {
        if image > device.size() {
            return Err(ImageError::TooLarge { image, device: device.size() });
        }
        if image > self.limit {
            return Err(ImageError::LimitExceeded { limit: self.limit });
        }
        Ok(())
    }

    fn write(&mut self, device: &mut dyn BlockDevice, offset: u64, data: &[u8]) -> Result<(), ImageError> {
        let zeros = data.chunks(ZERO_STEP).filter(|piece| crate::device::is_zero(piece));
        self.zeroed += zeros.map(|piece| piece.len() as u64).sum::<u64>();
        write_sparse(device, offset, data, ZERO_STEP).map_err(|source| ImageError::Device {
            operation: "write",
            offset,
            length: data.len() as u64,
            source,
        })
    }

    fn sync(&self, device: &mut dyn BlockDevice) -> Result<(), ImageError> {
        let length = device.size();
        device.sync().map_err(|source| ImageError::Device { operation: "sync", offset: 0, length, source })
    }

    fn verify(
        &mut self,
        device: &mut dyn BlockDevice,
        expected: &str,
        length: u64,
    ) -> Result<(), ImageError> {
        let mut block = vec![0; self.options.block_bytes.max(ZERO_STEP)];
        device.drop_caches().map_err(|source| ImageError::Device {
            operation: "drop caches",
            offset: 0,
            length,
            source,
        })?;
        let mut hasher: digest::Context = ChecksumAlgorithm::Sha256.hasher();
        let mut offset = 0;
        while offset < length {
            let size = (length - offset).min(block.len() as u64) as usize;
            let part = &mut block[..size];
            device.read_at(offset, part).map_err(|source| ImageError::Device {
                operation: "read back",
                offset,
                length: part.len() as u64,
                source,
            })?;
            hasher.update(part);
            offset += part.len() as u64;
            self.observe(Stage::Verifying, offset, Some(length))?;
        }
        let found = hex::encode(hasher.finish());
        if found == expected {
            Ok(())
        } else {
            Err(ImageError::Verify { bytes: length, expected: expected.to_owned(), found })
        }
    }

    fn observe(&mut self, stage: Stage, done: u64, total: Option<u64>) -> Result<(), ImageError> {
        match (self.observe)(Progress { stage, done, total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ImageError::Cancelled { stage, bytes: done }),
        }
    }
}

/// Zeros the first and the last block of the disk: where partition tables live.
fn zero_ends(device: &mut dyn BlockDevice, block: u64) -> Result<(), ImageError> {
    let length = block.min(device.size());
    for offset in [0, device.size() - length] {
        device.write_zeroes(offset, length).map_err(|source| ImageError::Device {
            operation: "zero",
            offset,
            length,
            source,
        })?;
    }
    Ok(())
}
