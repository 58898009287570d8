//! Block devices. One small trait, so that the pipeline cannot tell a disk from its doubles.

mod counting;
mod faulty;
mod file;
mod memory;
mod region;

use std::io;

pub use counting::{BlockStore, CountingDevice, DeviceCounts};
pub use faulty::{Faults, FaultyDevice};
pub use file::FileDevice;
pub use memory::MemDevice;
pub use region::Region;

/// A disk. All offsets and lengths are in bytes and must lie within [`size`](BlockDevice::size).
pub trait BlockDevice: Send {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Logical block size: what the partition table counts in.
    fn block_size(&self) -> u32 {
        512
    }

    /// Fills `buffer`, or fails.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data`, or fails.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes the range read as zeros, by the cheapest way that guarantees it.
    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()>;

    /// Returns when everything written is on stable storage.
    fn sync(&mut self) -> io::Result<()>;

    /// Forgets cached contents, so that the next read comes from the device. Called after [`sync`](BlockDevice::sync).
    fn drop_caches(&mut self) -> io::Result<()>;
}

impl<D: BlockDevice + ?Sized> BlockDevice for Box<D> {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn block_size(&self) -> u32 {
        (**self).block_size()
    }
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buffer)
    }
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, data)
    }
    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        (**self).write_zeroes(offset, length)
    }
    fn sync(&mut self) -> io::Result<()> {
        (**self).sync()
    }
    fn drop_caches(&mut self) -> io::Result<()> {
        (**self).drop_caches()
    }
}

/// Refuses a range that does not lie within the device.
pub(crate) fn check_range(size: u64, offset: u64, length: u64) -> io::Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{length} bytes at {offset} do not lie within a device of {size} bytes"),
        )),
    }
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    // Word by word through a fold without an early exit inside a chunk: the compiler vectorises it.
    data.chunks(4096).all(|chunk| chunk.iter().fold(0u8, |all, byte| all | byte) == 0)
}

/// Writes `data`, its runs of zeros by [`BlockDevice::write_zeroes`].
pub(crate) fn write_sparse(
    device: &mut dyn BlockDevice,
    offset: u64,
    data: &[u8],
    step: usize,
) -> io::Result<()> {
    let mut start = 0;
    while start < data.len() {
        let zero = is_zero(block(data, start, step));
        let mut end = start;
        while end < data.len() && is_zero(block(data, end, step)) == zero {
            end += block(data, end, step).len();
        }
        let run = &data[start..end];
        if zero {
            device.write_zeroes(offset + start as u64, run.len() as u64)?;
        } else {
            device.write_at(offset + start as u64, run)?;
        }
        start = end;
    }
    Ok(())
}

fn block(data: &[u8], start: usize, step: usize) -> &[u8] {
    &data[start..data.len().min(start + step)]
}

#[cfg(test)]
mod tests;
