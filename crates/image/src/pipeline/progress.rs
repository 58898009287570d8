//! How far a write has come, and how often to say so.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The image is downloaded and written.
    Writing,
    /// It is read back.
    Verifying,
    /// A disk is overwritten with zeros.
    Wiping,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Writing => "writing",
            Self::Verifying => "verifying",
            Self::Wiping => "wiping",
        })
    }
}

/// How far a write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is going on.
    pub stage: Stage,
    /// Bytes: downloaded while writing, read back while verifying, overwritten while wiping.
    pub done: u64,
    /// Of how many, where that is known.
    pub total: Option<u64>,
}

/// Lets progress through when it is news: a new stage at once; else at least `interval` after the last, and then only
/// with another 5 % done or after ten intervals.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    last: Option<(Instant, Progress)>,
}

impl Throttle {
    /// A throttle that has let nothing through yet.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: None }
    }

    /// One that has let nothing through yet, as often.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self::new(self.interval)
    }

    /// Whether this is worth saying at this time.
    pub fn lets_through(&mut self, now: Instant, progress: Progress) -> bool {
        let news = match &self.last {
            None => true,
            Some((_, last)) if last.stage != progress.stage => true,
            Some((at, last)) => {
                let elapsed = now.saturating_duration_since(*at);
                let step = progress.total.map_or(0, |total| total / 20);
                elapsed >= self.interval
                    && (progress.done.saturating_sub(last.done) >= step || elapsed >= self.interval * 10)
            }
        };
        if news {
            self.last = Some((now, progress));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_news_and_no_more() {
        let start = Instant::now();
        let mut throttle = Throttle::new(Duration::from_secs(1));
        let mut at = |seconds, stage, done| {
            let progress = Progress { stage, done, total: Some(100) };
            throttle.lets_through(start + Duration::from_secs(seconds), progress)
        };
        assert!(at(0, Stage::Writing, 1), "the first");
        assert!(!at(0, Stage::Writing, 50), "too soon");
        assert!(!at(1, Stage::Writing, 4), "too little");
        assert!(at(1, Stage::Writing, 6), "5 % and a second");
        assert!(!at(10, Stage::Writing, 6), "nothing new");
        assert!(at(11, Stage::Writing, 6), "a sign of life");
        assert!(at(11, Stage::Verifying, 1), "another stage");
    }
}
