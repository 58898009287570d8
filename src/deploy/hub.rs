//! The connected agents and their tasks, as the host controller sees them.
//!
//! The hub holds what is lost without harm when the provider dies: agents come back, say what they run and have
//! finished, and tasks carry ids that the controller chooses the same way again. What must not be lost is in the
//! host's record, which is the controller's business.
//!
//! Invariants: one entry a host, which belongs to one key; a task submitted for one key is never sent to another; a
//! session that does not read what it is sent is ended, so nothing here ever blocks.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ferric_protocol::v1::{
    Ack, Hello, Inventory, ProviderMessage, Task, TaskProgress, TaskResult, provider_message::Body,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::tasks::{Consequence, TaskTable};
pub use super::tasks::{TaskOutcome, TaskState};
use crate::key::Key;

/// How long a registration is believed without asking the registrar, whose cache may not show it yet.
const FRESH: Duration = Duration::from_secs(30);

/// What is sent to an agent: a message, or the reason why the session ends. Boxed, since a channel has room for dozens
/// from the start, and thousands of sessions hardly ever use it.
pub(super) type Outgoing = Box<Result<ProviderMessage, Status>>;
/// Where it is put.
pub(super) type Outbox = mpsc::Sender<Outgoing>;

/// Messages that may wait for one agent to read them.
pub(super) const OUTBOX: usize = 128;

/// The connected agents. Clones share one state.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    wake: mpsc::UnboundedSender<Key>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    hosts: HashMap<Key, Host>,
    by_fingerprint: HashMap<String, Key>,
    sessions: u64,
}

/// One host's agent boot, connected or not.
struct Host {
    fingerprint: String,
    boot_number: i64,
    registered_at: Option<Instant>,
    inventory: Option<Arc<Inventory>>,
    tasks: TaskTable,
    session: Option<Session>,
}

struct Session {
    id: u64,
    since: jiff::Timestamp,
    outbox: Outbox,
    ended: CancellationToken,
}

impl Session {
    fn end(self, status: Status) {
        // If the outbox is full the agent learns the reason from the stream's end only.
        let _ = self.outbox.try_send(Box::new(Err(status)));
        self.ended.cancel();
    }
}

/// A connected agent.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentView {
    /// SHA-256 of the agent's public key, hex.
    pub fingerprint: String,
    /// The boot that it registered for.
    pub boot_number: i64,
    /// Since when it is connected.
    pub connected_since: jiff::Timestamp,
    /// What it said about the hardware last, at its registration or since; absent when it registered with an earlier
    /// provider process and has said nothing more since.
    pub inventory: Option<Arc<Inventory>>,
    /// Its tasks, by id.
    pub tasks: BTreeMap<String, TaskState>,
}

/// No agent of the host is connected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no agent of host {0} is connected")]
pub struct NotConnected(pub Key);

/// Why a session cannot begin or go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionError {
    /// A later boot's agent is there.
    #[error("boot {got} of the host is over, it is at boot {current}")]
    OldBoot { got: i64, current: i64 },
    /// The agent claims more than any agent has.
    #[error(transparent)]
    TooManyTasks(#[from] super::tasks::TooManyTasks),
    /// A newer session took over, or the host was forgotten.
    #[error("this session is over")]
    Over,
}

/// A session that has begun.
pub(super) struct Attached {
    /// Tells this session from others of the same host.
    pub id: u64,
    /// Cancelled when the session is to end.
    pub ended: CancellationToken,
}

/// What the hub remembers of a key.
pub(super) struct Known {
    pub host: Key,
    pub boot_number: i64,
    /// Registered by this process a moment ago.
    pub fresh: bool,
}

impl Hub {
    /// An empty hub. `wake` is sent a host's key whenever its agent connects, goes, or gets on with a task.
    pub fn new(wake: mpsc::UnboundedSender<Key>) -> Self {
        Self { inner: Arc::new(Inner { wake, tables: Mutex::default() }) }
    }

