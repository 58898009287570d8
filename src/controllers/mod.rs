//! The controllers: read the cache, ask a pure module, apply. No policy lives in here.

pub mod autoscaler;
pub mod cluster;
pub mod host;
pub mod machine;
mod overlay;
mod retries;
pub mod template;

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::key::Key;
use crate::watch::{Change, Watchable};

/// Who is woken by the changes of a kind.
fn mapped<C: Send + Sync + 'static, K: Watchable>(
    context: &Arc<C>,
    changes: impl Stream<Item = Change<K>> + Send + 'static,
    wake: fn(&C, Change<K>) -> Vec<Key>,
) -> BoxStream<'static, Vec<Key>> {
    let context = context.clone();
    changes.map(move |change| wake(&context, change)).boxed()
}

/// The owner of a Cluster API kind (`Cluster`, `Machine`), of whatever version.
fn capi_owner<'a>(meta: &'a ObjectMeta, kind: &str) -> Option<&'a OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| {
        owner.kind == kind
            && owner.api_version.split_once('/').is_some_and(|(group, _)| group == "cluster.x-k8s.io")
    })
}
