#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use ring::digest;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;

#[path = "images/transfer_tests.rs"]
mod transfer;

/// An image server that can misbehave. It speaks HTTP by hand, so that a broken transfer is really broken.
struct Server {
    address: std::net::SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

/// What is sent, and whether the connection then stays open.
type Answer = Arc<dyn Fn(usize, &str, Option<u64>) -> (Vec<u8>, bool) + Send + Sync>;

impl Server {
    /// `answer(n-th request, path, offset that a range asks for)` is everything that is sent before the connection ends.
    async fn start(answer: impl Fn(usize, &str, Option<u64>) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let answer = move |n, head: &str, offset| answer(n, head.split(' ').nth(1).unwrap(), offset);
        Self::start_with_heads(answer).await
    }

    /// The same for who wants to see all that is asked.
    async fn start_with_heads(
        answer: impl Fn(usize, &str, Option<u64>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let answer = move |n, head: &str, offset| (answer(n, head, offset), false);
        Self::start_stalling(Arc::default(), answer).await
    }

    /// The same for who wants connections to stay open, silent, until the end.
    async fn start_stalling(
        end: Arc<tokio::sync::Notify>,
        answer: impl Fn(usize, &str, Option<u64>) -> (Vec<u8>, bool) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, answer): (Arc<Mutex<Vec<String>>>, Answer) = (Arc::default(), Arc::new(answer));
        let (seen, count) = (Arc::clone(&requests), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let n = count.fetch_add(1, Ordering::SeqCst);
                let (seen, answer, end) = (Arc::clone(&seen), Arc::clone(&answer), Arc::clone(&end));
                tokio::spawn(Self::handle(stream, n, seen, answer, end));
            }
        });
        Self { address, requests, task }
    }

    async fn handle(
        stream: TcpStream,
        n: usize,
        seen: Arc<Mutex<Vec<String>>>,
        answer: Answer,
        end: Arc<tokio::sync::Notify>,
    ) {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.unwrap() == 0 {
                return;
            }
        }
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let range = head.lines().find_map(|l| l.strip_prefix("range: bytes=")?.strip_suffix('-'));
        let offset = range.map(|r| r.parse().unwrap());
        seen.lock().unwrap().push(format!("{path} {offset:?}"));
        let (bytes, stays) = answer(n, &head, offset);
        let _ = stream.write_all(&bytes).await;
        if stays {
            end.notified().await;
        }
        let _ = stream.shutdown().await;
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer of which only `cut` bytes of the body arrive.
fn cut(status: &str, headers: &str, body: &[u8], cut: usize) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    answer.extend_from_slice(&body[..cut]);
    answer
}

fn ok(body: &[u8]) -> Vec<u8> {
    cut("200 OK", "", body, body.len())
}

