//! Where the image is written to.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Result, fixture::text};

/// Room behind the image, so that the ends of the disk are elsewhere.
const SPARE: u64 = 16 << 20;

/// A device, or a file where none can be had.
#[derive(Debug)]
pub struct Target {
    pub path: PathBuf,
    /// In words.
    pub what: String,
    /// Keeps the loop device, which ends with its last user.
    _held: File,
}

impl Target {
    /// A device that somebody gives away.
    pub fn given(path: &Path, bytes: u64) -> Result<Self> {
        let held = OpenOptions::new().read(true).write(true).open(path)?;
        let size = std::io::Seek::seek(&mut &held, std::io::SeekFrom::End(0))?;
        if !held.metadata()?.file_type().is_block_device() || size < bytes {
            return Err(format!("{} is not a block device of {bytes} bytes or more", path.display()).into());
        }
        Ok(Self { path: path.to_owned(), what: format!("the block device {}", path.display()), _held: held })
    }

    /// A loop device on a file beside the image that bypasses the page cache below it; else that file itself.
    pub fn make(folder: &Path, bytes: u64) -> Result<Self> {
        let file = folder.join("device");
        let _ = fs::remove_file(&file);
        let backing = OpenOptions::new().read(true).write(true).create_new(true).open(&file)?;
        rustix::fs::fallocate(&backing, rustix::fs::FallocateFlags::empty(), 0, bytes + SPARE)?;
        match loop_device(&file) {
            Ok((path, held)) => {
                // Whatever happens now: with the last descriptor device and file are gone.
                fs::remove_file(&file)?;
                let what = "a loop device (direct I/O, no page cache below it) on a file".to_owned();
                Ok(Self { path, what, _held: held })
            }
            Err(why) => {
                let what = format!("a file, for want of a loop device ({why}), by the tools with O_DIRECT");
                Ok(Self { path: file, what, _held: backing })
            }
        }
    }
}

fn loop_device(file: &Path) -> Result<(PathBuf, File)> {
    let out = Command::new("losetup").args(["--find", "--show", "--direct-io=on", text(file)]).output()?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).trim().into());
    }
    let path = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
    let held = OpenOptions::new().read(true).write(true).open(&path);
    // Detached as soon as nobody has it open any more: we do, until we end.
    Command::new("losetup").args(["--detach", text(&path)]).status()?;
    Ok((path, held?))
}
