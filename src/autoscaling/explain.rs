//! Why nodes stay and pods wait, in sentences: what a decision knows and does not tell, since nobody asks for it each time.
//! Pure.

use std::collections::BTreeMap;

use ferric_api::autoscaling::ScaleDownPolicy;
use jiff::{SignedDuration, Timestamp};

use super::schedule::symbols::Sym;
use super::schedule::{Cluster, NodeId, PodId, Reason, Simulation};
use super::{Decisions, Group, Machine, NodeState, Verdict, loads, up};

/// How one node stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The node.
    pub node: String,
    /// How much of it is asked for, in per cent, as scaling down counts it; none where nothing is known of it.
    pub used_percent: Option<f64>,
    /// Pods on it that would have to move.
    pub pods: usize,
    /// Why it stays, or when it goes.
    pub why: String,
}

/// A pod for which there is no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranded {
    /// `namespace/name`.
    pub pod: String,
    /// Why it fits on no node that is there or on its way, and how many say so.
    pub nodes: BTreeMap<Reason, usize>,
    /// Why it would not fit on a new node of the group.
    pub new: NewNode,
}

/// Whether a new node of a group would have a place for a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NewNode {
    /// It would: there is only no new node to be had, or the group's triggers do not count the pod.
    Fits,
    /// It would not.
    No(Reason),
    /// It is not known what one would be.
    Unknown,
}

/// How each node of a group stands, in the order of their names.
#[must_use]
pub fn nodes(
    group: &Group,
    cluster: &Cluster,
    states: &BTreeMap<String, NodeState>,
    decisions: &Decisions,
    now: Timestamp,
) -> Vec<Standing> {
    let mut simulation = cluster.simulate();
    let waiting = simulation.waiting();
    simulation.settle(&waiting);
    let verdict = decisions.groups.iter().find(|verdict| verdict.group == group.name);
    let mut standings: Vec<Standing> = group
        .machines
        .iter()
        .filter_map(|machine| {
            let node = machine.node.clone()?;
            let id = simulation.node(&node);
            let pods = id.map_or(0, |id| moved(&simulation, id));
            let used_percent = id.map(|id| loads::utilization(&simulation, id));
            let seen = Seen { node: &node, state: states.get(&node), used_percent, pods };
            let why = why(group, machine, &seen, decisions, verdict, now);
            Some(Standing { node, used_percent, pods, why })
        })
        .collect();
    standings.sort_by(|a, b| a.node.cmp(&b.node));
    standings
}

/// Pods of a node that do not go with it.
fn moved(simulation: &Simulation<'_>, node: NodeId) -> usize {
    let moves = |pod: &PodId| {
        let drain = &simulation.pod(*pod).drain;
        !drain.goes_along() && !drain.terminating
    };
    simulation.on(node).iter().filter(|pod| moves(pod)).count()
}

/// What is known of a node.
struct Seen<'a> {
    node: &'a str,
    state: Option<&'a NodeState>,
    used_percent: Option<f64>,
    pods: usize,
}

/// In the order in which decisions ask.
fn why(
    group: &Group,
    machine: &Machine,
    seen: &Seen<'_>,
    decisions: &Decisions,
    verdict: Option<&Verdict>,
    now: Timestamp,
) -> String {
    let rules = &group.spec.scale_down;
    if machine.deleting {
        return match decisions.stuck.get(seen.node) {
            Some(why) => format!("is being emptied, and cannot be: {why}"),
            None => "is being emptied, or goes".to_owned(),
        };
    }
    if let Some(why) = verdict.and_then(|verdict| verdict.inactive.as_deref()) {
        return format!("stays: {why}");
    }
    let Some(state) = seen.state else { return "stays: there is no such node in the cluster".to_owned() };
    if rules.policy == ScaleDownPolicy::Never {
        return "stays: scaleDown.policy is Never".to_owned();
    }
    if !state.ready {
        return "stays: it is not ready".to_owned();
    }
    if state.held {
        return "stays: somebody cordoned it or asked that it stays".to_owned();
    }
    let lifetime = i64::from(rules.min_node_lifetime_seconds);
    let age = state.created.map_or(0, |created| now.duration_since(created).as_secs());
    if age < lifetime {
        let left = SignedDuration::from_secs(lifetime - age);
        let until = now.checked_add(left).map_or(String::new(), |until| format!(", at {until}"));
        return format!("stays until it is {lifetime} s old (minNodeLifetimeSeconds){until}");
    }
    if let Some(why) = decisions.blocked.get(seen.node) {
        return format!("used little, and stays: {why}");
    }
    if verdict.is_some_and(|verdict| verdict.unneeded.contains_key(seen.node)) {
        return format!(
            "not needed: every pod fits elsewhere; may go when that has lasted {} s, within budgets and behavior.scaleDown",
            rules.unneeded_seconds
        );
    }
    let threshold = rules.utilization_threshold_percent;
    match rules.policy {
        ScaleDownPolicy::WhenEmpty => {
            format!("stays: {} pods run on it, and scaleDown.policy is WhenEmpty", seen.pods)
        }
        _ if seen.used_percent.is_some_and(|used| used >= f64::from(threshold)) => {
            format!("stays: it is used, by utilizationThresholdPercent {threshold}")
        }
        _ => "stays".to_owned(),
    }
}

