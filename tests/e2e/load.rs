//! Pods of a workload cluster whose nodes run pods without containers, by ReplicaSets.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::BTreeMap;

use ferric_testbed::{Stack, Workload, wait_until};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::e2e::LIMIT;
use super::groups::{groups, machines};

pub fn pods(workload: &Workload) -> Api<Pod> {
    Api::namespaced(workload.client(), "default")
}

/// Pods of one ReplicaSet, each with these requests, on nodes with these labels.
pub async fn create(workload: &Workload, name: &str, pods: i32, requests: Value, labels: Value) {
    // Of devices the limit is the request.
    let devices = requests.as_object().unwrap().iter().filter(|(resource, _)| resource.contains('/'));
    let limits: serde_json::Map<String, Value> =
        devices.map(|(resource, amount)| (resource.clone(), amount.clone())).collect();
    let set: ReplicaSet = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": pods, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"nodeSelector": labels, "containers": [{
                    "name": "c", "image": "c", "resources": {"requests": requests, "limits": limits},
                }]},
            },
        },
    }))
    .unwrap();
    sets(workload).create(&PostParams::default(), &set).await.unwrap();
}

/// Changes the number of pods of a ReplicaSet.
pub async fn scale(workload: &Workload, name: &str, replicas: i32) {
    let change = json!({"spec": {"replicas": replicas}});
    sets(workload).patch(name, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

fn sets(workload: &Workload) -> Api<ReplicaSet> {
    Api::namespaced(workload.client(), "default")
}

/// Running pods of a ReplicaSet by their nodes.
pub async fn running(workload: &Workload, name: &str) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in list(workload, name).await? {
        let runs = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
        if runs && pod.metadata.deletion_timestamp.is_none() {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            nodes.entry(node).or_default().push(pod.name_any());
        }
    }
    Ok(nodes)
}

async fn list(workload: &Workload, name: &str) -> Result<Vec<Pod>, String> {
    let of = ListParams::default().labels(&format!("app={name}"));
    pods(workload).list(&of).await.map(|list| list.items).map_err(|error| error.to_string())
}

/// Waits until exactly so many pods of a ReplicaSet run, on so many nodes. The error shows what the groups say.
pub async fn wait_for_running(
    stack: &Stack,
    workload: &Workload,
    name: &str,
    (pods, nodes): (usize, usize),
) -> BTreeMap<String, Vec<String>> {
    let what = format!("{pods} pods of {name} to run on {nodes} nodes");
    wait_until(&what, LIMIT, async || {
        let found = running(workload, name).await?;
        let count: usize = found.values().map(Vec::len).sum();
        if (count, found.len()) == (pods, nodes) {
            return Ok(found);
        }
        let all = groups(stack).list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let said = all.items.iter().map(|group| {
            let status = serde_json::to_string(&group.status).unwrap_or_default();
            format!("{}: {status}", group.name_any())
        });
        let said = said.collect::<Vec<_>>().join("\n");
        Err(format!("{found:?}; machines {:?}\n{said}", machines(stack).await))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until kube-scheduler has found no node for exactly so many pods of a ReplicaSet.
pub async fn wait_for_refused(workload: &Workload, name: &str, pods: usize) {
    let refused = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| {
            (condition.type_.as_str(), condition.reason.as_deref()) == ("PodScheduled", Some("Unschedulable"))
        })
    };
    wait_until(&format!("kube-scheduler to find no node for {pods} pods of {name}"), LIMIT, async || {
        let found: Vec<String> = list(workload, name)
            .await?
            .iter()
            .filter(|pod| refused(pod))
            .map(ResourceExt::name_any)
            .collect();
        if found.len() == pods { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

/// Processors that a template of machines says one has, whole ones.
pub async fn offered_cpus(stack: &Stack, template: &str) -> i64 {
    let path = "jsonpath={.status.capacity.cpu}";
    let cpu = wait_until("the template to say what it offers", LIMIT, async || {
        let said = stack.bed.kubectl(["get", "baremetalmachinetemplate", template, "-o", path]).await;
        said.map_err(|error| error.to_string())?
            .strip_suffix('m')
            .map(str::to_owned)
            .ok_or("nothing".to_owned())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    cpu.parse::<i64>().unwrap() / 1000
}
