//! Which machine is concerned when a Machine or a Cluster changes, and whether the change matters at all: Cluster API
//! writes their status often, and nearly always about something that no plan looks at.

use std::collections::{BTreeSet, HashMap};

use crate::capi::{Cluster, Machine};
use crate::key::Key;

/// See the module. All keys carry the namespace; owners and clusters are in their machine's namespace.
#[derive(Debug, Default)]
pub struct OwnerIndex {
    of_machine: HashMap<Key, (Option<Key>, Option<Key>)>,
    by_owner: HashMap<Key, BTreeSet<Key>>,
    by_cluster: HashMap<Key, BTreeSet<Key>>,
    owners: HashMap<Key, OwnerGist>,
    clusters: HashMap<Key, ClusterGist>,
}

/// What a plan reads of a Machine.
#[derive(Debug, PartialEq)]
struct OwnerGist {
    cluster: String,
    secret: Option<String>,
    failure_domain: Option<String>,
    deleting: bool,
}

/// What a plan reads of a Cluster.
#[derive(Debug, PartialEq)]
struct ClusterGist {
    paused: bool,
    provisioned: bool,
}

impl OwnerIndex {
    /// Notes the owner and the cluster of a machine.
    pub fn set(&mut self, machine: &Key, owner: Option<Key>, cluster: Option<Key>) {
        let links = (owner, cluster);
        if self.of_machine.get(machine) == Some(&links) {
            return;
        }
        self.remove(machine);
        if let Some(owner) = &links.0 {
            self.by_owner.entry(owner.clone()).or_default().insert(machine.clone());
        }
        if let Some(cluster) = &links.1 {
            self.by_cluster.entry(cluster.clone()).or_default().insert(machine.clone());
        }
        self.of_machine.insert(machine.clone(), links);
    }

    /// Forgets a machine.
    pub fn remove(&mut self, machine: &Key) {
        let Some((owner, cluster)) = self.of_machine.remove(machine) else { return };
        for (map, key) in [(&mut self.by_owner, owner), (&mut self.by_cluster, cluster)] {
            let Some(key) = key else { continue };
            if let Some(machines) = map.get_mut(&key) {
                machines.remove(machine);
                if machines.is_empty() {
                    map.remove(&key);
                }
            }
        }
    }

    /// A Machine is there or changed. Returns the machines that it concerns, none if nothing that matters changed.
    pub fn owner_changed(&mut self, owner: &Machine) -> Vec<Key> {
        let key = Key::of(owner);
        let gist = OwnerGist {
            cluster: owner.spec.cluster_name.clone(),
            secret: owner.spec.bootstrap.data_secret_name.clone(),
            failure_domain: owner.spec.failure_domain.clone(),
            deleting: owner.metadata.deletion_timestamp.is_some(),
        };
        if self.owners.get(&key) == Some(&gist) {
            return Vec::new();
        }
        let machines = keys(self.by_owner.get(&key));
        self.owners.insert(key, gist);
        machines
    }

    /// A Machine is gone. Returns the machines that it concerns.
    pub fn owner_gone(&mut self, owner: &Key) -> Vec<Key> {
        self.owners.remove(owner);
        keys(self.by_owner.get(owner))
    }

    /// A Cluster is there or changed. Returns the machines that it concerns, none if nothing that matters changed.
    pub fn cluster_changed(&mut self, cluster: &Cluster) -> Vec<Key> {
        let key = Key::of(cluster);
        let gist =
            ClusterGist { paused: cluster.is_paused(), provisioned: cluster.infrastructure_provisioned() };
        if self.clusters.get(&key) == Some(&gist) {
            return Vec::new();
        }
        let machines = keys(self.by_cluster.get(&key));
        self.clusters.insert(key, gist);
        machines
    }

    /// A Cluster is gone. Returns the machines that it concerns.
    pub fn cluster_gone(&mut self, cluster: &Key) -> Vec<Key> {
        self.clusters.remove(cluster);
        keys(self.by_cluster.get(cluster))
    }
}

fn keys(set: Option<&BTreeSet<Key>>) -> Vec<Key> {
    set.into_iter().flatten().cloned().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::claim::fixtures::{cluster, owner};

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    #[test]
    fn only_what_a_plan_reads_wakes_a_machine() {
        let mut index = OwnerIndex::default();
        index.set(&key("bmm"), Some(key("m")), Some(key("prod")));
        let mut machine = owner("m");
        assert_eq!(index.owner_changed(&machine), [key("bmm")]);
        machine.metadata.resource_version = Some("99".into());
        assert_eq!(index.owner_changed(&machine), []);
        machine.spec.failure_domain = Some("rack-1".into());
        assert_eq!(index.owner_changed(&machine), [key("bmm")]);

        let mut cluster = cluster();
        assert_eq!(index.cluster_changed(&cluster), [key("bmm")]);
        assert_eq!(index.cluster_changed(&cluster), []);
        cluster.spec.paused = Some(true);
        assert_eq!(index.cluster_changed(&cluster), [key("bmm")]);
        assert_eq!(index.cluster_gone(&key("prod")), [key("bmm")]);
    }

    #[test]
    fn a_machine_that_is_gone_or_changed_hands_is_not_woken() {
        let mut index = OwnerIndex::default();
        index.set(&key("bmm"), Some(key("m")), None);
        index.set(&key("bmm"), Some(key("other")), None);
        assert_eq!(index.owner_changed(&owner("m")), []);
        index.remove(&key("bmm"));
        assert_eq!(index.owner_changed(&owner("other")), []);
        assert!(index.by_owner.is_empty() && index.of_machine.is_empty());
    }
}
