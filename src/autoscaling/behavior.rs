//! How fast a number of replicas may move: stabilization windows and policies. Pure.
//!
//! The rules are those of the HorizontalPodAutoscaler (`autoscaling/v2`, "Configurable scaling behavior"): upwards the
//! least that was wanted within the window counts, downwards the most; a policy limits what a period may bring, counted
//! from what there was at its beginning; of several policies the one that allows most counts.

use ferric_api::autoscaling::{ScalingPolicy, ScalingPolicyType, ScalingRules};
use jiff::{SignedDuration, Timestamp};

/// The longest window that the API takes, in seconds; what is older is forgotten.
const LONGEST: i64 = 86_400;
/// Seconds that are looked back downwards where nothing is said.
const DOWN_WINDOW: i32 = 900;

/// What was wanted and what was done, as far back as a window may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    wanted: Vec<(Timestamp, i32)>,
    changes: Vec<(Timestamp, i32)>,
}

/// A number of replicas that may be set now, and what kept it from what was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paced {
    /// What may be set.
    pub replicas: i32,
    /// What held it back.
    pub held_by: Option<HeldBy>,
}

/// What keeps a number of replicas from what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeldBy {
    /// Not long enough wanted.
    Window,
    /// Too much in a period.
    Policy,
}

impl Past {
    /// A past of which only the changes are known, as a status keeps them. Windows begin anew: what is to be wanted for a
    /// while must be wanted for all of it again.
    #[must_use]
    pub fn of_changes(changes: impl IntoIterator<Item = (Timestamp, i32)>) -> Self {
        let mut changes: Vec<_> = changes.into_iter().collect();
        changes.sort_unstable();
        Self { wanted: Vec::new(), changes }
    }

    /// Takes note of what is wanted, and forgets what no window can reach. The clock may stand still, and may go back.
    pub fn want(&mut self, now: Timestamp, replicas: i32) {
        // What was wanted last before the longest window still held when it began.
        let old = self.wanted.iter().take_while(|(at, _)| !within(now, *at, LONGEST)).count();
        self.wanted.drain(..old.saturating_sub(1));
        self.changes.retain(|(at, _)| within(now, *at, LONGEST));
        // Of equal numbers in a row, the first and the last say it all.
        if let [.., (_, first), (at, second)] = self.wanted.as_mut_slice()
            && *first == replicas
            && *second == replicas
        {
            *at = now;
            return;
        }
        self.wanted.push((now, replicas));
    }

    /// Takes note of a change that was made.
    pub fn change(&mut self, now: Timestamp, by: i32) {
        if by != 0 {
            self.changes.push((now, by));
        }
    }

    /// What may be set now of the last that was wanted. Rules that are absent: up at once, down after 900 s, without limits.
    ///
    /// A window that the past does not cover does not lower anything: after a restart it has to pass.
    #[must_use]
    pub fn pace(
        &self,
        now: Timestamp,
        current: i32,
        up: Option<&ScalingRules>,
        down: Option<&ScalingRules>,
    ) -> Paced {
        let Some(&(_, wanted)) = self.wanted.last() else {
            return Paced { replicas: current, held_by: None };
        };
        let window = |rules: Option<&ScalingRules>, otherwise| {
            rules.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(otherwise).into()
        };
        let (up_window, down_window) = (window(up, 0), window(down, DOWN_WINDOW));
        let least = self.seen(now, up_window).min().unwrap_or(wanted);
        let most = self.seen(now, down_window).max().unwrap_or(wanted);
        let stable = match wanted {
            _ if wanted > current && self.covers(now, up_window) => least.max(current),
            _ if wanted < current && self.covers(now, down_window) => most.min(current),
            _ => current,
        };
        let policies =
            |rules: Option<&ScalingRules>| rules.map_or(Vec::new(), |rules| rules.policies.clone());
        let replicas = if stable >= current {
            stable.min(self.ceiling(now, current, &policies(up)))
        } else {
            stable.max(self.floor(now, current, &policies(down)))
        };
        let held_by = match replicas {
            _ if replicas != stable => Some(HeldBy::Policy),
            _ if stable != wanted => Some(HeldBy::Window),
            _ => None,
        };
        Paced { replicas, held_by }
    }

