//! Replays of small loads, and what must hold of all.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use rstest::rstest;

use super::*;

const HOST: Size = Size { milli: 32_000, mebibytes: 131_072, gpus: 0 };

fn rack(name: &str, hosts: i32, boot: i64) -> Rack {
    let template =
        Order { shape: Shape::Diurnal, days: 1, seed: 1, boot_seconds: 600 }.load().racks.remove(0);
    let mut rack =
        Rack { name: name.to_owned(), hosts, size: HOST, boot: Boot { least: boot, most: boot }, ..template };
    rack.spec.max_replicas = hosts.max(1);
    rack
}

fn load(hours: i64, racks: Vec<Rack>, milli: i64, arrivals: Vec<(i64, i64)>) -> Load {
    let size = Size { milli, mebibytes: milli, gpus: 0 };
    let mut arrivals: Vec<Arrival> =
        arrivals.into_iter().map(|(at, runs)| Arrival { at, kind: 0, runs }).collect();
    arrivals.sort_by_key(|arrival| arrival.at);
    Load {
        start: Timestamp::from_second(1_767_571_200).unwrap(),
        seconds: hours * 3600,
        warm_up: 0,
        racks,
        kinds: vec![Kind { name: "job".to_owned(), size, stays: false }],
        arrivals,
        services: Vec::new(),
        drain_seconds: 30,
        wipe_seconds: 120,
    }
}

fn changes(outcome: &Outcome) -> Vec<(i64, i32, i32)> {
    outcome.changes.iter().map(|change| (change.at, change.from, change.to)).collect()
}

/// A pod of more than half a node comes at 100, its node at 400, and it ends at 4000.
#[test]
fn the_baseline_waits_ten_minutes() {
    let load = load(2, vec![rack("a", 2, 300)], 20_000, vec![(100, 3600)]);
    let outcome = replay(&load, &mut Baseline::new(1), 1);
    assert_eq!(changes(&outcome), [(100, 0, 1), (4600, 1, 0)]);
    assert_eq!((outcome.pending_pod_seconds, outcome.wait_p99, outcome.waits), (300, 300, 1));
    assert_eq!((outcome.power_cycles, outcome.evictions, outcome.ended), (1, 0, 1));
    // On from the order to the end of the wipe.
    assert!((outcome.node_hours - f64::from(4600 + 120 - 100) / 3600.0).abs() < 1e-9);
}

/// A node whose pods had nowhere to go is not looked at again for five minutes: looked at since 400, so at 4000 again.
#[test]
fn the_baseline_does_not_look_again_at_once() {
    let load = load(2, vec![rack("a", 2, 300)], 4000, vec![(100, 3500)]);
    assert_eq!(changes(&replay(&load, &mut Baseline::new(1), 1)), [(100, 0, 1), (4600, 1, 0)]);
}

#[test]
fn the_baseline_gives_up_after_fifteen_minutes_and_comes_back_after_five() {
    let load = load(1, vec![rack("a", 2, 2000)], 4000, vec![(0, 3600)]);
    let outcome = replay(&load, &mut Baseline::new(1), 1);
    // The second pause is twice as long.
    assert_eq!(changes(&outcome), [(0, 0, 1), (910, 1, 0), (1210, 0, 1), (2120, 1, 0), (2720, 0, 1)]);
    assert_eq!((outcome.given_up, outcome.waiting_at_end), (2, 1));
}

#[test]
fn the_baseline_takes_ten_empty_nodes_at_once() {
    // Twenty nodes of one pod each, no two of which fit together; of half of them the pod ends at 4000.
    let mut arrivals: Vec<(i64, i64)> = (0..10).map(|_| (0, 3700)).collect();
    arrivals.extend((0..10).map(|_| (0, 100_000)));
    let load = load(3, vec![rack("a", 20, 300)], 20_000, arrivals);
    let outcome = replay(&load, &mut Baseline::new(1), 1);
    assert_eq!(changes(&outcome)[..2], [(0, 0, 20), (4600, 20, 10)]);
    assert_eq!((outcome.evictions, outcome.waiting_at_end), (0, 0));
}

/// Defaults: unneeded for half an hour once it is an hour old, and wanted for the window.
#[test]
fn ours_waits_longer_by_default() {
    let load = load(3, vec![rack("a", 2, 300)], 20_000, vec![(100, 3600)]);
    let outcome = replay(&load, &mut Ours::new(Vec::new(), 10), 1);
    assert_eq!(changes(&outcome), [(100, 0, 1), (6700, 1, 0)]);
    assert!(outcome.node_hours >= outcome.least_node_hours);
}

