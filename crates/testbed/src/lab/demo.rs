//! The demo on virtual servers: a machine of Cluster API becomes a node with a real kubelet, and goes again.
//!
//! As in the other demo, every line that says `ok` is decided by somebody who is not the manager: `kubectl` for objects,
//! libvirt for power, the file of the disk for what was written, the serial port for what ran.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::domain::ServerSpec;
use super::stack::{LabStack, wait_for};
use crate::demo::judge::{self, Goal};
use crate::demo::screen::Screen;
use crate::demo::view::View;
use crate::error::{Error, Result};
use crate::stack::{Created, disk};

const CLUSTER: &str = "lab";
const DEPLOYMENT: &str = "lab-workers";
const SERVERS: [&str; 2] = ["vm-1", "vm-2"];
const START: Duration = Duration::from_secs(300);
const ENROL: Duration = Duration::from_secs(600);
const CREATE: Duration = Duration::from_secs(120);
const JOIN: Duration = Duration::from_secs(900);
const RELEASE: Duration = Duration::from_secs(600);
const OFF: Duration = Duration::from_secs(60);
const PERIOD: Duration = Duration::from_secs(1);
const KINDS: &str = "baremetalhosts.infrastructure.cluster.x-k8s.io,\
                     baremetalmachines.infrastructure.cluster.x-k8s.io,machines.cluster.x-k8s.io,\
                     machinedeployments.cluster.x-k8s.io,clusters.cluster.x-k8s.io";

/// Plays it inside a lab. With `oneshot` it ends after the last step, else all stays up for ever.
pub async fn play(oneshot: bool) -> Result<()> {
    let mut screen = Screen::new();
    screen.say(&format!(
        "Ferric demo: {} virtual servers with UEFI; BMCs by sushy-tools over libvirt; Kubernetes {}, Cluster API {}.",
        SERVERS.len(),
        crate::assets::KUBERNETES_VERSION,
        crate::assets::CLUSTER_API_VERSION
    ));
    let played = scenes(&mut screen, oneshot).await;
    if played.is_err() {
        screen.failed();
    }
    played
}

async fn scenes(screen: &mut Screen, oneshot: bool) -> Result<()> {
    screen.step(
        "Lab: management plane, libvirt, sushy-tools, a DHCP server, the manager, an image server",
        START,
    );
    let servers = SERVERS.map(ServerSpec::new).to_vec();
    let mut stack = LabStack::builder().servers(servers).start().await?;
    screen.done(&format!("up; image {} ({} bytes) at {}", stack.format, stack.image.size, stack.image.url));
    let played = acts(screen, &mut stack).await;
    let cluster = match played {
        Ok(cluster) => cluster,
        Err(error) => {
            stack.bed.keep_folder();
            for server in stack.lab.servers() {
                screen.say(&format!(
                    "--- the end of what {} printed\n{}",
                    server.spec.name,
                    server.last_lines(15)
                ));
            }
            screen.say(&format!("--- the end of the manager's log\n{}", stack.manager.log_tail()));
            return Err(error);
        }
    };
    screen.say(&format!("\nEvery step happened, in {:.0} s.", screen.elapsed().as_secs_f32()));
    if !oneshot {
        let world = super::world::inside().unwrap_or_default();
        screen.say(&format!(
            "Everything stays up until Ctrl-C. A shell inside: {}",
            world.join("enter").display()
        ));
        for line in stack.bed.shell_exports() {
            screen.say(&format!("  {line}"));
        }
        std::future::pending::<()>().await;
    }
    drop(cluster);
    stack.stop().await;
    Ok(())
}

