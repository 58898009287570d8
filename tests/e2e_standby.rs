//! A free host that stands by in the agent: a claim is written at once, by an agent that is there already; it comes back to
//! it when it is released, and is switched off when it is told so.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/claims.rs"]
mod claims;
#[path = "e2e/mod.rs"]
mod e2e;

use e2e::{boots, holds_image, host, patch_host, powered, state, wait_for_host, wait_for_state};
use ferric_api::BareMetalHost;
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
