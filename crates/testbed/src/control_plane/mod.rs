//! One Kubernetes control plane as plain processes: etcd, kube-apiserver and, if asked for,
//! kube-controller-manager and kube-scheduler.

mod flags;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::assets::{Assets, Binary};
use crate::error::{Error, Result};
use crate::kubeconfig::{self, Credential};
use crate::pki::{self, Ca, CertAndKey, Files, Usage, write_file, write_secret};
use crate::ports::Port;
use crate::process::{Process, wait_until};
use crate::scheduler::Scheduler;
use flags::{apiserver_spec, controller_manager_spec, etcd_spec};

/// How long the apiserver may take to become ready. It takes about 5 s on an idle machine.
const READY_LIMIT: Duration = Duration::from_secs(120);
const TOKEN_SECONDS: i64 = 48 * 3600;

/// What a control plane consists of and where it listens.
#[derive(Clone, Debug)]
pub struct ControlPlaneSpec {
    /// Names the etcd member and the context in kubeconfigs.
    pub name: String,
    /// Whether kube-controller-manager runs.
    pub controller_manager: bool,
    /// Whether kube-scheduler runs, with its default profile. Nothing in the bed needs it.
    pub scheduler: bool,
    /// Whether ReplicaSets get their pods.
    pub replica_sets: bool,
    /// The URL of an extender of kube-scheduler, without `/filter` at its end: it is sent the names of the nodes that
    /// passed all filters, for each pod that has any, and answers with those that it lets pass.
    pub scheduler_extender: Option<String>,
    /// Admission plugins of the apiserver that are off, such as `TaintNodesByCondition`, which keeps pods off every new
    /// node until kube-controller-manager has seen it.
    pub disabled_admission: Vec<String>,
    /// Whether each request is written to an audit log.
    pub audit_log: bool,
    /// The address of the apiserver; etcd and the others stay on 127.0.0.1.
    pub address: IpAddr,
    /// The port of the apiserver; `None` takes a free one.
    pub port: Option<u16>,
    /// How long a Node may be silent. Nodes without a kubelet send no heartbeats, so it is long by default.
    pub node_monitor_grace_period: Duration,
}

impl ControlPlaneSpec {
    /// A control plane of etcd and kube-apiserver on 127.0.0.1.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            controller_manager: false,
            scheduler: false,
            replica_sets: false,
            scheduler_extender: None,
            disabled_admission: Vec::new(),
            audit_log: false,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            node_monitor_grace_period: Duration::from_secs(1000 * 3600),
        }
    }
}

/// A running control plane.
pub struct ControlPlane {
    name: String,
    folder: PathBuf,
    url: String,
    kubeconfig: PathBuf,
    ca: Ca,
    client: Client,
    audit_log: Option<PathBuf>,
    // In the order in which they are ended: a client never outlives its server.
    scheduler: Option<Scheduler>,
    controller_manager: Option<Process>,
    apiserver: Process,
    etcd: Process,
    _ports: Vec<Port>,
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPlane")
            .field("name", &self.name)
            .field("url", &self.url)
            .field("folder", &self.folder)
            .field("pids", &self.pids())
            .finish_non_exhaustive()
    }
}

/// Every certificate and key of a control plane.
struct Pki {
    ca: Ca,
    ca_files: Files,
    front_proxy_ca: PathBuf,
    etcd_ca: PathBuf,
    etcd: Files,
    etcd_client: Files,
    apiserver: Files,
    kubelet_client: Files,
    token_private: PathBuf,
    token_public: PathBuf,
}

impl Pki {
    fn new(folder: &Path, address: IpAddr) -> Result<Self> {
        let ca = Ca::new("kubernetes")?;
        let etcd_ca = Ca::new("etcd-ca")?;
        let front_proxy = Ca::new("front-proxy-ca")?;
        let ca_files =
            CertAndKey { cert_pem: ca.cert_pem().to_owned(), key_pem: ca.key_pem() }.write(folder, "ca")?;
        let file = |name: &str| folder.join(name);
        write_file(&file("etcd-ca.crt"), etcd_ca.cert_pem())?;
        write_file(&file("front-proxy-ca.crt"), front_proxy.cert_pem())?;
        let local = || vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut names = local();
        names.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned));
        names.extend(["kubernetes.default.svc.cluster.local", "10.96.0.1"].map(str::to_owned));
        names.push(address.to_string());
        let (private, public) = pki::service_account_keys()?;
        write_secret(&file("sa.key"), &private)?;
        write_file(&file("sa.pub"), &public)?;
        Ok(Self {
            ca_files,
            front_proxy_ca: file("front-proxy-ca.crt"),
            etcd_ca: file("etcd-ca.crt"),
            etcd: etcd_ca.issue("etcd", None, &local(), Usage::Peer)?.write(folder, "etcd")?,
            etcd_client: etcd_ca
                .issue("kube-apiserver", None, &[], Usage::Client)?
                .write(folder, "etcd-client")?,
            apiserver: ca.issue("kube-apiserver", None, &names, Usage::Server)?.write(folder, "apiserver")?,
            kubelet_client: ca
                .issue("kube-apiserver-kubelet-client", Some("system:masters"), &[], Usage::Client)?
                .write(folder, "kubelet-client")?,
            token_private: file("sa.key"),
            token_public: file("sa.pub"),
            ca,
        })
    }
}

