//! A provider in this process: the gRPC service over TLS behind a relay that can be cut, and an image server that can
//! break off.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, dead_code)]

pub mod images;

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use ferric_agent::{AgentError, AgentOptions, Exit, Platform};
use ferric_image::{BlockDevice, FileDevice};
use ferric_protocol::{
    BootData, BootToken, check_version,
    tls::{ClientAuth, certificate_sha256, server_config, spki_sha256},
    v1::{
        AgentMessage, Disk, Inventory, PowerAction, ProviderMessage, RegisterRequest, RegisterResponse, Task,
        TaskProgress, TaskResult,
        agent_message::Body,
        agent_service_server::{AgentService, AgentServiceServer},
        provider_message,
        task_result::Outcome,
    },
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Request, Response, Status, Streaming, transport::server::Connected};

/// Nothing here takes long; who waits this long waits for ever.
pub const PATIENCE: Duration = Duration::from_secs(30);
const TOKEN_KEY: &[u8] = b"the key of the provider's tokens";
/// This machine as a virtual one sees it, behind the user network of QEMU.
pub const FROM_VM: &str = "10.0.2.2";
/// The same on the bridge of benches/vm.
pub const FROM_BRIDGE: &str = "10.77.0.1";
pub const NOW: u64 = 1_800_000_000;

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub struct Pki {
    pub ca: CertificateDer<'static>,
    pub ca_pem: String,
    leaf: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Pki {
    pub fn new() -> Self {
        let dates = (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2036, 1, 1));
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (ca.not_before, ca.not_after) = dates;
        let ca = rcgen::CertifiedIssuer::self_signed(ca, rcgen::KeyPair::generate().unwrap()).unwrap();
        let names = ["127.0.0.1", FROM_VM, FROM_BRIDGE].map(str::to_owned);
        let mut leaf = rcgen::CertificateParams::new(names).unwrap();
        (leaf.not_before, leaf.not_after) = dates;
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&key, &ca).unwrap().der().clone();
        Self { ca: ca.der().clone(), ca_pem: ca.pem(), leaf, key: key.serialize_der() }
    }

    pub fn acceptor(&self, auth: ClientAuth) -> TlsAcceptor {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = server_config(vec![self.leaf.clone(), self.ca.clone()], key, auth).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// One session, as the provider holds it.
pub struct Session {
    pub fingerprint: String,
    messages: Streaming<AgentMessage>,
    sender: mpsc::Sender<Result<ProviderMessage, Status>>,
}

impl Session {
    pub async fn send(&self, task: &Task) {
        self.say(provider_message::Body::Task(task.clone())).await;
    }

    pub async fn say(&self, body: provider_message::Body) {
        self.sender.send(Ok(ProviderMessage { body: Some(body) })).await.unwrap();
    }

    pub async fn ack(&self, id: &str) {
        self.say(provider_message::Body::Ack(ferric_protocol::v1::Ack { task_id: id.into() })).await;
    }

    pub async fn next(&mut self) -> Option<Body> {
        soon("a message", self.messages.message()).await.ok().flatten().and_then(|message| message.body)
    }

    /// The next message that is not a heartbeat; the first of a session is its Hello.
    pub async fn hello(&mut self) -> ferric_protocol::v1::Hello {
        match self.next().await {
            Some(Body::Hello(hello)) => hello,
            other => panic!("expected a hello, got {other:?}"),
        }
    }

    pub async fn result(&mut self) -> TaskResult {
        loop {
            match self.next().await {
                Some(Body::Result(result)) => return result,
                Some(_) => {}
                None => panic!("the session ended before a result came"),
            }
        }
    }

    pub async fn progress(&mut self) -> TaskProgress {
        loop {
            match self.next().await {
                Some(Body::Progress(progress)) => return progress,
                Some(_) => {}
                None => panic!("the session ended before progress came"),
            }
        }
    }

    /// Gives a task, takes its result and acknowledges it.
    pub async fn complete(&mut self, task: &Task) -> Outcome {
        self.send(task).await;
        let result = self.result().await;
        assert_eq!(result.task_id, task.id);
        self.ack(&task.id).await;
        result.outcome.unwrap()
    }
}

#[derive(Clone)]
struct Service {
    state: Arc<State>,
}

struct State {
    /// Refusals to give, first to last, before registrations succeed.
    refuse: Mutex<VecDeque<Status>>,
    refuse_sessions: Mutex<VecDeque<Status>>,
    /// What whoever registers is told to end with, in place of a session.
    end: Mutex<PowerAction>,
    registered: Mutex<Vec<(String, Inventory)>>,
    registrations: AtomicUsize,
    sessions: mpsc::UnboundedSender<Session>,
}

#[derive(Clone)]
pub struct Peer(String);

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = ReceiverStream<Result<ProviderMessage, Status>>;

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        self.state.registrations.fetch_add(1, Ordering::SeqCst);
        if let Some(status) = self.state.refuse.lock().unwrap().pop_front() {
            return Err(status);
        }
        let peer = request.extensions().get::<Peer>().unwrap().0.clone();
        let request = request.into_inner();
        check_version(request.protocol_version).map_err(|e| Status::failed_precondition(e.to_string()))?;
        let token = BootToken::verify(TOKEN_KEY, &request.boot_token, NOW)
            .map_err(|e| Status::permission_denied(e.to_string()))?;
        self.state.registered.lock().unwrap().push((peer, request.inventory.unwrap()));
        Ok(Response::new(RegisterResponse {
            host: token.host,
            heartbeat_seconds: 1,
            end: (*self.state.end.lock().unwrap()).into(),
        }))
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if let Some(status) = self.state.refuse_sessions.lock().unwrap().pop_front() {
            return Err(status);
        }
        let fingerprint = request.extensions().get::<Peer>().unwrap().0.clone();
        let known = self.state.registered.lock().unwrap().iter().any(|(peer, _)| *peer == fingerprint);
        if !known {
            return Err(Status::unauthenticated("this key is not registered"));
        }
        let (sender, outbox) = mpsc::channel(16);
        let _ = self.state.sessions.send(Session { fingerprint, messages: request.into_inner(), sender });
        Ok(Response::new(ReceiverStream::new(outbox)))
    }
}

