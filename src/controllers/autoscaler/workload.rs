//! A workload cluster as it is seen: what its API server tells of nodes, pods and what decides where pods go, kept in
//! the compact model that decisions look at. Nothing of the API objects themselves is kept.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::nodes;
use crate::autoscaling::gather::NodeFacts;
use crate::autoscaling::schedule::Cluster;
use crate::autoscaling::schedule::quantity::Amount;
use crate::watch::Guarded;

/// What is asked of the API server directly must answer within this.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pods that have not ended.
pub(crate) const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// A workload cluster that is watched. The watches end when it is dropped.
pub struct Workload {
    client: Client,
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

impl std::fmt::Debug for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workload").field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// What is known of it.
#[derive(Debug, Default)]
pub struct Seen {
    /// What decides where pods go.
    pub cluster: Cluster,
    /// What else is known of nodes, by name.
    pub nodes: BTreeMap<String, NodeFacts>,
    /// What is known of each kind that is watched.
    kinds: BTreeMap<&'static str, Kind>,
}

/// One kind that is watched.
#[derive(Debug, Default)]
struct Kind {
    /// Namespace and name of all that there are.
    there: HashSet<(String, String)>,
    /// Those of a list that is being read.
    listed: HashSet<(String, String)>,
    /// Those that are there and cannot be parsed: what they ask for is not known.
    unreadable: BTreeSet<(String, String)>,
    /// The first list was read to its end.
    complete: bool,
    /// Why it is not known what is there now.
    broken: Option<String>,
}

/// A kind that is watched, and how it is taken in.
trait Watched: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    /// For messages.
    const NAME: &'static str;
    fn put(&self, seen: &mut Seen);
    fn remove(seen: &mut Seen, namespace: &str, name: &str);
}

macro_rules! watched {
    ($kind:ty, $name:literal, $put:ident, |$cluster:ident, $namespace:ident, $object:ident| $remove:expr) => {
        impl Watched for $kind {
            const NAME: &'static str = $name;
            fn put(&self, seen: &mut Seen) {
                seen.cluster.$put(self);
            }
            fn remove(seen: &mut Seen, $namespace: &str, $object: &str) {
                let $cluster = &mut seen.cluster;
                $remove
            }
        }
    };
}

watched!(Pod, "pods", put_pod, |cluster, namespace, name| cluster.remove_pod(namespace, name));
watched!(PodDisruptionBudget, "poddisruptionbudgets", put_budget, |cluster, namespace, name| cluster
    .remove_budget(namespace, name));
watched!(DaemonSet, "daemonsets", put_daemon_set, |cluster, namespace, name| cluster
    .remove_daemon_set(namespace, name));
watched!(PersistentVolumeClaim, "persistentvolumeclaims", put_claim, |cluster, namespace, name| cluster
    .remove_claim(namespace, name));
watched!(PersistentVolume, "persistentvolumes", put_volume, |cluster, _namespace, name| cluster
    .remove_volume(name));
watched!(StorageClass, "storageclasses", put_storage_class, |cluster, _namespace, name| cluster
    .remove_storage_class(name));
watched!(Namespace, "namespaces", put_namespace, |cluster, _namespace, name| cluster.remove_namespace(name));

impl Watched for Node {
    const NAME: &'static str = "nodes";

    fn put(&self, seen: &mut Seen) {
        seen.cluster.put_node(self);
        seen.nodes.insert(self.name_any(), facts(self));
    }

    fn remove(seen: &mut Seen, _namespace: &str, name: &str) {
        seen.cluster.remove_node(name);
        seen.nodes.remove(name);
    }
}

/// What is known of a Node beside what a scheduler looks at.
pub(crate) fn facts(node: &Node) -> NodeFacts {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    let draining = nodes::draining(node);
    let cordoned = nodes::cordoned(node);
    NodeFacts {
        provider_id: node.spec.as_ref().and_then(|spec| spec.provider_id.clone()),
        created: node.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ready: ready.is_some_and(|condition| condition.status == "True"),
        ready_since: ready.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0),
        cordoned,
        // Who cordoned it has something in mind.
        kept: cordoned && draining.is_none() || nodes::is_kept(node),
        draining,
    }
}

/// The cluster cannot be judged, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    /// The first lists are not there yet.
    #[error("the first list of {0} is not there yet")]
    NotYet(&'static str),
    /// What is known may be old.
    #[error("{kind} cannot be watched: {why}")]
    Stale {
        /// Which kind.
        kind: &'static str,
        /// What the watch said.
        why: String,
    },
    /// It has an object that cannot be parsed.
    #[error("{kind} {object} cannot be parsed: nothing is known of what it asks for")]
    Unreadable {
        /// Which kind.
        kind: &'static str,
        /// `namespace/name`.
        object: String,
    },
    /// It does not answer.
    #[error("the API server does not answer: {0}")]
    Silent(String),
}

