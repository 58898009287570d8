//! `clusterctl move` of a namespace with a running cluster, control plane included, and hosts of every kind to a second
//! management plane, which has its own manager with its own keys. The servers notice nothing: no BMC takes a write.
//! There the cluster is deleted, and its hosts end available. The manager of the first plane runs on all the while.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;
#[path = "e2e/status_fields.rs"]
mod status_fields;
#[path = "e2e/untouched.rs"]
mod untouched;

use std::collections::BTreeMap;
use std::time::Instant;

use e2e::{LIMIT, NAMESPACE, image, patch_host, says, show, state, wait_for_host, wait_for_state};
use ferric_api::host::ProvisioningState as State;
use ferric_api::{BareMetalHost, BareMetalMachine, names};
use ferric_testbed::stack::programs::{Program, ensure};
use ferric_testbed::stack::{ClusterRequest, Manager, ManagerOptions, disk, release};
use ferric_testbed::{Bed, Stack, wait_until};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use status_fields::Table;
use untouched::Untouched;

const CLUSTER: &str = "prod";
const CONTROL_PLANES: usize = 1;
const WORKERS: usize = 2;
const MACHINES: usize = CONTROL_PLANES + WORKERS;
const BY_HAND: &str = "host-06";
const EXTERNAL: &str = "host-07";
const PAUSED: &str = "host-08";
const DATA: &str = "by-hand-data";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_moves_to_another_management_plane_and_its_servers_notice_nothing() {
    let (mut stack, target) = tokio::join!(source(), target());
    let created = create(&stack).await;
    let workload = workload(&stack.bed).await;
    let source = stack.bed.client();
    let client = target.client();
    let program = ensure(Program::Manager).await.unwrap();
    let there = Manager::start(&target, &program, &ManagerOptions::default()).await.unwrap();

    let before = all::<BareMetalHost>(&source).await;
    let machines = running_machines(&source).await;
    let nodes = provider_ids(&workload).await;
    let keys = [agent_keys(&source).await, agent_keys(&client).await];
    assert!(keys[0] != keys[1]);
    let servers: Vec<String> = stack.simulator.servers().iter().map(|server| server.name.clone()).collect();
    let untouched = Untouched::from_now(&stack, &servers).await;

    let begun = Instant::now();
    let kubeconfig = target.kubeconfig().display().to_string();
    let said =
        stack.bed.clusterctl(["move", "--namespace", NAMESPACE, "--to-kubeconfig", &kubeconfig], &[]).await;
    said.unwrap_or_else(|error| panic!("{error}"));
    eprintln!("moved after {} s", begun.elapsed().as_secs());
    for host in &before {
        arrives(&client, host).await;
    }
    let moved = running_machines(&client).await;
    assert_eq!(provider_id_of(&moved), provider_id_of(&machines));
    for machine in &moved {
        let host = get::<BareMetalHost>(&client, &machine.spec.host_ref.as_ref().unwrap().name).await;
        let consumer = host.spec.consumer_ref.as_ref().unwrap();
        assert_eq!(
            (consumer.name.as_deref(), consumer.uid.as_deref()),
            (Some(&*machine.name_any()), machine.uid().as_deref())
        );
    }
    assert_eq!(provider_ids(&workload).await, nodes);
    assert_eq!(
        (all::<BareMetalHost>(&source).await.len(), all::<BareMetalMachine>(&source).await.len()),
        (0, 0)
    );
    // What a host needs for its next deployment came along.
    get::<Secret>(&client, DATA).await;
    let wait = ["wait", "-n", NAMESPACE, "cluster", CLUSTER, "--for=condition=Available", "--timeout=110s"];
    target.kubectl(wait).await.unwrap_or_else(|error| panic!("{error}"));
    eprintln!("running there after {} s", begun.elapsed().as_secs());

    unpause(&client).await;
    stack.manager.check().unwrap();
    untouched.check(&stack).await;
    delete_the_cluster(&stack, &client, &target, &moved).await;
    eprintln!("deleted there after {} s", begun.elapsed().as_secs());

    drop((there, created));
    stack.stop().await;
    target.stop().await;
}

async fn source() -> Stack {
    let stack = Stack::builder()
        .cluster_api(true)
        .control_planes_on_hosts()
        .fleet(8, 3)
        .without_hosts()
        .start()
        .await;
    stack.unwrap_or_else(|error| panic!("{error}"))
}

