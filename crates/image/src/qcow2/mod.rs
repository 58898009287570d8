//! Reads qcow2 images, versions 2 and 3: clusters that are plain, zero, absent, or compressed with deflate or zstd.
//!
//! Everything that the file says is checked before it is believed, and nothing is allocated beyond a table of 32 MiB, two
//! clusters of 2 MiB and one second-level table. What would make the content wrong if it were passed over is refused with
//! a sentence: backing files, external data files, encryption, unknown features. Internal snapshots are not looked at:
//! the image is its active state. Reference counts are not looked at: nothing is written.

mod cluster;
mod error;
mod header;
#[cfg(test)]
mod tests;

use std::{fs::File, io, os::unix::fs::FileExt};

pub use error::Qcow2Error;
use error::invalid;
use header::Header;
pub use header::MAGIC;

/// Bits of an entry that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// "This is the only reference": of no interest to a reader.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// A file of which any part can be read.
pub trait ReadAt: Send {
    /// Its size.
    fn size(&self) -> u64;

    /// Fills the buffer from this offset on, or fails.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = start.checked_add(buffer.len()).and_then(|end| self.get(start..end));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file whose size was taken when it was opened.
#[derive(Debug)]
pub struct SizedFile {
    file: File,
    size: u64,
}

impl SizedFile {
    /// Takes the size of the file.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl ReadAt for SizedFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

fn read(source: &dyn ReadAt, offset: u64, buffer: &mut [u8]) -> Result<(), Qcow2Error> {
    let length = buffer.len() as u64;
    source.read_at(offset, buffer).map_err(|source| Qcow2Error::Io { offset, length, source })
}

/// What a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cluster {
    /// Absent, or said to be zeros.
    Zero,
    Plain {
        offset: u64,
    },
    Compressed {
        offset: u64,
        length: u64,
    },
}

/// A qcow2 image that is being read.
pub struct Qcow2 {
    source: Box<dyn ReadAt>,
    header: Header,
    l1: Vec<u64>,
    /// The second-level table that was used last, and its number.
    l2: Option<(u64, Vec<u64>)>,
    /// The compressed cluster that was unpacked last, and its number: a caller may read it in pieces.
    unpacked: Option<(u64, Vec<u8>)>,
}

impl Qcow2 {
    /// Reads header and first-level table. An image that unpacks to more than `max_bytes` is refused.
    pub fn open(source: impl ReadAt + 'static, max_bytes: u64) -> Result<Self, Qcow2Error> {
        let header = Header::read(&source, max_bytes)?;
        let mut bytes = vec![0; header.l1_entries as usize * 8];
        read(&source, header.l1_offset, &mut bytes)?;
        let l1 = entries(&bytes);
        Ok(Self { source: Box::new(source), header, l1, l2: None, unpacked: None })
    }

    /// Size of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.header.size
    }

    /// The first byte at or behind `from` that is not certainly zero, or the size of the disk.
    pub fn next_data(&mut self, from: u64) -> Result<u64, Qcow2Error> {
        let (cluster, per_table) = (self.header.cluster(), self.header.l2_entries());
        let mut number = from / cluster;
        while number * cluster < self.header.size {
            if self.l1.get((number / per_table) as usize).is_none_or(|entry| entry & OFFSET == 0) {
                // Checked all the same: a table that is not there must not be said to be compressed.
                self.cluster(number)?;
                number = (number / per_table + 1) * per_table;
            } else if self.cluster(number)? == Cluster::Zero {
                number += 1;
            } else {
                return Ok(from.max(number * cluster));
            }
        }
        Ok(self.header.size)
    }

