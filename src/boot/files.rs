//! Sends a file to firmware, a BMC or iPXE: whole or a range of it, with its length, as fast as the other side reads.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::composite::Composite;
use crate::deploy::range::{Selection, select};

/// Bytes that are read at a time.
const CHUNK: usize = 128 * 1024;
/// Seconds after which to come again when too many files are being sent.
const RETRY_AFTER: &str = "5";

/// The answer to a GET or HEAD of a file that is called `name`.
pub(super) fn answer(
    name: &str,
    content: &Arc<Composite>,
    method: &Method,
    headers: &HeaderMap,
    streams: &Arc<Semaphore>,
) -> Response {
    let size = content.size();
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    // There is no validator that an If-Range could name.
    let range = range.filter(|_| !headers.contains_key(header::IF_RANGE));
    let (status, first, length) = match select(range, size) {
        Selection::Whole => (StatusCode::OK, 0, size),
        Selection::Part { first, last } => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Selection::Unsatisfiable => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
        }
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        let Ok(permit) = streams.clone().try_acquire_owned() else {
            let sentence = "too many files are being sent\n";
            return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER)], sentence)
                .into_response();
        };
        Body::from_stream(chunks(content.clone(), first, length, permit))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(range) = HeaderValue::try_from(format!("bytes {first}-{}/{size}", first + length - 1))
    {
        headers.insert(header::CONTENT_RANGE, range);
    }
    response
}

/// UEFI HTTP boot goes by the type: an ISO becomes a CD in memory (UEFI 2.10, 24.7.3).
fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "iso")) => "application/vnd.efi-iso",
        Some((_, "efi")) => "application/efi",
        _ => "application/octet-stream",
    }
}

/// The bytes, read when the other side is ready for them.
fn chunks(
    content: Arc<Composite>,
    at: u64,
    left: u64,
    permit: OwnedSemaphorePermit,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> {
    futures::stream::try_unfold((content, at, left, permit), |(content, at, left, permit)| async move {
        if left == 0 {
            return Ok(None);
        }
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let source = content.clone();
        let read = move || {
            let mut chunk = vec![0; want];
            source.read_exact_at(&mut chunk, at)?;
            std::io::Result::Ok(Bytes::from(chunk))
        };
        let chunk: Bytes = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)??;
        let done = want as u64;
        Ok(Some((chunk, (content, at + done, left - done, permit))))
    })
}
