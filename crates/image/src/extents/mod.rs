//! A disk image as the chunks of it that are not zeros: how an image that cannot be streamed goes to the agent.
//!
//! ```text
//! magic "FERRICX1" · size of the disk, u64 · bytes of a chunk, u32 · type (1 SHA-256, 2 SHA-512) and checksum of the
//! image that this was made from, u8 and 64 bytes
//! chunks, in order: number, u64 · bytes that follow, u32, its highest bit set if they are not packed · SHA-256 of the
//!                   chunk, 32 bytes · the chunk, a zstd frame
//! end: 2⁶⁴-1, u64 · how many chunks there were, u64 · SHA-256 of the whole disk, holes included, 32 bytes
//! ```
//!
//! Numbers are big-endian. A chunk that is not listed is zeros, and must be made so. The same image always makes the same
//! bytes, so a download can be continued after the file was made anew. Writer and reader hold two chunks in memory.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{ExtentsError, ExtentsReader, Header, Item};
pub(crate) use read::{Next, check_chunk};
pub use write::{PackError, Packed, pack};

/// What a file of extents begins with.
pub const MAGIC: [u8; 8] = *b"FERRICX1";

/// Bytes of a chunk: small against memory, large against a table entry and a seek.
pub const CHUNK: usize = 4 << 20;

/// Stands for the end, where a chunk's number would be.
const END: u64 = u64::MAX;
/// The chunk is stored as it is.
const PLAIN: u32 = 1 << 31;
/// Bytes of a SHA-256.
pub(crate) const HASH: usize = 32;
const CHECKSUM: usize = 64;
const HEADER: usize = MAGIC.len() + 8 + 4 + 1 + CHECKSUM;
