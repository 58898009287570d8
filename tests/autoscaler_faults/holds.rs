//! While a MachineDeployment is being rolled out, and while its Cluster is paused, its number stays, whatever pods want; and
//! afterwards it goes on.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::e2e::patch_host;
use crate::groups::{core, pause, rounds, says, wait_for_group};
use crate::load::{self, offered_cpus, wait_for_refused, wait_for_running};
use crate::{ROUNDS, Scene};

const GROUP: &str = "web";
const HOSTS: [&str; 4] = ["host-03", "host-04", "host-05", "host-06"];
const POOL: &str = "test.example/pool";
const NODE_POOL: &str = "node.cluster.x-k8s.io/pool";

pub async fn a_roll_out(scene: &Scene) {
    for host in HOSTS {
        patch_host(&scene.stack, host, json!({"metadata": {"labels": {POOL: GROUP}}})).await;
    }
    scene.group(GROUP, json!({"labels": {POOL: GROUP}}), json!({ NODE_POOL: GROUP }), json!({})).await;
    let cpus = 3 * offered_cpus(&scene.stack, GROUP).await / 5;
    let requests = json!({"cpu": cpus.to_string()});
    load::create(scene.workload(), GROUP, 2, requests, json!({ NODE_POOL: GROUP })).await;
    wait_for_running(&scene.stack, scene.workload(), GROUP, (2, 2)).await;
    assert_eq!(scene.numbers(GROUP, 0).last(), Some(&2));

    let since = scene.replicas.now();
    // An image that is not what it should be: the new machine has a host, and never becomes a node.
    roll_out(scene, "web-broken", json!({"checksum": "0".repeat(64)})).await;
    on_hold(scene, "is being rolled out").await;
    nothing_is_written(scene, 2, since).await;

    roll_out(scene, "web-mended", json!({})).await;
    settled(scene, 3).await;
    assert_eq!(scene.numbers(GROUP, since), [2, 3], "it goes on, and not before");
}

pub async fn a_pause(scene: &Scene) {
    let since = scene.replicas.now();
    pause(&scene.stack, true).await;
    on_hold(scene, "Cluster prod is paused").await;
    nothing_is_written(scene, 3, since).await;

    pause(&scene.stack, false).await;
    settled(scene, 4).await;
    assert_eq!(scene.numbers(GROUP, since), [3, 4], "it goes on, and not before");
}

/// Though one host is free: for a pod that waits, and for nodes that are idle. One pod waits at the end.
async fn nothing_is_written(scene: &Scene, replicas: i32, since: usize) {
    let stack = &scene.stack;
    wait_for_group(stack, GROUP, "one host to be free", |group| {
        group.status.as_ref().is_some_and(|status| status.usable_hosts == Some(1))
    })
    .await;
    let number = usize::try_from(replicas).unwrap();
    for (pods, nodes, wait) in [(replicas + 1, number, 1), (1, 1, 0), (replicas + 1, number, 1)] {
        load::scale(scene.workload(), GROUP, pods).await;
        wait_for_running(stack, scene.workload(), GROUP, (nodes, nodes)).await;
        wait_for_refused(scene.workload(), GROUP, wait).await;
        rounds(stack, ROUNDS).await;
        assert_eq!(scene.numbers(GROUP, since), [i64::from(replicas)], "with {pods} pods");
        assert!(scene.cordoned().await.is_empty(), "nothing is emptied");
    }
}

/// Gives the MachineDeployment another template.
async fn roll_out(scene: &Scene, template: &str, image: Value) {
    let object = scene.template(template, json!({"matchLabels": {POOL: GROUP}}), image);
    scene.stack.bed.apply(&object.to_string()).await.unwrap();
    let change = json!({"spec": {"template": {"spec": {"infrastructureRef": {"name": template}}}}});
    let deployments = core(&scene.stack, "MachineDeployment");
    deployments.patch(GROUP, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

async fn on_hold(scene: &Scene, why: &str) {
    wait_for_group(&scene.stack, GROUP, why, |group| {
        says(group, "ScalingActive").is_some_and(|active| {
            (active.status.as_str(), active.reason.as_str()) == ("False", "OnHold")
                && active.message.contains(why)
        })
    })
    .await;
}

/// Waits until the group is not on hold, has so many nodes, and a pod runs on each. While it is rolled out there is a node more.
async fn settled(scene: &Scene, nodes: i32) {
    let free = i32::try_from(HOSTS.len()).unwrap() - nodes;
    wait_for_group(&scene.stack, GROUP, &format!("{nodes} nodes"), |group| {
        let status = group.status.clone().unwrap_or_default();
        says(group, "ScalingActive").is_some_and(|active| active.status == "True")
            && (status.current_replicas, status.in_flight) == (Some(nodes), Some(0))
            && status.usable_hosts == Some(free)
    })
    .await;
    let nodes = usize::try_from(nodes).unwrap();
    wait_for_running(&scene.stack, scene.workload(), GROUP, (nodes, nodes)).await;
}
