//! One connection a BMC, shared by all who ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferric_api::BmcScheme;

use crate::breaker::Refusals;
use crate::counters::Counters;
use crate::desk::Desks;
use crate::error::BmcError;
use crate::ipmi::Ipmi;
use crate::limits::Limits;
use crate::proxmox::Proxmox;
use crate::quirks::{Quirks, SharedQuirks};
use crate::redfish::{Logins, Redfish};
use crate::tls::{Clients, sha256_of};
use crate::types::{Bmc, ConnectOptions};
use crate::wol::Wol;

/// Every BMC that the process speaks to, by the key of its host. An idle entry holds its links and its token: no task,
/// no timer, no connection.
#[derive(Debug)]
pub struct BmcPool {
    entries: Mutex<HashMap<Box<str>, Entry>>,
    clients: Clients,
    refusals: Arc<Refusals>,
    counters: Arc<Counters>,
    limits: Arc<Limits>,
    quirks: Arc<SharedQuirks>,
    desks: Desks,
    logins: Logins,
}

#[derive(Debug)]
struct Entry {
    options: [u8; 32],
    address: String,
    bmc: Driver,
}

/// The drivers that there are.
#[derive(Debug, Clone)]
enum Driver {
    Redfish(Arc<Redfish>),
    Ipmi(Arc<Ipmi>),
    Wol(Arc<Wol>),
    Proxmox(Arc<Proxmox>),
}

impl Driver {
    fn bmc(&self) -> Arc<dyn Bmc> {
        match self {
            Self::Redfish(bmc) => bmc.clone(),
            Self::Ipmi(bmc) => bmc.clone(),
            Self::Wol(bmc) => bmc.clone(),
            Self::Proxmox(bmc) => bmc.clone(),
        }
    }

    /// Ends the session, if there is one. `gone`: the host does not come back to this BMC.
    async fn close(&self, gone: bool) {
        match self {
            Self::Redfish(bmc) => {
                if gone {
                    bmc.unsubscribe().await;
                }
                bmc.close().await;
            }
            Self::Ipmi(bmc) => bmc.close().await,
            Self::Wol(_) | Self::Proxmox(_) => {}
        }
    }
}

impl Default for BmcPool {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl BmcPool {
    /// An empty pool.
    pub fn new(limits: Limits) -> Self {
        Self {
            entries: Mutex::default(),
            clients: Clients::default(),
            refusals: Arc::new(Refusals::new(limits.login_pause)),
            counters: Arc::default(),
            limits: Arc::new(limits),
            quirks: Arc::default(),
            desks: Desks::default(),
            logins: Logins::default(),
        }
    }

    /// Other quirk rules from now on, for all BMCs. A pool begins with the built-in ones.
    pub fn set_quirks(&self, quirks: Quirks) {
        self.quirks.set(quirks);
    }

    /// The BMC of a host (`key`: anything that names the host, e.g. its UID). Kept while the options stay the same,
    /// made anew when they change. Sends nothing.
    pub fn get(&self, key: &str, options: &ConnectOptions) -> Result<Arc<dyn Bmc>, BmcError> {
        let fingerprint = fingerprint(options);
        let mut entries = self.lock();
        if let Some(entry) = entries.get(key).filter(|entry| entry.options == fingerprint) {
            return Ok(entry.bmc.bmc());
        }
        let bmc = self.make(options);
        let address = options.address.to_string();
        let old = match &bmc {
            Ok(bmc) => {
                let entry = Entry { options: fingerprint, address: address.clone(), bmc: bmc.clone() };
                entries.insert(key.into(), entry)
            }
            // What it was made from is no longer what is wanted.
            Err(_) => entries.remove(key),
        };
        drop(entries);
        let moved = old.as_ref().is_some_and(|old| old.address != address);
        close(old, moved);
        bmc.map(|bmc| bmc.bmc())
    }

    fn make(&self, options: &ConnectOptions) -> Result<Driver, BmcError> {
        let refusals = self.refusals.clone();
        let desk = || {
            let address = &options.address;
            let address = format!("{}://{}:{}", address.family(), address.host(), address.port());
            self.desks.get(address, &self.counters, &self.limits)
        };
        match options.address.scheme() {
            BmcScheme::Ipmi => Ipmi::new(options, refusals, desk()).map(Arc::new).map(Driver::Ipmi),
            BmcScheme::Wol if self.limits.wake_on_lan => Wol::new(options).map(Arc::new).map(Driver::Wol),
            BmcScheme::Wol => Err(BmcError::DriverNotAvailable { scheme: "wol".to_owned() }),
            BmcScheme::Proxmox => {
                let client = self.clients.get(options, &self.limits)?;
                Proxmox::new(options, client, refusals, desk()).map(Arc::new).map(Driver::Proxmox)
            }
            _ => {
                let client = self.clients.get(options, &self.limits)?;
                let quirks = self.quirks.clone();
                Redfish::new(options, client, refusals, &self.logins, desk(), quirks)
                    .map(Arc::new)
                    .map(Driver::Redfish)
            }
        }
    }

    /// Drops the BMC of a host that is gone, and removes its subscription to events and ends its session in the background.
    pub fn forget(&self, key: &str) {
        let old = self.lock().remove(key);
        close(old, true);
    }

    /// Drops the BMC of a host that somebody else has now: ends its session in the background, and nothing more.
    pub fn release(&self, key: &str) {
        let old = self.lock().remove(key);
        close(old, false);
    }

    /// How many BMCs are held.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Counters of all BMCs together.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Ends every session and drops every BMC: BMCs have few session slots.
    pub async fn close(&self) {
        let entries: Vec<Entry> = self.lock().drain().map(|(_, entry)| entry).collect();
        use futures::StreamExt;
        futures::stream::iter(entries)
            .for_each_concurrent(64, |entry| async move { entry.bmc.close(false).await })
            .await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the session of a dropped entry, where there is a runtime to do it on.
fn close(entry: Option<Entry>, gone: bool) {
    if let (Some(entry), Ok(runtime)) = (entry, tokio::runtime::Handle::try_current()) {
        runtime.spawn(async move { entry.bmc.close(gone).await });
    }
}

/// Equal for equal options; keeps no secret.
fn fingerprint(options: &ConnectOptions) -> [u8; 32] {
    let ConnectOptions { address, credentials, ca_pem, certificate_sha256, insecure } = options;
    let address = address.to_string();
    let (user, password, previous) = credentials.as_ref().map_or(("", "", ""), |it| {
        (it.username.as_str(), it.password.as_str(), it.previous_password.as_deref().unwrap_or_default())
    });
    let there = [u8::from(credentials.is_some()), u8::from(ca_pem.is_some()), u8::from(*insecure)];
    let pin = certificate_sha256.as_ref().map_or(&[][..], |pin| pin);
    let ca = ca_pem.as_deref().unwrap_or_default();
    sha256_of(&[
        &there,
        address.as_bytes(),
        user.as_bytes(),
        password.as_bytes(),
        previous.as_bytes(),
        ca,
        pin,
    ])
}
