//! What all benchmarks do with their results.
#![allow(dead_code, reason = "a benchmark needs some of it")]

use std::path::Path;
use std::{fs, io};

/// Processor, cores and what they are shared by, memory: what figures depend on.
pub fn machine(shared_by: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("?", |(_, m)| m);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let memory = kib.map_or_else(|| "?".to_owned(), |kib| format!("{} GiB", kib / (1 << 20)));
    format!("{model}, {cores} cores{shared_by}, {memory}")
}

/// The load average of the last minute.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// Puts results into their place in `docs/benchmarks.md`, below the root of the project: between two lines.
pub fn save(root: &Path, [begin, end]: [&str; 2], text: &str) -> io::Result<()> {
    let path = root.join("docs/benchmarks.md");
    let none = |line| io::Error::other(format!("{} has no line {line}", path.display()));
    let old = fs::read_to_string(&path)?;
    let (before, rest) = old.split_once(begin).ok_or_else(|| none(begin))?;
    let (_, after) = rest.split_once(end).ok_or_else(|| none(end))?;
    fs::write(&path, format!("{before}{begin}\n\n{}\n{end}{after}", text.trim_end()))
}
