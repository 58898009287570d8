//! Out-of-band inspection: what the BMC knows of the hardware. An odd or missing resource costs one fact; a BMC that
//! stops answering in the middle fails the inspection, so that half an answer is not taken for the whole.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ferric_api::HardwareDetails;
use ferric_api::hardware::{Bios, Cpu, Firmware, Nic, Storage, SystemVendor};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use super::client::{Client, one_fact};
use super::{adapters, identity, json};
use crate::error::BmcError;

/// Reads the hardware of a system.
pub(crate) async fn inspect(
    client: &Client,
    system: &Value,
    manager: Option<&Value>,
) -> Result<HardwareDetails, BmcError> {
    let reader = Reader::new(client).await?;
    let processors = reader.collection(system, "/Processors").await?;
    let interfaces = reader.collection(system, "/EthernetInterfaces").await?;
    let mut ram = ram_of_summary(system);
    if ram == 0 {
        ram = ram_of_modules(&reader.collection(system, "/Memory").await?);
    }
    let storage = disks(&reader, system).await?;
    let mut nics = nics(&interfaces);
    if nics.is_empty() {
        nics = adapters::nics(&reader, system).await?;
    }
    Ok(HardwareDetails {
        ram_mebibytes: ram,
        nics,
        storage,
        cpu: cpu(system, &processors),
        ..summary(system, manager)
    })
}

/// What system and manager say themselves.
fn summary(system: &Value, manager: Option<&Value>) -> HardwareDetails {
    let text = |pointer: &str| json::string(system, pointer).unwrap_or_default();
    HardwareDetails {
        system_vendor: SystemVendor {
            manufacturer: text("/Manufacturer"),
            product_name: text("/Model"),
            serial_number: json::text(system, "/SerialNumber").and_then(identity::serial).unwrap_or_default(),
        },
        firmware: Firmware {
            bios: Bios { version: text("/BiosVersion"), ..Bios::default() },
            bmc_version: manager
                .and_then(|manager| json::string(manager, "/FirmwareVersion"))
                .unwrap_or_default(),
            components: Vec::new(),
        },
        hostname: text("/HostName"),
        ..HardwareDetails::default()
    }
}

/// Reads resources, so many and no more.
pub(crate) struct Reader<'a> {
    client: &'a Client,
    left: AtomicUsize,
    expand: AtomicBool,
}

impl<'a> Reader<'a> {
    pub(crate) async fn new(client: &'a Client) -> Result<Self, BmcError> {
        Self::with(client, client.http.desk.limits.inspect_requests).await
    }

    /// One that makes at most so many requests, and never more than an inspection may.
    pub(crate) async fn with(client: &'a Client, most: usize) -> Result<Self, BmcError> {
        let expand = client.root().await?.expand;
        let left = client.http.desk.limits.inspect_requests.min(most);
        Ok(Self { client, left: AtomicUsize::new(left), expand: AtomicBool::new(expand) })
    }

    /// Takes one request off what is left.
    fn spend(&self) -> bool {
        let spent =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if !spent {
            tracing::debug!(bmc = %self.client.http.base, "the inspection has used up its requests");
        }
        spent
    }

    pub(crate) async fn resource(&self, link: &str) -> Result<Option<Value>, BmcError> {
        if !self.spend() {
            return Ok(None);
        }
        Ok(self.client.fact(link).await?.map(|resource| resource.json))
    }

    /// What `value` links to at a pointer.
    pub(crate) async fn linked(&self, value: &Value, pointer: &str) -> Result<Option<Value>, BmcError> {
        match json::link(value, pointer) {
            Some(link) => self.resource(&link).await,
            None => Ok(None),
        }
    }

    /// The members of the collection that `value` links to at a pointer.
    pub(crate) async fn collection(&self, value: &Value, pointer: &str) -> Result<Vec<Value>, BmcError> {
        let Some(link) = json::link(value, pointer) else { return Ok(Vec::new()) };
        let members = match self.expanded(&link).await? {
            Some(members) => members,
            None if self.spend() => one_fact(self.client.members(&link).await)?.unwrap_or_default(),
            None => Vec::new(),
        };
        self.resources(members).await
    }

    /// The members of a collection by one request, where the service can do that.
    async fn expanded(&self, link: &str) -> Result<Option<Vec<json::Member>>, BmcError> {
        if !self.expand.load(Ordering::Relaxed) || link.contains('?') || !self.spend() {
            return Ok(None);
        }
        let answer = one_fact(self.client.members(&format!("{link}?$expand=.($levels=1)")).await)?;
        if answer.as_ref().is_none_or(|members| members.iter().any(|member| member.inline.is_none())) {
            // Advertised and not done: not asked for again.
            self.expand.store(false, Ordering::Relaxed);
        }
        Ok(answer)
    }

