//! One reconcile of a machine: observe, plan, take the step, until a plan has nothing left to do; then report once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric_api::{BareMetalHost, BareMetalMachine, HardwareData, condition, condition::types, names};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::MachineContext;
use crate::claim::board;
use crate::claim::bound;
use crate::claim::cluster::Owner;
use crate::claim::plan::{self, HostView, MachineObservation, MachinePlan, MachineStep};
use crate::claim::score::Ask;
use crate::host::record::merge_diff;
use crate::host::{addresses, backoff};
use crate::key::Key;
use crate::patch::{self, ApiError};
use crate::telemetry::EventKind;

/// Steps that one reconcile takes at most before it lets others run. A claim takes three.
const STEPS: usize = 16;
/// When a machine that took all these steps goes on.
const GO_ON: Duration = Duration::from_millis(200);
/// When a machine is looked at again although nothing happened; costs no request.
const RESYNC: Duration = Duration::from_secs(900);
/// The same for a machine that waits for a host: the board's hints are no proof.
const SECOND_LOOK: Duration = Duration::from_secs(60);
/// A new sentence of the host about its progress is passed on this often at most.
const SENTENCE_PAUSE: Duration = Duration::from_secs(10);

/// Cluster API makes the parts of a machine in a burst: what is missing for a moment only is not worth a write.
const BURST: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Attempt<'a> {
    context: &'a MachineContext,
    key: Key,
    machine: Arc<BareMetalMachine>,
    /// The machine is as the API server answered, not as the cache has it.
    machine_live: bool,
    host: Option<Arc<BareMetalHost>>,
    host_live: bool,
    /// The host that the machine left still names it; the cache may not show that yet.
    held_by: Option<Key>,
    internal_ips: Option<Vec<String>>,
    queued: bool,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(context: &'a MachineContext, machine: Arc<BareMetalMachine>) -> Self {
        let key = Key::of(&*machine);
        let machine = context.written_machines.latest(machine);
        let mut attempt = Self {
            context,
            key,
            machine,
            machine_live: false,
            host: None,
            host_live: false,
            held_by: None,
            internal_ips: None,
            queued: false,
        };
        attempt.look_up_host();
        attempt
    }

    /// Whether the machine stands in the queue for a host.
    pub(super) fn queued(&self) -> bool {
        self.queued
    }

    /// Takes steps until there is nothing left to do. Returns when to look again.
    pub(super) async fn drive(&mut self) -> Result<Duration, ApiError> {
        for _ in 0..STEPS {
            let plan = self.observed(plan::plan);
            if plan.guarded && !self.host_live {
                self.read_left_host().await?;
                self.read_host().await?;
                continue;
            }
            match plan.step {
                MachineStep::Ignore => return Ok(self.resync()),
                MachineStep::Report => {
                    if plan.provisioned && self.needs_addresses() {
                        self.internal_ips = Some(self.read_addresses().await);
                        continue;
                    }
                    return self.report(&plan).await;
                }
                MachineStep::Choose(ask) => {
                    if let Some(plan) = self.choose(&ask).await? {
                        return self.report(&plan).await;
                    }
                }
                MachineStep::Claim { cluster } => {
                    if !self.machine_live {
                        // Another process may have moved the intent on since the cache was filled.
                        if !self.read_machine().await? {
                            return Ok(self.resync());
                        }
                        continue;
                    }
                    self.claim(&cluster).await?;
                }
                MachineStep::RefreshUid => {
                    self.patch_host(bound::uid_patch(&self.machine)).await.map(|_| ())?
                }
                MachineStep::AddFinalizer => {
                    let finalizers = bound::with_finalizer(&self.machine);
                    self.patch_machine(json!({ "metadata": { "finalizers": finalizers } })).await?;
                }
                MachineStep::SetProviderId(id) => {
                    self.patch_machine(json!({ "spec": { "providerID": id } })).await?;
                    tracing::info!(machine = %self.key, provider_id = id, "machine provisioned");
                }
                MachineStep::RemoveFinalizer => {
                    let finalizers: Vec<_> =
                        self.machine.finalizers().iter().filter(|f| *f != names::MACHINE_FINALIZER).collect();
                    let change = json!({ "metadata": { "finalizers": finalizers } });
                    match self.patch_machine(change).await {
                        Ok(()) => tracing::info!(machine = %self.key, "machine let go"),
                        Err(error) if error.is_not_found() => {}
                        Err(error) => return Err(error),
                    }
                    return Ok(self.resync());
                }
            }
        }
        Ok(GO_ON)
    }

    fn observed<T>(&self, f: impl FnOnce(&MachineObservation<'_>) -> T) -> T {
        let (owner_key, cluster_key) = self.context.link(&self.machine);
        let owner = owner_key.as_ref().and_then(|key| self.context.owners.get(key));
        let cluster = cluster_key.as_ref().and_then(|key| self.context.clusters.get(key));
        let held_by = self
            .held_by
            .clone()
            .or_else(|| self.context.board().held_by(&self.key, self.host_key().as_ref()));
        f(&MachineObservation {
            object: &self.machine,
            owner: seen(owner_key.as_ref(), owner.as_deref()),
            cluster: seen(cluster_key.as_ref(), cluster.as_deref()),
            host: match (&self.machine.spec.host_ref, &self.host) {
                (None, _) => HostView::Unnamed,
                (Some(_), None) => HostView::Gone,
                (Some(_), Some(host)) => HostView::There(host),
            },
            held_by: held_by.as_ref(),
            internal_ips: self.internal_ips.as_deref(),
        })
    }

    fn host_key(&self) -> Option<Key> {
        self.machine.spec.host_ref.as_ref().map(|host| Key::new(&host.namespace, &host.name))
    }

    fn look_up_host(&mut self) {
        self.host = self
            .host_key()
            .and_then(|key| self.context.hosts.get(&key))
            .map(|host| self.context.written_hosts.latest(host));
        self.host_live = false;
    }

    fn machines_api(&self) -> Api<BareMetalMachine> {
        Api::namespaced(self.context.client.clone(), &self.key.namespace)
    }

    fn hosts_api(&self, host: &Key) -> Api<BareMetalHost> {
        Api::namespaced(self.context.client.clone(), &host.namespace)
    }

    async fn read_host(&mut self) -> Result<(), ApiError> {
        self.host = match self.host_key() {
            Some(key) => patch::get_opt(&self.hosts_api(&key), &key.name).await?.map(Arc::new),
            None => None,
        };
        self.host_live = true;
        Ok(())
    }

    /// Looks at the host that the machine's intent moved on from.
    async fn read_left_host(&mut self) -> Result<(), ApiError> {
        self.held_by = None;
        let left = bound::left_host(&self.machine).filter(|left| Some(left) != self.host_key().as_ref());
        if let Some(left) = left {
            let host = patch::get_opt(&self.hosts_api(&left), &left.name).await?;
            self.held_by = host.is_some_and(|host| bound::names(&host, &self.machine)).then_some(left);
        }
        Ok(())
    }

    /// Returns whether the machine is still there.
    async fn read_machine(&mut self) -> Result<bool, ApiError> {
        let Some(machine) = patch::get_opt(&self.machines_api(), &self.key.name).await? else {
            return Ok(false);
        };
        let changed = machine.resource_version() != self.machine.resource_version();
        self.machine = Arc::new(machine);
        if changed {
            self.look_up_host();
        }
        self.machine_live = true;
        Ok(true)
    }

    /// One compare-and-swap on the machine.
    async fn patch_machine(&mut self, change: Value) -> Result<(), ApiError> {
        let version = self.machine.resource_version();
        let answer =
            patch::merge_patch(&self.machines_api(), &self.key.name, version.as_deref(), change).await?;
        self.machine = Arc::new(answer);
        self.machine_live = true;
        self.context.written_machines.put(self.machine.clone());
        Ok(())
    }

    /// One compare-and-swap on the host. `false`: it changed or is gone; it is read again before anything else.
    async fn patch_host(&mut self, change: Value) -> Result<bool, ApiError> {
        let (Some(key), Some(host)) = (self.host_key(), &self.host) else { return Ok(false) };
        let version = host.resource_version();
        match patch::merge_patch(&self.hosts_api(&key), &key.name, version.as_deref(), change).await {
            Ok(host) => {
                let host: Arc<BareMetalHost> = Arc::new(host);
                self.context.written_hosts.put(host.clone());
                self.host = Some(host);
                self.host_live = true;
                Ok(true)
            }
            Err(error) if error.is_conflict() || error.is_not_found() => {
                self.read_host().await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Chooses a host and writes the intent, or says why there is none.
    async fn choose(&mut self, ask: &Ask) -> Result<Option<MachinePlan>, ApiError> {
        let (chosen, wake) = self.context.board().choose(&self.key, ask);
        self.context.wake_all(wake);
        let host = match chosen {
            Ok(host) => host,
            Err(_) => {
                self.queued = true;
                self.context.metrics.claim("none_free");
                let hosts = self.context.hosts.store().state();
                let none = {
                    let board = self.context.board();
                    board::why_none(ask, &hosts, |host| board.is_named(host))
                };
                return Ok(Some(self.observed(|obs| plan::none_free(obs, &none))));
            }
        };
        let claim_id = uuid::Uuid::new_v4().to_string();
        let change = bound::intent_patch(&self.machine, &host, &claim_id);
        if let Err(error) = self.patch_machine(change).await {
            self.context.metrics.claim("intent_failed");
            let wake = self.context.board().unplace(&self.key);
            self.context.wake_all(wake);
            return Err(error);
        }
        self.look_up_host();
        Ok(None)
    }

    /// Writes the claim on the host. If the host changed meanwhile, the next plan says what to make of it.
    async fn claim(&mut self, cluster: &str) -> Result<(), ApiError> {
        let change = self.host.as_ref().and_then(|host| bound::claim_patch(&self.machine, host, cluster));
        let Some(change) = change else { return Ok(()) };
        let won = self.patch_host(change).await?;
        self.context.metrics.claim(if won { "claimed" } else { "conflict" });
        if let (true, Some(host)) = (won, &self.host) {
            tracing::info!(machine = %self.key, host = host.name_any(), "host claimed");
        }
        Ok(())
    }

    fn needs_addresses(&self) -> bool {
        self.internal_ips.is_none() && self.machine.status.as_ref().is_none_or(|s| s.addresses.is_empty())
    }

    /// IP addresses that inspection found on the host. Not knowing them is no reason to hold anything up.
    async fn read_addresses(&self) -> Vec<String> {
        let Some(host) = self.host_key() else { return Vec::new() };
        if let Some(known) = self.context.addresses.get(&host) {
            return known;
        }
        let api: Api<HardwareData> = Api::namespaced(self.context.client.clone(), &host.namespace);
        match patch::get_opt(&api, &host.name).await {
            Ok(data) => {
                let found =
                    data.and_then(|d| d.spec.hardware).map(|h| addresses::usable(&h)).unwrap_or_default();
                found.iter().map(ToString::to_string).collect()
            }
            Err(error) => {
                tracing::debug!(machine = %self.key, %error, "addresses not read");
                Vec::new()
            }
        }
    }

    /// Writes the status if it changed. Returns when to look again.
    async fn report(&self, plan: &MachinePlan) -> Result<Duration, ApiError> {
        let now = Time(Timestamp::now());
        let before = self.machine.status.clone().unwrap_or_default();
        let after = plan::apply(plan, self.machine.status.as_ref(), self.machine.metadata.generation, &now);
        let Some(change) = merge_diff(&json!(before), &json!(after)) else { return Ok(self.resync()) };
        if plan::differs_in_sentence_only(&before, &after)
            && let Some(last) = self.context.reported().get(&self.key)
            && let Some(pause) = SENTENCE_PAUSE.checked_sub(last.elapsed())
        {
            return Ok(pause);
        }
        if let Some(pause) = self.in_burst(plan, now.0) {
            return Ok(pause);
        }
        let version = self.machine.resource_version();
        let change = json!({ "status": change });
        let answer =
            patch::merge_patch_status(&self.machines_api(), &self.key.name, version.as_deref(), change)
                .await?;
        self.context.written_machines.put(Arc::new(answer));
        self.note_report(plan);
        self.tell(&before.conditions, plan);
        Ok(self.resync())
    }

    /// How much longer to wait before anything is reported of a machine that was just made.
    fn in_burst(&self, plan: &MachinePlan, now: Timestamp) -> Option<Duration> {
        let wait = plan.waiting.as_ref()?.as_ref()?;
        let parts = [
            "WaitingForOwner",
            "WaitingForCluster",
            "WaitingForClusterInfrastructure",
            "WaitingForBootstrapData",
        ];
        if self.machine.status.is_some() || !parts.contains(&wait.reason.as_str()) {
            return None;
        }
        let made = self.machine.metadata.creation_timestamp.as_ref()?;
        let age = Duration::try_from(now.duration_since(made.0)).unwrap_or_default();
        BURST.checked_sub(age).filter(|rest| !rest.is_zero())
    }

    /// Remembers when it was reported that the host is at work, and forgets it when it is not any more.
    fn note_report(&self, plan: &MachinePlan) {
        let waits = plan.waiting.as_ref().is_some_and(Option::is_some);
        let mut reported = self.context.reported();
        if waits {
            reported.insert(self.key.clone(), Instant::now());
        } else {
            reported.remove(&self.key);
        }
    }

    /// An event when `HostBound` becomes false for a new reason.
    fn tell(&self, before: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition], plan: &MachinePlan) {
        let Some(now) = plan.conditions.iter().find(|c| c.kind == types::HOST_BOUND) else { return };
        let was = condition::get(before, types::HOST_BOUND);
        if now.status == condition::ConditionStatus::True || was.is_some_and(|c| c.reason == now.reason) {
            return;
        }
        // The order in which Cluster API makes things is no news; everything else is.
        let kind = match now.reason {
            "WaitingForHost" => EventKind::Normal,
            reason if reason.starts_with("WaitingFor") || reason == "MachineDeleting" => return,
            _ => EventKind::Warning,
        };
        self.context.events.publish(&*self.machine, kind, now.reason, "Claim", &now.message);
    }

    fn resync(&self) -> Duration {
        let period = if self.queued || self.held_by.is_some() { SECOND_LOOK } else { RESYNC };
        period + backoff::spread(period / 2, &self.key.to_string())
    }
}

fn seen<'a, K>(key: Option<&'a Key>, object: Option<&'a K>) -> Owner<'a, K> {
    match (key, object) {
        (None, _) => Owner::None,
        (Some(key), None) => Owner::Missing(&key.name),
        (Some(_), Some(object)) => Owner::Found(object),
    }
}