async fn acts(screen: &mut Screen, stack: &mut LabStack) -> Result<Created> {
    screen.step(
        "Hosts: powered on by their BMCs, boot the agent from virtual media, are inspected and cleaned",
        ENROL,
    );
    stack.enrol().await?;
    follow(screen, stack, None, "all hosts available", ENROL, |view| {
        judge::all_available(view, SERVERS.len())
    })
    .await?;
    screen.done(&format!("kubectl: {} hosts are available", SERVERS.len()));

    screen.step(
        "Cluster: a real API server beside the servers; clusterctl generate cluster lab | kubectl apply",
        CREATE,
    );
    let cluster = stack.create_cluster(CLUSTER, 1).await?;
    screen.done(&format!("kubectl applied {} objects; endpoint {}", cluster.objects, cluster.endpoint));

    screen.step("Machine: a host is claimed and written, boots from its disk, its kubelet joins", JOIN);
    let what = "one Machine Running, its Node Ready, the Cluster Available";
    let goal = Goal { deployment: DEPLOYMENT, workers: 1, control_plane: 0 };
    let view = follow(screen, stack, Some(&cluster), what, JOIN, |view| goal.reached(view)).await?;
    screen.done(&format!("kubectl: {what}"));
    let machine = view.machines.first().ok_or_else(|| unmet(what, "there is no Machine"))?;
    let id = judge::provider_id(&view, machine).map_err(|seen| unmet("one providerID everywhere", &seen))?;
    let server = stack.lab.server(&machine.host)?.clone();
    let version =
        workload_kubectl(stack, &cluster, &["get", "nodes", "-o", "jsonpath={.items[0].status.nodeInfo}"]);
    let version: Value = serde_json::from_str(&version.await?).unwrap_or_default();
    screen.good(&format!(
        "Node {} has {id}; kubelet {}, {}, kernel {}",
        machine.node,
        text(&version["kubeletVersion"]),
        text(&version["containerRuntimeVersion"]),
        text(&version["kernelVersion"])
    ));
    if !server.is_on().await? {
        return Err(unmet(&format!("{} to be on", machine.host), "libvirt says that it is off"));
    }
    screen.good(&format!("libvirt: {} is on; address {}", machine.host, server.address));

    screen.step("Scale: kubectl scale machinedeployment lab-workers --replicas=0", RELEASE);
    stack.bed.kubectl(["scale", "machinedeployments.cluster.x-k8s.io", DEPLOYMENT, "--replicas=0"]).await?;
    let what = "no Machine, every host available";
    let goal = Goal { deployment: DEPLOYMENT, workers: 0, control_plane: 0 };
    follow(screen, stack, Some(&cluster), what, RELEASE, |view| goal.reached(view)).await?;
    screen.done(&format!("kubectl: {what}"));
    let path = server.disk(0).ok_or_else(|| unmet("a disk", "there is none"))?;
    disk::is_wiped(path)
        .map_err(|seen| unmet(&format!("the disk of {} to be wiped", server.spec.name), &seen))?;
    wait_for("the released server to be off", OFF, async || match server.is_on().await {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    screen
        .good(&format!("{}: both ends of the disk are zero; libvirt says that it is off", server.spec.name));
    Ok(cluster)
}

fn unmet(expected: &str, seen: &str) -> Error {
    Error::malformed(format!("the demo expected {expected}; what it saw"), seen)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

async fn workload_kubectl(stack: &LabStack, cluster: &Created, arguments: &[&str]) -> Result<String> {
    let workload = cluster.workload.as_ref().ok_or_else(|| unmet("a workload cluster", "there is none"))?;
    let kubeconfig = format!("--kubeconfig={}", workload.kubeconfig().display());
    stack.bed.kubectl([kubeconfig.as_str(), "--request-timeout=5s"].iter().chain(arguments)).await
}

/// Looks again and again and shows what is seen, until the goal is reached.
async fn follow(
    screen: &mut Screen,
    stack: &mut LabStack,
    cluster: Option<&Created>,
    what: &str,
    limit: Duration,
    goal: impl Fn(&View) -> Result<(), String>,
) -> Result<View> {
    let begin = Instant::now();
    loop {
        stack.manager.check()?;
        stack.lab.check()?;
        let parse = |json: &str| -> Result<Value> {
            serde_json::from_str(json).map_err(|error| Error::malformed("the answer of kubectl", error))
        };
        let objects = parse(&stack.bed.kubectl(["get", KINDS, "-n", "default", "-o", "json"]).await?)?;
        let nodes = match cluster {
            Some(cluster) => workload_kubectl(stack, cluster, &["get", "nodes", "-o", "json"]).await.ok(),
            None => None,
        };
        let nodes = nodes.as_deref().map(parse).transpose()?;
        let view = View::read(&objects, nodes.as_ref());
        screen.show(&view);
        let Err(seen) = goal(&view) else { return Ok(view) };
        if begin.elapsed() >= limit {
            let limit = limit.as_secs();
            return Err(unmet(&format!("{what} within {limit} s"), &seen));
        }
        tokio::time::sleep(PERIOD).await;
    }
}
