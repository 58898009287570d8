//! Lines for whoever looks at the screen or the serial console.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    sync::{Mutex, OnceLock, PoisonError},
};

/// Consoles that the kernel was told to use; all of them get every line.
static CONSOLES: OnceLock<Mutex<Vec<File>>> = OnceLock::new();

/// Opens the consoles. Without any, lines go to standard error.
pub(super) fn open() {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let files = active
        .split_ascii_whitespace()
        .filter_map(|name| OpenOptions::new().write(true).open(format!("/dev/{name}")).ok())
        .collect();
    let _ = CONSOLES.set(Mutex::new(files));
}

/// Says one line, with the seconds since the kernel started.
pub(super) fn say(line: &str) {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f32 = uptime.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    write_all(format!("ferric-agent [{seconds:7.2}] {line}\r\n").as_bytes());
}

fn write_all(bytes: &[u8]) {
    let Some(consoles) = CONSOLES.get() else {
        let _ = io::stderr().write_all(bytes);
        return;
    };
    for console in consoles.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
        // A console that is gone is no reason to stop.
        let _ = console.write_all(bytes);
    }
}

/// Where the log goes: the same consoles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            say(line.trim());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
