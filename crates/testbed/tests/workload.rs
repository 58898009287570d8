//! A workload control plane beside a management plane: Cluster API makes join data for a worker of it, and a worker
//! joins with what kubeadm would read. Also the port-forward end of a kubelet.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use ferric_testbed::{Bed, FakeKubelet, Port, Process, ProcessSpec, wait_until};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The kinds of an infrastructure provider, as far as core looks at them.
fn components() -> String {
    let mut text = String::from(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: ferric-system, \
         labels: {cluster.x-k8s.io/provider: infrastructure-ferric}}\n",
    );
    for kind in ["BareMetalCluster", "BareMetalMachine", "BareMetalMachineTemplate"] {
        let (singular, plural) = (kind.to_lowercase(), format!("{}s", kind.to_lowercase()));
        text.push_str(&format!(
            "---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {plural}.infrastructure.cluster.x-k8s.io
  labels:
    cluster.x-k8s.io/provider: infrastructure-ferric
    cluster.x-k8s.io/v1beta2: v1alpha1
spec:
  group: infrastructure.cluster.x-k8s.io
  scope: Namespaced
  names: {{kind: {kind}, listKind: {kind}List, plural: {plural}, singular: {singular}}}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    subresources: {{status: {{}}}}
    schema:
      openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}
"
        ));
    }
    text
}

fn release(folder: &Path) {
    let version = folder.join("infrastructure-ferric/v0.1.0");
    std::fs::create_dir_all(&version).unwrap();
    std::fs::write(version.join("infrastructure-components.yaml"), components()).unwrap();
    // Not in braces: clusterctl takes what begins with one for JSON.
    let metadata = "apiVersion: clusterctl.cluster.x-k8s.io/v1alpha3\nkind: Metadata\n\
                    releaseSeries:\n- {major: 0, minor: 1, contract: v1beta2}\n";
    std::fs::write(version.join("metadata.yaml"), metadata).unwrap();
}

const CLUSTER: &str = r#"
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1
kind: BareMetalCluster
metadata: {name: w}
spec: {controlPlaneEndpoint: {host: HOST, port: PORT}}
---
apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata: {name: w}
spec:
  infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: BareMetalCluster, name: w}
  controlPlaneRef: {apiGroup: controlplane.cluster.x-k8s.io, kind: ExternalControlPlane, name: w}
---
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1
kind: BareMetalMachineTemplate
metadata: {name: w}
spec: {template: {spec: {}}}
---
apiVersion: bootstrap.cluster.x-k8s.io/v1beta2
kind: KubeadmConfigTemplate
metadata: {name: w}
spec: {template: {spec: {format: cloud-config}}}
---
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineDeployment
metadata: {name: w}
spec:
  clusterName: w
  replicas: 1
  template:
    spec:
      clusterName: w
      version: v1.36.3
      bootstrap: {configRef: {apiGroup: bootstrap.cluster.x-k8s.io, kind: KubeadmConfigTemplate, name: w}}
      infrastructureRef: {apiGroup: infrastructure.cluster.x-k8s.io, kind: BareMetalMachineTemplate, name: w}
"#;

#[tokio::test]
async fn cluster_api_makes_join_data_for_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    release(folder.path());
    let bed = Bed::builder().cluster_api(Some(folder.path().to_owned())).start().await.unwrap();
    bed.install_external_control_plane().await.unwrap();
    let workload = bed.start_workload("w").await.unwrap();
    workload.create_secrets(&bed.client(), "default", "w").await.unwrap();
    workload.create_external_control_plane(&bed.client(), "default", "w").await.unwrap();

    let (host, port) = workload.control_plane().url().trim_start_matches("https://").split_once(':').unwrap();
    bed.apply(&CLUSTER.replace("HOST", host).replace("PORT", port)).await.unwrap();
    let provisioned = r#"{"status":{"initialization":{"provisioned":true}}}"#;
    bed.kubectl([
        "patch",
        "baremetalcluster",
        "w",
        "--subresource=status",
        "--type=merge",
        "-p",
        provisioned,
    ])
    .await
    .unwrap();

    let secrets: Api<Secret> = Api::namespaced(bed.client(), "default");
    let data = wait_until("the join data", Duration::from_secs(120), async || {
        let list = secrets.list(&Default::default()).await.map_err(|e| e.to_string())?;
        let names: Vec<String> = list.items.iter().filter_map(|s| s.metadata.name.clone()).collect();
        // The kubeconfig and the authority are there before; the third is the one that is waited for.
        let found = list.items.into_iter().find_map(|secret| {
            let mut data = secret.data?;
            data.contains_key("format").then(|| data.remove("value")).flatten()
        });
        found.ok_or_else(|| format!("only {names:?}"))
    })
    .await
    .unwrap();
    let data = String::from_utf8(data.0).unwrap();
    assert!(data.contains("kubeadm join") && data.contains("sha256:"), "{data}");
    assert!(data.contains(&format!("{host}:{port}")), "{data}");
    let available = bed
        .kubectl(["wait", "--for=condition=ControlPlaneAvailable", "--timeout=60s", "cluster/w"])
        .await
        .unwrap();
    assert!(available.contains("condition met"), "{available}");
    bed.stop().await;
}

