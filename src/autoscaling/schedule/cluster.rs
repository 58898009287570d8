//! A workload cluster as it is known: fed object by object, asked by a [`Simulation`](super::Simulation).
//!
//! Kept between decisions: a watch puts and removes objects, and each decision looks at what is there. Objects are kept
//! by name, so what a decision finds does not depend on the order in which they came. Strings and specs of objects that
//! are gone stay until [`Cluster::garbage`] says that it is worth to start anew from the API objects.

use std::collections::{BTreeMap, HashMap};

use super::model::{Beyond, Budget, Claim, Daemon, Node, Pod, Spec, StorageClass, Taint, Volume};
use super::symbols::{Labels, Pool, Sym, Symbols};

/// All that a simulation needs to know of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    pub(super) symbols: Symbols,
    pub(super) specs: Pool<Spec>,
    pub(super) labels: Pool<Labels>,
    /// By `namespace/name`.
    pub(super) pods: BTreeMap<Box<str>, Pod>,
    /// By name.
    pub(super) nodes: BTreeMap<Box<str>, Node>,
    /// By `namespace/name`.
    pub(super) budgets: BTreeMap<Box<str>, Budget>,
    /// By `namespace/name`.
    pub(super) daemons: BTreeMap<Box<str>, Daemon>,
    pub(super) namespaces: HashMap<Sym, Labels>,
    pub(super) claims: HashMap<(Sym, Sym), Claim>,
    pub(super) volumes: HashMap<Sym, Volume>,
    pub(super) classes: HashMap<Sym, StorageClass>,
}

/// How an object is known: `namespace/name`.
pub(super) fn key(namespace: &str, name: &str) -> Box<str> {
    format!("{namespace}/{name}").into_boxed_str()
}

impl Cluster {
    /// The strings, to read indices as names.
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// The strings, to make parts of the model by hand.
    pub fn symbols_mut(&mut self) -> &mut Symbols {
        &mut self.symbols
    }

    /// The index of a spec.
    pub fn spec(&mut self, spec: Spec) -> u32 {
        self.specs.intern(spec)
    }

    /// The index of a set of labels.
    pub fn label_set(&mut self, labels: Labels) -> u32 {
        self.labels.intern(labels)
    }

    /// The spec of a pod.
    pub fn spec_of(&self, pod: &Pod) -> Option<&Spec> {
        self.specs.get(pod.spec)
    }

    /// Adds or replaces a pod.
    pub fn insert_pod(&mut self, pod: Pod) {
        self.pods.insert(key(self.symbols.name(pod.namespace), &pod.name), pod);
    }

    /// Adds or replaces a node.
    pub fn insert_node(&mut self, node: Node) {
        self.nodes.insert(self.symbols.name(node.name).into(), node);
    }

    /// Takes those taints off a node whose keys are `gone`.
    pub fn untaint(&mut self, node: &str, gone: impl Fn(&str) -> bool) {
        if let Some(node) = self.nodes.get_mut(node) {
            let stays = |taint: &&Taint| !gone(self.symbols.name(taint.key));
            node.taints = node.taints.iter().filter(stays).copied().collect();
        }
    }

    /// Gives a node the labels, and of devices the amounts, that another has and it lacks.
    pub fn complete(&mut self, node: &str, like: &Node) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        let labels = like.labels.iter().filter(|(key, _)| *key != Sym::HOSTNAME);
        node.labels = Labels::new(node.labels.iter().chain(labels).collect());
        // What is of nobody has no slash in its name: processors, memory, disk.
        let device = |resource: Sym| self.symbols.name(resource).contains('/');
        let mut amounts: BTreeMap<Sym, i64> = node.allocatable.iter().copied().collect();
        for (resource, amount) in like.allocatable.iter().filter(|(resource, _)| device(*resource)) {
            amounts.entry(*resource).or_insert(*amount);
        }
        node.allocatable = amounts.into_iter().collect();
    }

    /// Adds or replaces a budget.
    pub fn insert_budget(&mut self, budget: Budget) {
        self.budgets.insert(key(self.symbols.name(budget.namespace), &budget.name), budget);
    }

    /// Adds or replaces the daemon of a DaemonSet of this name.
    pub fn insert_daemon(&mut self, name: &str, daemon: Daemon) {
        self.daemons.insert(key(self.symbols.name(daemon.namespace), name), daemon);
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        self.pods.remove(&key(namespace, name));
    }

    /// Forgets a node. Pods bound to it count nowhere.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// Forgets a budget.
    pub fn remove_budget(&mut self, namespace: &str, name: &str) {
        self.budgets.remove(&key(namespace, name));
    }

    /// Forgets a DaemonSet.
    pub fn remove_daemon_set(&mut self, namespace: &str, name: &str) {
        self.daemons.remove(&key(namespace, name));
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        if let Some(sym) = self.symbols.get(name) {
            self.namespaces.remove(&sym);
        }
    }

    /// Forgets a claim.
    pub fn remove_claim(&mut self, namespace: &str, name: &str) {
        if let (Some(namespace), Some(name)) = (self.symbols.get(namespace), self.symbols.get(name)) {
            self.claims.remove(&(namespace, name));
        }
    }

    /// Forgets a volume.
    pub fn remove_volume(&mut self, name: &str) {
        if let Some(sym) = self.symbols.get(name) {
            self.volumes.remove(&sym);
        }
    }

    /// Forgets a storage class.
    pub fn remove_storage_class(&mut self, name: &str) {
        if let Some(sym) = self.symbols.get(name) {
            self.classes.remove(&sym);
        }
    }

    /// The nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(name, node)| (&**name, node))
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The pods on a node and their namespaces.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = (&str, &Pod)> {
        let node = self.symbols.get(node);
        let on = self.pods.values().filter(move |pod| node.is_some() && pod.node == node);
        on.map(|pod| (self.symbols.name(pod.namespace), pod))
    }

    /// A node that could be added, like one that is there.
    pub fn another(&self, node: &str) -> Option<Node> {
        self.nodes.get(node).cloned().map(Node::another)
    }

    /// The pods, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Whether a pod waits for a node: not bound, not leaving, not held back by a gate.
    pub fn waits(&self, pod: &Pod) -> bool {
        pod.node.is_none()
            && !pod.drain.terminating
            && self.spec_of(pod).is_some_and(|spec| spec.beyond != Some(Beyond::Gated))
    }

    /// How many sets of labels and specs are kept of which no object of now makes use, among how many.
    pub fn garbage(&self) -> (usize, usize) {
        let mut labels = vec![false; self.labels.len()];
        let mut specs = vec![false; self.specs.len()];
        let mut mark = |label: u32, spec: u32| {
            if let Some(used) = labels.get_mut(label as usize) {
                *used = true;
            }
            if let Some(used) = specs.get_mut(spec as usize) {
                *used = true;
            }
        };
        self.pods.values().for_each(|pod| mark(pod.labels, pod.spec));
        self.daemons.values().for_each(|daemon| mark(daemon.labels, daemon.spec));
        let unused = labels.iter().chain(&specs).filter(|&&used| !used).count();
        (unused, labels.len() + specs.len())
    }
}
