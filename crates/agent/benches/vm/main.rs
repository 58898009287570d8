//! Measures the agent on virtual machines: `make bench-lab`, described in `docs/benchmarks.md`.
//!
//! How long from power-on until the agent of `make agent-image` has a session with a provider, by BIOS and UEFI over the
//! network, against the same kernel with an init that prints one line; and with how little memory a machine can be
//! written. The machines are QEMU's, emulated, one at a time, in a network namespace of this process.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `FERRIC_AGENT_IMAGE` | what `make agent-image` has made | `agent-image/virtual` |
//! | `FERRIC_BENCH_RUNS` | boots of each kind | 3 |
//! | `FERRIC_BENCH_PARTS` | `boot`, `memory` or both | both |
//! | `FERRIC_BENCH_WRITE` | `1` writes the results into `docs/benchmarks.md` also when anything else is set | |
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod bare;
mod machine;
mod memory;
mod net;
mod power_on;
#[path = "../../../../benches/shared/mod.rs"]
mod shared;

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

/// Set in the process that is in a network namespace of its own.
const INSIDE: &str = "FERRIC_BENCH_INSIDE";
const BEGIN: &str = "<!-- machine results: written by `make bench-lab` -->";
const END: &str = "<!-- end of machine results -->";

fn main() -> ExitCode {
    let ended = if std::env::var_os(INSIDE).is_some() { inside() } else { outside() };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts this again in a namespace, where everything is there; says what is missing elsewhere.
fn outside() -> Result<()> {
    let image = image();
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    if !image.join("manifest.json").exists() {
        missing.push(format!("{} (make agent-image)", image.display()));
    }
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("dnsmasq", "dnsmasq-base"),
        ("ip", "iproute2"),
        ("unshare", "util-linux"),
        ("cc", "build-essential"),
    ] {
        let found = Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status()?;
        if !found.success() {
            missing.push(format!("{program} (Debian: {package})"));
        }
    }
    if !Path::new(machine::OVMF_CODE).exists() {
        missing.push(format!("{} (Debian: ovmf)", machine::OVMF_CODE));
    }
    if !missing.is_empty() {
        eprintln!("SKIPPED virtual machines: {}", missing.join(", "));
        return Ok(());
    }
    // The network ends with the last process in it.
    Err(Command::new("unshare").arg("--net").arg(std::env::current_exe()?).env(INSIDE, "1").exec().into())
}

fn inside() -> Result<()> {
    let runs = std::env::var("FERRIC_BENCH_RUNS").ok().map(|text| text.parse::<usize>()).transpose()?;
    let parts = std::env::var("FERRIC_BENCH_PARTS").unwrap_or_else(|_| "boot,memory".to_owned());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-vm");
    std::fs::create_dir_all(&folder)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let text = runtime.block_on(async {
        // dnsmasq serves no path with `..` in it.
        let image = image().canonicalize()?;
        let net = net::Net::start(&folder, &image).await?;
        let mut text = format!("Load average at the beginning: {}.\n\n", shared::load());
        if parts.contains("boot") {
            power_on::measure(&net, &folder, runs.unwrap_or(3), &mut text).await?;
        }
        if parts.contains("memory") {
            memory::measure(&net, &folder, &image, &mut text).await?;
        }
        text.push_str(&format!("\nLoad average at the end: {}.", shared::load()));
        Ok::<_, Failure>(text)
    })?;
    println!("{text}");
    let complete = runs.is_none_or(|runs| runs >= 3) && parts == "boot,memory";
    if complete || std::env::var("FERRIC_BENCH_WRITE").is_ok_and(|value| value == "1") {
        save(&text)?;
    }
    Ok(())
}

fn image() -> PathBuf {
    std::env::var_os("FERRIC_AGENT_IMAGE").map_or_else(|| root().join("agent-image/virtual"), PathBuf::from)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Puts the results into their place in `docs/benchmarks.md`.
fn save(text: &str) -> Result<()> {
    Ok(shared::save(&root(), [BEGIN, END], text)?)
}
