//! Memory and CPU of processes, from `/proc`.

use std::path::PathBuf;

use crate::Result;

/// Clock ticks a second of `/proc/PID/stat`: `USER_HZ`, 100 on every Linux.
const TICKS: f64 = 100.0;

/// One process.
#[derive(Clone, Copy)]
pub struct Meter {
    pid: u32,
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident now, in MB (10^6 bytes).
    pub now: f64,
    /// The most that was resident since [`Meter::forget_peak`].
    pub peak: f64,
}

impl Meter {
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    fn file(self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid).into()
    }

    /// CPU seconds so far, of the program and the kernel on its behalf.
    pub fn cpu(self) -> Result<f64> {
        let text = std::fs::read_to_string(self.file("stat"))?;
        // The name, in brackets, may hold blanks.
        let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / TICKS)
    }

    pub fn memory(self) -> Result<Memory> {
        let text = std::fs::read_to_string(self.file("status"))?;
        let megabytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kib.unwrap_or(0.0) * 1024.0 / 1e6
        };
        Ok(Memory { now: megabytes("VmRSS:"), peak: megabytes("VmHWM:") })
    }

    /// Lets the peak begin anew from what is resident now.
    pub fn forget_peak(self) -> Result<()> {
        Ok(std::fs::write(self.file("clear_refs"), "5")?)
    }
}
