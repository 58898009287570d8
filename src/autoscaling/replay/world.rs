//! A world on a simulated clock, from event to event.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::load::{Load, Size};
use super::model::{Kept, group, kept, left, name};
use super::outcome::{Change, Counter, Outcome};
use super::policies::{Action, Scaler, Seen};
use crate::autoscaling::schedule::cases::Dice;
use crate::autoscaling::schedule::model::{Drain, Node, Pod};
use crate::autoscaling::schedule::symbols::Sym;
use crate::autoscaling::schedule::{Cluster, NodeId};
use crate::autoscaling::{FreeHosts, Group, Machine, NodeState};

/// Replays a load: `scaler` decides, hosts and pods do as they do. Of the same seed, hosts boot as long with every scaler:
/// the n-th machine of a rack takes the same time.
pub fn replay(load: &Load, scaler: &mut dyn Scaler, seed: u64) -> Outcome {
    let mut world = World::new(load, seed);
    let (mut decide_at, interval) = (0, scaler.interval().max(1));
    loop {
        let next = world.next_event().map_or(decide_at, |at| at.min(decide_at));
        if next >= load.seconds {
            break;
        }
        world.pass(next);
        world.happen();
        if next == decide_at {
            for action in scaler.decide(&world.seen()) {
                world.act(action);
            }
            world.settle();
            world.place();
            decide_at += interval;
        }
    }
    world.pass(load.seconds);
    world.end()
}

/// What happens by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    /// A pod has run for its time, if it was not evicted in between: its life counts evictions.
    Ended { pod: u64, life: u32 },
    /// A machine is a node.
    Ready { rack: usize, machine: String },
    /// A node is drained and gone.
    Gone { rack: usize, machine: String },
    /// A host is wiped and off.
    Off { rack: usize },
}

/// A pod that has not ended.
#[derive(Debug, Clone)]
struct Running {
    kind: usize,
    /// How long it runs; one of a service runs on.
    runs: Option<i64>,
    /// Since when it waits, or runs.
    since: i64,
    node: Option<Sym>,
    life: u32,
}

struct World<'a> {
    load: &'a Load,
    now: i64,
    dice: Vec<Dice>,
    cluster: Cluster,
    version: u64,
    /// Something came that a pod could be placed on, or a pod to place.
    unplaced: bool,
    groups: Vec<Group>,
    nodes: BTreeMap<String, NodeState>,
    /// How many machines each rack has had.
    made: Vec<u32>,
    wiping: Vec<i32>,
    kinds: Vec<Kept>,
    pods: BTreeMap<u64, Running>,
    waiting: BTreeSet<(i64, u64)>,
    next_pod: u64,
    arrivals: usize,
    services: Vec<usize>,
    events: BTreeMap<(i64, u64), Event>,
    next_event: u64,
    /// Hosts that are on.
    on: i32,
    running: Size,
    counter: Counter,
}

