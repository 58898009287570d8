//! Random clusters for tests: API objects from a number.
//!
//! Small, dense and odd on purpose, so that every filter has something to say; and such that an API server takes them,
//! so that a real kube-scheduler can be asked the same. The same number gives the same case.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference,
};

use super::cluster::Cluster;
pub use super::dice::Dice;

/// A cluster and pods that wait in it.
#[derive(Debug, Clone, Default)]
pub struct Case {
    /// Namespaces, with labels.
    pub namespaces: Vec<core::Namespace>,
    /// Nodes.
    pub nodes: Vec<core::Node>,
    /// Pods on nodes.
    pub bound: Vec<core::Pod>,
    /// Pods without one.
    pub waiting: Vec<core::Pod>,
    /// Budgets of the bound pods.
    pub budgets: Vec<PodDisruptionBudget>,
    /// Volumes of claims.
    pub volumes: Vec<core::PersistentVolume>,
    /// Claims, bound to them.
    pub claims: Vec<core::PersistentVolumeClaim>,
    /// DaemonSets, for new nodes.
    pub daemon_sets: Vec<DaemonSet>,
}

/// How a case is made.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// At most so many nodes; at least 1.
    pub nodes: u64,
    /// At most so many pods on them.
    pub bound: u64,
    /// At most so many that wait; at least 1.
    pub waiting: u64,
    /// How often in 100 a pod has each kind of constraint.
    pub constraints: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { nodes: 7, bound: 14, waiting: 8, constraints: 22 }
    }
}

const SPACES: [&str; 2] = ["blue", "green"];
const APPS: [&str; 3] = ["api", "db", "web"];
const TIERS: [&str; 2] = ["back", "front"];
const ZONES: [&str; 3] = ["a", "b", "c"];
const DISKS: [&str; 2] = ["hdd", "ssd"];
const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
const GPU: &str = "nvidia.com/gpu";
const HASH: &str = "pod-template-hash";

/// The case of a number, in the default shape.
pub fn case(seed: u64) -> Case {
    case_of(seed, Shape::default())
}

/// The case of a number.
pub fn case_of(seed: u64, shape: Shape) -> Case {
    let mut dice = Dice::new(seed);
    let mut case =
        Case { namespaces: SPACES.iter().map(|name| namespace(name)).collect(), ..Case::default() };
    for at in 0..1 + dice.below(shape.nodes) {
        case.nodes.push(node(&mut dice, at));
    }
    for at in 0..dice.below(shape.bound + 1) {
        let mut one = pod(&mut dice, &format!("bound-{at}"), shape.constraints, &mut case);
        let on = usize::try_from(dice.below(case.nodes.len() as u64)).unwrap_or(0);
        bind(&mut dice, &mut one, &case.nodes[on]);
        case.bound.push(one);
    }
    for at in 0..1 + dice.below(shape.waiting) {
        let one = pod(&mut dice, &format!("waiting-{at}"), shape.constraints, &mut case);
        case.waiting.push(one);
    }
    for at in 0..dice.below(3) {
        case.budgets.push(budget(&mut dice, at));
    }
    case
}

/// A case that is compared with the real kube-scheduler: few constraints in one, many in the next. Pods that wait do not
/// preempt: the simulation places them beside others, never instead of them.
pub fn compared(seed: u64) -> Case {
    let constraints = [5, 15, 30][(seed % 3) as usize];
    let mut case = case_of(seed, Shape { nodes: 7, bound: 10, waiting: 6, constraints });
    for spec in case.waiting.iter_mut().filter_map(|pod| pod.spec.as_mut()) {
        spec.preemption_policy = Some("Never".to_owned());
    }
    case
}

