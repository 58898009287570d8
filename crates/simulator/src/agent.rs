//! Runs the real agent library on a simulated server.

use std::io;
use std::sync::Arc;

use ferric_agent::erase::{Drive, NoCommands, Queue};
use ferric_image::BlockDevice;
use ferric_protocol::v1;
use tokio_util::sync::CancellationToken;

use crate::config::DiskKind;
use crate::disk::{AgentDisk, WriteLimits};
use crate::ipmi::facts;
use crate::life::Exit;
use crate::server::Server;
use crate::spec::{DiskSpec, ServerSpec};

/// The machine that the agent sees.
struct SimPlatform {
    server: Arc<Server>,
    limits: Arc<WriteLimits>,
}

impl ferric_agent::Platform for SimPlatform {
    fn inventory(&self) -> io::Result<v1::Inventory> {
        Ok(inventory(&self.server.spec))
    }

    fn open_drive(&self, name: &str) -> io::Result<Box<dyn Drive>> {
        let disk = self.server.spec.disks.iter().find(|disk| disk.device == name);
        // What is deallocated takes no room on the machine that this runs on.
        let most = if disk.is_some_and(|disk| disk.kind != DiskKind::Hdd) { 1 << 30 } else { 0 };
        let queue = Queue { rotational: most == 0, discard_max_bytes: most, write_zeroes_max_bytes: most };
        Ok(Box::new(NoCommands(queue)))
    }

    fn open_disk(&self, name: &str) -> io::Result<Box<dyn BlockDevice>> {
        let number = self.server.spec.disks.iter().position(|disk| disk.device == name);
        let number = number
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no disk {name}")))?;
        Ok(Box::new(AgentDisk::open(&self.server, number, Arc::clone(&self.limits))?))
    }
}

/// Runs the agent until it ends or the power goes.
pub(crate) async fn run(server: Arc<Server>, epoch: u64, arguments: &str, cancel: CancellationToken) -> Exit {
    let boot = match ferric_protocol::BootData::parse(arguments) {
        Ok(boot) => boot,
        Err(error) => return Exit::Crash(error.to_string()),
    };
    let faults = server.faults();
    let limits =
        WriteLimits::new(faults.disk_fails_after_bytes, faults.agent_dies_after_bytes, cancel.clone());
    let platform = Arc::new(SimPlatform { server: Arc::clone(&server), limits: Arc::clone(&limits) });
    let options = ferric_agent::AgentOptions {
        // Simulated disks are small.
        min_root_bytes: 1 << 20,
        local_address: Some(server.spec.bmc_ip.into()),
        write_permits: Some(Arc::clone(&server.shared.write_permits)),
        ..ferric_agent::AgentOptions::default()
    };
    tracing::debug!(server = server.spec.name, epoch, provider = boot.provider_url(), "agent starts");
    let exit = tokio::select! {
        () = limits.died.cancelled() => {
            // Once is enough: the next boot is to work.
            server.lock().faults.agent_dies_after_bytes = None;
            Exit::Crash("simulated fault: the agent died in the middle of writing".to_owned())
        }
        exit = ferric_agent::run(boot, platform, options, cancel) => match exit {
            Ok(ferric_agent::Exit::Kexec) => Exit::Kexec,
            Ok(ferric_agent::Exit::Reboot) => Exit::Reboot,
            Ok(ferric_agent::Exit::PowerOff) => Exit::PowerOff,
            Ok(ferric_agent::Exit::Cancelled) => Exit::Crash("the power is gone".to_owned()),
            Err(error) => Exit::Crash(error.to_string()),
        },
    };
    server.lock().disk_bytes_written += limits.written();
    exit
}

