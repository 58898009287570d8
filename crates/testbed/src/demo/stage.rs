//! What the demo of the autoscaler acts on, and how it looks at it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::Client;
use serde_json::{Value, json};

use super::load::{self, Load};
use super::scene::{self, Patience, unmet, within};
use super::screen::Screen;
use super::view::View;
use super::{Break, CLUSTER, DEPLOYMENT, DemoOptions, Failure, table};
use crate::assets::{Assets, Binary};
use crate::control_plane::ControlPlaneSpec;
use crate::error::Error;
use crate::stack::programs::{self, Program};
use crate::stack::{ClusterRequest, Created, Simulator, Stack};

pub(super) const HOSTS: usize = 6;
pub(super) const RACKS: usize = 2;
const NAMESPACE: &str = "default";
const GROUP: &str = "workers";
/// How often is looked.
const PERIOD: Duration = Duration::from_millis(300);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(30);
const PLANE: Duration = Duration::from_secs(300);

/// Kinds of the management cluster that are looked at, and where they are.
const MANAGED: [(&str, &str); 7] = [
    ("BareMetalHost", "infrastructure.cluster.x-k8s.io/v1alpha1/namespaces/default/baremetalhosts"),
    ("BareMetalMachine", "infrastructure.cluster.x-k8s.io/v1alpha1/namespaces/default/baremetalmachines"),
    ("BareMetalMachineTemplate", "infrastructure.cluster.x-k8s.io/v1alpha1/baremetalmachinetemplates"),
    ("NodeGroupAutoscaler", "infrastructure.cluster.x-k8s.io/v1alpha1/nodegroupautoscalers"),
    ("Machine", "cluster.x-k8s.io/v1beta2/namespaces/default/machines"),
    ("MachineDeployment", "cluster.x-k8s.io/v1beta2/namespaces/default/machinedeployments"),
    ("Cluster", "cluster.x-k8s.io/v1beta2/namespaces/default/clusters"),
];

/// Everything at one moment. The power of a host is what the simulator says.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) view: View,
    pub(super) load: Load,
}

/// Everything that runs. Dropping it ends it all, the workload's control plane first.
pub(super) struct Stage {
    created: Option<Created>,
    stack: Stack,
    /// How things were when they were last looked at.
    pub(super) seen: Seen,
}

impl Stage {
    /// Brings everything up, without hosts in the API.
    pub(super) async fn set(options: &DemoOptions, screen: &mut Screen) -> Result<Self, Failure> {
        // What takes minutes comes before anything runs, and says so itself.
        Assets::from_env()?.ensure_all(&Binary::ALL).await?;
        for program in [Program::Manager, Program::Simulator] {
            programs::ensure(program).await?;
        }
        screen.step("Stack: etcd, Kubernetes, Cluster API, Ferric; servers, each with a BMC", PLANE);
        let mut builder = Stack::builder()
            .cluster_api(true)
            .fleet(HOSTS, RACKS)
            .simulator_flag("node-pods-seconds", "1")
            .manager_flag("autoscaler-scan-interval-seconds", "1")
            .manager_flag("log-level", "info")
            .without_hosts()
            .keep(options.keep);
        if let Some(folder) = &options.release {
            builder = builder.release(folder);
        }
        let stack = within("the stack to be up", PLANE, builder.start()).await?;
        screen.done("the manager is ready");
        screen.note(&format!("folder: {}", stack.bed.dir().display()));
        Ok(Self { created: None, stack, seen: Seen::default() })
    }

    /// Lets the hosts be known.
    pub(super) async fn enrol(&self) -> Result<(), Error> {
        self.stack.bed.apply(&self.stack.simulator.manifests()?).await.map(drop)
    }

    /// Breaks what is to be broken.
    pub(super) async fn break_it(&mut self, what: Option<Break>, screen: &mut Screen) {
        scene::break_it(what, &mut self.stack.images, &self.stack.image, screen).await;
    }