impl Case {
    /// The cluster of a case.
    pub fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::default();
        self.namespaces.iter().for_each(|one| cluster.put_namespace(one));
        self.nodes.iter().for_each(|one| cluster.put_node(one));
        self.bound.iter().chain(&self.waiting).for_each(|one| cluster.put_pod(one));
        self.budgets.iter().for_each(|one| cluster.put_budget(one));
        self.volumes.iter().for_each(|one| cluster.put_volume(one));
        self.claims.iter().for_each(|one| cluster.put_claim(one));
        self.daemon_sets.iter().for_each(|one| cluster.put_daemon_set(one));
        cluster
    }

    /// The same objects in another order.
    pub fn shuffled(&self, seed: u64) -> Self {
        let (mut case, mut dice) = (self.clone(), Dice::new(seed));
        dice.shuffle(&mut case.namespaces);
        dice.shuffle(&mut case.nodes);
        dice.shuffle(&mut case.bound);
        dice.shuffle(&mut case.waiting);
        dice.shuffle(&mut case.budgets);
        dice.shuffle(&mut case.volumes);
        dice.shuffle(&mut case.claims);
        case
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn namespace(name: &str) -> core::Namespace {
    let labels = Some(map(&[("team", name), ("kubernetes.io/metadata.name", name)]));
    core::Namespace {
        metadata: ObjectMeta { name: Some(name.into()), labels, ..ObjectMeta::default() },
        ..Default::default()
    }
}

fn node(dice: &mut Dice, at: u64) -> core::Node {
    let name = format!("node-{at}");
    let mut labels = map(&[(HOST, &name), ("size", &dice.below(6).to_string())]);
    if dice.chance(85) {
        labels.insert(ZONE.into(), dice.pick(&ZONES).into());
    }
    if dice.chance(60) {
        labels.insert("disk".into(), dice.pick(&DISKS).into());
    }
    let mut taints = Vec::new();
    for (percent, key, effect) in
        [(15, "dedicated", "NoSchedule"), (8, "broken", "NoExecute"), (15, "busy", "PreferNoSchedule")]
    {
        if dice.chance(percent) {
            let value = dice.pick(&["x", "y"]).to_owned();
            taints.push(core::Taint {
                key: key.into(),
                value: Some(value),
                effect: effect.into(),
                time_added: None,
            });
        }
    }
    let cordoned = dice.chance(8);
    let mut allocatable = BTreeMap::new();
    let mut has = |name: &str, amount: String| allocatable.insert(name.to_owned(), Quantity(amount));
    has("cpu", format!("{}m", 1000 + 500 * dice.below(5)));
    has("memory", format!("{}Mi", 1024 + 512 * dice.below(5)));
    has("ephemeral-storage", "8Gi".into());
    has("pods", (2 + dice.below(8)).to_string());
    if dice.chance(25) {
        has(GPU, (1 + dice.below(2)).to_string());
    }
    core::Node {
        metadata: ObjectMeta { name: Some(name), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(core::NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            unschedulable: cordoned.then_some(true),
            ..core::NodeSpec::default()
        }),
        status: Some(core::NodeStatus {
            capacity: Some(allocatable.clone()),
            allocatable: Some(allocatable),
            conditions: Some(vec![core::NodeCondition {
                type_: "Ready".into(),
                status: "True".into(),
                ..core::NodeCondition::default()
            }]),
            ..core::NodeStatus::default()
        }),
    }
}

fn container(dice: &mut Dice, name: &str) -> core::Container {
    let mut requests = BTreeMap::new();
    if dice.chance(85) {
        requests.insert("cpu".to_owned(), Quantity(format!("{}m", 50 * dice.below(16))));
    }
    if dice.chance(70) {
        requests.insert("memory".to_owned(), Quantity(format!("{}Mi", 64 * dice.below(12))));
    }
    if dice.chance(8) {
        requests.insert("ephemeral-storage".to_owned(), Quantity("3Gi".into()));
    }
    core::Container {
        name: name.into(),
        image: Some("example.com/app:1".into()),
        resources: Some(core::ResourceRequirements { requests: Some(requests), ..Default::default() }),
        ..core::Container::default()
    }
}

fn pod(dice: &mut Dice, name: &str, constraints: u64, case: &mut Case) -> core::Pod {
    let space = dice.pick(&SPACES);
    let app = dice.pick(&APPS);
    let mut labels = map(&[("app", app), (HASH, dice.pick(&["1", "2"]))]);
    if dice.chance(60) {
        labels.insert("tier".into(), dice.pick(&TIERS).into());
    }
    let mut containers = vec![container(dice, "main")];
    if dice.chance(20) {
        containers.push(container(dice, "side"));
    }
    let mut init = Vec::new();
    for (percent, policy) in [(20, None), (15, Some("Always")), (10, None)] {
        if dice.chance(percent) {
            let mut one = container(dice, &format!("init-{}", init.len()));
            one.restart_policy = policy.map(str::to_owned);
            init.push(one);
        }
    }
    if dice.chance(10) {
        let gpu = BTreeMap::from([(GPU.to_owned(), Quantity("1".into()))]);
        if let Some(resources) = containers.first_mut().and_then(|main| main.resources.as_mut()) {
            resources.limits = Some(gpu.clone());
            resources.requests.get_or_insert_default().extend(gpu);
        }
    }
    if dice.chance(constraints / 2) {
        let port = core::ContainerPort {
            container_port: 80,
            host_port: Some(8080 + i32::try_from(dice.below(2)).unwrap_or(0)),
            host_ip: dice.chance(40).then(|| dice.pick(&["10.0.0.1", "10.0.0.2", "0.0.0.0"]).to_owned()),
            protocol: Some(dice.pick(&["TCP", "UDP"]).into()),
            ..core::ContainerPort::default()
        };
        containers[0].ports = Some(vec![port]);
    }
    let affinity = affinity(dice, constraints);
    let mut spread = Vec::new();
    if dice.chance(constraints) {
        spread.push(spread_over(dice, ZONE, app));
    }
    if dice.chance(constraints / 2) {
        spread.push(spread_over(dice, HOST, app));
    }
    let volumes = dice.chance(constraints / 3).then(|| vec![volume(dice, case, space, name)]);
    let owner = OwnerReference {
        api_version: "apps/v1".into(),
        kind: "ReplicaSet".into(),
        name: format!("{app}-1"),
        uid: "00000000-0000-4000-8000-000000000001".into(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    core::Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(space.into()),
            labels: Some(labels),
            owner_references: dice.chance(90).then(|| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(core::PodSpec {
            containers,
            init_containers: (!init.is_empty()).then_some(init),
            node_selector: dice.chance(constraints / 2).then(|| map(&[("disk", dice.pick(&DISKS))])),
            affinity,
            tolerations: dice.chance(40).then(|| vec![toleration(dice)]),
            topology_spread_constraints: (!spread.is_empty()).then_some(spread),
            priority: Some(i32::try_from(dice.below(3)).unwrap_or(0)),
            volumes,
            ..core::PodSpec::default()
        }),
        status: None,
    }
}

fn toleration(dice: &mut Dice) -> core::Toleration {
    let exists = dice.chance(50);
    let key = dice.pick(&["dedicated", "broken", "node.kubernetes.io/unschedulable", ""]);
    let exists = exists || key.is_empty();
    core::Toleration {
        key: (!key.is_empty()).then(|| key.to_owned()),
        operator: Some(if exists { "Exists" } else { "Equal" }.into()),
        value: (!exists).then(|| dice.pick(&["x", "y"]).to_owned()),
        effect: dice.chance(50).then(|| dice.pick(&["NoSchedule", "NoExecute"]).to_owned()),
        toleration_seconds: None,
    }
}

fn selector(dice: &mut Dice, app: &str) -> Option<LabelSelector> {
    let expression = |key: &str, operator: &str, values: &[&str]| LabelSelectorRequirement {
        key: key.into(),
        operator: operator.into(),
        values: (!values.is_empty()).then(|| values.iter().map(|&value| value.to_owned()).collect()),
    };
    let expressions = |list| Some(LabelSelector { match_expressions: Some(list), match_labels: None });
    match dice.below(10) {
        0 => None,
        1 => Some(LabelSelector::default()),
        2 => expressions(vec![expression("tier", "Exists", &[])]),
        3 => expressions(vec![expression("tier", "DoesNotExist", &[])]),
        4 => expressions(vec![expression("app", "NotIn", &[app])]),
        5 => {
            expressions(vec![expression("app", "In", &["db", "web"]), expression("tier", "NotIn", &["back"])])
        }
        _ => Some(LabelSelector { match_labels: Some(map(&[("app", app)])), match_expressions: None }),
    }
}

fn pod_term(dice: &mut Dice) -> core::PodAffinityTerm {
    let app = dice.pick(&APPS);
    let (namespaces, namespace_selector) = match dice.below(6) {
        0 => (Some(vec![dice.pick(&SPACES).to_owned()]), None),
        1 => (None, Some(LabelSelector::default())),
        2 => (
            None,
            Some(LabelSelector {
                match_labels: Some(map(&[("team", dice.pick(&SPACES))])),
                match_expressions: None,
            }),
        ),
        _ => (None, None),
    };
    let label_selector = selector(dice, app);
    // The API server writes them into the selector; where there is none, they are not looked at.
    let of_hash = label_selector.as_ref().map_or(2, |_| dice.below(12));
    core::PodAffinityTerm {
        label_selector,
        match_label_keys: (of_hash == 0).then(|| vec![HASH.to_owned()]),
        mismatch_label_keys: (of_hash == 1).then(|| vec![HASH.to_owned()]),
        topology_key: dice.pick(&[ZONE, HOST, "disk"]).into(),
        namespaces,
        namespace_selector,
    }
}

fn requirement(dice: &mut Dice) -> core::NodeSelectorRequirement {
    let (key, operator, values): (&str, &str, Vec<String>) = match dice.below(7) {
        0 => ("size", "Gt", vec![dice.below(4).to_string()]),
        1 => ("size", "Lt", vec![(1 + dice.below(5)).to_string()]),
        2 => ("disk", "Exists", vec![]),
        3 => ("disk", "DoesNotExist", vec![]),
        4 => (ZONE, "NotIn", vec![dice.pick(&ZONES).into()]),
        5 => ("disk", "In", vec![dice.pick(&DISKS).into()]),
        _ => (ZONE, "In", vec![dice.pick(&ZONES).into(), dice.pick(&ZONES).into()]),
    };
    core::NodeSelectorRequirement {
        key: key.into(),
        operator: operator.into(),
        values: (!values.is_empty()).then_some(values),
    }
}

fn affinity(dice: &mut Dice, constraints: u64) -> Option<core::Affinity> {
    let mut affinity = core::Affinity::default();
    if dice.chance(constraints) {
        let terms = (0..1 + dice.below(2)).map(|_| core::NodeSelectorTerm {
            match_expressions: Some((0..1 + dice.below(2)).map(|_| requirement(dice)).collect()),
            match_fields: dice.chance(10).then(|| {
                vec![core::NodeSelectorRequirement {
                    key: "metadata.name".into(),
                    operator: dice.pick(&["In", "NotIn"]).into(),
                    values: Some(vec![format!("node-{}", dice.below(4))]),
                }]
            }),
        });
        affinity.node_affinity = Some(core::NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(core::NodeSelector {
                node_selector_terms: terms.collect(),
            }),
            preferred_during_scheduling_ignored_during_execution: None,
        });
    }
    if dice.chance(constraints) {
        affinity.pod_affinity = Some(core::PodAffinity {
            required_during_scheduling_ignored_during_execution: Some(
                (0..1 + dice.below(2)).map(|_| pod_term(dice)).collect(),
            ),
            preferred_during_scheduling_ignored_during_execution: None,
        });
    }
    if dice.chance(constraints) {
        affinity.pod_anti_affinity = Some(core::PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(
                (0..1 + dice.below(2)).map(|_| pod_term(dice)).collect(),
            ),
            preferred_during_scheduling_ignored_during_execution: None,
        });
    }
    (affinity != core::Affinity::default()).then_some(affinity)
}

fn spread_over(dice: &mut Dice, key: &str, app: &str) -> core::TopologySpreadConstraint {
    let label_selector = selector(dice, app);
    let by_hash = label_selector.is_some() && dice.chance(20);
    core::TopologySpreadConstraint {
        label_selector,
        match_label_keys: by_hash.then(|| vec![HASH.to_owned()]),
        max_skew: 1 + i32::try_from(dice.below(2)).unwrap_or(0),
        min_domains: dice.chance(25).then(|| 1 + i32::try_from(dice.below(4)).unwrap_or(0)),
        node_affinity_policy: dice.chance(40).then(|| dice.pick(&["Honor", "Ignore"]).to_owned()),
        node_taints_policy: dice.chance(40).then(|| dice.pick(&["Honor", "Ignore"]).to_owned()),
        topology_key: key.into(),
        when_unsatisfiable: "DoNotSchedule".into(),
    }
}

/// A claim of the pod, bound to a volume in one zone.
fn volume(dice: &mut Dice, case: &mut Case, space: &str, pod: &str) -> core::Volume {
    let zone = dice.pick(&ZONES);
    let by_label = dice.chance(50);
    let capacity = BTreeMap::from([("storage".to_owned(), Quantity("1Gi".into()))]);
    let term = core::NodeSelectorTerm {
        match_expressions: Some(vec![core::NodeSelectorRequirement {
            key: ZONE.into(),
            operator: "In".into(),
            values: Some(vec![zone.into()]),
        }]),
        match_fields: None,
    };
    let affinity =
        core::VolumeNodeAffinity { required: Some(core::NodeSelector { node_selector_terms: vec![term] }) };
    let modes = Some(vec!["ReadWriteOnce".to_owned()]);
    case.volumes.push(core::PersistentVolume {
        metadata: ObjectMeta {
            name: Some(format!("volume-{pod}")),
            labels: by_label.then(|| map(&[(ZONE, zone)])),
            ..ObjectMeta::default()
        },
        spec: Some(core::PersistentVolumeSpec {
            capacity: Some(capacity.clone()),
            access_modes: modes.clone(),
            node_affinity: (!by_label).then_some(affinity),
            storage_class_name: Some("fast".into()),
            csi: Some(core::CSIPersistentVolumeSource {
                driver: "csi.example.com".into(),
                volume_handle: format!("handle-{pod}"),
                ..Default::default()
            }),
            ..core::PersistentVolumeSpec::default()
        }),
        status: None,
    });
    case.claims.push(core::PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("claim-{pod}")),
            namespace: Some(space.into()),
            annotations: Some(map(&[("pv.kubernetes.io/bind-completed", "yes")])),
            ..ObjectMeta::default()
        },
        spec: Some(core::PersistentVolumeClaimSpec {
            access_modes: modes,
            storage_class_name: Some("fast".into()),
            volume_name: Some(format!("volume-{pod}")),
            resources: Some(core::VolumeResourceRequirements { requests: Some(capacity), limits: None }),
            ..core::PersistentVolumeClaimSpec::default()
        }),
        status: None,
    });
    core::Volume {
        name: "data".into(),
        persistent_volume_claim: Some(core::PersistentVolumeClaimVolumeSource {
            claim_name: format!("claim-{pod}"),
            read_only: None,
        }),
        ..core::Volume::default()
    }
}

