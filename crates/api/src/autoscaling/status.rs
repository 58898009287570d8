//! What a `NodeGroupAutoscaler` says: what it would have, what it did, why, and what it waits for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Observed state of a node group.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeGroupAutoscalerStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `spec.replicas` of what is scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_replicas: Option<i32>,
    /// What it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<i32>,
    /// The lower bound that holds now: `minReplicas`, or what a schedule asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_min_replicas: Option<i32>,
    /// The upper bound that holds now: `maxReplicas`, or fewer where there are not so many hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_max_replicas: Option<i32>,
    /// Free hosts that a machine of the group could have now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usable_hosts: Option<i32>,
    /// Machines of the group that are no nodes yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<i32>,
    /// How long machines of the group took to become nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_seconds: Option<BootSeconds>,
    /// What each trigger says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub triggers: Vec<TriggerStatus>,
    /// The last decision that changed something, or in mode Recommend would have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<Decision>,
    /// The decisions before and with it, newest first, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Decision>,
    /// Conditions: AbleToScale, ScalingActive, ScalingLimited, BackedOff, Draining, Delegated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How long machines took to become nodes, in seconds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BootSeconds {
    /// Half of them were as fast.
    pub p50: i32,
    /// 95 of 100 were as fast.
    pub p95: i32,
    /// 99 of 100 were as fast.
    pub p99: i32,
    /// How many were seen.
    pub samples: i64,
    /// Counts of times by size class, from which the others are made; survives a restart.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sketch: String,
    /// Machines that were made before this are counted, or will not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_until: Option<Time>,
    /// Machines made since that are counted already, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counted: Vec<String>,
}

/// What a trigger says.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TriggerStatus {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: TriggerState,
    /// What it measured last, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Replicas that it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_replicas: Option<i32>,
    /// Why, or what is wrong with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it was measured last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Time>,
}

/// How a trigger stands.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TriggerState {
    /// It asks for more.
    Up,
    /// It asks for what there is.
    Hold,
    /// It would do with fewer.
    Down,
    /// It has no say now.
    Inactive,
    /// It could not be measured: nothing is lowered meanwhile.
    Failed,
}

/// A change of the number of replicas, and why.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// When.
    pub time: Time,
    /// Which way.
    pub direction: Direction,
    /// Why, in one word.
    pub reason: String,
    /// The trigger that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Replicas before.
    pub from: i32,
    /// Replicas after.
    pub to: i32,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Which way the number of replicas goes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// More.
    Up,
    /// Fewer.
    Down,
}

/// Condition types of a node group.
pub mod types {
    /// What is to be scaled was found and its number of replicas can be read and written.
    pub const ABLE_TO_SCALE: &str = "AbleToScale";
    /// There is a number of replicas that is wanted: the cluster is in reach and a trigger at least was measured.
    pub const SCALING_ACTIVE: &str = "ScalingActive";
    /// A limit keeps the number of replicas from what is wanted.
    pub const SCALING_LIMITED: &str = "ScalingLimited";
    /// Machines did not become nodes: the group is left alone for a while.
    pub const BACKED_OFF: &str = "BackedOff";
    /// cluster-autoscaler writes the number of replicas, within what was published for it.
    pub const DELEGATED: &str = "Delegated";
    /// Nodes are being emptied before they go.
    pub const DRAINING: &str = "Draining";
}

/// Reasons of conditions and decisions of a node group.
pub mod reasons {
    /// Pods fit on no node.
    pub const UNSCHEDULABLE_PODS: &str = "UnschedulablePods";
    /// Nodes are not needed.
    pub const UNNEEDED: &str = "Unneeded";
    /// A trigger asks for more.
    pub const TRIGGER: &str = "Trigger";
    /// Machines did not become nodes in time.
    pub const PROVISIONING_TIMEOUT: &str = "ProvisioningTimeout";
    /// The number of replicas is outside of the bounds.
    pub const OUT_OF_BOUNDS: &str = "OutOfBounds";
}
