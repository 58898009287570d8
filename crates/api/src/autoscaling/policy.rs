//! `ClusterAutoscalingPolicy`: what all node groups of a cluster share.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{machine::bound_selector, rules::autoscaling as rules};

/// Limits and preferences over all node groups of a cluster.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "ClusterAutoscalingPolicy",
    plural = "clusterautoscalingpolicies",
    shortname = "casp",
    category = "cluster-api",
    namespaced,
    status = "ClusterAutoscalingPolicyStatus",
    doc = "Limits and preferences over all NodeGroupAutoscalers of a cluster.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterName"}"#,
    printcolumn = r#"{"name":"Groups","type":"integer","jsonPath":".status.groups"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAutoscalingPolicySpec {
    /// Name of the Cluster (in this namespace).
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::cluster_immutable())]
    pub cluster_name: String,
    /// What groups may hold together. All limits of all policies of the cluster hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub limits: Vec<Limit>,
    /// By what one of several groups that would do is chosen: the first that tells them apart. None: `PowerReady`,
    /// `RackBalance`, `LeastWaste`. Of several policies that name some, the oldest counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub expanders: Vec<Expander>,
    /// Machines of the cluster that may be on their way at once, 1 to 1000.
    #[serde(default = "max_in_flight")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_in_flight: i32,
    /// When so much is broken that nothing is scaled.
    #[serde(default)]
    pub unhealthy: Unhealthy,
}

fn max_in_flight() -> i32 {
    8
}

/// What groups may hold together.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// Name, unique in the list.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// NodeGroupAutoscalers, by their labels; all of the cluster when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = bound_selector)]
    pub selector: Option<LabelSelector>,
    /// The most that they hold, as quantities: `nodes`, `cpu`, `memory`, or an extended resource such as `nvidia.com/gpu`.
    /// Machines on their way count.
    #[schemars(transform = bound_quantities)]
    #[x_kube(validation = rules::limit_quantities())]
    pub resources: BTreeMap<String, String>,
}

/// Bounds a map of quantities, so that the API server can bound the cost of its rule.
fn bound_quantities(schema: &mut schemars::Schema) {
    schema.insert("minProperties".into(), 1.into());
    schema.insert("maxProperties".into(), 16.into());
    if let Some(values) = schema.get_mut("additionalProperties").and_then(|values| values.as_object_mut()) {
        values.insert("maxLength".into(), 32.into());
    }
}

/// By what a group is chosen.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expander {
    /// Most free hosts that are ready soonest: running before staged before off, then by learned boot time, in steps of
    /// half as long again: less tells nothing apart.
    PowerReady,
    /// The highest `ferric.infrastructure.cluster.x-k8s.io/autoscaling-priority` annotation of the group, an integer.
    Priority,
    /// The rack or zone with the fewest nodes of the cluster.
    RackBalance,
    /// The least cpu and memory left over.
    LeastWaste,
}

/// When so much is broken that nothing is scaled; cluster-autoscaler's rule and defaults
/// (`--max-total-unready-percentage`, `--ok-total-unready-count`).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Unhealthy {
    /// Nodes that are not ready, in per cent of all, above which nothing is scaled. 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub max_percent: i32,
    /// Nodes that may be unready whatever the percentage, 0 to 10000.
    #[schemars(range(min = 0, max = 10000))]
    pub ok_count: i32,
}

impl Default for Unhealthy {
    fn default() -> Self {
        Self { max_percent: 45, ok_count: 3 }
    }
}

/// What the groups of a policy hold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAutoscalingPolicyStatus {
    /// NodeGroupAutoscalers of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<i32>,
    /// What each limit has left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub limits: Vec<LimitStatus>,
    /// What each group holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub usage: Vec<GroupUsage>,
    /// Conditions: Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What a limit has left.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitStatus {
    /// Its name.
    pub name: String,
    /// What its groups hold, as quantities.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<String, String>,
}

/// What a group holds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Name of the NodeGroupAutoscaler.
    pub name: String,
    /// Its machines, those on their way included.
    pub nodes: i32,
}
