//! A control-plane machine: a real etcd, kube-apiserver and kube-controller-manager, run from the certificates and the
//! kubeadm configuration in its user data, and shown in the API as kubelet would show them.
//!
//! As on a real machine, etcd and kube-apiserver listen on the machine's own address, each kube-apiserver uses the etcd
//! beside it, and the control-plane endpoint is a balancer in front of them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::balancer::{Place, endpoint_address};
use super::components::{KUBELET_PORT, Layout};
use super::discovery::discover;
use super::etcd::EtcdClient;
use super::kube::{Credentials, Kube, KubeError, Trust};
use super::kubeadm::{self, ClusterConfiguration, InitConfiguration, JoinConfiguration, NodeRegistration};
use super::node;
use super::process::Supervisor;
use super::static_pods::{PodFacts, mirror_pods, running};
use super::user_data::Instructions;
use super::worker::{Identity, node_name};
use crate::server::Server;

pub(crate) use super::components::ETCD_PORT;

const DEFAULT_API_PORT: u16 = 6443;
const DEFAULT_SERVICES: &str = "10.96.0.0/16";
/// kubeadm's patience with the control plane.
const START_LIMIT: Duration = Duration::from_secs(240);
const PHASE_LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);
/// On the disk once the machine is a member: a reboot only starts its programs.
const DONE_FILE: &str = "control-plane.json";

/// The first of its cluster, or another.
pub(crate) enum ControlPlaneRole {
    Init(Box<InitConfiguration>, Box<ClusterConfiguration>),
    Join(Box<JoinConfiguration>),
}

impl ControlPlaneRole {
    fn registration(&self) -> &NodeRegistration {
        match self {
            Self::Init(init, _) => &init.node_registration,
            Self::Join(join) => &join.node_registration,
        }
    }

    fn api_port(&self) -> u16 {
        let port = match self {
            Self::Init(init, _) => init.local_api_endpoint.bind_port,
            Self::Join(join) => {
                join.control_plane.as_ref().map_or(0, |section| section.local_api_endpoint.bind_port)
            }
        };
        if port == 0 { DEFAULT_API_PORT } else { port }
    }
}

/// Runs until it is dropped with the power. An error is the end of kubeadm's patience.
pub(crate) async fn run(
    server: &Arc<Server>,
    epoch: u64,
    role: &ControlPlaneRole,
    instructions: &Instructions,
    hostname: &str,
) -> Result<(), String> {
    let folder = server.os_folder();
    write_files(&folder, instructions)?;
    let layout = layout(server, role, hostname, &folder).await?;
    let say = |text: &str| server.update_os(epoch, |os| text.clone_into(&mut os.message));
    let until = Instant::now() + START_LIMIT;
    let etcd_ca = layout.read("etcd/ca.crt")?;
    let etcd_client = layout.certificate("apiserver-etcd-client")?;
    let admin = {
        let certificate = layout.certificate("admin")?;
        let credentials =
            Credentials::Certificate { cert_pem: &certificate.cert_pem, key_pem: &certificate.key_pem };
        Kube::new(&layout.api_url(), Trust::Authority(&layout.read("ca.crt")?), credentials)
            .map_err(|error| error.to_string())?
    };
    let done = folder.join(DONE_FILE).exists();
    let mut programs = Supervisor::default();

    let first = matches!(role, ControlPlaneRole::Init(..));
    if first || done {
        programs.start(layout.etcd(&format!("{}={}", layout.node, layout.peer_url()), first)?)?;
    } else {
        say("joining etcd");
        let member = existing_member(&layout).await?;
        let client = EtcdClient::new(&member, &etcd_ca, &etcd_client).map_err(|error| error.to_string())?;
        let members = retry(until, &mut programs, "etcd member add", || async {
            client.add_learner(&layout.node, &layout.peer_url()).await.map_err(|error| error.to_string())
        })
        .await?;
        programs.start(layout.etcd(&members, false)?)?;
        retry(until, &mut programs, "etcd member promote", || async {
            client.promote(&layout.peer_url()).await
        })
        .await?;
    }
    say("starting kube-apiserver");
    programs.start(layout.api_server()?)?;
    let ready = retry(until, &mut programs, "kube-apiserver", || async {
        admin.get("/readyz").await.map_err(|error| error.to_string())
    });
    if let Err(why) = ready.await {
        return Err(format!("{why}; its last words: {}", programs.last_words("kube-apiserver")));
    }
    let _place = enter(server, &layout)?;
    programs.start(layout.controller_manager()?)?;
    programs.start(layout.kubelet()?)?;

    say("registering the node");
    let identity = identity(&layout, role)?;
    identity.save(&folder)?;
    let word = server.node_word.lock().await;
    retry(until, &mut programs, "the node", || async {
        register(server, &admin, &layout, role, &identity).await.map_err(|error| error.to_string())
    })
    .await?;
    drop(word);
    if first && !done {
        say("uploading the configuration");
        upload(&layout, instructions).await?;
    }
    std::fs::write(folder.join(DONE_FILE), json!({"node": layout.node}).to_string())
        .map_err(|error| error.to_string())?;
    server.update_os(epoch, |os| {
        os.node = Some(layout.node.clone());
        os.message.clear();
    });
    server.note_state("NodeReady", layout.node.clone());
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        programs.tend();
    }
}

