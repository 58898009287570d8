//! Where the image is written to.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileTypeExt, MetadataExt},
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

/// Where cgroups of version 1 are that the block layer counts by.
const BLKIO: &str = "/sys/fs/cgroup/blkio";
/// Where those of version 2 are.
const UNIFIED: &str = "/sys/fs/cgroup";

/// A device held at a rate, for this process and all that it starts, until it is dropped. The kernel's block layer does it
/// (blk-throttle), to each request before it reaches the device: reads, writes, and zeros by their length.
#[derive(Debug)]
pub struct Throttle {
    group: PathBuf,
    /// Where this process was before.
    home: PathBuf,
}

impl Throttle {
    /// Holds a block device at so many bytes a second, reads and writes each. Needs root, and a kernel with the throttle.
    pub fn on(device: &Path, rate: u64) -> Result<Self> {
        let data = fs::metadata(device)?;
        if !data.file_type().is_block_device() {
            return Err("only block devices can be held at a rate".into());
        }
        let number = format!("{}:{}", rustix::fs::major(data.rdev()), rustix::fs::minor(data.rdev()));
        let old = Path::new(BLKIO).join("cgroup.procs").exists();
        let root = Path::new(if old { BLKIO } else { UNIFIED });
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let is_mine =
            |kinds: &str| if old { kinds.split(',').any(|kind| kind == "blkio") } else { kinds.is_empty() };
        let mut own = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let (_, home) =
            own.find(|own| is_mine(own.0)).ok_or("this process has no cgroup for block devices")?;
        let this = Self {
            group: root.join("ferric-bench"),
            home: root.join(home.trim_start_matches('/')).join("cgroup.procs"),
        };
        fs::create_dir(&this.group).map_err(|error| format!("{}: {error}", this.group.display()))?;
        let settings = if old {
            vec![
                ("blkio.throttle.read_bps_device", format!("{number} {rate}")),
                ("blkio.throttle.write_bps_device", format!("{number} {rate}")),
            ]
        } else {
            fs::write(root.join("cgroup.subtree_control"), "+io")?;
            vec![("io.max", format!("{number} rbps={rate} wbps={rate}"))]
        };
        for (file, text) in settings.into_iter().chain([("cgroup.procs", std::process::id().to_string())]) {
            fs::write(this.group.join(file), &text).map_err(|error| format!("{file}, {text}: {error}"))?;
        }
        Ok(this)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // Where nobody is any more nothing is left; a group that stays is said by the next run.
        let _ = fs::write(&self.home, std::process::id().to_string());
        let _ = fs::remove_dir(&self.group);
    }
}
