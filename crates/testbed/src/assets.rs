//! The programs that a bed runs: where they are, and how they are built when they are nowhere.
//!
//! Looked for in `FERRIC_ASSETS`, then `KUBEBUILDER_ASSETS`, then the user's cache folder. What is in none of them is
//! built from the pinned Go modules of this crate (`go/*/go.mod`, `go.sum`) into the cache folder, whose name holds a
//! hash of those two files, so that a changed pin is a new folder and an old build is never taken for a new one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::process::find_on_path;

/// The Go modules from which programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Module {
    /// `go/etcd`
    Etcd,
    /// `go/kubernetes`
    Kubernetes,
    /// `go/cluster-api`
    ClusterApi,
    /// `go/fakekubelet`, whose source is in this crate.
    FakeKubelet,
    /// `go/registry`
    Registry,
}

impl Module {
    /// The folder's name under `go/`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Kubernetes => "kubernetes",
            Self::ClusterApi => "cluster-api",
            Self::FakeKubelet => "fakekubelet",
            Self::Registry => "registry",
        }
    }

    /// The files that decide what is built, in the order in which they are hashed.
    fn hashed_files(self) -> &'static [&'static str] {
        match self {
            Self::FakeKubelet => &["go.mod", "go.sum", "main.go"],
            _ => &["go.mod", "go.sum"],
        }
    }

    /// Variables set at link time: what the programs answer when asked for their version.
    fn variables(self) -> &'static str {
        match self {
            Self::Etcd | Self::FakeKubelet | Self::Registry => "",
            Self::Kubernetes => concat!(
                "-X k8s.io/component-base/version.gitVersion=v1.36.3 ",
                "-X k8s.io/component-base/version.gitMajor=1 ",
                "-X k8s.io/component-base/version.gitMinor=36 ",
                "-X k8s.io/component-base/version.gitTreeState=archive ",
                "-X k8s.io/component-base/version.gitCommit=unknown",
            ),
            Self::ClusterApi => "-X sigs.k8s.io/cluster-api/version.gitVersion=v1.14.2",
        }
    }
}

/// The Kubernetes version of the programs.
pub const KUBERNETES_VERSION: &str = "v1.36.3";
/// The Cluster API version of the programs.
pub const CLUSTER_API_VERSION: &str = "v1.14.2";

/// A program that a bed can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Binary {
    /// etcd
    Etcd,
    /// kube-apiserver
    KubeApiserver,
    /// kubectl
    Kubectl,
    /// The core manager of Cluster API.
    CapiCore,
    /// The kubeadm bootstrap manager of Cluster API.
    CapiKubeadmBootstrap,
    /// The kubeadm control-plane manager of Cluster API.
    CapiKubeadmControlPlane,
    /// clusterctl
    Clusterctl,
    /// kube-controller-manager
    KubeControllerManager,
    /// kubeadm
    Kubeadm,
    /// kubelet, for the operating system of virtual servers.
    Kubelet,
    /// kube-scheduler
    KubeScheduler,
    /// The port-forward end of a kubelet, without the kubelet.
    FakeKubelet,
    /// The registry of the distribution project, for OCI artifacts.
    Registry,
}

impl Binary {
    /// Every program, in the order in which building them makes most use of the compiler's cache.
    pub const ALL: [Self; 13] = [
        Self::Etcd,
        Self::KubeApiserver,
        Self::Kubectl,
        Self::CapiCore,
        Self::CapiKubeadmBootstrap,
        Self::CapiKubeadmControlPlane,
        Self::Clusterctl,
        Self::KubeControllerManager,
        Self::Kubeadm,
        Self::Kubelet,
        Self::KubeScheduler,
        Self::FakeKubelet,
        Self::Registry,
    ];

    /// The file's name.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The module it is built from.
    pub fn module(self) -> Module {
        self.facts().1
    }

