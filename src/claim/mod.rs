//! Which host for whom: the pure half of the machine and cluster controllers.
//!
//! What lives here: label selectors ([`selector`]), the filter and the score over hosts ([`score`]), the plan for a
//! `BareMetalMachine` ([`plan`], [`bound`]) and for a `BareMetalCluster` ([`cluster`]), what they report ([`report`])
//! and the in-memory hints that keep many machines out of each other's way ([`board`]). What must not: I/O, clocks,
//! randomness. A claim is two compare-and-swaps, intent first; correctness rests on these two and on nothing else in
//! here.

pub mod board;
pub mod bound;
pub mod cluster;
pub mod index;
pub mod plan;
pub mod report;
pub mod score;
pub mod selector;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod simulation;
