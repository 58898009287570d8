//! Makes the objects of a busy workload cluster, and of a management cluster that scales it.

use ferric_api::autoscaling::NodeGroupAutoscaler;
use ferric_api::condition;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::Result;

const NAMESPACE: &str = "default";
const CLUSTER: &str = "prod";
/// Requests of this program at the same time.
const PARALLEL: usize = 64;
/// Plugins that want controllers which do not run.
pub const PLUGINS: [&str; 3] = ["TaintNodesByCondition", "ServiceAccount", "Priority"];
/// Pods with one owner.
const ALIKE: usize = 25;

/// How much there is.
pub struct Scale {
    pub pods: usize,
    pub nodes: usize,
    pub groups: usize,
}

impl Scale {
    fn group(&self, node: usize) -> usize {
        node % self.groups
    }

    fn of_group(&self, group: usize) -> usize {
        (0..self.nodes).filter(|node| self.group(*node) == group).count()
    }
}

async fn create(client: &Client, objects: impl IntoIterator<Item = Value>) -> Result<()> {
    let calls = objects.into_iter().map(|object| async move {
        let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        let version = text("apiVersion");
        let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &text("kind")));
        let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok::<_, crate::Failure>(())
    });
    stream::iter(calls).buffer_unordered(PARALLEL).try_collect().await
}

fn node_name(node: usize) -> String {
    format!("node-{node:05}")
}

/// Nodes of 16 cores and 64 GiB, and pods on them, which ask for 10 cores of each: too full to go, and nothing waits.
pub async fn workload(client: &Client, scale: &Scale) -> Result<()> {
    let room = json!({"cpu": "15900m", "memory": "62Gi", "pods": "110"});
    let nodes = (0..scale.nodes).map(|node| {
        let name = node_name(node);
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", node % 3),
            }},
            "spec": {"providerID": format!("ferric://default/{name}")},
            "status": {"allocatable": room, "capacity": room, "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                "lastTransitionTime": "2026-01-01T00:10:00Z", "lastHeartbeatTime": "2026-01-01T00:10:00Z",
            }]},
        })
    });
    create(client, nodes).await?;
    let each = scale.pods.div_ceil(scale.nodes).max(1);
    let cpu = format!("{}m", 10_000 / each);
    create(client, (0..scale.pods).map(|pod| self::pod(pod, &node_name(pod % scale.nodes), &cpu))).await
}

/// Of about the size that pods of Deployments have; every fourth owner spreads its pods over zones.
fn pod(number: usize, node: &str, cpu: &str) -> Value {
    let app = format!("app-{}", number / ALIKE);
    let variables: Vec<Value> = (0..8)
        .map(|at| json!({"name": format!("SETTING_{at}"), "value": format!("value of setting {at}")}))
        .collect();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": NAMESPACE, "name": format!("{app}-5d59d67564-{number:05}"),
            "labels": {"app": app, "pod-template-hash": "5d59d67564", "app.kubernetes.io/part-of": "shop"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": app, "controller": true,
            }],
        },
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "main", "image": "registry/shop:1", "env": variables,
                "resources": {"requests": {"cpu": cpu, "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
            }],
        },
    });
    if (number / ALIKE).is_multiple_of(4) {
        pod["spec"]["topologySpreadConstraints"] = json!([{
            "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": app}},
        }]);
    }
    pod
}

/// What Cluster API would have made for the groups, and an autoscaler for each.
pub async fn management(client: &Client, scale: &Scale, kubeconfig: &str) -> Result<()> {
    let core = "cluster.x-k8s.io/v1beta2";
    let own = "infrastructure.cluster.x-k8s.io/v1alpha1";
    let label = json!({"cluster.x-k8s.io/cluster-name": CLUSTER});
    let first = [
        json!({
            "apiVersion": core, "kind": "Cluster", "metadata": {"namespace": NAMESPACE, "name": CLUSTER},
            "spec": {"controlPlaneEndpoint": {"host": "127.0.0.1", "port": 6443}},
            "status": {"initialization": {"infrastructureProvisioned": true}},
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "cluster.x-k8s.io/secret",
            "metadata": {"namespace": NAMESPACE, "name": format!("{CLUSTER}-kubeconfig"), "labels": label},
            "stringData": {"value": kubeconfig},
        }),
        json!({
            "apiVersion": own, "kind": "BareMetalMachineTemplate",
            "metadata": {"namespace": NAMESPACE, "name": "t"},
            "spec": {"template": {"spec": {"image": {"url": "http://127.0.0.1:9/image", "checksum": "0".repeat(64)}}}},
        }),
    ];
    create(client, first).await?;
    let group = |group: usize| format!("group-{group:03}");
    let reference = |kind: &str, name: &str| json!({"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": kind, "name": name});
    let deployments = (0..scale.groups).map(|number| {
        json!({
            "apiVersion": core, "kind": "MachineDeployment",
            "metadata": {"namespace": NAMESPACE, "name": group(number), "labels": label},
            "spec": {"clusterName": CLUSTER, "replicas": scale.of_group(number), "template": {"spec": {
                "infrastructureRef": reference("BareMetalMachineTemplate", "t"),
            }}},
        })
    });
    create(client, deployments).await?;
    let machines = (0..scale.nodes).map(|node| {
        let name = node_name(node);
        json!({
            "apiVersion": core, "kind": "Machine",
            "metadata": {"namespace": NAMESPACE, "name": name, "labels": {
                "cluster.x-k8s.io/cluster-name": CLUSTER, "cluster.x-k8s.io/deployment-name": group(scale.group(node)),
            }},
            "spec": {"clusterName": CLUSTER, "infrastructureRef": reference("BareMetalMachine", &name)},
            "status": {"nodeRef": {"name": name}},
        })
    });
    create(client, machines).await?;
    let autoscalers = (0..scale.groups).map(|number| {
        json!({
            "apiVersion": own, "kind": "NodeGroupAutoscaler",
            "metadata": {"namespace": NAMESPACE, "name": group(number)},
            "spec": {
                "clusterName": CLUSTER, "actuationMode": "Direct", "minReplicas": 0, "maxReplicas": 100,
                "scaleTargetRef": {"apiGroup": "cluster.x-k8s.io", "kind": "MachineDeployment", "name": group(number)},
            },
        })
    });
    create(client, autoscalers).await
}

/// How many groups are active.
pub async fn judged(client: &Client) -> Result<usize> {
    let api: Api<NodeGroupAutoscaler> = Api::namespaced(client.clone(), NAMESPACE);
    let active = |group: &NodeGroupAutoscaler| {
        condition::is_true(&group.status.clone().unwrap_or_default().conditions, "ScalingActive")
    };
    Ok(api.list(&ListParams::default()).await?.items.iter().filter(|group| active(group)).count())
}

/// How many groups have other numbers of replicas than they were made with.
pub async fn changed(client: &Client, scale: &Scale) -> Result<usize> {
    let kind = GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", "MachineDeployment");
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::from_gvk(&kind));
    let list = api.list(&ListParams::default()).await?;
    let numbers = list.items.iter().enumerate();
    Ok(numbers.filter(|(at, one)| one.data["spec"]["replicas"] != scale.of_group(*at)).count())
}
