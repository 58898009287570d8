//! What changes while pods are moved about in thought: who is where, what is free, how many are in which domain.
//!
//! Everything can be taken back: each change is written to a journal, and going back to a mark undoes it in reverse.
//! No copies are made to try something.

use super::bits::Bits;
use super::index::{Index, PODS};
use super::model::{HostPort, Node};
use super::profile::Profile;
use super::topology::{Domains, Key, SpreadTally, Tally};

/// A pod is nowhere.
pub(super) const UNPLACED: u32 = u32::MAX;

/// One change.
#[derive(Debug, Clone, Copy)]
enum Change {
    Put(u32, u32),
    Taken(u32, u32),
    Loaded(u32, u32),
    Added,
    Closed(u32),
    Spent(u32),
    Evicted(u32),
}

/// A point to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(usize);

/// Whether a class fits a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Yes.
    Fits,
    /// Not as long as pods only come.
    Never,
    /// Perhaps when other pods have come.
    NotYet,
}

/// The state of all nodes.
#[derive(Debug)]
pub(super) struct State {
    /// By resource, then by node.
    free: Vec<Vec<i64>>,
    /// By resource, then by block of 64 nodes: the most that one has.
    most: Vec<Vec<i64>>,
    ports: Vec<Vec<HostPort>>,
    pub(super) on: Vec<Vec<u32>>,
    pub(super) place: Vec<u32>,
    /// Nodes that may get pods.
    pub(super) open: Bits,
    fixed: Vec<Bits>,
    eligible: Vec<Bits>,
    keys: Vec<Key>,
    tallies: Vec<Tally>,
    domains: Vec<Domains>,
    spreads: Vec<SpreadTally>,
    /// What each budget still allows.
    pub(super) budgets: Vec<i32>,
    /// Pods that are evicted in thought.
    pub(super) evicted: Vec<bool>,
    journal: Vec<Change>,
}

impl State {
    /// No node yet, and no pod anywhere.
    pub(super) fn new(index: &Index<'_>) -> Self {
        let resources = index.resources.items.len();
        Self {
            free: vec![Vec::new(); resources],
            most: vec![Vec::new(); resources],
            ports: Vec::new(),
            on: Vec::new(),
            place: vec![UNPLACED; index.pods.len()],
            open: Bits::default(),
            fixed: vec![Bits::default(); index.fixed.items.len()],
            eligible: vec![Bits::default(); index.eligible.items.len()],
            keys: index.keys.items.iter().map(|&label| Key::new(label)).collect(),
            tallies: index.tallies.iter().map(|&key| Tally::new(key)).collect(),
            domains: index.domains.items.iter().map(|&(key, eligible)| Domains::new(key, eligible)).collect(),
            spreads: index.spreads.iter().map(|&domains| SpreadTally::new(domains)).collect(),
            budgets: index.budgets.iter().map(|budget| budget.allowed).collect(),
            evicted: vec![false; index.pods.len()],
            journal: Vec::new(),
        }
    }

    /// How many nodes there are.
    pub(super) fn len(&self) -> usize {
        self.on.len()
    }

    /// Adds a node; returns its number.
    pub(super) fn add(&mut self, node: &Node, profile: &Profile) -> usize {
        let at = self.len();
        for (resource, &room) in profile.all_room().iter().enumerate() {
            self.free[resource].push(room);
            if at.is_multiple_of(64) {
                self.most[resource].push(room);
            } else if let Some(most) = self.most[resource].last_mut() {
                *most = room.max(*most);
            }
        }
        self.ports.push(Vec::new());
        self.on.push(Vec::new());
        self.open.set(at, true);
        for (number, bits) in self.fixed.iter_mut().enumerate() {
            // Every word is there, set or not: sets are combined word by word.
            bits.set(at, true);
            bits.set(at, profile.meets(number));
        }
        for key in &mut self.keys {
            key.push(&node.labels);
        }
        for (number, bits) in self.eligible.iter_mut().enumerate() {
            bits.set(at, profile.counts(number));
        }
        for domains in &mut self.domains {
            if profile.counts(domains.eligible) {
                domains.add(self.keys[domains.key].of(at));
            }
        }
        self.journal.push(Change::Added);
        at
    }

    fn drop_last(&mut self) {
        let Some(at) = self.len().checked_sub(1) else { return };
        for domains in &mut self.domains {
            if self.eligible[domains.eligible].get(at) {
                domains.take(self.keys[domains.key].of(at));
            }
        }
        for bits in self.fixed.iter_mut().chain(&mut self.eligible) {
            bits.set(at, false);
        }
        self.open.set(at, false);
        for key in &mut self.keys {
            key.pop();
        }
        for resource in 0..self.free.len() {
            self.free[resource].pop();
            if at.is_multiple_of(64) {
                self.most[resource].pop();
            } else {
                self.recount(resource, at / 64);
            }
        }
        self.ports.pop();
        self.on.pop();
    }

