//! Snapshots in all their forms.
#![allow(clippy::unwrap_used)]

use rstest::rstest;
use serde_json::{Value, json};

use super::snapshot::Snapshot;
use super::tests::parse;
use super::{judge, policy, text};

const OURS: &str = "infrastructure.cluster.x-k8s.io/v1alpha1";
const CAPI: &str = "cluster.x-k8s.io/v1beta2";

fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": "ns", "uid": name, "creationTimestamp": "2026-01-05T10:00:00Z"})
}

/// A group of one node with nothing on it that was there for long, and two hosts that are free.
fn management() -> Vec<Value> {
    let host = |name: &str| {
        json!({"apiVersion": OURS, "kind": "BareMetalHost", "metadata": meta(name),
            "spec": {}, "status": {"provisioning": {"state": "available"},
                "conditions": [{"type": "Registered", "status": "True", "reason": "Ok", "message": "",
                    "lastTransitionTime": "2026-01-05T10:00:00Z"}]}})
    };
    let reference = json!({"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": "BareMetalMachineTemplate", "name": "t"});
    let mut machine = meta("machine-1");
    machine["labels"] = json!({"cluster.x-k8s.io/deployment-name": "workers"});
    vec![
        json!({"apiVersion": CAPI, "kind": "Cluster", "metadata": meta("prod"), "spec": {}}),
        json!({"apiVersion": CAPI, "kind": "MachineDeployment", "metadata": meta("workers"), "spec": {"clusterName": "prod",
            "replicas": 1, "template": {"spec": {"clusterName": "prod", "infrastructureRef": reference}}}}),
        json!({"apiVersion": CAPI, "kind": "Machine", "metadata": machine, "spec": {"clusterName": "prod",
            "infrastructureRef": {"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": "BareMetalMachine", "name": "bm-1"}},
            "status": {"nodeRef": {"name": "node-1"}}}),
        json!({"apiVersion": OURS, "kind": "BareMetalMachineTemplate", "metadata": meta("t"),
            "spec": {"template": {"spec": {}}}, "status": {"capacity": {"cpu": "16", "memory": "64Gi"}}}),
        json!({"apiVersion": OURS, "kind": "NodeGroupAutoscaler", "metadata": meta("workers"), "spec": {"clusterName": "prod",
            "maxReplicas": 9, "actuationMode": "Direct",
            "scaleTargetRef": {"apiGroup": "cluster.x-k8s.io", "kind": "MachineDeployment", "name": "workers"}}}),
        json!({"apiVersion": OURS, "kind": "BareMetalMachine", "metadata": meta("bm-1"),
            "spec": {"hostRef": {"namespace": "ns", "name": "host-0", "uid": "host-0"}}}),
        host("host-1"),
        host("host-2"),
    ]
}

fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "creationTimestamp": "2026-01-05T10:00:00Z"},
        "spec": {}, "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-05T10:01:00Z",
                "lastHeartbeatTime": "2026-01-05T12:00:00Z"}]}})
}

fn waiting(name: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-01-05T11:59:00Z"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]},
        "status": {"phase": "Pending"}})
}

fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn typed_list(mut items: Vec<Value>) -> Value {
    for item in &mut items {
        item.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
    }
    json!({"apiVersion": "v1", "kind": "PodList", "items": items})
}

#[rstest]
#[case::lists_of_json(true)]
#[case::documents_of_yaml(false)]
fn what_waits_raises_a_group(#[case] as_json: bool) {
    let all = [
        list(management()),
        node(),
        typed_list(vec![waiting("a", "10"), waiting("b", "10"), waiting("c", "10")]),
    ];
    let text = match as_json {
        true => all.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"),
        false => all.iter().map(|one| format!("---\n{}", serde_yaml_ng::to_string(one).unwrap())).collect(),
    };
    let judged = judge(&parse(&["--snapshot", "x", "--ahead-seconds", "0"]), &text).unwrap();
    assert_eq!(judged.at.to_string(), "2026-01-05T12:00:00Z", "the heartbeat is the newest time");
    let said = &judged.snapshot.groups[0];
    assert_eq!((said.from, said.to, said.reason), (1, 3, Some("UnschedulablePods")), "{judged:?}");
    let text = text::of_snapshot(&judged);
    assert!(text.contains("workers 1 -> 3: UnschedulablePods, 2 pods need 2 nodes more"), "{text}");
}

