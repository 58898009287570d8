//! Rules at work in the driver: what is read is patched, what is sent follows them, and they may change meanwhile.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Fake, Reply, SLOT, SYSTEM, get, probing, refusal, simple};
use ferric_bmc::{BootMethod, BootTarget, PowerAction, Quirks, probe};
use serde_json::{Value, json};
use tokio::time::Instant;

fn rules(text: &str) -> Quirks {
    let (quirks, errors) = Quirks::with(&[("test", text)]);
    assert_eq!(errors, []);
    quirks
}

fn writes(fake: &Fake) -> Vec<common::Asked> {
    let asked = fake.take().into_iter();
    asked.filter(|asked| asked.method != "GET" && !asked.path.contains("/Sessions")).collect()
}

#[tokio::test]
async fn what_is_read_is_patched_first() {
    let (fake, pool, bmc) = simple().await;
    fake.edit(SYSTEM, |system| {
        let boot = system["Boot"].as_object_mut().unwrap();
        boot.remove("HttpBootUri");
        system["PowerState"] = json!("Running");
        let links = system["Links"].as_object_mut().unwrap();
        let manager = links.remove("ManagedBy").unwrap();
        system["Oem"] = json!({"Maker": {"Bmc": manager}});
    });
    // Members that came along with their collection are patched as well.
    fake.edit("/redfish/v1/Systems/1/EthernetInterfaces", |all| {
        all["Members"] = json!([{"@odata.id": "/x", "Id": "x", "@odata.type": "#EthernetInterface.v1_0_0.EthernetInterface",
            "MacAddr": "02:00:00:00:00:09"}]);
    });
    pool.set_quirks(rules(
        "
version: 1
rules:
- name: everything
  seen: a test
  match: {vendor: maker, type: ComputerSystem}
  patch:
  - add: {at: /Boot/HttpBootUri, value: null}
  - map: {at: /PowerState, values: {Running: 'On'}}
  - rename: {from: /Oem/Maker/Bmc, to: /Links/ManagedBy}
- name: nic
  seen: a test
  match: {vendor: maker, type: EthernetInterface}
  patch: [{rename: {from: /MacAddr, to: /MACAddress}}]
- name: firmware
  seen: a test
  match: {vendor: maker, firmware: '>=1.2, <1.3', path: /redfish/v1/Systems/*}
  patch: [{replace: {at: /Model, value: patched}}]
",
    ));
    let facts = bmc.probe().await.unwrap();
    assert_eq!(facts.power.as_str(), "On");
    assert!(facts.boot_methods.contains(&BootMethod::UefiHttp));
    assert_eq!(facts.bmc_firmware.as_deref(), Some("1.2.3"));
    assert_eq!(
        facts.product.as_deref(),
        Some("patched"),
        "the firmware is asked for where a rule asks for it"
    );
    assert_eq!(bmc.inspect().await.unwrap().nics[0].mac, "02:00:00:00:00:09");
    // Other rules from now on.
    pool.set_quirks(rules("version: 1"));
    assert_eq!(bmc.probe().await.unwrap().power.as_str(), "Unknown");
}

#[tokio::test]
async fn what_is_sent_follows_the_rules() {
    let (fake, pool, bmc) = simple().await;
    let settings = "/redfish/v1/Systems/1/Settings";
    fake.edit(SYSTEM, |system| {
        system["@Redfish.Settings"] = json!({"SettingsObject": {"@odata.id": settings}});
    });
    fake.state.lock().unwrap().resources.insert(settings.to_lowercase(), json!({"@odata.etag": "\"7\""}));
    pool.set_quirks(rules(
        "
version: 1
rules:
- name: sending
  seen: a test
  match: {vendor: maker}
  send:
    reset: {'On': ForceOn}
    bootOverride: {through: settings, enabled: Continuous, mode: always}
    virtualMedia: {add: {MediaType: CD, TransferProtocolType: $protocol}, omit: [WriteProtected]}
    ifMatch: any
",
    ));
    bmc.set_power(PowerAction::On).await.unwrap();
    bmc.set_boot(&BootTarget::VirtualMedia { url: "https://192.0.2.1/a.iso".into() }).await.unwrap();
    let sent = writes(&fake);
    assert_eq!(sent[0].body, json!({"ResetType": "ForceOn"}));
    assert_eq!(
        sent[1].body,
        json!({"Image": "https://192.0.2.1/a.iso", "Inserted": true, "MediaType": "CD", "TransferProtocolType": "HTTPS"})
    );
    assert!(sent[2].is("PATCH", settings), "{sent:#?}");
    assert_eq!(
        sent[2].body["Boot"],
        json!({"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Cd", "BootSourceOverrideMode": "UEFI"})
    );
    assert_eq!(sent[2].headers["if-match"], "*");
}

#[tokio::test]
async fn media_by_patch_and_no_tag() {
    let (fake, pool, bmc) = simple().await;
    pool.set_quirks(rules(
        "version: 1
rules:
- {name: a, seen: a test, match: {vendor: maker}, send: {virtualMedia: {insertBy: patch}, ifMatch: none}}",
    ));
    bmc.set_boot(&BootTarget::VirtualMedia { url: "https://192.0.2.1/a.iso".into() }).await.unwrap();
    let sent = writes(&fake);
    assert!(sent[0].is("PATCH", SLOT), "{sent:#?}");
    assert!(sent.iter().all(|write| !write.headers.contains_key("if-match")));
}

#[tokio::test]
async fn a_precondition_that_is_asked_for_is_given() {
    let (fake, _pool, bmc) = simple().await;
    fake.edit(SYSTEM, |system| {
        system.as_object_mut().unwrap().remove("@odata.etag");
    });
    fake.hook(|asked| {
        let refused = asked.method == "PATCH" && !asked.headers.contains_key("if-match");
        refused.then(|| refusal(428, "Ami.1.0.PreconditionHeaderMissing", "If-Match is missing"))
    });
    bmc.set_boot(&BootTarget::Network).await.unwrap();
    let tags: Vec<bool> = writes(&fake).iter().map(|write| write.headers.contains_key("if-match")).collect();
    assert_eq!(tags, [false, true]);
}

#[tokio::test]
async fn the_power_stays_off_as_long_as_a_rule_says() {
    let (fake, pool, bmc) = simple().await;
    pool.set_quirks(rules(
        "version: 1
rules:
- {name: a, seen: a test, match: {vendor: maker}, send: {powerOffWaitSeconds: 1}}",
    ));
    let start = Instant::now();
    bmc.set_power(PowerAction::On).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(writes(&fake)[0].body, json!({"ResetType": "On"}));
    // What is on is switched at once.
    let start = Instant::now();
    bmc.set_power(PowerAction::ForceRestart).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn systems_by_identity() {
    let (fake, pool) = (Fake::simple().await, ferric_bmc::BmcPool::default());
    {
        let mut state = fake.state.lock().unwrap();
        let mut second = state.resources[&SYSTEM.to_lowercase()].clone();
        second["UUID"] = json!("6173ECEC-6EF5-11EE-834A-0A8FC3A58A72");
        second["SerialNumber"] = json!("S2");
        second["PowerState"] = json!("On");
        state.resources.insert("/redfish/v1/systems/2".into(), second);
        let members = json!([{"@odata.id": "/redfish/v1/Systems/1"}, {"@odata.id": "/redfish/v1/Systems/2"}]);
        state.resources.insert("/redfish/v1/systems".into(), json!({ "Members": members }));
    }
    let error = get(&pool, &fake).probe().await.unwrap_err();
    assert!(error.to_string().contains("?uuid= or ?serial="), "{error}");
    for query in
        ["?serial=s2", "?uuid=6173ecec-6ef5-11ee-834a-0a8fc3a58a72", "/redfish/v1/Systems/2?serial=S2"]
    {
        let bmc = pool.get("host", &fake.options(query)).unwrap();
        assert_eq!(bmc.probe().await.unwrap().serial_number.as_deref(), Some("S2"), "{query}");
    }
    // A blade that was put into another place is found there; one that is gone is not confused with its successor.
    let bmc = pool.get("host", &fake.options("?serial=S2")).unwrap();
    bmc.probe().await.unwrap();
    fake.edit("/redfish/v1/Systems/1", |system| system["SerialNumber"] = json!("S2"));
    fake.edit("/redfish/v1/Systems/2", |system| system["SerialNumber"] = json!("S3"));
    assert_eq!(bmc.power().await.unwrap().as_str(), "Off");
    fake.edit("/redfish/v1/Systems/1", |system| system["SerialNumber"] = json!("S1"));
    let error = bmc.set_power(PowerAction::On).await.unwrap_err();
    assert!(
        error.to_string().contains("no system with serial number S2: it has /redfish/v1/Systems/1, "),
        "{error}"
    );
    assert!(writes(&fake).is_empty());
    let wrong = pool.get("host", &fake.options("/redfish/v1/Systems/1?serial=S3")).unwrap();
    let error = wrong.probe().await.unwrap_err();
    assert!(error.to_string().contains("has not serial number S3"), "{error}");
}

#[tokio::test]
async fn a_probe_shows_what_there_is_to_choose_from() {
    let fake = Fake::simple().await;
    fake.edit("/redfish/v1/Systems", |systems| {
        systems["Members"] = json!([{"@odata.id": SYSTEM}, {"@odata.id": "/redfish/v1/Systems/2"}]);
    });
    let probed = probe(probing(&fake, "", true)).await;
    assert_eq!(probed.error.unwrap().reason(), "BMCNoSystem");
    let systems = &probed.survey.systems;
    assert_eq!((systems.len(), systems[0].serial_number.as_deref()), (2, Some("S1")));
    assert!(systems.iter().all(|system| !system.chosen));
    let capture = probed.capture.unwrap();
    assert!(capture.answers.contains_key("/redfish/v1/Managers/1"), "what may tell why is in the capture");
    assert_eq!(capture.answers["/redfish/v1/Systems/2"].status, 404);
}

#[tokio::test]
async fn a_probe_that_is_not_let_in_tells_so() {
    let fake = Fake::simple().await;
    fake.state.lock().unwrap().credentials = Some(("admin".into(), "other".into()));
    let probed = probe(probing(&fake, "", true)).await;
    assert_eq!(probed.error.unwrap().reason(), "BMCUnauthorized");
    let logins = fake.take().iter().filter(|asked| asked.path.ends_with("/Sessions")).count();
    assert_eq!(logins, 1, "accounts are not locked");
    assert!(!serde_json::to_string(&probed.capture).unwrap().contains("secret"));
}

#[tokio::test]
async fn a_probe_ends_in_time() {
    let fake = Fake::simple().await;
    fake.hook(|asked| {
        asked.path.contains("Managers").then(|| Reply::json(200, json!({})).after(Duration::from_secs(60)))
    });
    let mut options = probing(&fake, "", false);
    options.time = Duration::from_millis(300);
    let probed = probe(options).await;
    assert_eq!(probed.error.unwrap().reason(), "BMCTimeout");
    assert_eq!(probed.survey.power, Some("Off"), "what was read until then is shown");
}

#[tokio::test]
async fn a_tree_without_end_ends() {
    let fake = Fake::simple().await;
    let mut count = 0;
    fake.hook(move |asked| {
        let deep = asked.path.contains("/Chassis");
        deep.then(|| {
            count += 1;
            let links: Vec<Value> =
                (0..50).map(|n| json!({"@odata.id": format!("/redfish/v1/Chassis/{count}x{n}")})).collect();
            Reply::json(200, json!({ "Members": links }))
        })
    });
    fake.edit(SYSTEM, |system| system["Links"]["Chassis"] = json!([{"@odata.id": "/redfish/v1/Chassis/0"}]));
    let probed = probe(probing(&fake, "", true)).await;
    assert!(probed.error.is_none(), "{:?}", probed.error);
    assert!(probed.capture.unwrap().answers.len() < 2000);
}
