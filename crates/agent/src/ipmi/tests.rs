#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use ferric_protocol::v1::{BmcAddressSource, InBandBmc, InBandBmcLan, InBandBmcUser};
use ipmi_rs_core::connection::Channel;
use proptest::prelude::*;

use super::commands::{self as ask, Lan, Request};
use super::device::{self, Place};
use super::reading::{ALL, Ask, AskError, ONE, read};

/// A BMC with a table of answers; what is not in it is an invalid command.
struct Fake {
    answers: HashMap<(u8, u8, Vec<u8>), Vec<u8>>,
    /// Requests until it falls silent.
    silent_after: usize,
    /// How long each answer takes.
    takes: Duration,
    /// Answers "node busy" so often to each new request.
    busy: usize,
    asked: Vec<Request>,
    waited: Cell<Duration>,
    begin: Instant,
}

impl Fake {
    fn new() -> Self {
        let mut answers = HashMap::new();
        let mut add = |netfn: u8, command: u8, data: &[u8], answer: &[u8]| {
            answers.insert((netfn, command, data.to_vec()), answer.to_vec());
        };
        add(0x06, 0x01, &[], &[0, 0x20, 0x81, 0x02, 0x43, 0x02, 0xBF, 0x57, 0x01, 0x00, 0x34, 0x12]);
        add(0x06, 0x37, &[], &[&[0][..], &GUID].concat());
        for channel in 1..=0x0B {
            // LAN, serial, LAN again, and no such channel.
            let info: &[u8] = match channel {
                1 => &[0, 1, 0x04, 0x01, 0x81, 0xF2, 0x1B, 0, 0, 0],
                2 => &[0, 2, 0x05, 0x01, 0x40, 0xF2, 0x1B, 0, 0, 0],
                8 => &[0, 8, 0x04, 0x01, 0x80, 0xF2, 0x1B, 0, 0, 0],
                _ => &[0xCC],
            };
            add(0x06, 0x42, &[channel], info);
        }
        add(0x0C, 0x02, &[1, 5, 0, 0], &[0, 0x11, 0x52, 0x54, 0, 0, 0, 0xB1]);
        add(0x0C, 0x02, &[1, 3, 0, 0], &[0, 0x11, 10, 0, 0, 7]);
        add(0x0C, 0x02, &[1, 4, 0, 0], &[0, 0x11, 2]);
        add(0x0C, 0x02, &[1, 20, 0, 0], &[0, 0x11, 0x0C, 0x81]);
        add(0x0C, 0x02, &[1, 55, 0, 0], &[0, 0x11, 2, 1, 0]);
        let address = |bits: u8, last: u8, status: u8| {
            let mut bytes = vec![0, 0x11, 0, bits, 0x20, 0x01, 0x0D, 0xB8];
            bytes.extend([0; 11]);
            bytes.extend([last, 64, status]);
            bytes
        };
        add(0x0C, 0x02, &[1, 56, 0, 0], &address(0x80, 7, 0));
        add(0x0C, 0x02, &[1, 56, 1, 0], &address(0x00, 8, 0));
        add(0x0C, 0x02, &[1, 59, 0, 0], &address(0x01, 9, 1));
        add(0x0C, 0x02, &[8, 5, 0, 0], &[0, 0x11, 0, 0, 0, 0, 0, 0]);
        add(0x0C, 0x02, &[8, 3, 0, 0], &[0, 0x11, 0, 0, 0, 0]);
        add(0x0A, 0x10, &[0], &[0, FRU.len() as u8, 0, 0]);
        for (at, bytes) in FRU.chunks(16).enumerate() {
            // No more than 16 bytes at once.
            add(
                0x0A,
                0x11,
                &[0, at as u8 * 16, 0, bytes.len() as u8],
                &[&[0, bytes.len() as u8], bytes].concat(),
            );
        }
        for (user, enabled, name) in [(1, 0x81, ""), (2, 0x41, "admin"), (3, 0x81, "guest"), (4, 0x01, "")] {
            add(0x06, 0x44, &[1, user], &[0, 4, enabled, 0, 0x14]);
            let mut padded = name.as_bytes().to_vec();
            padded.resize(16, 0);
            add(0x06, 0x46, &[user], &[&[0][..], &padded].concat());
        }
        Self {
            answers,
            silent_after: usize::MAX,
            takes: Duration::ZERO,
            busy: 0,
            asked: Vec::new(),
            waited: Cell::default(),
            begin: Instant::now(),
        }
    }
}

impl Ask for Fake {
    fn ask(&mut self, request: &Request, patience: Duration) -> Result<Vec<u8>, AskError> {
        assert!(patience <= ONE && !patience.is_zero());
        let again = self.asked.iter().rev().take_while(|asked| *asked == request).count();
        self.asked.push(request.clone());
        if self.asked.len() > self.silent_after {
            self.waited.set(self.waited.get() + patience);
            return Err(AskError::Silent(patience));
        }
        self.waited.set(self.waited.get() + self.takes);
        if again < self.busy {
            return Ok(vec![0xC0]);
        }
        let key = (request.netfn, request.command, request.data.clone());
        Ok(self.answers.get(&key).cloned().unwrap_or_else(|| vec![0xC1]))
    }

