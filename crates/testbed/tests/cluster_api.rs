//! The whole management plane: `clusterctl init` with a provider, the managers healthy, webhooks and conversion
//! answering, nothing left behind.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ferric_testbed::Bed;

const COMPONENTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: ferric-system
  labels: {cluster.x-k8s.io/provider: infrastructure-ferric}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: ferric-manager
  namespace: ferric-system
  labels: {cluster.x-k8s.io/provider: infrastructure-ferric}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ferric-controller-manager
  namespace: ferric-system
  labels: {cluster.x-k8s.io/provider: infrastructure-ferric}
spec:
  replicas: ${FERRIC_REPLICAS:=1}
  selector: {matchLabels: {app: ferric}}
  template:
    metadata: {labels: {app: ferric}}
    spec:
      containers:
      - {name: manager, image: registry.invalid/ferric:v0.1.0}
"#;

const METADATA: &str = "apiVersion: clusterctl.cluster.x-k8s.io/v1alpha3
kind: Metadata
releaseSeries:
- {major: 0, minor: 1, contract: v1beta2}
";

fn release(folder: &Path) {
    let version = folder.join("infrastructure-ferric/v0.1.0");
    std::fs::create_dir_all(&version).unwrap();
    std::fs::write(version.join("infrastructure-components.yaml"), COMPONENTS).unwrap();
    std::fs::write(version.join("metadata.yaml"), METADATA).unwrap();
}

#[tokio::test]
async fn cluster_api_is_installed_and_answers() {
    let folder = tempfile::tempdir().unwrap();
    release(folder.path());
    let mut bed = Bed::builder().cluster_api(Some(folder.path().to_owned())).start().await.unwrap();
    assert!(bed.cluster_api_managers().iter_mut().all(|manager| manager.is_running()));

    let providers = bed.kubectl(["get", "providers", "-A", "-o", "name"]).await.unwrap();
    assert_eq!(providers.lines().count(), 4, "{providers}");
    // The validating webhook is asked: a wrong version is refused by its words, not by a broken connection.
    let cluster = "{apiVersion: cluster.x-k8s.io/v1beta2, kind: Cluster, metadata: {name: c, namespace: default}, \
                  spec: {topology: {classRef: {name: missing}, version: wrong}}}";
    let error = bed.apply(cluster).await.unwrap_err().to_string();
    assert!(error.contains("version must be a valid semantic version"), "{error}");
    // The conversion webhook is asked: what was written as v1beta2 is read as v1beta1.
    let check = "{apiVersion: cluster.x-k8s.io/v1beta2, kind: MachineHealthCheck, \
                 metadata: {name: c, namespace: default}, spec: {clusterName: c, selector: {matchLabels: {a: b}}, \
                 checks: {nodeStartupTimeoutSeconds: 3600}}}";
    bed.apply(check).await.unwrap();
    let path = "jsonpath={.apiVersion} {.spec.nodeStartupTimeout}";
    let old =
        bed.kubectl(["get", "machinehealthchecks.v1beta1.cluster.x-k8s.io", "c", "-o", path]).await.unwrap();
    assert_eq!(old, "cluster.x-k8s.io/v1beta1 1h0m0s");

    let listed = bed.clusterctl(["config", "repositories"], &[]).await.unwrap();
    assert!(listed.contains("ferric"), "{listed}");
    let rendered = bed
        .clusterctl(
            ["generate", "provider", "--infrastructure", "ferric:v0.1.0"],
            &[("FERRIC_REPLICAS", "3")],
        )
        .await
        .unwrap();
    assert!(rendered.contains("replicas: 3"), "{rendered}");
    let kubeconfig = bed.service_account_kubeconfig("ferric-system", "ferric-manager").await.unwrap();
    let client = ferric_testbed::kubeconfig::client(&kubeconfig).await.unwrap();
    let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> = kube::Api::namespaced(client, "default");
    let refused = secrets.list(&Default::default()).await.unwrap_err().to_string();
    assert!(refused.contains("system:serviceaccount:ferric-system:ferric-manager"), "{refused}");

    let pids = bed.pids();
    assert_eq!(pids.len(), 6);
    bed.stop().await;
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
}
