//! A machine that is being deleted: it goes when the host has let go of it, and waits for nothing else.

use ferric_api::condition::types;
use ferric_api::names;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::held::sentence_of;
use super::{
    HostView, MachineObservation, MachinePlan, MachineStep, bootstrap_ready, has_finalizer, not_paused,
};
use crate::claim::bound::{self, Relation};
use crate::claim::report::{Wait, Wanted, reasons};

pub(super) fn plan_deletion(obs: &MachineObservation<'_>) -> MachinePlan {
    let object = obs.object;
    if !has_finalizer(object) {
        return MachinePlan::step(MachineStep::Ignore);
    }
    let host = match obs.host {
        HostView::There(host) if bound::relation(object, host).ties() => host,
        _ => {
            if let Some(held_by) = obs.held_by {
                let message = format!("waits for host {} to let go of an earlier claim", held_by.name);
                return releasing(obs, &held_by.name, message, None);
            }
            // Without an intent nothing was ever claimed. With one, a cache may not know of the claim yet.
            let ever = object.spec.host_ref.is_some() || bound::left_host(object).is_some();
            return MachinePlan { guarded: ever, ..MachinePlan::step(MachineStep::RemoveFinalizer) };
        }
    };
    let name = host.name_any();
    let mut message = format!("waits for host {name} to stop the old workload and let go");
    if bound::relation(object, host) == Relation::ConsumerOnly {
        message = format!(
            "host {name} names this machine as its consumer but its record holds no claim, so it is left alone; \
             annotate the host with {}=release to power it off, clean it and let this machine go",
            names::DECIDE_ANNOTATION
        );
    } else if let Some(sentence) = sentence_of(host) {
        message = format!("{message}: {sentence}");
    }
    if host.status.as_ref().is_some_and(|s| s.error_type.is_some())
        && let Some(claim) = &object.spec.claim_id
    {
        message = format!(
            "{message}; if its BMC is dead for good, make sure that the server is off and annotate the host with {}={claim}",
            names::ABANDON_ANNOTATION
        );
    }
    let theirs = host.status.as_ref().and_then(|s| s.waiting_for.as_ref());
    releasing(obs, &name, message, theirs.and_then(|w| w.deadline.clone()))
}

/// The machine is being deleted and a host has not let go yet.
fn releasing(
    obs: &MachineObservation<'_>,
    host: &str,
    message: String,
    deadline: Option<Time>,
) -> MachinePlan {
    let wait =
        Wait { reason: "WaitingForRelease".to_owned(), message: message.clone(), since: None, deadline };
    MachinePlan::report(
        vec![
            Wanted::yes(types::HOST_BOUND, "Releasing", format!("host {host} is being released")),
            bootstrap_ready(obs),
            Wanted::no(types::DEPLOYED, reasons::DELETING, "the machine is being deleted"),
            Wanted::no(types::READY, reasons::DELETING, message),
            not_paused(),
        ],
        Some(wait),
    )
}
