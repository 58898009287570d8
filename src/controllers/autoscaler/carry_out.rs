//! Carries out what was decided of a group, and says what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferric_api::autoscaling::{
    ActuationMode, ClusterAutoscalingPolicy, ClusterAutoscalingPolicyStatus, Decision, Direction, GroupUsage,
    NodeGroupAutoscaler, NodeGroupAutoscalerStatus,
};
use ferric_api::condition::{self, ConditionStatus};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::engine::{Decided, Engine};
use super::workload::Workload;
use super::{act, nodes};
use crate::autoscaling::drains::{Draining, Steps, steps};
use crate::autoscaling::gather::{Gathered, Objects, Unable};
use crate::autoscaling::report::{self, Told};
use crate::autoscaling::{Group, Verdict, delegate};
use crate::host::record::merge_diff;
use crate::patch;
use crate::telemetry::EventKind;

/// Evictions that are asked for at once.
const AT_ONCE: usize = 8;
/// Pods of a node that are asked to leave in one round.
const EACH_ROUND: usize = 64;

/// What became of a decision.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Why it could not be carried out, if so.
    pub(super) failed: Option<String>,
}

impl Outcome {
    fn failed(error: &dyn std::fmt::Display) -> Self {
        Self { failed: Some(error.to_string()) }
    }
}

impl Engine {
    /// Does what is to be done about a group now.
    pub(super) async fn carry_out(
        &mut self,
        gathered: &Gathered,
        verdict: &Verdict,
        decided: &Decided,
        workload: &Workload,
        now: Timestamp,
    ) -> Outcome {
        let group = &gathered.group;
        if let Err(error) = self.delegate(gathered, verdict).await {
            return Outcome::failed(&error);
        }
        let draining = Draining {
            replicas: gathered.replicas,
            staying: gathered.staying,
            drains: &gathered.drains,
            pods: &decided.left,
            stuck: &decided.decisions.stuck,
            timeout_seconds: group.spec.scale_down.drain_timeout_seconds,
            direct: group.spec.actuation_mode == ActuationMode::Direct,
        };
        let steps = steps(&draining, verdict, now);
        if steps == Steps::default() {
            return Outcome::default();
        }
        match self.take(gathered, &steps, decided, workload, now).await {
            Ok(()) => Outcome::default(),
            Err(error) => {
                self.context.metrics.error("Autoscaling");
                tracing::warn!(cluster = %self.cluster, group = group.name, %error, "not carried out");
                Outcome::failed(&error)
            }
        }
    }

    async fn take(
        &mut self,
        gathered: &Gathered,
        steps: &Steps,
        decided: &Decided,
        workload: &Workload,
        now: Timestamp,
    ) -> Result<(), act::ActError> {
        let (group, client) = (&gathered.group.name, self.context.client.clone());
        let namespace = self.cluster.namespace.clone();
        for (drain, why) in &steps.give_back {
            if drain.marked {
                act::mark(&client, &namespace, &drain.machine, false).await?;
            }
            self.give_back(workload, &drain.node, group, why).await;
        }
        for drain in &steps.evict {
            let pods = decided.to_evict.get(&drain.node).map(Vec::as_slice).unwrap_or_default();
            evict(workload, &drain.node, pods).await?;
        }
        for (_, node) in &steps.begin {
            if nodes::cordon(workload.client(), node, group, now).await? {
                tracing::info!(cluster = %self.cluster, group, node, "node is being emptied");
            }
        }
        let mut to = steps.replicas.unwrap_or(gathered.replicas);
        if to < gathered.replicas
            && let Some(marked) = gathered.foreign_marks.iter().find(|marked| !steps.mark.contains(marked))
        {
            return Err(act::ActError::Marked(marked.clone()));
        }
        for machine in &steps.mark {
            match gathered.drains.iter().find(|drain| drain.machine == *machine) {
                Some(drain) if !nodes::is_empty(workload.client(), &drain.node, group).await? => to += 1,
                Some(_) => act::mark(&client, &namespace, machine, true).await?,
                None => act::mark_late(&client, &namespace, machine).await?,
            }
        }
        if to != gathered.replicas {
            let name = gathered.deployment.name_any();
            let from = gathered.replicas;
            for machine in gathered.stale_marks.iter().filter(|stale| !steps.mark.contains(stale)) {
                act::mark(&client, &namespace, machine, false).await?;
            }
            let written = act::scale(&client, &namespace, &name, (from, to)).await?;
            tracing::info!(cluster = %self.cluster, group, from, to, "replicas written");
            self.context.written.put(Arc::new(written));
        }
        Ok(())
    }

