#![allow(clippy::unwrap_used)]

use futures::FutureExt;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::*;

fn object(name: &str, version: u32) -> Guarded<ConfigMap> {
    serde_json::from_value(json!({
        "metadata": {
            "namespace": "racks", "name": name, "resourceVersion": version.to_string(),
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {LAST_APPLIED: "{}", "keep": "me"},
        },
    }))
    .unwrap()
}

fn broken(name: &str) -> Guarded<ConfigMap> {
    let value =
        json!({"metadata": {"namespace": "racks", "name": name, "resourceVersion": "9"}, "data": "no map"});
    serde_json::from_value(value).unwrap()
}

fn list(feed: &mut Feed<ConfigMap>, objects: Vec<Guarded<ConfigMap>>) {
    feed.take(Ok(Event::Init));
    for object in objects {
        feed.take(Ok(Event::InitApply(object)));
    }
    feed.take(Ok(Event::InitDone));
}

/// What has arrived, as `+name@version` and `-name@version`, sorted.
fn arrived(stream: &mut (impl Stream<Item = Change<ConfigMap>> + Unpin)) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(Some(change)) = stream.next().now_or_never() {
        let sign = if matches!(change, Change::Applied(_)) { '+' } else { '-' };
        let object = change.into_object();
        let name = object.metadata.name.as_deref().unwrap_or_default().to_owned();
        all.push(format!("{sign}{name}@{}", object.metadata.resource_version.as_deref().unwrap_or_default()));
    }
    all.sort();
    all
}

fn bed() -> (Watched<ConfigMap>, Feed<ConfigMap>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let (watched, feed) = Watched::unfed(metrics.clone(), |_| {});
    (watched, feed, metrics)
}

#[test]
fn what_nobody_reads_is_dropped() {
    let (watched, mut feed, _) = bed();
    list(&mut feed, vec![object("a", 1)]);
    let cached = watched.get(&Key::new("racks", "a")).unwrap();
    assert_eq!(cached.metadata.managed_fields, None);
    assert_eq!(cached.metadata.annotations.as_ref().unwrap().keys().collect::<Vec<_>>(), ["keep"]);
}

#[test]
fn news_reach_early_and_late_subscribers() {
    let (watched, mut feed, _) = bed();
    let mut early = watched.changes();
    assert!(!watched.is_ready());
    list(&mut feed, vec![object("a", 1), object("b", 1)]);
    assert!(watched.is_ready());
    assert_eq!(arrived(&mut early), ["+a@1", "+b@1"]);
    let mut late = watched.changes();
    assert_eq!(arrived(&mut late), ["+a@1", "+b@1"]);
    feed.take(Ok(Event::Apply(object("a", 2))));
    feed.take(Ok(Event::Delete(object("b", 3))));
    assert_eq!(arrived(&mut early), ["+a@2", "-b@3"]);
    assert_eq!(arrived(&mut late), ["+a@2", "-b@3"]);
    assert!(watched.get(&Key::new("racks", "b")).is_none());
}

#[test]
fn a_relist_tells_only_what_is_different() {
    let (watched, mut feed, _) = bed();
    list(&mut feed, vec![object("same", 1), object("changed", 1), object("gone", 1)]);
    let mut changes = watched.changes();
    arrived(&mut changes);
    list(&mut feed, vec![object("same", 1), object("changed", 2), object("new", 3)]);
    assert_eq!(arrived(&mut changes), ["+changed@2", "+new@3", "-gone@1"]);
}

#[test]
fn an_unparsable_object_is_skipped_and_counted() {
    let (watched, mut feed, metrics) = bed();
    let mut changes = watched.changes();
    list(&mut feed, vec![object("good", 1), broken("bad")]);
    assert_eq!(arrived(&mut changes), ["+good@1"]);
    // The last good state stays.
    feed.take(Ok(Event::Apply(broken("good"))));
    assert_eq!(arrived(&mut changes), [""; 0]);
    assert!(watched.get(&Key::new("racks", "good")).is_some());
    assert!(
        metrics.encode().contains("ferric_unparsable_objects_total{kind=\"ConfigMap\"} 2"),
        "{}",
        metrics.encode()
    );
    // Deletion needs no more than the name.
    feed.take(Ok(Event::Delete(broken("good"))));
    feed.take(Ok(Event::Delete(broken("never seen"))));
    assert_eq!(arrived(&mut changes), ["-good@1"]);
    assert!(watched.get(&Key::new("racks", "good")).is_none());
}

#[test]
fn a_broken_watch_is_counted_and_changes_nothing() {
    let (watched, mut feed, metrics) = bed();
    list(&mut feed, vec![object("a", 1)]);
    feed.take(Err(watcher::Error::NoResourceVersion));
    assert!(watched.get(&Key::new("racks", "a")).is_some());
    assert!(metrics.encode().contains("ferric_watch_failures_total{kind=\"ConfigMap\"} 1"));
}

#[test]
fn a_dropped_subscriber_is_forgotten() {
    let (watched, mut feed, _) = bed();
    drop(watched.changes());
    list(&mut feed, vec![object("a", 1)]);
    assert!(watched.lock().subscribers.is_empty());
}

#[tokio::test]
async fn ready_fails_when_the_watch_is_gone() {
    let (watched, feed, _) = bed();
    drop(feed);
    assert!(watched.ready().await.unwrap_err().to_string().contains("configmaps"));
}

#[test]
fn controllers_get_objects_and_deletions_apart() {
    let (watched, mut feed, _) = bed();
    let mut own = std::pin::pin!(watched.subscribe());
    let mut others = std::pin::pin!(watched.subscribe_touched());
    list(&mut feed, vec![object("a", 1)]);
    feed.take(Ok(Event::Delete(object("a", 2))));
    assert!(own.next().now_or_never().flatten().is_some());
    assert!(own.next().now_or_never().is_none());
    assert!(others.next().now_or_never().flatten().is_some());
    assert!(others.next().now_or_never().flatten().is_some());
}
