//! Why an image is not on the disk.

use std::io;

use super::{Compression, ContentHash, Stage};
use crate::{Checksum, ChecksumAlgorithm, extents::ExtentsError};

/// Why an image is not on the disk. Except where it says otherwise, the disk may have been written to.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The download failed.
    #[error("the download broke off after {bytes} bytes: {source}")]
    Source {
        /// Bytes that had come.
        bytes: u64,
        /// What the source said.
        source: io::Error,
    },
    /// The download ended before its end.
    #[error("the image is truncated: {got} of {expected} bytes came")]
    Truncated {
        /// Bytes that the server announced.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// The download is longer than was announced.
    #[error("the image is longer than the {expected} bytes that were announced")]
    Overlong {
        /// Bytes that the server announced.
        expected: u64,
    },
    /// It is not what the compression says, or is cut off.
    #[error("the image is not valid {compression} data after {bytes} downloaded bytes: {source}")]
    Decode {
        /// How it should have been packed.
        compression: Compression,
        /// Bytes that had come.
        bytes: u64,
        /// What the decompressor said.
        source: io::Error,
    },
    /// The stream of extents is damaged, or one of its chunks is not what the list of chunks says.
    #[error("the image is not valid after {bytes} downloaded bytes: {source}")]
    Extents {
        /// Bytes that had come.
        bytes: u64,
        /// What is wrong.
        source: ExtentsError,
    },
    /// The extents were made from another image. The disk was not touched.
    #[error("the extents were made from the image {found}, the one asked for is {expected}")]
    OtherImage {
        /// Checksum of the image that is wanted.
        expected: Checksum,
        /// Checksum of the image that they were made from.
        found: Checksum,
    },
    /// There is nothing in it. The disk was not touched.
    #[error("the image is empty")]
    Empty,
    /// It does not fit. The disk was not touched where the size was known.
    #[error("the image has {image} bytes or more, the disk {device}")]
    TooLarge {
        /// Bytes of the image, as far as is known.
        image: u64,
        /// Bytes of the disk.
        device: u64,
    },
    /// It is larger than was allowed.
    #[error("the image is larger than the limit of {limit} bytes")]
    LimitExceeded {
        /// The limit.
        limit: u64,
    },
    /// The download is not the file that was asked for.
    #[error("the {algorithm} checksum of the {bytes} downloaded bytes is {found}, expected {expected}")]
    Checksum {
        /// The type.
        algorithm: ChecksumAlgorithm,
        /// Bytes that came.
        bytes: u64,
        /// What was asked for.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The disk refused.
    #[error("the disk failed to {operation} {length} bytes at {offset}: {source}")]
    Device {
        /// What was tried.
        operation: &'static str,
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The disk holds something else than was written to it.
    #[error(
        "the disk does not hold what was written: {bytes} bytes read back hash to {found}, expected {expected}"
    )]
    Verify {
        /// Bytes that were read back.
        bytes: u64,
        /// Hash of what was written.
        expected: ContentHash,
        /// Hash of what was read back.
        found: ContentHash,
    },
    /// The machine has no room for the threads of a write. The disk was not touched, or holds the image unverified.
    #[error("no thread could be started to write the image, free some memory: {0}")]
    Threads(#[source] io::Error),
    /// Someone asked to stop.
    #[error("cancelled while {stage} after {bytes} bytes")]
    Cancelled {
        /// What was going on.
        stage: Stage,
        /// How far it had come.
        bytes: u64,
    },
}
