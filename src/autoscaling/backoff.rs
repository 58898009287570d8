//! How long a group is left alone after its machines did not become nodes. Pure.

use ferric_api::autoscaling::Backoff;
use jiff::{SignedDuration, Timestamp};

/// Failures of a group in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// The last one.
    pub last: Option<Timestamp>,
}

impl Failures {
    /// A machine did not become a node in time. What fails within the pause after another failure belongs to it: machines
    /// that were ordered together fail together.
    #[must_use]
    pub fn failed(self, at: Timestamp, backoff: &Backoff) -> Self {
        if self.until(backoff).is_some_and(|until| at < until) {
            return self;
        }
        Self { count: self.count.saturating_add(1), last: Some(at) }
    }

    /// A machine became a node.
    #[must_use]
    pub fn succeeded(self) -> Self {
        Self::default()
    }

    /// Until when the group is not raised; none: it may be.
    #[must_use]
    pub fn until(self, backoff: &Backoff) -> Option<Timestamp> {
        let last = self.last?;
        let doublings = self.count.saturating_sub(1).min(20);
        let pause = i64::from(backoff.initial_seconds.max(0)) << doublings;
        let pause = pause.min(backoff.max_seconds.max(backoff.initial_seconds).into());
        Some(last.checked_add(SignedDuration::from_secs(pause)).unwrap_or(Timestamp::MAX))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let backoff = Backoff::default();
        let mut failures = Failures::default();
        assert_eq!(failures.until(&backoff), None);
        let mut now = 0;
        for pause in [300, 600, 1200, 1800, 1800] {
            failures = failures.failed(at(now), &backoff);
            assert_eq!(failures.until(&backoff), Some(at(now + pause)));
            now += pause;
        }
        assert_eq!(failures.succeeded().until(&backoff), None);
    }

    #[test]
    fn what_fails_together_counts_once() {
        let backoff = Backoff::default();
        let failures = Failures::default().failed(at(0), &backoff).failed(at(299), &backoff);
        assert_eq!(failures, Failures { count: 1, last: Some(at(0)) });
        assert_eq!(failures.failed(at(300), &backoff).count, 2);
    }

    #[test]
    fn odd_numbers_do_no_harm() {
        let backoff = Backoff { initial_seconds: i32::MAX, max_seconds: 0 };
        let failures = Failures { count: u32::MAX, last: Some(Timestamp::MAX) };
        assert_eq!(failures.until(&backoff), Some(Timestamp::MAX));
    }
}
