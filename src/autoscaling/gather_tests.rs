#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use rstest::rstest;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::claim::fixtures::free_host;

const API: &str = "infrastructure.cluster.x-k8s.io/v1alpha1";
const CORE: &str = "cluster.x-k8s.io/v1beta2";

fn object<K: DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn autoscaler(name: &str, made: i64, mode: &str) -> Arc<NodeGroupAutoscaler> {
    object(json!({
        "apiVersion": API, "kind": "NodeGroupAutoscaler",
        "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": at(made)},
        "spec": {
            "clusterName": "prod", "maxReplicas": 5, "actuationMode": mode,
            "scaleTargetRef": {"apiGroup": "cluster.x-k8s.io", "kind": "MachineDeployment", "name": "md"},
        },
    }))
}

fn deployment(replicas: i32, annotations: Value, conditions: Value) -> Arc<MachineDeployment> {
    object(json!({
        "apiVersion": CORE, "kind": "MachineDeployment",
        "metadata": {"name": "md", "namespace": "ns", "annotations": annotations},
        "spec": {"clusterName": "prod", "replicas": replicas, "template": {"spec": {
            "infrastructureRef": {"kind": "BareMetalMachineTemplate", "name": "t"},
        }}},
        "status": {"conditions": conditions},
    }))
}

fn machine(name: &str, node: Option<&str>, mark: Option<&str>) -> Arc<capi::Machine> {
    object(json!({
        "apiVersion": CORE, "kind": "Machine",
        "metadata": {
            "name": name, "namespace": "ns", "creationTimestamp": at(0),
            "labels": {"cluster.x-k8s.io/deployment-name": "md"},
            "annotations": mark.map(|mark| json!({"cluster.x-k8s.io/delete-machine": mark})),
        },
        "spec": {"clusterName": "prod", "infrastructureRef": {"kind": "BareMetalMachine", "name": name}},
        "status": {"nodeRef": node.map(|node| json!({"name": node}))},
    }))
}

fn objects(replicas: i32) -> Objects {
    let template = json!({
        "apiVersion": API, "kind": "BareMetalMachineTemplate", "metadata": {"name": "t", "namespace": "ns"},
        "spec": {"template": {"spec": {}}}, "status": {"capacity": {"cpu": "8", "memory": "30Gi"}},
    });
    let mut hosts = vec![free_host("a"), free_host("b")];
    for host in &mut hosts {
        host.metadata.namespace = Some("ns".to_owned());
    }
    Objects {
        cluster: Some(object(json!({
            "apiVersion": CORE, "kind": "Cluster", "metadata": {"name": "prod", "namespace": "ns"}, "spec": {},
        }))),
        autoscalers: vec![autoscaler("g", 10, "Direct")],
        deployments: vec![deployment(replicas, json!({}), json!([]))],
        templates: vec![object(template)],
        hosts: hosts.into_iter().map(Arc::new).collect(),
        ..Objects::default()
    }
}

fn node(ready: bool, ready_since: i64, draining: Option<&str>) -> NodeFacts {
    NodeFacts {
        created: Some(at(100)),
        ready,
        ready_since: Some(at(ready_since)),
        draining: draining.map(|group| (group.to_owned(), at(500))),
        ..NodeFacts::default()
    }
}

fn only(objects: &Objects, nodes: &BTreeMap<String, NodeFacts>) -> Gathered {
    found(objects, nodes).remove("g").unwrap().unwrap()
}

fn found(
    objects: &Objects,
    nodes: &BTreeMap<String, NodeFacts>,
) -> BTreeMap<String, Result<Gathered, Unable>> {
    let neighbours = pools::Neighbours {
        autoscalers: objects.autoscalers.clone(),
        deployments: objects.deployments.clone(),
        templates: objects.templates.clone(),
        hosts: objects.hosts.clone(),
    };
    groups(objects, nodes, &pools::plan(&neighbours, at(0)))
}

#[test]
fn a_group_is_found_with_what_it_could_have() {
    let found = only(&objects(0), &BTreeMap::new());
    assert_eq!((found.replicas, found.group.replicas, found.group.free.all()), (0, 0, 2));
    assert_eq!(found.group.offers["cpu"], "8");
    assert!(found.template.is_some());
    assert_eq!(found.group.hold, None);
}

