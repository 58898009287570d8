#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use proptest::prelude::*;
use rstest::rstest;

use super::*;

const TIMING: Timing = Timing {
    lease_duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry_period: Duration::from_secs(2),
};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn lease(version: u32, holder: Option<&str>) -> Observed {
    Observed {
        version: version.to_string(),
        holder: holder.map(str::to_owned),
        address: None,
        duration: s(15),
        transitions: 4,
    }
}

fn take(version: u32, transitions: i32) -> LeaseStep {
    LeaseStep::Take { version: version.to_string(), transitions }
}

/// A candidate "a" that read `seen` at second 100.
fn standby(seen: Option<Observed>) -> Candidate {
    let mut candidate = Candidate::new("a", TIMING);
    candidate.was_read(seen, s(100));
    candidate
}

/// A candidate "a" that leads since second 100 with version 7.
fn leader() -> Candidate {
    let mut candidate = standby(None);
    candidate.was_written(lease(7, Some("a")), s(100), s(100));
    candidate
}

#[test]
fn a_newcomer_reads_first() {
    assert_eq!(Candidate::new("a", TIMING).decide(s(0)), LeaseStep::Read);
}

#[rstest]
#[case::nobody_ever(None, 100, LeaseStep::Create)]
#[case::released(Some(lease(7, None)), 100, take(7, 5))]
#[case::held_by_another(Some(lease(7, Some("b"))), 100, LeaseStep::Wait { until: s(102) })]
#[case::time_to_look_again(Some(lease(7, Some("b"))), 102, LeaseStep::Read)]
#[case::our_write_without_an_answer(Some(lease(7, Some("a"))), 100, take(7, 4))]
fn standby_steps(#[case] seen: Option<Observed>, #[case] now: u64, #[case] expected: LeaseStep) {
    assert_eq!(standby(seen).decide(s(now)), expected);
}

#[rstest]
#[case::too_early(7, 114, LeaseStep::Wait { until: s(116) })]
#[case::run_out(7, 115, take(7, 5))]
#[case::renewed_meanwhile(8, 115, LeaseStep::Wait { until: s(117) })]
fn a_lease_runs_out_by_our_own_clock(#[case] version: u32, #[case] now: u64, #[case] expected: LeaseStep) {
    let mut candidate = standby(Some(lease(7, Some("b"))));
    candidate.was_read(Some(lease(version, Some("b"))), s(now));
    assert_eq!(candidate.decide(s(now)), expected);
}

#[test]
fn the_holders_own_duration_is_respected_within_reason() {
    let mut patient = lease(7, Some("b"));
    patient.duration = s(60);
    let mut candidate = standby(Some(patient.clone()));
    candidate.was_read(Some(patient.clone()), s(159));
    assert_eq!(candidate.decide(s(159)), LeaseStep::Wait { until: s(161) });
    candidate.was_read(Some(patient.clone()), s(160));
    assert_eq!(candidate.decide(s(160)), take(7, 5));
    patient.duration = s(1_000_000);
    let mut candidate = standby(Some(patient.clone()));
    candidate.was_read(Some(patient), s(100 + 3600));
    assert_eq!(candidate.decide(s(100 + 3600)), take(7, 5));
}

#[rstest]
#[case::rest(101, LeaseStep::Wait { until: s(102) })]
#[case::renew(102, LeaseStep::Renew { version: "7".into(), transitions: 4 })]
#[case::late_but_in_time(109, LeaseStep::Renew { version: "7".into(), transitions: 4 })]
#[case::too_late(110, LeaseStep::Lost { why: "the lease could not be renewed for 10 s".into() })]
fn leader_steps(#[case] now: u64, #[case] expected: LeaseStep) {
    assert_eq!(leader().decide(s(now)), expected);
    assert_eq!(leader().may_act(s(now)), now < 110);
}

#[test]
fn a_leader_that_was_refused_looks_who_holds_the_lease() {
    let mut candidate = leader();
    candidate.was_refused();
    assert_eq!(candidate.decide(s(101)), LeaseStep::Read);
    // Somebody annotated it: still ours, under a new version.
    candidate.was_read(Some(lease(8, Some("a"))), s(101));
    assert_eq!(candidate.decide(s(102)), LeaseStep::Renew { version: "8".into(), transitions: 4 });
    candidate.was_read(Some(lease(9, Some("b"))), s(102));
    assert!(!candidate.may_act(s(102)));
    assert_eq!(candidate.decide(s(102)), LeaseStep::Lost { why: "the lease is held by b".into() });
    candidate.was_read(None, s(102));
    assert_eq!(candidate.decide(s(102)), LeaseStep::Lost { why: "the lease was deleted".into() });
}

