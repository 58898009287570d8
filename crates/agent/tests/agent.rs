//! The agent against a provider in this process: registration, sessions that break, tasks that come twice.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ferric_agent::{AgentError, AgentOptions, Exit};
use ferric_image::{
    BlockDevice, BlockStore, CountingDevice, MemDevice, build_test_image, check_bootable, read_config_drive,
    read_marker,
};
use ferric_protocol::v1::{
    self, CancelTask, Clean, CleanMode, Inspect, Inventory, Phase, Power, PowerAction, Task, TaskErrorCode,
    provider_message, task::Work, task_result::Outcome,
};
use support::{
    Agent, DISK, Machine, NOW, Provider,
    images::{Images, Trouble},
    options, soon,
};
use tonic::Status;

const MIB: u64 = 1 << 20;

fn image(size: u64) -> Vec<u8> {
    let mut device = MemDevice::new(size as usize);
    build_test_image(&mut device, 42).unwrap();
    device.to_bytes()
}

fn task(id: &str, work: Work) -> Task {
    Task { id: id.into(), work: Some(work) }
}

fn power(id: &str, action: PowerAction) -> Task {
    task(id, Work::Power(Power { action: action.into() }))
}

#[track_caller]
fn code(outcome: &Outcome) -> TaskErrorCode {
    match outcome {
        Outcome::Error(error) => error.code(),
        other => panic!("expected an error, got {other:?}"),
    }
}

#[tokio::test]
async fn one_boot_inspects_cleans_deploys_and_reboots() {
    let mut provider = Provider::start().await;
    let machine = Machine::new(32 * MIB);
    let image = image(8 * MIB);
    let packed = zstd_of(&image);
    let images = Images::start(packed.clone(), Some(&provider.pki)).await;
    let mut agent = Agent::start(&provider, machine.clone(), options());
    let mut session = provider.session().await;
    let (fingerprint, inventory) = provider.registered().remove(0);
    assert_eq!((fingerprint, inventory.system_uuid.as_str()), (session.fingerprint.clone(), "u-1"));
    assert!(session.hello().await.running.is_empty());

    match session.complete(&task("inspect", Work::Inspect(Inspect {}))).await {
        Outcome::Inspect(result) => assert_eq!(result.inventory.unwrap().disks[0].name, DISK),
        other => panic!("{other:?}"),
    }
    let clean = Clean { mode: CleanMode::Full.into(), ..Clean::default() };
    match session.complete(&task("clean", Work::Clean(clean))).await {
        Outcome::Clean(result) => {
            let disk = &result.disks[0];
            assert_eq!((disk.device.as_str(), disk.serial.as_str()), (DISK, "D1"));
            assert_eq!((disk.method.as_str(), disk.bytes), ("overwrite", 32 * MIB));
            assert!(disk.verified_samples > 0);
        }
        other => panic!("{other:?}"),
    }
    assert!(machine.bytes().iter().all(|byte| *byte == 0));

    let mut deploy = images.task("deploy", v1::Compression::Zstd);
    if let Some(Work::Deploy(deploy)) = &mut deploy.work {
        deploy.config_drive = Some(v1::ConfigDrive {
            format: v1::ConfigDriveFormat::Nocloud.into(),
            instance_id: "claim-1".into(),
            meta_data: b"instance-id: claim-1\n".to_vec(),
            user_data: b"#cloud-config\n".to_vec(),
            network_data: vec![],
        });
    }
    match session.complete(&deploy).await {
        Outcome::Deploy(result) => {
            assert_eq!((result.root_device.as_str(), result.bytes_written), (DISK, 8 * MIB));
            assert_eq!(result.bytes_read, packed.len() as u64);
            assert_eq!(result.content_hash, format!("blake3:{}", blake3::hash(&image)));
        }
        other => panic!("{other:?}"),
    }
    let mut device = machine.device();
    assert_eq!(check_bootable(&mut device).unwrap().len(), 3);
    assert!(read_marker(&mut device).unwrap().unwrap().contains("seed 42"));
    let drive = read_config_drive(&mut device).unwrap().unwrap();
    assert_eq!(
        (drive.meta_data, drive.user_data),
        (b"instance-id: claim-1\n".to_vec(), b"#cloud-config\n".to_vec())
    );
    // All of the image but its partition table, whose backup was moved to the disk's end.
    let table = 34 * 512;
    assert!(machine.bytes()[table..8 * MIB as usize - table] == image[table..8 * MIB as usize - table]);

    let outcome = session.complete(&power("reboot", PowerAction::Reboot)).await;
    assert!(matches!(outcome, Outcome::Power(result) if result.action() == PowerAction::Reboot));
    assert_eq!(agent.end().await.unwrap(), Exit::Reboot);
    assert_eq!(machine.times_opened(), 2, "once to clean and once to write");
}

