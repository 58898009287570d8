//! `HardwareData`: what inspection found, and the evidence of cleaning. Same name as the host, owned by it. Kept out of
//! the host because it is large and seldom read: the manager never caches it in full.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::host::{BootMode, CleaningMode};

/// What inspection found.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "HardwareData",
    plural = "hardwaredata",
    shortname = "hd",
    category = "cluster-api",
    namespaced,
    doc = "What inspection found about the host of the same name, and the evidence of its cleaning.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Product","type":"string","jsonPath":".spec.hardware.systemVendor.productName"}"#,
    printcolumn = r#"{"name":"CPUs","type":"integer","jsonPath":".spec.hardware.cpu.count"}"#,
    printcolumn = r#"{"name":"Memory MiB","type":"integer","jsonPath":".spec.hardware.ramMebibytes"}"#,
    printcolumn = r#"{"name":"Inspected","type":"date","jsonPath":".spec.inspectedAt"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct HardwareDataSpec {
    /// The hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<HardwareDetails>,
    /// When it was inspected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspected_at: Option<Time>,
    /// Evidence of the last cleaning, one entry a disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cleaning: Vec<CleaningEvidence>,
}

/// A server's hardware. Field names are those of Metal3's `HardwareDetails`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HardwareDetails {
    /// Who made it.
    #[serde(default)]
    pub system_vendor: SystemVendor,
    /// Firmware.
    #[serde(default)]
    pub firmware: Firmware,
    /// Memory in mebibytes; 0 when not known.
    #[serde(default)]
    pub ram_mebibytes: i64,
    /// Network interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// Disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storage: Vec<Storage>,
    /// Processors.
    #[serde(default)]
    pub cpu: Cpu,
    /// Name that the server gives itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Memory modules, one for each slot with one in it. In band only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory_modules: Vec<MemoryModule>,
    /// GPUs and other accelerators, without the controllers that only draw a console. Absent until an agent has looked;
    /// empty where it found none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Vec<Gpu>>,
    /// What the firmware started the agent as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_mode: Option<BootMode>,
    /// Whether Secure Boot was in force when the agent looked; before that, at the last start as the BMC says. Absent where
    /// that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// Whether Secure Boot is set for the next start, as the BMC says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot_enabled: Option<bool>,
    /// The BMC as its own server sees it, through the kernel's IPMI device. Absent until an agent has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<InBandBmc>,
}

/// A BMC as its own server sees it. What it does not say is left out. In band only.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InBandBmc {
    /// Why not all of it is known, in a sentence. Absent where the BMC answered to the end.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub problem: String,
    /// Firmware version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub firmware: String,
    /// IANA enterprise number of who made it.
    #[serde(default, rename = "manufacturerID", skip_serializing_if = "Option::is_none")]
    pub manufacturer_id: Option<i64>,
    /// Product number of that maker.
    #[serde(default, rename = "productID", skip_serializing_if = "Option::is_none")]
    pub product_id: Option<i64>,
    /// System GUID: 32 hexadecimal digits in the order in which the BMC gives the bytes.
    #[serde(default, rename = "systemGUID", skip_serializing_if = "String::is_empty")]
    pub system_guid: String,
    /// Manufacturer, by the FRU inventory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manufacturer: String,
    /// Product name, by the FRU inventory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub product_name: String,
    /// Serial number of the product, by the FRU inventory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub product_serial_number: String,
    /// Serial number of the board, by the FRU inventory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub board_serial_number: String,
    /// Serial number of the chassis, by the FRU inventory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chassis_serial_number: String,
    /// Its channels to a network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lan: Vec<BmcLan>,
    /// Its users, of the first of these channels. Never their passwords.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<BmcUser>,
}

/// A channel of a BMC to a network.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BmcLan {
    /// Its number, 0 to 15.
    #[serde(default)]
    pub channel: i64,
    /// MAC address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// Where that comes from: `Static`, `DHCP`, `Firmware` or `Other`.
    #[serde(default, rename = "ipSource", skip_serializing_if = "String::is_empty")]
    pub ip_source: String,
    /// IPv6 addresses.
    #[serde(default, rename = "ipv6", skip_serializing_if = "Vec::is_empty")]
    pub ipv6: Vec<String>,
    /// VLAN of its frames; absent for frames without a tag.
    #[serde(default, rename = "vlanID", skip_serializing_if = "Option::is_none")]
    pub vlan_id: Option<i64>,
}

/// A user of a BMC.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BmcUser {
    /// Its number, 1 to 63.
    #[serde(default)]
    pub id: i64,
    /// Its name. Empty for a user without a name, by which many BMCs let anybody in who knows the password.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whether it may log in; absent where the BMC does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// A memory module.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemoryModule {
    /// The slot, as it is printed on the board, e.g. `DIMM_A1`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub locator: String,
    /// The bank that the slot belongs to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bank: String,
    /// Size in mebibytes; 0 when not known.
    #[serde(default)]
    pub size_mebibytes: i64,
    /// Kind of memory, e.g. `DDR5`.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub memory_type: String,
    /// What it can do, in megatransfers a second; 0 when not known.
    #[serde(default)]
    pub speed_megatransfers: i64,
    /// What it runs at, in megatransfers a second; 0 when not known.
    #[serde(default)]
    pub configured_speed_megatransfers: i64,
    /// Manufacturer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manufacturer: String,
    /// Serial number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial_number: String,
    /// Part number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub part_number: String,
    /// Flash and the like, which is not counted as memory.
    #[serde(default)]
    pub persistent: bool,
}

