//! First stage: takes bytes from the source, counts, bounds and hashes them.

use std::{
    io::{self, BufRead, Read},
    sync::mpsc::{Receiver, SyncSender},
};

use ring::digest;

use super::{
    ImageError,
    pool::{Pool, Returns},
};
use crate::device::aligned::Aligned;

/// Bytes that are handed on at once: many packets of a network, little memory.
pub(super) const CHUNK: usize = 256 * 1024;
/// How many of these there are.
pub(super) const CHUNKS: usize = 6;

/// What the first stage hands to the second.
pub(super) enum Fed {
    /// The next bytes.
    Bytes(Aligned),
    /// There are no more.
    End(Download),
}

/// A whole download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Download {
    /// How many bytes came.
    pub(super) bytes: u64,
    /// Their hash in hex.
    pub(super) hash: String,
}

impl Download {
    /// Refuses a length that is not the announced one.
    pub(super) fn check_length(self, announced: Option<u64>) -> Result<Self, ImageError> {
        match announced {
            Some(expected) if self.bytes < expected => {
                Err(ImageError::Truncated { expected, got: self.bytes })
            }
            Some(expected) if self.bytes > expected => Err(ImageError::Overlong { expected }),
            _ => Ok(self),
        }
    }
}

/// Reads the source to its end, or until the next stage is gone, in whole buffers. An error is the last thing that is
/// sent, after all whole buffers that came before it.
pub(super) fn feed(
    source: &mut dyn Read,
    mut hasher: digest::Context,
    limit: u64,
    pool: &Pool,
    to: &SyncSender<Result<Fed, ImageError>>,
) {
    let mut bytes = 0;
    loop {
        let Some(mut chunk) = pool.take() else { return };
        let (filled, end) = match fill(source, &mut chunk, bytes) {
            Ok((filled, _)) if bytes + filled as u64 > limit => {
                let _ = to.send(Err(ImageError::LimitExceeded { limit }));
                return;
            }
            Ok(filled) => filled,
            Err(error) => {
                let _ = to.send(Err(error));
                return;
            }
        };
        bytes += filled as u64;
        if filled > 0 {
            chunk.set_len(filled);
            hasher.update(&chunk);
            if to.send(Ok(Fed::Bytes(chunk))).is_err() {
                return;
            }
        }
        if end {
            let hash = hex::encode(hasher.finish());
            let _ = to.send(Ok(Fed::End(Download { bytes, hash })));
            return;
        }
    }
}

/// Fills the buffer as far as the source goes; also whether that is its end.
fn fill(source: &mut dyn Read, buffer: &mut [u8], before: u64) -> Result<(usize, bool), ImageError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => return Ok((filled, true)),
            // A source that says it gave more than there is room for is not believed.
            Ok(count) => filled = (filled + count).min(buffer.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(ImageError::Source { bytes: before + filled as u64, source }),
        }
    }
    Ok((filled, false))
}

/// The second stage's end, as a reader. Remembers why it failed, since decompressors lose that.
pub(super) struct Feed {
    from: Receiver<Result<Fed, ImageError>>,
    returns: Returns,
    current: Option<Aligned>,
    position: usize,
    bytes: u64,
    end: Option<Download>,
    failure: Option<ImageError>,
    failed: bool,
}

impl Feed {
    pub(super) fn new(from: Receiver<Result<Fed, ImageError>>, returns: Returns) -> Self {
        Self { from, returns, current: None, position: 0, bytes: 0, end: None, failure: None, failed: false }
    }

    /// Bytes that were read here so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes
    }

    /// Why reading failed; said once.
    pub(super) fn take_failure(&mut self) -> Option<ImageError> {
        self.failure.take()
    }

    /// Skips what is left, up to the end.
    pub(super) fn finish(&mut self) -> io::Result<Download> {
        loop {
            let rest = self.fill_buf()?.len();
            if rest == 0 {
                let missing = || io::Error::from(io::ErrorKind::UnexpectedEof);
                return self.end.clone().ok_or_else(missing);
            }
            self.consume(rest);
        }
    }

    fn fail(&mut self, why: ImageError) -> io::Error {
        self.failure.get_or_insert(why);
        self.failed = true;
        io::Error::other("the source failed")
    }
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.failed {
            return Err(io::Error::other("the source failed"));
        }
        if self.current.as_ref().is_some_and(|chunk| self.position >= chunk.len())
            && let Some(empty) = self.current.take()
        {
            self.returns.give(empty);
        }
        if self.current.is_none() && self.end.is_none() {
            match self.from.recv() {
                Ok(Ok(Fed::Bytes(chunk))) => (self.current, self.position) = (Some(chunk), 0),
                Ok(Ok(Fed::End(download))) => self.end = Some(download),
                Ok(Err(error)) => return Err(self.fail(error)),
                Err(_) => {
                    let source = io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads it any more");
                    let error = ImageError::Source { bytes: self.bytes, source };
                    return Err(self.fail(error));
                }
            }
        }
        Ok(self.current.as_ref().map_or(&[], |chunk| &chunk[self.position..]))
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
        self.bytes += count as u64;
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
