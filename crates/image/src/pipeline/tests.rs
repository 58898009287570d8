#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};

use proptest::prelude::*;
use ring::digest;

use super::*;
use crate::{ChecksumAlgorithm, Faults, FaultyDevice, MemDevice};

/// Gives out data in chunks of odd sizes, and may break off.
struct Chunks<'a> {
    data: &'a [u8],
    sizes: std::iter::Cycle<std::vec::IntoIter<usize>>,
    fail_after: Option<usize>,
}

impl<'a> Chunks<'a> {
    fn new(data: &'a [u8], sizes: &[usize], fail_after: Option<usize>) -> Self {
        let sizes = if sizes.is_empty() { vec![usize::MAX] } else { sizes.to_vec() };
        Self { data, sizes: sizes.into_iter().cycle(), fail_after }
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes.next().unwrap_or(1).max(1).min(buffer.len()).min(self.data.len());
        if let Some(left) = &mut self.fail_after {
            if *left < size {
                return Err(io::Error::new(io::ErrorKind::ConnectionReset, "injected source fault"));
            }
            *left -= size;
        }
        let (now, later) = self.data.split_at(size);
        buffer[..size].copy_from_slice(now);
        self.data = later;
        Ok(size)
    }
}

fn sha256(data: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, data))
}

fn pack(compression: Compression, data: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => data.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(data, 1).unwrap(),
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Extents => extents(data),
    }
}

/// The image that extents are said to be made from.
fn qcow2_checksum() -> Checksum {
    Checksum::new(ChecksumAlgorithm::Sha256, &"42".repeat(32)).unwrap()
}

fn extents(data: &[u8]) -> Vec<u8> {
    let mut image = crate::Qcow2::open(crate::qcow2_of(data), u64::MAX).unwrap();
    let mut file = Vec::new();
    crate::extents::pack(&mut image, &qcow2_checksum(), &mut file, &mut |_, _| Ok(())).unwrap();
    file
}

const ALL: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Extents];

fn options(file: &[u8], compression: Compression) -> WriteOptions {
    let checksum = Checksum::new(ChecksumAlgorithm::Sha256, &sha256(file)).unwrap();
    WriteOptions { block_bytes: ZERO_STEP, ..WriteOptions::new(checksum, compression) }
}

fn quiet(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn write(file: &[u8], device: &mut dyn BlockDevice, options: &WriteOptions) -> Result<Written, ImageError> {
    write_image(&mut Chunks::new(file, &[70_001], None), device, options, &mut quiet)
}

fn sample(length: usize) -> Vec<u8> {
    let mut state = 7u64;
    (0..length)
        .map(|at| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if (at / 100_000) % 2 == 1 { 0 } else { (state >> 56) as u8 }
        })
        .collect()
}

fn blake3_content(image: &[u8]) -> String {
    format!("blake3:{}", blake3::hash(image))
}

fn sha256_content(image: &[u8]) -> String {
    format!("sha256:{}", sha256(image))
}

#[test]
fn a_disk_full_of_older_things_holds_exactly_the_image() {
    let image = sample(700_001);
    for compression in ALL {
        let file = pack(compression, &image);
        let mut device = MemDevice::from_bytes(vec![0xee; 1_000_000]);
        let written = write(&file, &mut device, &options(&file, compression)).unwrap();
        assert_eq!(device.to_bytes()[..image.len()], image, "{compression}");
        assert_eq!(written.bytes_read, file.len() as u64);
        assert_eq!(written.bytes_written, image.len() as u64);
        let content =
            if compression == Compression::Extents { sha256_content(&image) } else { blake3_content(&image) };
        assert_eq!(written.content.to_string(), content);
        assert_eq!(written.download.hex(), sha256(&file));
        assert!(written.bytes_zeroed >= ZERO_STEP as u64);
    }
}

#[test]
fn sha512_and_several_members_are_read() {
    let image = sample(300_000);
    let file = [pack(Compression::Gzip, &image[..1000]), pack(Compression::Gzip, &image[1000..])].concat();
    let mut options = options(&file, Compression::Gzip);
    let hash = hex::encode(digest::digest(&digest::SHA512, &file));
    options.checksum = Checksum::new(ChecksumAlgorithm::Sha512, &hash).unwrap();
    let mut device = MemDevice::new(300_000);
    assert_eq!(write(&file, &mut device, &options).unwrap().download.hex(), hash);
    assert_eq!(device.to_bytes(), image);
}

