//! A BMC for tests: what stands behind the sessions of [`super::server`], with faults to switch on. Whether it speaks
//! IPMI, and not only what the driver takes for it, is shown by `ipmitool` in `peers.rs`.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::Instant;

use super::machine::Chance;
use super::server::{Account, Command, Controller, Fate, Server, Settings};
use super::suite::Suite;

/// Numbers that look random and are the same in each run.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Chance for Dice {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = (self.0 >> 32) as u8;
        }
    }
}

/// The BMC and its server.
#[derive(Debug)]
pub(crate) struct FakeBmc {
    pub(crate) suites: Vec<Suite>,
    /// Whether it answers Get Channel Cipher Suites.
    pub(crate) lists_suites: bool,
    pub(crate) speaks_v2: bool,
    pub(crate) slots: usize,
    /// Completion codes that the next commands end with; 0xFF: it is done all the same.
    pub(crate) next_codes: Vec<u8>,
    /// The same for the next commands of a kind.
    pub(crate) codes_of: HashMap<(u8, u8), Vec<u8>>,
    /// What becomes of the next command of a kind.
    pub(crate) fate_of: HashMap<(u8, u8), Fate>,
    pub(crate) power: bool,
    pub(crate) faults: [u8; 2],
    pub(crate) boot_flags: [u8; 5],
    pub(crate) keeps_boot_flags: bool,
    pub(crate) guid: Option<[u8; 16]>,
    pub(crate) fru: Vec<u8>,
    pub(crate) sdrs: Vec<Vec<u8>>,
    pub(crate) readings: HashMap<u8, Vec<u8>>,
    /// Commands done in sessions: network function, command, data.
    pub(crate) journal: Vec<(u8, u8, Vec<u8>)>,
    /// Whether there is a serial port: it says what it is told, in capitals.
    pub(crate) serial: bool,
    pub(crate) breaks: usize,
    pub(crate) port: u16,
    pub(super) server: Server,
    pub(super) dice: Dice,
    /// Its sessions do not grow old.
    pub(super) now: Instant,
}

impl Default for FakeBmc {
    fn default() -> Self {
        Self {
            suites: vec![Suite::Sha1, Suite::Sha256],
            lists_suites: true,
            speaks_v2: true,
            slots: 4,
            next_codes: Vec::new(),
            codes_of: HashMap::new(),
            fate_of: HashMap::new(),
            power: false,
            faults: [0; 2],
            boot_flags: [0; 5],
            keeps_boot_flags: true,
            guid: Some([0xA1; 16]),
            fru: Vec::new(),
            sdrs: Vec::new(),
            readings: HashMap::new(),
            journal: Vec::new(),
            serial: false,
            breaks: 0,
            port: 623,
            server: Server::default(),
            dice: Dice(99),
            now: Instant::now(),
        }
    }
}

impl FakeBmc {
    /// Forgets its sessions, as at a restart.
    pub(crate) fn restart(&mut self) {
        self.server.forget();
    }

    /// How many sessions there are, half-open ones included.
    pub(crate) fn sessions(&self) -> usize {
        self.server.sessions()
    }

    /// Commands of a kind that were done.
    pub(crate) fn count(&self, netfn: u8, command: u8) -> usize {
        self.journal.iter().filter(|it| (it.0, it.1) == (netfn, command)).count()
    }

    /// What it answers to a datagram.
    pub(crate) fn handle(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let (mut server, mut dice) = (std::mem::take(&mut self.server), self.dice.clone());
        let answer = server.answer(datagram, self.now, self, &mut |bytes| dice.fill(bytes));
        (self.server, self.dice) = (server, dice);
        answer
    }
}

impl Controller for FakeBmc {
    fn settings(&self) -> Settings {
        Settings {
            suites: self.suites.iter().map(|suite| suite.id()).collect(),
            lists_suites: self.lists_suites,
            speaks_v2: self.speaks_v2,
            slots: self.slots,
            guid: self.guid.unwrap_or_default(),
            port: self.port,
        }
    }

