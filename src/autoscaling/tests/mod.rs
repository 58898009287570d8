//! Decisions in a world on a simulated clock.
#![allow(clippy::unwrap_used)]

mod spread;
mod world;

use ferric_api::autoscaling::TriggerState;
use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::json;

use super::triggers::Reading;
use super::{Hold, Policy};
use world::{Boot, World};

fn quick() -> serde_json::Value {
    json!({"scaleDown": {"unneededSeconds": 600, "minNodeLifetimeSeconds": 0},
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}}})
}

fn policy(limits: serde_json::Value) -> Policy {
    let spec = json!({"clusterName": "prod", "limits": limits, "maxInFlight": 1000});
    Policy { name: "policy".to_owned(), spec: serde_json::from_value(spec).unwrap() }
}

#[test]
fn pods_raise_a_group_from_none_and_idleness_lowers_it_to_none() {
    let mut world = World::new();
    world.rack("a", 16, 10, Boot::After(600), quick());
    world.minutes(5);
    assert_eq!(world.replicas("a"), 0);
    world.add("web", 40, 1000, json!({}));
    world.minutes(1);
    assert_eq!(world.replicas("a"), 3, "40 of one processor on nodes of 16");
    world.minutes(15);
    assert_eq!((world.replicas("a"), world.pending()), (3, 0), "what is on its way is not ordered again");
    world.keep("web", 0);
    world.minutes(8);
    assert_eq!(world.replicas("a"), 3, "not before they have been unneeded for ten minutes");
    world.minutes(30);
    assert_eq!(world.replicas("a"), 0);
}

#[test]
fn of_three_racks_one_of_which_is_full_the_others_are_filled_evenly() {
    let mut world = World::new();
    for (name, hosts) in [("a", 8), ("b", 1), ("c", 8)] {
        world.rack(name, 16, hosts, Boot::After(300), quick());
    }
    world.add("web", 112, 1000, json!({}));
    world.minutes(10);
    assert_eq!((world.replicas("a"), world.replicas("b"), world.replicas("c")), (3, 1, 3));
    assert_eq!(world.pending(), 0);
}

#[test]
fn a_group_that_can_have_no_node_more_says_why() {
    let mut world = World::new();
    world.rack("a", 16, 1, Boot::After(60), quick());
    world.rack("b", 16, 9, Boot::After(60), quick()).group.spec.max_replicas = 2;
    world.add("web", 60, 1000, json!({}));
    let limits = |decisions: &super::Decisions| -> Vec<Option<String>> {
        decisions.groups.iter().map(|verdict| verdict.limited.clone()).collect()
    };
    let decisions = world.minutes(10);
    assert_eq!((world.replicas("a"), world.replicas("b")), (1, 2));
    assert_eq!(limits(&decisions), [Some("0 hosts are free".to_owned()), Some("maxReplicas 2".to_owned())]);
    assert!(decisions.groups[0].triggers[0].1.message.contains("0 hosts are free"), "{decisions:?}");
    assert!(!decisions.stranded.is_empty());

    world.racks[1].group.spec.max_replicas = 9;
    world.policies.push(policy(json!([{"name": "all", "resources": {"nodes": "3"}}])));
    let decisions = world.minutes(10);
    assert_eq!(limits(&decisions)[1].as_deref(), Some("limit policy/all (nodes)"));

    world.keep("web", 20);
    assert_eq!(limits(&world.minutes(10)), [None, None], "nothing waits any more");
}