    fn now(&self) -> Instant {
        self.begin + self.waited.get()
    }

    fn pause(&self, span: Duration) {
        self.waited.set(self.waited.get() + span);
    }
}

const GUID: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// What stands there is of no interest here.
const FRU: [u8; 40] = {
    let mut bytes = [0; 40];
    let mut at = 0;
    while at < 40 {
        bytes[at] = at as u8;
        at += 1;
    }
    bytes
};

fn whole() -> InBandBmc {
    InBandBmc {
        problem: String::new(),
        device_id: vec![0x20, 0x81, 0x02, 0x43, 0x02, 0xBF, 0x57, 0x01, 0x00, 0x34, 0x12],
        system_guid: GUID.to_vec(),
        fru: FRU.to_vec(),
        lans: vec![
            InBandBmcLan {
                channel: 1,
                mac: "52:54:00:00:00:b1".into(),
                address: "10.0.0.7".into(),
                source: BmcAddressSource::Dhcp.into(),
                vlan_id: 0x10C,
                // One is not enabled, and one is not active.
                ipv6_addresses: vec!["2001:db8::7".into()],
            },
            InBandBmcLan { channel: 8, ..InBandBmcLan::default() },
        ],
        users: vec![
            InBandBmcUser { id: 2, name: "admin".into(), enabled: Some(true) },
            InBandBmcUser { id: 3, name: "guest".into(), enabled: Some(false) },
        ],
    }
}

#[test]
fn all_of_it_is_read_and_nothing_is_written() {
    let mut bmc = Fake::new();
    assert_eq!(read(&mut bmc), whole());
    let reads = [
        (0x06, 0x01),
        (0x06, 0x37),
        (0x06, 0x42),
        (0x06, 0x44),
        (0x06, 0x46),
        (0x0A, 0x10),
        (0x0A, 0x11),
        (0x0C, 0x02),
    ];
    for request in &bmc.asked {
        assert!(reads.contains(&(request.netfn, request.command)), "{request:?}");
    }
}

#[test]
fn a_busy_bmc_is_asked_again() {
    let mut bmc = Fake { busy: 2, ..Fake::new() };
    assert_eq!(read(&mut bmc), whole());
    let mut bmc = Fake { busy: 9, ..Fake::new() };
    let found = read(&mut bmc);
    assert_eq!((found.problem.as_str(), bmc.asked.len()), ("the BMC refuses to say what it is", 3));
}

#[test]
fn a_bmc_that_refuses_everything_else_has_no_problem() {
    let mut bmc = Fake::new();
    bmc.answers.retain(|(netfn, command, _), _| (*netfn, *command) == (0x06, 0x01));
    let device_id = whole().device_id;
    assert_eq!(read(&mut bmc), InBandBmc { device_id, ..InBandBmc::default() });
}

#[test]
fn silence_costs_the_rest_and_one_wait() {
    let requests = {
        let mut bmc = Fake::new();
        read(&mut bmc);
        bmc.asked.len()
    };
    for silent_after in 0..requests {
        let mut bmc = Fake { silent_after, ..Fake::new() };
        let found = read(&mut bmc);
        assert!(found.problem.ends_with("no answer within 5 s"), "{silent_after}: {}", found.problem);
        assert_eq!((bmc.waited.get(), bmc.asked.len()), (ONE, silent_after + 1));
        let device_id = if silent_after > 0 { whole().device_id } else { Vec::new() };
        assert_eq!(found.device_id, device_id, "what was read stays");
    }
}

#[test]
fn a_slow_bmc_ends_with_the_time() {
    let mut bmc = Fake { takes: Duration::from_secs(4), ..Fake::new() };
    let found = read(&mut bmc);
    assert!(found.problem.starts_with("asking the BMC takes longer than 25 s"), "{}", found.problem);
    assert!(bmc.waited.get() <= ALL + Duration::from_secs(4));
    assert_eq!((found.system_guid.as_slice(), found.users), (&GUID[..], Vec::new()));
}

