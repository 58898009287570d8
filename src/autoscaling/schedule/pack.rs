//! Which nodes do the waiting pods need?
//!
//! First-fit decreasing: pods of higher priority first, then larger ones, pods of one class together; each on the first
//! node that takes it, nodes that are there (or on their way) before new ones. What is large is the largest share that
//! the pod takes of the largest node there is. A new node is filled at once, with the pods that suit best what it has
//! left ([`fill`](super::fill)): else pods that ask for much memory and those that ask for much cpu, which differ in
//! size, would each fill nodes of their own. There are two ways to choose them, and the one that needs fewer nodes is
//! taken. A pod that has to be near others, or spread, is tried again as long as other pods still find a place, since what
//! it waits for may come after it.
//!
//! Two questions: what a group could do alone ([`Simulation::estimate`], for choosing between groups), and one plan over
//! several groups in an order of preference ([`Simulation::plan`]), in which pods spread over racks get nodes in each.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::balance::{Balance, Place};
use super::cluster::Cluster;
use super::fill::{Choice, Fill};
use super::model::Node;
use super::profile::{Template, amount, fixed_reason};
use super::reason::Reason;
use super::simulation::{NodeId, PodId, Simulation};
use super::state::State;
use super::symbols::Sym;

/// How often pods that wait for other pods are tried again. Each round has placed something; real chains are short.
const ROUNDS: usize = 8;

/// A node group that could grow.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name, the last thing to decide between groups.
    pub name: String,
    /// A node of it, from [`Cluster::template`].
    pub template: Node,
    /// How many nodes may be added.
    pub limit: u32,
    /// How many are on their way: they count as there.
    pub in_flight: u32,
    /// Groups of a lower rank are preferred.
    pub rank: u32,
    /// How many nodes it has: of equal rank, the smallest grows.
    pub size: u32,
    /// New nodes are only for pods that ask for this resource; others may use what is left on them.
    pub only_for: Option<Sym>,
    /// Where its nodes are, in each topology over which they are to be spread.
    pub places: Vec<Place>,
    /// So many of the nodes that are added are there at once, and are added however uneven it becomes.
    pub firm: u32,
}

/// A node to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNode {
    /// Which of the groups.
    pub group: usize,
    /// The pods it is for, in order.
    pub pods: Vec<PodId>,
}

/// A pod for which there is no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// The pod.
    pub pod: PodId,
    /// Why a new node would not help, by group. Why it fits on no node that is there says [`Simulation::explain`].
    pub groups: Arc<[(usize, Reason)]>,
}

/// Where pods go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// On nodes that are there or on their way.
    pub existing: Vec<(PodId, NodeId)>,
    /// On new nodes.
    pub nodes: Vec<NewNode>,
    /// Nowhere, in order.
    pub unplaced: Vec<Unplaced>,
    /// Groups of which a node more would have been added, were it not for their limit.
    pub full: BTreeSet<usize>,
}

impl Plan {
    /// How many nodes are to be added to a group.
    pub fn nodes_of(&self, group: usize) -> usize {
        self.nodes.iter().filter(|node| node.group == group).count()
    }
}

/// The answer to scale-up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packing {
    /// Pods that fit on nodes that are there or on their way.
    pub existing: Vec<(PodId, NodeId)>,
    /// What each group could do alone for the rest, in the order of the groups.
    pub estimates: Vec<Plan>,
    /// One plan for the rest over all groups by rank.
    pub plan: Plan,
}

/// What waiting pods need of these groups. The caller chooses which pods count ([`Simulation::waiting`], less those
/// below its cut-off or too young); the simulation has them placed afterwards, new nodes included.
pub fn pack(simulation: &mut Simulation<'_>, pods: &[PodId], groups: &[Group]) -> Packing {
    for group in groups {
        simulation.expect(group);
    }
    let Plan { existing, unplaced, .. } = simulation.settle(pods);
    let rest: Vec<PodId> = unplaced.into_iter().map(|unplaced| unplaced.pod).collect();
    let estimates = groups.iter().map(|group| simulation.estimate(&rest, group)).collect();
    Packing { existing, estimates, plan: simulation.plan(&rest, groups) }
}

/// Pods that are tried together.
pub(super) struct Run {
    pub(super) class: usize,
    pub(super) priority: i32,
    /// The next one last.
    pub(super) pods: Vec<PodId>,
}

