//! A lab with the whole provider: management plane, manager, agent image, image server, and a workload control plane
//! that virtual servers can reach.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::domain::ServerSpec;
use super::images::{self, Form, NodeImage};
use super::tools::{self, Tools};
use super::world::{self, Entrance};
use super::{ADDRESS, Lab};
use crate::assets::{Assets, Binary};
use crate::bed::Bed;
use crate::control_plane::ControlPlaneSpec;
use crate::error::{Error, Result};
use crate::process;
use crate::stack::programs::{self, Program, workspace};
use crate::stack::{ClusterRequest, Created, ImageServer, Manager, ManagerOptions, ServedImage, release};
use crate::workload::Workload;

/// Another folder with the agent's kernel, initramfs and boot media.
const AGENT_IMAGE: &str = "FERRIC_AGENT_IMAGE";
/// The same with the drivers of servers.
const HARDWARE_IMAGE: &str = "FERRIC_AGENT_IMAGE_HARDWARE";
/// Tests that boot that flavour have this in their name: it is large, and made for them only.
const HARDWARE_ROWS: &str = "in_band::";
const MAKE_LIMIT: Duration = Duration::from_secs(1800);
/// A real kubelet renews its lease every ten seconds: Kubernetes' own default.
const GRACE: Duration = Duration::from_secs(50);

/// Says what a [`LabStack`] consists of.
#[derive(Debug)]
pub struct LabBuilder {
    servers: Vec<ServerSpec>,
    cluster_api: bool,
    image: Option<PathBuf>,
    form: Form,
    flags: Vec<(String, String)>,
    agent: bool,
}

/// A running lab with the provider. Dropping it ends all of it; on a panic it shows the ends of logs first.
#[derive(Debug)]
pub struct LabStack {
    /// The provider.
    pub manager: Manager,
    /// The server of images.
    pub images: ImageServer,
    /// The image that is served.
    pub image: ServedImage,
    /// Its format, as a host's `image.format` says it.
    pub format: &'static str,
    /// The virtual servers.
    pub lab: Lab,
    /// The management plane.
    pub bed: Bed,
}

impl LabBuilder {
    /// Which virtual servers there are.
    #[must_use]
    pub fn servers(mut self, servers: Vec<ServerSpec>) -> Self {
        self.servers = servers;
        self
    }

    /// Whether the real Cluster API is part of it.
    #[must_use]
    pub fn cluster_api(mut self, on: bool) -> Self {
        self.cluster_api = on;
        self
    }

    /// In which form the node image is served.
    #[must_use]
    pub fn form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    /// Serves another image instead, raw.
    #[must_use]
    pub fn image(mut self, file: PathBuf) -> Self {
        self.image = Some(file);
        self
    }

    /// Adds `--name=value` to the manager's command line; it wins over what the lab sets.
    #[must_use]
    pub fn manager_flag(mut self, name: &str, value: impl Into<String>) -> Self {
        self.flags.push((name.to_owned(), value.into()));
        self
    }

    /// Whether the agent's image is given to the manager. Without it no server can boot the agent.
    #[must_use]
    pub fn agent(mut self, on: bool) -> Self {
        self.agent = on;
        self
    }

    /// Starts everything; returns when the manager is ready. The hosts are not applied yet.
    pub async fn start(self) -> Result<LabStack> {
        let world = world::inside()
            .ok_or_else(|| Error::Assets("a lab runs in a world of its own only".to_owned()))?;
        let tools = Tools::ensure().await?;
        let assets = Assets::from_env()?;
        let (image, format) = match self.image {
            Some(file) => (file, "raw"),
            None => (NodeImage::ensure(&assets).await?.file(self.form), self.form.format()),
        };
        let manager = programs::ensure(Program::Manager).await?;
        let builder = Bed::builder().name("lab");
        let release = release::folder().await?;
        let bed = if self.cluster_api {
            builder.cluster_api(Some(release)).start().await?
        } else {
            let bed = builder.start().await?;
            crate::stack::apply_without_cluster_api(&bed, &release).await?;
            bed
        };
        let lab = Lab::start(&self.servers, &tools, &world.join("lab"), bed.dir()).await?;
        let images = ImageServer::start_on(ADDRESS.into(), &image).await?;
        let image = served(image, images.url()).await?;
        let mut flags = vec![
            ("boot-bind-address".to_owned(), format!("{ADDRESS}:6180")),
            ("agent-bind-address".to_owned(), format!("{ADDRESS}:6183")),
            ("agent-boot-timeout-seconds".to_owned(), "300".to_owned()),
            ("bmc-timeout-seconds".to_owned(), "60".to_owned()),
            ("image-cache-size".to_owned(), "8Gi".to_owned()),
        ];
        if self.agent {
            let folder = agent_image().await?.display().to_string();
            flags.push(("agent-image-dir".to_owned(), folder));
        }
        flags.retain(|(name, _)| !self.flags.iter().any(|(given, _)| given == name));
        flags.extend(self.flags);
        let options = ManagerOptions { flags, leader_elect: false };
        let manager = Manager::start(&bed, &manager, &options).await?;
        Ok(LabStack { manager, images, image, format, lab, bed })
    }
}

