//! What a machine of a template offers, published on a real API server with the manager's own rights, and read as
//! cluster-autoscaler reads it.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "claim_race/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferric::controllers::template::{self, TemplateContext};
use ferric::telemetry::{Events, Metrics};
use ferric::watch::Watched;
use ferric_api::{BareMetalHost, BareMetalMachineTemplate, HardwareData, names};
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
    let events = Events::start(client.clone(), "test", metrics.clone(), &mut tasks);
    let context = TemplateContext::new(
        client.clone(),
        Watched::start(client.clone(), namespace, None, &metrics, &mut tasks),
        Watched::start(client.clone(), namespace, None, &metrics, &mut tasks),
        Watched::start_pruned(client, namespace, None, &metrics, &mut tasks, template::prune),
        events,
        metrics,
    );
    tasks.spawn(template::run(context, 4, CancellationToken::new()));
    tasks
}

async fn add_host(world: &World, name: &str, class: &str, cpus: i64, mebibytes: i64, gpus: usize) {
    let host: BareMetalHost = serde_json::from_value(json!({
        "apiVersion": ferric_api::API_VERSION, "kind": "BareMetalHost",
        "metadata": {"name": name, "labels": {"class": class}}, "spec": {"online": false},
    }))
    .unwrap();
    world.api().create(&PostParams::default(), &host).await.unwrap();
    let data: HardwareData = serde_json::from_value(json!({
        "apiVersion": ferric_api::API_VERSION, "kind": "HardwareData", "metadata": {"name": name},
        "spec": {"hardware": {"cpu": {"count": cpus, "arch": "x86_64"}, "ramMebibytes": mebibytes,
            "gpus": vec![json!({"vendorID": "10de", "model": "H100"}); gpus]}},
    }))
    .unwrap();
    world.api().create(&PostParams::default(), &data).await.unwrap();
}

async fn add_template(world: &World, name: &str, class: &str, annotations: Value) {
    let template: BareMetalMachineTemplate = serde_json::from_value(json!({
        "apiVersion": ferric_api::API_VERSION, "kind": "BareMetalMachineTemplate",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"template": {"spec": {
            "hostSelector": {"matchLabels": {"class": class}},
            "image": {"url": "http://images.example/os.raw", "checksum": "0".repeat(64)},
        }}},
    }))
    .unwrap();
    world.api().create(&PostParams::default(), &template).await.unwrap();
}

/// As cluster-autoscaler's Cluster API provider does it (`resourceCapacityFromInfrastructureObject`): `status.capacity` of an
/// untyped object as a map of strings; one value that is none, and nothing of it counts.
fn nested_string_map(object: &Value, path: &str) -> BTreeMap<String, String> {
    let Some(map) = object.pointer(path).and_then(Value::as_object) else { return BTreeMap::new() };
    let strings = map.iter().map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    strings.collect::<Option<_>>().unwrap_or_default()
}

async fn until(world: &World, name: &str, capacity: &[(&str, &str)]) -> Value {
    let wanted: BTreeMap<String, String> =
        capacity.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let object = json!(world.api::<BareMetalMachineTemplate>().get(name).await.unwrap());
        if nested_string_map(&object, "/status/capacity") == wanted {
            return object;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{name}: not within {} s: {wanted:?}; {}",
            LIMIT.as_secs(),
            object["status"]
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_says_what_its_hosts_offer_as_hosts_come_change_and_go() {
    let world = World::start().await;
    let tasks = start(&world);
    add_template(&world, "general", "general", json!({})).await;
    add_template(&world, "gpu", "gpu", json!({names::NODE_RESERVE_ANNOTATION: "cpu=500m,memory=4Gi"})).await;

    add_host(&world, "a", "general", 16, 65_536, 0).await;
    add_host(&world, "g", "gpu", 64, 524_288, 8).await;
    // 110 millicores are kept of 16, and 2876 MiB of 65536.
    let object = until(&world, "general", &[("cpu", "15890m"), ("memory", "62660Mi")]).await;
    let info = nested_string_map(&object, "/status/nodeInfo");
    assert_eq!((info["architecture"].as_str(), info["operatingSystem"].as_str()), ("amd64", "linux"));
    until(&world, "gpu", &[("cpu", "63500m"), ("memory", "520192Mi"), ("nvidia.com/gpu", "8")]).await;

    // A smaller one: the least of each, and somebody is told.
    add_host(&world, "b", "general", 8, 131_072, 0).await;
    until(&world, "general", &[("cpu", "7910m"), ("memory", "62660Mi")]).await;
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let events =
            world.api::<k8s_openapi::api::events::v1::Event>().list(&Default::default()).await.unwrap();
        let told = events.items.iter().find(|event| event.reason.as_deref() == Some("CapacityUncertain"));
        if let Some(event) = told {
            let note = event.note.clone().unwrap();
            assert!(note.contains("1 of 8 CPUs, 131072 MiB, amd64"), "{note}");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no event says that the hosts differ");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // It goes to another class, and the other goes altogether.
    let moved = Patch::Merge(json!({"metadata": {"labels": {"class": "other"}}}));
    world.api::<BareMetalHost>().patch("b", &PatchParams::default(), &moved).await.unwrap();
    until(&world, "general", &[("cpu", "15890m"), ("memory", "62660Mi")]).await;
    world.api::<BareMetalHost>().delete("a", &DeleteParams::default()).await.unwrap();
    until(&world, "general", &[]).await;
    drop(tasks);
    world.stop().await;
}
