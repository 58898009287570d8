//! Load raises a MachineDeployment from zero, and idleness lowers it: under the real Cluster API, with real API servers and
//! the real kube-scheduler, on the simulated fleet, whose nodes run pods without containers.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;
#[path = "e2e/groups.rs"]
mod groups;
#[path = "e2e/load.rs"]
mod load;

use std::collections::BTreeSet;

use e2e::{LIMIT, NAMESPACE, host, hosts, powered, show, state, wait_for_state};
use ferric_api::autoscaling::Direction;
use ferric_api::condition;
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::{Stack, Workload, wait_until};
use groups::{
    CLUSTER, DEPLOYMENT, autoscale, autoscaler, core, ferric, machines, replicas, says, wait_for_group,
};
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use load::{offered_cpus, wait_for_running};
use serde_json::{Value, json};

const GROUP: &str = "workers";
const NAMES: [&str; 3] = ["host-01", "host-02", "host-03"];
/// The ReplicaSet.
const WEB: &str = "web";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_follows_its_load() {
    let stack = groups::stack(NAMES.len(), 1, |builder| builder).await;
    let created = groups::cluster(&stack, true).await;
    let workload = created.workload.as_ref().unwrap();

    nothing_is_wanted(&stack).await;
    pods_raise_it_from_zero(&stack, workload).await;
    it_is_explained_and_dumped(&stack).await;
    another_writer_is_respected(&stack).await;
    a_node_is_emptied(&stack, workload).await;
    idleness_lowers_it_to_zero(&stack, workload).await;
    drop(created);
    stack.stop().await;
}

/// The group is found, and what it could have; nothing waits, so nothing is done.
async fn nothing_is_wanted(stack: &Stack) {
    // Pods alone: by default utilization has a say too, and two nodes of which each is two fifths full may stay.
    let change = json!({"spec": {
        "maxReplicas": 3, "triggers": [{"name": "pods", "type": "UnschedulablePods"}],
        "scaleDown": {"unneededSeconds": 2, "minNodeLifetimeSeconds": 0},
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    }});
    let autoscaler = autoscaler(GROUP, DEPLOYMENT, change);
    stack.bed.apply(&autoscaler.to_string()).await.unwrap();
    let group = wait_for_group(stack, GROUP, "to be active", |group| {
        let status = group.status.clone().unwrap_or_default();
        condition::is_true(&status.conditions, "ScalingActive") && status.usable_hosts == Some(3)
    })
    .await;
    let status = group.status.unwrap();
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(0), Some(0)));
    assert_eq!((status.effective_max_replicas, status.last_decision), (Some(3), None));
}

/// Four pods, each of two fifths of a server: two servers. A budget lets one go at a time.
async fn pods_raise_it_from_zero(stack: &Stack, workload: &Workload) {
    let client = workload.client();
    let cpus = 2 * offered_cpus(stack, DEPLOYMENT).await / 5;
    let budget = serde_json::from_value(json!({
        "metadata": {"name": WEB},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": WEB}}},
    }))
    .unwrap();
    let budgets: Api<k8s_openapi::api::policy::v1::PodDisruptionBudget> =
        Api::namespaced(client.clone(), "default");
    budgets.create(&PostParams::default(), &budget).await.unwrap();
    load::create(workload, WEB, 4, json!({"cpu": cpus.to_string()}), json!({})).await;
    let nodes = wait_for_running(stack, workload, WEB, (4, 2)).await;
    assert!(nodes.values().all(|pods| pods.len() == 2), "{nodes:?}");

    let group = wait_for_group(stack, GROUP, "to have learned", |group| {
        group
            .status
            .as_ref()
            .is_some_and(|status| status.boot_seconds.as_ref().is_some_and(|boot| boot.samples == 2))
    })
    .await;
    let status = group.status.unwrap();
    let decision = status.last_decision.unwrap();
    assert_eq!((decision.direction, decision.from), (Direction::Up, 0));
    assert_eq!(decision.reason, "UnschedulablePods");
    assert!(decision.message.contains("pods need"), "{}", decision.message);
    assert_eq!(replicas(stack, DEPLOYMENT).await, 2, "no more than are needed");
    let events = stack.bed.kubectl(["get", "events", "-o", "jsonpath={.items[*].reason}"]).await.unwrap();
    assert!(events.contains("ScaleUp"), "{events}");
}

