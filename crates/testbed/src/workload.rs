//! A workload cluster's control plane that exists already, for workers to join: etcd, kube-apiserver and
//! kube-controller-manager with everything that `kubeadm join` reads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use rand::RngExt;
use serde_json::json;

use crate::assets::{Assets, Binary, KUBERNETES_VERSION};
use crate::control_plane::{ControlPlane, ControlPlaneSpec};
use crate::error::{Error, Result};
use crate::pki::write_secret;
use crate::process::{self, wait_until};

const KUBEADM_LIMIT: Duration = Duration::from_secs(60);
const CLUSTER_INFO_LIMIT: Duration = Duration::from_secs(60);
const FIELD_MANAGER: &str = "ferric-testbed";

/// The CRD of [`ExternalControlPlane`](Workload::create_external_control_plane) and what Cluster API needs to read it.
pub const EXTERNAL_CONTROL_PLANE: &str = include_str!("../manifests/external-control-plane.yaml");

/// A running workload control plane; ended when dropped.
#[derive(Debug)]
pub struct Workload {
    control_plane: ControlPlane,
    token: String,
}

impl Workload {
    /// Starts one with its files in `folder`. The controller manager is part of it whatever `spec` says.
    pub async fn start(spec: &ControlPlaneSpec, assets: &Assets, folder: &Path) -> Result<Self> {
        let kubeadm = assets.ensure(Binary::Kubeadm).await?;
        std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let spec = ControlPlaneSpec { controller_manager: true, ..spec.clone() };
        let mut control_plane = ControlPlane::start(&spec, assets, folder).await?;
        let token = bootstrap_token();
        upload(&control_plane, &kubeadm, &token).await?;
        control_plane.wait_for_controllers().await?;
        wait_for_signature(&control_plane, &token).await?;
        Ok(Self { control_plane, token })
    }

    /// The control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// A client with the rights of an administrator of the workload cluster.
    pub fn client(&self) -> Client {
        self.control_plane.client()
    }

    /// The kubeconfig of an administrator of the workload cluster.
    pub fn kubeconfig(&self) -> &Path {
        self.control_plane.kubeconfig()
    }

    /// A bootstrap token with which a worker may join, valid for a day.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The certificate of its authority.
    pub fn ca_cert_pem(&self) -> &str {
        self.control_plane.ca().cert_pem()
    }

    /// The key of its authority.
    pub fn ca_key_pem(&self) -> String {
        self.control_plane.ca().key_pem()
    }

    /// Gives Cluster API what it needs to reach this cluster: the Secrets `<cluster>-kubeconfig` and `<cluster>-ca`
    /// in the management cluster.
    pub async fn create_secrets(&self, management: &Client, namespace: &str, cluster: &str) -> Result<()> {
        let path = self.kubeconfig();
        let kubeconfig = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
        let secrets = [
            ("kubeconfig", json!({ "value": kubeconfig })),
            ("ca", json!({ "tls.crt": self.ca_cert_pem(), "tls.key": self.ca_key_pem() })),
        ];
        let api: Api<Secret> = Api::namespaced(management.clone(), namespace);
        for (purpose, data) in secrets {
            let name = format!("{cluster}-{purpose}");
            let secret = json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": { "name": name, "labels": { "cluster.x-k8s.io/cluster-name": cluster } },
                "type": "cluster.x-k8s.io/secret",
                "stringData": data,
            });
            api.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&secret))
                .await
                .map_err(Error::kube(format!("write Secret {namespace}/{name}")))?;
        }
        Ok(())
    }

    /// Makes an `ExternalControlPlane` in the management cluster that says: initialised, available, this version.
    /// [`crate::Bed::install_external_control_plane`] must have been called before.
    pub async fn create_external_control_plane(
        &self,
        management: &Client,
        namespace: &str,
        name: &str,
    ) -> Result<()> {
        let kind = GroupVersionKind::gvk("controlplane.cluster.x-k8s.io", "v1alpha1", "ExternalControlPlane");
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = Api::namespaced_with(management.clone(), namespace, &resource);
        let object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": name },
            "spec": { "version": KUBERNETES_VERSION },
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let failed = || Error::kube(format!("write ExternalControlPlane {namespace}/{name}"));
        let made = api.patch(name, &parameters, &Patch::Apply(&object)).await.map_err(failed())?;
        let status = json!({ "status": {
            "initialization": { "controlPlaneInitialized": true },
            "externalManagedControlPlane": true,
            // Without a version no machine is made: Cluster API takes the control plane for one still provisioning.
            "version": KUBERNETES_VERSION,
            "conditions": [{
                "type": "Available",
                "status": "True",
                "reason": "External",
                "message": "",
                "lastTransitionTime": made.metadata.creation_timestamp,
            }],
        } });
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.map_err(failed())?;
        Ok(())
    }

    /// The ids of its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.control_plane.pids()
    }

    /// Ends its processes.
    pub fn stop(&mut self) {
        self.control_plane.stop();
    }
}

