//! Why a qcow2 image cannot be read.

use std::io;

/// Why a qcow2 image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// The file failed.
    #[error("the qcow2 file cannot be read, {length} bytes at {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
        /// What the system said.
        source: io::Error,
    },
    /// It does not begin as one.
    #[error("the image is not qcow2: it begins with {0}")]
    Magic(String),
    /// Neither version 2 nor 3.
    #[error("qcow2 version {0} is not known: versions 2 and 3 are")]
    Version(u32),
    /// It uses what is not followed: the content would be wrong without it.
    #[error("the qcow2 image {0}")]
    Refused(String),
    /// It contradicts itself, or the file ends before what it points to.
    #[error("the qcow2 image is damaged: {0}")]
    Invalid(String),
    /// It is larger than allowed.
    #[error("the qcow2 image unpacks to {size} bytes, more than the {limit} that are allowed")]
    TooLarge {
        /// What it unpacks to.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
}

pub(super) fn invalid<T>(what: impl Into<String>) -> Result<T, Qcow2Error> {
    Err(Qcow2Error::Invalid(what.into()))
}

pub(super) fn refused<T>(what: impl Into<String>) -> Result<T, Qcow2Error> {
    Err(Qcow2Error::Refused(what.into()))
}
