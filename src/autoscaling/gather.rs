//! From API objects of the management cluster to node groups. Pure.
//!
//! A group is found even where nothing of it may be changed: then [`Group::hold`] says why. Where there is nothing to be
//! scaled, [`Unable`] says what is missing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ferric_api::autoscaling::{ActuationMode, ClusterAutoscalingPolicy, NodeGroupAutoscaler};
use ferric_api::{BareMetalHost, BareMetalMachine, BareMetalMachineTemplate, names};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::delegate;
use super::drains::{self, Drain, unpaid};
use super::{Arrival, Group, Hold, Machine, NodeState, Policy, Sketch, StandbyPlan, node_template, pools};
use crate::capi::{self, Cluster, MachineDeployment};
use crate::claim::score::{self, Ask};
use crate::claim::selector::Selector;
use crate::key::Key;

/// Annotation of a group that the expander `Priority` reads.
pub const PRIORITY_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/autoscaling-priority";

/// The objects of one namespace of the management cluster that are about one Cluster.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// The Cluster, if it is there.
    pub cluster: Option<Arc<Cluster>>,
    /// Its NodeGroupAutoscalers.
    pub autoscalers: Vec<Arc<NodeGroupAutoscaler>>,
    /// Its ClusterAutoscalingPolicies.
    pub policies: Vec<Arc<ClusterAutoscalingPolicy>>,
    /// Its MachineDeployments.
    pub deployments: Vec<Arc<MachineDeployment>>,
    /// Its Machines.
    pub machines: Vec<Arc<capi::Machine>>,
    /// BareMetalMachines of the namespace.
    pub bare_metal_machines: Vec<Arc<BareMetalMachine>>,
    /// Hosts of the namespace.
    pub hosts: Vec<Arc<BareMetalHost>>,
    /// Templates of the namespace.
    pub templates: Vec<Arc<BareMetalMachineTemplate>>,
}

/// What is known of a Node of the workload cluster beside what a scheduler looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// When it was made.
    pub created: Option<Timestamp>,
    /// `spec.providerID`.
    pub provider_id: Option<String>,
    /// Its condition `Ready` is true.
    pub ready: bool,
    /// Since when the condition is what it is.
    pub ready_since: Option<Timestamp>,
    /// No pod is put on it.
    pub cordoned: bool,
    /// Somebody asked that it stays.
    pub kept: bool,
    /// It is being emptied for an autoscaler: for which group, since when.
    pub draining: Option<(String, Timestamp)>,
}

impl NodeFacts {
    /// Whether it has ever been ready. A kubelet that has just joined says that it is not; one that stops later changes
    /// the condition then.
    #[must_use]
    pub fn was_ready(&self) -> bool {
        /// A kubelet's first report follows the Node's creation within this, in seconds.
        const FIRST: i64 = 5;
        let changed = match (self.created, self.ready_since) {
            (Some(created), Some(since)) => since.duration_since(created).as_secs() > FIRST,
            // Nothing was reported of it ever.
            (_, None) => false,
            (None, Some(_)) => true,
        };
        self.ready || changed
    }

    /// What decisions look at; `left_alone`: it could not be emptied a while ago.
    #[must_use]
    pub fn state(&self, left_alone: bool) -> NodeState {
        NodeState { ready: self.ready, created: self.created, held: self.kept || left_alone }
    }
}

/// A node group, and what of it is about to change.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// The group. Its replicas are those that stay: nodes that are being emptied do not count.
    pub group: Group,
    /// What is scaled.
    pub deployment: Arc<MachineDeployment>,
    /// `spec.replicas` of what is scaled.
    pub replicas: i32,
    /// What one of its nodes would be, where no node of it is there to be looked at.
    pub template: Option<Node>,
    /// Its nodes that are being emptied, in the order of their names.
    pub drains: Vec<Drain>,
    /// Machines with a mark of ours that are not being emptied: the number was not lowered for them. Before it is lowered for
    /// others, the mark must go, or one with pods would go in their place.
    pub stale_marks: Vec<String>,
    /// Machines that people have marked to go first: were the number lowered, they would go in the place of what was emptied.
    pub foreign_marks: Vec<String>,
    /// Machines that are not being deleted.
    pub staying: usize,
    /// Its machines, as far as they teach how long they take.
    pub arrivals: Vec<Arrival>,
}

/// Why an autoscaler has nothing to scale: a reason and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unable {
    /// One CamelCase word.
    pub reason: &'static str,
    /// What is missing.
    pub message: String,
}

