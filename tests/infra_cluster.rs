//! The BareMetalCluster controller on a real API server, with the manager's own rights.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "claim_race/world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use ferric::capi::Cluster;
use ferric::controllers::cluster::{self, ClusterContext};
use ferric::telemetry::Metrics;
use ferric::watch::Watched;
use ferric_api::{BareMetalCluster, BareMetalHost, BareMetalMachine, condition, names};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use world::{LIMIT, NAMESPACE, World};

fn start(world: &World) -> JoinSet<anyhow::Result<()>> {
    let mut tasks = JoinSet::new();
    let metrics = Arc::new(Metrics::new());
    let client = world.manager.clone();
    let namespace = Some(NAMESPACE);
    let context = ClusterContext::new(
        client.clone(),
        Watched::start(client.clone(), namespace, None, &metrics, &mut tasks),
        Watched::start(client.clone(), namespace, None, &metrics, &mut tasks),
        Watched::start(client.clone(), namespace, None, &metrics, &mut tasks),
        Watched::start(client, namespace, None, &metrics, &mut tasks),
        metrics,
    );
    tasks.spawn(cluster::run(context, 4, CancellationToken::new()));
    tasks
}

async fn until(world: &World, what: &str, so: impl Fn(&BareMetalCluster) -> bool) -> BareMetalCluster {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let object = world.api::<BareMetalCluster>().get("prod").await.unwrap();
        if so(&object) {
            return object;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not within {} s: {what}; {object:?}",
            LIMIT.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn reason(object: &BareMetalCluster, kind: &str) -> String {
    let conditions = object.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    condition::get(conditions, kind).map(|c| c.reason.clone()).unwrap_or_default()
}

fn domains(object: &BareMetalCluster) -> Vec<&str> {
    object.status.iter().flat_map(|s| &s.failure_domains).map(|d| d.name.as_str()).collect()
}

async fn change_cluster(world: &World, change: Value) {
    let patch = Patch::Merge(change);
    world.api::<Cluster>().patch("prod", &PatchParams::default(), &patch).await.unwrap();
}

async fn add_host(world: &World, name: &str, domain: &str) {
    let host: BareMetalHost = serde_json::from_value(json!({
        "apiVersion": ferric_api::API_VERSION, "kind": "BareMetalHost",
        "metadata": {"name": name, "labels": {names::FAILURE_DOMAIN_LABEL: domain}},
        "spec": {"online": false},
    }))
    .unwrap();
    world.api().create(&PostParams::default(), &host).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_provisioned_paused_and_outlives_its_machines() {
    let world = World::start().await;
    let tasks = start(&world);
    add_host(&world, "a", "room-1").await;
    let object: BareMetalCluster = serde_json::from_value(json!({
        "apiVersion": ferric_api::API_VERSION, "kind": "BareMetalCluster",
        "metadata": {"name": "prod"}, "spec": {},
    }))
    .unwrap();
    world.api().create(&PostParams::default(), &object).await.unwrap();
    let object = until(&world, "it waits for its owner", |o| reason(o, "Ready") == "WaitingForOwner").await;
    assert!(object.finalizers().is_empty(), "nothing of ours before Cluster API owns it");

    let owner = world.api::<Cluster>().get("prod").await.unwrap();
    let owned = json!({"metadata": {
        "labels": {"cluster.x-k8s.io/cluster-name": "prod"},
        "ownerReferences": [{"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "name": "prod",
            "uid": owner.uid().unwrap()}],
    }});
    let patch = Patch::Merge(owned);
    world.api::<BareMetalCluster>().patch("prod", &PatchParams::default(), &patch).await.unwrap();
    until(&world, "it waits for an endpoint", |o| reason(o, "Ready") == "WaitingForControlPlaneEndpoint")
        .await;

    change_cluster(&world, json!({"spec": {"controlPlaneEndpoint": {"host": "10.0.0.1", "port": 6443}}}))
        .await;
    // The host may be seen later than the cluster: two watches.
    let object = until(&world, "it is provisioned, with its failure domain", |o| {
        reason(o, "Ready") == "Provisioned" && domains(o) == ["room-1"]
    })
    .await;
    assert_eq!(object.spec.control_plane_endpoint.as_ref().unwrap().host, "10.0.0.1");
    assert_eq!(object.status.as_ref().unwrap().initialization.as_ref().unwrap().provisioned, Some(true));

    add_host(&world, "b", "room-2").await;
    until(&world, "a new failure domain is published", |o| domains(o) == ["room-1", "room-2"]).await;

    change_cluster(&world, json!({"spec": {"paused": true}})).await;
    until(&world, "it is paused", |o| reason(o, "Paused") == "Paused").await;
    change_cluster(&world, json!({"spec": {"paused": false}})).await;
    until(&world, "it goes on", |o| reason(o, "Paused") == "NotPaused").await;

    world.add_machines(0..1).await;
    world.api::<BareMetalCluster>().delete("prod", &DeleteParams::default()).await.unwrap();
    let object = until(&world, "it waits for its machine", |o| reason(o, "Ready") == "Deleting").await;
    let conditions = &object.status.as_ref().unwrap().conditions;
    assert!(condition::get(conditions, "Ready").unwrap().message.contains("machine-000"));
    world.api::<BareMetalMachine>().delete("machine-000", &DeleteParams::default()).await.unwrap();
    let deadline = tokio::time::Instant::now() + LIMIT;
    while world.api::<BareMetalCluster>().get_opt("prod").await.unwrap().is_some() {
        assert!(tokio::time::Instant::now() < deadline, "it does not go");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(tasks);
    world.stop().await;
}
