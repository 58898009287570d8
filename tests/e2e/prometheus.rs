//! A real Prometheus (Debian package `prometheus`), something for it to scrape, and a door before it that wants a token.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::routing::get;
use ferric_testbed::{Port, Process, ProcessSpec};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

const PROGRAM: &str = "/usr/bin/prometheus";
/// Checks rules; of the same package.
pub const PROMTOOL: &str = "/usr/bin/promtool";
/// How to have them.
pub const INSTALL: &str = "apt-get install --no-install-recommends prometheus";
/// How long it may take to start, on a busy machine.
const START: Duration = Duration::from_secs(120);

/// Serves on a port of this machine until it is dropped.
pub struct Served {
    address: String,
    task: JoinHandle<()>,
}

impl Served {
    async fn start(router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                panic!("{error}");
            }
        });
        Self { address, task }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An exporter of one gauge, `queue_length`.
pub struct Exporter {
    value: Arc<AtomicI64>,
    served: Served,
}

impl Exporter {
    pub async fn start(value: i64) -> Self {
        let value = Arc::new(AtomicI64::new(value));
        let page = async |State(value): State<Arc<AtomicI64>>| {
            format!("# TYPE queue_length gauge\nqueue_length {}\n", value.load(Ordering::Relaxed))
        };
        let router = Router::new().route("/metrics", get(page)).with_state(value.clone());
        Self { value, served: Served::start(router).await }
    }

    /// What it says from the next scrape on.
    pub fn set(&self, value: i64) {
        self.value.store(value, Ordering::Relaxed);
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.served.address
    }
}

/// A running server that scrapes every second; killed when dropped.
pub struct Prometheus {
    process: Process,
    port: Port,
    http: reqwest::Client,
}

impl Prometheus {
    /// Scrapes `targets` (`host:port`) with rules from files, keeping what it knows in `folder`. Returns when it answers.
    pub async fn start(folder: &Path, targets: &[&str], rules: &[PathBuf]) -> Self {
        assert!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: {INSTALL}");
        std::fs::create_dir_all(folder).unwrap();
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            // Labels as they are exposed, `namespace` among them.
            "scrape_configs": [{
                "job_name": "test", "honor_labels": true, "static_configs": [{"targets": targets}],
            }],
        });
        // JSON is YAML.
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let port = Port::reserve().unwrap();
        let spec = ProcessSpec::new("prometheus", PROGRAM, folder.join("prometheus.log"))
            .flag("config.file", &file)
            .flag("storage.tsdb.path", folder.join("data"))
            .flag("web.listen-address", format!("127.0.0.1:{}", port.number()))
            .folder(folder);
        let process = Process::spawn(spec).unwrap();
        // Somebody else in this process may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        let mut this = Self { process, port, http };
        this.wait_ready().await;
        this
    }

    async fn wait_ready(&mut self) {
        let url = format!("{}/-/ready", self.url());
        let http = self.http.clone();
        let ready = async || match http.get(&url).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(answer.status().to_string()),
            Err(error) => Err(error.to_string()),
        };
        let up = self.process.wait_ready("Prometheus to be ready", START, ready).await;
        up.unwrap_or_else(|error| panic!("{error}"));
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, at the same address and with what it knew.
    pub async fn restart(&mut self) {
        self.process.respawn().unwrap();
        self.wait_ready().await;
    }

    /// What its HTTP API answers, e.g. to `query` with a query.
    pub async fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let url = format!("{}/api/v1/{path}", self.url());
        let url = Url::parse_with_params(&url, parameters).map_err(|error| error.to_string())?;
        let answer = self.http.get(url).send().await.map_err(|error| error.to_string())?;
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }

    /// The samples that a query gives.
    pub async fn ask(&self, query: &str) -> Result<Vec<Value>, String> {
        let data = self.api("query", &[("query", query)]).await?;
        data["result"].as_array().cloned().ok_or_else(|| data.to_string())
    }
}

/// A door before a server that lets nobody through without a bearer token.
pub struct Door {
    state: Arc<Behind>,
    served: Served,
}

struct Behind {
    server: String,
    token: String,
    http: reqwest::Client,
    passed: AtomicU64,
    refused: AtomicU64,
}

impl Door {
    pub async fn start(prometheus: &Prometheus, token: &str) -> Self {
        let state = Arc::new(Behind {
            server: prometheus.url(),
            token: format!("Bearer {token}"),
            http: prometheus.http.clone(),
            passed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let router = Router::new().fallback(pass).with_state(state.clone());
        Self { state, served: Served::start(router).await }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.served.address)
    }

    /// Requests that came through, and that did not.
    pub fn counts(&self) -> (u64, u64) {
        (self.state.passed.load(Ordering::Relaxed), self.state.refused.load(Ordering::Relaxed))
    }
}

async fn pass(State(behind): State<Arc<Behind>>, request: Request) -> (StatusCode, String) {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if given != Some(behind.token.as_str()) {
        behind.refused.fetch_add(1, Ordering::Relaxed);
        return (StatusCode::UNAUTHORIZED, String::new());
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let answer = async {
        behind.http.get(format!("{}{path}", behind.server)).send().await?.error_for_status()?.text().await
    };
    match answer.await {
        Ok(text) => {
            behind.passed.fetch_add(1, Ordering::Relaxed);
            (StatusCode::OK, text)
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()),
    }
}
