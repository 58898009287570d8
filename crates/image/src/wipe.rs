//! Cleaning of disks, with evidence.
//!
//! *Metadata*: zeros the places where partition tables, RAID, volume managers and filesystems keep their signatures: the
//! first and last few MiB of the disk (MBR, both GPTs, LVM and md at the start; md 0.90/1.0, DDF and two of the four ZFS
//! labels at the end) and the start and end of each partition, which is a disk of its own to all of these.
//! *Full*: zeros every byte. Both read back: everything that was zeroed for metadata, samples for full.

use std::{
    io,
    ops::{ControlFlow, Range},
    time::{Duration, Instant},
};

use crate::{
    device::{BlockDevice, is_zero},
    gpt::PartitionTable,
    pipeline::{Progress, Stage},
};

const MIB: u64 = 1024 * 1024;
/// Zeroed at both ends of the disk.
const DISK_ENDS: u64 = 4 * MIB;
/// Zeroed at both ends of each partition: covers all labels and superblocks but the far copies, which nothing reads when
/// the first is gone.
const PARTITION_ENDS: u64 = MIB;
/// A full wipe goes in steps of this size, so that progress can be told and cancelling works.
const STEP: u64 = 64 * MIB;
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
    /// Bytes that were overwritten.
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
        WipeMode::Metadata => ("zero-metadata", metadata_ranges(size, &partition_spans(device))),
        WipeMode::Full => ("zero-full", steps(size)),
    };
    let bytes = ranges.iter().map(|range| range.end - range.start).sum();
    let failed = |operation, range: &Range<u64>| {
        let (offset, length) = (range.start, range.end - range.start);
        move |source| WipeError::Device { operation, offset, length, source }
    };
    let mut done = 0;
    for range in &ranges {
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

/// Where partitions are, by whatever table can still be read. A damaged table is no reason not to wipe.
fn partition_spans(device: &mut dyn BlockDevice) -> Vec<Range<u64>> {
    if let Ok(table) = PartitionTable::read_primary(device) {
        return table.partitions().iter().map(|p| p.start..p.start + p.length).collect();
    }
    let mut mbr = [0; 512];
    if device.size() < 512 || device.read_at(0, &mut mbr).is_err() || mbr[510..] != [0x55, 0xaa] {
        return Vec::new();
    }
    let block = u64::from(device.block_size());
    let number = |entry: &[u8], at: usize| {
        u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]))
    };
    let used = mbr[446..510].chunks_exact(16).filter(|entry| entry[4] != 0);
    used.map(|entry| number(entry, 8) * block..(number(entry, 8) + number(entry, 12)) * block).collect()
}

/// The ranges to zero, in order and without overlap. Pure.
fn metadata_ranges(size: u64, partitions: &[Range<u64>]) -> Vec<Range<u64>> {
    let ends = |span: &Range<u64>, ends: u64| {
        let (start, end) = (span.start.min(size), span.end.min(size));
        let length = ends.min(end.saturating_sub(start));
        [start..start + length, end.max(start) - length..end.max(start)]
    };
    let mut all: Vec<Range<u64>> = ends(&(0..size), DISK_ENDS).into();
    all.extend(partitions.iter().flat_map(|span| ends(span, PARTITION_ENDS)));
    all.retain(|range| range.start < range.end);
    all.sort_unstable_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in all {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
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
    fn ranges_are_the_ends_of_disk_and_partitions() {
        let ranges =
            metadata_ranges(100 * MIB, &[10 * MIB..50 * MIB, 50 * MIB..99 * MIB, 90 * MIB..500 * MIB]);
        let expected =
            [0..4 * MIB, 10 * MIB..11 * MIB, 49 * MIB..51 * MIB, 90 * MIB..91 * MIB, 96 * MIB..100 * MIB];
        assert_eq!(ranges, expected);
        assert_eq!(metadata_ranges(3 * MIB, &[]).first(), Some(&(0..3 * MIB)));
        assert!(metadata_ranges(0, &[7..9, 9..9]).is_empty());
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
        assert_eq!((evidence.method, evidence.bytes), ("zero-metadata", 8 * MIB));
        assert_eq!(evidence.verified_samples, 128);
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
