//! Small real disk images for the demo and the tests: GPT, a FAT partition with a marker as an EFI system partition has,
//! and a root partition of pseudo-random content with runs of zeros. The same seed makes the same bytes.

use std::{
    io::{self, Write},
    path::Path,
};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use ring::digest;
use uuid::Uuid;

use crate::{
    ChecksumAlgorithm, ConfigDriveError, FileDevice, GptError,
    config_drive::{read_file, with_fat},
    device::{BlockDevice, Region},
    gpt::{PartitionTable, TYPE_EFI_SYSTEM, TYPE_LINUX},
};

const MIB: u64 = 1024 * 1024;
/// Smallest test image.
pub const MIN_TEST_IMAGE: u64 = 4 * MIB;
const MARKER: &str = "ferric-test-image.txt";
const PIECE: usize = 64 * 1024;
const QCOW2_CLUSTER: usize = 64 * 1024;

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestImage {
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 (hex) of the image.
    pub sha256: String,
    /// Text of the marker file, by which a booted disk is known.
    pub marker: String,
}

/// Builds a test image that fills the device.
pub fn build_test_image(device: &mut dyn BlockDevice, seed: u64) -> Result<TestImage, ConfigDriveError> {
    let size = device.size();
    if size < MIN_TEST_IMAGE {
        return Err(GptError::NoSpace { needed: MIN_TEST_IMAGE, available: size }.into());
    }
    device.write_zeroes(0, size).map_err(ConfigDriveError::Io)?;
    let guid = |part: u64| Uuid::from_u64_pair(mix(seed, part), mix(seed, part + 100));
    let block = u64::from(device.block_size());
    let mut table = PartitionTable::new(device, guid(0))?;
    let esp = table.add("esp", TYPE_EFI_SYSTEM, guid(1), MIB, MIB)?;
    let root_length = size - 2 * MIB - MIB.next_multiple_of(block);
    let root = table.add("root", TYPE_LINUX, guid(2), 2 * MIB, root_length)?;
    table.write(device)?;

    let marker = format!("ferric test image, seed {seed}\n");
    let filesystem = |device: &mut dyn BlockDevice| -> io::Result<()> {
        let mut region = Region::new(device, esp.start, esp.length)?;
        let options = FormatVolumeOptions::new()
            .volume_label(*b"ESP        ")
            .bytes_per_sector(u16::try_from(block).unwrap_or(4096));
        format_volume(&mut region, options)?;
        let filesystem = FileSystem::new(region, FsOptions::new())?;
        filesystem.root_dir().create_file(MARKER)?.write_all(marker.as_bytes())?;
        filesystem.unmount()
    };
    filesystem(device).map_err(ConfigDriveError::Filesystem)?;

    let mut piece = vec![0; PIECE];
    for (number, at) in (root.start..root.start + root.length).step_by(PIECE).enumerate() {
        // A third of the pieces stay zero.
        if mix(seed, number as u64).is_multiple_of(3) {
            continue;
        }
        let length = (root.start + root.length - at).min(PIECE as u64) as usize;
        fill(&mut piece[..length], mix(seed ^ 0x5eed, number as u64));
        device.write_at(at, &piece[..length]).map_err(ConfigDriveError::Io)?;
    }
    device.sync().map_err(ConfigDriveError::Io)?;
    let sha256 = content_sha256(device, size).map_err(ConfigDriveError::Io)?;
    Ok(TestImage { size, sha256, marker })
}

/// [`build_test_image`] into a new file.
pub fn build_test_image_file(
    path: impl AsRef<Path>,
    size: u64,
    seed: u64,
) -> Result<TestImage, ConfigDriveError> {
    let mut device = FileDevice::create(path, size).map_err(ConfigDriveError::Io)?;
    build_test_image(&mut device, seed)
}