#[test]
fn what_is_known_not_to_fit_is_refused_before_the_disk_is_touched() {
    let image = sample(200_000);
    let full = vec![0xee; 150_000];
    for (compression, announce) in [(Compression::None, true), (Compression::Zstd, false)] {
        let file = if compression == Compression::Zstd {
            zstd::bulk::compress(&image, 1).unwrap()
        } else {
            pack(compression, &image)
        };
        let mut device = MemDevice::from_bytes(full.clone());
        let mut options = options(&file, compression);
        options.download_bytes = announce.then_some(file.len() as u64);
        let error = write(&file, &mut device, &options).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { image: 200_000, device: 150_000 }), "{error}");
        assert_eq!(device.to_bytes(), full);
    }
    for (file, compression) in [(vec![], Compression::None), (b"not packed".to_vec(), Compression::Gzip)] {
        let mut device = MemDevice::from_bytes(full.clone());
        write(&file, &mut device, &options(&file, compression)).unwrap_err();
        assert_eq!(device.to_bytes(), full);
    }
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let file = pack(Compression::Zstd, &vec![0; 5_000_000]);
    let mut options = options(&file, Compression::Zstd);
    options.max_bytes = 300_000;
    let error = write(&file, &mut MemDevice::new(10_000_000), &options).unwrap_err();
    assert!(matches!(error, ImageError::LimitExceeded { limit: 300_000 }), "{error}");
}

#[test]
fn a_wrong_checksum_leaves_nothing_that_boots() {
    let image = sample(400_000);
    let mut options = options(&image, Compression::None);
    options.checksum = Checksum::new(ChecksumAlgorithm::Sha256, &"0".repeat(64)).unwrap();
    let mut device = MemDevice::from_bytes(vec![0xee; 500_000]);
    let error = write(&image, &mut device, &options).unwrap_err();
    assert!(matches!(error, ImageError::Checksum { bytes: 400_000, .. }), "{error}");
    assert!(error.to_string().contains(&sha256(&image)));
    assert!(device.to_bytes()[..ZERO_STEP].iter().all(|b| *b == 0), "the partition table is written last");
}

#[test]
fn a_short_or_long_download_is_named_so() {
    let image = sample(200_000);
    let mut options = options(&image, Compression::None);
    options.download_bytes = Some(200_001);
    let error = write(&image, &mut MemDevice::new(300_000), &options).unwrap_err();
    assert!(matches!(error, ImageError::Truncated { expected: 200_001, got: 200_000 }), "{error}");
    options.download_bytes = Some(199_999);
    let error = write(&image, &mut MemDevice::new(300_000), &options).unwrap_err();
    assert!(matches!(error, ImageError::Overlong { expected: 199_999 }), "{error}");
}

#[test]
fn holes_of_extents_are_made_zeros_and_the_whole_disk_is_hashed() {
    // Two chunks of noise with holes of several chunks before, between and behind them.
    let (noise, hole) = (sample(90_000), 9 << 20);
    let image = [vec![0; hole], noise.clone(), vec![0; hole], noise, vec![0; hole]].concat();
    let file = extents(&image);
    let disk = MemDevice::from_bytes(vec![0xa5; image.len() + 100_000]);
    let options = WriteOptions { source: Some(qcow2_checksum()), ..options(&file, Compression::Extents) };
    let written = write(&file, &mut disk.clone(), &options).unwrap();
    assert!(disk.to_bytes()[..image.len()] == image);
    assert_eq!(
        (written.bytes_written, written.content.to_string()),
        (image.len() as u64, sha256_content(&image))
    );
    // A disk that forgets to zero is found out by the read-back.
    let faults = Faults { lose_zeroes: true, ..Faults::default() };
    let mut device = FaultyDevice::new(MemDevice::from_bytes(vec![0xa5; image.len()]), faults);
    let error = write(&file, &mut device, &options).unwrap_err();
    assert!(matches!(error, ImageError::Verify { .. }), "{error}");
}

#[test]
fn a_first_block_of_more_than_a_chunk_is_all_of_these_chunks() {
    let image = sample(3 * crate::extents::CHUNK - 5);
    let file = extents(&image);
    for chunks in [1, 2, 4] {
        let mut device = MemDevice::from_bytes(vec![0xee; image.len()]);
        let options = WriteOptions {
            block_bytes: chunks * crate::extents::CHUNK,
            ..options(&file, Compression::Extents)
        };
        write(&file, &mut device, &options).unwrap();
        assert!(device.to_bytes() == image, "{chunks}");
    }
}

#[test]
fn extents_of_another_image_or_of_a_larger_disk_are_refused_before_the_disk_is_touched() {
    let image = sample(200_000);
    let file = extents(&image);
    let full = vec![0xee; 300_000];
    let other = Checksum::new(ChecksumAlgorithm::Sha256, &"43".repeat(32)).unwrap();
    let mut options = WriteOptions { source: Some(other), ..options(&file, Compression::Extents) };
    let mut device = MemDevice::from_bytes(full.clone());
    let error = write(&file, &mut device, &options).unwrap_err();
    assert!(matches!(error, ImageError::OtherImage { .. }), "{error}");
    assert_eq!(device.to_bytes(), full);
    options.source = None;
    let mut device = MemDevice::from_bytes(full[..150_000].to_vec());
    let error = write(&file, &mut device, &options).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { image: 200_000, device: 150_000 }), "{error}");
    assert_eq!(device.to_bytes(), full[..150_000]);
}

