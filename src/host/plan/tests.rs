//! The planner against a model of a server: every plan is carried out on the model, and the life of a host is walked
//! through, also with the process dying between any two steps.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use ferric_api::host::{BareMetalHostSpec, BmcDetails, ClaimRecord, ConsumerRef, Image};
use ferric_api::{BareMetalHost, HardwareDetails};
use ferric_bmc::{BootMethod, ManagerFacts, PowerAction, SystemFacts};
use ferric_protocol::v1::{CleanResult, Compression, DeployResult, InBandBmc, Inventory};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::*;
use crate::deploy::hub::{AgentView, TaskOutcome, TaskState};
use crate::deploy::images::{ImageState, ReadyImage};
use crate::host::consumer::Desired;
use crate::host::memory::{AgentNetwork, BmcMemory, JobOutcome, KnownPorts};
use crate::host::observation::Limits;
use crate::host::{Action, AgentTask, Consumer, Job, Observation, RecordWrite, Step};
use crate::key::Key;

mod belongs;
mod faults;
mod kernel;
mod kexec;
mod live_iso;
mod staged;
mod staged_faults;
mod standby;
mod wol;

/// What really runs on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    Nothing,
    Agent(i64),
    Disk,
    LiveIso,
    Memory,
}

/// A server, its host object and the manager's memory.
struct World {
    host: BareMetalHost,
    consumer: Consumer,
    memory: BmcMemory,
    now: Timestamp,
    running: Running,
    next_boot: Option<i64>,
    /// The live ISO is in the drive, and the server told to start from it.
    medium: bool,
    /// The agent has loaded the kernel of the disk that it wrote; whether it starts it when it is told.
    kexec: Option<bool>,
    /// The server is told to start the kernel that runs from memory.
    kernel: bool,
    /// The BMC knows one-time settings only.
    one_time: bool,
    tasks: BTreeMap<String, TaskState>,
    disk: Option<String>,
    writes: u32,
    /// Images that were written for nobody.
    stagings: u32,
    /// Deploys that found the image on the disk.
    kept: u32,
    /// There is somebody's data on the disk besides the image, or somebody changed it.
    touched: bool,
    /// Staging takes until it is said that it has come to an end.
    slow: bool,
    cleanings: u32,
    power_changes_while_provisioned: u32,
    /// When it was booted last.
    booted: Timestamp,
    /// The ports of which its agent says that it listens to their switches; it says that of none when there are none.
    listens: Vec<ferric_protocol::v1::Nic>,
    /// Whether this process of the manager was told what its agent sees.
    tells: bool,
    /// What its BMC says to its agent.
    in_band: Option<InBandBmc>,
    /// What its BMC says of itself over the network.
    manager: ManagerFacts,
    /// Ports whose switches `HardwareData` knows; `None`: there is no `HardwareData`.
    known_ports: Option<HardwareDetails>,
    /// What the Secret of the agent's network holds.
    network: Option<String>,
    /// There is no BMC, and whether the server hears magic packets.
    wol: Option<bool>,
    /// Magic packets that were sent.
    packets: u32,
    steps: Vec<String>,
}

const IMAGE: &str = "http://images/a.raw";
const HEX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn image() -> Image {
    Image { url: IMAGE.to_owned(), checksum: Some(HEX.to_owned()), ..Image::default() }
}

fn desired() -> Desired {
    Desired { image: image(), instance_id: "claim-1".to_owned(), ..Desired::default() }
}

impl World {
    fn new() -> Self {
        let mut host = BareMetalHost::new(
            "h",
            BareMetalHostSpec {
                bmc: Some(BmcDetails { address: "redfish://bmc".to_owned(), ..BmcDetails::default() }),
                boot_mac_address: Some("52:54:00:00:00:01".to_owned()),
                online: true,
                ..BareMetalHostSpec::default()
            },
        );
        host.metadata.namespace = Some("default".to_owned());
        host.metadata.uid = Some("uid-h".to_owned());
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        Self {
            host,
            consumer: Consumer::None { desired: None },
            memory: BmcMemory::new(now),
            now,
            running: Running::Nothing,
            next_boot: None,
            medium: false,
            kexec: None,
            kernel: false,
            one_time: false,
            tasks: BTreeMap::new(),
            disk: None,
            writes: 0,
            stagings: 0,
            kept: 0,
            touched: false,
            slow: false,
            cleanings: 0,
            power_changes_while_provisioned: 0,
            booted: now,
            listens: Vec::new(),
            tells: true,
            in_band: None,
            manager: ManagerFacts::default(),
            known_ports: Some(HardwareDetails::default()),
            network: None,
            wol: None,
            packets: 0,
            steps: Vec::new(),
        }
    }

    fn facts(&self) -> SystemFacts {
        SystemFacts {
            system_uuid: self.wol.is_none().then(|| "u-1".to_owned()),
            serial_number: self.wol.is_none().then(|| "s-1".to_owned()),
            manufacturer: None,
            product: None,
            bmc_firmware: None,
            power: self.power(),
            boot_methods: vec![BootMethod::VirtualMedia, BootMethod::UefiHttp],
            macs: Vec::new(),
            health: None,
            unhealthy: Vec::new(),
        }
    }

    fn power(&self) -> PowerState {
        if self.wol.is_some() {
            return PowerState::Unknown;
        }
        if self.running == Running::Nothing { PowerState::Off } else { PowerState::On }
    }

