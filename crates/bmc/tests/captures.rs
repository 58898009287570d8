//! The driver against captured trees of real BMCs of four vendors. They lie beside the project and are not part of it:
//! where they are absent, the tests say so and pass.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use common::Fake;
use ferric_bmc::{
    Bmc, BmcPool, BootMethod, BootTarget, Capture, PowerAction, PowerState, Probed, Survey, SystemFacts,
    probe,
};
use serde_json::{Value, json};

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
fn tree(vendor: &str) -> Option<HashMap<String, Value>> {
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

/// What is expected of one vendor.
struct Expected {
    vendor: &'static str,
    facts: SystemFacts,
    ram_gib: i64,
    cpus: i64,
    cpu_model: &'static str,
    bios: &'static str,
    macs: &'static [&'static str],
    nics: usize,
    disks: usize,
    /// Type, size, model and serial number of one disk.
    disk: (&'static str, i64, &'static str, &'static str),
    /// Most requests that a first probe and a later one may take.
    probe: usize,
    /// The system, the slot that takes the CD, and whether by an action.
    system: &'static str,
    slot: (&'static str, bool),
    media_target: &'static str,
}

async fn check(expected: Expected) {
    let Some(tree) = tree(expected.vendor) else { return };
    let fake = Fake::start(tree.clone()).await;
    let pool = BmcPool::default();
    let bmc = pool.get("host", &fake.options("")).unwrap();

    let facts = bmc.probe().await.unwrap();
    assert_eq!(facts, expected.facts);
    let first = fake.take_log();
    assert!(first.len() <= expected.probe, "{} requests: {first:#?}", first.len());
    bmc.probe().await.unwrap();
    let again = fake.take_log();
    assert_eq!(again.len(), 2, "{again:#?}");
    assert_eq!(bmc.power().await.unwrap(), PowerState::On);
    assert_eq!(fake.take_log(), [format!("GET {}", expected.system)]);

    let found = bmc.inspect().await.unwrap();
    let asked = fake.take_log();
    assert!(asked.len() <= 120, "{} requests to inspect", asked.len());
    assert_eq!(found.system_vendor.manufacturer, expected.facts.manufacturer.unwrap());
    assert_eq!(found.system_vendor.serial_number, expected.facts.serial_number.unwrap());
    assert_eq!(found.firmware.bios.version, expected.bios);
    assert_eq!(found.firmware.bmc_version, expected.facts.bmc_firmware.unwrap());
    assert_eq!(found.ram_mebibytes, expected.ram_gib * 1024);
    assert_eq!((found.cpu.count, found.cpu.model.as_str()), (expected.cpus, expected.cpu_model));
    assert_eq!(found.cpu.arch, "x86_64");
    assert!(found.cpu.clock_megahertz > 1000);
    assert_eq!(found.nics.len(), expected.nics, "{:#?}", found.nics);
    for mac in expected.macs {
        assert!(found.nics.iter().any(|nic| nic.mac == *mac), "{mac} in {:#?}", found.nics);
    }
    assert_eq!(found.storage.len(), expected.disks, "{:#?}", found.storage);
    let (kind, size, model, serial) = expected.disk;
    let disk = found.storage.iter().find(|disk| disk.serial_number == serial).unwrap();
    assert_eq!((disk.disk_type.as_str(), disk.size_bytes, disk.model.as_str()), (kind, size, model));

    boots(&fake, &bmc, expected.system, expected.slot, expected.media_target).await;
    let before = fake.take();
    power(&fake, &bmc, expected.system).await;
    allowed(&tree, before.iter().chain(&fake.take()));
}

/// Every change of power from both states. What cannot be done is refused without a write.
async fn power(fake: &Fake, bmc: &Arc<dyn Bmc>, system: &str) {
    use PowerAction::{ForceOff, ForceRestart, GracefulShutdown, On, PowerCycle};
    for state in ["On", "Off"] {
        for action in [On, ForceOff, GracefulShutdown, ForceRestart, PowerCycle] {
            fake.edit(system, |system| system["PowerState"] = json!(state));
            bmc.set_power(action).await.unwrap();
        }
    }
}

/// No write outside what the tree allows: actions at their targets with values that are listed, changes of resources that
/// are there, of keys that are there.
fn allowed<'a>(tree: &HashMap<String, Value>, asked: impl Iterator<Item = &'a common::Asked>) {
    let listed = |list: Option<&Value>, value: &Value| {
        list.and_then(Value::as_array).is_none_or(|list| list.contains(value))
    };
    let mut writes = 0;
    for write in asked.filter(|asked| asked.method != "GET" && !asked.path.ends_with("/Sessions")) {
        writes += 1;
        let path = write.path.trim_end_matches('/');
        match write.method.as_str() {
            "POST" => {
                let action = tree
                    .values()
                    .filter_map(|resource| resource.pointer("/Actions")?.as_object())
                    .flat_map(serde_json::Map::values)
                    .find(|action| action["target"] == path)
                    .unwrap_or_else(|| panic!("no action has the target {path}"));
                if let Some(reset) = write.body.get("ResetType") {
                    let info = action.get("@Redfish.ActionInfo").and_then(Value::as_str);
                    let info = info.map(|info| &tree[info]["Parameters"][0]["AllowableValues"]);
                    assert!(
                        listed(action.get("ResetType@Redfish.AllowableValues").or(info), reset),
                        "{reset}"
                    );
                }
            }
            "PATCH" => {
                let resource = tree.get(path).unwrap_or_else(|| panic!("there is no {path}"));
                for (key, value) in write.body.as_object().unwrap() {
                    assert!(resource.get(key).is_some(), "{path} has no {key}");
                    for (inner, value) in value.as_object().into_iter().flatten() {
                        assert!(resource[key].get(inner).is_some(), "{path} has no {key}/{inner}");
                        let list = resource[key].get(format!("{inner}@Redfish.AllowableValues"));
                        assert!(listed(list, value), "{path}: {inner} may not be {value}");
                    }
                }
            }
            "DELETE" => assert!(path.contains("/Sessions/"), "{path}"),
            other => panic!("{other} {path}"),
        }
    }
    assert!(writes > 5, "{writes}");
}

async fn boots(fake: &Fake, bmc: &Arc<dyn Bmc>, system: &str, slot: (&str, bool), media_target: &str) {
    let (slot, by_action) = slot;
    let url = "https://192.0.2.1/boot/one-time.iso".to_owned();
    bmc.set_boot(&BootTarget::VirtualMedia { url: url.clone() }).await.unwrap();
    let writes: Vec<_> = fake.take().into_iter().filter(|asked| asked.method != "GET").collect();
    let insert = if by_action { format!("{slot}/Actions/VirtualMedia.InsertMedia") } else { slot.to_owned() };
    assert_eq!(writes.len(), 2, "{writes:#?}");
    assert!(writes[0].is(if by_action { "POST" } else { "PATCH" }, &insert), "{writes:#?}");
    assert_eq!(writes[0].body["Image"], json!(url));
    assert!(writes[1].is("PATCH", system));
    assert_eq!(writes[1].body["Boot"]["BootSourceOverrideTarget"], media_target);
    assert_eq!(writes[1].body["Boot"]["BootSourceOverrideEnabled"], "Once");

    bmc.set_boot(&BootTarget::Disk).await.unwrap();
    assert_eq!(fake.resource(slot)["Inserted"], false);
    assert_eq!(fake.resource(system)["Boot"]["BootSourceOverrideEnabled"], "Disabled");
    bmc.set_boot(&BootTarget::Network).await.unwrap();
    assert_eq!(fake.resource(system)["Boot"]["BootSourceOverrideTarget"], "Pxe");
}

fn facts(maker: &str, product: &str, uuid: &str, serial: &str, firmware: &str) -> SystemFacts {
    SystemFacts {
        system_uuid: Some(uuid.into()),
        serial_number: Some(serial.into()),
        manufacturer: Some(maker.into()),
        product: Some(product.into()),
        bmc_firmware: Some(firmware.into()),
        power: PowerState::On,
        // All of them list UefiHttp or not, but none takes a URL for it.
        boot_methods: vec![BootMethod::VirtualMedia, BootMethod::Network],
        macs: Vec::new(),
        health: Some("OK".into()),
    }
}

#[tokio::test]
async fn dell() {
    let uuid = "4c4c4544-0035-3410-8050-c6c04f314733";
    check(Expected {
        vendor: "dell",
        facts: facts("Dell Inc.", "PowerEdge R750", uuid, "F54P1G3", "6.00.30.00"),
        ram_gib: 512,
        cpus: 72,
        cpu_model: "Intel(R) Xeon(R) Gold 6354 CPU @ 3.00GHz",
        bios: "1.8.2",
        macs: &["70:b5:e8:f0:52:dc", "e4:3d:1a:13:27:f0", "b8:3f:d2:90:97:c4"],
        nics: 5,
        disks: 3,
        disk: ("NVME", 1_920_383_410_176, "Dell Ent NVMe CM6 RI 1.92TB", "61P0A06CTCD8"),
        probe: 7,
        system: "/redfish/v1/Systems/System.Embedded.1",
        slot: ("/redfish/v1/Systems/System.Embedded.1/VirtualMedia/1", true),
        media_target: "Cd",
    })
    .await;
}

#[tokio::test]
async fn hpe() {
    let uuid = "34383350-3131-584d-5133-303230393953";
    check(Expected {
        vendor: "hpe",
        facts: SystemFacts {
            health: Some("Critical".into()),
            ..facts("HPE", "ProLiant DL385 Gen10 Plus v2", uuid, "MXQ302099S", "iLO 5 v2.72")
        },
        ram_gib: 1024,
        cpus: 256,
        cpu_model: "AMD EPYC 7763 64-Core Processor",
        bios: "A42 v2.60 (08/11/2022)",
        macs: &["50:7c:6f:11:f2:a6", "b8:3f:d2:d7:f7:4a"],
        nics: 7,
        disks: 18,
        disk: ("NVME", 6_401_252_745_216, "MZXLR6T4HALA-000H3", "S6C1NA0TA01511"),
        probe: 8,
        system: "/redfish/v1/Systems/1",
        slot: ("/redfish/v1/Managers/1/VirtualMedia/2", true),
        media_target: "Cd",
    })
    .await;
}

#[tokio::test]
async fn lenovo() {
    let uuid = "6173ecec-6ef5-11ee-834a-0a8fc3a58a71";
    check(Expected {
        vendor: "lenovo",
        facts: facts("Lenovo", "ThinkSystem SR670 V2", uuid, "J105958B", "TGBT42S 2.83 2023-07-05"),
        ram_gib: 1024,
        cpus: 128,
        cpu_model: "Intel(R) Xeon(R) Platinum 8362 CPU @ 2.80GHz",
        bios: "U8E122J",
        macs: &["00:62:0b:4c:28:4e", "00:62:0b:4c:28:51"],
        nics: 4,
        disks: 4,
        disk: ("NVME", 960_000_000_000, "Micron_7450_MTFDKBA960TFR", "233442ABA3AB"),
        probe: 7,
        system: "/redfish/v1/Systems/1",
        slot: ("/redfish/v1/Systems/1/VirtualMedia/EXT1", false),
        media_target: "Cd",
    })
    .await;
}

#[tokio::test]
async fn supermicro() {
    let uuid = "00000000-0000-0000-0000-7cc25550a8ff";
    check(Expected {
        vendor: "supermicro",
        facts: facts("Supermicro", "SYS-821GE-TNHR", uuid, "S889914X3710910", "11.01.01"),
        ram_gib: 2048,
        cpus: 128,
        cpu_model: "Intel(R) Xeon(R) Platinum 8462Y+",
        bios: "1.4",
        macs: &["94:6d:ae:91:fb:22", "7c:c2:55:79:3f:8e"],
        nics: 11,
        disks: 8,
        disk: ("NVME", 7_681_501_126_656, "MZQL27T6HBLA-00A07", "S6CKNN0W502286"),
        probe: 7,
        system: "/redfish/v1/Systems/1",
        slot: ("/redfish/v1/Managers/1/VirtualMedia/VirtualMedia1", true),
        media_target: "UsbCd",
    })
    .await;
}

/// What a probe is to find in a tree.
struct Surveyed {
    vendor: &'static str,
    rules: &'static [&'static str],
    secure_boot: (Option<bool>, Option<bool>, &'static str),
    firmware: usize,
    bios: &'static str,
    fans: usize,
    supplies: usize,
    slots: usize,
    reset_types: usize,
    worst: &'static str,
}

async fn surveyed(expected: Surveyed) {
    let Some(tree) = tree(expected.vendor) else { return };
    let fake = Fake::start(tree.clone()).await;
    let Probed { survey, error, capture } = probe(common::probing(&fake, "", true)).await;
    assert!(error.is_none(), "{error:?}");
    let writes: Vec<String> = fake.take_log().into_iter().filter(|asked| !asked.starts_with("GET")).collect();
    assert!(
        writes.iter().all(|write| write.starts_with("POST") || write.starts_with("DELETE"))
            && writes.len() == 2,
        "it logs in and out and writes nothing else: {writes:?}"
    );
    let names: Vec<&str> = survey.quirks.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, expected.rules);
    let secure = survey.secure_boot.clone().unwrap();
    assert_eq!((secure.current, secure.enabled, secure.mode.as_deref().unwrap()), expected.secure_boot);
    assert_eq!(survey.firmware.len(), expected.firmware);
    let has_bios = |item: &ferric_bmc::FirmwareFound| {
        item.version.as_deref().is_some_and(|version| version.contains(expected.bios))
    };
    assert!(survey.firmware.iter().any(has_bios), "{} in {:#?}", expected.bios, survey.firmware);
    let health = &survey.health;
    assert_eq!((health.fans, health.power_supplies), (expected.fans, expected.supplies));
    assert_eq!(health.worst.as_deref(), Some(expected.worst), "{health:?}");
    assert!(
        health.hottest.as_ref().is_some_and(|hottest| (15..110).contains(&hottest.celsius)),
        "{health:?}"
    );
    assert!(health.watts.is_some_and(|watts| (100..10_000).contains(&watts)), "{health:?}");
    assert_eq!(survey.can.media.len(), expected.slots, "{:#?}", survey.can.media);
    assert_eq!(survey.can.media.iter().filter(|slot| slot.chosen).count(), 1);
    assert_eq!(survey.can.reset_types.as_ref().unwrap().len(), expected.reset_types);
    assert_eq!(survey.can.override_mode.as_deref(), Some("UEFI"));
    assert!(survey.would.iter().all(|would| !would.how.starts_with("not possible")), "{:#?}", survey.would);
    assert_eq!(survey.systems.iter().filter(|system| system.chosen).count(), 1);

    let capture = capture.unwrap();
    no_leaks(&tree, &capture);
    // What a user attaches is as good as the BMC itself, but for whose it is.
    let text = serde_json::to_string(&capture).unwrap();
    let replay = Fake::replay(&serde_json::from_str(&text).unwrap()).await;
    let again = probe(common::probing(&replay, "", false)).await;
    assert!(again.error.is_none(), "{:?}", again.error);
    same(&survey, &again.survey);
}

