//! What the demo acts on, and how it looks at it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::judge::{self, Goal};
use super::screen::Screen;
use super::view::{Host, Machine, View};
use super::{Break, CLUSTER, ControlPlaneKind, DEPLOYMENT, DemoOptions, Failure, HOSTS, RACKS};
use crate::assets::{Assets, Binary};
use crate::bed::Bed;
use crate::error::Error;
use crate::process::wait_until;
use crate::stack::programs::{self, Program};
use crate::stack::{
    ClusterRequest, Created, ImageServer, Manager, ManagerOptions, ServedImage, Simulator, SimulatorOptions,
    Trouble, build_image, disk, logs, programs_flag, release,
};

const NAMESPACE: &str = "default";
/// How often is looked.
const PERIOD: Duration = Duration::from_millis(700);
/// How long an error may stand on a host that does not get on, before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long what follows from a reached goal may take: the last power change of a released host.
const AFTERWARDS: Duration = Duration::from_secs(60);
const IMAGE_BYTES: u64 = 8 << 20;

/// Everything that runs. Dropping it ends it all.
pub(super) struct Scene {
    manager: Manager,
    simulator: Simulator,
    images: ImageServer,
    image: ServedImage,
    cluster: Option<Created>,
    bed: Bed,
    /// How to reach the workload cluster, once there is one.
    workload_kubeconfig: Option<PathBuf>,
    /// Where a server's journal ended when its host was last seen to be free or was claimed.
    marks: BTreeMap<String, u64>,
    /// How things were when the last goal was reached.
    reached: View,
    keep: bool,
}

impl Scene {
    /// Brings everything up.
    pub(super) async fn set(options: &DemoOptions, screen: &mut Screen) -> Result<Self, Failure> {
        const PLANE: Duration = Duration::from_secs(300);
        const START: Duration = Duration::from_secs(120);
        let assets = Assets::from_env()?;
        // What takes minutes comes before anything runs, and says so itself.
        assets.ensure_all(&Binary::ALL).await?;
        let (manager, simulator) =
            (programs::ensure(Program::Manager).await?, programs::ensure(Program::Simulator).await?);
        let release = match &options.release {
            Some(folder) => folder.clone(),
            None => release::folder().await?,
        };

        screen.step(
            "Management plane: etcd, Kubernetes, Cluster API, clusterctl init --infrastructure ferric",
            PLANE,
        );
        let bed = within(
            "the management plane to be up",
            PLANE,
            Bed::builder().name(CLUSTER).keep(options.keep).cluster_api(Some(release)).start(),
        )
        .await?;
        let providers = bed.kubectl(["get", "providers", "-A", "-o", "name"]).await?;
        screen.done(&format!("kubectl sees {} providers", providers.lines().count()));
        screen.note(&format!("folder: {}", bed.dir().display()));

        screen.step(
            &format!("Servers: {HOSTS} in {RACKS} racks, each with a BMC; an image server; the manager"),
            START,
        );
        let image = build_image(bed.dir(), IMAGE_BYTES).await?;
        let images = ImageServer::start(&image.path).await?;
        let image = ServedImage { url: images.url(), ..image };
        screen.good(&format!("image: {} bytes, SHA-256 {}, at {}", image.size, image.sha256, image.url));
        let flags = match options.control_plane {
            ControlPlaneKind::Kubeadm => vec![programs_flag(&bed).await?],
            ControlPlaneKind::External => Vec::new(),
        };
        let fleet = SimulatorOptions { hosts: HOSTS, racks: RACKS, flags };
        let simulator = Simulator::start(&simulator, &fleet, &bed.dir().join("fleet")).await?;
        let bmcs = bmcs_that_answer(&simulator).await?;
        screen.good(&format!(
            "servers: {bmcs} BMCs answer over verified TLS; they know nothing of the management plane"
        ));
        let log = ("log-level".to_owned(), "info".to_owned());
        let running = ManagerOptions { leader_elect: true, flags: vec![log] };
        let manager = Manager::start(&bed, &manager, &running).await?;
        let lease = [
            "get",
            "lease",
            "ferric-manager",
            "-n",
            "ferric-system",
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ];
        let holder =
            wait_until("the manager to hold the lease", START, async || match bed.kubectl(lease).await {
                Ok(holder) if !holder.is_empty() => Ok(holder),
                Ok(_) => Err("nobody holds it".to_owned()),
                Err(error) => Err(error.to_string()),
            })
            .await?;
        screen.done(&format!(
            "manager: ready under ServiceAccount ferric-system/ferric-manager, lease held by {holder}"
        ));
        Ok(Self {
            manager,
            simulator,
            images,
            image,
            cluster: None,
            bed,
            workload_kubeconfig: None,
            marks: BTreeMap::new(),
            reached: View::default(),
            keep: options.keep,
        })
    }