#[test]
fn a_failed_call_pauses_but_never_past_the_deadline() {
    let mut candidate = leader();
    candidate.has_failed(s(109), s(0));
    assert_eq!(candidate.decide(s(109)), LeaseStep::Wait { until: s(110) });
    assert_eq!(candidate.patience(s(109)), s(1));
    assert_eq!(candidate.patience(s(101)), s(5));
}

#[test]
fn a_term_counts_from_when_the_write_was_sent() {
    let mut candidate = standby(None);
    candidate.was_written(lease(7, Some("a")), s(101), s(105));
    assert_eq!(candidate.acts_until(), Some(s(111)));
    candidate.was_written(lease(8, Some("a")), s(107), s(110));
    assert_eq!(candidate.acts_until(), Some(s(117)));
}

#[test]
fn an_answer_after_the_deadline_revives_nobody() {
    let mut candidate = leader();
    candidate.was_written(lease(8, Some("a")), s(109), s(111));
    assert!(!candidate.may_act(s(111)));
    assert!(matches!(candidate.decide(s(111)), LeaseStep::Lost { .. }));
}

#[test]
fn a_dead_leader_is_followed_within_the_lease_duration_and_a_retry() {
    let mut candidate = Candidate::new("a", TIMING);
    let mut now = s(50);
    while now <= s(50) + TIMING.lease_duration + TIMING.retry_period {
        match candidate.decide(now) {
            LeaseStep::Read => candidate.was_read(Some(lease(7, Some("dead"))), now),
            LeaseStep::Wait { until } => now = until,
            step => {
                assert_eq!(step, take(7, 5));
                return;
            }
        }
    }
    panic!("nobody took over");
}

/// A write on its way to the API server.
#[derive(Debug, Clone)]
struct Request {
    replaces: Option<String>,
    holder: String,
    sent_at: Moment,
}

/// What the API server said to a call.
enum Answer {
    Read(Option<Observed>),
    Written(Observed, Moment),
    Refused,
}

/// One simulated process: a clock of its own rate and offset, at most one call that it waits for, and calls whose
/// answers it no longer waits for but which may still arrive at the API server.
struct Process {
    candidate: Candidate,
    name: String,
    rate: f64,
    offset: Duration,
    calls: VecDeque<Request>,
    reading: bool,
    answer: Option<Answer>,
    lost: bool,
}

impl Process {
    fn new(name: String, rate: f64, offset: Duration) -> Self {
        let candidate = Candidate::new(name.clone(), TIMING);
        let calls = VecDeque::new();
        Self { candidate, name, rate, offset, calls, reading: false, answer: None, lost: false }
    }

    fn now(&self, real: Duration) -> Moment {
        self.offset + real.mul_f64(self.rate)
    }

    fn acts(&self, real: Duration) -> bool {
        !self.lost && self.candidate.may_act(self.now(real))
    }

    fn waits_for_call(&self) -> bool {
        self.reading || self.answer.is_some() || !self.calls.is_empty()
    }
}

#[derive(Debug, Clone)]
enum Happening {
    /// Time passes.
    Pass(u64),
    /// A process decides, its call is carried out and answered, all at once.
    Cycle(usize),
    /// A process that waits for nothing decides, and sends what it decided.
    Decide(usize),
    /// The API server carries out the oldest call of a process.
    Serve(usize),
    /// The answer arrives.
    Answer(usize),
    /// The process stops waiting; the call is still on its way.
    GiveUp(usize),
    /// The process dies and comes back under a new name.
    Restart(usize),
    /// Somebody edits the lease.
    Edit,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        60 => (1u64..3000).prop_map(Happening::Pass),
        60 => (0usize..2).prop_map(Happening::Cycle),
        10 => (0usize..2).prop_map(Happening::Decide),
        10 => (0usize..2).prop_map(Happening::Serve),
        8 => (0usize..2).prop_map(Happening::Answer),
        1 => (0usize..2).prop_map(Happening::GiveUp),
        1 => (0usize..2).prop_map(Happening::Restart),
        1 => Just(Happening::Edit),
    ]
}

struct World {
    real: Duration,
    stored: Option<Observed>,
    version: u32,
    processes: Vec<Process>,
    names: u32,
    terms: u32,
}

