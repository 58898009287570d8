//! `BareMetalMachine` and its template: Cluster API's InfraMachine (contract v1beta2). Binds to exactly one host.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::cluster::{Initialization, TemplateMeta};
use crate::host::{CleaningMode, Image, RootDeviceHints, SecretName, WaitingFor};
use crate::rules;

/// What a machine asks for, and, written by the manager, what it got.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "BareMetalMachine",
    plural = "baremetalmachines",
    shortname = "bmm",
    category = "cluster-api",
    namespaced,
    status = "BareMetalMachineStatus",
    doc = "Cluster API's InfraMachine: what a machine asks for and the one host that it is bound to.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".metadata.labels.cluster\\.x-k8s\\.io/cluster-name"}"#,
    printcolumn = r#"{"name":"Host","type":"string","jsonPath":".spec.hostRef.name"}"#,
    printcolumn = r#"{"name":"Provisioned","type":"boolean","jsonPath":".status.initialization.provisioned"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Waiting for","type":"string","jsonPath":".status.waitingFor.message"}"#,
    printcolumn = r#"{"name":"Since","type":"date","jsonPath":".status.waitingFor.since"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalMachineSpec {
    /// Which hosts may be taken; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = bound_selector)]
    #[x_kube(validation = rules::selector())]
    pub host_selector: Option<LabelSelector>,
    /// Image to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Which disk the image goes to; the host's own hints when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_device_hints: Option<RootDeviceHints>,
    /// What is wiped when the host is released; the host's own mode when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automated_cleaning_mode: Option<CleaningMode>,
    /// Secret (in the machine's namespace) with network data, key `value` or `networkData`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data: Option<SecretName>,
    /// Secret (in the machine's namespace) with additional metadata, key `value` or `metaData`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<SecretName>,
    /// The host that is bound. Written by the manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ref: Option<HostRef>,
    /// Fresh random ID of the claim. Written by the manager.
    #[serde(default, rename = "claimID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub claim_id: Option<String>,
    /// Equal to the Node's `spec.providerID`, at most 512 bytes. Written by the manager.
    #[serde(default, rename = "providerID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = rules::provider_id())]
    pub provider_id: Option<String>,
}

/// Bounds the lists of a label selector, so that the API server can bound the cost of its rule.
pub(crate) fn bound_selector(schema: &mut schemars::Schema) {
    schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    let expressions = schema.get_mut("properties").and_then(|p| p.get_mut("matchExpressions"));
    let Some(expressions) = expressions.and_then(|e| e.as_object_mut()) else { return };
    expressions.insert("maxItems".into(), 32.into());
    let item =
        expressions.get_mut("items").and_then(|i| i.get_mut("properties")).and_then(|p| p.as_object_mut());
    let Some(item) = item else { return };
    for (field, bound) in [("operator", "maxLength"), ("values", "maxItems")] {
        if let Some(field) = item.get_mut(field).and_then(|f| f.as_object_mut()) {
            field.insert(bound.into(), 64.into());
        }
    }
}

/// A host by namespace and name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(validation = rules::host_ref_named())]
pub struct HostRef {
    /// Namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// Observed state of a machine.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalMachineStatus {
    /// One-way facts that Cluster API waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization: Option<Initialization>,
    /// Addresses of the machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<MachineAddress>,
    /// Failure domain that the bound host stands in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_domain: Option<String>,
    /// What the machine waits for, since when, and when that becomes a problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitingFor>,
    /// Conditions: HostBound, BootstrapReady, Deployed, Ready, Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// An address of a machine (Cluster API contract v1beta2).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineAddress {
    /// `Hostname`, `InternalIP`, `ExternalIP`, `InternalDNS` or `ExternalDNS`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// A template of machines.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "BareMetalMachineTemplate",
    plural = "baremetalmachinetemplates",
    shortname = "bmmt",
    category = "cluster-api",
    namespaced,
    status = "BareMetalMachineTemplateStatus",
    doc = "A template of BareMetalMachines, and what one of them offers.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct BareMetalMachineTemplateSpec {
    /// What each machine starts as.
    pub template: BareMetalMachineTemplateResource,
}

/// What each machine starts as.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = rules::template_unbound())]
pub struct BareMetalMachineTemplateResource {
    /// Labels and annotations of each machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMeta>,
    /// Spec of each machine.
    #[serde(default)]
    pub spec: BareMetalMachineSpec,
}

/// What one machine of the template offers; the cluster-autoscaler reads it to scale from zero.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalMachineTemplateStatus {
    /// Quantities as strings, keyed by resource name (`cpu`, `memory`, …).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capacity: BTreeMap<String, String>,
    /// Architecture and operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_info: Option<NodeInfo>,
}

/// Architecture and operating system of a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// `amd64` or `arm64`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// `linux`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operating_system: String,
}
