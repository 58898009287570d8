//! The plan for a `BareMetalMachine`. Pure: no clock, no I/O, no randomness; the fresh claim ID is the shell's.
//!
//! Order of a life: owner → Cluster → not paused → infrastructure → bootstrap data → choose a host and write the
//! intent → write the claim on the host → the host is deployed (the host controller's work) → providerID, addresses,
//! provisioned. Deletion may come at any point. Everything that matters is in the spec of machine and host: a machine
//! whose status was lost comes back to the same place.

mod deletion;
mod held;
mod status;
#[cfg(test)]
mod tests;

use ferric_api::condition::{self, types};
use ferric_api::machine::MachineAddress;
use ferric_api::{BareMetalHost, BareMetalMachine, names};
use kube::ResourceExt;

pub use status::{apply, differs_in_sentence_only};

use deletion::plan_deletion;
use held::plan_bound;

use super::bound;
use super::cluster::Owner;
use super::report::{Wait, Wanted, reasons};
use super::score::{self, Ask, Group, NoneFree};
use super::selector::Selector;
use crate::capi::{Cluster, Machine};
use crate::key::Key;

const HOST_DELETED: &str = "HostDeleted";

/// The host that the machine's `hostRef` names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HostView<'a> {
    /// The machine names none.
    Unnamed,
    /// It is not there.
    Gone,
    /// It is there.
    There(&'a BareMetalHost),
}

/// Everything that the plan for a machine looks at.
#[derive(Debug)]
pub struct MachineObservation<'a> {
    /// The object itself.
    pub object: &'a BareMetalMachine,
    /// The Machine that owns it.
    pub owner: Owner<'a, Machine>,
    /// The Cluster that it belongs to; `None` if no name of one is known.
    pub cluster: Owner<'a, Cluster>,
    /// The host that it names.
    pub host: HostView<'a>,
    /// Another host that names this machine as its consumer: found in the cache, or the one that the machine left
    /// ([`bound::left_host`]), just read.
    pub held_by: Option<&'a Key>,
    /// IP addresses of the host, when they were looked up.
    pub internal_ips: Option<&'a [String]>,
}

/// The one thing to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum MachineStep {
    /// Nothing, and nothing to report.
    Ignore,
    /// Nothing but the report.
    Report,
    /// Choose a host for this ask and write the intent with a fresh claim ID, or report [`none_free`].
    Choose(Box<Ask>),
    /// Write the claim on the host ([`bound::claim_patch`]).
    Claim {
        /// Name of the cluster, for the host's label.
        cluster: String,
    },
    /// Tell the host our new UID ([`bound::uid_patch`]).
    RefreshUid,
    /// Add our finalizer.
    AddFinalizer,
    /// Write the provider ID.
    SetProviderId(String),
    /// Remove our finalizer.
    RemoveFinalizer,
}

/// What to do and what to say.
#[derive(Debug, Clone, PartialEq)]
pub struct MachinePlan {
    /// The step.
    pub step: MachineStep,
    /// The step is taken only when the host that the machine names, and the one that it left, were read from the API
    /// server after the machine's last write: a cache may not know of a claim that holds.
    pub guarded: bool,
    /// Conditions to report.
    pub conditions: Vec<Wanted>,
    /// What is waited for; `None` leaves the field as it is.
    pub waiting: Option<Option<Wait>>,
    /// Whether the machine is provisioned. One-way: `false` leaves the field as it is.
    pub provisioned: bool,
    /// Addresses to publish; `None` leaves them as they are.
    pub addresses: Option<Vec<MachineAddress>>,
    /// Failure domain to publish; `None` leaves it as it is.
    pub failure_domain: Option<String>,
}

impl MachinePlan {
    fn step(step: MachineStep) -> Self {
        Self {
            step,
            guarded: false,
            conditions: vec![],
            waiting: None,
            provisioned: false,
            addresses: None,
            failure_domain: None,
        }
    }

    fn guarded(step: MachineStep) -> Self {
        Self { guarded: true, ..Self::step(step) }
    }

    fn report(conditions: Vec<Wanted>, wait: Option<Wait>) -> Self {
        Self { conditions, waiting: Some(wait), ..Self::step(MachineStep::Report) }
    }
}