/// A random token in the form that Kubernetes demands.
fn bootstrap_token() -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    let mut text = |length: usize| {
        (0..length).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
    };
    let (id, secret): (String, String) = (text(6), text(16));
    format!("{id}.{secret}")
}

/// Uploads what `kubeadm join` reads, with kubeadm itself: its configuration, the kubelet's, cluster-info, the token
/// and the RBAC of joining.
async fn upload(control_plane: &ControlPlane, kubeadm: &Path, token: &str) -> Result<()> {
    let config = kubeadm_config(control_plane, token)?;
    let phases: [&[&str]; 2] = [&["upload-config", "all"], &["bootstrap-token", "--skip-token-print"]];
    for phase in phases {
        let mut command = tokio::process::Command::new(kubeadm);
        command
            .args(["init", "phase"])
            .args(phase)
            .arg("--config")
            .arg(&config)
            .arg("--kubeconfig")
            .arg(control_plane.kubeconfig())
            .env("HOME", control_plane.folder());
        process::run(command, KUBEADM_LIMIT).await?;
    }
    Ok(())
}

fn kubeadm_config(control_plane: &ControlPlane, token: &str) -> Result<PathBuf> {
    let endpoint = control_plane.url().trim_start_matches("https://");
    let port: u16 = endpoint
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .ok_or_else(|| Error::malformed(control_plane.url(), "it has no port"))?;
    let documents = [
        json!({
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            "bootstrapTokens": [{
                "token": token,
                "ttl": "24h0m0s",
                "usages": ["signing", "authentication"],
                "groups": ["system:bootstrappers:kubeadm:default-node-token"],
            }],
            "localAPIEndpoint": { "bindPort": port },
            // Given, so that kubeadm does not look for a container runtime on this machine.
            "nodeRegistration": { "name": "control-plane", "criSocket": "unix:///run/containerd/containerd.sock" },
        }),
        json!({
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            // Given, so that kubeadm does not ask the Internet for the newest.
            "kubernetesVersion": KUBERNETES_VERSION,
            "controlPlaneEndpoint": endpoint,
        }),
    ];
    let mut text = String::new();
    for document in documents {
        text.push_str("---\n");
        text.push_str(&document.to_string());
        text.push('\n');
    }
    let path = control_plane.folder().join("kubeadm.yaml");
    write_secret(&path, &text)?;
    Ok(path)
}

/// A worker trusts cluster-info by the signature that the controller manager adds for each token.
async fn wait_for_signature(control_plane: &ControlPlane, token: &str) -> Result<()> {
    let id = token.split('.').next().unwrap_or_default();
    let key = format!("jws-kubeconfig-{id}");
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> =
        Api::namespaced(control_plane.client(), "kube-public");
    wait_until("the signature of cluster-info", CLUSTER_INFO_LIMIT, async || {
        let map = maps.get("cluster-info").await.map_err(|error| error.to_string())?;
        match map.data.is_some_and(|data| data.contains_key(&key)) {
            true => Ok(()),
            false => Err(format!("{key} is not there")),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_form_that_kubernetes_demands() {
        let token = bootstrap_token();
        let (id, secret) = token.split_once('.').unwrap_or_default();
        assert_eq!((id.len(), secret.len()), (6, 16));
        assert!(token.chars().all(|c| c == '.' || c.is_ascii_lowercase() || c.is_ascii_digit()));
        assert_ne!(token, bootstrap_token());
    }
}
