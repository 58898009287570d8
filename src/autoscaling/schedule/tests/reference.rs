//! kube-scheduler's filters written down a second time, as plainly as possible: on API objects, counting everything anew
//! for each question. What the simulation is compared with.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::super::cases::Case;
use super::super::quantity::Amount;
use super::super::requests;
use super::super::symbols::Symbols;

type Map = BTreeMap<String, String>;

/// Pods on nodes.
pub(super) struct World<'c> {
    pub(super) case: &'c Case,
    /// Pods and the names of their nodes.
    pub(super) placed: Vec<(Pod, String)>,
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn labels_of(map: &Option<Map>) -> Map {
    map.clone().unwrap_or_default()
}

fn spec(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

impl<'c> World<'c> {
    pub(super) fn new(case: &'c Case) -> Self {
        let placed =
            case.bound.iter().map(|pod| (pod.clone(), spec(pod).node_name.unwrap_or_default())).collect();
        Self { case, placed }
    }

    fn node(&self, wanted: &str) -> Option<&Node> {
        self.case.nodes.iter().find(|node| node.metadata.name.as_deref() == Some(wanted))
    }

    fn on(&self, wanted: &str) -> impl Iterator<Item = &Pod> {
        self.placed.iter().filter(move |(_, node)| node == wanted).map(|(pod, _)| pod)
    }

    pub(super) fn fits(&self, pod: &Pod, node: &Node) -> bool {
        self.cordon(pod, node)
            && tolerated(pod, node)
            && node_affinity(pod, node)
            && self.ports(pod, node)
            && self.resources(pod, node)
            && self.volumes(pod, node)
            && self.spread(pod, node)
            && self.affinity(pod, node)
    }

    fn cordon(&self, pod: &Pod, node: &Node) -> bool {
        let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        !cordoned || tolerates(pod, "node.kubernetes.io/unschedulable", "", "NoSchedule")
    }

    fn ports(&self, pod: &Pod, node: &Node) -> bool {
        let ports = |pod: &Pod| -> Vec<(String, String, i32)> {
            spec(pod)
                .containers
                .iter()
                .flat_map(|container| container.ports.clone().unwrap_or_default())
                .filter_map(|port| {
                    let address = port.host_ip.filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0".into());
                    Some((address, port.protocol.unwrap_or("TCP".into()), port.host_port?))
                })
                .collect()
        };
        let taken: Vec<_> =
            self.on(node.metadata.name.as_deref().unwrap_or_default()).flat_map(&ports).collect();
        ports(pod).iter().all(|(address, protocol, port)| {
            !taken.iter().any(|(other, other_protocol, other_port)| {
                (port, protocol) == (other_port, other_protocol)
                    && (address == other || address == "0.0.0.0" || other == "0.0.0.0")
            })
        })
    }

    fn resources(&self, pod: &Pod, node: &Node) -> bool {
        let allocatable = node.status.clone().unwrap_or_default().allocatable.unwrap_or_default();
        let here: Vec<&Pod> = self.on(node.metadata.name.as_deref().unwrap_or_default()).collect();
        let of = |resource: &str| {
            allocatable.get(resource).map_or(0, |quantity| {
                let amount = Amount::parse(&quantity.0).unwrap();
                if resource == "cpu" { amount.thousandths() } else { amount.units() }
            })
        };
        if i64::try_from(here.len()).unwrap() + 1 > of("pods") {
            return false;
        }
        let mut symbols = Symbols::default();
        let mut asks = |pod: &Pod| -> BTreeMap<String, i64> {
            let amounts = requests::of_pod(pod, &mut symbols).unwrap();
            amounts.iter().map(|&(resource, amount)| (symbols.name(resource).to_owned(), amount)).collect()
        };
        let wanted = asks(pod);
        let mut used: BTreeMap<String, i64> = BTreeMap::new();
        for other in here {
            for (resource, amount) in asks(other) {
                *used.entry(resource).or_default() += amount;
            }
        }
        wanted
            .iter()
            .all(|(resource, amount)| *amount <= of(resource) - used.get(resource).copied().unwrap_or(0))
    }

    fn volumes(&self, pod: &Pod, node: &Node) -> bool {
        let labels = labels_of(&node.metadata.labels);
        let zone = "topology.kubernetes.io/zone";
        spec(pod).volumes.unwrap_or_default().iter().all(|volume| {
            let Some(source) = &volume.persistent_volume_claim else { return true };
            let claim = self
                .case
                .claims
                .iter()
                .find(|claim| claim.metadata.name.as_ref() == Some(&source.claim_name));
            let bound = claim.and_then(|claim| claim.spec.clone()).and_then(|spec| spec.volume_name);
            let Some(volume) = self.case.volumes.iter().find(|volume| volume.metadata.name == bound) else {
                return false;
            };
            let by_label = match (labels_of(&volume.metadata.labels).get(zone), labels.get(zone)) {
                (Some(of_volume), Some(of_node)) => of_volume == of_node,
                _ => true,
            };
            let affinity = volume
                .spec
                .clone()
                .and_then(|spec| spec.node_affinity)
                .and_then(|affinity| affinity.required);
            by_label
                && affinity.is_none_or(|required| required.node_selector_terms.iter().any(|t| term(t, node)))
        })
    }

    fn spread(&self, pod: &Pod, node: &Node) -> bool {
        let constraints = spec(pod).topology_spread_constraints.unwrap_or_default();
        let own_labels = labels_of(&pod.metadata.labels);
        let node_labels = labels_of(&node.metadata.labels);
        constraints.iter().all(|constraint| {
            let keys = constraint.match_label_keys.clone().unwrap_or_default();
            let alike = |labels: &Map| keys.iter().all(|key| labels.get(key) == own_labels.get(key));
            let mut counts: BTreeMap<String, i32> = BTreeMap::new();
            for other in
                self.case.nodes.iter().filter(|other| counts_for(pod, other, constraint, &constraints))
            {
                let value = labels_of(&other.metadata.labels)[&constraint.topology_key].clone();
                let all = constraint
                    .label_selector
                    .as_ref()
                    .is_some_and(|selector| keys.is_empty() && *selector == LabelSelector::default());
                let here = self.on(other.metadata.name.as_deref().unwrap_or_default()).filter(|other| {
                    other.metadata.namespace == pod.metadata.namespace
                        && other.metadata.deletion_timestamp.is_none()
                        && selects(constraint.label_selector.as_ref(), &labels_of(&other.metadata.labels))
                        && alike(&labels_of(&other.metadata.labels))
                });
                let here = if all { 0 } else { here.count() };
                *counts.entry(value).or_default() += i32::try_from(here).unwrap();
            }
            let Some(value) = node_labels.get(&constraint.topology_key) else { return false };
            let domains = i32::try_from(counts.len()).unwrap();
            let fewest = if domains < constraint.min_domains.unwrap_or(1) {
                0
            } else {
                counts.values().copied().min().unwrap_or(i32::MAX)
            };
            let own = i32::from(selects(constraint.label_selector.as_ref(), &own_labels));
            counts.get(value).copied().unwrap_or(0) + own - fewest <= constraint.max_skew
        })
    }

    fn affinity(&self, pod: &Pod, node: &Node) -> bool {
        let labels = labels_of(&node.metadata.labels);
        let together = terms(pod, true);
        let apart = terms(pod, false);
        let same = |term: &PodAffinityTerm, other: &str| {
            let other = self.node(other).map(|node| labels_of(&node.metadata.labels)).unwrap_or_default();
            labels.contains_key(&term.topology_key)
                && labels.get(&term.topology_key) == other.get(&term.topology_key)
        };
        let all_match = |other: &Pod| together.iter().all(|term| self.matches(pod, term, other));
        if !together.is_empty() {
            if !together.iter().all(|term| labels.contains_key(&term.topology_key)) {
                return false;
            }
            let near = together
                .iter()
                .all(|term| self.placed.iter().any(|(other, at)| all_match(other) && same(term, at)));
            let any = self.placed.iter().any(|(other, at)| {
                let at = self.node(at).map(|node| labels_of(&node.metadata.labels)).unwrap_or_default();
                all_match(other) && together.iter().any(|term| at.contains_key(&term.topology_key))
            });
            if !near && (any || !all_match(pod)) {
                return false;
            }
        }
        self.placed.iter().all(|(other, at)| {
            let own = apart.iter().any(|term| self.matches(pod, term, other) && same(term, at));
            let others =
                terms(other, false).iter().any(|term| self.matches(other, term, pod) && same(term, at));
            !own && !others
        })
    }

    /// Whether a term of `holder` matches `other`.
    fn matches(&self, holder: &Pod, term: &PodAffinityTerm, other: &Pod) -> bool {
        let space = other.metadata.namespace.clone().unwrap_or_default();
        let listed = term.namespaces.clone().unwrap_or_default();
        let own = listed.is_empty()
            && term.namespace_selector.is_none()
            && holder.metadata.namespace == other.metadata.namespace;
        let labels = self.case.namespaces.iter().find(|n| n.metadata.name.as_ref() == Some(&space));
        let labels = labels.map(|namespace| labels_of(&namespace.metadata.labels)).unwrap_or_default();
        (own || listed.contains(&space) || selects(term.namespace_selector.as_ref(), &labels))
            && selects(term.label_selector.as_ref(), &labels_of(&other.metadata.labels))
    }

    pub(super) fn place(&mut self, pod: &Pod, node: &str) {
        self.placed.push((pod.clone(), node.to_owned()));
    }

    pub(super) fn take(&mut self, wanted: &str) -> Pod {
        let at = self.placed.iter().position(|(pod, _)| name(pod) == wanted).unwrap();
        self.placed.remove(at).0
    }
}

fn terms(pod: &Pod, together: bool) -> Vec<PodAffinityTerm> {
    let affinity = spec(pod).affinity.unwrap_or_default();
    let terms = if together {
        affinity
            .pod_affinity
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution)
    } else {
        affinity
            .pod_anti_affinity
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution)
    };
    terms.unwrap_or_default()
}

