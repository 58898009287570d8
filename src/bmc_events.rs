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
/// Times that a host is woken at once, and then each second.
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
    if rates.lock().unwrap_or_else(PoisonError::into_inner).allows(&host, Instant::now()) {
        tracing::debug!(%host, "woken by an event of its BMC");
        (receiver.wake)(&host);
    }
    StatusCode::NO_CONTENT
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

/// How often hosts were woken.
#[derive(Debug, Default)]
struct Rates {
    hosts: HashMap<Key, (f64, Instant)>,
}

impl Rates {
    /// Whether a host may be woken now.
    fn allows(&mut self, host: &Key, now: Instant) -> bool {
        let refilled = |(left, at): (f64, Instant)| {
            (left + now.saturating_duration_since(at).as_secs_f64() * EACH_SECOND).min(BURST)
        };
        if self.hosts.len() >= RATES && !self.hosts.contains_key(host) {
            self.hosts.retain(|_, rate| refilled(*rate) < BURST);
            if self.hosts.len() >= RATES {
                return false;
            }
        }
        let rate = self.hosts.entry(host.clone()).or_insert((BURST, now));
        let left = refilled(*rate);
        let allowed = left >= 1.0;
        *rate = (if allowed { left - 1.0 } else { left }, now);
        allowed
    }
}

#[cfg(test)]
mod tests;
