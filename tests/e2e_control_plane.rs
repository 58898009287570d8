//! A cluster whose control plane is a KubeadmControlPlane on hosts of the inventory, from the provider's own template:
//! it comes up, grows to three etcd members, and goes, and every host is free again.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;

use std::collections::{BTreeMap, BTreeSet};

use e2e::{LIMIT, NAMESPACE, host, powered, wait_for_state};
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::stack::ClusterRequest;
use ferric_testbed::{Stack, wait_until};
use kube::ResourceExt;
use serde_json::Value;

const CLUSTER: &str = "prod";
const HOSTS: [&str; 6] = ["host-01", "host-02", "host-03", "host-04", "host-05", "host-06"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubeadm_control_plane_grows_and_goes() {
    let stack = Stack::builder()
        .cluster_api(true)
        .fleet(HOSTS.len(), 3)
        .control_planes_on_hosts()
        .start()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    for name in HOSTS {
        wait_for_state(&stack, name, State::Available).await;
    }
    let request = ClusterRequest {
        name: CLUSTER,
        namespace: NAMESPACE,
        workers: 3,
        image: &stack.image,
        variables: Vec::new(),
    };
    let created = request.create_with_kubeadm(&stack.bed, 1).await.unwrap();
    let first = wait_for_cluster(&stack, 1).await;
    let workers: Vec<&Machine> = first.values().filter(|machine| !machine.control_plane).collect();
    let mut racks = BTreeSet::new();
    for worker in &workers {
        let host = host(&stack, &worker.host).await;
        racks.insert(host.labels().get(ferric_api::names::RACK_LABEL).cloned());
    }
    assert_eq!(racks.len(), 3, "three workers stand in three racks: {racks:?}");

    let name = format!("{CLUSTER}-control-plane");
    let kind = "kubeadmcontrolplanes.controlplane.cluster.x-k8s.io";
    stack.bed.kubectl(["scale", kind, &name, "--replicas=3"]).await.unwrap();
    let grown = wait_for_cluster(&stack, 3).await;
    for (name, machine) in &first {
        assert_eq!(
            grown.get(name).map(|m| &m.provider_id),
            Some(&machine.provider_id),
            "{name} stayed as it was"
        );
    }

    stack.bed.kubectl(["delete", "cluster", CLUSTER, "--wait=false"]).await.unwrap();
    let kinds = "clusters.cluster.x-k8s.io,machines.cluster.x-k8s.io,baremetalclusters,baremetalmachines";
    wait_until("nothing of the cluster to be left", LIMIT, async || {
        match stack.bed.kubectl(["get", kinds, "-n", NAMESPACE, "-o", "name"]).await {
            Ok(left) if left.trim().is_empty() => Ok(()),
            Ok(left) => Err(left.replace('\n', " ")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    for name in HOSTS {
        let free = wait_for_state(&stack, name, State::Available).await;
        assert!(free.spec.consumer_ref.is_none());
        wait_until(&format!("{name} to be off"), LIMIT, async || match powered(&stack, name).await {
            Some(false) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }
    drop(created);
    stack.stop().await;
}

struct Machine {
    host: String,
    provider_id: String,
    control_plane: bool,
}

/// Waits until the cluster is Available with so many control-plane machines and three workers, all Running, each with
/// one Ready Node of the same providerID.
async fn wait_for_cluster(stack: &Stack, control_planes: usize) -> BTreeMap<String, Machine> {
    let kubeconfig = stack.bed.dir().join("workload.kubeconfig");
    wait_until(&format!("{control_planes} control-plane machines and 3 workers"), LIMIT, async || {
        let machines = get(stack, "machines.cluster.x-k8s.io").await?;
        let running = machines.iter().filter(|m| m["status"]["phase"] == "Running").count();
        if running != machines.len() || running != control_planes + 3 {
            return Err(format!("{running} of {} Machines run", machines.len()));
        }
        let cluster = get(stack, "clusters.cluster.x-k8s.io").await?;
        let available =
            cluster.iter().flat_map(|c| c["status"]["conditions"].as_array().cloned().unwrap_or_default());
        if !available.into_iter().any(|c| c["type"] == "Available" && c["status"] == "True") {
            return Err("the Cluster is not Available".to_owned());
        }
        let text = stack.bed.clusterctl(["get", "kubeconfig", CLUSTER, "-n", NAMESPACE], &[]).await;
        std::fs::write(&kubeconfig, text.map_err(|error| error.to_string())?)
            .map_err(|error| error.to_string())?;
        let kubeconfig = kubeconfig.to_string_lossy();
        let nodes = stack.bed.kubectl(["--kubeconfig", &*kubeconfig, "get", "nodes", "-o", "json"]).await;
        let nodes = items(&nodes.map_err(|error| error.to_string())?)?;
        let hosts = get(stack, "baremetalmachines").await?;
        let mut found = BTreeMap::new();
        for machine in &machines {
            let name = text_of(&machine["metadata"]["name"]);
            let id = text_of(&machine["spec"]["providerID"]);
            let infrastructure = &machine["spec"]["infrastructureRef"]["name"];
            let bound = hosts
                .iter()
                .find(|b| &b["metadata"]["name"] == infrastructure)
                .ok_or("no BareMetalMachine")?;
            let node = nodes.iter().find(|n| n["spec"]["providerID"] == id.as_str());
            let node = node.ok_or_else(|| format!("no Node has providerID {id}"))?;
            let ready = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if bound["spec"]["providerID"] != id.as_str()
                || !ready.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            {
                return Err(format!("{name}: {} and its Node do not agree, or it is not Ready", id));
            }
            let machine = Machine {
                host: text_of(&bound["spec"]["hostRef"]["name"]),
                provider_id: id,
                control_plane: !machine["metadata"]["labels"]["cluster.x-k8s.io/control-plane"].is_null(),
            };
            found.insert(name, machine);
        }
        let distinct: BTreeSet<&String> = found.values().map(|m| &m.host).collect();
        if distinct.len() == found.len() { Ok(found) } else { Err("two machines on one host".to_owned()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"))
}

async fn get(stack: &Stack, kind: &str) -> Result<Vec<Value>, String> {
    let text = stack.bed.kubectl(["get", kind, "-n", NAMESPACE, "-o", "json"]).await;
    items(&text.map_err(|error| error.to_string())?)
}

fn items(list: &str) -> Result<Vec<Value>, String> {
    let list: Value = serde_json::from_str(list).map_err(|error| error.to_string())?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
