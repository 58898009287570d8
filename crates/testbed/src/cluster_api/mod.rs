//! Cluster API on a control plane: installed by the real `clusterctl init`, its three managers running as plain
//! processes with the rights of their own ServiceAccounts.

mod components;
mod repository;

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use kube::api::ListParams;

use crate::assets::{Assets, Binary};
use crate::control_plane::ControlPlane;
use crate::error::{Error, Result};
use crate::pki::Usage;
use crate::ports::Port;
use crate::process::{self, Process, ProcessSpec, wait_until};
use components::Components;
pub(crate) use repository::Clusterctl;
use repository::Release;

const CERT_MANAGER: &str = include_str!("../../manifests/cert-manager.yaml");
const HEALTHY_LIMIT: Duration = Duration::from_secs(120);
const ROLES_LIMIT: Duration = Duration::from_secs(60);
const KUBECTL_LIMIT: Duration = Duration::from_secs(60);

/// The providers that come with Cluster API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    Core,
    KubeadmBootstrap,
    KubeadmControlPlane,
}

impl Provider {
    const ALL: [Self; 3] = [Self::Core, Self::KubeadmBootstrap, Self::KubeadmControlPlane];

    fn name(self) -> &'static str {
        match self {
            Self::Core => "cluster-api",
            Self::KubeadmBootstrap | Self::KubeadmControlPlane => "kubeadm",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Core => "CoreProvider",
            Self::KubeadmBootstrap => "BootstrapProvider",
            Self::KubeadmControlPlane => "ControlPlaneProvider",
        }
    }

    /// The provider's folder in a repository.
    fn label(self) -> &'static str {
        match self {
            Self::Core => "cluster-api",
            Self::KubeadmBootstrap => "bootstrap-kubeadm",
            Self::KubeadmControlPlane => "control-plane-kubeadm",
        }
    }

    fn components_file(self) -> &'static str {
        match self {
            Self::Core => "core-components.yaml",
            Self::KubeadmBootstrap => "bootstrap-components.yaml",
            Self::KubeadmControlPlane => "control-plane-components.yaml",
        }
    }

    /// Its folder in the Go module.
    fn source_folder(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::KubeadmBootstrap => "bootstrap/kubeadm",
            Self::KubeadmControlPlane => "controlplane/kubeadm",
        }
    }

    fn binary(self) -> Binary {
        match self {
            Self::Core => Binary::CapiCore,
            Self::KubeadmBootstrap => Binary::CapiKubeadmBootstrap,
            Self::KubeadmControlPlane => Binary::CapiKubeadmControlPlane,
        }
    }

    fn service_account(self) -> (&'static str, &'static str) {
        match self {
            Self::Core => ("capi-system", "capi-manager"),
            Self::KubeadmBootstrap => ("capi-kubeadm-bootstrap-system", "capi-kubeadm-bootstrap-manager"),
            Self::KubeadmControlPlane => {
                ("capi-kubeadm-control-plane-system", "capi-kubeadm-control-plane-manager")
            }
        }
    }

    fn feature_gates(self) -> &'static str {
        match self {
            Self::Core => "ClusterTopology=true,MachinePool=true",
            Self::KubeadmBootstrap | Self::KubeadmControlPlane => "ClusterTopology=true",
        }
    }
}

/// The running managers of Cluster API and the `clusterctl` that installed them.
#[derive(Debug)]
pub(crate) struct ClusterApi {
    clusterctl: Clusterctl,
    managers: Vec<Process>,
    _ports: Vec<Port>,
}

impl ClusterApi {
    /// Every program that is needed, so that they can be built before anything is started.
    pub(crate) const BINARIES: [Binary; 5] = [
        Binary::Kubectl,
        Binary::Clusterctl,
        Binary::CapiCore,
        Binary::CapiKubeadmBootstrap,
        Binary::CapiKubeadmControlPlane,
    ];

