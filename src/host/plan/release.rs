//! Letting go: a consumer that ends, a host object that is deleted, and what only an operator may decide.

use ferric_api::host::HostIdentity;
use ferric_api::names;
use ferric_api::{BareMetalHost, ProvisioningState as State};
use ferric_bmc::{PowerAction, PowerState};

use super::boot::read_power;
use super::{
    LONG, act, after, annotation, fresh_power, is_stranger, record, seed, standby, state_of, until, wait,
    wake,
};
use crate::host::{Action, Consumer, Job, Observation, Plan, RecordWrite, Wait};

/// The consumer lets the host go. The claim ends when the old workload is certainly dead.
pub(super) fn release(o: &Observation<'_>, _by: &str) -> Plan {
    let state = State::Deprovisioning;
    if nothing_started(o) {
        return act(state, Action::Write { write: RecordWrite::Free, guarded: false });
    }
    if wake::is_blind(o) {
        return wake::release(o);
    }
    match fresh_power(o) {
        None => read_power(state),
        Some(PowerState::Off) => act(state, Action::Write { write: RecordWrite::Release, guarded: true }),
        Some(_) => act(state, Action::Job { job: Job::Power(PowerAction::ForceOff), guarded: true }),
    }
}

/// Annotation `abandon: <claim ID>`: the operator says that the old workload is dead although the BMC cannot show it.
pub(super) fn abandon(o: &Observation<'_>) -> Option<Plan> {
    let wanted = annotation(o, names::ABANDON_ANNOTATION)?;
    let claim = record(o)?.claim.as_ref()?;
    (claim.id == wanted && matches!(o.consumer, Consumer::Releasing { .. })).then(|| {
        let reason =
            format!("claim {wanted} was abandoned by annotation: look at the server before it is used again");
        act(state_of(o), Action::Write { write: RecordWrite::Abandon { reason }, guarded: true })
    })
}

/// The consumer is not to be found. Our finalizer keeps a machine until its host has let go, so this is a move or a
/// restore in which the machine comes later, or somebody removed the finalizer by force. A claim under which nothing
/// was started ends by itself; whatever else may run on the server is not ours to stop.
pub(super) fn missing(o: &Observation<'_>, what: &str, identity: HostIdentity) -> Plan {
    let claimed = record(o).is_some_and(|r| r.identity.is_some() && r.claim.is_some());
    if claimed && nothing_started(o) {
        let since = o.bmc.consumer_missing_since.unwrap_or(o.now);
        let deadline = after(since, o.limits.consumer_missing);
        if o.now < deadline {
            let waiting = Wait::new("ConsumerMissing", format!("{what} to appear"), until(o.now, deadline));
            return wait(state_of(o), waiting.until(deadline));
        }
        return release(o, what);
    }
    if let Some(plan) = decided_to_release(o, &identity) {
        return plan;
    }
    let message = format!(
        "{what} to appear: the host names it as its consumer but it is not there, so nothing is done to the server. \
         Restore it, or annotate the host with {}=release to stop, wipe and free it",
        names::DECIDE_ANNOTATION
    );
    let mut plan = wait(state_of(o), Wait::new("ConsumerMissing", message.clone(), LONG));
    plan.registered = Some((true, "ConsumerMissing", message));
    plan
}

/// Whether nothing was done to the server under the present claim. An agent in which the host stands by anyway was given
/// nothing: user data goes out with the task to write only, and before that the record says which image.
fn nothing_started(o: &Observation<'_>) -> bool {
    let idle = |a: &ferric_api::host::AgentRecord| a.ended || standby::is_wanted(o);
    record(o).is_none_or(|r| r.image.is_none() && r.agent.as_ref().is_none_or(idle))
}

/// Annotation `decide: release`: the operator says that what runs on the server may be stopped and wiped.
fn decided_to_release(o: &Observation<'_>, identity: &HostIdentity) -> Option<Plan> {
    if annotation(o, names::DECIDE_ANNOTATION) != Some("release") {
        return None;
    }
    if record(o).is_none_or(|r| r.identity.is_none()) {
        let write = RecordWrite::Enrol { identity: identity.clone() };
        return Some(act(state_of(o), Action::Write { write, guarded: true }));
    }
    if wake::is_blind(o) {
        return Some(wake::decided(o));
    }
    Some(match fresh_power(o) {
        None => read_power(state_of(o)),
        Some(PowerState::Off) => {
            act(state_of(o), Action::Write { write: RecordWrite::Release, guarded: true })
        }
        Some(_) => act(state_of(o), Action::Job { job: Job::Power(PowerAction::ForceOff), guarded: true }),
    })
}

