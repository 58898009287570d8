//! Free hosts that wait for their consumer: in our agent, so that a claim goes to the write at once, without a start through
//! firmware; or off, with the image on their disk, so that it need not be written. They are booted as for any other work;
//! what is special is only that nothing follows, and how it ends.
//!
//! An image that is staged is somebody's only when it is claimed: it is written without anybody's data. What the record says
//! of it is removed before anything else is done to the disk, and what is on the disk is believed by nobody who has not
//! read it.

use ferric_api::ProvisioningState as State;
use ferric_api::host::{CleaningMode, HostStandby, StagedRecord};
use ferric_api::names::BLOCK_MOVE_ANNOTATION;
use ferric_bmc::{PowerAction, PowerState};

use super::{
    Plan, SHORT, act, after, belongs, boot, fresh_power, life, live, record, seed, until, wait, wake,
};
use crate::deploy::hub::{AgentView, TaskOutcome, TaskState};
use crate::deploy::images::{ImageState, ReadyImage};
use crate::host::consumer::{Desired, cleaning_mode, is_staged_as, staged_desire};
use crate::host::record::{StagedDisk, finished, format_of};
use crate::host::{Action, AgentTask, Job, Observation, RecordWrite, Step, Wait};

/// How the host is to stand by when it is free. Not one that is on its way out, nor one that nothing may use.
fn wanted(o: &Observation<'_>) -> Option<HostStandby> {
    o.host.spec.standby.filter(|_| {
        o.host.metadata.deletion_timestamp.is_none()
            && record(o).is_none_or(|record| record.quarantined.is_none())
            && !wake::is_blind(o)
    })
}

/// Whether the host is to stand by in our agent when it is free.
pub(super) fn is_running(o: &Observation<'_>) -> bool {
    wanted(o) == Some(HostStandby::Running)
}

/// Whether the host is to stand by with an image on its disk when it is free.
pub(super) fn is_staged(o: &Observation<'_>) -> bool {
    wanted(o) == Some(HostStandby::Staged)
}

/// Whether our agent may run on the free host for the sake of how that is to stand by.
pub(super) fn is_wanted(o: &Observation<'_>) -> bool {
    is_running(o) || is_staged(o)
}

