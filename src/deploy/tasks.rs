//! The tasks of one agent: pure bookkeeping, driven by [`super::hub`]. No I/O and no clock in here.
//!
//! Invariants: a task id is sent to an agent once a session at most; a result that was kept never changes; an agent
//! cannot make the table grow beyond [`MAX_TASKS`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ferric_protocol::v1::{
    CleanResult, DeployResult, Inventory, Phase, PowerAction, StageResult, Task, TaskErrorCode, TaskProgress,
    TaskResult, task::Work, task_result::Outcome,
};

use super::screen;

/// Tasks kept of one agent. One boot has a handful.
pub(super) const MAX_TASKS: usize = 64;
/// Least time between two wake-ups for progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Least advance between two wake-ups for progress, as a part of the whole.
const PROGRESS_PARTS: u64 = 10;

/// Where a task is.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskState {
    /// Given to the agent, nothing heard yet.
    Sent,
    /// The agent has it.
    Running {
        /// What it does.
        phase: Phase,
        /// How far it is.
        bytes_done: u64,
        /// How far it will go; 0 when not known.
        bytes_total: u64,
        /// What it says.
        message: String,
    },
    /// Done.
    Succeeded(TaskOutcome),
    /// Not done, and not going to be.
    Failed {
        /// Kind of failure.
        code: TaskErrorCode,
        /// What happened.
        message: String,
    },
}

impl TaskState {
    /// Whether there is a result.
    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Succeeded(_) | Self::Failed { .. })
    }
}

/// What a finished task has found or done.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskOutcome {
    /// The hardware.
    Inspect(Arc<Inventory>),
    /// The evidence of cleaning.
    Clean(Arc<CleanResult>),
    /// What was written.
    Deploy(Arc<DeployResult>),
    /// What was written for nobody yet.
    Stage(Arc<StageResult>),
    /// The machine is about to do this.
    Power(PowerAction),
}

/// The agent claims more tasks than any agent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_TASKS} tasks of one agent")]
pub(super) struct TooManyTasks;

/// What follows from a message of the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Consequence {
    /// The host controller should look.
    pub wake: bool,
    /// The agent is to be told (again) that its result is recorded.
    pub acknowledge: bool,
}

#[derive(Debug)]
struct Entry {
    /// What was submitted; absent when only the agent has spoken of it so far.
    task: Option<Task>,
    state: TaskState,
    acknowledged: bool,
    woken_at: Instant,
    woken_phase: Phase,
    woken_bytes: u64,
}

impl Entry {
    fn new(task: Option<Task>, state: TaskState, now: Instant) -> Self {
        let acknowledged = false;
        Self { task, state, acknowledged, woken_at: now, woken_phase: Phase::Unspecified, woken_bytes: 0 }
    }
}

/// All tasks of one agent.
#[derive(Debug, Default)]
pub(super) struct TaskTable {
    entries: BTreeMap<String, Entry>,
}

impl TaskTable {
    /// Takes a task on. True when it must be sent: its id was not known.
    pub(super) fn submit(&mut self, task: &Task, now: Instant) -> bool {
        if let Some(known) = self.entries.get_mut(&task.id) {
            known.task.get_or_insert_with(|| task.clone());
            return false;
        }
        if self.entries.len() >= MAX_TASKS {
            self.make_room();
        }
        self.entries.insert(task.id.clone(), Entry::new(Some(task.clone()), TaskState::Sent, now));
        true
    }

    /// Takes in what the agent says at the start of a session. Returns the tasks that it does not know and must be
    /// sent again.
    pub(super) fn hello(
        &mut self,
        running: Vec<TaskProgress>,
        finished: Vec<String>,
        now: Instant,
    ) -> Result<Vec<Task>, TooManyTasks> {
        if running.len() + finished.len() > MAX_TASKS {
            return Err(TooManyTasks);
        }
        let mut known: Vec<String> = running.iter().map(|p| p.task_id.clone()).collect();
        known.extend(finished.iter().cloned());
        for progress in running {
            self.progress(progress, now)?;
        }
        // The results follow; until then all that is known is that nothing more will be done.
        for task_id in finished {
            self.progress(TaskProgress { task_id, phase: Phase::Done.into(), ..Default::default() }, now)?;
        }
        let lost = self.entries.iter_mut().filter(|(id, e)| !e.state.is_finished() && !known.contains(id));
        Ok(lost
            .filter_map(|(_, entry)| {
                entry.state = TaskState::Sent;
                entry.task.clone()
            })
            .collect())
    }

