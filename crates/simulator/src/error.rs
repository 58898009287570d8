//! What can go wrong when a fleet is started or asked.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration describes no possible fleet.
    #[error("the fleet cannot be: {0}")]
    Config(String),
    /// There is no such server.
    #[error("there is no server {0:?}")]
    NoServer(String),
    /// A file or folder could not be used.
    #[error("could not {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The listener could not be had.
    #[error("could not listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A key or certificate could not be made.
    #[error("could not make {what}: {source}")]
    Certificate {
        /// What for.
        what: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// TLS was refused a configuration.
    #[error("could not set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A client for boot media could not be made.
    #[error("could not set up an HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

impl Error {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
