//! What runs from the disk: an operating system that does what its config drive says, as far as a Cluster API machine
//! needs it.

mod balancer;
mod components;
mod control_plane;
mod discovery;
mod etcd;
mod kube;
mod kubeadm;
mod node;
mod pki;
mod pods;
mod process;
mod static_pods;
mod user_data;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use ferric_image::ConfigDrive;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::control_plane::ControlPlaneRole;
use self::kubeadm::{INIT_FILE, JOIN_FILE, JoinConfiguration};
use self::node::NodeFacts;
use self::user_data::Instructions;
use self::worker::Identity;
use crate::life::Exit;
use crate::server::Server;

pub(crate) use self::balancer::Balancers;

/// How long the report of a lost node is tried.
const LOST_LIMIT: Duration = Duration::from_secs(30);
const LOST_PAUSE: Duration = Duration::from_millis(500);

/// The operating system of a server, while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OsStatus {
    /// Whether it runs.
    pub running: bool,
    /// Its host name.
    pub hostname: String,
    /// Instance ID of its config drive.
    pub instance_id: String,
    /// Its part in a Kubernetes cluster: empty, `worker` or `control-plane`.
    pub role: String,
    /// Name of its Node, once it is registered and ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What it is busy with, or why it came no further.
    pub message: String,
}

/// What a machine's data make of it.
enum Role {
    Plain,
    Worker(Box<JoinConfiguration>),
    ControlPlane(ControlPlaneRole),
}

/// Runs the operating system until it ends or the power goes.
pub(crate) async fn run(server: Arc<Server>, epoch: u64, cancel: CancellationToken) -> Exit {
    let delay = server.jitter(server.shared.config.delays.os_start, epoch);
    let body = body(&server, epoch, delay, &cancel);
    // Whatever it is busy with ends with the power.
    let left = tokio::select! {
        () = cancel.cancelled() => None,
        outcome = body => Some(outcome),
    };
    if let Some(Err(why)) = left {
        server.note_state("OSFailed", why.clone());
        server.update_os(epoch, |os| os.message = why);
        // As a real machine: it stays up, useless.
        cancel.cancelled().await;
    }
    if server.shared.shutdown.is_cancelled() {
        return Exit::PowerOff;
    }
    lost(&server);
    Exit::PowerOff
}

async fn body(
    server: &Arc<Server>,
    epoch: u64,
    delay: Duration,
    cancel: &CancellationToken,
) -> Result<(), String> {
    tokio::time::sleep(delay).await;
    let drive = config_drive(server).await?;
    let instructions = match &drive {
        Some(drive) => user_data::read(drive).map_err(|error| error.to_string())?,
        None => Instructions::default(),
    };
    let role = role(&instructions)?;
    let hostname = if instructions.hostname.is_empty() { &server.spec.name } else { &instructions.hostname };
    server.update_os(epoch, |os| {
        os.hostname.clone_from(hostname);
        os.instance_id.clone_from(&instructions.instance_id);
        os.role = match &role {
            Role::Plain => "",
            Role::Worker(_) => "worker",
            Role::ControlPlane(_) => "control-plane",
        }
        .to_owned();
        os.message = if drive.is_some() { String::new() } else { "no config drive on the disk".to_owned() };
    });
    if !matches!(role, Role::Plain) && server.faults().os_never_joins {
        return Err("simulated fault: this machine never joins its cluster".to_owned());
    }
    match role {
        Role::Plain => {
            server.note_state("OSUp", hostname.clone());
            cancel.cancelled().await;
            Ok(())
        }
        Role::Worker(join) => run_worker(server, epoch, &join, hostname).await,
        Role::ControlPlane(role) => control_plane::run(server, epoch, &role, &instructions, hostname).await,
    }
}

async fn config_drive(server: &Arc<Server>) -> Result<Option<ConfigDrive>, String> {
    let server = Arc::clone(server);
    let read = tokio::task::spawn_blocking(move || {
        let mut device = server.open_disk(0).map_err(|error| error.to_string())?;
        ferric_image::read_config_drive(&mut *device).map_err(|error| format!("the config drive: {error}"))
    });
    read.await.map_err(|error| error.to_string())?
}

