//! A file or a real disk.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::{Advice, OFlags, fadvise, fallocate, ioctl_blksszget};

use super::{
    BlockDevice,
    aligned::split,
    check_range,
    zeros::{After, Way, Ways, after},
};

/// Zeros are written by hand in steps of this size, where the system has no better way.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A regular file or a block device of the system.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    size: u64,
    block_size: u32,
    /// What must be aligned for the system to make zeros: a disk's logical blocks, single bytes of a file.
    zero_align: u64,
    /// A file's holes read as zeros and hide nothing that was there.
    always_unmap: bool,
    ways: Ways,
}

impl FileDevice {
    /// Opens for reading and writing.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_file(OpenOptions::new().read(true).write(true).open(path)?)
    }

    /// The same, but a disk in use (mounted, part of an array, or opened like this by another) is refused.
    pub(super) fn open_exclusively(path: &Path) -> io::Result<Self> {
        // O_EXCL without O_CREAT on a block device: open(2), "if the block device is in use by the system, EBUSY". Who
        // makes zeros must be the one who has the device for itself: from others blkdev_fallocate (Linux, block/fops.c)
        // takes no range of which a part is still to be written by the page cache.
        let flags = i32::try_from((OFlags::EXCL | OFlags::CLOEXEC).bits()).map_err(io::Error::other)?;
        Self::from_file(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?)
    }

    /// Makes a sparse file of `size` bytes, or gives an existing one that size, and opens it.
    pub fn create(path: impl AsRef<Path>, size: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(size)?;
        Self::from_file(file)
    }

    fn from_file(file: File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        let (block_size, zero_align) = if kind.is_block_device() {
            let size = ioctl_blksszget(&file)?;
            (size, u64::from(size).max(1))
        } else if kind.is_file() {
            (512, 1)
        } else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a regular file nor a block device",
            ));
        };
        // The end of a block device is where seeking says it is; its metadata say 0.
        let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
        let always_unmap = kind.is_file();
        Ok(Self { file, size, block_size, zero_align, always_unmap, ways: Ways::default() })
    }

    fn zero(&mut self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        check_range(self.size, offset, length)?;
        let may_unmap = may_unmap || self.always_unmap;
        let [before, between, behind] = split(offset, length, self.zero_align);
        self.write_by_hand(before)?;
        self.zero_aligned(between, may_unmap)?;
        self.write_by_hand(behind)
    }

    /// The same for whole blocks.
    fn zero_aligned(&mut self, range: Range<u64>, may_unmap: bool) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut tried = None;
        loop {
            let way = self.ways.best(may_unmap, tried);
            let Some(flags) = way.flags() else { return self.write_by_hand(range) };
            match fallocate(&self.file, flags, range.start, range.end - range.start)
                .map_err(|e| (e, after(e)))
            {
                Ok(()) => return Ok(()),
                Err((_, After::Again)) => {}
                Err((_, After::Next)) => tried = Some(way),
                Err((_, After::Never)) => self.ways.refuse(way),
                Err((error, After::Fail)) => return Err(error.into()),
            }
        }
    }

    fn write_by_hand(&self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let step = (range.end - at).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..step as usize], at)?;
            at += step;
        }
        Ok(())
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
        self.zero(offset, length, false)
    }

    fn punch_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(offset, length, true)
    }

    fn deallocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        check_range(self.size, offset, length)?;
        if length == 0 {
            return Ok(());
        }
        let Some(flags) = Way::Punch.flags() else { return Err(io::ErrorKind::Unsupported.into()) };
        loop {
            match fallocate(&self.file, flags, offset, length).map_err(|e| (e, after(e))) {
                Ok(()) => return Ok(()),
                Err((_, After::Again)) => {}
                Err((_, After::Next | After::Never)) => return Err(io::ErrorKind::Unsupported.into()),
                Err((error, After::Fail)) => return Err(error.into()),
            }
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn drop_caches(&mut self) -> io::Result<()> {
        Ok(fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }
}
