//! Control-plane machines and a worker from the disks alone: real etcd, kube-apiserver and kube-controller-manager.
//!
//! Run by name, with the folders that hold the programs:
//! `FERRIC_SIM_BINARIES=DIR[:DIR…] cargo test -p ferric-simulator --test control_plane -- --ignored`
#![allow(clippy::unwrap_used)]

mod common;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{install, reset, wait_for};
use ferric_simulator::{Fleet, FleetConfig};
use serde_json::Value;

const TOKEN: &str = "abcdef.0123456789abcdef";

struct Cluster {
    endpoint: String,
    files: String,
    pin: String,
    ca_pem: String,
    admin_pem: String,
}

/// What the bootstrap provider puts into the user data of every control-plane machine.
fn cluster(endpoint: String) -> Cluster {
    let mut files = String::new();
    let mut file = |path: &str, content: &str| {
        let content = STANDARD.encode(content);
        files.push_str(&format!(
            "-   path: /etc/kubernetes/pki/{path}\n    encoding: base64\n    content: {content}\n"
        ));
    };
    let mut authority = None;
    for name in ["ca", "etcd/ca", "front-proxy-ca"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages =
            vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
        let cert = params.self_signed(&key).unwrap();
        file(&format!("{name}.crt"), &cert.pem());
        file(&format!("{name}.key"), &key.serialize_pem());
        if name == "ca" {
            authority = Some((cert, params, key));
        }
    }
    let sa = rcgen::KeyPair::generate().unwrap();
    file("sa.key", &sa.serialize_pem());
    file("sa.pub", &sa.public_key_pem());
    let (cert, params, key) = authority.unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(cert.der()).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, parsed.public_key().raw);
    let admin_key = rcgen::KeyPair::generate().unwrap();
    let mut admin = rcgen::CertificateParams::default();
    admin.distinguished_name = rcgen::DistinguishedName::new();
    admin.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    admin.distinguished_name.push(rcgen::DnType::CommonName, "observer");
    admin.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let issuer = rcgen::Issuer::new(params, key);
    let admin = admin.signed_by(&admin_key, &issuer).unwrap();
    Cluster {
        endpoint,
        files,
        pin: format!("sha256:{}", hex::encode(digest)),
        ca_pem: cert.pem(),
        admin_pem: format!("{}{}", admin.pem(), admin_key.serialize_pem()),
    }
}

impl Cluster {
    fn init(&self) -> String {
        format!(
            "## template: jinja\n#cloud-config\nwrite_files:\n{}\
             -   path: /run/kubeadm/kubeadm.yaml\n    content: |\n      ---\n      apiVersion: kubeadm.k8s.io/v1beta4\n      \
             kind: ClusterConfiguration\n      clusterName: test\n      controlPlaneEndpoint: {endpoint}\n      \
             kubernetesVersion: v1.36.3\n      networking: {{serviceSubnet: 10.96.0.0/16}}\n\n      ---\n      \
             apiVersion: kubeadm.k8s.io/v1beta4\n      kind: InitConfiguration\n      \
             bootstrapTokens:\n      - token: {TOKEN}\n        ttl: 24h0m0s\n        usages: [signing, authentication]\n        \
             groups: [system:bootstrappers:kubeadm:default-node-token]\n      \
             localAPIEndpoint: {{bindPort: 6443}}\n      nodeRegistration:\n        name: '{{{{ ds.meta_data.local_hostname }}}}'\n        \
             kubeletExtraArgs:\n        - name: provider-id\n          value: '{{{{ ds.meta_data.provider_id }}}}'\n        taints: null\n\
             runcmd:\n  - 'kubeadm init --config /run/kubeadm/kubeadm.yaml  && echo success > /run/cluster-api/x'\n",
            self.files,
            endpoint = self.endpoint
        )
    }

    fn join(&self, control_plane: bool) -> String {
        let (files, section) = if control_plane {
            (self.files.as_str(), "controlPlane: {localAPIEndpoint: {bindPort: 6443}}")
        } else {
            ("", "patches: null")
        };
        format!(
            "## template: jinja\n#cloud-config\nwrite_files:\n{files}\
             -   path: /run/kubeadm/kubeadm-join-config.yaml\n    content: |\n      ---\n      \
             apiVersion: kubeadm.k8s.io/v1beta4\n      kind: JoinConfiguration\n      {section}\n      discovery:\n        \
             bootstrapToken:\n          apiServerEndpoint: {endpoint}\n          caCertHashes: ['{pin}']\n          token: {TOKEN}\n      \
             nodeRegistration:\n        name: '{{{{ ds.meta_data.local_hostname }}}}'\n        \
             kubeletExtraArgs:\n        - name: provider-id\n          value: '{{{{ ds.meta_data.provider_id }}}}'\n\
             runcmd:\n  - 'kubeadm join --config /run/kubeadm/kubeadm-join-config.yaml  && echo success > /run/cluster-api/x'\n",
            endpoint = self.endpoint,
            pin = self.pin
        )
    }

