//! On random clusters, many and odd: against a plain second writing of the filters, and by replay.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::cases::{self, Case, Shape};
use super::super::model::SafeToEvict;
use super::super::symbols::Sym;
use super::super::{DrainPolicy, Group, NodeId, Packing, ScaleDown, pack};
use super::reference::World;
use super::*;

fn shape() -> impl Strategy<Value = Shape> {
    (1_u64..10, 0_u64..30, 1_u64..16, 0_u64..60).prop_map(|(nodes, bound, waiting, constraints)| Shape {
        nodes,
        bound,
        waiting,
        constraints,
    })
}

fn case() -> impl Strategy<Value = Case> {
    (any::<u64>(), shape()).prop_map(|(seed, shape)| cases::case_of(seed, shape))
}

fn object_of<'c>(case: &'c Case, name: &str) -> &'c Pod {
    case.bound.iter().chain(&case.waiting).find(|pod| pod.metadata.name.as_deref() == Some(name)).unwrap()
}

fn all_nodes(simulation: &Simulation<'_>) -> Vec<NodeId> {
    simulation.cluster().nodes().map(|(name, _)| simulation.node(name).unwrap()).collect()
}

/// Asks about one pod and every node, both ways; returns the nodes that take it.
fn same_answers(
    simulation: &Simulation<'_>,
    world: &World<'_>,
    pod: PodId,
) -> Result<Vec<NodeId>, TestCaseError> {
    let object = object_of(world.case, &simulation.pod(pod).name);
    let mut fits = Vec::new();
    for node in &world.case.nodes {
        let id = simulation.node(node.metadata.name.as_deref().unwrap()).unwrap();
        let found = simulation.feasible(pod, id);
        prop_assert_eq!(
            found.is_ok(),
            world.fits(object, node),
            "{} on {:?}: {:?}",
            simulation.pod_name(pod),
            id,
            found
        );
        if found.is_ok() {
            fits.push(id);
        }
    }
    fits.sort_unstable();
    Ok(fits)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 2, ..ProptestConfig::default() })]

    /// Every pod that waits, on every node, while they are placed one after the other.
    #[test]
    fn feasible_agrees_with_the_filters_written_plainly(case in case()) {
        let cluster = case.cluster();
        let mut simulation = Simulation::new(&cluster);
        let mut world = World::new(&case);
        for pod in simulation.waiting() {
            if let Some(&node) = same_answers(&simulation, &world, pod)?.first() {
                simulation.put(pod, node).unwrap();
                let name = simulation.node_name(node).unwrap();
                world.place(object_of(&case, &simulation.pod(pod).name), name);
            }
        }
    }

    /// Running pods taken off one after the other, and asked for everywhere; then put back by the journal.
    #[test]
    fn feasible_agrees_after_pods_were_taken_off(case in case()) {
        let cluster = case.cluster();
        let mut simulation = Simulation::new(&cluster);
        let mut world = World::new(&case);
        let before = format!("{:?}", simulation.free_of_all());
        let mark = simulation.mark();
        let running: Vec<PodId> =
            simulation.pods().filter(|(id, _)| simulation.place(*id).is_some()).map(|(id, _)| id).collect();
        for pod in running {
            simulation.take(pod);
            let mut object = world.take(&simulation.pod(pod).name);
            object.spec.as_mut().unwrap().node_name = None;
            let fits = same_answers(&simulation, &world, pod)?;
            // Every second goes somewhere else.
            if pod.0 % 2 == 0 && let Some(&node) = fits.last() {
                simulation.put(pod, node).unwrap();
                world.place(&object, simulation.node_name(node).unwrap());
            }
        }
        simulation.rollback(mark);
        prop_assert_eq!(before, format!("{:?}", simulation.free_of_all()));
        let world = World::new(&case);
        for pod in simulation.waiting() {
            same_answers(&simulation, &world, pod)?;
        }
    }

    /// What the packer finds fast is what the filters say.
    #[test]
    fn pods_are_packed_where_they_fit(case in case(), limit in 0_u32..4) {
        let cluster = &mut case.cluster();
        let groups = groups(cluster, &case, limit);
        let mut simulation = Simulation::new(cluster);
        let before = simulation.free_of_all();
        let waiting = simulation.waiting();
        let packing = pack(&mut simulation, &waiting, &groups);
        for (at, group) in groups.iter().enumerate() {
            prop_assert!(packing.plan.nodes_of(at) <= limit as usize);
            prop_assert!(packing.estimates[at].nodes.len() <= group.limit as usize);
        }
        prop_assert!(packing.plan.nodes.iter().all(|node| !node.pods.is_empty()));
        let after = simulation.free_of_all();
        for (at, &free) in after.iter().enumerate() {
            // No node is filled beyond what it has, or beyond what it was found with.
            prop_assert!(free >= 0 || before.get(at).is_some_and(|&before| before == free));
        }
        let placed = packing.existing.len()
            + packing.plan.existing.len()
            + packing.plan.nodes.iter().map(|node| node.pods.len()).sum::<usize>();
        prop_assert_eq!(placed + packing.plan.unplaced.len(), waiting.len());
        for unplaced in &packing.plan.unplaced {
            for node in all_nodes(&simulation) {
                prop_assert!(simulation.feasible(unplaced.pod, node).is_err());
            }
        }
        replay(cluster, &packing, &simulation)?;
    }

    #[test]
    fn the_order_of_arrival_does_not_matter(case in case(), seed in any::<u64>()) {
        let other = case.shuffled(seed);
        let answer = |case: &Case| {
            let cluster = &mut case.cluster();
            let groups = groups(cluster, &self::case_sorted(case), 3);
            let mut simulation = Simulation::new(cluster);
            let waiting = simulation.waiting();
            let packing = pack(&mut simulation, &waiting, &groups);
            let mut simulation = Simulation::new(cluster);
            let nodes = all_nodes(&simulation);
            let mut pass = ScaleDown::new(&mut simulation, DrainPolicy::default(), &nodes);
            let removed: Vec<_> = nodes.iter().map(|&node| pass.remove(node)).collect();
            (packing, removed)
        };
        let first = answer(&case);
        prop_assert_eq!(&first, &answer(&case));
        prop_assert_eq!(&first, &answer(&other));
    }

    /// The proofs of a pass hold one after the other; budgets hold over all; nobody is moved who may not be.
    #[test]
    fn proofs_can_be_replayed(case in case(), at_once in any::<bool>(), hold in any::<bool>()) {
        let cluster = case.cluster();
        let mut simulation = Simulation::new(&cluster);
        let nodes = all_nodes(&simulation);
        let policy = DrainPolicy { at_once, hold_local_storage: hold, hold_system_pods: hold };
        let mut pass = ScaleDown::new(&mut simulation, policy, &nodes);
        let outcomes: Vec<_> = nodes.iter().map(|&node| pass.remove(node)).collect();
        let mut replay = Simulation::new(&cluster);
        let mut evicted = BTreeSet::new();
        for proof in outcomes.iter().flatten() {
            for one in &proof.moves {
                prop_assert_eq!(replay.place(one.pod), Some(proof.node));
                prop_assert!(proof.node != one.to);
                if one.evict {
                    prop_assert!(evicted.insert(one.pod));
                    let drain = &replay.pod(one.pod).drain;
                    prop_assert!(drain.replicated && drain.safe_to_evict != SafeToEvict::No && !drain.daemon);
                }
                replay.take(one.pod);
            }
            replay.close(proof.node);
            for one in &proof.moves {
                prop_assert_eq!(replay.put(one.pod, one.to), Ok(()));
            }
            let left: BTreeSet<PodId> = replay.on(proof.node).into_iter().collect();
            prop_assert!(left.iter().eq(proof.with_it.iter().chain(&proof.leaving).collect::<BTreeSet<_>>()));
        }
        if at_once {
            for budget in &case.budgets {
                let spec = budget.spec.clone().unwrap();
                let pairs = spec.selector.unwrap().match_labels.unwrap();
                let spent = evicted.iter().filter(|pod| {
                    let (pod, model) = (object_of(&case, &replay.pod(**pod).name), replay.pod(**pod));
                    let labels = pod.metadata.labels.clone().unwrap();
                    pod.metadata.namespace == budget.metadata.namespace
                        && pairs.iter().all(|(key, value)| labels.get(key) == Some(value))
                        && (model.drain.ready || spec.unhealthy_pod_eviction_policy.is_none())
                });
                let allowed = budget.status.clone().unwrap().disruptions_allowed;
                prop_assert!(i32::try_from(spent.count()).unwrap() <= allowed);
            }
        }
    }

    /// Removing a node and packing its pods comes to the same.
    #[test]
    fn removable_agrees_with_packing_the_pods_of_a_node(case in case()) {
        let cluster = case.cluster();
        let nodes = all_nodes(&Simulation::new(&cluster));
        for node in nodes {
            let mut simulation = Simulation::new(&cluster);
            let pods = simulation.on(node);
            let mut pass = ScaleDown::new(&mut simulation, DrainPolicy::default(), &[]);
            let outcome = pass.remove(node);
            let mut other = Simulation::new(&cluster);
            pods.iter().for_each(|&pod| other.take(pod));
            other.close(node);
            let unplaced = other.settle(&pods).unplaced;
            match outcome {
                Ok(_) => prop_assert!(unplaced.is_empty()),
                Err(super::super::Blocked::NoPlace(_)) => {
                    // Packing tries again what waits for other pods; a drain does not.
                    let waits = |pod: &PodId| {
                        let spec = cluster.spec_of(other.pod(*pod)).unwrap();
                        !spec.affinity.is_empty() || !spec.spread.is_empty()
                    };
                    prop_assert!(!unplaced.is_empty() || pods.iter().any(waits));
                }
                Err(_) => {}
            }
        }
    }

    /// As if the node were not in the API, where no pod counts its domain.
    #[test]
    fn removable_agrees_with_a_cluster_without_the_node(seed in any::<u64>()) {
        let case = cases::case_of(seed, Shape { constraints: 0, ..Shape::default() });
        for node in &case.nodes {
            let name = node.metadata.name.clone().unwrap();
            let cluster = case.cluster();
            let mut simulation = Simulation::new(&cluster);
            let id = simulation.node(&name).unwrap();
            let outcome = simulation.removable(id);
            let mut without = case.clone();
            without.waiting.clear();
            without.nodes.retain(|other| other.metadata.name.as_ref() != Some(&name));
            for pod in &mut without.bound {
                let spec = pod.spec.as_mut().unwrap();
                spec.node_name = spec.node_name.take().filter(|on| *on != name);
            }
            let cluster = without.cluster();
            let mut other = Simulation::new(&cluster);
            let waiting = other.waiting();
            match outcome {
                // Where the proof puts them they do fit.
                Ok(proof) => {
                    for step in &proof.moves {
                        let pod = other.pods().find(|(id, _)| other.pod_name(*id) == simulation.pod_name(step.pod));
                        let to = other.node(simulation.node_name(step.to).unwrap()).unwrap();
                        prop_assert_eq!(other.put(pod.unwrap().0, to), Ok(()));
                    }
                }
                // Of several pods another order might find a place for each; a single one has none.
                Err(super::super::Blocked::NoPlace(_)) if waiting.len() == 1 => {
                    prop_assert_eq!(other.settle(&waiting).unplaced.len(), 1);
                }
                Err(_) => {}
            }
        }
    }
}

