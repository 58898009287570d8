//! The demo of the autoscaler: pods that wait raise a MachineDeployment from zero, and idleness lowers it.
//!
//! As in the other demo, every line that says `ok` is decided by somebody who is not the manager: objects are read from
//! both API servers as an administrator, who runs is decided by the real kube-scheduler, power is read from the
//! simulator's control API and from the journal of its BMCs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::judge::{self, Goal};
use super::load::{self, Load};
use super::scene::{unmet, within};
use super::screen::Screen;
use super::stage::{HOSTS, RACKS, Seen, Stage};
use super::{DEPLOYMENT, DemoOptions, Failure};
use crate::assets::{CLUSTER_API_VERSION, KUBERNETES_VERSION};
use crate::stack::disk;

/// The load: so many pods, two of which fit on a server.
const PODS: usize = 6;
const SERVERS: usize = PODS / 2;
const ENROL: Duration = Duration::from_secs(180);
const CREATE: Duration = Duration::from_secs(180);
/// Anything that kube-scheduler or the autoscaler decides.
const DECIDE: Duration = Duration::from_secs(60);
/// Machines that come or go.
const MACHINES: Duration = Duration::from_secs(180);

/// A row of the table at the end.
struct Act {
    what: &'static str,
    pods: usize,
    replicas: (i64, i64),
    nodes: usize,
    lit: usize,
    took: Duration,
}

/// Plays it. `None`: it failed, and has said why.
pub(super) async fn run(options: &DemoOptions, screen: &mut Screen) -> Option<Stage> {
    screen.say(&format!(
        "Ferric demo of the autoscaler: {HOSTS} simulated servers in {RACKS} racks; real etcd, Kubernetes \
         {KUBERNETES_VERSION} with kube-scheduler, Cluster API {CLUSTER_API_VERSION}.\nPods run without containers. \
         Times are short: nodes go when they were not needed for 3 s (by default half an hour)."
    ));
    let mut stage = match Stage::set(options, screen).await {
        Ok(stage) => stage,
        Err(failure) => {
            screen.failed();
            screen.say(&format!("  {failure}"));
            return None;
        }
    };
    match stage.play(options, screen).await {
        Ok(()) => Some(stage),
        Err(failure) => {
            stage.report(screen, &failure);
            None
        }
    }
}

impl Stage {
    async fn play(&mut self, options: &DemoOptions, screen: &mut Screen) -> Result<(), Failure> {
        screen.step("Hosts: each is registered, inspected, cleaned and switched off", ENROL);
        self.enrol().await?;
        self.follow(screen, "all hosts available and off", ENROL, |seen| {
            judge::all_available(&seen.view, HOSTS).and_then(|()| lit(seen, 0))
        })
        .await?;
        screen.done(&format!("{HOSTS} hosts are available; by the simulator none is on"));

        self.break_it(options.broken, screen).await;
        screen.step(
            "Cluster: a MachineDeployment with 0 replicas, a NodeGroupAutoscaler, kube-scheduler",
            CREATE,
        );
        within("the cluster to be created", CREATE, self.create_cluster()).await?;
        self.follow(screen, "the group to be watched, at 0 replicas", CREATE, |seen| {
            let Load { group, offered, .. } = &seen.load;
            let known = (group.on_hold.as_deref(), group.usable, offered.is_some());
            if known != (None, Some(HOSTS as i64), true) {
                return Err(format!(
                    "on hold, usable hosts, whether a machine's processors are known: {known:?}"
                ));
            }
            seen.load.settled(0).and_then(|()| at(0, seen))
        })
        .await?;
        screen.done("no Machine, no Node; the group knows what a machine would offer, and 6 hosts for it");

        let acts = [self.raise(screen).await?, self.empty_a_node(screen).await?, self.lower(screen).await?];
        self.summary(screen, &acts);
        Ok(())
    }

