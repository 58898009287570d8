//! The life of one server as a pure state machine: `(state, event) → (state, actions)`. Nothing here waits, reads or
//! writes; the shell in [`crate::server`] does what the actions say and reports back with events.
//!
//! Every power-on, reset and power-off begins a new *epoch*. Events carry the epoch in which their work was begun, and
//! those of a past epoch are ignored: an agent that was killed cannot reboot the server it ran on.

use serde::{Deserialize, Serialize};

/// How often firmware tries a boot source before it goes on to the next.
const FETCH_TRIES: u8 = 20;

/// Power as the BMC reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// Off.
    Off,
    /// On the way on.
    PoweringOn,
    /// On.
    On,
    /// On the way off.
    PoweringOff,
}

/// What runs on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing: the power is off, or changes.
    Dark,
    /// Firmware's self test.
    Post,
    /// Firmware fetches boot media.
    Fetching { source: Source, url: String, tries: u8 },
    /// The agent runs from memory.
    Agent,
    /// The boot loader looks at the disk.
    ReadingDisk,
    /// The operating system on the disk runs.
    Os,
    /// An operating system runs from the virtual CD.
    LiveOs,
    /// A system of its own, run from memory by kernel and initramfs.
    SystemInMemory,
    /// Firmware found nothing to boot.
    NoBootableDisk(String),
    /// Firmware waits for a PXE server, of which there is none in this world.
    HangsAtPxe,
    /// The agent or the operating system stopped; the power is still on.
    Crashed(String),
}

impl Phase {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Dark => "Off",
            Self::Post => "Post",
            Self::Fetching { .. } => "FetchingBootMedia",
            Self::Agent => "AgentRunning",
            Self::ReadingDisk => "ReadingDisk",
            Self::Os => "OSRunning",
            Self::LiveOs => "LiveISORunning",
            Self::SystemInMemory => "SystemInMemoryRunning",
            Self::NoBootableDisk(_) => "NoBootableDisk",
            Self::HangsAtPxe => "HangsAtPxe",
            Self::Crashed(_) => "Crashed",
        }
    }

    pub(crate) fn detail(&self) -> &str {
        match self {
            Self::Fetching { url, .. } => url,
            Self::NoBootableDisk(why) | Self::Crashed(why) => why,
            _ => "",
        }
    }
}

/// Where a boot comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    UefiHttp,
    Cd,
    Pxe,
    Disk,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::UefiHttp => "UefiHttp",
            Self::Cd => "Cd",
            Self::Pxe => "Pxe",
            Self::Disk => "Disk",
        }
    }
}

/// What a boot override comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BootTarget {
    None,
    Pxe,
    Cd,
    Hdd,
    UefiHttp,
}

/// `BootSourceOverrideEnabled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BootEnabled {
    Disabled,
    Once,
    Continuous,
}

/// `BootSourceOverrideMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BootMode {
    #[serde(rename = "UEFI")]
    Uefi,
    Legacy,
}

/// Boot settings as the BMC keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootSettings {
    pub(crate) target: BootTarget,
    pub(crate) enabled: BootEnabled,
    pub(crate) mode: BootMode,
    pub(crate) http_boot_uri: Option<String>,
    /// The BMC's own word for the target, where it was set by that.
    pub(crate) named: Option<&'static str>,
    /// The entry of the firmware's list that is meant, as it was given.
    pub(crate) option: Option<String>,
}

/// `ResetType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResetType {
    On,
    ForceOff,
    GracefulShutdown,
    GracefulRestart,
    ForceRestart,
    PowerCycle,
}

/// What a server is and does at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) power: Power,
    pub(crate) phase: Phase,
    pub(crate) boot: BootSettings,
    /// URL of the inserted virtual CD.
    pub(crate) media: Option<String>,
    pub(crate) epoch: u64,
    /// Why the power changes, for the journal.
    cause: String,
    /// Power comes back after it has gone (power cycle).
    then_on: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The BMC was told to.
    Reset(ResetType),
    /// A wait is over.
    Due { epoch: u64, timer: Timer },
    /// Boot media came, or not.
    Fetched { epoch: u64, outcome: Result<BootProgram, String> },
    /// The disk was looked at: it boots, or why not.
    DiskRead { epoch: u64, outcome: Result<(), String> },
    /// The agent or the operating system ended.
    Exited { epoch: u64, exit: Exit },
}

/// What boot media hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BootProgram {
    /// A kernel with these arguments: the agent.
    Kernel { arguments: String },
    /// A system of its own, on an ISO image.
    LiveIso,
    /// A system of its own, as kernel and initramfs.
    System,
    /// The word to go on to the disk.
    NextSource,
}

