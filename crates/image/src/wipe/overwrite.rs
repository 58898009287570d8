//! Every byte of a disk: overwritten by this program, or deallocated by the disk.

use std::{
    ops::{ControlFlow, Range},
    time::Instant,
};

use super::{
    Observe, SAMPLE_BYTES, WipeError, WipeEvidence, count, expect_zero, failed, metadata_ranges, pieces,
    random, settle,
};
use crate::{
    device::BlockDevice,
    pipeline::{Progress, Stage},
};

/// It goes in steps of this size, so that progress can be told and cancelling works.
const STEP: u64 = 64 << 20;
/// A server may have hundreds of gigabytes of memory that are on their way to a slow disk. A multiple of [`STEP`].
const SYNC_EVERY: u64 = 1 << 30;
/// Deallocating a step takes a disk about as long as writing a few blocks.
const DEALLOCATE_STEP: u64 = 1 << 30;
/// What is written at once.
const PIECE: usize = 1 << 20;
/// Samples of what is not read back entirely, beside the places of signatures: as many spread evenly, both ends among
/// them, and as many at random.
const SAMPLES: u64 = 64;

/// Writes zeros over every byte and reads every byte back. They are written as data: a command to zero a range (NVMe
/// Write Zeroes, SCSI WRITE SAME) leaves it to the disk how.
pub(super) fn overwrite(
    device: &mut dyn BlockDevice,
    observe: &mut Observe<'_>,
) -> Result<WipeEvidence, WipeError> {
    let started = Instant::now();
    let size = device.size();
    let mut tell = |stage, done| observe(Progress { stage, done, total: Some(size) });
    let zeros = vec![0; PIECE];
    for step in steps(size, STEP) {
        let mut at = step.start;
        while at < step.end {
            let length = (step.end - at).min(PIECE as u64);
            device
                .write_at(at, &zeros[..length as usize])
                .map_err(failed("overwrite", &(at..at + length)))?;
            at += length;
        }
        // So that no more than this waits in memory, and whoever listens hears of it while it goes to the disk.
        if step.end % SYNC_EVERY == 0 {
            device.sync().map_err(failed("sync", &(0..size)))?;
        }
        if tell(Stage::Wiping, step.end).is_break() {
            return Err(WipeError::Cancelled(step.end));
        }
    }
    settle(device)?;
    let (mut verified_bytes, mut samples) = (0, 0);
    for step in steps(size, STEP) {
        let parts: Vec<_> = pieces(&step).collect();
        verified_bytes += expect_zero(device, &parts)?;
        samples += parts.len();
        if tell(Stage::Verifying, step.end).is_break() {
            return Err(WipeError::Cancelled(size));
        }
    }
    Ok(WipeEvidence {
        method: "overwrite",
        bytes: size,
        verified_samples: count(samples),
        verified_bytes,
        duration: started.elapsed(),
    })
}

/// Has the disk deallocate every byte so that it reads as zero ([`BlockDevice::deallocate`]), and reads back the places
/// of signatures, both ends, and samples, half of them at places that `seed` chooses. A disk whose answers differ from
/// place to place may still hide something between the samples: the evidence says how much was read.
pub fn deallocate(
    device: &mut dyn BlockDevice,
    seed: u64,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<WipeEvidence, WipeError> {
    let started = Instant::now();
    let size = device.size();
    for step in steps(size, DEALLOCATE_STEP) {
        device.deallocate(step.start, step.end - step.start).map_err(failed("deallocate", &step))?;
        let progress = Progress { stage: Stage::Wiping, done: step.end, total: Some(size) };
        if observe(progress).is_break() {
            return Err(WipeError::Cancelled(step.end));
        }
    }
    settle(device)?;
    let mut samples: Vec<_> = metadata_ranges(size, &[]).iter().flat_map(pieces).collect();
    samples.extend(spread(size));
    samples.extend(scattered(size, seed));
    let verified_bytes = expect_zero(device, &samples)?;
    Ok(WipeEvidence {
        method: "deallocate",
        bytes: size,
        verified_samples: count(samples.len()),
        verified_bytes,
        duration: started.elapsed(),
    })
}

fn steps(size: u64, step: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size.div_ceil(step)).map(move |n| n * step..size.min((n + 1) * step))
}

