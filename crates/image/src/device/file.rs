//! A file or a real disk.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, FileTypeExt},
    path::Path,
};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, ioctl_blksszget};

use super::{BlockDevice, check_range};

/// Zeros are written by hand in steps of this size, where the system has no better way.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A regular file or a block device of the system.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    size: u64,
    block_size: u32,
    /// How to make zeros, best first; a way that the system refuses is not tried again.
    zero_ways: Vec<FallocateFlags>,
}

impl FileDevice {
    /// Opens for reading and writing.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_file(OpenOptions::new().read(true).write(true).open(path)?)
    }

    /// Makes a sparse file of `size` bytes, or gives an existing one that size, and opens it.
    pub fn create(path: impl AsRef<Path>, size: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(size)?;
        Self::from_file(file)
    }

    fn from_file(file: File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        let keep = FallocateFlags::KEEP_SIZE;
        let (block_size, zero_ways) = if kind.is_block_device() {
            // On a disk ZERO_RANGE is the write-zeroes command (or the kernel's own writing of zeros): never a mere
            // discard, whose blocks may read as anything.
            (ioctl_blksszget(&file)?, vec![FallocateFlags::ZERO_RANGE | keep])
        } else if kind.is_file() {
            (512, vec![FallocateFlags::PUNCH_HOLE | keep, FallocateFlags::ZERO_RANGE | keep])
        } else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a regular file nor a block device",
            ));
        };
        // The end of a block device is where seeking says it is; its metadata say 0.
        let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
        Ok(Self { file, size, block_size, zero_ways })
    }
}

impl BlockDevice for FileDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buffer.len() as u64)?;
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_range(self.size, offset, data.len() as u64)?;
        self.file.write_all_at(data, offset)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        check_range(self.size, offset, length)?;
        if length == 0 {
            return Ok(());
        }
        while let Some(way) = self.zero_ways.first() {
            match fallocate(&self.file, *way, offset, length) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                // A range that is not aligned to blocks is not a reason to give the way up.
                Err(rustix::io::Errno::INVAL) => break,
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                    self.zero_ways.remove(0);
                }
                Err(other) => return Err(other.into()),
            }
        }
        let mut at = offset;
        let end = offset + length;
        while at < end {
            let step = (end - at).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..step as usize], at)?;
            at += step;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn drop_caches(&mut self) -> io::Result<()> {
        Ok(fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }
}
