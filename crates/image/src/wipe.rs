//! Cleaning of disks, with evidence.
//!
//! *Metadata*: zeros the places where partition tables, RAID, volume managers and filesystems keep their signatures, on
//! the disk and on each partition ([`places`]). The rest of the disk can still be read by whoever wants to: the evidence
//! says how many bytes were overwritten, and its method does not claim more.
//! *Full*: zeros every byte. Both read back: everything that was zeroed for metadata, samples for full.

mod places;

use std::{
    io,
    ops::{ControlFlow, Range},
    time::{Duration, Instant},
};

use crate::{
    device::{BlockDevice, is_zero},
    pipeline::{Progress, Stage},
};
use places::{metadata_ranges, partition_spans, tables_last};

#[cfg(test)]
const MIB: u64 = 1024 * 1024;
/// A full wipe goes in steps of this size, so that progress can be told and cancelling works.
const STEP: u64 = 64 << 20;
/// Samples of a full wipe, spread over the disk; both ends are among them.
const SAMPLES: u64 = 64;
const SAMPLE_BYTES: u64 = 64 * 1024;

/// How thoroughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WipeMode {
    /// Signatures only.
    Metadata,
    /// Every byte.
    Full,
}

/// What was done, and how it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WipeEvidence {
    /// `zero-metadata` or `zero-full`.
    pub method: &'static str,
    /// Bytes that were overwritten: all of the disk for `zero-full` only.
    pub bytes: u64,
    /// Pieces that were read back and are zero.
    pub verified_samples: u32,
    /// How long it took.
    pub duration: Duration,
}

