//! The demo: real Cluster API machines become nodes on simulated servers, before one's eyes.
//!
//! Every line that says `ok` is decided by somebody who is neither the manager nor the simulator: `kubectl` for
//! objects, SHA-256 of the disk files for images ([`crate::stack::disk`]), the journal of the BMCs for power.

mod autoscale;
pub(crate) mod judge;
mod load;
mod scene;
pub(crate) mod screen;
mod stage;
mod table;
pub(crate) mod view;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::error::Error;
use scene::Scene;
use screen::Screen;
use stage::Stage;

const HOSTS: usize = 8;
const RACKS: usize = 3;
const CLUSTER: &str = "demo";
const DEPLOYMENT: &str = "demo-workers";

/// What the cluster's control plane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ControlPlaneKind {
    /// A KubeadmControlPlane whose machine runs on a host of the fleet.
    Kubeadm,
    /// A stand-in: a real API server beside the fleet, that nobody manages.
    External,
}

/// What is broken on purpose, to show that the demo does not call it done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Break {
    /// The image server is off.
    ImageServer,
    /// One bit of the image is flipped where it is served.
    ImageByte,
}

/// How the demo is run.
#[derive(Args, Clone, Debug)]
pub struct DemoOptions {
    /// Ends after the last step: exit code 0 if every step really happened. Otherwise everything stays up until Ctrl-C.
    #[arg(long)]
    pub oneshot: bool,
    /// Shows the autoscaler instead: pods that wait raise a MachineDeployment from zero, and idleness lowers it.
    #[arg(long, conflicts_with = "control_plane")]
    pub autoscale: bool,
    /// What the cluster's control plane is.
    #[arg(long, value_enum, default_value_t = ControlPlaneKind::Kubeadm)]
    pub control_plane: ControlPlaneKind,
    /// Breaks something on purpose; the demo must then fail.
    #[arg(long = "break", value_enum, value_name = "WHAT")]
    pub broken: Option<Break>,
    /// Release folder of the provider [default: release/ of this repository, made anew when it is stale]
    #[arg(long, value_name = "FOLDER")]
    pub release: Option<PathBuf>,
    /// Leaves the folder with all logs behind also when everything went well.
    #[arg(long)]
    pub keep: bool,
}

/// Why the demo failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something could not be done at all.
    Error(Error),
    /// Something is not as it should be.
    Unmet { expected: String, seen: String },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Unmet { expected, seen } => write!(f, "expected: {expected}\n  seen:     {seen}"),
        }
    }
}

/// A demo of which every step happened, and everything in it still runs. Dropping it ends it all.
pub struct Standing {
    cast: Cast,
    screen: Screen,
}

/// What runs.
enum Cast {
    Machines(Box<Scene>),
    Autoscaler(Box<Stage>),
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").finish_non_exhaustive()
    }
}

impl Standing {
    /// Ends everything, in order.
    pub async fn end(self) {
        match self.cast {
            Cast::Machines(scene) => scene.end().await,
            Cast::Autoscaler(stage) => stage.end().await,
        }
    }

    /// Says what to try, and returns when something ended that should not.
    pub async fn stay(self) {
        let mut screen = self.screen;
        match self.cast {
            Cast::Machines(mut scene) => {
                scene.invite(&mut screen);
                let failure = scene.stay().await;
                scene.report(&mut screen, &failure);
            }
            Cast::Autoscaler(mut stage) => {
                stage.invite(&mut screen);
                let failure = stage.stay(&mut screen).await;
                stage.report(&mut screen, &failure);
            }
        }
    }
}

/// Runs the demo. `None`: it failed, and has said why.
pub async fn run(options: &DemoOptions) -> Option<Standing> {
    let mut screen = Screen::new();
    let cast = if options.autoscale {
        Cast::Autoscaler(Box::new(autoscale::run(options, &mut screen).await?))
    } else {
        Cast::Machines(Box::new(machines(options, &mut screen).await?))
    };
    screen.say(&format!("\nEvery step happened, in {:.1} s.", screen.elapsed().as_secs_f32()));
    Some(Standing { cast, screen })
}

/// Machines become nodes.
async fn machines(options: &DemoOptions, screen: &mut Screen) -> Option<Scene> {
    screen.say(&format!(
        "Ferric demo: {HOSTS} simulated servers in {RACKS} racks; real etcd, Kubernetes {}, Cluster API {}.",
        crate::assets::KUBERNETES_VERSION,
        crate::assets::CLUSTER_API_VERSION
    ));
    screen.say(match options.control_plane {
        ControlPlaneKind::Kubeadm => "The cluster's control plane: KubeadmControlPlane, one machine on a host.",
        ControlPlaneKind::External => {
            "The cluster's control plane: a stand-in, a real API server beside the fleet; workers are on hosts."
        }
    });
    let mut scene = match Scene::set(options, screen).await {
        Ok(scene) => scene,
        Err(failure) => {
            screen.failed();
            screen.say(&format!("  {failure}"));
            return None;
        }
    };
    match play(options, &mut scene, screen).await {
        Ok(()) => Some(scene),
        Err(failure) => {
            scene.report(screen, &failure);
            None
        }
    }
}

/// The steps, once everything is up.
async fn play(options: &DemoOptions, scene: &mut Scene, screen: &mut Screen) -> Result<(), Failure> {
    const ENROL: Duration = Duration::from_secs(180);
    const CREATE: Duration = Duration::from_secs(120);
    const MACHINES: Duration = Duration::from_secs(300);

    screen.step("Hosts: kubectl apply of 8 BareMetalHosts; each is registered, inspected, cleaned", ENROL);
    scene.enrol(screen, ENROL).await?;

    scene.break_it(options.broken, screen).await;
    screen.step("Cluster: clusterctl generate cluster demo | kubectl apply", CREATE);
    scene.create_cluster(options.control_plane, screen).await?;
    let control_plane = usize::from(options.control_plane == ControlPlaneKind::Kubeadm);

    screen.step("Machines: claimed hosts are written, started and join", MACHINES);
    scene.reach(screen, 2, control_plane, MACHINES).await?;
    for replicas in [4, 1] {
        screen.step(
            &format!("Scale: kubectl scale machinedeployment {DEPLOYMENT} --replicas={replicas}"),
            MACHINES,
        );
        scene.scale(replicas).await?;
        scene.reach(screen, replicas, control_plane, MACHINES).await?;
    }
    screen.say("\nclusterctl describe cluster demo");
    let description = scene.describe().await?;
    for line in description.lines() {
        screen.say(&format!("  {}", line.trim_end()));
    }
    Ok(())
}