    async fn resources(&self, members: Vec<json::Member>) -> Result<Vec<Value>, BmcError> {
        let reads = members.into_iter().map(|member| async move {
            match member.inline {
                Some(inline) => Ok(Some(inline)),
                None => self.resource(&member.path).await,
            }
        });
        let width = self.client.http.desk.limits.concurrency.max(1);
        stream::iter(reads)
            .buffered(width)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }
}

/// Whether a resource says that what it is about is not there.
pub(crate) fn is_absent(value: &Value) -> bool {
    matches!(json::text(value, "/Status/State"), Some("Absent" | "UnavailableOffline"))
}

fn ram_of_summary(system: &Value) -> i64 {
    let gib = json::float(system, "/MemorySummary/TotalSystemMemoryGiB").unwrap_or(0.0);
    // More than 4 PiB is a mistake of units.
    if (0.0..4_194_304.0).contains(&gib) { (gib * 1024.0).round() as i64 } else { 0 }
}

fn ram_of_modules(modules: &[Value]) -> i64 {
    modules
        .iter()
        .filter(|module| !is_absent(module))
        .filter_map(|module| json::int(module, "/CapacityMiB"))
        .filter(|mib| *mib > 0)
        .fold(0, i64::saturating_add)
}

fn cpu(system: &Value, processors: &[Value]) -> Cpu {
    let cpus: Vec<&Value> = processors
        .iter()
        .filter(|processor| !is_absent(processor))
        .filter(|processor| json::text(processor, "/ProcessorType").is_none_or(|kind| kind == "CPU"))
        .collect();
    let sum = |pointer: &str| {
        let all: Vec<i64> =
            cpus.iter().filter_map(|cpu| json::int(cpu, pointer)).filter(|count| *count > 0).collect();
        (all.len() == cpus.len() && !all.is_empty()).then(|| all.into_iter().fold(0, i64::saturating_add))
    };
    let summary = |pointer: &str| json::int(system, pointer).filter(|count| *count > 0);
    let count = summary("/ProcessorSummary/LogicalProcessorCount")
        .or_else(|| sum("/TotalThreads"))
        .or_else(|| sum("/TotalCores"))
        .or_else(|| summary("/ProcessorSummary/CoreCount"))
        .or_else(|| summary("/ProcessorSummary/Count"))
        .unwrap_or(0);
    let first = |pointer: &str| cpus.iter().find_map(|cpu| json::text(cpu, pointer));
    let clock = ["/MaxSpeedMHz", "/OperatingSpeedMHz"]
        .iter()
        .find_map(|pointer| cpus.iter().find_map(|cpu| json::int(cpu, pointer)).filter(|mhz| *mhz > 0));
    Cpu {
        arch: arch(first("/InstructionSet"), first("/ProcessorArchitecture")),
        model: first("/Model")
            .or_else(|| json::text(system, "/ProcessorSummary/Model"))
            .unwrap_or_default()
            .to_owned(),
        clock_megahertz: clock.unwrap_or(0),
        flags: Vec::new(),
        count,
    }
}

fn arch(instruction_set: Option<&str>, architecture: Option<&str>) -> String {
    match (instruction_set, architecture) {
        (Some("x86-64"), _) | (None, Some("x86")) => "x86_64",
        (Some("ARM-A64"), _) | (None, Some("ARM")) => "aarch64",
        (Some("PowerISA"), _) | (None, Some("Power")) => "ppc64le",
        (Some("RV64"), _) | (None, Some("RISC-V")) => "riscv64",
        _ => "",
    }
    .to_owned()
}

fn nics(interfaces: &[Value]) -> Vec<Nic> {
    let mut seen = HashSet::new();
    interfaces.iter().filter_map(nic).filter(|nic| seen.insert(nic.mac.clone())).collect()
}

fn nic(interface: &Value) -> Option<Nic> {
    if is_absent(interface) || json::text(interface, "/EthernetInterfaceType") == Some("Virtual") {
        return None;
    }
    let mac: ferric_api::MacAddress = ["/PermanentMACAddress", "/MACAddress"]
        .iter()
        .find_map(|pointer| json::text(interface, pointer)?.parse().ok())?;
    let [first, ..] = mac.octets();
    if mac.octets() == [0; 6] || first & 1 == 1 {
        return None;
    }
    let ip = ["/IPv4Addresses", "/IPv6Addresses"].iter().find_map(|pointer| {
        json::list(interface, pointer).iter().find_map(|address| json::text(address, "/Address"))
    });
    // The host's own wire to the BMC: a made-up MAC with a telling name or a link-local address.
    let to_bmc =
        json::text(interface, "/Id") == Some("ToManager") || ip.is_some_and(|ip| ip.starts_with("169.254."));
    if first & 2 == 2 && to_bmc {
        return None;
    }
    Some(Nic {
        name: json::string(interface, "/Id").or_else(|| json::string(interface, "/Name")).unwrap_or_default(),
        mac: mac.to_string(),
        ip: ip
            .filter(|ip| ip.parse::<std::net::IpAddr>().is_ok_and(|ip| !ip.is_unspecified()))
            .unwrap_or_default()
            .to_owned(),
        speed_gbps: json::int(interface, "/SpeedMbps").filter(|mbps| *mbps > 0).unwrap_or(0) / 1000,
        ..Nic::default()
    })
}

