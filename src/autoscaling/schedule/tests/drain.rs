use rstest::rstest;
use serde_json::{Value, json};

use super::super::{Blocked, DrainPolicy, ScaleDown};
use super::*;

fn annotated(value: &str) -> Value {
    json!({"metadata": {"annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": value}}})
}

fn volume(volume: Value, kept: &str) -> Value {
    let key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    json!({"metadata": {"annotations": {key: kept}}, "spec": {"volumes": [volume]}})
}

fn owned(kind: &str) -> Value {
    json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": "o", "uid": "1", "controller": true}]}})
}

/// What a pod on node n1 makes of removing it, n2 being empty: where it goes, or what it says.
fn outcome(change: Value, policy: DrainPolicy) -> String {
    let cluster = cluster(&[node("n1", json!({})), node("n2", json!({}))], &[bound("p", "n1", change)]);
    told(&cluster, policy)
}

fn told(cluster: &Cluster, policy: DrainPolicy) -> String {
    let mut simulation = Simulation::new(cluster);
    let node = simulation.node("n1").unwrap();
    let result = ScaleDown::new(&mut simulation, policy, &[]).remove(node);
    match result {
        Ok(proof) if !proof.moves.is_empty() => "moves".into(),
        Ok(proof) if !proof.with_it.is_empty() => "goes with it".into(),
        Ok(proof) if !proof.leaving.is_empty() => "leaves".into(),
        Ok(_) => "empty".into(),
        Err(blocked) => blocked.to_string(),
    }
}

#[rstest]
#[case::plain(json!({}), "moves")]
#[case::daemon(owned("DaemonSet"), "goes with it")]
#[case::mirror(json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}), "goes with it")]
#[case::leaving(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), "leaves")]
#[case::ended(json!({"status": {"phase": "Failed"}}), "empty")]
#[case::alone(json!({"metadata": {"ownerReferences": null}}), "the pod has no controller that would make it again")]
#[case::marked(annotated("false"), "the pod is marked as not safe to evict")]
#[case::until_done(annotated("on-completion"), "the pod is marked as not safe to evict")]
#[case::unknown_mark(annotated("maybe"), "moves")]
#[case::host_path(volume(json!({"name": "v", "hostPath": {"path": "/"}}), ""), "the pod has data on the node's disk")]
#[case::empty_dir(volume(json!({"name": "v", "emptyDir": {}}), ""), "the pod has data on the node's disk")]
#[case::in_memory(volume(json!({"name": "v", "emptyDir": {"medium": "Memory"}}), ""), "moves")]
#[case::kept_volume(volume(json!({"name": "v", "emptyDir": {}}), "u, v"), "moves")]
#[case::other_volume_kept(volume(json!({"name": "v", "emptyDir": {}}), "u"), "the pod has data on the node's disk")]
#[case::system(json!({"metadata": {"namespace": "kube-system"}}), "the pod belongs to kube-system and has no disruption budget")]
fn rules(#[case] change: Value, #[case] expected: &str) {
    assert_eq!(outcome(change, DrainPolicy::default()), expected);
}

#[test]
fn safe_to_evict_overrules_everything_but_room_and_budgets() {
    for mut change in [
        json!({"metadata": {"ownerReferences": null}}),
        volume(json!({"name": "v", "emptyDir": {}}), ""),
        json!({"metadata": {"namespace": "kube-system"}}),
    ] {
        merge(&mut change, annotated("true"));
        assert_eq!(outcome(change, DrainPolicy::default()), "moves");
    }
    let mut huge = annotated("true");
    merge(&mut huge, json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "n1"}}}));
    assert_eq!(outcome(huge, DrainPolicy::default()), "the pod fits on no other node");
}

#[test]
fn local_storage_and_system_pods_hold_a_node_only_if_they_shall() {
    let policy = DrainPolicy { hold_local_storage: false, hold_system_pods: false, ..DrainPolicy::default() };
    assert_eq!(outcome(volume(json!({"name": "v", "emptyDir": {}}), ""), policy), "moves");
    assert_eq!(outcome(json!({"metadata": {"namespace": "kube-system"}}), policy), "moves");
}

