//! What a node of a group would be that has none: from what its template publishes and what the MachineDeployment says.
//! Read as cluster-autoscaler's provider for Cluster API reads them, so that both come to the same node. Pure.

use std::collections::BTreeMap;

use ferric_api::{BareMetalMachineTemplate, names};
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::capacity::MAX_PODS;
use crate::capi::MachineDeployment;

/// Prefix of the annotations of a MachineDeployment that win over what its template publishes (cluster-autoscaler,
/// cloud provider clusterapi, "Scale from zero support").
const CAPACITY: &str = "capacity.cluster-autoscaler.kubernetes.io/";
/// Prefixes of labels that Cluster API carries from a Machine to its Node ("Label Sync Between Machine and underlying
/// Kubernetes Nodes").
const SYNCED: [&str; 3] =
    ["node-role.kubernetes.io", "node-restriction.kubernetes.io", "node.cluster.x-k8s.io"];

/// What one node offers, by resource, as quantities; empty where nothing is known.
#[must_use]
pub fn offers(
    template: &BareMetalMachineTemplate,
    deployment: &MachineDeployment,
) -> BTreeMap<String, String> {
    let published = template.status.as_ref().map(|status| status.capacity.clone()).unwrap_or_default();
    let mut offers = published;
    let annotated = |key: &str| deployment.annotations().get(&format!("{CAPACITY}{key}")).cloned();
    for (annotation, resource) in
        [("cpu", "cpu"), ("memory", "memory"), ("ephemeral-disk", "ephemeral-storage"), ("maxPods", "pods")]
    {
        if let Some(quantity) = annotated(annotation) {
            offers.insert(resource.to_owned(), quantity);
        }
    }
    if let Some(count) = annotated("gpu-count") {
        offers.insert(annotated("gpu-type").unwrap_or_else(|| "nvidia.com/gpu".to_owned()), count);
    }
    if !offers.is_empty() {
        offers.entry("pods".to_owned()).or_insert_with(|| MAX_PODS.to_string());
    }
    offers
}

/// The node; none where neither processors nor memory are known.
#[must_use]
pub fn node(template: &BareMetalMachineTemplate, deployment: &MachineDeployment) -> Option<Node> {
    let offers = offers(template, deployment);
    if !offers.contains_key("cpu") || !offers.contains_key("memory") {
        return None;
    }
    let annotated = |key: &str| deployment.annotations().get(&format!("{CAPACITY}{key}")).map(String::as_str);
    let info = template.status.as_ref().and_then(|status| status.node_info.clone());
    let mut labels = BTreeMap::new();
    if let Some(info) = info {
        labels.extend([("kubernetes.io/arch".to_owned(), info.architecture)]);
        labels.extend([("kubernetes.io/os".to_owned(), info.operating_system)]);
    }
    let machine = &deployment.spec.template;
    if let Some(domain) = &machine.spec.failure_domain {
        labels.insert(names::ZONE_LABEL.to_owned(), domain.clone());
    }
    let synced = |key: &str| {
        let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
        SYNCED.iter().any(|kept| prefix == *kept || prefix.ends_with(&format!(".{kept}")))
    };
    let kept = machine.metadata.labels.iter().filter(|(key, _)| synced(key));
    labels.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
    let pairs = annotated("labels").unwrap_or_default().split(',').filter_map(|pair| pair.split_once('='));
    labels.extend(pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())));
    let taints = annotated("taints").unwrap_or_default().split(',').filter_map(taint).collect();
    Some(Node {
        metadata: ObjectMeta { labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec { taints: Some(taints), ..NodeSpec::default() }),
        status: Some(NodeStatus {
            allocatable: Some(offers.into_iter().map(|(name, amount)| (name, Quantity(amount))).collect()),
            ..NodeStatus::default()
        }),
    })
}

/// `key=value:Effect`, or `key:Effect`.
fn taint(text: &str) -> Option<Taint> {
    let (key, effect) = text.trim().rsplit_once(':')?;
    let (key, value) = key.split_once('=').unwrap_or((key, ""));
    Some(Taint {
        key: key.to_owned(),
        value: (!value.is_empty()).then(|| value.to_owned()),
        effect: effect.to_owned(),
        ..Taint::default()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn template(status: Value) -> BareMetalMachineTemplate {
        serde_json::from_value(json!({
            "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "BareMetalMachineTemplate",
            "metadata": {"name": "t"}, "spec": {"template": {"spec": {}}}, "status": status,
        }))
        .unwrap()
    }

    fn deployment(annotations: Value, spec: Value) -> MachineDeployment {
        serde_json::from_value(json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineDeployment",
            "metadata": {"name": "d", "annotations": annotations}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn what_is_published_and_what_is_annotated() {
        let template = template(json!({
            "capacity": {"cpu": "7", "memory": "30Gi"},
            "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux"},
        }));
        let deployment = deployment(
            json!({
                "capacity.cluster-autoscaler.kubernetes.io/memory": "20Gi",
                "capacity.cluster-autoscaler.kubernetes.io/gpu-count": "2",
                "capacity.cluster-autoscaler.kubernetes.io/labels": "tier=gold, disk=nvme",
                "capacity.cluster-autoscaler.kubernetes.io/taints": "gpu=yes:NoSchedule,alone:NoExecute",
            }),
            json!({"template": {
                "metadata": {"labels": {"node.cluster.x-k8s.io/pool": "a", "team": "x"}},
                "spec": {"failureDomain": "rack-1"},
            }}),
        );
        let node = node(&template, &deployment).unwrap();
        let allocatable = node.status.unwrap().allocatable.unwrap();
        let amounts: BTreeMap<_, _> = allocatable.iter().map(|(k, v)| (k.as_str(), v.0.as_str())).collect();
        let expected = [("cpu", "7"), ("memory", "20Gi"), ("nvidia.com/gpu", "2"), ("pods", "110")];
        assert_eq!(amounts, BTreeMap::from(expected));
        let labels = node.metadata.labels.unwrap();
        assert_eq!(labels.get("kubernetes.io/arch").unwrap(), "amd64");
        assert_eq!(labels.get("topology.kubernetes.io/zone").unwrap(), "rack-1");
        assert_eq!(labels.get("node.cluster.x-k8s.io/pool").unwrap(), "a");
        assert_eq!(labels.get("disk").unwrap(), "nvme");
        assert!(!labels.contains_key("team"), "Cluster API does not carry it over");
        let taints = node.spec.unwrap().taints.unwrap();
        let said: Vec<_> =
            taints.iter().map(|t| (t.key.as_str(), t.value.as_deref(), t.effect.as_str())).collect();
        assert_eq!(said, [("gpu", Some("yes"), "NoSchedule"), ("alone", None, "NoExecute")]);
    }

    #[test]
    fn nothing_is_made_up() {
        assert_eq!(node(&template(json!(null)), &deployment(json!({}), json!({}))), None);
        assert!(offers(&template(json!(null)), &deployment(json!({}), json!({}))).is_empty());
    }
}
