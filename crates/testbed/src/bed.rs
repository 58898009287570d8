//! A management plane for tests, demo and benches, composed of as much as is asked for.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;
use tempfile::TempDir;

use crate::assets::{Assets, Binary};
use crate::cluster_api::{ClusterApi, Clusterctl};
use crate::control_plane::{ControlPlane, ControlPlaneSpec};
use crate::error::{Error, Result};
use crate::pki;
use crate::process::{self, Process};
use crate::workload::{EXTERNAL_CONTROL_PLANE, Workload};

const KUBECTL_LIMIT: Duration = Duration::from_secs(120);

/// Says what a [`Bed`] consists of.
#[derive(Debug, Default)]
pub struct BedBuilder {
    name: Option<String>,
    controller_manager: bool,
    scheduler: bool,
    scheduler_extender: Option<String>,
    disabled_admission: Vec<String>,
    audit_log: bool,
    release: Option<PathBuf>,
    cluster_api: bool,
    keep: bool,
    assets: Option<Assets>,
}

/// A running management plane. Dropping it ends its processes and removes its folder.
#[derive(Debug)]
pub struct Bed {
    // Before the control plane, so that clients are ended before their server.
    cluster_api: Option<ClusterApi>,
    control_plane: ControlPlane,
    assets: Assets,
    kubectl: Option<PathBuf>,
    folder: PathBuf,
    // Last, so that it is removed after all processes are gone.
    temporary: Option<TempDir>,
}

impl BedBuilder {
    /// Names the bed; the name is the context of its kubeconfigs. The default is `ferric`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Runs kube-controller-manager: garbage collection, namespaces, ServiceAccounts, role aggregation, CSRs.
    #[must_use]
    pub fn controller_manager(mut self, on: bool) -> Self {
        self.controller_manager = on;
        self
    }

    /// Runs kube-scheduler with its default profile.
    #[must_use]
    pub fn scheduler(mut self, on: bool) -> Self {
        self.scheduler = on;
        self
    }

    /// Gives kube-scheduler an extender: [`ControlPlaneSpec::scheduler_extender`].
    #[must_use]
    pub fn scheduler_extender(mut self, url: impl Into<String>) -> Self {
        self.scheduler_extender = Some(url.into());
        self
    }

    /// Turns off admission plugins of the apiserver, by name.
    #[must_use]
    pub fn without_admission<'a>(mut self, plugins: impl IntoIterator<Item = &'a str>) -> Self {
        self.disabled_admission.extend(plugins.into_iter().map(str::to_owned));
        self
    }

    /// Writes an audit log: [`Bed::audit_log`].
    #[must_use]
    pub fn audit_log(mut self, on: bool) -> Self {
        self.audit_log = on;
        self
    }

    /// Installs Cluster API and, from this release folder, the infrastructure provider
    /// (`infrastructure-<name>/<version>/infrastructure-components.yaml`), by the real `clusterctl init`, and runs the
    /// managers of Cluster API. The provider's own manager is for the caller to start. Brings kube-controller-manager.
    #[must_use]
    pub fn cluster_api(mut self, release: Option<PathBuf>) -> Self {
        self.cluster_api = release.is_some();
        self.release = release;
        self
    }

    /// Installs and runs Cluster API with its kubeadm providers, without an infrastructure provider.
    #[must_use]
    pub fn cluster_api_alone(mut self) -> Self {
        self.cluster_api = true;
        self
    }

    /// Leaves the bed's folder behind, with all logs. The variable `FERRIC_TESTBED_KEEP` does the same.
    #[must_use]
    pub fn keep(mut self, on: bool) -> Self {
        self.keep = on;
        self
    }

    /// Takes the programs from somewhere else than the environment says.
    #[must_use]
    pub fn assets(mut self, assets: Assets) -> Self {
        self.assets = Some(assets);
        self
    }

    /// Starts the bed; returns when all of it is ready.
    pub async fn start(self) -> Result<Bed> {
        let assets = match self.assets {
            Some(assets) => assets,
            None => Assets::from_env()?,
        };
        if self.cluster_api {
            // Before anything runs: building takes minutes.
            assets.ensure_all(&ClusterApi::BINARIES).await?;
        }
        let temporary = tempfile::Builder::new()
            .prefix("ferric-bed-")
            .tempdir()
            .map_err(Error::file("create a folder in", &std::env::temp_dir()))?;
        let keep = self.keep || std::env::var_os("FERRIC_TESTBED_KEEP").is_some_and(|v| !v.is_empty());
        let folder = temporary.path().to_path_buf();
        let temporary = if keep {
            assets.report(&format!("test bed: the folder {} stays", temporary.keep().display()));
            None
        } else {
            Some(temporary)
        };
        let mut spec = ControlPlaneSpec::new(self.name.unwrap_or_else(|| "ferric".to_owned()));
        // Without role aggregation the managers of Cluster API have no rights.
        spec.controller_manager = self.controller_manager || self.cluster_api;
        spec.scheduler = self.scheduler;
        spec.scheduler_extender = self.scheduler_extender;
        spec.disabled_admission = self.disabled_admission;
        spec.audit_log = self.audit_log;
        let mut control_plane = ControlPlane::start(&spec, &assets, &folder).await?;
        control_plane.wait_for_controllers().await?;
        let cluster_api = if self.cluster_api {
            Some(ClusterApi::start(&control_plane, &assets, self.release.as_deref()).await?)
        } else {
            None
        };
        let kubectl = assets.find(Binary::Kubectl)?;
        Ok(Bed { cluster_api, control_plane, assets, kubectl, folder, temporary })
    }
}

