//! The inventory, from `/sys` and `/proc`. Everything is optional: a file that is missing or odd costs that one fact.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ferric_agent::{FirmwareVariables, erase::Drive};
use ferric_image::{BlockDevice, DirectDisk};
use ferric_protocol::v1::{BootMode, Cpu, Disk, DiskType, Inventory, Nic};

use super::{
    dmi, drive::RealDrive, efivars::EfiVariables, gpu, ipmi::Bmc, kexec, neighbours::Neighbours, smbios,
    sysfs,
};

/// `/sys/block/*/size` counts in these, whatever the disk's block size (Documentation/ABI/stable/sysfs-block).
const SECTOR: u64 = 512;
/// Block devices that are not disks: loop, RAM, device mapper, md, network and compressed ones, floppies and CDs.
const NO_DISKS: [&str; 9] = ["loop", "ram", "dm-", "md", "nbd", "zram", "fd", "sr", "mtdblock"];

/// The machine that this runs on.
pub(super) struct Machine {
    /// MAC that it was booted from, where that is known.
    pub(super) boot_mac: String,
    /// What the switches said so far.
    pub(super) neighbours: Arc<Neighbours>,
    /// Its BMC, if that is asked.
    pub(super) bmc: Option<Bmc>,
}

impl ferric_agent::Platform for Machine {
    fn inventory(&self) -> io::Result<Inventory> {
        // Asked first: what is heard in between is told as pending, and told again.
        let neighbours_pending = self.neighbours.is_pending();
        let mut inventory = inventory(Path::new("/"), &self.boot_mac);
        self.neighbours.add_to(&mut inventory.nics);
        inventory.neighbours_pending = neighbours_pending;
        inventory.bmc = self.bmc.as_ref().map(Bmc::facts);
        Ok(inventory)
    }

    fn inventory_changes(&self) -> Option<tokio::sync::watch::Receiver<()>> {
        Some(self.neighbours.changes())
    }

    fn open_disk(&self, name: &str) -> io::Result<Box<dyn BlockDevice>> {
        Ok(Box::new(DirectDisk::open(name)?))
    }

    fn firmware_variables(&self) -> Option<Box<dyn FirmwareVariables>> {
        Some(Box::new(EfiVariables::below(Path::new("/sys"))?))
    }

    fn open_drive(&self, name: &str) -> io::Result<Box<dyn Drive>> {
        Ok(Box::new(RealDrive::open(Path::new("/sys"), Path::new(name))?))
    }

    fn load_kernel(&self, disk: &str) -> Result<String, String> {
        kexec::load(disk)
    }

    fn set_clock(&self, unix_seconds: u64) -> io::Result<()> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let wanted = i64::try_from(unix_seconds).map_err(io::Error::other)?;
        // Forward only: the boot data are as old as the boot.
        if now.tv_sec >= wanted {
            return Ok(());
        }
        tracing::warn!(behind_seconds = wanted - now.tv_sec, "the clock is set forward");
        let timespec = rustix::time::Timespec { tv_sec: wanted, tv_nsec: 0 };
        Ok(rustix::time::clock_settime(rustix::time::ClockId::Realtime, timespec)?)
    }
}

/// Reads everything below `root`, which is `/` on a real machine.
pub(super) fn inventory(root: &Path, boot_mac: &str) -> Inventory {
    let sys = root.join("sys");
    let system = dmi::system(&sys);
    let memory_modules = dmi::memory_modules(&sys);
    Inventory {
        system_uuid: system.uuid,
        serial_number: system.serial,
        manufacturer: system.manufacturer,
        product: system.product,
        boot_mac: boot_mac.to_owned(),
        cpu: Some(cpu(&sysfs::text(root.join("proc/cpuinfo")))),
        memory_bytes: memory(&sysfs::text(root.join("proc/meminfo"))),
        disks: disks(&sys),
        nics: nics(&sys, boot_mac),
        firmware: Some(dmi::firmware(&sys)),
        boot_mode: if sys.join("firmware/efi").exists() { BootMode::Uefi } else { BootMode::Bios }.into(),
        hostname: String::new(),
        installed_memory_bytes: smbios::installed(&memory_modules),
        memory_modules,
        gpus: gpu::gpus(&sys),
        secure_boot: dmi::secure_boot(&sys),
        neighbours_pending: false,
        bmc: None,
    }
}

