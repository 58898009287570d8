//! Where partition tables, RAID, volume managers and filesystems keep their signatures.
//!
//! To all of these a partition is a disk of its own, so the same places count on the disk and on each partition:
//! - the first 4 MiB: MBR, GPT, LVM label and metadata, md 1.1 (0) and 1.2 (4 KiB), ZFS labels 0 and 1 (the first 512
//!   KiB), LUKS with the second header of LUKS2, bcache, swap, btrfs (64 KiB), ext, XFS, NTFS, FAT, VMFS (1 MiB) …
//! - the last 4 MiB: the backup GPT, md 0.90 (the last whole 64 KiB but one) and 1.0 (8 KiB before the end), ZFS labels 2
//!   and 3, DDF and other firmware RAID, DRBD, the backup boot sector of NTFS
//! - the copies of btrfs' superblock at 64 MiB and 256 GiB, by which it could be brought back

use std::ops::Range;

use crate::{device::BlockDevice, gpt::PartitionTable};

const MIB: u64 = 1024 * 1024;
/// Zeroed at both ends of the disk and of each partition.
const ENDS: u64 = 4 * MIB;
/// Where tables are, at both ends of the disk.
const TABLES: u64 = MIB;
/// Copies of signatures that are at neither end.
const COPIES: [Range<u64>; 2] = [64 * MIB..64 * MIB + 64 * 1024, (256 << 30)..(256 << 30) + 64 * 1024];
/// Logical partitions that are followed. Linux itself follows fewer.
const MAX_LOGICAL: usize = 256;
/// Types of an MBR entry that begins a chain of logical partitions.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// Where partitions are, by whatever tables can still be read: both copies of the GPT, which need not agree, and the MBR.
/// A damaged table is no reason not to wipe.
pub(super) fn partition_spans(device: &mut dyn BlockDevice) -> Vec<Range<u64>> {
    let mut spans = mbr_spans(device);
    for table in [PartitionTable::read_primary(device), PartitionTable::read_backup(device)] {
        let partitions = table.map(|table| table.partitions()).unwrap_or_default();
        spans.extend(partitions.iter().map(|p| p.start..p.start.saturating_add(p.length)));
    }
    spans
}

fn mbr_spans(device: &mut dyn BlockDevice) -> Vec<Range<u64>> {
    let mut spans = Vec::new();
    for (kind, span) in mbr_entries(device, 0) {
        if EXTENDED.contains(&kind) {
            logical_spans(device, span.start, &mut spans);
        }
        spans.push(span);
    }
    spans
}

/// Follows the chain of an extended partition: each sector names one logical partition, relative to itself, and the next
/// sector, relative to the first. The sectors are places of their own: they are tables.
fn logical_spans(device: &mut dyn BlockDevice, first: u64, spans: &mut Vec<Range<u64>>) {
    let mut at = first;
    for _ in 0..MAX_LOGICAL {
        let mut next = None;
        for (kind, span) in mbr_entries(device, at) {
            if EXTENDED.contains(&kind) {
                // Relative to the first, not to this one.
                next = (span.start - at).checked_add(first);
            } else {
                spans.push(span);
            }
        }
        spans.push(at..at.saturating_add(512));
        match next {
            // A chain only goes forward; one that does not is damaged, or a trap.
            Some(after) if after > at => at = after,
            _ => return,
        }
    }
}

/// (type, span) of the entries of a partition table of the old kind. Places are relative to where the table is.
fn mbr_entries(device: &mut dyn BlockDevice, at: u64) -> Vec<(u8, Range<u64>)> {
    let mut sector = [0; 512];
    let inside = at.checked_add(512).is_some_and(|end| end <= device.size());
    if !inside || device.read_at(at, &mut sector).is_err() || sector[510..] != [0x55, 0xaa] {
        return Vec::new();
    }
    let block = u64::from(device.block_size());
    let number = |entry: &[u8], at: usize| {
        u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]))
    };
    let used = sector[446..510].chunks_exact(16).filter(|entry| entry[4] != 0);
    used.map(|entry| {
        let start = at.saturating_add(number(entry, 8) * block);
        (entry[4], start..start.saturating_add(number(entry, 12) * block))
    })
    .collect()
}