/// Two surveys agree in everything but what tells whose the server is.
fn same(one: &Survey, other: &Survey) {
    assert_eq!(one.can.boot, other.can.boot);
    assert_eq!(one.can.reset_types, other.can.reset_types);
    assert_eq!(one.can.override_targets, other.can.override_targets);
    assert_eq!(one.can.media.len(), other.can.media.len());
    assert_eq!((one.power, &one.secure_boot, &one.health), (other.power, &other.secure_boot, &other.health));
    assert_eq!(one.system_uuid.is_some(), other.system_uuid.is_some());
    assert_eq!(one.would, other.would);
    let rules = |survey: &Survey| survey.quirks.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>();
    assert_eq!(rules(one), rules(other));
    let versions =
        |survey: &Survey| survey.firmware.iter().map(|item| item.version.clone()).collect::<Vec<_>>();
    assert_eq!(versions(one), versions(other));
    let (one, other) = (one.hardware.as_ref().unwrap(), other.hardware.as_ref().unwrap());
    assert_eq!((&one.cpu, one.ram_mebibytes), (&other.cpu, other.ram_mebibytes));
    assert_eq!(one.firmware, other.firmware);
    assert_eq!(one.nics.len(), other.nics.len());
    let disks = |it: &ferric_api::HardwareDetails| -> Vec<_> {
        it.storage.iter().map(|disk| (disk.size_bytes, disk.model.clone(), disk.disk_type.clone())).collect()
    };
    assert_eq!(disks(one), disks(other));
    assert!(
        one.storage
            .iter()
            .zip(&other.storage)
            .all(|(one, other)| one.serial_number.is_empty() || one.serial_number != other.serial_number)
    );
}

