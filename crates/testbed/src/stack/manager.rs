//! The provider's manager as a process, under exactly the rights that its components grant.

use std::path::Path;
use std::time::Duration;

use crate::bed::Bed;
use crate::error::{Error, Result};
use crate::ports::Port;
use crate::process::{Process, ProcessSpec};

/// Namespace of the components.
pub const NAMESPACE: &str = "ferric-system";
/// ServiceAccount of the manager.
pub const SERVICE_ACCOUNT: &str = "ferric-manager";
const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How the manager is run.
#[derive(Clone, Debug, Default)]
pub struct ManagerOptions {
    /// Further flags; one that is set here as well wins.
    pub flags: Vec<(String, String)>,
    /// Whether it acts only while it holds the lease. After a kill the next holder waits for the lease to run out.
    pub leader_elect: bool,
}

/// A running manager; killed when dropped.
#[derive(Debug)]
pub struct Manager {
    process: Process,
    health: Port,
    metrics: Port,
    http: reqwest::Client,
    _ports: [Port; 2],
}

impl Manager {
    /// Starts `program` on a bed; returns when it is ready.
    pub async fn start(bed: &Bed, program: &Path, options: &ManagerOptions) -> Result<Self> {
        let kubeconfig = bed.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT).await?;
        let [health, metrics, boot, agent] =
            [Port::reserve()?, Port::reserve()?, Port::reserve()?, Port::reserve()?];
        let images = bed.dir().join("image-cache");
        std::fs::create_dir_all(&images).map_err(Error::file("create", &images))?;
        let local = |port: &Port| format!("127.0.0.1:{}", port.number());
        let mut flags = vec![
            ("kubeconfig", kubeconfig.display().to_string()),
            ("identity-namespace", NAMESPACE.to_owned()),
            ("leader-elect", options.leader_elect.to_string()),
            ("health-bind-address", local(&health)),
            ("metrics-bind-address", local(&metrics)),
            ("boot-bind-address", local(&boot)),
            ("agent-bind-address", local(&agent)),
            ("image-cache-dir", images.display().to_string()),
            ("image-cache-size", "1Gi".to_owned()),
            // Simulated servers take a tenth of a second for their self test.
            ("agent-boot-timeout-seconds", "60".to_owned()),
            ("bmc-timeout-seconds", "10".to_owned()),
            ("log-level", "info,ferric=debug".to_owned()),
        ];
        // A flag given twice is refused by most parsers: the caller's replaces the stack's.
        flags.retain(|(name, _)| !options.flags.iter().any(|(given, _)| given == name));
        let all =
            flags.into_iter().chain(options.flags.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let mut spec = ProcessSpec::new("ferric", program, bed.dir().join("ferric.log")).arg("manager");
        for (name, value) in all {
            spec = spec.flag(name, value);
        }
        let process = Process::spawn(spec)?;
        let mut this =
            Self { process, health, metrics, http: super::simulator::http_client()?, _ports: [boot, agent] };
        this.wait_ready().await?;
        Ok(this)
    }

    /// Waits until it answers that it is ready.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.health.number());
        let http = self.http.clone();
        self.process
            .wait_ready("the manager to be ready", READY_LIMIT, async || {
                let answer = http.get(&url).send().await.map_err(|error| format!("{url}: {error}"))?;
                match answer.status().is_success() {
                    true => Ok(()),
                    false => Err(format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default())),
                }
            })
            .await
    }

    /// Ends it as a crash does: SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, at the same addresses, and waits until it is ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.respawn()?;
        self.wait_ready().await
    }

    /// Ends it in order: SIGTERM first.
    pub async fn stop(&mut self) {
        self.process.stop(STOP_LIMIT).await;
    }

    /// `host:port` at which its metrics are, under `/metrics`.
    pub fn metrics_address(&self) -> String {
        format!("127.0.0.1:{}", self.metrics.number())
    }

    /// Its metrics, in the OpenMetrics format.
    pub async fn metrics(&self) -> Result<String> {
        let url = format!("http://{}/metrics", self.metrics_address());
        let failed = |error: reqwest::Error| Error::malformed(url.clone(), error);
        self.http.get(&url).send().await.map_err(failed)?.text().await.map_err(failed)
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
