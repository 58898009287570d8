//! What a host's status says about how it stands by while it is free. Pure.

use ferric_api::host::{AgentRecord, HostStandby, StandbyFailures, StandbyStatus};
use ferric_api::{BareMetalHost, ProvisioningState as State};
use ferric_bmc::PowerState;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::consumer::{is_staged_as, staged_desire};
use super::job::Job;
use super::memory::Failure;
use super::record::finished;
use super::{Observation, Plan};
use crate::deploy::hub::AgentView;

/// Longest message that is kept of a failure, in characters.
const MESSAGE: usize = 512;

/// How the host stands by, after this look at it. `None`: there is nothing to tell.
pub fn told(o: &Observation<'_>, plan: &Plan, old: Option<&StandbyStatus>) -> Option<StandbyStatus> {
    let state = o.host.spec.standby.and_then(|_| state(o, plan));
    let before = old.filter(|old| old.state == state && state.is_some()).and_then(|old| old.since.clone());
    let since = state.map(|_| before.unwrap_or(Time(o.now)));
    let failures = failures(o, plan, old.and_then(|old| old.failures.as_ref()));
    let new = StandbyStatus { state, since, failures };
    (new != StandbyStatus::default()).then_some(new)
}

/// How ready the free host is, as far as it was read back.
fn state(o: &Observation<'_>, plan: &Plan) -> Option<HostStandby> {
    if plan.state != State::Available
        || o.bmc.running.as_ref().is_some_and(|job| job.value.changes_something())
    {
        return None;
    }
    let open = o.host.spec.record.as_ref()?.agent.as_ref().filter(|agent| !agent.ended);
    match (open, o.agent) {
        (Some(open), Some(view)) => {
            // Whoever claims one that is being staged waits for the end of that.
            let busy = o.host.spec.standby == Some(HostStandby::Staged)
                || view.tasks.values().any(|task| !task.is_finished());
            (is_ours(open, view) && !busy).then_some(HostStandby::Running)
        }
        (Some(_), None) => None,
        (None, _) if o.bmc.power_state() != Some(PowerState::Off) => None,
        (None, _) => Some(if is_staged(o.host) { HostStandby::Staged } else { HostStandby::Off }),
    }
}

/// Whether the connected agent is the one of the open boot.
fn is_ours(open: &AgentRecord, view: &AgentView) -> bool {
    view.boot_number == open.boot_number && open.key_fingerprint.as_deref() == Some(view.fingerprint.as_str())
}

/// Whether our agent came up on the free host.
fn is_up(o: &Observation<'_>, plan: &Plan) -> bool {
    let record = o.host.spec.record.as_ref();
    let open = record.and_then(|record| record.agent.as_ref()).filter(|agent| !agent.ended);
    plan.state == State::Available && open.zip(o.agent).is_some_and(|(open, view)| is_ours(open, view))
}

/// Whether the image that is to be on the host's disk was written there and read back.
fn is_staged(host: &BareMetalHost) -> bool {
    let staged = host.spec.record.as_ref().and_then(finished);
    staged.zip(staged_desire(host)).is_some_and(|(staged, desired)| is_staged_as(staged, &desired))
}

/// What has failed in a row. A failure is told apart from the last one by its time, so that it is counted once however often
/// it is looked at.
fn failures(o: &Observation<'_>, plan: &Plan, old: Option<&StandbyFailures>) -> Option<StandbyFailures> {
    let known = old.filter(|old| !is_over(o, plan, old));
    let Some(failure) = o.bmc.failure.as_ref().filter(|failure| counts(failure)) else {
        return known.cloned();
    };
    // A status keeps whole seconds.
    if known.is_some_and(|known| failure.at.as_second() <= known.last_time.0.as_second()) {
        return known.cloned();
    }
    Some(StandbyFailures {
        count: known.map_or(0, |known| known.count).saturating_add(1),
        last_time: Time(failure.at),
        reason: failure.reason.clone(),
        message: failure.message.chars().take(MESSAGE).collect(),
    })
}

/// Whether a failure says something about the host, rather than about the way to its BMC or about what was asked for.
fn counts(failure: &Failure) -> bool {
    match &failure.job {
        None => !failure.from_bmc && !failure.is_about_the_image(),
        Some(job) => failure.from_bmc && matches!(job, Job::Power(_) | Job::BootAgent(_)),
    }
}

