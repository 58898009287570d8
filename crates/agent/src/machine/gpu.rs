//! GPUs and other accelerators, from `/sys/bus/pci`.

use std::path::Path;

use ferric_protocol::v1::Gpu;

use super::sysfs;

/// Display controllers and processing accelerators (PCI Code and ID Assignment Specification 1.16, 1.4 and 1.19).
const CLASSES: [u32; 2] = [0x03, 0x12];

/// Controllers that only draw a console, of BMCs and of hypervisors, by vendor: nobody looks for a machine that has one.
const CONSOLES: [u16; 10] = [
    0x1013, // Cirrus Logic
    0x1234, // QEMU
    0x126f, // Silicon Motion
    0x1414, // Hyper-V
    0x15ad, // VMware
    0x18ca, // XGI
    0x1a03, // ASPEED
    0x1af4, // virtio
    0x1b36, // QXL
    0x80ee, // VirtualBox
];

/// Those whose vendors make others, too.
fn draws_a_console(vendor: u16, device: u16) -> bool {
    CONSOLES.contains(&vendor)
        // Matrox G200 as BMCs have it; Huawei Hi171x.
        || vendor == 0x102b && matches!(device, 0x0522 | 0x0524 | 0x0530..=0x0540)
        || vendor == 0x19e5 && device == 0x1711
}

/// GPUs and accelerators, sorted by PCI address.
pub(super) fn gpus(sys: &Path) -> Vec<Gpu> {
    sysfs::entries(sys.join("bus/pci/devices"))
        .iter()
        .filter(|path| {
            let class = hex(&sysfs::text(path.join("class"))).unwrap_or(0);
            // Class, subclass, programming interface.
            CLASSES.contains(&(class >> 16))
        })
        .filter_map(|path| {
            let id = |name: &str| u16::try_from(hex(&sysfs::text(path.join(name)))?).ok();
            let (vendor, device) = (id("vendor")?, id("device")?);
            (!draws_a_console(vendor, device)).then(|| Gpu {
                pci_address: sysfs::name(path),
                vendor_id: format!("{vendor:04x}"),
                device_id: format!("{device:04x}"),
                vendor: vendor_name(vendor).to_owned(),
                model: model(vendor, device).to_owned(),
                driver: sysfs::link_name(path.join("driver")),
            })
        })
        .collect()
}

/// `0x10de`
fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Vendors of GPUs and accelerators; empty for others.
fn vendor_name(vendor: u16) -> &'static str {
    match vendor {
        0x10de => "NVIDIA",
        0x1002 | 0x1022 => "AMD",
        0x8086 => "Intel",
        0x1da3 => "Habana Labs",
        0x10ee => "Xilinx",
        0x1172 => "Altera",
        0x17cb => "Qualcomm",
        0x19e5 => "Huawei",
        0x1ae0 => "Google",
        0x1d0f => "Amazon",
        0x1ed5 => "Moore Threads",
        _ => "",
    }
}

/// Names of models that clusters are built of; empty for others, whose IDs say enough to look them up.
fn model(vendor: u16, device: u16) -> &'static str {
    match (vendor, device) {
        (0x10de, 0x1db1) => "Tesla V100 SXM2 16GB",
        (0x10de, 0x1db4) => "Tesla V100 PCIe 16GB",
        (0x10de, 0x1db5) => "Tesla V100 SXM2 32GB",
        (0x10de, 0x1db6) => "Tesla V100 PCIe 32GB",
        (0x10de, 0x1eb8) => "Tesla T4",
        (0x10de, 0x20b0) => "A100 SXM4 40GB",
        (0x10de, 0x20b2) => "A100 SXM4 80GB",
        (0x10de, 0x20b5) => "A100 PCIe 80GB",
        (0x10de, 0x20b7) => "A30 PCIe",
        (0x10de, 0x20f1) => "A100 PCIe 40GB",
        (0x10de, 0x2235) => "A40",
        (0x10de, 0x2236) => "A10",
        (0x10de, 0x25b6) => "A2 / A16",
        (0x10de, 0x26b5) => "L40",
        (0x10de, 0x27b8) => "L4",
        (0x10de, 0x2330) => "H100 SXM5 80GB",
        (0x10de, 0x2331) => "H100 PCIe",
        (0x1002, 0x738c) => "Instinct MI100",
        (0x1002, 0x7408) => "Instinct MI250X",
        (0x1002, 0x740c) => "Instinct MI250X/MI250",
        (0x1002, 0x740f) => "Instinct MI210",
        (0x8086, 0x0bd5 | 0x0bd6) => "Data Center GPU Max 1550",
        (0x8086, 0x0bd9..=0x0bdb) => "Data Center GPU Max 1100",
        (0x8086, 0x56c0) => "Data Center GPU Flex 170",
        (0x8086, 0x56c1) => "Data Center GPU Flex 140",
        (0x1da3, 0x1000 | 0x1010) => "Gaudi",
        (0x1da3, 0x1020) => "Gaudi2",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn gpus_and_accelerators_are_found_and_consoles_are_not() {
        let sys = tempfile::tempdir().unwrap();
        let devices = sys.path().join("bus/pci/devices");
        for (address, class, vendor, device) in [
            ("0000:00:02.0", "0x030000", "0x1234", "0x1111"),
            ("0000:03:00.0", "0x030000", "0x1a03", "0x2000"),
            ("0000:04:00.0", "0x030000", "0x102b", "0x0536"),
            ("0000:17:00.0", "0x030200", "0x10de", "0x20b5"),
            ("0000:31:00.0", "0x120000", "0x1da3", "0x1020"),
            ("0000:32:00.0", "0x038000", "0x1002", "0x9999"),
            ("0000:33:00.0", "0x020000", "0x8086", "0x1572"),
            ("0000:34:00.0", "nonsense", "0x10de", "0x20b5"),
            ("0000:35:00.0", "0x030200", "0x10de", ""),
        ] {
            let folder = devices.join(address);
            fs::create_dir_all(&folder).unwrap();
            for (name, text) in [("class", class), ("vendor", vendor), ("device", device)] {
                fs::write(folder.join(name), format!("{text}\n")).unwrap();
            }
        }
        symlink("../../../bus/pci/drivers/nouveau", devices.join("0000:17:00.0/driver")).unwrap();
        let found: Vec<_> = gpus(sys.path())
            .into_iter()
            .map(|gpu| [gpu.pci_address, gpu.vendor_id, gpu.device_id, gpu.vendor, gpu.model, gpu.driver])
            .collect();
        assert_eq!(
            found,
            [
                ["0000:17:00.0", "10de", "20b5", "NVIDIA", "A100 PCIe 80GB", "nouveau"],
                ["0000:31:00.0", "1da3", "1020", "Habana Labs", "Gaudi2", ""],
                ["0000:32:00.0", "1002", "9999", "AMD", "", ""],
            ]
        );
        assert!(gpus(Path::new("/nowhere")).is_empty());
    }
}
