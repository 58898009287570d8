//! A MachineDeployment on hosts of three racks, under the real Cluster API, with a stand-in control plane: machines run,
//! wait for hosts, are given back, and leave nothing behind.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use e2e::{LIMIT, NAMESPACE, holds_image, host, hosts, patch_host, powered, show, state, wait_for_state};
use ferric_api::host::ProvisioningState as State;
use ferric_api::{BareMetalHost, BareMetalMachine, condition};
use ferric_testbed::stack::{ClusterRequest, disk};
use ferric_testbed::{Stack, Workload, wait_until};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

const CLUSTER: &str = "prod";
const CLASS: &str = "ferric.infrastructure.cluster.x-k8s.io/class";
/// Enrolled from the beginning; the last is kept for others by its class.
const FIRST: [&str; 5] = ["host-01", "host-02", "host-03", "host-04", "host-05"];
const RESERVED: &str = "host-05";
const LATE: &str = "host-06";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_come_and_go() {
    let stack = Stack::builder()
        .cluster_api(true)
        .fleet(6, 3)
        .without_hosts()
        .start()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    stack.bed.apply(&stack.simulator.manifests_of(&FIRST).unwrap()).await.unwrap();
    for name in FIRST {
        wait_for_state(&stack, name, State::Available).await;
    }
    let reserved = json!({"metadata": {"labels": {CLASS: "reserved"}}});
    patch_host(&stack, RESERVED, reserved).await;
    let selector = format!("matchLabels: {{{CLASS}: standard}}");
    let created = ClusterRequest {
        name: CLUSTER,
        namespace: NAMESPACE,
        workers: 3,
        image: &stack.image,
        variables: vec![("WORKER_HOST_SELECTOR", &selector)],
    }
    .create_with_external_control_plane(&stack.bed)
    .await
    .unwrap();
    let workload = created.workload.as_ref().unwrap();

    three_machines_in_three_racks(&stack, workload).await;
    more_machines_than_hosts(&stack, workload).await;
    scale_down(&stack, workload).await;
    delete_the_cluster(&stack).await;
    drop(created);
    stack.stop().await;
}

async fn three_machines_in_three_racks(stack: &Stack, workload: &Workload) {
    let running = wait_for_machines(stack, workload, 3).await;
    let racks: BTreeSet<String> = {
        let mut racks = BTreeSet::new();
        for machine in running.values() {
            let name = &machine.spec.host_ref.as_ref().unwrap().name;
            racks.insert(rack(&host(stack, name).await));
        }
        racks
    };
    assert_eq!(racks.len(), 3, "{racks:?}");
    wait_for_cluster_available(stack).await;
    // What Cluster API took over from the provider.
    let domains = stack
        .bed
        .kubectl(["get", "cluster", CLUSTER, "-o", "jsonpath={.status.failureDomains[*].name}"])
        .await
        .unwrap();
    assert_eq!(
        domains.split_whitespace().collect::<BTreeSet<_>>(),
        BTreeSet::from(["rack-1", "rack-2", "rack-3"])
    );
}

