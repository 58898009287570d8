//! Machines of Cluster API come and go on one host, with a real kubelet each time; what a tenant leaves behind goes too, or
//! is not said to be gone.

use std::time::Duration;

use ferric_api::HardwareData;
use ferric_api::hardware::CleaningEvidence;
use ferric_api::host::CleaningMode;
use ferric_testbed::lab::stack::wait_for;
use ferric_testbed::lab::{LabStack, Server, wait_for_serial};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::json;

use crate::bench::{HOST, LIMIT, NAMESPACE, Row, done, find, write_at};
use crate::lab::node::{joined, released};

const CLUSTER: &str = "scale";
/// Two nodes, each of which takes four to five minutes to come, and a minute to go.
const TWO_NODES: Duration = Duration::from_secs(2400);
/// Written to the disk from outside, where no filesystem keeps anything of its own.
const PLANTED: &[u8] = b"what a tenant wrote, 0123456789abcdef";
/// In the last quarter of the disk, behind what the image brings.
const PLACE: u64 = (6 << 30) + (700 << 20) + 12_345;
/// An address that no DHCP server of the lab gives.
const STATIC: &str = "10.77.0.161";

/// What cloud-init writes into a file. It computes the number, so user data alone do not hold this.
fn written(name: &str) -> String {
    format!("cloud-init wrote 42 for {name}")
}

/// Makes the Machines of this kind from now on, and wants one of them.
async fn scale_up(row: &Row, name: &str, infrastructure: serde_json::Value) {
    let image =
        json!({ "url": row.stack.image.url, "checksum": row.stack.image.sha256, "format": row.stack.format });
    let mut spec = json!({ "image": image });
    spec.as_object_mut().unwrap().extend(infrastructure.as_object().unwrap().clone());
    let machines = json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "BareMetalMachineTemplate",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "template": { "spec": spec } },
    });
    let commands = [
        format!(
            "echo cloud-init wrote $((6 * 7)) for {name} > /var/lib/tenant && sync && cat /var/lib/tenant"
        ),
        "echo this is {{ ds.meta_data.provider_id }}".to_owned(),
    ];
    let kubeadm = json!({
        "apiVersion": "bootstrap.cluster.x-k8s.io/v1beta2", "kind": "KubeadmConfigTemplate",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "template": { "spec": {
            "preKubeadmCommands": commands,
            "joinConfiguration": { "nodeRegistration": {
                "name": "{{ ds.meta_data.local_hostname }}",
                "kubeletExtraArgs": [{ "name": "provider-id", "value": "{{ ds.meta_data.provider_id }}" }],
            } },
        } } },
    });
    done(row.stack.bed.apply(&format!("{machines}\n---\n{kubeadm}\n")).await);
    let change = json!({ "spec": { "replicas": 1, "template": { "spec": {
        "bootstrap": { "configRef": { "name": name } }, "infrastructureRef": { "name": name },
    } } } });
    let deployment = format!("{CLUSTER}-workers");
    let change = change.to_string();
    let patch = ["patch", "machinedeployment", &deployment, "-n", NAMESPACE, "--type=merge", "-p", &change];
    done(row.stack.bed.kubectl(patch).await);
    row.story.say(&format!("{deployment} is scaled to 1, made of {name}"));
}

/// Waits for what cloud-init wrote: on the serial port, with where it read from, and in its file on the disk.
async fn cloud_init_wrote(row: &Row, server: &Server, from: u64, name: &str, source: &str) {
    let text = written(name);
    let source = format!("Datasource {source}");
    for line in [&text, &format!("this is ferric://{HOST}/"), &source] {
        done(wait_for_serial(server, from, line, LIMIT).await);
    }
    row.story.say(&format!("cloud-init printed {text:?} and {source:?}"));
    let on_disk = wait_for("what cloud-init wrote to be on the disk", LIMIT, async || {
        find(server.disk(0).unwrap(), text.as_bytes()).map(drop).ok_or_else(|| "not yet".to_owned())
    });
    done(on_disk.await);
}

