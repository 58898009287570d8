//! A BMC for tests: IPMI over LAN as a pure function of datagrams, with faults to switch on. Whether it speaks IPMI, and
//! not only what the driver takes for it, is shown by `ipmitool` in `peers.rs`.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use super::keys::{Keys, Transcript, UserKey, same};
use super::machine::Chance;
use super::suite::{Algorithms, Suite};
use super::wire::message::{self, Message};
use super::wire::packet::{self, Payload};
use super::wire::rmcp::{self, Class};
use super::wire::setup::status;
use super::wire::{Reader, v15};

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

/// A session at the BMC's side.
#[derive(Debug)]
pub(super) struct Session {
    suite: Suite,
    transcript: Transcript,
    keys: Option<Keys>,
    privilege: u8,
    most: u8,
    sequence: u32,
}

/// The BMC and its server.
#[derive(Debug)]
pub(crate) struct FakeBmc {
    pub(crate) users: HashMap<Vec<u8>, (Vec<u8>, u8)>,
    pub(crate) suites: Vec<Suite>,
    /// Whether it answers Get Channel Cipher Suites.
    pub(crate) lists_suites: bool,
    pub(crate) speaks_v2: bool,
    pub(crate) slots: usize,
    /// Completion codes that the next commands end with, done or not.
    pub(crate) next_codes: Vec<u8>,
    /// Completion codes that the next commands of a kind are refused with.
    pub(crate) codes_of: HashMap<(u8, u8), Vec<u8>>,
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
    pub(super) sessions: HashMap<u32, Session>,
    pub(super) dice: Dice,
}

impl Default for FakeBmc {
    fn default() -> Self {
        Self {
            users: [
                (b"admin".to_vec(), (b"secret".to_vec(), 4)),
                (b"operator".to_vec(), (b"secret".to_vec(), 3)),
            ]
            .into(),
            suites: vec![Suite::Sha1, Suite::Sha256],
            lists_suites: true,
            speaks_v2: true,
            slots: 4,
            next_codes: Vec::new(),
            codes_of: HashMap::new(),
            power: false,
            faults: [0; 2],
            boot_flags: [0; 5],
            keeps_boot_flags: true,
            guid: Some([0xA1; 16]),
            fru: Vec::new(),
            sdrs: Vec::new(),
            readings: HashMap::new(),
            journal: Vec::new(),
            sessions: HashMap::new(),
            dice: Dice(99),
        }
    }
}

impl FakeBmc {
    /// Forgets its sessions, as at a restart.
    pub(crate) fn restart(&mut self) {
        self.sessions.clear();
    }

    /// How many sessions there are, half-open ones included.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Commands of a kind that were done.
    pub(crate) fn count(&self, netfn: u8, command: u8) -> usize {
        self.journal.iter().filter(|it| (it.0, it.1) == (netfn, command)).count()
    }

    /// What it answers to a datagram.
    pub(crate) fn handle(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let Class::Ipmi(ipmi) = rmcp::read(datagram)? else { return None };
        let Some(packet) = packet::read(ipmi) else {
            let request = message::read(v15::read(ipmi)?)?;
            let data = self.outside(&request)?;
            return Some(v15::datagram(&answer(&request, &data)));
        };
        if packet.payload != Payload::Message {
            return self.login(packet.payload, packet.plain()?);
        }
        let session = self.sessions.get(&packet.session)?;
        let body = packet.open(session.keys.as_ref()?)?;
        let request = message::read(&body)?;
        let privilege = session.privilege;
        let number = packet.session;
        let kind = (request.netfn, request.command);
        if let Some(codes) = self.codes_of.remove(&kind) {
            self.next_codes.splice(0..0, codes);
        }
        let data = match self.next_codes.is_empty() {
            true => self.command(number, privilege, &request),
            false => match self.next_codes.remove(0) {
                // Done, and denied.
                0xFF => {
                    self.command(number, privilege, &request);
                    vec![0xFF]
                }
                code => vec![code],
            },
        };
        let mut vector = [0; 16];
        self.dice.fill(&mut vector);
        let session = self.sessions.get_mut(&number)?;
        session.sequence += 1;
        let keys = session.keys.as_ref()?;
        let sealed = packet::seal(
            keys,
            session.transcript.console_session,
            session.sequence,
            vector,
            &answer(&request, &data),
        );
        if (request.netfn, request.command, data[0]) == (0x06, 0x3C, 0) {
            self.sessions.remove(&number);
        }
        Some(sealed)
    }

    fn outside(&self, request: &Message<'_>) -> Option<Vec<u8>> {
        match (request.netfn, request.command, request.data) {
            (0x06, 0x38, [channel, _]) => {
                let extended = channel & 0x80 != 0 && self.speaks_v2;
                let kinds = 0x04 | if extended { 0x80 } else { 0 };
                Some(vec![0, 1, kinds, 0x04, if extended { 3 } else { 0 }, 0, 0, 0, 0])
            }
            (0x06, 0x54, [_, _, index]) if self.lists_suites => {
                let mut records = Vec::new();
                for suite in &self.suites {
                    let Algorithms { authentication, integrity, confidentiality } = suite.algorithms();
                    records.extend([
                        0xC0,
                        suite.id(),
                        authentication,
                        0x40 | integrity,
                        0x80 | confidentiality,
                    ]);
                }
                let start = usize::from(index & 0x3F) * 16;
                let part = records.get(start..).unwrap_or_default();
                Some([&[0, 1], &part[..part.len().min(16)]].concat())
            }
            _ => Some(vec![0xC1]),
        }
    }

