//! What the number of replicas follows.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules::autoscaling as rules;

/// Something that the number of replicas follows. Of its members, the one that `type` names holds the details.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::trigger_member())]
pub struct Trigger {
    /// Name, unique in the list; decisions and metrics give it.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::trigger_name())]
    pub name: String,
    /// Which kind of trigger it is.
    #[serde(rename = "type")]
    pub kind: TriggerType,
    /// Details of `UnschedulablePods`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unschedulable_pods: Option<UnschedulablePodsTrigger>,
    /// Details of `Utilization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization: Option<UtilizationTrigger>,
    /// Details of `Prometheus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusTrigger>,
    /// Details of `Schedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleTrigger>,
}

/// Kinds of triggers.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TriggerType {
    /// Pods that fit on no node, and would on one of the group.
    UnschedulablePods,
    /// How much of the group's nodes is asked for or used.
    Utilization,
    /// The answer to a query.
    Prometheus,
    /// The time.
    Schedule,
}

/// Pods that fit on no node.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct UnschedulablePodsTrigger {
    /// Seconds for which a pod must have been waiting, 0 to 86400.
    #[schemars(range(min = 0, max = 86400))]
    pub min_age_seconds: i32,
    /// Pods of lower priority are not given nodes, -2147483648 to 1000000000.
    #[schemars(range(max = 1000000000))]
    pub priority_cutoff: i32,
}

impl Default for UnschedulablePodsTrigger {
    /// The cut-off is cluster-autoscaler's (`--expendable-pods-priority-cutoff`).
    fn default() -> Self {
        Self { min_age_seconds: 0, priority_cutoff: -10 }
    }
}

/// How much of the group's nodes is asked for or used.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct UtilizationTrigger {
    /// What counts.
    pub source: MetricSource,
    /// Which resources, and between which limits. None: cpu and memory, 70 and 30 per cent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub resources: Vec<ResourceThreshold>,
}

impl Default for UtilizationTrigger {
    fn default() -> Self {
        Self { source: MetricSource::Requests, resources: Vec::new() }
    }
}

/// What utilization is made of.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MetricSource {
    /// What pods ask for, of what nodes can give.
    #[default]
    Requests,
    /// What nodes use, as `metrics.k8s.io` says it.
    Usage,
}

/// Limits of one resource.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::threshold_order())]
pub struct ResourceThreshold {
    /// Name of the resource, e.g. `cpu`, `memory`, `nvidia.com/gpu`.
    #[schemars(length(min = 1, max = 317))]
    pub name: String,
    /// Above this share, in per cent, the group is raised until it is below it. 1 to 100.
    #[serde(default = "up")]
    #[schemars(range(min = 1, max = 100))]
    pub scale_up_percent: i32,
    /// Below this share, in per cent, the group may be lowered. 0 to 99.
    #[serde(default = "down")]
    #[schemars(range(min = 0, max = 99))]
    pub scale_down_percent: i32,
}

fn up() -> i32 {
    70
}

fn down() -> i32 {
    30
}

/// The answer to a query.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusTrigger {
    /// Base URL of the server's HTTP API, without `/api/v1`.
    #[serde(rename = "serverURL")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = rules::server_url())]
    pub server_url: String,
    /// An instant query that gives a scalar or a vector of one element.
    #[schemars(length(min = 1, max = 8192))]
    pub query: String,
    /// What the answer should be.
    pub target: Target,
    /// Seconds that the query may take, 1 to 60.
    #[serde(default = "query_timeout")]
    #[schemars(range(min = 1, max = 60))]
    pub timeout_seconds: i32,
    /// What an empty answer means.
    #[serde(default)]
    pub null_value_policy: NullValuePolicy,
    /// Seconds for which the answer must have asked for more before it counts, 0 to 86400.
    #[serde(default)]
    #[schemars(range(min = 0, max = 86400))]
    pub duration_seconds: i32,
    /// Secret (in the autoscaler's namespace) with the key `token` (a bearer token) or the keys `username` and `password`, and
    /// the label `ferric.infrastructure.cluster.x-k8s.io/used-for: prometheus`, without which it is not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = crate::rules::secret_name())]
    pub credentials_name: Option<String>,
    /// Secret (in the autoscaler's namespace) with the key `ca.crt` that the server's certificate is checked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = crate::rules::secret_name())]
    pub ca_name: Option<String>,
}

fn query_timeout() -> i32 {
    5
}

/// What a metric should be.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// What `value` is compared with.
    #[serde(rename = "type")]
    pub kind: TargetType,
    /// A positive decimal number or quantity, e.g. `50`, `0.5`, `100m`.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = rules::positive_quantity())]
    pub value: String,
}

/// What a target value is compared with; names as in a HorizontalPodAutoscaler.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetType {
    /// The metric divided by the replicas.
    AverageValue,
    /// The metric.
    Value,
}

/// What an answer without a value means.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NullValuePolicy {
    /// A failure: nothing is raised for it, and nothing is lowered while it lasts.
    #[default]
    Ignore,
    /// Zero.
    Zero,
}

/// Times at which there are more nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleTrigger {
    /// When it begins: minute, hour, day of the month, month, day of the week, as in a CronJob.
    #[schemars(length(min = 9, max = 128))]
    #[x_kube(validation = rules::cron())]
    pub cron: String,
    /// Name of a time zone of the IANA database, e.g. `Europe/Berlin`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
    /// Seconds that it lasts, 60 to 2678400.
    #[schemars(range(min = 60, max = 2678400))]
    pub duration_seconds: i32,
    /// Replicas that there are at least meanwhile, 0 to 10000.
    #[schemars(range(min = 0, max = 10000))]
    pub min_replicas: i32,
}

fn utc() -> String {
    "UTC".to_owned()
}