    /// Pods that nobody can run make machines.
    async fn raise(&mut self, screen: &mut Screen) -> Result<Act, Failure> {
        screen.step(
            &format!(
                "Load: {PODS} pods, each of two fifths of a server: {SERVERS} servers, and there is no node"
            ),
            MACHINES,
        );
        let begin = Instant::now();
        self.create_load(PODS, 2 * self.seen.load.offered.unwrap_or_default() / 5).await?;
        let what = "kube-scheduler to find no node for the pods";
        self.follow(screen, what, DECIDE, |seen| seen.load.refused(PODS).map(drop)).await?;
        screen.good(&format!("API server: {PODS} pods are Unschedulable, says kube-scheduler"));

        let (known, why) = (0, ("Up", "UnschedulablePods"));
        let change = (0, SERVERS as i64);
        self.follow(screen, &format!("the group to be raised to {SERVERS}"), DECIDE, |seen| {
            seen.load.decided(known, why, change).map(drop)
        })
        .await?;
        screen.good(&format!("the group was raised from 0 to {SERVERS}, for pods that wait"));

        let what = format!(
            "{PODS} pods running on {SERVERS} Nodes of {SERVERS} Machines, every other host available"
        );
        self.follow(screen, &what, MACHINES, |seen| {
            at(SERVERS, seen).and_then(|()| seen.load.runs(PODS, SERVERS)).and_then(|()| lit(seen, SERVERS))
        })
        .await?;
        // Where that is all there is, nothing more may have been ordered.
        self.seen.load.decided(known, why, change).map_err(|seen| unmet("no more than was needed", seen))?;
        screen.done(&format!("API servers: {what}"));
        for machine in &self.seen.view.machines {
            let id = judge::provider_id(&self.seen.view, machine)
                .map_err(|seen| unmet("one providerID everywhere", seen))?;
            let journal = self.simulator().journal(&machine.host, 0).await?;
            judge::runs_from_disk(&journal)
                .map_err(|seen| unmet(&format!("{} to run from its disk", machine.host), seen))?;
            screen.good(&format!("{}: BMC journal: on, booted from disk; its Node has {id}", machine.host));
        }
        let racks = judge::spread(&self.seen.view, DEPLOYMENT)
            .map_err(|seen| unmet("machines spread over the racks", seen))?;
        screen.good(&format!("the machines are in {}", racks.join(", ")));
        Ok(self.act("6 pods wait", change, begin))
    }

    /// With half of the pods, one on each node, two nodes will do: one is emptied.
    async fn empty_a_node(&mut self, screen: &mut Screen) -> Result<Act, Failure> {
        let left = SERVERS - 1;
        screen.step(
            &format!("Less load: {SERVERS} pods, one on each node; {left} servers would do for them"),
            MACHINES,
        );
        let begin = Instant::now();
        let nodes = self.seen.load.by_node();
        let kept: Vec<String> =
            nodes.values().filter_map(|pods| pods.first()).map(|pod| (*pod).to_owned()).collect();
        self.keep(&kept).await?;
        let (before, marks, known) =
            (self.seen.clone(), self.marks().await?, self.seen.load.group.decisions.len());
        self.scale_load(SERVERS).await?;
        let what = format!("{SERVERS} pods on {left} Nodes, one Machine gone, its host available and off");
        self.follow(screen, &what, MACHINES, |seen| {
            at(left, seen).and_then(|()| seen.load.runs(SERVERS, left)).and_then(|()| lit(seen, left))
        })
        .await?;
        screen.done(&format!("API servers: {what}"));
        let stayed = self.seen.load.pods.iter().filter(|pod| kept.contains(&pod.name)).count();
        if stayed != left {
            let seen = format!("of {} there are {:?}", kept.join(", "), self.seen.load.by_node());
            return Err(unmet(&format!("{left} pods to have stayed, and one to have moved"), seen));
        }
        screen
            .good(&format!("{stayed} pods stayed where they were; the other was evicted and runs elsewhere"));
        self.judge_lowered(screen, &before, &marks, known, (SERVERS as i64, left as i64)).await?;
        Ok(self.act("half of them end", (SERVERS as i64, left as i64), begin))
    }

