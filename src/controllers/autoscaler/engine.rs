//! One cluster: look, decide, carry out, say; again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric_api::autoscaling::NodeGroupAutoscalerStatus;
use jiff::Timestamp;
use kube::ResourceExt;
use tokio_util::sync::CancellationToken;

use super::AutoscalerContext;
use super::carry_out::Outcome;
use super::connect::Connection;
use super::queries;
use super::workload::{Workload, usage};
use crate::autoscaling::gather::{self, Gathered, NodeFacts, Objects, Unable};
use crate::autoscaling::pools;
use crate::autoscaling::schedule::Cluster;
use crate::autoscaling::triggers::Reading;
use crate::autoscaling::{
    Decisions, Group, GroupMemory, Learned, Memory, NodeState, Past, Policy, View, decide, startup,
};
use crate::key::Key;

/// How long a node that could not be emptied is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(1800);

/// What is kept of a cluster between two rounds.
pub(super) struct Engine {
    pub(super) context: Arc<AutoscalerContext>,
    pub(super) cluster: Key,
    connection: Connection,
    pub(super) memory: Memory,
    /// How long machines took, by group.
    pub(super) learned: BTreeMap<String, Learned>,
    /// Nodes that were given back since they could not be emptied, and until when they are left alone.
    pub(super) left_alone: BTreeMap<String, Instant>,
}

/// What a round found of the workload cluster.
pub(super) struct Decided {
    pub(super) decisions: Decisions,
    /// Pods that must leave each node that is being emptied, `(namespace, name)`.
    pub(super) to_evict: BTreeMap<String, Vec<(String, String)>>,
    /// Pods that are left on each of them, those that are leaving included.
    pub(super) left: BTreeMap<String, usize>,
}

/// Runs a cluster's engine until it has no autoscalers any more, or until `stop`.
pub(super) async fn run(context: Arc<AutoscalerContext>, cluster: Key, stop: CancellationToken) {
    tracing::info!(%cluster, "autoscaling begins");
    let interval = context.interval;
    let mut engine = Engine {
        context,
        cluster,
        connection: Connection::default(),
        memory: Memory::default(),
        learned: BTreeMap::new(),
        left_alone: BTreeMap::new(),
    };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let objects = engine.context.objects(&engine.cluster);
        let begun = Instant::now();
        let label = if engine.round(&objects).await { "done" } else { "wait" };
        engine.context.metrics.reconciled("autoscaler", label, begun.elapsed());
        if objects.autoscalers.is_empty() {
            tracing::info!(cluster = %engine.cluster, "autoscaling ends: no NodeGroupAutoscaler is left");
            return;
        }
    }
}

impl Engine {
    /// Looks, decides, carries out and says. False: the cluster could not be judged.
    async fn round(&mut self, objects: &Objects) -> bool {
        let seen = self.see().await;
        let nodes = match &seen {
            Ok(workload) => workload.seen().nodes.clone(),
            Err(_) => BTreeMap::new(),
        };
        if let Ok(workload) = &seen {
            self.tidy(objects, &nodes, workload).await;
        }
        self.remember(objects);
        let now = Timestamp::now();
        let neighbours = self.context.neighbours(&self.cluster);
        let standby = pools::plan(&neighbours, now);
        let gathered = gather::groups(objects, &nodes, &standby);
        let held = |(name, group): (&String, &Result<Gathered, Unable>)| {
            let held = group.as_ref().map_or(true, |gathered| gathered.group.hold.is_some());
            held.then(|| name.clone())
        };
        let held: BTreeSet<String> = gathered.iter().filter_map(held).collect();
        self.stand_by(&neighbours, &standby, &held).await;
        let mut found: Vec<Gathered> = Vec::new();
        let mut unable: Vec<(String, Unable)> = Vec::new();
        for (name, group) in gathered {
            match group {
                Ok(mut group) => {
                    let learned = self.learned.entry(name).or_default();
                    if seen.is_ok() {
                        learned.see(&group.arrivals, now);
                    }
                    group.group.boot = learned.sketch.clone();
                    let name = format!("{}/{}", self.cluster.namespace, group.group.name);
                    let quarantined = standby.groups.get(&name).map_or(0, |has| has.quarantined);
                    self.quarantined(&group.group.name, Some(quarantined));
                    found.push(group);
                }
                Err(why) => {
                    self.quarantined(&name, None);
                    unable.push((name, why));
                }
            }
        }
        let groups: Vec<Group> = found.iter().map(|gathered| gathered.group.clone()).collect();
        let readings = queries::ask(&self.context.client, &self.cluster.namespace, &groups).await;
        let usage = match &seen {
            Ok(workload) if queries::wants_usage(&groups) => usage(workload.client()).await,
            _ => None,
        };
        let (reachable, why) = match &seen {
            Ok(workload) => (Some(workload.clone()), String::new()),
            Err(why) => (None, why.clone()),
        };
        let round = Round {
            now,
            workload: reachable.clone(),
            why,
            found: found.clone(),
            policies: gather::policies(objects),
            nodes: self.states(&nodes),
            readings,
            usage,
            memory: self.memory.clone(),
        };
        // A large cluster takes a good part of a second, which no other task should wait for.
        let Ok((decided, memory)) = tokio::task::spawn_blocking(move || round.decide()).await else {
            tracing::error!(cluster = %self.cluster, "deciding failed");
            return false;
        };
        let before = std::mem::replace(&mut self.memory, memory);
        for (gathered, verdict) in found.iter().zip(&decided.decisions.groups) {
            let outcome = match &reachable {
                Some(workload) => self.carry_out(gathered, verdict, &decided, workload, now).await,
                None => Outcome::default(),
            };
            if outcome.failed.is_some() {
                // What was not done does not count for the pace of what is to be done.
                self.restore(&before, &gathered.group.name);
            }
            self.say(objects, gathered, verdict, &decided, &outcome, now).await;
        }
        for (name, why) in &unable {
            if let Some(workload) = &reachable {
                self.take_back(objects, &nodes, name, workload).await;
            }
            self.say_unable(objects, name, why, now).await;
        }
        self.say_policies(objects, &groups).await;
        reachable.is_some()
    }