impl ControlPlane {
    /// Starts a control plane whose files are all in `folder`; returns when the apiserver is ready.
    ///
    /// A controller manager and a scheduler are started but not waited for: see [`ControlPlane::wait_for_controllers`].
    pub async fn start(spec: &ControlPlaneSpec, assets: &Assets, folder: &Path) -> Result<Self> {
        install_crypto();
        let mut binaries = vec![Binary::Etcd, Binary::KubeApiserver];
        binaries.extend(spec.controller_manager.then_some(Binary::KubeControllerManager));
        binaries.extend(spec.scheduler.then_some(Binary::KubeScheduler));
        let mut paths = assets.ensure_all(&binaries).await?.into_iter();
        let mut path = || paths.next().ok_or_else(|| Error::Assets("a program was not resolved".to_owned()));
        let (etcd_path, apiserver_path) = (path()?, path()?);
        let controller_manager_path = if spec.controller_manager { Some(path()?) } else { None };
        let scheduler_path = if spec.scheduler { Some(path()?) } else { None };

        let pki_folder = folder.join("pki");
        std::fs::create_dir_all(&pki_folder).map_err(Error::file("create", &pki_folder))?;
        let pki = Pki::new(&pki_folder, spec.address)?;
        let (etcd_port, peer_port) = (Port::reserve()?, Port::reserve()?);
        let mut ports = Vec::new();
        let port = match spec.port {
            Some(port) => port,
            None => {
                let port = Port::reserve_on(spec.address)?;
                let number = port.number();
                ports.push(port);
                number
            }
        };

        let etcd = Process::spawn(etcd_spec(
            spec,
            folder,
            &etcd_path,
            &pki,
            etcd_port.number(),
            peer_port.number(),
        ))?;
        let audit_log = spec.audit_log.then(|| folder.join("audit.log"));
        let mut apiserver = Process::spawn(apiserver_spec(
            spec,
            folder,
            &apiserver_path,
            &pki,
            etcd_port.number(),
            port,
            audit_log.as_deref(),
        )?)?;
        ports.extend([etcd_port, peer_port]);

        let url = format!("https://{}", std::net::SocketAddr::new(spec.address, port));
        let admin = pki.ca.issue("admin", Some("system:masters"), &[], Usage::Client)?;
        let kubeconfig = kubeconfig::write(
            folder.join("kubeconfig"),
            &spec.name,
            &url,
            pki.ca.cert_pem(),
            &Credential::Certificate(&admin),
        )?;
        let client = kubeconfig::client(&kubeconfig).await?;
        wait_for_apiserver(&mut apiserver, &kubeconfig).await?;

        let mut controller_manager = None;
        if let Some(path) = controller_manager_path {
            let (name, port) = ("kube-controller-manager", Port::reserve()?);
            let pair = pki.ca.issue(&format!("system:{name}"), None, &[], Usage::Client)?;
            let file = folder.join(format!("{name}.kubeconfig"));
            let credential = Credential::Certificate(&pair);
            let config = kubeconfig::write(file, name, &url, pki.ca.cert_pem(), &credential)?;
            let process = controller_manager_spec(spec, folder, &path, &config, &pki, port.number());
            controller_manager = Some(Process::spawn(process)?);
            ports.push(port);
        }
        let scheduler = scheduler_path
            .map(|path| Scheduler::spawn(folder, &path, &url, &pki.ca, spec.scheduler_extender.as_deref()))
            .transpose()?;
        Ok(Self {
            name: spec.name.clone(),
            folder: folder.to_path_buf(),
            url,
            kubeconfig,
            ca: pki.ca,
            client,
            audit_log,
            scheduler,
            controller_manager,
            apiserver,
            etcd,
            _ports: ports,
        })
    }

