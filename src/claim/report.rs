//! What a plan wants to be seen: conditions and the wait, and how they are put into a status without touching times
//! that did not change.

use ferric_api::condition::{self, ConditionStatus};
use ferric_api::host::WaitingFor;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A condition as a plan wants it; times and generation are added when it is put into a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Type of the condition.
    pub kind: &'static str,
    /// Its status.
    pub status: ConditionStatus,
    /// One CamelCase word for programs.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
}

impl Wanted {
    /// A condition that holds.
    pub fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: ConditionStatus::True, reason, message: message.into() }
    }

    /// A condition that does not hold.
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: ConditionStatus::False, reason, message: message.into() }
    }
}

/// What is waited for, before it is known since when.
#[derive(Debug, Clone, PartialEq)]
pub struct Wait {
    /// One CamelCase word for programs.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
    /// Since when, if that is known from elsewhere (the bound host); else from the first report of this reason.
    pub since: Option<Time>,
    /// When the wait becomes a problem.
    pub deadline: Option<Time>,
}

impl Wait {
    /// A wait that starts with its first report and has no deadline.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), since: None, deadline: None }
    }
}

/// Conditions reasons shared by both kinds.
pub mod reasons {
    /// The object is paused.
    pub const PAUSED: &str = "Paused";
    /// The object is not paused.
    pub const NOT_PAUSED: &str = "NotPaused";
    /// The object is being deleted.
    pub const DELETING: &str = "Deleting";
    /// Cluster API has not set the owner yet.
    pub const WAITING_FOR_OWNER: &str = "WaitingForOwner";
    /// The Cluster is not there.
    pub const WAITING_FOR_CLUSTER: &str = "WaitingForCluster";
}

/// Puts `wanted` into `conditions`, keeping other conditions and every transition time whose status did not change.
pub fn apply(conditions: &mut Vec<Condition>, wanted: &[Wanted], generation: Option<i64>, now: &Time) {
    for w in wanted {
        condition::set(conditions, w.kind, w.status, w.reason, &w.message, generation, now);
    }
}

/// Turns a wait into the API's form. `since` stays while the reason stays.
pub fn waiting(wait: Option<&Wait>, before: Option<&WaitingFor>, now: &Time) -> Option<WaitingFor> {
    let wait = wait?;
    let since = wait
        .since
        .clone()
        .or_else(|| before.filter(|b| b.reason == wait.reason).map(|b| b.since.clone()))
        .unwrap_or_else(|| now.clone());
    Some(WaitingFor {
        reason: wait.reason.clone(),
        message: wait.message.clone(),
        since,
        deadline: wait.deadline.clone(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn since_stays_while_the_reason_stays() {
        let first = waiting(Some(&Wait::new("WaitingForHost", "2 in use")), None, &at(10)).unwrap();
        let second = waiting(Some(&Wait::new("WaitingForHost", "3 in use")), Some(&first), &at(20)).unwrap();
        assert_eq!((second.since.clone(), second.message.as_str()), (at(10), "3 in use"));
        let third = waiting(Some(&Wait::new("Deploying", "power on")), Some(&second), &at(30)).unwrap();
        assert_eq!(third.since, at(30));
        assert_eq!(waiting(None, Some(&third), &at(40)), None);
    }

    #[test]
    fn a_second_report_of_the_same_changes_nothing() {
        let wanted = [Wanted::no("Ready", "WaitingForHost", "none free")];
        let mut conditions = Vec::new();
        apply(&mut conditions, &wanted, Some(1), &at(10));
        let before = conditions.clone();
        apply(&mut conditions, &wanted, Some(1), &at(99));
        assert_eq!(conditions, before);
    }
}
