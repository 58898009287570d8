//! What an agent sees of the hardware from within, added to what the BMC tells. Pure.
//!
//! - The agent knows disks, ports and processors better: its facts win where it has any. The BMC knows better what is
//!   installed (memory, firmware, the name on the case): its facts win.
//! - A port is known by its MAC address, a disk by its serial number or WWN. What only one side sees is kept, but for
//!   disks of the BMC without a serial number, which may be one that the agent sees, and removable disks, among which
//!   are the BMC's own media.
//! - The agent's addresses are not taken: they are gone when it is.
//! - A switch that said who it is stays known until the port hears of another one.
//! - Memory modules, GPUs, boot mode, Secure Boot and what the BMC says to its own server are known from within only: what
//!   was seen last counts.

use ferric_api::HardwareDetails;
use ferric_api::hardware::{BmcLan, BmcUser, Cpu, Gpu, InBandBmc, Lldp, MemoryModule, Nic, Storage};
use ferric_api::host::BootMode;
use ferric_bmc::in_band::{device, fru};
use ferric_protocol::v1::{self, BmcAddressSource, DiskType, Inventory};

/// Most memory modules, or GPUs, of one machine that are kept.
const MOST: usize = 512;
/// Longest of their facts, in characters.
const LONGEST: usize = 96;
/// Longest sentence, in characters.
const LONGEST_TEXT: usize = 400;
/// Channels of a BMC (IPMI 2.0, 6.3), and most of its IPv6 addresses that are kept.
const MOST_CHANNELS: usize = 16;
/// Users of a BMC (IPMI 2.0, 22.27: a number of six bits).
const MOST_USERS: usize = 64;
/// Bytes of a GUID.
const GUID: usize = 16;

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
        // What is plugged in is more than what the firmware leaves to a kernel.
        let installed = inventory.installed_memory_bytes;
        merged.ram_mebibytes = number(if installed > 0 { installed } else { inventory.memory_bytes } >> 20);
    }
    if let Some(seen) = &inventory.cpu {
        cpu(&mut merged.cpu, seen);
    }
    merged.nics = nics(&out_of_band.nics, &inventory.nics);
    merged.storage = storage(&out_of_band.storage, &inventory.disks);
    if !inventory.memory_modules.is_empty() {
        merged.memory_modules = inventory.memory_modules.iter().take(MOST).map(memory_module).collect();
    }
    // Only an agent that looked at the machine says how that was started, and only its silence about GPUs means none.
    let looked = inventory.boot_mode() != v1::BootMode::Unspecified;
    if looked || !inventory.gpus.is_empty() {
        merged.gpus = Some(inventory.gpus.iter().take(MOST).map(gpu).collect());
    }
    match inventory.boot_mode() {
        v1::BootMode::Unspecified => {}
        v1::BootMode::Bios => (merged.boot_mode, merged.secure_boot) = (Some(BootMode::Legacy), Some(false)),
        v1::BootMode::Uefi => {
            merged.secure_boot = inventory.secure_boot.or(merged.secure_boot);
            let secure = merged.secure_boot == Some(true);
            merged.boot_mode = Some(if secure { BootMode::UefiSecureBoot } else { BootMode::Uefi });
        }
    }
    if let Some(seen) = &inventory.bmc {
        merged.bmc = Some(bmc(seen));
    }
    merged
}

/// What a machine's BMC said to it.
#[must_use]
pub fn bmc(seen: &v1::InBandBmc) -> InBandBmc {
    let known = device(&seen.device_id);
    let fru = fru(&seen.fru);
    InBandBmc {
        problem: seen
            .problem
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(LONGEST_TEXT)
            .collect(),
        firmware: known.as_ref().map(|device| fact(&device.firmware)).unwrap_or_default(),
        manufacturer_id: known.as_ref().map(|device| device.manufacturer.into()),
        product_id: known.as_ref().map(|device| device.product.into()),
        system_guid: if seen.system_guid.len() == GUID {
            hex::encode(&seen.system_guid)
        } else {
            String::new()
        },
        manufacturer: fact(&fru.manufacturer),
        product_name: fact(&fru.product),
        product_serial_number: fact(&fru.product_serial),
        board_serial_number: fact(&fru.board_serial),
        chassis_serial_number: fact(&fru.chassis_serial),
        lan: seen.lans.iter().take(MOST_CHANNELS).map(bmc_lan).collect(),
        users: seen.users.iter().take(MOST_USERS).map(bmc_user).collect(),
    }
}

fn bmc_lan(seen: &v1::InBandBmcLan) -> BmcLan {
    let source = match seen.source() {
        BmcAddressSource::Unspecified => "",
        BmcAddressSource::Static => "Static",
        BmcAddressSource::Dhcp => "DHCP",
        BmcAddressSource::Firmware => "Firmware",
        BmcAddressSource::Other => "Other",
    };
    BmcLan {
        channel: seen.channel.into(),
        mac: fact(&seen.mac),
        ip: fact(&seen.address),
        ip_source: source.to_owned(),
        ipv6: seen.ipv6_addresses.iter().take(MOST_CHANNELS).map(|address| fact(address)).collect(),
        vlan_id: Some(i64::from(seen.vlan_id)).filter(|id| (1..=4094).contains(id)),
    }
}