impl LabStack {
    /// Starts to describe a lab; without more it has one server, the real Cluster API and the node image as qcow2.
    #[must_use]
    pub fn builder() -> LabBuilder {
        LabBuilder {
            servers: vec![ServerSpec::new("vm-1")],
            cluster_api: true,
            image: None,
            form: Form::Qcow2,
            flags: Vec::new(),
            agent: true,
        }
    }

    /// Makes or fetches all that a lab needs and that it cannot get inside, where there is no network.
    pub async fn prepare() -> Result<()> {
        Tools::ensure().await?;
        let assets = Assets::from_env()?;
        assets.ensure_all(&Binary::ALL).await?;
        assets.ensure_components().await?;
        NodeImage::ensure(&assets).await?;
        images::tiny_iso().await?;
        programs::ensure(Program::Manager).await?;
        agent_image().await?;
        release::folder().await.map(drop)
    }

    /// Enrols all servers as hosts.
    pub async fn enrol(&self) -> Result<()> {
        let manifests: String = self.lab.servers().iter().map(super::Server::manifest).collect();
        self.bed.apply(&manifests).await.map(drop)
    }

    /// Starts a workload control plane at the lab's address and makes a cluster of it with so many workers.
    pub async fn create_cluster(&self, name: &str, workers: usize) -> Result<Created> {
        let mut spec = ControlPlaneSpec::new(name);
        spec.address = ADDRESS.into();
        spec.port = Some(6443);
        spec.node_monitor_grace_period = GRACE;
        let folder = self.bed.dir().join(format!("workload-{name}"));
        let workload = Workload::start(&spec, self.bed.assets(), &folder).await?;
        let request = ClusterRequest {
            name,
            namespace: "default",
            workers,
            image: &self.image,
            variables: vec![("IMAGE_FORMAT", self.format)],
        };
        request.create_with_workload(&self.bed, workload).await
    }

    /// Ends everything, in order.
    pub async fn stop(mut self) {
        self.manager.stop().await;
        self.images.stop().await;
        self.bed.end();
    }
}

impl Drop for LabStack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.bed.keep_folder();
            eprintln!("the lab's folder, with all logs, stays: {}", self.bed.dir().display());
            eprintln!("--- the end of the manager's log\n{}", self.manager.log_tail());
            for server in self.lab.servers() {
                let name = &server.spec.name;
                eprintln!("--- the end of what {name} printed\n{}", server.last_lines(25));
            }
        }
    }
}

async fn served(path: PathBuf, url: String) -> Result<ServedImage> {
    let file = path.clone();
    let hashed = tokio::task::spawn_blocking(move || -> std::io::Result<(u64, String)> {
        let mut hash = Sha256::new();
        let mut reader = std::fs::File::open(&file)?;
        let size = std::io::copy(&mut reader, &mut Hashing(&mut hash))?;
        Ok((size, hex::encode(hash.finalize())))
    });
    let (size, sha256) = hashed
        .await
        .map_err(|error| Error::malformed("the image", error))?
        .map_err(Error::file("read", &path))?;
    Ok(ServedImage { path, url, sha256, size })
}

struct Hashing<'a>(&'a mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The folder of the agent's kernel, initramfs and boot media. Outside of a lab it is made anew, since what is shown is to
/// be shown of the present agent.
pub(super) async fn agent_image() -> Result<PathBuf> {
    image("virtual", AGENT_IMAGE).await
}

/// The same with the drivers of servers, among them those of BMCs.
pub async fn hardware_image() -> Result<PathBuf> {
    image("hardware", HARDWARE_IMAGE).await
}

