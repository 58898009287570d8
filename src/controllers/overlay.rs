//! What this process wrote last, until the cache has caught up. A reconcile that looks at a cache from before its own
//! last write would do the same step again, and only the API server's conflict would stop it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;

use crate::key::Key;

/// See the module.
#[derive(Debug)]
pub(crate) struct Overlay<K>(Mutex<HashMap<Key, Arc<K>>>);

impl<K> Default for Overlay<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: ResourceExt> Overlay<K> {
    /// Notes an object as the API server answered it. Answers may come in another order than the writes were made.
    pub(crate) fn put(&self, object: Arc<K>) {
        let mut written = self.lock();
        let key = Key::of(&*object);
        if written.get(&key).is_none_or(|known| !is_newer(&**known, &*object)) {
            written.insert(key, object);
        }
    }

    /// Forgets an object: it is gone.
    pub(crate) fn remove(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// The newer of the cached object and what was written. Where versions cannot be compared, the cache is right.
    pub(crate) fn latest(&self, cached: Arc<K>) -> Arc<K> {
        let mut written = self.lock();
        let key = Key::of(&*cached);
        match written.get(&key) {
            Some(ours) if is_newer(&**ours, &*cached) => ours.clone(),
            Some(_) => {
                written.remove(&key);
                cached
            }
            None => cached,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<K>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `a` is a later version of the same object than `b`. The API server's versions are decimal numbers that grow.
pub(crate) fn is_newer<K: ResourceExt>(a: &K, b: &K) -> bool {
    let version = |object: &K| object.resource_version().and_then(|v| v.parse::<u64>().ok());
    let same = a.uid() == b.uid();
    matches!((version(a), version(b)), (Some(a), Some(b)) if same && a > b)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(uid: &str, version: &str) -> Arc<ConfigMap> {
        let mut map = ConfigMap::default();
        map.metadata.namespace = Some("ns".into());
        map.metadata.name = Some("a".into());
        map.metadata.uid = Some(uid.into());
        map.metadata.resource_version = Some(version.into());
        Arc::new(map)
    }

    #[test]
    fn what_was_written_hides_the_cache_until_it_catches_up() {
        let overlay = Overlay::default();
        overlay.put(object("u", "100"));
        assert_eq!(overlay.latest(object("u", "99")).resource_version().unwrap(), "100");
        assert_eq!(overlay.latest(object("u", "100")).resource_version().unwrap(), "100");
        assert_eq!(overlay.latest(object("u", "99")).resource_version().unwrap(), "99", "it was forgotten");
    }

    #[test]
    fn an_object_made_anew_is_not_hidden_by_its_predecessor() {
        let overlay = Overlay::default();
        overlay.put(object("old", "100"));
        assert_eq!(overlay.latest(object("new", "50")).uid().unwrap(), "new");
    }
}
