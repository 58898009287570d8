#![allow(clippy::unwrap_used)]

use super::super::triggers::Wish;
use super::super::view::Why;
use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

struct Case {
    group: Group,
    verdict: Verdict,
    drains: Vec<(Drain, usize)>,
    failed: Option<&'static str>,
    now: i64,
}

impl Case {
    fn new(mode: ActuationMode) -> Self {
        let mut group = Group { name: "g".to_owned(), replicas: 2, ..Group::default() };
        group.spec.actuation_mode = mode;
        group.free.off = 3;
        let verdict = Verdict { replicas: 2, bounds: (0, 5), ..Verdict::nothing("g") };
        Self { group, verdict, drains: Vec::new(), failed: None, now: 0 }
    }

    fn up(mut self, to: i32) -> Self {
        let why = Why { reason: "Trigger", trigger: Some("queue".to_owned()), message: "80 wait".to_owned() };
        (self.verdict.replicas, self.verdict.change) = (to, Some(Change::Up(why)));
        self
    }

    fn status(&self, before: &NodeGroupAutoscalerStatus) -> (NodeGroupAutoscalerStatus, Option<Decision>) {
        let learned = Learned::default();
        let told = Told {
            group: &self.group,
            verdict: &self.verdict,
            replicas: self.group.replicas,
            learned: &learned,
            drains: &self.drains,
            failed: self.failed,
            generation: Some(1),
            now: at(self.now),
        };
        status(before, &told)
    }
}

fn says(status: &NodeGroupAutoscalerStatus, kind: &str) -> (String, String, String) {
    let found = condition::get(&status.conditions, kind).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

#[test]
fn nothing_new_changes_nothing() {
    let mut case = Case::new(ActuationMode::Direct);
    let (first, decision) = case.status(&NodeGroupAutoscalerStatus::default());
    assert_eq!(decision, None);
    assert_eq!((first.usable_hosts, first.effective_max_replicas), (Some(3), Some(5)));
    case.now = 60;
    assert_eq!(case.status(&first).0, first, "a time alone is no news");
}

#[test]
fn decisions_are_kept_newest_first() {
    let mut before = NodeGroupAutoscalerStatus::default();
    for number in 0..12 {
        let mut case = Case::new(ActuationMode::Direct).up(3 + number);
        case.now = i64::from(number);
        let (status, decision) = case.status(&before);
        let decision = decision.unwrap();
        assert_eq!(
            sentence(&decision, &case.verdict),
            format!("2 to {} (trigger queue): 80 wait", 3 + number)
        );
        assert_eq!(status.last_decision, Some(decision));
        before = status;
    }
    assert_eq!(before.history.iter().map(|d| d.to).collect::<Vec<_>>(), (5..15).rev().collect::<Vec<_>>());
}

#[test]
fn a_recommendation_is_told_once() {
    let case = Case::new(ActuationMode::Recommend).up(4);
    let (first, decision) = case.status(&NodeGroupAutoscalerStatus::default());
    assert!(decision.is_some());
    let (second, decision) = case.status(&first);
    assert_eq!((second, decision), (first.clone(), None));
    assert!(Case::new(ActuationMode::Recommend).up(5).status(&first).1.is_some());
}

#[test]
fn what_failed_is_no_decision() {
    let mut case = Case::new(ActuationMode::Direct).up(4);
    case.failed = Some("patch machinedeployments/scale default/a: forbidden");
    let (status, decision) = case.status(&NodeGroupAutoscalerStatus::default());
    assert_eq!((decision, status.last_decision.clone()), (None, None));
    let (state, reason, message) = says(&status, types::ABLE_TO_SCALE);
    assert_eq!((state.as_str(), reason.as_str()), ("False", "ScaleFailed"));
    assert!(message.contains("forbidden"));
}

#[test]
fn conditions_say_what_is_waited_for() {
    let mut case = Case::new(ActuationMode::Delegate);
    case.verdict.triggers = vec![("queue".to_owned(), Wish::failed("no answer"))];
    case.verdict.limited = Some("3 hosts are free".to_owned());
    case.verdict.backed_off = Some(at(300));
    let drain =
        Drain { machine: "m".to_owned(), node: "n".to_owned(), since: at(0), marked: false, stop: None };
    case.drains = vec![(drain, 4)];
    let (status, _) = case.status(&NodeGroupAutoscalerStatus::default());
    assert_eq!(says(&status, types::SCALING_ACTIVE).1, "TriggersFailed");
    assert_eq!(says(&status, types::SCALING_LIMITED).2, "3 hosts are free");
    assert!(says(&status, types::BACKED_OFF).2.contains(&at(300).to_string()));
    let (state, _, message) = says(&status, types::DRAINING);
    assert_eq!(state, "True");
    assert!(
        message.starts_with("node n: 4 pods left, since") && message.contains("given back at"),
        "{message}"
    );
    assert_eq!(says(&status, types::DELEGATED).0, "True");

    case.verdict.triggers.push(("pods".to_owned(), Wish::of(2, 0, None, "")));
    let (status, _) = case.status(&status);
    let (state, reason, message) = says(&status, types::SCALING_ACTIVE);
    assert_eq!((state.as_str(), reason.as_str()), ("True", "TriggerFailed"));
    assert!(message.contains("queue: no answer"));

    case.verdict.inactive = Some("Cluster prod is paused".to_owned());
    case.verdict.triggers.clear();
    let (held, _) = case.status(&status);
    assert_eq!(says(&held, types::SCALING_ACTIVE).0, "False");
    assert_eq!(held.triggers, status.triggers, "what was measured last stays");
}
