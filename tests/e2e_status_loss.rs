//! The status of every object is deleted, while the manager runs and while it is down. Every field that the tables of
//! `docs/host-lifecycle.md` call derived comes back as it was, and no BMC takes a write.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/claims.rs"]
mod claims;
#[path = "e2e/mod.rs"]
mod e2e;
#[path = "e2e/status_fields.rs"]
mod status_fields;
#[path = "e2e/untouched.rs"]
mod untouched;

use std::collections::BTreeMap;

use claims::{create_cluster, create_machine, create_machine_for, wait_for_machine};
use e2e::{LIMIT, NAMESPACE, image, patch_host, says, wait_for_host, wait_for_state};
use ferric_api::host::ProvisioningState as State;
use ferric_api::names;
use ferric_testbed::{Stack, wait_until};
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use status_fields::Table;
use untouched::Untouched;

const KINDS: [&str; 3] = ["BareMetalHost", "BareMetalMachine", "BareMetalCluster"];
/// Servers, by what becomes of their hosts.
const FREE: &str = "host-01";
const BY_HAND: &str = "host-02";
const CLAIMED: &str = "host-03";
const EXTERNAL: &str = "host-04";
const UNDECIDED: &str = "host-05";
const PAUSED: &str = "host-06";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_derived_comes_back() {
    let mut stack =
        Stack::builder().fleet(6, 3).without_hosts().start().await.unwrap_or_else(|error| panic!("{error}"));
    make_objects(&stack).await;
    let servers: Vec<String> = stack.simulator.servers().iter().map(|server| server.name.clone()).collect();
    let untouched = Untouched::from_now(&stack, &servers).await;
    let before = settled(&stack).await;
    assert_eq!(before.len(), 12, "{:?}", before.keys());

    delete_all(&stack).await;
    same_again(&stack, &before, &[]).await;

    stack.manager.kill();
    delete_all(&stack).await;
    stack.manager.restart().await.unwrap();
    // A paused host is not even read.
    same_again(&stack, &before, &[PAUSED]).await;
    patch_host(&stack, PAUSED, json!({"metadata": {"annotations": {names::PAUSED_ANNOTATION: null}}})).await;
    wait_for_state(&stack, PAUSED, State::Available).await;
    wait_for_host(&stack, PAUSED, "being registered", |host| says(host, "Registered", "True", "Registered"))
        .await;
    patch_host(&stack, PAUSED, json!({"metadata": {"annotations": {names::PAUSED_ANNOTATION: "test"}}}))
        .await;
    same_again(&stack, &before, &[]).await;
    untouched.check(&stack).await;
    stack.stop().await;
}

/// Hosts in every state of rest, machines that are bound and that wait, and their cluster.
async fn make_objects(stack: &Stack) {
    create_cluster(stack).await;
    let manifests = stack.simulator.manifests_of(&[FREE, BY_HAND, CLAIMED, PAUSED]).unwrap();
    stack.bed.apply(&manifests).await.unwrap();
    let altered = |name: &str, field: &str, value: Value| {
        let manifests = stack.simulator.manifests_of(&[name]).unwrap();
        let objects = manifests.split("---\n").filter(|text| !text.trim().is_empty()).map(|text| {
            let mut object: Value = serde_yaml_ng::from_str(text).unwrap();
            if object["kind"] == "BareMetalHost" {
                object["spec"][field] = value.clone();
            }
            format!("---\n{object}\n")
        });
        objects.collect::<String>()
    };
    stack.bed.apply(&altered(EXTERNAL, "externallyProvisioned", json!(true))).await.unwrap();
    let undecided = json!({"apiVersion": ferric_api::API_VERSION, "kind": "BareMetalMachine",
        "metadata": {"name": "undecided", "namespace": NAMESPACE}, "spec": {}});
    stack.bed.apply(&undecided.to_string()).await.unwrap();
    let consumer = json!({"apiVersion": ferric_api::API_VERSION, "kind": "BareMetalMachine",
        "namespace": NAMESPACE, "name": "undecided"});
    stack.bed.apply(&altered(UNDECIDED, "consumerRef", consumer)).await.unwrap();
    let unmanaged = json!({"apiVersion": ferric_api::API_VERSION, "kind": "BareMetalHost",
        "metadata": {"name": "unmanaged", "namespace": NAMESPACE}, "spec": {"online": true}});
    stack.bed.apply(&unmanaged.to_string()).await.unwrap();

    for name in [FREE, BY_HAND, CLAIMED, PAUSED] {
        wait_for_state(stack, name, State::Available).await;
    }
    let mut twin: Value = Value::Null;
    for text in
        stack.simulator.manifests_of(&[FREE]).unwrap().split("---\n").filter(|text| !text.trim().is_empty())
    {
        let object: Value = serde_yaml_ng::from_str(text).unwrap();
        if object["kind"] == "BareMetalHost" {
            twin = object;
        }
    }
    twin["metadata"]["name"] = json!("twin");
    stack.bed.apply(&twin.to_string()).await.unwrap();

    patch_host(
        stack,
        BY_HAND,
        json!({"spec": {"image": image(stack), "rootDeviceHints": {"deviceName": "/dev/sda"}}}),
    )
    .await;
    create_machine(stack, "bound", CLAIMED).await;
    // After "bound": what it is told of the hosts' labels is then what it will be told.
    create_machine_for(stack, "waiting", "nobody").await;
    wait_for_machine(stack, "bound").await;
    wait_for_state(stack, BY_HAND, State::Provisioned).await;
    wait_for_state(stack, EXTERNAL, State::ExternallyProvisioned).await;
    wait_for_state(stack, "unmanaged", State::Unmanaged).await;
    wait_for_host(stack, UNDECIDED, "being undecided", |host| {
        says(host, "Registered", "True", "NoUsableRecord")
    })
    .await;
    wait_for_host(stack, "twin", "being a duplicate", |host| {
        says(host, "Registered", "False", "DuplicateHost")
    })
    .await;
    patch_host(stack, PAUSED, json!({"metadata": {"annotations": {names::PAUSED_ANNOTATION: "test"}}})).await;
    wait_for_host(stack, PAUSED, "being paused", |host| says(host, "Paused", "True", "Paused")).await;
}