    /// The URL of the apiserver.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder that holds its data, logs and credentials.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client with the rights of an administrator.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The authority that signs its client and serving certificates.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// The audit log, if one is written: a JSON object a line.
    pub fn audit_log(&self) -> Option<&Path> {
        self.audit_log.as_deref()
    }

    /// The ids of its processes.
    pub fn pids(&self) -> Vec<u32> {
        let scheduler = self.scheduler.as_ref().map(Scheduler::process);
        [&self.etcd, &self.apiserver]
            .into_iter()
            .chain(scheduler)
            .chain(&self.controller_manager)
            .map(Process::pid)
            .collect()
    }

    /// Waits until the scheduler has seen all that there is, and the controller manager does its work: the `default`
    /// ServiceAccount is there.
    pub async fn wait_for_controllers(&mut self) -> Result<()> {
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.wait_ready().await?;
        }
        let Some(process) = &mut self.controller_manager else { return Ok(()) };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
        process
            .wait_ready("the ServiceAccount `default`", READY_LIMIT, async || {
                accounts.get("default").await.map(|_| ()).map_err(|error| error.to_string())
            })
            .await
    }

    /// Writes a kubeconfig that carries a client certificate of this control plane, and returns its path.
    /// `organization` is the user's group.
    pub fn user_kubeconfig(&self, user: &str, organization: Option<&str>) -> Result<PathBuf> {
        let pair = self.ca.issue(user, organization, &[], Usage::Client)?;
        let path = self.folder.join(format!("{}.kubeconfig", user.replace([':', '/'], "-")));
        kubeconfig::write(path, &self.name, &self.url, self.ca.cert_pem(), &Credential::Certificate(&pair))
    }

    /// Writes a kubeconfig that carries a token of a ServiceAccount, valid for two days, and returns its path.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.service_account_token(namespace, name).await?;
        let path = self.folder.join(format!("{namespace}.{name}.kubeconfig"));
        kubeconfig::write(path, &self.name, &self.url, self.ca.cert_pem(), &Credential::Token(&token))
    }

    /// A token of a ServiceAccount, valid for two days.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..Default::default() },
            ..Default::default()
        };
        let what = format!("a token of ServiceAccount {namespace}/{name}");
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .map_err(Error::kube(format!("request {what}")))?;
        Ok(answer.status.ok_or_else(|| Error::malformed(what, "the answer has no status"))?.token)
    }

    /// Kills the apiserver without warning and starts it again on the same port and data.
    pub async fn restart_apiserver(&mut self) -> Result<()> {
        self.apiserver.respawn()?;
        wait_for_apiserver(&mut self.apiserver, &self.kubeconfig).await
    }

    /// Fails, with the end of its log, when one of its processes has ended although it should be running.
    pub fn check(&mut self) -> Result<()> {
        let scheduler = self.scheduler.as_mut().map(Scheduler::process_mut);
        [&mut self.etcd, &mut self.apiserver]
            .into_iter()
            .chain(scheduler)
            .chain(&mut self.controller_manager)
            .try_for_each(Process::check)
    }

    /// Ends all its processes. The apiserver and etcd are killed: an apiserver that is asked to end waits for its
    /// clients' watches, and one whose etcd has ended never ends.
    pub fn stop(&mut self) {
        let scheduler = self.scheduler.as_mut().map(Scheduler::process_mut);
        for process in scheduler.into_iter().chain(&mut self.controller_manager) {
            process.kill();
        }
        self.apiserver.kill();
        self.etcd.kill();
    }
}

/// Makes ring the process-wide provider of cryptography, unless there is one already.
pub(crate) fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

async fn wait_for_apiserver(apiserver: &mut Process, kubeconfig: &Path) -> Result<()> {
    let mut config = kubeconfig::client_config(kubeconfig).await?;
    // A client that retries by itself would hide how far the apiserver is.
    config.default_retry = false;
    let client = Client::try_from(config).map_err(Error::kube("make a client"))?;
    apiserver
        .wait_ready("the apiserver to be ready", READY_LIMIT, async || {
            let request = http_get("/readyz").map_err(|error| error.to_string())?;
            client.request_text(request).await.map(|_| ()).map_err(|error| error.to_string())
        })
        .await?;
    // The RBAC of the bootstrap policy is a post-start hook and so part of /readyz; the namespace `default` is not.
    wait_until("the namespace `default`", READY_LIMIT, async || {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
        namespaces.get("default").await.map(|_| ()).map_err(|error| error.to_string())
    })
    .await
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    http::Request::get(path).body(Vec::new()).map_err(|error| Error::malformed(path, error))
}