    /// Without pods there is nothing left.
    async fn lower(&mut self, screen: &mut Screen) -> Result<Act, Failure> {
        screen.step("Idle: no pod at all", MACHINES);
        let begin = Instant::now();
        let (before, marks, known) =
            (self.seen.clone(), self.marks().await?, self.seen.load.group.decisions.len());
        self.scale_load(0).await?;
        let what = format!("no pod, no Node, no Machine; {HOSTS} hosts available, none on");
        self.follow(screen, &what, MACHINES, |seen| {
            at(0, seen).and_then(|()| seen.load.runs(0, 0)).and_then(|()| lit(seen, 0))
        })
        .await?;
        screen.done(&format!("API servers and simulator: {what}"));
        let from = before.view.machines.len() as i64;
        self.judge_lowered(screen, &before, &marks, known, (from, 0)).await?;
        Ok(self.act("the others end", (from, 0), begin))
    }

    /// The group was lowered because nodes were not needed, and each server that is free now was stopped and cleaned.
    async fn judge_lowered(
        &self,
        screen: &mut Screen,
        before: &Seen,
        marks: &BTreeMap<String, u64>,
        known: usize,
        change: (i64, i64),
    ) -> Result<(), Failure> {
        let (from, to) = change;
        let decided = self.seen.load.decided(known, ("Down", "Unneeded"), change);
        let decided =
            decided.map_err(|seen| unmet(&format!("the group to be lowered from {from} to {to}"), seen))?;
        let gone = |name: &str| !self.seen.view.machines.iter().any(|machine| machine.name == name);
        for machine in before.view.machines.iter().filter(|machine| gone(&machine.name)) {
            let (name, host) = (&machine.name, &machine.host);
            if !decided.iter().any(|decision| decision.message.contains(name.as_str())) {
                let seen: Vec<String> = decided.iter().map(load::tell).collect();
                return Err(unmet(&format!("{name} to be gone because it was decided"), seen.join("; ")));
            }
            let journal = self.simulator().journal(host, marks.get(host).copied().unwrap_or(0)).await?;
            judge::was_stopped_and_cleaned(&journal)
                .map_err(|seen| unmet(&format!("{host} to be stopped, cleaned and off"), seen))?;
            disk::is_wiped(self.simulator().disk(host)?)
                .map_err(|seen| unmet(&format!("the disk of {host} to be wiped"), seen))?;
            screen.good(&format!(
                "{host}: {name} is gone as decided; BMC journal: off, agent, off; disk wiped"
            ));
        }
        Ok(())
    }

    fn act(&self, what: &'static str, replicas: (i64, i64), begin: Instant) -> Act {
        Act {
            what,
            pods: self.seen.load.pods.len(),
            replicas,
            nodes: self.seen.view.nodes.len(),
            lit: count_lit(&self.seen),
            took: begin.elapsed(),
        }
    }

    fn summary(&self, screen: &mut Screen, acts: &[Act]) {
        screen.say("\nWHAT HAPPENED     PODS  REPLICAS  NODES  SERVERS ON  TOOK");
        for act in acts {
            let replicas = format!("{} -> {}", act.replicas.0, act.replicas.1);
            let (on, took) = (format!("{} of {HOSTS}", act.lit), act.took.as_secs_f32());
            screen.say(&format!(
                "{:<16}  {:>4}  {replicas:<8}  {:>5}  {on:<10}  {took:.1} s",
                act.what, act.pods, act.nodes
            ));
        }
        screen.say("\nDECIDED (status.history of the NodeGroupAutoscaler)");
        for decision in &self.seen.load.group.decisions {
            screen.say(&format!("{}  {}", decision.at, load::tell(decision)));
        }
    }
}

/// Whether exactly so many machines are there and run, every other host is free, and the group stands there too.
fn at(workers: usize, seen: &Seen) -> Result<(), String> {
    let goal = Goal { deployment: DEPLOYMENT, workers, control_plane: 0 };
    goal.reached(&seen.view).and_then(|()| seen.load.settled(workers as i64))
}

fn count_lit(seen: &Seen) -> usize {
    seen.view.hosts.iter().filter(|host| host.power != "Off").count()
}

/// Whether, by the simulator, so many servers are on: those of machines.
fn lit(seen: &Seen, wanted: usize) -> Result<(), String> {
    let on = seen.view.hosts.iter().filter(|host| host.power == "On" && seen.view.machine_of(host).is_some());
    match (on.count(), count_lit(seen)) {
        found if found == (wanted, wanted) => Ok(()),
        (working, lit) => Err(format!("{lit} servers are on, {working} of them have a Machine")),
    }
}
