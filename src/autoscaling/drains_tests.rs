#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use rstest::rstest;

use super::super::down::Removal;
use super::super::view::{Change, Verdict, Victim, Why};
use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn drain(number: usize, since: i64, marked: bool) -> Drain {
    Drain { machine: format!("m{number}"), node: format!("n{number}"), since: at(since), marked, stop: None }
}

fn verdict(replicas: i32, change: Option<Change>) -> Verdict {
    Verdict { replicas, change, ..Verdict::nothing("g") }
}

fn why() -> Why {
    Why { reason: "Unneeded", trigger: None, message: String::new() }
}

fn up(to: i32) -> Verdict {
    verdict(to, Some(Change::Up(why())))
}

/// What is done with drains, `spec.replicas` and Machines as given, 100 s after the beginning.
fn done(
    (replicas, staying): (i32, usize),
    drains: &[Drain],
    pods: &[(&str, usize)],
    stuck: &[(&str, &str)],
    verdict: &Verdict,
) -> Steps {
    let pods: BTreeMap<String, usize> = pods.iter().map(|(node, left)| ((*node).to_owned(), *left)).collect();
    let stuck = stuck.iter().map(|(node, why)| ((*node).to_owned(), (*why).to_owned())).collect();
    let draining = Draining {
        replicas,
        staying,
        drains,
        pods: &pods,
        stuck: &stuck,
        timeout_seconds: 900,
        direct: true,
    };
    steps(&draining, verdict, at(100))
}

#[rstest]
#[case::none(3, 3, 0, 0)]
#[case::all_count(3, 3, 2, 2)]
#[case::lowered_by_one(2, 3, 1, 0)]
#[case::lowered_by_one_of_two(2, 3, 2, 1)]
#[case::more_to_come(5, 3, 1, 1)]
#[case::others_go_too(1, 4, 1, 0)]
#[case::none_left(0, 0, 1, 0)]
fn which_count(
    #[case] replicas: i32,
    #[case] staying: usize,
    #[case] draining: usize,
    #[case] expected: i32,
) {
    assert_eq!(unpaid(replicas, staying, draining), expected);
}

#[test]
fn a_node_is_emptied_then_removed() {
    let removal = Removal { node: "n1".to_owned(), machine: "m1".to_owned(), moves: Vec::new() };
    let begin = verdict(2, Some(Change::Down(why(), vec![Victim::Node(removal)])));
    let first = done((3, 3), &[], &[], &[], &begin);
    assert_eq!(first.begin, [("m1".to_owned(), "n1".to_owned())]);
    assert_eq!(first.replicas, None, "nothing is removed with pods on it");

    let drains = [drain(1, 0, false)];
    let second = done((3, 3), &drains, &[("n1", 2)], &[], &verdict(2, None));
    assert_eq!(second, Steps { evict: drains.to_vec(), ..Steps::default() });

    let third = done((3, 3), &drains, &[("n1", 0)], &[], &verdict(2, None));
    let expected = Steps { mark: vec!["m1".to_owned()], replicas: Some(2), ..Steps::default() };
    assert_eq!(third, expected);

    // Cluster API has not begun yet: it is not lowered once more.
    let marked = [drain(1, 0, true)];
    assert_eq!(done((2, 3), &marked, &[("n1", 0)], &[], &verdict(2, None)), Steps::default());
    // The process ended between the mark and the number: it is done now.
    assert_eq!(done((3, 3), &marked, &[("n1", 0)], &[], &verdict(2, None)).replicas, Some(2));
}

#[test]
fn new_demand_takes_nodes_back_first() {
    let drains = [drain(1, 0, false), drain(2, 50, false)];
    let pods = [("n1", 1), ("n2", 3)];
    let one = done((4, 4), &drains, &pods, &[], &up(3));
    assert_eq!(one.give_back, [(drains[1].clone(), "a node more is wanted".to_owned())]);
    assert_eq!((one.evict, one.replicas), (vec![drains[0].clone()], None));
    let more = done((4, 4), &drains, &pods, &[], &up(7));
    assert_eq!((more.give_back.len(), more.evict.len(), more.replicas), (2, 0, Some(7)));
}

