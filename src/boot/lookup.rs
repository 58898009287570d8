//! What the host controller does for the boot services: it alone knows the hosts.

use std::sync::Arc;

use bytes::Bytes;
use ferric_api::MacAddress;
use futures::future::BoxFuture;

use super::composite::Composite;
use crate::key::Key;

/// The hosts, as far as booting from the network is concerned.
pub trait BootLookup: Send + Sync + 'static {
    /// The host whose boot MAC address this is, with the token of its boot if one is begun and no agent has registered, or
    /// that of the system which it runs from memory.
    fn boot_for(&self, mac: MacAddress) -> Option<KnownHost>;
    /// The host that has this network card beside the one that it boots by, as far as that is known. It is never told to
    /// boot by it: what a machine's other cards are is hearsay, and good for sending it to its disk only.
    fn card_of(&self, mac: MacAddress) -> Option<KnownHost>;
    /// The discovery token of a machine that nobody enrolled, where the operator wants such machines to be discovered. `asks`:
    /// it asks for a boot, and is offered a token if it has none; else only one that it has counts.
    fn discover(&self, mac: MacAddress, asks: bool) -> Option<String>;
    /// The boot MAC address of a host.
    fn boot_mac(&self, host: &Key) -> Option<MacAddress>;
    /// The arguments that describe the network of a host's agent. `None`: it asks DHCP and routers.
    fn network(&self, host: &Key) -> Result<Option<Arc<str>>, NetworkNotRead>;
    /// The system that a host runs from memory, for a token of this deployment ([`ferric_protocol::TokenUse::System`]).
    fn system<'a>(&'a self, host: &'a Key, deployment: u64) -> BoxFuture<'a, Result<System, NoSystem>>;

    /// The host asked for a network boot that it was not told to do. Called for each message; a boot has many.
    fn uninvited(&self, host: &Key);
    /// Counts an answer to a DHCP message, or that there was none, under the name of the decision.
    fn count(&self, decision: &'static str);
}

/// The host names a Secret with the network of its agent, and it has yet to be read, or is of no use. Without it the agent
/// must not be started: it would look for its provider in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the network data that the host names are not read, or are of no use: see the host's conditions")]
pub struct NetworkNotRead;

/// What a server needs to run a system from memory.
#[derive(Clone)]
pub struct System {
    /// The kernel.
    pub kernel: Composite,
    /// Its initramfs.
    pub initrd: Composite,
    /// An archive that the kernel unpacks after it: user data and the like.
    pub seed: Bytes,
    /// Arguments on the kernel's command line.
    pub parameters: String,
}

/// Why there is no system to run from memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSystem {
    /// The host is not to run that any more.
    #[error("the host is not to run this system, or not any more")]
    Over,
    /// It will be there.
    #[error("{0}")]
    NotReady(String),
}

/// A host that is enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHost {
    /// Its name.
    pub host: Key,
    /// What it was told to boot.
    pub told: Told,
}

/// What a host was told to boot by the card that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The agent, or a system that runs from memory, with this token.
    Boot(String),
    /// The same, by another card or in another way than this.
    Elsewhere,
    /// Nothing but its disk.
    Nothing,
}

impl KnownHost {
    /// The same host, where it asks in a way that it is never told to boot in.
    #[must_use]
    pub fn elsewhere(self) -> Self {
        let told = match self.told {
            Told::Boot(_) | Told::Elsewhere => Told::Elsewhere,
            Told::Nothing => Told::Nothing,
        };
        Self { told, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elsewhere_there_is_no_token() {
        let table = [
            (Told::Boot("token".to_owned()), Told::Elsewhere),
            (Told::Elsewhere, Told::Elsewhere),
            (Told::Nothing, Told::Nothing),
        ];
        for (told, expected) in table {
            let known = KnownHost { host: Key::new("racks", "r1-h1"), told };
            assert_eq!(known.elsewhere().told, expected);
        }
    }
}