/// Gathers what tells whose a server is, by other means than the redaction does, and looks for it in the capture.
fn no_leaks(tree: &HashMap<String, Value>, capture: &Capture) {
    let text = serde_json::to_string(capture).unwrap().to_lowercase();
    let mut secrets: Vec<String> = Vec::new();
    let read: std::collections::HashSet<&str> = capture.answers.keys().map(String::as_str).collect();
    assert!(read.len() > 50);
    for resource in tree.values() {
        gather("", resource, &mut secrets);
    }
    secrets.sort();
    secrets.dedup();
    assert!(secrets.len() > 20, "{secrets:?}");
    for secret in &secrets {
        if let Some(at) = text.find(secret.as_str()) {
            panic!("{secret} in …{}…", &text[at.saturating_sub(80)..(at + 80).min(text.len())]);
        }
    }
}

fn gather(key: &str, value: &Value, secrets: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| gather(key, value, secrets)),
        Value::Array(list) => list.iter().for_each(|item| gather(key, item, secrets)),
        Value::String(text) => {
            let lower = text.trim().to_lowercase();
            let digits: String = lower.chars().filter(|c| c.is_ascii_hexdigit()).collect();
            let varied = digits.bytes().any(|b| Some(&b) != digits.as_bytes().first());
            let is_mac = lower.len() == 17 && digits.len() == 12 && lower.matches([':', '-']).count() == 5;
            let is_uuid = lower.len() == 36 && digits.len() == 32 && lower.matches('-').count() == 4;
            if (is_mac || is_uuid) && varied {
                if is_mac {
                    secrets.push(digits);
                }
                secrets.push(lower.clone());
            }
            let telling = ["SerialNumber", "ServiceTag", "ChassisServiceTag", "HostName"].contains(&key);
            let placeholder =
                ["not available", "n/a", "none", "unknown", "null", "notavailable"].contains(&lower.as_str());
            if telling
                && lower.len() > 5
                && !placeholder
                && lower.bytes().any(|b| b.is_ascii_digit() && b != b'0')
            {
                secrets.push(lower.clone());
            }
            if let Ok(address) = lower.parse::<std::net::Ipv4Addr>()
                && ["Address", "Gateway", "NameServers", "StaticNameServers", "DNSServers"].contains(&key)
                && !matches!(address.octets()[0], 0 | 127 | 255)
            {
                secrets.push(lower);
            }
        }
        _ => {}
    }
}

