//! What is written in a workload cluster: nodes are cordoned and given back, pods evicted. Each write reads before, and
//! carries what it read.

use std::str::FromStr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, EvictParams, ListParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::autoscaling::schedule::from_api::leaves_a_node_empty;
use crate::patch::{self, ApiError, Call};

/// Annotation of a Node that is being emptied: name of the NodeGroupAutoscaler and since when, with a blank between.
pub(super) const SCALE_DOWN: &str = "ferric.infrastructure.cluster.x-k8s.io/scale-down";
/// Annotation of a Node that is to stay (cluster-autoscaler, "How can I prevent Cluster Autoscaler from scaling down a
/// particular node").
const SCALE_DOWN_DISABLED: &str = "cluster-autoscaler.kubernetes.io/scale-down-disabled";

/// For which group a node is being emptied, and since when. A time that cannot be read is long ago.
pub(super) fn draining(node: &Node) -> Option<(String, Timestamp)> {
    let (group, since) = node.annotations().get(SCALE_DOWN)?.split_once(' ')?;
    Some((group.to_owned(), Timestamp::from_str(since).unwrap_or(Timestamp::UNIX_EPOCH)))
}

/// Whether no pod is put on a node.
pub(super) fn cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
}

/// Whether somebody asked that a node stays.
pub(super) fn is_kept(node: &Node) -> bool {
    node.annotations().get(SCALE_DOWN_DISABLED).is_some_and(|value| value == "true")
}

/// Keeps new pods off a node. `Ok(false)`: somebody else has cordoned it meanwhile, or it is gone, and it is left alone.
pub(super) async fn cordon(
    client: &Client,
    name: &str,
    group: &str,
    now: Timestamp,
) -> Result<bool, ApiError> {
    let api: Api<Node> = Api::all(client.clone());
    let Some(node) = patch::get_opt(&api, name).await? else { return Ok(false) };
    if cordoned(&node) || is_kept(&node) || node.metadata.deletion_timestamp.is_some() {
        return Ok(false);
    }
    let change = json!({
        "metadata": {"annotations": {SCALE_DOWN: format!("{group} {now}")}},
        "spec": {"unschedulable": true},
    });
    let _: Node = patch::merge_patch(&api, name, node.resource_version().as_deref(), change).await?;
    Ok(true)
}

/// Lets pods on a node again, if it was this group that kept them off.
pub(super) async fn give_back(client: &Client, name: &str, group: &str) -> Result<(), ApiError> {
    let api: Api<Node> = Api::all(client.clone());
    let Some(node) = patch::get_opt(&api, name).await? else { return Ok(()) };
    if draining(&node).is_none_or(|(of, _)| of != group) {
        return Ok(());
    }
    let change = json!({"metadata": {"annotations": {SCALE_DOWN: null}}, "spec": {"unschedulable": null}});
    let _: Node = patch::merge_patch(&api, name, node.resource_version().as_deref(), change).await?;
    Ok(())
}

/// Whether a node that is being emptied for a group is empty, asked of the API server and not of a watch, which may lag: it is
/// still cordoned by us, nobody asked that it stays, and no pod is on it but those that go with it.
pub(super) async fn is_empty(client: &Client, name: &str, group: &str) -> Result<bool, ApiError> {
    let api: Api<Node> = Api::all(client.clone());
    let Some(node) = patch::get_opt(&api, name).await? else { return Ok(true) };
    if !cordoned(&node) || is_kept(&node) || draining(&node).is_none_or(|(of, _)| of != group) {
        return Ok(false);
    }
    let pods: Api<Pod> = Api::all(client.clone());
    let on = ListParams::default().fields(&format!("spec.nodeName={name}"));
    let list = patch::bounded(Call::new(&pods, "list", "", name), pods.list(&on)).await?;
    Ok(list.items.iter().all(leaves_a_node_empty))
}

/// Asks that a pod leaves its node, within its disruption budget. `Ok(false)`: a budget does not allow it now. The pod is
/// read before, since one of the same name may run elsewhere by now.
pub(super) async fn evict(
    client: &Client,
    namespace: &str,
    name: &str,
    node: &str,
) -> Result<bool, ApiError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Some(pod) = patch::get_opt(&api, name).await? else { return Ok(true) };
    let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if on != Some(node) || pod.metadata.deletion_timestamp.is_some() {
        return Ok(true);
    }
    let params = EvictParams {
        delete_options: Some(DeleteParams {
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        }),
        ..EvictParams::default()
    };
    let evicted = patch::bounded(Call::new(&api, "create", "eviction", name), api.evict(name, &params)).await;
    match evicted {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(true),
        // 429: "Cannot evict pod as it would violate the pod's disruption budget" (API-initiated eviction).
        Err(ApiError::Other { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 429) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