/// `/proc/cpuinfo` of x86-64 and arm64.
fn cpu(text: &str) -> Cpu {
    let mut sockets = BTreeSet::new();
    let mut cores = BTreeSet::new();
    let (mut threads, mut clock_mhz) = (0, 0);
    let (mut model, mut flags) = (String::new(), Vec::new());
    for block in text.split("\n\n") {
        let fields: BTreeMap<&str, &str> = block
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(k, v)| (k.trim(), v.trim()))
            .collect();
        if !fields.contains_key("processor") {
            continue;
        }
        threads += 1;
        let socket = *fields.get("physical id").unwrap_or(&"0");
        sockets.insert(socket.to_owned());
        let own_core = threads.to_string();
        cores.insert((socket.to_owned(), fields.get("core id").map_or(own_core, |id| (*id).to_owned())));
        if model.is_empty() {
            model = fields.get("model name").copied().unwrap_or_default().to_owned();
        }
        if flags.is_empty() {
            let listed = fields.get("flags").or_else(|| fields.get("Features")).copied().unwrap_or_default();
            flags = listed.split_ascii_whitespace().map(str::to_owned).collect();
        }
        let mhz =
            fields.get("cpu MHz").and_then(|mhz| mhz.split('.').next()).and_then(|mhz| mhz.parse().ok());
        clock_mhz = clock_mhz.max(mhz.unwrap_or(0));
    }
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    Cpu {
        arch: arch.to_owned(),
        model,
        count: u32::try_from(sockets.len()).unwrap_or(0),
        cores: u32::try_from(cores.len()).unwrap_or(0),
        threads,
        clock_mhz,
        flags,
    }
}

/// `MemTotal` of `/proc/meminfo`, which is what the kernel was left by the firmware.
fn memory(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) * 1024
}

fn disks(sys: &Path) -> Vec<Disk> {
    sysfs::entries(sys.join("block"))
        .iter()
        .filter(|path| !NO_DISKS.iter().any(|prefix| sysfs::name(path).starts_with(prefix)))
        .filter_map(|path| disk(path))
        .collect()
}

/// One folder of `/sys/block`; `None` for a reader without a medium.
fn disk(path: &Path) -> Option<Disk> {
    let name = sysfs::name(path);
    let sectors: u64 = sysfs::number(path.join("size"))?;
    // Multipath halves of an NVMe namespace are hidden, and are not to be opened.
    if sectors == 0 || sysfs::flag(path.join("hidden")) {
        return None;
    }
    let device = path.join("device");
    let read = |names: &[&str]| {
        names
            .iter()
            .map(|name| sysfs::text(path.join(name)))
            .find(|text| !text.is_empty())
            .unwrap_or_default()
    };
    let rotational = sysfs::flag(path.join("queue/rotational"));
    let kind = match (name.starts_with("nvme"), rotational) {
        (true, _) => DiskType::Nvme,
        (false, true) => DiskType::Hdd,
        (false, false) => DiskType::Ssd,
    };
    let wwn = wwn(&read(&["wwid", "device/wwid"]));
    let serial_number = match read(&["serial", "device/serial"]) {
        text if text.is_empty() => vpd_serial(&device.join("vpd_pg80")),
        text => text,
    };
    let vendor = read(&["device/vendor"]);
    Some(Disk {
        by_path: by_path(path),
        by_id: wwn.as_ref().map(|wwn| format!("/dev/disk/by-id/wwn-{wwn}")).unwrap_or_default(),
        name: format!("/dev/{name}"),
        model: read(&["device/model"]),
        // A virtio device shows its PCI vendor there.
        vendor: if vendor.starts_with("0x") { String::new() } else { vendor },
        serial_number,
        wwn: wwn.as_deref().map(|wwn| split_wwn(wwn).0).unwrap_or_default(),
        wwn_vendor_extension: wwn.as_deref().map(|wwn| split_wwn(wwn).1).unwrap_or_default(),
        wwn_with_extension: wwn.unwrap_or_default(),
        size_bytes: sectors.saturating_mul(SECTOR),
        rotational,
        r#type: kind.into(),
        hctl: hctl(&device),
        removable: sysfs::flag(path.join("removable")),
        nvme_namespace_id: if name.starts_with("nvme") {
            sysfs::number(path.join("nsid")).unwrap_or(0)
        } else {
            0
        },
    })
}

/// `naa.5000c500…` and `eui.0025…` as udev names them: `0x5000c500…`, `eui.0025…`.
fn wwn(text: &str) -> Option<String> {
    if let Some(hex) = text.strip_prefix("naa.") {
        return Some(format!("0x{}", hex.to_ascii_lowercase()));
    }
    text.starts_with("eui.").then(|| text.to_ascii_lowercase())
}

