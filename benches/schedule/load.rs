//! Clusters to measure with: owners of pods with the constraints that are usual, in equal parts.

use std::collections::BTreeMap;

use ferric::autoscaling::schedule::cases::Dice;
use ferric::autoscaling::schedule::{Cluster, Group};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
const ZONES: [&str; 3] = ["a", "b", "c"];

/// The kinds of pods, by owner in turn: none, spread over zones, spread over hosts, apart by host, together by zone, and
/// for one kind of disk only.
pub const KINDS: usize = 6;

/// What a node has for pods: thousandths of a core, bytes, how many.
pub const CPU: i64 = 15_900;
pub const MEMORY: i64 = 62 << 30;
pub const PODS: i64 = 110;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// 16 cores, 64 GiB, 110 pods, in one of three zones; every second with an SSD.
pub fn node(at: usize) -> core::Node {
    let name = format!("node-{at:05}");
    let disk = if (at / ZONES.len()).is_multiple_of(2) { "ssd" } else { "hdd" };
    let allocatable =
        [("cpu", format!("{CPU}m")), ("memory", MEMORY.to_string()), ("pods", PODS.to_string())];
    core::Node {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(map(&[(HOST, &name), (ZONE, ZONES[at % ZONES.len()]), ("disk", disk)])),
            ..ObjectMeta::default()
        },
        spec: None,
        status: Some(core::NodeStatus {
            allocatable: Some(
                allocatable.into_iter().map(|(key, value)| (key.into(), Quantity(value))).collect(),
            ),
            ..core::NodeStatus::default()
        }),
    }
}

/// One owner's pods, all alike.
pub fn owner(at: usize, constraints: bool, unlike: bool) -> core::Pod {
    let mut dice = Dice::new(at as u64);
    let app = format!("app-{at}");
    let cpu =
        [50, 100, 250, 250, 500, 1000][dice.below(6) as usize] + if unlike { dice.below(50) } else { 0 };
    let memory = [128, 256, 256, 512, 1024, 2048][dice.below(6) as usize];
    let requests = [("cpu", format!("{cpu}m")), ("memory", format!("{memory}Mi"))];
    let own = || Some(LabelSelector { match_labels: Some(map(&[("app", &app)])), match_expressions: None });
    let term = |key: &str| core::PodAffinityTerm {
        label_selector: own(),
        topology_key: key.into(),
        ..core::PodAffinityTerm::default()
    };
    let spread = |key: &str| core::TopologySpreadConstraint {
        label_selector: own(),
        max_skew: 1,
        topology_key: key.into(),
        when_unsatisfiable: "DoNotSchedule".into(),
        ..core::TopologySpreadConstraint::default()
    };
    let mut spec = core::PodSpec {
        containers: vec![core::Container {
            name: "main".into(),
            resources: Some(core::ResourceRequirements {
                requests: Some(
                    requests.into_iter().map(|(key, value)| (key.into(), Quantity(value))).collect(),
                ),
                ..core::ResourceRequirements::default()
            }),
            ..core::Container::default()
        }],
        ..core::PodSpec::default()
    };
    match if constraints { at % KINDS } else { 0 } {
        1 => spec.topology_spread_constraints = Some(vec![spread(ZONE)]),
        2 => spec.topology_spread_constraints = Some(vec![spread(HOST)]),
        3 => {
            let apart = core::PodAntiAffinity {
                required_during_scheduling_ignored_during_execution: Some(vec![term(HOST)]),
                ..core::PodAntiAffinity::default()
            };
            spec.affinity =
                Some(core::Affinity { pod_anti_affinity: Some(apart), ..core::Affinity::default() });
        }
        4 => {
            let together = core::PodAffinity {
                required_during_scheduling_ignored_during_execution: Some(vec![term(ZONE)]),
                ..core::PodAffinity::default()
            };
            spec.affinity =
                Some(core::Affinity { pod_affinity: Some(together), ..core::Affinity::default() });
        }
        5 => spec.node_selector = Some(map(&[("disk", "ssd")])),
        _ => {}
    }
    core::Pod {
        metadata: ObjectMeta {
            namespace: Some(format!("space-{}", at % 50)),
            labels: Some(map(&[("app", &app), ("pod-template-hash", "5d59d67564")])),
            owner_references: Some(vec![OwnerReference {
                kind: "ReplicaSet".into(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// Adds an owner's pods, on nodes if there are any.
pub fn replicas(cluster: &mut Cluster, owner: &core::Pod, from: usize, count: usize, on: &[Option<&str>]) {
    let mut pod = owner.clone();
    let app =
        owner.metadata.labels.as_ref().and_then(|labels| labels.get("app")).cloned().unwrap_or_default();
    for at in from..from + count {
        pod.metadata.name = Some(format!("{app}-5d59d67564-{at:05}"));
        let node = on.get(at - from).copied().flatten();
        if let Some(spec) = &mut pod.spec {
            spec.node_name = node.map(str::to_owned);
        }
        pod.status = node.map(|_| core::PodStatus {
            phase: Some("Running".into()),
            conditions: Some(vec![core::PodCondition {
                type_: "Ready".into(),
                status: "True".into(),
                ..core::PodCondition::default()
            }]),
            ..core::PodStatus::default()
        });
        cluster.put_pod(&pod);
    }
}

/// A group for each zone and kind of disk.
pub fn groups(cluster: &mut Cluster, limit: u32) -> Vec<Group> {
    (0..2 * ZONES.len())
        .map(|at| Group {
            name: format!("group-{at}"),
            template: cluster.template(&node(at)),
            limit,
            in_flight: 0,
            rank: 0,
            size: 0,
            only_for: None,
            places: Vec::new(),
            firm: 0,
        })
        .collect()
}
