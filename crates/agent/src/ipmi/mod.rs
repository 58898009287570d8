//! The machine's own BMC, asked through the kernel's IPMI device (`/dev/ipmi0`). Reads only.
//!
//! [`device`]: what the kernel is handed and what it hands back, as bytes. [`commands`]: what is asked of a BMC. [`reading`]:
//! in which order, and when it is given up. All of it is pure; the exchange itself is in the program.
//!
//! Messages are those of `ipmi-rs-core` where that has them. `ipmi-rs`, which has the exchange too, cannot be taken without
//! its IPMI over LAN, and with that a second version of six libraries of cryptography and random numbers.

pub mod commands;
pub mod device;
pub mod reading;
#[cfg(test)]
mod tests;

pub use reading::{Ask, AskError, read};
