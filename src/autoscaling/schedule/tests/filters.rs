//! One table for each filter plugin of kube-scheduler, with its documented meaning.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;

/// Which of the nodes take the pod `p`.
fn takes(nodes: &[Node], pods: &[Pod]) -> Vec<bool> {
    verdicts(&cluster(nodes, pods), "p").iter().map(String::is_empty).collect()
}

#[rstest]
#[case::fits(json!({}), "")]
#[case::exactly(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "3", "memory": "8Gi"}}}]}}), "")]
#[case::cpu(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "3001m"}}}]}}), "insufficient cpu")]
#[case::two(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"memory": "9Gi", "cpu": "4"}}}]}}),
    "insufficient cpu, memory")]
#[case::unknown_resource(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"nvidia.com/gpu": "1"}}}]}}),
    "insufficient nvidia.com/gpu")]
#[case::nothing_asked(json!({"spec": {"containers": [{"name": "c"}]}}), "")]
#[case::no_quantity(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "x"}}}]}}),
    "a request is not a quantity")]
#[case::claims(json!({"spec": {"resourceClaims": [{"name": "gpu"}]}}), "resource claims are not simulated")]
fn node_resources_fit(#[case] change: Value, #[case] expected: &str) {
    let pods = [bound("other", "n", json!({})), pod("p", change)];
    assert_eq!(verdicts(&cluster(&[node("n", json!({}))], &pods), "p"), [expected]);
}

#[test]
fn a_node_has_only_so_many_places() {
    let small = node("n", json!({"status": {"allocatable": {"pods": "1"}}}));
    let pods = [bound("other", "n", json!({})), pod("p", json!({}))];
    assert_eq!(verdicts(&cluster(&[small], &pods), "p"), ["too many pods"]);
}

#[test]
fn a_node_that_holds_too_much_still_takes_a_pod_that_asks_for_nothing() {
    let huge = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "9"}}}]}});
    let free = json!({"spec": {"containers": [{"name": "c", "resources": null}]}});
    let pods = [bound("other", "n", huge), pod("p", free)];
    assert_eq!(verdicts(&cluster(&[node("n", json!({}))], &pods), "p"), [""]);
}

#[rstest]
#[case(json!({"spec": {"unschedulable": true}}), "node is unschedulable")]
#[case(json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}), "node is not ready")]
#[case(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}), "")]
#[case(json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}), "untolerated taint k=v:NoSchedule")]
#[case(json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}), "untolerated taint k:NoExecute")]
#[case(json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "PreferNoSchedule"}]}}), "")]
fn nodes_that_keep_pods_off(#[case] change: Value, #[case] expected: &str) {
    assert_eq!(verdicts(&cluster(&[node("n", change)], &[pod("p", json!({}))]), "p"), [expected]);
}

/// It was told by the order in which names were first seen.
#[test]
fn the_first_taint_is_told() {
    let taints = json!([{"key": "b", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]);
    let nodes = [
        node("n1", json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}})),
        node("n2", json!({"spec": {"taints": taints}})),
    ];
    let said = verdicts(&cluster(&nodes, &[pod("p", json!({}))]), "p");
    assert_eq!(said, ["untolerated taint a:NoSchedule", "untolerated taint b:NoSchedule"]);
}

#[test]
fn who_tolerates_a_cordon_goes_on_a_cordoned_node() {
    let toleration =
        json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}});
    let cordoned = node("n", json!({"spec": {"unschedulable": true}}));
    assert_eq!(takes(&[cordoned], &[pod("p", toleration)]), [true]);
}

#[rstest]
#[case(json!({"key": "k", "value": "v"}), true)]
#[case(json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}), true)]
#[case(json!({"key": "k", "operator": "Exists"}), true)]
#[case(json!({"operator": "Exists"}), true)]
#[case(json!({"operator": "Exists", "effect": "NoSchedule"}), true)]
#[case(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false)]
#[case(json!({"key": "k", "operator": "Exists", "effect": "PreferNoSchedule"}), false)]
#[case(json!({"key": "k", "value": "w"}), false)]
#[case(json!({"key": "k"}), false)]
#[case(json!({"key": "j", "operator": "Exists"}), false)]
#[case(json!({"value": "v"}), true)]
#[case(json!({"key": "k", "operator": "Gt", "value": "v"}), false)]
fn taint_toleration(#[case] toleration: Value, #[case] expected: bool) {
    let tainted =
        node("n", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}));
    assert_eq!(takes(&[tainted], &[pod("p", json!({"spec": {"tolerations": [toleration]}}))]), [expected]);
}

