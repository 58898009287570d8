//! Remembers tasks, so that none is done twice and no result is lost. Pure: no I/O, no clock.
//!
//! A task is queued, then running, then finished. A finished one keeps its result: unacknowledged results are told again
//! in every session, acknowledged ones are kept for a provider that asks again all the same.

use std::collections::VecDeque;

use ferric_protocol::v1::{Phase, Task, TaskErrorCode, TaskProgress, TaskResult, task_result::Outcome};

use crate::plan;

/// Acknowledged results that are kept. A machine gets a handful of tasks in a boot.
const KEPT: usize = 64;

/// What became of a task that was offered.
#[derive(Debug, PartialEq)]
pub(crate) enum Offer {
    /// It is new and queued.
    Accepted,
    /// It is being worked on.
    Progress(TaskProgress),
    /// It was done.
    Done(Box<TaskResult>),
}

#[derive(Debug)]
enum State {
    Queued(Box<Task>),
    Running(TaskProgress),
    Finished { result: Box<TaskResult>, acknowledged: bool },
}

#[derive(Debug)]
struct Entry {
    id: String,
    state: State,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// In the order in which they came.
    entries: VecDeque<Entry>,
}

impl Ledger {
    fn find(&mut self, id: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    /// A task came from the provider.
    pub(crate) fn offer(&mut self, task: Task) -> Offer {
        if let Some(entry) = self.find(&task.id) {
            return match &entry.state {
                State::Queued(_) => Offer::Progress(queued(&task.id)),
                State::Running(progress) => Offer::Progress(progress.clone()),
                State::Finished { result, .. } => Offer::Done(result.clone()),
            };
        }
        self.forget_old();
        self.entries.push_back(Entry { id: task.id.clone(), state: State::Queued(Box::new(task)) });
        Offer::Accepted
    }

    fn forget_old(&mut self) {
        let acknowledged = |entry: &Entry| matches!(entry.state, State::Finished { acknowledged: true, .. });
        while self.entries.iter().filter(|entry| acknowledged(entry)).count() >= KEPT {
            if let Some(oldest) = self.entries.iter().position(acknowledged) {
                self.entries.remove(oldest);
            }
        }
    }

    /// The next task to do, if none is being done.
    pub(crate) fn start_next(&mut self) -> Option<Task> {
        if self.entries.iter().any(|entry| matches!(entry.state, State::Running(_))) {
            return None;
        }
        let entry = self.entries.iter_mut().find(|entry| matches!(entry.state, State::Queued(_)))?;
        let running = State::Running(TaskProgress { phase: Phase::Queued.into(), ..queued(&entry.id) });
        match std::mem::replace(&mut entry.state, running) {
            State::Queued(task) => Some(*task),
            _ => None,
        }
    }

    /// The running task has come further.
    pub(crate) fn progress(&mut self, now: TaskProgress) {
        if let Some(Entry { state: State::Running(progress), .. }) = self.find(&now.task_id) {
            *progress = now;
        }
    }

    /// The running task ended.
    pub(crate) fn finish(&mut self, result: TaskResult) {
        if let Some(entry) = self.find(&result.task_id)
            && !matches!(entry.state, State::Finished { .. })
        {
            entry.state = State::Finished { result: Box::new(result), acknowledged: false };
        }
    }

    /// The provider no longer wants it. A queued task ends here; true when it is running and has to be stopped.
    pub(crate) fn cancel(&mut self, id: &str) -> bool {
        match self.find(id).map(|entry| &entry.state) {
            Some(State::Running(_)) => true,
            Some(State::Queued(_)) => {
                let error = plan::error(TaskErrorCode::Cancelled, "cancelled before it was begun");
                self.finish(TaskResult { task_id: id.to_owned(), outcome: Some(Outcome::Error(error)) });
                false
            }
            Some(State::Finished { .. }) | None => false,
        }
    }

    /// The provider has recorded the result.
    pub(crate) fn acknowledge(&mut self, id: &str) {
        if let Some(Entry { state: State::Finished { acknowledged, .. }, .. }) = self.find(id) {
            *acknowledged = true;
        }
    }

    /// Whether the provider has recorded the result.
    pub(crate) fn is_acknowledged(&self, id: &str) -> bool {
        let known = self.entries.iter().find(|entry| entry.id == id);
        known.is_none_or(|entry| matches!(entry.state, State::Finished { acknowledged: true, .. }))
    }

    /// Where each unfinished task is.
    pub(crate) fn unfinished(&self) -> Vec<TaskProgress> {
        let told = self.entries.iter().filter_map(|entry| match &entry.state {
            State::Queued(_) => Some(queued(&entry.id)),
            State::Running(progress) => Some(progress.clone()),
            State::Finished { .. } => None,
        });
        told.collect()
    }

    /// Progress of the running task.
    pub(crate) fn running(&self) -> Option<&TaskProgress> {
        self.entries.iter().find_map(|entry| match &entry.state {
            State::Running(progress) => Some(progress),
            _ => None,
        })
    }

    /// Results that the provider has not recorded, oldest first.
    pub(crate) fn unacknowledged(&self) -> impl Iterator<Item = &TaskResult> {
        self.entries.iter().filter_map(|entry| match &entry.state {
            State::Finished { result, acknowledged: false } => Some(&**result),
            _ => None,
        })
    }
}

fn queued(id: &str) -> TaskProgress {
    TaskProgress { task_id: id.to_owned(), phase: Phase::Queued.into(), ..TaskProgress::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_protocol::v1::{InspectResult, PowerResult};
    use proptest::prelude::*;

    use super::*;

    fn task(id: &str) -> Task {
        Task { id: id.into(), work: None }
    }

    fn done(id: &str) -> TaskResult {
        TaskResult { task_id: id.into(), outcome: Some(Outcome::Inspect(InspectResult::default())) }
    }

    #[test]
    fn tasks_are_done_in_order_and_once() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.offer(task("a")), Offer::Accepted);
        assert_eq!(ledger.offer(task("b")), Offer::Accepted);
        assert_eq!(ledger.start_next().unwrap().id, "a");
        assert_eq!(ledger.start_next(), None, "one at a time");
        let halfway = TaskProgress { bytes_done: 5, ..queued("a") };
        ledger.progress(halfway.clone());
        assert_eq!(ledger.offer(task("a")), Offer::Progress(halfway.clone()));
        assert_eq!(ledger.unfinished(), [halfway, queued("b")]);
        ledger.finish(done("a"));
        assert_eq!(ledger.offer(task("a")), Offer::Done(Box::new(done("a"))));
        assert_eq!(ledger.start_next().unwrap().id, "b");
        assert_eq!(ledger.unacknowledged().count(), 1);
        ledger.acknowledge("a");
        assert_eq!(ledger.unacknowledged().count(), 0);
        assert_eq!(
            ledger.offer(task("a")),
            Offer::Done(Box::new(done("a"))),
            "kept after the acknowledgement"
        );
    }

