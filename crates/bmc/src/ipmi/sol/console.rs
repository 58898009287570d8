//! The shell of a serial line: a socket, a clock, and channels to who types and who reads.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{ALREADY_ACTIVE, DISABLED, End, Ended, Line, activate, activated, deactivate};
use crate::desk::Desk;
use crate::error::BmcError;
use crate::ipmi::commands::{Outcome, device, outcome};
use crate::ipmi::link::{self, LinkError};
use crate::ipmi::machine::{Answer, Failure, Machine, Privilege, Request};
use crate::ipmi::wire::MAX_DATAGRAM;
use crate::ipmi::{Ipmi, options};
use crate::limits::Limits;
use crate::types::ConnectOptions;

/// Between two questions that show that the session lives: BMCs end one that says nothing after 60 s (6.12.15), and
/// characters count as saying something only with some.
const ALIVE: Duration = Duration::from_secs(20);
/// How long the end may take.
const GRACE: Duration = Duration::from_secs(5);
/// Pieces of input and output that wait.
const QUEUE: usize = 64;

/// What is told to a console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleInput {
    /// Characters for the server.
    Characters(Vec<u8>),
    /// A break.
    Break,
}

/// An open serial console. Dropping `input` ends it in order; then `output` ends.
#[derive(Debug)]
pub struct Console {
    /// To the server.
    pub input: mpsc::Sender<ConsoleInput>,
    /// From the server. An error is the last that comes.
    pub output: mpsc::Receiver<Result<Vec<u8>, BmcError>>,
}

/// Opens the serial console of a server behind a BMC that speaks IPMI v2.0. `take`: also if somebody else has it, whose
/// console ends by that.
pub async fn open_console(options: &ConnectOptions, take: bool) -> Result<Console, BmcError> {
    let limits = Arc::new(Limits::default());
    let refusals = Arc::new(crate::breaker::Refusals::new(limits.login_pause));
    let desk = Arc::new(Desk::new(options.address.to_string(), Arc::default(), limits));
    let ipmi = Ipmi::new(options, refusals, desk)?;
    let config = options::config(options)?;
    // The BMC says which is enough only by refusing.
    let privilege = config.privilege;
    let socket = link::open(options.address.host(), options.address.port())
        .await
        .map_err(|message| ipmi.failed("the console", LinkError::Network(message)))?;
    let mut session = Session {
        machine: Machine::new(config, link::chance()),
        socket,
        ipmi,
        privilege,
        asked: 0,
        error: None,
    };
    if take {
        // Nobody had it: that is as well.
        session.ask_or_end("the end of another console", deactivate(privilege)).await?;
    }
    // The session comes first, for the suite says whether its payloads are encrypted.
    session.ask_or_end("the device", device::get_device()).await?;
    let encrypted = session.machine.encrypts();
    let answer = session.ask_or_end("the serial port", activate(encrypted, privilege)).await?;
    let refused =
        |message: &str| BmcError::CommandRefused { what: "the serial port".into(), message: message.into() };
    let activated = match (answer.code, outcome(answer.code)) {
        (_, Outcome::Done) => activated(&answer.data).ok_or_else(|| refused("its answer is cut off"))?,
        (ALREADY_ACTIVE, _) => return Err(session.end(refused("another console has it")).await),
        (DISABLED, _) => return Err(session.end(refused("serial over LAN is turned off in the BMC")).await),
        (_, Outcome::Busy(message) | Outcome::Unknown(message) | Outcome::Refused(message)) => {
            return Err(session.end(refused(&message)).await);
        }
        (_, Outcome::Privilege) => {
            return Err(session
                .end(refused("it wants more privilege: set ?privilegelevel=ADMINISTRATOR in the address"))
                .await);
        }
    };
    if !matches!(activated.port, 0 | 623) && activated.port != options.address.port() {
        let message = format!("it wants packets of the serial port at UDP port {}", activated.port);
        return Err(session.end(BmcError::NotSupported { what: message }).await);
    }
    let line = Line::new(End::Console, activated.takes);
    let (input, typed) = mpsc::channel(QUEUE);
    let (shown, output) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = session.converse(line, typed, &shown).await {
            let _ = shown.send(Err(error)).await;
        }
    });
    Ok(Console { input, output })
}

/// A session with a BMC, and who speaks in it.
struct Session {
    machine: Machine,
    socket: UdpSocket,
    ipmi: Ipmi,
    privilege: Privilege,
    asked: u64,
    /// What the socket said last.
    error: Option<String>,
}

/// What happened.
enum Event {
    /// A datagram, or the clock.
    Moved,
    Input(ConsoleInput),
    /// Nobody types any more.
    Left,
}

impl Session {
    fn submit(&mut self, request: Request) -> u64 {
        self.asked += 1;
        self.machine.submit(self.asked, request, Instant::now());
        self.asked
    }

    async fn flush(&mut self) {
        while let Some(datagram) = self.machine.next_datagram() {
            if let Err(error) = self.socket.send(&datagram).await {
                self.error = Some(error.to_string());
            }
        }
    }

    /// Waits for a datagram or until then.
    async fn step(&mut self, until: Option<Instant>) {
        self.flush().await;
        let until = [until, self.machine.deadline()].into_iter().flatten().min();
        let until = until.unwrap_or_else(|| Instant::now() + ALIVE);
        let mut buffer = [0; MAX_DATAGRAM + 1];
        tokio::select! {
            received = self.socket.recv(&mut buffer) => self.received(received, &buffer),
            () = sleep_until(until) => {}
        }
        self.machine.tick(Instant::now());
    }