    /// Takes in progress.
    pub(super) fn progress(
        &mut self,
        progress: TaskProgress,
        now: Instant,
    ) -> Result<Consequence, TooManyTasks> {
        let TaskProgress { task_id, phase, bytes_done, bytes_total, message } = progress;
        let phase = Phase::try_from(phase).unwrap_or(Phase::Unspecified);
        let entry = self.entry(task_id, now)?;
        if entry.state.is_finished() {
            return Ok(Consequence::default());
        }
        entry.state =
            TaskState::Running { phase, bytes_done, bytes_total, message: screen::message(message) };
        let advance = bytes_done.saturating_sub(entry.woken_bytes);
        let far = phase != entry.woken_phase || bytes_total == 0 || advance >= bytes_total / PROGRESS_PARTS;
        let wake = far && now.saturating_duration_since(entry.woken_at) >= PROGRESS_EVERY;
        if wake {
            (entry.woken_at, entry.woken_phase, entry.woken_bytes) = (now, phase, bytes_done);
        }
        Ok(Consequence { wake, acknowledge: false })
    }

    /// Takes in a result. The first one stays.
    pub(super) fn result(&mut self, result: TaskResult, now: Instant) -> Result<Consequence, TooManyTasks> {
        let TaskResult { task_id, outcome } = result;
        let entry = self.entry(task_id, now)?;
        if entry.state.is_finished() {
            return Ok(Consequence { wake: false, acknowledge: entry.acknowledged });
        }
        entry.state = outcome_of(entry.task.as_ref(), outcome);
        // An agent that is about to power off or reboot waits to be told; there is nothing to record about it.
        entry.acknowledged = matches!(entry.state, TaskState::Succeeded(TaskOutcome::Power(_)));
        Ok(Consequence { wake: true, acknowledge: entry.acknowledged })
    }

    /// Notes that the result is recorded. True when the agent is to be told.
    pub(super) fn acknowledge(&mut self, id: &str) -> bool {
        match self.entries.get_mut(id) {
            Some(entry) if entry.state.is_finished() && !entry.acknowledged => {
                entry.acknowledged = true;
                true
            }
            _ => false,
        }
    }

    /// All tasks and where they are.
    pub(super) fn states(&self) -> BTreeMap<String, TaskState> {
        self.entries.iter().map(|(id, entry)| (id.clone(), entry.state.clone())).collect()
    }

    fn entry(&mut self, id: String, now: Instant) -> Result<&mut Entry, TooManyTasks> {
        if !self.entries.contains_key(&id) && self.entries.len() >= MAX_TASKS {
            return Err(TooManyTasks);
        }
        Ok(self.entries.entry(id).or_insert_with(|| Entry::new(None, TaskState::Sent, now)))
    }

    /// What the agent invented goes first, then what is over and acknowledged.
    fn make_room(&mut self) {
        let mut ids = self.entries.iter().filter(|(_, e)| e.task.is_none());
        let mut over = self.entries.iter().filter(|(_, e)| e.acknowledged);
        if let Some(id) = ids.next().or_else(|| over.next()).map(|(id, _)| id.clone()) {
            self.entries.remove(&id);
        }
    }
}

/// The state that a result stands for; an answer to another question is a failure.
fn outcome_of(task: Option<&Task>, outcome: Option<Outcome>) -> TaskState {
    let work = task.and_then(|t| t.work.as_ref());
    let fits = |expected: fn(&Work) -> bool| work.is_none_or(expected);
    match outcome {
        Some(Outcome::Error(error)) => {
            TaskState::Failed { code: error.code(), message: screen::message(error.message) }
        }
        Some(Outcome::Inspect(r)) if fits(|w| matches!(w, Work::Inspect(_))) => {
            match screen::inventory(r.inventory.unwrap_or_default()) {
                Ok(inventory) => TaskState::Succeeded(TaskOutcome::Inspect(Arc::new(inventory))),
                Err(error) => nonsense(error.to_string()),
            }
        }
        Some(Outcome::Clean(r)) if fits(|w| matches!(w, Work::Clean(_))) => match screen::cleaning(r) {
            Ok(result) => TaskState::Succeeded(TaskOutcome::Clean(Arc::new(result))),
            Err(error) => nonsense(error.to_string()),
        },
        Some(Outcome::Deploy(r)) if fits(|w| matches!(w, Work::Deploy(_))) => {
            TaskState::Succeeded(TaskOutcome::Deploy(Arc::new(screen::deployment(r))))
        }
        Some(Outcome::Stage(r)) if fits(|w| matches!(w, Work::Stage(_))) => {
            TaskState::Succeeded(TaskOutcome::Stage(Arc::new(screen::staging(r))))
        }
        Some(Outcome::Power(r)) if fits(|w| matches!(w, Work::Power(_))) => {
            TaskState::Succeeded(TaskOutcome::Power(r.action()))
        }
        Some(_) => nonsense("the agent answered with the result of another kind of task".into()),
        None => nonsense("the agent answered without a result".into()),
    }
}

fn nonsense(message: String) -> TaskState {
    TaskState::Failed { code: TaskErrorCode::Internal, message }
}

#[cfg(test)]
#[path = "tasks_tests.rs"]
mod tests;
