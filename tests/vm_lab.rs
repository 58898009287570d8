//! What is shown on virtual servers only: ways to boot, kinds of disks, what must not happen. Rows that need no node of
//! Kubernetes deploy a tiny system, whose init prints what it finds on the config drive.
//!
//! Ignored unless asked for (`make test-lab`): together they take half an hour. Root and QEMU are needed; where they are
//! missing a line says that a row was SKIPPED, and why.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use ferric_api::BareMetalHost;
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::Result;
use ferric_testbed::lab::domain::{BmcKind, DiskBus, DiskSpec, Firmware, ServerSpec};
use ferric_testbed::lab::images::tiny_system;
use ferric_testbed::lab::stack::{self, Story, wait_for};
use ferric_testbed::lab::{LabBuilder, LabStack, wait_for_serial};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const HOST: &str = "vm-1";
const NAMESPACE: &str = "default";
const MIB: u64 = 1 << 20;
/// Small, so that every byte of it is soon read.
const DISK: u64 = 256 * MIB;
const LIMIT: Duration = Duration::from_secs(420);
const ROW_LIMIT: Duration = Duration::from_secs(1200);

fn disk(bus: DiskBus, serial: &str) -> DiskSpec {
    DiskSpec { bus, size: DISK, serial: serial.to_owned() }
}

fn server() -> ServerSpec {
    ServerSpec { disks: vec![disk(DiskBus::Virtio, "disk-a")], memory: 1024, ..ServerSpec::new(HOST) }
}

/// A lab without Cluster API, whose image is the tiny system.
async fn lab(server: ServerSpec) -> LabBuilder {
    let image = done(tiny_system().await);
    LabStack::builder().servers(vec![server]).cluster_api(false).image(image)
}

fn done<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

fn hosts(stack: &LabStack) -> Api<BareMetalHost> {
    Api::namespaced(stack.bed.client(), NAMESPACE)
}