fn budget(name: &str, allowed: i32, change: Value) -> k8s_openapi::api::policy::v1::PodDisruptionBudget {
    let mut base = json!({
        "metadata": {"name": name, "namespace": "blue", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 2, "expectedPods": 3,
            "observedGeneration": 1},
    });
    merge(&mut base, change);
    object(base)
}

/// Two pods of one budget on n1.
#[rstest]
#[case::enough(2, json!({}), json!({}), "moves")]
#[case::one_short(1, json!({}), json!({}), "disruption budget blue/b does not allow it")]
#[case::none(0, json!({}), json!({}), "disruption budget blue/b does not allow it")]
#[case::of_others(0, json!({"spec": {"selector": {"matchLabels": {"app": "db"}}}}), json!({}), "moves")]
#[case::of_all(0, json!({"spec": {"selector": {"matchLabels": null}}}), json!({}), "disruption budget blue/b does not allow it")]
#[case::without_selector(0, json!({"spec": {"selector": null}}), json!({}), "moves")]
#[case::of_an_older_spec(9, json!({"metadata": {"generation": 2}}), json!({}), "disruption budget blue/b does not allow it")]
#[case::not_ready(0, json!({}), json!({"status": {"conditions": null}}), "disruption budget blue/b does not allow it")]
#[case::not_ready_may_always_go(0, json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}),
    json!({"status": {"conditions": null}}), "moves")]
#[case::not_ready_while_enough_are(0, json!({"status": {"currentHealthy": 2}}), json!({"status": {"conditions": null}}), "moves")]
#[case::not_started(0, json!({}), json!({"status": {"phase": "Pending"}}), "moves")]
fn budgets(#[case] allowed: i32, #[case] change: Value, #[case] pods: Value, #[case] expected: &str) {
    let pods = [bound("p", "n1", pods.clone()), bound("q", "n1", pods)];
    let mut cluster = cluster(&[node("n1", json!({})), node("n2", json!({}))], &pods);
    cluster.put_budget(&budget("b", allowed, change));
    assert_eq!(told(&cluster, DrainPolicy::default()), expected);
}

#[test]
fn one_at_a_time_needs_one_disruption_only() {
    let pods = [bound("p", "n1", json!({})), bound("q", "n1", json!({}))];
    let mut cluster = cluster(&[node("n1", json!({})), node("n2", json!({}))], &pods);
    let policy = DrainPolicy { at_once: false, ..DrainPolicy::default() };
    cluster.put_budget(&budget("b", 1, json!({})));
    assert_eq!(told(&cluster, policy), "moves");
    cluster.put_budget(&budget("c", 1, json!({})));
    assert_eq!(told(&cluster, policy), "the pod has more than one disruption budget");
}

#[test]
fn what_one_node_spends_of_a_budget_the_next_does_not_have() {
    let pods = [bound("p", "n1", json!({})), bound("q", "n2", json!({}))];
    let nodes = ["n1", "n2", "n3"].map(|name| node(name, json!({})));
    let mut cluster = cluster(&nodes, &pods);
    cluster.put_budget(&budget("b", 1, json!({})));
    let mut simulation = Simulation::new(&cluster);
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| simulation.node(name).unwrap());
    let mut pass = ScaleDown::new(&mut simulation, DrainPolicy::default(), &[n1, n2]);
    assert_eq!(pass.remove(n1).unwrap().moves[0].to, n3);
    assert!(matches!(pass.remove(n2), Err(Blocked::Budget { .. })));
    assert_eq!(pass.remove(n1), Err(Blocked::NoNode));
}

#[test]
fn a_pod_that_is_moved_twice_in_thought_is_evicted_once() {
    let pods = [bound("p", "n1", json!({}))];
    let nodes = ["n1", "n2", "n3"].map(|name| node(name, json!({})));
    let mut cluster = cluster(&nodes, &pods);
    cluster.put_budget(&budget("b", 1, json!({})));
    let mut simulation = Simulation::new(&cluster);
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| simulation.node(name).unwrap());
    let mut pass = ScaleDown::new(&mut simulation, DrainPolicy::default(), &[]);
    assert_eq!(pass.remove(n1).unwrap().moves[0].to, n2);
    let proof = pass.remove(n2).unwrap();
    assert_eq!((proof.moves[0].to, proof.moves[0].evict), (n3, false));
}

