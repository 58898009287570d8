#![allow(clippy::unwrap_used)]

use std::io::Write;

use proptest::prelude::*;

use super::*;

const CLUSTER: usize = 512;

/// What a cluster of an image under construction is.
#[derive(Debug, Clone)]
enum Kind {
    Absent,
    Zero,
    /// Zero, with an offset that was allocated beforehand.
    Allocated(u8),
    Plain(u8),
    Compressed(u8),
}

fn content(seed: u8) -> Vec<u8> {
    (0..CLUSTER).map(|at| seed.wrapping_mul(31).wrapping_add((at / 7) as u8)).collect()
}

/// Builds an image by hand, so that what QEMU never makes can be tried too.
struct Builder {
    zstd: bool,
    file: Vec<u8>,
}

impl Builder {
    fn new(version: u32, zstd: bool, size: u64) -> Self {
        let entries = size.div_ceil((CLUSTER * CLUSTER / 8) as u64).max(1) as usize;
        let mut file = vec![0; CLUSTER + (entries * 8).next_multiple_of(CLUSTER)];
        file[..4].copy_from_slice(&MAGIC);
        let mut builder = Self { zstd, file };
        builder.u32(4, version);
        builder.u32(20, 9);
        builder.u64(24, size);
        builder.u32(36, entries as u32);
        builder.u64(40, CLUSTER as u64);
        if version == 3 {
            builder.u64(72, if zstd { 1 << 3 } else { 0 });
            builder.u32(96, 4);
            builder.u32(100, 112);
            builder.file[104] = u8::from(zstd);
        }
        builder
    }

