//! The shell of the state machine: a UDP socket and a clock. It lives while something is asked and a moment longer, so
//! that a session is used again and closed afterwards; an idle BMC costs no task and no socket.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::machine::{Answer, Chance, Config, Failure, Machine, Request};
use super::suite::Suite;
use super::wire::MAX_DATAGRAM;
use crate::counters::Counters;

/// How long a session is kept open for the next question. BMCs have few slots, and end idle sessions after 60 s.
const LINGER: Duration = Duration::from_secs(10);
/// Questions that wait for one BMC at a time.
const QUEUE: usize = 16;
/// How long a name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(crate) enum LinkError {
    /// The conversation failed.
    Failed(Failure),
    /// There is no way to send anything.
    Network(String),
}

type Reply = oneshot::Sender<Result<Answer, LinkError>>;

enum Ask {
    Question(Request, Reply),
    Close(oneshot::Sender<()>),
}

/// The operating system's random numbers.
struct System {
    random: SystemRandom,
}

/// Where sessions have their random numbers from.
pub(super) fn chance() -> Box<dyn Chance> {
    Box::new(System { random: SystemRandom::new() })
}

impl Chance for System {
    fn fill(&mut self, bytes: &mut [u8]) {
        // The kernel's generator does not fail once it is up; if it did, the generator of `rand` is as good.
        if self.random.fill(bytes).is_err() {
            bytes.fill_with(rand::random);
        }
    }
}

/// The way to one BMC.
#[derive(Debug)]
pub(crate) struct Link {
    host: String,
    port: u16,
    config: Config,
    counters: Arc<Counters>,
    actor: Mutex<Option<mpsc::Sender<Ask>>>,
}

impl Link {
    /// Sends nothing.
    pub(crate) fn new(host: &str, port: u16, config: Config, counters: Arc<Counters>) -> Self {
        Self { host: host.to_owned(), port, config, counters, actor: Mutex::default() }
    }

    /// The cipher suites that are taken.
    pub(crate) fn suites(&self) -> &[Suite] {
        &self.config.suites
    }

    /// Asks, in the session that is open, or in a new one.
    pub(crate) async fn ask(&self, request: Request) -> Result<Answer, LinkError> {
        let (reply, answer) = oneshot::channel();
        let mut ask = Ask::Question(request, reply);
        // An actor that ended in this moment gives the question back.
        for _ in 0..3 {
            match self.sender().send(ask).await {
                Ok(()) => return answer.await.unwrap_or(Err(LinkError::Failed(Failure::Closing))),
                Err(mpsc::error::SendError(back)) => ask = back,
            }
        }
        Err(LinkError::Failed(Failure::Closing))
    }

    /// Closes the session, if there is one.
    pub(crate) async fn close(&self) {
        let sender = self.actor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let (reply, closed) = oneshot::channel();
            if sender.send(Ask::Close(reply)).await.is_ok() {
                let _ = closed.await;
            }
        }
    }

    fn sender(&self) -> mpsc::Sender<Ask> {
        let mut actor = self.actor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = actor.as_ref().filter(|sender| !sender.is_closed()) {
            return sender.clone();
        }
        let (sender, questions) = mpsc::channel(QUEUE);
        let (host, port) = (self.host.clone(), self.port);
        let machine = Machine::new(self.config.clone(), chance());
        let counters = self.counters.clone();
        tokio::spawn(async move {
            Actor {
                machine,
                questions,
                waiting: Vec::new(),
                next: 0,
                logins: 0,
                closed: None,
                counters,
                error: None,
            }
            .run(&host, port)
            .await;
        });
        *actor = Some(sender.clone());
        sender
    }
}

struct Actor {
    machine: Machine,
    questions: mpsc::Receiver<Ask>,
    waiting: Vec<(u64, Reply)>,
    next: u64,
    /// Logins that were counted.
    logins: u64,
    closed: Option<oneshot::Sender<()>>,
    counters: Arc<Counters>,
    /// What the socket said last.
    error: Option<String>,
}