    fn package(self) -> &'static str {
        self.facts().2
    }

    /// About how long building takes on two cores with nothing in the compiler's cache.
    pub fn estimate_seconds(self) -> u64 {
        self.facts().3
    }

    fn facts(self) -> (&'static str, Module, &'static str, u64) {
        use Module::{ClusterApi, Etcd, FakeKubelet, Kubernetes, Registry};
        match self {
            Self::Etcd => ("etcd", Etcd, "go.etcd.io/etcd/server/v3", 70),
            Self::KubeApiserver => {
                ("kube-apiserver", Kubernetes, "k8s.io/kubernetes/cmd/kube-apiserver", 310)
            }
            Self::Kubectl => ("kubectl", Kubernetes, "k8s.io/kubernetes/cmd/kubectl", 40),
            Self::CapiCore => ("capi-core", ClusterApi, "sigs.k8s.io/cluster-api/core", 165),
            Self::CapiKubeadmBootstrap => {
                ("capi-kubeadm-bootstrap", ClusterApi, "sigs.k8s.io/cluster-api/bootstrap/kubeadm", 10)
            }
            Self::CapiKubeadmControlPlane => {
                ("capi-kubeadm-control-plane", ClusterApi, "sigs.k8s.io/cluster-api/controlplane/kubeadm", 10)
            }
            Self::Clusterctl => ("clusterctl", ClusterApi, "sigs.k8s.io/cluster-api/cmd/clusterctl", 15),
            Self::KubeControllerManager => {
                ("kube-controller-manager", Kubernetes, "k8s.io/kubernetes/cmd/kube-controller-manager", 95)
            }
            Self::Kubeadm => ("kubeadm", Kubernetes, "k8s.io/kubernetes/cmd/kubeadm", 20),
            Self::Kubelet => ("kubelet", Kubernetes, "k8s.io/kubernetes/cmd/kubelet", 30),
            Self::KubeScheduler => ("kube-scheduler", Kubernetes, "k8s.io/kubernetes/cmd/kube-scheduler", 10),
            Self::FakeKubelet => ("fakekubelet", FakeKubelet, ".", 30),
            Self::Registry => {
                ("registry", Registry, "github.com/distribution/distribution/v3/cmd/registry", 110)
            }
        }
    }
}

impl std::fmt::Display for Binary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Receives one line at a time about work that takes long.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// Finds programs, and builds those that are nowhere.
#[derive(Clone)]
pub struct Assets {
    given: Vec<PathBuf>,
    cache: PathBuf,
    sources: PathBuf,
    go: Option<PathBuf>,
    progress: Progress,
}

impl std::fmt::Debug for Assets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assets")
            .field("given", &self.given)
            .field("cache", &self.cache)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

impl Assets {
    /// Takes the folders from the environment: `FERRIC_ASSETS`, `KUBEBUILDER_ASSETS`, `XDG_CACHE_HOME` or `HOME`, and
    /// `FERRIC_TESTBED_GO` for the Go modules. Progress goes to standard error.
    pub fn from_env() -> Result<Self> {
        let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let cache = folder("XDG_CACHE_HOME")
            .or_else(|| folder("HOME").map(|home| home.join(".cache")))
            .ok_or_else(|| Error::Assets("no cache folder: set HOME or XDG_CACHE_HOME".to_owned()))?;
        let sources = folder("FERRIC_TESTBED_GO")
            .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/go")));
        Ok(Self {
            given: ["FERRIC_ASSETS", "KUBEBUILDER_ASSETS"].into_iter().filter_map(folder).collect(),
            cache: cache.join("ferric/assets"),
            sources,
            go: find_on_path("go"),
            progress: Arc::new(|line| eprintln!("{line}")),
        })
    }

    /// Sends progress somewhere else.
    #[must_use]
    pub fn with_progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// The path of a program that is already there, or `None`.
    pub fn find(&self, binary: Binary) -> Result<Option<PathBuf>> {
        if let Some(path) = self.find_given(binary.name()) {
            return Ok(Some(path));
        }
        let path = self.module_cache(binary.module())?.join(binary.name());
        Ok(is_program(&path).then_some(path))
    }

    /// The path of a program, which is built first if it is nowhere.
    pub async fn ensure(&self, binary: Binary) -> Result<PathBuf> {
        let mut paths = self.ensure_all(&[binary]).await?;
        paths.pop().ok_or_else(|| Error::Assets(format!("{binary} was not resolved")))
    }

    /// The paths of several programs, in the order asked for; those that are nowhere are built first.
    pub async fn ensure_all(&self, binaries: &[Binary]) -> Result<Vec<PathBuf>> {
        let assets = self.clone();
        let binaries = binaries.to_vec();
        tokio::task::spawn_blocking(move || assets.ensure_blocking(&binaries))
            .await
            .map_err(|error| Error::Assets(format!("the builder ended early: {error}")))?
    }

    /// The folders that the environment names before the cache folder.
    pub(crate) fn given(&self) -> &[PathBuf] {
        &self.given
    }

    /// Makes `folder` hold a link to each program, so that it can be another process's `FERRIC_ASSETS`.
    pub async fn link_into(&self, folder: &Path, binaries: &[Binary]) -> Result<()> {
        let paths = self.ensure_all(binaries).await?;
        std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        for (binary, path) in binaries.iter().zip(paths) {
            link(&path, &folder.join(binary.name()))?;
        }
        Ok(())
    }