/// Groups while they grow.
struct Growth<'g> {
    groups: &'g [Group],
    templates: Vec<usize>,
    planned: Vec<u32>,
    balance: Balance,
    /// New nodes and their groups, in order.
    nodes: Vec<(usize, usize)>,
    /// Groups that were passed over for their limit alone.
    full: BTreeSet<usize>,
}

impl Growth<'_> {
    /// Groups in the order in which they are asked. One that would become more uneven than it allows gives its turn to those
    /// of its topology that would not.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        order.sort_by_key(|&at| {
            let group = &self.groups[at];
            let size = group.size.saturating_add(self.planned[at]);
            let nodes = group.places.first().map(|place| self.balance.nodes(place).max(0).unsigned_abs());
            (group.rank, nodes.unwrap_or(size), size, &group.name, at)
        });
        let places = |at: usize| self.groups[at].places.iter();
        let breaks: Vec<bool> = (0..self.groups.len())
            .map(|at| self.bound(at) && self.balance.breaks(&self.groups[at].places))
            .collect();
        let calm: Vec<usize> = order.iter().copied().filter(|&at| !breaks[at]).collect();
        let mut taken = vec![false; order.len()];
        // Topologies of which the calm ones have had their turn.
        let mut done: Vec<usize> = Vec::new();
        let mut turns: Vec<usize> = Vec::with_capacity(order.len());
        for at in order {
            if breaks[at] && places(at).any(|place| !done.contains(&place.topology)) {
                done.extend(places(at).map(|place| place.topology));
                let near = |other: usize| places(other).any(|other| done.contains(&other.topology));
                for &other in calm.iter().filter(|&&other| near(other)) {
                    if !std::mem::replace(&mut taken[other], true) {
                        turns.push(other);
                    }
                }
            }
            if !std::mem::replace(&mut taken[at], true) {
                turns.push(at);
            }
        }
        turns
    }

    /// Whether the next node of a group is one that may be refused.
    fn bound(&self, at: usize) -> bool {
        self.planned[at] >= self.groups[at].firm
    }
}

impl<'a> Simulation<'a> {
    /// Adds the nodes of a group that are on their way, and returns them.
    pub fn expect(&mut self, group: &Group) -> Vec<NodeId> {
        if group.in_flight == 0 {
            return Vec::new();
        }
        let template = self.template(&group.template);
        (0..group.in_flight).map(|_| NodeId::new(self.add(template))).collect()
    }

    /// Places pods on nodes that are there.
    pub fn settle(&mut self, pods: &[PodId]) -> Plan {
        self.plan(pods, &[])
    }

    /// What one group could do for pods if it were alone: how it is to be spread beside others does not matter. Nothing stays changed: the ids of new nodes are of no use afterwards.
    pub fn estimate(&mut self, pods: &[PodId], group: &Group) -> Plan {
        let mark = self.mark();
        let alone = Group { places: Vec::new(), ..group.clone() };
        let plan = self.plan(pods, &[alone]);
        self.rollback(mark);
        plan
    }

    /// Places pods on the nodes that are there and on new ones of these groups.
    pub fn plan(&mut self, pods: &[PodId], groups: &[Group]) -> Plan {
        self.plan_from(pods, groups, &Balance::default())
    }

    /// The same, where the places of groups have nodes already.
    pub fn plan_from(&mut self, pods: &[PodId], groups: &[Group], balance: &Balance) -> Plan {
        let before = self.mark();
        let large = self.plan_by(pods, groups, balance, Choice::Large);
        if large.nodes.len() < 2 {
            return large;
        }
        self.rollback(before);
        let mixed = self.plan_by(pods, groups, balance, Choice::Mixed);
        if self.cost(&mixed) < self.cost(&large) {
            return mixed;
        }
        self.rollback(before);
        self.plan_by(pods, groups, balance, Choice::Large)
    }

    /// The priorities of the pods that have no place, the highest first; then how many nodes are added. Less is better.
    fn cost(&self, plan: &Plan) -> (Vec<i32>, usize) {
        let mut left: Vec<i32> =
            plan.unplaced.iter().map(|unplaced| self.pod(unplaced.pod).priority).collect();
        left.sort_unstable_by_key(|&priority| Reverse(priority));
        (left, plan.nodes.len())
    }

