//! What a node is before any pod is on it: what it has, and which requirements it meets whatever else runs.

use super::bits::Bits;
use super::index::{Eligible, Fixed, Index};
use super::model::{Effect, Node, Taint};
use super::reason::Reason;
use super::select::NodeTerms;
use super::symbols::{Labels, Sym, Symbols};

/// What nodes of one kind have in common, worked out once.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    fixed: Bits,
    eligible: Bits,
    /// By resource.
    room: Vec<i64>,
}

/// A node that can be added any number of times.
#[derive(Debug, Clone)]
pub(super) struct Template {
    pub(super) node: Node,
    pub(super) profile: Profile,
    /// Classes of the daemons that run on it.
    pub(super) daemons: Vec<usize>,
}

impl Profile {
    /// Works out which fixed requirements a node meets.
    pub(super) fn of(index: &Index<'_>, node: &Node) -> Self {
        let symbols = &index.cluster.symbols;
        let affinities: Vec<bool> = index
            .affinities
            .items
            .iter()
            .map(|&affinity| matches_affinity(affinity, node, symbols))
            .collect();
        let tolerated: Vec<(bool, bool)> = index
            .tolerations
            .items
            .iter()
            .map(|list| {
                let tolerates = |taint: &Taint| list.iter().any(|toleration| toleration.tolerates(taint));
                (node.taints.iter().all(tolerates), !node.unschedulable || tolerates(&CORDON))
            })
            .collect();
        let mut fixed = Bits::default();
        for (at, requirement) in index.fixed.items.iter().enumerate() {
            let (taints, cordon) = tolerated[requirement.tolerations];
            let fits = !node.not_ready
                && taints
                && cordon
                && affinities[requirement.affinity]
                && index.volume_reason(requirement, node.name, &node.labels).is_none();
            fixed.set(at, fits);
        }
        let mut eligible = Bits::default();
        for (at, Eligible { keys, affinity, tolerations }) in index.eligible.items.iter().enumerate() {
            let counts = keys.iter().all(|&key| node.labels.get(index.keys.items[key]).is_some())
                && affinity.is_none_or(|affinity| affinities[affinity])
                && tolerations.is_none_or(|tolerations| tolerated[tolerations].0);
            eligible.set(at, counts);
        }
        let room = index.resources.items.iter().map(|&resource| amount(node, resource)).collect();
        Self { fixed, eligible, room }
    }

    /// Whether a node of this kind meets a fixed requirement.
    pub(super) fn meets(&self, fixed: usize) -> bool {
        self.fixed.get(fixed)
    }

    /// Whether a node of this kind counts for spread constraints with these conditions.
    pub(super) fn counts(&self, eligible: usize) -> bool {
        self.eligible.get(eligible)
    }

    /// How much a node of this kind has of every resource.
    pub(super) fn all_room(&self) -> &[i64] {
        &self.room
    }

    /// How much a node of this kind has of a resource.
    pub(super) fn room(&self, resource: usize) -> i64 {
        self.room.get(resource).copied().unwrap_or(0)
    }
}

/// What a cordon is to a pod that tolerates taints.
pub(super) const CORDON: Taint =
    Taint { key: Sym::UNSCHEDULABLE, value: Sym::EMPTY, effect: Effect::NoSchedule };

/// How much a node has of a resource.
pub(super) fn amount(node: &Node, resource: Sym) -> i64 {
    if resource == Sym::PODS {
        return node.max_pods;
    }
    let found = node.allocatable.binary_search_by_key(&resource, |&(name, _)| name);
    found.ok().and_then(|at| node.allocatable.get(at)).map_or(0, |&(_, amount)| amount)
}

/// Whether a node satisfies a node selector and a required node affinity.
pub(super) fn matches_affinity(
    (selector, affinity): (&Labels, Option<&NodeTerms>),
    node: &Node,
    symbols: &Symbols,
) -> bool {
    selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && affinity.is_none_or(|terms| terms.matches(node.name, &node.labels, symbols))
}

impl Template {
    /// A template and the daemons that it gets, whether there is room for them or not, as the DaemonSet controller does.
    pub(super) fn new(index: &Index<'_>, node: &Node) -> Self {
        let profile = Profile::of(index, node);
        let runs = |class: &usize| profile.meets(index.classes[*class].fixed);
        let daemons = index.daemons.iter().copied().filter(runs).collect();
        Self { node: node.clone(), profile, daemons }
    }
}

/// What does not change, as one reason; the caller found that it does not fit.
pub(super) fn fixed_reason(index: &Index<'_>, fixed: &Fixed, node: &Node) -> Option<Reason> {
    let symbols = &index.cluster.symbols;
    let list = index.tolerations.items[fixed.tolerations];
    let tolerates = |taint: &Taint| list.iter().any(|toleration| toleration.tolerates(taint));
    if node.not_ready {
        return Some(Reason::NotReady);
    }
    if node.unschedulable && !tolerates(&CORDON) {
        return Some(Reason::Unschedulable);
    }
    if let Some(taint) = node.taints.iter().find(|taint| !tolerates(taint)) {
        let (key, value) = (symbols.name(taint.key), symbols.name(taint.value));
        let equals = if value.is_empty() { "" } else { "=" };
        return Some(Reason::Taint(format!("{key}{equals}{value}:{}", taint.effect.name())));
    }
    (!matches_affinity(index.affinities.items[fixed.affinity], node, symbols)).then_some(Reason::NodeAffinity)
}
