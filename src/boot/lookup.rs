//! What the host controller does for the boot services: it alone knows the hosts.

use std::sync::Arc;

use ferric_api::MacAddress;

use crate::key::Key;

/// The hosts, as far as booting from the network is concerned.
pub trait BootLookup: Send + Sync + 'static {
    /// The host whose boot MAC address this is, with the token of its boot if one is begun and no agent has registered.
    fn boot_for(&self, mac: MacAddress) -> Option<KnownHost>;
    /// The boot MAC address of a host.
    fn boot_mac(&self, host: &Key) -> Option<MacAddress>;
    /// The arguments that describe the network of a host's agent. `None`: it asks DHCP and routers.
    fn network(&self, host: &Key) -> Result<Option<Arc<str>>, NetworkNotRead>;
    /// Counts an answer to a DHCP message, or that there was none, under the name of the decision.
    fn count(&self, decision: &'static str);
}

/// The host names a Secret with the network of its agent, and it has yet to be read, or is of no use. Without it the agent
/// must not be started: it would look for its provider in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the network data that the host names are not read, or are of no use: see the host's conditions")]
pub struct NetworkNotRead;

/// A host that is enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHost {
    /// Its name.
    pub host: Key,
    /// Token of the boot that is begun.
    pub token: Option<String>,
}
