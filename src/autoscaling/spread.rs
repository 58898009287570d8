//! How the nodes of groups are spread over racks and zones, as `placement.topologySpread` asks for it. Pure.
//!
//! The groups of a cluster that name the same label are balanced over its values. A group is in one domain: the value that all
//! its nodes have, or that its next node would have, or else the rack of its hosts. What counts is replicas, whether they are
//! nodes yet or not. A group whose nodes are in several domains, or in none that is known, is neither counted nor limited.

use std::collections::{BTreeMap, BTreeSet};

use ferric_api::autoscaling::UnsatisfiableAction;

use super::Group;
use super::schedule::balance::{Balance, Place};
use super::schedule::symbols::Sym;
use super::schedule::{Cluster, model};

/// Where the groups of a cluster are, while decisions are made one after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Spread {
    balance: Balance,
    /// By group.
    places: BTreeMap<String, Vec<Place>>,
    /// The label of each topology, and the names of its domains.
    topologies: Vec<(String, Vec<String>)>,
}

/// A group that is to be raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raise {
    /// The group.
    pub(super) group: String,
    /// By so many nodes.
    pub(super) by: i32,
    /// So many of them are not taken back, however uneven it becomes.
    pub(super) firm: i32,
}

impl Spread {
    /// Where the groups are now.
    pub(super) fn of(groups: &[Group], cluster: &Cluster) -> Self {
        let mut spread = Self::default();
        for group in groups.iter().filter(|group| group.counts()) {
            let rules = group.spec.placement.iter().flat_map(|placement| &placement.topology_spread);
            let places: Vec<Place> = rules
                .filter_map(|rule| {
                    let (topology, domain) =
                        spread.number(&rule.topology_key, domain(group, cluster, &rule.topology_key)?);
                    let hard = rule.when_unsatisfiable == UnsatisfiableAction::DoNotSchedule;
                    Some(Place { topology, domain, max_skew: rule.max_skew.max(1), hard })
                })
                .collect();
            spread.balance.add(&places, group.replicas);
            if !places.is_empty() {
                spread.places.insert(group.name.clone(), places);
            }
        }
        spread
    }

    /// Where a group is.
    pub(super) fn places(&self, group: &str) -> &[Place] {
        self.places.get(group).map_or(&[], Vec::as_slice)
    }

    /// How many nodes there are where.
    pub(super) fn balance(&self) -> &Balance {
        &self.balance
    }

    /// A group gets nodes, or gives them back.
    pub(super) fn take(&mut self, group: &str, nodes: i32) {
        if let Some(places) = self.places.get(group) {
            self.balance.add(places, nodes);
        }
    }

    /// Groups get nodes together, fewer where it would become more uneven than they allow: `by` is what they get.
    pub(super) fn raise(&mut self, raises: &mut [Raise]) {
        for raise in raises.iter() {
            self.take(&raise.group, raise.by);
        }
        // The fullest gives back first. That takes nothing from the emptiest, so others need not give back for it.
        loop {
            let excess = |raise: &Raise| {
                let hard = self.places(&raise.group).iter().filter(|place| place.hard);
                hard.map(|place| self.balance.skew_with(place, 0) - place.max_skew).max().unwrap_or(0)
            };
            let able = raises.iter().enumerate().filter(|(_, raise)| raise.by > raise.firm);
            let worst = able.map(|(at, raise)| (excess(raise), at)).max().filter(|(excess, _)| *excess > 0);
            let Some((excess, at)) = worst else { return };
            let back = excess.min(raises[at].by - raises[at].firm);
            raises[at].by -= back;
            self.take(&raises[at].group.clone(), -back);
        }
    }

    /// Whether a node of a group stays since one of a fuller domain is to go first; `able` says how many nodes of a group
    /// could go. One that is in an emptier domain by another rule is not waited for: it could be waiting for this one.
    pub(super) fn keeps(&self, group: &str, able: &BTreeMap<String, i32>) -> bool {
        let emptier = |other: &Place, place: &Place| {
            let nodes = |place| self.balance.nodes(place);
            (place.hard || other.hard) && other.topology == place.topology && nodes(other) < nodes(place)
        };
        let in_emptier = |other: &str| {
            let mut others = self.places(other).iter();
            others.any(|other| self.places(group).iter().any(|place| emptier(other, place)))
        };
        let fuller = |place: &Place| {
            let mut able = able.iter().filter(|(_, nodes)| **nodes > 0).map(|(other, _)| other);
            able.any(|other| {
                self.places(other).iter().any(|other| emptier(place, other)) && !in_emptier(other)
            })
        };
        let hard = self.places(group).iter().filter(|place| place.hard);
        hard.filter(|place| self.balance.skew_without(place, 1) > place.max_skew).any(fuller)
    }

    /// Why a group does not get a node more, if that is so.
    pub(super) fn refuses(&self, group: &str) -> Option<String> {
        let mut hard = self.places(group).iter().filter(|place| place.hard);
        hard.find(|place| self.balance.skew_with(place, 1) > place.max_skew).map(|place| self.said(place))
    }

    /// A rule and how uneven it is now, for people.
    fn said(&self, place: &Place) -> String {
        let (key, names) = &self.topologies[place.topology];
        let nodes = self.balance.domains(place.topology);
        let emptiest = names.iter().zip(nodes).min_by_key(|(_, nodes)| **nodes);
        let emptiest = emptiest.map(|(name, nodes)| format!(", {name} {nodes}")).unwrap_or_default();
        format!(
            "placement.topologySpread: of {key} {} has {} nodes{emptiest}, and maxSkew is {}",
            names[place.domain],
            self.balance.nodes(place),
            place.max_skew
        )
    }

    /// Why a group keeps a node that [`keeps`](Self::keeps) keeps.
    pub(super) fn kept(&self, group: &str) -> String {
        let places = self.places(group).iter().filter(|place| place.hard);
        let place = places.max_by_key(|place| self.balance.skew_without(place, 1) - place.max_skew);
        let key = place.map(|place| self.topologies[place.topology].0.as_str()).unwrap_or_default();
        format!("placement.topologySpread: a node of a fuller domain of {key} goes first")
    }

    /// Numbers of a topology and of a domain of it, new or known.
    fn number(&mut self, key: &str, domain: String) -> (usize, usize) {
        let topology = self.topologies.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
            self.topologies.push((key.to_owned(), Vec::new()));
            self.topologies.len() - 1
        });
        let names = &mut self.topologies[topology].1;
        let number = names.iter().position(|known| *known == domain).unwrap_or_else(|| {
            names.push(domain);
            names.len() - 1
        });
        (topology, number)
    }
}

/// The domain of a topology that a group is in.
fn domain(group: &Group, cluster: &Cluster, key: &str) -> Option<String> {
    let symbols = cluster.symbols();
    let key = symbols.get(key);
    let value = |node: &model::Node| -> Option<Sym> { node.labels.get(key?) };
    let staying = group.machines.iter().filter(|machine| !machine.deleting);
    let nodes = staying.filter_map(|machine| cluster.node(machine.node.as_deref()?));
    let known: BTreeSet<Sym> = nodes.filter_map(value).collect();
    let mut known = known.into_iter();
    match (known.next(), known.next()) {
        (Some(_), Some(_)) => None,
        (Some(one), None) => Some(symbols.name(one).to_owned()),
        (None, _) => {
            let next = group.template.as_ref().and_then(value).map(|value| symbols.name(value).to_owned());
            next.or_else(|| group.domain.clone())
        }
    }
}

#[cfg(test)]
#[path = "spread_tests.rs"]
mod tests;
