//! The layout that OpenStack gives a config drive, which cloud-init (ConfigDrive source) and Ignition (platform
//! `openstack`) read from a filesystem labelled `config-2`.

use super::{ConfigDriveError, Files, partition_bytes, read_file, with_fat, write_volume};
use crate::{
    device::BlockDevice,
    gpt::{Partition, PartitionTable},
};

/// Label of the filesystem. In lower case, as both readers look for it first.
pub const OPENSTACK_LABEL: &str = "config-2";

const META_DATA: &str = "openstack/latest/meta_data.json";
const USER_DATA: &str = "openstack/latest/user_data";
const NETWORK_DATA: &str = "openstack/latest/network_data.json";

/// What a config drive in the layout of OpenStack holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenStackDrive {
    /// `meta_data.json`: JSON with at least `uuid`.
    pub meta_data: Vec<u8>,
    /// `user_data`: a cloud-config, a script, or an Ignition config.
    pub user_data: Vec<u8>,
    /// `network_data.json`, if there is one: JSON as OpenStack has it.
    pub network_data: Option<Vec<u8>>,
}

impl OpenStackDrive {
    /// Path and content of its files.
    pub fn files(&self) -> Vec<(&'static str, &[u8])> {
        let Self { meta_data, user_data, network_data } = self;
        let network = network_data.as_ref().map(|data| (NETWORK_DATA, data.as_slice()));
        [(META_DATA, meta_data.as_slice()), (USER_DATA, user_data.as_slice())]
            .into_iter()
            .chain(network)
            .collect()
    }

    /// Size of the partition that it needs; fails when it is too large for any disk.
    pub fn partition_bytes(&self) -> Result<u64, ConfigDriveError> {
        partition_bytes(&self.files())
    }

    /// Puts it at the end of a disk that an image was written to, as [`super::write_config_drive`] does.
    pub fn write(&self, device: &mut dyn BlockDevice) -> Result<Partition, ConfigDriveError> {
        let files: &Files<'_> = &self.files();
        write_volume(device, *b"config-2   ", files)
    }
}

/// Finds and reads the config drive as Ignition would: by the label of a filesystem on a partition.
pub fn read_openstack_drive(
    device: &mut dyn BlockDevice,
) -> Result<Option<OpenStackDrive>, ConfigDriveError> {
    let table = PartitionTable::read_primary(device)?;
    for partition in table.partitions() {
        let found = with_fat(device, &partition, |root| {
            Ok(OpenStackDrive {
                meta_data: read_file(root, META_DATA)?.unwrap_or_default(),
                user_data: read_file(root, USER_DATA)?.unwrap_or_default(),
                network_data: read_file(root, NETWORK_DATA)?,
            })
        });
        match found.map_err(ConfigDriveError::Filesystem)? {
            Some((label, drive)) if label.eq_ignore_ascii_case(OPENSTACK_LABEL) => return Ok(Some(drive)),
            _ => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        ConfigDrive, MemDevice, build_test_image, check_bootable, read_config_drive, write_config_drive,
    };

    fn imaged() -> MemDevice {
        let mut image = MemDevice::new(4 << 20);
        build_test_image(&mut image, 1).unwrap();
        let mut bytes = image.to_bytes();
        bytes.resize(64 << 20, 0);
        MemDevice::from_bytes(bytes)
    }

    #[test]
    fn is_read_as_it_was_written_and_replaces_the_other_layout() {
        let drive = OpenStackDrive {
            meta_data: b"{\"uuid\": \"i-1\"}".to_vec(),
            user_data: br#"{"ignition": {"version": "3.4.0"}}"#.to_vec(),
            network_data: Some(b"{\"links\": []}".to_vec()),
        };
        let mut device = imaged();
        write_config_drive(&mut device, &ConfigDrive::default()).unwrap();
        drive.write(&mut device).unwrap();
        assert_eq!(check_bootable(&mut device).unwrap().len(), 3);
        assert_eq!(read_openstack_drive(&mut device).unwrap(), Some(drive.clone()));
        assert_eq!(read_config_drive(&mut device).unwrap(), None);
        let once = device.to_bytes();
        drive.write(&mut device).unwrap();
        assert!(device.to_bytes() == once);
        write_config_drive(&mut device, &ConfigDrive::default()).unwrap();
        assert_eq!(read_openstack_drive(&mut device).unwrap(), None);
        assert!(read_config_drive(&mut device).unwrap().is_some());
    }

    #[test]
    fn too_much_is_refused_before_anything_is_written() {
        let drive = OpenStackDrive { user_data: vec![0; 65 << 20], ..OpenStackDrive::default() };
        assert!(matches!(drive.partition_bytes(), Err(ConfigDriveError::TooLarge(_))));
    }
}
