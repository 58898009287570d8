//! An image server that breaks off, stalls, changes its file or knows no ranges, as it is told.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response, StatusCode, header},
    routing::get,
};
use ferric_protocol::{
    tls::ClientAuth,
    v1::{self, Deploy, Task, task::Work},
};
use futures::{StreamExt, stream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::AbortOnDropHandle;

use super::Pki;

/// What one response does.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// Break the connection after so many bytes.
    Break(usize),
    /// Send no more after so many bytes, but keep the connection.
    Stall(usize),
    /// Answer with this status.
    Status(u16),
    /// Break the connection after so many bytes; from then on it is another file.
    Replace(usize),
}

pub struct ImageState {
    file: Mutex<Bytes>,
    etag: Mutex<String>,
    pub ranges: std::sync::atomic::AtomicBool,
    pub troubles: Mutex<VecDeque<Trouble>>,
    pub requests: AtomicUsize,
    /// Answers that were only the rest of the file.
    pub partial: AtomicUsize,
}

pub struct Images {
    pub url: String,
    pub state: Arc<ImageState>,
    _server: AbortOnDropHandle<()>,
}

struct TlsListener(TcpListener, TlsAcceptor);

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.0.accept().await.unwrap();
            if let Ok(tls) = self.1.accept(stream).await {
                return (tls, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Images {
    /// Over TLS with the provider's certificate, or plain.
    pub async fn start(file: Vec<u8>, pki: Option<&Pki>) -> Self {
        let state = Arc::new(ImageState {
            file: Mutex::new(file.into()),
            etag: Mutex::new("\"one\"".into()),
            ranges: true.into(),
            troubles: Mutex::default(),
            requests: AtomicUsize::new(0),
            partial: AtomicUsize::new(0),
        });
        // Extents are asked for by the name of their checksum.
        let router = Router::new()
            .route("/image", get(serve))
            .route("/image/{checksum}", get(serve))
            .with_state(state.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (scheme, server) = match pki {
            Some(pki) => {
                let listener = TlsListener(listener, pki.acceptor(ClientAuth::Optional));
                ("https", tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
            }
            None => ("http", tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })),
        };
        Self { url: format!("{scheme}://{address}/image"), state, _server: AbortOnDropHandle::new(server) }
    }

    pub fn trouble(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.state.troubles.lock().unwrap().extend(troubles);
    }

    pub fn replace(&self, file: Vec<u8>) {
        *self.state.file.lock().unwrap() = file.into();
        *self.state.etag.lock().unwrap() = "\"two\"".into();
    }

    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// A deploy task for the file as it is now.
    pub fn task(&self, id: &str, compression: v1::Compression) -> Task {
        let file = self.state.file.lock().unwrap().clone();
        let checksum = hex::encode(ring::digest::digest(&ring::digest::SHA256, &file));
        let image = v1::Image {
            url: self.url.clone(),
            checksum_algorithm: v1::ChecksumAlgorithm::Sha256.into(),
            checksum,
            format: v1::ImageFormat::Raw.into(),
            compression: compression.into(),
            max_bytes: 0,
            ca_pem: vec![],
        };
        let deploy = Deploy { image: Some(image), ..Deploy::default() };
        Task { id: id.into(), work: Some(Work::Deploy(deploy)) }
    }
}

async fn serve(State(state): State<Arc<ImageState>>, headers: HeaderMap) -> Response<Body> {
    state.requests.fetch_add(1, Ordering::SeqCst);
    let file = state.file.lock().unwrap().clone();
    let etag = state.etag.lock().unwrap().clone();
    let trouble = state.troubles.lock().unwrap().pop_front();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let wanted =
        text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let same = text(header::IF_RANGE).is_none_or(|tag| tag == etag);
    let start = wanted.filter(|_| same && state.ranges.load(Ordering::SeqCst)).unwrap_or(0usize);
    let mut response = Response::builder().header(header::ETAG, &etag);
    if let Some(Trouble::Status(status)) = trouble {
        return response.status(status).body(Body::empty()).unwrap();
    }
    if let Some(Trouble::Replace(_)) = trouble {
        let mut other = file.to_vec();
        other[file.len() / 2] ^= 1;
        *state.file.lock().unwrap() = other.into();
        *state.etag.lock().unwrap() = "\"other\"".into();
    }
    if start > 0 {
        state.partial.fetch_add(1, Ordering::SeqCst);
        let range = format!("bytes {start}-{}/{}", file.len() - 1, file.len());
        response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
    }
    let rest = file.slice(start..);
    response = response.header(header::CONTENT_LENGTH, rest.len());
    let sends = match trouble {
        Some(Trouble::Break(after) | Trouble::Stall(after) | Trouble::Replace(after)) => {
            rest.slice(..after.min(rest.len()))
        }
        _ => rest,
    };
    let pieces: Vec<Bytes> = sends.chunks(10_000).map(|piece| sends.slice_ref(piece)).collect();
    let counted = stream::iter(pieces).map(Ok::<_, io::Error>);
    let body = match trouble {
        Some(Trouble::Break(_) | Trouble::Replace(_)) => {
            Body::from_stream(counted.chain(stream::once(async { Err(io::Error::other("told to break")) })))
        }
        Some(Trouble::Stall(_)) => Body::from_stream(counted.chain(stream::pending())),
        _ => Body::from_stream(counted),
    };
    response.body(body).unwrap()
}
