//! What of API objects is kept in a dump: what decisions look at, and names. A dump is passed on, so what programs are told
//! in their environment, commands and probes stays out of it.

use serde_json::{Map, Value};

/// Annotations that decisions read, by the whole key or by its beginning.
const ANNOTATIONS: [&str; 9] = [
    "ferric.infrastructure.cluster.x-k8s.io/",
    "baremetalhost.metal3.io/",
    "cluster.x-k8s.io/",
    "capacity.cluster-autoscaler.kubernetes.io/",
    "cluster-autoscaler.kubernetes.io/",
    "kubernetes.io/config.mirror",
    "pv.kubernetes.io/bind-completed",
    "volume.kubernetes.io/selected-node",
    "volume.beta.kubernetes.io/storage-class",
];
const POD_SPEC: [&str; 15] = [
    "affinity",
    "containers",
    "hostNetwork",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "overhead",
    "priority",
    "priorityClassName",
    "resourceClaims",
    "resources",
    "schedulingGates",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];
const CONTAINER: [&str; 4] = ["name", "ports", "resources", "restartPolicy"];
const VOLUME: [&str; 5] = ["name", "emptyDir", "ephemeral", "hostPath", "persistentVolumeClaim"];
const MACHINE_SPEC: [&str; 5] =
    ["bootstrap", "clusterName", "failureDomain", "infrastructureRef", "providerID"];

/// Leaves of an object, with its kind in it, what is kept.
pub(super) fn prune(object: &mut Value) {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    metadata(object);
    match kind.as_str() {
        "Pod" => {
            pod_spec(object.get_mut("spec"));
            keep(
                object.get_mut("status"),
                &["conditions", "containerStatuses", "initContainerStatuses", "nominatedNodeName", "phase"],
            );
            for list in ["/status/containerStatuses", "/status/initContainerStatuses"] {
                each(object.pointer_mut(list), |one| {
                    keep(Some(one), &["allocatedResources", "name", "ready", "resources"]);
                });
            }
        }
        "DaemonSet" => {
            keep(object.get_mut("spec"), &["selector", "template"]);
            if let Some(template) = object.pointer_mut("/spec/template") {
                metadata(template);
            }
            pod_spec(object.pointer_mut("/spec/template/spec"));
            remove(object, "status");
        }
        "Node" => {
            keep(object.get_mut("spec"), &["providerID", "taints", "unschedulable"]);
            keep(object.get_mut("status"), &["allocatable", "capacity", "conditions", "nodeInfo"]);
        }
        "Namespace" => ["spec", "status"].iter().for_each(|part| remove(object, part)),
        "PersistentVolumeClaim" => {
            keep(object.get_mut("spec"), &["storageClassName", "volumeName"]);
            keep(object.get_mut("status"), &["phase"]);
        }
        "PersistentVolume" => {
            keep(object.get_mut("spec"), &["nodeAffinity", "storageClassName"]);
            keep(object.get_mut("status"), &["phase"]);
        }
        "StorageClass" => keep(
            Some(object),
            &["allowedTopologies", "apiVersion", "kind", "metadata", "provisioner", "volumeBindingMode"],
        ),
        "Cluster" => {
            keep(object.get_mut("spec"), &["controlPlaneEndpoint", "paused", "topology"]);
            keep(object.pointer_mut("/spec/topology"), &["workers"]);
            keep(object.pointer_mut("/spec/topology/workers"), &["machineDeployments"]);
            each(object.pointer_mut("/spec/topology/workers/machineDeployments"), |one| {
                keep(Some(one), &["name", "replicas"]);
            });
            keep(object.get_mut("status"), &["conditions", "initialization"]);
        }
        "Machine" => {
            keep(object.get_mut("spec"), &MACHINE_SPEC);
            keep(object.get_mut("status"), &["conditions", "nodeRef", "phase"]);
        }
        "MachineDeployment" => {
            keep(object.get_mut("spec"), &["clusterName", "replicas", "template"]);
            keep(object.pointer_mut("/spec/template/metadata"), &["labels"]);
            keep(object.pointer_mut("/spec/template/spec"), &MACHINE_SPEC);
            keep(object.get_mut("status"), &["conditions", "replicas"]);
        }
        _ => {}
    }
    addresses(object);
}

