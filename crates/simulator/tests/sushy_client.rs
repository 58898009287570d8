//! The BMCs as seen by `sushy`, the Redfish client of OpenStack and Metal3.
//!
//! It is installed from PyPI into the user's cache folder when it is not there. Without Python 3 or without a package
//! index the test fails and says so.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use ferric_simulator::{Delays, Fleet, FleetConfig, JournalEvent};

const SUSHY: &str = "5.14.0";

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed\n{out}\n{err}");
    out.into_owned()
}

/// A Python with sushy. The folder appears under its name only when it is complete.
fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .unwrap();
    let folder = cache.join("ferric").join("python").join(format!("sushy-{SUSHY}"));
    let python = folder.join("bin").join("python3");
    let complete = folder.join(".complete");
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    let lock = std::fs::File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !complete.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .arg(format!("sushy=={SUSHY}")));
        std::fs::write(&complete, "").unwrap();
    }
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn sushy_drives_a_bmc() {
    let python = tokio::task::spawn_blocking(python).await.unwrap();
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
