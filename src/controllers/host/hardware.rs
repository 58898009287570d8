//! `HardwareData`: written when a host was inspected or cleaned, never cached.

use ferric_api::BareMetalHost;
use ferric_api::hardware::{
    CleaningAttempt, CleaningEvidence, HardwareData, HardwareDataSpec, HardwareDetails,
};
use ferric_api::host::CleaningMode;
use ferric_protocol::v1::{CleanMode, CleanResult, DiskEvidence};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Resource};

use super::{HostContext, ReconcileError};
use crate::deploy::{TaskOutcome, TaskState};
use crate::host::{KnownPorts, cards, in_band};
use crate::key::Key;
use crate::patch::{self, ApiError};

/// Saves what inspection found.
pub(super) async fn save(
    host: &BareMetalHost,
    key: &Key,
    context: &HostContext,
    details: &HardwareDetails,
) -> Result<(), ApiError> {
    let api: Api<HardwareData> = Api::namespaced(context.client.clone(), &key.namespace);
    let spec = HardwareDataSpec {
        hardware: Some(details.clone()),
        inspected_at: Some(Time(Timestamp::now())),
        cleaning: Vec::new(),
    };
    let mut data = HardwareData::new(&key.name, spec);
    data.metadata.namespace = Some(key.namespace.clone());
    data.metadata.owner_references = host.controller_owner_ref(&()).map(|mut owner| {
        owner.controller = Some(true);
        vec![owner]
    });
    context.with(key, |r| r.bmc.cards = Some(cards::of(details)));
    match patch::create(&api, &data).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() => {
            let change = serde_json::json!({
                "metadata": { "ownerReferences": data.metadata.owner_references },
                "spec": { "hardware": data.spec.hardware, "inspectedAt": data.spec.inspected_at },
            });
            patch::merge_patch(&api, &key.name, None, change).await?;
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// What is known of a host's hardware.
pub(super) async fn read(key: &Key, context: &HostContext) -> Result<Option<HardwareDetails>, ApiError> {
    let api: Api<HardwareData> = Api::namespaced(context.client.clone(), &key.namespace);
    let data = patch::get_opt(&api, &key.name).await?;
    let hardware = data.map(|data| data.spec.hardware.unwrap_or_default());
    context.with(key, |r| r.bmc.cards = Some(hardware.as_ref().map(cards::of).unwrap_or_default()));
    Ok(hardware)
}

/// Adds to what the BMC told what the connected agent sees from within.
pub(super) async fn save_in_band(key: &Key, context: &HostContext) -> Result<(), ReconcileError> {
    add(key, context, false).await
}

/// Saves the evidence of the cleaning that the connected agent has just finished, and adds to what the BMC told what the
/// agent sees from within.
pub(super) async fn save_evidence(key: &Key, context: &HostContext) -> Result<(), ReconcileError> {
    add(key, context, true).await
}

/// Remembers of which ports the switches are known to `HardwareData`.
pub(super) async fn learn_ports(key: &Key, context: &HostContext) -> Result<(), ReconcileError> {
    let Some(view) = context.hub.view(key) else { return Ok(()) };
    let ports = KnownPorts::new(view.boot_number, read(key, context).await?.as_ref());
    context.with(key, |r| r.bmc.ports = Some(ports));
    Ok(())
}

async fn add(key: &Key, context: &HostContext, cleaned: bool) -> Result<(), ReconcileError> {
    let Some(view) = context.hub.view(key) else { return Ok(()) };
    let api: Api<HardwareData> = Api::namespaced(context.client.clone(), &key.namespace);
    // Without inspection there is nothing to add to, and nowhere to keep the evidence.
    let Some(data) = patch::get_opt(&api, &key.name).await? else { return Ok(()) };
    let mut spec = serde_json::Map::new();
    let known = data.spec.hardware.unwrap_or_default();
    if let Some(merged) = view.inventory.as_ref().map(|found| in_band::merge(&known, found))
        && merged != known
    {
        context.with(key, |r| r.bmc.cards = Some(cards::of(&merged)));
        spec.insert("hardware".to_owned(), serde_json::json!(merged));
    }
    let result = view.tasks.values().rev().find_map(|task| match task {
        TaskState::Succeeded(TaskOutcome::Clean(result)) => Some(result.clone()),
        _ => None,
    });
    if let Some(result) = result.filter(|_| cleaned) {
        spec.insert("cleaning".to_owned(), serde_json::json!(evidence(&result)));
    }
    if spec.is_empty() {
        return Ok(());
    }
    let change = serde_json::json!({ "spec": spec });
    match patch::merge_patch(&api, &key.name, data.metadata.resource_version.as_deref(), change).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn evidence(result: &CleanResult) -> Vec<CleaningEvidence> {
    let mode = match result.mode() {
        CleanMode::Full => CleaningMode::Full,
        _ => CleaningMode::Metadata,
    };
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let one = |disk: &DiskEvidence| CleaningEvidence {
        device: disk.device.clone(),
        serial_number: disk.serial.clone(),
        mode,
        method: disk.method.clone(),
        did: disk.did.clone(),
        verification: disk.verification.clone(),
        at: Time(Timestamp::now()),
        duration_milliseconds: number(disk.duration_ms),
        bytes: number(disk.bytes),
        verified_samples: i64::from(disk.verified_samples),
        verified_bytes: number(disk.verified_bytes),
        not_used: disk
            .attempts
            .iter()
            .map(|a| CleaningAttempt { method: a.method.clone(), reason: a.reason.clone() })
            .collect(),
    };
    result.disks.iter().map(one).collect()
}
