//! The scheduling simulation against the real kube-scheduler, on random clusters.
//!
//! Each case (`schedule::cases`) is made in a cluster of its own turn: nodes, pods that run, volumes. Then its waiting pods
//! come one after the other, and for each the nodes that passed the filters of the scheduler must be those that the
//! simulation says, which knows the same objects, as the API server stored them. A pod that is placed stays for the next
//! ones; one that is not is taken away. That the cases would tell of a rule that the simulation had forgotten is tested beside it
//! (`schedule/tests/spoiled.rs`).
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `FERRIC_SCHEDULER_CASES` | how many cases | 60 |
//! | `FERRIC_SCHEDULER_FIRST` | the number of the first | 0 |
#![allow(clippy::unwrap_used)]

#[path = "scheduler_agreement/arena.rs"]
mod arena;
#[path = "scheduler_agreement/extender.rs"]
mod extender;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Instant;

use arena::{Arena, Verdict};
use ferric::autoscaling::schedule::cases::compared;
use ferric::autoscaling::schedule::{Cluster, Simulation};
use k8s_openapi::api::core::v1::Pod;

const CASES: u64 = 60;
/// So many are told of; the rest is counted.
const TOLD: usize = 5;

#[derive(Default)]
struct Tally {
    pods: usize,
    placed: usize,
    /// Pods and nodes that were asked about.
    pairs: usize,
    fits: usize,
    disagreements: Vec<String>,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What the simulation says of a pod and each node: nothing if it fits.
fn answers(cluster: &Cluster, pod: &Pod) -> BTreeMap<String, String> {
    let simulation = Simulation::new(cluster);
    let wanted =
        format!("{}/{}", pod.metadata.namespace.as_deref().unwrap(), pod.metadata.name.as_deref().unwrap());
    let (id, _) = simulation.pods().find(|(id, _)| simulation.pod_name(*id) == wanted).unwrap();
    let answer = |name: &str| {
        let found = simulation.feasible(id, simulation.node(name).unwrap());
        (name.to_owned(), found.map_or_else(|reason| reason.to_string(), |()| String::new()))
    };
    cluster.nodes().map(|(name, _)| answer(name)).collect()
}

impl Tally {
    fn compare(&mut self, seed: u64, answers: &BTreeMap<String, String>, verdict: &Verdict) {
        let fits: BTreeSet<&str> =
            answers.iter().filter(|(_, reason)| reason.is_empty()).map(|(name, _)| name.as_str()).collect();
        let passed: BTreeSet<&str> = verdict.nodes.iter().map(String::as_str).collect();
        self.pods += 1;
        self.placed += usize::from(verdict.chosen().is_some());
        self.pairs += answers.len();
        self.fits += fits.len();
        // A pod that was not placed passed no filter, and one that was is on a node that passed.
        let whole = match verdict.chosen() {
            Some(node) => passed.contains(node),
            None => passed.is_empty(),
        };
        if fits == passed && whole {
            return;
        }
        let mut text = format!("case {seed}: the scheduler {:?}, {}", verdict.chosen(), verdict.message);
        for (name, reason) in answers {
            let _ = write!(
                text,
                "\n  {name}: scheduler {}, simulation {}",
                if passed.contains(name.as_str()) { "yes" } else { "no" },
                if reason.is_empty() { "yes" } else { reason }
            );
        }
        let _ = write!(text, "\n  {}", serde_json::to_string(&verdict.pod).unwrap());
        self.disagreements.push(text);
    }
}

async fn play(arena: &mut Arena, seed: u64, tally: &mut Tally) {
    let case = compared(seed);
    let mut cluster = arena.set_up(&case).await;
    for pod in &case.waiting {
        let pod = arena.submit(pod).await;
        cluster.put_pod(&pod);
        let answers = answers(&cluster, &pod);
        let verdict = arena.verdict(&pod).await;
        tally.compare(seed, &answers, &verdict);
        if verdict.chosen().is_some() {
            cluster.put_pod(&verdict.pod);
        } else {
            arena.remove(&pod).await;
            cluster.remove_pod(
                pod.metadata.namespace.as_deref().unwrap(),
                pod.metadata.name.as_deref().unwrap(),
            );
        }
    }
    arena.clear(&case).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_simulation_says_what_the_scheduler_does() {
    let (first, cases) = (number("FERRIC_SCHEDULER_FIRST", 0), number("FERRIC_SCHEDULER_CASES", CASES));
    let mut arena = Arena::start(&compared(first).namespaces).await;
    let (begin, mut tally) = (Instant::now(), Tally::default());
    for seed in first..first + cases {
        play(&mut arena, seed, &mut tally).await;
    }
    let took = begin.elapsed().as_secs_f32();
    arena.stop().await;
    let Tally { pods, placed, pairs, fits, disagreements } = tally;
    println!(
        "{cases} cases from {first}: {pods} pods, {placed} of them placed; {pairs} questions about a pod and a node, \
         {fits} of them yes; {} pods judged differently; {took:.0} s",
        disagreements.len()
    );
    let told = disagreements.iter().take(TOLD).fold(String::new(), |text, one| text + one + "\n");
    assert!(disagreements.is_empty(), "{} pods judged differently:\n{told}", disagreements.len());
    // A generator whose pods all fit, or none, would show nothing.
    assert!(placed * 10 > pods && (pods - placed) * 10 > pods, "{placed} of {pods} pods were placed");
}