/// The node groups of a cluster in the order of their names, and why others are none. Which hosts they could have says the
/// plan of their namespace.
#[must_use]
pub fn groups(
    objects: &Objects,
    nodes: &BTreeMap<String, NodeFacts>,
    standby: &StandbyPlan,
) -> BTreeMap<String, Result<Gathered, Unable>> {
    let lowest = |autoscaler: &Arc<NodeGroupAutoscaler>| {
        (autoscaler.creation_timestamp().map(|time| time.0), autoscaler.uid())
    };
    let index = Index::of(objects, nodes);
    objects
        .autoscalers
        .iter()
        .map(|autoscaler| {
            let target = &autoscaler.spec.scale_target_ref;
            let same = objects.autoscalers.iter().filter(|other| other.spec.scale_target_ref == *target);
            let oldest = same.min_by_key(|other| lowest(other)).map(|oldest| oldest.name_any());
            let gathered = group(objects, autoscaler, nodes, standby, &index).map(|mut gathered| {
                if let Some(oldest) = oldest.filter(|oldest| *oldest != gathered.group.name) {
                    gathered.group.hold = Some(Hold::Older(oldest));
                }
                gathered
            });
            (autoscaler.name_any(), gathered)
        })
        .collect()
}

/// The policies, the oldest first.
#[must_use]
pub fn policies(objects: &Objects) -> Vec<Policy> {
    let mut policies: Vec<_> = objects.policies.iter().collect();
    policies.sort_by_key(|policy| (policy.creation_timestamp().map(|time| time.0), policy.name_any()));
    policies.iter().map(|policy| Policy { name: policy.name_any(), spec: policy.spec.clone() }).collect()
}

/// What is looked up for each machine: clusters have thousands.
struct Index<'a> {
    /// By MachineDeployment.
    machines: HashMap<&'a str, Vec<&'a capi::Machine>>,
    /// By name.
    bare_metal_machines: HashMap<&'a str, &'a BareMetalMachine>,
    /// Names of nodes by `spec.providerID`.
    nodes: HashMap<&'a str, &'a String>,
}

impl<'a> Index<'a> {
    fn of(objects: &'a Objects, nodes: &'a BTreeMap<String, NodeFacts>) -> Self {
        let mut machines: HashMap<&str, Vec<&capi::Machine>> = HashMap::new();
        for machine in &objects.machines {
            if let Some(deployment) = machine.labels().get(capi::DEPLOYMENT_LABEL) {
                machines.entry(deployment).or_default().push(machine);
            }
        }
        let named =
            |machine: &'a Arc<BareMetalMachine>| Some((machine.metadata.name.as_deref()?, &**machine));
        let of_id = |(name, facts): (&'a String, &'a NodeFacts)| Some((facts.provider_id.as_deref()?, name));
        Self {
            machines,
            bare_metal_machines: objects.bare_metal_machines.iter().filter_map(named).collect(),
            nodes: nodes.iter().filter_map(of_id).collect(),
        }
    }
}

