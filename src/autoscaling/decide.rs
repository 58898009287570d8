//! The decision about all node groups of a cluster: what is wanted, what may be, and which nodes go. Pure: the same view
//! and memory give the same decision.
//!
//! 1. Metrics propose, the scheduling simulation disposes: raising needs pods or a trigger that ask for it, lowering needs
//!    that all triggers agree *and* a proof for each node that its pods fit elsewhere.
//! 2. What is not known lowers nothing: a query that failed, a cluster that cannot be seen, a node that is not ready.
//! 3. Limits hold at every step, also over groups: what one group takes, another has not.

use std::collections::{BTreeMap, BTreeSet};

use ferric_api::autoscaling::{
    ActuationMode, MetricSource, Trigger, TriggerState, TriggerType, Unhealthy, UtilizationTrigger, reasons,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::down::{self, Unneeded};
use super::schedule::{Cluster, NodeId, Simulation};
use super::triggers::{self, Load, Reading, Wish};
use super::up::{self, Need, Needs};
use super::view::{Change, Decisions, GroupMemory, Memory, Verdict, Victim, View, Why};
use super::{DEFAULT_PODS, DEFAULT_UTILIZATION, Group, Room, loads};

/// Decides about all groups of a cluster.
#[must_use]
pub fn decide(view: &View<'_>, memory: &mut Memory) -> Decisions {
    let names: BTreeSet<&str> = view.groups.iter().map(|group| group.name.as_str()).collect();
    memory.groups.retain(|name, _| names.contains(name.as_str()));
    for group in view.groups {
        learn(view, group, memory.groups.entry(group.name.clone()).or_default());
    }
    let cluster = match &view.cluster {
        Err(why) => return nothing(view, memory, &format!("the cluster cannot be judged: {why}")),
        Ok(cluster) => *cluster,
    };
    if let Some(why) = unhealthy(view) {
        return nothing(view, memory, &why);
    }
    let now = cluster.simulate();
    let (acting, advising): (Vec<&Group>, Vec<&Group>) = view.groups.iter().partition(|group| acts(group));
    // What is only recommended takes nothing from the groups whose numbers follow: it is decided apart.
    let mut sides = [acting, advising].map(|members| Side::of(view, cluster, memory, &members));
    let mut decisions = Decisions::default();
    for side in sides.iter().flatten() {
        decisions.stranded.clone_from(&side.needs.stranded);
        decisions.stuck.extend(side.stuck.clone());
        decisions.blocked.extend(side.unneeded.blocked.clone());
    }
    for group in view.groups {
        let [acting, advising] = &mut sides;
        let Some(side) = (if acts(group) { acting } else { advising }) else { continue };
        let memory = memory.groups.entry(group.name.clone()).or_default();
        let round = Round { view, simulation: &now, group, needs: &side.needs, unneeded: &side.unneeded };
        decisions.groups.push(round.verdict(memory, &mut side.room, &mut side.proven));
    }
    decisions
}

/// Whether the group's number follows what is decided.
fn acts(group: &Group) -> bool {
    group.spec.actuation_mode != ActuationMode::Recommend
}

/// Groups that are decided about together: what one of them takes, another has not.
struct Side<'a> {
    room: Room,
    needs: Needs,
    unneeded: Unneeded,
    /// One for all: the nodes that one of them gives up are no place for the pods of another's.
    proven: Simulation<'a>,
    stuck: BTreeMap<String, String>,
}

impl<'a> Side<'a> {
    /// None where there is no group.
    fn of(view: &View<'_>, cluster: &'a Cluster, memory: &Memory, members: &[&Group]) -> Option<Self> {
        if members.is_empty() {
            return None;
        }
        let room = Room::of(view.policies, view.groups, view.now);
        let needs = pods(view, cluster, memory, &room, members);
        let (mut proven, stuck) = settled(view, cluster);
        let mark = proven.mark();
        let unneeded = down::unneeded(&mut proven, members, view.nodes, view.now);
        proven.rollback(mark);
        Some(Self { room, needs, unneeded, proven, stuck })
    }
}

