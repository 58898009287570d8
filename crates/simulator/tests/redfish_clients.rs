//! The BMCs as seen by others' Redfish clients: `sushy`, that of OpenStack and Metal3, and the DMTF's own.
//!
//! They are installed from PyPI into the user's cache folder when they are not there. Without Python 3 or without a package
//! index the tests fail and say so.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../../tests/shared/python.rs"]
mod python;

use std::path::Path;
use std::process::Command;

use ferric_simulator::{Delays, Fleet, FleetConfig, JournalEvent};

const SUSHY: &str = "5.14.0";
const REDFISH_UTILITIES: &str = "3.5.2";

/// Lets a script drive the first of two BMCs by a package; gives the fleet and that server's name.
async fn driven_by(
    folder: &Path,
    package: &'static str,
    version: &'static str,
    script: &str,
) -> (Fleet, String) {
    let install = move || python::with(package, version).unwrap();
    let python = tokio::task::spawn_blocking(install).await.unwrap();
    let mut config = FleetConfig::new(2, folder);
    config.delays = Delays::none();
    let fleet = Fleet::start(config).await.unwrap();
    let ca = folder.join("ca.crt");
    std::fs::write(&ca, fleet.ca_pem()).unwrap();
    let facts = fleet.info(fleet.servers().next().unwrap());
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script));
    command.arg(&ca).arg(serde_json::to_string(&facts).unwrap());
    let out = common::run(command).await;
    assert!(out.contains("all steps passed"), "{out}");
    // The BMC's own record agrees with what the client says it did.
    assert_eq!(common::powers(&fleet, &facts.name), [true, false]);
    let journal = fleet.journal(&facts.name, 0).unwrap();
    assert!(journal.iter().any(|entry| entry.event == JournalEvent::Login { ok: false }));
    let other = fleet.servers().nth(1).unwrap().name.clone();
    assert!(fleet.journal(&other, 0).unwrap().is_empty(), "only one BMC was spoken to");
    (fleet, facts.name)
}

#[tokio::test(flavor = "multi_thread")]
async fn sushy_drives_a_bmc() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, name) = driven_by(folder.path(), "sushy", SUSHY, "sushy_client.py").await;
    let boots: Vec<String> = fleet
        .journal(&name, 0)
        .unwrap()
        .into_iter()
        .filter_map(|e| if let JournalEvent::Boot { source, .. } = e.event { Some(source) } else { None })
        .collect();
    assert_eq!(boots, ["UefiHttp", "Disk"]);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_of_the_dmtf_drive_a_bmc() {
    let folder = tempfile::tempdir().unwrap();
    let package = "redfish_utilities";
    let (fleet, _) = driven_by(folder.path(), package, REDFISH_UTILITIES, "redfish_client.py").await;
    fleet.stop().await;
}
