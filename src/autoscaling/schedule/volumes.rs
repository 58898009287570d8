//! Where a pod can be because of its volumes: the filters VolumeBinding and VolumeZone.

use super::cluster::Cluster;
use super::from_api_storage::ZONE_LABELS;
use super::index::{Fixed, Index};
use super::model::Claim;
use super::reason::Reason;
use super::select::NodeTerms;
use super::symbols::{Labels, Sym};

/// What must be true of a node for a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum VolumeRule<'a> {
    /// Its volume is reached from such nodes.
    Reach(&'a NodeTerms),
    /// The volume can be made for such nodes.
    Make(Sym, &'a NodeTerms),
    /// It is being made for this one.
    Selected(Sym, Sym),
    /// Its zone: the volume's label, the same label of nodes, the values that will do.
    Zone(Sym, Sym, &'a [Sym]),
    /// None will do.
    Never(Sym),
}

/// What must be true of a node for the volume of a claim.
pub(super) fn rules(cluster: &Cluster, namespace: Sym, name: Sym) -> Vec<VolumeRule<'_>> {
    match cluster.claims.get(&(namespace, name)) {
        Some(Claim::Bound(volume)) => {
            let Some(volume) = cluster.volumes.get(volume) else { return vec![VolumeRule::Never(name)] };
            let zones = volume.zones.iter().map(|(key, values)| {
                let known = ZONE_LABELS.iter().find(|(old, _)| *old == cluster.symbols.name(*key));
                let node = known.and_then(|(_, new)| cluster.symbols.get(new)).unwrap_or(*key);
                VolumeRule::Zone(*key, node, values)
            });
            volume.affinity.iter().map(VolumeRule::Reach).chain(zones).collect()
        }
        Some(Claim::Unbound { class, node }) => {
            let class = class.and_then(|class| cluster.classes.get(&class));
            match class.filter(|class| class.late && class.provisions) {
                Some(class) => {
                    let made = class.topologies.iter().map(|terms| VolumeRule::Make(name, terms));
                    made.chain(node.map(|node| VolumeRule::Selected(name, node))).collect()
                }
                None => vec![VolumeRule::Never(name)],
            }
        }
        None => vec![VolumeRule::Never(name)],
    }
}

impl Index<'_> {
    /// What keeps a pod off a node by its volumes, if anything.
    pub(super) fn volume_reason(&self, fixed: &Fixed, name: Sym, labels: &Labels) -> Option<Reason> {
        let symbols = &self.cluster.symbols;
        let claim = |claim: Sym| Some(Reason::Claim(symbols.name(claim).to_owned()));
        let zoned = || {
            ZONE_LABELS.iter().any(|(key, _)| symbols.get(key).is_some_and(|key| labels.get(key).is_some()))
        };
        self.volumes.items[fixed.volumes].iter().find_map(|rule| match rule {
            VolumeRule::Never(name) => claim(*name),
            VolumeRule::Reach(terms) => {
                (!terms.matches(name, labels, symbols)).then_some(Reason::VolumeAffinity)
            }
            VolumeRule::Make(of, terms) if !terms.matches(name, labels, symbols) => claim(*of),
            VolumeRule::Selected(of, node) if *node != name => claim(*of),
            VolumeRule::Zone(old, new, values) => {
                let value = labels.get(*old).or_else(|| labels.get(*new));
                let fits = value.is_some_and(|value| values.contains(&value));
                (!fits && zoned()).then_some(Reason::VolumeZone)
            }
            VolumeRule::Make(..) | VolumeRule::Selected(..) => None,
        })
    }
}
