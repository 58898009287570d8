//! What is known of a node group when it is decided about.

use std::collections::BTreeMap;
use std::fmt;

use ferric_api::autoscaling::NodeGroupAutoscalerSpec;
use jiff::Timestamp;

use super::Sketch;
use super::schedule::model::Node;

/// Fewer machines than these teach nothing about how long the next one takes.
pub(super) const SAMPLES: u32 = 5;

/// A node group: a NodeGroupAutoscaler, what it scales, and what that may be made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// Name of the NodeGroupAutoscaler.
    pub name: String,
    /// Its labels: limits select by them.
    pub labels: BTreeMap<String, String>,
    /// What is asked for.
    pub spec: NodeGroupAutoscalerSpec,
    /// The annotation that the expander `Priority` reads; 0 where there is none.
    pub priority: i32,
    /// `spec.replicas` of what is scaled.
    pub replicas: i32,
    /// Why nothing may be changed now, if so.
    pub hold: Option<Hold>,
    /// The Machines, in the order of their names.
    pub machines: Vec<Machine>,
    /// Hosts that machines of the group could have now.
    pub free: FreeHosts,
    /// A node of the group that could be added; none where it is not known what one would be.
    pub template: Option<Node>,
    /// What one node of the group offers, by resource, as quantities.
    pub offers: BTreeMap<String, String>,
    /// Rack or zone that its hosts stand in, where it is one.
    pub domain: Option<String>,
    /// How long its machines took to become nodes, in seconds.
    pub boot: Sketch,
}

/// Why the number of replicas of a group may not be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// The cluster, the MachineDeployment or the autoscaler is paused.
    Paused(String),
    /// New machines are taking the place of old ones.
    RollingOut,
    /// cluster-autoscaler's annotations are there that are not ours: it writes the number.
    OtherWriter(String),
    /// Cluster API writes the number from the Cluster's topology.
    Topology {
        /// The Cluster.
        cluster: String,
        /// Name of the MachineDeployment in the topology.
        name: String,
    },
    /// Another NodeGroupAutoscaler, older than this, scales the same object.
    Older(String),
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused(what) => write!(f, "{what} is paused"),
            Self::RollingOut => f.write_str("the MachineDeployment is being rolled out"),
            Self::OtherWriter(annotation) => write!(
                f,
                "the MachineDeployment has the annotation {annotation}, which was not written here, so cluster-autoscaler writes \
                 its replicas: remove it, and use actuationMode Delegate if it is to"
            ),
            Self::Topology { cluster, name } => write!(
                f,
                "Cluster {cluster} says how many replicas there are, and Cluster API writes that number: remove `replicas` of \
                 {name} from spec.topology.workers.machineDeployments of the Cluster"
            ),
            Self::Older(name) => {
                write!(f, "NodeGroupAutoscaler {name} is older and scales the same MachineDeployment")
            }
        }
    }
}

/// A Machine of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its node, once it has one that was ready.
    pub node: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// It has a host.
    pub bound: bool,
    /// It is going: it does not count any more.
    pub deleting: bool,
    /// It is going, and can be taken back: its node is being emptied, and the number was not lowered for it.
    pub returnable: bool,
}

/// Hosts that are free, by how soon they are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FreeHosts {
    /// In our agent.
    pub running: i32,
    /// Off, with the image on their disk.
    pub staged: i32,
    /// Off.
    pub off: i32,
}

impl FreeHosts {
    /// All of them.
    #[must_use]
    pub fn all(self) -> i32 {
        self.running + self.staged + self.off
    }
}

impl Group {
    /// How long a machine may take to become a node, in seconds: what the spec says at most, and less where the group's own
    /// machines have shown that less is enough. Half as long again as 99 of 100 took, after five of them, and ten minutes at
    /// least.
    #[must_use]
    pub fn patience(&self) -> i64 {
        /// Servers that boot faster than this are no reason to be impatient.
        const LEAST: i64 = 600;
        let most = i64::from(self.spec.provisioning.timeout_seconds);
        let learned = (self.boot.samples() >= SAMPLES).then(|| self.boot.quantile(99)).flatten();
        learned.map_or(most, |p99| i64::try_from(p99 + p99 / 2).unwrap_or(i64::MAX).max(LEAST).min(most))
    }

    /// Whether its nodes are its own: those of an autoscaler that gives way to an older one count with that one.
    #[must_use]
    pub fn counts(&self) -> bool {
        !matches!(self.hold, Some(Hold::Older(_)))
    }

