use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::balance::{Balance, Place};
use super::super::{Group, Packing, pack};
use super::*;

fn cpu(amount: &str) -> Value {
    json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": amount}}}]}})
}

fn many(count: usize, prefix: &str, change: &Value) -> Vec<Pod> {
    (0..count).map(|at| pod(&format!("{prefix}-{at:03}"), change.clone())).collect()
}

fn group(cluster: &mut Cluster, name: &str, limit: u32, change: Value) -> Group {
    let template = cluster.template(&node("template", change));
    Group {
        name: name.into(),
        template,
        limit,
        in_flight: 0,
        rank: 0,
        size: 0,
        only_for: None,
        places: Vec::new(),
        firm: 0,
    }
}

fn packed(cluster: &Cluster, groups: &[Group]) -> Packing {
    let mut simulation = Simulation::new(cluster);
    let waiting = simulation.waiting();
    pack(&mut simulation, &waiting, groups)
}

fn why(plan: &super::super::Plan, at: usize) -> Vec<String> {
    plan.unplaced[at].groups.iter().map(|(group, reason)| format!("{group}: {reason}")).collect()
}

#[test]
fn nodes_that_are_there_come_first_then_new_ones() {
    let mut cluster = cluster(&[node("n", json!({}))], &many(10, "p", &cpu("1")));
    let group = group(&mut cluster, "g", 5, json!({}));
    let packing = packed(&cluster, &[group]);
    assert_eq!(packing.existing.len(), 4);
    assert_eq!(packing.plan.nodes.iter().map(|node| node.pods.len()).collect::<Vec<_>>(), [4, 2]);
    assert_eq!(packing.estimates, [packing.plan]);
}

#[test]
fn nodes_on_their_way_count_as_there() {
    let mut cluster = cluster(&[], &many(10, "p", &cpu("1")));
    let group = Group { in_flight: 2, ..group(&mut cluster, "g", 5, json!({})) };
    let packing = packed(&cluster, &[group]);
    assert_eq!((packing.existing.len(), packing.plan.nodes.len()), (8, 1));
}

#[test]
fn a_group_grows_to_its_limit_and_no_further() {
    let mut cluster = cluster(&[], &many(10, "p", &cpu("1")));
    let group = group(&mut cluster, "g", 2, json!({}));
    let packing = packed(&cluster, &[group]);
    assert_eq!((packing.plan.nodes.len(), packing.plan.unplaced.len()), (2, 2));
    assert_eq!(why(&packing.plan, 0), ["0: group is at its limit"]);
    assert_eq!(packing.plan.full, [0].into());
}

#[test]
fn a_group_that_is_passed_over_for_its_limit_is_told_though_another_takes_the_pod() {
    let mut cluster = cluster(&[], &[pod("p", cpu("3"))]);
    let full = group(&mut cluster, "a", 0, json!({}));
    let small = group(&mut cluster, "b", 0, json!({"status": {"allocatable": {"cpu": "2"}}}));
    let last = group(&mut cluster, "c", 1, json!({}));
    let plan = packed(&cluster, &[full, small, last]).plan;
    assert_eq!((plan.nodes_of(2), plan.full), (1, [0].into()), "no pod would run on one of b");
}

#[test]
fn a_group_is_full_only_for_pods_that_would_run_on_a_node_of_it() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
    let mut near = cpu("3");
    merge(
        &mut near,
        json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "db"}}}]}}}}),
    );
    let mut db = cpu("4");
    merge(&mut db, json!({"metadata": {"labels": {"app": "db"}}, "spec": {"nodeName": "n"}}));
    let mut cluster = cluster(&[node("n", zone("b"))], &[pod("db", db), pod("near", near)]);
    let a = group(&mut cluster, "a", 0, zone("a"));
    let b = group(&mut cluster, "b", 1, zone("b"));
    let plan = packed(&cluster, &[a.clone(), b.clone()]).plan;
    assert_eq!((plan.nodes_of(1), plan.full), (1, [].into()), "no host more in zone a would help it");
    // Pods of another kind that come first find it full: that says nothing of this one.
    let mut first = cpu("3");
    merge(&mut first, json!({"spec": {"priority": 9}}));
    cluster.put_pod(&pod("first", first));
    let plan = packed(&cluster, &[a, b]).plan;
    assert_eq!((plan.nodes_of(1), plan.full.clone()), (1, [0, 1].into()));
    let why = why(&plan, 0);
    assert!(why[0].contains("affinity") && why[1] == "1: group is at its limit", "{why:?}");
}

