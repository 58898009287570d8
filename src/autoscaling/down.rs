//! Which nodes are not needed, with a proof that each of their pods fits elsewhere. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ferric_api::autoscaling::ScaleDownPolicy;
use jiff::Timestamp;

use super::schedule::{Blocked, DrainPolicy, NodeId, ScaleDown, Simulation};
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
    domain_nodes: usize,
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
    now: Timestamp,
) -> Unneeded {
    let mut found = Unneeded::default();
    let mut all: Vec<(&Group, Candidate<'_>)> = Vec::new();
    for group in groups {
        let candidates = candidates(simulation, group, groups, nodes, now);
        all.extend(candidates.into_iter().map(|candidate| (*group, candidate)));
    }
    // The emptiest first, of equally empty ones those of the fullest rack.
    all.sort_by(|(group, a), (other, b)| {
        let key = |c: &Candidate<'_>| (c.pods > 0, c.utilization.round() as i64, Reverse(c.domain_nodes));
        key(a).cmp(&key(b)).then_with(|| group.name.cmp(&other.name)).then_with(|| a.node.cmp(b.node))
    });
    let ids: Vec<NodeId> = all.iter().map(|(_, candidate)| candidate.id).collect();
    let mut pass = ScaleDown::new(simulation, DrainPolicy::default(), &ids);
    for (group, candidate) in all {
        match remove(&mut pass, &candidate) {
            Ok(removal) => found.groups.entry(group.name.clone()).or_default().push(removal),
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
        let candidate = Candidate { id, node, machine, utilization: 0.0, pods: 0, domain_nodes: 0 };
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
    groups: &[&Group],
    nodes: &BTreeMap<String, NodeState>,
    now: Timestamp,
) -> Vec<Candidate<'a>> {
    let rules = &group.spec.scale_down;
    if rules.policy == ScaleDownPolicy::Never || group.hold.is_some() {
        return Vec::new();
    }
    let domain_nodes = groups
        .iter()
        .filter(|other| other.name == group.name || other.domain.is_some() && other.domain == group.domain)
        .map(|other| {
            other.machines.iter().filter(|machine| machine.node.is_some() && !machine.deleting).count()
        })
        .sum();
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
            allowed.then_some(Candidate { id, node, machine: &machine.name, utilization, pods, domain_nodes })
        })
        .collect()
}
