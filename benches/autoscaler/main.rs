//! Measures the autoscaler at rest: `make bench-autoscaler`, described in `docs/benchmarks.md`. The manager, a process of its
//! own with its defaults, watches a workload cluster of a real API server, and decides about its groups every ten seconds;
//! nothing waits and no node can go. Memory and CPU are read from `/proc`. Nothing is asserted.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `FERRIC_BENCH_PODS` | pods of the workload cluster | 50000 |
//! | `FERRIC_BENCH_NODES` | its nodes | 1000 |
//! | `FERRIC_BENCH_GROUPS` | node groups that they are divided among | 100 |
//! | `FERRIC_BENCH_STEADY_SECONDS` | how long it is watched | 120 |
//! | `FERRIC_BENCH_WRITE` | `1` writes the results into `docs/benchmarks.md` also when anything else is set | |

#[path = "../shared/meter.rs"]
mod meter;
mod objects;
#[path = "../shared/mod.rs"]
mod shared;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ferric_testbed::stack::Stack;
use ferric_testbed::{Bed, wait_until};
use meter::Meter;
use objects::Scale;

/// Anything that can go wrong; a bench just says it.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

const BEGIN: &str = "<!-- autoscaler results: written by `make bench-autoscaler` -->";
const END: &str = "<!-- end of autoscaler results -->";
/// What is waited for may take so long.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let number = |name: &str, default: usize| match std::env::var(format!("FERRIC_BENCH_{name}")) {
        Ok(value) => value.parse().map_err(|error| format!("FERRIC_BENCH_{name}: {error}")),
        Err(_) => Ok(default),
    };
    let names = ["PODS", "NODES", "GROUPS", "STEADY_SECONDS"];
    let changed = names.iter().any(|name| std::env::var_os(format!("FERRIC_BENCH_{name}")).is_some());
    let scale = Scale {
        pods: number("PODS", 50_000)?,
        nodes: number("NODES", 1000)?,
        groups: number("GROUPS", 100)?,
    };
    let steady = Duration::from_secs(number("STEADY_SECONDS", 120)? as u64);
    let text = measure(&scale, steady).await?;
    println!("{text}");
    if !changed || std::env::var("FERRIC_BENCH_WRITE").is_ok_and(|value| value == "1") {
        shared::save(Path::new(env!("CARGO_MANIFEST_DIR")), [BEGIN, END], &text)?;
    }
    Ok(())
}

/// What the manager has done and holds.
struct Look {
    cpu: f64,
    rounds: f64,
    seconds: f64,
}

async fn look(stack: &Stack, meter: Meter) -> Result<Look> {
    let page = stack.manager.metrics().await?;
    let number = |what: &str| {
        let line =
            format!("ferric_reconcile_duration_seconds_{what}{{controller=\"autoscaler\",result=\"done\"}} ");
        page.lines().find_map(|text| text.strip_prefix(&line)?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    Ok(Look { cpu: meter.cpu()?, rounds: number("count"), seconds: number("sum") })
}

async fn measure(scale: &Scale, steady: Duration) -> Result<String> {
    let stack = Stack::builder()
        .fleet(1, 1)
        .without_hosts()
        .manager_flag("leader-elect", "true")
        .manager_flag("log-level", "info")
        .start()
        .await?;
    // A controller manager would take nodes without a kubelet for lost.
    let workload = Bed::builder().name("prod").without_admission(objects::PLUGINS).start().await?;
    let meter = Meter::new(stack.manager.pid());
    let alone = meter.memory()?;
    eprintln!("==> making {} nodes and {} pods", scale.nodes, scale.pods);
    objects::workload(&workload.client(), scale).await?;
    eprintln!("==> making {} groups", scale.groups);
    let kubeconfig = std::fs::read_to_string(workload.kubeconfig())?;
    objects::management(&stack.bed.client(), scale, &kubeconfig).await?;
    wait_until("every group to be judged", LIMIT, async || {
        let judged = objects::judged(&stack.bed.client()).await.map_err(|error| error.to_string())?;
        if judged == scale.groups { Ok(()) } else { Err(format!("{judged} of {}", scale.groups)) }
    })
    .await?;
    // What was written at first is not rest.
    let rounds = look(&stack, meter).await?.rounds + 2.0;
    wait_until("two rounds more", LIMIT, async || {
        let now = look(&stack, meter).await.map_err(|error| error.to_string())?.rounds;
        if now >= rounds { Ok(()) } else { Err(format!("{now} of {rounds}")) }
    })
    .await?;

    meter.forget_peak()?;
    let before = look(&stack, meter).await?;
    tokio::time::sleep(steady).await;
    let after = look(&stack, meter).await?;
    let memory = meter.memory()?;
    let judged = objects::judged(&stack.bed.client()).await?;
    let changed = objects::changed(&stack.bed.client(), scale).await?;
    let rounds = after.rounds - before.rounds;
    let text = format!(
        "{}; load {} at the end. {} groups ({judged} of them active), {} nodes, {} pods, {:.0} s, a decision about all groups every \
         10 s: {rounds} of them, **{:.0} ms** each from the first look to the last word (API calls among it), **{:.2} %** of a \
         core for the whole manager (aim for the evaluation: ≤ 1 %). RSS **{:.0} MB**, {:.0} MB at the peak; {:.0} MB before there \
         was anything. Numbers of replicas changed meanwhile: {changed}.",
        shared::machine(" (for manager, two API servers, etcd and bench together)"),
        shared::load(),
        scale.groups,
        scale.nodes,
        scale.pods,
        steady.as_secs_f64(),
        1e3 * (after.seconds - before.seconds) / rounds,
        100.0 * (after.cpu - before.cpu) / steady.as_secs_f64(),
        memory.now,
        memory.peak,
        alone.now,
    );
    workload.stop().await;
    stack.stop().await;
    Ok(text)
}
