//! Groups that are to be spread over racks, in the same world.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};

use super::quick;
use super::world::{Boot, World};
use crate::autoscaling::{Change, Decisions, Hold, Machine};

fn spread(max_skew: i32, action: &str) -> Value {
    let mut spec = quick();
    spec["placement"] = json!({"topologySpread": [
        {"topologyKey": "rack", "maxSkew": max_skew, "whenUnsatisfiable": action},
    ]});
    spec
}

fn racks(hosts: &[(&str, i32)], spec: &Value) -> World {
    let mut world = World::new();
    for (name, hosts) in hosts {
        world.rack(name, 16, *hosts, Boot::After(300), spec.clone());
    }
    world
}

fn replicas(world: &World) -> Vec<i32> {
    world.racks.iter().map(|rack| rack.group.replicas).collect()
}

fn limited<'a>(decisions: &'a Decisions, group: &str) -> Option<&'a str> {
    decisions.groups.iter().find(|verdict| verdict.group == group).unwrap().limited.as_deref()
}

#[test]
fn racks_that_boot_at_different_speed_are_filled_evenly() {
    let mut slower = spread(1, "ScheduleAnyway");
    for placed in [true, false] {
        if !placed {
            slower.as_object_mut().unwrap().remove("placement");
        }
        let mut world = World::new();
        world.rack("fast", 16, 20, Boot::After(300), slower.clone());
        world.rack("slow", 16, 20, Boot::After(900), slower.clone());
        world.racks.iter_mut().for_each(|rack| {
            let Boot::After(seconds) = rack.boot else { return };
            (0..9).for_each(|_| rack.group.boot.add(seconds.unsigned_abs()));
        });
        world.add("web", 96, 1000, json!({}));
        world.minutes(60);
        // Without a rule the expander PowerReady has them all where they are there first.
        assert_eq!(replicas(&world), if placed { [3, 3] } else { [6, 0] }, "placed: {placed}");
    }
}

#[test]
fn where_a_rack_is_full_it_depends_on_what_was_asked() {
    let hosts = [("a", 9), ("b", 1), ("c", 9)];
    let mut world = racks(&hosts, &spread(1, "DoNotSchedule"));
    world.add("web", 96, 1000, json!({}));
    world.minutes(30);
    let decisions = world.step(60);
    assert_eq!(replicas(&world), [2, 1, 2]);
    assert!(world.pending() > 0);
    let why = limited(&decisions, "a").unwrap();
    assert!(
        why.contains("of rack a has 2 nodes, b 1, and maxSkew is 1") && why.ends_with("pods wait"),
        "{why}"
    );
    assert!(!limited(&decisions, "b").unwrap_or_default().contains("topologySpread"));

    let mut world = racks(&hosts, &spread(1, "ScheduleAnyway"));
    world.add("web", 96, 1000, json!({}));
    world.minutes(30);
    assert_eq!((world.pending(), world.replicas("b")), (0, 1));
    assert!((replicas(&world)[0] - replicas(&world)[2]).abs() <= 1, "{:?}", replicas(&world));
}

#[test]
fn a_node_that_is_being_emptied_is_given_back_however_uneven_it_becomes() {
    let mut world = racks(&[("a", 9), ("b", 1)], &spread(1, "DoNotSchedule"));
    world.add("web", 96, 1000, json!({}));
    world.minutes(30);
    assert_eq!((replicas(&world), world.pending()), (vec![2, 1], 48));
    let created = world.now;
    let going = Machine { created, bound: true, deleting: true, returnable: true, ..Machine::default() };
    world.racks[0].group.machines.push(going);
    world.step(60);
    assert_eq!(replicas(&world), [3, 1], "one, though pods wait for three");
}

