//! Which nodes are not needed, with a proof that each of their pods fits elsewhere. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ferric_api::autoscaling::ScaleDownPolicy;
use jiff::Timestamp;

use super::schedule::{Blocked, DrainPolicy, NodeId, ScaleDown, Simulation};
use super::spread::Spread;
use super::{Group, NodeState, loads};

/// A node that could go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The node.
    pub node: String,
    /// Its Machine.
    pub machine: String,
    /// Pods that must be evicted, `namespace/name`, and the node that has a place for each; an added node has no name.
    pub moves: Vec<(String, String)>,
}

/// A node that is looked at.
#[derive(Debug, Clone)]
struct Candidate<'a> {
    id: NodeId,
    node: &'a str,
    machine: &'a str,
    utilization: f64,
    pods: usize,
}

/// Nodes of a group.
type ByName<'a> = BTreeMap<&'a str, Candidate<'a>>;

/// Nodes that are tried, the emptiest first; of equally empty ones those of the domain that is the fullest when their turn
/// comes, or of the rack that was the fullest, where they are not to be spread. One that would leave its domain too empty waits
/// as long as one of a fuller domain is left.
struct Queue<'a> {
    groups: &'a [&'a Group],
    spread: Spread,
    /// Nodes by rack, or by group where it is in none.
    racks: BTreeMap<&'a str, usize>,
    /// How many of each group are left.
    able: BTreeMap<String, i32>,
    /// By emptiness, group and name.
    left: BTreeMap<(bool, i64), BTreeMap<usize, ByName<'a>>>,
}

impl<'a> Queue<'a> {
    fn new(groups: &'a [&'a Group], spread: &Spread) -> Self {
        let mut racks = BTreeMap::new();
        for group in groups.iter().filter(|group| group.counts()) {
            let nodes = group.machines.iter().filter(|machine| machine.node.is_some() && !machine.deleting);
            *racks.entry(rack(group)).or_default() += nodes.count();
        }
        Self { groups, spread: spread.clone(), racks, able: BTreeMap::new(), left: BTreeMap::new() }
    }

    fn push(&mut self, group: usize, candidate: Candidate<'a>) {
        let emptiness = (candidate.pods > 0, candidate.utilization.round() as i64);
        *self.able.entry(self.groups[group].name.clone()).or_default() += 1;
        let groups = self.left.entry(emptiness).or_default();
        groups.entry(group).or_default().insert(candidate.node, candidate);
    }

    fn ids(&self) -> Vec<NodeId> {
        let groups = self.left.values().flat_map(BTreeMap::values);
        groups.flat_map(BTreeMap::values).map(|candidate| candidate.id).collect()
    }

    fn next(&mut self) -> Option<(usize, Candidate<'a>)> {
        let chosen = self.left.iter().find_map(|(emptiness, groups)| {
            let able =
                groups.keys().filter(|group| !self.spread.keeps(&self.groups[**group].name, &self.able));
            let group = able.max_by_key(|group| (self.nodes(**group), Reverse(**group)))?;
            Some((*emptiness, *group))
        });
        // By rules about several topologies each may wait for another.
        let first =
            || self.left.iter().find_map(|(emptiness, groups)| Some((*emptiness, *groups.keys().next()?)));
        let (emptiness, group) = chosen.or_else(first)?;
        let groups = self.left.get_mut(&emptiness)?;
        let nodes = groups.get_mut(&group)?;
        let (_, candidate) = nodes.pop_first()?;
        if nodes.is_empty() {
            groups.remove(&group);
        }
        if groups.is_empty() {
            self.left.remove(&emptiness);
        }
        self.able.entry(self.groups[group].name.clone()).and_modify(|able| *able -= 1);
        Some((group, candidate))
    }

    /// A node of a group goes.
    fn gone(&mut self, group: usize) {
        self.spread.take(&self.groups[group].name, -1);
    }

    /// Nodes where a group is.
    fn nodes(&self, group: usize) -> usize {
        let group = self.groups[group];
        match self.spread.places(&group.name).first() {
            Some(place) => usize::try_from(self.spread.balance().nodes(place)).unwrap_or(0),
            None => self.racks.get(rack(group)).copied().unwrap_or(0),
        }
    }
}

/// The rack of a group, or itself.
fn rack(group: &Group) -> &str {
    group.domain.as_deref().unwrap_or(&group.name)
}

/// What was found of nodes that might go.
#[derive(Debug, Clone, Default)]
pub(super) struct Unneeded {
    /// Nodes that could all go together, by group, in the order in which they would.
    pub(super) groups: BTreeMap<String, Vec<Removal>>,
    /// Why others could not: node and reason.
    pub(super) blocked: BTreeMap<String, String>,
}