    fn agent(&self) -> Option<AgentView> {
        let Running::Agent(number) = self.running else { return None };
        let registered = self.host.spec.record.as_ref()?.agent.as_ref()?;
        // One of an earlier boot goes on until its machine does something else.
        if self.wol.is_none() {
            registered.key_fingerprint.as_ref()?;
        }
        Some(AgentView {
            fingerprint: format!("key-{number}"),
            boot_number: number,
            connected_since: self.booted,
            inventory: self.tells.then(|| {
                Arc::new(Inventory {
                    neighbours_pending: !self.listens.is_empty(),
                    nics: self.listens.clone(),
                    bmc: self.in_band.clone(),
                    ..Default::default()
                })
            }),
            tasks: self.tasks.clone(),
        })
    }

    fn plan(&self) -> Plan {
        self.plan_with(self.wanted().map(|desired| {
            ImageState::Ready(ReadyImage {
                digest: format!("sha256:{}", desired.image.checksum.as_deref().unwrap_or(HEX)),
                path: "/images/a".to_owned(),
                size: 1,
                compression: Compression::None,
            })
        }))
    }

    /// The plan when this is how the cache has the image.
    fn plan_with(&self, image: Option<ImageState>) -> Plan {
        let agent = self.agent();
        plan(&Observation {
            host: &self.host,
            consumer: self.consumer.clone(),
            duplicate_of: None,
            bmc: &self.memory,
            agent: agent.as_ref(),
            image,
            now: self.now,
            limits: Limits::default(),
        })
    }

    /// What the provider's cache has to have, as the controller asks for it.
    fn wanted(&self) -> Option<Desired> {
        let staged = || crate::host::consumer::to_stage(&self.host);
        self.consumer.desired().cloned().or_else(staged)
    }

    /// The manager dies and starts anew: all memory is gone.
    fn restart(&mut self) {
        self.memory = BmcMemory::new(self.now);
        self.drop_agent();
    }

