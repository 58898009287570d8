//! The record: what was done to a server, kept in the host's spec so that it survives `clusterctl move`, backup and
//! restore (all of which drop status) and shares one resourceVersion with the claim.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{CleaningMode, RootDeviceHints};

/// What was done to the server. Written by the manager only (ValidatingAdmissionPolicy).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostRecord {
    /// The machine that the record is about. A record whose identity does not match the BMC's report is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<HostIdentity>,
    /// The claim that holds the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimRecord>,
    /// The image that was, or is being, written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRecord>,
    /// The image that was, or is being, written to the disk of the free host, with nothing that says whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagedRecord>,
    /// The agent boot that may act on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentRecord>,
    /// When the hardware was last inspected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspected_at: Option<Time>,
    /// The cleaning that the disks are in the state of. Absent: not clean, or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleaned: Option<CleanRecord>,
    /// When the old workload was last known dead (power read as off, or our agent registered) after a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesced_at: Option<Time>,
    /// When the free server was switched off to save power though it was to be on, oldest first: of the last 24 hours, at
    /// most 100. An autoscaler's cap on power cycles is judged by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stood_down_at: Vec<Time>,
    /// Why the host is quarantined: it is never claimed while this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
}

/// What tells one physical machine from another.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HostIdentity {
    /// System UUID that the BMC reports, lower case (SMBIOS type 1).
    #[serde(default, rename = "systemUUID", skip_serializing_if = "Option::is_none")]
    pub system_uuid: Option<String>,
    /// Serial number that the BMC reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// MAC address of the boot NIC.
    #[serde(default, rename = "bootMACAddress", skip_serializing_if = "Option::is_none")]
    pub boot_mac_address: Option<String>,
}

/// The claim that holds a host.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRecord {
    /// Fresh random ID of the claim; the machine's `spec.claimID` holds the same.
    pub id: String,
    /// The stored provider ID of the node under this claim.
    #[serde(default, rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
}

/// The image on, or on its way to, the disk.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// URL it came from.
    pub url: String,
    /// `sha256:<hex>` or `sha512:<hex>` of the file at the URL.
    pub digest: String,
    /// When the write was started: from here the old content of the disk is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_started_at: Option<Time>,
    /// When the write was verified and synced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_finished_at: Option<Time>,
    /// When the host was told to start from the written disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted_at: Option<Time>,
    /// What is wiped when this image is released, as its consumer asked for it; the host's own mode when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleaning_mode: Option<CleaningMode>,
    /// The disk that was written, as the agent names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_device: Option<String>,
    /// The boot option of the server's UEFI firmware for this disk, as the agent made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_entry: Option<String>,
    /// Why the agent made no boot option, though the firmware finds the boot loader by itself, or did not load the kernel that
    /// it was to start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_warning: Option<String>,
    /// The kernel that the agent loaded from the written disk and was told to start, as the disk's boot loader calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_kernel: Option<String>,
    /// Its serial number, by which it is known again: names may change from boot to boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_serial_number: Option<String>,
    /// The hints by which the disk was chosen: what tells which one it is while the write has not been finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_device_hints: Option<RootDeviceHints>,
    /// What was staged on the disk when the write was begun. Gone when the write is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagedRecord>,
    /// The image was not written under this claim: it had been staged, and all of it was read back from the disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept_staged: bool,
    /// Why it was written all the same, though one had been staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_problem: Option<String>,
}

/// An image on the disk of a free host. What the disk holds is proved by reading it when it is to be used; the record only
/// says what to compare with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StagedRecord {
    /// URL it came from.
    pub url: String,
    /// `sha256:<hex>` or `sha512:<hex>` of the file at the URL.
    pub digest: String,
    /// How that file was understood: `none`, `gzip`, `zstd`, `xz`, or `extents` for a qcow2 image.
    pub format: String,
    /// The hints by which the disk was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_device_hints: Option<RootDeviceHints>,
    /// When the write was started: from here the old content of the disk is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the write was verified and synced. Absent while it is under way, when it failed, and when the disk is to be wiped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// The disk that was written, as the agent names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_device: Option<String>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_serial_number: Option<String>,
    /// Its World Wide Name.
    #[serde(default, rename = "rootWWN", skip_serializing_if = "Option::is_none")]
    pub root_wwn: Option<String>,
    /// Bytes of the image on the disk, holes included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Hash of these bytes as they were read back: `blake3:<hex>` or `sha256:<hex>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
}

/// The agent boot that may act on the host. A boot token names host and boot number; it is spent when a key registers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentRecord {
    /// Counts the agent boots that the provider commanded; never goes back.
    pub boot_number: i64,
    /// SHA-256 of the public key that registered with this boot's token, hex. Absent until one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_fingerprint: Option<String>,
    /// Whether this boot is over (the host was started from its disk or powered off since).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

/// A cleaning that was done and verified.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CleanRecord {
    /// What was wiped.
    pub mode: CleaningMode,
    /// When it was verified.
    pub at: Time,
}
