//! What was done to a drive and how that was checked, in words that claim no more than was seen.

use std::time::Duration;

use ferric_image::{Markers, WipeEvidence, wipe::Gone, wipe::MARKER_BYTES};

use super::method::Method;

/// A method that was not used, or did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// [`Method::name`].
    pub method: &'static str,
    /// Why not.
    pub reason: String,
}

/// Evidence of one drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// [`Method::name`], or `zero-metadata`.
    pub method: &'static str,
    /// What was done, in a sentence.
    pub did: String,
    /// How it was checked, in a sentence.
    pub verification: String,
    /// Bytes of the drive that the method is about.
    pub bytes: u64,
    /// Places that were read back.
    pub verified_samples: u32,
    /// Bytes that were read back.
    pub verified_bytes: u64,
    /// How long it took, failed attempts included.
    pub duration: Duration,
    /// Stronger methods, and why they were not used.
    pub attempts: Vec<Attempt>,
}

impl Evidence {
    /// Of a cleaning of metadata.
    #[must_use]
    pub fn of_metadata(wiped: &WipeEvidence) -> Self {
        Self {
            method: wiped.method,
            did: format!(
                "{} bytes where signatures are kept were zeroed and nothing else was touched: what else is on the drive can still be read",
                wiped.bytes
            ),
            verification: "all that was zeroed was read back".to_owned(),
            bytes: wiped.bytes,
            verified_samples: wiped.verified_samples,
            verified_bytes: wiped.verified_bytes,
            duration: wiped.duration,
            attempts: Vec::new(),
        }
    }

    /// Of a method that makes every address zero.
    pub(super) fn of_zeros(method: Method, wiped: &WipeEvidence, attempts: Vec<Attempt>) -> Self {
        let verification = match method {
            Method::Overwrite => format!("all {} bytes were read back and are zero", wiped.verified_bytes),
            _ => format!(
                "{} samples of at most 64 KiB, at both ends, where signatures are kept and at random places, were read \
                 back and are zero; the rest was not read",
                wiped.verified_samples
            ),
        };
        Self {
            method: method.name(),
            did: method.did().to_owned(),
            verification,
            bytes: wiped.bytes,
            verified_samples: wiped.verified_samples,
            verified_bytes: wiped.verified_bytes,
            duration: wiped.duration,
            attempts,
        }
    }

    /// Of an erase by the drive itself: markers that went, then signatures that were zeroed.
    pub(super) fn of_markers(
        method: Method,
        size: u64,
        (markers, gone): (&Markers, Gone),
        signatures: &WipeEvidence,
        attempts: Vec<Attempt>,
    ) -> Self {
        let Gone { places, zero, bytes } = gone;
        let seen = if markers.are_ours() {
            format!(
                "{places} blocks of {MARKER_BYTES} bytes that were written before the erase and read back from the drive \
                 are gone, {zero} of them read as zeros"
            )
        } else {
            format!(
                "the erase was begun by an agent that is gone, and what that one had written is not known; no marker was \
                 found at {places} places, {zero} of them read as zeros"
            )
        };
        Self {
            method: method.name(),
            did: method.did().to_owned(),
            verification: format!(
                "{seen}; then the places of signatures were zeroed and read back ({} bytes)",
                signatures.verified_bytes
            ),
            bytes: size,
            verified_samples: places.saturating_add(signatures.verified_samples),
            verified_bytes: bytes.saturating_add(signatures.verified_bytes),
            duration: Duration::ZERO,
            attempts,
        }
    }
}
