//! How each program of a control plane is started.

use std::path::Path;

use super::{ControlPlaneSpec, Pki};
use crate::error::Result;
use crate::pki::write_file;
use crate::process::ProcessSpec;

/// Controllers that are off: they would start Pods, or want a cloud, or touch Nodes that have no network. With
/// `deployment` and `replicaset` off, the Deployments that clusterctl installs never turn into Pending Pods.
const CONTROLLERS: &str = "*,bootstrap-signer-controller,token-cleaner-controller,-deployment-controller,\
    -replicaset-controller,-daemonset-controller,-statefulset-controller,-node-ipam-controller,\
    -node-route-controller,-service-lb-controller,-persistentvolume-binder-controller,\
    -persistentvolume-attach-detach-controller,-persistentvolume-expander-controller";

/// The one that makes the pods of ReplicaSets.
const REPLICA_SETS: &str = "-replicaset-controller,";

/// One line for each request, without its body.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

pub(super) fn etcd_spec(
    spec: &ControlPlaneSpec,
    folder: &Path,
    program: &Path,
    pki: &Pki,
    port: u16,
    peer_port: u16,
) -> ProcessSpec {
    let (client, peer) = (format!("https://127.0.0.1:{port}"), format!("https://127.0.0.1:{peer_port}"));
    ProcessSpec::new(format!("etcd of {}", spec.name), program, folder.join("etcd.log"))
        .flag("name", &spec.name)
        .flag("data-dir", folder.join("etcd"))
        .flag("listen-client-urls", &client)
        .flag("advertise-client-urls", &client)
        .flag("listen-peer-urls", &peer)
        .flag("initial-advertise-peer-urls", &peer)
        .flag("initial-cluster", format!("{}={peer}", spec.name))
        .flag("quota-backend-bytes", "8589934592")
        .flag("log-level", "warn")
        // Nothing here must survive a power failure.
        .arg("--unsafe-no-fsync")
        .flag("cert-file", &pki.etcd.cert)
        .flag("key-file", &pki.etcd.key)
        .flag("trusted-ca-file", &pki.etcd_ca)
        .arg("--client-cert-auth")
        .flag("peer-cert-file", &pki.etcd.cert)
        .flag("peer-key-file", &pki.etcd.key)
        .flag("peer-trusted-ca-file", &pki.etcd_ca)
        .arg("--peer-client-cert-auth")
}

pub(super) fn apiserver_spec(
    spec: &ControlPlaneSpec,
    folder: &Path,
    program: &Path,
    pki: &Pki,
    etcd_port: u16,
    port: u16,
    audit_log: Option<&Path>,
) -> Result<ProcessSpec> {
    let log = folder.join("kube-apiserver.log");
    let mut process = ProcessSpec::new(format!("kube-apiserver of {}", spec.name), program, log)
        .flag("etcd-servers", format!("https://127.0.0.1:{etcd_port}"))
        .flag("etcd-cafile", &pki.etcd_ca)
        .flag("etcd-certfile", &pki.etcd_client.cert)
        .flag("etcd-keyfile", &pki.etcd_client.key)
        .flag("bind-address", spec.address.to_string())
        .flag("secure-port", port.to_string())
        // Endpoints may not hold loopback addresses, so the apiserver must not write its own.
        .flag("endpoint-reconciler-type", "none")
        .flag("service-cluster-ip-range", "10.96.0.0/16")
        .flag("authorization-mode", "Node,RBAC")
        .flag("enable-bootstrap-token-auth", "true")
        .flag("client-ca-file", &pki.ca_files.cert)
        .flag("tls-cert-file", &pki.apiserver.cert)
        .flag("tls-private-key-file", &pki.apiserver.key)
        .flag("service-account-issuer", "https://kubernetes.default.svc.cluster.local")
        .flag("service-account-signing-key-file", &pki.token_private)
        .flag("service-account-key-file", &pki.token_public)
        .flag("kubelet-client-certificate", &pki.kubelet_client.cert)
        .flag("kubelet-client-key", &pki.kubelet_client.key)
        // Node names are in no DNS.
        .flag("kubelet-preferred-address-types", "InternalIP,Hostname")
        // Without it, controller manager and scheduler log errors for ever.
        .flag("requestheader-client-ca-file", &pki.front_proxy_ca)
        .flag("requestheader-allowed-names", "front-proxy-client")
        .flag("requestheader-username-headers", "X-Remote-User")
        .flag("requestheader-group-headers", "X-Remote-Group")
        .flag("requestheader-extra-headers-prefix", "X-Remote-Extra-")
        .flag("cert-dir", folder.join("apiserver-certs"))
        .flag("profiling", "false")
        .arg("-v=1");
    if !spec.disabled_admission.is_empty() {
        process = process.flag("disable-admission-plugins", spec.disabled_admission.join(","));
    }
    if let Some(path) = audit_log {
        let policy = folder.join("audit-policy.yaml");
        write_file(&policy, AUDIT_POLICY)?;
        process = process
            .flag("audit-policy-file", policy)
            .flag("audit-log-path", path)
            .flag("audit-log-format", "json")
            // One file, never rotated: it is counted afterwards.
            .flag("audit-log-maxsize", "100000");
    }
    Ok(process)
}

pub(super) fn controller_manager_spec(
    spec: &ControlPlaneSpec,
    folder: &Path,
    program: &Path,
    kubeconfig: &Path,
    pki: &Pki,
    port: u16,
) -> ProcessSpec {
    let log = folder.join("kube-controller-manager.log");
    ProcessSpec::new(format!("kube-controller-manager of {}", spec.name), program, log)
        .flag("kubeconfig", kubeconfig)
        .flag("authentication-kubeconfig", kubeconfig)
        .flag("authorization-kubeconfig", kubeconfig)
        .flag("bind-address", "127.0.0.1")
        .flag("secure-port", port.to_string())
        .flag("leader-elect", "false")
        .flag("cert-dir", folder.join("kcm-certs"))
        .flag("root-ca-file", &pki.ca_files.cert)
        .flag("service-account-private-key-file", &pki.token_private)
        .flag("cluster-signing-cert-file", &pki.ca_files.cert)
        .flag("cluster-signing-key-file", &pki.ca_files.key)
        .flag("use-service-account-credentials", "true")
        .flag("node-monitor-grace-period", format!("{}s", spec.node_monitor_grace_period.as_secs()))
        .flag(
            "controllers",
            if spec.replica_sets { CONTROLLERS.replace(REPLICA_SETS, "") } else { CONTROLLERS.to_owned() },
        )
        .flag("profiling", "false")
}
