//! The spec of a `NodeGroupAutoscaler`: one MachineDeployment, between which bounds it moves, by what, and how fast.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NodeGroupAutoscalerStatus, Trigger};
use crate::rules::autoscaling as rules;

/// Between which bounds, by what and how fast one MachineDeployment is scaled.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "NodeGroupAutoscaler",
    plural = "nodegroupautoscalers",
    shortname = "nga",
    category = "cluster-api",
    namespaced,
    status = "NodeGroupAutoscalerStatus",
    doc = "Scales one MachineDeployment by load, within what the racks hold.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterName"}"#,
    printcolumn = r#"{"name":"Target","type":"string","jsonPath":".spec.scaleTargetRef.name"}"#,
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.actuationMode"}"#,
    printcolumn = r#"{"name":"Min","type":"integer","jsonPath":".status.effectiveMinReplicas"}"#,
    printcolumn = r#"{"name":"Max","type":"integer","jsonPath":".status.effectiveMaxReplicas"}"#,
    printcolumn = r#"{"name":"Current","type":"integer","jsonPath":".status.currentReplicas"}"#,
    printcolumn = r#"{"name":"Desired","type":"integer","jsonPath":".status.desiredReplicas"}"#,
    printcolumn = r#"{"name":"Why","type":"string","jsonPath":".status.lastDecision.reason"}"#,
    printcolumn = r#"{"name":"Decided","type":"date","jsonPath":".status.lastDecision.time"}"#,
    printcolumn = r#"{"name":"Active","type":"string","jsonPath":".status.conditions[?(@.type=='ScalingActive')].status","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::bounds())]
pub struct NodeGroupAutoscalerSpec {
    /// Name of the Cluster (in this namespace) whose load is looked at.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::cluster_immutable())]
    pub cluster_name: String,
    /// What is scaled: an object in this namespace. One object has one autoscaler; of two, the older works and the younger
    /// says so.
    #[x_kube(validation = rules::target_immutable())]
    pub scale_target_ref: TargetRef,
    /// Who writes the number of replicas. `Recommend`: nobody here; `Delegate`: cluster-autoscaler; `Direct`: this autoscaler.
    #[serde(default)]
    pub actuation_mode: ActuationMode,
    /// Replicas that it never goes below, 0 to 10000.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10000))]
    pub min_replicas: i32,
    /// Replicas that it never goes above, 1 to 10000.
    #[schemars(range(min = 1, max = 10000))]
    pub max_replicas: i32,
    /// What the number of replicas follows. Any of them may raise it; all must agree to lower it. None: pods that cannot be
    /// scheduled, and utilization with its defaults.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub triggers: Vec<Trigger>,
    /// How fast it goes up and down, as in a HorizontalPodAutoscaler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Behavior>,
    /// Which nodes may go, and when.
    #[serde(default)]
    pub scale_down: ScaleDown,
    /// What is made of machines that take their time to become nodes.
    #[serde(default)]
    pub provisioning: Provisioning,
    /// How machines are spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// What is done with hosts that the group does not need now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Standby>,
}

/// An object in the autoscaler's own namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::target_group())]
    pub api_group: String,
    /// Kind.
    pub kind: TargetKind,
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Kinds that can be scaled.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// Cluster API's MachineDeployment.
    #[default]
    MachineDeployment,
}

/// Who writes the number of replicas.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ActuationMode {
    /// Nobody here: decisions are in the status, in events and in metrics.
    #[default]
    Recommend,
    /// cluster-autoscaler (`--cloud-provider=clusterapi`): its annotations on the MachineDeployment, minimum and truthful
    /// maximum, are ours; the number is its.
    Delegate,
    /// This autoscaler, through the subresource `scale`.
    Direct,
}

/// How fast it goes up and down.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Behavior {
    /// Upwards. Absent: at once, without a limit but `provisioning.maxInFlight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up: Option<ScalingRules>,
    /// Downwards. Absent: after 900 s in which it was wanted all the time, without a limit but the budgets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScalingRules>,
}

/// Limits of one direction.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ScalingRules {
    /// Seconds that are looked back, 0 to 86400: upwards the least, downwards the most that was wanted in them counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub stabilization_window_seconds: Option<i32>,
    /// How many nodes a period may bring. Of several, the one that allows most counts. None: no limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub policies: Vec<ScalingPolicy>,
}

/// How many nodes a period may bring.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ScalingPolicy {
    /// What `value` counts.
    #[serde(rename = "type")]
    pub kind: ScalingPolicyType,
    /// Nodes, or per cent of the replicas at the period's beginning, rounded up. 1 to 10000.
    #[schemars(range(min = 1, max = 10000))]
    pub value: i32,
    /// Seconds, 1 to 86400.
    #[schemars(range(min = 1, max = 86400))]
    pub period_seconds: i32,
}

/// What a scaling policy counts.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScalingPolicyType {
    /// Nodes.
    Nodes,
    /// Per cent of the replicas.
    Percent,
}