    fn provisioned(&self) -> bool {
        self.host.spec.record.as_ref().and_then(|r| r.image.as_ref()).is_some_and(|i| i.booted_at.is_some())
            && matches!(self.consumer, Consumer::Machine { .. })
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Job { job, .. } => {
                let outcome = self.job(job);
                self.memory.finish(job, outcome, self.now);
            }
            Action::SaveHardware => {
                self.memory.hardware = None;
                self.write(&RecordWrite::Inspected);
            }
            Action::Write { write, .. } => {
                self.memory.wrote(write);
                self.write(write);
            }
            Action::LearnPorts => {
                let Running::Agent(number) = self.running else { panic!("no agent, no ports") };
                self.memory.ports = Some(KnownPorts::new(number, self.known_ports.as_ref()));
            }
            Action::Task(task) => self.task(task),
            Action::TaskFailed { reason, message, staging } => {
                self.memory.fail_task(reason.clone(), message.clone(), *staging, self.now);
            }
            Action::BootFailed { message } => {
                self.write(&RecordWrite::EndBoot);
                self.memory.fail("AgentBootFailed".to_owned(), message.clone(), None, false, self.now);
                self.memory.boot_since = None;
            }
            Action::NotWoken { message } => {
                self.memory.fail("NotWoken".to_owned(), message.clone(), None, false, self.now);
                self.memory.boot_since = None;
            }
        }
    }

    fn write(&mut self, write: &RecordWrite) {
        self.host = write.apply(&self.host, self.now);
        self.check_staged();
    }

    fn job(&mut self, job: &Job) -> JobOutcome {
        match job {
            Job::Probe => JobOutcome::Facts(self.facts()),
            Job::Inspect => JobOutcome::Hardware(Box::default()),
            Job::ReadManager => JobOutcome::Manager(self.manager.clone()),
            Job::ReadPower => {
                assert!(self.wol.is_none(), "nobody can read it: {:#?}", self.steps);
                JobOutcome::Power(self.power())
            }
            Job::Power(action) if self.wol.is_some() => {
                assert_eq!(*action, PowerAction::On, "{:#?}", self.steps);
                self.packets += 1;
                if self.wol == Some(true) && self.running == Running::Nothing {
                    self.boot();
                }
                JobOutcome::Power(PowerState::Unknown)
            }
            Job::ReadNetwork => match &self.network {
                Some(arguments) => JobOutcome::Network(AgentNetwork {
                    secret: "net".to_owned(),
                    arguments: arguments.as_str().into(),
                }),
                None => JobOutcome::Failed {
                    reason: "NetworkDataMissing".to_owned(),
                    message: "Secret default/net does not exist".to_owned(),
                    not_before: None,
                },
            },
            Job::BootAgent(number) => {
                self.next_boot = Some(*number);
                self.kernel = false;
                JobOutcome::Done
            }
            Job::BootDisk => {
                assert!(!self.medium || self.running == Running::Nothing, "ejected under a running system");
                self.next_boot = None;
                self.medium = false;
                self.kernel = false;
                JobOutcome::Done
            }
            Job::BootLiveIso => {
                assert_eq!(self.running, Running::Nothing, "a medium is seen at the next power-on only");
                self.medium = true;
                JobOutcome::Done
            }
            Job::BootKernel => {
                assert_eq!(self.running, Running::Nothing, "what runs now must not be changed under way");
                self.kernel = true;
                JobOutcome::Done
            }
            Job::Power(action) => {
                if self.running == Running::Disk && self.provisioned() && *action != PowerAction::On {
                    self.power_changes_while_provisioned += 1;
                }
                match action {
                    PowerAction::On => {
                        if self.running == Running::Nothing {
                            self.boot();
                        }
                    }
                    PowerAction::ForceOff | PowerAction::GracefulShutdown => {
                        self.running = Running::Nothing;
                        self.tasks.clear();
                    }
                    PowerAction::ForceRestart | PowerAction::PowerCycle => self.boot(),
                }
                JobOutcome::Power(self.power())
            }
        }
    }

    /// The server starts; the override is for one boot only. An agent registers at once.
    fn boot(&mut self) {
        self.tasks.clear();
        self.booted = self.now;
        if self.wol.is_some() {
            // The network is first in the boot order, and the provider sends the server to its disk or into the boot that is
            // open.
            let agent = self.host.spec.record.as_ref().and_then(|record| record.agent.as_ref());
            let open = agent.filter(|agent| agent.key_fingerprint.is_none() && !agent.ended);
            self.next_boot = open.map(|agent| agent.boot_number);
        }
        match self.next_boot.take() {
            None if self.medium => self.running = Running::LiveIso,
            None if self.kernel => {
                self.running = Running::Memory;
                self.kernel = !self.one_time;
            }
            None => self.running = Running::Disk,
            Some(number) => {
                assert!(!self.medium, "the live ISO is still in the drive");
                self.running = Running::Agent(number);
                let fingerprint = format!("key-{number}");
                self.write(&RecordWrite::AgentRegistered { fingerprint, machine: HostIdentity::default() });
            }
        }
    }

    fn task(&mut self, task: &AgentTask) {
        assert!(matches!(self.running, Running::Agent(_)), "a task needs an agent: {task:?}");
        if self.tasks.contains_key(task.id()) {
            return;
        }
        let outcome = match task {
            AgentTask::Clean { .. } => {
                let record = self.host.spec.record.as_ref().unwrap();
                assert!(
                    record.staged.as_ref().is_none_or(|staged| staged.content_hash.is_none()),
                    "{:#?}",
                    self.steps
                );
                self.disk = None;
                self.touched = false;
                self.cleanings += 1;
                TaskOutcome::Clean(Arc::new(CleanResult::default()))
            }
            AgentTask::Restart { .. } => return self.boot(),
            AgentTask::PowerOff { .. } => {
                self.running = Running::Nothing;
                self.tasks.clear();
                return;
            }
            AgentTask::Stage { .. } => {
                assert!(matches!(self.consumer, Consumer::None { desired: None }), "{:#?}", self.steps);
                self.tasks.insert(task.id().to_owned(), TaskState::Sent);
                if !self.slow {
                    self.finish_staging();
                }
                return;
            }
            AgentTask::Kexec { .. } => {
                if self.kexec == Some(true) {
                    self.running = Running::Disk;
                    self.tasks.clear();
                } else {
                    self.tasks.insert(task.id().to_owned(), TaskState::Sent);
                }
                return;
            }
            AgentTask::Deploy { .. } => {
                let (kept_staged, staged_problem) = self.deploy();
                TaskOutcome::Deploy(Arc::new(DeployResult {
                    root_device: "/dev/sda".to_owned(),
                    kept_staged,
                    staged_problem,
                    loaded_kernel: self.kexec.map(|_| "Debian".to_owned()).unwrap_or_default(),
                    ..DeployResult::default()
                }))
            }
        };
        self.tasks.insert(task.id().to_owned(), TaskState::Succeeded(outcome));
    }

    /// Runs until the plan has nothing to do; `die` says after which steps the manager dies. Waits move the clock on.
    fn settle(&mut self, mut die: impl FnMut(usize) -> bool) -> Plan {
        for step in 0..400 {
            let plan = self.plan();
            match &plan.step {
                Step::Act(action) => {
                    self.steps.push(format!("{action:?}"));
                    self.act(action);
                    if die(step) {
                        self.restart();
                    }
                }
                Step::Rest(_) => return plan,
                Step::Wait(wait) if matches!(wait.reason, "AgentBoot" | "AgentAway" | "Retry") => {
                    self.now = after(self.now, wait.wake);
                }
                Step::Wait(_) => return plan,
            }
            self.now = after(self.now, Duration::from_millis(100));
        }
        panic!("the host does not settle: {:#?}", self.steps);
    }

    /// A claim as the machine controller makes it.
    fn claim(&mut self) {
        self.host.spec.consumer_ref =
            Some(ConsumerRef { name: Some("m".to_owned()), ..ConsumerRef::default() });
        let record = self.host.spec.record.as_mut().unwrap();
        record.claim = Some(ClaimRecord { id: "claim-1".to_owned(), provider_id: None });
        self.consumer = Consumer::Machine { machine: Key::new("default", "m"), desired: Ok(desired()) };
    }

    /// The consumer lets go; the observation follows the host, as it does in the controller.
    fn let_go(&mut self) {
        self.consumer = Consumer::Releasing { by: "test".to_owned() };
    }

    fn follow(&mut self) {
        if self.host.spec.consumer_ref.is_none() && matches!(self.consumer, Consumer::Releasing { .. }) {
            self.consumer = Consumer::None { desired: None };
        }
    }

    /// An image is asked for; runs until there is nothing to do.
    fn wants(&mut self, desired: Desired, die: impl FnMut(usize) -> bool) -> Plan {
        self.host.spec.image = Some(desired.image.clone());
        self.consumer = Consumer::None { desired: Some(desired) };
        self.settle(die)
    }

    /// No image is asked for any more: the server is let go.
    fn wants_nothing(&mut self, die: impl FnMut(usize) -> bool) {
        self.host.spec.image = None;
        self.consumer = Consumer::None { desired: None };
        let plan = self.settle(die);
        assert_eq!((plan.state, self.running), (State::Available, Running::Nothing), "{:#?}", self.steps);
        assert!(self.host.spec.record.as_ref().unwrap().image.is_none());
    }

    fn settle_released(&mut self, mut die: impl FnMut(usize) -> bool) -> Plan {
        for step in 0..400 {
            let plan = self.plan();
            match &plan.step {
                Step::Act(action) => {
                    self.steps.push(format!("{action:?}"));
                    self.act(action);
                    self.follow();
                    if die(step) {
                        self.restart();
                    }
                }
                Step::Wait(wait) if matches!(wait.reason, "AgentBoot" | "AgentAway" | "Retry") => {
                    self.now = after(self.now, wait.wake);
                }
                Step::Rest(_) | Step::Wait(_) => return plan,
            }
            self.now = after(self.now, Duration::from_millis(100));
        }
        panic!("the host does not settle: {:#?}", self.steps);
    }
}

