//! Faults by rule, and BMCs that lie.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{client, fleet, redfish, reset, wait_for};
use ferric_simulator::{Faults, Fleet, JournalEvent, Power};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

fn rules(effect: Value) -> Faults {
    serde_json::from_value(json!({"rules": [
        {"method": "GET", "path": "/redfish/v1/Systems/1", "times": 1, "effect": effect},
    ]}))
    .unwrap()
}

/// The system's body as bytes, as one request gets it.
async fn system(fleet: &Fleet) -> Result<(u16, Vec<u8>), reqwest::Error> {
    let spec = fleet.servers().next().unwrap().clone();
    let url = format!("{}/redfish/v1/Systems/1", fleet.bmc_url(&spec));
    let answer = client(fleet).get(url).basic_auth(&spec.username, Some(&spec.password)).send().await?;
    Ok((answer.status().as_u16(), answer.bytes().await?.to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_spoiled_as_often_as_the_rule_says() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, name) = fleet(folder.path(), 11, 1).await;
    let whole = system(&fleet).await.unwrap();
    let spoil = async |effect: Value| {
        fleet.set_faults(&name, rules(effect)).unwrap();
        let spoiled = system(&fleet).await;
        assert_eq!(system(&fleet).await.unwrap(), whole, "once only");
        spoiled
    };
    let (status, body) = spoil(json!({"status": {"status": 429, "retryAfter": 3}})).await.unwrap();
    assert_eq!(status, 429);
    assert!(serde_json::from_slice::<Value>(&body).unwrap()["error"]["code"].is_string());
    assert!(spoil(json!("close")).await.is_err());
    let (status, body) = spoil(json!("truncated")).await.unwrap();
    assert_eq!((status, body.as_slice()), (200, &whole.1[..whole.1.len() / 2]));
    let (_, body) = spoil(json!("notJson")).await.unwrap();
    assert!(serde_json::from_slice::<Value>(&body).is_err());
    let (_, body) = spoil(json!({"without": {"places": ["/PowerState", "/Boot/BootSourceOverrideTarget"]}}))
        .await
        .unwrap();
    let value: Value = serde_json::from_slice(&body).unwrap();
    assert!(value.get("PowerState").is_none() && value["Boot"].get("BootSourceOverrideTarget").is_none());
    let (_, body) = spoil(json!({"merged": {"patch": {"PowerState": 7}}})).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["PowerState"], 7);
    let (_, body) =
        spoil(json!({"trickle": {"bytes": 100_000, "chunk": 40_000, "pauseMs": 1}})).await.unwrap();
    assert_eq!(body, vec![b' '; 100_000]);
    let begin = Instant::now();
    assert_eq!(spoil(json!({"delay": {"ms": 300}})).await.unwrap(), whole);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_stays_done_though_nobody_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, name) = fleet(folder.path(), 12, 1).await;
    let spec = fleet.servers().next().unwrap().clone();
    let url = format!("{}/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", fleet.bmc_url(&spec));
    let client = client(&fleet);
    let ask = |reset: &str| {
        client
            .post(&url)
            .basic_auth(&spec.username, Some(&spec.password))
            .body(json!({"ResetType": reset}).to_string())
            .send()
    };
    let faults = |effect: Value| -> Faults {
        serde_json::from_value(json!({"rules": [{"path": "*Reset", "times": 1, "effect": effect}]})).unwrap()
    };
    fleet.set_faults(&name, faults(json!("doneButClose"))).unwrap();
    assert!(ask("On").await.is_err());
    wait_for(&fleet, &name, LIMIT, "power on", |s| s.power == Power::On).await;
    fleet.set_faults(&name, faults(json!({"doneButStatus": {"status": 500}}))).unwrap();
    assert_eq!(ask("ForceOff").await.unwrap().status(), 500);
    wait_for(&fleet, &name, LIMIT, "power off", |s| s.power == Power::Off).await;
    fleet.set_faults(&name, faults(json!({"doneButRestart": {"ms": 400}}))).unwrap();
    assert!(ask("On").await.is_err());
    let begin = Instant::now();
    assert!(system(&fleet).await.is_err(), "it restarts");
    while system(&fleet).await.is_err() {
        assert!(begin.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    wait_for(&fleet, &name, LIMIT, "power on", |s| s.power == Power::On).await;
    let writes = fleet.journal(&name, 0).unwrap();
    let writes = writes.iter().filter(|e| matches!(e.event, JournalEvent::Write { .. })).count();
    assert_eq!(writes, 3);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_that_lies_or_is_late() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, name) = fleet(folder.path(), 13, 1).await;
    let power =
        async || redfish(&fleet, &name, "GET", "/Systems/1", Value::Null).await.1["PowerState"].clone();
    fleet.set_faults(&name, Faults { power_lies: Some(Power::On), ..Faults::default() }).unwrap();
    assert_eq!(power().await, "On");
    fleet.set_faults(&name, Faults { power_lag_ms: Some(3_600_000), ..Faults::default() }).unwrap();
    reset(&fleet, &name, "On").await;
    wait_for(&fleet, &name, LIMIT, "power on", |s| s.power == Power::On).await;
    assert_eq!(power().await, "Off");
    fleet.set_faults(&name, Faults { power_lag_ms: Some(1), ..Faults::default() }).unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(power().await, "On");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_certificates_clocks_media_and_overrides() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, name) = fleet(folder.path(), 14, 1).await;
    let spec = fleet.servers().next().unwrap().clone();
    let login = json!({"UserName": spec.username, "Password": spec.password});

    let full = Faults { session_table_full: true, basic_auth_off: true, ..Faults::default() };
    fleet.set_faults(&name, full).unwrap();
    assert_eq!(redfish(&fleet, &name, "POST", "/SessionService/Sessions", login).await.0, 503);
    assert_eq!(system(&fleet).await.unwrap().0, 401);

    fleet.set_faults(&name, Faults { clock_offset_seconds: Some(-864_000), ..Faults::default() }).unwrap();
    let manager = redfish(&fleet, &name, "GET", "/Managers/1", Value::Null).await.1;
    let clock: jiff::Timestamp = manager["DateTime"].as_str().unwrap().parse().unwrap();
    assert!((jiff::Timestamp::now() - clock).get_seconds() >= 863_990);

    fleet.set_faults(&name, Faults { certificate_changed: true, ..Faults::default() }).unwrap();
    let error = system(&fleet).await.unwrap_err();
    assert!(
        format!("{error:?}").contains("UnknownIssuer") || format!("{error:?}").contains("certificate"),
        "{error:?}"
    );

    let faults = Faults { media_ejects_itself: true, boot_override_forgotten: true, ..Faults::default() };
    fleet.set_faults(&name, faults).unwrap();
    let insert = json!({"Image": "http://127.0.0.1:9/x.iso"});
    let media = "/Managers/1/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia";
    assert_eq!(redfish(&fleet, &name, "POST", media, insert).await.0, 204);
    let boot = json!({"Boot": {"BootSourceOverrideTarget": "Cd", "BootSourceOverrideEnabled": "Once"}});
    assert_eq!(redfish(&fleet, &name, "PATCH", "/Systems/1", boot).await.0, 204);
    let shown = redfish(&fleet, &name, "GET", "/Systems/1", Value::Null).await.1;
    assert_eq!(shown["Boot"]["BootSourceOverrideTarget"], "Cd");
    reset(&fleet, &name, "On").await;
    wait_for(&fleet, &name, LIMIT, "empty disk", |s| s.state == "NoBootableDisk").await;
    assert_eq!(fleet.status(&name).unwrap().media, None);
    fleet.stop().await;
}
