//! The kubeadm configuration that a machine finds in its user data. Read leniently, as far as it is needed. Pure.

use serde::Deserialize;
use serde_json::Value;

/// Where the bootstrap provider puts the configuration of a machine that joins.
pub(crate) const JOIN_FILE: &str = "/run/kubeadm/kubeadm-join-config.yaml";
/// Where it puts that of the first control-plane machine.
pub(crate) const INIT_FILE: &str = "/run/kubeadm/kubeadm.yaml";

/// `JoinConfiguration`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JoinConfiguration {
    pub(crate) node_registration: NodeRegistration,
    pub(crate) discovery: Discovery,
    pub(crate) control_plane: Option<JoinControlPlane>,
}

/// How to find and trust the cluster.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Discovery {
    pub(crate) bootstrap_token: Option<BootstrapToken>,
    tls_bootstrap_token: String,
}

/// A token and the pins of the authority.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BootstrapToken {
    pub(crate) token: String,
    pub(crate) api_server_endpoint: String,
    pub(crate) ca_cert_hashes: Vec<String>,
    #[serde(rename = "unsafeSkipCAVerification")]
    pub(crate) unsafe_skip_ca_verification: bool,
}

impl Discovery {
    /// The token for the TLS bootstrap: its own, or that of the discovery.
    pub(crate) fn tls_token(&self) -> &str {
        let discovery = self.bootstrap_token.as_ref().map_or("", |found| found.token.as_str());
        if self.tls_bootstrap_token.is_empty() { discovery } else { &self.tls_bootstrap_token }
    }
}

/// The section that makes a joining machine a control-plane machine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JoinControlPlane {
    #[serde(rename = "localAPIEndpoint")]
    pub(crate) local_api_endpoint: LocalApiEndpoint,
}

/// Where this machine's kube-apiserver listens.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LocalApiEndpoint {
    pub(crate) advertise_address: String,
    pub(crate) bind_port: u16,
}

/// How the machine registers as a node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeRegistration {
    pub(crate) name: String,
    pub(crate) taints: Option<Vec<Value>>,
    kubelet_extra_args: Value,
}

impl NodeRegistration {
    /// A kubelet argument: a list of names and values (v1beta4) or a map (v1beta3).
    pub(crate) fn kubelet_arg(&self, name: &str) -> Option<&str> {
        match &self.kubelet_extra_args {
            Value::Array(list) => list
                .iter()
                .rfind(|arg| arg.get("name").and_then(Value::as_str) == Some(name))
                .and_then(|arg| arg.get("value")?.as_str()),
            Value::Object(map) => map.get(name)?.as_str(),
            _ => None,
        }
    }
}

/// `InitConfiguration`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct InitConfiguration {
    pub(crate) node_registration: NodeRegistration,
    #[serde(rename = "localAPIEndpoint")]
    pub(crate) local_api_endpoint: LocalApiEndpoint,
}

/// `ClusterConfiguration`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClusterConfiguration {
    pub(crate) control_plane_endpoint: String,
    pub(crate) networking: Networking,
    pub(crate) api_server: ApiServer,
    pub(crate) etcd: Etcd,
}

/// Cluster networks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Networking {
    pub(crate) service_subnet: String,
}

/// Settings of kube-apiserver.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ApiServer {
    #[serde(rename = "certSANs")]
    pub(crate) cert_sans: Vec<String>,
}

/// Settings of etcd.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Etcd {
    pub(crate) external: Option<Value>,
}

/// Finds the document of a kind in a YAML stream.
pub(crate) fn document<T: for<'de> Deserialize<'de>>(text: &str, kind: &str) -> Result<Option<T>, String> {
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| error.to_string())?;
        if value.get("kind").and_then(Value::as_str) == Some(kind) {
            return T::deserialize(value).map(Some).map_err(|error| format!("{kind}: {error}"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const JOIN: &str = r"---
apiVersion: kubeadm.k8s.io/v1beta4
caCertPath: ''
discovery:
  bootstrapToken:
    apiServerEndpoint: 127.0.0.1:6443
    caCertHashes: ['sha256:00ff']
    token: abcdef.0123456789abcdef
kind: JoinConfiguration
nodeRegistration:
  imagePullPolicy: IfNotPresent
  kubeletExtraArgs:
  - {name: provider-id, value: 'ferric://host-01/c1'}
  name: worker-1
  taints: null
";

    #[test]
    fn a_worker_of_v1beta4() {
        let join: JoinConfiguration = document(JOIN, "JoinConfiguration").unwrap().unwrap();
        assert!(join.control_plane.is_none());
        assert_eq!(join.node_registration.kubelet_arg("provider-id"), Some("ferric://host-01/c1"));
        assert_eq!(join.discovery.tls_token(), "abcdef.0123456789abcdef");
        assert_eq!(join.discovery.bootstrap_token.unwrap().ca_cert_hashes, ["sha256:00ff"]);
    }

    #[test]
    fn a_control_plane_machine_of_v1beta3_and_several_documents() {
        let text = "---\napiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\ncontrolPlaneEndpoint: 127.0.0.1:6443\n\
            ---\nkind: InitConfiguration\nlocalAPIEndpoint: {bindPort: 6443}\nnodeRegistration: {kubeletExtraArgs: {provider-id: x}}\n";
        let init: InitConfiguration = document(text, "InitConfiguration").unwrap().unwrap();
        assert_eq!(
            (init.local_api_endpoint.bind_port, init.node_registration.kubelet_arg("provider-id")),
            (6443, Some("x"))
        );
        let cluster: ClusterConfiguration = document(text, "ClusterConfiguration").unwrap().unwrap();
        assert_eq!(cluster.control_plane_endpoint, "127.0.0.1:6443");
        assert!(document::<JoinConfiguration>(text, "JoinConfiguration").unwrap().is_none());
        let join = "kind: JoinConfiguration\ncontrolPlane: {localAPIEndpoint: {bindPort: 7}}\n";
        let join: JoinConfiguration = document(join, "JoinConfiguration").unwrap().unwrap();
        assert_eq!(join.control_plane.unwrap().local_api_endpoint.bind_port, 7);
    }
}
