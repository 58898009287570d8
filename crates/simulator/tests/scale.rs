//! A thousand servers in one process: every BMC answers, and an idle server costs little.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use ferric_simulator::{Delays, DiskMode, Fleet, FleetConfig};

const SERVERS: usize = 1000;

/// Resident memory of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_bmcs_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = FleetConfig::new(SERVERS, folder.path());
    config.base_address = [127, 76, 0, 1].into();
    config.disks = DiskMode::Counting;
    config.delays = Delays::none();
    config.racks = 25;
    let before = resident();
    let fleet = Fleet::start(config).await.unwrap();
    let started = resident();

    let client = common::client(&fleet);
    let begin = Instant::now();
    for batch in fleet.servers().cloned().collect::<Vec<_>>().chunks(50) {
        let mut asked = tokio::task::JoinSet::new();
        for spec in batch {
            let request = client
                .get(format!("{}/redfish/v1/Systems/1", fleet.bmc_url(spec)))
                .basic_auth(&spec.username, Some(&spec.password));
            let uuid = spec.uuid.to_string();
            asked.spawn(async move {
                let answer = request.send().await.unwrap().bytes().await.unwrap();
                let system: serde_json::Value = serde_json::from_slice(&answer).unwrap();
                assert_eq!(system["UUID"], uuid.as_str());
            });
        }
        while let Some(outcome) = asked.join_next().await {
            outcome.unwrap();
        }
    }
    let took = begin.elapsed();
    drop(client);
    let idle = (started.saturating_sub(before)) as f64 / SERVERS as f64 / 1024.0;
    let asked = (resident().saturating_sub(before)) as f64 / SERVERS as f64 / 1024.0;
    println!(
        "{SERVERS} BMCs answered in {took:?}; {idle:.1} KiB a server before, {asked:.1} KiB after (client included)"
    );
    for spec in fleet.servers() {
        assert_eq!(fleet.status(&spec.name).unwrap().counters.reads, 1);
    }
    fleet.stop().await;
}
