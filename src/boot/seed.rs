//! What an operating system that runs from memory is configured with: files that its kernel unpacks into the root
//! filesystem after its own initramfs.

use ferric_image::cpio::Archive;
use ferric_image::{ConfigDrive, OpenStackDrive};
use ferric_protocol::v1;

/// Where cloud-init's source NoCloud looks for files.
const NOCLOUD: &str = "var/lib/cloud/seed/nocloud";
/// Where cloud-init's source ConfigDrive looks for the files of a drive.
const CONFIG_DRIVE: &str = "var/lib/cloud/seed/config_drive";
/// Where the initramfs of Fedora CoreOS and its kind looks for an Ignition config when it runs from memory
/// (`coreos-installer pxe ignition wrap` makes such an archive).
const IGNITION: &str = "config.ign";
/// The archive's size is a multiple of this, in bytes, so that a medium which a BMC holds on to keeps its size when user
/// data change a little. The kernel passes over zeros between and after archives.
const UNIT: usize = 64 * 1024;
/// The files are for the administrator alone: user data hold secrets.
const PERMISSIONS: u32 = 0o600;

/// The archive (cpio, newc), uncompressed.
pub fn archive(drive: &v1::ConfigDrive) -> Vec<u8> {
    let v1::ConfigDrive { meta_data, user_data, network_data, .. } = drive.clone();
    let network = Some(network_data).filter(|data| !data.is_empty());
    let mut archive = Archive::default();
    let mut put = |folder: &str, files: Vec<(&'static str, &[u8])>| {
        for (name, content) in files {
            archive.file(&format!("{folder}/{name}"), PERMISSIONS, content.to_vec());
        }
    };
    match drive.format() {
        v1::ConfigDriveFormat::Config2 => {
            let drive = OpenStackDrive { meta_data, user_data, network_data: network };
            put(CONFIG_DRIVE, drive.files());
            if crate::deploy::config_drive::is_ignition(&drive.user_data) {
                archive.file(IGNITION, PERMISSIONS, drive.user_data);
            }
        }
        _ => put(NOCLOUD, ConfigDrive { meta_data, user_data, network_config: network }.files()),
    }
    let mut bytes = archive.to_bytes();
    bytes.resize(bytes.len().next_multiple_of(UNIT), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(format: v1::ConfigDriveFormat, user_data: &[u8], network_data: &[u8]) -> v1::ConfigDrive {
        v1::ConfigDrive {
            format: format.into(),
            instance_id: "i".to_owned(),
            meta_data: b"{}".to_vec(),
            user_data: user_data.to_vec(),
            network_data: network_data.to_vec(),
        }
    }

    #[test]
    fn each_layout_has_its_files_where_its_reader_looks() {
        use v1::ConfigDriveFormat::{Config2, Nocloud};
        let ignition: &[u8] = br#"{"ignition": {"version": "3.4.0"}}"#;
        let table: [(v1::ConfigDrive, &[&str], &[&str]); 3] = [
            (
                drive(Nocloud, b"#cloud-config", b""),
                &["var/lib/cloud/seed/nocloud/user-data", "var/lib/cloud/seed/nocloud/meta-data"],
                &["network-config", "config.ign"],
            ),
            (
                drive(Config2, b"#cloud-config", b"{\"links\": []}"),
                &[
                    "var/lib/cloud/seed/config_drive/openstack/latest/meta_data.json",
                    "var/lib/cloud/seed/config_drive/openstack/latest/network_data.json",
                ],
                &["nocloud", "config.ign"],
            ),
            (
                drive(Config2, ignition, b""),
                &["config.ign", "var/lib/cloud/seed/config_drive/openstack/latest/user_data"],
                &["network_data.json"],
            ),
        ];
        for (drive, there, not_there) in table {
            let bytes = archive(&drive);
            assert_eq!(bytes.len() % UNIT, 0);
            let text = String::from_utf8_lossy(&bytes);
            for path in there {
                assert!(text.contains(&format!("{path}\0")), "{path}");
            }
            for path in not_there {
                assert!(!text.contains(path), "{path}");
            }
        }
    }
}
