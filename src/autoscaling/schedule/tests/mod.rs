#![allow(clippy::unwrap_used)]

mod drain;
mod filters;
mod packing;
mod properties;
mod reference;
mod requests;
mod spoiled;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::{Cluster, PodId, Simulation};

/// An object from JSON.
fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A node with 4 cores, 8 GiB, 10 pods, in zone `a`, changed by a JSON merge.
fn node(name: &str, change: Value) -> Node {
    let mut base = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "a"}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}},
    });
    merge(&mut base, change);
    object(base)
}

/// A pod of namespace `blue`, label `app: web` and a controller, with one container that asks for a core, changed by a
/// JSON merge.
fn pod(name: &str, change: Value) -> Pod {
    let mut base = json!({
        "metadata": {
            "name": name, "namespace": "blue", "labels": {"app": "web"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "1", "controller": true},
            ],
        },
        "spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "1"}}}]},
    });
    merge(&mut base, change);
    object(base)
}

/// The same, running on a node.
fn bound(name: &str, on: &str, change: Value) -> Pod {
    let mut running = json!({
        "spec": {"nodeName": on},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    merge(&mut running, change);
    pod(name, running)
}

/// RFC 7396.
fn merge(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    base.remove(&key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (base, change) => *base = change,
    }
}

fn cluster(nodes: &[Node], pods: &[Pod]) -> Cluster {
    let mut cluster = Cluster::default();
    nodes.iter().for_each(|node| cluster.put_node(node));
    pods.iter().for_each(|pod| cluster.put_pod(pod));
    cluster
}

/// A pod by its name without namespace.
fn find(simulation: &Simulation<'_>, name: &str) -> PodId {
    simulation.pods().find(|(_, pod)| &*pod.name == name).unwrap().0
}

/// Why a pod does not fit on each node, by name of the node; empty if it fits.
fn verdicts(cluster: &Cluster, name: &str) -> Vec<String> {
    let simulation = Simulation::new(cluster);
    let pod = find(&simulation, name);
    cluster
        .nodes()
        .map(|(node, _)| {
            let node = simulation.node(node).unwrap();
            simulation.feasible(pod, node).map_or_else(|reason| reason.to_string(), |()| String::new())
        })
        .collect()
}
