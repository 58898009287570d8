//! One node group of a live cluster: what it is, what would be decided now and why, and what the manager remembers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use ferric_api::autoscaling::{NodeGroupAutoscaler, NodeGroupAutoscalerStatus, TriggerState, TriggerType};
use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;

use super::live::{self, Reach};
use super::snapshot::{Later, Prepared, Said, Snapshot};
use crate::autoscaling::explain::{self, NewNode, Standing, Stranded};
use crate::autoscaling::gather::Gathered;
use crate::autoscaling::triggers::{Reading, Wish};
use crate::autoscaling::{Decisions, Group, Policy, used};
use crate::bmc_cli::Output;
use crate::claim::selector::Selector;
use crate::controllers::autoscaler::{ask, like, usage, wants_usage};
use crate::key::Key;

/// Pods of which it is told why they fit nowhere.
const PODS: usize = 100;
/// How long it may be tried out what comes later.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `ferric autoscale explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// Name of the NodeGroupAutoscaler
    pub group: String,

    /// How the clusters are reached
    #[command(flatten)]
    pub reach: Reach,

    /// Ask Prometheus triggers' servers from here, with the Secrets that the triggers name; without it, what the manager
    /// measured last counts
    #[arg(long)]
    pub queries: bool,

    /// Seconds from now for which it is told what would be decided first, were nothing else to change
    #[arg(long, value_name = "SECONDS", default_value_t = 7200, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub ahead_seconds: u32,

    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// All that is told of a group.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explained {
    pub(super) at: Timestamp,
    pub(super) namespace: String,
    pub(super) group: String,
    pub(super) cluster: String,
    pub(super) target: String,
    pub(super) mode: String,
    pub(super) min_replicas: i32,
    pub(super) max_replicas: i32,
    /// Why there is nothing to scale, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unable: Option<String>,
    /// Why the workload cluster could not be looked at, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unseen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) now: Option<Now>,
    pub(super) limits: Vec<LimitSaid>,
    /// What the manager wrote.
    pub(super) remembered: Remembered,
}

/// What is there, and what would be decided.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Now {
    pub(super) machines: Machines,
    pub(super) hosts: Hosts,
    pub(super) node: NodeSaid,
    /// The least and the most that there may be now.
    pub(super) bounds: (i32, i32),
    pub(super) decision: Said,
    /// What would be decided first after a while, were nothing else to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) later: Option<Later>,
    /// How far that was looked, in seconds.
    pub(super) looked_ahead_seconds: i64,
    pub(super) triggers: Vec<TriggerSaid>,
    /// How each node stands.
    pub(super) nodes: Vec<NodeStanding>,
    /// Pods that fit nowhere, those together that fit nowhere for the same reasons.
    pub(super) stranded: Vec<StrandedSaid>,
    /// All pods that fit nowhere.
    pub(super) stranded_pods: usize,
}

/// Machines of a group.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Machines {
    /// `spec.replicas`.
    pub(super) replicas: i32,
    pub(super) nodes: usize,
    pub(super) in_flight: usize,
    pub(super) late: usize,
    pub(super) leaving: usize,
    /// Seconds that one may take to become a node.
    pub(super) patience_seconds: i64,
    /// Nodes that are being emptied, and since when.
    pub(super) draining: BTreeMap<String, Timestamp>,
}

/// Hosts that machines of a group could have.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hosts {
    pub(super) free: i32,
    pub(super) running: i32,
    pub(super) staged: i32,
    pub(super) off: i32,
    pub(super) quarantined: i32,
    pub(super) selector: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure_domain: Option<String>,
    pub(super) template: String,
}

/// What a node more would be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeSaid {
    /// Where it is known from; none where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
    pub(super) offers: BTreeMap<String, String>,
}

/// What a trigger says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TriggerSaid {
    pub(super) name: String,
    pub(super) state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wanted_replicas: Option<i32>,
    pub(super) message: String,
    /// It is the manager's measurement, and when that changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) measured_by_manager: Option<Timestamp>,
}

/// How a node stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeStanding {
    pub(super) node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) used_percent: Option<i64>,
    pub(super) pods: usize,
    pub(super) why: String,
}

