//! The API server as the tests of admission see it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use ferric_testbed::{Bed, wait_until};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use serde_json::{Value, json};

pub(crate) const API_VERSION: &str = "infrastructure.cluster.x-k8s.io/v1alpha1";
/// How long a policy may take to be in force, on a busy machine.
pub(crate) const IN_FORCE: Duration = Duration::from_secs(60);

/// Why the API server refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The whole answer.
    pub(crate) text: String,
    /// How many causes it gave, not counting that it stopped there.
    pub(crate) sentences: usize,
}

impl Refusal {
    pub(crate) fn error(self) -> anyhow::Error {
        anyhow::Error::msg(self.text)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let causes = status.details.iter().flat_map(|details| &details.causes);
                let sentences = causes.filter(|cause| !cause.message.contains("were not checked")).count();
                Self { text: status.message, sentences }
            }
            other => Self { text: other.to_string(), sentences: 0 },
        }
    }
}

pub(crate) fn refused<T>(answer: Result<T, Refusal>, sentence: &str) -> Result<()> {
    match answer {
        Ok(_) => bail!("accepted; expected the refusal {sentence:?}"),
        Err(refusal) if refusal.text.contains(sentence) => Ok(()),
        Err(refusal) => bail!("expected the refusal {sentence:?}, got {:?}", refusal.text),
    }
}

pub(crate) async fn patch(
    api: &Api<DynamicObject>,
    name: &str,
    body: Value,
) -> Result<DynamicObject, Refusal> {
    api.patch(name, &PatchParams::default(), &Patch::Merge(body)).await.map_err(Refusal::from)
}

pub(crate) fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

pub(crate) fn host(name: &str, spec: Value) -> Value {
    object("BareMetalHost", name, spec)
}

/// The API server as somebody sees it.
pub(crate) struct Door {
    /// Speaks for that somebody.
    pub(crate) client: Client,
}

impl Door {
    pub(crate) fn api(&self, kind: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("infrastructure.cluster.x-k8s.io", "v1alpha1", kind);
        let plural = plural(&kind.kind.to_lowercase());
        Api::namespaced_with(
            self.client.clone(),
            "default",
            &ApiResource::from_gvk_with_plural(&kind, &plural),
        )
    }

    async fn send(&self, manifest: &Value, dry_run: bool) -> Result<DynamicObject, Refusal> {
        let kind = manifest["kind"].as_str().unwrap_or_default();
        let object: DynamicObject = serde_json::from_value(manifest.clone()).unwrap();
        let params = PostParams { dry_run, ..PostParams::default() };
        self.api(kind).create(&params, &object).await.map_err(Refusal::from)
    }

    /// Asks whether `manifest` would be accepted.
    pub(crate) async fn try_create(&self, manifest: &Value) -> Result<DynamicObject, Refusal> {
        self.send(manifest, true).await
    }

    pub(crate) async fn create(&self, manifest: &Value) -> Result<DynamicObject> {
        self.send(manifest, false).await.map_err(Refusal::error)
    }
}

/// A control plane with the CustomResourceDefinitions as they are shipped.
pub(crate) async fn bed() -> Result<Bed> {
    let bed = Bed::builder().start().await?;
    bed.kubectl(["apply", "--server-side", "-f", &text(&repository("crds/"))]).await?;
    bed.kubectl(["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]).await?;
    Ok(bed)
}

/// The manager's ServiceAccount, with the rights on hosts that it needs here, and its own token.
pub(crate) async fn service_account(bed: &Bed, namespace: &str) -> Result<Door> {
    let name = "ferric-manager";
    bed.kubectl(["create", "namespace", namespace]).await?;
    bed.kubectl(["create", "serviceaccount", name, "-n", namespace]).await?;
    let role = format!("hosts-of-{namespace}");
    let hosts = "--resource=baremetalhosts.infrastructure.cluster.x-k8s.io";
    bed.kubectl(["create", "clusterrole", &role, "--verb=get,patch,update", hosts]).await?;
    let (role, account) = (format!("--clusterrole={role}"), format!("--serviceaccount={namespace}:{name}"));
    bed.kubectl(["create", "clusterrolebinding", &format!("hosts-of-{namespace}"), &role, &account]).await?;
    let kubeconfig = Kubeconfig::read_from(bed.service_account_kubeconfig(namespace, name).await?)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let door = Door { client: Client::try_from(config)? };
    wait_until("the rights of the manager", IN_FORCE, async || {
        let api = door.api("BareMetalHost");
        match api.get_opt("nobody").await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    Ok(door)
}

pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn plural(kind: &str) -> String {
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    }
}
