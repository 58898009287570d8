//! A control plane inside a virtual server: kubeadm makes it as it does anywhere, of container images that hold the lab's
//! own programs, and Cluster API's KubeadmControlPlane manages it.

use std::time::Duration;

use ferric_api::BareMetalMachine;
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::lab::container_images::control_plane_images;
use ferric_testbed::lab::domain::ServerSpec;
use ferric_testbed::lab::stack::wait_for;
use ferric_testbed::lab::{ADDRESS, LabStack};
use ferric_testbed::stack::{ClusterRequest, ImageServer};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::bench::{HOST, NAMESPACE, Row, done, state};
use crate::lab::at;

const CLUSTER: &str = "inside";
/// A control plane on two emulated processors, and all that comes before and after it.
const WHOLE_LIMIT: Duration = Duration::from_secs(2400);
const CONTROL_PLANE_LIMIT: Duration = Duration::from_secs(1500);
const RELEASE_LIMIT: Duration = Duration::from_secs(400);
/// How long kubeadm waits for what it has started, and for each answer, in seconds: emulated, the API server takes longer
/// than the minute that kubeadm gives its first answer.
const KUBEADM_SECONDS: u32 = 900;
/// kubeadm wants 1700 MB (its preflight check Mem), and pods want room.
const MEMORY_MIB: u32 = 3072;

/// The names of conditions that are True, of those that are asked for.
fn holding(object: &Value, wanted: &[&str]) -> Vec<String> {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let holds = |name: &str| conditions.iter().any(|c| c["type"] == name && c["status"] == "True");
    wanted.iter().filter(|name| holds(name)).map(|name| (*name).to_owned()).collect()
}

/// What conditions say that are not True.
fn complaints(object: &Value) -> String {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let false_ones = conditions.iter().filter(|c| c["status"] != "True");
    false_ones.map(|c| format!("{}: {}\n", c["type"], c["message"])).collect()
}