fn bind(dice: &mut Dice, pod: &mut core::Pod, node: &core::Node) {
    if let Some(spec) = &mut pod.spec {
        spec.node_name.clone_from(&node.metadata.name);
    }
    pod.status = Some(core::PodStatus {
        phase: Some("Running".into()),
        conditions: Some(vec![core::PodCondition {
            type_: "Ready".into(),
            status: if dice.chance(80) { "True" } else { "False" }.into(),
            ..core::PodCondition::default()
        }]),
        ..core::PodStatus::default()
    });
}

fn budget(dice: &mut Dice, at: u64) -> PodDisruptionBudget {
    let app = dice.pick(&APPS);
    PodDisruptionBudget {
        metadata: ObjectMeta {
            name: Some(format!("budget-{at}")),
            namespace: Some(dice.pick(&SPACES).into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodDisruptionBudgetSpec {
            selector: Some(LabelSelector {
                match_labels: Some(map(&[("app", app)])),
                match_expressions: None,
            }),
            unhealthy_pod_eviction_policy: dice.chance(30).then(|| "AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: Some(PodDisruptionBudgetStatus {
            disruptions_allowed: i32::try_from(dice.below(4)).unwrap_or(0),
            current_healthy: 1,
            desired_healthy: 2,
            expected_pods: 3,
            ..PodDisruptionBudgetStatus::default()
        }),
    }
}
