//! Free hosts that wait for their consumer in our agent: a claim goes to the write at once, without a start through firmware.
//! They are booted as for any other work; what is special is only that nothing follows, and how it ends.

use ferric_api::ProvisioningState as State;
use ferric_api::host::HostStandby;
use ferric_api::names::BLOCK_MOVE_ANNOTATION;

use super::{Plan, act, boot, life, record, wake};
use crate::host::{Action, Observation, RecordWrite};

/// Whether the host is to stand by in our agent when it is free. Not one that is on its way out, nor one that nothing may use.
pub(super) fn is_wanted(o: &Observation<'_>) -> bool {
    o.host.spec.standby == Some(HostStandby::Running)
        && o.host.metadata.deletion_timestamp.is_none()
        && record(o).is_none_or(|record| record.quarantined.is_none())
        && !wake::is_blind(o)
}

/// The host is to stand by in our agent. It may be claimed all the while: whoever claims it goes on where this has come to.
pub(super) fn running(o: &Observation<'_>) -> Plan {
    let state = State::Available;
    if let Err(plan) = boot::agent(o, state) {
        return *plan;
    }
    // Nothing is under way any more that a pause could not stop: a move need not wait until somebody uses the host.
    let annotations = o.host.metadata.annotations.as_ref();
    let blocks = annotations.is_some_and(|all| all.contains_key(BLOCK_MOVE_ANNOTATION));
    if blocks || o.bmc.failure.as_ref().is_some_and(|failure| !failure.from_bmc) {
        return act(state, Action::Write { write: RecordWrite::StandBy, guarded: false });
    }
    life::poll_power(o, state, |_| None)
}

/// The host is no longer to stand by in our agent. `None`: it does not. That it ends is written down before the power goes:
/// it is counted once, however often this process dies.
pub(super) fn end(o: &Observation<'_>) -> Option<Plan> {
    record(o)?.agent.as_ref().filter(|agent| !agent.ended)?;
    Some(act(State::Available, Action::Write { write: RecordWrite::StandDown, guarded: true }))
}
