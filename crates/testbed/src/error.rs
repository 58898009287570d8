//! What can go wrong while the test bed is built, started or used.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// An error of the test bed. Each message carries what is needed to act on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, such as `create` or `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program is in none of the asset folders and cannot be built, because there is no Go tool chain.
    #[error(
        "{binary} is in none of the asset folders ({searched}) and cannot be built because `go` is not on the PATH: \
         install Go 1.26 or newer, or set FERRIC_ASSETS to a folder that holds {binary}"
    )]
    GoMissing {
        /// The missing program.
        binary: String,
        /// The folders that were looked into.
        searched: String,
    },
    /// A program could not be built.
    #[error("building {binary} failed ({status}); the last lines of the compiler were:\n{output}")]
    Build {
        /// The program.
        binary: String,
        /// How the compiler ended.
        status: String,
        /// The end of its output.
        output: String,
    },
    /// The asset folders cannot be determined or are incomplete.
    #[error("{0}")]
    Assets(String),
    /// A certificate or key could not be made.
    #[error("cannot make {what}: {source}")]
    Certificate {
        /// Which certificate or key.
        what: String,
        /// Why it failed.
        source: rcgen::Error,
    },
    /// A port could not be claimed.
    #[error("cannot claim TCP port {number}: {source}")]
    PortClaim {
        /// The port.
        number: u16,
        /// Why it failed.
        source: std::io::Error,
    },
    /// No free port was found.
    #[error("no free TCP port between {from} and {to} on {address}")]
    NoFreePort {
        /// First port tried.
        from: u16,
        /// Last port tried.
        to: u16,
        /// The address on which it was to be free.
        address: std::net::IpAddr,
    },
    /// A program could not be started at all.
    #[error("cannot start {name} ({program}): {source}")]
    Spawn {
        /// The process as the bed calls it.
        name: String,
        /// The program that was to run.
        program: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A process ended although it should be running.
    #[error("{name} ended with {status} while waiting for {what}; the end of {}:\n{tail}", log.display())]
    Exited {
        /// The process.
        name: String,
        /// How it ended.
        status: String,
        /// What was being waited for.
        what: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A condition did not come true in time.
    #[error("{what} did not happen within {} s; last seen: {last}{detail}", limit.as_secs_f32())]
    Timeout {
        /// The condition.
        what: String,
        /// How long was waited.
        limit: Duration,
        /// The last answer of the probe.
        last: String,
        /// More to go on, such as the end of a log. Empty, or starts with a line feed.
        detail: String,
    },
    /// A helper program such as `kubectl` answered with a failure.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it printed as an error.
        stderr: String,
    },
    /// A request to a kube-apiserver failed.
    #[error("cannot {action}: {source}")]
    Kube {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: Box<kube::Error>,
    },
    /// Something read was not what it should be.
    #[error("{what} is not usable: {reason}")]
    Malformed {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The result of an operation of the test bed.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps an I/O error with the path and the action it belongs to.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { action, path, source }
    }

    /// Wraps a Kubernetes error with the action it belongs to.
    pub(crate) fn kube(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Kube { action, source: Box::new(source) }
    }

    /// Names something that was read and why it is of no use.
    pub(crate) fn malformed(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Malformed { what: what.into(), reason: reason.to_string() }
    }
}
