//! A workload cluster with the real kube-scheduler: it places what fits and says so of what does not.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ferric_testbed::{Bed, ControlPlaneSpec, wait_until};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

fn pod(name: &str, cpu: &str) -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "example.com/app:1", "resources": {"requests": {"cpu": cpu}}}]},
    }))
    .unwrap()
}

#[tokio::test]
async fn pods_are_placed_as_far_as_they_fit() {
    let bed = Bed::builder().start().await.unwrap();
    let mut spec = ControlPlaneSpec::new("w");
    spec.scheduler = true;
    // Nobody says of this node that it is ready.
    spec.disabled_admission = vec!["TaintNodesByCondition".to_owned()];
    let workload = bed.start_workload_of(&spec).await.unwrap();
    assert_eq!(workload.pids().len(), 4);
    let node: Node = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"},
        "status": {"allocatable": {"cpu": "2", "pods": "10"}, "capacity": {"cpu": "2", "pods": "10"}},
    }))
    .unwrap();
    Api::all(workload.client()).create(&PostParams::default(), &node).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(workload.client(), "default");
    for one in [pod("small", "1"), pod("large", "3")] {
        pods.create(&PostParams::default(), &one).await.unwrap();
    }
    wait_until("the small pod to be bound", LIMIT, async || {
        let found = pods.get("small").await.map_err(|error| error.to_string())?;
        let node = found.spec.and_then(|spec| spec.node_name);
        if node.as_deref() == Some("one") { Ok(()) } else { Err(format!("{node:?}")) }
    })
    .await
    .unwrap();
    wait_until("the large pod to be refused", LIMIT, async || {
        let found = pods.get("large").await.map_err(|error| error.to_string())?;
        let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
        let refused = |condition: &&k8s_openapi::api::core::v1::PodCondition| {
            condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
        };
        conditions.iter().find(refused).map(drop).ok_or_else(|| format!("{conditions:?}"))
    })
    .await
    .unwrap();
    bed.stop().await;
}
