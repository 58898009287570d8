//! The board: hints in memory that keep many machines out of each other's way. Which hosts are free, which machine
//! names which host, and who waits for one.
//!
//! Nothing in here is ever proof. A host that the board calls free may be taken, and the claim's two compare-and-swaps
//! will say so; a board that is empty, as after a restart, costs a few conflicts and nothing else.
//!
//! A host that becomes free wakes **one** waiting machine that may have it, the one that waits longest. If that machine
//! does not take the host after all (it took another, was paused, was deleted), the host is offered to the next. So N
//! hosts that are freed wake N machines, not N times all. Choosing and beginning to wait are one step under the
//! caller's lock: no host can become free unseen in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ferric_api::{BareMetalHost, BareMetalMachine};

use super::score::{self, Ask, Group, NoneFree, Rejection};
use crate::key::Key;

/// See the module.
#[derive(Debug, Default)]
pub struct Board {
    free: HashMap<String, BTreeMap<Key, Arc<BareMetalHost>>>,
    racks: HashMap<Key, String>,
    /// Hosts by the machine that they name as their consumer.
    consumers: HashMap<Key, BTreeSet<Key>>,
    consumer_of: HashMap<Key, Key>,
    placements: HashMap<Key, Placement>,
    named: HashMap<Key, BTreeSet<Key>>,
    groups: HashMap<Group, BTreeSet<Key>>,
    waiting: BTreeMap<u64, Waiter>,
    tickets: HashMap<Key, u64>,
    next_ticket: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Placement {
    group: Group,
    host: Key,
}

#[derive(Debug)]
struct Waiter {
    machine: Key,
    ask: Ask,
    /// The host that the machine was woken for and has not decided on yet.
    woken_for: Option<Key>,
}

impl Board {
    /// Takes in a host as the cache has it now. Returns the machines to wake: those that name it, and one that waits
    /// for it if it is free.
    pub fn host_changed(&mut self, host: &Arc<BareMetalHost>) -> Vec<Key> {
        let key = Key::of(&**host);
        match score::rack(host) {
            Some(rack) => self.racks.insert(key.clone(), rack.to_owned()),
            None => self.racks.remove(&key),
        };
        let free = self.free.entry(key.namespace.clone()).or_default();
        if score::occupied(host).is_none() {
            free.insert(key.clone(), host.clone());
        } else {
            free.remove(&key);
        }
        let mut wake = self.interested(&key, consumer(host));
        wake.extend(self.offer(&key));
        wake
    }

    /// A host is gone. Returns the machines to wake.
    pub fn host_gone(&mut self, host: &BareMetalHost) -> Vec<Key> {
        let key = Key::of(host);
        self.racks.remove(&key);
        if let Some(free) = self.free.get_mut(&key.namespace) {
            free.remove(&key);
        }
        self.interested(&key, None)
    }

    /// A host other than `except` that names the machine as its consumer: until it lets go, the machine takes no
    /// other. It is left from an intent that moved on at the very moment of the claim, or from a former machine of
    /// the same name.
    pub fn held_by(&self, machine: &Key, except: Option<&Key>) -> Option<Key> {
        self.consumers.get(machine)?.iter().find(|host| Some(*host) != except).cloned()
    }

    /// Takes in a machine as the cache has it now. Returns the machines to wake.
    pub fn machine_changed(&mut self, machine: &BareMetalMachine) -> Vec<Key> {
        let key = Key::of(machine);
        match &machine.spec.host_ref {
            Some(host) => self.place(&key, Group::of(machine), Key::new(&host.namespace, &host.name)),
            // A machine without a host may be about to write its intent: what this process placed stays.
            None => Vec::new(),
        }
    }

    /// A machine is gone. Returns the machines to wake.
    pub fn machine_gone(&mut self, machine: &Key) -> Vec<Key> {
        let mut wake = self.decided(machine);
        wake.extend(self.unplace(machine));
        wake
    }

    /// Chooses a host for a machine and notes that it will name it; or notes that it waits. Hosts that other machines
    /// name are passed over.
    pub fn choose(&mut self, machine: &Key, ask: &Ask) -> (Result<Key, Box<NoneFree>>, Vec<Key>) {
        let neighbours = self.neighbours(machine, &ask.group);
        let empty = BTreeMap::new();
        let free = self.free.get(&ask.namespace).unwrap_or(&empty);
        let chosen = score::choose(
            ask,
            free.values(),
            |rack| neighbours.get(rack).copied().unwrap_or(0),
            |host| self.named_by_another(&Key::of(host), machine),
        )
        .map(|host| Key::of(&**host));
        match chosen {
            Ok(host) => {
                let mut wake = self.place(machine, ask.group.clone(), host.clone());
                wake.extend(self.decided(machine));
                (Ok(host), wake)
            }
            Err(none) => {
                // What is not to be had now may be later, and is then worth waking up for.
                let wake = self.wait(machine, Ask { except: None, ..ask.clone() });
                (Err(Box::new(none)), wake)
            }
        }
    }

