//! A model of cluster-autoscaler with its published defaults, over the same scheduling simulation as ours.
//!
//! It is a model and not cluster-autoscaler: what is taken from it are its loop, its delays and its limits, from
//! `cluster-autoscaler/config/flags/flags.go` (the flag of each constant below; commit 01ea19e of
//! `kubernetes/autoscaler`), `config/const.go` and `core/static_autoscaler.go` (what an iteration does and when it ends
//! early). Bin packing is ours: cluster-autoscaler's estimator is first-fit decreasing too, but does not fill a new node
//! with what suits it best. Not modelled: soft taints, priorities, `--scale-down-non-empty-candidates-count` and the pools
//! of candidates (both above the sizes replayed), seconds of delay between taint and deletion, and failures to evict.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Action, Scaler, Seen};
use crate::autoscaling::schedule::cases::Dice;
use crate::autoscaling::schedule::{self, DrainPolicy, NodeId, PodId, ScaleDown, Simulation};
use crate::autoscaling::{Group, loads, up};

/// `--scan-interval` (`DefaultScanInterval`), in seconds.
const SCAN: i64 = 10;
/// `--scale-down-unneeded-time` (`DefaultScaleDownUnneededTime`), in seconds.
const UNNEEDED: i64 = 600;
/// `--scale-down-delay-after-add`, in seconds.
const AFTER_ADD: i64 = 600;
/// `--scale-down-utilization-threshold` and `--scale-down-gpu-utilization-threshold`, in per cent.
const THRESHOLD: f64 = 50.0;
/// `--max-node-provision-time`, in seconds.
const PROVISION: i64 = 900;
/// `--unremovable-node-recheck-timeout`, in seconds.
const RECHECK: i64 = 300;
/// `--max-scale-down-parallelism` (before: `--max-empty-bulk-delete`): nodes that may be deleted at once.
const PARALLEL: usize = 10;
/// `--max-drain-parallelism`: of these, nodes with pods.
const DRAINS: usize = 1;
/// `--max-nodes-per-scaleup`.
const NODES_PER_SCALE_UP: i32 = 1000;
/// `--initial-node-group-backoff-duration`, in seconds.
const FIRST_BACKOFF: i64 = 300;
/// `--max-node-group-backoff-duration`, in seconds.
const LONGEST_BACKOFF: i64 = 1800;
/// `--node-group-backoff-reset-timeout`, in seconds.
const BACKOFF_RESET: i64 = 10_800;

/// A group that is left alone since its machines did not come.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    seconds: i64,
    until: i64,
    failed: i64,
}

/// The model; see the module.
#[derive(Debug, Clone)]
pub struct Baseline {
    dice: Dice,
    last_add: Option<i64>,
    /// Nodes that are not needed, and since when.
    unneeded: BTreeMap<String, i64>,
    /// Nodes that could not go, and until when they are not looked at again.
    unremovable: BTreeMap<String, i64>,
    backoffs: BTreeMap<String, Backoff>,
    /// The world as it was when it was last looked for nodes that are not needed, and what was found.
    last: Option<(u64, Vec<Unneeded>)>,
}

/// A node that could go.
#[derive(Debug, Clone)]
struct Unneeded {
    group: usize,
    node: String,
    machine: String,
    empty: bool,
}

impl Baseline {
    /// With its defaults; the seed decides between groups that are equally good, as the expander does by chance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            last_add: None,
            unneeded: BTreeMap::new(),
            unremovable: BTreeMap::new(),
            backoffs: BTreeMap::new(),
            last: None,
        }
    }
}

impl Scaler for Baseline {
    fn interval(&self) -> i64 {
        SCAN
    }

    fn decide(&mut self, seen: &Seen<'_>) -> Vec<Action> {
        let now = seen.now.as_second();
        // `removeOldUnregisteredNodes`: the iteration ends where there was one.
        let late = self.late(seen, now);
        if !late.is_empty() {
            return late;
        }
        if let Some(up) = self.up(seen, now) {
            self.last_add = Some(now);
            // "No scale down in this iteration."
            return vec![up];
        }
        let unneeded = self.find(seen, now);
        if self.last_add.is_some_and(|added| now < added + AFTER_ADD) {
            return Vec::new();
        }
        self.down(seen, now, &unneeded)
    }
}

