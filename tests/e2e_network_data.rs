//! The network that a host names for its agent: without it, or with one that is of no use, nothing is booted, and the host
//! says what to mend; mended, it goes on by itself.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;

use e2e::{NAMESPACE, boots, image, message, patch_host, powered, says, wait_for_host, wait_for_state};
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::Stack;
use serde_json::{Value, json};

const HOST: &str = "host-01";

async fn put(stack: &Stack, data: Value) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "net", "namespace": NAMESPACE},
        "stringData": {"networkData": data.to_string()}});
    stack.bed.apply(&secret.to_string()).await.unwrap();
}

fn data(kind: &str) -> Value {
    json!({
        "links": [{ "id": "a", "type": kind, "ethernet_mac_address": "52:54:00:00:00:01" }],
        "networks": [{ "id": "n", "link": "a", "type": "ipv4", "ip_address": "10.0.0.5/24", "gateway": "10.0.0.1" }],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_booted_without_the_network_that_a_host_names() {
    let stack = Stack::builder().fleet(1, 2).without_hosts().start().await;
    let stack = stack.unwrap_or_else(|error| panic!("{error}"));
    stack.bed.apply(&stack.simulator.manifests_of(&[HOST]).unwrap()).await.unwrap();
    wait_for_state(&stack, HOST, State::Available).await;
    let before = stack.simulator.journal_end(HOST).await.unwrap();

    patch_host(
        &stack,
        HOST,
        json!({"spec": {"preprovisioningNetworkDataName": "net", "image": image(&stack)}}),
    )
    .await;
    let told = wait_for_host(&stack, HOST, "the missing Secret to be told", |host| {
        says(host, "Healthy", "False", "NetworkDataMissing")
    })
    .await;
    let sentence = message(&told, "Healthy");
    assert!(sentence.contains(&format!("{NAMESPACE}/net")) && sentence.contains("networkData"), "{sentence}");

    put(&stack, data("infiniband")).await;
    let told = wait_for_host(&stack, HOST, "the unusable data to be told", |host| {
        says(host, "Healthy", "False", "NetworkDataInvalid")
    })
    .await;
    let sentence = message(&told, "Healthy");
    for part in ["net", "networkData", "links[0].type", "use phy, bond or vlan"] {
        assert!(sentence.contains(part), "{part} in {sentence}");
    }
    assert!(says(&told, "Registered", "True", "Registered"), "it is not the BMC's fault");
    assert_eq!(boots(&stack, HOST, before).await, Vec::<String>::new());
    assert_eq!(powered(&stack, HOST).await, Some(false));

    put(&stack, data("phy")).await;
    let done = wait_for_state(&stack, HOST, State::Provisioned).await;
    assert!(says(&done, "Healthy", "True", "NoError"));
    stack.stop().await;
}
