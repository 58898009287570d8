//! Who decides in a replay.

mod baseline;

use std::collections::BTreeMap;

use jiff::Timestamp;

pub use baseline::Baseline;

use crate::autoscaling::schedule::Cluster;
use crate::autoscaling::{self, Group, Memory, NodeState, Policy, Victim, View};

/// What is seen of the world when it is decided.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The time.
    pub now: Timestamp,
    /// Node groups, in the order of their names.
    pub groups: &'a [Group],
    /// Nodes and pods.
    pub cluster: &'a Cluster,
    /// What else is known of the nodes, by name.
    pub nodes: &'a BTreeMap<String, NodeState>,
    /// Rises with every change of any of these, the time excepted.
    pub version: u64,
}

/// What is to be done with a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It gets so many replicas in all.
    Raise(String, i32),
    /// These Machines go.
    Remove(String, Vec<String>),
}

/// Decides.
pub trait Scaler {
    /// Seconds between decisions; at least 1.
    fn interval(&self) -> i64;

    /// What is to be done now.
    fn decide(&mut self, seen: &Seen<'_>) -> Vec<Action>;
}

/// Our own engine.
#[derive(Debug, Clone, Default)]
pub struct Ours {
    policies: Vec<Policy>,
    memory: Memory,
    interval: i64,
}

impl Ours {
    /// With these policies, deciding every so many seconds.
    #[must_use]
    pub fn new(policies: Vec<Policy>, interval: i64) -> Self {
        Self { policies, memory: Memory::default(), interval: interval.max(1) }
    }
}

impl Scaler for Ours {
    fn interval(&self) -> i64 {
        self.interval.max(1)
    }

    fn decide(&mut self, seen: &Seen<'_>) -> Vec<Action> {
        let readings = BTreeMap::new();
        let view = View {
            now: seen.now,
            groups: seen.groups,
            policies: &self.policies,
            cluster: Ok(seen.cluster),
            nodes: seen.nodes,
            readings: &readings,
            usage: None,
        };
        let decisions = autoscaling::decide(&view, &mut self.memory);
        let action = |verdict: autoscaling::Verdict| match verdict.change? {
            autoscaling::Change::Up(_) => Some(Action::Raise(verdict.group, verdict.replicas)),
            autoscaling::Change::Down(_, victims) => {
                let machines = victims.iter().map(Victim::machine).map(str::to_owned).collect();
                Some(Action::Remove(verdict.group, machines))
            }
        };
        decisions.groups.into_iter().filter_map(action).collect()
    }
}
