//! What the end-to-end tests share: looking at objects as an administrator, and waiting for them.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::time::Duration;

use ferric_api::host::ProvisioningState;
use ferric_api::{BareMetalHost, condition};
use ferric_testbed::{Stack, wait_until};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

/// How long anything may take on a busy machine. Nothing here takes more than seconds on an idle one.
pub const LIMIT: Duration = Duration::from_secs(180);
pub const NAMESPACE: &str = "default";

pub fn hosts(stack: &Stack) -> Api<BareMetalHost> {
    Api::namespaced(stack.bed.client(), NAMESPACE)
}

pub async fn host(stack: &Stack, name: &str) -> BareMetalHost {
    hosts(stack).get(name).await.unwrap()
}

pub async fn patch_host(stack: &Stack, name: &str, patch: Value) -> BareMetalHost {
    hosts(stack).patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap()
}

/// Waits until a host is as `wanted` says; the error shows its status as last seen.
pub async fn wait_for_host(
    stack: &Stack,
    name: &str,
    what: &str,
    wanted: impl Fn(&BareMetalHost) -> bool,
) -> BareMetalHost {
    let api = hosts(stack);
    wait_until(&format!("{name}: {what}"), LIMIT, async || {
        let host = api.get(name).await.map_err(|error| error.to_string())?;
        if wanted(&host) { Ok(host) } else { Err(show(&host)) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"))
}

pub async fn wait_for_state(stack: &Stack, name: &str, wanted: ProvisioningState) -> BareMetalHost {
    wait_for_host(stack, name, &format!("state {wanted:?}"), |host| state(host) == wanted && in_order(host))
        .await
}

pub fn state(host: &BareMetalHost) -> ProvisioningState {
    host.status.as_ref().map(|status| status.provisioning.state).unwrap_or_default()
}

/// Whether the last report is about the present spec and tells of no error.
pub fn in_order(host: &BareMetalHost) -> bool {
    host.status.as_ref().is_some_and(|status| status.error_type.is_none())
}

/// Whether a condition has this status and reason.
pub fn says(host: &BareMetalHost, kind: &str, status: &str, reason: &str) -> bool {
    let conditions = host.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition::get(conditions, kind).is_some_and(|found| found.status == status && found.reason == reason)
}

/// What a condition tells an operator.
pub fn message(host: &BareMetalHost, kind: &str) -> String {
    let conditions = host.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition::get(conditions, kind).map(|found| found.message.clone()).unwrap_or_default()
}

pub fn show(host: &BareMetalHost) -> String {
    let status = serde_json::to_string(&host.status).unwrap_or_default();
    let record = serde_json::to_string(&host.spec.record).unwrap_or_default();
    format!("status {status}, record {record}")
}

/// The patch that asks for the served image, by its URL and checksum.
pub fn image(stack: &Stack) -> Value {
    json!({ "url": stack.image.url, "checksum": stack.image.sha256, "format": "raw" })
}

/// Bytes of the disk equal the image's.
pub fn holds_image(stack: &Stack, name: &str) -> ferric_testbed::stack::disk::Holds {
    let disk = stack.simulator.disk(name).unwrap();
    ferric_testbed::stack::disk::holds_image(disk, &stack.image.path)
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What a server booted from, in order, since a point in its BMC's journal.
pub async fn boots(stack: &Stack, name: &str, since: u64) -> Vec<String> {
    let journal = stack.simulator.journal(name, since).await.unwrap();
    journal.iter().filter_map(|entry| entry.boot_source().map(str::to_owned)).collect()
}

/// The power as the BMC's journal tells it.
pub async fn powered(stack: &Stack, name: &str) -> Option<bool> {
    let journal = stack.simulator.journal(name, 0).await.unwrap();
    journal.iter().rev().find_map(ferric_testbed::stack::JournalEntry::power)
}