/// TLS that remembers whose it is.
pub struct Tls(TlsStream<TcpStream>);

impl Connected for Tls {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        Peer(spki_sha256(&self.0.get_ref().1.peer_certificates().unwrap()[0]).unwrap())
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        b: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, b)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, b)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Passes bytes on, until it is cut.
pub struct Relay {
    pub address: SocketAddr,
    cut: Arc<Mutex<CancellationToken>>,
    _task: AbortOnDropHandle<()>,
}

impl Relay {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::new(Mutex::new(CancellationToken::new()));
        let present = cut.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let cut = present.lock().unwrap().clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        () = cut.cancelled() => {}
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        Self { address, cut, _task: AbortOnDropHandle::new(task) }
    }

    /// Breaks all connections there are; new ones pass.
    pub fn cut(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }
}

pub struct Provider {
    pub pki: Arc<Pki>,
    pub relay: Relay,
    state: Arc<State>,
    sessions: mpsc::UnboundedReceiver<Session>,
    _server: AbortOnDropHandle<()>,
}

impl Provider {
    pub async fn start() -> Self {
        let pki = Arc::new(Pki::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::to(listener.local_addr().unwrap()).await;
        let (connections, incoming) = mpsc::channel(16);
        let acceptor = pki.acceptor(ClientAuth::Required);
        let (sender, sessions) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            refuse: Mutex::default(),
            refuse_sessions: Mutex::default(),
            end: Mutex::default(),
            registered: Mutex::default(),
            registrations: AtomicUsize::new(0),
            sessions: sender,
        });
        let service = AgentServiceServer::new(Service { state: state.clone() });
        let server = tokio::spawn(async move {
            let accept = async {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (acceptor, connections) = (acceptor.clone(), connections.clone());
                    tokio::spawn(async move {
                        if let Ok(tls) = acceptor.accept(stream).await {
                            let _ = connections.send(Ok::<_, io::Error>(Tls(tls))).await;
                        }
                    });
                }
            };
            let serve = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(ReceiverStream::new(incoming));
            tokio::select! {
                () = accept => {}
                served = serve => served.unwrap(),
            }
        });
        Self { pki, relay, state, sessions, _server: AbortOnDropHandle::new(server) }
    }

    pub fn refuse(&self, statuses: impl IntoIterator<Item = Status>) {
        self.state.refuse.lock().unwrap().extend(statuses);
    }

    /// Whoever registers from now on is told to end like this.
    pub fn end_with(&self, end: PowerAction) {
        *self.state.end.lock().unwrap() = end;
    }

    pub fn refuse_sessions(&self, statuses: impl IntoIterator<Item = Status>) {
        self.state.refuse_sessions.lock().unwrap().extend(statuses);
    }

    /// As after a restart whose memory is gone.
    pub fn forget_agents(&self) {
        self.state.registered.lock().unwrap().clear();
    }

    pub fn registrations(&self) -> usize {
        self.state.registrations.load(Ordering::SeqCst)
    }

    pub fn registered(&self) -> Vec<(String, Inventory)> {
        self.state.registered.lock().unwrap().clone()
    }

    pub async fn session(&mut self) -> Session {
        soon("a session", self.sessions.recv()).await.unwrap()
    }

    /// The next session, of a machine that takes longer to come up.
    pub async fn session_within(&mut self, patience: Duration) -> Option<Session> {
        tokio::time::timeout(patience, self.sessions.recv()).await.ok().flatten()
    }

    pub fn boot(&self, expires: u64) -> BootData {
        self.boot_by(&self.relay.address.to_string(), expires)
    }

    /// For an agent that reaches this by another address.
    pub fn boot_by(&self, address: &str, expires: u64) -> BootData {
        let token = BootToken { host: "default/h1".into(), boot_number: 1, expires }.mint(TOKEN_KEY).unwrap();
        let url = format!("https://{address}");
        BootData::new(&url, &certificate_sha256(&self.pki.ca), &token, NOW).unwrap()
    }
}