/// A place in a topology where one domain has two nodes and another none, and in the other.
fn uneven(hard: bool) -> (Balance, [Vec<Place>; 2]) {
    let places = [0, 1].map(|domain| vec![Place { topology: 0, domain, max_skew: 1, hard }]);
    let mut balance = Balance::default();
    balance.add(&places[0], 2);
    balance.add(&places[1], 0);
    (balance, places)
}

#[test]
fn nodes_that_are_there_at_once_are_added_however_uneven_it_becomes() {
    let mut cluster = cluster(&[], &many(16, "p", &cpu("1")));
    for (hard, limit, expected) in
        [(true, 0, vec![0]), (true, 9, vec![0, 1, 1, 1]), (false, 9, vec![0, 1, 1, 1])]
    {
        let (balance, [full, empty]) = uneven(hard);
        let a = Group { places: full, firm: 1, ..group(&mut cluster, "a", 9, json!({})) };
        let b = Group { places: empty, rank: 1, ..group(&mut cluster, "b", limit, json!({})) };
        let mut simulation = Simulation::new(&cluster);
        let waiting = simulation.waiting();
        let plan = simulation.plan_from(&waiting, &[a, b], &balance);
        let order: Vec<usize> = plan.nodes.iter().map(|node| node.group).collect();
        assert_eq!(order, expected, "hard: {hard}, limit {limit}");
    }
}

#[test]
fn an_estimate_is_of_a_group_alone() {
    let mut cluster = cluster(&[], &many(16, "p", &cpu("1")));
    let (_, [first, second]) = uneven(true);
    for places in [first, second] {
        let group = Group { places, ..group(&mut cluster, "g", 9, json!({})) };
        let mut simulation = Simulation::new(&cluster);
        let waiting = simulation.waiting();
        assert_eq!(simulation.estimate(&waiting, &group).nodes.len(), 4);
    }
}

#[test]
fn groups_that_would_be_too_uneven_give_their_turn_to_the_others_of_their_topologies() {
    let mut cluster = cluster(&[], &many(8, "p", &cpu("4")));
    let place = |topology, domain| vec![Place { topology, domain, max_skew: 1, hard: false }];
    let mut balance = Balance::default();
    let groups = [(0, 0, 3), (0, 1, 3), (1, 0, 3), (1, 1, 0), (0, 2, 2)];
    let groups: Vec<Group> = (0u32..)
        .zip(groups)
        .map(|(rank, (topology, domain, nodes))| {
            balance.add(&place(topology, domain), nodes);
            let limit = if rank == 2 { 9 } else { 1 };
            Group { places: place(topology, domain), rank, ..group(&mut cluster, "g", limit, json!({})) }
        })
        .collect();
    let mut simulation = Simulation::new(&cluster);
    let waiting = simulation.waiting();
    let plan = simulation.plan_from(&waiting, &groups, &balance);
    let order: Vec<usize> = plan.nodes.iter().map(|node| node.group).collect();
    assert_eq!(order, [4, 0, 1, 3, 2, 2, 2, 2]);
}