/// The metadata of an object or of a template of objects.
fn metadata(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    metadata.remove("managedFields");
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        let read = |key: &str| ANNOTATIONS.iter().any(|known| key.starts_with(known));
        annotations.retain(|key, _| read(key));
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
}

fn pod_spec(spec: Option<&mut Value>) {
    let Some(spec) = spec else { return };
    keep(Some(spec), &POD_SPEC);
    for list in ["containers", "initContainers"] {
        each(spec.get_mut(list), |container| keep(Some(container), &CONTAINER));
    }
    each(spec.get_mut("volumes"), |volume| {
        keep(Some(volume), &VOLUME);
        // That there is one says enough.
        if let Some(ephemeral) = volume.get_mut("ephemeral").filter(|ephemeral| ephemeral.is_object()) {
            *ephemeral = Value::Object(Map::new());
        }
    });
}

fn keep(object: Option<&mut Value>, keys: &[&str]) {
    if let Some(object) = object.and_then(Value::as_object_mut) {
        object.retain(|key, _| keys.contains(&key.as_str()));
    }
}

fn remove(object: &mut Value, key: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(key);
    }
}

fn each(list: Option<&mut Value>, change: impl FnMut(&mut Value)) {
    if let Some(list) = list.and_then(Value::as_array_mut) {
        list.iter_mut().for_each(change);
    }
}

/// Of addresses, wherever they are, neither who asks (`user:password@`) nor what is asked (`?token=…`) is kept.
fn addresses(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(bare) = bare(text) {
                *text = bare;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(addresses),
        Value::Object(members) => members.values_mut().for_each(addresses),
        _ => {}
    }
}

