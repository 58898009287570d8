//! The Redfish driver: finds its way by links, takes everything as optional, and keeps what it found.
//!
//! What is kept for a BMC: the service root's links, the path of the system, the allowed reset types where they stand
//! in a resource of their own, and the virtual media slot. A power read is then one request. A kept path that answers
//! 404 is looked for again, once.

mod accounts;
mod adapters;
mod boot;
mod boot_options;
mod client;
mod events;
#[cfg(test)]
mod fuzz_tests;
pub(crate) mod http;
pub(crate) mod identity;
mod inspect;
mod json;
mod manager;
mod media;
mod power;
#[cfg(test)]
mod properties;
mod record;
mod session;
mod slots;
mod survey;
mod systems;
mod task;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ferric_api::{HardwareDetails, MacAddress};
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout};

use crate::breaker::Refusals;
use crate::desk::{self, Desk};
use crate::error::BmcError;
use crate::quirks::{Kind, SharedQuirks, Through};
use crate::tls::SharedClient;
use crate::turns::{Together, Urgency};
use crate::types::{
    Bmc, BootMethod, BootTarget, ConnectOptions, EventSink, ManagerFacts, PowerAction, PowerState,
    Subscribed, SystemFacts, UnhealthyPart,
};
use client::{Client, Resource};
use http::Http;
pub(crate) use identity::{serial as real_serial, uuid as real_uuid};
use media::Slot;
use power::Reset;
pub(crate) use record::Recorded;
pub(crate) use session::Logins;
pub use survey::{
    Can, FirmwareFound, Health, ManagerFound, MediaSlot, ProbeOptions, Probed, SecureBoot, Service, Survey,
    SystemFound, Temperature, Would, probe,
};
use systems::Choice;

/// A BMC that speaks Redfish.
#[derive(Debug)]
pub(crate) struct Redfish {
    client: Client,
    /// The system that the address names.
    choice: Choice,
    kept: Mutex<Kept>,
    power_reads: Together<PowerState>,
    /// Changes go one after the other.
    changes: tokio::sync::Mutex<()>,
}

/// What was found, and need not be looked for again.
#[derive(Debug, Default)]
struct Kept {
    system: Option<Arc<str>>,
    reset_types: Option<Arc<[String]>>,
    /// `Some(None)`: there is no slot that takes a CD.
    slot: Option<Option<Arc<Slot>>>,
    /// Since when the power is known to be off.
    off_since: Option<Instant>,
    /// What this process subscribed to.
    subscribed: Option<EventSink>,
    /// The health of the system with all its parts.
    health: Option<String>,
    /// The parts that were not well when that was so.
    unhealthy: Option<(Option<String>, Vec<UnhealthyPart>)>,
}

impl Redfish {
    pub(crate) fn new(
        options: &ConnectOptions,
        client: Arc<SharedClient>,
        refusals: Arc<Refusals>,
        logins: &Logins,
        desk: Arc<Desk>,
        quirks: Arc<SharedQuirks>,
    ) -> Result<Self, BmcError> {
        let bad = || BmcError::BadOptions {
            message: format!("{} is no address of a Redfish service", options.address),
        };
        let base = options.address.base_url().ok_or_else(bad)?;
        let login = logins.get(&base, options.credentials.clone(), refusals);
        let base = base.parse().map_err(|_| bad())?;
        let choice = Choice::of(&options.address)?;
        let http = Http { client, base, desk, forms: false };
        Ok(Self {
            client: Client::new(http, login, Kind::new(quirks)),
            choice,
            kept: Mutex::default(),
            power_reads: Together::default(),
            changes: tokio::sync::Mutex::default(),
        })
    }

    /// Ends the session, if there is one and nobody else uses it.
    pub(crate) async fn close(&self) {
        if Arc::strong_count(&self.client.login) > 1 {
            return;
        }
        let request = self.client.http.desk.limits.request;
        let _ = timeout(request, self.client.login.log_out(&self.client.http)).await;
    }

