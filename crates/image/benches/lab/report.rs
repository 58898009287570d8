//! The tables.

use std::{fmt::Write as _, fs, path::Path};

use crate::{Kind, Result, Results, Row, case::Measured, fixture::Fixture, shared, target::Target};

const BEGIN: &str = "<!-- image results: written by `make bench-lab` -->";
const END: &str = "<!-- end of image results -->";

/// Least and middle of some runs.
#[derive(Clone, Copy)]
struct Spread {
    min: f64,
    median: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self { min: at(0), median: at(values.len().saturating_sub(1) / 2) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} / {:.2}", self.min, self.median)
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Raw => "raw",
        Kind::Zstd => "zstd",
        Kind::Qcow2 => "qcow2, as extents",
    }
}

/// The median over the runs of a row.
fn ratio(row: &Row, of: &dyn Fn(usize, &Measured) -> Option<f64>) -> f64 {
    Spread::of(row.ours.iter().enumerate().filter_map(|(round, run)| of(round, run))).median
}

/// What writing takes at least in a run: unpacking and device at once.
fn bound(row: &Row, write: &[f64], round: usize) -> Option<f64> {
    Some(row.unpack.get(round)?.max(*write.get(round)?))
}

/// The bound of writing and reading back, by what it took us.
fn whole(row: &Row, write: &[f64], round: usize, run: &Measured) -> Option<f64> {
    Some((bound(row, write, round)? + row.read.get(round)?) / run.seconds)
}

/// The device held at the rates of real disks.
fn held(text: &mut String, results: &Results) {
    text.push_str(
        "\nThe same with the device held at a rate by the kernel's block layer, for us and for the tools:\n\n\
         | MB/s | image | unpack to nowhere | device write | device read | ours, verified | of it read-back | ratio | tools, \
         unverified | CPU s, ours |\n|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for (rate, rows) in &results.held {
        let rows = match rows {
            Ok(rows) => rows,
            Err(why) => {
                let _ = writeln!(text, "| {rate} | not measured: {why} | | | | | | | | |");
                continue;
            }
        };
        for row in rows {
            let ours = |of: fn(&Measured) -> f64| Spread::of(row.ours.iter().map(of));
            let _ = writeln!(
                text,
                "| {rate} | {} | {} | {} | {} | {} | {} | **{:.2}** | {} | {:.1} |",
                name(row.kind),
                Spread::of(row.unpack.iter().copied()),
                Spread::of(row.write.iter().copied()),
                Spread::of(row.read.iter().copied()),
                ours(|run| run.seconds),
                ours(|run| run.seconds - run.writing),
                ratio(row, &|round, run| whole(row, &row.write, round, run)),
                Spread::of(row.tools.iter().copied()),
                ours(|run| run.cpu).median,
            );
        }
    }
}

/// What is printed, and written into the docs.
pub fn text(fixture: &Fixture, target: &Target, results: &Results) -> String {
    let mut text = String::new();
    let size =
        |path: &Path| fs::metadata(path).map_or(f64::NAN, |data| data.len() as f64 / f64::from(1 << 20));
    let _ = writeln!(
        text,
        "Measured on {}, to {}; image of {} MiB: a third noise, a third text, a third zeros, of which we have {} MiB \
         made by the device; zstd -3: {:.0} MiB, qcow2 (zlib): {:.0} MiB, extents: {:.0} MiB. Load average before and \
         after each run, of everything on the machine: {}.\n",
        shared::machine(""),
        target.what,
        fixture.bytes >> 20,
        results.rows.iter().flat_map(|row| &row.ours).map(|run| run.zeroed).max().unwrap_or(0) >> 20,
        size(&fixture.zst),
        size(&fixture.qcow2),
        size(&fixture.extents),
        results.load.join(", ")
    );
    let data = &results.write_data;
    let _ = writeln!(
        text,
        "Seconds, least / median of {} runs. Without the zeros of the image `dd` writes it in {}.\n",
        data.len(),
        Spread::of(data.iter().copied())
    );
    text.push_str(
        "| image | unpack to nowhere | device write | device read | ours, verified | of it read-back | ratio | ratio, \
         zeros for nothing | ratio, writing alone | tools, unverified | CPU s, ours | memory, ours |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in &results.rows {
        let ours = |of: fn(&Measured) -> f64| Spread::of(row.ours.iter().map(of));
        let ratio = |of| ratio(row, of);
        let bound = |write: &[f64], round| bound(row, write, round);
        let whole = |write: &[f64], round, run: &Measured| whole(row, write, round, run);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | **{:.2}** | {:.2} | {:.2} | {} | {:.1} | {:.1} MB |",
            name(row.kind),
            Spread::of(row.unpack.iter().copied()),
            Spread::of(row.write.iter().copied()),
            Spread::of(row.read.iter().copied()),
            ours(|run| run.seconds),
            ours(|run| run.seconds - run.writing),
            ratio(&|round, run| whole(&row.write, round, run)),
            ratio(&|round, run| whole(data, round, run)),
            ratio(&|round, run| Some(bound(&row.write, round)? / run.writing)),
            Spread::of(row.tools.iter().copied()),
            ours(|run| run.cpu).median,
            row.ours.iter().map(|run| run.peak_kib).max().unwrap_or(0) as f64 * 1.024e-3,
        );
    }
    held(&mut text, results);
    let packing = Spread::of(results.packing.iter().map(|run| run.seconds));
    let peak = results.packing.iter().map(|run| run.peak_kib).max().unwrap_or(0) as f64 * 1.024e-3;
    let _ = writeln!(
        text,
        "\nqcow2 to extents, once per image on the provider (unpack, hash, pack again): {packing} s, {peak:.1} MB; \
         `qemu-img convert` to nowhere: {} s.",
        Spread::of(results.qemu_unpack.iter().copied())
    );
    sizes(&mut text);
    text.trim_end().to_owned()
}

/// What servers boot, if it was built.
fn sizes(text: &mut String) {
    let given = std::env::var_os("FERRIC_AGENT_IMAGE").map(std::path::PathBuf::from);
    let folder = given.unwrap_or_else(|| root().join("agent-image/virtual"));
    if !folder.join("manifest.json").exists() {
        return;
    }
    let agent = std::env::var_os("FERRIC_AGENT_BIN").map(std::path::PathBuf::from);
    let files = [
        ("agent, static binary", agent),
        ("kernel", Some(folder.join("vmlinuz"))),
        ("initrd, the agent in it", Some(folder.join("initrd.img"))),
        ("ISO, BIOS and UEFI", Some(folder.join("agent.iso"))),
    ];
    text.push_str("\n| flavour `virtual` | MB |\n|---|--:|\n");
    for (name, path) in files {
        if let Some(data) = path.and_then(|path| fs::metadata(path).ok()) {
            let _ = writeln!(text, "| {name} | {:.1} |", data.len() as f64 / 1e6);
        }
    }
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Puts the results into their place in `docs/benchmarks.md`.
pub fn save(text: &str) -> Result<()> {
    Ok(shared::save(&root(), [BEGIN, END], text)?)
}
