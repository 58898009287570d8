//! Which packets of a session were seen already (6.12.13: sequence numbers of RMCP+ sessions are tracked in a sliding
//! window).

/// How many numbers behind the highest are still taken, once each (6.12.13).
const BEHIND: u32 = 16;

/// Sequence numbers of packets that were taken. Only packets whose code is right are shown to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Window {
    highest: u32,
    /// Bit n: `highest - n` was taken.
    taken: u32,
}

impl Window {
    /// Whether a packet of this number is taken; then never again. However far it is ahead: the network may have lost
    /// all in between. 0 marks packets outside of a session (6.12.9).
    pub(crate) fn take(&mut self, number: u32) -> bool {
        if number == 0 {
            return false;
        }
        if number > self.highest {
            let ahead = number - self.highest;
            self.taken = self.taken.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = number;
            return true;
        }
        let behind = self.highest - number;
        if behind > BEHIND || self.taken & (1 << behind) != 0 {
            return false;
        }
        self.taken |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_each_once_and_nothing_old() {
        let mut window = Window::default();
        for (number, taken) in [
            (0, false),
            (5, true),
            (5, false),
            (4, true),
            (4, false),
            (21, true),
            (4, false),
            (5, false),
            (6, true),
            (1_000_000, true),
            (999_984, true),
            (999_983, false),
            (u32::MAX, true),
            (u32::MAX, false),
            (1, false),
        ] {
            assert_eq!(window.take(number), taken, "{number}");
        }
    }

    proptest! {
        #[test]
        fn no_number_is_taken_twice(numbers in prop::collection::vec(1_u32..60, 0..200)) {
            let mut window = Window::default();
            let mut seen = std::collections::HashSet::new();
            let mut highest = 0;
            for number in numbers {
                let fresh = !seen.contains(&number) && number + BEHIND >= highest;
                prop_assert_eq!(window.take(number), fresh);
                if fresh {
                    seen.insert(number);
                }
                highest = highest.max(number);
            }
        }
    }
}
