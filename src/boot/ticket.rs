//! What the token in a URL entitles to.

use ferric_api::MacAddress;
use ferric_protocol::{BootToken, DiscoveryToken, TokenError};

/// What a token entitles to: the same files, with another end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ticket {
    /// The boot of a host.
    Boot(BootToken),
    /// To tell what machine it is that nobody enrolled.
    Discovery(DiscoveryToken),
}

impl Ticket {
    /// Checks a token at the time `now` (seconds since 1970).
    pub(super) fn verify(key: &[u8], token: &str, now: u64) -> Result<Self, TokenError> {
        match BootToken::verify(key, token, now) {
            Err(error @ TokenError::BadSignature) => match DiscoveryToken::verify(key, token, now) {
                Err(TokenError::BadSignature) => Err(error),
                verified => verified.map(Self::Discovery),
            },
            verified => verified.map(Self::Boot),
        }
    }

    /// Whose it is, for the log.
    pub(super) fn holder(&self) -> (String, u64) {
        match self {
            Self::Boot(token) => (token.host.clone(), token.boot_number),
            Self::Discovery(token) => (format!("{} (discovery)", MacAddress::from(token.mac)), token.number),
        }
    }

    pub(super) fn expires(&self) -> u64 {
        match self {
            Self::Boot(token) => token.expires,
            Self::Discovery(token) => token.expires,
        }
    }
}
