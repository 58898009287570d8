//! Where could this pod run, and could this node go?: kube-scheduler's filters as a pure simulation.
//!
//! Fed with objects, [`Cluster`] keeps what decides where pods can run. A [`Simulation`] of it answers whether a pod fits
//! a node and why not ([`Simulation::feasible`]), which new nodes the waiting pods need ([`pack()`]), and whether a node
//! can go: with a proof that names a new place for every pod on it ([`ScaleDown`]). No I/O, no clock, no log; the same
//! objects give the same answers, whatever order they came in. What is simulated and what is not says [`model`].

pub mod balance;
mod bits;
pub mod cluster;
mod dice;
mod fill;
pub mod from_api;
mod from_api_storage;
mod index;
mod matching;
pub mod model;
mod pack;
mod profile;
pub mod quantity;
mod reason;
mod requests;
mod scale_down;
pub mod select;
mod simulation;
mod state;
pub mod symbols;
mod topology;
mod volumes;

pub use cluster::Cluster;
pub use pack::{Group, NewNode, Packing, Plan, Unplaced, pack};
pub use reason::Reason;
pub use scale_down::{Blocked, DrainPolicy, Move, Proof, ScaleDown};
pub use simulation::{NodeId, PodId, Simulation};
pub use state::Mark;

#[doc(hidden)]
pub mod cases;

#[cfg(test)]
mod tests;
