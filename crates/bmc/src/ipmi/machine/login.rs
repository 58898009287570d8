//! The login: what the BMC can do, a session, and the proof of both sides that they know the password (13.15, 13.31).

use tokio::time::Instant;

use super::{APP, Failure, Machine, Outstanding, Privilege, Repeat, Session, State, Step, Window};
use crate::ipmi::keys::{Keys, Transcript, same};
use crate::ipmi::suite::{self, Suite};
use crate::ipmi::wire::packet::{self, Payload};
use crate::ipmi::wire::setup::{self, NAME_ONLY, OpenSession, Rakp2, status};

/// Get Channel Authentication Capabilities (22.13).
pub(crate) const GET_CAPABILITIES: u8 = 0x38;
/// Get Channel Cipher Suites (22.15).
pub(crate) const GET_SUITES: u8 = 0x54;
/// The channel that the question came in by (22.13).
const THIS_CHANNEL: u8 = 0x0E;
/// Bit of the channel byte: answer with what IPMI v2.0 adds (22.13).
const EXTENDED: u8 = 0x80;
/// Bits of the answer (22.13): there is more of v2.0; Kg is set; v2.0 is spoken.
const HAS_EXTENDED: u8 = 0x80;
const KG_SET: u8 = 0x20;
const SPEAKS_V2: u8 = 0x02;
/// Bit of the list index: suites with their algorithms (22.15).
const BY_SUITE: u8 = 0x80;
/// Bytes of a full part of the list (22.15).
const PART: usize = 16;
/// Parts that are asked for at most; the specification has room for 64, all known suites need five.
const PARTS: u8 = 16;
/// Logins that are begun for one question: packets that are damaged on the way look like wrong passwords.
const ATTEMPTS: u8 = 3;
/// Wrong codes in RAKP 2 that make a wrong password.
const MISMATCHES: u8 = 2;

/// What was found out about the BMC, and is not asked again.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    asked: bool,
    /// Its list of suites so far, with the part that comes next.
    records: Vec<u8>,
    part: u8,
    /// Suites that are left to try, best first.
    suites: Option<Vec<Suite>>,
    kg: bool,
    /// It answered to a presence ping.
    pub(super) pong: bool,
    tag: u8,
    attempts: u8,
    mismatches: u8,
}

/// A login under way.
#[derive(Debug)]
pub(super) struct Login {
    suite: Suite,
    transcript: Transcript,
    keys: Option<Keys>,
}

impl Machine {
    pub(super) fn begin_login(&mut self, now: Instant) {
        self.logins += 1;
        (self.learnt.attempts, self.learnt.mismatches) = (0, 0);
        if self.learnt.asked {
            self.open_session(now);
        } else {
            let data = [EXTENDED | THIS_CHANNEL, self.config.privilege as u8];
            self.ask(Step::Capabilities, APP, GET_CAPABILITIES, &data, Repeat::Freely, now);
        }
    }

    pub(super) fn capabilities(&mut self, code: u8, data: &[u8], now: Instant) {
        // A refusal says nothing: BMCs are tried all the same.
        if let (0, &[_channel, kinds, flags, extended, ..]) = (code, data) {
            if kinds & HAS_EXTENDED == 0 || extended & SPEAKS_V2 == 0 {
                self.fail_login(Failure::OldVersion);
                return;
            }
            self.learnt.kg = flags & KG_SET != 0;
        }
        self.learnt.asked = true;
        self.ask_suites(now);
    }

    fn ask_suites(&mut self, now: Instant) {
        let data = [THIS_CHANNEL, 0, BY_SUITE | self.learnt.part];
        self.ask(Step::Suites, APP, GET_SUITES, &data, Repeat::Freely, now);
    }

    pub(super) fn suites(&mut self, code: u8, data: &[u8], now: Instant) {
        let part = data.get(1..).unwrap_or_default();
        let full = code == 0 && part.len() >= PART;
        if code == 0 {
            self.learnt.records.extend(part.iter().take(PART));
        }
        self.learnt.part += 1;
        if full && self.learnt.part < PARTS {
            self.ask_suites(now);
            return;
        }
        let has = suite::numbers(&std::mem::take(&mut self.learnt.records));
        let common: Vec<Suite> =
            self.config.suites.iter().copied().filter(|suite| has.contains(&suite.id())).collect();
        if !has.is_empty() && common.is_empty() {
            let list: Vec<String> = has.iter().map(u8::to_string).collect();
            self.learnt.asked = false;
            self.learnt.part = 0;
            self.fail_login(Failure::NoSuite { message: format!("it offers {}", list.join(", ")) });
            return;
        }
        if !common.is_empty() {
            self.learnt.suites = Some(common);
        }
        self.open_session(now);
    }

