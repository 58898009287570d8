//! The cache of images: what hosts ask for is fetched once, in the background, verified, and kept by its digest.
//!
//! A file in the cache has the name of its digest and is put there by a rename after it was hashed and synced. After a
//! restart it is hashed anew before the first use: a sidecar would have to be trusted as much as the file itself, while
//! hashing reads a few GB once a process and also finds what a failing disk did in the meantime. Raw images stay as they
//! were downloaded, compressed or not; a qcow2 image is unpacked once, and only its extents are kept, by their own digest.

mod download;
mod failure;
mod fetch;
mod ledger;
mod oci;
mod pull_secret;
mod request;
mod store;
mod unpack;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, SystemTime},
};

use ferric_api::host::Image;
use ferric_image::Checksum;
use ferric_protocol::v1::Compression;
use tokio::sync::{Semaphore, mpsc};

use self::{
    download::Download,
    failure::{Failure, failed},
    fetch::{Clients, Place, Progress, Renewal},
    ledger::{Entry, Ledger},
    oci::Artifact,
    pull_secret::Login,
    request::{Expected, Hope, ImageRequest, Kind, Refusal, back_off, list_problem, recognise, shown},
    store::{file_name, files_in},
};
use crate::key::Key;

pub use self::pull_secret::{DOCKER_CONFIG_KEY, NoPullSecrets, PullSecretError, PullSecrets};

/// A request that nobody has repeated for this long is forgotten, with its failures and the checksum it resolved to.
const FORGET_MS: u64 = 3600 * 1000;
/// Downloads in the making.
const PARTIAL: &str = "partial";

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageState {
    /// On its way, or being checked.
    Fetching {
        /// Bytes so far.
        bytes_done: u64,
        /// Bytes in all, when the server says.
        bytes_total: Option<u64>,
    },
    /// There, and verified.
    Ready(ReadyImage),
    /// Not there.
    Failed {
        /// Reason for a condition, in CamelCase.
        reason: &'static str,
        /// Sentence for a person.
        message: String,
        /// Only a change of the spec, or of the file on the server, helps.
        permanent: bool,
        /// When the next [`ImageCache::ensure`] tries again.
        retry_at: jiff::Timestamp,
    },
}

/// An image that agents can fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyImage {
    /// `sha256:<hex>` or `sha512:<hex>` of the file, as the spec asks for.
    pub digest: String,
    /// Path of the image below the agents' URL.
    pub path: String,
    /// Size of the file at that path.
    pub size: u64,
    /// How the file at that path is compressed; a qcow2 image has become extents there.
    pub compression: Compression,
}

/// The cache. Clones share one state.
#[derive(Clone)]
pub struct ImageCache {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    wake: mpsc::UnboundedSender<Key>,
    clients: Clients,
    pull_secrets: Arc<dyn PullSecrets>,
    fetches: Semaphore,
    downloads: AtomicU64,
    state: Mutex<State>,
}

struct State {
    ledger: Ledger,
    jobs: HashMap<ImageRequest, Job>,
}

/// One image that was asked for.
struct Job {
    checksum: Option<Checksum>,
    stage: Stage,
    failures: u32,
    waiting: HashSet<Key>,
    asked_at: u64,
}

enum Stage {
    Idle,
    Running(Arc<Progress>),
    Failed { failure: Failure, retry_at: jiff::Timestamp },
}

impl ImageCache {
    /// Opens the cache in `dir`, which is made if need be. Must be called in a tokio runtime. `wake` is sent the key
    /// of every host that waits for an image when that image is there or has failed. Credentials of registries are read
    /// from `pull_secrets` for each fetch.
    pub fn open(
        dir: impl Into<PathBuf>,
        max_bytes: u64,
        max_parallel_fetches: usize,
        wake: mpsc::UnboundedSender<Key>,
        pull_secrets: Arc<dyn PullSecrets>,
    ) -> io::Result<Self> {
        Self::open_with(dir.into(), max_bytes, max_parallel_fetches, wake, pull_secrets, Clients::new()?)
    }

