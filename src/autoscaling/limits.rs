//! What groups may hold together: the limits of the cluster's policies. Pure.

use std::collections::BTreeMap;

use ferric_api::autoscaling::{ClusterAutoscalingPolicySpec, Limit, LimitStatus};
use jiff::Timestamp;

use super::Group;
use super::schedule::quantity::Amount;
use crate::claim::selector::Selector;

/// A ClusterAutoscalingPolicy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// What it says.
    pub spec: ClusterAutoscalingPolicySpec,
}

/// What all limits of a cluster have left, while decisions are made one after the other.
#[derive(Debug, Clone, Default)]
pub struct Room {
    limits: Vec<Left>,
}

#[derive(Debug, Clone)]
struct Left {
    /// `policy/limit`, or the policy alone for machines on their way.
    name: String,
    resource: String,
    left: f64,
    /// What one node of each group takes of it; absent: the limit is not about the group.
    each: BTreeMap<String, f64>,
}

/// How many nodes a group may get, and which limit says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Nodes.
    pub nodes: i32,
    /// The limit, if there is one.
    pub by: Option<String>,
}

impl Room {
    /// What policies have left beside what the groups hold: replicas count, whether they are nodes yet or not.
    ///
    /// A limit whose selector cannot be evaluated is about all groups; one that is no quantity leaves nothing. Both are
    /// refused at the door, and here on the careful side.
    #[must_use]
    pub fn of(policies: &[Policy], groups: &[Group], now: Timestamp) -> Self {
        let mut limits = Vec::new();
        for policy in policies {
            for limit in &policy.spec.limits {
                limits.extend(limit.resources.keys().map(|resource| left(policy, limit, resource, groups)));
            }
            let own = groups.iter().filter(|group| group.counts());
            let flying = own.map(|group| group.in_flight(now).count() as f64 + f64::from(group.ordered()));
            limits.push(Left {
                name: policy.name.clone(),
                resource: "maxInFlight".to_owned(),
                left: f64::from(policy.spec.max_in_flight) - flying.sum::<f64>(),
                each: groups.iter().map(|group| (group.name.clone(), 1.0)).collect(),
            });
        }
        for group in groups {
            let flying = group.in_flight(now).count() as f64 + f64::from(group.ordered());
            limits.push(Left {
                name: group.name.clone(),
                resource: "provisioning.maxInFlight".to_owned(),
                left: f64::from(group.spec.provisioning.max_in_flight) - flying,
                each: BTreeMap::from([(group.name.clone(), 1.0)]),
            });
        }
        Self { limits }
    }

    /// How many nodes a group may get, `wanted` at most.
    #[must_use]
    pub fn allows(&self, group: &str, wanted: i32) -> Allowed {
        let mut allowed = Allowed { nodes: wanted.max(0), by: None };
        for limit in &self.limits {
            let Some(each) = limit.each.get(group).copied().filter(|each| *each > 0.0) else { continue };
            // A little more than nothing for what sums of fractions lose.
            let nodes = (limit.left / each + 1e-9).floor().clamp(0.0, f64::from(i32::MAX)) as i32;
            if nodes < allowed.nodes {
                allowed = Allowed { nodes, by: Some(format!("{} ({})", limit.name, limit.resource)) };
            }
        }
        allowed
    }

    /// A group gets nodes, or gives them back.
    pub fn take(&mut self, group: &str, nodes: i32) {
        for limit in &mut self.limits {
            if let Some(each) = limit.each.get(group) {
                limit.left -= each * f64::from(nodes);
            }
        }
    }
}

/// What the groups hold of what each limit is about.
#[must_use]
pub fn used(limits: &[Limit], groups: &[Group]) -> Vec<LimitStatus> {
    let policy = Policy::default();
    let of = |limit: &Limit| {
        let used = limit.resources.iter().map(|(resource, most)| {
            let used = number(most) - left(&policy, limit, resource, groups).left;
            (resource.clone(), format!("{}", (used * 1000.0).round() / 1000.0))
        });
        LimitStatus { name: limit.name.clone(), used: used.collect() }
    };
    limits.iter().map(of).collect()
}

fn left(policy: &Policy, limit: &Limit, resource: &str, groups: &[Group]) -> Left {
    let selector = Selector::parse(limit.selector.as_ref()).unwrap_or_default();
    let most = limit.resources.get(resource).map_or(0.0, |most| number(most));
    let mut left = Left {
        name: format!("{}/{}", policy.name, limit.name),
        resource: resource.to_owned(),
        left: most,
        each: BTreeMap::new(),
    };
    for group in groups.iter().filter(|group| selector.matches(&group.labels)) {
        let each = match resource {
            "nodes" => 1.0,
            _ => group.offers.get(resource).map_or(0.0, |offer| number(offer)),
        };
        if group.counts() {
            left.left -= each * f64::from(group.replicas);
        }
        left.each.insert(group.name.clone(), each);
    }
    left
}

