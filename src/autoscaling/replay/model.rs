//! Racks and pods as the scheduling simulation knows them.

use super::load::{Kind, Rack, Size};
use crate::autoscaling::Group;
use crate::autoscaling::schedule::model::{
    Amounts, Drain, Effect, Node, SafeToEvict, Spec, Taint, Toleration,
};
use crate::autoscaling::schedule::symbols::{Labels, Sym};
use crate::autoscaling::schedule::{Cluster, NodeId, Simulation};

/// The resource of GPUs, and the taint that keeps other pods off their nodes.
const GPU: &str = "nvidia.com/gpu";
/// Pods that a node takes: the kubelet's default `maxPods`.
const MAX_PODS: i64 = 110;
/// Bytes of a mebibyte.
const MEBIBYTE: i64 = 1 << 20;

/// A kind of pods as the cluster keeps it.
pub(super) struct Kept {
    pub(super) spec: u32,
    pub(super) labels: u32,
    pub(super) drain: Drain,
    pub(super) prefix: String,
}

/// Name of a pod.
pub(super) fn name(prefix: &str, id: u64) -> Box<str> {
    format!("{prefix}-{id}").into_boxed_str()
}

/// What is free of a node, as a share of processors and memory together, in 2⁻²⁰: kube-scheduler's score `LeastAllocated`
/// with its default resources, one like the other.
pub(super) fn left(simulation: &Simulation<'_>, node: NodeId) -> i64 {
    let model = simulation.node_model(node);
    let share = |resource: Sym| {
        let has = model.allocatable.iter().find(|(name, _)| *name == resource).map_or(1, |(_, has)| *has);
        i64::try_from((i128::from(simulation.free(node, resource)) << 20) / i128::from(has.max(1)))
            .unwrap_or(0)
    };
    share(Sym::CPU) + share(Sym::MEMORY)
}

fn amounts(size: Size, cluster: &mut Cluster) -> Amounts {
    let gpu = cluster.symbols_mut().intern(GPU);
    let mut amounts =
        vec![(Sym::CPU, size.milli), (Sym::MEMORY, size.mebibytes * MEBIBYTE), (gpu, size.gpus)];
    amounts.retain(|(_, amount)| *amount > 0);
    amounts.sort_unstable();
    amounts.into_boxed_slice()
}

/// What the pods of a kind have in common.
pub(super) fn kept(kind: &Kind, cluster: &mut Cluster) -> Kept {
    let gpu = cluster.symbols_mut().intern(GPU);
    let tolerates = Toleration { key: Some(gpu), value: None, effect: None };
    let spec = Spec {
        requests: amounts(kind.size, cluster),
        tolerations: if kind.size.gpus > 0 { Box::new([tolerates]) } else { Box::default() },
        ..Spec::default()
    };
    let safe_to_evict = if kind.stays { SafeToEvict::No } else { SafeToEvict::Unsaid };
    Kept {
        spec: cluster.spec(spec),
        labels: cluster.label_set(Labels::default()),
        drain: Drain { replicated: true, safe_to_evict, ..Drain::default() },
        prefix: kind.name.clone(),
    }
}

/// A rack as a node group without machines.
pub(super) fn group(rack: &Rack, cluster: &mut Cluster) -> Group {
    let gpu = cluster.symbols_mut().intern(GPU);
    let taint = Taint { key: gpu, value: Sym::EMPTY, effect: Effect::NoSchedule };
    let template = Node {
        name: Sym::NEW_NODE,
        labels: Labels::new(vec![(Sym::HOSTNAME, Sym::NEW_NODE)]),
        taints: if rack.size.gpus > 0 { Box::new([taint]) } else { Box::default() },
        allocatable: amounts(rack.size, cluster),
        max_pods: MAX_PODS,
        ..Node::default()
    };
    let offers = [
        ("cpu", format!("{}m", rack.size.milli)),
        ("memory", format!("{}Mi", rack.size.mebibytes)),
        (GPU, rack.size.gpus.to_string()),
    ];
    Group {
        name: rack.name.clone(),
        spec: rack.spec.clone(),
        replicas: rack.spec.min_replicas,
        template: Some(template),
        offers: offers.into_iter().map(|(name, amount)| (name.to_owned(), amount)).collect(),
        domain: Some(rack.name.clone()),
        ..Group::default()
    }
}