    fn open_with(
        dir: PathBuf,
        max_bytes: u64,
        max_parallel_fetches: usize,
        wake: mpsc::UnboundedSender<Key>,
        pull_secrets: Arc<dyn PullSecrets>,
        clients: Clients,
    ) -> io::Result<Self> {
        let partial = dir.join(PARTIAL);
        if partial.exists() {
            std::fs::remove_dir_all(&partial)?;
        }
        std::fs::create_dir_all(&partial)?;
        let mut ledger = Ledger::new(max_bytes);
        for (digest, entry) in files_in(&dir)? {
            ledger.insert(digest, entry);
        }
        // Only finds something to drop when the bound was lowered.
        for digest in ledger.make_room(0, u64::MAX).unwrap_or_default() {
            store::remove(&dir, &digest);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                dir,
                wake,
                clients,
                pull_secrets,
                fetches: Semaphore::new(max_parallel_fetches.max(1)),
                downloads: AtomicU64::new(0),
                state: Mutex::new(State { ledger, jobs: HashMap::new() }),
            }),
        })
    }

    /// Says where the image is, and starts to fetch it if it is not there. Never blocks. `secret` is the Secret that
    /// `image.ociAuthSecretName` means.
    pub fn ensure(&self, host: &Key, image: &Image, secret: Option<&Key>) -> ImageState {
        let request = match ImageRequest::of(image, secret) {
            Ok(request) => request,
            Err(Refusal { reason, message }) => {
                let failure = Failure { reason, message, hope: Hope::Later, permanent: true };
                return failed(&failure, after(back_off(Hope::Later, u32::MAX, 0.5)));
            }
        };
        let now = now_ms();
        let mut state = self.inner.state();
        let State { ledger, jobs } = &mut *state;
        let job = jobs.entry(request.clone()).or_insert_with(|| Job::new(&request));
        job.asked_at = now;
        if let Some(ready) = job.checksum.as_ref().and_then(|c| ready(ledger, c, request.kind, now)) {
            return ImageState::Ready(ready);
        }
        let progress = match &job.stage {
            Stage::Failed { failure, retry_at } if jiff::Timestamp::now() < *retry_at => {
                return failed(failure, *retry_at);
            }
            Stage::Running(progress) => Arc::clone(progress),
            Stage::Idle | Stage::Failed { .. } => {
                let progress = Arc::new(Progress::default());
                job.stage = Stage::Running(Arc::clone(&progress));
                tokio::spawn(Arc::clone(&self.inner).run(request, Arc::clone(&progress)));
                progress
            }
        };
        job.waiting.insert(host.clone());
        jobs.retain(|_, job| job.is_wanted(now));
        ImageState::Fetching { bytes_done: progress.done(), bytes_total: progress.total() }
    }

    /// Cuts the back-off after a failure short: the next [`Self::ensure`] tries again.
    pub fn retry_now(&self, image: &Image, secret: Option<&Key>) {
        if let Ok(request) = ImageRequest::of(image, secret)
            && let Some(job) = self.inner.state().jobs.get_mut(&request)
            && let Stage::Failed { .. } = job.stage
        {
            job.stage = Stage::Idle;
            job.failures = 0;
        }
    }

    /// Has the file hashed anew before it is next called ready: an agent found that it is not what it should be.
    pub fn distrust(&self, digest: &str) {
        let ledger = &mut self.inner.state().ledger;
        let made = ledger.extents_of(digest);
        for digest in made.as_deref().into_iter().chain([digest]) {
            if let Some(entry) = ledger.get_mut(digest) {
                entry.verified = None;
            }
        }
    }

    /// Opens a file of the cache by its digest. It is not evicted for as long as it is open. `None`: it is not there.
    pub fn open_file(&self, digest: &str) -> Option<io::Result<CachedFile>> {
        let held = self.read(digest)?;
        let opened = std::fs::File::open(&held.path);
        Some(opened.map(|file| CachedFile { size: held.size, file, _held: held }))
    }

    /// Opens an image for reading. It stays for as long as the reader does.
    pub(super) fn read(&self, digest: &str) -> Option<Reading> {
        let checksum = Checksum::parse(digest, None).ok()?;
        let digest = checksum.to_string();
        let mut state = self.inner.state();
        let size = state.ledger.hold(&digest, now_ms())?;
        let extents = state.ledger.get(&digest).is_some_and(|entry| entry.source.is_some());
        drop(state);
        let path = self.inner.dir.join(file_name(&digest, extents));
        Some(Reading { inner: Arc::clone(&self.inner), digest, path, size })
    }
}

