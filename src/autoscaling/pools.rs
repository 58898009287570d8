//! Standby pools of all groups of a namespace, from API objects. Pure.
//!
//! Hosts are of a namespace, and groups of several clusters may be able to have the same one: every cluster's engine comes
//! to the same plan, and writes what is its own.

use std::sync::Arc;

use ferric_api::autoscaling::{ActuationMode, NodeGroupAutoscaler};
use ferric_api::host::Image;
use ferric_api::{BareMetalHost, BareMetalMachineTemplate};
use jiff::Timestamp;
use kube::ResourceExt;

use super::gather;
use super::standby::{FreeHost, StandbyGroup, StandbyPlan, standby};
use crate::capi::MachineDeployment;

/// What all groups of a namespace are made of.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    /// All NodeGroupAutoscalers.
    pub autoscalers: Vec<Arc<NodeGroupAutoscaler>>,
    /// All MachineDeployments.
    pub deployments: Vec<Arc<MachineDeployment>>,
    /// All templates.
    pub templates: Vec<Arc<BareMetalMachineTemplate>>,
    /// All hosts.
    pub hosts: Vec<Arc<BareMetalHost>>,
}

/// How a group is named in annotations of hosts.
#[must_use]
pub fn named(autoscaler: &NodeGroupAutoscaler) -> String {
    format!("{}/{}", autoscaler.namespace().unwrap_or_default(), autoscaler.name_any())
}

/// Which free host is to be how ready. A group whose numbers nobody here writes has no pools.
#[must_use]
pub fn plan(all: &Neighbours, now: Timestamp) -> StandbyPlan {
    let names: Vec<String> = all.autoscalers.iter().map(|autoscaler| named(autoscaler)).collect();
    let asks: Vec<_> = all.autoscalers.iter().map(|autoscaler| ask(all, autoscaler)).collect();
    let free = all.hosts.iter().filter_map(|host| {
        let mut free = FreeHost::of(host)?;
        let able = names
            .iter()
            .zip(&asks)
            .filter(|(_, ask)| ask.as_ref().is_some_and(|ask| gather::could_have(ask, host)));
        free.groups = able.map(|(name, _)| name.clone()).collect();
        Some(free)
    });
    let hosts: Vec<FreeHost> = free.collect();
    let groups: Vec<StandbyGroup<'_>> = names
        .iter()
        .zip(&all.autoscalers)
        .map(|(name, autoscaler)| StandbyGroup {
            image: image(all, autoscaler),
            hints: template(all, autoscaler)
                .and_then(|(template, _)| template.spec.template.spec.root_device_hints.as_ref()),
            name,
            standby: autoscaler
                .spec
                .standby
                .as_ref()
                .filter(|_| autoscaler.spec.actuation_mode != ActuationMode::Recommend),
            backoff: &autoscaler.spec.provisioning.backoff,
        })
        .collect();
    standby(&groups, &hosts, now)
}

fn ask(all: &Neighbours, autoscaler: &NodeGroupAutoscaler) -> Option<crate::claim::score::Ask> {
    let (template, deployment) = template(all, autoscaler)?;
    gather::ask(template, deployment).ok()
}

/// What machines of the group run, if it can be kept on a disk.
fn image<'a>(all: &'a Neighbours, autoscaler: &NodeGroupAutoscaler) -> Result<&'a Image, &'a str> {
    let (template, _) = template(all, autoscaler).ok_or("the group has no template")?;
    let image = template.spec.template.spec.image.as_ref().ok_or("the template names no image")?;
    if image.is_written() { Ok(image) } else { Err("the template's image is not written to a disk") }
}

