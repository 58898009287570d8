//! What is replayed: racks, pods that arrive, and services that grow and shrink.

use ferric_api::autoscaling::NodeGroupAutoscalerSpec;
use jiff::Timestamp;

/// What a pod asks for, or a node has for pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Thousandths of a processor.
    pub milli: i64,
    /// Mebibytes of memory.
    pub mebibytes: i64,
    /// GPUs, as `nvidia.com/gpu`.
    pub gpus: i64,
}

impl Size {
    /// Both together, the other one so many times.
    #[must_use]
    pub fn plus(self, other: Self, times: i64) -> Self {
        Self {
            milli: self.milli + other.milli * times,
            mebibytes: self.mebibytes + other.mebibytes * times,
            gpus: self.gpus + other.gpus * times,
        }
    }
}

/// How long a host takes from its order to its node, in seconds: evenly spread between both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// The least.
    pub least: i64,
    /// The most.
    pub most: i64,
}

/// A node group: hosts of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Rack {
    /// Its name, also the name of its NodeGroupAutoscaler.
    pub name: String,
    /// Hosts in it.
    pub hosts: i32,
    /// What each of them has for pods.
    pub size: Size,
    /// How long they take to boot.
    pub boot: Boot,
    /// What our autoscaler is told about it.
    pub spec: NodeGroupAutoscalerSpec,
}

/// What all pods of one owner are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: String,
    /// What each asks for.
    pub size: Size,
    /// The pod says that it is not to be evicted (`cluster-autoscaler.kubernetes.io/safe-to-evict: "false"`).
    pub stays: bool,
}

/// A pod that comes, runs for a time, and ends. Evicted, it begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When it comes, in seconds after the start.
    pub at: i64,
    /// Which [`Load::kinds`] it is of.
    pub kind: usize,
    /// How long it runs, in seconds.
    pub runs: i64,
}

/// Pods that run until there are to be fewer of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Which [`Load::kinds`] they are of.
    pub kind: usize,
    /// How many there are from a time on, in seconds after the start, in the order of time.
    pub replicas: Vec<(i64, usize)>,
}

/// All that is replayed.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// When it begins.
    pub start: Timestamp,
    /// How long it lasts, in seconds.
    pub seconds: i64,
    /// Seconds at the beginning that do not count: everything begins with no node.
    pub warm_up: i64,
    /// Node groups, in the order of their names.
    pub racks: Vec<Rack>,
    /// What pods there are.
    pub kinds: Vec<Kind>,
    /// Pods that come, in the order of time.
    pub arrivals: Vec<Arrival>,
    /// Services.
    pub services: Vec<Service>,
    /// Seconds that an evicted pod takes to end, and its node with it: `terminationGracePeriodSeconds` is 30 by default.
    pub drain_seconds: i64,
    /// Seconds for which a host that was given back is on and cannot be claimed: it is wiped.
    pub wipe_seconds: i64,
}

impl Load {
    /// For how long outcomes are counted, in seconds.
    #[must_use]
    pub fn counted(&self) -> i64 {
        (self.seconds - self.warm_up).max(0)
    }
}