#[test]
fn a_host_that_was_cleaned_in_the_end_has_no_failure_left() {
    let mut world = World::new();
    world.memory.fail("AgentBootFailed".to_owned(), "x".to_owned(), None, false, world.now);
    let plan = world.settle(|_| false);
    assert_eq!(plan.state, State::Available, "{:#?}", world.steps);
    assert_eq!(world.memory.failure, None, "nobody would claim it");
}

#[test]
fn an_event_makes_the_next_look_at_the_power_come_at_once_and_only_that() {
    let mut world = World::new();
    let before = world.settle(|_| false);
    assert!(matches!(before.step, Step::Rest(_)), "{before:?}");
    world.memory.nudged = true;
    let plan = world.plan();
    let Step::Act(Action::Job { job: Job::ReadPower, .. }) = plan.step else { panic!("{plan:?}") };
    // What comes while the power is read may be missed by that.
    world.memory.begin(&Job::ReadPower, world.now);
    world.memory.nudged = true;
    world.memory.finish(&Job::ReadPower, JobOutcome::Power(world.power()), world.now);
    assert!(matches!(world.plan().step, Step::Act(Action::Job { job: Job::ReadPower, .. })));
    world.memory.begin(&Job::ReadPower, world.now);
    world.memory.finish(&Job::ReadPower, JobOutcome::Power(world.power()), world.now);
    assert!(matches!(world.plan().step, Step::Rest(_)), "nothing else was wanted");
}

#[test]
fn an_agent_that_has_just_registered_is_waited_for_however_long_the_last_one_is_gone() {
    let mut world = World::new();
    world.settle(|_| false);
    let first = world.host.spec.record.as_ref().unwrap().agent.as_ref().unwrap().boot_number;
    world.memory.see_agent(Some(first), true, world.now);
    world.memory.see_agent(None, false, world.now);
    world.now = after(world.now, Duration::from_secs(86_400));
    world.claim();
    let registered = |world: &World| {
        let agent = world.host.spec.record.as_ref().unwrap().agent.clone().unwrap();
        (agent.boot_number > first && agent.key_fingerprint.is_some()).then_some(agent.boot_number)
    };
    while registered(&world).is_none() {
        let Step::Act(action) = world.plan().step else { panic!("{:#?}", world.steps) };
        world.act(&action);
    }
    let boot = registered(&world);
    // Its session is not there yet.
    world.running = Running::Disk;
    let limit = Limits::default().agent_away;
    for (passed, connected, away) in [
        (Duration::ZERO, false, false),
        (limit - Duration::from_secs(1), false, false),
        (limit, false, true),
        // It was there, and is gone.
        (limit, true, false),
        (limit * 2 - Duration::from_secs(1), false, false),
        (limit * 2, false, true),
    ] {
        let begun = world.now;
        world.now = after(begun, passed);
        world.memory.see_agent(boot, connected, world.now);
        match world.plan().step {
            Step::Act(Action::BootFailed { .. }) => assert!(away, "{passed:?}"),
            Step::Wait(wait) => assert!(wait.reason == "AgentAway" && !away, "{passed:?}: {wait:?}"),
            other => panic!("{passed:?}: {other:?}"),
        }
        world.now = begun;
    }
}