    /// Tells cluster-autoscaler what it may do, or takes back what it was told.
    async fn delegate(&self, gathered: &Gathered, verdict: &Verdict) -> Result<(), patch::ApiError> {
        let (group, annotations) = (&gathered.group, gathered.deployment.annotations());
        // What is not known, or held, changes nothing.
        if verdict.inactive.is_some() {
            return Ok(());
        }
        let told = match group.spec.actuation_mode {
            ActuationMode::Delegate => delegate::told(group, verdict, annotations),
            ActuationMode::Direct | ActuationMode::Recommend => BTreeMap::new(),
        };
        if let Some(change) = delegate::change(annotations, &told) {
            let written = act::annotate(&self.context.client, &gathered.deployment, change).await?;
            self.context.written.put(Arc::new(written));
        }
        Ok(())
    }

    /// Gives a node back that was being emptied. What fails is done in the next round.
    pub(super) async fn give_back(&mut self, workload: &Workload, node: &str, group: &str, why: &str) {
        match nodes::give_back(workload.client(), node, group).await {
            Ok(()) => {
                tracing::info!(cluster = %self.cluster, group, node, why, "node is given back");
                self.leave_alone(node);
            }
            Err(error) => {
                tracing::warn!(cluster = %self.cluster, group, node, %error, "node not given back");
            }
        }
    }

    /// Writes the status of a group, and tells of a decision.
    pub(super) async fn say(
        &self,
        objects: &Objects,
        gathered: &Gathered,
        verdict: &Verdict,
        decided: &Decided,
        outcome: &Outcome,
        now: Timestamp,
    ) {
        let group = &gathered.group;
        let Some(autoscaler) = find(objects, &group.name) else { return };
        let left = |node: &str| decided.left.get(node).copied().unwrap_or(0);
        let drains: Vec<_> = gathered.drains.iter().map(|drain| (drain.clone(), left(&drain.node))).collect();
        let learned = self.learned.get(&group.name).cloned().unwrap_or_default();
        let told = Told {
            group,
            verdict,
            replicas: gathered.replicas,
            learned: &learned,
            drains: &drains,
            failed: outcome.failed.as_deref(),
            generation: autoscaler.metadata.generation,
            now,
        };
        let before = autoscaler.status.clone().unwrap_or_default();
        let (status, decision) = report::status(&before, &told);
        self.context.metrics.node_group(&self.cluster.namespace, &group.name, &status);
        if self.write(autoscaler, &before, &status).await
            && let Some(decision) = decision
        {
            self.tell(autoscaler, &decision, verdict);
        }
    }

    fn tell(&self, autoscaler: &NodeGroupAutoscaler, decision: &Decision, verdict: &Verdict) {
        let direct = autoscaler.spec.actuation_mode == ActuationMode::Direct;
        let reason = match (decision.direction, direct) {
            (Direction::Up, true) => "ScaleUp",
            (Direction::Up, false) => "ScaleUpRecommended",
            (Direction::Down, true) => "ScaleDown",
            (Direction::Down, false) => "ScaleDownRecommended",
        };
        let note = report::sentence(decision, verdict);
        tracing::info!(cluster = %self.cluster, group = autoscaler.name_any(), reason, note, "decided");
        self.context.metrics.decided(reason);
        self.context.events.publish(autoscaler, EventKind::Normal, reason, "Autoscale", &note);
    }

