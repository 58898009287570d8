//! The config drive: a small FAT partition at the end of the disk. cloud-init's NoCloud source finds it by the label
//! `CIDATA`; cloud-init and Ignition find the layout of OpenStack by the label `config-2` ([`OpenStackDrive`]). It is
//! written after the image, and may be written again: the same partition is replaced, whichever of the two it was.
//!
//! The bytes are the same whenever they are made, so a repeated task leaves the same disk.

mod openstack;

use std::io::{self, Cursor, Read, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use ring::digest;
use uuid::Uuid;

use crate::{
    device::{BlockDevice, Region, write_sparse},
    gpt::{GptError, Partition, PartitionTable, TYPE_BASIC_DATA},
};

pub use openstack::{OPENSTACK_LABEL, OpenStackDrive, read_openstack_drive};

/// Label of the filesystem: what cloud-init looks for.
pub const LABEL: &str = "CIDATA";
/// Name of the partition.
pub const PARTITION_NAME: &str = "config-drive";

const MIB: u64 = 1024 * 1024;
const MIN_PARTITION: u64 = 8 * MIB;
/// Largest content, written or read: user data of a machine is kilobytes.
const MAX_CONTENT: u64 = 64 * MIB;

const META_DATA: &str = "meta-data";
const USER_DATA: &str = "user-data";
const NETWORK_CONFIG: &str = "network-config";

/// What a config drive holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigDrive {
    /// `meta-data`: YAML or JSON with the instance id.
    pub meta_data: Vec<u8>,
    /// `user-data`.
    pub user_data: Vec<u8>,
    /// `network-config`, if there is one.
    pub network_config: Option<Vec<u8>>,
}

