//! Nodes that have just begun. A node is ready a moment before the taints are gone that kept pods off while it started;
//! until then nothing is put on it. It counts as it will be, or a node more would be ordered for the pods that are about to
//! run on it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::NodeState;
use super::schedule::Cluster;

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

/// Takes nodes that are ready and have just begun without the taints of their start.
pub fn settle(cluster: &mut Cluster, nodes: &BTreeMap<String, NodeState>, now: Timestamp) {
    let starts = |state: &NodeState| {
        state.ready && state.created.is_some_and(|created| now.duration_since(created).as_secs() < STARTS)
    };
    for (name, _) in nodes.iter().filter(|(_, state)| starts(state)) {
        cluster.untaint(name, is_of_start);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::core::v1::{Node, Pod};
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
}
