//! How many hosts boot the agent at a time. Whoever finds no slot free stands in a queue, and is woken when it is its
//! turn: with a thousand hosts in the queue nobody asks again and again.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::key::Key;

/// The slots. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BootSlots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: mpsc::UnboundedSender<Key>,
}

#[derive(Debug)]
struct State {
    free: usize,
    queue: VecDeque<Key>,
    queued: HashSet<Key>,
}

/// A slot that is taken; free again when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Shared>);

impl BootSlots {
    /// `count` slots; who is to try again is sent to `wake`.
    pub fn new(count: usize, wake: mpsc::UnboundedSender<Key>) -> Self {
        let state = State { free: count, queue: VecDeque::new(), queued: HashSet::new() };
        Self(Arc::new(Shared { state: Mutex::new(state), wake }))
    }

    /// Takes a slot, or puts the host into the queue.
    pub(super) fn take(&self, host: &Key) -> Option<Slot> {
        let mut state = self.0.lock();
        if state.free == 0 {
            if state.queued.insert(host.clone()) {
                state.queue.push_back(host.clone());
            }
            return None;
        }
        state.free -= 1;
        if state.queued.remove(host) {
            state.queue.retain(|waiting| waiting != host);
        }
        if state.free > 0 {
            self.0.wake_next(&mut state);
        }
        Some(Slot(self.0.clone()))
    }

    /// A host that wants no slot any more.
    pub(super) fn leave(&self, host: &Key) {
        let mut state = self.0.lock();
        if state.queued.remove(host) {
            state.queue.retain(|waiting| waiting != host);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first in the queue is to try. It may have changed its mind: then the next one's second look finds the slot.
    fn wake_next(&self, state: &mut State) {
        if let Some(next) = state.queue.pop_front() {
            state.queued.remove(&next);
            let _ = self.wake.send(next);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.free += 1;
        self.0.wake_next(&mut state);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key(name: &str) -> Key {
        Key::new("racks", name)
    }

    #[test]
    fn the_queue_moves_up_in_order() {
        let (wake, mut woken) = mpsc::unbounded_channel();
        let slots = BootSlots::new(1, wake);
        let first = slots.take(&key("a")).unwrap();
        for name in ["b", "c", "b"] {
            assert!(slots.take(&key(name)).is_none());
        }
        drop(first);
        assert_eq!(woken.try_recv().unwrap(), key("b"));
        let second = slots.take(&key("b")).unwrap();
        assert!(woken.try_recv().is_err(), "nobody is woken while no slot is free");
        drop(second);
        assert_eq!(woken.try_recv().unwrap(), key("c"));
    }

    #[test]
    fn a_host_that_left_the_queue_is_passed_over() {
        let (wake, mut woken) = mpsc::unbounded_channel();
        let slots = BootSlots::new(1, wake);
        let slot = slots.take(&key("a")).unwrap();
        assert!(slots.take(&key("b")).is_none() && slots.take(&key("c")).is_none());
        slots.leave(&key("b"));
        drop(slot);
        assert_eq!(woken.try_recv().unwrap(), key("c"));
        assert!(woken.try_recv().is_err());
    }
}
