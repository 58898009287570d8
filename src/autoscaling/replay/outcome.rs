//! What came of a replay.

use serde::Serialize;

use super::Size;

/// A change of a group's number of replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// When, in seconds after the start.
    pub at: i64,
    /// The group.
    pub group: String,
    /// Replicas before.
    pub from: i32,
    /// Replicas after.
    pub to: i32,
}

/// What a load cost, and how long its pods waited. Of the time after the warm-up.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Hours that hosts were on: from the order of a machine until its host is wiped and off.
    pub node_hours: f64,
    /// Hours that nodes at least have to be there for what ran: the scarcest resource, on nodes that are full.
    pub least_node_hours: f64,
    /// The most hosts that were on at once.
    pub most_nodes: i32,
    /// Seconds that pods waited for a node, of all pods together.
    pub pending_pod_seconds: i64,
    /// Times that a pod waited, if only for nothing: it came or was evicted.
    pub waits: usize,
    /// How long half of these were at most, in seconds.
    pub wait_p50: i64,
    /// How long 95 of 100 of these were at most, in seconds.
    pub wait_p95: i64,
    /// How long 99 of 100 of these were at most, in seconds.
    pub wait_p99: i64,
    /// The longest, in seconds.
    pub wait_most: i64,
    /// Times that a host was turned on.
    pub power_cycles: u32,
    /// Pods that were evicted from nodes that went.
    pub evictions: u32,
    /// Seconds that pods which ran for a time had run when they were evicted: done in vain.
    pub lost_pod_seconds: i64,
    /// Machines that were given up before they were nodes.
    pub given_up: u32,
    /// Pods that ended by themselves.
    pub ended: usize,
    /// Pods that were running at the end.
    pub running_at_end: usize,
    /// Pods that were waiting for a node at the end.
    pub waiting_at_end: usize,
    /// All changes, those of the warm-up included.
    #[serde(skip)]
    pub changes: Vec<Change>,
}

/// Counts while time passes.
#[derive(Debug, Clone, Default)]
pub(super) struct Counter {
    /// Before this nothing counts.
    from: i64,
    node_seconds: i64,
    /// What pods that ran asked for, times seconds.
    ran: Size,
    waits: Vec<i64>,
    pub(super) outcome: Outcome,
}

impl Counter {
    pub(super) fn new(from: i64) -> Self {
        Self { from, ..Self::default() }
    }

    /// Time passes, with so many hosts on and pods of such a size in all running.
    pub(super) fn pass(&mut self, from: i64, to: i64, on: i32, running: Size) {
        let seconds = to - from.max(self.from);
        if seconds > 0 {
            self.node_seconds += i64::from(on) * seconds;
            self.ran = self.ran.plus(running, seconds);
            self.outcome.most_nodes = self.outcome.most_nodes.max(on);
        }
    }

    /// A pod has waited; what was before the warm-up's end is not counted.
    pub(super) fn waited(&mut self, since: i64, now: i64) {
        if now >= self.from {
            self.waits.push(now - since.max(self.from).min(now));
        }
    }

    /// Whether it counts now.
    pub(super) fn counts(&self, now: i64) -> bool {
        now >= self.from
    }

    /// The end, with what nodes have at most.
    pub(super) fn end(mut self, largest: Size) -> Outcome {
        self.waits.sort_unstable();
        let waits = &self.waits;
        let quantile = |percent: usize| {
            let rank = (waits.len() * percent).div_ceil(100).saturating_sub(1);
            waits.get(rank).copied().unwrap_or(0)
        };
        let share = |ran: i64, has: i64| if has > 0 { ran as f64 / has as f64 / 3600.0 } else { 0.0 };
        Outcome {
            node_hours: self.node_seconds as f64 / 3600.0,
            least_node_hours: share(self.ran.milli, largest.milli)
                .max(share(self.ran.mebibytes, largest.mebibytes))
                .max(share(self.ran.gpus, largest.gpus)),
            pending_pod_seconds: waits.iter().sum(),
            waits: waits.len(),
            wait_p50: quantile(50),
            wait_p95: quantile(95),
            wait_p99: quantile(99),
            wait_most: waits.last().copied().unwrap_or(0),
            ..self.outcome
        }
    }
}