/// The name and the vendor's extension of it, as udev has them: of a NAA name with 32 digits the last 16 are the
/// extension, which is a number of its own (`0x…`).
fn split_wwn(wwn: &str) -> (String, String) {
    match wwn.split_at_checked(2 + 16) {
        Some((name, extension)) if wwn.starts_with("0x") && extension.len() == 16 => {
            (name.to_owned(), format!("0x{extension}"))
        }
        _ => (wwn.to_owned(), String::new()),
    }
}

/// Serial number of SCSI vital product data, page 0x80 (SPC-4, 7.8.18): two bytes of length, then text.
fn vpd_serial(path: &Path) -> String {
    let Ok(bytes) = std::fs::read(path) else { return String::new() };
    let length = bytes.get(2..4).map_or(0, |l| usize::from(l[0]) << 8 | usize::from(l[1]));
    let text = bytes.get(4..).unwrap_or_default();
    String::from_utf8_lossy(&text[..length.min(text.len())])
        .trim_matches(|c: char| c.is_whitespace() || c == '\0')
        .to_owned()
}

/// `0:0:1:0` of a SCSI device.
fn hctl(device: &Path) -> String {
    let name = sysfs::link_name(device);
    let parts: Vec<&str> = name.split(':').collect();
    if parts.len() == 4 && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_digit())) {
        name
    } else {
        String::new()
    }
}

/// What udev would call the disk by its place: the PCI address, and what follows it for each kind of bus.
fn by_path(block: &Path) -> String {
    let Ok(target) = std::fs::canonicalize(block) else { return String::new() };
    let parts: Vec<String> = target.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let Some(pci) = parts.iter().rposition(|part| is_pci_address(part)) else { return String::new() };
    let name = sysfs::name(block);
    let tail = if name.starts_with("nvme") {
        sysfs::number::<u32>(block.join("nsid")).map_or(String::new(), |id| format!("-nvme-{id}"))
    } else if let Some(scsi) = parts[pci..].iter().find(|part| part.matches(':').count() == 3) {
        let port = parts[pci..].iter().find_map(|part| part.strip_prefix("ata"));
        match port {
            Some(port) => format!("-ata-{port}"),
            None => format!("-scsi-{scsi}"),
        }
    } else {
        String::new()
    };
    format!("/dev/disk/by-path/pci-{}{tail}", parts[pci])
}

/// `0000:00:1f.2`
fn is_pci_address(text: &str) -> bool {
    let shape = |c: char| if c.is_ascii_hexdigit() { 'x' } else { c };
    text.chars().map(shape).collect::<String>() == "xxxx:xx:xx.x"
}

fn nics(sys: &Path, boot_mac: &str) -> Vec<Nic> {
    physical_nics(sys)
        .iter()
        .map(|path| {
            let mac = own_mac(path);
            let ids = (sysfs::text(path.join("device/vendor")), sysfs::text(path.join("device/device")));
            let driver = sysfs::link_name(path.join("device/driver"));
            Nic {
                name: sysfs::name(path),
                pxe: !boot_mac.is_empty() && mac == boot_mac,
                model: if ids.0.is_empty() { driver.clone() } else { format!("{} {}", ids.0, ids.1) },
                driver,
                addresses: Vec::new(),
                speed_mbps: sysfs::number::<i64>(path.join("speed"))
                    .and_then(|s| u32::try_from(s).ok())
                    .unwrap_or(0),
                link_up: sysfs::flag(path.join("carrier")),
                mac,
                lldp: None,
            }
        })
        .collect()
}

/// A card's own MAC address, in lower case: one in a bond shows the bond's instead (`perm_hwaddr` of
/// Documentation/ABI/testing/sysfs-class-net in the folder of the bond's member).
pub(super) fn own_mac(folder: &Path) -> String {
    let own = sysfs::text(folder.join("bonding_slave/perm_hwaddr"));
    let mac = if own.is_empty() { sysfs::text(folder.join("address")) } else { own };
    mac.to_ascii_lowercase()
}

/// Folders of `/sys/class/net` that stand for hardware.
pub(super) fn physical_nics(sys: &Path) -> Vec<PathBuf> {
    sysfs::entries(sys.join("class/net"))
        .into_iter()
        // ARPHRD_ETHER of if_arp.h; what has no device is a bridge, a tunnel or the loopback.
        .filter(|path| path.join("device").exists() && sysfs::text(path.join("type")) == "1")
        .collect()
}

#[cfg(test)]
mod tests;
