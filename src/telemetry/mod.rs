//! What the manager tells about itself: logs, metrics, health and Kubernetes events.
//!
//! Nothing in here decides anything, and nothing in here can hold up a reconcile.

pub mod events;
pub mod health;
pub mod logs;
pub mod metrics;

pub use events::{EventKind, Events};
pub use metrics::Metrics;

#[cfg(test)]
mod shown_tests;
