//! What decisions are made of, and what they are.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::schedule::Cluster;
use super::triggers::{Reading, Wish};
use super::{Failures, Group, Past, Policy, Removal};

/// All that is known when it is decided.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// The time.
    pub now: Timestamp,
    /// Node groups, in the order of their names.
    pub groups: &'a [Group],
    /// Policies, the oldest first.
    pub policies: &'a [Policy],
    /// The workload cluster, or why it cannot be judged.
    pub cluster: Result<&'a Cluster, String>,
    /// What else is known of its nodes, by name.
    pub nodes: &'a BTreeMap<String, NodeState>,
    /// What queries gave, by group and trigger.
    pub readings: &'a BTreeMap<(String, String), Reading>,
    /// What nodes use, by node and resource; none where nobody says.
    pub usage: Option<&'a BTreeMap<String, BTreeMap<String, f64>>>,
}

/// What is known of a node beside what a scheduler looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Its condition `Ready` is true.
    pub ready: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Somebody asked that it stays: cluster-autoscaler's annotation `scale-down-disabled`.
    pub held: bool,
}

/// What is remembered from one decision to the next. Losing it delays what must be wanted for a while, and harms nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// By group.
    pub groups: BTreeMap<String, GroupMemory>,
}

/// What is remembered of a group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupMemory {
    /// What was wanted and done.
    pub past: Past,
    /// Machines that did not become nodes.
    pub failures: Failures,
    /// Since when metrics have been above their targets, by trigger.
    pub above: BTreeMap<String, Timestamp>,
    /// Since when nodes have not been needed.
    pub unneeded: BTreeMap<String, Timestamp>,
    /// Machines that were seen to be on their way: what becomes of them teaches how long it takes.
    pub flying: BTreeMap<String, Timestamp>,
}

/// What is decided of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The group.
    pub group: String,
    /// The number of replicas that it should have now.
    pub replicas: i32,
    /// Bounds that hold now.
    pub bounds: (i32, i32),
    /// What is to be done, if anything.
    pub change: Option<Change>,
    /// What each trigger asks for, in the order of the spec.
    pub triggers: Vec<(String, Wish)>,
    /// Why there is no number that is wanted, if so: nothing is changed.
    pub inactive: Option<String>,
    /// What keeps the number from what is wanted.
    pub limited: Option<String>,
    /// Until when the group is not raised, since machines did not become nodes.
    pub backed_off: Option<Timestamp>,
    /// Nodes that are not needed, and since when.
    pub unneeded: BTreeMap<String, Timestamp>,
}

impl Verdict {
    /// Nothing is known and nothing is to be done.
    #[must_use]
    pub fn nothing(group: &str) -> Self {
        Self {
            group: group.to_owned(),
            replicas: 0,
            bounds: (0, 0),
            change: None,
            triggers: Vec::new(),
            inactive: None,
            limited: None,
            backed_off: None,
            unneeded: BTreeMap::new(),
        }
    }
}

/// A change of the number of replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// More.
    Up(Why),
    /// Fewer: these Machines.
    Down(Why, Vec<Victim>),
}

/// Why a number is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// In one word.
    pub reason: &'static str,
    /// The trigger that asked for it.
    pub trigger: Option<String>,
    /// In a sentence.
    pub message: String,
}

/// A Machine that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Victim {
    /// A node that is not needed, with the proof.
    Node(Removal),
    /// A Machine that did not become a node in time.
    Late(String),
}

impl Victim {
    /// Name of the Machine.
    #[must_use]
    pub fn machine(&self) -> &str {
        match self {
            Self::Node(removal) => &removal.machine,
            Self::Late(machine) => machine,
        }
    }
}

/// What is decided of a cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decisions {
    /// One for each group, in their order.
    pub groups: Vec<Verdict>,
    /// Pods that fit nowhere and that no group has a place for, `namespace/name`.
    pub stranded: Vec<String>,
    /// Nodes that are being emptied and cannot be: their pods fit nowhere else any more, or may not be moved; and why.
    pub stuck: BTreeMap<String, String>,
    /// Nodes that are not used enough and stay, and why.
    pub blocked: BTreeMap<String, String>,
}
