//! What a hardware operator would know of the fleet: host manifests for the provider, and the facts for observers.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::Family;
use crate::error::{Error, Result};
use crate::fleet::Fleet;
use crate::spec::{DiskSpec, NicSpec, ServerSpec};

/// Name of the Secret that holds the authority of all BMCs.
pub const CA_SECRET: &str = "ferric-sim-bmc-ca";

/// How host manifests are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestOptions {
    /// Namespace of all objects.
    pub namespace: String,
    /// Scheme of the BMC addresses: `redfish-uefihttp` or `redfish-virtualmedia`. BMCs of families that are told no URL
    /// get the second in the place of the first.
    pub scheme: String,
    /// Whether hosts carry their rack as failure domain.
    pub failure_domains: bool,
}

impl Default for ManifestOptions {
    fn default() -> Self {
        Self { namespace: "default".to_owned(), scheme: "redfish-uefihttp".to_owned(), failure_domains: true }
    }
}

/// The facts of one server, for observers.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    /// Name.
    pub name: String,
    /// Rack.
    pub rack: String,
    /// Hardware class.
    pub class: String,
    /// `https://127.x.y.z:port`.
    pub bmc_url: String,
    /// The family of its BMC.
    pub bmc: Family,
    /// Path of its system at its BMC.
    pub system_path: String,
    /// Login of the BMC.
    pub username: String,
    /// Password of the BMC.
    pub password: String,
    /// System UUID.
    pub uuid: uuid::Uuid,
    /// Serial number.
    pub serial: String,
    /// MAC address it boots from.
    pub boot_mac: String,
    /// Network ports.
    pub nics: Vec<NicSpec>,
    /// Disks.
    pub disks: Vec<DiskSpec>,
    /// Files behind the disks; none when disks only count.
    pub disk_paths: Vec<PathBuf>,
}

impl Fleet {
    /// The facts of a server.
    #[must_use]
    pub fn info(&self, spec: &ServerSpec) -> ServerInfo {
        ServerInfo {
            name: spec.name.clone(),
            rack: spec.rack.clone(),
            class: spec.class.name.clone(),
            bmc_url: self.bmc_url(spec),
            bmc: spec.class.bmc,
            system_path: spec.system_path(),
            username: spec.username.clone(),
            password: spec.password.clone(),
            uuid: spec.uuid,
            serial: spec.serial.clone(),
            boot_mac: spec.boot_mac().to_owned(),
            nics: spec.nics.clone(),
            disks: spec.disks.clone(),
            disk_paths: self.disk_paths(&spec.name).unwrap_or_default(),
        }
    }

    /// The Secret with the authority of all BMCs.
    #[must_use]
    pub fn ca_secret(&self, options: &ManifestOptions) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": CA_SECRET, "namespace": options.namespace},
            "data": {"ca.crt": STANDARD.encode(self.ca_pem())},
        })
    }

    /// The Secret and the `BareMetalHost` of a server.
    #[must_use]
    pub fn host_manifests(&self, spec: &ServerSpec, options: &ManifestOptions) -> [Value; 2] {
        let credentials = format!("{}-bmc", spec.name);
        let mut labels = json!({
            "ferric.infrastructure.cluster.x-k8s.io/rack": spec.rack,
            "ferric.infrastructure.cluster.x-k8s.io/class": spec.class.name,
        });
        if options.failure_domains {
            labels["infrastructure.cluster.x-k8s.io/failure-domain"] = json!(spec.rack);
        }
        // Where the BMC is told no URL, the agent comes by virtual media.
        let scheme = match options.scheme.as_str() {
            "redfish-uefihttp" if !crate::redfish::has_http_boot_uri(spec.class.bmc) => {
                "redfish-virtualmedia"
            }
            other => other,
        };
        let address = format!("{scheme}://{}:{}{}", spec.bmc_ip, self.port(), spec.system_path());
        [
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                "metadata": {"name": credentials, "namespace": options.namespace},
                "data": {
                    "username": STANDARD.encode(&spec.username), "password": STANDARD.encode(&spec.password),
                },
            }),
            json!({
                "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "BareMetalHost",
                "metadata": {"name": spec.name, "namespace": options.namespace, "labels": labels},
                "spec": {
                    "online": true,
                    "bootMACAddress": spec.boot_mac(),
                    "bmc": {"address": address, "credentialsName": credentials, "caName": CA_SECRET},
                },
            }),
        ]
    }

    /// All manifests as one YAML text.
    #[must_use]
    pub fn manifests_yaml(&self, options: &ManifestOptions) -> String {
        let hosts = self.servers().flat_map(|spec| self.host_manifests(spec, options));
        std::iter::once(self.ca_secret(options))
            .chain(hosts)
            // A JSON value always has a YAML form.
            .map(|object| format!("---\n{}", serde_yaml_ng::to_string(&object).unwrap_or_default()))
            .collect()
    }

    /// Writes `manifests.yaml`, `inventory.json` and `bmc-ca.crt` into a folder.
    pub fn write_inventory(&self, folder: &Path, options: &ManifestOptions) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::file("make the folder", folder))?;
        let servers: Vec<ServerInfo> = self.servers().map(|spec| self.info(spec)).collect();
        let inventory = json!({"port": self.port(), "caSecret": CA_SECRET, "servers": servers});
        // Both hold passwords.
        crate::tls::write_secret(&folder.join("manifests.yaml"), self.manifests_yaml(options).as_bytes())?;
        crate::tls::write_secret(&folder.join("inventory.json"), format!("{inventory:#}\n").as_bytes())?;
        let ca = folder.join("bmc-ca.crt");
        std::fs::write(&ca, self.ca_pem()).map_err(Error::file("write", &ca))
    }
}
