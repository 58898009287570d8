//! What the manager remembers of a host between reconciles: readings of the BMC and the job that is running. All of it
//! may be lost at any moment; the record and the BMC give it back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ferric_api::{HardwareDetails, MacAddress};
use ferric_bmc::{ManagerFacts, PowerAction, PowerState, SystemFacts};
use jiff::Timestamp;

use super::backoff;
use super::job::{Job, aim};
use super::observation::Limits;
use super::record::RecordWrite;
use super::step::Step;
use crate::deploy::images::ImageState;

/// A value and when it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen<T> {
    /// The value.
    pub value: T,
    /// When it was read.
    pub at: Timestamp,
}

/// How a job ended.
#[derive(Debug, Clone)]
pub enum JobOutcome {
    /// Facts.
    Facts(SystemFacts),
    /// Hardware.
    Hardware(Box<HardwareDetails>),
    /// Power as read.
    Power(PowerState),
    /// The network of the agent.
    Network(AgentNetwork),
    /// What the BMC says of itself.
    Manager(ManagerFacts),
    /// Accepted.
    Done,
    /// Failed.
    Failed {
        /// One word.
        reason: String,
        /// One sentence.
        message: String,
        /// Earliest time of a next try that the driver asks for.
        not_before: Option<Timestamp>,
    },
}

/// The network of a host's agent, as read from the Secret that the host names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentNetwork {
    /// Name of the Secret.
    pub secret: String,
    /// Arguments for the kernel's command line.
    pub arguments: Arc<str>,
}

/// Which of a host's network ports `HardwareData` knows the switch of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPorts {
    /// The agent boot in which it was read: it is read once for each, since the object may have changed in between.
    pub boot_number: i64,
    /// MAC addresses, lower case. `None`: there is no `HardwareData` that a switch could be noted in.
    pub macs: Option<BTreeSet<String>>,
}

impl KnownPorts {
    /// What is known from a `HardwareData`, if there is one.
    pub fn new(boot_number: i64, hardware: Option<&HardwareDetails>) -> Self {
        let known = |hardware: &HardwareDetails| {
            let told = hardware.nics.iter().filter(|nic| nic.lldp.is_some());
            told.map(|nic| nic.mac.to_ascii_lowercase()).filter(|mac| !mac.is_empty()).collect()
        };
        Self { boot_number, macs: hardware.map(known) }
    }

    /// Whether nothing is to be learnt by waiting for this port: its switch is known, or could not be noted.
    pub fn settles(&self, mac: &str) -> bool {
        self.macs.as_ref().is_none_or(|macs| macs.contains(&mac.to_ascii_lowercase()))
    }
}

/// After so many failures in a row a BMC is taken for one that does not say what it is itself: some hang at what is asked for
/// here, and nothing else depends on it.
const MANAGER_TRIES: u32 = 5;

/// How the reasons of failures begin that are about network data.
pub const NETWORK_DATA: &str = "NetworkData";

/// The reason of the wait for the next try of a job that failed.
pub const RETRY: &str = "Retry";

/// A step that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// One word for conditions.
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// How often in a row.
    pub count: u32,
    /// When last.
    pub at: Timestamp,
    /// No next try before.
    pub not_before: Option<Timestamp>,
    /// Whether it was the BMC (rather than the agent or an image) that failed.
    pub from_bmc: bool,
    /// The job that failed, where it was one.
    pub job: Option<Job>,
    /// A next try asks the API server first, and the BMC only if a Secret was mended: it need not wait long.
    pub cheap: bool,
    /// An image was to be staged. Nothing else waits for the next try of that.
    pub staging: bool,
}

/// Longest pause after a failure whose next try is cheap.
const CHEAP_PAUSE: Duration = Duration::from_secs(30);
/// The pause after a staging that failed, doubled with each further one: each try switches the server on and off.
const STAGING_PAUSE: Duration = Duration::from_secs(300);
/// Longest pause after a staging that failed.
const STAGING_PAUSE_MAX: Duration = Duration::from_secs(6 * 3600);

impl Failure {
    /// When the step is tried next.
    pub fn retry_at(&self, limits: &Limits, seed: &str) -> Timestamp {
        let (first, max) = match (self.staging, self.cheap) {
            (true, _) => (STAGING_PAUSE, STAGING_PAUSE_MAX),
            (_, true) => (limits.backoff_first, limits.backoff_max.min(CHEAP_PAUSE)),
            _ => (limits.backoff_first, limits.backoff_max),
        };
        let pause = backoff::pause(first, max, self.count, seed);
        let at = self
            .at
            .saturating_add(jiff::SignedDuration::try_from(pause).unwrap_or_default())
            .unwrap_or(self.at);
        match self.not_before {
            Some(not_before) if not_before > at => not_before,
            _ => at,
        }
    }

