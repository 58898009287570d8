//! What the host controller works with and remembers. Nothing here may not be lost: it is made anew from the API, the
//! BMCs and the agents.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferric_api::{BareMetalHost, BareMetalMachine, MacAddress};
use ferric_bmc::{Bmc, BmcPool, SystemFacts};
use jiff::Timestamp;
use kube::{Api, Client, ResourceExt};
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use url::Url;

use super::discover::Discovery;
use super::slots::{self, BootSlots};
use super::system;
use crate::capi::{Cluster, Machine};
use crate::controllers::overlay::{Overlay, is_newer};
use crate::deploy::{Hub, ImageCache};
use crate::host::addresses::Addresses;
use crate::host::duplicates::Duplicates;
use crate::host::memory::BmcMemory;
use crate::host::{Consumer, Limits, consumer};
use crate::key::Key;
use crate::lease::LeaderState;
use crate::telemetry::{Events, Metrics};
use crate::watch::Watched;

/// What agents are told when they are booted.
pub struct BootSettings {
    /// Where firmware fetches the boot script, e.g. `http://10.0.0.1:6180`.
    pub boot_url: Url,
    /// Where agents find the provider, e.g. `https://10.0.0.1:6183`.
    pub agent_url: Url,
    /// Keys of boot tokens and of the agent server.
    pub keys: Arc<crate::deploy::ProviderKeys>,
    /// Agent boots that may be under way at once.
    pub slots: BootSlots,
    /// Ways of booting that this provider serves.
    pub offers: crate::boot::choice::Offers,
}

/// What the host controller is made of: clients, caches, servers and settings.
pub struct HostParts {
    /// The API server.
    pub client: Client,
    /// Hosts.
    pub hosts: Watched<BareMetalHost>,
    /// Machines that claim hosts.
    pub machines: Watched<BareMetalMachine>,
    /// Cluster API Machines.
    pub owners: Watched<Machine>,
    /// Cluster API Clusters.
    pub clusters: Watched<Cluster>,
    /// Connected agents.
    pub hub: Hub,
    /// Images.
    pub images: ImageCache,
    /// BMC connections.
    pub pool: Arc<BmcPool>,
    /// Agent boots.
    pub boot: BootSettings,
    /// Machines that nobody enrolled; `None`: they get nothing.
    pub discovery: Option<Discovery>,
    /// Where BMCs are to send their events; `None`: they are not asked to.
    pub bmc_events: Option<Url>,
    /// Settings of plans.
    pub limits: Limits,
    /// Events.
    pub events: Events,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Wakes a host.
    pub wake: mpsc::UnboundedSender<Key>,
    /// Whether this process still holds the lease.
    pub leader: watch::Receiver<LeaderState>,
}

/// Everything that the host controller works with: its parts, and what it remembers.
pub struct HostContext {
    parts: HostParts,
    /// IP addresses of inspected hosts.
    pub addresses: Addresses,
    /// What is remembered of each host.
    table: Mutex<Table>,
    /// Held while the network cards of hosts are looked up.
    pub(super) looking_up_cards: Arc<tokio::sync::Mutex<()>>,
    /// Hosts as this process wrote them last: an older version from the cache is not acted on.
    pub(super) written: Overlay<BareMetalHost>,
}

impl Deref for HostContext {
    type Target = HostParts;

    fn deref(&self) -> &HostParts {
        &self.parts
    }
}

#[derive(Default)]
pub(super) struct Table {
    hosts: HashMap<Key, Remembered>,
    pub(super) duplicates: Duplicates,
    pub(super) fingerprints: HashMap<String, Key>,
}

pub(super) struct Remembered {
    pub(super) bmc: BmcMemory,
    pub(super) connection: Option<Arc<dyn Bmc>>,
    /// Held during a write, so that two tasks of this process do not make each other's fail.
    pub(super) writing: Arc<tokio::sync::Mutex<()>>,
    /// Since when a passing difference of the status waits to be written.
    pub(super) unsettled: Option<Timestamp>,
    /// Held from the beginning of an agent boot until the agent has registered.
    pub(super) slot: Option<slots::Slot>,
    /// What the system that runs from memory is configured with, while it is being fetched.
    pub(super) seed: Option<system::Seed>,
    /// When its subscription to the events of its BMC was last seen to.
    pub(super) subscription_seen: Option<tokio::time::Instant>,
    /// State last reported, for the metrics.
    pub(super) state: Option<&'static str>,
}

impl Remembered {
    fn new(now: Timestamp) -> Self {
        Self {
            bmc: BmcMemory::new(now),
            connection: None,
            writing: Arc::default(),
            unsettled: None,
            slot: None,
            seed: None,
            subscription_seen: None,
            state: None,
        }
    }
}

