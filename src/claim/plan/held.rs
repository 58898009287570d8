//! A machine whose claim holds, or may: from the claim to a provisioned machine.

use ferric_api::condition::types;
use ferric_api::host::HostRecord;
use ferric_api::machine::MachineAddress;
use ferric_api::{BareMetalHost, names};
use kube::ResourceExt;

use super::{MachineObservation, MachinePlan, MachineStep, bootstrap_ready, has_finalizer, lost, not_paused};
use crate::claim::bound::Relation;
use crate::claim::report::{Wait, Wanted};
use crate::claim::score;
use crate::host::plan::live::is_recorded;

/// The host holds our claim, or may.
pub(super) fn plan_bound(
    obs: &MachineObservation<'_>,
    host: &BareMetalHost,
    relation: Relation,
) -> MachinePlan {
    let object = obs.object;
    let name = host.name_any();
    match relation {
        Relation::HeldByOldUid => return MachinePlan::step(MachineStep::RefreshUid),
        Relation::RecordOnly => {
            return lost(
                obs,
                "ClaimEdited",
                format!(
                    "the record of host {name} holds this machine's claim but its spec.consumerRef does not name \
                     this machine; restore the consumerRef, or delete the Machine"
                ),
            );
        }
        Relation::ConsumerOnly => {
            return lost(
                obs,
                "NoUsableRecord",
                format!(
                    "host {name} names this machine as its consumer but its record holds no claim, so it is left \
                     alone; annotate the host with {}=adopt or {}=release",
                    names::DECIDE_ANNOTATION,
                    names::DECIDE_ANNOTATION
                ),
            );
        }
        Relation::Held | Relation::Unclaimed | Relation::Others => {}
    }
    if !has_finalizer(object) {
        return MachinePlan::step(MachineStep::AddFinalizer);
    }
    let bound = Wanted::yes(types::HOST_BOUND, "Bound", format!("host {name}"));
    let failure_domain = score::failure_domain(host).map(str::to_owned);
    let not_deployed = |reason: &'static str, message: String, wait: Wait| MachinePlan {
        failure_domain: failure_domain.clone(),
        ..MachinePlan::report(
            vec![
                bound.clone(),
                bootstrap_ready(obs),
                Wanted::no(types::DEPLOYED, reason, message.clone()),
                Wanted::no(types::READY, reason, message),
                not_paused(),
            ],
            Some(wait),
        )
    };
    let record = host.spec.record.clone().unwrap_or_default();
    if !booted(&record) {
        let (message, wait) = deploying(host, &name);
        return not_deployed("Deploying", message, wait);
    }
    let stored = record.claim.as_ref().and_then(|c| c.provider_id.clone());
    match (&object.spec.provider_id, stored) {
        (None, Some(stored)) => return MachinePlan::step(MachineStep::SetProviderId(stored)),
        (None, None) => {
            let message = format!("the record of host {name} holds no provider ID for this claim");
            return not_deployed(
                "ProviderIDMissing",
                message.clone(),
                Wait::new("ProviderIDMissing", message),
            );
        }
        (Some(ours), Some(stored)) if *ours != stored => {
            let message =
                format!("spec.providerID is {ours}, but the claim on host {name} was made with {stored}");
            return not_deployed(
                "ProviderIDMismatch",
                message.clone(),
                Wait::new("ProviderIDMismatch", message),
            );
        }
        (Some(_), _) => {}
    }
    MachinePlan {
        provisioned: true,
        addresses: Some(addresses(obs, &name)),
        failure_domain,
        ..MachinePlan::report(
            vec![
                bound,
                bootstrap_ready(obs),
                Wanted::yes(
                    types::DEPLOYED,
                    "Deployed",
                    "the image is on the disk and the host was started from it",
                ),
                Wanted::yes(types::READY, "Ready", ""),
                not_paused(),
            ],
            None,
        )
    }
}

/// The host was started from the image of this claim, which is on the disk, verified, unless it runs from its ISO. The
/// claim's own write clears what earlier claims left in the record.
fn booted(record: &HostRecord) -> bool {
    record
        .image
        .as_ref()
        .is_some_and(|i| i.booted_at.is_some() && (i.write_finished_at.is_some() || is_recorded(i)))
}

/// What the host says that it waits for, or what is wrong with it.
pub(super) fn sentence_of(host: &BareMetalHost) -> Option<String> {
    let status = host.status.as_ref()?;
    let waiting = status.waiting_for.as_ref().map(|w| w.message.clone());
    waiting.or_else(|| status.error_message.clone()).filter(|s| !s.is_empty())
}

fn deploying(host: &BareMetalHost, name: &str) -> (String, Wait) {
    let message = match sentence_of(host) {
        Some(sentence) => format!("host {name}: {sentence}"),
        None => format!("waits for host {name} to be deployed"),
    };
    let theirs = host.status.as_ref().and_then(|s| s.waiting_for.as_ref());
    let wait = Wait {
        reason: theirs.map_or_else(|| "Deploying".to_owned(), |w| w.reason.clone()),
        message: message.clone(),
        since: theirs.map(|w| w.since.clone()),
        deadline: theirs.and_then(|w| w.deadline.clone()),
    };
    (message, wait)
}

fn addresses(obs: &MachineObservation<'_>, host: &str) -> Vec<MachineAddress> {
    let address =
        |kind: &str, address: &str| MachineAddress { kind: kind.to_owned(), address: address.to_owned() };
    let mut addresses = vec![address("Hostname", host)];
    match obs.internal_ips {
        Some(ips) => addresses.extend(ips.iter().map(|ip| address("InternalIP", ip))),
        None => {
            let known = obs.object.status.iter().flat_map(|s| &s.addresses);
            addresses.extend(known.filter(|a| a.kind == "InternalIP").cloned());
        }
    }
    addresses
}
