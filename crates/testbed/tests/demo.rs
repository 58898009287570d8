//! The demo does not call done what did not happen: with the image server off, or one bit of the image flipped, it says
//! what it saw and exits with a failure, in bounded time.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use ferric_testbed::{Process, ProcessSpec};

/// The steps before, the demo's patience with an error, and a busy machine.
const LIMIT: Duration = Duration::from_secs(420);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_image_is_not_called_done() {
    tokio::join!(fails("image-server", "ImageUnreachable"), fails("image-byte", "ChecksumMismatch"),);
}

/// Runs the demo with something broken; it has to fail for this reason.
async fn fails(broken: &str, reason: &str) {
    // A demo that fails leaves its folder behind: here, where it goes with this test.
    let folder = tempfile::tempdir().unwrap();
    let spec = ProcessSpec::new("demo", env!("CARGO_BIN_EXE_ferric-testbed"), folder.path().join("demo.log"))
        .args(["demo", "--oneshot", "--break", broken])
        .env("TMPDIR", folder.path());
    let mut demo = Process::spawn(spec).unwrap();
    let status = demo.wait(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    let said = std::fs::read_to_string(demo.log()).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    // Everything before went well, and the failure is the one that was made.
    for part in ["8 hosts are available", "FAILED after", "expected: ", reason] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert!(!said.contains("Every step happened"), "{said}");
}