    fn plan_by(&mut self, pods: &[PodId], groups: &[Group], balance: &Balance, choice: Choice) -> Plan {
        let templates = groups.iter().map(|group| self.template(&group.template)).collect();
        let mut growth = Growth {
            groups,
            templates,
            planned: vec![0; groups.len()],
            balance: balance.clone(),
            nodes: Vec::new(),
            full: BTreeSet::new(),
        };
        let before = self.state.len();
        let mut plan = Plan::default();
        let mut runs = self.runs(pods);
        for round in 1..=ROUNDS {
            let mut fill = Fill::new(self, &runs, choice);
            let placed = plan.existing.len();
            let mut failed: Vec<Arc<[(usize, Reason)]>> = Vec::new();
            for at in 0..runs.len() {
                let why = self.place_run(&mut runs, at, &mut growth, &mut fill, &mut plan.existing);
                failed.push(why.into());
            }
            let last = round == ROUNDS || plan.existing.len() == placed;
            let mut again = Vec::new();
            for (why, run) in failed.into_iter().zip(runs) {
                if !last && !run.pods.is_empty() && self.index.classes[run.class].may_fit_later() {
                    again.push(run);
                } else {
                    let unplaced = run.pods.into_iter().map(|pod| Unplaced { pod, groups: why.clone() });
                    plan.unplaced.extend(unplaced);
                }
            }
            runs = again;
            if runs.is_empty() {
                break;
            }
        }
        self.split(&mut plan, &growth, before);
        plan.full = growth.full;
        plan
    }

    /// Which pods went to new nodes.
    fn split(&self, plan: &mut Plan, growth: &Growth<'_>, before: usize) {
        plan.nodes = growth.nodes.iter().map(|&(_, group)| NewNode { group, pods: Vec::new() }).collect();
        let (old, new): (Vec<_>, Vec<_>) =
            std::mem::take(&mut plan.existing).into_iter().partition(|(_, node)| node.at() < before);
        plan.existing = old;
        for (pod, node) in new {
            if let Some(node) = plan.nodes.get_mut(node.at() - before) {
                node.pods.push(pod);
            }
        }
        plan.existing.sort_unstable();
        plan.nodes.iter_mut().for_each(|node| node.pods.sort_unstable());
        plan.unplaced.sort_unstable_by_key(|unplaced| unplaced.pod);
    }

    /// Pods in the order in which they are placed.
    fn runs(&self, pods: &[PodId]) -> Vec<Run> {
        let largest = self.largest();
        let mut sizes: Vec<Option<u64>> = vec![None; self.index.classes.len()];
        let mut order: Vec<(Reverse<i32>, Reverse<u64>, usize, PodId)> = Vec::with_capacity(pods.len());
        for &pod in pods.iter().filter(|pod| self.place(**pod).is_none()) {
            let class = self.index.class_of[pod.at()];
            let size = *sizes[class].get_or_insert_with(|| self.size(class, &largest));
            order.push((Reverse(self.pod(pod).priority), Reverse(size), class, pod));
        }
        order.sort_unstable();
        order.dedup();
        let mut runs: Vec<Run> = Vec::new();
        for (Reverse(priority), _, class, pod) in order {
            match runs.last_mut() {
                Some(run) if run.priority == priority && run.class == class => run.pods.push(pod),
                _ => runs.push(Run { class, priority, pods: vec![pod] }),
            }
        }
        runs.iter_mut().for_each(|run| run.pods.reverse());
        runs
    }

    /// The most that a node has of each resource.
    pub(super) fn largest(&self) -> Vec<i64> {
        let models = self.nodes.iter().copied().chain(self.templates.iter().map(|template| &template.node));
        let mut largest = vec![1; self.index.resources.items.len()];
        for model in models {
            for (most, &resource) in largest.iter_mut().zip(&self.index.resources.items) {
                *most = amount(model, resource).max(*most);
            }
        }
        largest
    }

    /// The largest share that a class takes of the largest node, in 2⁻²⁰.
    pub(super) fn size(&self, class: usize, largest: &[i64]) -> u64 {
        let shares = self.index.classes[class].need.iter().map(|&(resource, amount)| {
            let share = (i128::from(amount) << 20) / i128::from(largest[resource].max(1));
            u64::try_from(share).unwrap_or(u64::MAX)
        });
        shares.max().unwrap_or(0)
    }

