//! What would be decided about a cluster, from its API objects in a file: as `kubectl get -o json` or `-o yaml` writes them,
//! of the management cluster and of the workload cluster, one after the other.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use anyhow::{Context, bail};
use ferric_api::autoscaling::{ClusterAutoscalingPolicy, NodeGroupAutoscaler};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::policy::Documents;
use crate::autoscaling::gather::{self, Gathered, NodeFacts, Objects};
use crate::autoscaling::pools::{self, Neighbours};
use crate::autoscaling::schedule::Cluster;
use crate::autoscaling::triggers::Reading;
use crate::autoscaling::{
    Change, Decisions, Group, GroupMemory, GroupStandby, Learned, Memory, NodeState, Policy, Verdict, View,
    decide, startup,
};
use crate::controllers::autoscaler::{changes, facts, template};

/// Seconds between decisions that look ahead.
const STEP: i64 = 60;

/// API objects of a management cluster and of one workload cluster.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    objects: Objects,
    clusters: Vec<Arc<crate::capi::Cluster>>,
    cluster: Cluster,
    nodes: BTreeMap<String, NodeFacts>,
    /// The newest time that any object names.
    newest: Option<Timestamp>,
    /// It has something of a workload cluster.
    workload: bool,
    /// Why the workload cluster cannot be judged, if so.
    unseen: Option<String>,
    /// All groups and hosts of the namespace.
    neighbours: Neighbours,
}

