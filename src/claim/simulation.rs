//! Two planners with stale caches against a model of the API server, in random interleavings.
//!
//! The model knows objects, resourceVersions and a log of changes that each planner reads as late as it likes, machines
//! and hosts by separate cursors. Every read and every write is a step of its own, so anything may happen between a
//! decision and its write; a planner may be killed between any two. The host controller is modelled by what the claim
//! relies on: it starts work only after it read that the machine names the host, and it frees a host whose machine does
//! not. Checked after every write: nothing is ever claimed away from anybody, and nothing runs for a machine on two
//! hosts. Checked in the end: everybody is bound, or gone and its host free. `PROPTEST_CASES` makes it look harder.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use ferric_api::host::ImageRecord;
use ferric_api::{BareMetalHost, BareMetalMachine, ProvisioningState, names};
use kube::ResourceExt;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::{Value, json};

use super::board::Board;
use super::bound::{self, Relation};
use super::cluster::Owner;
use super::fixtures::{Hosts, cluster, free_host, machine, merged, owner};
use super::plan::{self, HostView, MachineObservation, MachineStep};
use crate::key::Key;

type Machines = BTreeMap<String, Arc<BareMetalMachine>>;
type Fleet = BTreeMap<String, Arc<BareMetalHost>>;

#[derive(Debug)]
struct Conflict;

/// The API server.
#[derive(Default)]
struct Server {
    version: u64,
    machines: Machines,
    hosts: Fleet,
    machine_log: Vec<(String, Option<Arc<BareMetalMachine>>)>,
    host_log: Vec<Arc<BareMetalHost>>,
    /// Switches off the precondition, to show that the checks see what it prevents.
    lenient: bool,
    violations: Vec<String>,
}

impl Server {
    fn put_machine(&mut self, mut machine: BareMetalMachine) -> Arc<BareMetalMachine> {
        self.version += 1;
        machine.metadata.resource_version = Some(self.version.to_string());
        let (name, machine) = (machine.name_any(), Arc::new(machine));
        if machine.metadata.deletion_timestamp.is_some() && machine.finalizers().is_empty() {
            self.machines.remove(&name);
            self.machine_log.push((name, None));
        } else {
            self.machines.insert(name.clone(), machine.clone());
            self.machine_log.push((name, Some(machine.clone())));
        }
        machine
    }

    fn put_host(&mut self, mut host: BareMetalHost) -> Arc<BareMetalHost> {
        self.version += 1;
        host.metadata.resource_version = Some(self.version.to_string());
        let host = Arc::new(host);
        if let Some(before) = self.hosts.insert(host.name_any(), host.clone()) {
            self.watch_over(&before, &host);
        }
        self.host_log.push(host.clone());
        host
    }

    fn patch_machine(
        &mut self,
        read: &BareMetalMachine,
        patch: &Value,
    ) -> Result<Arc<BareMetalMachine>, Conflict> {
        let current = self.machines.get(&read.name_any()).ok_or(Conflict)?;
        if current.uid() != read.uid()
            || (!self.lenient && current.resource_version() != read.resource_version())
        {
            return Err(Conflict);
        }
        let changed = merged(&**current, patch);
        Ok(self.put_machine(changed))
    }

    fn patch_host(&mut self, read: &BareMetalHost, patch: &Value) -> Result<Arc<BareMetalHost>, Conflict> {
        let current = self.hosts.get(&read.name_any()).ok_or(Conflict)?;
        if !self.lenient && current.resource_version() != read.resource_version() {
            return Err(Conflict);
        }
        let changed = merged(&**current, patch);
        Ok(self.put_host(changed))
    }

    /// What must hold at any time.
    fn watch_over(&mut self, before: &BareMetalHost, after: &BareMetalHost) {
        if let (Some(old), Some(new)) = (claim(before), claim(after))
            && old != new
        {
            self.violations.push(format!("{} was claimed away: {old} by {new}", after.name_any()));
        }
        let mut at_work: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for host in self.hosts.values().filter(|h| started(h)) {
            let consumer = host.spec.consumer_ref.as_ref().and_then(|c| c.name.clone()).unwrap_or_default();
            at_work.entry(consumer).or_default().push(host.name_any());
        }
        for (machine, hosts) in at_work.into_iter().filter(|(_, hosts)| hosts.len() > 1) {
            self.violations.push(format!("{machine} runs on {hosts:?}"));
        }
    }
}

