//! What a plan says: one step, and what an operator is told meanwhile.

use std::time::Duration;

use ferric_api::ProvisioningState;
use ferric_api::host::{CleaningMode, ErrorType};
use jiff::Timestamp;

use super::{Job, RecordWrite};

/// One decision about a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where in its life the host is.
    pub state: ProvisioningState,
    /// What is done now.
    pub step: Step,
    /// The error that stands.
    pub error: Option<PlanError>,
    /// Why the host is left alone: reason and sentence.
    pub paused: Option<String>,
    /// What to say about `Registered`, when it is not simply what the facts say.
    pub registered: Option<(bool, &'static str, String)>,
}

/// The error that stands on a host.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanError {
    /// Kind as in Metal3.
    pub kind: ErrorType,
    /// One word.
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// How often in a row.
    pub count: u32,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
}

/// What is done now.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Do this, then plan again.
    Act(Action),
    /// Nothing to do until something happens.
    Wait(Wait),
    /// Nothing to do; look again after a while.
    Rest(Duration),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start a job on the BMC. `guarded`: the host is read again from the API first, and nothing is done if it changed.
    Job {
        /// The job.
        job: Job,
        /// Whether it may destroy something.
        guarded: bool,
    },
    /// Save the hardware that was read, then note in the record that the host is inspected.
    SaveHardware,
    /// Read of which ports the switches are known to `HardwareData`.
    LearnPorts,
    /// Change the record, with the host's resourceVersion. `guarded` as above.
    Write {
        /// The change.
        write: RecordWrite,
        /// Whether something destructive follows from it.
        guarded: bool,
    },
    /// Give the agent a task.
    Task(AgentTask),
    /// Count a failed task and try it again later.
    TaskFailed {
        /// One word.
        reason: String,
        /// One sentence.
        message: String,
        /// Whether an image was to be staged.
        staging: bool,
    },
    /// Count an agent boot that did not come up, and boot anew later.
    BootFailed {
        /// One sentence.
        message: String,
    },
    /// Count a server without a BMC as not woken. Its agent boot stays open: somebody may press the button.
    NotWoken {
        /// One sentence.
        message: String,
    },
}

/// A task for the agent.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentTask {
    /// Wipe.
    Clean {
        /// Task ID.
        id: String,
        /// How much.
        mode: CleaningMode,
    },
    /// Write the image and the config drive.
    Deploy {
        /// Task ID.
        id: String,
    },
    /// Write the image that is to be kept on the disk of the free host.
    Stage {
        /// Task ID.
        id: String,
    },
    /// Start the kernel that was loaded from the written disk.
    Kexec {
        /// Task ID.
        id: String,
    },
    /// Restart the machine through its firmware.
    Restart {
        /// Task ID.
        id: String,
    },
    /// Switch the machine off.
    PowerOff {
        /// Task ID.
        id: String,
    },
}

impl AgentTask {
    /// The task ID.
    pub fn id(&self) -> &str {
        match self {
            Self::Clean { id, .. }
            | Self::Deploy { id }
            | Self::Stage { id }
            | Self::Kexec { id }
            | Self::Restart { id }
            | Self::PowerOff { id } => id,
        }
    }
}

/// A wait: what for, by when it becomes a problem, and when to look again.
#[derive(Debug, Clone, PartialEq)]
pub struct Wait {
    /// One word.
    pub reason: &'static str,
    /// One sentence that says what is waited for.
    pub message: String,
    /// When the wait is counted as failed.
    pub deadline: Option<Timestamp>,
    /// When to look again even if nothing happens.
    pub wake: Duration,
    /// Per cent done, if that is known.
    pub progress: Option<i32>,
}

impl Wait {
    /// A wait without a deadline.
    pub fn new(reason: &'static str, message: impl Into<String>, wake: Duration) -> Self {
        Self { reason, message: message.into(), deadline: None, wake, progress: None }
    }

    /// The same with a deadline.
    #[must_use]
    pub fn until(mut self, deadline: Timestamp) -> Self {
        self.deadline = Some(deadline);
        self
    }
}