#[test]
fn the_agents_network_is_read_for_each_boot_and_without_it_nothing_boots() {
    let mut world = World::new();
    world.host.spec.preprovisioning_network_data_name = Some("net".to_owned());
    // Until the Secret is there, it is looked for again and again, and nothing else is done.
    for _ in 0..40 {
        let plan = world.plan();
        match &plan.step {
            Step::Act(action) => {
                assert!(
                    !matches!(action, Action::Write { write: RecordWrite::BeginBoot { .. }, .. }),
                    "{action:?}"
                );
                assert!(
                    !matches!(action, Action::Job { job: Job::Power(_) | Job::BootAgent(_), .. }),
                    "{action:?}"
                );
                world.act(action);
            }
            Step::Wait(wait) => {
                let error = plan.error.as_ref().unwrap();
                assert_eq!((wait.reason, error.reason.as_str()), ("Retry", "NetworkDataMissing"));
                assert!(
                    wait.wake <= Duration::from_secs(45),
                    "a Secret that is mended is noticed soon: {wait:?}"
                );
                world.now = after(world.now, wait.wake);
            }
            Step::Rest(_) => panic!("nothing was booted"),
        }
    }
    world.network = Some("ferric.net=one".to_owned());
    let read = |world: &World| world.steps.iter().filter(|step| step.contains("ReadNetwork")).count();
    let plan = world.settle(|_| false);
    assert_eq!((plan.state, plan.error), (State::Available, None));
    assert_eq!((read(&world), world.cleanings), (1, 1));
    // The next boot reads it again; so does a manager that was restarted in the middle of one.
    world.network = Some("ferric.net=two".to_owned());
    world.now = after(world.now, Duration::from_secs(600));
    world.claim();
    world.settle(|_| false);
    assert_eq!(read(&world), 2);
    assert_eq!(&*world.memory.network.as_ref().unwrap().value.arguments, "ferric.net=two");
    // One that is named no more is not complained about.
    world.memory.fail("NetworkDataInvalid".to_owned(), "x".to_owned(), None, false, world.now);
    world.memory.use_network(Some("other"));
    assert_eq!((world.memory.network.clone(), world.memory.failure.clone()), (None, None));
}

#[test]
fn a_manager_that_dies_in_a_boot_reads_the_network_again() {
    for dies_at in 0..30 {
        let mut world = World::new();
        world.host.spec.preprovisioning_network_data_name = Some("net".to_owned());
        world.network = Some("ferric.net=one".to_owned());
        let plan = world.settle(|step| step == dies_at);
        assert_eq!((plan.state, plan.error), (State::Available, None), "{dies_at}");
    }
}

fn port(name: &str, link_up: bool, heard: bool) -> ferric_protocol::v1::Nic {
    ferric_protocol::v1::Nic {
        name: name.to_owned(),
        mac: format!("52:54:00:00:AA:{}", &name[name.len() - 2..]),
        link_up,
        lldp: heard.then(Default::default),
        ..Default::default()
    }
}

/// A `HardwareData` that knows the switches of these ports, and has others.
fn known(names: &[&str]) -> HardwareDetails {
    let nic = |name: &str, lldp| ferric_api::hardware::Nic {
        mac: port(name, true, false).mac.to_ascii_lowercase(),
        lldp,
        ..Default::default()
    };
    let told = names.iter().map(|name| nic(name, Some(Default::default())));
    HardwareDetails { nics: told.chain([nic("eth09", None)]).collect(), ..Default::default() }
}

#[test]
fn a_free_hosts_agent_is_kept_while_it_listens_but_no_longer_than_a_minute() {
    let mut world = World::new();
    world.listens = vec![port("eth01", true, false)];
    let plan = world.settle(|_| false);
    let Step::Wait(wait) = &plan.step else { panic!("{plan:?}") };
    assert_eq!(wait.reason, "Neighbours");
    world.now = after(world.now, Duration::from_secs(60));
    assert_eq!(world.settle(|_| false).state, State::Available);
    // Who is waited for is not kept waiting.
    let mut world = World::new();
    world.settle(|_| false);
    world.listens = vec![port("eth01", true, false)];
    world.claim();
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
}

#[test]
fn only_switches_are_waited_for_that_are_there_and_not_known() {
    let (a, b) = (port("eth01", true, false), port("eth02", true, false));
    let table = [
        ("nothing is known", vec![a.clone(), b.clone()], Some(known(&[])), Some("eth01, eth02")),
        ("one is known", vec![a.clone(), b.clone()], Some(known(&["eth01"])), Some("eth02")),
        ("all are known", vec![a.clone(), b.clone()], Some(known(&["eth01", "eth02"])), None),
        (
            "a card was changed",
            vec![a.clone(), port("eth03", true, false)],
            Some(known(&["eth01"])),
            Some("eth03"),
        ),
        ("a card was taken out", vec![a.clone()], Some(known(&["eth01", "eth02"])), None),
        (
            "a port that is known without its switch",
            vec![port("eth09", true, false)],
            Some(known(&[])),
            Some("eth09"),
        ),
        ("heard already", vec![port("eth01", true, true)], Some(known(&[])), None),
        ("no link", vec![port("eth01", false, false)], Some(known(&[])), None),
        ("one link of two", vec![port("eth01", false, false), b.clone()], Some(known(&[])), Some("eth02")),
        (
            "one heard, one without a link",
            vec![port("eth01", true, true), port("eth02", false, false)],
            Some(known(&[])),
            None,
        ),
        ("nowhere to note it", vec![a, b], None, None),
    ];
    for (what, ports, hardware, waits_for) in table {
        // At enrolment and at a release alike.
        for dies_at in [1000, 8] {
            let mut world = World::new();
            (world.listens, world.known_ports) = (ports.clone(), hardware.clone());
            let plan = world.settle(|step| step == dies_at);
            let waited = match &plan.step {
                Step::Wait(wait) if wait.reason == "Neighbours" => wait.message.rsplit(": ").next(),
                _ => None,
            };
            assert_eq!(waited, waits_for, "{what}: {plan:?}");
            assert_eq!(plan.state == State::Available, waits_for.is_none(), "{what}");
        }
    }
}

