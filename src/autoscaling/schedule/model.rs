//! What the simulation knows of a cluster: only what decides where a pod can run.
//!
//! Small on purpose: what the pods of one owner share ([`Spec`], labels) is stored once, names are indices, and a pod is
//! some hundred bytes. Left out because they never make a node unfit: preferred affinities, `ScheduleAnyway` spread,
//! `PreferNoSchedule` taints, images. Left out because the simulation does not do them, so that such a pod fits nowhere
//! ([`Beyond`]) instead of anywhere: devices of dynamic resource allocation, volumes that are not bound and cannot be
//! made. Not looked at: how many volumes a node can attach, `ReadWriteOncePod`, storage capacity of a driver, and
//! tolerations with `Gt` and `Lt`, which kube-scheduler has behind a gate that is off.

use super::select::{Namespaces, NodeTerms, Selector};
use super::symbols::{Labels, Sym};

/// Amounts by resource, sorted by resource, none zero: thousandths of `cpu`, whole units of everything else.
pub type Amounts = Box<[(Sym, i64)]>;

/// What a taint does to pods that do not tolerate it. `PreferNoSchedule` forbids nothing and is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// None are placed.
    NoSchedule,
    /// None are placed, and none stay.
    NoExecute,
}

impl Effect {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

/// A taint of a node that keeps pods off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Taint {
    /// Its key.
    pub key: Sym,
    /// Its value, empty if absent.
    pub value: Sym,
    /// What it does.
    pub effect: Effect,
}

/// A toleration of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Toleration {
    /// The key; `None` is every key.
    pub key: Option<Sym>,
    /// The value; `None` is every value (`Exists`).
    pub value: Option<Sym>,
    /// The effect; `None` is every effect.
    pub effect: Option<Effect>,
}

impl Toleration {
    /// Whether it tolerates a taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && self.key.is_none_or(|key| key == taint.key)
            && self.value.is_none_or(|value| value == taint.value)
    }
}

/// A topology spread constraint with `whenUnsatisfiable: DoNotSchedule`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spread {
    /// The label whose values are the domains.
    pub key: Sym,
    /// How many more matching pods than the emptiest domain a domain may have; at least 1.
    pub max_skew: i32,
    /// With fewer domains than this, the emptiest counts as empty; at least 1.
    pub min_domains: i32,
    /// Which pods of the namespace are counted; `None` matches none, an empty one counts none either.
    pub selector: Option<Selector>,
    /// Keys whose value in the pod's own labels is also asked for.
    pub match_label_keys: Box<[Sym]>,
    /// Whether nodes that the pod's selector and affinity exclude count as domains: `nodeAffinityPolicy: Ignore`.
    pub ignore_affinity: bool,
    /// Whether nodes with taints that the pod does not tolerate are left out: `nodeTaintsPolicy: Honor`.
    pub honor_taints: bool,
}

/// A required term of pod affinity or anti-affinity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodTerm {
    /// The label whose values are the domains.
    pub key: Sym,
    /// Which pods; `None` matches none.
    pub selector: Option<Selector>,
    /// In which namespaces.
    pub namespaces: Namespaces,
}

/// A port of the host that a pod takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The address; `None` is all (`0.0.0.0` or absent).
    pub address: Option<Sym>,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: Sym,
    /// The number, above 0.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address.is_none() || other.address.is_none() || self.address == other.address)
    }
}

/// Why the simulation does not judge a pod: it fits nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Beyond {
    /// It asks for devices by `resourceClaims`.
    ResourceClaims,
    /// A label selector cannot be evaluated.
    Selector,
    /// A request is not a quantity.
    Quantity,
    /// It waits at a scheduling gate: nobody places it.
    Gated,
}

/// What the pods of one owner have in common and decides where they can run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Spec {
    /// What it takes from a node, beside one of its pods.
    pub requests: Amounts,
    /// `nodeSelector`.
    pub node_selector: Labels,
    /// Required node affinity.
    pub node_affinity: Option<NodeTerms>,
    /// Sorted.
    pub tolerations: Box<[Toleration]>,
    /// Spread that must hold.
    pub spread: Box<[Spread]>,
    /// Required pod affinity: all terms by the same pods.
    pub affinity: Box<[PodTerm]>,
    /// Required pod anti-affinity.
    pub anti_affinity: Box<[PodTerm]>,
    /// Sorted.
    pub ports: Box<[HostPort]>,
    /// Set if the simulation does not judge it.
    pub beyond: Option<Beyond>,
}

/// A pod that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Sym,
    /// Its name.
    pub name: Box<str>,
    /// Its labels, in the pool of the cluster.
    pub labels: u32,
    /// Its spec, in the pool of the cluster.
    pub spec: u32,
    /// The node it is bound to.
    pub node: Option<Sym>,
    /// The node that preemption makes room on for it.
    pub nominated: Option<Sym>,
    /// Its persistent volume claims; mostly none.
    pub claims: Box<[Sym]>,
    /// Higher goes first.
    pub priority: i32,
    /// When it was made, in seconds of Unix time; 0 if that is not known.
    pub created: i64,
    /// What a drain makes of it.
    pub drain: Drain,
}

