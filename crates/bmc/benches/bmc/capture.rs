//! The inspection of captured trees, beside `sushy`.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use ferric_bmc::BmcPool;

use crate::{Result, quantile};

#[path = "../../tests/common/mod.rs"]
mod common;
#[allow(clippy::unwrap_used, reason = "made for tests")]
#[path = "../../../../tests/shared/python.rs"]
mod python;

const SUSHY: &str = "5.14.0";
/// Inspections of each kind.
const RUNS: usize = 9;

pub async fn compare() -> Result<String> {
    let python = match tokio::task::spawn_blocking(|| python::with("sushy", SUSHY)).await? {
        Ok(python) => python,
        Err(error) => return Ok(format!("Inspection beside sushy: not measured, {error}.\n")),
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/bmc/inspect_by_sushy.py");
    let mut text = format!(
        "Inspection of a captured tree on loopback, plain HTTP, {RUNS} of each in turns, the first connection and login \
         included; `sushy` {SUSHY} reads system, processors, memory, network interfaces and drives, its own start not \
         counted:\n\n| tree | ours, ms (p50) | requests | sushy, ms (p50) | requests |\n|---|--:|--:|--:|--:|\n"
    );
    for vendor in ["dell", "hpe", "lenovo", "supermicro"] {
        let Some(tree) = common::trees::tree(vendor) else { continue };
        let fake = common::Fake::start(tree).await;
        let [mut ours, mut theirs] = [const { Vec::new() }; 2];
        let [mut our_requests, mut their_requests] = [0; 2];
        for _ in 0..RUNS {
            fake.take_log();
            let begun = Instant::now();
            let pool = BmcPool::default();
            pool.get("host", &fake.options(""))?.inspect().await?;
            pool.close().await;
            ours.push(begun.elapsed().as_secs_f64() * 1e3);
            our_requests = fake.take_log().len();
            let mut sushy = Command::new(&python);
            sushy.arg(&script).arg(format!("http://{}", fake.address));
            let output = tokio::task::spawn_blocking(move || sushy.output()).await??;
            if !output.status.success() {
                return Err(
                    format!("sushy with {vendor}: {}", String::from_utf8_lossy(&output.stderr)).into()
                );
            }
            theirs.push(String::from_utf8_lossy(&output.stdout).trim().parse::<f64>()?);
            their_requests = fake.take_log().len();
        }
        ours.sort_by(f64::total_cmp);
        theirs.sort_by(f64::total_cmp);
        text += &format!(
            "| {vendor} | {:.0} | {our_requests} | {:.0} | {their_requests} |\n",
            quantile(&ours, 0.5),
            quantile(&theirs, 0.5)
        );
    }
    Ok(text)
}
