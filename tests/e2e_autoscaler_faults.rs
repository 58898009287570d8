//! Node groups when not all goes well: racks that are full, kinds of servers that are used up, limits, roll-outs, pauses, a
//! server that fails again and again. Under the real Cluster API, with real API servers and the real kube-scheduler, on the
//! simulated fleet. What must never be is looked for in all that a watch saw, not at the end alone.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;
#[path = "autoscaler_faults/failing_host.rs"]
mod failing_host;
#[path = "autoscaler_faults/gpus.rs"]
mod gpus;
#[path = "e2e/groups.rs"]
mod groups;
#[path = "autoscaler_faults/holds.rs"]
mod holds;
#[path = "e2e/load.rs"]
mod load;
#[path = "autoscaler_faults/policies.rs"]
mod policies;
#[path = "autoscaler_faults/racks.rs"]
mod racks;
#[path = "e2e/watched.rs"]
mod watched;

use e2e::{LIMIT, NAMESPACE, image};
use ferric_api::autoscaling::NodeGroupAutoscaler;
use ferric_testbed::assets::KUBERNETES_VERSION;
use ferric_testbed::stack::{Created, StackBuilder};
use ferric_testbed::{Stack, Workload, wait_until};
use groups::{CLUSTER, autoscaler, core, groups, machines, merge, replicas, told};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use serde_json::{Value, json};
use watched::Watched;

/// Rounds of the autoscaler after which what it would do were done: two seconds for what is not needed, one to cordon, one to
/// write the number.
const ROUNDS: u64 = 6;
/// What is said of a group that has no host left.
const NO_HOST: &str = "0 hosts are free";

/// What runs, and what is watched of it.
struct Scene {
    /// `spec.replicas` of MachineDeployments.
    replicas: Watched<i64>,
    /// What limits groups, where something does.
    limited: Watched<Option<String>>,
    created: Created,
    stack: Stack,
}

impl Scene {
    async fn start(hosts: usize, racks: usize, more: impl FnOnce(StackBuilder) -> StackBuilder) -> Self {
        let stack = groups::stack(hosts, racks, more).await;
        let created = groups::cluster(&stack, true).await;
        let number = |object: &DynamicObject| object.data["spec"]["replicas"].as_i64();
        let limit = |group: &NodeGroupAutoscaler| Some(told(group, "ScalingLimited"));
        let replicas = Watched::begin(core(&stack, "MachineDeployment"), number).await;
        let limited = Watched::begin(groups::groups(&stack), limit).await;
        Self { replicas, limited, created, stack }
    }

    async fn end(self) {
        let Self { replicas, limited, created, stack } = self;
        drop((replicas, limited, created));
        stack.stop().await;
    }

    fn workload(&self) -> &Workload {
        self.created.workload.as_ref().unwrap()
    }

    /// Makes a MachineDeployment without a Machine, its template and its autoscaler, all of one name.
    async fn group(&self, name: &str, hosts: Value, labels: Value, change: Value) {
        let mut deployment = json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineDeployment",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "clusterName": CLUSTER, "replicas": 0, "selector": {"matchLabels": {}},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "clusterName": CLUSTER, "version": KUBERNETES_VERSION,
                        "bootstrap": {"configRef": {
                            "apiGroup": "bootstrap.cluster.x-k8s.io", "kind": "KubeadmConfigTemplate",
                            "name": groups::DEPLOYMENT,
                        }},
                        "infrastructureRef": {
                            "apiGroup": "infrastructure.cluster.x-k8s.io", "kind": "BareMetalMachineTemplate",
                            "name": name,
                        },
                    },
                },
            },
        });
        if let Some(domain) = hosts.get("failureDomain") {
            deployment["spec"]["template"]["spec"]["failureDomain"] = domain.clone();
        }
        // Pods alone: by default utilization has a say too. And quick, for a test.
        let mut quick = json!({"spec": {
            "maxReplicas": 9, "triggers": [{"name": "pods", "type": "UnschedulablePods"}],
            "scaleDown": {"unneededSeconds": 2, "minNodeLifetimeSeconds": 0},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        }});
        merge(&mut quick, change);
        let objects = [
            self.template(name, json!({"matchLabels": hosts["labels"]}), json!({})),
            deployment,
            autoscaler(name, name, quick),
        ];
        let manifests = objects.map(|object| object.to_string()).join("\n---\n");
        self.stack.bed.apply(&manifests).await.unwrap();
    }

    /// A template of machines with the image that is served, which may be changed by a JSON merge patch.
    fn template(&self, name: &str, selector: Value, image_change: Value) -> Value {
        let mut image = image(&self.stack);
        merge(&mut image, image_change);
        json!({
            "apiVersion": ferric_api::API_VERSION, "kind": "BareMetalMachineTemplate",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"template": {"spec": {"hostSelector": selector, "image": image}}},
        })
    }

    /// The numbers that a MachineDeployment had since a moment.
    fn numbers(&self, name: &str, since: usize) -> Vec<i64> {
        self.replicas.of(name, since)
    }

    /// Waits until no MachineDeployment has a Machine, nor is to have one.
    async fn emptied(&self, deployments: &[&str]) {
        wait_until("no machine to be left", LIMIT, async || {
            let found = machines(&self.stack).await;
            let mut wanted = Vec::new();
            for name in deployments {
                wanted.push(replicas(&self.stack, name).await);
            }
            if found.is_empty() && wanted.iter().all(|wanted| *wanted == 0) {
                return Ok(());
            }
            let all =
                groups(&self.stack).list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let said: Vec<_> = all.items.iter().map(|group| json!(group.status).to_string()).collect();
            Err(format!("{found:?} of {wanted:?}; {}", said.join("\n")))
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Names of the nodes that take no new pods.
    async fn cordoned(&self) -> Vec<String> {
        let nodes: Api<Node> = Api::all(self.workload().client());
        let cordoned = |node: &Node| node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
        let list = nodes.list(&ListParams::default()).await.unwrap();
        list.items.iter().filter(|node| cordoned(node)).map(kube::ResourceExt::name_any).collect()
    }
}

/// Ten servers in three racks: two of processors in each, three with GPUs of one kind and one with GPUs of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-autoscaler"]
async fn racks_and_kinds_of_servers_run_out() {
    let scene = Scene::start(10, 3, |builder| {
        ["plain:16:64:64", "plain:16:64:64", "a100:32:128:64:gpus=2", "h100:32:128:64:gpus=2"]
            .into_iter()
            .fold(builder, |builder, class| builder.simulator_flag("class", class))
    })
    .await;
    racks::run(&scene).await;
    gpus::run(&scene).await;
    policies::run(&scene).await;
    scene.end().await;
}

/// Six servers: two for the group of which one fails, four for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-autoscaler"]
async fn groups_are_held_and_a_host_fails() {
    let scene = Scene::start(6, 1, |builder| builder.image_bytes(16 << 20)).await;
    tokio::join!(failing_host::run(&scene), holds::a_roll_out(&scene));
    holds::a_pause(&scene).await;
    scene.end().await;
}
