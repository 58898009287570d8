//! Three racks, one of which is full; and a burst, after which nothing is left and nothing swings.

use ferric_api::autoscaling::{Direction, NodeGroupAutoscaler};
use serde_json::{Value, json};

use crate::e2e::LIMIT;
use crate::groups::{groups, patch_group, rounds, told, wait_for_group};
use crate::load::{self, offered_cpus, wait_for_refused, wait_for_running};
use crate::{NO_HOST, ROUNDS, Scene};

/// The first one is full.
pub const RACKS: [&str; 3] = ["rack-1", "rack-2", "rack-3"];
const BURST: &str = "burst";
const CLASS: &str = "ferric.infrastructure.cluster.x-k8s.io/class";

pub async fn run(scene: &Scene) {
    for rack in RACKS {
        let hosts = json!({"labels": {CLASS: "plain"}, "failureDomain": rack});
        let labels = json!({"test.example/kind": "plain", "test.example/rack": rack});
        let least = if rack == RACKS[0] { 2 } else { 0 };
        let change = json!({"metadata": {"labels": labels}, "spec": {"minReplicas": least}});
        scene.group(rack, hosts, json!({}), change).await;
    }
    one_is_full(scene).await;
    the_others_are_raised_evenly(scene).await;
    all_are_full(scene).await;
    nothing_is_left(scene).await;
}

/// Requests of which a server has room for one.
pub async fn one_on_each(scene: &Scene) -> Value {
    json!({"cpu": (3 * offered_cpus(&scene.stack, RACKS[1]).await / 5).to_string()})
}

async fn one_is_full(scene: &Scene) {
    let stack = &scene.stack;
    wait_for_group(stack, RACKS[0], "both of its nodes", |group| nodes(group) == 2).await;
    for rack in &RACKS[1..] {
        wait_for_group(stack, rack, "its hosts to be known", |group| {
            group.status.as_ref().is_some_and(|status| status.usable_hosts == Some(2))
        })
        .await;
    }
    load::create(scene.workload(), BURST, 2, one_on_each(scene).await, json!({})).await;
    wait_for_running(stack, scene.workload(), BURST, (2, 2)).await;
    assert_eq!(RACKS.map(|rack| scene.numbers(rack, 0)), [vec![0, 2], vec![0], vec![0]]);
}

/// Of the machines that have become nodes.
fn nodes(group: &NodeGroupAutoscaler) -> i64 {
    let boot = group.status.as_ref().and_then(|status| status.boot_seconds.as_ref());
    boot.map_or(0, |boot| boot.samples)
}

async fn the_others_are_raised_evenly(scene: &Scene) {
    let (since, said) = (scene.replicas.now(), scene.limited.now());
    load::scale(scene.workload(), BURST, 4).await;
    wait_for_running(&scene.stack, scene.workload(), BURST, (4, 4)).await;
    rounds(&scene.stack, ROUNDS).await;
    assert_eq!(RACKS.map(|rack| scene.numbers(rack, since)), [vec![2], vec![0, 1], vec![0, 1]]);
    let limits = scene.limited.of(RACKS[0], said);
    assert!(limits.contains(&Some(NO_HOST.to_owned())), "when the others were raised: {limits:?}");
    assert_eq!(limits.last(), Some(&None), "no pod waits any more: {limits:?}");
}

/// One pod more than there are servers.
async fn all_are_full(scene: &Scene) {
    let since = scene.replicas.now();
    load::scale(scene.workload(), BURST, 7).await;
    wait_for_running(&scene.stack, scene.workload(), BURST, (6, 6)).await;
    wait_for_refused(scene.workload(), BURST, 1).await;
    for rack in RACKS {
        wait_for_group(&scene.stack, rack, "to say why it is not raised", |group| {
            told(group, "ScalingLimited").as_deref() == Some(NO_HOST)
        })
        .await;
    }
    rounds(&scene.stack, ROUNDS).await;
    assert_eq!(RACKS.map(|rack| scene.numbers(rack, since)), [vec![2], vec![1, 2], vec![1, 2]]);
    let uneven = |state: &&std::collections::BTreeMap<String, i64>| {
        let [a, b] = [RACKS[1], RACKS[2]].map(|rack| state.get(rack).copied().unwrap_or(0));
        (a - b).abs() > 1
    };
    let states = scene.replicas.states(0);
    assert_eq!(states.iter().find(uneven), None, "both racks are filled evenly");
}

async fn nothing_is_left(scene: &Scene) {
    load::scale(scene.workload(), BURST, 0).await;
    patch_group(&scene.stack, RACKS[0], json!({"spec": {"minReplicas": 0}})).await;
    scene.emptied(&RACKS).await;
    rounds(&scene.stack, ROUNDS).await;
    let mut told = [0, 0];
    for rack in RACKS {
        let numbers = scene.numbers(rack, 0);
        let rises = numbers.windows(2).map(|pair| pair[1] > pair[0]).collect::<Vec<_>>();
        let turns = rises.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!((turns, numbers.last()), (1, Some(&0)), "up, and then down: {numbers:?}");
        let status = groups(&scene.stack).get(rack).await.unwrap().status.unwrap();
        // The newest first.
        let mut directions: Vec<Direction> =
            status.history.iter().map(|decision| decision.direction).collect();
        for direction in &directions {
            told[usize::from(*direction == Direction::Down)] += 1;
        }
        directions.dedup();
        assert_eq!(directions, [Direction::Down, Direction::Up], "{:?}", status.history);
    }
    for (reason, decisions) in ["ScaleUp", "ScaleDown"].into_iter().zip(told) {
        let line = format!("ferric_autoscaling_decisions_total{{reason=\"{reason}\"}} {decisions}");
        ferric_testbed::wait_until(&format!("the manager to have counted {line}"), LIMIT, async || {
            let page = scene.stack.manager.metrics().await.map_err(|error| error.to_string())?;
            let found = page
                .lines()
                .find(|text| text.contains("decisions_total{") && text.contains(&format!("\"{reason}\"")));
            if found == Some(line.as_str()) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }
}
