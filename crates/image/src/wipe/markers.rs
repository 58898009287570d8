//! Markers: what shows that a disk which was told to erase itself did something.
//!
//! After a cryptographic erase a disk may read as anything, so zeros prove nothing and their absence proves nothing. What
//! can be shown is that blocks which were on the disk before, and were read back from it, are there no more. It says
//! nothing about blocks that the disk has set aside (bad, spare): of those there is only the disk's word.

use std::ops::Range;

use super::{WipeError, count, failed, metadata_ranges, partition_spans, random, settle};
use crate::device::{BlockDevice, is_zero};

/// Size of a marker, in bytes: no disk has larger logical blocks.
pub const MARKER_BYTES: u64 = 4096;
/// The smallest part of a marker that may not be left. No disk has smaller logical blocks.
const SECTOR: usize = 512;
/// Every sector of every marker begins with this: it is known again by an agent that did not write it.
const MAGIC: &[u8; 16] = b"ferric-marker-01";
/// Markers at random places.
const RANDOM: usize = 64;
/// Most markers at the places of signatures. A disk with more partitions than this leaves room for is not served worse:
/// all of it is erased, whatever is sampled.
const MOST: usize = 4096;

/// Blocks that were written to a disk to see them go.
#[derive(Debug, Clone)]
pub struct Markers {
    /// `None` where another agent wrote them.
    seed: Option<u64>,
    /// Offsets in bytes, multiples of [`MARKER_BYTES`], in order.
    places: Vec<u64>,
}

/// What was read where markers were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// Places that were read, in each of which no sector of a marker is left.
    pub places: u32,
    /// Those of them that read as zeros.
    pub zero: u32,
    /// Bytes that were read.
    pub bytes: u64,
}

impl Markers {
    /// Writes markers where signatures are kept on the disk and on the partitions that its tables still show, at both
    /// ends of the disk, and at random places; and reads them back from the disk. They destroy what is there.
    pub fn plant(device: &mut dyn BlockDevice, seed: u64) -> Result<Self, WipeError> {
        let size = device.size();
        let mut places = places_of(size, &partition_spans(device));
        if let Some(blocks) = std::num::NonZero::new(size / MARKER_BYTES) {
            places.extend(random(seed).take(RANDOM).map(|n| n % blocks * MARKER_BYTES));
        }
        places.sort_unstable();
        places.dedup();
        for at in &places {
            device.write_at(*at, &marker(seed, *at)).map_err(failed("mark", &span(*at)))?;
        }
        settle(device)?;
        let mut buffer = vec![0; MARKER_BYTES as usize];
        for at in &places {
            device.read_at(*at, &mut buffer).map_err(failed("read back", &span(*at)))?;
            if buffer != marker(seed, *at) {
                return Err(WipeError::MarkerLost { offset: *at });
            }
        }
        Ok(Self { seed: Some(seed), places })
    }

    /// The places at which any agent would have written markers: for a disk that was already erasing itself when this
    /// one came. Whether there were any is not known.
    #[must_use]
    pub fn of_another(size: u64) -> Self {
        Self { seed: None, places: places_of(size, &[]) }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        count(self.places.len())
    }

    /// Whether this agent wrote them, and read them back.
    #[must_use]
    pub fn are_ours(&self) -> bool {
        self.seed.is_some()
    }

    /// Reads the places again, from the disk. An error where one sector of one marker is left.
    pub fn expect_gone(&self, device: &mut dyn BlockDevice) -> Result<Gone, WipeError> {
        settle(device)?;
        let mut buffer = vec![0; MARKER_BYTES as usize];
        let (mut zero, mut bytes) = (0, 0);
        for at in &self.places {
            device.read_at(*at, &mut buffer).map_err(failed("read back", &span(*at)))?;
            let planted = self.seed.map(|seed| marker(seed, *at));
            let left = buffer.chunks_exact(SECTOR).enumerate().any(|(number, sector)| {
                let same = |planted: &Vec<u8>| &planted[number * SECTOR..][..SECTOR] == sector;
                sector.starts_with(MAGIC) || planted.as_ref().is_some_and(same)
            });
            if left {
                return Err(WipeError::MarkerFound { offset: *at });
            }
            zero += u32::from(is_zero(&buffer));
            bytes += MARKER_BYTES;
        }
        Ok(Gone { places: self.count(), zero, bytes })
    }
}

fn span(at: u64) -> Range<u64> {
    at..at + MARKER_BYTES
}

