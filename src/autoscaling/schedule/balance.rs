//! How many nodes of groups there are in each domain of a topology: racks, zones. Numbers only; what they are named the caller
//! knows.

/// Where a group's nodes are in a topology, and how uneven it may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The topology.
    pub topology: usize,
    /// The domain of it.
    pub domain: usize,
    /// How many nodes more than the emptiest domain one may have, at least 1.
    pub max_skew: i32,
    /// Nodes beyond that are not added. Otherwise they are, where no other group of the topology can have them.
    pub hard: bool,
}

/// Nodes by topology and domain. One that it knows nothing of has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balance {
    nodes: Vec<Vec<i32>>,
}

impl Balance {
    /// Adds nodes, or takes some away, in each of some places.
    pub fn add(&mut self, places: &[Place], nodes: i32) {
        for (at, place) in places.iter().enumerate() {
            // A group with two rules about one topology is in it once.
            if places[..at].iter().any(|before| before.topology == place.topology) {
                continue;
            }
            if self.nodes.len() <= place.topology {
                self.nodes.resize_with(place.topology + 1, Vec::new);
            }
            let domains = &mut self.nodes[place.topology];
            if domains.len() <= place.domain {
                domains.resize(place.domain + 1, 0);
            }
            domains[place.domain] = domains[place.domain].saturating_add(nodes);
        }
    }

    /// Nodes of each domain of a topology.
    #[must_use]
    pub fn domains(&self, topology: usize) -> &[i32] {
        self.nodes.get(topology).map_or(&[], Vec::as_slice)
    }

    /// Nodes in the domain of a place.
    #[must_use]
    pub fn nodes(&self, place: &Place) -> i32 {
        self.domains(place.topology).get(place.domain).copied().unwrap_or(0)
    }

    /// How many nodes more than the emptiest domain this one would have with `more` of them.
    #[must_use]
    pub fn skew_with(&self, place: &Place, more: i32) -> i32 {
        let here = self.nodes(place).saturating_add(more);
        here - self.others(place).min().map_or(here, |fewest| fewest.min(here))
    }

    /// How many nodes fewer than the fullest domain this one would have without `fewer` of them.
    #[must_use]
    pub fn skew_without(&self, place: &Place, fewer: i32) -> i32 {
        let here = self.nodes(place).saturating_sub(fewer);
        self.others(place).max().map_or(here, |most| most.max(here)) - here
    }

    /// Whether one node more in these places is more than their rules allow.
    #[must_use]
    pub fn breaks(&self, places: &[Place]) -> bool {
        places.iter().any(|place| self.skew_with(place, 1) > place.max_skew)
    }

    /// Whether one node more in these places is refused.
    #[must_use]
    pub fn refuses(&self, places: &[Place]) -> bool {
        places.iter().any(|place| place.hard && self.skew_with(place, 1) > place.max_skew)
    }

    fn others(&self, place: &Place) -> impl Iterator<Item = i32> + '_ {
        let domains = self.domains(place.topology).iter().enumerate();
        let here = place.domain;
        domains.filter(move |(domain, _)| *domain != here).map(|(_, nodes)| *nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(domain: usize, max_skew: i32, hard: bool) -> Place {
        Place { topology: 1, domain, max_skew, hard }
    }

    #[test]
    fn a_domain_is_compared_with_the_others() {
        let mut balance = Balance::default();
        for (domain, nodes) in [(0, 3), (1, 2), (2, 0)] {
            balance.add(&[at(domain, 1, true)], nodes);
        }
        assert_eq!(balance.domains(1), [3, 2, 0]);
        let skews = |domain| {
            let place = at(domain, 1, true);
            (balance.skew_with(&place, 1), balance.skew_without(&place, 1))
        };
        assert_eq!([skews(0), skews(1), skews(2)], [(4, 0), (3, 2), (0, 4)]);
        assert!(balance.refuses(&[at(1, 2, true)]) && !balance.refuses(&[at(1, 3, true)]));
        assert!(balance.breaks(&[at(1, 2, false)]) && !balance.refuses(&[at(1, 2, false)]));
        balance.add(&[at(0, 1, true), at(0, 5, false)], -2);
        assert_eq!(balance.domains(1), [1, 2, 0], "two rules about one topology count once");
    }

    #[test]
    fn what_is_alone_or_unknown_is_even() {
        let balance = Balance::default();
        assert_eq!((balance.skew_with(&at(4, 1, true), 9), balance.skew_without(&at(4, 1, true), 9)), (0, 0));
        assert!(!balance.breaks(&[at(0, 1, true)]));
    }
}