/// What the instructions make of the machine: the commands decide, not the files alone.
fn role(instructions: &Instructions) -> Result<Role, String> {
    let missing = |path: &str| format!("kubeadm: {path} is missing or not readable");
    if instructions.runs("kubeadm init") {
        let text = instructions.text(INIT_FILE).ok_or_else(|| missing(INIT_FILE))?;
        let init =
            kubeadm::document(text, "InitConfiguration")?.ok_or_else(|| missing("InitConfiguration"))?;
        let cluster = kubeadm::document(text, "ClusterConfiguration")?.unwrap_or_default();
        return Ok(Role::ControlPlane(ControlPlaneRole::Init(Box::new(init), Box::new(cluster))));
    }
    if instructions.runs("kubeadm join") {
        let text = instructions.text(JOIN_FILE).ok_or_else(|| missing(JOIN_FILE))?;
        let join: JoinConfiguration =
            kubeadm::document(text, "JoinConfiguration")?.ok_or_else(|| missing("JoinConfiguration"))?;
        return Ok(if join.control_plane.is_some() {
            Role::ControlPlane(ControlPlaneRole::Join(Box::new(join)))
        } else {
            Role::Worker(Box::new(join))
        });
    }
    Ok(Role::Plain)
}

async fn run_worker(
    server: &Arc<Server>,
    epoch: u64,
    join: &JoinConfiguration,
    hostname: &str,
) -> Result<(), String> {
    let folder = server.os_folder();
    let identity = match Identity::load(&folder) {
        Some(identity) => identity,
        None => {
            let identity = worker::join(server, epoch, join, hostname).await?;
            identity.save(&folder)?;
            identity
        }
    };
    let mut facts = identity.facts(server);
    facts.taints = join.node_registration.taints.clone().unwrap_or_default();
    let kube = identity.kube()?;
    let word = server.node_word.lock().await;
    // As kubelet: it goes on trying for as long as it runs.
    while let Err(error) = node::register(&kube, &facts).await {
        server.update_os(epoch, |os| os.message = error.to_string());
        tokio::time::sleep(server.jitter(Duration::from_secs(1), epoch)).await;
    }
    drop(word);
    server.update_os(epoch, |os| {
        os.node = Some(identity.name.clone());
        os.message.clear();
    });
    server.note_state("NodeReady", identity.name.clone());
    keep_alive(server, kube, &facts).await
}

/// Renews the node's lease and tends its pods for as long as the machine runs.
async fn keep_alive(server: &Arc<Server>, kube: kube::Kube, facts: &NodeFacts) -> Result<(), String> {
    let (config, name) = (&server.shared.config, facts.name.as_str());
    if config.node_heartbeat.is_none() && config.node_pods.is_none() && facts.gpus == 0 {
        // Nothing to say: do not even keep the client.
        drop(kube);
        return std::future::pending().await;
    }
    let beats = async {
        let Some(every) = config.node_heartbeat else { return };
        loop {
            if let Err(error) = node::heartbeat(&kube, name).await {
                tracing::debug!(server = server.spec.name, %error, "heartbeat failed");
            }
            tokio::time::sleep(every).await;
        }
    };
    let pods = async {
        let Some(every) = config.node_pods else { return };
        loop {
            if let Err(error) = pods::tend(&kube, name).await {
                tracing::debug!(server = server.spec.name, %error, "pods not tended");
            }
            tokio::time::sleep(every).await;
        }
    };
    let devices = async {
        if facts.gpus == 0 {
            return;
        }
        // A device plugin is a pod itself.
        tokio::time::sleep(config.node_pods.unwrap_or_default()).await;
        while let Err(error) = node::plug_in(&kube, name, facts.gpus).await {
            tracing::debug!(server = server.spec.name, %error, "GPUs not reported");
            tokio::time::sleep(server.jitter(Duration::from_secs(1), 0)).await;
        }
    };
    tokio::join!(beats, pods, devices);
    // Without any of the others it just runs.
    std::future::pending().await
}

/// The power is gone: what the cluster would notice by itself after a while is said at once. Whoever still runs of the
/// cluster may be busy electing a new leader, so it is said again until it is heard, or the machine is back.
fn lost(server: &Arc<Server>) {
    let Some(identity) = Identity::load(&server.os_folder()) else { return };
    let server = Arc::clone(server);
    let tracker = server.shared.tracker.clone();
    tracker.spawn(async move {
        let _word = server.node_word.lock().await;
        let report = async {
            loop {
                let why = match report_lost(&identity).await {
                    Ok(()) => return server.note_state("NodeLost", identity.name.clone()),
                    Err(why) => why,
                };
                tracing::debug!(server = server.spec.name, why, "the node could not be reported lost");
                tokio::time::sleep(LOST_PAUSE).await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(LOST_LIMIT, report) => {}
            () = server.os_runs() => {}
            () = server.shared.shutdown.cancelled() => {}
        }
    });
}

async fn report_lost(identity: &Identity) -> Result<(), String> {
    match node::report_lost(&identity.kube()?, &identity.name).await {
        // Its Machine is gone already.
        Err(error) if error.status() == Some(404) => Ok(()),
        other => other.map_err(|error| error.to_string()),
    }
}
