//! The way to a workload cluster: its kubeconfig Secret, read again from time to time, and the watches behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};
use sha2::{Digest, Sha256};

use super::kubeconfig;
use super::workload::Workload;
use crate::key::Key;
use crate::patch;

/// A kubeconfig is renewed by Cluster API before its certificate ends; it is read again as often.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Sets of labels and specs that nobody has any more, from which on it is looked whether they are the larger part: some
/// megabytes.
const MUCH: usize = 20_000;

/// The way to one cluster.
#[derive(Debug, Default)]
pub(super) struct Connection {
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    workload: Arc<Workload>,
    /// Of the kubeconfig: whether it is another is all that is to be known of it.
    digest: [u8; 32],
    read: Instant,
}

impl Connection {
    /// The cluster, or why it cannot be reached. It may not be listed yet.
    pub(super) async fn workload(
        &mut self,
        management: &Client,
        cluster: &Key,
    ) -> Result<Arc<Workload>, String> {
        if let Some(current) = self.current.as_ref().filter(|current| current.read.elapsed() < READ_AGAIN) {
            return Ok(current.workload.clone());
        }
        let text = kubeconfig_of(management, cluster).await?;
        let digest: [u8; 32] = Sha256::digest(&text).into();
        if let Some(current) = self.current.as_mut().filter(|current| current.digest == digest) {
            let (unused, all) = current.workload.seen().cluster.garbage();
            // What pods had that are long gone is kept until all is read anew.
            if unused < MUCH || unused * 2 < all {
                current.read = Instant::now();
                return Ok(current.workload.clone());
            }
        }
        let client = client(cluster, &text).await?;
        let workload = Arc::new(Workload::start(client));
        self.current = Some(Current { workload: workload.clone(), digest, read: Instant::now() });
        Ok(workload)
    }
}

/// A client of the cluster by the kubeconfig that Cluster API keeps of it.
pub(crate) async fn reach(management: &Client, cluster: &Key) -> Result<Client, String> {
    client(cluster, &kubeconfig_of(management, cluster).await?).await
}

fn secret_of(cluster: &Key) -> String {
    format!("{}{}", cluster.name, kubeconfig::SUFFIX)
}

async fn kubeconfig_of(management: &Client, cluster: &Key) -> Result<Vec<u8>, String> {
    let name = secret_of(cluster);
    let api: Api<Secret> = Api::namespaced(management.clone(), &cluster.namespace);
    let secret = match patch::get_opt(&api, &name).await {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            return Err(format!(
                "Secret {name} is not there yet: Cluster API makes it with the control plane"
            ));
        }
        Err(error) => return Err(error.to_string()),
    };
    let data = secret.data.and_then(|mut data| data.remove(kubeconfig::SECRET_KEY));
    data.map(|text| text.0).ok_or_else(|| format!("Secret {name}: it has no key value"))
}

async fn client(cluster: &Key, text: &[u8]) -> Result<Client, String> {
    let said = |why: &dyn std::fmt::Display| format!("Secret {}: {why}", secret_of(cluster));
    let config = kubeconfig::read(text).map_err(|error| said(&error))?;
    // What is wrong in it is not repeated: it holds keys.
    let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .map_err(|_| said(&"the kubeconfig has no usable context"))?;
    config.connect_timeout = Some(CONNECT);
    // An eviction that a budget forbids is answered 429: it is asked for again in the next round, and not at once.
    config.default_retry = false;
    Client::try_from(config).map_err(|_| said(&"the kubeconfig's certificates or keys cannot be used"))
}
