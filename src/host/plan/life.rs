//! The good path: enrol, inspect, clean, provision, keep the power as asked.

use std::time::Duration;

use ferric_api::ProvisioningState as State;
use ferric_api::host::{CleaningMode, HostIdentity, Image, ImageRecord, InspectionMode};
use ferric_api::names;
use ferric_bmc::{PowerAction, PowerState};
use ferric_protocol::v1::{Nic, TaskErrorCode};

use super::boot::{agent, read_power};
use super::{
    LONG, SHORT, act, after, annotation, belongs, fresh_power, live, poll_due, record, standby, state_of,
    until, wait, wake,
};
use crate::deploy::hub::{AgentView, TaskOutcome, TaskState};
use crate::deploy::images::{ImageState, ReadyImage};
use crate::host::consumer::{Desired, cleaning_mode};
use crate::host::memory::BootSet;
use crate::host::record::WrittenDisk;
use crate::host::{Action, AgentTask, Consumer, Job, Observation, Plan, RecordWrite, Step, Wait};

/// The BMC answered for the first time.
pub(super) fn enrol(identity: HostIdentity) -> Plan {
    act(State::Registering, Action::Write { write: RecordWrite::Enrol { identity }, guarded: false })
}

/// Whether the hardware has to be looked at.
pub(super) fn wants_inspection(o: &Observation<'_>) -> bool {
    let Some(record) = record(o) else { return false };
    if o.host.spec.inspection_mode == Some(InspectionMode::Disabled) || record.image.is_some() {
        return false;
    }
    record.inspected_at.is_none()
        || (o.host.spec.consumer_ref.is_none()
            && (annotation(o, names::INSPECT_ANNOTATION).is_some()
                || annotation(o, names::METAL3_INSPECT_ANNOTATION).is_some()))
}

pub(super) fn inspect(o: &Observation<'_>) -> Plan {
    let action = match o.bmc.hardware {
        None => Action::Job { job: Job::Inspect, guarded: false },
        Some(_) => Action::SaveHardware,
    };
    act(State::Inspecting, action)
}

