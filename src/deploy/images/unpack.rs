//! Turns a qcow2 file, which cannot be streamed, into extents, which can: once, whoever many hosts ask for it. Blocks, so
//! it runs on a thread of its own; bounded in time, in the size of the disk, and by the room that the cache has.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ferric_image::{
    Checksum, Compression, Qcow2, Qcow2Error, Unpacker,
    extents::{self, PackError, Packed},
    qcow2::SizedFile,
};

use super::{
    failure::Failure,
    fetch::Progress,
    ledger::Full,
    request::{FORMAT, Hope, INVALID},
};

/// Largest disk that an image may unpack to.
const MAX_DISK: u64 = 16 << 40;
/// Time for one image, whatever happens.
const WHOLE: Duration = Duration::from_secs(4 * 3600);
/// Room is taken in steps of this.
const ROOM_STEP: u64 = 64 << 20;
/// Buffer between the work and the files.
const BUFFER: usize = 1 << 20;

/// What is to be unpacked.
pub(super) struct Work {
    /// The file as it was downloaded; its checksum was compared.
    pub(super) file: PathBuf,
    /// Its size.
    pub(super) size: u64,
    /// How it is compressed as a file.
    pub(super) compression: Compression,
    /// Its checksum.
    pub(super) checksum: Checksum,
    /// Where the qcow2 file is put if it is compressed as a file.
    pub(super) qcow2: PathBuf,
    /// Where the extents are put.
    pub(super) extents: PathBuf,
}

/// Why an image was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error(transparent)]
    Image(#[from] Qcow2Error),
    #[error("the image is a disk of 0 bytes")]
    Empty,
    #[error("the image is not valid {compression} data: {source}")]
    Decode { compression: Compression, source: io::Error },
    #[error(transparent)]
    Full(#[from] Full),
    #[error("{path}: {source}")]
    Disk { path: String, source: io::Error },
    #[error("the image was not unpacked within {} s", WHOLE.as_secs())]
    Late,
    #[error("unpacking the image was broken off")]
    Stopped,
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        let message = error.to_string();
        let permanent = |reason, message| Self { reason, message, hope: Hope::Later, permanent: true };
        match error {
            UnpackError::Image(Qcow2Error::Io { .. }) | UnpackError::Stopped => {
                Self::soon("ImageCacheFailed", message)
            }
            UnpackError::Image(Qcow2Error::Refused(_) | Qcow2Error::Version(_)) => permanent(FORMAT, message),
            UnpackError::Image(Qcow2Error::Magic(_)) => {
                permanent(FORMAT, format!("{message}; give the format that the image has"))
            }
            UnpackError::Image(_) | UnpackError::Empty | UnpackError::Decode { .. } | UnpackError::Late => {
                permanent(INVALID, message)
            }
            UnpackError::Full(_) => Self::soon("ImageCacheFull", message),
            UnpackError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::soon("ImageCacheFull", format!("the disk of the image cache is full: {message}"))
            }
            UnpackError::Disk { .. } => Self::soon("ImageCacheFailed", message),
        }
    }
}

/// Stops the work when it is dropped: a thread cannot be.
pub(super) struct StopOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bounds of the work, asked all along the way.
struct Bounds<'a> {
    room: &'a dyn Fn(u64) -> Result<(), Full>,
    /// What is asked of `room` at least: all that lies on the disk for this image.
    base: u64,
    taken: u64,
    begun: Instant,
    stop: &'a AtomicBool,
}

impl Bounds<'_> {
    fn allow(&mut self, bytes: u64) -> Result<(), UnpackError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(UnpackError::Stopped);
        }
        if self.begun.elapsed() > WHOLE {
            return Err(UnpackError::Late);
        }
        let needed = self.base.saturating_add(bytes);
        while self.taken < needed {
            let more = self.taken.saturating_add(ROOM_STEP);
            (self.room)(more)?;
            self.taken = more;
        }
        Ok(())
    }
}

/// Does the work. `room` is asked for the room that is needed in all.
pub(super) fn unpack(
    work: &Work,
    progress: &Progress,
    room: &dyn Fn(u64) -> Result<(), Full>,
    stop: &AtomicBool,
) -> Result<Packed, UnpackError> {
    let mut bounds = Bounds { room, base: work.size, taken: work.size, begun: Instant::now(), stop };
    let mut file = &work.file;
    if work.compression != Compression::None {
        let bytes = decompress(work, &mut bounds)?;
        // The download is of no more use.
        let _ = std::fs::remove_file(&work.file);
        (bounds.base, file) = (bytes, &work.qcow2);
    }
    let source = File::open(file).and_then(SizedFile::new).map_err(|e| disk(file, e))?;
    let mut image = Qcow2::open(source, MAX_DISK)?;
    progress.restart(image.size());
    let sink = File::create(&work.extents).map_err(|e| disk(&work.extents, e))?;
    let mut sink = BufWriter::with_capacity(BUFFER, sink);
    let mut ended = None;
    let packed = extents::pack(&mut image, &work.checksum, &mut sink, &mut |done, bytes| {
        progress.set(done);
        bounds.allow(bytes).map_err(|error| {
            ended = Some(error);
            io::Error::other("ended")
        })
    });
    let packed = match (packed, ended) {
        (_, Some(error)) => return Err(error),
        (Ok(packed), None) => packed,
        (Err(PackError::Image(error)), None) => return Err(error.into()),
        (Err(PackError::Empty), None) => return Err(UnpackError::Empty),
        (Err(PackError::Sink(error)), None) => return Err(disk(&work.extents, error)),
    };
    let sink = sink.into_inner().map_err(|e| disk(&work.extents, e.into_error()))?;
    sink.sync_all().map_err(|e| disk(&work.extents, e))?;
    Ok(packed)
}

/// Unpacks what was compressed around the qcow2 file.
fn decompress(work: &Work, bounds: &mut Bounds<'_>) -> Result<u64, UnpackError> {
    let Work { file, compression, qcow2, .. } = work;
    let decode = |source| UnpackError::Decode { compression: *compression, source };
    let source = File::open(file).map_err(|e| disk(file, e))?;
    let mut source = Unpacker::new(BufReader::with_capacity(BUFFER, source), *compression).map_err(decode)?;
    let mut sink = File::create(qcow2).map_err(|e| disk(qcow2, e))?;
    let (mut buffer, mut bytes) = (vec![0; BUFFER], 0);
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(decode(error)),
        };
        bytes += count as u64;
        bounds.allow(bytes)?;
        sink.write_all(&buffer[..count]).map_err(|e| disk(qcow2, e))?;
    }
}

fn disk(path: &Path, source: io::Error) -> UnpackError {
    UnpackError::Disk { path: path.display().to_string(), source }
}
