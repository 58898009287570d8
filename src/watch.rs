//! One watch and one cache per kind, shared by all controllers.
//!
//! An object that cannot be parsed is logged, counted and skipped; it never stops the watch. What nobody reads
//! (`managedFields`, kubectl's last-applied annotation) is dropped before it reaches the cache: it is half of the
//! memory.
//!
//! kube's own shared stream is not used: its handle can miss a wake-up when an object is deleted while a notice of it
//! is queued, its bounded queue then blocks the watch, and it says nothing about deletions.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::key::Key;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::KindLabel;

/// Annotation in which kubectl keeps the whole manifest once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What every watched kind is.
pub trait Watchable:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Watchable for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<K> {
    /// It is there, new or changed.
    Applied(Arc<K>),
    /// It is gone; this is its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object, there or gone.
    pub fn into_object(self) -> Arc<K> {
        match self {
            Self::Applied(object) | Self::Deleted(object) => object,
        }
    }
}

/// A kind that is watched: its cache and its news. Cheap to clone.
#[derive(Debug)]
pub struct Watched<K: Watchable> {
    store: Store<K>,
    hub: Arc<Mutex<Hub<K>>>,
}

impl<K: Watchable> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), hub: self.hub.clone() }
    }
}

impl<K: Watchable> Watched<K> {
    /// Starts to watch in one namespace or in all, optionally only what a label selector matches. The watch lives as
    /// a task of `tasks` and does not end by itself.
    pub fn start(
        client: Client,
        namespace: Option<&str>,
        selector: Option<&str>,
        metrics: &Arc<Metrics>,
        tasks: &mut JoinSet<anyhow::Result<()>>,
    ) -> Self {
        Self::start_pruned(client, namespace, selector, metrics, tasks, |_| {})
    }

    /// Like [`Watched::start`], and `prune` removes from each object what this manager never reads from the cache.
    pub fn start_pruned(
        client: Client,
        namespace: Option<&str>,
        selector: Option<&str>,
        metrics: &Arc<Metrics>,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        prune: fn(&mut K),
    ) -> Self {
        let api: Api<Guarded<K>> = match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let config =
            watcher::Config { label_selector: selector.map(str::to_owned), ..watcher::Config::default() };
        let events = kube::runtime::watcher(api, config).default_backoff();
        let (watched, mut feed) = Self::unfed(metrics.clone(), prune);
        tasks.spawn(async move {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                feed.take(event);
            }
            anyhow::bail!("the watch of {} ended", K::plural(&()))
        });
        watched
    }

    /// A cache without a watch, and the feed that fills it.
    fn unfed(metrics: Arc<Metrics>, prune: fn(&mut K)) -> (Self, Feed<K>) {
        let writer = Writer::default();
        let watched = Self { store: writer.as_reader(), hub: Arc::default() };
        let feed = Feed { writer, watched: watched.clone(), metrics, prune };
        (watched, feed)
    }

    /// The cache.
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// One object from the cache.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.store.get(&key.object_ref())
    }

    /// Waits until the first list is in the cache.
    pub async fn ready(&self) -> anyhow::Result<()> {
        self.store
            .wait_until_ready()
            .await
            .map_err(|_| anyhow::anyhow!("the watch of {} ended before its first list", K::plural(&())))
    }

    /// Whether the first list is in the cache.
    pub fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// Objects as they appear and change, beginning with those that are there now: what
    /// `Controller::for_shared_stream` wants. A stream that is kept must be read.
    pub fn subscribe(&self) -> impl Stream<Item = Arc<K>> + Send + 'static + use<K> {
        self.changes().filter_map(async |change| match change {
            Change::Applied(object) => Some(object),
            Change::Deleted(_) => None,
        })
    }

    /// Like [`Watched::subscribe`], and deleted objects once more: what `Controller::watches_shared_stream` and
    /// `owns_shared_stream` want.
    pub fn subscribe_touched(&self) -> impl Stream<Item = Arc<K>> + Send + 'static + use<K> {
        self.changes().map(Change::into_object)
    }

    /// Appearances, changes and deletions, beginning with what is there now: what an index wants.
    pub fn changes(&self) -> impl Stream<Item = Change<K>> + Send + 'static + use<K> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut hub = self.lock();
        if hub.ready {
            for object in self.store.state() {
                // The receiver is in our hands: this cannot fail.
                let _ = sender.send(Change::Applied(object));
            }
        }
        hub.subscribers.push(sender);
        drop(hub);
        UnboundedReceiverStream::new(receiver)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Hub<K>> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who wants news.
#[derive(Debug)]
struct Hub<K> {
    ready: bool,
    subscribers: Vec<mpsc::UnboundedSender<Change<K>>>,
}

impl<K> Default for Hub<K> {
    fn default() -> Self {
        Self { ready: false, subscribers: Vec::new() }
    }
}

impl<K> Hub<K> {
    fn tell(&mut self, change: &Change<K>)
    where
        Change<K>: Clone,
    {
        self.subscribers.retain(|subscriber| subscriber.send(change.clone()).is_ok());
    }
}

