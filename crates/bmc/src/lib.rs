//! BMC drivers behind one trait, with per-BMC scheduling and sessions.
//!
//! What lives here: the [`Bmc`] trait, the Redfish driver, and [`BmcPool`] that keeps one connection a BMC with its
//! session, its queue and its circuit breaker. What must not: Kubernetes, and any decision about *when* to do
//! something to a server.

mod breaker;
mod counters;
mod error;
mod limits;
mod pool;
mod redfish;
mod tls;
mod types;

pub use counters::{Counters, CountersSnapshot};
pub use error::BmcError;
pub use limits::Limits;
pub use pool::BmcPool;
pub use types::{
    Bmc, BootMethod, BootTarget, ConnectOptions, Credentials, PowerAction, PowerState, SystemFacts,
};
