//! A cluster of a real API server and a real kube-scheduler, in which one case after the other is played.
//!
//! The scheduler learns of nodes, volumes and pods by separate watches, so it may know the pod and not yet the node. Before
//! a case begins, a pod is placed that needs the last of each: a label of a node, a volume, a namespace, a pod beside it.
//! When it is placed, everything before it was seen, and what the previous case left is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use ferric::autoscaling::schedule::Cluster;
use ferric::autoscaling::schedule::cases::Case;
use ferric_testbed::Bed;
use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use super::extender::Extender;

/// How long the scheduler may take for a pod. It takes milliseconds.
const LIMIT: Duration = Duration::from_secs(60);
/// The node and the namespace of what shows how far the scheduler is.
const BARRIER: &str = "barrier";
/// Plugins that change objects or ask for controllers: here objects are stored as they are given.
const PLUGINS: [&str; 4] =
    ["TaintNodesByCondition", "ServiceAccount", "Priority", "StorageObjectInUseProtection"];

/// What the scheduler made of a pod.
pub struct Verdict {
    /// The pod, as it is now.
    pub pod: Pod,
    /// The nodes that passed the filters.
    pub nodes: BTreeSet<String>,
    /// What it says of a pod that it did not place.
    pub message: String,
}

impl Verdict {
    /// The node that it was placed on.
    pub fn chosen(&self) -> Option<&str> {
        self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
    }
}

/// The cluster.
pub struct Arena {
    bed: Bed,
    client: Client,
    extender: Extender,
    namespaces: Vec<Namespace>,
    seen: UnboundedReceiver<Pod>,
    round: u64,
    watch: JoinSet<()>,
}