/// A machine with one disk, which is a file.
pub struct Machine {
    pub disk: std::path::PathBuf,
    pub size: u64,
    pub opened: AtomicUsize,
    _folder: tempfile::TempDir,
}

pub const DISK: &str = "/dev/vda";

impl Machine {
    /// The disk is full of something else.
    pub fn new(size: u64) -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::write(&disk, vec![0xee; size as usize]).unwrap();
        Arc::new(Self { disk, size, opened: AtomicUsize::new(0), _folder: folder })
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.disk).unwrap()
    }

    pub fn device(&self) -> FileDevice {
        FileDevice::open(&self.disk).unwrap()
    }

    pub fn times_opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

impl Platform for Machine {
    fn inventory(&self) -> io::Result<Inventory> {
        let disk =
            Disk { name: DISK.into(), serial_number: "D1".into(), size_bytes: self.size, ..Disk::default() };
        Ok(Inventory { system_uuid: "u-1".into(), disks: vec![disk], ..Inventory::default() })
    }

    fn open_disk(&self, name: &str) -> io::Result<Box<dyn BlockDevice>> {
        assert_eq!(name, DISK);
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(self.device()))
    }
}

pub fn options() -> AgentOptions {
    AgentOptions {
        min_root_bytes: 1 << 20,
        block_bytes: 1 << 16,
        progress_interval: Duration::from_millis(1),
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        ..AgentOptions::default()
    }
}

pub struct Agent {
    pub cancel: CancellationToken,
    task: JoinHandle<Result<Exit, AgentError>>,
}

impl Agent {
    pub fn start(provider: &Provider, platform: Arc<dyn Platform>, options: AgentOptions) -> Self {
        Self::boot(provider.boot(NOW + 3600), platform, options)
    }

    pub fn boot(boot: BootData, platform: Arc<dyn Platform>, options: AgentOptions) -> Self {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(ferric_agent::run(boot, platform, options, cancel.clone()));
        Self { cancel, task }
    }

    pub async fn end(&mut self) -> Result<Exit, AgentError> {
        soon("the agent to end", &mut self.task).await.unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.task.abort();
    }
}