/// A file of the cache, opened.
pub struct CachedFile {
    /// The file.
    pub file: std::fs::File,
    /// Its size in bytes.
    pub size: u64,
    _held: Reading,
}

/// An image that is being read; it is not evicted meanwhile.
pub(super) struct Reading {
    inner: Arc<Inner>,
    /// Its digest.
    pub digest: String,
    /// Its file.
    pub path: PathBuf,
    /// Its size.
    pub size: u64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.inner.state().ledger.release(&self.digest, now_ms());
    }
}

impl Job {
    fn new(request: &ImageRequest) -> Self {
        let checksum = match &request.expected {
            Expected::Known(checksum) => Some(checksum.clone()),
            Expected::Listed { .. } | Expected::Manifest { .. } => None,
        };
        Self { checksum, stage: Stage::Idle, failures: 0, waiting: HashSet::new(), asked_at: 0 }
    }

    fn is_wanted(&self, now: u64) -> bool {
        matches!(self.stage, Stage::Running(_)) || now.saturating_sub(self.asked_at) < FORGET_MS
    }
}

impl Inner {
    /// Fetches one image, notes how it ended and wakes the hosts that wait.
    async fn run(self: Arc<Self>, request: ImageRequest, progress: Arc<Progress>) {
        let work = Arc::clone(&self).obtain(request.clone(), progress);
        // A task of its own, so that even a panic ends in a state that is tried again.
        let done = tokio::spawn(work).await.unwrap_or_else(|error| {
            Err(Failure::soon("ImageCacheFailed", format!("the download was broken off: {error}")))
        });
        let mut state = self.state();
        let Some(job) = state.jobs.get_mut(&request) else { return };
        match done {
            Ok(()) => {
                tracing::info!(url = shown(&request.url), "image ready");
                (job.stage, job.failures) = (Stage::Idle, 0);
            }
            Err(failure) => {
                tracing::warn!(reason = failure.reason, message = failure.message, "image not ready");
                job.failures = job.failures.saturating_add(1);
                let retry_at = after(back_off(failure.hope, job.failures, rand::random()));
                job.stage = Stage::Failed { failure, retry_at };
            }
        }
        for host in job.waiting.drain() {
            let _ = self.wake.send(host);
        }
    }

    /// Makes the image be in the cache, verified.
    async fn obtain(self: Arc<Self>, request: ImageRequest, progress: Arc<Progress>) -> Result<(), Failure> {
        let broken = |_| Failure::soon("ImageCacheFailed", "the cache is closed".into());
        let _permit = self.fetches.acquire().await.map_err(broken)?;
        let (checksum, place) = self.resolve(&request).await?;
        if self.find(&request, &checksum, &progress).await {
            return Ok(());
        }
        let download = Download::new(&self);
        let room = |bytes| download.reserve(bytes);
        let size = fetch::download(&self.clients, &place, &checksum, &download.path, &progress, room).await?;
        let compression = recognise(&fetch::head(&download.path).await?, request.kind)?;
        match request.kind {
            Kind::Raw => {
                let verified = Some(compression);
                let entry = Entry { size, used_at: now_ms(), users: 0, verified, source: None };
                self.keep(checksum.to_string(), &download.path, entry).await
            }
            Kind::Qcow2 => self.unpack(download, size, compression, checksum, progress).await,
        }
    }

