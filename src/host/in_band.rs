//! What an agent sees of the hardware from within, added to what the BMC tells. Pure.
//!
//! - The agent knows disks, ports and processors better: its facts win where it has any. The BMC knows better what is
//!   installed (memory, firmware, the name on the case): its facts win.
//! - A port is known by its MAC address, a disk by its serial number or WWN. What only one side sees is kept, but for
//!   disks of the BMC without a serial number, which may be one that the agent sees, and removable disks, among which
//!   are the BMC's own media.
//! - The agent's addresses are not taken: they are gone when it is.

use ferric_api::HardwareDetails;
use ferric_api::hardware::{Cpu, Nic, Storage};
use ferric_protocol::v1::{self, DiskType, Inventory};

/// The hardware as both see it.
#[must_use]
pub fn merge(out_of_band: &HardwareDetails, inventory: &Inventory) -> HardwareDetails {
    let mut merged = out_of_band.clone();
    let vendor = &mut merged.system_vendor;
    let bios = &mut merged.firmware.bios;
    let firmware = inventory.firmware.clone().unwrap_or_default();
    for (known, seen) in [
        (&mut vendor.manufacturer, &inventory.manufacturer),
        (&mut vendor.product_name, &inventory.product),
        (&mut vendor.serial_number, &inventory.serial_number),
        (&mut bios.vendor, &firmware.vendor),
        (&mut bios.version, &firmware.version),
        (&mut bios.date, &firmware.date),
        (&mut merged.hostname, &inventory.hostname),
    ] {
        if known.is_empty() {
            known.clone_from(seen);
        }
    }
    if merged.ram_mebibytes == 0 {
        merged.ram_mebibytes = number(inventory.memory_bytes >> 20);
    }
    if let Some(seen) = &inventory.cpu {
        cpu(&mut merged.cpu, seen);
    }
    merged.nics = nics(&out_of_band.nics, &inventory.nics);
    merged.storage = storage(&out_of_band.storage, &inventory.disks);
    merged
}

fn cpu(known: &mut Cpu, seen: &v1::Cpu) {
    let arch = match seen.arch.as_str() {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    for (known, seen) in [(&mut known.arch, arch), (&mut known.model, seen.model.as_str())] {
        if !seen.is_empty() {
            seen.clone_into(known);
        }
    }
    if !seen.flags.is_empty() {
        known.flags.clone_from(&seen.flags);
    }
    if seen.threads > 0 {
        known.count = seen.threads.into();
    }
    // From within it is the clock of this moment.
    if known.clock_megahertz == 0 {
        known.clock_megahertz = seen.clock_mhz.into();
    }
}

fn nics(known: &[Nic], seen: &[v1::Nic]) -> Vec<Nic> {
    let mut merged = known.to_vec();
    for nic in seen {
        let same =
            merged.iter_mut().find(|other| !nic.mac.is_empty() && other.mac.eq_ignore_ascii_case(&nic.mac));
        let entry = match same {
            Some(entry) => entry,
            None => {
                merged.push(Nic { mac: nic.mac.clone(), ..Nic::default() });
                let Some(entry) = merged.last_mut() else { continue };
                entry
            }
        };
        if !nic.name.is_empty() {
            entry.name.clone_from(&nic.name);
        }
        if !nic.model.is_empty() {
            entry.model.clone_from(&nic.model);
        }
        if nic.speed_mbps > 0 {
            entry.speed_gbps = i64::from(nic.speed_mbps / 1000);
        }
        entry.pxe |= nic.pxe;
    }
    merged
}

fn storage(known: &[Storage], seen: &[v1::Disk]) -> Vec<Storage> {
    let seen: Vec<&v1::Disk> = seen.iter().filter(|disk| !disk.removable).collect();
    if seen.is_empty() {
        return known.to_vec();
    }
    let from_within = seen.iter().map(|disk| {
        let told = known.iter().find(|told| is_same(told, disk)).cloned().unwrap_or_default();
        let either = |seen: &str, told: String| if seen.is_empty() { told } else { seen.to_owned() };
        let disk_type = match disk.r#type() {
            DiskType::Unspecified => told.disk_type,
            DiskType::Hdd => "HDD".to_owned(),
            DiskType::Ssd => "SSD".to_owned(),
            DiskType::Nvme => "NVME".to_owned(),
        };
        Storage {
            name: either(&disk.name, told.name),
            size_bytes: if disk.size_bytes > 0 { number(disk.size_bytes) } else { told.size_bytes },
            disk_type,
            rotational: disk.rotational,
            vendor: either(&disk.vendor, told.vendor),
            model: either(&disk.model, told.model),
            serial_number: either(&disk.serial_number, told.serial_number),
            wwn: either(&disk.wwn, told.wwn),
            hctl: either(&disk.hctl, told.hctl),
        }
    });
    let hidden = known
        .iter()
        .filter(|told| !told.serial_number.is_empty() && !seen.iter().any(|disk| is_same(told, disk)));
    from_within.chain(hidden.cloned()).collect()
}

