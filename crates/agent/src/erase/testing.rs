//! A drive that takes the commands as bytes and does to a disk in memory what it was built to do.

#![allow(clippy::unwrap_used)]

use std::io;

use ferric_image::{BlockDevice, MemDevice};

use super::{
    ata::{self, Registers},
    drive::{CommandError, Drive, Interface, Queue},
    nvme::AdminCommand,
    scsi,
};

/// What the drive does with its blocks when it erases itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Zeros,
    Noise,
    /// It lies.
    Nothing,
    OnlyTheFirstHalf,
}

/// The drive; the fields are its nature, its state and what it was asked.
#[derive(Debug, Clone)]
pub(super) struct FakeDrive {
    pub(super) disk: MemDevice,
    pub(super) interface: Interface,
    pub(super) queue: Queue,
    pub(super) effect: Effect,
    /// Names of the commands, in order.
    pub(super) asked: Vec<String>,
    /// Commands that are refused.
    pub(super) refuse: Vec<&'static str>,

    // NVMe
    pub(super) sanicap: u8,
    pub(super) oacs: u8,
    pub(super) fna: u8,
    pub(super) namespaces: Vec<u32>,
    /// SSTAT and SCDW10 of the log.
    pub(super) sanitize: (u8, u8),
    /// Looks at the log until a sanitize that runs is over; its end.
    pub(super) looks: u32,
    pub(super) ends_as: u8,

    // ATA
    pub(super) words: Vec<(usize, u16)>,
    pub(super) password: Option<[u8; 32]>,
    pub(super) locked: bool,
    pub(super) prepared: bool,
    /// COUNT of the sanitize status is read from `looks`.
    pub(super) sanitize_failed: bool,
    /// It loses its power in the middle of an erase: everything fails from there on, and it is locked.
    pub(super) dies_in_erase: bool,
}

impl FakeDrive {
    pub(super) fn new(interface: Interface, disk: &MemDevice) -> Self {
        Self {
            disk: disk.clone(),
            interface,
            queue: Queue::default(),
            effect: Effect::Zeros,
            asked: Vec::new(),
            refuse: Vec::new(),
            sanicap: 0,
            oacs: 0,
            fna: 0,
            namespaces: vec![1],
            sanitize: (0, 0),
            looks: 2,
            ends_as: 1,
            words: vec![(82, 2), (83, 0x4000), (128, 1)],
            password: None,
            locked: false,
            prepared: false,
            sanitize_failed: false,
            dies_in_erase: false,
        }
    }

    fn erase(&mut self) {
        let size = self.disk.size();
        let done = match self.effect {
            Effect::Zeros => self.disk.write_zeroes(0, size),
            Effect::Noise => self.disk.write_at(0, &vec![0x6b; size as usize]),
            Effect::Nothing => Ok(()),
            Effect::OnlyTheFirstHalf => self.disk.write_zeroes(0, size / 2),
        };
        done.unwrap();
    }

    fn note(&mut self, name: &str) -> Result<(), CommandError> {
        self.asked.push(name.to_owned());
        if self.refuse.contains(&name) {
            return Err(CommandError::Refused("no".to_owned()));
        }
        Ok(())
    }

    pub(super) fn was_asked(&self, name: &str) -> bool {
        self.asked.iter().any(|asked| asked == name)
    }
}

impl Drive for FakeDrive {
    fn interface(&self) -> Interface {
        self.interface
    }

    fn queue(&self) -> Queue {
        self.queue
    }