/// Tries until it works; programs that end by themselves meanwhile are started again.
async fn retry<T, F, Fut>(
    until: Instant,
    programs: &mut Supervisor,
    what: &str,
    mut attempt: F,
) -> Result<T, String>
where
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<T, String>> + Send,
{
    loop {
        let why = match attempt().await {
            Ok(done) => return Ok(done),
            Err(why) => why,
        };
        if Instant::now() > until {
            return Err(format!("{what}: gave up after {} s: {why}", START_LIMIT.as_secs()));
        }
        programs.tend();
        tokio::time::sleep(PAUSE).await;
    }
}

/// Puts the files of the user data in place, under the machine's folder.
fn write_files(folder: &Path, instructions: &Instructions) -> Result<(), String> {
    for (path, content) in &instructions.files {
        let inside = path.trim_start_matches('/');
        if inside.split('/').any(|part| part == "..") {
            return Err(format!("the user data writes outside of the machine: {path}"));
        }
        let target = folder.join(inside);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
        }
        crate::tls::write_secret(&target, content).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Where everything is, with all certificates made.
async fn layout(
    server: &Arc<Server>,
    role: &ControlPlaneRole,
    hostname: &str,
    folder: &Path,
) -> Result<Layout, String> {
    let mut layout = Layout {
        folder: folder.to_owned(),
        binaries: server.shared.config.binaries.clone(),
        node: node_name(role.registration(), hostname)?,
        address: server.spec.bmc_ip,
        api_port: role.api_port(),
        endpoint: String::new(),
        endpoint_host: String::new(),
        service_subnet: DEFAULT_SERVICES.to_owned(),
        cert_sans: Vec::new(),
    };
    let cluster = match role {
        ControlPlaneRole::Init(_, cluster) => {
            let given = !cluster.control_plane_endpoint.is_empty();
            layout.endpoint =
                if given { format!("https://{}", cluster.control_plane_endpoint) } else { layout.api_url() };
            cluster.as_ref().clone()
        }
        ControlPlaneRole::Join(join) => {
            let (endpoint, cluster) = fetch_configuration(&layout, join).await?;
            layout.endpoint = endpoint;
            cluster
        }
    };
    if cluster.etcd.external.is_some() {
        return Err("an external etcd is not simulated: use the stacked one".to_owned());
    }
    layout.endpoint_host = endpoint_address(&layout.endpoint)?.ip().to_string();
    if !cluster.networking.service_subnet.is_empty() {
        layout.service_subnet = cluster.networking.service_subnet;
    }
    layout.cert_sans = cluster.api_server.cert_sans;
    layout.make_certificates()?;
    Ok(layout)
}

/// What `kubeadm join` reads from the cluster before it does anything else.
async fn fetch_configuration(
    layout: &Layout,
    join: &JoinConfiguration,
) -> Result<(String, ClusterConfiguration), String> {
    let kept = layout.folder.join("cluster-configuration.json");
    if let Ok(text) = std::fs::read_to_string(&kept) {
        let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        return configuration(&value);
    }
    let with =
        join.discovery.bootstrap_token.as_ref().ok_or("the join configuration has no bootstrap token")?;
    let until = Instant::now() + START_LIMIT;
    let mut none = Supervisor::default();
    let found = retry(until, &mut none, "kubeadm join", || async {
        let cluster = discover(with).await?;
        let admin = layout.authority("ca")?.issue(
            "kubernetes-admin",
            Some("system:masters"),
            &[],
            super::pki::Usage::Client,
        )?;
        let credentials = Credentials::Certificate { cert_pem: &admin.cert_pem, key_pem: &admin.key_pem };
        let text = |error: KubeError| error.to_string();
        let kube =
            Kube::new(&cluster.server, Trust::Authority(&cluster.ca_pem), credentials).map_err(text)?;
        let map = kube.get("/api/v1/namespaces/kube-system/configmaps/kubeadm-config").await.map_err(text)?;
        let configuration = map["data"]["ClusterConfiguration"].as_str().ok_or("kubeadm-config is empty")?;
        let members =
            "/api/v1/namespaces/kube-system/pods?labelSelector=component%3Detcd%2Ctier%3Dcontrol-plane";
        let pods = kube.get(members).await.map_err(text)?;
        let etcd: Vec<&Value> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| &pod["metadata"]["annotations"]["kubeadm.kubernetes.io/etcd.advertise-client-urls"])
            .filter(|url| url.is_string())
            .collect();
        Ok(json!({"server": cluster.server, "configuration": configuration, "etcd": etcd}))
    })
    .await?;
    std::fs::write(&kept, found.to_string()).map_err(|error| error.to_string())?;
    configuration(&found)
}

