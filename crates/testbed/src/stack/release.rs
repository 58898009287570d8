//! The release folder that `clusterctl` installs from: the one of `make release`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::assets::Binary;
use crate::bed::Bed;
use crate::error::{Error, Result};
use crate::process;
use crate::stack::programs::workspace;

/// Another release folder to install from.
const VARIABLE: &str = "FERRIC_RELEASE";
const MAKE_LIMIT: Duration = Duration::from_secs(60);
const CLUSTERCTL_LIMIT: Duration = Duration::from_secs(60);
/// What a release is made of, in the workspace.
const SOURCES: [&str; 5] = ["Makefile", "metadata.yaml", "crds", "clusterctl", "templates"];

/// The release folder: what `FERRIC_RELEASE` names, else `release` of the workspace, made anew when it is missing or
/// older than what it is made of.
pub async fn folder() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(given.into());
    }
    let root = workspace();
    let folder = root.join("release");
    if is_current(&root, &folder) {
        return Ok(folder);
    }
    // One maker at a time, also among tests that run side by side.
    let path = root.join("Makefile");
    let file = std::fs::File::open(&path).map_err(Error::file("open", &path))?;
    let lock = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
    let _lock =
        lock.map_err(|error| Error::malformed("the lock", error))?.map_err(Error::file("lock", &path))?;
    if !is_current(&root, &folder) {
        let mut command = tokio::process::Command::new("make");
        command.current_dir(&root).args(["--silent", "release"]);
        process::run(command, MAKE_LIMIT).await?;
    }
    Ok(folder)
}

fn is_current(root: &Path, release: &Path) -> bool {
    let made = oldest(release);
    let sources = SOURCES.iter().filter_map(|name| newest(&root.join(name))).max();
    made.is_some_and(|made| sources.is_none_or(|source| made >= source))
}

fn newest(path: &Path) -> Option<SystemTime> {
    times(path).into_iter().max()
}

fn oldest(path: &Path) -> Option<SystemTime> {
    times(path).into_iter().min()
}

/// When the files in a folder, or the file itself, were last changed.
fn times(path: &Path) -> Vec<SystemTime> {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().flat_map(|entry| times(&entry.path())).collect(),
        Err(_) => path.metadata().and_then(|found| found.modified()).into_iter().collect(),
    }
}

/// The version folder of the provider, such as `infrastructure-ferric/v0.1.0`.
pub fn version_folder(release: &Path) -> Result<PathBuf> {
    let pattern =
        || Error::malformed(format!("the release folder {}", release.display()), "it holds no version");
    let provider = release.join("infrastructure-ferric");
    let entries = std::fs::read_dir(&provider).map_err(Error::file("read", &provider))?;
    let versions = entries.flatten().map(|entry| entry.path());
    versions.filter(|path| path.join("infrastructure-components.yaml").is_file()).max().ok_or_else(pattern)
}

/// The components with their variables filled in, as `clusterctl` does it.
pub(super) async fn components(bed: &Bed, release: &Path) -> Result<String> {
    let file = version_folder(release)?.join("infrastructure-components.yaml");
    let mut command = tokio::process::Command::new(bed.assets().ensure(Binary::Clusterctl).await?);
    command.args(["generate", "yaml", "--from"]).arg(file);
    command.env("HOME", bed.dir()).env("XDG_CONFIG_HOME", bed.dir());
    command.env("GOPROXY", "off").env("CLUSTERCTL_DISABLE_VERSIONCHECK", "true");
    process::run(command, CLUSTERCTL_LIMIT).await
}
