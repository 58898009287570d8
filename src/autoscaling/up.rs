//! Which groups get nodes for pods that fit on none. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ferric_api::autoscaling::{Expander, Trigger, TriggerType, UnschedulablePodsTrigger};
use jiff::Timestamp;

use super::expander::{Candidate, ranks};
use super::schedule::symbols::Sym;
use super::schedule::{self, Plan, PodId, Simulation};
use super::spread::Spread;
use super::triggers::is_gpu;
use super::{Group, Room};

/// What pods need of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// New nodes.
    pub(super) nodes: i32,
    /// Pods that would run on them.
    pub(super) pods: usize,
    /// The first of these, `namespace/name`.
    pub(super) example: Option<String>,
    /// The trigger that counts them.
    pub(super) trigger: String,
}

/// What the pods that wait need of groups, and how many fit nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// By group.
    pub(super) groups: BTreeMap<String, Need>,
    /// Groups that can have no node more, though pods wait that would run on it: what keeps them.
    pub(super) full: BTreeMap<String, String>,
    /// Pods for which no group has a place, and why the groups have none for the first of them.
    pub(super) stranded: Vec<String>,
    /// By group, how many of them a node of it would take that it does not get, or it would be spread too unevenly.
    pub(super) refused: BTreeMap<String, usize>,
}

/// By what it is decided which group gets a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    /// Which of several groups that would do is raised.
    pub(super) expanders: &'a [Expander],
    /// What limits leave.
    pub(super) room: &'a Room,
    /// Where groups are.
    pub(super) spread: &'a Spread,
    /// The time.
    pub(super) now: Timestamp,
}

/// Which pods a trigger counts: those of this priority and above, and of this age in seconds; the choosiest first.
type Counted = (Reverse<i32>, Reverse<i32>);

/// What pods need of the groups that may be raised. Nodes that are on their way count as there.
pub(super) fn needs(
    simulation: &mut Simulation<'_>,
    groups: &[Group],
    able: &BTreeSet<String>,
    rules: &Rules<'_>,
) -> Needs {
    let now = rules.now;
    let mut spread = rules.spread.clone();
    for group in groups.iter().filter(|group| group.counts()) {
        if let Some(expected) = offer(simulation, group, 0, now) {
            simulation.expect(&expected);
        }
    }
    let waiting = simulation.waiting();
    simulation.settle(&waiting);
    let mut needs = Needs::default();
    // Groups whose triggers count the same pods are planned together, the choosiest first.
    let mut batches: BTreeMap<Counted, Vec<(&Group, String)>> = BTreeMap::new();
    for group in groups.iter().filter(|group| able.contains(&group.name)) {
        if let Some((trigger, details)) = counted(&group.spec.triggers) {
            let key = (Reverse(details.priority_cutoff), Reverse(details.min_age_seconds));
            batches.entry(key).or_default().push((group, trigger));
        }
    }
    let mut left = Vec::new();
    for ((cutoff, age), members) in batches {
        let counts = |pod: &PodId| {
            let pod = simulation.pod(*pod);
            pod.priority >= cutoff.0 && now.as_second() - pod.created >= i64::from(age.0)
        };
        let pods: Vec<PodId> = simulation.waiting().into_iter().filter(counts).collect();
        left = batch(simulation, &pods, &members, rules, &mut spread, &mut needs);
    }
    needs.stranded = left.into_iter().map(|pod| simulation.pod_name(pod)).collect();
    needs
}

/// The trigger of a group that counts pods; one with none at all has it with its defaults.
fn counted(triggers: &[Trigger]) -> Option<(String, UnschedulablePodsTrigger)> {
    if triggers.is_empty() {
        return Some((super::DEFAULT_PODS.to_owned(), UnschedulablePodsTrigger::default()));
    }
    let trigger = triggers.iter().find(|trigger| trigger.kind == TriggerType::UnschedulablePods)?;
    Some((trigger.name.clone(), trigger.unschedulable_pods.clone().unwrap_or_default()))
}

