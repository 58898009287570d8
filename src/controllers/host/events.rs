//! Subscriptions to the events of BMCs: made after a BMC was read, looked at again now and then, and a wake-up when an event
//! came. Polls go on as without; an event only makes the next one come sooner.

use std::sync::Arc;
use std::time::Duration;

use ferric_bmc::{Bmc, EventSink, Subscribed};
use tokio::time::Instant;

use super::HostContext;
use crate::host::Consumer;
use crate::host::Job;
use crate::host::plan;
use crate::key::Key;

/// Between two looks at a subscription, and after one that failed: a BMC may lose it at a reset.
const PERIOD: Duration = Duration::from_secs(900);

impl HostContext {
    /// An event of the host's BMC came: what is known of its power is looked at again.
    pub fn bmc_event(&self, key: &Key) {
        if self.hosts.get(key).is_none() {
            return;
        }
        self.with(key, |r| r.bmc.nudged = true);
        let _ = self.wake.send(key.clone());
    }
}

/// Whether it is time to see to a host's subscription; then the next time is noted.
fn is_due(key: &Key, context: &HostContext) -> bool {
    let now = Instant::now();
    context.with(key, |r| {
        let due = r.subscription_seen.is_none_or(|seen| now >= seen + PERIOD);
        if due {
            r.subscription_seen = Some(now);
        }
        due
    })
}

/// Sees to a host's subscription after `job` went well. Nothing is written to the BMC of a host that is paused, detached, a
/// double of another, or on its way out, nor to one with another machine behind it than the host's.
pub(super) async fn keep(key: &Key, context: &Arc<HostContext>, bmc: &dyn Bmc, job: &Job) {
    let Some(url) = &context.bmc_events else { return };
    if !matches!(job, Job::Probe | Job::ReadPower) || !may_write(key, context) || !is_due(key, context) {
        return;
    }
    let Ok(token) = context.boot.keys.mint_events(key) else { return };
    let sink = EventSink { destination: url.to_string(), context: token };
    match bmc.subscribe(&sink).await {
        Ok(Subscribed::Made) => tracing::info!(host = %key, "subscribed to the events of its BMC"),
        Ok(outcome) => tracing::debug!(host = %key, ?outcome, "events of its BMC"),
        // Polling goes on.
        Err(error) => tracing::debug!(host = %key, %error, "not subscribed to the events of its BMC"),
    }
}

fn may_write(key: &Key, context: &HostContext) -> bool {
    let Some(host) = context.latest(key) else { return false };
    let paused = matches!(context.consumer(&host), Consumer::Paused { .. });
    host.metadata.deletion_timestamp.is_none()
        && !paused
        && plan::annotated_away(&host).is_none()
        && context.senior_twin(key).is_none()
        && !context.with(key, |r| plan::is_stranger(&host, &r.bmc))
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
