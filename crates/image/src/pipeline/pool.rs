//! Buffers that go round between two stages: there are only so many, which is what bounds the memory of a write and
//! makes the faster stage wait for the slower one.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::device::aligned::Aligned;

/// Where the filling stage takes empty buffers from.
pub(super) struct Pool {
    free: Receiver<Aligned>,
}

/// Where the emptying stage gives them back.
pub(super) struct Returns {
    free: SyncSender<Aligned>,
}

/// `count` buffers of `bytes` bytes.
pub(super) fn pool(count: usize, bytes: usize) -> (Pool, Returns) {
    let (sender, free) = sync_channel(count);
    for _ in 0..count {
        // There is room for all of them, now and later: this never waits.
        let _ = sender.send(Aligned::zeroed(bytes));
    }
    (Pool { free }, Returns { free: sender })
}

impl Pool {
    /// An empty buffer, all of it in use; waits for one. `None` when the other end is gone: nobody would read it.
    pub(super) fn take(&self) -> Option<Aligned> {
        let mut buffer = self.free.recv().ok()?;
        buffer.set_len(buffer.capacity());
        Some(buffer)
    }
}

impl Returns {
    /// Gives a buffer back. That nobody wants it any more is no error.
    pub(super) fn give(&self, buffer: Aligned) {
        let _ = self.free.send(buffer);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn there_are_only_so_many_buffers_and_none_without_an_end() {
        let (pool, returns) = pool(2, 10);
        let mut first = pool.take().unwrap();
        let second = pool.take().unwrap();
        assert!(pool.free.try_recv().is_err());
        first.set_len(3);
        returns.give(first);
        assert_eq!(pool.take().unwrap().len(), 10);
        returns.give(second);
        drop(returns);
        assert!(pool.take().is_some(), "what was given back before is there still");
        assert!(pool.take().is_none());
    }
}
