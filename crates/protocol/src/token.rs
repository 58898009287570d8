//! Boot tokens. A token says: *the provider told this host to boot, this is boot number N, good until then*.
//!
//! It is an HMAC over these facts, so that issuing one writes nothing and a restart of the provider loses nothing. It is
//! spent elsewhere: when an agent's key registers with it, by a compare-and-swap in the host's record.
//!
//! A discovery token says less: *somebody with this MAC address, whom nobody enrolled, may tell once what machine it is*.
//! It is no boot token, whatever is in it: the two are signed apart.
//!
//! Layout before base64url: version (1 byte), boot number (8), expiry (8, both big-endian), host (the rest),
//! HMAC-SHA-256 (32). The host is last, so no length is needed and no two sets of facts have the same bytes. A discovery
//! token has a number in place of the boot number, and a MAC address (6) in place of the host.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

const VERSION: u8 = 1;
const FIXED: usize = 1 + 8 + 8;
const TAG: usize = 32;
/// Longest host name: namespace/name of Kubernetes is at most 63 + 1 + 253.
const MAX_HOST: usize = 320;
/// Keeps the HMACs of discovery tokens apart from those of others.
const DISCOVERY_DOMAIN: &[u8] = b"ferric discovery token\0";

/// What a token is good for. A token of one use is none of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenUse {
    /// Booting the agent: [`BootToken::boot_number`] is the number of the agent boot.
    Agent,
    /// Booting the system that a host runs from memory: [`BootToken::boot_number`] is the time at which the host was told
    /// to run it, in seconds since 1970.
    System,
    /// Waking a host by an event of its BMC: [`BootToken::boot_number`] is 0.
    Events,
}

impl TokenUse {
    /// Keeps these HMACs apart from each other, and from any other use of the same key.
    fn domain(self) -> &'static [u8] {
        match self {
            Self::Agent => b"ferric boot token\0",
            Self::System => b"ferric system token\0",
            Self::Events => b"ferric event token\0",
        }
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootToken {
    /// namespace/name of the host.
    pub host: String,
    /// Number of the boot that the provider commanded.
    pub boot_number: u64,
    /// When the token ends, in seconds since 1970.
    pub expires: u64,
}

/// Why a token is refused (or cannot be made).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not a token.
    #[error("the boot token is malformed: {0}")]
    Malformed(&'static str),
    /// It was not made with this key, or was changed.
    #[error("the boot token's signature is wrong")]
    BadSignature,
    /// It was good once.
    #[error(
        "the boot token of host {host}, boot {boot_number}, expired at {expires}, it is {now} (seconds since 1970)"
    )]
    Expired {
        /// Whose it was.
        host: String,
        /// Which boot.
        boot_number: u64,
        /// When it ended.
        expires: u64,
        /// The time it was compared with.
        now: u64,
    },
    /// The host's name cannot be put into a token.
    #[error("a host name of {0} bytes does not fit a boot token (1 to {MAX_HOST})")]
    HostLength(usize),
}

impl BootToken {
    /// Makes the token of an agent boot. `key` should have 32 random bytes or more.
    ///
    /// ```
    /// use ferric_protocol::BootToken;
    ///
    /// let facts = BootToken { host: "racks/r1-h1".into(), boot_number: 3, expires: 2_000 };
    /// let token = facts.mint(b"a key of 32 bytes or a bit more .")?;
    /// assert_eq!(BootToken::verify(b"a key of 32 bytes or a bit more .", &token, 1_999)?, facts);
    /// # Ok::<(), ferric_protocol::TokenError>(())
    /// ```
    pub fn mint(&self, key: &[u8]) -> Result<String, TokenError> {
        self.mint_for(TokenUse::Agent, key)
    }

    /// The same for any use.
    pub fn mint_for(&self, token_use: TokenUse, key: &[u8]) -> Result<String, TokenError> {
        let Self { host, boot_number, expires } = self;
        if host.is_empty() || host.len() > MAX_HOST {
            return Err(TokenError::HostLength(host.len()));
        }
        Ok(seal(token_use.domain(), key, *boot_number, *expires, host.as_bytes()))
    }

