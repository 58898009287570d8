//! The decision about all node groups of a cluster: what is wanted, what may be, and which nodes go. Pure: the same view
//! and memory give the same decision.
//!
//! 1. Metrics propose, the scheduling simulation disposes: raising needs pods or a trigger that ask for it, lowering needs
//!    that all triggers agree *and* a proof for each node that its pods fit elsewhere.
//! 2. What is not known lowers nothing: a query that failed, a cluster that cannot be seen, a node that is not ready.
//! 3. Limits hold at every step, also over groups: what one group takes, another has not.
//! 4. First each group says what it wants, then all are raised together, then nodes go: how evenly they are spread is up to all.

use std::collections::BTreeSet;

use ferric_api::autoscaling::{
    ActuationMode, MetricSource, Trigger, TriggerState, TriggerType, Unhealthy, UtilizationTrigger, reasons,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::down;
use super::schedule::{NodeId, Simulation};
use super::side::{Books, Found, Side, acts, backed_off, of};
use super::spread::{Raise, Spread};
use super::triggers::{self, Load, Reading, Wish};
use super::up::Need;
use super::view::{Change, Decisions, GroupMemory, Memory, Verdict, Victim, View, Why};
use super::{DEFAULT_PODS, DEFAULT_UTILIZATION, Group, loads};

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
    let spread = Spread::of(view.groups, cluster);
    // What is only recommended takes nothing from the groups whose numbers follow: it is decided apart.
    let mut sides = [acting, advising].map(|members| Side::of(view, cluster, memory, &members, &spread));
    let mut decisions = Decisions::default();
    for side in sides.iter().flatten() {
        decisions.stranded.clone_from(&side.found.needs.stranded);
        decisions.stuck.extend(side.stuck.clone());
        decisions.blocked.extend(side.found.unneeded.blocked.clone());
    }
    let mut asked = Vec::new();
    for group in view.groups {
        let Some(Side { found, books, .. }) = of(&mut sides, group) else { continue };
        let memory = memory.groups.entry(group.name.clone()).or_default();
        let round = Round { view, simulation: &now, group, found };
        let (mut verdict, way) = round.ask(memory);
        match &way {
            Way::Up(wanted, why) => round.raise(&mut verdict, memory, books, *wanted, why),
            Way::Down(floor) => drop(books.able.insert(group.name.clone(), round.able(*floor))),
            Way::Stay | Way::Hold | Way::Held => {}
        }
        asked.push((group, verdict, way));
    }
    for Side { books, .. } in sides.iter_mut().flatten() {
        books.spread.raise(&mut books.raises);
    }
    for (group, mut verdict, way) in asked {
        let Some(Side { found, books, .. }) = of(&mut sides, group) else { continue };
        let memory = memory.groups.entry(group.name.clone()).or_default();
        let round = Round { view, simulation: &now, group, found };
        match way {
            Way::Up(..) => round.raised(&mut verdict, memory, books),
            Way::Down(floor) => round.lower(&mut verdict, memory, books, floor),
            // What never became a node is nothing that anybody could want to keep.
            Way::Stay => {
                let floor = (group.replicas - round.late()).max(verdict.bounds.0);
                round.lower(&mut verdict, memory, books, floor);
            }
            Way::Hold => memory.past.want(view.now, group.replicas),
            Way::Held => {}
        }
        if !matches!(way, Way::Held) {
            round.refused(&mut verdict, &books.spread);
        }
        decisions.groups.push(verdict);
    }
    decisions
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

/// The decision about one group.
struct Round<'a> {
    view: &'a View<'a>,
    /// The cluster as it is.
    simulation: &'a Simulation<'a>,
    group: &'a Group,
    found: &'a Found,
}

