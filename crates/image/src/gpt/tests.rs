#![allow(clippy::unwrap_used)]

use std::{io::Cursor, sync::LazyLock};

use proptest::prelude::*;

use super::*;
use crate::{MemDevice, build_test_image};

const SIZE: usize = 16 << 20;

static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut device = MemDevice::new(SIZE);
    build_test_image(&mut device, 1).unwrap();
    device.to_bytes()
});

fn image() -> MemDevice {
    MemDevice::from_bytes(IMAGE.clone())
}

/// An independent reader of GPTs.
fn peer(device: &MemDevice) -> Vec<(u32, String, u64, u64)> {
    let mut bytes = Cursor::new(device.to_bytes());
    let disk = ::gpt::GptConfig::new().only_valid_headers(true).open_from_device(&mut bytes).unwrap();
    disk.partitions()
        .iter()
        .map(|(n, p)| (*n, p.name.clone(), p.first_lba * 512, p.last_lba * 512 + 511))
        .collect()
}

#[test]
fn an_independent_reader_finds_the_same() {
    let mut device = image();
    let ours: Vec<_> = check_bootable(&mut device)
        .unwrap()
        .into_iter()
        .map(|p| (p.number, p.name, p.start, p.start + p.length - 1))
        .collect();
    assert_eq!(ours, peer(&device));
    assert_eq!(ours.len(), 2);
}

#[test]
fn a_table_that_was_made_elsewhere_is_read() {
    let mut disk = Cursor::new(vec![0; SIZE]);
    let mut table = ::gpt::GptConfig::new().writable(true).create_from_device(&mut disk, None).unwrap();
    table.add_partition("root", 1 << 20, ::gpt::partition_types::LINUX_FS, 0, Some(2048)).unwrap();
    table.write().unwrap();
    ::gpt::mbr::ProtectiveMBR::with_lb_size((SIZE / 512 - 1) as u32).overwrite_lba0(&mut disk).unwrap();
    let partitions = check_bootable(&mut MemDevice::from_bytes(disk.into_inner())).unwrap();
    assert_eq!((partitions[0].name.as_str(), partitions[0].start), ("root", 1 << 20));
    assert_eq!(partitions[0].type_guid, TYPE_LINUX);
}

#[test]
fn numbers_with_gaps_stay_and_boot_code_too() {
    let mut device = MemDevice::new(SIZE);
    let mut table = PartitionTable::new(&device, Uuid::from_u128(1)).unwrap();
    for n in 0..15u64 {
        table
            .add(&format!("p{n}"), TYPE_LINUX, Uuid::from_u128(u128::from(n) + 10), (n + 1) * 65536, 65536)
            .unwrap();
    }
    for n in 1..13u128 {
        table.remove(Uuid::from_u128(n + 10));
    }
    table.write(&mut device).unwrap();
    device.write_at(0, &[0xeb; 440]).unwrap();
    let mut table = PartitionTable::read_primary(&mut device).unwrap();
    table.fit(&device).unwrap();
    table.add_at_end("new", TYPE_LINUX, Uuid::from_u128(99), 1 << 20, 1 << 20).unwrap();
    table.write(&mut device).unwrap();
    let numbers: Vec<u32> = check_bootable(&mut device).unwrap().iter().map(|p| p.number).collect();
    assert_eq!(numbers, [1, 14, 15, 16]);
    assert_eq!(device.to_bytes()[..440], [0xeb; 440]);
}

#[test]
fn moving_to_a_larger_disk() {
    let mut bytes = image().to_bytes();
    bytes.resize(SIZE * 2, 0);
    let mut device = MemDevice::from_bytes(bytes);
    assert!(matches!(check_bootable(&mut device), Err(GptError::NoHeader { .. })));
    crate::config_drive::fit_partition_table(&mut device).unwrap();
    assert_eq!(check_bootable(&mut device).unwrap().len(), 2);
    assert_eq!(peer(&device).len(), 2);
    assert_eq!(
        u32::from_le_bytes(device.to_bytes()[458..462].try_into().unwrap()),
        (SIZE * 2 / 512 - 1) as u32
    );
}

#[test]
fn damage_is_found() {
    let good = image().to_bytes();
    let last = SIZE - 512;
    // (what, byte)
    let places = [
        ("signature", 512),
        ("header", 512 + 40),
        ("entries", 1024 + 32),
        ("backup header", last + 40),
        ("backup entries", last - 32 * 512 + 16),
        ("protective MBR", 450),
    ];
    for (what, at) in places {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        assert!(check_bootable(&mut MemDevice::from_bytes(bytes)).is_err(), "{what}");
    }
    assert!(check_bootable(&mut MemDevice::new(4096)).is_err());
    assert!(check_bootable(&mut MemDevice::new(10)).is_err());
    let mut truncated = good;
    truncated.truncate(SIZE - 4096);
    assert!(check_bootable(&mut MemDevice::from_bytes(truncated)).is_err());
}

#[test]
fn a_partition_cannot_lie_on_another_or_outside() {
    let device = MemDevice::new(SIZE);
    let mut table = PartitionTable::new(&device, Uuid::from_u128(1)).unwrap();
    table.add("a", TYPE_LINUX, Uuid::from_u128(2), 1 << 20, 1 << 20).unwrap();
    let before = table.clone();
    for (start, length) in [(1 << 20, 512), ((1 << 20) - 512, 1024), (0, 512), (15 << 20, 2 << 20)] {
        assert!(table.add("b", TYPE_LINUX, Uuid::from_u128(3), start, length).is_err());
    }
    assert_eq!(table, before);
    let error = table.add_at_end("c", TYPE_LINUX, Uuid::from_u128(3), 15 << 20, 1 << 20).unwrap_err();
    assert!(matches!(error, GptError::NoSpace { .. }), "{error}");
}

proptest! {
    /// Whatever a disk holds, reading it is an answer, not a panic.
    #[test]
    fn damaged_tables_do_not_panic(changes in prop::collection::vec((0usize..40 * 512, any::<u8>()), 1..40), fix: bool) {
        let mut bytes = IMAGE.clone();
        for (at, value) in changes {
            bytes[at] = value;
        }
        if fix {
            // Make the checksums right again, so that the checks behind them are reached.
            let crc = header::crc32(&bytes[1024..1024 + 128 * 128]);
            bytes[512 + 88..512 + 92].copy_from_slice(&crc.to_le_bytes());
            bytes[512 + 16..512 + 20].fill(0);
            let crc = header::crc32(&bytes[512..512 + 92]);
            bytes[512 + 16..512 + 20].copy_from_slice(&crc.to_le_bytes());
        }
        let mut device = MemDevice::from_bytes(bytes);
        let _ = check_bootable(&mut device);
        let _ = crate::read_config_drive(&mut device);
        let _ = crate::write_config_drive(&mut device, &crate::ConfigDrive::default());
    }
}