#[test]
fn machines_are_on_their_way_until_their_node_was_ready() {
    let mut all = objects(4);
    for (name, node) in [("new", None), ("joined", Some("n1")), ("up", Some("n2")), ("down", Some("n3"))] {
        all.machines.push(machine(name, node, None));
    }
    let nodes = BTreeMap::from([
        ("n1".to_owned(), node(false, 101, None)),
        ("n2".to_owned(), node(true, 130, None)),
        ("n3".to_owned(), node(false, 9000, None)),
    ]);
    let found = only(&all, &nodes);
    let flying: Vec<_> = found.group.in_flight(at(200)).map(|machine| machine.name.as_str()).collect();
    assert_eq!(
        flying,
        ["joined", "new"],
        "a node that broke is not on its way: it must not be taken for late"
    );
    // Nothing is known of nodes: none of them is taken for late either.
    let blind = only(&all, &BTreeMap::new());
    assert_eq!(
        blind.group.late(at(100_000)).map(|machine| machine.name.as_str()).collect::<Vec<_>>(),
        ["new"]
    );
}

#[test]
fn nodes_that_are_emptied_do_not_count_until_they_are_paid_for() {
    let mut all = objects(2);
    all.machines =
        vec![machine("a", Some("n1"), None), machine("b", Some("n2"), Some(capi::DELETE_MACHINE_OURS))];
    let nodes = BTreeMap::from([
        ("n1".to_owned(), node(true, 130, None)),
        ("n2".to_owned(), node(true, 130, Some("g"))),
    ]);
    let found = only(&all, &nodes);
    assert_eq!((found.replicas, found.group.replicas, found.drains.len()), (2, 1, 1));
    assert!(found.drains[0].marked && found.stale_marks.is_empty());
    all.deployments = vec![deployment(1, json!({}), json!([]))];
    let lowered = only(&all, &nodes);
    assert_eq!((lowered.replicas, lowered.group.replicas), (1, 1));
    // One that is emptied for another group is none of ours, and the number was lowered for what is marked.
    let other = BTreeMap::from([("n2".to_owned(), node(true, 130, Some("other")))]);
    let paid = only(&all, &other);
    assert_eq!((paid.drains.len(), paid.stale_marks.len(), paid.group.surplus()), (0, 0, false));
    assert!(paid.group.machines[1].deleting && !paid.group.machines[1].returnable);
    // A mark of ours for which it was not lowered is left over.
    all.deployments = vec![deployment(2, json!({}), json!([]))];
    assert_eq!(only(&all, &other).stale_marks, ["b"]);
}

#[test]
fn a_late_machine_is_paid_for_once() {
    let mut all = objects(2);
    all.machines = vec![
        machine("late", None, Some(capi::DELETE_MACHINE_OURS)),
        machine("n1", Some("n1"), None),
        machine("n2", Some("n2"), None),
    ];
    let nodes =
        BTreeMap::from([("n1".to_owned(), node(true, 130, None)), ("n2".to_owned(), node(true, 130, None))]);
    let found = only(&all, &nodes);
    assert_eq!(
        found.group.late(at(100_000)).count(),
        0,
        "the number was lowered for it: it is not late once more"
    );
    // Lowered by somebody else, who did not say for which: nothing more is lowered meanwhile.
    all.machines[0] = machine("late", None, None);
    assert!(only(&all, &nodes).group.surplus());
}

#[test]
fn a_node_is_known_before_cluster_api_has_seen_it() {
    let mut all = objects(1);
    all.machines = vec![machine("m", None, None)];
    all.bare_metal_machines = vec![object(json!({
        "apiVersion": API, "kind": "BareMetalMachine", "metadata": {"name": "m", "namespace": "ns"},
        "spec": {"providerID": "ferric://a/1"},
    }))];
    let facts = NodeFacts { provider_id: Some("ferric://a/1".to_owned()), ..node(true, 130, None) };
    let found = only(&all, &BTreeMap::from([("n".to_owned(), facts)]));
    assert_eq!(found.group.machines[0].node.as_deref(), Some("n"));
}

#[test]
fn what_people_take_in_hand_is_seen() {
    let mut all = objects(2);
    all.machines = vec![machine("a", Some("n1"), Some("please")), machine("b", Some("n2"), None)];
    let facts = |cordoned, kept| NodeFacts { cordoned, kept, ..node(true, 130, Some("g")) };
    let stop = |facts: NodeFacts| {
        let found = only(&all, &BTreeMap::from([("n2".to_owned(), facts)]));
        assert_eq!(found.foreign_marks, ["a"]);
        assert_eq!((found.group.returnable(), found.group.effective_max()), (1, 2));
        found.drains[0].stop
    };
    assert_eq!(stop(facts(true, false)), None);
    assert!(stop(facts(false, false)).is_some() && stop(facts(true, true)).is_some());
}