fn group(
    objects: &Objects,
    autoscaler: &NodeGroupAutoscaler,
    nodes: &BTreeMap<String, NodeFacts>,
    standby: &StandbyPlan,
    index: &Index<'_>,
) -> Result<Gathered, Unable> {
    let (name, target) = (autoscaler.name_any(), &autoscaler.spec.scale_target_ref.name);
    let found = objects.deployments.iter().find(|deployment| deployment.name_any() == *target);
    let deployment = found.cloned().ok_or_else(|| Unable {
        reason: "TargetNotFound",
        message: format!(
            "there is no MachineDeployment {target} of cluster {}",
            autoscaler.spec.cluster_name
        ),
    })?;
    let reference = deployment.spec.template.spec.infrastructure_ref.clone().unwrap_or_default();
    if reference.kind != "BareMetalMachineTemplate" {
        let kind = &reference.kind;
        let message =
            format!("MachineDeployment {target} is made of {kind}, and not of BareMetalMachineTemplate");
        return Err(Unable { reason: "OtherInfrastructure", message });
    }
    let template = objects.templates.iter().find(|template| template.name_any() == reference.name);
    let template = template.ok_or_else(|| Unable {
        reason: "TemplateNotFound",
        message: format!("there is no BareMetalMachineTemplate {}", reference.name),
    })?;

    let replicas = deployment.spec.replicas.ok_or_else(|| Unable {
        reason: "ReplicasUnset",
        message: format!("MachineDeployment {target} has no replicas: set them, 0 will do"),
    })?;
    let of_group = index.machines.get(target.as_str()).map(Vec::as_slice).unwrap_or_default();
    let mut drains: Vec<Drain> = of_group
        .iter()
        .filter(|machine| machine.metadata.deletion_timestamp.is_none())
        .filter_map(|machine| drain(machine, &name, nodes))
        .collect();
    drains.sort_by(|a, b| a.node.cmp(&b.node));
    let staying = of_group.iter().filter(|machine| machine.metadata.deletion_timestamp.is_none()).count();
    let unpaid = unpaid(replicas, staying, drains.len());
    let mut machines: Vec<Machine> =
        of_group.iter().map(|machine| self::machine(machine, &drains, nodes, index)).collect();
    for drain in drains::pending(&drains, unpaid) {
        machines
            .iter_mut()
            .filter(|machine| machine.name == drain.machine)
            .for_each(|machine| machine.returnable = true);
    }
    let marks = |machine: &&&capi::Machine| {
        let mark = machine.annotations().get(capi::DELETE_MACHINE_ANNOTATION)?;
        let staying = machine.metadata.deletion_timestamp.is_none()
            && drains.iter().all(|drain| drain.machine != machine.name_any());
        staying.then(|| mark == capi::DELETE_MACHINE_OURS)
    };
    let marked = |ours: bool| -> Vec<String> {
        let all = of_group.iter().filter(|machine| marks(machine) == Some(ours));
        all.map(|machine| machine.name_any()).collect()
    };
    let (mut stale_marks, foreign_marks) = (marked(true), marked(false));
    // What the number was lowered for is going, though Cluster API has not begun with it.
    let paid = i32::try_from(drains.len()).unwrap_or(i32::MAX) - unpaid;
    let lowered = i32::try_from(staying).unwrap_or(i32::MAX) - replicas - paid;
    let going = usize::try_from(lowered).unwrap_or(0).min(stale_marks.len());
    for name in stale_marks.drain(..going) {
        machines
            .iter_mut()
            .filter(|machine| machine.name == name)
            .for_each(|machine| machine.deleting = true);
    }
    machines.sort_by(|a, b| a.name.cmp(&b.name));

    let capacity = node_template::offers(template, &deployment);
    let ask = ask(template, &deployment)?;
    let has = standby.groups.get(&pools::named(autoscaler));
    let group = Group {
        name,
        labels: autoscaler.labels().clone(),
        spec: autoscaler.spec.clone(),
        priority: autoscaler.annotations().get(PRIORITY_ANNOTATION).and_then(|p| p.parse().ok()).unwrap_or(0),
        replicas: replicas - unpaid,
        hold: hold(objects, autoscaler, &deployment),
        machines,
        free: has.map(|has| has.free).unwrap_or_default(),
        template: None,
        offers: capacity,
        domain: domain(objects, &ask),
        boot: Sketch::default(),
    };
    let template = node_template::node(template, &deployment);
    let arrivals = of_group.iter().map(|machine| arrival(machine, nodes)).collect();
    Ok(Gathered {
        group,
        deployment,
        replicas,
        staying,
        template,
        drains,
        stale_marks,
        foreign_marks,
        arrivals,
    })
}

fn arrival(machine: &capi::Machine, nodes: &BTreeMap<String, NodeFacts>) -> Arrival {
    let node = machine.status.as_ref().and_then(|status| status.node_ref.as_ref());
    let facts = node.and_then(|node| nodes.get(&node.name));
    let ready = facts.filter(|facts| facts.ready).and_then(|facts| facts.ready_since);
    Arrival {
        name: machine.name_any(),
        created: machine.creation_timestamp().map_or(Timestamp::MIN, |time| time.0),
        ready,
        // One that was a node once teaches nothing more. A Node that is not seen yet is waited for.
        given_up: machine.metadata.deletion_timestamp.is_some()
            || ready.is_none() && facts.is_some_and(NodeFacts::was_ready),
    }
}

fn drain(machine: &capi::Machine, group: &str, nodes: &BTreeMap<String, NodeFacts>) -> Option<Drain> {
    let node = machine.status.as_ref()?.node_ref.as_ref()?.name.clone();
    let (of, since) = nodes.get(&node)?.draining.clone()?;
    let marked = machine.annotations().contains_key(capi::DELETE_MACHINE_ANNOTATION);
    let facts = nodes.get(&node)?;
    let stop = match (facts.cordoned, facts.kept) {
        (false, _) => Some("somebody lets pods on it again"),
        (true, true) => Some("somebody asked that it stays"),
        (true, false) => None,
    };
    (of == group).then(|| Drain { machine: machine.name_any(), node, since, marked, stop })
}

