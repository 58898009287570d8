//! Unpacks what comes from the source.

use std::{
    fmt,
    io::{self, BufReader, Cursor, Read},
};

use super::{
    ImageError, WriteOptions,
    source::{Download, Feed},
};

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

type Input = io::Chain<Cursor<Vec<u8>>, Feed>;

enum Unpack {
    None(Box<Input>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Input>>),
    Zstd(Box<zstd::Decoder<'static, Input>>),
    Xz(Box<liblzma::bufread::XzDecoder<Input>>),
}

/// An image as it comes out of its packing.
pub(super) struct Decoder {
    unpack: Unpack,
    compression: Compression,
    announced: Option<u64>,
    content_bytes: Option<u64>,
}

impl Decoder {
    pub(super) fn new(mut feed: Feed, options: &WriteOptions) -> Result<Self, ImageError> {
        let WriteOptions { compression, download_bytes, .. } = *options;
        let mut start = Vec::new();
        let mut content_bytes = None;
        if compression == Compression::Zstd {
            let taken = (&mut feed).take(ZSTD_HEADER as u64).read_to_end(&mut start);
            if let Err(source) = taken {
                let other = ImageError::Source { bytes: feed.bytes_read(), source };
                return Err(feed.take_failure().unwrap_or(other));
            }
            // Of the first frame only; a file of several says nothing about the whole.
            content_bytes = zstd::zstd_safe::get_frame_content_size(&start).ok().flatten();
        }
        let input = Cursor::new(start).chain(feed);
        let invalid = |source| ImageError::Decode { compression, bytes: 0, source };
        let unpack = match compression {
            // Extents are taken apart by the next in line; what is not packed does not come here.
            Compression::None | Compression::Extents => Unpack::None(Box::new(input)),
            Compression::Gzip => Unpack::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            Compression::Zstd => {
                let decoder = zstd::Decoder::with_buffer(input).and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                    Ok(decoder)
                });
                Unpack::Zstd(Box::new(decoder.map_err(invalid)?))
            }
            Compression::Xz => Unpack::Xz(Box::new(xz(input).map_err(invalid)?)),
        };
        Ok(Self { unpack, compression, announced: download_bytes, content_bytes })
    }

    /// How large the image is at least, where that is known beforehand.
    pub(super) fn content_bytes(&self) -> Option<u64> {
        self.content_bytes
    }

    /// Bytes of the download that were needed so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.feed().bytes_read()
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

    /// Takes what may follow the image, and compares the length: the checksum is of the whole file, and a decompressor may
    /// stop before its last byte.
    pub(super) fn finish(mut self) -> Result<Download, ImageError> {
        let download = match self.feed_mut().finish() {
            Ok(download) => download,
            Err(error) => return Err(self.explain(error)),
        };
        download.check_length(self.announced)
    }

    /// An error of whoever takes the stream apart further, explained likewise.
    pub(super) fn damaged(&mut self, source: io::Error) -> ImageError {
        self.explain(source)
    }

    /// The reason behind a failed read: the source's own, or that the data are not what they should be.
    fn explain(&mut self, source: io::Error) -> ImageError {
        let (compression, announced) = (self.compression, self.announced);
        let feed = self.feed_mut();
        let bytes = feed.bytes_read();
        if let Some(failure) = feed.take_failure() {
            return failure;
        }
        match announced {
            Some(expected) if source.kind() == io::ErrorKind::UnexpectedEof && bytes < expected => {
                ImageError::Truncated { expected, got: bytes }
            }
            _ => ImageError::Decode { compression, bytes, source },
        }
    }

    fn feed(&self) -> &Feed {
        match &self.unpack {
            Unpack::None(input) => input.get_ref().1,
            Unpack::Gzip(decoder) => decoder.get_ref().get_ref().1,
            Unpack::Zstd(decoder) => decoder.get_ref().get_ref().1,
            Unpack::Xz(decoder) => decoder.get_ref().get_ref().1,
        }
    }

    fn feed_mut(&mut self) -> &mut Feed {
        match &mut self.unpack {
            Unpack::None(input) => input.get_mut().1,
            Unpack::Gzip(decoder) => decoder.get_mut().get_mut().1,
            Unpack::Zstd(decoder) => decoder.get_mut().get_mut().1,
            Unpack::Xz(decoder) => decoder.get_mut().get_mut().1,
        }
    }
}

impl Read for Decoder {
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
