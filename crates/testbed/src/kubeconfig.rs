//! Kubeconfig files and the clients made from them.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::pki::{CertAndKey, write_secret};

/// How a client proves who it is.
pub(crate) enum Credential<'a> {
    /// By a client certificate.
    Certificate(&'a CertAndKey),
    /// By a bearer token.
    Token(&'a str),
}

/// The text of a kubeconfig with one cluster, one user and one context, all called `name`.
pub(crate) fn render(name: &str, server: &str, ca_pem: &str, credential: &Credential<'_>) -> Result<String> {
    let user = match credential {
        Credential::Certificate(pair) => json!({
            "client-certificate-data": STANDARD.encode(&pair.cert_pem),
            "client-key-data": STANDARD.encode(&pair.key_pem),
        }),
        Credential::Token(token) => json!({ "token": token }),
    };
    let document: Value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": name,
            "cluster": { "server": server, "certificate-authority-data": STANDARD.encode(ca_pem) },
        }],
        "users": [{ "name": name, "user": user }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        "current-context": name,
    });
    serde_yaml_ng::to_string(&document).map_err(|error| Error::malformed("the new kubeconfig", error))
}

/// Writes a kubeconfig that only its owner may read.
pub(crate) fn write(
    path: PathBuf,
    name: &str,
    server: &str,
    ca_pem: &str,
    credential: &Credential<'_>,
) -> Result<PathBuf> {
    write_secret(&path, &render(name, server, ca_pem, credential)?)?;
    Ok(path)
}

/// The client configuration that a kubeconfig file describes.
pub async fn client_config(path: &Path) -> Result<kube::Config> {
    let unusable = |error: kube::config::KubeconfigError| Error::malformed(path.display().to_string(), error);
    let kubeconfig = kube::config::Kubeconfig::read_from(path).map_err(unusable)?;
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
            .await
            .map_err(unusable)?;
    // Beds are on this machine: a proxy of the environment is never on the way to them.
    config.proxy_url = None;
    Ok(config)
}

/// A client for the cluster that a kubeconfig file describes.
pub async fn client(path: &Path) -> Result<kube::Client> {
    kube::Client::try_from(client_config(path).await?)
        .map_err(Error::kube(format!("make a client from {}", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pki::{Ca, Usage};

    #[tokio::test]
    async fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new("kubernetes").unwrap();
        let admin = ca.issue("admin", Some("system:masters"), &[], Usage::Client).unwrap();
        let path = write(
            folder.path().join("kubeconfig"),
            "bed",
            "https://127.0.0.1:6443",
            ca.cert_pem(),
            &Credential::Certificate(&admin),
        )
        .unwrap();
        let config = client_config(&path).await.unwrap();
        assert_eq!(config.cluster_url.to_string(), "https://127.0.0.1:6443/");
        assert!(config.root_cert.is_some() && config.auth_info.client_key_data.is_some());
        client(&path).await.unwrap();
    }
}
