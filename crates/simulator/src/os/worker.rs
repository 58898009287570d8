//! A worker joins its cluster as kubeadm and kubelet would: discovery, a certificate by the bootstrap token, its own
//! Node. What it earned is kept beside its disk, so that a reboot does not join again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::discovery::{Cluster, discover};
use super::kube::{Credentials, Kube, Trust};
use super::kubeadm::{JoinConfiguration, NodeRegistration};
use super::node::NodeFacts;
use crate::server::Server;

/// kubeadm's own patience with the discovery.
const JOIN_LIMIT: Duration = Duration::from_secs(300);
/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(5);
const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// What a node keeps on its disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) provider_id: Option<String>,
    pub(crate) server: String,
    pub(crate) ca_pem: String,
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
    #[serde(default)]
    pub(crate) node_labels: String,
}

impl Identity {
    const FILE: &'static str = "node.json";

    pub(crate) fn load(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(Self::FILE)).ok()?).ok()
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<(), String> {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let text = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        crate::tls::write_secret(&folder.join(Self::FILE), &text).map_err(|error| error.to_string())
    }

    pub(crate) fn kube(&self) -> Result<Kube, String> {
        let credentials = Credentials::Certificate { cert_pem: &self.cert_pem, key_pem: &self.key_pem };
        Kube::new(&self.server, Trust::Authority(&self.ca_pem), credentials)
            .map_err(|error| error.to_string())
    }

    pub(crate) fn facts(&self, server: &Server) -> NodeFacts {
        let mut facts = NodeFacts::new(&server.spec, &self.name, self.provider_id.as_deref());
        facts.add_labels(&self.node_labels);
        facts
    }
}

/// Joins: discovery, certificate, and the identity that is then kept. Tries again until kubeadm would give up.
pub(crate) async fn join(
    server: &Arc<Server>,
    epoch: u64,
    join: &JoinConfiguration,
    hostname: &str,
) -> Result<Identity, String> {
    let until = Instant::now() + JOIN_LIMIT;
    let mut pause = Duration::from_millis(100);
    loop {
        let why = match attempt(join, hostname).await {
            Ok(identity) => return Ok(identity),
            Err(why) => why,
        };
        if Instant::now() + pause > until {
            return Err(format!("kubeadm join gave up after {} s: {why}", JOIN_LIMIT.as_secs()));
        }
        server.update_os(epoch, |os| os.message = format!("kubeadm join: {why}"));
        tokio::time::sleep(server.jitter(pause, epoch)).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

async fn attempt(join: &JoinConfiguration, hostname: &str) -> Result<Identity, String> {
    let with =
        join.discovery.bootstrap_token.as_ref().ok_or("the join configuration has no bootstrap token")?;
    let name = node_name(&join.node_registration, hostname)?;
    let cluster = discover(with).await?;
    let trust = Trust::Authority(&cluster.ca_pem);
    let kube = Kube::new(&cluster.server, trust, Credentials::Token(join.discovery.tls_token()))
        .map_err(|error| error.to_string())?;
    refuse_taken(&kube, &name).await?;
    let (cert_pem, key_pem) = certificate(&kube, &name).await?;
    let Cluster { server, ca_pem } = cluster;
    Ok(Identity {
        provider_id: join.node_registration.kubelet_arg("provider-id").map(str::to_owned),
        node_labels: join.node_registration.kubelet_arg("node-labels").unwrap_or_default().to_owned(),
        name,
        server,
        ca_pem,
        cert_pem,
        key_pem,
    })
}

/// The name in the registration, else the host name.
pub(crate) fn node_name(registration: &NodeRegistration, hostname: &str) -> Result<String, String> {
    let name = if registration.name.is_empty() { hostname } else { &registration.name };
    if name.is_empty() {
        return Err("the machine has neither a node name nor a host name".to_owned());
    }
    Ok(name.to_ascii_lowercase())
}

/// kubeadm does not join under the name of a living node.
async fn refuse_taken(kube: &Kube, name: &str) -> Result<(), String> {
    match kube.get(&format!("/api/v1/nodes/{name}")).await {
        Err(error) if error.status() == Some(404) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(node) => {
            let conditions = node["status"]["conditions"].as_array();
            let ready =
                conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
            if ready {
                Err(format!("a Node {name:?} with status Ready already exists in the cluster"))
            } else {
                Ok(())
            }
        }
    }
}

/// A client certificate for kubelet, signed by the cluster.
async fn certificate(kube: &Kube, name: &str) -> Result<(String, String), String> {
    let key = rcgen::KeyPair::generate().map_err(|error| error.to_string())?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{name}"));
    let request = params
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(|error| error.to_string())?;
    let made = kube
        .post(
            CSRS,
            &json!({
                "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
                "metadata": {"generateName": "node-csr-"},
                "spec": {
                    "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                    "usages": ["digital signature", "client auth"], "request": STANDARD.encode(request),
                },
            }),
        )
        .await
        .map_err(|error| error.to_string())?;
    let csr = made["metadata"]["name"].as_str().ok_or("the certificate request has no name")?;
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let found = kube.get(&format!("{CSRS}/{csr}")).await.map_err(|error| error.to_string())?;
        if let Some(issued) = found["status"]["certificate"].as_str() {
            let pem = STANDARD.decode(issued).map_err(|error| error.to_string())?;
            return Ok((String::from_utf8(pem).map_err(|error| error.to_string())?, key.serialize_pem()));
        }
        let conditions = found["status"]["conditions"].as_array();
        let refused = |c: &&Value| c["type"] == "Denied" || c["type"] == "Failed";
        if let Some(condition) = conditions.into_iter().flatten().find(refused) {
            return Err(format!("the certificate request was refused: {}", condition["message"]));
        }
        if Instant::now() > until {
            return Err(format!("certificate request {csr} was not answered within 30 s"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
