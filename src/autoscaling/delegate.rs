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
/// Says that the others are ours. Without it they are somebody else's, and are neither changed nor removed.
pub const OURS: &str = "ferric.infrastructure.cluster.x-k8s.io/delegated-to-cluster-autoscaler";

type Annotations = BTreeMap<String, String>;

/// An annotation that makes cluster-autoscaler write the number of replicas, and that is not ours.
#[must_use]
pub fn foreign(annotations: &Annotations) -> Option<&'static str> {
    let told = [MIN, MAX].into_iter().find(|key| annotations.contains_key(*key));
    told.filter(|_| !annotations.contains_key(OURS))
}

/// What cluster-autoscaler is to be told of a group: the least that bounds, schedules and queries ask for, the most that there
/// are hosts for, and how long its machines take. A query that failed does not lower the least.
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
    BTreeMap::from([
        (MIN.to_owned(), least.to_string()),
        (MAX.to_owned(), most.to_string()),
        (PROVISION_TIME.to_owned(), format!("{}s", group.patience())),
        (OURS.to_owned(), "true".to_owned()),
    ])
}

/// The change (RFC 7396) that makes annotations say this and nothing else of ours; none where they do.
#[must_use]
pub fn change(annotations: &Annotations, told: &Annotations) -> Option<Value> {
    let mut change = Map::new();
    for key in [MIN, MAX, PROVISION_TIME, OURS] {
        match (annotations.get(key), told.get(key)) {
            (before, Some(now)) if before != Some(now) => {
                drop(change.insert(key.to_owned(), Value::from(now.clone())))
            }
            (Some(_), None) if annotations.contains_key(OURS) => {
                drop(change.insert(key.to_owned(), Value::Null))
            }
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
        ours.insert(OURS.to_owned(), "true".to_owned());
        assert_eq!(foreign(&ours), None);
        assert_eq!(change(&ours, &Annotations::new()), Some(json!({MIN: null, MAX: null, OURS: null})));
        let told = told(&group(), &verdict((1, 9), Wish::failed("")), &ours);
        assert_eq!(change(&ours, &told), Some(json!({PROVISION_TIME: "3600s"})));
        assert_eq!(foreign(&Annotations::new()), None);
    }
}
