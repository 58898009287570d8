//! Counting pods by domain, kept up to date pod by pod.
//!
//! A domain is a value of a label of nodes. kube-scheduler counts anew for each pod; here a pod that comes or goes
//! changes the few numbers that its labels concern.

use super::symbols::{IndexMap, Labels, Sym};

/// A node without the label is in no domain.
pub(super) const NOWHERE: u32 = u32::MAX;

/// The domains of one label.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// The label.
    pub(super) label: Sym,
    domains: IndexMap<Sym, u32>,
    next: u32,
    of_node: Vec<u32>,
}

impl Key {
    pub(super) fn new(label: Sym) -> Self {
        Self { label, domains: IndexMap::default(), next: 0, of_node: Vec::new() }
    }

    /// The domain of the next node. A node that does not exist yet has a host name of its own.
    pub(super) fn push(&mut self, labels: &Labels) {
        let domain = match labels.get(self.label) {
            None => NOWHERE,
            Some(Sym::NEW_NODE) => self.fresh(),
            Some(value) => match self.domains.get(&value) {
                Some(&domain) => domain,
                None => {
                    let domain = self.fresh();
                    self.domains.insert(value, domain);
                    domain
                }
            },
        };
        self.of_node.push(domain);
    }

    fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    /// Forgets the last node. Its domain, if it was the only one there, stays known and empty.
    pub(super) fn pop(&mut self) {
        self.of_node.pop();
    }

    /// The domain of a node, or [`NOWHERE`].
    pub(super) fn of(&self, node: usize) -> u32 {
        self.of_node.get(node).copied().unwrap_or(NOWHERE)
    }
}

/// How many pods in each domain.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Which label.
    pub(super) key: usize,
    counts: IndexMap<u32, u32>,
}

impl Tally {
    pub(super) fn new(key: usize) -> Self {
        Self { key, counts: IndexMap::default() }
    }

    /// One more.
    pub(super) fn add(&mut self, domain: u32) {
        if domain != NOWHERE {
            *self.counts.entry(domain).or_default() += 1;
        }
    }

    /// One less.
    pub(super) fn take(&mut self, domain: u32) {
        if let Some(count) = self.counts.get_mut(&domain) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&domain);
            }
        }
    }

    /// Whether any is in a domain.
    pub(super) fn any(&self, domain: u32) -> bool {
        self.counts.contains_key(&domain)
    }

    /// Whether there is none in any domain.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

/// The domains over which some pods are spread: those of the nodes that count for them.
#[derive(Debug, Clone)]
pub(super) struct Domains {
    /// Which label.
    pub(super) key: usize,
    /// Which nodes count.
    pub(super) eligible: usize,
    /// How many such nodes in each domain.
    nodes: Vec<u32>,
    /// How many domains have such a node.
    pub(super) distinct: usize,
}

impl Domains {
    pub(super) fn new(key: usize, eligible: usize) -> Self {
        Self { key, eligible, nodes: Vec::new(), distinct: 0 }
    }

    /// A node more in a domain.
    pub(super) fn add(&mut self, domain: u32) {
        let at = domain as usize;
        if domain == NOWHERE {
            return;
        }
        if at >= self.nodes.len() {
            self.nodes.resize(at + 1, 0);
        }
        self.distinct += usize::from(self.nodes[at] == 0);
        self.nodes[at] += 1;
    }

    /// A node less.
    pub(super) fn take(&mut self, domain: u32) {
        if let Some(count) = self.nodes.get_mut(domain as usize).filter(|count| **count > 0) {
            *count -= 1;
            self.distinct -= usize::from(*count == 0);
        }
    }
}

/// How many pods in each of some [`Domains`], and how many in the emptiest.
#[derive(Debug, Clone)]
pub(super) struct SpreadTally {
    /// Over which domains.
    pub(super) domains: usize,
    counts: IndexMap<u32, u32>,
    /// How many domains have so many pods; from 1 up.
    levels: Vec<u32>,
    /// The lowest level that is not 0, or 0 if all are.
    floor: u32,
}

impl SpreadTally {
    pub(super) fn new(domains: usize) -> Self {
        Self { domains, counts: IndexMap::default(), levels: vec![0], floor: 0 }
    }

    /// One more.
    pub(super) fn add(&mut self, domain: u32) {
        if domain == NOWHERE {
            return;
        }
        let count = self.counts.entry(domain).or_default();
        let (old, new) = (*count as usize, *count as usize + 1);
        *count += 1;
        if new >= self.levels.len() {
            self.levels.resize(new + 1, 0);
        }
        self.levels[new] += 1;
        if old == 0 {
            self.floor = 1;
        } else {
            self.levels[old] -= 1;
            // The domain was the last on the floor, and is now one above it.
            if self.levels[self.floor as usize] == 0 {
                self.floor += 1;
            }
        }
    }

    /// One less.
    pub(super) fn take(&mut self, domain: u32) {
        let Some(count) = self.counts.get_mut(&domain) else { return };
        let old = *count as usize;
        *count -= 1;
        self.levels[old] -= 1;
        if old > 1 {
            self.levels[old - 1] += 1;
            self.floor = self.floor.min(*count);
            return;
        }
        self.counts.remove(&domain);
        let lowest = self.levels.iter().skip(1).position(|&domains| domains > 0);
        self.floor = lowest.map_or(0, |at| u32::try_from(at + 1).unwrap_or(u32::MAX));
    }

    /// How many are in a domain.
    pub(super) fn count(&self, domain: u32) -> u32 {
        self.counts.get(&domain).copied().unwrap_or(0)
    }

    /// How many are in the emptiest of so many domains; 0 if there are fewer than wanted.
    pub(super) fn fewest(&self, distinct: usize, min_domains: i32) -> u32 {
        let enough = i64::try_from(distinct).unwrap_or(i64::MAX) >= i64::from(min_domains);
        if enough && self.counts.len() >= distinct { self.floor } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against counting anew each time.
        #[test]
        fn the_emptiest_domain_is_right_after_any_history(steps in prop::collection::vec((0_u32..5, any::<bool>()), 0..80)) {
            let mut tally = SpreadTally::new(0);
            let mut counts: BTreeMap<u32, u32> = (0..5).map(|domain| (domain, 0)).collect();
            for (domain, more) in steps {
                let count = counts.get_mut(&domain).unwrap();
                if more {
                    *count += 1;
                    tally.add(domain);
                } else {
                    *count = count.saturating_sub(1);
                    tally.take(domain);
                }
                prop_assert_eq!(tally.fewest(5, 1), *counts.values().min().unwrap());
                prop_assert_eq!(tally.fewest(6, 1), 0);
                prop_assert_eq!(tally.fewest(5, 6), 0);
                for (&domain, &count) in &counts {
                    prop_assert_eq!(tally.count(domain), count);
                }
            }
        }
    }

    #[test]
    fn a_domain_is_there_while_a_node_of_it_is() {
        let mut domains = Domains::new(0, 0);
        domains.add(3);
        domains.add(3);
        domains.add(NOWHERE);
        assert_eq!(domains.distinct, 1);
        domains.take(3);
        assert_eq!(domains.distinct, 1);
        domains.take(3);
        domains.take(3);
        assert_eq!(domains.distinct, 0);
    }
}
