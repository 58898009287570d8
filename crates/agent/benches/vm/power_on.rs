//! From power-on to an agent that can be given tasks.

use std::{fmt::Write as _, path::Path, time::Duration};

use crate::{
    Result, bare,
    machine::{Firmware, Machine, Spec},
    net::Net,
    support::Provider,
};

/// What the kernel says goes to the serial port, with us and without.
const CONSOLE: &str = "console=ttyS0,115200";
const PATIENCE: Duration = Duration::from_secs(150);
const MEMORY_MIB: u32 = 1024;

/// Boots both ways in turn and adds a table.
pub async fn measure(net: &Net, folder: &Path, runs: usize, text: &mut String) -> Result<()> {
    let initramfs = bare::initramfs(folder)?;
    text.push_str(
        "| firmware | bare init, s | agent connected, s | ratio (aim ≤ 1.2) |\n|---|--:|--:|--:|\n",
    );
    for (firmware, name) in [(Firmware::Bios, "BIOS, PXE"), (Firmware::Uefi, "UEFI, PXE")] {
        let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..runs.max(1) {
            eprintln!("==> {name}, run {} of {runs}", run + 1);
            net.script("bare.img", Some(initramfs.clone()), CONSOLE);
            let machine =
                Machine::start(folder, &Spec { firmware, memory_mib: MEMORY_MIB, disk: None, direct: None })?;
            let up = machine.says(bare::LINE, PATIENCE).await;
            let up =
                up.ok_or_else(|| format!("{name}: the bare init did not come up:\n{}", machine.said()))?;
            drop(machine);

            let mut provider = Provider::start().await;
            let arguments = net.arguments(&provider).await?;
            net.script("initrd.img", None, &format!("{arguments} {CONSOLE}"));
            let machine =
                Machine::start(folder, &Spec { firmware, memory_mib: MEMORY_MIB, disk: None, direct: None })?;
            let session = provider.session_within(PATIENCE).await;
            let ready = machine.started.elapsed();
            session.ok_or_else(|| format!("{name}: the agent did not come:\n{}", machine.said()))?;
            let said = machine.said();
            drop(machine);
            let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("ferric-agent")).collect();
            eprintln!("    {}", lines.join("\n    "));
            let (up, ready) = (up.as_secs_f64(), ready.as_secs_f64());
            eprintln!("    bare {up:.1} s, agent {ready:.1} s");
            without.push(up);
            with.push(ready);
            ratios.push(ready / up);
        }
        let _ = writeln!(
            text,
            "| {name} | {} | {} | **{:.2}** |",
            spread(&mut without),
            spread(&mut with),
            median(&mut ratios)
        );
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().max(1) - 1) / 2).copied().unwrap_or(f64::NAN)
}

fn spread(values: &mut [f64]) -> String {
    let median = median(values);
    format!("{:.1} / {median:.1}", values.first().copied().unwrap_or(f64::NAN))
}