#[test]
fn the_kernel_is_handed_its_structures() {
    // The codes that strace(1) shows on machines of 64 bits.
    assert_eq!((device::SEND_COMMAND, device::RECEIVE_MSG_TRUNC), (0x8028_690d, 0xc030_690b));
    assert_eq!(
        device::address()[..],
        [&0x0c_i32.to_ne_bytes()[..], &0xf_i16.to_ne_bytes(), &[0, 0]].concat()
    );
    let request = Lan::Mac.get(Channel::new(1).unwrap());
    assert_eq!((request.netfn, request.command, &*request.data), (0x0C, 0x02, &[1, 5, 0, 0][..]));
    let (address, data) = (Place { at: 0x1000, length: 8 }, Place { at: 0x2000, length: 4 });
    let bytes: Vec<u8> =
        device::request(&request, 7, address, data).iter().flat_map(|word| word.to_ne_bytes()).collect();
    assert_eq!(bytes.len(), 40);
    assert_eq!((&bytes[..8], &bytes[8..12]), (&0x1000_u64.to_ne_bytes()[..], &8_u32.to_ne_bytes()[..]));
    assert_eq!((&bytes[16..24], &bytes[24..26]), (&7_i64.to_ne_bytes()[..], &[0x0C, 0x02][..]));
    assert_eq!((&bytes[26..28], &bytes[32..]), (&4_u16.to_ne_bytes()[..], &0x2000_u64.to_ne_bytes()[..]));
}

#[test]
fn only_the_answer_to_the_request_counts() {
    let request = ask::device_id();
    let received = |kind: i32, number: i64, netfn: u8, command: u8| {
        let mut words = device::receive(Place { at: 1, length: 64 }, Place { at: 2, length: 272 });
        let mut put = |at: usize, new: &[u8]| {
            for (offset, byte) in new.iter().enumerate() {
                let mut bytes = words[(at + offset) / 8].to_ne_bytes();
                bytes[(at + offset) % 8] = *byte;
                words[(at + offset) / 8] = u64::from_ne_bytes(bytes);
            }
        };
        put(0, &kind.to_ne_bytes());
        put(24, &number.to_ne_bytes());
        put(32, &[netfn, command, 12, 0]);
        words
    };
    assert_eq!(
        device::answer_to(3, &request, &received(1, 3, 0x07, 0x01)),
        Some(u16::from_ne_bytes([12, 0]).into())
    );
    // An event, an earlier request's, a request, another command's.
    for (kind, number, netfn, command) in [(2, 3, 7, 1), (1, 2, 7, 1), (1, 3, 6, 1), (1, 3, 7, 2)] {
        assert_eq!(device::answer_to(3, &request, &received(kind, number, netfn, command)), None);
    }
}

#[test]
fn odd_values() {
    assert_eq!(
        (ask::vlan(&[0x11, 0x0C, 0x01]), ask::vlan(&[0x11, 0xFF, 0x8F]), ask::vlan(&[])),
        (0, 4095, 0)
    );
    assert_eq!((ask::ipv4(&[0x11, 0, 0, 0, 0]), ask::ipv4(&[0x11, 10, 0, 0])), (None, None));
    assert_eq!((ask::mac(&[0x11, 0, 0, 0, 0, 0, 0]), ask::mac(&[0x11; 6])), (None, None));
    assert_eq!(ask::source(&[0x11, 9]), BmcAddressSource::Unspecified);
    assert_eq!(ask::name(b"sixteen-letters!too many"), "sixteen-letters!");
    assert_eq!((ask::name(b"a\nb\0c"), ask::name(&[])), ("a b".to_owned(), String::new()));
    let words = ask::fru_area(&[0, 1, 1]).unwrap();
    assert_eq!(ask::fru_read(words, 32, 16).unwrap().data, [0, 16, 0, 8]);
    assert_eq!(ask::fru_part(words, &[2, 1, 2, 3, 4, 5]), [1, 2, 3, 4]);
}

proptest! {
    #[test]
    fn nothing_that_is_answered_harms(data: Vec<u8>) {
        let _ = (ask::is_lan(&data), ask::ipv4(&data), ask::source(&data), ask::mac(&data), ask::vlan(&data));
        let _ = (ask::ipv6_counts(&data), ask::access(&data), ask::name(&data), ask::fru_area(&data));
        for which in [Lan::Ipv6Static(0), Lan::Ipv6Dynamic(0)] {
            let _ = ask::ipv6(which, &data);
        }
        if let Some(area) = ask::fru_area(&data) {
            let _ = ask::fru_part(area, &data);
        }
    }

    /// Whatever a BMC says, reading it ends, within the time, and with no more than is kept of it.
    #[test]
    fn whatever_is_answered_is_bounded(
        answers in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..24), 1..12),
    ) {
        struct Odd(Vec<Vec<u8>>, usize);
        impl Ask for Odd {
            fn ask(&mut self, _: &Request, _: Duration) -> Result<Vec<u8>, AskError> {
                self.1 += 1;
                let mut answer = self.0[self.1 % self.0.len()].clone();
                if let Some(code) = answer.first_mut() && !self.1.is_multiple_of(3) {
                    *code = 0;
                }
                Ok(answer)
            }
            fn pause(&self, _: Duration) {}
        }
        let mut odd = Odd(answers, 0);
        let found = read(&mut odd);
        prop_assert!(found.lans.len() <= 4 && found.users.len() <= 63 && found.fru.len() <= 2048);
        prop_assert!(odd.1 < 2000, "{} requests", odd.1);
    }
}
