//! What is shown on virtual servers only: ways to boot, kinds of disks, troubles, what must not happen. Rows that need no
//! node of Kubernetes deploy a tiny system, whose init prints what it finds on the config drive.
//!
//! Ignored unless asked for (`make test-lab`): together they take half an hour. Root and QEMU are needed; where they are
//! missing a line says that a row was SKIPPED, and why. What takes more than ten minutes is run by name only
//! (`make test-lab ROWS=control_plane::`).
#![allow(clippy::unwrap_used, clippy::panic)]

/// One row: a test of its own, which is run inside a lab, and may take so long.
macro_rules! row {
    ($name:ident, $body:expr) => {
        row!($name, crate::bench::ROW_LIMIT, $body);
    };
    ($name:ident, $limit:expr, $body:expr) => {
        #[test]
        #[ignore = "takes minutes: make test-lab"]
        fn $name() {
            // The name under which the test harness knows it has no crate in it.
            let (_, module) = module_path!().split_once("::").unwrap();
            let name = format!("{module}::{}", stringify!($name));
            ferric_testbed::lab::stack::test(&name, $limit, || $body);
        }
    };
}

mod bench;
mod boot;
mod control_plane;
mod discovery;
mod disks;
mod images;
mod in_band;
mod kexec;
#[path = "../lab/mod.rs"]
mod lab;
mod live;
mod memory;
mod network;
mod scale;
mod strangers;
mod troubles;
