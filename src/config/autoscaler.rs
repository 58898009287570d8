//! Flags of the autoscaler.

use std::time::Duration;

use clap::Args;

/// How node groups are scaled.
#[derive(Debug, Clone, Args)]
pub struct Autoscaling {
    /// Seconds between two decisions about the node groups of a cluster, 1 to 3600
    #[arg(
        long,
        env = "FERRIC_AUTOSCALER_SCAN_INTERVAL_SECONDS",
        value_name = "SECONDS",
        help_heading = "Times",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=3600)
    )]
    pub autoscaler_scan_interval_seconds: u32,
}

impl Autoscaling {
    /// Time between two decisions.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.autoscaler_scan_interval_seconds.into())
    }
}