/// Pods that fit nowhere for the same reasons.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StrandedSaid {
    /// The first of them.
    pub(super) example: String,
    pub(super) pods: usize,
    /// Reasons, and how many nodes say so.
    pub(super) nodes: BTreeMap<String, usize>,
    pub(super) new_node: String,
}

/// A limit of a policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LimitSaid {
    pub(super) limit: String,
    pub(super) resource: String,
    pub(super) used: String,
    pub(super) most: String,
}

/// What the manager wrote into the status.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remembered {
    /// It looked at the spec as it is now.
    pub(super) of_this_spec: bool,
    pub(super) status: NodeGroupAutoscalerStatus,
}

/// Looks at both clusters once, and explains a group.
pub(super) async fn run(arguments: &ExplainArguments) -> anyhow::Result<Explained> {
    let (management, namespace) = arguments.reach.management().await?;
    let mut snapshot = Snapshot::default();
    management.list(&live::of_management(), |page| snapshot.add_all(page)).await?;
    let cluster = cluster_of(&snapshot, &namespace, &arguments.group)?;
    let key = Key::new(&namespace, &cluster);
    let mut nodes_use = None;
    match arguments.reach.workload(&management, &key).await {
        Err(error) => snapshot.cannot_see(format!("{error:#}")),
        Ok(workload) => {
            let listed = workload.list(&live::of_workload(), |page| snapshot.add_all(page)).await;
            match listed {
                // What is known of it is not all of it.
                Err(error) => snapshot.cannot_see(format!("{error:#}")),
                Ok(()) => nodes_use = Some(workload),
            }
        }
    }
    let snapshot = snapshot.of(Some(&cluster))?;
    let mut prepared = snapshot.prepare(Timestamp::now(), None)?;
    prepared.readings = remembered_readings(&snapshot);
    if arguments.queries {
        prepared.readings = ask(management.client(), &namespace, &prepared.groups).await;
    }
    if let Some(workload) = nodes_use.filter(|_| wants_usage(&prepared.groups)) {
        prepared.usage = usage(workload.client()).await;
    }
    of(&snapshot, prepared, &arguments.group, arguments.ahead_seconds.into(), arguments.queries)
}

/// The Cluster of a group.
fn cluster_of(snapshot: &Snapshot, namespace: &str, group: &str) -> anyhow::Result<String> {
    let all = &snapshot.objects().autoscalers;
    match all.iter().find(|found| found.name_any() == group) {
        Some(found) => Ok(found.spec.cluster_name.clone()),
        None if all.is_empty() => {
            bail!("there is no NodeGroupAutoscaler in namespace {namespace}: choose another with -n")
        }
        None => {
            let names: Vec<String> = all.iter().map(|found| found.name_any()).collect();
            bail!(
                "there is no NodeGroupAutoscaler {group} in namespace {namespace}: there are {}",
                names.join(", ")
            )
        }
    }
}

/// What the manager measured last of queries, as if it had just been measured.
pub(super) fn remembered_readings(snapshot: &Snapshot) -> BTreeMap<(String, String), Reading> {
    let mut readings = BTreeMap::new();
    for autoscaler in &snapshot.objects().autoscalers {
        let status = autoscaler.status.as_ref();
        let queries =
            autoscaler.spec.triggers.iter().filter(|trigger| trigger.kind == TriggerType::Prometheus);
        for trigger in queries {
            let found =
                status.and_then(|status| status.triggers.iter().find(|known| known.name == trigger.name));
            let reading = match found {
                None => Reading::Failed(
                    "the manager has not measured it yet; --queries asks from here".to_owned(),
                ),
                Some(found) if found.state == TriggerState::Failed => Reading::Failed(found.message.clone()),
                Some(found) => match found.value.as_deref().map(str::parse) {
                    Some(Ok(value)) => Reading::Value(value),
                    _ => Reading::Failed("the manager does not say what it measured".to_owned()),
                },
            };
            readings.insert((autoscaler.name_any(), trigger.name.clone()), reading);
        }
    }
    readings
}

