//! The host controller: reads what is known of a host, asks [`crate::host::plan()`] for the one next step, does it, and
//! reports. No policy lives here.
//!
//! A reconcile never waits for a BMC or an agent: jobs run in the background ([`jobs`]) and tasks in the agent
//! ([`tasks`]); both wake the host again when something came of it.

mod boots;
mod cards;
mod context;
mod discover;
mod events;
mod execute;
mod hardware;
mod jobs;
mod network;
mod pull_secrets;
mod registrar;
mod slots;
mod system;
mod tasks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric_api::BareMetalHost;
use futures::StreamExt;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::{Action as Requeue, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub use boots::HostBoots;
pub use context::{BootSettings, HostContext, HostParts};
pub use discover::Discovery;
pub use pull_secrets::KubePullSecrets;
pub use registrar::HostRegistrar;
pub use slots::BootSlots;

use crate::capi::Cluster;
use crate::host::memory::BmcMemory;
use crate::host::plan::live;
use crate::host::{Consumer, Observation, Plan, Step, consumer, plan, report};
use crate::key::Key;
use crate::patch::{self, ApiError};
use crate::telemetry::EventKind;

/// Steps that one reconcile takes at most before it lets others run.
const STEPS: usize = 12;

/// Why a reconcile stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Runs the controller until `stop`.
pub async fn run(
    context: Arc<HostContext>,
    woken: mpsc::UnboundedReceiver<Key>,
    concurrency: u16,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    context.hosts.ready().await?;
    context.machines.ready().await?;
    context.owners.ready().await?;
    context.clusters.ready().await?;
    context.index_all();
    let by_cluster = {
        let context = context.clone();
        move |cluster: Arc<Cluster>| hosts_of_cluster(&context.hosts.store(), &cluster)
    };
    let deletions = {
        let context = context.clone();
        context.hosts.changes().for_each(move |change| {
            if let crate::watch::Change::Deleted(host) = change {
                context.forget(&Key::of(&*host), plan::goes_untouched(&host));
            }
            futures::future::ready(())
        })
    };
    let controller = Controller::for_shared_stream(context.hosts.subscribe(), context.hosts.store())
        .with_config(Config::default().concurrency(concurrency))
        .watches_shared_stream(context.machines.subscribe_touched(), |machine| {
            machine.spec.host_ref.as_ref().map(|host| ObjectRef::new(&host.name).within(&host.namespace))
        })
        .watches_shared_stream(context.clusters.subscribe_touched(), by_cluster)
        .reconcile_on(UnboundedReceiverStream::new(woken).map(|key| key.object_ref()))
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, |_, error, context| back_off(error, &context), context)
        .for_each(|_| futures::future::ready(()));
    tokio::select! {
        () = controller => {}
        () = deletions => {}
    }
    Ok(())
}

fn hosts_of_cluster(hosts: &Store<BareMetalHost>, cluster: &Cluster) -> Vec<ObjectRef<BareMetalHost>> {
    let name = cluster.name_any();
    hosts
        .state()
        .iter()
        .filter(|host| host.labels().get(ferric_api::names::CLUSTER_NAME_LABEL) == Some(&name))
        .map(|host| ObjectRef::from_obj(&**host))
        .collect()
}

fn back_off(error: &ReconcileError, context: &HostContext) -> Requeue {
    let ReconcileError::Api(error) = error;
    if error.is_conflict() {
        // The watch is about to bring the newer version; this is only in case it does not.
        return Requeue::requeue(Duration::from_secs(5));
    }
    context.metrics.error(error.reason());
    warn!(%error, "host not reconciled");
    Requeue::requeue(Duration::from_secs(5))
}

async fn reconcile(host: Arc<BareMetalHost>, context: Arc<HostContext>) -> Result<Requeue, ReconcileError> {
    let started = Instant::now();
    let result = drive(host, &context).await;
    let label = match &result {
        Ok(_) => "done",
        Err(ReconcileError::Api(error)) if error.is_conflict() => "conflict",
        Err(_) => "error",
    };
    context.metrics.reconciled("host", label, started.elapsed());
    result
}