    /// Machines that are on their way to becoming nodes, and are not late.
    pub fn in_flight(&self, now: Timestamp) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(move |machine| machine.waits() && !self.is_late(machine, now))
    }

    /// Machines that should be nodes by now.
    pub fn late(&self, now: Timestamp) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(move |machine| machine.waits() && self.is_late(machine, now))
    }

    fn is_late(&self, machine: &Machine, now: Timestamp) -> bool {
        now.duration_since(machine.created).as_secs() > self.patience()
    }

    /// Nodes that are being emptied and can be taken back at once.
    #[must_use]
    pub fn returnable(&self) -> i32 {
        i32::try_from(self.machines.iter().filter(|machine| machine.returnable).count()).unwrap_or(i32::MAX)
    }

    /// More Machines than replicas: some are to go, and Cluster API has not said which. Nothing more is lowered meanwhile.
    #[must_use]
    pub fn surplus(&self) -> bool {
        let there = self.machines.iter().filter(|machine| !machine.deleting).count();
        i32::try_from(there).unwrap_or(i32::MAX) > self.replicas
    }

    /// Replicas that are asked for and of which there is no Machine yet.
    #[must_use]
    pub fn ordered(&self) -> i32 {
        let there = self.machines.iter().filter(|machine| !machine.deleting).count();
        (self.replicas - i32::try_from(there).unwrap_or(i32::MAX)).max(0)
    }

    /// The most that the group can have now: what its spec allows, and what its hosts allow.
    #[must_use]
    pub fn effective_max(&self) -> i32 {
        let has = |machine: &&Machine| machine.bound && (!machine.deleting || machine.returnable);
        let bound = self.machines.iter().filter(has).count();
        let hosts = i32::try_from(bound).unwrap_or(i32::MAX).saturating_add(self.free.all());
        self.spec.max_replicas.min(hosts)
    }

    /// What keeps it from more nodes than [`effective_max`](Self::effective_max), in a few words.
    #[must_use]
    pub fn keeps(&self) -> String {
        match self.spec.max_replicas {
            most if self.effective_max() == most => format!("maxReplicas {most}"),
            _ => format!("{} hosts are free", self.free.all()),
        }
    }
}

impl Machine {
    fn waits(&self) -> bool {
        self.node.is_none() && !self.deleting
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn machine(name: &str, node: Option<&str>, created: i64, bound: bool) -> Machine {
        let node = node.map(str::to_owned);
        Machine {
            name: name.to_owned(),
            node,
            created: at(created),
            bound,
            deleting: false,
            returnable: false,
        }
    }

    fn group(machines: Vec<Machine>) -> Group {
        let spec = NodeGroupAutoscalerSpec { max_replicas: 10, ..NodeGroupAutoscalerSpec::default() };
        Group { spec, replicas: 4, machines, ..Group::default() }
    }

    #[test]
    fn machines_are_nodes_or_on_their_way_or_late() {
        let mut gone = machine("d", None, 0, true);
        gone.deleting = true;
        let group = group(vec![
            machine("a", Some("node-a"), 0, true),
            machine("b", None, 3000, true),
            machine("c", None, 0, false),
            gone,
        ]);
        let names = |machines: Vec<&Machine>| machines.iter().map(|m| m.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(group.in_flight(at(3601)).collect()), ["b"]);
        assert_eq!(names(group.late(at(3601)).collect()), ["c"]);
        assert_eq!(group.ordered(), 1, "of four replicas three are Machines that stay");
    }

    #[test]
    fn there_are_no_more_than_hosts() {
        let mut group = group(vec![machine("a", None, 0, true), machine("b", None, 0, false)]);
        assert_eq!(group.effective_max(), 1);
        group.free = FreeHosts { running: 1, staged: 2, off: 3 };
        assert_eq!(group.effective_max(), 7);
        group.free.off = 100;
        assert_eq!(group.effective_max(), 10);
    }

    #[test]
    fn patience_is_learned() {
        let mut group = group(Vec::new());
        assert_eq!(group.patience(), 3600);
        (0..5).for_each(|_| group.boot.add(1000));
        assert!((1500..1800).contains(&group.patience()), "{}", group.patience());
        group.boot = Sketch::default();
        (0..5).for_each(|_| group.boot.add(20));
        assert_eq!(group.patience(), 600);
        (0..200).for_each(|_| group.boot.add(10_000));
        assert_eq!(group.patience(), 3600, "the spec is the limit");
    }
}
