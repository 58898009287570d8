//! Groups that are decided about together: what they share while it is decided. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ferric_api::autoscaling::ActuationMode;

use super::down::{self, Unneeded};
use super::schedule::{Cluster, Simulation};
use super::spread::{Raise, Spread};
use super::up::{self, Needs};
use super::view::{GroupMemory, Memory, View};
use super::{Group, Room};

/// The side that decides about a group.
pub(super) fn of<'s, 'a>(sides: &'s mut [Option<Side<'a>>; 2], group: &Group) -> Option<&'s mut Side<'a>> {
    let [acting, advising] = sides;
    if acts(group) { acting.as_mut() } else { advising.as_mut() }
}

/// Whether the group's number follows what is decided.
pub(super) fn acts(group: &Group) -> bool {
    group.spec.actuation_mode != ActuationMode::Recommend
}

/// Groups that are decided about together: what one of them takes, another has not.
pub(super) struct Side<'a> {
    /// What was found of pods and nodes.
    pub(super) found: Found,
    pub(super) books: Books<'a>,
    /// Nodes that are going and cannot be emptied, and why.
    pub(super) stuck: BTreeMap<String, String>,
}

/// What pods need, and what they do not.
pub(super) struct Found {
    pub(super) needs: Needs,
    pub(super) unneeded: Unneeded,
}

/// What is taken and given while it is decided.
pub(super) struct Books<'a> {
    pub(super) room: Room,
    pub(super) spread: Spread,
    /// One for all: the nodes that one of them gives up are no place for the pods of another's.
    pub(super) proven: Simulation<'a>,
    /// Groups that are to be raised.
    pub(super) raises: Vec<Raise>,
    /// How many nodes of a group could go.
    pub(super) able: BTreeMap<String, i32>,
}

impl Books<'_> {
    /// Of Machines of a group that are to go, how many do: not those that are to wait for a node of a fuller domain. The first of
    /// them were late, and go.
    pub(super) fn lower(&mut self, group: &str, late: usize, victims: usize) -> usize {
        let mut go = late;
        self.spread.take(group, -i32::try_from(late).unwrap_or(0));
        while go < victims && !self.spread.keeps(group, &self.able) {
            self.spread.take(group, -1);
            self.able.entry(group.to_owned()).and_modify(|able| *able -= 1);
            go += 1;
        }
        go
    }
}

impl<'a> Side<'a> {
    /// None where there is no group.
    pub(super) fn of(
        view: &View<'_>,
        cluster: &'a Cluster,
        memory: &Memory,
        members: &[&Group],
        spread: &Spread,
    ) -> Option<Self> {
        if members.is_empty() {
            return None;
        }
        let room = Room::of(view.policies, view.groups, view.now);
        let needs = pods(view, cluster, memory, (&room, spread), members);
        let (mut proven, stuck) = settled(view, cluster);
        let mark = proven.mark();
        let unneeded = down::unneeded(&mut proven, members, view.nodes, spread, view.now);
        proven.rollback(mark);
        let books = Books { room, spread: spread.clone(), proven, raises: Vec::new(), able: BTreeMap::new() };
        Some(Self { found: Found { needs, unneeded }, books, stuck })
    }
}

/// Until when a group is left alone since its machines did not become nodes.
pub(super) fn backed_off(
    view: &View<'_>,
    group: &Group,
    memory: Option<&GroupMemory>,
) -> Option<jiff::Timestamp> {
    let until = memory?.failures.until(&group.spec.provisioning.backoff)?;
    (until > view.now).then_some(until)
}

/// What pods that wait need, of those of these groups that may be raised. One that is left alone can still take back nodes.
fn pods(
    view: &View<'_>,
    cluster: &Cluster,
    memory: &Memory,
    (room, spread): (&Room, &Spread),
    members: &[&Group],
) -> Needs {
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
    let rules = up::Rules { expanders, room, spread, now: view.now };
    up::needs(&mut cluster.simulate(), view.groups, &able, &rules)
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
