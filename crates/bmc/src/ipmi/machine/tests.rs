//! The state machine against a BMC for tests, over a network that is a list of datagrams, on a clock that is a variable.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ipmi::keys::UserKey;
use crate::ipmi::suite::Suite;
use crate::ipmi::testing::{Dice, FakeBmc};

fn config() -> Config {
    Config {
        username: b"admin".to_vec(),
        user: UserKey::new(b"secret").unwrap(),
        suites: Suite::DEFAULT.to_vec(),
        privilege: Privilege::Operator,
        timing: Timing::default(),
    }
}

fn machine(config: Config) -> Machine {
    Machine::new(config, Box::new(Dice(5)))
}

fn read_power() -> Request {
    Request { netfn: 0, command: 1, data: vec![], privilege: Privilege::User, repeat: Repeat::Freely }
}

fn control(what: u8, repeat: Repeat) -> Request {
    Request { netfn: 0, command: 2, data: vec![what], privilege: Privilege::Operator, repeat }
}

/// What happens to a datagram on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    Lost,
    Twice,
    Late,
    Damaged(usize),
}

struct Bench {
    machine: Machine,
    bmc: FakeBmc,
    now: Instant,
    /// Answers that come later than what is asked next.
    late: Vec<Vec<u8>>,
    results: Vec<(u64, Result<Answer, Failure>)>,
    sent: usize,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self {
            machine: machine(config),
            bmc: FakeBmc::default(),
            now: Instant::now(),
            late: Vec::new(),
            results: Vec::new(),
            sent: 0,
        }
    }

    fn submit(&mut self, id: u64, request: Request) {
        self.machine.submit(id, request, self.now);
    }

    /// Until nothing moves: datagrams both ways, then the clock.
    fn run(&mut self, mut fate: impl FnMut() -> (Fate, Fate)) {
        for _ in 0..10_000 {
            if let Some(datagram) = self.machine.next_datagram() {
                self.sent += 1;
                assert!(self.sent < 5_000, "it never ends");
                let (there, back) = fate();
                self.deliver(&datagram, there, back);
            } else if let Some(result) = self.machine.next_result() {
                self.results.push(result);
            } else if let Some(at) = self.machine.deadline() {
                self.now = self.now.max(at);
                for late in std::mem::take(&mut self.late) {
                    self.machine.receive(&late, self.now);
                }
                self.machine.tick(self.now);
            } else {
                return;
            }
        }
        panic!("it never ends");
    }

    fn deliver(&mut self, datagram: &[u8], there: Fate, back: Fate) {
        let mut datagram = datagram.to_vec();
        let times = match there {
            Fate::Lost => 0,
            Fate::Twice => 2,
            Fate::Damaged(at) => {
                let at = at % datagram.len();
                datagram[at] ^= 0x20;
                1
            }
            Fate::Arrives | Fate::Late => 1,
        };
        for _ in 0..times {
            let Some(mut answer) = self.bmc.handle(&datagram) else { continue };
            match back {
                Fate::Arrives => self.machine.receive(&answer, self.now),
                Fate::Lost => {}
                Fate::Twice => (0..2).for_each(|_| self.machine.receive(&answer, self.now)),
                Fate::Late => self.late.push(answer),
                Fate::Damaged(at) => {
                    let at = at % answer.len();
                    answer[at] ^= 0x20;
                    self.machine.receive(&answer, self.now);
                }
            }
        }
    }

    fn well(&mut self) {
        self.run(|| (Fate::Arrives, Fate::Arrives));
    }

    fn only(&mut self) -> Result<Answer, Failure> {
        assert_eq!(self.results.len(), 1, "{:?}", self.results);
        self.results.remove(0).1
    }
}

