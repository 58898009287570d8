//! Requests of the manager, from the audit log of the API server.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::Result;

const USER: &str = "system:serviceaccount:ferric-system:ferric-manager";
/// The manager has come to rest when it sent no request (but for its lease) for this long. Longer than it holds back
/// reports of what passes.
const QUIET: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(120);

/// Requests by verb and resource, such as `patch baremetalhosts/status`. Answered with an error ones count as well.
pub type Requests = BTreeMap<String, u64>;

/// Reads an audit log on from where it was left.
pub struct Audit {
    path: PathBuf,
    offset: u64,
    counted: Requests,
    /// Answers by status, other than success.
    refused: Requests,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    stage: String,
    verb: String,
    user: User,
    object_ref: Option<Object>,
    response_status: Option<Status>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
struct Object {
    resource: Option<String>,
    subresource: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    code: Option<u16>,
}

impl Audit {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), offset: 0, counted: Requests::new(), refused: Requests::new() }
    }

    /// Takes in what was written since. Returns how many requests that were, but for the lease and watches.
    fn read(&mut self) -> Result<u64> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut lines = BufReader::with_capacity(1 << 20, file);
        let mut line = String::new();
        let mut news = 0;
        loop {
            line.clear();
            let length = lines.read_line(&mut line)?;
            // The last line may be only half written.
            if length == 0 || !line.ends_with('\n') {
                return Ok(news);
            }
            self.offset += length as u64;
            if !line.contains(USER) {
                continue;
            }
            let entry: Entry = serde_json::from_str(&line)?;
            if entry.user.username == USER {
                news += self.take(&entry);
            }
        }
    }

    fn take(&mut self, entry: &Entry) -> u64 {
        let watch = entry.verb == "watch";
        // A watch is counted when it begins, everything else when it ends.
        if (entry.stage == "ResponseStarted") != watch || entry.stage == "Panic" {
            return 0;
        }
        let object = entry.object_ref.as_ref();
        let resource = object.and_then(|o| o.resource.as_deref()).unwrap_or("other");
        let name = match object.and_then(|o| o.subresource.as_deref()) {
            Some(subresource) => format!("{} {resource}/{subresource}", entry.verb),
            None => format!("{} {resource}", entry.verb),
        };
        *self.counted.entry(name.clone()).or_default() += 1;
        if let Some(code) = entry.response_status.as_ref().and_then(|s| s.code).filter(|code| *code >= 400) {
            *self.refused.entry(format!("{name}: {code}")).or_default() += 1;
        }
        u64::from(!watch && resource != "leases")
    }

    /// Forgets what was counted so far.
    pub fn begin(&mut self) -> Result<()> {
        self.read()?;
        self.counted.clear();
        self.refused.clear();
        Ok(())
    }

    /// What was counted since [`Audit::begin`]: all requests, and those that were refused.
    pub fn end(&mut self) -> Result<(Requests, Requests)> {
        self.read()?;
        Ok((std::mem::take(&mut self.counted), std::mem::take(&mut self.refused)))
    }

    /// Waits until the manager has come to rest.
    pub async fn quiet(&mut self) -> Result<()> {
        let begin = Instant::now();
        let mut last = begin;
        while last.elapsed() < QUIET {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if self.read()? > 0 {
                last = Instant::now();
            }
            if begin.elapsed() > LIMIT {
                eprintln!("    the manager did not come to rest within {} s", LIMIT.as_secs());
                return Ok(());
            }
        }
        Ok(())
    }
}