#[test]
fn nodes_with_two_autoscalers_are_expected_once() {
    let mut world = racks(&[("a", 9)], &quick());
    world.add("web", 32, 1000, json!({}));
    world.step(60);
    assert_eq!(replicas(&world), [2]);
    // Its machines are on their way, and those of the younger autoscaler are the same.
    let mut younger = world.racks[0].clone();
    younger.group.name = "a2".to_owned();
    younger.group.hold = Some(Hold::Older("a".to_owned()));
    world.racks.push(younger);
    world.add("more", 32, 1000, json!({}));
    world.step(60);
    assert_eq!(replicas(&world), [4, 2]);
}

#[test]
fn pods_that_fit_one_rack_only_wait_for_the_others() {
    let selector = json!({"nodeSelector": {"rack": "a"}});
    let mut world = racks(&[("a", 9), ("b", 9)], &spread(2, "DoNotSchedule"));
    world.add("here", 64, 1000, selector.clone());
    let decisions = world.minutes(20);
    assert_eq!(replicas(&world), [2, 0]);
    assert!(limited(&decisions, "a").unwrap().ends_with(": 32 pods wait"));
    // Others that come go where there is less, and let these follow.
    world.add("any", 16, 1000, json!({}));
    world.minutes(20);
    assert_eq!(replicas(&world), [3, 1]);
}

#[test]
fn what_is_not_asked_of_pods_is_limited_too() {
    let mut spec = spread(1, "DoNotSchedule");
    spec["minReplicas"] = json!(1);
    spec["triggers"] = json!([{"name": "queue", "type": "Prometheus", "prometheus": {"serverURL": "http://p:9090",
        "query": "sum(queue)", "target": {"type": "AverageValue", "value": "50"}}}]);
    let mut world = racks(&[("a", 9), ("b", 9)], &spec);
    let read = |world: &mut World, group: &str, value: f64| {
        let key = (group.to_owned(), "queue".to_owned());
        world.readings.insert(key, crate::autoscaling::triggers::Reading::Value(value));
    };
    read(&mut world, "a", 250.0);
    read(&mut world, "b", 50.0);
    let decisions = world.minutes(20);
    assert_eq!(replicas(&world), [2, 1]);
    assert!(limited(&decisions, "a").unwrap().contains("topologySpread"));
    // Both at once: neither waits for the other.
    read(&mut world, "b", 250.0);
    world.step(60);
    assert_eq!(replicas(&world), [5, 5]);
    // A bound was set for one group alone.
    world.racks[0].group.spec.min_replicas = 9;
    world.step(60);
    assert_eq!(replicas(&world), [9, 5]);
}

#[test]
fn of_equally_empty_nodes_those_of_the_fullest_rack_go() {
    let mut spec = spread(1, "ScheduleAnyway");
    spec["triggers"] = json!([{"name": "pods", "type": "UnschedulablePods"}]);
    spec["scaleDown"] = json!({"unneededSeconds": 0, "minNodeLifetimeSeconds": 0, "budgets": [{"nodes": 9}]});
    spec["behavior"] = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
    let mut world = racks(&[("a", 9), ("b", 9), ("c", 9)], &spec);
    world.add("big", 9, 9000, json!({}));
    world.minutes(20);
    assert_eq!(replicas(&world), [3, 3, 3], "one on each node");
    // From now on three fit on each, so that six nodes can go at once, whichever.
    for rack in &mut world.racks {
        rack.node["status"]["allocatable"]["cpu"] = json!("32");
    }
    world.step(60);
    assert_eq!(replicas(&world), [1, 1, 1]);
    world.minutes(10);
    assert_eq!((replicas(&world), world.pending()), (vec![1, 1, 1], 0));
}