fn template<'a>(
    all: &'a Neighbours,
    autoscaler: &NodeGroupAutoscaler,
) -> Option<(&'a BareMetalMachineTemplate, &'a MachineDeployment)> {
    let target = &autoscaler.spec.scale_target_ref.name;
    let deployment = all.deployments.iter().find(|deployment| deployment.name_any() == *target)?;
    let name = deployment.spec.template.spec.infrastructure_ref.as_ref().map(|reference| &reference.name)?;
    let template = all.templates.iter().find(|template| template.name_any() == *name)?;
    Some((template, deployment))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::host::HostStandby;
    use serde_json::{Value, json};

    use super::*;
    use crate::claim::fixtures::free_host;

    const API: &str = "infrastructure.cluster.x-k8s.io/v1alpha1";

    fn object<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    /// Two groups of two clusters, each of its own rack, three hosts in the first rack and one in the second.
    fn racks(mode: &str) -> Neighbours {
        let mut all = Neighbours::default();
        for rack in ["r1", "r2"] {
            all.autoscalers.push(object(json!({
                "apiVersion": API, "kind": "NodeGroupAutoscaler", "metadata": {"name": rack, "namespace": "ns"},
                "spec": {
                    "clusterName": format!("of-{rack}"), "maxReplicas": 3, "actuationMode": mode,
                    "scaleTargetRef": {"apiGroup": "cluster.x-k8s.io", "kind": "MachineDeployment", "name": rack},
                    "standby": {"pools": [{"state": "Running", "count": 1}, {"state": "Off", "count": "Remaining"}]},
                },
            })));
            all.deployments.push(object(json!({
                "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineDeployment",
                "metadata": {"name": rack, "namespace": "ns"},
                "spec": {"template": {"spec": {"infrastructureRef": {"kind": "BareMetalMachineTemplate", "name": rack}}}},
            })));
            all.templates.push(object(json!({
                "apiVersion": API, "kind": "BareMetalMachineTemplate", "metadata": {"name": rack, "namespace": "ns"},
                "spec": {"template": {"spec": {"hostSelector": {"matchLabels": {"rack": rack}}}}},
            })));
        }
        for (name, rack) in [("a", "r1"), ("b", "r1"), ("c", "r1"), ("d", "r2")] {
            let mut host = free_host(name);
            host.metadata.namespace = Some("ns".to_owned());
            host.metadata.labels.get_or_insert_default().insert("rack".to_owned(), rack.to_owned());
            all.hosts.push(Arc::new(host));
        }
        all
    }

    #[test]
    fn each_group_has_its_pools() {
        let plan = plan(&racks("Direct"), Timestamp::from_second(1_900_000_000).unwrap());
        let of = |group: &str| {
            let own = plan.hosts.values().filter(|place| place.of.as_deref() == Some(group));
            let up = own.clone().filter(|place| place.standby == Some(HostStandby::Running)).count();
            (up, own.count(), plan.groups[group].free.all())
        };
        assert_eq!(of("ns/r1"), (1, 3, 3));
        assert_eq!(of("ns/r2"), (1, 1, 1));
    }

    #[test]
    fn who_only_recommends_touches_no_host() {
        let plan = plan(&racks("Recommend"), Timestamp::from_second(1_900_000_000).unwrap());
        assert!(plan.hosts.values().all(|place| !place.write), "{plan:?}");
        assert_eq!(plan.groups["ns/r1"].free.all(), 3);
    }

    #[test]
    fn what_is_staged_is_the_image_of_the_template_as_it_is_now() {
        let mut all = racks("Direct");
        let pools = json!({"pools": [{"state": "Staged", "count": 1}]});
        Arc::make_mut(&mut all.autoscalers[0]).spec.standby = serde_json::from_value(pools).unwrap();
        let now = Timestamp::from_second(1_900_000_000).unwrap();
        let without = plan(&all, now);
        let limited = without.groups["ns/r1"].limited.clone().unwrap();
        assert!(limited.contains("the template names no image"), "{limited}");
        for url in ["http://images/a.raw", "http://images/b.qcow2"] {
            let image = json!({"url": url, "checksum": "ab".repeat(32)});
            let machine = &mut Arc::make_mut(&mut all.templates[0]).spec.template.spec;
            machine.image = serde_json::from_value(image).unwrap();
            let told = plan(&all, now);
            let staged: Vec<_> = told.hosts.values().filter(|place| place.image.is_some()).collect();
            assert_eq!(staged.len(), 1, "{told:?}");
            assert_eq!(staged[0].standby, Some(HostStandby::Staged));
            assert_eq!(staged[0].image.as_ref().unwrap().url, url);
        }
        let machine = &mut Arc::make_mut(&mut all.templates[0]).spec.template.spec;
        machine.image.as_mut().unwrap().url = "http://images/a.vmdk".to_owned();
        let refused = plan(&all, now).groups["ns/r1"].limited.clone().unwrap();
        assert!(refused.contains("not written to a disk"), "{refused}");
    }
}
