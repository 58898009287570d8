//! The Redfish driver: finds its way by links, takes everything as optional, and keeps what it found.
//!
//! What is kept for a BMC: the service root's links, the path of the system, the allowed reset types where they stand
//! in a resource of their own, and the virtual media slot. A power read is then one request. A kept path that answers
//! 404 is looked for again, once.

mod boot;
mod client;
mod http;
mod identity;
mod inspect;
mod json;
mod media;
mod power;
#[cfg(test)]
mod properties;
mod quirks;
mod session;
mod slots;
mod task;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ferric_api::{HardwareDetails, MacAddress};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::breaker::Refusals;
use crate::counters::Counters;
use crate::error::BmcError;
use crate::limits::Limits;
use crate::tls::SharedClient;
use crate::types::{Bmc, BootTarget, ConnectOptions, PowerAction, PowerState, SystemFacts};
use client::{Client, Resource, one_fact};
use http::Http;
use media::Slot;
use power::Reset;
use session::Login;

/// A BMC that speaks Redfish.
#[derive(Debug)]
pub(crate) struct Redfish {
    client: Client,
    /// The system that the address names.
    system_path: Option<Box<str>>,
    kept: Mutex<Kept>,
    operations: Semaphore,
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
}

impl Redfish {
    pub(crate) fn new(
        options: &ConnectOptions,
        client: Arc<SharedClient>,
        refusals: Arc<Refusals>,
        counters: Arc<Counters>,
        limits: Arc<Limits>,
    ) -> Result<Self, BmcError> {
        let bad = || BmcError::BadOptions {
            message: format!("{} is no address of a Redfish service", options.address),
        };
        let base = options.address.base_url().ok_or_else(bad)?;
        let login = Login::new(&base, options.credentials.clone(), refusals);
        let base = base.parse().map_err(|_| bad())?;
        let path = options.address.path().trim_end_matches('/');
        let names_system = !matches!(path, "" | "/redfish" | "/redfish/v1" | "/redfish/v1/Systems");
        let operations = Semaphore::new(limits.queue.max(1));
        let http = Http { client, base, limits, counters, breaker: Default::default() };
        Ok(Self {
            client: Client::new(http, login),
            system_path: names_system.then(|| path.into()),
            kept: Mutex::default(),
            operations,
            changes: tokio::sync::Mutex::default(),
        })
    }

    /// Ends the session, if there is one.
    pub(crate) async fn close(&self) {
        let request = self.client.http.limits.request;
        let _ = timeout(request, self.client.login.log_out(&self.client.http)).await;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an operation: one of a few at a time, let through by the circuit breaker, within its deadline, counted.
    async fn operation<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, BmcError>> + Send,
    ) -> Result<T, BmcError> {
        let http = &self.client.http;
        let result = async {
            let _place = self.operations.try_acquire().map_err(|_| BmcError::Busy {
                status: 0,
                url: http.address(),
                message: format!("{} operations wait for it already", http.limits.queue),
                retry_after: None,
            })?;
            let _pass = http
                .breaker
                .enter(Instant::now())
                .map_err(|(until, last)| BmcError::CircuitOpen { until, last })?;
            let deadline = http.limits.operation;
            timeout(deadline, work)
                .await
                .unwrap_or_else(|_| Err(BmcError::Timeout { what: what.to_owned(), after: deadline }))
        }
        .await;
        if let Err(error) = &result {
            http.counters.error(error);
            tracing::debug!(bmc = %http.base, what, %error, "BMC operation failed");
        }
        result
    }

    /// Reads the system, finding it first if need be.
    async fn system(&self) -> Result<Resource, BmcError> {
        let kept = self.kept().system.clone();
        if let Some(path) = kept {
            match self.client.get(&path).await {
                Err(BmcError::Unexpected { status: 404, .. }) => {
                    *self.kept() = Kept::default();
                    self.client.forget_root();
                }
                other => return other.map(mended),
            }
        }
        let path = match &self.system_path {
            Some(path) => path.to_string(),
            None => self.only_system().await?,
        };
        let system = match self.client.get(&path).await {
            Err(BmcError::Unexpected { status: 404, .. }) => return Err(self.no_such_system(&path).await?),
            other => mended(other?),
        };
        self.kept().system = Some(path.into());
        Ok(system)
    }

    async fn systems(&self) -> Result<Vec<String>, BmcError> {
        let root = self.client.root().await?;
        Ok(self.client.members(&root.systems).await?.into_iter().map(|member| member.path).collect())
    }

    async fn only_system(&self) -> Result<String, BmcError> {
        let mut systems = self.systems().await?;
        match (systems.pop(), systems.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(BmcError::NoSystem { message: "the BMC names no system".into() }),
            (Some(last), false) => {
                systems.push(last);
                Err(BmcError::NoSystem {
                    message: format!(
                        "the BMC has several systems: append the path of one to the address: {}",
                        systems.join(", ")
                    ),
                })
            }
        }
    }