async fn target() -> Bed {
    let release = release::folder().await.unwrap();
    let bed = Bed::builder().name("target").cluster_api(Some(release)).start().await;
    bed.unwrap_or_else(|error| panic!("{error}"))
}

/// A client of the cluster that was made, as an administrator.
async fn workload(bed: &Bed) -> Client {
    let text = bed.clusterctl(["get", "kubeconfig", CLUSTER, "-n", NAMESPACE], &[]).await.unwrap();
    let path = bed.dir().join("workload.kubeconfig");
    std::fs::write(&path, text).unwrap();
    ferric_testbed::kubeconfig::client(&path).await.unwrap()
}

/// Hosts of every kind at rest: three with Machines that run, one of them a control plane, free ones, one with an image by hand, one that others
/// installed, one that is paused.
async fn create(stack: &Stack) -> ferric_testbed::stack::Created {
    let data = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": DATA, "namespace": NAMESPACE},
        "stringData": {"userData": "#cloud-config\n"}});
    stack.bed.apply(&data.to_string()).await.unwrap();
    stack.bed.apply(&stack.simulator.manifests().unwrap()).await.unwrap();
    patch_host(stack, EXTERNAL, json!({"spec": {"externallyProvisioned": true}})).await;
    patch_host(stack, BY_HAND, json!({"spec": {"image": image(stack), "userData": {"name": DATA}}})).await;
    wait_for_state(stack, PAUSED, State::Available).await;
    patch_host(stack, PAUSED, json!({"metadata": {"annotations": {names::PAUSED_ANNOTATION: "test"}}})).await;
    wait_for_host(stack, PAUSED, "being paused", |host| says(host, "Paused", "True", "Paused")).await;
    let request = ClusterRequest {
        name: CLUSTER,
        namespace: NAMESPACE,
        workers: WORKERS,
        image: &stack.image,
        variables: vec![],
    };
    let created = request.create_with_kubeadm(&stack.bed, CONTROL_PLANES).await.unwrap();
    running_machines(&stack.bed.client()).await;
    wait_for_state(stack, BY_HAND, State::Provisioned).await;
    wait_for_state(stack, EXTERNAL, State::ExternallyProvisioned).await;
    for server in stack.simulator.servers() {
        wait_for_host(stack, &server.name, "being at rest", |host| {
            let status = host.status.as_ref().unwrap();
            // What is free is off, what is in use is on.
            let on = state(host) != State::Available;
            says(host, "Paused", "True", "Paused")
                || status.waiting_for.is_none() && status.powered_on == Some(on)
        })
        .await;
    }
    created
}

fn api<K>(client: &Client) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), NAMESPACE)
}

async fn all<K>(client: &Client) -> Vec<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    api::<K>(client).list(&ListParams::default()).await.unwrap().items
}

async fn get<K>(client: &Client, name: &str) -> K
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    api::<K>(client).get(name).await.unwrap()
}

async fn agent_keys(client: &Client) -> Value {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), ferric_testbed::stack::manager::NAMESPACE);
    serde_json::to_value(secrets.get("ferric-agent-keys").await.unwrap().data).unwrap()
}

