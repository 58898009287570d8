//! Condition lists.

use ferric_api::condition::{self, ConditionStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

#[test]
fn a_new_condition_is_a_change() {
    let mut list = Vec::new();
    assert!(condition::set(&mut list, "Ready", ConditionStatus::False, "Busy", "writing", Some(3), &at(10)));
    let ready = condition::get(&list, "Ready").unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str(), ready.message.as_str()),
        ("False", "Busy", "writing")
    );
    assert_eq!((ready.observed_generation, &ready.last_transition_time), (Some(3), &at(10)));
    assert!(!condition::is_true(&list, "Ready"));
    assert!(!condition::is_true(&list, "Paused"));
}

#[test]
fn the_transition_time_moves_with_the_status_alone() {
    let mut list = Vec::new();
    condition::set(&mut list, "Ready", ConditionStatus::False, "Busy", "10 %", Some(1), &at(10));
    assert!(condition::set(&mut list, "Ready", ConditionStatus::False, "Busy", "20 %", Some(1), &at(20)));
    assert_eq!(condition::get(&list, "Ready").unwrap().last_transition_time, at(10));
    assert!(condition::set(&mut list, "Ready", ConditionStatus::False, "Idle", "20 %", Some(1), &at(30)));
    assert_eq!(condition::get(&list, "Ready").unwrap().last_transition_time, at(10));
    assert!(condition::set(&mut list, "Ready", ConditionStatus::True, "Idle", "20 %", Some(1), &at(40)));
    assert_eq!(condition::get(&list, "Ready").unwrap().last_transition_time, at(40));
    assert!(condition::is_true(&list, "Ready"));
}

#[test]
fn a_new_generation_alone_is_recorded_but_is_no_change() {
    let mut list = Vec::new();
    condition::set(&mut list, "Ready", ConditionStatus::True, "Done", "", Some(1), &at(10));
    assert!(!condition::set(&mut list, "Ready", ConditionStatus::True, "Done", "", Some(2), &at(20)));
    let ready = condition::get(&list, "Ready").unwrap();
    assert_eq!((ready.observed_generation, &ready.last_transition_time), (Some(2), &at(10)));
}

#[test]
fn removal_takes_one_kind() {
    let mut list = Vec::new();
    condition::set(&mut list, "Ready", ConditionStatus::True, "Done", "", None, &at(10));
    condition::set(&mut list, "Paused", ConditionStatus::Unknown, "Unknown", "", None, &at(10));
    condition::remove(&mut list, "Ready");
    condition::remove(&mut list, "Ready");
    assert_eq!(list.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), ["Paused"]);
}

fn any_status() -> impl Strategy<Value = ConditionStatus> {
    prop_oneof![Just(ConditionStatus::True), Just(ConditionStatus::False), Just(ConditionStatus::Unknown)]
}

proptest! {
    /// Whatever is set in whatever order: one entry a kind, holding what was set last, and the second call of the
    /// same changes nothing.
    #[test]
    fn set_is_idempotent_and_keeps_kinds_apart(
        steps in prop::collection::vec((0usize..3, any_status(), "[A-C]", "[a-c]?"), 1..30),
    ) {
        let kinds = ["Ready", "Paused", "Healthy"];
        let mut list: Vec<Condition> = Vec::new();
        for (n, (kind, status, reason, message)) in steps.iter().enumerate() {
            let kind = kinds[*kind];
            let others: Vec<Condition> = list.iter().filter(|c| c.type_ != kind).cloned().collect();
            let before = condition::get(&list, kind).cloned();
            let now = at(i64::try_from(n).unwrap());
            condition::set(&mut list, kind, *status, reason, message, None, &now);
            let after = condition::get(&list, kind).unwrap().clone();
            prop_assert_eq!(after.status.as_str(), status.as_str());
            prop_assert_eq!((&after.reason, &after.message), (reason, message));
            let kept = before.as_ref().is_some_and(|b| b.status == after.status);
            let expected = before.filter(|_| kept).map_or(now, |b| b.last_transition_time);
            prop_assert_eq!(&after.last_transition_time, &expected);
            prop_assert!(!condition::set(&mut list, kind, *status, reason, message, None, &at(1_000)));
            let rest: Vec<Condition> = list.iter().filter(|c| c.type_ != kind).cloned().collect();
            prop_assert_eq!(rest, others);
        }
    }
}
