//! Quirk rules of an operator, from a ConfigMap to what is read of a BMC: the manager under the rights of its components.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;

use e2e::{LIMIT, NAMESPACE};
use ferric_api::HardwareData;
use ferric_api::names::QUIRKS_REFUSED_ANNOTATION;
use ferric_testbed::{Stack, wait_until};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

const HOST: &str = "host-01";

/// A rule that can be seen to work, and one with a misspelt key.
const RULES: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata:
  name: ferric-bmc-quirks
  namespace: ferric-system
data:
  ours.yaml: |
    version: 1
    rules:
    - name: seen-to-work
      seen: this test
      match: {vendor: "*", type: ComputerSystem}
      patch:
      - replace: {at: /Model, value: Named by a rule}
    - name: misspelt
      seen: this test
      mtach: {vendor: "*"}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_come_from_a_config_map_and_a_bad_one_is_named() {
    let stack =
        Stack::builder().fleet(1, 1).without_hosts().start().await.unwrap_or_else(|error| panic!("{error}"));
    stack.bed.apply(RULES).await.unwrap();
    let events: Api<Event> = Api::namespaced(stack.bed.client(), "ferric-system");
    let note = wait_until("an event about the bad rule", LIMIT, async || {
        let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let found = all.items.into_iter().find(|event| event.reason.as_deref() == Some("QuirkRefused"));
        found.and_then(|event| event.note).ok_or_else(|| "none yet".to_owned())
    })
    .await
    .unwrap();
    assert!(note.starts_with("quirk rule misspelt of ours.yaml is refused: unknown field `mtach`"), "{note}");
    // An event is gone after an hour; this stays.
    let maps: Api<ConfigMap> = Api::namespaced(stack.bed.client(), "ferric-system");
    let refused = wait_until("an annotation about the bad rule", LIMIT, async || {
        let map = maps.get("ferric-bmc-quirks").await.map_err(|error| error.to_string())?;
        map.annotations().get(QUIRKS_REFUSED_ANNOTATION).cloned().ok_or_else(|| "none yet".to_owned())
    })
    .await
    .unwrap();
    assert_eq!(refused, note);

    // Out of band only: an agent would tell its own name of the product.
    let manifests = stack.simulator.manifests_of(&[HOST]).unwrap();
    let manifests = manifests.replace("\nspec:\n", "\nspec:\n  inspectionMode: outOfBand\n");
    assert!(manifests.contains("outOfBand"), "{manifests}");
    stack.bed.apply(&manifests).await.unwrap();
    let hardware: Api<HardwareData> = Api::namespaced(stack.bed.client(), NAMESPACE);
    wait_until("the product as the rule has it", LIMIT, async || {
        let found = hardware.get(HOST).await.map_err(|error| error.to_string())?;
        let text = serde_json::to_string(&found.spec).unwrap();
        if text.contains("Named by a rule") { Ok(()) } else { Err(text) }
    })
    .await
    .unwrap();
    // Mended, and the annotation goes.
    stack.bed.apply(&RULES.replace("mtach", "send: {ifMatch: any}\n      match")).await.unwrap();
    wait_until("no annotation", LIMIT, async || {
        let map = maps.get("ferric-bmc-quirks").await.map_err(|error| error.to_string())?;
        let refused = map.annotations().get(QUIRKS_REFUSED_ANNOTATION).cloned();
        refused.map_or(Ok(()), Err)
    })
    .await
    .unwrap();
    stack.stop().await;
}
