//! Serves images to agents: `GET /images/{digest}`, with ranges, to whoever may hold a session.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Extension, Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use ferric_image::Checksum;
use http::{HeaderMap, StatusCode, header};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use super::{
    connection::{CloseConnection, PeerFingerprint},
    images::{ImageCache, Reading},
    range::{Selection, select},
    server::Limits,
    service::{AgentContext, Stranger},
};

/// Streams of one agent at once: one, and those that it has given up but the provider has not noticed yet.
const STREAMS_EACH: usize = 4;
/// When to come again if too many images are being sent.
const RETRY_AFTER: &str = "5";
/// How long an agent may take to accept the next chunk.
const STALL: Duration = Duration::from_secs(60);
const CHUNK: usize = 128 * 1024;
/// Chunks read ahead. With the one that is read and the one that is sent, each stream takes three times [`CHUNK`].
const AHEAD: usize = 1;

/// The image server.
#[derive(Clone)]
pub(super) struct Files {
    context: Arc<AgentContext>,
    images: ImageCache,
    streams: Arc<Semaphore>,
    wait: Duration,
    each: Arc<Mutex<HashMap<String, usize>>>,
}

impl Files {
    pub(super) fn new(context: Arc<AgentContext>, images: ImageCache, limits: Limits) -> Self {
        let streams = Arc::new(Semaphore::new(limits.image_streams));
        Self { context, images, streams, wait: limits.image_wait, each: Arc::default() }
    }

    /// One of the agent's streams, once it is its turn.
    async fn stream(&self, fingerprint: &str) -> Option<Stream> {
        let counted = self.count(fingerprint)?;
        let permit = timeout(self.wait, Arc::clone(&self.streams).acquire_owned()).await;
        Some(Stream { _counted: counted, _permit: permit.ok()?.ok()? })
    }

    fn count(&self, fingerprint: &str) -> Option<Counted> {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let count = each.entry(fingerprint.to_owned()).or_default();
        if *count >= STREAMS_EACH {
            return None;
        }
        *count += 1;
        Some(Counted { each: Arc::clone(&self.each), fingerprint: fingerprint.to_owned() })
    }
}

/// A stream that is being sent.
struct Stream {
    _counted: Counted,
    _permit: OwnedSemaphorePermit,
}

/// One stream of an agent, counted until it is dropped.
struct Counted {
    each: Arc<Mutex<HashMap<String, usize>>>,
    fingerprint: String,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = each.get_mut(&self.fingerprint) {
            *count -= 1;
            if *count == 0 {
                each.remove(&self.fingerprint);
            }
        }
    }
}

/// Handles `GET /images/{digest}`.
pub(super) async fn serve(
    State(files): State<Files>,
    peer: Option<Extension<PeerFingerprint>>,
    Extension(connection): Extension<CloseConnection>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(Extension(PeerFingerprint(fingerprint))) = peer else {
        files.context.metrics.refused("image");
        return refuse(StatusCode::UNAUTHORIZED, "no client certificate");
    };
    if let Some(sentence) = files.context.refusal() {
        return later(&sentence);
    }
    match files.context.authorize(&fingerprint).await {
        Ok(_) => {}
        Err(Stranger::Unknown) => return later("this key is not known here"),
        Err(Stranger::NotAllowed) => {
            files.context.metrics.refused("image");
            return refuse(StatusCode::FORBIDDEN, "this agent boot is over");
        }
    }
    if Checksum::parse(&digest, None).is_err() {
        return refuse(StatusCode::NOT_FOUND, "an image is named by its digest");
    }
    let Some(stream) = files.stream(&fingerprint).await else {
        return later("too many images are being sent");
    };
    // What a host still wants is on its way back into the cache.
    let Some(reading) = files.images.read(&digest) else {
        return later("the image is not in the cache now");
    };
    answer(reading, stream, &headers, connection).await
}

async fn answer(
    reading: Reading,
    stream: Stream,
    headers: &HeaderMap,
    connection: CloseConnection,
) -> Response {
    let etag = format!("\"{}\"", reading.digest);
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    // A range is only of use to whoever has the beginning of the same file.
    let same = text(header::IF_RANGE).is_none_or(|wanted| wanted == etag);
    let size = reading.size;
    let selection = select(text(header::RANGE).filter(|_| same), size);
    let (status, first, length) = match selection {
        Selection::Whole => (StatusCode::OK, 0, size),
        Selection::Part { first, last } => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Selection::Unsatisfiable => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
        }
    };
    let path = reading.path.clone();
    let file = match blocking(move || File::open(path)).await {
        Ok(file) => file,
        Err(error) => {
            tracing::error!(path = %reading.path.display(), %error, "an image in the cache cannot be read");
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the image cannot be read");
        }
    };
    let (chunks, body) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        // Both are held until the last byte is handed over, or the agent is given up.
        let _held = (reading, stream);
        tokio::select! {
            sent = send(Arc::new(file), first, length, chunks) => if let Err(Stalled) = sent {
                connection.0.cancel();
            },
            () = connection.0.cancelled() => {}
        }
    });
    let mut response = Response::new(Body::from_stream(whole_or_error(body, length)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let mut set = |name, value: String| {
        if let Ok(value) = value.try_into() {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, "application/octet-stream".into());
    set(header::CONTENT_LENGTH, length.to_string());
    set(header::ACCEPT_RANGES, "bytes".into());
    set(header::ETAG, etag);
    if let Selection::Part { first, last } = selection {
        set(header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
    }
    response
}

type Chunks = mpsc::Sender<std::io::Result<Bytes>>;

/// The agent does not read any more.
struct Stalled;

/// Reads the file ahead of the agent, by a few chunks only; gives up on an agent that does not read.
async fn send(file: Arc<File>, mut at: u64, mut left: u64, chunks: Chunks) -> Result<(), Stalled> {
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let file = file.clone();
        let next = blocking(move || {
            let mut chunk = vec![0; want];
            file.read_exact_at(&mut chunk, at)?;
            Ok(Bytes::from(chunk))
        });
        let next = next.await;
        at += want as u64;
        left -= want as u64;
        let failed = next.is_err();
        match timeout(STALL, chunks.send(next)).await {
            Ok(Ok(())) if !failed => {}
            // The agent went, or has been told of the failure.
            Ok(_) => break,
            Err(_) => return Err(Stalled),
        }
    }
    Ok(())
}

/// Works on a file where waiting holds nobody up. Tokio's own file copies each chunk once more.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// The chunks; an error if they end before all are there, so that nobody takes a part for the whole.
fn whole_or_error(
    body: mpsc::Receiver<std::io::Result<Bytes>>,
    length: u64,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> {
    futures::stream::unfold((body, length), |(mut body, left)| async move {
        if left == 0 {
            return None;
        }
        match body.recv().await {
            Some(Ok(chunk)) => {
                let left = left.saturating_sub(chunk.len() as u64);
                Some((Ok(chunk), (body, left)))
            }
            Some(Err(error)) => Some((Err(error), (body, 0))),
            None => Some((Err(std::io::ErrorKind::UnexpectedEof.into()), (body, 0))),
        }
    })
}

fn refuse(status: StatusCode, sentence: &'static str) -> Response {
    (status, sentence).into_response()
}

fn later(sentence: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER)], sentence.to_owned())
        .into_response()
}