#[test]
fn another_policy_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    let quick = policy::EXAMPLE.replace("gpu-a", "workers").replace("nvidia.com/gpu: '64'", "nodes: '2'");
    std::fs::write(&file, quick).unwrap();
    let arguments = parse(&["--snapshot", "x", "--policy", file.to_str().unwrap()]);
    // Nothing runs on the node: by default it goes after 30 minutes and a window of 15, by the file after 10 and 15.
    let text = [list(management()), node()].iter().map(Value::to_string).collect::<String>();
    let judged = judge(&arguments, &text).unwrap();
    let after = |decided: &super::snapshot::Decided| {
        assert_eq!(decided.groups[0].unneeded, ["node-1"]);
        decided.later.iter().map(|later| (later.after_seconds, later.decision.to)).collect::<Vec<_>>()
    };
    assert_eq!(after(&judged.snapshot), [(2700, 0)]);
    assert_eq!(after(judged.policy.as_ref().unwrap()), [(1500, 0)]);
    assert!(text::of_snapshot(&judged).contains("after 25 min, were nothing else to change: workers 1 -> 0"));

    let three =
        [waiting("a", "10"), waiting("b", "10"), waiting("c", "10")].map(|pod| pod.to_string()).concat();
    let judged = judge(&arguments, &format!("{text}{three}")).unwrap();
    assert_eq!(
        (judged.snapshot.groups[0].to, judged.policy.unwrap().groups[0].to),
        (3, 2),
        "of two nodes at most"
    );
}

#[rstest]
#[case::not_even_json("{\"kind\": ", "document 1")]
#[case::no_yaml("kind: [", "document 1")]
#[case::nothing("", "no NodeGroupAutoscaler")]
#[case::an_object_that_is_not_what_it_says(
    "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"}, \"spec\": 3}",
    "Pod p"
)]
fn what_cannot_be_read_is_said(#[case] text: &str, #[case] sentence: &str) {
    let error = format!("{:#}", judge(&parse(&["--snapshot", "x"]), text).unwrap_err());
    assert!(error.contains(sentence), "{error}");
}

#[test]
fn of_several_clusters_one_is_chosen_and_what_is_missing_is_said() {
    let mut two = management();
    let mut other = two[4].clone();
    other["metadata"] = meta("others");
    other["spec"]["clusterName"] = json!("test");
    two.push(other);
    let text = format!("{}{}", list(two), node());
    let error = Snapshot::parse(&text).unwrap().of(None).unwrap_err().to_string();
    assert!(error.contains("prod, test"), "{error}");
    assert!(Snapshot::parse(&text).unwrap().of(Some("prod")).is_ok());
    let error = Snapshot::parse(&list(management()).to_string()).unwrap().of(None).unwrap_err().to_string();
    assert!(error.contains("workload cluster"), "{error}");
    // A Cluster that is not there holds its groups, and a MachineDeployment that is not there is no group.
    let judged = judge(&parse(&["--snapshot", "x", "--cluster", "test"]), &text).unwrap();
    assert!(judged.snapshot.unable["others"].contains("MachineDeployment workers"), "{judged:?}");
}

fn explained(objects: Vec<Value>, unseen: Option<&str>) -> super::explain::Explained {
    let mut snapshot = Snapshot::parse(&list(objects).to_string()).unwrap();
    if let Some(why) = unseen {
        snapshot.cannot_see(why.to_owned());
    }
    let snapshot = snapshot.of(None).unwrap();
    let prepared = snapshot.prepare("2026-01-05T12:00:00Z".parse().unwrap(), None).unwrap();
    super::explain::of(&snapshot, prepared, "workers", 7200, false).unwrap()
}