/// The marker on a disk that a test image was written to: what "boots" there.
pub fn read_marker(device: &mut dyn BlockDevice) -> Result<Option<String>, ConfigDriveError> {
    let table = PartitionTable::read_primary(device)?;
    for partition in table.partitions() {
        let found = with_fat(device, &partition, |root| read_file(root, MARKER));
        if let Some((_, Some(marker))) = found.map_err(ConfigDriveError::Filesystem)? {
            return Ok(Some(String::from_utf8_lossy(&marker).into_owned()));
        }
    }
    Ok(None)
}

fn content_sha256(device: &mut dyn BlockDevice, size: u64) -> io::Result<String> {
    let mut hasher: digest::Context = ChecksumAlgorithm::Sha256.hasher();
    let mut buffer = vec![0; PIECE];
    for at in (0..size).step_by(PIECE) {
        let part = &mut buffer[..(size - at).min(PIECE as u64) as usize];
        device.read_at(at, part)?;
        hasher.update(part);
    }
    Ok(hex::encode(hasher.finish()))
}

/// A qcow2 image (version 3) of this disk, for tests that must not need QEMU: plain clusters of 64 KiB, and none where the
/// disk is zeros.
#[must_use]
pub fn qcow2_of(disk: &[u8]) -> Vec<u8> {
    let per_table = QCOW2_CLUSTER / 8;
    let clusters: Vec<&[u8]> = disk.chunks(QCOW2_CLUSTER).collect();
    let tables = clusters.len().div_ceil(per_table).max(1);
    let mut file = vec![0; QCOW2_CLUSTER * (2 + tables)];
    let put = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(&mut file, 0, &crate::qcow2::MAGIC);
    put(&mut file, 4, &3u32.to_be_bytes());
    put(&mut file, 20, &16u32.to_be_bytes());
    put(&mut file, 24, &(disk.len() as u64).to_be_bytes());
    put(&mut file, 36, &(tables as u32).to_be_bytes());
    put(&mut file, 40, &(QCOW2_CLUSTER as u64).to_be_bytes());
    put(&mut file, 96, &4u32.to_be_bytes());
    put(&mut file, 100, &104u32.to_be_bytes());
    for table in 0..tables {
        let at = (QCOW2_CLUSTER * (2 + table)) as u64;
        put(&mut file, QCOW2_CLUSTER + table * 8, &(at | 1 << 63).to_be_bytes());
    }
    for (number, data) in clusters.iter().enumerate() {
        if data.iter().all(|byte| *byte == 0) {
            continue;
        }
        let at = file.len();
        file.extend_from_slice(data);
        file.resize(at + QCOW2_CLUSTER, 0);
        put(&mut file, QCOW2_CLUSTER * 2 + number * 8, &(at as u64 | 1 << 63).to_be_bytes());
    }
    file
}

/// SplitMix64: one good mix is all that is needed.
fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fill(bytes: &mut [u8], seed: u64) {
    for (number, chunk) in bytes.chunks_mut(8).enumerate() {
        let value = mix(seed, number as u64).to_le_bytes();
        chunk.copy_from_slice(&value[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{MemDevice, check_bootable};

    #[test]
    fn the_same_seed_is_the_same_bootable_image() {
        let (mut one, mut two, mut other) =
            (MemDevice::new(5 << 20), MemDevice::from_bytes(vec![1; 5 << 20]), MemDevice::new(5 << 20));
        let built = build_test_image(&mut one, 1).unwrap();
        assert_eq!(built, build_test_image(&mut two, 1).unwrap());
        assert_ne!(built.sha256, build_test_image(&mut other, 2).unwrap().sha256);
        assert!(one.to_bytes() == two.to_bytes());
        let parts = check_bootable(&mut one).unwrap();
        assert_eq!(parts.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["esp", "root"]);
        assert_eq!(read_marker(&mut one).unwrap(), Some(built.marker));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(build_test_image_file(file.path(), 5 << 20, 1).unwrap().sha256, built.sha256);
        assert!(build_test_image(&mut MemDevice::new(1 << 20), 1).is_err());
    }
}