/// Takes note of what became of machines that were on their way.
fn learn(view: &View<'_>, group: &Group, memory: &mut GroupMemory) {
    let late: BTreeSet<&str> = group.late(view.now).map(|machine| machine.name.as_str()).collect();
    for machine in &group.machines {
        let arrived = machine.node.is_some() && memory.flying.contains_key(&machine.name);
        if arrived {
            memory.failures = memory.failures.succeeded();
        } else if late.contains(machine.name.as_str()) && memory.flying.contains_key(&machine.name) {
            memory.failures = memory.failures.failed(view.now, &group.spec.provisioning.backoff);
        }
    }
    memory.flying =
        group.in_flight(view.now).map(|machine| (machine.name.clone(), machine.created)).collect();
}

/// Whether so many nodes are broken that nothing is to be concluded from what is seen.
fn unhealthy(view: &View<'_>) -> Option<String> {
    let limits =
        view.policies.first().map_or_else(Unhealthy::default, |policy| policy.spec.unhealthy.clone());
    let (all, broken) = (view.nodes.len(), view.nodes.values().filter(|state| !state.ready).count());
    let (most, spared) = (limits.max_percent.max(0).unsigned_abs(), limits.ok_count.max(0).unsigned_abs());
    let too_many = broken > spared as usize && broken * 100 > all * most as usize;
    too_many.then(|| format!("{broken} of {all} nodes are not ready, more than {most} %: nothing is scaled"))
}

/// Nothing is changed, and why.
fn nothing(view: &View<'_>, memory: &Memory, why: &str) -> Decisions {
    let verdict = |group: &Group| Verdict {
        replicas: group.replicas,
        bounds: (group.spec.min_replicas, group.effective_max()),
        inactive: Some(why.to_owned()),
        backed_off: backed_off(view, group, memory.groups.get(&group.name)),
        ..Verdict::nothing(&group.name)
    };
    Decisions { groups: view.groups.iter().map(verdict).collect(), ..Decisions::default() }
}

fn backed_off(view: &View<'_>, group: &Group, memory: Option<&GroupMemory>) -> Option<jiff::Timestamp> {
    let until = memory?.failures.until(&group.spec.provisioning.backoff)?;
    (until > view.now).then_some(until)
}

/// What pods that wait need, of those of these groups that may be raised. One that is left alone can still take back nodes.
fn pods(view: &View<'_>, cluster: &Cluster, memory: &Memory, room: &Room, members: &[&Group]) -> Needs {
    let left_alone = |group: &Group| {
        backed_off(view, group, memory.groups.get(&group.name)).is_some() && group.returnable() == 0
    };
    let able: BTreeSet<String> = members
        .iter()
        .filter(|group| group.hold.is_none() && !left_alone(group))
        .map(|group| group.name.clone())
        .collect();
    let expanders = view.policies.iter().find(|policy| !policy.spec.expanders.is_empty());
    let expanders = expanders.map_or(&[][..], |policy| &policy.spec.expanders);
    up::needs(&mut cluster.simulate(), view.groups, &able, expanders, room, view.now)
}

/// The cluster with the pods that wait on the nodes that are there, as far as they fit, and with the pods of nodes that are
/// going where they will go; and which of these nodes cannot be emptied, with the reason.
fn settled<'a>(view: &View<'_>, cluster: &'a Cluster) -> (Simulation<'a>, BTreeMap<String, String>) {
    let mut simulation = cluster.simulate();
    let waiting = simulation.waiting();
    simulation.settle(&waiting);
    let machines = view.groups.iter().flat_map(|group| &group.machines).filter(|machine| machine.deleting);
    let going: Vec<&str> = machines.filter_map(|machine| machine.node.as_deref()).collect();
    let stuck = down::go(&mut simulation, &going);
    (simulation, stuck)
}

/// The decision about one group.
struct Round<'a> {
    view: &'a View<'a>,
    /// The cluster as it is.
    simulation: &'a Simulation<'a>,
    group: &'a Group,
    needs: &'a Needs,
    unneeded: &'a Unneeded,
}

