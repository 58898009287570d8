//! The reading half: hashes what comes, unpacks it, and bounds both.

use std::{
    fmt,
    io::{self, BufReader, Cursor, Read},
};

use ring::digest;

use super::{ImageError, WriteOptions};
use crate::{Checksum, ChecksumAlgorithm};

/// Largest window that a zstd image may ask for: 128 MiB, what `zstd --long` uses. It is memory of the agent.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Memory that unpacking xz may take: `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// Enough of a zstd frame to learn the size of its content.
const ZSTD_HEADER: usize = 18;

const BUFFER: usize = 64 * 1024;

/// How an image file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of one or more members.
    Gzip,
    /// Zstandard, of one or more frames.
    Zstd,
    /// xz, of one or more streams.
    Xz,
    /// Chunks and holes, see [`crate::extents`].
    Extents,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Extents => "extents",
        })
    }
}

/// Counts and hashes what passes. Remembers why it failed, since decompressors lose that.
struct Tap<'a> {
    source: &'a mut dyn Read,
    /// None when the content's own hash says the same.
    hasher: Option<digest::Context>,
    bytes: u64,
    limit: u64,
    failure: Option<ImageError>,
}

impl Read for Tap<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.source.read(buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return self.fail(ImageError::Source { bytes: self.bytes, source }),
            }
        };
        self.bytes += count as u64;
        if self.bytes > self.limit {
            return self.fail(ImageError::LimitExceeded { limit: self.limit });
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

impl Tap<'_> {
    fn fail(&mut self, why: ImageError) -> io::Result<usize> {
        self.failure.get_or_insert(why);
        Err(io::Error::other("the source failed"))
    }
}

type Input<'a> = io::Chain<Cursor<Vec<u8>>, Tap<'a>>;

