//! Can this node go?
//!
//! Yes, if every pod on it that has to move may move and fits elsewhere; the proof names the new places. Which pods have
//! to move, which go with the node and which hold it follows cluster-autoscaler's rules for draining; budgets follow the
//! eviction API. While it drains, a node takes no pods but is still there: kube-scheduler goes on counting it as a
//! domain of spread constraints, and so does this simulation until the end of the pass. (A pod spread evenly over host
//! names cannot leave a node whose own empty domain then is the emptiest, until the Node object is deleted.)
//!
//! In one pass several nodes are tried one after the other, each with the moves of those before it applied: the proofs
//! hold together, in their order, and for every first part of them. All nodes taken from a pass must be cordoned before
//! the first of them is drained.

use std::collections::HashMap;
use std::fmt;

use super::bits::Bits;
use super::model::{Drain, SafeToEvict};
use super::simulation::{NodeId, PodId, Simulation};
use super::symbols::Sym;

/// Which pods hold a node, as the flags of cluster-autoscaler with the same meaning and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainPolicy {
    /// Pods with a `hostPath` or an `emptyDir` on disk hold their node (`--skip-nodes-with-local-storage`, true).
    pub hold_local_storage: bool,
    /// Pods of `kube-system` without a budget hold their node (`--skip-nodes-with-system-pods`, true).
    pub hold_system_pods: bool,
    /// Budgets allow all evictions of a node at once. Otherwise one at a time is enough, as cluster-autoscaler has it: the
    /// drain then waits until what was evicted is healthy elsewhere.
    pub at_once: bool,
}

impl Default for DrainPolicy {
    fn default() -> Self {
        Self { hold_local_storage: true, hold_system_pods: true, at_once: true }
    }
}

/// A pod and its new place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The pod.
    pub pod: PodId,
    /// Where it fits.
    pub to: NodeId,
    /// Whether it has to be evicted; if not, it is only planned to be here.
    pub evict: bool,
}

/// That a node can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The node.
    pub node: NodeId,
    /// Its pods that move, in the order in which they were placed.
    pub moves: Vec<Move>,
    /// Its pods that go with it: of DaemonSets, and static ones.
    pub with_it: Vec<PodId>,
    /// Its pods that are leaving already.
    pub leaving: Vec<PodId>,
}

/// Why a node cannot go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// No such node, or it is already to go.
    NoNode,
    /// Nothing would make the pod again.
    NoController(PodId),
    /// The pod says that it is not to be evicted.
    NotSafeToEvict(PodId),
    /// The pod has data on the node's disk.
    LocalStorage(PodId),
    /// The pod is of `kube-system` and has no budget.
    System(PodId),
    /// The eviction API refuses pods with more than one budget.
    SeveralBudgets(PodId),
    /// A budget does not allow it.
    Budget {
        /// The pod for which nothing was left.
        pod: PodId,
        /// `namespace/name` of the budget.
        budget: String,
    },
    /// It fits nowhere else.
    NoPlace(PodId),
}

impl Blocked {
    /// The pod that holds the node.
    pub fn pod(&self) -> Option<PodId> {
        match *self {
            Self::NoNode => None,
            Self::NoController(pod)
            | Self::NotSafeToEvict(pod)
            | Self::LocalStorage(pod)
            | Self::System(pod)
            | Self::SeveralBudgets(pod)
            | Self::Budget { pod, .. }
            | Self::NoPlace(pod) => Some(pod),
        }
    }
}

/// Without the name of the pod, which the simulation knows.
impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNode => f.write_str("there is no such node, or it is already to go"),
            Self::NoController(_) => f.write_str("the pod has no controller that would make it again"),
            Self::NotSafeToEvict(_) => f.write_str("the pod is marked as not safe to evict"),
            Self::LocalStorage(_) => f.write_str("the pod has data on the node's disk"),
            Self::System(_) => f.write_str("the pod belongs to kube-system and has no disruption budget"),
            Self::SeveralBudgets(_) => f.write_str("the pod has more than one disruption budget"),
            Self::Budget { budget, .. } => write!(f, "disruption budget {budget} does not allow it"),
            Self::NoPlace(_) => f.write_str("the pod fits on no other node"),
        }
    }
}

