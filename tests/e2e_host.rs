//! A host's life, without Cluster API: the manager under the rights of its components, a fleet in its own process,
//! judged by the API server, the journals of the BMCs and the files behind the disks.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;

use e2e::{
    LIMIT, NAMESPACE, boots, holds_image, host, hosts, image, message, patch_host, powered, says, state,
    wait_for_host, wait_for_state,
};
use ferric_api::HardwareData;
use ferric_api::host::{ImageFormat, ProvisioningState as State};
use ferric_image::{FileDevice, read_config_drive};
use ferric_testbed::stack::{ImageServer, JournalEntry, Trouble, disk};
use ferric_testbed::{Stack, wait_until};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

/// A host in the good state that it keeps through the whole test, two that are troubled, one whose BMC is, one that is
/// enrolled with a wrong password.
const GOOD: &str = "host-01";
const CHECKSUM: &str = "host-02";
const FLIPPED: &str = "host-03";
const MUTE: &str = "host-04";
const WRONG: &str = "host-05";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_life_of_a_host() {
    let mut stack = Stack::builder()
        .fleet(5, 2)
        .without_hosts()
        .manager_flag("power-poll-seconds", "10")
        .start()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    enrol(&stack).await;
    a_bmc_that_is_away_while_its_host_is_enrolled(&stack).await;
    a_wrong_password_and_its_repair(&stack).await;
    an_image_server_that_goes_in_the_middle(&mut stack).await;
    a_wrong_checksum(&stack).await;
    one_flipped_bit(&stack).await;
    a_restarted_manager_changes_nothing(&mut stack).await;
    a_qcow2_made_by_qemu_img(&stack).await;
    a_live_iso(&stack).await;
    a_kernel_in_memory(&stack).await;
    pull_secrets_are_read_by_name(&stack).await;
    a_bmc_that_goes_and_comes_back(&stack).await;
    a_password_that_changes(&stack).await;
    letting_go(&stack).await;
    stack.stop().await;
}