#[test]
fn a_chunk_that_is_not_what_the_list_says_is_not_written() {
    let image = [sample(5 << 20), vec![0; 1 << 20]].concat();
    let mut file = extents(&image);
    let at = file.len() - 1000;
    file[at] ^= 1;
    let options = options(&file, Compression::Extents);
    let device = MemDevice::from_bytes(vec![0; image.len()]);
    let error = write(&file, &mut device.clone(), &options).unwrap_err();
    assert!(matches!(error, ImageError::Extents { .. }), "{error}");
    assert!(device.to_bytes()[4 << 20..].iter().all(|byte| *byte == 0));
}

#[test]
fn it_can_be_cancelled_in_both_stages() {
    let image = sample(400_000);
    for stage in [Stage::Writing, Stage::Verifying] {
        let mut stop =
            |at: Progress| if at.stage == stage { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let options = options(&image, Compression::None);
        let error = write_image(&mut image.as_slice(), &mut MemDevice::new(400_000), &options, &mut stop)
            .unwrap_err();
        assert!(matches!(error, ImageError::Cancelled { stage: at, .. } if at == stage), "{error}");
    }
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let run = prop_oneof![
        (1usize..150_000).prop_map(|length| vec![0; length]),
        (1usize..100_000, any::<u64>()).prop_map(|(length, seed)| {
            let mut state = seed | 1;
            (0..length)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 56) as u8
                })
                .collect()
        }),
    ];
    prop::collection::vec(run, 1..5).prop_map(|runs| runs.concat())
}

#[derive(Debug, Clone)]
enum Fault {
    None,
    SourceBreaks(f64),
    Truncated(f64),
    FlippedInTransit(f64, u8),
    WriteFails(f64),
    WriteLost(f64),
    ReadFails(f64),
    FlippedOnDisk(f64, u8),
    ZeroesLost,
    SyncFails,
}

fn fault() -> impl Strategy<Value = Fault> {
    let at = 0.0..1.0f64;
    prop_oneof![
        2 => Just(Fault::None),
        1 => at.clone().prop_map(Fault::SourceBreaks),
        1 => at.clone().prop_map(Fault::Truncated),
        1 => (at.clone(), 0u8..8).prop_map(|(at, bit)| Fault::FlippedInTransit(at, bit)),
        1 => at.clone().prop_map(Fault::WriteFails),
        1 => at.clone().prop_map(Fault::WriteLost),
        1 => at.clone().prop_map(Fault::ReadFails),
        1 => (at, 0u8..8).prop_map(|(at, bit)| Fault::FlippedOnDisk(at, bit)),
        1 => Just(Fault::ZeroesLost),
        1 => Just(Fault::SyncFails),
    ]
}

fn position(at: f64, length: usize) -> usize {
    ((at * length as f64) as usize).min(length.saturating_sub(1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever the data, the chunks, the packing and the fault: either success is said and the disk holds exactly the
    /// image, or an error is.
    #[test]
    fn never_silent(
        image in content(),
        compression in prop::sample::select(&ALL),
        sizes in prop::collection::vec(1usize..200_000, 0..6),
        spare in 0usize..100_000,
        announce: bool,
        fault in fault(),
    ) {
        let good = pack(compression, &image);
        let mut options = options(&good, compression);
        options.download_bytes = announce.then_some(good.len() as u64);
        let mut file = good.clone();
        let mut faults = Faults::default();
        let mut breaks = None;
        match &fault {
            Fault::None => {}
            Fault::SourceBreaks(at) => breaks = Some(position(*at, file.len())),
            Fault::Truncated(at) => file.truncate(position(*at, file.len())),
            Fault::FlippedInTransit(at, bit) => {
                let at = position(*at, file.len());
                file[at] ^= 1 << bit;
            }
            Fault::WriteFails(at) => faults.fail_write_at = Some(position(*at, image.len()) as u64),
            Fault::WriteLost(at) => faults.lose_write_at = Some(position(*at, image.len()) as u64),
            Fault::ReadFails(at) => faults.fail_read_at = Some(position(*at, image.len()) as u64),
            Fault::FlippedOnDisk(at, bit) => faults.flip = Some((position(*at, image.len()) as u64, *bit)),
            Fault::ZeroesLost => faults.lose_zeroes = true,
            Fault::SyncFails => faults.fail_sync = true,
        }
        let disk = MemDevice::from_bytes(vec![0xee; image.len() + spare]);
        let mut device = FaultyDevice::new(disk.clone(), faults);
        let result = write_image(&mut Chunks::new(&file, &sizes, breaks), &mut device, &options, &mut quiet);
        let holds = disk.to_bytes()[..image.len()] == image;
        match (&fault, result) {
            (Fault::None, result) => {
                let written = result.unwrap();
                prop_assert!(holds);
                let is = written.content.to_string();
                prop_assert!(is == blake3_content(&image) || is == sha256_content(&image), "{}", is);
            }
            // A lost write of something that was there anyway is no fault.
            (Fault::ZeroesLost | Fault::WriteLost(_), Ok(_)) => prop_assert!(holds),
            (_, Ok(_)) => prop_assert!(false, "success in spite of {:?}", fault),
            (_, Err(error)) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