    fn login(&mut self, kind: Payload, body: &[u8]) -> Option<Vec<u8>> {
        match kind {
            Payload::OpenSessionRequest => self.open(body),
            Payload::Rakp1 => self.rakp1(body),
            Payload::Rakp3 => self.rakp3(body),
            _ => None,
        }
    }

    fn open(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let mut reader = Reader::new(body);
        let [tag, most, _, _] = reader.array()?;
        let console = reader.u32()?;
        let mut number = || reader.array::<8>().map(|record| record[4]);
        let wanted =
            Algorithms { authentication: number()?, integrity: number()?, confidentiality: number()? };
        let suite = self.suites.iter().copied().find(|suite| suite.algorithms() == wanted);
        let refusal = match suite {
            None => Some(status::NO_SUITE),
            Some(_) if self.sessions.len() >= self.slots => Some(status::NO_RESOURCES),
            Some(_) => None,
        };
        let mut out = vec![tag, refusal.unwrap_or(0), most, 0];
        out.extend(console.to_le_bytes());
        if let (None, Some(suite)) = (refusal, suite) {
            let mut random = [0; 36];
            self.dice.fill(&mut random);
            let bmc = u32::from_le_bytes(random[..4].try_into().unwrap()).max(1);
            out.extend(bmc.to_le_bytes());
            out.extend_from_slice(body.get(8..32)?);
            let transcript = Transcript {
                console_session: console,
                bmc_session: bmc,
                console_random: [0; 16],
                bmc_random: random[4..20].try_into().unwrap(),
                bmc_guid: self.guid.unwrap_or_default(),
                role: 0,
                username: Vec::new(),
            };
            let session = Session { suite, transcript, keys: None, privilege: 2, most: 4, sequence: 0 };
            self.sessions.insert(bmc, session);
        }
        Some(packet::plain(Payload::OpenSessionResponse, &out))
    }

    fn rakp1(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let mut reader = Reader::new(body);
        let [tag, _, _, _] = reader.array()?;
        let (bmc, random) = (reader.u32()?, reader.array()?);
        let [role, _, _, length] = reader.array()?;
        let name = reader.take(length.into())?;
        let Some(session) = self.sessions.get_mut(&bmc) else {
            return Some(packet::plain(Payload::Rakp2, &[tag, status::INVALID_SESSION, 0, 0, 0, 0, 0, 0]));
        };
        let console = session.transcript.console_session;
        let refuse = |code| {
            let mut out = vec![tag, code, 0, 0];
            out.extend(console.to_le_bytes());
            Some(packet::plain(Payload::Rakp2, &out))
        };
        let Some((password, most)) = self.users.get(name) else {
            self.sessions.remove(&bmc);
            return refuse(status::UNAUTHORIZED_NAME);
        };
        if role & 0x0F > *most {
            self.sessions.remove(&bmc);
            return refuse(status::UNAUTHORIZED_ROLE);
        }
        let transcript = &mut session.transcript;
        (transcript.console_random, transcript.role, transcript.username) = (random, role, name.to_vec());
        // Each RAKP 1 gets a number of its own, as in BMCs that take a second sending for another login.
        self.dice.fill(&mut transcript.bmc_random);
        session.most = role & 0x0F;
        let user = UserKey::new(password).unwrap();
        session.keys = None;
        let mut out = vec![tag, 0, 0, 0];
        out.extend(console.to_le_bytes());
        out.extend(transcript.bmc_random);
        out.extend(transcript.bmc_guid);
        out.extend(transcript.rakp2_code(session.suite, &user));
        Some(packet::plain(Payload::Rakp2, &out))
    }

    fn rakp3(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let mut reader = Reader::new(body);
        let [tag, said, _, _] = reader.array()?;
        let bmc = reader.u32()?;
        if said != 0 {
            self.sessions.remove(&bmc);
            return None;
        }
        let Some(session) = self.sessions.get_mut(&bmc) else {
            return Some(packet::plain(Payload::Rakp4, &[tag, status::INVALID_SESSION, 0, 0, 0, 0, 0, 0]));
        };
        let console = session.transcript.console_session;
        let (password, _) = self.users.get(&session.transcript.username)?;
        let user = UserKey::new(password).unwrap();
        let transcript = &session.transcript;
        let mut out = vec![tag, 0, 0, 0];
        out.extend(console.to_le_bytes());
        if same(&transcript.rakp3_code(session.suite, &user), reader.rest()) {
            let keys = transcript.keys(session.suite, &user);
            out.extend(transcript.rakp4_code(&keys));
            session.keys = Some(keys);
        } else {
            out[1] = status::BAD_CODE;
        }
        Some(packet::plain(Payload::Rakp4, &out))
    }

    fn command(&mut self, session: u32, privilege: u8, request: &Message<'_>) -> Vec<u8> {
        let (netfn, command, data) = (request.netfn, request.command, request.data);
        let operator = matches!((netfn, command), (0x00, 0x02 | 0x04 | 0x08 | 0x09) | (0x0A, _));
        if operator && privilege < 3 {
            return vec![0xD4];
        }
        self.journal.push((netfn, command, data.to_vec()));
        match (netfn, command, data) {
            (0x06, 0x3B, [level]) => match self.sessions.get_mut(&session) {
                Some(session) if *level <= session.most => {
                    session.privilege = (*level).max(2);
                    vec![0, session.privilege]
                }
                _ => vec![0x81],
            },
            (0x06, 0x3C, _) => vec![0],
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
}

fn answer(request: &Message<'_>, data: &[u8]) -> Vec<u8> {
    Message { netfn: request.netfn | 1, sequence: request.sequence, command: request.command, data }.answer()
}
