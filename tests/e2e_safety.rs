//! What Ferric must not do: touch a server that another host object has, whose consumer is unknown, that is paused,
//! detached, moved away, installed by others, or in use. Judged by the journals of the BMCs: what was not to be
//! touched shows neither a write nor a change of power.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/claims.rs"]
mod claims;
#[path = "e2e/mod.rs"]
mod e2e;
#[path = "e2e/untouched.rs"]
mod untouched;

use claims::{
    create_cluster, create_machine, delete_machine, pause_cluster, wait_for_machine, wait_until_gone,
};
use e2e::{
    LIMIT, boots, holds_image, host, hosts, image, message, patch_host, powered, says, show, state,
    wait_for_host, wait_for_state,
};
use ferric_api::host::ProvisioningState as State;
use ferric_api::{BareMetalHost, names};
use ferric_testbed::stack::disk;
use ferric_testbed::{Stack, wait_until};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use untouched::Untouched;

const FLEET: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_not_ours_to_touch_are_not_touched() {
    let stack = Stack::builder()
        .fleet(FLEET, 2)
        .without_hosts()
        .manager_flag("power-poll-seconds", "10")
        .start()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    create_cluster(&stack).await;
    two_hosts_made_at_once(&stack, "host-01").await;
    an_address_edited_to_that_of_another_host(&stack, "host-02", "host-03").await;
    an_old_host_edited_to_a_server_in_use(&stack, "host-04", "host-05").await;
    a_boot_mac_of_another_host(&stack, "host-06", "host-07").await;
    paused_by_annotation_and_by_cluster(&stack, "host-08", "host-09", "host-10").await;
    let running = ["host-11", "host-12", "host-13", "host-14"];
    running_servers_whose_hosts_go(&stack, running).await;
    externally_provisioned(&stack, running[0]).await;
    consumers_without_a_record(&stack, &running[1..]).await;
    deleted_while_in_use(&stack, "host-15", "host-16").await;
    stack.stop().await;
}

/// The manifest of a server's host, to be changed by `change`.
fn manifest(stack: &Stack, server: &str, change: impl FnOnce(&mut Value)) -> String {
    let all = stack.simulator.manifests_of(&[server]).unwrap();
    let mut objects: Vec<Value> = all
        .split("---\n")
        .filter(|text| !text.trim().is_empty())
        .map(|text| serde_yaml_ng::from_str(text).unwrap())
        .collect();
    let host = objects.iter_mut().find(|object| object["kind"] == "BareMetalHost").unwrap();
    change(host);
    objects.iter().map(|object| format!("---\n{object}\n")).collect()
}

fn bmc(stack: &Stack, server: &str) -> Value {
    let mut found = Value::Null;
    manifest(stack, server, |host| found = host["spec"]["bmc"].clone());
    found
}

async fn enrol(stack: &Stack, names: &[&str]) {
    stack.bed.apply(&stack.simulator.manifests_of(names).unwrap()).await.unwrap();
    for name in names {
        wait_for_state(stack, name, State::Available).await;
        wait_for_host(stack, name, "its server to be off", |host| {
            host.status.as_ref().is_some_and(|status| status.powered_on == Some(false))
        })
        .await;
    }
}

async fn provision_by_hand(stack: &Stack, names: &[&str]) {
    for name in names {
        patch_host(stack, name, json!({"spec": {"image": image(stack)}})).await;
    }
    for name in names {
        wait_for_state(stack, name, State::Provisioned).await;
        wait_until_runs(stack, name).await;
    }
}

async fn wait_until_runs(stack: &Stack, name: &str) {
    wait_until(&format!("{name} to run what is on its disk"), LIMIT, async || {
        let status = stack.simulator.status(name).await.map_err(|error| error.to_string())?;
        if status["state"] == "OSRunning" { Ok(()) } else { Err(status.to_string()) }
    })
    .await
    .unwrap();
}