#[tokio::test]
async fn a_stranger_reads_cluster_info_and_a_token_is_a_worker() {
    let bed = Bed::builder().start().await.unwrap();
    let workload = bed.start_workload("w").await.unwrap();
    let mut config = ferric_testbed::kubeconfig::client_config(workload.kubeconfig()).await.unwrap();
    config.auth_info = kube::config::AuthInfo::default();
    let stranger = kube::Client::try_from(config.clone()).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(stranger, "kube-public");
    let info = maps.get("cluster-info").await.unwrap().data.unwrap();
    assert!(info["kubeconfig"].contains(workload.control_plane().url()));

    config.auth_info.token = Some(workload.token().to_owned().into());
    let worker = kube::Client::try_from(config).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(worker, "kube-system");
    for name in ["kubeadm-config", "kubelet-config"] {
        maps.get(name).await.unwrap();
    }
    let pids = workload.pids();
    assert_eq!(pids.len(), 3);
    drop(workload);
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    bed.stop().await;
}

const NODE_AND_POD: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-1}
---
apiVersion: v1
kind: Pod
metadata: {name: etcd-node-1, namespace: kube-system, annotations: {kubernetes.io/config.mirror: x}}
spec:
  nodeName: node-1
  automountServiceAccountToken: false
  containers: [{name: etcd, image: registry.invalid/etcd}]
"#;

/// Answers every connection with what it receives, in capitals.
async fn shouting_server() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut text = String::new();
                let _ = stream.read_to_string(&mut text).await;
                let _ = stream.write_all(text.to_uppercase().as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_port_is_forwarded_to_where_the_routes_say() {
    let bed = Bed::builder().controller_manager(true).start().await.unwrap();
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let kubelet = FakeKubelet::start(bed.assets(), &bed.dir().join("kubelet"), address).await.unwrap();
    bed.apply(NODE_AND_POD).await.unwrap();
    let status = format!(
        r#"{{"status":{{"addresses":[{{"type":"InternalIP","address":"127.0.0.1"}}],
            "daemonEndpoints":{{"kubeletEndpoint":{{"Port":{}}}}}}}}}"#,
        kubelet.port()
    );
    bed.kubectl(["patch", "node", "node-1", "--subresource=status", "--type=merge", "-p", &status])
        .await
        .unwrap();
    let running = r#"{"status":{"phase":"Running"}}"#;
    let pod =
        ["patch", "pod", "etcd-node-1", "-n", "kube-system", "--subresource=status", "--type=merge", "-p"];
    bed.kubectl(pod.into_iter().chain([running])).await.unwrap();

    let server = shouting_server().await;
    kubelet
        .set_routes(&BTreeMap::from([("kube-system/etcd-node-1:2379".to_owned(), server.to_string())]))
        .unwrap();
    let local = Port::reserve().unwrap();
    let kubectl = bed.assets().ensure(ferric_testbed::Binary::Kubectl).await.unwrap();
    let spec = ProcessSpec::new("port-forward", kubectl, bed.dir().join("port-forward.log"))
        .env("KUBECONFIG", bed.kubeconfig())
        .args(["port-forward", "-n", "kube-system", "pod/etcd-node-1"])
        .arg(format!("{}:2379", local.number()));
    let mut forward = Process::spawn(spec).unwrap();
    let number = local.number();
    forward
        .wait_ready("the port-forward to listen", Duration::from_secs(30), async || {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", number)).await;
            stream.map(drop).map_err(|error| error.to_string())
        })
        .await
        .unwrap();
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", number)).await.unwrap();
    stream.write_all(b"member list").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "MEMBER LIST", "{}", forward.log_tail());
    bed.stop().await;
}
