#![allow(clippy::unwrap_used)]

use std::{cell::RefCell, io::Write};

use ferric_image::{MemDevice, PartitionTable, Region, gpt};
use uuid::Uuid;

use super::*;

const MIB: u64 = 1 << 20;
const SHIM: &str = "EFI/debian/shimx64.efi";
const FALLBACK: &str = "EFI/BOOT/BOOTX64.EFI";

/// Variables in memory.
#[derive(Default)]
struct Flash {
    variables: RefCell<BTreeMap<String, Vec<u8>>>,
    locked: bool,
    journal: RefCell<Vec<String>>,
}

impl FirmwareVariables for Flash {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.variables.borrow().keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.variables.borrow().get(name).cloned())
    }

    fn write(&self, name: &str, value: &[u8]) -> io::Result<()> {
        if self.locked {
            return Err(io::Error::other("the flash is locked"));
        }
        self.journal.borrow_mut().push(format!("write {name}"));
        self.variables.borrow_mut().insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.journal.borrow_mut().push(format!("remove {name}"));
        self.variables.borrow_mut().remove(name);
        Ok(())
    }
}

/// A disk with an EFI system partition of this identity that holds these files.
fn disk(identity: u128, files: &[&str]) -> MemDevice {
    let mut device = MemDevice::new(64 << 20);
    let mut table = PartitionTable::new(&device, Uuid::from_u128(1)).unwrap();
    table.add("esp", gpt::TYPE_EFI_SYSTEM, Uuid::from_u128(identity), MIB, 40 * MIB).unwrap();
    table.write(&mut device).unwrap();
    fatfs::format_volume(Region::new(&mut device, MIB, 40 * MIB).unwrap(), fatfs::FormatVolumeOptions::new())
        .unwrap();
    let region = Region::new(&mut device, MIB, 40 * MIB).unwrap();
    let filesystem = fatfs::FileSystem::new(region, fatfs::FsOptions::new()).unwrap();
    for path in files {
        let mut folder = filesystem.root_dir();
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().unwrap();
        for part in parts {
            folder = folder.create_dir(part).unwrap();
        }
        folder.create_file(name).unwrap().write_all(b"MZ").unwrap();
    }
    filesystem.unmount().unwrap();
    device
}

fn attempt(flash: &Flash, device: &mut MemDevice) -> Result<BootEntry, String> {
    set(flash, device, Arch::X64, Place::First)
}

#[test]
fn each_written_disk_is_started_first_and_the_one_before_is_forgotten() {
    let flash = Flash::default();
    flash.write("Boot0000", &[1, 0, 0, 0, 0, 0, b'x', 0, 0, 0]).unwrap();
    flash.write("BootOrder", &[0, 0]).unwrap();
    flash.write("BootCurrent", &[0, 0]).unwrap();
    let made = attempt(&flash, &mut disk(7, &[SHIM, FALLBACK])).unwrap();
    assert_eq!(made.entry, "Boot0001 \\EFI\\debian\\shimx64.efi");
    assert_eq!(flash.read("BootOrder").unwrap().unwrap(), [1, 0, 0, 0]);

    flash.journal.borrow_mut().clear();
    assert_eq!(attempt(&flash, &mut disk(7, &[SHIM, FALLBACK])).unwrap(), made);
    assert!(flash.journal.borrow().is_empty(), "flash wears out: {:?}", flash.journal.borrow());

    // Another image on the next claim, and an older entry of ours that somebody left.
    let stale = flash.read("Boot0001").unwrap().unwrap();
    flash.write("Boot0005", &stale).unwrap();
    flash.journal.borrow_mut().clear();
    let made = attempt(&flash, &mut disk(8, &[FALLBACK])).unwrap();
    assert_eq!(made, BootEntry { entry: "Boot0001 \\EFI\\BOOT\\BOOTX64.EFI".into(), warning: String::new() });
    assert_eq!(*flash.journal.borrow(), ["write Boot0001", "remove Boot0005"]);
    assert_eq!(flash.read("BootOrder").unwrap().unwrap(), [1, 0, 0, 0]);
}

#[test]
fn the_network_stays_first_where_that_is_asked_for() {
    let flash = Flash::default();
    flash.write("BootOrder", &[0, 0]).unwrap();
    let made = set(&flash, &mut disk(7, &[SHIM]), Arch::X64, Place::Last).unwrap();
    assert_eq!(made.entry, "Boot0001 \\EFI\\debian\\shimx64.efi");
    assert_eq!(flash.read("BootOrder").unwrap().unwrap(), [0, 0, 1, 0]);
}

#[test]
fn what_fails_is_a_warning_only_where_the_server_starts_all_the_same() {
    let locked = Flash { locked: true, ..Flash::default() };
    let made = attempt(&locked, &mut disk(7, &[SHIM, FALLBACK])).unwrap();
    assert!(made.entry.is_empty() && made.warning.contains("the flash is locked"), "{made:?}");
    let error = attempt(&locked, &mut disk(7, &[SHIM])).unwrap_err();
    assert!(error.contains("no fallback loader") && error.contains("the flash is locked"), "{error}");

    let flash = Flash::default();
    let error = attempt(&flash, &mut disk(7, &["EFI/debian/grub.cfg"])).unwrap_err();
    assert!(error.contains("holds no boot loader"), "{error}");
    let mut bare = MemDevice::new(64 << 20);
    PartitionTable::new(&bare, Uuid::from_u128(1)).unwrap().write(&mut bare).unwrap();
    let error = attempt(&flash, &mut bare).unwrap_err();
    assert!(error.contains("no EFI system partition"), "{error}");
    // An image without a GPT: firmware may know what to do with it.
    let made = attempt(&flash, &mut MemDevice::new(64 << 20)).unwrap();
    assert!(made.warning.contains("no GPT header"), "{made:?}");
    assert!(flash.names().unwrap().is_empty());
}
