//! The comparison with the real kube-scheduler can fail: a simulation that had forgotten a rule would answer otherwise about a
//! pod and a node of its cases. The simulation is made to forget by taking what the rule is about out of what it sees.
//!
//! One rule is in none of them: `nodeTaintsPolicy` of a spread, which changes no answer. `filters` has tests of it.

use k8s_openapi::api::core::v1::{Container, Node, PodSpec, Taint, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rstest::rstest;

use super::super::cases::{Case, compared};
use super::*;

/// As many as `make test-autoscaler` compares.
const CASES: u64 = 520;

/// One pod that waits, what is there when its turn comes, and on which nodes it fits.
struct Turn {
    case: Case,
    fits: Vec<bool>,
}

/// Whether the pod that waits fits on each node, in the order of their names.
fn fits(case: &Case) -> Vec<bool> {
    let cluster = case.cluster();
    let simulation = Simulation::new(&cluster);
    let pod = simulation.waiting()[0];
    let node = |name: &str| simulation.node(name).unwrap();
    cluster.nodes().map(|(name, _)| simulation.feasible(pod, node(name)).is_ok()).collect()
}

/// The turns of a case: one pod after the other. Where the scheduler would have a choice, it takes the first.
fn turns(seed: u64) -> Vec<Turn> {
    let mut turns = Vec::new();
    let mut case = compared(seed);
    for mut pod in std::mem::take(&mut case.waiting) {
        let turn = Case { waiting: vec![pod.clone()], ..case.clone() };
        let fits = fits(&turn);
        if let Some(at) = fits.iter().position(|fits| *fits) {
            let cluster = turn.cluster();
            pod.spec.as_mut().unwrap().node_name = cluster.nodes().nth(at).map(|(name, _)| name.to_owned());
            case.bound.push(pod);
        }
        turns.push(Turn { case: turn, fits });
    }
    turns
}

fn nodes(case: &mut Case, change: impl Fn(&mut Node)) {
    case.nodes.iter_mut().for_each(change);
}

fn taints(case: &mut Case, forgotten: impl Fn(&Taint) -> bool) {
    nodes(case, |node| {
        node.spec.as_mut().unwrap().taints.iter_mut().flatten().for_each(|taint| {
            if forgotten(taint) {
                taint.effect = "PreferNoSchedule".to_owned();
            }
        })
    });
}

fn plenty(case: &mut Case, resource: &str) {
    nodes(case, |node| {
        let allocatable = node.status.as_mut().unwrap().allocatable.as_mut().unwrap();
        allocatable.insert(resource.to_owned(), Quantity("1000000Gi".to_owned()));
    });
}

/// The pod that waits.
fn asked(case: &mut Case, change: impl Fn(&mut PodSpec)) {
    case.waiting.iter_mut().for_each(|pod| change(pod.spec.as_mut().unwrap()));
}

/// Pods that run.
fn others(case: &mut Case, change: impl Fn(&mut PodSpec)) {
    case.bound.iter_mut().for_each(|pod| change(pod.spec.as_mut().unwrap()));
}

fn spreads(case: &mut Case, change: impl Fn(&mut TopologySpreadConstraint)) {
    asked(case, |spec| spec.topology_spread_constraints.iter_mut().flatten().for_each(&change));
}

fn tolerations(case: &mut Case, change: impl Fn(&mut Toleration)) {
    asked(case, |spec| spec.tolerations.iter_mut().flatten().for_each(&change));
}

fn containers(spec: &mut PodSpec, change: impl Fn(&mut Container)) {
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(change);
}

fn no_anti_affinity(spec: &mut PodSpec) {
    spec.affinity.iter_mut().for_each(|affinity| affinity.pod_anti_affinity = None);
}

#[rstest]
#[case::cordon(|case: &mut Case| nodes(case, |node| node.spec.as_mut().unwrap().unschedulable = None))]
#[case::taints(|case: &mut Case| taints(case, |taint| taint.effect == "NoSchedule"))]
#[case::taints_that_evict(|case: &mut Case| taints(case, |taint| taint.effect == "NoExecute"))]
#[case::tolerations(|case: &mut Case| asked(case, |spec| spec.tolerations = None))]
#[case::value_of_a_toleration(|case: &mut Case| tolerations(case, |one| {
    if one.key.is_some() {
        (one.operator, one.value) = (Some("Exists".to_owned()), None);
    }
}))]
#[case::node_selector(|case: &mut Case| asked(case, |spec| spec.node_selector = None))]
#[case::node_affinity(|case: &mut Case| asked(case, |spec| {
    spec.affinity.iter_mut().for_each(|affinity| affinity.node_affinity = None);
}))]
#[case::host_ports(|case: &mut Case| asked(case, |spec| containers(spec, |container| container.ports = None)))]
#[case::processors(|case: &mut Case| plenty(case, "cpu"))]
#[case::memory(|case: &mut Case| plenty(case, "memory"))]
#[case::disk(|case: &mut Case| plenty(case, "ephemeral-storage"))]
#[case::gpus(|case: &mut Case| plenty(case, "nvidia.com/gpu"))]
#[case::number_of_pods(|case: &mut Case| plenty(case, "pods"))]
#[case::init_containers(|case: &mut Case| asked(case, |spec| spec.init_containers = None))]
#[case::init_containers_of_others(|case: &mut Case| others(case, |spec| spec.init_containers = None))]
#[case::volumes(|case: &mut Case| asked(case, |spec| spec.volumes = None))]
#[case::spread(|case: &mut Case| asked(case, |spec| spec.topology_spread_constraints = None))]
#[case::how_uneven(|case: &mut Case| spreads(case, |one| one.max_skew += 1))]
#[case::how_many_domains(|case: &mut Case| spreads(case, |one| one.min_domains = None))]
#[case::spread_among_which_nodes(|case: &mut Case| spreads(case, |one| {
    one.node_affinity_policy = match one.node_affinity_policy.as_deref() {
        Some("Ignore") => None,
        _ => Some("Ignore".to_owned()),
    };
}))]
#[case::spread_of_which_pods(|case: &mut Case| spreads(case, |one| one.match_label_keys = None))]
#[case::pod_affinity(|case: &mut Case| asked(case, |spec| {
    spec.affinity.iter_mut().for_each(|affinity| affinity.pod_affinity = None);
}))]
#[case::pod_anti_affinity(|case: &mut Case| asked(case, no_anti_affinity))]
#[case::pod_anti_affinity_of_others(|case: &mut Case| others(case, no_anti_affinity))]
fn a_rule_that_is_forgotten_is_missed(#[case] forget: fn(&mut Case)) {
    let misses = |turn: Turn| {
        let Turn { mut case, fits: whole } = turn;
        forget(&mut case);
        fits(&case) != whole
    };
    let first = (0..CASES).find(|seed| turns(*seed).into_iter().any(misses));
    println!("missed first in case {first:?}");
    assert!(first.is_some(), "no answer is another: the cases say nothing of the rule");
}

#[test]
fn what_is_whole_answers_the_same() {
    let turns: Vec<Turn> = (0..60).flat_map(turns).collect();
    assert!(turns.iter().all(|turn| fits(&turn.case.clone()) == turn.fits));
    // Nor would it be of use if all said the same.
    let answers: Vec<bool> = turns.iter().flat_map(|turn| turn.fits.clone()).collect();
    let yes = answers.iter().filter(|yes| **yes).count();
    assert!(
        yes * 10 > answers.len() && (answers.len() - yes) * 10 > answers.len(),
        "{yes} of {}",
        answers.len()
    );
}
