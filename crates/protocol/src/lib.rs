//! What the in-RAM agent and the provider say to each other.
//!
//! - [`v1`]: the messages and the gRPC service, generated from `proto/agent.proto`, where the rules are written.
//! - [`boot`]: what the provider puts on the kernel command line of a machine that is to run the agent.
//! - [`net`]: the network that the agent is told to make for itself, also on that line.
//! - [`token`]: boot tokens, which tie an agent's key to the host that was told to boot.
//! - [`tls`]: who trusts whom, and why.
//!
//! No I/O lives here: the agent brings the connection, the provider the server.

pub mod boot;
pub mod net;
pub mod tls;
pub mod token;
mod version;

/// Messages and service of `ferric.agent.v1`, generated from `proto/agent.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("ferric.agent.v1");
}

pub use boot::{BootData, BootDataError};
pub use net::{NetworkPlan, NetworkPlanError};
pub use token::{BootToken, DiscoveryToken, TokenError, TokenUse};
pub use version::{OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, UnsupportedVersion, check_version};
