//! `metav1.Condition` lists: set, read, and keep `lastTransitionTime` honest.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The three values of a condition's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// The statement holds.
    True,
    /// The statement does not hold.
    False,
    /// Not known.
    Unknown,
}

impl ConditionStatus {
    /// The text in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// Condition types; the API docs list which kind carries which.
pub mod types {
    /// The BMC answers with the credentials given and no other host object names the same server.
    pub const REGISTERED: &str = "Registered";
    /// The hardware has been looked at.
    pub const INSPECTED: &str = "Inspected";
    /// Free to be claimed.
    pub const AVAILABLE: &str = "Available";
    /// The image asked for is on the disk, verified.
    pub const PROVISIONED: &str = "Provisioned";
    /// No error stands.
    pub const HEALTHY: &str = "Healthy";
    /// The BMC reports nothing wrong with the hardware; absent where it does not say.
    pub const HARDWARE_HEALTHY: &str = "HardwareHealthy";
    /// Summary over the whole life.
    pub const READY: &str = "Ready";
    /// Reconciliation is paused.
    pub const PAUSED: &str = "Paused";
    /// A machine and a host name each other.
    pub const HOST_BOUND: &str = "HostBound";
    /// The bootstrap data Secret is there.
    pub const BOOTSTRAP_READY: &str = "BootstrapReady";
    /// The machine's image is on its host and the host was started from it.
    pub const DEPLOYED: &str = "Deployed";
}

/// Sets the condition `kind`; returns whether anything but the observed generation changed. The transition time moves
/// only when the status does (API conventions, "Typical status properties").
pub fn set(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: ConditionStatus,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: &Time,
) -> bool {
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(c) => {
            let changed = c.status != status.as_str() || c.reason != reason || c.message != message;
            if c.status != status.as_str() {
                c.last_transition_time = now.clone();
                c.status = status.as_str().to_owned();
            }
            if c.reason != reason {
                c.reason = reason.to_owned();
            }
            if c.message != message {
                c.message = message.to_owned();
            }
            c.observed_generation = generation;
            changed
        }
        None => {
            conditions.push(Condition {
                type_: kind.to_owned(),
                status: status.as_str().to_owned(),
                reason: reason.to_owned(),
                message: message.to_owned(),
                observed_generation: generation,
                last_transition_time: now.clone(),
            });
            true
        }
    }
}

/// Removes the condition `kind` if present.
pub fn remove(conditions: &mut Vec<Condition>, kind: &str) {
    conditions.retain(|c| c.type_ != kind);
}

/// The condition `kind`.
pub fn get<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Whether the condition `kind` is `True`.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    get(conditions, kind).is_some_and(|c| c.status == "True")
}