/// Waits until all Machines are Running and their BareMetalMachines provisioned.
async fn running_machines(client: &Client) -> Vec<BareMetalMachine> {
    let kind = GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", "Machine");
    let owners: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::from_gvk(&kind));
    let machines = api::<BareMetalMachine>(client);
    wait_until(&format!("{MACHINES} Machines to be Running"), LIMIT, async || {
        let all = ListParams::default();
        let owners = owners.list(&all).await.map_err(|error| error.to_string())?.items;
        let machines = machines.list(&all).await.map_err(|error| error.to_string())?.items;
        let phases: Vec<&Value> = owners.iter().map(|owner| &owner.data["status"]["phase"]).collect();
        let provisioned = machines.iter().all(|machine| {
            let status = machine.status.as_ref();
            status.and_then(|s| s.initialization.as_ref()).is_some_and(|i| i.provisioned == Some(true))
        });
        let running = phases.len() == MACHINES && phases.iter().all(|phase| **phase == "Running");
        if running && provisioned && machines.len() == MACHINES {
            return Ok(machines);
        }
        let waits = machines.iter().map(|m| serde_json::to_string(&m.status).unwrap_or_default());
        Err(format!("{phases:?} {}", waits.collect::<Vec<_>>().join("\n")))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"))
}

fn provider_id_of(machines: &[BareMetalMachine]) -> BTreeMap<String, String> {
    machines.iter().map(|machine| (machine.name_any(), machine.spec.provider_id.clone().unwrap())).collect()
}

/// Node names and UIDs with their provider IDs: a server that is started anew would be another Node.
async fn provider_ids(workload: &Client) -> BTreeMap<String, String> {
    let nodes = Api::<Node>::all(workload.clone()).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(nodes.len(), MACHINES);
    let facts = |node: &Node| {
        let id = node.spec.as_ref().and_then(|spec| spec.provider_id.clone()).unwrap();
        (format!("{} {}", node.name_any(), node.uid().unwrap()), id)
    };
    nodes.iter().map(facts).collect()
}

/// The host is there as it was here: the same record, and the same in every field of the status that is derived.
async fn arrives(client: &Client, before: &BareMetalHost) {
    let name = before.name_any();
    let hosts = api::<BareMetalHost>(client);
    let same = async || {
        let host = hosts.get(&name).await.map_err(|error| error.to_string())?;
        if host.spec.record != before.spec.record {
            return Err(format!("another record: {}", show(&host)));
        }
        let (was, is) = (derived(before), derived(&host));
        let different: Vec<String> = was
            .iter()
            .filter(|(path, value)| is.get(*path) != Some(*value))
            .map(|(path, value)| format!("{path} was {value}, is {:?}", is.get(path)))
            .collect();
        if different.is_empty() && was.len() == is.len() { Ok(()) } else { Err(different.join("\n")) }
    };
    wait_until(&format!("{name} to arrive as it left"), LIMIT, same)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
}

fn derived(host: &BareMetalHost) -> BTreeMap<String, Value> {
    let mut derived = Table::of("BareMetalHost").derived(&serde_json::to_value(&host.status).unwrap());
    // A Secret has another version in another plane.
    derived.retain(|path, _| !path.ends_with("Credentials.version"));
    if says(host, "Paused", "True", "Paused") {
        // Nothing is read from the BMC of a paused host.
        derived.retain(|path, _| path.starts_with("provisioning") || path.starts_with("conditions[Paused]"));
    }
    derived
}

async fn unpause(client: &Client) {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {names::PAUSED_ANNOTATION: null}}}));
    api::<BareMetalHost>(client).patch(PAUSED, &PatchParams::default(), &patch).await.unwrap();
    wait_there(client, PAUSED, "being available", |host| {
        state(host) == State::Available && says(host, "Ready", "True", "Available")
    })
    .await;
}

async fn wait_there(client: &Client, name: &str, what: &str, wanted: impl Fn(&BareMetalHost) -> bool) {
    let hosts = api::<BareMetalHost>(client);
    wait_until(&format!("{name}: {what}"), LIMIT, async || {
        let host = hosts.get(name).await.map_err(|error| error.to_string())?;
        if wanted(&host) { Ok(()) } else { Err(show(&host)) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

async fn delete_the_cluster(stack: &Stack, client: &Client, target: &Bed, machines: &[BareMetalMachine]) {
    let used: Vec<String> = machines.iter().map(|m| m.spec.host_ref.as_ref().unwrap().name.clone()).collect();
    let others: Vec<String> = stack
        .simulator
        .servers()
        .iter()
        .map(|s| s.name.clone())
        .filter(|name| !used.contains(name))
        .collect();
    let untouched = Untouched::from_now(stack, &others).await;
    target.kubectl(["delete", "cluster", CLUSTER, "-n", NAMESPACE, "--wait=false"]).await.unwrap();
    let kinds = "clusters.cluster.x-k8s.io,machines.cluster.x-k8s.io,baremetalclusters,baremetalmachines";
    wait_until("nothing of the cluster to be left", LIMIT, async || {
        match target.kubectl(["get", kinds, "-n", NAMESPACE, "-o", "name"]).await {
            Ok(left) if left.trim().is_empty() => Ok(()),
            Ok(left) => Err(left.replace('\n', " ")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    for name in &used {
        wait_there(client, name, "being available", |host| {
            let off = host.status.as_ref().is_some_and(|status| status.powered_on == Some(false));
            state(host) == State::Available && host.spec.consumer_ref.is_none() && off
        })
        .await;
        disk::is_wiped(stack.simulator.disk(name).unwrap()).unwrap();
    }
    untouched.check(stack).await;
}