    fn recount(&mut self, resource: usize, block: usize) {
        let nodes = self.free[resource].iter().skip(block * 64).take(64);
        self.most[resource][block] = nodes.copied().max().unwrap_or(0);
    }

    /// Puts a pod on a node, whether it fits or not.
    pub(super) fn put(&mut self, index: &Index<'_>, pod: usize, node: usize) {
        let class = index.class_of[pod];
        self.load(index, class, node, index.pods[pod].drain.terminating);
        self.place[pod] = number(node);
        self.on[node].push(number(pod));
        self.journal.push(Change::Put(number(pod), number(node)));
    }

    /// Takes a pod off its node.
    pub(super) fn take(&mut self, index: &Index<'_>, pod: usize) {
        let node = self.place[pod];
        if node != UNPLACED {
            self.lift(index, pod, node as usize);
            self.journal.push(Change::Taken(number(pod), node));
        }
    }

    fn lift(&mut self, index: &Index<'_>, pod: usize, node: usize) {
        self.unload(index, index.class_of[pod], node, index.pods[pod].drain.terminating);
        self.place[pod] = UNPLACED;
        if let Some(at) = self.on[node].iter().rposition(|&other| other as usize == pod) {
            self.on[node].swap_remove(at);
        }
    }

    /// Puts a daemon on a node.
    pub(super) fn put_daemon(&mut self, index: &Index<'_>, class: usize, node: usize) {
        self.load(index, class, node, false);
        self.journal.push(Change::Loaded(number(class), number(node)));
    }

    /// No more pods for a node: it is about to go. Its domain stays until then.
    pub(super) fn close(&mut self, node: usize) {
        if self.open.get(node) {
            self.open.set(node, false);
            self.journal.push(Change::Closed(number(node)));
        }
    }

    /// Takes one from what a budget allows.
    pub(super) fn spend(&mut self, budget: usize) {
        self.budgets[budget] -= 1;
        self.journal.push(Change::Spent(number(budget)));
    }

    /// Notes that a pod is evicted.
    pub(super) fn evict(&mut self, pod: usize) {
        if !self.evicted[pod] {
            self.evicted[pod] = true;
            self.journal.push(Change::Evicted(number(pod)));
        }
    }