/// Why pods that no group has a place for fit nowhere, `names` being of [`Decisions::stranded`]; of those that are not there,
/// nothing.
#[must_use]
pub fn stranded(
    groups: &[Group],
    group: &Group,
    cluster: &Cluster,
    names: &[String],
    now: Timestamp,
) -> Vec<Stranded> {
    let mut simulation = cluster.simulate();
    for group in groups.iter().filter(|group| group.counts()) {
        if let Some(expected) = up::offer(&simulation, group, 0, now) {
            simulation.expect(&expected);
        }
    }
    let waiting = simulation.waiting();
    simulation.settle(&waiting);
    let known: BTreeMap<String, PodId> =
        simulation.waiting().into_iter().map(|pod| (simulation.pod_name(pod), pod)).collect();
    let offer = up::offer(&simulation, group, 1, now);
    let explain = |name: &String| {
        let pod = *known.get(name)?;
        let nodes = simulation.explain(pod);
        let new = match &offer {
            None => NewNode::Unknown,
            Some(offer) => {
                let plan = simulation.estimate(&[pod], offer);
                match plan.unplaced.first().and_then(|unplaced| unplaced.groups.first()) {
                    Some((_, reason)) => NewNode::No(reason.clone()),
                    None => NewNode::Fits,
                }
            }
        };
        Some(Stranded { pod: name.clone(), nodes, new })
    };
    names.iter().filter_map(explain).collect()
}