    /// Makes a cluster with kube-scheduler and without machines, and its autoscaler.
    pub(super) async fn create_cluster(&mut self) -> Result<(), Error> {
        let bed = &self.stack.bed;
        let spec = ControlPlaneSpec { scheduler: true, replica_sets: true, ..ControlPlaneSpec::new(CLUSTER) };
        let workload = bed.start_workload_of(&spec).await?;
        let request = ClusterRequest {
            name: CLUSTER,
            namespace: NAMESPACE,
            workers: 0,
            image: &self.stack.image,
            variables: Vec::new(),
        };
        self.created = Some(request.create_with_workload(bed, workload).await?);
        let autoscaler = json!({
            "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "NodeGroupAutoscaler",
            "metadata": {"name": GROUP, "namespace": NAMESPACE},
            "spec": {
                "clusterName": CLUSTER, "actuationMode": "Direct", "minReplicas": 0, "maxReplicas": HOSTS,
                "scaleTargetRef": {"apiGroup": "cluster.x-k8s.io", "kind": "MachineDeployment", "name": DEPLOYMENT},
                // Alone: by default utilization has a say too, and nodes of which each is two fifths full may stay.
                "triggers": [{"name": "pods", "type": "UnschedulablePods"}],
                "scaleDown": {"unneededSeconds": 3, "minNodeLifetimeSeconds": 0},
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
            },
        });
        bed.apply(&autoscaler.to_string()).await.map(drop)
    }