    /// Installs Cluster API and, if there is a release folder, its infrastructure provider, and starts Cluster API's managers.
    pub(crate) async fn start(
        control_plane: &ControlPlane,
        assets: &Assets,
        release: Option<&Path>,
    ) -> Result<Self> {
        let release = release.map(Release::find).transpose()?;
        let components = Components::ensure(assets).await?;
        let folder = control_plane.folder().join("cluster-api");
        std::fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;

        let serving = folder.join("serving");
        std::fs::create_dir_all(&serving).map_err(Error::file("create", &serving))?;
        let names = ["127.0.0.1".to_owned()];
        control_plane
            .ca()
            .issue("cluster-api-webhooks", None, &names, Usage::Server)?
            .write(&serving, "tls")?;
        let ca_bundle = STANDARD.encode(control_plane.ca().cert_pem());
        let webhooks = [Port::reserve()?, Port::reserve()?, Port::reserve()?];

        let clusterctl = Clusterctl::prepare(
            &folder,
            assets.ensure(Binary::Clusterctl).await?,
            control_plane.kubeconfig(),
            &components,
            webhooks.each_ref().map(Port::number),
            &ca_bundle,
            release.as_ref(),
        )?;
        stand_in_for_cert_manager(control_plane, assets, &folder).await?;
        let infrastructure = release.iter().flat_map(|release| ["--infrastructure", release.name.as_str()]);
        clusterctl.run(["init"].into_iter().chain(infrastructure), &[]).await?;
        wait_for_aggregated_roles(control_plane).await?;

        let mut ports: Vec<Port> = Vec::new();
        let mut managers = Vec::new();
        for (provider, webhook) in Provider::ALL.into_iter().zip(webhooks) {
            let health = Port::reserve()?;
            let spec = manager_spec(
                provider,
                &assets.ensure(provider.binary()).await?,
                control_plane,
                &folder,
                webhook.number(),
                health.number(),
            )
            .await?;
            managers.push((Process::spawn(spec)?, health.number()));
            ports.extend([webhook, health]);
        }
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .map_err(|error| Error::malformed("the client for health checks", error))?;
        let mut healthy = Vec::new();
        for (mut manager, port) in managers {
            manager
                .wait_ready("the manager to be healthy", HEALTHY_LIMIT, async || {
                    for path in ["healthz", "readyz"] {
                        let answer = client.get(format!("http://127.0.0.1:{port}/{path}")).send().await;
                        answer
                            .and_then(reqwest::Response::error_for_status)
                            .map_err(|error| format!("{path}: {error}"))?;
                    }
                    Ok(())
                })
                .await?;
            healthy.push(manager);
        }
        Ok(Self { clusterctl, managers: healthy, _ports: ports })
    }

    /// The `clusterctl` of this installation.
    pub(crate) fn clusterctl(&self) -> &Clusterctl {
        &self.clusterctl
    }

    /// The ids of the managers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.managers.iter().map(Process::pid).collect()
    }

    /// The managers, to be watched or ended.
    pub(crate) fn managers(&mut self) -> &mut [Process] {
        &mut self.managers
    }

    /// Ends the managers.
    pub(crate) fn stop(&mut self) {
        for manager in &mut self.managers {
            manager.kill();
        }
    }
}

async fn stand_in_for_cert_manager(
    control_plane: &ControlPlane,
    assets: &Assets,
    folder: &Path,
) -> Result<()> {
    let path = folder.join("cert-manager.yaml");
    std::fs::write(&path, CERT_MANAGER).map_err(Error::file("write", &path))?;
    let kubectl = assets.ensure(Binary::Kubectl).await?;
    for args in
        [["apply", "--server-side"].as_slice(), &["wait", "--for=condition=Established", "--timeout=30s"]]
    {
        let mut command = tokio::process::Command::new(&kubectl);
        command.args(args).arg("-f").arg(&path);
        command.env("KUBECONFIG", control_plane.kubeconfig()).env("HOME", folder);
        process::run(command, KUBECTL_LIMIT).await?;
    }
    Ok(())
}

/// The managers' rights come together in aggregated roles, which are empty until the controller manager fills them.
async fn wait_for_aggregated_roles(control_plane: &ControlPlane) -> Result<()> {
    let roles: Api<ClusterRole> = Api::all(control_plane.client());
    let ours = ListParams::default().labels("cluster.x-k8s.io/provider");
    wait_until("the aggregated roles of Cluster API to have rules", ROLES_LIMIT, async || {
        let list = roles.list(&ours).await.map_err(|error| error.to_string())?;
        let empty = list
            .items
            .into_iter()
            .find(|role| role.aggregation_rule.is_some() && role.rules.as_ref().is_none_or(Vec::is_empty));
        match empty {
            None => Ok(()),
            Some(role) => Err(format!("ClusterRole {} has none", role.metadata.name.unwrap_or_default())),
        }
    })
    .await
}

async fn manager_spec(
    provider: Provider,
    program: &Path,
    control_plane: &ControlPlane,
    folder: &Path,
    webhook_port: u16,
    health_port: u16,
) -> Result<ProcessSpec> {
    let (namespace, account) = provider.service_account();
    let kubeconfig: PathBuf = control_plane.service_account_kubeconfig(namespace, account).await?;
    let name = provider.binary().name();
    Ok(ProcessSpec::new(name, program, control_plane.folder().join(format!("{name}.log")))
        .flag("kubeconfig", kubeconfig)
        .flag("leader-elect", "false")
        .flag("webhook-port", webhook_port.to_string())
        .flag("webhook-cert-dir", folder.join("serving"))
        .flag("health-addr", format!("127.0.0.1:{health_port}"))
        .flag("diagnostics-address", "0")
        .flag("feature-gates", provider.feature_gates())
        .arg("-v=2")
        .env("POD_NAMESPACE", namespace)
        .env("POD_NAME", name)
        .env("POD_UID", "00000000-0000-4000-8000-000000000000"))
}

impl Assets {
    /// Renders the components of Cluster API into the cache folder, if they are not there.
    pub async fn ensure_components(&self) -> Result<()> {
        Components::ensure(self).await.map(drop)
    }

    /// Makes `folder` hold all that a bed needs, so that it can be another process's or machine's `FERRIC_ASSETS`.
    pub async fn link_all(&self, folder: &Path) -> Result<()> {
        self.link_into(folder, &Binary::ALL).await?;
        Components::ensure(self).await?.link_into(folder)
    }
}