impl Workload {
    /// Begins to watch.
    #[must_use]
    pub fn start(client: Client) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let mut tasks = JoinSet::new();
        let pods = watcher::Config::default().fields(NOT_ENDED);
        watch::<Pod>(&client, pods, &seen, &mut tasks);
        watch::<Node>(&client, watcher::Config::default(), &seen, &mut tasks);
        watch::<PodDisruptionBudget>(&client, watcher::Config::default(), &seen, &mut tasks);
        watch::<DaemonSet>(&client, watcher::Config::default(), &seen, &mut tasks);
        watch::<PersistentVolumeClaim>(&client, watcher::Config::default(), &seen, &mut tasks);
        watch::<PersistentVolume>(&client, watcher::Config::default(), &seen, &mut tasks);
        watch::<StorageClass>(&client, watcher::Config::default(), &seen, &mut tasks);
        watch::<Namespace>(&client, watcher::Config::default(), &seen, &mut tasks);
        Self { client, seen, _tasks: tasks }
    }

    /// What is seen now. Decisions are made while it is held: they take milliseconds.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of the cluster.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether what is seen is what is there, as far as can be told: every kind was listed, none of the watches is broken,
    /// and the API server answers a question now. A watch over a connection that has silently died looks whole for
    /// minutes, the question does not.
    pub async fn fresh(&self) -> Result<(), Unseen> {
        self.seen().whole()?;
        let asked = tokio::time::timeout(DEADLINE, self.client.apiserver_version()).await;
        match asked {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Unseen::Silent(error.to_string())),
            Err(_) => Err(Unseen::Silent(format!("not within {} s", DEADLINE.as_secs()))),
        }
    }
}

/// The part of `metrics.k8s.io`'s list of nodes that is read.
#[derive(Deserialize)]
struct NodeMetricsList {
    items: Vec<NodeMetrics>,
}

#[derive(Deserialize)]
struct NodeMetrics {
    metadata: ObjectMeta,
    usage: BTreeMap<String, Quantity>,
}

/// What nodes use, by node and resource, as metrics-server says it (API `metrics.k8s.io/v1beta1`); none where it does not.
pub(crate) async fn usage(client: &Client) -> Option<BTreeMap<String, BTreeMap<String, f64>>> {
    let request = http::Request::get("/apis/metrics.k8s.io/v1beta1/nodes").body(Vec::new()).ok()?;
    let list = tokio::time::timeout(DEADLINE, client.request::<NodeMetricsList>(request)).await.ok()?.ok()?;
    let number = |(name, quantity): (String, Quantity)| {
        Amount::parse(&quantity.0).ok().map(|amount| (name, amount.decimal()))
    };
    let of_node = |item: NodeMetrics| {
        item.metadata.name.map(|name| (name, item.usage.into_iter().filter_map(number).collect()))
    };
    Some(list.items.into_iter().filter_map(of_node).collect())
}

impl Seen {
    fn whole(&self) -> Result<(), Unseen> {
        for (name, kind) in &self.kinds {
            if let Some(why) = &kind.broken {
                return Err(Unseen::Stale { kind: name, why: why.clone() });
            }
            if !kind.complete {
                return Err(Unseen::NotYet(name));
            }
            if let Some((namespace, object)) = kind.unreadable.first() {
                return Err(Unseen::Unreadable { kind: name, object: format!("{namespace}/{object}") });
            }
        }
        Ok(())
    }

    fn kind(&mut self, name: &'static str) -> &mut Kind {
        self.kinds.entry(name).or_default()
    }

    fn take<K: Watched>(&mut self, event: watcher::Result<Event<Guarded<K>>>) {
        match event {
            Ok(Event::Init) => self.kind(K::NAME).listed.clear(),
            Ok(Event::InitApply(object)) => {
                let key = self.put(object);
                self.kind(K::NAME).listed.insert(key);
            }
            Ok(Event::InitDone) => {
                let kind = self.kind(K::NAME);
                let listed = std::mem::take(&mut kind.listed);
                let gone: Vec<_> = kind.there.difference(&listed).cloned().collect();
                (kind.complete, kind.broken) = (true, None);
                gone.iter().for_each(|key| self.remove::<K>(key));
            }
            Ok(Event::Apply(object)) => {
                self.kind(K::NAME).broken = None;
                self.put(object);
            }
            Ok(Event::Delete(object)) => {
                self.kind(K::NAME).broken = None;
                self.remove::<K>(&key(&object));
            }
            Err(error) => self.kind(K::NAME).broken = Some(error.to_string()),
        }
    }

    fn put<K: Watched>(&mut self, object: Guarded<K>) -> (String, String) {
        let key = key(&object);
        match object.into_object() {
            Some(object) => {
                object.put(self);
                self.kind(K::NAME).unreadable.remove(&key);
            }
            // What was known of it before is old.
            None => {
                K::remove(self, &key.0, &key.1);
                self.kind(K::NAME).unreadable.insert(key.clone());
            }
        }
        self.kind(K::NAME).there.insert(key.clone());
        key
    }

    fn remove<K: Watched>(&mut self, key: &(String, String)) {
        K::remove(self, &key.0, &key.1);
        let kind = self.kind(K::NAME);
        kind.there.remove(key);
        kind.unreadable.remove(key);
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn watch<K: Watched>(
    client: &Client,
    config: watcher::Config,
    seen: &Arc<Mutex<Seen>>,
    tasks: &mut JoinSet<()>,
) {
    // It counts as not listed from the beginning, not from its first answer.
    seen.lock().unwrap_or_else(PoisonError::into_inner).kind(K::NAME);
    let (api, seen) = (Api::<Guarded<K>>::all(client.clone()), seen.clone());
    tasks.spawn(async move {
        let mut events = std::pin::pin!(kube::runtime::watcher(api, config).default_backoff());
        while let Some(event) = events.next().await {
            seen.lock().unwrap_or_else(PoisonError::into_inner).take(event);
        }
    });
}
