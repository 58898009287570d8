//! Getting our agent to run on a host, and what it says once it does.

use ferric_api::ProvisioningState as State;
use ferric_bmc::{PowerAction, PowerState};

use super::{SHORT, act, after, fresh_power, record, until, wait, wake};
use crate::deploy::hub::{AgentView, TaskOutcome, TaskState};
use crate::host::consumer::cleaning_mode;
use crate::host::memory::BootSet;
use crate::host::record::WrittenDisk;
use crate::host::{Action, Job, Observation, Plan, RecordWrite, Wait};

/// The connected agent if it is the one that the record allows to act; otherwise the plan that gets it there.
pub(super) fn agent<'a>(o: &'a Observation<'_>, state: State) -> Result<&'a AgentView, Box<Plan>> {
    let current = record(o).and_then(|r| r.agent.as_ref()).filter(|agent| !agent.ended);
    let Some(current) = current else {
        return Err(Box::new(begin(o, state)));
    };
    if let Some(view) = current_agent(o) {
        return Ok(view);
    }
    let number = current.boot_number;
    if current.key_fingerprint.is_some() {
        let seen = o.bmc.agent.filter(|seen| seen.boot == number);
        let deadline = after(seen.map_or(o.now, |seen| seen.at), o.limits.agent_away);
        if o.now >= deadline {
            let message = format!("the agent of boot {number} did not come back; the server is booted anew");
            return Err(Box::new(act(state, Action::BootFailed { message })));
        }
        // Not "again" before this process has seen it: it has registered only, or this process is new.
        let again = if seen.is_some_and(|seen| seen.connected) { " again" } else { "" };
        let waiting = Wait::new(
            "AgentAway",
            format!("the agent of boot {number} to connect{again}"),
            until(o.now, deadline).min(SHORT),
        );
        return Err(Box::new(wait(state, waiting.until(deadline))));
    }
    // What firmware fetches holds it: after a restart of this process it has to be read again.
    if let Some(secret) = network_secret(o)
        && o.bmc.network.as_ref().is_none_or(|network| network.value.secret != secret)
    {
        return Err(Box::new(read_network(state)));
    }
    if wake::is_blind(o) {
        return Err(Box::new(wake::call_agent(o, state, number)));
    }
    Err(Box::new(match fresh_power(o) {
        None => read_power(state),
        Some(PowerState::Off) if o.bmc.boot != Some(BootSet::Agent(number)) => {
            act(state, Action::Job { job: Job::BootAgent(number), guarded: false })
        }
        Some(PowerState::Off) => act(state, Action::Job { job: Job::Power(PowerAction::On), guarded: false }),
        // It was off when this boot began, so it is on because of it.
        Some(_) => {
            let since = o.bmc.boot_since.unwrap_or(o.bmc.since);
            let deadline = after(since, o.limits.agent_boot);
            if o.now >= deadline {
                let message = format!(
                    "no agent registered within {} s of boot {number}: is the boot URL reachable from the server?",
                    o.limits.agent_boot.as_secs()
                );
                act(state, Action::BootFailed { message })
            } else {
                let message = format!("the agent to register (boot {number})");
                wait(
                    state,
                    Wait::new("AgentBoot", message, until(o.now, deadline).min(o.limits.power_fresh))
                        .until(deadline),
                )
            }
        }
    }))
}

/// The connected agent, if it holds the key of the current boot and that boot is not over.
pub(super) fn current_agent<'a>(o: &'a Observation<'_>) -> Option<&'a AgentView> {
    let agent = record(o)?.agent.as_ref().filter(|agent| !agent.ended)?;
    o.agent.filter(|view| {
        view.boot_number == agent.boot_number
            && agent.key_fingerprint.as_deref() == Some(view.fingerprint.as_str())
    })
}

/// Name of the Secret with the network of the host's agent, if there is one.
fn network_secret<'a>(o: &'a Observation<'_>) -> Option<&'a str> {
    o.host.spec.preprovisioning_network_data_name.as_deref().filter(|name| !name.is_empty())
}

fn read_network(state: State) -> Plan {
    act(state, Action::Job { job: Job::ReadNetwork, guarded: false })
}

/// A new agent boot starts from power off: what ran before is certainly dead then. (Not where nobody can tell: there it is
/// dead when the agent has registered.) Before anything else the agent's
/// network is read, anew for each boot: a change of its Secret counts, and with one that is of no use nothing is booted.
fn begin(o: &Observation<'_>, state: State) -> Plan {
    if let Some(secret) = network_secret(o) {
        let fresh = o.bmc.network.as_ref().is_some_and(|network| {
            network.value.secret == secret && after(network.at, o.limits.power_fresh) > o.now
        });
        if !fresh {
            return read_network(state);
        }
    }
    let number = record(o).and_then(|r| r.agent.as_ref()).map_or(0, |a| a.boot_number) + 1;
    let begin = act(state, Action::Write { write: RecordWrite::BeginBoot { number }, guarded: true });
    if wake::is_blind(o) {
        return begin;
    }
    match fresh_power(o) {
        None => read_power(state),
        Some(PowerState::Off) => begin,
        Some(_) => act(state, Action::Job { job: Job::Power(PowerAction::ForceOff), guarded: true }),
    }
}

pub(super) fn read_power(state: State) -> Plan {
    act(state, Action::Job { job: Job::ReadPower, guarded: false })
}

/// What a task that was running when the host was paused came to.
pub(super) fn finished_while_paused(o: &Observation<'_>) -> Option<RecordWrite> {
    let view = current_agent(o)?;
    let record = record(o)?;
    if let Some(disk) = super::standby::result(o, view) {
        return Some(RecordWrite::FinishStage { disk, keep_agent: false });
    }
    // Of several results the last in the order of IDs is not the last in time: only one that is about what the record
    // is about counts.
    let about = |id: &str, what: &str| {
        let mark = super::life::task_id(o, what, view.boot_number);
        let mark = mark.rsplit_once('-').map_or(mark.as_str(), |(mark, _)| mark);
        id.strip_prefix(mark).is_some_and(|rest| rest.starts_with('-'))
    };
    view.tasks.iter().find_map(|(id, task)| match task {
        TaskState::Succeeded(TaskOutcome::Deploy(result)) if about(id, "deploy") => record
            .image
            .as_ref()
            .is_some_and(|image| image.write_finished_at.is_none())
            .then(|| RecordWrite::FinishWrite { written: WrittenDisk::from(&**result) }),
        TaskState::Succeeded(TaskOutcome::Clean(_)) if about(id, "clean") => record
            .cleaned
            .is_none()
            .then(|| RecordWrite::Cleaned { mode: cleaning_mode(o.host), keep_agent: false }),
        _ => None,
    })
}
