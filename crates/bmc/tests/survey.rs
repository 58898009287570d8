//! The probe and its captures against captured trees of real BMCs of four vendors: what is found, what is written (nothing),
//! and that a redacted capture tells nothing of whose the BMC is and replays alike.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;

use common::Fake;
use common::trees::tree;
use ferric_bmc::{Capture, Probed, Survey, probe};
use serde_json::Value;

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