/// What is no quantity is nothing.
fn number(text: &str) -> f64 {
    Amount::parse(text).map_or(0.0, Amount::decimal)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::autoscaling::NodeGroupAutoscalerSpec;
    use proptest::prelude::*;

    use super::*;

    fn group(name: &str, replicas: i32, offers: &[(&str, &str)], labels: &[(&str, &str)]) -> Group {
        let owned = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let mut spec = NodeGroupAutoscalerSpec { max_replicas: 1000, ..NodeGroupAutoscalerSpec::default() };
        spec.provisioning.max_in_flight = 1000;
        let machine = |i| super::super::Machine {
            name: format!("{name}-{i}"),
            node: Some(format!("n{i}")),
            ..Default::default()
        };
        Group {
            name: name.to_owned(),
            replicas,
            spec,
            offers: owned(offers),
            labels: owned(labels),
            machines: (0..replicas).map(machine).collect(),
            ..Group::default()
        }
    }

    fn policy(name: &str, limits: serde_json::Value, max_in_flight: i32) -> Policy {
        let spec = serde_json::json!({"clusterName": "prod", "limits": limits, "maxInFlight": max_in_flight});
        Policy { name: name.to_owned(), spec: serde_json::from_value(spec).unwrap() }
    }

    #[test]
    fn all_limits_of_all_policies_hold() {
        let groups = [
            group("cpu", 4, &[("cpu", "16"), ("memory", "64Gi")], &[("kind", "cpu")]),
            group("gpu", 1, &[("cpu", "64"), ("nvidia.com/gpu", "8")], &[("kind", "gpu")]),
        ];
        let policies = [
            policy(
                "a",
                serde_json::json!([{"name": "all", "resources": {"nodes": "10", "cpu": "200"}}]),
                100,
            ),
            policy(
                "b",
                serde_json::json!([{"name": "gpus", "resources": {"nvidia.com/gpu": "16"},
                "selector": {"matchLabels": {"kind": "gpu"}}}]),
                100,
            ),
        ];
        let mut room = Room::of(&policies, &groups, Timestamp::UNIX_EPOCH);
        // Of 200 processors 128 are held; one GPU node more has 64.
        assert_eq!(room.allows("cpu", 9), Allowed { nodes: 4, by: Some("a/all (cpu)".to_owned()) });
        assert_eq!(room.allows("gpu", 9), Allowed { nodes: 1, by: Some("a/all (cpu)".to_owned()) });
        room.take("cpu", 1);
        assert_eq!(room.allows("gpu", 9).nodes, 0);
        room.take("cpu", -1);
        room.take("gpu", 1);
        assert_eq!(room.allows("gpu", 9).nodes, 0);
        assert_eq!(room.allows("cpu", 9).nodes, 0);
    }

    #[test]
    fn what_is_on_its_way_is_limited_for_each_group_and_for_all() {
        let mut groups = [group("a", 0, &[], &[]), group("b", 0, &[], &[])];
        groups[0].replicas = 2;
        groups[0].spec.provisioning.max_in_flight = 3;
        let policies = [policy("p", serde_json::json!([]), 4)];
        let mut room = Room::of(&policies, &groups, Timestamp::UNIX_EPOCH);
        assert_eq!(
            room.allows("a", 9),
            Allowed { nodes: 1, by: Some("a (provisioning.maxInFlight)".to_owned()) }
        );
        assert_eq!(room.allows("b", 9), Allowed { nodes: 2, by: Some("p (maxInFlight)".to_owned()) });
        room.take("b", 2);
        assert_eq!(room.allows("a", 9).nodes, 0);
    }

    #[test]
    fn nodes_with_two_autoscalers_count_once() {
        let older = Group { replicas: 3, ..group("a", 2, &[], &[]) };
        let hold = Some(super::super::Hold::Older("a".to_owned()));
        let groups = [older.clone(), Group { name: "a2".to_owned(), hold, ..older }];
        let limits = serde_json::json!([{"name": "n", "resources": {"nodes": "10"}}]);
        let policies = [policy("p", limits, 4)];
        assert_eq!(used(&policies[0].spec.limits, &groups)[0].used["nodes"], "3");
        let allows = |wanted| Room::of(&policies, &groups, Timestamp::UNIX_EPOCH).allows("a", wanted);
        assert_eq!(allows(9), Allowed { nodes: 3, by: Some("p (maxInFlight)".to_owned()) });
    }

    #[test]
    fn above_a_limit_nothing_more_is_allowed_and_nothing_is_forced() {
        let groups = [group("a", 20, &[], &[])];
        let policies = [policy("p", serde_json::json!([{"name": "n", "resources": {"nodes": "10"}}]), 4)];
        assert_eq!(Room::of(&policies, &groups, Timestamp::UNIX_EPOCH).allows("a", 5).nodes, 0);
    }

    proptest! {
        /// Whatever is taken as it is allowed, no limit is passed.
        #[test]
        fn limits_hold(
            sizes in prop::collection::vec((0i32..20, 1i32..64), 1..6),
            most in 0i32..2000,
            asks in prop::collection::vec((0usize..6, 1i32..30), 0..30),
        ) {
            let mut groups: Vec<Group> = sizes
                .iter()
                .enumerate()
                .map(|(i, (replicas, cpu))| group(&i.to_string(), *replicas, &[("cpu", &cpu.to_string())], &[]))
                .collect();
            let limit = serde_json::json!([{"name": "cpu", "resources": {"cpu": most.to_string()}}]);
            let policies = [policy("p", limit, 1000)];
            let held = |groups: &[Group]| -> i32 {
                groups.iter().zip(&sizes).map(|(group, (_, cpu))| group.replicas * cpu).sum()
            };
            let before = held(&groups);
            let mut room = Room::of(&policies, &groups, Timestamp::UNIX_EPOCH);
            for (who, wanted) in asks {
                let who = who % groups.len();
                let allowed = room.allows(&who.to_string(), wanted);
                prop_assert!((0..=wanted).contains(&allowed.nodes));
                prop_assert_eq!(allowed.by.is_some(), allowed.nodes < wanted);
                room.take(&who.to_string(), allowed.nodes);
                groups[who].replicas += allowed.nodes;
            }
            prop_assert!(held(&groups) <= most.max(before));
        }
    }
}
