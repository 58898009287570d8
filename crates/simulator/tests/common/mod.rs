//! What the tests of this crate share: an operator's hands on the BMCs, and disks written by hand.
#![allow(dead_code, clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant};

use ferric_image::{ConfigDrive, FileDevice, build_test_image, write_config_drive};
use ferric_simulator::{Delays, Fleet, FleetConfig, JournalEvent, ServerStatus};
use serde_json::{Value, json};

/// Waits until a server is as wanted.
pub async fn wait_for(
    fleet: &Fleet,
    name: &str,
    limit: Duration,
    what: &str,
    wanted: impl Fn(&ServerStatus) -> bool,
) -> ServerStatus {
    let until = Instant::now() + limit;
    loop {
        let status = fleet.status(name).unwrap();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < until, "{name}: no {what} after {limit:?}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A fleet without delays at 127.77.`third`.1, and the name of its first server.
pub async fn fleet(folder: &std::path::Path, third: u8, count: usize) -> (Fleet, String) {
    let mut config = FleetConfig::new(count, folder);
    config.base_address = [127, 77, third, 1].into();
    config.delays = Delays::none();
    let fleet = Fleet::start(config).await.unwrap();
    let name = fleet.servers().next().unwrap().name.clone();
    (fleet, name)
}

/// Runs somebody else's program; what it printed.
pub async fn run(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out.into_owned()
}

/// Changes of a server's power, each to on or off.
pub fn powers(fleet: &Fleet, name: &str) -> Vec<bool> {
    let journal = fleet.journal(name, 0).unwrap();
    journal
        .into_iter()
        .filter_map(|entry| if let JournalEvent::Power { on, .. } = entry.event { Some(on) } else { None })
        .collect()
}

/// A client that trusts the fleet's BMCs.
pub fn client(fleet: &Fleet) -> reqwest::Client {
    let ca = reqwest::Certificate::from_pem(fleet.ca_pem().as_bytes()).unwrap();
    reqwest::Client::builder()
        .tls_certs_only([ca])
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

/// Sends a request to a server's BMC.
pub async fn redfish(fleet: &Fleet, name: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let spec = fleet.servers().find(|spec| spec.name == name).unwrap();
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = client(fleet)
        .request(method, format!("{}/redfish/v1{path}", fleet.bmc_url(spec)))
        .basic_auth(&spec.username, Some(&spec.password));
    if !body.is_null() {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let response = request.send().await.unwrap();
    (
        response.status().as_u16(),
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null),
    )
}

/// Tells a BMC to change the power.
pub async fn reset(fleet: &Fleet, name: &str, kind: &str) {
    let path = "/Systems/1/Actions/ComputerSystem.Reset";
    let (status, body) = redfish(fleet, name, "POST", path, json!({"ResetType": kind})).await;
    assert_eq!(status, 204, "{body}");
}

/// Puts an image and a config drive on a server's disk.
pub fn install(fleet: &Fleet, name: &str, meta_data: &str, user_data: &str) {
    let size = fleet.servers().find(|spec| spec.name == name).unwrap().disks[0].size_bytes;
    let path = fleet.disk_paths(name).unwrap().remove(0);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let image = path.with_extension("new");
    build_test_image(&mut FileDevice::create(&image, 8 << 20).unwrap(), 7).unwrap();
    std::fs::rename(&image, &path).unwrap();
    let mut disk = FileDevice::create(&path, size).unwrap();
    let drive =
        ConfigDrive { meta_data: meta_data.into(), user_data: user_data.into(), network_config: None };
    write_config_drive(&mut disk, &drive).unwrap();
}