fn batch(
    simulation: &mut Simulation<'_>,
    pods: &[PodId],
    members: &[(&Group, String)],
    rules: &Rules<'_>,
    spread: &mut Spread,
    needs: &mut Needs,
) -> Vec<PodId> {
    let most =
        |group: &Group| rules.room.allows(&group.name, (group.effective_max() - group.replicas).max(0));
    let offers: Vec<(schedule::Group, &Group, &String)> = members
        .iter()
        .filter_map(|(group, trigger)| {
            let limit = most(group).nodes;
            let offer = offer(simulation, group, u32::try_from(limit).unwrap_or(0), rules.now)?;
            let places = spread.places(&group.name).to_vec();
            let firm = u32::try_from(group.returnable()).unwrap_or(0);
            Some((schedule::Group { places, firm, ..offer }, *group, trigger))
        })
        .collect();
    let candidates: Vec<Candidate> =
        offers.iter().map(|(offer, group, _)| candidate(simulation, pods, offer, group)).collect();
    // Groups that are spread and that expanders do not tell apart are told apart by where fewer nodes are.
    let mut expanders = rules.expanders.to_vec();
    let spreads = offers.iter().any(|(offer, _, _)| !offer.places.is_empty());
    if spreads && !expanders.is_empty() && !expanders.contains(&Expander::RackBalance) {
        expanders.push(Expander::RackBalance);
    }
    let ranks = ranks(&candidates, &expanders);
    let groups: Vec<schedule::Group> = offers
        .iter()
        .zip(ranks)
        .map(|((offer, _, _), rank)| schedule::Group { rank, ..offer.clone() })
        .collect();
    let plan = simulation.plan_from(pods, &groups, spread.balance());
    for at in plan.full {
        let group = offers[at].1;
        let why = most(group).by.map_or_else(|| group.keeps(), |by| format!("limit {by}"));
        needs.full.insert(group.name.clone(), why);
    }
    for node in plan.nodes {
        let (_, group, trigger) = &offers[node.group];
        spread.take(&group.name, 1);
        let need = needs.groups.entry(group.name.clone()).or_default();
        need.trigger.clone_from(trigger);
        need.nodes += 1;
        need.pods += node.pods.len();
        need.example = need.example.take().or_else(|| node.pods.first().map(|pod| simulation.pod_name(*pod)));
    }
    let mut refused = vec![0; offers.len()];
    plan.unplaced.iter().flat_map(refusals).for_each(|(at, _)| refused[*at] += 1);
    for ((_, group, _), pods) in offers.iter().zip(refused).filter(|(_, pods)| *pods > 0) {
        *needs.refused.entry(group.name.clone()).or_default() += pods;
    }
    plan.unplaced.into_iter().map(|unplaced| unplaced.pod).collect()
}

/// Groups of which a node would have had a place for a pod, were it not for how groups are spread.
fn refusals(unplaced: &schedule::Unplaced) -> impl Iterator<Item = &(usize, schedule::Reason)> {
    unplaced.groups.iter().filter(|(_, reason)| *reason == schedule::Reason::GroupSpread)
}

/// A group as the simulation knows it; none where it is not known what a node of it would be.
pub(super) fn offer(
    simulation: &Simulation<'_>,
    group: &Group,
    limit: u32,
    now: Timestamp,
) -> Option<schedule::Group> {
    let template = group.template.clone()?;
    let symbols = simulation.cluster().symbols();
    let gpu =
        template.allocatable.iter().map(|(resource, _)| *resource).find(|name| is_gpu(symbols.name(*name)));
    let flying =
        i32::try_from(group.in_flight(now).count()).unwrap_or(i32::MAX).saturating_add(group.ordered());
    Some(schedule::Group {
        name: group.name.clone(),
        template,
        limit,
        in_flight: u32::try_from(flying).unwrap_or(0),
        rank: 0,
        size: u32::try_from(group.replicas).unwrap_or(0),
        only_for: gpu,
        places: Vec::new(),
        firm: 0,
    })
}

/// What raising one group alone would mean.
fn candidate(
    simulation: &mut Simulation<'_>,
    pods: &[PodId],
    offer: &schedule::Group,
    group: &Group,
) -> Candidate {
    let plan = simulation.estimate(pods, offer);
    Candidate {
        group: group.name.clone(),
        nodes: i32::try_from(plan.nodes.len()).unwrap_or(i32::MAX),
        pods: plan.nodes.iter().map(|node| node.pods.len()).sum(),
        waste: waste(simulation, &plan, offer),
        free: group.free,
        boot_seconds: group.boot.quantile(50),
        priority: group.priority,
    }
}

/// The share of processors and memory of new nodes that is left over.
pub(super) fn waste(simulation: &Simulation<'_>, plan: &Plan, offer: &schedule::Group) -> f64 {
    let pods = plan.nodes.iter().flat_map(|node| &node.pods);
    let mut used = BTreeMap::<Sym, f64>::new();
    for pod in pods {
        let spec = simulation.cluster().spec_of(simulation.pod(*pod));
        for (resource, amount) in spec.iter().flat_map(|spec| &spec.requests) {
            *used.entry(*resource).or_default() += *amount as f64;
        }
    }
    let shares: Vec<f64> = [Sym::CPU, Sym::MEMORY]
        .into_iter()
        .filter_map(|resource| {
            let has = offer.template.allocatable.iter().find(|(name, _)| *name == resource)?.1 as f64;
            let all = has * plan.nodes.len() as f64;
            (all > 0.0).then(|| 1.0 - (used.get(&resource).copied().unwrap_or(0.0) / all).min(1.0))
        })
        .collect();
    if shares.is_empty() { 0.0 } else { shares.iter().sum::<f64>() / shares.len() as f64 }
}
