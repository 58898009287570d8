//! From objects of the Kubernetes API to the model. Total: whatever is absent, odd or wrong becomes something that the
//! simulation can hold, on the careful side: a pod that cannot be read fits nowhere, a resource that cannot be read is
//! not there.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::cluster::Cluster;
use super::model::{
    Amounts, Beyond, Daemon, Drain, Effect, HostPort, Node, Pod, PodTerm, SafeToEvict, Spec, Spread, Taint,
    Toleration,
};
use super::quantity::Amount;
use super::requests;
use super::select::{NameTest, Namespaces, NodeTerm, NodeTerms, Requirement, Selector, Test};
use super::symbols::{Labels, Sym, Symbols};

/// Says whether a pod may be evicted: `true` or `false`. A key of cluster-autoscaler.
pub const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
/// Names volumes on the node's disk that need not be kept, separated by commas. A key of cluster-autoscaler.
pub const SAFE_LOCAL_VOLUMES: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
/// Marks the mirror of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The only field that node selector terms know.
const NODE_NAME_FIELD: &str = "metadata.name";

/// A label selector that the API server would not have let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

impl Cluster {
    /// Adds or replaces a pod; one that has ended is removed.
    pub fn put_pod(&mut self, pod: &core::Pod) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if has_ended(pod) {
            self.remove_pod(namespace, name);
            return;
        }
        let namespace = self.symbols.intern(namespace);
        let spec = self.read_spec(pod);
        let labels = self.read_labels(&pod.metadata);
        let spec = self.specs.intern(spec);
        let api = pod.spec.as_ref();
        let mut node = |name: Option<&String>| {
            name.filter(|name| !name.is_empty()).map(|name| self.symbols.intern(name))
        };
        let pod = Pod {
            namespace,
            name: name.into(),
            labels: self.labels.intern(labels),
            spec,
            node: node(api.and_then(|spec| spec.node_name.as_ref())),
            nominated: node(pod.status.as_ref().and_then(|status| status.nominated_node_name.as_ref())),
            claims: claims(pod, &mut self.symbols),
            priority: api.and_then(|spec| spec.priority).unwrap_or(0),
            created: pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            drain: drain(pod),
        };
        self.insert_pod(pod);
    }

    /// Adds or replaces a node.
    pub fn put_node(&mut self, node: &core::Node) {
        let node = self.read_node(node);
        self.insert_node(node);
    }

    /// A node that could be added, from one that is there or from what is known of such a node. It has its own name and
    /// host name each time, and is ready and not cordoned.
    pub fn template(&mut self, node: &core::Node) -> Node {
        self.read_node(node).another()
    }

    /// Adds or replaces a DaemonSet: what it puts on every node that fits.
    pub fn put_daemon_set(&mut self, set: &DaemonSet) {
        let template = &set.spec.clone().unwrap_or_default().template;
        let pod = core::Pod {
            metadata: template.metadata.clone().unwrap_or_default(),
            spec: template.spec.clone(),
            status: None,
        };
        let mut spec = self.read_spec(&pod);
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        spec.tolerations = tolerated_by_daemons(&spec.tolerations, host_network, &mut self.symbols);
        let labels = self.read_labels(&pod.metadata);
        let daemon = Daemon {
            namespace: self.symbols.intern(set.metadata.namespace.as_deref().unwrap_or_default()),
            labels: self.labels.intern(labels),
            spec: self.specs.intern(spec),
        };
        self.insert_daemon(set.metadata.name.as_deref().unwrap_or_default(), daemon);
    }

    /// Adds or replaces a namespace.
    pub fn put_namespace(&mut self, namespace: &core::Namespace) {
        let labels = self.read_labels(&namespace.metadata);
        let name = self.symbols.intern(namespace.metadata.name.as_deref().unwrap_or_default());
        self.namespaces.insert(name, labels);
    }

    fn read_labels(&mut self, metadata: &ObjectMeta) -> Labels {
        labels(metadata.labels.as_ref(), &mut self.symbols)
    }

    fn read_node(&mut self, node: &core::Node) -> Node {
        let symbols = &mut self.symbols;
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let taints: Vec<Taint> =
            spec.taints.iter().flatten().filter_map(|taint| read_taint(taint, symbols)).collect();
        let allocatable = status.allocatable.unwrap_or_default();
        Node {
            name: symbols.intern(node.metadata.name.as_deref().unwrap_or_default()),
            labels: labels(node.metadata.labels.as_ref(), symbols),
            taints: taints.into_boxed_slice(),
            max_pods: allocatable
                .get("pods")
                .and_then(|quantity| Amount::parse(&quantity.0).ok())
                .map_or(0, Amount::units),
            allocatable: requests::of_node(&allocatable, symbols),
            unschedulable: spec.unschedulable.unwrap_or(false),
            not_ready: status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status != "True"),
        }
    }

    fn read_spec(&mut self, pod: &core::Pod) -> Spec {
        let mut beyond = None;
        let requests = requests::of_pod(pod, &mut self.symbols).unwrap_or_else(|_| {
            beyond = Some(Beyond::Quantity);
            Amounts::default()
        });
        let Some(spec) = &pod.spec else { return Spec { requests, beyond, ..Spec::default() } };
        let symbols = &mut self.symbols;
        let affinity = spec.affinity.as_ref();
        let node_affinity = affinity
            .and_then(|affinity| affinity.node_affinity.as_ref())
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
            .map(|selector| node_terms(&selector.node_selector_terms, symbols));
        let together = affinity
            .and_then(|affinity| affinity.pod_affinity.as_ref())
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        let apart = affinity
            .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        let mut terms = |terms: Option<&Vec<core::PodAffinityTerm>>| {
            terms.into_iter().flatten().map(|term| pod_term(term, symbols)).collect::<Result<Box<[_]>, _>>()
        };
        let (together, apart) = (terms(together), terms(apart));
        let spread: Result<Box<[_]>, _> = spec
            .topology_spread_constraints
            .iter()
            .flatten()
            .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
            .map(|constraint| read_spread(constraint, symbols))
            .collect();
        if together.is_err() || apart.is_err() || spread.is_err() {
            beyond = Some(Beyond::Selector);
        }
        if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
            beyond = Some(Beyond::ResourceClaims);
        }
        if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
            beyond = Some(Beyond::Gated);
        }
        Spec {
            requests,
            node_selector: labels(spec.node_selector.as_ref(), symbols),
            node_affinity,
            tolerations: tolerations(spec.tolerations.as_deref().unwrap_or_default(), symbols),
            spread: spread.unwrap_or_default(),
            affinity: together.unwrap_or_default(),
            anti_affinity: apart.unwrap_or_default(),
            ports: ports(spec, symbols),
            beyond,
        }
    }
}

