//! Volumes and budgets from objects of the Kubernetes API.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass as ApiStorageClass;

use super::cluster::Cluster;
use super::from_api::{label_selector, node_terms};
use super::model::{Budget, Claim, StorageClass, Volume};
use super::select::{NodeTerm, NodeTerms, Requirement, Selector};
use super::symbols::Sym;

/// Labels of volumes that say where they are, and the same of nodes: what VolumeZone of kube-scheduler compares. The old
/// names also match the new ones of a node.
pub(super) const ZONE_LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// The control plane has finished binding a claim.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The node for which a volume is being made.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The old way to name the class of a claim.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

impl Cluster {
    /// Adds or replaces a budget. One whose status is of an older spec allows nothing, as at the eviction API.
    pub fn put_budget(&mut self, budget: &PodDisruptionBudget) {
        let spec = budget.spec.clone().unwrap_or_default();
        let status = budget.status.clone().unwrap_or_default();
        let stale = status.observed_generation.unwrap_or(0) < budget.metadata.generation.unwrap_or(0);
        // Which pods it is about is not known: none may go.
        let selector = label_selector(spec.selector.as_ref(), &mut self.symbols);
        let unreadable = selector.is_err();
        let budget = Budget {
            namespace: self.symbols.intern(budget.metadata.namespace.as_deref().unwrap_or_default()),
            name: budget.metadata.name.as_deref().unwrap_or_default().into(),
            selector: selector.unwrap_or_else(|_| Some(Selector::default())),
            allowed: if stale || unreadable { 0 } else { status.disruptions_allowed },
            spares_unready: spec.unhealthy_pod_eviction_policy.as_deref() == Some("AlwaysAllow")
                || (status.current_healthy >= status.desired_healthy && status.desired_healthy > 0),
        };
        self.insert_budget(budget);
    }

    /// Adds or replaces a claim.
    pub fn put_claim(&mut self, claim: &core::PersistentVolumeClaim) {
        let metadata = &claim.metadata;
        let annotation = |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key));
        let spec = claim.spec.clone().unwrap_or_default();
        let volume = spec.volume_name.filter(|name| !name.is_empty());
        let namespace = self.symbols.intern(metadata.namespace.as_deref().unwrap_or_default());
        let name = self.symbols.intern(metadata.name.as_deref().unwrap_or_default());
        let read = match volume {
            Some(volume) if annotation(BIND_COMPLETED).is_some() => {
                Claim::Bound(self.symbols.intern(&volume))
            }
            // A volume is named but not bound yet: nothing can be said before it is.
            Some(_) => Claim::Unbound { class: None, node: None },
            None => {
                let class =
                    annotation(CLASS).or(spec.storage_class_name.as_ref()).filter(|name| !name.is_empty());
                Claim::Unbound {
                    class: class.map(|name| self.symbols.intern(name)),
                    node: annotation(SELECTED_NODE).map(|name| self.symbols.intern(name)),
                }
            }
        };
        self.claims.insert((namespace, name), read);
    }

    /// Adds or replaces a volume.
    pub fn put_volume(&mut self, volume: &core::PersistentVolume) {
        let symbols = &mut self.symbols;
        let labels = volume.metadata.labels.clone().unwrap_or_default();
        let zones: Vec<(Sym, Box<[Sym]>)> = ZONE_LABELS
            .into_iter()
            .filter_map(|(key, _)| {
                // Several zones are one value, with two underscores between.
                let values = labels.get(key)?.split("__").map(|value| symbols.intern(value.trim())).collect();
                Some((symbols.intern(key), values))
            })
            .collect();
        let affinity = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.node_affinity.as_ref())
            .and_then(|affinity| affinity.required.as_ref())
            .map(|selector| node_terms(&selector.node_selector_terms, symbols));
        let name = symbols.intern(volume.metadata.name.as_deref().unwrap_or_default());
        self.volumes.insert(name, Volume { affinity, zones: zones.into_boxed_slice() });
    }

    /// Adds or replaces a storage class.
    pub fn put_storage_class(&mut self, class: &ApiStorageClass) {
        let symbols = &mut self.symbols;
        let topologies = class.allowed_topologies.as_deref().filter(|terms| !terms.is_empty()).map(|terms| {
            let term = |term: &core::TopologySelectorTerm| {
                let expressions = term.match_label_expressions.as_deref().filter(|all| !all.is_empty())?;
                let requirements: Vec<Requirement> = expressions
                    .iter()
                    .map(|expression| {
                        let values = expression.values.iter().map(|value| symbols.intern(value)).collect();
                        Requirement::one_of(symbols.intern(&expression.key), values)
                    })
                    .collect();
                Some(NodeTerm { labels: Selector::new(requirements, symbols), ..NodeTerm::default() })
            };
            NodeTerms(terms.iter().filter_map(term).collect())
        });
        let read = StorageClass {
            late: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            provisions: !matches!(class.provisioner.as_str(), "" | NO_PROVISIONER),
            topologies,
        };
        let name = symbols.intern(class.metadata.name.as_deref().unwrap_or_default());
        self.classes.insert(name, read);
    }
}
