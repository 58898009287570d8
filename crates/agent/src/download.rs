//! Fetches an image over HTTP. A broken or silent connection is dialled again and continued where it stopped (`Range`,
//! with `If-Range` so that it is the same file); a server that knows no ranges sends all again and the known part is
//! skipped. Tries are bounded, waits are bounded, and the pipeline bounds the bytes and checks what came.

use std::{
    error::Error,
    io::{self, Read},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Client, Response};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use url::Url;

use crate::{AgentOptions, backoff::Backoff};

/// After this many good bytes the tries count anew: a large image over a bad line is not a dead server.
const FORGIVE_AFTER: u64 = 64 << 20;
/// How long a server may ask to come again (503 with `Retry-After`, RFC 9110, 10.2.3) before that counts as failing:
/// where many hosts are written at once, most of them wait for their turn.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Longest single pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// Chunks (of some 16 KiB) between network and disk.
const QUEUE: usize = 16;

/// Why an image could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error("no HTTP client could be made: {0}")]
    Client(String),
    #[error("{url} answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("{url} failed {tries} times, the last time after {bytes} bytes: {reason}")]
    Failed { url: String, tries: u32, bytes: u64, reason: String },
    #[error("{url} changed while it was downloaded: {what}")]
    Changed { url: String, what: String },
}

/// What goes from the network to the disk. `None` is the good end; a queue that just closes is not.
type Item = io::Result<Option<Bytes>>;

/// An HTTP client for one image. `tls` must leave ALPN to HTTP/1.1: one stream, no windows to tune.
pub(crate) fn client(mut tls: ClientConfig, options: &AgentOptions) -> Result<Client, DownloadError> {
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .http1_only()
        .pool_max_idle_per_host(0)
        .connect_timeout(options.connect_timeout)
        .local_address(options.local_address)
        .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
        .build()
        .map_err(|error| DownloadError::Client(reason(&error)))
}

/// A download under way.
pub(crate) struct Download {
    client: Client,
    url: Url,
    request_timeout: Duration,
    read_timeout: Duration,
    tries: u32,
    tried: u32,
    backoff: Backoff,
    response: Option<Response>,
    /// Bytes handed on.
    position: u64,
    /// Position at the last failure.
    failed_at: u64,
    /// How long the server has asked to wait in all.
    waited: Duration,
    /// Bytes of the present response that were handed on before.
    skip: u64,
    total: Option<u64>,
    etag: Option<HeaderValue>,
}

impl Download {
    /// Asks for the image; returns when the server has begun to answer.
    pub(crate) async fn start(
        client: Client,
        url: Url,
        options: &AgentOptions,
    ) -> Result<Self, DownloadError> {
        let mut download = Self {
            client,
            url,
            request_timeout: options.request_timeout,
            read_timeout: options.read_timeout,
            tries: options.download_tries.max(1),
            tried: 0,
            backoff: Backoff::new(options.backoff_min, options.backoff_max),
            response: None,
            position: 0,
            failed_at: 0,
            waited: Duration::ZERO,
            skip: 0,
            total: None,
            etag: None,
        };
        while download.response.is_none() {
            download.request().await?;
        }
        Ok(download)
    }

    /// Length of the image, where the server said so.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, DownloadError> {
        loop {
            let Some(response) = &mut self.response else {
                self.request().await?;
                continue;
            };
            let why = match tokio::time::timeout(self.read_timeout, response.chunk()).await {
                Ok(Ok(Some(mut chunk))) => {
                    let skipped = self.skip.min(chunk.len() as u64);
                    chunk.advance(skipped as usize);
                    self.skip -= skipped;
                    if chunk.is_empty() {
                        continue;
                    }
                    self.position += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Ok(Ok(None)) if self.skip == 0 && self.total.is_none_or(|total| self.position >= total) => {
                    return Ok(None);
                }
                Ok(Ok(None)) => "the connection ended early".to_owned(),
                Ok(Err(error)) => reason(&error),
                Err(_) => format!("no bytes for {} s", self.read_timeout.as_secs_f32()),
            };
            self.response = None;
            self.failed(why).await?;
        }
    }

