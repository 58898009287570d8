//! The project's own programs: the manager and the simulator.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::process::find_on_path;

/// A program of this project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `ferric`
    Manager,
    /// `ferric-sim`
    Simulator,
}

impl Program {
    /// The variable that names another file to run.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Self::Manager => "FERRIC_BIN",
            Self::Simulator => "FERRIC_SIM_BIN",
        }
    }

    /// The file's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Manager => "ferric",
            Self::Simulator => "ferric-sim",
        }
    }

    /// The package that makes it.
    fn package(self) -> &'static str {
        match self {
            Self::Manager => "ferric",
            Self::Simulator => "ferric-simulator",
        }
    }
}

/// The path of a program: what its variable names, else what lies beside the running program, else built by cargo.
pub async fn ensure(program: Program) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(program.variable()).filter(|value| !value.is_empty()) {
        let path = PathBuf::from(given);
        return match path.is_file() {
            true => Ok(path),
            false => Err(Error::Assets(format!(
                "{} names {}, which is no file",
                program.variable(),
                path.display()
            ))),
        };
    }
    let own = std::env::current_exe().map_err(Error::file("find", Path::new("the running program")))?;
    let folder = beside(&own);
    if let Some(path) =
        folder.as_ref().map(|folder| folder.join(program.name())).filter(|path| path.is_file())
    {
        return Ok(path);
    }
    build(program, folder.as_deref()).await
}

/// The folder of cargo's finished programs; tests run one below it, in `deps`.
fn beside(own: &Path) -> Option<PathBuf> {
    let folder = own.parent()?;
    match folder.file_name() {
        Some(name) if name == "deps" => folder.parent().map(Path::to_path_buf),
        _ => Some(folder.to_path_buf()),
    }
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

async fn build(program: Program, folder: Option<&Path>) -> Result<PathBuf> {
    let missing = |what: &str| {
        Error::Assets(format!(
            "{} is nowhere and {what}: build it with `cargo build -p {}`, or set {} to its path",
            program.name(),
            program.package(),
            program.variable()
        ))
    };
    let cargo = std::env::var_os("CARGO")
        .map(PathBuf::from)
        .or_else(|| find_on_path("cargo"))
        .ok_or_else(|| missing("`cargo` is not on the PATH"))?;
    let release = folder.and_then(Path::file_name).is_some_and(|name| name == "release");
    let target = folder.and_then(Path::parent).ok_or_else(|| missing("the target folder is unknown"))?;
    eprintln!("test bed: building {} with cargo, some minutes if nothing is built yet", program.name());
    let begin = Instant::now();
    let mut command = tokio::process::Command::new(cargo);
    command.current_dir(workspace()).args([
        "build",
        "--locked",
        "-p",
        program.package(),
        "--bin",
        program.name(),
    ]);
    command.arg("--target-dir").arg(target).args(release.then_some("--release"));
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| Error::Spawn { name: "cargo".to_owned(), program: "cargo".to_owned(), source })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        return Err(Error::Build {
            binary: program.name().to_owned(),
            status: output.status.to_string(),
            output: lines[lines.len().saturating_sub(30)..].join("\n"),
        });
    }
    eprintln!("test bed: {} took {} s", program.name(), begin.elapsed().as_secs());
    let path = target.join(if release { "release" } else { "debug" }).join(program.name());
    if path.is_file() { Ok(path) } else { Err(missing("cargo did not make it where it was looked for")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn programs_lie_beside_the_running_one_or_above_a_test() {
        let folder = |path: &str| beside(Path::new(path)).unwrap();
        assert_eq!(folder("/t/debug/ferric-testbed"), Path::new("/t/debug"));
        assert_eq!(folder("/t/debug/deps/e2e_host-0123"), Path::new("/t/debug"));
    }

    #[test]
    fn the_workspace_is_found() {
        assert!(workspace().join("crates/testbed/Cargo.toml").is_file());
    }
}
