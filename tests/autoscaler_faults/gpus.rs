//! Two kinds of servers with GPUs, of one of which none is left.

use serde_json::{Value, json};

use crate::groups::{autoscale, patch_group, rounds, told, wait_for_group};
use crate::load::{self, wait_for_refused, wait_for_running};
use crate::{NO_HOST, ROUNDS, Scene};

const FULL: &str = "h100";
const FREE: &str = "a100";
/// Carried by Cluster API from Machine to Node, some time after the node is ready.
const KIND: &str = "node.cluster.x-k8s.io/gpu-kind";

pub async fn run(scene: &Scene) {
    for (kind, least) in [(FULL, 1), (FREE, 0)] {
        let hosts = json!({"labels": {"ferric.infrastructure.cluster.x-k8s.io/class": kind}});
        scene.group(kind, hosts, json!({ KIND: kind }), json!({"spec": {"minReplicas": least}})).await;
    }
    one_kind_is_used_up(scene).await;
    either_will_do(scene).await;
    only_that_kind_will_do(scene).await;
    for load in ["holder", "either", "choosy"] {
        load::scale(scene.workload(), load, 0).await;
    }
    patch_group(&scene.stack, FULL, json!({"spec": {"minReplicas": 0}})).await;
    scene.emptied(&[FULL, FREE]).await;
}

/// All GPUs of a server.
fn gpus() -> Value {
    json!({"cpu": "1", "nvidia.com/gpu": "2"})
}

async fn one_kind_is_used_up(scene: &Scene) {
    load::create(scene.workload(), "holder", 1, gpus(), json!({ KIND: FULL })).await;
    wait_for_running(&scene.stack, scene.workload(), "holder", (1, 1)).await;
    wait_for_group(&scene.stack, FREE, "its hosts to be known", |group| {
        group.status.as_ref().is_some_and(|status| status.usable_hosts == Some(3))
    })
    .await;
    assert_eq!([FULL, FREE].map(|kind| scene.numbers(kind, 0)), [vec![0, 1], vec![0]]);
}

/// The GPUs of a node are there only some time after the node, and no third one is ordered meanwhile.
async fn either_will_do(scene: &Scene) {
    let since = scene.replicas.now();
    load::create(scene.workload(), "either", 2, gpus(), json!({})).await;
    wait_for_running(&scene.stack, scene.workload(), "either", (2, 2)).await;
    rounds(&scene.stack, ROUNDS).await;
    let [full, free] = [FULL, FREE].map(|kind| scene.numbers(kind, since));
    assert_eq!(
        (full.as_slice(), free.first(), free.last()),
        ([1].as_slice(), Some(&0), Some(&2)),
        "{free:?}"
    );
    assert!(free.is_sorted(), "{free:?}");
}

async fn only_that_kind_will_do(scene: &Scene) {
    let since = scene.replicas.now();
    load::create(scene.workload(), "choosy", 1, gpus(), json!({ KIND: FULL })).await;
    wait_for_refused(scene.workload(), "choosy", 1).await;
    wait_for_group(&scene.stack, FULL, "to say why it is not raised", |group| {
        told(group, "ScalingLimited").as_deref() == Some(NO_HOST)
    })
    .await;
    rounds(&scene.stack, ROUNDS).await;
    assert_eq!([FULL, FREE].map(|kind| scene.numbers(kind, since)), [vec![1], vec![2]]);
    let explained = autoscale(&scene.stack, &["explain", FULL]).await;
    for said in
        ["pods of the cluster that wait, and that no group has a place for: 1", "default/choosy-", NO_HOST]
    {
        assert!(explained.contains(said), "{said}: {explained}");
    }
}
