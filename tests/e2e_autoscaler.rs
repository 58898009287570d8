//! Load raises a MachineDeployment from zero, and idleness lowers it: under the real Cluster API, with real API servers and
//! the real kube-scheduler, on the simulated fleet, whose nodes run pods without containers.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;
#[path = "e2e/groups.rs"]
mod groups;

use std::collections::{BTreeMap, BTreeSet};

use e2e::{LIMIT, NAMESPACE, host, hosts, powered, show, state, wait_for_state};
use ferric_api::autoscaling::Direction;
use ferric_api::condition;
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::control_plane::ControlPlaneSpec;
use ferric_testbed::stack::ClusterRequest;
use ferric_testbed::{Stack, Workload, wait_until};
use groups::{core, groups, machines, replicas, wait_for_group};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

const CLUSTER: &str = "prod";
/// And its template: the stand-in control plane's manifests name them alike.
const DEPLOYMENT: &str = "prod-workers";
const GROUP: &str = "workers";
const NAMES: [&str; 3] = ["host-01", "host-02", "host-03"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_follows_its_load() {
    let stack = Stack::builder()
        .cluster_api(true)
        .fleet(NAMES.len(), 1)
        .simulator_flag("node-pods-seconds", "1")
        .manager_flag("autoscaler-scan-interval-seconds", "1")
        .start()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    for name in NAMES {
        wait_for_state(&stack, name, State::Available).await;
    }
    let spec = ControlPlaneSpec { scheduler: true, replica_sets: true, ..ControlPlaneSpec::new(CLUSTER) };
    let workload = stack.bed.start_workload_of(&spec).await.unwrap();
    let request = ClusterRequest {
        name: CLUSTER,
        namespace: NAMESPACE,
        workers: 0,
        image: &stack.image,
        variables: vec![],
    };
    let created = request.create_with_workload(&stack.bed, workload).await.unwrap();
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
    let autoscaler = json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "NodeGroupAutoscaler",
        "metadata": {"name": GROUP, "namespace": NAMESPACE},
        "spec": {
            "clusterName": CLUSTER, "actuationMode": "Direct", "minReplicas": 0, "maxReplicas": 3,
            "scaleTargetRef": {
                "apiGroup": "cluster.x-k8s.io", "kind": "MachineDeployment", "name": DEPLOYMENT,
            },
            // Alone: by default utilization has a say too, and two nodes of which each is two fifths full may stay.
            "triggers": [{"name": "pods", "type": "UnschedulablePods"}],
            "scaleDown": {"unneededSeconds": 2, "minNodeLifetimeSeconds": 0},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        },
    });
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
    let cpus = 2 * offered_cpus(stack).await / 5;
    let web: ReplicaSet = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 4, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{
                    "name": "web", "image": "web", "resources": {"requests": {"cpu": cpus.to_string()}},
                }]},
            },
        },
    }))
    .unwrap();
    let budget = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }))
    .unwrap();
    let budgets: Api<k8s_openapi::api::policy::v1::PodDisruptionBudget> =
        Api::namespaced(client.clone(), "default");
    budgets.create(&PostParams::default(), &budget).await.unwrap();
    let sets: Api<ReplicaSet> = Api::namespaced(client, "default");
    sets.create(&PostParams::default(), &web).await.unwrap();
    let nodes = wait_for_running(stack, workload, 4, 2).await;
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

async fn autoscale(stack: &Stack, arguments: &[&str]) -> String {
    let kubeconfig = stack.bed.kubeconfig().to_string_lossy().into_owned();
    let common = ["-n", NAMESPACE, "--kubeconfig", &kubeconfig];
    ferric(&[&["autoscale"], arguments, &common].concat()).await
}

