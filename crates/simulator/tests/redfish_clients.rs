//! The BMCs as seen by others' Redfish clients: `sushy`, that of OpenStack and Metal3, and the DMTF's own.
//!
//! They are installed from PyPI into the user's cache folder when they are not there. Without Python 3 or without a package
//! index the tests fail and say so.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use ferric_simulator::{Delays, Fleet, FleetConfig, JournalEvent};

#[path = "../../../tests/shared/python.rs"]
mod python;

const SUSHY: &str = "5.14.0";
const REDFISH_UTILITIES: &str = "3.5.2";

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed\n{out}\n{err}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn sushy_drives_a_bmc() {
    let python = tokio::task::spawn_blocking(|| python::with("sushy", SUSHY).unwrap()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = FleetConfig::new(2, folder.path());
    config.delays = Delays::none();
    let fleet = Fleet::start(config).await.unwrap();
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, fleet.ca_pem()).unwrap();
    let facts = fleet.info(fleet.servers().next().unwrap());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("sushy_client.py");
    let facts_json = serde_json::to_string(&facts).unwrap();
    let out =
        tokio::task::spawn_blocking(move || run(Command::new(python).arg(script).arg(&ca).arg(facts_json)))
            .await
            .unwrap();
    assert!(out.contains("all steps passed"), "{out}");

    // The BMC's own record agrees with what the client says it did.
    let journal = fleet.journal(&facts.name, 0).unwrap();
    let power: Vec<bool> = journal
        .iter()
        .filter_map(|entry| if let JournalEvent::Power { on, .. } = entry.event { Some(on) } else { None })
        .collect();
    assert_eq!(power, [true, false]);
    assert!(journal.iter().any(|entry| entry.event == JournalEvent::Login { ok: false }));
    let boots: Vec<&str> = journal
        .iter()
        .filter_map(|e| {
            if let JournalEvent::Boot { source, .. } = &e.event { Some(source.as_str()) } else { None }
        })
        .collect();
    assert_eq!(boots, ["UefiHttp", "Disk"]);
    let other = fleet.servers().nth(1).unwrap().name.clone();
    assert!(fleet.journal(&other, 0).unwrap().is_empty(), "only one BMC was spoken to");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_of_the_dmtf_drive_a_bmc() {
    let python = || python::with("redfish_utilities", REDFISH_UTILITIES).unwrap();
    let python = tokio::task::spawn_blocking(python).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = FleetConfig::new(2, folder.path());
    config.delays = Delays::none();
    let fleet = Fleet::start(config).await.unwrap();
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, fleet.ca_pem()).unwrap();
    let facts = fleet.info(fleet.servers().next().unwrap());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("redfish_client.py");
    let mut command = Command::new(python);
    command.arg(script).arg(&ca).arg(serde_json::to_string(&facts).unwrap());
    let out = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
    assert!(out.contains("all steps passed"), "{out}");
    let journal = fleet.journal(&facts.name, 0).unwrap();
    let power: Vec<bool> = journal
        .iter()
        .filter_map(|entry| if let JournalEvent::Power { on, .. } = entry.event { Some(on) } else { None })
        .collect();
    assert_eq!(power, [true, false]);
    fleet.stop().await;
}
