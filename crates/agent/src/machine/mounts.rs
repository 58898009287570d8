//! The kernel's own filesystems.

use std::{fs, io, path::Path};

use rustix::mount::{MountFlags, mount};

/// Mounts proc, sysfs, devtmpfs, and a tmpfs on `/run` and `/tmp`. What is mounted already is left alone.
pub(super) fn base() -> io::Result<()> {
    for (kind, target, data) in [
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("devtmpfs", "/dev", ""),
        ("tmpfs", "/run", "mode=0755,size=16m"),
        ("tmpfs", "/tmp", "mode=1777,size=16m"),
    ] {
        put(kind, target, data)?;
    }
    Ok(())
}

/// Mounts the firmware's variables where the machine was started by UEFI. Needs the module `efivarfs`.
pub(super) fn efi_variables() -> io::Result<()> {
    let target = "/sys/firmware/efi/efivars";
    if Path::new(target).exists() { put("efivarfs", target, "") } else { Ok(()) }
}

fn put(kind: &str, target: &str, data: &str) -> io::Result<()> {
    if !Path::new(target).exists() {
        fs::create_dir_all(target)?;
    }
    let data = std::ffi::CString::new(data).map_err(io::Error::other)?;
    match mount(kind, target, kind, MountFlags::NOSUID | MountFlags::NOEXEC, Some(data.as_c_str())) {
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(error) => Err(io::Error::new(
            io::Error::from(error).kind(),
            format!("{kind} cannot be mounted on {target}: {error}"),
        )),
    }
}
