#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{MemDevice, gpt::TYPE_LINUX};

const MIB: u64 = 1 << 20;

/// A disk whose second partition is of this type and holds these files.
fn disk(type_guid: Uuid, files: &[&str]) -> MemDevice {
    let mut device = MemDevice::new(64 << 20);
    let mut table = PartitionTable::new(&device, Uuid::from_u128(1)).unwrap();
    table.add("root", TYPE_LINUX, Uuid::from_u128(2), 40 * MIB, 20 * MIB).unwrap();
    table.add("esp", type_guid, Uuid::from_u128(3), MIB, 34 * MIB).unwrap();
    table.write(&mut device).unwrap();
    let options = fatfs::FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat32).bytes_per_cluster(512);
    fatfs::format_volume(Region::new(&mut device, MIB, 34 * MIB).unwrap(), options).unwrap();
    let region = Region::new(&mut device, MIB, 34 * MIB).unwrap();
    let filesystem = fatfs::FileSystem::new(region, fatfs::FsOptions::new()).unwrap();
    for path in files {
        let mut folder = filesystem.root_dir();
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            folder = folder.create_dir(part).unwrap();
        }
        let mut file = folder.create_file(name).unwrap();
        if !path.contains("empty") {
            file.write_all(b"MZ").unwrap();
        }
    }
    filesystem.unmount().unwrap();
    device
}

fn esp(files: &[&str]) -> Esp {
    Esp::read(&mut disk(TYPE_EFI_SYSTEM, files)).unwrap()
}

#[test]
fn loaders_are_found_as_boot_options_name_them() {
    let found = esp(&[
        "EFI/debian/shimx64.efi",
        "EFI/debian/grubx64.efi",
        "EFI/debian/grub.cfg",
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/systemd/systemd-bootx64.efi",
        "EFI/debian/empty.efi",
        "EFI/deep/er/shimx64.efi",
        "shimx64.efi",
    ]);
    assert_eq!((found.partition.number, found.partition.guid), (2, Uuid::from_u128(3)));
    let expected = [
        "\\EFI\\BOOT\\BOOTX64.EFI",
        "\\EFI\\debian\\grubx64.efi",
        "\\EFI\\debian\\shimx64.efi",
        "\\EFI\\systemd\\systemd-bootx64.efi",
    ];
    assert_eq!(found.loaders, expected);
}

#[test]
fn the_loader_is_the_shim_else_the_next_best() {
    let table: [(&[&str], Option<&str>, bool); 7] = [
        (
            &["EFI/debian/grubx64.efi", "EFI/debian/shimx64.efi", "EFI/BOOT/BOOTX64.EFI"],
            Some("\\EFI\\debian\\shimx64.efi"),
            true,
        ),
        // Of two systems the one that can be started under Secure Boot.
        (&["EFI/arch/grubx64.efi", "EFI/debian/shimx64.efi"], Some("\\EFI\\debian\\shimx64.efi"), false),
        (&["EFI/arch/GRUBX64.EFI", "EFI/BOOT/bootx64.efi"], Some("\\EFI\\arch\\GRUBX64.EFI"), true),
        (&["EFI/systemd/systemd-bootx64.efi"], Some("\\EFI\\systemd\\systemd-bootx64.efi"), false),
        // What lies beside the fallback is started by it.
        (&["EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi"], Some("\\EFI\\BOOT\\BOOTX64.EFI"), true),
        (&["EFI/BOOT/BOOTAA64.EFI", "EFI/debian/shimaa64.efi", "EFI/debian/fwupdx64.efi"], None, false),
        (&[], None, false),
    ];
    for (files, loader, fallback) in table {
        let esp = esp(files);
        assert_eq!(esp.loader(Arch::X64), loader, "{files:?}");
        assert_eq!(esp.has_fallback(Arch::X64), fallback, "{files:?}");
    }
    let arm = esp(&["EFI/BOOT/BOOTAA64.EFI", "EFI/debian/shimaa64.efi", "EFI/debian/shimx64.efi"]);
    assert_eq!(arm.loader(Arch::Aa64), Some("\\EFI\\debian\\shimaa64.efi"));
}

#[test]
fn what_is_not_there_is_said() {
    let error = |mut device: MemDevice| Esp::read(&mut device).unwrap_err();
    assert!(matches!(error(MemDevice::new(64 << 20)), EspError::Table(GptError::NoHeader { .. })));
    assert!(matches!(error(disk(TYPE_LINUX, &["EFI/BOOT/BOOTX64.EFI"])), EspError::NoPartition));
    let mut unreadable = disk(TYPE_EFI_SYSTEM, &[]);
    unreadable.write_zeroes(MIB, 34 * MIB).unwrap();
    let text = error(unreadable).to_string();
    assert!(text.contains("number 2"), "{text}");
}

#[test]
fn reading_changes_nothing() {
    let mut device = disk(TYPE_EFI_SYSTEM, &["EFI/debian/shimx64.efi"]);
    let before = device.to_bytes();
    let _ = Esp::read(&mut device).unwrap();
    assert!(device.to_bytes() == before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("FERRIC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(64)
    ))]

    /// Changed bytes where a FAT filesystem keeps what it says of itself: boot sector, tables, root folder.
    #[test]
    fn no_filesystem_makes_it_panic_or_go_on_for_ever(
        changes in prop::collection::vec((0usize..2, 0usize..4096, any::<u8>()), 1..8),
    ) {
        // Made once: making it takes longer than reading it.
        static DISK: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| disk(TYPE_EFI_SYSTEM, &["EFI/debian/shimx64.efi"]).to_bytes());
        // A reader's panic is caught and would be shown for each case.
        std::panic::set_hook(Box::new(|_| {}));
        let mut bytes = DISK.clone();
        for (place, at, byte) in changes {
            let at = if place == 0 { at % 96 } else { at + 32 * 512 };
            bytes[MIB as usize + at] = byte;
        }
        let mut device = MemDevice::from_bytes(bytes);
        let _ = Esp::read(&mut device);
        let _ = std::panic::take_hook();
    }
}