/// How an agent or an operating system ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    Reboot,
    /// The agent starts what it wrote, without the firmware.
    Kexec,
    PowerOff,
    Crash(String),
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    PowerOn,
    PowerOff,
    Post,
    Retry,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// End at once whatever runs on the server.
    Stop,
    /// Report [`Event::Due`] later.
    Wait { epoch: u64, timer: Timer },
    /// Fetch boot media, report [`Event::Fetched`].
    Fetch { epoch: u64, url: String },
    /// Run the agent, report [`Event::Exited`].
    RunAgent { epoch: u64, arguments: String },
    /// Look at the disk, report [`Event::DiskRead`].
    ReadDisk { epoch: u64 },
    /// Run the operating system, report [`Event::Exited`].
    RunOs { epoch: u64 },
    /// Note a power change.
    NotePower { on: bool, cause: String },
    /// Note a try to boot.
    NoteBoot { source: Source, url: Option<String> },
}

impl Default for Life {
    fn default() -> Self {
        Self {
            power: Power::Off,
            phase: Phase::Dark,
            boot: BootSettings {
                target: BootTarget::None,
                enabled: BootEnabled::Disabled,
                mode: BootMode::Uefi,
                http_boot_uri: None,
                named: None,
                option: None,
            },
            media: None,
            epoch: 0,
            cause: String::new(),
            then_on: false,
        }
    }
}

/// Why a reset is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict;