impl World {
    fn new(rates: [f64; 2], offsets: [u64; 2]) -> Self {
        let processes = (0..2).map(|i| Process::new(format!("p{i}"), rates[i], s(offsets[i]))).collect();
        Self { real: Duration::ZERO, stored: None, version: 0, processes, names: 2, terms: 0 }
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Pass(millis) => self.real += Duration::from_millis(millis),
            Happening::Cycle(i) => {
                self.decide(i);
                self.serve(i);
                self.answer(i);
            }
            Happening::Decide(i) => self.decide(i),
            Happening::Serve(i) => self.serve(i),
            Happening::Answer(i) => self.answer(i),
            Happening::GiveUp(i) => {
                let process = &mut self.processes[i];
                let now = process.now(self.real);
                process.reading = false;
                process.answer = None;
                process.candidate.has_failed(now, Duration::ZERO);
            }
            Happening::Restart(i) => {
                let old = &self.processes[i];
                let mut fresh = Process::new(format!("p{}", self.names), old.rate, old.offset);
                // What the dead process had sent is still on its way.
                fresh.calls.clone_from(&old.calls);
                self.names += 1;
                self.processes[i] = fresh;
            }
            Happening::Edit => {
                if let Some(lease) = &mut self.stored {
                    self.version += 1;
                    lease.version = self.version.to_string();
                }
            }
        }
    }

    fn decide(&mut self, i: usize) {
        let real = self.real;
        let process = &mut self.processes[i];
        if process.lost || process.reading || process.answer.is_some() {
            return;
        }
        let now = process.now(real);
        let request = |replaces| Request { replaces, holder: process.name.clone(), sent_at: now };
        match process.candidate.decide(now) {
            LeaseStep::Read => process.reading = true,
            LeaseStep::Create => process.calls.push_back(request(None)),
            LeaseStep::Take { version, .. } | LeaseStep::Renew { version, .. } => {
                process.calls.push_back(request(Some(version)));
            }
            LeaseStep::Wait { .. } => {}
            LeaseStep::Lost { .. } => process.lost = true,
        }
    }

    fn serve(&mut self, i: usize) {
        let process = &mut self.processes[i];
        if process.reading {
            process.answer = Some(Answer::Read(self.stored.clone()));
            process.reading = false;
            return;
        }
        let Some(request) = process.calls.pop_front() else { return };
        let fits = request.replaces == self.stored.as_ref().map(|l| l.version.clone());
        let ours = request.holder == process.name;
        if fits {
            self.version += 1;
            let new = lease(self.version, Some(&request.holder));
            if self.stored.as_ref().and_then(|l| l.holder.clone()) != new.holder {
                self.terms += 1;
            }
            self.stored = Some(new);
        }
        // Only the call that the living process waits for has an answer that anybody hears.
        if ours && process.calls.is_empty() && process.answer.is_none() {
            process.answer = Some(match &self.stored {
                Some(lease) if fits => Answer::Written(lease.clone(), request.sent_at),
                _ => Answer::Refused,
            });
        }
    }

    fn answer(&mut self, i: usize) {
        let process = &mut self.processes[i];
        let now = process.now(self.real);
        match process.answer.take() {
            Some(Answer::Read(seen)) => process.candidate.was_read(seen, now),
            Some(Answer::Written(lease, sent_at)) => process.candidate.was_written(lease, sent_at, now),
            Some(Answer::Refused) => process.candidate.was_refused(),
            None => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever is delayed, lost or restarted, and however the clocks differ (by less than 15/10), two never lead.
    #[test]
    fn two_never_lead(
        happenings in prop::collection::vec(happening(), 1..400),
        rates in [0.85f64..1.15, 0.85f64..1.15],
        offsets in [0u64..100_000, 0u64..100_000],
    ) {
        let mut world = World::new(rates, offsets);
        for happening in &happenings {
            world.happen(happening);
            let acting = world.processes.iter().filter(|p| p.acts(world.real)).count();
            prop_assert!(acting <= 1, "two lead at {:?} after {:?}", world.real, happening);
        }
    }
}

/// The simulation is worth something only if leaders do come and go in it.
#[test]
fn the_simulation_elects() {
    let mut world = World::new([1.0, 1.1], [5, 90_000]);
    let mut acted = [false; 2];
    for round in 0..4000 {
        for (i, acted) in acted.iter_mut().enumerate() {
            // Process 0 dies after a while; process 1 must follow.
            if i == 1 || round < 1000 {
                world.happen(&Happening::Cycle(i));
            }
            *acted |= world.processes[i].acts(world.real);
        }
        world.happen(&Happening::Pass(50));
    }
    assert_eq!(acted, [true, true]);
    assert_eq!(world.terms, 2);
    assert!(!world.processes[1].waits_for_call());
}

#[test]
fn a_lease_is_read_leniently() {
    let empty = Lease::default();
    assert_eq!(observed(&empty).holder, None);
    let spec = LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(-4),
        ..LeaseSpec::default()
    };
    let odd = observed(&Lease { spec: Some(spec), ..Lease::default() });
    assert_eq!((odd.holder, odd.duration), (None, Duration::ZERO));
}

#[test]
fn identities_are_unique() {
    assert_ne!(unique_identity(), unique_identity());
}