fn rest(image: &[u8], from: u64) -> Vec<u8> {
    let body = &image[usize::try_from(from).unwrap()..];
    let range = format!("Content-Range: bytes {from}-{}/{}\r\n", image.len() - 1, image.len());
    cut("206 Partial Content", &range, body, body.len())
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// A zstd frame, made without the compressor: the provider has none of its own.
fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    // Magic, a frame header without checksum or size and a window of 128 KiB, then raw blocks.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    let mut blocks = bytes.chunks(100_000).peekable();
    while let Some(block) = blocks.next() {
        let header = u32::try_from(block.len()).unwrap() << 3 | u32::from(blocks.peek().is_none());
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

fn image_of(url: String, checksum: String) -> Image {
    Image { url, checksum: Some(checksum), ..Default::default() }
}

fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn host() -> Key {
    Key::new("racks", "r1-h1")
}

struct Bench {
    dir: tempfile::TempDir,
    cache: ImageCache,
    woken: mpsc::UnboundedReceiver<Key>,
}

impl Bench {
    fn new(max_bytes: u64) -> Self {
        Self::at(tempfile::tempdir().unwrap(), max_bytes)
    }

    fn at(dir: tempfile::TempDir, max_bytes: u64) -> Self {
        let (wake, woken) = mpsc::unbounded_channel();
        let cache = ImageCache::open(dir.path(), max_bytes, 2, wake, Arc::new(NoPullSecrets)).unwrap();
        Self { dir, cache, woken }
    }

    /// Waits only so long for a byte.
    fn with_patience(max_bytes: u64, patience: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (wake, woken) = mpsc::unbounded_channel();
        let clients = Clients::with_patience(patience).unwrap();
        let (path, secrets) = (dir.path().to_owned(), Arc::new(NoPullSecrets));
        let cache = ImageCache::open_with(path, max_bytes, 2, wake, secrets, clients).unwrap();
        Self { dir, cache, woken }
    }

    /// Asks, waits to be woken, asks again.
    async fn obtain(&mut self, image: &Image) -> ImageState {
        assert!(matches!(self.cache.ensure(&host(), image, None), ImageState::Fetching { .. }));
        assert_eq!(self.woken.recv().await, Some(host()));
        self.cache.ensure(&host(), image, None)
    }

    fn files(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir.path()).unwrap().map(|f| f.unwrap().file_name());
        let mut names: Vec<_> = names.map(|n| n.into_string().unwrap()).filter(|n| n != PARTIAL).collect();
        names.sort();
        assert_eq!(std::fs::read_dir(self.dir.path().join(PARTIAL)).unwrap().count(), 0);
        names
    }
}

fn ready(state: ImageState) -> ReadyImage {
    match state {
        ImageState::Ready(ready) => ready,
        other => panic!("{other:?}"),
    }
}

fn failure(state: ImageState) -> (&'static str, String, bool) {
    match state {
        ImageState::Failed { reason, message, permanent, .. } => (reason, message, permanent),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_image_is_fetched_once_and_kept_by_its_digest() {
    let bytes = noise(100_000);
    let served = bytes.clone();
    let server = Server::start(move |_, _, _| ok(&served)).await;
    let mut bench = Bench::new(1 << 20);
    let image = image_of(server.url("/a.raw"), sha256(&bytes));
    let first = ready(bench.obtain(&image).await);
    assert_eq!(first.digest, format!("sha256:{}", sha256(&bytes)));
    assert_eq!(first.path, format!("/images/{}", first.digest));
    assert_eq!((first.size, first.compression), (100_000, Compression::None));
    assert_eq!(bench.files(), [format!("sha256-{}", sha256(&bytes))]);
    assert_eq!(std::fs::read(bench.dir.path().join(&bench.files()[0])).unwrap(), bytes);
    assert_eq!(ready(bench.cache.ensure(&Key::new("a", "b"), &image, None)), first);
    // The same file by another URL needs no second download.
    assert_eq!(
        ready(bench.cache.ensure(&host(), &image_of("http://nowhere.invalid/".into(), sha256(&bytes)), None)),
        first
    );
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_broken_transfer_is_resumed_where_it_broke() {
    let bytes = noise(300_000);
    let served = bytes.clone();
    let server = Server::start(move |n, _, offset| match (n, offset) {
        (0, None) => cut("200 OK", "ETag: \"v1\"\r\n", &served, 120_000),
        (_, Some(from)) => rest(&served, from),
        _ => ok(b"not asked for"),
    })
    .await;
    let mut bench = Bench::new(1 << 20);
    let image = image_of(server.url("/a.raw"), sha256(&bytes));
    assert_eq!(ready(bench.obtain(&image).await).size, 300_000);
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    // Up to a buffer of what was sent may be lost with the connection.
    assert!(requests[1].starts_with("/a.raw Some("), "{requests:?}");
}

#[tokio::test]
async fn a_server_that_cannot_resume_starts_over() {
    let bytes = noise(200_000);
    let served = bytes.clone();
    let server = Server::start(move |n, _, _| match n {
        0 => cut("200 OK", "", &served, 150_000),
        _ => ok(&served),
    })
    .await;
    let mut bench = Bench::new(1 << 20);
    assert_eq!(ready(bench.obtain(&image_of(server.url("/a"), sha256(&bytes))).await).size, 200_000);
}

#[tokio::test]
async fn a_wrong_checksum_names_both_digests_and_leaves_nothing() {
    let server = Server::start(|_, _, _| ok(b"something else")).await;
    let mut bench = Bench::new(1 << 20);
    let image = image_of(server.url("/a?token=secret"), sha256(b"what was meant"));
    let (reason, message, permanent) = failure(bench.obtain(&image).await);
    assert_eq!((reason, permanent), ("ChecksumMismatch", true));
    assert!(message.contains(&sha256(b"something else")) && message.contains(&sha256(b"what was meant")));
    assert!(!message.contains("secret"), "{message}");
    assert_eq!(bench.files(), [""; 0]);
    let _ = failure(bench.cache.ensure(&host(), &image, None));
    assert_eq!(server.requests().len(), 1, "not tried again at once");
    bench.cache.retry_now(&image, None);
    let _ = failure(bench.obtain(&image).await);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn what_is_not_there_is_unreachable_and_tried_again_later() {
    let server = Server::start(|_, _, _| cut("404 Not Found", "", b"", 0)).await;
    let mut bench = Bench::new(1 << 20);
    let image = image_of(server.url("/a"), sha256(b""));
    let state = bench.obtain(&image).await;
    assert!(matches!(&state, ImageState::Failed { retry_at, .. } if *retry_at > jiff::Timestamp::now()));
    let (reason, message, permanent) = failure(state);
    assert_eq!((reason, permanent), ("ImageUnreachable", false));
    assert!(message.contains("404"), "{message}");
}

#[tokio::test]
async fn the_checksum_may_stand_in_a_list() {
    let bytes = noise(5_000);
    let list = format!("{}  other.raw\n{} *a.raw\n", sha256(b"x"), sha256(&bytes));
    let served = bytes.clone();
    let server = Server::start(move |_, path, _| match path {
        "/SHA256SUMS" => ok(list.as_bytes()),
        "/private" => ok(b"root:secret-of-the-network:0"),
        _ => ok(&served),
    })
    .await;
    let mut bench = Bench::new(1 << 20);
    let image = image_of(server.url("/a.raw"), server.url("/SHA256SUMS"));
    assert_eq!(ready(bench.obtain(&image).await).digest, format!("sha256:{}", sha256(&bytes)));
    let _ = ready(bench.cache.ensure(&host(), &image, None));
    assert_eq!(server.requests().iter().filter(|r| r.starts_with("/SHA256SUMS")).count(), 1);

    let (reason, message, _) =
        failure(bench.obtain(&image_of(server.url("/b"), server.url("/SHA256SUMS"))).await);
    assert_eq!(reason, "ChecksumNotFound");
    assert!(message.contains("\"b\""), "{message}");
    let (_, message, _) = failure(bench.obtain(&image_of(server.url("/a"), server.url("/private"))).await);
    assert!(!message.contains("secret"), "{message}");
}

#[tokio::test]
async fn the_least_recently_used_image_makes_room_and_one_that_cannot_fit_is_refused() {
    let server = Server::start(|_, path, _| ok(&vec![path.as_bytes()[1]; 400])).await;
    let mut bench = Bench::new(1_000);
    let image = |name: u8| image_of(server.url(&format!("/{}", name as char)), sha256(&[name; 400]));
    let names = |of: &[u8]| {
        let mut names: Vec<_> = of.iter().map(|n| format!("sha256-{}", sha256(&[*n; 400]))).collect();
        names.sort();
        names
    };
    let _ = ready(bench.obtain(&image(b'a')).await);
    let _ = ready(bench.obtain(&image(b'b')).await);
    // Both were asked for a moment ago: nothing may go.
    let (reason, message, permanent) = failure(bench.obtain(&image(b'c')).await);
    assert_eq!((reason, permanent), ("ImageCacheFull", false));
    assert!(message.contains("1000 bytes"), "{message}");
    let old = now_ms() - 2 * ledger::PROTECTED_MS;
    let digest = |n| format!("sha256:{}", sha256(&[n; 400]));
    bench.cache.inner.state().ledger.get_mut(&digest(b'a')).unwrap().used_at = old;
    bench.cache.retry_now(&image(b'c'), None);
    let _ = ready(bench.obtain(&image(b'c')).await);
    assert_eq!(bench.files(), names(b"bc"));

    let _ = bench.cache.read(&digest(b'b')).map(|reading| {
        assert_eq!(reading.size, 400);
        assert_eq!(bench.cache.inner.state().ledger.get(&digest(b'b')).unwrap().users, 1);
    });
    assert_eq!(bench.cache.inner.state().ledger.get(&digest(b'b')).unwrap().users, 0);
}

#[tokio::test]
async fn after_a_restart_images_are_hashed_before_they_are_used() {
    let bytes = noise(50_000);
    let served = bytes.clone();
    let server = Server::start(move |_, _, _| ok(&served)).await;
    let mut bench = Bench::new(1 << 20);
    let image = image_of(server.url("/a"), sha256(&bytes));
    let _ = ready(bench.obtain(&image).await);
    std::fs::write(bench.dir.path().join(PARTIAL).join("0"), b"half").unwrap();
    std::fs::write(bench.dir.path().join("README"), b"not ours").unwrap();

    let mut bench = Bench::at(bench.dir, 1 << 20);
    let _ = ready(bench.obtain(&image).await);
    assert_eq!(server.requests().len(), 1, "what is whole is not fetched again");
    assert_eq!(bench.files()[0], "README");

    std::fs::write(bench.dir.path().join(&bench.files()[1]), b"damaged").unwrap();
    let mut bench = Bench::at(bench.dir, 1 << 20);
    assert_eq!(ready(bench.obtain(&image).await).size, 50_000);
    assert_eq!(server.requests().len(), 2);

    // An agent finds damage that came later.
    std::fs::write(bench.dir.path().join(&bench.files()[1]), b"damaged").unwrap();
    bench.cache.distrust(&format!("sha256:{}", sha256(&bytes)));
    assert_eq!(ready(bench.obtain(&image).await).size, 50_000);
    assert_eq!(server.requests().len(), 3);

    // The bound was lowered: what does not fit goes at once.
    let bench = Bench::at(bench.dir, 10_000);
    assert_eq!(bench.files(), ["README"]);
}

#[tokio::test]
async fn a_qcow2_that_is_called_raw_is_noticed() {
    let bytes = [b"QFI\xfb".as_slice(), &noise(1_000)].concat();
    let served = bytes.clone();
    let server = Server::start(move |_, _, _| ok(&served)).await;
    let mut bench = Bench::new(1 << 20);
    let (reason, _, permanent) = failure(bench.obtain(&image_of(server.url("/a"), sha256(&bytes))).await);
    assert_eq!((reason, permanent), ("FormatNotAvailable", true));
    assert_eq!(bench.files(), [""; 0]);
}

/// Reads extents as an agent does: by the name that the path has, compared with the image that was asked for.
fn written(bench: &Bench, ready: &ReadyImage) -> Vec<u8> {
    assert_eq!(ready.compression, Compression::Extents);
    let reading = bench.cache.read(ready.path.strip_prefix("/images/").unwrap()).unwrap();
    assert_eq!(reading.size, ready.size);
    let options = ferric_image::WriteOptions {
        source: Some(Checksum::parse(&ready.digest, None).unwrap()),
        ..ferric_image::WriteOptions::new(
            Checksum::parse(&reading.digest, None).unwrap(),
            ferric_image::Compression::Extents,
        )
    };
    let mut disk = ferric_image::MemDevice::from_bytes(vec![0xa5; 20 << 20]);
    let mut go_on = |_| std::ops::ControlFlow::Continue(());
    let mut file = std::fs::File::open(&reading.path).unwrap();
    let proof = ferric_image::write_image(&mut file, &mut disk, &options, &mut go_on).unwrap();
    let mut bytes = disk.to_bytes();
    bytes.truncate(usize::try_from(proof.bytes_written).unwrap());
    bytes
}

#[tokio::test]
async fn a_qcow2_is_unpacked_once_into_extents_that_outlive_a_restart() {
    let disk = [noise(300_000), vec![0; 9 << 20], noise(70_000)].concat();
    let qcow2 = ferric_image::qcow2_of(&disk);
    let served = qcow2.clone();
    let server = Server::start(move |_, _, _| ok(&served)).await;
    let mut bench = Bench::new(1 << 30);
    let image = image_of(server.url("/a.qcow2"), sha256(&qcow2));
    let first = ready(bench.obtain(&image).await);
    assert_eq!(
        first.digest,
        format!("sha256:{}", sha256(&qcow2)),
        "the image is known by what the spec says"
    );
    assert!(written(&bench, &first) == disk);
    let name = bench.files();
    assert_eq!(name.len(), 1, "the download is not kept: {name:?}");
    assert!(name[0].ends_with(".extents"), "{name:?}");
    assert!(bench.cache.read(&first.digest).is_none());
    assert_eq!(ready(bench.cache.ensure(&host(), &image, None)), first);

    let mut bench = Bench::at(bench.dir, 1 << 30);
    assert_eq!(ready(bench.obtain(&image).await), first);
    assert_eq!(server.requests().len(), 1);

    // What an agent doubts is hashed anew; what is damaged is fetched and made anew, to the same bytes.
    bench.cache.distrust(&first.digest);
    std::fs::write(bench.dir.path().join(&name[0]), b"damaged").unwrap();
    assert_eq!(ready(bench.obtain(&image).await), first);
    assert_eq!(server.requests().len(), 2);
    assert!(written(&bench, &first) == disk);
}

#[tokio::test]
async fn a_qcow2_may_be_compressed_as_a_file() {
    let disk = [noise(100_000), vec![0; 1 << 20]].concat();
    let file = zstd_of(&ferric_image::qcow2_of(&disk));
    let served = file.clone();
    let server = Server::start(move |_, _, _| ok(&served)).await;
    let mut bench = Bench::new(1 << 30);
    let ready = ready(bench.obtain(&image_of(server.url("/a.qcow2.zst"), sha256(&file))).await);
    assert!(written(&bench, &ready) == disk);
    assert_eq!(bench.files().len(), 1);
}

#[tokio::test]
async fn a_qcow2_that_cannot_be_unpacked_says_why_and_leaves_nothing() {
    let good = ferric_image::qcow2_of(&noise(200_000));
    let spoilt = |at: usize, byte: u8| {
        let mut file = good.clone();
        file[at] = byte;
        file
    };
    let packed = zstd_of(&good);
    let table = [
        (spoilt(15, 1), "FormatNotAvailable", "backing file"),
        (spoilt(35, 1), "FormatNotAvailable", "encrypted"),
        (spoilt(23, 5), "ImageInvalid", "2^5"),
        (noise(1000), "FormatNotAvailable", "not qcow2"),
        (zstd_of(&noise(1000)), "FormatNotAvailable", "not qcow2"),
        (packed[..packed.len() / 2].to_vec(), "ImageInvalid", "not valid zstd"),
        (good[..good.len() - 65_536].to_vec(), "ImageInvalid", "behind the file"),
    ];
    for (file, reason, text) in table {
        let sum = sha256(&file);
        let server = Server::start(move |_, _, _| ok(&file)).await;
        let mut bench = Bench::new(1 << 30);
        let (found, message, permanent) = failure(bench.obtain(&image_of(server.url("/a.qcow2"), sum)).await);
        assert_eq!((found, permanent), (reason, true), "{message}");
        assert!(message.contains(text), "{message}");
        assert_eq!(bench.files(), [""; 0]);
    }
    // The room of the cache bounds what is made, too.
    let server = Server::start(move |_, _, _| ok(&good)).await;
    let mut bench = Bench::new(400_000);
    let image = image_of(server.url("/a.qcow2"), sha256(&ferric_image::qcow2_of(&noise(200_000))));
    assert_eq!(failure(bench.obtain(&image).await).0, "ImageCacheFull");
    assert_eq!(bench.files(), [""; 0]);
}

#[tokio::test]
async fn xz_is_passed_on_as_it_is() {
    let file = [b"\xfd7zXZ\0".as_slice(), &noise(100)].concat();
    let served = file.clone();
    let server = Server::start(move |_, _, _| ok(&served)).await;
    let mut bench = Bench::new(1 << 20);
    let ready = ready(bench.obtain(&image_of(server.url("/a.raw.xz"), sha256(&file))).await);
    assert_eq!(ready.compression, Compression::Xz);
}

#[tokio::test]
async fn redirects_end_somewhere() {
    let server = Server::start(|_, path, _| match path {
        "/file" => cut("302 Found", "Location: file:///etc/passwd\r\n", b"", 0),
        "/end" => ok(b"here"),
        "/once" => cut("302 Found", "Location: /end\r\n", b"", 0),
        _ => cut("302 Found", "Location: /again\r\n", b"", 0),
    })
    .await;
    let mut bench = Bench::new(1 << 20);
    assert_eq!(ready(bench.obtain(&image_of(server.url("/once"), sha256(b"here"))).await).size, 4);
    let (_, message, _) = failure(bench.obtain(&image_of(server.url("/again"), sha256(b""))).await);
    assert!(message.contains("more than 5 redirects"), "{message}");
    let (_, message, _) = failure(bench.obtain(&image_of(server.url("/file"), sha256(b""))).await);
    assert!(message.contains("the server answers 302"), "{message}");
}

#[tokio::test]
async fn everybody_who_waits_is_woken() {
    let server = Server::start(|_, _, _| ok(b"image")).await;
    let mut bench = Bench::new(1 << 20);
    let image = image_of(server.url("/a"), sha256(b"image"));
    let hosts = ["a", "b", "c"].map(|name| Key::new("racks", name));
    for host in &hosts {
        assert!(matches!(bench.cache.ensure(host, &image, None), ImageState::Fetching { .. }));
    }
    let mut woken = Vec::new();
    for _ in &hosts {
        woken.push(bench.woken.recv().await.unwrap());
    }
    woken.sort();
    assert_eq!(woken, hosts);
    assert_eq!(server.requests().len(), 1);
}
