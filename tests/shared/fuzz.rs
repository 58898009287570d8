//! Changes of good datagrams, for all crates whose decoders read what a network brings.

use std::time::{Duration, Instant};

/// Inputs where nobody says how many (`FERRIC_FUZZ_CASES`).
const REPLAY: u64 = 5_000;
/// No input may take longer: some ten thousand times what a good one takes.
const SLOWEST: Duration = Duration::from_secs(1);

/// xorshift64: the same inputs every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end.max(1)
    }

    /// A seed with bytes changed, made extreme, cut, doubled, taken out or from another seed.
    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(input.len());
            match self.below(8) {
                _ if input.is_empty() => input.extend((0..self.below(300)).map(|n| (n * 37) as u8)),
                0 | 1 => input[at] = self.below(256) as u8,
                2 => input[at] ^= 1 << self.below(8),
                3 => input[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][self.below(6)],
                4 => input.truncate(at),
                5 => {
                    let part = input[at..input.len().min(at + self.below(64))].to_vec();
                    input.splice(at..at, part);
                }
                6 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len());
                    input.splice(at.., other[from..].iter().copied());
                }
                _ => drop(input.drain(at..input.len().min(at + self.below(20)))),
            }
        }
        input
    }
}

/// Feeds a decoder the seeds and what becomes of them. No input may make it panic, or be slow each time of `tries`: slow once
/// may be the machine.
pub(super) fn fuzz(seeds: &[Vec<u8>], tries: u32, mut decode: impl FnMut(&[u8])) {
    let cases = std::env::var("FERRIC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(REPLAY);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    seeds.iter().for_each(|seed| decode(seed));
    for number in 0..cases {
        let input = random.mutate(seeds);
        let fast = (0..tries).any(|_| {
            let begun = Instant::now();
            let fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decode(&input))).is_ok();
            assert!(fine, "input {number}: {input:02x?}");
            begun.elapsed() < SLOWEST
        });
        assert!(fast, "input {number} is slow: {input:02x?}");
    }
}
