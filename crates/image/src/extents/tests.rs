#![allow(clippy::unwrap_used)]

use std::io;

use proptest::prelude::*;
use ring::digest;

use super::*;
use crate::{Checksum, ChecksumAlgorithm, Qcow2, qcow2_of};

fn sha256(data: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, data))
}

fn source() -> Checksum {
    Checksum::new(ChecksumAlgorithm::Sha512, &"5a".repeat(64)).unwrap()
}

fn packed(disk: &[u8]) -> (Vec<u8>, Packed) {
    let mut out = Vec::new();
    let mut image = Qcow2::open(qcow2_of(disk), 1 << 40).unwrap();
    let packed = pack(&mut image, &source(), &mut out, &mut |_, _| Ok(())).unwrap();
    (out, packed)
}

/// The disk, or its beginning: a file that was spoiled may speak of more than there is memory.
fn unpacked(file: &[u8]) -> Result<(Vec<u8>, String), ExtentsError> {
    const MOST: usize = 64 << 20;
    let mut source = file;
    let mut reader = ExtentsReader::new(&mut source)?;
    let mut disk = vec![0; (reader.header().disk_bytes as usize).min(MOST)];
    loop {
        match reader.next(&mut source)? {
            Item::Chunk { offset, data } => disk[offset as usize..][..data.len()].copy_from_slice(data),
            Item::End { content_sha256 } => return Ok((disk, content_sha256)),
        }
    }
}

/// A disk with runs of zeros, of noise and of what compresses.
fn disk(runs: &[(u8, usize)]) -> Vec<u8> {
    let mut disk = Vec::new();
    let mut state = 88_172_645_463_325_252u64;
    for (kind, length) in runs {
        disk.extend((0..*length).map(|at| match kind % 3 {
            0 => 0,
            1 => (at / 1000) as u8,
            _ => {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            }
        }));
    }
    disk
}

#[test]
fn a_sparse_disk_is_its_chunks() {
    let disk = disk(&[(1, 70_000), (0, 9 << 20), (2, CHUNK), (0, 5_000_001)]);
    let (file, packed) = packed(&disk);
    assert_eq!((packed.bytes, packed.disk_bytes), (file.len() as u64, disk.len() as u64));
    assert_eq!(packed.checksum.hex(), sha256(&file));
    assert_eq!(packed.content_sha256, sha256(&disk));
    assert_eq!(packed.chunks, 3);
    assert!(file.len() < CHUNK + 100_000);
    assert_eq!(file, self::packed(&disk).0, "the same image makes the same bytes");
    assert_eq!(ExtentsReader::new(&mut file.as_slice()).unwrap().header().source, source());
    let (found, content) = unpacked(&file).unwrap();
    assert!(found == disk);
    assert_eq!(content, sha256(&disk));
}

#[test]
fn an_error_of_the_sink_or_the_observer_ends_it() {
    let mut image = Qcow2::open(qcow2_of(&disk(&[(2, 100_000)])), 1 << 40).unwrap();
    let stop = |_, _| Err(io::Error::other("enough"));
    let error = pack(&mut image, &source(), &mut Vec::new(), &mut { stop }).unwrap_err();
    assert!(error.to_string().contains("enough"));
    let error = pack(&mut image, &source(), &mut [0u8; 10].as_mut_slice(), &mut |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, PackError::Sink(_)), "{error}");
}

#[test]
fn what_is_wrong_has_a_name() {
    let (file, _) = packed(&disk(&[(1, 70_000), (0, 9 << 20), (2, 3000)]));
    let spoil = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        unpacked(&file).unwrap_err().to_string()
    };
    let table: [(usize, &[u8], &str); 9] = [
        (0, b"FERRICX2", "begins with"),
        (8, &[0; 8], "0 bytes"),
        (16, &1u32.to_be_bytes(), "1 bytes"),
        (20, &[9], "type 9"),
        (HEADER, &7u64.to_be_bytes(), "chunk 7"),
        (HEADER + 8, &u32::MAX.to_be_bytes(), "stored in"),
        (HEADER + 8, &0u32.to_be_bytes(), "stored in"),
        (HEADER + 12, &[1, 2, 3, 4], "has the SHA-256"),
        (HEADER + 50, &[1, 2, 3, 4], "chunk 0"),
    ];
    for (at, bytes, text) in table {
        let error = spoil(at, bytes);
        assert!(error.contains(text), "{at}: {error}");
    }
    let end = file.len() - 40;
    assert!(spoil(end, &5u64.to_be_bytes()).contains("says 5"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_was_packed_is_unpacked(runs in prop::collection::vec((0u8..3, 1usize..6_000_000), 1..4)) {
        let disk = disk(&runs);
        let (file, packed) = packed(&disk);
        let (found, content) = unpacked(&file).unwrap();
        prop_assert!(found == disk);
        prop_assert_eq!(content, packed.content_sha256);
    }

    #[test]
    fn damage_is_found_and_nothing_panics(
        at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<Option<prop::sample::Index>>(),
    ) {
        let disk = disk(&[(2, 20_000), (1, 3000)]);
        let (mut file, packed) = packed(&disk);
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        // Chunks are known by their hashes; size, source and the hash of the whole are compared by whoever writes.
        if let Ok((found, content)) = unpacked(&file) {
            prop_assert!(found.starts_with(&disk) || disk.starts_with(&found));
            let in_header = (8..16).contains(&at) || (20..HEADER).contains(&at);
            prop_assert!(in_header || content != packed.content_sha256, "{}", at);
        }
    }
}