impl Round<'_> {
    fn verdict(&self, memory: &mut GroupMemory, room: &mut Room, proven: &mut Simulation<'_>) -> Verdict {
        let (group, view) = (self.group, self.view);
        let triggers = self.wishes(memory);
        self.remember_unneeded(memory);
        let scheduled =
            triggers.iter().filter(|(name, _)| self.is_schedule(name)).filter_map(|(_, wish)| wish.replicas);
        let most = group.effective_max();
        let least =
            scheduled.chain([group.spec.min_replicas]).max().unwrap_or(0).min(group.spec.max_replicas);
        let mut verdict = Verdict {
            replicas: group.replicas,
            bounds: (least, most),
            triggers,
            backed_off: backed_off(view, group, Some(memory)),
            unneeded: memory.unneeded.clone(),
            ..Verdict::nothing(&group.name)
        };
        if let Some(hold) = &group.hold {
            verdict.inactive = Some(hold.to_string());
            return verdict;
        }
        match self.direction(&verdict, least) {
            Way::Up(wanted, why) => self.raise(&mut verdict, memory, room, wanted, why),
            Way::Down(floor) => self.lower(&mut verdict, memory, (room, proven), floor),
            // What never became a node is nothing that anybody could want to keep.
            Way::Stay => {
                self.lower(&mut verdict, memory, (room, proven), (group.replicas - self.late()).max(least))
            }
            Way::Hold => memory.past.want(view.now, group.replicas),
        }
        verdict
    }

    /// What each trigger asks for.
    fn wishes(&self, memory: &mut GroupMemory) -> Vec<(String, Wish)> {
        if self.group.spec.triggers.is_empty() {
            let mut utilization = self.utilization(&UtilizationTrigger::default());
            // Where nobody asked for it, it only says what is not needed: more nodes are for pods that wait.
            if utilization.state == TriggerState::Up {
                utilization.state = TriggerState::Hold;
                utilization.replicas = Some(self.group.replicas);
            }
            return vec![
                (DEFAULT_PODS.to_owned(), self.pods()),
                (DEFAULT_UTILIZATION.to_owned(), utilization),
            ];
        }
        self.group
            .spec
            .triggers
            .iter()
            .map(|trigger| (trigger.name.clone(), self.wish(trigger, memory)))
            .collect()
    }

    fn wish(&self, trigger: &Trigger, memory: &mut GroupMemory) -> Wish {
        match trigger.kind {
            TriggerType::UnschedulablePods => self.pods(),
            TriggerType::Utilization => self.utilization(&trigger.utilization.clone().unwrap_or_default()),
            TriggerType::Schedule => match &trigger.schedule {
                Some(details) => triggers::schedule(details, self.group.replicas, self.view.now),
                None => Wish::failed("the trigger has no schedule"),
            },
            TriggerType::Prometheus => {
                let Some(details) = &trigger.prometheus else {
                    return Wish::failed("the trigger has no query");
                };
                let key = (self.group.name.clone(), trigger.name.clone());
                let missing = Reading::Failed("the query was not asked yet".to_owned());
                let reading = self.view.readings.get(&key).unwrap_or(&missing);
                let since = memory.above.get(&trigger.name).copied();
                let found = triggers::metric(details, reading, self.group.replicas, since, self.view.now);
                match found.above_since {
                    Some(since) => drop(memory.above.insert(trigger.name.clone(), since)),
                    None => drop(memory.above.remove(&trigger.name)),
                }
                found.wish
            }
        }
    }

    /// Pods that wait ask for nodes; where none do, any number will do.
    fn pods(&self) -> Wish {
        let current = self.group.replicas;
        match self.needs.groups.get(&self.group.name) {
            Some(Need { nodes, pods, example, .. }) => {
                let example = example.clone().unwrap_or_default();
                let said = format!("{pods} pods need {nodes} nodes more, e.g. {example}");
                Wish::of(current, current.saturating_add(*nodes), Some(format!("{pods} pods")), said)
            }
            None => Wish::of(current, 0, Some("0 pods".to_owned()), "no pod waits for a node of this group"),
        }
    }

    fn utilization(&self, trigger: &UtilizationTrigger) -> Wish {
        let simulation = self.simulation;
        let ready = |name: &&str| self.view.nodes.get(*name).is_some_and(|state| state.ready);
        let machines = self.group.machines.iter().filter(|machine| !machine.deleting);
        let names: Vec<&str> = machines.filter_map(|machine| machine.node.as_deref()).filter(ready).collect();
        let ids: Vec<NodeId> = names.iter().filter_map(|name| simulation.node(name)).collect();
        let mut loads = loads::requests(simulation, &ids);
        if trigger.source == MetricSource::Usage {
            let Some(usage) = self.view.usage else {
                return Wish::failed(
                    "metrics.k8s.io does not say what nodes use: install metrics-server, or use source Requests",
                );
            };
            if let Some(silent) = names.iter().find(|name| !usage.contains_key(**name)) {
                return Wish::failed(format!("metrics.k8s.io does not say what node {silent} uses"));
            }
            for (resource, load) in &mut loads {
                let used = names.iter().map(|name| usage[*name].get(resource).copied().unwrap_or(0.0)).sum();
                *load = Load { used, allocatable: load.allocatable };
            }
        }
        let nodes = i32::try_from(ids.len()).unwrap_or(i32::MAX);
        triggers::utilization(trigger, &loads, nodes, self.group.replicas)
    }

    fn is_schedule(&self, name: &str) -> bool {
        let mut triggers = self.group.spec.triggers.iter();
        triggers.any(|trigger| trigger.name == name && trigger.kind == TriggerType::Schedule)
    }

    fn remember_unneeded(&self, memory: &mut GroupMemory) {
        let found = self.unneeded.groups.get(&self.group.name);
        let now: BTreeSet<&str> = found.into_iter().flatten().map(|removal| removal.node.as_str()).collect();
        memory.unneeded.retain(|node, _| now.contains(node.as_str()));
        for node in now {
            memory.unneeded.entry(node.to_owned()).or_insert(self.view.now);
        }
    }

    fn direction(&self, verdict: &Verdict, least: i32) -> Way {
        let current = self.group.replicas;
        if current < least {
            let message =
                format!("{current} replicas are fewer than {least}, the least that there should be");
            return Way::Up(least, Why { reason: reasons::OUT_OF_BOUNDS, trigger: None, message });
        }
        let up = verdict.triggers.iter().filter(|(_, wish)| wish.state == TriggerState::Up);
        if let Some((name, wish)) = up.max_by_key(|(_, wish)| wish.replicas) {
            let pods = self.needs.groups.get(&self.group.name).is_some_and(|need| need.trigger == *name);
            let reason = if pods { reasons::UNSCHEDULABLE_PODS } else { reasons::TRIGGER };
            let why = Why { reason, trigger: Some(name.clone()), message: wish.message.clone() };
            return Way::Up(wish.replicas.unwrap_or(current), why);
        }
        if verdict.triggers.iter().any(|(_, wish)| wish.state == TriggerState::Failed) {
            return Way::Hold;
        }
        // Where no trigger has a say now, none objects.
        let floor = verdict.triggers.iter().filter_map(|(_, wish)| wish.replicas).max().unwrap_or(0);
        if floor < current { Way::Down(floor.max(least)) } else { Way::Stay }
    }

    fn late(&self) -> i32 {
        i32::try_from(self.group.late(self.view.now).count()).unwrap_or(i32::MAX)
    }

    fn raise(&self, verdict: &mut Verdict, memory: &mut GroupMemory, room: &mut Room, wanted: i32, why: Why) {
        let (group, view) = (self.group, self.view);
        let current = group.replicas;
        memory.past.want(view.now, wanted);
        // Nodes that are being emptied are there at once, whatever holds new ones.
        let back = group.returnable().min(wanted - current).max(0);
        if let Some(until) = verdict.backed_off
            && back == 0
        {
            verdict.limited = Some(format!("machines did not become nodes: not before {until}"));
            return;
        }
        let behavior = group.spec.behavior.as_ref();
        let up = behavior.and_then(|behavior| behavior.scale_up.as_ref());
        let paced = memory.past.pace(view.now, current, up, None);
        let bounded = paced.replicas.min(verdict.bounds.1).max(current);
        let allowed = room.allows(&group.name, bounded - current);
        let new = if verdict.backed_off.is_some() { 0 } else { allowed.nodes };
        let target = current + new.max(back);
        verdict.limited = match allowed.by {
            _ if target == wanted => None,
            Some(by) => Some(format!("limit {by}")),
            None if paced.held_by.is_some() => Some("behavior.scaleUp".to_owned()),
            None if wanted > group.spec.max_replicas => {
                Some(format!("maxReplicas {}", group.spec.max_replicas))
            }
            None => Some(format!("{} hosts are free", group.free.all())),
        };
        if target > current {
            room.take(&group.name, target - current);
            self.changes(memory, target - current);
            verdict.replicas = target;
            verdict.change = Some(Change::Up(why));
        }
    }

    fn lower(
        &self,
        verdict: &mut Verdict,
        memory: &mut GroupMemory,
        (room, proven): (&mut Room, &mut Simulation<'_>),
        floor: i32,
    ) {
        let (group, view) = (self.group, self.view);
        let current = group.replicas;
        let most = usize::try_from(current - floor).unwrap_or(0);
        // Where some are to go that are still there, it is not known which: none is said to be late once more.
        let most_late = if group.surplus() { 0 } else { most };
        let mut victims: Vec<Victim> =
            group.late(view.now).take(most_late).map(|m| Victim::Late(m.name.clone())).collect();
        let late = victims.len();
        let due = self.due(memory);
        let going = group.machines.iter().filter(|machine| machine.deleting).count();
        let budget = budget(group).saturating_sub(going).min(most - late);
        let chosen: Vec<_> = due.into_iter().take(budget).collect();
        victims.extend(down::prove(proven, &chosen).into_iter().map(Victim::Node));
        memory.past.want(view.now, current - i32::try_from(victims.len()).unwrap_or(0));
        let down = group.spec.behavior.as_ref().and_then(|behavior| behavior.scale_down.as_ref());
        let paced = memory.past.pace(view.now, current, None, down);
        // Machines that never became nodes go at once: nothing runs on them.
        let go = usize::try_from(current - paced.replicas).unwrap_or(0).max(late).min(victims.len());
        victims.truncate(go);
        if paced.held_by.is_some() && go < late + chosen.len() {
            verdict.limited = Some("behavior.scaleDown".to_owned());
        }
        if victims.is_empty() {
            return;
        }
        let gone = i32::try_from(victims.len()).unwrap_or(0);
        room.take(&group.name, -gone);
        self.changes(memory, -gone);
        verdict.replicas = current - gone;
        verdict.change = Some(Change::Down(because(&victims, late), victims));
    }

    /// Takes note of a change for the pace of those to come. What nobody makes is none.
    fn changes(&self, memory: &mut GroupMemory, by: i32) {
        if self.group.spec.actuation_mode == ActuationMode::Direct {
            memory.past.change(self.view.now, by);
        }
    }

    /// Nodes that have not been needed for long enough, in the order in which they go.
    fn due(&self, memory: &GroupMemory) -> Vec<down::Removal> {
        let wait = i64::from(self.group.spec.scale_down.unneeded_seconds);
        let due = |removal: &&down::Removal| {
            let since = memory.unneeded.get(&removal.node);
            since.is_some_and(|since| self.view.now.duration_since(*since).as_secs() >= wait)
        };
        self.unneeded.groups.get(&self.group.name).into_iter().flatten().filter(due).cloned().collect()
    }
}