    /// All that was wanted within a window, and what was wanted when it began.
    fn seen(&self, now: Timestamp, window: i64) -> impl Iterator<Item = i32> {
        let begin = self.wanted.partition_point(|(at, _)| !within(now, *at, window));
        // What was wanted last before it still held when it began.
        self.wanted[begin.saturating_sub(1)..].iter().map(|(_, replicas)| *replicas)
    }

    fn covers(&self, now: Timestamp, window: i64) -> bool {
        window == 0 || self.wanted.first().is_some_and(|(at, _)| seconds(now, *at) >= window)
    }

    /// The most that policies allow. `changes` that are still within a period count.
    fn ceiling(&self, now: Timestamp, current: i32, policies: &[ScalingPolicy]) -> i32 {
        let allowed = policies.iter().map(|policy| {
            let before = self.at_begin(now, current, policy);
            before.saturating_add(allowance(before, policy)).max(current)
        });
        allowed.max().unwrap_or(i32::MAX)
    }

    /// The least that policies allow.
    fn floor(&self, now: Timestamp, current: i32, policies: &[ScalingPolicy]) -> i32 {
        let allowed = policies.iter().map(|policy| {
            let before = self.at_begin(now, current, policy);
            before.saturating_sub(allowance(before, policy)).min(current)
        });
        allowed.min().unwrap_or(0).max(0)
    }

    /// What there was when a policy's period began.
    fn at_begin(&self, now: Timestamp, current: i32, policy: &ScalingPolicy) -> i32 {
        let period = policy.period_seconds.into();
        let since = self.changes.iter().filter(|(at, _)| within(now, *at, period));
        since.fold(current, |before, (_, by)| before.saturating_sub(*by)).max(0)
    }
}

/// Nodes that a policy grants; a percentage grants one at least.
fn allowance(before: i32, policy: &ScalingPolicy) -> i32 {
    match policy.kind {
        ScalingPolicyType::Nodes => policy.value,
        ScalingPolicyType::Percent => {
            let share = (i64::from(before.max(0)) * i64::from(policy.value) + 99) / 100;
            i32::try_from(share.max(1)).unwrap_or(i32::MAX)
        }
    }
}

fn seconds(now: Timestamp, at: Timestamp) -> i64 {
    now.duration_since(at).max(SignedDuration::ZERO).as_secs()
}