/// Decides what to do with a machine.
pub fn plan(obs: &MachineObservation<'_>) -> MachinePlan {
    let object = obs.object;
    let annotations = object.annotations();
    let deleting = object.metadata.deletion_timestamp.is_some();
    if annotations.contains_key(names::DELETE_FOR_MOVE_ANNOTATION) {
        // The machine lives on in another management cluster: it is let go and nothing about it is changed here.
        let step = if deleting && has_finalizer(object) {
            MachineStep::RemoveFinalizer
        } else {
            MachineStep::Ignore
        };
        return MachinePlan::step(step);
    }
    if let Some(why) = paused(obs) {
        let conditions = vec![Wanted::yes(types::PAUSED, reasons::PAUSED, why)];
        return MachinePlan { conditions, ..MachinePlan::step(MachineStep::Report) };
    }
    if deleting {
        return plan_deletion(obs);
    }
    match obs.host {
        HostView::There(host) if bound::intent(object).is_some() => {
            let relation = bound::relation(object, host);
            if relation.ties() {
                return plan_bound(obs, host, relation);
            }
            // A host drops a claim only when nothing of ours runs on it any more, so a machine that is not yet
            // provisioned chooses anew. One that was is a Node that somebody relies on: it is not silently replaced.
            if object.spec.provider_id.is_some() {
                return lost(
                    obs,
                    "ClaimLost",
                    format!(
                        "host {} no longer names this machine as its consumer; delete the Machine to have it replaced",
                        host.name_any()
                    ),
                );
            }
            plan_unbound(obs, Some(host))
        }
        HostView::Gone if was_bound(object) => {
            let name = object.spec.host_ref.as_ref().map_or("", |h| h.name.as_str());
            lost(
                obs,
                HOST_DELETED,
                format!("host {name} was deleted; delete the Machine to have it replaced"),
            )
        }
        HostView::There(_) | HostView::Gone | HostView::Unnamed => {
            if object.spec.provider_id.is_some() {
                let message = "spec.providerID is set but spec.hostRef or spec.claimID is not; restore them, or \
                               delete the Machine to have it replaced";
                return lost(obs, "HostRefMissing", message.to_owned());
            }
            plan_unbound(obs, None)
        }
    }
}

/// What is reported when there is no host for the machine.
pub fn none_free(obs: &MachineObservation<'_>, none: &NoneFree) -> MachinePlan {
    unbound(obs, "WaitingForHost", none.to_string())
}

fn paused(obs: &MachineObservation<'_>) -> Option<String> {
    if obs.object.annotations().contains_key(names::CAPI_PAUSED_ANNOTATION) {
        return Some(format!("annotation {} is set", names::CAPI_PAUSED_ANNOTATION));
    }
    match obs.cluster {
        Owner::Found(cluster) if cluster.is_paused() => Some("spec.paused of the Cluster is set".to_owned()),
        _ => None,
    }
}

