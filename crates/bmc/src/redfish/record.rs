//! Keeps what is read of a BMC, as it was answered, for a capture.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::quirks::weight;

/// Most answers that are kept.
const ANSWERS: usize = 4096;
/// Most bytes that are kept, roughly.
const BYTES: usize = 32 << 20;

/// An answer to a read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) status: u16,
    pub(crate) etag: Option<String>,
    /// The body, where it is JSON.
    pub(crate) body: Option<Value>,
}

/// The answers that were kept, by path; the latest of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    answers: BTreeMap<String, Recorded>,
    bytes: usize,
}

impl Recorder {
    /// Keeps an answer, while there is room.
    pub(crate) fn note(&self, link: &str, status: u16, etag: Option<&str>, body: Option<&Value>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let weight = body.map_or(0, weight) + link.len();
        let path = link.split('#').next().unwrap_or_default().trim_end_matches('/').to_owned();
        let is_new = !kept.answers.contains_key(&path);
        if kept.bytes + weight > BYTES || (is_new && kept.answers.len() >= ANSWERS) {
            return;
        }
        kept.bytes += weight;
        let recorded = Recorded { status, etag: etag.map(str::to_owned), body: body.cloned() };
        kept.answers.insert(path, recorded);
    }

    /// What was kept so far.
    pub(crate) fn answers(&self) -> BTreeMap<String, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).answers.clone()
    }
}
