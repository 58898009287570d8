//! Events of BMCs as a wake-up: with polls an hour apart, a change of power that nobody asked for is seen at once. One
//! subscription for each BMC, also after a restart of the manager; gone with its host.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;

use e2e::{LIMIT, hosts, image, patch_host, powered, wait_for_state};
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::ports::Port;
use ferric_testbed::{Stack, wait_until};
use kube::api::DeleteParams;
use serde_json::{Value, json};

const NAME: &str = "host-01";

/// A request to the server's BMC, as an operator beside the provider would send it.
async fn by_hand(stack: &Stack, method: &str, path: &str, body: Value) -> Value {
    let server = stack.simulator.server(NAME).unwrap();
    let ca = reqwest::Certificate::from_pem(&stack.simulator.bmc_ca().unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap();
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let answer = client
        .request(method, format!("{}/redfish/v1{path}", server.bmc_url))
        .basic_auth(&server.username, Some(&server.password))
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default()
}

async fn subscriptions(stack: &Stack) -> usize {
    let listed = by_hand(stack, "GET", "/EventService/Subscriptions", Value::Null).await;
    listed["Members"].as_array().map_or(0, Vec::len)
}

/// Turns the server off by hand; the provider turns it on again, for its host is to be on.
async fn turned_off_and_on_again(stack: &Stack) {
    let end = stack.simulator.journal_end(NAME).await.unwrap();
    by_hand(stack, "POST", "/Systems/1/Actions/ComputerSystem.Reset", json!({"ResetType": "ForceOff"})).await;
    wait_until("the power to be on again", LIMIT, async || {
        let journal = stack.simulator.journal(NAME, end).await.map_err(|error| error.to_string())?;
        let powers: Vec<bool> = journal.iter().filter_map(|entry| entry.power()).collect();
        if powers == [false, true] { Ok(()) } else { Err(format!("{powers:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_from_outside_is_seen_at_once() {
    let port = Port::reserve().unwrap();
    let address = format!("127.0.0.1:{}", port.number());
    let mut stack = Stack::builder()
        .fleet(1, 1)
        .manager_flag("power-poll-seconds", "3600")
        .manager_flag("bmc-events-url", format!("http://{address}/events"))
        .manager_flag("bmc-events-bind-address", address)
        .start()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    wait_for_state(&stack, NAME, State::Available).await;
    patch_host(&stack, NAME, json!({"spec": {"image": image(&stack), "online": true}})).await;
    wait_for_state(&stack, NAME, State::Provisioned).await;
    wait_until("the server to be on", LIMIT, async || match powered(&stack, NAME).await {
        Some(true) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    assert_eq!(subscriptions(&stack).await, 1);
    turned_off_and_on_again(&stack).await;

    // Another process finds the subscription again.
    let end = stack.simulator.journal_end(NAME).await.unwrap();
    stack.manager.kill();
    stack.manager.restart().await.unwrap();
    wait_until("the new manager to log in", LIMIT, async || {
        let journal = stack.simulator.journal(NAME, end).await.map_err(|error| error.to_string())?;
        if journal.iter().any(|entry| entry.kind == "login") { Ok(()) } else { Err("no login".to_owned()) }
    })
    .await
    .unwrap();
    wait_for_state(&stack, NAME, State::Provisioned).await;
    turned_off_and_on_again(&stack).await;
    assert_eq!(subscriptions(&stack).await, 1);

    hosts(&stack).delete(NAME, &DeleteParams::default()).await.unwrap();
    wait_until("the subscription to be gone with its host", LIMIT, async || {
        let host = hosts(&stack).get_opt(NAME).await.map_err(|error| error.to_string())?;
        match (host.is_none(), subscriptions(&stack).await) {
            (true, 0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    stack.stop().await;
}
