//! kube-scheduler as a plain process.
//!
//! Its default profile, so that it decides as that of any cluster; only what slows it down is off: the limit of its own
//! requests, and the pause before a pod is tried again, which grows to 10 s by default and is always 1 s here.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::error::{Error, Result};
use crate::kubeconfig::{self, Credential};
use crate::pki::{Ca, Usage, write_file};
use crate::ports::Port;
use crate::process::{Process, ProcessSpec};

const READY_LIMIT: Duration = Duration::from_secs(60);
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Requests in a second; more than an apiserver beside it answers.
const REQUESTS: u32 = 10_000;

/// A running kube-scheduler; ended when dropped.
#[derive(Debug)]
pub(crate) struct Scheduler {
    process: Process,
    client: reqwest::Client,
    port: Port,
}

impl Scheduler {
    /// Starts it for the apiserver at `url`, with its files in `folder`. Its identity and its serving certificate are of
    /// `ca`.
    pub(crate) fn spawn(
        folder: &Path,
        program: &Path,
        url: &str,
        ca: &Ca,
        extender: Option<&str>,
    ) -> Result<Self> {
        let name = "kube-scheduler";
        let identity = ca.issue("system:kube-scheduler", None, &[], Usage::Client)?;
        let kubeconfig = kubeconfig::write(
            folder.join(format!("{name}.kubeconfig")),
            name,
            url,
            ca.cert_pem(),
            &Credential::Certificate(&identity),
        )?;
        let serving = ca
            .issue(name, None, &["127.0.0.1".to_owned()], Usage::Server)?
            .write(folder, "kube-scheduler")?;
        let configuration = folder.join("kube-scheduler.yaml");
        write_file(&configuration, &self::configuration(&kubeconfig, extender))?;
        let port = Port::reserve()?;
        let spec = ProcessSpec::new(name, program, folder.join("kube-scheduler.log"))
            .flag("config", &configuration)
            .flag("authentication-kubeconfig", &kubeconfig)
            .flag("authorization-kubeconfig", &kubeconfig)
            .flag("bind-address", "127.0.0.1")
            .flag("secure-port", port.number().to_string())
            .flag("tls-cert-file", &serving.cert)
            .flag("tls-private-key-file", &serving.key);
        let client = reqwest::Certificate::from_pem(ca.cert_pem().as_bytes())
            .and_then(|ca| {
                reqwest::Client::builder().no_proxy().tls_certs_only([ca]).timeout(REQUEST_LIMIT).build()
            })
            .map_err(|error| Error::malformed("the client for the scheduler's readiness", error))?;
        Ok(Self { process: Process::spawn(spec)?, client, port })
    }

    /// Waits until it has seen all that there is.
    pub(crate) async fn wait_ready(&mut self) -> Result<()> {
        let url = format!("https://127.0.0.1:{}/readyz", self.port.number());
        self.process
            .wait_ready("the scheduler to be ready", READY_LIMIT, async || {
                let answer = self.client.get(&url).send().await;
                answer
                    .and_then(reqwest::Response::error_for_status)
                    .map(drop)
                    .map_err(|error| error.to_string())
            })
            .await
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Its process, to be watched or ended.
    pub(crate) fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The `KubeSchedulerConfiguration`, as JSON, which is YAML too.
fn configuration(kubeconfig: &Path, extender: Option<&str>) -> String {
    let extenders: Vec<_> = extender
        .map(|url| json!({ "urlPrefix": url, "filterVerb": "filter", "nodeCacheCapable": true }))
        .into_iter()
        .collect();
    json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": { "kubeconfig": kubeconfig, "qps": REQUESTS, "burst": REQUESTS },
        "leaderElection": { "leaderElect": false },
        "extenders": extenders,
        "podInitialBackoffSeconds": 1,
        "podMaxBackoffSeconds": 1,
        "enableProfiling": false,
    })
    .to_string()
}
