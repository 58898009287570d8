#![allow(clippy::unwrap_used)]

use ferric_api::autoscaling::NodeGroupAutoscalerSpec;
use rstest::rstest;
use serde_json::{Value, json};

use super::super::{Hold, Machine};
use super::*;

const ZONE: &str = "topology.kubernetes.io/zone";

fn rule(key: &str, max_skew: i32, action: &str) -> Value {
    json!({"topologyKey": key, "maxSkew": max_skew, "whenUnsatisfiable": action})
}

fn group(name: &str, rack: Option<&str>, replicas: i32, rules: Value) -> Group {
    let spec: NodeGroupAutoscalerSpec = serde_json::from_value(json!({
        "clusterName": "prod", "maxReplicas": 100,
        "scaleTargetRef": {"apiGroup": "cluster.x-k8s.io", "kind": "MachineDeployment", "name": name},
        "placement": {"topologySpread": rules},
    }))
    .unwrap();
    Group { name: name.to_owned(), spec, replicas, domain: rack.map(str::to_owned), ..Group::default() }
}

/// Groups of racks of the same name, with so many nodes each.
fn racks(nodes: &[(&str, i32)], max_skew: i32, action: &str) -> Spread {
    let rules = || json!([rule(ZONE, max_skew, action)]);
    let groups: Vec<Group> =
        nodes.iter().map(|(rack, nodes)| group(rack, Some(rack), *nodes, rules())).collect();
    Spread::of(&groups, &Cluster::default())
}

fn raise(spread: &mut Spread, raises: &[(&str, i32, i32)]) -> Vec<i32> {
    let raise =
        |(group, by, firm): &(&str, i32, i32)| Raise { group: (*group).to_owned(), by: *by, firm: *firm };
    let mut raises: Vec<Raise> = raises.iter().map(raise).collect();
    spread.raise(&mut raises);
    raises.iter().map(|raise| raise.by).collect()
}

#[test]
fn a_group_is_where_its_nodes_are() {
    let mut cluster = Cluster::default();
    for (name, zone) in [("n1", Some("z1")), ("n2", Some("z2")), ("n3", None)] {
        let labels = zone.map(|zone| json!({ZONE: zone}));
        cluster.put_node(
            &serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap(),
        );
    }
    let template =
        cluster.template(&serde_json::from_value(json!({"metadata": {"labels": {ZONE: "z9"}}})).unwrap());
    let with = |nodes: &[(&str, bool)], template: Option<&model::Node>| {
        let machine = |(node, deleting): &(&str, bool)| Machine {
            name: (*node).to_owned(),
            node: Some((*node).to_owned()),
            deleting: *deleting,
            ..Machine::default()
        };
        let group = Group {
            machines: nodes.iter().map(machine).collect(),
            template: template.cloned(),
            ..group("g", Some("rack"), 1, json!([]))
        };
        domain(&group, &cluster, ZONE)
    };
    assert_eq!(with(&[("n1", false), ("n3", false)], Some(&template)).as_deref(), Some("z1"));
    assert_eq!(with(&[("n1", false), ("n2", false)], Some(&template)), None, "it is in two");
    assert_eq!(with(&[("n1", false), ("n2", true)], None).as_deref(), Some("z1"), "one of them goes");
    assert_eq!(with(&[("n3", false)], Some(&template)).as_deref(), Some("z9"));
    assert_eq!(with(&[], None).as_deref(), Some("rack"));
}

#[test]
fn only_groups_that_name_the_same_label_are_compared() {
    let hard = |key| json!([rule(key, 1, "DoNotSchedule")]);
    let groups = [
        group("a", Some("r1"), 3, hard(ZONE)),
        group("a2", Some("r1"), 2, hard(ZONE)),
        group("b", Some("r2"), 4, hard(ZONE)),
        group("c", Some("r3"), 0, json!([])),
        group("d", Some("r4"), 0, hard("power")),
        group("e", None, 0, hard(ZONE)),
    ];
    let spread = Spread::of(&groups, &Cluster::default());
    assert_eq!(
        spread.refuses("a").unwrap(),
        "placement.topologySpread: of topology.kubernetes.io/zone r1 has 5 nodes, r2 4, and maxSkew is 1"
    );
    assert!(spread.refuses("a2").is_some(), "both stand in one rack");
    for free in ["b", "c", "d", "e", "nobody"] {
        assert_eq!(spread.refuses(free), None, "{free}");
    }
}

#[rstest]
#[case::even(&[("a", 3, 0), ("b", 3, 0), ("c", 3, 0)], [3, 3, 3])]
#[case::one_is_slower(&[("a", 3, 0), ("b", 1, 0), ("c", 3, 0)], [2, 1, 2])]
#[case::one_stands_still(&[("a", 3, 0), ("b", 5, 0), ("c", 0, 0)], [1, 1, 0])]
#[case::firm(&[("a", 3, 2), ("b", 5, 0), ("c", 0, 0)], [2, 1, 0])]
fn raises_are_cut_together(#[case] raises: &[(&str, i32, i32)], #[case] expected: [i32; 3]) {
    let nodes = [("a", 4), ("b", 4), ("c", 4)];
    assert_eq!(raise(&mut racks(&nodes, 1, "DoNotSchedule"), raises), expected);
    let whole: Vec<i32> = raises.iter().map(|(_, by, _)| *by).collect();
    assert_eq!(raise(&mut racks(&nodes, 1, "ScheduleAnyway"), raises), whole);
}