    #[test]
    fn the_first_result_stays() {
        let mut ledger = Ledger::default();
        ledger.offer(task("a"));
        ledger.start_next();
        ledger.finish(done("a"));
        ledger.finish(TaskResult {
            task_id: "a".into(),
            outcome: Some(Outcome::Power(PowerResult::default())),
        });
        assert_eq!(ledger.offer(task("a")), Offer::Done(Box::new(done("a"))));
    }

    #[test]
    fn a_queued_task_is_cancelled_at_once_and_a_running_one_by_its_worker() {
        let mut ledger = Ledger::default();
        ledger.offer(task("a"));
        ledger.offer(task("b"));
        ledger.start_next();
        assert!(ledger.cancel("a"));
        assert!(!ledger.cancel("b"));
        assert!(!ledger.cancel("unknown"));
        let results: Vec<_> = ledger.unacknowledged().collect();
        assert!(matches!(&results[..], [TaskResult { task_id, outcome: Some(Outcome::Error(e)) }]
            if task_id == "b" && e.code() == TaskErrorCode::Cancelled));
    }

    #[test]
    fn only_acknowledged_results_are_ever_forgotten() {
        let mut ledger = Ledger::default();
        for n in 0..KEPT * 3 {
            let id = n.to_string();
            ledger.offer(task(&id));
            ledger.start_next();
            ledger.finish(done(&id));
            if n % 2 == 0 {
                ledger.acknowledge(&id);
            }
        }
        assert_eq!(ledger.unacknowledged().count(), KEPT * 3 / 2);
        assert!(ledger.entries.len() <= KEPT * 3 / 2 + KEPT);
    }

    proptest! {
        /// However offers, acknowledgements and cancellations mix: no task is started twice.
        #[test]
        fn nothing_is_started_twice(steps in prop::collection::vec((0u8..5, 0u8..6), 0..80)) {
            let mut ledger = Ledger::default();
            let mut started = Vec::new();
            let mut running: Option<String> = None;
            for (what, which) in steps {
                let id = which.to_string();
                match what {
                    0 | 1 => { ledger.offer(task(&id)); }
                    2 => if let Some(task) = ledger.start_next() {
                        prop_assert!(running.is_none());
                        prop_assert!(!started.contains(&task.id));
                        started.push(task.id.clone());
                        running = Some(task.id);
                    },
                    3 => if let Some(id) = running.take() { ledger.finish(done(&id)) },
                    _ => { ledger.cancel(&id); ledger.acknowledge(&id); }
                }
            }
        }
    }
}
