//! Measures the scheduling simulation: `cargo bench --bench schedule`, described in `docs/benchmarks.md`. One core, no
//! cluster, nothing asserted.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `FERRIC_BENCH_PODS` | pods of the large cluster | 50000 |
//! | `FERRIC_BENCH_NODES` | its nodes | 1000 |
//! | `FERRIC_BENCH_OWNERS` | owners of the pods | 2000 |
//! | `FERRIC_BENCH_ROUNDS` | how often each is measured; the median is told | 5 |
//! | `FERRIC_BENCH_WRITE` | `1` writes the results into `docs/benchmarks.md` also when anything else is set | |

mod load;
#[path = "../shared/mod.rs"]
mod shared;

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ferric::autoscaling::schedule::model::Pod;
use ferric::autoscaling::schedule::symbols::Sym;
use ferric::autoscaling::schedule::{Cluster, DrainPolicy, Group, NodeId, ScaleDown, Simulation, pack};

const BEGIN: &str = "<!-- schedule results: written by `cargo bench --bench schedule` -->";
const END: &str = "<!-- end of schedule results -->";

struct Scale {
    pods: usize,
    nodes: usize,
    owners: usize,
    rounds: usize,
}

/// A line of the table.
struct Row {
    what: String,
    pods: usize,
    nodes: usize,
    time: Duration,
    note: String,
}

