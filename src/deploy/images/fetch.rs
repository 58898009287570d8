//! Downloads one image into one file: bounded in time and size, resumed after a broken transfer, hashed on the way.

use std::{
    error::Error as _,
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ferric_image::{Checksum, ChecksumAlgorithm};
use futures::StreamExt;
use http::{StatusCode, header};
use reqwest::{Client, Response, redirect};
use ring::digest;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufWriter},
    time::{Instant, sleep, timeout},
};
use url::Url;

use super::{ledger::Full, oci::Artifact, pull_secret::Login, request::shown};

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// Time without a byte.
const READ: Duration = Duration::from_secs(30);
/// Time for one image, whatever happens.
const WHOLE: Duration = Duration::from_secs(4 * 3600);
/// Attempts in a row that bring nothing.
const ATTEMPTS: u32 = 4;
/// Pause before the second attempt; doubles with each.
const PAUSE: Duration = Duration::from_millis(500);
/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// Largest list of checksums.
const MAX_LIST: usize = 1024 * 1024;
/// Room is taken in steps of this when the size is not known beforehand.
const ROOM_STEP: u64 = 64 * 1024 * 1024;
/// Buffer between the network and the file.
const BUFFER: usize = 1024 * 1024;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{url}: {message}")]
    Unreachable { url: String, message: String },
    #[error(transparent)]
    Full(#[from] Full),
    #[error("{path}: {source}")]
    Disk { path: String, source: io::Error },
    #[error("{url} has {got} ({bytes} bytes), the spec asks for {expected}")]
    Mismatch { url: String, expected: Checksum, got: Checksum, bytes: u64 },
}

/// How far a download is; shared with whoever asks.
#[derive(Debug, Default)]
pub(super) struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Another kind of work begins, of which this is the whole.
    pub(super) fn restart(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub(super) fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// The whole, once the server has said it.
    pub(super) fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed)).filter(|t| *t > 0)
    }
}

/// The HTTP clients.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    images: Client,
    /// Lists are what images are trusted by, so they are not fetched in plain text where https was asked for.
    pub(super) lists: Client,
}

impl Clients {
    /// Clients that go through the proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name.
    pub(super) fn new() -> io::Result<Self> {
        Self::with_patience(READ)
    }

    /// The same with another time without a byte.
    pub(super) fn with_patience(read: Duration) -> io::Result<Self> {
        // Fails when the process has one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { images: client(true, read)?, lists: client(false, read)? })
    }

    /// Reads a list of checksums.
    pub(super) async fn list(&self, url: &Url) -> Result<String, FetchError> {
        let unreachable = |message| FetchError::Unreachable { url: shown(url), message };
        let read = async {
            let response = self.lists.get(url.clone()).send().await.map_err(|e| unreachable(why(e)))?;
            if !response.status().is_success() {
                return Err(unreachable(format!("the server answers {}", response.status())));
            }
            let list = bounded(response, MAX_LIST).await.map_err(unreachable)?;
            Ok(String::from_utf8_lossy(&list).into_owned())
        };
        let late = || unreachable(format!("not there within {} s", 2 * READ.as_secs()));
        timeout(2 * READ, read).await.unwrap_or_else(|_| Err(late()))
    }
}

