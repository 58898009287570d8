//! The cryptography of a session: the codes of RAKP, the keys made from them, and what seals a packet. HMAC is ring's,
//! AES-CBC is RustCrypto's; codes are compared in constant time.

use aes::Aes128;
use cbc::cipher::block_padding::NoPadding;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use ring::hmac;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::suite::Suite;

/// Block of AES, in bytes; the initialization vector is as long (13.29).
pub(crate) const BLOCK: usize = 16;
/// Longest password of IPMI v2.0 (22.30), in bytes; shorter ones are filled up with zeros.
pub(crate) const MAX_PASSWORD: usize = 20;

/// A user's key, Kuid (13.31): the password. Never printed, wiped when dropped.
#[derive(Clone)]
pub(crate) struct UserKey(Zeroizing<[u8; MAX_PASSWORD]>);

impl UserKey {
    /// The key of a password; `None` if it is too long.
    pub(crate) fn new(password: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; MAX_PASSWORD]);
        key.get_mut(..password.len())?.copy_from_slice(password);
        Some(Self(key))
    }
}

impl std::fmt::Debug for UserKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserKey(<redacted>)")
    }
}

/// What both sides of a login have said (13.31), and all its codes are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transcript {
    /// SIDc: the remote console's session number.
    pub(crate) console_session: u32,
    /// SIDm: the BMC's session number.
    pub(crate) bmc_session: u32,
    /// Rc: the remote console's random number.
    pub(crate) console_random: [u8; 16],
    /// Rm: the BMC's random number.
    pub(crate) bmc_random: [u8; 16],
    /// GUIDc: the BMC's GUID, as RAKP 2 has it.
    pub(crate) bmc_guid: [u8; 16],
    /// Role: the requested privilege with the bit of the lookup, as RAKP 1 has it.
    pub(crate) role: u8,
    /// User name.
    pub(crate) username: Vec<u8>,
}

impl Transcript {
    /// `role, length of the name, name`: the end of three of the codes.
    fn user(&self) -> Vec<u8> {
        // At most 16 bytes (13.20).
        let length = u8::try_from(self.username.len()).unwrap_or(u8::MAX);
        [&[self.role, length], self.username.as_slice()].concat()
    }

    /// Key exchange authentication code of RAKP 2 (13.31): the BMC knows the password.
    pub(crate) fn rakp2_code(&self, suite: Suite, user: &UserKey) -> Vec<u8> {
        let parts = [
            &self.console_session.to_le_bytes()[..],
            &self.bmc_session.to_le_bytes(),
            &self.console_random,
            &self.bmc_random,
            &self.bmc_guid,
            &self.user(),
        ];
        sign(suite, &*user.0, &parts)
    }

    /// Key exchange authentication code of RAKP 3 (13.31): the remote console knows the password.
    pub(crate) fn rakp3_code(&self, suite: Suite, user: &UserKey) -> Vec<u8> {
        let parts = [&self.bmc_random[..], &self.console_session.to_le_bytes(), &self.user()];
        sign(suite, &*user.0, &parts)
    }

    /// The keys of the session (13.31, 13.32). The BMC's own key Kg is taken for unset, so the user's stands for it.
    pub(crate) fn keys(&self, suite: Suite, user: &UserKey) -> Keys {
        let parts = [&self.console_random[..], &self.bmc_random, &self.user()];
        let session = Zeroizing::new(sign(suite, &*user.0, &parts));
        // Constants of 20 bytes, whatever the hash (13.32).
        let integrity = Zeroizing::new(sign(suite, &session, &[&[1; 20]]));
        let cipher = Zeroizing::new(sign(suite, &session, &[&[2; 20]]));
        let mut aes = Zeroizing::new([0; BLOCK]);
        aes.copy_from_slice(&cipher[..BLOCK]);
        Keys { suite, session, integrity: hmac::Key::new(algorithm(suite), &integrity), aes }
    }

    /// Integrity check value of RAKP 4 (13.31): the BMC has the same keys.
    pub(crate) fn rakp4_code(&self, keys: &Keys) -> Vec<u8> {
        let parts = [&self.console_random[..], &self.bmc_session.to_le_bytes(), &self.bmc_guid];
        let mut code = sign(keys.suite, &keys.session, &parts);
        code.truncate(keys.suite.code_length());
        code
    }
}

/// Whether two codes are the same; how long it takes tells nothing of where they differ.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

fn algorithm(suite: Suite) -> hmac::Algorithm {
    if suite.is_sha256() { hmac::HMAC_SHA256 } else { hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY }
}

fn sign(suite: Suite, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm(suite), key));
    for part in parts {
        context.update(part);
    }
    context.sign().as_ref().to_vec()
}

/// The keys of a session. Never printed; wiped when dropped, but for the state of ring's HMAC.
pub(crate) struct Keys {
    suite: Suite,
    /// SIK.
    session: Zeroizing<Vec<u8>>,
    /// K1.
    integrity: hmac::Key,
    /// The first 128 bits of K2.
    aes: Zeroizing<[u8; BLOCK]>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl Keys {
    /// The suite.
    pub(crate) fn suite(&self) -> Suite {
        self.suite
    }

    /// The code behind a packet (13.28.4).
    pub(crate) fn code(&self, bytes: &[u8]) -> Vec<u8> {
        hmac::sign(&self.integrity, bytes).as_ref()[..self.suite.code_length()].to_vec()
    }

    /// An encrypted payload (13.29): vector, then data with its padding 1, 2, 3, ... and the padding's length.
    pub(crate) fn encrypt(&self, vector: [u8; BLOCK], data: &[u8]) -> Vec<u8> {
        let mut bytes = vector.to_vec();
        bytes.extend_from_slice(data);
        let mut padding = 0;
        while bytes.len() % BLOCK != BLOCK - 1 {
            padding += 1;
            bytes.push(padding);
        }
        bytes.push(padding);
        let length = bytes.len() - BLOCK;
        let cipher = cbc::Encryptor::<Aes128>::new(&(*self.aes).into(), &vector.into());
        // Cannot fail: whole blocks. If it did, nothing would be sent in the clear.
        if cipher.encrypt_padded::<NoPadding>(&mut bytes[BLOCK..], length).is_err() {
            bytes.clear();
        }
        bytes
    }

    /// The data of an encrypted payload. What stands in the padding is not looked at: the packet's code is right, and
    /// BMCs fill it as they like.
    pub(crate) fn decrypt(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let (vector, encrypted) = payload.split_first_chunk::<BLOCK>()?;
        if encrypted.is_empty() || !encrypted.len().is_multiple_of(BLOCK) {
            return None;
        }
        let mut data = encrypted.to_vec();
        let cipher = cbc::Decryptor::<Aes128>::new(&(*self.aes).into(), &(*vector).into());
        cipher.decrypt_padded::<NoPadding>(&mut data).ok()?;
        let padding = usize::from(*data.last()?);
        if padding >= BLOCK {
            return None;
        }
        data.truncate(data.len().checked_sub(padding + 1)?);
        Some(data)
    }
}

#[cfg(test)]
pub(crate) mod tests;
