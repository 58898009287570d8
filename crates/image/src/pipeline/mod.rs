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
//!
//! Four threads work at once: [`source`] takes bytes and hashes them, [`unpack`] makes parts of a disk of them,
//! [`inspect`] hashes these and finds zeros, [`write`] (the caller's own thread) writes. What goes from one to the next
//! goes through a channel, in order, errors included: an error arrives behind everything that came before it, so what the
//! caller is told does not depend on which thread was faster. Buffers go round in a [`pool`], which bounds the memory; a
//! stage that is gone makes those before it end, and nothing outlives the call. So a source must not block for ever:
//! if the disk fails, the call returns when the read under way does.

mod content;
mod decode;
mod error;
mod inspect;
mod pool;
mod progress;
mod prove;
mod source;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thread_tests;
mod unpack;
mod verify;
mod write;
mod zeros;

use std::{
    io::Read,
    ops::ControlFlow,
    sync::mpsc::sync_channel,
    thread::{self, Scope, ScopedJoinHandle},
};

use crate::{Checksum, device::BlockDevice, extents};
pub use content::{ContentHash, NotAHash};
pub use decode::{Compression, Unpacker};
pub use error::ImageError;
use pool::Pool;
pub use progress::{Progress, Stage, Throttle};
pub use prove::{clear_end, prove_image};
use source::{CHUNK, CHUNKS, Download, Feed};
use write::{Body, Writer};
use zeros::Zeros;

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
    /// Of the image, as it was read back; equals what was written.
    pub content: ContentHash,
}

/// Parts of an image between unpacking and writing.
const PARTS: usize = 6;
/// The same of extents, whose parts are large.
const EXTENTS: usize = 4;

/// Writes an image to a disk and verifies it. `observe` is called for every block; when it breaks, the write ends with
/// [`ImageError::Cancelled`].
pub fn write_image(
    source: &mut (dyn Read + Send),
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
    let mut writer = Writer { device, options, limit, observer: observe, zeroed: 0, zeros: Zeros::default() };
    let Body { head, bytes, end } = write_body(source, &mut writer)?;
    let download = compare(&end.download, &options.checksum)?;
    if let Err(error) = writer.head(&head).and_then(|()| writer.verify(&end.content, bytes)) {
        writer.spoil(head.len());
        return Err(error);
    }
    Ok(Written {
        bytes_read: end.download.bytes,
        bytes_written: bytes,
        bytes_zeroed: writer.zeroed,
        download,
        content: end.content,
    })
}

/// Everything but the first block, by all threads; returns when they have ended.
fn write_body(source: &mut (dyn Read + Send), writer: &mut Writer<'_>) -> Result<Body, ImageError> {
    let options = writer.options;
    let (limit, hasher) =
        (download_limit(options.compression, writer.limit), options.checksum.algorithm().hasher());
    let (parts, part_bytes) = match options.compression {
        Compression::Extents => (EXTENTS, extents::CHUNK),
        _ => (PARTS, writer.block()),
    };
    // What is on its way fits into a channel beside start and end, so only the want of buffers makes a stage wait.
    let (empty_parts, part_returns) = pool::pool(parts, part_bytes);
    let (to_inspect, unpacked) = sync_channel(parts + 2);
    let (to_write, inspected) = sync_channel(parts + 2);
    let (to_unpack, fed) = sync_channel(parts.max(CHUNKS) + 1);
    thread::scope(move |scope| {
        let from_source = |chunks: Pool| {
            start(scope, "image-source", move || source::feed(source, hasher, limit, &chunks, &to_unpack))
        };
        if options.compression == Compression::None {
            from_source(empty_parts)?;
            start(scope, "image-unpack", move || unpack::pass_on(&fed, options, &to_inspect))?;
        } else {
            let (empty_chunks, chunk_returns) = pool::pool(CHUNKS, CHUNK);
            from_source(empty_chunks)?;
            let feed = Feed::new(fed, chunk_returns);
            start(scope, "image-unpack", move || unpack::unpack(feed, options, &empty_parts, &to_inspect))?;
        }
        start(scope, "image-inspect", move || inspect::inspect(&unpacked, &to_write))?;
        writer.body(&inspected, &part_returns)
    })
}

/// Starts a thread, or says that there is no room for one.
fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, ImageError> {
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work).map_err(ImageError::Threads)
}

/// Bytes that a download has at most. Incompressible content grows a little when packed; the limit is for those who send
/// something else.
fn download_limit(compression: Compression, limit: u64) -> u64 {
    match compression {
        Compression::None => limit,
        Compression::Gzip | Compression::Zstd | Compression::Xz | Compression::Extents => {
            limit.saturating_add(limit / 64).saturating_add(1 << 20)
        }
    }
}

/// Compares a download with what was asked for.
fn compare(download: &Download, expected: &Checksum) -> Result<Checksum, ImageError> {
    if download.hash == expected.hex() {
        return Ok(expected.clone());
    }
    Err(ImageError::Checksum {
        algorithm: expected.algorithm(),
        bytes: download.bytes,
        expected: expected.hex().to_owned(),
        found: download.hash.clone(),
    })
}
