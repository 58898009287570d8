//! The fault table: every way in which a BMC fails, in every phase of a host's life, on the model's clock. Each time the
//! host says what is wrong for as long as it is wrong, ends as a host without a fault does, and nothing is done twice.
//!
//! Which reason which fault of a BMC comes to is the driver's part, and shown on its own; here the words only have to be
//! passed on.

use super::*;

/// How jobs on a BMC end while something is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// With this reason, and nothing was done.
    Refuses(&'static str),
    /// Changes are done, and their answers lost.
    DoneButLost,
    /// Changes of power are accepted, and nothing happens.
    Stuck,
    /// The power is said to be what it was when the fault began.
    Lies,
    /// What is said of the power is minutes old.
    Lags,
    /// The power is not said.
    Silent,
    /// What the next boot starts from is accepted, and forgotten when the server starts; or the medium is.
    ForgetsBoot,
}

/// All that the driver can say, but what is about the address, which does not come and go.
const FAULTS: [Fault; 17] = [
    Fault::Refuses("BMCUnreachable"),
    Fault::Refuses("BMCTimeout"),
    Fault::Refuses("BMCUnauthorized"),
    Fault::Refuses("BMCCertificateRejected"),
    Fault::Refuses("BMCNotSupported"),
    Fault::Refuses("BMCUnexpectedAnswer"),
    Fault::Refuses("BMCBusy"),
    Fault::Refuses("BMCCommandRefused"),
    Fault::Refuses("BMCTaskFailed"),
    Fault::Refuses("BMCMalformedAnswer"),
    Fault::Refuses("BMCCircuitOpen"),
    Fault::DoneButLost,
    Fault::Stuck,
    Fault::Lies,
    Fault::Lags,
    Fault::Silent,
    Fault::ForgetsBoot,
];

/// When the fault begins: before the first action of the phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Enrol,
    Inspect,
    Boot,
    PowerOn,
    PowerOff,
    Clean,
    Deploy,
    Delete,
}

const PHASES: [Phase; 8] = [
    Phase::Enrol,
    Phase::Inspect,
    Phase::Boot,
    Phase::PowerOn,
    Phase::PowerOff,
    Phase::Clean,
    Phase::Deploy,
    Phase::Delete,
];

impl Phase {
    fn begins(self, world: &World, action: &Action) -> bool {
        match (self, action) {
            (Self::Enrol, Action::Job { job: Job::Probe, .. })
            | (Self::Inspect, Action::Job { job: Job::Inspect, .. })
            | (Self::Boot, Action::Job { job: Job::BootAgent(_), .. })
            | (Self::PowerOn, Action::Job { job: Job::Power(PowerAction::On), .. })
            | (Self::PowerOff, Action::Job { job: Job::Power(PowerAction::ForceOff), .. })
            | (Self::Clean, Action::Task(AgentTask::Clean { .. }))
            | (Self::Deploy, Action::Task(AgentTask::Deploy { .. })) => true,
            (Self::Delete, _) => world.host.metadata.deletion_timestamp.is_some(),
            _ => false,
        }
    }
}

/// How long the fault lasts: longer than an agent boot is waited for, and than the longest pause between two tries.
const LASTS: Duration = Duration::from_secs(40 * 60);
/// How far a BMC that lags is behind: more than a change of power is waited for.
const BEHIND: Duration = Duration::from_secs(200);
/// How long nothing is asked of a host in between.
const REST: Duration = Duration::from_secs(3600);
/// How long a change of power is waited for, as the controller does.
const CONFIRMED: Duration = Duration::from_secs(120);

/// What was done to a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Deeds {
    writes: u32,
    cleanings: u32,
    on: u32,
    off: u32,
}

/// A life with a fault in it.
struct Life {
    world: World,
    fault: Fault,
    phase: Option<Phase>,
    /// From when to when there is the fault.
    since: Option<Timestamp>,
    /// What the power was then.
    power_then: PowerState,
    /// What the power was, newest last.
    powers: Vec<(Timestamp, PowerState)>,
    deeds: Deeds,
    /// The reasons that were told while there was the fault.
    told: Vec<String>,
    /// A job has failed, and none has gone well since.
    failing: bool,
}