impl Arena {
    /// Starts it, with these namespaces.
    pub async fn start(namespaces: &[Namespace]) -> Self {
        let extender = Extender::start().await;
        let bed = Bed::builder()
            .scheduler(true)
            .scheduler_extender(extender.url())
            .without_admission(PLUGINS)
            .start()
            .await
            .unwrap();
        let client = bed.client();
        let own: Namespace = object(json!({"metadata": {"name": BARRIER}}));
        let all: Vec<Namespace> = namespaces.iter().cloned().chain([own]).collect();
        let namespaces = create(Api::all(client.clone()), &all).await;
        // It takes two pods, those of the barrier, and is in no topology.
        let room = json!({"cpu": "1", "memory": "1Gi", "pods": "2"});
        let node: Node = object(json!({
            "metadata": {"name": BARRIER},
            "spec": {"taints": [{"key": BARRIER, "effect": "NoSchedule"}]},
            "status": {"allocatable": room, "capacity": room},
        }));
        create(Api::all(client.clone()), &[node]).await;
        let (send, seen) = unbounded_channel();
        let pods = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default());
        // Without a pause it would ask for ever, and never yield, once the API server is gone.
        let pods = pods.default_backoff().applied_objects();
        let mut watch = JoinSet::new();
        watch.spawn(async move {
            let mut pods = std::pin::pin!(pods);
            while let Some(pod) = pods.next().await {
                // The watcher goes on after an error; whoever waits has a limit.
                if pod.is_ok_and(|pod| send.send(pod).is_err()) {
                    return;
                }
            }
        });
        Self { bed, client, extender, namespaces, seen, round: 0, watch }
    }

    /// Makes all of a case but its waiting pods, and returns it as the API server has stored it.
    pub async fn set_up(&mut self, case: &Case) -> Cluster {
        let mut cluster = Cluster::default();
        self.namespaces.iter().for_each(|one| cluster.put_namespace(one));
        let client = &self.client;
        let (nodes, volumes, claims, bound) = tokio::join!(
            create(Api::all(client.clone()), &case.nodes),
            create(Api::all(client.clone()), &case.volumes),
            in_spaces(client, &case.claims),
            in_spaces(client, &case.bound),
        );
        nodes.iter().for_each(|one| cluster.put_node(one));
        volumes.iter().for_each(|one| cluster.put_volume(one));
        claims.iter().for_each(|one| cluster.put_claim(one));
        bound.iter().for_each(|one| cluster.put_pod(one));
        self.barrier(!case.volumes.is_empty(), &mut cluster).await;
        cluster
    }

    /// Returns when the scheduler has seen all that there is.
    async fn barrier(&mut self, volumes: bool, cluster: &mut Cluster) {
        self.round += 1;
        let round = self.round.to_string();
        let client = &self.client;
        let space = |name: &str| json!({"name": name, "namespace": BARRIER, "labels": {"round": round}});
        let container = json!([{"name": "main", "image": "example.com/app:1"}]);
        let here: Pod = object(json!({
            "metadata": space("here"), "spec": {"nodeName": BARRIER, "containers": container},
        }));
        let capacity = json!({"storage": "1Gi"});
        let volume: PersistentVolume = object(json!({
            "metadata": {"name": BARRIER},
            "spec": {
                "capacity": capacity, "accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
                "csi": {"driver": "csi.example.com", "volumeHandle": round},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": BARRIER, "operator": "In", "values": [round]}]},
                ]}},
            },
        }));
        let mut metadata = space("claim");
        metadata["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
        let claim: PersistentVolumeClaim = object(json!({
            "metadata": metadata,
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "volumeName": BARRIER,
                "resources": {"requests": capacity},
            },
        }));
        let mut pod = json!({
            "metadata": space(BARRIER),
            "spec": {
                "containers": container,
                "nodeSelector": {BARRIER: round},
                "tolerations": [{"operator": "Exists"}],
                "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
                    "topologyKey": BARRIER,
                    "labelSelector": {"matchLabels": {"round": round}},
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": BARRIER}},
                }]}},
            },
        });
        if volumes {
            let source = json!({"claimName": "claim"});
            pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": source}]);
        }
        let all_nodes = Api::<Node>::all(client.clone());
        let (volume, claim) = if volumes { (vec![volume], vec![claim]) } else { (Vec::new(), Vec::new()) };
        let label = Patch::Merge(json!({"metadata": {"labels": {BARRIER: round}}}));
        let parameters = PatchParams::default();
        let (node, here, volume, claim) = tokio::join!(
            all_nodes.patch(BARRIER, &parameters, &label),
            in_spaces(client, std::slice::from_ref(&here)),
            create(Api::all(client.clone()), &volume),
            in_spaces(client, &claim),
        );
        cluster.put_node(&node.unwrap());
        here.iter().for_each(|one| cluster.put_pod(one));
        volume.iter().for_each(|one| cluster.put_volume(one));
        claim.iter().for_each(|one| cluster.put_claim(one));
        let pod = self.submit(&object(pod)).await;
        let verdict =
            self.wait(&pod, |pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())).await;
        cluster.put_pod(&verdict.pod);
    }

    /// Makes a pod for the scheduler to place.
    pub async fn submit(&self, pod: &Pod) -> Pod {
        in_spaces(&self.client, std::slice::from_ref(pod)).await.remove(0)
    }

    /// What the scheduler makes of a pod that was submitted.
    pub async fn verdict(&mut self, pod: &Pod) -> Verdict {
        self.wait(pod, |pod| {
            let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            bound || refused(pod).is_some()
        })
        .await
    }

    async fn wait(&mut self, pod: &Pod, done: impl Fn(&Pod) -> bool) -> Verdict {
        let uid = pod.metadata.uid.clone().unwrap();
        let found = tokio::time::timeout(LIMIT, async {
            loop {
                let pod = self.seen.recv().await.unwrap();
                if pod.metadata.uid.as_ref() == Some(&uid) && done(&pod) {
                    return pod;
                }
            }
        });
        let Ok(pod) = found.await else {
            self.bed.control_plane_mut().check().unwrap();
            panic!("the scheduler said nothing of {pod:?}");
        };
        let message = refused(&pod).unwrap_or_default();
        Verdict { nodes: self.extender.nodes(&uid), pod, message }
    }

    /// Takes a pod away that was not placed.
    pub async fn remove(&self, pod: &Pod) {
        let space = pod.metadata.namespace.as_deref().unwrap();
        let pods = Api::<Pod>::namespaced(self.client.clone(), space);
        let name = pod.metadata.name.as_deref().unwrap();
        pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    /// Takes everything of a case away.
    pub async fn clear(&mut self, case: &Case) {
        let client = &self.client;
        let spaces: Vec<&str> =
            self.namespaces.iter().filter_map(|space| space.metadata.name.as_deref()).collect();
        let pods = spaces.iter().map(|space| delete_all::<Pod>(Api::namespaced(client.clone(), space), ""));
        // All but that of the barrier.
        let nodes = delete_all::<Node>(Api::all(client.clone()), "!barrier");
        tokio::join!(join_all(pods), nodes);
        if !case.volumes.is_empty() {
            let claims = spaces
                .iter()
                .map(|space| delete_all::<PersistentVolumeClaim>(Api::namespaced(client.clone(), space), ""));
            let volumes = delete_all::<PersistentVolume>(Api::all(client.clone()), "");
            tokio::join!(join_all(claims), volumes);
        }
    }

    /// Ends it.
    pub async fn stop(mut self) {
        self.watch.shutdown().await;
        self.bed.stop().await;
    }
}

/// Why the scheduler did not place a pod, if it says so.
fn refused(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let found = conditions.into_iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
    })?;
    Some(found.message.clone().unwrap_or_default())
}

/// An object from JSON.
fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Makes objects, at once; returns them as stored.
async fn create<K: Clone + Debug + DeserializeOwned + Serialize>(api: Api<K>, objects: &[K]) -> Vec<K> {
    let (api, parameters) = (&api, &PostParams::default());
    let made =
        objects.iter().map(async |one| api.create(parameters, one).await.map_err(|error| (error, one)));
    try_join_all(made).await.unwrap()
}

/// The same of kinds that are in namespaces.
async fn in_spaces<K>(client: &Client, objects: &[K]) -> Vec<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize,
{
    let mut by_space: BTreeMap<String, Vec<K>> = BTreeMap::new();
    for one in objects {
        by_space.entry(one.meta().namespace.clone().unwrap()).or_default().push(one.clone());
    }
    let made = by_space
        .iter()
        .map(|(space, objects)| async move { create(Api::namespaced(client.clone(), space), objects).await });
    join_all(made).await.into_iter().flatten().collect()
}

async fn delete_all<K: Clone + Debug + DeserializeOwned>(api: Api<K>, labels: &str) {
    let at_once = DeleteParams::default().grace_period(0);
    api.delete_collection(&at_once, &ListParams::default().labels(labels)).await.unwrap();
}