async fn disks(reader: &Reader<'_>, system: &Value) -> Result<Vec<Storage>, BmcError> {
    let mut seen = HashSet::new();
    let mut links = Vec::new();
    for storage in reader.collection(system, "/Storage").await? {
        let nvme =
            json::text(&storage, "/Name").is_some_and(|name| name.to_ascii_uppercase().contains("NVME"));
        let new =
            json::members(&storage, "/Drives").into_iter().filter(|member| seen.insert(member.path.clone()));
        links.extend(new.map(|member| (member, nvme)));
    }
    let (members, nvme): (Vec<_>, Vec<_>) = links.into_iter().unzip();
    let reads = members.into_iter().zip(nvme).map(|(member, nvme)| async move {
        let drive = match member.inline {
            Some(inline) => Some(inline),
            None => reader.resource(&member.path).await?,
        };
        Ok::<_, BmcError>(drive.and_then(|value| drive_of(&value, nvme)))
    });
    let width = reader.client.http.desk.limits.concurrency.max(1);
    let disks: Vec<Storage> = stream::iter(reads)
        .buffered(width)
        .try_filter_map(|disk| async move { Ok(disk) })
        .try_collect()
        .await?;
    if !disks.is_empty() {
        return Ok(disks);
    }
    let simple = reader.collection(system, "/SimpleStorage").await?;
    Ok(simple
        .iter()
        .flat_map(|storage| json::list(storage, "/Devices"))
        .filter_map(|it| drive_of(it, false))
        .collect())
}

/// A drive, or a device of a simple storage. `nvme`: what it hangs on says that it is one.
fn drive_of(drive: &Value, nvme: bool) -> Option<Storage> {
    if is_absent(drive) || !drive.is_object() {
        return None;
    }
    let text = |pointer: &str| json::string(drive, pointer).unwrap_or_default();
    let size = json::int(drive, "/CapacityBytes").filter(|bytes| *bytes > 0).unwrap_or(0);
    let model = text("/Model");
    let serial_number = json::text(drive, "/SerialNumber").and_then(identity::serial).unwrap_or_default();
    if size == 0 && model.is_empty() && serial_number.is_empty() {
        // An empty bay.
        return None;
    }
    let spins = json::float(drive, "/RotationSpeedRPM").is_some_and(|rpm| rpm > 0.0);
    let media = json::text(drive, "/MediaType");
    let disk_type = match (media, json::text(drive, "/Protocol")) {
        (Some("HDD" | "SMR"), _) => "HDD",
        (_, Some("NVMe" | "NVMeOverFabrics" | "PCIe")) => "NVME",
        (Some("SSD"), None) | (None, None) if nvme && !spins => "NVME",
        (Some("SSD"), _) => "SSD",
        _ if spins => "HDD",
        _ => "",
    };
    Some(Storage {
        name: json::string(drive, "/Id").or_else(|| json::string(drive, "/Name")).unwrap_or_default(),
        size_bytes: size,
        disk_type: disk_type.to_owned(),
        rotational: disk_type == "HDD",
        vendor: text("/Manufacturer"),
        model,
        serial_number,
        wwn: json::list(drive, "/Identifiers").iter().find_map(wwn).unwrap_or_default(),
        hctl: String::new(),
    })
}

/// A name as Linux writes it, from an identifier of a drive.
fn wwn(identifier: &Value) -> Option<String> {
    let name = json::text(identifier, "/DurableName")?.to_ascii_lowercase();
    let digits = name.trim_start_matches("0x").trim_start_matches("eui.").trim_start_matches("naa.");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match json::text(identifier, "/DurableNameFormat")? {
        "NAA" => Some(format!("0x{digits}")),
        "EUI" => Some(format!("eui.{digits}")),
        _ => None,
    }
}

/// Every reading of a value, for tests with arbitrary ones.
#[cfg(test)]
pub(crate) fn of(system: &Value, manager: Option<&Value>, parts: &[Value]) {
    let _ = (
        summary(system, manager),
        cpu(system, parts),
        nics(parts),
        ram_of_summary(system),
        ram_of_modules(parts),
    );
    for part in parts {
        let _ = (drive_of(part, true), drive_of(part, false));
    }
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