#[test]
fn a_whole_conversation_in_every_suite() {
    for suite in Suite::ALL {
        let mut bench = Bench::new(Config { suites: vec![suite], ..config() });
        bench.bmc.suites = vec![suite];
        bench.submit(1, read_power());
        bench.submit(2, control(1, Repeat::Never));
        bench.submit(3, read_power());
        bench.well();
        let codes: Vec<_> = bench.results.iter().map(|(id, result)| (*id, result.clone().unwrap())).collect();
        assert_eq!(codes[0].1, Answer { code: 0, data: vec![0, 0, 0] });
        assert_eq!((codes[1].0, codes[1].1.code), (2, 0));
        assert_eq!(codes[2].1.data[0], 1, "{suite:?}");
        assert_eq!(bench.bmc.count(6, 0x3B), 1, "raised once, for the second command only");
        bench.machine.close(bench.now);
        bench.well();
        assert!(bench.machine.is_closed());
        assert_eq!((bench.bmc.sessions(), bench.machine.logins()), (0, 1));
    }
}

#[test]
fn the_best_common_suite_is_taken_also_without_a_list() {
    for (lists, has, taken) in [
        (true, vec![Suite::Sha1, Suite::Sha256], Some(Suite::Sha256)),
        (true, vec![Suite::Sha1], Some(Suite::Sha1)),
        (true, vec![Suite::Sha1Clear], None),
        (false, vec![Suite::Sha1], Some(Suite::Sha1)),
        (false, vec![Suite::Sha256, Suite::Sha1], Some(Suite::Sha256)),
        (false, vec![Suite::Sha256Clear], None),
    ] {
        let mut bench = Bench::new(config());
        (bench.bmc.lists_suites, bench.bmc.suites) = (lists, has);
        bench.submit(1, read_power());
        bench.well();
        let result = bench.only();
        match (taken, &bench.machine.state) {
            (Some(suite), State::Up(session)) => assert_eq!(session.keys.suite(), suite),
            (None, State::Out) => assert!(matches!(result, Err(Failure::NoSuite { .. })), "{result:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn refusals_are_told_apart() {
    let with = |username: &[u8], password: &[u8], privilege| Config {
        username: username.to_vec(),
        user: UserKey::new(password).unwrap(),
        privilege,
        ..config()
    };
    let operator = Privilege::Operator;
    let wrong = Failure::Credentials { message: "the password is wrong" };
    let nobody = Failure::Credentials { message: "it knows no such user" };
    let denied = Failure::Privilege { wanted: Privilege::Administrator, by_address: false };
    for (config, expected) in [
        (with(b"admin", b"Secret", operator), wrong),
        (with(b"nobody", b"secret", operator), nobody),
        (with(b"operator", b"secret", Privilege::Administrator), denied),
    ] {
        let mut bench = Bench::new(config);
        bench.submit(1, read_power());
        bench.submit(2, read_power());
        bench.well();
        let results: Vec<_> = bench.results.iter().map(|it| it.1.clone().unwrap_err()).collect();
        assert_eq!(results, [expected.clone(), expected]);
        assert_eq!(bench.bmc.sessions(), 0, "no slot is left taken");
    }
    let mut bench = Bench::new(with(b"admin", b"secret", Privilege::User));
    bench.submit(1, control(1, Repeat::Never));
    bench.well();
    assert_eq!(bench.only(), Err(Failure::Privilege { wanted: operator, by_address: true }));
    assert_eq!(bench.sent, 0);

    let mut bench = Bench::new(config());
    bench.bmc.slots = 0;
    bench.submit(1, read_power());
    bench.well();
    assert_eq!(bench.only(), Err(Failure::SlotsFull));

    let mut bench = Bench::new(config());
    bench.bmc.speaks_v2 = false;
    bench.submit(1, read_power());
    bench.well();
    assert_eq!(bench.only(), Err(Failure::OldVersion));
}

#[test]
fn silence_ends_in_ten_seconds() {
    let mut bench = Bench::new(config());
    let began = bench.now;
    bench.submit(1, read_power());
    bench.run(|| (Fate::Lost, Fate::Lost));
    assert_eq!(bench.only(), Err(Failure::Silent { after: Duration::from_secs(10), pong: false }));
    assert_eq!((bench.now - began, bench.sent), (Duration::from_secs(10), 4 + 3), "questions and pings");

    bench.submit(1, read_power());
    let pong = [6, 0, 0xFF, 6, 0, 0, 0x11, 0xBE, 0x40, PING_TAG, 0, 16, 0, 0, 0x11, 0xBE, 0, 0, 0, 0, 0x81];
    bench.machine.receive(&[&pong[..], &[0; 7]].concat(), bench.now);
    bench.run(|| (Fate::Lost, Fate::Lost));
    assert_eq!(bench.only(), Err(Failure::Silent { after: Duration::from_secs(10), pong: true }));
}

#[test]
fn where_nobody_listens_it_is_not_asked_for_long() {
    let mut bench = Bench::new(config());
    bench.submit(1, read_power());
    bench.machine.next_datagram().unwrap();
    bench.machine.unheard(bench.now);
    assert!(bench.machine.next_result().is_none());
    bench.machine.unheard(bench.now);
    assert!(matches!(bench.machine.next_result(), Some((1, Err(Failure::Silent { .. })))));
    assert!(bench.machine.is_idle());
}

/// The fault that made a library report the power of the last question but one.
#[test]
fn a_late_answer_is_not_the_answer_to_the_next_question() {
    let mut bench = Bench::new(config());
    bench.submit(1, read_power());
    bench.well();
    bench.results.clear();
    // "Off" is asked for and comes late; the power changes; then it is asked for again.
    bench.submit(2, read_power());
    let question = bench.machine.next_datagram().unwrap();
    let late = bench.bmc.handle(&question).unwrap();
    bench.bmc.power = true;
    bench.run(|| (Fate::Lost, Fate::Lost));
    assert!(matches!(bench.results[0], (2, Err(Failure::Silent { .. } | Failure::NoAnswer { .. }))));
    bench.results.clear();
    bench.submit(3, read_power());
    bench.machine.receive(&late, bench.now);
    assert!(bench.machine.next_result().is_none());
    bench.well();
    assert_eq!(bench.only().unwrap().data[0], 1);

    // The same within one session.
    bench.submit(4, read_power());
    let question = bench.machine.next_datagram().unwrap();
    let answer = bench.bmc.handle(&question).unwrap();
    bench.machine.receive(&answer, bench.now);
    bench.bmc.power = false;
    bench.submit(5, read_power());
    bench.machine.receive(&answer, bench.now);
    bench.well();
    let powers: Vec<_> = bench.results.iter().map(|it| it.1.clone().unwrap().data[0]).collect();
    assert_eq!(powers, [1, 0]);
}

#[test]
fn what_must_not_be_done_twice_is_sent_once() {
    let mut bench = Bench::new(config());
    bench.submit(1, read_power());
    bench.well();
    bench.results.clear();
    bench.submit(2, control(3, Repeat::Never));
    let mut number = 0;
    bench.run(|| {
        number += 1;
        // The privilege first; then the answer to the reset is lost.
        if number == 1 { (Fate::Arrives, Fate::Arrives) } else { (Fate::Arrives, Fate::Lost) }
    });
    assert_eq!(bench.only(), Err(Failure::Unconfirmed { after: Duration::from_secs(10) }));
    assert_eq!(bench.bmc.count(0, 2), 1);

    // A busy BMC did nothing: it is asked again.
    let mut bench = Bench::new(config());
    bench.submit(1, control(0, Repeat::Freely));
    bench.well();
    bench.results.clear();
    bench.bmc.next_codes = vec![0xC0, 0xC0];
    bench.submit(2, control(3, Repeat::Never));
    bench.well();
    assert_eq!(bench.only().unwrap().code, 0);
    assert_eq!(bench.bmc.count(0, 2), 2);
}

#[test]
fn a_session_that_is_gone_is_made_anew() {
    let mut bench = Bench::new(config());
    bench.submit(1, read_power());
    bench.well();
    bench.bmc.restart();
    bench.bmc.power = true;
    bench.submit(2, read_power());
    bench.well();
    assert_eq!(bench.results[1].1.clone().unwrap().data[0], 1);
    assert_eq!((bench.machine.logins(), bench.bmc.sessions()), (2, 1));

    // One that was silent for long is not even tried.
    bench.now += Duration::from_secs(51);
    let sent = bench.sent;
    bench.submit(3, read_power());
    bench.well();
    assert!(bench.results[2].1.is_ok());
    assert_eq!((bench.machine.logins(), bench.sent - sent), (3, 4), "open, RAKP 1, RAKP 3, question");
}

#[test]
fn no_secret_is_printed() {
    let mut bench = Bench::new(Config { user: UserKey::new(b"hunter2").unwrap(), ..config() });
    bench.submit(1, read_power());
    bench.well();
    for text in [format!("{:?}", bench.machine), format!("{:?}", bench.machine.config)] {
        assert!(!text.contains("hunter2") && !text.contains("[104, 117, 110"), "{text}");
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Arrives),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Twice),
        1 => Just(Fate::Late),
        1 => (0_usize..200).prop_map(Fate::Damaged),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Whatever the network does: each question gets one result, an answer is the true one, nothing that must be done
    /// once is done twice, and it ends.
    #[test]
    fn a_bad_network(fates in prop::collection::vec((fate(), fate()), 1..60), dice in 1_u64..) {
        let mut bench = Bench::new(config());
        bench.machine = Machine::new(config(), Box::new(Dice(dice)));
        bench.bmc.slots = 1000;
        let mut fates = fates.into_iter();
        for round in 0..4_u64 {
            // Only this command changes the power, so an answer of another round shows.
            let on = round % 2 == 0;
            bench.bmc.power = on;
            bench.submit(2 * round, read_power());
            bench.run(|| fates.next().unwrap_or((Fate::Arrives, Fate::Arrives)));
            let (id, result) = bench.results.pop().unwrap();
            prop_assert_eq!((id, bench.results.len()), (2 * round, 0));
            if let Ok(answer) = result {
                prop_assert_eq!(answer.data[0] & 1 != 0, on);
            }
            // Identify stands for what must be done once.
            let before = bench.bmc.count(0, 4);
            let identify = Request { command: 4, privilege: Privilege::Operator, repeat: Repeat::Never, ..read_power() };
            bench.submit(2 * round + 1, identify);
            // A network that doubles datagrams on the way there may do it twice; not we.
            bench.run(|| match fates.next() {
                Some((Fate::Twice, back)) => (Fate::Arrives, back),
                other => other.unwrap_or((Fate::Arrives, Fate::Arrives)),
            });
            prop_assert!(bench.bmc.count(0, 4) - before <= 1);
            let (id, result) = bench.results.pop().unwrap();
            prop_assert_eq!((id, bench.results.len()), (2 * round + 1, 0));
            if result.is_ok() {
                prop_assert_eq!(bench.bmc.count(0, 4) - before, 1);
            }
        }
    }

    /// Garbage at any moment of a conversation changes nothing.
    #[test]
    fn garbage_in_between(noise in prop::collection::vec(any::<u8>(), 0..120), kind in 0..4_u8) {
        let mut noise = noise;
        let head: &[u8] = match kind {
            0 => &[],
            1 => &[6, 0, 0xFF, 7],
            2 => &[6, 0, 0xFF, 7, 6, 0xC0],
            _ => &[6, 0, 0xFF, 7, 6, 0x13, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        noise.splice(0..0, head.iter().copied());
        let mut bench = Bench::new(config());
        bench.submit(1, control(1, Repeat::Never));
        let mut steps = 0;
        while let Some(datagram) = bench.machine.next_datagram() {
            bench.machine.receive(&noise, bench.now);
            let answer = bench.bmc.handle(&datagram).unwrap();
            bench.machine.receive(&answer, bench.now);
            bench.machine.receive(&noise, bench.now);
            steps += 1;
            prop_assert!(steps < 50);
        }
        prop_assert_eq!(bench.machine.next_result().unwrap().1.unwrap().code, 0);
        prop_assert_eq!(bench.bmc.count(0, 2), 1);
    }
}