impl Snapshot {
    /// Reads objects and lists of them, as JSON or YAML.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut snapshot = Self::default();
        let mut add =
            |at: usize, value: Value| snapshot.add(value).with_context(|| format!("document {}", at + 1));
        if text.trim_start().starts_with('{') {
            for (at, value) in serde_json::Deserializer::from_str(text).into_iter::<Value>().enumerate() {
                add(at, value.with_context(|| format!("document {}", at + 1))?)?;
            }
        } else {
            for (at, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
                add(at, Value::deserialize(document).with_context(|| format!("document {}", at + 1))?)?;
            }
        }
        Ok(snapshot)
    }

    /// Adds objects.
    pub(super) fn add_all(&mut self, objects: Vec<Value>) -> anyhow::Result<()> {
        objects.into_iter().try_for_each(|object| self.add(object))
    }

    /// Adds an object, or a list of them.
    fn add(&mut self, value: Value) -> anyhow::Result<()> {
        fn read<K: Resource<DynamicType = ()> + DeserializeOwned + Debug>(value: Value) -> anyhow::Result<K> {
            let name =
                value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)").to_owned();
            serde_json::from_value(value).with_context(|| format!("{} {name}", K::kind(&())))
        }
        if value.is_null() {
            return Ok(());
        }
        self.newest = self.newest.max(newest(&value));
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let group = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let group = group.split_once('/').map_or("", |(group, _)| group).to_owned();
        let objects = &mut self.objects;
        match (group.as_str(), kind.as_str()) {
            (_, list) if list.ends_with("List") => {
                let items = value.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
                for mut item in items {
                    // Items of a typed list do not say what they are.
                    if let (Some(of), Some(item)) =
                        (list.strip_suffix("List").filter(|of| !of.is_empty()), item.as_object_mut())
                    {
                        item.entry("kind").or_insert_with(|| of.into());
                        item.entry("apiVersion").or_insert_with(|| value["apiVersion"].clone());
                    }
                    self.add(item)?;
                }
            }
            ("", "Node") => {
                let node: Node = read(value)?;
                self.cluster.put_node(&node);
                self.nodes.insert(node.name_any(), facts(&node));
            }
            ("", "Pod") => self.cluster.put_pod(&read(value)?),
            ("", "Namespace") => self.cluster.put_namespace(&read(value)?),
            ("", "PersistentVolumeClaim") => self.cluster.put_claim(&read(value)?),
            ("", "PersistentVolume") => self.cluster.put_volume(&read(value)?),
            ("storage.k8s.io", "StorageClass") => self.cluster.put_storage_class(&read(value)?),
            ("apps", "DaemonSet") => self.cluster.put_daemon_set(&read(value)?),
            ("policy", "PodDisruptionBudget") => self.cluster.put_budget(&read(value)?),
            ("cluster.x-k8s.io", "Cluster") => self.clusters.push(Arc::new(read(value)?)),
            ("cluster.x-k8s.io", "MachineDeployment") => objects.deployments.push(Arc::new(read(value)?)),
            ("cluster.x-k8s.io", "Machine") => objects.machines.push(Arc::new(read(value)?)),
            (_, "BareMetalMachine") => objects.bare_metal_machines.push(Arc::new(read(value)?)),
            (_, "BareMetalHost") => objects.hosts.push(Arc::new(read(value)?)),
            (_, "BareMetalMachineTemplate") => objects.templates.push(Arc::new(read(value)?)),
            (_, "NodeGroupAutoscaler") => {
                objects.autoscalers.push(Arc::new(read::<NodeGroupAutoscaler>(value)?))
            }
            (_, "ClusterAutoscalingPolicy") => {
                objects.policies.push(Arc::new(read::<ClusterAutoscalingPolicy>(value)?));
            }
            // What else somebody asked for decides nothing.
            _ => {}
        }
        self.workload |=
            matches!(group.as_str(), "" | "storage.k8s.io" | "apps" | "policy") && !kind.ends_with("List");
        Ok(())
    }

    /// What is known of the workload cluster is not all of it: nothing is decided by it.
    pub(super) fn cannot_see(&mut self, why: String) {
        self.unseen = Some(why);
        self.nodes.clear();
    }

    /// Why the workload cluster cannot be judged, if so.
    pub(super) fn unseen(&self) -> Option<&str> {
        self.unseen.as_deref()
    }

    /// What is known of the Cluster's groups.
    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Keeps what is about one Cluster: the only one that has autoscalers, or the one of this name.
    pub(super) fn of(mut self, name: Option<&str>) -> anyhow::Result<Self> {
        let mut names: Vec<(String, String)> = self
            .objects
            .autoscalers
            .iter()
            .map(|found| (found.spec.cluster_name.clone(), found.namespace().unwrap_or_default()))
            .filter(|(cluster, _)| name.is_none_or(|name| name == cluster))
            .collect();
        names.sort_unstable();
        names.dedup();
        let (name, namespace) = match names.as_slice() {
            [one] => one.clone(),
            [] => bail!(
                "it has no NodeGroupAutoscaler{}",
                name.map_or(String::new(), |name| format!(" of cluster {name}"))
            ),
            several => {
                let all: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
                bail!("it has autoscalers of several clusters ({}): choose with --cluster", all.join(", "))
            }
        };
        let here = |meta: &kube::core::ObjectMeta| meta.namespace.as_deref().unwrap_or_default() == namespace;
        let objects = &mut self.objects;
        // Hosts are shared by all groups of a namespace, whichever cluster they are of.
        self.neighbours = Neighbours {
            autoscalers: objects.autoscalers.iter().filter(|found| here(&found.metadata)).cloned().collect(),
            deployments: objects.deployments.iter().filter(|found| here(&found.metadata)).cloned().collect(),
            templates: objects.templates.iter().filter(|found| here(&found.metadata)).cloned().collect(),
            hosts: objects.hosts.iter().filter(|found| here(&found.metadata)).cloned().collect(),
        };
        objects.cluster =
            self.clusters.iter().find(|found| found.name_any() == name && here(&found.metadata)).cloned();
        objects.autoscalers.retain(|found| found.spec.cluster_name == name && here(&found.metadata));
        objects.policies.retain(|found| found.spec.cluster_name == name && here(&found.metadata));
        objects.deployments.retain(|found| found.spec.cluster_name == name && here(&found.metadata));
        objects.machines.retain(|found| found.spec.cluster_name == name && here(&found.metadata));
        objects.bare_metal_machines.retain(|found| here(&found.metadata));
        objects.hosts.retain(|found| here(&found.metadata));
        objects.templates.retain(|found| here(&found.metadata));
        if !self.workload && self.unseen.is_none() {
            bail!("it has no nodes and no pods: add those of the workload cluster");
        }
        Ok(self)
    }

    /// The newest time that any object names.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Everything that a decision at a time is made of; with other specs and policies, if there are any.
    pub(super) fn prepare(&self, at: Timestamp, other: Option<&Documents>) -> anyhow::Result<Prepared> {
        let (mut objects, mut neighbours) = (self.objects.clone(), self.neighbours.clone());
        let mut policies = gather::policies(&objects);
        if let Some(other) = other {
            let autoscalers: Vec<NodeGroupAutoscaler> =
                objects.autoscalers.iter().map(|found| (**found).clone()).collect();
            objects.autoscalers = other.specs_for(autoscalers)?.into_iter().map(Arc::new).collect();
            policies = other.policies_or(policies);
            for known in &mut neighbours.autoscalers {
                let changed =
                    objects.autoscalers.iter().find(|changed| changed.name_any() == known.name_any());
                *known = changed.unwrap_or(known).clone();
            }
        }
        let standby = pools::plan(&neighbours, at);
        let mut memory = Memory::default();
        let states: BTreeMap<String, NodeState> =
            self.nodes.iter().map(|(name, facts)| (name.clone(), facts.state(false))).collect();
        let mut prepared = Prepared {
            at,
            cluster: match &self.unseen {
                Some(why) => Err(why.clone()),
                None => Ok(self.cluster.clone()),
            },
            policies,
            ..Prepared::default()
        };
        for autoscaler in &objects.autoscalers {
            let past = autoscaler.status.as_ref().map(changes).unwrap_or_default();
            memory.groups.insert(autoscaler.name_any(), GroupMemory { past, ..GroupMemory::default() });
            if let Some(has) = standby.groups.get(&pools::named(autoscaler)) {
                prepared.standby.insert(autoscaler.name_any(), has.clone());
            }
        }
        if let Ok(cluster) = &mut prepared.cluster {
            startup::settle(cluster, &states, at);
        }
        for (name, found) in gather::groups(&objects, &self.nodes, &standby) {
            match found {
                Ok(mut found) => {
                    let status = objects.autoscalers.iter().find(|known| known.name_any() == name);
                    let boot = status.and_then(|known| known.status.as_ref()?.boot_seconds.as_ref());
                    found.group.boot = Learned::of(boot).sketch;
                    if let Ok(cluster) = &mut prepared.cluster {
                        let (like, machines) = (found.template.as_ref(), &found.group.machines);
                        startup::complete(cluster, like, machines, &states, at);
                        found.group.template = template(&found, &states, cluster);
                    }
                    prepared.groups.push(found.group.clone());
                    prepared.found.insert(name, found);
                }
                Err(why) => drop(prepared.unable.insert(name, why.to_string())),
            }
        }
        (prepared.nodes, prepared.memory) = (states, memory);
        Ok(prepared)
    }

    /// What is decided at a time, and what would be decided first of each group after it, were nothing else to change; with
    /// other specs and policies, if there are any.
    pub(super) fn decide(
        &self,
        at: Timestamp,
        ahead: i64,
        other: Option<&Documents>,
    ) -> anyhow::Result<Decided> {
        let mut prepared = self.prepare(at, other)?;
        let (now, later) = prepared.decide(ahead);
        let said = |verdict: &Verdict| prepared.said(verdict);
        Ok(Decided {
            groups: now.groups.iter().map(said).collect(),
            later: now
                .groups
                .iter()
                .filter_map(|verdict| later.get(&verdict.group))
                .map(|(seconds, verdict)| Later { after_seconds: *seconds, decision: said(verdict) })
                .collect(),
            unable: prepared.unable,
            stranded: now.stranded,
            blocked: now.blocked,
        })
    }
}

