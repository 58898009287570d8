//! A part of a disk as a stream, for code that wants `Read + Write + Seek`.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::{BlockDevice, check_range};

/// `length` bytes of a disk from `start`, with a position.
pub struct Region<'a> {
    device: &'a mut dyn BlockDevice,
    start: u64,
    length: u64,
    position: u64,
}

impl<'a> Region<'a> {
    /// A part of a disk; refuses one that does not lie within it.
    pub fn new(device: &'a mut dyn BlockDevice, start: u64, length: u64) -> io::Result<Self> {
        check_range(device.size(), start, length)?;
        Ok(Self { device, start, length, position: 0 })
    }

    /// How much of a buffer of `wanted` bytes there is room for at the position.
    fn room(&self, wanted: usize) -> usize {
        self.length.saturating_sub(self.position).min(wanted as u64) as usize
    }
}

impl Read for Region<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.room(buffer.len());
        if count > 0 {
            self.device.read_at(self.start + self.position, &mut buffer[..count])?;
            self.position += count as u64;
        }
        Ok(count)
    }
}

impl Write for Region<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.room(data.len());
        if count > 0 {
            self.device.write_at(self.start + self.position, &data[..count])?;
            self.position += count as u64;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Region<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "seek before the start of the region")
        })?;
        Ok(self.position)
    }
}
