//! Free hosts are told how ready they are to be.

use std::collections::BTreeSet;

use ferric_api::BareMetalHost;
use ferric_api::autoscaling::NodeGroupAutoscaler;
use ferric_api::names::STANDBY_OF_ANNOTATION;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::engine::Engine;
use crate::autoscaling::pools::{Neighbours, named};
use crate::autoscaling::{Place, StandbyPlan};
use crate::host::record::merge_diff;
use crate::patch;

impl Engine {
    /// Writes what is to be written of hosts of this cluster's groups that are not held, and of groups that are no more.
    pub(super) async fn stand_by(&self, all: &Neighbours, plan: &StandbyPlan, held: &BTreeSet<String>) {
        for (key, place) in plan.hosts.iter().filter(|(_, place)| place.write) {
            let Some(host) = all.hosts.iter().find(|host| host.name_any() == key.name) else { continue };
            let of = place.of.as_ref().or_else(|| host.annotations().get(STANDBY_OF_ANNOTATION));
            let group = all.autoscalers.iter().find(|autoscaler| Some(&named(autoscaler)) == of);
            let not_now = |group: &NodeGroupAutoscaler| {
                group.spec.cluster_name != self.cluster.name || held.contains(&group.name_any())
            };
            if group.is_some_and(|group| not_now(group)) {
                continue;
            }
            if let Err(error) = self.tell_host(host, place).await
                && !error.is_conflict()
                && !error.is_not_found()
            {
                self.context.metrics.error(error.reason());
                tracing::warn!(host = %key, %error, "host not told how to stand by");
            }
        }
    }

    async fn tell_host(&self, host: &BareMetalHost, place: &Place) -> Result<(), patch::ApiError> {
        // Without a word of ours nothing of ours is left.
        let of = place.of.as_ref().filter(|_| place.standby.is_some());
        let image = place.image.as_ref();
        let same = host.spec.standby == place.standby
            && host.spec.staged_image.as_ref() == image
            && host.annotations().get(STANDBY_OF_ANNOTATION) == of;
        if same {
            return Ok(());
        }
        let mut change = json!({
            "metadata": {"annotations": {STANDBY_OF_ANNOTATION: of}},
            "spec": {"standby": place.standby},
        });
        // Of another image no field stays.
        if let Some(image) = merge_diff(&json!(host.spec.staged_image), &json!(image)) {
            change["spec"]["stagedImage"] = image;
        }
        let api: Api<BareMetalHost> = Api::namespaced(self.context.client.clone(), &self.cluster.namespace);
        let version = host.resource_version();
        let _: BareMetalHost = patch::merge_patch(&api, &host.name_any(), version.as_deref(), change).await?;
        tracing::info!(host = host.name_any(), standby = ?place.standby, image = ?image.map(|image| &image.url), group = ?place.of, "host told how to stand by");
        Ok(())
    }
}
