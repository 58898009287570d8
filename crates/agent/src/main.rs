//! `ferric-agent`: the only process of a machine that was booted to be inspected, cleaned or written.
//!
//! Started as PID 1 of an initramfs: mounts what the kernel offers, loads modules by modalias, brings up a network and
//! runs [`ferric_agent::run`]. It has no shell and listens nowhere. It never returns to the kernel, which would panic:
//! it ends by restarting the machine or by switching it off, and off is what it does when it cannot go on, because that
//! is what the provider sees and recovers from.

mod machine;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        machine::init::run()
    }
    eprintln!(
        "ferric-agent {}: the first process (/init) of the agent's initramfs. It does nothing anywhere else, so that it \
         cannot touch the disks of a machine that was not booted for it.",
        env!("CARGO_PKG_VERSION")
    );
    ExitCode::from(2)
}
