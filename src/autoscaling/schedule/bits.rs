//! Sets of nodes, 64 to a word.

/// A set of small numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bits(pub(super) Vec<u64>);

impl Bits {
    /// Puts a number in or out.
    pub(super) fn set(&mut self, at: usize, value: bool) {
        let word = at / 64;
        if word >= self.0.len() {
            if !value {
                return;
            }
            self.0.resize(word + 1, 0);
        }
        let bit = 1 << (at % 64);
        if value {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }

    /// Whether a number is in.
    pub(super) fn get(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    /// One number, if it is in.
    pub(super) fn only(&self, at: usize) -> Self {
        let mut one = Self(vec![0; self.0.len()]);
        one.set(at, self.get(at));
        one
    }

    /// What is in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    /// What is in this one only.
    pub(super) fn without(&self, other: &Self) -> Self {
        let other = other.0.iter().chain(std::iter::repeat(&0));
        Self(self.0.iter().zip(other).map(|(a, b)| a & !b).collect())
    }
}