    /// Reads the token of an agent boot. The signature is compared in constant time and before anything else in it is
    /// believed; a token is expired when `now` (seconds since 1970) has reached its expiry.
    pub fn verify(key: &[u8], token: &str, now: u64) -> Result<Self, TokenError> {
        Self::verify_for(TokenUse::Agent, key, token, now)
    }

    /// The same for any use.
    pub fn verify_for(token_use: TokenUse, key: &[u8], token: &str, now: u64) -> Result<Self, TokenError> {
        let Facts { number: boot_number, expires, subject } = open(token_use.domain(), key, token)?;
        let host = String::from_utf8(subject).map_err(|_| TokenError::Malformed("host is not UTF-8"))?;
        if now >= expires {
            return Err(TokenError::Expired { host, boot_number, expires, now });
        }
        Ok(Self { host, boot_number, expires })
    }
}

/// What a discovery token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoveryToken {
    /// MAC address of the network card that asked for a boot.
    pub mac: [u8; 6],
    /// Number under which the provider remembers that it gave the token.
    pub number: u64,
    /// When the token ends, in seconds since 1970.
    pub expires: u64,
}

impl DiscoveryToken {
    /// Makes the token. `key` should have 32 random bytes or more, and may be that of boot tokens.
    pub fn mint(&self, key: &[u8]) -> String {
        seal(DISCOVERY_DOMAIN, key, self.number, self.expires, &self.mac)
    }

    /// Reads a token, as [`BootToken::verify`] does.
    pub fn verify(key: &[u8], token: &str, now: u64) -> Result<Self, TokenError> {
        let Facts { number, expires, subject } = open(DISCOVERY_DOMAIN, key, token)?;
        let mac: [u8; 6] =
            subject.try_into().map_err(|_| TokenError::Malformed("a MAC address has six bytes"))?;
        if now >= expires {
            let host = mac.map(|octet| format!("{octet:02x}")).join(":");
            return Err(TokenError::Expired { host, boot_number: number, expires, now });
        }
        Ok(Self { mac, number, expires })
    }
}

/// What a token of either kind holds.
struct Facts {
    number: u64,
    expires: u64,
    subject: Vec<u8>,
}

fn seal(domain: &[u8], key: &[u8], number: u64, expires: u64, subject: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(FIXED + subject.len() + TAG);
    bytes.push(VERSION);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&expires.to_be_bytes());
    bytes.extend_from_slice(subject);
    let tag = hmac::sign(&hmac_key(key), &[domain, &bytes].concat());
    bytes.extend_from_slice(tag.as_ref());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn open(domain: &[u8], key: &[u8], token: &str) -> Result<Facts, TokenError> {
    if token.len() > (FIXED + MAX_HOST + TAG) * 4 / 3 + 3 {
        return Err(TokenError::Malformed("too long"));
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenError::Malformed("not base64url"))?;
    if bytes.len() <= FIXED + TAG {
        return Err(TokenError::Malformed("too short"));
    }
    let (facts, tag) = bytes.split_at(bytes.len() - TAG);
    hmac::verify(&hmac_key(key), &[domain, facts].concat(), tag).map_err(|_| TokenError::BadSignature)?;
    let number = |range: std::ops::Range<usize>| {
        facts
            .get(range)
            .and_then(|b| b.try_into().ok())
            .map(u64::from_be_bytes)
            .ok_or(TokenError::Malformed("too short"))
    };
    if facts.first() != Some(&VERSION) {
        return Err(TokenError::Malformed("unknown version"));
    }
    let subject = facts.get(FIXED..).unwrap_or_default().to_vec();
    Ok(Facts { number: number(1..9)?, expires: number(9..17)?, subject })
}

