//! A world on a simulated clock: groups whose machines take their time or never come, pods that come and go, and a
//! scheduler that places them. Whatever is decided is carried out, and what must always hold is checked at every step.

use std::collections::{BTreeMap, BTreeSet};

use ferric_api::autoscaling::NodeGroupAutoscalerSpec;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use crate::autoscaling::schedule::Cluster;
use crate::autoscaling::triggers::Reading;
use crate::autoscaling::{
    Change, Decisions, FreeHosts, Group, Machine, Memory, NodeState, Policy, Verdict, Victim, View, decide,
};

/// How the machines of a group fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Boot {
    /// They are nodes after so many seconds.
    After(i64),
    /// They never are.
    Never,
}

/// A node group of the world.
#[derive(Debug, Clone)]
pub(super) struct Rack {
    pub(super) group: Group,
    pub(super) node: Value,
    pub(super) boot: Boot,
    /// Hosts that it has in all.
    pub(super) hosts: i32,
    made: u32,
}

#[derive(Debug, Clone)]
struct Pod {
    object: Value,
    node: Option<String>,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) racks: Vec<Rack>,
    pub(super) policies: Vec<Policy>,
    pub(super) readings: BTreeMap<(String, String), Reading>,
    pub(super) memory: Memory,
    pods: BTreeMap<String, Pod>,
    budgets: Vec<Value>,
    /// Every change of a number: group, from, to.
    pub(super) changes: Vec<(String, i32, i32)>,
    /// Why the cluster cannot be seen.
    pub(super) blind: Option<String>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            now: "2026-11-20T12:00:00Z".parse().unwrap(),
            racks: Vec::new(),
            policies: Vec::new(),
            readings: BTreeMap::new(),
            memory: Memory::default(),
            pods: BTreeMap::new(),
            budgets: Vec::new(),
            changes: Vec::new(),
            blind: None,
        }
    }

    /// Adds a group of hosts with so many processors each, and as many GiB of memory, four times over.
    pub(super) fn rack(&mut self, name: &str, cpus: i64, hosts: i32, boot: Boot, spec: Value) -> &mut Rack {
        let mut merged = json!({
            "clusterName": "prod", "maxReplicas": 100, "actuationMode": "Direct",
            "scaleTargetRef": {"apiGroup": "cluster.x-k8s.io", "kind": "MachineDeployment", "name": name},
            "provisioning": {"maxInFlight": 1000},
        });
        for (key, value) in spec.as_object().unwrap() {
            merged[key] = value.clone();
        }
        let spec: NodeGroupAutoscalerSpec = serde_json::from_value(merged).unwrap();
        let offers =
            [("cpu", cpus.to_string()), ("memory", format!("{}Gi", cpus * 4)), ("pods", "110".to_owned())];
        let offers: BTreeMap<String, String> = offers.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let node = json!({
            "metadata": {"labels": {"rack": name, "topology.kubernetes.io/zone": name}},
            "status": {"allocatable": offers, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let group = Group {
            name: name.to_owned(),
            replicas: spec.min_replicas,
            spec,
            offers,
            domain: Some(name.to_owned()),
            ..Group::default()
        };
        self.racks.push(Rack { group, node, boot, hosts, made: 0 });
        self.racks.sort_by(|a, b| a.group.name.cmp(&b.group.name));
        self.settle();
        self.racks.iter_mut().find(|rack| rack.group.name == name).unwrap()
    }

    /// Adds pods of one owner, each asking for thousandths of a processor and as many MiB of memory.
    pub(super) fn add(&mut self, owner: &str, count: usize, milli: i64, more: Value) {
        for _ in 0..count {
            let number = self.pods.len() + self.changes.len() * 100_000;
            let name = format!("{owner}-{number}-{}", self.now.as_second());
            let mut spec = json!({"containers": [{"name": "c", "resources": {"requests":
                {"cpu": format!("{milli}m"), "memory": format!("{milli}Mi")}}}]});
            for (key, value) in more.as_object().into_iter().flatten() {
                spec[key] = value.clone();
            }
            let object = json!({
                "metadata": {"name": name, "namespace": "default", "labels": {"app": owner},
                    "creationTimestamp": self.now.to_string(),
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true}]},
                "spec": spec,
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            });
            self.pods.insert(name, Pod { object, node: None });
        }
    }

    /// Adds a budget over the pods of an owner.
    pub(super) fn budget(&mut self, owner: &str, allowed: i32) {
        self.budgets.push(json!({
            "metadata": {"name": owner, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": owner}}},
            "status": {"disruptionsAllowed": allowed, "currentHealthy": 100, "desiredHealthy": 0, "expectedPods": 100},
        }));
    }

    /// Ends all pods of an owner but so many.
    pub(super) fn keep(&mut self, owner: &str, count: usize) {
        let prefix = format!("{owner}-");
        let names: Vec<String> = self.pods.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
        for name in names.iter().skip(count) {
            self.pods.remove(name);
        }
    }

    /// One step: time passes, machines come, pods are placed, it is decided, and what was decided is done.
    pub(super) fn step(&mut self, seconds: i64) -> Decisions {
        self.now += SignedDuration::from_secs(seconds);
        self.settle();
        let (cluster, _) = self.seen();
        self.place(&cluster);
        let (mut cluster, nodes) = self.seen();
        let mut groups: Vec<Group> = Vec::new();
        for rack in &self.racks {
            let object: core::Node = serde_json::from_value(rack.node.clone()).unwrap();
            groups.push(Group { template: Some(cluster.template(&object)), ..rack.group.clone() });
        }
        let view = View {
            now: self.now,
            groups: &groups,
            policies: &self.policies,
            cluster: self.blind.clone().map_or(Ok(&cluster), Err),
            nodes: &nodes,
            readings: &self.readings,
            usage: None,
        };
        let mut again = self.memory.clone();
        let decisions = decide(&view, &mut self.memory);
        assert_eq!(decisions, decide(&view, &mut again), "the same view, another decision");
        assert_eq!(self.memory, again);
        let victims = decisions.groups.iter().flat_map(|verdict| match &verdict.change {
            Some(Change::Down(_, victims)) => victims.as_slice(),
            _ => &[],
        });
        // Of all groups together, in their order.
        self.check_victims(&victims.cloned().collect::<Vec<_>>(), &cluster);
        for verdict in &decisions.groups {
            self.check(verdict);
            self.carry_out(verdict);
        }
        decisions
    }

    /// Several steps of a minute.
    pub(super) fn minutes(&mut self, minutes: usize) -> Decisions {
        (0..minutes).map(|_| self.step(60)).last().unwrap_or_default()
    }

    pub(super) fn replicas(&self, name: &str) -> i32 {
        self.racks.iter().find(|rack| rack.group.name == name).unwrap().group.replicas
    }

    pub(super) fn nodes(&self) -> usize {
        self.racks
            .iter()
            .flat_map(|rack| &rack.group.machines)
            .filter(|machine| machine.node.is_some())
            .count()
    }

    pub(super) fn pending(&self) -> usize {
        self.pods.values().filter(|pod| pod.node.is_none()).count()
    }

    /// Machines are made for replicas, get hosts, and become nodes.
    fn settle(&mut self) {
        for rack in &mut self.racks {
            let group = &mut rack.group;
            while (group.machines.len() as i32) < group.replicas {
                rack.made += 1;
                let name = format!("{}-{}", group.name, rack.made);
                group.machines.push(Machine { name, created: self.now, ..Machine::default() });
            }
            let mut bound = group.machines.iter().filter(|machine| machine.bound).count() as i32;
            for machine in &mut group.machines {
                if !machine.bound && bound < rack.hosts {
                    machine.bound = true;
                    bound += 1;
                }
                let Boot::After(seconds) = rack.boot else { continue };
                let age = self.now.duration_since(machine.created).as_secs();
                if machine.bound && machine.node.is_none() && age >= seconds {
                    machine.node = Some(format!("node-{}", machine.name));
                    group.boot.add(age.unsigned_abs());
                }
            }
            group.free = FreeHosts { running: 0, staged: 0, off: (rack.hosts - bound).max(0) };
        }
    }

    /// What a watch would tell.
    fn seen(&self) -> (Cluster, BTreeMap<String, NodeState>) {
        let (mut cluster, mut states) = (Cluster::default(), BTreeMap::new());
        for rack in &self.racks {
            for machine in &rack.group.machines {
                let Some(name) = &machine.node else { continue };
                let mut node = rack.node.clone();
                node["metadata"]["name"] = json!(name);
                node["metadata"]["labels"]["kubernetes.io/hostname"] = json!(name);
                cluster.put_node(&serde_json::from_value(node).unwrap());
                let state = NodeState { ready: true, created: Some(machine.created), held: false };
                states.insert(name.clone(), state);
            }
        }
        for pod in self.pods.values() {
            let mut object = pod.object.clone();
            if let Some(node) = &pod.node {
                object["spec"]["nodeName"] = json!(node);
            }
            cluster.put_pod(&serde_json::from_value(object).unwrap());
        }
        for budget in &self.budgets {
            cluster.put_budget(&serde_json::from_value(budget.clone()).unwrap());
        }
        (cluster, states)
    }

    /// Places what fits, as a scheduler does.
    fn place(&mut self, cluster: &Cluster) {
        let mut simulation = cluster.simulate();
        let waiting = simulation.waiting();
        for (pod, node) in simulation.settle(&waiting).existing {
            let name = simulation.pod(pod).name.to_string();
            let node = simulation.node_name(node).unwrap().to_owned();
            self.pods.get_mut(&name).unwrap().node = Some(node);
        }
    }

    /// What must hold of every decision.
    fn check(&self, verdict: &Verdict) {
        let rack = self.racks.iter().find(|rack| rack.group.name == verdict.group).unwrap();
        let (spec, current) = (&rack.group.spec, rack.group.replicas);
        match &verdict.change {
            None => assert_eq!(verdict.replicas, current),
            Some(Change::Up(_)) => {
                assert!(verdict.replicas > current);
                assert!(verdict.replicas <= spec.max_replicas, "{verdict:?}");
                assert!(verdict.replicas <= rack.hosts, "more than there are hosts: {verdict:?}");
            }
            Some(Change::Down(_, victims)) => {
                assert_eq!(victims.len() as i32, current - verdict.replicas);
                assert!(verdict.replicas >= spec.min_replicas, "{verdict:?}");
            }
        }
    }

    /// Every pod of every victim goes to another node that stays, where it fits when it is moved.
    fn check_victims(&self, victims: &[Victim], cluster: &Cluster) {
        let mut simulation = cluster.simulate();
        let going: BTreeSet<&str> = victims
            .iter()
            .filter_map(|victim| match victim {
                Victim::Node(removal) => Some(removal.node.as_str()),
                Victim::Late(_) => None,
            })
            .collect();
        for victim in victims {
            let Victim::Node(removal) = victim else { continue };
            let there: BTreeSet<String> = self
                .pods
                .iter()
                .filter(|(_, pod)| pod.node.as_deref() == Some(&removal.node))
                .map(|(name, _)| format!("default/{name}"))
                .collect();
            let moved: BTreeSet<String> = removal.moves.iter().map(|(pod, _)| pod.clone()).collect();
            assert_eq!(there, moved, "a pod of {} was forgotten", removal.node);
            let ids: BTreeMap<String, _> =
                simulation.pods().map(|(id, _)| (simulation.pod_name(id), id)).collect();
            removal.moves.iter().for_each(|(pod, _)| simulation.take(ids[pod]));
            for (pod, to) in &removal.moves {
                assert!(!going.contains(to.as_str()), "{pod} would go to {to}, which goes too");
                let node = simulation.node(to).unwrap_or_else(|| panic!("{pod} would go to {to:?}"));
                simulation.put(ids[pod], node).unwrap_or_else(|why| panic!("{pod} does not fit {to}: {why}"));
            }
        }
    }

    fn carry_out(&mut self, verdict: &Verdict) {
        let rack = self.racks.iter_mut().find(|rack| rack.group.name == verdict.group).unwrap();
        let before = rack.group.replicas;
        if let Some(Change::Down(_, victims)) = &verdict.change {
            let names: BTreeSet<&str> = victims.iter().map(Victim::machine).collect();
            let (gone, stay): (Vec<Machine>, Vec<Machine>) = std::mem::take(&mut rack.group.machines)
                .into_iter()
                .partition(|m| names.contains(m.name.as_str()));
            rack.group.machines = stay;
            for node in gone.into_iter().filter_map(|machine| machine.node) {
                for pod in self.pods.values_mut().filter(|pod| pod.node.as_deref() == Some(&node)) {
                    pod.node = None;
                }
            }
        }
        if verdict.change.is_some() {
            rack.group.replicas = verdict.replicas;
            self.changes.push((verdict.group.clone(), before, verdict.replicas));
        }
    }
}
