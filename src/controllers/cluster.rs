//! The controller of `BareMetalCluster`: a thin shell around [`crate::claim::cluster`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferric_api::{BareMetalCluster, BareMetalHost, BareMetalMachine, names};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::capi_owner;
use super::mapped;
use super::overlay::Overlay;
use super::retries::Retries;
use crate::capi::Cluster;
use crate::claim::cluster::{self as planner, ClusterObservation, ClusterStep, DomainIndex, Owner};
use crate::claim::score;
use crate::host::backoff;
use crate::host::record::merge_diff;
use crate::key::Key;
use crate::patch::{self, ApiError};
use crate::telemetry::Metrics;
use crate::watch::{Change, Watched};

/// Steps that one reconcile takes at most before it lets others run.
const STEPS: usize = 6;
/// When an object is looked at again although nothing happened; costs no request.
const RESYNC: Duration = Duration::from_secs(900);

/// Everything that the cluster controller works with.
pub struct ClusterContext {
    client: Client,
    objects: Watched<BareMetalCluster>,
    machines: Watched<BareMetalMachine>,
    hosts: Watched<BareMetalHost>,
    owners: Watched<Cluster>,
    metrics: Arc<Metrics>,
    written: Overlay<BareMetalCluster>,
    retries: Retries,
    domains: Mutex<DomainIndex>,
    /// What was last seen of each Cluster: its status changes all the time and is of no interest.
    owner_specs: Mutex<HashMap<Key, crate::capi::ClusterSpec>>,
}

impl ClusterContext {
    /// A context that remembers nothing yet.
    pub fn new(
        client: Client,
        objects: Watched<BareMetalCluster>,
        machines: Watched<BareMetalMachine>,
        hosts: Watched<BareMetalHost>,
        owners: Watched<Cluster>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            objects,
            machines,
            hosts,
            owners,
            metrics,
            written: Overlay::default(),
            retries: Retries::default(),
            domains: Mutex::default(),
            owner_specs: Mutex::default(),
        })
    }

    fn domains(&self) -> MutexGuard<'_, DomainIndex> {
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_object(&self, change: Change<BareMetalCluster>) -> Vec<Key> {
        let key = Key::of(&*change.clone().into_object());
        if matches!(change, Change::Deleted(_)) {
            self.written.remove(&key);
            self.retries.succeeded(&key);
            return Vec::new();
        }
        vec![key]
    }

    /// The set of failure domains of a namespace is all that matters of its hosts.
    fn on_host(&self, change: Change<BareMetalHost>) -> Vec<Key> {
        let changed = match &change {
            Change::Applied(host) => self.domains().update(&Key::of(&**host), score::failure_domain(host)),
            Change::Deleted(host) => self.domains().update(&Key::of(&**host), None),
        };
        if !changed {
            return Vec::new();
        }
        let namespace = change.into_object().namespace();
        self.select(|object| object.namespace() == namespace)
    }

    fn on_owner(&self, change: Change<Cluster>) -> Vec<Key> {
        let mut specs = self.owner_specs.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = match change {
            Change::Applied(owner) => {
                let before = specs.insert(Key::of(&*owner), owner.spec.clone());
                if before.as_ref() == Some(&owner.spec) {
                    return Vec::new();
                }
                owner
            }
            Change::Deleted(owner) => {
                specs.remove(&Key::of(&*owner));
                owner
            }
        };
        drop(specs);
        self.select(|object| {
            object.namespace() == owner.namespace()
                && capi_owner(&object.metadata, "Cluster").is_some_and(|o| o.name == owner.name_any())
        })
    }

    /// A cluster that is being deleted waits for its last machine.
    fn on_machine(&self, change: Change<BareMetalMachine>) -> Vec<Key> {
        let Change::Deleted(machine) = change else { return Vec::new() };
        let Some(cluster) = machine.labels().get(names::CLUSTER_NAME_LABEL) else { return Vec::new() };
        self.select(|object| {
            object.metadata.deletion_timestamp.is_some()
                && object.namespace() == machine.namespace()
                && cluster_name(object).as_ref() == Some(cluster)
        })
    }

    fn select(&self, wanted: impl Fn(&BareMetalCluster) -> bool) -> Vec<Key> {
        self.objects
            .store()
            .state()
            .iter()
            .filter(|object| wanted(object))
            .map(|object| Key::of(&**object))
            .collect()
    }

    fn machines_left(&self, object: &BareMetalCluster) -> Vec<String> {
        let cluster = cluster_name(object);
        let mut left: Vec<String> = self
            .machines
            .store()
            .state()
            .iter()
            .filter(|m| {
                m.namespace() == object.namespace()
                    && m.labels().get(names::CLUSTER_NAME_LABEL) == cluster.as_ref()
            })
            .map(|m| m.name_any())
            .collect();
        left.sort_unstable();
        left
    }
}

fn cluster_name(object: &BareMetalCluster) -> Option<String> {
    let label = object.labels().get(names::CLUSTER_NAME_LABEL).cloned();
    label.or_else(|| capi_owner(&object.metadata, "Cluster").map(|o| o.name.clone()))
}

