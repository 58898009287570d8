//! Free hosts that stand by. In the agent: a claim is written at once, by an agent that is there already; the host comes back
//! to it when it is released, and is switched off when it is told so. Staged: off, with the image on its disk, and a claim
//! writes it only if it is not there any more.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/claims.rs"]
mod claims;
#[path = "e2e/mod.rs"]
mod e2e;

use e2e::{boots, holds_image, host, patch_host, powered, state, wait_for_host, wait_for_state};
use ferric_api::BareMetalHost;
use ferric_api::condition::types;
use ferric_api::host::{HostStandby, ProvisioningState as State};
use ferric_api::names::BLOCK_MOVE_ANNOTATION;
use ferric_testbed::Stack;
use ferric_testbed::stack::disk;
use serde_json::json;

/// It stands by; the other one does not.
const READY: &str = "host-01";
const COLD: &str = "host-02";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_stands_by() {
    let mut stack =
        Stack::builder().fleet(2, 1).without_hosts().start().await.unwrap_or_else(|error| panic!("{error}"));
    claims::create_cluster(&stack).await;
    stack.bed.apply(&stack.simulator.manifests_of(&[READY, COLD]).unwrap()).await.unwrap();
    for name in [READY, COLD] {
        wait_for_state(&stack, name, State::Available).await;
    }
    it_is_started_and_waits(&stack).await;
    it_is_preferred_and_written_without_a_start(&stack).await;
    it_comes_back(&stack).await;
    a_restarted_manager_leaves_it(&mut stack).await;
    it_is_switched_off(&stack).await;
    it_is_staged_and_off(&stack).await;
    a_staged_host_survives_a_restart(&mut stack).await;
    let without_image = what_is_staged_is_not_written_again(&stack).await;
    a_disk_that_was_changed_is_written_in_full(&stack, without_image).await;
    stack.stop().await;
}

fn stands_by(host: &BareMetalHost, wanted: HostStandby) -> bool {
    let standby = host.status.as_ref().and_then(|status| status.standby.as_ref());
    state(host) == State::Available && standby.is_some_and(|standby| standby.state == Some(wanted))
}

async fn wait_until_ready(stack: &Stack) -> BareMetalHost {
    wait_for_host(stack, READY, "the host to stand by in the agent", |host| {
        let blocks =
            host.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(BLOCK_MOVE_ANNOTATION));
        stands_by(host, HostStandby::Running) && !blocks
    })
    .await
}

async fn it_is_started_and_waits(stack: &Stack) {
    let before = stack.simulator.journal_end(READY).await.unwrap();
    patch_host(stack, READY, json!({"spec": {"standby": "Running"}})).await;
    let ready = wait_until_ready(stack).await;
    assert!(ready.status.unwrap().standby.unwrap().since.is_some());
    assert_eq!(boots(stack, READY, before).await, ["UefiHttp"]);
    disk::is_wiped(stack.simulator.disk(READY).unwrap()).unwrap();
}

/// Both hosts would do. What stands by is taken, and between claim and the end of the write nothing is asked of its power.
async fn it_is_preferred_and_written_without_a_start(stack: &Stack) {
    let before = stack.simulator.journal_end(READY).await.unwrap();
    let number = boot_number(&host(stack, READY).await);
    for name in [READY, COLD] {
        stack.bed.kubectl(["label", "bmh", name, "test.example/pin=any"]).await.unwrap();
    }
    claims::create_machine_for(stack, "m-1", "any").await;
    claims::wait_for_machine(stack, "m-1").await;
    let used = wait_for_state(stack, READY, State::Provisioned).await;
    assert_eq!(used.spec.consumer_ref.as_ref().unwrap().name.as_deref(), Some("m-1"));
    assert_eq!(boot_number(&used), number, "it was written by the agent that stood by");
    holds_image(stack, READY);
    wait_for_host(stack, READY, "its status to say that it is in use", |host| {
        host.status.as_ref().is_some_and(|s| s.standby.as_ref().is_none_or(|standby| standby.state.is_none()))
    })
    .await;
    let booted = ferric_testbed::wait_until("the server to start from its disk", e2e::LIMIT, async || {
        let boots = boots(stack, READY, before).await;
        if boots.last().is_some_and(|last| last == "Disk") { Ok(boots) } else { Err(format!("{boots:?}")) }
    })
    .await
    .unwrap();
    // Only the start of the written disk.
    assert_eq!(booted, ["Disk"]);
}