async fn image(flavour: &str, variable: &str) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
        return Ok(given.into());
    }
    let folder = workspace().join("agent-image").join(flavour);
    if world::inside().is_none() {
        say(&format!(
            "lab: making the agent's boot media with `make agent-image FLAVOUR={flavour}`, minutes if the agent is not \
             built yet"
        ));
        let mut command = tokio::process::Command::new("make");
        command.current_dir(workspace()).args(["--silent", "agent-image", &format!("FLAVOUR={flavour}")]);
        process::run(command, MAKE_LIMIT).await?;
    }
    match folder.join("manifest.json").is_file() {
        true => Ok(folder),
        false => Err(Error::Assets(format!(
            "{} holds no manifest.json: run `make agent-image FLAVOUR={flavour}`, or set {variable}",
            folder.display()
        ))),
    }
}

/// Runs the body of a test inside a lab. The test's own function calls it with the name under which the test harness
/// knows it: outside, it prepares what is needed and starts that one test again inside. Where there can be no lab it
/// says so, past the capture of the harness, and the test passes without having shown anything.
///
/// # Panics
/// Whenever the test fails.
#[allow(clippy::panic, reason = "this is how a test fails")]
pub fn test<F: Future<Output = ()>>(name: &str, limit: Duration, body: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    if world::inside().is_some() {
        return runtime.block_on(body());
    }
    if let Some(reason) = tools::obstacle() {
        say(&format!("SKIPPED {name}: {reason}"));
        return;
    }
    let begin = Instant::now();
    let entered = runtime.block_on(async {
        LabStack::prepare().await?;
        // Inside there is no network to fetch a kernel with.
        if name.contains(HARDWARE_ROWS) {
            hardware_image().await?;
        }
        // One at a time: emulated machines want all the processors that there are.
        let cache = super::cache()?;
        std::fs::create_dir_all(&cache).map_err(Error::file("create", &cache))?;
        let _lock = tools::lock(&cache.join("lab.lock")).await?;
        say(&format!("lab: {name} begins, after {} s of preparation", begin.elapsed().as_secs()));
        let arguments = [name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"];
        let keep = std::env::var_os("FERRIC_TESTBED_KEEP").is_some_and(|value| !value.is_empty());
        let entrance = Entrance {
            arguments: arguments.map(OsString::from).to_vec(),
            stdout: false,
            limit: Some(limit),
            keep,
        };
        world::run(&entrance, &AtomicBool::new(false))
    });
    let (status, folder) = entered.unwrap_or_else(|error| panic!("{error}"));
    if let Some(folder) = folder {
        say(&format!("lab: its folder stays: {}", folder.display()));
    }
    let passed = status.is_some_and(|status| status.success());
    assert!(passed, "{name} failed inside the lab: its messages are above");
}

/// Prints a line past the capture of a test harness.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Tells what changes about hosts while something is waited for, with the time since the beginning.
#[derive(Debug)]
pub struct Story {
    begin: Instant,
    last: Vec<(String, String)>,
}

impl Default for Story {
    fn default() -> Self {
        Self { begin: Instant::now(), last: Vec::new() }
    }
}

impl Story {
    /// Says a line with the time.
    pub fn say(&self, line: &str) {
        say(&format!("  {:>5.1} s  {line}", self.begin.elapsed().as_secs_f32()));
    }

    /// Says it if it is not what was last said about `subject`.
    pub fn tell(&mut self, subject: &str, now: &str) {
        match self.last.iter_mut().find(|(known, _)| known == subject) {
            Some((_, before)) if before == now => return,
            Some((_, before)) => now.clone_into(before),
            None => self.last.push((subject.to_owned(), now.to_owned())),
        }
        self.say(&format!("{subject}: {now}"));
    }

    /// Time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }
}

/// How often a lab is looked at: its machines need the processors.
const PERIOD: Duration = Duration::from_millis(700);
/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(20);

/// Waits until `probe` answers `Ok`, at most `limit`; the error names `what` and the last answer. It looks less often than
/// [`crate::wait_until`].
pub async fn wait_for<F, T>(what: &str, limit: Duration, mut probe: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T, String>,
{
    let deadline = Instant::now() + limit;
    loop {
        let last = match tokio::time::timeout(LOOK_LIMIT, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => reason,
            Err(_) => format!("no answer within {} s", LOOK_LIMIT.as_secs()),
        };
        if Instant::now() >= deadline {
            return Err(Error::Timeout { what: what.to_owned(), limit, last, detail: String::new() });
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// The folder of a lab as seen from a terminal outside, with the command that gets in.
#[must_use]
pub fn door(world: &Path) -> PathBuf {
    world.join("enter")
}