impl Round<'_> {
    /// What is asked for, and which way that leads.
    fn ask(&self, memory: &mut GroupMemory) -> (Verdict, Way) {
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
            return (verdict, Way::Held);
        }
        let way = self.direction(&verdict, least);
        (verdict, way)
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
        match self.found.needs.groups.get(&self.group.name) {
            Some(Need { nodes, pods, example, .. }) => {
                let example = example.clone().unwrap_or_default();
                let said = format!("{pods} pods need {nodes} nodes more, e.g. {example}");
                Wish::of(current, current.saturating_add(*nodes), Some(format!("{pods} pods")), said)
            }
            None => {
                let said = match self.found.needs.full.get(&self.group.name) {
                    Some(why) => format!("pods wait that a node more would take, and there is none: {why}"),
                    None => "no pod waits for a node of this group".to_owned(),
                };
                Wish::of(current, 0, Some("0 pods".to_owned()), said)
            }
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
        let found = self.found.unneeded.groups.get(&self.group.name);
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
            let pods =
                self.found.needs.groups.get(&self.group.name).is_some_and(|need| need.trigger == *name);
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

    /// How many nodes could go down to a floor.
    fn able(&self, floor: i32) -> i32 {
        // Whether those of a delegated group go is decided elsewhere.
        if self.group.spec.actuation_mode == ActuationMode::Delegate || budget(self.group) == 0 {
            return 0;
        }
        let unneeded = self.found.unneeded.groups.get(&self.group.name).map_or(0, Vec::len);
        i32::try_from(unneeded).unwrap_or(i32::MAX).min(self.group.replicas - floor)
    }

    /// How far a group may be raised by itself.
    fn raise(
        &self,
        verdict: &mut Verdict,
        memory: &mut GroupMemory,
        books: &mut Books<'_>,
        wanted: i32,
        why: &Why,
    ) {
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
        let allowed = books.room.allows(&group.name, bounded - current);
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
        let by = target - current;
        if by > 0 {
            books.room.take(&group.name, by);
            verdict.replicas = target;
            verdict.change = Some(Change::Up(why.clone()));
            // Bounds were set for this group alone, and what is there already makes nothing more uneven than it is.
            let firm = back.max(verdict.bounds.0 - current).clamp(0, by);
            books.raises.push(Raise { group: group.name.clone(), by, firm });
        }
    }

    /// What is left of a raise beside those of others.
    fn raised(&self, verdict: &mut Verdict, memory: &mut GroupMemory, books: &mut Books<'_>) {
        let Some(raise) = books.raises.iter().find(|raise| raise.group == self.group.name) else { return };
        let target = self.group.replicas + raise.by;
        if target < verdict.replicas {
            books.room.take(&self.group.name, target - verdict.replicas);
            verdict.replicas = target;
            verdict.limited = books.spread.refuses(&self.group.name);
        }
        match raise.by {
            0 => verdict.change = None,
            by => self.changes(memory, by),
        }
    }

    /// Says that pods wait for a node that the group does not get.
    fn refused(&self, verdict: &mut Verdict, spread: &Spread) {
        if let Some(pods) = self.found.needs.refused.get(&self.group.name)
            && verdict.limited.is_none()
            && let Some(why) = spread.refuses(&self.group.name)
        {
            verdict.limited = Some(format!("{why}: {pods} pods wait"));
        }
        // Of what nobody could be given nothing was wanted.
        verdict.limited =
            verdict.limited.take().or_else(|| self.found.needs.full.get(&self.group.name).cloned());
    }

    fn lower(&self, verdict: &mut Verdict, memory: &mut GroupMemory, books: &mut Books<'_>, floor: i32) {
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
        victims.extend(down::prove(&mut books.proven, &chosen).into_iter().map(Victim::Node));
        memory.past.want(view.now, current - i32::try_from(victims.len()).unwrap_or(0));
        let down = group.spec.behavior.as_ref().and_then(|behavior| behavior.scale_down.as_ref());
        let paced = memory.past.pace(view.now, current, None, down);
        // Machines that never became nodes go at once: nothing runs on them.
        let go = usize::try_from(current - paced.replicas).unwrap_or(0).max(late).min(victims.len());
        victims.truncate(go);
        if paced.held_by.is_some() && go < late + chosen.len() {
            verdict.limited = Some("behavior.scaleDown".to_owned());
        }
        let go = books.lower(&group.name, late, victims.len());
        if go < victims.len() {
            victims.truncate(go);
            verdict.limited = Some(books.spread.kept(&group.name));
        }
        if victims.is_empty() {
            return;
        }
        let gone = i32::try_from(victims.len()).unwrap_or(0);
        books.room.take(&group.name, -gone);
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
        self.found.unneeded.groups.get(&self.group.name).into_iter().flatten().filter(due).cloned().collect()
    }
}

enum Way {
    Up(i32, Why),
    Down(i32),
    /// Nothing but what never became a node may go.
    Stay,
    /// Nothing may go: something is not known.
    Hold,
    /// Nothing is changed.
    Held,
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
