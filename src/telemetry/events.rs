//! Kubernetes events: published on transitions only, from a bounded queue, so that a slow API server never holds up
//! a reconcile. What does not fit is dropped and counted; conditions remain the source of truth.
//!
//! kube's own recorder is not used: it keeps every event of the last minutes in memory to build series, which at
//! 10,000 hosts is more than the caches. A transition has no series.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;

use super::Metrics;
use crate::patch::{self, FIELD_MANAGER};

/// How many events may wait for the API server.
const QUEUE: usize = 1024;
/// The API server refuses longer notes.
const NOTE_LIMIT: usize = 1024;

/// Whether an event is news or trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// News.
    Normal,
    /// Trouble that somebody should look at.
    Warning,
}

/// Where events are handed in. Cheap to clone; handing in never waits.
#[derive(Debug, Clone)]
pub struct Events {
    queue: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
    instance: Arc<str>,
    counter: Arc<AtomicU64>,
}

impl Events {
    /// Starts the publisher as a task of `tasks`; it ends when the last [`Events`] is dropped. `instance` is the name
    /// of this replica.
    pub fn start(
        client: Client,
        instance: &str,
        metrics: Arc<Metrics>,
        tasks: &mut tokio::task::JoinSet<anyhow::Result<()>>,
    ) -> Self {
        let (events, queue) = Self::new(instance, metrics, QUEUE);
        let metrics = events.metrics.clone();
        tasks.spawn(async move {
            publish(client, queue, metrics).await;
            Ok(())
        });
        events
    }

    fn new(instance: &str, metrics: Arc<Metrics>, depth: usize) -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(depth);
        let events = Self { queue: sender, metrics, instance: instance.into(), counter: Arc::default() };
        (events, receiver)
    }

    /// Events that go nowhere, for tests of what hands them in.
    pub fn nowhere() -> Self {
        Self::new("nobody", Arc::default(), 1).0
    }

    /// Tells about a transition of `object`. `reason` is CamelCase, `action` what was being done, `note` a sentence.
    pub fn publish<K>(&self, object: &K, kind: EventKind, reason: &str, action: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let event = self.build(object.object_ref(&()), kind, reason, action, note, Timestamp::now());
        if self.queue.try_send(event).is_err() {
            self.metrics.events_dropped.inc();
        }
    }

    fn build(
        &self,
        regarding: ObjectReference,
        kind: EventKind,
        reason: &str,
        action: &str,
        note: &str,
        now: Timestamp,
    ) -> Event {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        // Time makes the name unique over restarts, the number within one nanosecond.
        let suffix = format!(".{:x}.{number:x}", now.as_nanosecond());
        let object = regarding.name.as_deref().unwrap_or("ferric");
        let room = 253usize.saturating_sub(suffix.len());
        let name = format!("{}{suffix}", truncated(object, room));
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(regarding.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            action: Some(truncated(action, 128).to_owned()),
            reason: Some(truncated(reason, 128).to_owned()),
            note: Some(truncated(note, NOTE_LIMIT).to_owned()),
            type_: Some(format!("{kind:?}")),
            event_time: Some(MicroTime(now)),
            regarding: Some(regarding),
            reporting_controller: Some(FIELD_MANAGER.to_owned()),
            reporting_instance: Some(truncated(&self.instance, 128).to_owned()),
            ..Event::default()
        }
    }
}

/// The longest prefix of at most `limit` bytes that ends between characters.
fn truncated(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

async fn publish(client: Client, mut queue: mpsc::Receiver<Event>, metrics: Arc<Metrics>) {
    while let Some(event) = queue.recv().await {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        if let Err(error) = patch::create(&api, &event).await {
            metrics.events_dropped.inc();
            tracing::debug!(%error, reason = event.reason, "event not delivered");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str) -> ConfigMap {
        let metadata =
            ObjectMeta { name: Some(name.into()), namespace: Some("racks".into()), ..ObjectMeta::default() };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let metrics = Arc::new(Metrics::new());
        let (events, mut queue) = Events::new("ferric-0", metrics.clone(), 1);
        events.publish(&object("a"), EventKind::Normal, "Registered", "Register", "BMC answers");
        events.publish(&object("b"), EventKind::Warning, "Lost", "Register", "BMC is gone");
        assert_eq!(metrics.events_dropped.get(), 1);
        let event = queue.try_recv().unwrap();
        assert_eq!(event.type_.as_deref(), Some("Normal"));
        assert_eq!(event.regarding.unwrap().name.as_deref(), Some("a"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("racks"));
        assert_eq!(event.reporting_instance.as_deref(), Some("ferric-0"));
    }

    #[test]
    fn names_are_unique_and_everything_keeps_its_limit() {
        let (events, _queue) = Events::new("i", Arc::default(), 1);
        let now = Timestamp::UNIX_EPOCH;
        let long = "ü".repeat(2000);
        let reference = object(&"h".repeat(253)).object_ref(&());
        let first = events.build(reference.clone(), EventKind::Normal, &long, &long, &long, now);
        let second = events.build(reference, EventKind::Normal, "R", "A", "n", now);
        assert_ne!(first.metadata.name, second.metadata.name);
        assert!(first.metadata.name.unwrap().len() <= 253);
        assert!(first.note.unwrap().len() <= NOTE_LIMIT);
        assert!(first.reason.unwrap().len() <= 128);
    }
}