    /// One try to get a response that continues at the position. A failure that may pass leaves none.
    async fn request(&mut self) -> Result<(), DownloadError> {
        let mut request = self.client.get(self.url.clone()).header(header::ACCEPT_ENCODING, "identity");
        if self.position > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.position));
            if let Some(etag) = &self.etag {
                request = request.header(header::IF_RANGE, etag.clone());
            }
        }
        let response = match tokio::time::timeout(self.request_timeout, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return self.failed(reason(&error)).await,
            Err(_) => {
                let why = format!("no answer within {} s", self.request_timeout.as_secs_f32());
                return self.failed(why).await;
            }
        };
        match response.status() {
            StatusCode::OK => self.begin(response),
            StatusCode::PARTIAL_CONTENT if self.position > 0 => self.resume(response),
            StatusCode::SERVICE_UNAVAILABLE if self.waited < PATIENCE => {
                let Some(pause) = retry_after(response.headers()) else {
                    return self.failed("it answered 503 Service Unavailable".to_owned()).await;
                };
                self.waited += pause;
                tokio::time::sleep(pause).await;
                Ok(())
            }
            status if may_pass(status) => self.failed(format!("it answered {status}")).await,
            status => Err(DownloadError::Status { url: self.shown(), status }),
        }
    }

    /// A response with the whole file.
    fn begin(&mut self, response: Response) -> Result<(), DownloadError> {
        let total = content_length(response.headers());
        let etag = strong_etag(response.headers());
        if self.position > 0 {
            self.same("its length", &self.total, &total)?;
            self.same("its entity tag", &self.etag, &etag)?;
        }
        (self.total, self.etag) = (total, etag);
        self.skip = self.position;
        self.response = Some(response);
        Ok(())
    }

    /// A response with the rest.
    fn resume(&mut self, response: Response) -> Result<(), DownloadError> {
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let Some((start, total)) = range.and_then(content_range) else {
            let what = format!("a partial answer with the range {range:?}");
            return Err(DownloadError::Changed { url: self.shown(), what });
        };
        self.same("the start of its range", &self.position, &start)?;
        if total.is_some() && self.total.is_some() {
            self.same("its length", &self.total, &total)?;
        }
        self.skip = 0;
        self.response = Some(response);
        Ok(())
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, was: &T, is: &T) -> Result<(), DownloadError> {
        if was == is {
            return Ok(());
        }
        Err(DownloadError::Changed { url: self.shown(), what: format!("{what} was {was:?} and is {is:?}") })
    }

    /// Counts a failure and pauses, or gives up.
    async fn failed(&mut self, reason: String) -> Result<(), DownloadError> {
        if self.position.saturating_sub(self.failed_at) >= FORGIVE_AFTER {
            self.tried = 0;
            self.backoff.reset();
        }
        self.failed_at = self.position;
        self.tried += 1;
        if self.tried >= self.tries {
            return Err(DownloadError::Failed {
                url: self.shown(),
                tries: self.tried,
                bytes: self.position,
                reason,
            });
        }
        tracing::warn!(
            url = self.shown(),
            bytes = self.position,
            reason,
            "download interrupted; trying again"
        );
        tokio::time::sleep(self.backoff.next()).await;
        Ok(())
    }

    /// The URL without what may be secret.
    fn shown(&self) -> String {
        let mut url = self.url.clone();
        let _ = url.set_username("");
        let _ = url.set_password(None);
        if url.query().is_some() {
            url.set_query(Some("…"));
        }
        url.into()
    }
}

fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY
        )
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// The pause that a busy server asks for, in seconds; the form with a date is left to the ordinary back-off.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.max(1)).min(LONGEST_PAUSE))
}

/// Weak tags do not promise the same bytes.
fn strong_etag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")).cloned()
}

/// (start, total) of `bytes 5-9/10` or `bytes 5-9/*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    let total = match total.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    Some((start, total))
}

/// The whole story: what reqwest says hides its causes. Without the URL, which may hold a secret.
fn reason(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "timed out".to_owned() } else { "the request failed".to_owned() };
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Makes the two ends between network and disk.
pub(crate) fn queue() -> (Feeder, ImageReader) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Feeder { sender }, ImageReader { receiver, current: Bytes::new(), ended: false })
}

/// The network's end.
pub(crate) struct Feeder {
    sender: mpsc::Sender<Item>,
}

impl Feeder {
    /// Feeds all of a download. Returns early when the reader has gone.
    pub(crate) async fn feed(self, mut download: Download) {
        loop {
            let next = tokio::select! {
                next = download.next() => next,
                () = self.sender.closed() => return,
            };
            let (item, last) = match next {
                Ok(Some(chunk)) => (Ok(Some(chunk)), false),
                Ok(None) => (Ok(None), true),
                Err(error) => (Err(io::Error::other(error)), true),
            };
            if self.sender.send(item).await.is_err() || last {
                return;
            }
        }
    }
}

/// The disk's end; blocks, so it is for a thread of its own.
pub(crate) struct ImageReader {
    receiver: mpsc::Receiver<Item>,
    current: Bytes,
    ended: bool,
}

impl Read for ImageReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Ok(Some(chunk))) => self.current = chunk,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error),
                None => return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the download was abandoned")),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "bytes */10", "bytes 5-9/x", "items 5-9/10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_busy_server_is_waited_for_within_bounds() {
        let headers = |value: &str| HeaderMap::from_iter([(header::RETRY_AFTER, value.parse().unwrap())]);
        assert_eq!(retry_after(&headers("5")), Some(Duration::from_secs(5)));
        assert_eq!(retry_after(&headers("0")), Some(Duration::from_secs(1)));
        assert_eq!(retry_after(&headers("999999999")), Some(LONGEST_PAUSE));
        assert_eq!(retry_after(&headers("Fri, 31 Dec 1999 23:59:59 GMT")), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn a_queue_that_just_closes_is_not_an_end() {
        let (feeder, mut reader) = queue();
        feeder.sender.try_send(Ok(Some(Bytes::from_static(b"abc")))).unwrap();
        drop(feeder);
        let mut all = Vec::new();
        let error = reader.read_to_end(&mut all).unwrap_err();
        assert_eq!((all.as_slice(), error.kind()), (b"abc".as_slice(), io::ErrorKind::BrokenPipe));

        let (feeder, mut reader) = queue();
        feeder.sender.try_send(Ok(Some(Bytes::from_static(b"abc")))).unwrap();
        feeder.sender.try_send(Ok(None)).unwrap();
        drop(feeder);
        let mut all = Vec::new();
        assert_eq!(reader.read_to_end(&mut all).unwrap(), 3);
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 0, "the end stays the end");
    }
}
