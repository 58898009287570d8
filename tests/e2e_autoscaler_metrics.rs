//! A group follows a query: a real Prometheus, under the real Cluster API on the simulated fleet. Up and down with the value,
//! nothing without an answer; and beside it who may write the number, and what alerts and dashboards make of the metrics.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;
#[path = "e2e/groups.rs"]
mod groups;
#[path = "e2e/prometheus.rs"]
mod prometheus;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{LIMIT, NAMESPACE};
use ferric_api::autoscaling::{Direction, NodeGroupAutoscaler, TriggerState, TriggerStatus};
use ferric_testbed::{Stack, wait_until};
use groups::{
    CLUSTER, DEPLOYMENT, autoscaler, core, groups, machines, patch_group, pause, replicas, rounds, says,
    wait_for_group,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::DeleteParams;
use prometheus::{Door, Exporter, INSTALL, PROMTOOL, Prometheus};
use serde_json::{Value, json};

const GROUP: &str = "workers";
const TRIGGER: &str = "queue";
const QUERY: &str = "sum(queue_length)";
const HOSTS: usize = 3;
/// Rounds of the autoscaler after which what it would do were done.
const ROUNDS: u64 = 5;

/// What runs. Prometheus ends before the folder in which it is.
struct World {
    prometheus: Prometheus,
    exporter: Exporter,
    stack: Stack,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-autoscaler"]
async fn a_group_follows_a_query() {
    let stack = groups::stack(HOSTS, 1, |builder| builder).await;
    let exporter = Exporter::start(0).await;
    let manager = stack.manager.metrics_address();
    let folder = stack.bed.dir().join("prometheus");
    let prometheus = Prometheus::start(&folder, &[exporter.address(), &manager], &[alerts()]).await;
    let mut world = World { prometheus, exporter, stack };
    let created = groups::cluster(&world.stack, false).await;

    it_is_raised(&world).await;
    an_outage_lowers_nothing(&mut world).await;
    an_answer_lowers_it(&mut world).await;
    a_server_wants_a_token(&world).await;
    a_paused_cluster_is_left_alone(&world).await;
    the_younger_of_two_waits(&world.stack).await;
    a_recommendation_is_told_once(&world).await;
    the_other_autoscaler_is_told(&world).await;
    panels_and_alerts_have_something_to_show(&world).await;
    let World { prometheus, exporter, stack } = world;
    drop((prometheus, exporter, created));
    stack.stop().await;
}

/// 120 at 50 a node are three nodes.
async fn it_is_raised(world: &World) {
    let stack = &world.stack;
    world.say(120).await;
    let change = json!({"spec": {
        "maxReplicas": 10, "triggers": [trigger(&world.prometheus.url(), None)],
        // For now nothing is unneeded for long enough.
        "scaleDown": {"unneededSeconds": 3600, "minNodeLifetimeSeconds": 0},
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3}},
    }});
    let autoscaler = autoscaler(GROUP, DEPLOYMENT, change);
    stack.bed.apply(&autoscaler.to_string()).await.unwrap();
    let group = wait_for_group(stack, GROUP, "three nodes", |group| {
        let status = group.status.clone().unwrap_or_default();
        let arrived = status.boot_seconds.as_ref().is_some_and(|boot| boot.samples == 3);
        arrived && (status.current_replicas, status.in_flight) == (Some(3), Some(0))
    })
    .await;
    let status = group.status.as_ref().unwrap();
    let decision = status.history.last().unwrap();
    assert_eq!((decision.direction, decision.from, decision.to), (Direction::Up, 0, 3), "{status:?}");
    assert_eq!((decision.reason.as_str(), decision.trigger.as_deref()), ("Trigger", Some(TRIGGER)));
    let queue = queue(&group).unwrap();
    assert_eq!((queue.state, queue.value.as_deref()), (TriggerState::Hold, Some("120")), "{queue:?}");
    assert_eq!(machines(stack).await.len(), 3);
}