/// The ranges to zero, in order and without overlap. Pure.
pub(super) fn metadata_ranges(size: u64, partitions: &[Range<u64>]) -> Vec<Range<u64>> {
    let places = |span: &Range<u64>| {
        let (start, end) = (span.start.min(size), span.end.min(size));
        let end = end.max(start);
        let length = ENDS.min(end - start);
        let copies = COPIES.map(|copy| {
            let at = |offset: u64| start.saturating_add(offset).min(end);
            at(copy.start)..at(copy.end)
        });
        [start..start + length, end - length..end].into_iter().chain(copies).collect::<Vec<_>>()
    };
    let mut all = places(&(0..size));
    all.extend(partitions.iter().flat_map(places));
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

/// The order in which to zero: from the back, since a chain of logical partitions goes forward; the ends of the disk,
/// where the tables are, last. A wipe that is broken off finds by them what is left to do.
pub(super) fn tables_last(ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let head = TABLES.min(size);
    let tail = size.saturating_sub(TABLES).max(head);
    let part = |from: u64, to: u64| {
        ranges.iter().rev().map(move |range| range.start.clamp(from, to)..range.end.clamp(from, to))
    };
    let (middle, end, start) = (part(head, tail), part(tail, size), part(0, head));
    middle.chain(end).chain(start).filter(|range| range.start < range.end).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{
        MemDevice,
        gpt::TYPE_LINUX,
        wipe::{WipeMode, wipe},
    };

    const DISK: u64 = 200 * MIB;

    /// Offsets of signatures on a disk or partition of this size.
    fn signatures(size: u64) -> Vec<(&'static str, u64)> {
        let zfs_end = size / (256 * 1024) * (256 * 1024);
        let mut places = vec![
            ("XFS, NTFS, FAT, LUKS, md 1.1, bluestore", 0),
            ("LVM label", 512),
            ("ext magic", 1080),
            ("swap", 4086),
            ("md 1.2, bcache", 4096),
            ("LUKS2, second header, smallest", 16 * 1024),
            ("ZFS label 0, first uberblock", 128 * 1024),
            ("btrfs", 64 * 1024 + 64),
            ("ZFS label 1, first uberblock", (256 + 128) * 1024),
            ("VMFS", MIB),
            ("LUKS2, second header, largest", 4 * MIB - 512),
            ("md 0.90", (size & !0xffff) - 0x1_0000),
            ("md 1.0", (size - 8192) & !4095),
            ("ZFS label 2, first uberblock", zfs_end - 512 * 1024 + 128 * 1024),
            ("ZFS label 3, first uberblock", zfs_end - 256 * 1024 + 128 * 1024),
            ("NTFS backup, DDF anchor", size - 512),
            ("isw and other firmware RAID", size - 1024),
        ];
        if size > 64 * MIB + 4096 {
            places.push(("btrfs, first copy", 64 * MIB + 64));
        }
        places
    }

    fn plant(device: &mut dyn BlockDevice, span: &Range<u64>) {
        for (_, at) in signatures(span.end - span.start) {
            device.write_at(span.start + at, b"SIGNATURE").unwrap();
        }
    }

    fn assert_clean(device: &mut dyn BlockDevice, span: &Range<u64>) {
        for (name, at) in signatures(span.end - span.start) {
            let mut found = [0; 9];
            device.read_at(span.start + at, &mut found).unwrap();
            assert_eq!(found, [0; 9], "{name} of {span:?}");
        }
    }

    /// A disk with signatures in each of these partitions. What would fall on a table is planted before it.
    fn planted(table: impl Fn(&mut MemDevice), partitions: &[Range<u64>]) -> MemDevice {
        let mut device = MemDevice::from_bytes(vec![0xa5; DISK as usize]);
        plant(&mut device, &(0..DISK));
        partitions.iter().for_each(|span| plant(&mut device, span));
        table(&mut device);
        device
    }

    fn gpt(device: &mut MemDevice, partitions: &[Range<u64>]) {
        device.write_at(0, &[0; 512]).unwrap();
        let mut table = PartitionTable::new(device, Uuid::from_u128(1)).unwrap();
        for (number, span) in partitions.iter().enumerate() {
            let guid = Uuid::from_u128(10 + number as u128);
            table.add("data", TYPE_LINUX, guid, span.start, span.end - span.start).unwrap();
        }
        table.write(device).unwrap();
    }

    const SPANS: [Range<u64>; 2] = [10 * MIB..100 * MIB, 100 * MIB..(190 * MIB + 64 * 1024 + 512)];

    #[test]
    fn no_signature_is_left_on_the_disk_or_on_any_partition() {
        let quiet = &mut |_| std::ops::ControlFlow::Continue(());
        type Damage = fn(&mut MemDevice);
        let damages: [Damage; 3] = [
            |_| {},
            // Only one of the two copies can be read.
            |device| device.write_at(512, &[0; 512]).unwrap(),
            |device| device.write_at(DISK - 512, &[0; 512]).unwrap(),
        ];
        for damage in damages {
            let table = |device: &mut MemDevice| {
                gpt(device, &SPANS);
                damage(device);
            };
            let mut device = planted(table, &SPANS);
            wipe(&mut device, WipeMode::Metadata, quiet).unwrap();
            for span in std::iter::once(&(0..DISK)).chain(&SPANS) {
                assert_clean(&mut device, span);
            }
            assert!(device.to_bytes()[50 * MIB as usize..60 * MIB as usize].iter().all(|b| *b == 0xa5));
        }
    }

    #[test]
    fn logical_partitions_are_partitions() {
        let entry = |kind: u8, start: u64, length: u64| {
            let mut entry = [0; 16];
            entry[4] = kind;
            entry[8..12].copy_from_slice(&((start / 512) as u32).to_le_bytes());
            entry[12..].copy_from_slice(&((length / 512) as u32).to_le_bytes());
            entry
        };
        let sector = |entries: &[[u8; 16]]| {
            let mut sector = vec![0; 512];
            for (number, entry) in entries.iter().enumerate() {
                sector[446 + number * 16..][..16].copy_from_slice(entry);
            }
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
            sector
        };
        // One primary partition, and an extended one at 40 MiB with two logical ones behind a table each.
        let spans = [10 * MIB..30 * MIB, 41 * MIB..79 * MIB, 81 * MIB..120 * MIB];
        let table = |device: &mut MemDevice| {
            let primary = [entry(0x83, 10 * MIB, 20 * MIB), entry(0x05, 40 * MIB, 140 * MIB)];
            device.write_at(0, &sector(&primary)).unwrap();
            let first = [entry(0x83, MIB, 38 * MIB), entry(0x05, 40 * MIB, 40 * MIB)];
            device.write_at(40 * MIB, &sector(&first)).unwrap();
            // The last one points back: a chain without end.
            let second = [entry(0x8e, MIB, 39 * MIB), entry(0x05, 0, 40 * MIB)];
            device.write_at(80 * MIB, &sector(&second)).unwrap();
        };
        let mut device = planted(table, &spans);
        wipe(&mut device, WipeMode::Metadata, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        for span in std::iter::once(&(0..DISK)).chain(&spans) {
            assert_clean(&mut device, span);
        }
        let bytes = device.to_bytes();
        for at in [40 * MIB, 80 * MIB] {
            assert!(bytes[at as usize..][..512].iter().all(|b| *b == 0), "the tables of the chain go, too");
        }
    }

    #[test]
    fn ranges_are_the_ends_of_disk_and_partitions_and_the_copies() {
        let ranges =
            metadata_ranges(200 * MIB, &[10 * MIB..50 * MIB, 50 * MIB..190 * MIB, 195 * MIB..500 * MIB]);
        let k64 = 64 * 1024;
        let expected = [
            0..4 * MIB,
            10 * MIB..14 * MIB,
            46 * MIB..54 * MIB,
            64 * MIB..64 * MIB + k64,
            114 * MIB..114 * MIB + k64,
            186 * MIB..190 * MIB,
            195 * MIB..200 * MIB,
        ];
        assert_eq!(ranges, expected);
        assert_eq!(metadata_ranges(3 * MIB, &[]).first(), Some(&(0..3 * MIB)));
        assert!(metadata_ranges(0, &[7..9, 9..9]).is_empty());
    }

    proptest! {
        #[test]
        fn the_tables_are_last_and_nothing_is_lost(
            size in 0u64..(1 << 30),
            partitions in prop::collection::vec((0u64..(1 << 30), 0u64..(1 << 30)), 0..8),
        ) {
            let partitions: Vec<_> = partitions.into_iter().map(|(start, end)| start..end).collect();
            let ranges = metadata_ranges(size, &partitions);
            let mut ordered = tables_last(&ranges, size);
            if let Some(last) = ordered.last() {
                prop_assert_eq!(last.clone(), 0..MIB.min(size));
            }
            ordered.sort_unstable_by_key(|range| range.start);
            prop_assert!(ordered.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let total = |ranges: &[Range<u64>]| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
            prop_assert_eq!(total(&ordered), total(&ranges));
        }

        #[test]
        fn ranges_lie_within_the_disk_and_apart(
            size in 0u64..(1 << 42),
            partitions in prop::collection::vec((any::<u64>(), any::<u64>()), 0..20),
        ) {
            let partitions: Vec<_> = partitions.into_iter().map(|(start, end)| start..end).collect();
            let ranges = metadata_ranges(size, &partitions);
            prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        }

        #[test]
        fn no_table_makes_it_panic_or_run_away(
            sectors in prop::collection::vec((0u64..64, prop::collection::vec(any::<u8>(), 512)), 1..8),
            sound: bool,
        ) {
            let mut device = MemDevice::new(64 * 512);
            for (number, sector) in &sectors {
                device.write_at(number * 512, sector).unwrap();
                if sound {
                    device.write_at(number * 512 + 510, &[0x55, 0xaa]).unwrap();
                }
            }
            prop_assert!(partition_spans(&mut device).len() < 5 * MAX_LOGICAL);
        }
    }
}