fn claim(host: &BareMetalHost) -> Option<&str> {
    Some(host.spec.record.as_ref()?.claim.as_ref()?.id.as_str())
}

fn started(host: &BareMetalHost) -> bool {
    host.spec.record.as_ref().is_some_and(|r| r.image.is_some())
}

/// What a planner has under way for a machine. Mirrors the machine controller's attempt.
struct Attempt {
    machine: Arc<BareMetalMachine>,
    machine_live: bool,
    host: Option<Arc<BareMetalHost>>,
    host_live: bool,
    held_by: Option<Key>,
    pending: Option<Pending>,
}

enum Pending {
    Machine(Value),
    Host(Value),
}

/// A manager.
#[derive(Default)]
struct Planner {
    machines: Machines,
    hosts: Fleet,
    machines_seen: usize,
    hosts_seen: usize,
    board: Board,
    attempts: BTreeMap<String, Attempt>,
    /// Writes of the host controller that are decided and not yet sent.
    host_writes: BTreeMap<String, (Arc<BareMetalHost>, Value)>,
}

impl Planner {
    fn sync_machines(&mut self, server: &Server, upto: usize) {
        for (name, machine) in server.machine_log.iter().take(upto).skip(self.machines_seen) {
            match machine {
                Some(machine) => {
                    self.board.machine_changed(machine);
                    self.machines.insert(name.clone(), machine.clone());
                }
                None => {
                    self.board.machine_gone(&Key::new("ns", name));
                    self.machines.remove(name);
                }
            }
        }
        self.machines_seen = self.machines_seen.max(upto.min(server.machine_log.len()));
    }

    fn sync_hosts(&mut self, server: &Server, upto: usize) {
        for host in server.host_log.iter().take(upto).skip(self.hosts_seen) {
            self.board.host_changed(host);
            self.hosts.insert(host.name_any(), host.clone());
        }
        self.hosts_seen = self.hosts_seen.max(upto.min(server.host_log.len()));
    }

    fn cached_host(&self, machine: &BareMetalMachine) -> Option<Arc<BareMetalHost>> {
        self.hosts.get(&machine.spec.host_ref.as_ref()?.name).cloned()
    }

    /// One step for a machine: one read, one decision or one write.
    fn step(&mut self, server: &mut Server, name: &str, fresh: &str) {
        let Some(mut attempt) = self.attempts.remove(name).or_else(|| {
            let machine = self.machines.get(name)?.clone();
            let host = self.cached_host(&machine);
            let (machine_live, host_live, held_by, pending) = (false, false, None, None);
            Some(Attempt { machine, machine_live, host, host_live, held_by, pending })
        }) else {
            return;
        };
        if self.advance(server, &mut attempt, name, fresh) {
            self.attempts.insert(name.to_owned(), attempt);
        }
    }

