//! A live cluster: how both of its API servers are reached, and what is listed of them. Nothing is written.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use ferric_api::autoscaling::{ClusterAutoscalingPolicy, NodeGroupAutoscaler};
use ferric_api::{BareMetalHost, BareMetalMachine, BareMetalMachineTemplate};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::ApiResource;
use kube::{Api, Client, Config, Resource};
use serde_json::{Value, json};

use crate::capi::{Cluster, Machine, MachineDeployment};
use crate::controllers::autoscaler::{NOT_ENDED, reach};
use crate::key::Key;
use crate::patch::DEADLINE;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Objects of one answer.
const PAGE: u32 = 500;

/// How the clusters are reached.
#[derive(Debug, Clone, Args)]
pub struct Reach {
    /// Namespace of the management cluster [default: that of the kubeconfig's context]
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// Kubeconfig of the management cluster [default: KUBECONFIG, then ~/.kube/config, then the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of that kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// Kubeconfig of the workload cluster [default: Cluster API's Secret <cluster>-kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub workload_kubeconfig: Option<PathBuf>,
}

/// A cluster whose objects are listed.
pub(super) struct Place {
    client: Client,
    /// For messages.
    name: &'static str,
    /// Only this namespace.
    namespace: Option<String>,
}

impl Reach {
    /// The management cluster, and the namespace that is meant.
    pub(super) async fn management(&self) -> anyhow::Result<(Place, String)> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(file) => {
                let what = || format!("--kubeconfig {}", file.display());
                let read = Kubeconfig::read_from(file).with_context(what)?;
                Config::from_custom_kubeconfig(read, &options).await.with_context(what)?
            }
            None => match Config::from_kubeconfig(&options).await {
                Ok(config) => config,
                Err(_) if self.context.is_none() && Config::incluster().is_ok() => Config::incluster()?,
                Err(error) => {
                    return Err(error).context(
                        "no kubeconfig of the management cluster: set KUBECONFIG, or give --kubeconfig FILE",
                    );
                }
            },
        };
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = client(config).context("the management cluster's kubeconfig cannot be used")?;
        Ok((Place { client, name: "the management cluster", namespace: Some(namespace.clone()) }, namespace))
    }

    /// The workload cluster of a Cluster.
    pub(super) async fn workload(&self, management: &Place, cluster: &Key) -> anyhow::Result<Place> {
        let client = match &self.workload_kubeconfig {
            Some(file) => {
                let what = || format!("--workload-kubeconfig {}", file.display());
                let read = Kubeconfig::read_from(file).with_context(what)?;
                let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
                client(config.with_context(what)?).with_context(what)?
            }
            None => reach(&management.client, cluster)
                .await
                .map_err(|why| anyhow!("{why}; --workload-kubeconfig FILE is another way"))?,
        };
        Ok(Place { client, name: "the workload cluster", namespace: None })
    }
}

fn client(mut config: Config) -> kube::Result<Client> {
    config.connect_timeout = Some(CONNECT);
    // Whoever waits at a terminal wants to know at once what is wrong.
    config.default_retry = false;
    Client::try_from(config)
}

fn kind<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

/// What is read of a management cluster, the Clusters first.
pub(super) fn of_management() -> Vec<ApiResource> {
    vec![
        kind::<Cluster>(),
        kind::<NodeGroupAutoscaler>(),
        kind::<ClusterAutoscalingPolicy>(),
        kind::<MachineDeployment>(),
        kind::<Machine>(),
        kind::<BareMetalMachine>(),
        kind::<BareMetalMachineTemplate>(),
        kind::<BareMetalHost>(),
    ]
}

/// What is read of a workload cluster: what the manager watches.
pub(super) fn of_workload() -> Vec<ApiResource> {
    vec![
        kind::<Namespace>(),
        kind::<Node>(),
        kind::<Pod>(),
        kind::<DaemonSet>(),
        kind::<PodDisruptionBudget>(),
        kind::<PersistentVolumeClaim>(),
        kind::<PersistentVolume>(),
        kind::<StorageClass>(),
    ]
}

impl Place {
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Lists kinds, page by page; each object says what it is.
    pub(super) async fn list(
        &self,
        kinds: &[ApiResource],
        mut take: impl FnMut(Vec<Value>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for kind in kinds {
            let api: Api<DynamicObject> = match &self.namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, kind),
                None => Api::all_with(self.client.clone(), kind),
            };
            let mut params = ListParams::default().limit(PAGE);
            if kind.kind == "Pod" {
                params = params.fields(NOT_ENDED);
            }
            loop {
                let answer = tokio::time::timeout(DEADLINE, api.list(&params)).await;
                let page = match answer {
                    Ok(Ok(page)) => page,
                    Ok(Err(error)) => return Err(self.said(kind, error)),
                    Err(_) => bail!(
                        "{} of {}: no answer within {} s: see whether its API server can be reached from here",
                        kind.plural,
                        self.name,
                        DEADLINE.as_secs()
                    ),
                };
                let more = page.metadata.continue_.filter(|more| !more.is_empty());
                let objects = page.items.into_iter().map(|object| whole(object, kind));
                take(objects.collect::<Result<_, _>>()?)
                    .with_context(|| format!("{} of {}", kind.plural, self.name))?;
                match more {
                    Some(more) => params = params.continue_token(&more),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// What, where, why, and what can be done about it.
    fn said(&self, kind: &ApiResource, error: kube::Error) -> anyhow::Error {
        let whose = format!("{} of {}", kind.plural, self.name);
        let code = match &error {
            kube::Error::Api(status) => status.code,
            _ => 0,
        };
        let place = self.namespace.as_ref().map(|name| format!(" in namespace {name}")).unwrap_or_default();
        let group = if kind.group.is_empty() { "the core group" } else { &kind.group };
        match code {
            403 => anyhow!(error).context(format!(
                "{whose}: not allowed: the user of the kubeconfig needs verb list on {} of {group}{place}",
                kind.plural
            )),
            404 => anyhow!(error).context(format!(
                "{whose}: it does not have the kind: see whether this is the right cluster, and whether {group} is installed in it"
            )),
            401 => anyhow!(error).context(format!("{whose}: the credentials of the kubeconfig are refused")),
            410 => anyhow!(error).context(format!("{whose}: the list took too long and is no more: try again")),
            _ => anyhow!(error).context(whose),
        }
    }
}

/// Items of a list do not say what they are.
fn whole(object: DynamicObject, kind: &ApiResource) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(object).context("an answer cannot be kept")?;
    value["apiVersion"] = json!(kind.api_version);
    value["kind"] = json!(kind.kind);
    Ok(value)
}