/// The command line looks at both clusters and says what it sees, and what it dumps can be decided about.
async fn it_is_explained_and_dumped(stack: &Stack) {
    let text = autoscale(stack, &["explain", GROUP]).await;
    for said in [
        "mode Direct",
        "2 replicas: 2 nodes, 0 on their way",
        "hosts free: 1 (",
        "a node more would be like node",
        "pods: Down, value 0 pods",
        "stays at 2",
        "last decision: ",
        "0 -> 2 (UnschedulablePods",
        "2 seen",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let dump = autoscale(stack, &["snapshot", CLUSTER]).await;
    assert!(!dump.contains("\"kind\":\"Secret\"") && !dump.contains("managedFields"), "{dump}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump.json");
    std::fs::write(&file, dump).unwrap();
    let decided = ferric(&["autoscale", "simulate", "--snapshot", file.to_str().unwrap()]).await;
    assert!(decided.contains("workers 2: "), "{decided}");
}

/// Annotations of cluster-autoscaler that are not ours: it writes the number, and we do not.
async fn another_writer_is_respected(stack: &Stack) {
    const MIN: &str = "cluster.x-k8s.io/cluster-api-autoscaler-node-group-min-size";
    annotate(stack, json!({ MIN: "0" })).await;
    let group = wait_for_group(stack, GROUP, "to hold", |group| {
        says(group, "ScalingActive").is_some_and(|active| active.status == "False")
    })
    .await;
    let message = says(&group, "ScalingActive").unwrap().message;
    assert!(message.contains(MIN) && message.contains("Delegate"), "{message}");
    annotate(stack, json!({ MIN: null })).await;
    wait_for_group(stack, GROUP, "to be active again", |group| {
        says(group, "ScalingActive").is_some_and(|active| active.status == "True")
    })
    .await;
}

/// One pod is left on each node: one of them is emptied and goes, the other gets its pod.
async fn a_node_is_emptied(stack: &Stack, workload: &Workload) {
    let pods = load::pods(workload);
    let mut kept = BTreeSet::new();
    for pods_of_node in load::running(workload, WEB).await.unwrap().values() {
        kept.insert(pods_of_node.first().unwrap().clone());
    }
    for name in &kept {
        // The ReplicaSet takes the cheaper ones first.
        let cost =
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "100"}}});
        pods.patch(name, &PatchParams::default(), &Patch::Merge(cost)).await.unwrap();
    }
    load::scale(workload, WEB, 2).await;
    let nodes = wait_for_running(stack, workload, WEB, (2, 1)).await;
    let left: BTreeSet<_> = nodes.values().flatten().cloned().collect();
    assert_eq!(
        left.intersection(&kept).count(),
        1,
        "one stayed where it was, the other was evicted: {nodes:?}"
    );
    wait_until("one machine to be left", LIMIT, async || {
        let found = machines(stack).await;
        if found.len() == 1 && replicas(stack, DEPLOYMENT).await == 1 {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    // The one that goes is the one that was emptied.
    let nodes_api: Api<Node> = Api::all(workload.client());
    wait_until("the other node to be gone", LIMIT, async || {
        let there = nodes_api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let names: BTreeSet<_> = there.items.iter().map(ResourceExt::name_any).collect();
        if names == nodes.keys().cloned().collect() { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    let group = wait_for_group(stack, GROUP, "to say why", |group| {
        group
            .status
            .as_ref()
            .and_then(|status| status.last_decision.as_ref())
            .is_some_and(|last| last.to == 1)
    })
    .await;
    let decision = group.status.unwrap().last_decision.unwrap();
    assert_eq!((decision.direction, decision.reason.as_str()), (Direction::Down, "Unneeded"));
}

async fn idleness_lowers_it_to_zero(stack: &Stack, workload: &Workload) {
    load::scale(workload, WEB, 0).await;
    for name in NAMES {
        wait_for_state(stack, name, State::Available).await;
    }
    wait_until("all servers to be off, and no machine left", LIMIT, async || {
        let mut lit = Vec::new();
        for name in NAMES {
            if powered(stack, name).await != Some(false)
                || host(stack, name).await.spec.consumer_ref.is_some()
            {
                lit.push(show(&host(stack, name).await));
            }
        }
        let found = machines(stack).await;
        if lit.is_empty() && found.is_empty() { Ok(()) } else { Err(format!("{lit:?} {found:?}")) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(replicas(stack, DEPLOYMENT).await, 0);
    assert!(
        hosts(stack)
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .iter()
            .all(|h| state(h) == State::Available)
    );
    let metrics = stack.manager.metrics().await.unwrap();
    let current = format!(
        "ferric_node_group_replicas{{namespace=\"{NAMESPACE}\",group=\"{GROUP}\",what=\"current\"}} 0"
    );
    assert!(metrics.contains(&current), "{metrics}");
}

async fn annotate(stack: &Stack, annotations: Value) {
    let change = json!({"metadata": {"annotations": annotations}});
    core(stack, "MachineDeployment")
        .patch(DEPLOYMENT, &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
}