/// Everything that a decision is made of.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The time.
    pub(super) at: Timestamp,
    /// The groups, in the order of their names.
    pub(super) groups: Vec<Group>,
    /// The same with what they are made of.
    pub(super) found: BTreeMap<String, Gathered>,
    /// Autoscalers that have nothing to scale, and why.
    pub(super) unable: BTreeMap<String, String>,
    /// Free hosts, by group.
    pub(super) standby: BTreeMap<String, GroupStandby>,
    /// The policies.
    pub(super) policies: Vec<Policy>,
    /// The workload cluster, or why it cannot be judged.
    pub(super) cluster: Result<Cluster, String>,
    /// Its nodes.
    pub(super) nodes: BTreeMap<String, NodeState>,
    /// What queries gave, by group and trigger.
    pub(super) readings: BTreeMap<(String, String), Reading>,
    /// What nodes use.
    pub(super) usage: Option<BTreeMap<String, BTreeMap<String, f64>>>,
    memory: Memory,
}

impl Default for Prepared {
    fn default() -> Self {
        Self {
            at: Timestamp::UNIX_EPOCH,
            groups: Vec::new(),
            found: BTreeMap::new(),
            unable: BTreeMap::new(),
            standby: BTreeMap::new(),
            policies: Vec::new(),
            cluster: Ok(Cluster::default()),
            nodes: BTreeMap::new(),
            readings: BTreeMap::new(),
            usage: None,
            memory: Memory::default(),
        }
    }
}

impl Prepared {
    /// What is decided, and of groups that are left alone what would be decided first within so many seconds, were nothing
    /// else to change, and after how many.
    pub(super) fn decide(&mut self, ahead: i64) -> (Decisions, BTreeMap<String, (i64, Verdict)>) {
        let now = self.after(0);
        let mut later: BTreeMap<String, (i64, Verdict)> = BTreeMap::new();
        for seconds in (STEP..=ahead).step_by(STEP as usize) {
            for verdict in self.after(seconds).groups {
                if verdict.change.is_some() {
                    later.entry(verdict.group.clone()).or_insert((seconds, verdict));
                }
            }
        }
        later.retain(|group, _| {
            now.groups.iter().any(|verdict| verdict.group == *group && verdict.change.is_none())
        });
        (now, later)
    }

