//! Programs from PyPI that tests speak to, each in an environment of its own in the user's cache folder.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// The Python of the environment that a package is installed in; installed when it is not there.
/// Fails with a sentence where Python makes no environments; a package that cannot be had is a panic.
pub fn with(package: &str, version: &str) -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME or XDG_CACHE_HOME")).join(".cache"),
        PathBuf::from,
    );
    let folder = cache.join("ferric/python");
    let home = folder.join(format!("{package}-{version}"));
    let (python, ready) = (home.join("bin/python"), home.join(".ready"));
    std::fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join(format!("{package}-{version}.lock"))).unwrap();
    lock.lock().unwrap();
    if !ready.exists() {
        // Past the capture of the test harness: this takes a while.
        let _ = writeln!(std::io::stderr(), "installing {package} {version} into {}", home.display());
        let _ = std::fs::remove_dir_all(&home);
        let made = Command::new("python3").args(["-m", "venv"]).arg(&home).output();
        if !made.is_ok_and(|output| output.status.success()) {
            return Err(format!("{package} needs: apt-get install python3-venv"));
        }
        let wanted = format!("{package}=={version}");
        let output = Command::new(&python).args(["-m", "pip", "install", "-q", &wanted]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        File::create(ready).unwrap();
    }
    Ok(python)
}