enum Way {
    Up(i32, Why),
    Down(i32),
    /// Nothing but what never became a node may go.
    Stay,
    /// Nothing may go: something is not known.
    Hold,
}

fn because(victims: &[Victim], late: usize) -> Why {
    let names: Vec<&str> = victims.iter().map(Victim::machine).collect();
    let (reason, what) = match late {
        0 => (reasons::UNNEEDED, "not needed: every pod fits elsewhere"),
        _ if late == victims.len() => (reasons::PROVISIONING_TIMEOUT, "did not become nodes in time"),
        _ => (reasons::UNNEEDED, "not needed, or did not become nodes in time"),
    };
    Why { reason, trigger: None, message: format!("{}: {what}", names.join(", ")) }
}

/// How many nodes of a group may be on their way out at once.
fn budget(group: &Group) -> usize {
    let nodes = group.machines.iter().filter(|machine| machine.node.is_some()).count();
    let allowed = group.spec.scale_down.budgets.iter().map(|budget| match &budget.nodes {
        IntOrString::Int(number) => usize::try_from(*number).unwrap_or(0),
        IntOrString::String(text) => match text.strip_suffix('%').and_then(|text| text.parse::<usize>().ok())
        {
            None | Some(0) => 0,
            Some(percent) => (nodes * percent.min(100) / 100).max(1),
        },
    });
    allowed.min().unwrap_or(1)
}
