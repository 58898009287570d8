//! What must never be: every value that something has while a test runs, as a watch sees it, and not only those of the
//! moments at which somebody looks.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use futures::{StreamExt as _, pin_mut};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

/// Watches objects of a kind until it is dropped.
pub struct Watched<T> {
    seen: Arc<Mutex<Vec<(String, T)>>>,
    task: JoinHandle<()>,
}

impl<T: Clone + Debug + PartialEq + Send + 'static> Watched<T> {
    /// From what there is now on. Of each object `look` says what is kept of it; None: nothing.
    pub async fn begin<K>(api: Api<K>, look: fn(&K) -> Option<T>) -> Self
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let list = api.list(&ListParams::default()).await.unwrap();
        let seen: Vec<(String, T)> =
            list.items.iter().filter_map(|object| Some((object.name_any(), look(object)?))).collect();
        let seen = Arc::new(Mutex::new(seen));
        let kept = seen.clone();
        let task = tokio::spawn(async move {
            let mut version = list.metadata.resource_version.unwrap_or_default();
            loop {
                let events = api.watch(&WatchParams::default(), &version).await.unwrap();
                pin_mut!(events);
                while let Some(event) = events.next().await {
                    match event.unwrap() {
                        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                            version = object.resource_version().unwrap_or_default();
                            if let Some(value) = look(&object) {
                                kept.lock().unwrap().push((object.name_any(), value));
                            }
                        }
                        WatchEvent::Deleted(object) => {
                            version = object.resource_version().unwrap_or_default()
                        }
                        WatchEvent::Bookmark(mark) => version = mark.metadata.resource_version,
                        WatchEvent::Error(error) => panic!("the watch broke: {error:?}"),
                    }
                }
            }
        });
        Self { seen, task }
    }

    /// A moment, to look only at what was after it.
    pub fn now(&self) -> usize {
        self.all().len()
    }

    /// All values in their order. A watch that broke would have seen nothing.
    fn all(&self) -> Vec<(String, T)> {
        assert!(!self.task.is_finished(), "the watch broke");
        self.seen.lock().unwrap().clone()
    }

    /// The values that one object took after a moment, with the one that it had then, without repetitions.
    pub fn of(&self, name: &str, since: usize) -> Vec<T> {
        let all = self.all();
        let own = |values: &[(String, T)]| -> Vec<T> {
            values.iter().filter(|(of, _)| of == name).map(|(_, value)| value.clone()).collect()
        };
        let mut values: Vec<T> = own(&all[..since]).into_iter().last().into_iter().collect();
        values.extend(own(&all[since..]));
        values.dedup();
        values
    }

    /// What all objects had at each moment after one, that one included.
    pub fn states(&self, since: usize) -> Vec<BTreeMap<String, T>> {
        let all = self.all();
        let mut state: BTreeMap<String, T> = all[..since].iter().cloned().collect();
        let mut states = vec![state.clone()];
        for (name, value) in &all[since..] {
            state.insert(name.clone(), value.clone());
            states.push(state.clone());
        }
        states
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
