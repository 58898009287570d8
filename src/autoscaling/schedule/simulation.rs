//! A cluster in thought: pods can be put, taken and asked about, and everything taken back.

use std::collections::BTreeMap;

use super::cluster::Cluster;
use super::index::Index;
use super::model::{Node, Pod};
use super::profile::{Profile, Template, amount, fixed_reason};
use super::reason::Reason;
use super::state::{Mark, State, UNPLACED};
use super::symbols::Sym;

/// A pod of a simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(pub(super) u32);

/// A node of a simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u32);

impl PodId {
    pub(super) fn at(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    pub(super) fn at(self) -> usize {
        self.0 as usize
    }

    pub(super) fn new(at: usize) -> Self {
        Self(u32::try_from(at).unwrap_or(u32::MAX))
    }
}

/// A cluster in thought.
///
/// Nodes are those of the cluster by name, then those added from templates in order. Pods that are bound, or nominated
/// to a node that is there, are on it whether they fit or not.
#[derive(Debug)]
pub struct Simulation<'a> {
    pub(super) index: Index<'a>,
    pub(super) state: State,
    pub(super) nodes: Vec<&'a Node>,
    pub(super) templates: Vec<Template>,
    /// Which template each node after those of the cluster is from.
    pub(super) added: Vec<usize>,
}

impl<'a> Simulation<'a> {
    /// A simulation of a cluster as it is.
    pub fn new(cluster: &'a Cluster) -> Self {
        let index = Index::new(cluster);
        let mut state = State::new(&index);
        let nodes: Vec<&Node> = cluster.nodes.values().collect();
        let mut by_name = super::symbols::IndexMap::<Sym, usize>::default();
        for (at, node) in nodes.iter().enumerate() {
            state.add(node, &Profile::of(&index, node));
            by_name.insert(node.name, at);
        }
        for (at, pod) in index.pods.iter().enumerate() {
            let nominated = pod.nominated.filter(|_| pod.node.is_none() && cluster.waits(pod));
            if let Some(&node) = pod.node.or(nominated).and_then(|name| by_name.get(&name)) {
                state.put(&index, at, node);
            }
        }
        Self { index, state, nodes, templates: Vec::new(), added: Vec::new() }
    }

