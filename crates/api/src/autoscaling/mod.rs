//! `NodeGroupAutoscaler` and `ClusterAutoscalingPolicy`: MachineDeployments that follow load. Field conventions are those
//! of the HorizontalPodAutoscaler (`autoscaling/v2`) and of Cluster API v1beta2.

mod group;
mod policy;
mod status;
mod trigger;

pub use group::{
    ActuationMode, Backoff, Behavior, Budget, NodeGroupAutoscaler, NodeGroupAutoscalerSpec, Placement,
    PoolState, Provisioning, ScaleDown, ScaleDownPolicy, ScalingPolicy, ScalingPolicyType, ScalingRules,
    Standby, StandbyPool, TargetKind, TargetRef, TopologySpread, UnsatisfiableAction,
};
pub use policy::{
    ClusterAutoscalingPolicy, ClusterAutoscalingPolicySpec, ClusterAutoscalingPolicyStatus, Expander,
    GroupUsage, Limit, LimitStatus, Unhealthy,
};
pub use status::{
    BootSeconds, Decision, Direction, NodeGroupAutoscalerStatus, TriggerState, TriggerStatus, reasons, types,
};
pub use trigger::{
    MetricSource, NullValuePolicy, PrometheusTrigger, ResourceThreshold, ScheduleTrigger, Target, TargetType,
    Trigger, TriggerType, UnschedulablePodsTrigger, UtilizationTrigger,
};