#[test]
fn a_service_grows_and_shrinks_and_what_is_left_is_moved_together() {
    let mut load = load(6, vec![rack("a", 4, 300)], 6000, Vec::new());
    // Four on each of four nodes, then one on each: all of these fit on one node.
    load.services.push(Service { kind: 0, replicas: vec![(0, 16), (7200, 4)] });
    let outcome = replay(&load, &mut Baseline::new(1), 1);
    assert_eq!(outcome.changes.last().unwrap().to, 1, "{:?}", outcome.changes);
    assert!(outcome.evictions >= 3);
    assert_eq!(outcome.lost_pod_seconds, 0, "what a service ran is not lost");
    assert_eq!((outcome.running_at_end, outcome.waiting_at_end), (4, 0));
}

#[test]
fn what_may_not_be_evicted_stays_and_gpu_nodes_are_for_gpus() {
    let mut gpu = rack("gpu", 2, 300);
    gpu.size.gpus = 8;
    let mut load = load(6, vec![rack("cpu", 2, 300), gpu], 4000, vec![(0, 3600)]);
    load.kinds.push(Kind {
        name: "training".to_owned(),
        size: Size { milli: 4000, mebibytes: 4000, gpus: 1 },
        stays: true,
    });
    load.arrivals.extend((0..9).map(|at| Arrival { at, kind: 1, runs: 10_000 }));
    for scaler in [&mut Ours::new(Vec::new(), 10) as &mut dyn Scaler, &mut Baseline::new(1)] {
        let outcome = replay(&load, scaler, 1);
        let most: BTreeMap<&str, i32> = outcome.changes.iter().fold(BTreeMap::new(), |mut most, change| {
            let so_far: &mut i32 = most.entry(change.group.as_str()).or_default();
            *so_far = change.to.max(*so_far);
            most
        });
        assert_eq!(most, BTreeMap::from([("cpu", 1), ("gpu", 2)]));
        assert_eq!((outcome.evictions, outcome.ended, outcome.waiting_at_end), (0, 10, 0));
    }
}

#[test]
fn the_warm_up_does_not_count() {
    let mut load = load(4, vec![rack("a", 2, 300)], 20_000, vec![(100, 100), (7200, 100)]);
    load.warm_up = 7200;
    let outcome = replay(&load, &mut Baseline::new(1), 1);
    assert_eq!((outcome.power_cycles, outcome.ended, outcome.waits), (1, 1, 1));
}

/// Looks over a scaler's shoulder.
struct Watched<S> {
    inner: S,
    raised: Option<i64>,
    /// Since when a node could not have been needed: it was there.
    seen: BTreeMap<String, i64>,
}

impl Scaler for Watched<Baseline> {
    fn interval(&self) -> i64 {
        self.inner.interval()
    }

