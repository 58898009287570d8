#![allow(clippy::unwrap_used)]

use std::io::{Read, Seek, SeekFrom, Write};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
}

const SIZE: u64 = 20_000;

fn op() -> impl Strategy<Value = Op> {
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..6_000),
        (0usize..9_000).prop_map(|length| vec![0; length])
    ];
    prop_oneof![
        (0..SIZE, data).prop_map(|(at, mut data)| {
            data.truncate((SIZE - at) as usize);
            Op::Write(at, data)
        }),
        (0..SIZE, 0u64..15_000).prop_map(|(at, length)| Op::Zero(at, length.min(SIZE - at))),
    ]
}

proptest! {
    /// Whatever is written, all devices hold the same.
    #[test]
    fn all_devices_agree_with_memory(ops in prop::collection::vec(op(), 0..12)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut model = vec![0u8; SIZE as usize];
        let mut devices: Vec<Box<dyn BlockDevice>> = vec![
            Box::new(MemDevice::new(SIZE as usize)),
            Box::new(CountingDevice::new(SIZE, &BlockStore::new())),
            Box::new(FileDevice::create(file.path(), SIZE).unwrap()),
            Box::new(FaultyDevice::new(MemDevice::new(SIZE as usize), Faults::default())),
        ];
        for op in &ops {
            match op {
                Op::Write(at, data) => model[*at as usize..*at as usize + data.len()].copy_from_slice(data),
                Op::Zero(at, length) => model[*at as usize..(at + length) as usize].fill(0),
            }
            for device in &mut devices {
                match op {
                    Op::Write(at, data) => device.write_at(*at, data).unwrap(),
                    Op::Zero(at, length) => device.write_zeroes(*at, *length).unwrap(),
                }
            }
        }
        for device in &mut devices {
            device.sync().unwrap();
            device.drop_caches().unwrap();
            let mut read = vec![0; SIZE as usize];
            device.read_at(0, &mut read).unwrap();
            prop_assert!(read == model);
        }
    }

    #[test]
    fn a_sparse_write_is_a_write(data in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..400)) {
        let mut device = MemDevice::from_bytes(vec![0xff; 500]);
        write_sparse(&mut device, 50, &data, 16).unwrap();
        let mut expected = vec![0xff; 500];
        expected[50..50 + data.len()].copy_from_slice(&data);
        prop_assert_eq!(device.to_bytes(), expected);
    }
}

#[test]
fn what_lies_outside_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut devices: Vec<Box<dyn BlockDevice>> = vec![
        Box::new(MemDevice::new(100)),
        Box::new(CountingDevice::new(100, &BlockStore::new())),
        Box::new(FileDevice::create(file.path(), 100).unwrap()),
    ];
    for device in &mut devices {
        assert!(device.read_at(99, &mut [0; 2]).is_err());
        assert!(device.write_at(u64::MAX, &[0; 2]).is_err());
        assert!(device.write_zeroes(50, 51).is_err());
        assert_eq!(device.size(), 100);
    }
    assert_eq!(file.as_file().metadata().unwrap().len(), 100);
}

#[test]
fn a_thousand_equal_disks_cost_one() {
    let store = BlockStore::new();
    let data: Vec<u8> = (0..1_000_000u32).map(|n| (n / 7) as u8).collect();
    let disks: Vec<_> = (0..20)
        .map(|_| {
            let mut disk = CountingDevice::new(1 << 40, &store);
            disk.write_at(1 << 30, &data).unwrap();
            disk
        })
        .collect();
    assert!(store.len() <= 246, "{}", store.len());
    assert_eq!(disks[3].counts().bytes_written, 1_000_000);
    drop(disks);
    // Blocks that no disk holds any more go, when new ones come.
    let mut disk = CountingDevice::new(1 << 40, &store);
    for n in 0..2_000u64 {
        disk.write_at(0, &[n.to_le_bytes(); 512].concat()).unwrap();
    }
    assert!(store.len() < 1_100, "{}", store.len());
}

#[test]
fn a_region_is_a_stream_with_ends() {
    let mut device = MemDevice::new(100);
    let mut region = Region::new(&mut device, 10, 20).unwrap();
    region.seek(SeekFrom::End(-5)).unwrap();
    assert_eq!(region.write(&[7; 9]).unwrap(), 5);
    assert_eq!(region.write(&[7; 9]).unwrap(), 0);
    region.seek(SeekFrom::Start(0)).unwrap();
    assert!(region.seek(SeekFrom::Current(-1)).is_err());
    let mut all = Vec::new();
    region.read_to_end(&mut all).unwrap();
    assert_eq!(all, [[0; 15].as_slice(), &[7; 5]].concat());
    let bytes = device.to_bytes();
    assert_eq!((bytes[24], bytes[25], bytes[29], bytes[30]), (0, 7, 7, 0));
    assert!(Region::new(&mut device, 90, 11).is_err());
}
