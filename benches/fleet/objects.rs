//! Makes the objects that an operator and Cluster API would make.

use std::collections::HashMap;

use ferric_testbed::stack::Simulator;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Result;

pub const NAMESPACE: &str = "default";
const CLUSTER: &str = "fleet";
/// Requests of this program at the same time.
const PARALLEL: usize = 16;

/// What is to be created for a fleet.
pub struct Manifests {
    /// Credentials and the authority of the BMCs.
    pub secrets: Vec<Value>,
    /// Hosts.
    pub hosts: Vec<Value>,
}

/// The fleet's manifests, with a cleaning mode on each host.
pub fn manifests(simulator: &Simulator, cleaning: &str) -> Result<Manifests> {
    let text = simulator.manifests()?;
    let all: Vec<Value> = serde_yaml_ng::Deserializer::from_str(&text)
        .map(Value::deserialize)
        .filter(|value| !matches!(value, Ok(Value::Null)))
        .collect::<std::result::Result<_, _>>()?;
    let (secrets, mut hosts): (Vec<Value>, Vec<Value>) = all.into_iter().partition(|v| v["kind"] == "Secret");
    for host in &mut hosts {
        host["spec"]["automatedCleaningMode"] = cleaning.into();
    }
    Ok(Manifests { secrets, hosts })
}

fn api(client: &Client, object: &Value) -> Result<Api<DynamicObject>> {
    let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    let version = text("apiVersion");
    let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
    let kind = GroupVersionKind::gvk(group, version, &text("kind"));
    Ok(Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::from_gvk(&kind)))
}

/// Creates objects; returns their UIDs by name.
pub async fn create(client: &Client, objects: Vec<Value>) -> Result<HashMap<String, String>> {
    let calls = objects.into_iter().map(|object| async move {
        let api = api(client, &object)?;
        let object: DynamicObject = serde_json::from_value(object)?;
        let made = api.create(&PostParams::default(), &object).await?;
        Ok::<_, crate::Failure>((made.name_any(), made.uid().unwrap_or_default()))
    });
    stream::iter(calls).buffer_unordered(PARALLEL).try_collect().await
}

/// The same merge patch on many hosts.
pub async fn patch_hosts(client: &Client, names: Vec<String>, patch: &Value) -> Result<()> {
    let api: Api<ferric_api::BareMetalHost> = Api::namespaced(client.clone(), NAMESPACE);
    let calls = names.into_iter().map(|name| {
        let api = api.clone();
        async move { api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop) }
    });
    Ok(stream::iter(calls).buffer_unordered(PARALLEL).try_collect().await?)
}

/// Names of objects.
pub fn names(objects: &[Value]) -> Vec<String> {
    objects.iter().filter_map(|object| Some(object["metadata"]["name"].as_str()?.to_owned())).collect()
}

/// A Cluster whose infrastructure is there, Machines with their bootstrap data: what Cluster API has made when it
/// makes a BareMetalMachine. Returns the BareMetalMachines, which are not created yet.
pub async fn cluster_api(client: &Client, count: usize, image: &Value) -> Result<Vec<Value>> {
    let cluster = json!({
        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
        "metadata": {"name": CLUSTER},
        "spec": {"controlPlaneEndpoint": {"host": "127.0.0.1", "port": 6443}},
        "status": {"initialization": {"infrastructureProvisioned": true}},
    });
    create(client, vec![cluster]).await?;
    let name = |number: usize| format!("machine-{number:05}");
    let secrets = (0..count).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "cluster.x-k8s.io/secret",
            "metadata": {"name": name(number), "labels": {"cluster.x-k8s.io/cluster-name": CLUSTER}},
            "stringData": {"format": "cloud-config", "value": "#cloud-config\n"},
        })
    });
    create(client, secrets.collect()).await?;
    let machines = (0..count).map(|number| {
        json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
            "metadata": {"name": name(number), "labels": {"cluster.x-k8s.io/cluster-name": CLUSTER}},
            "spec": {
                "clusterName": CLUSTER,
                "bootstrap": {"dataSecretName": name(number)},
                "infrastructureRef": {
                    "apiGroup": "infrastructure.cluster.x-k8s.io", "kind": "BareMetalMachine", "name": name(number),
                },
            },
        })
    });
    let uids = create(client, machines.collect()).await?;
    let bare = (0..count).map(|number| {
        let name = name(number);
        json!({
            "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "BareMetalMachine",
            "metadata": {
                "name": name,
                "labels": {"cluster.x-k8s.io/cluster-name": CLUSTER},
                "ownerReferences": [{
                    "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine", "name": name,
                    "uid": uids.get(&name), "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": {"image": image},
        })
    });
    Ok(bare.collect())
}
