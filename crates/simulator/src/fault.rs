//! Faults that can be put on a server while it runs.

use serde::{Deserialize, Serialize};

use crate::life::Power;
use crate::rules::Rule;

/// What is wrong with a server. The default is nothing. A new set replaces the old one as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Faults {
    /// How the BMC fails to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bmc: Option<BmcFault>,
    /// Milliseconds that the BMC takes for each request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bmc_delay_ms: Option<u64>,
    /// The BMC accepts this password instead of the one in the inventory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Power commands are accepted and nothing happens.
    pub power_stuck: bool,
    /// Milliseconds that a power change takes instead of the usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_delay_ms: Option<u64>,
    /// The BMC says that the power is so, whatever it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_lies: Option<Power>,
    /// Milliseconds by which the BMC is behind when it says what the power is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_lag_ms: Option<u64>,
    /// No session can be opened; basic authentication works.
    pub session_table_full: bool,
    /// Basic authentication is switched off.
    pub basic_auth_off: bool,
    /// Seconds by which the clock of the BMC is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_offset_seconds: Option<i64>,
    /// The BMC shows another certificate than the one that the fleet's authority gave it.
    pub certificate_changed: bool,
    /// The virtual CD is ejected when the server starts, before firmware reads it.
    pub media_ejects_itself: bool,
    /// The boot override is shown until the power changes, and forgotten then.
    pub boot_override_forgotten: bool,
    /// Faults of single requests; the first rule that strikes counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Boot media are never found: the server goes on to its disk.
    pub boot_media_unreadable: bool,
    /// The agent dies after it has written this many bytes, once: the fault is gone afterwards. The server stays on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_dies_after_bytes: Option<u64>,
    /// Disk writes fail once this many bytes were written in one boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_fails_after_bytes: Option<u64>,
    /// The operating system starts, but never joins its cluster.
    pub os_never_joins: bool,
}

/// How a BMC fails to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BmcFault {
    /// Every connection is closed at once, open ones as well.
    Unreachable,
    /// Connections are taken and never answered.
    Hangs,
    /// Every request is answered 503.
    Unavailable,
    /// Every request is answered 500 with a body that is no JSON.
    Garbage,
}
