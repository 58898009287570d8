//! How many requests a BMC is asked for: a bucket of tokens. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket that holds `burst` requests and is filled at `per_second`.
#[derive(Debug)]
pub(crate) struct Budget {
    burst: f64,
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Budget {
    /// A full bucket. `burst` is at least 1; `per_second` above 0.
    pub(crate) fn new(burst: u32, per_second: f64, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self { burst, per_second: per_second.max(0.001), level: burst, at: now }
    }

    /// Takes one request out of the bucket and says how long to wait before it is sent. The level may go below zero:
    /// those who come together are let go one after the other. What is `urgent` waits for nobody, and is counted.
    pub(crate) fn take(&mut self, urgent: bool, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.level = (self.level + passed * self.per_second).min(self.burst) - 1.0;
        // As deep as a minute: a burst of what is urgent must not stop the rest for ever.
        self.level = self.level.max(-60.0 * self.per_second);
        if urgent || self.level >= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(-self.level / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_the_rate_counts() {
        let start = Instant::now();
        let mut budget = Budget::new(3, 2.0, start);
        for _ in 0..3 {
            assert_eq!(budget.take(false, start), Duration::ZERO);
        }
        assert_eq!(budget.take(false, start), Duration::from_millis(500));
        assert_eq!(budget.take(false, start), Duration::from_secs(1), "one after the other");
        assert_eq!(budget.take(true, start), Duration::ZERO, "a power-off does not wait");
        let later = start + Duration::from_secs(60);
        for _ in 0..3 {
            assert_eq!(budget.take(false, later), Duration::ZERO, "filled again, not more than full");
        }
        assert_eq!(budget.take(false, later), Duration::from_millis(500));
    }

    #[test]
    fn a_clock_that_stands_still_or_a_flood_makes_no_endless_wait() {
        let start = Instant::now();
        let mut budget = Budget::new(1, 1.0, start);
        for _ in 0..10_000 {
            budget.take(true, start);
        }
        assert!(budget.take(false, start) <= Duration::from_secs(61));
    }
}
