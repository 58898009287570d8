//! What is written in the management cluster: the number of replicas, and which Machines go first. Each write reads
//! before, and carries what it read.

use kube::api::{Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::autoscaling::delegate;
use crate::capi::{DELETE_MACHINE_ANNOTATION, DELETE_MACHINE_OURS, Machine, MachineDeployment};
use crate::patch::{self, ApiError, Call, FIELD_MANAGER};

/// Why a number was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Somebody else has written the number meanwhile.
    #[error(
        "MachineDeployment {name} has {found} replicas, and not {expected} as when it was decided: it is decided anew"
    )]
    Changed {
        /// Name of the MachineDeployment.
        name: String,
        /// What was read.
        found: i32,
        /// What was decided upon.
        expected: i32,
    },
    /// Another Machine would go.
    #[error(
        "Machine {0} has the annotation cluster.x-k8s.io/delete-machine, which people set: it would go in the place of one \
             that was emptied. Remove it, or lower the number by hand"
    )]
    Marked(String),
    /// It has become a node meanwhile.
    #[error("Machine {0} has become a node: it is decided anew")]
    Joined(String),
    /// cluster-autoscaler writes the number.
    #[error(
        "MachineDeployment {name} has the annotation {annotation}: cluster-autoscaler writes its replicas"
    )]
    OtherWriter {
        /// Name of the MachineDeployment.
        name: String,
        /// The annotation.
        annotation: &'static str,
    },
}

/// Marks a Machine to go first, or takes a mark of ours away. One that is gone or going, or that people have marked, is left
/// alone.
pub(super) async fn mark(client: &Client, namespace: &str, name: &str, first: bool) -> Result<(), ApiError> {
    let api: Api<Machine> = Api::namespaced(client.clone(), namespace);
    let Some(machine) = patch::get_opt(&api, name).await? else { return Ok(()) };
    let mark = machine.annotations().get(DELETE_MACHINE_ANNOTATION);
    let done = match first {
        true => mark.is_some(),
        false => mark.is_none_or(|mark| mark != DELETE_MACHINE_OURS),
    };
    if machine.metadata.deletion_timestamp.is_some() || done {
        return Ok(());
    }
    let value = first.then_some(DELETE_MACHINE_OURS);
    let change = json!({"metadata": {"annotations": {DELETE_MACHINE_ANNOTATION: value}}});
    let _: Machine = patch::merge_patch(&api, name, machine.resource_version().as_deref(), change).await?;
    Ok(())
}

/// Marks a Machine that did not become a node, if it still has not.
pub(super) async fn mark_late(client: &Client, namespace: &str, name: &str) -> Result<(), ActError> {
    let api: Api<Machine> = Api::namespaced(client.clone(), namespace);
    let machine = patch::get_opt(&api, name).await?;
    if machine.and_then(|machine| machine.status).is_some_and(|status| status.node_ref.is_some()) {
        return Err(ActError::Joined(name.to_owned()));
    }
    Ok(mark(client, namespace, name, true).await?)
}

/// Writes the number of replicas through the subresource `scale`, if it is still what was decided upon. Returns the
/// MachineDeployment as it is then.
pub(super) async fn scale(
    client: &Client,
    namespace: &str,
    name: &str,
    (from, to): (i32, i32),
) -> Result<MachineDeployment, ActError> {
    let api: Api<MachineDeployment> = Api::namespaced(client.clone(), namespace);
    let mut deployment = patch::get(&api, name).await?;
    let (found, name) = (deployment.spec.replicas.unwrap_or(0), name.to_owned());
    if found != from {
        return Err(ActError::Changed { name, found, expected: from });
    }
    if let Some(annotation) = delegate::foreign(deployment.annotations()) {
        return Err(ActError::OtherWriter { name, annotation });
    }
    let change = json!({
        "metadata": {"resourceVersion": deployment.resource_version()},
        "spec": {"replicas": to},
    });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let call = Call::new(&api, "patch", "scale", &name);
    let answer = patch::bounded(call, api.patch_scale(&name, &params, &Patch::Merge(&change))).await?;
    let ObjectMeta { resource_version, .. } = answer.metadata;
    deployment.metadata.resource_version = resource_version;
    deployment.spec.replicas = Some(to);
    Ok(deployment)
}

/// Changes annotations of a MachineDeployment, as it was read.
pub(super) async fn annotate(
    client: &Client,
    deployment: &MachineDeployment,
    change: Value,
) -> Result<MachineDeployment, ApiError> {
    let namespace = deployment.namespace().unwrap_or_default();
    let api: Api<MachineDeployment> = Api::namespaced(client.clone(), &namespace);
    let change = json!({"metadata": {"annotations": change}});
    patch::merge_patch(&api, &deployment.name_any(), deployment.resource_version().as_deref(), change).await
}
