//! What threads add: whoever fails, all end, nothing is read far ahead, and what is said does not depend on who was
//! faster.
#![allow(clippy::unwrap_used)]

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::*;
use crate::{ChecksumAlgorithm, Faults, FaultyDevice, MemDevice};

const BLOCK: usize = ZERO_STEP;
/// What can be on its way between source and disk: all buffers, and the block that is being written.
const AHEAD: u64 = ((PARTS + 1) * BLOCK) as u64;
const MIB: usize = 1 << 20;

type Then = fn() -> io::Result<usize>;

/// Noise without an end, in reads of this many bytes; counts what was taken.
struct Noise {
    step: usize,
    taken: Arc<AtomicU64>,
    /// What happens after this many bytes.
    then: Option<(u64, Then)>,
}

fn noise(step: usize) -> Noise {
    Noise { step, taken: Arc::default(), then: None }
}

fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.taken.load(Ordering::SeqCst);
        let mut count = buffer.len().min(self.step);
        if let Some((end, what)) = self.then {
            if at >= end {
                return what();
            }
            count = count.min((end - at) as usize);
        }
        buffer[..count].iter_mut().enumerate().for_each(|(n, into)| *into = byte(at + n as u64));
        self.taken.fetch_add(count as u64, Ordering::SeqCst);
        Ok(count)
    }
}

fn image(length: usize) -> Vec<u8> {
    (0..length as u64).map(byte).collect()
}

fn options(compression: Compression) -> WriteOptions {
    let checksum = Checksum::new(ChecksumAlgorithm::Sha256, &"0".repeat(64)).unwrap();
    WriteOptions { block_bytes: BLOCK, ..WriteOptions::new(checksum, compression) }
}

/// Fails instead of hanging.
fn within_a_minute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    wait.recv_timeout(Duration::from_secs(60)).expect("it ends")
}

