//! What a kubelet does for the pods on its node, without containers: they run as soon as they are seen, and are gone as
//! soon as they are to go.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kube::{Kube, KubeError};

/// Looks once at the pods that are bound to the node.
pub(crate) async fn tend(kube: &Kube, node: &str) -> Result<(), KubeError> {
    // A node may list no others (Kubernetes, "Using Node Authorization").
    let list = kube.get(&format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}")).await?;
    for pod in list["items"].as_array().into_iter().flatten() {
        let text = |field: &str| pod.pointer(field).and_then(Value::as_str).unwrap_or_default();
        let path =
            format!("/api/v1/namespaces/{}/pods/{}", text("/metadata/namespace"), text("/metadata/name"));
        let done = if !text("/metadata/deletionTimestamp").is_empty() {
            let now = json!({
                "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                "preconditions": {"uid": text("/metadata/uid")},
            });
            kube.delete(&path, &now).await
        } else if text("/status/phase") == "Pending" {
            kube.patch(&format!("{path}/status"), &json!({"status": running(pod)})).await
        } else {
            continue;
        };
        match done {
            // Somebody else was faster.
            Err(error) if matches!(error.status(), Some(404 | 409)) => {}
            done => drop(done?),
        }
    }
    Ok(())
}

/// The status of a pod whose containers all run.
fn running(pod: &Value) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let conditions: Vec<Value> = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"]
        .iter()
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": now}))
        .collect();
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let statuses: Vec<Value> = containers
        .map(|container| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "simulated://", "ready": true,
                "restartCount": 0, "started": true, "state": {"running": {"startedAt": now}},
            })
        })
        .collect();
    json!({
        "phase": "Running", "startTime": now, "conditions": conditions, "containerStatuses": statuses,
    })
}