/// Why a config drive cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigDriveError {
    /// The image's partition table cannot take it.
    #[error("the partition table cannot take a config drive: {0}")]
    Table(#[from] GptError),
    /// There is too much to put in.
    #[error("a config drive of {0} bytes is too large (at most {MAX_CONTENT})")]
    TooLarge(u64),
    /// The filesystem could not be made or read.
    #[error("the filesystem of the config drive failed: {0}")]
    Filesystem(#[source] io::Error),
    /// The disk failed.
    #[error("the disk failed under the config drive: {0}")]
    Io(#[source] io::Error),
    /// The disk holds something else than was written to it.
    #[error("the disk does not hold the config drive that was written at {0}")]
    Verify(u64),
}

impl ConfigDrive {
    /// Path and content of its files.
    pub fn files(&self) -> Vec<(&'static str, &[u8])> {
        let Self { meta_data, user_data, network_config } = self;
        let network = network_config.as_ref().map(|data| (NETWORK_CONFIG, data.as_slice()));
        [(META_DATA, meta_data.as_slice()), (USER_DATA, user_data.as_slice())]
            .into_iter()
            .chain(network)
            .collect()
    }

    /// Size of the partition that it needs: room for the files and for what a filesystem adds. Fails when it is too large
    /// for any disk, which can be known before anything is written.
    pub fn partition_bytes(&self) -> Result<u64, ConfigDriveError> {
        partition_bytes(&self.files())
    }
}

/// Puts a config drive at the end of a disk that an image was written to: moves the GPT's backup to the disk's end, adds
/// (or replaces) the partition, writes the filesystem, syncs and reads it back.
pub fn write_config_drive(
    device: &mut dyn BlockDevice,
    drive: &ConfigDrive,
) -> Result<Partition, ConfigDriveError> {
    write_volume(device, *b"CIDATA     ", &drive.files())
}

/// Path and content of the files of a drive. Folders are made as they are needed.
type Files<'a> = [(&'static str, &'a [u8])];

fn partition_bytes(files: &Files<'_>) -> Result<u64, ConfigDriveError> {
    let content: u64 = files.iter().map(|(_, data)| data.len() as u64).sum();
    if content > MAX_CONTENT {
        return Err(ConfigDriveError::TooLarge(content));
    }
    Ok((content + content / 4 + MIB).next_multiple_of(MIB).max(MIN_PARTITION))
}

fn filesystem(size: u64, block: u32, label: [u8; 11], files: &Files<'_>) -> io::Result<Vec<u8>> {
    let mut volume = Cursor::new(vec![0; size as usize]);
    let options =
        FormatVolumeOptions::new().volume_label(label).bytes_per_sector(u16::try_from(block).unwrap_or(4096));
    format_volume(&mut volume, options)?;
    volume.set_position(0);
    let filesystem = FileSystem::new(&mut volume, FsOptions::new())?;
    for (path, _) in files {
        for (at, _) in path.match_indices('/') {
            filesystem.root_dir().create_dir(&path[..at])?;
        }
    }
    filesystem.unmount()?;
    mend_folders(volume.get_mut());
    volume.set_position(0);
    let filesystem = FileSystem::new(&mut volume, FsOptions::new())?;
    for (path, data) in files {
        let mut file = filesystem.root_dir().create_file(path)?;
        file.write_all(data)?;
        file.flush()?;
    }
    filesystem.unmount()?;
    Ok(volume.into_inner())
}

/// The library gives the entries `.` and `..` of a folder long names, which the format does not allow: other readers
/// call the filesystem damaged. Takes these two slots out. To be done before there are files, whose content could look
/// like a folder.
fn mend_folders(volume: &mut [u8]) {
    const SLOT: usize = 32;
    let is_long = |slot: &[u8]| slot[0] == 0x41 && slot[1] == b'.' && slot[11] == 0x0f;
    for sector in volume.chunks_exact_mut(512) {
        let folder = is_long(sector)
            && sector[SLOT..].starts_with(b".          ")
            && is_long(&sector[2 * SLOT..])
            && sector[3 * SLOT..].starts_with(b"..         ");
        if folder {
            sector.copy_within(SLOT..2 * SLOT, 0);
            sector.copy_within(3 * SLOT.., SLOT);
            sector[512 - 2 * SLOT..].fill(0);
        }
    }
}

fn write_volume(
    device: &mut dyn BlockDevice,
    label: [u8; 11],
    files: &Files<'_>,
) -> Result<Partition, ConfigDriveError> {
    let size = partition_bytes(files)?;
    let volume = filesystem(size, device.block_size(), label, files).map_err(ConfigDriveError::Filesystem)?;
    let mut table = PartitionTable::read_primary(device)?;
    let guid = partition_guid(table.disk_guid());
    table.remove(guid);
    table.fit(device)?;
    let partition = table.add_at_end(PARTITION_NAME, TYPE_BASIC_DATA, guid, size, MIB)?;
    // The table first: erasing an image's stale backup must not hit the filesystem.
    table.write(device)?;
    write_sparse(device, partition.start, &volume, 64 * 1024).map_err(ConfigDriveError::Io)?;
    device.sync().map_err(ConfigDriveError::Io)?;
    device.drop_caches().map_err(ConfigDriveError::Io)?;
    let mut block = vec![0; 64 * 1024];
    for (number, expected) in volume.chunks(block.len()).enumerate() {
        let at = partition.start + (number * block.len()) as u64;
        let found = &mut block[..expected.len()];
        device.read_at(at, found).map_err(ConfigDriveError::Io)?;
        if found != expected {
            return Err(ConfigDriveError::Verify(at));
        }
    }
    Ok(partition)
}

/// Moves the GPT's backup to the end of a disk that gets no config drive.
pub fn fit_partition_table(device: &mut dyn BlockDevice) -> Result<(), GptError> {
    let mut table = PartitionTable::read_primary(device)?;
    table.fit(device)?;
    table.write(device)
}

/// Finds and reads the config drive as cloud-init would: by the label of a filesystem on a partition.
pub fn read_config_drive(device: &mut dyn BlockDevice) -> Result<Option<ConfigDrive>, ConfigDriveError> {
    let table = PartitionTable::read_primary(device)?;
    for partition in table.partitions() {
        let found = with_fat(device, &partition, |root| {
            let mut drive = ConfigDrive {
                meta_data: read_file(root, META_DATA)?.unwrap_or_default(),
                user_data: read_file(root, USER_DATA)?.unwrap_or_default(),
                network_config: None,
            };
            drive.network_config = read_file(root, NETWORK_CONFIG)?;
            Ok(drive)
        });
        match found {
            Ok(Some((label, drive))) if label.eq_ignore_ascii_case(LABEL) => return Ok(Some(drive)),
            Ok(_) => {}
            Err(error) => return Err(ConfigDriveError::Filesystem(error)),
        }
    }
    Ok(None)
}

pub(crate) type FatDir<'a, 'b> = fatfs::Dir<'a, Region<'b>>;

/// Runs `read` on the root folder of a FAT partition; `None` when it is not FAT.
pub(crate) fn with_fat<T>(
    device: &mut dyn BlockDevice,
    partition: &Partition,
    read: impl FnOnce(&FatDir<'_, '_>) -> io::Result<T>,
) -> io::Result<Option<(String, T)>> {
    let mut boot = [0; 512];
    device.read_at(partition.start, &mut boot)?;
    if boot[510..] != [0x55, 0xaa] || !(boot[54..57] == *b"FAT" || boot[82..85] == *b"FAT") {
        return Ok(None);
    }
    let region = Region::new(device, partition.start, partition.length)?;
    let filesystem = FileSystem::new(region, FsOptions::new())?;
    let label = filesystem.read_volume_label_from_root_dir()?.unwrap_or_default();
    let value = read(&filesystem.root_dir())?;
    Ok(Some((label.trim_end().to_owned(), value)))
}

pub(crate) fn read_file(root: &FatDir<'_, '_>, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match root.open_file(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut data = Vec::new();
    if file.take(MAX_CONTENT + 1).read_to_end(&mut data)? as u64 > MAX_CONTENT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{name} has more than {MAX_CONTENT} bytes"),
        ));
    }
    Ok(Some(data))
}

