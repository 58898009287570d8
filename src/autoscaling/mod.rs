//! Autoscaling of MachineDeployments: what is known goes in, decisions come out.
//!
//! What lives here: decisions, from API objects ([`gather`]) to what is done ([`drains`], [`delegate`]) and said
//! ([`report`]). What must not: I/O, a Kubernetes client, a clock, a log, randomness.

mod backoff;
mod behavior;
pub mod capacity;
mod decide;
pub mod delegate;
mod down;
pub mod drains;
pub mod energy;
mod expander;
pub mod explain;
pub mod gather;
mod group;
mod learn;
mod limits;
mod loads;
pub mod node_template;
pub mod pools;
pub mod replay;
pub mod report;
pub mod schedule;
mod side;
mod sketch;
mod spread;
mod standby;
pub mod startup;
#[cfg(test)]
mod tests;
pub mod triggers;
mod up;
mod view;

pub use backoff::Failures;
pub use behavior::{HeldBy, Paced, Past};
pub use decide::decide;
pub use down::Removal;
pub use expander::{Candidate, ranks};
pub use group::{FreeHosts, Group, Hold, Machine};
pub use learn::{Arrival, Learned, expected, hardware_class};
pub use limits::{Allowed, Policy, Room, used};
pub use sketch::{Sketch, SketchError};
pub use standby::{FreeHost, GroupStandby, Place, StandbyGroup, StandbyPlan, standby};
pub use view::{Change, Decisions, GroupMemory, Memory, NodeState, Verdict, Victim, View, Why};

/// Name of the trigger by pods, where a spec has none.
const DEFAULT_PODS: &str = "pods";
/// Name of the trigger by utilization, where a spec has none.
const DEFAULT_UTILIZATION: &str = "utilization";
