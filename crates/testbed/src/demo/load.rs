//! What pods, nodes and the autoscaler say, beside hosts and machines ([`super::view`]), the lines that tell what became
//! different, and what is called done of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::view::View;

/// A pod of the load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    /// The node that it is bound to; empty while there is none.
    pub(crate) node: String,
    pub(crate) running: bool,
    /// Why kube-scheduler found no node for it; empty if it did, or has not tried yet.
    pub(crate) refused: String,
}

/// A change of the number of replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) at: String,
    pub(crate) direction: String,
    pub(crate) reason: String,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) message: String,
}

/// The NodeGroupAutoscaler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// Replicas that there are and that there should be, and free hosts for more.
    pub(crate) current: Option<i64>,
    pub(crate) desired: Option<i64>,
    pub(crate) usable: Option<i64>,
    /// Why it may not scale, if so.
    pub(crate) on_hold: Option<String>,
    /// What keeps it from more; empty if nothing does.
    pub(crate) limited: String,
    /// Nodes that are being emptied, and the pods that are left on them; empty if there are none.
    pub(crate) draining: String,
    /// Oldest first; at most ten are kept.
    pub(crate) decisions: Vec<Decision>,
}

/// Everything of it at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Those that are not on their way out.
    pub(crate) pods: Vec<Pod>,
    /// Nodes that take no new pods.
    pub(crate) cordoned: BTreeSet<String>,
    pub(crate) group: Group,
    /// Thousandths of a processor that a machine offers to pods, as its template says.
    pub(crate) offered: Option<u64>,
}

impl Load {
    /// Reads lists of management objects, nodes and pods.
    pub(crate) fn read(objects: &Value, nodes: &Value, pods: &Value) -> Self {
        let of = |kind: &str| items(objects).iter().find(|object| object["kind"] == kind);
        let offered = of("BareMetalMachineTemplate")
            .and_then(|template| template.pointer("/status/capacity/cpu")?.as_str().and_then(millis));
        let closed = items(nodes).iter().filter(|node| node["spec"]["unschedulable"] == true);
        let staying = items(pods).iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Self {
            pods: staying.map(pod).collect(),
            cordoned: closed.map(|node| text(&node["metadata"]["name"])).collect(),
            group: of("NodeGroupAutoscaler").map(group).unwrap_or_default(),
            offered,
        }
    }

    /// Running pods by their nodes.
    pub(crate) fn by_node(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut nodes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for pod in self.pods.iter().filter(|pod| pod.running) {
            nodes.entry(&pod.node).or_default().insert(&pod.name);
        }
        nodes
    }

    /// Whether so many pods run on so many nodes, and no other pod is there.
    pub(crate) fn runs(&self, pods: usize, nodes: usize) -> Result<(), String> {
        let running: usize = self.by_node().values().map(BTreeSet::len).sum();
        match (self.pods.len(), running, self.by_node().len()) {
            found if found == (pods, pods, nodes) => Ok(()),
            (there, _, on) => Err(format!("{running} of {there} pods run, on {on} nodes")),
        }
    }

    /// Whether kube-scheduler has found no node for so many pods, and why.
    pub(crate) fn refused(&self, wanted: usize) -> Result<&str, String> {
        let refused: Vec<&Pod> = self.pods.iter().filter(|pod| !pod.refused.is_empty()).collect();
        match refused.first() {
            Some(pod) if refused.len() == wanted => Ok(&pod.refused),
            _ => Err(format!("of {} pods it found no node for {}", self.pods.len(), refused.len())),
        }
    }

    /// Whether the group stands at this number and wants no other.
    pub(crate) fn settled(&self, replicas: i64) -> Result<(), String> {
        match (self.group.current, self.group.desired) {
            (Some(current), Some(desired)) if (current, desired) == (replicas, replicas) => Ok(()),
            _ => Err(numbers(&self.group)),
        }
    }

