//! What a group says: status, conditions, history. Pure.

use ferric_api::autoscaling::{
    ActuationMode, BootSeconds, Decision, Direction, NodeGroupAutoscalerStatus, TriggerState, TriggerStatus,
    TriggerType, types,
};
use ferric_api::condition::{self, ConditionStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::drains::Drain;
use super::gather::Unable;
use super::view::{Change, Verdict, Victim};
use super::{Group, Learned};

/// Decisions that a status keeps.
const HISTORY: usize = 10;
/// Names that a sentence lists.
const NAMED: usize = 3;

/// What a group's status is made of.
#[derive(Debug, Clone)]
pub struct Told<'a> {
    /// The group.
    pub group: &'a Group,
    /// What was decided of it.
    pub verdict: &'a Verdict,
    /// `spec.replicas` of what is scaled.
    pub replicas: i32,
    /// How long its machines took.
    pub learned: &'a Learned,
    /// Its nodes that are being emptied, and how many pods are left on each.
    pub drains: &'a [(Drain, usize)],
    /// Why what was decided could not be done, if so.
    pub failed: Option<&'a str>,
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// The time.
    pub now: Timestamp,
}

/// The status of a group, and the decision that is news in it.
#[must_use]
pub fn status(
    before: &NodeGroupAutoscalerStatus,
    told: &Told<'_>,
) -> (NodeGroupAutoscalerStatus, Option<Decision>) {
    let (group, verdict) = (told.group, told.verdict);
    let mut status = before.clone();
    status.observed_generation = told.generation;
    status.current_replicas = Some(told.replicas);
    status.desired_replicas = Some(verdict.replicas);
    status.effective_min_replicas = Some(verdict.bounds.0);
    status.effective_max_replicas = Some(verdict.bounds.1);
    status.usable_hosts = Some(group.free.all());
    let flying = group.machines.iter().filter(|machine| machine.node.is_none() && !machine.deleting);
    status.in_flight = Some(i32::try_from(flying.count()).unwrap_or(i32::MAX));
    status.boot_seconds = boot(before.boot_seconds.as_ref(), told.learned);
    // What is not measured now was measured last as the status says.
    if verdict.inactive.is_none() {
        status.triggers = triggers(before, group, verdict, told.now);
    }
    let decision = decision(before, told);
    if let Some(decision) = &decision {
        status.last_decision = Some(decision.clone());
        status.history.insert(0, decision.clone());
        status.history.truncate(HISTORY);
    }
    conditions(&mut status, told);
    (status, decision)
}

/// The status of an autoscaler that has nothing to scale.
#[must_use]
pub fn unable(
    before: &NodeGroupAutoscalerStatus,
    unable: &Unable,
    generation: Option<i64>,
    now: Timestamp,
) -> NodeGroupAutoscalerStatus {
    let mut status = before.clone();
    status.observed_generation = generation;
    (status.current_replicas, status.desired_replicas) = (None, None);
    let mut set = |kind, status_, reason: &str, message: &str| {
        condition::set(&mut status.conditions, kind, status_, reason, message, generation, &Time(now));
    };
    set(types::ABLE_TO_SCALE, ConditionStatus::False, unable.reason, &unable.message);
    set(
        types::SCALING_ACTIVE,
        ConditionStatus::False,
        "NotAbleToScale",
        "there is nothing that could be scaled",
    );
    status
}

/// What was learned. That time went by without anything to learn from is no news.
fn boot(before: Option<&BootSeconds>, learned: &Learned) -> Option<BootSeconds> {
    let after = learned.status()?;
    let same = |before: &&BootSeconds| (&before.sketch, &before.counted) == (&after.sketch, &after.counted);
    Some(before.filter(same).cloned().unwrap_or(after))
}

fn triggers(
    before: &NodeGroupAutoscalerStatus,
    group: &Group,
    verdict: &Verdict,
    now: Timestamp,
) -> Vec<TriggerStatus> {
    let asks = |name: &str| {
        let mut triggers = group.spec.triggers.iter();
        triggers.any(|trigger| trigger.name == name && trigger.kind == TriggerType::Prometheus)
    };
    let each = verdict.triggers.iter().map(|(name, wish)| {
        let old = before.triggers.iter().find(|old| old.name == *name);
        let measured = old.and_then(|old| old.measured.clone());
        let same = old.is_some_and(|old| old.value == wish.value && old.state == wish.state);
        TriggerStatus {
            name: name.clone(),
            state: wish.state,
            value: wish.value.clone(),
            wanted_replicas: wish.replicas,
            message: wish.message.clone(),
            // Of what is asked elsewhere only, and when the answer is another: a time alone is no news.
            measured: match wish.state {
                TriggerState::Failed => measured,
                _ if same && measured.is_some() => measured,
                _ => asks(name).then_some(Time(now)),
            },
        }
    });
    each.collect()
}

