//! Erasing a drive by the strongest method that it has.
//!
//! - [`method`]: which methods a drive has, in which order, and what keeps it from the others. Pure.
//! - [`nvme`], [`ata`], [`scsi`]: commands and answers, byte for byte. Pure.
//! - [`full`]: takes one method after the other until one has worked *and* was verified; writes down why the others did
//!   not. Everything that it does to a drive goes through [`Drive`] and [`BlockDevice`](ferric_image::BlockDevice).
//! - [`release`]: takes back the password that an interrupted erase left on an ATA drive.
//!
//! What is claimed: that the blocks which were on the drive before cannot be read through it any more. What a drive does
//! with blocks that it does not show (bad, spare) nobody outside can see; the evidence names the method, and says in which
//! cases that rests on the drive's word.

pub mod ata;
mod drive;
mod engine;
mod evidence;
pub mod method;
pub mod nvme;
mod sanitize;
pub mod scsi;
mod security;
#[cfg(test)]
mod testing;

pub use drive::{CommandError, Drive, Interface, NoCommands, Queue};
pub use engine::{EraseError, Pace, Step, full};
pub use evidence::{Attempt, Evidence};
pub use security::{Released, release};
