//! Tests of the API types: what they accept, how they print, and what becomes of them as CustomResourceDefinitions.
//! What the CEL rules refuse is tested against a real API server (`tests/api_admission.rs` of the root package).
#![allow(clippy::unwrap_used)]

mod address;
mod condition;
mod crds;
mod render;
mod values;
