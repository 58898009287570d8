//! Nodes that are on their way out: emptied first, then removed. Pure.
//!
//! A node that is to go is cordoned, its pods are evicted, and only when it is empty its Machine is marked
//! (`cluster.x-k8s.io/delete-machine`) and the number of replicas lowered by one. Until then it can be given back, and is,
//! as soon as a node more is wanted or its pods fit nowhere else any more: that is faster than any server boots.
//!
//! While a node is emptied its Machine still counts in `spec.replicas`; decisions are about those that stay. After the
//! number was lowered it does not count any more although the Machine is still there: which of the two holds is read from
//! the number of Machines, so that it needs no memory.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;

use super::view::{Change, Verdict, Victim};

/// A node that is being emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Its Machine.
    pub machine: String,
    /// The node.
    pub node: String,
    /// Since when.
    pub since: Timestamp,
    /// The Machine is marked to go first.
    pub marked: bool,
    /// Why it is not to go any more, if so: somebody has taken it in hand.
    pub stop: Option<&'static str>,
}

/// What is known of a group's nodes that are being emptied.
#[derive(Debug, Clone)]
pub struct Draining<'a> {
    /// `spec.replicas` of what is scaled.
    pub replicas: i32,
    /// Machines of it that are not being deleted.
    pub staying: usize,
    /// The nodes, in the order of their names.
    pub drains: &'a [Drain],
    /// Pods that are still on each, without those that go with their node.
    pub pods: &'a BTreeMap<String, usize>,
    /// Why a node cannot be emptied any more, by node.
    pub stuck: &'a BTreeMap<String, String>,
    /// Seconds that it may take.
    pub timeout_seconds: i32,
    /// Replicas are written by this autoscaler.
    pub direct: bool,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// Nodes that are given back, and why.
    pub give_back: Vec<(Drain, String)>,
    /// Nodes whose pods are to be evicted.
    pub evict: Vec<Drain>,
    /// Machine and node of those that begin to be emptied.
    pub begin: Vec<(String, String)>,
    /// Machines that are to be marked before the number is lowered.
    pub mark: Vec<String>,
    /// What `spec.replicas` should become.
    pub replicas: Option<i32>,
}

/// How many of the nodes that are being emptied still count in `spec.replicas`: all, but those for which it was lowered
/// already, so that there are more Machines than replicas.
#[must_use]
pub fn unpaid(replicas: i32, staying: usize, draining: usize) -> i32 {
    let whole = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let paid = (whole(staying) - replicas).clamp(0, whole(draining));
    (whole(draining) - paid).min(replicas.max(0))
}

/// Of the nodes that are being emptied those that still count in `spec.replicas`, of which there are so many. The number was
/// lowered for marked ones first: they are marked before.
#[must_use]
pub fn pending(drains: &[Drain], unpaid: i32) -> Vec<&Drain> {
    let (marked, others): (Vec<&Drain>, Vec<&Drain>) = drains.iter().partition(|drain| drain.marked);
    let paid = drains.len().saturating_sub(usize::try_from(unpaid).unwrap_or(0));
    marked.into_iter().chain(others).skip(paid).collect()
}

/// What is to be done about a group now.
#[must_use]
pub fn steps(draining: &Draining<'_>, verdict: &Verdict, now: Timestamp) -> Steps {
    let mut steps = Steps::default();
    let unpaid = unpaid(draining.replicas, draining.staying, draining.drains.len());
    let mut pending = pending(draining.drains, unpaid);
    if verdict.inactive.is_some() {
        return steps;
    }
    if !draining.direct {
        let why = "replicas are not written by this autoscaler any more".to_owned();
        steps.give_back = pending.into_iter().map(|drain| (drain.clone(), why.clone())).collect();
        return steps;
    }
    let mut replicas = draining.replicas;
    if matches!(verdict.change, Some(Change::Up(_))) {
        let more = (verdict.replicas - (draining.replicas - unpaid)).max(0);
        // Unmarked ones first: a marked Machine may be gone already. The last that began is the fullest.
        pending.sort_by_key(|drain| (drain.marked, Reverse(drain.since), Reverse(&drain.node)));
        let kept = usize::try_from(more).unwrap_or(0).min(pending.len());
        for drain in pending.drain(..kept) {
            steps.give_back.push((drain.clone(), "a node more is wanted".to_owned()));
        }
        replicas += more - i32::try_from(kept).unwrap_or(0);
    }
    for drain in pending {
        let age = now.duration_since(drain.since).as_secs();
        let left = draining.pods.get(&drain.node).copied();
        if let Some(why) = drain.stop {
            steps.give_back.push((drain.clone(), why.to_owned()));
        } else if let Some(why) = draining.stuck.get(&drain.node) {
            steps.give_back.push((drain.clone(), why.clone()));
        } else if left == Some(0) {
            steps.mark.push(drain.machine.clone());
            replicas -= 1;
        } else if age > i64::from(draining.timeout_seconds) {
            let (pods, limit) = (left.unwrap_or(0), draining.timeout_seconds);
            steps.give_back.push((drain.clone(), format!("{pods} pods are left after {limit} s")));
        } else if left.is_some() {
            steps.evict.push(drain.clone());
        }
    }
    if let Some(Change::Down(_, victims)) = &verdict.change {
        for victim in victims {
            match victim {
                Victim::Node(removal) => steps.begin.push((removal.machine.clone(), removal.node.clone())),
                Victim::Late(machine) => {
                    steps.mark.push(machine.clone());
                    replicas -= 1;
                }
            }
        }
    }
    steps.replicas = (replicas != draining.replicas).then_some(replicas.max(0));
    steps
}

#[cfg(test)]
#[path = "drains_tests.rs"]
mod tests;
