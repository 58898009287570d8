//! Pauses after failures: exponential, with a jitter that depends on the object only, so that plans stay pure.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// The pause after the `count`-th failure in a row (from 1): `first * 2^(count-1)`, at most `max`, less up to a
/// quarter by a hash of `seed` and `count` so that a fleet that failed together does not come back together.
pub fn pause(first: Duration, max: Duration, count: u32, seed: &str) -> Duration {
    let factor = 1u32.checked_shl(count.saturating_sub(1).min(20)).unwrap_or(u32::MAX);
    let full = first.saturating_mul(factor).min(max);
    let mut hasher = DefaultHasher::new();
    (seed, count).hash(&mut hasher);
    let share = (hasher.finish() % 1000) as u32;
    full.saturating_sub(full / 4 * share / 1000)
}

/// A moment within `period`, the same for every call with the same seed: spreads periodic work of a fleet.
pub fn spread(period: Duration, seed: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    let share = (hasher.finish() % 1000) as u32;
    period / 1000 * share
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pause_grows_and_stays_within_bounds(count in 1u32..64, seed in "[a-z]{1,8}") {
            let first = Duration::from_secs(5);
            let max = Duration::from_secs(600);
            let pause = pause(first, max, count, &seed);
            prop_assert!(pause <= max);
            prop_assert!(pause >= first * 3 / 4);
        }
    }
}