/// Whether a node on which this pod is bound is empty as far as it goes: it has ended, or goes with the node.
#[must_use]
pub fn leaves_a_node_empty(pod: &core::Pod) -> bool {
    has_ended(pod) || drain(pod).goes_along()
}

fn has_ended(pod: &core::Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

fn phase(pod: &core::Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(super) fn labels(map: Option<&BTreeMap<String, String>>, symbols: &mut Symbols) -> Labels {
    Labels::new(
        map.into_iter().flatten().map(|(key, value)| (symbols.intern(key), symbols.intern(value))).collect(),
    )
}

fn read_taint(taint: &core::Taint, symbols: &mut Symbols) -> Option<Taint> {
    Some(Taint {
        effect: effect(&taint.effect)?,
        key: symbols.intern(&taint.key),
        value: symbols.intern(taint.value.as_deref().unwrap_or_default()),
    })
}

fn effect(name: &str) -> Option<Effect> {
    [Effect::NoSchedule, Effect::NoExecute].into_iter().find(|effect| effect.name() == name)
}

/// Those that can tolerate a taint that keeps pods off.
fn tolerations(list: &[core::Toleration], symbols: &mut Symbols) -> Box<[Toleration]> {
    let mut tolerations: Vec<Toleration> = list
        .iter()
        .filter_map(|toleration| {
            let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
            let effect = match given(&toleration.effect) {
                Some(name) => Some(effect(&name)?),
                None => None,
            };
            let value = match toleration.operator.as_deref().unwrap_or_default() {
                "" | "Equal" => Some(symbols.intern(toleration.value.as_deref().unwrap_or_default())),
                "Exists" => None,
                _ => return None,
            };
            Some(Toleration { key: given(&toleration.key).map(|key| symbols.intern(&key)), value, effect })
        })
        .collect();
    tolerations.sort_unstable();
    tolerations.dedup();
    tolerations.into_boxed_slice()
}

/// The tolerations that the DaemonSet controller adds (`pkg/controller/daemon/util` of Kubernetes).
fn tolerated_by_daemons(own: &[Toleration], host_network: bool, symbols: &mut Symbols) -> Box<[Toleration]> {
    let taints = [
        ("node.kubernetes.io/not-ready", Effect::NoExecute, true),
        ("node.kubernetes.io/unreachable", Effect::NoExecute, true),
        ("node.kubernetes.io/disk-pressure", Effect::NoSchedule, true),
        ("node.kubernetes.io/memory-pressure", Effect::NoSchedule, true),
        ("node.kubernetes.io/pid-pressure", Effect::NoSchedule, true),
        ("node.kubernetes.io/unschedulable", Effect::NoSchedule, true),
        ("node.kubernetes.io/network-unavailable", Effect::NoSchedule, host_network),
    ];
    let added = taints.into_iter().filter(|&(_, _, wanted)| wanted).map(|(key, effect, _)| Toleration {
        key: Some(symbols.intern(key)),
        value: None,
        effect: Some(effect),
    });
    let mut all: Vec<Toleration> = own.iter().copied().chain(added).collect();
    all.sort_unstable();
    all.dedup();
    all.into_boxed_slice()
}

fn read_spread(
    constraint: &core::TopologySpreadConstraint,
    symbols: &mut Symbols,
) -> Result<Spread, Unreadable> {
    let keys = constraint.match_label_keys.iter().flatten().map(|key| symbols.intern(key)).collect();
    Ok(Spread {
        key: symbols.intern(&constraint.topology_key),
        max_skew: constraint.max_skew.max(1),
        min_domains: constraint.min_domains.unwrap_or(1).max(1),
        selector: label_selector(constraint.label_selector.as_ref(), symbols)?,
        match_label_keys: keys,
        ignore_affinity: constraint.node_affinity_policy.as_deref() == Some("Ignore"),
        honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    })
}

/// `matchLabelKeys` and `mismatchLabelKeys` are not read: the API server writes them into the selector.
fn pod_term(term: &core::PodAffinityTerm, symbols: &mut Symbols) -> Result<PodTerm, Unreadable> {
    let mut listed: Vec<Sym> = term.namespaces.iter().flatten().map(|name| symbols.intern(name)).collect();
    listed.sort_unstable();
    listed.dedup();
    let namespaces = if listed.is_empty() && term.namespace_selector.is_none() {
        Namespaces::Own
    } else {
        let selector = label_selector(term.namespace_selector.as_ref(), symbols)?;
        Namespaces::Chosen { listed: listed.into_boxed_slice(), selector }
    };
    Ok(PodTerm {
        key: symbols.intern(&term.topology_key),
        selector: label_selector(term.label_selector.as_ref(), symbols)?,
        namespaces,
    })
}

/// An absent selector is `None`.
pub(super) fn label_selector(
    selector: Option<&LabelSelector>,
    symbols: &mut Symbols,
) -> Result<Option<Selector>, Unreadable> {
    let Some(selector) = selector else { return Ok(None) };
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        requirements.push(requirement(key, "In", std::slice::from_ref(value), symbols).ok_or(Unreadable)?);
    }
    for expression in selector.match_expressions.iter().flatten() {
        let values = expression.values.as_deref().unwrap_or_default();
        if matches!(expression.operator.as_str(), "Gt" | "Lt") {
            return Err(Unreadable);
        }
        requirements
            .push(requirement(&expression.key, &expression.operator, values, symbols).ok_or(Unreadable)?);
    }
    Ok(Some(Selector::new(requirements, symbols)))
}

fn requirement(key: &str, operator: &str, values: &[String], symbols: &mut Symbols) -> Option<Requirement> {
    if !values.iter().all(|value| is_label_value(value)) {
        return None;
    }
    let key = symbols.intern(key);
    let mut set = || {
        let mut values: Vec<Sym> = values.iter().map(|value| symbols.intern(value)).collect();
        values.sort_unstable();
        values.dedup();
        (!values.is_empty()).then(|| values.into_boxed_slice())
    };
    let number = || match values {
        [one] => one.parse::<i64>().ok(),
        _ => None,
    };
    let test = match operator {
        "In" => Test::In(set()?),
        "NotIn" => Test::NotIn(set()?),
        "Exists" if values.is_empty() => Test::Exists,
        "DoesNotExist" if values.is_empty() => Test::Absent,
        "Gt" => Test::Above(number()?),
        "Lt" => Test::Below(number()?),
        _ => return None,
    };
    Some(Requirement { key, test })
}

/// Kubernetes' syntax of label values: at most 63 of `[-A-Za-z0-9_.]`, alphanumeric at both ends, or empty. A term with
/// another value matches nothing.
fn is_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    value.len() <= 63
        && ends.into_iter().flatten().all(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// Terms that are empty or cannot be read match no node and are left out.
pub(super) fn node_terms(terms: &[core::NodeSelectorTerm], symbols: &mut Symbols) -> NodeTerms {
    NodeTerms(terms.iter().filter_map(|term| node_term(term, symbols)).collect())
}

fn node_term(term: &core::NodeSelectorTerm, symbols: &mut Symbols) -> Option<NodeTerm> {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return None;
    }
    let mut requirements = Vec::new();
    for expression in expressions {
        let values = expression.values.as_deref().unwrap_or_default();
        requirements.push(requirement(&expression.key, &expression.operator, values, symbols)?);
    }
    let mut names = Vec::new();
    for field in fields {
        let [value] = field.values.as_deref().unwrap_or_default() else { return None };
        let equal = match field.operator.as_str() {
            "In" => true,
            "NotIn" => false,
            _ => return None,
        };
        match (field.key == NODE_NAME_FIELD, equal) {
            (true, _) => names.push(NameTest { name: symbols.intern(value), equal }),
            // Another field is empty on every node.
            (false, true) if !value.is_empty() => return None,
            (false, false) if value.is_empty() => return None,
            (false, _) => {}
        }
    }
    Some(NodeTerm { labels: Selector::new(requirements, symbols), names: names.into_boxed_slice() })
}

/// Ports of the host that the containers and the sidecars take.
fn ports(spec: &core::PodSpec, symbols: &mut Symbols) -> Box<[HostPort]> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut ports: Vec<HostPort> = sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|&number| number > 0)?;
            let address = port.host_ip.as_deref().filter(|address| !matches!(*address, "" | "0.0.0.0"));
            let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty());
            Some(HostPort {
                address: address.map(|address| symbols.intern(address)),
                protocol: protocol.map_or(Sym::TCP, |protocol| symbols.intern(protocol)),
                port: number,
            })
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports.into_boxed_slice()
}

