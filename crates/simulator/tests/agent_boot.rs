//! The whole life of a server: its BMC is told to boot the agent, the real agent library writes the disk, and the
//! server boots from it.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/provider.rs"]
mod provider;

use common::{redfish, reset, wait_for};
use ferric_protocol::v1::{PowerAction, task_result::Outcome};
use ferric_simulator::{Delays, DiskMode, Faults, Fleet, FleetConfig, JournalEvent};
use provider::{PATIENCE, Provider, power};
use serde_json::{Value, json};

const META: &str = "instance-id: i-1\nlocal-hostname: web-1\n";

async fn fleet(folder: &std::path::Path, disks: DiskMode, base: [u8; 4]) -> Fleet {
    let mut config = FleetConfig::new(2, folder);
    config.disks = disks;
    config.delays = Delays::none();
    config.base_address = base.into();
    Fleet::start(config).await.unwrap()
}

async fn boot_agent(fleet: &Fleet, name: &str, provider: &Provider) {
    let boot = json!({"Boot": {
        "BootSourceOverrideTarget": "UefiHttp", "BootSourceOverrideEnabled": "Once",
        "BootSourceOverrideMode": "UEFI", "HttpBootUri": format!("{}/boot", provider.boot_url),
    }});
    let (status, body) = redfish(fleet, name, "PATCH", "/Systems/1", boot).await;
    assert_eq!(status, 204, "{body}");
    reset(fleet, name, "On").await;
}

fn boots(fleet: &Fleet, name: &str) -> Vec<String> {
    let source = |event| if let JournalEvent::Boot { source, .. } = event { Some(source) } else { None };
    fleet.journal(name, 0).unwrap().into_iter().filter_map(|entry| source(entry.event)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_power_on_to_the_image() {
    for (disks, base) in [(DiskMode::File, [127, 72, 0, 1]), (DiskMode::Counting, [127, 73, 0, 1])] {
        let folder = tempfile::tempdir().unwrap();
        let fleet = fleet(folder.path(), disks, base).await;
        let provider = Provider::start().await;
        provider.give([provider.deploy(META, "#cloud-config\n{}\n"), power(PowerAction::Reboot)]);
        let spec = fleet.servers().nth(1).unwrap().clone();
        let name = spec.name.as_str();

        boot_agent(&fleet, name, &provider).await;
        let up = wait_for(&fleet, name, PATIENCE, "operating system", |s| !s.os.hostname.is_empty()).await;
        assert_eq!(
            (up.state.as_str(), up.os.hostname.as_str(), up.os.instance_id.as_str()),
            ("OSRunning", "web-1", "i-1")
        );
        assert_eq!(boots(&fleet, name), ["UefiHttp", "Disk"]);

        // What the agent saw is what the BMC reports.
        let seen = provider.inventories().remove(0);
        let (_, system) = redfish(&fleet, name, "GET", "/Systems/1", Value::Null).await;
        assert_eq!(json!(seen.system_uuid), system["UUID"]);
        assert_eq!(json!(seen.serial_number), system["SerialNumber"]);
        let (_, drive) = redfish(&fleet, name, "GET", "/Systems/1/Storage/1/Drives/0", Value::Null).await;
        assert_eq!(json!(seen.disks[0].serial_number), drive["SerialNumber"]);
        assert_eq!(json!(seen.disks[0].size_bytes), drive["CapacityBytes"]);
        let (_, nic) = redfish(&fleet, name, "GET", "/Systems/1/EthernetInterfaces/eth0", Value::Null).await;
        assert_eq!(json!(seen.boot_mac), nic["MACAddress"]);
        assert!(
            provider.clients().iter().all(|client| client.ip() == spec.bmc_ip),
            "each agent dials from its own address"
        );
        if disks == DiskMode::File {
            let disk = std::fs::read(&fleet.disk_paths(name).unwrap()[0]).unwrap();
            // The partition table moved on (config drive, backup header); the content did not.
            let mib = 1 << 20;
            assert!(disk[mib..6 * mib] == provider.image[mib..6 * mib]);
        }
        assert!(
            matches!(provider.results()[0].outcome, Some(Outcome::Deploy(_))),
            "{:?}",
            provider.results()
        );

        // A reboot finds the same disk; the other server was never touched.
        reset(&fleet, name, "ForceRestart").await;
        wait_for(&fleet, name, PATIENCE, "operating system", |s| {
            s.epoch > up.epoch && !s.os.hostname.is_empty()
        })
        .await;
        assert_eq!(boots(&fleet, name), ["UefiHttp", "Disk", "Disk"]);
        let other = fleet.servers().next().unwrap().name.clone();
        assert!(fleet.journal(&other, 0).unwrap().is_empty());
        fleet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_agent_disk_and_media() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path(), DiskMode::File, [127, 74, 0, 1]).await;
    let provider = Provider::start().await;
    provider.give([provider.deploy(META, ""), power(PowerAction::PowerOff)]);
    let name = fleet.servers().next().unwrap().name.clone();
    let name = name.as_str();

    fleet.set_faults(name, Faults { agent_dies_after_bytes: Some(2 << 20), ..Faults::default() }).unwrap();
    boot_agent(&fleet, name, &provider).await;
    let dead = wait_for(&fleet, name, PATIENCE, "crash", |s| s.state == "Crashed").await;
    assert!(dead.detail.contains("agent died"), "{}", dead.detail);
    assert_eq!(dead.faults, Faults::default(), "once is enough");
    assert!(provider.results().is_empty());

    reset(&fleet, name, "ForceOff").await;
    wait_for(&fleet, name, PATIENCE, "power off", |s| s.state == "Off").await;
    fleet.set_faults(name, Faults { disk_fails_after_bytes: Some(2 << 20), ..Faults::default() }).unwrap();
    boot_agent(&fleet, name, &provider).await;
    wait_for(&fleet, name, PATIENCE, "power off by the agent", |s| {
        s.state == "Off" && s.epoch > dead.epoch + 2
    })
    .await;
    assert!(
        matches!(&provider.results()[0].outcome, Some(Outcome::Error(error)) if error.message.contains("simulated write error")),
        "{:?}",
        provider.results()
    );

    fleet.set_faults(name, Faults { boot_media_unreadable: true, ..Faults::default() }).unwrap();
    boot_agent(&fleet, name, &provider).await;
    wait_for(&fleet, name, PATIENCE, "disk", |s| s.state == "NoBootableDisk").await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_once_the_power_is_off() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path(), DiskMode::File, [127, 75, 0, 1]).await;
    let provider = Provider::start().await;
    provider.give([provider.deploy(META, ""), power(PowerAction::Reboot)]);
    let name = fleet.servers().next().unwrap().name.clone();
    boot_agent(&fleet, &name, &provider).await;
    wait_for(&fleet, &name, PATIENCE, "agent", |s| s.state == "AgentRunning").await;
    reset(&fleet, &name, "ForceOff").await;
    wait_for(&fleet, &name, PATIENCE, "power off", |s| s.state == "Off").await;
    let read = || std::fs::read(&fleet.disk_paths(&name).unwrap()[0]).unwrap_or_default();
    let before = read();
    // Another server lives a whole life meanwhile; this one stays as it was.
    let other = fleet.servers().nth(1).unwrap().name.clone();
    boot_agent(&fleet, &other, &provider).await;
    wait_for(&fleet, &other, PATIENCE, "operating system", |s| s.os.running).await;
    assert!(read() == before);
    assert_eq!(boots(&fleet, &name), ["UefiHttp"]);
    fleet.stop().await;
}