fn required(terms: Value) -> Value {
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}})
}

fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"key": key, "operator": operator, "values": values})
}

#[rstest]
#[case::in_(json!([{"matchExpressions": [expression("disk", "In", &["ssd", "nvme"])]}]), [true, false])]
#[case::not_in(json!([{"matchExpressions": [expression("disk", "NotIn", &["ssd"])]}]), [false, true])]
#[case::exists(json!([{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]), [true, true])]
#[case::absent(json!([{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]), [true, true])]
#[case::greater(json!([{"matchExpressions": [expression("size", "Gt", &["2"])]}]), [true, false])]
#[case::less(json!([{"matchExpressions": [expression("size", "Lt", &["3"])]}]), [false, true])]
#[case::not_a_number(json!([{"matchExpressions": [expression("size", "Lt", &["big"])]}]), [false, false])]
#[case::two_numbers(json!([{"matchExpressions": [expression("size", "Lt", &["3", "4"])]}]), [false, false])]
#[case::all_of_a_term(json!([{"matchExpressions": [expression("disk", "In", &["ssd"]), expression("size", "Lt", &["3"])]}]),
    [false, false])]
#[case::one_of_the_terms(json!([{"matchExpressions": [expression("disk", "In", &["ssd"])]},
    {"matchExpressions": [expression("size", "Lt", &["3"])]}]), [true, true])]
#[case::no_term(json!([]), [false, false])]
#[case::empty_term(json!([{}]), [false, false])]
#[case::unreadable_terms_do_not_spoil_others(json!([{"matchExpressions": [expression("disk", "Like", &["ssd"])]},
    {"matchExpressions": [expression("disk", "In", &["hdd"])]}]), [false, true])]
#[case::values_that_no_label_has(json!([{"matchExpressions": [expression("disk", "NotIn", &["not valid!"])]}]), [false, false])]
#[case::name(json!([{"matchFields": [expression("metadata.name", "In", &["n1"])]}]), [true, false])]
#[case::not_this_name(json!([{"matchFields": [expression("metadata.name", "NotIn", &["n1"])]}]), [false, true])]
#[case::two_names(json!([{"matchFields": [expression("metadata.name", "In", &["n1", "n2"])]}]), [false, false])]
#[case::name_and_label(json!([{"matchFields": [expression("metadata.name", "In", &["n1"])],
    "matchExpressions": [expression("disk", "In", &["hdd"])]}]), [false, false])]
fn node_affinity(#[case] terms: Value, #[case] expected: [bool; 2]) {
    let nodes = [
        node("n1", json!({"metadata": {"labels": {"disk": "ssd", "size": "3"}}})),
        node("n2", json!({"metadata": {"labels": {"disk": "hdd", "size": "2"}}})),
    ];
    assert_eq!(takes(&nodes, &[pod("p", json!({"spec": {"affinity": required(terms)}}))]), expected);
}

#[test]
fn a_node_selector_and_an_affinity_must_both_match() {
    let nodes = [
        node("n1", json!({"metadata": {"labels": {"disk": "ssd", "size": "3"}}})),
        node("n2", json!({"metadata": {"labels": {"disk": "ssd"}}})),
    ];
    let affinity = required(json!([{"matchExpressions": [{"key": "size", "operator": "Exists"}]}]));
    let wanting = pod("p", json!({"spec": {"nodeSelector": {"disk": "ssd"}, "affinity": affinity}}));
    assert_eq!(takes(&nodes, &[wanting]), [true, false]);
}

#[test]
fn a_bound_pod_fits_no_other_node_until_it_is_taken_off() {
    let cluster = cluster(&[node("n1", json!({})), node("n2", json!({}))], &[bound("p", "n1", json!({}))]);
    let mut simulation = Simulation::new(&cluster);
    let (pod, other) = (find(&simulation, "p"), simulation.node("n2").unwrap());
    assert_eq!(simulation.feasible(pod, other), Err(super::super::Reason::OtherNode));
    simulation.take(pod);
    assert_eq!(simulation.feasible(pod, other), Ok(()));
}

fn port(port: Value) -> Value {
    json!({"spec": {"containers": [{"name": "main", "ports": [port]}]}})
}

#[rstest]
#[case(json!({"containerPort": 1, "hostPort": 80}), false)]
#[case(json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"}), true)]
#[case(json!({"containerPort": 1, "hostPort": 81}), true)]
#[case(json!({"containerPort": 80}), true)]
#[case(json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"}), false)]
#[case(json!({"containerPort": 1, "hostPort": 80, "hostIP": "0.0.0.0"}), false)]
fn node_ports(#[case] wanted: Value, #[case] expected: bool) {
    let taken = port(json!({"containerPort": 1, "hostPort": 80}));
    assert_eq!(
        takes(&[node("n", json!({}))], &[bound("other", "n", taken), pod("p", port(wanted))]),
        [expected]
    );
}

