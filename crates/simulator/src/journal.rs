//! What happened to a server, as an outside observer would have seen it: tests and the demo judge by it.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Entries that are kept of one server; older ones are dropped.
const KEPT: usize = 4096;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Counts up from 1, also over dropped entries.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: JournalEvent,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum JournalEvent {
    /// Somebody opened a session on the BMC, or tried to, or showed wrong credentials with a request.
    Login {
        /// Whether the credentials were right.
        ok: bool,
    },
    /// A request that changes something, other than a login or a logout. Secrets in it are blanked.
    Write {
        /// HTTP method.
        method: String,
        /// Path.
        path: String,
        /// What was sent.
        body: serde_json::Value,
        /// How it was answered.
        status: u16,
    },
    /// The power changed.
    Power {
        /// Whether it is on now. A reset is an `on` without an `off` before it.
        on: bool,
        /// Why, for example `ForceRestart` or `AgentExit`.
        cause: String,
    },
    /// The server tried to boot from something.
    Boot {
        /// `UefiHttp`, `Cd`, `Pxe` or `Disk`.
        source: String,
        /// The URL of the boot media.
        #[serde(skip_serializing_if = "Option::is_none")]
        url: Option<String>,
    },
    /// The server came into another state.
    State {
        /// The state, as in [`crate::ServerStatus`].
        state: String,
        /// More about it.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        detail: String,
    },
    /// Faults were put on the server or taken away.
    Faults {
        /// The faults from now on.
        faults: crate::fault::Faults,
    },
}

/// The journal of one server.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: VecDeque<JournalEntry>,
    last: u64,
}

impl Journal {
    pub(crate) fn push(&mut self, event: JournalEvent) {
        self.last += 1;
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(JournalEntry { seq: self.last, at: Timestamp::now(), event });
    }

    pub(crate) fn since(&self, seq: u64) -> Vec<JournalEntry> {
        self.entries.iter().filter(|entry| entry.seq > seq).cloned().collect()
    }
}

/// How often a BMC was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Connections taken.
    pub connections: u64,
    /// Requests that only read.
    pub reads: u64,
    /// Requests that change something, logins and logouts apart.
    pub writes: u64,
    /// Sessions opened.
    pub logins: u64,
    /// Requests refused for their credentials.
    pub refused: u64,
}