async fn patch(stack: &LabStack, patch: Value) {
    hosts(stack).patch(HOST, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

fn state(host: &BareMetalHost) -> State {
    host.status.as_ref().map(|status| status.provisioning.state).unwrap_or_default()
}

/// What the host is at, in a few words.
fn at(host: &BareMetalHost) -> String {
    let Some(status) = &host.status else { return "new".to_owned() };
    let waits = status.waiting_for.as_ref().map(|waiting| waiting.message.clone()).unwrap_or_default();
    let error = status.error_message.clone().map(|error| format!(" ERROR {error}")).unwrap_or_default();
    format!("{:?}: {waits}{error}", status.provisioning.state)
}

async fn reach(
    stack: &LabStack,
    story: &mut Story,
    what: &str,
    wanted: impl Fn(&BareMetalHost) -> bool,
) -> BareMetalHost {
    let (hosts, server) = (hosts(stack), done(stack.lab.server(HOST)));
    let reached = wait_for(&format!("{HOST} to be {what}"), LIMIT, async || {
        let host = hosts.get(HOST).await.map_err(|error| error.to_string())?;
        story.tell(HOST, &at(&host));
        if wanted(&host) {
            return Ok(host);
        }
        Err(format!("{}; it printed:\n{}", at(&host), server.last_lines(15)))
    })
    .await;
    done(reached)
}

/// Asks for the tiny system on a host that nobody claimed, with a marker in its user data.
async fn ask_for_image(stack: &LabStack, marker: &str, checksum: &str) {
    let user_data = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: user-data, namespace: {NAMESPACE}}}\n\
         stringData: {{userData: \"#cloud-config\\n# {marker}\\n\"}}\n"
    );
    done(stack.bed.apply(&user_data).await);
    let image = json!({ "url": stack.image.url, "checksum": checksum, "format": "raw" });
    patch(stack, json!({ "spec": { "online": true, "image": image, "userData": { "name": "user-data" } } }))
        .await;
}

/// Enrols the host, has the tiny system written, and waits until it runs and has printed the marker. Returns all that it
/// printed since.
async fn provision(stack: &LabStack, story: &mut Story, marker: &str) -> String {
    done(stack.enrol().await);
    reach(stack, story, "available", |host| state(host) == State::Available).await;
    provision_again(stack, story, marker).await
}

async fn provision_again(stack: &LabStack, story: &mut Story, marker: &str) -> String {
    let server = done(stack.lab.server(HOST));
    let from = server.serial_end();
    ask_for_image(stack, marker, &stack.image.sha256).await;
    reach(stack, story, "provisioned", |host| state(host) == State::Provisioned).await;
    done(wait_for_serial(server, from, &format!("tiny: user-data: {marker}"), LIMIT).await);
    done(wait_for_serial(server, from, "tiny: done", LIMIT).await);
    story.say("the tiny system printed the marker");
    server.serial_from(from)
}

/// Takes the image back and waits until the host is free and off.
async fn release(stack: &LabStack, story: &mut Story) {
    patch(stack, json!({ "spec": { "online": false, "image": null, "userData": null } })).await;
    reach(stack, story, "free again", |host| {
        let record = host.spec.record.as_ref();
        state(host) == State::Available && record.is_some_and(|record| record.image.is_none())
    })
    .await;
    let server = done(stack.lab.server(HOST));
    let off = wait_for("the server to be off", LIMIT, async || match server.is_on().await {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    done(off);
}

/// The bytes of the image are on the disk, but for the two places where the partition table says how large the disk is.
fn holds_image(disk: &Path, image: &Path) {
    let (mut disk, mut image) = (std::fs::File::open(disk).unwrap(), std::fs::File::open(image).unwrap());
    let size = image.metadata().unwrap().len();
    let (mut at, mut one, mut other) = (0_u64, vec![0; MIB as usize], vec![0; MIB as usize]);
    while at < size {
        let count = usize::try_from((size - at).min(MIB)).unwrap();
        disk.read_exact(&mut one[..count]).unwrap();
        image.read_exact(&mut other[..count]).unwrap();
        // Header and entries at the beginning, the old backup at the image's end.
        let table = at == 0 || at + MIB >= size;
        assert!(table || one[..count] == other[..count], "the MiB at {at} is not the image's");
        at += count as u64;
    }
}

/// Where in a file a text is found.
fn find(path: &Path, needle: &[u8]) -> Option<usize> {
    let bytes = std::fs::read(path).unwrap();
    bytes.windows(needle.len()).position(|window| window == needle)
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

fn sha256(path: &Path) -> String {
    let mut hash = Sha256::new();
    hash.update(std::fs::read(path).unwrap());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One row: a test of its own, which is run inside a lab.
macro_rules! row {
    ($name:ident, $body:expr) => {
        #[test]
        #[ignore = "takes minutes: make test-lab"]
        fn $name() {
            stack::test(stringify!($name), ROW_LIMIT, || $body);
        }
    };
}

row!(uefi_http_boot, async {
    let mut story = Story::default();
    let spec = ServerSpec { bmc: BmcKind::Redfish("redfish-uefihttp"), ..server() };
    let stack = done(lab(spec).await.start().await);
    let printed = provision(&stack, &mut story, "marker-uefi-http").await;
    assert!(printed.contains("tiny: up, firmware UEFI"), "{printed}");
    let server = done(stack.lab.server(HOST));
    holds_image(server.disk(0).unwrap(), &stack.image.path);
    release(&stack, &mut story).await;
    stack.stop().await;
});

row!(bios_pxe_beside_a_foreign_dhcp_server, async {
    let mut story = Story::default();
    let spec = ServerSpec { firmware: Firmware::Bios, bmc: BmcKind::RedfishWithoutMedia, ..server() };
    let builder = lab(spec).await;
    let builder = builder.manager_flag("dhcp-mode", "proxy").manager_flag("dhcp-interface", "lab0");
    let stack = done(builder.start().await);
    let printed = provision(&stack, &mut story, "marker-bios-pxe").await;
    assert!(printed.contains("tiny: up, firmware BIOS"), "{printed}");
    release(&stack, &mut story).await;
    stack.stop().await;
});

row!(uefi_pxe_beside_a_foreign_dhcp_server, async {
    let mut story = Story::default();
    // Of the ways that this BMC offers, the image's absence from its HTTP client leaves the network.
    let spec = ServerSpec { bmc: BmcKind::RedfishWithoutMedia, ..server() };
    let builder = lab(spec).await;
    let builder = builder.manager_flag("dhcp-mode", "proxy").manager_flag("dhcp-interface", "lab0");
    let stack = done(builder.start().await);
    let printed = provision(&stack, &mut story, "marker-uefi-pxe").await;
    assert!(printed.contains("tiny: up, firmware UEFI"), "{printed}");
    stack.stop().await;
});

row!(two_disks_and_the_hint_chooses_the_nvme, async {
    let mut story = Story::default();
    let spec = ServerSpec {
        disks: vec![disk(DiskBus::Nvme, "nvme-b"), disk(DiskBus::Virtio, "disk-a")],
        hints: vec![("serialNumber".to_owned(), "nvme-b".to_owned())],
        ..server()
    };
    let stack = done(lab(spec).await.start().await);
    let vm = done(stack.lab.server(HOST));
    let (right, other) = (vm.disk(0).unwrap(), vm.disk(1).unwrap());
    done(stack.enrol().await);
    reach(&stack, &mut story, "available", |host| state(host) == State::Available).await;
    // After the cleaning of a new host, which is for all disks: what an operator keeps there from then on.
    write_at(other, 0, &[0xA5; 4096]);
    write_at(other, DISK - 4096, &[0x5A; 4096]);
    let before = sha256(other);
    let printed = provision_again(&stack, &mut story, "marker-nvme").await;
    assert!(printed.contains("disk nvme-b"), "{printed}");
    holds_image(right, &stack.image.path);
    assert_eq!(sha256(other), before, "the other disk was written");
    stack.stop().await;
});

row!(a_wrong_checksum_never_becomes_provisioned, async {
    let mut story = Story::default();
    let stack = done(lab(server()).await.start().await);
    done(stack.enrol().await);
    reach(&stack, &mut story, "available", |host| state(host) == State::Available).await;
    let from = done(stack.lab.server(HOST)).serial_end();
    let wrong = "0".repeat(64);
    ask_for_image(&stack, "marker-wrong", &wrong).await;
    let host = reach(&stack, &mut story, "told of the wrong checksum", |host| {
        assert_ne!(state(host), State::Provisioned, "{}", at(host));
        host.status
            .as_ref()
            .and_then(|status| status.error_message.as_deref())
            .is_some_and(|m| m.contains(&wrong))
    })
    .await;
    let message = host.status.unwrap().error_message.unwrap();
    assert!(message.contains(&stack.image.sha256), "the checksum that it has is not in {message:?}");
    assert!(!done(stack.lab.server(HOST)).serial_from(from).contains("tiny:"));
    stack.stop().await;
});

row!(full_cleaning_leaves_no_marker, async {
    let mut story = Story::default();
    let stack = done(lab(server()).await.start().await);
    provision(&stack, &mut story, "marker-before-cleaning").await;
    let vm = done(stack.lab.server(HOST));
    let path = vm.disk(0).unwrap();
    // In the middle, where metadata is not: what a tenant leaves behind.
    let planted = b"a tenant's secret 0123456789abcdef";
    write_at(path, DISK / 2 + 12_345, planted);
    assert!(find(path, planted).is_some());
    patch(&stack, json!({ "spec": { "automatedCleaningMode": "full" } })).await;
    release(&stack, &mut story).await;
    assert_eq!(find(path, planted), None, "the marker is still on the disk");
    assert_eq!(find(path, b"marker-before-cleaning"), None, "user data is still on the disk");
    story.say("no marker is left on the disk");
    provision_again(&stack, &mut story, "marker-after-cleaning").await;
    holds_image(path, &stack.image.path);
    stack.stop().await;
});