    /// Returns whether the attempt goes on.
    fn advance(&mut self, server: &mut Server, a: &mut Attempt, name: &str, fresh: &str) -> bool {
        let key = Key::new("ns", name);
        match a.pending.take() {
            Some(Pending::Machine(patch)) => {
                let Ok(machine) = server.patch_machine(&a.machine, &patch) else {
                    self.board.unplace(&key);
                    return false;
                };
                if machine.spec.host_ref != a.machine.spec.host_ref {
                    (a.host, a.host_live) = (self.cached_host(&machine), false);
                }
                (a.machine, a.machine_live) = (machine, true);
                return true;
            }
            Some(Pending::Host(patch)) => {
                let Some(host) = &a.host else { return false };
                match server.patch_host(host, &patch) {
                    Ok(host) => a.host = Some(host),
                    Err(Conflict) => a.host = server.hosts.get(&host.name_any()).cloned(),
                }
                a.host_live = true;
                return true;
            }
            None => {}
        }
        let host_key = a.machine.spec.host_ref.as_ref().map(|h| Key::new(&h.namespace, &h.name));
        let held_by = a.held_by.clone().or_else(|| self.board.held_by(&key, host_key.as_ref()));
        let (owner, cluster) = (owner(name), cluster());
        let plan = plan::plan(&MachineObservation {
            object: &a.machine,
            owner: Owner::Found(&owner),
            cluster: Owner::Found(&cluster),
            host: match (&host_key, &a.host) {
                (None, _) => HostView::Unnamed,
                (Some(_), None) => HostView::Gone,
                (Some(_), Some(host)) => HostView::There(host),
            },
            held_by: held_by.as_ref(),
            internal_ips: None,
        });
        if plan.guarded && !a.host_live {
            let left = bound::left_host(&a.machine).filter(|left| Some(left) != host_key.as_ref());
            a.held_by = left.filter(|left| bound::names(&server.hosts[&left.name], &a.machine));
            a.host = host_key.and_then(|k| server.hosts.get(&k.name).cloned());
            a.host_live = true;
            return true;
        }
        match plan.step {
            MachineStep::Ignore | MachineStep::Report => return false,
            MachineStep::Choose(ask) => match self.board.choose(&key, &ask).0 {
                Ok(host) => a.pending = Some(Pending::Machine(bound::intent_patch(&a.machine, &host, fresh))),
                Err(_) => return false,
            },
            MachineStep::Claim { .. } if !a.machine_live => {
                let Some(live) = server.machines.get(name).cloned() else { return false };
                if live.resource_version() != a.machine.resource_version() {
                    (a.host, a.host_live) = (self.cached_host(&live), false);
                }
                (a.machine, a.machine_live) = (live, true);
            }
            MachineStep::Claim { cluster } => {
                let host = a.host.as_ref().unwrap();
                a.pending = bound::claim_patch(&a.machine, host, &cluster).map(Pending::Host);
            }
            MachineStep::RefreshUid => a.pending = Some(Pending::Host(bound::uid_patch(&a.machine))),
            MachineStep::AddFinalizer => {
                let patch = json!({"metadata": {"finalizers": bound::with_finalizer(&a.machine)}});
                a.pending = Some(Pending::Machine(patch));
            }
            MachineStep::SetProviderId(id) => {
                a.pending = Some(Pending::Machine(json!({"spec": {"providerID": id}})));
            }
            MachineStep::RemoveFinalizer => {
                a.pending = Some(Pending::Machine(json!({"metadata": {"finalizers": null}})));
            }
        }
        true
    }

    /// One step of the host controller for a host: a decision on what is read, or the write that was decided.
    fn host_step(&mut self, server: &mut Server, name: &str) {
        if let Some((read, patch)) = self.host_writes.remove(name) {
            let _ = server.patch_host(&read, &patch);
            return;
        }
        let Some(host) = server.hosts.get(name).cloned() else { return };
        let Some(consumer) = host.spec.consumer_ref.as_ref().and_then(|c| c.name.clone()) else { return };
        let machine = server.machines.get(&consumer);
        let names_it = machine.is_some_and(|m| {
            bound::intent(m).is_some_and(|(h, _)| h.name == name)
                && bound::relation(m, &host).ties()
                && m.metadata.deletion_timestamp.is_none()
        });
        let free = json!({"spec": {"consumerRef": null, "record": {"claim": null, "image": null}}});
        let patch = match (names_it, started(&host)) {
            (true, true) => return,
            (true, false) => {
                let image = ImageRecord {
                    write_started_at: Some(Hosts::now()),
                    write_finished_at: Some(Hosts::now()),
                    booted_at: Some(Hosts::now()),
                    ..ImageRecord::default()
                };
                json!({"spec": {"record": {"image": image}}})
            }
            (false, _) => free,
        };
        self.host_writes.insert(name.to_owned(), (host, patch));
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    SyncMachines(usize, u8),
    SyncHosts(usize, u8),
    Step(usize, usize),
    HostStep(usize, usize),
    Kill(usize),
    Delete(usize),
    Busy(usize),
}

const MACHINES: usize = 4;
const HOSTS: usize = 5;

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..2usize, 1..6u8).prop_map(|(p, n)| Op::SyncMachines(p, n)),
        3 => (0..2usize, 1..6u8).prop_map(|(p, n)| Op::SyncHosts(p, n)),
        24 => (0..2usize, 0..MACHINES).prop_map(|(p, m)| Op::Step(p, m)),
        6 => (0..2usize, 0..HOSTS).prop_map(|(p, h)| Op::HostStep(p, h)),
        1 => (0..2usize).prop_map(Op::Kill),
        1 => (0..MACHINES).prop_map(Op::Delete),
        2 => (0..HOSTS).prop_map(Op::Busy),
    ]
}

struct World {
    server: Server,
    planners: [Planner; 2],
    fresh: u32,
}

impl World {
    fn new(lenient: bool) -> Self {
        let mut server = Server { lenient, ..Server::default() };
        for i in 0..HOSTS {
            server.put_host(free_host(&format!("h{i}")));
        }
        for i in 0..MACHINES {
            server.put_machine(machine(&format!("m{i}")));
        }
        let mut planners = [Planner::default(), Planner::default()];
        for planner in &mut planners {
            planner.sync_machines(&server, usize::MAX);
            planner.sync_hosts(&server, usize::MAX);
        }
        Self { server, planners, fresh: 0 }
    }

