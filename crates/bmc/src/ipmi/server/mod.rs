//! The BMC's end of IPMI v2.0 over LAN, as a function of datagrams: for simulated BMCs and the driver's own tests, never
//! for the provider. `ipmitool` and `pyghmi` as clients show that it is IPMI, and not only what both our ends take for it.
//!
//! [`Server`] holds the sessions; a [`Controller`] is what they are for: users, power, boot flags, facts.

mod login;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::keys::Keys;
use super::machine::Window;
use super::sol::{self, ACTIVATE, DEACTIVATE, End, Line};
use super::suite::{Algorithms, Suite};
use super::wire::message::{self, Message};
use super::wire::packet::{self, Payload};
use super::wire::rmcp::{self, Class};
use super::wire::v15;
use login::Login;

/// How long a session lives without a command (6.12.15: 60 s, ± 3 s).
const IDLE: Duration = Duration::from_secs(60);
/// Privilege level Operator (6.8), which what changes something needs (appendix G).
const OPERATOR: u8 = 3;
/// Privilege level User (6.8): that of a new session (22.18).
const USER: u8 = 2;
/// Network function Application (5.1).
const APP: u8 = 0x06;
/// Set Session Privilege Level (22.18).
const SET_PRIVILEGE: u8 = 0x3B;
/// Close Session (22.19).
const CLOSE: u8 = 0x3C;

/// Bytes of a packet of the serial line, both ways.
const SERIAL_BYTES: u16 = 200;

/// Somebody who may log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// At most 20 bytes.
    pub password: Vec<u8>,
    /// Highest privilege level: 2 user, 3 operator, 4 administrator (6.8).
    pub most: u8,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("most", &self.most).finish_non_exhaustive()
    }
}

/// How a BMC takes logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Numbers of its cipher suites; of these 2, 3, 16 and 17 are spoken.
    pub suites: Vec<u8>,
    /// Whether it tells them (22.15).
    pub lists_suites: bool,
    /// Whether it speaks v2.0 at all.
    pub speaks_v2: bool,
    /// Sessions at once, half-open ones included.
    pub slots: usize,
    /// As RAKP 2 has it.
    pub guid: [u8; 16],
    /// UDP port that packets of the serial line go to: the one that it listens on.
    pub port: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { suites: vec![3, 17], lists_suites: true, speaks_v2: true, slots: 4, guid: [0; 16], port: 623 }
    }
}

/// A command of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// Network function, even.
    pub netfn: u8,
    /// Number of the command.
    pub command: u8,
    /// What belongs to it.
    pub data: &'a [u8],
}

/// What becomes of a command before anybody looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// It is done.
    #[default]
    Done,
    /// It is refused with a completion code, and not done.
    Refused(u8),
    /// It is done, and a completion code says otherwise.
    DoneButSays(u8),
    /// It is not done, and nothing is said.
    Lost,
    /// It is done, and nothing is said.
    DoneButSilent,
}

/// What stands behind the sessions.
pub trait Controller {
    /// How it takes logins.
    fn settings(&self) -> Settings;
    /// Who has this name; `None` for nobody.
    fn account(&self, name: &[u8]) -> Option<Account>;
    /// Somebody has logged in, or was refused for name or password.
    fn logged_in(&mut self, _ok: bool) {}
    /// What becomes of a command; also of those that are the session's own.
    fn fate(&mut self, _command: Command<'_>) -> Fate {
        Fate::Done
    }
    /// Does a command: completion code and data.
    fn command(&mut self, command: Command<'_>) -> Vec<u8>;
    /// What the serial port says to characters, or to a break; `None`: there is no serial port.
    fn serial(&mut self, _characters: &[u8], _is_break: bool) -> Option<Vec<u8>> {
        None
    }
}

/// A session, or what is on the way to one.
#[derive(Debug)]
struct Session {
    login: Login,
    keys: Option<Keys>,
    privilege: u8,
    most: u8,
    sequence: u32,
    seen: Window,
    used: Instant,
    /// The serial line, while the payload is active.
    line: Option<Line>,
}

/// The sessions of a BMC.
#[derive(Debug, Default)]
pub struct Server {
    sessions: HashMap<u32, Session>,
}

impl Server {
    /// How many sessions there are, half-open ones included.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Forgets all sessions, as a BMC that restarts does.
    pub fn forget(&mut self) {
        self.sessions.clear();
    }