#[test]
fn a_port_of_a_sidecar_counts_and_one_of_an_init_container_does_not() {
    for (policy, expected) in [(json!("Always"), false), (Value::Null, true)] {
        let ports = json!([{"containerPort": 1, "hostPort": 80}]);
        let init =
            json!({"spec": {"initContainers": [{"name": "i", "restartPolicy": policy, "ports": ports}]}});
        let taken = port(json!({"containerPort": 1, "hostPort": 80}));
        assert_eq!(takes(&[node("n", json!({}))], &[bound("other", "n", taken), pod("p", init)]), [expected]);
    }
}

fn zoned(name: &str, zone: &str) -> Node {
    node(name, json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}))
}

/// One constraint over zones for pods with `app: web`.
fn spread(change: Value) -> Value {
    let mut constraint = json!({
        "topologyKey": "topology.kubernetes.io/zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    });
    merge(&mut constraint, change);
    json!({"spec": {"topologySpreadConstraints": [constraint]}})
}

/// Two pods in zone a, one in b, none in c.
#[rstest]
#[case::even(json!({}), [false, false, true])]
#[case::skew_of_two(json!({"maxSkew": 2}), [false, true, true])]
#[case::skew_of_three(json!({"maxSkew": 3}), [true, true, true])]
#[case::a_wish(json!({"whenUnsatisfiable": "ScheduleAnyway"}), [true, true, true])]
#[case::of_others(json!({"labelSelector": {"matchLabels": {"app": "db"}}}), [true, true, true])]
#[case::of_all_counts_none(json!({"labelSelector": {"matchLabels": null}}), [true, true, true])]
#[case::of_none(json!({"labelSelector": null}), [true, true, true])]
#[case::enough_domains(json!({"maxSkew": 2, "minDomains": 3}), [false, true, true])]
#[case::too_few_domains(json!({"maxSkew": 2, "minDomains": 4}), [false, true, true])]
#[case::same_revision(json!({"matchLabelKeys": ["hash"]}), [true, true, true])]
#[case::another_label(json!({"topologyKey": "rack"}), [false, false, false])]
fn pod_topology_spread(#[case] change: Value, #[case] expected: [bool; 3]) {
    let nodes = [zoned("n1", "a"), zoned("n2", "b"), zoned("n3", "c")];
    let old = |name, on| bound(name, on, json!({"metadata": {"labels": {"hash": "old"}}}));
    let mut new = spread(change);
    merge(&mut new, json!({"metadata": {"labels": {"hash": "new"}}}));
    let pods = [old("1", "n1"), old("2", "n1"), old("3", "n2"), pod("p", new)];
    assert_eq!(takes(&nodes, &pods), expected);
}

#[rstest]
#[case::without(json!({}), true)]
#[case::fewer_domains_than_wanted_count_as_an_empty_one(json!({"minDomains": 3}), false)]
fn min_domains(#[case] change: Value, #[case] expected: bool) {
    let nodes = [zoned("n1", "a"), zoned("n2", "b")];
    let pods = [bound("1", "n1", json!({})), bound("2", "n2", json!({})), pod("p", spread(change))];
    assert_eq!(takes(&nodes, &pods), [expected, expected]);
}

/// Zone b has no pod, and its only node is excluded: by affinity or by a taint.
#[rstest]
#[case::excluded_by_affinity(json!({}), json!({"disk": "hdd"}), json!([]), true)]
#[case::affinity_ignored(json!({"nodeAffinityPolicy": "Ignore"}), json!({"disk": "hdd"}), json!([]), false)]
#[case::taint_ignored(json!({}), json!({"disk": "ssd"}), json!([{"key": "k", "effect": "NoSchedule"}]), false)]
#[case::taint_honoured(json!({"nodeTaintsPolicy": "Honor"}), json!({"disk": "ssd"}),
    json!([{"key": "k", "effect": "NoSchedule"}]), true)]
#[case::soft_taint(json!({"nodeTaintsPolicy": "Honor"}), json!({"disk": "ssd"}),
    json!([{"key": "k", "effect": "PreferNoSchedule"}]), false)]