fn machine(
    machine: &capi::Machine,
    drains: &[Drain],
    nodes: &BTreeMap<String, NodeFacts>,
    index: &Index<'_>,
) -> Machine {
    let name = machine.name_any();
    let referred = machine.status.as_ref().and_then(|status| status.node_ref.as_ref()).map(|node| &node.name);
    let infrastructure = machine.spec.infrastructure_ref.as_ref().map(|reference| reference.name.as_str());
    let bare_metal = infrastructure.and_then(|name| index.bare_metal_machines.get(name));
    // A Node is there before Cluster API has seen it, and pods may run on it.
    let joined = || bare_metal.and_then(|found| index.nodes.get(found.spec.provider_id.as_deref()?)).copied();
    let node = referred.or_else(joined);
    // A node of which nothing is known was one: it is not on its way.
    let arrived = node.filter(|node| nodes.get(*node).is_none_or(NodeFacts::was_ready));
    Machine {
        node: arrived.cloned(),
        created: machine.creation_timestamp().map_or(Timestamp::MIN, |time| time.0),
        bound: bare_metal.is_some_and(|found| found.spec.host_ref.is_some()),
        deleting: machine.metadata.deletion_timestamp.is_some()
            || drains.iter().any(|drain| drain.machine == name),
        returnable: false,
        name,
    }
}

/// What machines of a MachineDeployment ask of a host.
pub(super) fn ask(
    template: &BareMetalMachineTemplate,
    deployment: &MachineDeployment,
) -> Result<Ask, Unable> {
    let selector =
        Selector::parse(template.spec.template.spec.host_selector.as_ref()).map_err(|error| Unable {
            reason: "HostSelectorInvalid",
            message: format!("hostSelector of BareMetalMachineTemplate {}: {error}", template.name_any()),
        })?;
    Ok(Ask {
        namespace: template.namespace().unwrap_or_default(),
        machine_uid: String::new(),
        selector,
        failure_domain: deployment.spec.template.spec.failure_domain.clone(),
        group: score::Group::default(),
        image: template.spec.template.spec.image.clone(),
        except: None::<Key>,
    })
}

/// Whether a machine could have the host, whoever has it now.
pub(super) fn could_have(ask: &Ask, host: &BareMetalHost) -> bool {
    let none = BTreeMap::new();
    ask.selector.matches(host.metadata.labels.as_ref().unwrap_or(&none))
        && ask.failure_domain.as_deref().is_none_or(|domain| score::failure_domain(host) == Some(domain))
}

/// The rack that the hosts stand in that machines of the group may have, where it is one.
fn domain(objects: &Objects, ask: &Ask) -> Option<String> {
    let hosts = objects.hosts.iter().filter(|host| could_have(ask, host));
    let mut racks: Vec<_> = hosts.map(|host| score::rack(host)).collect();
    racks.sort_unstable();
    racks.dedup();
    match racks.as_slice() {
        [Some(one)] => Some((*one).to_owned()),
        _ => None,
    }
}

/// Whether an object is to be left alone.
fn is_paused(annotations: &BTreeMap<String, String>) -> bool {
    annotations.contains_key(names::CAPI_PAUSED_ANNOTATION)
        || annotations.contains_key(names::PAUSED_ANNOTATION)
}

fn hold(objects: &Objects, autoscaler: &NodeGroupAutoscaler, deployment: &MachineDeployment) -> Option<Hold> {
    match &objects.cluster {
        None => return Some(Hold::Paused(format!("Cluster {} (not there)", autoscaler.spec.cluster_name))),
        Some(cluster) if cluster.is_paused() => {
            return Some(Hold::Paused(format!("Cluster {}", cluster.name_any())));
        }
        Some(_) => {}
    }
    if is_paused(deployment.annotations()) {
        return Some(Hold::Paused(format!("MachineDeployment {}", deployment.name_any())));
    }
    if is_paused(autoscaler.annotations()) {
        return Some(Hold::Paused(format!("NodeGroupAutoscaler {}", autoscaler.name_any())));
    }
    if autoscaler.spec.actuation_mode != ActuationMode::Recommend
        && let Some(annotation) = delegate::foreign(deployment.annotations())
    {
        return Some(Hold::OtherWriter(annotation.to_owned()));
    }
    if autoscaler.spec.actuation_mode != ActuationMode::Recommend
        && let Some(cluster) = &objects.cluster
        && let Some(name) = cluster.writes_replicas_of(deployment)
    {
        return Some(Hold::Topology { cluster: cluster.name_any(), name: name.to_owned() });
    }
    let conditions =
        deployment.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    ferric_api::condition::is_true(conditions, capi::ROLLING_OUT).then_some(Hold::RollingOut)
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
