//! What a candidate for the lease does next: pure, on its own monotonic clock.
//!
//! Safety rests on three things. A leader stops acting `renew_deadline` after it *sent* its last successful write. A
//! candidate takes a lease only `lease_duration` after it first *saw* the version that it replaces, which is later than
//! that write. And every write names the version that it replaces, so of two takers one fails. Wall clocks of other
//! machines are never compared. What is assumed: the clocks of two candidates run at rates that differ by less than
//! `lease_duration / renew_deadline`.

use std::time::Duration;

/// A point of time on the candidate's own monotonic clock.
pub type Moment = Duration;

/// No lease is respected for longer than this, whatever it says about itself.
const LONGEST_LEASE: Duration = Duration::from_secs(3600);

/// The three times of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A lease that was not renewed for this long may be taken.
    pub lease_duration: Duration,
    /// A leader that could not renew for this long stops acting; less than `lease_duration`.
    pub renew_deadline: Duration,
    /// Time between two attempts; less than `renew_deadline`.
    pub retry_period: Duration,
}

/// What is in the API server's Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// resourceVersion.
    pub version: String,
    /// Who holds it; `None` when it was released.
    pub holder: Option<String>,
    /// Where the holder serves hosts and agents.
    pub address: Option<String>,
    /// How long the holder asks others to wait.
    pub duration: Duration,
    /// How often the lease changed hands.
    pub transitions: i32,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseStep {
    /// Read the lease.
    Read,
    /// Create the lease, held by us.
    Create,
    /// Replace this version by one that we hold; `transitions` is what to write.
    Take {
        /// The version to replace.
        version: String,
        /// The number of changes of hands, this one included.
        transitions: i32,
    },
    /// Renew our lease, replacing this version.
    Renew {
        /// The version to replace.
        version: String,
        /// The number of changes of hands, unchanged.
        transitions: i32,
    },
    /// Nothing until then.
    Wait {
        /// When to decide again.
        until: Moment,
    },
    /// We lead no longer; the process must end.
    Lost {
        /// Why.
        why: String,
    },
}

/// One candidate: what it knows of the lease, and since when.
#[derive(Debug, Clone)]
pub struct Candidate {
    me: String,
    timing: Timing,
    /// The lease as last read or written; `None` if there was none or nothing is known.
    lease: Option<Observed>,
    /// When `lease.version` was first seen.
    seen_at: Moment,
    /// When the lease was last read or written; `None` if it must be read before anything else.
    known_at: Option<Moment>,
    /// When the last successful write was sent. Set means: we lead.
    renewed_at: Option<Moment>,
    /// Pause after a failure.
    not_before: Moment,
}

impl Candidate {
    /// A candidate that knows nothing yet. `me` must not be anybody else's name, not even an earlier process's.
    pub fn new(me: impl Into<String>, timing: Timing) -> Self {
        Self {
            me: me.into(),
            timing,
            lease: None,
            seen_at: Duration::ZERO,
            known_at: None,
            renewed_at: None,
            not_before: Duration::ZERO,
        }
    }

    /// The lease as last seen.
    pub fn lease(&self) -> Option<&Observed> {
        self.lease.as_ref()
    }

    /// Until when we may act as leader; `None` if we do not lead.
    pub fn acts_until(&self) -> Option<Moment> {
        let held = self.lease.as_ref().is_some_and(|lease| lease.holder.as_deref() == Some(&self.me));
        self.renewed_at.filter(|_| held).map(|at| at + self.timing.renew_deadline)
    }

    /// Whether we may act as leader now.
    pub fn may_act(&self, now: Moment) -> bool {
        self.acts_until().is_some_and(|until| now < until)
    }

    /// How long the next call may take: two attempts fit into the renew deadline, and a leader does not wait beyond it.
    pub fn patience(&self, now: Moment) -> Duration {
        let half = self.timing.renew_deadline / 2;
        self.acts_until().map_or(half, |until| half.min(until.saturating_sub(now)))
    }

