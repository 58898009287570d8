//! The gRPC service: registration and the opening of sessions. Decides who is who; what is done is decided elsewhere.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ferric_protocol::{
    BootToken, DiscoveryToken, TokenError, check_version,
    v1::{
        AgentMessage, Inventory, ProviderMessage, RegisterRequest, RegisterResponse,
        agent_service_server::AgentService,
    },
};
use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    connection::PeerFingerprint,
    hub::{Hub, OUTBOX, Outgoing},
    registrar::{Leadership, RegisterError, Registrar},
    screen, session,
};
use crate::{key::Key, telemetry::metrics::Metrics};

/// How often an agent is asked to say that it lives.
pub(super) const HEARTBEAT_SECONDS: u32 = 30;

/// Who an authenticated agent is.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub host: Key,
    pub boot_number: i64,
    pub fingerprint: String,
}

/// Why a key may not act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stranger {
    /// Nobody knows it; right after a restart that may change in a moment.
    Unknown,
    /// It is known, and its boot is over.
    NotAllowed,
}

/// What the gRPC service and the image server know in common.
pub(super) struct AgentContext {
    pub hub: Hub,
    pub registrar: Arc<dyn Registrar>,
    pub leader: watch::Receiver<Leadership>,
    pub token_key: Vec<u8>,
    pub shutdown: CancellationToken,
    pub sessions: TaskTracker,
    pub metrics: Arc<Metrics>,
}

impl AgentContext {
    /// The sentence that refuses everybody while another provider holds the lease.
    pub(super) fn refusal(&self) -> Option<String> {
        self.leader.borrow().refusal()
    }

    /// Who a key stands for, if it may act now.
    pub(super) async fn authorize(&self, fingerprint: &str) -> Result<Agent, Stranger> {
        let (host, boot_number, fresh) = match self.hub.known(fingerprint) {
            Some(known) => (known.host, known.boot_number, known.fresh),
            None => {
                let known = self.registrar.host_for(fingerprint).await;
                let (host, boot_number) = known.ok_or(Stranger::Unknown)?;
                (host, boot_number, false)
            }
        };
        // Right after a registration the registrar's cache may not show it yet; this process has just seen it written.
        if fresh || self.registrar.session_allowed(&host, fingerprint).await {
            Ok(Agent { host, boot_number, fingerprint: fingerprint.to_owned() })
        } else {
            Err(Stranger::NotAllowed)
        }
    }
}

/// The service, as generated code calls it.
#[derive(Clone)]
pub(super) struct Service {
    pub context: Arc<AgentContext>,
}

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = Outgoings;

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        self.admit(request).await.inspect_err(|status| self.count("registration", status))
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        self.open(request).await.inspect_err(|status| self.count("session", status))
    }
}

impl Service {
    /// Books a refusal, but not of those who are to come again.
    fn count(&self, what: &'static str, status: &Status) {
        if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) {
            tracing::warn!(what, reason = status.message(), "refused");
            self.context.metrics.refused(what);
        }
    }

    async fn admit(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let fingerprint = peer(&request)?;
        self.leader_only()?;
        let RegisterRequest { protocol_version, boot_token, inventory } = request.into_inner();
        check_version(protocol_version).map_err(|e| Status::failed_precondition(e.to_string()))?;
        let now = jiff::Timestamp::now().as_second().try_into().unwrap_or(0);
        let key = &self.context.token_key;
        let inventory = screen::inventory(inventory.unwrap_or_default())
            .map_err(|e| Status::invalid_argument(e.to_string()));
        let token = match BootToken::verify(key, &boot_token, now) {
            Err(error @ TokenError::BadSignature) => match DiscoveryToken::verify(key, &boot_token, now) {
                Ok(token) => return self.discover(&token, &fingerprint, &inventory?).await,
                Err(TokenError::BadSignature) => Err(error),
                Err(error) => Err(error),
            },
            verified => verified,
        };
        let token = token.map_err(token_status)?;
        let inventory = inventory?;
        let host =
            Key::parse(&token.host).ok_or_else(|| Status::unauthenticated("the token names no host"))?;
        let boot_number = i64::try_from(token.boot_number)
            .map_err(|_| Status::unauthenticated("the token's boot number is out of range"))?;

        self.context.registrar.register(&host, boot_number, &fingerprint, &inventory).await.map_err(
            |error| {
                tracing::warn!(%host, boot_number, fingerprint, %error, "agent not registered");
                register_status(error)
            },
        )?;
        self.context
            .hub
            .registered(&host, boot_number, &fingerprint, inventory)
            .map_err(|e| Status::permission_denied(e.to_string()))?;
        tracing::info!(%host, boot_number, fingerprint, "agent registered");
        Ok(Response::new(RegisterResponse {
            host: host.to_string(),
            heartbeat_seconds: HEARTBEAT_SECONDS,
            ..RegisterResponse::default()
        }))
    }

    /// The whole of what a machine may do that nobody enrolled.
    async fn discover(
        &self,
        token: &DiscoveryToken,
        fingerprint: &str,
        inventory: &Inventory,
    ) -> Result<Response<RegisterResponse>, Status> {
        let end = self.context.registrar.discovered(token, fingerprint, inventory).await;
        let end = end.map_err(register_status)?;
        let heartbeat_seconds = HEARTBEAT_SECONDS;
        Ok(Response::new(RegisterResponse { host: String::new(), heartbeat_seconds, end: end.into() }))
    }

    async fn open(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Outgoings>, Status> {
        let fingerprint = peer(&request)?;
        self.leader_only()?;
        if self.context.shutdown.is_cancelled() {
            return Err(Status::unavailable("the provider is shutting down"));
        }
        let agent = self.context.authorize(&fingerprint).await;
        let agent = agent.map_err(|_| Status::unauthenticated("this key is not registered"))?;
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let run = session::run(Arc::clone(&self.context), agent, request.into_inner(), outbox);
        self.context.sessions.spawn(run);
        Ok(Response::new(Outgoings { messages: ReceiverStream::new(messages) }))
    }
}

/// What a session sends.
pub(super) struct Outgoings {
    messages: ReceiverStream<Outgoing>,
}

impl Stream for Outgoings {
    type Item = Result<ProviderMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.poll_next_unpin(cx).map(|outgoing| outgoing.map(|boxed| *boxed))
    }
}

impl Service {
    fn leader_only(&self) -> Result<(), Status> {
        self.context.refusal().map_or(Ok(()), |sentence| Err(Status::unavailable(sentence)))
    }
}

fn peer<T>(request: &Request<T>) -> Result<String, Status> {
    let fingerprint = request.extensions().get::<PeerFingerprint>();
    fingerprint.map(|f| f.0.to_string()).ok_or_else(|| Status::unauthenticated("no client certificate"))
}

fn token_status(error: TokenError) -> Status {
    match error {
        TokenError::Expired { .. } => Status::permission_denied(error.to_string()),
        TokenError::Malformed(_) | TokenError::BadSignature | TokenError::HostLength(_) => {
            Status::unauthenticated(error.to_string())
        }
    }
}

fn register_status(error: RegisterError) -> Status {
    match error {
        RegisterError::Spent | RegisterError::UnknownHost | RegisterError::WrongMachine { .. } => {
            Status::permission_denied(error.to_string())
        }
        RegisterError::Conflict { .. } => Status::unavailable(error.to_string()),
        RegisterError::NotLeader { holder } => {
            Status::unavailable(Leadership::Standby { holder }.refusal().unwrap_or_default())
        }
    }
}