fn within(now: Timestamp, at: Timestamp, window: i64) -> bool {
    seconds(now, at) < window
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn rules(window: i32, policies: &[(ScalingPolicyType, i32, i32)]) -> ScalingRules {
        ScalingRules {
            stabilization_window_seconds: Some(window),
            policies: policies
                .iter()
                .map(|&(kind, value, period_seconds)| ScalingPolicy { kind, value, period_seconds })
                .collect(),
        }
    }

    fn past(wanted: &[(i64, i32)], changes: &[(i64, i32)]) -> Past {
        let mut past = Past::of_changes(changes.iter().map(|&(seconds, by)| (at(seconds), by)));
        for &(seconds, replicas) in wanted {
            past.want(at(seconds), replicas);
        }
        past
    }

    #[rstest]
    #[case::nothing_is_known(&[], 3, 3, None)]
    #[case::up_at_once(&[(1000, 7)], 3, 7, None)]
    #[case::down_not_before_the_window(&[(1000, 1)], 3, 3, Some(HeldBy::Window))]
    #[case::down_after_the_window(&[(99, 1), (1000, 1)], 3, 1, None)]
    #[case::down_to_the_most_of_the_window(&[(0, 1), (500, 2), (1000, 1)], 3, 2, Some(HeldBy::Window))]
    #[case::a_burst_in_the_window_holds(&[(0, 1), (500, 9), (1000, 1)], 3, 3, Some(HeldBy::Window))]
    #[case::what_was_wanted_when_it_began_counts(&[(0, 3), (99, 3), (101, 1), (1000, 1)], 3, 3, Some(HeldBy::Window))]
    fn windows_by_default(
        #[case] wanted: &[(i64, i32)],
        #[case] current: i32,
        #[case] replicas: i32,
        #[case] held_by: Option<HeldBy>,
    ) {
        let paced = past(wanted, &[]).pace(at(1000), current, None, None);
        assert_eq!(paced, Paced { replicas, held_by });
    }

    use ScalingPolicyType::{Nodes, Percent};

    #[rstest]
    #[case::by_number(&[(Nodes, 4, 300)], &[], 10, 14)]
    #[case::by_share(&[(Percent, 50, 300)], &[], 10, 15)]
    #[case::a_share_of_nothing_is_one(&[(Percent, 50, 300)], &[], 0, 1)]
    #[case::the_most_counts(&[(Nodes, 4, 300), (Percent, 100, 300)], &[], 10, 20)]
    #[case::what_came_in_the_period_counts(&[(Nodes, 4, 300)], &[(800, 3)], 13, 14)]
    #[case::what_came_before_does_not(&[(Nodes, 4, 300)], &[(700, 3)], 13, 17)]
    #[case::never_below_what_there_is(&[(Nodes, 4, 300)], &[(800, 30)], 40, 40)]
    fn policies_upwards(
        #[case] policies: &[(ScalingPolicyType, i32, i32)],
        #[case] changes: &[(i64, i32)],
        #[case] current: i32,
        #[case] expected: i32,
    ) {
        let paced = past(&[(1000, 1000)], changes).pace(at(1000), current, Some(&rules(0, policies)), None);
        assert_eq!(paced, Paced { replicas: expected, held_by: Some(HeldBy::Policy) });
    }

    #[rstest]
    #[case::by_number(&[(Nodes, 4, 300)], &[], 10, 6)]
    #[case::by_share_rounded_up(&[(Percent, 10, 300)], &[], 15, 13)]
    #[case::what_went_in_the_period_counts(&[(Nodes, 4, 300)], &[(800, -3)], 7, 6)]
    #[case::nothing_is_left_of_it(&[(Nodes, 4, 300)], &[(800, -4)], 6, 6)]
    fn policies_downwards(
        #[case] policies: &[(ScalingPolicyType, i32, i32)],
        #[case] changes: &[(i64, i32)],
        #[case] current: i32,
        #[case] expected: i32,
    ) {
        let paced = past(&[(1000, 0)], changes).pace(at(1000), current, None, Some(&rules(0, policies)));
        assert_eq!(paced, Paced { replicas: expected, held_by: Some(HeldBy::Policy) });
    }

    proptest! {
        /// Whatever was wanted and done: never past what is wanted, never the other way, and the past stays small.
        #[test]
        fn between_current_and_wanted(
            steps in prop::collection::vec((0i64..2000, 0i32..50), 1..60),
            current in 0i32..50,
            window in 0i32..1000,
            value in 1i32..10,
        ) {
            let (up, down) = (rules(window, &[(Nodes, value, 300)]), rules(window, &[(Percent, value, 300)]));
            let (mut past, mut now, mut current) = (Past::default(), 0, current);
            for (pause, wanted) in steps {
                now += pause;
                past.want(at(now), wanted);
                let paced = past.pace(at(now), current, Some(&up), Some(&down));
                prop_assert!(paced.replicas >= current.min(wanted) && paced.replicas <= current.max(wanted));
                prop_assert_eq!(paced.held_by.is_none(), paced.replicas == wanted);
                past.change(at(now), paced.replicas - current);
                current = paced.replicas;
            }
        }

        /// What is wanted all the time comes, in the end.
        #[test]
        fn it_arrives(current in 0i32..200, wanted in 0i32..200, window in 0i32..1000, value in 1i32..100) {
            let rules = rules(window, &[(Percent, value, 300), (Nodes, 1, 60)]);
            let (mut past, mut current) = (Past::default(), current);
            for step in 0..3000 {
                past.want(at(step * 61), wanted);
                let paced = past.pace(at(step * 61), current, Some(&rules), Some(&rules));
                past.change(at(step * 61), paced.replicas - current);
                current = paced.replicas;
            }
            prop_assert_eq!(current, wanted);
            prop_assert!(past.wanted.len() <= 2);
        }
    }
}
