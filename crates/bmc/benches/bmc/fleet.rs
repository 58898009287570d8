//! Many BMCs behind one pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric_bmc::{Bmc, BmcPool};
use futures::StreamExt;
use serde_json::json;

use crate::meter::Meter;
use crate::simulator::Simulator;
use crate::{Result, quantile};

/// Operations at once, as many as the manager has for its hosts.
const AT_ONCE: usize = 256;
/// The manager reads each host's power so often (`--power-poll-seconds`).
const POLL: Duration = Duration::from_secs(300);
/// How long the steady state is watched.
const WATCH: Duration = Duration::from_secs(120);

fn connect(pool: &BmcPool, simulator: &Simulator) -> Result<Vec<Arc<dyn Bmc>>> {
    simulator.bmcs()?.iter().map(|(name, options)| Ok(pool.get(name, options)?)).collect()
}

/// Probes all; how long each took, sorted, and how many failed.
async fn probe(bmcs: &[Arc<dyn Bmc>]) -> (Vec<f64>, usize) {
    let results: Vec<Option<f64>> = futures::stream::iter(bmcs)
        .map(|bmc| async move {
            let begun = Instant::now();
            match bmc.probe().await {
                Ok(_) => Some(begun.elapsed().as_secs_f64()),
                Err(error) => {
                    eprintln!("    {error}");
                    None
                }
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut seconds: Vec<f64> = results.iter().flatten().copied().collect();
    seconds.sort_by(f64::total_cmp);
    let failed = results.len() - seconds.len();
    (seconds, failed)
}

pub async fn cold(count: usize) -> Result<String> {
    let simulator = Simulator::start(count, false)?;
    simulator.faults(&json!({"bmcDelayMs": 100})).await?;
    let (pool, own) = (BmcPool::default(), Meter::new(std::process::id()));
    let bmcs = connect(&pool, &simulator)?;
    own.forget_peak()?;
    let (cpu, begun) = (own.cpu()?, Instant::now());
    let (seconds, failed) = probe(&bmcs).await;
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), own.cpu()? - cpu);
    let (requests, memory) = (pool.counters().snapshot().requests, own.memory()?);
    pool.close().await;
    Ok(format!(
        "Cold probe of {count} BMCs (TLS, login, system, manager, media), each answer after 100 ms, {AT_ONCE} at once: \
         **{wall:.1} s**, {failed} failed; a probe {:.2} s (p50), {:.2} s (p99); {:.1} requests each; {cpu:.1} CPU s and \
         at most {:.0} MB in this process.\n\n",
        quantile(&seconds, 0.5),
        quantile(&seconds, 0.99),
        requests as f64 / count as f64,
        memory.peak
    ))
}

pub async fn steady(count: usize) -> Result<String> {
    let simulator = Simulator::start(count, false)?;
    let (pool, own) = (BmcPool::default(), Meter::new(std::process::id()));
    let bmcs = connect(&pool, &simulator)?;
    let (_, failed) = probe(&bmcs).await;
    // Until connections that nobody needs are closed.
    tokio::time::sleep(Duration::from_secs(45)).await;
    let (requests, cpu, begun) =
        (pool.counters().snapshot().requests, own.cpu()?, tokio::time::Instant::now());
    let mut reads = tokio::task::JoinSet::new();
    // Spread over the time between two reads of one host, as the manager's jitter spreads them.
    for (number, bmc) in bmcs.iter().enumerate() {
        let due = begun + POLL.mul_f64(number as f64 / count as f64);
        if due < begun + WATCH {
            let bmc = Arc::clone(bmc);
            reads.spawn(async move {
                tokio::time::sleep_until(due).await;
                bmc.power().await.is_ok()
            });
        }
    }
    let good = reads.join_all().await.into_iter().filter(|good| *good).count();
    tokio::time::sleep_until(begun + WATCH).await;
    let minutes = WATCH.as_secs_f64() / 60.0;
    let requests = (pool.counters().snapshot().requests - requests) as f64 / minutes;
    let cpu = (own.cpu()? - cpu) / WATCH.as_secs_f64() * 100.0;
    let memory = own.memory()?.now;
    let simulator_memory = Meter::new(simulator.pid()).memory()?.now;
    pool.close().await;
    Ok(format!(
        "{count} BMCs held ({failed} of them failed their probe), the power of each read every {} s: **{requests:.0} requests \
         a minute**, **{memory:.0} MB** RSS, **{cpu:.1} %** of a core over {} s, {good} reads; the simulator has \
         {simulator_memory:.0} MB.\n\n",
        POLL.as_secs(),
        WATCH.as_secs()
    ))
}