fn hmac_key(key: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn facts() -> BootToken {
        BootToken { host: "default/r1-h1".into(), boot_number: 9, expires: 1_000 }
    }

    #[test]
    fn a_token_ends_at_its_expiry() {
        let token = facts().mint(KEY).unwrap();
        assert_eq!(BootToken::verify(KEY, &token, 999), Ok(facts()));
        assert_eq!(
            BootToken::verify(KEY, &token, 1_000),
            Err(TokenError::Expired {
                host: "default/r1-h1".into(),
                boot_number: 9,
                expires: 1_000,
                now: 1_000
            })
        );
    }

    #[test]
    fn another_key_and_garbage_are_told_apart() {
        let token = facts().mint(KEY).unwrap();
        assert_eq!(BootToken::verify(b"other", &token, 0), Err(TokenError::BadSignature));
        // A forged token that has also expired must not tell the forger that the rest was right.
        assert_eq!(BootToken::verify(b"other", &token, 5_000), Err(TokenError::BadSignature));
        assert!(matches!(BootToken::verify(KEY, "", 0), Err(TokenError::Malformed(_))));
        assert!(matches!(BootToken::verify(KEY, "!!", 0), Err(TokenError::Malformed(_))));
        assert!(matches!(BootToken::verify(KEY, &"A".repeat(5_000), 0), Err(TokenError::Malformed(_))));
    }

    #[test]
    fn a_token_of_one_use_is_none_of_the_other() {
        for (made, asked) in [(TokenUse::Agent, TokenUse::System), (TokenUse::System, TokenUse::Agent)] {
            let token = facts().mint_for(made, KEY).unwrap();
            assert_eq!(BootToken::verify_for(made, KEY, &token, 0), Ok(facts()));
            assert_eq!(BootToken::verify_for(asked, KEY, &token, 0), Err(TokenError::BadSignature));
        }
    }

    #[test]
    fn a_host_that_does_not_fit_is_refused() {
        for length in [0, MAX_HOST + 1] {
            let token = BootToken { host: "h".repeat(length), ..facts() };
            assert_eq!(token.mint(KEY), Err(TokenError::HostLength(length)));
        }
    }

    #[test]
    fn a_discovery_token_ends_too_and_names_whose_it_was() {
        let facts = DiscoveryToken { mac: [0x52, 0x54, 0, 0, 0, 1], number: 7, expires: 1_000 };
        let token = facts.mint(KEY);
        assert_eq!(DiscoveryToken::verify(KEY, &token, 999), Ok(facts));
        let expired = DiscoveryToken::verify(KEY, &token, 1_000).unwrap_err();
        assert!(expired.to_string().contains("52:54:00:00:00:01"), "{expired}");
        assert_eq!(DiscoveryToken::verify(b"other", &token, 5_000), Err(TokenError::BadSignature));
    }

    proptest! {
        #[test]
        fn neither_kind_of_token_passes_for_the_other(mac: [u8; 6], host in "\\PC{1,80}", number: u64, expires in 1u64..) {
            let discovery = DiscoveryToken { mac, number, expires }.mint(KEY);
            prop_assert_eq!(BootToken::verify(KEY, &discovery, 0), Err(TokenError::BadSignature));
            // Also where the bytes before the signature could be either.
            for host in [host, "racks1".to_owned()] {
                let boot = BootToken { host, boot_number: number, expires }.mint(KEY).unwrap();
                prop_assert_eq!(DiscoveryToken::verify(KEY, &boot, 0), Err(TokenError::BadSignature));
            }
        }

        #[test]
        fn what_is_minted_verifies(host in "\\PC{1,80}", boot_number: u64, expires in 1u64.., key: Vec<u8>) {
            let facts = BootToken { host, boot_number, expires };
            let token = facts.mint(&key).unwrap();
            prop_assert_eq!(BootToken::verify(&key, &token, expires - 1).unwrap(), facts);
        }

        #[test]
        fn any_changed_bit_is_noticed(bit in 0usize..(17 + 13 + 32) * 8) {
            let mut bytes = URL_SAFE_NO_PAD.decode(facts().mint(KEY).unwrap()).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed = URL_SAFE_NO_PAD.encode(bytes);
            prop_assert_eq!(BootToken::verify(KEY, &changed, 0), Err(TokenError::BadSignature));
        }

        #[test]
        fn nothing_makes_it_panic(token in "[A-Za-z0-9_-]{0,600}") {
            prop_assert!(BootToken::verify(KEY, &token, 0).is_err());
        }
    }
}