    /// Whether a staging failed by what was asked for, or by what the agent is able to: another image may well run on this
    /// host, and the next host would fail at this one too.
    pub fn is_about_the_image(&self) -> bool {
        let reasons = [
            "ImageUnreachable",
            "ImageCorrupt",
            "ImageTooLarge",
            "ChecksumMismatch",
            "NoRootDisk",
            "AgentFailed",
        ];
        self.staging && reasons.contains(&&*self.reason)
    }

    /// Whether it is over since this job went well, after which the power is known to be so. That a BMC answers to a read
    /// does not mean that it does what it could not do before.
    fn is_over(&self, done: &Job, power: Option<PowerState>) -> bool {
        match &self.job {
            Some(Job::Power(action)) => done.changes_something() || power == Some(aim(*action)),
            Some(failed) if failed.changes_something() => done.changes_something(),
            Some(Job::Inspect) => *done == Job::Inspect || done.changes_something(),
            _ => true,
        }
    }

    /// Whether what failed is no longer wanted: its next try is due, and the plan is to do something else.
    pub fn is_moot(
        &self,
        step: &Step,
        running: Option<&Job>,
        limits: &Limits,
        seed: &str,
        now: Timestamp,
    ) -> bool {
        let (goes_on, rests) = match step {
            Step::Act(_) => (false, false),
            Step::Wait(wait) => (running.is_none() && wait.reason != RETRY, false),
            Step::Rest(_) => (running.is_none(), true),
        };
        // What the agent failed at may be what is waited for; of a host at rest nothing is wanted any more.
        let of_work = if self.from_bmc { self.job.is_some() } else { rests };
        // What is to be staged is not at rest before it is.
        goes_on && of_work && (self.staging || now >= self.retry_at(limits, seed))
    }
}

/// An image that could not be had. It stands until a fetch succeeds: also while the next one is under way.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFailure {
    /// One word for conditions.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
    /// How often in a row.
    pub count: u32,
    /// When the next fetch begins.
    pub retry_at: Timestamp,
}

/// What the next boot starts from, as far as this process has set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootSet {
    /// The agent, boot number.
    Agent(i64),
    /// The disk.
    Disk,
    /// The live ISO.
    LiveIso,
    /// The kernel that runs from memory.
    Kernel,
}

/// A registered agent, as this process knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentSeen {
    /// The number of its boot.
    pub boot: i64,
    /// When it was last seen connected; before the first time, when it was first seen registered.
    pub at: Timestamp,
    /// Whether it was ever seen connected.
    pub connected: bool,
}

/// What is remembered of a host's BMC.
#[derive(Debug, Clone)]
pub struct BmcMemory {
    /// When this process first saw the host.
    pub since: Timestamp,
    /// Facts of the last probe.
    pub facts: Option<Seen<SystemFacts>>,
    /// What the BMC said of itself last.
    pub manager: Option<Seen<ManagerFacts>>,
    /// How often in a row it failed to say that.
    manager_failures: u32,
    /// Power as last read.
    pub power: Option<Seen<PowerState>>,
    /// Something happened at the BMC: the power is to be read again, however lately it was read.
    pub nudged: bool,
    /// Hardware that was read and not yet saved.
    pub hardware: Option<Arc<HardwareDetails>>,
    /// Ports whose switches `HardwareData` knew, as read in an agent boot.
    pub ports: Option<KnownPorts>,
    /// Network cards of the machine, as `HardwareData` has them; `None`: it has not been read.
    pub cards: Option<Vec<MacAddress>>,
    /// When the last network boot began that nobody asked for.
    pub uninvited: Option<Timestamp>,
    /// The network of the agent, as read last.
    pub network: Option<Seen<AgentNetwork>>,
    /// Name of the Secret that it is, or was to be, read from.
    network_secret: Option<String>,
    /// What the next boot starts from.
    pub boot: Option<BootSet>,
    /// When this process commanded the power on, or saw the agent boot pending, last.
    pub boot_since: Option<Timestamp>,
    /// The registered agent of the current boot.
    pub agent: Option<AgentSeen>,
    /// When the consumer was first not found.
    pub consumer_missing_since: Option<Timestamp>,
    /// The job that is running.
    pub running: Option<Seen<Job>>,
    /// The failure that stands.
    pub failure: Option<Failure>,
    /// The failure of the image that stands.
    pub image_failure: Option<ImageFailure>,
    /// How many tries of the current agent task this process has used up.
    pub attempt: u32,
    /// What the BMC was connected with; a change drops the facts.
    pub address: Option<String>,
    /// Name and resourceVersion of the credentials in use.
    pub credentials: Option<(String, String)>,
}