    fn account(&self, name: &[u8]) -> Option<Account> {
        let most = match name {
            b"admin" => 4,
            b"operator" => 3,
            _ => return None,
        };
        Some(Account { password: b"secret".to_vec(), most })
    }

    fn fate(&mut self, command: Command<'_>) -> Fate {
        let kind = (command.netfn, command.command);
        if let Some(fate) = self.fate_of.remove(&kind) {
            return fate;
        }
        // The session's own are done elsewhere.
        if matches!(kind, (0x06, 0x3B | 0x3C)) {
            self.journal.push((kind.0, kind.1, command.data.to_vec()));
        }
        if let Some(codes) = self.codes_of.remove(&kind) {
            self.next_codes.splice(0..0, codes);
        }
        match self.next_codes.is_empty() {
            true => Fate::Done,
            false => match self.next_codes.remove(0) {
                0xFF => Fate::DoneButSays(0xFF),
                code => Fate::Refused(code),
            },
        }
    }

    fn command(&mut self, Command { netfn, command, data }: Command<'_>) -> Vec<u8> {
        self.journal.push((netfn, command, data.to_vec()));
        match (netfn, command, data) {
            (0x06, 0x01, _) => vec![0, 0x20, 0x01, 0x02, 0x43, 0x02, 0xBF, 0x57, 0x01, 0x00, 0x34, 0x12],
            (0x06, 0x37, _) => self.guid.map_or(vec![0xC1], |guid| [&[0], &guid[..]].concat()),
            (0x00, 0x01, _) => vec![0, u8::from(self.power) | self.faults[0], 0, self.faults[1]],
            (0x00, 0x02, [control]) => {
                match control {
                    0 | 5 => self.power = false,
                    1..=3 => self.power = true,
                    _ => return vec![0xCC],
                }
                vec![0]
            }
            (0x00, 0x04, _) => vec![0],
            (0x00, 0x08, [5, flags @ ..]) if flags.len() == 5 => {
                if self.keeps_boot_flags {
                    self.boot_flags.copy_from_slice(flags);
                }
                vec![0]
            }
            (0x00, 0x08, [0 | 3 | 4, ..]) => vec![0],
            (0x00, 0x08, _) => vec![0x80],
            (0x00, 0x09, [5, ..]) => [&[0, 1, 5], &self.boot_flags[..]].concat(),
            (0x0A, 0x10, [0]) if !self.fru.is_empty() => {
                [&[0], &(self.fru.len() as u16).to_le_bytes()[..], &[0]].concat()
            }
            (0x0A, 0x11, [0, low, high, count]) if !self.fru.is_empty() => {
                let start = usize::from(u16::from_le_bytes([*low, *high]));
                match self.fru.get(start..) {
                    Some(part) if *count <= 32 => {
                        let part = &part[..part.len().min((*count).into())];
                        [&[0, part.len() as u8], part].concat()
                    }
                    _ => vec![0xC8],
                }
            }
            (0x0A, 0x22, _) => vec![0, 7, 0],
            (0x0A, 0x23, [_, _, low, high, offset, count]) => {
                let index = usize::from(u16::from_le_bytes([*low, *high]));
                let Some(record) = self.sdrs.get(index) else { return vec![0xCB] };
                let next = if index + 1 < self.sdrs.len() { (index + 1) as u16 } else { 0xFFFF };
                let part = record.get(usize::from(*offset)..).unwrap_or_default();
                let part = &part[..part.len().min((*count).into())];
                [&[0], &next.to_le_bytes()[..], part].concat()
            }
            (0x04, 0x2D, [number]) => match self.readings.get(number) {
                Some(reading) => [&[0], reading.as_slice()].concat(),
                None => vec![0xCB],
            },
            _ => vec![0xC1],
        }
    }

    fn serial(&mut self, characters: &[u8], is_break: bool) -> Option<Vec<u8>> {
        self.breaks += usize::from(is_break);
        self.serial.then(|| characters.to_ascii_uppercase())
    }
}