/// The objects of a kind, in the management cluster or in that of a kubeconfig.
async fn get(row: &Row, before: &[&str], kind: &str) -> Result<Vec<Value>, String> {
    let arguments = before.iter().copied().chain(["get", kind, "-A", "-o", "json"]);
    let text = row.stack.bed.kubectl(arguments).await.map_err(|error| error.to_string())?;
    let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Conditions of a KubeadmControlPlane that is as it should be.
const CONTROL_PLANE: [&str; 5] =
    ["Initialized", "EtcdClusterHealthy", "ControlPlaneComponentsHealthy", "MachinesReady", "Available"];

/// The pods that kubeadm makes where nothing is added, sorted.
const PODS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

row!(kubeadm_makes_one_that_cluster_api_manages, WHOLE_LIMIT, async {
    let server = ServerSpec { memory: MEMORY_MIB, ..ServerSpec::new(HOST) };
    let mut row = Row::start(LabStack::builder().servers(vec![server])).await;
    let archive = done(control_plane_images(row.stack.bed.assets(), row.stack.bed.dir()).await);
    let images = done(ImageServer::start_on(ADDRESS.into(), &archive).await);
    row.story.say("the control plane's container images are packed");
    row.enrol().await;
    let server = row.server().clone();

    let request = ClusterRequest {
        name: CLUSTER,
        namespace: NAMESPACE,
        workers: 0,
        image: &row.stack.image,
        variables: vec![("IMAGE_FORMAT", row.stack.format)],
    };
    let address = server.address.to_string();
    let change = |control_plane: &mut Value| {
        let kubeadm = &mut control_plane["spec"]["kubeadmConfigSpec"];
        // As where there is no registry: the images are there before kubeadm looks for them.
        let import =
            format!("curl --fail --silent --show-error {} | ctr -n k8s.io images import -", images.url());
        kubeadm["preKubeadmCommands"] = json!([import]);
        // Nobody packed CoreDNS and kube-proxy.
        kubeadm["initConfiguration"]["skipPhases"] = json!(["addon/coredns", "addon/kube-proxy"]);
        let timeouts = [
            "controlPlaneComponentHealthCheckSeconds",
            "etcdAPICallSeconds",
            "kubeletHealthCheckSeconds",
            "kubernetesAPICallSeconds",
            "tlsBootstrapSeconds",
        ];
        let timeouts: Value =
            timeouts.into_iter().map(|name| (name.to_owned(), json!(KUBEADM_SECONDS))).collect();
        for configuration in ["initConfiguration", "joinConfiguration"] {
            kubeadm[configuration]["timeouts"] = timeouts.clone();
        }
        // Who cannot renew a lease within ten seconds ends, and begins anew.
        let lease = json!([
            { "name": "leader-elect-lease-duration", "value": "120s" },
            { "name": "leader-elect-renew-deadline", "value": "90s" },
        ]);
        for component in ["controllerManager", "scheduler"] {
            kubeadm["clusterConfiguration"][component]["extraArgs"] = lease.clone();
        }
    };
    done(request.create_with_kubeadm_at(&row.stack.bed, &format!("{address}:6443"), change).await);
    row.story.say(&format!("the provider's own template is applied, its endpoint is {address}:6443"));

    let reached = wait_for("a control plane that is Available", CONTROL_PLANE_LIMIT, async || {
        let host = row.host().await;
        row.story.tell(HOST, &at(&host));
        let machine =
            get(&row, &[], "machines.cluster.x-k8s.io").await?.into_iter().next().unwrap_or_default();
        let phase = machine["status"]["phase"].as_str().unwrap_or("none").to_owned();
        row.story.tell("Machine", &phase);
        let kind = "kubeadmcontrolplanes.controlplane.cluster.x-k8s.io";
        let plane = get(&row, &[], kind).await?.into_iter().next().ok_or("no KubeadmControlPlane")?;
        let holds = holding(&plane, &CONTROL_PLANE);
        row.story.tell("KubeadmControlPlane", &holds.join(", "));
        if holds.len() == CONTROL_PLANE.len() && phase == "Running" {
            return Ok(machine);
        }
        Err(format!("Machine {phase}, {}; it printed:\n{}", complaints(&plane), server.last_lines(25)))
    });
    let machine = done(reached.await);

    // What Cluster API says is so.
    let text = done(row.stack.bed.clusterctl(["get", "kubeconfig", CLUSTER, "-n", NAMESPACE], &[]).await);
    let kubeconfig = row.stack.bed.dir().join("inside.kubeconfig");
    std::fs::write(&kubeconfig, text).unwrap();
    let inside = ["--kubeconfig", kubeconfig.to_str().unwrap()];
    let ready = wait_for("the Node and the control plane's pods to be Ready", RELEASE_LIMIT, async || {
        let nodes = get(&row, &inside, "nodes").await?;
        let [node] = nodes.as_slice() else { return Err(format!("{} Nodes", nodes.len())) };
        let pods = get(&row, &inside, "pods").await?;
        let ready = pods.iter().filter(|pod| !holding(pod, &["Ready"]).is_empty());
        let mut ready: Vec<String> =
            ready.map(|pod| text_of(&pod["spec"]["containers"][0]["name"])).collect();
        ready.sort_unstable();
        if ready == PODS && !holding(node, &["Ready"]).is_empty() {
            return Ok(text_of(&node["spec"]["providerID"]));
        }
        Err(format!("{ready:?} are Ready; the Node: {}", complaints(node)))
    });
    let id = done(ready.await);
    assert!(id.starts_with(&format!("ferric://{HOST}/")), "{id}");
    assert_eq!(machine["spec"]["providerID"], id.as_str());
    let ours: Api<BareMetalMachine> = Api::namespaced(row.stack.bed.client(), NAMESPACE);
    let ours = ours.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(ours[0].spec.provider_id.as_deref(), Some(id.as_str()));
    row.story.say(&format!("the server runs {}; its Node is Ready and has {id}", PODS.join(", ")));

    done(row.stack.bed.kubectl(["delete", "cluster", CLUSTER, "-n", NAMESPACE, "--wait=false"]).await);
    row.story.say("the Cluster is deleted");
    let gone = wait_for("the Cluster to be gone and the server off", RELEASE_LIMIT, async || {
        let host = row.host().await;
        row.story.tell(HOST, &at(&host));
        let left =
            get(&row, &[], "clusters.cluster.x-k8s.io,machines.cluster.x-k8s.io,baremetalmachines").await?;
        let on = server.is_on().await.map_err(|error| error.to_string())?;
        let free = state(&host) == State::Available && host.spec.consumer_ref.is_none();
        if left.is_empty() && free && !on {
            Ok(())
        } else {
            Err(format!("{} objects, {}", left.len(), at(&host)))
        }
    });
    done(gone.await);
    row.story.say("the Cluster is gone, the server is free and off");
    drop(images);
    row.stop().await;
});