    /// The cache folder of a module: its name and the hash of what pins it.
    pub(crate) fn module_cache(&self, module: Module) -> Result<PathBuf> {
        let folder = self.source(module);
        let mut hash = Sha256::new();
        for name in module.hashed_files() {
            let path = folder.join(name);
            hash.update(std::fs::read(&path).map_err(|source| {
                Error::Assets(format!(
                    "cannot read {}: {source}; set FERRIC_TESTBED_GO to the folder crates/testbed/go of the project",
                    path.display()
                ))
            })?);
        }
        let hash = hex::encode(hash.finalize());
        Ok(self.cache.join(format!("{}-{}", module.folder(), &hash[..12])))
    }

    pub(crate) fn source(&self, module: Module) -> PathBuf {
        self.sources.join(module.folder())
    }

    /// A file of one of the folders given by the environment.
    fn find_given(&self, name: &str) -> Option<PathBuf> {
        self.given.iter().map(|folder| folder.join(name)).find(|path| is_program(path))
    }

    pub(crate) fn report(&self, line: &str) {
        (self.progress)(line);
    }

    fn ensure_blocking(&self, binaries: &[Binary]) -> Result<Vec<PathBuf>> {
        let missing = self.missing(binaries)?;
        if !missing.is_empty() {
            let go = self.go(missing[0].name())?;
            let _lock = self.lock()?;
            // Another builder may have made them while this one waited for the lock.
            self.build_all(go, &self.missing(binaries)?)?;
        }
        binaries
            .iter()
            .map(|&binary| {
                self.find(binary)?
                    .ok_or_else(|| Error::Assets(format!("{binary} vanished from the cache folder")))
            })
            .collect()
    }

    fn missing(&self, binaries: &[Binary]) -> Result<Vec<Binary>> {
        let mut missing = Vec::new();
        for &binary in binaries {
            if self.find(binary)?.is_none() && !missing.contains(&binary) {
                missing.push(binary);
            }
        }
        Ok(missing)
    }

    /// The Go tool chain, or an error that names the remedy for the missing `what`.
    pub(crate) fn go(&self, what: &str) -> Result<&Path> {
        self.go.as_deref().ok_or_else(|| {
            let folders = self.given.iter().chain([&self.cache]).map(|f| f.display().to_string());
            Error::GoMissing { binary: what.to_owned(), searched: folders.collect::<Vec<_>>().join(", ") }
        })
    }

    /// Keeps other builders out until the file is dropped.
    pub(crate) fn lock(&self) -> Result<File> {
        std::fs::create_dir_all(&self.cache).map_err(Error::file("create", &self.cache))?;
        let path = self.cache.join(".lock");
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        if file.try_lock().is_err() {
            self.report("test bed: waiting for another process that is building programs");
            file.lock().map_err(Error::file("lock", &path))?;
        }
        Ok(file)
    }

    fn build_all(&self, go: &Path, missing: &[Binary]) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        let estimate: u64 = missing.iter().map(|b| b.estimate_seconds()).sum();
        self.report(&format!(
            "test bed: building {} programs into {}, once; about {estimate} s on two cores",
            missing.len(),
            self.cache.display()
        ));
        for (index, &binary) in missing.iter().enumerate() {
            self.report(&format!(
                "test bed: [{}/{}] building {binary}, about {} s",
                index + 1,
                missing.len(),
                binary.estimate_seconds()
            ));
            let begin = Instant::now();
            self.build(go, binary)?;
            self.report(&format!("test bed: {binary} took {} s", begin.elapsed().as_secs()));
        }
        self.report(&format!("test bed: all programs built in {} s", begin.elapsed().as_secs()));
        Ok(())
    }

    fn build(&self, go: &Path, binary: Binary) -> Result<()> {
        let module = binary.module();
        let folder = self.module_cache(module)?;
        std::fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        let path = folder.join(binary.name());
        // Under its own name only when whole: a builder that is killed leaves no half program behind.
        let unfinished = folder.join(format!(".{}.unfinished", binary.name()));
        let output = std::process::Command::new(go)
            .current_dir(self.source(module))
            .env("CGO_ENABLED", "0")
            // A workspace file or flags of the developer must not change what is built.
            .env("GOWORK", "off")
            .args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags"])
            .arg(format!("-s -w {}", module.variables()))
            .arg("-o")
            .arg(&unfinished)
            .arg(binary.package())
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Error::Spawn {
                name: "the Go compiler".to_owned(),
                program: go.display().to_string(),
                source,
            })?;
        if !output.status.success() {
            let _ = std::fs::remove_file(&unfinished);
            let text = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = text.lines().collect();
            return Err(Error::Build {
                binary: binary.to_string(),
                status: output.status.to_string(),
                output: lines[lines.len().saturating_sub(20)..].join("\n"),
            });
        }
        std::fs::rename(&unfinished, &path).map_err(Error::file("rename to", &path))
    }
}