/// Samples spread evenly, the first at the start and the last at the end.
fn spread(size: u64) -> Vec<Range<u64>> {
    let length = SAMPLE_BYTES.min(size);
    let count = SAMPLES.min(size.div_ceil(SAMPLE_BYTES)).max(1);
    let last = size - length;
    let at = |n: u64| (u128::from(last) * u128::from(n) / u128::from((count - 1).max(1))) as u64;
    (0..count).map(at).map(|start| start..start + length).filter(|range| range.start < range.end).collect()
}

/// Samples at random places.
fn scattered(size: u64, seed: u64) -> Vec<Range<u64>> {
    let length = SAMPLE_BYTES.min(size);
    let places = (size - length).saturating_add(1);
    let some = if size == 0 { 0 } else { SAMPLES as usize };
    random(seed).take(some).map(|n| n % places).map(|start| start..start + length).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{Faults, FaultyDevice, MemDevice};

    const MIB: u64 = 1 << 20;

    #[test]
    fn overwriting_leaves_nothing_reads_all_of_it_back_and_tells_progress() {
        let mut device = MemDevice::from_bytes(vec![9; (130 << 20) + 777]);
        let mut seen = Vec::new();
        let evidence = overwrite(&mut device, &mut |p| {
            seen.push((p.stage, p.done));
            ControlFlow::Continue(())
        })
        .unwrap();
        let size = 130 * MIB + 777;
        assert!(device.to_bytes().iter().all(|b| *b == 0));
        let ends = [64 * MIB, 128 * MIB, size];
        let told = |stage| ends.map(|end| (stage, end));
        assert_eq!(seen, [told(Stage::Wiping), told(Stage::Verifying)].concat());
        assert_eq!((evidence.bytes, evidence.verified_bytes), (size, size));
    }

    #[test]
    fn one_bit_anywhere_is_found_by_the_read_back() {
        for at in [0, 777, 5 * MIB + 1, 8 * MIB - 1] {
            let faults = Faults { flip: Some((at, 3)), ..Faults::default() };
            let mut device = FaultyDevice::new(MemDevice::from_bytes(vec![1; 8 << 20]), faults);
            let error = overwrite(&mut device, &mut |_| ControlFlow::Continue(())).unwrap_err();
            assert!(
                matches!(error, WipeError::NotZero { offset, .. } if offset == at / SAMPLE_BYTES * SAMPLE_BYTES)
            );
        }
    }

    #[test]
    fn deallocating_is_only_believed_where_it_reads_as_zero() {
        let mut device = MemDevice::from_bytes(vec![9; 16 << 20]);
        let evidence = deallocate(&mut device, 1, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((evidence.method, evidence.bytes), ("deallocate", 16 * MIB));
        assert!(evidence.verified_samples >= 3 * 64 && evidence.verified_bytes >= 12 * MIB);
        assert!(device.to_bytes().iter().all(|b| *b == 0));
        let faults = Faults { lose_zeroes: true, ..Faults::default() };
        let mut device = FaultyDevice::new(MemDevice::from_bytes(vec![9; 16 << 20]), faults);
        let error = deallocate(&mut device, 1, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, WipeError::NotZero { offset: 0, .. }), "{error}");
    }

    #[test]
    fn samples_reach_both_ends_of_any_disk_and_lie_within() {
        for size in [1, 512, SAMPLE_BYTES, SAMPLE_BYTES + 1, 10 * MIB + 3, 20 << 40] {
            let samples = spread(size);
            assert_eq!(samples.first().unwrap().start, 0);
            assert_eq!(samples.last().unwrap().end, size, "{size}");
            assert!(scattered(size, 7).iter().all(|sample| sample.start < sample.end && sample.end <= size));
        }
        assert!(spread(0).is_empty() && scattered(0, 7).is_empty());
    }
}
