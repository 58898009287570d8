//! The few fields of Cluster API's own kinds that the provider reads (contract v1beta2). Everything else is dropped
//! when the object is parsed, which keeps the caches small.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// The part of `Cluster.spec` that is read.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "cluster.x-k8s.io",
    version = "v1beta2",
    kind = "Cluster",
    namespaced,
    status = "ClusterStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSpec {
    /// Reconciliation of everything in the cluster is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Endpoint that the user or the control-plane provider gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_endpoint: Option<Endpoint>,
    /// The ClusterClass that it is made of, and what was chosen of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
}

/// The part of `Cluster.spec.topology` that is read.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Topology {
    /// Its worker nodes.
    pub workers: TopologyWorkers,
}

/// Worker nodes of a topology.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct TopologyWorkers {
    /// MachineDeployments that are made of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub machine_deployments: Vec<TopologyDeployment>,
}

/// A MachineDeployment of a topology.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct TopologyDeployment {
    /// Its name in the topology: what [`TOPOLOGY_DEPLOYMENT_LABEL`] says, and not that of the MachineDeployment.
    pub name: String,
    /// How many Machines there should be; absent: whoever else writes the MachineDeployment's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
}

/// Host and port of an API server; both absent or zero when not set.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Endpoint {
    /// DNS name or IP address.
    pub host: String,
    /// TCP port.
    pub port: i32,
}

/// The part of `Cluster.status` that is read.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// One-way facts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initialization: Option<ClusterInitialization>,
}

/// One-way facts of a cluster.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInitialization {
    /// The InfraCluster said that it is provisioned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infrastructure_provisioned: Option<bool>,
}

impl Cluster {
    /// Whether everything in the cluster is paused.
    pub fn is_paused(&self) -> bool {
        self.spec.paused.unwrap_or(false)
    }

    /// The name in the topology of a MachineDeployment whose number Cluster API writes from there, over and over.
    pub fn writes_replicas_of(&self, deployment: &MachineDeployment) -> Option<&str> {
        let labels = deployment.metadata.labels.as_ref()?;
        let name =
            labels.get(TOPOLOGY_DEPLOYMENT_LABEL).filter(|_| labels.contains_key(TOPOLOGY_OWNED_LABEL))?;
        let mut all = self.spec.topology.iter().flat_map(|topology| &topology.workers.machine_deployments);
        let found = all.find(|found| found.name == *name && found.replicas.is_some())?;
        Some(&found.name)
    }

    /// Whether the cluster's infrastructure is there.
    pub fn infrastructure_provisioned(&self) -> bool {
        self.status
            .as_ref()
            .and_then(|s| s.initialization.as_ref())
            .and_then(|i| i.infrastructure_provisioned)
            .unwrap_or(false)
    }
}

/// The part of `Machine.spec` that is read.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "cluster.x-k8s.io",
    version = "v1beta2",
    kind = "Machine",
    namespaced,
    status = "MachineStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineSpec {
    /// Name of the Cluster.
    pub cluster_name: String,
    /// Bootstrap data.
    pub bootstrap: MachineBootstrap,
    /// The object that stands for the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infrastructure_ref: Option<InfrastructureRef>,
    /// Failure domain that placement must obey.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_domain: Option<String>,
}

/// Bootstrap data of a machine.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineBootstrap {
    /// Secret (in the machine's namespace) with keys `value` and `format`; absent until the data is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_secret_name: Option<String>,
}

/// The part of `Machine.status` that is read.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineStatus {
    /// Its Node, once it has joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_ref: Option<NodeRef>,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A Node of the workload cluster.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct NodeRef {
    /// Its name.
    pub name: String,
}

/// An object of an infrastructure provider, in the namespace of what refers to it.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct InfrastructureRef {
    /// API group.
    pub api_group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// The part of `MachineDeployment.spec` that is read.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "cluster.x-k8s.io",
    version = "v1beta2",
    kind = "MachineDeployment",
    namespaced,
    status = "MachineDeploymentStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineDeploymentSpec {
    /// Name of the Cluster.
    pub cluster_name: String,
    /// How many Machines there should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// What the Machines are made of.
    pub template: MachineTemplate,
}

/// What the Machines of a MachineDeployment are made of.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct MachineTemplate {
    /// Labels; some of them reach the Node.
    pub metadata: MachineTemplateMeta,
    /// The Machines' spec.
    pub spec: MachineSpec,
}

/// Labels of a template.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct MachineTemplateMeta {
    /// Labels that the Machines get.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The part of `MachineDeployment.status` that is read.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineDeploymentStatus {
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Label of a Machine: the MachineDeployment that it is of.
pub const DEPLOYMENT_LABEL: &str = "cluster.x-k8s.io/deployment-name";
/// Label of objects that Cluster API makes of a Cluster's topology.
pub const TOPOLOGY_OWNED_LABEL: &str = "topology.cluster.x-k8s.io/owned";
/// Label of a MachineDeployment: its name in the Cluster's topology.
pub const TOPOLOGY_DEPLOYMENT_LABEL: &str = "topology.cluster.x-k8s.io/deployment-name";
/// Annotation of a Machine: it goes first when its MachineDeployment is lowered.
pub const DELETE_MACHINE_ANNOTATION: &str = "cluster.x-k8s.io/delete-machine";
/// What the autoscaler writes into it. Any value will do for Cluster API; by this one a mark of ours is told from one that
/// people set.
pub const DELETE_MACHINE_OURS: &str = "ferric-autoscaler";
/// Condition of a MachineDeployment: Machines are being replaced by others.
pub const ROLLING_OUT: &str = "RollingOut";