/// The last value would have been a reason to lower, and all else allows it; but the server is gone.
async fn an_outage_lowers_nothing(world: &mut World) {
    world.say(40).await;
    wait_for_group(&world.stack, GROUP, "its query to ask for less", |group| {
        queue(group).is_some_and(|queue| {
            (queue.state, queue.wanted_replicas) == (TriggerState::Down, Some(1))
                && queue.value.as_deref() == Some("40")
        })
    })
    .await;
    world.prometheus.kill();
    let stack = &world.stack;
    let group = wait_for_group(stack, GROUP, "its query to have failed", |group| {
        queue(group).is_some_and(|queue| queue.state == TriggerState::Failed)
            && active(group).is_some_and(|active| active.reason == "TriggersFailed")
    })
    .await;
    let (active, queue) = (active(&group).unwrap(), queue(&group).unwrap());
    assert_eq!((active.status.as_str(), queue.wanted_replicas), ("False", None), "{active:?} {queue:?}");
    assert!(active.message.contains(TRIGGER) && active.message.contains("no connection"), "{active:?}");

    change(stack, json!({"spec": {"scaleDown": {"unneededSeconds": 1}}})).await;
    rounds(stack, ROUNDS).await;
    assert_eq!((replicas(stack, DEPLOYMENT).await, machines(stack).await.len()), (3, 3));
    let group = groups(stack).get(GROUP).await.unwrap();
    assert_eq!(group.status.unwrap().history.len(), 1, "nothing else was decided");
}

