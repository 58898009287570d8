//! The driver against captured trees of real BMCs of four vendors. They lie beside the project and are not part of it:
//! where they are absent, the tests say so and pass.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::sync::Arc;

use common::Fake;
use common::trees::tree;
use ferric_bmc::{Bmc, BmcPool, BootMethod, BootTarget, PowerAction, PowerState, SystemFacts, UnhealthyPart};
use serde_json::{Value, json};

/// What is expected of one vendor.
struct Expected {
    vendor: &'static str,
    facts: SystemFacts,
    ram_gib: i64,
    cpus: i64,
    cpu_model: &'static str,
    bios: &'static str,
    macs: &'static [&'static str],
    /// Of those, the ones that no adapter of the chassis has.
    no_card: &'static [&'static str],
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
    /// MAC addresses and address of the BMC itself.
    manager: (&'static [&'static str], &'static str),
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
    assert!(found.firmware.components.iter().any(|it| !it.version.is_empty()), "{:#?}", found.firmware);
    assert!(found.firmware.components.len() <= 128 && found.secure_boot_enabled.is_some(), "{found:#?}");
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

    let manager = bmc.manager_facts().await.unwrap();
    let asked = fake.take_log();
    assert!(asked.len() <= 7, "{asked:#?}");
    let macs: Vec<String> = manager.macs.iter().map(ToString::to_string).collect();
    let addresses: Vec<String> = manager.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(macs, expected.manager.0);
    assert_eq!(addresses, [expected.manager.1]);
    assert!(!manager.shared && manager.system_guid.is_none());

    // Without its list of interfaces the cards in the chassis are found.
    let links = fake.resource(expected.system)["EthernetInterfaces"].clone();
    fake.edit(expected.system, |system| system["EthernetInterfaces"] = Value::Null);
    let cards = bmc.inspect().await.unwrap().nics;
    assert!(cards.len() + 4 >= expected.nics, "{cards:#?}");
    for mac in expected.macs.iter().filter(|mac| !expected.no_card.contains(mac)) {
        assert!(cards.iter().any(|nic| nic.mac == *mac), "{mac} in {cards:#?}");
    }
    fake.edit(expected.system, |system| system["EthernetInterfaces"] = links);
    fake.take();

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
        unhealthy: Vec::new(),
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
        no_card: &[],
        nics: 5,
        disks: 3,
        disk: ("NVME", 1_920_383_410_176, "Dell Ent NVMe CM6 RI 1.92TB", "61P0A06CTCD8"),
        probe: 7,
        system: "/redfish/v1/Systems/System.Embedded.1",
        slot: ("/redfish/v1/Systems/System.Embedded.1/VirtualMedia/1", true),
        media_target: "Cd",
        manager: (&["b0:7b:25:d6:51:82"], "192.168.247.199"),
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
            unhealthy: vec![UnhealthyPart {
                name: "Secondary Storage Device".into(),
                health: "Critical".into(),
            }],
            ..facts("HPE", "ProLiant DL385 Gen10 Plus v2", uuid, "MXQ302099S", "iLO 5 v2.72")
        },
        ram_gib: 1024,
        cpus: 256,
        cpu_model: "AMD EPYC 7763 64-Core Processor",
        bios: "A42 v2.60 (08/11/2022)",
        macs: &["50:7c:6f:11:f2:a6", "b8:3f:d2:d7:f7:4a"],
        no_card: &["50:7c:6f:11:f2:a6"],
        nics: 7,
        disks: 18,
        disk: ("NVME", 6_401_252_745_216, "MZXLR6T4HALA-000H3", "S6C1NA0TA01511"),
        // It is not well, and is asked for the part.
        probe: 30,
        system: "/redfish/v1/Systems/1",
        slot: ("/redfish/v1/Managers/1/VirtualMedia/2", true),
        media_target: "Cd",
        manager: (&["5c:ed:8c:34:c2:94", "5c:ed:8c:34:c2:95"], "192.168.198.84"),
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
        no_card: &[],
        nics: 4,
        disks: 4,
        disk: ("NVME", 960_000_000_000, "Micron_7450_MTFDKBA960TFR", "233442ABA3AB"),
        probe: 7,
        system: "/redfish/v1/Systems/1",
        slot: ("/redfish/v1/Systems/1/VirtualMedia/EXT1", false),
        media_target: "Cd",
        manager: (&["08:8f:c3:a5:8a:6f", "08:8f:c3:a5:8a:70"], "192.168.155.147"),
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
        no_card: &[],
        nics: 11,
        disks: 8,
        disk: ("NVME", 7_681_501_126_656, "MZQL27T6HBLA-00A07", "S6CKNN0W502286"),
        probe: 7,
        system: "/redfish/v1/Systems/1",
        slot: ("/redfish/v1/Managers/1/VirtualMedia/VirtualMedia1", true),
        media_target: "UsbCd",
        manager: (&["7c:c2:55:50:a8:ff"], "192.168.133.92"),
    })
    .await;
}
