//! Pauses between tries: exponential, with full jitter, so that a thousand agents do not knock at once.

use std::time::Duration;

use rand::RngExt;

#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    tries: u32,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, tries: 0 }
    }

    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }

    /// The longest that the next pause may be, and counts the try.
    fn ceiling(&mut self) -> Duration {
        let ceiling = self.min.saturating_mul(1 << self.tries.min(16)).min(self.max);
        self.tries = self.tries.saturating_add(1);
        ceiling
    }

    /// The next pause: between half of the ceiling and all of it.
    pub(crate) fn next(&mut self) -> Duration {
        let ceiling = self.ceiling();
        ceiling / 2 + ceiling.mul_f64(rand::rng().random_range(0.0..0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_limit_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let ceilings: Vec<u64> = (0..4).map(|_| backoff.ceiling().as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 5]);
        let pause = backoff.next();
        assert!(pause >= Duration::from_millis(2500) && pause <= Duration::from_secs(5), "{pause:?}");
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_secs(1));
    }
}