fn boot_number(host: &BareMetalHost) -> i64 {
    host.spec.record.as_ref().and_then(|record| record.agent.as_ref()).map_or(0, |agent| agent.boot_number)
}

async fn it_comes_back(stack: &Stack) {
    let before = stack.simulator.journal_end(READY).await.unwrap();
    claims::delete_machine(stack, "m-1").await;
    claims::wait_until_gone(stack, "m-1").await;
    let free = wait_until_ready(stack).await;
    let record = free.spec.record.unwrap();
    assert!(record.image.is_none() && record.claim.is_none() && record.cleaned.is_some(), "{record:?}");
    disk::is_wiped(stack.simulator.disk(READY).unwrap()).unwrap();
    // One boot to clean it, and it stays in that.
    assert_eq!(boots(stack, READY, before).await, ["UefiHttp"]);
    assert_eq!(powered(stack, READY).await, Some(true));
}

async fn a_restarted_manager_leaves_it(stack: &mut Stack) {
    let before = stack.simulator.journal_end(READY).await.unwrap();
    stack.manager.kill();
    stack.manager.restart().await.unwrap();
    wait_until_ready(stack).await;
    let journal = stack.simulator.journal(READY, before).await.unwrap();
    assert!(journal.iter().all(|entry| entry.power().is_none()), "{journal:?}");
}

async fn it_is_switched_off(stack: &Stack) {
    patch_host(stack, READY, json!({"spec": {"standby": "Off"}})).await;
    let off =
        wait_for_host(stack, READY, "the host to be off", |host| stands_by(host, HostStandby::Off)).await;
    assert_eq!(powered(stack, READY).await, Some(false));
    let record = off.spec.record.unwrap();
    assert_eq!(record.stood_down_at.len(), 1, "{record:?}");
    assert!(record.agent.unwrap().ended);
}

/// Bytes that agents have written to the disks of the host, zeros included, up to the last one that has ended.
async fn written(stack: &Stack) -> u64 {
    stack.simulator.status(READY).await.unwrap()["diskBytesWritten"].as_u64().unwrap()
}

/// Waits for the start from the disk, when no agent writes any more. Returns what the server started from.
async fn wait_for_disk_boot(stack: &Stack, since: u64) -> Vec<String> {
    ferric_testbed::wait_until("the server to start from its disk", e2e::LIMIT, async || {
        let boots = boots(stack, READY, since).await;
        if boots.last().is_some_and(|last| last == "Disk") { Ok(boots) } else { Err(format!("{boots:?}")) }
    })
    .await
    .unwrap()
}

/// The disk begins with the image, byte for byte, and nothing was done to its partition table.
fn holds_the_image_alone(stack: &Stack) {
    let image = std::fs::read(&stack.image.path).unwrap();
    let disk = std::fs::read(stack.simulator.disk(READY).unwrap()).unwrap();
    assert!(disk.len() > image.len() && disk[..image.len()] == image, "another byte than in the image");
}

async fn wait_until_staged(stack: &Stack) -> BareMetalHost {
    wait_for_host(stack, READY, "the host to be staged", |host| stands_by(host, HostStandby::Staged)).await
}

async fn it_is_staged_and_off(stack: &Stack) {
    let before = stack.simulator.journal_end(READY).await.unwrap();
    let spec = json!({"spec": {"standby": "Staged", "stagedImage": e2e::image(stack)}});
    patch_host(stack, READY, spec).await;
    let staged = wait_until_staged(stack).await;
    assert_eq!(boots(stack, READY, before).await, ["UefiHttp"]);
    assert_eq!(powered(stack, READY).await, Some(false));
    holds_the_image_alone(stack);
    let record = staged.spec.record.unwrap();
    assert_eq!(record.stood_down_at.len(), 2, "{record:?}");
    assert!(record.image.is_none() && record.cleaned.is_some() && record.agent.unwrap().ended);
    let on_disk = record.staged.unwrap();
    assert!(on_disk.content_hash.is_some() && on_disk.root_serial_number.is_some(), "{on_disk:?}");
    assert!(on_disk.digest.ends_with(&stack.image.sha256), "{on_disk:?}");
}