    async fn no_such_system(&self, path: &str) -> Result<BmcError, BmcError> {
        let systems = one_fact(self.systems().await)?.unwrap_or_default();
        Ok(BmcError::NoSystem {
            message: format!("the BMC has no system {path}: it has {}", systems.join(", ")),
        })
    }

    /// The manager of the system: the BMC's own resource.
    async fn manager(&self, system: &Value) -> Result<Option<Resource>, BmcError> {
        let link = match json::link(system, "/Links/ManagedBy") {
            Some(link) => link,
            None => {
                let root = self.client.root().await?;
                let Some(managers) = &root.managers else { return Ok(None) };
                let members = one_fact(self.client.members(managers).await)?.unwrap_or_default();
                match members.into_iter().next() {
                    Some(member) => member.path,
                    None => return Ok(None),
                }
            }
        };
        self.client.fact(&link).await
    }

    async fn read_facts(&self) -> Result<SystemFacts, BmcError> {
        let system = self.system().await?.json;
        let manager = self.manager(&system).await?.map(|manager| manager.json);
        let slot = self.slot(&system, manager.as_ref()).await?;
        Ok(facts(&system, manager.as_ref(), slot.is_some()))
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
        let state = power::state(&system);
        let reset_type = match power::choose(action, state, allowed.as_deref()) {
            Reset::Nothing => return Ok(()),
            Reset::Send(reset_type) => reset_type,
            Reset::NotSupported => {
                let list = allowed.as_deref().unwrap_or_default().join(", ");
                let what = format!("{action:?} while the power is {state}: it allows {list}");
                return Err(BmcError::NotSupported { what });
            }
        };
        let what = format!("reset {reset_type}");
        match self.client.start(&reset.target, &serde_json::json!({"ResetType": reset_type}), &what).await {
            Err(error @ (BmcError::Unexpected { .. } | BmcError::Busy { .. })) => {
                // Refused perhaps because it is so by now.
                let state = power::state(&self.system().await?.json);
                match power::choose(action, state, allowed.as_deref()) {
                    Reset::Nothing => Ok(()),
                    _ => Err(error),
                }
            }
            other => other,
        }
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
        let patch = match boot::patch(target, &holder.json) {
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

    /// The settings resource, where the override stands there and not in the system itself.
    async fn override_holder(&self, system: &Resource) -> Result<Option<Resource>, BmcError> {
        if boot::settings_take_override(&system.json) {
            return Ok(None);
        }
        self.settings(system).await
    }

    async fn settings(&self, system: &Resource) -> Result<Option<Resource>, BmcError> {
        let Some(link) = boot::settings(&system.json) else { return Ok(None) };
        Ok(self.client.fact(&link).await?.filter(|settings| boot::settings_take_override(&settings.json)))
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

fn mended(mut system: Resource) -> Resource {
    quirks::mend_system(&mut system.json);
    system
}

/// The facts in a system and its manager.
fn facts(system: &Value, manager: Option<&Value>, media: bool) -> SystemFacts {
    SystemFacts {
        system_uuid: json::text(system, "/UUID").and_then(identity::uuid),
        serial_number: json::text(system, "/SerialNumber").and_then(identity::serial),
        manufacturer: json::string(system, "/Manufacturer"),
        product: json::string(system, "/Model"),
        bmc_firmware: manager.and_then(|manager| json::string(manager, "/FirmwareVersion")),
        power: power::state(system),
        boot_methods: boot::methods(system, media),
        macs: json::text(system, "/HostCorrelation/HostMACAddress/0")
            .into_iter()
            .chain((1..8).filter_map(|n| json::text(system, &format!("/HostCorrelation/HostMACAddress/{n}"))))
            .filter_map(|text| text.parse::<MacAddress>().ok())
            .collect(),
        health: json::string(system, "/Status/HealthRollup")
            .or_else(|| json::string(system, "/Status/Health")),
    }
}

#[async_trait]
impl Bmc for Redfish {
    async fn probe(&self) -> Result<SystemFacts, BmcError> {
        self.operation("the probe", self.read_facts()).await
    }

    async fn power(&self) -> Result<PowerState, BmcError> {
        let read = async { Ok(power::state(&self.system().await?.json)) };
        self.operation("the power read", read).await
    }

    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError> {
        self.operation("the change of power", self.change_power(action)).await
    }

    async fn set_boot(&self, target: &BootTarget) -> Result<(), BmcError> {
        self.operation("the change of boot target", self.change_boot(target)).await
    }

    async fn inspect(&self) -> Result<HardwareDetails, BmcError> {
        let read = async {
            let system = self.system().await?.json;
            let manager = self.manager(&system).await?.map(|manager| manager.json);
            inspect::inspect(&self.client, &system, manager.as_ref()).await
        };
        self.operation("the inspection", read).await
    }
}
