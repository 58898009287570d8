//! A server whose disk fails whenever it is written: its machine is taken back, it is left alone, and another takes its place.

use ferric_api::autoscaling::Direction;
use ferric_api::host::ProvisioningState;
use ferric_testbed::wait_until;
use serde_json::json;

use crate::Scene;
use crate::e2e::{LIMIT, NAMESPACE, host, patch_host, wait_for_host, wait_for_state};
use crate::groups::{autoscale, says, told, wait_for_group};
use crate::load::{self, wait_for_running};

const GROUP: &str = "frail";
const BAD: &str = "host-01";
const GOOD: &str = "host-02";
const POOL: &str = "test.example/pool";
const NODE_POOL: &str = "node.cluster.x-k8s.io/pool";

pub async fn run(scene: &Scene) {
    let stack = &scene.stack;
    // More than cleaning writes, and less than the image has.
    stack.simulator.set_faults(BAD, &json!({"diskFailsAfterBytes": 12 << 20})).await.unwrap();
    patch_host(stack, BAD, json!({"metadata": {"labels": {POOL: GROUP}}})).await;
    let change = json!({"spec": {"provisioning": {
        // The least that may be said.
        "timeoutSeconds": 60, "backoff": {"initialSeconds": 20, "maxSeconds": 1800},
    }}});
    scene.group(GROUP, json!({"labels": {POOL: GROUP}}), json!({ NODE_POOL: GROUP }), change).await;
    load::create(scene.workload(), GROUP, 1, json!({"cpu": "1"}), json!({ NODE_POOL: GROUP })).await;
    wait_for_host(stack, BAD, "to have failed twice", |host| {
        let standby = host.status.as_ref().and_then(|status| status.standby.as_ref());
        standby.and_then(|standby| standby.failures.as_ref()).is_some_and(|failures| failures.count >= 2)
    })
    .await;
    patch_host(stack, GOOD, json!({"metadata": {"labels": {POOL: GROUP}}})).await;

    let group = wait_for_group(stack, GROUP, "to be backed off", |group| {
        says(group, "BackedOff").is_some_and(|backed_off| {
            (backed_off.status.as_str(), backed_off.reason.as_str()) == ("True", "ProvisioningTimeout")
        }) && group.status.as_ref().is_some_and(|status| status.current_replicas == Some(0))
    })
    .await;
    let last = group.status.as_ref().unwrap().last_decision.clone().unwrap();
    assert_eq!((last.direction, last.reason.as_str()), (Direction::Down, "ProvisioningTimeout"));
    let message = told(&group, "BackedOff").unwrap();
    assert!(message.contains("not raised before"), "{message}");

    let line = format!(
        "ferric_node_group_replicas{{namespace=\"{NAMESPACE}\",group=\"{GROUP}\",what=\"quarantined\"}} 1"
    );
    wait_until("the host to be counted as left alone", LIMIT, async || {
        let page = stack.manager.metrics().await.map_err(|error| error.to_string())?;
        let found = page.lines().find(|text| text.contains("quarantined") && text.contains(GROUP));
        if found == Some(line.as_str()) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    let explained = autoscale(stack, &["explain", GROUP]).await;
    assert!(explained.contains(" 1 in quarantine"), "{explained}");

    wait_for_running(stack, scene.workload(), GROUP, (1, 1)).await;
    let good = wait_for_state(stack, GOOD, ProvisioningState::Provisioned).await;
    assert!(good.spec.consumer_ref.is_some());
    assert!(host(stack, BAD).await.spec.consumer_ref.is_none());
    wait_for_group(stack, GROUP, "to be backed off no more", |group| {
        says(group, "BackedOff").is_some_and(|backed_off| backed_off.status == "False")
    })
    .await;
    assert_eq!(scene.numbers(GROUP, 0), [0, 1, 0, 1]);
}