/// The first and the last whole block of each range in which signatures are kept.
fn places_of(size: u64, partitions: &[Range<u64>]) -> Vec<u64> {
    let ranges = metadata_ranges(size, partitions);
    let last = (size / MARKER_BYTES).checked_sub(1).map(|block| block * MARKER_BYTES);
    let both = |range: &Range<u64>| {
        let first = range.start.div_ceil(MARKER_BYTES) * MARKER_BYTES;
        let last = (range.end / MARKER_BYTES * MARKER_BYTES).saturating_sub(MARKER_BYTES);
        [first, last]
    };
    let mut places: Vec<u64> = ranges.iter().flat_map(both).take(MOST).chain(last).collect();
    places.retain(|at| last.is_some_and(|last| *at <= last));
    places.sort_unstable();
    places.dedup();
    places
}

/// A block that is nowhere else: every sector begins with the magic, followed by where it is and by noise.
fn marker(seed: u64, at: u64) -> Vec<u8> {
    let mut block = Vec::with_capacity(MARKER_BYTES as usize);
    for sector in (at..at + MARKER_BYTES).step_by(SECTOR) {
        block.extend_from_slice(MAGIC);
        block.extend_from_slice(&sector.to_le_bytes());
        let noise = random(seed ^ sector.rotate_left(20));
        noise.take((SECTOR - 24) / 8).for_each(|word| block.extend_from_slice(&word.to_le_bytes()));
    }
    block
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::{Faults, FaultyDevice, MemDevice, build_test_image, check_bootable};

    const MIB: u64 = 1 << 20;

    #[test]
    fn markers_are_at_both_ends_on_every_partition_and_in_between() {
        let mut device = MemDevice::new(64 << 20);
        build_test_image(&mut device, 5).unwrap();
        let partitions = check_bootable(&mut device).unwrap();
        let markers = Markers::plant(&mut device, 7).unwrap();
        assert!(markers.count() > 64, "{}", markers.count());
        let has = |at: u64| markers.places.contains(&(at / MARKER_BYTES * MARKER_BYTES));
        assert!(has(0) && has(64 * MIB - 1));
        // Ranges that touch are one range, so that partition bounds lie within 4 MiB of a marker at most.
        for partition in partitions {
            let near = |at: u64| markers.places.iter().any(|place| place.abs_diff(at) <= 8 * MIB);
            assert!(near(partition.start) && near(partition.start + partition.length));
        }
    }

    #[test]
    fn one_sector_that_is_left_is_found() {
        let mut device = MemDevice::new(16 << 20);
        let markers = Markers::plant(&mut device, 7).unwrap();
        assert!(matches!(markers.expect_gone(&mut device), Err(WipeError::MarkerFound { offset: 0 })));
        let planted = device.to_bytes();
        device.write_zeroes(0, 16 * MIB).unwrap();
        let gone = markers.expect_gone(&mut device).unwrap();
        assert_eq!((gone.places, gone.zero), (markers.count(), markers.count()));
        // Other noise, as after a cryptographic erase, is fine as well, and is not called zero.
        device.write_at(0, &vec![0xa5; 16 << 20]).unwrap();
        assert_eq!(markers.expect_gone(&mut device).unwrap().zero, 0);
        let at = *markers.places.last().unwrap() as usize + 7 * SECTOR;
        device.write_at(at as u64, &planted[at..at + SECTOR]).unwrap();
        assert!(matches!(markers.expect_gone(&mut device), Err(WipeError::MarkerFound { .. })));
        // An agent that came later knows it by its magic.
        assert!(matches!(
            Markers::of_another(16 * MIB).expect_gone(&mut device),
            Err(WipeError::MarkerFound { .. })
        ));
    }

    #[test]
    fn a_disk_that_does_not_keep_markers_proves_nothing() {
        let faults = Faults { lose_write_at: Some(100), ..Faults::default() };
        let mut device = FaultyDevice::new(MemDevice::new(16 << 20), faults);
        assert!(matches!(Markers::plant(&mut device, 7), Err(WipeError::MarkerLost { offset: 0 })));
    }

    proptest! {
        #[test]
        fn places_are_whole_blocks_within_any_disk(
            size in 0u64..(1 << 42),
            partitions in prop::collection::vec((any::<u64>(), any::<u64>()), 0..20),
        ) {
            let partitions: Vec<_> = partitions.into_iter().map(|(start, end)| start..end).collect();
            let places = places_of(size, &partitions);
            prop_assert!(places.iter().all(|at| at % MARKER_BYTES == 0 && at + MARKER_BYTES <= size));
            prop_assert_eq!(places.is_empty(), size < MARKER_BYTES);
        }
    }
}