async fn a_staged_host_survives_a_restart(stack: &mut Stack) {
    let before = stack.simulator.journal_end(READY).await.unwrap();
    stack.manager.kill();
    stack.manager.restart().await.unwrap();
    // What stands by comes back from the record and a reading of the power, also without a status.
    let patch = json!({"status": {"standby": null}}).to_string();
    let arguments = ["patch", "bmh", READY, "--subresource=status", "--type=merge", "-p", &patch];
    stack.bed.kubectl(arguments).await.unwrap();
    wait_until_staged(stack).await;
    let journal = stack.simulator.journal(READY, before).await.unwrap();
    assert!(journal.iter().all(|entry| entry.power().is_none()), "{journal:?}");
    holds_the_image_alone(stack);
}

/// Of two hosts that are off the staged one is taken, and its agent says that the image was there. Returns how many bytes were
/// written for the claim.
async fn what_is_staged_is_not_written_again(stack: &Stack) -> u64 {
    let (bytes, before) = (written(stack).await, stack.simulator.journal_end(READY).await.unwrap());
    claims::create_machine_for(stack, "m-2", "any").await;
    claims::wait_for_machine(stack, "m-2").await;
    let used = wait_for_state(stack, READY, State::Provisioned).await;
    assert_eq!(used.spec.consumer_ref.as_ref().unwrap().name.as_deref(), Some("m-2"));
    let record = used.spec.record.as_ref().unwrap();
    let image = record.image.as_ref().unwrap();
    assert!(image.kept_staged && image.staged_problem.is_none() && image.staged.is_none(), "{image:?}");
    assert!(record.staged.is_none(), "{record:?}");
    assert_eq!(e2e::message(&used, types::PROVISIONED), "");
    holds_image(stack, READY);
    assert_eq!(wait_for_disk_boot(stack, before).await, ["UefiHttp", "Disk"]);
    let bytes = written(stack).await - bytes;
    wait_for_event(stack, "StagedImageUsed").await;
    claims::delete_machine(stack, "m-2").await;
    claims::wait_until_gone(stack, "m-2").await;
    let record = wait_until_staged(stack).await.spec.record.unwrap();
    assert!(record.image.is_none() && record.claim.is_none(), "{record:?}");
    // It was cleaned in between, and is staged anew.
    holds_the_image_alone(stack);
    bytes
}

async fn a_disk_that_was_changed_is_written_in_full(stack: &Stack, without_image: u64) {
    use std::os::unix::fs::FileExt;
    let disk = stack.simulator.disk(READY).unwrap();
    let image = std::fs::metadata(&stack.image.path).unwrap().len();
    let file = std::fs::File::options().read(true).write(true).open(disk).unwrap();
    let (mut byte, at) = ([0], image / 2 + 4321);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    drop(file);
    let (bytes, before) = (written(stack).await, stack.simulator.journal_end(READY).await.unwrap());
    claims::create_machine_for(stack, "m-3", "any").await;
    claims::wait_for_machine(stack, "m-3").await;
    let used = wait_for_state(stack, READY, State::Provisioned).await;
    assert_eq!(used.spec.consumer_ref.as_ref().unwrap().name.as_deref(), Some("m-3"));
    let on_disk = used.spec.record.as_ref().unwrap().image.clone().unwrap();
    assert!(!on_disk.kept_staged, "{on_disk:?}");
    assert!(on_disk.staged_problem.as_ref().unwrap().contains("does not hold"), "{on_disk:?}");
    wait_for_disk_boot(stack, before).await;
    let bytes = written(stack).await - bytes;
    assert!(bytes >= without_image + image, "{bytes} bytes were written, {without_image} for a staged image");
    let said = e2e::message(&used, types::PROVISIONED);
    assert!(said.contains("the staged image was not used"), "{said}");
    holds_image(stack, READY);
    wait_for_event(stack, "StagedImageNotUsed").await;
}

async fn wait_for_event(stack: &Stack, reason: &str) {
    let selector = format!("reason={reason}");
    ferric_testbed::wait_until(&format!("an event {reason}"), e2e::LIMIT, async || {
        let arguments = ["get", "events", "--field-selector", &selector, "-o", "jsonpath={.items[*].reason}"];
        match stack.bed.kubectl(arguments).await {
            Ok(found) if found.contains(reason) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}