fn configuration(kept: &Value) -> Result<(String, ClusterConfiguration), String> {
    let text = kept["configuration"].as_str().unwrap_or_default();
    let cluster =
        kubeadm::document(text, "ClusterConfiguration")?.ok_or("kubeadm-config holds no configuration")?;
    Ok((kept["server"].as_str().unwrap_or_default().to_owned(), cluster))
}

/// URL of an etcd member that answers, among those that the cluster's pods named.
async fn existing_member(layout: &Layout) -> Result<String, String> {
    let text = std::fs::read_to_string(layout.folder.join("cluster-configuration.json"))
        .map_err(|error| error.to_string())?;
    let kept: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let urls = kept["etcd"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for url in urls.filter(|url| *url != layout.etcd_url()) {
        let address = url.trim_start_matches("https://");
        let dial = tokio::net::TcpStream::connect(address);
        if matches!(tokio::time::timeout(Duration::from_secs(2), dial).await, Ok(Ok(_))) {
            return Ok(url.to_owned());
        }
    }
    Err("none of the cluster's etcd members answers".to_owned())
}

fn enter(server: &Server, layout: &Layout) -> Result<Option<Place>, String> {
    let front = endpoint_address(&layout.endpoint)?;
    let back = endpoint_address(&layout.api_url())?;
    if front == back {
        return Ok(None);
    }
    server.shared.balancers.enter(front, back).map(Some)
}

fn identity(layout: &Layout, role: &ControlPlaneRole) -> Result<Identity, String> {
    let certificate = layout.certificate("kubelet")?;
    let registration = role.registration();
    Ok(Identity {
        name: layout.node.clone(),
        provider_id: registration.kubelet_arg("provider-id").map(str::to_owned),
        server: layout.endpoint.clone(),
        ca_pem: layout.read("ca.crt")?,
        cert_pem: certificate.cert_pem,
        key_pem: certificate.key_pem,
        node_labels: registration.kubelet_arg("node-labels").unwrap_or_default().to_owned(),
    })
}

/// The node as kubelet makes it and `kubeadm init phase mark-control-plane` labels it, and its static pods.
async fn register(
    server: &Server,
    admin: &Kube,
    layout: &Layout,
    role: &ControlPlaneRole,
    identity: &Identity,
) -> Result<(), KubeError> {
    const ROLE: &str = "node-role.kubernetes.io/control-plane";
    let mut facts = identity.facts(server);
    facts.labels.push((ROLE.to_owned(), String::new()));
    facts.labels.push(("node.kubernetes.io/exclude-from-external-load-balancers".to_owned(), String::new()));
    let default_taint = || vec![json!({"key": ROLE, "effect": "NoSchedule"})];
    facts.taints = role.registration().taints.clone().unwrap_or_else(default_taint);
    facts.kubelet_port = Some(KUBELET_PORT);
    node::register(admin, &facts).await?;
    let node = admin.get(&format!("/api/v1/nodes/{}", layout.node)).await?;
    let version = admin.get("/version").await?;
    let pods = mirror_pods(&PodFacts {
        node: &layout.node,
        node_uid: node["metadata"]["uid"].as_str().unwrap_or_default(),
        address: layout.address,
        api_port: layout.api_port,
        version: version["gitVersion"].as_str().unwrap_or_default(),
    });
    for pod in pods {
        let pods = "/api/v1/namespaces/kube-system/pods";
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        match admin.post(pods, &pod).await {
            Err(error) if error.status() == Some(409) => {}
            other => drop(other?),
        }
        admin.patch(&format!("{pods}/{name}/status"), &running(&pod, layout.address)).await?;
    }
    Ok(())
}

/// What `kubeadm init` leaves in the cluster for those who join; the control-plane provider waits for it.
async fn upload(layout: &Layout, instructions: &Instructions) -> Result<(), String> {
    let config = layout.folder.join(kubeadm::INIT_FILE.trim_start_matches('/'));
    if !instructions.files.contains_key(kubeadm::INIT_FILE) {
        return Err(format!("the user data has no {}", kubeadm::INIT_FILE));
    }
    layout.kubeadm_phase(&["upload-config", "all"], &config)?.run(PHASE_LIMIT).await?;
    layout.kubeadm_phase(&["bootstrap-token", "--skip-token-print"], &config)?.run(PHASE_LIMIT).await
}