/// A host with a consumer but no usable record is never written, wiped or powered until an operator decides.
pub(super) fn undecided(o: &Observation<'_>, identity: HostIdentity) -> Plan {
    let Consumer::NoUsableRecord { what, claim_id, provider_id, image } = &o.consumer else {
        return wait(state_of(o), Wait::new("NoUsableRecord", "an operator's decision", LONG));
    };
    if let Some(plan) = decided_to_release(o, &identity) {
        return plan;
    }
    match (annotation(o, names::DECIDE_ANNOTATION), claim_id) {
        (Some("adopt"), Some(claim_id)) => act(
            state_of(o),
            Action::Write {
                write: RecordWrite::Adopt {
                    claim_id: claim_id.clone(),
                    provider_id: provider_id.clone(),
                    image: image.clone().map(Box::new),
                    identity,
                },
                guarded: true,
            },
        ),
        _ => {
            let message = format!(
                "an operator's decision: the host names consumer {what} but its record holds no matching claim, so \
                 nothing is done to it. Annotate it with {}=adopt to keep what runs on it, or ={} to stop, wipe and \
                 free it",
                names::DECIDE_ANNOTATION,
                "release"
            );
            let mut plan = wait(state_of(o), Wait::new("NoUsableRecord", message.clone(), LONG));
            plan.registered = Some((true, "NoUsableRecord", message));
            plan
        }
    }
}

/// Whether a host that is deleted is let go without anything being done to its server, which may be another management
/// cluster's by now.
pub fn goes_untouched(host: &BareMetalHost) -> bool {
    let all =
        [names::DELETE_FOR_MOVE_ANNOTATION, names::DETACHED_ANNOTATION, names::METAL3_DETACHED_ANNOTATION];
    let there = |name: &str| host.metadata.annotations.as_ref().is_some_and(|its| its.contains_key(name));
    all.into_iter().any(there)
}

/// The host object is being deleted. `None`: go on with the ordinary plan, which releases and cleans.
pub(super) fn deletion(o: &Observation<'_>) -> Option<Plan> {
    let remove = || Some(remove_finalizer());
    let has_finalizer =
        o.host.metadata.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| f == names::HOST_FINALIZER));
    if !has_finalizer {
        return Some(wait(State::Deleting, Wait::new("Finalizers", "other finalizers to be removed", LONG)));
    }
    if goes_untouched(o.host) {
        return remove();
    }
    let unmanaged = o.host.spec.bmc.as_ref().is_none_or(|bmc| bmc.address.is_empty());
    let record = record(o);
    if unmanaged
        || o.duplicate_of.is_some()
        || o.host.spec.externally_provisioned
        || record.is_none_or(|r| r.identity.is_none())
    {
        return remove();
    }
    match &o.consumer {
        Consumer::None { .. } | Consumer::Releasing { .. } => {}
        Consumer::Machine { machine, .. } => return Some(in_use(o, &format!("BareMetalMachine {machine}"))),
        Consumer::Missing { what } | Consumer::Foreign { what } | Consumer::NoUsableRecord { what, .. } => {
            return Some(in_use(o, what));
        }
        Consumer::Paused { by } => return Some(in_use(o, by)),
    }
    if matches!(o.consumer, Consumer::Releasing { .. }) {
        return None;
    }
    let record = record?;
    if record.image.is_some() {
        return None;
    }
    if record.agent.is_none() {
        return remove();
    }
    if wake::is_blind(o) {
        return Some(wake::delete(o));
    }
    let retries_later = o
        .bmc
        .failure
        .as_ref()
        .is_some_and(|failure| !failure.staging && o.now < failure.retry_at(&o.limits, &seed(o)));
    if o.bmc.running.is_some() || retries_later || o.bmc.facts.is_none() {
        return None;
    }
    if is_stranger(o.host, o.bmc) {
        // Not the server that our agent ran on.
        return remove();
    }
    match fresh_power(o) {
        None => Some(read_power(State::PoweringOffBeforeDelete)),
        Some(PowerState::Off) => remove(),
        Some(_) => Some(act(
            State::PoweringOffBeforeDelete,
            Action::Job { job: Job::Power(PowerAction::ForceOff), guarded: true },
        )),
    }
}

pub(super) fn remove_finalizer() -> Plan {
    act(State::Deleting, Action::Write { write: RecordWrite::RemoveFinalizer, guarded: false })
}

fn in_use(o: &Observation<'_>, what: &str) -> Plan {
    let message = format!(
        "{what} to let the host go: delete the Machine, or, to drop this object without touching the server, annotate \
         it with {}",
        names::DETACHED_ANNOTATION
    );
    wait(state_of(o), Wait::new("InUse", message, LONG))
}
