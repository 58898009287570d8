//! The controller of `BareMetalMachineTemplate`: publishes what a machine of it will offer as a node. A thin shell around
//! [`crate::autoscaling::capacity`].
//!
//! A template is looked at again when it changes, and when a host of its namespace, or what is known of one's hardware,
//! changes in what is read here. Nothing is polled.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferric_api::hardware::{Cpu, Gpu, HardwareDataSpec, HardwareDetails};
use ferric_api::{BareMetalHost, BareMetalMachineTemplate, HardwareData, names};
use futures::{StreamExt, stream};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::mapped;
use super::retries::Retries;
use crate::autoscaling::capacity::{self, Offer, Shape};
use crate::claim::selector::Selector;
use crate::host::backoff;
use crate::host::record::merge_diff;
use crate::key::Key;
use crate::patch::{self, ApiError};
use crate::telemetry::{EventKind, Events, Metrics};
use crate::watch::{Change, Watched};

/// When a template is looked at again although nothing happened; costs no request.
const RESYNC: Duration = Duration::from_secs(3600);
/// Hosts are often enrolled by the hundred: their templates are looked at once for all that come within this time.
const TOGETHER: Duration = Duration::from_secs(1);

/// Everything that the template controller works with.
pub struct TemplateContext {
    client: Client,
    templates: Watched<BareMetalMachineTemplate>,
    hosts: Watched<BareMetalHost>,
    hardware: Watched<HardwareData>,
    events: Events,
    metrics: Arc<Metrics>,
    retries: Retries,
    /// What was last seen of each host and of its hardware: most that changes of them is of no interest.
    seen: Mutex<HashMap<Key, Seen>>,
    /// What was last said to be wrong with each template, so that it is said once.
    warned: Mutex<HashMap<Key, String>>,
}

/// What is read of a host.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    labels: Option<BTreeMap<String, String>>,
    shape: Option<Shape>,
}

impl TemplateContext {
    /// A context that remembers nothing yet. `hardware` may have been [pruned](prune).
    pub fn new(
        client: Client,
        templates: Watched<BareMetalMachineTemplate>,
        hosts: Watched<BareMetalHost>,
        hardware: Watched<HardwareData>,
        events: Events,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            templates,
            hosts,
            hardware,
            events,
            metrics,
            retries: Retries::default(),
            seen: Mutex::default(),
            warned: Mutex::default(),
        })
    }

    fn on_template(&self, change: Change<BareMetalMachineTemplate>) -> Vec<Key> {
        let key = Key::of(&*change.clone().into_object());
        if matches!(change, Change::Deleted(_)) {
            self.retries.succeeded(&key);
            self.warned.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            return Vec::new();
        }
        vec![key]
    }

    fn on_host(&self, change: Change<BareMetalHost>) -> Vec<Key> {
        let labels = match &change {
            Change::Applied(host) if usable(host) => Some(host.labels().clone()),
            _ => None,
        };
        self.saw(Key::of(&*change.into_object()), |seen| seen.labels = labels)
    }

    fn on_hardware(&self, change: Change<HardwareData>) -> Vec<Key> {
        let shape = match &change {
            Change::Applied(data) => data.spec.hardware.as_ref().and_then(Shape::of),
            Change::Deleted(_) => None,
        };
        self.saw(Key::of(&*change.into_object()), |seen| seen.shape = shape)
    }

    /// The templates that are concerned, none if nothing is new.
    fn saw(&self, host: Key, what: impl FnOnce(&mut Seen)) -> Vec<Key> {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(&host).cloned().unwrap_or_default();
        let mut after = before.clone();
        what(&mut after);
        if before == after {
            return Vec::new();
        }
        let namespace = host.namespace.clone();
        match after == Seen::default() {
            true => drop(all.remove(&host)),
            false => drop(all.insert(host, after)),
        }
        drop(all);
        let templates = self.templates.store().state();
        templates
            .iter()
            .map(|template| Key::of(&**template))
            .filter(|key| key.namespace == namespace)
            .collect()
    }

    /// What a machine of the template will offer.
    fn offer(&self, key: &Key, template: &BareMetalMachineTemplate) -> Offer {
        let reserve = template.annotations().get(names::NODE_RESERVE_ANNOTATION).map(String::as_str);
        let selector = match Selector::parse(template.spec.template.spec.host_selector.as_ref()) {
            Ok(selector) => selector,
            Err(error) => {
                let nothing = capacity::offer([], None);
                return Offer { warning: Some(format!("hostSelector: {error}")), ..nothing };
            }
        };
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let matching = seen
            .iter()
            .filter(|(host, _)| host.namespace == key.namespace)
            .filter(|(_, seen)| seen.labels.as_ref().is_some_and(|labels| selector.matches(labels)));
        capacity::offer(matching.filter_map(|(_, seen)| seen.shape.clone()), reserve)
    }

    /// Says what is wrong, once.
    fn warn(&self, key: &Key, template: &BareMetalMachineTemplate, warning: Option<String>) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(warning) = warning else {
            warned.remove(key);
            return;
        };
        if warned.get(key) != Some(&warning) {
            tracing::warn!(template = %key, %warning, "capacity of a template");
            self.events.publish(
                template,
                EventKind::Warning,
                "CapacityUncertain",
                "PublishCapacity",
                &warning,
            );
            warned.insert(key.clone(), warning);
        }
    }
}

