//! What is needed of a drive beyond reading and writing its blocks.

use std::io;

use super::{ata, nvme};

/// What a drive understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// A namespace of an NVMe controller.
    Nvme {
        /// Its number.
        namespace: u32,
    },
    /// An ATA drive, directly or behind a SCSI-to-ATA translation.
    Ata,
    /// Reading and writing only: virtio, SCSI, RAID volumes, cards.
    Other,
}

/// What the kernel's queue of a block device says (`/sys/block/*/queue`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queue {
    /// `rotational`: it has spinning platters.
    pub rotational: bool,
    /// `discard_max_bytes`: most bytes that one discard may have; 0 where there are none.
    pub discard_max_bytes: u64,
    /// `write_zeroes_max_bytes`: most bytes that the device zeroes with one command; 0 where it cannot.
    pub write_zeroes_max_bytes: u64,
}

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It was not sent, or no answer came.
    #[error("the command cannot be sent: {0}")]
    NotSent(#[from] io::Error),
    /// The drive answered with an error.
    #[error("the drive answered with {0}")]
    Refused(String),
    /// The answer is not one that the specification has.
    #[error("the answer makes no sense: {0}")]
    Nonsense(&'static str),
}

/// One drive. Calls block for as long as the timeout of the command says.
pub trait Drive: Send {
    /// What it understands.
    fn interface(&self) -> Interface;

    /// What the kernel says of it.
    fn queue(&self) -> Queue;

    /// Sends an NVMe admin command; `data` has the size that the command transfers. The first word of the answer.
    fn nvme(&mut self, command: &nvme::AdminCommand, data: &mut [u8]) -> Result<u32, CommandError>;

    /// Sends an ATA command; `data` has the size that the command transfers.
    fn ata(&mut self, command: &ata::Command, data: &mut [u8]) -> Result<ata::Registers, CommandError>;
}

/// A drive that takes no commands, with what the kernel says of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCommands(pub Queue);

impl Drive for NoCommands {
    fn interface(&self) -> Interface {
        Interface::Other
    }

    fn queue(&self) -> Queue {
        self.0
    }

    fn nvme(&mut self, _: &nvme::AdminCommand, _: &mut [u8]) -> Result<u32, CommandError> {
        Err(io::Error::from(io::ErrorKind::Unsupported).into())
    }

    fn ata(&mut self, _: &ata::Command, _: &mut [u8]) -> Result<ata::Registers, CommandError> {
        Err(io::Error::from(io::ErrorKind::Unsupported).into())
    }
}
