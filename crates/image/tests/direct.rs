//! Disks past the page cache: a file of a real filesystem, and a block device where one can be had.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use ferric_image::{BlockDevice, DirectDisk, FileDevice};

/// Said on the terminal itself, not to the harness.
fn skipped(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {why}");
}

/// Beside the build: /tmp may be memory, which knows no direct I/O on older kernels.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

/// Writes, zeros and reads, aligned and not, in pieces larger than any buffer: the disk holds what a model holds, and a
/// reader through the page cache finds the same.
fn agrees_with_memory(disk: &mut DirectDisk, path: &Path) {
    let size = disk.size();
    let mut model = vec![0xa5; size as usize];
    disk.write_at(0, &model).unwrap();
    let mut random = Random(9);
    for round in 0..60 {
        let align = [1, 512, 4096][round % 3];
        let at = random.below(size) / align * align;
        let length = (random.below(3 << 20) / align * align).min(size - at);
        let range = at as usize..(at + length) as usize;
        match random.below(4) {
            0 => {
                disk.write_zeroes(at, length).unwrap();
                model[range].fill(0);
            }
            1 => {
                disk.punch_zeroes(at, length).unwrap();
                model[range].fill(0);
            }
            2 => {
                let mut found = vec![0; length as usize];
                disk.read_at(at, &mut found).unwrap();
                assert!(found == model[range], "round {round}: {length} bytes at {at}");
            }
            _ => {
                model[range.clone()].fill_with(|| random.below(256) as u8);
                disk.write_at(at, &model[range]).unwrap();
            }
        }
    }
    disk.sync().unwrap();
    disk.drop_caches().unwrap();
    let mut found = vec![0; size as usize];
    disk.read_at(0, &mut found).unwrap();
    assert!(found == model);
    FileDevice::open(path).unwrap().read_at(0, &mut found).unwrap();
    assert!(found == model);
    assert!(disk.read_at(size - 1, &mut [0; 2]).is_err());
    assert!(disk.write_at(size, &[0]).is_err());
}

#[test]
fn a_file_holds_what_was_written_past_the_cache() {
    let folder = folder();
    let path = folder.path().join("disk");
    // No multiple of any alignment.
    File::create(&path).unwrap().set_len((9 << 20) + 700).unwrap();
    match DirectDisk::open(&path) {
        Ok(mut disk) => agrees_with_memory(&mut disk, &path),
        Err(error) => skipped("a_file_holds_what_was_written_past_the_cache", &error.to_string()),
    }
}

/// A loop device, which is gone with its last user.
struct Loop {
    path: PathBuf,
    backing: PathBuf,
    _held: File,
    _folder: tempfile::TempDir,
}

impl Loop {
    fn make(bytes: u64) -> Result<Self, String> {
        let folder = folder();
        let backing = folder.path().join("backing");
        File::create(&backing).and_then(|file| file.set_len(bytes)).map_err(|e| e.to_string())?;
        let losetup = |arguments: &[&str]| {
            let out = Command::new("losetup").args(arguments).output().map_err(|e| e.to_string())?;
            if !out.status.success() {
                return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned());
            }
            Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
        };
        let path = PathBuf::from(losetup(&["--find", "--show", backing.to_str().unwrap()])?);
        let held = OpenOptions::new().read(true).write(true).open(&path);
        // Detached as soon as nobody has it open any more.
        losetup(&["--detach", path.to_str().unwrap()])?;
        Ok(Self { path, backing, _held: held.map_err(|e| e.to_string())?, _folder: folder })
    }

    /// Bytes of the disk that are really stored somewhere.
    fn allocated(&self) -> u64 {
        fs::metadata(&self.backing).unwrap().blocks() * 512
    }
}

#[test]
fn a_block_device_holds_what_was_written_past_the_cache() {
    let test = "a_block_device_holds_what_was_written_past_the_cache";
    // Not a multiple of a page, as disks of 512-byte blocks may be.
    let device = match Loop::make((9 << 20) + 512) {
        Ok(device) => device,
        Err(why) => return skipped(test, &format!("no loop device: {why}")),
    };
    let mut disk = DirectDisk::open(&device.path).unwrap();
    assert_eq!((disk.size(), disk.block_size()), ((9 << 20) + 512, 512));
    let busy = DirectDisk::open(&device.path).unwrap_err();
    assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy, "a disk in use is refused");
    agrees_with_memory(&mut disk, &device.path);
}

#[test]
fn zeros_of_an_image_are_given_up_and_zeros_of_a_wipe_are_not() {
    let test = "zeros_of_an_image_are_given_up_and_zeros_of_a_wipe_are_not";
    const SIZE: u64 = 16 << 20;
    let device = match Loop::make(SIZE) {
        Ok(device) => device,
        Err(why) => return skipped(test, &format!("no loop device: {why}")),
    };
    let mut disk = DirectDisk::open(&device.path).unwrap();
    disk.write_at(0, &vec![0xa5; SIZE as usize]).unwrap();
    disk.sync().unwrap();
    let full = device.allocated();
    assert!(full >= SIZE);
    // Not aligned to blocks at either end: what belongs to others stays.
    disk.write_zeroes(100, (4 << 20) + 5).unwrap();
    disk.sync().unwrap();
    assert_eq!(device.allocated(), full);
    disk.punch_zeroes((8 << 20) + 100, (4 << 20) + 5).unwrap();
    disk.sync().unwrap();
    if device.allocated() == full {
        // A filesystem without holes; it must read as zeros all the same.
        skipped(test, "this loop device gives nothing up");
    } else {
        assert!(device.allocated() <= full - (4 << 20) + 65536);
    }
    disk.drop_caches().unwrap();
    let mut found = vec![0; SIZE as usize];
    disk.read_at(0, &mut found).unwrap();
    for (at, byte) in found.iter().enumerate() {
        let at = at as u64;
        let zero = [100, (8 << 20) + 100].iter().any(|start| (*start..start + (4 << 20) + 5).contains(&at));
        assert_eq!(*byte, if zero { 0 } else { 0xa5 }, "byte {at}");
    }
}
