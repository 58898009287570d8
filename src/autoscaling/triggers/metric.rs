//! A metric and its target.

use ferric_api::autoscaling::{NullValuePolicy, PrometheusTrigger, TargetType, TriggerState};
use jiff::Timestamp;

use super::{Wish, whole};
use crate::autoscaling::schedule::quantity::Amount;

/// A metric this near to its target asks for nothing: the tolerance of the HorizontalPodAutoscaler
/// (`--horizontal-pod-autoscaler-tolerance`).
const TOLERANCE: f64 = 0.1;

/// What a query gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// One number.
    Value(f64),
    /// An empty vector.
    Empty,
    /// No answer, or one that is no number: why.
    Failed(String),
}

/// What a metric asks for, and since when it has been asking for more.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricWish {
    /// What it asks for.
    pub wish: Wish,
    /// Since when it has been above its target; to be given back the next time.
    pub above_since: Option<Timestamp>,
}

/// What a metric asks for. With no replicas at all, a metric by `Value` counts as that of one.
#[must_use]
pub fn metric(
    trigger: &PrometheusTrigger,
    reading: &Reading,
    current: i32,
    above_since: Option<Timestamp>,
    now: Timestamp,
) -> MetricWish {
    let failed = |message: String| MetricWish { wish: Wish::failed(message), above_since };
    let value = match (reading, trigger.null_value_policy) {
        (Reading::Failed(why), _) => return failed(why.clone()),
        (Reading::Empty, NullValuePolicy::Ignore) => {
            return failed("the query gave nothing: set nullValuePolicy: Zero if that means zero".to_owned());
        }
        (Reading::Empty, NullValuePolicy::Zero) => 0.0,
        (Reading::Value(value), _) if !value.is_finite() || *value < 0.0 => {
            return failed(format!("the query gave {value}, which is no amount"));
        }
        (Reading::Value(value), _) => *value,
    };
    let target = Amount::parse(&trigger.target.value).map(Amount::decimal);
    let Some(target) = target.ok().filter(|target| *target > 0.0) else {
        return failed(format!("the target {:?} is no positive number", trigger.target.value));
    };
    let (per, wanted, ratio) = match trigger.target.kind {
        TargetType::AverageValue => (" a node", value / target, value / target / f64::from(current.max(1))),
        TargetType::Value => ("", f64::from(current.max(1)) * value / target, value / target),
    };
    let wanted = match current {
        0 if value == 0.0 => 0,
        0 => whole(wanted).max(1),
        _ if (ratio - 1.0).abs() <= TOLERANCE => current,
        _ => whole(wanted),
    };
    let above_since = (wanted > current).then(|| above_since.unwrap_or(now));
    let said = format!("{value}, {} is wanted{per}", trigger.target.value);
    let mut wish = Wish::of(current, wanted, Some(value.to_string()), said);
    let held = above_since.map(|since| now.duration_since(since).as_secs());
    if held.is_some_and(|held| held < trigger.duration_seconds.into()) {
        wish.state = TriggerState::Hold;
        wish.replicas = Some(current);
        wish.message = format!("{}, for less than {} s yet", wish.message, trigger.duration_seconds);
    }
    MetricWish { wish, above_since }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::autoscaling::Target;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn trigger(kind: TargetType, value: &str) -> PrometheusTrigger {
        PrometheusTrigger {
            server_url: "http://prometheus:9090".to_owned(),
            query: "sum(queue)".to_owned(),
            target: Target { kind, value: value.to_owned() },
            timeout_seconds: 5,
            null_value_policy: NullValuePolicy::Ignore,
            duration_seconds: 0,
            credentials_name: None,
            ca_name: None,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[rstest]
    #[case::average(TargetType::AverageValue, "50", 400.0, 4, 8)]
    #[case::average_is_rounded_up(TargetType::AverageValue, "50", 401.0, 4, 9)]
    #[case::average_within_tolerance(TargetType::AverageValue, "50", 219.0, 4, 4)]
    #[case::average_below(TargetType::AverageValue, "50", 100.0, 4, 2)]
    #[case::value(TargetType::Value, "0.5", 1.0, 4, 8)]
    #[case::value_in_thousandths(TargetType::Value, "500m", 0.25, 4, 2)]
    #[case::from_none(TargetType::AverageValue, "50", 1.0, 0, 1)]
    #[case::from_none_by_value(TargetType::Value, "50", 200.0, 0, 4)]
    #[case::to_none(TargetType::AverageValue, "50", 0.0, 4, 0)]
    #[case::none_and_nothing(TargetType::Value, "50", 0.0, 0, 0)]
    #[case::bounded(TargetType::Value, "0.000001", 1e300, 4, 10_000)]
    fn wishes(
        #[case] kind: TargetType,
        #[case] target: &str,
        #[case] value: f64,
        #[case] current: i32,
        #[case] wanted: i32,
    ) {
        let found = metric(&trigger(kind, target), &Reading::Value(value), current, None, at(0));
        assert_eq!(found.wish.replicas, Some(wanted), "{found:?}");
    }

    #[rstest]
    #[case(Reading::Value(f64::NAN))]
    #[case(Reading::Value(f64::INFINITY))]
    #[case(Reading::Value(-1.0))]
    #[case(Reading::Empty)]
    #[case(Reading::Failed("connection refused".to_owned()))]
    fn what_is_no_amount_asks_for_nothing(#[case] reading: Reading) {
        let found = metric(&trigger(TargetType::Value, "1"), &reading, 3, Some(at(0)), at(9));
        assert_eq!((found.wish.state, found.wish.replicas), (TriggerState::Failed, None));
        assert_eq!(found.above_since, Some(at(0)), "an outage does not begin the time anew");
    }

    #[test]
    fn nothing_may_mean_zero() {
        let mut trigger = trigger(TargetType::Value, "1");
        trigger.null_value_policy = NullValuePolicy::Zero;
        assert_eq!(metric(&trigger, &Reading::Empty, 3, None, at(0)).wish.replicas, Some(0));
    }

    #[test]
    fn it_must_have_lasted() {
        let mut trigger = trigger(TargetType::Value, "1");
        trigger.duration_seconds = 60;
        let ask = |value, since, now| metric(&trigger, &Reading::Value(value), 3, since, at(now));
        let first = ask(2.0, None, 0);
        assert_eq!((first.wish.state, first.above_since), (TriggerState::Hold, Some(at(0))));
        assert_eq!(ask(2.0, first.above_since, 59).wish.state, TriggerState::Hold);
        assert_eq!(ask(2.0, first.above_since, 60).wish.state, TriggerState::Up);
        assert_eq!(ask(1.0, first.above_since, 59).above_since, None);
    }

    proptest! {
        #[test]
        fn always_a_number_of_replicas(value in any::<f64>(), current in 0i32..=10_000, by_node in any::<bool>()) {
            let kind = if by_node { TargetType::AverageValue } else { TargetType::Value };
            let found = metric(&trigger(kind, "3"), &Reading::Value(value), current, None, at(0));
            prop_assert!(found.wish.replicas.is_none_or(|replicas| (0..=10_000).contains(&replicas)));
        }
    }
}