    async fn get(&self, path: &str) -> Value {
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(self.ca_pem.as_bytes()).unwrap()])
            .identity(reqwest::Identity::from_pem(self.admin_pem.as_bytes()).unwrap())
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        let url = format!("https://{}{path}", self.endpoint);
        let mut tries = 0;
        loop {
            match client.get(&url).send().await {
                Ok(answer) => return serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap(),
                Err(error) if tries > 100 => panic!("{url}: {error:?}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
            tries += 1;
        }
    }

    async fn wait_ready(&self, node: &str, wanted: &str) {
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while self.ready(node).await != wanted {
            assert!(std::time::Instant::now() < until, "{node} is not Ready={wanted}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ready(&self, node: &str) -> String {
        let node = self.get(&format!("/api/v1/nodes/{node}")).await;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|c| c["type"] == "Ready").map(|c| c["status"].clone());
        ready.and_then(|status| status.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

fn meta(name: &str) -> String {
    format!("instance-id: id-{name}\nlocal-hostname: node-{name}\nprovider_id: ferric://{name}/claim\n")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of a control plane: FERRIC_SIM_BINARIES"]
async fn three_control_plane_machines_and_a_worker() {
    let binaries = std::env::var("FERRIC_SIM_BINARIES").expect("FERRIC_SIM_BINARIES names folders");
    let folder = tempfile::tempdir().unwrap();
    let mut config = FleetConfig::new(4, folder.path());
    config.base_address = Ipv4Addr::new(127, 71, 0, 1);
    config.binaries = binaries.split(':').map(PathBuf::from).collect();
    let fleet = Fleet::start(config).await.unwrap();
    let cluster = cluster("127.71.255.1:6443".to_owned());
    let limit = Duration::from_secs(180);
    let (first, worker) = ("host-01", "host-04");

    install(&fleet, first, &meta(first), &cluster.init());
    reset(&fleet, first, "On").await;
    wait_for(&fleet, first, limit, "control plane", |s| s.os.node.is_some()).await;

    install(&fleet, worker, &meta(worker), &cluster.join(false));
    reset(&fleet, worker, "On").await;
    wait_for(&fleet, worker, limit, "worker", |s| s.os.node.is_some()).await;
    let node = cluster.get("/api/v1/nodes/node-host-04").await;
    assert_eq!(node["spec"]["providerID"], "ferric://host-04/claim");
    assert_eq!(cluster.ready("node-host-04").await, "True");

    for name in ["host-02", "host-03"] {
        install(&fleet, name, &meta(name), &cluster.join(true));
        reset(&fleet, name, "On").await;
        wait_for(&fleet, name, limit, "control plane", |s| s.os.node.is_some()).await;
    }
    let pods = cluster.get("/api/v1/namespaces/kube-system/pods").await;
    assert_eq!(pods["items"].as_array().unwrap().len(), 12);

    // Without power the node is lost; with power it is back without joining again.
    let uid = node["metadata"]["uid"].clone();
    reset(&fleet, worker, "ForceOff").await;
    wait_for(&fleet, worker, limit, "power off", |s| s.state == "Off").await;
    cluster.wait_ready("node-host-04", "Unknown").await;
    reset(&fleet, worker, "On").await;
    wait_for(&fleet, worker, limit, "worker", |s| s.os.node.is_some()).await;
    assert_eq!(cluster.ready("node-host-04").await, "True");
    assert_eq!(cluster.get("/api/v1/nodes/node-host-04").await["metadata"]["uid"], uid);

    // Two of three etcd members are enough, and the address stays when the first machine goes.
    reset(&fleet, first, "ForceOff").await;
    wait_for(&fleet, first, limit, "power off", |s| s.state == "Off").await;
    cluster.wait_ready("node-host-01", "Unknown").await;
    reset(&fleet, first, "On").await;
    wait_for(&fleet, first, limit, "control plane", |s| s.os.node.is_some()).await;
    assert_eq!(cluster.ready("node-host-01").await, "True");
    fleet.stop().await;
}
