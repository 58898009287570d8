//! The cache of images: what hosts ask for is fetched once, in the background, verified, and kept by its digest.
//!
//! A file in the cache has the name of its digest and is put there by a rename after it was hashed and synced. After a
//! restart it is hashed anew before the first use: a sidecar would have to be trusted as much as the file itself, while
//! hashing reads a few GB once a process and also finds what a failing disk did in the meantime. Files stay compressed.

mod fetch;
mod ledger;
mod request;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use ferric_api::host::Image;
use ferric_image::{Checksum, ChecksumAlgorithm};
use ferric_protocol::v1::Compression;
use tokio::sync::{Semaphore, mpsc};

use self::{
    fetch::{Clients, FetchError, Progress},
    ledger::{Entry, Ledger},
    request::{Expected, Hope, ImageRequest, Refusal, back_off, list_problem, recognise, shown},
};
use crate::key::Key;

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
    /// Size of the file.
    pub size: u64,
    /// How the file is compressed.
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

#[derive(Debug, Clone)]
struct Failure {
    reason: &'static str,
    message: String,
    hope: Hope,
    permanent: bool,
}

impl ImageCache {
    /// Opens the cache in `dir`, which is made if need be. Must be called in a tokio runtime. `wake` is sent the key
    /// of every host that waits for an image when that image is there or has failed.
    pub fn open(
        dir: impl Into<PathBuf>,
        max_bytes: u64,
        max_parallel_fetches: usize,
        wake: mpsc::UnboundedSender<Key>,
    ) -> io::Result<Self> {
        let dir = dir.into();
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
            remove_file(&dir.join(file_name(&digest)));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                dir,
                wake,
                clients: Clients::new()?,
                fetches: Semaphore::new(max_parallel_fetches.max(1)),
                downloads: AtomicU64::new(0),
                state: Mutex::new(State { ledger, jobs: HashMap::new() }),
            }),
        })
    }

    /// Says where the image is, and starts to fetch it if it is not there. Never blocks.
    pub fn ensure(&self, host: &Key, image: &Image) -> ImageState {
        let request = match ImageRequest::of(image) {
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
        if let Some(ready) = job.checksum.as_ref().and_then(|c| ready(ledger, c, now)) {
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
    pub fn retry_now(&self, image: &Image) {
        if let Ok(request) = ImageRequest::of(image)
            && let Some(job) = self.inner.state().jobs.get_mut(&request)
            && let Stage::Failed { .. } = job.stage
        {
            job.stage = Stage::Idle;
            job.failures = 0;
        }
    }

    /// Has the file hashed anew before it is next called ready: an agent found that it is not what it should be.
    pub fn distrust(&self, digest: &str) {
        if let Some(entry) = self.inner.state().ledger.get_mut(digest) {
            entry.verified = None;
        }
    }

    /// Opens an image for reading. It stays for as long as the reader does.
    pub(super) fn read(&self, digest: &str) -> Option<Reading> {
        let checksum = Checksum::parse(digest, None).ok()?;
        let digest = checksum.to_string();
        let size = self.inner.state().ledger.hold(&digest, now_ms())?;
        let path = self.inner.dir.join(file_name(&digest));
        Some(Reading { inner: Arc::clone(&self.inner), digest, path, size })
    }
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
            Expected::Listed { .. } => None,
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
        let checksum = self.resolve(&request).await?;
        let digest = checksum.to_string();
        let path = self.dir.join(file_name(&digest));
        let size = self.state().ledger.get(&digest).map(|e| e.size);
        if let Some(size) = size {
            match fetch::hash_file(&path, checksum.algorithm(), &progress).await {
                Ok(got) if got == checksum => return self.keep(digest, &path, size).await,
                Ok(_) | Err(_) => {
                    tracing::warn!(digest, "image in the cache is damaged, it is fetched anew");
                    self.state().ledger.remove(&digest);
                    remove_file(&path);
                }
            }
        }
        let download = Download::new(&self);
        let room = |bytes| {
            let gone = self.state().ledger.reserve(download.id, bytes, now_ms())?;
            gone.iter().for_each(|digest| remove_file(&self.dir.join(file_name(digest))));
            Ok(())
        };
        let partial = &download.path;
        let size = fetch::download(&self.clients, &request.url, &checksum, partial, &progress, room).await?;
        let head = fetch::head(partial).await?;
        recognise(&head)?;
        tokio::fs::rename(partial, &path).await.map_err(|e| fetch::disk(&path, e))?;
        let dir = tokio::fs::File::open(&self.dir).await.map_err(|e| fetch::disk(&self.dir, e))?;
        dir.sync_all().await.map_err(|e| fetch::disk(&self.dir, e))?;
        self.keep(digest, &path, size).await
    }

    /// The checksum to compare with; one from a list stays what it was for as long as the image is asked for.
    async fn resolve(&self, request: &ImageRequest) -> Result<Checksum, Failure> {
        if let Some(known) = self.state().jobs.get(request).and_then(|j| j.checksum.clone()) {
            return Ok(known);
        }
        let (url, algorithm) = match &request.expected {
            Expected::Known(checksum) => return Ok(checksum.clone()),
            Expected::Listed { url, algorithm } => (url, *algorithm),
        };
        let list = self.clients.list(url).await?;
        let checksum =
            Checksum::from_sums(&list, request.file_name(), algorithm).map_err(|error| Failure {
                reason: "ChecksumNotFound",
                message: format!("{}: {}", shown(url), list_problem(&error)),
                hope: Hope::Later,
                permanent: true,
            })?;
        if let Some(job) = self.state().jobs.get_mut(request) {
            job.checksum = Some(checksum.clone());
        }
        Ok(checksum)
    }

    async fn keep(&self, digest: String, path: &Path, size: u64) -> Result<(), Failure> {
        let compression = recognise(&fetch::head(path).await?)?;
        let entry = Entry { size, used_at: now_ms(), users: 0, verified: Some(compression) };
        self.state().ledger.insert(digest, entry);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room and file of a download, given back when it is over.
struct Download {
    inner: Arc<Inner>,
    id: u64,
    path: PathBuf,
}

impl Download {
    fn new(inner: &Arc<Inner>) -> Self {
        let id = inner.downloads.fetch_add(1, Ordering::Relaxed);
        Self { inner: Arc::clone(inner), id, path: inner.dir.join(PARTIAL).join(id.to_string()) }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.inner.state().ledger.unreserve(self.id);
        remove_file(&self.path);
    }
}

impl Failure {
    fn soon(reason: &'static str, message: String) -> Self {
        Self { reason, message, hope: Hope::Soon, permanent: false }
    }
}

impl From<Refusal> for Failure {
    fn from(Refusal { reason, message }: Refusal) -> Self {
        Self { reason, message, hope: Hope::Later, permanent: true }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let message = error.to_string();
        match error {
            FetchError::Unreachable { .. } => Self::soon("ImageUnreachable", message),
            FetchError::Full(_) => Self::soon("ImageCacheFull", message),
            FetchError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::soon("ImageCacheFull", format!("the disk of the image cache is full: {message}"))
            }
            FetchError::Disk { .. } => Self::soon("ImageCacheFailed", message),
            FetchError::Mismatch { .. } => {
                Self { reason: "ChecksumMismatch", message, hope: Hope::Later, permanent: true }
            }
        }
    }
}

fn failed(failure: &Failure, retry_at: jiff::Timestamp) -> ImageState {
    let Failure { reason, message, hope: _, permanent } = failure.clone();
    ImageState::Failed { reason, message, permanent, retry_at }
}

fn ready(ledger: &mut Ledger, checksum: &Checksum, now: u64) -> Option<ReadyImage> {
    let digest = checksum.to_string();
    let entry = ledger.get_mut(&digest)?;
    let compression = entry.verified?;
    entry.used_at = now;
    Some(ReadyImage { path: format!("/images/{digest}"), size: entry.size, compression, digest })
}

/// The images in a folder, unverified. Other files are left alone.
fn files_in(dir: &Path) -> io::Result<Vec<(String, Entry)>> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        let name = file.file_name();
        let Some(digest) = name.to_str().and_then(digest_of) else { continue };
        let metadata = file.metadata()?;
        if metadata.is_file() {
            let used_at = metadata.modified().map_or(0, since_1970);
            found.push((digest, Entry { size: metadata.len(), used_at, users: 0, verified: None }));
        }
    }
    Ok(found)
}

fn file_name(digest: &str) -> String {
    digest.replace(':', "-")
}

fn digest_of(file_name: &str) -> Option<String> {
    let (algorithm, hex) = file_name.split_once('-')?;
    let algorithm: ChecksumAlgorithm = algorithm.parse().ok()?;
    Some(Checksum::new(algorithm, hex).ok()?.to_string()).filter(|d| file_name == d.replace(':', "-"))
}

fn remove_file(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file of the image cache could not be removed");
    }
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