    fn desk(&self) -> &Desk {
        &self.client.http.desk
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_facts(&self) -> Result<SystemFacts, BmcError> {
        let system = self.system().await?.json;
        let manager = self.manager(&system).await?.map(|manager| manager.json);
        let slot = self.slot(&system, manager.as_ref()).await?;
        let methods = self.methods(&system, slot.is_some()).await?;
        let found = facts(&system, manager.as_ref());
        self.kept().health.clone_from(&found.health);
        let named = self.kept().unhealthy.clone().filter(|(health, _)| *health == found.health);
        let unhealthy = match named {
            Some((_, unhealthy)) => unhealthy,
            None => survey::health::unhealthy(&self.client, &system, manager.as_ref()).await?,
        };
        self.kept().unhealthy = Some((found.health.clone(), unhealthy.clone()));
        Ok(SystemFacts { boot_methods: methods, unhealthy, ..found })
    }

    async fn change_power(&self, action: PowerAction) -> Result<(), BmcError> {
        let _turn = self.changes.lock().await;
        let system = self.system().await?.json;
        let what = "power control: the system has no reset action";
        let reset =
            power::reset_action(&system).ok_or_else(|| BmcError::NotSupported { what: what.into() })?;
        let allowed = match (&reset.allowed, &reset.info) {
            (Some(allowed), _) => Some(allowed.as_slice().into()),
            (None, Some(info)) => self.reset_types(info).await?,
            (None, None) => None,
        };
        let state = self.see_power(&system);
        let manner = &self.client.kind.active().manner;
        let reset_type = match power::choose(action, state, allowed.as_deref()) {
            Reset::Nothing => return Ok(()),
            Reset::Send(chosen) => power::stand_in(chosen, manner.reset(chosen), state),
            Reset::NotSupported => {
                let list = allowed.as_deref().unwrap_or_default().join(", ");
                let what = format!("{action:?} while the power is {state}: it allows {list}");
                return Err(BmcError::NotSupported { what });
            }
        };
        let off_since = self.kept().off_since;
        if let Some(since) = off_since {
            sleep_until(since + manner.power_off_wait).await;
        }
        let what = format!("reset {reset_type}");
        match self.client.start(&reset.target, &serde_json::json!({"ResetType": reset_type}), &what).await {
            Err(error @ (BmcError::Unexpected { .. } | BmcError::Busy { .. })) => {
                // Refused perhaps because it is so by now, or an error after it was done.
                let state = self.see_power(&self.system().await?.json);
                if power::is_so(action, state) { Ok(()) } else { Err(error) }
            }
            other => other,
        }
    }

    /// The power in a system resource, remembering since when it is off.
    fn see_power(&self, system: &Value) -> PowerState {
        let state = power::state(system);
        let mut kept = self.kept();
        kept.health = survey::health::of(system);
        kept.off_since = match state {
            PowerState::Off => kept.off_since.or_else(|| Some(Instant::now())),
            _ => None,
        };
        state
    }

    async fn reset_types(&self, info: &str) -> Result<Option<Arc<[String]>>, BmcError> {
        let kept = self.kept().reset_types.clone();
        if kept.is_some() {
            return Ok(kept);
        }
        let info = self.client.fact(info).await?;
        let types = info.and_then(|info| power::allowed_of_info(&info.json, "ResetType")).map(Arc::from);
        self.kept().reset_types = types.clone();
        Ok(types)
    }

    async fn change_boot(&self, target: &BootTarget) -> Result<(), BmcError> {
        let _turn = self.changes.lock().await;
        let system = self.system().await?;
        let holder = self.override_holder(&system).await?;
        let holder = holder.as_ref().unwrap_or(&system);
        let says = if boot::takes_override(&holder.json) { holder } else { &system };
        let manner = &self.client.kind.active().manner;
        if let Some((alias, by)) = boot_options::wanted(target, &says.json) {
            if let BootTarget::VirtualMedia { url } | BootTarget::LiveMedia { url } = target {
                self.insert(&system.json, url).await?;
            }
            // After the medium: firmware lists some drives only while something is in them.
            let Some(option) = self.boot_option(&system.json, alias).await? else {
                let what = format!(
                    "boot override {alias}: neither a target nor a boot option of that kind is there"
                );
                return Err(BmcError::NotSupported { what });
            };
            let bodies: Vec<Value> = boot_options::once(&option, by).into_iter().collect();
            return self.patch_override(&system, holder, &bodies).await;
        }
        let patch = match boot::patch(target, &says.json, manner) {
            boot::Patch::NotSupported(what) => return Err(BmcError::NotSupported { what: what.into() }),
            patch => patch,
        };
        // The medium first: an override to an empty drive boots something else.
        if let BootTarget::VirtualMedia { url } | BootTarget::LiveMedia { url } = target {
            self.insert(&system.json, url).await?;
        }
        if let boot::Patch::Try(bodies) = patch {
            self.patch_override(&system, holder, &bodies).await?;
        }
        if matches!(target, BootTarget::Disk) {
            self.eject(&system.json).await?;
        }
        Ok(())
    }

    /// The first boot option of a kind, by the firmware's order.
    async fn boot_option(&self, system: &Value, alias: &str) -> Result<Option<Value>, BmcError> {
        let Some(link) = json::link(system, "/Boot/BootOptions") else { return Ok(None) };
        let reader = inspect::Reader::new(&self.client).await?;
        let holder = serde_json::json!({ "BootOptions": { "@odata.id": link } });
        let options = reader.collection(&holder, "/BootOptions").await?;
        Ok(options.into_iter().find(|option| boot_options::is(option, alias)))
    }

    /// Ways of booting the agent, best first; also by an option of the firmware's list where the override has no target.
    async fn methods(&self, system: &Value, media: bool) -> Result<Vec<BootMethod>, BmcError> {
        let mut methods = boot::methods(system, media);
        let targets = [
            (BootMethod::VirtualMedia, BootTarget::VirtualMedia { url: String::new() }, media),
            (BootMethod::Network, BootTarget::Network, true),
        ];
        for (method, target, possible) in targets {
            if let Some((alias, _)) = boot_options::wanted(&target, system).filter(|_| possible)
                && self.boot_option(system, alias).await?.is_some()
            {
                methods.push(method);
            }
        }
        methods.sort();
        Ok(methods)
    }

    /// The settings resource, where the override is written there and not to the system itself.
    async fn override_holder(&self, system: &Resource) -> Result<Option<Resource>, BmcError> {
        match self.client.kind.active().manner.through {
            Some(Through::System) => Ok(None),
            Some(Through::Settings) => match boot::settings(&system.json) {
                Some(link) => self.client.fact(&link).await,
                None => Ok(None),
            },
            None if boot::takes_override(&system.json) => Ok(None),
            None => self.settings(system).await,
        }
    }

    async fn settings(&self, system: &Resource) -> Result<Option<Resource>, BmcError> {
        let Some(link) = boot::settings(&system.json) else { return Ok(None) };
        Ok(self.client.fact(&link).await?.filter(|settings| boot::takes_override(&settings.json)))
    }

    async fn patch_override(
        &self,
        system: &Resource,
        holder: &Resource,
        bodies: &[Value],
    ) -> Result<(), BmcError> {
        let what = "the boot override";
        match self.client.patch(holder, bodies, what).await {
            Err(error @ (BmcError::Unexpected { .. } | BmcError::NotSupported { .. }))
                if std::ptr::eq(system, holder) =>
            {
                match self.settings(system).await? {
                    Some(settings) => self.client.patch(&settings, bodies, what).await,
                    None => Err(error),
                }
            }
            other => other,
        }
    }
}

/// The facts in a system and its manager, but for the ways of booting.
fn facts(system: &Value, manager: Option<&Value>) -> SystemFacts {
    SystemFacts {
        system_uuid: json::text(system, "/UUID").and_then(identity::uuid),
        serial_number: json::text(system, "/SerialNumber").and_then(identity::serial),
        manufacturer: json::string(system, "/Manufacturer"),
        product: json::string(system, "/Model"),
        bmc_firmware: manager.and_then(|manager| json::string(manager, "/FirmwareVersion")),
        power: power::state(system),
        boot_methods: Vec::new(),
        macs: json::text(system, "/HostCorrelation/HostMACAddress/0")
            .into_iter()
            .chain((1..8).filter_map(|n| json::text(system, &format!("/HostCorrelation/HostMACAddress/{n}"))))
            .filter_map(|text| text.parse::<MacAddress>().ok())
            .collect(),
        health: survey::health::of(system),
        unhealthy: Vec::new(),
    }
}

#[async_trait]
impl Bmc for Redfish {
    async fn probe(&self) -> Result<SystemFacts, BmcError> {
        self.desk().operation("the probe", Urgency::Survey, self.read_facts()).await
    }