/// What `cluster-autoscaler.kubernetes.io/safe-to-evict` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SafeToEvict {
    /// Nothing.
    #[default]
    Unsaid,
    /// `true`: evict it whatever else speaks against it, except a budget.
    Yes,
    /// `false` or `on-completion`: leave it where it is.
    No,
}

/// What decides whether a pod may be moved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drain {
    /// The mirror of a static pod: it goes with its node.
    pub mirror: bool,
    /// Owned by a DaemonSet: it goes with its node.
    pub daemon: bool,
    /// Something will make it again: it has a controller.
    pub replicated: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// Condition `Ready` is true.
    pub ready: bool,
    /// Phase `Pending`: the eviction API asks no budget for it.
    pub starting: bool,
    /// It has a `hostPath` or an `emptyDir` on disk that is not named in
    /// `cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes`.
    pub local_storage: bool,
    /// What its annotation says.
    pub safe_to_evict: SafeToEvict,
}

impl Drain {
    /// Whether it goes with its node: nobody evicts it.
    #[must_use]
    pub fn goes_along(&self) -> bool {
        self.mirror || self.daemon
    }
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Sym,
    /// Its labels.
    pub labels: Labels,
    /// Its taints that keep pods off, in the order of the API: the first that is not tolerated is told.
    pub taints: Box<[Taint]>,
    /// What it has for pods, of each resource.
    pub allocatable: Amounts,
    /// How many pods it takes.
    pub max_pods: i64,
    /// Cordoned.
    pub unschedulable: bool,
    /// Its condition `Ready` is there and not true. kube-scheduler relies on the taints that follow; here such a node
    /// takes no pod even before.
    pub not_ready: bool,
}

impl Node {
    /// A node like it that could be added: with a name and host name of its own each time, ready and not cordoned.
    #[must_use]
    pub fn another(mut self) -> Self {
        self.name = Sym::NEW_NODE;
        self.labels = self.labels.with(Sym::HOSTNAME, Sym::NEW_NODE);
        self.taints = self.taints.iter().filter(|taint| taint.key != Sym::UNSCHEDULABLE).copied().collect();
        self.unschedulable = false;
        self.not_ready = false;
        self
    }
}

/// A PodDisruptionBudget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Its namespace.
    pub namespace: Sym,
    /// Its name.
    pub name: Box<str>,
    /// Which pods; `None` matches none.
    pub selector: Option<Selector>,
    /// `status.disruptionsAllowed`.
    pub allowed: i32,
    /// What `unhealthyPodEvictionPolicy` and the status make of pods that are not ready.
    pub spares_unready: bool,
}

/// A PersistentVolumeClaim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Bound to this volume.
    Bound(Sym),
    /// Not bound: its storage class, and the node for which a volume is being made.
    Unbound {
        /// Name of the storage class.
        class: Option<Sym>,
        /// Annotation `volume.kubernetes.io/selected-node`.
        node: Option<Sym>,
    },
}

/// A PersistentVolume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// From where it can be reached; `None` is everywhere.
    pub affinity: Option<NodeTerms>,
    /// Its labels of zone and region: key and the values that will do.
    pub zones: Box<[(Sym, Box<[Sym]>)]>,
}

/// A StorageClass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageClass {
    /// `volumeBindingMode: WaitForFirstConsumer`: the volume is made where the pod goes.
    pub late: bool,
    /// It has a provisioner that makes volumes.
    pub provisions: bool,
    /// Where it makes them; `None` is everywhere.
    pub topologies: Option<NodeTerms>,
}

/// A pod that every fitting node gets: of a DaemonSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Its namespace.
    pub namespace: Sym,
    /// The labels of its pods, in the pool of the cluster.
    pub labels: u32,
    /// The spec of its pods, in the pool of the cluster.
    pub spec: u32,
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn sym(text: &str, symbols: &mut super::super::symbols::Symbols) -> Option<Sym> {
        (!text.is_empty()).then(|| symbols.intern(text))
    }

    #[rstest]
    #[case(("", "TCP", 80), ("", "TCP", 80), true)]
    #[case(("", "TCP", 80), ("", "UDP", 80), false)]
    #[case(("", "TCP", 80), ("", "TCP", 81), false)]
    #[case(("10.0.0.1", "TCP", 80), ("", "TCP", 80), true)]
    #[case(("", "TCP", 80), ("10.0.0.1", "TCP", 80), true)]
    #[case(("10.0.0.1", "TCP", 80), ("10.0.0.2", "TCP", 80), false)]
    #[case(("10.0.0.1", "TCP", 80), ("10.0.0.1", "TCP", 80), true)]
    fn host_ports(#[case] a: (&str, &str, i32), #[case] b: (&str, &str, i32), #[case] expected: bool) {
        let mut symbols = super::super::symbols::Symbols::default();
        let mut port = |(address, protocol, port): (&str, &str, i32)| HostPort {
            address: sym(address, &mut symbols),
            protocol: symbols.intern(protocol),
            port,
        };
        assert_eq!(port(a).conflicts(&port(b)), expected);
    }
}
