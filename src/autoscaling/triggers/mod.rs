//! What each trigger asks for: pure functions of what was measured. Nothing here measures.

mod answer;
mod metric;
mod schedule;
mod utilization;

pub use answer::answer;
pub use metric::{MetricWish, Reading, metric};
pub use schedule::{ScheduleError, Window, schedule, window};
pub use utilization::{Load, is_gpu, utilization};

use ferric_api::autoscaling::TriggerState;

/// What a trigger asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// How it stands.
    pub state: TriggerState,
    /// Replicas that it asks for; of one that failed or is inactive, none.
    pub replicas: Option<i32>,
    /// What it measured, for people.
    pub value: Option<String>,
    /// Why.
    pub message: String,
}

impl Wish {
    /// A trigger that was not measured: nothing is lowered meanwhile.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self { state: TriggerState::Failed, replicas: None, value: None, message: message.into() }
    }

    /// A trigger that asks for so many replicas beside those that there are.
    #[must_use]
    pub fn of(current: i32, replicas: i32, value: Option<String>, message: impl Into<String>) -> Self {
        let state = match replicas.cmp(&current) {
            std::cmp::Ordering::Greater => TriggerState::Up,
            std::cmp::Ordering::Equal => TriggerState::Hold,
            std::cmp::Ordering::Less => TriggerState::Down,
        };
        Self { state, replicas: Some(replicas), value, message: message.into() }
    }
}

/// Replicas as a finite number that an API takes.
fn whole(replicas: f64) -> i32 {
    /// `maxReplicas` is not more.
    const MOST: f64 = 10_000.0;
    replicas.ceil().clamp(0.0, MOST) as i32
}