    /// Applies the host manifests and waits until all hosts are available.
    pub(super) async fn enrol(&mut self, screen: &mut Screen, limit: Duration) -> Result<(), Failure> {
        self.bed.apply(&self.simulator.manifests()?).await?;
        let what = format!("{HOSTS} hosts available");
        self.reached = self.follow(screen, &what, limit, |view| judge::all_available(view, HOSTS)).await?;
        let cleaned = self.reached.hosts.iter().filter(|host| !host.cleaned_at.is_empty()).count();
        screen.done(&format!("kubectl: {HOSTS} hosts are available, {cleaned} with a record of cleaning"));
        self.mark().await
    }

    /// Breaks what is to be broken.
    pub(super) async fn break_it(&mut self, what: Option<Break>, screen: &mut Screen) {
        break_it(what, &mut self.images, &self.image, screen).await;
    }

    /// Makes the cluster's objects with `clusterctl generate cluster` and applies them.
    pub(super) async fn create_cluster(
        &mut self,
        kind: ControlPlaneKind,
        screen: &mut Screen,
    ) -> Result<(), Failure> {
        let request = ClusterRequest {
            name: CLUSTER,
            namespace: NAMESPACE,
            workers: 2,
            image: &self.image,
            variables: Vec::new(),
        };
        let created = match kind {
            ControlPlaneKind::Kubeadm => request.create_with_kubeadm(&self.bed, 1).await?,
            ControlPlaneKind::External => request.create_with_external_control_plane(&self.bed).await?,
        };
        screen.done(&format!("kubectl applied {} objects; endpoint {}", created.objects, created.endpoint));
        self.cluster = Some(created);
        Ok(())
    }

    /// Scales the MachineDeployment as a user would.
    pub(super) async fn scale(&mut self, replicas: usize) -> Result<(), Failure> {
        let replicas = format!("--replicas={replicas}");
        let resource = "machinedeployments.cluster.x-k8s.io";
        self.bed.kubectl(["scale", resource, DEPLOYMENT, "-n", NAMESPACE, &replicas]).await?;
        Ok(())
    }

    /// Waits until the machines are as wanted and judges hosts, disks and power.
    pub(super) async fn reach(
        &mut self,
        screen: &mut Screen,
        workers: usize,
        control_plane: usize,
        limit: Duration,
    ) -> Result<(), Failure> {
        let before = self.reached.clone();
        let goal = Goal { deployment: DEPLOYMENT, workers, control_plane };
        let what = format!(
            "{} Machines Running, their Nodes Ready, every other host available, the Cluster Available",
            workers + control_plane
        );
        let view = self.follow(screen, &what, limit, |view| goal.reached(view)).await?;
        self.reached = view.clone();
        screen.done(&format!("kubectl: {what}"));
        let mut machines: Vec<&Machine> = view.machines.iter().collect();
        machines.sort_by(|one, other| one.host.cmp(&other.host));
        for machine in machines {
            let line = self.judge_running(&view, machine).await?;
            screen.good(&line);
        }
        let racks =
            judge::spread(&view, DEPLOYMENT).map_err(|seen| unmet("machines spread over the racks", seen))?;
        screen.good(&format!("kubectl: the workers are in {}", racks.join(", ")));
        let released = before.hosts.iter().filter(|host| before.machine_of(host).is_some());
        for host in released
            .filter(|old| view.hosts.iter().any(|now| now.name == old.name && view.machine_of(now).is_none()))
        {
            let line = self.judge_released(host, &view).await?;
            screen.good(&line);
        }
        self.mark().await
    }

