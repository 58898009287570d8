//! The controller of `NodeGroupAutoscaler` and `ClusterAutoscalingPolicy`: a thin shell around [`crate::autoscaling`].
//!
//! One engine for each Cluster that has autoscalers, as a task of its own: it sees the workload cluster by a watch, decides
//! about all its groups together, and carries out. A cluster that is slow or out of reach holds up no other.

mod act;
mod carry_out;
mod connect;
mod engine;
mod kubeconfig;
mod nodes;
mod pools;
mod prometheus;
mod queries;
mod workload;

pub(crate) use connect::reach;
pub(crate) use engine::{changes, like, template};
pub(crate) use queries::{ask, wants_usage};
pub(crate) use workload::{NOT_ENDED, facts, usage};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ferric_api::autoscaling::{ClusterAutoscalingPolicy, NodeGroupAutoscaler};
use ferric_api::{BareMetalHost, BareMetalMachine, BareMetalMachineTemplate};
use jiff::Timestamp;
use kube::{Client, ResourceExt};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::overlay::Overlay;
use crate::autoscaling::FreeHost;
use crate::autoscaling::energy::{Consumption, Draw, Energy};
use crate::autoscaling::gather::Objects;
use crate::autoscaling::pools::Neighbours;
use crate::capi::{self, Cluster, MachineDeployment};
use crate::key::Key;
use crate::telemetry::{Events, Metrics};
use crate::watch::{Watchable, Watched};

/// The kinds that are read.
#[derive(Clone)]
pub struct AutoscalerKinds {
    /// What is asked for.
    pub autoscalers: Watched<NodeGroupAutoscaler>,
    /// What holds over all groups of a cluster.
    pub policies: Watched<ClusterAutoscalingPolicy>,
    /// What is scaled.
    pub deployments: Watched<MachineDeployment>,
    /// What it is made of.
    pub machines: Watched<capi::Machine>,
    /// Clusters.
    pub clusters: Watched<Cluster>,
    /// Which machine has a host.
    pub bare_metal_machines: Watched<BareMetalMachine>,
    /// Hosts, free ones among them.
    pub hosts: Watched<BareMetalHost>,
    /// What a machine offers.
    pub templates: Watched<BareMetalMachineTemplate>,
}

/// Everything that the autoscaler works with.
pub struct AutoscalerContext {
    client: Client,
    kinds: AutoscalerKinds,
    events: Events,
    metrics: Arc<Metrics>,
    /// Time between two decisions.
    interval: Duration,
    written: Overlay<MachineDeployment>,
    status: Overlay<NodeGroupAutoscaler>,
}

impl AutoscalerContext {
    /// A context that remembers nothing yet.
    pub fn new(
        client: Client,
        kinds: AutoscalerKinds,
        events: Events,
        metrics: Arc<Metrics>,
        interval: Duration,
    ) -> Arc<Self> {
        let (written, status) = (Overlay::default(), Overlay::default());
        Arc::new(Self { client, kinds, events, metrics, interval, written, status })
    }

    /// Clusters that have autoscalers.
    fn clusters(&self) -> BTreeSet<Key> {
        let autoscalers = self.kinds.autoscalers.store().state();
        let key = |autoscaler: &Arc<NodeGroupAutoscaler>| {
            Key::new(autoscaler.namespace().unwrap_or_default(), &autoscaler.spec.cluster_name)
        };
        autoscalers.iter().map(key).collect()
    }

    /// Books what free hosts took since they were looked at last. Of all namespaces at once: a host may be free for groups
    /// of several clusters, and takes power once.
    fn look_at_energy(&self, energy: &mut Energy) {
        let hosts = self.kinds.hosts.store().state();
        let free = hosts.iter().filter_map(|host| {
            FreeHost::of(host).map(|free| Consumption {
                key: free.key,
                state: free.state,
                draw: Draw::of(host),
            })
        });
        let before = (energy.used_joules(), energy.saved_joules());
        energy.look(&free.collect::<Vec<_>>(), Timestamp::now());
        self.metrics.standby_energy(
            energy.used_joules().saturating_sub(before.0),
            energy.saved_joules().saturating_sub(before.1),
        );
    }

    /// What the groups of all clusters of a cluster's namespace are made of.
    fn neighbours(&self, cluster: &Key) -> Neighbours {
        let kinds = &self.kinds;
        Neighbours {
            autoscalers: all(&kinds.autoscalers, cluster, |_| true),
            deployments: all(&kinds.deployments, cluster, |_| true),
            templates: all(&kinds.templates, cluster, |_| true),
            hosts: all(&kinds.hosts, cluster, |_| true),
        }
    }

    /// What the management cluster knows of a cluster.
    fn objects(&self, cluster: &Key) -> Objects {
        let (kinds, name) = (&self.kinds, &cluster.name);
        let deployments =
            all(&kinds.deployments, cluster, |deployment| deployment.spec.cluster_name == *name);
        let autoscalers =
            all(&kinds.autoscalers, cluster, |autoscaler| autoscaler.spec.cluster_name == *name);
        Objects {
            cluster: kinds.clusters.get(cluster),
            // What was written last is not decided upon again.
            autoscalers: autoscalers.into_iter().map(|object| self.status.latest(object)).collect(),
            policies: all(&kinds.policies, cluster, |policy| policy.spec.cluster_name == *name),
            deployments: deployments.into_iter().map(|object| self.written.latest(object)).collect(),
            machines: all(&kinds.machines, cluster, |machine| machine.spec.cluster_name == *name),
            bare_metal_machines: all(&kinds.bare_metal_machines, cluster, |_| true),
            hosts: all(&kinds.hosts, cluster, |_| true),
            templates: all(&kinds.templates, cluster, |_| true),
        }
    }
}

/// Objects of a cluster's namespace.
fn all<K: Watchable>(kind: &Watched<K>, cluster: &Key, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
    let here = |object: &Arc<K>| {
        object.meta().namespace.as_deref() == Some(cluster.namespace.as_str()) && wanted(object)
    };
    kind.store().state().into_iter().filter(here).collect()
}

/// Runs the controller until `stop`.
pub async fn run(context: Arc<AutoscalerContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let ready = async {
        let kinds = &context.kinds;
        kinds.autoscalers.ready().await?;
        kinds.policies.ready().await?;
        kinds.deployments.ready().await?;
        kinds.machines.ready().await?;
        kinds.clusters.ready().await?;
        kinds.bare_metal_machines.ready().await?;
        kinds.hosts.ready().await?;
        kinds.templates.ready().await
    };
    tokio::select! {
        ready = ready => ready?,
        () = stop.cancelled() => return Ok(()),
    }
    let mut engines = JoinSet::new();
    let mut running: BTreeMap<Key, AbortHandle> = BTreeMap::new();
    let mut energy = Energy::default();
    let mut looks = tokio::time::interval(context.interval);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            // An engine ends with its last autoscaler; one that died is begun anew.
            Some(ended) = engines.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "an autoscaling engine died; it is begun anew");
                }
            }
            () = stop.cancelled() => break,
        }
        context.look_at_energy(&mut energy);
        running.retain(|_, engine| !engine.is_finished());
        for cluster in context.clusters() {
            running.entry(cluster).or_insert_with_key(|cluster| {
                engines.spawn(engine::run(context.clone(), cluster.clone(), stop.clone()))
            });
        }
    }
    while engines.join_next().await.is_some() {}
    Ok(())
}
