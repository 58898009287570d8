//! What to do with a host: a pure function of an [`Observation`].
//!
//! The order of the questions is the order of safety: is the host ours to touch at all, is it the machine that the
//! record is about, who uses it, and only then what is missing on it. Everything is derived from spec, record and
//! readings; the status is never an input.

mod belongs;
mod boot;
mod life;
pub mod live;
mod release;
mod standby;
#[cfg(test)]
mod tests;
mod wake;

use std::net::IpAddr;
use std::time::Duration;

use ferric_api::host::{CleaningMode, ErrorType, HostIdentity, HostRecord};
use ferric_api::names;
use ferric_api::{BareMetalHost, ProvisioningState as State};
use ferric_bmc::{PowerState, SystemFacts};
use jiff::{SignedDuration, Timestamp};

pub use self::release::goes_untouched;
use super::backoff::spread;
use super::consumer::cleaning_mode;
use super::memory::RETRY;
use super::record::same_machine;
use super::{Action, BmcMemory, Consumer, Job, Observation, Plan, RecordWrite, Step, Wait};
use crate::host::step::PlanError;

/// A wait that only an event or an edit ends is looked at again after this long all the same.
const LONG: Duration = Duration::from_secs(300);
/// A wait whose end is an event that is about to come.
const SHORT: Duration = Duration::from_secs(10);

/// Decides the one next step for a host.
pub fn plan(o: &Observation<'_>) -> Plan {
    let mut plan = decide(o);
    if plan.error.is_none() && !is_moot(o, &plan.step) {
        plan.error = standing_error(o, plan.state);
    }
    plan
}

/// Whether the failure that stands is of something that is no longer wanted.
pub fn is_moot(o: &Observation<'_>, step: &Step) -> bool {
    let running = o.bmc.running.as_ref().map(|running| &running.value);
    o.bmc.failure.as_ref().is_some_and(|failure| failure.is_moot(step, running, &o.limits, &seed(o), o.now))
}

fn decide(o: &Observation<'_>) -> Plan {
    if let Some(by) = left_alone(o) {
        return paused(o, by);
    }
    if o.host.metadata.deletion_timestamp.is_some()
        && let Some(plan) = release::deletion(o)
    {
        return plan;
    }
    if o.host.spec.waits_for_approval() {
        return unapproved(o);
    }
    let Some(bmc) = o.host.spec.bmc.as_ref().filter(|bmc| !bmc.address.is_empty()) else {
        return wait(State::Unmanaged, Wait::new("NoBMC", "spec.bmc.address to be set", LONG));
    };
    if let Some(other) = &o.duplicate_of {
        let message = format!(
            "BareMetalHost {other} names the same server and is older, or uses it; delete one of the two, or mend \
             spec.bmc.address ({}) or spec.bootMACAddress",
            bmc.address
        );
        let mut plan =
            wait(state_of(o), Wait::new("DuplicateHost", message.clone(), Duration::from_secs(30)));
        plan.registered = Some((false, "DuplicateHost", message));
        return plan;
    }
    if let Some(plan) = release::abandon(o) {
        return plan;
    }
    if let Some(running) = &o.bmc.running {
        return wait(state_of(o), Wait::new("BMC", running.value.describe(o.host.spec.wakes_only()), LONG));
    }
    if annotation(o, names::RETRY_ANNOTATION).is_some() {
        return act(state_of(o), Action::Write { write: RecordWrite::ClearRetry, guarded: false });
    }
    if let Some(failure) = o.bmc.failure.as_ref().filter(|failure| !failure.staging) {
        let retry_at = failure.retry_at(&o.limits, &seed(o));
        if o.now < retry_at {
            let message = format!("the next try: {}", failure.message);
            return wait(state_of(o), Wait::new(RETRY, message, until(o.now, retry_at)).until(retry_at));
        }
    }
    let Some(facts) = &o.bmc.facts else {
        return job(o, Job::Probe);
    };
    let reported = reported(o.host, &facts.value);
    match record(o).and_then(|r| r.identity.as_ref()) {
        Some(known) if !same_machine(known, &reported) => {
            let in_use = o.host.spec.consumer_ref.is_some()
                || o.host.spec.externally_provisioned
                || record(o).is_some_and(|r| r.image.is_some());
            if in_use {
                let message = format!(
                    "an operator's decision: the BMC reports another machine ({}) than the record is about ({}); \
                     nothing is done to it. Mend spec.bmc.address, or annotate this host with {} and delete it",
                    show(&reported),
                    show(known),
                    names::DETACHED_ANNOTATION
                );
                let mut plan = wait(state_of(o), Wait::new("IdentityMismatch", message.clone(), LONG));
                plan.registered = Some((false, "IdentityMismatch", message));
                return plan;
            }
            return act(
                State::Registering,
                Action::Write { write: RecordWrite::Enrol { identity: reported }, guarded: true },
            );
        }
        Some(_) => {}
        None => {
            if !matches!(o.consumer, Consumer::NoUsableRecord { .. } | Consumer::Missing { .. }) {
                return life::enrol(reported);
            }
        }
    }
    match &o.consumer {
        Consumer::NoUsableRecord { .. } => return release::undecided(o, reported),
        Consumer::Missing { what } => return release::missing(o, what, reported),
        Consumer::Releasing { by } => return release::release(o, by),
        Consumer::Foreign { what } => {
            return wait(
                state_of(o),
                Wait::new("ForeignConsumer", format!("{what} to let the host go"), LONG),
            );
        }
        Consumer::Paused { by } => return paused(o, by.clone()),
        Consumer::None { .. } | Consumer::Machine { .. } => {}
    }
    if o.host.spec.externally_provisioned {
        if let Some(plan) = standby::hand_over(o) {
            return plan;
        }
        return life::keep_power(o, State::ExternallyProvisioned);
    }
    if life::wants_inspection(o) {
        return life::inspect(o);
    }
    if let Some(image) = record(o).and_then(|r| r.image.as_ref()) {
        if !life::keeps_image(o, image) {
            return life::clean(o, State::Deprovisioning);
        }
        return if image.booted_at.is_some() { life::provisioned(o) } else { life::provision(o) };
    }
    if needs_cleaning(o) {
        return life::clean(o, state_of(o));
    }
    if let Some(plan) = standby::clear(o) {
        return plan;
    }
    match &o.consumer {
        Consumer::Machine { .. } | Consumer::None { desired: Some(_) } => life::provision(o),
        _ => life::available(o),
    }
}

