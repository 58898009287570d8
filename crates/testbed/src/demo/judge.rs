//! What the demo calls done: pure judgements over what was observed, and the observers that are neither manager nor
//! simulator.

use std::collections::BTreeSet;

use super::view::{Host, Machine, View};
use crate::stack::JournalEntry;

/// Whether every host is free.
pub(crate) fn all_available(view: &View, wanted: usize) -> Result<(), String> {
    let others: Vec<String> = view.hosts.iter().filter(|host| host.state != "available").map(tell).collect();
    match (view.hosts.len(), others.is_empty()) {
        (count, _) if count != wanted => Err(format!("there are {count} hosts")),
        (_, true) => Ok(()),
        (_, false) => Err(others.join("; ")),
    }
}

/// What a MachineDeployment is to come to.
#[derive(Clone, Debug)]
pub(crate) struct Goal<'a> {
    /// Its name.
    pub(crate) deployment: &'a str,
    /// Machines of it, and no more.
    pub(crate) workers: usize,
    /// Machines of the control plane on hosts.
    pub(crate) control_plane: usize,
}

impl Goal<'_> {
    /// Whether exactly the wanted machines are there, Running, with Nodes that are Ready, and every other host is free.
    pub(crate) fn reached(&self, view: &View) -> Result<(), String> {
        let mut missing = Vec::new();
        let workers = view.machines.iter().filter(|machine| machine.deployment == self.deployment).count();
        let others = view.machines.len() - workers;
        if (workers, others) != (self.workers, self.control_plane) {
            missing.push(format!("there are {workers} worker and {others} control-plane Machines"));
        }
        for machine in &view.machines {
            missing.extend(not_running(view, machine));
        }
        if view.nodes.len() != view.machines.len() {
            missing.push(format!("there are {} Nodes", view.nodes.len()));
        }
        let idle = view.hosts.iter().filter(|host| view.machine_of(host).is_none());
        missing.extend(idle.filter(|host| host.state != "available").map(tell));
        let counted = view.replicas.get(self.deployment).copied().unwrap_or_default();
        if counted != (self.workers as u64, self.workers as u64) {
            missing.push(format!(
                "the MachineDeployment counts {} replicas, {} available",
                counted.0, counted.1
            ));
        }
        if view.cluster_available != "True" {
            let message = view.cluster_available.split_whitespace().collect::<Vec<_>>().join(" ");
            missing.push(format!("the Cluster's condition Available is {message}"));
        }
        if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
    }
}

fn not_running(view: &View, machine: &Machine) -> Option<String> {
    let why = if machine.deleting {
        "is being deleted".to_owned()
    } else if machine.phase != "Running" {
        format!("is {}", if machine.phase.is_empty() { "new" } else { &machine.phase })
    } else if view.node_of(machine).is_none_or(|node| !node.ready) {
        "has no Node that is Ready".to_owned()
    } else if !machine.available {
        "is not Available".to_owned()
    } else {
        return None;
    };
    let waiting =
        if machine.waiting.is_empty() { String::new() } else { format!(" (waits for {})", machine.waiting) };
    Some(format!("{} {why}{waiting}", machine.name))
}

/// A host in a sentence.
pub(crate) fn tell(host: &Host) -> String {
    let state = if host.state.is_empty() { "without a state" } else { &host.state };
    match (&host.error, host.waiting.is_empty()) {
        (Some(error), _) => format!("{} is {state}, {error}", host.name),
        (None, false) => format!("{} is {state}, waits for {}", host.name, host.waiting),
        (None, true) => format!("{} is {state}", host.name),
    }
}

/// The providerID of a running machine, if Machine, BareMetalMachine and Node agree on it and it names the host.
pub(crate) fn provider_id(view: &View, machine: &Machine) -> Result<String, String> {
    let id = &machine.provider_id;
    let node = view.node_of(machine).map(|node| node.provider_id.as_str()).unwrap_or_default();
    if machine.infrastructure_provider_id != *id || node != id {
        return Err(format!(
            "providerID is {id:?} on Machine {}, {:?} on its BareMetalMachine, {node:?} on its Node",
            machine.name, machine.infrastructure_provider_id
        ));
    }
    match id.strip_prefix("ferric://").and_then(|rest| rest.split_once('/')) {
        Some((host, claim)) if host == machine.host && !claim.is_empty() => Ok(id.clone()),
        _ => Err(format!(
            "providerID {id:?} of Machine {} does not name its host {}",
            machine.name, machine.host
        )),
    }
}

/// As many racks as can be are used by the machines of a deployment.
pub(crate) fn spread(view: &View, deployment: &str) -> Result<Vec<String>, String> {
    let machines = view.machines.iter().filter(|machine| machine.deployment == deployment);
    let used: Vec<&Host> = machines.filter_map(|machine| view.host_of(machine)).collect();
    let racks: BTreeSet<&str> = used.iter().map(|host| host.rack.as_str()).collect();
    let all: BTreeSet<&str> = view.hosts.iter().map(|host| host.rack.as_str()).collect();
    if racks.len() == used.len().min(all.len()) {
        Ok(racks.into_iter().map(str::to_owned).collect())
    } else {
        let placed: Vec<String> = used.iter().map(|host| format!("{} in {}", host.name, host.rack)).collect();
        Err(format!(
            "{} machines are in {} of {} racks: {}",
            used.len(),
            racks.len(),
            all.len(),
            placed.join(", ")
        ))
    }
}

