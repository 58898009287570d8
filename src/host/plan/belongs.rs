//! Whether the machine whose agent is connected is the one behind the configured BMC, before anything on it is destroyed.

use std::time::Duration;

use ferric_api::names::ACCEPT_BMC_ANNOTATION;
use ferric_api::{BmcAddress, ProvisioningState as State};

use super::{LONG, act, after, annotation, until, wait};
use crate::deploy::hub::AgentView;
use crate::host::bmc_match::{InBand, Mismatch, OutOfBand, Verdict, compare, is_accepted};
use crate::host::{Action, Job, Observation, Plan, Wait, in_band};

/// How long an agent that registered with an earlier process of the provider may take to say again what it sees. It is the
/// first thing in a session; agents of an earlier version do not say it at all.
const INVENTORY: Duration = Duration::from_secs(10);

/// What has to be waited for or asked before this agent may be given something to destroy; `None`: nothing.
pub(super) fn check(o: &Observation<'_>, view: &AgentView, state: State) -> Option<Plan> {
    let Some(inventory) = &view.inventory else {
        let deadline = after(view.connected_since, INVENTORY);
        return (o.now < deadline).then(|| {
            let message = "the agent to say what it sees";
            wait(state, Wait::new("AgentTask", message, until(o.now, deadline)).until(deadline))
        });
    };
    let bmc = in_band::bmc(inventory.bmc.as_ref()?);
    if bmc.lan.is_empty() && bmc.system_guid.is_empty() {
        return None;
    }
    let facts = &o.bmc.facts.as_ref()?.value;
    // Asked once for each session of an agent: either side may have changed since.
    let Some(manager) = o.bmc.manager.as_ref().filter(|manager| manager.at >= view.connected_since) else {
        return Some(act(state, Action::Job { job: Job::ReadManager, guarded: false }));
    };
    let configured = o.host.spec.bmc.as_ref().map(|bmc| bmc.address.as_str()).unwrap_or_default();
    let address = configured.parse::<BmcAddress>().ok();
    let out = OutOfBand { address: address.as_ref(), facts, manager: &manager.value };
    let (system_uuid, serial_number) = (&*inventory.system_uuid, &*inventory.serial_number);
    match compare(out, InBand { system_uuid, serial_number, bmc: &bmc }) {
        Verdict::Mismatch(found) if !is_accepted(annotation(o, ACCEPT_BMC_ANNOTATION), &found.mark) => {
            Some(refuse(configured, &found, state))
        }
        Verdict::Match(_) | Verdict::Unknown(_) | Verdict::Mismatch(_) => None,
    }
}

fn refuse(configured: &str, found: &Mismatch, state: State) -> Plan {
    let Mismatch { out_of_band, in_band, mark } = found;
    let message = format!(
        "an operator's decision: the BMC at spec.bmc.address {configured} says {out_of_band}, and the BMC that the \
         registered machine has says {in_band}; nothing is wiped or written. Mend spec.bmc.address or \
         spec.bootMACAddress, or, if they belong together, annotate this host with {ACCEPT_BMC_ANNOTATION}={mark}"
    );
    let mut plan = wait(state, Wait::new("BMCMismatch", message.clone(), LONG));
    plan.registered = Some((false, "BMCMismatch", message));
    plan
}
