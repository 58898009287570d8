//! Ferric: Cluster API infrastructure provider for bare metal.
//!
//! The provider as a library: `main.rs` parses the command line and hands over to [`manager`]. Decisions live in the
//! pure modules [`host`], [`claim`], [`discovery`] and [`autoscaling`]; [`controllers`] are thin shells around them; [`deploy`] and [`boot`] serve the
//! in-RAM agents.

pub mod autoscale_cli;
pub mod autoscaling;
pub mod bmc_cli;
pub mod bmc_events;
pub mod boot;
pub mod capi;
pub mod claim;
pub mod config;
pub mod controllers;
pub mod deploy;
pub mod discovery;
#[cfg(test)]
#[path = "../tests/shared/fuzz.rs"]
mod fuzz;
pub mod host;
pub mod key;
pub mod lease;
pub mod manager;
pub mod patch;
pub mod quirks;
pub mod telemetry;
pub mod watch;
