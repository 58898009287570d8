//! What cluster-autoscaler is told, and whether it was told by others: annotations of a MachineDeployment (cluster-autoscaler,
//! cloud provider clusterapi). Pure.

use std::collections::BTreeMap;

use ferric_api::autoscaling::{TriggerState, TriggerType};
use serde_json::{Map, Value};

use super::Group;
use super::view::Verdict;

/// The least that cluster-autoscaler keeps.
pub const MIN: &str = "cluster.x-k8s.io/cluster-api-autoscaler-node-group-min-size";
/// The most that cluster-autoscaler asks for.
pub const MAX: &str = "cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size";
/// How long cluster-autoscaler waits for a node, as Go writes durations.
pub const PROVISION_TIME: &str = "cluster.x-k8s.io/autoscaling-options-maxnodeprovisiontime";
/// Says that the sizes are ours. Without it they are somebody else's, and are neither changed nor removed. Its value is the
/// [`PROVISION_TIME`] that was written with them, or [`SIZES`] where none was: another one is somebody else's, and stays.
pub const OURS: &str = "ferric.infrastructure.cluster.x-k8s.io/delegated-to-cluster-autoscaler";

/// What [`OURS`] says where nothing but the sizes is ours.
pub const SIZES: &str = "sizes";

type Annotations = BTreeMap<String, String>;

/// An annotation that makes cluster-autoscaler write the number of replicas, and that is not ours.
#[must_use]
pub fn foreign(annotations: &Annotations) -> Option<&'static str> {
    let told = [MIN, MAX].into_iter().find(|key| annotations.contains_key(*key));
    told.filter(|_| !annotations.contains_key(OURS))
}

/// Whether somebody else has said how long cluster-autoscaler is to wait. Earlier versions wrote `true`, and the time
/// with it.
fn has_other_time(annotations: &Annotations) -> bool {
    let ours = annotations.get(OURS);
    annotations.get(PROVISION_TIME).is_some_and(|time| ours.is_none_or(|ours| ours != time && ours != "true"))
}

/// What cluster-autoscaler is to be told of a group: the least that bounds, schedules and queries ask for, the most that there
/// are hosts for, and how long its machines take, where nobody else has said that. A query that failed does not lower the
/// least.
#[must_use]
pub fn told(group: &Group, verdict: &Verdict, annotations: &Annotations) -> Annotations {
    let most = verdict.bounds.1.max(0);
    let metrics: Vec<&str> = group
        .spec
        .triggers
        .iter()
        .filter(|trigger| trigger.kind == TriggerType::Prometheus)
        .map(|trigger| trigger.name.as_str())
        .collect();
    let wishes = || verdict.triggers.iter().filter(|(name, _)| metrics.contains(&name.as_str()));
    let asked = wishes().filter_map(|(_, wish)| wish.replicas).max().unwrap_or(0);
    let unknown = wishes().any(|(_, wish)| wish.state == TriggerState::Failed);
    let before = annotations.get(MIN).and_then(|least| least.parse().ok()).unwrap_or(0);
    let least = verdict.bounds.0.max(asked).max(if unknown { before } else { 0 }).min(most);
    let mut told =
        Annotations::from([(MIN.to_owned(), least.to_string()), (MAX.to_owned(), most.to_string())]);
    if has_other_time(annotations) {
        told.insert(OURS.to_owned(), SIZES.to_owned());
    } else {
        let time = format!("{}s", group.patience());
        told.extend([(PROVISION_TIME.to_owned(), time.clone()), (OURS.to_owned(), time)]);
    }
    told
}