enum Unpack<'a> {
    None(Box<Input<'a>>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<Input<'a>>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<Input<'a>>>>),
    Xz(Box<liblzma::bufread::XzDecoder<BufReader<Input<'a>>>>),
}

/// An image as it comes out of its packing.
pub(super) struct Decoder<'a> {
    unpack: Unpack<'a>,
    checksum: &'a Checksum,
    compression: Compression,
    announced: Option<u64>,
    content_bytes: Option<u64>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(
        source: &'a mut dyn Read,
        options: &'a WriteOptions,
        limit: u64,
    ) -> Result<Self, ImageError> {
        let WriteOptions { checksum, compression, source: _, max_bytes: _, download_bytes, block_bytes: _ } =
            options;
        let same = *compression == Compression::None && checksum.algorithm() == ChecksumAlgorithm::Sha256;
        // Incompressible content grows a little when packed; the limit is for those who send something else.
        let limit = match compression {
            Compression::None => limit,
            Compression::Gzip | Compression::Zstd | Compression::Xz | Compression::Extents => {
                limit.saturating_add(limit / 64).saturating_add(1 << 20)
            }
        };
        let hasher = (!same).then(|| checksum.algorithm().hasher());
        let mut tap = Tap { source, hasher, bytes: 0, limit, failure: None };
        let mut start = Vec::new();
        let mut content_bytes = (*compression == Compression::None).then_some(*download_bytes).flatten();
        if *compression == Compression::Zstd {
            let taken = (&mut tap).take(ZSTD_HEADER as u64).read_to_end(&mut start);
            if let Err(source) = taken {
                let other = ImageError::Source { bytes: tap.bytes, source };
                return Err(tap.failure.take().unwrap_or(other));
            }
            // Of the first frame only; a file of several says nothing about the whole.
            content_bytes = zstd::zstd_safe::get_frame_content_size(&start).ok().flatten();
        }
        let input = Cursor::new(start).chain(tap);
        let invalid = |source| ImageError::Decode { compression: *compression, bytes: 0, source };
        let unpack = match compression {
            // Extents are taken apart by whoever writes them.
            Compression::None | Compression::Extents => Unpack::None(Box::new(input)),
            Compression::Gzip => Unpack::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(
                BufReader::with_capacity(BUFFER, input),
            ))),
            Compression::Zstd => {
                let decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(BUFFER, input));
                let decoder = decoder.and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                    Ok(decoder)
                });
                Unpack::Zstd(Box::new(decoder.map_err(invalid)?))
            }
            Compression::Xz => {
                Unpack::Xz(Box::new(xz(BufReader::with_capacity(BUFFER, input)).map_err(invalid)?))
            }
        };
        Ok(Self { unpack, checksum, compression: *compression, announced: *download_bytes, content_bytes })
    }

    /// How large the image is at least, where that is known beforehand.
    pub(super) fn content_bytes(&self) -> Option<u64> {
        self.content_bytes
    }

    /// Bytes downloaded so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.tap().bytes
    }

    /// Fills the buffer as far as there is image left.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            match self.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain(error)),
            }
        }
        Ok(filled)
    }

    /// Takes what may follow the image, and compares length and checksum. `content` is the SHA-256 of the image.
    pub(super) fn finish(mut self, content: &str) -> Result<(u64, Checksum), ImageError> {
        // The checksum is of the whole file: a decompressor may stop before its last byte.
        let mut rest = [0; 4096];
        loop {
            match self.tap_mut().read(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(self.explain(error)),
            }
        }
        let (checksum, announced) = (self.checksum, self.announced);
        let tap = self.tap_mut();
        let bytes = tap.bytes;
        match announced {
            Some(expected) if bytes < expected => return Err(ImageError::Truncated { expected, got: bytes }),
            Some(expected) if bytes > expected => return Err(ImageError::Overlong { expected }),
            _ => {}
        }
        let found = match tap.hasher.take() {
            Some(hasher) => hex::encode(hasher.finish()),
            None => content.to_owned(),
        };
        if found == checksum.hex() {
            Ok((bytes, checksum.clone()))
        } else {
            let (algorithm, expected) = (checksum.algorithm(), checksum.hex().to_owned());
            Err(ImageError::Checksum { algorithm, bytes, expected, found })
        }
    }

    /// An error of whoever takes the stream apart further, explained likewise.
    pub(super) fn damaged(&mut self, source: io::Error) -> ImageError {
        self.explain(source)
    }

    /// The reason behind a failed read: the source's own, or that the data are not what they should be.
    fn explain(&mut self, source: io::Error) -> ImageError {
        let (compression, announced) = (self.compression, self.announced);
        let tap = self.tap_mut();
        let bytes = tap.bytes;
        if let Some(failure) = tap.failure.take() {
            return failure;
        }
        match announced {
            Some(expected) if source.kind() == io::ErrorKind::UnexpectedEof && bytes < expected => {
                ImageError::Truncated { expected, got: bytes }
            }
            _ => ImageError::Decode { compression, bytes, source },
        }
    }

    fn tap(&self) -> &Tap<'a> {
        match &self.unpack {
            Unpack::None(input) => input.get_ref().1,
            Unpack::Gzip(decoder) => decoder.get_ref().get_ref().get_ref().1,
            Unpack::Zstd(decoder) => decoder.get_ref().get_ref().get_ref().1,
            Unpack::Xz(decoder) => decoder.get_ref().get_ref().get_ref().1,
        }
    }

    fn tap_mut(&mut self) -> &mut Tap<'a> {
        match &mut self.unpack {
            Unpack::None(input) => input.get_mut().1,
            Unpack::Gzip(decoder) => decoder.get_mut().get_mut().get_mut().1,
            Unpack::Zstd(decoder) => decoder.get_mut().get_mut().get_mut().1,
            Unpack::Xz(decoder) => decoder.get_mut().get_mut().get_mut().1,
        }
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.unpack {
            Unpack::None(input) => input.read(buffer),
            Unpack::Gzip(decoder) => decoder.read(buffer),
            Unpack::Zstd(decoder) => decoder.read(buffer),
            Unpack::Xz(decoder) => decoder.read(buffer),
        }
    }
}

fn xz<R: io::BufRead>(source: R) -> io::Result<liblzma::bufread::XzDecoder<R>> {
    let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
    Ok(liblzma::bufread::XzDecoder::new_stream(source, stream))
}

/// A compressed file as what is in it. It hashes nothing: for files whose checksum was compared before.
pub struct Unpacker<R: Read> {
    inner: UnpackerKind<R>,
}

enum UnpackerKind<R: Read> {
    None(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<R>>>),
    Xz(Box<liblzma::bufread::XzDecoder<BufReader<R>>>),
}

impl<R: Read> Unpacker<R> {
    /// Unpacks `source`; [`Compression::Extents`] is passed through.
    pub fn new(source: R, compression: Compression) -> io::Result<Self> {
        let buffered = |source| BufReader::with_capacity(BUFFER, source);
        let inner = match compression {
            Compression::None | Compression::Extents => UnpackerKind::None(source),
            Compression::Gzip => {
                UnpackerKind::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(buffered(source))))
            }
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(buffered(source))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                UnpackerKind::Zstd(Box::new(decoder))
            }
            Compression::Xz => UnpackerKind::Xz(Box::new(xz(buffered(source))?)),
        };
        Ok(Self { inner })
    }
}

impl<R: Read> Read for Unpacker<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            UnpackerKind::None(source) => source.read(buffer),
            UnpackerKind::Gzip(decoder) => decoder.read(buffer),
            UnpackerKind::Zstd(decoder) => decoder.read(buffer),
            UnpackerKind::Xz(decoder) => decoder.read(buffer),
        }
    }
}
