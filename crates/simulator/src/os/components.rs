//! The command lines of a control-plane machine's programs, and the certificates they need. Everything listens on the
//! machine's own loopback address, at the usual ports.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::pki::{Authority, Certificate, Usage};
use super::process::{self, Program};

/// Ports on the machine's address.
pub(crate) const ETCD_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;
const CONTROLLER_MANAGER_PORT: u16 = 10257;
/// Port of kubelet's server, here of the port-forward endpoint alone.
pub(crate) const KUBELET_PORT: u16 = 10250;

/// Controllers that would only get in the way: no pod runs here, so nothing is to be made of Deployments and the like.
const CONTROLLERS: &str = "*,bootstrap-signer-controller,token-cleaner-controller,-deployment-controller,\
    -replicaset-controller,-daemonset-controller,-statefulset-controller,-node-ipam-controller,-node-route-controller,\
    -service-lb-controller,-persistentvolume-binder-controller,-persistentvolume-attach-detach-controller,\
    -persistentvolume-expander-controller";

/// The facts that the command lines are made of.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Folder of this machine's operating system.
    pub(crate) folder: PathBuf,
    pub(crate) binaries: Vec<PathBuf>,
    pub(crate) node: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) api_port: u16,
    /// `https://host:port` of the cluster.
    pub(crate) endpoint: String,
    pub(crate) endpoint_host: String,
    pub(crate) service_subnet: String,
    pub(crate) cert_sans: Vec<String>,
}

impl Layout {
    pub(crate) fn pki(&self) -> PathBuf {
        self.folder.join("etc/kubernetes/pki")
    }

    pub(crate) fn api_url(&self) -> String {
        format!("https://{}:{}", self.address, self.api_port)
    }

    pub(crate) fn etcd_url(&self) -> String {
        format!("https://{}:{ETCD_PORT}", self.address)
    }

    pub(crate) fn peer_url(&self) -> String {
        format!("https://{}:{ETCD_PEER_PORT}", self.address)
    }

    pub(crate) fn read(&self, name: &str) -> Result<String, String> {
        let path = self.pki().join(name);
        std::fs::read_to_string(&path).map_err(|error| format!("could not read {}: {error}", path.display()))
    }

    pub(crate) fn authority(&self, name: &str) -> Result<Authority, String> {
        Authority::from_pem(&self.read(&format!("{name}.crt"))?, &self.read(&format!("{name}.key"))?)
    }

    fn program(&self, name: &'static str, args: Vec<String>) -> Result<Program, String> {
        let logs = self.folder.join("log");
        std::fs::create_dir_all(&logs).map_err(|error| error.to_string())?;
        let path = process::find(&self.binaries, name)?;
        Ok(Program { name, path, args, log: logs.join(format!("{name}.log")) })
    }

    fn file(&self, path: impl AsRef<Path>) -> String {
        self.pki().join(path).display().to_string()
    }