/// Takes the watch's events into the cache and tells the subscribers.
struct Feed<K: Watchable> {
    writer: Writer<K>,
    watched: Watched<K>,
    metrics: Arc<Metrics>,
    prune: fn(&mut K),
}

impl<K: Watchable> Feed<K> {
    fn take(&mut self, event: watcher::Result<Event<Guarded<K>>>) {
        match event {
            Ok(Event::Init) => self.writer.apply_watcher_event(&Event::Init),
            Ok(Event::InitApply(object)) => {
                if let Some(object) = self.usable(object) {
                    self.writer.apply_watcher_event(&Event::InitApply(object));
                }
            }
            Ok(Event::InitDone) => self.relisted(),
            Ok(Event::Apply(object)) => {
                if let Some(object) = self.usable(object) {
                    let reference = ObjectRef::from_obj(&object);
                    self.writer.apply_watcher_event(&Event::Apply(object));
                    if let Some(object) = self.watched.store.get(&reference) {
                        self.watched.lock().tell(&Change::Applied(object));
                    }
                }
            }
            Ok(Event::Delete(object)) => self.deleted(object),
            Err(error) => {
                self.metrics.watch_failures.get_or_create(&kind_label::<K>()).inc();
                tracing::warn!(kind = %K::kind(&()), %error, "watch failed; it is taken up again");
            }
        }
    }

    /// A fresh list is complete. Objects that are the same as before are no news.
    fn relisted(&mut self) {
        let mut before: HashMap<Key, Arc<K>> =
            self.watched.store.state().into_iter().map(|object| (Key::of(&*object), object)).collect();
        self.writer.apply_watcher_event(&Event::InitDone);
        let mut hub = self.watched.lock();
        hub.ready = true;
        for object in self.watched.store.state() {
            let old = before.remove(&Key::of(&*object));
            if old.is_none_or(|old| old.meta().resource_version != object.meta().resource_version) {
                hub.tell(&Change::Applied(object));
            }
        }
        for (_, gone) in before {
            hub.tell(&Change::Deleted(gone));
        }
    }

    /// A deletion needs no more than the name, so an unparsable object can go as well.
    fn deleted(&mut self, object: Guarded<K>) {
        let key = Key::new(
            object.meta().namespace.clone().unwrap_or_default(),
            object.meta().name.clone().unwrap_or_default(),
        );
        let last_known = self.watched.get(&key);
        let gone = match object.0 {
            Ok(mut object) => {
                (self.prune)(&mut object);
                *object
            }
            Err(_) => match &last_known {
                Some(object) => (**object).clone(),
                None => return,
            },
        };
        self.writer.apply_watcher_event(&Event::Delete(gone.clone()));
        self.watched.lock().tell(&Change::Deleted(Arc::new(gone)));
    }

    /// The object, pruned; or `None`, logged and counted, if it could not be parsed. Its last good state, if there is
    /// one, stays in the cache until the next list: to believe an object gone is worse than to believe it unchanged.
    fn usable(&self, object: Guarded<K>) -> Option<K> {
        match object.0 {
            Ok(mut object) => {
                (self.prune)(&mut object);
                Some(*object)
            }
            Err(unparsable) => {
                self.metrics.unparsable_objects.get_or_create(&kind_label::<K>()).inc();
                tracing::warn!(
                    kind = %K::kind(&()),
                    namespace = unparsable.metadata.namespace,
                    name = unparsable.metadata.name,
                    error = unparsable.error,
                    "object cannot be parsed and is skipped; mend or delete it"
                );
                None
            }
        }
    }
}

fn kind_label<K: Watchable>() -> KindLabel {
    KindLabel { kind: K::kind(&()).into_owned() }
}

/// An object, or why it could not be parsed. Does what kube's `DeserializeGuard` does without copying each object
/// twice, and prunes on the way.
#[derive(Debug, Clone)]
pub(crate) struct Guarded<K>(Result<Box<K>, Box<Unparsable>>);

impl<K> Guarded<K> {
    /// The object, if it could be parsed.
    pub(crate) fn into_object(self) -> Option<K> {
        self.0.ok().map(|object| *object)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Unparsable {
    metadata: ObjectMeta,
    error: String,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        prune(&mut value);
        // Kept aside since parsing uses the value up.
        let text = |field: &str| value.pointer(field).and_then(Value::as_str).map(str::to_owned);
        let metadata = ObjectMeta {
            name: text("/metadata/name"),
            namespace: text("/metadata/namespace"),
            uid: text("/metadata/uid"),
            resource_version: text("/metadata/resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self(match serde_json::from_value::<K>(value) {
            Ok(object) => Ok(Box::new(object)),
            Err(error) => Err(Box::new(Unparsable { metadata, error: error.to_string() })),
        }))
    }
}

/// Drops what nobody reads.
fn prune(value: &mut Value) {
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    metadata.remove("managedFields");
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(object) => object.meta(),
            Err(unparsable) => &unparsable.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(object) => object.meta_mut(),
            Err(unparsable) => &mut unparsable.metadata,
        }
    }
}

#[cfg(test)]
mod tests;