    /// Looks whether the image is there, from an earlier life of this process or after an agent had doubts: then it is
    /// hashed anew. What is damaged goes.
    async fn find(&self, request: &ImageRequest, checksum: &Checksum, progress: &Progress) -> bool {
        let source = checksum.to_string();
        let digest = match request.kind {
            Kind::Raw => Some(source),
            Kind::Qcow2 => self.state().ledger.extents_of(&source),
        };
        let known = digest.and_then(|digest| {
            let entry = self.state().ledger.get(&digest).cloned()?;
            Some((Checksum::parse(&digest, None).ok()?, entry))
        });
        let Some((expected, entry)) = known else { return false };
        let digest = expected.to_string();
        let path = self.dir.join(file_name(&digest, entry.source.is_some()));
        let compression = match fetch::hash_file(&path, expected.algorithm(), progress).await {
            Ok(got) if got == expected && entry.source.is_some() => Some(Compression::Extents),
            Ok(got) if got == expected => match fetch::head(&path).await {
                Ok(head) => recognise(&head, request.kind).ok(),
                Err(_) => None,
            },
            Ok(_) | Err(_) => None,
        };
        let mut state = self.state();
        match (compression, state.ledger.get_mut(&digest)) {
            (Some(compression), Some(entry)) => {
                entry.verified = Some(compression);
                entry.used_at = now_ms();
                true
            }
            (None, Some(_)) => {
                tracing::warn!(digest, "image in the cache is damaged, it is fetched anew");
                state.ledger.remove(&digest);
                drop(state);
                store::remove(&self.dir, &digest);
                false
            }
            // Evicted while it was hashed.
            (_, None) => false,
        }
    }

    /// Makes extents of a qcow2 image that was downloaded, on a thread of its own.
    async fn unpack(
        &self,
        download: Download,
        size: u64,
        compression: Compression,
        checksum: Checksum,
        progress: Arc<Progress>,
    ) -> Result<(), Failure> {
        let source = checksum.to_string();
        let work = unpack::Work {
            file: download.path.clone(),
            size,
            compression: match compression {
                Compression::Gzip => ferric_image::Compression::Gzip,
                Compression::Zstd => ferric_image::Compression::Zstd,
                Compression::Xz => ferric_image::Compression::Xz,
                _ => ferric_image::Compression::None,
            },
            checksum,
            qcow2: download.path.with_extension("qcow2"),
            extents: download.path.with_extension("extents"),
        };
        let extents = work.extents.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let _stop = unpack::StopOnDrop(Arc::clone(&stop));
        // The download, its files and its room with it, lives as long as the thread does.
        let done = tokio::task::spawn_blocking(move || {
            let packed = unpack::unpack(&work, &progress, &|bytes| download.reserve(bytes), &stop);
            packed.map(|packed| (packed, download))
        });
        let broken = |e| Failure::soon("ImageCacheFailed", format!("unpacking was broken off: {e}"));
        let (packed, _download) = done.await.map_err(broken)??;
        tracing::info!(
            source,
            disk = packed.disk_bytes,
            chunks = packed.chunks,
            bytes = packed.bytes,
            "image unpacked"
        );
        let verified = Some(Compression::Extents);
        let entry = Entry { size: packed.bytes, used_at: now_ms(), users: 0, verified, source: Some(source) };
        self.keep(packed.checksum.to_string(), &extents, entry).await
    }