fn main() -> ExitCode {
    let number = |name: &str, default: usize| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse().ok())
            .filter(|&value| value > 0)
            .unwrap_or(default)
    };
    let changed = ["PODS", "NODES", "OWNERS", "ROUNDS"]
        .iter()
        .any(|name| std::env::var_os(format!("FERRIC_BENCH_{name}")).is_some());
    let scale = Scale {
        pods: number("FERRIC_BENCH_PODS", 50_000),
        nodes: number("FERRIC_BENCH_NODES", 1000),
        owners: number("FERRIC_BENCH_OWNERS", 2000),
        rounds: number("FERRIC_BENCH_ROUNDS", 5),
    };
    let text = text(&scale, &measure(&scale));
    println!("{text}");
    let write = !changed || std::env::var("FERRIC_BENCH_WRITE").is_ok_and(|value| value == "1");
    if write && let Err(error) = shared::save(Path::new(env!("CARGO_MANIFEST_DIR")), [BEGIN, END], &text) {
        eprintln!("bench: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The median of some runs, and what the last returned.
fn median<T>(rounds: usize, mut run: impl FnMut() -> T) -> (Duration, T) {
    let mut times = Vec::with_capacity(rounds);
    let mut timed = || {
        let begin = Instant::now();
        let result = run();
        times.push(begin.elapsed());
        result
    };
    let mut result = timed();
    for _ in 1..rounds {
        result = timed();
    }
    times.sort_unstable();
    (times[times.len() / 2], result)
}

fn measure(scale: &Scale) -> Vec<Row> {
    let mut rows = Vec::new();
    large(scale, &mut rows);
    for (what, owners, constraints, unlike) in [
        ("new nodes for pods without constraints", 500, false, false),
        ("new nodes for pods with mixed constraints", 500, true, false),
        ("new nodes, no two pods alike", 10_000, true, true),
    ] {
        rows.push(new_nodes(scale, what, owners, constraints, unlike));
    }
    rows
}

/// Pods placed on an empty cluster, then the decision about the full one.
fn large(scale: &Scale, rows: &mut Vec<Row>) {
    let each = scale.pods.div_ceil(scale.owners);
    let mut empty = Cluster::default();
    (0..scale.nodes).for_each(|at| empty.put_node(&load::node(at)));
    let (time, ()) = median(1, || {
        for at in 0..scale.owners {
            load::replicas(&mut empty, &load::owner(at, true, false), 0, each, &[]);
        }
    });
    let pods = each * scale.owners;
    rows.push(row("pods read from API objects", pods, scale.nodes, time, String::new()));

    let (time, (placed, places)) = median(scale.rounds, || {
        let mut simulation = Simulation::new(&empty);
        let waiting = simulation.waiting();
        let placed = simulation.settle(&waiting).existing.len();
        let places: Vec<Option<&str>> = simulation
            .pods()
            .map(|(pod, _)| simulation.place(pod).and_then(|node| simulation.node_name(node)))
            .collect();
        (placed, places)
    });
    rows.push(row(
        "all of them placed on nodes that are there",
        pods,
        scale.nodes,
        time,
        format!("{placed} fit"),
    ));

    // The same pods, running where they fitted; two of each owner of a tenth of the owners wait.
    let mut full = Cluster::default();
    (0..scale.nodes).for_each(|at| full.put_node(&load::node(at)));
    let before = resident();
    let simulation = Simulation::new(&empty);
    let mut on = std::collections::HashMap::new();
    for ((_, pod), place) in simulation.pods().zip(places) {
        let app = pod.name.split("-5d59").next().unwrap_or_default().to_owned();
        on.entry(app).or_insert_with(Vec::new).push(place);
    }
    for at in 0..scale.owners {
        let places = on.remove(&format!("app-{at}")).unwrap_or_default();
        let owner = load::owner(at, true, false);
        load::replicas(&mut full, &owner, 0, each, &places);
        if at % 10 == 0 {
            load::replicas(&mut full, &owner, each, 2, &[]);
        }
    }
    drop(simulation);
    let bytes = resident().saturating_sub(before);
    let groups = load::groups(&mut full, 100);

    let (built, _) = median(scale.rounds, || Simulation::new(&full).waiting().len());
    let (all, (existing, new, unplaced, gone)) = median(scale.rounds, || {
        let mut simulation = Simulation::new(&full);
        let waiting = simulation.waiting();
        let packing = pack(&mut simulation, &waiting, &groups);
        let names: Vec<_> = full.nodes().filter_map(|(name, _)| simulation.node(name)).collect();
        let mut pass = ScaleDown::new(&mut simulation, DrainPolicy::default(), &names);
        let gone = names.iter().filter(|&&node| pass.remove(node).is_ok()).count();
        (packing.existing.len(), packing.plan.nodes.len(), packing.plan.unplaced.len(), gone)
    });
    let note = format!(
        "{existing} waiting pods fit, {new} new nodes for others, {unplaced} fit nowhere; {gone} nodes could go; of the \
         time, {:.0} ms to compile; {:.0} MB for the pods",
        built.as_secs_f64() * 1e3,
        bytes as f64 / 1e6,
    );
    rows.push(row("one decision: up over 6 groups, down over all nodes", pods, scale.nodes, all, note));
}

fn new_nodes(scale: &Scale, what: &str, owners: usize, constraints: bool, unlike: bool) -> Row {
    let mut cluster = Cluster::default();
    let each = 10_000_usize.div_ceil(owners);
    for at in 0..owners {
        load::replicas(&mut cluster, &load::owner(at, constraints, unlike), 0, each, &[]);
    }
    let groups = load::groups(&mut cluster, 10_000);
    let (time, plan) = median(scale.rounds, || {
        let mut simulation = Simulation::new(&cluster);
        let waiting = simulation.waiting();
        simulation.plan(&waiting, &groups)
    });
    let note = format!(
        "{} nodes; {} by first-fit decreasing, at least {} by what the pods ask for; {} unplaced",
        plan.nodes.len(),
        first_fit_decreasing(&cluster, &groups),
        at_least(&cluster),
        plan.unplaced.len()
    );
    row(what, each * owners, 0, time, note)
}

/// How much a pod asks for.
fn asks(cluster: &Cluster, pod: &Pod, resource: Sym) -> i64 {
    let requests = cluster.spec_of(pod).map(|spec| &*spec.requests).unwrap_or_default();
    requests.iter().find(|(name, _)| *name == resource).map_or(0, |&(_, amount)| amount)
}

/// Fewer nodes cannot hold the pods: their sum of each resource, by what a node has.
fn at_least(cluster: &Cluster) -> usize {
    let sum = |resource| -> i64 { cluster.pods().map(|pod| asks(cluster, pod, resource)).sum() };
    let pods = i64::try_from(cluster.pods().count()).unwrap_or(i64::MAX);
    [(sum(Sym::CPU), load::CPU), (sum(Sym::MEMORY), load::MEMORY), (pods, load::PODS)]
        .map(|(sum, room)| usize::try_from((sum + room - 1) / room).unwrap_or(0))
        .into_iter()
        .max()
        .unwrap_or(0)
}

/// The baseline: every pod, the largest first, on the first new node that takes it, or on one more of the group that has
/// fewest. How many nodes.
fn first_fit_decreasing(cluster: &Cluster, groups: &[Group]) -> usize {
    let mut simulation = Simulation::new(cluster);
    let mut pods = simulation.waiting();
    // The largest share of a node, in 2⁻²⁰.
    let size = |pod: &Pod| {
        let share = |resource, room| (asks(cluster, pod, resource) << 20) / room;
        share(Sym::CPU, load::CPU).max(share(Sym::MEMORY, load::MEMORY))
    };
    pods.sort_by_cached_key(|&pod| (Reverse(size(simulation.pod(pod))), pod));
    let mut nodes: Vec<NodeId> = Vec::new();
    let mut planned = vec![0; groups.len()];
    for pod in pods {
        if nodes.iter().any(|&node| simulation.put(pod, node).is_ok()) {
            continue;
        }
        let mut order: Vec<usize> = (0..groups.len()).collect();
        order.sort_by_key(|&at| planned[at]);
        for at in order {
            let mark = simulation.mark();
            let new = simulation.expect(&Group { in_flight: 1, ..groups[at].clone() });
            if new.iter().any(|&node| simulation.put(pod, node).is_ok()) {
                planned[at] += 1;
                nodes.extend(new);
                break;
            }
            simulation.rollback(mark);
        }
    }
    nodes.len()
}

fn row(what: &str, pods: usize, nodes: usize, time: Duration, note: String) -> Row {
    eprintln!("==> {what}: {time:.2?}");
    Row { what: what.to_owned(), pods, nodes, time, note }
}

/// Bytes of memory of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn text(scale: &Scale, rows: &[Row]) -> String {
    let mut text = format!(
        "{}; load {}; median of {} runs on one core.\n\n| what | pods | nodes | ms | pods/s | |\n|---|---|---|---|---|---|\n",
        shared::machine(""),
        shared::load(),
        scale.rounds,
    );
    for Row { what, pods, nodes, time, note } in rows {
        let seconds = time.as_secs_f64();
        let rate = *pods as f64 / seconds;
        // Writing into a String does not fail.
        let _ = writeln!(text, "| {what} | {pods} | {nodes} | {:.0} | {rate:.0} | {note} |", seconds * 1e3);
    }
    text
}