/// One pass over nodes that could go.
#[derive(Debug)]
pub struct ScaleDown<'s, 'a> {
    simulation: &'s mut Simulation<'a>,
    policy: DrainPolicy,
    /// Nodes that may go too: they get pods only if no other does.
    candidates: Bits,
    /// Classes that were found to fit nowhere but perhaps on this node, which they were to leave; for reasons that only
    /// grow.
    hopeless: HashMap<usize, usize>,
    largest: Vec<i64>,
}

/// What a drain does with a pod.
enum Fate {
    WithIt,
    Leaving,
    Evict(Option<usize>),
    Replan,
}

impl<'s, 'a> ScaleDown<'s, 'a> {
    /// A pass over some nodes, which are tried in the order of the calls.
    pub fn new(simulation: &'s mut Simulation<'a>, policy: DrainPolicy, candidates: &[NodeId]) -> Self {
        let mut bits = Bits::default();
        candidates.iter().for_each(|node| bits.set(node.at(), true));
        let largest = simulation.largest();
        Self { simulation, policy, candidates: bits, hopeless: HashMap::new(), largest }
    }

    /// The simulation, with the moves so far.
    pub fn simulation(&self) -> &Simulation<'a> {
        self.simulation
    }

    /// Whether a node can go. If so, its pods are moved; if not, nothing is changed.
    pub fn remove(&mut self, node: NodeId) -> Result<Proof, Blocked> {
        if node.at() >= self.simulation.nodes.len() || !self.simulation.state.open.get(node.at()) {
            return Err(Blocked::NoNode);
        }
        let mut proof = Proof { node, moves: Vec::new(), with_it: Vec::new(), leaving: Vec::new() };
        let mut moving = Vec::new();
        let mut spent: Vec<(usize, i32)> = Vec::new();
        for pod in self.simulation.on(node) {
            match self.fate(pod)? {
                Fate::WithIt => proof.with_it.push(pod),
                Fate::Leaving => proof.leaving.push(pod),
                Fate::Replan => moving.push((pod, false)),
                Fate::Evict(budget) => {
                    if let Some(budget) = budget {
                        self.spend(pod, budget, &mut spent)?;
                    }
                    moving.push((pod, true));
                }
            }
        }
        let mark = self.simulation.mark();
        match self.relocate(node, &moving) {
            Ok(moves) => proof.moves = moves,
            Err(pod) => {
                self.simulation.rollback(mark);
                return Err(Blocked::NoPlace(pod));
            }
        }
        for (budget, count) in spent {
            (0..count).for_each(|_| self.simulation.state.spend(budget));
        }
        for &(pod, evict) in &moving {
            if evict {
                self.simulation.state.evict(pod.at());
            }
        }
        Ok(proof)
    }

    fn spend(&self, pod: PodId, budget: usize, spent: &mut Vec<(usize, i32)>) -> Result<(), Blocked> {
        let so_far = spent.iter().position(|(other, _)| *other == budget);
        let count = so_far.map_or(0, |at| spent[at].1) + 1;
        let left = self.simulation.state.budgets[budget];
        if if self.policy.at_once { left < count } else { left < 1 } {
            let of = self.simulation.index.budgets[budget];
            let namespace = self.simulation.index.cluster.symbols.name(of.namespace);
            return Err(Blocked::Budget { pod, budget: format!("{namespace}/{}", of.name) });
        }
        match so_far {
            Some(at) => spent[at].1 = count,
            None => spent.push((budget, count)),
        }
        Ok(())
    }

    /// What a drain does with a pod, by the rules alone.
    fn fate(&self, id: PodId) -> Result<Fate, Blocked> {
        let index = &self.simulation.index;
        let pod = index.pods[id.at()];
        // Evicted in thought already, or never there but in thought.
        if self.simulation.state.evicted[id.at()] || pod.node.is_none() {
            return Ok(Fate::Replan);
        }
        let Drain { replicated, terminating, ready, starting, local_storage, safe_to_evict, .. } = pod.drain;
        if pod.drain.goes_along() {
            return Ok(Fate::WithIt);
        }
        if terminating {
            return Ok(Fate::Leaving);
        }
        let budgets = &index.effects[index.classes[index.class_of[id.at()]].target].budgets;
        if safe_to_evict != SafeToEvict::Yes {
            if !replicated {
                return Err(Blocked::NoController(id));
            }
            if self.policy.hold_system_pods && pod.namespace == Sym::KUBE_SYSTEM && budgets.is_empty() {
                return Err(Blocked::System(id));
            }
            if safe_to_evict == SafeToEvict::No {
                return Err(Blocked::NotSafeToEvict(id));
            }
            if self.policy.hold_local_storage && local_storage {
                return Err(Blocked::LocalStorage(id));
            }
        }
        // The eviction API asks no budget for a pod that has not started.
        if starting {
            return Ok(Fate::Evict(None));
        }
        match &**budgets {
            [] => Ok(Fate::Evict(None)),
            [one] => Ok(Fate::Evict(Some(*one).filter(|_| ready || !index.budgets[*one].spares_unready))),
            _ => Err(Blocked::SeveralBudgets(id)),
        }
    }

    /// Finds new places for pods of a node that is closed from now on. The pod for which there is none otherwise.
    fn relocate(&mut self, node: NodeId, pods: &[(PodId, bool)]) -> Result<Vec<Move>, PodId> {
        let Simulation { index, state, .. } = &mut *self.simulation;
        state.close(node.at());
        let mut order: Vec<_> = Vec::with_capacity(pods.len());
        for &(pod, evict) in pods {
            state.take(index, pod.at());
            let class = index.class_of[pod.at()];
            order.push((index.pods[pod.at()].priority, class, pod, evict));
        }
        let size = |class: usize| self.simulation.size(class, &self.largest);
        order.sort_by_cached_key(|&(priority, class, pod, _)| {
            (std::cmp::Reverse(priority), std::cmp::Reverse(size(class)), class, pod)
        });
        let mut moves = Vec::with_capacity(order.len());
        let Simulation { index, state, .. } = &mut *self.simulation;
        for (_, number, pod, evict) in order {
            let class = &index.classes[number];
            let mut all = state.candidates(class.fixed);
            if let Some(&only) = self.hopeless.get(&number) {
                all = all.only(only);
            }
            let mut first = all.without(&self.candidates);
            let mut second = all.and(&self.candidates);
            let found = state
                .first_fit(index, number, &mut first)
                .or_else(|| state.first_fit(index, number, &mut second));
            let Some(to) = found else {
                // With nothing moved yet, and nothing that others' moves could change, it will not fit later either.
                let alone = class.anti.is_empty() && index.effects[class.target].hostile.is_empty();
                if moves.is_empty() && alone && !class.may_fit_later() && class.spec.ports.is_empty() {
                    self.hopeless.entry(number).or_insert(node.at());
                }
                return Err(pod);
            };
            state.put(index, pod.at(), to);
            moves.push(Move { pod, to: NodeId::new(to), evict });
        }
        Ok(moves)
    }
}

impl<'a> Simulation<'a> {
    /// Whether one node can go, by the default rules and without regard to others. If so, its pods are moved.
    pub fn removable(&mut self, node: NodeId) -> Result<Proof, Blocked> {
        ScaleDown::new(self, DrainPolicy::default(), &[]).remove(node)
    }
}
