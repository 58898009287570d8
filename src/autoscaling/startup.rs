//! Nodes that have just begun. A node is ready a moment before the taints are gone that kept pods off while it started;
//! until then nothing is put on it. It counts as it will be, or a node more would be ordered for the pods that are about to
//! run on it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;

use super::schedule::Cluster;
use super::{Machine, NodeState};

/// How long after its creation a node counts as starting, in seconds: `MaxNodeStartupTime` of cluster-autoscaler
/// (`cluster-autoscaler/clusterstate/clusterstate.go`), 15 minutes. Taints that stay longer are taken as they are.
const STARTS: i64 = 900;

/// Taints that whoever prepares a node takes away when it is done. The admission plugin `TaintNodesByCondition` puts the first
/// on each new Node; the others are of Kubernetes' "Well-Known Labels, Annotations and Taints", of Cluster API
/// (`NodeUninitializedTaint`) and of Cilium's "Taint Effects and Unmanaged Pods".
const TAINTS: [&str; 5] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/network-unavailable",
    "node.cloudprovider.kubernetes.io/uninitialized",
    "node.cluster.x-k8s.io/uninitialized",
    "node.cilium.io/agent-not-ready",
];

/// What people name such taints of their own by (`cluster-autoscaler/utils/taints/taints.go`).
const PREFIXES: [&str; 2] =
    ["startup-taint.cluster-autoscaler.kubernetes.io/", "ignore-taint.cluster-autoscaler.kubernetes.io/"];

/// Whether a taint with this key goes away by itself once the node has started.
fn is_of_start(key: &str) -> bool {
    TAINTS.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// Whether a node is ready and has just begun.
fn starts(state: &NodeState, now: Timestamp) -> bool {
    state.ready && state.created.is_some_and(|created| now.duration_since(created).as_secs() < STARTS)
}

/// Takes nodes that are ready and have just begun without the taints of their start.
pub fn settle(cluster: &mut Cluster, nodes: &BTreeMap<String, NodeState>, now: Timestamp) {
    for (name, _) in nodes.iter().filter(|(_, state)| starts(state, now)) {
        cluster.untaint(name, is_of_start);
    }
}

/// Takes those of a group's nodes that are ready and have just begun with all that the group's template has: Cluster API
/// carries labels over only when it has found the Node, and devices are there only when their plugin runs on it.
pub fn complete(
    cluster: &mut Cluster,
    template: Option<&Node>,
    machines: &[Machine],
    nodes: &BTreeMap<String, NodeState>,
    now: Timestamp,
) {
    let mut new = machines
        .iter()
        .filter_map(|machine| machine.node.as_deref())
        .filter(|node| nodes.get(*node).is_some_and(|state| starts(state, now)))
        .peekable();
    // Mostly there is none, and reading a template is work.
    if new.peek().is_none() {
        return;
    }
    let Some(template) = template.map(|template| cluster.template(template)) else { return };
    new.for_each(|node| cluster.complete(node, &template));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn fits(taint: &str, ready: bool, age: i64) -> bool {
        let mut cluster = Cluster::default();
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": [{"key": taint, "effect": "NoSchedule"}]},
            "status": {
                "allocatable": {"cpu": "4", "pods": "10"},
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        }))
        .unwrap();
        cluster.put_node(&node);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
        }))
        .unwrap();
        cluster.put_pod(&pod);
        let now = Timestamp::from_second(NOW).unwrap();
        let created = Timestamp::from_second(NOW - age).ok();
        let state = NodeState { ready, created, held: false };
        settle(&mut cluster, &BTreeMap::from([("n".to_owned(), state)]), now);
        let simulation = cluster.simulate();
        let pod = simulation.waiting()[0];
        simulation.feasible(pod, simulation.node("n").unwrap()).is_ok()
    }

    #[test]
    fn a_ready_node_that_has_just_begun_takes_pods() {
        let of_start =
            ["node.kubernetes.io/not-ready", "startup-taint.cluster-autoscaler.kubernetes.io/mesh"];
        for taint in of_start {
            assert!(fits(taint, true, 3), "{taint}");
            assert!(!fits(taint, false, 3), "{taint}: it is not ready");
            assert!(!fits(taint, true, 900), "{taint}: it stays");
        }
        assert!(!fits("gpu", true, 3), "that one is meant");
        assert!(!fits("node.kubernetes.io/disk-pressure", true, 3));
    }
    /// Of a node with processors alone, and a template that has a label and devices too.
    fn takes(asks: serde_json::Value, age: i64) -> bool {
        let node = |labels: serde_json::Value, more: &[(&str, &str)]| -> Node {
            let mut allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
            for (resource, amount) in more {
                allocatable[resource] = json!(amount);
            }
            let conditions = json!([{"type": "Ready", "status": "True"}]);
            serde_json::from_value(json!({
                "metadata": {"name": "n", "labels": labels},
                "status": {"allocatable": allocatable, "conditions": conditions},
            }))
            .unwrap()
        };
        let mut cluster = Cluster::default();
        cluster.put_node(&node(json!({"pool": "own", "kubernetes.io/hostname": "n"}), &[]));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d"},
            "spec": {
                "nodeSelector": asks["labels"],
                "containers": [{"name": "c", "resources": {"requests": asks["requests"]}}],
            },
        }))
        .unwrap();
        cluster.put_pod(&pod);
        let template = node(
            json!({"pool": "other", "node.cluster.x-k8s.io/kind": "a"}),
            &[("cpu", "8"), ("nvidia.com/gpu", "2")],
        );
        let machine = Machine { node: Some("n".to_owned()), ..Machine::default() };
        let now = Timestamp::from_second(NOW).unwrap();
        let state = NodeState { ready: true, created: Timestamp::from_second(NOW - age).ok(), held: false };
        let states = BTreeMap::from([("n".to_owned(), state)]);
        complete(&mut cluster, Some(&template), &[machine], &states, now);
        let simulation = cluster.simulate();
        let pod = simulation.waiting()[0];
        simulation.feasible(pod, simulation.node("n").unwrap()).is_ok()
    }

    #[test]
    fn a_node_that_has_just_begun_has_what_it_will_have() {
        let kind = json!({"labels": {"node.cluster.x-k8s.io/kind": "a"}});
        let gpus = json!({"requests": {"nvidia.com/gpu": "2"}});
        for asks in [&kind, &gpus] {
            assert!(takes(asks.clone(), 3), "{asks}");
            assert!(!takes(asks.clone(), 900), "{asks}: it has not come");
        }
        assert!(!takes(json!({"requests": {"nvidia.com/gpu": "3"}}), 3));
        assert!(!takes(json!({"requests": {"cpu": "5"}}), 3), "what it says of itself counts");
        assert!(takes(json!({"labels": {"pool": "own", "kubernetes.io/hostname": "n"}}), 3));
    }
}
