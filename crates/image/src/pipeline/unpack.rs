//! Second stage: makes parts of a disk of what is downloaded.

use std::sync::mpsc::{Receiver, SyncSender};

use super::{
    Compression, ContentHash, ImageError, WriteOptions,
    decode::Decoder,
    pool::Pool,
    source::{Download, Fed, Feed},
};
use crate::{
    Checksum,
    device::aligned::Aligned,
    extents::{ExtentsError, ExtentsReader, HASH, Next},
};

/// What the second stage hands to the third: a beginning, data in order, an end.
pub(super) enum Item {
    /// What is known before anything else.
    Start(Start),
    /// A part of the disk. What lies between two parts is zeros.
    Data(Data),
    /// There is no more, and the length of the download is right.
    End {
        /// The whole download.
        download: Download,
        /// Of the whole disk, where the image says so.
        content: Option<ContentHash>,
    },
}

/// What is known of an image before anything is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Start {
    /// A stream, of this many bytes if that is known; it may be longer.
    Stream { at_least: Option<u64> },
    /// A disk of this many bytes, made from that image.
    Disk { bytes: u64, source: Checksum },
}

/// A part of a disk.
pub(super) struct Data {
    /// Where it belongs.
    pub(super) offset: u64,
    /// What belongs there.
    pub(super) bytes: Aligned,
    /// Bytes of the download that were needed so far.
    pub(super) read: u64,
    /// Number and hash that it must have, where the image says so.
    pub(super) expected: Option<(u64, [u8; HASH])>,
}

type From = Receiver<Result<Fed, ImageError>>;
type To = SyncSender<Result<Item, ImageError>>;

/// Unpacks all of a download, or until another stage is gone. An error is the last thing that is sent.
pub(super) fn unpack(feed: Feed, options: &WriteOptions, pool: &Pool, to: &To) {
    finish(
        match options.compression {
            Compression::Extents => extents(feed, options, pool, to),
            _ => stream(feed, options, pool, to),
        },
        to,
    );
}

/// The same for what is not packed, without copying it: the buffers of the first stage are those of the disk.
pub(super) fn pass_on(from: &From, options: &WriteOptions, to: &To) {
    finish(plain(from, options, to), to);
}

fn finish(all: Result<Option<Item>, ImageError>, to: &To) {
    let _ = match all {
        Ok(Some(end)) => to.send(Ok(end)),
        // Somebody else has gone, and knows why.
        Ok(None) => return,
        Err(error) => to.send(Err(error)),
    };
}

/// Sends everything but the end, which it returns; `None` when nobody listens any more.
fn plain(from: &From, options: &WriteOptions, to: &To) -> Result<Option<Item>, ImageError> {
    if to.send(Ok(Item::Start(Start::Stream { at_least: options.download_bytes }))).is_err() {
        return Ok(None);
    }
    let mut offset = 0;
    loop {
        let fed = match from.recv() {
            Ok(fed) => fed?,
            Err(_) => return Ok(None),
        };
        match fed {
            Fed::Bytes(bytes) => {
                let read = offset + bytes.len() as u64;
                if to.send(Ok(Item::Data(Data { offset, bytes, read, expected: None }))).is_err() {
                    return Ok(None);
                }
                offset = read;
            }
            Fed::End(download) => {
                let download = download.check_length(options.download_bytes)?;
                return Ok(Some(Item::End { download, content: None }));
            }
        }
    }
}

/// The same for what a decompressor makes.
fn stream(feed: Feed, options: &WriteOptions, pool: &Pool, to: &To) -> Result<Option<Item>, ImageError> {
    let mut decoder = Decoder::new(feed, options)?;
    if to.send(Ok(Item::Start(Start::Stream { at_least: decoder.content_bytes() }))).is_err() {
        return Ok(None);
    }
    let mut offset = 0;
    loop {
        let Some(mut bytes) = pool.take() else { return Ok(None) };
        let filled = decoder.fill(&mut bytes)?;
        // A short block is the last one.
        let last = filled < bytes.len();
        if filled > 0 {
            bytes.set_len(filled);
            let data = Data { offset, bytes, read: decoder.bytes_read(), expected: None };
            if to.send(Ok(Item::Data(data))).is_err() {
                return Ok(None);
            }
        }
        if last {
            return Ok(Some(Item::End { download: decoder.finish()?, content: None }));
        }
        offset += filled as u64;
    }
}

/// The same for extents.
fn extents(feed: Feed, options: &WriteOptions, pool: &Pool, to: &To) -> Result<Option<Item>, ImageError> {
    let mut decoder = Decoder::new(feed, options)?;
    let mut reader = match ExtentsReader::new(&mut decoder) {
        Ok(reader) => reader,
        Err(error) => return Err(explain(&mut decoder, error)),
    };
    let header = reader.header();
    let start = Start::Disk { bytes: header.disk_bytes, source: header.source.clone() };
    if to.send(Ok(Item::Start(start))).is_err() {
        return Ok(None);
    }
    loop {
        let Some(mut bytes) = pool.take() else { return Ok(None) };
        match reader.next_into(&mut decoder, &mut bytes) {
            Ok(Next::Chunk { number, offset, length, sha256 }) => {
                bytes.set_len(length);
                let data =
                    Data { offset, bytes, read: decoder.bytes_read(), expected: Some((number, sha256)) };
                if to.send(Ok(Item::Data(data))).is_err() {
                    return Ok(None);
                }
            }
            Ok(Next::End { content_sha256 }) => {
                let content = Some(ContentHash::Sha256(content_sha256));
                return Ok(Some(Item::End { download: decoder.finish()?, content }));
            }
            Err(error) => return Err(explain(&mut decoder, error)),
        }
    }
}

fn explain(decoder: &mut Decoder, error: ExtentsError) -> ImageError {
    match error {
        ExtentsError::Source(source) => decoder.damaged(source),
        source => ImageError::Extents { bytes: decoder.bytes_read(), source },
    }
}
