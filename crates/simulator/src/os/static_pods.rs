//! The static pods of a control-plane machine as kubelet shows them in the API: mirror pods. Pure.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde_json::{Value, json};

/// What the pods say.
#[derive(Debug, Clone)]
pub(crate) struct PodFacts<'a> {
    pub(crate) node: &'a str,
    pub(crate) node_uid: &'a str,
    pub(crate) address: Ipv4Addr,
    pub(crate) api_port: u16,
    pub(crate) version: &'a str,
}

/// The pods, in the order of their start.
pub(crate) fn mirror_pods(facts: &PodFacts<'_>) -> Vec<Value> {
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
        .into_iter()
        .map(|component| mirror_pod(facts, component))
        .collect()
}

fn mirror_pod(facts: &PodFacts<'_>, component: &str) -> Value {
    let PodFacts { node, node_uid, address, api_port, version } = facts;
    let mut annotations = json!({
        // Without this one the drain of the machine waits for a kubelet to end the pods.
        "kubernetes.io/config.mirror": format!("{component}-{node}"),
        "kubernetes.io/config.hash": format!("{component}-{node}"),
        "kubernetes.io/config.source": "file",
    });
    match component {
        "etcd" => {
            annotations["kubeadm.kubernetes.io/etcd.advertise-client-urls"] =
                json!(format!("https://{address}:{}", super::control_plane::ETCD_PORT));
        }
        "kube-apiserver" => {
            annotations["kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint"] =
                json!(format!("{address}:{api_port}"));
        }
        _ => {}
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{component}-{node}"), "namespace": "kube-system", "annotations": annotations,
            "labels": {"component": component, "tier": "control-plane"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": true},
            ],
        },
        "spec": {
            "nodeName": node, "hostNetwork": true, "automountServiceAccountToken": false,
            "enableServiceLinks": false, "restartPolicy": "Always",
            // There is no kubelet to end them when their node is deleted.
            "terminationGracePeriodSeconds": 0, "priorityClassName": "system-node-critical",
            "tolerations": [{"effect": "NoExecute", "operator": "Exists"}],
            "containers": [{"name": component, "image": format!("registry.k8s.io/{component}:{version}")}],
        },
    })
}

/// The status of such a pod while its process runs.
pub(crate) fn running(component_pod: &Value, address: Ipv4Addr) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let container = &component_pod["spec"]["containers"][0];
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    json!({"status": {
        "phase": "Running", "hostIP": address, "podIP": address, "podIPs": [{"ip": address}], "startTime": now,
        "conditions": [
            condition("Initialized"), condition("Ready"), condition("ContainersReady"), condition("PodScheduled"),
        ],
        "containerStatuses": [{
            "name": container["name"], "image": container["image"], "imageID": container["image"],
            "containerID": format!("simulated://{}", component_pod["metadata"]["name"].as_str().unwrap_or_default()),
            "ready": true, "started": true, "restartCount": 0, "state": {"running": {"startedAt": now}},
        }],
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_mirror_pods_that_name_their_node() {
        let facts = PodFacts {
            node: "cp-1",
            node_uid: "u",
            address: Ipv4Addr::new(127, 64, 0, 1),
            api_port: 6443,
            version: "v1.36.3",
        };
        let pods = mirror_pods(&facts);
        assert_eq!(pods.len(), 4);
        for pod in &pods {
            assert_eq!(pod["spec"]["nodeName"], "cp-1");
            assert!(pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
            assert_eq!(running(pod, facts.address)["status"]["phase"], "Running");
        }
        let urls = &pods[0]["metadata"]["annotations"]["kubeadm.kubernetes.io/etcd.advertise-client-urls"];
        assert_eq!(urls, "https://127.64.0.1:2379");
    }
}
