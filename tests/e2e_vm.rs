//! The whole chain on a virtual server that knows nothing of us: a BMC that we did not write switches it on, it boots our
//! agent from virtual media, is inspected, cleaned and written, boots its own operating system from its disk, and its
//! real kubelet joins the workload cluster as a Node of a Running Machine. Then the Machine is deleted, and the server is
//! cleaned and free again.
//!
//! Needs root and QEMU; where they are missing a line says that it was SKIPPED, and why.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use ferric_api::host::ProvisioningState as State;
use ferric_api::{BareMetalHost, BareMetalMachine, HardwareData};
use ferric_testbed::lab::stack::{self, Story, wait_for};
use ferric_testbed::lab::{Form, LabStack, Server};
use ferric_testbed::stack::Created;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};

mod lab;

use lab::{HOST, NAMESPACE, at, done, reach, state};

const CLUSTER: &str = "vm";
/// Emulated processors are slow, and those of this machine may be shared.
const AGENT_LIMIT: Duration = Duration::from_secs(400);
const NODE_LIMIT: Duration = Duration::from_secs(600);
const RELEASE_LIMIT: Duration = Duration::from_secs(400);
const WHOLE_LIMIT: Duration = Duration::from_secs(1500);

#[test]
fn a_virtual_server_becomes_a_ready_node_and_is_free_again() {
    stack::test("a_virtual_server_becomes_a_ready_node_and_is_free_again", WHOLE_LIMIT, chain);
}

async fn chain() {
    let mut story = Story::default();
    let stack = done(LabStack::builder().form(Form::Qcow2).start().await);
    story.say("management plane, manager, libvirt, Redfish and DHCP are up");
    done(stack.enrol().await);
    let server = done(stack.lab.server(HOST)).clone();

    reach(&stack, &mut story, AGENT_LIMIT, "available", |host| state(host) == State::Available).await;
    inspected(&stack, &server).await;

    let cluster = done(stack.create_cluster(CLUSTER, 1).await);
    story.say("the workload's control plane is up, the cluster's objects are applied");
    let provider_id = joined(&stack, &cluster, &server, &mut story).await;
    story.say(&format!("Machine Running, Node Ready, both have {provider_id}"));
    assert!(done(server.is_on().await));

    done(
        stack
            .bed
            .kubectl(["scale", "machinedeployment", "vm-workers", "--replicas=0", "-n", NAMESPACE])
            .await,
    );
    let host = reach(&stack, &mut story, RELEASE_LIMIT, "free again", |host| {
        state(host) == State::Available && host.spec.consumer_ref.is_none()
    })
    .await;
    let record = host.spec.record.as_ref().unwrap();
    assert!(record.claim.is_none() && record.image.is_none() && record.cleaned.is_some(), "{record:?}");
    done(
        wait_for("the server to be off", RELEASE_LIMIT, async || match server.is_on().await {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await,
    );
    let disk = server.disk(0).unwrap();
    ferric_testbed::stack::disk::is_wiped(disk).unwrap_or_else(|error| panic!("{error}"));
    let nodes: Api<Node> = Api::all(cluster.workload.as_ref().unwrap().client());
    done(
        wait_for("the Node to be gone", RELEASE_LIMIT, async || {
            let left = nodes.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            if left.is_empty() { Ok(()) } else { Err(format!("{} are left", left.len())) }
        })
        .await,
    );
    story.say("the server is off, its disk is wiped, the Node is gone");
    drop(cluster);
    stack.stop().await;
}

/// What inspection found is what the virtual server was made of.
async fn inspected(stack: &LabStack, server: &Server) {
    let found: Api<HardwareData> = Api::namespaced(stack.bed.client(), NAMESPACE);
    let hardware = found.get(HOST).await.unwrap().spec.hardware.unwrap();
    let disk = &server.spec.disks[0];
    assert!(
        hardware.nics.iter().any(|nic| nic.mac.eq_ignore_ascii_case(server.mac())),
        "the boot port is not in {hardware:?}"
    );
    let storage: Vec<_> =
        hardware.storage.iter().map(|disk| (disk.serial_number.as_str(), disk.size_bytes)).collect();
    assert!(
        storage.contains(&(disk.serial.as_str(), i64::try_from(disk.size).unwrap())),
        "the disk is not in {hardware:?}"
    );
}

/// Waits until the Machine runs and its Node is Ready, with one providerID.
async fn joined(stack: &LabStack, cluster: &Created, server: &Server, story: &mut Story) -> String {
    let kind = GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", "Machine");
    let machines: Api<DynamicObject> =
        Api::namespaced_with(stack.bed.client(), NAMESPACE, &ApiResource::from_gvk(&kind));
    let ours: Api<BareMetalMachine> = Api::namespaced(stack.bed.client(), NAMESPACE);
    let hosts: Api<BareMetalHost> = Api::namespaced(stack.bed.client(), NAMESPACE);
    let nodes: Api<Node> = Api::all(cluster.workload.as_ref().unwrap().client());
    let reached = wait_for("a Running Machine with a Ready Node", NODE_LIMIT, async || {
        let text = |error: kube::Error| error.to_string();
        let all = ListParams::default();
        let host = hosts.get(HOST).await.map_err(text)?;
        story.tell(HOST, &at(&host));
        let machine =
            machines.list(&all).await.map_err(text)?.items.into_iter().next().ok_or("no Machine")?;
        let phase = machine.data["status"]["phase"].as_str().unwrap_or("new").to_owned();
        story.tell("Machine", &phase);
        let node = nodes.list(&all).await.map_err(text)?.items.into_iter().next();
        let ready = node.as_ref().is_some_and(is_ready);
        story.tell(
            "Node",
            if ready {
                "Ready"
            } else if node.is_some() {
                "not Ready"
            } else {
                "none"
            },
        );
        let seen = || format!("Machine {phase}, {}; it printed:\n{}", at(&host), server.last_lines(15));
        let Some(node) = node.filter(|_| ready && phase == "Running") else { return Err(seen()) };
        let ours =
            ours.list(&all).await.map_err(text)?.items.into_iter().next().ok_or("no BareMetalMachine")?;
        let of_node = node.spec.as_ref().and_then(|spec| spec.provider_id.clone()).unwrap_or_default();
        let of_machine = machine.data["spec"]["providerID"].as_str().unwrap_or_default();
        if of_node != of_machine || ours.spec.provider_id.as_deref() != Some(of_machine) {
            return Err(format!("providerID {of_node:?} on the Node, {of_machine:?} on the Machine"));
        }
        let version = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        story.tell("kubelet", &version.map(|info| info.kubelet_version.clone()).unwrap_or_default());
        Ok(of_node)
    })
    .await;
    let id = done(reached);
    assert!(id.starts_with(&format!("ferric://{HOST}/")), "{id}");
    id
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
