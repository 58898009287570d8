//! Reads a stream of extents: strict, bounded, and every chunk is compared with its hash before it is given out.

use std::io::{self, Read};

use ring::digest;

use super::{CHECKSUM, CHUNK, END, HASH, HEADER, MAGIC, PLAIN};
use crate::{Checksum, ChecksumAlgorithm};

/// Why a stream of extents cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ExtentsError {
    /// The stream failed or ended early.
    #[error(transparent)]
    Source(#[from] io::Error),
    /// It is not what it should be.
    #[error("the stream of extents is damaged: {0}")]
    Invalid(String),
    /// A chunk is not what its hash says.
    #[error("chunk {number} has the SHA-256 {found}, the list of chunks says {expected}")]
    Chunk {
        /// Number of the chunk.
        number: u64,
        /// What the list says.
        expected: String,
        /// What it is.
        found: String,
    },
}

/// What a stream begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Size of the disk.
    pub disk_bytes: u64,
    /// Checksum of the image that the extents were made from.
    pub source: Checksum,
}

/// What follows in a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A part of the disk that is not zeros.
    Chunk {
        /// Where it belongs.
        offset: u64,
        /// Its bytes; their hash was compared.
        data: &'a [u8],
    },
    /// There is nothing more.
    End {
        /// SHA-256 (hex) that the whole disk has then.
        content_sha256: String,
    },
}

/// What follows in a stream, the chunk itself being elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A part of the disk that is not zeros.
    Chunk {
        /// Counted from the start of the disk.
        number: u64,
        /// Where it belongs.
        offset: u64,
        /// How many bytes it has.
        length: usize,
        /// What they must hash to.
        sha256: [u8; HASH],
    },
    /// There is nothing more.
    End {
        /// SHA-256 that the whole disk has then.
        content_sha256: [u8; HASH],
    },
}

/// Compares a chunk with the hash that the list of chunks has for it.
pub(crate) fn check_chunk(number: u64, chunk: &[u8], sha256: &[u8; HASH]) -> Result<(), ExtentsError> {
    let found = digest::digest(&digest::SHA256, chunk);
    if found.as_ref() == sha256 {
        return Ok(());
    }
    let (expected, found) = (hex::encode(sha256), hex::encode(found));
    Err(ExtentsError::Chunk { number, expected, found })
}

/// Takes a stream of extents apart.
pub struct ExtentsReader {
    header: Header,
    /// Number that the next chunk has at least.
    next: u64,
    chunks: u64,
    stored: Vec<u8>,
    chunk: Vec<u8>,
    unpacker: zstd::bulk::Decompressor<'static>,
}

impl ExtentsReader {
    /// Reads the header.
    pub fn new(source: &mut dyn Read) -> Result<Self, ExtentsError> {
        let mut bytes = [0; HEADER];
        source.read_exact(&mut bytes)?;
        if bytes[..8] != MAGIC {
            return invalid(format!("it begins with {}", hex::encode(&bytes[..8])));
        }
        let disk_bytes = u64_of(&bytes[8..16]);
        let chunk = u32::from_be_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
        if chunk as usize != CHUNK {
            return invalid(format!("its chunks have {chunk} bytes, not {CHUNK}"));
        }
        if disk_bytes == 0 {
            return invalid("its disk has 0 bytes");
        }
        let (algorithm, length) = match bytes[20] {
            1 => (ChecksumAlgorithm::Sha256, HASH),
            2 => (ChecksumAlgorithm::Sha512, CHECKSUM),
            other => return invalid(format!("the checksum type {other} is not known")),
        };
        let hex = hex::encode(&bytes[21..21 + length]);
        let source = Checksum::new(algorithm, &hex).map_err(|e| ExtentsError::Invalid(e.to_string()))?;
        Ok(Self {
            header: Header { disk_bytes, source },
            next: 0,
            chunks: 0,
            stored: Vec::new(),
            chunk: Vec::new(),
            unpacker: zstd::bulk::Decompressor::new()?,
        })
    }

    /// What the stream begins with.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next chunk, or the end. After the end nothing may be asked for.
    pub fn next(&mut self, source: &mut dyn Read) -> Result<Item<'_>, ExtentsError> {
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(self.header.disk_bytes.min(CHUNK as u64) as usize, 0);
        let next = self.next_into(source, &mut chunk);
        self.chunk = chunk;
        match next? {
            Next::Chunk { number, offset, length, sha256 } => {
                let data = &self.chunk[..length];
                check_chunk(number, data, &sha256)?;
                Ok(Item::Chunk { offset, data })
            }
            Next::End { content_sha256 } => Ok(Item::End { content_sha256: hex::encode(content_sha256) }),
        }
    }

    /// The same into a buffer of [`CHUNK`] bytes, but the chunk's hash is not compared: for [`check_chunk`], elsewhere.
    pub(crate) fn next_into(
        &mut self,
        source: &mut dyn Read,
        chunk: &mut [u8],
    ) -> Result<Next, ExtentsError> {
        let mut bytes = [0; 8];
        source.read_exact(&mut bytes)?;
        let number = u64::from_be_bytes(bytes);
        if number == END {
            return self.end(source);
        }
        let offset = number.checked_mul(CHUNK as u64).filter(|offset| *offset < self.header.disk_bytes);
        let Some(offset) = offset.filter(|_| number >= self.next) else {
            let size = self.header.disk_bytes;
            return invalid(format!("chunk {number} after {} chunks of a disk of {size} bytes", self.chunks));
        };
        let mut word = [0; 4];
        source.read_exact(&mut word)?;
        let mut sha256 = [0; HASH];
        source.read_exact(&mut sha256)?;
        let word = u32::from_be_bytes(word);
        let (plain, stored) = (word & PLAIN != 0, (word & !PLAIN) as usize);
        let length = (self.header.disk_bytes - offset).min(CHUNK as u64) as usize;
        if stored > length || stored == 0 || (plain && stored != length) {
            return invalid(format!("chunk {number} is stored in {stored} bytes"));
        }
        let chunk = chunk.get_mut(..length).ok_or_else(|| io::Error::other("no room for a chunk"))?;
        if plain {
            source.read_exact(chunk)?;
        } else {
            self.stored.resize(stored, 0);
            source.read_exact(&mut self.stored)?;
            let got = self
                .unpacker
                .decompress_to_buffer(&self.stored[..], chunk)
                .map_err(|e| ExtentsError::Invalid(format!("chunk {number} cannot be unpacked: {e}")))?;
            if got != length {
                return invalid(format!("chunk {number} unpacks to {got} of {length} bytes"));
            }
        }
        (self.next, self.chunks) = (number + 1, self.chunks + 1);
        Ok(Next::Chunk { number, offset, length, sha256 })
    }

    fn end(&mut self, source: &mut dyn Read) -> Result<Next, ExtentsError> {
        let (mut count, mut content_sha256) = ([0; 8], [0; HASH]);
        source.read_exact(&mut count)?;
        source.read_exact(&mut content_sha256)?;
        let said = u64::from_be_bytes(count);
        if said != self.chunks {
            return invalid(format!("it ends after {} chunks and says {said}", self.chunks));
        }
        Ok(Next::End { content_sha256 })
    }
}

fn invalid<T>(what: impl Into<String>) -> Result<T, ExtentsError> {
    Err(ExtentsError::Invalid(what.into()))
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