impl Life {
    fn new(fault: Fault, phase: Option<Phase>) -> Self {
        let mut world = World::new();
        world.host.metadata.finalizers = Some(vec![names::HOST_FINALIZER.to_owned()]);
        let powers = vec![(world.now, PowerState::Off)];
        let (deeds, told) = (Deeds::default(), Vec::new());
        let power_then = PowerState::Off;
        Self { world, fault, phase, since: None, power_then, powers, deeds, told, failing: false }
    }

    fn faulty(&self) -> bool {
        self.since.is_some_and(|since| self.world.now < after(since, LASTS))
    }

    /// What the BMC says of the power.
    fn said(&self) -> PowerState {
        let as_of = |at: Timestamp| self.powers.iter().rev().find(|(since, _)| *since <= at).map(|(_, p)| *p);
        match self.fault {
            _ if !self.faulty() => self.world.power(),
            Fault::Silent => PowerState::Unknown,
            Fault::Lies => self.power_then,
            Fault::Lags => as_of(self.world.now - BEHIND).unwrap_or(PowerState::Off),
            _ => self.world.power(),
        }
    }

    /// Really does it.
    fn really(&mut self, job: &Job) -> JobOutcome {
        if *job == Job::Power(PowerAction::On) && self.fault == Fault::ForgetsBoot && self.faulty() {
            self.world.next_boot = None;
        }
        let before = self.world.power();
        let outcome = self.world.job(job);
        let now = self.world.power();
        if before != now {
            self.powers.push((self.world.now, now));
            match now {
                PowerState::On => self.deeds.on += 1,
                _ => self.deeds.off += 1,
            }
        }
        outcome
    }

    fn job(&mut self, job: &Job) -> JobOutcome {
        let failed = |reason: &str| JobOutcome::Failed {
            reason: reason.to_owned(),
            message: "what is wrong".to_owned(),
            not_before: None,
        };
        let says = self.fault;
        match (says, job) {
            (_, Job::ReadNetwork) => self.really(job),
            (Fault::Refuses(reason), _) if self.faulty() => failed(reason),
            (Fault::DoneButLost, job) if self.faulty() => {
                if job.changes_something() {
                    self.really(job);
                }
                failed("BMCTimeout")
            }
            (_, Job::Power(action)) => {
                let aim = crate::host::job::aim(*action);
                // The driver asks for nothing that is said to be so.
                let asked = self.said() != aim;
                if asked && !(self.fault == Fault::Stuck && self.faulty()) {
                    self.really(job);
                }
                let deadline = after(self.world.now, CONFIRMED);
                while self.said() != aim {
                    if self.world.now >= deadline {
                        return failed("PowerNotConfirmed");
                    }
                    self.world.now = after(self.world.now, Duration::from_secs(5));
                }
                JobOutcome::Power(aim)
            }
            (_, Job::ReadPower) => match self.said() {
                PowerState::Unknown => failed("PowerUnknown"),
                power => JobOutcome::Power(power),
            },
            (_, Job::Probe) => JobOutcome::Facts(SystemFacts { power: self.said(), ..self.world.facts() }),
            _ => self.really(job),
        }
    }

    /// Runs until `end` says so.
    fn run(&mut self, end: impl Fn(&World, &Plan) -> bool) {
        for _ in 0..3000 {
            let plan = self.world.plan();
            if let Some(error) = plan.error.as_ref().filter(|_| self.faulty())
                && self.told.last() != Some(&error.reason)
            {
                self.told.push(error.reason.clone());
            }
            if self.faulty() && self.failing {
                assert!(
                    plan.error.is_some() || self.is_moot(&plan.step),
                    "it is not said what is wrong: {plan:?}"
                );
            }
            if !self.faulty() && end(&self.world, &plan) {
                return;
            }
            // As the controller does at the end of a reconcile.
            if self.is_moot(&plan.step) {
                self.world.memory.failure = None;
                self.failing = false;
            }
            match &plan.step {
                Step::Act(action) => {
                    if self.since.is_none() && self.phase.is_some_and(|p| p.begins(&self.world, action)) {
                        (self.since, self.power_then) = (Some(self.world.now), self.world.power());
                    }
                    self.world.steps.push(format!("{action:?}"));
                    self.act(action);
                }
                Step::Wait(wait) => self.world.now = after(self.world.now, wait.wake),
                Step::Rest(rest) => self.world.now = after(self.world.now, *rest),
            }
            self.world.now = after(self.world.now, Duration::from_millis(100));
        }
        panic!("no end: {:#?}", self.world.steps);
    }

