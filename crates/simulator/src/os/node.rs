//! The `Node` object as kubelet writes it, and what keeps it fresh.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kube::{Kube, KubeError};
use crate::spec::ServerSpec;

/// What a node says of itself.
#[derive(Debug, Clone)]
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    pub(crate) provider_id: Option<String>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) taints: Vec<Value>,
    pub(crate) address: String,
    /// Port of the kubelet's server.
    pub(crate) kubelet_port: Option<u16>,
    pub(crate) capacity: Capacity,
    /// GPUs, which a device plugin reports once the node is there.
    pub(crate) gpus: u32,
    pub(crate) arch: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    cpu: u32,
    memory_gib: u32,
}

impl NodeFacts {
    pub(crate) fn new(spec: &ServerSpec, name: &str, provider_id: Option<&str>) -> Self {
        let class = &spec.class;
        Self {
            name: name.to_owned(),
            provider_id: provider_id.map(str::to_owned),
            labels: Vec::new(),
            taints: Vec::new(),
            address: spec.bmc_ip.to_string(),
            kubelet_port: None,
            capacity: Capacity {
                cpu: class.sockets * class.cores_per_socket * class.threads_per_core,
                memory_gib: class.memory_gib,
            },
            gpus: class.gpus,
            arch: class.cpu_arch.clone(),
            machine_id: spec.uuid.simple().to_string(),
            system_uuid: spec.uuid.to_string(),
        }
    }

    /// Adds labels from kubelet's `--node-labels`: `a=b,c=d`.
    pub(crate) fn add_labels(&mut self, list: &str) {
        let pairs = list.split(',').filter_map(|pair| pair.split_once('='));
        self.labels.extend(pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())));
    }

    fn object(&self) -> Value {
        let mut labels = json!({
            "kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": self.arch,
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": self.arch,
        });
        for (key, value) in &self.labels {
            labels[key] = json!(value);
        }
        let mut spec = json!({});
        if let Some(id) = &self.provider_id {
            spec["providerID"] = json!(id);
        }
        if !self.taints.is_empty() {
            spec["taints"] = json!(self.taints);
        }
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name, "labels": labels,
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
            "spec": spec,
        })
    }

    fn status(&self, version: &str) -> Value {
        let resources = json!({
            "cpu": self.capacity.cpu.to_string(), "memory": format!("{}Gi", self.capacity.memory_gib),
            "ephemeral-storage": "100Gi", "pods": "110",
        });
        let mut status = json!({
            "capacity": resources, "allocatable": resources, "conditions": conditions(),
            "addresses": [
                {"type": "InternalIP", "address": self.address}, {"type": "Hostname", "address": self.name},
            ],
            "nodeInfo": {
                "machineID": self.machine_id, "systemUUID": self.system_uuid, "bootID": uuid::Uuid::new_v4(),
                "kernelVersion": "6.1.0-sim", "osImage": "Ferric simulated OS",
                "containerRuntimeVersion": "simulated://1.0", "kubeletVersion": version, "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": self.arch,
            },
        });
        if let Some(port) = self.kubelet_port {
            status["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": port}});
        }
        status
    }
}

/// The four conditions that a healthy node has.
fn conditions() -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    json!([
        condition(
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available"
        ),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ])
}

/// Makes the node if it is not there, and reports it ready.
pub(crate) async fn register(kube: &Kube, facts: &NodeFacts) -> Result<(), KubeError> {
    let path = format!("/api/v1/nodes/{}", facts.name);
    match kube.get(&path).await {
        Err(error) if error.status() == Some(404) => {
            kube.post("/api/v1/nodes", &facts.object()).await?;
        }
        found => {
            found?;
        }
    }
    let version = kube.get("/version").await?;
    let version = version["gitVersion"].as_str().unwrap_or("v0.0.0");
    // A node may not read `nodes/status`, so this is a patch without a look.
    kube.patch(&format!("{path}/status"), &json!({"status": facts.status(version)})).await?;
    Ok(())
}

/// Reports the node's GPUs, as kubelet does when NVIDIA's device plugin has registered with it.
pub(crate) async fn plug_in(kube: &Kube, name: &str, gpus: u32) -> Result<(), KubeError> {
    let devices = json!({"nvidia.com/gpu": gpus.to_string()});
    let status = json!({"status": {"capacity": devices, "allocatable": devices}});
    kube.patch(&format!("/api/v1/nodes/{name}/status"), &status).await.map(drop)
}

/// What the node-lifecycle controller says of a node whose kubelet is silent. A machine without power cannot say it;
/// the simulator does so in the controller's place, because workload control planes run with a grace period of days.
pub(crate) async fn report_lost(kube: &Kube, name: &str) -> Result<(), KubeError> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let lost: Vec<Value> = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
        .iter()
        .map(|kind| {
            json!({
                "type": kind, "status": "Unknown", "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.", "lastTransitionTime": now,
            })
        })
        .collect();
    kube.patch(&format!("/api/v1/nodes/{name}/status"), &json!({"status": {"conditions": lost}})).await?;
    Ok(())
}

/// Renews the node's lease, or makes it.
pub(crate) async fn heartbeat(kube: &Kube, name: &str) -> Result<(), KubeError> {
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let spec = json!({
        "holderIdentity": name, "leaseDurationSeconds": 40,
        "renewTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
    });
    match kube.patch(&format!("{path}/{name}"), &json!({"spec": spec})).await {
        Err(error) if error.status() == Some(404) => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec,
            });
            kube.post(path, &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
