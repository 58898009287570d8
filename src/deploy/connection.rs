//! Serving one connection within bounds: buffers, streams, time to send a request, idle time, shutdown. Knows nothing of
//! what is served.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body};
use http::Request;
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Request extension: SHA-256 (hex) of the public key in the client's certificate.
#[derive(Debug, Clone)]
pub struct PeerFingerprint(pub Arc<str>);

/// Request extension: cancel it to close the connection, whatever is in flight.
#[derive(Debug, Clone)]
pub struct CloseConnection(pub CancellationToken);

/// A connection without a request in flight is closed after this long.
const IDLE: Duration = Duration::from_secs(120);
/// How often idleness is looked at.
const IDLE_CHECK: Duration = Duration::from_secs(30);
/// Time for the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(20);
/// Time between pings of an HTTP/2 connection, and to answer one.
const PING: Duration = Duration::from_secs(30);
/// HTTP/2 flow control windows and send buffers; thousands of sessions idle most of their life.
const WINDOW: u32 = 64 * 1024;
const SEND_BUFFER: usize = 64 * 1024;
/// Streams of one connection at once: an agent needs two or three.
const STREAMS: u32 = 16;
/// How long requests in flight may go on when the connection is to end.
const GRACE: Duration = Duration::from_secs(3);

/// Requests in flight of one connection, and when the last one ended.
struct Activity {
    started: Instant,
    in_flight: AtomicUsize,
    last_ms: AtomicU64,
}

/// Counts a request as in flight for as long as it lives.
struct InFlight(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    fn idle_for(&self) -> Duration {
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        self.started.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_ms.store(now, Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves HTTP/1.1 and HTTP/2 until the peer goes, is idle for too long, or `shutdown` is cancelled.
pub async fn serve_connection<I>(
    io: I,
    router: Router,
    peer: Option<PeerFingerprint>,
    shutdown: &CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity {
        started: Instant::now(),
        in_flight: AtomicUsize::new(0),
        last_ms: AtomicU64::new(0),
    });
    let close = CloseConnection(shutdown.child_token());
    let service = service_fn({
        let (activity, close) = (Arc::clone(&activity), close.clone());
        move |request: Request<Incoming>| {
            let in_flight = activity.begin();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(close.clone());
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            let response = router.clone().oneshot(request);
            async move {
                let response = response.await?;
                // The body owns the count: a request is in flight until its last byte is handed over.
                Ok::<_, std::convert::Infallible>(response.map(move |body| {
                    body.map_frame(move |frame| {
                        let _ = &in_flight;
                        frame
                    })
                }))
            }
        }
    });
    let builder = builder();
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let mut check = tokio::time::interval(IDLE_CHECK);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = close.0.cancelled() => break,
            _ = check.tick() => if activity.idle_for() > IDLE { break },
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(SEND_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 2)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(16 * 1024);
    builder
}
