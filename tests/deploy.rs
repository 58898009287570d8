//! The real agent against the real agent server: TLS, gRPC and images over loopback; only the records are in memory.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "deploy/bench.rs"]
mod bench;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ferric::{
    deploy::{Leadership, Registrar, TaskOutcome, TaskState},
    key::Key,
};
use ferric_agent::{AgentError, Exit};
use ferric_api::host::Image;
use ferric_image::{MemDevice, build_test_image};
use ferric_protocol::{
    BootData,
    tls::{AgentIdentity, client_config},
    v1::{self, Task, TaskErrorCode, task::Work},
};
use http::{StatusCode, header};
use tonic::Code;

use bench::{Agent, Gate, Line, Machine, Provider, Records, Running, image_server, in_an_hour, until};

const MIB: usize = 1024 * 1024;

fn host() -> Key {
    Key::new("racks", "r1-h1")
}

/// Bytes of a disk image with a partition table, and its SHA-256.
fn disk_image(size: usize) -> (Vec<u8>, String) {
    let mut device = MemDevice::new(size);
    let built = build_test_image(&mut device, 7).unwrap();
    (device.to_bytes(), built.sha256)
}

fn spec(url: &url::Url, sha256: &str) -> Image {
    Image { url: url.to_string(), checksum: Some(sha256.into()), ..Default::default() }
}

fn deploy_task(id: &str, url: String, sha256: &str) -> Task {
    let image = v1::Image {
        url,
        checksum_algorithm: v1::ChecksumAlgorithm::Sha256.into(),
        checksum: sha256.into(),
        format: v1::ImageFormat::Raw.into(),
        compression: v1::Compression::None.into(),
        ..Default::default()
    };
    let deploy = v1::Deploy { image: Some(image), ..Default::default() };
    Task { id: id.into(), work: Some(Work::Deploy(deploy)) }
}

fn power_task(id: &str, action: v1::PowerAction) -> Task {
    Task { id: id.into(), work: Some(Work::Power(v1::Power { action: action.into() })) }
}

async fn finished(provider: &mut Running, id: &str) -> TaskState {
    let look = |hub: &ferric::deploy::Hub| {
        let state = hub.view(&host())?.tasks.get(id)?.clone();
        state.is_finished().then_some(state)
    };
    provider.woken_for(&format!("the result of {id}"), look).await
}

fn registrations(records: &Records) -> usize {
    records.registrations.load(Ordering::SeqCst)
}