#[tokio::test]
async fn dell_surveyed() {
    surveyed(Surveyed {
        vendor: "dell",
        rules: &["dell-service-tag"],
        secure_boot: (Some(false), Some(false), "DeployedMode"),
        firmware: 29,
        bios: "1.8.2",
        fans: 6,
        supplies: 2,
        slots: 4,
        reset_types: 8,
        worst: "OK",
    })
    .await;
}

#[tokio::test]
async fn hpe_surveyed() {
    surveyed(Surveyed {
        vendor: "hpe",
        rules: &[],
        secure_boot: (Some(false), Some(false), "UserMode"),
        firmware: 48,
        bios: "A42 v2.60",
        fans: 6,
        supplies: 2,
        slots: 2,
        reset_types: 7,
        worst: "Critical",
    })
    .await;
}

#[tokio::test]
async fn lenovo_surveyed() {
    surveyed(Surveyed {
        vendor: "lenovo",
        rules: &[],
        secure_boot: (Some(false), Some(false), "UserMode"),
        firmware: 43,
        bios: "22J-1.51",
        fans: 10,
        supplies: 4,
        slots: 20,
        reset_types: 7,
        worst: "OK",
    })
    .await;
}

#[tokio::test]
async fn supermicro_surveyed() {
    surveyed(Surveyed {
        vendor: "supermicro",
        rules: &["supermicro-usb-cd", "supermicro-override-mode"],
        secure_boot: (Some(false), Some(false), "SetupMode"),
        firmware: 106,
        bios: "Ver 1.4",
        fans: 6,
        supplies: 8,
        slots: 3,
        reset_types: 8,
        worst: "OK",
    })
    .await;
}
