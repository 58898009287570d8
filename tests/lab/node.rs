//! A Machine of Cluster API on a host of the lab: its real kubelet joins, and it goes again.

use std::time::Duration;

use ferric_api::host::ProvisioningState as State;
use ferric_api::{BareMetalHost, BareMetalMachine};
use ferric_testbed::lab::stack::{Story, wait_for};
use ferric_testbed::lab::{LabStack, Server};
use ferric_testbed::stack::Created;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};

use super::{HOST, NAMESPACE, at, done, reach, state};

/// Emulated processors are slow, and those of this machine may be shared.
const NODE_LIMIT: Duration = Duration::from_secs(900);
const RELEASE_LIMIT: Duration = Duration::from_secs(400);

fn machines(stack: &LabStack) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", "Machine");
    Api::namespaced_with(stack.bed.client(), NAMESPACE, &ApiResource::from_gvk(&kind))
}

fn nodes(cluster: &Created) -> Api<Node> {
    Api::all(cluster.workload.as_ref().unwrap().client())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Waits until the only Machine runs and its Node is Ready, all with one providerID. Returns the Node.
pub async fn joined(stack: &LabStack, cluster: &Created, server: &Server, story: &mut Story) -> Node {
    let (machines, nodes) = (machines(stack), nodes(cluster));
    let ours: Api<BareMetalMachine> = Api::namespaced(stack.bed.client(), NAMESPACE);
    let hosts: Api<BareMetalHost> = Api::namespaced(stack.bed.client(), NAMESPACE);
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
        let of_node = provider_id(&node);
        let of_machine = machine.data["spec"]["providerID"].as_str().unwrap_or_default();
        if of_node != of_machine || ours.spec.provider_id.as_deref() != Some(of_machine) {
            return Err(format!("providerID {of_node:?} on the Node, {of_machine:?} on the Machine"));
        }
        Ok(node)
    })
    .await;
    let node = done(reached);
    let id = provider_id(&node);
    assert!(id.starts_with(&format!("ferric://{HOST}/")), "{id}");
    let version = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    story.tell("kubelet", &version.map(|info| info.kubelet_version.clone()).unwrap_or_default());
    story.say(&format!("Machine Running, Node Ready, both have {id}"));
    assert!(done(server.is_on().await));
    node
}

/// The Node's `spec.providerID`.
pub fn provider_id(node: &Node) -> String {
    node.spec.as_ref().and_then(|spec| spec.provider_id.clone()).unwrap_or_default()
}

/// Scales the workers of a cluster to none, and waits until Machine and Node are gone and the server is free and off.
pub async fn released(stack: &LabStack, cluster: &Created, name: &str, server: &Server, story: &mut Story) {
    let workers = format!("{name}-workers");
    let scale = ["scale", "machinedeployment", &workers, "--replicas=0", "-n", NAMESPACE];
    done(stack.bed.kubectl(scale).await);
    story.say(&format!("{workers} is scaled to 0"));
    let host = reach(stack, story, RELEASE_LIMIT, "free again", |host| {
        state(host) == State::Available && host.spec.consumer_ref.is_none()
    })
    .await;
    let record = host.spec.record.as_ref().unwrap();
    assert!(record.claim.is_none() && record.image.is_none() && record.cleaned.is_some(), "{record:?}");
    let off = wait_for("the server to be off", RELEASE_LIMIT, async || match server.is_on().await {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    done(off.await);
    let (machines, nodes) = (machines(stack), nodes(cluster));
    let gone = wait_for("Machine and Node to be gone", RELEASE_LIMIT, async || {
        let text = |error: kube::Error| error.to_string();
        let machines = machines.list(&ListParams::default()).await.map_err(text)?.items.len();
        let nodes = nodes.list(&ListParams::default()).await.map_err(text)?.items.len();
        if machines + nodes == 0 { Ok(()) } else { Err(format!("{machines} Machines, {nodes} Nodes")) }
    });
    done(gone.await);
    let disk = server.disk(0).unwrap();
    ferric_testbed::stack::disk::is_wiped(disk).unwrap_or_else(|error| panic!("{error}"));
    story.say("Machine and Node are gone, the server is free and off, both ends of its disk are zero");
}
