//! The controller of `BareMetalMachine`: a thin shell around [`crate::claim`].
//!
//! Who is woken by what: a machine by itself, by its Machine and its Cluster when something changed that a plan reads,
//! by the host that it names or that names it, and by a host that became free, one waiting machine for each such host
//! (see [`crate::claim::board`]). Nothing is polled; the slow, jittered second look costs no request.

mod attempt;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferric_api::{BareMetalHost, BareMetalMachine, names};
use futures::{StreamExt, stream};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::capi_owner;
use super::mapped;
use super::overlay::Overlay;
use super::retries::Retries;
use crate::capi::{Cluster, Machine};
use crate::claim::board::Board;
use crate::claim::index::OwnerIndex;
use crate::host::addresses::Addresses;
use crate::key::Key;
use crate::patch::ApiError;
use crate::telemetry::{Events, Metrics};
use crate::watch::{Change, Watched};

use attempt::Attempt;

/// Everything that the machine controller works with.
pub struct MachineContext {
    client: Client,
    machines: Watched<BareMetalMachine>,
    hosts: Watched<BareMetalHost>,
    owners: Watched<Machine>,
    clusters: Watched<Cluster>,
    events: Events,
    metrics: Arc<Metrics>,
    addresses: Addresses,
    board: Mutex<Board>,
    index: Mutex<OwnerIndex>,
    written_machines: Overlay<BareMetalMachine>,
    written_hosts: Overlay<BareMetalHost>,
    retries: Retries,
    /// When the status of a machine was last written, for those whose host is at work.
    reported: Mutex<HashMap<Key, Instant>>,
    wake: mpsc::UnboundedSender<Key>,
    woken: Mutex<Option<mpsc::UnboundedReceiver<Key>>>,
}

impl MachineContext {
    /// A context that remembers nothing yet. `addresses` is what the host controller found.
    #[expect(clippy::too_many_arguments, reason = "each is another thing, and they are given once")]
    pub fn new(
        client: Client,
        machines: Watched<BareMetalMachine>,
        hosts: Watched<BareMetalHost>,
        owners: Watched<Machine>,
        clusters: Watched<Cluster>,
        events: Events,
        metrics: Arc<Metrics>,
        addresses: Addresses,
    ) -> Arc<Self> {
        let (wake, woken) = mpsc::unbounded_channel();
        Arc::new(Self {
            client,
            machines,
            hosts,
            owners,
            clusters,
            events,
            metrics,
            addresses,
            board: Mutex::default(),
            index: Mutex::default(),
            written_machines: Overlay::default(),
            written_hosts: Overlay::default(),
            retries: Retries::default(),
            reported: Mutex::default(),
            wake,
            woken: Mutex::new(Some(woken)),
        })
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> MutexGuard<'_, OwnerIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reported(&self) -> MutexGuard<'_, HashMap<Key, Instant>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self, keys: Vec<Key>) {
        for key in keys {
            // The receiver lives as long as the controller.
            let _ = self.wake.send(key);
        }
    }

    /// Notes whose machine this is, so that a later change of owner or cluster finds it. Returns both keys.
    fn link(&self, machine: &BareMetalMachine) -> (Option<Key>, Option<Key>) {
        let key = Key::of(machine);
        let owner = capi_owner(&machine.metadata, "Machine").map(|o| Key::new(&key.namespace, &o.name));
        let cluster = machine.labels().get(names::CLUSTER_NAME_LABEL).map(|c| Key::new(&key.namespace, c));
        let cluster = cluster.or_else(|| {
            let owner = self.owners.get(owner.as_ref()?)?;
            let name = owner.spec.cluster_name.as_str();
            (!name.is_empty()).then(|| Key::new(&key.namespace, name))
        });
        self.index().set(&key, owner.clone(), cluster.clone());
        (owner, cluster)
    }