async fn enrol(stack: &Stack) {
    stack.bed.apply(&stack.simulator.manifests_of(&[GOOD, CHECKSUM, FLIPPED]).unwrap()).await.unwrap();
    let hardware: Api<HardwareData> = Api::namespaced(stack.bed.client(), NAMESPACE);
    for name in [GOOD, CHECKSUM, FLIPPED] {
        let host = wait_for_state(stack, name, State::Available).await;
        assert!(
            says(&host, "Registered", "True", "Registered") && says(&host, "Inspected", "True", "Inspected")
        );
        let record = host.spec.record.as_ref().unwrap();
        assert!(record.cleaned.is_some() && record.image.is_none() && record.claim.is_none(), "{record:?}");
        let found = hardware.get(name).await.unwrap();
        assert!(!serde_json::to_value(&found.spec).unwrap().as_object().unwrap().is_empty());
        // The agent was booted once, for cleaning; nothing was started from the disk.
        assert_eq!(boots(stack, name, 0).await, ["UefiHttp"]);
        disk::is_wiped(stack.simulator.disk(name).unwrap()).unwrap();
        wait_until(&format!("{name} to be off"), LIMIT, async || match powered(stack, name).await {
            Some(false) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
    }
}

async fn a_bmc_that_is_away_while_its_host_is_enrolled(stack: &Stack) {
    stack.simulator.set_faults(MUTE, &json!({ "bmc": "unreachable" })).await.unwrap();
    stack.bed.apply(&stack.simulator.manifests_of(&[MUTE]).unwrap()).await.unwrap();
    let host = wait_for_host(stack, MUTE, "the unreachable BMC to be told", |host| {
        says(host, "Registered", "False", "BMCUnreachable")
    })
    .await;
    assert_eq!(state(&host), State::Registering);
    let status = host.status.as_ref().unwrap();
    assert!(status.next_retry_time.is_some() && status.error_count > 0, "{status:?}");
    stack.simulator.set_faults(MUTE, &json!({})).await.unwrap();
    wait_for_state(stack, MUTE, State::Available).await;
}

async fn a_wrong_password_and_its_repair(stack: &Stack) {
    stack.simulator.set_faults(WRONG, &json!({ "password": "another" })).await.unwrap();
    stack.bed.apply(&stack.simulator.manifests_of(&[WRONG]).unwrap()).await.unwrap();
    let host = wait_for_host(stack, WRONG, "the refused credentials to be told", |host| {
        says(host, "Registered", "False", "BMCUnauthorized")
    })
    .await;
    let told = message(&host, "Registered");
    assert!(!told.contains(&stack.simulator.server(WRONG).unwrap().password), "{told}");
    let secret = json!({"stringData": {"password": "another"}}).to_string();
    let name = format!("{WRONG}-bmc");
    stack.bed.kubectl(["patch", "secret", &name, "--type=merge", "-p", &secret]).await.unwrap();
    wait_for_state(stack, WRONG, State::Available).await;
    // A BMC locks an account after a few wrong logins.
    let journal = stack.simulator.journal(WRONG, 0).await.unwrap();
    let refused = journal.iter().filter(|entry| entry.details.get("ok") == Some(&json!(false))).count();
    assert!(refused <= 2, "{refused} wrong logins");
}

/// The first image that anybody asks for: nothing of it is in the provider's cache.
async fn an_image_server_that_goes_in_the_middle(stack: &mut Stack) {
    let before = stack.simulator.journal_end(GOOD).await.unwrap();
    stack.images.set_trouble(Trouble::BreakAfter(stack.image.size / 2));
    let data = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "data", "namespace": NAMESPACE},
        "stringData": {"userData": "#cloud-config\nhostname: by-hand\n"}});
    stack.bed.apply(&data.to_string()).await.unwrap();
    patch_host(stack, GOOD, json!({"spec": {"image": image(stack), "userData": {"name": "data"}}})).await;
    wait_until("half of the image to be sent", LIMIT, async || match stack.images.bytes_sent() {
        sent if sent >= stack.image.size / 2 => Ok(()),
        sent => Err(format!("{sent} bytes were sent")),
    })
    .await
    .unwrap();
    stack.images.stop().await;
    let seen = wait_for_host(stack, GOOD, "the missing image server to be told", |host| {
        says(host, "Healthy", "False", "ImageUnreachable")
    })
    .await;
    assert_eq!(state(&seen), State::Provisioning);
    assert!(message(&seen, "Healthy").contains(&stack.image.url), "{}", message(&seen, "Healthy"));
    assert!(!boots(stack, GOOD, before).await.contains(&"Disk".to_owned()));

    stack.images.set_trouble(Trouble::None);
    stack.images.turn_on().await.unwrap();
    let done = wait_for_state(stack, GOOD, State::Provisioned).await;
    let record = done.spec.record.as_ref().unwrap().image.as_ref().unwrap();
    assert_eq!(record.digest, format!("sha256:{}", stack.image.sha256));
    wait_until("the server to start from its disk", LIMIT, async || {
        let boots = boots(stack, GOOD, before).await;
        if boots.last().is_some_and(|last| last == "Disk") { Ok(()) } else { Err(format!("{boots:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(powered(stack, GOOD).await, Some(true));
    let holds = holds_image(stack, GOOD);
    assert_eq!(holds.sha256, stack.image.sha256);
    let drive = config_drive(stack, GOOD);
    assert!(drive.0.contains("by-hand"), "{drive:?}");
    assert!(drive.1["local-hostname"] == json!(GOOD), "{drive:?}");
}

/// User data and metadata on a server's disk.
fn config_drive(stack: &Stack, name: &str) -> (String, Value) {
    let mut device = FileDevice::open(stack.simulator.disk(name).unwrap()).unwrap();
    let drive = read_config_drive(&mut device).unwrap().expect("no config drive");
    let meta_data = serde_yaml_ng::from_slice(&drive.meta_data).unwrap();
    (String::from_utf8(drive.user_data).unwrap(), meta_data)
}

async fn a_wrong_checksum(stack: &Stack) {
    let before = stack.simulator.journal_end(CHECKSUM).await.unwrap();
    let wrong = "0".repeat(64);
    patch_host(stack, CHECKSUM, json!({"spec": {"image": {"url": stack.image.url, "checksum": wrong}}}))
        .await;
    let seen = wait_for_host(stack, CHECKSUM, "the wrong checksum to be told", |host| {
        says(host, "Healthy", "False", "ChecksumMismatch")
    })
    .await;
    let told = message(&seen, "Healthy");
    assert!(told.contains(&wrong) && told.contains(&stack.image.sha256), "{told}");
    assert!(says(&seen, "Provisioned", "False", "Provisioning"), "{:?}", seen.status);
    assert!(seen.spec.record.as_ref().unwrap().image.is_none());
    patch_host(stack, CHECKSUM, json!({"spec": {"image": image(stack)}})).await;
    wait_for_state(stack, CHECKSUM, State::Provisioned).await;
    holds_image(stack, CHECKSUM);
    assert_eq!(boots(stack, CHECKSUM, before).await.iter().filter(|boot| *boot == "UefiHttp").count(), 1);
}

/// Another URL, so that the provider has to fetch again.
async fn one_flipped_bit(stack: &Stack) {
    stack.images.set_trouble(Trouble::Flip(stack.image.size / 3));
    // Another checksum algorithm is another image to the cache.
    let sha512 = {
        let bytes = std::fs::read(&stack.image.path).unwrap();
        use sha2::Digest;
        hex::encode(sha2::Sha512::digest(bytes))
    };
    patch_host(
        stack,
        FLIPPED,
        json!({"spec": {"image": {"url": stack.image.url, "checksum": sha512, "checksumType": "sha512"}}}),
    )
    .await;
    let seen = wait_for_host(stack, FLIPPED, "the flipped bit to be told", |host| {
        says(host, "Healthy", "False", "ChecksumMismatch")
    })
    .await;
    assert!(seen.spec.record.as_ref().unwrap().image.is_none());
    stack.images.set_trouble(Trouble::None);
    // What is wrong is wrong until somebody looks: an operator cuts the pause short.
    let retry = json!({"metadata": {"annotations": {"ferric.infrastructure.cluster.x-k8s.io/retry": ""}}});
    patch_host(stack, FLIPPED, retry).await;
    let done = wait_for_state(stack, FLIPPED, State::Provisioned).await;
    assert!(
        !done
            .metadata
            .annotations
            .unwrap_or_default()
            .contains_key("ferric.infrastructure.cluster.x-k8s.io/retry")
    );
    holds_image(stack, FLIPPED);
}

async fn a_restarted_manager_changes_nothing(stack: &mut Stack) {
    let names = [GOOD, CHECKSUM, FLIPPED, MUTE, WRONG];
    let mut before = Vec::new();
    for name in names {
        let record = serde_json::to_value(&host(stack, name).await.spec.record).unwrap();
        before.push((name, record, stack.simulator.journal_end(name).await.unwrap()));
    }
    stack.manager.kill();
    stack.manager.restart().await.unwrap();
    for (name, record, end) in before {
        // A login of the new process shows that it has looked at the host.
        wait_until(&format!("the new manager to look at {name}"), LIMIT, async || {
            let journal = stack.simulator.journal(name, end).await.map_err(|error| error.to_string())?;
            if journal.iter().any(|entry| entry.kind == "login") {
                Ok(())
            } else {
                Err("no login".to_owned())
            }
        })
        .await
        .unwrap();
        let wanted = if [MUTE, WRONG].contains(&name) { State::Available } else { State::Provisioned };
        let seen = wait_for_state(stack, name, wanted).await;
        assert_eq!(serde_json::to_value(&seen.spec.record).unwrap(), record, "{name}");
        let journal = stack.simulator.journal(name, end).await.unwrap();
        let writes: Vec<_> = journal.iter().filter_map(|entry| entry.write()).collect();
        assert!(writes.is_empty(), "{name}: {writes:?}");
    }
}

/// The same disk as qcow2 with compressed clusters, by another name: what is on the server's disk is the disk.
async fn a_qcow2_made_by_qemu_img(stack: &Stack) {
    let path = stack.bed.dir().join("image.qcow2");
    let mut convert = tokio::process::Command::new("qemu-img");
    convert.args(["convert", "-c", "-f", "raw", "-O", "qcow2"]).arg(&stack.image.path).arg(&path);
    match convert.output().await {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            let text = format!("SKIPPED a_qcow2_made_by_qemu_img: qemu-img: {error}\n");
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            return;
        }
    }
    let served = ImageServer::start(&path).await.unwrap();
    let sha256 = disk::sha256(&path).unwrap();
    assert_ne!(sha256, stack.image.sha256);
    // Without a format: the suffix says it.
    let image = json!({"url": served.url(), "checksum": sha256});
    patch_host(stack, MUTE, json!({"spec": {"image": image}})).await;
    let done = wait_for_state(stack, MUTE, State::Provisioned).await;
    let record = done.spec.record.as_ref().unwrap().image.as_ref().unwrap();
    assert_eq!(record.digest, format!("sha256:{sha256}"), "the image is known by what the spec says");
    holds_image(stack, MUTE);
    assert_eq!(served.requests(), 1);
}

/// The BMC gets the ISO; nothing is fetched, written or booted by us. Without it the drive is empty and the host free.
async fn a_live_iso(stack: &Stack) {
    let before = stack.simulator.journal_end(WRONG).await.unwrap();
    let path = stack.bed.dir().join("live.iso");
    // ECMA-119, 8.1.2: what makes it an ISO image to a simulated server.
    let mut iso = vec![0; 1 << 20];
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    std::fs::write(&path, iso).unwrap();
    let served = ImageServer::start(&path).await.unwrap();
    let image = json!({"url": served.url(), "format": "live-iso"});
    patch_host(stack, WRONG, json!({"spec": {"online": true, "image": image}})).await;
    let done = wait_for_state(stack, WRONG, State::Provisioned).await;
    let shown = done.status.as_ref().unwrap().provisioning.image.as_ref().unwrap();
    assert_eq!((shown.url.as_str(), shown.disk_format), (served.url().as_str(), Some(ImageFormat::LiveIso)));
    wait_until("the live system to run", LIMIT, async || {
        let journal = stack.simulator.journal(WRONG, before).await.map_err(|error| error.to_string())?;
        match journal.iter().rev().find_map(|entry| entry.state()) {
            Some("LiveISORunning") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(boots(stack, WRONG, before).await, ["Cd"]);
    disk::is_wiped(stack.simulator.disk(WRONG).unwrap()).unwrap();
    assert_eq!(served.requests(), 1, "the BMC's alone");

    let before = stack.simulator.journal_end(WRONG).await.unwrap();
    patch_host(stack, WRONG, json!({"spec": {"online": false, "image": null}})).await;
    wait_for_state(stack, WRONG, State::Available).await;
    let journal = stack.simulator.journal(WRONG, before).await.unwrap();
    let seq =
        |wanted: &dyn Fn(&JournalEntry) -> bool| journal.iter().find(|entry| wanted(entry)).map(|e| e.seq);
    let off = seq(&|entry| entry.power() == Some(false));
    let ejected =
        seq(&|entry| entry.write().is_some_and(|(_, path)| path.ends_with("VirtualMedia.EjectMedia")));
    let agent = seq(&|entry| entry.boot_source() == Some("UefiHttp"));
    assert!(off.is_some() && off < ejected && ejected < agent, "{journal:?}");
}

/// Kernel and initramfs are fetched once by us and served at each start; nothing is written, and nothing of it is to be had
/// after the host was let go.
async fn a_kernel_in_memory(stack: &Stack) {
    let before = stack.simulator.journal_end(WRONG).await.unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = stack.bed.dir().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let (kernel, initrd) = (write("vmlinuz", b"MZ kernel"), write("initrd.img", b"070701 initramfs"));
    let kernels = ImageServer::start(&kernel).await.unwrap();
    let initrds = ImageServer::start(&initrd).await.unwrap();
    let user_data = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "memory", "namespace": NAMESPACE},
        "stringData": {"userData": "#cloud-config\n"}});
    stack.bed.apply(&user_data.to_string()).await.unwrap();
    let image = json!({"url": kernels.url(), "checksum": disk::sha256(&kernel).unwrap(), "format": "kernel",
        "initrd": {"url": initrds.url(), "checksum": disk::sha256(&initrd).unwrap()},
        "kernelParameters": "console=ttyS0"});
    let spec = json!({"online": true, "image": image, "userData": {"name": "memory"}});
    patch_host(stack, WRONG, json!({ "spec": spec })).await;
    let done = wait_for_state(stack, WRONG, State::Provisioned).await;
    let shown = done.status.as_ref().unwrap().provisioning.image.as_ref().unwrap();
    assert_eq!((shown.url.as_str(), shown.disk_format), (kernels.url().as_str(), Some(ImageFormat::Kernel)));
    let runs = async |starts: usize| {
        wait_until("the system to run from memory", LIMIT, async || {
            let journal = stack.simulator.journal(WRONG, before).await.map_err(|error| error.to_string())?;
            let states = journal.iter().filter_map(|entry| entry.state());
            match states.filter(|state| *state == "SystemInMemoryRunning").count() {
                count if count == starts => Ok(()),
                count => Err(format!("{count} of {starts} times: {journal:?}")),
            }
        })
        .await
        .unwrap();
    };
    runs(1).await;
    // It starts again each time that it is switched on.
    patch_host(stack, WRONG, json!({"spec": {"online": false}})).await;
    wait_until("the server to be off", LIMIT, async || match powered(stack, WRONG).await {
        Some(false) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    patch_host(stack, WRONG, json!({"spec": {"online": true}})).await;
    runs(2).await;
    assert_eq!(boots(stack, WRONG, before).await, ["UefiHttp", "UefiHttp"]);
    disk::is_wiped(stack.simulator.disk(WRONG).unwrap()).unwrap();
    assert_eq!((kernels.requests(), initrds.requests()), (1, 1), "each is fetched once");

    let before = stack.simulator.journal_end(WRONG).await.unwrap();
    patch_host(stack, WRONG, json!({"spec": {"online": false, "image": null, "userData": null}})).await;
    wait_for_state(stack, WRONG, State::Available).await;
    let journal = stack.simulator.journal(WRONG, before).await.unwrap();
    let off = journal.iter().find(|entry| entry.power() == Some(false)).map(|entry| entry.seq);
    let agent = journal.iter().find(|entry| entry.boot_source() == Some("UefiHttp")).map(|entry| entry.seq);
    assert!(off.is_some() && off < agent, "{journal:?}");
}

/// An image of a registry names Secrets in turn that are not there, of another type, and unusable: the condition says so
/// and repeats nothing of them. The last one is labelled, so that `clusterctl move` takes it along.
async fn pull_secrets_are_read_by_name(stack: &Stack) {
    let secret = |name: &str, kind: &str, key: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "type": kind,
            "stringData": {key: "{\"auths\": {\"127.0.0.1\": {\"auth\": \"hunter2\"}}}"}})
    };
    let config = ".dockerconfigjson";
    stack.bed.apply(&secret("opaque", "Opaque", config).to_string()).await.unwrap();
    stack.bed.apply(&secret("registry", "kubernetes.io/dockerconfigjson", config).to_string()).await.unwrap();
    let url = format!("oci://127.0.0.1/os/node@sha256:{}", "0".repeat(64));
    for (name, expected) in [
        ("nowhere", "does not exist"),
        ("opaque", "is not of type kubernetes.io/dockerconfigjson"),
        ("registry", "no usable name and password"),
    ] {
        let image = json!({"url": url, "ociAuthSecretName": name});
        patch_host(stack, WRONG, json!({"spec": {"image": image}})).await;
        let seen = wait_for_host(stack, WRONG, &format!("Secret {name} to be told"), |host| {
            says(host, "Healthy", "False", "PullSecretUnusable")
                && message(host, "Healthy").contains(&format!("{NAMESPACE}/{name}"))
        })
        .await;
        let told = message(&seen, "Healthy");
        assert!(told.contains(expected) && !e2e::show(&seen).contains("hunter2"), "{told}");
    }
    let secrets: Api<Secret> = Api::namespaced(stack.bed.client(), NAMESPACE);
    let read = secrets.get("registry").await.unwrap();
    let label = ferric_api::names::MOVE_LABEL;
    assert!(read.metadata.labels.unwrap_or_default().contains_key(label));
    patch_host(stack, WRONG, json!({"spec": {"image": null}})).await;
    wait_for_state(stack, WRONG, State::Available).await;
    let log = std::fs::read_to_string(stack.manager.log()).unwrap();
    assert!(log.contains("PullSecretUnusable") && !log.contains("hunter2"));
}

async fn a_bmc_that_goes_and_comes_back(stack: &Stack) {
    let before = stack.simulator.journal_end(GOOD).await.unwrap();
    stack.simulator.set_faults(GOOD, &json!({ "bmc": "unreachable" })).await.unwrap();
    let seen = wait_for_host(stack, GOOD, "the unreachable BMC to be told", |host| {
        says(host, "Healthy", "False", "BMCUnreachable")
    })
    .await;
    assert!(says(&seen, "Provisioned", "True", "Provisioned"), "{:?}", seen.status);
    stack.simulator.set_faults(GOOD, &json!({})).await.unwrap();
    wait_for_host(stack, GOOD, "the BMC to be well again", |host| says(host, "Healthy", "True", "NoError"))
        .await;
    let journal = stack.simulator.journal(GOOD, before).await.unwrap();
    assert!(journal.iter().all(|entry| entry.write().is_none() && entry.power().is_none()), "{journal:?}");
    holds_image(stack, GOOD);
}

/// On a host in use: the next reading is refused, and a mended Secret is taken without a restart of anything.
async fn a_password_that_changes(stack: &Stack) {
    let before = stack.simulator.journal_end(GOOD).await.unwrap();
    stack.simulator.set_faults(GOOD, &json!({ "password": "rotated" })).await.unwrap();
    let seen = wait_for_host(stack, GOOD, "the refused credentials to be told", |host| {
        says(host, "Healthy", "False", "BMCUnauthorized")
    })
    .await;
    assert!(says(&seen, "Provisioned", "True", "Provisioned"), "{:?}", seen.status);
    let secret = json!({"stringData": {"password": "rotated"}}).to_string();
    let name = format!("{GOOD}-bmc");
    stack.bed.kubectl(["patch", "secret", &name, "--type=merge", "-p", &secret]).await.unwrap();
    wait_for_host(stack, GOOD, "the new password to be used", |host| {
        says(host, "Healthy", "True", "NoError")
    })
    .await;
    let journal = stack.simulator.journal(GOOD, before).await.unwrap();
    assert!(journal.iter().all(|entry| entry.write().is_none() && entry.power().is_none()), "{journal:?}");
    let refused = journal.iter().filter(|entry| entry.details.get("ok") == Some(&json!(false))).count();
    assert!(refused <= 3, "{refused} wrong logins: {journal:?}");
}

/// No image any more: off, wiped, available. Then the object is deleted: off, gone.
async fn letting_go(stack: &Stack) {
    let before = stack.simulator.journal_end(GOOD).await.unwrap();
    patch_host(stack, GOOD, json!({"spec": {"image": null, "userData": null}})).await;
    let free = wait_for_state(stack, GOOD, State::Available).await;
    let record = free.spec.record.as_ref().unwrap();
    assert!(record.image.is_none() && record.cleaned.is_some(), "{record:?}");
    let path = stack.simulator.disk(GOOD).unwrap();
    disk::is_wiped(path).unwrap();
    // It was stopped before anything else was done to it, and the agent came up only then.
    let journal = stack.simulator.journal(GOOD, before).await.unwrap();
    let first = journal.iter().find_map(|entry| entry.power().map(|on| (on, entry.seq)));
    let booted = journal.iter().find(|entry| entry.boot_source() == Some("UefiHttp")).map(|entry| entry.seq);
    assert!(matches!((first, booted), (Some((false, off)), Some(boot)) if off < boot), "{journal:?}");

    for name in [GOOD, FLIPPED] {
        hosts(stack).delete(name, &DeleteParams::default()).await.unwrap();
        wait_until(&format!("{name} to be gone"), LIMIT, async || {
            match hosts(stack).get_opt(name).await.map_err(|error| error.to_string())? {
                None => Ok(()),
                Some(host) => Err(e2e::show(&host)),
            }
        })
        .await
        .unwrap();
        assert_eq!(powered(stack, name).await, Some(false), "{name}");
        disk::is_wiped(stack.simulator.disk(name).unwrap()).unwrap();
    }
}
