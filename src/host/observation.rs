//! Everything that a plan depends on, as plain data.

use std::time::Duration;

use ferric_api::BareMetalHost;
use jiff::Timestamp;

use super::{BmcMemory, Consumer};
use crate::deploy::hub::AgentView;
use crate::deploy::images::ImageState;
use crate::key::Key;

/// What is known of one host at one moment.
#[derive(Debug)]
pub struct Observation<'a> {
    /// The host as last read.
    pub host: &'a BareMetalHost,
    /// What uses it.
    pub consumer: Consumer,
    /// Another host object that names the same server and has the better right to it.
    pub duplicate_of: Option<Key>,
    /// What is known from its BMC.
    pub bmc: &'a BmcMemory,
    /// Its connected agent.
    pub agent: Option<&'a AgentView>,
    /// The image that it is to get, in the provider's cache; `None` when no image is wanted.
    pub image: Option<ImageState>,
    /// The time.
    pub now: Timestamp,
    /// Settings.
    pub limits: Limits,
}

/// Settings that plans depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a commanded agent boot may take until the agent registers. Servers take 2 to 25 minutes.
    pub agent_boot: Duration,
    /// How long a registered agent may be away before it is booted anew.
    pub agent_away: Duration,
    /// How long a consumer may be missing before its claim is released.
    pub consumer_missing: Duration,
    /// How often the power of a host at rest is read.
    pub power_poll: Duration,
    /// Oldest power reading on which power is changed.
    pub power_fresh: Duration,
    /// First pause after a failure; doubles up to [`Self::backoff_max`].
    pub backoff_first: Duration,
    /// Longest pause after a failure.
    pub backoff_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            agent_boot: Duration::from_secs(1800),
            agent_away: Duration::from_secs(300),
            consumer_missing: Duration::from_secs(120),
            power_poll: Duration::from_secs(300),
            power_fresh: Duration::from_secs(60),
            backoff_first: Duration::from_secs(5),
            backoff_max: Duration::from_secs(600),
        }
    }
}