#[test]
fn a_group_whose_hosts_never_come_is_left_alone_and_another_takes_its_place() {
    let mut world = World::new();
    world.rack("a", 16, 10, Boot::Never, quick()).group.priority = 1;
    world.rack("b", 16, 10, Boot::After(300), quick());
    let mut policy = policy(json!([]));
    policy.spec.expanders = vec![ferric_api::autoscaling::Expander::Priority];
    world.policies.push(policy);
    world.add("web", 20, 1000, json!({}));
    world.minutes(59);
    assert_eq!((world.replicas("a"), world.replicas("b")), (2, 0));
    let decisions = world.minutes(5);
    assert_eq!(world.replicas("a"), 0, "machines that never came are given back: {decisions:?}");
    world.minutes(10);
    assert_eq!((world.replicas("b"), world.pending()), (2, 0));
    assert_eq!(world.memory.groups["a"].failures.count, 1);
}

#[test]
fn a_query_that_fails_lowers_nothing_and_one_that_asks_raises() {
    let mut world = World::new();
    let mut spec = quick();
    spec["triggers"] = json!([{"name": "queue", "type": "Prometheus", "prometheus": {"serverURL": "http://p:9090",
        "query": "sum(queue)", "target": {"type": "AverageValue", "value": "50"}}}]);
    world.rack("a", 16, 10, Boot::After(300), spec);
    let read = |world: &mut World, reading: Reading, minutes| {
        world.readings.insert(("a".to_owned(), "queue".to_owned()), reading);
        world.minutes(minutes)
    };
    read(&mut world, Reading::Value(200.0), 10);
    assert_eq!((world.replicas("a"), world.nodes()), (4, 4));
    let decisions = read(&mut world, Reading::Failed("connection refused".to_owned()), 60);
    assert_eq!(world.replicas("a"), 4, "an outage of an hour");
    assert_eq!(decisions.groups[0].triggers[0].1.state, TriggerState::Failed);
    read(&mut world, Reading::Value(f64::NAN), 60);
    assert_eq!(world.replicas("a"), 4);
    read(&mut world, Reading::Value(100.0), 60);
    assert_eq!(world.replicas("a"), 2, "the query asks for two, and the nodes are empty");
}

#[test]
fn a_burst_and_then_nothing_does_not_make_it_swing() {
    let mut world = World::new();
    world.rack("a", 16, 20, Boot::After(300), json!({}));
    for _ in 0..6 {
        world.add("burst", 64, 1000, json!({}));
        world.minutes(10);
        world.keep("burst", 0);
        world.minutes(10);
    }
    let downs = world.changes.iter().filter(|(_, from, to)| to < from).count();
    assert_eq!(downs, 0, "every half hour it is needed again: {:?}", world.changes);
}

#[test]
fn limits_of_policies_hold_over_groups() {
    let mut world = World::new();
    world.rack("a", 16, 50, Boot::After(300), quick());
    world.rack("b", 16, 50, Boot::After(300), quick());
    world.policies = vec![
        policy(json!([{"name": "cpus", "resources": {"cpu": "100"}}])),
        Policy {
            name: "other".to_owned(),
            ..policy(json!([{"name": "nodes", "resources": {"nodes": "5"}}]))
        },
    ];
    world.add("web", 1000, 1000, json!({}));
    let decisions = world.minutes(20);
    assert_eq!(world.replicas("a") + world.replicas("b"), 5);
    assert!(
        decisions.groups.iter().any(|verdict| verdict.limited.is_some()) || !decisions.stranded.is_empty()
    );
}

#[test]
fn a_cluster_that_cannot_be_seen_or_is_held_is_left_alone() {
    let mut world = World::new();
    world.rack("a", 16, 10, Boot::After(60), quick());
    world.add("web", 40, 1000, json!({}));
    world.minutes(5);
    assert_eq!(world.replicas("a"), 3);
    world.keep("web", 0);
    world.blind = Some("the watch of pods broke".to_owned());
    let decisions = world.minutes(60);
    assert_eq!(world.replicas("a"), 3);
    assert!(decisions.groups[0].inactive.as_ref().unwrap().contains("the watch of pods broke"));
    world.blind = None;
    world.racks[0].group.hold = Some(Hold::RollingOut);
    world.minutes(60);
    assert_eq!(world.replicas("a"), 3);
    world.racks[0].group.hold = None;
    world.minutes(60);
    assert_eq!(world.replicas("a"), 0);
}

