//! The table.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::audit::Requests;
use crate::meter::Memory;
use crate::scenario::Scale;
use crate::shared;

const BEGIN: &str = "<!-- results: written by `make bench` -->";
const END: &str = "<!-- end of results -->";

/// What a phase should not exceed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Aims {
    pub seconds: Option<f64>,
    /// Requests for one host.
    pub requests: Option<f64>,
    /// MB, at the peak.
    pub rss: Option<f64>,
    /// Per cent of one core.
    pub cpu_share: Option<f64>,
}

/// What was measured.
pub struct Phase {
    pub name: String,
    pub hosts: usize,
    pub wall: Duration,
    pub requests: Requests,
    pub refused: Requests,
    /// CPU seconds of the manager.
    pub cpu: f64,
    /// Memory of the manager; the peak is that of the phase.
    pub memory: Memory,
    pub simulator_cpu: f64,
    pub plane_cpu: f64,
    /// Nothing was asked for in it.
    pub at_rest: bool,
    pub aims: Aims,
}

/// The lease and what begins a watch are there however many hosts there are.
fn counts(name: &str) -> bool {
    !name.ends_with(" leases") && !name.starts_with("watch ")
}

fn is_write(name: &str) -> bool {
    !["get ", "list ", "watch "].iter().any(|verb| name.starts_with(verb))
}

impl Phase {
    /// Requests for one host, without lease and watches.
    fn per_host(&self) -> f64 {
        let all: u64 = self.requests.iter().filter(|(name, _)| counts(name)).map(|(_, count)| count).sum();
        all as f64 / self.hosts as f64
    }

    fn share(&self) -> f64 {
        100.0 * self.cpu / self.wall.as_secs_f64()
    }

    /// For people who wait.
    pub fn line(&self) -> String {
        let mut text = format!(
            "    {}: {} hosts, {:.1} s, {:.2} requests a host, manager {:.1} CPU s, RSS {:.1} MB (peak {:.1})",
            self.name,
            self.hosts,
            self.wall.as_secs_f64(),
            self.per_host(),
            self.cpu,
            self.memory.now,
            self.memory.peak,
        );
        let _ = write!(
            text,
            "; simulator {:.1}, etcd and apiserver {:.1} CPU s",
            self.simulator_cpu, self.plane_cpu
        );
        for (name, count) in &self.requests {
            let _ = write!(text, "\n      {:8.3}  {name}", *count as f64 / self.hosts as f64);
        }
        for (name, count) in &self.refused {
            let _ = write!(text, "\n      refused {name}: {count}");
        }
        text
    }
}

fn against(measured: f64, aim: Option<f64>) -> String {
    let digits = if measured < 10.0 { 2 } else { 1 };
    match aim {
        None => format!("{measured:.digits$}"),
        Some(aim) if measured <= aim => format!("{measured:.digits$} (≤ {aim})"),
        Some(aim) => format!("**{measured:.digits$}** (aim ≤ {aim}: missed)"),
    }
}

/// The results, as Markdown.
pub fn text(scale: &Scale, phases: &[Phase]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "Measured on {}, simulator with `--speed {}`.\n",
        shared::machine(" (for manager, simulator, etcd, apiserver and bench together)"),
        scale.speed
    );
    text += "| phase | hosts | wall s | requests a host | manager CPU s | RSS MB, peak | RSS MB, end | simulator CPU s | \
             etcd and apiserver CPU s |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for phase in phases {
        let share = || against(phase.share(), phase.aims.cpu_share);
        let cpu = match phase.at_rest {
            false => format!("{:.1}", phase.cpu),
            true => format!("{:.2}, in per cent of a core: {}", phase.cpu, share()),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {cpu} | {} | {:.1} | {:.1} | {:.1} |",
            phase.name,
            phase.hosts,
            against(phase.wall.as_secs_f64(), phase.aims.seconds),
            against(phase.per_host(), phase.aims.requests),
            against(phase.memory.peak, phase.aims.rss),
            phase.memory.now,
            phase.simulator_cpu,
            phase.plane_cpu,
        );
    }
    for pair in phases.windows(2).filter(|pair| pair[1].name.starts_with("provision")) {
        let cpu = pair[0].cpu + pair[1].cpu;
        let _ = writeln!(
            text,
            "\n“{}” and “{}” together: {} CPU s, {} MB at the peak.",
            pair[0].name,
            pair[1].name,
            against(cpu, Some(15.0)),
            against(pair[0].memory.peak.max(pair[1].memory.peak), Some(54.0)),
        );
    }
    text += "\nRequests of the manager a host, by verb and resource:\n";
    for phase in phases {
        let _ = writeln!(text, "\n*{}, {} hosts*\n", phase.name, phase.hosts);
        text += "| request | a host | all |\n|---|--:|--:|\n";
        for (name, count) in &phase.requests {
            let _ = writeln!(text, "| {name} | {:.3} | {count} |", *count as f64 / phase.hosts as f64);
        }
        if phase.at_rest {
            let writes: u64 = phase
                .requests
                .iter()
                .filter(|(name, _)| is_write(name) && counts(name))
                .map(|(_, count)| count)
                .sum();
            let _ = writeln!(text, "\nWrites other than of the lease: {writes}.");
        }
        let refused: Vec<String> =
            phase.refused.iter().map(|(name, count)| format!("{count} × {name}")).collect();
        if !refused.is_empty() {
            let _ = writeln!(text, "\nAnswered with an error: {}.", refused.join(", "));
        }
    }
    text
}

/// Puts the results into their place in `docs/benchmarks.md`.
pub fn save(text: &str) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(shared::save(root, [BEGIN, END], text)?)
}
