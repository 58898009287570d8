//! The power read by IPMI, beside `ipmitool`.

use std::process::Command;
use std::time::Instant;

use ferric_bmc::{BmcPool, ConnectOptions};

use crate::simulator::Simulator;
use crate::{Failure, Result, quantile};

const IPMITOOL: &str = "/usr/bin/ipmitool";

pub async fn compare(reads: usize) -> Result<String> {
    let simulator = Simulator::start(1, true)?;
    let (_, redfish) = simulator.bmcs()?.remove(0);
    let (host, port) = (
        redfish.address.host().to_owned(),
        simulator.ipmi_port.ok_or("the simulator names no port of IPMI")?,
    );
    let address = format!("ipmi://{host}:{port}?ciphersuite=17").parse()?;
    let options = ConnectOptions { address, ..redfish };
    let credentials = options.credentials.clone().ok_or("the BMC has no user")?;
    let kept = BmcPool::default();
    let bmc = kept.get("kept", &options)?;
    bmc.power().await?;
    let [mut warm, mut cold, mut tool] = [const { Vec::new() }; 3];
    for _ in 0..reads {
        let begun = Instant::now();
        bmc.power().await?;
        warm.push(begun.elapsed().as_secs_f64() * 1e3);

        let begun = Instant::now();
        let pool = BmcPool::default();
        pool.get("new", &options)?.power().await?;
        pool.close().await;
        cold.push(begun.elapsed().as_secs_f64() * 1e3);

        let mut ipmitool = Command::new(IPMITOOL);
        ipmitool.args(["-I", "lanplus", "-C", "17", "-H", &host, "-p", &port.to_string()]);
        ipmitool.args([
            "-U",
            &credentials.username,
            "-P",
            &credentials.password,
            "chassis",
            "power",
            "status",
        ]);
        let begun = Instant::now();
        let output = tokio::task::spawn_blocking(move || ipmitool.output()).await?;
        let output = output.map_err(|error| format!("{IPMITOOL}: {error}; apt-get install ipmitool"))?;
        tool.push(begun.elapsed().as_secs_f64() * 1e3);
        if !output.status.success() {
            return Err(Failure::from(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
    }
    kept.close().await;
    let row = |name: &str, times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        format!("| {name} | {:.2} | {:.2} |\n", quantile(times, 0.5), quantile(times, 0.99))
    };
    Ok(format!(
        "Power read by IPMI, suite 17, {reads} of each in turns, from the simulator on loopback:\n\n\
         | | p50, ms | p99, ms |\n|---|--:|--:|\n{}{}{}\n",
        row("ours, session held", &mut warm),
        row("ours, with login and logout", &mut cold),
        row("`ipmitool`, a process with login and logout", &mut tool)
    ))
}