fn which_nodes_are_domains(
    #[case] policy: Value,
    #[case] labels: Value,
    #[case] taints: Value,
    #[case] on_a: bool,
) {
    let a = node("n1", json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let mut b =
        json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "b"}}, "spec": {"taints": taints}});
    merge(&mut b, json!({"metadata": {"labels": labels}}));
    let mut wanting = spread(policy);
    merge(&mut wanting, json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
    let pods = [bound("1", "n1", json!({})), pod("p", wanting)];
    assert_eq!(takes(&[a, node("n2", b)], &pods)[0], on_a);
}

#[test]
fn pods_that_leave_and_those_of_other_namespaces_do_not_count_for_spread() {
    let nodes = [zoned("n1", "a"), zoned("n2", "b")];
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let foreign = json!({"metadata": {"namespace": "green"}});
    let pods = [bound("1", "n1", leaving), bound("2", "n1", foreign), pod("p", spread(json!({})))];
    assert_eq!(takes(&nodes, &pods), [true, true]);
}

fn together(terms: Value) -> Value {
    json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}})
}

fn apart(terms: Value) -> Value {
    json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}})
}

fn term(app: &str, key: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

/// `db` runs on n1, `cache` on n2, both in zone a; n3 is in zone b.
#[rstest]
#[case::same_node(json!([term("db", HOST)]), [true, false, false])]
#[case::same_zone(json!([term("db", ZONE)]), [true, true, false])]
#[case::unknown_label(json!([term("db", "rack")]), [false, false, false])]
#[case::nobody(json!([term("mail", ZONE)]), [false, false, false])]
#[case::itself_first(json!([term("web", ZONE)]), [true, true, true])]
#[case::itself_needs_the_label(json!([term("web", "rack")]), [false, false, false])]
#[case::all_terms_by_one_pod(json!([term("db", ZONE), term("cache", ZONE)]), [false, false, false])]
#[case::two_labels(json!([term("db", ZONE), term("db", HOST)]), [true, false, false])]
#[case::no_selector(json!([{"topologyKey": ZONE}]), [false, false, false])]
#[case::any_pod(json!([{"topologyKey": HOST, "labelSelector": {}}]), [true, true, false])]
#[case::other_namespace(json!([{"topologyKey": ZONE, "labelSelector": {}, "namespaces": ["green"]}]), [false, false, false])]
#[case::any_namespace(json!([{"topologyKey": HOST, "labelSelector": {}, "namespaceSelector": {}}]), [true, true, false])]
fn pod_affinity(#[case] terms: Value, #[case] expected: [bool; 3]) {
    let nodes = [zoned("n1", "a"), zoned("n2", "a"), zoned("n3", "b")];
    let app = |app| json!({"metadata": {"labels": {"app": app}}});
    let pods = [bound("db", "n1", app("db")), bound("cache", "n2", app("cache")), pod("p", together(terms))];
    assert_eq!(takes(&nodes, &pods), expected);
}

#[rstest]
#[case::same_node(json!([term("db", HOST)]), [false, true, true])]
#[case::same_zone(json!([term("db", ZONE)]), [false, false, true])]
#[case::unknown_label(json!([term("db", "rack")]), [true, true, true])]
#[case::either(json!([term("db", HOST), term("cache", HOST)]), [false, false, true])]
#[case::no_selector(json!([{"topologyKey": ZONE}]), [true, true, true])]
#[case::other_namespace(json!([{"topologyKey": ZONE, "labelSelector": {}, "namespaces": ["green"]}]), [true, true, true])]
fn pod_anti_affinity_both_ways(#[case] terms: Value, #[case] expected: [bool; 3]) {
    let nodes = [zoned("n1", "a"), zoned("n2", "a"), zoned("n3", "b")];
    let app = |app| json!({"metadata": {"labels": {"app": app}}});
    let pods =
        [bound("db", "n1", app("db")), bound("cache", "n2", app("cache")), pod("p", apart(terms.clone()))];
    assert_eq!(takes(&nodes, &pods), expected);

    // The same terms held by a running pod keep off a pod that they match.
    let mut holder = apart(terms);
    merge(&mut holder, json!({"metadata": {"labels": {"app": "holder"}}}));
    let mut guest = app("db");
    merge(&mut guest, json!({}));
    let pods = [bound("holder", "n1", holder), pod("p", guest)];
    let found = takes(&nodes, &pods);
    if expected == [false, true, true] {
        assert_eq!(found, [false, true, true]);
    } else if expected == [false, false, true] {
        assert!(!found[0] && found[2]);
    } else {
        assert_eq!(found, [true, true, true]);
    }
}

#[test]
fn namespaces_are_chosen_by_their_labels() {
    let mut cluster = cluster(
        &[zoned("n1", "a"), zoned("n2", "b")],
        &[
            bound("db", "n1", json!({"metadata": {"namespace": "green", "labels": {"app": "db"}}})),
            pod(
                "p",
                together(json!([{"topologyKey": ZONE, "labelSelector": {"matchLabels": {"app": "db"}},
                "namespaceSelector": {"matchLabels": {"team": "data"}}}])),
            ),
        ],
    );
    assert_eq!(verdicts(&cluster, "p"), ["pod affinity does not match"; 2]);
    cluster.put_namespace(&object(json!({"metadata": {"name": "green", "labels": {"team": "data"}}})));
    assert_eq!(verdicts(&cluster, "p"), ["", "pod affinity does not match"]);
}

#[rstest]
#[case::by_affinity(json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
    {"matchExpressions": [expression(ZONE, "In", &["b"])]}]}}}}), ["volume node affinity conflict", ""])]
