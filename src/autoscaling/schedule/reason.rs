//! Why a pod cannot run on a node, in words for people: those of kube-scheduler where it has some.

use std::fmt;

use super::model::Beyond;

/// What keeps a pod off a node. The order is that of kube-scheduler's filters: the first that fails is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The simulation does not judge this pod.
    Beyond(Beyond),
    /// The node is not ready.
    NotReady,
    /// The node is about to be removed.
    Leaving,
    /// The node is cordoned (NodeUnschedulable).
    Unschedulable,
    /// The pod names another node (NodeName).
    OtherNode,
    /// A taint that the pod does not tolerate (TaintToleration): `key=value:Effect`.
    Taint(String),
    /// The node selector or the required node affinity (NodeAffinity).
    NodeAffinity,
    /// A port of the host is taken (NodePorts).
    Port,
    /// The node is full (NodeResourcesFit).
    TooManyPods,
    /// Resources of which too little is free (NodeResourcesFit); sorted.
    Insufficient(Vec<String>),
    /// A claim is not there, or not bound and its volume cannot be made here (VolumeBinding).
    Claim(String),
    /// A bound volume cannot be reached from the node (VolumeBinding).
    VolumeAffinity,
    /// A bound volume is in another zone or region (VolumeZone).
    VolumeZone,
    /// The node has no such label, by which the pod is to be spread (PodTopologySpread).
    NoTopology(String),
    /// The spread over this label would be more uneven than allowed (PodTopologySpread).
    Spread(String),
    /// No pod that it wants to be with is there (InterPodAffinity).
    Affinity,
    /// A pod that it does not want to be with is there (InterPodAffinity).
    AntiAffinity,
    /// A pod that does not want to be with it is there (InterPodAffinity).
    OthersAntiAffinity,
    /// The group may not have more nodes.
    GroupLimit,
    /// The group's domain would have too many nodes more than another.
    GroupSpread,
    /// New nodes of the group are for pods that ask for this resource.
    Reserved(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beyond(Beyond::ResourceClaims) => f.write_str("resource claims are not simulated"),
            Self::Beyond(Beyond::Selector) => f.write_str("a label selector cannot be evaluated"),
            Self::Beyond(Beyond::Quantity) => f.write_str("a request is not a quantity"),
            Self::Beyond(Beyond::Gated) => f.write_str("the pod waits at a scheduling gate"),
            Self::NotReady => f.write_str("node is not ready"),
            Self::Leaving => f.write_str("node is about to be removed"),
            Self::Unschedulable => f.write_str("node is unschedulable"),
            Self::OtherNode => f.write_str("pod names another node"),
            Self::Taint(taint) => write!(f, "untolerated taint {taint}"),
            Self::NodeAffinity => f.write_str("node selector or affinity does not match"),
            Self::Port => f.write_str("host port is taken"),
            Self::TooManyPods => f.write_str("too many pods"),
            Self::Insufficient(resources) => write!(f, "insufficient {}", resources.join(", ")),
            Self::Claim(claim) => write!(f, "volume claim {claim} is not bound and cannot be here"),
            Self::VolumeAffinity => f.write_str("volume node affinity conflict"),
            Self::VolumeZone => f.write_str("volume is in another zone"),
            Self::NoTopology(key) => write!(f, "no label {key} to spread over"),
            Self::Spread(key) => write!(f, "topology spread over {key} does not allow it"),
            Self::Affinity => f.write_str("pod affinity does not match"),
            Self::AntiAffinity => f.write_str("pod anti-affinity does not match"),
            Self::OthersAntiAffinity => f.write_str("anti-affinity of a running pod does not match"),
            Self::GroupLimit => f.write_str("group is at its limit"),
            Self::GroupSpread => f.write_str("nodes would be spread too unevenly"),
            Self::Reserved(resource) => write!(f, "new nodes are for pods that ask for {resource}"),
        }
    }
}