impl<'a> World<'a> {
    fn new(load: &'a Load, seed: u64) -> Self {
        let mut cluster = Cluster::default();
        let groups = load.racks.iter().map(|rack| group(rack, &mut cluster)).collect();
        let kinds = load.kinds.iter().map(|kind| kept(kind, &mut cluster)).collect();
        let rack_seed = |at: usize| Dice::new(seed ^ (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let racks = load.racks.len();
        let mut world = Self {
            load,
            now: 0,
            dice: (0..racks).map(rack_seed).collect(),
            cluster,
            version: 0,
            unplaced: false,
            groups,
            nodes: BTreeMap::new(),
            made: vec![0; racks],
            wiping: vec![0; racks],
            kinds,
            pods: BTreeMap::new(),
            waiting: BTreeSet::new(),
            next_pod: 0,
            arrivals: 0,
            services: vec![0; load.services.len()],
            events: BTreeMap::new(),
            next_event: 0,
            on: 0,
            running: Size::default(),
            counter: Counter::new(load.warm_up),
        };
        world.settle();
        world
    }

    fn time(&self, at: i64) -> Timestamp {
        self.load.start.checked_add(SignedDuration::from_secs(at)).unwrap_or(Timestamp::MAX)
    }

    fn seen(&self) -> Seen<'_> {
        Seen {
            now: self.time(self.now),
            groups: &self.groups,
            cluster: &self.cluster,
            nodes: &self.nodes,
            version: self.version,
        }
    }

    fn next_event(&self) -> Option<i64> {
        let arrival = self.load.arrivals.get(self.arrivals).map(|arrival| arrival.at);
        let services = self.load.services.iter().zip(&self.services);
        let services = services.filter_map(|(service, at)| service.replicas.get(*at)).map(|(at, _)| *at);
        let event = self.events.keys().next().map(|(at, _)| *at);
        services.chain(arrival).chain(event).min().map(|at| at.max(self.now))
    }

    /// Time passes, and nothing happens in it.
    fn pass(&mut self, to: i64) {
        self.counter.pass(self.now, to, self.on, self.running);
        self.now = to;
    }

    fn later(&mut self, seconds: i64, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now + seconds.max(0), self.next_event), event);
    }

    /// All that is due.
    fn happen(&mut self) {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let event = entry.remove();
            self.version += 1;
            match event {
                Event::Ended { pod, life } => self.ended(pod, life),
                Event::Ready { rack, machine } => self.ready(rack, &machine),
                Event::Gone { rack, machine } => self.gone(rack, &machine),
                Event::Off { rack } => {
                    self.wiping[rack] -= 1;
                    self.on -= 1;
                }
            }
        }
        while let Some(arrival) = self.load.arrivals.get(self.arrivals).filter(|next| next.at <= self.now) {
            self.arrivals += 1;
            self.come(arrival.kind, Some(arrival.runs));
        }
        for at in 0..self.load.services.len() {
            self.serve(at);
        }
        self.settle();
        self.place();
    }

    /// A service gets as many pods as it should have.
    fn serve(&mut self, at: usize) {
        let service = &self.load.services[at];
        let mut wanted = None;
        while let Some((_, replicas)) =
            service.replicas.get(self.services[at]).filter(|(due, _)| *due <= self.now)
        {
            wanted = Some(*replicas);
            self.services[at] += 1;
        }
        let Some(wanted) = wanted else { return };
        let there: Vec<u64> =
            self.pods.iter().filter(|(_, pod)| pod.kind == service.kind).map(|(id, _)| *id).collect();
        for _ in there.len()..wanted {
            self.come(service.kind, None);
        }
        // As the ReplicaSet controller: those without a node first, then those of nodes that have many, then the youngest.
        let mut on_node: BTreeMap<Sym, usize> = BTreeMap::new();
        there
            .iter()
            .filter_map(|id| self.pods[id].node)
            .for_each(|node| *on_node.entry(node).or_default() += 1);
        let mut order: Vec<_> = there
            .iter()
            .map(|id| {
                let node = self.pods[id].node;
                (node.is_some(), std::cmp::Reverse(node.map(|node| on_node[&node])), std::cmp::Reverse(*id))
            })
            .collect();
        order.sort_unstable();
        for (_, _, id) in order.into_iter().take(there.len().saturating_sub(wanted)) {
            self.forget(id.0);
        }
    }

    fn come(&mut self, kind: usize, runs: Option<i64>) {
        self.next_pod += 1;
        let pod = Running { kind, runs, since: self.now, node: None, life: 0 };
        self.pods.insert(self.next_pod, pod);
        self.waiting.insert((self.now, self.next_pod));
        self.tell(self.next_pod);
        self.unplaced = true;
    }

    /// The cluster learns of a pod.
    fn tell(&mut self, id: u64) {
        self.version += 1;
        let Some(pod) = self.pods.get(&id) else { return };
        let kept = &self.kinds[pod.kind];
        let since = if pod.node.is_none() { pod.since } else { 0 };
        self.cluster.insert_pod(Pod {
            namespace: Sym::EMPTY,
            name: name(&kept.prefix, id),
            labels: kept.labels,
            spec: kept.spec,
            node: pod.node,
            nominated: None,
            claims: Box::default(),
            priority: 0,
            created: self.load.start.as_second() + since,
            drain: Drain { ready: pod.node.is_some(), ..kept.drain.clone() },
        });
    }

    /// A pod is no more.
    fn forget(&mut self, id: u64) {
        let Some(pod) = self.pods.remove(&id) else { return };
        self.version += 1;
        self.cluster.remove_pod("", &name(&self.kinds[pod.kind].prefix, id));
        match pod.node {
            Some(_) => {
                self.running = self.running.plus(self.load.kinds[pod.kind].size, -1);
                self.unplaced = true;
            }
            None => {
                self.waiting.remove(&(pod.since, id));
                self.counter.waited(pod.since, self.now);
            }
        }
    }

    fn ended(&mut self, id: u64, life: u32) {
        if self.pods.get(&id).is_some_and(|pod| pod.life == life) {
            self.forget(id);
            self.counter.outcome.ended += usize::from(self.counter.counts(self.now));
        }
    }

    fn ready(&mut self, rack: usize, machine: &str) {
        let group = &mut self.groups[rack];
        let Some(found) = group.machines.iter_mut().find(|found| found.name == machine && !found.deleting)
        else {
            return;
        };
        let node = format!("node-{machine}");
        found.node = Some(node.clone());
        let took = self.load.start.as_second() + self.now - found.created.as_second();
        group.boot.add(took.unsigned_abs());
        let symbol = self.cluster.symbols_mut().intern(&node);
        if let Some(template) = &group.template {
            let labels = template.labels.with(Sym::HOSTNAME, symbol);
            self.cluster.insert_node(Node { name: symbol, labels, ..template.clone() });
        }
        let created = Some(self.time(self.now));
        self.nodes.insert(node, NodeState { ready: true, created, held: false });
        self.unplaced = true;
    }

    /// A machine is gone, and its host is wiped.
    fn gone(&mut self, rack: usize, machine: &str) {
        let machines = &mut self.groups[rack].machines;
        let Some(at) = machines.iter().position(|found| found.name == machine) else { return };
        let found = machines.remove(at);
        if let Some(node) = found.node {
            self.cluster.remove_node(&node);
            self.nodes.remove(&node);
        }
        if found.bound {
            self.wiping[rack] += 1;
            self.later(self.load.wipe_seconds, Event::Off { rack });
        }
    }

    /// Machines are made for replicas, and get hosts while there are any.
    fn settle(&mut self) {
        for rack in 0..self.groups.len() {
            let hosts = self.load.racks[rack].hosts;
            let created = self.time(self.now);
            let group = &mut self.groups[rack];
            while group.ordered() > 0 {
                self.made[rack] += 1;
                let name = format!("{}-{:06}", group.name, self.made[rack]);
                group.machines.push(Machine { name, created, ..Machine::default() });
                self.version += 1;
            }
            let bound = group.machines.iter().filter(|machine| machine.bound).count();
            let mut free = hosts - i32::try_from(bound).unwrap_or(i32::MAX) - self.wiping[rack];
            let boot = self.load.racks[rack].boot;
            let mut booting = Vec::new();
            for machine in group.machines.iter_mut().filter(|machine| !machine.bound && !machine.deleting) {
                if free <= 0 {
                    break;
                }
                free -= 1;
                machine.bound = true;
                let spread = (boot.most - boot.least).max(0).unsigned_abs() + 1;
                let takes = boot.least + i64::try_from(self.dice[rack].below(spread)).unwrap_or(0);
                booting.push((machine.name.clone(), takes));
            }
            if group.free.off != free.max(0) {
                group.free = FreeHosts { running: 0, staged: 0, off: free.max(0) };
                self.version += 1;
            }
            for (machine, takes) in booting {
                self.on += 1;
                self.counter.outcome.power_cycles += u32::from(self.counter.counts(self.now));
                self.later(takes, Event::Ready { rack, machine });
            }
        }
    }

    /// Pods that wait get nodes, the longest waiting first: of those where they fit, the least allocated.
    fn place(&mut self) {
        if !std::mem::take(&mut self.unplaced) || self.waiting.is_empty() {
            return;
        }
        let mut placed: Vec<(u64, Sym)> = Vec::new();
        {
            let mut simulation = self.cluster.simulate();
            let ids: BTreeMap<u64, _> = simulation
                .waiting()
                .into_iter()
                .filter_map(|id| Some((simulation.pod(id).name.rsplit_once('-')?.1.parse().ok()?, id)))
                .collect();
            let nodes: Vec<NodeId> = self.nodes.keys().filter_map(|name| simulation.node(name)).collect();
            let mut hopeless = vec![false; self.kinds.len()];
            for (_, number) in &self.waiting {
                let (Some(pod), Some(&id)) = (self.pods.get(number), ids.get(number)) else { continue };
                if hopeless[pod.kind] {
                    continue;
                }
                let fits = nodes.iter().filter(|node| simulation.feasible(id, **node).is_ok());
                let best =
                    fits.copied().max_by_key(|node| (left(&simulation, *node), std::cmp::Reverse(*node)));
                match best.filter(|node| simulation.put(id, *node).is_ok()) {
                    Some(node) => placed.push((*number, simulation.node_model(node).name)),
                    None => hopeless[pod.kind] = true,
                }
            }
        }
        for (number, node) in placed {
            self.bind(number, node);
        }
    }

    fn bind(&mut self, number: u64, node: Sym) {
        let Some(pod) = self.pods.get_mut(&number) else { return };
        let (since, life, runs) = (pod.since, pod.life, pod.runs);
        (pod.node, pod.since) = (Some(node), self.now);
        self.running = self.running.plus(self.load.kinds[pod.kind].size, 1);
        self.waiting.remove(&(since, number));
        self.counter.waited(since, self.now);
        if let Some(runs) = runs {
            self.later(runs, Event::Ended { pod: number, life });
        }
        self.tell(number);
    }

    fn act(&mut self, action: Action) {
        self.version += 1;
        let (name, removed) = match &action {
            Action::Raise(name, _) => (name, &[][..]),
            Action::Remove(name, machines) => (name, machines.as_slice()),
        };
        let Some(rack) = self.groups.iter().position(|group| group.name == *name) else { return };
        let from = self.groups[rack].replicas;
        match action {
            Action::Raise(_, to) => self.groups[rack].replicas = to.max(from),
            Action::Remove(..) => removed.iter().for_each(|machine| self.remove(rack, machine)),
        }
        let to = self.groups[rack].replicas;
        if to != from {
            let group = self.groups[rack].name.clone();
            self.counter.outcome.changes.push(Change { at: self.now, group, from, to });
        }
    }

    /// A machine goes: its node is cordoned, its pods are evicted and come again.
    fn remove(&mut self, rack: usize, machine: &str) {
        let group = &mut self.groups[rack];
        let Some(found) = group.machines.iter_mut().find(|found| found.name == machine && !found.deleting)
        else {
            return;
        };
        found.deleting = true;
        group.replicas -= 1;
        let machine = found.name.clone();
        let Some(node) = found.node.clone() else {
            self.counter.outcome.given_up += u32::from(self.counter.counts(self.now));
            self.gone(rack, &machine);
            return;
        };
        let symbol = self.cluster.symbols_mut().intern(&node);
        if let Some(template) = &self.groups[rack].template {
            let labels = template.labels.with(Sym::HOSTNAME, symbol);
            let cordoned = Node { name: symbol, labels, unschedulable: true, ..template.clone() };
            self.cluster.insert_node(cordoned);
        }
        let evicted: Vec<u64> =
            self.pods.iter().filter(|(_, pod)| pod.node == Some(symbol)).map(|(id, _)| *id).collect();
        for id in &evicted {
            self.evict(*id);
        }
        let takes = if evicted.is_empty() { 0 } else { self.load.drain_seconds };
        self.later(takes, Event::Gone { rack, machine });
    }

    fn evict(&mut self, id: u64) {
        let Some(pod) = self.pods.get_mut(&id) else { return };
        if self.counter.counts(self.now) {
            self.counter.outcome.evictions += 1;
            if pod.runs.is_some() {
                self.counter.outcome.lost_pod_seconds += self.now - pod.since;
            }
        }
        pod.life += 1;
        (pod.node, pod.since) = (None, self.now);
        self.running = self.running.plus(self.load.kinds[pod.kind].size, -1);
        self.waiting.insert((self.now, id));
        self.unplaced = true;
        self.tell(id);
    }

    fn end(mut self) -> Outcome {
        for (since, _) in std::mem::take(&mut self.waiting) {
            self.counter.waited(since, self.now);
            self.counter.outcome.waiting_at_end += 1;
        }
        self.counter.outcome.running_at_end = self.pods.values().filter(|pod| pod.node.is_some()).count();
        let largest = self.load.racks.iter().fold(Size::default(), |most, rack| Size {
            milli: most.milli.max(rack.size.milli),
            mebibytes: most.mebibytes.max(rack.size.mebibytes),
            gpus: most.gpus.max(rack.size.gpus),
        });
        self.counter.end(largest)
    }
}