impl BmcMemory {
    /// Nothing is known.
    pub fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            facts: None,
            manager: None,
            manager_failures: 0,
            power: None,
            nudged: false,
            hardware: None,
            ports: None,
            cards: None,
            uninvited: None,
            network: None,
            network_secret: None,
            boot: None,
            boot_since: None,
            agent: None,
            consumer_missing_since: None,
            running: None,
            failure: None,
            image_failure: None,
            attempt: 0,
            address: None,
            credentials: None,
        }
    }

    /// Forgets everything that was read from a BMC at another address.
    pub fn use_address(&mut self, address: &str) {
        if self.address.as_deref() != Some(address) {
            self.address = Some(address.to_owned());
            self.facts = None;
            (self.manager, self.manager_failures) = (None, 0);
            self.power = None;
            self.hardware = None;
            self.boot = None;
            self.failure = None;
        }
    }

    /// Forgets what was read of the agent's network, and what was wrong with it, when the host names another Secret.
    pub fn use_network(&mut self, secret: Option<&str>) {
        if self.network_secret.as_deref() != secret {
            self.network_secret = secret.map(str::to_owned);
            self.network = None;
            self.failure.take_if(|failure| failure.reason.starts_with(NETWORK_DATA));
        }
    }

    /// Takes in where the wanted image is; `None`: none is wanted.
    pub fn see_image(&mut self, image: Option<&ImageState>) {
        match image {
            Some(ImageState::Fetching { .. }) => {}
            None | Some(ImageState::Ready(_)) => self.image_failure = None,
            Some(ImageState::Failed { reason, message, retry_at, .. }) => {
                let before = self.image_failure.take();
                let count = match &before {
                    Some(before) if before.retry_at == *retry_at => before.count,
                    Some(before) => before.count + 1,
                    None => 1,
                };
                self.image_failure =
                    Some(ImageFailure { reason, message: message.clone(), count, retry_at: *retry_at });
            }
        }
    }

    /// A job begins. What happens at the BMC from here on may be missed by it.
    pub fn begin(&mut self, job: &Job, now: Timestamp) {
        if matches!(job, Job::Probe | Job::ReadPower | Job::Power(_)) {
            self.nudged = false;
        }
        self.running = Some(Seen { value: job.clone(), at: now });
    }

    fn see_manager(&mut self, manager: ManagerFacts, now: Timestamp) {
        self.manager = Some(Seen { value: manager, at: now });
        self.manager_failures = 0;
    }

    /// Takes in how a job ended.
    pub fn finish(&mut self, job: &Job, outcome: JobOutcome, now: Timestamp) {
        self.running = None;
        match outcome {
            JobOutcome::Failed { reason, message, not_before } => {
                if matches!(job, Job::Power(_)) {
                    // What the power is now has to be read again before anything is concluded from it.
                    self.power = None;
                }
                if *job == Job::ReadNetwork {
                    self.network = None;
                }
                if *job == Job::Power(PowerAction::On) {
                    // It may have been done all the same: the boot has its time from here on.
                    self.boot_since = Some(now);
                }
                self.fail(reason, message, not_before, *job != Job::ReadNetwork, now);
                if let Some(failure) = self.failure.as_mut() {
                    failure.job = Some(job.clone());
                    failure.cheap = *job == Job::ReadNetwork;
                }
                if *job == Job::ReadManager {
                    self.manager_failures += 1;
                    if self.manager_failures >= MANAGER_TRIES {
                        self.see_manager(ManagerFacts::default(), now);
                    }
                }
                return;
            }
            JobOutcome::Facts(facts) => {
                // What is not said is not known: it is read by itself, which fails if it is not said then either.
                let said = Some(facts.power).filter(|power| *power != PowerState::Unknown);
                self.power = said.map(|value| Seen { value, at: now });
                self.facts = Some(Seen { value: facts, at: now });
            }
            JobOutcome::Network(network) => {
                self.network = Some(Seen { value: network, at: now });
                self.failure.take_if(|failure| failure.reason.starts_with(NETWORK_DATA));
                return;
            }
            JobOutcome::Manager(manager) => self.see_manager(manager, now),
            JobOutcome::Hardware(hardware) => self.hardware = Some(Arc::from(hardware)),
            JobOutcome::Power(power) => {
                self.power = Some(Seen { value: power, at: now });
                if power == PowerState::On && matches!(job, Job::Power(_)) {
                    self.boot_since = Some(now);
                    // Some BMCs know one-time settings only, which are spent now: it is set again before the next start.
                    self.boot.take_if(|set| *set == BootSet::Kernel);
                }
                if power == PowerState::Unknown && *job == Job::Power(PowerAction::On) {
                    // A magic packet, of several for one boot: the boot has its time from the first of them on.
                    self.boot_since.get_or_insert(now);
                }
            }
            JobOutcome::Done => match job {
                Job::BootAgent(number) => self.boot = Some(BootSet::Agent(*number)),
                Job::BootDisk => self.boot = Some(BootSet::Disk),
                Job::BootLiveIso => self.boot = Some(BootSet::LiveIso),
                Job::BootKernel => self.boot = Some(BootSet::Kernel),
                _ => {}
            },
        }
        let power = self.power_state();
        self.failure.take_if(|failure| failure.from_bmc && failure.is_over(job, power));
    }

    /// Takes in the health that was seen last. Where it is another than that of the facts, a probe is to name the parts.
    pub fn see_health(&mut self, seen: Option<String>) {
        self.facts.take_if(|facts| seen.is_some() && facts.value.health != seen);
    }

    /// Notes a failure; counts it when one stands already.
    pub fn fail(
        &mut self,
        reason: String,
        message: String,
        not_before: Option<Timestamp>,
        from_bmc: bool,
        now: Timestamp,
    ) {
        let count = self.failure.as_ref().map_or(0, |f| f.count) + 1;
        self.failure = Some(Failure {
            reason,
            message,
            count,
            at: now,
            not_before,
            from_bmc,
            job: None,
            cheap: false,
            staging: false,
        });
    }

    /// Notes that the agent failed at a task, the next try of which is another task. `staging`: it was to stage an image.
    pub fn fail_task(&mut self, reason: String, message: String, staging: bool, now: Timestamp) {
        if staging {
            // How often something else failed before says nothing of how soon this may be tried.
            self.failure.take_if(|failure| !failure.staging);
        }
        self.fail(reason, message, None, false, now);
        if let Some(failure) = self.failure.as_mut() {
            failure.staging = staging;
        }
        self.attempt += 1;
    }

    /// Notes a change of the record. What has failed on the way to a clean or a running machine is over then.
    pub fn wrote(&mut self, write: &RecordWrite) {
        match write {
            RecordWrite::Cleaned { .. } => {
                self.attempt = 0;
                // Whether the BMC answers is not known by that.
                self.failure.take_if(|failure| !failure.from_bmc);
            }
            RecordWrite::StartDisk { .. } => {
                self.attempt = 0;
                self.failure = None;
            }
            RecordWrite::BeginBoot { .. } => {
                self.attempt = 0;
                self.boot_since = None;
                // An earlier magic packet was not sent for this boot.
                self.power.take_if(|power| power.value == PowerState::Unknown);
            }
            RecordWrite::ClearRetry => {
                self.failure = None;
                self.manager = None;
            }
            // What has failed on the way to an agent that nobody waits for any more, or that is there now.
            RecordWrite::EndBoot | RecordWrite::StandBy => {
                self.failure.take_if(|failure| !failure.from_bmc);
            }
            // A staging that failed is tried again later: meanwhile the server is off.
            RecordWrite::StandDown => {
                self.failure.take_if(|failure| !failure.from_bmc && !failure.staging);
            }
            // Something else is written there, or nothing.
            RecordWrite::BeginStage { .. }
            | RecordWrite::BeginWrite { .. }
            | RecordWrite::Unstage
            | RecordWrite::DropStaged => {
                self.failure.take_if(|failure| failure.staging);
            }
            RecordWrite::FinishStage { .. } => {
                self.attempt = 0;
                self.failure.take_if(|failure| !failure.from_bmc);
            }
            _ => {}
        }
    }

    /// Notes of which boot an agent is registered, if any, and whether it is connected. When the agent of an earlier boot was
    /// there says nothing about this one.
    pub fn see_agent(&mut self, registered: Option<i64>, connected: bool, now: Timestamp) {
        let known = self.agent.filter(|known| Some(known.boot) == registered && !connected);
        self.agent = registered.map(|boot| known.unwrap_or(AgentSeen { boot, at: now, connected }));
    }

    /// Power as last read.
    pub fn power_state(&self) -> Option<PowerState> {
        self.power.as_ref().map(|p| p.value)
    }
}
