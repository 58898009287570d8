//! The host controller: reads what is known of a host, asks [`crate::host::plan()`] for the one next step, does it, and
//! reports. No policy lives here.
//!
//! A reconcile never waits for a BMC or an agent: jobs run in the background ([`jobs`]) and tasks in the agent
//! ([`tasks`]); both wake the host again when something came of it.

mod execute;
mod hardware;
mod jobs;
mod registrar;
mod slots;
mod tasks;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferric_api::{BareMetalHost, BareMetalMachine};
use ferric_bmc::{Bmc, BmcPool};
use futures::StreamExt;
use jiff::Timestamp;
use kube::runtime::controller::{Action as Requeue, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use url::Url;

pub use registrar::HostRegistrar;
pub use slots::BootSlots;

use super::overlay::{Overlay, is_newer};
use crate::capi::{Cluster, Machine};
use crate::deploy::{Hub, ImageCache};
use crate::host::addresses::Addresses;
use crate::host::consumer;
use crate::host::duplicates::Duplicates;
use crate::host::memory::BmcMemory;
use crate::host::report;
use crate::host::{Consumer, Limits, Observation, Plan, Step, plan};
use crate::key::Key;
use crate::lease::LeaderState;
use crate::patch::{self, ApiError};
use crate::telemetry::{EventKind, Events, Metrics};
use crate::watch::Watched;

/// Steps that one reconcile takes at most before it lets others run.
const STEPS: usize = 12;

/// What agents are told when they are booted.
pub struct BootSettings {
    /// Where firmware fetches the boot script, e.g. `http://10.0.0.1:6180`.
    pub boot_url: Url,
    /// Where agents find the provider, e.g. `https://10.0.0.1:6183`.
    pub agent_url: Url,
    /// Keys of boot tokens and of the agent server.
    pub keys: Arc<crate::deploy::ProviderKeys>,
    /// Agent boots that may be under way at once.
    pub slots: BootSlots,
}

/// Everything that the host controller works with.
pub struct HostContext {
    /// The API server.
    pub client: Client,
    /// Hosts.
    pub hosts: Watched<BareMetalHost>,
    /// Machines that claim hosts.
    pub machines: Watched<BareMetalMachine>,
    /// Cluster API Machines.
    pub owners: Watched<Machine>,
    /// Cluster API Clusters.
    pub clusters: Watched<Cluster>,
    /// Connected agents.
    pub hub: Hub,
    /// Images.
    pub images: ImageCache,
    /// BMC connections.
    pub pool: Arc<BmcPool>,
    /// Agent boots.
    pub boot: BootSettings,
    /// Settings of plans.
    pub limits: Limits,
    /// Events.
    pub events: Events,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Wakes a host.
    pub wake: mpsc::UnboundedSender<Key>,
    /// Whether this process still holds the lease.
    pub leader: watch::Receiver<LeaderState>,
    /// IP addresses of inspected hosts.
    pub addresses: Addresses,
    /// What is remembered of each host.
    table: Mutex<Table>,
    /// Hosts as this process wrote them last: an older version from the cache is not acted on.
    written: Overlay<BareMetalHost>,
}

#[derive(Default)]
struct Table {
    hosts: HashMap<Key, Remembered>,
    duplicates: Duplicates,
    fingerprints: HashMap<String, Key>,
}

struct Remembered {
    bmc: BmcMemory,
    connection: Option<Arc<dyn Bmc>>,
    /// Held during a write, so that two tasks of this process do not make each other's fail.
    writing: Arc<tokio::sync::Mutex<()>>,
    /// Since when a passing difference of the status waits to be written.
    unsettled: Option<Timestamp>,
    /// Held from the beginning of an agent boot until the agent has registered.
    slot: Option<slots::Slot>,
    /// State last reported, for the metrics.
    state: Option<&'static str>,
}

impl Remembered {
    fn new(now: Timestamp) -> Self {
        Self {
            bmc: BmcMemory::new(now),
            connection: None,
            writing: Arc::default(),
            unsettled: None,
            slot: None,
            state: None,
        }
    }
}

/// What the caller gives to make a [`HostContext`].
pub struct HostParts {
    /// The API server.
    pub client: Client,
    /// Hosts.
    pub hosts: Watched<BareMetalHost>,
    /// Machines that claim hosts.
    pub machines: Watched<BareMetalMachine>,
    /// Cluster API Machines.
    pub owners: Watched<Machine>,
    /// Cluster API Clusters.
    pub clusters: Watched<Cluster>,
    /// Connected agents.
    pub hub: Hub,
    /// Images.
    pub images: ImageCache,
    /// BMC connections.
    pub pool: Arc<BmcPool>,
    /// Agent boots.
    pub boot: BootSettings,
    /// Settings of plans.
    pub limits: Limits,
    /// Events.
    pub events: Events,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Wakes a host.
    pub wake: mpsc::UnboundedSender<Key>,
    /// Whether this process still holds the lease.
    pub leader: watch::Receiver<LeaderState>,
}

impl HostContext {
    /// A context that remembers nothing yet.
    pub fn new(parts: HostParts) -> Arc<Self> {
        let HostParts {
            client,
            hosts,
            machines,
            owners,
            clusters,
            hub,
            images,
            pool,
            boot,
            limits,
            events,
            metrics,
            wake,
            leader,
        } = parts;
        Arc::new(Self {
            client,
            hosts,
            machines,
            owners,
            clusters,
            hub,
            images,
            pool,
            boot,
            limits,
            events,
            metrics,
            wake,
            leader,
            addresses: Addresses::default(),
            table: Mutex::default(),
            written: Overlay::default(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on what is remembered of a host.
    fn with<T>(&self, key: &Key, work: impl FnOnce(&mut Remembered) -> T) -> T {
        let mut table = self.table();
        let entry = table.hosts.entry(key.clone()).or_insert_with(|| Remembered::new(Timestamp::now()));
        work(entry)
    }

    /// The host from the cache, or as this process wrote it where the cache is behind.
    fn latest(&self, key: &Key) -> Option<Arc<BareMetalHost>> {
        self.hosts.get(key).map(|host| self.written.latest(host))
    }

    /// A later version of the host than this one, if this process knows of one.
    fn newer(&self, key: &Key, host: &BareMetalHost) -> Option<Arc<BareMetalHost>> {
        self.latest(key).filter(|latest| is_newer(&**latest, host))
    }

    /// Waits until nobody else in this process writes the host.
    async fn turn(&self, key: &Key) -> OwnedMutexGuard<()> {
        let writing = self.with(key, |r| r.writing.clone());
        writing.lock_owned().await
    }

    fn api(&self, key: &Key) -> Api<BareMetalHost> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    fn wake_all(&self, keys: Vec<Key>) {
        for key in keys {
            // Nobody listens any more only when the manager is going down.
            let _ = self.wake.send(key);
        }
    }

    /// Takes in every host that is cached before the first one is acted on: an older twin must be known by then.
    fn index_all(&self) {
        let mut table = self.table();
        for host in self.hosts.store().state() {
            table.duplicates.observe(&host, false);
        }
    }

    fn forget(&self, key: &Key) {
        let (state, twins) = {
            let mut table = self.table();
            let twins = table.duplicates.remove(key);
            table.fingerprints.retain(|_, host| host != key);
            (table.hosts.remove(key).and_then(|r| r.state), twins)
        };
        self.wake_all(twins);
        self.written.remove(key);
        self.boot.slots.leave(key);
        self.addresses.forget(key);
        self.metrics.host_state(state, None);
        self.hub.forget(key);
        self.pool.forget(&key.to_string());
    }

    /// The agent boot of a host is over: its session ends and its key counts no more.
    fn end_agent(&self, key: &Key) {
        self.hub.forget(key);
        let mut table = self.table();
        table.fingerprints.retain(|_, host| host != key);
        if let Some(remembered) = table.hosts.get_mut(key) {
            remembered.slot = None;
        }
    }

    /// Another host that names the same server and has the better right to it.
    fn senior_twin(&self, key: &Key) -> Option<Key> {
        let mut table = self.table();
        loop {
            let other = table.duplicates.senior(key)?;
            if self.hosts.get(&other).is_some() {
                return Some(other);
            }
            table.duplicates.remove(&other);
        }
    }

    /// Who uses the host, from the caches.
    fn consumer(&self, host: &BareMetalHost) -> Consumer {
        let machine = self.machine_key(host).and_then(|key| self.machines.get(&key));
        self.consumer_with(host, machine.as_deref())
    }

    /// The machine that the host names as its consumer; of other kinds nothing is read.
    fn machine_key(&self, host: &BareMetalHost) -> Option<Key> {
        let reference =
            host.spec.consumer_ref.as_ref().filter(|r| r.kind.as_deref() == Some("BareMetalMachine"))?;
        let namespace = reference.namespace.clone().or_else(|| host.namespace())?;
        Some(Key::new(namespace, reference.name.clone()?))
    }

    /// Who uses the host, given the machine that it names.
    fn consumer_with(&self, host: &BareMetalHost, machine: Option<&BareMetalMachine>) -> Consumer {
        let owner = machine.and_then(|machine| {
            let owner = machine.owner_references().iter().find(|o| o.kind == "Machine")?;
            self.owners.get(&Key::new(machine.namespace()?, owner.name.clone()))
        });
        // The label was put on with the claim: it still tells the cluster when the machine is not there (yet).
        let cluster = host.labels().get(ferric_api::names::CLUSTER_NAME_LABEL).and_then(|name| {
            let reference = host.spec.consumer_ref.as_ref();
            let namespace = reference.and_then(|r| r.namespace.clone()).or_else(|| host.namespace())?;
            self.clusters.get(&Key::new(namespace, name.clone()))
        });
        consumer::observe(host, machine, owner.as_deref(), cluster.as_deref())
    }
}

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
                context.forget(&Key::of(&*host));
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
    let unwritten = host.spec.record.as_ref().is_some_and(|r| {
        r.identity.is_some() && r.image.as_ref().is_none_or(|i| i.write_finished_at.is_none())
    });
    let wanted = consumer.desired().filter(|_| unwritten && context.senior_twin(key).is_none());
    let image = wanted.map(|desired| context.images.ensure(key, &desired.image));
    let memory = context.with(key, |r| {
        r.bmc.use_address(&address);
        r.bmc.see_image(image.as_ref());
        if agent.is_some() {
            r.bmc.agent_seen = Some(now);
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
    if agent.is_none() && plan.state == ferric_api::ProvisioningState::Provisioned {
        // It restarted into the image; its tasks hold the user data.
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
            announce(&host, context, old_state(old), plan);
            context.written.put(Arc::new(host));
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
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