    fn u32(&mut self, at: usize, value: u32) {
        self.file[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn u64(&mut self, at: usize, value: u64) {
        self.file[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    fn append(&mut self, data: &[u8]) -> u64 {
        let at = self.file.len();
        self.file.extend_from_slice(data);
        self.file.resize(self.file.len().next_multiple_of(CLUSTER), 0);
        at as u64
    }

    fn set(&mut self, number: usize, kind: &Kind) {
        let entry = match kind {
            Kind::Absent => return,
            Kind::Zero => ZERO,
            Kind::Allocated(seed) => self.append(&content(*seed)) | ZERO | COPIED,
            Kind::Plain(seed) => self.append(&content(*seed)) | COPIED,
            Kind::Compressed(seed) => {
                let packed = pack(self.zstd, &content(*seed));
                // Not at the start of a sector, as QEMU packs them too.
                let at = self.append(&[vec![0xaa; 100], packed.clone()].concat()) + 100;
                let sectors = (at % 512 + packed.len() as u64).div_ceil(512) - 1;
                COMPRESSED | sectors << (62 - 1) | at
            }
        };
        let per_table = CLUSTER / 8;
        let slot = CLUSTER + number / per_table * 8;
        let mut table = u64::from_be_bytes(self.file[slot..slot + 8].try_into().unwrap()) & OFFSET;
        if table == 0 {
            table = self.append(&[0; CLUSTER]);
            self.u64(slot, table | COPIED);
        }
        self.u64(table as usize + number % per_table * 8, entry);
    }

    fn with(mut self, at: usize, bytes: &[u8]) -> Vec<u8> {
        self.file[at..at + bytes.len()].copy_from_slice(bytes);
        self.file
    }
}

fn pack(zstd: bool, data: &[u8]) -> Vec<u8> {
    if zstd {
        return zstd::bulk::compress(data, 3).unwrap();
    }
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn expected(kinds: &[Kind], size: u64) -> Vec<u8> {
    let mut disk: Vec<u8> = kinds
        .iter()
        .flat_map(|kind| match kind {
            Kind::Absent | Kind::Zero | Kind::Allocated(_) => vec![0; CLUSTER],
            Kind::Plain(seed) | Kind::Compressed(seed) => content(*seed),
        })
        .collect();
    disk.resize(size as usize, 0);
    disk
}

fn whole(image: &mut Qcow2) -> Result<Vec<u8>, Qcow2Error> {
    let mut disk = vec![0; image.size() as usize];
    image.read_at(0, &mut disk)?;
    Ok(disk)
}

fn kind(version: u32) -> impl Strategy<Value = Kind> {
    let zero = if version == 3 { 1 } else { 0 };
    prop_oneof![
        3 => Just(Kind::Absent),
        zero => Just(Kind::Zero),
        zero => any::<u8>().prop_map(Kind::Allocated),
        3 => any::<u8>().prop_map(Kind::Plain),
        3 => any::<u8>().prop_map(Kind::Compressed),
    ]
}

fn image() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let shape = prop_oneof![Just((2, false)), Just((3, false)), Just((3, true))];
    shape
        .prop_flat_map(|(version, zstd)| {
            (Just(version), Just(zstd), prop::collection::vec(kind(version), 0..150), 0u64..512)
        })
        .prop_map(|(version, zstd, kinds, short)| {
            let size = (kinds.len() as u64 * CLUSTER as u64).saturating_sub(short).next_multiple_of(8);
            let mut builder = Builder::new(version, zstd, size);
            for (number, kind) in kinds.iter().enumerate() {
                builder.set(number, kind);
            }
            (builder.file, expected(&kinds, size))
        })
}

/// A small image with a cluster of each kind.
fn sample() -> Builder {
    let mut builder = Builder::new(3, false, 100_000);
    for (number, kind) in
        [Kind::Plain(1), Kind::Compressed(2), Kind::Zero, Kind::Allocated(3), Kind::Plain(4)]
            .iter()
            .enumerate()
    {
        builder.set(number, kind);
    }
    builder
}

#[test]
fn what_would_be_wrong_if_passed_over_is_refused_with_a_sentence() {
    let table: [(usize, &[u8], &str); 20] = [
        (0, b"QFIX", "is not qcow2"),
        (4, &4u32.to_be_bytes(), "version 4"),
        (8, &100u64.to_be_bytes(), "backing file"),
        (20, &8u32.to_be_bytes(), "2^8"),
        (20, &22u32.to_be_bytes(), "2^22"),
        (24, &u64::MAX.to_be_bytes(), "more than"),
        (32, &1u32.to_be_bytes(), "encrypted"),
        (32, &2u32.to_be_bytes(), "encrypted"),
        (36, &0u32.to_be_bytes(), "its size needs"),
        (40, &700u64.to_be_bytes(), "not at a cluster"),
        (40, &(1u64 << 40).to_be_bytes(), "within the file"),
        (72, &2u64.to_be_bytes(), "corrupt"),
        (72, &4u64.to_be_bytes(), "another file"),
        (72, &8u64.to_be_bytes(), "contradicts"),
        (72, &16u64.to_be_bytes(), "subclusters"),
        (72, &32u64.to_be_bytes(), "0x20"),
        (100, &90u32.to_be_bytes(), "90 bytes"),
        (100, &1024u32.to_be_bytes(), "longer than a cluster"),
        (112, &[0x05, 0x37, 0xbe, 0x77, 0, 0, 0, 8], "encrypted"),
        (112, &[1, 2, 3, 4, 0, 0, 2, 0], "leaves its cluster"),
    ];
    for (at, bytes, text) in table {
        let error = Qcow2::open(sample().with(at, bytes), 1 << 30).err().unwrap().to_string();
        assert!(error.contains(text), "{at}: {error}");
    }
    let zstd = Builder::new(3, true, 512).with(104, &[7]);
    assert!(Qcow2::open(zstd, 1 << 30).err().unwrap().to_string().contains("type 7"));
    // A dirty image is read: what may be wrong is of no interest here.
    assert!(Qcow2::open(sample().with(72, &1u64.to_be_bytes()), 1 << 30).is_ok());
    for length in [0, 3, 4, 71, 103, 511] {
        let mut file = sample().file;
        file.truncate(length);
        assert!(Qcow2::open(file, 1 << 30).is_err(), "{length}");
    }
}

#[test]
fn a_file_that_ends_early_is_damaged() {
    let file = sample().file;
    let last = file.len();
    let mut image = Qcow2::open(file[..last - CLUSTER].to_vec(), 1 << 30).unwrap();
    let error = whole(&mut image).unwrap_err().to_string();
    assert!(error.contains("behind the file"), "{error}");
}

#[test]
fn a_large_hole_costs_nothing() {
    // A petabyte of nothing, in clusters of 2 MiB.
    let size = 1u64 << 50;
    let mut builder = Builder::new(3, false, 512);
    builder.u32(20, 21);
    builder.u64(24, size);
    builder.u32(36, (size >> 39) as u32);
    builder.u64(40, 2 << 20);
    builder.file.resize((2 << 20) + (size >> 36) as usize, 0);
    let mut image = Qcow2::open(builder.file, u64::MAX).unwrap();
    assert_eq!(image.next_data(0).unwrap(), size);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn the_disk_is_what_was_put_in((file, disk) in image(), pieces in prop::collection::vec(1usize..2000, 1..4)) {
        let mut image = Qcow2::open(file, 1 << 30).unwrap();
        prop_assert_eq!(image.size(), disk.len() as u64);
        prop_assert!(whole(&mut image).unwrap() == disk);
        // In pieces of any size, and by way of the next data.
        let mut pieces = pieces.into_iter().cycle();
        let (mut at, mut found) = (0, vec![0; disk.len()]);
        while at < disk.len() {
            let data = image.next_data(at as u64).unwrap() as usize;
            prop_assert!(data >= at);
            at = data;
            let length = pieces.next().unwrap().min(disk.len() - at);
            image.read_at(at as u64, &mut found[at..at + length]).unwrap();
            at += length;
        }
        prop_assert!(found == disk);
    }

    #[test]
    fn no_damage_makes_it_panic(
        (mut file, _) in image(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        if let Ok(mut image) = Qcow2::open(file, 1 << 20) {
            let _ = image.next_data(0);
            let _ = whole(&mut image);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut file in prop::collection::vec(any::<u8>(), 0..2000), like: bool) {
        if like && file.len() >= 8 {
            file[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        }
        if let Ok(mut image) = Qcow2::open(file, 1 << 20) {
            let _ = whole(&mut image);
        }
    }
}
