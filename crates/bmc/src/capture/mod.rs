//! Captures: what a BMC answered, without what tells whose it is, as one file that a user can attach to a report and that
//! a test can serve again.
//!
//! What must not live here: anything that sends requests.

mod literals;
mod names;
#[cfg(test)]
mod properties;
mod redact;
mod scan;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::redfish::Recorded;
use crate::types::ConnectOptions;
pub(crate) use redact::redact;

/// What `format` of a capture says.
const FORMAT: &str = "ferric-bmc-capture";

/// Answers of a BMC, by path, redacted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capture {
    /// Always `ferric-bmc-capture`.
    pub format: String,
    /// Version of the format: 1.
    pub version: u32,
    /// The program that made it.
    pub program: String,
    /// The answers to reads, by path.
    pub answers: BTreeMap<String, CapturedAnswer>,
}

/// An answer to a read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CapturedAnswer {
    /// HTTP status.
    pub status: u16,
    /// The `ETag` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The body, where it is JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

impl Capture {
    /// A capture of what was recorded. What was sent to reach the BMC is redacted wherever it stands.
    pub(crate) fn of(answers: BTreeMap<String, Recorded>, options: &ConnectOptions) -> Self {
        let answers = answers
            .into_iter()
            .map(|(path, Recorded { status, etag, body })| (path, CapturedAnswer { status, etag, body }))
            .collect();
        Self {
            format: FORMAT.into(),
            version: 1,
            program: concat!("ferric v", env!("CARGO_PKG_VERSION")).into(),
            answers: redact(answers, options),
        }
    }
}