    fn suite(&self) -> Option<Suite> {
        self.learnt.suites.as_ref().unwrap_or(&self.config.suites).first().copied()
    }

    pub(super) fn open_session(&mut self, now: Instant) {
        let Some(suite) = self.suite() else {
            self.fail_login(Failure::NoSuite { message: "none is left to try".to_owned() });
            return;
        };
        self.learnt.attempts += 1;
        let mut random = [0; 20];
        self.chance.fill(&mut random);
        let (console, rest) = random.split_at(4);
        let mut transcript = Transcript {
            console_session: u32::from_le_bytes(console.try_into().unwrap_or_default()).max(1),
            bmc_session: 0,
            console_random: [0; 16],
            bmc_random: [0; 16],
            bmc_guid: [0; 16],
            role: self.config.privilege as u8 | NAME_ONLY,
            username: self.config.username.clone(),
        };
        transcript.console_random.copy_from_slice(rest);
        let tag = self.tag();
        let privilege = self.config.privilege as u8;
        let body = setup::open_session(tag, privilege, transcript.console_session, suite.algorithms());
        self.state = State::In(Box::new(Login { suite, transcript, keys: None }));
        self.step(Step::Open, tag, body, now);
    }

    fn tag(&mut self) -> u8 {
        self.learnt.tag = self.learnt.tag.wrapping_add(1);
        self.learnt.tag
    }

    fn step(&mut self, step: Step, number: u8, body: Vec<u8>, now: Instant) {
        self.start(Outstanding::new(step, body, number, (0, 0), Repeat::Freely, now), now);
    }

    /// The BMC will not have this suite: the next best, and from now on.
    pub(super) fn try_next_suite(&mut self, otherwise: Failure, now: Instant) {
        let mut left = self.learnt.suites.take().unwrap_or_else(|| self.config.suites.clone());
        if left.len() > 1 {
            left.remove(0);
            self.learnt.suites = Some(left);
            self.open_session(now);
        } else {
            self.fail_login(otherwise);
        }
    }

    /// From the beginning, if not too often.
    fn restart(&mut self, otherwise: Failure, now: Instant) {
        if self.learnt.attempts < ATTEMPTS { self.open_session(now) } else { self.fail_login(otherwise) }
    }

    pub(super) fn receive_setup(&mut self, kind: Payload, body: &[u8], now: Instant) {
        let (State::In(login), Some(outstanding)) = (&self.state, &self.outstanding) else { return };
        let (number, session) = (outstanding.number, login.transcript.console_session);
        let ours = |tag: u8, to: Option<u32>| tag == number && to.is_none_or(|to| to == session);
        match (outstanding.step, kind) {
            (Step::Open, Payload::OpenSessionResponse) => {
                let Some(answer) = setup::read_open_session(body).filter(|it| ours(it.tag, it.session))
                else {
                    return;
                };
                self.outstanding = None;
                self.opened(answer.said, now);
            }
            (Step::Rakp1, Payload::Rakp2) => {
                let Some(answer) = setup::read_rakp2(body).filter(|it| ours(it.tag, it.session)) else {
                    return;
                };
                self.outstanding = None;
                self.challenged(answer.said, now);
            }
            (Step::Rakp3, Payload::Rakp4) => {
                let Some(answer) = setup::read_rakp4(body).filter(|it| ours(it.tag, it.session)) else {
                    return;
                };
                self.outstanding = None;
                self.proven(answer.said, now);
            }
            _ => {}
        }
    }

