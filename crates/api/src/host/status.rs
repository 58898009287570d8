//! The status of a `BareMetalHost`. `docs/host-lifecycle.md` says of each field whether it is derived (delete it and
//! the same comes back) or history (may restart).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BootMode, HostStandby, Image, RootDeviceHints};

/// Observed state of a host.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalHostStatus {
    /// Metadata generation that this status was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where in its life the host is, and with what.
    #[serde(default)]
    pub provisioning: ProvisionStatus,
    /// Summary as in Metal3: `OK`, `discovered`, `error`, `delayed`, `detached`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operational_status: Option<OperationalStatus>,
    /// Power state last read from the BMC; absent when it was never read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub powered_on: Option<bool>,
    /// The same as text for `kubectl get`: `On`, `Off`, `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<String>,
    /// What the host waits for, since when, and when that becomes a problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitingFor>,
    /// What the BMC is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<BmcStatus>,
    /// The credentials that last worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_credentials: Option<CredentialsStatus>,
    /// The credentials that were last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_credentials: Option<CredentialsStatus>,
    /// Kind of the error that stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
    /// The error that stands, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// How often in a row the current step failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub error_count: i32,
    /// When the current step is tried next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_retry_time: Option<Time>,
    /// Progress of the write: per cent of the image, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_percent: Option<i32>,
    /// Network boots that nobody asked for: the server was sent on to its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uninvited_boots: Option<UninvitedBoots>,
    /// How ready the host stands by while it is free, and what has failed on the way to that or to its use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<StandbyStatus>,
    /// Conditions: Registered, Inspected, Available, Provisioned, Healthy, HardwareHealthy, Ready, Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// Where in its life the host is, and with what.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProvisionStatus {
    /// The state.
    #[serde(default)]
    pub state: ProvisioningState,
    /// Firmware mode in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_mode: Option<BootMode>,
    /// Image on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Hints in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_device_hints: Option<RootDeviceHints>,
}

/// The states of a host; the names are Metal3's.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub enum ProvisioningState {
    /// Just seen.
    #[default]
    #[serde(rename = "")]
    None,
    /// No BMC is known.
    #[serde(rename = "unmanaged")]
    Unmanaged,
    /// The BMC's address and credentials are checked.
    #[serde(rename = "registering")]
    Registering,
    /// The hardware is looked at.
    #[serde(rename = "inspecting")]
    Inspecting,
    /// The host is made ready to be free: cleaned.
    #[serde(rename = "preparing")]
    Preparing,
    /// Free to be claimed.
    #[serde(rename = "available")]
    Available,
    /// An image is written.
    #[serde(rename = "provisioning")]
    Provisioning,
    /// The image is on the disk and the host was started from it.
    #[serde(rename = "provisioned")]
    Provisioned,
    /// The host is released: stopped and cleaned.
    #[serde(rename = "deprovisioning")]
    Deprovisioning,
    /// Runs what others installed.
    #[serde(rename = "externally provisioned")]
    ExternallyProvisioned,
    /// Deleted; being powered off first.
    #[serde(rename = "powering off before delete")]
    PoweringOffBeforeDelete,
    /// Deleted; finalizer about to go.
    #[serde(rename = "deleting")]
    Deleting,
}

/// Summary of a host's health, as in Metal3.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum OperationalStatus {
    /// Nothing is wrong.
    #[serde(rename = "OK")]
    Ok,
    /// Known, but without BMC details.
    Discovered,
    /// An error stands.
    Error,
    /// Held back by a limit.
    Delayed,
    /// Left alone by annotation.
    Detached,
}

/// Kind of an error, as in Metal3.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum ErrorType {
    /// The BMC could not be reached or refused the credentials.
    #[serde(rename = "registration error")]
    Registration,
    /// Inspection failed.
    #[serde(rename = "inspection error")]
    Inspection,
    /// Cleaning before use failed.
    #[serde(rename = "preparation error")]
    Preparation,
    /// Writing the image failed.
    #[serde(rename = "provisioning error")]
    Provisioning,
    /// Power could not be read or changed.
    #[serde(rename = "power management error")]
    PowerManagement,
    /// Releasing failed.
    #[serde(rename = "deprovisioning error")]
    Deprovisioning,
}

/// Boots from the network that the provider did not command, as far as its DHCP service saw them. The server asked, and was
/// sent on to the next entry of its boot order. A boot order that begins with the network, or a boot device that somebody
/// chose by hand or at the BMC, makes them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UninvitedBoots {
    /// How many. What is asked within ten minutes of the first question belongs to one boot.
    pub count: i32,
    /// When the last of them began.
    pub last_time: Time,
}

/// How ready a free host stands by.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StandbyStatus {
    /// How ready it is, as read back: `Running` when our agent is connected and waits, `Off` when the power was read as off,
    /// `Staged` when besides the record says that the image was written and read back. Absent while it is on its way from
    /// one to the other, and while the host is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<HostStandby>,
    /// Since when it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// What has failed in a row. Absent when the host came to run what it was to run since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<StandbyFailures>,
}

/// Failures of a host in a row: boots of our agent, changes of power and tasks of the agent.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StandbyFailures {
    /// How many.
    pub count: i32,
    /// When the last one was.
    pub last_time: Time,
    /// What it was, in one word.
    pub reason: String,
    /// What it was, as a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What is waited for, since when, and by when it becomes a problem.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WaitingFor {
    /// One word for programs.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
    /// Since when.
    pub since: Time,
    /// When the wait is counted as failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
}

/// What the BMC is, as it says of itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BmcStatus {
    /// Driver in use, e.g. `redfish`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Manufacturer of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Product name of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Firmware version of the BMC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// System UUID as read.
    #[serde(default, rename = "systemUUID", skip_serializing_if = "Option::is_none")]
    pub system_uuid: Option<String>,
    /// Serial number as read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// Ways to boot the agent that the BMC offers, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boot_methods: Vec<String>,
    /// What cannot be done to the server by this address, whatever the server itself can do: of a server without a BMC
    /// `ReadPower`, `PowerOff`, `Restart`, `SetBootSource`, `VirtualMedia`, `SecureBoot`, `HardwareInventory` and `Fencing`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsupported: Vec<String>,
}

/// A version of the credentials Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsStatus {
    /// Name of the Secret.
    pub name: String,
    /// Its resourceVersion when it was read.
    pub version: String,
}
