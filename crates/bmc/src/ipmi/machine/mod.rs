//! A session with a BMC as a pure state machine: requests, datagrams and the clock go in; datagrams and results come
//! out. It logs in when there is something to ask, raises the privilege when a command needs it, asks one thing at a
//! time, sends again what is not answered, and logs in anew when the session is gone.
//!
//! An answer is known by its session, its place in the session's window, and the requester's sequence number with
//! network function and command: what comes late is never taken for the answer to the next question.

mod login;
mod serial;
#[cfg(test)]
mod tests;
mod types;
mod window;

use std::collections::VecDeque;

use tokio::time::Instant;

use super::keys::Keys;
use super::wire::message::{self, Message, SEQUENCES};
use super::wire::packet::{self, Payload};
use super::wire::rmcp::{self, Class};
use super::wire::v15;
use login::Login;
pub(crate) use types::{Answer, Chance, Config, Failure, Privilege, Repeat, Request, Timing};
pub(crate) use window::Window;

/// Network function Application (5.1, table 5-1).
pub(crate) const APP: u8 = 0x06;
/// Set Session Privilege Level (22.18).
pub(crate) const SET_PRIVILEGE: u8 = 0x3B;
/// Close Session (22.19).
pub(crate) const CLOSE_SESSION: u8 = 0x3C;
/// Completion code "node busy" (5.2, table 5-2): nothing was done.
const NODE_BUSY: u8 = 0xC0;

/// Tag of presence pings; any but 0xFF, which asks for no answer (13.2.3).
const PING_TAG: u8 = 0x42;
/// How often the network may say that nobody listens until it is believed.
const UNHEARD: usize = 2;

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Capabilities,
    Suites,
    Open,
    Rakp1,
    Rakp3,
    Raise(Privilege),
    Job,
    Close,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Capabilities => "the question for its authentication capabilities",
            Self::Suites => "the question for its cipher suites",
            Self::Open => "the request for a session",
            Self::Rakp1 => "the first message of the login",
            Self::Rakp3 => "the second message of the login",
            Self::Raise(_) => "the request for a higher privilege",
            Self::Job => "a command",
            Self::Close => "the end of the session",
        }
    }
}

/// What was sent and is to be answered.
#[derive(Debug)]
struct Outstanding {
    step: Step,
    /// Message or payload, before it is wrapped.
    body: Vec<u8>,
    /// Tag or requester's sequence number.
    number: u8,
    netfn: u8,
    command: u8,
    sent: usize,
    began: Instant,
    again: Instant,
    repeat: Repeat,
    /// The BMC was busy and did nothing: it is asked again whatever `repeat` says.
    deferred: bool,
    /// How often the network said that nobody listens.
    unheard: usize,
}

impl Outstanding {
    fn new(
        step: Step,
        body: Vec<u8>,
        number: u8,
        (netfn, command): (u8, u8),
        repeat: Repeat,
        now: Instant,
    ) -> Self {
        Self {
            step,
            body,
            number,
            netfn,
            command,
            sent: 0,
            began: now,
            again: now,
            repeat,
            deferred: false,
            unheard: 0,
        }
    }
}

#[derive(Debug)]
struct Job {
    id: u64,
    request: Request,
    /// It was asked in a session that did not answer.
    second_session: bool,
}

/// A session that was logged in to.
#[derive(Debug)]
struct Session {
    keys: Keys,
    console: u32,
    bmc: u32,
    sequence: u32,
    window: Window,
    privilege: Privilege,
    /// When it last said something.
    heard: Instant,
}

#[derive(Debug)]
enum State {
    Out,
    In(Box<Login>),
    Up(Box<Session>),
}