    fn opened(&mut self, said: Result<OpenSession, u8>, now: Instant) {
        let tag = self.tag();
        let State::In(login) = &mut self.state else { return };
        match said {
            Ok(open) if open.algorithms == login.suite.algorithms() => {
                let transcript = &mut login.transcript;
                transcript.bmc_session = open.bmc_session;
                let body = setup::rakp1(
                    tag,
                    transcript.bmc_session,
                    &transcript.console_random,
                    transcript.role,
                    &transcript.username,
                );
                self.step(Step::Rakp1, tag, body, now);
            }
            Ok(_) => {
                // Servers that know one suite only answer with that. The session is left to run out: a message 3 before
                // message 1 is more than some of them bear.
                let message = "it answered with other algorithms than were asked for".to_owned();
                self.try_next_suite(Failure::NoSuite { message }, now);
            }
            Err(
                code @ (status::BAD_AUTHENTICATION
                | status::BAD_INTEGRITY
                | status::BAD_CONFIDENTIALITY
                | status::NO_SUITE),
            ) => {
                let message = format!("it refused suite {}: {}", login.suite.id(), status::text(code));
                self.try_next_suite(Failure::NoSuite { message }, now);
            }
            Err(code) => self.refused(Step::Open, code, now),
        }
    }

    fn challenged(&mut self, said: Result<Rakp2, u8>, now: Instant) {
        let rakp2 = match said {
            Ok(rakp2) => rakp2,
            Err(code) => return self.refused(Step::Rakp1, code, now),
        };
        let tag = self.tag();
        let State::In(login) = &mut self.state else { return };
        let transcript = &mut login.transcript;
        (transcript.bmc_random, transcript.bmc_guid) = (rakp2.random, rakp2.guid);
        let user = &self.config.user;
        if !same(&transcript.rakp2_code(login.suite, user), &rakp2.code) {
            // So that it frees the slot (13.22).
            let goodbye = setup::rakp3(tag, transcript.bmc_session, Err(status::BAD_CODE));
            self.out.push_back(packet::plain(Payload::Rakp3, &goodbye));
            self.learnt.mismatches += 1;
            let wrong = Failure::Credentials { message: "the password is wrong" };
            if self.learnt.mismatches < MISMATCHES {
                self.restart(wrong, now)
            } else {
                self.fail_login(wrong)
            }
            return;
        }
        let code = transcript.rakp3_code(login.suite, user);
        login.keys = Some(transcript.keys(login.suite, user));
        let body = setup::rakp3(tag, transcript.bmc_session, Ok(&code));
        self.step(Step::Rakp3, tag, body, now);
    }

    fn proven(&mut self, said: Result<Vec<u8>, u8>, now: Instant) {
        let code = match said {
            Ok(code) => code,
            Err(code) => return self.refused(Step::Rakp3, code, now),
        };
        let State::In(login) = &mut self.state else { return };
        let Some(keys) = login.keys.take() else { return };
        if !same(&login.transcript.rakp4_code(&keys), &code) {
            let why = match self.learnt.kg {
                true => {
                    "it demands a key of its own (Kg), which this driver has none of: clear it in the BMC"
                }
                false => "its integrity check value is wrong",
            };
            self.restart(Failure::Refused { what: Step::Rakp3.name(), why }, now);
            return;
        }
        let session = Session {
            keys,
            console: login.transcript.console_session,
            bmc: login.transcript.bmc_session,
            sequence: 0,
            window: Window::default(),
            // What a session begins with (13.31, 22.18).
            privilege: Privilege::User,
            heard: now,
        };
        self.state = State::Up(Box::new(session));
        self.go_on(now);
    }

    /// A refusal that may come at any step (13.24).
    fn refused(&mut self, step: Step, code: u8, now: Instant) {
        let refused = Failure::Refused { what: step.name(), why: status::text(code) };
        match code {
            status::NO_RESOURCES | status::NO_RESOURCES_FOR_ROLE => self.fail_login(Failure::SlotsFull),
            status::UNAUTHORIZED_NAME => {
                self.fail_login(Failure::Credentials { message: "it knows no such user" });
            }
            status::INVALID_ROLE | status::UNAUTHORIZED_ROLE => {
                self.fail_login(Failure::Privilege { wanted: self.config.privilege, by_address: false });
            }
            // It forgot the session, or took our second sending of RAKP 1 for another one.
            status::INVALID_SESSION | 0x08 | status::BAD_CODE => self.restart(refused, now),
            _ => self.fail_login(refused),
        }
    }
}
