//! Machines that nobody enrolled: the shell around [`crate::discovery`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferric_api::hardware::HardwareDetails;
use ferric_api::{BareMetalHost, MacAddress};
use ferric_protocol::DiscoveryToken;
use ferric_protocol::v1::{Inventory, PowerAction};
use jiff::Timestamp;
use tracing::{info, warn};

use super::{HostContext, cards, hardware};
use crate::deploy::RegisterError;
use crate::discovery::{Book, Invite, Known, Limits, Refusal, Report, found};
use crate::host::in_band;
use crate::key::Key;
use crate::patch;
use crate::telemetry::EventKind;

/// Machines that nobody enrolled and that the operator wants to be told of.
#[derive(Debug)]
pub struct Discovery {
    /// Namespace of the hosts that are made of them.
    namespace: String,
    /// Labels of these hosts, without which this manager would not see them.
    labels: BTreeMap<String, String>,
    book: Mutex<Book>,
}

impl Discovery {
    /// Hosts are made in `namespace`, with these labels.
    pub fn new(namespace: &str, labels: BTreeMap<String, String>, limits: Limits) -> Self {
        Self { namespace: namespace.to_owned(), labels, book: Mutex::new(Book::new(limits)) }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The discovery token for a machine that no host names: one that it has, or, if it asks for a boot, a new one.
pub(super) fn token(context: &Arc<HostContext>, mac: MacAddress, asks: bool) -> Option<String> {
    let discovery = context.discovery.as_ref()?;
    let now = Timestamp::now();
    let mint = |(number, expires): (u64, Timestamp)| context.boot.keys.mint_discovery(mac, number, expires);
    if !asks {
        return discovery.book().pending(mac, now).map(mint);
    }
    // While hosts are not all known, each would look like a stranger.
    if !context.hosts.is_ready() {
        return None;
    }
    let hosts = context.hosts.store().state();
    // Another card of a host. While the cards of some are being looked up nothing is offered: the machine asks again.
    let names = |host: &BareMetalHost| Known::of(host, None, None).has_card(mac);
    if hosts.iter().any(|host| names(host)) || !context.with_card(mac).is_empty() || cards::look_up(context) {
        return None;
    }
    let waiting = hosts.iter().filter(|host| host.spec.waits_for_approval()).count();
    let number = uuid::Uuid::new_v4().as_u64_pair().0;
    let invite = discovery.book().invite(mac, now, number, waiting, |key| context.hosts.get(key).is_some());
    match invite {
        Invite::Token { number, expires, again } => {
            if !again {
                info!(%mac, number, "a machine that nobody enrolled is offered the agent, to tell what it is");
                context.metrics.discovery("offered");
            }
            Some(mint((number, expires)))
        }
        Invite::Known(host) => {
            tracing::debug!(%mac, %host, "a machine that told to be this host is not asked again");
            None
        }
        Invite::Limited => {
            warn!(%mac, waiting, "a machine that nobody enrolled is offered nothing: too many were, or wait for approval");
            context.metrics.discovery("limited");
            None
        }
    }
}

/// Takes the report of a machine that nobody enrolled. One of which a host is made is switched off, as the host says;
/// any other is restarted, and goes to its own disk: it may be a server in use that came by another card.
pub(super) async fn report(
    context: &HostContext,
    token: &DiscoveryToken,
    fingerprint: &str,
    inventory: &Inventory,
) -> Result<PowerAction, RegisterError> {
    let mac = MacAddress::from(token.mac);
    let refused = |why: &dyn std::fmt::Display| {
        warn!(%mac, reason = %why, "no host is made of a machine that nobody enrolled; it is restarted");
        context.metrics.discovery("refused");
        PowerAction::Reboot
    };
    let Some(discovery) = context.discovery.as_ref() else {
        return Ok(refused(&"discovery is not wanted any more"));
    };
    let spent = discovery.book().spend(mac, token.number, fingerprint, Timestamp::now());
    match spent {
        Err(error) => return Ok(refused(&error)),
        Ok(Some(end)) => return Ok(end),
        Ok(None) => {}
    }
    let conflict = |error: patch::ApiError| RegisterError::Conflict { message: error.to_string() };
    let known = known_machines(context, mac).await.map_err(conflict)?;
    let end = match found::plan(&Report { mac, inventory }, &discovery.namespace, &discovery.labels, &known) {
        Err(refusal) => {
            if let Refusal::Known { host, .. } = &refusal {
                discovery.book().refuse(mac, host.clone());
            }
            refused(&refusal)
        }
        Ok(host) => match make(context, &host, mac).await.map_err(conflict)? {
            None => refused(&"a host that this manager does not see has its name"),
            Some(made) => {
                let key = Key::of(&made);
                let details = in_band::merge(&HardwareDetails::default(), inventory);
                hardware::save(&made, &key, context, &details).await.map_err(conflict)?;
                info!(host = %key, %mac, "a machine that nobody enrolled is discovered; it is switched off");
                let note =
                    "discovered: nothing is done to it until spec.bmc is set and spec.approval is Approved";
                context.events.publish(&made, EventKind::Normal, "Discovered", "Discovery", note);
                context.metrics.discovery("discovered");
                PowerAction::PowerOff
            }
        },
    };
    discovery.book().settle(token.number, end);
    Ok(end)
}

/// What is known of the machines of all hosts, but for the host that an earlier try of the same report has made. Hosts that
/// wait for approval have no BMC that could say anything: what their agents saw is read; their number is limited.
async fn known_machines(
    context: &HostContext,
    mac: MacAddress,
) -> Result<Vec<(Key, Known)>, patch::ApiError> {
    let mut known = Vec::new();
    for host in context.hosts.store().state() {
        let key = Key::of(&*host);
        if key.name == found::name(mac) && found::is_same(&host, mac) {
            continue;
        }
        let hardware =
            if host.spec.waits_for_approval() { hardware::read(&key, context).await? } else { None };
        let machine = Known::of(&host, context.facts(&key).as_ref(), hardware.as_ref());
        known.push((key, machine));
    }
    Ok(known)
}

/// Makes the host; `None` if another has its name.
async fn make(
    context: &HostContext,
    host: &BareMetalHost,
    mac: MacAddress,
) -> Result<Option<BareMetalHost>, patch::ApiError> {
    let key = Key::of(host);
    let api = context.api(&key);
    match patch::create(&api, host).await {
        Ok(made) => Ok(Some(made)),
        // This report came before, and its answer, or the rest of its work, was lost.
        Err(error) if error.is_already_exists() => {
            Ok(patch::get_opt(&api, &key.name).await?.filter(|there| found::is_same(there, mac)))
        }
        Err(error) => Err(error),
    }
}