impl Bed {
    /// Starts to describe a bed; without more it is etcd and kube-apiserver.
    pub fn builder() -> BedBuilder {
        BedBuilder::default()
    }

    /// The bed's folder: data, logs, credentials. Tests may put their own files there.
    pub fn dir(&self) -> &Path {
        &self.folder
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        self.control_plane.kubeconfig()
    }

    /// A client with the rights of an administrator.
    pub fn client(&self) -> Client {
        self.control_plane.client()
    }

    /// The programs this bed uses.
    pub fn assets(&self) -> &Assets {
        &self.assets
    }

    /// The control plane itself.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The control plane itself, to restart parts of it.
    pub fn control_plane_mut(&mut self) -> &mut ControlPlane {
        &mut self.control_plane
    }

    /// The audit log, if one was asked for: a JSON object a line.
    pub fn audit_log(&self) -> Option<&Path> {
        self.control_plane.audit_log()
    }

    /// Writes a kubeconfig with a token of a ServiceAccount and returns its path.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        self.control_plane.service_account_kubeconfig(namespace, name).await
    }

    /// Runs `kubectl` as administrator and returns what it printed; a failure is an error with its messages.
    pub async fn kubectl<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<String> {
        let program = match &self.kubectl {
            Some(path) => path.clone(),
            None => self.assets.ensure(Binary::Kubectl).await?,
        };
        let mut command = tokio::process::Command::new(program);
        command.args(args).env("HOME", &self.folder).env("KUBECONFIG", self.kubeconfig());
        process::run(command, KUBECTL_LIMIT).await
    }

    /// Runs `clusterctl` on this bed and returns what it printed. `variables` are those of the templates.
    pub async fn clusterctl<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        variables: &[(&str, &str)],
    ) -> Result<String> {
        self.installation()?.run(args, variables).await
    }

    /// The configuration of this bed's `clusterctl`, if it has Cluster API.
    pub fn clusterctl_config(&self) -> Option<&Path> {
        self.cluster_api.as_ref().map(|capi| capi.clusterctl().config())
    }

    /// The managers of Cluster API, to be watched, ended or started again. Empty without Cluster API.
    pub fn cluster_api_managers(&mut self) -> &mut [Process] {
        self.cluster_api.as_mut().map(ClusterApi::managers).unwrap_or_default()
    }

    /// Installs the stand-in control-plane kind `ExternalControlPlane` and lets Cluster API read it.
    pub async fn install_external_control_plane(&self) -> Result<()> {
        self.apply(EXTERNAL_CONTROL_PLANE).await?;
        let crd = "crd/externalcontrolplanes.controlplane.cluster.x-k8s.io";
        self.kubectl(["wait", "--for=condition=Established", "--timeout=30s", crd]).await?;
        Ok(())
    }

    /// Starts a workload control plane beside the bed, with its files in the bed's folder. End it before the bed.
    pub async fn start_workload(&self, name: &str) -> Result<Workload> {
        self.start_workload_of(&ControlPlaneSpec::new(name)).await
    }

    /// As [`Bed::start_workload`], of other parts, such as with a scheduler.
    pub async fn start_workload_of(&self, spec: &ControlPlaneSpec) -> Result<Workload> {
        let folder = self.folder.join(format!("workload-{}", spec.name));
        Workload::start(spec, &self.assets, &folder).await
    }

    /// Shell lines that make `kubectl` and `clusterctl` of a terminal work on this bed.
    pub fn shell_exports(&self) -> Vec<String> {
        let mut lines = vec![format!("export KUBECONFIG={}", self.kubeconfig().display())];
        let mut folders = Vec::new();
        folders.extend(self.kubectl.as_deref().and_then(Path::parent));
        if let Ok(clusterctl) = self.installation() {
            folders.extend(clusterctl.program().parent());
            let environment = clusterctl.environment();
            let needed = environment.iter().filter(|(name, _)| !["HOME", "KUBECONFIG"].contains(name));
            lines.extend(needed.map(|(name, value)| format!("export {name}={}", value.display())));
        }
        let path: String = folders.iter().map(|folder| format!("{}:", folder.display())).collect();
        lines.push(format!("export PATH={path}$PATH"));
        lines
    }

    fn installation(&self) -> Result<&Clusterctl> {
        let missing = || Error::Assets("this bed has no Cluster API: start it with `cluster_api`".to_owned());
        self.cluster_api.as_ref().map(ClusterApi::clusterctl).ok_or_else(missing)
    }

    /// Applies manifests, given as text, as administrator; returns what `kubectl apply` printed.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        let file = tempfile::Builder::new()
            .prefix("applied-")
            .suffix(".yaml")
            .tempfile_in(&self.folder)
            .map_err(Error::file("create a file in", &self.folder))?;
        pki::write_file(file.path(), manifests)?;
        let args = ["apply", "--server-side", "--force-conflicts", "-f"].map(OsStr::new);
        self.kubectl(args.into_iter().chain([file.path().as_os_str()])).await
    }

    /// The ids of its processes.
    pub fn pids(&self) -> Vec<u32> {
        let managers = self.cluster_api.iter().flat_map(ClusterApi::pids);
        self.control_plane.pids().into_iter().chain(managers).collect()
    }

    /// Leaves the folder behind, with all logs, when the bed ends.
    pub fn keep_folder(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let _ = temporary.keep();
        }
    }

    /// Ends all processes, in order, and removes the folder.
    pub async fn stop(mut self) {
        self.end();
    }

    /// Ends all processes, in order. The folder stays until the bed is dropped.
    pub fn end(&mut self) {
        if let Some(cluster_api) = &mut self.cluster_api {
            cluster_api.stop();
        }
        self.control_plane.stop();
    }
}