    /// What was decided since there were `known` decisions: all in this direction for this reason, one from where the
    /// other ended, the first `from` and the last `to` these numbers.
    pub(crate) fn decided(
        &self,
        known: usize,
        (direction, reason): (&str, &str),
        (from, to): (i64, i64),
    ) -> Result<&[Decision], String> {
        let new = self.group.decisions.get(known..).unwrap_or_default();
        let alike =
            new.iter().all(|one| (one.direction.as_str(), one.reason.as_str()) == (direction, reason));
        let joined = new.windows(2).all(|two| two[0].to == two[1].from);
        let ends = (new.first().map(|one| one.from), new.last().map(|one| one.to));
        if alike && joined && ends == (Some(from), Some(to)) {
            return Ok(new);
        }
        let told: Vec<String> = new.iter().map(tell).collect();
        Err(if told.is_empty() { "it decided nothing".to_owned() } else { told.join("; ") })
    }
}

/// A decision in a sentence.
pub(crate) fn tell(decision: &Decision) -> String {
    let Decision { from, to, reason, message, .. } = decision;
    format!("{from} to {to} replicas, {reason}: {message}")
}

/// How many hosts are in which state.
pub(crate) fn states(view: &View) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for host in &view.hosts {
        *counts.entry(if host.state.is_empty() { "new" } else { &host.state }).or_default() += 1;
    }
    let each: Vec<String> = counts.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
    format!("hosts: {}", each.join(", "))
}

/// Lines about machines and nodes that are there no more.
pub(crate) fn gone(before: &View, after: &View) -> Vec<String> {
    let nodes = before.nodes.iter().filter(|old| after.nodes.iter().all(|new| new.name != old.name));
    let machines = before.machines.iter().filter(|old| after.machines.iter().all(|new| new.name != old.name));
    let nodes = nodes.map(|node| format!("{}: the node is gone", node.name));
    nodes.chain(machines.map(|machine| format!("{}: gone", machine.name))).collect()
}

/// Lines about what is different from before.
pub(crate) fn changes(before: &Load, after: &Load) -> Vec<String> {
    let mut lines = Vec::new();
    let (old, new) = (pods(before), pods(after));
    if old != new {
        lines.push(new);
    }
    let (old, new) = (&before.group, &after.group);
    for decision in new.decisions.iter().filter(|decision| !old.decisions.contains(decision)) {
        lines.push(format!("group: {}", tell(decision)));
    }
    if numbers(old) != numbers(new) {
        lines.push(format!("group: {}", numbers(new)));
    }
    match (&old.on_hold, &new.on_hold) {
        (old, new) if old == new => {}
        (_, Some(why)) => lines.push(format!("group: on hold, {why}")),
        (_, None) => lines.push("group: scales".to_owned()),
    }
    for (title, old, new) in
        [("limited by", &old.limited, &new.limited), ("empties", &old.draining, &new.draining)]
    {
        if old != new && !new.is_empty() {
            lines.push(format!("group: {title} {new}"));
        }
    }
    for node in after.cordoned.difference(&before.cordoned) {
        lines.push(format!("{node}: node takes no new pods (cordoned)"));
    }
    let (old, new) = (before.by_node(), after.by_node());
    for node in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        match (old.get(node), new.get(node)) {
            (old, new) if old == new => {}
            (_, Some(pods)) => {
                lines.push(format!("{node}: runs {}", pods.iter().copied().collect::<Vec<_>>().join(", ")));
            }
            (_, None) => lines.push(format!("{node}: runs no pod")),
        }
    }
    lines
}

fn numbers(group: &Group) -> String {
    let number = |number: Option<i64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    format!("current {}, desired {}", number(group.current), number(group.desired))
}

/// How many pods wait, start and run, and why those wait.
fn pods(load: &Load) -> String {
    let running = load.pods.iter().filter(|pod| pod.running).count();
    let waiting = load.pods.iter().filter(|pod| pod.node.is_empty()).count();
    let starting = load.pods.len() - running - waiting;
    let starting = if starting > 0 { format!("{starting} start, ") } else { String::new() };
    let why = load.pods.iter().find(|pod| !pod.refused.is_empty());
    let why = why.map(|pod| format!(" (kube-scheduler: {})", pod.refused)).unwrap_or_default();
    format!("pods: {waiting} wait, {starting}{running} run{why}")
}

