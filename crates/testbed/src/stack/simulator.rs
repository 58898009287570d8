//! The simulated fleet as a process of its own. It is given nothing of the management plane; what an observer wants to
//! know of a server comes from its control API and from its disk files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::ports::Port;
use crate::process::{Process, ProcessSpec};

const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// How the fleet is run.
#[derive(Clone, Debug)]
pub struct SimulatorOptions {
    /// Number of servers.
    pub hosts: usize,
    /// Number of racks.
    pub racks: usize,
    /// Further flags.
    pub flags: Vec<(String, String)>,
}

impl Default for SimulatorOptions {
    fn default() -> Self {
        Self { hosts: 4, racks: 2, flags: Vec::new() }
    }
}

/// What an operator knows of a server.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerFacts {
    /// Name.
    pub name: String,
    /// Rack.
    pub rack: String,
    /// Where its BMC is.
    pub bmc_url: String,
    /// Login of the BMC.
    pub username: String,
    /// Password of the BMC.
    pub password: String,
    /// Files behind its disks; it boots from the first.
    pub disk_paths: Vec<PathBuf>,
}

/// One thing that happened to a server, as its BMC saw it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct JournalEntry {
    /// Counts up from 1.
    pub seq: u64,
    /// When.
    pub at: String,
    /// What: `login`, `write`, `power`, `boot`, `state` or `faults`.
    pub kind: String,
    /// Its details.
    #[serde(flatten)]
    pub details: serde_json::Map<String, Value>,
}

impl JournalEntry {
    /// Whether it says that the power went on (`true`) or off.
    #[must_use]
    pub fn power(&self) -> Option<bool> {
        (self.kind == "power").then(|| self.details.get("on")?.as_bool()).flatten()
    }

    /// What the server booted from, such as `Disk` or `UefiHttp`.
    #[must_use]
    pub fn boot_source(&self) -> Option<&str> {
        (self.kind == "boot").then(|| self.details.get("source")?.as_str()).flatten()
    }

    /// A request that changed something, other than logins: method and path.
    #[must_use]
    pub fn write(&self) -> Option<(&str, &str)> {
        (self.kind == "write")
            .then(|| Some((self.details.get("method")?.as_str()?, self.details.get("path")?.as_str()?)))
            .flatten()
    }

    /// The state that the server came into.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        (self.kind == "state").then(|| self.details.get("state")?.as_str()).flatten()
    }
}

/// A running fleet; killed when dropped.
#[derive(Debug)]
pub struct Simulator {
    process: Process,
    http: reqwest::Client,
    admin: Port,
    out: PathBuf,
    servers: Vec<ServerFacts>,
    _bmc: Port,
}

/// A client for servers on this machine.
pub(super) fn http_client() -> Result<reqwest::Client> {
    // Somebody else in this process may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .timeout(REQUEST_LIMIT)
        .build()
        .map_err(|error| Error::malformed("the HTTP client", error))
}

impl Simulator {
    /// Starts `program` with its state and inventory in `folder`; returns when all BMCs answer.
    pub async fn start(program: &Path, options: &SimulatorOptions, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let (admin, bmc) = (Port::reserve()?, Port::reserve_on(std::net::Ipv4Addr::UNSPECIFIED.into())?);
        // Of its own, so that fleets that run side by side do not meet at the ports of their control planes.
        let [high, low] = admin.number().to_be_bytes();
        let base = std::net::Ipv4Addr::new(127, high, low, 1);
        let log = folder.parent().unwrap_or(folder).join("ferric-sim.log");
        let mut spec = ProcessSpec::new("ferric-sim", program, log)
            .flag("count", options.hosts.to_string())
            .flag("racks", options.racks.to_string())
            .flag("port", bmc.number().to_string())
            .flag("admin-port", admin.number().to_string())
            .flag("state-dir", folder)
            .flag("out", folder);
        if !options.flags.iter().any(|(name, _)| name == "base-address") {
            spec = spec.flag("base-address", base.to_string());
        }
        for (name, value) in &options.flags {
            spec = spec.flag(name, value);
        }
        let process = Process::spawn(spec)?;
        let mut this = Self {
            process,
            http: http_client()?,
            admin,
            out: folder.to_path_buf(),
            servers: Vec::new(),
            _bmc: bmc,
        };
        this.wait_ready().await?;
        this.servers = this.inventory()?;
        Ok(this)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let url = self.url("healthz");
        let http = self.http.clone();
        self.process
            .wait_ready("the fleet to be up", READY_LIMIT, async || {
                let answer = http.get(&url).send().await.and_then(reqwest::Response::error_for_status);
                answer.map(drop).map_err(|error| error.to_string())
            })
            .await
    }

