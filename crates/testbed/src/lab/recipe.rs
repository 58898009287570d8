//! Operating systems for virtual servers, each made once by a script of its own and kept in the cache folder under a hash
//! of whatever decides about it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::tools::lock;
use crate::error::{Error, Result};

const LIMIT: Duration = Duration::from_secs(1800);
/// It is made anew after this time: packages age.
const MAX_AGE: Duration = Duration::from_secs(30 * 86_400);

/// How an image is made: `bash SCRIPT WORK OUT ARGUMENTS…`.
#[derive(Debug)]
pub(super) struct Recipe<'a> {
    /// Its name: the beginning of the folder's.
    pub(super) name: &'static str,
    /// The script.
    pub(super) script: &'static str,
    /// What else decides about the image.
    pub(super) pins: &'a [u8],
    /// A file that it makes.
    pub(super) result: &'static str,
    /// What is said about how long it takes.
    pub(super) duration: &'static str,
}

impl Recipe<'_> {
    /// The folder of what is made, if it is there and not too old.
    pub(super) fn find(&self) -> Result<Option<PathBuf>> {
        let folder = self.folder()?;
        let file = folder.join(self.result);
        let young = file.metadata().and_then(|found| found.modified());
        let young = young.is_ok_and(|made| made.elapsed().is_ok_and(|age| age < MAX_AGE));
        // Inside a lab there is no network: an old one is better than none.
        let usable = young || (super::world::inside().is_some() && file.is_file());
        Ok(usable.then_some(folder))
    }

    fn folder(&self) -> Result<PathBuf> {
        let mut hash = Sha256::new();
        hash.update(self.script);
        hash.update(self.pins);
        let hash = hex::encode(hash.finalize());
        Ok(super::cache()?.join(format!("{}-{}", self.name, &hash[..12])))
    }

    /// Makes it, unless somebody else has meanwhile. One at a time.
    pub(super) async fn make(&self, arguments: &[PathBuf]) -> Result<PathBuf> {
        let (begin, cache, folder) = (Instant::now(), super::cache()?, self.folder()?);
        std::fs::create_dir_all(&cache).map_err(Error::file("create", &cache))?;
        let _lock = lock(&cache.join(format!("{}.lock", self.name))).await?;
        if let Some(folder) = self.find()? {
            return Ok(folder);
        }
        eprintln!("lab: making the {} in {}, once; {}", self.name, folder.display(), self.duration);
        let work = tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(&cache)
            .map_err(Error::file("create a folder in", &cache))?;
        let out = work.path().join("out");
        self.run(work.path(), &out, arguments).await?;
        self.remove_older(&cache);
        std::fs::rename(&out, &folder).map_err(Error::file("rename to", &folder))?;
        eprintln!("lab: the {} took {} s", self.name, begin.elapsed().as_secs());
        Ok(folder)
    }

    async fn run(&self, work: &Path, out: &Path, arguments: &[PathBuf]) -> Result<()> {
        let (script, log) = (work.join("build.sh"), work.join("log"));
        std::fs::write(&script, self.script).map_err(Error::file("write", &script))?;
        let open = || {
            std::fs::File::options().create(true).append(true).open(&log).map_err(Error::file("open", &log))
        };
        let given: Vec<OsString> = arguments.iter().map(|path| path.clone().into_os_string()).collect();
        let mut command = tokio::process::Command::new("bash");
        command.arg(&script).arg(work).arg(out).args(given);
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?).kill_on_drop(true);
        let what = || format!("the build of the {}", self.name);
        let spawned = command.spawn();
        let mut child =
            spawned.map_err(|source| Error::Spawn { name: what(), program: "bash".to_owned(), source })?;
        let Ok(status) = tokio::time::timeout(LIMIT, child.wait()).await else {
            let last = last_lines(&log);
            return Err(Error::Timeout { what: what(), limit: LIMIT, last, detail: String::new() });
        };
        let status = status.map_err(Error::file("wait for", &script))?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::Build {
                binary: format!("the {}", self.name),
                status: status.to_string(),
                output: last_lines(&log),
            }),
        }
    }

    /// Images of recipes that are no more; each may be a gigabyte.
    fn remove_older(&self, cache: &Path) {
        let entries = std::fs::read_dir(cache).map(|found| found.flatten().collect());
        for entry in entries.unwrap_or_else(|_| Vec::new()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("{}-", self.name)) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
