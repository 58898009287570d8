//! The header block of a GPT, and the array of entries behind it.

use uuid::Uuid;

use super::GptError;
use crate::device::BlockDevice;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const SIZE: usize = 92;
pub(super) const ENTRY_MIN: u32 = 128;
/// More than any real table; keeps a damaged one from asking for memory.
const MAX_ARRAY: u64 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) my_lba: u64,
    pub(super) backup_lba: u64,
    pub(super) first_usable: u64,
    pub(super) last_usable: u64,
    pub(super) disk_guid: Uuid,
    pub(super) array_lba: u64,
    pub(super) entry_count: u32,
    pub(super) entry_size: u32,
}

impl Header {
    pub(super) fn new(disk_guid: Uuid, block: u64) -> Self {
        let array = (u64::from(ENTRY_MIN) * 128).div_ceil(block);
        Self {
            my_lba: 1,
            backup_lba: 0,
            first_usable: 2 + array,
            last_usable: 0,
            disk_guid,
            array_lba: 2,
            entry_count: 128,
            entry_size: ENTRY_MIN,
        }
    }

    pub(super) fn array_blocks(&self, bytes: u64, block: u64) -> u64 {
        bytes.div_ceil(block)
    }

    /// One block.
    pub(super) fn to_bytes(&self, block: u64, array_crc: u32) -> Vec<u8> {
        let Self {
            my_lba,
            backup_lba,
            first_usable,
            last_usable,
            disk_guid,
            array_lba,
            entry_count,
            entry_size,
        } = self;
        let mut bytes = Vec::with_capacity(block as usize);
        bytes.extend_from_slice(SIGNATURE);
        bytes.extend_from_slice(&REVISION.to_le_bytes());
        bytes.extend_from_slice(&(SIZE as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        for lba in [my_lba, backup_lba, first_usable, last_usable] {
            bytes.extend_from_slice(&lba.to_le_bytes());
        }
        bytes.extend_from_slice(&disk_guid.to_bytes_le());
        bytes.extend_from_slice(&array_lba.to_le_bytes());
        bytes.extend_from_slice(&entry_count.to_le_bytes());
        bytes.extend_from_slice(&entry_size.to_le_bytes());
        bytes.extend_from_slice(&array_crc.to_le_bytes());
        let crc = crc32(&bytes);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes.resize(block as usize, 0);
        bytes
    }
}

/// Reads a header and its entries, and believes them only if both checksums are right.
pub(super) fn read(device: &mut dyn BlockDevice, lba: u64) -> Result<(Header, Vec<u8>), GptError> {
    let block = u64::from(device.block_size());
    let blocks = device.size() / block.max(1);
    if lba == 0 || lba >= blocks {
        return Err(GptError::NoHeader { lba });
    }
    let mut bytes = vec![0; block as usize];
    device.read_at(lba * block, &mut bytes)?;
    if !bytes.starts_with(SIGNATURE) {
        return Err(GptError::NoHeader { lba });
    }
    let invalid = |what: String| GptError::Invalid { lba, what };
    let size = u32_at(&bytes, 12) as usize;
    if !(SIZE..=bytes.len()).contains(&size) {
        return Err(invalid(format!("header of {size} bytes")));
    }
    let said = u32_at(&bytes, 16);
    let array_crc = u32_at(&bytes, 88);
    let header = Header {
        my_lba: u64_at(&bytes, 24),
        backup_lba: u64_at(&bytes, 32),
        first_usable: u64_at(&bytes, 40),
        last_usable: u64_at(&bytes, 48),
        disk_guid: guid_at(&bytes, 56),
        array_lba: u64_at(&bytes, 72),
        entry_count: u32_at(&bytes, 80),
        entry_size: u32_at(&bytes, 84),
    };
    bytes[16..20].fill(0);
    if crc32(&bytes[..size]) != said {
        return Err(invalid("the header's checksum is wrong".into()));
    }
    if header.my_lba != lba {
        return Err(invalid(format!("the header says that it is at block {}", header.my_lba)));
    }
    let Header { entry_count, entry_size, array_lba, .. } = header;
    let length = u64::from(entry_count) * u64::from(entry_size);
    if entry_size < ENTRY_MIN || !entry_size.is_power_of_two() || length == 0 || length > MAX_ARRAY {
        return Err(invalid(format!("{entry_count} entries of {entry_size} bytes")));
    }
    let end = array_lba.checked_add(length.div_ceil(block));
    if array_lba < 2 || end.is_none_or(|end| end > blocks) {
        return Err(invalid(format!("entries at block {array_lba}")));
    }
    let mut entries = vec![0; length as usize];
    device.read_at(array_lba * block, &mut entries)?;
    if crc32(&entries) != array_crc {
        return Err(invalid("the checksum of its entries is wrong".into()));
    }
    Ok((header, entries))
}

pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

// The offsets below are constants within buffers whose length was checked: a header has a block, an entry 128 bytes.

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

pub(super) fn guid_at(bytes: &[u8], at: usize) -> Uuid {
    let mut value = [0; 16];
    value.copy_from_slice(&bytes[at..at + 16]);
    Uuid::from_bytes_le(value)
}
