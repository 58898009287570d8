//! The whole chain on a virtual server that knows nothing of us: a BMC that we did not write switches it on, it boots our
//! agent from virtual media, is inspected, cleaned and written, boots its own operating system from its disk, and its
//! real kubelet joins the workload cluster as a Node of a Running Machine. Then the Machine is deleted, and the server is
//! cleaned and free again.
//!
//! Needs root and QEMU; where they are missing a line says that it was SKIPPED, and why.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use ferric_api::HardwareData;
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::lab::stack::{self, Story};
use ferric_testbed::lab::{Form, LabStack, Server};
use kube::Api;

mod lab;

use lab::node::{joined, released};
use lab::{HOST, NAMESPACE, done, reach, state};

const CLUSTER: &str = "vm";
/// Emulated processors are slow, and those of this machine may be shared.
const AGENT_LIMIT: Duration = Duration::from_secs(400);
const WHOLE_LIMIT: Duration = Duration::from_secs(1800);

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
    joined(&stack, &cluster, &server, &mut story).await;
    released(&stack, &cluster, CLUSTER, &server, &mut story).await;
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