    /// What is answered to a datagram, if anything. `chance` fills with unpredictable bytes.
    pub fn answer(
        &mut self,
        datagram: &[u8],
        now: Instant,
        controller: &mut dyn Controller,
        chance: &mut dyn FnMut(&mut [u8]),
    ) -> Option<Vec<u8>> {
        self.sessions.retain(|_, session| now.saturating_duration_since(session.used) < IDLE);
        let ipmi = match rmcp::read(datagram)? {
            Class::Ipmi(ipmi) => ipmi,
            Class::Asf(asf) => return rmcp::pong_to(asf),
        };
        let Some(packet) = packet::read(ipmi) else {
            let request = message::read(v15::read(ipmi)?)?;
            let data = outside(&request, &controller.settings());
            return Some(v15::datagram(&answer(&request, &data)));
        };
        if packet.payload == Payload::Sol {
            return self.serial(&packet, now, controller, chance);
        }
        if packet.payload != Payload::Message {
            return self.login(packet.payload, packet.plain()?, now, controller, chance);
        }
        let number = packet.session;
        // Whose the serial port is: it has one user.
        let taken = self.sessions.iter().any(|(other, session)| *other != number && session.line.is_some());
        let session = self.sessions.get_mut(&number)?;
        let body = packet.open(session.keys.as_ref()?)?;
        let request = message::read(&body)?;
        if request.netfn % 2 != 0 || !session.seen.take(packet.sequence) {
            return None;
        }
        session.used = now;
        let command = Command { netfn: request.netfn, command: request.command, data: request.data };
        let data = match controller.fate(command) {
            Fate::Lost => return None,
            Fate::Refused(code) => vec![code],
            fate => {
                let data = session.does(command, taken, controller);
                match fate {
                    Fate::DoneButSays(code) => vec![code],
                    Fate::DoneButSilent => return None,
                    _ => data,
                }
            }
        };
        let mut vector = [0; 16];
        chance(&mut vector);
        session.sequence = session.sequence.wrapping_add(1).max(1);
        let sealed = packet::seal(
            session.keys.as_ref()?,
            session.login.console(),
            session.sequence,
            vector,
            &answer(&request, &data),
        );
        if (request.netfn, request.command, data.first()) == (APP, CLOSE, Some(&0)) {
            self.sessions.remove(&number);
        }
        if (request.netfn, request.command, data.first()) == (APP, DEACTIVATE, Some(&0)) {
            // Whoever has it.
            self.sessions.values_mut().for_each(|session| session.line = None);
        }
        Some(sealed)
    }

