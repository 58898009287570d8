//! Looking at node groups and what they scale, as an administrator.

#![allow(dead_code, reason = "not every test uses all of it")]

use ferric_api::autoscaling::NodeGroupAutoscaler;
use ferric_testbed::{Stack, wait_until};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::e2e::{LIMIT, NAMESPACE};

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

pub async fn machines(stack: &Stack) -> Vec<String> {
    let list = core(stack, "Machine").list(&ListParams::default()).await.unwrap();
    list.items.iter().map(ResourceExt::name_any).collect()
}

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