async fn wait_for_duplicate(stack: &Stack, name: &str, of: &str) -> BareMetalHost {
    let host = wait_for_host(stack, name, &format!("being told that it is a duplicate of {of}"), |host| {
        says(host, "Registered", "False", "DuplicateHost")
    })
    .await;
    let told = message(&host, "Registered");
    assert!(told.contains(&format!("/{of} ")), "{told}");
    let waits = host.status.as_ref().unwrap().waiting_for.as_ref().unwrap();
    assert_eq!(waits.reason, "DuplicateHost");
    host
}

async fn delete(stack: &Stack, name: &str) {
    hosts(stack).delete(name, &DeleteParams::default()).await.unwrap();
    wait_until_host_gone(stack, name).await;
}

async fn wait_until_host_gone(stack: &Stack, name: &str) {
    wait_until(&format!("{name} to be gone"), LIMIT, async || {
        match hosts(stack).get_opt(name).await.map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(host) => Err(show(&host)),
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

/// Two host objects for one server in one `kubectl apply`: the younger waits, and the server has one life.
async fn two_hosts_made_at_once(stack: &Stack, name: &str) {
    let twin = format!("twin-of-{name}");
    let both =
        manifest(stack, name, |_| {}) + &manifest(stack, name, |host| host["metadata"]["name"] = json!(twin));
    stack.bed.apply(&both).await.unwrap();
    // Of two that were made in the same second, either may be the first; of others, the older is.
    let [mut older, mut younger] = by_age(stack, [name, &twin]).await;
    let waits = wait_until("one of two hosts to wait", LIMIT, async || {
        for host in [host(stack, &older).await, host(stack, &younger).await] {
            if says(&host, "Registered", "False", "DuplicateHost") {
                return Ok(host.name_any());
            }
        }
        Err("neither waits".to_owned())
    });
    if waits.await.unwrap() == older {
        let created =
            [host(stack, &older).await, host(stack, &younger).await].map(|host| host.creation_timestamp());
        assert_eq!(created[0], created[1]);
        std::mem::swap(&mut older, &mut younger);
    }
    wait_for_state(stack, &older, State::Available).await;
    let waits = wait_for_duplicate(stack, &younger, &older).await;
    assert!(waits.spec.record.is_none(), "{}", show(&waits));
    let once = json!(["on", "UefiHttp", "off"]);
    wait_until("the server's one life to be over", LIMIT, async || {
        let life = life(stack, name).await;
        if life == once { Ok(()) } else { Err(life.to_string()) }
    })
    .await
    .unwrap();
    // When the older goes (without a trace, as it is detached) the younger takes its place.
    patch_host(stack, &older, json!({"metadata": {"annotations": {names::DETACHED_ANNOTATION: ""}}})).await;
    delete(stack, &older).await;
    wait_for_state(stack, &younger, State::Available).await;
}

/// The names of two hosts, the older first.
async fn by_age(stack: &Stack, names: [&str; 2]) -> [String; 2] {
    let mut ages = Vec::new();
    for name in names {
        let host = host(stack, name).await;
        ages.push((host.creation_timestamp().unwrap(), host.uid().unwrap(), name.to_owned()));
    }
    ages.sort();
    let [(_, _, older), (_, _, younger)] = ages.try_into().unwrap_or_else(|_| unreachable!());
    [older, younger]
}

/// Changes of power and boots of a server, in order.
async fn life(stack: &Stack, server: &str) -> Value {
    let journal = stack.simulator.journal(server, 0).await.unwrap();
    let seen = journal.iter().filter_map(|entry| match entry.power() {
        Some(on) => Some(if on { "on" } else { "off" }),
        None => entry.boot_source(),
    });
    seen.collect()
}

async fn an_address_edited_to_that_of_another_host(stack: &Stack, one: &str, other: &str) {
    enrol(stack, &[one, other]).await;
    let [older, younger] = &by_age(stack, [one, other]).await;
    let untouched = Untouched::from_now(stack, &[older, younger]).await;
    patch_host(stack, younger, json!({"spec": {"bmc": bmc(stack, older)}})).await;
    wait_for_duplicate(stack, younger, older).await;
    assert_eq!(state(&host(stack, older).await), State::Available);
    // Nobody may claim a host that is in doubt.
    let seen = host(stack, younger).await;
    for kind in ["Available", "Ready"] {
        assert!(says(&seen, kind, "False", "DuplicateHost"), "{}", show(&seen));
    }
    patch_host(stack, younger, json!({"spec": {"bmc": bmc(stack, younger)}})).await;
    wait_for_host(stack, younger, "being registered again", |host| {
        says(host, "Registered", "True", "Registered")
    })
    .await;
    wait_for_state(stack, younger, State::Available).await;
    untouched.check(stack).await;
}

/// Age alone would let the older host wipe what the younger runs.
async fn an_old_host_edited_to_a_server_in_use(stack: &Stack, one: &str, other: &str) {
    enrol(stack, &[one, other]).await;
    let [older, used] = &by_age(stack, [one, other]).await;
    provision_by_hand(stack, &[used]).await;
    let untouched = Untouched::from_now(stack, &[older, used]).await;
    patch_host(stack, older, json!({"spec": {"bmc": bmc(stack, used)}})).await;
    wait_for_duplicate(stack, older, used).await;
    let stays = wait_for_state(stack, used, State::Provisioned).await;
    assert!(says(&stays, "Registered", "True", "Registered"), "{}", show(&stays));
    patch_host(stack, older, json!({"spec": {"bmc": bmc(stack, older)}})).await;
    wait_for_host(stack, older, "being registered again", |host| {
        says(host, "Registered", "True", "Registered")
    })
    .await;
    untouched.check(stack).await;
    holds_image(stack, used);
}

async fn a_boot_mac_of_another_host(stack: &Stack, older: &str, younger: &str) {
    enrol(stack, &[older]).await;
    let mut mac = Value::Null;
    manifest(stack, older, |host| mac = host["spec"]["bootMACAddress"].clone());
    let untouched = Untouched::from_now(stack, &[older, younger]).await;
    stack.bed.apply(&manifest(stack, younger, |host| host["spec"]["bootMACAddress"] = mac)).await.unwrap();
    wait_for_duplicate(stack, younger, older).await;
    delete(stack, younger).await;
    untouched.check(stack).await;
}

/// A paused host gets nothing done, whatever is asked for; that another host gets it meanwhile is the clock.
async fn paused_by_annotation_and_by_cluster(stack: &Stack, annotated: &str, claimed: &str, other: &str) {
    enrol(stack, &[annotated, claimed, other]).await;
    create_machine(stack, "paused", claimed).await;
    wait_for_machine(stack, "paused").await;
    wait_until_runs(stack, claimed).await;
    patch_host(
        stack,
        annotated,
        json!({"metadata": {"annotations": {names::PAUSED_ANNOTATION: "hands in it"}}}),
    )
    .await;
    pause_cluster(stack, true).await;
    for name in [annotated, claimed] {
        wait_for_host(stack, name, "being paused", |host| says(host, "Paused", "True", "Paused")).await;
    }
    let untouched = Untouched::from_now(stack, &[annotated, claimed]).await;
    patch_host(stack, annotated, json!({"spec": {"image": image(stack)}})).await;
    delete_machine(stack, "paused").await;
    provision_by_hand(stack, &[other]).await;
    untouched.check(stack).await;
    assert_eq!(powered(stack, claimed).await, Some(true));

    patch_host(stack, annotated, json!({"metadata": {"annotations": {names::PAUSED_ANNOTATION: null}}}))
        .await;
    wait_for_state(stack, annotated, State::Provisioned).await;
    pause_cluster(stack, false).await;
    wait_until_gone(stack, "paused").await;
    wait_for_state(stack, claimed, State::Available).await;
    disk::is_wiped(stack.simulator.disk(claimed).unwrap()).unwrap();
}

/// Two hosts are detached and deleted, two are deleted as `clusterctl move` does it: the servers run on.
async fn running_servers_whose_hosts_go(stack: &Stack, names: [&str; 4]) {
    enrol(stack, &names).await;
    provision_by_hand(stack, &names).await;
    let untouched = Untouched::from_now(stack, &names).await;
    for name in &names[..2] {
        patch_host(stack, name, json!({"metadata": {"annotations": {names::DETACHED_ANNOTATION: ""}}})).await;
        let seen =
            wait_for_host(stack, name, "being detached", |host| says(host, "Paused", "True", "Paused")).await;
        let status = serde_json::to_value(&seen.status).unwrap();
        assert_eq!(status["operationalStatus"], "detached");
    }
    for name in &names[2..] {
        patch_host(
            stack,
            name,
            json!({"metadata": {"annotations": {names::DELETE_FOR_MOVE_ANNOTATION: ""}}}),
        )
        .await;
    }
    for name in &names {
        delete(stack, name).await;
    }
    untouched.check(stack).await;
    for name in &names {
        assert_eq!(powered(stack, name).await, Some(true), "{name}");
        holds_image(stack, name);
    }
}

/// A server that others installed: its power is kept as asked, nothing else.
async fn externally_provisioned(stack: &Stack, name: &str) {
    let untouched = Untouched::from_now(stack, &[name]).await;
    let manifest = manifest(stack, name, |host| host["spec"]["externallyProvisioned"] = json!(true));
    stack.bed.apply(&manifest).await.unwrap();
    let seen = wait_for_state(stack, name, State::ExternallyProvisioned).await;
    assert!(
        says(&seen, "Provisioned", "True", "ExternallyProvisioned")
            && says(&seen, "Ready", "True", "ExternallyProvisioned")
    );
    wait_for_host(stack, name, "its power to be seen", |host| {
        host.status.as_ref().is_some_and(|status| status.powered_on == Some(true))
    })
    .await;
    untouched.check(stack).await;
    // Its power is what is asked for; the disk stays as it is.
    let before = stack.simulator.journal_end(name).await.unwrap();
    patch_host(stack, name, json!({"spec": {"online": false}})).await;
    wait_for_power(stack, name, false).await;
    patch_host(stack, name, json!({"spec": {"online": true}})).await;
    wait_for_power(stack, name, true).await;
    wait_until_runs(stack, name).await;
    assert_eq!(boots(stack, name, before).await, ["Disk"]);
    let untouched = Untouched::from_now(stack, &[name]).await;
    delete(stack, name).await;
    untouched.check(stack).await;
    assert_eq!(powered(stack, name).await, Some(true));
    holds_image(stack, name);
}

async fn wait_for_power(stack: &Stack, name: &str, on: bool) {
    wait_until(&format!("the power of {name} to be {on}"), LIMIT, async || {
        match powered(stack, name).await {
            Some(power) if power == on => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

/// Restored without their records: three servers that run something, for somebody. Nothing is done to them until an
/// operator decides.
async fn consumers_without_a_record(stack: &Stack, names: &[&str]) {
    let [adopted, released, missing] = names else { panic!("three servers") };
    let untouched = Untouched::from_now(stack, names).await;
    // Their machines are there, with their claims, except for one.
    for (name, claim) in [(adopted, "claim-a"), (released, "claim-r")] {
        let machine = json!({"apiVersion": ferric_api::API_VERSION, "kind": "BareMetalMachine",
            "metadata": {"name": format!("of-{name}"), "namespace": e2e::NAMESPACE,
                "finalizers": [names::MACHINE_FINALIZER]},
            "spec": {"image": image(stack), "hostRef": {"namespace": e2e::NAMESPACE, "name": name}, "claimID": claim,
                "providerID": format!("ferric://{name}/{claim}")}});
        stack.bed.apply(&machine.to_string()).await.unwrap();
    }
    for name in names {
        let manifest = manifest(stack, name, |host| {
            host["spec"]["consumerRef"] = json!({"apiVersion": ferric_api::API_VERSION, "kind": "BareMetalMachine",
                "namespace": e2e::NAMESPACE, "name": format!("of-{name}")});
        });
        stack.bed.apply(&manifest).await.unwrap();
    }
    for (name, reason) in
        [(adopted, "NoUsableRecord"), (released, "NoUsableRecord"), (missing, "ConsumerMissing")]
    {
        let seen = wait_for_host(stack, name, reason, |host| says(host, "Registered", "True", reason)).await;
        assert!(
            message(&seen, "Registered").contains(names::DECIDE_ANNOTATION),
            "{}",
            message(&seen, "Registered")
        );
        assert_eq!(seen.status.as_ref().unwrap().waiting_for.as_ref().unwrap().reason, reason);
    }
    untouched.check(stack).await;

    let untouched = Untouched::from_now(stack, &[adopted, missing]).await;
    let before = stack.simulator.journal_end(released).await.unwrap();
    let decide = |what: &str| json!({"metadata": {"annotations": {names::DECIDE_ANNOTATION: what}}});
    patch_host(stack, adopted, decide("adopt")).await;
    patch_host(stack, released, decide("release")).await;
    let seen = wait_for_state(stack, adopted, State::Provisioned).await;
    assert_eq!(seen.spec.record.as_ref().unwrap().claim.as_ref().unwrap().id, "claim-a");
    let seen = wait_for_state(stack, released, State::Available).await;
    assert!(seen.spec.consumer_ref.is_none() && seen.annotations().get(names::DECIDE_ANNOTATION).is_none());
    disk::is_wiped(stack.simulator.disk(released).unwrap()).unwrap();
    let journal = stack.simulator.journal(released, before).await.unwrap();
    assert_eq!(
        journal.iter().find_map(|entry| entry.power()),
        Some(false),
        "it is stopped first: {journal:?}"
    );
    untouched.check(stack).await;
    holds_image(stack, adopted);
    holds_image(stack, missing);
}

/// A host with an image by hand is stopped, wiped and goes; one with a machine waits for the machine.
async fn deleted_while_in_use(stack: &Stack, by_hand: &str, claimed: &str) {
    enrol(stack, &[by_hand, claimed]).await;
    create_machine(stack, "in-use", claimed).await;
    provision_by_hand(stack, &[by_hand]).await;
    wait_for_machine(stack, "in-use").await;
    wait_until_runs(stack, claimed).await;

    let before = stack.simulator.journal_end(by_hand).await.unwrap();
    let untouched = Untouched::from_now(stack, &[claimed]).await;
    hosts(stack).delete(claimed, &DeleteParams::default()).await.unwrap();
    delete(stack, by_hand).await;
    assert_eq!(life_since(stack, by_hand, before).await, ["off", "on", "UefiHttp", "off"]);
    disk::is_wiped(stack.simulator.disk(by_hand).unwrap()).unwrap();
    let waits = wait_for_host(stack, claimed, "waiting for its machine", |host| {
        host.status.as_ref().and_then(|s| s.waiting_for.as_ref()).is_some_and(|wait| wait.reason == "InUse")
    })
    .await;
    let told = &waits.status.as_ref().unwrap().waiting_for.as_ref().unwrap().message;
    assert!(told.contains("in-use") && told.contains(names::DETACHED_ANNOTATION), "{told}");
    untouched.check(stack).await;

    delete_machine(stack, "in-use").await;
    wait_until_gone(stack, "in-use").await;
    wait_until_host_gone(stack, claimed).await;
    disk::is_wiped(stack.simulator.disk(claimed).unwrap()).unwrap();
    assert_eq!(powered(stack, claimed).await, Some(false));
}

async fn life_since(stack: &Stack, server: &str, since: u64) -> Vec<String> {
    let journal = stack.simulator.journal(server, since).await.unwrap();
    let seen = journal.iter().filter_map(|entry| match entry.power() {
        Some(on) => Some(if on { "on" } else { "off" }),
        None => entry.boot_source(),
    });
    seen.map(str::to_owned).collect()
}