/// The hardware as the agent would find it: the same facts that the BMC reports.
fn inventory(spec: &ServerSpec) -> v1::Inventory {
    let class = &spec.class;
    let cores = class.sockets * class.cores_per_socket;
    v1::Inventory {
        system_uuid: spec.uuid.to_string(),
        serial_number: spec.serial.clone(),
        manufacturer: ServerSpec::MANUFACTURER.to_owned(),
        product: class.model.clone(),
        boot_mac: spec.boot_mac().to_owned(),
        cpu: Some(v1::Cpu {
            arch: class.cpu_arch.clone(),
            model: class.cpu_model.clone(),
            count: class.sockets,
            cores,
            threads: cores * class.threads_per_core,
            clock_mhz: class.clock_mhz,
            flags: Vec::new(),
        }),
        memory_bytes: u64::from(class.memory_gib) << 30,
        disks: spec.disks.iter().enumerate().map(|(number, disk)| disk_facts(number, disk)).collect(),
        nics: spec
            .nics
            .iter()
            .enumerate()
            .map(|(port, nic)| v1::Nic {
                name: nic.name.clone(),
                mac: nic.mac.clone(),
                model: "Simulated NIC".to_owned(),
                addresses: if port == 0 { vec![spec.bmc_ip.to_string()] } else { Vec::new() },
                speed_mbps: 25_000,
                link_up: true,
                pxe: port == 0,
                driver: "virtio_net".to_owned(),
                lldp: None,
            })
            .collect(),
        firmware: Some(v1::Firmware {
            vendor: ServerSpec::MANUFACTURER.to_owned(),
            version: ServerSpec::BIOS_VERSION.to_owned(),
            date: ServerSpec::BIOS_DATE.to_owned(),
        }),
        boot_mode: v1::BootMode::Uefi.into(),
        hostname: spec.name.clone(),
        memory_modules: memory_modules(spec),
        installed_memory_bytes: u64::from(class.memory_gib) << 30,
        gpus: (0..class.gpus).map(gpu).collect(),
        secure_boot: Some(false),
        neighbours_pending: false,
        bmc: Some(in_band_bmc(spec)),
    }
}

fn gpu(number: u32) -> v1::Gpu {
    v1::Gpu {
        pci_address: format!("0000:{:02x}:00.0", 0x17 + number),
        // NVIDIA in the PCI ID Repository.
        vendor_id: "10de".to_owned(),
        device_id: "20b5".to_owned(),
        vendor: "NVIDIA".to_owned(),
        model: "Simulated GPU".to_owned(),
        driver: String::new(),
    }
}

/// What the server's own BMC says to it: the same as over IPMI.
fn in_band_bmc(spec: &ServerSpec) -> v1::InBandBmc {
    // Without the completion code.
    let device_id = facts::device().split_off(1);
    v1::InBandBmc {
        problem: String::new(),
        device_id,
        system_guid: facts::guid(spec).to_vec(),
        fru: facts::fru(spec),
        lans: vec![v1::InBandBmcLan {
            channel: 1,
            mac: spec.bmc_mac_text(),
            address: spec.bmc_ip.to_string(),
            source: v1::BmcAddressSource::Static.into(),
            vlan_id: 0,
            ipv6_addresses: Vec::new(),
        }],
        users: vec![v1::InBandBmcUser { id: 2, name: spec.username.clone(), enabled: Some(true) }],
    }
}

/// Two modules for each socket, or one where the memory cannot be divided so.
fn memory_modules(spec: &ServerSpec) -> Vec<v1::MemoryModule> {
    let class = &spec.class;
    let bytes = u64::from(class.memory_gib) << 30;
    let count = match u64::from(class.sockets) * 2 {
        count if count > 0 && u64::from(class.memory_gib) % count == 0 => count,
        _ => 1,
    };
    (0..count)
        .map(|number| v1::MemoryModule {
            locator: format!("DIMM_{}", number + 1),
            bank: String::new(),
            size_bytes: bytes / count,
            r#type: "DDR5".to_owned(),
            speed_mts: 4800,
            configured_speed_mts: 4800,
            manufacturer: ServerSpec::MANUFACTURER.to_owned(),
            serial_number: format!("{}-M{}", spec.serial, number + 1),
            part_number: "SIM-DDR5".to_owned(),
            persistent: false,
        })
        .collect()
}

fn disk_facts(number: usize, disk: &DiskSpec) -> v1::Disk {
    let (kind, rotational) = match disk.kind {
        DiskKind::Hdd => (v1::DiskType::Hdd, true),
        DiskKind::Ssd => (v1::DiskType::Ssd, false),
        DiskKind::Nvme => (v1::DiskType::Nvme, false),
    };
    v1::Disk {
        name: disk.device.clone(),
        by_path: format!("/dev/disk/by-path/pci-0000:00:1f.2-ata-{}", number + 1),
        by_id: format!("/dev/disk/by-id/{}_{}_{}", disk.vendor, disk.model, disk.serial),
        model: disk.model.clone(),
        vendor: disk.vendor.clone(),
        serial_number: disk.serial.clone(),
        wwn: disk.wwn.clone(),
        wwn_with_extension: disk.wwn.clone(),
        wwn_vendor_extension: String::new(),
        size_bytes: disk.size_bytes,
        rotational,
        r#type: kind.into(),
        hctl: format!("{number}:0:0:0"),
        removable: false,
        nvme_namespace_id: u32::from(disk.kind == DiskKind::Nvme),
    }
}
