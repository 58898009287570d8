//! Which host a machine on the network is, for the boot services.

use std::sync::Arc;

use ferric_api::host::AgentRecord;
use ferric_api::{BareMetalHost, MacAddress};
use futures::future::BoxFuture;
use jiff::Timestamp;

use super::{HostContext, cards, discover, system};
use crate::boot::{BootLookup, KnownHost, NetworkNotRead, NoSystem, System, Told, token_lifetime};
use crate::host::uninvited;
use crate::key::Key;

/// The host controller's side of the boot services.
pub struct HostBoots {
    context: Arc<HostContext>,
}

impl HostBoots {
    /// Works on the context of the host controller.
    pub fn new(context: Arc<HostContext>) -> Self {
        Self { context }
    }

    fn known(&self, host: Key) -> KnownHost {
        let told = self.token(&host).map_or(Told::Nothing, Told::Boot);
        KnownHost { host, told }
    }

    fn token(&self, host: &Key) -> Option<String> {
        let context = &self.context;
        let host_now = context.latest(host)?;
        let lifetime = jiff::SignedDuration::try_from(token_lifetime(context.limits.agent_boot)).ok()?;
        let expires = Timestamp::now().saturating_add(lifetime).ok()?;
        if let Some(number) = open_boot(&host_now) {
            return context.boot.keys.mint(host, number, expires).ok();
        }
        system::is_invited(&host_now, host, context)
            .then(|| system::token(&host_now, host, context, expires))?
    }
}

impl BootLookup for HostBoots {
    fn boot_for(&self, mac: MacAddress) -> Option<KnownHost> {
        let context = &self.context;
        let text = mac.to_string();
        let is_it = |host: &BareMetalHost| {
            let address = host.spec.boot_mac_address.as_deref();
            address.is_some_and(|a| a.eq_ignore_ascii_case(&text) || a.parse() == Ok(mac))
        };
        let host = context.hosts.store().find(is_it)?;
        let host = Key::of(&*host);
        // Of two hosts with this address the younger is told nothing, and has no boot.
        Some(self.known(context.senior_twin(&host).unwrap_or(host)))
    }

    fn card_of(&self, mac: MacAddress) -> Option<KnownHost> {
        let host = cards::owner(&self.context, mac)?;
        Some(self.known(host).elsewhere())
    }

    fn discover(&self, mac: MacAddress, asks: bool) -> Option<String> {
        discover::token(&self.context, mac, asks)
    }

    fn boot_mac(&self, host: &Key) -> Option<MacAddress> {
        self.context.latest(host)?.spec.boot_mac_address.as_deref()?.parse().ok()
    }

    fn network(&self, host: &Key) -> Result<Option<Arc<str>>, NetworkNotRead> {
        let context = &self.context;
        let host_now = context.latest(host).ok_or(NetworkNotRead)?;
        let Some(secret) = host_now.spec.preprovisioning_network_data_name.as_ref().filter(|n| !n.is_empty())
        else {
            return Ok(None);
        };
        let read = context.with(host, |r| r.bmc.network.clone()).map(|seen| seen.value);
        read.filter(|read| read.secret == *secret).map(|read| Some(read.arguments)).ok_or(NetworkNotRead)
    }

    fn system<'a>(&'a self, host: &'a Key, deployment: u64) -> BoxFuture<'a, Result<System, NoSystem>> {
        Box::pin(system::system(host, &self.context, deployment))
    }

    fn uninvited(&self, host: &Key) {
        let now = Timestamp::now();
        let host_now = self.context.latest(host);
        // It has the network first in its boot order, as it must.
        if host_now.as_ref().is_some_and(|host| host.spec.wakes_only()) {
            return;
        }
        let told = host_now.as_ref().and_then(|host| host.status.as_ref()?.uninvited_boots.as_ref());
        // One of the many messages of a boot is enough.
        let begins = self.context.with(host, |r| {
            let begins = uninvited::begins(r.bmc.uninvited, told, now);
            if begins {
                r.bmc.uninvited = Some(now);
            }
            begins
        });
        if begins {
            self.context.wake_all(vec![host.clone()]);
        }
    }

    fn count(&self, decision: &'static str) {
        self.context.metrics.network_boot(decision);
    }
}

/// Number of the boot that is begun and for which no agent has registered.
fn open_boot(host: &BareMetalHost) -> Option<i64> {
    match host.spec.record.as_ref()?.agent.as_ref()? {
        AgentRecord { boot_number, key_fingerprint: None, ended: false } => Some(*boot_number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ferric_api::host::HostRecord;

    use super::*;

    #[test]
    fn only_a_begun_boot_without_an_agent_is_open() {
        let agent = |fingerprint: Option<&str>, ended| {
            let mut host = BareMetalHost::new("h", Default::default());
            let key_fingerprint = fingerprint.map(str::to_owned);
            let agent = Some(AgentRecord { boot_number: 4, key_fingerprint, ended });
            host.spec.record = Some(HostRecord { agent, ..HostRecord::default() });
            open_boot(&host)
        };
        assert_eq!(agent(None, false), Some(4));
        assert_eq!(agent(Some("ab"), false), None);
        assert_eq!(agent(None, true), None);
        assert_eq!(open_boot(&BareMetalHost::new("h", Default::default())), None);
    }
}
