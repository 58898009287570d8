//! Server side of the agent protocol: who may connect, what is asked of the agents, and the images they write.
//!
//! - [`hub`]: the connected agents and their tasks, as the host controller sees them. [`tasks`] is its pure core.
//! - [`registrar`]: what the host controller does for this module: the record is its business alone.
//! - [`server`]: one TLS listener for gRPC and images; [`service`] and [`session`] speak gRPC, [`files`] serves images.
//! - [`images`]: the cache of verified images, filled in the background.
//! - [`keys`]: the provider's CA and the key of boot tokens, kept in a Secret.
//!
//! Everything that comes from an agent is hostile until proven otherwise: messages, counts, strings, rates and streams
//! are all bounded here, so that nothing behind this module has to think of it.

pub mod config_drive;
pub mod connection;
pub mod files;
pub mod hub;
pub mod images;
pub mod keys;
pub(crate) mod range;
pub mod registrar;
mod screen;
pub mod server;
mod service;
mod session;
mod tasks;

pub use hub::{AgentView, Hub, NotConnected, TaskOutcome, TaskState};
pub use images::{ImageCache, ImageState, ReadyImage};
pub use keys::ProviderKeys;
pub use registrar::{Leadership, RegisterError, Registrar};
pub use server::{AgentServer, Limits};
