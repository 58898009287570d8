//! Everything that the provider needs around it, running: a management plane, the manager under the rights of its
//! components, a simulated fleet in its own process, and a server of images.
//!
//! Tests and the demo judge by what is read *beside* manager and simulator: objects through the API server as an
//! administrator, disks as files ([`disk`]), power and boots in the journal of the BMCs ([`simulator`]).

pub mod cluster;
pub mod disk;
pub mod image_server;
pub mod manager;
pub mod programs;
pub mod release;
pub mod simulator;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ferric_image::TestImage;

use crate::assets::Binary;
use crate::bed::Bed;
use crate::error::{Error, Result};
use crate::process::wait_until;
pub use cluster::{ClusterRequest, Created};
pub use image_server::{ImageServer, Trouble};
pub use manager::{Manager, ManagerOptions};
pub use simulator::{JournalEntry, ServerFacts, Simulator, SimulatorOptions};

/// Kinds of Cluster API that the manager watches, for stacks without Cluster API.
const CLUSTER_API_KINDS: &str = include_str!("../../manifests/cluster-api-kinds.yaml");
const IMAGE_BYTES: u64 = 8 << 20;
const ESTABLISHED_LIMIT: Duration = Duration::from_secs(60);

/// An image and where it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedImage {
    /// The file, as it was built. Whatever trouble the server makes, this stays as it is.
    pub path: PathBuf,
    /// Where hosts are told to find it.
    pub url: String,
    /// SHA-256 (hex) of the file.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
}

/// Says what a [`Stack`] consists of.
#[derive(Debug)]
pub struct StackBuilder {
    cluster_api: bool,
    audit_log: bool,
    keep: bool,
    apply_hosts: bool,
    release: Option<PathBuf>,
    simulator: SimulatorOptions,
    manager: ManagerOptions,
    image_bytes: u64,
    programs: bool,
}

/// A running stack. Dropping it ends all of its processes; on a panic it shows the ends of their logs first.
#[derive(Debug)]
pub struct Stack {
    /// The provider.
    pub manager: Manager,
    /// The fleet.
    pub simulator: Simulator,
    /// The server of images.
    pub images: ImageServer,
    /// The image that is served.
    pub image: ServedImage,
    /// The management plane.
    pub bed: Bed,
}

impl StackBuilder {
    /// Whether the real Cluster API is part of it, installed with `clusterctl init`. Without, the provider's components
    /// are applied, and of Cluster API there are only the kinds: enough for hosts.
    #[must_use]
    pub fn cluster_api(mut self, on: bool) -> Self {
        self.cluster_api = on;
        self
    }

    /// How many servers there are, and in how many racks.
    #[must_use]
    pub fn fleet(mut self, hosts: usize, racks: usize) -> Self {
        (self.simulator.hosts, self.simulator.racks) = (hosts, racks);
        self
    }

    /// Does not apply the fleet's host manifests: the caller does.
    #[must_use]
    pub fn without_hosts(mut self) -> Self {
        self.apply_hosts = false;
        self
    }

    /// Adds `--name=value` to the simulator's command line.
    #[must_use]
    pub fn simulator_flag(mut self, name: &str, value: impl Into<String>) -> Self {
        self.simulator.flags.push((name.to_owned(), value.into()));
        self
    }

    /// Adds `--name=value` to the manager's command line; it wins over what the stack sets.
    #[must_use]
    pub fn manager_flag(mut self, name: &str, value: impl Into<String>) -> Self {
        self.manager.flags.push((name.to_owned(), value.into()));
        self
    }

    /// Installs from this release folder instead of one made from the working tree.
    #[must_use]
    pub fn release(mut self, folder: impl Into<PathBuf>) -> Self {
        self.release = Some(folder.into());
        self
    }

    /// Size of the image.
    #[must_use]
    pub fn image_bytes(mut self, bytes: u64) -> Self {
        self.image_bytes = bytes;
        self
    }

    /// Lets servers be control-plane machines of clusters: gives the simulator the programs that run on those.
    #[must_use]
    pub fn control_planes_on_hosts(mut self) -> Self {
        self.programs = true;
        self
    }

    /// Writes an audit log of the management plane.
    #[must_use]
    pub fn audit_log(mut self, on: bool) -> Self {
        self.audit_log = on;
        self
    }