/// Nodes that are not needed. The simulation must be of nodes that are there, with the waiting pods that fit on them.
pub(super) fn unneeded(
    simulation: &mut Simulation<'_>,
    groups: &[&Group],
    nodes: &BTreeMap<String, NodeState>,
    spread: &Spread,
    now: Timestamp,
) -> Unneeded {
    let mut found = Unneeded::default();
    let mut queue = Queue::new(groups, spread);
    for (at, group) in groups.iter().enumerate() {
        for candidate in candidates(simulation, group, nodes, now) {
            queue.push(at, candidate);
        }
    }
    let ids = queue.ids();
    let mut pass = ScaleDown::new(simulation, DrainPolicy::default(), &ids);
    while let Some((at, candidate)) = queue.next() {
        match remove(&mut pass, &candidate) {
            Ok(removal) => {
                queue.gone(at);
                found.groups.entry(groups[at].name.clone()).or_default().push(removal);
            }
            Err(blocked) => {
                let why = explained(pass.simulation(), &blocked);
                found.blocked.insert(candidate.node.to_owned(), why);
            }
        }
    }
    found
}

/// Of these nodes, those that can go without the others that were thought to go: proven anew, in their order.
pub(super) fn prove(simulation: &mut Simulation<'_>, chosen: &[Removal]) -> Vec<Removal> {
    let ids: Vec<NodeId> = chosen.iter().filter_map(|removal| simulation.node(&removal.node)).collect();
    let mut pass = ScaleDown::new(simulation, DrainPolicy::default(), &ids);
    let proven = chosen.iter().filter_map(|removal| {
        let id = pass.simulation().node(&removal.node)?;
        let (node, machine) = (removal.node.as_str(), removal.machine.as_str());
        let candidate = Candidate { id, node, machine, utilization: 0.0, pods: 0 };
        remove(&mut pass, &candidate).ok()
    });
    proven.collect()
}

/// Lets nodes go that are going already: their pods are put where they will be. Says of which nodes the pods cannot go
/// anywhere, or may not be moved; one that waits for a disruption budget only waits.
pub(super) fn go(simulation: &mut Simulation<'_>, nodes: &[&str]) -> BTreeMap<String, String> {
    let ids: Vec<NodeId> = nodes.iter().filter_map(|node| simulation.node(node)).collect();
    let mut pass = ScaleDown::new(simulation, DrainPolicy::default(), &ids);
    let mut stuck = BTreeMap::new();
    for node in nodes {
        let Some(id) = pass.simulation().node(node) else { continue };
        match pass.remove(id) {
            Ok(_) | Err(Blocked::NoNode | Blocked::Budget { .. }) => {}
            Err(blocked) => {
                let why = explained(pass.simulation(), &blocked);
                stuck.insert((*node).to_owned(), why);
            }
        }
    }
    stuck
}

fn explained(simulation: &Simulation<'_>, blocked: &Blocked) -> String {
    let pod = blocked.pod().map(|pod| format!("{}: ", simulation.pod_name(pod)));
    format!("{}{blocked}", pod.unwrap_or_default())
}

fn remove(pass: &mut ScaleDown<'_, '_>, candidate: &Candidate<'_>) -> Result<Removal, Blocked> {
    let proof = pass.remove(candidate.id)?;
    let simulation = pass.simulation();
    let moves = proof.moves.iter().filter(|step| step.evict);
    Ok(Removal {
        node: candidate.node.to_owned(),
        machine: candidate.machine.to_owned(),
        moves: moves
            .map(|step| {
                let to = simulation.node_name(step.to).unwrap_or_default().to_owned();
                (simulation.pod_name(step.pod), to)
            })
            .collect(),
    })
}

/// Nodes of a group that may go, by what its spec says.
fn candidates<'a>(
    simulation: &Simulation<'_>,
    group: &'a Group,
    nodes: &BTreeMap<String, NodeState>,
    now: Timestamp,
) -> Vec<Candidate<'a>> {
    let rules = &group.spec.scale_down;
    if rules.policy == ScaleDownPolicy::Never || group.hold.is_some() {
        return Vec::new();
    }
    let old_enough = |state: &NodeState| {
        let age = state.created.map_or(0, |created| now.duration_since(created).as_secs());
        age >= i64::from(rules.min_node_lifetime_seconds)
    };
    let mut seen = BTreeSet::new();
    let machines = group.machines.iter().filter(|machine| !machine.deleting);
    machines
        .filter_map(|machine| {
            let node = machine.node.as_deref()?;
            let state = nodes.get(node).filter(|state| state.ready && old_enough(state))?;
            // Two Machines that claim one Node are a mistake that nothing is concluded from.
            if !seen.insert(node) || state.held {
                return None;
            }
            let id = simulation.node(node)?;
            let stays = |pod| {
                let drain = &simulation.pod(pod).drain;
                !drain.goes_along() && !drain.terminating
            };
            let pods = simulation.on(id).into_iter().filter(|pod| stays(*pod)).count();
            let utilization = loads::utilization(simulation, id);
            let allowed = match rules.policy {
                ScaleDownPolicy::Never => false,
                ScaleDownPolicy::WhenEmpty => pods == 0,
                ScaleDownPolicy::WhenEmptyOrUnderutilized => {
                    pods == 0 || utilization < f64::from(rules.utilization_threshold_percent)
                }
            };
            allowed.then_some(Candidate { id, node, machine: &machine.name, utilization, pods })
        })
        .collect()
}