/// The change (RFC 7396) that makes annotations say this and nothing else of ours; none where they do.
#[must_use]
pub fn change(annotations: &Annotations, told: &Annotations) -> Option<Value> {
    let mut change = Map::new();
    let ours =
        |key| annotations.contains_key(OURS) && (key != PROVISION_TIME || !has_other_time(annotations));
    for key in [MIN, MAX, PROVISION_TIME, OURS] {
        match (annotations.get(key), told.get(key)) {
            (before, Some(now)) if before != Some(now) => {
                drop(change.insert(key.to_owned(), Value::from(now.clone())))
            }
            (Some(_), None) if ours(key) => drop(change.insert(key.to_owned(), Value::Null)),
            _ => {}
        }
    }
    (!change.is_empty()).then_some(Value::Object(change))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::autoscaling::Trigger;
    use serde_json::json;

    use super::super::triggers::Wish;
    use super::*;

    fn group() -> Group {
        let trigger = json!({"name": "queue", "type": "Prometheus"});
        let mut group = Group::default();
        group.spec.triggers = vec![serde_json::from_value::<Trigger>(trigger).unwrap()];
        group
    }

    fn verdict(bounds: (i32, i32), wish: Wish) -> Verdict {
        Verdict { bounds, triggers: vec![("queue".to_owned(), wish)], ..Verdict::nothing("g") }
    }

    fn least(verdict: &Verdict, annotations: &Annotations) -> (String, String) {
        let told = told(&group(), verdict, annotations);
        (told[MIN].clone(), told[MAX].clone())
    }

    #[test]
    fn queries_raise_the_least_and_hosts_limit_the_most() {
        let none = Annotations::new();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(least(&verdict((1, 7), Wish::of(3, 5, None, "")), &none), pair("5", "7"));
        assert_eq!(least(&verdict((1, 4), Wish::of(3, 5, None, "")), &none), pair("4", "4"));
        let before = Annotations::from([(MIN.to_owned(), "5".to_owned())]);
        assert_eq!(
            least(&verdict((1, 7), Wish::failed("no answer")), &before),
            pair("5", "7"),
            "not lowered"
        );
        assert_eq!(least(&verdict((1, 7), Wish::of(3, 2, None, "")), &before), pair("2", "7"));
        assert_eq!(told(&group(), &verdict((0, 0), Wish::failed("")), &none)[PROVISION_TIME], "3600s");
    }

    #[test]
    fn others_are_not_touched() {
        let theirs = Annotations::from([(MIN.to_owned(), "1".to_owned()), (MAX.to_owned(), "9".to_owned())]);
        assert_eq!(foreign(&theirs), Some(MIN));
        assert_eq!(change(&theirs, &Annotations::new()), None);
        let mut ours = theirs.clone();
        ours.insert(OURS.to_owned(), SIZES.to_owned());
        assert_eq!(foreign(&ours), None);
        assert_eq!(change(&ours, &Annotations::new()), Some(json!({MIN: null, MAX: null, OURS: null})));
        let told = told(&group(), &verdict((1, 9), Wish::failed("")), &ours);
        assert_eq!(change(&ours, &told), Some(json!({PROVISION_TIME: "3600s", OURS: "3600s"})));
        assert_eq!(foreign(&Annotations::new()), None);
    }

    /// Annotations after a merge patch.
    fn written(annotations: &Annotations, change: Option<Value>) -> Annotations {
        let mut after = annotations.clone();
        for (key, value) in change.as_ref().and_then(Value::as_object).into_iter().flatten() {
            match value.as_str() {
                Some(value) => drop(after.insert(key.clone(), value.to_owned())),
                None => drop(after.remove(key)),
            }
        }
        after
    }

    #[test]
    fn a_time_that_a_person_set_stays() {
        let tell = |annotations: &Annotations| {
            let told = told(&group(), &verdict((1, 9), Wish::of(1, 1, None, "")), annotations);
            written(annotations, change(annotations, &told))
        };
        let back = |annotations: &Annotations| written(annotations, change(annotations, &Annotations::new()));
        let person = Annotations::from([(PROVISION_TIME.to_owned(), "60m0s".to_owned())]);
        // It was there before us.
        let beside = tell(&person);
        assert_eq!((beside[PROVISION_TIME].as_str(), beside[MAX].as_str()), ("60m0s", "9"));
        assert_eq!(tell(&beside), beside, "nothing more is to be written");
        assert_eq!(back(&beside), person, "what is ours is taken back, and nothing else");
        // It was written over ours.
        let ours = tell(&Annotations::new());
        assert_eq!(ours[PROVISION_TIME], "3600s");
        assert_eq!((tell(&ours), back(&ours)), (ours.clone(), Annotations::new()));
        let mut changed = ours.clone();
        changed.insert(PROVISION_TIME.to_owned(), "60m0s".to_owned());
        assert_eq!(tell(&changed)[PROVISION_TIME], "60m0s");
        assert_eq!(back(&tell(&changed)), person);
        assert_eq!(back(&changed), person, "also where we had no chance to see it before");
        // It was taken away: ours is written again.
        let mut without = beside;
        without.remove(PROVISION_TIME);
        assert_eq!(tell(&without), ours);
    }

    #[test]
    fn a_time_that_an_earlier_version_wrote_is_ours() {
        let earlier = [(MIN, "1"), (MAX, "9"), (PROVISION_TIME, "900s"), (OURS, "true")];
        let earlier: Annotations = earlier.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let told = told(&group(), &verdict((1, 9), Wish::of(1, 1, None, "")), &earlier);
        let after = written(&earlier, change(&earlier, &told));
        assert_eq!((after[PROVISION_TIME].as_str(), after[OURS].as_str()), ("3600s", "3600s"));
        let back = written(&earlier, change(&earlier, &Annotations::new()));
        assert_eq!(back, Annotations::new(), "nothing of it stays");
    }

    #[test]
    fn what_is_learned_replaces_what_was_told() {
        let mut group = group();
        let wish = || verdict((1, 9), Wish::of(1, 1, None, ""));
        let first = written(
            &Annotations::new(),
            change(&Annotations::new(), &told(&group, &wish(), &Annotations::new())),
        );
        (0..5).for_each(|_| group.boot.add(600));
        let second = written(&first, change(&first, &told(&group, &wish(), &first)));
        assert_ne!(first[PROVISION_TIME], second[PROVISION_TIME]);
        assert_eq!(second[PROVISION_TIME], format!("{}s", group.patience()));
    }
}
