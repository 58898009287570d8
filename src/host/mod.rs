//! A host's life.
//!
//! [`plan`] is pure: an [`Observation`] in, one [`Step`] out. [`record`] holds the pure transitions of the host's
//! record, [`report`] turns a plan into a status, [`index`] finds hosts that name the same server. What must not be
//! here: a clock, a client, a log line.

pub mod addresses;
pub mod backoff;
pub mod bmc_match;
pub mod cards;
pub mod consumer;
pub mod duplicates;
pub mod in_band;
pub mod job;
pub mod memory;
pub mod network;
pub mod observation;
pub mod plan;
pub mod record;
pub mod report;
pub mod standby;
pub mod step;
pub mod uninvited;

pub use consumer::{Consumer, Desired};
pub use job::Job;
pub use memory::{AgentNetwork, BmcMemory, Failure, JobOutcome, KnownPorts, Seen};
pub use observation::{Limits, Observation};
pub use plan::plan;
pub use record::RecordWrite;
pub use step::{Action, AgentTask, Plan, Step, Wait};