#[tokio::test]
async fn an_agent_registers_is_inspected_written_and_rebooted() {
    let (bytes, sha256) = disk_image(8 * MIB);
    let (source, _server) = image_server(bytes.clone()).await;
    let provider = Provider::new().await;
    provider.records.begin_boot(&host(), 3);
    let mut running = provider.start().await;
    let machine = Arc::new(Machine::new(16 * MIB));
    let agent = Agent::start(provider.boot(&host(), 3, provider.address), Arc::clone(&machine));

    let view = running.connected(&host()).await;
    assert_eq!(view.boot_number, 3);
    assert_eq!(view.inventory.unwrap().serial_number, "S1");

    running.hub.submit(&host(), Task { id: "i".into(), work: Some(Work::Inspect(v1::Inspect {})) }).unwrap();
    let inspected = finished(&mut running, "i").await;
    assert!(matches!(inspected, TaskState::Succeeded(TaskOutcome::Inspect(i)) if i.disks.len() == 1));

    let image = running.image(&host(), &spec(&source, &sha256)).await;
    let url = provider.url(provider.address).join(&image.path).unwrap();
    running.hub.submit(&host(), deploy_task("d", url.to_string(), &sha256)).unwrap();
    match finished(&mut running, "d").await {
        TaskState::Succeeded(TaskOutcome::Deploy(written)) => {
            assert_eq!((written.root_device.as_str(), written.bytes_written), ("/dev/sda", 8 * MIB as u64));
            assert_eq!(written.download_digest, sha256);
        }
        other => panic!("{other:?}"),
    }
    // The last sectors are the backup partition table, which the agent moves to the end of the larger disk.
    assert!(machine.disk.to_bytes()[MIB..7 * MIB] == bytes[MIB..7 * MIB]);

    running.hub.acknowledge(&host(), "d");
    running.hub.submit(&host(), power_task("p", v1::PowerAction::Reboot)).unwrap();
    assert_eq!(agent.end().await.unwrap(), Exit::Reboot);
    running.woken_for("the agent to be gone", |hub| hub.view(&host()).is_none().then_some(())).await;
    assert_eq!(machine.opened.load(Ordering::SeqCst), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_second_key_with_the_same_token_is_refused() {
    let provider = Provider::new().await;
    provider.records.begin_boot(&host(), 1);
    let running = provider.start().await;
    let boot = provider.boot(&host(), 1, provider.address);
    let first = Agent::start(boot.clone(), Arc::new(Machine::new(MIB)));
    let view = running.connected(&host()).await;
    let second = Agent::start(boot, Arc::new(Machine::new(MIB))).end().await;
    assert!(matches!(second, Err(AgentError::Refused { code: Code::PermissionDenied, .. })), "{second:?}");
    assert_eq!(running.hub.view(&host()), Some(view), "the first one is not disturbed");
    assert_eq!(registrations(&provider.records), 1);
    assert_eq!(running.refused("registration"), 1);
    first.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn a_machine_that_nobody_enrolled_tells_what_it_is_and_nothing_more() {
    let provider = Provider::new().await;
    let running = provider.start().await;
    let boot = provider.discovery(in_an_hour(), provider.address);
    let machine = Arc::new(Machine::new(MIB));
    assert_eq!(Agent::start(boot, machine.clone()).end().await.unwrap(), Exit::PowerOff);
    let told = provider.records.discovered.lock().unwrap().clone();
    let [(fingerprint, serial)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((serial.as_str(), registrations(&provider.records)), ("S1", 0));
    assert_eq!(machine.opened.load(Ordering::SeqCst), 0, "no disk was opened");
    // Its key opens nothing: there is no session for it, so no task, no image and no user data.
    assert!(provider.records.host_for(fingerprint).await.is_none());
    assert_eq!(running.hub.view(&host()), None);

    let late = provider.discovery(jiff::Timestamp::UNIX_EPOCH, provider.address);
    let late = Agent::start(late, machine.clone()).end().await;
    assert!(matches!(late, Err(AgentError::Refused { code: Code::PermissionDenied, .. })), "{late:?}");
    let foreign = Provider::new().await.discovery(in_an_hour(), provider.address);
    let good = provider.discovery(in_an_hour(), provider.address);
    let forged = BootData::new(good.provider_url(), good.ca_sha256(), foreign.token(), good.time()).unwrap();
    let forged = Agent::start(forged, machine).end().await;
    assert!(matches!(forged, Err(AgentError::Refused { code: Code::Unauthenticated, .. })), "{forged:?}");
    assert_eq!((provider.records.discovered.lock().unwrap().len(), running.refused("registration")), (1, 2));
    running.stop().await;
}

#[tokio::test]
async fn tokens_of_others_and_of_other_boots_are_refused() {
    let provider = Provider::new().await;
    provider.records.begin_boot(&host(), 2);
    let running = provider.start().await;
    let address = provider.address;
    let good = provider.boot(&host(), 2, address);
    let with_token =
        |token: &str| BootData::new(good.provider_url(), good.ca_sha256(), token, good.time()).unwrap();
    let foreign = Provider::new().await.boot(&host(), 2, address);
    let past = jiff::Timestamp::from_second(1_000).unwrap();
    let table = [
        (provider.boot(&host(), 1, address), Code::PermissionDenied),
        (provider.boot(&Key::new("racks", "none"), 1, address), Code::PermissionDenied),
        (with_token(&provider.keys.mint(&host(), 2, past).unwrap()), Code::PermissionDenied),
        (with_token(foreign.token()), Code::Unauthenticated),
        (with_token("AAAA"), Code::Unauthenticated),
    ];
    for (boot, expected) in table {
        let end = Agent::start(boot, Arc::new(Machine::new(MIB))).end().await;
        assert!(matches!(&end, Err(AgentError::Refused { code, .. }) if *code == expected), "{end:?}");
    }
    assert_eq!(registrations(&provider.records), 0);
    assert_eq!(running.refused("registration"), 5);
    running.stop().await;
}

#[tokio::test]
async fn the_same_key_may_come_again() {
    let provider = Provider::new().await;
    provider.records.begin_boot(&host(), 1);
    let mut running = provider.start().await;
    let line = Line::to(provider.address).await;
    let agent = Agent::start(provider.boot(&host(), 1, line.address), Arc::new(Machine::new(MIB)));
    let before = running.connected(&host()).await;
    line.cut();
    let since = before.connected_since;
    let again = |hub: &ferric::deploy::Hub| hub.view(&host()).filter(|v| v.connected_since != since);
    let after = running.woken_for("the agent to come again", again).await;
    assert_eq!(after.fingerprint, before.fingerprint);
    assert_eq!(registrations(&provider.records), 1, "its registration still counts");
    agent.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn a_restart_of_the_provider_in_the_middle_of_a_deploy_does_not_disturb_it() {
    let (bytes, sha256) = disk_image(32 * MIB);
    let (source, _server) = image_server(bytes.clone()).await;
    let provider = Provider::new().await;
    provider.records.begin_boot(&host(), 1);
    let mut running = provider.start().await;
    let gate = Arc::new(Gate::default());
    let disk = Machine { gate: Some((2 * MIB as u64, Arc::clone(&gate))), ..Machine::new(32 * MIB) };
    let machine = Arc::new(disk);
    let agent = Agent::start(provider.boot(&host(), 1, provider.address), Arc::clone(&machine));
    let before = running.connected(&host()).await;

    let image = running.image(&host(), &spec(&source, &sha256)).await;
    let url = provider.url(provider.address).join(&image.path).unwrap();
    let task = deploy_task("d", url.to_string(), &sha256);
    running.hub.submit(&host(), task.clone()).unwrap();
    until("the write to be under way", || gate.is_reached().then_some(())).await;
    running.stop().await;

    let mut running = provider.start().await;
    let after = running.connected(&host()).await;
    assert_eq!((after.fingerprint, after.boot_number), (before.fingerprint, 1));
    assert!(matches!(after.tasks["d"], TaskState::Running { .. }), "the agent says what it runs");
    // As a controller does that finds a write begun and not finished.
    running.hub.submit(&host(), task).unwrap();
    gate.open();
    let result = finished(&mut running, "d").await;
    assert!(matches!(result, TaskState::Succeeded(TaskOutcome::Deploy(_))), "{result:?}");
    assert!(machine.disk.to_bytes() == bytes);
    assert_eq!(machine.opened.load(Ordering::SeqCst), 1, "written once");
    assert_eq!(registrations(&provider.records), 1);

    // A result that was not acknowledged comes again in the next session, also to a provider that never heard of it.
    running.stop().await;
    let mut running = provider.start().await;
    assert_eq!(finished(&mut running, "d").await, result);
    agent.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn a_forgotten_host_is_left_alone_by_its_agent() {
    let provider = Provider::new().await;
    provider.records.begin_boot(&host(), 1);
    let mut running = provider.start().await;
    let agent = Agent::start(provider.boot(&host(), 1, provider.address), Arc::new(Machine::new(MIB)));
    running.connected(&host()).await;
    provider.records.begin_boot(&host(), 2);
    running.hub.forget(&host());
    let end = agent.end().await;
    assert!(matches!(end, Err(AgentError::Refused { code: Code::PermissionDenied, .. })), "{end:?}");
    assert_eq!(running.hub.view(&host()), None);
    running.woken.close();
    running.stop().await;
}

#[tokio::test]
async fn a_standby_sends_agents_away_and_a_deposed_leader_lets_them_go() {
    let provider = Provider::new().await;
    provider.records.begin_boot(&host(), 1);
    let mut running = provider.start().await;
    let agent = Agent::start(provider.boot(&host(), 1, provider.address), Arc::new(Machine::new(MIB)));
    running.connected(&host()).await;
    let standby = Leadership::Standby { holder: Some("ferric-1.example:8443".into()) };
    running.leader.send(standby).unwrap();
    running.woken_for("the session to end", |hub| hub.view(&host()).is_none().then_some(())).await;

    let identity = AgentIdentity::generate().unwrap();
    provider.records.admit(&Key::new("racks", "other"), 1, identity.fingerprint());
    let url = format!("{}images/sha256:{}", provider.url(provider.address), "ab".repeat(32));
    let answer = client(&provider, &identity, b"http/1.1").get(url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key(header::RETRY_AFTER));
    assert!(answer.text().await.unwrap().contains("ferric-1.example:8443"));

    running.leader.send(Leadership::Leader).unwrap();
    running.connected(&host()).await;
    agent.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn an_agent_that_was_told_another_ca_does_not_talk() {
    let provider = Provider::new().await;
    provider.records.begin_boot(&host(), 1);
    let running = provider.start().await;
    let line = Line::to(provider.address).await;
    let good = provider.boot(&host(), 1, line.address);
    let wrong = BootData::new(good.provider_url(), &"ab".repeat(32), good.token(), good.time()).unwrap();
    let agent = Agent::start(wrong, Arc::new(Machine::new(MIB)));
    until("a few tries", || (line.dialled.load(Ordering::SeqCst) >= 4).then_some(())).await;
    assert_eq!(registrations(&provider.records), 0);
    assert_eq!(running.hub.view(&host()), None);
    agent.stop().await;
    running.stop().await;
}

/// An HTTP client with an agent's certificate.
fn client(provider: &Provider, identity: &AgentIdentity, alpn: &[u8]) -> reqwest::Client {
    let boot = provider.boot(&host(), 1, provider.address);
    let mut tls = client_config(&boot, identity).unwrap();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let builder = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
    builder.timeout(Duration::from_secs(30)).build().unwrap()
}

#[tokio::test]
async fn images_are_served_whole_and_in_parts_to_agents_only() {
    let (bytes, sha256) = disk_image(5 * MIB);
    let (source, _server) = image_server(bytes.clone()).await;
    let provider = Provider::new().await;
    let mut running = provider.start().await;
    let image = running.image(&host(), &spec(&source, &sha256)).await;
    let url = provider.url(provider.address).join(&image.path).unwrap();
    let identity = AgentIdentity::generate().unwrap();
    let get = |alpn: &[u8], range: &str| {
        let request = client(&provider, &identity, alpn).get(url.clone());
        if range.is_empty() { request } else { request.header(header::RANGE, range) }
    };
    let unknown = get(b"http/1.1", "").send().await.unwrap();
    assert_eq!(unknown.status(), StatusCode::SERVICE_UNAVAILABLE, "it may be known in a moment");

    provider.records.admit(&host(), 1, identity.fingerprint());
    for alpn in [b"http/1.1".as_slice(), b"h2"] {
        let whole = get(alpn, "").send().await.unwrap();
        assert_eq!((whole.status(), whole.content_length()), (StatusCode::OK, Some(5 * MIB as u64)));
        assert!(whole.bytes().await.unwrap() == bytes);
        let part = get(alpn, "bytes=1000000-").send().await.unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        let range = format!("bytes 1000000-{}/{}", 5 * MIB - 1, 5 * MIB);
        assert_eq!(part.headers()[header::CONTENT_RANGE], range.as_str());
        assert!(part.bytes().await.unwrap() == bytes[1_000_000..]);
    }
    let behind = get(b"http/1.1", "bytes=99999999-").send().await.unwrap();
    assert_eq!(behind.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let other_version =
        get(b"http/1.1", "bytes=5-").header(header::IF_RANGE, "\"other\"").send().await.unwrap();
    assert_eq!(other_version.status(), StatusCode::OK);
    for path in ["/images/..%2f..%2fetc%2fpasswd", "/images/sha256:zz", "/"] {
        let bad = url.join(path).unwrap();
        let answer = client(&provider, &identity, b"http/1.1").get(bad).send().await.unwrap();
        assert!([StatusCode::NOT_FOUND, StatusCode::OK].contains(&answer.status()), "{path}");
        assert!(answer.bytes().await.unwrap().len() < 100, "{path}");
    }
    let anonymous =
        reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().build().unwrap();
    assert!(anonymous.get(url.clone()).send().await.is_err(), "no certificate, no connection");
    running.stop().await;
}

#[tokio::test]
async fn no_more_images_than_allowed_are_sent_at_once() {
    let (bytes, sha256) = disk_image(32 * MIB);
    let (source, _server) = image_server(bytes.clone()).await;
    let mut provider = Provider::new().await;
    provider.limits.image_streams = 1;
    let mut running = provider.start().await;
    let image = running.image(&host(), &spec(&source, &sha256)).await;
    let url = provider.url(provider.address).join(&image.path).unwrap();
    let identities = [AgentIdentity::generate().unwrap(), AgentIdentity::generate().unwrap()];
    for (n, identity) in identities.iter().enumerate() {
        provider.records.admit(&Key::new("racks", format!("h{n}")), 1, identity.fingerprint());
    }
    let get = |n: usize| client(&provider, &identities[n], b"http/1.1").get(url.clone()).send();
    // More than the buffers in between hold, so that it is not sent before it is read.
    let first = get(0).await.unwrap();
    let second = get(1).await.unwrap();
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(second.headers().contains_key(header::RETRY_AFTER));
    assert!(first.bytes().await.unwrap() == bytes);
    let mut again = get(1).await.unwrap();
    while again.status() == StatusCode::SERVICE_UNAVAILABLE {
        again = get(1).await.unwrap();
    }
    assert!(again.bytes().await.unwrap() == bytes);
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_checksum_that_only_the_agent_notices_is_a_failed_task() {
    let (bytes, sha256) = disk_image(5 * MIB);
    let (source, _server) = image_server(bytes).await;
    let provider = Provider::new().await;
    provider.records.begin_boot(&host(), 1);
    let mut running = provider.start().await;
    let agent = Agent::start(provider.boot(&host(), 1, provider.address), Arc::new(Machine::new(8 * MIB)));
    running.connected(&host()).await;
    let image = running.image(&host(), &spec(&source, &sha256)).await;
    let url = provider.url(provider.address).join(&image.path).unwrap();
    running.hub.submit(&host(), deploy_task("d", url.to_string(), &"cd".repeat(32))).unwrap();
    let failed = finished(&mut running, "d").await;
    assert!(matches!(failed, TaskState::Failed { code: TaskErrorCode::ChecksumMismatch, .. }), "{failed:?}");
    agent.stop().await;
    running.stop().await;
}