/// The nodes of a case in one order, so that groups made of them are the same.
fn case_sorted(case: &Case) -> Case {
    let mut case = case.clone();
    case.nodes.sort_by_key(|node| node.metadata.name.clone());
    case
}

/// Two groups with nodes like the first and the last of a case.
fn groups(cluster: &mut Cluster, case: &Case, limit: u32) -> Vec<Group> {
    let ends = [case.nodes.first().unwrap(), case.nodes.last().unwrap()];
    let group = |(at, node): (usize, &Node)| Group {
        name: format!("group-{at}"),
        template: cluster.template(node),
        limit,
        in_flight: u32::try_from(at).unwrap(),
        rank: 0,
        size: 0,
        only_for: None,
        places: Vec::new(),
        firm: 0,
    };
    ends.into_iter().enumerate().map(group).collect()
}

/// Puts the pods one by one where the packer put them, as soon as each fits: there must be an order in which all do.
fn replay(cluster: &Cluster, packing: &Packing, packed: &Simulation<'_>) -> Result<(), TestCaseError> {
    let mut simulation = Simulation::new(cluster);
    simulation.templates.clone_from(&packed.templates);
    for &template in &packed.added {
        simulation.add(template);
    }
    let count = simulation.cluster().nodes().count() + packed.added.len() - packing.plan.nodes.len();
    let mut left: BTreeMap<PodId, NodeId> =
        packing.existing.iter().chain(&packing.plan.existing).copied().collect();
    for (at, node) in packing.plan.nodes.iter().enumerate() {
        left.extend(node.pods.iter().map(|&pod| (pod, NodeId::new(count + at))));
    }
    // Nodes that do not exist yet are no domains; those of the plan come one by one. With all of them there from the
    // start, spread is stricter, so only pods without it are asked to fit at some point.
    loop {
        let fitting: Vec<PodId> = left
            .iter()
            .filter(|(pod, node)| simulation.feasible(**pod, **node).is_ok())
            .map(|(&pod, _)| pod)
            .collect();
        let Some(&pod) = fitting.first() else { break };
        let node = left.remove(&pod).unwrap();
        simulation.put(pod, node).unwrap();
    }
    for (&pod, &node) in &left {
        let spread = cluster.spec_of(simulation.pod(pod)).is_some_and(|spec| !spec.spread.is_empty());
        let follows = cluster.spec_of(simulation.pod(pod)).is_some_and(|spec| !spec.affinity.is_empty());
        prop_assert!(spread || follows, "{} on {node:?}", simulation.pod_name(pod));
    }
    Ok(())
}

impl Simulation<'_> {
    /// What is free of everything on every node.
    fn free_of_all(&self) -> Vec<i64> {
        let resources = [Sym::CPU, Sym::MEMORY, Sym::PODS, Sym::EPHEMERAL_STORAGE];
        let nodes = (0..self.state.len()).map(NodeId::new);
        nodes.flat_map(|node| resources.map(|resource| self.free(node, resource))).collect()
    }
}