#[test]
fn what_is_known_of_ports_is_read_once_in_a_boot_and_anew_in_the_next() {
    let mut world = World::new();
    world.listens = vec![port("eth01", true, false)];
    world.settle(|_| false);
    let read = |world: &World| world.steps.iter().filter(|step| *step == "LearnPorts").count();
    world.plan();
    assert_eq!(read(&world), 1);
    // It is heard; the next agent hears nothing yet, and need not.
    world.known_ports = Some(known(&["eth01"]));
    world.now = after(world.now, Duration::from_secs(60));
    world.settle(|_| false);
    world.claim();
    world.settle(|_| false);
    world.let_go();
    let plan = world.settle_released(|_| false);
    assert_eq!(read(&world), 2, "{:#?}", world.steps);
    assert!(!matches!(&plan.step, Step::Wait(wait) if wait.reason == "Neighbours"), "{plan:?}");
}

#[test]
fn a_new_host_is_registered_inspected_cleaned_and_ends_available_and_off() {
    let mut world = World::new();
    let plan = world.settle(|_| false);
    assert_eq!(plan.state, State::Available);
    assert_eq!(world.running, Running::Nothing);
    assert_eq!(world.cleanings, 1);
    assert!(world.host.metadata.finalizers.as_ref().unwrap().contains(&names::HOST_FINALIZER.to_owned()));
    assert!(
        !world
            .host
            .metadata
            .annotations
            .clone()
            .unwrap_or_default()
            .contains_key(names::BLOCK_MOVE_ANNOTATION)
    );
}

#[test]
fn without_cleaning_a_host_becomes_available_by_reads_alone() {
    let mut world = World::new();
    world.host.spec.automated_cleaning_mode = Some(CleaningMode::Disabled);
    assert_eq!(world.settle(|_| false).state, State::Available);
    assert_eq!(world.steps.iter().filter(|s| s.contains("Power(") || s.contains("Boot")).count(), 0);
}

#[test]
fn a_claimed_host_is_written_once_and_started_from_its_disk() {
    let mut world = World::new();
    world.settle(|_| false);
    world.claim();
    let plan = world.settle(|_| false);
    assert_eq!(plan.state, State::Provisioned);
    assert_eq!((world.writes, world.running), (1, Running::Disk));
}

#[test]
fn inspection_cleaning_and_writing_share_one_agent_boot_when_they_follow_each_other() {
    let mut world = World::new();
    world.host.spec.image = Some(image());
    world.consumer = Consumer::None { desired: Some(desired()) };
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((world.writes, world.cleanings), (1, 1));
    assert_eq!(world.host.spec.record.as_ref().unwrap().agent.as_ref().unwrap().boot_number, 1);
}

#[test]
fn a_released_host_is_dead_before_the_claim_ends_and_clean_before_it_is_free() {
    let mut world = World::new();
    world.settle(|_| false);
    world.claim();
    world.settle(|_| false);
    world.let_go();
    let plan = world.settle_released(|_| false);
    assert_eq!(plan.state, State::Available);
    assert_eq!((world.disk.as_deref(), world.running), (None, Running::Nothing));
    let off = world.steps.iter().rposition(|s| s.contains("Power(ForceOff)"));
    let released = world.steps.iter().position(|s| s.contains("Release"));
    let first_off = world
        .steps
        .iter()
        .enumerate()
        .filter(|(_, s)| s.contains("ForceOff"))
        .map(|(i, _)| i)
        .collect::<Vec<_>>();
    assert!(first_off.iter().any(|i| Some(*i) < released), "{:#?} {off:?}", world.steps);
}

/// Every step that a whole life takes: kill after each of them in turn. The steps are those that the planner gives.
#[test]
fn a_manager_that_dies_after_any_step_reaches_the_same_end_and_writes_once() {
    let mut reference = World::new();
    reference.settle(|_| false);
    reference.claim();
    reference.settle(|_| false);
    let steps = reference.steps.len();
    assert!(steps > 10);
    for fatal in 0..steps {
        let mut world = World::new();
        let mut count = 0;
        let mut die = |_| {
            count += 1;
            count == fatal + 1
        };
        world.settle(&mut die);
        world.claim();
        let plan = world.settle(&mut die);
        assert_eq!(plan.state, State::Provisioned, "killed after {:?}", world.steps.get(fatal));
        assert_eq!(world.running, Running::Disk, "killed after {:?}", world.steps.get(fatal));
        assert_eq!(world.writes, 1, "killed after {:?}: {:#?}", world.steps.get(fatal), world.steps);
        assert_eq!(world.power_changes_while_provisioned, 0);
    }
}

#[test]
fn a_paused_host_gets_nothing_done_at_any_step() {
    let mut world = World::new();
    world.host.metadata.annotations =
        Some(BTreeMap::from([(names::PAUSED_ANNOTATION.to_owned(), String::new())]));
    let plan = world.plan();
    assert!(matches!(plan.step, Step::Wait(_)));
    assert!(plan.paused.is_some());
}