    /// Fills the buffer with the disk's bytes from `offset` on. The range must lie within the disk.
    pub fn read_at(&mut self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Qcow2Error> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.header.size) {
            return invalid(format!("{} bytes at {offset} were asked for behind its end", buffer.len()));
        }
        let cluster = self.header.cluster();
        while !buffer.is_empty() {
            let (number, within) = (offset / cluster, offset % cluster);
            let length = (cluster - within).min(buffer.len() as u64);
            let (part, rest) = buffer.split_at_mut(length as usize);
            match self.cluster(number)? {
                Cluster::Zero => part.fill(0),
                Cluster::Plain { offset } => read(&*self.source, offset + within, part)?,
                Cluster::Compressed { offset, length } => {
                    let unpacked = self.unpack(number, offset, length)?;
                    part.copy_from_slice(&unpacked[within as usize..][..part.len()]);
                }
            }
            offset += length;
            buffer = rest;
        }
        Ok(())
    }

    fn unpack(&mut self, number: u64, offset: u64, length: u64) -> Result<&[u8], Qcow2Error> {
        let known = self.unpacked.take().filter(|(at, _)| *at == number);
        let unpacked = match known {
            Some((_, unpacked)) => unpacked,
            None => {
                let mut packed = vec![0; length as usize];
                read(&*self.source, offset, &mut packed)?;
                cluster::unpack(self.header.packing, &packed, self.header.cluster() as usize).map_err(
                    |why| Qcow2Error::Invalid(format!("the compressed cluster {number} at {offset}: {why}")),
                )?
            }
        };
        Ok(&self.unpacked.insert((number, unpacked)).1)
    }

    /// What the cluster of this number is. It must lie within the disk.
    fn cluster(&mut self, number: u64) -> Result<Cluster, Qcow2Error> {
        let per_table = self.header.l2_entries();
        let table = number / per_table;
        let entry = self.l1.get(table as usize).copied().unwrap_or_default();
        if entry & !(OFFSET | COPIED) != 0 {
            return invalid(format!("entry {table} of its first table is {entry:#x}"));
        }
        let offset = entry & OFFSET;
        if offset == 0 {
            return Ok(Cluster::Zero);
        }
        if self.l2.as_ref().is_none_or(|(known, _)| *known != table) {
            let mut bytes = vec![0; self.header.cluster() as usize];
            self.check_place("table", table, offset, bytes.len() as u64)?;
            read(&*self.source, offset, &mut bytes)?;
            self.l2 = Some((table, entries(&bytes)));
        }
        let within = (number % per_table) as usize;
        let entry = self.l2.as_ref().and_then(|(_, table)| table.get(within).copied()).unwrap_or_default();
        self.entry(number, entry)
    }

    fn entry(&self, number: u64, entry: u64) -> Result<Cluster, Qcow2Error> {
        if entry & COMPRESSED != 0 {
            return self.compressed(number, entry);
        }
        let zero = if self.header.version >= 3 { ZERO } else { 0 };
        if entry & !(OFFSET | COPIED | zero) != 0 {
            return invalid(format!("the entry of cluster {number} is {entry:#x}"));
        }
        let offset = entry & OFFSET;
        if entry & zero != 0 || offset == 0 {
            return Ok(Cluster::Zero);
        }
        let cluster = self.header.cluster();
        // The last cluster need not be there behind the disk's end.
        let length = cluster.min(self.header.size.saturating_sub(number * cluster));
        self.check_place("cluster", number, offset, length)?;
        Ok(Cluster::Plain { offset })
    }

    fn compressed(&self, number: u64, entry: u64) -> Result<Cluster, Qcow2Error> {
        if entry & COPIED != 0 {
            return invalid(format!("the entry of cluster {number} is {entry:#x}"));
        }
        let bits = 62 - (self.header.cluster_bits - 8);
        let offset = entry & ((1 << bits) - 1);
        let sectors = ((entry & (COMPRESSED - 1)) >> bits) + 1;
        let there = self.source.size();
        if offset >= there {
            return invalid(format!(
                "the compressed cluster {number} at {offset} is behind the file's {there} bytes"
            ));
        }
        // The length is counted in sectors, the file need not end with one.
        let length = (sectors * 512 - offset % 512).min(there - offset);
        Ok(Cluster::Compressed { offset, length })
    }

    fn check_place(&self, what: &str, number: u64, offset: u64, length: u64) -> Result<(), Qcow2Error> {
        if !offset.is_multiple_of(self.header.cluster()) {
            return invalid(format!("the {what} {number} is at {offset}, not at a cluster"));
        }
        let there = self.source.size();
        match offset.checked_add(length) {
            Some(end) if end <= there => Ok(()),
            _ => invalid(format!("the {what} {number} at {offset} is behind the file's {there} bytes")),
        }
    }
}

fn entries(bytes: &[u8]) -> Vec<u64> {
    let number = |b: &[u8]| u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    bytes.chunks_exact(8).map(number).collect()
}