impl HostContext {
    /// A context that remembers nothing yet.
    pub fn new(parts: HostParts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            addresses: Addresses::default(),
            table: Mutex::default(),
            looking_up_cards: Arc::default(),
            written: Overlay::default(),
        })
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on what is remembered of a host.
    pub(super) fn with<T>(&self, key: &Key, work: impl FnOnce(&mut Remembered) -> T) -> T {
        let mut table = self.table();
        let entry = table.hosts.entry(key.clone()).or_insert_with(|| Remembered::new(Timestamp::now()));
        work(entry)
    }

    /// What the BMC of a host said of the server, if it was asked by this process.
    pub(super) fn facts(&self, key: &Key) -> Option<SystemFacts> {
        self.table().hosts.get(key)?.bmc.facts.as_ref().map(|facts| facts.value.clone())
    }

    /// The hosts that have this network card, as far as that is known.
    pub(super) fn with_card(&self, mac: MacAddress) -> Vec<Key> {
        let has = |r: &Remembered| {
            let told = r.bmc.facts.as_ref().is_some_and(|facts| facts.value.macs.contains(&mac));
            told || r.bmc.cards.as_ref().is_some_and(|cards| cards.contains(&mac))
        };
        let having: Vec<Key> = {
            let table = self.table();
            table.hosts.iter().filter(|(_, r)| has(r)).map(|(key, _)| key.clone()).collect()
        };
        // One that was deleted while it was looked up may still be remembered.
        having.into_iter().filter(|key| self.hosts.get(key).is_some()).collect()
    }

    /// The hosts whose network cards this process has not looked up.
    pub(super) fn with_unread_cards(&self) -> Vec<Key> {
        let hosts = self.hosts.store().state();
        let table = self.table();
        let unread = |key: &Key| table.hosts.get(key).is_none_or(|r| r.bmc.cards.is_none());
        hosts.iter().map(|host| Key::of(&**host)).filter(unread).collect()
    }

    /// The host from the cache, or as this process wrote it where the cache is behind.
    pub(super) fn latest(&self, key: &Key) -> Option<Arc<BareMetalHost>> {
        self.hosts.get(key).map(|host| self.written.latest(host))
    }

    /// A later version of the host than this one, if this process knows of one.
    pub fn newer(&self, key: &Key, host: &BareMetalHost) -> Option<Arc<BareMetalHost>> {
        self.latest(key).filter(|latest| is_newer(&**latest, host))
    }

    /// Waits until nobody else in this process writes the host.
    pub(super) async fn turn(&self, key: &Key) -> OwnedMutexGuard<()> {
        let writing = self.with(key, |r| r.writing.clone());
        writing.lock_owned().await
    }

    pub(super) fn api(&self, key: &Key) -> Api<BareMetalHost> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    pub(super) fn wake_all(&self, keys: Vec<Key>) {
        for key in keys {
            // Nobody listens any more only when the manager is going down.
            let _ = self.wake.send(key);
        }
    }

    /// Takes in every host that is cached before the first one is acted on: an older twin must be known by then.
    pub(super) fn index_all(&self) {
        let mut table = self.table();
        for host in self.hosts.store().state() {
            table.duplicates.observe(&host, false);
        }
    }

    /// Forgets a host that is gone. `untouched`: nothing more is done to its BMC.
    pub(super) fn forget(&self, key: &Key, untouched: bool) {
        let (state, twins) = {
            let mut table = self.table();
            let twins = table.duplicates.remove(key);
            table.fingerprints.retain(|_, host| host != key);
            (table.hosts.remove(key).and_then(|r| r.state), twins)
        };
        self.wake_all(twins);
        self.written.remove(key);
        self.boot.slots.leave(key);
        self.addresses.forget(key);
        self.metrics.host_state(state, None);
        self.hub.forget(key);
        match untouched {
            true => self.pool.release(&key.to_string()),
            false => self.pool.forget(&key.to_string()),
        }
    }

    /// The agent boot of a host is over: its session ends and its key counts no more.
    pub(super) fn end_agent(&self, key: &Key) {
        self.hub.forget(key);
        let mut table = self.table();
        table.fingerprints.retain(|_, host| host != key);
        if let Some(remembered) = table.hosts.get_mut(key) {
            remembered.slot = None;
        }
    }

    /// Another host that names the same server and has the better right to it.
    pub(super) fn senior_twin(&self, key: &Key) -> Option<Key> {
        let mut table = self.table();
        loop {
            let other = table.duplicates.senior(key)?;
            if self.hosts.get(&other).is_some() {
                return Some(other);
            }
            table.duplicates.remove(&other);
        }
    }

    /// Who uses the host, from the caches.
    pub(super) fn consumer(&self, host: &BareMetalHost) -> Consumer {
        let machine = self.machine_key(host).and_then(|key| self.machines.get(&key));
        self.consumer_with(host, machine.as_deref())
    }

    /// The machine that the host names as its consumer; of other kinds nothing is read.
    pub(super) fn machine_key(&self, host: &BareMetalHost) -> Option<Key> {
        let reference =
            host.spec.consumer_ref.as_ref().filter(|r| r.kind.as_deref() == Some("BareMetalMachine"))?;
        let namespace = reference.namespace.clone().or_else(|| host.namespace())?;
        Some(Key::new(namespace, reference.name.clone()?))
    }

    /// Who uses the host, given the machine that it names.
    pub(super) fn consumer_with(&self, host: &BareMetalHost, machine: Option<&BareMetalMachine>) -> Consumer {
        let owner = machine.and_then(|machine| {
            let owner = machine.owner_references().iter().find(|o| o.kind == "Machine")?;
            self.owners.get(&Key::new(machine.namespace()?, owner.name.clone()))
        });
        // The label was put on with the claim: it still tells the cluster when the machine is not there (yet).
        let cluster = host.labels().get(ferric_api::names::CLUSTER_NAME_LABEL).and_then(|name| {
            let reference = host.spec.consumer_ref.as_ref();
            let namespace = reference.and_then(|r| r.namespace.clone()).or_else(|| host.namespace())?;
            self.clusters.get(&Key::new(namespace, name.clone()))
        });
        consumer::observe(host, machine, owner.as_deref(), cluster.as_deref())
    }
}