/// Plans and acts until there is nothing to do but wait.
async fn drive(host: Arc<BareMetalHost>, context: &Arc<HostContext>) -> Result<Requeue, ReconcileError> {
    let key = Key::of(&*host);
    let mut host = context.written.latest(host);
    for _ in 0..STEPS {
        let (plan, memory, observed_image) = observe(&host, &key, context);
        debug!(host = %key, state = ?plan.state, step = ?plan.step, "planned");
        let Step::Act(action) = &plan.step else {
            return finish(&host, &key, context, &plan, &memory, observed_image).await;
        };
        match execute::execute(&host, &key, context, action, &plan).await? {
            execute::Outcome::Changed(changed) => host = changed,
            execute::Outcome::Again => {}
            execute::Outcome::Gone => return Ok(Requeue::await_change()),
            execute::Outcome::Stale => match context.newer(&key, &host) {
                Some(newer) => host = newer,
                None => return Ok(Requeue::requeue(Duration::from_secs(2))),
            },
            execute::Outcome::Wait(wait) => {
                let plan = Plan { step: Step::Wait(wait), ..plan };
                let memory = context.with(&key, |r| r.bmc.clone());
                return finish(&host, &key, context, &plan, &memory, observed_image).await;
            }
        }
    }
    Ok(Requeue::requeue(Duration::from_millis(10)))
}

type Image = Option<crate::deploy::ImageState>;

fn observe(host: &BareMetalHost, key: &Key, context: &HostContext) -> (Plan, BmcMemory, Image) {
    let now = Timestamp::now();
    let consumer = context.consumer(host);
    let agent = context.hub.view(key);
    if let Some(agent) = &agent {
        context.table().fingerprints.insert(agent.fingerprint.clone(), key.clone());
    }
    let address = host.spec.bmc.as_ref().map(|bmc| bmc.address.clone()).unwrap_or_default();
    // What runs from memory is needed at each start, and is never written.
    let unwritten = host.spec.record.as_ref().is_some_and(|r| {
        r.identity.is_some() && r.image.as_ref().is_none_or(|i| i.write_finished_at.is_none())
    });
    let current = host.spec.record.as_ref().and_then(|r| r.agent.as_ref()).filter(|agent| !agent.ended);
    let registered = current.filter(|agent| agent.key_fingerprint.is_some()).map(|agent| agent.boot_number);
    // What the BMC fetches itself is not fetched here.
    let wanted = consumer.desired().filter(|desired| {
        unwritten && live::is_fetched(&desired.image) && context.senior_twin(key).is_none()
    });
    let image = wanted.map(|desired| system::ensure(key, context, desired));
    let for_consumer = image.clone();
    let staged =
        (image.is_none() && context.senior_twin(key).is_none()).then(|| consumer::to_stage(host)).flatten();
    let image = image.or_else(|| staged.map(|desired| system::ensure(key, context, &desired)));
    let memory = context.with(key, |r| {
        r.bmc.use_address(&address);
        let network = host.spec.preprovisioning_network_data_name.as_deref();
        r.bmc.use_network(network.filter(|name| !name.is_empty()));
        r.bmc.see_image(for_consumer.as_ref());
        r.bmc.see_agent(registered, agent.as_ref().is_some_and(|a| Some(a.boot_number) == registered), now);
        if agent.is_some() {
            r.slot = None;
        }
        r.bmc.consumer_missing_since = match consumer {
            Consumer::Missing { .. } => Some(r.bmc.consumer_missing_since.unwrap_or(now)),
            _ => None,
        };
        r.bmc.clone()
    });
    let twins = context.table().duplicates.observe(host, plan::is_stranger(host, &memory));
    context.wake_all(twins);
    let duplicate_of = context.senior_twin(key);
    let observation = Observation {
        host,
        consumer,
        duplicate_of,
        bmc: &memory,
        agent: agent.as_ref(),
        image: image.clone(),
        now,
        limits: context.limits,
    };
    (plan(&observation), memory, image)
}

