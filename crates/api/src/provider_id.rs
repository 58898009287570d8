//! The provider ID by which a Node and a BareMetalMachine find each other.

use std::fmt;
use std::str::FromStr;

/// `ferric://<host name>/<claim ID>`: unique in its last segment, new for every claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProviderId {
    host: String,
    claim_id: String,
}

/// The text is not `ferric://<host>/<claim ID>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a provider ID: expected ferric://<host name>/<claim ID>")]
pub struct ProviderIdError(String);

impl ProviderId {
    /// The ID of host `host` under claim `claim_id`.
    pub fn new(host: impl Into<String>, claim_id: impl Into<String>) -> Self {
        Self { host: host.into(), claim_id: claim_id.into() }
    }

    /// Name of the BareMetalHost.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The claim ID: the last, globally unique segment.
    pub fn claim_id(&self) -> &str {
        &self.claim_id
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ferric://{}/{}", self.host, self.claim_id)
    }
}

impl FromStr for ProviderId {
    type Err = ProviderIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ProviderIdError(text.chars().take(128).collect());
        let (host, claim_id) =
            text.strip_prefix("ferric://").and_then(|rest| rest.split_once('/')).ok_or_else(error)?;
        if host.is_empty() || claim_id.is_empty() || claim_id.contains('/') {
            return Err(error());
        }
        Ok(Self::new(host, claim_id))
    }
}