    /// The checksum to compare with, and where the file is. A checksum from a list stays what it was for as long as the
    /// image is asked for.
    async fn resolve(&self, request: &ImageRequest) -> Result<(Checksum, Place), Failure> {
        let place = Place { url: request.url.clone(), authorization: None, renewal: None };
        let known = self.state().jobs.get(request).and_then(|j| j.checksum.clone());
        let (checksum, place) = match (&request.expected, known) {
            (Expected::Manifest { artifact, said, secret }, _) => {
                let login = match secret {
                    Some(secret) => self.login(artifact, secret).await?,
                    None => None,
                };
                let blob = artifact.resolve(&self.clients, login.as_ref()).await?;
                if let Some(said) = said.as_ref().filter(|said| **said != blob.checksum) {
                    let message =
                        format!("the artifact's layer is {}, the spec asks for {said}", blob.checksum);
                    return Err(Failure {
                        reason: "ChecksumMismatch",
                        message,
                        hope: Hope::Later,
                        permanent: true,
                    });
                }
                let renewal = Some(Renewal { artifact: artifact.clone(), login });
                (blob.checksum, Place { url: blob.url, authorization: blob.authorization, renewal })
            }
            (_, Some(known)) => return Ok((known, place)),
            (Expected::Known(checksum), None) => return Ok((checksum.clone(), place)),
            (Expected::Listed { url, algorithm }, None) => {
                let list = self.clients.list(url).await?;
                let listed = Checksum::from_sums(&list, request.file_name(), *algorithm);
                let checksum = listed.map_err(|error| Failure {
                    reason: "ChecksumNotFound",
                    message: format!("{}: {}", shown(url), list_problem(&error)),
                    hope: Hope::Later,
                    permanent: true,
                })?;
                (checksum, place)
            }
        };
        if let Some(job) = self.state().jobs.get_mut(request) {
            job.checksum = Some(checksum.clone());
        }
        Ok((checksum, place))
    }

    /// Reads the credentials of a registry. One that the Secret does not speak of is asked as anybody may ask.
    async fn login(&self, artifact: &Artifact, secret: &Key) -> Result<Option<Login>, Failure> {
        let unusable = |message| Failure::soon("PullSecretUnusable", message);
        let config = match self.pull_secrets.docker_config(secret).await {
            Ok(config) => config,
            Err(PullSecretError::Unusable(message)) => return Err(unusable(message)),
            Err(PullSecretError::Unreachable(message)) => {
                return Err(Failure::soon("ImageCacheFailed", message));
            }
        };
        pull_secret::login_for(&config, artifact.registry(), artifact.repository(), secret).map_err(unusable)
    }

    /// Puts a file that was verified and synced into the cache.
    async fn keep(&self, digest: String, file: &Path, entry: Entry) -> Result<(), Failure> {
        let path = self.dir.join(file_name(&digest, entry.source.is_some()));
        tokio::fs::rename(file, &path).await.map_err(|e| fetch::disk(&path, e))?;
        let dir = tokio::fs::File::open(&self.dir).await.map_err(|e| fetch::disk(&self.dir, e))?;
        dir.sync_all().await.map_err(|e| fetch::disk(&self.dir, e))?;
        self.state().ledger.insert(digest, entry);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ready(ledger: &mut Ledger, checksum: &Checksum, kind: Kind, now: u64) -> Option<ReadyImage> {
    let digest = checksum.to_string();
    let kept = match kind {
        Kind::Raw => digest.clone(),
        Kind::Qcow2 => ledger.extents_of(&digest)?,
    };
    let entry = ledger.get_mut(&kept)?;
    let compression = entry.verified.filter(|_| entry.source.is_some() == (kind == Kind::Qcow2))?;
    entry.used_at = now;
    Some(ReadyImage { path: format!("/images/{kept}"), size: entry.size, compression, digest })
}

fn now_ms() -> u64 {
    since_1970(SystemTime::now())
}

fn since_1970(time: SystemTime) -> u64 {
    let passed = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}

fn after(pause: Duration) -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    now.checked_add(jiff::SignedDuration::try_from(pause).unwrap_or_default()).unwrap_or(now)
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