    async fn judge_running(&self, view: &View, machine: &Machine) -> Result<String, Failure> {
        let host = &machine.host;
        let id =
            judge::provider_id(view, machine).map_err(|seen| unmet("one providerID everywhere", seen))?;
        let expected = format!("the disk of {host} to hold the image");
        let (path, image) = (self.simulator.disk(host)?.to_path_buf(), self.image.path.clone());
        let compared = tokio::task::spawn_blocking(move || disk::holds_image(&path, &image)).await;
        let holds = compared
            .map_err(|error| unmet(&expected, error.to_string()))?
            .map_err(|seen| unmet(&expected, seen))?;
        if holds.sha256 != self.image.sha256 {
            let seen = format!(
                "the image file has {} now, it had {} when it was built",
                holds.sha256, self.image.sha256
            );
            return Err(unmet("an image that stays as it is", seen));
        }
        let journal = self.simulator.journal(host, 0).await?;
        judge::runs_from_disk(&journal)
            .map_err(|seen| unmet(&format!("{host} to run from its disk"), seen))?;
        Ok(format!(
            "{host}: SHA-256 of the disk is the image's ({}…); BMC journal: on, booted from disk; Node {} has {id}",
            &holds.sha256[..12],
            machine.node
        ))
    }

    async fn judge_released(&self, old: &Host, view: &View) -> Result<String, Failure> {
        let name = &old.name;
        let now = view.hosts.iter().find(|host| host.name == *name);
        let cleaned = now.map(|host| host.cleaned_at.clone()).unwrap_or_default();
        if cleaned.is_empty() || cleaned == old.cleaned_at {
            return Err(unmet(&format!("{name} to be cleaned anew"), format!("cleaned at {cleaned:?}")));
        }
        disk::is_wiped(self.simulator.disk(name)?)
            .map_err(|seen| unmet(&format!("the disk of {name} to be wiped"), seen))?;
        let since = self.marks.get(name).copied().unwrap_or(0);
        // Cleaned is what the host waits for; it is switched off right after.
        wait_until(&format!("{name} to be off after cleaning"), AFTERWARDS, async || {
            let journal = self.simulator.journal(name, since).await.map_err(|error| error.to_string())?;
            judge::was_stopped_and_cleaned(&journal)
        })
        .await?;
        Ok(format!(
            "{name}: released; BMC journal: off, agent, off; both ends of the disk are zero; cleaned at {cleaned}"
        ))
    }

    /// Remembers where the journals end.
    async fn mark(&mut self) -> Result<(), Failure> {
        let names: Vec<String> = self.simulator.servers().iter().map(|server| server.name.clone()).collect();
        for name in names {
            let end = self.simulator.journal_end(&name).await?;
            self.marks.insert(name, end);
        }
        Ok(())
    }

    pub(super) async fn describe(&self) -> Result<String, Failure> {
        Ok(self.bed.clusterctl(["describe", "cluster", CLUSTER, "-n", NAMESPACE], &[]).await?)
    }

    /// Looks again and again, shows what is seen, until the goal is reached. Gives up at the limit, when a process
    /// ends, or when an error stands on a host that does not get on.
    async fn follow(
        &mut self,
        screen: &mut Screen,
        expected: &str,
        limit: Duration,
        goal: impl Fn(&View) -> Result<(), String>,
    ) -> Result<View, Failure> {
        let begin = Instant::now();
        let mut patience = Patience::default();
        loop {
            let looked = Instant::now();
            self.manager.check()?;
            self.simulator.check()?;
            let view = self.look().await?;
            screen.show(&view);
            let Err(seen) = goal(&view) else { return Ok(view) };
            patience.look(&view).map_err(|errors| unmet(expected, format!("{seen}; {errors}")))?;
            if begin.elapsed() >= limit {
                return Err(unmet(&format!("{expected} within {} s", limit.as_secs()), seen));
            }
            tokio::time::sleep(PERIOD.saturating_sub(looked.elapsed())).await;
        }
    }