/// Identity of our partition: made from the disk's, so that the partition is found again.
fn partition_guid(disk: Uuid) -> Uuid {
    let hash =
        digest::digest(&digest::SHA256, &[b"ferric config drive".as_slice(), disk.as_bytes()].concat());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{Faults, FaultyDevice, MemDevice, build_test_image, check_bootable, read_marker};

    fn drive() -> ConfigDrive {
        ConfigDrive {
            meta_data: b"instance-id: i-1\n".to_vec(),
            user_data: [b"#cloud-config\n".as_slice(), &[b'x'; 40_000]].concat(),
            network_config: Some(b"version: 2\n".to_vec()),
        }
    }

    /// A disk of `disk` bytes on which a test image of 4 MiB was written.
    fn imaged(disk: usize) -> MemDevice {
        let mut image = MemDevice::new(4 << 20);
        build_test_image(&mut image, 1).unwrap();
        let mut bytes = image.to_bytes();
        bytes.resize(disk, 0);
        MemDevice::from_bytes(bytes)
    }

    #[test]
    fn is_read_as_it_was_written_and_the_disk_stays_bootable() {
        let mut device = imaged(64 << 20);
        assert!(check_bootable(&mut device).is_err(), "the backup is where the image ended");
        assert_eq!(read_config_drive(&mut device).unwrap(), None);
        let partition = write_config_drive(&mut device, &drive()).unwrap();
        assert_eq!((partition.number, partition.length), (3, MIN_PARTITION));
        assert_eq!(partition.start % MIB, 0);
        assert_eq!(read_config_drive(&mut device).unwrap(), Some(drive()));
        assert_eq!(check_bootable(&mut device).unwrap().len(), 3);
        assert!(read_marker(&mut device).unwrap().is_some());
        // The stale backup of the image is gone.
        assert_ne!(&device.to_bytes()[(4 << 20) - 512..][..8], b"EFI PART");
    }

    #[test]
    fn again_is_the_same_disk_and_another_replaces_it() {
        let mut device = imaged(64 << 20);
        write_config_drive(&mut device, &drive()).unwrap();
        let once = device.to_bytes();
        write_config_drive(&mut device, &drive()).unwrap();
        assert!(device.to_bytes() == once);
        let larger = ConfigDrive { user_data: vec![b'y'; 9_000_000], network_config: None, ..drive() };
        write_config_drive(&mut device, &larger).unwrap();
        assert_eq!(check_bootable(&mut device).unwrap().len(), 3);
        assert!(read_config_drive(&mut device).unwrap() == Some(larger));
    }

    #[test]
    fn says_when_there_is_no_room_or_no_table() {
        let error = write_config_drive(&mut imaged(10 << 20), &drive()).unwrap_err();
        assert!(
            matches!(error, ConfigDriveError::Table(GptError::NoSpace { needed: 8388608, .. })),
            "{error}"
        );
        let error = write_config_drive(&mut MemDevice::new(64 << 20), &drive()).unwrap_err();
        assert!(matches!(error, ConfigDriveError::Table(GptError::NoHeader { lba: 1 })), "{error}");
        let huge = ConfigDrive { user_data: vec![0; 65 << 20], ..drive() };
        assert!(matches!(
            write_config_drive(&mut imaged(64 << 20), &huge).unwrap_err(),
            ConfigDriveError::TooLarge(_)
        ));
    }

    #[test]
    fn a_disk_that_forgets_is_noticed() {
        // 64 MiB disk: the partition is at 55 MiB.
        for faults in [
            Faults { lose_write_at: Some(55 << 20), ..Faults::default() },
            Faults { flip: Some(((55 << 20) + 3, 1)), ..Faults::default() },
        ] {
            let mut device = FaultyDevice::new(imaged(64 << 20), faults);
            let error = write_config_drive(&mut device, &drive()).unwrap_err();
            assert!(matches!(error, ConfigDriveError::Verify(at) if at == 55 << 20), "{error}");
        }
    }

    #[test]
    fn disks_with_blocks_of_4096_bytes() {
        let mut device = MemDevice::new(64 << 20).with_block_size(4096);
        let mut table = PartitionTable::new(&device, Uuid::from_u128(5)).unwrap();
        table.add("root", crate::gpt::TYPE_LINUX, Uuid::from_u128(6), MIB, 4 * MIB).unwrap();
        table.write(&mut device).unwrap();
        write_config_drive(&mut device, &drive()).unwrap();
        assert_eq!(read_config_drive(&mut device).unwrap(), Some(drive()));
        assert_eq!(check_bootable(&mut device).unwrap().len(), 2);
    }
}
