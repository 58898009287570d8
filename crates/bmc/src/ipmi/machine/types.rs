//! What goes into the state machine and what comes out of it.

use std::time::Duration;

use crate::ipmi::keys::UserKey;
use crate::ipmi::suite::Suite;

/// Privilege levels (6.8, and 22.18 for their numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Privilege {
    /// Reads what is harmless.
    User = 2,
    /// Controls power and boot.
    Operator = 3,
    /// Configures the BMC.
    Administrator = 4,
}

impl Privilege {
    /// The name as addresses and operators write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::Operator => "OPERATOR",
            Self::Administrator => "ADMINISTRATOR",
        }
    }
}

/// Who logs in, and how.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// User name, at most 16 bytes.
    pub(crate) username: Vec<u8>,
    /// The password.
    pub(crate) user: UserKey,
    /// Cipher suites that are taken, best first.
    pub(crate) suites: Vec<Suite>,
    /// The highest privilege that a session asks for.
    pub(crate) privilege: Privilege,
    /// How long to wait for what.
    pub(crate) timing: Timing,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// For an answer to the first, second, ... sending of the same.
    pub(crate) waits: &'static [Duration],
    /// A session that said nothing for so long is taken for expired; BMCs end it after 60 s (6.12.15), give or take 3.
    pub(crate) expiry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        const WAITS: [Duration; 4] =
            [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3), Duration::from_secs(4)];
        Self { waits: &WAITS, expiry: Duration::from_secs(50) }
    }
}

impl Timing {
    /// Until the last sending is given up.
    pub(crate) fn total(&self) -> Duration {
        self.waits.iter().sum()
    }
}

/// Where randomness comes from.
pub(crate) trait Chance: Send {
    /// Fills with unpredictable bytes.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// What may happen when no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Done twice is as done once: it is sent again, also in a new session.
    Freely,
    /// Done twice is worse than not done: it is sent once.
    Never,
}

/// A question to the BMC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Network function, even.
    pub(crate) netfn: u8,
    /// Command.
    pub(crate) command: u8,
    /// Its data.
    pub(crate) data: Vec<u8>,
    /// Privilege that it needs (appendix G).
    pub(crate) privilege: Privilege,
    /// What may happen when no answer came.
    pub(crate) repeat: Repeat,
}

/// What the BMC answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Completion code; 0 is done.
    pub(crate) code: u8,
    /// What came with it.
    pub(crate) data: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It never said anything.
    Silent {
        /// How long it was asked.
        after: Duration,
        /// Whether it answered to an ASF presence ping.
        pong: bool,
    },
    /// It stopped answering.
    NoAnswer {
        /// To what.
        what: &'static str,
        /// How long it was asked.
        after: Duration,
    },
    /// It did not answer to what is sent only once: whether it was done is not known.
    Unconfirmed {
        /// How long it was waited for.
        after: Duration,
    },
    /// It does not speak IPMI v2.0.
    OldVersion,
    /// It has no cipher suite that is taken.
    NoSuite {
        /// What it has instead, or what it said, as an end of a sentence.
        message: String,
    },
    /// The user name or the password is wrong.
    Credentials {
        /// Which, as an end of a sentence.
        message: &'static str,
    },
    /// The user may not have the privilege.
    Privilege {
        /// Which.
        wanted: Privilege,
        /// Whether the address allows no more.
        by_address: bool,
    },
    /// All its sessions are taken.
    SlotsFull,
    /// It refused a step of the login otherwise.
    Refused {
        /// Which step.
        what: &'static str,
        /// Why.
        why: &'static str,
    },
    /// The session is being closed.
    Closing,
}
