//! The disks of a server: files or memory, and what power and faults do to them.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferric_image::{BlockDevice, CountingDevice, FileDevice};
use tokio_util::sync::CancellationToken;

use crate::config::DiskMode;
use crate::server::Server;

impl Server {
    /// Opens a disk, by its number.
    pub(crate) fn open_disk(&self, number: usize) -> io::Result<Box<dyn BlockDevice + Send>> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no disk {number}"));
        let disk = self.spec.disks.get(number).ok_or_else(missing)?;
        match self.shared.config.disks {
            DiskMode::File => {
                let folder = self.spec.folder(&self.shared.config);
                fs::create_dir_all(&folder)?;
                let path = folder.join(&disk.file_name);
                // A disk keeps its size for life, also when the fleet is started with another class.
                match fs::metadata(&path) {
                    Ok(found) if found.len() > 0 => Ok(Box::new(FileDevice::open(path)?)),
                    _ => Ok(Box::new(FileDevice::create(path, disk.size_bytes)?)),
                }
            }
            DiskMode::Counting => {
                let device: &CountingDevice = self.counting.get(number).ok_or_else(missing)?;
                Ok(Box::new(device.clone()))
            }
        }
    }

    /// Folder for what the operating system keeps: its part of the disk, in effect. Writing the disk wipes it.
    pub(crate) fn os_folder(&self) -> PathBuf {
        self.spec.folder(&self.shared.config).join("os")
    }
}

/// Whether firmware finds something to boot on the first disk.
pub(crate) async fn check_bootable(server: Arc<Server>) -> Result<(), String> {
    let looked = tokio::task::spawn_blocking(move || {
        let mut device = server.open_disk(0).map_err(|error| error.to_string())?;
        ferric_image::check_bootable(&mut *device).map(drop).map_err(|error| error.to_string())
    });
    looked.await.unwrap_or_else(|error| Err(format!("the disk could not be looked at: {error}")))
}

/// What one boot of the agent may still do to the disks.
#[derive(Debug)]
pub(crate) struct WriteLimits {
    /// Bytes written so far in this boot, over all disks.
    written: AtomicU64,
    /// Writes fail from here on.
    pub(crate) fail_after: Option<u64>,
    /// The agent dies here.
    pub(crate) die_after: Option<u64>,
    /// Told when it does.
    pub(crate) died: CancellationToken,
    /// The power, or the agent, is gone: a thread that still runs must not touch the disk any more.
    pub(crate) gone: CancellationToken,
}

impl WriteLimits {
    pub(crate) fn new(fail_after: Option<u64>, die_after: Option<u64>, gone: CancellationToken) -> Arc<Self> {
        let died = CancellationToken::new();
        Arc::new(Self { written: AtomicU64::new(0), fail_after, die_after, died, gone })
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn powered(&self) -> io::Result<()> {
        if self.gone.is_cancelled() || self.died.is_cancelled() {
            return Err(io::Error::other("the power is gone"));
        }
        Ok(())
    }

    fn write(&self, bytes: u64) -> io::Result<()> {
        self.powered()?;
        let written = self.written.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if self.die_after.is_some_and(|limit| written > limit) {
            self.died.cancel();
            return Err(io::Error::other("the agent died"));
        }
        if self.fail_after.is_some_and(|limit| written > limit) {
            return Err(io::Error::other("simulated write error"));
        }
        Ok(())
    }
}

/// A disk as the agent sees it.
pub(crate) struct AgentDisk {
    inner: Box<dyn BlockDevice + Send>,
    limits: Arc<WriteLimits>,
    /// What the operating system keeps beside the first disk; gone with the first write.
    os_folder: Option<PathBuf>,
}

impl AgentDisk {
    pub(crate) fn open(server: &Server, number: usize, limits: Arc<WriteLimits>) -> io::Result<Self> {
        let os_folder = (number == 0).then(|| server.os_folder());
        Ok(Self { inner: server.open_disk(number)?, limits, os_folder })
    }

    fn before_write(&mut self, bytes: u64) -> io::Result<()> {
        self.limits.write(bytes)?;
        if let Some(folder) = self.os_folder.take() {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl BlockDevice for AgentDisk {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn block_size(&self) -> u32 {
        self.inner.block_size()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.limits.powered()?;
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.before_write(data.len() as u64)?;
        self.inner.write_at(offset, data)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.before_write(length)?;
        self.inner.write_zeroes(offset, length)
    }

    fn deallocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.before_write(length)?;
        self.inner.deallocate(offset, length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.limits.powered()?;
        self.inner.sync()
    }

    fn drop_caches(&mut self) -> io::Result<()> {
        self.limits.powered()?;
        self.inner.drop_caches()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ferric_image::MemDevice;

    use super::*;

    fn disk(limits: &Arc<WriteLimits>) -> AgentDisk {
        AgentDisk { inner: Box::new(MemDevice::new(1 << 20)), limits: Arc::clone(limits), os_folder: None }
    }

    #[test]
    fn nothing_is_written_after_the_power_is_gone() {
        let limits = WriteLimits::new(None, None, CancellationToken::new());
        let mut disk = disk(&limits);
        disk.write_at(0, &[1; 512]).unwrap();
        limits.gone.cancel();
        assert!(disk.write_at(512, &[1; 512]).is_err());
        assert!(disk.read_at(0, &mut [0; 512]).is_err());
    }

    #[test]
    fn faults_come_after_so_many_bytes() {
        let limits = WriteLimits::new(Some(1024), None, CancellationToken::new());
        let mut failing = disk(&limits);
        failing.write_at(0, &[1; 1024]).unwrap();
        assert!(failing.write_at(1024, &[1; 1]).is_err());
        let limits = WriteLimits::new(None, Some(1024), CancellationToken::new());
        let mut dying = disk(&limits);
        dying.write_zeroes(0, 1024).unwrap();
        assert!(!limits.died.is_cancelled());
        assert!(dying.write_zeroes(0, 1).is_err());
        assert!(limits.died.is_cancelled());
    }

    #[test]
    fn the_first_write_takes_what_the_operating_system_kept() {
        let kept = tempfile::tempdir().unwrap();
        let folder = kept.path().join("os");
        fs::create_dir(&folder).unwrap();
        let limits = WriteLimits::new(None, None, CancellationToken::new());
        let mut disk = disk(&limits);
        disk.os_folder = Some(folder.clone());
        disk.read_at(0, &mut [0; 512]).unwrap();
        assert!(folder.exists());
        disk.write_zeroes(0, 512).unwrap();
        assert!(!folder.exists());
    }
}
