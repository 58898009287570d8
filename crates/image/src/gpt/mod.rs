//! GUID partition tables: strict reading, moving the backup to the end of a disk, adding and removing a partition.
//!
//! Entries are kept as the bytes that they are, in the slots that they are in: images number their partitions with gaps
//! (1, 14, 15), and boot loaders and growpart know them by number. Everything read is checked before it is believed.

mod header;
#[cfg(test)]
mod tests;

use std::io;

use uuid::Uuid;

use crate::device::BlockDevice;
use header::{ENTRY_MIN, Header, crc32};

/// Partition type "EFI system".
pub const TYPE_EFI_SYSTEM: Uuid = Uuid::from_u128(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);
/// Partition type "Linux filesystem data".
pub const TYPE_LINUX: Uuid = Uuid::from_u128(0x0fc63daf_8483_4772_8e79_3d69d8477de4);
/// Partition type "basic data": FAT filesystems.
pub const TYPE_BASIC_DATA: Uuid = Uuid::from_u128(0xebd0a0a2_b9e5_4433_87c0_68b6b72699c7);

/// Why a partition table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GptError {
    /// The disk failed.
    #[error("the disk failed: {0}")]
    Io(#[from] io::Error),
    /// There is none.
    #[error("no GPT header at block {lba}")]
    NoHeader {
        /// Where it should be.
        lba: u64,
    },
    /// A part of it is damaged or makes no sense.
    #[error("the GPT at block {lba} is invalid: {what}")]
    Invalid {
        /// Where its header is.
        lba: u64,
        /// What is wrong.
        what: String,
    },
    /// The two copies contradict each other.
    #[error("the two copies of the GPT differ in their {0}")]
    Differ(&'static str),
    /// The protective MBR is missing: firmware would not look for a GPT.
    #[error("the disk has no protective MBR")]
    NoProtectiveMbr,
    /// The table is good and empty.
    #[error("the partition table has no partitions")]
    NoPartitions,
    /// No room between the partitions that there are and the end.
    #[error(
        "no room for a partition of {needed} bytes at the end of the disk: {available} bytes are free there"
    )]
    NoSpace {
        /// Bytes wanted.
        needed: u64,
        /// Bytes free behind the last partition.
        available: u64,
    },
    /// All slots are taken.
    #[error("all {0} slots of the partition table are taken")]
    NoSlot(u32),
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1.
    pub number: u32,
    /// Type.
    pub type_guid: Uuid,
    /// Its own identity.
    pub guid: Uuid,
    /// Start, in bytes.
    pub start: u64,
    /// Length, in bytes.
    pub length: u64,
    /// Name.
    pub name: String,
}

/// A partition table in memory. Nothing reaches the disk before [`PartitionTable::write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTable {
    block: u64,
    header: Header,
    entries: Vec<u8>,
}

impl PartitionTable {
    /// An empty table for this disk.
    pub fn new(device: &dyn BlockDevice, disk_guid: Uuid) -> Result<Self, GptError> {
        let block = u64::from(device.block_size());
        let mut table =
            Self { block, header: Header::new(disk_guid, block), entries: vec![0; 128 * ENTRY_MIN as usize] };
        table.fit(device)?;
        Ok(table)
    }

    /// Reads the primary copy. The backup may be anywhere: an image that was just written has it where the image ended.
    pub fn read_primary(device: &mut dyn BlockDevice) -> Result<Self, GptError> {
        Self::read_at(device, 1)
    }

    /// Reads the backup copy from the very end of the disk.
    pub fn read_backup(device: &mut dyn BlockDevice) -> Result<Self, GptError> {
        let last = (device.size() / u64::from(device.block_size())).saturating_sub(1);
        Self::read_at(device, last)
    }

    fn read_at(device: &mut dyn BlockDevice, lba: u64) -> Result<Self, GptError> {
        let block = u64::from(device.block_size());
        let (header, entries) = header::read(device, lba)?;
        let table = Self { block, header, entries };
        table.check(lba, device.size() / block)?;
        Ok(table)
    }

    /// Identity of the disk.
    #[must_use]
    pub fn disk_guid(&self) -> Uuid {
        self.header.disk_guid
    }

