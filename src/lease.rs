//! Leader election on a `coordination.k8s.io/v1` Lease.
//!
//! [`Candidate`] decides (pure), [`Election`] carries it out. The holder's address is an annotation of the lease, so
//! that a standby can tell hosts and agents whom to ask. Losing the lease ends the process: what it was about to do
//! may already be done by another.

mod candidate;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use candidate::{Candidate, LeaseStep, Moment, Observed, Timing};

use crate::patch::{self, ApiError};
use crate::telemetry::Metrics;

/// Name of the Lease.
pub const LEASE_NAME: &str = "ferric-manager";
/// Annotation of the Lease: where its holder serves agents.
pub const HOLDER_ADDRESS_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/holder-address";

/// Who leads, as far as this replica knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderState {
    /// This replica leads.
    pub leader: bool,
    /// Who holds the lease.
    pub holder_identity: Option<String>,
    /// Where the holder serves agents.
    pub holder_address: Option<String>,
    /// Until when this replica may act without having renewed the lease; moves on without a change being announced.
    pub acts_until: Option<Instant>,
}

impl LeaderState {
    /// The state of a manager that runs without election.
    pub fn alone(identity: &str, address: &str) -> Self {
        Self {
            leader: true,
            holder_identity: Some(identity.to_owned()),
            holder_address: Some(address.to_owned()),
            acts_until: None,
        }
    }

    /// Whether this replica may act now. Ask before anything destructive: a process that was stopped for a while
    /// (swapping, a paused VM) learns here that its time is over, before its renewal does.
    pub fn may_act(&self) -> bool {
        self.leader && self.acts_until.is_none_or(|until| Instant::now() < until)
    }
}

/// Settings of an election.
#[derive(Debug, Clone)]
pub struct ElectionConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease, normally [`LEASE_NAME`].
    pub name: String,
    /// Unique name of this process, see [`unique_identity`].
    pub identity: String,
    /// Where this replica serves agents.
    pub address: String,
    /// The times.
    pub timing: Timing,
}

/// A name that no other process has or had: the pod's or machine's name with a random suffix.
pub fn unique_identity() -> String {
    let host = std::env::var("POD_NAME")
        .ok()
        .filter(|name| !name.is_empty())
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map_or_else(|| "ferric".to_owned(), |name| name.trim().to_owned());
    format!("{host}_{:016x}", rand::random::<u64>())
}

