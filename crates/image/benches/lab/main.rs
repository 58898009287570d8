//! Measures the image pipeline on one machine: `make bench-lab`, described in `docs/benchmarks.md`.
//!
//! The same image goes to the same device by our pipeline, verification included, by the usual command line tools
//! without any, and by `dd` alone. Runs are interleaved, and each of ours is a process of its own, so that its memory
//! high-water mark is its own too.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `FERRIC_BENCH_IMAGE_MIB` | size of the image | 1024 |
//! | `FERRIC_BENCH_RUNS` | runs of everything | 3 |
//! | `FERRIC_BENCH_DEVICE` | a block device to write to; **all that is on it is lost** | a loop device |
//! | `FERRIC_BENCH_WRITE` | `1` writes the results into `docs/benchmarks.md` also when anything else is set | |
//! | `FERRIC_AGENT_BIN` | the static agent, for the table of sizes | not listed |
//! | `FERRIC_AGENT_IMAGE` | what `make agent-image` has made, likewise | `agent-image/virtual` |

mod case;
mod fixture;
mod report;
#[path = "../../../../benches/shared/mod.rs"]
mod shared;
mod target;

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

use case::Measured;
use fixture::Fixture;
use target::{Target, Throttle};

/// Anything that can go wrong; a bench just says it.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

/// One way for an image to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Raw,
    Zstd,
    /// qcow2, unpacked to extents beforehand as the provider does.
    Qcow2,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Raw, Self::Zstd, Self::Qcow2];
}

/// Seconds, and what else there is to say, of all runs of one kind. What has the same place was measured one after the
/// other.
#[derive(Debug)]
struct Row {
    kind: Kind,
    /// Unpacking to nowhere.
    unpack: Vec<f64>,
    /// `dd` of the whole image to the device.
    write: Vec<f64>,
    ours: Vec<Measured>,
    /// `dd` of what we wrote.
    read: Vec<f64>,
    /// The tools everybody uses: they verify nothing.
    tools: Vec<f64>,
}

impl Row {
    fn new(kind: Kind) -> Self {
        Self { kind, unpack: vec![], write: vec![], ours: vec![], read: vec![], tools: vec![] }
    }
}

/// Everything that was measured.
#[derive(Debug)]
struct Results {
    rows: [Row; 3],
    /// `dd` of the image without its zeros.
    write_data: Vec<f64>,
    /// qcow2 to extents, by us.
    packing: Vec<Measured>,
    /// qcow2 to nowhere, by QEMU.
    qemu_unpack: Vec<f64>,
    /// Load averages.
    load: Vec<String>,
    /// The same with the device held at so many MB/s, or why it could not be.
    held: Vec<(u64, std::result::Result<[Row; 3], String>)>,
}

/// Rates of disks that are sold, in MB/s (10^6): SATA, and a small NVMe one. What hashing costs counts for as much as the
/// device leaves it to be seen.
const RATES: [u64; 2] = [500, 1000];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((first, rest)) if first == case::ARGUMENT => case::run(rest),
        // `cargo bench` passes --bench.
        _ => run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let number = |name: &str, default: usize| match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| Failure::from(format!("{name} is {text:?}, not a number"))),
        Err(_) => Ok(default),
    };
    let (mib, runs) = (number("FERRIC_BENCH_IMAGE_MIB", 1024)?, number("FERRIC_BENCH_RUNS", 3)?.max(1));
    let chosen = std::env::var_os("FERRIC_BENCH_DEVICE");
    let complete = mib == 1024 && runs >= 3 && chosen.is_none();

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-lab");
    std::fs::create_dir_all(&folder)?;
    let fixture = Fixture::make(&folder, mib)?;
    let target = match chosen {
        Some(path) => Target::given(Path::new(&path), fixture.bytes)?,
        None => Target::make(&folder, fixture.bytes)?,
    };
    eprintln!("==> writing to {}", target.what);
    let rows = Kind::ALL.map(Row::new);
    let mut results = Results {
        rows,
        write_data: vec![],
        packing: vec![],
        qemu_unpack: vec![],
        load: vec![],
        held: vec![],
    };
    for round in 0..runs {
        eprintln!("==> run {} of {runs}", round + 1);
        measure(&fixture, &target, round, &mut results)?;
    }
    for rate in RATES {
        let held = match Throttle::on(&target.path, rate * 1_000_000) {
            Ok(_throttle) => {
                let mut rows = Kind::ALL.map(Row::new);
                for round in 0..runs {
                    eprintln!("==> run {} of {runs}, the device held at {rate} MB/s", round + 1);
                    results.load.push(shared::load());
                    write_all(&fixture, &target, round, &mut rows)?;
                }
                results.load.push(shared::load());
                Ok(rows)
            }
            Err(error) => Err(error.to_string()),
        };
        results.held.push((rate, held));
    }
    let text = report::text(&fixture, &target, &results);
    println!("{text}");
    if complete || std::env::var("FERRIC_BENCH_WRITE").is_ok_and(|value| value == "1") {
        report::save(&text)?;
    }
    Ok(())
}