/// A GPU or another accelerator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// PCI vendor, four hexadecimal digits, e.g. `10de`.
    #[serde(default, rename = "vendorID", skip_serializing_if = "String::is_empty")]
    pub vendor_id: String,
    /// PCI device, four hexadecimal digits.
    #[serde(default, rename = "deviceID", skip_serializing_if = "String::is_empty")]
    pub device_id: String,
    /// Name of the vendor, where it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// Name of the model, where it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// PCI address, e.g. `0000:17:00.0`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pci_address: String,
    /// Driver that the agent's kernel has for it, if any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub driver: String,
}

/// Who made the server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SystemVendor {
    /// Manufacturer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manufacturer: String,
    /// Product name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub product_name: String,
    /// Serial number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial_number: String,
}

/// Firmware versions.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Firmware {
    /// BIOS or UEFI.
    #[serde(default)]
    pub bios: Bios,
    /// Firmware version of the BMC.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bmc_version: String,
    /// The pieces of firmware that the BMC lists, the first 128 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub components: Vec<FirmwareComponent>,
}

/// A piece of firmware, as the BMC lists it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FirmwareComponent {
    /// What it belongs to, e.g. `PSU.Slot.1` or `Backplane 1`.
    #[schemars(length(max = 128))]
    pub name: String,
    /// Version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub version: String,
    /// Whether the BMC can update it; absent where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updateable: Option<bool>,
}

/// BIOS or UEFI.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Bios {
    /// Release date as the firmware writes it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub date: String,
    /// Vendor.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// Version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// Processors.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Architecture as `uname -m` says it, e.g. `x86_64`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arch: String,
    /// Model name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Clock in megahertz; 0 when not known.
    #[serde(default)]
    pub clock_megahertz: i64,
    /// Feature flags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Number of logical processors; 0 when not known.
    #[serde(default)]
    pub count: i64,
}

/// A network interface.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// Name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Model or PCI IDs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// MAC address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// IP address, if one is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// Speed in gigabits a second; 0 when not known.
    #[serde(default)]
    pub speed_gbps: i64,
    /// Whether the server can boot from it.
    #[serde(default)]
    pub pxe: bool,
    /// Driver that the agent's kernel has for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// VLAN of frames without a tag, 1 to 4094, as the switch said it; absent when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4094))]
    pub vlan_id: Option<i64>,
    /// The switch port at the other end of the cable, as it said by LLDP. In band only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lldp: Option<Lldp>,
}

/// The other end of a cable, as it said by LLDP (IEEE 802.1AB). Field names are those of Metal3.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Lldp {
    /// Chassis ID: a MAC address with colons, or a name.
    #[serde(default, rename = "switchID", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub switch_id: String,
    /// Port ID: a MAC address with colons, or a name such as `Ethernet1/7`.
    #[serde(default, rename = "portID", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub port_id: String,
    /// System name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub switch_system_name: String,
}

/// A disk.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Name, e.g. `/dev/nvme0n1` in band, or the BMC's name for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Size in bytes; 0 when not known.
    #[serde(default)]
    pub size_bytes: i64,
    /// `HDD`, `SSD` or `NVME`.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub disk_type: String,
    /// Whether it rotates.
    #[serde(default)]
    pub rotational: bool,
    /// Vendor.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// Model.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Serial number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial_number: String,
    /// World Wide Name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub wwn: String,
    /// SCSI address `host:channel:target:lun`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hctl: String,
}

/// What was done to one disk and how it was verified.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CleaningEvidence {
    /// The disk as the agent names it.
    pub device: String,
    /// Serial number of the disk.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial_number: String,
    /// What was asked for.
    pub mode: CleaningMode,
    /// The method: `zero-metadata`, or one that erases, e.g. `nvme-sanitize-block-erase` or `overwrite`; `untouched` for a
    /// disk that was not to be cleaned.
    pub method: String,
    /// What was done, in a sentence that claims no more than that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub did: String,
    /// How it was checked, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub verification: String,
    /// When it was done.
    pub at: Time,
    /// How long it took, in milliseconds.
    #[serde(default)]
    pub duration_milliseconds: i64,
    /// How many bytes of the disk the method is about.
    #[serde(default)]
    pub bytes: i64,
    /// How many places were read back from the disk and were as they had to be.
    #[serde(default)]
    pub verified_samples: i64,
    /// How many bytes were read back.
    #[serde(default)]
    pub verified_bytes: i64,
    /// Stronger methods, and why they were not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_used: Vec<CleaningAttempt>,
}

/// A method of cleaning that was not used, or did not work.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CleaningAttempt {
    /// The method.
    pub method: String,
    /// Why not.
    pub reason: String,
}