    fn is_moot(&self, step: &Step) -> bool {
        let failure = self.world.memory.failure.as_ref();
        failure.is_some_and(|f| f.is_moot(step, None, &Limits::default(), "uid-h", self.world.now))
    }

    fn act(&mut self, action: &Action) {
        let Action::Job { job, .. } = action else {
            let before = (self.world.writes, self.world.cleanings);
            self.world.act(action);
            self.deeds.writes += self.world.writes - before.0;
            self.deeds.cleanings += self.world.cleanings - before.1;
            return;
        };
        let outcome = self.job(job);
        let failure = match &outcome {
            JobOutcome::Failed { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        let memory = &mut self.world.memory;
        if failure.as_deref().is_some_and(|r| matches!(r, "BMCUnauthorized" | "BMCCertificateRejected")) {
            memory.facts = None;
        }
        memory.finish(job, outcome, self.world.now);
        self.failing = self.world.memory.failure.is_some();
        assert!(failure.is_none() || self.failing);
    }

    /// From an object that nobody has looked at to one that is gone, with an image in between.
    fn live(mut self) -> (Deeds, Vec<String>) {
        let rests = |wanted: State| {
            move |_: &World, plan: &Plan| {
                plan.state == wanted && matches!(plan.step, Step::Rest(_)) && plan.error.is_none()
            }
        };
        self.run(rests(State::Available));
        assert_eq!(self.world.running, Running::Nothing);
        self.world.now = after(self.world.now, REST);
        self.world.host.spec.image = Some(image());
        self.world.consumer = Consumer::None { desired: Some(desired()) };
        self.run(|world, plan| rests(State::Provisioned)(world, plan) && world.running == Running::Disk);
        assert_eq!(self.world.disk.as_deref(), Some(IMAGE));
        self.world.now = after(self.world.now, REST);
        // Without a consumer an image that is no longer wanted is wiped, and the server stopped.
        self.world.consumer = Consumer::None { desired: None };
        self.world.host.metadata.deletion_timestamp = Some(Time(self.world.now));
        let kept = |world: &World| world.host.metadata.finalizers.iter().flatten().count() > 0;
        self.run(|world, _| !kept(world));
        assert_eq!(self.world.disk, None);
        // A BMC that still says "off" of a server that has just been started is believed.
        if (self.fault, self.phase) != (Fault::Lags, Some(Phase::Delete)) {
            assert_eq!(self.world.running, Running::Nothing);
        }
        (self.deeds, self.told)
    }
}

/// The reasons that a fault may be told by.
fn names_it(fault: Fault, reason: &str) -> bool {
    match fault {
        Fault::Refuses(expected) => reason == expected,
        Fault::DoneButLost => reason == "BMCTimeout",
        Fault::Stuck | Fault::Lies | Fault::Lags => reason == "PowerNotConfirmed",
        Fault::Silent => matches!(reason, "PowerUnknown" | "PowerNotConfirmed"),
        Fault::ForgetsBoot => reason == "AgentBootFailed",
    }
}

#[test]
fn every_fault_in_every_phase_is_named_and_survived() {
    let (clean, _) = Life::new(Fault::Stuck, None).live();
    assert_eq!(clean, Deeds { writes: 1, cleanings: 2, on: 4, off: 4 });
    let mut wrong = Vec::new();
    for fault in FAULTS {
        for phase in PHASES {
            let case = format!("{fault:?} at {phase:?}");
            let life = std::panic::catch_unwind(|| Life::new(fault, Some(phase)).live());
            let Ok((deeds, told)) = life else {
                wrong.push(format!("{case}: see above"));
                continue;
            };
            // Each boot that was forgotten is made up for by another; nothing else is done again.
            let again = if fault == Fault::ForgetsBoot { deeds.on.saturating_sub(clean.on) } else { 0 };
            let left_on = u32::from((fault, phase) == (Fault::Lags, Phase::Delete));
            let off = clean.off + again - left_on;
            if deeds != (Deeds { on: clean.on + again, off, ..clean }) || again > 2 {
                wrong.push(format!("{case}: {deeds:?}"));
            }
            let boots = !matches!(phase, Phase::PowerOff | Phase::Clean | Phase::Deploy);
            let noticed = fault != Fault::ForgetsBoot || boots;
            if told.is_empty() == noticed || !told.iter().all(|reason| names_it(fault, reason)) {
                wrong.push(format!("{case}: told {told:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
