//! Captured trees of real BMCs. They lie beside the project and are not part of it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::PathBuf;

use serde_json::Value;

/// Where the captures are, if they are anywhere.
fn archive() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let shared = std::env::var_os("FERRIC_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let archive = shared.join("redfish-captures/captures.tar.zst");
    if archive.exists() {
        return Some(archive);
    }
    // Past the capture of the test harness: a test that did not run must be seen not to have run.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: no captured Redfish trees at {}: set FERRIC_SHARED",
        archive.display()
    );
    None
}

/// The resources of one vendor's BMC.
pub fn tree(vendor: &str) -> Option<HashMap<String, Value>> {
    let file = std::fs::File::open(archive()?).unwrap();
    let mut archive = tar::Archive::new(zstd::stream::Decoder::new(file).unwrap());
    let mut tree = HashMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().trim_start_matches("./").to_owned();
        let Some(path) = path.strip_prefix(vendor).and_then(|path| path.strip_suffix("/index.json")) else {
            continue;
        };
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        tree.insert(path.to_owned(), serde_json::from_str(&text).unwrap());
    }
    assert!(tree.len() > 50, "{vendor} has {} resources", tree.len());
    Some(tree)
}
