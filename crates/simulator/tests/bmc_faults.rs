//! What a client meets when something is wrong with a BMC.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{client, fleet, redfish, reset, wait_for};
use ferric_simulator::{BmcFault, Faults, Fleet, FleetConfig, JournalEvent, Power};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

fn fault(bmc: BmcFault) -> Faults {
    Faults { bmc: Some(bmc), ..Faults::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_fail_in_the_way_they_are_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, name) = fleet(folder.path(), 1, 2).await;
    let spec = fleet.servers().next().unwrap().clone();
    let url = format!("{}/redfish/v1/Systems/1", fleet.bmc_url(&spec));
    let client = client(&fleet);
    let get = || client.get(&url).basic_auth(&spec.username, Some(&spec.password)).send();
    assert_eq!(get().await.unwrap().status(), 200);

    fleet.set_faults(&name, fault(BmcFault::Unreachable)).unwrap();
    assert!(get().await.is_err(), "an open connection is closed as well");
    fleet.set_faults(&name, fault(BmcFault::Unavailable)).unwrap();
    assert_eq!(get().await.unwrap().status(), 503);
    fleet.set_faults(&name, fault(BmcFault::Garbage)).unwrap();
    let garbage = get().await.unwrap();
    assert_eq!(garbage.status(), 500);
    assert!(serde_json::from_slice::<Value>(&garbage.bytes().await.unwrap()).is_err());
    fleet.set_faults(&name, fault(BmcFault::Hangs)).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), get()).await.is_err());
    let other = fleet.servers().nth(1).unwrap().name.clone();
    assert_eq!(
        redfish(&fleet, &other, "GET", "/Systems/1", Value::Null).await.0,
        200,
        "the neighbour is well"
    );

    fleet.set_faults(&name, Faults::default()).unwrap();
    assert_eq!(get().await.unwrap().status(), 200);
    fleet.set_faults(&name, Faults { password: Some("changed".to_owned()), ..Faults::default() }).unwrap();
    assert_eq!(get().await.unwrap().status(), 401);
    assert_eq!(fleet.status(&name).unwrap().counters.refused, 1);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_etags_and_a_journal_of_writes() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, name) = fleet(folder.path(), 2, 2).await;
    let spec = fleet.servers().next().unwrap().clone();
    let base = fleet.bmc_url(&spec);
    let client = client(&fleet);
    let login = json!({"UserName": spec.username, "Password": spec.password}).to_string();
    let sessions = format!("{base}/redfish/v1/SessionService/Sessions");
    let session = client.post(&sessions).body(login).send().await.unwrap();
    assert_eq!(session.status(), 201);
    let token = session.headers()["x-auth-token"].clone();
    let location = session.headers()["location"].to_str().unwrap().to_owned();

    let system = format!("{base}/redfish/v1/Systems/1");
    let read = client.get(&system).header("x-auth-token", &token).send().await.unwrap();
    let etag = read.headers()["etag"].clone();
    let patch = |tag: &str, target: &str| {
        let body = json!({"Boot": {"BootSourceOverrideTarget": target, "BootSourceOverrideEnabled": "Once"}});
        client
            .patch(&system)
            .header("x-auth-token", &token)
            .header("if-match", tag)
            .body(body.to_string())
            .send()
    };
    assert_eq!(patch(etag.to_str().unwrap(), "Hdd").await.unwrap().status(), 204);
    assert_eq!(patch(etag.to_str().unwrap(), "Pxe").await.unwrap().status(), 412, "it has changed since");
    assert_eq!(patch("*", "Pxe").await.unwrap().status(), 204);
    let gone =
        client.delete(format!("{base}{location}")).header("x-auth-token", &token).send().await.unwrap();
    assert_eq!(gone.status(), 204);
    assert_eq!(patch("*", "Cd").await.unwrap().status(), 401);

    let journal = fleet.journal(&name, 0).unwrap();
    let statuses: Vec<u16> = journal
        .iter()
        .filter_map(
            |entry| if let JournalEvent::Write { status, .. } = entry.event { Some(status) } else { None },
        )
        .collect();
    assert_eq!(statuses, [204, 412, 204], "login and logout are no writes");
    assert!(matches!(journal[0].event, JournalEvent::Login { ok: true }));
    assert!(fleet.journal(&name, journal[0].seq).unwrap().len() == journal.len() - 1);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_that_sticks_or_takes_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, name) = fleet(folder.path(), 3, 2).await;
    fleet.set_faults(&name, Faults { power_stuck: true, ..Faults::default() }).unwrap();
    reset(&fleet, &name, "On").await;
    let (_, system) = redfish(&fleet, &name, "GET", "/Systems/1", Value::Null).await;
    assert_eq!(system["PowerState"], "Off");

    fleet.set_faults(&name, Faults { power_delay_ms: Some(60_000), ..Faults::default() }).unwrap();
    reset(&fleet, &name, "On").await;
    let (_, system) = redfish(&fleet, &name, "GET", "/Systems/1", Value::Null).await;
    assert_eq!(system["PowerState"], "PoweringOn");
    fleet.set_faults(&name, Faults::default()).unwrap();
    reset(&fleet, &name, "ForceOff").await;
    wait_for(&fleet, &name, LIMIT, "power off", |s| s.power == Power::Off).await;
    reset(&fleet, &name, "On").await;
    wait_for(&fleet, &name, LIMIT, "empty disk", |s| s.state == "NoBootableDisk").await;

    // The same fleet again: off, with its authority and its disks.
    let ca = fleet.ca_pem().to_owned();
    fleet.stop().await;
    drop(fleet);
    let mut config = FleetConfig::new(2, folder.path());
    config.base_address = [127, 77, 3, 1].into();
    let again = Fleet::start(config).await.unwrap();
    assert_eq!((again.ca_pem(), again.status(&name).unwrap().power), (ca.as_str(), Power::Off));
    again.stop().await;
}
