//! The circuit breaker of one BMC, and the login refusals of all: state machines without a clock of their own.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::Limits;

/// Leaves a BMC alone that failed several times in a row.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    opened: u32,
    open_until: Option<Instant>,
    probing: bool,
    last: Option<Box<str>>,
}

/// Leave to try. While it lives nobody else is let through a half-open circuit.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.lock().probing = false;
        }
    }
}

impl Breaker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to try now, or until when to leave the BMC alone and what failed last.
    pub(crate) fn enter(&self, now: Instant) -> Result<Pass<'_>, (Instant, String)> {
        let mut state = self.lock();
        let Some(until) = state.open_until else {
            return Ok(Pass { breaker: self, probe: false });
        };
        if now < until || state.probing {
            let last = state.last.as_deref().unwrap_or_default().to_owned();
            return Err((until.max(now), last));
        }
        state.probing = true;
        Ok(Pass { breaker: self, probe: true })
    }

    /// The BMC answered, whatever it said.
    pub(crate) fn answered(&self) {
        let mut state = self.lock();
        if state.failures > 0 || state.open_until.is_some() {
            *state = State { probing: state.probing, ..State::default() };
        }
    }

    /// The BMC did not answer. `jitter` is between 0 and 1.
    pub(crate) fn failed(&self, now: Instant, limits: &Limits, jitter: f64, what: &str) {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        state.last = Some(what.into());
        if state.open_until.is_some_and(|until| now < until) {
            // A request that was under way when the circuit opened says nothing new.
            return;
        }
        if state.failures >= limits.failures {
            let doubled = limits.open_min.saturating_mul(1 << state.opened.min(16));
            // ±20 %, so that BMCs that failed together do not come back together.
            let factor = 0.8 + 0.4 * jitter.clamp(0.0, 1.0);
            state.open_until = Some(now + doubled.min(limits.open_max).mul_f64(factor));
            state.opened = state.opened.saturating_add(1);
        }
    }
}

/// Credentials that BMCs refused, kept by a hash of address, user and password, so that no account is locked by us.
#[derive(Debug)]
pub(crate) struct Refusals {
    pause: Duration,
    until: Mutex<HashMap<[u8; 32], Instant>>,
}

impl Refusals {
    /// None yet. `pause`: how long refused credentials are not tried again.
    pub(crate) fn new(pause: Duration) -> Self {
        Self { pause, until: Mutex::default() }
    }

    /// Until when these credentials are not to be tried.
    pub(crate) fn until(&self, key: &[u8; 32], now: Instant) -> Option<Instant> {
        self.lock().get(key).copied().filter(|until| now < *until)
    }

    /// The BMC refused these credentials. Gives the time before which they are not tried again.
    pub(crate) fn refuse(&self, key: [u8; 32], now: Instant) -> Instant {
        let mut map = self.lock();
        map.retain(|_, until| now < *until);
        let until = now + self.pause;
        map.insert(key, until);
        until
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn opens_doubles_probes_and_closes() {
        let (breaker, limits, start) = (Breaker::default(), Limits::default(), Instant::now());
        for _ in 0..2 {
            breaker.failed(start, &limits, 0.5, "refused");
            assert!(breaker.enter(start).is_ok());
        }
        breaker.failed(start, &limits, 0.5, "refused");
        let (until, last) = breaker.enter(start).unwrap_err();
        assert_eq!((until, last.as_str()), (start + seconds(5), "refused"));

        // Half open: one at a time.
        let now = until;
        let probe = breaker.enter(now).unwrap();
        assert!(breaker.enter(now).is_err());
        drop(probe);
        let probe = breaker.enter(now).unwrap();
        breaker.failed(now, &limits, 0.5, "refused");
        drop(probe);
        let mut now = now;
        for wait in [10, 20, 40, 80, 120, 120] {
            let (until, _) = breaker.enter(now).unwrap_err();
            assert_eq!(until, now + seconds(wait));
            now = until;
            let probe = breaker.enter(now).unwrap();
            breaker.failed(now, &limits, 0.5, "refused");
            drop(probe);
        }

        let now = now + seconds(200);
        let probe = breaker.enter(now).unwrap();
        breaker.answered();
        drop(probe);
        assert!(breaker.enter(now).is_ok());
        breaker.failed(now, &limits, 0.5, "refused");
        assert!(breaker.enter(now).is_ok(), "counts from the start again");
    }

    /// ±20 %: BMCs that failed together do not come back together, and none is left alone for longer than it should.
    #[test]
    fn pauses_are_jittered_within_bounds() {
        let (limits, start) = (Limits::default(), Instant::now());
        let pauses: Vec<Duration> = (0..=10)
            .map(|n| {
                let breaker = Breaker::default();
                for _ in 0..limits.failures {
                    breaker.failed(start, &limits, f64::from(n) / 10.0, "x");
                }
                breaker.enter(start).unwrap_err().0 - start
            })
            .collect();
        assert!(pauses.windows(2).all(|pair| pair[0] < pair[1]), "{pauses:?}");
        assert_eq!((pauses[0], pauses[10]), (limits.open_min.mul_f64(0.8), limits.open_min.mul_f64(1.2)));
    }

    #[test]
    fn an_answer_in_between_starts_the_count_again() {
        let (breaker, limits, now) = (Breaker::default(), Limits::default(), Instant::now());
        for _ in 0..10 {
            breaker.failed(now, &limits, 0.0, "x");
            breaker.failed(now, &limits, 1.0, "x");
            breaker.answered();
        }
        assert!(breaker.enter(now).is_ok());
    }

    #[test]
    fn refused_credentials_wait() {
        let (refusals, now) = (Refusals::new(seconds(900)), Instant::now());
        assert_eq!(refusals.until(&[1; 32], now), None);
        let until = refusals.refuse([1; 32], now);
        assert_eq!(refusals.until(&[1; 32], now + seconds(899)), Some(until));
        assert_eq!(refusals.until(&[2; 32], now), None);
        assert_eq!(refusals.until(&[1; 32], now + seconds(900)), None);
        refusals.refuse([2; 32], now + seconds(901));
        assert_eq!(refusals.lock().len(), 1, "what expired is dropped");
    }
}