#[test]
fn a_host_with_a_consumer_and_no_record_is_only_read_until_an_operator_decides() {
    let mut world = World::new();
    world.running = Running::Disk;
    world.host.spec.consumer_ref = Some(ConsumerRef { name: Some("m".to_owned()), ..ConsumerRef::default() });
    world.consumer = Consumer::NoUsableRecord {
        what: "BareMetalMachine default/m".to_owned(),
        claim_id: Some("c".to_owned()),
        provider_id: Some("ferric://h/c".to_owned()),
        image: Some(image()),
    };
    let plan = world.settle(|_| false);
    let Step::Wait(wait) = &plan.step else { panic!("{plan:?}") };
    assert_eq!(wait.reason, "NoUsableRecord");
    assert!(wait.message.contains(names::DECIDE_ANNOTATION));
    assert_eq!(world.running, Running::Disk);
    assert!(world.steps.iter().all(|s| s.contains("Probe")), "{:?}", world.steps);

    world.host.metadata.annotations =
        Some(BTreeMap::from([(names::DECIDE_ANNOTATION.to_owned(), "adopt".to_owned())]));
    let Step::Act(action) = world.plan().step else { panic!() };
    world.act(&action);
    world.consumer = Consumer::Machine { machine: Key::new("default", "m"), desired: Ok(desired()) };
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((world.running, world.writes), (Running::Disk, 0));
}

#[test]
fn a_record_of_another_machine_is_not_acted_on_while_there_is_a_consumer() {
    let mut world = World::new();
    world.settle(|_| false);
    world.claim();
    world.settle(|_| false);
    world.host.spec.record.as_mut().unwrap().identity.as_mut().unwrap().serial_number =
        Some("other".to_owned());
    world.restart();
    let plan = world.settle(|_| false);
    assert_eq!(plan.registered.as_ref().unwrap().1, "IdentityMismatch");
    assert_eq!(world.running, Running::Disk);
}

#[test]
fn an_agent_that_does_not_come_up_is_given_up_at_the_deadline_and_booted_anew() {
    let mut world = World::new();
    world.host.spec.record = Some(HostRecord {
        identity: Some(HostIdentity { system_uuid: Some("u-1".to_owned()), ..HostIdentity::default() }),
        inspected_at: Some(Time(world.now)),
        agent: Some(ferric_api::host::AgentRecord { boot_number: 7, key_fingerprint: None, ended: false }),
        ..HostRecord::default()
    });
    world.running = Running::Disk; // it started something else
    let plan = world.settle(|_| false);
    assert_eq!(plan.state, State::Available);
    assert_eq!(world.host.spec.record.as_ref().unwrap().agent.as_ref().unwrap().boot_number, 8);
    assert!(world.steps.iter().any(|s| s.contains("BootFailed")));
}

#[test]
fn abandoning_with_another_claim_does_nothing() {
    let mut world = World::new();
    world.settle(|_| false);
    world.claim();
    world.settle(|_| false);
    world.let_go();
    world.memory.fail("Unreachable".to_owned(), "dead".to_owned(), None, true, world.now);
    world.host.metadata.annotations =
        Some(BTreeMap::from([(names::ABANDON_ANNOTATION.to_owned(), "other".to_owned())]));
    assert!(matches!(world.plan().step, Step::Wait(_)));
    world.host.metadata.annotations =
        Some(BTreeMap::from([(names::ABANDON_ANNOTATION.to_owned(), "claim-1".to_owned())]));
    let Step::Act(Action::Write { write: RecordWrite::Abandon { .. }, .. }) = world.plan().step else {
        panic!()
    };
}

/// `clusterctl move` replaces all annotations, so also those that pause a host, and deletes a moment later.
#[test]
fn a_host_that_was_moved_away_is_left_alone_and_let_go() {
    let mut world = World::new();
    world.settle(|_| false);
    world.running = Running::Disk;
    world.memory.power = None;
    world.host.metadata.annotations =
        Some(BTreeMap::from([(names::DELETE_FOR_MOVE_ANNOTATION.to_owned(), String::new())]));
    assert!(matches!(world.plan().step, Step::Wait(_)));
    world.host.metadata.deletion_timestamp = Some(Time(world.now));
    let Step::Act(Action::Write { write: RecordWrite::RemoveFinalizer, .. }) = world.plan().step else {
        panic!()
    };
}

/// In a move or a restore hosts come before their consumers, or their consumers go before them.
#[test]
fn a_host_whose_consumer_is_missing_is_not_stopped_however_long_that_lasts() {
    let mut world = World::new();
    world.settle(|_| false);
    world.claim();
    world.settle(|_| false);
    world.restart();
    world.consumer = Consumer::Missing { what: "BareMetalMachine default/m".to_owned() };
    world.memory.consumer_missing_since = Some(world.now);
    world.now = after(world.now, Duration::from_secs(24 * 3600));
    world.steps.clear();
    let Step::Wait(wait) = world.settle(|_| false).step else { panic!() };
    assert_eq!((wait.reason, world.running), ("ConsumerMissing", Running::Disk));
    assert!(world.steps.iter().all(|s| s.contains("Probe")), "{:?}", world.steps);

    world.host.metadata.annotations =
        Some(BTreeMap::from([(names::DECIDE_ANNOTATION.to_owned(), "release".to_owned())]));
    world.consumer = Consumer::Missing { what: "BareMetalMachine default/m".to_owned() };
    while world.host.spec.consumer_ref.is_some() {
        let Step::Act(action) = world.plan().step else { panic!("{:?}", world.plan()) };
        world.act(&action);
    }
    world.consumer = Consumer::None { desired: None };
    assert_eq!(world.settle(|_| false).state, State::Available);
    assert_eq!((world.disk.as_deref(), world.cleanings), (None, 2));
}