    fn inventory(&self) -> Result<Vec<ServerFacts>> {
        #[derive(Deserialize)]
        struct Inventory {
            servers: Vec<ServerFacts>,
        }
        let path = self.out.join("inventory.json");
        let text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let inventory: Inventory = serde_json::from_str(&text)
            .map_err(|error| Error::malformed(path.display().to_string(), error))?;
        Ok(inventory.servers)
    }

    /// Secrets and host manifests of the whole fleet.
    pub fn manifests(&self) -> Result<String> {
        let path = self.out.join("manifests.yaml");
        std::fs::read_to_string(&path).map_err(Error::file("read", &path))
    }

    /// Those manifests that belong to some of the servers. The Secret with the authority of all BMCs is in each.
    pub fn manifests_of(&self, names: &[&str]) -> Result<String> {
        for name in names {
            self.server(name)?;
        }
        let all = self.manifests()?;
        let chosen = all.split("---\n").filter(|text| {
            let object: Value = serde_yaml_ng::from_str(text).unwrap_or_default();
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let of_a_server = self
                .servers
                .iter()
                .any(|server| name == server.name || name == format!("{}-bmc", server.name));
            !name.is_empty()
                && (!of_a_server
                    || names.iter().any(|wanted| name == *wanted || name == format!("{wanted}-bmc")))
        });
        Ok(chosen.map(|text| format!("---\n{text}")).collect())
    }

    /// The certificate of the authority of all BMCs.
    pub fn bmc_ca(&self) -> Result<Vec<u8>> {
        let path = self.out.join("bmc-ca.crt");
        std::fs::read(&path).map_err(Error::file("read", &path))
    }

    /// What is known of the servers.
    #[must_use]
    pub fn servers(&self) -> &[ServerFacts] {
        &self.servers
    }

    /// What is known of one server.
    pub fn server(&self, name: &str) -> Result<&ServerFacts> {
        let found = self.servers.iter().find(|server| server.name == name);
        found.ok_or_else(|| Error::malformed(name, "the fleet has no server of this name"))
    }

    /// The file behind the disk from which a server boots.
    pub fn disk(&self, name: &str) -> Result<&Path> {
        let disk = self.server(name)?.disk_paths.first();
        disk.map(PathBuf::as_path).ok_or_else(|| Error::malformed(name, "the server has no disk file"))
    }

    /// What happened to a server after entry `since`; 0 for everything.
    pub async fn journal(&self, name: &str, since: u64) -> Result<Vec<JournalEntry>> {
        let value = self.get(&format!("servers/{name}/journal?since={since}")).await?;
        serde_json::from_value(value)
            .map_err(|error| Error::malformed(format!("the journal of {name}"), error))
    }

    /// The number of the last entry in a server's journal.
    pub async fn journal_end(&self, name: &str) -> Result<u64> {
        Ok(self.journal(name, 0).await?.last().map_or(0, |entry| entry.seq))
    }

    /// What a server is doing, as the simulator knows it.
    pub async fn status(&self, name: &str) -> Result<Value> {
        Ok(self.get(&format!("servers/{name}")).await?["status"].take())
    }

    /// Puts faults on a server, in place of those it had; `{}` takes all away.
    pub async fn set_faults(&self, name: &str, faults: &Value) -> Result<()> {
        let url = self.url(&format!("servers/{name}/faults"));
        let answer = self.http.post(&url).json(faults).send().await;
        let answer = answer.map_err(|error| Error::malformed(url.clone(), error))?;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(Error::malformed(url, answer.text().await.unwrap_or_default())),
        }
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let url = self.url(path);
        let failed = |error: reqwest::Error| Error::malformed(url.clone(), error);
        let answer = self.http.get(&url).send().await.map_err(failed)?;
        answer.error_for_status().map_err(failed)?.json().await.map_err(failed)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.admin.number())
    }

    /// Kills the simulator and starts it on the same disks: every server lost its power.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.respawn()?;
        self.wait_ready().await
    }

    /// Ends it in order.
    pub async fn stop(&mut self) {
        self.process.stop(STOP_LIMIT).await;
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Fails when it is not running any more.
    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}