    /// Asks kubectl.
    async fn look(&mut self) -> Result<View, Failure> {
        const KINDS: &str = "baremetalhosts.infrastructure.cluster.x-k8s.io,\
                             baremetalmachines.infrastructure.cluster.x-k8s.io,\
                             machines.cluster.x-k8s.io,\
                             machinedeployments.cluster.x-k8s.io,clusters.cluster.x-k8s.io";
        let objects = parse(&self.bed.kubectl(["get", KINDS, "-n", NAMESPACE, "-o", "json"]).await?)?;
        let has_cluster =
            objects["items"].as_array().is_some_and(|items| items.iter().any(|o| o["kind"] == "Cluster"));
        if has_cluster && self.workload_kubeconfig.is_none() {
            // Until the control plane is there, there is no kubeconfig either.
            if let Ok(text) = self.bed.clusterctl(["get", "kubeconfig", CLUSTER, "-n", NAMESPACE], &[]).await
            {
                let path = self.bed.dir().join("demo.kubeconfig");
                std::fs::write(&path, text).map_err(Error::file("write", &path))?;
                self.workload_kubeconfig = Some(path);
            }
        }
        let nodes = match &self.workload_kubeconfig {
            None => None,
            Some(path) => self.nodes(path).await,
        };
        Ok(View::read(&objects, nodes.as_ref()))
    }

    /// The Nodes of the workload cluster; none while it does not answer.
    async fn nodes(&self, kubeconfig: &Path) -> Option<Value> {
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let args = [kubeconfig.as_str(), "--request-timeout=5s", "get", "nodes", "-o", "json"];
        parse(&self.bed.kubectl(args).await.ok()?).ok()
    }

    /// Says why it failed and where to look; the folder stays.
    pub(super) fn report(&mut self, screen: &mut Screen, failure: &Failure) {
        report(&mut self.bed, &self.manager, screen, failure);
    }

    /// What to do with what runs now.
    pub(super) fn invite(&self, screen: &mut Screen) {
        let exports = self.bed.shell_exports();
        let nodes = self.workload_kubeconfig.as_deref().unwrap_or(Path::new("demo.kubeconfig"));
        let nodes = format!("kubectl --kubeconfig {} get nodes -o wide", nodes.display());
        screen.say("Everything stays up until Ctrl-C. In another terminal:\n");
        for line in exports {
            screen.say(&format!("  {line}"));
        }
        screen.say("\nThen, for instance:\n");
        let tries = [
            ("the hosts, and what each waits for", "kubectl get bmh"),
            ("machines, and the hosts that they are bound to", "kubectl get machines,bmm"),
            ("the nodes of the new cluster", &nodes),
            ("more machines than hosts", "kubectl scale machinedeployment demo-workers --replicas=9"),
            (
                "what they look for, and why no host will do",
                "kubectl get bmm -o custom-columns=NAME:.metadata.name,WAITS:.status.waitingFor.message",
            ),
            ("the whole tree", "clusterctl describe cluster demo --show-conditions all"),
            ("the end: every host becomes available again", "kubectl delete cluster demo"),
        ];
        for (what, command) in tries {
            screen.say(&format!("  # {what}\n  {command}"));
        }
        screen.say(&format!("\nLogs and disks are in {}.", self.bed.dir().display()));
    }