#[case::by_label(json!({"metadata": {"labels": {ZONE: "b"}}}), ["volume is in another zone", ""])]
#[case::several_zones(json!({"metadata": {"labels": {ZONE: "b__a"}}}), ["", ""])]
#[case::old_label(json!({"metadata": {"labels": {"failure-domain.beta.kubernetes.io/zone": "b"}}}),
    ["volume is in another zone", ""])]
#[case::anywhere(json!({}), ["", ""])]
fn bound_volumes(#[case] volume: Value, #[case] expected: [&str; 2]) {
    let mut base = json!({"metadata": {"name": "v"}, "spec": {}});
    merge(&mut base, volume);
    let claiming =
        json!({"spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}});
    let mut cluster = cluster(&[zoned("n1", "a"), zoned("n2", "b")], &[pod("p", claiming)]);
    cluster.put_volume(&object(base));
    assert_eq!(verdicts(&cluster, "p"), ["volume claim c is not bound and cannot be here"; 2]);
    cluster.put_claim(&object(json!({
        "metadata": {"name": "c", "namespace": "blue", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": "v"},
    })));
    assert_eq!(verdicts(&cluster, "p"), expected);
}

#[rstest]
#[case::made_on_demand(json!({"volumeBindingMode": "WaitForFirstConsumer"}), [true, true])]
#[case::at_once(json!({"volumeBindingMode": "Immediate"}), [false, false])]
#[case::by_hand(json!({"volumeBindingMode": "WaitForFirstConsumer", "provisioner": "kubernetes.io/no-provisioner"}),
    [false, false])]
#[case::in_one_zone(json!({"volumeBindingMode": "WaitForFirstConsumer", "allowedTopologies": [
    {"matchLabelExpressions": [{"key": ZONE, "values": ["b"]}]}]}), [false, true])]
fn volumes_to_be_made(#[case] change: Value, #[case] expected: [bool; 2]) {
    let mut class = json!({"metadata": {"name": "fast"}, "provisioner": "csi.example.com"});
    merge(&mut class, change);
    let claiming =
        json!({"spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}});
    let mut cluster = cluster(&[zoned("n1", "a"), zoned("n2", "b")], &[pod("p", claiming)]);
    cluster.put_storage_class(&object(class));
    cluster.put_claim(&object(
        json!({"metadata": {"name": "c", "namespace": "blue"}, "spec": {"storageClassName": "fast"}}),
    ));
    let found: Vec<bool> = verdicts(&cluster, "p").iter().map(String::is_empty).collect();
    assert_eq!(found, expected);
}

#[test]
fn pods_at_a_gate_do_not_wait_for_a_node() {
    let gated = pod("gated", json!({"spec": {"schedulingGates": [{"name": "g"}]}}));
    let leaving = pod("leaving", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    let ended = pod("ended", json!({"status": {"phase": "Succeeded"}}));
    let cluster = cluster(&[], &[gated, leaving, ended, pod("p", json!({}))]);
    let simulation = Simulation::new(&cluster);
    let waiting: Vec<_> = simulation.waiting().into_iter().map(|pod| simulation.pod_name(pod)).collect();
    assert_eq!(waiting, ["blue/p"]);
}

#[test]
fn reasons_are_counted_over_nodes() {
    let nodes =
        [node("n1", json!({})), node("n2", json!({})), node("n3", json!({"spec": {"unschedulable": true}}))];
    let huge = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "9"}}}]}});
    let cluster = cluster(&nodes, &[pod("p", huge)]);
    let simulation = Simulation::new(&cluster);
    let reasons = simulation.explain(find(&simulation, "p"));
    let said: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    assert_eq!(said, ["1 node is unschedulable", "2 insufficient cpu"]);
}
