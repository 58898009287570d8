//! Autoscaling of MachineDeployments: what is known goes in, decisions come out.
//!
//! What lives here: decisions. What must not: I/O, a Kubernetes client, a clock, a log, randomness.

mod backoff;
mod behavior;
pub mod capacity;
mod decide;
mod down;
mod expander;
mod group;
mod limits;
mod loads;
pub mod schedule;
mod sketch;
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
pub use limits::{Allowed, Policy, Room};
pub use sketch::{Sketch, SketchError};
pub use view::{Change, Decisions, GroupMemory, Memory, NodeState, Verdict, Victim, View, Why};

/// Name of the trigger by pods, where a spec has none.
const DEFAULT_PODS: &str = "pods";
/// Name of the trigger by utilization, where a spec has none.
const DEFAULT_UTILIZATION: &str = "utilization";
