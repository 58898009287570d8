//! A real disk, past the page cache.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

use super::{
    BlockDevice, FileDevice,
    aligned::{ALIGN, Aligned, is_aligned, split},
    check_range,
};

/// What is not aligned in memory is copied in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// A block device that is written and read with `O_DIRECT`: what is read back comes from the disk, and memory does not
/// fill with what is still to be written. Blocks that are only partly written go through the page cache, as does nothing
/// else. Opened exclusively, so a disk in use (mounted, part of an array) is refused. A regular file works as well, if
/// its filesystem does.
#[derive(Debug)]
pub struct DirectDisk {
    direct: File,
    /// For zeros, for parts of blocks, and for what is to be known about the disk.
    cached: FileDevice,
    align: usize,
    bounce: Aligned,
}

impl DirectDisk {
    /// Opens a disk such as `/dev/sda` for reading and writing.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let cached = FileDevice::open_exclusively(path)?;
        let flags = i32::try_from((OFlags::DIRECT | OFlags::CLOEXEC).bits()).map_err(io::Error::other)?;
        let direct = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        let align = ALIGN.max(cached.block_size() as usize);
        // Room for a piece that begins and ends in the middle of a block.
        let bounce = Aligned::zeroed(PIECE.next_multiple_of(align) + 2 * align);
        Ok(Self { direct, cached, align, bounce })
    }

    /// Whether the kernel takes this memory and this place as they are.
    fn fits(&self, offset: u64, memory: &[u8]) -> bool {
        let align = self.align as u64;
        is_aligned(memory, self.align)
            && offset.is_multiple_of(align)
            && (memory.len() as u64).is_multiple_of(align)
    }

    /// Reads a piece through aligned memory.
    fn read_piece(&mut self, offset: u64, wanted: &mut [u8]) -> io::Result<()> {
        let align = self.align as u64;
        let start = offset - offset % align;
        let skip = (offset - start) as usize;
        let end = (offset + wanted.len() as u64).next_multiple_of(align);
        let room = self.bounce.get_mut(..(end - start) as usize);
        let room = room.ok_or_else(|| io::Error::other("no aligned memory"))?;
        let mut filled = 0;
        // A disk whose size is no multiple of the alignment ends early.
        while filled < skip + wanted.len() {
            match self.direct.read_at(&mut room[filled..], start + filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        wanted.copy_from_slice(&room[skip..skip + wanted.len()]);
        Ok(())
    }

    /// Writes whole blocks.
    fn write_blocks(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.fits(offset, data) {
            return self.direct.write_all_at(data, offset);
        }
        let mut at = offset;
        for piece in data.chunks(PIECE.next_multiple_of(self.align)) {
            let room = self.bounce.get_mut(..piece.len());
            let room = room.ok_or_else(|| io::Error::other("no aligned memory"))?;
            room.copy_from_slice(piece);
            self.direct.write_all_at(room, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}

impl BlockDevice for DirectDisk {
    fn size(&self) -> u64 {
        self.cached.size()
    }

    fn block_size(&self) -> u32 {
        self.cached.block_size()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buffer.len() as u64)?;
        if self.fits(offset, buffer) {
            return self.direct.read_exact_at(buffer, offset);
        }
        let mut at = offset;
        for piece in buffer.chunks_mut(PIECE) {
            let length = piece.len() as u64;
            self.read_piece(at, piece)?;
            at += length;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_range(self.size(), offset, data.len() as u64)?;
        let [before, between, behind] = split(offset, data.len() as u64, self.align as u64);
        let part = |range: &Range<u64>| &data[(range.start - offset) as usize..(range.end - offset) as usize];
        self.cached.write_at(before.start, part(&before))?;
        if !between.is_empty() {
            self.write_blocks(between.start, part(&between))?;
        }
        self.cached.write_at(behind.start, part(&behind))
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.cached.write_zeroes(offset, length)
    }

    fn punch_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.cached.punch_zeroes(offset, length)
    }

    fn deallocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.cached.deallocate(offset, length)
    }

    fn sync(&mut self) -> io::Result<()> {
        // Of the same device or file, whichever of its descriptors was written to.
        self.cached.sync()
    }

    fn drop_caches(&mut self) -> io::Result<()> {
        // Direct reads do not see the cache; this only gives memory back.
        self.cached.drop_caches()
    }
}