    /// The workload cluster, if what is known of it is what is there.
    async fn see(&mut self) -> Result<Arc<Workload>, String> {
        let workload = self.connection.workload(&self.context.client, &self.cluster).await?;
        workload.fresh().await.map_err(|error| error.to_string())?;
        Ok(workload)
    }

    fn quarantined(&self, group: &str, hosts: Option<i32>) {
        self.context.metrics.node_group_quarantined(&self.cluster.namespace, group, hosts);
    }

    /// Takes up what a status kept, of groups that are new here.
    fn remember(&mut self, objects: &Objects) {
        for autoscaler in &objects.autoscalers {
            let (name, status) = (autoscaler.name_any(), autoscaler.status.as_ref());
            self.learned
                .entry(name.clone())
                .or_insert_with(|| Learned::of(status.and_then(|status| status.boot_seconds.as_ref())));
            self.memory.groups.entry(name).or_insert_with(|| GroupMemory {
                past: status.map(changes).unwrap_or_default(),
                ..GroupMemory::default()
            });
        }
        let (context, namespace) = (&self.context, &self.cluster.namespace);
        self.learned.retain(|name, _| {
            let known = objects.autoscalers.iter().any(|known| known.name_any() == *name);
            if !known {
                // Of a group that is no more no number is shown, nor does an alert go on about it.
                context.metrics.node_group_gone(namespace, name);
            }
            known
        });
    }

    fn restore(&mut self, before: &Memory, group: &str) {
        let past = before.groups.get(group).map(|memory| memory.past.clone());
        if let (Some(past), Some(memory)) = (past, self.memory.groups.get_mut(group)) {
            memory.past = past;
        }
    }

    /// What decisions look at of nodes.
    fn states(&mut self, nodes: &BTreeMap<String, NodeFacts>) -> BTreeMap<String, NodeState> {
        let now = Instant::now();
        self.left_alone.retain(|_, until| *until > now);
        let state = |(name, facts): (&String, &NodeFacts)| {
            (name.clone(), facts.state(self.left_alone.contains_key(name)))
        };
        nodes.iter().map(state).collect()
    }

    /// Nodes that are being emptied for a group that is no more are given back.
    async fn tidy(&mut self, objects: &Objects, nodes: &BTreeMap<String, NodeFacts>, workload: &Workload) {
        for (node, facts) in nodes {
            let Some((group, _)) = &facts.draining else { continue };
            if objects.autoscalers.iter().all(|autoscaler| autoscaler.name_any() != *group) {
                self.give_back(workload, node, group, "its NodeGroupAutoscaler is no more").await;
            }
        }
    }