/// Whether a machine may ever be put on the host: whether it is free now does not matter.
fn usable(host: &BareMetalHost) -> bool {
    host.metadata.deletion_timestamp.is_none()
        && !host.spec.waits_for_approval()
        && !host.spec.externally_provisioned
}

/// Takes all but what is read here out of an object before it is cached: there is one for each host, and they are large.
pub fn prune(data: &mut HardwareData) {
    let hardware = data.spec.hardware.take().map(|hardware| HardwareDetails {
        ram_mebibytes: hardware.ram_mebibytes,
        cpu: Cpu { arch: hardware.cpu.arch, count: hardware.cpu.count, ..Cpu::default() },
        gpus: hardware.gpus.map(|gpus| {
            let vendor = |gpu: Gpu| Gpu { vendor_id: gpu.vendor_id, ..Gpu::default() };
            gpus.into_iter().map(vendor).collect()
        }),
        ..HardwareDetails::default()
    });
    data.spec = HardwareDataSpec { hardware, ..HardwareDataSpec::default() };
}

/// Runs the controller until `stop`.
pub async fn run(
    context: Arc<TemplateContext>,
    concurrency: u16,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let ready = async {
        context.templates.ready().await?;
        context.hosts.ready().await?;
        context.hardware.ready().await
    };
    tokio::select! {
        ready = ready => ready?,
        () = stop.cancelled() => return Ok(()),
    }
    // Before the first template is looked at, all hosts are known.
    for host in context.hosts.store().state() {
        context.on_host(Change::Applied(host));
    }
    for data in context.hardware.store().state() {
        context.on_hardware(Change::Applied(data));
    }
    let keys: stream::SelectAll<stream::BoxStream<'static, Vec<Key>>> = stream::select_all([
        mapped(&context, context.templates.changes(), TemplateContext::on_template),
        mapped(&context, context.hosts.changes(), TemplateContext::on_host),
        mapped(&context, context.hardware.changes(), TemplateContext::on_hardware),
    ]);
    let wakes = keys.flat_map(stream::iter).map(|key| key.object_ref::<BareMetalMachineTemplate>());
    Controller::for_shared_stream(stream::pending(), context.templates.store())
        .with_config(Config::default().concurrency(concurrency).debounce(TOGETHER))
        .reconcile_on(wakes)
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, back_off, context)
        .for_each(|_| futures::future::ready(()))
        .await;
    Ok(())
}

fn back_off(
    object: Arc<BareMetalMachineTemplate>,
    error: &ApiError,
    context: Arc<TemplateContext>,
) -> Action {
    if !error.is_conflict() {
        context.metrics.error(error.reason());
        tracing::warn!(object = %ObjectRef::from_obj(&*object), %error, "capacity not published");
    }
    Action::requeue(context.retries.failed(&Key::of(&*object), error))
}

async fn reconcile(
    object: Arc<BareMetalMachineTemplate>,
    context: Arc<TemplateContext>,
) -> Result<Action, ApiError> {
    let started = Instant::now();
    let result = publish(&object, &context).await;
    let label = match &result {
        Ok(()) => "done",
        Err(error) if error.is_conflict() => "conflict",
        Err(_) => "error",
    };
    context.metrics.reconciled("template", label, started.elapsed());
    result.map(|()| Action::requeue(RESYNC + backoff::spread(RESYNC / 2, &Key::of(&*object).to_string())))
}

async fn publish(object: &BareMetalMachineTemplate, context: &TemplateContext) -> Result<(), ApiError> {
    let key = Key::of(object);
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let Offer { status, warning } = context.offer(&key, object);
    context.warn(&key, object, warning);
    let before = object.status.clone().unwrap_or_default();
    if let Some(change) = merge_diff(&json!(before), &json!(status)) {
        let api: Api<BareMetalMachineTemplate> = Api::namespaced(context.client.clone(), &key.namespace);
        let change = json!({ "status": change });
        let version = object.resource_version();
        let _: BareMetalMachineTemplate =
            patch::merge_patch_status(&api, &key.name, version.as_deref(), change).await?;
        tracing::info!(template = %key, capacity = ?status.capacity, "capacity published");
    }
    context.retries.succeeded(&key);
    Ok(())
}