/// What a node of a group would have for pods, by resource: processors in thousandths with an `m`, of anything else units.
#[must_use]
pub fn offers(group: &Group, cluster: &Cluster) -> BTreeMap<String, String> {
    let symbols = cluster.symbols();
    let Some(template) = &group.template else { return BTreeMap::new() };
    let amounts = template.allocatable.iter().map(|(resource, amount)| {
        let unit = if *resource == Sym::CPU { "m" } else { "" };
        (symbols.name(*resource).to_owned(), format!("{amount}{unit}"))
    });
    amounts.chain([("pods".to_owned(), template.max_pods.to_string())]).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::autoscaling::NodeGroupAutoscalerSpec;
    use k8s_openapi::api::core::v1;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn node(name: &str, cpu: &str) -> v1::Node {
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {
            "allocatable": {"cpu": cpu, "memory": "64Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap()
    }

    fn pod(name: &str, on: Option<&str>, cpu: &str, selector: Option<&str>) -> v1::Pod {
        let selector = selector.map(|disk| json!({"disk": disk}));
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"},
            "spec": {"nodeName": on, "nodeSelector": selector,
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
            "status": {"phase": if on.is_some() { "Running" } else { "Pending" }}}))
        .unwrap()
    }

    fn group(cluster: &mut Cluster) -> Group {
        let spec = NodeGroupAutoscalerSpec { max_replicas: 9, ..NodeGroupAutoscalerSpec::default() };
        let machine =
            Machine { name: "m".to_owned(), node: Some("n".to_owned()), bound: true, ..Machine::default() };
        let template = Some(cluster.template(&node("t", "8")));
        Group {
            name: "g".to_owned(),
            spec,
            replicas: 1,
            machines: vec![machine],
            template,
            ..Group::default()
        }
    }

    #[rstest]
    #[case::young(10, true, false, "until it is 3600 s old")]
    #[case::not_ready(7200, false, false, "not ready")]
    #[case::held(7200, true, true, "asked that it stays")]
    #[case::used(7200, true, false, "by utilizationThresholdPercent 50")]
    fn a_node_stays_for_a_reason(
        #[case] age: i64,
        #[case] ready: bool,
        #[case] held: bool,
        #[case] expected: &str,
    ) {
        let mut cluster = Cluster::default();
        cluster.put_node(&node("n", "8"));
        cluster.put_pod(&pod("p", Some("n"), "6", None));
        let group = group(&mut cluster);
        let states = BTreeMap::from([("n".to_owned(), NodeState { ready, created: Some(at(-age)), held })]);
        let found = nodes(&group, &cluster, &states, &Decisions::default(), at(0));
        assert_eq!((found[0].pods, found[0].used_percent), (1, Some(75.0)));
        assert!(found[0].why.contains(expected), "{found:?}");
    }

    #[test]
    fn what_was_decided_is_said_of_nodes() {
        let mut cluster = Cluster::default();
        cluster.put_node(&node("n", "8"));
        let mut group = group(&mut cluster);
        let states = BTreeMap::from([(
            "n".to_owned(),
            NodeState { ready: true, created: Some(at(-7200)), held: false },
        )]);
        let why = |group: &Group, decisions: &Decisions| {
            nodes(group, &cluster, &states, decisions, at(0))[0].why.clone()
        };
        let mut decisions = Decisions::default();
        decisions.blocked.insert("n".to_owned(), "ns/p: no place".to_owned());
        assert_eq!(why(&group, &decisions), "used little, and stays: ns/p: no place");
        let unneeded = BTreeMap::from([("n".to_owned(), at(0))]);
        let mut verdict = Verdict { unneeded, ..Verdict::nothing("g") };
        let decided = Decisions { groups: vec![verdict.clone()], ..Decisions::default() };
        assert!(why(&group, &decided).contains("has lasted 1800 s"));
        verdict.inactive = Some("Cluster c is paused".to_owned());
        let paused = Decisions { groups: vec![verdict], ..Decisions::default() };
        assert_eq!(why(&group, &paused), "stays: Cluster c is paused");
        group.machines[0].deleting = true;
        let stuck = Decisions { stuck: decisions.blocked.clone(), ..Decisions::default() };
        assert!(why(&group, &stuck).contains("cannot be: ns/p"));
    }

    #[test]
    fn pods_are_told_why_they_fit_nowhere() {
        let mut cluster = Cluster::default();
        cluster.put_node(&node("n", "8"));
        cluster.put_pod(&pod("large", None, "9", None));
        cluster.put_pod(&pod("choosy", None, "1", Some("ssd")));
        cluster.put_pod(&pod("full", None, "8", None));
        cluster.put_pod(&pod("first", Some("n"), "4", None));
        let mut group = group(&mut cluster);
        let names = ["ns/large", "ns/choosy", "ns/full", "ns/gone"].map(str::to_owned);
        let found = stranded(std::slice::from_ref(&group), &group, &cluster, &names, at(0));
        let said: Vec<_> =
            found.iter().map(|one| (one.pod.as_str(), one.nodes.clone(), one.new.clone())).collect();
        let cpu = Reason::Insufficient(vec!["cpu".to_owned()]);
        let one = |reason: &Reason| BTreeMap::from([(reason.clone(), 1)]);
        assert_eq!(
            said,
            [
                ("ns/large", one(&cpu), NewNode::No(cpu.clone())),
                ("ns/choosy", one(&Reason::NodeAffinity), NewNode::No(Reason::NodeAffinity)),
                ("ns/full", one(&cpu), NewNode::Fits),
            ]
        );
        assert_eq!(offers(&group, &cluster)["cpu"], "8000m");
        group.template = None;
        let found = stranded(&[], &group, &cluster, &names[..1], at(0));
        assert_eq!(found[0].new, NewNode::Unknown);
        assert!(offers(&group, &cluster).is_empty());
    }
}
