//! The components files of Cluster API, changed so that managers outside the cluster can answer its webhooks.
//!
//! They are rendered with `kubectl kustomize` from the Go module, stripped of cert-manager and pointed at URLs instead
//! of Services. The result has placeholders where beds differ and is kept in the cache folder beside the programs:
//! neither Go nor kustomize is needed a second time, and a bed only replaces text.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Provider;
use crate::assets::{Assets, Binary, Module, link};
use crate::error::{Error, Result};
use crate::process;

/// Part of the cache folder's name; raised when the changes made here change.
const REVISION: &str = "components-1";
const PORT: &str = "FERRIC_TESTBED_WEBHOOK_PORT";
const CA_BUNDLE: &str = "FERRIC_TESTBED_CA_BUNDLE";
const METADATA: &str = "metadata.yaml";
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);
const KUSTOMIZE_LIMIT: Duration = Duration::from_secs(60);

/// The changed components files of one version of Cluster API.
#[derive(Debug)]
pub(super) struct Components {
    folder: PathBuf,
}

impl Components {
    /// Takes them from the cache folder, or makes them.
    pub(super) async fn ensure(assets: &Assets) -> Result<Self> {
        let given = assets.given().iter().map(|folder| Self { folder: folder.join(REVISION) });
        if let Some(this) = given.into_iter().find(Self::is_complete) {
            return Ok(this);
        }
        let kubectl = assets.ensure(Binary::Kubectl).await?;
        let this = Self { folder: assets.module_cache(Module::ClusterApi)?.join(REVISION) };
        if this.is_complete() {
            return Ok(this);
        }
        let locker = assets.clone();
        let _lock = tokio::task::spawn_blocking(move || locker.lock())
            .await
            .map_err(|error| Error::Assets(format!("waiting for the lock failed: {error}")))??;
        if !this.is_complete() {
            this.make(assets, &kubectl).await?;
        }
        Ok(this)
    }

    /// Makes a folder of assets hold a link to them.
    pub(super) fn link_into(&self, folder: &Path) -> Result<()> {
        link(&self.folder, &folder.join(REVISION))
    }

    /// The components of a provider for one bed.
    pub(super) fn for_bed(&self, provider: Provider, webhook_port: u16, ca_bundle: &str) -> Result<String> {
        let text = read(&self.folder.join(provider.components_file()))?;
        Ok(text.replace(PORT, &webhook_port.to_string()).replace(CA_BUNDLE, ca_bundle))
    }

    /// Cluster API's own `metadata.yaml`.
    pub(super) fn metadata(&self) -> Result<String> {
        read(&self.folder.join(METADATA))
    }

    /// `metadata.yaml` is written last.
    fn is_complete(&self) -> bool {
        self.folder.join(METADATA).is_file()
    }

    async fn make(&self, assets: &Assets, kubectl: &Path) -> Result<()> {
        assets.report("test bed: rendering the Cluster API components, once");
        let source = module_folder(assets).await?;
        std::fs::create_dir_all(&self.folder).map_err(Error::file("create", &self.folder))?;
        for provider in Provider::ALL {
            let mut command = tokio::process::Command::new(kubectl);
            command.arg("kustomize").arg(source.join(provider.source_folder()).join("config/default"));
            let rendered = process::run(command, KUSTOMIZE_LIMIT).await?;
            self.write(provider.components_file(), &transform(&rendered)?)?;
        }
        self.write(METADATA, &read(&source.join(METADATA))?)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let unfinished = self.folder.join(format!(".{name}.unfinished"));
        let path = self.folder.join(name);
        std::fs::write(&unfinished, text).map_err(Error::file("write", &unfinished))?;
        std::fs::rename(&unfinished, &path).map_err(Error::file("rename to", &path))
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::file("read", path))
}

/// The folder of the Cluster API module in Go's module cache; downloaded if it is not there.
async fn module_folder(assets: &Assets) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Download {
        #[serde(rename = "Dir")]
        dir: PathBuf,
    }
    let go = assets.go("the Cluster API components")?;
    let mut command = tokio::process::Command::new(go);
    command.current_dir(assets.source(Module::ClusterApi)).env("GOWORK", "off").args([
        "mod",
        "download",
        "-json",
        "sigs.k8s.io/cluster-api",
    ]);
    let answer = process::run(command, DOWNLOAD_LIMIT).await?;
    let download: Download = serde_json::from_str(&answer)
        .map_err(|error| Error::malformed("the answer of `go mod download`", error))?;
    Ok(download.dir)
}

/// Changes rendered components: no cert-manager objects, webhooks by URL.
fn transform(rendered: &str) -> Result<String> {
    let unusable = |error: &dyn std::fmt::Display| Error::malformed("a rendered components file", error);
    let mut changed = String::with_capacity(rendered.len());
    for document in serde_yaml_ng::Deserializer::from_str(rendered) {
        let mut object = Value::deserialize(document).map_err(|error| unusable(&error))?;
        let api = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        if object.is_null() || api.starts_with("cert-manager.io/") {
            continue;
        }
        if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        {
            annotations.remove("cert-manager.io/inject-ca-from");
        }
        if let Some(webhook) = object.pointer_mut("/spec/conversion/webhook") {
            by_url(webhook)?;
        }
        for webhook in object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
            by_url(webhook)?;
        }
        // JSON is YAML in which no reader can take the text `yes` for a boolean.
        changed.push_str("---\n");
        changed.push_str(&serde_json::to_string_pretty(&object).map_err(|error| unusable(&error))?);
        changed.push('\n');
    }
    Ok(changed)
}

/// Replaces `clientConfig.service` by a URL with the same path.
fn by_url(webhook: &mut Value) -> Result<()> {
    let Some(config) = webhook.get_mut("clientConfig") else { return Ok(()) };
    let path = config
        .pointer("/service/path")
        .and_then(Value::as_str)
        .ok_or_else(|| Error::malformed("a rendered components file", "a webhook has no service path"))?;
    *config = json!({ "url": format!("https://127.0.0.1:{PORT}{path}"), "caBundle": CA_BUNDLE });
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RENDERED: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: machines.cluster.x-k8s.io
  annotations:
    cert-manager.io/inject-ca-from: capi-system/serving-cert
    other: "yes"
spec:
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig:
        service: {name: webhook, namespace: capi-system, path: /convert}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: selfsigned}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: hooks}
webhooks:
- name: a
  clientConfig:
    service: {name: webhook, namespace: capi-system, path: /validate-a}
"#;

    #[test]
    fn webhooks_go_to_a_url_and_cert_manager_goes_away() {
        let changed = transform(RENDERED).unwrap();
        assert!(!changed.contains("cert-manager") && !changed.contains("\"service\""), "{changed}");
        for path in ["convert", "validate-a"] {
            let url = format!("\"url\": \"https://127.0.0.1:FERRIC_TESTBED_WEBHOOK_PORT/{path}\"");
            assert!(changed.contains(&url), "{changed}");
        }
        // Read again by a YAML 1.1 parser, which takes a bare `yes` for a boolean.
        assert!(changed.contains("\"other\": \"yes\""), "{changed}");
    }

    #[test]
    fn a_webhook_without_a_path_is_an_error() {
        let error = transform(&RENDERED.replace(", path: /validate-a", "")).unwrap_err().to_string();
        assert!(error.contains("no service path"), "{error}");
    }
}