fn pod(object: &Value) -> Pod {
    let refused = condition(object, "PodScheduled")
        .filter(|found| found["status"] == "False" && found["reason"] == "Unschedulable")
        .map(|found| {
            let message = text(&found["message"]);
            // What follows is about pods that could be driven out: nobody's, here.
            let short = message.split(" preemption:").next().unwrap_or_default();
            short.split(" no new claims").next().unwrap_or_default().trim_end_matches(['.', ',']).to_owned()
        });
    Pod {
        name: text(&object["metadata"]["name"]),
        node: text(&object["spec"]["nodeName"]),
        running: object["status"]["phase"] == "Running",
        refused: refused.unwrap_or_default(),
    }
}

fn group(object: &Value) -> Group {
    let status = &object["status"];
    let told = |kind: &str| {
        let found = condition(object, kind).filter(|found| found["status"] == "True");
        found.map(|found| text(&found["message"])).unwrap_or_default()
    };
    let on_hold = match condition(object, "ScalingActive") {
        Some(found) if found["status"] == "True" => None,
        Some(found) => Some(text(&found["message"])),
        None => Some("it was not looked at yet".to_owned()),
    };
    let draining = told("Draining");
    let draining: Vec<&str> =
        draining.split("; ").map(|one| one.split(", since").next().unwrap_or_default()).collect();
    Group {
        current: status["currentReplicas"].as_i64(),
        desired: status["desiredReplicas"].as_i64(),
        usable: status["usableHosts"].as_i64(),
        on_hold,
        limited: told("ScalingLimited"),
        draining: draining.join("; "),
        decisions: status["history"].as_array().into_iter().flatten().rev().map(decision).collect(),
    }
}

fn decision(object: &Value) -> Decision {
    Decision {
        at: text(&object["time"]),
        direction: text(&object["direction"]),
        reason: text(&object["reason"]),
        from: object["from"].as_i64().unwrap_or_default(),
        to: object["to"].as_i64().unwrap_or_default(),
        message: text(&object["message"]),
    }
}

