//! What is in the cache and what may go: pure accounting, no files in here. Time is milliseconds since 1970, so that a
//! file's modification time is comparable after a restart.

use std::collections::HashMap;

use ferric_protocol::v1::Compression;

/// An image asked for within this time is about to be fetched by a host and stays.
pub(super) const PROTECTED_MS: u64 = 5 * 60 * 1000;

/// One file in the cache.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub size: u64,
    pub used_at: u64,
    /// Streams that read it now.
    pub users: usize,
    /// How it is compressed, once its digest has been checked by this process.
    pub verified: Option<Compression>,
    /// Digest of the image that these extents were made from; absent for what is kept as it was downloaded.
    pub source: Option<String>,
}

/// There is no room, and nothing that may go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an image of {needed} bytes does not fit the cache of {max} bytes, of which {in_use} are in use")]
pub(super) struct Full {
    pub needed: u64,
    pub max: u64,
    pub in_use: u64,
}

/// All files of the cache, and the room taken by downloads.
#[derive(Debug)]
pub(super) struct Ledger {
    max: u64,
    entries: HashMap<String, Entry>,
    reserved: HashMap<u64, u64>,
}

impl Ledger {
    pub(super) fn new(max: u64) -> Self {
        Self { max, entries: HashMap::new(), reserved: HashMap::new() }
    }

    pub(super) fn insert(&mut self, digest: String, entry: Entry) {
        let users = self.entries.get(&digest).map_or(entry.users, |e| e.users);
        self.entries.insert(digest, Entry { users, ..entry });
    }

    pub(super) fn get(&self, digest: &str) -> Option<&Entry> {
        self.entries.get(digest)
    }

    /// Digest of the extents that were made from an image; those that are known to be good come first.
    pub(super) fn extents_of(&self, source: &str) -> Option<String> {
        let made = self.entries.iter().filter(|(_, entry)| entry.source.as_deref() == Some(source));
        made.min_by_key(|(digest, entry)| (entry.verified.is_none(), *digest))
            .map(|(digest, _)| digest.clone())
    }

    pub(super) fn get_mut(&mut self, digest: &str) -> Option<&mut Entry> {
        self.entries.get_mut(digest)
    }

    pub(super) fn remove(&mut self, digest: &str) {
        self.entries.remove(digest);
    }

    /// Counts a reader in.
    pub(super) fn hold(&mut self, digest: &str, now: u64) -> Option<u64> {
        let entry = self.entries.get_mut(digest)?;
        entry.users += 1;
        entry.used_at = now;
        Some(entry.size)
    }

    /// Counts a reader out.
    pub(super) fn release(&mut self, digest: &str, now: u64) {
        if let Some(entry) = self.entries.get_mut(digest) {
            entry.users = entry.users.saturating_sub(1);
            entry.used_at = now;
        }
    }

    /// Bytes of all files and downloads.
    pub(super) fn total(&self) -> u64 {
        self.entries.values().map(|e| e.size).chain(self.reserved.values().copied()).sum()
    }

    /// Takes room for a download of `bytes` in all, replacing what it had taken. Returns what must go for it: the least
    /// recently used first, never what is read or was asked for a moment ago, and nothing at all if that is not enough.
    pub(super) fn reserve(&mut self, download: u64, bytes: u64, now: u64) -> Result<Vec<String>, Full> {
        let before = self.reserved.remove(&download);
        match self.make_room(bytes, now.saturating_sub(PROTECTED_MS)) {
            Ok(gone) => {
                self.reserved.insert(download, bytes);
                Ok(gone)
            }
            Err(full) => {
                if let Some(before) = before {
                    self.reserved.insert(download, before);
                }
                Err(full)
            }
        }
    }

    /// The download is over, however it ended.
    pub(super) fn unreserve(&mut self, download: u64) {
        self.reserved.remove(&download);
    }

