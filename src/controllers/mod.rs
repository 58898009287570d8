//! The controllers: read the cache, ask a pure module, apply. No policy lives in here.

pub mod cluster;
pub mod host;
pub mod machine;
mod overlay;
mod retries;
pub mod template;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The owner of a Cluster API kind (`Cluster`, `Machine`), of whatever version.
fn capi_owner<'a>(meta: &'a ObjectMeta, kind: &str) -> Option<&'a OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| {
        owner.kind == kind
            && owner.api_version.split_once('/').is_some_and(|(group, _)| group == "cluster.x-k8s.io")
    })
}