/// Explains a group. Pure but for the time that looking ahead may take.
pub(super) fn of(
    snapshot: &Snapshot,
    mut prepared: Prepared,
    name: &str,
    ahead: i64,
    asked: bool,
) -> anyhow::Result<Explained> {
    let found = snapshot.objects().autoscalers.iter().find(|found| found.name_any() == name);
    let autoscaler = found.with_context(|| format!("there is no NodeGroupAutoscaler {name}"))?;
    let status = autoscaler.status.clone().unwrap_or_default();
    let at = prepared.at;
    let limits = prepared.policies.iter().flat_map(|policy| limits(policy, &prepared.groups)).collect();
    let decisions = prepared.decide_now();
    let begun = Instant::now();
    let (later, looked_ahead_seconds) = match decisions.groups.iter().find(|verdict| verdict.group == name) {
        Some(verdict) if verdict.change.is_none() && verdict.inactive.is_none() => {
            prepared.first_change(name, ahead, || begun.elapsed() < PATIENCE)
        }
        _ => (None, 0),
    };
    let now = prepared.found.get(name).map(|gathered| {
        now(snapshot, &prepared, gathered, autoscaler, &decisions, asked).map(|now| Now {
            later,
            looked_ahead_seconds,
            ..now
        })
    });
    let spec = &autoscaler.spec;
    Ok(Explained {
        at,
        namespace: autoscaler.namespace().unwrap_or_default(),
        group: name.to_owned(),
        cluster: spec.cluster_name.clone(),
        target: format!("{:?} {}", spec.scale_target_ref.kind, spec.scale_target_ref.name),
        mode: format!("{:?}", spec.actuation_mode),
        min_replicas: spec.min_replicas,
        max_replicas: spec.max_replicas,
        unable: prepared.unable.get(name).cloned(),
        unseen: snapshot.unseen().map(str::to_owned),
        now: now.flatten(),
        limits,
        remembered: Remembered {
            of_this_spec: status.observed_generation == autoscaler.metadata.generation,
            status,
        },
    })
}

fn now(
    snapshot: &Snapshot,
    prepared: &Prepared,
    gathered: &Gathered,
    autoscaler: &NodeGroupAutoscaler,
    decisions: &Decisions,
    asked: bool,
) -> Option<Now> {
    let group = prepared.groups.iter().find(|group| group.name == gathered.group.name)?;
    let verdict = decisions.groups.iter().find(|verdict| verdict.group == group.name)?;
    let at = prepared.at;
    let (standings, stranded) = match &prepared.cluster {
        Ok(cluster) => {
            let names = &decisions.stranded[..decisions.stranded.len().min(PODS)];
            let stranded = explain::stranded(&prepared.groups, group, cluster, names, at);
            (explain::nodes(group, cluster, &prepared.nodes, decisions, at), stranded)
        }
        Err(_) => (Vec::new(), Vec::new()),
    };
    let known = autoscaler.status.as_ref().map(|status| status.triggers.as_slice()).unwrap_or_default();
    let triggers = verdict.triggers.iter().map(|(name, wish)| {
        let query = autoscaler
            .spec
            .triggers
            .iter()
            .any(|trigger| trigger.name == *name && trigger.kind == TriggerType::Prometheus);
        let measured = known.iter().find(|known| known.name == *name && query && !asked);
        trigger(name, wish, measured.and_then(|known| known.measured.as_ref()).map(|time| time.0))
    });
    Some(Now {
        machines: machines(group, gathered, at),
        hosts: hosts(snapshot, prepared, gathered),
        node: node(prepared, group, gathered),
        bounds: verdict.bounds,
        decision: prepared.said(verdict),
        later: None,
        looked_ahead_seconds: 0,
        triggers: triggers.collect(),
        nodes: standings.into_iter().map(standing).collect(),
        stranded: together(&stranded),
        stranded_pods: decisions.stranded.len(),
    })
}