impl Life {
    /// The state in one word.
    pub(crate) fn state(&self) -> &'static str {
        match (&self.phase, self.power) {
            (Phase::Dark, Power::PoweringOn) => "PoweringOn",
            (Phase::Dark, Power::PoweringOff) => "PoweringOff",
            (phase, _) => phase.name(),
        }
    }

    /// Whether a reset makes sense now; the BMC answers 409 if not.
    pub(crate) fn accepts(&self, reset: ResetType) -> Result<(), Conflict> {
        let restart =
            matches!(reset, ResetType::ForceRestart | ResetType::GracefulRestart | ResetType::PowerCycle);
        match (self.power, reset) {
            (Power::Off, _) if restart => Err(Conflict),
            (Power::PoweringOff, _) if restart || reset == ResetType::On => Err(Conflict),
            (Power::PoweringOn, _) if restart => Err(Conflict),
            _ => Ok(()),
        }
    }

    /// One step. Events of a past epoch and resets that are not accepted change nothing.
    pub(crate) fn step(mut self, event: Event) -> (Self, Vec<Action>) {
        let actions = match event {
            Event::Reset(reset) => self.reset(reset),
            Event::Due { epoch, .. }
            | Event::Fetched { epoch, .. }
            | Event::DiskRead { epoch, .. }
            | Event::Exited { epoch, .. }
                if epoch != self.epoch =>
            {
                Vec::new()
            }
            Event::Due { timer, .. } => self.due(timer),
            Event::Fetched { outcome, .. } => self.fetched(outcome),
            Event::DiskRead { outcome, .. } => self.disk_read(outcome),
            Event::Exited { exit, .. } => self.exited(exit),
        };
        (self, actions)
    }

    fn reset(&mut self, reset: ResetType) -> Vec<Action> {
        if self.accepts(reset).is_err() {
            return Vec::new();
        }
        let os_runs = matches!(self.phase, Phase::Os | Phase::LiveOs | Phase::SystemInMemory);
        let lit = matches!(self.power, Power::On | Power::PoweringOn);
        match reset {
            ResetType::On if self.power == Power::Off => self.power_on(format!("{reset:?}")),
            ResetType::ForceOff if lit => self.power_off(format!("{reset:?}"), false),
            // Only an operating system hears the button; firmware and the agent do not.
            ResetType::GracefulShutdown if os_runs => self.power_off(format!("{reset:?}"), false),
            ResetType::GracefulRestart if os_runs => self.restart(format!("{reset:?}")),
            ResetType::ForceRestart => self.restart(format!("{reset:?}")),
            ResetType::PowerCycle => self.power_off(format!("{reset:?}"), true),
            _ => Vec::new(),
        }
    }

    fn power_on(&mut self, cause: String) -> Vec<Action> {
        self.epoch += 1;
        self.cause = cause;
        self.power = Power::PoweringOn;
        self.phase = Phase::Dark;
        vec![Action::Wait { epoch: self.epoch, timer: Timer::PowerOn }]
    }

    fn power_off(&mut self, cause: String, then_on: bool) -> Vec<Action> {
        self.epoch += 1;
        self.cause = cause;
        self.then_on = then_on;
        self.power = Power::PoweringOff;
        self.phase = Phase::Dark;
        vec![Action::Stop, Action::Wait { epoch: self.epoch, timer: Timer::PowerOff }]
    }

    fn restart(&mut self, cause: String) -> Vec<Action> {
        self.epoch += 1;
        self.phase = Phase::Post;
        vec![
            Action::Stop,
            Action::NotePower { on: true, cause },
            Action::Wait { epoch: self.epoch, timer: Timer::Post },
        ]
    }

    fn due(&mut self, timer: Timer) -> Vec<Action> {
        match (timer, self.power) {
            (Timer::PowerOn, Power::PoweringOn) => {
                self.power = Power::On;
                self.phase = Phase::Post;
                let cause = self.cause.clone();
                vec![
                    Action::NotePower { on: true, cause },
                    Action::Wait { epoch: self.epoch, timer: Timer::Post },
                ]
            }
            (Timer::PowerOff, Power::PoweringOff) => {
                self.power = Power::Off;
                let cause = self.cause.clone();
                let mut actions = vec![Action::NotePower { on: false, cause: cause.clone() }];
                if std::mem::take(&mut self.then_on) {
                    actions.extend(self.power_on(cause));
                }
                actions
            }
            (Timer::Post, Power::On) if self.phase == Phase::Post => self.boot(),
            (Timer::Retry, Power::On) => match &self.phase {
                Phase::Fetching { url, .. } => {
                    vec![Action::Fetch { epoch: self.epoch, url: url.clone() }]
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// Firmware chooses what to boot: the override, if there is one, and then the disk.
    fn boot(&mut self) -> Vec<Action> {
        let target =
            if self.boot.enabled == BootEnabled::Disabled { BootTarget::None } else { self.boot.target };
        if self.boot.enabled == BootEnabled::Once {
            self.boot.enabled = BootEnabled::Disabled;
            self.boot.target = BootTarget::None;
            (self.boot.named, self.boot.option) = (None, None);
        }
        match target {
            BootTarget::UefiHttp => self.fetch(Source::UefiHttp, self.boot.http_boot_uri.clone()),
            BootTarget::Cd => self.fetch(Source::Cd, self.media.clone()),
            BootTarget::Pxe => {
                self.phase = Phase::HangsAtPxe;
                vec![Action::NoteBoot { source: Source::Pxe, url: None }]
            }
            BootTarget::None | BootTarget::Hdd => self.boot_disk(),
        }
    }

    fn fetch(&mut self, source: Source, url: Option<String>) -> Vec<Action> {
        let note = Action::NoteBoot { source, url: url.clone() };
        match url {
            Some(url) => {
                self.phase = Phase::Fetching { source, url: url.clone(), tries: 1 };
                vec![note, Action::Fetch { epoch: self.epoch, url }]
            }
            // An empty drive, or no address: firmware goes on.
            None => std::iter::once(note).chain(self.boot_disk()).collect(),
        }
    }

    fn boot_disk(&mut self) -> Vec<Action> {
        self.phase = Phase::ReadingDisk;
        vec![Action::NoteBoot { source: Source::Disk, url: None }, Action::ReadDisk { epoch: self.epoch }]
    }

    fn fetched(&mut self, outcome: Result<BootProgram, String>) -> Vec<Action> {
        let Phase::Fetching { tries, .. } = &mut self.phase else { return Vec::new() };
        match outcome {
            Ok(BootProgram::Kernel { arguments }) => {
                self.phase = Phase::Agent;
                vec![Action::RunAgent { epoch: self.epoch, arguments }]
            }
            Ok(BootProgram::LiveIso) => {
                self.phase = Phase::LiveOs;
                Vec::new()
            }
            Ok(BootProgram::System) => {
                self.phase = Phase::SystemInMemory;
                Vec::new()
            }
            Ok(BootProgram::NextSource) => self.boot_disk(),
            Err(_) if *tries < FETCH_TRIES => {
                *tries += 1;
                vec![Action::Wait { epoch: self.epoch, timer: Timer::Retry }]
            }
            Err(_) => self.boot_disk(),
        }
    }

    fn disk_read(&mut self, outcome: Result<(), String>) -> Vec<Action> {
        if self.phase != Phase::ReadingDisk {
            return Vec::new();
        }
        match outcome {
            Ok(()) => {
                self.phase = Phase::Os;
                vec![Action::RunOs { epoch: self.epoch }]
            }
            Err(why) => {
                self.phase = Phase::NoBootableDisk(why);
                Vec::new()
            }
        }
    }

    fn exited(&mut self, exit: Exit) -> Vec<Action> {
        let who = match self.phase {
            Phase::Agent => "Agent",
            Phase::Os => "OS",
            _ => return Vec::new(),
        };
        match exit {
            Exit::Reboot => self.restart(format!("{who}Reboot")),
            Exit::Kexec => {
                self.epoch += 1;
                self.phase = Phase::ReadingDisk;
                vec![Action::Stop, Action::ReadDisk { epoch: self.epoch }]
            }
            Exit::PowerOff => {
                self.epoch += 1;
                self.power = Power::Off;
                self.phase = Phase::Dark;
                vec![Action::Stop, Action::NotePower { on: false, cause: format!("{who}PowerOff") }]
            }
            Exit::Crash(why) => {
                self.phase = Phase::Crashed(format!("{who}: {why}"));
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