#[test]
fn what_fits_nowhere_is_told_for_each_group() {
    let mut cluster = cluster(&[], &[pod("p", cpu("6"))]);
    let small = group(&mut cluster, "small", 2, json!({}));
    let tainted = json!({"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}, "status": {"allocatable": {"cpu": "8"}}});
    let tainted = group(&mut cluster, "tainted", 2, tainted);
    let packing = packed(&cluster, &[small, tainted]);
    assert_eq!(why(&packing.plan, 0), ["0: insufficient cpu", "1: untolerated taint gpu:NoSchedule"]);
}

#[test]
fn daemons_take_their_part_of_a_new_node() {
    let mut cluster = cluster(&[], &[pod("p", cpu("4"))]);
    let fits = group(&mut cluster, "g", 1, json!({}));
    assert_eq!(packed(&cluster, std::slice::from_ref(&fits)).plan.unplaced.len(), 0);
    let daemon = |name: &str, selector: Value| -> k8s_openapi::api::apps::v1::DaemonSet {
        object(json!({
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"selector": {}, "template": {"spec": {"nodeSelector": selector,
                "containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}}},
        }))
    };
    cluster.put_daemon_set(&daemon("elsewhere", json!({"disk": "ssd"})));
    assert_eq!(packed(&cluster, std::slice::from_ref(&fits)).plan.unplaced.len(), 0);
    cluster.put_daemon_set(&daemon("everywhere", json!({})));
    assert_eq!(why(&packed(&cluster, &[fits]).plan, 0), ["0: insufficient cpu"]);
}

#[test]
fn higher_priority_goes_first() {
    let mut low = many(4, "a", &cpu("1"));
    let mut high = cpu("1");
    merge(&mut high, json!({"spec": {"priority": 100}}));
    low.extend(many(4, "z", &high));
    let cluster = cluster(&[node("n", json!({}))], &low);
    let packing = packed(&cluster, &[]);
    let simulation = Simulation::new(&cluster);
    assert!(packing.existing.iter().all(|&(pod, _)| simulation.pod(pod).name.starts_with('z')));
    assert_eq!((packing.existing.len(), packing.plan.unplaced.len()), (4, 4));
}

#[test]
fn the_preferred_group_grows_first_then_the_next() {
    let mut cluster = cluster(&[], &many(12, "p", &cpu("1")));
    let first = Group { rank: 1, ..group(&mut cluster, "a", 5, json!({})) };
    let second = Group { rank: 0, ..group(&mut cluster, "b", 2, json!({})) };
    let packing = packed(&cluster, &[first, second]);
    assert_eq!((packing.plan.nodes_of(0), packing.plan.nodes_of(1)), (1, 2));
}

#[test]
fn groups_of_equal_rank_grow_alike() {
    let mut cluster = cluster(&[], &many(24, "p", &cpu("1")));
    let groups = [2, 0, 1].map(|size| Group { size, ..group(&mut cluster, "g", 9, json!({})) });
    let packing = packed(&cluster, &groups);
    assert_eq!([0, 1, 2].map(|at| packing.plan.nodes_of(at)), [1, 3, 2]);
}

#[test]
fn pods_spread_over_racks_get_nodes_in_each() {
    let mut change = cpu("2");
    merge(
        &mut change,
        json!({"spec": {"topologySpreadConstraints": [{"topologyKey": "topology.kubernetes.io/zone",
        "maxSkew": 1, "minDomains": 3, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}}),
    );
    let mut cluster = cluster(&[], &many(12, "p", &change));
    let groups = ["a", "b", "c"].map(|zone| {
        let labels = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        group(&mut cluster, zone, 9, labels)
    });
    let packing = packed(&cluster, &groups);
    assert_eq!([0, 1, 2].map(|at| packing.plan.nodes_of(at)), [2, 2, 2]);
    assert!(packing.plan.unplaced.is_empty());
    // One alone may only take what the spread allows.
    assert_eq!(packing.estimates[0].nodes.iter().map(|node| node.pods.len()).sum::<usize>(), 1);
    // A full rack stops the others one pod ahead of it.
    let full = [Group { limit: 1, ..groups[0].clone() }, groups[1].clone(), groups[2].clone()];
    let packing = packed(&cluster, &full);
    assert_eq!(packing.plan.nodes_of(0), 1);
    assert_eq!(packing.plan.unplaced.len(), 12 - 2 - 3 - 3);
}

#[test]
fn pods_that_must_be_apart_get_a_node_each() {
    let mut change = cpu("100m");
    merge(
        &mut change,
        json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}}}),
    );
    let mut cluster = cluster(&[node("n", json!({}))], &many(5, "p", &change));
    let group = group(&mut cluster, "g", 9, json!({}));
    let packing = packed(&cluster, &[group]);
    assert_eq!((packing.existing.len(), packing.plan.nodes.len()), (1, 4));
}

#[test]
fn a_pod_is_tried_again_when_the_one_it_wants_to_be_with_has_come() {
    let mut follower = cpu("2");
    merge(
        &mut follower,
        json!({"spec": {"priority": 9, "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}}}),
    );
    let mut leader = cpu("1");
    merge(&mut leader, json!({"metadata": {"labels": {"app": "db"}}}));
    let mut cluster = cluster(&[], &[pod("follower", follower), pod("leader", leader)]);
    let group = group(&mut cluster, "g", 9, json!({}));
    let packing = packed(&cluster, &[group]);
    assert_eq!((packing.plan.nodes.len(), packing.plan.unplaced.len()), (1, 0));
}

#[test]
fn only_pods_that_ask_for_a_device_open_a_node_with_it() {
    let gpu = json!({"status": {"allocatable": {"nvidia.com/gpu": "1"}}});
    let asking = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"nvidia.com/gpu": "1"}}}]}});
    let mut cluster = cluster(&[], &[pod("gpu", asking), pod("plain", cpu("1")), pod("large", cpu("4"))]);
    let only_for = Some(cluster.symbols_mut().intern("nvidia.com/gpu"));
    let group = Group { only_for, ..group(&mut cluster, "g", 9, gpu) };
    let packing = packed(&cluster, &[group]);
    assert_eq!(packing.plan.nodes.iter().map(|node| node.pods.len()).sum::<usize>(), 2);
    assert_eq!(why(&packing.plan, 0), ["0: new nodes are for pods that ask for nvidia.com/gpu"]);
}