/// An address without these; none where the text is no address, or has neither.
fn bare(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
        return None;
    }
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let rest = &rest[..end];
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let bare = format!("{scheme}://{host}{path}");
    (bare != text).then_some(bare)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::apps::v1::DaemonSet;
    use k8s_openapi::api::core::v1;
    use kube::Resource;
    use proptest::prelude::*;
    use rstest::rstest;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;
    use crate::autoscaling::schedule::cases::{Case, case};

    /// An object as a dump has it.
    fn dumped<K: Resource<DynamicType = ()> + Serialize + DeserializeOwned>(object: &K) -> K {
        let mut value = serde_json::to_value(object).unwrap();
        value["kind"] = K::kind(&()).into();
        prune(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_programs_are_told_is_left_out() {
        let spec = json!({
            "nodeName": "n", "serviceAccountName": "sa",
            "containers": [{
                "name": "c", "image": "i", "args": ["--token=secret"], "command": ["sh", "secret"],
                "env": [{"name": "A", "value": "secret"}], "envFrom": [{"secretRef": {"name": "secret"}}],
                "livenessProbe": {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": "secret"}]}},
                "resources": {"requests": {"cpu": "1"}}, "ports": [{"containerPort": 80, "hostPort": 80}],
            }],
            "volumes": [
                {"name": "a", "secret": {"secretName": "secret"}},
                {"name": "b", "csi": {"driver": "d", "volumeAttributes": {"key": "secret"}}},
                {"name": "c", "ephemeral": {"volumeClaimTemplate": {"metadata": {"annotations": {"a": "secret"}}}}},
                {"name": "d", "emptyDir": {}},
            ],
        });
        let metadata = json!({
            "name": "p", "namespace": "ns", "labels": {"app": "a"},
            "managedFields": [{"manager": "secret"}],
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "secret",
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            },
        });
        let mut objects = [
            json!({"kind": "Pod", "metadata": metadata, "spec": spec,
                "status": {"phase": "Running", "containerStatuses": [{"name": "c", "ready": true,
                    "state": {"terminated": {"message": "secret"}}}]}}),
            json!({"kind": "DaemonSet", "metadata": metadata,
                "spec": {"template": {"metadata": metadata, "spec": spec}}}),
            json!({"kind": "PersistentVolume", "metadata": metadata, "spec": {"csi": {"volumeAttributes": {"a": "secret"}}}}),
            json!({"kind": "StorageClass", "metadata": metadata, "parameters": {"a": "secret"}, "provisioner": "p"}),
            json!({"kind": "Cluster", "metadata": metadata,
                "spec": {"paused": true, "topology": {"variables": [{"name": "a", "value": "secret"}],
                    "workers": {"machineDeployments": [{"name": "w", "replicas": 2, "variables": {"a": "secret"}}]}}}}),
            json!({"kind": "BareMetalHost", "metadata": metadata,
                "spec": {"image": {"url": "https://me:secret@images/a.raw?token=secret"}}}),
        ];
        for object in &mut objects {
            prune(object);
            let text = object.to_string();
            assert!(!text.contains("secret"), "{text}");
            assert!(text.contains("safe-to-evict") && text.contains("\"app\":\"a\""), "{text}");
        }
        let expected = json!({"name": "c", "resources": {"requests": {"cpu": "1"}},
            "ports": [{"containerPort": 80, "hostPort": 80}]});
        assert_eq!(objects[0]["spec"]["containers"][0], expected);
        assert_eq!(objects[0]["spec"]["volumes"][2], json!({"name": "c", "ephemeral": {}}));
        let workers = json!({"machineDeployments": [{"name": "w", "replicas": 2}]});
        assert_eq!(objects[4]["spec"], json!({"paused": true, "topology": {"workers": workers}}));
        assert_eq!(objects[5]["spec"]["image"]["url"], "https://images/a.raw");
    }

    #[rstest]
    #[case("https://h/p?q=1#f", Some("https://h/p"))]
    #[case("https://a@b:c@h:1/p", Some("https://h:1/p"))]
    #[case("redfish+https://h/redfish/v1/Systems/1@x", None)]
    #[case("sum(rate(x{url=\"http://a?b\"}[5m]))", None)]
    #[case("no address", None)]
    #[case("://a?b", None)]
    fn addresses_are_bare(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(bare(text).as_deref(), expected);
    }

    #[test]
    fn what_is_no_object_is_left() {
        for mut value in
            [json!(null), json!([1]), json!({"kind": "Pod", "spec": 3, "status": [], "metadata": "m"})]
        {
            let before = value.clone();
            prune(&mut value);
            assert_eq!(value, before);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What is left out decides nothing: every pod fits the same nodes, and is off them for the same reasons.
        #[test]
        fn a_dump_decides_as_the_objects_do(seed in any::<u64>()) {
            let before = case(seed);
            let after = Case {
                namespaces: before.namespaces.iter().map(dumped::<v1::Namespace>).collect(),
                nodes: before.nodes.iter().map(dumped::<v1::Node>).collect(),
                bound: before.bound.iter().map(dumped::<v1::Pod>).collect(),
                waiting: before.waiting.iter().map(dumped::<v1::Pod>).collect(),
                budgets: before.budgets.iter().map(dumped).collect(),
                volumes: before.volumes.iter().map(dumped::<v1::PersistentVolume>).collect(),
                claims: before.claims.iter().map(dumped::<v1::PersistentVolumeClaim>).collect(),
                daemon_sets: before.daemon_sets.iter().map(dumped::<DaemonSet>).collect(),
            };
            let (before, after) = (before.cluster(), after.cluster());
            let (one, other) = (before.simulate(), after.simulate());
            let said = |simulation: &crate::autoscaling::schedule::Simulation<'_>| {
                simulation
                    .waiting()
                    .into_iter()
                    .map(|pod| (simulation.pod_name(pod), simulation.pod(pod).drain.clone(), simulation.explain(pod)))
                    .collect::<Vec<_>>()
            };
            prop_assert_eq!(said(&one), said(&other));
            let drains = |cluster: &crate::autoscaling::schedule::Cluster| {
                cluster.pods().map(|pod| (pod.name.clone(), pod.drain.clone())).collect::<std::collections::BTreeMap<_, _>>()
            };
            prop_assert_eq!(drains(&before), drains(&after));
        }
    }
}