    fn on_machine(&self, change: Change<BareMetalMachine>) -> Vec<Key> {
        match change {
            Change::Applied(machine) => {
                let mut wake = self.board().machine_changed(&machine);
                wake.push(Key::of(&*machine));
                wake
            }
            Change::Deleted(machine) => {
                let key = Key::of(&*machine);
                self.index().remove(&key);
                self.written_machines.remove(&key);
                self.retries.succeeded(&key);
                self.reported().remove(&key);
                self.board().machine_gone(&key)
            }
        }
    }

    fn on_host(&self, change: Change<BareMetalHost>) -> Vec<Key> {
        match change {
            Change::Applied(host) => self.board().host_changed(&host),
            Change::Deleted(host) => {
                self.written_hosts.remove(&Key::of(&*host));
                self.board().host_gone(&host)
            }
        }
    }

    fn on_owner(&self, change: Change<Machine>) -> Vec<Key> {
        match change {
            Change::Applied(owner) => self.index().owner_changed(&owner),
            Change::Deleted(owner) => self.index().owner_gone(&Key::of(&*owner)),
        }
    }

    fn on_cluster(&self, change: Change<Cluster>) -> Vec<Key> {
        match change {
            Change::Applied(cluster) => self.index().cluster_changed(&cluster),
            Change::Deleted(cluster) => self.index().cluster_gone(&Key::of(&*cluster)),
        }
    }
}

/// Runs the controller until `stop`. A context runs once.
pub async fn run(
    context: Arc<MachineContext>,
    concurrency: u16,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let woken = context.woken.lock().unwrap_or_else(PoisonError::into_inner).take();
    let woken = woken.ok_or_else(|| anyhow::anyhow!("the machine controller is running already"))?;
    let ready = async {
        context.machines.ready().await?;
        context.hosts.ready().await?;
        context.owners.ready().await?;
        context.clusters.ready().await
    };
    tokio::select! {
        ready = ready => ready?,
        () = stop.cancelled() => return Ok(()),
    }
    // Before the first machine chooses, all that are placed already count for the spread.
    for machine in context.machines.store().state() {
        context.board().machine_changed(&machine);
    }
    for host in context.hosts.store().state() {
        context.board().host_changed(&host);
    }
    let keys = stream::select_all([
        mapped(&context, context.machines.changes(), MachineContext::on_machine),
        mapped(&context, context.hosts.changes(), MachineContext::on_host),
        mapped(&context, context.owners.changes(), MachineContext::on_owner),
        mapped(&context, context.clusters.changes(), MachineContext::on_cluster),
        UnboundedReceiverStream::new(woken).map(|key| vec![key]).boxed(),
    ]);
    let wakes = keys.flat_map(stream::iter).map(|key| key.object_ref::<BareMetalMachine>());
    Controller::for_shared_stream(stream::pending(), context.machines.store())
        .with_config(Config::default().concurrency(concurrency))
        .reconcile_on(wakes)
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, back_off, context)
        .for_each(|_| futures::future::ready(()))
        .await;
    Ok(())
}

fn back_off(machine: Arc<BareMetalMachine>, error: &ApiError, context: Arc<MachineContext>) -> Action {
    if !error.is_conflict() {
        context.metrics.error(error.reason());
        tracing::warn!(object = %ObjectRef::from_obj(&*machine), %error, "machine not reconciled");
    }
    Action::requeue(context.retries.failed(&Key::of(&*machine), error))
}

async fn reconcile(machine: Arc<BareMetalMachine>, context: Arc<MachineContext>) -> Result<Action, ApiError> {
    let started = Instant::now();
    let key = Key::of(&*machine);
    let mut attempt = Attempt::new(&context, machine);
    let result = attempt.drive().await;
    // A machine that does not stand in the queue for a host passes on the one that it was woken for.
    if !attempt.queued() {
        let wake = context.board().decided(&key);
        context.wake_all(wake);
    }
    let label = match &result {
        Ok(_) if attempt.queued() => "wait",
        Ok(_) => "done",
        Err(error) if error.is_conflict() => "conflict",
        Err(_) => "error",
    };
    context.metrics.reconciled("machine", label, started.elapsed());
    if result.is_ok() {
        context.retries.succeeded(&key);
    }
    result.map(|pause: Duration| Action::requeue(pause))
}