    /// Looks again and again and tells what changed, until the goal is reached.
    pub(super) async fn follow(
        &mut self,
        screen: &mut Screen,
        expected: &str,
        limit: Duration,
        goal: impl Fn(&Seen) -> Result<(), String>,
    ) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut patience = Patience::default();
        loop {
            self.look(screen).await?;
            let Err(seen) = goal(&self.seen) else { return Ok(()) };
            patience.look(&self.seen.view).map_err(|errors| unmet(expected, format!("{seen}; {errors}")))?;
            if begin.elapsed() >= limit {
                return Err(unmet(&format!("{expected} within {} s", limit.as_secs()), seen));
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Looks once, and tells what changed.
    async fn look(&mut self, screen: &mut Screen) -> Result<(), Failure> {
        self.stack.manager.check()?;
        self.stack.simulator.check()?;
        let seen = within("the API servers and the simulator to answer", LOOK, self.see()).await?;
        if self.created.is_some() {
            let lines = load::changes(&self.seen.load, &seen.load).into_iter();
            let lines = lines.chain(table::changes(&self.seen.view, &seen.view));
            for line in lines.chain(load::gone(&self.seen.view, &seen.view)) {
                screen.note(&line);
            }
        } else if load::states(&self.seen.view) != load::states(&seen.view) {
            screen.note(&load::states(&seen.view));
        }
        self.seen = seen;
        Ok(())
    }

    async fn see(&self) -> Result<Seen, Error> {
        let management = self.stack.bed.client();
        let mut objects = Vec::new();
        for (kind, path) in MANAGED {
            objects.extend(list(&management, kind, &format!("/apis/{path}")).await?);
        }
        let workload = self.created.as_ref().and_then(|created| created.workload.as_ref());
        let (mut nodes, mut pods) = (Vec::new(), Vec::new());
        if let Some(workload) = workload {
            let client = workload.client();
            nodes = list(&client, "Node", "/api/v1/nodes").await?;
            pods = list(&client, "Pod", "/api/v1/namespaces/default/pods").await?;
        }
        let [objects, nodes, pods] = [objects, nodes, pods].map(|items| json!({ "items": items }));
        let mut view = View::read(&objects, Some(&nodes));
        for host in &mut view.hosts {
            let status = self.stack.simulator.status(&host.name).await?;
            host.power = status["power"].as_str().unwrap_or_default().to_owned();
        }
        Ok(Seen { view, load: Load::read(&objects, &nodes, &pods) })
    }

    /// Where the journals of all servers end.
    pub(super) async fn marks(&self) -> Result<BTreeMap<String, u64>, Failure> {
        let mut marks = BTreeMap::new();
        for server in self.stack.simulator.servers() {
            let end = self.stack.simulator.journal_end(&server.name).await?;
            marks.insert(server.name.clone(), end);
        }
        Ok(marks)
    }

    /// Makes so many pods, each of so many thousandths of a processor. One of them may be away at a time.
    pub(super) async fn create_load(&self, pods: usize, cpu: u64) -> Result<(), Error> {
        let labels = json!({"app": "web"});
        let container =
            json!({"name": "web", "image": "web", "resources": {"requests": {"cpu": format!("{cpu}m")}}});
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"}, "spec": {
            "replicas": pods, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        }});
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}}});
        let path = self.stack.bed.dir().join("load.yaml");
        std::fs::write(&path, format!("{budget}\n---\n{set}\n")).map_err(Error::file("write", &path))?;
        self.workload_kubectl(&["apply", "-f", &path.display().to_string()]).await
    }

    /// Changes the number of pods.
    pub(super) async fn scale_load(&self, pods: usize) -> Result<(), Error> {
        self.workload_kubectl(&["scale", "replicaset", "web", &format!("--replicas={pods}")]).await
    }

    /// Lets the ReplicaSet take other pods than these first.
    pub(super) async fn keep(&self, pods: &[String]) -> Result<(), Error> {
        let mut args = vec!["annotate", "pod"];
        args.extend(pods.iter().map(String::as_str));
        args.push("controller.kubernetes.io/pod-deletion-cost=100");
        self.workload_kubectl(&args).await
    }

    /// Runs kubectl on the workload cluster.
    async fn workload_kubectl(&self, args: &[&str]) -> Result<(), Error> {
        let kubeconfig = format!("--kubeconfig={}", self.workload_kubeconfig());
        let all = [kubeconfig.as_str()].into_iter().chain(args.iter().copied());
        self.stack.bed.kubectl(all).await.map(drop)
    }

    /// The servers, to judge by.
    pub(super) fn simulator(&self) -> &Simulator {
        &self.stack.simulator
    }

    fn workload_kubeconfig(&self) -> String {
        let workload = self.created.as_ref().and_then(|created| created.workload.as_ref());
        workload.map(|workload| workload.kubeconfig().display().to_string()).unwrap_or_default()
    }

    /// Says why it failed and where to look; the folder stays.
    pub(super) fn report(&mut self, screen: &mut Screen, failure: &Failure) {
        scene::report(&mut self.stack.bed, &self.stack.manager, screen, failure);
    }

    /// How to change the load of what runs now.
    pub(super) fn invite(&self, screen: &mut Screen) {
        screen.say("Everything stays up until Ctrl-C, and what changes is told here. In another terminal:\n");
        for line in self.stack.bed.shell_exports() {
            screen.say(&format!("  {line}"));
        }
        screen.say(&format!("  export WORKLOAD={}", self.workload_kubeconfig()));
        screen.say("\nThen, for instance:\n");
        let tries = [
            ("8 pods: 4 servers", "kubectl --kubeconfig $WORKLOAD scale rs web --replicas=8"),
            ("more than there are servers", "kubectl --kubeconfig $WORKLOAD scale rs web --replicas=20"),
            ("the pods and their nodes", "kubectl --kubeconfig $WORKLOAD get pods -o wide"),
            ("the group, and what was decided", "kubectl get nga && kubectl describe nga workers"),
            (
                "from now on only say what would be done",
                "kubectl patch nga workers --type=merge -p '{\"spec\":{\"actuationMode\":\"Recommend\"}}'",
            ),
            ("the hosts", "kubectl get bmh"),
            ("idle again", "kubectl --kubeconfig $WORKLOAD scale rs web --replicas=0"),
        ];
        for (what, command) in tries {
            screen.say(&format!("  # {what}\n  {command}"));
        }
        screen.say(&format!("\nLogs and disks are in {}.\n", self.stack.bed.dir().display()));
    }

    /// Tells what changes, until something ends that should not.
    pub(super) async fn stay(&mut self, screen: &mut Screen) -> Failure {
        loop {
            if let Err(failure) = self.look(screen).await {
                return failure;
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Ends everything, in order.
    pub(super) async fn end(mut self) {
        drop(self.created.take());
        self.stack.stop().await;
    }
}

async fn list(client: &Client, kind: &str, path: &str) -> Result<Vec<Value>, Error> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| Error::malformed(path, error))?;
    let mut list: Value = client.request(request).await.map_err(Error::kube(format!("list {path}")))?;
    let mut items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    for item in &mut items {
        // Members of a list do not say what they are.
        item["kind"] = kind.into();
    }
    Ok(items)
}