/// Which nodes may go, and when.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ScaleDown {
    /// Which nodes may go. Always only with a proof that each of their pods fits elsewhere within its disruption budget.
    pub policy: ScaleDownPolicy,
    /// A node counts as underutilized when its pods' requests are below this share of what it has, in per cent; of cpu and
    /// memory the larger one, of a GPU node its GPUs alone. 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub utilization_threshold_percent: i32,
    /// Seconds for which a node must have been unneeded, 0 to 604800.
    #[schemars(range(min = 0, max = 604800))]
    pub unneeded_seconds: i32,
    /// Seconds since its Node was made, before which a node is not taken, 0 to 2592000.
    #[schemars(range(min = 0, max = 2592000))]
    pub min_node_lifetime_seconds: i32,
    /// Seconds that a drain may take before it is given up and the node is taken back, 1 to 86400.
    #[schemars(range(min = 1, max = 86400))]
    pub drain_timeout_seconds: i32,
    /// How many nodes may be on their way out at once. The smallest counts. None: one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub budgets: Vec<Budget>,
}

impl Default for ScaleDown {
    fn default() -> Self {
        Self {
            policy: ScaleDownPolicy::default(),
            utilization_threshold_percent: 50,
            unneeded_seconds: 1800,
            min_node_lifetime_seconds: 3600,
            drain_timeout_seconds: 900,
            budgets: Vec::new(),
        }
    }
}

/// Which nodes may go.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ScaleDownPolicy {
    /// Those on which nothing runs but DaemonSets and static pods, and those that are underutilized.
    #[default]
    WhenEmptyOrUnderutilized,
    /// Those on which nothing runs but DaemonSets and static pods.
    WhenEmpty,
    /// None.
    Never,
}

/// How many nodes may be on their way out at once.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// A number, or per cent of the group's nodes rounded down, but one at least if it is not `0%`.
    #[schemars(extend("maxLength" = 9))]
    #[x_kube(validation = rules::number_or_percent())]
    pub nodes: IntOrString,
}

/// What is made of machines that take their time to become nodes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Provisioning {
    /// Seconds for which a machine without a node counts as capacity that is on its way, 60 to 86400. A lower time is
    /// learned from the group's own machines; this is its upper limit.
    #[schemars(range(min = 60, max = 86400))]
    pub timeout_seconds: i32,
    /// Machines of the group that may be on their way at once, 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub max_in_flight: i32,
    /// How long the group is left alone after a machine did not become a node in time.
    pub backoff: Backoff,
}

impl Default for Provisioning {
    fn default() -> Self {
        Self { timeout_seconds: 3600, max_in_flight: 4, backoff: Backoff::default() }
    }
}

/// Pauses that double.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::backoff_order())]
pub struct Backoff {
    /// The first pause in seconds, 1 to 86400.
    #[serde(default = "initial_pause")]
    #[schemars(range(min = 1, max = 86400))]
    pub initial_seconds: i32,
    /// The longest pause in seconds, 1 to 86400.
    #[serde(default = "longest_pause")]
    #[schemars(range(min = 1, max = 86400))]
    pub max_seconds: i32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial_seconds: initial_pause(), max_seconds: longest_pause() }
    }
}

fn initial_pause() -> i32 {
    300
}

fn longest_pause() -> i32 {
    1800
}

/// How machines are spread.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Over which topologies the groups of the cluster are balanced, upwards and downwards. Those that name the same label are
    /// balanced together.
    #[schemars(length(max = 4))]
    pub topology_spread: Vec<TopologySpread>,
}

/// A topology over which nodes are spread.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TopologySpread {
    /// Label of the nodes. A group is in the domain that its nodes have or would have; without the label in the rack of its
    /// hosts. A group in several domains is not limited.
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,
    /// How many nodes more the fullest domain may have than the emptiest, 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub max_skew: i32,
    /// What is done where that cannot be.
    pub when_unsatisfiable: UnsatisfiableAction,
}

/// What is done where a rule of placement cannot be kept; names as in a pod's topology spread constraints.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnsatisfiableAction {
    /// The group is not raised. A node of it goes after those of fuller domains that could go.
    DoNotSchedule,
    /// The group is raised if no other of the same topology can be.
    ScheduleAnyway,
}

/// What is done with hosts that the group does not need now.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Standby {
    /// How many of them are kept how ready, in this order.
    #[schemars(
        length(max = 3),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["state"])
    )]
    pub pools: Vec<StandbyPool>,
    /// Seconds for which a host stays off at least, 0 to 86400.
    #[schemars(range(min = 0, max = 86400))]
    pub min_off_seconds: i32,
    /// How often a host may be turned off and on again in 24 hours to save power, 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub max_power_cycles_per_day: i32,
}

impl Default for Standby {
    fn default() -> Self {
        Self { pools: Vec::new(), min_off_seconds: 900, max_power_cycles_per_day: 6 }
    }
}

/// Hosts that are kept in one state.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StandbyPool {
    /// How ready they are.
    pub state: PoolState,
    /// A number, per cent of the group's free hosts rounded up, or `Remaining`.
    #[schemars(extend("maxLength" = 9))]
    #[x_kube(validation = rules::number_percent_or_remaining())]
    pub count: IntOrString,
}

/// How ready a host is that no machine uses.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolState {
    /// In our agent, which waits for a task: no firmware between a claim and the write.
    Running,
    /// Off, with the group's image on its disk, verified, and nothing that says whose it is.
    Staged,
    /// Off. In YAML write `"Off"` with quotes: without, kubectl takes it for a boolean.
    Off,
}
