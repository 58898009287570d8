#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::symlink};

use super::*;

fn put(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn sockets_cores_and_threads_are_counted() {
    let mut text = String::new();
    for (thread, (socket, core)) in
        [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 0), (1, 1), (1, 1)].iter().enumerate()
    {
        text += &format!(
            "processor\t: {thread}\nmodel name\t: Some CPU\ncpu MHz\t\t: 2400.{thread}\nphysical id\t: {socket}\n\
             core id\t\t: {core}\nflags\t\t: fpu vmx\n\n"
        );
    }
    let cpu = cpu(&text);
    assert_eq!((cpu.count, cpu.cores, cpu.threads, cpu.clock_mhz), (2, 4, 8, 2400));
    assert_eq!((cpu.model.as_str(), cpu.flags.len()), ("Some CPU", 2));
    assert_eq!(super::cpu("").threads, 0);
}

#[test]
fn memory_is_in_bytes() {
    assert_eq!(memory("MemTotal:        2014388 kB\nMemFree: 1 kB\n"), 2_014_388 * 1024);
    assert_eq!(memory("nonsense"), 0);
}

#[test]
fn a_tree_of_disks_and_nics_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let sata = "sys/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0";
    let nvme = "sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0";
    let virtio = "sys/devices/pci0000:00/0000:00:06.0/virtio1";
    put(
        root,
        &[
            (&format!("{sata}/block/sda/size"), "8388608\n"),
            (&format!("{sata}/block/sda/removable"), "0\n"),
            (&format!("{sata}/block/sda/queue/rotational"), "1\n"),
            (&format!("{sata}/model"), "QEMU HARDDISK   \n"),
            (&format!("{sata}/vendor"), "ATA     \n"),
            (&format!("{sata}/wwid"), "naa.5000C50015EA71AC\n"),
            (&format!("{sata}/vpd_pg80"), "\0\u{80}\0\u{8}  SER-1 "),
            (&format!("{nvme}/nvme0n1/size"), "2097152\n"),
            (&format!("{nvme}/nvme0n1/nsid"), "1\n"),
            (&format!("{nvme}/nvme0n1/wwid"), "eui.00000001\n"),
            (&format!("{nvme}/serial"), "NV-1\n"),
            (&format!("{nvme}/model"), "NVMe drive\n"),
            (&format!("{virtio}/block/vda/size"), "16777216\n"),
            (&format!("{virtio}/block/vda/serial"), "VD-1\n"),
            (&format!("{virtio}/vendor"), "0x1af4\n"),
            ("sys/block/loop0/size", "8\n"),
            ("sys/block/sr0/size", "8\n"),
            ("sys/class/dmi/id/product_uuid", "4C4C4544-0000-0000-8000-000000000001\n"),
            ("sys/class/dmi/id/product_serial", "To be filled by O.E.M.\n"),
            ("sys/class/net/lo/type", "772\n"),
            ("sys/class/net/eth0/type", "1\n"),
            ("sys/class/net/eth0/address", "52:54:00:AA:BB:CC\n"),
            ("sys/class/net/eth0/carrier", "1\n"),
            ("sys/class/net/eth0/speed", "-1\n"),
            ("sys/class/net/eth0/device/vendor", "0x1af4\n"),
            ("sys/class/net/eth0/device/device", "0x0001\n"),
            ("sys/bus/pci/devices/0000:17:00.0/class", "0x030200\n"),
            ("sys/bus/pci/devices/0000:17:00.0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0000:17:00.0/device", "0x2331\n"),
            ("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\u{6}\0\0\0\u{1}"),
            // A memory device of 1024 MB (SMBIOS 3.7, 7.18), as short as version 2.1 has it.
            (
                "sys/firmware/dmi/tables/DMI",
                "\u{11}\u{15}\0\0\0\0\0\0\0\0\0\0\0\u{4}\0\0\u{1}\0\u{12}\0\0DIMM 0\0\0",
            ),
        ],
    );
    for (link, target, device) in [
        ("sda", format!("{sata}/block/sda"), Some("../../../2:0:0:0")),
        ("nvme0n1", format!("{nvme}/nvme0n1"), Some("../../nvme0")),
        ("vda", format!("{virtio}/block/vda"), Some("../../../virtio1")),
    ] {
        symlink(root.join(&target), root.join("sys/block").join(link)).unwrap();
        symlink(device.unwrap(), root.join(&target).join("device")).unwrap();
    }
    symlink("../../../../bus/virtio/drivers/virtio_net", root.join("sys/class/net/eth0/device/driver"))
        .unwrap();
    let inventory = inventory(root, "52:54:00:aa:bb:cc");
    assert_eq!(inventory.system_uuid, "4c4c4544-0000-0000-8000-000000000001");
    assert_eq!(inventory.serial_number, "");
    assert_eq!((inventory.boot_mode(), inventory.secure_boot), (BootMode::Uefi, Some(true)));
    let [module] = inventory.memory_modules.as_slice() else { panic!("{:?}", inventory.memory_modules) };
    assert_eq!(
        (module.locator.as_str(), module.size_bytes, module.r#type.as_str()),
        ("DIMM 0", 1 << 30, "DDR")
    );
    assert_eq!(inventory.installed_memory_bytes, 1 << 30);
    let [gpu] = inventory.gpus.as_slice() else { panic!("{:?}", inventory.gpus) };
    assert_eq!((gpu.vendor.as_str(), gpu.model.as_str()), ("NVIDIA", "H100 PCIe"));
    let names: Vec<_> = inventory.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["/dev/nvme0n1", "/dev/sda", "/dev/vda"]);
    let [nvme, sata, virtio] = inventory.disks.as_slice() else { panic!() };
    assert_eq!((nvme.size_bytes, nvme.r#type()), (1 << 30, DiskType::Nvme));
    assert_eq!((nvme.nvme_namespace_id, sata.nvme_namespace_id), (1, 0));
    assert_eq!(nvme.serial_number, "NV-1");
    assert_eq!(nvme.by_path, "/dev/disk/by-path/pci-0000:00:05.0-nvme-1");
    assert_eq!((sata.rotational, sata.r#type()), (true, DiskType::Hdd));
    assert_eq!((sata.hctl.as_str(), sata.vendor.as_str()), ("2:0:0:0", "ATA"));
    assert_eq!(sata.by_path, "/dev/disk/by-path/pci-0000:00:1f.2-ata-3");
    assert_eq!(sata.wwn, "0x5000c50015ea71ac");
    assert_eq!((virtio.serial_number.as_str(), virtio.vendor.as_str()), ("VD-1", ""));
    assert_eq!(virtio.by_path, "/dev/disk/by-path/pci-0000:00:06.0");
    let [nic] = inventory.nics.as_slice() else { panic!("{:?}", inventory.nics) };
    assert_eq!(
        (nic.mac.as_str(), nic.link_up, nic.pxe, nic.speed_mbps),
        ("52:54:00:aa:bb:cc", true, true, 0)
    );
    assert_eq!((nic.driver.as_str(), nic.model.as_str()), ("virtio_net", "0x1af4 0x0001"));
}

#[test]
fn an_empty_machine_has_an_inventory_too() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = inventory(folder.path(), "");
    assert!(inventory.disks.is_empty() && inventory.nics.is_empty() && inventory.gpus.is_empty());
    assert_eq!((inventory.boot_mode(), inventory.secure_boot), (BootMode::Bios, None));
    assert_eq!((inventory.memory_modules.len(), inventory.installed_memory_bytes), (0, 0));
}

#[test]
fn a_long_name_has_an_extension() {
    for (wwn, name, extension) in [
        ("0x600508b1001c4d2f3a5b6c7d8e9f0a1b", "0x600508b1001c4d2f", "0x3a5b6c7d8e9f0a1b"),
        ("0x5000c50015ea71ac", "0x5000c50015ea71ac", ""),
        ("eui.0025388b710116a1", "eui.0025388b710116a1", ""),
        ("0xä", "0xä", ""),
    ] {
        assert_eq!(split_wwn(wwn), (name.to_owned(), extension.to_owned()), "{wwn}");
    }
}
