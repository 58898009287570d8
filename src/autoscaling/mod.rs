//! Autoscaling of MachineDeployments: what is known goes in, decisions come out.
//!
//! What lives here: decisions. What must not: I/O, a Kubernetes client, a clock, a log, randomness.

pub mod capacity;
pub mod schedule;