/// The decision, if there is one that the status does not tell yet. What nobody carries out is told once.
fn decision(before: &NodeGroupAutoscalerStatus, told: &Told<'_>) -> Option<Decision> {
    let verdict = told.verdict;
    let (direction, why) = match verdict.change.as_ref()? {
        Change::Up(why) => (Direction::Up, why),
        Change::Down(why, _) => (Direction::Down, why),
    };
    if told.failed.is_some() {
        return None;
    }
    let decision = Decision {
        time: Time(told.now),
        direction,
        reason: why.reason.to_owned(),
        trigger: why.trigger.clone(),
        from: told.group.replicas,
        to: verdict.replicas,
        message: why.message.clone(),
    };
    let told_before = before.last_decision.as_ref().is_some_and(|last| {
        (last.direction, last.from, last.to, &last.reason)
            == (decision.direction, decision.from, decision.to, &decision.reason)
    });
    (told.group.spec.actuation_mode == ActuationMode::Direct || !told_before).then_some(decision)
}

fn conditions(status: &mut NodeGroupAutoscalerStatus, told: &Told<'_>) {
    let (verdict, now) = (told.verdict, Time(told.now));
    let mut set = |kind: &str, holds: bool, reason: &str, message: &str| {
        let state = if holds { ConditionStatus::True } else { ConditionStatus::False };
        condition::set(&mut status.conditions, kind, state, reason, message, told.generation, &now);
    };
    match told.failed {
        Some(why) => set(types::ABLE_TO_SCALE, false, "ScaleFailed", why),
        None => set(types::ABLE_TO_SCALE, true, "TargetFound", ""),
    }
    let failed = |(name, wish): &&(String, super::triggers::Wish)| {
        (wish.state == TriggerState::Failed).then(|| format!("{name}: {}", wish.message))
    };
    let failures: Vec<String> = verdict.triggers.iter().filter_map(|trigger| failed(&trigger)).collect();
    match &verdict.inactive {
        Some(why) => set(types::SCALING_ACTIVE, false, "OnHold", why),
        None if !failures.is_empty() && failures.len() == verdict.triggers.len() => {
            set(types::SCALING_ACTIVE, false, "TriggersFailed", &failures.join("; "));
        }
        None if !failures.is_empty() => {
            let message = format!("nothing is lowered meanwhile: {}", failures.join("; "));
            set(types::SCALING_ACTIVE, true, "TriggerFailed", &message);
        }
        None => set(types::SCALING_ACTIVE, true, "Measured", ""),
    }
    match &verdict.limited {
        Some(by) => set(types::SCALING_LIMITED, true, "Limited", by),
        None => set(types::SCALING_LIMITED, false, "WithinLimits", ""),
    }
    match verdict.backed_off {
        Some(until) => {
            let message = format!("machines did not become nodes in time: not raised before {until}");
            set(types::BACKED_OFF, true, "ProvisioningTimeout", &message);
        }
        None => set(types::BACKED_OFF, false, "NoFailures", ""),
    }
    if told.drains.is_empty() {
        set(types::DRAINING, false, "None", "");
    } else {
        set(types::DRAINING, true, "Emptying", &draining(told));
    }
    match told.group.spec.actuation_mode {
        ActuationMode::Delegate => {
            let (least, most) = verdict.bounds;
            let message = format!("cluster-autoscaler writes the number of replicas, {least} to {most}");
            set(types::DELEGATED, true, "ClusterAutoscaler", &message);
        }
        ActuationMode::Direct => set(types::DELEGATED, false, "Direct", ""),
        ActuationMode::Recommend => {
            set(types::DELEGATED, false, "Recommend", "nobody here writes the number")
        }
    }
}

/// Which nodes are being emptied, since when and until when.
fn draining(told: &Told<'_>) -> String {
    let limit = i64::from(told.group.spec.scale_down.drain_timeout_seconds);
    let each = told.drains.iter().take(NAMED).map(|(drain, left)| {
        let until = drain.since.saturating_add(jiff::SignedDuration::from_secs(limit));
        let until = until.map_or_else(|_| String::new(), |until| format!(", given back at {until}"));
        format!("node {}: {left} pods left, since {}{until}", drain.node, drain.since)
    });
    let mut text = each.collect::<Vec<_>>().join("; ");
    if told.drains.len() > NAMED {
        text += &format!("; and {} more", told.drains.len() - NAMED);
    }
    text
}

/// A sentence about a decision, for an event.
#[must_use]
pub fn sentence(decision: &Decision, verdict: &Verdict) -> String {
    let trigger = decision.trigger.as_ref().map(|name| format!(" (trigger {name})")).unwrap_or_default();
    let mut text = format!("{} to {}{trigger}: {}", decision.from, decision.to, decision.message);
    if let Some(Change::Down(_, victims)) = &verdict.change {
        let moves: usize = victims
            .iter()
            .map(|victim| match victim {
                Victim::Node(removal) => removal.moves.len(),
                Victim::Late(_) => 0,
            })
            .sum();
        if moves > 0 {
            text += &format!("; {moves} pods move");
        }
    }
    text
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