/// A server that enrolled itself: known, and left alone until an operator decides.
fn unapproved(o: &Observation<'_>) -> Plan {
    let message = match &o.duplicate_of {
        Some(other) => format!(
            "discovered: to be deleted, for BareMetalHost {other} names the same server, which an operator enrolled"
        ),
        None => format!(
            "discovered: an operator's approval: set spec.bmc{} and spec.approval to Approved, or delete this host",
            // Whoever may write the annotation may write anything there.
            match annotation(o, names::DISCOVERED_BMC_ANNOTATION).and_then(|text| text.parse::<IpAddr>().ok())
            {
                Some(address) => format!(" (the BMC says that it is at {address})"),
                None => String::new(),
            }
        ),
    };
    let reason = if o.duplicate_of.is_some() { "DuplicateHost" } else { "WaitingForApproval" };
    let mut plan = wait(State::Unmanaged, Wait::new(reason, message.clone(), LONG));
    plan.registered = Some((false, reason, message));
    plan
}

/// The machine behind a host's BMC, as that reports it.
fn reported(host: &BareMetalHost, facts: &SystemFacts) -> HostIdentity {
    HostIdentity {
        system_uuid: facts.system_uuid.clone(),
        serial_number: facts.serial_number.clone(),
        boot_mac_address: host.spec.boot_mac_address.as_ref().map(|mac| mac.to_ascii_lowercase()),
    }
}

/// Whether the BMC reports another machine than the record is about.
pub fn is_stranger(host: &BareMetalHost, bmc: &BmcMemory) -> bool {
    let known = host.spec.record.as_ref().and_then(|record| record.identity.as_ref());
    let facts = bmc.facts.as_ref().map(|facts| &facts.value);
    known.zip(facts).is_some_and(|(known, facts)| !same_machine(known, &reported(host, facts)))
}

/// Where in its life a host is, from spec, record and consumer alone: no reading is needed to tell.
pub fn state_of(o: &Observation<'_>) -> State {
    let spec = &o.host.spec;
    if spec.waits_for_approval() || spec.bmc.as_ref().is_none_or(|bmc| bmc.address.is_empty()) {
        return State::Unmanaged;
    }
    let Some(record) = record(o).filter(|r| r.identity.is_some()) else {
        return State::Registering;
    };
    if spec.externally_provisioned {
        return State::ExternallyProvisioned;
    }
    if let Some(image) = &record.image {
        return match (life::keeps_image(o, image), image.booted_at.is_some()) {
            (true, true) => State::Provisioned,
            (true, false) => State::Provisioning,
            (false, _) => State::Deprovisioning,
        };
    }
    if life::wants_inspection(o) {
        return State::Inspecting;
    }
    if matches!(o.consumer, Consumer::Releasing { .. }) {
        return State::Deprovisioning;
    }
    if needs_cleaning(o) {
        return if record.quiesced_at.is_some() { State::Deprovisioning } else { State::Preparing };
    }
    match &o.consumer {
        Consumer::None { desired: None } => State::Available,
        _ => State::Provisioning,
    }
}

/// Whether the disks have to be wiped before the host may be used.
fn needs_cleaning(o: &Observation<'_>) -> bool {
    cleaning_mode(o.host) != CleaningMode::Disabled && record(o).is_none_or(|r| r.cleaned.is_none())
}

