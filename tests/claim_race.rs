//! Two managers without a leader, 200 machines and 200 hosts, on a real API server: no host is ever claimed away, no
//! machine has two hosts, and everybody is bound. No BMC takes part: the test itself says that the hosts are available.
//!
//! That these tests fail without either precondition is shown by the patches in `tests/patches`.
#![allow(clippy::unwrap_used)]

#[path = "claim_race/world.rs"]
mod world;

use std::time::{Duration, Instant};

use kube::ResourceExt;
use world::{LIMIT, Lag, Manager, World};

const N: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn two_managers_at_once_bind_every_machine_to_a_host_of_its_own() {
    let world = World::start().await;
    let watcher = world.watch_over_claims().await;
    world.add_hosts(0..N).await;
    let managers = [Manager::start(&world, Lag::None).await, Manager::start(&world, Lag::None).await];
    let started = Instant::now();
    world.add_machines(0..N).await;
    world.all_bound(N).await;
    println!("{N} machines were made and bound in {:.1} s", started.elapsed().as_secs_f64());
    world.check(N).await;
    println!("{}", watcher.finish(&world).await);
    drop(managers);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_caches_cost_conflicts_and_nothing_else() {
    let world = World::start().await;
    let watcher = world.watch_over_claims().await;
    world.add_hosts(0..N).await;
    let managers = [Manager::start(&world, Lag::Late).await, Manager::start(&world, Lag::Late).await];
    let started = Instant::now();
    world.add_machines(0..N).await;
    world.all_bound(N).await;
    println!("{N} machines were made and bound in {:.1} s", started.elapsed().as_secs_f64());
    world.check(N).await;
    println!("{}", watcher.finish(&world).await);
    drop(managers);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_the_two_writes_leaves_an_intent_that_another_manager_follows() {
    const FEW: usize = 20;
    let world = World::start().await;
    let watcher = world.watch_over_claims().await;
    world.add_hosts(0..FEW).await;
    let doomed = Manager::start(&world, Lag::NoClaims).await;
    world.add_machines(0..FEW).await;
    // Its claims never arrive; it gets as far as its concurrency lets it.
    let intents = |w: &world::Fleet| w.machines.iter().filter(|m| m.spec.host_ref.is_some()).count();
    world.until("intents are written", |w| intents(w) >= 10).await;
    drop(doomed);
    let fleet = world.list().await;
    assert!(fleet.hosts.iter().all(|h| h.spec.consumer_ref.is_none()), "no claim was to arrive");
    let intents: Vec<_> = fleet.machines.into_iter().filter(|m| m.spec.host_ref.is_some()).collect();
    assert!(intents.len() >= 10);

    let heir = Manager::start(&world, Lag::None).await;
    world.all_bound(FEW).await;
    world.check(FEW).await;
    // The heir follows the intents that it found; it does not make up others.
    let after = world.list().await;
    for intent in intents {
        let now = after.machines.iter().find(|m| m.name_any() == intent.name_any()).unwrap();
        assert_eq!((&now.spec.host_ref, &now.spec.claim_id), (&intent.spec.host_ref, &intent.spec.claim_id));
    }
    println!("{}", watcher.finish(&world).await);
    drop(heir);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_enrolled_later_is_taken_at_once_and_the_wait_says_what_was_rejected() {
    let world = World::start().await;
    world.add_hosts(0..2).await;
    let manager = Manager::start(&world, Lag::None).await;
    world.add_machines(0..4).await;
    let waits = |w: &world::Fleet| {
        let told = w.machines.iter().filter_map(|m| m.status.as_ref()?.waiting_for.as_ref());
        told.filter(|wait| wait.reason == "WaitingForHost").count() == 2
    };
    let fleet = world.until("two machines wait for a host", waits).await;
    let waiting: Vec<_> = fleet.machines.iter().filter(|m| m.spec.host_ref.is_none()).collect();
    let condition = |m: &ferric_api::BareMetalMachine, kind: &str| {
        let conditions = &m.status.as_ref().unwrap().conditions;
        ferric_api::condition::get(conditions, kind).cloned().unwrap()
    };
    for machine in waiting {
        for kind in ["HostBound", "Ready"] {
            let condition = condition(machine, kind);
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "WaitingForHost"));
            assert!(
                condition.message.starts_with("no free host in namespace race: "),
                "{}",
                condition.message
            );
        }
    }
    // Each new host wakes one of them; which takes well under a second, and the second look comes after a minute.
    for i in 2..4 {
        let started = Instant::now();
        world.add_hosts(i..=i).await;
        world.all_bound(i + 1).await;
        println!("host-{i} was taken {} ms after it was enrolled", started.elapsed().as_millis());
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    world.check(4).await;
    drop(manager);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_made_is_followed_to_provisioned_and_let_go_on_deletion() {
    let world = World::start().await;
    world.add_hosts(0..1).await;
    let manager = Manager::start(&world, Lag::None).await;
    world.add_machines(0..1).await;
    world.all_bound(1).await;
    let host = &world.list().await.hosts[0];
    let claim = host.spec.record.as_ref().unwrap().claim.clone().unwrap();
    assert_eq!(claim.provider_id, Some(format!("ferric://host-000/{}", claim.id)));
    assert_eq!(host.labels()["cluster.x-k8s.io/cluster-name"], "prod");

    world.deployed("host-000").await;
    let provisioned = |w: &world::Fleet| {
        w.machines.iter().all(|m| m.status.as_ref().is_some_and(|s| s.initialization.is_some()))
    };
    let machine = world.until("the machine is provisioned", provisioned).await.machines.remove(0);
    assert_eq!(machine.spec.provider_id, claim.provider_id);
    assert_eq!(machine.status.as_ref().unwrap().addresses[0].address, "host-000");

    // The status is lost: everything comes back, and neither claim nor host is touched.
    let before = world.list().await;
    world.drop_status("machine-000").await;
    let after = world.until("the status is back", provisioned).await;
    let spec = |fleet: &world::Fleet| (fleet.machines[0].spec.clone(), fleet.hosts[0].resource_version());
    assert_eq!(spec(&after), spec(&before));

    // Deleted: it waits for the host, and goes when the host has let go.
    world.delete_machine("machine-000").await;
    let deleting = |w: &world::Fleet| {
        let ready = w.machines.first().and_then(|m| m.status.as_ref()).map(|s| &s.conditions);
        ready.and_then(|c| ferric_api::condition::get(c, "Ready")).is_some_and(|c| c.reason == "Deleting")
    };
    world.until("the machine waits for its host", deleting).await;
    world.let_go("host-000").await;
    world.until("the machine is gone", |w| w.machines.is_empty()).await;
    drop(manager);
    world.stop().await;
}

/// Not a test of the product: the watcher must see what the other tests rely on it to see.
#[tokio::test(flavor = "multi_thread")]
async fn the_watcher_sees_a_host_that_is_claimed_away() {
    let world = World::start().await;
    let watcher = world.watch_over_claims().await;
    world.add_hosts(0..1).await;
    for consumer in ["a", "b"] {
        world.steal("host-000", consumer).await;
    }
    let report = tokio::time::timeout(LIMIT, watcher.first_violation()).await.unwrap();
    assert!(report.contains("claimed away"), "{report}");
    world.stop().await;
}