    /// Drops entries used before `before` until `bytes` more fit.
    pub(super) fn make_room(&mut self, bytes: u64, before: u64) -> Result<Vec<String>, Full> {
        let mut total = self.total();
        let mut idle: Vec<_> =
            self.entries.iter().filter(|(_, e)| e.users == 0 && e.used_at < before).collect();
        idle.sort_by(|(a, x), (b, y)| (x.used_at, a).cmp(&(y.used_at, b)));
        let mut gone = Vec::new();
        for (digest, entry) in idle {
            if total.saturating_add(bytes) <= self.max {
                break;
            }
            total -= entry.size;
            gone.push(digest.clone());
        }
        if total.saturating_add(bytes) > self.max {
            return Err(Full { needed: bytes, max: self.max, in_use: total });
        }
        for digest in &gone {
            self.entries.remove(digest);
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 100 * PROTECTED_MS;

    fn entry(size: u64, age: u64, users: usize) -> Entry {
        Entry { size, used_at: NOW - age, users, verified: None, source: None }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_no_more_than_needed() {
        let mut ledger = Ledger::new(100);
        for (name, age) in [("a", 10), ("b", 30), ("c", 20)] {
            ledger.insert(name.into(), entry(30, age * PROTECTED_MS, 0));
        }
        assert_eq!(ledger.reserve(1, 10, NOW), Ok(vec![]));
        assert_eq!(ledger.reserve(1, 40, NOW), Ok(vec!["b".to_owned()]));
        assert_eq!(ledger.reserve(1, 71, NOW), Ok(vec!["c".to_owned(), "a".to_owned()]));
        assert_eq!(ledger.reserve(2, 30, NOW), Err(Full { needed: 30, max: 100, in_use: 71 }));
        ledger.unreserve(1);
        assert_eq!(ledger.reserve(2, 30, NOW), Ok(vec![]));
    }

    #[test]
    fn extents_are_found_by_the_image_that_they_were_made_from() {
        let mut ledger = Ledger::new(100);
        let made = |verified| Entry { verified, source: Some("image".into()), ..entry(1, 0, 0) };
        ledger.insert("a".into(), made(None));
        assert_eq!(ledger.extents_of("image").as_deref(), Some("a"));
        ledger.insert("b".into(), made(Some(Compression::Extents)));
        assert_eq!(ledger.extents_of("image").as_deref(), Some("b"));
        assert_eq!(ledger.extents_of("a"), None);
    }

    #[test]
    fn what_is_read_or_was_just_asked_for_stays() {
        let mut ledger = Ledger::new(100);
        ledger.insert("read".into(), entry(40, 50 * PROTECTED_MS, 1));
        ledger.insert("asked".into(), entry(40, 0, 0));
        assert!(ledger.reserve(1, 30, NOW).is_err());
        assert_eq!(ledger.total(), 80);
        ledger.release("read", NOW - 2 * PROTECTED_MS);
        assert_eq!(ledger.reserve(1, 30, NOW), Ok(vec!["read".to_owned()]));
    }

    proptest! {
        #[test]
        fn eviction_keeps_its_promises(
            files in prop::collection::vec((0u64..50, 0u64..4 * PROTECTED_MS, 0usize..2), 0..12),
            max in 0u64..300,
            bytes in 0u64..300,
        ) {
            let mut ledger = Ledger::new(max);
            for (i, (size, age, users)) in files.iter().enumerate() {
                ledger.insert(i.to_string(), entry(*size, *age, *users));
            }
            let before = ledger.entries.clone();
            match ledger.reserve(7, bytes, NOW) {
                Ok(gone) => {
                    prop_assert!(ledger.total() <= max);
                    let evicted = gone.iter().map(|d| &before[d]);
                    for e in evicted {
                        prop_assert!(e.users == 0 && e.used_at < NOW - PROTECTED_MS);
                        let older = |kept: &Entry| kept.users == 0 && kept.used_at < e.used_at;
                        prop_assert!(!ledger.entries.values().any(older));
                    }
                    // Without the last of them it would not have fitted.
                    if let Some(last) = gone.last().map(|d| &before[d]) {
                        prop_assert!(ledger.total() + last.size > max);
                    }
                }
                Err(_) => {
                    prop_assert_eq!(ledger.entries.len(), before.len());
                    let movable = before.values().filter(|e| e.users == 0 && e.used_at < NOW - PROTECTED_MS);
                    prop_assert!(ledger.total() - movable.map(|e| e.size).sum::<u64>() + bytes > max);
                }
            }
        }
    }
}
