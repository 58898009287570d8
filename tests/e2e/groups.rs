//! Node groups and what they scale: a stack and a cluster for them, and looking at them as an administrator.

#![allow(dead_code, reason = "not every test uses all of it")]

use ferric_api::autoscaling::NodeGroupAutoscaler;
use ferric_api::condition;
use ferric_api::host::ProvisioningState;
use ferric_testbed::control_plane::ControlPlaneSpec;
use ferric_testbed::stack::{ClusterRequest, Created, StackBuilder};
use ferric_testbed::{Stack, wait_until};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::e2e::{LIMIT, NAMESPACE, wait_for_state};

/// The cluster that is scaled.
pub const CLUSTER: &str = "prod";
/// Its MachineDeployment, and the templates of that: the stand-in control plane's manifests name them alike.
pub const DEPLOYMENT: &str = "prod-workers";

/// A stack under the real Cluster API whose nodes run pods and whose autoscaler looks every second. Returns when all hosts
/// are available.
pub async fn stack(hosts: usize, racks: usize, more: impl FnOnce(StackBuilder) -> StackBuilder) -> Stack {
    let builder = Stack::builder()
        .cluster_api(true)
        .fleet(hosts, racks)
        .simulator_flag("node-pods-seconds", "1")
        .manager_flag("autoscaler-scan-interval-seconds", "1");
    let stack = more(builder).start().await.unwrap_or_else(|error| panic!("{error}"));
    for server in stack.simulator.servers() {
        wait_for_state(&stack, &server.name, ProvisioningState::Available).await;
    }
    stack
}

/// The cluster, without a worker. Where `scheduler` is true, pods are placed, and ReplicaSets have theirs.
pub async fn cluster(stack: &Stack, scheduler: bool) -> Created {
    cluster_of(stack, CLUSTER, scheduler).await
}

/// As [`cluster`], of another name.
pub async fn cluster_of(stack: &Stack, name: &str, scheduler: bool) -> Created {
    let spec = ControlPlaneSpec { scheduler, replica_sets: scheduler, ..ControlPlaneSpec::new(name) };
    let workload = stack.bed.start_workload_of(&spec).await.unwrap();
    let request =
        ClusterRequest { name, namespace: NAMESPACE, workers: 0, image: &stack.image, variables: vec![] };
    request.create_with_workload(&stack.bed, workload).await.unwrap()
}

/// An autoscaler that writes the number of a MachineDeployment, changed by a JSON merge patch.
pub fn autoscaler(name: &str, deployment: &str, change: Value) -> Value {
    let mut object = json!({
        "apiVersion": ferric_api::API_VERSION, "kind": "NodeGroupAutoscaler",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "clusterName": CLUSTER, "actuationMode": "Direct", "minReplicas": 0,
            "scaleTargetRef": {
                "apiGroup": "cluster.x-k8s.io", "kind": "MachineDeployment", "name": deployment,
            },
        },
    });
    merge(&mut object, change);
    object
}

/// JSON merge patch (RFC 7396) without the removal of members.
pub fn merge(into: &mut Value, change: Value) {
    match (into.as_object_mut(), change) {
        (Some(into), Value::Object(change)) => {
            change.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (_, change) => *into = change,
    }
}

/// A condition of a group.
pub fn says(group: &NodeGroupAutoscaler, kind: &str) -> Option<Condition> {
    condition::get(&group.status.as_ref()?.conditions, kind).cloned()
}

/// What a condition of a group says while it holds.
pub fn told(group: &NodeGroupAutoscaler, kind: &str) -> Option<String> {
    says(group, kind).filter(|condition| condition.status == "True").map(|condition| condition.message)
}

pub async fn pause(stack: &Stack, paused: bool) {
    let change = json!({"spec": {"paused": paused}});
    core(stack, "Cluster").patch(CLUSTER, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

pub fn groups(stack: &Stack) -> Api<NodeGroupAutoscaler> {
    Api::namespaced(stack.bed.client(), NAMESPACE)
}

/// Waits until a group is as `wanted` says; the error shows its status as last seen.
pub async fn wait_for_group(
    stack: &Stack,
    name: &str,
    what: &str,
    wanted: impl Fn(&NodeGroupAutoscaler) -> bool,
) -> NodeGroupAutoscaler {
    wait_until(&format!("group {name}: {what}"), LIMIT, async || {
        let group = groups(stack).get(name).await.map_err(|error| error.to_string())?;
        if wanted(&group) { Ok(group) } else { Err(serde_json::to_string(&group.status).unwrap_or_default()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"))
}

pub async fn patch_group(stack: &Stack, name: &str, change: Value) -> NodeGroupAutoscaler {
    groups(stack).patch(name, &PatchParams::default(), &Patch::Merge(change)).await.unwrap()
}

/// Objects of Cluster API.
pub fn core(stack: &Stack, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", kind));
    Api::namespaced_with(stack.bed.client(), NAMESPACE, &resource)
}

/// The name of every Machine.
pub async fn machines(stack: &Stack) -> Vec<String> {
    let list = core(stack, "Machine").list(&ListParams::default()).await.unwrap();
    list.items.iter().map(ResourceExt::name_any).collect()
}

/// `spec.replicas` of a MachineDeployment.
pub async fn replicas(stack: &Stack, deployment: &str) -> i64 {
    let deployment = core(stack, "MachineDeployment").get(deployment).await.unwrap();
    deployment.data["spec"]["replicas"].as_i64().unwrap()
}

/// Waits until the autoscaler has looked at all groups so many times more.
pub async fn rounds(stack: &Stack, more: u64) {
    let done = async || {
        let page = stack.manager.metrics().await.map_err(|error| error.to_string())?;
        let line = "ferric_reconcile_duration_seconds_count{controller=\"autoscaler\",result=\"done\"} ";
        let count = page.lines().find_map(|text| text.strip_prefix(line)).unwrap_or("0");
        count.parse::<u64>().map_err(|error| format!("{count}: {error}"))
    };
    let before = done().await.unwrap_or_else(|error| panic!("{error}"));
    wait_until(&format!("{more} rounds of the autoscaler"), LIMIT, async || {
        let after = done().await?;
        if after >= before + more { Ok(()) } else { Err(format!("{} of them", after - before)) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

/// What a command of the provider's program prints, which must end well.
pub async fn ferric(arguments: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_ferric");
    let output = tokio::process::Command::new(program).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `ferric autoscale` prints.
pub async fn autoscale(stack: &Stack, arguments: &[&str]) -> String {
    let kubeconfig = stack.bed.kubeconfig().to_string_lossy().into_owned();
    let common = ["-n", NAMESPACE, "--kubeconfig", &kubeconfig];
    ferric(&[&["autoscale"], arguments, &common].concat()).await
}
