//! The BMCs' IPMI face as seen by `ipmitool` and by `pyghmi`, the IPMI client of OpenStack and of VirtualBMC's author.
//! Where one of them cannot be had, a line says so.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ferric_simulator::{Delays, Faults, Fleet, FleetConfig, JournalEvent, Power, ServerInfo};

mod common;
#[path = "../../../tests/shared/python.rs"]
mod python;

use common::run;

const PYGHMI: &str = "1.6.18";
const IPMITOOL: &str = "/usr/bin/ipmitool";

async fn fleet(folder: &Path) -> Fleet {
    let mut config = FleetConfig::new(2, folder);
    (config.delays, config.ipmi_port) = (Delays::none(), Some(0));
    Fleet::start(config).await.unwrap()
}

fn first(fleet: &Fleet) -> ServerInfo {
    fleet.info(fleet.servers().next().unwrap())
}

/// `ipmitool` as client of the first server's BMC.
fn ipmitool(fleet: &Fleet, suite: &str, command: &str) -> Command {
    let (spec, port) = (fleet.servers().next().unwrap(), fleet.ipmi_port().unwrap().to_string());
    let mut ipmitool = Command::new(IPMITOOL);
    ipmitool
        .args(["-I", "lanplus", "-C", suite, "-H", &spec.bmc_ip.to_string(), "-p", &port])
        .args(["-U", &spec.username, "-P", &spec.password])
        .args(command.split(' '));
    ipmitool
}

async fn power_is(fleet: &Fleet, name: &str, wanted: Power) {
    let begun = Instant::now();
    while fleet.status(name).unwrap().power != wanted {
        assert!(begun.elapsed() < Duration::from_secs(20), "the power does not become {wanted:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ipmitool_drives_a_bmc_in_both_suites() {
    if !Path::new(IPMITOOL).exists() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: ipmitool as client needs: apt-get install ipmitool");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path()).await;
    let facts = first(&fleet);
    for suite in ["3", "17"] {
        let ipmitool = |command: &str| run(ipmitool(&fleet, suite, command));
        assert_eq!(ipmitool("chassis power status").await.trim(), "Chassis Power is off");
        ipmitool("chassis bootdev pxe options=efiboot").await;
        let flags = ipmitool("chassis bootparam get 5").await;
        for words in ["Boot Flag Valid", "only next boot", "BIOS EFI boot", "Force PXE"] {
            assert!(flags.contains(words), "{words}: {flags}");
        }
        ipmitool("chassis power on").await;
        power_is(&fleet, &facts.name, Power::On).await;
        let fru = ipmitool("fru print 0").await;
        assert!(fru.contains(&facts.serial) && fru.contains("Ferric Simulator"), "{fru}");
        let sensors = ipmitool("sdr elist full").await;
        assert!(sensors.contains("24 degrees C") && sensors.contains("7200 RPM"), "{sensors}");
        assert!(ipmitool("mc info").await.contains("IPMI Version              : 2.0"));
        assert!(ipmitool("mc guid").await.to_lowercase().contains(&facts.uuid.to_string()));
        ipmitool("chassis bootdev none").await;
        ipmitool("chassis power off").await;
        power_is(&fleet, &facts.name, Power::Off).await;
    }
    let boots: Vec<_> = fleet
        .journal(&facts.name, 0)
        .unwrap()
        .into_iter()
        .filter_map(|it| if let JournalEvent::Boot { source, .. } = it.event { Some(source) } else { None })
        .collect();
    assert_eq!(boots, ["Pxe", "Pxe"]);
    let other = fleet.servers().nth(1).unwrap().name.clone();
    assert!(fleet.journal(&other, 0).unwrap().is_empty(), "only one BMC was spoken to");
    fleet.stop().await;
}

/// Arguments: address, port, user, password, serial number, UUID.
const PYGHMI_STEPS: &str = "import sys, time
from pyghmi.ipmi import command
from pyghmi.exceptions import IpmiException
address, port, user, password, serial, uuid = sys.argv[1:]
try:
    command.Command(bmc=address, userid=user, password='wrong', port=int(port)).get_power()
    sys.exit('a wrong password was taken')
except IpmiException: pass
bmc = command.Command(bmc=address, userid=user, password=password, port=int(port))
def wait(wanted):
    end = time.time() + 20
    while bmc.get_power()['powerstate'] != wanted:
        if time.time() > end: sys.exit('the power does not become ' + wanted)
assert bmc.get_power()['powerstate'] == 'off'
bmc.set_bootdev('network', uefiboot=True)
boot = bmc.get_bootdev()
assert (boot['bootdev'], boot['persistent'], boot['uefimode']) == ('network', False, True), boot
bmc.set_power('on'); wait('on')
inventory = bmc.get_inventory_of_component('System')
assert inventory['Serial Number'] == serial, inventory
assert inventory['UUID'].lower() == uuid, inventory
readings = {sensor.name: sensor.value for sensor in bmc.get_sensor_data()}
assert readings == {'Inlet Temp': 24.0, 'Fan 1': 7200.0}, readings
assert bmc.get_health()['health'] == 0
bmc.set_power('off'); wait('off')
bmc.ipmi_session.logout()
print('all steps passed')";

#[tokio::test(flavor = "multi_thread")]
async fn pyghmi_drives_a_bmc() {
    let python = match tokio::task::spawn_blocking(|| python::with("pyghmi", PYGHMI)).await.unwrap() {
        Ok(python) => python,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED: pyghmi as client: {error}");
            return;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path()).await;
    let facts = first(&fleet);
    let mut command = Command::new(python);
    let spec = fleet.servers().next().unwrap();
    command.args(["-c", PYGHMI_STEPS, &spec.bmc_ip.to_string(), &fleet.ipmi_port().unwrap().to_string()]);
    command.args([&spec.username, &spec.password, &facts.serial, &facts.uuid.to_string()]);
    let out = run(command).await;
    assert!(out.contains("all steps passed"), "{out}");
    assert_eq!(common::powers(&fleet, &facts.name), [true, false]);
    let journal = fleet.journal(&facts.name, 0).unwrap();
    assert!(journal.iter().any(|entry| entry.event == JournalEvent::Login { ok: true }));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_strike_commands_too() {
    if !Path::new(IPMITOOL).exists() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: ipmitool as client needs: apt-get install ipmitool");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path()).await;
    let spec = fleet.servers().next().unwrap().clone();
    let faults: Faults = serde_json::from_str(
        r#"{"rules": [{"method": "IPMI", "path": "/ipmi/00/02", "effect": {"status": {"status": 409}}},
                      {"path": "/ipmi/00/01", "times": 1, "effect": "close"}]}"#,
    )
    .unwrap();
    fleet.set_faults(&spec.name, faults).unwrap();
    let ipmitool = |command: &str| ipmitool(&fleet, "17", command).output().unwrap();
    // The first is lost, and asked again.
    let status = tokio::task::block_in_place(|| ipmitool("chassis power status"));
    assert!(String::from_utf8_lossy(&status.stdout).contains("off"), "{status:?}");
    let refused = tokio::task::block_in_place(|| ipmitool("chassis power on"));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("not supported in present state"), "{said}");
    assert_eq!(fleet.status(&spec.name).unwrap().power, Power::Off);
    fleet.stop().await;
}