    /// Takes a packet of the serial line. What the port says goes with the answers to such packets, and is sent again with
    /// them: there is no clock here.
    fn serial(
        &mut self,
        packet: &packet::Packet<'_>,
        now: Instant,
        controller: &mut dyn Controller,
        chance: &mut dyn FnMut(&mut [u8]),
    ) -> Option<Vec<u8>> {
        let session = self.sessions.get_mut(&packet.session)?;
        let body = packet.open(session.keys.as_ref()?)?;
        if !session.seen.take(packet.sequence) {
            return None;
        }
        session.used = now;
        let line = session.line.as_mut()?;
        let now = now.into();
        line.receive(&body, now);
        let (characters, broken) = (line.read(), line.took_break());
        for (characters, is_break) in [(&[][..], broken), (&characters[..], false)] {
            if !characters.is_empty() || is_break {
                let said = controller.serial(characters, is_break).unwrap_or_default();
                line.write(&said, now);
            }
        }
        line.tick(now);
        // One datagram is answered by one: the acknowledgement goes with the next characters.
        let packets: Vec<Vec<u8>> = std::iter::from_fn(|| line.next_packet()).collect();
        let payload = sol::joined(&packets)?;
        let mut vector = [0; 16];
        chance(&mut vector);
        session.sequence = session.sequence.wrapping_add(1).max(1);
        let (console, sequence) = (session.login.console(), session.sequence);
        Some(packet::seal_as(Payload::Sol, session.keys.as_ref()?, console, sequence, vector, &payload))
    }
}

impl Session {
    fn does(&mut self, command: Command<'_>, taken: bool, controller: &mut dyn Controller) -> Vec<u8> {
        match (command.netfn, command.command, command.data) {
            (APP, SET_PRIVILEGE, &[level]) => {
                // 0 asks for the present one (22.18). Callback (1) is none of a LAN.
                if level & 0x0F > self.most {
                    return vec![0x81];
                }
                self.privilege = if level == 0 { self.privilege } else { level.max(USER) };
                vec![0, self.privilege]
            }
            (APP, CLOSE, _) => vec![0],
            (APP, ACTIVATE, &[sol::SOL, _, ..]) => {
                if controller.serial(&[], false).is_none() {
                    return vec![sol::DISABLED];
                }
                if taken || self.line.is_some() {
                    return vec![sol::ALREADY_ACTIVE];
                }
                let [low, high] = SERIAL_BYTES.to_le_bytes();
                let [port_low, port_high] = controller.settings().port.to_le_bytes();
                self.line = Some(Line::new(End::Bmc, SERIAL_BYTES.into()));
                // No auxiliary data, bytes both ways, the UDP port, no VLAN (24.1).
                vec![0, 0, 0, 0, 0, low, high, low, high, port_low, port_high, 0xFF, 0xFF]
            }
            (APP, DEACTIVATE, &[sol::SOL, ..]) => vec![0],
            (netfn, number, _) if needs(netfn, number) > self.privilege => vec![0xD4],
            _ => controller.command(command),
        }
    }
}

/// Privilege level that a command needs (appendix G). The repositories are read by users too in the specification, and
/// by operators only in BMCs; the stricter is asked for.
fn needs(netfn: u8, command: u8) -> u8 {
    match (netfn, command) {
        (0x00, 0x02 | 0x04 | 0x08 | 0x09) | (0x0A, _) => OPERATOR,
        _ => USER,
    }
}

/// What is answered outside of a session: Get Channel Authentication Capabilities (22.13) and Get Channel Cipher Suites
/// (22.15).
fn outside(request: &Message<'_>, settings: &Settings) -> Vec<u8> {
    match (request.netfn, request.command, request.data) {
        (APP, 0x38, &[channel, _]) => {
            let extended = channel & 0x80 != 0 && settings.speaks_v2;
            // MD5 for v1.5 (which nothing is done with), and whether there is more; users have names.
            let kinds = 0x04 | if extended { 0x80 } else { 0 };
            vec![0, 1, kinds, 0x04, if extended { 3 } else { 0 }, 0, 0, 0, 0]
        }
        (APP, 0x54, &[_, _, index]) if settings.lists_suites => {
            let records: Vec<u8> = settings
                .suites
                .iter()
                .filter_map(|id| Suite::chosen(*id).ok())
                .flat_map(|suite| {
                    let Algorithms { authentication, integrity, confidentiality } = suite.algorithms();
                    [0xC0, suite.id(), authentication, 0x40 | integrity, 0x80 | confidentiality]
                })
                .collect();
            let start = usize::from(index & 0x3F) * 16;
            let part = records.get(start..).unwrap_or_default();
            [&[0, 1], &part[..part.len().min(16)]].concat()
        }
        _ => vec![0xC1],
    }
}

fn answer(request: &Message<'_>, data: &[u8]) -> Vec<u8> {
    Message { netfn: request.netfn | 1, sequence: request.sequence, command: request.command, data }.answer()
}