/// A BMC, as far as one conversation with it goes.
pub(crate) struct Machine {
    config: Config,
    chance: Box<dyn Chance>,
    learnt: login::Learnt,
    state: State,
    queue: VecDeque<Job>,
    current: Option<Job>,
    outstanding: Option<Outstanding>,
    sequence: u8,
    closing: bool,
    logins: u64,
    out: VecDeque<Vec<u8>>,
    done: VecDeque<(u64, Result<Answer, Failure>)>,
    /// Payloads of a serial line that came.
    payloads: VecDeque<Vec<u8>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("state", &self.state)
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Logged out, with nothing to do.
    pub(crate) fn new(config: Config, chance: Box<dyn Chance>) -> Self {
        Self {
            config,
            chance,
            learnt: login::Learnt::default(),
            state: State::Out,
            queue: VecDeque::new(),
            current: None,
            outstanding: None,
            sequence: 0,
            closing: false,
            logins: 0,
            out: VecDeque::new(),
            done: VecDeque::new(),
            payloads: VecDeque::new(),
        }
    }

    /// Takes a question; its answer comes out under `id`.
    pub(crate) fn submit(&mut self, id: u64, request: Request, now: Instant) {
        if self.closing {
            self.done.push_back((id, Err(Failure::Closing)));
        } else if request.privilege > self.config.privilege {
            let failure = Failure::Privilege { wanted: request.privilege, by_address: true };
            self.done.push_back((id, Err(failure)));
        } else {
            self.queue.push_back(Job { id, request, second_session: false });
            self.go_on(now);
        }
    }

    /// Takes nothing more, and closes the session when all is answered.
    pub(crate) fn close(&mut self, now: Instant) {
        self.closing = true;
        self.go_on(now);
    }

    /// Whether there is nothing left to do after [`Self::close`].
    pub(crate) fn is_closed(&self) -> bool {
        self.closing && self.is_idle() && matches!(self.state, State::Out)
    }

    /// Whether nothing is asked.
    pub(crate) fn is_idle(&self) -> bool {
        self.current.is_none() && self.queue.is_empty() && self.outstanding.is_none()
    }

    /// How many logins were begun.
    pub(crate) fn logins(&self) -> u64 {
        self.logins
    }

