//! Back-off per object: exponential with jitter, forgotten when a reconcile succeeds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::host::backoff;
use crate::key::Key;
use crate::patch::ApiError;

/// The first and the longest pause after a failure.
const FAILURE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(300));
/// The same after a conflict, which is no failure: somebody else was faster.
const CONFLICT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How often in a row each object failed.
#[derive(Debug, Default)]
pub(crate) struct Retries(Mutex<HashMap<Key, u32>>);

impl Retries {
    /// Counts a failure and says how long to pause.
    pub(crate) fn failed(&self, key: &Key, error: &ApiError) -> Duration {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        let (first, longest) = if error.is_conflict() { CONFLICT } else { FAILURE };
        backoff::pause(first, longest, *count, &key.to_string())
    }

    /// Forgets the failures of an object.
    pub(crate) fn succeeded(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_per_object_and_are_forgotten() {
        let retries = Retries::default();
        let (a, b) = (Key::new("ns", "a"), Key::new("ns", "b"));
        let error = ApiError::NotFound { call: String::new() };
        let first = retries.failed(&a, &error);
        for _ in 0..5 {
            retries.failed(&a, &error);
        }
        assert!(retries.failed(&a, &error) > first * 8);
        assert!(retries.failed(&b, &error) < Duration::from_secs(1));
        retries.succeeded(&a);
        assert_eq!(retries.failed(&a, &error), first);
        let conflict = ApiError::Conflict { call: String::new() };
        assert!(retries.failed(&b, &conflict) < Duration::from_millis(200));
    }
}