fn claims(pod: &core::Pod, symbols: &mut Symbols) -> Box<[Sym]> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(symbols.intern(&claim.claim_name)),
            // The claim of a generic ephemeral volume is named after the pod and the volume.
            (None, Some(_)) => Some(symbols.intern(&format!("{name}-{}", volume.name))),
            (None, None) => None,
        })
        .collect()
}

fn drain(pod: &core::Pod) -> Drain {
    let metadata = &pod.metadata;
    let annotation =
        |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let kept: Vec<&str> =
        annotation(SAFE_LOCAL_VOLUMES).unwrap_or_default().split(',').map(str::trim).collect();
    let local = |volume: &core::Volume| {
        let on_disk = volume.empty_dir.as_ref().is_some_and(|dir| dir.medium.as_deref() != Some("Memory"));
        (volume.host_path.is_some() || on_disk) && !kept.contains(&volume.name.as_str())
    };
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    Drain {
        mirror: annotation(MIRROR).is_some(),
        daemon: controller.is_some_and(|owner| owner.kind == "DaemonSet"),
        replicated: controller.is_some(),
        terminating: metadata.deletion_timestamp.is_some(),
        ready: conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        starting: phase(pod) == "Pending",
        local_storage: pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(local),
        safe_to_evict: match annotation(SAFE_TO_EVICT) {
            Some("true") => SafeToEvict::Yes,
            Some("false" | "on-completion") => SafeToEvict::No,
            _ => SafeToEvict::Unsaid,
        },
    }
}
