#![allow(clippy::unwrap_used)]

use ferric_protocol::v1::{Clean, Deploy, Inspect, InspectResult, Power, PowerResult, TaskError};
use proptest::prelude::*;

use super::*;

fn task(id: &str, work: Work) -> Task {
    Task { id: id.into(), work: Some(work) }
}

fn deploy(id: &str) -> Task {
    task(id, Work::Deploy(Deploy::default()))
}

fn progress(id: &str, phase: Phase, bytes_done: u64) -> TaskProgress {
    TaskProgress {
        task_id: id.into(),
        phase: phase.into(),
        bytes_done,
        bytes_total: 100,
        message: String::new(),
    }
}

fn result(id: &str, outcome: Outcome) -> TaskResult {
    TaskResult { task_id: id.into(), outcome: Some(outcome) }
}

fn deployed(id: &str) -> TaskResult {
    result(id, Outcome::Deploy(DeployResult { bytes_written: 7, ..Default::default() }))
}

#[test]
fn a_task_is_sent_once_however_often_it_is_submitted() {
    let (mut table, now) = (TaskTable::default(), Instant::now());
    assert!(table.submit(&deploy("d"), now));
    assert!(!table.submit(&deploy("d"), now));
    table.result(deployed("d"), now).unwrap();
    assert!(!table.submit(&deploy("d"), now), "not even when it is done");
}

#[test]
fn after_a_reconnect_only_what_the_agent_does_not_know_is_sent_again() {
    let (mut table, now) = (TaskTable::default(), Instant::now());
    for id in ["lost", "running", "finished", "over"] {
        table.submit(&deploy(id), now);
    }
    table.result(deployed("over"), now).unwrap();
    let running = vec![progress("running", Phase::Writing, 5), progress("foreign", Phase::Writing, 1)];
    let lost = table.hello(running, vec!["finished".into()], now).unwrap();
    assert_eq!(lost, [deploy("lost")]);
    let states = table.states();
    assert!(matches!(states["running"], TaskState::Running { phase: Phase::Writing, bytes_done: 5, .. }));
    assert!(matches!(states["finished"], TaskState::Running { phase: Phase::Done, .. }));
    assert!(matches!(states["foreign"], TaskState::Running { .. }), "submitted by an earlier provider");
    assert!(states["over"].is_finished());
    assert!(!table.submit(&deploy("foreign"), now), "the agent has it");
}

#[test]
fn progress_wakes_at_most_every_ten_seconds_and_tenth() {
    let (mut table, start) = (TaskTable::default(), Instant::now());
    table.submit(&deploy("d"), start);
    let mut wake = |seconds, phase, bytes| {
        let now = start + Duration::from_secs(seconds);
        table.progress(progress("d", phase, bytes), now).unwrap().wake
    };
    assert!(!wake(1, Phase::Writing, 50), "too soon after it was sent");
    assert!(wake(10, Phase::Writing, 60));
    assert!(!wake(15, Phase::Writing, 80), "too soon");
    assert!(!wake(25, Phase::Writing, 65), "too little");
    assert!(wake(26, Phase::Verifying, 65), "another phase");
    assert!(!wake(30, Phase::Done, 100));
    assert!(wake(36, Phase::Done, 100));
}

#[test]
fn the_first_result_stays_and_wakes_once() {
    let (mut table, now) = (TaskTable::default(), Instant::now());
    table.submit(&deploy("d"), now);
    assert!(table.result(deployed("d"), now).unwrap().wake);
    let error = TaskError { code: TaskErrorCode::DiskFailed.into(), message: "no".into() };
    let again = table.result(result("d", Outcome::Error(error)), now).unwrap();
    assert_eq!(again, Consequence::default());
    assert!(!table.progress(progress("d", Phase::Writing, 1), now).unwrap().wake);
    assert!(
        matches!(&table.states()["d"], TaskState::Succeeded(TaskOutcome::Deploy(r)) if r.bytes_written == 7)
    );
}