    /// Says why an autoscaler has nothing to scale.
    pub(super) async fn say_unable(&self, objects: &Objects, name: &str, why: &Unable, now: Timestamp) {
        let Some(autoscaler) = find(objects, name) else { return };
        let before = autoscaler.status.clone().unwrap_or_default();
        let status = report::unable(&before, why, autoscaler.metadata.generation, now);
        self.write(autoscaler, &before, &status).await;
    }

    /// Writes a status if it is another. What fails is written in the next round.
    async fn write(
        &self,
        autoscaler: &NodeGroupAutoscaler,
        before: &NodeGroupAutoscalerStatus,
        status: &NodeGroupAutoscalerStatus,
    ) -> bool {
        let Some(change) = merge_diff(&json!(before), &json!(status)) else { return true };
        let api: Api<NodeGroupAutoscaler> =
            Api::namespaced(self.context.client.clone(), &self.cluster.namespace);
        let (name, version) = (autoscaler.name_any(), autoscaler.resource_version());
        match patch::merge_patch_status(&api, &name, version.as_deref(), json!({ "status": change })).await {
            Ok(written) => {
                self.context.status.put(Arc::new(written));
                true
            }
            Err(error) => {
                if !error.is_conflict() && !error.is_not_found() {
                    self.context.metrics.error(error.reason());
                    tracing::warn!(cluster = %self.cluster, group = name, %error, "status not written");
                }
                false
            }
        }
    }

    /// Says in the policies what the groups hold.
    pub(super) async fn say_policies(&self, objects: &Objects, groups: &[Group]) {
        for policy in &objects.policies {
            let before = policy.status.clone().unwrap_or_default();
            let mut status = ClusterAutoscalingPolicyStatus {
                groups: i32::try_from(groups.len()).ok(),
                usage: groups
                    .iter()
                    .map(|group| GroupUsage { name: group.name.clone(), nodes: group.replicas })
                    .collect(),
                limits: crate::autoscaling::used(&policy.spec.limits, groups),
                conditions: before.conditions.clone(),
            };
            let (generation, now) = (policy.metadata.generation, Time(Timestamp::now()));
            let ready = ConditionStatus::True;
            condition::set(&mut status.conditions, "Ready", ready, "InForce", "", generation, &now);
            let Some(change) = merge_diff(&json!(before), &json!(status)) else { continue };
            let api: Api<ClusterAutoscalingPolicy> =
                Api::namespaced(self.context.client.clone(), &self.cluster.namespace);
            let (name, version) = (policy.name_any(), policy.resource_version());
            let change = json!({ "status": change });
            if let Err(error) = patch::merge_patch_status(&api, &name, version.as_deref(), change).await
                && !error.is_conflict()
            {
                tracing::warn!(cluster = %self.cluster, policy = name, %error, "status not written");
            }
        }
    }
}

fn find<'a>(objects: &'a Objects, name: &str) -> Option<&'a Arc<NodeGroupAutoscaler>> {
    objects.autoscalers.iter().find(|autoscaler| autoscaler.name_any() == name)
}

/// Asks pods to leave. That a budget does not allow it now is no failure.
async fn evict(workload: &Workload, node: &str, pods: &[(String, String)]) -> Result<(), patch::ApiError> {
    let asked: Vec<_> = pods
        .iter()
        .take(EACH_ROUND)
        .cloned()
        .map(|(namespace, name)| {
            let (client, node) = (workload.client().clone(), node.to_owned());
            async move { nodes::evict(&client, &namespace, &name, &node).await }
        })
        .collect();
    let answers: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    answers.into_iter().find_map(Result::err).map_or(Ok(()), Err)
}
