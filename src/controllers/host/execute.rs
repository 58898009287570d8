//! Carries out one action. A guarded one re-reads the host first and does nothing if it changed.

use std::time::Duration;

use ferric_api::{BareMetalHost, BareMetalMachine};
use jiff::Timestamp;
use kube::{Api, ResourceExt};
use tracing::info;

use super::{HostContext, ReconcileError, hardware, jobs, tasks};
use crate::deploy::TaskState;
use crate::host::plan::live;
use crate::host::record::WrittenDisk;
use crate::host::{Action, AgentTask, Plan, RecordWrite, Wait};
use crate::key::Key;
use crate::patch;
use crate::telemetry::EventKind;
use std::sync::Arc;

/// A host that waits for a free boot looks again after this long even if nobody woke it.
const BOOT_SLOT_LOOK: Duration = Duration::from_secs(30);

/// What came of an action.
pub(super) enum Outcome {
    /// The host was written; this is what it is now.
    Changed(Arc<BareMetalHost>),
    /// Plan again.
    Again,
    /// The host is gone.
    Gone,
    /// The host changed since it was read: wait for the newer version.
    Stale,
    /// Nothing can be done at the moment.
    Wait(Wait),
}

pub(super) async fn execute(
    host: &Arc<BareMetalHost>,
    key: &Key,
    context: &Arc<HostContext>,
    action: &Action,
    plan: &Plan,
) -> Result<Outcome, ReconcileError> {
    match action {
        Action::Job { job, guarded } => {
            if *guarded && !unchanged(host, key, context).await? {
                return Ok(Outcome::Stale);
            }
            jobs::start(host, key, context, job).await?;
            Ok(Outcome::Again)
        }
        Action::Write { write, guarded } => {
            if matches!(write, RecordWrite::BeginBoot { .. }) && !take_slot(key, context) {
                let message = "a free agent boot: as many as --max-boots-in-flight allows are under way";
                return Ok(Outcome::Wait(Wait::new("BootSlot", message, BOOT_SLOT_LOOK)));
            }
            if *guarded && !unchanged(host, key, context).await? {
                return Ok(Outcome::Stale);
            }
            if depends_on_consumer(write) && !consumer_agrees(host, context).await? {
                return Ok(Outcome::Stale);
            }
            let outcome = self::write(host, key, context, write).await?;
            after_write(host, key, context, write).await?;
            Ok(outcome)
        }
        Action::SaveHardware => {
            let details = context.with(key, |r| r.bmc.hardware.clone());
            if let Some(details) = details {
                hardware::save(host, key, context, &details).await?;
                context.addresses.put(key, &details);
            }
            let outcome = self::write(host, key, context, &RecordWrite::Inspected).await?;
            context.with(key, |r| r.bmc.hardware = None);
            Ok(outcome)
        }
        Action::LearnPorts => {
            hardware::learn_ports(key, context).await?;
            Ok(Outcome::Again)
        }
        Action::Task(task) => {
            // Nobody has asked for this host: if somebody has meanwhile, it is not to be written for nobody.
            if matches!(task, AgentTask::Stage { .. }) && !unchanged(host, key, context).await? {
                return Ok(Outcome::Stale);
            }
            tasks::submit(host, key, context, task).await
        }
        Action::TaskFailed { reason, message, staging } => {
            info!(host = %key, %reason, %message, "agent task failed");
            context.metrics.error(reason);
            context.with(key, |r| {
                r.bmc.fail_task(reason.clone(), message.clone(), *staging, Timestamp::now());
            });
            Ok(Outcome::Again)
        }
        Action::NotWoken { message } => {
            info!(host = %key, state = ?plan.state, %message, "not woken");
            context.metrics.error("NotWoken");
            context.with(key, |r| {
                r.bmc.fail("NotWoken".to_owned(), message.clone(), None, false, Timestamp::now());
                // Others need not wait until somebody comes by.
                r.slot = None;
                r.bmc.boot_since = None;
            });
            Ok(Outcome::Again)
        }
        Action::BootFailed { message } => {
            info!(host = %key, state = ?plan.state, %message, "agent boot failed");
            context.metrics.error("AgentBootFailed");
            let outcome = self::write(host, key, context, &RecordWrite::EndBoot).await?;
            context.with(key, |r| {
                r.bmc.fail("AgentBootFailed".to_owned(), message.clone(), None, false, Timestamp::now());
                r.slot = None;
                r.bmc.boot_since = None;
            });
            Ok(outcome)
        }
    }
}

/// Reads the host again: whether it is still what the plan was made from, and this process still the one to act.
async fn unchanged(host: &BareMetalHost, key: &Key, context: &HostContext) -> Result<bool, ReconcileError> {
    if !context.leader.borrow().may_act() {
        return Ok(false);
    }
    let live = patch::get_opt(&context.api(key), &key.name).await?;
    Ok(live.is_some_and(|live| {
        live.metadata.uid == host.metadata.uid
            && live.metadata.resource_version == host.metadata.resource_version
    }))
}

/// Whether a change is right only while the consumer is what the plan took it for.
fn depends_on_consumer(write: &RecordWrite) -> bool {
    matches!(
        write,
        RecordWrite::Free
            | RecordWrite::Release
            | RecordWrite::Abandon { .. }
            | RecordWrite::BeginBoot { .. }
            | RecordWrite::BeginWrite { .. }
            | RecordWrite::BeginStage { .. }
    )
}