#[test]
fn a_node_of_a_fuller_rack_goes_first() {
    for (action, first) in [("DoNotSchedule", [2, 2]), ("ScheduleAnyway", [1, 2])] {
        let mut spec = spread(1, action);
        spec["scaleDown"] = json!({"unneededSeconds": 0, "minNodeLifetimeSeconds": 0});
        spec["behavior"] = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
        let mut world = World::new();
        for (name, nodes) in [("a", 2), ("b", 3)] {
            spec["minReplicas"] = json!(nodes);
            world.rack(name, 16, 9, Boot::After(60), spec.clone());
        }
        world.minutes(5);
        assert_eq!((replicas(&world), world.nodes()), (vec![2, 3], 5));
        world.racks.iter_mut().for_each(|rack| rack.group.spec.min_replicas = 0);
        let decisions = world.step(60);
        assert_eq!(replicas(&world), first, "{action}");
        let waits =
            limited(&decisions, "a").is_some_and(|why| why.contains("a fuller domain of rack goes first"));
        assert_eq!(waits, action == "DoNotSchedule");
        world.minutes(10);
        assert_eq!(replicas(&world), [0, 0]);
    }
}

fn skew(replicas: &[i32]) -> i32 {
    replicas.iter().max().unwrap() - replicas.iter().min().unwrap()
}

/// A step, and what must hold of it: groups become more uneven than allowed only where a node leaves and none of a fuller rack
/// could.
fn step(world: &mut World, most: i32) -> Result<(), TestCaseError> {
    let before = replicas(world);
    let decisions = world.step(120);
    let after = replicas(world);
    if skew(&after) <= most.max(skew(&before)) {
        return Ok(());
    }
    let fewest = *after.iter().min().unwrap();
    prop_assert!(
        after.iter().zip(&before).all(|(after, before)| after <= before),
        "{:?} {:?}",
        before,
        after
    );
    for (at, verdict) in decisions.groups.iter().enumerate() {
        if after[at] <= fewest + most {
            continue;
        }
        let objects = verdict.triggers.iter().filter_map(|(_, wish)| wish.replicas).max().unwrap_or(0);
        let went = match &verdict.change {
            Some(Change::Down(_, victims)) => victims.len(),
            _ => 0,
        };
        prop_assert!(
            objects >= after[at] || verdict.unneeded.len() <= went,
            "{:?} {:?}: {:?}",
            before,
            after,
            verdict
        );
    }
    Ok(())
}

fn steps(world: &mut World, most: i32, count: usize) -> Result<(), TestCaseError> {
    (0..count).try_for_each(|_| step(world, most))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Racks with hosts enough, and a load that stays as it is, then less, then the same again: the racks are as even as was
    /// asked at every step, every pod runs, and when the load stays as it is nothing is changed any more.
    #[test]
    fn groups_stay_even(
        racks in prop::collection::vec((prop::sample::select(vec![8i64, 16, 32]), 60i64..900), 2..5),
        most in 1i32..4,
        loads in prop::collection::vec((1usize..16, 500i64..7000), 1..4),
        kept in 0usize..6,
    ) {
        let mut world = World::new();
        let spec = spread(most, "DoNotSchedule");
        for (at, (cpus, boot)) in racks.into_iter().enumerate() {
            world.rack(&format!("rack-{at}"), cpus, 100, Boot::After(boot), spec.clone());
        }
        for (owner, (count, milli)) in loads.iter().enumerate() {
            world.add(&format!("app{owner}"), *count, *milli, json!({}));
        }
        for _ in 0..30 {
            step(&mut world, most)?;
// Nodes that turn out to be empty may go already, whichever they are.
            let grows = world.changes.iter().all(|(_, from, to)| to > from);
            prop_assert!(!grows || skew(&replicas(&world)) <= most, "{:?}", replicas(&world));
        }
        prop_assert_eq!(world.pending(), 0);
        for owner in 0..loads.len() {
            world.keep(&format!("app{owner}"), kept);
        }
        for _ in 0..2 {
            steps(&mut world, most, 60)?;
            let changes = world.changes.len();
            steps(&mut world, most, 20)?;
            prop_assert_eq!(world.changes.len(), changes, "it swings: {:?}", &world.changes[changes.saturating_sub(4)..]);
            prop_assert_eq!(world.pending(), 0);
            for (owner, (count, milli)) in loads.iter().enumerate() {
                world.add(&format!("app{owner}"), *count, *milli, json!({}));
            }
        }
    }
}