#[test]
fn moves_of_one_node_take_room_from_the_next() {
    let cores = |amount: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]}});
    let nodes = ["n1", "n2", "n3"].map(|name| node(name, json!({})));
    let pods = [bound("p", "n1", cores("3")), bound("q", "n2", cores("3")), bound("r", "n3", cores("1"))];
    let cluster = cluster(&nodes, &pods);
    let mut simulation = Simulation::new(&cluster);
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| simulation.node(name).unwrap());
    let mut pass = ScaleDown::new(&mut simulation, DrainPolicy::default(), &[n1, n2]);
    assert_eq!(pass.remove(n1).unwrap().moves[0].to, n3);
    let q = pass.remove(n2).unwrap_err();
    assert_eq!(q.to_string(), "the pod fits on no other node");
    assert_eq!(pass.simulation().on(n2), [q.pod().unwrap()]);
}

#[test]
fn a_class_without_room_is_not_given_up_for_the_node_it_was_to_leave() {
    // Nothing takes p1 but n1, where it is; for p2 of the same class that is a place.
    let cores = |amount: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]}});
    let nodes = ["n1", "n2"].map(|name| node(name, json!({})));
    let pods = [bound("p1", "n1", cores("2")), bound("p2", "n2", cores("2")), bound("q", "n2", cores("1"))];
    let cluster = cluster(&nodes, &pods);
    let mut simulation = Simulation::new(&cluster);
    let [n1, n2] = ["n1", "n2"].map(|name| simulation.node(name).unwrap());
    let mut pass = ScaleDown::new(&mut simulation, DrainPolicy::default(), &[n1, n2]);
    assert!(matches!(pass.remove(n1), Err(Blocked::NoPlace(_))));
    assert!(
        matches!(pass.remove(n2), Err(Blocked::NoPlace(pod)) if &*pass.simulation().pod(pod).name == "q")
    );
}

#[test]
fn a_pod_spread_over_host_names_cannot_leave_while_its_node_is_there() {
    let spread = json!({"spec": {"topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let pods = [bound("p", "n1", spread.clone()), bound("q", "n2", spread)];
    let cluster = cluster(&[node("n1", json!({})), node("n2", json!({}))], &pods);
    assert_eq!(told(&cluster, DrainPolicy::default()), "the pod fits on no other node");
}

#[test]
fn pods_planned_for_a_node_are_planned_elsewhere_without_an_eviction() {
    let cluster = cluster(
        &[node("n1", json!({})), node("n2", json!({}))],
        &[pod("p", json!({"metadata": {"ownerReferences": null}}))],
    );
    let mut simulation = Simulation::new(&cluster);
    let waiting = simulation.waiting();
    simulation.settle(&waiting);
    let node = simulation.node("n1").unwrap();
    let proof = simulation.removable(node).unwrap();
    assert_eq!((proof.moves.len(), proof.moves[0].evict), (1, false));
}

#[test]
fn a_candidate_gets_pods_only_if_no_other_node_takes_them() {
    let nodes = ["n1", "n2", "n3"].map(|name| node(name, json!({})));
    let cluster = cluster(&nodes, &[bound("p", "n1", json!({}))]);
    let mut simulation = Simulation::new(&cluster);
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| simulation.node(name).unwrap());
    let mark = simulation.mark();
    let mut pass = ScaleDown::new(&mut simulation, DrainPolicy::default(), &[n1, n2]);
    assert_eq!(pass.remove(n1).unwrap().moves[0].to, n3);
    simulation.rollback(mark);
    simulation.close(n3);
    let mut pass = ScaleDown::new(&mut simulation, DrainPolicy::default(), &[n1, n2]);
    assert_eq!(pass.remove(n1).unwrap().moves[0].to, n2);
}
