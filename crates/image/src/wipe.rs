//! Cleaning of disks by writing, with evidence.
//!
//! *Metadata*: zeros the places where partition tables, RAID, volume managers and filesystems keep their signatures, on
//! the disk and on each partition ([`places`]). The rest of the disk can still be read by whoever wants to: the evidence
//! says how many bytes were overwritten, and its method does not claim more.
//! *Full*: writes zeros over every byte, as data and not by a command that the disk may take for a hint. Both are read
//! back entirely.
//!
//! What disks can do themselves is not here but for what every block device has: [`deallocate`]. Whoever has a disk
//! erase itself plants [`Markers`] before and looks for them afterwards.

mod markers;
mod overwrite;
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
pub use markers::{Gone, MARKER_BYTES, Markers};
pub use overwrite::deallocate;
use overwrite::overwrite;
use places::{metadata_ranges, partition_spans, tables_last};

#[cfg(test)]
const MIB: u64 = 1024 * 1024;
/// Pieces in which is read back what is not read back entirely.
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
    /// `zero-metadata`, `deallocate` or `overwrite`.
    pub method: &'static str,
    /// Bytes that were overwritten or deallocated: not all of the disk for `zero-metadata`.
    pub bytes: u64,
    /// Pieces that were read back and are zero.
    pub verified_samples: u32,
    /// Bytes of these pieces, where they overlap counted twice.
    pub verified_bytes: u64,
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
    /// The disk does not keep what is written: nothing can be shown on it.
    #[error("the marker that was written at {offset} is not what is read there")]
    MarkerLost {
        /// Where.
        offset: u64,
    },
    /// The disk says that it erased itself and did not.
    #[error("the marker that was written at {offset} before the disk was erased is still there")]
    MarkerFound {
        /// Where.
        offset: u64,
    },
    /// Someone asked to stop.
    #[error("cancelled after {0} bytes were wiped")]
    Cancelled(u64),
}

/// What to tell while it goes on; `Break` stops it.
type Observe<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Wipes a disk.
pub fn wipe(
    device: &mut dyn BlockDevice,
    mode: WipeMode,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<WipeEvidence, WipeError> {
    match mode {
        WipeMode::Metadata => zero_metadata(device, observe),
        WipeMode::Full => overwrite(device, observe),
    }
}

fn zero_metadata(device: &mut dyn BlockDevice, observe: &mut Observe<'_>) -> Result<WipeEvidence, WipeError> {
    let started = Instant::now();
    let size = device.size();
    let ranges = tables_last(&metadata_ranges(size, &partition_spans(device)), size);
    let bytes = ranges.iter().map(|range| range.end - range.start).sum();
    let mut done = 0;
    for range in &ranges {
        if range.start == 0 || range.end == size {
            // What was found by the tables is gone for good before they are.
            device.sync().map_err(failed("sync", &(0..size)))?;
        }
        device.write_zeroes(range.start, range.end - range.start).map_err(failed("zero", range))?;
        done += range.end - range.start;
        if observe(Progress { stage: Stage::Wiping, done, total: Some(bytes) }).is_break() {
            return Err(WipeError::Cancelled(done));
        }
    }
    settle(device)?;
    let samples: Vec<_> = ranges.iter().flat_map(pieces).collect();
    let verified_bytes = expect_zero(device, &samples)?;
    Ok(WipeEvidence {
        method: "zero-metadata",
        bytes,
        verified_samples: count(samples.len()),
        verified_bytes,
        duration: started.elapsed(),
    })
}

/// An error of the disk, told with the place.
fn failed(operation: &'static str, range: &Range<u64>) -> impl FnOnce(io::Error) -> WipeError + use<> {
    let (offset, length) = (range.start, range.end - range.start);
    move |source| WipeError::Device { operation, offset, length, source }
}

/// Everything written is on the disk, and what is read from now on comes from there.
fn settle(device: &mut dyn BlockDevice) -> Result<(), WipeError> {
    let whole = 0..device.size();
    device.sync().map_err(failed("sync", &whole))?;
    device.drop_caches().map_err(failed("drop caches", &whole))
}

/// Reads pieces, each of at most [`SAMPLE_BYTES`], which are to be zero; the sum of their sizes.
fn expect_zero(device: &mut dyn BlockDevice, samples: &[Range<u64>]) -> Result<u64, WipeError> {
    let mut buffer = vec![0; SAMPLE_BYTES as usize];
    let mut bytes = 0;
    for sample in samples {
        let part = &mut buffer[..(sample.end - sample.start) as usize];
        device.read_at(sample.start, part).map_err(failed("read back", sample))?;
        if !is_zero(part) {
            return Err(WipeError::NotZero { offset: sample.start, length: part.len() as u64 });
        }
        bytes += part.len() as u64;
    }
    Ok(bytes)
}

fn count(samples: usize) -> u32 {
    u32::try_from(samples).unwrap_or(u32::MAX)
}

fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let (start, end) = (range.start, range.end);
    (0..(end - start).div_ceil(SAMPLE_BYTES))
        .map(move |n| start + n * SAMPLE_BYTES..end.min(start + (n + 1) * SAMPLE_BYTES))
}

/// Pseudo-random numbers (SplitMix64 of Steele, Lea and Flood, 2014): places and contents that a disk cannot foresee,
/// and that come again from the same seed.
fn random(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
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
        assert_eq!(evidence.verified_bytes, evidence.bytes, "all of it was read back");
        assert_eq!(u64::from(evidence.verified_samples), evidence.bytes / SAMPLE_BYTES);
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
        assert_eq!((found(&device), evidence.method, evidence.bytes), (0, "overwrite", 24 * MIB));
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
            let faults = Faults { lose_zeroes: true, lose_write_at: Some(70_000), ..Faults::default() };
            let mut device = FaultyDevice::new(MemDevice::from_bytes(vec![9; 1 << 20]), faults);
            let lost = wipe(&mut device, mode, &mut quiet);
            assert!(matches!(lost, Err(WipeError::NotZero { offset: 0, .. })), "{lost:?}");
            let faults = Faults { fail_write_at: Some(70_000), ..Faults::default() };
            let mut device = FaultyDevice::new(MemDevice::new(1 << 20), faults);
            let failed = wipe(&mut device, mode, &mut quiet);
            assert!(
                matches!(failed, Err(WipeError::Device { operation: "zero" | "overwrite", .. })),
                "{failed:?}"
            );
        }
    }
}