/// The fourth machine gets the last free host. The fifth says what it looked for and why no host would do, and takes
/// one that is enrolled later.
async fn more_machines_than_hosts(stack: &Stack, workload: &Workload) {
    scale(stack, 5).await;
    let machines = machines(stack);
    let waiting = wait_until("one machine to wait for a host, four to run", LIMIT, async || {
        let list = machines.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let bound = list.iter().filter(|machine| is_provisioned(machine)).count();
        let waiting = list.iter().find(|machine| {
            says(machine, "HostBound", "WaitingForHost") && says(machine, "Ready", "WaitingForHost")
        });
        match waiting {
            // The sentence is written anew as the hosts change.
            Some(waiting) if bound == 4 && told(waiting).contains("4") => Ok(waiting.clone()),
            _ => Err(list.iter().map(show_machine).collect::<Vec<_>>().join("\n")),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    let told = told(&waiting);
    for part in ["no free host in namespace default", "standard", "4 hosts", "reserved"] {
        assert!(told.contains(part), "{part:?} is not in {told:?}");
    }
    assert!(waiting.status.as_ref().unwrap().waiting_for.is_some());
    assert!(
        waiting.status.as_ref().unwrap().initialization.as_ref().is_none_or(|i| i.provisioned != Some(true))
    );
    assert_eq!(host(stack, RESERVED).await.spec.consumer_ref, None);

    stack.bed.apply(&stack.simulator.manifests_of(&[LATE]).unwrap()).await.unwrap();
    let (mut free, mut longest_look, hosts) = (None, Duration::ZERO, hosts(stack));
    let (consumer, took) = wait_until("the host enrolled late to be taken", LIMIT, async || {
        let begin = Instant::now();
        let seen = hosts.get(LATE).await.map_err(|error| error.to_string())?;
        longest_look = longest_look.max(begin.elapsed());
        if state(&seen) == State::Available || seen.spec.consumer_ref.is_some() {
            free.get_or_insert(begin);
        }
        match &seen.spec.consumer_ref {
            Some(consumer) => Ok((consumer.name.clone(), free.map(|at| at.elapsed()).unwrap_or_default())),
            None => Err(show(&seen)),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(consumer, Some(waiting.name_any()));
    // It takes milliseconds. A machine on which looking takes long cannot tell.
    let limit = Duration::from_secs(1) + 4 * longest_look;
    assert!(took < limit, "it took {took:?} to take the host, and a look {longest_look:?} at most");
    wait_for_machines(stack, workload, 5).await;
}

async fn scale_down(stack: &Stack, workload: &Workload) {
    let before = wait_for_machines(stack, workload, 5).await;
    let mut ends = BTreeMap::new();
    for server in stack.simulator.servers() {
        ends.insert(server.name.clone(), stack.simulator.journal_end(&server.name).await.unwrap());
    }
    scale(stack, 1).await;
    let after = wait_for_machines(stack, workload, 1).await;
    let kept = host_of(after.values().next().unwrap());
    for name in before.values().map(host_of).filter(|name| *name != kept) {
        let free = wait_for_state(stack, &name, State::Available).await;
        let record = free.spec.record.as_ref().unwrap();
        assert!(record.cleaned.is_some() && record.claim.is_none() && record.image.is_none(), "{record:?}");
        disk::is_wiped(stack.simulator.disk(&name).unwrap()).unwrap_or_else(|error| panic!("{error}"));
    }
    // The one that stays was not touched.
    let journal = stack.simulator.journal(&kept, ends[&kept]).await.unwrap();
    assert!(journal.iter().all(|entry| entry.write().is_none() && entry.power().is_none()), "{journal:?}");
    holds_image(stack, &kept);
}

async fn delete_the_cluster(stack: &Stack) {
    let timeout = format!("--timeout={}s", LIMIT.as_secs());
    stack
        .bed
        .kubectl(["delete", "cluster", CLUSTER, "--wait=false"])
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let kinds = "clusters.cluster.x-k8s.io,machines.cluster.x-k8s.io,machinesets.cluster.x-k8s.io,\
                 machinedeployments.cluster.x-k8s.io,kubeadmconfigs.bootstrap.cluster.x-k8s.io,\
                 baremetalclusters.infrastructure.cluster.x-k8s.io,baremetalmachines.infrastructure.cluster.x-k8s.io";
    wait_until(&format!("nothing of the cluster to be left ({timeout})"), LIMIT, async || {
        let left = stack.bed.kubectl(["get", kinds, "-n", NAMESPACE, "-o", "name"]).await;
        match left {
            Ok(left) if left.trim().is_empty() => Ok(()),
            Ok(left) => Err(left.replace('\n', " ")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    for name in FIRST.iter().chain([&LATE]) {
        let free = wait_for_state(stack, name, State::Available).await;
        assert!(free.spec.consumer_ref.is_none() && free.spec.record.as_ref().unwrap().claim.is_none());
        wait_until(&format!("{name} to be off"), LIMIT, async || match powered(stack, name).await {
            Some(false) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }
}

fn machines(stack: &Stack) -> Api<BareMetalMachine> {
    Api::namespaced(stack.bed.client(), NAMESPACE)
}

async fn scale(stack: &Stack, replicas: usize) {
    let resource = "machinedeployments.cluster.x-k8s.io";
    let name = format!("{CLUSTER}-workers");
    stack.bed.kubectl(["scale", resource, &name, &format!("--replicas={replicas}")]).await.unwrap();
}

/// Waits until there are exactly so many Machines, all Running, each with one host, one Node that is Ready, and the same
/// providerID everywhere; compares every disk. Returns the BareMetalMachines by name.
async fn wait_for_machines(
    stack: &Stack,
    workload: &Workload,
    count: usize,
) -> BTreeMap<String, BareMetalMachine> {
    let kind = GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", "Machine");
    let owners: Api<DynamicObject> =
        Api::namespaced_with(stack.bed.client(), NAMESPACE, &ApiResource::from_gvk(&kind));
    let (machines, nodes) = (machines(stack), Api::<Node>::all(workload.client()));
    let found = wait_until(&format!("{count} Machines to be Running"), LIMIT, async || {
        let text = |error: kube::Error| error.to_string();
        let all = ListParams::default();
        let owners = owners.list(&all).await.map_err(text)?.items;
        let machines = machines.list(&all).await.map_err(text)?.items;
        let nodes = nodes.list(&all).await.map_err(text)?.items;
        if (owners.len(), machines.len(), nodes.len()) != (count, count, count) {
            let waits: Vec<String> = machines.iter().map(show_machine).collect();
            return Err(format!(
                "{} Machines, {} BareMetalMachines, {} Nodes; {}",
                owners.len(),
                machines.len(),
                nodes.len(),
                waits.join("\n")
            ));
        }
        for owner in &owners {
            let phase = owner.data["status"]["phase"].as_str().unwrap_or_default();
            if phase != "Running" || owner.metadata.deletion_timestamp.is_some() {
                return Err(format!("{} is {phase}", owner.name_any()));
            }
            agree(owner, &machines, &nodes)?;
        }
        Ok(machines)
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    let mut used = BTreeSet::new();
    for machine in &found {
        let name = host_of(machine);
        assert!(used.insert(name.clone()), "{name} has two machines");
        let host = host(stack, &name).await;
        let consumer = host.spec.consumer_ref.as_ref().unwrap();
        assert_eq!(consumer.name, Some(machine.name_any()));
        assert_eq!(
            host.spec.record.as_ref().unwrap().claim.as_ref().map(|c| c.id.clone()),
            machine.spec.claim_id
        );
        assert_eq!(holds_image(stack, &name).sha256, stack.image.sha256);
    }
    found.into_iter().map(|machine| (machine.name_any(), machine)).collect()
}

/// One providerID on Machine, BareMetalMachine and Node; the Node is Ready.
fn agree(owner: &DynamicObject, machines: &[BareMetalMachine], nodes: &[Node]) -> Result<(), String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let id = text(&owner.data["spec"]["providerID"]);
    let name = text(&owner.data["spec"]["infrastructureRef"]["name"]);
    let machine = machines.iter().find(|machine| machine.name_any() == name).ok_or("no BareMetalMachine")?;
    let node = text(&owner.data["status"]["nodeRef"]["name"]);
    let node = nodes.iter().find(|found| found.name_any() == node).ok_or("no Node")?;
    let of_node = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()).unwrap_or_default();
    let of_machine = machine.spec.provider_id.as_deref().unwrap_or_default();
    if id.is_empty() || of_machine != id || of_node != id {
        return Err(format!(
            "{name}: providerID {id:?}, {of_machine:?} on the BareMetalMachine, {of_node:?} on the Node"
        ));
    }
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    match conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        true => Ok(()),
        false => Err(format!("{name}: its Node is not Ready")),
    }
}

async fn wait_for_cluster_available(stack: &Stack) {
    let timeout = format!("--timeout={}s", LIMIT.as_secs().min(100));
    stack
        .bed
        .kubectl(["wait", "--for=condition=Available", &timeout, "cluster.cluster.x-k8s.io", CLUSTER])
        .await
        .unwrap_or_else(|error| panic!("{error}"));
}

fn host_of(machine: &BareMetalMachine) -> String {
    machine.spec.host_ref.as_ref().map(|host| host.name.clone()).unwrap_or_default()
}

fn rack(host: &BareMetalHost) -> String {
    host.labels().get("ferric.infrastructure.cluster.x-k8s.io/rack").cloned().unwrap_or_default()
}

fn is_provisioned(machine: &BareMetalMachine) -> bool {
    let initialization = machine.status.as_ref().and_then(|status| status.initialization.as_ref());
    initialization.is_some_and(|initialization| initialization.provisioned == Some(true))
}

fn says(machine: &BareMetalMachine, kind: &str, reason: &str) -> bool {
    let conditions = machine.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition::get(conditions, kind).is_some_and(|found| found.status == "False" && found.reason == reason)
}

/// What a machine without a host tells an operator.
fn told(machine: &BareMetalMachine) -> String {
    let conditions = machine.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition::get(conditions, "HostBound").map(|found| found.message.clone()).unwrap_or_default()
}

fn show_machine(machine: &BareMetalMachine) -> String {
    format!("{}: {}", machine.name_any(), serde_json::to_string(&machine.status).unwrap_or_default())
}