fn tolerates(pod: &Pod, key: &str, value: &str, effect: &str) -> bool {
    spec(pod).tolerations.unwrap_or_default().iter().any(|toleration| {
        let given = |text: &Option<String>| text.clone().unwrap_or_default();
        (given(&toleration.effect).is_empty() || given(&toleration.effect) == effect)
            && (given(&toleration.key).is_empty() || given(&toleration.key) == key)
            && (toleration.operator.as_deref() == Some("Exists") || given(&toleration.value) == value)
    })
}

fn tolerated(pod: &Pod, node: &Node) -> bool {
    let taints = node.spec.clone().unwrap_or_default().taints.unwrap_or_default();
    taints
        .iter()
        .filter(|taint| taint.effect != "PreferNoSchedule")
        .all(|taint| tolerates(pod, &taint.key, taint.value.as_deref().unwrap_or_default(), &taint.effect))
}

fn node_affinity(pod: &Pod, node: &Node) -> bool {
    let labels = labels_of(&node.metadata.labels);
    let selected =
        spec(pod).node_selector.unwrap_or_default().iter().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec(pod)
        .affinity
        .and_then(|affinity| affinity.node_affinity)
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution);
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(|t| term(t, node)))
}

fn term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.clone().unwrap_or_default();
    let fields = term.match_fields.clone().unwrap_or_default();
    let name = Map::from([("metadata.name".to_owned(), node.metadata.name.clone().unwrap_or_default())]);
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|one| requirement(one, &labels_of(&node.metadata.labels)))
        && fields.iter().all(|one| requirement(one, &name))
}

