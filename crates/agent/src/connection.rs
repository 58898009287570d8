//! One connection to the provider: TCP, TLS with the pinned CA, HTTP/2. No pool and no hidden reconnects: a session is a
//! connection, and who lost one dials again.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
};

use ferric_protocol::v1::agent_service_client::AgentServiceClient;
use http::Uri;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use url::{Host, Url};

use crate::AgentOptions;

/// Largest message taken from the provider: a deploy task holds the user data.
const MAX_MESSAGE: usize = 96 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{address} is not an address to dial")]
    Address { address: String },
    #[error("{address} did not answer within {seconds} s")]
    Timeout { address: String, seconds: u64 },
    #[error("{address} cannot be reached: {source}")]
    Connect { address: String, source: io::Error },
    #[error("TLS with {address} failed: {source}")]
    Tls { address: String, source: io::Error },
    #[error("{address} does not speak HTTP/2")]
    NotHttp2 { address: String },
    #[error("HTTP/2 with {address} failed: {source}")]
    Http { address: String, source: hyper::Error },
}

/// How to reach the provider.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    url: Url,
    tls: Arc<ClientConfig>,
}

impl Dialer {
    /// `tls` must offer `h2`.
    pub(crate) fn new(url: Url, tls: ClientConfig) -> Self {
        Self { url, tls: Arc::new(tls) }
    }

    /// Dials, within the time that the options give.
    pub(crate) async fn dial(
        &self,
        options: &AgentOptions,
    ) -> Result<AgentServiceClient<Connection>, DialError> {
        let address = self.url.authority().to_owned();
        let connected = tokio::time::timeout(options.connect_timeout, self.connect(&address, options)).await;
        let connection = connected.map_err(|_| DialError::Timeout {
            address: address.clone(),
            seconds: options.connect_timeout.as_secs(),
        })??;
        let origin: Uri = self.url.as_str().parse().map_err(|_| DialError::Address { address })?;
        Ok(AgentServiceClient::with_origin(connection, origin).max_decoding_message_size(MAX_MESSAGE))
    }

    async fn connect(&self, address: &str, options: &AgentOptions) -> Result<Connection, DialError> {
        let bad = || DialError::Address { address: address.to_owned() };
        let port = self.url.port_or_known_default().ok_or_else(bad)?;
        let (stream, name) = match self.url.host().ok_or_else(bad)? {
            Host::Domain(domain) => {
                let name = ServerName::try_from(domain.to_owned()).map_err(|_| bad())?;
                (connect_name(domain, port, options.local_address).await, name)
            }
            Host::Ipv4(ip) => (connect_ip(IpAddr::V4(ip), port, options).await, IpAddr::V4(ip).into()),
            Host::Ipv6(ip) => (connect_ip(IpAddr::V6(ip), port, options).await, IpAddr::V6(ip).into()),
        };
        let stream = stream.map_err(|source| DialError::Connect { address: address.to_owned(), source })?;
        let tls = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        let tls = tls.map_err(|source| DialError::Tls { address: address.to_owned(), source })?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(DialError::NotHttp2 { address: address.to_owned() });
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(options.keepalive)
            .keep_alive_timeout(options.keepalive)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|source| DialError::Http { address: address.to_owned(), source })?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        }));
        Ok(Connection { sender, _driver: Arc::new(driver) })
    }
}

async fn connect_ip(ip: IpAddr, port: u16, options: &AgentOptions) -> io::Result<TcpStream> {
    connect_address(SocketAddr::new(ip, port), options.local_address).await
}

async fn connect_name(name: &str, port: u16, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((name, port)).await? {
        match connect_address(address, local).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_address(address: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An HTTP/2 connection; closed when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    sender: http2::SendRequest<Body>,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}
