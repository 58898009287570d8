//! A real disk, read past the page cache.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::Path,
};

use ferric_image::{BlockDevice, FileDevice};
use rustix::fs::OFlags;

/// Direct reads begin, end and lie in memory at multiples of this: no disk has larger logical blocks.
const ALIGN: u64 = 4096;
/// How much is read from the disk at once.
const PIECE: usize = 1 << 20;

/// A block device that is written through the page cache and read with `O_DIRECT`: what is read back comes from the
/// disk. Opened exclusively, so a disk in use (mounted, part of an array) is refused.
pub(super) struct DirectDisk {
    writer: FileDevice,
    reader: File,
    /// Longer than a piece, so that an aligned one lies in it.
    bounce: Vec<u8>,
}

impl DirectDisk {
    /// Opens a disk such as `/dev/sda`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = |flags: OFlags| i32::try_from(flags.bits()).unwrap_or(0);
        // O_EXCL without O_CREAT on a block device: open(2), "if the block device is in use by the system, EBUSY".
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(flags(OFlags::DIRECT | OFlags::EXCL | OFlags::CLOEXEC))
            .open(path)?;
        if !reader.metadata()?.file_type().is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a block device"));
        }
        Ok(Self { writer: FileDevice::open(path)?, reader, bounce: vec![0; PIECE + ALIGN as usize] })
    }

    /// Reads what lies between two aligned offsets of at most a piece; hands the part that was asked for to `take`.
    fn read_piece(&mut self, offset: u64, wanted: &mut [u8]) -> io::Result<()> {
        let start = offset / ALIGN * ALIGN;
        let end = (offset + wanted.len() as u64).div_ceil(ALIGN) * ALIGN;
        let shift = self.bounce.as_ptr().align_offset(ALIGN as usize);
        let room = self
            .bounce
            .get_mut(shift..shift + usize::try_from(end - start).map_err(io::Error::other)?)
            .ok_or_else(|| io::Error::other("no aligned memory"))?;
        let mut filled = 0;
        let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
        // A disk whose size is no multiple of the alignment ends early.
        while filled < skip + wanted.len() {
            match self.reader.read_at(&mut room[filled..], start + filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        wanted.copy_from_slice(&room[skip..skip + wanted.len()]);
        Ok(())
    }
}

impl BlockDevice for DirectDisk {
    fn size(&self) -> u64 {
        self.writer.size()
    }

    fn block_size(&self) -> u32 {
        self.writer.block_size()
    }

    fn read_at(&mut self, mut offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        // A piece that begins unaligned spans one alignment more.
        for piece in buffer.chunks_mut(PIECE - ALIGN as usize) {
            let length = piece.len() as u64;
            self.read_piece(offset, piece)?;
            offset += length;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writer.write_at(offset, data)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.writer.write_zeroes(offset, length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.writer.sync()
    }

    fn drop_caches(&mut self) -> io::Result<()> {
        // Direct reads do not see the cache; this only gives memory back.
        self.writer.drop_caches()
    }
}