    /// The connected agent of a host, if there is one.
    pub fn view(&self, host: &Key) -> Option<AgentView> {
        let tables = self.tables();
        let Host { fingerprint, boot_number, registered_at: _, inventory, tasks, session } =
            tables.hosts.get(host)?;
        Some(AgentView {
            fingerprint: fingerprint.clone(),
            boot_number: *boot_number,
            connected_since: session.as_ref()?.since,
            inventory: inventory.clone(),
            tasks: tasks.states(),
        })
    }

    /// Gives the connected agent a task, unless it has one of this id already. A task that was taken on here is sent
    /// again whenever the agent connects anew without knowing it.
    pub fn submit(&self, host: &Key, task: Task) -> Result<(), NotConnected> {
        self.submit_if(host, task, |_| true)
    }

    /// [`Self::submit`], but only to the agent with this key. For tasks with secrets that were planned for one agent:
    /// another one may have connected while they were put together.
    pub fn submit_to(&self, host: &Key, fingerprint: &str, task: Task) -> Result<(), NotConnected> {
        self.submit_if(host, task, |entry| entry.fingerprint == fingerprint)
    }

    fn submit_if(&self, host: &Key, task: Task, wanted: impl Fn(&Host) -> bool) -> Result<(), NotConnected> {
        let mut tables = self.tables();
        let entry = tables.hosts.get_mut(host).filter(|h| h.session.is_some() && wanted(h));
        let entry = entry.ok_or_else(|| NotConnected(host.clone()))?;
        if entry.tasks.submit(&task, Instant::now()) {
            entry.send(Body::Task(task));
        }
        Ok(())
    }

    /// Tells the agent that the result of a task is recorded, so that it may forget it. To be called *after* the
    /// record is written: an agent may do the work anew if it is given the id of a task that it has forgotten. (The
    /// result of a power task is acknowledged by the hub itself: there is nothing to record, and the agent waits.)
    pub fn acknowledge(&self, host: &Key, task_id: &str) {
        if let Some(entry) = self.tables().hosts.get_mut(host)
            && entry.tasks.acknowledge(task_id)
        {
            entry.send(Body::Ack(Ack { task_id: task_id.to_owned() }));
        }
    }

    /// The agent boot of the host is over: its session ends, its tasks and their results are dropped.
    pub fn forget(&self, host: &Key) {
        let mut tables = self.tables();
        if let Some(entry) = tables.remove(host) {
            entry.end(Status::permission_denied("this agent boot is over"));
        }
    }

    /// Drops what is remembered of an agent that left and is not needed any more. One that comes back all the same says
    /// itself what it has done.
    pub fn forget_absent(&self, host: &Key) {
        let mut tables = self.tables();
        if tables.hosts.get(host).is_some_and(|entry| entry.session.is_none()) {
            tables.remove(host);
        }
    }

    /// A key was registered for a boot.
    pub(super) fn registered(
        &self,
        host: &Key,
        boot_number: i64,
        fingerprint: &str,
        inventory: Inventory,
    ) -> Result<(), SessionError> {
        let mut tables = self.tables();
        let entry = tables.of_key(host, boot_number, fingerprint)?;
        entry.registered_at = Some(Instant::now());
        entry.inventory = Some(Arc::new(inventory));
        Ok(())
    }

    /// What is remembered of a key.
    pub(super) fn known(&self, fingerprint: &str) -> Option<Known> {
        let tables = self.tables();
        let host = tables.by_fingerprint.get(fingerprint)?;
        let entry = tables.hosts.get(host)?;
        let fresh = entry.registered_at.is_some_and(|at| at.elapsed() < FRESH);
        Some(Known { host: host.clone(), boot_number: entry.boot_number, fresh })
    }

    /// Begins a session; an older one of the same host ends. Tasks that the agent does not know are sent again.
    pub(super) fn attach(
        &self,
        host: &Key,
        boot_number: i64,
        fingerprint: &str,
        hello: Hello,
        outbox: Outbox,
    ) -> Result<Attached, SessionError> {
        let mut tables = self.tables();
        tables.sessions += 1;
        let id = tables.sessions;
        let entry = tables.of_key(host, boot_number, fingerprint)?;
        let lost = entry.tasks.hello(hello.running, hello.finished, Instant::now())?;
        let ended = CancellationToken::new();
        let session = Session { id, since: jiff::Timestamp::now(), outbox, ended: ended.clone() };
        if let Some(older) = entry.session.replace(session) {
            older.end(Status::aborted("a newer session of the same agent took over"));
        }
        for task in lost {
            entry.send(Body::Task(task));
        }
        self.wake(host);
        Ok(Attached { id, ended })
    }

