//! A file with autoscalers and policies that take the place of others.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use ferric_api::autoscaling::{
    ActuationMode, ClusterAutoscalingPolicy, MetricSource, NodeGroupAutoscaler, NodeGroupAutoscalerSpec,
    TriggerType,
};
use kube::ResourceExt;
use serde::Deserialize;
use serde_yaml_ng::Value;

use crate::autoscaling::Policy;
use crate::autoscaling::replay::Load;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Documents {
    groups: BTreeMap<String, NodeGroupAutoscalerSpec>,
    policies: Vec<Policy>,
}

/// Reads a file of YAML documents.
pub(super) fn parse(text: &str) -> anyhow::Result<Documents> {
    let mut documents = Documents::default();
    for (at, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let what = || format!("document {}", at + 1);
        let value = Value::deserialize(document).with_context(what)?;
        if value.is_null() {
            continue;
        }
        match value.get("kind").and_then(Value::as_str) {
            Some("NodeGroupAutoscaler") => {
                let group: NodeGroupAutoscaler = serde_yaml_ng::from_value(value).with_context(what)?;
                let name = group.name_any();
                if documents.groups.insert(name.clone(), group.spec).is_some() {
                    bail!("NodeGroupAutoscaler {name} is there twice");
                }
            }
            Some("ClusterAutoscalingPolicy") => {
                let policy: ClusterAutoscalingPolicy = serde_yaml_ng::from_value(value).with_context(what)?;
                documents.policies.push(Policy { name: policy.name_any(), spec: policy.spec });
            }
            kind => bail!(
                "document {} is {}: write NodeGroupAutoscaler or ClusterAutoscalingPolicy",
                at + 1,
                kind.unwrap_or("of no kind")
            ),
        }
    }
    Ok(documents)
}

/// What asks for metrics cannot be replayed: a load has none.
fn replayable(spec: &NodeGroupAutoscalerSpec) -> anyhow::Result<()> {
    for trigger in &spec.triggers {
        let usage = |source| source == MetricSource::Usage;
        if trigger.kind == TriggerType::Prometheus
            || trigger.utilization.as_ref().is_some_and(|utilization| usage(utilization.source))
        {
            bail!("trigger {} asks for a metric, and a load has none: leave it out", trigger.name);
        }
    }
    Ok(())
}

impl Documents {
    /// Gives the groups of a load their specs; the policies are left.
    pub(super) fn apply(mut self, load: &mut Load) -> anyhow::Result<Vec<Policy>> {
        for rack in &mut load.racks {
            if let Some(spec) = self.groups.remove(&rack.name) {
                replayable(&spec).with_context(|| format!("NodeGroupAutoscaler {}", rack.name))?;
                // What is decided is done.
                rack.spec = NodeGroupAutoscalerSpec { actuation_mode: ActuationMode::Direct, ..spec };
            }
        }
        let known = load.racks.iter().map(|rack| rack.name.as_str());
        unknown(&self.groups, known)?;
        Ok(self.policies)
    }

    /// Gives autoscalers their specs.
    pub(super) fn specs_for(
        &self,
        mut autoscalers: Vec<NodeGroupAutoscaler>,
    ) -> anyhow::Result<Vec<NodeGroupAutoscaler>> {
        let mut left = self.groups.clone();
        for autoscaler in &mut autoscalers {
            if let Some(spec) = left.remove(&autoscaler.name_any()) {
                autoscaler.spec = spec;
            }
        }
        let names: Vec<String> = autoscalers.iter().map(ResourceExt::name_any).collect();
        unknown(&left, names.iter().map(String::as_str))?;
        Ok(autoscalers)
    }

    /// The policies, or those that there were where it says none.
    pub(super) fn policies_or(&self, others: Vec<Policy>) -> Vec<Policy> {
        if self.policies.is_empty() { others } else { self.policies.clone() }
    }
}

fn unknown<'a>(
    left: &BTreeMap<String, NodeGroupAutoscalerSpec>,
    known: impl Iterator<Item = &'a str>,
) -> anyhow::Result<()> {
    if let Some(name) = left.keys().next() {
        bail!("there is no group {name}: there are {}", known.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

/// A file for the load `gpu`.
#[cfg(test)]
pub(super) const EXAMPLE: &str = "
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1
kind: NodeGroupAutoscaler
metadata: {name: gpu-a}
spec:
  clusterName: replay
  scaleTargetRef: {apiGroup: cluster.x-k8s.io, kind: MachineDeployment, name: gpu-a}
  maxReplicas: 6
  scaleDown: {unneededSeconds: 600, minNodeLifetimeSeconds: 0}
---
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1
kind: ClusterAutoscalingPolicy
metadata: {name: limits}
spec:
  clusterName: replay
  limits: [{name: all, resources: {nvidia.com/gpu: '64'}}]
";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rstest::rstest;

    use super::*;
    use crate::autoscaling::replay::{Order, Shape};

    fn load(shape: Shape) -> Load {
        Order { shape, days: 1, seed: 1, boot_seconds: 600 }.load()
    }

    #[test]
    fn specs_go_to_their_groups() {
        let mut load = load(Shape::Gpu);
        let policies = parse(EXAMPLE).unwrap().apply(&mut load).unwrap();
        assert_eq!(policies[0].name, "limits");
        let unneeded: Vec<i32> =
            load.racks.iter().map(|rack| rack.spec.scale_down.unneeded_seconds).collect();
        assert_eq!(unneeded, [1800, 600, 1800]);
    }

    #[rstest]
    #[case::another_kind("kind: Pod", "write NodeGroupAutoscaler")]
    #[case::no_kind("a: 1", "of no kind")]
    #[case::no_yaml("kind: [", "document 1")]
    #[case::no_spec("kind: NodeGroupAutoscaler\nmetadata: {name: a}", "document 1")]
    #[case::twice(&[EXAMPLE, EXAMPLE].join("---"), "there twice")]
    fn what_cannot_be_used_is_said(#[case] text: &str, #[case] sentence: &str) {
        let error = format!("{:#}", parse(text).unwrap_err());
        assert!(error.contains(sentence), "{error}");
    }

    #[test]
    fn groups_that_are_not_there_and_metrics_are_said() {
        let error = parse(EXAMPLE).unwrap().apply(&mut load(Shape::Batch)).unwrap_err().to_string();
        assert_eq!(error, "there is no group gpu-a: there are cpu-a, cpu-b, cpu-c");
        let usage = "  triggers: [{name: hot, type: Utilization, utilization: {source: Usage}}]\n---";
        let error = format!(
            "{:#}",
            parse(&EXAMPLE.replacen("---", usage, 1)).unwrap().apply(&mut load(Shape::Gpu)).unwrap_err()
        );
        assert!(error.contains("trigger hot asks for a metric"), "{error}");
    }
}