#[rstest]
#[case::free(json!({}), json!([]), "Direct", None)]
#[case::paused(json!({"cluster.x-k8s.io/paused": ""}), json!([]), "Direct", Some("MachineDeployment md is paused"))]
#[case::another_writer(json!({delegate::MAX: "3"}), json!([]), "Direct", Some("cluster-autoscaler"))]
#[case::ours(json!({delegate::MAX: "3", delegate::OURS: "5s"}), json!([]), "Direct", None)]
#[case::beside_it(json!({delegate::MAX: "3"}), json!([]), "Recommend", None)]
#[case::rolled_out(
    json!({}),
    json!([{"type": "RollingOut", "status": "True", "reason": "x", "message": "", "lastTransitionTime": at(0)}]),
    "Direct",
    Some("rolled out")
)]
fn what_holds_it(
    #[case] annotations: Value,
    #[case] conditions: Value,
    #[case] mode: &str,
    #[case] said: Option<&str>,
) {
    let mut all = objects(0);
    all.autoscalers = vec![autoscaler("g", 0, mode)];
    all.deployments = vec![deployment(0, annotations, conditions)];
    let hold = only(&all, &BTreeMap::new()).group.hold;
    match (hold, said) {
        (None, None) => {}
        (Some(hold), Some(said)) => {
            assert!(hold.to_string().contains(said), "{hold}");
        }
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::set(json!({"name": "workers", "replicas": 3}), "Direct", true)]
#[case::set_to_none(json!({"name": "workers", "replicas": 0}), "Delegate", true)]
#[case::unset(json!({"name": "workers"}), "Direct", false)]
#[case::of_another(json!({"name": "others", "replicas": 3}), "Direct", false)]
#[case::nobody_writes_here(json!({"name": "workers", "replicas": 3}), "Recommend", false)]
fn a_number_that_the_topology_says_is_not_written(
    #[case] of_topology: Value,
    #[case] mode: &str,
    #[case] held: bool,
) {
    let mut all = objects(0);
    all.autoscalers = vec![autoscaler("g", 0, mode)];
    all.cluster = Some(object(json!({
        "apiVersion": CORE, "kind": "Cluster", "metadata": {"name": "prod", "namespace": "ns"},
        "spec": {"topology": {"classRef": {"name": "racks"}, "workers": {"machineDeployments": [of_topology]}}},
    })));
    let label = |all: &mut Objects, labels: Value| {
        let mut deployment = (*all.deployments[0]).clone();
        deployment.metadata.labels = serde_json::from_value(labels).unwrap();
        all.deployments = vec![Arc::new(deployment)];
    };
    let hold = Hold::Topology { cluster: "prod".to_owned(), name: "workers".to_owned() };
    assert!(hold.to_string().contains("`replicas` of workers from spec.topology.workers.machineDeployments"));
    label(&mut all, json!({capi::TOPOLOGY_OWNED_LABEL: "", capi::TOPOLOGY_DEPLOYMENT_LABEL: "workers"}));
    assert_eq!(only(&all, &BTreeMap::new()).group.hold, held.then_some(hold));
    // One that only has the name is nobody's but its owner's.
    label(&mut all, json!({capi::TOPOLOGY_DEPLOYMENT_LABEL: "workers"}));
    assert_eq!(only(&all, &BTreeMap::new()).group.hold, None);
}

#[test]
fn the_older_of_two_works() {
    let mut all = objects(0);
    all.autoscalers = vec![autoscaler("young", 20, "Direct"), autoscaler("old", 5, "Direct")];
    let mut found = found(&all, &BTreeMap::new());
    assert_eq!(found.remove("old").unwrap().unwrap().group.hold, None);
    assert_eq!(found.remove("young").unwrap().unwrap().group.hold, Some(Hold::Older("old".to_owned())));
}

#[test]
fn what_is_missing_is_named() {
    let mut all = objects(0);
    all.templates.clear();
    let why = found(&all, &BTreeMap::new()).remove("g").unwrap().unwrap_err();
    assert_eq!(
        (why.reason, why.message.as_str()),
        ("TemplateNotFound", "there is no BareMetalMachineTemplate t")
    );
    all.deployments.clear();
    assert_eq!(found(&all, &BTreeMap::new()).remove("g").unwrap().unwrap_err().reason, "TargetNotFound");
}
