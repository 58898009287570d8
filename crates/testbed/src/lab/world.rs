//! A world of its own for a lab: new network, mount and process namespaces, in which everything of the lab runs.
//!
//! The program starts itself a second time inside. The namespaces have no name and belong to nobody but the processes in
//! them: when the first of those ends, in whatever way, the kernel ends the others, and interfaces, mounts and virtual
//! servers are gone. What can stay behind is a folder; it is named after its owner's process, and the next lab removes
//! those whose owner is no more.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Set inside, to the lab's folder.
const VARIABLE: &str = "FERRIC_LAB_WORLD";
/// File of a folder that stays on purpose.
const KEPT: &str = "kept";
const PREFIX: &str = "ferric-lab-";
const SCRIPT: &str = include_str!("world.sh");
const POLL: Duration = Duration::from_millis(100);

/// The lab's folder, if this process runs inside a lab.
#[must_use]
pub fn inside() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// How the program is started inside.
#[derive(Debug)]
pub struct Entrance {
    /// Arguments of this program.
    pub arguments: Vec<OsString>,
    /// Whether what it prints on standard output is shown.
    pub stdout: bool,
    /// How long it may take; the lab is ended after that.
    pub limit: Option<Duration>,
    /// Leaves the folder behind, with all logs, also when all went well.
    pub keep: bool,
}

/// Runs this program inside a new lab, until it ends or `stop` is set. Returns how it ended (`None`: it was stopped), and
/// its folder if that stays: after a failure, and where it is asked for.
pub fn run(entrance: &Entrance, stop: &AtomicBool) -> Result<(Option<ExitStatus>, Option<PathBuf>)> {
    let temporary = std::env::temp_dir();
    remove_leftovers(&temporary);
    let folder = tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", std::process::id()))
        .tempdir_in(&temporary)
        .map_err(Error::file("create a folder in", &temporary))?;
    let script = folder.path().join("world.sh");
    std::fs::write(&script, SCRIPT).map_err(Error::file("write", &script))?;
    let own = own_program()?;
    let mut command = Command::new("setpriv");
    command
        // The kernel ends the lab should this process be killed.
        .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--mount", "--pid", "--fork"])
        .args(["--kill-child=KILL", "--mount-proc", "--", "/bin/sh"])
        .arg(&script)
        .arg(folder.path())
        .arg(own)
        .args(&entrance.arguments)
        .env(VARIABLE, folder.path())
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null());
    if !entrance.stdout {
        command.stdout(Stdio::null());
    }
    // Ctrl-C at a terminal is for this process, which ends the lab.
    command.process_group(0);
    let spawned = command.spawn();
    let mut child = Guard(spawned.map_err(|source| Error::Spawn {
        name: "the lab".to_owned(),
        program: "setpriv".to_owned(),
        source,
    })?);
    write_door(folder.path(), child.0.id())?;
    let deadline = entrance.limit.map(|limit| (limit, Instant::now() + limit));
    let status = loop {
        let waited = child.0.try_wait().map_err(Error::file("wait for", Path::new("the lab")))?;
        if waited.is_some() {
            break waited;
        }
        if stop.load(Ordering::Relaxed) {
            break None;
        }
        if let Some((limit, _)) = deadline.filter(|(_, at)| Instant::now() >= *at) {
            drop(child);
            keep(folder);
            return Err(Error::Timeout {
                what: "the end of the lab".to_owned(),
                limit,
                last: "still running".to_owned(),
                detail: String::new(),
            });
        }
        std::thread::sleep(POLL);
    };
    drop(child);
    let failed = status.is_some_and(|status| !status.success());
    Ok((status, (failed || entrance.keep).then(|| keep(folder))))
}

/// Lets a folder stay, also when the next lab tidies up.
fn keep(folder: tempfile::TempDir) -> PathBuf {
    let path = folder.keep();
    let _ = std::fs::write(path.join(KEPT), "");
    path
}

/// This program's file; if it was built anew meanwhile, the new one.
fn own_program() -> Result<PathBuf> {
    let path = std::env::current_exe().map_err(Error::file("find", Path::new("the running program")))?;
    let replaced = path.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(replaced.filter(|_| !path.exists()).unwrap_or(path))
}

/// Ends the lab when this is dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a script with which a terminal gets in.
fn write_door(folder: &Path, pid: u32) -> Result<()> {
    let path = folder.join("enter");
    let text = format!(
        "#!/bin/sh\n# A shell, or the command that is given, inside the lab.\n\
         pid=$(cat /proc/{pid}/task/{pid}/children)\n\
         exec nsenter --target $pid --net --mount --pid -- \"${{@:-bash}}\"\n"
    );
    std::fs::write(&path, text).map_err(Error::file("write", &path))?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(Error::file("make executable", &path))
}

/// Removes the folders of labs whose owner is no more. What runs in a lab ends with its owner, so nothing uses them.
fn remove_leftovers(temporary: &Path) {
    let entries = std::fs::read_dir(temporary)
        .map(|entries| entries.flatten().collect())
        .unwrap_or_else(|_| Vec::new());
    for entry in entries {
        let name = entry.file_name();
        let owner = owner(&name.to_string_lossy());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
            && !entry.path().join(KEPT).exists()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The process that a folder is named after.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_names_its_owner() {
        assert_eq!(owner("ferric-lab-123-AbCd"), Some(123));
        assert_eq!(owner("ferric-lab-x-AbCd"), None);
        assert_eq!(owner("ferric-bed-123-AbCd"), None);
    }

    #[test]
    fn only_what_nobody_owns_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: String| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        // No process can have this id: it is beyond the kernel's largest.
        let gone = make(format!("{PREFIX}4194305-a"));
        let kept = make(format!("{PREFIX}4194306-a"));
        std::fs::write(kept.join(KEPT), "").unwrap();
        let own = make(format!("{PREFIX}{}-a", std::process::id()));
        let other = make("something-4194305-a".to_owned());
        remove_leftovers(folder.path());
        assert!(!gone.exists() && kept.exists() && own.exists() && other.exists());
    }
}
