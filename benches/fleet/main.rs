//! Measures the manager against a simulated fleet: `make bench`, described in `docs/benchmarks.md`.
//!
//! Real etcd and kube-apiserver, real Redfish over TLS; manager, simulator and image server are processes of their own,
//! and the manager runs on the token of its ServiceAccount. What is counted is read beside the manager: requests from
//! the audit log, memory and CPU from `/proc`, states through a watch as an administrator.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `FERRIC_BENCH_HOSTS` | hosts of all scenarios but `many` | 1000 |
//! | `FERRIC_BENCH_MANY` | hosts of the scenario `many` | 10000 |
//! | `FERRIC_BENCH_STEADY_SECONDS` | how long the steady state is watched | 120 |
//! | `FERRIC_BENCH_SCENARIOS` | some of `hand,machines,many` | all |
//! | `FERRIC_BENCH_SPEED` | `--speed` of the simulator: `none`, `fast` or `real` | `none` |
//! | `FERRIC_BENCH_WRITE` | `1` writes the results into `docs/benchmarks.md` also when anything else is set | |
//!
//! The manager's own variables (`FERRIC_MAX_BOOTS_IN_FLIGHT` …) reach it; `FERRIC_BIN` and `FERRIC_SIM_BIN` name other
//! programs.

mod audit;
mod image;
#[path = "../shared/meter.rs"]
mod meter;
mod objects;
mod report;
mod scenario;
#[path = "../shared/mod.rs"]
mod shared;
mod watch;

use std::process::ExitCode;

use report::Phase;
use scenario::{Scale, Scenario};

/// Anything that can go wrong; a bench just says it.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, file, port] = arguments.as_slice()
        && first == image::ARGUMENT
    {
        return ended(image::serve(file, port));
    }
    // `cargo bench` passes --bench, and a name to filter by.
    ended(tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|runtime| runtime.block_on(run())))
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let scale = Scale::from_environment()?;
    let mut phases: Vec<Phase> = Vec::new();
    for scenario in &scale.scenarios {
        eprintln!("==> {}", scenario.title());
        phases.extend(match scenario {
            Scenario::Hand => scenario::by_hand(&scale).await?,
            Scenario::Machines => scenario::through_machines(&scale).await?,
            Scenario::Many => scenario::many(&scale).await?,
        });
    }
    let text = report::text(&scale, &phases);
    println!("{text}");
    if scale.complete || std::env::var("FERRIC_BENCH_WRITE").is_ok_and(|value| value == "1") {
        report::save(&text)?;
    }
    Ok(())
}
