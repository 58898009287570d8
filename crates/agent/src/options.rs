//! How the agent behaves. The defaults are those of a real machine.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::erase::Pace;

/// Limits and intervals.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Told to the provider.
    pub version: String,
    /// Without hints, a smaller disk is not taken for the root disk.
    pub min_root_bytes: u64,
    /// How much of an image is written at once.
    pub block_bytes: usize,
    /// How many agents of this process may write at the same time. A machine has one agent; a simulator thousands.
    pub write_permits: Option<Arc<Semaphore>>,
    /// How often a disk that erases itself is looked at.
    pub erase_pace: Pace,
    /// A disk that is cleaned and not heard of for this long is given up.
    pub disk_patience: Duration,
    /// Dial from this address.
    pub local_address: Option<IpAddr>,
    /// Progress is told at most this often.
    pub progress_interval: Duration,
    /// First pause before a connection is tried again; it doubles up to `backoff_max`.
    pub backoff_min: Duration,
    /// Longest pause between tries.
    pub backoff_max: Duration,
    /// For dialling, TLS included.
    pub connect_timeout: Duration,
    /// For an answer of the provider, or of an image server until its headers are there.
    pub request_timeout: Duration,
    /// For the next bytes of an image.
    pub read_timeout: Duration,
    /// How often the download of one image is tried, resumptions included.
    pub download_tries: u32,
    /// How long to wait, after a power task, for the provider to have recorded it.
    pub power_ack_timeout: Duration,
    /// A silent connection is probed this often, and given up when two probes go unanswered.
    pub keepalive: Duration,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            min_root_bytes: 4 << 30,
            block_bytes: 1 << 20,
            write_permits: None,
            erase_pace: Pace::default(),
            // Longer than the kernel tries one read or write again, and than a large cache takes to be written out.
            disk_patience: Duration::from_secs(15 * 60),
            local_address: None,
            progress_interval: Duration::from_secs(1),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(30),
            download_tries: 8,
            power_ack_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(20),
        }
    }
}