    /// A point to go back to.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.journal.len())
    }

    /// Undoes what was done since a mark.
    pub(super) fn rollback(&mut self, index: &Index<'_>, mark: Mark) {
        while self.journal.len() > mark.0 {
            match self.journal.pop() {
                Some(Change::Put(pod, node)) => self.lift(index, pod as usize, node as usize),
                Some(Change::Taken(pod, node)) => {
                    self.put(index, pod as usize, node as usize);
                    self.journal.pop();
                }
                Some(Change::Loaded(class, node)) => self.unload(index, class as usize, node as usize, false),
                Some(Change::Added) => self.drop_last(),
                Some(Change::Closed(node)) => self.open.set(node as usize, true),
                Some(Change::Spent(budget)) => self.budgets[budget as usize] += 1,
                Some(Change::Evicted(pod)) => self.evicted[pod as usize] = false,
                None => break,
            }
        }
    }

    fn load(&mut self, index: &Index<'_>, class: usize, node: usize, leaving: bool) {
        let class = &index.classes[class];
        for &(resource, amount) in &class.need {
            let free = &mut self.free[resource][node];
            let old = *free;
            *free = free.saturating_sub(amount);
            if self.most[resource][node / 64] == old {
                self.recount(resource, node / 64);
            }
        }
        self.ports[node].extend_from_slice(&class.spec.ports);
        let effects = &index.effects[class.target];
        for &tally in effects.seen.iter().chain(&class.holds) {
            let tally = &mut self.tallies[tally];
            tally.add(self.keys[tally.key].of(node));
        }
        if !leaving {
            for &spread in &effects.spreads {
                let spread = &mut self.spreads[spread];
                let domains = &self.domains[spread.domains];
                if self.eligible[domains.eligible].get(node) {
                    spread.add(self.keys[domains.key].of(node));
                }
            }
        }
    }

    fn unload(&mut self, index: &Index<'_>, class: usize, node: usize, leaving: bool) {
        let class = &index.classes[class];
        for &(resource, amount) in &class.need {
            let free = &mut self.free[resource][node];
            *free = free.saturating_add(amount);
            let most = &mut self.most[resource][node / 64];
            *most = (*free).max(*most);
        }
        for port in &class.spec.ports {
            if let Some(at) = self.ports[node].iter().rposition(|taken| taken == port) {
                self.ports[node].swap_remove(at);
            }
        }
        let effects = &index.effects[class.target];
        for &tally in effects.seen.iter().chain(&class.holds) {
            let tally = &mut self.tallies[tally];
            tally.take(self.keys[tally.key].of(node));
        }
        if !leaving {
            for &spread in &effects.spreads {
                let spread = &mut self.spreads[spread];
                let domains = &self.domains[spread.domains];
                if self.eligible[domains.eligible].get(node) {
                    spread.take(self.keys[domains.key].of(node));
                }
            }
        }
    }

    /// How much of a resource is free on a node.
    pub(super) fn free(&self, resource: usize, node: usize) -> i64 {
        self.free[resource][node]
    }

    /// The open nodes that meet what does not change.
    pub(super) fn candidates(&self, fixed: usize) -> Bits {
        self.fixed[fixed].and(&self.open)
    }

    /// Whether a node meets what does not change.
    pub(super) fn meets(&self, fixed: usize, node: usize) -> bool {
        self.fixed[fixed].get(node)
    }

    /// The first of some nodes on which a class fits. Nodes on which it will not fit as long as pods only come are
    /// taken out of `among`.
    pub(super) fn first_fit(&self, index: &Index<'_>, class: usize, among: &mut Bits) -> Option<usize> {
        let need = &index.classes[class].need;
        for block in 0..among.0.len() {
            let mut word = among.0[block];
            if word == 0 {
                continue;
            }
            if need.iter().any(|&(resource, amount)| self.most[resource][block] < amount) {
                among.0[block] = 0;
                continue;
            }
            while word != 0 {
                let node = block * 64 + word.trailing_zeros() as usize;
                word &= word - 1;
                match self.judge(index, class, node) {
                    Verdict::Fits => return Some(node),
                    Verdict::Never => among.set(node, false),
                    Verdict::NotYet => {}
                }
            }
        }
        None
    }

    /// Whether a class fits a node that meets what does not change.
    pub(super) fn judge(&self, index: &Index<'_>, number: usize, node: usize) -> Verdict {
        let class = &index.classes[number];
        if class.spec.beyond.is_some()
            || class.need.iter().any(|&(resource, amount)| self.free[resource][node] < amount)
            || self.port_taken(&class.spec.ports, node)
            || self.holds_any(&class.anti, node)
            || self.holds_any(&index.effects[class.target].hostile, node)
        {
            return Verdict::Never;
        }
        let mut verdict = Verdict::Fits;
        for spread in &class.spreads {
            match self.skew(spread, node) {
                None => return Verdict::Never,
                Some(skew) if skew > spread.max_skew => verdict = Verdict::NotYet,
                Some(_) => {}
            }
        }
        match self.affinity(class, node) {
            None => Verdict::Never,
            Some(false) => Verdict::NotYet,
            Some(true) => verdict,
        }
    }

    /// Whether one of these ports is taken on a node.
    pub(super) fn port_taken(&self, ports: &[HostPort], node: usize) -> bool {
        !ports.is_empty()
            && ports.iter().any(|port| self.ports[node].iter().any(|taken| taken.conflicts(port)))
    }

    /// Whether one of these tallies has any in the domain of a node.
    pub(super) fn holds_any(&self, tallies: &[usize], node: usize) -> bool {
        tallies.iter().any(|&tally| {
            let tally = &self.tallies[tally];
            tally.any(self.keys[tally.key].of(node))
        })
    }

    /// How many more than in the emptiest domain would be in that of a node; `None` if it is in none.
    pub(super) fn skew(&self, spread: &super::index::SpreadUse, node: usize) -> Option<i64> {
        let domain = self.keys[spread.key].of(node);
        if domain == super::topology::NOWHERE {
            return None;
        }
        let Some(tally) = spread.tally else { return Some(spread.own) };
        let tally = &self.spreads[tally];
        let fewest = tally.fewest(self.domains[tally.domains].distinct, spread.min_domains);
        Some(i64::from(tally.count(domain)) + spread.own - i64::from(fewest))
    }

    /// Whether the pods that a class wants to be with are where a node is; `None` if the node lacks a label.
    pub(super) fn affinity(&self, class: &super::index::Class<'_>, node: usize) -> Option<bool> {
        let mut there = true;
        for &tally in &class.affinity {
            let tally = &self.tallies[tally];
            let domain = self.keys[tally.key].of(node);
            if domain == super::topology::NOWHERE {
                return None;
            }
            there &= tally.any(domain);
        }
        // The first of a series that wants to be together may go anywhere.
        let first =
            || class.affine_to_itself && class.affinity.iter().all(|&tally| self.tallies[tally].is_empty());
        Some(there || first())
    }

    /// Whether a class asks for more than a node of this kind has room for: places for pods, resources.
    pub(super) fn short(index: &Index<'_>, class: usize, room: impl Fn(usize) -> i64) -> (bool, Vec<usize>) {
        let short = index.classes[class].need.iter().filter(|&&(resource, amount)| room(resource) < amount);
        let all: Vec<usize> = short.map(|&(resource, _)| resource).collect();
        (all.contains(&PODS), all.into_iter().filter(|&resource| resource != PODS).collect())
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(UNPLACED)
}