    /// What to do at `now`.
    pub fn decide(&self, now: Moment) -> LeaseStep {
        match self.renewed_at {
            Some(renewed_at) => self.decide_as_leader(now, renewed_at),
            None => self.decide_as_standby(now),
        }
    }

    fn decide_as_leader(&self, now: Moment, renewed_at: Moment) -> LeaseStep {
        let Some(lease) = &self.lease else {
            return LeaseStep::Lost { why: "the lease was deleted".to_owned() };
        };
        if lease.holder.as_deref() != Some(&self.me) {
            let who = lease.holder.as_deref().unwrap_or("nobody");
            return LeaseStep::Lost { why: format!("the lease is held by {who}") };
        }
        let deadline = renewed_at + self.timing.renew_deadline;
        if now >= deadline {
            let seconds = self.timing.renew_deadline.as_secs();
            return LeaseStep::Lost { why: format!("the lease could not be renewed for {seconds} s") };
        }
        let due = self.not_before.max(if self.known_at.is_some() {
            renewed_at + self.timing.retry_period
        } else {
            Duration::ZERO
        });
        if now < due {
            return LeaseStep::Wait { until: due.min(deadline) };
        }
        match self.known_at {
            None => LeaseStep::Read,
            Some(_) => LeaseStep::Renew { version: lease.version.clone(), transitions: lease.transitions },
        }
    }

    fn decide_as_standby(&self, now: Moment) -> LeaseStep {
        if now < self.not_before {
            return LeaseStep::Wait { until: self.not_before };
        }
        let Some(known_at) = self.known_at.filter(|at| now < *at + self.timing.retry_period) else {
            return LeaseStep::Read;
        };
        let Some(lease) = &self.lease else { return LeaseStep::Create };
        let next_read = known_at + self.timing.retry_period;
        match lease.holder.as_deref() {
            // Our own write whose answer was lost: it counts once it was written again with an answer.
            Some(holder) if holder == self.me => {
                LeaseStep::Take { version: lease.version.clone(), transitions: lease.transitions }
            }
            Some(_) if now < self.seen_at + self.respected(lease) => LeaseStep::Wait { until: next_read },
            _ => LeaseStep::Take {
                version: lease.version.clone(),
                transitions: lease.transitions.saturating_add(1),
            },
        }
    }

    /// How long a lease is respected: what its holder asks for, and never less than our own setting.
    fn respected(&self, lease: &Observed) -> Duration {
        lease.duration.min(LONGEST_LEASE).max(self.timing.lease_duration)
    }

    /// The lease was read; the answer arrived at `now`.
    pub fn was_read(&mut self, lease: Option<Observed>, now: Moment) {
        self.see(lease, now);
        self.known_at = Some(now);
    }

    /// A write that was sent at `sent_at` succeeded; the answer arrived at `now`.
    pub fn was_written(&mut self, lease: Observed, sent_at: Moment, now: Moment) {
        self.see(Some(lease), now);
        self.known_at = Some(now);
        // A leader whose deadline passed while it waited for the answer must not come back to life: it may have been
        // seen as dead meanwhile by its own controllers.
        if self.renewed_at.is_none() || self.may_act(now) {
            self.renewed_at = Some(sent_at);
        }
    }

    /// Somebody else changed the lease since we knew it: read it at once.
    pub fn was_refused(&mut self) {
        self.known_at = None;
    }

    /// A call failed at `now`, and whether it was carried out is not known. `jitter` keeps candidates apart.
    pub fn has_failed(&mut self, now: Moment, jitter: Duration) {
        self.known_at = None;
        self.not_before = now + self.timing.retry_period + jitter;
    }

    fn see(&mut self, lease: Option<Observed>, now: Moment) {
        let version = |l: &Option<Observed>| l.as_ref().map(|l| l.version.clone());
        if version(&lease) != version(&self.lease) {
            self.seen_at = now;
        }
        self.lease = lease;
    }
}
