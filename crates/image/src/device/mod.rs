//! Block devices. One small trait, so that the pipeline cannot tell a disk from its doubles.

pub(crate) mod aligned;
mod counting;
mod direct;
mod faulty;
mod file;
mod memory;
mod region;
mod zeros;

use std::{io, ops::Range};

pub use counting::{BlockStore, CountingDevice, DeviceCounts};
pub use direct::DirectDisk;
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

    /// Makes the range read as zeros. What was there is overwritten as far as the device does that when it is told to
    /// keep the blocks allocated.
    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes the range read as zeros, by the cheapest way that guarantees it: the device may give the blocks up, if they
    /// then do read as zeros. Nothing is said about what stays in its cells, so this is for images, not for wiping.
    fn punch_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length)
    }

    /// Has the device deallocate the range so that it reads as zeros (TRIM, UNMAP, NVMe Write Zeroes with deallocation),
    /// by the device alone: nothing is written where it cannot, which is the error `Unsupported`.
    fn deallocate(&mut self, _offset: u64, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

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
    fn punch_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        (**self).punch_zeroes(offset, length)
    }
    fn deallocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        (**self).deallocate(offset, length)
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

/// A run of bytes that are all zero, or a run of pieces that are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// Where in the data.
    pub(crate) range: Range<usize>,
    /// Whether all of it is zero.
    pub(crate) zero: bool,
}

/// Cuts `data` into runs, in pieces of `step` bytes. Two neighbours are never of the same kind.
pub(crate) fn runs(data: &[u8], step: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for piece in data.chunks(step) {
        let (zero, start) = (is_zero(piece), runs.last().map_or(0, |run| run.range.end));
        match runs.last_mut() {
            Some(last) if last.zero == zero => last.range.end += piece.len(),
            _ => runs.push(Run { range: start..start + piece.len(), zero }),
        }
    }
    runs
}

/// Writes `data`, its runs of zeros by [`BlockDevice::punch_zeroes`].
pub(crate) fn write_sparse(
    device: &mut dyn BlockDevice,
    offset: u64,
    data: &[u8],
    step: usize,
) -> io::Result<()> {
    for Run { range, zero } in runs(data, step) {
        let at = offset + range.start as u64;
        if zero {
            device.punch_zeroes(at, range.len() as u64)?;
        } else {
            device.write_at(at, &data[range])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