fn api(stack: &Stack, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(ferric_api::GROUP, "v1alpha1", kind));
    Api::namespaced_with(stack.bed.client(), NAMESPACE, &resource)
}

/// What is derived, by object and field.
type Derived = BTreeMap<String, BTreeMap<String, Value>>;

async fn derived(stack: &Stack) -> Derived {
    let mut all = Derived::new();
    for kind in KINDS {
        let table = Table::of(kind);
        for object in api(stack, kind).list(&ListParams::default()).await.unwrap() {
            all.insert(format!("{kind}/{}", object.name_any()), table.derived(&object.data["status"]));
        }
    }
    all
}

/// What is derived once the last reports are written: a passing difference is written when it has stood for two
/// seconds, so what has stood for three is what will stand.
async fn settled(stack: &Stack) -> Derived {
    let mut last: Option<(std::time::Instant, Derived)> = None;
    wait_until("all statuses to be at rest", LIMIT, async || {
        let now = derived(stack).await;
        match &last {
            Some((since, seen)) if *seen == now && since.elapsed().as_secs() >= 3 => Ok(now),
            Some((_, seen)) if *seen == now => Err("not yet".to_owned()),
            _ => {
                last = Some((std::time::Instant::now(), now));
                Err("still changing".to_owned())
            }
        }
    })
    .await
    .unwrap()
}

async fn delete_all(stack: &Stack) {
    for kind in KINDS {
        let api = api(stack, kind);
        for object in api.list(&ListParams::default()).await.unwrap() {
            let fields = object.data["status"].as_object().cloned().unwrap_or_default();
            let nothing: serde_json::Map<_, _> =
                fields.into_iter().map(|(field, _)| (field, Value::Null)).collect();
            let patch = Patch::Merge(json!({ "status": nothing }));
            let emptied =
                api.patch_status(&object.name_any(), &PatchParams::default(), &patch).await.unwrap();
            let left = &emptied.data["status"];
            assert!(left.get("conditions").is_none(), "{kind}/{}: {left}", object.name_any());
        }
    }
}

async fn same_again(stack: &Stack, before: &Derived, except: &[&str]) {
    wait_until("every derived field to be as it was", LIMIT, async || {
        let now = derived(stack).await;
        let different = before.iter().filter(|(object, _)| !except.iter().any(|name| object.ends_with(name)));
        let lines: Vec<String> =
            different.flat_map(|(object, fields)| compare(object, fields, &now[object])).collect();
        if lines.is_empty() { Ok(()) } else { Err(format!("\n{}", lines.join("\n"))) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

fn compare(object: &str, before: &BTreeMap<String, Value>, now: &BTreeMap<String, Value>) -> Vec<String> {
    let paths: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let different = paths.into_iter().filter(|path| before.get(*path) != now.get(*path));
    let show = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    different
        .map(|path| format!("{object} {path}: was {}, is {}", show(before.get(path)), show(now.get(path))))
        .collect()
}

#[test]
fn rows_cover_the_fields_that_they_name() {
    let status = json!({
        "poweredOn": true, "bmc": {"driver": "redfish", "bootMethods": ["Network"]}, "errorCount": 1,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "t"}],
    });
    let derived: Vec<String> = Table::of("BareMetalHost").derived(&status).into_keys().collect();
    assert_eq!(
        derived,
        [
            "bmc.bootMethods[0]",
            "bmc.driver",
            "conditions[Ready].status",
            "conditions[Ready].type",
            "poweredOn"
        ]
    );
}

#[test]
#[should_panic(expected = "newField")]
fn a_field_that_is_in_no_row_is_an_error() {
    Table::of("BareMetalCluster").derived(&json!({"newField": 1}));
}
