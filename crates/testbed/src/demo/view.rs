//! What `kubectl get … -o json` says of hosts, machines and nodes, as far as the demo looks at it. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// Label of a host that names its rack.
const RACK: &str = "ferric.infrastructure.cluster.x-k8s.io/rack";
/// Label that Cluster API puts on the machines of a MachineDeployment.
const DEPLOYMENT: &str = "cluster.x-k8s.io/deployment-name";

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) rack: String,
    pub(crate) state: String,
    pub(crate) power: String,
    /// Name of its BareMetalMachine.
    pub(crate) consumer: String,
    pub(crate) waiting: String,
    /// Reason and message of condition Healthy, if it is false.
    pub(crate) error: Option<String>,
    /// When its disks were last cleaned.
    pub(crate) cleaned_at: String,
}

/// A Machine of Cluster API, with what its BareMetalMachine adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) deployment: String,
    pub(crate) phase: String,
    pub(crate) node: String,
    pub(crate) provider_id: String,
    pub(crate) available: bool,
    pub(crate) deleting: bool,
    /// Name of its BareMetalMachine.
    pub(crate) infrastructure: String,
    /// Name of the host, as the BareMetalMachine says.
    pub(crate) host: String,
    /// As the BareMetalMachine says.
    pub(crate) infrastructure_provider_id: String,
    /// What the BareMetalMachine waits for.
    pub(crate) waiting: String,
}

/// A Node of the workload cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) ready: bool,
    pub(crate) provider_id: String,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) hosts: Vec<Host>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) nodes: Vec<Node>,
    /// Replicas of each MachineDeployment as its status counts them: all, available.
    pub(crate) replicas: BTreeMap<String, (u64, u64)>,
    /// Condition Available of the Cluster, with its message; empty while there is no Cluster.
    pub(crate) cluster_available: String,
}

impl View {
    /// Reads a list of management objects and, if there is one, a list of Nodes.
    pub(crate) fn read(objects: &Value, nodes: Option<&Value>) -> Self {
        let items = |list: &Value| list["items"].as_array().cloned().unwrap_or_default();
        let mut view = Self::default();
        let mut infrastructure = BTreeMap::new();
        for object in items(objects) {
            match object["kind"].as_str() {
                Some("BareMetalHost") => view.hosts.push(host(&object)),
                Some("Machine") => view.machines.push(machine(&object)),
                Some("BareMetalMachine") => {
                    infrastructure.insert(text(&object["metadata"]["name"]), object);
                }
                Some("MachineDeployment") => {
                    let count = |name: &str| object["status"][name].as_u64().unwrap_or(0);
                    let counts = (count("replicas"), count("availableReplicas"));
                    view.replicas.insert(text(&object["metadata"]["name"]), counts);
                }
                Some("Cluster") => view.cluster_available = condition(&object, "Available"),
                _ => {}
            }
        }
        for machine in &mut view.machines {
            if let Some(object) = infrastructure.get(&machine.infrastructure) {
                machine.host = text(&object["spec"]["hostRef"]["name"]);
                machine.infrastructure_provider_id = text(&object["spec"]["providerID"]);
                machine.waiting = text(&object["status"]["waitingFor"]["message"]);
            }
        }
        view.nodes = nodes.map(items).unwrap_or_default().iter().map(node).collect();
        view
    }

    /// The machine that a host belongs to.
    pub(crate) fn machine_of(&self, host: &Host) -> Option<&Machine> {
        self.machines.iter().find(|machine| !machine.host.is_empty() && machine.host == host.name)
    }

    /// The node of a machine.
    pub(crate) fn node_of(&self, machine: &Machine) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == machine.node)
    }

    /// The host of a machine.
    pub(crate) fn host_of(&self, machine: &Machine) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == machine.host)
    }
}

fn host(object: &Value) -> Host {
    let status = &object["status"];
    let healthy = find(object, "Healthy").filter(|condition| condition["status"] == "False");
    Host {
        name: text(&object["metadata"]["name"]),
        rack: text(&object["metadata"]["labels"][RACK]),
        state: text(&status["provisioning"]["state"]),
        power: text(&status["power"]),
        consumer: text(&object["spec"]["consumerRef"]["name"]),
        waiting: text(&status["waitingFor"]["message"]),
        error: healthy
            .map(|condition| format!("{}: {}", text(&condition["reason"]), text(&condition["message"]))),
        cleaned_at: text(&object["spec"]["record"]["cleaned"]["at"]),
    }
}

