//! Machines as Cluster API makes them, by hand: for stacks without Cluster API.

#![allow(dead_code, reason = "not every test uses all of it")]

use ferric_api::BareMetalMachine;
use ferric_testbed::{Stack, wait_until};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use serde_json::json;

use super::e2e::{LIMIT, NAMESPACE, image};

pub const CLUSTER: &str = "by-hand";
/// Label of a host by which a machine asks for that very host.
const PIN: &str = "test.example/pin";

pub fn machines(stack: &Stack) -> Api<BareMetalMachine> {
    Api::namespaced(stack.bed.client(), NAMESPACE)
}

/// Makes the Cluster, its BareMetalCluster and the bootstrap data that all machines share.
pub async fn create_cluster(stack: &Stack) {
    let cluster = json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
        "metadata": {"name": CLUSTER, "namespace": NAMESPACE}, "spec": {},
        "status": {"initialization": {"infrastructureProvisioned": true}}});
    let data = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bootstrap", "namespace": NAMESPACE},
        "stringData": {"value": "#cloud-config\n", "format": "cloud-config"}});
    stack.bed.apply(&format!("{cluster}\n---\n{data}")).await.unwrap();
    let uid = uid(stack, "cluster", CLUSTER).await;
    let infrastructure = json!({"apiVersion": ferric_api::API_VERSION, "kind": "BareMetalCluster",
        "metadata": {"name": CLUSTER, "namespace": NAMESPACE, "labels": {"cluster.x-k8s.io/cluster-name": CLUSTER},
            "ownerReferences": [{"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "name": CLUSTER,
                "uid": uid}]},
        "spec": {"controlPlaneEndpoint": {"host": "127.0.0.1", "port": 6443}}});
    stack.bed.apply(&infrastructure.to_string()).await.unwrap();
}

pub async fn pause_cluster(stack: &Stack, paused: bool) {
    let patch = json!({"spec": {"paused": if paused { Some(true) } else { None }}}).to_string();
    stack.bed.kubectl(["patch", "cluster", CLUSTER, "--type=merge", "-p", &patch]).await.unwrap();
}

/// Makes a Machine with its BareMetalMachine, for the host of this name.
pub async fn create_machine(stack: &Stack, name: &str, host: &str) {
    stack.bed.kubectl(["label", "bmh", host, "--overwrite", &format!("{PIN}={host}")]).await.unwrap();
    create_machine_for(stack, name, host).await;
}

/// Makes one for the host that carries this name as a label, if there is one.
pub async fn create_machine_for(stack: &Stack, name: &str, pin: &str) {
    let owner = json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"cluster.x-k8s.io/cluster-name": CLUSTER}},
        "spec": {"clusterName": CLUSTER, "bootstrap": {"dataSecretName": "bootstrap"}}});
    stack.bed.apply(&owner.to_string()).await.unwrap();
    let uid = uid(stack, "machine", name).await;
    let machine = json!({"apiVersion": ferric_api::API_VERSION, "kind": "BareMetalMachine",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"cluster.x-k8s.io/cluster-name": CLUSTER},
            "ownerReferences": [{"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine", "name": name,
                "uid": uid, "controller": true}]},
        "spec": {"hostSelector": {"matchLabels": {PIN: pin}}, "image": image(stack)}});
    stack.bed.apply(&machine.to_string()).await.unwrap();
}

/// Waits until a machine is provisioned.
pub async fn wait_for_machine(stack: &Stack, name: &str) -> BareMetalMachine {
    wait_until(&format!("machine {name} to be provisioned"), LIMIT, async || {
        let machine = machines(stack).get(name).await.map_err(|error| error.to_string())?;
        let status = machine.status.clone().unwrap_or_default();
        match status.initialization.and_then(|i| i.provisioned) {
            Some(true) => Ok(machine),
            _ => Err(serde_json::to_string(&status.conditions).unwrap_or_default()),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"))
}

/// Asks for the end of a machine; does not wait for it.
pub async fn delete_machine(stack: &Stack, name: &str) {
    machines(stack).delete(name, &DeleteParams::default()).await.unwrap();
}

/// Waits until a machine is gone.
pub async fn wait_until_gone(stack: &Stack, name: &str) {
    wait_until(&format!("machine {name} to be gone"), LIMIT, async || {
        match machines(stack).get_opt(name).await.map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(machine) => Err(format!("{:?} {:?}", machine.finalizers(), machine.status)),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

async fn uid(stack: &Stack, kind: &str, name: &str) -> String {
    stack.bed.kubectl(["get", kind, name, "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}"]).await.unwrap()
}