impl Actor {
    async fn run(mut self, host: &str, port: u16) {
        match open(host, port).await {
            Ok(socket) => self.converse(&socket).await,
            Err(message) => {
                self.questions.close();
                while let Some(ask) = self.questions.recv().await {
                    match ask {
                        Ask::Question(_, reply) => {
                            let _ = reply.send(Err(LinkError::Network(message.clone())));
                        }
                        Ask::Close(reply) => drop(reply),
                    }
                }
            }
        }
    }

    async fn converse(&mut self, socket: &UdpSocket) {
        let mut buffer = [0; MAX_DATAGRAM + 1];
        let mut idle_since = Instant::now();
        let mut open = true;
        loop {
            self.flush(socket).await;
            if self.machine.is_closed() {
                return;
            }
            if !self.machine.is_idle() {
                idle_since = Instant::now();
            }
            // When closing there is always a deadline, or it is closed.
            let until = self.machine.deadline().unwrap_or(idle_since + LINGER);
            tokio::select! {
                ask = self.questions.recv(), if open => match ask {
                    Some(Ask::Question(request, reply)) => self.question(request, reply),
                    Some(Ask::Close(reply)) => {
                        self.closed = Some(reply);
                        self.questions.close();
                    }
                    // Closed and empty: the link is gone, or there was nothing to ask for a while.
                    None => {
                        open = false;
                        self.machine.close(Instant::now());
                    }
                },
                received = socket.recv(&mut buffer) => match received {
                    Ok(length) if length <= MAX_DATAGRAM => {
                        self.error = None;
                        self.machine.receive(&buffer[..length], Instant::now());
                    }
                    Ok(_) => {}
                    Err(error) => {
                        // By ICMP.
                        let unheard = error.kind() == std::io::ErrorKind::ConnectionRefused;
                        self.error = Some(error.to_string());
                        if unheard {
                            self.machine.unheard(Instant::now());
                        }
                    }
                },
                () = sleep_until(until) => {
                    if self.machine.deadline().is_some() {
                        self.machine.tick(Instant::now());
                    } else if open {
                        // What was sent until now is still answered.
                        self.questions.close();
                    } else {
                        return;
                    }
                }
            }
        }
    }

    fn question(&mut self, request: Request, reply: Reply) {
        if reply.is_closed() {
            return;
        }
        self.next += 1;
        self.waiting.push((self.next, reply));
        self.machine.submit(self.next, request, Instant::now());
    }

    /// Sends what is to be sent, and hands out results.
    async fn flush(&mut self, socket: &UdpSocket) {
        while self.logins < self.machine.logins() {
            self.logins += 1;
            self.counters.login();
        }
        while let Some(datagram) = self.machine.next_datagram() {
            self.counters.request();
            // Also what ICMP said of the datagram before.
            if let Err(error) = socket.send(&datagram).await {
                self.error = Some(error.to_string());
            }
        }
        while let Some((id, result)) = self.machine.next_result() {
            let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == id) else { continue };
            let (_, reply) = self.waiting.swap_remove(at);
            let result = result.map_err(|failure| match (&failure, &self.error) {
                (Failure::Silent { .. } | Failure::NoAnswer { .. }, Some(error)) => {
                    LinkError::Network(error.clone())
                }
                _ => LinkError::Failed(failure),
            });
            let _ = reply.send(result);
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if let Some(closed) = self.closed.take() {
            let _ = closed.send(());
        }
    }
}

/// A socket that speaks to this address and hears no other.
pub(super) async fn open(host: &str, port: u16) -> Result<UdpSocket, String> {
    let found = timeout(RESOLVE, tokio::net::lookup_host((host, port))).await;
    let address: SocketAddr = match found {
        Err(_) => return Err(format!("the name is not resolved within {} s", RESOLVE.as_secs())),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(mut addresses)) => addresses.next().ok_or("the name has no address")?,
    };
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await.map_err(|error| error.to_string())?;
    socket.connect(address).await.map_err(|error| error.to_string())?;
    Ok(socket)
}
