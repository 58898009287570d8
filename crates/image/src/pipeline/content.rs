//! The hash that an image on a disk is told by, when it is read back.

use std::{fmt, str::FromStr};

use ring::digest;

/// Hash of an image as it stands on the disk, holes included. As text: `blake3:` or `sha256:` and hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentHash {
    /// Of what came out of a stream. Nobody but the read-back compares with it, and BLAKE3 costs a fraction of what
    /// SHA-256 does, so it is the disk that is waited for and not the processor.
    Blake3([u8; 32]),
    /// Of the whole disk, as extents say it.
    Sha256([u8; 32]),
}

impl ContentHash {
    /// What hashes in the same way.
    pub(super) fn hasher(&self) -> Hasher {
        match self {
            Self::Blake3(_) => Hasher::default(),
            Self::Sha256(_) => Hasher::Sha256(Box::new(digest::Context::new(&digest::SHA256))),
        }
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blake3(hash) => write!(f, "blake3:{}", hex::encode(hash)),
            Self::Sha256(hash) => write!(f, "sha256:{}", hex::encode(hash)),
        }
    }
}

/// A text that is no [`ContentHash`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no hash of an image on a disk: blake3: or sha256: and 64 hexadecimal digits")]
pub struct NotAHash(String);

impl FromStr for ContentHash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let wrong = || NotAHash(text.to_owned());
        let (kind, digits) = text.split_once(':').ok_or_else(wrong)?;
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).map_err(|_| wrong())?;
        match kind {
            "blake3" => Ok(Self::Blake3(hash)),
            "sha256" => Ok(Self::Sha256(hash)),
            _ => Err(wrong()),
        }
    }
}

/// Makes a [`ContentHash`]; that of a stream unless asked otherwise.
pub(super) enum Hasher {
    Blake3(Box<blake3::Hasher>),
    Sha256(Box<digest::Context>),
}

impl Default for Hasher {
    fn default() -> Self {
        Self::Blake3(Box::default())
    }
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => drop(hasher.update(bytes)),
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn finish(self) -> ContentHash {
        match self {
            Self::Blake3(hasher) => ContentHash::Blake3(*hasher.finalize().as_bytes()),
            Self::Sha256(hasher) => {
                let mut hash = [0; 32];
                hash.copy_from_slice(hasher.finish().as_ref());
                ContentHash::Sha256(hash)
            }
        }
    }
}
