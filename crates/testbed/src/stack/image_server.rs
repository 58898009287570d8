//! A plain HTTP server of one image, with the troubles that image servers have.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Error, Result};
use crate::ports::Port;

const PIECE: usize = 64 * 1024;

/// What is wrong with the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// One bit of the byte at this offset is another.
    Flip(u64),
    /// The connection breaks after this many bytes of the image, each time.
    BreakAfter(u64),
    /// No more bytes come after this many of the image, and the connection stays.
    StallAfter(u64),
}

/// A running server; ended when dropped.
#[derive(Debug)]
pub struct ImageServer {
    shared: Arc<Shared>,
    address: IpAddr,
    port: Port,
    serving: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Name of the file, by which it is served.
    name: String,
    image: Bytes,
    trouble: Mutex<Trouble>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl ImageServer {
    /// Serves the file as it is now, on a free port of 127.0.0.1.
    pub async fn start(image: &Path) -> Result<Self> {
        Self::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), image).await
    }

    /// Serves the file as it is now, on a free port of an address.
    pub async fn start_on(address: IpAddr, image: &Path) -> Result<Self> {
        let bytes = tokio::fs::read(image).await.map_err(Error::file("read", image))?;
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shared = Arc::new(Shared {
            name,
            image: bytes.into(),
            trouble: Mutex::default(),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let mut this = Self { shared, address, port: Port::reserve_on(address)?, serving: None };
        this.turn_on().await?;
        Ok(this)
    }

    /// Where the image is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/{}", SocketAddr::from((self.address, self.port.number())), self.shared.name)
    }

    /// Puts trouble on the server, or takes it away. Downloads that have begun go on as they began.
    pub fn set_trouble(&self, trouble: Trouble) {
        *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// How many requests for the image were answered.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// How many bytes of the image were sent.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Ends it: connections break, new ones are refused. The port stays reserved.
    pub async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // Only then is the port free again.
            let _ = serving.await;
        }
    }

    /// Serves again after [`ImageServer::stop`], at the same address.
    pub async fn turn_on(&mut self) -> Result<()> {
        self.stop().await;
        let address = SocketAddr::from((self.address, self.port.number()));
        let open = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // Connections of the life before may still be winding down.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(128)
        };
        let number = self.port.number();
        let listener = open().map_err(|source| Error::PortClaim { number, source })?;
        self.serving = Some(tokio::spawn(serve(listener, Arc::clone(&self.shared))));
        Ok(())
    }
}

impl Drop for ImageServer {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task: every connection breaks when the server is stopped.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let answer = answer(&shared, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

fn answer(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Body> {
    let known = request.uri().path().strip_prefix('/') == Some(shared.name.as_str());
    let mut answer = Response::new(Body::default());
    if !known || !matches!(*request.method(), Method::GET | Method::HEAD) {
        *answer.status_mut() = StatusCode::NOT_FOUND;
        return answer;
    }
    let total = shared.image.len();
    let from = range_start(request.headers().get(header::RANGE)).filter(|from| *from < total);
    if let Some(from) = from {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        if let Ok(range) = HeaderValue::from_str(&format!("bytes {from}-{}/{total}", total - 1)) {
            answer.headers_mut().insert(header::CONTENT_RANGE, range);
        }
    }
    let from = from.unwrap_or(0);
    answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(total - from));
    answer.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if *request.method() == Method::GET {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        *answer.body_mut() = body(shared, from);
    }
    answer
}

/// The start of `bytes=START-`; other ranges are answered with the whole.
fn range_start(range: Option<&HeaderValue>) -> Option<usize> {
    range?.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

/// The image from an offset on, in pieces, with the trouble that is on the server now.
fn body(shared: &Arc<Shared>, from: usize) -> Body {
    let trouble = *shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
    let shared = Arc::clone(shared);
    let pieces = stream::unfold(from, move |at| {
        let shared = Arc::clone(&shared);
        async move {
            if let Trouble::StallAfter(limit) = trouble
                && at as u64 >= limit
            {
                std::future::pending::<()>().await;
            }
            let next = piece(&shared.image, at, trouble)?;
            if let Ok(piece) = &next {
                shared.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            let end = next.as_ref().map_or(usize::MAX, |piece| at + piece.len());
            Some((next.map(Frame::data), end))
        }
    });
    StreamBody::new(pieces).boxed()
}

fn piece(image: &Bytes, at: usize, trouble: Trouble) -> Option<std::io::Result<Bytes>> {
    let mut end = at.saturating_add(PIECE).min(image.len());
    if at >= end {
        return None;
    }
    match trouble {
        Trouble::None | Trouble::StallAfter(_) => Some(Ok(image.slice(at..end))),
        Trouble::Flip(offset) => {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            if !(at..end).contains(&offset) {
                return Some(Ok(image.slice(at..end)));
            }
            let mut changed = image[at..end].to_vec();
            changed[offset - at] ^= 1;
            Some(Ok(changed.into()))
        }
        Trouble::BreakAfter(limit) => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            if at >= limit {
                // An error of the body makes the connection break.
                return Some(Err(std::io::Error::other("the server broke off")));
            }
            end = end.min(limit);
            Some(Ok(image.slice(at..end)))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SIZE: usize = 300_000;

    async fn server(folder: &tempfile::TempDir) -> (ImageServer, Vec<u8>) {
        let image: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
        let path = folder.path().join("image.raw");
        std::fs::write(&path, &image).unwrap();
        (ImageServer::start(&path).await.unwrap(), image)
    }

    async fn get(server: &ImageServer, range: Option<&str>) -> reqwest::Result<Vec<u8>> {
        // Another test may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut request = client.get(server.url());
        if let Some(range) = range {
            request = request.header("range", range);
        }
        Ok(request.send().await?.error_for_status()?.bytes().await?.to_vec())
    }

    #[tokio::test]
    async fn serves_the_whole_and_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let (server, image) = server(&folder).await;
        assert!(get(&server, None).await.unwrap() == image);
        assert!(get(&server, Some("bytes=70000-")).await.unwrap() == image[70_000..]);
        assert_eq!((server.requests(), server.bytes_sent()), (2, 2 * SIZE as u64 - 70_000));
    }

    #[tokio::test]
    async fn makes_the_trouble_it_is_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let (mut server, image) = server(&folder).await;
        server.set_trouble(Trouble::Flip(100_000));
        let got = get(&server, None).await.unwrap();
        let different: Vec<usize> = (0..SIZE).filter(|n| got[*n] != image[*n]).collect();
        assert_eq!(different, [100_000]);
        server.set_trouble(Trouble::BreakAfter(200_000));
        assert!(get(&server, None).await.is_err());
        server.set_trouble(Trouble::None);
        server.stop().await;
        assert!(get(&server, None).await.unwrap_err().is_connect());
        server.turn_on().await.unwrap();
        assert!(get(&server, None).await.unwrap() == image);
    }
}