    /// Leaves the folder behind, with all logs.
    #[must_use]
    pub fn keep(mut self, on: bool) -> Self {
        self.keep = on;
        self
    }

    /// Starts everything; returns when the manager is ready and the hosts are applied.
    pub async fn start(mut self) -> Result<Stack> {
        let release = match self.release {
            Some(folder) => folder,
            None => release::folder().await?,
        };
        // Building may take minutes: before anything runs.
        let (manager, simulator) = tokio::join!(
            programs::ensure(programs::Program::Manager),
            programs::ensure(programs::Program::Simulator)
        );
        let (manager, simulator) = (manager?, simulator?);
        let builder = Bed::builder().keep(self.keep).audit_log(self.audit_log);
        let bed = if self.cluster_api {
            builder.cluster_api(Some(release)).start().await?
        } else {
            let bed = builder.start().await?;
            apply_without_cluster_api(&bed, &release).await?;
            bed
        };
        let image = build_image(bed.dir(), self.image_bytes).await?;
        let images = ImageServer::start(&image.path).await?;
        let image = ServedImage { url: images.url(), ..image };
        if self.programs {
            self.simulator.flags.push(programs_flag(&bed).await?);
        }
        let simulator = Simulator::start(&simulator, &self.simulator, &bed.dir().join("fleet")).await?;
        let manager = Manager::start(&bed, &manager, &self.manager).await?;
        let stack = Stack { manager, simulator, images, image, bed };
        if self.apply_hosts {
            stack.bed.apply(&stack.simulator.manifests()?).await?;
        }
        Ok(stack)
    }
}

impl Stack {
    /// Starts to describe a stack; without more it has four servers in two racks and no Cluster API.
    #[must_use]
    pub fn builder() -> StackBuilder {
        StackBuilder {
            cluster_api: false,
            audit_log: false,
            keep: false,
            apply_hosts: true,
            release: None,
            simulator: SimulatorOptions::default(),
            manager: ManagerOptions::default(),
            image_bytes: IMAGE_BYTES,
            programs: false,
        }
    }

    /// Ends everything, in order.
    pub async fn stop(mut self) {
        self.manager.stop().await;
        self.simulator.stop().await;
        self.images.stop().await;
        self.bed.end();
    }

    /// The log files of manager, simulator and control plane.
    pub fn logs(&self) -> Vec<PathBuf> {
        logs(self.bed.dir())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.bed.keep_folder();
            eprintln!("the stack's folder, with all logs, stays: {}", self.bed.dir().display());
            for (name, tail) in
                [("manager", self.manager.log_tail()), ("simulator", self.simulator.log_tail())]
            {
                eprintln!("--- the end of the {name}'s log\n{tail}");
            }
        }
    }
}

/// The simulator's flag that names the programs of control-plane machines.
pub(crate) async fn programs_flag(bed: &Bed) -> Result<(String, String)> {
    let folder = bed.dir().join("programs");
    bed.assets().link_into(&folder, &Binary::ALL).await?;
    Ok(("binaries".to_owned(), folder.display().to_string()))
}

/// The log files in a bed's folder.
pub fn logs(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    found.sort();
    found
}

/// Builds the image that hosts get, in `folder`. It is not served yet: its URL is empty.
pub async fn build_image(folder: &Path, bytes: u64) -> Result<ServedImage> {
    let path = folder.join("image.raw");
    let file = path.clone();
    let built = tokio::task::spawn_blocking(move || ferric_image::build_test_image_file(file, bytes, 1));
    let failed = |reason: &dyn std::fmt::Display| Error::malformed("the test image", reason.to_string());
    let TestImage { size, sha256, .. } =
        built.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(ServedImage { path, url: String::new(), sha256, size })
}

/// Applies the provider's components as `clusterctl` would, and the kinds of Cluster API that the manager watches.
pub(crate) async fn apply_without_cluster_api(bed: &Bed, release: &Path) -> Result<()> {
    bed.apply(CLUSTER_API_KINDS).await?;
    let components = release::components(bed, release).await?;
    // Namespace and kinds come first in the file, but a kind takes a moment until its objects are accepted.
    wait_until("the provider's components to be accepted", ESTABLISHED_LIMIT, async || {
        bed.apply(&components).await.map_err(|error| error.to_string())
    })
    .await?;
    bed.kubectl(["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]).await?;
    Ok(())
}