fn bmc_user(seen: &v1::InBandBmcUser) -> BmcUser {
    BmcUser { id: seen.id.into(), name: fact(&seen.name), enabled: seen.enabled }
}

fn memory_module(seen: &v1::MemoryModule) -> MemoryModule {
    MemoryModule {
        locator: fact(&seen.locator),
        bank: fact(&seen.bank),
        size_mebibytes: number(seen.size_bytes >> 20),
        memory_type: fact(&seen.r#type),
        speed_megatransfers: seen.speed_mts.into(),
        configured_speed_megatransfers: seen.configured_speed_mts.into(),
        manufacturer: fact(&seen.manufacturer),
        serial_number: fact(&seen.serial_number),
        part_number: fact(&seen.part_number),
        persistent: seen.persistent,
    }
}

fn gpu(seen: &v1::Gpu) -> Gpu {
    Gpu {
        vendor_id: fact(&seen.vendor_id),
        device_id: fact(&seen.device_id),
        vendor: fact(&seen.vendor),
        model: fact(&seen.model),
        pci_address: fact(&seen.pci_address),
        driver: fact(&seen.driver),
    }
}

/// A fact as it may stand in an object: of a sensible length, and without control characters.
fn fact(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
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
        if !nic.driver.is_empty() {
            entry.driver = fact(&nic.driver);
        }
        entry.pxe |= nic.pxe;
        // What was heard last counts, and silence says nothing: it may have been too short.
        if let Some(heard) = &nic.lldp {
            entry.lldp = Some(Lldp {
                switch_id: fact(&heard.chassis_id),
                port_id: fact(&heard.port_id),
                switch_system_name: fact(&heard.system_name),
            });
            entry.vlan_id = Some(i64::from(heard.port_vlan_id)).filter(|id| (1..=4094).contains(id));
        }
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
            model: "0x8086 0x1572".into(),
            driver: "i40e".into(),
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
            memory_modules: vec![v1::MemoryModule {
                locator: "DIMM\u{7}A1".into(),
                size_bytes: 32 << 30,
                r#type: "DDR5".into(),
                part_number: "P".repeat(200),
                ..v1::MemoryModule::default()
            }],
            installed_memory_bytes: 64 << 30,
            gpus: vec![v1::Gpu { vendor_id: "10de".into(), ..v1::Gpu::default() }],
            boot_mode: v1::BootMode::Uefi.into(),
            secure_boot: Some(true),
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
        assert_eq!(merged.nics[0].driver, "i40e");
        let disks: Vec<_> = merged.storage.iter().map(|d| (d.name.as_str(), d.vendor.as_str())).collect();
        assert_eq!(disks, [("/dev/sda", "Acme"), ("Behind RAID", "")]);
        let disk = &merged.storage[0];
        assert_eq!(
            (disk.disk_type.as_str(), disk.hctl.as_str(), disk.size_bytes),
            ("HDD", "0:0:0:0", 1 << 40)
        );
    }

    #[test]
    fn what_only_the_agent_sees_is_added_and_bounded() {
        let merged = merge(&told(), &seen());
        let [module] = merged.memory_modules.as_slice() else { panic!("{:?}", merged.memory_modules) };
        assert_eq!((module.locator.as_str(), module.size_mebibytes), ("DIMM A1", 32 << 10));
        assert_eq!((module.memory_type.as_str(), module.part_number.len()), ("DDR5", LONGEST));
        assert_eq!(merged.gpus.as_ref().unwrap()[0].vendor_id, "10de");
        assert_eq!((merged.boot_mode, merged.secure_boot), (Some(BootMode::UefiSecureBoot), Some(true)));
        let flood =
            Inventory { memory_modules: vec![v1::MemoryModule::default(); MOST + 1], ..Inventory::default() };
        assert_eq!(merge(&told(), &flood).memory_modules.len(), MOST);
        // A GPU that was taken out is gone; the list that says so is not left out of a patch.
        let without = merge(&merged, &Inventory { gpus: Vec::new(), ..seen() });
        assert_eq!(without.gpus, Some(Vec::new()));
    }

    #[test]
    fn a_neighbour_is_kept_until_another_is_heard() {
        let heard = |switch: &str, vlan: u32| {
            let mut inventory = seen();
            inventory.nics[1].lldp = Some(v1::LldpNeighbour {
                chassis_id: switch.into(),
                port_id: "Ethernet1/7\n".into(),
                system_name: "leaf".repeat(100),
                port_vlan_id: vlan,
            });
            inventory
        };
        let merged = merge(&told(), &heard("aa:bb:cc:00:00:01", 12));
        assert_eq!(merged.nics[0].lldp, None);
        let lldp = merged.nics[1].lldp.clone().unwrap();
        assert_eq!((lldp.switch_id.as_str(), lldp.port_id.as_str()), ("aa:bb:cc:00:00:01", "Ethernet1/7 "));
        assert_eq!((lldp.switch_system_name.len(), merged.nics[1].vlan_id), (LONGEST, Some(12)));
        assert_eq!(merge(&merged, &seen()), merged, "silence takes nothing away");
        let moved = merge(&merged, &heard("aa:bb:cc:00:00:02", 9999));
        assert_eq!(moved.nics[1].lldp.as_ref().unwrap().switch_id, "aa:bb:cc:00:00:02");
        assert_eq!(moved.nics[1].vlan_id, None, "no VLAN has this number");
    }

    #[test]
    fn boot_modes_and_secure_boot() {
        use v1::BootMode as Seen;
        for (before, mode, variable, expected) in [
            (None, Seen::Unspecified, Some(true), (None, None)),
            (None, Seen::Bios, None, (Some(BootMode::Legacy), Some(false))),
            (None, Seen::Uefi, None, (Some(BootMode::Uefi), None)),
            (None, Seen::Uefi, Some(false), (Some(BootMode::Uefi), Some(false))),
            (None, Seen::Uefi, Some(true), (Some(BootMode::UefiSecureBoot), Some(true))),
            (Some(true), Seen::Uefi, None, (Some(BootMode::UefiSecureBoot), Some(true))),
            (Some(true), Seen::Uefi, Some(false), (Some(BootMode::Uefi), Some(false))),
            (Some(true), Seen::Bios, None, (Some(BootMode::Legacy), Some(false))),
        ] {
            let known = HardwareDetails { secure_boot: before, ..told() };
            let inventory =
                Inventory { boot_mode: mode.into(), secure_boot: variable, ..Inventory::default() };
            let merged = merge(&known, &inventory);
            assert_eq!((merged.boot_mode, merged.secure_boot), expected, "{before:?} {mode:?} {variable:?}");
        }
    }

    #[test]
    fn what_the_bmc_says_to_its_server_is_kept_until_it_says_something_else() {
        let lan = v1::InBandBmcLan {
            channel: 1,
            mac: "52:54:00:00:00:b1".into(),
            address: "10.0.0.7".into(),
            source: BmcAddressSource::Dhcp.into(),
            vlan_id: 12,
            ipv6_addresses: vec!["2001:db8::7".into()],
        };
        let users =
            (0..100).map(|id| v1::InBandBmcUser { id, name: format!("u\n{id}"), enabled: Some(id == 2) });
        let told = v1::InBandBmc {
            device_id: vec![0x20, 0x01, 0x02, 0x43, 0x02, 0xBF, 0x57, 0x01, 0x00, 0x34, 0x12],
            system_guid: (0..16).collect(),
            lans: vec![lan],
            users: users.collect(),
            ..v1::InBandBmc::default()
        };
        let inventory = Inventory { bmc: Some(told), ..seen() };
        let merged = merge(&super::tests::told(), &inventory);
        let bmc = merged.bmc.clone().unwrap();
        assert_eq!(
            (bmc.firmware.as_str(), bmc.manufacturer_id, bmc.product_id),
            ("2.43", Some(343), Some(0x1234))
        );
        assert_eq!(
            (bmc.system_guid.as_str(), bmc.problem.as_str()),
            ("000102030405060708090a0b0c0d0e0f", "")
        );
        let lan = &bmc.lan[0];
        assert_eq!((lan.channel, lan.mac.as_str(), lan.ip.as_str()), (1, "52:54:00:00:00:b1", "10.0.0.7"));
        assert_eq!((lan.ip_source.as_str(), lan.vlan_id, lan.ipv6.len()), ("DHCP", Some(12), 1));
        assert_eq!(
            (bmc.users.len(), bmc.users[2].name.as_str(), bmc.users[2].enabled),
            (64, "u 2", Some(true))
        );
        assert_eq!(merge(&merged, &seen()).bmc, Some(bmc), "an agent that did not look takes nothing away");
        let silent = v1::InBandBmc { problem: "no device".into(), ..v1::InBandBmc::default() };
        let silent = merge(&merged, &Inventory { bmc: Some(silent), ..seen() }).bmc.unwrap();
        assert_eq!(silent, InBandBmc { problem: "no device".into(), ..InBandBmc::default() });
    }

    #[test]
    fn memory_is_what_the_bmc_says_then_what_is_plugged_in_then_what_the_kernel_has() {
        let unknown = HardwareDetails { ram_mebibytes: 0, ..told() };
        assert_eq!(merge(&unknown, &seen()).ram_mebibytes, 64 << 10);
        let without = Inventory { installed_memory_bytes: 0, ..seen() };
        assert_eq!(merge(&unknown, &without).ram_mebibytes, 60 << 10);
    }

    #[test]
    fn merging_again_changes_nothing_and_an_agent_that_sees_nothing_takes_nothing_away() {
        let merged = merge(&told(), &seen());
        assert_eq!(merge(&merged, &seen()), merged);
        assert_eq!(merge(&told(), &Inventory::default()), told());
    }
}