    /// What is decided now. Asked once: what must last for a while begins with it.
    pub(super) fn decide_now(&mut self) -> Decisions {
        self.after(0)
    }

    /// What would be decided first of a group within so many seconds, were nothing else to change, and how far that was
    /// looked: no further than `patient` holds.
    pub(super) fn first_change(
        &mut self,
        group: &str,
        ahead: i64,
        patient: impl Fn() -> bool,
    ) -> (Option<Later>, i64) {
        let mut looked = 0;
        for seconds in (STEP..=ahead).step_by(STEP as usize) {
            if !patient() {
                break;
            }
            looked = seconds;
            let decisions = self.after(seconds);
            let verdict = decisions.groups.iter().find(|verdict| verdict.group == group);
            if let Some(verdict) = verdict.filter(|verdict| verdict.change.is_some()) {
                let decision = self.said(verdict);
                return (Some(Later { after_seconds: seconds, decision }), looked);
            }
        }
        (None, looked)
    }

    fn after(&mut self, seconds: i64) -> Decisions {
        let now = self.at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        let view = View {
            now,
            groups: &self.groups,
            policies: &self.policies,
            cluster: self.cluster.as_ref().map_err(Clone::clone),
            nodes: &self.nodes,
            readings: &self.readings,
            usage: self.usage.as_ref(),
        };
        decide(&view, &mut self.memory)
    }

    /// A decision about a group.
    pub(super) fn said(&self, verdict: &Verdict) -> Said {
        let group = self.groups.iter().find(|group| group.name == verdict.group);
        Said::of(verdict, group.map_or(0, |group| group.replicas))
    }
}

/// The newest time in an object: of all members that are named as times are, but not when it is to be deleted.
fn newest(value: &Value) -> Option<Timestamp> {
    match value {
        Value::Object(members) => members
            .iter()
            .filter_map(|(name, value)| match value {
                Value::String(text) if name.ends_with("Time") || name == "creationTimestamp" => {
                    text.parse().ok()
                }
                _ => newest(value),
            })
            .max(),
        Value::Array(items) => items.iter().filter_map(newest).max(),
        _ => None,
    }
}

/// What is decided with one set of specs and policies.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Decided {
    /// Each group.
    pub(super) groups: Vec<Said>,
    /// What would be decided first of groups that are left alone now, were nothing else to change.
    pub(super) later: Vec<Later>,
    /// Autoscalers that have nothing to scale, and why.
    pub(super) unable: BTreeMap<String, String>,
    /// Pods that wait and that no group has a place for.
    pub(super) stranded: Vec<String>,
    /// Nodes that are not used enough and stay, and why.
    pub(super) blocked: BTreeMap<String, String>,
}

/// A decision after a while.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Later {
    /// Seconds after the snapshot.
    pub(super) after_seconds: i64,
    /// The decision.
    pub(super) decision: Said,
}

/// A decision about a group.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Said {
    /// The group.
    pub(super) group: String,
    /// Replicas now.
    pub(super) from: i32,
    /// Replicas that it should have.
    pub(super) to: i32,
    /// In one word, why it is changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    /// In a sentence, why it is changed or left alone.
    pub(super) message: String,
    /// What each trigger says.
    pub(super) triggers: BTreeMap<String, String>,
    /// What keeps it from what is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limited: Option<String>,
    /// Nodes that are not needed.
    pub(super) unneeded: Vec<String>,
}

impl Said {
    fn of(verdict: &Verdict, from: i32) -> Self {
        let why = verdict.change.as_ref().map(|change| match change {
            Change::Up(why) | Change::Down(why, _) => why,
        });
        let alone = || verdict.inactive.clone().unwrap_or_else(|| "left as it is".to_owned());
        Self {
            group: verdict.group.clone(),
            from,
            to: if why.is_some() { verdict.replicas } else { from },
            reason: why.map(|why| why.reason),
            message: why.map_or_else(alone, |why| why.message.clone()),
            triggers: verdict
                .triggers
                .iter()
                .map(|(name, wish)| (name.clone(), format!("{:?}: {}", wish.state, wish.message)))
                .collect(),
            limited: verdict.limited.clone(),
            unneeded: verdict.unneeded.keys().cloned().collect(),
        }
    }
}
