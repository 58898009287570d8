//! Counters of all BMCs together; never one per host.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::BmcError;

/// Requests and errors of all BMCs of a pool.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    logins: AtomicU64,
    errors: Mutex<BTreeMap<&'static str, u64>>,
}

/// What [`Counters`] stood at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CountersSnapshot {
    /// HTTP requests sent.
    pub requests: u64,
    /// Of those, logins.
    pub logins: u64,
    /// Failed operations by [`BmcError::reason`].
    pub errors: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// What they stand at.
    pub fn snapshot(&self) -> CountersSnapshot {
        CountersSnapshot {
            requests: self.requests.load(Ordering::Relaxed),
            logins: self.logins.load(Ordering::Relaxed),
            errors: self.errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone(),
        }
    }

    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn login(&self) {
        self.logins.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn error(&self, error: &BmcError) {
        let mut errors = self.errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *errors.entry(error.reason()).or_default() += 1;
    }
}