/// Whether the agent that cleaned the host goes on to that.
pub(super) fn keeps_agent(o: &Observation<'_>) -> bool {
    is_running(o)
        || is_staged(o) && staged_desire(o.host).is_some() && matches!(o.image, Some(ImageState::Ready(_)))
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

/// The host is to be off with an image on its disk. It may be claimed all the while.
pub(super) fn staged(o: &Observation<'_>) -> Plan {
    let Some(desired) = staged_desire(o.host) else {
        let message =
            "spec.stagedImage to name an image that is written to a disk, on a host that is cleaned and ours";
        return off(o, Some(message.to_owned()));
    };
    let staged = record(o).and_then(|r| r.staged.as_ref());
    if record(o).and_then(finished).is_some_and(|staged| is_staged_as(staged, &desired)) {
        return off(o, None);
    }
    if let Some(plan) = later(o, staged, &desired) {
        return plan;
    }
    let ready = match &o.image {
        Some(ImageState::Ready(ready)) => ready,
        // No server is on for the sake of a download.
        Some(ImageState::Failed { message, .. }) => {
            return off(o, Some(format!("the image that is to be staged to be repaired: {message}")));
        }
        _ => {
            let message = format!("the image {} to be fetched, to be staged", desired.image.url);
            return go_on(o, staged, &desired, &message).unwrap_or_else(|| off(o, Some(message)));
        }
    };
    // On another disk, perhaps: it is not to be left there.
    if staged.is_some_and(|staged| staged.root_device_hints != desired.hints) {
        return act(State::Available, Action::Write { write: RecordWrite::Unstage, guarded: false });
    }
    write(o, staged, &desired, ready).unwrap_or_else(|plan| *plan)
}

/// The image could not be staged: until it is tried again the server is off, and the host anybody's who wants another one.
/// `None`: it did not fail, or what is to be staged is another image by now.
fn later(o: &Observation<'_>, staged: Option<&StagedRecord>, desired: &Desired) -> Option<Plan> {
    let failure = o.bmc.failure.as_ref().filter(|failure| failure.staging)?;
    let retry_at = failure.retry_at(&o.limits, &seed(o));
    let same = staged.is_some_and(|staged| {
        let other = matches!(&o.image, Some(ImageState::Ready(ready)) if ready.digest != staged.digest);
        is_staged_as(staged, desired) && !other
    });
    (same && o.now < retry_at).then(|| {
        let mut plan = off(o, Some(format!("the next try: {}", failure.message)));
        if let Step::Wait(wait) = &mut plan.step {
            let wake = wait.wake.min(until(o.now, retry_at));
            *wait = Wait::new(wait.reason, std::mem::take(&mut wait.message), wake).until(retry_at);
        }
        plan
    })
}

/// A manager that has just started looks through its cache before it says that the image is there: no server is switched off
/// meanwhile that is on to be staged. `None`: it is not, or the image is to be fetched.
fn go_on(
    o: &Observation<'_>,
    staged: Option<&StagedRecord>,
    desired: &Desired,
    message: &str,
) -> Option<Plan> {
    let state = State::Available;
    let agent = record(o)?.agent.as_ref().filter(|agent| !agent.ended)?;
    let begun = staged.is_some_and(|staged| staged.finished_at.is_none() && is_staged_as(staged, desired));
    if agent.key_fingerprint.is_some() && !begun {
        return None;
    }
    if let Some(task) = boot::current_agent(o).and_then(under_way) {
        return Some(life::task(state, "staging the image", task));
    }
    if o.now >= after(o.bmc.since, o.limits.agent_boot) {
        return None;
    }
    let image = || wait(state, Wait::new("StagedImage", message.to_owned(), SHORT));
    Some(match boot::agent(o, state) {
        Ok(_) => image(),
        // It is not switched on for it either.
        Err(plan) => match plan.step {
            Step::Act(Action::Job { job: Job::BootAgent(_) | Job::Power(_), .. }) => image(),
            _ => *plan,
        },
    })
}

/// What was staged is noted, whatever is wanted by now: from then on it is known which disk it is on. `None`: there is nothing
/// to note.
pub(super) fn note(o: &Observation<'_>) -> Option<Plan> {
    let disk = result(o, boot::current_agent(o)?)?;
    let staged = record(o)?.staged.as_ref()?;
    let another =
        is_staged(o) && staged_desire(o.host).is_some_and(|desired| !is_staged_as(staged, &desired));
    let write = RecordWrite::FinishStage { disk, keep_agent: is_running(o) || another };
    Some(act(State::Available, Action::Write { write, guarded: false }))
}

/// Writes the image that is to be staged.
fn write(
    o: &Observation<'_>,
    staged: Option<&StagedRecord>,
    desired: &Desired,
    ready: &ReadyImage,
) -> Result<Plan, Box<Plan>> {
    let state = State::Available;
    let view = boot::agent(o, state)?;
    let begun = staged.filter(|staged| {
        staged.finished_at.is_none()
            && staged.url == desired.image.url
            && staged.digest == ready.digest
            && staged.format == format_of(ready.compression)
    });
    let Some(begun) = begun else {
        // One thing after the other: what an agent has come to is known before the record speaks of something else.
        if let Some(task) = under_way(view) {
            return Ok(life::task(state, "staging another image", task));
        }
        if let Some(plan) = belongs::check(o, view, state) {
            return Ok(plan);
        }
        let staged = StagedRecord {
            url: desired.image.url.clone(),
            digest: ready.digest.clone(),
            format: format_of(ready.compression).to_owned(),
            root_device_hints: desired.hints.clone(),
            ..StagedRecord::default()
        };
        let write = RecordWrite::BeginStage { staged: Box::new(staged) };
        return Ok(act(state, Action::Write { write, guarded: true }));
    };
    let id = format!("{}{}", task_mark(begun, view.boot_number), o.bmc.attempt);
    Ok(match view.tasks.get(&id) {
        None => belongs::check(o, view, state)
            .unwrap_or_else(|| act(state, Action::Task(AgentTask::Stage { id }))),
        Some(other) => staging(life::task(state, "staging the image", other)),
    })
}

/// A plan that is about a staging says so where that has failed.
fn staging(mut plan: Plan) -> Plan {
    if let Step::Act(Action::TaskFailed { staging, .. }) = &mut plan.step {
        *staging = true;
    }
    plan
}

/// The ID of the task that writes what the record says is being staged, without the number of the try.
fn task_mark(staged: &StagedRecord, boot_number: i64) -> String {
    let started = staged.started_at.as_ref().map_or(0, |at| at.0.as_second());
    let digest: String = staged.digest.rsplit(':').next().unwrap_or_default().chars().take(12).collect();
    format!("stage-{boot_number}-{digest}-{started}-")
}

/// The image that this agent is staging, whatever the record says.
fn under_way(view: &AgentView) -> Option<&TaskState> {
    let mark = format!("stage-{}-", view.boot_number);
    view.tasks.iter().find(|(id, task)| id.starts_with(&mark) && !task.is_finished()).map(|(_, task)| task)
}

/// What this agent has staged and the record does not say yet, whichever try it was.
pub(super) fn result(o: &Observation<'_>, view: &AgentView) -> Option<StagedDisk> {
    let staged = record(o)?.staged.as_ref().filter(|staged| staged.finished_at.is_none())?;
    let mark = task_mark(staged, view.boot_number);
    let tries = view.tasks.iter().filter(|(id, _)| id.starts_with(&mark));
    tries.map(|(_, task)| task).find_map(|task| match task {
        TaskState::Succeeded(TaskOutcome::Stage(result)) => Some(StagedDisk::from(&**result)),
        _ => None,
    })
}

/// The host was claimed while an image was being staged on it: that is waited for, for an agent does one thing after the
/// other, and then what came of it is recorded, so that the deploy can make use of it, or knows what to wipe. `None`: nothing
/// is under way.
pub(super) fn come_to_an_end(o: &Observation<'_>, view: &AgentView) -> Option<Plan> {
    let state = State::Provisioning;
    if let Some(task) = under_way(view) {
        return Some(life::task(state, "staging the image", task));
    }
    let write = RecordWrite::FinishStage { disk: result(o, view)?, keep_agent: true };
    Some(act(state, Action::Write { write, guarded: false }))
}

/// What is to run now is not written to the disk on which there is an image, or a part of one, from which the server could
/// start: that is wiped first. The disk of one that was finished the deploy wipes itself. `None`: there is none.
pub(super) fn clear(o: &Observation<'_>) -> Option<Plan> {
    let staged = record(o)?.staged.as_ref()?;
    let desired = o.consumer.desired()?;
    let elsewhere = staged.content_hash.is_none() && staged.root_device_hints != desired.hints;
    if (live::mark(&desired.image).is_none() && !elsewhere) || cleaning_mode(o.host) == CleaningMode::Disabled
    {
        return None;
    }
    let ended = boot::current_agent(o).and_then(|view| come_to_an_end(o, view));
    let unstage = || act(State::Provisioning, Action::Write { write: RecordWrite::Unstage, guarded: false });
    Some(ended.unwrap_or_else(unstage))
}

/// Others look after the disks from now on: our agent writes to none any more. `None`: they know.
pub(super) fn hand_over(o: &Observation<'_>) -> Option<Plan> {
    record(o)?.staged.as_ref()?;
    let state = State::ExternallyProvisioned;
    if boot::current_agent(o).is_some() {
        match fresh_power(o) {
            None => return Some(boot::read_power(state)),
            Some(PowerState::Off) => {}
            Some(_) => {
                return Some(act(
                    state,
                    Action::Job { job: Job::Power(PowerAction::ForceOff), guarded: true },
                ));
            }
        }
    }
    Some(act(state, Action::Write { write: RecordWrite::DropStaged, guarded: false }))
}

/// The host is kept off. `waits`: for what, where it is not as it is to be.
fn off(o: &Observation<'_>, waits: Option<String>) -> Plan {
    let plan = end(o).unwrap_or_else(|| life::keep_off(o));
    match (&plan.step, waits) {
        (Step::Rest(rest), Some(message)) => wait(State::Available, Wait::new("StagedImage", message, *rest)),
        _ => plan,
    }
}