/// Runs the controller until `stop`.
pub async fn run(
    context: Arc<ClusterContext>,
    concurrency: u16,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let ready = async {
        context.objects.ready().await?;
        context.machines.ready().await?;
        context.hosts.ready().await?;
        context.owners.ready().await
    };
    tokio::select! {
        ready = ready => ready?,
        () = stop.cancelled() => return Ok(()),
    }
    // Before the first cluster publishes its failure domains, all of them are known.
    for host in context.hosts.store().state() {
        context.on_host(Change::Applied(host));
    }
    let keys: stream::SelectAll<stream::BoxStream<'static, Vec<Key>>> = stream::select_all([
        mapped(&context, context.objects.changes(), ClusterContext::on_object),
        mapped(&context, context.hosts.changes(), ClusterContext::on_host),
        mapped(&context, context.owners.changes(), ClusterContext::on_owner),
        mapped(&context, context.machines.changes(), ClusterContext::on_machine),
    ]);
    let wakes = keys.flat_map(stream::iter).map(|key| key.object_ref::<BareMetalCluster>());
    Controller::for_shared_stream(stream::pending(), context.objects.store())
        .with_config(Config::default().concurrency(concurrency))
        .reconcile_on(wakes)
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, back_off, context)
        .for_each(|_| futures::future::ready(()))
        .await;
    Ok(())
}

fn back_off(object: Arc<BareMetalCluster>, error: &ApiError, context: Arc<ClusterContext>) -> Action {
    if !error.is_conflict() {
        context.metrics.error(error.reason());
        tracing::warn!(object = %ObjectRef::from_obj(&*object), %error, "cluster not reconciled");
    }
    Action::requeue(context.retries.failed(&Key::of(&*object), error))
}

async fn reconcile(object: Arc<BareMetalCluster>, context: Arc<ClusterContext>) -> Result<Action, ApiError> {
    let started = Instant::now();
    let result = drive(object, &context).await;
    let label = match &result {
        Ok(_) => "done",
        Err(error) if error.is_conflict() => "conflict",
        Err(_) => "error",
    };
    context.metrics.reconciled("cluster", label, started.elapsed());
    result
}

async fn drive(object: Arc<BareMetalCluster>, context: &ClusterContext) -> Result<Action, ApiError> {
    let key = Key::of(&*object);
    let api: Api<BareMetalCluster> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut object = context.written.latest(object);
    for _ in 0..STEPS {
        let owner_name = capi_owner(&object.metadata, "Cluster").map(|o| o.name.clone());
        let owner = owner_name.as_ref().and_then(|name| context.owners.get(&Key::new(&key.namespace, name)));
        let domains = context.domains().of(&key.namespace);
        let deleting = object.metadata.deletion_timestamp.is_some();
        let machines_left = if deleting { context.machines_left(&object) } else { Vec::new() };
        let plan = planner::plan(&ClusterObservation {
            object: &object,
            owner: match (&owner_name, &owner) {
                (None, _) => Owner::None,
                (Some(name), None) => Owner::Missing(name),
                (Some(_), Some(owner)) => Owner::Found(owner),
            },
            domains: &domains,
            machines_left: &machines_left,
        });
        let version = object.resource_version();
        let change = match &plan.step {
            ClusterStep::Ignore => break,
            ClusterStep::AddFinalizer => {
                let mut finalizers = object.finalizers().to_vec();
                finalizers.push(names::CLUSTER_FINALIZER.to_owned());
                json!({ "metadata": { "finalizers": finalizers } })
            }
            ClusterStep::RemoveFinalizer => {
                let finalizers: Vec<_> =
                    object.finalizers().iter().filter(|f| *f != names::CLUSTER_FINALIZER).collect();
                let change = json!({ "metadata": { "finalizers": finalizers } });
                match patch::merge_patch(&api, &key.name, version.as_deref(), change).await {
                    Ok(_) => tracing::info!(cluster = %key, "cluster let go"),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
                break;
            }
            ClusterStep::SetEndpoint(endpoint) => json!({ "spec": { "controlPlaneEndpoint": endpoint } }),
            ClusterStep::Report => {
                let now = Time(Timestamp::now());
                let before = object.status.clone().unwrap_or_default();
                let after = planner::apply(&plan, object.status.as_ref(), object.metadata.generation, &now);
                if let Some(change) = merge_diff(&json!(before), &json!(after)) {
                    let change = json!({ "status": change });
                    let answer =
                        patch::merge_patch_status(&api, &key.name, version.as_deref(), change).await?;
                    context.written.put(Arc::new(answer));
                }
                break;
            }
        };
        let answer: BareMetalCluster =
            patch::merge_patch(&api, &key.name, version.as_deref(), change).await?;
        object = Arc::new(answer);
        context.written.put(object.clone());
    }
    context.retries.succeeded(&key);
    Ok(Action::requeue(RESYNC + backoff::spread(RESYNC / 2, &key.to_string())))
}
