#![allow(clippy::unwrap_used)]

use ferric_protocol::v1::{
    Deploy, DeployResult, Power, PowerAction, PowerResult, task::Work, task_result::Outcome,
};
use tonic::Code;

use super::*;

type Messages = mpsc::Receiver<Outgoing>;

struct Bench {
    hub: Hub,
    woken: mpsc::UnboundedReceiver<Key>,
}

fn bench() -> Bench {
    let (wake, woken) = mpsc::unbounded_channel();
    Bench { hub: Hub::new(wake), woken }
}

impl Bench {
    fn attach(&self, boot: i64, fingerprint: &str, hello: Hello) -> (Attached, Messages) {
        let (outbox, messages) = mpsc::channel(OUTBOX);
        (self.hub.attach(&host(), boot, fingerprint, hello, outbox).unwrap(), messages)
    }

    fn woken(&mut self) -> usize {
        std::iter::from_fn(|| self.woken.try_recv().ok()).inspect(|key| assert_eq!(*key, host())).count()
    }
}

fn host() -> Key {
    Key::new("racks", "r1-h1")
}

fn deploy(id: &str) -> Task {
    Task { id: id.into(), work: Some(Work::Deploy(Deploy::default())) }
}

fn deployed(id: &str) -> TaskResult {
    TaskResult { task_id: id.into(), outcome: Some(Outcome::Deploy(DeployResult::default())) }
}

