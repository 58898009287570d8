//! The receiver of events that BMCs push (Redfish, DSP0266 "Eventing"): a knock on the door. What an event says is not
//! believed, and not even read beyond the token by which its sender is known; the host is looked at, as at any poll.
//!
//! A stranger can connect and be told no. A BMC that sends more than a few events a second wakes its host no more often.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use ferric_protocol::{BootToken, TokenUse};
use futures::StreamExt;
use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::deploy::Leadership;
use crate::deploy::connection::serve_connection;
use crate::deploy::server::accept;
use crate::key::Key;

/// Connections at once.
const CONNECTIONS: usize = 512;
/// Time from connecting to the end of the connection.
const CONNECTION: Duration = Duration::from_secs(15);
/// Time for an event to arrive.
const WITHIN: Duration = Duration::from_secs(5);
/// So much of an event is looked at. The rest is not read.
const LOOKED_AT: usize = 8 * 1024;
/// Times that a host is woken at once, and then each second. What comes faster is put together.
const BURST: f64 = 3.0;
const EACH_SECOND: f64 = 1.0;
/// Hosts whose rate is remembered; more than that, and those that are at rest are forgotten.
const RATES: usize = 16 * 1024;

/// What the receiver needs.
pub struct Receiver {
    /// Key of the tokens.
    pub token_key: Vec<u8>,
    /// Looks at a host.
    pub wake: Box<dyn Fn(&Key) + Send + Sync>,
    /// Only who holds the lease takes events.
    pub leader: watch::Receiver<Leadership>,
}

struct Shared {
    receiver: Receiver,
    rates: Mutex<Rates>,
}

impl Receiver {
    /// Takes events, posted to any path, until `stop`.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let shared = Arc::new(Shared { receiver: self, rates: Mutex::default() });
        let router = Router::new().fallback(post(take)).with_state(shared);
        accept(listener, CONNECTIONS, &stop, |stream: TcpStream| {
            let (router, stop) = (router.clone(), stop.clone());
            async move {
                let serving = serve_connection(stream, router, None, &stop);
                let _ = tokio::time::timeout(CONNECTION, serving).await;
            }
        })
        .await;
    }
}

async fn take(State(shared): State<Arc<Shared>>, body: Body) -> StatusCode {
    let Shared { receiver, rates } = &*shared;
    if receiver.leader.borrow().refusal().is_some() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let Ok(bytes) = tokio::time::timeout(WITHIN, beginning(body)).await else {
        return StatusCode::REQUEST_TIMEOUT;
    };
    let Some(host) = context_in(&bytes).and_then(|context| host_of(&receiver.token_key, context)) else {
        return StatusCode::FORBIDDEN;
    };
    let turn = rates.lock().unwrap_or_else(PoisonError::into_inner).turn(&host, Instant::now());
    match turn {
        Turn::Now => wake(&shared, &host),
        Turn::Later(pause) => {
            let shared = shared.clone();
            // One a host at a time: those that come meanwhile are covered by it.
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                wake(&shared, &host);
            });
        }
        Turn::Covered => {}
    }
    StatusCode::NO_CONTENT
}

fn wake(shared: &Shared, host: &Key) {
    tracing::debug!(%host, "woken by an event of its BMC");
    (shared.receiver.wake)(host);
}

/// The first few KiB of a body, or all there is.
async fn beginning(body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut pieces = body.into_data_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        let room = LOOKED_AT - bytes.len();
        bytes.extend_from_slice(piece.get(..room).unwrap_or(&piece));
        if bytes.len() >= LOOKED_AT {
            break;
        }
    }
    bytes
}

/// The host that a context was made for.
fn host_of(key: &[u8], context: &str) -> Option<Key> {
    let token = BootToken::verify_for(TokenUse::Events, key, context, 0).ok()?;
    Key::parse(&token.host)
}

/// The first text at a key `Context` of JSON that may be cut off anywhere. What is escaped in it is no token.
fn context_in(bytes: &[u8]) -> Option<&str> {
    const NAME: &[u8] = b"\"Context\"";
    let blank = |byte: &u8| byte.is_ascii_whitespace();
    let mut from = 0;
    loop {
        let rest = bytes.get(from..)?;
        let after = rest.windows(NAME.len()).position(|part| part == NAME)? + NAME.len();
        from += after;
        let rest = rest.get(after..)?;
        let rest = rest.get(rest.iter().take_while(|byte| blank(byte)).count()..)?;
        let Some(rest) = rest.strip_prefix(b":") else { continue };
        let rest = rest.get(rest.iter().take_while(|byte| blank(byte)).count()..)?;
        let Some(rest) = rest.strip_prefix(b"\"") else { continue };
        let end = rest.iter().position(|byte| *byte == b'"')?;
        return std::str::from_utf8(rest.get(..end)?).ok();
    }
}

/// When a host is woken by an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Now,
    /// It was woken too often: after this pause, so that the last event is not lost.
    Later(Duration),
    /// It is about to be woken anyway.
    Covered,
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    left: f64,
    at: Instant,
    /// Until when it waits to be woken.
    waits: Option<Instant>,
}

impl Rate {
    fn refilled(&self, now: Instant) -> f64 {
        (self.left + now.saturating_duration_since(self.at).as_secs_f64() * EACH_SECOND).min(BURST)
    }
}

/// How often hosts were woken.
#[derive(Debug, Default)]
struct Rates {
    hosts: HashMap<Key, Rate>,
}

impl Rates {
    /// When a host is to be woken by an event that came now.
    fn turn(&mut self, host: &Key, now: Instant) -> Turn {
        if self.hosts.len() >= RATES && !self.hosts.contains_key(host) {
            self.hosts.retain(|_, rate| rate.refilled(now) < BURST);
            if self.hosts.len() >= RATES {
                return Turn::Covered;
            }
        }
        let rate = self.hosts.entry(host.clone()).or_insert(Rate { left: BURST, at: now, waits: None });
        if rate.waits.is_some_and(|until| now < until) {
            return Turn::Covered;
        }
        let left = rate.refilled(now);
        let pause = (left < 1.0).then(|| Duration::from_secs_f64((1.0 - left) / EACH_SECOND));
        *rate = Rate { left: left - 1.0, at: now, waits: pause.map(|pause| now + pause) };
        pause.map_or(Turn::Now, Turn::Later)
    }
}

#[cfg(test)]
mod tests;
