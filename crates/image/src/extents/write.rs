//! Makes extents of a qcow2 image.

use std::io::{self, Write};

use ring::digest;

use super::{CHECKSUM, CHUNK, END, HEADER, MAGIC, PLAIN};
use crate::{Checksum, ChecksumAlgorithm, Qcow2, Qcow2Error, device::is_zero};

/// Fast: the provider packs once, but everybody waits for it.
const LEVEL: i32 = 1;

/// Why extents could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] Qcow2Error),
    /// There is nothing in it.
    #[error("the image is a disk of 0 bytes")]
    Empty,
    /// What was made could not be stored.
    #[error("the unpacked image cannot be stored: {0}")]
    Sink(#[source] io::Error),
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the file that was made.
    pub bytes: u64,
    /// SHA-256 of the file that was made.
    pub checksum: Checksum,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// SHA-256 (hex) of the whole disk, holes included.
    pub content_sha256: String,
    /// Chunks that are not zeros.
    pub chunks: u64,
}

/// Writes the extents of `image` to `sink`. `source` is the checksum of the image's file, verified before. `observe` is
/// told how far through the disk it is, and how large the result is so far; an error of it ends the work.
pub fn pack(
    image: &mut Qcow2,
    source: &Checksum,
    sink: &mut dyn Write,
    observe: &mut dyn FnMut(u64, u64) -> io::Result<()>,
) -> Result<Packed, PackError> {
    let size = image.size();
    if size == 0 {
        return Err(PackError::Empty);
    }
    let mut out = Sink { sink, hash: ChecksumAlgorithm::Sha256.hasher(), bytes: 0 };
    out.put(&header(size, source))?;
    let mut content = ChecksumAlgorithm::Sha256.hasher();
    let mut packer = zstd::bulk::Compressor::new(LEVEL).map_err(PackError::Sink)?;
    let (mut chunk, mut packed) = (vec![0; CHUNK], Vec::with_capacity(CHUNK));
    let (mut chunks, mut done) = (0u64, 0);
    while done < size {
        let data = image.next_data(done)?;
        // Whole chunks only: one that begins with zeros is a chunk all the same.
        let at = if data == size { size } else { data - data % CHUNK as u64 };
        hash_zeros(&mut content, at - done, &mut |hashed| observe(done + hashed, out.bytes))?;
        done = at;
        if done == size {
            break;
        }
        let length = (size - at).min(CHUNK as u64) as usize;
        let part = &mut chunk[..length];
        image.read_at(at, part)?;
        content.update(part);
        if !is_zero(part) {
            packed.clear();
            packed.reserve(zstd::zstd_safe::compress_bound(length));
            packer.compress_to_buffer(part, &mut packed).map_err(PackError::Sink)?;
            let (flag, stored) = if packed.len() < length { (0, packed.as_slice()) } else { (PLAIN, &*part) };
            out.put(&(at / CHUNK as u64).to_be_bytes())?;
            out.put(&(stored.len() as u32 | flag).to_be_bytes())?;
            out.put(digest::digest(&digest::SHA256, part).as_ref())?;
            out.put(stored)?;
            chunks += 1;
        }
        done += length as u64;
        observe(done, out.bytes).map_err(PackError::Sink)?;
    }
    let content = content.finish();
    out.put(&END.to_be_bytes())?;
    out.put(&chunks.to_be_bytes())?;
    out.put(content.as_ref())?;
    out.sink.flush().map_err(PackError::Sink)?;
    Ok(Packed {
        bytes: out.bytes,
        checksum: Checksum::of(ChecksumAlgorithm::Sha256, out.hash),
        disk_bytes: size,
        content_sha256: hex::encode(content),
        chunks,
    })
}

fn header(size: u64, source: &Checksum) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&size.to_be_bytes());
    header.extend_from_slice(&(CHUNK as u32).to_be_bytes());
    header.push(match source.algorithm() {
        ChecksumAlgorithm::Sha256 => 1,
        ChecksumAlgorithm::Sha512 => 2,
    });
    let mut checksum = hex::decode(source.hex()).unwrap_or_default();
    checksum.resize(CHECKSUM, 0);
    header.extend_from_slice(&checksum);
    header
}

fn hash_zeros(
    content: &mut digest::Context,
    length: u64,
    observe: &mut dyn FnMut(u64) -> io::Result<()>,
) -> Result<(), PackError> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut done = 0;
    while done < length {
        let step = (length - done).min(ZEROS.len() as u64);
        content.update(&ZEROS[..step as usize]);
        done += step;
        if done.is_multiple_of(64 << 20) {
            observe(done).map_err(PackError::Sink)?;
        }
    }
    Ok(())
}

/// Counts and hashes what is stored.
struct Sink<'a> {
    sink: &'a mut dyn Write,
    hash: digest::Context,
    bytes: u64,
}

impl Sink<'_> {
    fn put(&mut self, data: &[u8]) -> Result<(), PackError> {
        self.hash.update(data);
        self.bytes += data.len() as u64;
        self.sink.write_all(data).map_err(PackError::Sink)
    }
}