fn requirement(requirement: &NodeSelectorRequirement, labels: &Map) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.clone().unwrap_or_default();
    let compare = |wanted: std::cmp::Ordering| {
        let number = value.and_then(|value| value.parse::<i64>().ok());
        number.is_some_and(|number| number.cmp(&values[0].parse::<i64>().unwrap()) == wanted)
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        _ => compare(std::cmp::Ordering::Less),
    }
}

fn selects(selector: Option<&LabelSelector>, labels: &Map) -> bool {
    let Some(selector) = selector else { return false };
    let pairs = selector.match_labels.clone().unwrap_or_default();
    pairs.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.clone().unwrap_or_default().iter().all(|expression| {
            let one = NodeSelectorRequirement {
                key: expression.key.clone(),
                operator: expression.operator.clone(),
                values: expression.values.clone(),
            };
            requirement(&one, labels)
        })
}

fn counts_for(
    pod: &Pod,
    node: &Node,
    constraint: &TopologySpreadConstraint,
    all: &[TopologySpreadConstraint],
) -> bool {
    let labels = labels_of(&node.metadata.labels);
    all.iter().all(|one| labels.contains_key(&one.topology_key))
        && (constraint.node_affinity_policy.as_deref() == Some("Ignore") || node_affinity(pod, node))
        && (constraint.node_taints_policy.as_deref() != Some("Honor") || tolerated(pod, node))
}