/// Thousandths of a quantity such as `63770m` or `64`.
fn millis(quantity: &str) -> Option<u64> {
    match quantity.strip_suffix('m') {
        Some(millis) => millis.parse().ok(),
        None => quantity.parse::<u64>().ok()?.checked_mul(1000),
    }
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn pods_of(pods: &[(&str, &str, &str)]) -> Value {
        let each = pods.iter().map(|(name, node, phase)| {
            json!({"metadata": {"name": name}, "spec": {"nodeName": node}, "status": {"phase": phase}})
        });
        json!({ "items": each.collect::<Vec<_>>() })
    }

    fn waiting() -> Value {
        let refused = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: none"});
        json!({"items": [
            {"metadata": {"name": "a"}, "spec": {}, "status": {"phase": "Pending", "conditions": [refused]}},
            {"metadata": {"name": "b", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}, "status": {}},
        ]})
    }

    fn raised() -> Value {
        json!({"items": [
            {"kind": "BareMetalMachineTemplate", "status": {"capacity": {"cpu": "31850m"}}},
            {"kind": "NodeGroupAutoscaler", "status": {
                "currentReplicas": 2, "desiredReplicas": 2, "usableHosts": 4,
                "history": [
                    {"time": "t2", "direction": "Up", "reason": "UnschedulablePods", "from": 1, "to": 2, "message": "y"},
                    {"time": "t1", "direction": "Up", "reason": "UnschedulablePods", "from": 0, "to": 1, "message": "x"},
                ],
                "conditions": [
                    {"type": "ScalingActive", "status": "True", "reason": "Measured", "message": ""},
                    {"type": "Draining", "status": "True", "message":
                        "node n1: 1 pods left, since t, given back at u; node n2: 0 pods left, since t"},
                ],
            }},
        ]})
    }

    #[test]
    fn everything_is_read() {
        let nodes = json!({"items": [{"metadata": {"name": "n1"}, "spec": {"unschedulable": true}}]});
        let load = Load::read(&raised(), &nodes, &waiting());
        assert_eq!(load.offered, Some(31_850));
        assert_eq!(load.cordoned, BTreeSet::from(["n1".to_owned()]));
        assert_eq!(load.refused(1).unwrap(), "0/1 nodes are available: 1 Insufficient cpu");
        assert!(load.refused(2).is_err());
        assert_eq!(load.group.draining, "node n1: 1 pods left; node n2: 0 pods left");
        assert_eq!((load.group.usable, load.group.on_hold), (Some(4), None));
        assert_eq!((millis("64"), millis("1500m"), millis("x")), (Some(64_000), Some(1500), None));
    }

    #[test]
    fn only_what_happened_as_wanted_is_done() {
        let nothing = Value::Null;
        let pods = pods_of(&[("a", "n1", "Running"), ("b", "n2", "Running")]);
        let load = Load::read(&raised(), &nothing, &pods);
        load.runs(2, 2).unwrap();
        assert!(load.runs(2, 1).is_err() && load.runs(1, 2).is_err());
        let pods = pods_of(&[("a", "n1", "Running"), ("b", "n2", "Pending")]);
        assert!(Load::read(&raised(), &nothing, &pods).runs(2, 2).is_err());
        load.settled(2).unwrap();
        assert!(load.settled(1).is_err() && Load::default().settled(0).is_err());

        let up = ("Up", "UnschedulablePods");
        assert_eq!(load.decided(0, up, (0, 2)).unwrap().len(), 2);
        assert_eq!(load.decided(1, up, (1, 2)).unwrap().len(), 1);
        for wrong in [
            load.decided(0, up, (0, 1)),
            load.decided(0, ("Down", "UnschedulablePods"), (0, 2)),
            load.decided(0, ("Up", "OutOfBounds"), (0, 2)),
            load.decided(2, up, (0, 2)),
            load.decided(9, up, (0, 2)),
        ] {
            assert!(wrong.is_err());
        }
    }

    #[test]
    fn what_is_gone_is_said() {
        let before =
            View::read(&super::super::view::tests::objects(), Some(&super::super::view::tests::nodes()));
        assert!(gone(&before, &before).is_empty());
        let after = View { machines: Vec::new(), nodes: Vec::new(), ..before.clone() };
        assert_eq!(gone(&before, &after), ["host-01: the node is gone", "demo-a: gone"]);
        assert_eq!(states(&after), "hosts: 1 available, 1 provisioned");
    }

    #[test]
    fn only_what_changed_is_said() {
        let nothing = Value::Null;
        let before = Load::read(&nothing, &nothing, &waiting());
        let pods = pods_of(&[("a", "n1", "Running"), ("b", "n1", "Pending")]);
        let nodes = json!({"items": [{"metadata": {"name": "n1"}, "spec": {"unschedulable": true}}]});
        let after = Load::read(&raised(), &nodes, &pods);
        assert_eq!(
            changes(&before, &after),
            [
                "pods: 0 wait, 1 start, 1 run",
                "group: 0 to 1 replicas, UnschedulablePods: x",
                "group: 1 to 2 replicas, UnschedulablePods: y",
                "group: current 2, desired 2",
                "group: empties node n1: 1 pods left; node n2: 0 pods left",
                "n1: node takes no new pods (cordoned)",
                "n1: runs a",
            ]
        );
        assert!(changes(&after, &after).is_empty());
        assert_eq!(
            changes(&Load::default(), &before),
            ["pods: 1 wait, 0 run (kube-scheduler: 0/1 nodes are available: 1 Insufficient cpu)"]
        );
    }
}