    /// The session ended; nothing happens when another one has taken over.
    pub(super) fn detach(&self, host: &Key, id: u64) {
        if let Some(entry) = self.tables().hosts.get_mut(host)
            && entry.session.as_ref().is_some_and(|s| s.id == id)
        {
            entry.session = None;
            self.wake(host);
        }
    }

    /// The agent sees more than it did.
    pub(super) fn inventory(&self, host: &Key, id: u64, inventory: Inventory) -> Result<(), SessionError> {
        self.with_session(host, id, |entry| {
            entry.inventory = Some(Arc::new(inventory));
            Ok(Consequence { wake: true, ..Consequence::default() })
        })
    }

    /// The agent got on with a task.
    pub(super) fn progress(&self, host: &Key, id: u64, progress: TaskProgress) -> Result<(), SessionError> {
        self.with_session(host, id, |entry| Ok(entry.tasks.progress(progress, Instant::now())?))
    }

    /// The agent finished a task.
    pub(super) fn result(&self, host: &Key, id: u64, result: TaskResult) -> Result<(), SessionError> {
        self.with_session(host, id, |entry| {
            let task_id = result.task_id.clone();
            let consequence = entry.tasks.result(result, Instant::now())?;
            if consequence.acknowledge {
                entry.send(Body::Ack(Ack { task_id }));
            }
            Ok(consequence)
        })
    }

    fn with_session(
        &self,
        host: &Key,
        id: u64,
        act: impl FnOnce(&mut Host) -> Result<Consequence, SessionError>,
    ) -> Result<(), SessionError> {
        let mut tables = self.tables();
        let entry = tables.hosts.get_mut(host);
        let entry = entry.filter(|h| h.session.as_ref().is_some_and(|s| s.id == id));
        if act(entry.ok_or(SessionError::Over)?)?.wake {
            self.wake(host);
        }
        Ok(())
    }

    fn wake(&self, host: &Key) {
        // Nobody listens any more only when the manager is going down.
        let _ = self.inner.wake.send(host.clone());
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.inner.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// The entry of a host for a key. Whatever belonged to another key is dropped, unless that key's boot is later.
    fn of_key(&mut self, host: &Key, boot_number: i64, fingerprint: &str) -> Result<&mut Host, SessionError> {
        match self.hosts.get(host) {
            Some(entry) if entry.fingerprint == fingerprint && entry.boot_number == boot_number => {}
            Some(entry) if entry.boot_number > boot_number => {
                return Err(SessionError::OldBoot { got: boot_number, current: entry.boot_number });
            }
            _ => {
                if let Some(other) = self.remove(host) {
                    other.end(Status::permission_denied("another agent has registered for the host"));
                }
            }
        }
        self.by_fingerprint.insert(fingerprint.to_owned(), host.clone());
        Ok(self.hosts.entry(host.clone()).or_insert_with(|| Host {
            fingerprint: fingerprint.to_owned(),
            boot_number,
            registered_at: None,
            inventory: None,
            tasks: TaskTable::default(),
            session: None,
        }))
    }

    fn remove(&mut self, host: &Key) -> Option<Host> {
        let entry = self.hosts.remove(host)?;
        if self.by_fingerprint.get(&entry.fingerprint) == Some(host) {
            self.by_fingerprint.remove(&entry.fingerprint);
        }
        Some(entry)
    }
}

impl Host {
    fn send(&mut self, body: Body) {
        let message = ProviderMessage { body: Some(body) };
        if let Some(session) = &self.session
            && session.outbox.try_send(Box::new(Ok(message))).is_err()
        {
            // It has not read for 128 messages, or is gone. Tasks are kept and sent again when it comes back. The
            // session's own task notices the end and detaches it.
            session.ended.cancel();
        }
    }

    fn end(self, status: Status) {
        if let Some(session) = self.session {
            session.end(status);
        }
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
