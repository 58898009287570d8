//! BMC drivers behind one trait, with per-BMC scheduling and sessions.
//!
//! What lives here: the [`Bmc`] trait, the drivers for Redfish, IPMI, Wake-on-LAN and Proxmox VE, and [`BmcPool`] that keeps one
//! connection a BMC with its session, its queue and its circuit breaker. What must not: Kubernetes, and any decision
//! about *when* to do something to a server.

mod breaker;
mod capture;
#[cfg(test)]
mod cases;
mod counters;
mod desk;
mod error;
#[cfg(test)]
#[path = "../../../tests/shared/fuzz.rs"]
mod fuzz;
mod ipmi;
mod limits;
mod pool;
mod proxmox;
mod quirks;
mod redfish;
mod tls;
mod turns;
mod types;
mod wol;

pub use capture::{Capture, CapturedAnswer};
pub use counters::{Counters, CountersSnapshot};
pub use error::BmcError;
pub use ipmi::in_band;
#[cfg(feature = "ipmi-server")]
pub use ipmi::server as ipmi_server;
pub use ipmi::{Console, ConsoleInput, open_console};
pub use limits::Limits;
pub use pool::BmcPool;
pub use quirks::{QuirkError, QuirkMatch, Quirks};
pub use redfish::{
    Can, FirmwareFound, Health, ManagerFound, MediaSlot, ProbeOptions, Probed, SecureBoot, Service, Survey,
    SystemFound, Temperature, Would, probe,
};
pub use tls::certificate_fingerprint;
pub use types::{
    Bmc, BootMethod, BootTarget, ConnectOptions, Credentials, EventSink, MOST_PARTS, ManagerFacts,
    PowerAction, PowerState, Subscribed, SystemFacts, UnhealthyPart,
};
