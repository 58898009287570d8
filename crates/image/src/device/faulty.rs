//! A disk that fails on purpose.

use std::io;

use super::BlockDevice;

/// What goes wrong, and where. The default is nothing.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Writes (of data or zeros) that touch this byte fail.
    pub fail_write_at: Option<u64>,
    /// Reads that touch this byte fail.
    pub fail_read_at: Option<u64>,
    /// This bit is flipped in what is read from then on, once the caches are dropped: the disk stored it wrongly, and
    /// only the page cache knew better. (byte offset, bit number)
    pub flip: Option<(u64, u8)>,
    /// `write_zeroes` and `punch_zeroes` say they did and do nothing: a discard that does not read back as zeros.
    pub lose_zeroes: bool,
    /// Writes that touch this byte are lost without an error.
    pub lose_write_at: Option<u64>,
    /// `sync` fails.
    pub fail_sync: bool,
}

/// A disk that behaves like `D`, except for its [`Faults`].
#[derive(Debug)]
pub struct FaultyDevice<D> {
    inner: D,
    faults: Faults,
    caches_dropped: bool,
}

impl<D: BlockDevice> FaultyDevice<D> {
    /// Wraps a disk.
    pub fn new(inner: D, faults: Faults) -> Self {
        Self { inner, faults, caches_dropped: false }
    }
}

fn touches(fault: Option<u64>, offset: u64, length: u64) -> bool {
    fault.is_some_and(|at| (offset..offset.saturating_add(length)).contains(&at))
}

impl<D: BlockDevice> BlockDevice for FaultyDevice<D> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn block_size(&self) -> u32 {
        self.inner.block_size()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if touches(self.faults.fail_read_at, offset, buffer.len() as u64) {
            return Err(io::Error::other("injected read fault"));
        }
        self.inner.read_at(offset, buffer)?;
        if let Some((at, bit)) = self.faults.flip
            && self.caches_dropped
            && touches(Some(at), offset, buffer.len() as u64)
        {
            buffer[(at - offset) as usize] ^= 1 << (bit % 8);
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if touches(self.faults.fail_write_at, offset, data.len() as u64) {
            return Err(io::Error::other("injected write fault"));
        }
        if touches(self.faults.lose_write_at, offset, data.len() as u64) {
            return Ok(());
        }
        self.inner.write_at(offset, data)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if touches(self.faults.fail_write_at, offset, length) {
            return Err(io::Error::other("injected write fault"));
        }
        if self.faults.lose_zeroes || touches(self.faults.lose_write_at, offset, length) {
            return Ok(());
        }
        self.inner.write_zeroes(offset, length)
    }

    fn deallocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if self.faults.lose_zeroes {
            return Ok(());
        }
        self.inner.deallocate(offset, length)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.faults.fail_sync {
            return Err(io::Error::other("injected sync fault"));
        }
        self.inner.sync()
    }

    fn drop_caches(&mut self) -> io::Result<()> {
        self.caches_dropped = true;
        self.inner.drop_caches()
    }
}
