//! The firmware's variables as files: Documentation/filesystems/efivarfs.rst of the kernel.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use ferric_agent::FirmwareVariables;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Where efivarfs is mounted, below `/sys`.
const FOLDER: &str = "firmware/efi/efivars";
/// `EFI_GLOBAL_VARIABLE` (UEFI 2.10, 3.3).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Non-volatile, seen by boot services and at run time (UEFI 2.10, 8.2.1): what `Boot####` and `BootOrder` are.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];
/// Largest value that is read, in bytes.
const LONGEST: u64 = 64 << 10;

/// A mounted efivarfs.
pub(super) struct EfiVariables {
    folder: PathBuf,
}

impl EfiVariables {
    /// Those of this machine; `None` where it was not started by UEFI or they are not mounted.
    pub(super) fn below(sys: &Path) -> Option<Self> {
        let folder = sys.join(FOLDER);
        let mounted = fs::read_dir(&folder).ok()?.next().is_some();
        mounted.then_some(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-{GLOBAL}"))
    }
}

/// The kernel makes variables immutable that are not known to be harmless, against `rm -rf`. Folders of tests have no
/// such flag.
fn make_mutable(path: &Path) -> io::Result<()> {
    let Ok(file) = File::open(path) else { return Ok(()) };
    match ioctl_getflags(&file) {
        Ok(flags) if flags.contains(IFlags::IMMUTABLE) => {
            Ok(ioctl_setflags(&file, flags.difference(IFlags::IMMUTABLE))?)
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

impl FirmwareVariables for EfiVariables {
    fn names(&self) -> io::Result<Vec<String>> {
        let suffix = format!("-{GLOBAL}");
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            names.extend(name.to_str().and_then(|name| name.strip_suffix(&suffix)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match File::open(self.path(name)) {
            Ok(file) => file.take(LONGEST).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(bytes.get(ATTRIBUTES.len()..).map(<[u8]>::to_vec))
    }

    fn write(&self, name: &str, value: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        make_mutable(&path)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        // In one call: each is a call of the firmware.
        let whole = [&ATTRIBUTES, value].concat();
        match file.write(&whole)? {
            written if written == whole.len() => Ok(()),
            written => {
                Err(io::Error::other(format!("{written} of {} bytes of {name} were taken", whole.len())))
            }
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        make_mutable(&path)?;
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn variables_are_files_with_four_bytes_of_attributes() {
        let sys = tempfile::tempdir().unwrap();
        assert!(EfiVariables::below(sys.path()).is_none(), "started by a BIOS");
        let folder = sys.path().join(FOLDER);
        fs::create_dir_all(&folder).unwrap();
        assert!(EfiVariables::below(sys.path()).is_none(), "not mounted");
        let order = folder.join(format!("BootOrder-{GLOBAL}"));
        fs::write(&order, [7, 0, 0, 0, 1, 0]).unwrap();
        fs::write(folder.join("Boot0009-12345678-0000-0000-0000-000000000000"), [7, 0, 0, 0]).unwrap();

        let variables = EfiVariables::below(sys.path()).unwrap();
        assert_eq!(variables.names().unwrap(), ["BootOrder"]);
        assert_eq!(variables.read("BootOrder").unwrap(), Some(vec![1, 0]));
        assert_eq!(variables.read("Boot0000").unwrap(), None);
        variables.write("Boot0000", &[1, 2, 3]).unwrap();
        assert_eq!(fs::read(folder.join(format!("Boot0000-{GLOBAL}"))).unwrap(), [7, 0, 0, 0, 1, 2, 3]);
        variables.remove("Boot0000").unwrap();
        assert!(variables.remove("Boot0000").is_err());
        assert_eq!(variables.names().unwrap(), ["BootOrder"]);
    }
}