/// Makes `link` point at `target`, whatever it was before.
pub(crate) fn link(target: &Path, link: &Path) -> Result<()> {
    match std::fs::remove_file(link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("replace", link)(error))
        }
        _ => std::os::unix::fs::symlink(target, link).map_err(Error::file("link", link)),
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use super::*;

    fn program(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Assets in `folder`, and what they report. `go` writes its `-o` argument, or fails for `fakekubelet`.
    fn assets(folder: &Path) -> (Assets, Arc<Mutex<Vec<String>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let go = folder.join("go");
        program(
            &go,
            "#!/bin/sh\nwhile [ $# -gt 1 ]; do [ \"$1\" = -o ] && out=$2; shift; done\n\
             [ \"$1\" = . ] && { echo 'main.go:1: no such thing' >&2; exit 1; }\n\
             printf built >>\"$out\" && chmod +x \"$out\"\n",
        );
        let assets = Assets {
            given: vec![folder.join("given-1"), folder.join("given-2")],
            cache: folder.join("cache"),
            sources: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/go")),
            go: Some(go),
            progress: Arc::new(move |line| sink.lock().unwrap().push(line.to_owned())),
        };
        (assets, lines)
    }

    #[tokio::test]
    async fn a_given_folder_goes_before_the_cache_and_nothing_is_built() {
        let folder = tempfile::tempdir().unwrap();
        let (assets, lines) = assets(folder.path());
        let cached = assets.module_cache(Module::Etcd).unwrap().join("etcd");
        for path in [cached.clone(), folder.path().join("given-2/etcd"), folder.path().join("given-1/etcd")] {
            program(&path, "");
            assert_eq!(assets.ensure(Binary::Etcd).await.unwrap(), path);
        }
        assert!(lines.lock().unwrap().is_empty());
        // What cannot be run is not a program.
        let unusable = std::fs::Permissions::from_mode(0o644);
        for given in ["given-1/etcd", "given-2/etcd"] {
            std::fs::set_permissions(folder.path().join(given), unusable.clone()).unwrap();
        }
        assert_eq!(assets.ensure(Binary::Etcd).await.unwrap(), cached);
    }

    #[tokio::test]
    async fn two_builders_build_once_and_say_what_they_do() {
        let folder = tempfile::tempdir().unwrap();
        let (assets, lines) = assets(folder.path());
        let wanted = [Binary::Etcd, Binary::Kubectl];
        let (left, right) = tokio::join!(assets.ensure_all(&wanted), assets.ensure_all(&wanted));
        let paths = left.unwrap();
        assert_eq!(paths, right.unwrap());
        for path in paths {
            assert_eq!(std::fs::read_to_string(path).unwrap(), "built");
        }
        let lines = lines.lock().unwrap();
        assert!(lines.iter().any(|l| l.ends_with("[2/2] building kubectl, about 40 s")), "{lines:?}");
        assert_eq!(lines.iter().filter(|l| l.contains("] building ")).count(), 2, "{lines:?}");
    }

    #[tokio::test]
    async fn a_failed_build_shows_the_compiler_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (assets, _) = assets(folder.path());
        let error = assets.ensure(Binary::FakeKubelet).await.unwrap_err().to_string();
        assert!(error.contains("fakekubelet") && error.contains("no such thing"), "{error}");
        let cache = assets.module_cache(Module::FakeKubelet).unwrap();
        assert_eq!(std::fs::read_dir(cache).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn without_go_the_error_names_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let (mut assets, _) = assets(folder.path());
        assets.go = None;
        let error = assets.ensure(Binary::Etcd).await.unwrap_err().to_string();
        assert!(error.contains("install Go") && error.contains("FERRIC_ASSETS"), "{error}");
        assets.sources = folder.path().join("nowhere");
        let error = assets.ensure(Binary::Etcd).await.unwrap_err().to_string();
        assert!(error.contains("FERRIC_TESTBED_GO"), "{error}");
    }

    #[test]
    fn every_program_has_a_module_that_pins_it() {
        let folder = tempfile::tempdir().unwrap();
        let (assets, _) = assets(folder.path());
        for binary in Binary::ALL {
            let path = assets.source(binary.module()).join("go.mod");
            let pins = std::fs::read_to_string(path).unwrap();
            assert!(binary.module() == Module::FakeKubelet || pins.contains(binary.package()), "{binary}");
        }
    }
}