/// What was done to the root disk when the host was last cleaned.
async fn evidence(stack: &LabStack, server: &Server) -> CleaningEvidence {
    let found: Api<HardwareData> = Api::namespaced(stack.bed.client(), NAMESPACE);
    let all = found.get(HOST).await.unwrap().spec.cleaning;
    let serial = &server.spec.disks[0].serial;
    all.into_iter().find(|evidence| evidence.serial_number == *serial).unwrap()
}

fn has_address(node: &Node, address: &str) -> bool {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    addresses.iter().any(|found| found.type_ == "InternalIP" && found.address == address)
}

row!(machines_come_and_go_and_full_cleaning_leaves_nothing, TWO_NODES, async {
    let mut row = Row::start(LabStack::builder()).await;
    row.enrol().await;
    let server = row.server().clone();
    let disk = server.disk(0).unwrap();
    let cluster = done(row.stack.create_cluster(CLUSTER, 0).await);

    // With mode full.
    let from = server.serial_end();
    scale_up(&row, "wiped", json!({ "automatedCleaningMode": "full" })).await;
    let node = joined(&row.stack, &cluster, &server, &mut row.story).await;
    cloud_init_wrote(&row, &server, from, "wiped", "DataSourceNoCloud").await;
    assert!(has_address(&node, &server.address.to_string()), "{node:?}");
    write_at(disk, PLACE, PLANTED);
    // Planted from outside, written by cloud-init, user data.
    let wrote = written("wiped");
    let tenants = [PLANTED, wrote.as_bytes(), b"for wiped > /var/lib/tenant"];
    for tenant in tenants {
        assert!(find(disk, tenant).is_some(), "{} is not on the disk", String::from_utf8_lossy(tenant));
    }
    released(&row.stack, &cluster, CLUSTER, &server, &mut row.story).await;
    for tenant in tenants {
        assert_eq!(find(disk, tenant), None, "{} is still on the disk", String::from_utf8_lossy(tenant));
    }
    let told = evidence(&row.stack, &server).await;
    assert_eq!(told.mode, CleaningMode::Full, "{told:?}");
    assert_eq!(told.bytes, i64::try_from(server.spec.disks[0].size).unwrap(), "{told:?}");
    assert!(told.verified_bytes > 0, "{told:?}");
    row.story.say(&format!("{}: nothing of it is left anywhere on the disk; {}", told.method, told.did));

    // The same host again, with mode metadata and a network of OpenStack's format, which NoCloud cannot say.
    let network = json!({
        "links": [{ "id": "nic0", "type": "phy", "ethernet_mac_address": server.mac() }],
        "networks": [{
            "id": "net0", "type": "ipv4", "link": "nic0", "ip_address": format!("{STATIC}/24"),
            "routes": [{ "network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.77.0.1" }],
        }],
        "services": [],
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "node-network", "namespace": NAMESPACE },
        "stringData": { "networkData": network.to_string() },
    });
    done(row.stack.bed.apply(&secret.to_string()).await);
    let from = server.serial_end();
    let machine = json!({ "automatedCleaningMode": "metadata", "networkData": { "name": "node-network" } });
    scale_up(&row, "kept", machine).await;
    let node = joined(&row.stack, &cluster, &server, &mut row.story).await;
    cloud_init_wrote(&row, &server, from, "kept", "DataSourceConfigDrive").await;
    assert!(has_address(&node, STATIC), "{node:?}");
    row.story.say(&format!("the host is used again; config-2 gave its Node {STATIC}"));
    write_at(disk, PLACE, PLANTED);
    released(&row.stack, &cluster, CLUSTER, &server, &mut row.story).await;
    let told = evidence(&row.stack, &server).await;
    assert_eq!((told.mode, told.method.as_str()), (CleaningMode::Metadata, "zero-metadata"), "{told:?}");
    assert!(told.did.ends_with("what else is on the drive can still be read"), "{told:?}");
    assert!(told.bytes < i64::try_from(server.spec.disks[0].size).unwrap(), "{told:?}");
    assert_eq!(find(disk, PLANTED), Some(PLACE), "mode metadata is not known to erase data");
    row.story.say("mode metadata does not claim to have erased, and has not");
    drop(cluster);
    row.stop().await;
});
