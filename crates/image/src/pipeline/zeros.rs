//! Joins neighbouring zeros, so that a disk is told once of many blocks. Pure.

use std::ops::Range;

/// Zeros are made in steps of at most this many bytes, so that progress can be told and cancelling works.
pub(super) const HOLE_STEP: u64 = 256 << 20;

/// Zeros that are still to be made.
#[derive(Debug, Clone, Default)]
pub(super) struct Zeros {
    pending: Range<u64>,
}

impl Zeros {
    /// Takes note of a range of at most [`HOLE_STEP`] bytes; returns one that is to be made now.
    #[must_use]
    pub(super) fn add(&mut self, range: Range<u64>) -> Option<Range<u64>> {
        if range.is_empty() {
            return None;
        }
        let joined = self.pending.start..range.end;
        if self.pending.end == range.start && !self.pending.is_empty() && length(&joined) <= HOLE_STEP {
            self.pending = joined;
            return None;
        }
        let before = std::mem::replace(&mut self.pending, range);
        (!before.is_empty()).then_some(before)
    }

    /// The last range that is to be made.
    #[must_use]
    pub(super) fn take(&mut self) -> Option<Range<u64>> {
        let last = std::mem::take(&mut self.pending);
        (!last.is_empty()).then_some(last)
    }
}

/// Cuts a hole into steps.
pub(super) fn steps(hole: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = hole.start;
    std::iter::from_fn(move || {
        let step = at..hole.end.min(at.saturating_add(HOLE_STEP));
        at = step.end;
        (!step.is_empty()).then_some(step)
    })
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_become_one_up_to_a_limit() {
        let mut zeros = Zeros::default();
        assert_eq!(zeros.add(0..10), None);
        assert_eq!(zeros.add(10..30), None);
        assert_eq!(zeros.add(40..50), Some(0..30));
        assert_eq!(zeros.add(50..50), None);
        assert_eq!(zeros.add(50..50 + HOLE_STEP - 10), None);
        let end = 50 + HOLE_STEP - 10;
        assert_eq!(zeros.add(end..end + 1), Some(40..end));
        assert_eq!(zeros.take(), Some(end..end + 1));
        assert_eq!(zeros.take(), None);
    }

    proptest! {
        /// Every byte is made zero exactly once, in whatever pieces.
        #[test]
        fn nothing_is_lost(pieces in prop::collection::vec((0u64..3, 0u64..HOLE_STEP), 0..20)) {
            let (mut zeros, mut at, mut made) = (Zeros::default(), 0, Vec::new());
            let mut wanted: Vec<Range<u64>> = Vec::new();
            for (gap, length) in pieces {
                at += gap;
                let range = at..at + length;
                at = range.end;
                match wanted.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ if range.is_empty() => {}
                    _ => wanted.push(range.clone()),
                }
                made.extend(zeros.add(range));
            }
            made.extend(zeros.take());
            prop_assert!(made.iter().all(|range| !range.is_empty() && length(range) <= HOLE_STEP));
            let mut found: Vec<Range<u64>> = Vec::new();
            for range in made {
                match found.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => found.push(range),
                }
            }
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn steps_are_the_hole(start in 0u64..1 << 40, length in 0u64..5 * HOLE_STEP) {
            let steps: Vec<_> = steps(start..start + length).collect();
            let mut at = start;
            for step in &steps {
                prop_assert!(step.start == at && !step.is_empty() && super::length(step) <= HOLE_STEP);
                at = step.end;
            }
            prop_assert_eq!(at, start + length);
        }
    }
}