    /// The next datagram to send.
    pub(crate) fn next_datagram(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// The next result.
    pub(crate) fn next_result(&mut self) -> Option<(u64, Result<Answer, Failure>)> {
        self.done.pop_front()
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.outstanding.as_ref().map(|outstanding| outstanding.again)
    }

    /// Sends again, or gives up, what was not answered in time.
    pub(crate) fn tick(&mut self, now: Instant) {
        let Some(outstanding) = &mut self.outstanding else { return };
        if now < outstanding.again {
            return;
        }
        let tries = match outstanding.step {
            // Optional: many BMCs do not know it. Or nobody waits for it.
            Step::Suites | Step::Close => 2,
            _ => self.config.timing.waits.len(),
        };
        let may = outstanding.deferred || (outstanding.sent < tries && outstanding.repeat == Repeat::Freely);
        if may {
            outstanding.deferred = false;
            self.send(now);
        } else {
            self.give_up(now);
        }
    }

    /// The network said that nobody listens there. Once may be a restart, or an old message; twice is given up.
    pub(crate) fn unheard(&mut self, now: Instant) {
        let Some(outstanding) = &mut self.outstanding else { return };
        outstanding.unheard += 1;
        if outstanding.unheard >= UNHEARD {
            self.give_up(now);
        }
    }

    /// Takes what came from the network, whoever sent it.
    pub(crate) fn receive(&mut self, datagram: &[u8], now: Instant) {
        let ipmi = match rmcp::read(datagram) {
            Some(Class::Ipmi(ipmi)) => ipmi,
            Some(Class::Asf(asf)) => {
                self.learnt.pong |= rmcp::pong(asf).is_some_and(|pong| pong.tag == PING_TAG);
                return;
            }
            None => return,
        };
        let outside = match packet::read(ipmi) {
            Some(packet) => match (packet.payload, packet.plain(), packet.outside()) {
                (Payload::Message, _, Some(outside)) => Some(outside),
                (Payload::Message | Payload::Sol, ..) => return self.receive_message(&packet, now),
                (kind, Some(body), _) => return self.receive_setup(kind, body, now),
                _ => return,
            },
            None => v15::read(ipmi),
        };
        if let Some(answer) = outside.and_then(message::read)
            && self
                .outstanding
                .as_ref()
                .is_some_and(|it| matches!(it.step, Step::Capabilities | Step::Suites))
        {
            self.answered(&answer, now);
        }
    }

    fn receive_message(&mut self, packet: &packet::Packet<'_>, now: Instant) {
        let State::Up(session) = &mut self.state else { return };
        if packet.session != session.console {
            return;
        }
        let Some(body) = packet.open(&session.keys) else { return };
        if !session.window.take(packet.sequence) {
            return;
        }
        session.heard = now;
        if packet.payload == Payload::Sol {
            return self.keep_payload(body);
        }
        let of_session = |it: &Outstanding| matches!(it.step, Step::Raise(_) | Step::Job | Step::Close);
        if let Some(answer) = message::read(&body)
            && self.outstanding.as_ref().is_some_and(of_session)
        {
            self.answered(&answer, now);
        }
    }

    fn answered(&mut self, answer: &Message<'_>, now: Instant) {
        let Some(outstanding) = &mut self.outstanding else { return };
        let is_it = answer.netfn == outstanding.netfn | 1
            && answer.command == outstanding.command
            && answer.sequence == outstanding.number;
        let Some((&code, data)) = answer.data.split_first() else { return };
        if !is_it {
            return;
        }
        if code == NODE_BUSY
            && outstanding.sent < self.config.timing.waits.len()
            && let Some(wait) = self.config.timing.waits.get(outstanding.sent.saturating_sub(1))
        {
            // Nothing was done: ask again in a while, as a new question.
            outstanding.again = now + *wait;
            outstanding.deferred = true;
            let (netfn, command) = (outstanding.netfn, outstanding.command);
            let data = message::read(&outstanding.body).map(|it| it.data.to_vec()).unwrap_or_default();
            outstanding.number = next(&mut self.sequence);
            outstanding.body =
                Message { netfn, sequence: outstanding.number, command, data: &data }.request();
            return;
        }
        let step = outstanding.step;
        self.outstanding = None;
        match step {
            Step::Capabilities => self.capabilities(code, data, now),
            Step::Suites => self.suites(code, data, now),
            Step::Raise(wanted) => {
                if code != 0 {
                    self.finish(Err(Failure::Privilege { wanted, by_address: false }));
                } else if let State::Up(session) = &mut self.state {
                    session.privilege = wanted;
                }
                self.go_on(now);
            }
            Step::Job => {
                self.finish(Ok(Answer { code, data: data.to_vec() }));
                self.go_on(now);
            }
            Step::Close => self.state = State::Out,
            Step::Open | Step::Rakp1 | Step::Rakp3 => {}
        }
    }

    /// Does what is next, if nothing is under way.
    fn go_on(&mut self, now: Instant) {
        if self.outstanding.is_some() {
            return;
        }
        if self.current.is_none() {
            self.current = self.queue.pop_front();
        }
        if let State::Up(session) = &self.state
            && now.saturating_duration_since(session.heard) >= self.config.timing.expiry
        {
            self.state = State::Out;
        }
        let Some(job) = &self.current else {
            if self.closing {
                self.end_session(now);
            }
            return;
        };
        let State::Up(session) = &self.state else {
            self.begin_login(now);
            return;
        };
        if job.request.privilege > session.privilege {
            let wanted = job.request.privilege;
            self.ask(Step::Raise(wanted), APP, SET_PRIVILEGE, &[wanted as u8], Repeat::Freely, now);
        } else {
            let Request { netfn, command, data, repeat, .. } = job.request.clone();
            self.ask(Step::Job, netfn, command, &data, repeat, now);
        }
    }

    fn end_session(&mut self, now: Instant) {
        match &self.state {
            State::Up(session) => {
                let number = session.bmc.to_le_bytes();
                self.ask(Step::Close, APP, CLOSE_SESSION, &number, Repeat::Freely, now);
            }
            State::In(_) => self.state = State::Out,
            State::Out => {}
        }
    }

    /// Sends a message, as a new question.
    fn ask(&mut self, step: Step, netfn: u8, command: u8, data: &[u8], repeat: Repeat, now: Instant) {
        let number = next(&mut self.sequence);
        let body = Message { netfn, sequence: number, command, data }.request();
        self.start(Outstanding::new(step, body, number, (netfn, command), repeat, now), now);
    }

    fn start(&mut self, outstanding: Outstanding, now: Instant) {
        self.outstanding = Some(outstanding);
        self.send(now);
    }

    /// Sends what is outstanding, for the first time or again: in a session under a new number and vector.
    fn send(&mut self, now: Instant) {
        let Some(outstanding) = &mut self.outstanding else { return };
        let timing = &self.config.timing;
        let wait = match outstanding.repeat {
            Repeat::Freely => timing.waits.get(outstanding.sent).or(timing.waits.last()).copied(),
            Repeat::Never => Some(timing.total()),
        };
        outstanding.sent += 1;
        outstanding.again = now + wait.unwrap_or_default();
        let datagram = match outstanding.step {
            Step::Capabilities | Step::Suites => v15::datagram(&outstanding.body),
            Step::Open => packet::plain(Payload::OpenSessionRequest, &outstanding.body),
            Step::Rakp1 => packet::plain(Payload::Rakp1, &outstanding.body),
            Step::Rakp3 => packet::plain(Payload::Rakp3, &outstanding.body),
            Step::Raise(_) | Step::Job | Step::Close => {
                let body = outstanding.body.clone();
                let datagram = self.sealed(Payload::Message, &body);
                self.out.extend(datagram);
                return;
            }
        };
        if outstanding.step == Step::Capabilities && outstanding.sent > 1 {
            // Is there anything?
            self.out.push_back(rmcp::ping(PING_TAG));
        }
        self.out.push_back(datagram);
    }

    fn give_up(&mut self, now: Instant) {
        let Some(outstanding) = self.outstanding.take() else { return };
        let after = now.saturating_duration_since(outstanding.began);
        let what = outstanding.step.name();
        match outstanding.step {
            Step::Capabilities => self.fail_login(Failure::Silent { after, pong: self.learnt.pong }),
            Step::Suites => self.open_session(now),
            Step::Open => self.try_next_suite(Failure::NoAnswer { what, after }, now),
            Step::Rakp1 | Step::Rakp3 => self.fail_login(Failure::NoAnswer { what, after }),
            Step::Close => self.state = State::Out,
            Step::Raise(_) | Step::Job => {
                // The BMC restarted, or ended the session by itself.
                self.state = State::Out;
                let asked = outstanding.step == Step::Job;
                match &mut self.current {
                    Some(job) if !job.second_session && (!asked || job.request.repeat == Repeat::Freely) => {
                        job.second_session = true;
                    }
                    Some(job) if asked && job.request.repeat == Repeat::Never => {
                        self.finish(Err(Failure::Unconfirmed { after }));
                    }
                    _ => self.finish(Err(Failure::NoAnswer { what, after })),
                }
                self.go_on(now);
            }
        }
    }

    fn finish(&mut self, result: Result<Answer, Failure>) {
        if let Some(job) = self.current.take() {
            self.done.push_back((job.id, result));
        }
    }

    /// No session: nobody who waits for one gets an answer.
    fn fail_login(&mut self, failure: Failure) {
        self.state = State::Out;
        self.finish(Err(failure.clone()));
        while let Some(job) = self.queue.pop_front() {
            self.done.push_back((job.id, Err(failure.clone())));
        }
    }
}

/// The next requester's sequence number.
fn next(sequence: &mut u8) -> u8 {
    *sequence = (*sequence + 1) % SEQUENCES;
    *sequence
}