#[test]
fn an_acknowledged_result_that_comes_again_is_acknowledged_again() {
    let (mut table, now) = (TaskTable::default(), Instant::now());
    table.submit(&deploy("d"), now);
    assert!(!table.acknowledge("d"), "not done yet");
    table.result(deployed("d"), now).unwrap();
    assert!(table.acknowledge("d"));
    assert!(!table.acknowledge("d"));
    assert!(table.result(deployed("d"), now).unwrap().acknowledge);
}

#[test]
fn a_power_result_is_acknowledged_at_once() {
    let (mut table, now) = (TaskTable::default(), Instant::now());
    table.submit(&task("p", Work::Power(Power { action: PowerAction::Reboot.into() })), now);
    let answer = result("p", Outcome::Power(PowerResult { action: PowerAction::Reboot.into() }));
    assert_eq!(table.result(answer, now), Ok(Consequence { wake: true, acknowledge: true }));
}

#[test]
fn an_answer_to_another_question_is_a_failure() {
    let (mut table, now) = (TaskTable::default(), Instant::now());
    table.submit(&task("c", Work::Clean(Clean::default())), now);
    table.submit(&task("i", Work::Inspect(Inspect::default())), now);
    table.result(deployed("c"), now).unwrap();
    table.result(TaskResult { task_id: "i".into(), outcome: None }, now).unwrap();
    for id in ["c", "i"] {
        assert!(matches!(table.states()[id], TaskState::Failed { code: TaskErrorCode::Internal, .. }));
    }
    // What was submitted by an earlier provider is not known, so any kind will do.
    table.result(result("x", Outcome::Inspect(InspectResult::default())), now).unwrap();
    assert!(matches!(table.states()["x"], TaskState::Succeeded(TaskOutcome::Inspect(_))));
}

#[test]
fn an_agent_cannot_keep_the_provider_from_submitting() {
    let (mut table, now) = (TaskTable::default(), Instant::now());
    for n in 0..MAX_TASKS {
        table.progress(progress(&n.to_string(), Phase::Writing, 0), now).unwrap();
    }
    assert_eq!(table.progress(progress("more", Phase::Writing, 0), now), Err(TooManyTasks));
    let flood = vec![String::from("x"); MAX_TASKS + 1];
    assert_eq!(table.hello(vec![], flood, now), Err(TooManyTasks));
    assert!(table.submit(&deploy("ours"), now));
    assert_eq!(table.states().len(), MAX_TASKS);
    assert_eq!(table.states()["ours"], TaskState::Sent);
}

proptest! {
    /// Whatever an agent says, the table stays bounded, and what is finished stays as it is.
    #[test]
    fn nothing_an_agent_says_breaks_the_table(
        steps in prop::collection::vec((0u8..5, 0u8..100, 0u64..200, 0i32..9), 0..200),
    ) {
        let (mut table, start) = (TaskTable::default(), Instant::now());
        let mut finished: BTreeMap<String, TaskState> = BTreeMap::new();
        for (n, (what, which, bytes, phase)) in steps.into_iter().enumerate() {
            let (id, now) = (which.to_string(), start + Duration::from_secs(n as u64));
            match what {
                0 => { let _ = table.submit(&deploy(&id), now); }
                1 => {
                    let said = TaskProgress { phase, ..progress(&id, Phase::Writing, bytes) };
                    let _ = table.progress(said, now);
                }
                2 => { let _ = table.result(deployed(&id), now); }
                3 => { let _ = table.hello(vec![progress(&id, Phase::Writing, bytes)], vec![], now); }
                _ => { let _ = table.acknowledge(&id); }
            }
            let states = table.states();
            prop_assert!(states.len() <= MAX_TASKS + 1);
            finished.retain(|id, _| states.contains_key(id));
            for (id, state) in &finished {
                prop_assert_eq!(&states[id], state);
            }
            finished.extend(states.into_iter().filter(|(_, s)| s.is_finished()));
        }
    }
}
