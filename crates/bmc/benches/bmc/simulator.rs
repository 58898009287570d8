//! A simulator in a process of its own, ended when dropped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ferric_bmc::{ConnectOptions, Credentials};
use serde_json::Value;

use crate::Result;

/// A running simulator.
pub struct Simulator {
    process: Child,
    /// Gone with the process.
    _folder: tempfile::TempDir,
    servers: Vec<Value>,
    admin: String,
    ca: Vec<u8>,
    /// The UDP port of IPMI, where it is spoken.
    pub ipmi_port: Option<u16>,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/ferric-sim");
    std::env::var_os("FERRIC_SIM_BIN").map_or(own, PathBuf::from)
}

impl Simulator {
    /// So many servers; with IPMI each takes a socket more.
    pub fn start(count: usize, ipmi: bool) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = program();
        let mut process = Command::new(&program)
            .args(["--count", &count.to_string(), "--disks", "counting", "--speed", "none"])
            .args(["--port", "0", "--admin-port", "0", "--base-address", "127.96.0.1"])
            .args(if ipmi { &["--ipmi-port", "0"][..] } else { &[] })
            .args(["--log", "warn"])
            .arg("--state-dir")
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}; make bench-bmc builds it", program.display()))?;
        let mut ready = String::new();
        let out = process.stdout.take().ok_or("the simulator has no output")?;
        BufReader::new(out).read_line(&mut ready)?;
        let admin = ready.split_whitespace().find(|word| word.starts_with("http://"));
        let admin =
            admin.ok_or_else(|| format!("the simulator says {ready:?}"))?.trim_end_matches(',').to_owned();
        let port = ready.split("UDP port ").nth(1);
        let ipmi_port = port.and_then(|rest| rest.split(',').next()?.parse().ok());
        let inventory = std::fs::read(folder.path().join("inventory.json"))?;
        let inventory: Value = serde_json::from_slice(&inventory)?;
        let servers = inventory.as_array().or_else(|| inventory["servers"].as_array());
        let servers = servers.cloned().ok_or("the inventory lists no servers")?;
        let ca = std::fs::read(folder.path().join("bmc-ca.crt"))?;
        Ok(Self { process, _folder: folder, servers, admin, ca, ipmi_port })
    }

    /// Its process, for what it costs.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Each BMC's address, `host:port` of Redfish, and how to log in.
    pub fn bmcs(&self) -> Result<Vec<(String, ConnectOptions)>> {
        let of = |server: &Value| {
            let text = |key: &str| server[key].as_str().unwrap_or_default().to_owned();
            let url = text("bmcUrl");
            let place = url.strip_prefix("https://").ok_or_else(|| format!("{url} is no BMC"))?;
            let options = ConnectOptions {
                address: format!("redfish://{place}/redfish/v1/Systems/1").parse()?,
                credentials: Some(Credentials::new(text("username"), text("password"))),
                ca_pem: Some(self.ca.clone()),
                certificate_sha256: None,
                insecure: false,
            };
            Ok((text("name"), options))
        };
        self.servers.iter().map(of).collect()
    }

    /// Puts faults on all servers.
    pub async fn faults(&self, faults: &Value) -> Result<()> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        for server in &self.servers {
            let name = server["name"].as_str().unwrap_or_default();
            let sent = client.post(format!("{}/servers/{name}/faults", self.admin)).body(faults.to_string());
            sent.send().await?.error_for_status()?;
        }
        Ok(())
    }
}
