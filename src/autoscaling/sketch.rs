//! How long things take, learned: counts by size class, from which quantiles are read. Pure.
//!
//! Classes grow by an eighth, so a quantile is right within 6 %; 128 of them reach from one second to 30 days. As text
//! it fits a status. Old times fade: when there are [`CAPACITY`], all counts are halved.

use std::fmt;
use std::str::FromStr;

/// How much larger each class is than the one before.
const GROWTH: f64 = 1.125;
/// Number of classes.
const CLASSES: usize = 128;
/// Times after which all counts are halved, so that what was learned long ago counts less.
const CAPACITY: u32 = 256;

/// Counts of times by size class.
#[derive(Clone, PartialEq, Eq)]
pub struct Sketch {
    counts: [u32; CLASSES],
}

impl Default for Sketch {
    fn default() -> Self {
        Self { counts: [0; CLASSES] }
    }
}

impl Sketch {
    /// Adds a time in seconds; what is below a second counts as one, what is above 30 days as 30 days.
    pub fn add(&mut self, seconds: u64) {
        let count = &mut self.counts[class(seconds)];
        *count = count.saturating_add(1);
        if self.samples() >= CAPACITY {
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// How many times are counted.
    #[must_use]
    pub fn samples(&self) -> u32 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The time in seconds that this share of them, 0 to 100 per cent, did not exceed, rounded up to the end of its class.
    #[must_use]
    pub fn quantile(&self, percent: u32) -> Option<u64> {
        let samples = u64::from(self.samples());
        if samples == 0 {
            return None;
        }
        let rank = (samples * u64::from(percent.min(100))).div_ceil(100).max(1);
        let mut seen = 0;
        let class = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        })?;
        Some(upper(class))
    }

    /// Adds all that another one has counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        while self.samples() >= CAPACITY {
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
    }
}

fn class(seconds: u64) -> usize {
    let class = (seconds.max(1) as f64).ln() / GROWTH.ln();
    // Rounded up: a class holds what is longer than the one before ends.
    (class - 1e-9).ceil().clamp(0.0, (CLASSES - 1) as f64) as usize
}

/// The longest time of a class, in whole seconds.
fn upper(class: usize) -> u64 {
    GROWTH.powi(i32::try_from(class).unwrap_or(i32::MAX)).ceil() as u64
}

/// As `class:count` of those that hold any, with commas.
impl fmt::Display for Sketch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (class, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            write!(f, "{comma}{class}:{count}")?;
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for Sketch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sketch({self})")
    }
}

/// The text is no sketch; it says what part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not <class>:<count> with a class from 0 to 127 and a count from 1 to 255")]
pub struct SketchError(String);

impl FromStr for Sketch {
    type Err = SketchError;

    fn from_str(text: &str) -> Result<Self, SketchError> {
        let mut sketch = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let counted = part.split_once(':').and_then(|(class, count)| {
                let count = count.parse::<u32>().ok().filter(|count| (1..CAPACITY).contains(count))?;
                Some((class.parse::<usize>().ok()?, count))
            });
            let place = counted.and_then(|(class, count)| Some((sketch.counts.get_mut(class)?, count)));
            let (place, count) = place.ok_or_else(|| SketchError(part.chars().take(32).collect()))?;
            *place = count;
        }
        while sketch.samples() >= CAPACITY {
            sketch.counts.iter_mut().for_each(|count| *count /= 2);
        }
        Ok(sketch)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_of_what_was_seen() {
        let mut sketch = Sketch::default();
        assert_eq!(sketch.quantile(50), None);
        (1..=100).for_each(|seconds| sketch.add(seconds * 10));
        let near = |percent, exact: u64| {
            let found = sketch.quantile(percent).unwrap();
            assert!(found >= exact && found <= exact + exact / 7 + 1, "{percent} %: {found}, exact {exact}");
        };
        near(0, 10);
        near(50, 500);
        near(95, 950);
        near(99, 990);
        near(100, 1000);
    }

    #[test]
    fn what_was_learned_fades() {
        let mut sketch = Sketch::default();
        (0..1000).for_each(|_| sketch.add(60));
        (0..1000).for_each(|_| sketch.add(600));
        assert!(sketch.quantile(50).unwrap() >= 600, "{sketch}");
        assert!(sketch.samples() < CAPACITY);
    }

    #[test]
    fn bad_text_is_refused() {
        for text in ["x", "1", "1:", "128:1", "1:0", "1:256", "-1:1", "1:1;2:2"] {
            assert!(text.parse::<Sketch>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_back(times in prop::collection::vec(any::<u64>(), 0..600)) {
            let mut sketch = Sketch::default();
            times.iter().for_each(|seconds| sketch.add(*seconds));
            prop_assert_eq!(sketch.to_string().parse::<Sketch>().unwrap(), sketch);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9:,]{0,60}") {
            if let Ok(sketch) = text.parse::<Sketch>() {
                prop_assert!(sketch.samples() < CAPACITY);
            }
        }

        #[test]
        fn a_class_holds_what_it_says(seconds in 1u64..2_500_000) {
            let class = class(seconds);
            prop_assert!(upper(class) >= seconds);
            prop_assert!(class == 0 || upper(class - 1) <= seconds + 1);
        }
    }
}