    /// The partitions, by number.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition> {
        let size = self.header.entry_size as usize;
        let used = (1..).zip(self.entries.chunks_exact(size)).filter(|(_, entry)| entry[..16] != [0; 16]);
        used.map(|(number, entry)| {
            let (first, last) = (header::u64_at(entry, 32), header::u64_at(entry, 40));
            let name: Vec<u16> = entry[56..128]
                .chunks_exact(2)
                .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
                .take_while(|unit| *unit != 0)
                .collect();
            Partition {
                number,
                type_guid: header::guid_at(entry, 0),
                guid: header::guid_at(entry, 16),
                start: first.saturating_mul(self.block),
                length: (last.saturating_sub(first).saturating_add(1)).saturating_mul(self.block),
                name: String::from_utf16_lossy(&name),
            }
        })
        .collect()
    }

    /// Partitions lie within the usable blocks, and none on another.
    fn check(&self, lba: u64, blocks: u64) -> Result<(), GptError> {
        let invalid = |what: String| Err(GptError::Invalid { lba, what });
        let Header { first_usable, last_usable, .. } = self.header;
        if first_usable < 2 || first_usable > last_usable || last_usable >= blocks {
            return invalid(format!("usable blocks {first_usable} to {last_usable} of {blocks}"));
        }
        let mut spans: Vec<(u64, u64, u32)> = Vec::new();
        let size = self.header.entry_size as usize;
        for (number, entry) in (1..).zip(self.entries.chunks_exact(size)) {
            if entry[..16] == [0; 16] {
                continue;
            }
            let (first, last) = (header::u64_at(entry, 32), header::u64_at(entry, 40));
            if first > last || first < first_usable || last > last_usable {
                return invalid(format!("partition {number} has blocks {first} to {last}"));
            }
            spans.push((first, last, number));
        }
        spans.sort_unstable();
        for pair in spans.windows(2) {
            if pair[1].0 <= pair[0].1 {
                return invalid(format!("partitions {} and {} overlap", pair[0].2, pair[1].2));
            }
        }
        Ok(())
    }

    /// Makes the table one of this disk: its backup goes to the disk's end, and all blocks up to there are usable.
    pub fn fit(&mut self, device: &dyn BlockDevice) -> Result<(), GptError> {
        let last = (device.size() / self.block).saturating_sub(1);
        let array = self.header.array_blocks(self.entries.len() as u64, self.block);
        self.header.backup_lba = last;
        self.header.last_usable = last.saturating_sub(array + 1);
        self.check(1, device.size() / self.block)
    }

    /// Removes the partition of this identity, if there is one.
    pub fn remove(&mut self, guid: Uuid) {
        let size = self.header.entry_size as usize;
        for entry in self.entries.chunks_exact_mut(size) {
            if entry[..16] != [0; 16] && header::guid_at(entry, 16) == guid {
                entry.fill(0);
            }
        }
    }

    /// Adds a partition of `length` bytes that starts at a multiple of `align` bytes, as near to the end as it can be.
    /// Its number is the next after the highest.
    pub fn add_at_end(
        &mut self,
        name: &str,
        type_guid: Uuid,
        guid: Uuid,
        length: u64,
        align: u64,
    ) -> Result<Partition, GptError> {
        let end = (self.header.last_usable + 1) * self.block;
        let used = self.partitions();
        let free_from = used
            .iter()
            .map(|p| p.start + p.length)
            .max()
            .unwrap_or(0)
            .max(self.header.first_usable * self.block);
        let align = align.max(self.block);
        let start = end.saturating_sub(length) / align * align;
        if start < free_from {
            return Err(GptError::NoSpace { needed: length, available: end.saturating_sub(free_from) });
        }
        self.add(name, type_guid, guid, start, length)
    }

    /// Adds a partition where it is said. Its number is the next after the highest.
    pub fn add(
        &mut self,
        name: &str,
        type_guid: Uuid,
        guid: Uuid,
        start: u64,
        length: u64,
    ) -> Result<Partition, GptError> {
        let size = self.header.entry_size as usize;
        let slots = (self.entries.len() / size) as u32;
        let used = self.partitions();
        let next = used.last().map_or(1, |p| p.number + 1);
        let free = (1..=slots).find(|n| used.iter().all(|p| p.number != *n));
        let number = if next <= slots { next } else { free.ok_or(GptError::NoSlot(slots))? };
        let mut table = self.clone();
        let at = (number as usize - 1) * size;
        let entry = &mut table.entries[at..at + size];
        entry.fill(0);
        entry[..16].copy_from_slice(&type_guid.to_bytes_le());
        entry[16..32].copy_from_slice(&guid.to_bytes_le());
        entry[32..40].copy_from_slice(&(start / self.block).to_le_bytes());
        entry[40..48].copy_from_slice(&((start + length.max(1)).div_ceil(self.block) - 1).to_le_bytes());
        for (unit, into) in name.encode_utf16().take(35).zip(entry[56..128].chunks_exact_mut(2)) {
            into.copy_from_slice(&unit.to_le_bytes());
        }
        table.check(1, table.header.backup_lba + 1)?;
        *self = table;
        let added = self.partitions().into_iter().find(|p| p.number == number);
        added.ok_or(GptError::NoSlot(slots))
    }

    /// Writes both copies and the protective MBR. The backup goes first, so that one good copy exists at any time; a
    /// stale backup where an image ended is erased.
    pub fn write(&self, device: &mut dyn BlockDevice) -> Result<(), GptError> {
        let stale = header::read(device, 1)
            .ok()
            .map(|(old, _)| old.backup_lba)
            .filter(|lba| *lba != self.header.backup_lba && *lba > 1 && *lba < device.size() / self.block);
        let array = self.header.array_blocks(self.entries.len() as u64, self.block);
        let primary = Header { my_lba: 1, array_lba: self.header.array_lba, ..self.header.clone() };
        let backup = Header {
            my_lba: self.header.backup_lba,
            backup_lba: 1,
            array_lba: self.header.backup_lba - array,
            ..self.header.clone()
        };
        let crc = crc32(&self.entries);
        for header in [&backup, &primary] {
            device.write_at(header.array_lba * self.block, &self.entries)?;
            device.write_at(header.my_lba * self.block, &header.to_bytes(self.block, crc))?;
            device.sync()?;
        }
        self.write_mbr(device)?;
        if let Some(lba) = stale
            && matches!(header::read(device, lba), Ok((old, _)) if old.my_lba == lba)
        {
            device.write_zeroes(lba * self.block, self.block)?;
        }
        Ok(device.sync()?)
    }

    /// The protective MBR covers the whole disk; boot code and other entries stay.
    fn write_mbr(&self, device: &mut dyn BlockDevice) -> Result<(), GptError> {
        let mut mbr = [0; 512];
        device.read_at(0, &mut mbr)?;
        if !has_mbr(&mbr) {
            mbr[446..510].fill(0);
            mbr[450] = 0xee;
            mbr[447..450].copy_from_slice(&[0, 2, 0]);
            mbr[451..454].copy_from_slice(&[0xff; 3]);
            mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
            mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        }
        let blocks = u32::try_from(self.header.backup_lba).unwrap_or(u32::MAX);
        for entry in mbr[446..510].chunks_exact_mut(16) {
            if entry[4] == 0xee && entry[8..12] == 1u32.to_le_bytes() {
                entry[12..16].copy_from_slice(&blocks.to_le_bytes());
            }
        }
        Ok(device.write_at(0, &mbr)?)
    }
}