#[test]
fn a_budget_that_allows_nothing_keeps_a_node() {
    let mut world = World::new();
    world.rack("a", 16, 10, Boot::After(60), quick());
    world.add("db", 2, 9000, json!({}));
    world.budget("db", 0);
    world.minutes(5);
    assert_eq!(world.replicas("a"), 2);
    world.racks[0].node["status"]["allocatable"]["cpu"] = json!("32");
    world.minutes(60);
    assert_eq!(world.replicas("a"), 2);
}

#[test]
fn a_schedule_keeps_nodes_while_it_lasts() {
    let mut world = World::new();
    let mut spec = quick();
    spec["triggers"] = json!([{"name": "office", "type": "Schedule", "schedule":
        {"cron": "0 13 * * *", "timeZone": "UTC", "durationSeconds": 7200, "minReplicas": 6}}]);
    world.rack("a", 16, 10, Boot::After(60), spec);
    world.minutes(59);
    assert_eq!(world.replicas("a"), 0);
    world.minutes(90);
    assert_eq!(world.replicas("a"), 6);
    world.minutes(150);
    assert_eq!(world.replicas("a"), 0, "it begins at one and ends at three: {}", world.now);
}

#[derive(Debug, Clone)]
enum Act {
    Add(usize, usize, i64),
    Keep(usize, usize),
    Wait(usize),
    Blind(bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0usize..4, 1usize..30, 100i64..9000).prop_map(|(owner, count, milli)| Act::Add(owner, count, milli)),
        3 => (0usize..4, 0usize..5).prop_map(|(owner, count)| Act::Keep(owner, count)),
        5 => (1usize..40).prop_map(Act::Wait),
        1 => any::<bool>().prop_map(Act::Blind),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever happens, what [`World::check`] says holds at every step; and when nothing happens any more, nothing is
    /// changed any more.
    #[test]
    fn whatever_happens(
        racks in prop::collection::vec((prop::sample::select(vec![4i64, 16, 64]), 0i32..6, 0i32..3, prop::option::of(60i64..1200)), 1..4),
        most in 1i32..400,
        acts in prop::collection::vec(act(), 1..25),
    ) {
        let mut world = World::new();
        for (i, (cpus, hosts, min, boot)) in racks.into_iter().enumerate() {
            let mut spec = quick();
            spec["minReplicas"] = json!(min);
            world.rack(&format!("rack-{i}"), cpus, hosts, boot.map_or(Boot::Never, Boot::After), spec);
        }
        world.policies.push(policy(json!([{"name": "cpus", "resources": {"cpu": most.to_string()}}])));
        let held = |world: &World| -> i64 {
            world.racks.iter().map(|rack| {
                i64::from(rack.group.replicas) * rack.group.offers["cpu"].parse::<i64>().unwrap()
            }).sum()
        };
        let before = held(&world);
        for act in acts {
            match act {
                Act::Add(owner, count, milli) => world.add(&format!("app{owner}"), count, milli, json!({})),
                Act::Keep(owner, count) => world.keep(&format!("app{owner}"), count),
                Act::Wait(minutes) => drop(world.minutes(minutes)),
                Act::Blind(blind) => world.blind = blind.then(|| "gone".to_owned()),
            }
            prop_assert!(held(&world) <= i64::from(most).max(before));
        }
        world.blind = None;
        world.minutes(300);
        let changes = world.changes.len();
        // Groups whose machines never come are tried again and again, with long pauses, and that is no swing.
        if world.racks.iter().all(|rack| rack.boot != Boot::Never) {
            world.now += SignedDuration::from_secs(1);
            world.minutes(120);
            prop_assert_eq!(world.changes.len(), changes, "it swings: {:?}", &world.changes[changes.saturating_sub(4)..]);
        }
    }
}