impl Baseline {
    /// Machines that should be nodes by now go, and their group is left alone for a while.
    fn late(&mut self, seen: &Seen<'_>, now: i64) -> Vec<Action> {
        let mut actions = Vec::new();
        for group in seen.groups {
            let late = group.machines.iter().filter(|machine| {
                machine.node.is_none() && !machine.deleting && now > machine.created.as_second() + PROVISION
            });
            let spare = usize::try_from(group.replicas - group.spec.min_replicas).unwrap_or(0);
            let late: Vec<String> = late.take(spare).map(|machine| machine.name.clone()).collect();
            if late.is_empty() {
                continue;
            }
            let before = self.backoffs.get(&group.name).filter(|before| now < before.failed + BACKOFF_RESET);
            let seconds = before.map_or(FIRST_BACKOFF, |before| match now < before.until {
                true => before.seconds,
                false => (before.seconds * 2).min(LONGEST_BACKOFF),
            });
            self.backoffs.insert(group.name.clone(), Backoff { seconds, until: now + seconds, failed: now });
            actions.push(Action::Remove(group.name.clone(), late));
        }
        actions
    }

    /// The one group that grows, and to what.
    fn up(&mut self, seen: &Seen<'_>, now: i64) -> Option<Action> {
        if seen.cluster.pods().all(|pod| !seen.cluster.waits(pod)) {
            return None;
        }
        let mut simulation = seen.cluster.simulate();
        for group in seen.groups {
            if let Some(expected) = offer(&simulation, group, 0, seen.now) {
                simulation.expect(&expected);
            }
        }
        let waiting = simulation.waiting();
        simulation.settle(&waiting);
        let waiting = simulation.waiting();
        if waiting.is_empty() {
            return None;
        }
        let mut best: Vec<(&Group, i32)> = Vec::new();
        let mut least = f64::INFINITY;
        for group in seen.groups {
            let Some((nodes, waste)) = self.option(&mut simulation, group, &waiting, seen.now) else {
                continue;
            };
            if self.backoffs.get(&group.name).is_some_and(|backoff| now < backoff.until) {
                continue;
            }
            if waste < least {
                least = waste;
                best.clear();
            }
            if waste <= least {
                best.push((group, nodes));
            }
        }
        // `--expander` is `least-waste` by default; what it cannot tell apart is told by chance.
        let chosen = usize::try_from(self.dice.below(best.len() as u64)).unwrap_or(0);
        let (group, nodes) = best.get(chosen)?;
        Some(Action::Raise(group.name.clone(), group.replicas + nodes))
    }

    /// What raising one group would mean: nodes, and what share of them is wasted.
    fn option(
        &self,
        simulation: &mut Simulation<'_>,
        group: &Group,
        waiting: &[PodId],
        now: Timestamp,
    ) -> Option<(i32, f64)> {
        let most = (group.spec.max_replicas - group.replicas).clamp(0, NODES_PER_SCALE_UP);
        let offer = offer(simulation, group, u32::try_from(most).unwrap_or(0), now)?;
        let plan = simulation.estimate(waiting, &offer);
        let nodes = i32::try_from(plan.nodes.len()).unwrap_or(i32::MAX);
        (nodes > 0).then(|| (nodes, up::waste(simulation, &plan, &offer)))
    }

    /// Nodes that are not needed, in the order in which they would go; remembers since when.
    fn find(&mut self, seen: &Seen<'_>, now: i64) -> Vec<Unneeded> {
        let expired = self.unremovable.values().any(|until| *until <= now);
        let found = match self.last.take() {
            Some((version, found)) if version == seen.version && !expired => found,
            _ => {
                self.unremovable.retain(|_, until| *until > now);
                self.look(seen, now)
            }
        };
        self.unneeded.retain(|node, _| found.iter().any(|unneeded| unneeded.node == *node));
        for unneeded in &found {
            self.unneeded.entry(unneeded.node.clone()).or_insert(now);
        }
        self.last = Some((seen.version, found.clone()));
        found
    }

