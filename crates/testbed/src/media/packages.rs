//! Debian packages, fetched with the machine's own apt into the user's cache folder and unpacked there. Nothing is
//! installed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::assets::Progress;
use crate::error::{Error, Result};
use crate::process::find_on_path;

/// A package as apt offers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// What it depends on; not written down.
    #[serde(skip)]
    pub(super) depends: String,
    #[serde(skip)]
    size: u64,
}

/// Finds and unpacks packages.
pub(super) struct Packages {
    folder: PathBuf,
    progress: Progress,
}

impl Packages {
    /// Keeps packages below `folder`.
    pub(super) fn new(folder: PathBuf, progress: Progress) -> Result<Self> {
        for (program, package) in [("apt-cache", "apt"), ("apt-get", "apt"), ("dpkg-deb", "dpkg")] {
            if find_on_path(program).is_none() {
                return Err(Error::Assets(format!(
                    "{program} is not on the PATH: the agent image is made from Debian packages, on Debian or what \
                     comes of it (package {package})"
                )));
            }
        }
        std::fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        Ok(Self { folder, progress })
    }

    /// What apt offers under this name; `None` if it offers nothing.
    pub(super) fn find(&self, name: &str) -> Result<Option<Package>> {
        let output = output(Command::new("apt-cache").args(["show", "--no-all-versions", name]))?;
        Ok(output.status.success().then(|| parse(name, &String::from_utf8_lossy(&output.stdout))).flatten())
    }

    /// What apt offers under this name.
    pub(super) fn get(&self, name: &str) -> Result<Package> {
        self.find(name)?.ok_or_else(|| {
            Error::Assets(format!(
                "apt offers no package {name}: run `apt-get update` as root, and see that /etc/apt names a Debian suite"
            ))
        })
    }

    /// The folder of an unpacked package, which is fetched first if it is not there.
    pub(super) fn unpacked(&self, package: &Package) -> Result<PathBuf> {
        let Package { name, version, sha256, size, .. } = package;
        let folder = self.folder.join(format!("{name}_{}", &sha256[..sha256.len().min(16)]));
        if folder.is_dir() {
            return Ok(folder);
        }
        (self.progress)(&format!("agent image: fetching {name} {version}, {:.1} MB", *size as f64 / 1e6));
        let unfinished = tempfile::Builder::new()
            .prefix(".fetching-")
            .tempdir_in(&self.folder)
            .map_err(Error::file("create a folder in", &self.folder))?;
        run(Command::new("apt-get")
            .args(["-o", "APT::Sandbox::User=root", "-qq", "download"])
            .arg(format!("{name}={version}"))
            .current_dir(unfinished.path()))?;
        let file = std::fs::read_dir(unfinished.path())
            .map_err(Error::file("read", unfinished.path()))?
            .filter_map(std::result::Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension() == Some(OsStr::new("deb")))
            .ok_or_else(|| Error::Assets(format!("apt-get download left no file of {name}={version}")))?;
        let found = sha256_of(&file)?;
        if found != *sha256 {
            return Err(Error::malformed(
                format!("package {name} {version}"),
                format!("its SHA-256 is {found} and apt says {sha256}"),
            ));
        }
        let content = unfinished.path().join("content");
        run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&content))?;
        match std::fs::rename(&content, &folder) {
            // Somebody else was faster.
            Err(_) if folder.is_dir() => {}
            Err(error) => return Err(Error::file("create", &folder)(error)),
            Ok(()) => {}
        }
        Ok(folder)
    }
}

/// The first stanza of what `apt-cache show` prints, if it is of this package: a virtual one shows others.
fn parse(name: &str, text: &str) -> Option<Package> {
    let stanza = text.split("\n\n").next()?;
    let field = |key: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
    };
    if field("Package")? != name {
        return None;
    }
    let sha256 =
        field("SHA256").filter(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()))?;
    Some(Package {
        name: name.to_owned(),
        version: field("Version")?,
        sha256,
        depends: field("Depends").unwrap_or_default(),
        size: field("Size").and_then(|size| size.parse().ok()).unwrap_or(0),
    })
}

/// SHA-256 of a file, in hexadecimal.
pub(super) fn sha256_of(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(Error::file("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).map_err(Error::file("read", path))? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Runs a program to its end; an error carries the end of what it printed.
pub(super) fn run(command: &mut Command) -> Result<Output> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(output);
    }
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.trim_end().lines().collect();
    Err(Error::Command {
        command: shown(command),
        status: output.status.to_string(),
        stderr: lines[lines.len().saturating_sub(20)..].join("\n"),
    })
}

fn output(command: &mut Command) -> Result<Output> {
    command.env("LC_ALL", "C").stdin(std::process::Stdio::null()).output().map_err(|source| Error::Spawn {
        name: command.get_program().to_string_lossy().into_owned(),
        program: shown(command),
        source,
    })
}

fn shown(command: &Command) -> String {
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(command.get_program().to_string_lossy().into_owned())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_apt_shows() {
        let hash = "ab".repeat(32);
        let text = format!(
            "Package: linux-image-amd64\nVersion: 6.1.192-2\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n\
             Size: 1480\nSHA256: {hash}\nDescription: x\n\nPackage: other\nVersion: 1\n"
        );
        let package = parse("linux-image-amd64", &text).unwrap();
        assert_eq!(
            (package.version.as_str(), package.sha256.as_str(), package.size),
            ("6.1.192-2", hash.as_str(), 1480)
        );
        assert_eq!(package.depends, "linux-image-6.1.0-56-amd64 (= 6.1.192-2)");
        assert_eq!(parse("another", &text), None);
        assert_eq!(parse("linux-image-amd64", &text.replace(&hash, "short")), None);
        assert_eq!(parse("linux-image-amd64", ""), None);
    }
}
