//! Measures the BMC drivers: `make bench-bmc`, described in `docs/benchmarks.md`.
//!
//! Many simulated BMCs (a process of their own) behind one pool; IPMI beside `ipmitool`; the inspection of a captured tree
//! beside `sushy`. Who is compared is measured in turns, in one run.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `FERRIC_SIM_BIN` | the simulator | `target/release/ferric-sim` |
//! | `FERRIC_BENCH_BMCS` | BMCs that are probed cold, at 100 ms latency | 1000 |
//! | `FERRIC_BENCH_MANY` | BMCs of the steady state | 10000 |
//! | `FERRIC_BENCH_READS` | power reads of IPMI, of each kind | 200 |
//! | `FERRIC_BENCH_WRITE` | `1` writes the results into `docs/benchmarks.md` also when anything else is set | |

mod capture;
mod fleet;
mod ipmi;
#[path = "../../../../benches/shared/meter.rs"]
mod meter;
#[path = "../../../../benches/shared/mod.rs"]
mod shared;
mod simulator;

use std::path::Path;
use std::process::ExitCode;

/// The manager's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Anything that can go wrong; a bench just says it.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

const MARKS: [&str; 2] = ["<!-- bmc results: written by `make bench-bmc` -->", "<!-- end of bmc results -->"];

/// A number from the environment.
fn number(name: &str, default: usize) -> Result<(usize, bool)> {
    match std::env::var(name) {
        Ok(text) => Ok((text.parse().map_err(|error| format!("{name}={text}: {error}"))?, false)),
        Err(_) => Ok((default, true)),
    }
}

/// The value below which this share of all lies; the list is sorted.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn main() -> ExitCode {
    match tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|runtime| runtime.block_on(run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    // For the client of the simulator's control API, which is plain HTTP; the drivers bring their own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (cold, a) = number("FERRIC_BENCH_BMCS", 1000)?;
    let (many, b) = number("FERRIC_BENCH_MANY", 10_000)?;
    let (reads, c) = number("FERRIC_BENCH_READS", 200)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut text = format!(
        "Measured on {}. Load average before: {}.\n\n",
        shared::machine(" (simulator and drivers together)"),
        shared::load()
    );
    eprintln!("==> {cold} BMCs, probed cold");
    text += &fleet::cold(cold).await?;
    eprintln!("==> {many} BMCs at rest, two minutes");
    text += &fleet::steady(many).await?;
    eprintln!("==> IPMI");
    text += &ipmi::compare(reads).await?;
    eprintln!("==> inspection of captured trees");
    text += &capture::compare().await?;
    text += &format!("\nLoad average after: {}.\n", shared::load());
    println!("{text}");
    if (a && b && c) || std::env::var("FERRIC_BENCH_WRITE").is_ok_and(|value| value == "1") {
        shared::save(&root, MARKS, &text)?;
    }
    Ok(())
}