/// The body of an answer that is not an image; at most so many bytes.
pub(super) async fn bounded(response: Response, most: usize) -> Result<Vec<u8>, String> {
    let mut stream = response.bytes_stream();
    let mut body = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(why)?;
        if body.len() + chunk.len() > most {
            return Err(format!("the answer has at most {most} bytes, this is more"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn client(plain_after_https: bool, read: Duration) -> io::Result<Client> {
    let policy = redirect::Policy::custom(move |attempt| {
        let scheme = attempt.url().scheme();
        let from_https = attempt.previous().last().is_some_and(|u| u.scheme() == "https");
        if attempt.previous().len() > REDIRECTS {
            attempt.error(format!("more than {REDIRECTS} redirects"))
        } else if scheme == "https" || (scheme == "http" && (plain_after_https || !from_https)) {
            attempt.follow()
        } else {
            let message = format!("a redirect to {scheme} is not followed");
            attempt.error(message)
        }
    });
    let builder = Client::builder()
        .user_agent(concat!("ferric/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(read)
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(READ)
        .http1_only()
        .redirect(policy);
    builder.build().map_err(io::Error::other)
}

/// A file that is being filled.
struct Sink<'a> {
    file: BufWriter<File>,
    path: &'a Path,
    algorithm: ChecksumAlgorithm,
    hash: digest::Context,
    done: u64,
    /// It is of more than one answer of the server.
    pieced: bool,
    progress: &'a Progress,
}

impl<'a> Sink<'a> {
    async fn create(
        path: &'a Path,
        algorithm: ChecksumAlgorithm,
        progress: &'a Progress,
    ) -> Result<Self, FetchError> {
        let file = File::create(path).await.map_err(|e| disk(path, e))?;
        let file = BufWriter::with_capacity(BUFFER, file);
        Ok(Self { file, path, algorithm, hash: hasher(algorithm), done: 0, pieced: false, progress })
    }

    async fn write(&mut self, chunk: &[u8]) -> Result<(), FetchError> {
        self.hash.update(chunk);
        self.file.write_all(chunk).await.map_err(|e| disk(self.path, e))?;
        self.done += chunk.len() as u64;
        self.progress.done.store(self.done, Ordering::Relaxed);
        Ok(())
    }

    async fn start_over(&mut self) -> Result<(), FetchError> {
        self.rewind().await.map_err(|e| disk(self.path, e))?;
        self.hash = hasher(self.algorithm);
        self.done = 0;
        self.pieced = false;
        self.progress.done.store(0, Ordering::Relaxed);
        Ok(())
    }

    async fn rewind(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.get_mut().set_len(0).await?;
        self.file.rewind().await.map(drop)
    }

    /// The file is on the disk when this returns.
    async fn finish(&mut self) -> Result<(Checksum, u64), FetchError> {
        self.file.flush().await.map_err(|e| disk(self.path, e))?;
        self.file.get_ref().sync_all().await.map_err(|e| disk(self.path, e))?;
        Ok((checksum(self.algorithm, self.hash.clone(), self.path)?, self.done))
    }
}

/// Where a file is, and with which right it is asked for.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) url: Url,
    pub(super) authorization: Option<header::HeaderValue>,
    /// How the right is had anew when it ends before the file does: the tokens of registries live for minutes.
    pub(super) renewal: Option<Renewal>,
}

/// The artifact that a file is of, and who asks for it.
#[derive(Debug, Clone)]
pub(super) struct Renewal {
    pub(super) artifact: Artifact,
    pub(super) login: Option<Login>,
}

impl Renewal {
    async fn authorization(&self, clients: &Clients) -> Result<Option<header::HeaderValue>, String> {
        let blob = self.artifact.resolve(clients, self.login.as_ref()).await;
        blob.map(|blob| blob.authorization).map_err(|failure| failure.message)
    }
}

/// Downloads a file to `path` and checks it. `room` is asked for the room that is needed in all.
pub(super) async fn download(
    clients: &Clients,
    place: &Place,
    expected: &Checksum,
    path: &Path,
    progress: &Progress,
    room: impl Fn(u64) -> Result<(), Full>,
) -> Result<u64, FetchError> {
    let url = &place.url;
    let mut authorization = place.authorization.clone();
    let unreachable = |message| FetchError::Unreachable { url: shown(url), message };
    let mut sink = Sink::create(path, expected.algorithm(), progress).await?;
    let until = Instant::now() + WHOLE;
    let mut version = None;
    let mut idle_attempts = 0;
    let mut renewed_at = None;
    let mut anew = false;
    loop {
        let before = sink.done;
        let right = authorization.as_ref();
        match attempt(clients, url, right, &mut sink, &mut version, &room, until).await {
            Ok(()) => {
                let (got, bytes) = sink.finish().await?;
                if got == *expected {
                    return Ok(bytes);
                }
                if !sink.pieced || anew {
                    let url = shown(url);
                    return Err(FetchError::Mismatch { url, expected: expected.clone(), got, bytes });
                }
                // Perhaps of two versions, of a server that does not tell them apart.
                tracing::debug!(url = shown(url), "a resumed image has another checksum, it is fetched anew");
                anew = true;
                sink.start_over().await?;
            }
            Err(Broken::Fatal(error)) => return Err(error),
            Err(Broken::Again(message)) => {
                idle_attempts = if sink.done > before { 1 } else { idle_attempts + 1 };
                tracing::debug!(url = shown(url), done = sink.done, message, "image transfer broken");
                if idle_attempts >= ATTEMPTS {
                    return Err(unreachable(message));
                }
                if Instant::now() >= until {
                    return Err(unreachable(format!("not done within {} s", WHOLE.as_secs())));
                }
                sleep(PAUSE * 2u32.pow(idle_attempts - 1)).await;
            }
            Err(Broken::Unauthorized(status)) => {
                // Once for as far as the file is: a right that is none does not become one by asking again and again.
                let renewal = place.renewal.as_ref().filter(|_| renewed_at != Some(sink.done));
                renewed_at = Some(sink.done);
                let Some(renewal) = renewal else {
                    return Err(unreachable(format!("the server answers {status}")));
                };
                tracing::debug!(url = shown(url), done = sink.done, "the right to an image is had anew");
                authorization = renewal.authorization(clients).await.map_err(unreachable)?;
            }
        }
    }
}

/// How an attempt failed.
enum Broken {
    /// Another one may succeed, from where this one ended.
    Again(String),
    /// The right to the file ended, or was none.
    Unauthorized(StatusCode),
    Fatal(FetchError),
}

impl<E: Into<FetchError>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

/// One request: the rest of the file, or all of it if the server cannot give the rest or has another version by now.
async fn attempt(
    clients: &Clients,
    url: &Url,
    authorization: Option<&header::HeaderValue>,
    sink: &mut Sink<'_>,
    version: &mut Option<header::HeaderValue>,
    room: &impl Fn(u64) -> Result<(), Full>,
    until: Instant,
) -> Result<(), Broken> {
    let again = |message: String| Broken::Again(message);
    // What is asked for with a right is not followed into plain text.
    let client = if authorization.is_some() { &clients.lists } else { &clients.images };
    let mut request = client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
    if let Some(authorization) = authorization {
        // Not passed on by a redirect to another server.
        request = request.header(header::AUTHORIZATION, authorization.clone());
    }
    if sink.done > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", sink.done));
        if let Some(version) = version {
            request = request.header(header::IF_RANGE, version.clone());
        }
    }
    let response = request.send().await.map_err(|e| match e.is_redirect() {
        true => Broken::Fatal(FetchError::Unreachable { url: shown(url), message: why(e) }),
        false => again(why(e)),
    })?;
    let status = response.status();
    // RFC 9110 section 8.8.3: only strong tags say that the bytes are the same.
    let etag = response.headers().get(header::ETAG).filter(|v| !v.as_bytes().starts_with(b"W/")).cloned();
    let same = version.is_none() || etag.is_none() || *version == etag;
    match status {
        StatusCode::PARTIAL_CONTENT if same && starts_at(&response) == Some(sink.done) => sink.pieced = true,
        StatusCode::OK => sink.start_over().await?,
        StatusCode::UNAUTHORIZED => return Err(Broken::Unauthorized(status)),
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if sink.done > 0 => {
            sink.start_over().await?;
            *version = None;
            return Err(again(format!("the server could not resume: {status}")));
        }
        _ if status.is_server_error()
            || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status) =>
        {
            return Err(again(format!("the server answers {status}")));
        }
        _ => {
            let message = format!("the server answers {status}");
            return Err(Broken::Fatal(FetchError::Unreachable { url: shown(url), message }));
        }
    }
    *version = etag;
    let total = response.content_length().map(|rest| sink.done.saturating_add(rest));
    sink.progress.total.store(total.unwrap_or(0), Ordering::Relaxed);
    let mut taken = total.unwrap_or(0);
    room(taken)?;
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| again(why(e)))?;
        while sink.done + chunk.len() as u64 > taken {
            taken += ROOM_STEP;
            room(taken)?;
        }
        sink.write(&chunk).await?;
        if Instant::now() >= until {
            return Err(again(format!("not done within {} s", WHOLE.as_secs())));
        }
    }
    match total {
        Some(total) if sink.done < total => {
            Err(again(format!("the transfer ended after {} of {total} bytes", sink.done)))
        }
        _ => Ok(()),
    }
}