fn tasks(messages: &mut Messages) -> Vec<String> {
    std::iter::from_fn(|| messages.try_recv().ok())
        .map(|m| match m.unwrap().body {
            Some(Body::Task(task)) => task.id,
            Some(Body::Ack(ack)) => format!("ack {}", ack.task_id),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_later_inventory_takes_the_place_of_the_first_and_wakes_the_host() {
    let mut bench = bench();
    bench.hub.registered(&host(), 3, "key", Inventory::default()).unwrap();
    let (attached, _messages) = bench.attach(3, "key", Hello::default());
    bench.woken();
    let later = Inventory { serial_number: "S1".into(), ..Default::default() };
    bench.hub.inventory(&host(), attached.id, later.clone()).unwrap();
    assert_eq!(bench.woken(), 1);
    assert_eq!(bench.hub.view(&host()).unwrap().inventory.as_deref(), Some(&later));
    assert!(bench.hub.inventory(&host(), attached.id + 1, later).is_err(), "of another session");
}

#[test]
fn an_agent_is_seen_while_it_is_connected() {
    let mut bench = bench();
    assert_eq!(bench.hub.view(&host()), None);
    let inventory = Inventory { serial_number: "S1".into(), ..Default::default() };
    bench.hub.registered(&host(), 3, "key", inventory.clone()).unwrap();
    assert_eq!(bench.hub.view(&host()), None, "registered, not yet connected");
    let (attached, _messages) = bench.attach(3, "key", Hello::default());
    let view = bench.hub.view(&host()).unwrap();
    assert_eq!((view.fingerprint.as_str(), view.boot_number), ("key", 3));
    assert_eq!(view.inventory.as_deref(), Some(&inventory));
    assert_eq!(bench.woken(), 1);
    bench.hub.detach(&host(), attached.id);
    assert_eq!(bench.hub.view(&host()), None);
    assert_eq!(bench.woken(), 1);
}

#[test]
fn a_task_reaches_the_agent_once_and_its_result_the_view() {
    let mut bench = bench();
    assert_eq!(bench.hub.submit(&host(), deploy("d")), Err(NotConnected(host())));
    let (attached, mut messages) = bench.attach(1, "key", Hello::default());
    bench.hub.submit(&host(), deploy("d")).unwrap();
    bench.hub.submit(&host(), deploy("d")).unwrap();
    assert_eq!(tasks(&mut messages), ["d"]);
    bench.woken();
    bench.hub.result(&host(), attached.id, deployed("d")).unwrap();
    bench.hub.result(&host(), attached.id, deployed("d")).unwrap();
    assert_eq!(bench.woken(), 1);
    assert!(bench.hub.view(&host()).unwrap().tasks["d"].is_finished());
    assert_eq!(tasks(&mut messages), [""; 0], "not acknowledged before it is recorded");
    bench.hub.acknowledge(&host(), "d");
    bench.hub.acknowledge(&host(), "d");
    assert_eq!(tasks(&mut messages), ["ack d"]);
}

#[test]
fn a_power_result_needs_nobody_to_acknowledge_it() {
    let bench = bench();
    let (attached, mut messages) = bench.attach(1, "key", Hello::default());
    let power = Power { action: PowerAction::Reboot.into() };
    bench.hub.submit(&host(), Task { id: "p".into(), work: Some(Work::Power(power)) }).unwrap();
    let outcome = Outcome::Power(PowerResult { action: PowerAction::Reboot.into() });
    bench
        .hub
        .result(&host(), attached.id, TaskResult { task_id: "p".into(), outcome: Some(outcome) })
        .unwrap();
    assert_eq!(tasks(&mut messages), ["p", "ack p"]);
}

#[test]
fn a_newer_session_replaces_the_older_and_lost_tasks_come_again() {
    let bench = bench();
    let (first, mut old) = bench.attach(1, "key", Hello::default());
    bench.hub.submit(&host(), deploy("lost")).unwrap();
    bench.hub.submit(&host(), deploy("running")).unwrap();
    assert_eq!(old.try_recv().unwrap().unwrap().body, Some(Body::Task(deploy("lost"))));
    let running = vec![TaskProgress { task_id: "running".into(), ..Default::default() }];
    let (second, mut new) = bench.attach(1, "key", Hello { running, ..Default::default() });
    assert_eq!(tasks(&mut new), ["lost"]);
    assert!(first.ended.is_cancelled() && !second.ended.is_cancelled());
    old.try_recv().unwrap().unwrap();
    assert_eq!(old.try_recv().unwrap().unwrap_err().code(), Code::Aborted);
    // What comes late from the old session changes nothing, its end neither.
    assert_eq!(bench.hub.result(&host(), first.id, deployed("running")), Err(SessionError::Over));
    bench.hub.detach(&host(), first.id);
    assert!(bench.hub.view(&host()).is_some());
}

#[test]
fn what_was_meant_for_one_key_is_never_sent_to_another() {
    let bench = bench();
    let (first, mut old) = bench.attach(1, "key one", Hello::default());
    bench.hub.submit(&host(), deploy("with secrets")).unwrap();
    assert_eq!(tasks(&mut old), ["with secrets"]);
    let (_second, mut new) = bench.attach(2, "key two", Hello::default());
    assert!(first.ended.is_cancelled());
    assert_eq!(tasks(&mut new), [""; 0]);
    assert_eq!(bench.hub.view(&host()).unwrap().tasks, BTreeMap::new());
    assert!(bench.hub.known("key one").is_none());
    assert_eq!(bench.hub.submit_to(&host(), "key one", deploy("late")), Err(NotConnected(host())));
    bench.hub.submit_to(&host(), "key two", deploy("new")).unwrap();
    assert_eq!(tasks(&mut new), ["new"]);
    // The agent of an earlier boot comes too late.
    let (outbox, _messages) = mpsc::channel(OUTBOX);
    let late = bench.hub.attach(&host(), 1, "key one", Hello::default(), outbox);
    assert!(matches!(late, Err(SessionError::OldBoot { got: 1, current: 2 })));
}

#[test]
fn a_forgotten_host_has_neither_session_nor_results() {
    let bench = bench();
    let (attached, mut messages) = bench.attach(1, "key", Hello::default());
    bench.hub.submit(&host(), deploy("d")).unwrap();
    bench.hub.result(&host(), attached.id, deployed("d")).unwrap();
    bench.hub.forget(&host());
    assert!(attached.ended.is_cancelled());
    messages.try_recv().unwrap().unwrap();
    assert_eq!(messages.try_recv().unwrap().unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(bench.hub.view(&host()), None);
    assert!(bench.hub.known("key").is_none());
    let (_again, _messages) = bench.attach(1, "key", Hello::default());
    assert_eq!(bench.hub.view(&host()).unwrap().tasks, BTreeMap::new());
}

#[test]
fn an_agent_that_does_not_read_is_let_go_and_nothing_blocks() {
    let bench = bench();
    let (attached, messages) = bench.attach(1, "key", Hello::default());
    for n in 0..=OUTBOX {
        assert!(!attached.ended.is_cancelled());
        bench.hub.submit(&host(), deploy(&n.to_string())).unwrap();
    }
    assert!(attached.ended.is_cancelled());
    drop(messages);
}

#[test]
fn a_registration_is_fresh_at_first() {
    let bench = bench();
    bench.hub.registered(&host(), 3, "key", Inventory::default()).unwrap();
    let known = bench.hub.known("key").unwrap();
    assert_eq!((known.host, known.boot_number, known.fresh), (host(), 3, true));
    assert!(bench.hub.registered(&host(), 2, "older", Inventory::default()).is_err());
    assert!(bench.hub.known("older").is_none());
}
