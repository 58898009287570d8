//! The sending of one file: what goes out when, and what an acknowledgement means. Pure.

use bytes::Bytes;

use super::packet::Terms;

/// How often the same is sent again before the client is given up.
const TRIES: u32 = 6;

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Send these packets, then wait.
    Send(Vec<Vec<u8>>),
    /// Wait for what is on its way.
    Wait,
    /// The client has it all.
    Done,
    /// The client does not answer.
    GiveUp,
}

/// The sending of one file.
#[derive(Debug)]
pub struct Transfer {
    file: Bytes,
    terms: Terms,
    /// Blocks that the client has.
    acknowledged: u64,
    /// Whether the options are still to be acknowledged by the client.
    opening: bool,
    tries: u32,
}

impl Transfer {
    /// The sending of `file` under these terms.
    pub fn new(file: Bytes, terms: Terms) -> Self {
        let opening = terms.acknowledgement.is_some();
        Self { file, terms, acknowledged: 0, opening, tries: 0 }
    }

    /// What goes out first.
    pub fn begin(&mut self) -> Next {
        self.window()
    }

    /// The client says that it has all blocks up to `block`.
    pub fn acknowledge(&mut self, block: u16) -> Next {
        if self.opening {
            if block != 0 {
                return Next::Wait;
            }
            self.opening = false;
        } else {
            // Block numbers go round; within a window there is only one block with the number.
            let ahead = block.wrapping_sub(self.acknowledged as u16);
            // An old one: answering it would send everything twice from there on.
            if ahead == 0 || ahead > self.terms.window {
                return Next::Wait;
            }
            let now = self.acknowledged + u64::from(ahead);
            if now > self.blocks() {
                return Next::Wait;
            }
            self.acknowledged = now;
        }
        self.tries = 0;
        if self.acknowledged == self.blocks() { Next::Done } else { self.window() }
    }

    /// Nothing came for a while.
    pub fn timed_out(&mut self) -> Next {
        self.tries += 1;
        if self.tries >= TRIES { Next::GiveUp } else { self.window() }
    }

    /// Blocks of the file: the last is shorter than the others, if need be empty.
    fn blocks(&self) -> u64 {
        self.file.len() as u64 / u64::from(self.terms.block) + 1
    }

    fn window(&self) -> Next {
        if let (true, Some(options)) = (self.opening, &self.terms.acknowledgement) {
            return Next::Send(vec![options.clone()]);
        }
        let last = (self.acknowledged + u64::from(self.terms.window)).min(self.blocks());
        Next::Send((self.acknowledged + 1..=last).map(|number| self.block(number)).collect())
    }