fn starts_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// Hashes a file that is there already.
pub(super) async fn hash_file(
    path: &Path,
    algorithm: ChecksumAlgorithm,
    progress: &Progress,
) -> Result<Checksum, FetchError> {
    let mut file = File::open(path).await.map_err(|e| disk(path, e))?;
    let mut hash = hasher(algorithm);
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = file.read(&mut buffer).await.map_err(|e| disk(path, e))?;
        if n == 0 {
            return checksum(algorithm, hash, path);
        }
        hash.update(buffer.get(..n).unwrap_or_default());
        progress.done.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// The first bytes of a file, by which its format is recognised.
pub(super) async fn head(path: &Path) -> Result<Vec<u8>, FetchError> {
    let file = File::open(path).await.map_err(|e| disk(path, e))?;
    let mut head = Vec::with_capacity(16);
    file.take(16).read_to_end(&mut head).await.map_err(|e| disk(path, e))?;
    Ok(head)
}

fn hasher(algorithm: ChecksumAlgorithm) -> digest::Context {
    digest::Context::new(match algorithm {
        ChecksumAlgorithm::Sha256 => &digest::SHA256,
        ChecksumAlgorithm::Sha512 => &digest::SHA512,
    })
}

fn checksum(
    algorithm: ChecksumAlgorithm,
    hash: digest::Context,
    path: &Path,
) -> Result<Checksum, FetchError> {
    Checksum::new(algorithm, &hex::encode(hash.finish())).map_err(|e| disk(path, io::Error::other(e)))
}

pub(super) fn disk(path: &Path, source: io::Error) -> FetchError {
    FetchError::Disk { path: path.display().to_string(), source }
}

/// The whole story of a failed request, without its URL, which may hold secrets.
pub(super) fn why(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut story = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        story = format!("{story}: {cause}");
        source = cause.source();
    }
    story
}