#[test]
fn a_nominated_pod_has_its_node_reserved() {
    let nominated = json!({"status": {"nominatedNodeName": "n"}});
    let mut change = cpu("3");
    merge(&mut change, nominated);
    let cluster = cluster(&[node("n", json!({}))], &[pod("a", cpu("2")), pod("n", change)]);
    let packing = packed(&cluster, &[]);
    assert_eq!(packing.plan.unplaced.len(), 1);
    let simulation = Simulation::new(&cluster);
    assert_eq!(simulation.place(find(&simulation, "n")), simulation.node("n"));
}

#[test]
fn an_estimate_changes_nothing() {
    let mut cluster = cluster(&[node("n", json!({}))], &many(9, "p", &cpu("1")));
    let group = group(&mut cluster, "g", 9, json!({}));
    let mut simulation = Simulation::new(&cluster);
    let waiting = simulation.waiting();
    let first = simulation.estimate(&waiting, &group);
    assert_eq!(simulation.waiting(), waiting);
    assert_eq!(simulation.estimate(&waiting, &group), first);
    assert_eq!(simulation.plan(&waiting, &[group]), first);
}

proptest! {
    /// Any-fit with items of at most a quarter fills every node but one to three quarters.
    #[test]
    fn small_pods_fill_nodes_well(sizes in prop::collection::vec(1_i64..=1000, 1..80)) {
        let pods: Vec<Pod> = sizes.iter().enumerate().map(|(at, size)| pod(&format!("p{at}"), cpu(&format!("{size}m")))).collect();
        let mut cluster = cluster(&[], &pods);
        let group = group(&mut cluster, "g", 100, json!({"status": {"allocatable": {"pods": "1000"}}}));
        let packing = packed(&cluster, &[group]);
        let total: i64 = sizes.iter().sum();
        let nodes = i64::try_from(packing.plan.nodes.len()).unwrap();
        prop_assert!(packing.plan.unplaced.is_empty());
        prop_assert!(nodes * 4000 >= total, "fewer nodes than the sum needs");
        prop_assert!((nodes - 1) * 3000 < total, "{nodes} nodes for {total} thousandths of a core");
    }

    /// First-fit decreasing needs at most 11/9 of the best and 6/9 (Dósa 2007); items made by cutting full nodes show the
    /// best.
    #[test]
    fn at_most_eleven_ninths_of_the_best(cuts in prop::collection::vec(prop::collection::vec(1_i64..3999, 0..4), 1..25)) {
        let mut sizes = Vec::new();
        for mut cut in cuts.clone() {
            cut.extend([0, 4000]);
            cut.sort_unstable();
            sizes.extend(cut.windows(2).map(|pair| pair[1] - pair[0]).filter(|&size| size > 0));
        }
        let pods: Vec<Pod> = sizes.iter().enumerate().map(|(at, size)| pod(&format!("p{at}"), cpu(&format!("{size}m")))).collect();
        let mut cluster = cluster(&[], &pods);
        let group = group(&mut cluster, "g", 100, json!({"status": {"allocatable": {"pods": "1000"}}}));
        let nodes = packed(&cluster, &[group]).plan.nodes.len();
        prop_assert!(9 * nodes <= 11 * cuts.len() + 6, "{nodes} nodes where {} do", cuts.len());
    }
}