    /// The cluster.
    pub fn cluster(&self) -> &'a Cluster {
        self.index.cluster
    }

    /// All pods, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = (PodId, &'a Pod)> + '_ {
        self.index
            .pods
            .iter()
            .enumerate()
            .map(|(at, &pod)| (PodId(u32::try_from(at).unwrap_or(u32::MAX)), pod))
    }

    /// A pod.
    pub fn pod(&self, id: PodId) -> &'a Pod {
        self.index.pods[id.at()]
    }

    /// `namespace/name` of a pod.
    pub fn pod_name(&self, id: PodId) -> String {
        let pod = self.pod(id);
        format!("{}/{}", self.index.cluster.symbols.name(pod.namespace), pod.name)
    }

    /// A node by its name; only those of the cluster have one.
    pub fn node(&self, name: &str) -> Option<NodeId> {
        let at =
            self.nodes.binary_search_by(|node| self.index.cluster.symbols.name(node.name).cmp(name)).ok()?;
        Some(NodeId::new(at))
    }

    /// The name of a node of the cluster; `None` for an added one.
    pub fn node_name(&self, id: NodeId) -> Option<&'a str> {
        self.nodes.get(id.at()).map(|node| self.index.cluster.symbols.name(node.name))
    }

    /// What is known of a node.
    pub fn node_model(&self, id: NodeId) -> &Node {
        match id.at().checked_sub(self.nodes.len()) {
            None => self.nodes[id.at()],
            Some(added) => &self.templates[self.added[added]].node,
        }
    }

    /// Where a pod is now.
    pub fn place(&self, pod: PodId) -> Option<NodeId> {
        Some(self.state.place[pod.at()]).filter(|&node| node != UNPLACED).map(NodeId)
    }

    /// The pods on a node, in order.
    pub fn on(&self, node: NodeId) -> Vec<PodId> {
        let mut pods: Vec<PodId> = self.state.on[node.at()].iter().map(|&pod| PodId(pod)).collect();
        pods.sort_unstable();
        pods
    }

    /// How much of a resource is free on a node, in its units; below 0 if more is taken than there is.
    pub fn free(&self, node: NodeId, resource: Sym) -> i64 {
        match self.index.resources.items.iter().position(|&known| known == resource) {
            Some(at) => self.state.free(at, node.at()),
            None => amount(self.node_model(node), resource),
        }
    }

    /// The pods that wait for a node and have none in this simulation, in order.
    pub fn waiting(&self) -> Vec<PodId> {
        let cluster = self.index.cluster;
        self.pods()
            .filter(|(id, pod)| cluster.waits(pod) && self.place(*id).is_none())
            .map(|(id, _)| id)
            .collect()
    }

    /// A point to go back to.
    pub fn mark(&self) -> Mark {
        self.state.mark()
    }

    /// Undoes what was done since a mark.
    pub fn rollback(&mut self, mark: Mark) {
        self.state.rollback(&self.index, mark);
        self.added.truncate(self.state.len().saturating_sub(self.nodes.len()));
    }

    /// Puts a pod on a node if it fits.
    pub fn put(&mut self, pod: PodId, node: NodeId) -> Result<(), Reason> {
        self.feasible(pod, node)?;
        self.state.put(&self.index, pod.at(), node.at());
        Ok(())
    }

    /// Takes a pod off its node. From now on it is judged as the successor that its controller makes.
    pub fn take(&mut self, pod: PodId) {
        self.state.take(&self.index, pod.at());
        self.state.evict(pod.at());
    }

    /// No more pods for a node.
    pub fn close(&mut self, node: NodeId) {
        self.state.close(node.at());
    }

    /// Whether a pod, which should be on no node, fits on one: what the filter plugins of kube-scheduler's default
    /// profile say, and the first that objects. A pod that names its node (a bound one) fits no other, until it is taken
    /// off.
    pub fn feasible(&self, pod: PodId, node: NodeId) -> Result<(), Reason> {
        let bound = self.pod(pod).node.filter(|_| !self.state.evicted[pod.at()]);
        match self.why_not(self.index.class_of[pod.at()], node) {
            None if bound.is_some_and(|bound| bound != self.node_model(node).name) => Err(Reason::OtherNode),
            None => Ok(()),
            Some(reason) => Err(reason),
        }
    }

    /// Why a pod that is on no node fits on none: each reason, and how many nodes say it. One that would fit is not
    /// counted.
    pub fn explain(&self, pod: PodId) -> BTreeMap<Reason, usize> {
        let mut reasons = BTreeMap::new();
        for node in 0..self.state.len() {
            if let Some(reason) = self.why_not(self.index.class_of[pod.at()], NodeId::new(node)) {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        reasons
    }

    /// Why a class does not fit on a node.
    pub(super) fn why_not(&self, number: usize, id: NodeId) -> Option<Reason> {
        let (class, node, model) = (&self.index.classes[number], id.at(), self.node_model(id));
        if let Some(beyond) = class.spec.beyond {
            return Some(Reason::Beyond(beyond));
        }
        if !self.state.open.get(node) {
            return Some(Reason::Leaving);
        }
        let fixed = &self.index.fixed.items[class.fixed];
        if let Some(reason) = fixed_reason(&self.index, fixed, model) {
            return Some(reason);
        }
        if self.state.port_taken(&class.spec.ports, node) {
            return Some(Reason::Port);
        }
        let short = State::short(&self.index, number, |resource| self.state.free(resource, node));
        self.shortage(short)
            .or_else(|| self.index.volume_reason(fixed, model.name, &model.labels))
            .or_else(|| self.why_not_with_others(number, node))
    }

    /// Too few places or too little of something, as a reason.
    pub(super) fn shortage(&self, (full, short): (bool, Vec<usize>)) -> Option<Reason> {
        if full {
            return Some(Reason::TooManyPods);
        }
        let symbols = &self.index.cluster.symbols;
        let mut names: Vec<String> =
            short.into_iter().map(|at| symbols.name(self.index.resources.items[at]).to_owned()).collect();
        names.sort_unstable();
        (!names.is_empty()).then_some(Reason::Insufficient(names))
    }

    fn why_not_with_others(&self, number: usize, node: usize) -> Option<Reason> {
        let class = &self.index.classes[number];
        let label = |key: usize| self.index.cluster.symbols.name(self.index.keys.items[key]).to_owned();
        for spread in &class.spreads {
            match self.state.skew(spread, node) {
                None => return Some(Reason::NoTopology(label(spread.key))),
                Some(skew) if skew > spread.max_skew => return Some(Reason::Spread(label(spread.key))),
                Some(_) => {}
            }
        }
        if self.state.affinity(class, node) != Some(true) {
            return Some(Reason::Affinity);
        }
        if self.state.holds_any(&class.anti, node) {
            return Some(Reason::AntiAffinity);
        }
        let hostile = &self.index.effects[class.target].hostile;
        self.state.holds_any(hostile, node).then_some(Reason::OthersAntiAffinity)
    }

    /// Adds a node of a template, with its daemons.
    pub(super) fn add(&mut self, template: usize) -> usize {
        let from = &self.templates[template];
        let at = self.state.add(&from.node, &from.profile);
        self.added.push(template);
        for &daemon in &self.templates[template].daemons {
            self.state.put_daemon(&self.index, daemon, at);
        }
        at
    }
}