    fn decide(&mut self, seen: &Seen<'_>) -> Vec<Action> {
        let now = seen.now.as_second();
        let actions = self.inner.decide(seen);
        let machines: BTreeMap<&str, &crate::autoscaling::Machine> =
            seen.groups.iter().flat_map(|group| &group.machines).map(|m| (m.name.as_str(), m)).collect();
        for machine in machines.values().filter(|machine| machine.node.is_some()) {
            self.seen.entry(machine.name.clone()).or_insert(now);
        }
        let (mut nodes, mut drains) = (0, 0);
        for action in &actions {
            match action {
                Action::Raise(group, to) => {
                    assert_eq!(actions.len(), 1, "one group, and nothing goes in the same iteration");
                    let group = seen.groups.iter().find(|other| other.name == *group).unwrap();
                    assert!(*to > group.replicas && *to <= group.spec.max_replicas);
                    self.raised = Some(now);
                }
                Action::Remove(_, gone) => {
                    for machine in gone.iter().map(|name| machines[name.as_str()]) {
                        let Some(node) = &machine.node else {
                            assert!(now - machine.created.as_second() > 900, "given up too early");
                            continue;
                        };
                        assert!(self.raised.is_none_or(|at| now >= at + 600), "too soon after it was raised");
                        assert!(now >= self.seen[&machine.name] + 600, "not unneeded for long enough");
                        nodes += 1;
                        let busy = seen.cluster.pods().any(|pod| {
                            pod.node.is_some_and(|on| seen.cluster.symbols().name(on) == node.as_str())
                        });
                        drains += i32::from(busy);
                    }
                }
            }
        }
        let draining = machines.values().filter(|machine| machine.deleting).count();
        assert!(nodes + draining <= 10 && (drains == 0 || drains == 1 && draining == 0));
        actions
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever comes: the same again is the same, no pod is lost, and nobody works for nothing.
    #[test]
    fn of_any_load(
        hosts in prop::collection::vec((1i32..5, 60i64..1500), 1..3),
        milli in 500i64..20_000,
        arrivals in prop::collection::vec((0i64..10_000, 1i64..8000), 0..40),
        replicas in prop::collection::vec((0i64..14_000, 0usize..12), 0..6),
        interval in 30i64..120,
        seed in any::<u64>(),
    ) {
        let racks = hosts.into_iter().enumerate().map(|(at, (hosts, boot))| rack(&format!("rack-{at}"), hosts, boot));
        let mut load = load(4, racks.collect(), milli, arrivals);
        load.kinds.push(Kind { name: "web".to_owned(), size: Size { milli: 2000, mebibytes: 2000, gpus: 0 }, stays: false });
        let mut replicas = replicas;
        replicas.sort_unstable();
        load.services.push(Service { kind: 1, replicas: replicas.clone() });
        let most: i32 = load.racks.iter().map(|rack| rack.hosts).sum();
        let ours = replay(&load, &mut Ours::new(Vec::new(), interval), seed);
        prop_assert_eq!(&ours, &replay(&load, &mut Ours::new(Vec::new(), interval), seed));
        let watched = || Watched { inner: Baseline::new(seed), raised: None, seen: BTreeMap::new() };
        let model = replay(&load, &mut watched(), seed);
        prop_assert_eq!(&model, &replay(&load, &mut watched(), seed));
        let came = load.arrivals.len() + replicas.last().map_or(0, |(_, replicas)| *replicas);
        for outcome in [ours, model] {
            prop_assert!(outcome.node_hours + 1e-9 >= outcome.least_node_hours, "{:?}", outcome);
            prop_assert_eq!(outcome.ended + outcome.running_at_end + outcome.waiting_at_end, came);
            prop_assert!(outcome.most_nodes <= most);
            prop_assert!(outcome.wait_p50 <= outcome.wait_p95 && outcome.wait_p99 <= outcome.wait_most);
        }
    }
}

#[rstest]
#[case(Shape::Diurnal)]
#[case(Shape::Batch)]
#[case(Shape::Gpu)]
fn shapes_are_made_by_their_seed(#[case] shape: Shape) {
    let order = Order { shape, days: 7, seed: 7, boot_seconds: 600 };
    let load = order.load();
    assert_eq!(load, order.load());
    assert_ne!(load, Order { seed: 8, ..order }.load());
    assert!(load.arrivals.is_sorted_by_key(|arrival| arrival.at));
    assert!(load.arrivals.iter().all(|arrival| (0..load.seconds).contains(&arrival.at) && arrival.runs > 0));
    assert!(load.racks.is_sorted_by_key(|rack| &rack.name));
    // What is asked for has a place: on nodes of some rack.
    for kind in &load.kinds {
        let fits = |rack: &Rack| {
            kind.size.milli <= rack.size.milli
                && kind.size.mebibytes <= rack.size.mebibytes
                && kind.size.gpus <= rack.size.gpus
                && (kind.size.gpus > 0) == (rack.size.gpus > 0)
        };
        assert!(load.racks.iter().any(fits), "{kind:?}");
    }
    assert!(figures(shape).iter().all(|figure| !figure.what.is_empty() && !figure.source.is_empty()));
}

/// The sources' own figures come out again.
#[test]
fn shapes_are_as_their_sources_say() {
    let load = Order { shape: Shape::Gpu, days: 28, seed: 3, boot_seconds: 600 }.load();
    let per_day = load.arrivals.len() as f64 / 28.0;
    assert!((380.0..420.0).contains(&per_day), "{per_day}");
    let gpus = |arrival: &&Arrival| load.kinds[arrival.kind].size.gpus > 0;
    let mut runs: Vec<i64> = load.arrivals.iter().filter(gpus).map(|arrival| arrival.runs).collect();
    runs.sort_unstable();
    let (half, most) = (runs[runs.len() / 2], runs[runs.len() * 9 / 10]);
    assert!((1000..1400).contains(&half) && (11_000..15_000).contains(&most), "{half} {most}");
    assert!(*runs.last().unwrap() <= 86_400);

    let load = Order { shape: Shape::Diurnal, days: 7, seed: 3, boot_seconds: 600 }.load();
    let at = |service: usize, hour: i64| {
        let replicas = &load.services[service].replicas;
        replicas.iter().take_while(|(at, _)| *at <= hour * 3600).last().unwrap().1
    };
    // Monday to Wednesday at 19:30 and at 8:30; Sunday as Saturday.
    assert!(at(0, 43) > 9 * at(0, 32), "{} {}", at(0, 43), at(0, 32));
    assert!(at(0, 164) < at(0, 43) / 3);
    assert!((1..=127).contains(&at(1, 38)));
}
