//! The agents' listener: one TLS port for gRPC and images.
//!
//! A client must prove that it holds the key of the certificate that it shows; whose key that is, is decided a layer
//! up. All that a stranger can do is to connect and be told no, within bounds of time, memory and number.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use ferric_protocol::{tls::spki_sha256, v1::agent_service_server::AgentServiceServer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use super::{
    connection::{PeerFingerprint, serve_connection},
    files::{self, Files},
    hub::Hub,
    images::ImageCache,
    keys::ServingKeys,
    registrar::{Leadership, Registrar},
    service::{AgentContext, Service},
};
use crate::telemetry::metrics::Metrics;

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once. When a thousand machines boot together, a few finish in time and the rest wait for their turn,
/// instead of all of them failing together.
const HANDSHAKES: usize = 256;
/// Largest message of an agent: an inventory of a big machine has some ten kilobytes.
const MAX_MESSAGE: usize = 512 * 1024;
/// Largest task: user data comes from a Secret, which has at most 1 MiB.
const MAX_TASK: usize = 4 * 1024 * 1024;
/// Time until an answer begins.
const ANSWER: Duration = Duration::from_secs(60);
/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the server takes on at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections.
    pub connections: usize,
    /// Images being sent.
    pub image_streams: usize,
    /// How long an agent waits for its turn before it is told to come again. Less than agents wait for an answer.
    pub image_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 20_000, image_streams: 64, image_wait: Duration::from_secs(20) }
    }
}

/// Everything that the agents' listener needs.
pub struct AgentServer {
    /// The connected agents.
    pub hub: Hub,
    /// The host controller's side.
    pub registrar: Arc<dyn Registrar>,
    /// The images.
    pub images: ImageCache,
    /// The server's certificate.
    pub tls: ServingKeys,
    /// Key of the boot tokens.
    pub token_key: Vec<u8>,
    /// Whether this provider holds the lease. Sessions end when it does not any more.
    pub leader: watch::Receiver<Leadership>,
    /// What is taken on at once.
    pub limits: Limits,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
}

impl AgentServer {
    /// Serves until `shutdown` is cancelled; then ends all sessions and connections and returns.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let Self { hub, registrar, images, tls, token_key, leader, limits, metrics } = self;
        let sessions = TaskTracker::new();
        let context = Arc::new(AgentContext {
            hub,
            registrar,
            leader,
            token_key,
            shutdown: shutdown.clone(),
            sessions: sessions.clone(),
            metrics,
        });
        let files = Files::new(Arc::clone(&context), images, limits);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let acceptor =
            Acceptor { router: router(context, files), tls, handshakes, shutdown: shutdown.clone() };
        accept(listener, limits.connections, &shutdown, move |stream| acceptor.clone().handle(stream)).await;
        sessions.close();
        sessions.wait().await;
        Ok(())
    }
}

fn router(context: Arc<AgentContext>, files: Files) -> Router {
    let grpc = AgentServiceServer::new(Service { context })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_TASK);
    let images = Router::new().route("/images/{digest}", get(files::serve)).with_state(files);
    Routes::new(grpc).into_axum_router().merge(images).layer(middleware::from_fn(answer_in_time))
}

/// Bounds the time until an answer begins, and with it the time that a request's message may take to come.
async fn answer_in_time(request: Request, next: Next) -> Response {
    match timeout(ANSWER, next.run(request)).await {
        Ok(response) => response,
        Err(_) => http::StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

#[derive(Clone)]
struct Acceptor {
    router: Router,
    tls: ServingKeys,
    handshakes: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Acceptor {
    async fn handle(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let config = match self.tls.config() {
            Ok(config) => config,
            Err(error) => return tracing::error!(%error, "no serving certificate"),
        };
        let Ok(turn) = self.handshakes.acquire().await else { return };
        let handshake = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
        drop(turn);
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => return tracing::debug!("TLS handshake took too long"),
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let Some(Ok(fingerprint)) = certificate.map(spki_sha256) else {
            return tracing::debug!("a client without a usable certificate");
        };
        let peer = PeerFingerprint(fingerprint.into());
        serve_connection(stream, self.router, Some(peer), &self.shutdown).await;
    }
}

/// Accepts connections, at most `most` at a time, until shutdown; then waits for the last one to end.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    most: usize,
    shutdown: &CancellationToken,
    handle: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let free = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let permit = Arc::clone(&free).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                // Boxed, so that the task does not hold it twice: as what it captured and as what it awaits.
                let serving = Box::pin(handle(stream));
                connections.spawn(async move {
                    let _permit = permit;
                    serving.await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}