/// Starts an election as a task of `tasks` and returns who leads.
///
/// The task ends with an error when a lease that was held is lost: end the process then. When `release` is cancelled
/// it gives the lease up, so that another replica takes over within its retry period, and ends well. Cancel `release`
/// only after everything that acts has ended.
pub fn start(
    client: Client,
    config: ElectionConfig,
    metrics: Arc<Metrics>,
    release: CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> watch::Receiver<LeaderState> {
    let (sender, receiver) = watch::channel(LeaderState::default());
    let election = Election {
        api: Api::namespaced(client, &config.namespace),
        candidate: Candidate::new(config.identity.clone(), config.timing),
        start: Instant::now(),
        config,
        metrics,
        state: sender,
        acquired_at: None,
        failing: false,
    };
    tasks.spawn(election.run(release));
    receiver
}

struct Election {
    api: Api<Lease>,
    candidate: Candidate,
    start: Instant,
    config: ElectionConfig,
    metrics: Arc<Metrics>,
    state: watch::Sender<LeaderState>,
    acquired_at: Option<Timestamp>,
    /// The last call failed: tell it once, not every two seconds.
    failing: bool,
}

impl Election {
    async fn run(mut self, release: CancellationToken) -> anyhow::Result<()> {
        loop {
            let stopped = tokio::select! {
                biased;
                () = release.cancelled() => true,
                ended = self.step() => match ended {
                    Some(why) => anyhow::bail!("leadership lost: {why}"),
                    None => false,
                },
            };
            if stopped {
                self.give_up().await;
                return Ok(());
            }
        }
    }

    fn now(&self) -> Moment {
        self.start.elapsed()
    }

    /// Carries out one step; `Some` is why the lease is lost.
    async fn step(&mut self) -> Option<String> {
        match self.candidate.decide(self.now()) {
            LeaseStep::Wait { until } => tokio::time::sleep_until(self.start + until).await,
            LeaseStep::Read => {
                let call = async { patch::get_opt(&self.api, &self.config.name).await };
                let answer = tokio::time::timeout(self.candidate.patience(self.now()), call).await;
                let now = self.now();
                match answer {
                    Ok(Ok(lease)) => self.candidate.was_read(lease.as_ref().map(observed), now),
                    other => self.failed(other.map(|r| r.map(|_| ())), now),
                }
            }
            LeaseStep::Create => self.write(None, 0).await,
            LeaseStep::Take { version, transitions } | LeaseStep::Renew { version, transitions } => {
                self.write(Some(version), transitions).await;
            }
            LeaseStep::Lost { why } => {
                self.tell();
                self.state.send_modify(|state| {
                    state.leader = false;
                    state.acts_until = None;
                });
                self.metrics.leader.set(0);
                return Some(why);
            }
        }
        self.tell();
        None
    }

    async fn write(&mut self, version: Option<String>, transitions: i32) {
        let sent_at = self.now();
        let create = version.is_none();
        let acquired_at = *self.acquired_at.get_or_insert_with(Timestamp::now);
        let lease = self.lease(Some(&self.config.identity), version, transitions, Some(acquired_at));
        let call = async {
            if create {
                patch::create(&self.api, &lease).await
            } else {
                patch::replace(&self.api, &lease).await
            }
        };
        let answer = tokio::time::timeout(self.candidate.patience(sent_at), call).await;
        let now = self.now();
        match answer {
            Ok(Ok(lease)) => {
                self.failing = false;
                self.candidate.was_written(observed(&lease), sent_at, now);
            }
            Ok(Err(error)) if error.is_conflict() || error.is_already_exists() || error.is_not_found() => {
                self.candidate.was_refused();
            }
            other => self.failed(other.map(|r| r.map(|_| ())), now),
        }
        if self.candidate.acts_until().is_none() {
            self.acquired_at = None;
        }
    }

    fn failed(&mut self, answer: Result<Result<(), ApiError>, tokio::time::error::Elapsed>, now: Moment) {
        let error = match answer {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                lease = self.config.name,
                namespace = self.config.namespace,
                error,
                "lease cannot be reached"
            );
        }
        let jitter = self.config.timing.retry_period.mul_f64(rand::random::<f64>() * 0.2);
        self.candidate.has_failed(now, jitter);
    }

    /// Publishes what is known. Only a change of who leads wakes the readers.
    fn tell(&self) {
        let acts_until = self.candidate.acts_until().map(|moment| self.start + moment);
        let lease = self.candidate.lease();
        let new = LeaderState {
            leader: acts_until.is_some(),
            holder_identity: lease.and_then(|l| l.holder.clone()),
            holder_address: lease.and_then(|l| l.address.clone()),
            acts_until,
        };
        self.state.send_if_modified(|old| {
            let news = LeaderState { acts_until: None, ..old.clone() }
                != LeaderState { acts_until: None, ..new.clone() };
            if news && old.leader != new.leader {
                self.metrics.leader.set(i64::from(new.leader));
                tracing::info!(leader = new.leader, identity = self.config.identity, "leadership");
            }
            *old = new;
            news
        });
    }

    /// Leaves the lease without a holder, if it is ours.
    async fn give_up(&mut self) {
        let held = self.candidate.acts_until().is_some();
        self.state.send_modify(|state| {
            state.leader = false;
            state.acts_until = None;
        });
        self.metrics.leader.set(0);
        let Some(lease) = self.candidate.lease().filter(|_| held) else { return };
        let released = self.lease(None, Some(lease.version.clone()), lease.transitions, None);
        let limit = self.config.timing.renew_deadline / 2;
        match tokio::time::timeout(limit, patch::replace(&self.api, &released)).await {
            Ok(Ok(_)) => tracing::info!(identity = self.config.identity, "lease released"),
            Ok(Err(error)) => tracing::warn!(%error, "lease not released; it runs out by itself"),
            Err(_) => tracing::warn!("lease not released in time; it runs out by itself"),
        }
    }

    fn lease(
        &self,
        holder: Option<&str>,
        version: Option<String>,
        transitions: i32,
        acquired_at: Option<Timestamp>,
    ) -> Lease {
        let annotations = holder.map(|_| {
            [(HOLDER_ADDRESS_ANNOTATION.to_owned(), self.config.address.clone())].into_iter().collect()
        });
        let seconds = i32::try_from(self.config.timing.lease_duration.as_secs()).unwrap_or(i32::MAX).max(1);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.config.name.clone()),
                namespace: Some(self.config.namespace.clone()),
                resource_version: version,
                annotations,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: Some(seconds),
                acquire_time: acquired_at.map(MicroTime),
                renew_time: Some(MicroTime(Timestamp::now())),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn observed(lease: &Lease) -> Observed {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
    let annotations = lease.metadata.annotations.as_ref();
    Observed {
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.filter(|h| !h.is_empty()),
        address: annotations.and_then(|a| a.get(HOLDER_ADDRESS_ANNOTATION)).cloned(),
        duration: Duration::from_secs(seconds),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests;