/// Whether, by the journal of its BMC, a server is on and was started from its disk.
pub(crate) fn runs_from_disk(journal: &[JournalEntry]) -> Result<(), String> {
    let power = journal.iter().rev().find_map(JournalEntry::power);
    let boot = journal.iter().rev().find_map(JournalEntry::boot_source);
    match (power, boot) {
        (Some(true), Some("Disk")) => Ok(()),
        _ => Err(format!("the journal of its BMC says: on {power:?}, last booted from {boot:?}")),
    }
}

/// Whether, by the journal of its BMC, a server was stopped, then ran the agent, and is off again.
pub(crate) fn was_stopped_and_cleaned(journal: &[JournalEntry]) -> Result<(), String> {
    let position = |wanted: &dyn Fn(&JournalEntry) -> bool| journal.iter().position(wanted);
    let off = position(&|entry| entry.power() == Some(false));
    let agent = position(&|entry| entry.boot_source().is_some_and(|source| source != "Disk"));
    let now = journal.iter().rev().find_map(JournalEntry::power);
    match (off, agent, now) {
        (Some(off), Some(agent), Some(false)) if off < agent => Ok(()),
        (None, _, _) => Err("the journal of its BMC has no power off".to_owned()),
        (_, None, _) => Err("the journal of its BMC has no boot of the agent".to_owned()),
        (_, _, Some(true)) => Err("the journal of its BMC says that it is on".to_owned()),
        _ => Err("by the journal of its BMC it was not stopped before the agent was booted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::super::view::tests::{nodes, objects};
    use super::*;

    fn view() -> View {
        let mut view = View::read(&objects(), Some(&nodes()));
        view.cluster_available = "True".to_owned();
        view
    }

    fn goal(workers: usize) -> Goal<'static> {
        Goal { deployment: "demo-workers", workers, control_plane: 0 }
    }

    #[test]
    fn a_goal_is_reached_only_when_all_of_it_is_so() {
        goal(1).reached(&view()).unwrap();
        assert!(goal(2).reached(&view()).unwrap_err().contains("1 worker"));
        let wrong: [fn(&mut View); 8] = [
            |view| view.machines[0].phase = "Provisioned".to_owned(),
            |view| view.machines[0].deleting = true,
            |view| view.machines[0].available = false,
            |view| view.nodes[0].ready = false,
            |view| view.nodes.push(view.nodes[0].clone()),
            |view| view.hosts[1].state = "deprovisioning".to_owned(),
            |view| view.replicas.clear(),
            |view| view.cluster_available = "False: no".to_owned(),
        ];
        for (number, change) in wrong.into_iter().enumerate() {
            let mut view = view();
            change(&mut view);
            assert!(goal(1).reached(&view).is_err(), "change {number}");
        }
    }

    #[test]
    fn provider_ids_must_agree_and_name_the_host() {
        let view = view();
        assert_eq!(provider_id(&view, &view.machines[0]).unwrap(), "ferric://host-01/c");
        let wrong: [fn(&mut View); 3] = [
            |view| view.nodes[0].provider_id.clear(),
            |view| view.machines[0].infrastructure_provider_id = "ferric://host-01/d".to_owned(),
            |view| view.machines[0].host = "host-02".to_owned(),
        ];
        for change in wrong {
            let mut view = view.clone();
            change(&mut view);
            assert!(provider_id(&view, &view.machines[0]).is_err());
        }
    }

    #[test]
    fn machines_are_to_use_all_racks() {
        let mut view = view();
        assert_eq!(spread(&view, "demo-workers").unwrap(), ["rack-1"]);
        let mut second = view.machines[0].clone();
        second.host = "host-02".to_owned();
        view.machines.push(second);
        assert_eq!(spread(&view, "demo-workers").unwrap().len(), 2);
        view.hosts[1].rack = "rack-1".to_owned();
        view.hosts.push(Host { name: "host-03".to_owned(), rack: "rack-2".to_owned(), ..Host::default() });
        assert!(spread(&view, "demo-workers").is_err());
    }

    fn journal(events: &[(&str, serde_json::Value)]) -> Vec<JournalEntry> {
        let entry = |(seq, (kind, details)): (u64, &(&str, serde_json::Value))| JournalEntry {
            seq,
            at: String::new(),
            kind: (*kind).to_owned(),
            details: details.as_object().cloned().unwrap_or_default(),
        };
        (1..).zip(events).map(entry).collect()
    }

    #[test]
    fn the_journal_tells_what_runs() {
        let (on, off) = (("power", json!({"on": true})), ("power", json!({"on": false})));
        let (agent, disk) = (("boot", json!({"source": "UefiHttp"})), ("boot", json!({"source": "Disk"})));
        runs_from_disk(&journal(&[on.clone(), agent.clone(), on.clone(), disk.clone()])).unwrap();
        assert!(runs_from_disk(&journal(&[on.clone(), disk.clone(), off.clone()])).is_err());
        assert!(runs_from_disk(&journal(&[on.clone(), agent.clone()])).is_err());
        was_stopped_and_cleaned(&journal(&[off.clone(), on.clone(), agent.clone(), off.clone()])).unwrap();
        for wrong in [
            vec![on.clone(), agent.clone(), off.clone()],
            vec![off.clone(), on.clone(), agent.clone()],
            vec![off.clone(), on.clone(), disk, off.clone()],
            vec![],
        ] {
            assert!(was_stopped_and_cleaned(&journal(&wrong)).is_err());
        }
    }
}