/// Whether the host came to what it failed at. That our agent came up says nothing about a task that failed in an earlier one.
fn is_over(o: &Observation<'_>, plan: &Plan, old: &StandbyFailures) -> bool {
    let booting = old.reason == "AgentBootFailed" || old.reason.starts_with("BMC");
    plan.state == State::Provisioned || booting && is_up(o, plan)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::host::HostRecord;
    use ferric_protocol::v1::TaskErrorCode;
    use jiff::Timestamp;

    use super::*;
    use crate::deploy::hub::TaskState;
    use crate::host::memory::{BmcMemory, Seen};
    use crate::host::{Consumer, Limits, Step};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn host(standby: Option<HostStandby>, agent: Option<AgentRecord>) -> BareMetalHost {
        let mut host = BareMetalHost::new("h", Default::default());
        host.spec.standby = standby;
        host.spec.record = Some(HostRecord { agent, ..HostRecord::default() });
        host
    }

    fn boot(number: i64, key: Option<&str>, ended: bool) -> Option<AgentRecord> {
        Some(AgentRecord { boot_number: number, key_fingerprint: key.map(str::to_owned), ended })
    }

    fn view(number: i64) -> AgentView {
        AgentView {
            fingerprint: format!("key-{number}"),
            boot_number: number,
            connected_since: at(0),
            inventory: None,
            tasks: Default::default(),
        }
    }

    fn plan_in(state: State) -> Plan {
        let step = Step::Rest(std::time::Duration::from_secs(1));
        Plan { state, step, error: None, paused: None, registered: None }
    }

    fn tell(
        host: &BareMetalHost,
        memory: &BmcMemory,
        agent: Option<&AgentView>,
        (state, second): (State, i64),
        old: Option<&StandbyStatus>,
    ) -> Option<StandbyStatus> {
        let observation = Observation {
            host,
            consumer: Consumer::None { desired: None },
            duplicate_of: None,
            bmc: memory,
            agent,
            image: None,
            now: at(second),
            limits: Limits::default(),
        };
        told(&observation, &plan_in(state), old)
    }

    #[test]
    fn a_host_stands_by_as_it_was_read_back() {
        use HostStandby::{Off, Running};
        let off = Some(PowerState::Off);
        let on = Some(PowerState::On);
        let table = [
            // What it is to be, the agent boot of the record, the connected agent, the power, the state of the host.
            (Some(Off), boot(1, Some("key-1"), true), None, off, State::Available, Some(Off)),
            (Some(Off), None, None, on, State::Available, None),
            (Some(Off), None, None, None, State::Available, None),
            (Some(Running), boot(2, None, false), None, off, State::Available, None),
            (Some(Running), boot(2, Some("key-2"), false), Some(2), on, State::Available, Some(Running)),
            // Of an earlier boot; with another key; gone for a moment; in use.
            (Some(Running), boot(2, Some("key-2"), false), Some(1), on, State::Available, None),
            (Some(Running), boot(2, Some("other"), false), Some(2), on, State::Available, None),
            (Some(Running), boot(2, Some("key-2"), false), None, on, State::Available, None),
            (Some(Running), boot(2, Some("key-2"), false), Some(2), on, State::Provisioning, None),
            // Nobody asked for anything.
            (None, boot(1, Some("key-1"), true), None, off, State::Available, None),
        ];
        for (wanted, agent, connected, power, state, expected) in table {
            let mut memory = BmcMemory::new(at(0));
            memory.power = power.map(|value| Seen { value, at: at(0) });
            let view = connected.map(view);
            let said = tell(&host(wanted, agent.clone()), &memory, view.as_ref(), (state, 5), None);
            assert_eq!(
                said.and_then(|said| said.state),
                expected,
                "{wanted:?} {agent:?} {connected:?} {power:?}"
            );
        }
    }

    #[test]
    fn since_when_it_is_so_stays_until_it_changes() {
        let host = host(Some(HostStandby::Off), None);
        let mut memory = BmcMemory::new(at(0));
        memory.power = Some(Seen { value: PowerState::Off, at: at(0) });
        let first = tell(&host, &memory, None, (State::Available, 5), None);
        assert_eq!(first.clone().unwrap().since.unwrap().0, at(5));
        assert_eq!(tell(&host, &memory, None, (State::Available, 9), first.as_ref()), first);
        memory.power = Some(Seen { value: PowerState::On, at: at(10) });
        assert_eq!(tell(&host, &memory, None, (State::Available, 10), first.as_ref()), None);
        memory.power = Some(Seen { value: PowerState::Off, at: at(20) });
        let again = tell(&host, &memory, None, (State::Available, 20), None);
        assert_eq!(again.unwrap().since.unwrap().0, at(20));
    }

    #[test]
    fn failures_are_counted_once_and_until_the_host_comes_to_it() {
        let host = host(Some(HostStandby::Running), boot(2, Some("key-2"), false));
        let mut memory = BmcMemory::new(at(0));
        let fail = |memory: &mut BmcMemory, reason: &str, second: i64| {
            memory.fail(reason.to_owned(), "it failed".to_owned(), None, false, at(second));
        };
        let count = |status: &Option<StandbyStatus>| {
            status.as_ref().and_then(|status| status.failures.as_ref()).map_or(0, |failures| failures.count)
        };
        fail(&mut memory, "AgentBootFailed", 10);
        let mut status = tell(&host, &memory, None, (State::Available, 11), None);
        status = tell(&host, &memory, None, (State::Available, 12), status.as_ref());
        assert_eq!(count(&status), 1);
        fail(&mut memory, "AgentBootFailed", 2000);
        status = tell(&host, &memory, None, (State::Available, 2001), status.as_ref());
        assert_eq!(count(&status), 2);
        // It is no longer tried: what is known stays.
        memory.failure = None;
        status = tell(&host, &memory, None, (State::Available, 3000), status.as_ref());
        assert_eq!(count(&status), 2);
        let view = view(2);
        let up = tell(&host, &memory, Some(&view), (State::Available, 3001), status.as_ref());
        assert_eq!(count(&up), 0, "{up:?}");

        // A task that failed is not made good by a boot.
        fail(&mut memory, "DiskFailed", 4000);
        let failed = tell(&host, &memory, Some(&view), (State::Provisioning, 4000), up.as_ref());
        assert_eq!(count(&failed), 1);
        memory.failure = None;
        let free = tell(&host, &memory, Some(&view), (State::Available, 5000), failed.as_ref());
        assert_eq!(count(&free), 1);
        assert_eq!(count(&tell(&host, &memory, None, (State::Provisioned, 6000), free.as_ref())), 0);
    }

    #[test]
    fn an_agent_that_is_at_something_is_not_ready_for_a_claim() {
        use HostStandby::{Running, Staged};
        let memory = BmcMemory::new(at(0));
        let busy = |task: TaskState| {
            let tasks = [("stage-2-aa-1-0".to_owned(), task)].into();
            AgentView { tasks, ..view(2) }
        };
        let failed = TaskState::Failed { code: TaskErrorCode::NoDisk, message: String::new() };
        for (wanted, view, expected) in [
            (Staged, view(2), None),
            (Staged, busy(TaskState::Sent), None),
            (Running, busy(TaskState::Sent), None),
            (Running, busy(failed), Some(Running)),
            (Running, view(2), Some(Running)),
        ] {
            let host = host(Some(wanted), boot(2, Some("key-2"), false));
            let said = tell(&host, &memory, Some(&view), (State::Available, 5), None);
            assert_eq!(said.and_then(|said| said.state), expected, "{wanted:?} {view:?}");
        }
    }

    #[test]
    fn an_agent_that_comes_up_to_stage_makes_good_for_one_that_did_not() {
        let host = host(Some(HostStandby::Staged), boot(2, Some("key-2"), false));
        let mut memory = BmcMemory::new(at(0));
        memory.fail("AgentBootFailed".to_owned(), "no".to_owned(), None, false, at(1));
        let failed = tell(&host, &memory, None, (State::Available, 2), None);
        assert!(failed.as_ref().unwrap().failures.is_some());
        memory.failure = None;
        assert_eq!(tell(&host, &memory, None, (State::Available, 3), failed.as_ref()), failed);
        let up = tell(&host, &memory, Some(&view(2)), (State::Available, 4), failed.as_ref());
        assert_eq!(up, None);
    }

    #[test]
    fn a_bmc_that_does_not_answer_is_no_failure_of_the_host() {
        let host = host(Some(HostStandby::Running), None);
        let mut memory = BmcMemory::new(at(0));
        for (job, expected) in [
            (Job::ReadPower, None),
            (Job::Probe, None),
            (Job::ReadNetwork, None),
            (Job::Power(ferric_bmc::PowerAction::On), Some(1)),
        ] {
            let failed = crate::host::JobOutcome::Failed {
                reason: "BMCTimeout".to_owned(),
                message: String::new(),
                not_before: None,
            };
            memory.finish(&job, failed, at(10));
            let said = tell(&host, &memory, None, (State::Available, 11), None);
            let count = said.and_then(|said| said.failures).map(|failures| failures.count);
            assert_eq!(count, expected, "{job:?}");
        }
    }
}
