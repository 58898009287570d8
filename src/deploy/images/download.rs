//! One download in the making: its file, and the room that it takes in the cache.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Inner, PARTIAL,
    ledger::Full,
    now_ms,
    store::{self, remove_file},
};

/// Room and file of a download, given back when it is over.
pub(super) struct Download {
    inner: Arc<Inner>,
    id: u64,
    /// Where it is put.
    pub(super) path: PathBuf,
}

impl Download {
    /// Room for nothing yet, and a name of its own.
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        let id = inner.downloads.fetch_add(1, Ordering::Relaxed);
        Self { inner: Arc::clone(inner), id, path: inner.dir.join(PARTIAL).join(id.to_string()) }
    }

    /// Takes room for this many bytes in all; what was used least recently goes for it.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), Full> {
        let gone = self.inner.state().ledger.reserve(self.id, bytes, now_ms())?;
        gone.iter().for_each(|digest| store::remove(&self.inner.dir, digest));
        Ok(())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.inner.state().ledger.unreserve(self.id);
        for path in
            [self.path.clone(), self.path.with_extension("qcow2"), self.path.with_extension("extents")]
        {
            remove_file(&path);
        }
    }
}