    fn look(&mut self, seen: &Seen<'_>, now: i64) -> Vec<Unneeded> {
        let mut simulation = seen.cluster.simulate();
        let waiting = simulation.waiting();
        simulation.settle(&waiting);
        let mut candidates: Vec<(NodeId, Unneeded)> = Vec::new();
        for (at, group) in seen.groups.iter().enumerate() {
            for machine in group.machines.iter().filter(|machine| !machine.deleting) {
                let Some(node) = &machine.node else { continue };
                let Some(id) = simulation.node(node) else { continue };
                if self.unremovable.contains_key(node) || loads::utilization(&simulation, id) >= THRESHOLD {
                    continue;
                }
                let empty = simulation.on(id).is_empty();
                let unneeded =
                    Unneeded { group: at, node: node.clone(), machine: machine.name.clone(), empty };
                candidates.push((id, unneeded));
            }
        }
        // Empty ones first; those that were found before keep their place before new ones.
        candidates
            .sort_by_key(|(_, candidate)| (!candidate.empty, !self.unneeded.contains_key(&candidate.node)));
        let ids: Vec<NodeId> = candidates.iter().map(|(id, _)| *id).collect();
        // A budget is asked for one eviction at a time.
        let policy = DrainPolicy { at_once: false, ..DrainPolicy::default() };
        let mut pass = ScaleDown::new(&mut simulation, policy, &ids);
        let mut found = Vec::new();
        for (id, candidate) in candidates {
            match pass.remove(id) {
                Ok(_) => found.push(candidate),
                Err(_) => drop(self.unremovable.insert(candidate.node, now + RECHECK)),
            }
        }
        found
    }

    /// What goes of the nodes that have not been needed for long enough.
    fn down(&mut self, seen: &Seen<'_>, now: i64, unneeded: &[Unneeded]) -> Vec<Action> {
        let deleting = |with_node: bool| {
            let machines = seen.groups.iter().flat_map(|group| &group.machines);
            machines.filter(|machine| machine.deleting && machine.node.is_some() == with_node).count()
        };
        let mut left = PARALLEL.saturating_sub(deleting(true) + deleting(false));
        let mut drains = DRAINS.saturating_sub(deleting(true));
        let mut spare: Vec<i32> =
            seen.groups.iter().map(|group| group.replicas - group.spec.min_replicas).collect();
        let mut going: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let due = |candidate: &&Unneeded| {
            self.unneeded.get(&candidate.node).is_some_and(|since| now >= since + UNNEEDED)
        };
        for candidate in unneeded.iter().filter(due) {
            if left == 0 || spare[candidate.group] <= 0 || !candidate.empty && drains == 0 {
                continue;
            }
            left -= 1;
            spare[candidate.group] -= 1;
            drains -= usize::from(!candidate.empty);
            going.entry(candidate.group).or_default().push(candidate.machine.clone());
        }
        going
            .into_iter()
            .filter_map(|(group, machines)| {
                Some(Action::Remove(seen.groups.get(group)?.name.clone(), machines))
            })
            .collect()
    }
}

/// A group as the simulation knows it. All that was ordered and is no node is on its way: what is late went before. GPU
/// nodes are not kept for pods that ask for GPUs; their taint does that.
fn offer(simulation: &Simulation<'_>, group: &Group, limit: u32, now: Timestamp) -> Option<schedule::Group> {
    let waits = group.machines.iter().filter(|machine| machine.node.is_none() && !machine.deleting).count();
    let flying = i32::try_from(waits).unwrap_or(i32::MAX).saturating_add(group.ordered());
    let offer = up::offer(simulation, group, limit, now)?;
    Some(schedule::Group { in_flight: u32::try_from(flying).unwrap_or(0), only_for: None, ..offer })
}