    /// The number of a template, new or known.
    fn template(&mut self, node: &Node) -> usize {
        if let Some(known) = self.templates.iter().position(|template| template.node == *node) {
            return known;
        }
        self.templates.push(Template::new(&self.index, node));
        self.templates.len() - 1
    }

    /// Places the pods of a run, in order, until one fits nowhere: then none of the rest does. Returns why not. A node
    /// that is added for one of them is filled with pods of this run and of those after it.
    fn place_run(
        &mut self,
        runs: &mut [Run],
        at: usize,
        growth: &mut Growth<'_>,
        fill: &mut Fill,
        placed: &mut Vec<(PodId, NodeId)>,
    ) -> Vec<(usize, Reason)> {
        let class = runs[at].class;
        let mut among = self.state.candidates(self.index.classes[class].fixed);
        while let Some(&pod) = runs[at].pods.last() {
            let (node, new) = match self.state.first_fit(&self.index, class, &mut among) {
                Some(node) => (node, false),
                None => match self.open(class, growth) {
                    Ok(node) => (node, true),
                    Err(why) => return why,
                },
            };
            runs[at].pods.pop();
            self.state.put(&self.index, pod.at(), node);
            placed.push((pod, NodeId::new(node)));
            if new {
                fill.node(self, &mut runs[at..], at, node, placed);
                among.set(node, true);
            }
        }
        Vec::new()
    }

    /// Adds a node on which a class fits, of the most preferred group that has one.
    fn open(&mut self, class: usize, growth: &mut Growth<'_>) -> Result<usize, Vec<(usize, Reason)>> {
        let mut why = Vec::new();
        let mut full = Vec::new();
        for at in growth.order() {
            let (group, template) = (&growth.groups[at], growth.templates[at]);
            if let Some(reason) = self.unsuited(class, group, template) {
                why.push((at, reason));
                continue;
            }
            // Whether a node of it would do matters only where no other group has one.
            if growth.full.contains(&at) {
                full.push(at);
                continue;
            }
            let mark = self.mark();
            let node = self.add(template);
            let reason = match self.why_not(class, NodeId::new(node)) {
                Some(reason) => reason,
                None if growth.planned[at] >= group.limit => {
                    growth.full.insert(at);
                    Reason::GroupLimit
                }
                None if growth.bound(at) && growth.balance.refuses(&group.places) => Reason::GroupSpread,
                None => {
                    growth.planned[at] += 1;
                    growth.balance.add(&group.places, 1);
                    growth.nodes.push((node, at));
                    return Ok(node);
                }
            };
            self.rollback(mark);
            why.push((at, reason));
        }
        for at in full {
            let mark = self.mark();
            let node = self.add(growth.templates[at]);
            let reason = self.why_not(class, NodeId::new(node)).unwrap_or(Reason::GroupLimit);
            self.rollback(mark);
            why.push((at, reason));
        }
        why.sort_unstable();
        Err(why)
    }

    /// Why a node of a group would not do for a class whatever else runs, without trying.
    fn unsuited(&self, number: usize, group: &Group, template: usize) -> Option<Reason> {
        let class = &self.index.classes[number];
        if let Some(resource) = group.only_for {
            let asks = class.spec.requests.iter().any(|&(name, _)| name == resource);
            if !asks {
                return Some(Reason::Reserved(self.index.cluster.symbols.name(resource).to_owned()));
            }
        }
        let template = &self.templates[template];
        if !template.profile.meets(class.fixed) {
            let fixed = &self.index.fixed.items[class.fixed];
            return fixed_reason(&self.index, fixed, &template.node)
                .or_else(|| self.index.volume_reason(fixed, template.node.name, &template.node.labels));
        }
        let taken = |resource: usize| -> i64 {
            let daemons = template.daemons.iter().flat_map(|&daemon| &self.index.classes[daemon].need);
            daemons
                .filter(|(name, _)| *name == resource)
                .fold(0, |sum, (_, amount)| sum.saturating_add(*amount))
        };
        let room = |resource| template.profile.room(resource).saturating_sub(taken(resource));
        self.shortage(State::short(&self.index, number, room))
    }
}

impl Cluster {
    /// A simulation of the cluster as it is.
    pub fn simulate(&self) -> Simulation<'_> {
        Simulation::new(self)
    }
}
