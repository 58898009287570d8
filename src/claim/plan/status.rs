//! From a plan to the status that is written.

use ferric_api::cluster::Initialization;
use ferric_api::machine::BareMetalMachineStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::MachinePlan;
use crate::claim::report::{self, reasons};

/// Puts the plan into a status. Equal to the old status if nothing but time passed.
pub fn apply(
    plan: &MachinePlan,
    before: Option<&BareMetalMachineStatus>,
    generation: Option<i64>,
    now: &Time,
) -> BareMetalMachineStatus {
    let mut status = before.cloned().unwrap_or_default();
    report::apply(&mut status.conditions, &plan.conditions, generation, now);
    if let Some(wait) = &plan.waiting {
        status.waiting_for = report::waiting(wait.as_ref(), status.waiting_for.as_ref(), now);
    }
    if plan.provisioned {
        status.initialization = Some(Initialization { provisioned: Some(true) });
    }
    if let Some(addresses) = &plan.addresses {
        status.addresses = addresses.clone();
    }
    if let Some(domain) = &plan.failure_domain {
        status.failure_domain = Some(domain.clone());
    }
    status
}

/// Whether two statuses differ in nothing but the host's own sentence about its progress. Such a change may wait a
/// few seconds for the next one: a deployment passes through a dozen sentences.
pub fn differs_in_sentence_only(a: &BareMetalMachineStatus, b: &BareMetalMachineStatus) -> bool {
    let gist = |status: &BareMetalMachineStatus| {
        let mut gist = status.clone();
        gist.waiting_for = None;
        for c in &mut gist.conditions {
            if c.reason == "Deploying" || c.reason == reasons::DELETING {
                c.message.clear();
            }
        }
        (gist, status.waiting_for.is_some())
    };
    gist(a) == gist(b)
}
