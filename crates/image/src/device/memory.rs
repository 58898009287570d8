//! A disk in memory.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{BlockDevice, check_range};

/// A disk in memory, for tests. Clones are handles to the same disk.
#[derive(Debug, Clone)]
pub struct MemDevice {
    content: Arc<Mutex<Vec<u8>>>,
    block_size: u32,
}

impl MemDevice {
    /// A disk of zeros.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self::from_bytes(vec![0; size])
    }

    /// A disk with this content.
    #[must_use]
    pub fn from_bytes(content: Vec<u8>) -> Self {
        Self { content: Arc::new(Mutex::new(content)), block_size: 512 }
    }

    /// The same with another logical block size.
    #[must_use]
    pub fn with_block_size(self, block_size: u32) -> Self {
        Self { block_size, ..self }
    }

    /// A copy of the content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockDevice for MemDevice {
    fn size(&self) -> u64 {
        self.lock().len() as u64
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let content = self.lock();
        check_range(content.len() as u64, offset, buffer.len() as u64)?;
        let start = offset as usize;
        buffer.copy_from_slice(&content[start..start + buffer.len()]);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.lock();
        check_range(content.len() as u64, offset, data.len() as u64)?;
        let start = offset as usize;
        content[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let mut content = self.lock();
        check_range(content.len() as u64, offset, length)?;
        content[offset as usize..(offset + length) as usize].fill(0);
        Ok(())
    }

    fn deallocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn drop_caches(&mut self) -> io::Result<()> {
        Ok(())
    }
}