/// Reads the machine that the host names again. The caches of two kinds are not of one moment: the claim on the host
/// may be seen before the intent on the machine, which looks like a machine that wants another host.
async fn consumer_agrees(host: &BareMetalHost, context: &HostContext) -> Result<bool, ReconcileError> {
    let Some(key) = context.machine_key(host) else { return Ok(true) };
    let machines: Api<BareMetalMachine> = Api::namespaced(context.client.clone(), &key.namespace);
    let live = patch::get_opt(&machines, &key.name).await?;
    let now = context.consumer_with(host, live.as_ref());
    Ok(std::mem::discriminant(&now) == std::mem::discriminant(&context.consumer(host)))
}

/// One compare-and-swap of the record.
pub(super) async fn write(
    host: &BareMetalHost,
    key: &Key,
    context: &HostContext,
    write: &RecordWrite,
) -> Result<Outcome, ReconcileError> {
    let Some(change) = write.patch(host, Timestamp::now()) else {
        return Ok(Outcome::Again);
    };
    let _turn = context.turn(key).await;
    if context.newer(key, host).is_some() {
        // It would be refused: the registration of an agent, or a report, came in between.
        return Ok(Outcome::Stale);
    }
    info!(host = %key, ?write, "record");
    let version_read = host.resource_version();
    let result = patch::merge_patch(&context.api(key), &key.name, version_read.as_deref(), change).await;
    match result {
        Ok(changed) => {
            let changed = Arc::new(changed);
            context.written.put(changed.clone());
            Ok(Outcome::Changed(changed))
        }
        Err(error) if error.is_conflict() => Ok(Outcome::Stale),
        Err(error) if error.is_not_found() => Ok(Outcome::Gone),
        Err(error) => Err(error.into()),
    }
}

/// What a recorded change lets go of in this process.
async fn after_write(
    host: &BareMetalHost,
    key: &Key,
    context: &HostContext,
    write: &RecordWrite,
) -> Result<(), ReconcileError> {
    context.with(key, |r| r.bmc.wrote(write));
    match write {
        RecordWrite::Cleaned { keep_agent, .. } => {
            hardware::save_evidence(key, context).await?;
            // A server without a BMC is switched off by its agent, which has to be there to be told.
            if *keep_agent || host.spec.wakes_only() {
                acknowledge(key, context);
            } else {
                context.end_agent(key);
            }
        }
        RecordWrite::FinishStage { keep_agent, .. } => {
            acknowledge(key, context);
            if !*keep_agent {
                // What the agent heard of its switches may have come after the cleaning.
                if let Err(error) = hardware::save_in_band(key, context).await {
                    tracing::warn!(host = %key, %error, "what the agent saw is not saved");
                }
                context.end_agent(key);
            }
        }
        RecordWrite::StartDisk { written } => {
            written.iter().for_each(|written| tell_of_staged(host, context, written));
            // What the agent heard of its switches may have come after the cleaning, or there was none.
            // Its loss is no reason to leave the server where it is.
            if let Err(error) = hardware::save_in_band(key, context).await {
                tracing::warn!(host = %key, %error, "what the agent saw is not saved");
            }
            acknowledge(key, context);
            context.with(key, |r| r.slot = None);
        }
        RecordWrite::FinishWrite { .. } => acknowledge(key, context),
        RecordWrite::Release | RecordWrite::Forget | RecordWrite::EndBoot if host.spec.wakes_only() => {}
        RecordWrite::Release
        | RecordWrite::Forget
        | RecordWrite::EndBoot
        | RecordWrite::StandDown
        | RecordWrite::DropStaged
        | RecordWrite::Abandon { .. } => {
            context.end_agent(key);
        }
        RecordWrite::ClearRetry => {
            if let Some(desired) = context.consumer(host).desired() {
                let (image, initrd) = live::files(&desired.image);
                for file in [Some(image), initrd].into_iter().flatten() {
                    context.images.retry_now(&file, desired.pull_secret.as_ref());
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// What became of an image that was staged is told once, when the host is told to start from its disk.
fn tell_of_staged(host: &BareMetalHost, context: &HostContext, written: &WrittenDisk) {
    let disk = &written.root_device;
    if written.kept_staged {
        let note = format!("{disk} was read to hold the image that was staged; it was not written again");
        context.events.publish(host, EventKind::Normal, "StagedImageUsed", "Provisioning", &note);
    }
    if let Some(why) = &written.staged_problem {
        let note = format!("the image was written to {disk} in full, the staged one was not used: {why}");
        context.events.publish(host, EventKind::Warning, "StagedImageNotUsed", "Provisioning", &note);
    }
}

/// The results are in the record: the agent may forget them.
fn acknowledge(key: &Key, context: &HostContext) {
    let Some(view) = context.hub.view(key) else { return };
    for (id, _) in view.tasks.iter().filter(|(_, task)| matches!(task, TaskState::Succeeded(_))) {
        context.hub.acknowledge(key, id);
    }
}

fn take_slot(key: &Key, context: &HostContext) -> bool {
    context.with(key, |r| {
        if r.slot.is_none() {
            r.slot = context.boot.slots.take(key);
        }
        r.slot.is_some()
    })
}
