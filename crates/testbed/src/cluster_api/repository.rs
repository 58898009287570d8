//! The local provider repository that `clusterctl` reads, and `clusterctl` itself.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::Provider;
use super::components::Components;
use crate::assets::CLUSTER_API_VERSION;
use crate::error::{Error, Result};
use crate::process;

const CLUSTERCTL_LIMIT: Duration = Duration::from_secs(300);

/// `clusterctl` with a configuration that needs no network.
#[derive(Clone, Debug)]
pub(crate) struct Clusterctl {
    program: PathBuf,
    home: PathBuf,
    config: PathBuf,
    kubeconfig: PathBuf,
}

/// A release folder of an infrastructure provider.
#[derive(Debug)]
pub(super) struct Release {
    /// The provider's name, such as `ferric`.
    pub(super) name: String,
    /// Its components file.
    pub(super) components: PathBuf,
}

impl Release {
    /// Finds `infrastructure-<name>/<version>/infrastructure-components.yaml` in `folder`. If there are several
    /// versions, the path of the last in order of name is given to clusterctl, which picks the newest by itself.
    pub(super) fn find(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize().map_err(Error::file("find the release folder", folder))?;
        for (name, provider) in subfolders(&folder)? {
            let Some(name) = name.strip_prefix("infrastructure-") else { continue };
            let versions = subfolders(&provider)?;
            let files = versions.iter().map(|(_, folder)| folder.join("infrastructure-components.yaml"));
            if let Some(components) = files.rev().find(|file| file.is_file()) {
                return Ok(Self { name: name.to_owned(), components });
            }
        }
        Err(Error::malformed(
            format!("the release folder {}", folder.display()),
            "it holds no infrastructure-<name>/<version>/infrastructure-components.yaml",
        ))
    }
}

/// Subfolders in order of name.
fn subfolders(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let read = |error| Error::file("read", folder)(error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        if entry.path().is_dir() {
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

impl Clusterctl {
    /// Writes the repository into `folder`; `webhook_ports` belong to [`Provider::ALL`].
    pub(super) fn prepare(
        folder: &Path,
        program: PathBuf,
        kubeconfig: &Path,
        components: &Components,
        webhook_ports: [u16; 3],
        ca_bundle: &str,
        release: Option<&Release>,
    ) -> Result<Self> {
        let mut providers = Vec::new();
        for (provider, port) in Provider::ALL.into_iter().zip(webhook_ports) {
            let version = folder.join("repository").join(provider.label()).join(CLUSTER_API_VERSION);
            std::fs::create_dir_all(&version).map_err(Error::file("create", &version))?;
            let path = version.join(provider.components_file());
            std::fs::write(&path, components.for_bed(provider, port, ca_bundle)?)
                .map_err(Error::file("write", &path))?;
            let metadata = version.join("metadata.yaml");
            std::fs::write(&metadata, components.metadata()?).map_err(Error::file("write", &metadata))?;
            providers.push(json!({ "name": provider.name(), "type": provider.kind(), "url": path }));
        }
        providers.extend(release.map(|release| {
            json!({ "name": release.name, "type": "InfrastructureProvider", "url": release.components })
        }));
        let config = json!({
            "providers": providers,
            "cert-manager": { "externallyProvisioned": "true", "timeout": "60s" },
        });
        let text = serde_yaml_ng::to_string(&config)
            .map_err(|error| Error::malformed("the new clusterctl.yaml", error))?;
        // Where clusterctl looks for it by itself, below XDG_CONFIG_HOME.
        let path = folder.join("cluster-api/clusterctl.yaml");
        let parent = folder.join("cluster-api");
        std::fs::create_dir_all(&parent).map_err(Error::file("create", &parent))?;
        std::fs::write(&path, text).map_err(Error::file("write", &path))?;
        Ok(Self { program, home: folder.to_path_buf(), config: path, kubeconfig: kubeconfig.to_path_buf() })
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// The program.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The environment in which it works on the bed and nothing else.
    pub(crate) fn environment(&self) -> [(&'static str, &OsStr); 5] {
        [
            ("HOME", self.home.as_os_str()),
            ("XDG_CONFIG_HOME", self.home.as_os_str()),
            ("KUBECONFIG", self.kubeconfig.as_os_str()),
            ("GOPROXY", OsStr::new("off")),
            ("CLUSTERCTL_DISABLE_VERSIONCHECK", OsStr::new("true")),
        ]
    }

    /// Runs it and returns what it printed. `variables` are those of the templates.
    pub(crate) async fn run<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        variables: &[(&str, &str)],
    ) -> Result<String> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(args).envs(self.environment()).envs(variables.iter().copied());
        process::run(command, CLUSTERCTL_LIMIT).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_release_folder_gives_name_and_components() {
        let folder = tempfile::tempdir().unwrap();
        let error = Release::find(folder.path()).unwrap_err().to_string();
        assert!(error.contains("infrastructure-components.yaml"), "{error}");
        let version = folder.path().join("infrastructure-ferric/v0.1.0");
        std::fs::create_dir_all(&version).unwrap();
        std::fs::write(version.join("infrastructure-components.yaml"), "").unwrap();
        let release = Release::find(folder.path()).unwrap();
        assert_eq!(release.name, "ferric");
        assert!(release.components.is_absolute());
    }
}