async fn an_answer_lowers_it(world: &mut World) {
    world.prometheus.restart().await;
    let stack = &world.stack;
    wait_until("one machine to be left", LIMIT, async || {
        let found = machines(stack).await;
        let wanted = replicas(stack, DEPLOYMENT).await;
        if (found.len(), wanted) == (1, 1) { Ok(()) } else { Err(format!("{found:?} of {wanted}")) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    let group = wait_for_group(stack, GROUP, "two hosts to be free again", |group| {
        let status = group.status.clone().unwrap_or_default();
        status.usable_hosts == Some(2)
            && (status.current_replicas, status.desired_replicas) == (Some(1), Some(1))
            && queue(group).is_some_and(|queue| queue.state == TriggerState::Hold)
    })
    .await;
    assert_eq!(active(&group).unwrap().reason, "Measured");
    let last = group.status.unwrap().last_decision.unwrap();
    assert_eq!((last.direction, last.reason.as_str(), last.to), (Direction::Down, "Unneeded", 1));
}

async fn a_server_wants_a_token(world: &World) {
    let stack = &world.stack;
    let door = Door::start(&world.prometheus, "sesame").await;
    let failed = async |credentials: Option<&str>, why: &str| {
        change(stack, json!({"spec": {"triggers": [trigger(&door.url(), credentials)]}})).await;
        wait_for_group(stack, GROUP, why, |group| {
            queue(group).is_some_and(|q| q.state == TriggerState::Failed && q.message.contains(why))
        })
        .await;
    };
    failed(None, "refused the credentials").await;
    failed(Some("queue-access"), "no Secret queue-access").await;
    token(stack, "wrong").await;
    failed(Some("queue-access"), "refused the credentials").await;
    let (passed, refused) = door.counts();
    assert!(passed == 0 && refused >= 2, "{passed} passed, {refused} refused");
    token(stack, "sesame").await;
    wait_for_group(stack, GROUP, "the token to be taken", |group| {
        queue(group)
            .is_some_and(|queue| (queue.state, queue.value.as_deref()) == (TriggerState::Hold, Some("40")))
    })
    .await;
    assert!(door.counts().0 > 0);
    change(stack, json!({"spec": {"triggers": [trigger(&world.prometheus.url(), None)]}})).await;
    wait_for_active(stack).await;
}

async fn a_paused_cluster_is_left_alone(world: &World) {
    let stack = &world.stack;
    pause(stack, true).await;
    let group = wait_for_group(stack, GROUP, "to be on hold", |group| {
        active(group).is_some_and(|active| active.reason == "OnHold")
    })
    .await;
    let message = active(&group).unwrap().message;
    assert!(message.contains(CLUSTER) && message.contains("paused"), "{message}");
    world.say(120).await;
    rounds(stack, ROUNDS).await;
    assert_eq!(replicas(stack, DEPLOYMENT).await, 1);
    world.say(40).await;
    pause(stack, false).await;
    wait_for_active(stack).await;
}

/// Of two autoscalers of one MachineDeployment.
async fn the_younger_of_two_waits(stack: &Stack) {
    const RIVAL: &str = "rival";
    let rival = autoscaler(RIVAL, DEPLOYMENT, json!({"spec": {"minReplicas": 3, "maxReplicas": 3}}));
    stack.bed.apply(&rival.to_string()).await.unwrap();
    let group = wait_for_group(stack, RIVAL, "to be on hold", |group| {
        active(group).is_some_and(|active| active.reason == "OnHold")
    })
    .await;
    let message = active(&group).unwrap().message;
    assert!(message.contains(GROUP) && message.contains("older"), "{message}");
    rounds(stack, ROUNDS).await;
    assert_eq!(replicas(stack, DEPLOYMENT).await, 1);
    assert_eq!(active(&groups(stack).get(GROUP).await.unwrap()).unwrap().status, "True");
    groups(stack).delete(RIVAL, &DeleteParams::default()).await.unwrap();
    wait_until("the metrics of a deleted group to be gone", LIMIT, async || {
        let page = stack.manager.metrics().await.map_err(|error| error.to_string())?;
        let left = page.lines().find(|line| line.contains("group=\"rival\""));
        left.map_or(Ok(()), |line| Err(line.to_owned()))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

async fn a_recommendation_is_told_once(world: &World) {
    let stack = &world.stack;
    change(stack, json!({"spec": {"actuationMode": "Recommend"}})).await;
    world.say(120).await;
    wait_for_group(stack, GROUP, "three to be recommended", |group| {
        let status = group.status.clone().unwrap_or_default();
        (status.current_replicas, status.desired_replicas) == (Some(1), Some(3))
    })
    .await;
    wait_until("an event", LIMIT, async || match recommended(stack).await.len() {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    rounds(stack, ROUNDS).await;
    let events = recommended(stack).await;
    assert!(events.len() == 1 && events[0]["series"].is_null(), "{events:?}");
    assert_eq!(replicas(stack, DEPLOYMENT).await, 1);
}

/// What cluster-autoscaler reads, as it reads it: strings.
async fn the_other_autoscaler_is_told(world: &World) {
    const BOUNDS: &str = "cluster.x-k8s.io/cluster-api-autoscaler-node-group-";
    let (least, most) = (format!("{BOUNDS}min-size"), format!("{BOUNDS}max-size"));
    let stack = &world.stack;
    let told = async |wanted: Option<(&str, &str)>| {
        wait_until(&format!("the annotations {wanted:?}"), LIMIT, async || {
            let deployment = core(stack, "MachineDeployment").get(DEPLOYMENT).await;
            let deployment = deployment.map_err(|error| error.to_string())?;
            let annotations = deployment.annotations();
            let found = annotations.get(&least).zip(annotations.get(&most));
            if found.map(|(a, b)| (a.as_str(), b.as_str())) == wanted {
                Ok(annotations.clone())
            } else {
                Err(format!("{annotations:?}"))
            }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"))
    };
    change(stack, json!({"spec": {"actuationMode": "Delegate"}})).await;
    // One is bound, two hosts are free: three, though maxReplicas is 10. The query asks for three at least.
    let annotations = told(Some(("3", "3"))).await;
    let patience = &annotations["cluster.x-k8s.io/autoscaling-options-maxnodeprovisiontime"];
    let seconds = patience.strip_suffix('s').and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| seconds > 0), "{patience}");
    wait_for_group(stack, GROUP, "to be delegated", |group| groups::told(group, "Delegated").is_some()).await;
    rounds(stack, ROUNDS).await;
    assert_eq!(replicas(stack, DEPLOYMENT).await, 1, "the other one writes it");
    world.say(40).await;
    told(Some(("1", "3"))).await;

    change(stack, json!({"spec": {"actuationMode": "Direct"}})).await;
    let annotations = told(None).await;
    let left: Vec<_> = annotations.keys().filter(|key| key.contains("autoscal")).collect();
    assert!(left.is_empty(), "{left:?}");
    wait_for_active(stack).await;
    rounds(stack, ROUNDS).await;
    assert_eq!(replicas(stack, DEPLOYMENT).await, 1);
}

/// Every panel's queries are answered, and every alert can be judged, by the server that scrapes the manager.
async fn panels_and_alerts_have_something_to_show(world: &World) {
    let text = std::fs::read_to_string(root().join("docs/grafana/autoscaling.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    for target in targets {
        let query = target["expr"].as_str().unwrap();
        // What Grafana puts in.
        let query =
            query.replace("$namespace", ".+").replace("$group", GROUP).replace("$__rate_interval", "1m");
        let samples = world.prometheus.ask(&query).await.unwrap_or_else(|why| panic!("{query}: {why}"));
        // Nothing went wrong here, perhaps.
        assert!(!samples.is_empty() || query.contains("ferric_errors_total"), "nothing for {query}");
    }
    wait_until("all alerts to be judged", LIMIT, async || {
        let rules = world.prometheus.api("rules", &[]).await?;
        let groups = rules["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let states: Vec<_> = rules.map(|rule| (&rule["name"], &rule["health"], &rule["state"])).collect();
        // Nothing fires: it takes minutes, and nothing here lasts for minutes.
        let fine = states.iter().all(|(_, health, state)| **health == "ok" && **state != "firing");
        if fine && states.len() >= 10 { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    let leaders = world.prometheus.ask("max(ferric_leader)").await.unwrap();
    assert_eq!(leaders[0]["value"][1], "1", "{leaders:?}");
}

/// The rules as Prometheus' own program reads them, and which alert fires when.
#[test]
fn alerts_fire_when_they_should() {
    if !Path::new(PROMTOOL).exists() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: the alerts are not checked: {INSTALL}");
        return;
    }
    let check = |what: &str, file: &Path| {
        let done = Command::new(PROMTOOL).args([what, "rules"]).arg(file).output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&said));
    };
    check("check", &alerts());
    check("test", &root().join("tests/alerts/ferric_test.yaml"));
}

impl World {
    /// Lets the exporter say a value, and waits until Prometheus knows it.
    async fn say(&self, value: i64) {
        self.exporter.set(value);
        wait_until(&format!("the query to give {value}"), LIMIT, async || {
            let samples = self.prometheus.ask(QUERY).await?;
            let given = samples.first().and_then(|sample| sample["value"][1].as_str());
            if given == Some(value.to_string().as_str()) { Ok(()) } else { Err(format!("{given:?}")) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn alerts() -> PathBuf {
    root().join("docs/alerts/ferric.yaml")
}

/// The query at a server, with the token of a Secret.
fn trigger(server: &str, credentials: Option<&str>) -> Value {
    let mut details = json!({
        "serverURL": server, "query": QUERY, "target": {"type": "AverageValue", "value": "50"},
    });
    if let Some(name) = credentials {
        details["credentialsName"] = name.into();
    }
    json!({"name": TRIGGER, "type": "Prometheus", "prometheus": details})
}

fn queue(group: &NodeGroupAutoscaler) -> Option<TriggerStatus> {
    let status = group.status.as_ref()?;
    status.triggers.iter().find(|trigger| trigger.name == TRIGGER).cloned()
}

fn active(group: &NodeGroupAutoscaler) -> Option<Condition> {
    says(group, "ScalingActive")
}

/// Changes the group, and waits until that was seen.
async fn change(stack: &Stack, change: Value) {
    let generation = patch_group(stack, GROUP, change).await.metadata.generation;
    wait_for_group(stack, GROUP, "its change to be seen", |group| {
        group.status.as_ref().is_some_and(|status| status.observed_generation >= generation)
    })
    .await;
}

async fn wait_for_active(stack: &Stack) {
    wait_for_group(stack, GROUP, "to be active", |group| {
        active(group).is_some_and(|active| active.reason == "Measured")
    })
    .await;
}

async fn token(stack: &Stack, token: &str) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {
            "name": "queue-access", "namespace": NAMESPACE,
            "labels": {"ferric.infrastructure.cluster.x-k8s.io/used-for": "prometheus"},
        },
        "stringData": {"token": token},
    });
    stack.bed.apply(&secret.to_string()).await.unwrap();
}

/// Events that recommend more.
async fn recommended(stack: &Stack) -> Vec<Value> {
    let events = stack.bed.kubectl(["get", "events.events.k8s.io", "-o", "json"]).await.unwrap();
    let events: Value = serde_json::from_str(&events).unwrap();
    let mut events = events["items"].as_array().cloned().unwrap_or_default();
    events.retain(|event| event["reason"] == "ScaleUpRecommended" && event["regarding"]["name"] == GROUP);
    events
}