fn has_mbr(mbr: &[u8; 512]) -> bool {
    mbr[510..] == [0x55, 0xaa] && mbr[446..510].chunks_exact(16).any(|entry| entry[4] == 0xee)
}

/// Reads a disk as strict firmware would: protective MBR, both copies of the GPT with their checksums, the backup at the
/// very end, both the same, and at least one partition.
pub fn check_bootable(device: &mut dyn BlockDevice) -> Result<Vec<Partition>, GptError> {
    let mut mbr = [0; 512];
    device.read_at(0, &mut mbr)?;
    let primary = PartitionTable::read_at(device, 1)?;
    if !has_mbr(&mbr) {
        return Err(GptError::NoProtectiveMbr);
    }
    let last = (device.size() / primary.block).saturating_sub(1);
    let backup = PartitionTable::read_at(device, last)?;
    let (one, two) = (&primary.header, &backup.header);
    let differ = [
        (one.backup_lba != last || two.backup_lba != 1, "positions"),
        (one.disk_guid != two.disk_guid, "disk identity"),
        ((one.first_usable, one.last_usable) != (two.first_usable, two.last_usable), "usable blocks"),
        (primary.entries != backup.entries, "partitions"),
    ];
    if let Some((_, what)) = differ.into_iter().find(|(differ, _)| *differ) {
        return Err(GptError::Differ(what));
    }
    let partitions = primary.partitions();
    if partitions.is_empty() { Err(GptError::NoPartitions) } else { Ok(partitions) }
}