fn write(
    mut source: impl Read + Send + 'static,
    mut device: impl BlockDevice + 'static,
    options: WriteOptions,
    mut observe: impl FnMut(Progress) -> ControlFlow<()> + Send + 'static,
) -> Result<Written, ImageError> {
    within_a_minute(move || write_image(&mut source, &mut device, &options, &mut observe))
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_disk_that_fails_ends_a_source_that_would_go_on_for_ever() {
    let faults = [
        Faults { fail_write_at: Some(5 * MIB as u64), ..Faults::default() },
        // The very first thing that is done to the disk.
        Faults { fail_write_at: Some(0), ..Faults::default() },
    ];
    for faults in faults {
        let (at, source) = (faults.fail_write_at.unwrap(), noise(70_001));
        let taken = source.taken.clone();
        let device = FaultyDevice::new(MemDevice::new(64 * MIB), faults);
        let error = write(source, device, options(Compression::None), go_on).unwrap_err();
        let ImageError::Device { offset, length, .. } = error else { panic!("{error}") };
        assert!((offset..offset + length).contains(&at));
        let taken = taken.load(Ordering::SeqCst);
        assert!(taken <= at + AHEAD, "{taken} bytes were taken from the source for {at}");
    }
}

#[test]
fn a_source_that_fails_is_told_after_everything_before_it_was_written() {
    let length = 5 * MIB + 12_345;
    let image = image(length);
    for step in [1_000, 70_001, usize::MAX] {
        let mut source = noise(step);
        source.then = Some((length as u64, || Err(io::ErrorKind::ConnectionReset.into())));
        let disk = MemDevice::from_bytes(vec![0xee; 8 * MIB]);
        let error = write(source, disk.clone(), options(Compression::None), go_on).unwrap_err();
        let ImageError::Source { bytes, source } = error else { panic!("{error}") };
        assert_eq!((bytes, source.kind()), (length as u64, io::ErrorKind::ConnectionReset));
        let (disk, whole) = (disk.to_bytes(), length / BLOCK * BLOCK);
        assert!(disk[..BLOCK].iter().all(|byte| *byte == 0), "the first block comes last");
        assert!(disk[BLOCK..whole] == image[BLOCK..whole]);
        assert!(disk[whole..8 * MIB - BLOCK].iter().all(|byte| *byte == 0xee));
    }
}

#[test]
fn damage_is_named_by_the_stage_that_finds_it_whatever_comes_behind_it() {
    // The unpacking stage: a stream that is damaged in its middle, and breaks off later.
    let mut packed = zstd::encode_all(image(6 * MIB).as_slice(), 1).unwrap();
    let middle = packed.len() / 2;
    packed[middle..middle + 64].fill(0xff);
    let later = noise(1).chain(io::empty());
    let source = io::Cursor::new(packed).chain(later);
    let error = write(source, MemDevice::new(8 * MIB), options(Compression::Zstd), go_on).unwrap_err();
    let ImageError::Decode { compression: Compression::Zstd, bytes, .. } = error else { panic!("{error}") };
    assert!(bytes <= middle as u64 + CHUNK as u64);

    // The inspecting stage: a chunk that is not what the list says; nothing of it or behind it is written.
    let mut disk = image(3 * extents::CHUNK);
    disk.extend(image(9));
    let qcow2 = crate::qcow2_of(&disk);
    let mut file = Vec::new();
    let source = Checksum::new(ChecksumAlgorithm::Sha256, &"42".repeat(32)).unwrap();
    let mut qcow2 = crate::Qcow2::open(qcow2, u64::MAX).unwrap();
    extents::pack(&mut qcow2, &source, &mut file, &mut |_, _| Ok(())).unwrap();
    // Header, then number, length, hash: of the first chunk.
    let hash = 8 + 8 + 4 + 1 + 64 + 8 + 4;
    file[hash] ^= 1;
    let target = MemDevice::from_bytes(vec![0xee; disk.len()]);
    let error =
        write(io::Cursor::new(file), target.clone(), options(Compression::Extents), go_on).unwrap_err();
    assert!(matches!(error, ImageError::Extents { .. }), "{error}");
    assert!(target.to_bytes().iter().all(|byte| *byte == 0xee), "found before the disk was touched");
}

#[test]
fn cancelling_ends_a_source_that_would_go_on_for_ever() {
    let source = noise(usize::MAX);
    let taken = source.taken.clone();
    let mut blocks = 0;
    let stop = move |_: Progress| {
        blocks += 1;
        if blocks == 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let error = write(source, MemDevice::new(64 * MIB), options(Compression::None), stop).unwrap_err();
    let ImageError::Cancelled { stage: Stage::Writing, bytes } = error else { panic!("{error}") };
    assert_eq!(bytes, 20 * BLOCK as u64, "what was written, not what was read ahead");
    assert!(taken.load(Ordering::SeqCst) <= bytes + AHEAD);
}

#[test]
fn who_cancels_and_closes_the_source_has_cancelled() {
    let mut source = noise(usize::MAX);
    source.then = Some((3 * MIB as u64, || Err(io::ErrorKind::BrokenPipe.into())));
    let taken = source.taken.clone();
    let stop = move |_: Progress| {
        // Not before the source has been closed.
        if taken.load(Ordering::SeqCst) < 3 * MIB as u64 {
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(())
    };
    let error = write(source, MemDevice::new(64 * MIB), options(Compression::None), stop).unwrap_err();
    assert!(matches!(error, ImageError::Cancelled { stage: Stage::Writing, .. }), "{error}");
}

#[test]
fn reads_of_a_byte_and_interruptions_are_reads() {
    struct Fitful(Noise, bool);
    impl Read for Fitful {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.read(buffer) }
        }
    }
    let length = 2 * BLOCK + 1;
    let mut source = noise(1);
    source.then = Some((length as u64, || Ok(0)));
    let image = image(length);
    let hash = hex::encode(ring::digest::digest(&ring::digest::SHA256, &image));
    let mut options = options(Compression::None);
    options.checksum = Checksum::new(ChecksumAlgorithm::Sha256, &hash).unwrap();
    let disk = MemDevice::new(length);
    let written = write(Fitful(source, false), disk.clone(), options, go_on).unwrap();
    assert_eq!((written.bytes_read, written.download.hex()), (length as u64, hash.as_str()));
    assert!(disk.to_bytes() == image);
}

#[test]
fn a_disk_that_cannot_be_read_back_ends_the_hasher_and_boots_nothing() {
    let length = 40 * BLOCK;
    let image = image(length);
    let mut options = options(Compression::None);
    let hash = hex::encode(ring::digest::digest(&ring::digest::SHA256, &image));
    options.checksum = Checksum::new(ChecksumAlgorithm::Sha256, &hash).unwrap();
    let disk = MemDevice::new(length);
    let faults = Faults { fail_read_at: Some(17 * BLOCK as u64), ..Faults::default() };
    let device = FaultyDevice::new(disk.clone(), faults);
    let error = write(io::Cursor::new(image), device, options, go_on).unwrap_err();
    let ImageError::Device { operation: "read back", offset, .. } = error else { panic!("{error}") };
    assert_eq!(offset, 17 * BLOCK as u64);
    assert!(disk.to_bytes()[..BLOCK].iter().all(|byte| *byte == 0));
}

#[test]
fn a_panic_in_a_stage_is_a_panic_of_the_caller_and_hangs_nobody() {
    let mut source = noise(usize::MAX);
    source.then = Some((MIB as u64, || panic!("a source that is not well")));
    let ended = within_a_minute(move || {
        let write = move || {
            write_image(&mut source, &mut MemDevice::new(8 * MIB), &options(Compression::None), &mut go_on)
                .map(drop)
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).is_err()
    });
    assert!(ended);
}

/// Many small parts and one buffer's worth of large ones: a zero run over several parts is made in one go.
#[test]
fn zeros_over_many_parts_are_made_at_once_and_counted() {
    struct Counting(MemDevice, Arc<AtomicU64>);
    impl BlockDevice for Counting {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            self.0.read_at(offset, buffer)
        }
        fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write_at(offset, data)
        }
        fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.write_zeroes(offset, length)
        }
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn drop_caches(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let image = [image(3 * BLOCK), vec![0; 100 * BLOCK], image(BLOCK), vec![0; 5 * BLOCK + 7]].concat();
    let hash = hex::encode(ring::digest::digest(&ring::digest::SHA256, &image));
    let mut options = options(Compression::None);
    options.checksum = Checksum::new(ChecksumAlgorithm::Sha256, &hash).unwrap();
    let (disk, calls) = (MemDevice::from_bytes(vec![0xee; image.len()]), Arc::new(AtomicU64::new(0)));
    let device = Counting(disk.clone(), calls.clone());
    let written = write(io::Cursor::new(image.clone()), device, options, go_on).unwrap();
    assert_eq!(written.bytes_zeroed, 105 * BLOCK as u64 + 7);
    assert_eq!(calls.load(Ordering::SeqCst), 4, "both ends of the disk and two runs");
    assert!(disk.to_bytes() == image);
}
