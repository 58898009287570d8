//! A fleet of simulated servers in one process.
//!
//! Each server has a Redfish BMC over HTTPS with its own address and credentials, disks, and a life: its power comes
//! on, firmware boots what it was told to boot, the *real* agent library runs from "memory" and writes its disk, and
//! what is on the disk then says what runs. `docs/simulator.md` says plainly what is simulated and what is not.
//!
//! The fleet has no access to any management cluster: all it knows arrives through its BMCs, the agent protocol and
//! its own disks.

mod admin;
mod agent;
mod boot;
mod config;
mod disk;
mod error;
mod fault;
mod fleet;
mod inventory;
mod ipmi;
mod journal;
mod life;
mod os;
mod redfish;
mod rules;
mod server;
mod spec;
mod tls;

pub use admin::Admin;
pub use config::{Delays, DiskClass, DiskKind, DiskMode, Family, FleetConfig, HardwareClass};
pub use error::{Error, Result};
pub use fault::{BmcFault, Faults};
pub use fleet::Fleet;
pub use inventory::{CA_SECRET, ManifestOptions, ServerInfo};
pub use journal::{Counters, JournalEntry, JournalEvent};
pub use life::Power;
pub use os::OsStatus;
pub use rules::{Effect, Rule};
pub use server::ServerStatus;
pub use spec::{DiskSpec, NicSpec, ServerSpec};
