//! A provider in this process, as small as can be: boot script and image over HTTP, and the agent service over TLS.
#![allow(dead_code, clippy::unwrap_used)]

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ferric_image::{BlockDevice, MemDevice, build_test_image};
use ferric_protocol::BootData;
use ferric_protocol::tls::{ClientAuth, certificate_sha256, server_config};
use ferric_protocol::v1::agent_message::Body;
use ferric_protocol::v1::agent_service_server::{AgentService, AgentServiceServer};
use ferric_protocol::v1::task::Work;
use ferric_protocol::v1::{
    self, AgentMessage, Inventory, ProviderMessage, RegisterRequest, RegisterResponse, Task, TaskResult,
    provider_message,
};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

const MIB: u64 = 1 << 20;

/// The provider: gives every agent the same tasks, one after the other.
pub struct Provider {
    pub boot_url: String,
    pub image: Vec<u8>,
    state: Arc<State>,
    _servers: Vec<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct State {
    tasks: Mutex<Vec<Task>>,
    inventories: Mutex<Vec<Inventory>>,
    results: Mutex<Vec<TaskResult>>,
    clients: Mutex<Vec<SocketAddr>>,
}

#[derive(Clone)]
struct Service(Arc<State>);

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = ReceiverStream<Result<ProviderMessage, Status>>;

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let inventory = request.into_inner().inventory.unwrap();
        let host = inventory.hostname.clone();
        self.0.inventories.lock().unwrap().push(inventory);
        Ok(Response::new(RegisterResponse { host, heartbeat_seconds: 1, ..Default::default() }))
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (sender, outbox) = mpsc::channel(16);
        let mut messages = request.into_inner();
        let state = Arc::clone(&self.0);
        let tasks = state.tasks.lock().unwrap().clone();
        tokio::spawn(async move {
            let say = async |body| sender.send(Ok(ProviderMessage { body: Some(body) })).await;
            let mut tasks = tasks.into_iter();
            if let Some(task) = tasks.next() {
                let _ = say(provider_message::Body::Task(task)).await;
            }
            while let Ok(Some(message)) = messages.message().await {
                let Some(Body::Result(result)) = message.body else { continue };
                let task_id = result.task_id.clone();
                state.results.lock().unwrap().push(result);
                let _ = say(provider_message::Body::Ack(v1::Ack { task_id })).await;
                if let Some(task) = tasks.next() {
                    let _ = say(provider_message::Body::Task(task)).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outbox)))
    }
}

impl Provider {
    pub async fn start() -> Self {
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(ca, rcgen::KeyPair::generate().unwrap()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&key, &ca)
            .unwrap();
        let chain = vec![leaf.der().clone(), ca.der().clone()];
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let acceptor = TlsAcceptor::from(Arc::new(server_config(chain, der, ClientAuth::Required).unwrap()));

        let mut device = MemDevice::new(8 * MIB as usize);
        build_test_image(&mut device, 3).unwrap();
        let mut image = vec![0; 8 * MIB as usize];
        device.read_at(0, &mut image).unwrap();

        let state = Arc::new(State::default());
        let agents = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let url = format!("https://{}", agents.local_addr().unwrap());
        let boot = BootData::new(&url, &certificate_sha256(ca.der()), "dG9rZW4", now).unwrap();
        let files = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let boot_url = format!("http://{}", files.local_addr().unwrap());
        let script = format!(
            "#!ipxe\nkernel {boot_url}/vmlinuz console=ttyS0 {}\ninitrd {boot_url}/initrd\nboot\n",
            boot.to_kernel_args()
        );
        let servers = vec![
            AbortOnDropHandle::new(tokio::spawn(serve_agents(agents, acceptor, Arc::clone(&state)))),
            AbortOnDropHandle::new(tokio::spawn(serve_files(files, script, image.clone()))),
        ];
        Self { boot_url, image, state, _servers: servers }
    }

    /// The tasks that every agent gets from now on.
    pub fn give(&self, works: impl IntoIterator<Item = Work>) {
        let tasks =
            works.into_iter().enumerate().map(|(n, work)| Task { id: format!("task-{n}"), work: Some(work) });
        *self.state.tasks.lock().unwrap() = tasks.collect();
    }

    /// Writes the image and a config drive.
    pub fn deploy(&self, meta_data: &str, user_data: &str) -> Work {
        let checksum = hex::encode(ring::digest::digest(&ring::digest::SHA256, &self.image));
        Work::Deploy(v1::Deploy {
            image: Some(v1::Image {
                url: format!("{}/image", self.boot_url),
                checksum_algorithm: v1::ChecksumAlgorithm::Sha256.into(),
                checksum,
                format: v1::ImageFormat::Raw.into(),
                compression: v1::Compression::None.into(),
                max_bytes: 0,
                ca_pem: Vec::new(),
            }),
            root_device_hints: None,
            load_kernel: false,
            network_first: false,
            staged: None,
            config_drive: Some(v1::ConfigDrive {
                format: v1::ConfigDriveFormat::Nocloud.into(),
                instance_id: "i-1".to_owned(),
                meta_data: meta_data.into(),
                user_data: user_data.into(),
                network_data: Vec::new(),
            }),
        })
    }

    pub fn inventories(&self) -> Vec<Inventory> {
        self.state.inventories.lock().unwrap().clone()
    }

    pub fn results(&self) -> Vec<TaskResult> {
        self.state.results.lock().unwrap().clone()
    }

    /// Addresses that agents dialled from.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.state.clients.lock().unwrap().clone()
    }
}

pub fn power(action: v1::PowerAction) -> Work {
    Work::Power(v1::Power { action: action.into() })
}

async fn serve_agents(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    let (connections, incoming) = mpsc::channel(64);
    let service = AgentServiceServer::new(Service(Arc::clone(&state)));
    let serve = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(ReceiverStream::new(incoming));
    let accept = async {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            state.clients.lock().unwrap().push(peer);
            let (acceptor, connections) = (acceptor.clone(), connections.clone());
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(stream).await else { return };
                let (near, mut far) = tokio::io::duplex(64 * 1024);
                let _ = connections.send(Ok::<_, io::Error>(near)).await;
                let _ = tokio::io::copy_bidirectional(&mut tls, &mut far).await;
            });
        }
    };
    tokio::select! {
        () = accept => {}
        served = serve => served.unwrap(),
    }
}

async fn serve_files(listener: TcpListener, script: String, image: Vec<u8>) {
    let (script, image) = (Bytes::from(script), Bytes::from(image));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (script, image) = (script.clone(), image.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (status, body) = match request.uri().path() {
                    "/boot" => (200, script.clone()),
                    "/image" => (200, image.clone()),
                    _ => (404, Bytes::new()),
                };
                let answer = http::Response::builder().status(status).body(Full::new(body)).unwrap();
                async move { Ok::<_, Infallible>(answer) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Nothing here takes long; who waits this long waits for ever.
pub const PATIENCE: Duration = Duration::from_secs(60);