#[tokio::test]
async fn a_deploy_survives_broken_downloads_and_sessions_and_writes_once() {
    let mut provider = Provider::start().await;
    let machine = Machine::new(8 * MIB);
    let image = image(8 * MIB);
    let images = Images::start(image.clone(), Some(&provider.pki)).await;
    // Broken, refused, stalled for longer than the patience: then it comes.
    images.trouble([
        Trouble::Status(503),
        Trouble::Break(3_000_000),
        Trouble::Break(0),
        Trouble::Stall(1_500_000),
        Trouble::Status(500),
        Trouble::Break(2_000_001),
    ]);
    let options = AgentOptions { read_timeout: Duration::from_millis(300), ..options() };
    let _agent = Agent::start(&provider, machine.clone(), options);
    let mut session = provider.session().await;
    session.hello().await;
    let deploy = images.task("deploy", v1::Compression::None);
    session.send(&deploy).await;
    while session.progress().await.bytes_done == 0 {}

    // The connection breaks in the middle; the provider comes back, has forgotten all and gives the task again.
    provider.relay.cut();
    let mut session = provider.session().await;
    let hello = session.hello().await;
    assert_eq!(hello.running.len() + hello.finished.len(), 1);
    session.send(&deploy).await;
    session.send(&deploy).await;
    let result = session.result().await;
    assert!(matches!(result.outcome, Some(Outcome::Deploy(_))), "{result:?}");
    assert!(machine.bytes() == image);
    assert_eq!(images.requests(), 7);
    assert!(images.state.partial.load(Ordering::SeqCst) >= 1, "it went on where it had stopped");

    // Not acknowledged: it is told again in the next session, and the same task again is answered by it.
    provider.relay.cut();
    let mut session = provider.session().await;
    assert_eq!(session.hello().await.finished, ["deploy"]);
    assert_eq!(session.result().await, result);
    session.ack("deploy").await;
    session.send(&deploy).await;
    assert_eq!(session.result().await, result);
    provider.relay.cut();
    let mut session = provider.session().await;
    assert!(session.hello().await.finished.is_empty(), "acknowledged");
    assert_eq!((machine.times_opened(), images.requests(), provider.registrations()), (1, 7, 1));
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_sends_all_again() {
    let mut provider = Provider::start().await;
    let machine = Machine::new(4 * MIB);
    let image = image(4 * MIB);
    let images = Images::start(image.clone(), None).await;
    images.state.ranges.store(false, Ordering::SeqCst);
    images.trouble([Trouble::Break(1_000_000), Trouble::Break(500_000), Trouble::Break(3_000_000)]);
    let _agent = Agent::start(&provider, machine.clone(), options());
    let mut session = provider.session().await;
    let outcome = session.complete(&images.task("deploy", v1::Compression::None)).await;
    assert!(matches!(outcome, Outcome::Deploy(_)), "{outcome:?}");
    assert!(machine.bytes() == image);
}

#[tokio::test]
async fn what_goes_wrong_with_an_image_has_a_name() {
    let mut provider = Provider::start().await;
    let machine = Machine::new(8 * MIB);
    let image = image(4 * MIB);
    let images = Images::start(image.clone(), None).await;
    let _agent = Agent::start(&provider, machine.clone(), AgentOptions { download_tries: 2, ..options() });
    let mut session = provider.session().await;

    let mut wrong = images.task("wrong checksum", v1::Compression::None);
    if let Some(Work::Deploy(deploy)) = &mut wrong.work {
        deploy.image.as_mut().unwrap().checksum = "0".repeat(64);
    }
    assert_eq!(code(&session.complete(&wrong).await), TaskErrorCode::ChecksumMismatch);
    assert!(check_bootable(&mut machine.device()).is_err(), "a machine must not boot what was not asked for");

    images.trouble([Trouble::Status(404)]);
    let outcome = session.complete(&images.task("not found", v1::Compression::None)).await;
    assert_eq!(code(&outcome), TaskErrorCode::ImageUnavailable);
    assert_eq!(images.requests(), 2, "what is not there is not asked for twice");

    images.trouble([Trouble::Break(1_000_000), Trouble::Break(1_000)]);
    let outcome = session.complete(&images.task("too much trouble", v1::Compression::None)).await;
    assert_eq!(code(&outcome), TaskErrorCode::ImageUnavailable);
    assert!(matches!(&outcome, Outcome::Error(e) if e.message.contains("2 times")), "{outcome:?}");

    images.trouble([Trouble::Replace(1_000_000)]);
    let outcome = session.complete(&images.task("changed", v1::Compression::None)).await;
    assert_eq!(code(&outcome), TaskErrorCode::ImageUnavailable);
    assert!(
        matches!(&outcome, Outcome::Error(e) if e.message.contains("changed while it was downloaded")),
        "{outcome:?}"
    );

    let outcome = session.complete(&images.task("not gzip", v1::Compression::Gzip)).await;
    assert_eq!(code(&outcome), TaskErrorCode::ImageCorrupt);

    let large = Images::start(vec![1; 9 * MIB as usize], None).await;
    let before = machine.bytes();
    let outcome = session.complete(&large.task("too large", v1::Compression::None)).await;
    assert_eq!(code(&outcome), TaskErrorCode::ImageTooLarge);
    assert!(machine.bytes() == before, "refused before the disk was touched");

    // And after all that a good one is written.
    images.replace(image.clone());
    let outcome = session.complete(&images.task("good", v1::Compression::None)).await;
    assert!(matches!(outcome, Outcome::Deploy(_)), "{outcome:?}");
}

#[tokio::test]
async fn a_foreign_https_server_is_believed_by_its_own_ca_only() {
    let mut provider = Provider::start().await;
    let foreign = support::Pki::new();
    let image = image(4 * MIB);
    let images = Images::start(image.clone(), Some(&foreign)).await;
    let machine = Machine::new(4 * MIB);
    let _agent = Agent::start(&provider, machine.clone(), AgentOptions { download_tries: 1, ..options() });
    let mut session = provider.session().await;
    let outcome = session.complete(&images.task("a", v1::Compression::None)).await;
    assert_eq!(code(&outcome), TaskErrorCode::ImageUnavailable);
    let mut with_ca = images.task("b", v1::Compression::None);
    if let Some(Work::Deploy(deploy)) = &mut with_ca.work {
        deploy.image.as_mut().unwrap().ca_pem = foreign.ca_pem.clone().into_bytes();
    }
    let outcome = session.complete(&with_ca).await;
    assert!(matches!(outcome, Outcome::Deploy(_)), "{outcome:?}");
    assert!(machine.bytes() == image);
}

#[tokio::test]
async fn a_task_can_be_cancelled_and_the_next_is_done() {
    let mut provider = Provider::start().await;
    let machine = Machine::new(4 * MIB);
    let image = image(4 * MIB);
    let images = Images::start(image.clone(), None).await;
    images.trouble([Trouble::Stall(1_000_000)]);
    let _agent = Agent::start(&provider, machine.clone(), options());
    let mut session = provider.session().await;
    session.send(&images.task("first", v1::Compression::None)).await;
    session.send(&images.task("queued", v1::Compression::None)).await;
    session.send(&images.task("third", v1::Compression::None)).await;
    while session.progress().await.bytes_done == 0 {}
    for id in ["queued", "first"] {
        session.say(provider_message::Body::Cancel(CancelTask { id: id.into() })).await;
        let result = session.result().await;
        assert_eq!((result.task_id.as_str(), code(&result.outcome.unwrap())), (id, TaskErrorCode::Cancelled));
    }
    let result = session.result().await;
    assert_eq!(result.task_id, "third");
    assert!(matches!(result.outcome, Some(Outcome::Deploy(_))), "{result:?}");
    assert!(machine.bytes() == image);
}

#[tokio::test]
async fn a_cancelled_agent_has_stopped_when_it_says_so() {
    let mut provider = Provider::start().await;
    let machine = Machine::new(4 * MIB);
    let images = Images::start(image(4 * MIB), None).await;
    images.trouble([Trouble::Stall(1_000_000)]);
    let mut agent = Agent::start(&provider, machine.clone(), options());
    let mut session = provider.session().await;
    session.send(&images.task("deploy", v1::Compression::None)).await;
    while session.progress().await.bytes_done == 0 {}
    agent.cancel.cancel();
    assert_eq!(agent.end().await.unwrap(), Exit::Cancelled);
    // Nobody holds the machine any more: no thread, no task.
    soon("the platform to be free", async {
        while Arc::strong_count(&machine) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_cannot_now_is_asked_again_and_one_that_refuses_is_not() {
    let mut provider = Provider::start().await;
    provider.refuse([Status::unavailable("not the leader"), Status::internal("oops")]);
    let machine = Machine::new(4 * MIB);
    let agent = Agent::start(&provider, machine.clone(), options());
    provider.session().await;
    assert_eq!(provider.registrations(), 3);
    drop(agent);

    let mut late = Agent::boot(provider.boot(NOW), machine.clone(), options());
    match late.end().await {
        Err(AgentError::Refused { message, .. }) => assert!(message.contains("expired"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(provider.registrations(), 4);
}

#[tokio::test]
async fn an_agent_of_which_no_more_is_wanted_than_what_it_is_ends_as_it_is_told() {
    let provider = Provider::start().await;
    let machine = Machine::new(4 * MIB);
    for (end, exit) in [(v1::PowerAction::PowerOff, Exit::PowerOff), (v1::PowerAction::Reboot, Exit::Reboot)]
    {
        provider.end_with(end);
        // Without a session, in which it could be given a task.
        assert_eq!(Agent::start(&provider, machine.clone(), options()).end().await.unwrap(), exit);
    }
    assert_eq!(provider.registrations(), 2);
}

#[tokio::test]
async fn an_agent_that_the_provider_has_forgotten_registers_again() {
    let mut provider = Provider::start().await;
    let machine = Machine::new(4 * MIB);
    let _agent = Agent::start(&provider, machine.clone(), options());
    let first = provider.session().await;
    provider.forget_agents();
    // Once registered, refusals are waited out for a while: a provider may need time to find its state again.
    provider.refuse([Status::permission_denied("spent"), Status::unauthenticated("who?")]);
    provider.relay.cut();
    let second = provider.session().await;
    assert_eq!(first.fingerprint, second.fingerprint, "the key is one for the whole boot");
    assert_eq!(provider.registrations(), 4);
}

#[tokio::test]
async fn power_is_changed_even_if_the_provider_never_records_it() {
    let mut provider = Provider::start().await;
    let machine = Machine::new(4 * MIB);
    let options = AgentOptions { power_ack_timeout: Duration::from_millis(50), ..options() };
    let mut agent = Agent::start(&provider, machine.clone(), options);
    let mut session = provider.session().await;
    assert_eq!(
        code(&session.complete(&power("odd", PowerAction::Unspecified)).await),
        TaskErrorCode::Unsupported
    );
    session.send(&power("off", PowerAction::PowerOff)).await;
    assert_eq!(agent.end().await.unwrap(), Exit::PowerOff);
}

#[tokio::test]
async fn an_idle_agent_says_that_it_lives() {
    let mut provider = Provider::start().await;
    let _agent = Agent::start(&provider, Machine::new(4 * MIB), options());
    let mut session = provider.session().await;
    session.hello().await;
    assert!(matches!(session.next().await, Some(v1::agent_message::Body::Heartbeat(_))));
    session.send(&Task { id: "later version".into(), work: None }).await;
    let result = session.result().await;
    assert_eq!(code(&result.outcome.unwrap()), TaskErrorCode::Unsupported);
}

#[tokio::test]
async fn progress_tells_the_phases_in_order() {
    let mut provider = Provider::start().await;
    let images = Images::start(image(4 * MIB), None).await;
    let _agent = Agent::start(&provider, Machine::new(4 * MIB), options());
    let mut session = provider.session().await;
    session.send(&images.task("deploy", v1::Compression::None)).await;
    let mut phases = Vec::new();
    loop {
        match session.next().await.unwrap() {
            v1::agent_message::Body::Progress(progress) => phases.push(progress.phase()),
            v1::agent_message::Body::Result(_) => break,
            _ => {}
        }
    }
    assert!(phases.is_sorted_by_key(|phase| *phase as i32), "{phases:?}");
    assert!(phases.contains(&Phase::Writing));
}

#[tokio::test]
async fn extents_of_a_qcow2_are_written_holes_included_over_broken_connections() {
    let mut provider = Provider::start().await;
    // Full of something else: a hole that is skipped would be seen.
    let machine = Machine::new(64 * MIB);
    let mut image = image(8 * MIB);
    image.resize(40 * MIB as usize, 0);
    image[30 * MIB as usize..][..3_000_000].fill(7);
    let qcow2 = ferric_image::qcow2_of(&image);
    let source = ferric_image::Checksum::parse(&sha256(&qcow2), None).unwrap();
    let mut stream = Vec::new();
    let mut unpacked = ferric_image::Qcow2::open(qcow2, u64::MAX).unwrap();
    ferric_image::extents::pack(&mut unpacked, &source, &mut stream, &mut |_, _| Ok(())).unwrap();
    let images = Images::start(stream.clone(), Some(&provider.pki)).await;
    images.trouble([Trouble::Break(2_000_000), Trouble::Break(1_000_000)]);
    let _agent = Agent::start(&provider, machine.clone(), options());
    let mut session = provider.session().await;
    let task = |id: &str, of: &str| {
        let mut task = images.task(id, v1::Compression::Extents);
        if let Some(Work::Deploy(deploy)) = &mut task.work {
            let image = deploy.image.as_mut().unwrap();
            image.url = format!("{}/sha256:{}", image.url, image.checksum);
            image.checksum = of.to_owned();
        }
        task
    };
    let outcome = session.complete(&task("deploy", source.hex())).await;
    let Outcome::Deploy(result) = outcome else { panic!("{outcome:?}") };
    assert_eq!((result.bytes_read, result.bytes_written), (stream.len() as u64, 40 * MIB));
    assert_eq!(result.content_hash, format!("sha256:{}", sha256(&image)));
    // All but the partition table, whose backup was moved.
    let table = 34 * 512;
    let disk = machine.bytes();
    assert!(disk[table..8 * MIB as usize - table] == image[table..8 * MIB as usize - table]);
    assert!(disk[8 * MIB as usize..40 * MIB as usize] == image[8 * MIB as usize..]);
    assert!(disk[40 * MIB as usize..63 * MIB as usize].iter().all(|byte| *byte == 0xee), "behind the image");

    let outcome = session.complete(&task("other image", &"0".repeat(64))).await;
    assert_eq!(code(&outcome), TaskErrorCode::ChecksumMismatch, "{outcome:?}");
}

/// Many machines whose disks share one store.
struct Fleet {
    disk: CountingDevice,
}

impl ferric_agent::Platform for Fleet {
    fn inventory(&self) -> std::io::Result<Inventory> {
        let disk = v1::Disk { name: DISK.into(), size_bytes: self.disk.size(), ..v1::Disk::default() };
        Ok(Inventory { disks: vec![disk], ..Inventory::default() })
    }
    fn open_disk(&self, _: &str) -> std::io::Result<Box<dyn BlockDevice>> {
        Ok(Box::new(self.disk.clone()))
    }
}

#[tokio::test]
async fn a_hundred_agents_share_a_process_and_their_blocks() {
    let mut provider = Provider::start().await;
    let image = image(4 * MIB);
    let images = Images::start(zstd_of(&image), Some(&provider.pki)).await;
    let store = BlockStore::new();
    let permits = Arc::new(tokio::sync::Semaphore::new(4));
    let options = AgentOptions { write_permits: Some(permits), ..options() };
    let mut disks = Vec::new();
    let mut agents = Vec::new();
    for _ in 0..100 {
        let disk = CountingDevice::new(100 << 30, &store);
        disks.push(disk.clone());
        agents.push(Agent::start(&provider, Arc::new(Fleet { disk }), options.clone()));
    }
    let deploy = images.task("deploy", v1::Compression::Zstd);
    let mut sessions = Vec::new();
    for _ in 0..100 {
        let session = provider.session().await;
        session.send(&deploy).await;
        sessions.push(session);
    }
    for session in &mut sessions {
        let result = session.result().await;
        assert!(matches!(result.outcome, Some(Outcome::Deploy(_))), "{result:?}");
    }
    for disk in &mut disks {
        assert_eq!(check_bootable(disk).unwrap().len(), 2);
    }
    assert!(store.len() < 2 * image.len() / 4096, "{}", store.len());
}

fn sha256(data: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, data))
}

fn zstd_of(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}