    /// Makes every certificate that is not there yet, as `kubeadm init phase certs` and `kubeconfig` do.
    pub(crate) fn make_certificates(&self) -> Result<(), String> {
        if self.pki().join(".complete").exists() {
            return Ok(());
        }
        let local =
            ["127.0.0.1".to_owned(), "localhost".to_owned(), self.address.to_string(), self.node.clone()];
        let mut api_names = local.to_vec();
        api_names.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned));
        api_names.push("kubernetes.default.svc.cluster.local".to_owned());
        api_names.push(self.endpoint_host.clone());
        api_names.extend(first_address(&self.service_subnet));
        api_names.extend(self.cert_sans.iter().cloned());
        api_names.sort();
        api_names.dedup();

        let (ca, etcd, proxy) =
            (self.authority("ca")?, self.authority("etcd/ca")?, self.authority("front-proxy-ca")?);
        let pki = self.pki();
        // The control-plane provider looks for this very name.
        ca.issue("kube-apiserver", None, &api_names, Usage::Server)?.write(&pki, "apiserver")?;
        let clients = [
            (&ca, "apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters")),
            (&ca, "admin", "kubernetes-admin", Some("system:masters")),
            (&ca, "controller-manager", "system:kube-controller-manager", None),
            (&etcd, "apiserver-etcd-client", "kube-apiserver-etcd-client", None),
            (&proxy, "front-proxy-client", "front-proxy-client", None),
        ];
        for (authority, file, name, group) in clients {
            authority.issue(name, group, &[], Usage::Client)?.write(&pki, file)?;
        }
        for file in ["etcd/server", "etcd/peer"] {
            etcd.issue(&self.node, None, &local, Usage::Both)?.write(&pki, file)?;
        }
        let name = format!("system:node:{}", self.node);
        ca.issue(&name, Some("system:nodes"), &local, Usage::Both)?.write(&pki, "kubelet")?;
        self.write_kubeconfig("admin", &self.endpoint)?;
        self.write_kubeconfig("controller-manager", &self.api_url())?;
        std::fs::write(pki.join(".complete"), "").map_err(|error| error.to_string())
    }

    /// A certificate and key by name.
    pub(crate) fn certificate(&self, name: &str) -> Result<Certificate, String> {
        Ok(Certificate {
            cert_pem: self.read(&format!("{name}.crt"))?,
            key_pem: self.read(&format!("{name}.key"))?,
        })
    }

    pub(crate) fn kubeconfig(&self, name: &str) -> PathBuf {
        self.pki().join(format!("{name}.conf"))
    }

    fn write_kubeconfig(&self, name: &str, server: &str) -> Result<(), String> {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let certificate = self.certificate(name)?;
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "default",
            "clusters": [{"name": "default", "cluster": {
                "server": server, "certificate-authority-data": STANDARD.encode(self.read("ca.crt")?),
            }}],
            "users": [{"name": "default", "user": {
                "client-certificate-data": STANDARD.encode(certificate.cert_pem),
                "client-key-data": STANDARD.encode(certificate.key_pem),
            }}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        });
        crate::tls::write_secret(&self.kubeconfig(name), config.to_string().as_bytes())
            .map_err(|error| error.to_string())
    }

    /// etcd, as the first member or as another of `initial_cluster`. With data on its disk it needs neither.
    pub(crate) fn etcd(&self, initial_cluster: &str, first: bool) -> Result<Program, String> {
        let (client, peer) = (self.etcd_url(), self.peer_url());
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        let file = |name: &str, path: &str| flag(name, &self.file(path));
        self.program(
            "etcd",
            vec![
                flag("name", &self.node),
                flag("data-dir", &self.folder.join("etcd").display().to_string()),
                // The disk under it is simulated as well.
                "--unsafe-no-fsync".to_owned(),
                flag("listen-client-urls", &client),
                flag("advertise-client-urls", &client),
                flag("listen-peer-urls", &peer),
                flag("initial-advertise-peer-urls", &peer),
                flag("initial-cluster", initial_cluster),
                flag("initial-cluster-state", if first { "new" } else { "existing" }),
                file("cert-file", "etcd/server.crt"),
                file("key-file", "etcd/server.key"),
                file("trusted-ca-file", "etcd/ca.crt"),
                "--client-cert-auth=true".to_owned(),
                file("peer-cert-file", "etcd/peer.crt"),
                file("peer-key-file", "etcd/peer.key"),
                file("peer-trusted-ca-file", "etcd/ca.crt"),
                "--peer-client-cert-auth=true".to_owned(),
                // All machines share one loopback device, and with it the address they dial from.
                "--peer-skip-client-san-verification=true".to_owned(),
                "--log-level=warn".to_owned(),
            ],
        )
    }

    pub(crate) fn api_server(&self) -> Result<Program, String> {
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        let file = |name: &str, path: &str| flag(name, &self.file(path));
        self.program(
            "kube-apiserver",
            vec![
                flag("etcd-servers", &self.etcd_url()),
                file("etcd-cafile", "etcd/ca.crt"),
                file("etcd-certfile", "apiserver-etcd-client.crt"),
                file("etcd-keyfile", "apiserver-etcd-client.key"),
                flag("bind-address", &self.address.to_string()),
                flag("secure-port", &self.api_port.to_string()),
                // Endpoints may not hold loopback addresses.
                "--endpoint-reconciler-type=none".to_owned(),
                flag("service-cluster-ip-range", &self.service_subnet),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--enable-bootstrap-token-auth".to_owned(),
                file("client-ca-file", "ca.crt"),
                file("tls-cert-file", "apiserver.crt"),
                file("tls-private-key-file", "apiserver.key"),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
                file("service-account-signing-key-file", "sa.key"),
                file("service-account-key-file", "sa.pub"),
                file("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
                file("kubelet-client-key", "apiserver-kubelet-client.key"),
                "--kubelet-preferred-address-types=InternalIP,Hostname".to_owned(),
                file("requestheader-client-ca-file", "front-proxy-ca.crt"),
                file("proxy-client-cert-file", "front-proxy-client.crt"),
                file("proxy-client-key-file", "front-proxy-client.key"),
                "--requestheader-allowed-names=front-proxy-client".to_owned(),
                "--requestheader-username-headers=X-Remote-User".to_owned(),
                "--requestheader-group-headers=X-Remote-Group".to_owned(),
                "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
                flag("cert-dir", &self.folder.join("api-certs").display().to_string()),
                "--profiling=false".to_owned(),
                "-v=1".to_owned(),
            ],
        )
    }

    pub(crate) fn controller_manager(&self) -> Result<Program, String> {
        let kubeconfig = self.kubeconfig("controller-manager").display().to_string();
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        let file = |name: &str, path: &str| flag(name, &self.file(path));
        self.program(
            "kube-controller-manager",
            vec![
                flag("kubeconfig", &kubeconfig),
                flag("authentication-kubeconfig", &kubeconfig),
                flag("authorization-kubeconfig", &kubeconfig),
                flag("bind-address", &self.address.to_string()),
                flag("secure-port", &CONTROLLER_MANAGER_PORT.to_string()),
                "--leader-elect=true".to_owned(),
                "--leader-elect-lease-duration=6s".to_owned(),
                "--leader-elect-renew-deadline=4s".to_owned(),
                "--leader-elect-retry-period=1s".to_owned(),
                flag("cert-dir", &self.folder.join("manager-certs").display().to_string()),
                file("root-ca-file", "ca.crt"),
                file("service-account-private-key-file", "sa.key"),
                file("cluster-signing-cert-file", "ca.crt"),
                file("cluster-signing-key-file", "ca.key"),
                "--use-service-account-credentials".to_owned(),
                // Nodes send no heartbeats; the simulator says when one is lost.
                "--node-monitor-grace-period=1000h".to_owned(),
                "--profiling=false".to_owned(),
                flag("controllers", CONTROLLERS),
            ],
        )
    }

    /// The port-forward endpoint: where the control-plane provider reaches etcd and the kube-apiserver of this machine.
    pub(crate) fn kubelet(&self) -> Result<Program, String> {
        let (node, address, port) = (&self.node, self.address, self.api_port);
        let route =
            |pod: &str, port: u16| format!("--route=kube-system/{pod}-{node}:{port}={address}:{port}");
        self.program(
            "fakekubelet",
            vec![
                format!("--listen={address}:{KUBELET_PORT}"),
                format!("--cert-file={}", self.file("kubelet.crt")),
                format!("--key-file={}", self.file("kubelet.key")),
                route("etcd", ETCD_PORT),
                route("kube-apiserver", port),
            ],
        )
    }

    /// One `kubeadm init phase …`.
    pub(crate) fn kubeadm_phase(&self, phase: &[&str], config: &Path) -> Result<Program, String> {
        let mut args = vec!["init".to_owned(), "phase".to_owned()];
        args.extend(phase.iter().map(|&word| word.to_owned()));
        args.push(format!("--config={}", config.display()));
        args.push(format!("--kubeconfig={}", self.kubeconfig("admin").display()));
        self.program("kubeadm", args)
    }
}

/// The first address of a subnet: that of the service `kubernetes`.
fn first_address(subnet: &str) -> Option<String> {
    let network: Ipv4Addr = subnet.split(',').next()?.split('/').next()?.parse().ok()?;
    Some(Ipv4Addr::from(u32::from(network).checked_add(1)?).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_addresses() {
        assert_eq!(first_address("10.96.0.0/16").as_deref(), Some("10.96.0.1"));
        assert_eq!(first_address("10.96.0.0/12,fd00::/108").as_deref(), Some("10.96.0.1"));
        assert_eq!(first_address("fd00::/108"), None);
    }
}