#[test]
fn a_claim_under_which_nothing_was_started_ends_when_its_machine_stays_away() {
    let mut world = World::new();
    world.settle(|_| false);
    world.claim();
    world.consumer = Consumer::Missing { what: "BareMetalMachine default/m".to_owned() };
    world.memory.consumer_missing_since = Some(world.now);
    assert!(matches!(world.plan().step, Step::Wait(_)));
    world.now = after(world.now, Duration::from_secs(121));
    let Step::Act(Action::Write { write: RecordWrite::Free, .. }) = world.plan().step else { panic!() };
}

#[test]
fn a_host_with_a_missing_consumer_and_no_record_is_only_read() {
    let mut world = World::new();
    world.running = Running::Disk;
    world.host.spec.consumer_ref = Some(ConsumerRef { name: Some("m".to_owned()), ..ConsumerRef::default() });
    world.consumer = Consumer::Missing { what: "BareMetalMachine default/m".to_owned() };
    world.memory.consumer_missing_since = Some(world.now);
    world.now = after(world.now, Duration::from_secs(24 * 3600));
    let Step::Wait(wait) = world.settle(|_| false).step else { panic!() };
    assert_eq!((wait.reason, world.running), ("ConsumerMissing", Running::Disk));
    assert!(world.steps.iter().all(|s| s.contains("Probe")), "{:?}", world.steps);
}

#[test]
fn what_an_operator_releases_is_wiped_whatever_the_record_says_of_its_disks() {
    let mut world = World::new();
    world.settle(|_| false);
    world.running = Running::Disk;
    world.host.spec.consumer_ref = Some(ConsumerRef { name: Some("m".to_owned()), ..ConsumerRef::default() });
    world.consumer = Consumer::Missing { what: "BareMetalMachine default/m".to_owned() };
    world.host.metadata.annotations =
        Some(BTreeMap::from([(names::DECIDE_ANNOTATION.to_owned(), "release".to_owned())]));
    while world.host.spec.consumer_ref.is_some() {
        let Step::Act(action) = world.plan().step else { panic!("{:?}", world.plan()) };
        world.act(&action);
    }
    world.consumer = Consumer::None { desired: None };
    assert_eq!(world.settle(|_| false).state, State::Available);
    assert_eq!((world.running, world.cleanings), (Running::Nothing, 2));
}

#[test]
fn a_deleted_host_leaves_a_server_alone_that_is_not_the_one_of_its_record() {
    let mut world = World::new();
    world.settle(|_| false);
    world.running = Running::Disk;
    world.host.spec.record.as_mut().unwrap().identity.as_mut().unwrap().serial_number =
        Some("other".to_owned());
    world.restart();
    world.host.metadata.deletion_timestamp = Some(Time(world.now));
    world.steps.clear();
    while world
        .host
        .metadata
        .finalizers
        .as_ref()
        .is_some_and(|f| f.iter().any(|f| f == names::HOST_FINALIZER))
    {
        let Step::Act(action) = world.plan().step else { panic!("{:?}", world.plan()) };
        world.act(&action);
    }
    assert_eq!(world.running, Running::Disk);
}

/// A new mainboard must not cost what was written by hand.
#[test]
fn a_host_written_by_hand_waits_when_its_bmc_reports_another_machine() {
    let mut world = World::new();
    world.host.spec.image = Some(image());
    world.consumer = Consumer::None { desired: Some(desired()) };
    world.settle(|_| false);
    world.host.spec.record.as_mut().unwrap().identity.as_mut().unwrap().serial_number =
        Some("other".to_owned());
    world.restart();
    let plan = world.settle(|_| false);
    assert_eq!(plan.registered.as_ref().unwrap().1, "IdentityMismatch");
    assert_eq!((world.running, world.cleanings), (Running::Disk, 1));
}

#[test]
fn an_image_that_could_not_be_had_stays_an_error_while_it_is_fetched_again() {
    let mut world = World::new();
    world.settle(|_| false);
    world.claim();
    let failed = |retry_at| ImageState::Failed {
        reason: "ImageUnreachable",
        message: "refused".to_owned(),
        permanent: false,
        retry_at,
    };
    let fetching = ImageState::Fetching { bytes_done: 0, bytes_total: None };
    let first = after(world.now, Duration::from_secs(5));
    world.memory.see_image(Some(&failed(first)));
    world.memory.see_image(Some(&failed(first)));
    world.memory.see_image(Some(&fetching));
    let error = world.plan().error.unwrap();
    assert_eq!((error.reason.as_str(), error.count), ("ImageUnreachable", 1));
    world.memory.see_image(Some(&failed(after(first, Duration::from_secs(10)))));
    assert_eq!(world.plan().error.unwrap().count, 2);
    world.memory.see_image(None);
    assert_eq!(world.plan().error, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn however_often_the_manager_dies_the_host_is_cleaned_written_and_freed(deaths in prop::collection::vec(any::<bool>(), 64)) {
        let mut world = World::new();
        let mut next = deaths.iter().copied().cycle().take(40);
        let mut die = |_| next.next().unwrap_or(false);
        prop_assert_eq!(world.settle(&mut die).state, State::Available);
        world.claim();
        prop_assert_eq!(world.settle(&mut die).state, State::Provisioned);
        prop_assert_eq!(world.running, Running::Disk);
        prop_assert_eq!(world.power_changes_while_provisioned, 0);
        world.let_go();
        prop_assert_eq!(world.settle_released(&mut die).state, State::Available);
        prop_assert_eq!(world.disk, None);
    }
}