/// Why a disk is not clean.
#[derive(Debug, thiserror::Error)]
pub enum WipeError {
    /// The disk refused.
    #[error("the disk failed to {operation} {length} bytes at {offset}: {source}")]
    Device {
        /// What was tried.
        operation: &'static str,
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The disk says that it wrote zeros and holds something else.
    #[error("the disk is not zero within the {length} bytes at {offset} after they were wiped")]
    NotZero {
        /// Where.
        offset: u64,
        /// Size of the piece.
        length: u64,
    },
    /// Someone asked to stop.
    #[error("cancelled after {0} bytes were wiped")]
    Cancelled(u64),
}

/// Wipes a disk.
pub fn wipe(
    device: &mut dyn BlockDevice,
    mode: WipeMode,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<WipeEvidence, WipeError> {
    let started = Instant::now();
    let size = device.size();
    let (method, ranges) = match mode {
        WipeMode::Metadata => {
            let ranges = metadata_ranges(size, &partition_spans(device));
            let ranges = tables_last(&ranges, size);
            ("zero-metadata", ranges)
        }
        WipeMode::Full => ("zero-full", steps(size)),
    };
    let bytes = ranges.iter().map(|range| range.end - range.start).sum();
    let failed = |operation, range: &Range<u64>| {
        let (offset, length) = (range.start, range.end - range.start);
        move |source| WipeError::Device { operation, offset, length, source }
    };
    let mut done = 0;
    for range in &ranges {
        if mode == WipeMode::Metadata && (range.start == 0 || range.end == size) {
            // What was found by the tables is gone for good before they are.
            device.sync().map_err(failed("sync", &(0..size)))?;
        }
        device.write_zeroes(range.start, range.end - range.start).map_err(failed("zero", range))?;
        done += range.end - range.start;
        if observe(Progress { stage: Stage::Wiping, done, total: Some(bytes) }).is_break() {
            return Err(WipeError::Cancelled(done));
        }
    }
    device.sync().map_err(failed("sync", &(0..size)))?;
    device.drop_caches().map_err(failed("drop caches", &(0..size)))?;
    let samples = match mode {
        WipeMode::Metadata => ranges.iter().flat_map(pieces).collect(),
        WipeMode::Full => spread(size),
    };
    let mut buffer = vec![0; SAMPLE_BYTES as usize];
    for sample in &samples {
        let part = &mut buffer[..(sample.end - sample.start) as usize];
        device.read_at(sample.start, part).map_err(failed("read back", sample))?;
        if !is_zero(part) {
            return Err(WipeError::NotZero { offset: sample.start, length: part.len() as u64 });
        }
    }
    Ok(WipeEvidence { method, bytes, verified_samples: samples.len() as u32, duration: started.elapsed() })
}

fn steps(size: u64) -> Vec<Range<u64>> {
    (0..size.div_ceil(STEP)).map(|n| n * STEP..size.min((n + 1) * STEP)).collect()
}

fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let (start, end) = (range.start, range.end);
    (0..(end - start).div_ceil(SAMPLE_BYTES))
        .map(move |n| start + n * SAMPLE_BYTES..end.min(start + (n + 1) * SAMPLE_BYTES))
}

/// Samples spread evenly, the first at the start and the last at the end.
fn spread(size: u64) -> Vec<Range<u64>> {
    let length = SAMPLE_BYTES.min(size);
    let count = SAMPLES.min(size.div_ceil(SAMPLE_BYTES)).max(1);
    let last = size - length;
    let at = |n: u64| (u128::from(last) * u128::from(n) / u128::from((count - 1).max(1))) as u64;
    (0..count).map(at).map(|start| start..start + length).filter(|range| range.start < range.end).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{Faults, FaultyDevice, MemDevice, build_test_image, check_bootable};

    fn quiet(_: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn metadata_goes_and_the_rest_stays() {
        let mut device = MemDevice::new(32 << 20);
        build_test_image(&mut device, 3).unwrap();
        let before = device.to_bytes();
        let evidence = wipe(&mut device, WipeMode::Metadata, &mut quiet).unwrap();
        assert!(check_bootable(&mut device).is_err());
        let after = device.to_bytes();
        assert!(after[..4 << 20].iter().all(|b| *b == 0) && after[28 << 20..].iter().all(|b| *b == 0));
        assert!(after[8 << 20..24 << 20] == before[8 << 20..24 << 20]);
        // The evidence does not claim what was not done.
        assert_eq!(evidence.method, "zero-metadata");
        assert!(evidence.bytes < 32 * MIB);
        assert_eq!(
            u64::from(evidence.verified_samples),
            evidence.bytes / SAMPLE_BYTES,
            "all of it was read back"
        );
    }

    #[test]
    fn full_leaves_nothing_and_tells_progress() {
        let mut device = MemDevice::from_bytes(vec![9; (130 << 20) + 777]);
        let mut seen = Vec::new();
        let evidence = wipe(&mut device, WipeMode::Full, &mut |p| {
            seen.push(p.done);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(device.to_bytes().iter().all(|b| *b == 0));
        assert_eq!(seen, [64 * MIB, 128 * MIB, 130 * MIB + 777]);
        assert_eq!((evidence.bytes, evidence.verified_samples), (130 * MIB + 777, 64));
    }

    #[test]
    fn a_planted_marker_is_found_nowhere_after_a_full_wipe_and_still_after_a_metadata_wipe() {
        const MARKER: &[u8] = b"tenant's secret 4711";
        let planted = || {
            let mut device = MemDevice::new(24 << 20);
            build_test_image(&mut device, 5).unwrap();
            for at in (0..24 * MIB).step_by(777_777) {
                device.write_at(at, MARKER).unwrap();
            }
            device
        };
        let found = |device: &MemDevice| {
            device.to_bytes().windows(MARKER.len()).filter(|window| *window == MARKER).count()
        };
        let mut device = planted();
        assert!(found(&device) > 30);
        let evidence = wipe(&mut device, WipeMode::Full, &mut quiet).unwrap();
        assert_eq!((found(&device), evidence.method, evidence.bytes), (0, "zero-full", 24 * MIB));
        let mut device = planted();
        let evidence = wipe(&mut device, WipeMode::Metadata, &mut quiet).unwrap();
        assert!(found(&device) > 0 && evidence.method == "zero-metadata" && evidence.bytes < 24 * MIB);
    }

    #[test]
    fn a_wipe_that_is_broken_off_finds_the_partitions_again() {
        let mut device = MemDevice::new(64 << 20);
        build_test_image(&mut device, 5).unwrap();
        let partitions = check_bootable(&mut device).unwrap();
        let stop = &mut |_| ControlFlow::Break(());
        assert!(matches!(wipe(&mut device, WipeMode::Metadata, stop), Err(WipeError::Cancelled(_))));
        assert_eq!(check_bootable(&mut device).unwrap(), partitions);
        wipe(&mut device, WipeMode::Metadata, &mut quiet).unwrap();
        assert!(check_bootable(&mut device).is_err());
    }

    #[test]
    fn a_disk_that_only_says_so_is_not_clean() {
        for mode in [WipeMode::Metadata, WipeMode::Full] {
            let faults = Faults { lose_zeroes: true, ..Faults::default() };
            let mut device = FaultyDevice::new(MemDevice::from_bytes(vec![9; 1 << 20]), faults);
            assert!(matches!(wipe(&mut device, mode, &mut quiet), Err(WipeError::NotZero { offset: 0, .. })));
            let faults = Faults { fail_write_at: Some(70_000), ..Faults::default() };
            let mut device = FaultyDevice::new(MemDevice::new(1 << 20), faults);
            assert!(matches!(
                wipe(&mut device, mode, &mut quiet),
                Err(WipeError::Device { operation: "zero", .. })
            ));
        }
    }

    #[test]
    fn samples_reach_both_ends_of_any_disk() {
        for size in [1, 512, SAMPLE_BYTES, SAMPLE_BYTES + 1, 10 * MIB + 3, 20 << 40] {
            let samples = spread(size);
            assert_eq!(samples.first().unwrap().start, 0);
            assert_eq!(samples.last().unwrap().end, size, "{size}");
        }
        assert!(spread(0).is_empty());
    }
}
