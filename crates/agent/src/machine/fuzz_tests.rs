//! Damaged and hostile packets to everything that the network hands to the agent: no panic, no answer without end.
//! `FERRIC_FUZZ_CASES` says how many inputs each decoder gets; the default is a short replay.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use dhcproto::v6::{MessageType, Status};

use super::{dhcp, dhcp6, lldp, rdnss};

/// Inputs where nobody says how many.
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
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
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

fn fuzz(seeds: Vec<Vec<u8>>, decode: impl Fn(&[u8])) {
    let cases = std::env::var("FERRIC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(REPLAY);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    seeds.iter().for_each(|seed| decode(seed));
    for number in 0..cases {
        let input = random.mutate(&seeds);
        let begun = Instant::now();
        let fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decode(&input))).is_ok();
        assert!(fine && begun.elapsed() < SLOWEST, "input {number}: {input:02x?}");
    }
}

#[test]
fn no_dhcp_answer_harms_the_agent() {
    fuzz(dhcp::tests::seeds(), |packet| {
        if let Some(message) = dhcp::decode(packet) {
            dhcp::tests::read(&message);
        }
    });
}

#[test]
fn no_dhcpv6_answer_harms_the_agent() {
    use dhcp6::tests::{ASSOCIATION, CLIENT, NUMBER, reply};
    let seeds = vec![
        reply(MessageType::Advertise, None),
        reply(MessageType::Reply, None),
        reply(MessageType::Reply, Some(Status::NoAddrsAvail)),
    ];
    fuzz(seeds, |packet| drop(dhcp6::decode(packet, NUMBER, &CLIENT, ASSOCIATION)));
}

#[test]
fn no_lldp_frame_harms_the_agent() {
    let least = lldp::tests::frame(&[(1, b"\x07a"), (2, b"\x07b"), (3, b"\0\x78"), (0, b"")]);
    fuzz(vec![lldp::tests::usual(), least], |frame| drop(lldp::decode(frame)));
}

#[test]
fn no_router_advertisement_harms_the_agent() {
    let servers = ["2001:db8::53".parse().unwrap(), "fe80::1".parse().unwrap()];
    let one = rdnss::tests::message(3, 600, &servers);
    let two = [one.clone(), rdnss::tests::message(4, u32::MAX, &servers[..1])].concat();
    fuzz(vec![one, two], |datagram| drop(rdnss::decode(datagram)));
}
