//! Pull Secrets from the API server: read by name for each fetch, never listed, watched or kept.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::ReconcileError;
use super::jobs::label_for_move;
use crate::deploy::images::{DOCKER_CONFIG_KEY, PullSecretError, PullSecrets};
use crate::key::Key;
use crate::patch;

/// The type of Secrets that hold the credentials of registries.
const DOCKER_CONFIG_TYPE: &str = "kubernetes.io/dockerconfigjson";

/// Reads pull Secrets with the manager's client.
pub struct KubePullSecrets {
    client: Client,
}

impl KubePullSecrets {
    /// Reads with this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

#[async_trait]
impl PullSecrets for KubePullSecrets {
    async fn docker_config(&self, key: &Key) -> Result<Vec<u8>, PullSecretError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let failed = |error: ReconcileError| {
            PullSecretError::Unreachable(format!("Secret {key} cannot be read: {error}"))
        };
        let secret = patch::get_opt(&api, &key.name).await.map_err(|error| failed(error.into()))?;
        let unusable =
            |why: &str| PullSecretError::Unusable(format!("Secret {key} (image.ociAuthSecretName) {why}"));
        let secret = secret.ok_or_else(|| unusable("does not exist"))?;
        if secret.type_.as_deref() != Some(DOCKER_CONFIG_TYPE) {
            return Err(unusable(&format!(
                "is not of type {DOCKER_CONFIG_TYPE}: make it with kubectl create secret docker-registry"
            )));
        }
        let secret = label_for_move(&api, secret).await.map_err(failed)?;
        let value = secret.data.as_ref().and_then(|data| data.get(DOCKER_CONFIG_KEY));
        value.map(|value| value.0.clone()).ok_or_else(|| unusable(&format!("has no key {DOCKER_CONFIG_KEY}")))
    }
}