    /// Whether a machine names the host and is about to claim it. One that waits for a host names at most what it
    /// could not have, and keeps nobody else from it.
    pub fn is_named(&self, host: &Key) -> bool {
        self.named.get(host).is_some_and(|machines| machines.iter().any(|m| !self.tickets.contains_key(m)))
    }

    /// The machine's intent was not written: the host is on offer again. Returns the machines to wake.
    pub fn unplace(&mut self, machine: &Key) -> Vec<Key> {
        let Some(old) = self.placements.remove(machine) else { return Vec::new() };
        if let Some(group) = self.groups.get_mut(&old.group) {
            group.remove(machine);
            if group.is_empty() {
                self.groups.remove(&old.group);
            }
        }
        if let Some(machines) = self.named.get_mut(&old.host) {
            machines.remove(machine);
            if machines.is_empty() {
                self.named.remove(&old.host);
            }
        }
        self.offer(&old.host).into_iter().collect()
    }

    /// The machine no longer waits for a host, whatever it does instead. If it was woken for one, that one is offered
    /// to the next. Returns the machines to wake.
    pub fn decided(&mut self, machine: &Key) -> Vec<Key> {
        let Some(ticket) = self.tickets.remove(machine) else { return Vec::new() };
        let woken_for = self.waiting.remove(&ticket).and_then(|w| w.woken_for);
        woken_for.and_then(|host| self.offer(&host)).into_iter().collect()
    }

    /// How many machines wait for a host.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn wait(&mut self, machine: &Key, ask: Ask) -> Vec<Key> {
        if let Some(waiter) = self.tickets.get(machine).and_then(|t| self.waiting.get_mut(t)) {
            // It keeps its place in the queue.
            waiter.ask = ask;
            return match waiter.woken_for.take() {
                Some(host) => self.offer_except(&host, Some(machine)).into_iter().collect(),
                None => Vec::new(),
            };
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(machine.clone(), ticket);
        self.waiting.insert(ticket, Waiter { machine: machine.clone(), ask, woken_for: None });
        Vec::new()
    }

    fn place(&mut self, machine: &Key, group: Group, host: Key) -> Vec<Key> {
        let placement = Placement { group, host };
        if self.placements.get(machine) == Some(&placement) {
            return Vec::new();
        }
        let wake = self.unplace(machine);
        self.named.entry(placement.host.clone()).or_default().insert(machine.clone());
        self.groups.entry(placement.group.clone()).or_default().insert(machine.clone());
        self.placements.insert(machine.clone(), placement);
        wake
    }

    fn offer(&mut self, host: &Key) -> Option<Key> {
        self.offer_except(host, None)
    }

    /// Picks the machine that waits longest and may have the host, if the host is free and nobody names it.
    fn offer_except(&mut self, host: &Key, except: Option<&Key>) -> Option<Key> {
        let object = self.free.get(&host.namespace)?.get(host)?;
        if self.is_named(host) || self.waiting.values().any(|w| w.woken_for.as_ref() == Some(host)) {
            return None;
        }
        let waiter = self.waiting.values_mut().find(|w| {
            w.woken_for.is_none() && Some(&w.machine) != except && score::reject(&w.ask, object).is_none()
        })?;
        waiter.woken_for = Some(host.clone());
        Some(waiter.machine.clone())
    }

    /// Notes who the host's consumer is now. Returns the machines that a change of the host concerns: those that name
    /// it, its consumer and its former consumer.
    fn interested(&mut self, host: &Key, consumer: Option<Key>) -> Vec<Key> {
        let mut wake: BTreeSet<Key> = self.named.get(host).cloned().unwrap_or_default();
        let before = match &consumer {
            Some(machine) => self.consumer_of.insert(host.clone(), machine.clone()),
            None => self.consumer_of.remove(host),
        };
        if before != consumer {
            if let Some(before) = before {
                if let Some(hosts) = self.consumers.get_mut(&before) {
                    hosts.remove(host);
                    if hosts.is_empty() {
                        self.consumers.remove(&before);
                    }
                }
                wake.insert(before);
            }
            if let Some(machine) = &consumer {
                self.consumers.entry(machine.clone()).or_default().insert(host.clone());
            }
        }
        wake.extend(consumer);
        wake.into_iter().collect()
    }