/// `dd` to the device, without its source.
fn dd(target: &Target, conv: &str) -> String {
    let device = fixture::text(&target.path);
    format!("dd of='{device}' oflag=direct bs=1M iflag=fullblock conv={conv},fsync status=none")
}

/// One run of everything.
fn measure(fixture: &Fixture, target: &Target, round: usize, results: &mut Results) -> Result<()> {
    let (raw, qcow2, bytes) = (fixture::text(&fixture.raw), fixture::text(&fixture.qcow2), fixture.bytes);
    results.load.push(shared::load());
    results.packing.push(case::start(&["pack", qcow2, fixture::text(&fixture.extents)])?);
    results.qemu_unpack.push(seconds(&format!(
        "qemu-img convert -n -f qcow2 '{qcow2}' --target-image-opts driver=null-co,size={bytes}"
    ))?);
    write_all(fixture, target, round, &mut results.rows)?;
    seconds(&format!("{} if='{raw}'", dd(target, "notrunc")))?;
    results.write_data.push(seconds(&format!("{} if='{raw}'", dd(target, "notrunc,sparse")))?);
    results.load.push(shared::load());
    Ok(())
}

/// One run of everything that goes to the device, for all kinds of images.
fn write_all(fixture: &Fixture, target: &Target, round: usize, rows: &mut [Row; 3]) -> Result<()> {
    let (raw, zst, qcow2) =
        (fixture::text(&fixture.raw), fixture::text(&fixture.zst), fixture::text(&fixture.qcow2));
    let (device, bytes, to_device) = (fixture::text(&target.path), fixture.bytes, dd(target, "notrunc"));
    let write = format!("{to_device} if='{raw}'");
    let to_nowhere = "of=/dev/null bs=1M status=none";
    let read = format!("dd if='{device}' iflag=direct count={} {to_nowhere}", bytes >> 20);
    for row in rows {
        let (name, file, tools, unpack) = match row.kind {
            Kind::Raw => ("raw", &fixture.raw, write.clone(), format!("dd if='{raw}' {to_nowhere}")),
            Kind::Zstd => (
                "zstd",
                &fixture.zst,
                format!("zstd -dc '{zst}' | {to_device}"),
                format!("zstd -dc '{zst}' >/dev/null"),
            ),
            Kind::Qcow2 => (
                "extents",
                &fixture.extents,
                format!(
                    "qemu-img convert -n -f qcow2 -O raw -t none '{qcow2}' '{device}' && sync '{device}'"
                ),
                // What is in the extents is zstd.
                format!("zstd -dc '{zst}' >/dev/null"),
            ),
        };
        // Everybody finds the same device: written all over, no hole in it.
        seconds(&write)?;
        row.unpack.push(seconds(&unpack)?);
        row.write.push(seconds(&write)?);
        row.ours.push(case::start(&["write", name, fixture::text(file), device])?);
        row.read.push(seconds(&read)?);
        check(fixture, device, round)?;
        seconds(&write)?;
        row.tools.push(seconds(&tools)?);
        check(fixture, device, round)?;
    }
    Ok(())
}

/// Whoever wrote: it must be the image. Looked at once for all runs.
fn check(fixture: &Fixture, device: &str, round: usize) -> Result<()> {
    if round > 0 {
        return Ok(());
    }
    seconds(&format!("cmp -n {} '{}' '{device}'", fixture.bytes, fixture::text(&fixture.raw))).map(drop)
}

/// How long a shell takes for this; that it fails is an error.
fn seconds(script: &str) -> Result<f64> {
    let begin = Instant::now();
    let status = Command::new("bash").args(["-eu", "-o", "pipefail", "-c", script]).status()?;
    if !status.success() {
        return Err(format!("{script}: {status}").into());
    }
    Ok(begin.elapsed().as_secs_f64())
}