    fn block(&self, number: u64) -> Vec<u8> {
        let size = usize::from(self.terms.block);
        let start =
            usize::try_from(number - 1).unwrap_or(usize::MAX).saturating_mul(size).min(self.file.len());
        let end = start.saturating_add(size).min(self.file.len());
        let mut packet = Vec::with_capacity(4 + end - start);
        packet.extend_from_slice(&[0, 3]);
        packet.extend_from_slice(&(number as u16).to_be_bytes());
        packet.extend_from_slice(&self.file[start..end]);
        packet
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn terms(block: u16, window: u16, options: bool) -> Terms {
        Terms { block, window, timeout: 1, acknowledgement: options.then(|| b"\0\x06options\0".to_vec()) }
    }

    /// A client as RFC 7440 has it, with a network that loses, doubles and delays. Returns what it got.
    fn fetch(file: &[u8], terms: Terms, mut luck: impl FnMut() -> u8) -> Option<Vec<u8>> {
        let mut transfer = Transfer::new(Bytes::copy_from_slice(file), terms.clone());
        let mut got: Vec<u8> = Vec::new();
        let (mut expected, mut options_seen, mut ended) = (1_u16, terms.acknowledgement.is_none(), false);
        let mut next = transfer.begin();
        let mut late: Option<u16> = None;
        for _ in 0..100_000 {
            let packets = match next {
                Next::Send(packets) => packets,
                Next::Wait => vec![],
                Next::Done => return ended.then_some(got),
                Next::GiveUp => return None,
            };
            let mut answers = Vec::new();
            let mut since = 0;
            for packet in packets {
                if luck() < 30 {
                    continue;
                }
                match (packet[1], u16::from_be_bytes([packet[2], packet[3]])) {
                    (6, _) if !options_seen || (expected == 1 && !ended) => {
                        options_seen = true;
                        answers.push(0);
                    }
                    (3, number) if number == expected && !ended => {
                        got.extend_from_slice(&packet[4..]);
                        expected = expected.wrapping_add(1);
                        since += 1;
                        ended = packet.len() - 4 < usize::from(terms.block);
                        if ended || since == terms.window {
                            answers.push(number);
                            since = 0;
                        }
                    }
                    // A gap, or a block again: say what is there.
                    (3, _) => answers.push(expected.wrapping_sub(1)),
                    _ => {}
                }
            }
            if luck() < 20 {
                late = answers.pop().or(late);
            }
            if luck() > 200 {
                answers.extend(late.take());
            }
            next = Next::Wait;
            for answer in answers {
                match transfer.acknowledge(answer) {
                    Next::Wait => {}
                    other => next = other,
                }
            }
            if next == Next::Wait {
                next = transfer.timed_out();
            }
        }
        panic!("it does not end");
    }

    #[test]
    fn a_file_of_any_length_arrives() {
        for size in [0, 1, 511, 512, 513, 1024, 100_000] {
            let file: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
            for (block, window, options) in [(512, 1, false), (512, 1, true), (1468, 16, true), (8, 32, true)]
            {
                assert!(
                    fetch(&file, terms(block, window, options), || 100).unwrap() == file,
                    "{size} {block}"
                );
            }
        }
        // Block numbers go round.
        let long = vec![7; 8 * 70_000];
        assert!(fetch(&long, terms(8, 32, true), || 100).unwrap() == long);
    }

    #[test]
    fn an_old_acknowledgement_sends_nothing_and_silence_ends_it() {
        let mut transfer = Transfer::new(Bytes::from(vec![1; 2000]), terms(512, 1, false));
        assert!(matches!(transfer.begin(), Next::Send(_)));
        assert!(matches!(transfer.acknowledge(1), Next::Send(_)));
        for old in [1, 0, 65535, 3] {
            assert_eq!(transfer.acknowledge(old), Next::Wait, "{old}");
        }
        for _ in 1..TRIES {
            assert!(matches!(transfer.timed_out(), Next::Send(_)));
        }
        assert_eq!(transfer.timed_out(), Next::GiveUp);
    }

    proptest! {
        #[test]
        fn what_arrives_over_a_bad_network_is_the_file(
            size in 0_usize..5000, block in 8_u16..1468, window in 1_u16..32, options: bool,
            dice in prop::collection::vec(any::<u8>(), 50..500),
        ) {
            let file: Vec<u8> = (0..size).map(|n| (n % 253) as u8).collect();
            let mut rolls = dice.iter().copied().cycle();
            if let Some(got) = fetch(&file, terms(block, window, options), || rolls.next().unwrap()) {
                prop_assert!(got == file);
            }
        }

        #[test]
        fn no_acknowledgement_makes_it_panic(
            size in 0_usize..3000, block in 8_u16..600, window in 1_u16..32, options: bool,
            numbers in prop::collection::vec(any::<u16>(), 0..60),
        ) {
            let mut transfer = Transfer::new(Bytes::from(vec![0; size]), terms(block, window, options));
            let _ = transfer.begin();
            for number in numbers {
                if let Next::Send(packets) = transfer.acknowledge(number) {
                    prop_assert!(packets.len() <= usize::from(window) && !packets.is_empty());
                }
            }
        }
    }
}