/// Reports, and says when to look again.
async fn finish(
    host: &BareMetalHost,
    key: &Key,
    context: &Arc<HostContext>,
    plan: &Plan,
    memory: &BmcMemory,
    image: Image,
) -> Result<Requeue, ReconcileError> {
    let wake = match &plan.step {
        Step::Wait(wait) => wait.wake,
        Step::Rest(rest) => *rest,
        Step::Act(_) => Duration::from_millis(10),
    };
    let now = Timestamp::now();
    let agent = context.hub.view(key);
    let observation = Observation {
        host,
        consumer: context.consumer(host),
        duplicate_of: None,
        bmc: memory,
        agent: agent.as_ref(),
        image,
        now,
        limits: context.limits,
    };
    if plan::is_moot(&observation, &plan.step) {
        context.with(key, |r| r.bmc.failure = None);
    }
    use ferric_api::ProvisioningState::{Available, Provisioned};
    if agent.is_none() && matches!(plan.state, Provisioned | Available) {
        // It restarted into the image, or is off; its tasks hold the user data.
        context.hub.forget_absent(key);
    }
    let status = report::status(&observation, plan);
    let old = host.status.as_ref();
    let settle = report::difference(old, &status).settles_in().map(|pause| {
        let since = context.with(key, |r| *r.unsettled.get_or_insert(now));
        pause.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or_default())
    });
    if settle.is_none() {
        context.with(key, |r| r.unsettled = None);
    }
    match settle {
        None => Ok(Requeue::requeue(wake)),
        Some(rest) if rest > Duration::ZERO => Ok(Requeue::requeue(rest.min(wake))),
        Some(_) => {
            write_status(host, key, context, plan, &status).await?;
            Ok(Requeue::requeue(wake))
        }
    }
}

async fn write_status(
    host: &BareMetalHost,
    key: &Key,
    context: &Arc<HostContext>,
    plan: &Plan,
    status: &ferric_api::host::BareMetalHostStatus,
) -> Result<(), ReconcileError> {
    let old = serde_json::to_value(&host.status).unwrap_or_default();
    let new = serde_json::to_value(status).unwrap_or_default();
    let Some(change) = crate::host::record::merge_diff(&old, &new) else { return Ok(()) };
    let _turn = context.turn(key).await;
    let written = patch::merge_patch_status(
        &context.api(key),
        &key.name,
        None,
        serde_json::json!({ "status": change }),
    )
    .await;
    match written {
        Ok(host) => {
            let reason = report::state_reason(plan.state);
            let before = context.with(key, |r| {
                r.unsettled = None;
                r.state.replace(reason)
            });
            if before != Some(reason) {
                context.metrics.host_state(before, Some(reason));
            }
            announce_uninvited(&host, context, &old);
            announce(&host, context, old_state(old), plan);
            context.written.put(Arc::new(host));
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// An event for a network boot that nobody asked for.
fn announce_uninvited(host: &BareMetalHost, context: &HostContext, old: &serde_json::Value) {
    let before = old.pointer("/uninvitedBoots/count").and_then(serde_json::Value::as_i64).unwrap_or(0);
    let Some(boots) = host.status.as_ref().and_then(|status| status.uninvited_boots.as_ref()) else { return };
    if i64::from(boots.count) > before {
        let note = format!(
            "the server asked to boot from the network, which it was not told to do, and was sent to its disk ({} times \
             so far): put the disk first in its boot order",
            boots.count
        );
        context.events.publish(host, EventKind::Warning, "UninvitedNetworkBoot", "NetworkBoot", &note);
    }
}

fn old_state(old: serde_json::Value) -> Option<String> {
    Some(old.get("provisioning")?.get("state")?.as_str()?.to_owned())
}

/// An event for what an operator would want to have been told and the conditions do not keep: new errors, and that a
/// host was let go. That it is available or provisioned, and since when, stands in its conditions.
fn announce(host: &BareMetalHost, context: &HostContext, before: Option<String>, plan: &Plan) {
    use ferric_api::ProvisioningState as State;
    let reason = report::state_reason(plan.state);
    if let Some(error) = plan.error.as_ref().filter(|e| e.count == 1) {
        context.events.publish(host, EventKind::Warning, &error.reason, reason, &error.message);
    }
    let state = serde_json::to_value(plan.state).ok().and_then(|v| v.as_str().map(str::to_owned));
    if plan.state == State::Deprovisioning && before != state {
        let note = format!("the host is {}", state.unwrap_or_default());
        context.events.publish(host, EventKind::Normal, reason, reason, &note);
    }
}
