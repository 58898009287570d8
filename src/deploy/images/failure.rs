//! Why an image is not there, and how it is told.

use std::io;

use super::{
    ImageState,
    fetch::FetchError,
    request::{Hope, Refusal},
};

/// Why an image is not there.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// Reason for a condition.
    pub(super) reason: &'static str,
    /// Sentence for a person.
    pub(super) message: String,
    /// How soon it may be gone.
    pub(super) hope: Hope,
    /// Only a change of the spec, or of the file on the server, helps.
    pub(super) permanent: bool,
}

impl Failure {
    /// What may be gone by itself.
    pub(super) fn soon(reason: &'static str, message: String) -> Self {
        Self { reason, message, hope: Hope::Soon, permanent: false }
    }
}

impl From<Refusal> for Failure {
    fn from(Refusal { reason, message }: Refusal) -> Self {
        Self { reason, message, hope: Hope::Later, permanent: true }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let message = error.to_string();
        match error {
            FetchError::Unreachable { .. } => Self::soon("ImageUnreachable", message),
            FetchError::Full(_) => Self::soon("ImageCacheFull", message),
            FetchError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::soon("ImageCacheFull", format!("the disk of the image cache is full: {message}"))
            }
            FetchError::Disk { .. } => Self::soon("ImageCacheFailed", message),
            FetchError::Mismatch { .. } => {
                Self { reason: "ChecksumMismatch", message, hope: Hope::Later, permanent: true }
            }
        }
    }
}

/// The failure as the host controller sees it.
pub(super) fn failed(failure: &Failure, retry_at: jiff::Timestamp) -> ImageState {
    let Failure { reason, message, hope: _, permanent } = failure.clone();
    ImageState::Failed { reason, message, permanent, retry_at }
}
