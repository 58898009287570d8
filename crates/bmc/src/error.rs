//! What can go wrong with a BMC, and which of it passes by waiting.

use std::time::Duration;

use tokio::time::Instant;

/// What went wrong. The text is a sentence for an operator; [`BmcError::reason`] is for conditions and counters.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BmcError {
    /// No connection: refused, no route, no such name, reset.
    #[error("the BMC at {address} cannot be reached: {message}")]
    Unreachable {
        /// Scheme, host and port.
        address: String,
        /// What the transport said.
        message: String,
    },
    /// No answer in time.
    #[error("the BMC did not finish {what} within {} s", .after.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The credentials were refused.
    #[error("the BMC refuses the credentials ({message}): mend the Secret{}", not_before(.retry_at))]
    Unauthorized {
        /// What the BMC said.
        message: String,
        /// The same credentials are not tried again before; BMCs lock accounts.
        retry_at: Option<Instant>,
    },
    /// The certificate of the BMC is not trusted.
    #[error("the certificate of the BMC at {address} is rejected: {message}")]
    CertificateRejected {
        /// Scheme, host and port.
        address: String,
        /// Why.
        message: String,
    },
    /// The BMC cannot do what was asked for.
    #[error("the BMC does not support {what}")]
    NotSupported {
        /// What was asked for.
        what: String,
    },
    /// Several systems, and the address names none of them, or nothing that can be taken for the system.
    #[error("{message}")]
    NoSystem {
        /// What was found, and the remedy.
        message: String,
    },
    /// An answer that refuses.
    #[error("the BMC answered {status} to {method} {url}: {message}")]
    Unexpected {
        /// HTTP status.
        status: u16,
        /// HTTP method.
        method: String,
        /// Where.
        url: String,
        /// What the BMC said in `@Message.ExtendedInfo`, or the beginning of the body.
        message: String,
    },
    /// A refusal of a protocol without HTTP status.
    #[error("the BMC refuses {what}: {message}")]
    CommandRefused {
        /// What was asked for.
        what: String,
        /// Why, and the remedy.
        message: String,
    },
    /// The BMC or the server is busy, or the state changed in between. Try again.
    #[error("the BMC is busy: {message} (at {url})")]
    Busy {
        /// HTTP status; 0 where nothing was sent since too many wait already.
        status: u16,
        /// Where.
        url: String,
        /// What the BMC said.
        message: String,
        /// What `Retry-After` said.
        retry_after: Option<Duration>,
    },
    /// A task that the BMC accepted ended badly.
    #[error("the BMC accepted {what}, and its task ended as {state}: {message}")]
    TaskFailed {
        /// What was asked for.
        what: String,
        /// The state of the task.
        state: String,
        /// What the BMC said.
        message: String,
    },
    /// An answer that cannot be read: not JSON, cut short, too large.
    #[error("the answer of the BMC to {url} cannot be read: {message}")]
    Malformed {
        /// Where.
        url: String,
        /// Why.
        message: String,
    },
    /// The BMC failed repeatedly and is left alone for a while.
    #[error("the BMC failed repeatedly and is left alone{}: {last}", not_before(&Some(*.until)))]
    CircuitOpen {
        /// When it is tried again.
        until: Instant,
        /// The last failure.
        last: String,
    },
    /// There is no driver for the scheme yet.
    #[error("there is no driver for BMC scheme {scheme:?} yet")]
    DriverNotAvailable {
        /// The scheme.
        scheme: String,
    },
    /// The options make no connection: e.g. a CA that is no PEM.
    #[error("the BMC cannot be connected to as configured: {message}")]
    BadOptions {
        /// What is wrong and the remedy.
        message: String,
    },
}

fn not_before(at: &Option<Instant>) -> String {
    at.map(|at| format!("; next try in {} s", at.saturating_duration_since(Instant::now()).as_secs()))
        .unwrap_or_default()
}

impl BmcError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Busy { .. }
            | Self::TaskFailed { .. }
            | Self::Malformed { .. }
            | Self::CircuitOpen { .. } => true,
            Self::Unexpected { status, .. } => *status >= 500 || *status == 404,
            Self::Unauthorized { .. }
            | Self::CertificateRejected { .. }
            | Self::NotSupported { .. }
            | Self::CommandRefused { .. }
            | Self::NoSystem { .. }
            | Self::DriverNotAvailable { .. }
            | Self::BadOptions { .. } => false,
        }
    }

    /// Whether the BMC did not let itself be asked at all: more questions would fail alike.
    pub(crate) fn is_of_connection(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Timeout { .. }
                | Self::Unauthorized { .. }
                | Self::CertificateRejected { .. }
                | Self::CircuitOpen { .. }
                | Self::BadOptions { .. }
                | Self::DriverNotAvailable { .. }
        )
    }

    /// Reason for a condition or the name of a counter.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "BMCUnreachable",
            Self::Timeout { .. } => "BMCTimeout",
            Self::Unauthorized { .. } => "BMCUnauthorized",
            Self::CertificateRejected { .. } => "BMCCertificateRejected",
            Self::NotSupported { .. } => "BMCNotSupported",
            Self::NoSystem { .. } => "BMCNoSystem",
            Self::Unexpected { .. } => "BMCUnexpectedAnswer",
            Self::CommandRefused { .. } => "BMCCommandRefused",
            Self::Busy { .. } => "BMCBusy",
            Self::TaskFailed { .. } => "BMCTaskFailed",
            Self::Malformed { .. } => "BMCMalformedAnswer",
            Self::CircuitOpen { .. } => "BMCCircuitOpen",
            Self::DriverNotAvailable { .. } => "DriverNotAvailable",
            Self::BadOptions { .. } => "BMCBadOptions",
        }
    }

    /// How long to wait at least before the next try, if the error knows.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unauthorized { retry_at, .. } => {
                retry_at.map(|at| at.saturating_duration_since(Instant::now()))
            }
            Self::CircuitOpen { until, .. } => Some(until.saturating_duration_since(Instant::now())),
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