    fn nvme(&mut self, command: &AdminCommand, data: &mut [u8]) -> Result<u32, CommandError> {
        if !matches!(self.interface, Interface::Nvme { .. }) {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        }
        assert_eq!(data.len(), command.transfer());
        let bytes: Vec<u8> = command.to_ioctl(0).iter().flat_map(|word| word.to_ne_bytes()).collect();
        let cdw10 = u32::from_ne_bytes([bytes[40], bytes[41], bytes[42], bytes[43]]);
        match (bytes[0], cdw10 & 0xff) {
            (0x06, 1) => {
                self.note("identify controller")?;
                (data[256], data[328], data[524]) = (self.oacs, self.sanicap, self.fna);
            }
            (0x06, 0) => {
                self.note("identify namespace")?;
                data[26] = 1;
            }
            (0x06, _) => {
                self.note("list namespaces")?;
                for (number, id) in self.namespaces.iter().enumerate() {
                    data[4 * number..4 * number + 4].copy_from_slice(&id.to_le_bytes());
                }
            }
            (0x02, 0x81) => {
                self.note("sanitize log")?;
                if self.sanitize.0 == 2 {
                    if self.looks == 0 {
                        if self.ends_as == 1 {
                            self.erase();
                        }
                        self.sanitize.0 = self.ends_as;
                    }
                    self.looks = self.looks.saturating_sub(1);
                }
                (data[1], data[2], data[4]) = (0x80, self.sanitize.0, self.sanitize.1);
            }
            (0x84, 1) => {
                self.note("leave failure")?;
                self.sanitize.0 = 0;
            }
            (0x84, action) => {
                self.note(if action & 7 == 4 { "sanitize crypto" } else { "sanitize block" })?;
                assert!(action & 8 != 0, "a failed sanitize could not be left");
                self.sanitize = (2, action as u8);
            }
            (0x80, low) => {
                let erase = cdw10 >> 9 & 7;
                self.note(if erase == 2 { "format crypto" } else { "format user data" })?;
                assert_eq!((low & 0xf, erase & 3), (1, erase), "the format is to stay");
                self.erase();
            }
            other => panic!("{other:?}"),
        }
        Ok(0)
    }

    fn ata(&mut self, command: &ata::Command, data: &mut [u8]) -> Result<Registers, CommandError> {
        if self.interface != Interface::Ata {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        }
        let cdb = scsi::cdb(command);
        let password = || -> [u8; 32] { data[2..34].try_into().unwrap() };
        let aborted = || Err(CommandError::Refused("ATA status 51h, error 04h: command aborted".to_owned()));
        match cdb[14] {
            0xec => {
                self.note("identify")?;
                for (number, word) in &self.words {
                    let mut word = *word;
                    if *number == 128 {
                        word |= u16::from(self.password.is_some()) << 1 | u16::from(self.locked) << 2;
                    }
                    data[2 * number..2 * number + 2].copy_from_slice(&word.to_le_bytes());
                }
            }
            0xf1 => {
                self.note("set password")?;
                self.password = Some(password());
            }
            0xf2 => {
                self.note("unlock")?;
                if self.password != Some(password()) {
                    return aborted();
                }
                self.locked = false;
            }
            0xf3 => {
                self.note("prepare")?;
                self.prepared = true;
            }
            0xf4 => {
                self.note(if data[0] & 2 != 0 { "erase enhanced" } else { "erase" })?;
                if !self.prepared || self.password != Some(password()) {
                    return aborted();
                }
                if self.dies_in_erase {
                    self.locked = true;
                    self.refuse = vec!["identify", "unlock", "disable"];
                    return Err(CommandError::Refused("nothing in time".to_owned()));
                }
                self.erase();
                self.password = None;
            }
            0xf6 => {
                self.note("disable")?;
                if self.locked || self.password != Some(password()) {
                    return aborted();
                }
                self.password = None;
            }
            0xb4 if cdb[4] == 0 => {
                self.note("sanitize status")?;
                if cdb[6] & 1 != 0 {
                    self.sanitize_failed = false;
                }
                if self.sanitize_failed {
                    return Ok(Registers { error: 4, status: 0x51, count: 0, lba: 1 });
                }
                if self.sanitize.0 == 2 {
                    if self.looks > 0 {
                        self.looks -= 1;
                        return Ok(Registers { error: 0, status: 0x50, count: 0x4000, lba: 0x8000 });
                    }
                    self.erase();
                    self.sanitize.0 = 1;
                }
                return Ok(Registers { error: 0, status: 0x50, count: 0x8000, lba: 0xffff });
            }
            0xb4 => {
                self.note(if cdb[4] == 0x11 { "sanitize crypto" } else { "sanitize block" })?;
                self.sanitize.0 = 2;
                return Ok(Registers { error: 0, status: 0x50, count: 0, lba: 0 });
            }
            other => panic!("{other:x}"),
        }
        Ok(Registers::default())
    }
}