fn machine(object: &Value) -> Machine {
    Machine {
        name: text(&object["metadata"]["name"]),
        deployment: text(&object["metadata"]["labels"][DEPLOYMENT]),
        phase: text(&object["status"]["phase"]),
        node: text(&object["status"]["nodeRef"]["name"]),
        provider_id: text(&object["spec"]["providerID"]),
        available: find(object, "Available").is_some_and(|condition| condition["status"] == "True"),
        deleting: !object["metadata"]["deletionTimestamp"].is_null(),
        infrastructure: text(&object["spec"]["infrastructureRef"]["name"]),
        ..Machine::default()
    }
}

fn node(object: &Value) -> Node {
    Node {
        name: text(&object["metadata"]["name"]),
        ready: find(object, "Ready").is_some_and(|condition| condition["status"] == "True"),
        provider_id: text(&object["spec"]["providerID"]),
    }
}

fn find<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// `True`, or status and message.
fn condition(object: &Value, kind: &str) -> String {
    match find(object, kind) {
        None => "not reported".to_owned(),
        Some(condition) if condition["status"] == "True" => "True".to_owned(),
        Some(condition) => format!("{}: {}", text(&condition["status"]), text(&condition["message"])),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    /// A host that a machine runs on, and a free one.
    pub(crate) fn objects() -> Value {
        json!({ "items": [
            { "kind": "BareMetalHost",
              "metadata": { "name": "host-01", "labels": { RACK: "rack-1" } },
              "spec": { "consumerRef": { "name": "demo-a" } },
              "status": { "provisioning": { "state": "provisioned" }, "power": "On" } },
            { "kind": "BareMetalHost",
              "metadata": { "name": "host-02", "labels": { RACK: "rack-2" } },
              "spec": { "record": { "cleaned": { "at": "2026-01-01T00:00:00Z" } } },
              "status": { "provisioning": { "state": "available" }, "power": "Off", "conditions": [
                  { "type": "Healthy", "status": "False", "reason": "BMCUnreachable", "message": "no route" } ] } },
            { "kind": "Machine",
              "metadata": { "name": "demo-a", "labels": { DEPLOYMENT: "demo-workers" } },
              "spec": { "providerID": "ferric://host-01/c", "infrastructureRef": { "name": "demo-a" } },
              "status": { "phase": "Running", "nodeRef": { "name": "host-01" },
                  "conditions": [{ "type": "Available", "status": "True" }] } },
            { "kind": "BareMetalMachine", "metadata": { "name": "demo-a" },
              "spec": { "hostRef": { "name": "host-01" }, "providerID": "ferric://host-01/c" } },
            { "kind": "MachineDeployment", "metadata": { "name": "demo-workers" },
              "status": { "replicas": 1, "availableReplicas": 1 } },
            { "kind": "Cluster", "metadata": { "name": "demo" }, "status": { "conditions": [
                { "type": "Available", "status": "False", "message": "not yet" } ] } },
        ] })
    }

    pub(crate) fn nodes() -> Value {
        json!({ "items": [{ "metadata": { "name": "host-01" }, "spec": { "providerID": "ferric://host-01/c" },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }] })
    }

    #[test]
    fn objects_are_put_together() {
        let view = View::read(&objects(), Some(&nodes()));
        assert_eq!(view.cluster_available, "False: not yet");
        let [one, two] = view.hosts.as_slice() else { panic!("{view:?}") };
        assert_eq!(two.error.as_deref(), Some("BMCUnreachable: no route"));
        assert!(view.machine_of(two).is_none());
        let machine = view.machine_of(one).unwrap();
        assert!(machine.available && machine.infrastructure_provider_id == "ferric://host-01/c");
        assert!(view.node_of(machine).unwrap().ready);
        assert_eq!(view.host_of(machine), Some(one));
    }
}
