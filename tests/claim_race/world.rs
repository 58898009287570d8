//! A real API server with our kinds and hand-made hosts, and managers that run in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferric::capi::{Cluster, Machine};
use ferric::controllers::machine::{self, MachineContext};
use ferric::host::addresses::Addresses;
use ferric::telemetry::{Events, Metrics};
use ferric::watch::Watched;
use ferric_api::{BareMetalHost, BareMetalMachine};
use ferric_testbed::Bed;
use futures::{Stream, StreamExt, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::client::Body;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Much longer than anything here takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(180);
/// Where everything is.
pub const NAMESPACE: &str = "race";
const CONCURRENCY: u16 = 10;
/// Requests that the test itself has under way at once.
const PARALLEL: usize = 16;

/// Everything there is.
pub struct Fleet {
    pub hosts: Vec<BareMetalHost>,
    pub machines: Vec<BareMetalMachine>,
}

/// The API server and the objects on it.
pub struct World {
    bed: Bed,
    admin: Client,
    /// With the manager's own rights.
    pub manager: Client,
}

impl World {
    pub async fn start() -> Self {
        let bed = Bed::builder().start().await.unwrap();
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
        let mut manifests = vec![
            std::fs::read_to_string(format!("{root}crates/testbed/manifests/cluster-api-kinds.yaml"))
                .unwrap(),
        ];
        for entry in std::fs::read_dir(format!("{root}crds")).unwrap() {
            manifests.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
        }
        for name in ["namespace", "rbac"] {
            let path = format!("{root}clusterctl/infrastructure-components/{name}.yaml");
            manifests.push(std::fs::read_to_string(path).unwrap());
        }
        manifests.push(format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"));
        bed.apply(&manifests.join("\n---\n")).await.unwrap();
        bed.kubectl(["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).await.unwrap();
        let admin = bed.client();
        let kubeconfig = bed.service_account_kubeconfig("ferric-system", "ferric-manager").await.unwrap();
        let config = ferric_testbed::kubeconfig::client_config(&kubeconfig).await.unwrap();
        let manager = Client::try_from(config).unwrap();
        let world = Self { bed, admin, manager };
        let cluster = json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
            "metadata": {"name": "prod"}, "spec": {},
            "status": {"initialization": {"infrastructureProvisioned": true}},
        });
        let cluster: Cluster = serde_json::from_value(cluster).unwrap();
        world.api::<Cluster>().create(&PostParams::default(), &cluster).await.unwrap();
        world
    }

    pub async fn stop(self) {
        self.bed.stop().await;
    }

    /// A kind, as an administrator.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), NAMESPACE)
    }

    /// Makes hosts that are available, in five racks.
    pub async fn add_hosts(&self, numbers: impl IntoIterator<Item = usize>) {
        let api = self.api::<BareMetalHost>();
        futures::stream::iter(numbers)
            .for_each_concurrent(PARALLEL, |i| {
                let api = api.clone();
                async move {
                    let host = json!({
                        "apiVersion": ferric_api::API_VERSION, "kind": "BareMetalHost",
                        "metadata": {
                            "name": format!("host-{i:03}"),
                            "labels": {ferric_api::names::RACK_LABEL: format!("rack-{}", i % 5)},
                        },
                        "spec": {"online": true},
                    });
                    let host: BareMetalHost = serde_json::from_value(host).unwrap();
                    let host = api.create(&PostParams::default(), &host).await.unwrap();
                    let status = json!({"status": {"provisioning": {"state": "available"}, "conditions": [{
                        "type": "Registered", "status": "True", "reason": "Registered", "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z",
                    }]}});
                    let patch = Patch::Merge(status);
                    api.patch_status(&host.name_any(), &PatchParams::default(), &patch).await.unwrap();
                }
            })
            .await;
    }

    /// Makes Machines and BareMetalMachines as Cluster API does.
    pub async fn add_machines(&self, numbers: impl IntoIterator<Item = usize>) {
        let (owners, machines) = (self.api::<Machine>(), self.api::<BareMetalMachine>());
        futures::stream::iter(numbers)
            .for_each_concurrent(PARALLEL, |i| {
                let (owners, machines) = (owners.clone(), machines.clone());
                async move {
                    let name = format!("machine-{i:03}");
                    let owner = json!({
                        "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
                        "metadata": {"name": name},
                        "spec": {"clusterName": "prod", "bootstrap": {"dataSecretName": "data"}},
                    });
                    let owner: Machine = serde_json::from_value(owner).unwrap();
                    let owner = owners.create(&PostParams::default(), &owner).await.unwrap();
                    let machine = json!({
                        "apiVersion": ferric_api::API_VERSION, "kind": "BareMetalMachine",
                        "metadata": {
                            "name": name,
                            "labels": {
                                "cluster.x-k8s.io/cluster-name": "prod",
                                "cluster.x-k8s.io/deployment-name": "workers",
                            },
                            "ownerReferences": [{
                                "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
                                "name": name, "uid": owner.uid().unwrap(),
                            }],
                        },
                        "spec": {"image": {"url": "http://images.example/os.raw", "checksum": "0".repeat(64)}},
                    });
                    let machine: BareMetalMachine = serde_json::from_value(machine).unwrap();
                    machines.create(&PostParams::default(), &machine).await.unwrap();
                }
            })
            .await;
    }

    pub async fn list(&self) -> Fleet {
        Fleet {
            hosts: self.api().list(&ListParams::default()).await.unwrap().items,
            machines: self.api().list(&ListParams::default()).await.unwrap().items,
        }
    }

    /// Lists until it is so. Listing instead of watching keeps the test's own view from being stale.
    pub async fn until(&self, what: &str, condition: impl Fn(&Fleet) -> bool) -> Fleet {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let fleet = self.list().await;
            if condition(&fleet) {
                return fleet;
            }
            assert!(tokio::time::Instant::now() < deadline, "not within {} s: {what}", LIMIT.as_secs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until `count` machines are bound and say so.
    pub async fn all_bound(&self, count: usize) {
        let bound = |m: &BareMetalMachine| {
            let conditions = m.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
            ferric_api::condition::is_true(conditions, "HostBound")
        };
        let what = format!("{count} machines are bound");
        self.until(&what, |w| w.machines.iter().filter(|m| bound(m)).count() >= count).await;
    }

    /// Both sides name each other, one to one, and the racks are filled evenly where all hosts are not taken.
    pub async fn check(&self, count: usize) {
        let fleet = self.list().await;
        let hosts: BTreeMap<String, &BareMetalHost> = fleet.hosts.iter().map(|h| (h.name_any(), h)).collect();
        let mut taken = BTreeSet::new();
        let mut claims = BTreeSet::new();
        for machine in &fleet.machines {
            let Some(host_ref) = &machine.spec.host_ref else { continue };
            let host = hosts[&host_ref.name];
            let consumer = host.spec.consumer_ref.as_ref().expect("a bound host names its consumer");
            assert_eq!(consumer.name, machine.metadata.name);
            assert_eq!(consumer.uid, machine.metadata.uid);
            let claim = host.spec.record.as_ref().unwrap().claim.as_ref().unwrap();
            assert_eq!(Some(&claim.id), machine.spec.claim_id.as_ref());
            assert!(taken.insert(host_ref.name.clone()), "{} has two machines", host_ref.name);
            assert!(claims.insert(claim.id.clone()), "claim {} was used twice", claim.id);
        }
        assert_eq!(taken.len(), count);
        let used = fleet.hosts.iter().filter(|h| h.spec.consumer_ref.is_some()).count();
        assert_eq!(used, count, "a host is held for nobody");
    }

    /// The host's controller says that the image is on the disk and booted.
    pub async fn deployed(&self, host: &str) {
        let now = "2026-01-01T00:00:00Z";
        let image = json!({"url": "http://images.example/os.raw", "digest": "sha256:0",
            "writeStartedAt": now, "writeFinishedAt": now, "bootedAt": now});
        self.patch_host(host, json!({"spec": {"record": {"image": image}}})).await;
    }

    /// The host's controller says that the old workload is dead.
    pub async fn let_go(&self, host: &str) {
        self.patch_host(host, json!({"spec": {"consumerRef": null, "record": {"claim": null}}})).await;
    }

    /// What no manager ever does.
    pub async fn steal(&self, host: &str, consumer: &str) {
        let consumer_ref = json!({"kind": "BareMetalMachine", "namespace": NAMESPACE, "name": consumer});
        self.patch_host(
            host,
            json!({"spec": {"consumerRef": consumer_ref, "record": {"claim": {"id": consumer}}}}),
        )
        .await;
    }

    async fn patch_host(&self, host: &str, change: serde_json::Value) {
        self.api::<BareMetalHost>()
            .patch(host, &PatchParams::default(), &Patch::Merge(change))
            .await
            .unwrap();
    }

    pub async fn drop_status(&self, machine: &str) {
        let change = Patch::Merge(json!({"status": null}));
        let api = self.api::<BareMetalMachine>();
        api.patch_status(machine, &PatchParams::default(), &change).await.unwrap();
    }

    pub async fn delete_machine(&self, machine: &str) {
        self.api::<BareMetalMachine>().delete(machine, &DeleteParams::default()).await.unwrap();
    }

    /// Follows every version of every host, from before the first claim.
    pub async fn watch_over_claims(&self) -> Watcher {
        let hosts = self.api::<BareMetalHost>();
        let machines = self.api::<BareMetalMachine>();
        let version = hosts.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        let (violations, seen) = mpsc::unbounded_channel();
        let (until, goal) = watch::channel(u64::MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(hosts, machines, version, violations, goal));
        Watcher { tasks, seen, until }
    }
}

/// Sees every change of a host's consumer. It also stands in for the host controller in the one thing that the claim
/// relies on: a host whose consumer names another host, and on which nothing was started, is freed.
pub struct Watcher {
    tasks: JoinSet<Seen>,
    seen: mpsc::UnboundedReceiver<String>,
    /// The version of a host up to which it is to follow.
    until: watch::Sender<u64>,
}

#[derive(Default)]
struct Seen {
    claims: usize,
    orphans: usize,
    owners: BTreeMap<String, (String, String)>,
}

impl Watcher {
    /// Takes in all that happened so far; fails if anything was claimed away, and says what was seen.
    pub async fn finish(mut self, world: &World) -> String {
        let last = world.list().await.hosts.iter().filter_map(version).max().unwrap();
        self.until.send(last).unwrap();
        let seen = self.tasks.join_next().await.unwrap().unwrap();
        assert_eq!(self.seen.try_recv().ok(), None);
        format!("{} claims seen, {} of them of a machine that had moved on", seen.claims, seen.orphans)
    }

    pub async fn first_violation(mut self) -> String {
        self.seen.recv().await.unwrap()
    }
}

async fn follow(
    hosts: Api<BareMetalHost>,
    machines: Api<BareMetalMachine>,
    mut from: String,
    violations: mpsc::UnboundedSender<String>,
    mut goal: watch::Receiver<u64>,
) -> Seen {
    let mut seen = Seen::default();
    let mut reached = 0;
    loop {
        let mut events = hosts.watch(&WatchParams::default(), &from).await.unwrap().boxed();
        while reached < *goal.borrow() {
            let event = tokio::select! {
                changed = goal.changed() => {
                    changed.unwrap();
                    continue;
                }
                event = events.try_next() => event.unwrap(),
            };
            // The server ends watches now and then; it goes on from the last version, so that nothing is missed.
            let Some(event) = event else { break };
            let (WatchEvent::Added(host) | WatchEvent::Modified(host)) = event else { continue };
            from = host.resource_version().unwrap();
            reached = version(&host).unwrap();
            take_in(&mut seen, &violations, &hosts, &machines, host).await;
        }
        if reached >= *goal.borrow() {
            return seen;
        }
    }
}

fn version(host: &BareMetalHost) -> Option<u64> {
    host.resource_version()?.parse().ok()
}

async fn take_in(
    seen: &mut Seen,
    violations: &mpsc::UnboundedSender<String>,
    hosts: &Api<BareMetalHost>,
    machines: &Api<BareMetalMachine>,
    host: BareMetalHost,
) {
    let name = host.name_any();
    let consumer = host.spec.consumer_ref.as_ref().and_then(|c| c.name.clone());
    let claim = host.spec.record.as_ref().and_then(|r| r.claim.as_ref()).map(|c| c.id.clone());
    let owner = match (consumer, claim) {
        (None, None) => {
            seen.owners.remove(&name);
            return;
        }
        (Some(consumer), Some(claim)) => (consumer, claim),
        half => {
            let _ = violations.send(format!("{name} is half claimed: {half:?}"));
            return;
        }
    };
    match seen.owners.insert(name.clone(), owner.clone()) {
        Some(before) if before == owner => return,
        Some(before) => {
            let _ = violations.send(format!("{name} was claimed away: from {before:?} to {owner:?}"));
        }
        None => {}
    }
    if let Some((other, _)) =
        seen.owners.iter().find(|(host, (consumer, _))| **host != name && *consumer == owner.0)
    {
        let _ = violations.send(format!("{} has two hosts: {other} and {name}", owner.0));
    }
    seen.claims += 1;
    let Some(machine) = machines.get_opt(&owner.0).await.unwrap() else { return };
    let names_it = machine.spec.host_ref.as_ref().is_some_and(|h| h.name == name)
        && machine.spec.claim_id.as_ref() == Some(&owner.1);
    if !names_it {
        seen.orphans += 1;
        let free = json!({
            "metadata": {"resourceVersion": host.resource_version()},
            "spec": {"consumerRef": null, "record": {"claim": null}},
        });
        // A conflict means that there is news of the host to come.
        let _ = hosts.patch(&name, &PatchParams::default(), &Patch::Merge(free)).await;
    }
}

/// What is wrong with a manager's connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lag {
    /// Nothing.
    None,
    /// Every piece of news arrives late, the kinds independently of each other; and so does every change.
    Late,
    /// Changes of hosts never arrive at the server.
    NoClaims,
}

/// The machine controller with caches of its own. Dropping it is a kill.
pub struct Manager {
    _tasks: JoinSet<anyhow::Result<()>>,
}

impl Manager {
    pub async fn start(world: &World, lag: Lag) -> Self {
        let client = lagging(&world.manager, lag);
        let mut tasks = JoinSet::new();
        let metrics = Arc::new(Metrics::new());
        let events = Events::start(client.clone(), "race", metrics.clone(), &mut tasks);
        let hosts = Watched::start(client.clone(), Some(NAMESPACE), None, &metrics, &mut tasks);
        let machines = Watched::start(client.clone(), Some(NAMESPACE), None, &metrics, &mut tasks);
        let owners = Watched::start(client.clone(), Some(NAMESPACE), None, &metrics, &mut tasks);
        let clusters = Watched::start(client.clone(), Some(NAMESPACE), None, &metrics, &mut tasks);
        let context = MachineContext::new(
            client,
            machines,
            hosts,
            owners,
            clusters,
            events,
            metrics,
            Addresses::default(),
        );
        tasks.spawn(machine::run(context, CONCURRENCY, CancellationToken::new()));
        Self { _tasks: tasks }
    }
}

fn lagging(client: &Client, lag: Lag) -> Client {
    let client = client.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let client = client.clone();
        async move {
            let watch = request.uri().query().is_some_and(|q| q.contains("watch=true"));
            let change = request.method() == http::Method::PATCH;
            if lag == Lag::NoClaims && change && request.uri().path().contains("/baremetalhosts/") {
                std::future::pending::<()>().await;
            }
            if lag == Lag::Late && change {
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..100))).await;
            }
            let answer = client.send(request).await?;
            Ok::<_, kube::Error>(answer.map(|body| late(body, lag == Lag::Late && watch)))
        }
    });
    Client::new(service, NAMESPACE)
}

/// The body, each piece of it up to 0.4 s late if `late`.
fn late(body: Body, late: bool) -> StreamBody<impl Stream<Item = Result<Frame<Bytes>, kube::Error>>> {
    StreamBody::new(body.into_data_stream().then(move |piece| async move {
        if late {
            tokio::time::sleep(Duration::from_millis(rand::random_range(50..400))).await;
        }
        piece.map(Frame::data)
    }))
}