    fn apply(&mut self, op: Op) {
        let server = &mut self.server;
        match op {
            Op::SyncMachines(p, n) => {
                let upto = self.planners[p].machines_seen + usize::from(n);
                self.planners[p].sync_machines(server, upto);
            }
            Op::SyncHosts(p, n) => {
                let upto = self.planners[p].hosts_seen + usize::from(n);
                self.planners[p].sync_hosts(server, upto);
            }
            Op::Step(p, m) => {
                self.fresh += 1;
                self.planners[p].step(server, &format!("m{m}"), &format!("claim-{}", self.fresh));
            }
            Op::HostStep(p, h) => self.planners[p].host_step(server, &format!("h{h}")),
            Op::Kill(p) => {
                self.planners[p] = Planner::default();
                self.planners[p].sync_machines(server, usize::MAX);
                self.planners[p].sync_hosts(server, usize::MAX);
            }
            Op::Delete(m) => {
                if let Some(machine) = server.machines.get(&format!("m{m}")) {
                    let mut machine = (**machine).clone();
                    machine.metadata.deletion_timestamp = Some(Hosts::now());
                    server.put_machine(machine);
                }
            }
            Op::Busy(h) => {
                let host = &server.hosts[&format!("h{h}")];
                let state = host.status.as_ref().unwrap().provisioning.state;
                let other = match state {
                    ProvisioningState::Available => ProvisioningState::Inspecting,
                    _ => ProvisioningState::Available,
                };
                if host.spec.consumer_ref.is_none() {
                    let mut host = (**host).clone();
                    host.status.as_mut().unwrap().provisioning.state = other;
                    server.put_host(host);
                }
            }
        }
    }

    /// Everybody works with caches that catch up, until nothing changes any more.
    fn settle(&mut self) {
        for h in 0..HOSTS {
            let host = &self.server.hosts[&format!("h{h}")];
            if host.status.as_ref().unwrap().provisioning.state != ProvisioningState::Available {
                self.apply(Op::Busy(h));
            }
        }
        let mut quiet = 0;
        for _ in 0..10_000 {
            let version = self.server.version;
            for p in 0..2 {
                self.planners[p].sync_machines(&self.server, usize::MAX);
                self.planners[p].sync_hosts(&self.server, usize::MAX);
                (0..MACHINES).for_each(|m| self.apply(Op::Step(p, m)));
                (0..HOSTS).for_each(|h| self.apply(Op::HostStep(p, h)));
            }
            quiet = if self.server.version == version { quiet + 1 } else { 0 };
            if quiet > 12 {
                return;
            }
        }
        panic!("it never settles");
    }

    fn check_end(&self) -> Result<(), TestCaseError> {
        prop_assert!(self.server.violations.is_empty(), "{:?}", self.server.violations);
        for machine in self.server.machines.values() {
            prop_assert!(machine.metadata.deletion_timestamp.is_none(), "{} is stuck", machine.name_any());
            let (key, _) = bound::intent(machine).unwrap();
            prop_assert_eq!(bound::relation(machine, &self.server.hosts[&key.name]), Relation::Held);
            prop_assert!(machine.spec.provider_id.is_some());
            prop_assert!(machine.finalizers().iter().any(|f| f == names::MACHINE_FINALIZER));
        }
        let used = self.server.hosts.values().filter(|h| h.spec.consumer_ref.is_some()).count();
        prop_assert_eq!(used, self.server.machines.len(), "a host is held for nobody");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_planners_with_stale_caches_never_share_a_host_and_everybody_is_bound(
        ops in proptest::collection::vec(op(), 0..250),
    ) {
        let mut world = World::new(false);
        for op in ops {
            world.apply(op);
        }
        world.settle();
        world.check_end()?;
    }
}

/// The checks above have teeth: without the precondition the same world breaks.
#[test]
fn without_the_precondition_the_model_sees_hosts_claimed_away() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = proptest::collection::vec(op(), 250);
    let broken = (0..200).any(|_| {
        let ops = strategy.new_tree(&mut runner).unwrap().current();
        let mut world = World::new(true);
        for op in ops {
            world.apply(op);
        }
        !world.server.violations.is_empty()
    });
    assert!(broken);
}