    fn named_by_another(&self, host: &Key, machine: &Key) -> bool {
        let others = |m: &Key| m != machine && !self.tickets.contains_key(m);
        self.named.get(host).is_some_and(|machines| machines.iter().any(others))
    }

    /// How many machines of a group, other than this one, are placed in each rack.
    fn neighbours(&self, machine: &Key, group: &Group) -> HashMap<&str, usize> {
        let mut count = HashMap::new();
        for other in self.groups.get(group).into_iter().flatten().filter(|m| *m != machine) {
            let rack = self.placements.get(other).and_then(|p| self.racks.get(&p.host));
            if let Some(rack) = rack {
                *count.entry(rack.as_str()).or_default() += 1;
            }
        }
        count
    }
}

/// The machine that a host names as its consumer.
fn consumer(host: &BareMetalHost) -> Option<Key> {
    let consumer = host.spec.consumer_ref.as_ref()?;
    let is_machine = consumer.kind.as_deref() == Some(super::bound::CONSUMER_KIND);
    is_machine.then(|| Some(Key::new(consumer.namespace.clone()?, consumer.name.clone()?)))?
}

/// The sentence why no host is free, from a look at every host and not only at the free ones.
pub fn why_none<'a>(
    ask: &Ask,
    hosts: impl IntoIterator<Item = &'a Arc<BareMetalHost>>,
    named: impl Fn(&Key) -> bool,
) -> NoneFree {
    let mut none = NoneFree::new(ask);
    for host in hosts {
        match score::reject(ask, host) {
            Some((rejection, detail)) => none.count(rejection, detail),
            None if named(&Key::of(&**host)) => none.count(Rejection::Assumed, None),
            // Became free since the choice: the machine is woken for it.
            None => none.count(Rejection::JustFreed, None),
        }
    }
    none
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::claim::fixtures::{ask, free_host, host, machine};
    use ferric_api::machine::HostRef;
    use ferric_api::names;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    fn used(name: &str) -> Arc<BareMetalHost> {
        let mut host = free_host(name);
        host.spec.consumer_ref = Some(Default::default());
        Arc::new(host)
    }

    fn free(name: &str) -> Arc<BareMetalHost> {
        Arc::new(free_host(name))
    }

    #[test]
    fn two_machines_of_one_process_never_choose_the_same_host() {
        let mut board = Board::default();
        for name in ["a", "b"] {
            board.host_changed(&free(name));
        }
        let first = board.choose(&key("m1"), &ask("m1")).0.unwrap();
        let second = board.choose(&key("m2"), &ask("m2")).0.unwrap();
        assert_ne!(first, second);
        assert!(board.choose(&key("m3"), &ask("m3")).0.is_err());
        assert_eq!(board.waiting(), 1);
    }

    #[test]
    fn a_freed_host_wakes_the_machine_that_waits_longest_and_only_that() {
        let mut board = Board::default();
        for m in ["m1", "m2", "m3"] {
            assert!(board.choose(&key(m), &ask(m)).0.is_err());
        }
        assert_eq!(board.host_changed(&free("a")), [key("m1")]);
        // The same news again wakes nobody: m1 has not decided yet.
        assert_eq!(board.host_changed(&free("a")), []);
        assert_eq!(board.host_changed(&free("b")), [key("m2")]);
        assert_eq!(board.choose(&key("m1"), &ask("m1")).0.unwrap().namespace, "ns");
        assert_eq!(board.waiting(), 2);
    }

    #[test]
    fn a_host_that_the_woken_machine_leaves_is_offered_to_the_next() {
        let mut board = Board::default();
        for m in ["m1", "m2"] {
            assert!(board.choose(&key(m), &ask(m)).0.is_err());
        }
        assert_eq!(board.host_changed(&free("a")), [key("m1")]);
        assert_eq!(board.decided(&key("m1")), [key("m2")], "m1 was paused");
        assert_eq!(board.machine_gone(&key("m2")), [], "and m2 deleted: nobody is left");
        assert!(board.choose(&key("m3"), &ask("m3")).0.is_ok());
    }

    #[test]
    fn a_woken_machine_that_takes_another_host_passes_the_first_on() {
        let mut board = Board::default();
        for m in ["m1", "m2"] {
            assert!(board.choose(&key(m), &ask(m)).0.is_err());
        }
        assert_eq!(board.host_changed(&free("a")), [key("m1")]);
        assert_eq!(board.host_changed(&free("b")), [key("m2")]);
        // m1 may choose either of them; in both cases m2 finds the other one.
        let (first, _) = board.choose(&key("m1"), &ask("m1"));
        let (second, _) = board.choose(&key("m2"), &ask("m2"));
        assert_ne!(first.unwrap(), second.unwrap());
    }

    #[test]
    fn an_intent_that_was_not_written_frees_the_host_again() {
        let mut board = Board::default();
        board.host_changed(&free("a"));
        assert!(board.choose(&key("m1"), &ask("m1")).0.is_ok());
        assert!(board.choose(&key("m2"), &ask("m2")).0.is_err());
        assert_eq!(board.unplace(&key("m1")), [key("m2")]);
    }

    #[test]
    fn a_machine_that_waits_keeps_nobody_from_the_host_that_it_names() {
        let mut board = Board::default();
        let mut stuck = machine("m1");
        stuck.spec.host_ref = Some(HostRef { namespace: "ns".into(), name: "a".into() });
        board.machine_changed(&stuck);
        board.host_changed(&used("a"));
        let except = Ask { except: Some(key("a")), ..ask("m1") };
        assert!(board.choose(&key("m1"), &except).0.is_err());
        assert_eq!(board.host_changed(&free("a")), [key("m1"), key("m1")], "it names it, and it waits");
        assert_eq!(board.decided(&key("m1")), [], "it claims what it names");
        assert!(board.choose(&key("m2"), &ask("m2")).0.is_err());

        assert!(board.choose(&key("m1"), &except).0.is_err(), "it waits again");
        assert!(board.choose(&key("m2"), &ask("m2")).0.is_ok());
    }

    #[test]
    fn only_machines_that_may_have_the_host_are_woken() {
        let mut board = Board::default();
        let mut gpu = ask("m1");
        gpu.selector = crate::claim::fixtures::Hosts::selector(&[("class", "gpu")]);
        assert!(board.choose(&key("m1"), &gpu).0.is_err());
        assert!(board.choose(&key("m2"), &ask("m2")).0.is_err());
        assert_eq!(board.host_changed(&free("a")), [key("m2")]);
        assert_eq!(board.host_changed(&Arc::new(host("b", &[("class", "gpu")]))), [key("m1")]);
    }

    #[test]
    fn machines_of_a_group_are_spread_over_racks() {
        let mut board = Board::default();
        for i in 0..9 {
            let rack = format!("r{}", i % 3);
            board.host_changed(&Arc::new(host(&format!("h{i}"), &[(names::RACK_LABEL, &rack)])));
        }
        let mut count: HashMap<String, usize> = HashMap::new();
        for i in 0..6 {
            let chosen = board.choose(&key(&format!("m{i}")), &ask(&format!("m{i}"))).0.unwrap();
            *count.entry(board.racks[&chosen].clone()).or_default() += 1;
        }
        assert_eq!(count.values().copied().collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[test]
    fn what_other_processes_placed_counts_too() {
        let mut board = Board::default();
        for (name, rack) in [("h1", "r1"), ("h2", "r1"), ("h3", "r2")] {
            board.host_changed(&Arc::new(host(name, &[(names::RACK_LABEL, rack)])));
        }
        let mut other = machine("other");
        other.spec.host_ref = Some(HostRef { namespace: "ns".into(), name: "h1".into() });
        board.machine_changed(&other);
        let mut ask = ask("m");
        ask.group = Group::of(&other);
        assert_eq!(board.choose(&key("m"), &ask).0.unwrap(), key("h3"));
        assert_eq!(board.host_changed(&used("h1")), [key("other")]);
    }

    #[test]
    fn a_host_that_names_a_machine_is_known_until_it_lets_go() {
        let mut board = Board::default();
        let mut claimed = free_host("a");
        claimed.spec.consumer_ref = Some(ferric_api::host::ConsumerRef {
            kind: Some(super::super::bound::CONSUMER_KIND.into()),
            namespace: Some("ns".into()),
            name: Some("m".into()),
            ..Default::default()
        });
        assert_eq!(board.host_changed(&Arc::new(claimed)), [key("m")]);
        assert_eq!(board.held_by(&key("m"), None), Some(key("a")));
        assert_eq!(board.held_by(&key("m"), Some(&key("a"))), None);
        assert_eq!(board.host_changed(&free("a")), [key("m")], "its former consumer hears of it too");
        assert_eq!(board.held_by(&key("m"), None), None);
        assert!(board.consumers.is_empty() && board.consumer_of.is_empty());
    }
}