    /// Nodes that are being emptied for a group that has nothing to scale any more are given back, but those whose Machines go.
    async fn take_back(
        &mut self,
        objects: &Objects,
        nodes: &BTreeMap<String, NodeFacts>,
        group: &str,
        workload: &Workload,
    ) {
        let goes = |node: &str| {
            objects.machines.iter().any(|machine| {
                let of = machine.status.as_ref().and_then(|status| status.node_ref.as_ref());
                machine.metadata.deletion_timestamp.is_some() && of.is_some_and(|of| of.name == node)
            })
        };
        let drained = |facts: &NodeFacts| facts.draining.as_ref().is_some_and(|(of, _)| of == group);
        for (node, _) in nodes.iter().filter(|(node, facts)| drained(facts) && !goes(node)) {
            self.give_back(workload, node, group, "its group has nothing to scale").await;
        }
    }

    /// Until when a node that was given back is left alone.
    pub(super) fn leave_alone(&mut self, node: &str) {
        self.left_alone.insert(node.to_owned(), Instant::now() + LEFT_ALONE);
    }
}

/// What was done lately, as a status keeps it.
pub(crate) fn changes(status: &NodeGroupAutoscalerStatus) -> Past {
    Past::of_changes(status.history.iter().map(|decision| (decision.time.0, decision.to - decision.from)))
}

/// All that a decision is made of, away from the async tasks.
struct Round {
    now: Timestamp,
    workload: Option<Arc<Workload>>,
    /// Why there is no workload.
    why: String,
    found: Vec<Gathered>,
    policies: Vec<Policy>,
    nodes: BTreeMap<String, NodeState>,
    readings: BTreeMap<(String, String), Reading>,
    usage: Option<BTreeMap<String, BTreeMap<String, f64>>>,
    memory: Memory,
}

impl Round {
    fn decide(mut self) -> (Decided, Memory) {
        // A copy, so that the watches are not held up meanwhile.
        let mut cluster = self.workload.as_ref().map(|workload| workload.seen().cluster.clone());
        if let Some(cluster) = &mut cluster {
            startup::settle(cluster, &self.nodes, self.now);
        }
        let mut groups = Vec::new();
        for gathered in &self.found {
            let mut group = gathered.group.clone();
            if let Some(cluster) = &mut cluster {
                let (like, machines) = (gathered.template.as_ref(), &group.machines);
                startup::complete(cluster, like, machines, &self.nodes, self.now);
                group.template = template(gathered, &self.nodes, cluster);
            }
            groups.push(group);
        }
        let view = View {
            now: self.now,
            groups: &groups,
            policies: &self.policies,
            cluster: cluster.as_ref().ok_or(self.why),
            nodes: &self.nodes,
            readings: &self.readings,
            usage: self.usage.as_ref(),
        };
        let decisions = decide(&view, &mut self.memory);
        let mut decided = Decided { decisions, to_evict: BTreeMap::new(), left: BTreeMap::new() };
        if let Some(cluster) = &cluster {
            for drain in self.found.iter().flat_map(|gathered| &gathered.drains) {
                let mut pods = Vec::new();
                let mut left = 0;
                for (namespace, pod) in cluster.pods_on(&drain.node) {
                    if pod.drain.goes_along() {
                        continue;
                    }
                    left += 1;
                    if !pod.drain.terminating {
                        pods.push((namespace.to_owned(), pod.name.to_string()));
                    }
                }
                decided.to_evict.insert(drain.node.clone(), pods);
                decided.left.insert(drain.node.clone(), left);
            }
        }
        (decided, self.memory)
    }
}

/// A node that the group would get: like one that it has, or as its template says.
pub(crate) fn template(
    gathered: &Gathered,
    nodes: &BTreeMap<String, NodeState>,
    cluster: &mut Cluster,
) -> Option<crate::autoscaling::schedule::model::Node> {
    let like = like(gathered, nodes).and_then(|name| cluster.another(name));
    like.or_else(|| gathered.template.as_ref().map(|node| cluster.template(node)))
}

/// A ready node of the group, which one that is added would be like.
pub(crate) fn like<'a>(gathered: &'a Gathered, nodes: &BTreeMap<String, NodeState>) -> Option<&'a str> {
    let ready = |name: &&str| nodes.get(*name).is_some_and(|state| state.ready);
    let machines = gathered.group.machines.iter().filter(|machine| !machine.deleting);
    machines.filter_map(|machine| machine.node.as_deref()).find(ready)
}
