//! What we do, in a process of its own: the bench calls itself.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    ops::ControlFlow,
    process::{Command, Stdio},
    time::Instant,
};

use ferric_image::{
    Checksum, ChecksumAlgorithm, DirectDisk, Progress, Qcow2, Stage, WriteOptions, extents,
    pipeline::Compression, qcow2::SizedFile, write_image,
};

use crate::{Result, fixture};

/// The first argument of a bench that is one case.
pub const ARGUMENT: &str = "case";

/// What came of a case.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Seconds of the whole.
    pub seconds: f64,
    /// Of these, until the read-back began.
    pub writing: f64,
    /// CPU seconds, user and system.
    pub cpu: f64,
    /// Bytes that were made zeros instead of being written.
    pub zeroed: u64,
    /// Memory high-water mark of the process, in KiB.
    pub peak_kib: u64,
}

/// Runs a case and waits for it.
pub fn start(arguments: &[&str]) -> Result<Measured> {
    let out = Command::new(std::env::current_exe()?)
        .arg(ARGUMENT)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let words: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match *words.as_slice() {
        [seconds, writing, cpu, zeroed, peak] if out.status.success() => {
            Ok(Measured { seconds, writing, cpu, zeroed: zeroed as u64, peak_kib: peak as u64 })
        }
        _ => Err(format!("the case {arguments:?} failed: {}", out.status).into()),
    }
}

/// In the process of its own: does it and prints what [`start`] reads.
pub fn run(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (seconds, writing, zeroed) = match *arguments.as_slice() {
        ["write", kind, file, device] => write(kind, file, device)?,
        ["pack", qcow2, into] => pack(qcow2, into)?,
        _ => return Err(format!("no such case: {arguments:?}").into()),
    };
    let (cpu, peak) = (cpu_seconds(), high_water()?);
    println!("{seconds} {writing} {cpu} {zeroed} {peak}");
    Ok(())
}

/// As the agent does it, but from a file instead of from the network.
fn write(kind: &str, file: &str, device: &str) -> Result<(f64, f64, u64)> {
    let compression = match kind {
        "raw" => Compression::None,
        "zstd" => Compression::Zstd,
        _ => Compression::Extents,
    };
    let checksum = Checksum::parse(&fixture::checksum(file.as_ref())?, None)?;
    let mut options = WriteOptions::new(checksum, compression);
    options.download_bytes = Some(std::fs::metadata(file)?.len());
    let begin = Instant::now();
    let mut writing = None;
    let mut observe = |progress: Progress| {
        if progress.stage == Stage::Verifying {
            writing.get_or_insert_with(|| begin.elapsed().as_secs_f64());
        }
        ControlFlow::Continue(())
    };
    let mut device = DirectDisk::open(device)?;
    let written = write_image(&mut File::open(file)?, &mut device, &options, &mut observe)?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok((seconds, writing.unwrap_or(seconds), written.bytes_zeroed))
}

/// As the provider does it, once for all hosts.
fn pack(qcow2: &str, into: &str) -> Result<(f64, f64, u64)> {
    let begin = Instant::now();
    // Compared by the provider's cache, beside the download.
    let source = Checksum::new(ChecksumAlgorithm::Sha256, &"0".repeat(64))?;
    let mut image = Qcow2::open(SizedFile::new(File::open(qcow2)?)?, u64::MAX)?;
    let mut sink = BufWriter::new(File::create(into)?);
    let packed = extents::pack(&mut image, &source, &mut sink, &mut |_, _| Ok(()))?;
    sink.flush()?;
    let seconds = begin.elapsed().as_secs_f64();
    std::fs::write(fixture::checksum_file(into.as_ref()), packed.checksum.to_string())?;
    Ok((seconds, seconds, packed.disk_bytes - (packed.chunks * extents::CHUNK as u64).min(packed.disk_bytes)))
}

fn high_water() -> Result<u64> {
    let status = std::io::read_to_string(BufReader::new(File::open("/proc/self/status")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    Ok(kib.ok_or("no VmHWM in /proc/self/status")?)
}

/// User and system time of this process, all threads; the clock tick is 100 Hz on every Linux there is.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after.split(' ').skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}