fn trigger(name: &str, wish: &Wish, measured_by_manager: Option<Timestamp>) -> TriggerSaid {
    TriggerSaid {
        name: name.to_owned(),
        state: format!("{:?}", wish.state),
        value: wish.value.clone(),
        wanted_replicas: wish.replicas,
        message: wish.message.clone(),
        measured_by_manager,
    }
}

fn machines(group: &Group, gathered: &Gathered, at: Timestamp) -> Machines {
    let nodes = group.machines.iter().filter(|machine| machine.node.is_some() && !machine.deleting);
    Machines {
        replicas: gathered.replicas,
        nodes: nodes.count(),
        in_flight: group.in_flight(at).count(),
        late: group.late(at).count(),
        leaving: group.machines.iter().filter(|machine| machine.deleting).count(),
        patience_seconds: group.patience(),
        draining: gathered.drains.iter().map(|drain| (drain.node.clone(), drain.since)).collect(),
    }
}

fn hosts(snapshot: &Snapshot, prepared: &Prepared, gathered: &Gathered) -> Hosts {
    let standby = prepared.standby.get(&gathered.group.name).cloned().unwrap_or_default();
    let machine = &gathered.deployment.spec.template.spec;
    let template =
        machine.infrastructure_ref.as_ref().map(|reference| reference.name.clone()).unwrap_or_default();
    let found = snapshot.objects().templates.iter().find(|found| found.name_any() == template);
    let selector = found.and_then(|found| {
        Selector::parse(found.spec.template.spec.host_selector.as_ref()).ok().map(|found| found.to_string())
    });
    Hosts {
        free: standby.free.all(),
        running: standby.free.running,
        staged: standby.free.staged,
        off: standby.free.off,
        quarantined: standby.quarantined,
        selector: selector.unwrap_or_default(),
        failure_domain: machine.failure_domain.clone(),
        template,
    }
}

fn node(prepared: &Prepared, group: &Group, gathered: &Gathered) -> NodeSaid {
    let from = match like(gathered, &prepared.nodes) {
        Some(node) => Some(format!("like node {node}")),
        None => gathered.template.is_some().then(|| {
            "by the template's capacity and the MachineDeployment's annotations and labels".to_owned()
        }),
    };
    let offers = match &prepared.cluster {
        Ok(cluster) => explain::offers(group, cluster),
        Err(_) => group.offers.clone(),
    };
    NodeSaid { from: from.filter(|_| !offers.is_empty()), offers }
}

fn standing(standing: Standing) -> NodeStanding {
    NodeStanding {
        node: standing.node,
        used_percent: standing.used_percent.map(|used| used.round() as i64),
        pods: standing.pods,
        why: standing.why,
    }
}

/// Those that fit nowhere for the same reasons, the most pods first.
fn together(stranded: &[Stranded]) -> Vec<StrandedSaid> {
    let mut alike: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for one in stranded {
        alike.entry((&one.nodes, &one.new)).or_default().push(&one.pod);
    }
    let mut said: Vec<StrandedSaid> = alike
        .into_iter()
        .map(|((nodes, new), pods)| StrandedSaid {
            example: pods[0].to_owned(),
            pods: pods.len(),
            nodes: nodes.iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
            new_node: match new {
                NewNode::Fits => {
                    "would have a place, but the group may not have one more now, or its triggers \
                                  do not count the pod"
                        .to_owned()
                }
                NewNode::No(reason) => format!("would not have a place: {reason}"),
                NewNode::Unknown => {
                    "is not known: neither a node nor a capacity of the template is there".to_owned()
                }
            },
        })
        .collect();
    said.sort_by(|a, b| b.pods.cmp(&a.pods).then_with(|| a.example.cmp(&b.example)));
    said
}

fn limits(policy: &Policy, groups: &[Group]) -> Vec<LimitSaid> {
    let all = &policy.spec.limits;
    let each = all.iter().zip(used(all, groups)).flat_map(|(limit, status)| {
        let name = format!("{}/{}", policy.name, limit.name);
        limit.resources.iter().map(move |(resource, most)| LimitSaid {
            limit: name.clone(),
            resource: resource.clone(),
            used: status.used.get(resource).cloned().unwrap_or_default(),
            most: most.clone(),
        })
    });
    each.collect()
}