    fn received(&mut self, received: std::io::Result<usize>, buffer: &[u8]) {
        match received {
            Ok(length) if length <= MAX_DATAGRAM => {
                self.error = None;
                self.machine.receive(buffer.get(..length).unwrap_or_default(), Instant::now());
            }
            Ok(_) => {}
            Err(error) => {
                self.error = Some(error.to_string());
                if error.kind() == std::io::ErrorKind::ConnectionRefused {
                    self.machine.unheard(Instant::now());
                }
            }
        }
    }

    fn failed(&self, what: &str, failure: Failure) -> BmcError {
        let error = match (&failure, &self.error) {
            (Failure::Silent { .. } | Failure::NoAnswer { .. }, Some(error)) => {
                LinkError::Network(error.clone())
            }
            _ => LinkError::Failed(failure),
        };
        self.ipmi.failed(what, error)
    }

    /// Asks and waits for the answer.
    async fn ask(&mut self, what: &str, request: Request) -> Result<Answer, BmcError> {
        let id = self.submit(request);
        loop {
            while let Some((answered, result)) = self.machine.next_result() {
                if answered == id {
                    return result.map_err(|failure| self.failed(what, failure));
                }
            }
            self.step(None).await;
        }
    }

    /// The same, and logs out where there is no answer.
    async fn ask_or_end(&mut self, what: &str, request: Request) -> Result<Answer, BmcError> {
        match self.ask(what, request).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.end(error).await),
        }
    }

    /// Logs out, and gives the error back.
    async fn end(&mut self, error: BmcError) -> BmcError {
        self.machine.close(Instant::now());
        let until = Instant::now() + GRACE;
        while !self.machine.is_closed() && Instant::now() < until {
            self.step(Some(until)).await;
        }
        error
    }

    /// Carries characters both ways until one end goes; then lets go of the port and logs out.
    async fn converse(
        mut self,
        mut line: Line,
        mut typed: mpsc::Receiver<ConsoleInput>,
        shown: &mpsc::Sender<Result<Vec<u8>, BmcError>>,
    ) -> Result<(), BmcError> {
        let logins = self.machine.logins();
        let mut pending: Vec<u8> = Vec::new();
        let mut alive = Instant::now() + ALIVE;
        // Nobody types any more: until then what was typed may still be sent.
        let mut left: Option<Instant> = None;
        let lost = |message: &str| BmcError::TaskFailed {
            what: "the console".into(),
            state: "ended".into(),
            message: message.into(),
        };
        let outcome = loop {
            let now = Instant::now();
            while let Some(payload) = self.machine.next_payload() {
                line.receive(&payload, now);
            }
            line.tick(now);
            let taken = line.write(&pending, now);
            pending.drain(..taken);
            while let Some(packet) = line.next_packet() {
                self.machine.send_payload(&packet);
            }
            let read = line.read();
            if !read.is_empty() && shown.send(Ok(read)).await.is_err() {
                break Ok(());
            }
            match line.ended() {
                Some(Ended::Deactivated) => break Err(lost("the BMC ended it, or somebody else took it")),
                Some(Ended::Silent) => break Err(lost("the BMC does not acknowledge what is typed")),
                None => {}
            }
            while let Some((_, result)) = self.machine.next_result() {
                if let Err(failure) = result {
                    return Err(self.failed("the console", failure));
                }
            }
            if left.is_some_and(|until| now >= until || (line.is_idle() && pending.is_empty())) {
                break Ok(());
            }
            if self.machine.logins() > logins {
                break Err(lost("the BMC ended the session"));
            }
            if now >= alive {
                alive = now + ALIVE;
                if self.machine.is_idle() {
                    self.submit(device::get_device());
                }
            }
            let until =
                [line.deadline(), self.machine.deadline(), left, Some(alive)].into_iter().flatten().min();
            let listens = pending.is_empty() && left.is_none();
            match self.wait(until.unwrap_or(alive), &mut typed, listens).await {
                Event::Moved => {}
                Event::Input(ConsoleInput::Characters(more)) => pending = more,
                Event::Input(ConsoleInput::Break) => line.send_break(Instant::now()),
                Event::Left => left = Some(Instant::now() + GRACE),
            }
        };
        let _ = tokio::time::timeout(GRACE, {
            let request = deactivate(self.privilege);
            self.ask("the end of the console", request)
        })
        .await;
        match outcome {
            Err(error) => Err(self.end(error).await),
            Ok(()) => {
                self.end(lost("left")).await;
                Ok(())
            }
        }
    }

    async fn wait(
        &mut self,
        until: Instant,
        typed: &mut mpsc::Receiver<ConsoleInput>,
        listens: bool,
    ) -> Event {
        self.flush().await;
        let mut buffer = [0; MAX_DATAGRAM + 1];
        let event = tokio::select! {
            input = typed.recv(), if listens => input.map_or(Event::Left, Event::Input),
            received = self.socket.recv(&mut buffer) => {
                self.received(received, &buffer);
                Event::Moved
            }
            () = sleep_until(until) => Event::Moved,
        };
        self.machine.tick(Instant::now());
        event
    }
}