    /// Until something ends that should not.
    pub(super) async fn stay(&mut self) -> Failure {
        loop {
            if let Err(error) = self.manager.check().and_then(|()| self.simulator.check()) {
                return error.into();
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Ends everything, in order.
    pub(super) async fn end(mut self) {
        if self.keep {
            self.bed.keep_folder();
        }
        self.manager.stop().await;
        self.simulator.stop().await;
        if let Some(workload) = self.cluster.as_mut().and_then(|cluster| cluster.workload.as_mut()) {
            workload.stop();
        }
        self.bed.end();
    }
}

/// Waits no longer than it makes sense when hosts are in trouble.
#[derive(Default)]
pub(super) struct Patience {
    /// Hosts with an error, in which state they are, and since when.
    troubled: BTreeMap<String, (String, Instant)>,
}

impl Patience {
    /// Looks at the hosts. Fails, with what they say, when an error stands for long on one that does not get on.
    pub(super) fn look(&mut self, view: &View) -> Result<(), String> {
        for host in &view.hosts {
            // Between two tries an error is over for a moment: only another state is progress.
            if self.troubled.get(&host.name).is_some_and(|(state, _)| *state != host.state) {
                self.troubled.remove(&host.name);
            }
            if host.error.is_some() {
                let now = || (host.state.clone(), Instant::now());
                self.troubled.entry(host.name.clone()).or_insert_with(now);
            }
        }
        match self.troubled.values().find(|(_, since)| since.elapsed() >= PATIENCE) {
            None => Ok(()),
            Some((_, since)) => {
                let first = format!("no progress for {} s:", since.elapsed().as_secs());
                let errors = view.hosts.iter().filter(|host| host.error.is_some()).map(judge::tell);
                Err(std::iter::once(first).chain(errors).collect::<Vec<_>>().join("\n            "))
            }
        }
    }
}

/// Breaks what is to be broken about the image.
pub(super) async fn break_it(
    what: Option<Break>,
    images: &mut ImageServer,
    image: &ServedImage,
    screen: &mut Screen,
) {
    match what {
        None => {}
        Some(Break::ImageServer) => {
            images.stop().await;
            screen.say("\nBroken on purpose: the image server is off.");
        }
        Some(Break::ImageByte) => {
            images.set_trouble(Trouble::Flip(image.size / 2));
            screen.say("\nBroken on purpose: one bit of the image is flipped where it is served.");
        }
    }
}

/// Says why a demo failed and where to look; the folder stays.
pub(super) fn report(bed: &mut Bed, manager: &Manager, screen: &mut Screen, failure: &Failure) {
    screen.failed();
    screen.say(&format!("  {failure}"));
    bed.keep_folder();
    screen.say("  logs:");
    for log in logs(bed.dir()) {
        screen.say(&format!("    {}", log.display()));
    }
    screen.say("  the end of the manager's log:");
    for line in manager.log_tail().lines().rev().take(12).collect::<Vec<_>>().into_iter().rev() {
        screen.say(&format!("    {line}"));
    }
}

pub(super) fn unmet(expected: &str, seen: impl Into<String>) -> Failure {
    Failure::Unmet { expected: expected.to_owned(), seen: seen.into() }
}

fn parse(json: &str) -> Result<Value, Error> {
    serde_json::from_str(json).map_err(|error| Error::malformed("the answer of kubectl", error))
}

pub(super) async fn within<T>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(unmet(&format!("{what} within {} s", limit.as_secs()), "it is not yet")),
    }
}

/// Asks every BMC for its service root, as a stranger who trusts the fleet's authority.
async fn bmcs_that_answer(simulator: &Simulator) -> Result<usize, Failure> {
    let ca = reqwest::Certificate::from_pem(&simulator.bmc_ca()?);
    let build = |ca| {
        reqwest::Client::builder().no_proxy().tls_certs_only([ca]).timeout(Duration::from_secs(10)).build()
    };
    let client = ca.and_then(build).map_err(|error| unmet("a client for the BMCs", error.to_string()))?;
    for server in simulator.servers() {
        let url = format!("{}/redfish/v1", server.bmc_url);
        let answer = client.get(&url).send().await.and_then(reqwest::Response::error_for_status);
        answer.map_err(|error| unmet("every BMC to answer", format!("{url}: {error:?}")))?;
    }
    Ok(simulator.servers().len())
}