/// The machine holds no claim. `intended` is a free or foreign host that it names.
fn plan_unbound(obs: &MachineObservation<'_>, intended: Option<&BareMetalHost>) -> MachinePlan {
    let object = obs.object;
    let owner = match obs.owner {
        Owner::Found(owner) => owner,
        Owner::Missing(name) => {
            return unbound(
                obs,
                reasons::WAITING_FOR_OWNER,
                format!("waits for Machine {name:?}, which is not there"),
            );
        }
        Owner::None => {
            return unbound(
                obs,
                reasons::WAITING_FOR_OWNER,
                "waits for Cluster API to set the owner: a Machine whose spec.infrastructureRef names this object"
                    .to_owned(),
            );
        }
    };
    let cluster = match obs.cluster {
        Owner::Found(cluster) => cluster,
        Owner::Missing(name) => {
            return unbound(
                obs,
                reasons::WAITING_FOR_CLUSTER,
                format!("waits for Cluster {name:?}, which is not there"),
            );
        }
        Owner::None => {
            return unbound(obs, reasons::WAITING_FOR_CLUSTER, "waits for a Cluster to be named".to_owned());
        }
    };
    if owner.metadata.deletion_timestamp.is_some() {
        return unbound(
            obs,
            "MachineDeleting",
            "the Machine is being deleted; no host is claimed for it".to_owned(),
        );
    }
    if !cluster.infrastructure_provisioned() {
        return unbound(
            obs,
            "WaitingForClusterInfrastructure",
            format!("waits for the infrastructure of Cluster {} to be provisioned", cluster.name_any()),
        );
    }
    if owner.spec.bootstrap.data_secret_name.is_none() {
        return unbound(
            obs,
            "WaitingForBootstrapData",
            "waits for the bootstrap provider: the Machine's spec.bootstrap.dataSecretName is not set"
                .to_owned(),
        );
    }
    if object.spec.image.is_none() {
        return unbound(
            obs,
            "ImageMissing",
            "spec.image is not set: give url and checksum in the BareMetalMachineTemplate, under \
             spec.template.spec.image"
                .to_owned(),
        );
    }
    let selector = match Selector::parse(object.spec.host_selector.as_ref()) {
        Ok(selector) => selector,
        Err(error) => {
            return unbound(obs, "InvalidHostSelector", format!("spec.hostSelector cannot be used: {error}"));
        }
    };
    if let Some(host) = obs.held_by {
        return unbound(
            obs,
            "WaitingForRelease",
            format!("waits for host {} to let go of an earlier claim of a machine of this name", host.name),
        );
    }
    let ask = Ask {
        namespace: object.namespace().unwrap_or_default(),
        machine_uid: object.uid().unwrap_or_default(),
        selector,
        failure_domain: owner.spec.failure_domain.clone().filter(|d| !d.is_empty()),
        group: Group::of(object),
        image: object.spec.image.clone(),
        except: None,
    };
    match intended {
        Some(host) if score::reject(&ask, host).is_none() => {
            if has_finalizer(object) {
                MachinePlan::guarded(MachineStep::Claim { cluster: cluster.name_any() })
            } else {
                MachinePlan::step(MachineStep::AddFinalizer)
            }
        }
        _ => {
            // Moving on from a host is guarded: the cache may not show yet that the claim on it holds.
            let named = bound::intent(object).map(|(host, _)| host);
            MachinePlan {
                guarded: named.is_some() || bound::left_host(object).is_some(),
                ..MachinePlan::step(MachineStep::Choose(Box::new(Ask { except: named, ..ask })))
            }
        }
    }
}

/// No claim holds and none is made now.
fn unbound(obs: &MachineObservation<'_>, reason: &'static str, message: String) -> MachinePlan {
    MachinePlan::report(
        vec![
            Wanted::no(types::HOST_BOUND, reason, message.clone()),
            bootstrap_ready(obs),
            Wanted::no(types::DEPLOYED, reason, "no host is bound"),
            Wanted::no(types::READY, reason, message.clone()),
            not_paused(),
        ],
        Some(Wait::new(reason, message)),
    )
}

/// A claim held once and does not any more, or is damaged: only people can decide.
fn lost(obs: &MachineObservation<'_>, reason: &'static str, message: String) -> MachinePlan {
    MachinePlan::report(
        vec![
            Wanted::no(types::HOST_BOUND, reason, message.clone()),
            bootstrap_ready(obs),
            Wanted::no(types::READY, reason, message.clone()),
            not_paused(),
        ],
        Some(Wait::new(reason, message)),
    )
}

fn bootstrap_ready(obs: &MachineObservation<'_>) -> Wanted {
    match obs.owner {
        Owner::Found(owner) => match &owner.spec.bootstrap.data_secret_name {
            Some(secret) => {
                Wanted::yes(types::BOOTSTRAP_READY, "DataSecretAvailable", format!("Secret {secret}"))
            }
            None => Wanted::no(
                types::BOOTSTRAP_READY,
                "WaitingForBootstrapData",
                "the Machine's spec.bootstrap.dataSecretName is not set",
            ),
        },
        Owner::None | Owner::Missing(_) => {
            Wanted::no(types::BOOTSTRAP_READY, reasons::WAITING_FOR_OWNER, "the owner Machine is not there")
        }
    }
}

fn not_paused() -> Wanted {
    Wanted::no(types::PAUSED, reasons::NOT_PAUSED, "")
}

fn has_finalizer(object: &BareMetalMachine) -> bool {
    object.finalizers().iter().any(|f| f == names::MACHINE_FINALIZER)
}

/// Whether the claim held once: a provider ID is written only then, and `HostBound` says so while status is there.
fn was_bound(object: &BareMetalMachine) -> bool {
    let condition = object.status.as_ref().and_then(|s| condition::get(&s.conditions, types::HOST_BOUND));
    object.spec.provider_id.is_some()
        || condition.is_some_and(|c| c.status == "True" || c.reason == HOST_DELETED)
}
