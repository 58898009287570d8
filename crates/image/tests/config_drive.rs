//! Config drives as the tools of an operating system see them: blkid finds the label, mtools the files.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{io::Write, process::Command};

use ferric_image::{
    BlockDevice, ConfigDrive, FileDevice, OpenStackDrive, build_test_image_file, write_config_drive,
};

/// What a program prints, or nothing where it is not installed; said on the terminal itself.
fn output(program: &str, package: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Ok(out) => {
            let said = [out.stderr.as_slice(), out.stdout.as_slice()].concat();
            assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&said));
            Some(String::from_utf8(out.stdout).unwrap())
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED {program} (Debian: {package}): {error}");
            None
        }
    }
}

#[test]
fn other_readers_find_label_and_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    build_test_image_file(&path, 32 << 20, 3).unwrap();
    let nocloud = ConfigDrive {
        meta_data: b"instance-id: i\n".to_vec(),
        user_data: b"#cloud-config\n".to_vec(),
        network_config: Some(b"version: 2\n".to_vec()),
    };
    let openstack = OpenStackDrive {
        meta_data: b"{\"uuid\": \"i\"}".to_vec(),
        user_data: b"{\"ignition\": {\"version\": \"3.4.0\"}}".to_vec(),
        network_data: Some(b"{}".to_vec()),
    };
    // The image fills the disk: a larger one has room for the drive.
    let mut device = FileDevice::create(&path, 64 << 20).unwrap();
    for (label, file, content) in [
        ("CIDATA", "::/user-data", nocloud.user_data.clone()),
        ("config-2", "::/openstack/latest/user_data", openstack.user_data.clone()),
    ] {
        let partition = match label {
            "CIDATA" => write_config_drive(&mut device, &nocloud).unwrap(),
            _ => openstack.write(&mut device).unwrap(),
        };
        let mut volume = vec![0; partition.length as usize];
        device.read_at(partition.start, &mut volume).unwrap();
        let copy = folder.path().join("volume");
        std::fs::write(&copy, volume).unwrap();
        let copy = copy.to_str().unwrap();
        if let Some(found) = output("blkid", "util-linux", &["-p", "-o", "value", "-s", "LABEL", copy]) {
            assert_eq!(found.trim(), label);
        }
        if let Some(found) = output("mtype", "mtools", &["-i", copy, file]) {
            assert_eq!(found.into_bytes(), content);
        }
        // Its success is that the filesystem is sound.
        output("fsck.vfat", "dosfstools", &["-n", copy]);
    }
}
