//! Servers without a BMC. A magic packet wakes them, and that is all that is done to them from outside: their power is not
//! read, and what runs on them is ended by itself alone. So nothing is concluded from a power state: what ran before is dead
//! when our agent has registered with the token of a boot that was begun since, and the agent restarts the server or
//! switches it off when it has done its work.

use std::time::Duration;

use ferric_api::ProvisioningState as State;
use ferric_bmc::PowerAction;

use super::{SHORT, act, after, fresh_power, life, poll_due, record, release, state_of, until, wait};
use crate::deploy::hub::{AgentView, TaskState};
use crate::host::memory::BootSet;
use crate::host::{Action, AgentTask, Consumer, Job, Observation, Plan, RecordWrite, Wait};

/// Whether the server has no BMC.
pub(super) fn is_blind(o: &Observation<'_>) -> bool {
    o.host.spec.wakes_only()
}

/// What an agent is told that has nothing more to do.
#[derive(Clone, Copy)]
enum Last {
    Restart,
    PowerOff,
}

/// The end of an agent's boot: it is told, and waited for until it is gone. One that is lost before it is told finds its
/// boot to be over when it comes back, and switches its machine off.
fn dismiss(state: State, view: &AgentView, last: Last) -> Plan {
    let number = view.boot_number;
    let (id, task, what) = match last {
        Last::Restart => {
            let id = format!("restart-{number}");
            (id.clone(), AgentTask::Restart { id }, "restart the server")
        }
        Last::PowerOff => {
            let id = format!("off-{number}");
            (id.clone(), AgentTask::PowerOff { id }, "switch the server off")
        }
    };
    // Of two last words the first counts: it goes, and the other would come to nobody.
    let told = [format!("restart-{number}"), format!("off-{number}")];
    match told.iter().find_map(|id| view.tasks.get(id)) {
        None => act(state, Action::Task(task)),
        Some(TaskState::Failed { message, .. }) => {
            let message = format!("somebody to {what} by hand: the agent refused task {id}: {message}");
            wait(state, Wait::new("ByHand", message, super::LONG))
        }
        Some(_) => {
            wait(state, Wait::new("AgentTask", format!("the agent of boot {number} to {what}"), SHORT))
        }
    }
}

/// The server is in our agent, and is to start from the disk that was written.
pub(super) fn restart_into_disk(view: &AgentView) -> Plan {
    dismiss(State::Provisioned, view, Last::Restart)
}

/// A boot has begun, and its agent has not registered: the server is woken again and again. Whoever restarts it, or presses
/// its button, brings the agent, for its card is offered the boot from now on.
pub(super) fn call_agent(o: &Observation<'_>, state: State, number: i64) -> Plan {
    if o.bmc.boot != Some(BootSet::Agent(number)) {
        return act(state, Action::Job { job: Job::BootAgent(number), guarded: false });
    }
    // One of an earlier boot is the way to the next. (One of this boot has registered a moment ago.)
    if let Some(view) = o.agent.filter(|view| view.boot_number < number) {
        return dismiss(state, view, Last::Restart);
    }
    let first_packet = o.bmc.boot_since;
    let deadline = after(first_packet.unwrap_or(o.now), o.limits.agent_boot);
    if first_packet.is_some() && o.now >= deadline {
        let message = format!(
            "no agent registered within {} s of the first magic packet of boot {number}: press the power button of the \
             server, or restart it if it is on. Its firmware must have Wake-on-LAN enabled and the network first in its \
             boot order",
            o.limits.agent_boot.as_secs()
        );
        return act(state, Action::NotWoken { message });
    }
    if fresh_power(o).is_none() {
        return act(state, Action::Job { job: Job::Power(PowerAction::On), guarded: false });
    }
    let again = o.bmc.power.as_ref().map_or(o.now, |sent| after(sent.at, o.limits.power_fresh));
    let wake = until(o.now, again.min(deadline));
    let runs = record(o).and_then(|r| r.image.as_ref()).is_some_and(|image| image.booted_at.is_some());
    let waiting = if runs {
        let message = format!(
            "the server to be restarted or shut down by hand, and the agent to register (boot {number}): it has no BMC that \
             would stop the system that runs on it; when it is off, magic packets wake it"
        );
        Wait::new("ShutDownByHand", message, wake)
    } else {
        let message = format!(
            "the agent to register (boot {number}): magic packets wake the server if it is off; if it is on, restart it by \
             hand"
        );
        Wait::new("AgentBoot", message, wake)
    };
    wait(state, waiting.until(deadline))
}

/// The consumer lets the host go. Nothing but our agent shows that the old workload is dead, and only clean disks show
/// that a restart by hand does not bring it back: the claim ends when they are wiped.
pub(super) fn release(o: &Observation<'_>) -> Plan {
    let state = State::Deprovisioning;
    match record(o).and_then(|r| r.image.as_ref()) {
        Some(_) => life::clean(o, state),
        // Nothing was written under this claim, or it is wiped: there is an open boot at most.
        None => act(state, Action::Write { write: RecordWrite::EndBoot, guarded: true }),
    }
}

/// An operator said that what runs there may be stopped and wiped: the claim ends when our agent runs in its place.
pub(super) fn decided(o: &Observation<'_>) -> Plan {
    let state = state_of(o);
    match super::boot::agent(o, state) {
        Ok(_) => act(state, Action::Write { write: RecordWrite::Release, guarded: true }),
        Err(plan) => *plan,
    }
}

/// Cleaning is disabled: the image is forgotten once our agent runs in its place.
pub(super) fn forget(o: &Observation<'_>, state: State) -> Plan {
    match super::boot::agent(o, state) {
        Ok(_) => act(state, Action::Write { write: RecordWrite::Forget, guarded: false }),
        Err(plan) => *plan,
    }
}

/// The object of a host is deleted on whose disks nothing of ours is left: our agent, if it is there, switches the server
/// off first.
pub(super) fn delete(o: &Observation<'_>) -> Plan {
    match o.agent {
        Some(view) => dismiss(State::PoweringOffBeforeDelete, view, Last::PowerOff),
        None => release::remove_finalizer(),
    }
}

/// A free host is switched off by our agent, if that still runs on it.
pub(super) fn available(o: &Observation<'_>) -> Plan {
    let state = State::Available;
    if record(o).and_then(|r| r.agent.as_ref()).is_some_and(|agent| !agent.ended) {
        return act(state, Action::Write { write: RecordWrite::EndBoot, guarded: false });
    }
    match o.agent {
        Some(view) => dismiss(state, view, Last::PowerOff),
        None => life::rest_plan(state, o.limits.power_poll),
    }
}

/// A host in use is woken now and then, which does nothing to one that is on. It cannot be kept off.
pub(super) fn keep_on(o: &Observation<'_>, state: State) -> Plan {
    let online = o.host.spec.online || matches!(o.consumer, Consumer::Machine { .. });
    if !online {
        return life::rest_plan(state, o.limits.power_poll);
    }
    match poll_due(o).filter(|due| o.now < *due) {
        None => act(state, Action::Job { job: Job::Power(PowerAction::On), guarded: true }),
        Some(due) => life::rest_plan(state, until(o.now, due).max(Duration::from_secs(1))),
    }
}