#[test]
fn a_group_is_explained() {
    let mut objects = management();
    objects[4]["spec"]["triggers"] = json!([{"name": "pods", "type": "UnschedulablePods"}]);
    objects[4]["status"] = json!({
        "currentReplicas": 1,
        "lastDecision": {"time": "2026-01-05T11:00:00Z", "direction": "Up", "reason": "UnschedulablePods",
            "trigger": "pods", "from": 0, "to": 1, "message": "1 pods need 1 nodes more, e.g. default/a"},
        "bootSeconds": {"p50": 300, "p95": 400, "p99": 410, "samples": 7},
        "conditions": [{"type": "ScalingActive", "status": "True", "reason": "Measured", "message": "",
            "lastTransitionTime": "2026-01-05T10:00:00Z"}],
    });
    objects.extend([node(), waiting("a", "10"), waiting("b", "10"), waiting("c", "40"), waiting("d", "41")]);
    let mut selective = waiting("e", "1");
    selective["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    objects.push(selective);
    let explained = explained(objects, None);
    let now = explained.now.as_ref().unwrap();
    assert_eq!((now.hosts.free, now.hosts.off, now.machines.nodes), (2, 2, 1));
    assert_eq!((now.decision.from, now.decision.to), (1, 2));
    assert_eq!((now.stranded_pods, now.stranded[0].pods), (3, 2), "two for the same reasons");
    let text = super::explain_text::of(&explained);
    for said in [
        "ns/workers: MachineDeployment workers of cluster prod",
        "mode Direct: what is decided is done",
        "hosts free: 2 (0 on and standing by, 0 staged, 2 off), 0 in quarantine; chosen by BareMetalMachineTemplate t: any host",
        "a node more would be like node node-1: cpu 16000m",
        "pods: Up, value 1 pods, asks for 2",
        "1 -> 2 (UnschedulablePods): 1 pods need 1 nodes more",
        "with a fresh memory",
        "node-1: 63 % asked for",
        "default/c and 1 more",
        "1 nodes: insufficient cpu",
        "a new node of this group would not have a place: node selector or affinity does not match",
        "last decision: 2026-01-05T11:00:00Z 0 -> 1 (UnschedulablePods, trigger pods)",
        "ScalingActive True (Measured)",
        "300 s (half of them)",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let json = serde_json::to_value(&explained).unwrap();
    assert_eq!(json["now"]["stranded"][0]["nodes"]["insufficient cpu"], 1, "{json}");
}

#[test]
fn what_comes_later_and_what_cannot_be_seen_is_explained() {
    let mut objects = management();
    objects.push(node());
    let text = super::explain_text::of(&explained(objects, None));
    for said in [
        "not needed: every pod fits elsewhere",
        "after 45 min, were nothing else to change: 1 -> 0",
        "it has not looked",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let text =
        super::explain_text::of(&explained(management(), Some("Secret prod-kubeconfig is not there yet")));
    for said in [
        "could not be looked at: Secret prod-kubeconfig",
        "stays at 1: the cluster cannot be judged",
        "not looked at",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
}

#[test]
fn what_the_manager_measured_counts() {
    let mut objects = management();
    objects[4]["spec"]["triggers"] = json!([{"name": "queue", "type": "Prometheus", "prometheus": {
        "serverURL": "http://prometheus:9090", "query": "sum(queue)", "target": {"type": "AverageValue", "value": "50"}}}]);
    objects[4]["status"] = json!({"triggers": [
        {"name": "queue", "state": "Up", "value": "140", "measured": "2026-01-05T11:00:00Z"}]});
    objects.push(node());
    let snapshot = Snapshot::parse(&list(objects).to_string()).unwrap().of(None).unwrap();
    let mut prepared = snapshot.prepare("2026-01-05T12:00:00Z".parse().unwrap(), None).unwrap();
    prepared.readings = super::explain::remembered_readings(&snapshot);
    let explained = super::explain::of(&snapshot, prepared, "workers", 0, false).unwrap();
    let text = super::explain_text::of(&explained);
    for said in [
        "queue: Up, value 140, asks for 3",
        "as the manager measured it, so since 2026-01-05T11:00:00Z",
        "1 -> 3",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
}