    async fn power(&self) -> Result<PowerState, BmcError> {
        let read = || async { Ok(self.see_power(&self.system().await?.json)) };
        self.desk().read("the power read", &self.power_reads, read).await
    }

    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError> {
        let work = self.change_power(action);
        self.desk().operation("the change of power", desk::urgency(action), work).await
    }

    async fn set_boot(&self, target: &BootTarget) -> Result<(), BmcError> {
        self.desk().operation("the change of boot target", Urgency::Change, self.change_boot(target)).await
    }

    fn health_seen(&self) -> Option<String> {
        self.kept().health.clone()
    }

    async fn inspect(&self) -> Result<HardwareDetails, BmcError> {
        let read = async {
            let system = self.system().await?.json;
            let manager = self.manager(&system).await?.map(|manager| manager.json);
            let mut details = inspect::inspect(&self.client, &system, manager.as_ref()).await?;
            self.complete(&system, &mut details).await?;
            Ok(details)
        };
        self.desk().operation("the inspection", Urgency::Survey, read).await
    }

    async fn subscribe(&self, sink: &EventSink) -> Result<Subscribed, BmcError> {
        let work = self.keep_subscribed(sink);
        self.desk().operation("the subscription to events", Urgency::Survey, work).await
    }

    async fn manager_facts(&self) -> Result<ManagerFacts, BmcError> {
        let read = async {
            let system = self.system().await?.json;
            let Some(manager) = self.manager(&system).await? else {
                return Ok(ManagerFacts::default());
            };
            let reader = inspect::Reader::new(&self.client).await?;
            let ports = reader.collection(&manager.json, "/EthernetInterfaces").await?;
            Ok(manager::facts(&manager.json, &ports))
        };
        self.desk().operation("what the BMC says of itself", Urgency::Survey, read).await
    }
}