async fn ferric(arguments: &[&str]) -> String {
    let output =
        tokio::process::Command::new(env!("CARGO_BIN_EXE_ferric")).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Annotations of cluster-autoscaler that are not ours: it writes the number, and we do not.
async fn another_writer_is_respected(stack: &Stack) {
    const MIN: &str = "cluster.x-k8s.io/cluster-api-autoscaler-node-group-min-size";
    annotate(stack, json!({ MIN: "0" })).await;
    let group = wait_for_group(stack, GROUP, "to hold", |group| {
        let conditions = group.status.clone().unwrap_or_default().conditions;
        condition::get(&conditions, "ScalingActive").is_some_and(|active| active.status == "False")
    })
    .await;
    let conditions = group.status.unwrap().conditions;
    let message = &condition::get(&conditions, "ScalingActive").unwrap().message;
    assert!(message.contains(MIN) && message.contains("Delegate"), "{message}");
    annotate(stack, json!({ MIN: null })).await;
    wait_for_group(stack, GROUP, "to be active again", |group| {
        condition::is_true(&group.status.clone().unwrap_or_default().conditions, "ScalingActive")
    })
    .await;
}

/// One pod is left on each node: one of them is emptied and goes, the other gets its pod.
async fn a_node_is_emptied(stack: &Stack, workload: &Workload) {
    let pods: Api<Pod> = Api::namespaced(workload.client(), "default");
    let mut kept = BTreeSet::new();
    for pods_of_node in running(workload).await.unwrap().values() {
        kept.insert(pods_of_node.first().unwrap().clone());
    }
    for name in &kept {
        // The ReplicaSet takes the cheaper ones first.
        let cost =
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "100"}}});
        pods.patch(name, &PatchParams::default(), &Patch::Merge(cost)).await.unwrap();
    }
    scale(workload, 2).await;
    let nodes = wait_for_running(stack, workload, 2, 1).await;
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
    scale(workload, 0).await;
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

/// Processors that the template says a machine has, whole ones.
async fn offered_cpus(stack: &Stack) -> i64 {
    let path = "jsonpath={.status.capacity.cpu}";
    let cpu = wait_until("the template to say what it offers", LIMIT, async || {
        let said = stack.bed.kubectl(["get", "baremetalmachinetemplate", DEPLOYMENT, "-o", path]).await;
        said.map_err(|error| error.to_string())?
            .strip_suffix('m')
            .map(str::to_owned)
            .ok_or("nothing".to_owned())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    cpu.parse::<i64>().unwrap() / 1000
}

/// Running pods by their nodes.
async fn running(workload: &Workload) -> Result<BTreeMap<String, Vec<String>>, String> {
    let pods: Api<Pod> = Api::namespaced(workload.client(), "default");
    let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in pods.list(&ListParams::default()).await.map_err(|error| error.to_string())? {
        let runs = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
        if runs && pod.metadata.deletion_timestamp.is_none() {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            nodes.entry(node).or_default().push(pod.name_any());
        }
    }
    Ok(nodes)
}

async fn wait_for_running(
    stack: &Stack,
    workload: &Workload,
    pods: usize,
    nodes: usize,
) -> BTreeMap<String, Vec<String>> {
    let what = format!("{pods} pods to run on {nodes} nodes");
    wait_until(&what, LIMIT, async || {
        let found = running(workload).await?;
        let count: usize = found.values().map(Vec::len).sum();
        if (count, found.len()) == (pods, nodes) {
            return Ok(found);
        }
        let group = groups(stack).get(GROUP).await.map_err(|error| error.to_string())?;
        let status = serde_json::to_string(&group.status).unwrap_or_default();
        Err(format!("{found:?}; machines {:?}; {status}", machines(stack).await))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"))
}

async fn scale(workload: &Workload, replicas: i32) {
    let sets: Api<ReplicaSet> = Api::namespaced(workload.client(), "default");
    let change = json!({"spec": {"replicas": replicas}});
    sets.patch("web", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

async fn annotate(stack: &Stack, annotations: Value) {
    let change = json!({"metadata": {"annotations": annotations}});
    core(stack, "MachineDeployment")
        .patch(DEPLOYMENT, &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
}