#[test]
fn what_cannot_be_emptied_is_given_back() {
    let drains = [drain(1, 0, false), drain(2, -900, false), drain(3, -900, false)];
    let pods = [("n1", 1), ("n2", 3), ("n3", 0)];
    let steps = done(
        (4, 4),
        &drains,
        &pods,
        &[("n1", "default/a: the pod fits on no other node")],
        &verdict(1, None),
    );
    let why: Vec<_> =
        steps.give_back.iter().map(|(drain, why)| (drain.node.as_str(), why.as_str())).collect();
    assert_eq!(
        why,
        [("n1", "default/a: the pod fits on no other node"), ("n2", "3 pods are left after 900 s")]
    );
    assert_eq!(
        (steps.mark, steps.replicas),
        (vec!["m3".to_owned()], Some(3)),
        "what is empty goes, however late"
    );
}

#[test]
fn what_somebody_took_in_hand_is_given_back() {
    let drains = [Drain { stop: Some("somebody lets pods on it again"), ..drain(1, 0, true) }];
    let steps = done((3, 3), &drains, &[("n1", 0)], &[], &verdict(2, None));
    assert_eq!((steps.give_back.len(), steps.mark.len(), steps.replicas), (1, 0, None), "though it is empty");
}

#[test]
fn what_is_not_known_changes_nothing() {
    let drains = [drain(1, 0, false)];
    let mut held = verdict(2, None);
    held.inactive = Some("Cluster prod is paused".to_owned());
    assert_eq!(done((3, 3), &drains, &[("n1", 0)], &[], &held), Steps::default());
    assert_eq!(
        done((3, 3), &drains, &[], &[], &verdict(2, None)),
        Steps::default(),
        "of its pods nothing is known"
    );
}

#[test]
fn another_mode_gives_back() {
    let (drains, none, stuck) = ([drain(1, 0, false)], BTreeMap::new(), BTreeMap::new());
    let draining = Draining {
        replicas: 3,
        staying: 3,
        drains: &drains,
        pods: &none,
        stuck: &stuck,
        timeout_seconds: 900,
        direct: false,
    };
    assert_eq!(steps(&draining, &verdict(2, None), at(0)).give_back.len(), 1);
}

proptest! {
    /// However it stands: the number is lowered by as many as are empty, raised by as many as are wanted beyond those that
    /// can be taken back, and never below what stays.
    #[test]
    fn numbers_add_up(
        others in 0usize..6,
        late in 0usize..3,
        states in prop::collection::vec((0usize..3, any::<bool>(), -2000i64..100), 0..6),
        paid in 0usize..3,
        wanted in prop::option::of(1i32..8),
    ) {
        let drains: Vec<Drain> =
            states.iter().enumerate().map(|(i, (_, marked, since))| drain(i, *since, *marked)).collect();
        let paid = paid.min(drains.iter().filter(|drain| drain.marked).count());
        let staying = others + drains.len();
        let replicas = (staying - paid) as i32;
        let pods: Vec<(String, usize)> =
            drains.iter().zip(&states).map(|(drain, (pods, ..))| (drain.node.clone(), *pods)).collect();
        let pods: Vec<(&str, usize)> = pods.iter().map(|(node, pods)| (node.as_str(), *pods)).collect();
        let stays = replicas - unpaid(replicas, staying, drains.len());
        prop_assert_eq!(stays, others as i32);
        let late = late.min(others);
        let verdict = match wanted {
            Some(more) => up(stays + more),
            None if late > 0 => verdict(
                stays - late as i32,
                Some(Change::Down(why(), (0..late).map(|i| Victim::Late(format!("late{i}"))).collect())),
            ),
            None => verdict(stays, None),
        };
        let steps = done((replicas, staying), &drains, &pods, &[], &verdict);
        let after = steps.replicas.unwrap_or(replicas);
        let pending = unpaid(replicas, staying, drains.len());
        let back = steps.give_back.len() as i32;
        prop_assert!(back <= pending);
        let removed = steps.mark.len() as i32;
        let raised = wanted.map_or(0, |more| (more - pending).max(0));
        prop_assert_eq!(after, replicas - removed + raised);
        // When all that is emptied is gone, as many are left as were wanted, and those that were given back for other reasons.
        let left = pending - back - (removed - if wanted.is_none() { late as i32 } else { 0 });
        prop_assert!(after - left >= verdict.replicas, "{after} {left} {verdict:?}");
    }
}
