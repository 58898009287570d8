//! What the host controller does for the agent server: it alone reads and writes the record.

use async_trait::async_trait;
use ferric_protocol::DiscoveryToken;
use ferric_protocol::v1::{Inventory, PowerAction};

use crate::key::Key;

/// The host's record, as far as agents are concerned.
#[async_trait]
pub trait Registrar: Send + Sync + 'static {
    /// Spends the token of boot `boot_number`: writes the key's fingerprint into the host's record by compare-and-swap.
    /// The same key may come again; another one may not.
    async fn register(
        &self,
        host: &Key,
        boot_number: i64,
        fingerprint: &str,
        inventory: &Inventory,
    ) -> Result<(), RegisterError>;

    /// Spends a discovery token and takes what the machine tells of itself. What it is told to do then is all that it is told:
    /// there is no session for it. Asked with tokens only that are this provider's and have not ended.
    async fn discovered(
        &self,
        token: &DiscoveryToken,
        fingerprint: &str,
        inventory: &Inventory,
    ) -> Result<PowerAction, RegisterError>;

    /// Whether the key may act as the agent of the host now.
    async fn session_allowed(&self, host: &Key, fingerprint: &str) -> bool;

    /// Host and boot number that the key is registered for; asked when an agent comes back after a restart.
    async fn host_for(&self, fingerprint: &str) -> Option<(Key, i64)>;
}

/// Why a key was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Another key came first, or the boot that the token is for is over.
    #[error("the boot token is spent: another key has registered with it, or that boot is over")]
    Spent,
    /// There is no such host.
    #[error("the host that the boot token names does not exist")]
    UnknownHost,
    /// The machine is not the one that the host describes.
    #[error("the machine reports {what} {got:?}, the host is recorded with {expected:?}")]
    WrongMachine {
        /// Which part of the identity differs.
        what: String,
        /// What the record or the BMC says.
        expected: String,
        /// What the machine says.
        got: String,
    },
    /// The record was written by another at the same time, or could not be written now.
    #[error("the record could not be written now, try again: {message}")]
    Conflict {
        /// What the API server said.
        message: String,
    },
    /// This provider does not hold the lease.
    #[error("this provider does not hold the lease")]
    NotLeader {
        /// Who does, if known.
        holder: Option<String>,
    },
}

/// Whether this provider may answer agents and boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// It holds the lease.
    Leader,
    /// Another one does.
    Standby {
        /// Who, if known.
        holder: Option<String>,
    },
}

impl Leadership {
    /// Whether this provider holds the lease.
    pub fn is_leader(&self) -> bool {
        matches!(self, Self::Leader)
    }

    /// The sentence that an agent is given; absent when this provider holds the lease.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Leader => None,
            Self::Standby { holder: Some(holder) } => {
                Some(format!("not the leader: {holder} holds the lease"))
            }
            Self::Standby { holder: None } => Some("not the leader, and the leader is not known".into()),
        }
    }
}