/// Whether the image on the disk, or on its way there, is the one that the host is to keep.
pub(super) fn keeps_image(o: &Observation<'_>, on_disk: &ImageRecord) -> bool {
    // Of what is not written, the mark says all that the digest of an image says.
    let unwritten = |image: &Image| {
        let mark = live::mark(image);
        let either = mark.is_some() || live::is_recorded(on_disk);
        either.then(|| mark.as_deref() == Some(&*on_disk.digest) && on_disk.url == image.url)
    };
    match &o.consumer {
        Consumer::None { desired: None } | Consumer::Releasing { .. } => false,
        Consumer::None { desired: Some(desired) } => unwritten(&desired.image).unwrap_or_else(|| {
            let checksum = desired.image.checksum.as_deref().unwrap_or_default();
            on_disk.url == desired.image.url
                && (!is_hex(checksum)
                    || on_disk.digest.to_ascii_lowercase().ends_with(&checksum.to_ascii_lowercase()))
        }),
        // A machine's spec may change after it was provisioned; its image stays. While it is being written it may not.
        Consumer::Machine { desired: Ok(desired), .. }
            if on_disk.write_finished_at.is_none() && on_disk.booted_at.is_none() =>
        {
            unwritten(&desired.image).unwrap_or_else(|| on_disk.url == desired.image.url)
        }
        _ => true,
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Wipes the disks, or, where cleaning is disabled, stops the server and forgets the image.
pub(super) fn clean(o: &Observation<'_>, state: State) -> Plan {
    if let Some(plan) = live::eject(o, state) {
        return plan;
    }
    let mode = cleaning_mode(o.host);
    if mode == CleaningMode::Disabled && wake::is_blind(o) {
        return wake::forget(o, state);
    }
    if mode == CleaningMode::Disabled {
        return match fresh_power(o) {
            None => read_power(state),
            Some(PowerState::Off) => act(state, Action::Write { write: RecordWrite::Forget, guarded: false }),
            Some(_) => act(state, Action::Job { job: Job::Power(PowerAction::ForceOff), guarded: true }),
        };
    }
    let view = match agent(o, state) {
        Ok(view) => view,
        Err(plan) => return *plan,
    };
    let id = task_id(o, "clean", view.boot_number);
    match view.tasks.get(&id) {
        None => belongs::check(o, view, state)
            .unwrap_or_else(|| act(state, Action::Task(AgentTask::Clean { id, mode }))),
        Some(TaskState::Succeeded(_)) => {
            let keep_agent = o.consumer.desired().is_some() || standby::keeps_agent(o);
            // Nobody waits for a host that is to be free: a switch that is not known says who it is twice a minute.
            if !keep_agent && let Some(plan) = listen(o, view, state) {
                return plan;
            }
            let write = RecordWrite::Cleaned { mode, keep_agent };
            act(state, Action::Write { write, guarded: false })
        }
        Some(other) => task(state, "cleaning", other),
    }
}

/// How long a free host's agent is kept for what switches say of themselves, from its connection on. They do so every 30 s
/// (IEEE 802.1AB, 9.2.5: msgTxInterval), and the agent gives up before this.
const NEIGHBOURS: Duration = Duration::from_secs(60);

/// The wait for an agent that still listens for its switches. It reported all else when it registered, and cleaned
/// meanwhile: all that is waited for are ports that have a link and whose switch neither it nor an earlier agent heard.
fn listen(o: &Observation<'_>, view: &AgentView, state: State) -> Option<Plan> {
    let inventory = view.inventory.as_ref().filter(|inventory| inventory.neighbours_pending)?;
    let deadline = after(view.connected_since, NEIGHBOURS);
    if o.now >= deadline || !inventory.nics.iter().any(is_unheard) {
        return None;
    }
    let Some(known) = o.bmc.ports.as_ref().filter(|ports| ports.boot_number == view.boot_number) else {
        return Some(act(state, Action::LearnPorts));
    };
    let unknown: Vec<&str> = inventory
        .nics
        .iter()
        .filter(|nic| is_unheard(nic) && !known.settles(&nic.mac))
        .map(|nic| nic.name.as_str())
        .collect();
    (!unknown.is_empty()).then(|| {
        let message = format!("the switches to say who they are (LLDP): {}", unknown.join(", "));
        wait(state, Wait::new("Neighbours", message, until(o.now, deadline)).until(deadline))
    })
}

/// Whether a switch may be there and has not said who it is: behind a port without a link nobody speaks.
fn is_unheard(nic: &Nic) -> bool {
    nic.link_up && nic.lldp.is_none()
}

/// The ID of a task names what it is about: an agent keeps its results, and one that was cleaned before and is to be
/// cleaned of another image must not answer with the old result.
pub(super) fn task_id(o: &Observation<'_>, what: &str, boot_number: i64) -> String {
    let image =
        record(o).and_then(|r| r.image.as_ref()).map(|image| (&image.digest, &image.write_started_at));
    let staged = || record(o)?.staged.as_ref().map(|staged| (&staged.digest, &staged.started_at));
    let about = image.or_else(staged).map_or_else(
        || "new".to_owned(),
        |(digest, started)| {
            let started = started.as_ref().map_or(0, |at| at.0.as_second());
            let digest = digest.rsplit(':').next().unwrap_or_default();
            format!("{}-{started}", digest.chars().take(12).collect::<String>())
        },
    );
    format!("{what}-{boot_number}-{about}-{}", o.bmc.attempt)
}

/// What a task that is not done yet, or has failed, makes of the plan.
pub(super) fn task(state: State, what: &str, task: &TaskState) -> Plan {
    match task {
        TaskState::Sent => wait(state, Wait::new("AgentTask", format!("the agent to begin {what}"), LONG)),
        TaskState::Running { phase, bytes_done, bytes_total, message } => {
            let percent = bytes_done.saturating_mul(100).checked_div(*bytes_total);
            let mut waiting = Wait::new(
                "AgentTask",
                match percent {
                    Some(_) if message.is_empty() => {
                        format!("the agent to finish {what} ({})", phase_text(*phase))
                    }
                    Some(_) => format!("the agent to finish {what} ({}: {message})", phase_text(*phase)),
                    None => format!("the agent to finish {what}{}", bracket(message)),
                },
                LONG,
            );
            waiting.progress = percent.and_then(|p| i32::try_from(p.min(100)).ok());
            wait(state, waiting)
        }
        TaskState::Failed { code, message } => act(
            state,
            Action::TaskFailed {
                reason: failure_reason(*code).to_owned(),
                message: format!("{what} failed: {message}"),
                staging: false,
            },
        ),
        TaskState::Succeeded(_) => {
            let message = format!("{what} ended with an answer that does not fit the task");
            act(state, Action::TaskFailed { reason: "UnexpectedResult".to_owned(), message, staging: false })
        }
    }
}

fn phase_text(phase: ferric_protocol::v1::Phase) -> String {
    phase.as_str_name().trim_start_matches("PHASE_").to_ascii_lowercase()
}

fn bracket(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

/// The reason in a condition for what an agent says went wrong.
fn failure_reason(code: TaskErrorCode) -> &'static str {
    match code {
        TaskErrorCode::NoDisk => "NoRootDisk",
        TaskErrorCode::ImageUnavailable => "ImageUnreachable",
        TaskErrorCode::ImageCorrupt => "ImageCorrupt",
        TaskErrorCode::ImageTooLarge => "ImageTooLarge",
        TaskErrorCode::ChecksumMismatch => "ChecksumMismatch",
        TaskErrorCode::DiskFailed => "DiskFailed",
        TaskErrorCode::VerifyFailed => "ReadBackMismatch",
        TaskErrorCode::ConfigDriveFailed => "ConfigDriveFailed",
        TaskErrorCode::NoBootLoader => "NoBootLoader",
        TaskErrorCode::Cancelled => "TaskCancelled",
        TaskErrorCode::Unspecified
        | TaskErrorCode::InvalidTask
        | TaskErrorCode::Unsupported
        | TaskErrorCode::Internal => "AgentFailed",
    }
}

/// Gets the image onto the disk and the server started from it.
pub(super) fn provision(o: &Observation<'_>) -> Plan {
    let state = State::Provisioning;
    let desired = match &o.consumer {
        Consumer::Machine { desired: Err(why), .. } => {
            return wait(state, Wait::new("IncompleteRequest", why.clone(), LONG));
        }
        consumer => match consumer.desired() {
            Some(desired) => desired,
            None => return wait(state, Wait::new("NoImage", "an image to be asked for", LONG)),
        },
    };
    if let Some(mark) = live::mark(&desired.image) {
        return live::provision(o, desired, mark);
    }
    let on_disk = record(o).and_then(|r| r.image.as_ref());
    if on_disk.is_some_and(|image| image.write_finished_at.is_some()) {
        return start_disk(o, None);
    }
    let ready = match ready(o, desired) {
        Ok(ready) => ready,
        Err(plan) => return *plan,
    };
    let view = match agent(o, state) {
        Ok(view) => view,
        Err(plan) => return *plan,
    };
    if on_disk.is_none_or(|image| image.digest != ready.digest) {
        if let Some(plan) = standby::come_to_an_end(o, view) {
            return plan;
        }
        if let Some(plan) = belongs::check(o, view, state) {
            return plan;
        }
        let write = RecordWrite::BeginWrite {
            image: Box::new(desired.image.clone()),
            digest: ready.digest.clone(),
            cleaning_mode: desired.cleaning_mode,
            hints: desired.hints.clone().map(Box::new),
        };
        return act(state, Action::Write { write, guarded: true });
    }
    let id = task_id(o, "deploy", view.boot_number);
    match view.tasks.get(&id) {
        None => belongs::check(o, view, state)
            .unwrap_or_else(|| act(state, Action::Task(AgentTask::Deploy { id }))),
        Some(TaskState::Succeeded(TaskOutcome::Deploy(result))) => {
            start_disk(o, Some(WrittenDisk::from(&**result)))
        }
        Some(other) => task(state, "writing the image", other),
    }
}

/// The image, if it is in the provider's cache; otherwise the wait for it.
pub(super) fn ready<'a>(o: &'a Observation<'_>, desired: &Desired) -> Result<&'a ReadyImage, Box<Plan>> {
    let state = State::Provisioning;
    Err(Box::new(match &o.image {
        Some(ImageState::Ready(ready)) => return Ok(ready),
        Some(ImageState::Failed { message, retry_at, .. }) => {
            let message = format!("the image to be repaired: {message}");
            wait(state, Wait::new("Image", message, until(o.now, *retry_at)))
        }
        Some(ImageState::Fetching { bytes_done, bytes_total }) => {
            let mut waiting =
                Wait::new("ImageFetch", format!("the image {} to be fetched", desired.image.url), SHORT);
            waiting.progress = bytes_total
                .and_then(|total| bytes_done.saturating_mul(100).checked_div(total))
                .and_then(|p| i32::try_from(p.min(100)).ok());
            wait(state, waiting)
        }
        None => wait(state, Wait::new("ImageFetch", "the image to be looked at", SHORT)),
    }))
}

/// The write is verified: the disk is made the boot source again *before* the record says that the host was started.
fn start_disk(o: &Observation<'_>, written: Option<WrittenDisk>) -> Plan {
    let state = State::Provisioning;
    if o.bmc.boot != Some(BootSet::Disk) {
        return act(state, Action::Job { job: Job::BootDisk, guarded: false });
    }
    let agent_runs = o.agent.is_some();
    // Nobody restarts a server without a BMC but the agent, which is told so when it comes back, or people.
    if written.is_none() && !agent_runs && !wake::is_blind(o) {
        // The agent is gone (moved, or lost since): nothing but a restart of the server starts the disk.
        match fresh_power(o) {
            None => return read_power(state),
            Some(PowerState::Off) => {}
            Some(_) => {
                return act(state, Action::Job { job: Job::Power(PowerAction::ForceOff), guarded: true });
            }
        }
    }
    act(state, Action::Write { write: RecordWrite::StartDisk { written }, guarded: false })
}

/// The image is on the disk and the host was told to start from it.
pub(super) fn provisioned(o: &Observation<'_>) -> Plan {
    let number = record(o).and_then(|r| r.agent.as_ref()).map_or(0, |a| a.boot_number);
    if let Some(view) = o.agent.filter(|view| view.boot_number == number) {
        if let Some(plan) = start_kernel(o, view) {
            return plan;
        }
        if wake::is_blind(o) {
            return wake::restart_into_disk(view);
        }
        // It is still our agent that runs. Off and on again by the BMC, not a restart from within: what boots next and
        // the ejected medium take effect with the power on some BMCs, and no second boot into the agent can slip in.
        match fresh_power(o) {
            None => return read_power(State::Provisioned),
            Some(PowerState::Off) => {}
            Some(_) => {
                let action = Action::Job { job: Job::Power(PowerAction::ForceOff), guarded: true };
                return act(State::Provisioned, action);
            }
        }
    }
    live::tell_again(o, keep_power(o, State::Provisioned))
}

/// How long an agent may take until it has started the kernel of the written disk: longer than the provider takes a
/// connection for alive on which it hears nothing, so that what is then still connected is the agent, and not a system that
/// came up in its place and is not to be switched off.
const KEXEC: Duration = Duration::from_secs(180);

/// The agent has loaded the kernel of the disk: it starts that itself. `None`: it has not, or did not come to it, and the
/// server is restarted.
fn start_kernel(o: &Observation<'_>, view: &AgentView) -> Option<Plan> {
    let state = State::Provisioned;
    let image = record(o)?.image.as_ref().filter(|image| image.loaded_kernel.is_some())?;
    let deadline = after(image.booted_at.as_ref()?.0, KEXEC);
    let id = format!("kexec-{}", view.boot_number);
    let task = view.tasks.get(&id);
    if matches!(task, Some(TaskState::Failed { .. })) || o.now >= deadline {
        return None;
    }
    Some(match task {
        None => act(state, Action::Task(AgentTask::Kexec { id })),
        Some(_) => {
            let waiting = Wait::new(
                "AgentTask",
                "the agent to start the kernel of the written disk",
                until(o.now, deadline),
            );
            wait(state, waiting.until(deadline))
        }
    })
}

/// Keeps the power of a host in use as asked: on while it has a consumer, else as `spec.online` says.
pub(super) fn keep_power(o: &Observation<'_>, state: State) -> Plan {
    if wake::is_blind(o) {
        return wake::keep_on(o, state);
    }
    let online = o.host.spec.online || matches!(o.consumer, Consumer::Machine { .. });
    poll_power(o, state, |power| match (online, power) {
        (true, PowerState::Off) => Some(PowerAction::On),
        (false, PowerState::On) => Some(PowerAction::GracefulShutdown),
        _ => None,
    })
}

/// A free host is kept off once our agent ran on it, unless it is to stand by otherwise; one that we never booted is left
/// as it is.
pub(super) fn available(o: &Observation<'_>) -> Plan {
    if wake::is_blind(o) {
        return wake::available(o);
    }
    if let Some(plan) = standby::note(o) {
        return plan;
    }
    if standby::is_running(o) {
        return standby::running(o);
    }
    if standby::is_staged(o) {
        return standby::staged(o);
    }
    standby::end(o).unwrap_or_else(|| keep_off(o))
}

/// Off, once our agent ran on it.
pub(super) fn keep_off(o: &Observation<'_>) -> Plan {
    let ours = record(o).is_some_and(|r| r.agent.is_some());
    poll_power(o, State::Available, |power| {
        (ours && power == PowerState::On).then_some(PowerAction::ForceOff)
    })
}

/// Reads the power now and then, and changes it where `wish` says so.
pub(super) fn poll_power(
    o: &Observation<'_>,
    state: State,
    wish: impl Fn(PowerState) -> Option<PowerAction>,
) -> Plan {
    let due = poll_due(o);
    match due {
        Some(due) if o.now < due && !o.bmc.nudged => {}
        _ => return read_power(state),
    }
    if let Some(action) = o.bmc.power_state().and_then(&wish) {
        return match fresh_power(o) {
            Some(_) => act(state, Action::Job { job: Job::Power(action), guarded: true }),
            None => read_power(state),
        };
    }
    let rest = due.map_or(o.limits.power_poll, |due| until(o.now, due)).max(Duration::from_secs(1));
    Plan { state: if state == State::Available { state_of(o) } else { state }, ..rest_plan(state, rest) }
}

pub(super) fn rest_plan(state: State, rest: Duration) -> Plan {
    Plan { state, step: Step::Rest(rest), error: None, paused: None, registered: None }
}