#[test]
fn a_rule_about_each_of_two_topologies_holds() {
    let hard = json!([rule(ZONE, 1, "DoNotSchedule"), rule("power", 1, "DoNotSchedule")]);
    // Both are in one zone, and get their power from two feeds.
    let mut cluster = Cluster::default();
    let mut groups = Vec::new();
    for (name, power) in [("a", "left"), ("b", "right")] {
        let node = json!({"metadata": {"labels": {ZONE: "z", "power": power}}});
        let template = cluster.template(&serde_json::from_value(node).unwrap());
        groups.push(Group { template: Some(template), ..group(name, None, 0, hard.clone()) });
    }
    let mut spread = Spread::of(&groups, &cluster);
    assert_eq!(raise(&mut spread, &[("a", 5, 0), ("b", 2, 0)]), [3, 2]);
    assert!(spread.refuses("a").unwrap().contains("of power left has 3 nodes, right 2"));
}

#[test]
fn one_of_a_fuller_domain_goes_first() {
    let able = |pairs: &[(&str, i32)]| -> BTreeMap<String, i32> {
        pairs.iter().map(|(group, nodes)| ((*group).to_owned(), *nodes)).collect()
    };
    let nodes = [("a", 3), ("b", 2), ("c", 3)];
    let hard = racks(&nodes, 1, "DoNotSchedule");
    assert!(hard.keeps("b", &able(&[("a", 1), ("b", 1)])));
    assert!(hard.kept("b").contains(ZONE));
    assert!(!hard.keeps("b", &able(&[("a", 0), ("b", 1)])), "none of a fuller one can");
    assert!(!hard.keeps("a", &able(&[("a", 1), ("c", 1)])), "it is one of the fullest");
    assert!(!racks(&nodes, 2, "DoNotSchedule").keeps("b", &able(&[("a", 1)])));
    assert!(!racks(&nodes, 1, "ScheduleAnyway").keeps("b", &able(&[("a", 1)])));
}

#[rstest]
// One rule calls the other group the fuller one, and the other rule this one.
#[case::both_hard("DoNotSchedule", "DoNotSchedule")]
#[case::each_is_soft_where_the_other_is_hard("DoNotSchedule", "ScheduleAnyway")]
fn two_rules_do_not_wait_for_each_other(#[case] here: &str, #[case] there: &str) {
    let groups = [("a", "r1", "z1", 1, here), ("b", "r2", "z2", 5, there), ("c", "r3", "z1", 9, here)];
    let mut cluster = Cluster::default();
    let other = |action| if action == here { there } else { here };
    let groups = groups.map(|(name, rack, zone, nodes, action)| {
        let node = json!({"metadata": {"labels": {"rack": rack, ZONE: zone}}});
        let template = cluster.template(&serde_json::from_value(node).unwrap());
        let rules = json!([rule("rack", 1, action), rule(ZONE, 1, other(action))]);
        Group { template: Some(template), ..group(name, None, nodes, rules) }
    });
    let mut spread = Spread::of(&groups, &cluster);
    let mut able: BTreeMap<String, i32> =
        [("a", 1), ("b", 5), ("c", 0)].map(|(group, nodes)| (group.to_owned(), nodes)).into();
    for left in (1..=6).rev() {
        let free = able.iter().find(|(group, nodes)| **nodes > 0 && !spread.keeps(group, &able));
        let free = free.unwrap_or_else(|| panic!("{left} idle nodes stay for ever")).0.clone();
        spread.take(&free, -1);
        able.entry(free).and_modify(|able| *able -= 1);
    }
    // One that is as full by one rule and fuller by the other is waited for.
    able = [("a", 1), ("c", 1)].map(|(group, nodes)| (group.to_owned(), nodes)).into();
    assert!(Spread::of(&groups, &cluster).keeps("a", &able));
}

#[test]
fn nodes_with_two_autoscalers_count_once() {
    let hard = || json!([rule(ZONE, 1, "DoNotSchedule")]);
    let younger = Group { hold: Some(Hold::Older("a".to_owned())), ..group("a2", Some("r1"), 3, hard()) };
    let groups = [group("a", Some("r1"), 3, hard()), younger, group("b", Some("r2"), 5, hard())];
    let spread = Spread::of(&groups, &Cluster::default());
    assert_eq!(spread.balance().domains(0), [3, 5]);
    let paused = Group { hold: Some(Hold::RollingOut), ..groups[0].clone() };
    assert_eq!(Spread::of(&[paused], &Cluster::default()).balance().domains(0), [3], "others count");
}