fn is_same(told: &Storage, seen: &v1::Disk) -> bool {
    let equal = |a: &str, b: &str| !a.trim().is_empty() && a.trim().eq_ignore_ascii_case(b.trim());
    equal(&told.serial_number, &seen.serial_number) || equal(&told.wwn, &seen.wwn)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn told() -> HardwareDetails {
        HardwareDetails {
            ram_mebibytes: 65_536,
            nics: vec![Nic {
                name: "NIC.Slot.1".into(),
                mac: "52:54:00:AA:BB:01".into(),
                ip: "10.0.0.7".into(),
                ..Nic::default()
            }],
            storage: vec![
                Storage {
                    name: "Disk 0".into(),
                    serial_number: "S0".into(),
                    vendor: "Acme".into(),
                    ..Storage::default()
                },
                Storage { name: "Behind RAID".into(), serial_number: "S9".into(), ..Storage::default() },
                Storage { name: "Nameless".into(), ..Storage::default() },
            ],
            hostname: "node-1".into(),
            ..HardwareDetails::default()
        }
    }

    fn seen() -> Inventory {
        let nic = |name: &str, mac: &str| v1::Nic {
            name: name.into(),
            mac: mac.into(),
            model: "0x8086 0x1572 (i40e)".into(),
            speed_mbps: 10_000,
            addresses: vec!["10.9.9.9".into()],
            ..v1::Nic::default()
        };
        Inventory {
            manufacturer: "Acme".into(),
            hostname: "agent".into(),
            memory_bytes: 60 << 30,
            cpu: Some(v1::Cpu {
                arch: "amd64".into(),
                threads: 32,
                flags: vec!["sse".into()],
                ..v1::Cpu::default()
            }),
            nics: vec![nic("eth0", "52:54:00:aa:bb:01"), nic("eth1", "52:54:00:aa:bb:02")],
            disks: vec![
                v1::Disk {
                    name: "/dev/sda".into(),
                    serial_number: "s0 ".into(),
                    size_bytes: 1 << 40,
                    rotational: true,
                    r#type: DiskType::Hdd.into(),
                    hctl: "0:0:0:0".into(),
                    ..v1::Disk::default()
                },
                v1::Disk { name: "/dev/sdb".into(), removable: true, ..v1::Disk::default() },
            ],
            ..Inventory::default()
        }
    }

    #[test]
    fn each_side_wins_where_it_knows_better() {
        let merged = merge(&told(), &seen());
        assert_eq!((merged.ram_mebibytes, merged.hostname.as_str()), (65_536, "node-1"));
        assert_eq!(merged.system_vendor.manufacturer, "Acme", "the BMC said nothing");
        assert_eq!((merged.cpu.arch.as_str(), merged.cpu.count, merged.cpu.flags.len()), ("x86_64", 32, 1));
        let nics: Vec<_> =
            merged.nics.iter().map(|n| (n.name.as_str(), n.ip.as_str(), n.speed_gbps)).collect();
        assert_eq!(
            nics,
            [("eth0", "10.0.0.7", 10), ("eth1", "", 10)],
            "an agent's address is not the machine's"
        );
        let disks: Vec<_> = merged.storage.iter().map(|d| (d.name.as_str(), d.vendor.as_str())).collect();
        assert_eq!(disks, [("/dev/sda", "Acme"), ("Behind RAID", "")]);
        let disk = &merged.storage[0];
        assert_eq!(
            (disk.disk_type.as_str(), disk.hctl.as_str(), disk.size_bytes),
            ("HDD", "0:0:0:0", 1 << 40)
        );
    }

    #[test]
    fn merging_again_changes_nothing_and_an_agent_that_sees_nothing_takes_nothing_away() {
        let merged = merge(&told(), &seen());
        assert_eq!(merge(&merged, &seen()), merged);
        assert_eq!(merge(&told(), &Inventory::default()), told());
    }
}
