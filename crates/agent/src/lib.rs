//! The agent: what runs on a machine that was booted to be inspected, cleaned or written. It dials its provider,
//! registers a key that it has just made, and works off the tasks that come, one at a time.
//!
//! It is a library so that the same code runs as the only process of a real machine and, a thousand times over, in the
//! simulator: everything that belongs to one machine comes through [`Platform`].
//!
//! - [`loader_config`]: which kernel a written disk would start. Pure.
//! - [`hints`]: which disk is the root disk. Pure.
//! - [`ipmi`]: what the machine's own BMC is asked. Pure.
//! - [`plan`]: what a task means, and whether it can be done. Pure.
//! - [`run`]: the whole life, from boot data to [`Exit`].
//!
//! Inside: `ledger` remembers tasks so that none is done twice; `worker` does them, `deploy` those that write images; `session` talks; `download` fetches
//! images and resumes; `connection` dials.

mod backoff;
pub mod boot_entry;
mod connection;
mod deploy;
mod download;
pub mod erase;
pub mod hints;
pub mod ipmi;
mod ledger;
pub mod load_option;
pub mod loader_config;
mod options;
pub mod plan;
mod platform;
mod run;
mod session;
mod worker;

pub use boot_entry::FirmwareVariables;
pub use options::AgentOptions;
pub use platform::Platform;
pub use run::{AgentError, Exit, run};