/// The annotation by which a host is not to be touched.
pub fn annotated_away(host: &BareMetalHost) -> Option<&'static str> {
    let deleting = host.metadata.deletion_timestamp.is_some();
    let there = |name: &&str| host.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(*name));
    let pauses = [names::PAUSED_ANNOTATION, names::METAL3_PAUSED_ANNOTATION, names::CAPI_PAUSED_ANNOTATION];
    let detachments =
        [names::DETACHED_ANNOTATION, names::METAL3_DETACHED_ANNOTATION, names::DELETE_FOR_MOVE_ANNOTATION];
    // A detached host that is deleted is let go without being touched: see `release::deletion`. `clusterctl move`
    // puts its annotation *in place of* all others, so a pause is gone by then, and deletes a moment later; the
    // server belongs to the other management cluster already.
    pauses.into_iter().chain(detachments.into_iter().filter(|_| !deleting)).find(there)
}

/// Why the host is not to be touched at all.
fn left_alone(o: &Observation<'_>) -> Option<String> {
    let deleting = o.host.metadata.deletion_timestamp.is_some();
    if let Some(name) = annotated_away(o.host) {
        return Some(format!("annotation {name}"));
    }
    match &o.consumer {
        Consumer::Paused { by } if !deleting => Some(by.clone()),
        _ => None,
    }
}

/// A paused host gets no BMC write and no task; the result of a task that was running is still noted, because only
/// then does `clusterctl move` go on.
fn paused(o: &Observation<'_>, by: String) -> Plan {
    let state = state_of(o);
    let mut plan = match boot::finished_while_paused(o) {
        Some(write) => act(state, Action::Write { write, guarded: false }),
        None => wait(state, Wait::new("Paused", format!("{by} to be removed"), LONG)),
    };
    plan.paused = Some(by);
    plan
}

fn standing_error(o: &Observation<'_>, state: State) -> Option<PlanError> {
    // That an image cannot be staged says nothing against a host, which may be used all the same.
    if let Some(failure) = o.bmc.failure.as_ref().filter(|failure| !failure.is_about_the_image()) {
        return Some(PlanError {
            kind: error_kind(state),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            count: failure.count,
            retry_at: Some(failure.retry_at(&o.limits, &seed(o))),
        });
    }
    o.bmc.image_failure.as_ref().filter(|_| state == State::Provisioning).map(|failure| PlanError {
        kind: error_kind(state),
        reason: failure.reason.to_owned(),
        message: failure.message.clone(),
        count: failure.count,
        retry_at: Some(failure.retry_at),
    })
}

fn error_kind(state: State) -> ErrorType {
    match state {
        State::None | State::Unmanaged | State::Registering => ErrorType::Registration,
        State::Inspecting => ErrorType::Inspection,
        State::Preparing => ErrorType::Preparation,
        State::Provisioning => ErrorType::Provisioning,
        State::Deprovisioning | State::Deleting => ErrorType::Deprovisioning,
        State::Available
        | State::Provisioned
        | State::ExternallyProvisioned
        | State::PoweringOffBeforeDelete => ErrorType::PowerManagement,
    }
}

pub(super) fn record<'a>(o: &'a Observation<'_>) -> Option<&'a HostRecord> {
    o.host.spec.record.as_ref()
}

fn annotation<'a>(o: &'a Observation<'_>, name: &str) -> Option<&'a str> {
    o.host.metadata.annotations.as_ref().and_then(|a| a.get(name)).map(String::as_str)
}

fn seed(o: &Observation<'_>) -> String {
    o.host.metadata.uid.clone().unwrap_or_default()
}

fn act(state: State, action: Action) -> Plan {
    Plan { state, step: Step::Act(action), error: None, paused: None, registered: None }
}

fn wait(state: State, wait: Wait) -> Plan {
    Plan { state, step: Step::Wait(wait), error: None, paused: None, registered: None }
}

fn job(o: &Observation<'_>, job: Job) -> Plan {
    act(state_of(o), Action::Job { job, guarded: false })
}

/// `from` to `to`, at least 50 ms so that a wait never spins.
fn until(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default().max(Duration::from_millis(50))
}

fn after(at: Timestamp, span: Duration) -> Timestamp {
    at.saturating_add(SignedDuration::try_from(span).unwrap_or_default()).unwrap_or(at)
}

/// The power, if it was read recently enough to act on.
fn fresh_power(o: &Observation<'_>) -> Option<PowerState> {
    let power = o.bmc.power.as_ref()?;
    (after(power.at, o.limits.power_fresh) > o.now).then_some(power.value)
}

/// When the power of a host at rest is read again; `None`: it was never read.
fn poll_due(o: &Observation<'_>) -> Option<Timestamp> {
    let power = o.bmc.power.as_ref()?;
    // The first pause is spread over the period, so that a fleet that started together does not poll together.
    let first = power.at == o.bmc.facts.as_ref().map_or(power.at, |facts| facts.at);
    let period = o.limits.power_poll;
    Some(after(power.at, if first { period / 2 + spread(period / 2, &seed(o)) } else { period }))
}

fn show(identity: &HostIdentity) -> String {
    format!(
        "UUID {}, serial number {}, boot MAC {}",
        identity.system_uuid.as_deref().unwrap_or("unknown"),
        identity.serial_number.as_deref().unwrap_or("unknown"),
        identity.boot_mac_address.as_deref().unwrap_or("unknown"),
    )
}
