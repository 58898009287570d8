#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, Response},
    routing::get,
};
use ferric_api::host::Image;
use proptest::prelude::*;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use super::*;
use crate::{
    deploy::images::{ImageCache, ImageState, PullSecretError, PullSecrets, ReadyImage},
    key::Key,
};

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn manifest_of(layers: &[&[u8]]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| serde_json::json!({
            "mediaType": "application/octet-stream", "digest": format!("sha256:{}", sha256(layer)), "size": layer.len()
        }))
        .collect();
    let manifest = serde_json::json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers });
    serde_json::to_vec(&manifest).unwrap()
}

/// What a registry is asked, and what it has.
struct Shelf {
    manifest: Vec<u8>,
    layer: Vec<u8>,
    guard: Guard,
    asked: Mutex<Vec<String>>,
    url: std::sync::OnceLock<String>,
}

/// What a registry wants to be shown.
#[derive(Clone, Copy)]
enum Guard {
    /// Nothing.
    None,
    /// The token that it gives to everybody.
    Token(&'static str),
    /// The token that it gives to whoever says name and password.
    TokenFor(&'static str, &'static str),
    /// Name and password.
    Password(&'static str),
}

/// As [`Login`] writes it.
fn basic(login: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login))
}

struct Registry {
    shelf: Arc<Shelf>,
    address: std::net::SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    async fn start(manifest: Vec<u8>, layer: &[u8], guard: Guard) -> Self {
        let (asked, url) = (Mutex::default(), std::sync::OnceLock::new());
        let shelf = Arc::new(Shelf { manifest, layer: layer.to_vec(), guard, asked, url });
        let router = Router::new()
            .route("/v2/os/node/manifests/{digest}", get(serve_manifest))
            .route("/v2/os/node/blobs/{digest}", get(serve_blob))
            .route("/token", get(serve_token))
            .with_state(Arc::clone(&shelf));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        shelf.url.set(format!("http://{address}")).unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shelf, address, task }
    }

    fn image(&self, digest: &str) -> Image {
        Image { url: format!("oci://{}/os/node@sha256:{digest}", self.address), ..Image::default() }
    }

    fn asked(&self) -> Vec<String> {
        self.shelf.asked.lock().unwrap().clone()
    }
}

impl Shelf {
    fn refusal(&self, what: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        self.asked.lock().unwrap().push(what.to_owned());
        let url = self.url.get().unwrap();
        let bearer =
            format!("Bearer realm=\"{url}/token\",service=\"shelf\",scope=\"repository:os/node:pull\"");
        let (wanted, challenge) = match self.guard {
            Guard::None => return None,
            Guard::Token(token) | Guard::TokenFor(token, _) => (format!("Bearer {token}"), bearer),
            Guard::Password(login) => (basic(login), "Basic realm=\"shelf\"".to_owned()),
        };
        if headers.get("authorization").is_some_and(|value| value == wanted.as_str()) {
            return None;
        }
        Some(refused(&challenge))
    }
}

fn refused(challenge: &str) -> Response<Body> {
    let answer = Response::builder().status(401).header("www-authenticate", challenge);
    answer.body(Body::empty()).unwrap()
}

async fn serve_manifest(State(shelf): State<Arc<Shelf>>, headers: HeaderMap) -> Response<Body> {
    assert!(headers["accept"].to_str().unwrap().contains(MANIFEST));
    let refusal = shelf.refusal("manifest", &headers);
    refusal.unwrap_or_else(|| Response::new(shelf.manifest.clone().into()))
}

async fn serve_blob(
    State(shelf): State<Arc<Shelf>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    assert!(digest.starts_with("sha256:"));
    let refusal = shelf.refusal("blob", &headers);
    refusal.unwrap_or_else(|| Response::new(shelf.layer.clone().into()))
}

async fn serve_token(
    State(shelf): State<Arc<Shelf>>,
    Query(query): Query<std::collections::HashMap<String, String>>,
    headers: HeaderMap,
) -> Response<Body> {
    shelf.asked.lock().unwrap().push(format!("token for {} of {}", query["scope"], query["service"]));
    let token = match shelf.guard {
        Guard::Token(token) => {
            assert!(!headers.contains_key("authorization"));
            token
        }
        Guard::TokenFor(token, login) if headers.get("authorization").is_some_and(|v| v == &basic(login)) => {
            token
        }
        Guard::TokenFor(..) => return refused("Basic realm=\"tokens\""),
        Guard::None | Guard::Password(_) => panic!("asked for a token"),
    };
    Response::new(format!("{{\"token\": \"{token}\"}}").into())
}

/// Pull Secrets as they are written here.
#[derive(Default)]
struct Drawer(Mutex<std::collections::HashMap<Key, Vec<u8>>>);

#[async_trait::async_trait]
impl PullSecrets for Drawer {
    async fn docker_config(&self, secret: &Key) -> Result<Vec<u8>, PullSecretError> {
        let found = self.0.lock().unwrap().get(secret).cloned();
        found.ok_or_else(|| PullSecretError::Unusable(format!("Secret {secret} does not exist")))
    }
}

impl Drawer {
    /// Puts name and password for one registry into a Secret.
    fn put(&self, secret: &Key, registry: &str, username: &str, password: &str) {
        let config =
            serde_json::json!({ "auths": { registry: { "username": username, "password": password } } });
        self.0.lock().unwrap().insert(secret.clone(), serde_json::to_vec(&config).unwrap());
    }
}

fn pull_secret() -> Key {
    Key::new("racks", "registry")
}

struct Bench {
    _dir: tempfile::TempDir,
    cache: ImageCache,
    woken: mpsc::UnboundedReceiver<Key>,
    drawer: Arc<Drawer>,
    secret: Option<Key>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (wake, woken) = mpsc::unbounded_channel();
        let drawer = Arc::new(Drawer::default());
        let cache = ImageCache::open(dir.path(), 1 << 30, 2, wake, Arc::clone(&drawer) as _).unwrap();
        Self { _dir: dir, cache, woken, drawer, secret: None }
    }

    /// Asks with a pull Secret from now on.
    fn with_secret(mut self) -> Self {
        self.secret = Some(pull_secret());
        self
    }

    async fn obtain(&mut self, image: &Image) -> ImageState {
        let host = Key::new("racks", "r1-h1");
        let secret = self.secret.clone();
        let ensure = || self.cache.ensure(&host, image, secret.as_ref());
        assert!(matches!(ensure(), ImageState::Fetching { .. }));
        self.woken.recv().await.unwrap();
        ensure()
    }

    async fn ready(&mut self, image: &Image) -> ReadyImage {
        match self.obtain(image).await {
            ImageState::Ready(ready) => ready,
            other => panic!("{other:?}"),
        }
    }

    async fn failure(&mut self, image: &Image) -> (&'static str, String) {
        match self.obtain(image).await {
            ImageState::Failed { reason, message, .. } => (reason, message),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_artifact_is_fetched_by_its_digest_with_the_token_for_everybody() {
    let layer = b"a disk".repeat(1000);
    let manifest = manifest_of(&[&layer]);
    let digest = sha256(&manifest);
    for guard in [Guard::None, Guard::Token("open-sesame")] {
        let registry = Registry::start(manifest.clone(), &layer, guard).await;
        let mut bench = Bench::new();
        let ready = bench.ready(&registry.image(&digest)).await;
        assert_eq!((ready.digest, ready.size), (format!("sha256:{}", sha256(&layer)), 6000));
        let expected: &[&str] = match guard {
            Guard::None => &["manifest", "blob"],
            _ => &["manifest", "token for repository:os/node:pull of shelf", "manifest", "blob"],
        };
        assert_eq!(registry.asked(), expected);
    }
}

#[tokio::test]
async fn a_pull_secret_opens_what_is_not_for_everybody() {
    const LOGIN: &str = "robot$ferric:hunter2";
    let layer = b"a disk".repeat(1000);
    let manifest = manifest_of(&[&layer]);
    let digest = sha256(&manifest);
    for guard in [Guard::TokenFor("open-sesame", LOGIN), Guard::Password(LOGIN)] {
        let registry = Registry::start(manifest.clone(), &layer, guard).await;
        let image = registry.image(&digest);
        let address = registry.address.to_string();
        let mut told = Vec::new();

        let (reason, message) = Bench::new().failure(&image).await;
        assert!(reason == "ImageUnauthorized" && message.contains("image.ociAuthSecretName"), "{message}");
        told.push(message);

        let mut bench = Bench::new().with_secret();
        let (reason, message) = bench.failure(&image).await;
        assert!(
            reason == "PullSecretUnusable" && message.contains("racks/registry does not exist"),
            "{message}"
        );
        told.push(message);

        bench.drawer.put(&pull_secret(), &address, "robot$ferric", "wrong");
        bench.cache.retry_now(&image, bench.secret.as_ref());
        let (reason, message) = bench.failure(&image).await;
        assert!(reason == "ImageUnauthorized" && message.contains("Secret racks/registry"), "{message}");
        told.push(message);

        // Whoever is meant by the Secret, it is not this registry: it is not told.
        bench.drawer.put(&pull_secret(), "elsewhere.example", "robot$ferric", "hunter2");
        bench.cache.retry_now(&image, bench.secret.as_ref());
        let (reason, message) = bench.failure(&image).await;
        assert_eq!(reason, "ImageUnauthorized");
        told.push(message);

        bench.drawer.put(&pull_secret(), &address, "robot$ferric", "hunter2");
        bench.cache.retry_now(&image, bench.secret.as_ref());
        assert_eq!(bench.ready(&image).await.digest, format!("sha256:{}", sha256(&layer)));
        // Another who may not read it does not get it out of the cache.
        let other = Key::new("others", "registry");
        assert!(matches!(
            bench.cache.ensure(&Key::new("others", "h"), &image, Some(&other)),
            ImageState::Fetching { .. }
        ));
        bench.woken.recv().await.unwrap();
        let state = bench.cache.ensure(&Key::new("others", "h"), &image, Some(&other));
        assert!(matches!(state, ImageState::Failed { reason: "PullSecretUnusable", .. }), "{state:?}");
        for message in told {
            assert!(
                !["hunter2", "wrong", &basic(LOGIN)[6..]].iter().any(|part| message.contains(part)),
                "{message}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_that_ends_before_the_file_does_is_had_anew() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::StreamExt;

    let layer: Vec<u8> = (0..400_000_u32).map(|n| (n % 251) as u8).collect();
    let manifest = manifest_of(&[&layer]);
    let digest = sha256(&manifest);
    let given = Arc::new(AtomicUsize::new(0));
    let address = Arc::new(std::sync::OnceLock::<String>::new());
    // A token is good for one request of the blob, and the first of these ends in the middle.
    let check = {
        let (given, address) = (Arc::clone(&given), Arc::clone(&address));
        move |headers: &HeaderMap| {
            let wanted = format!("Bearer {}", given.load(Ordering::SeqCst));
            let good = headers.get("authorization").is_some_and(|value| value == wanted.as_str());
            let challenge = format!("Bearer realm=\"http://{}/token\"", address.get().unwrap());
            if good { None } else { Some(refused(&challenge)) }
        }
    };
    let (on_manifest, on_blob, spent) = (check.clone(), check, Arc::new(AtomicUsize::new(0)));
    let tokens = Arc::clone(&given);
    let bytes = layer.clone();
    let router = Router::new()
        .route(
            "/v2/os/node/manifests/{digest}",
            get(async move |headers: HeaderMap| {
                on_manifest(&headers).unwrap_or_else(|| Response::new(manifest.into()))
            }),
        )
        .route(
            "/v2/os/node/blobs/{digest}",
            get(async move |headers: HeaderMap| {
                if let Some(refusal) = on_blob(&headers) {
                    return refusal;
                }
                let from = headers.get("range").map(|range| {
                    let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
                    range.strip_suffix('-').unwrap().parse::<usize>().unwrap()
                });
                let Some(from) = from else {
                    given.fetch_add(1, Ordering::SeqCst);
                    spent.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(spent.load(Ordering::SeqCst), 1, "asked from the beginning twice");
                    let half = bytes::Bytes::copy_from_slice(&bytes[..200_000]);
                    // What is sent before the cut leaves the server only when there is nothing more to send at once.
                    let broken = async {
                        tokio::task::yield_now().await;
                        Err(std::io::Error::other("cut"))
                    };
                    let parts = futures::stream::iter([Ok(half)]).chain(futures::stream::once(broken));
                    let answer = Response::builder().header("content-length", bytes.len());
                    return answer.body(Body::from_stream(parts)).unwrap();
                };
                let answer = Response::builder().status(206);
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                answer.header("content-range", range).body(bytes[from..].to_vec().into()).unwrap()
            }),
        )
        .route("/token", get(async move || format!("{{\"token\": \"{}\"}}", tokens.load(Ordering::SeqCst))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    address.set(listener.local_addr().unwrap().to_string()).unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let url = format!("oci://{}/os/node@sha256:{digest}", address.get().unwrap());
    let ready = Bench::new().ready(&Image { url, ..Image::default() }).await;
    server.abort();
    assert_eq!(ready.size, 400_000);
}

#[tokio::test]
async fn an_artifact_may_be_qcow2() {
    let disk = vec![7; 100_000];
    let layer = ferric_image::qcow2_of(&disk);
    let manifest = manifest_of(&[&layer]);
    let registry = Registry::start(manifest.clone(), &layer, Guard::None).await;
    let image = Image {
        disk_format: Some(ferric_api::host::ImageFormat::Qcow2),
        checksum: Some(sha256(&layer)),
        ..registry.image(&sha256(&manifest))
    };
    let ready = Bench::new().ready(&image).await;
    assert_eq!(ready.compression, ferric_protocol::v1::Compression::Extents);
}

/// A real registry that wants name and password: that of the distribution project, where `make assets` has built it.
#[tokio::test]
async fn a_real_registry_answers_likewise() {
    let Some(program) =
        ferric_testbed::Assets::from_env().unwrap().find(ferric_testbed::Binary::Registry).unwrap()
    else {
        let text = "SKIPPED a_real_registry_answers_likewise: there is no registry, make assets builds it";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes());
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let port = ferric_testbed::Port::reserve().unwrap();
    let address = format!("127.0.0.1:{}", port.number());
    let config = dir.path().join("config.yml");
    let users = dir.path().join("htpasswd");
    // The password is `hunter2`; the registry takes bcrypt only.
    std::fs::write(&users, "robot:$2b$05$ferricferricferricfereaLl.PPTI79iXvSqgevSuocGeiTH2ZKO\n").unwrap();
    let text = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\nauth:\n  \
         htpasswd:\n    realm: shelf\n    path: {}\n",
        dir.path().join("data").display(),
        users.display(),
    );
    std::fs::write(&config, text).unwrap();
    let spec = ferric_testbed::ProcessSpec::new("registry", program, dir.path().join("log"))
        .arg("serve")
        .arg(&config);
    let mut registry = ferric_testbed::Process::spawn(spec).unwrap();
    let clients = Clients::new().unwrap();
    let http = &clients.lists;
    let login = |request: RequestBuilder| request.header(header::AUTHORIZATION, basic("robot:hunter2"));
    let probe = async || match login(http.get(format!("http://{address}/v2/"))).send().await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(answer.status().to_string()),
        Err(error) => Err(error.to_string()),
    };
    registry.wait_ready("the registry to answer", std::time::Duration::from_secs(30), probe).await.unwrap();

    let layer = ferric_image::qcow2_of(&vec![9; 500_000]);
    let config = b"{}".to_vec();
    for blob in [&layer, &config] {
        let begun =
            login(http.post(format!("http://{address}/v2/os/node/blobs/uploads/"))).send().await.unwrap();
        let mut place = Url::parse(begun.headers()["location"].to_str().unwrap()).unwrap();
        place.query_pairs_mut().append_pair("digest", &format!("sha256:{}", sha256(blob)));
        assert_eq!(login(http.put(place)).body(blob.clone()).send().await.unwrap().status(), 201);
    }
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest_of(&[&layer])).unwrap();
    manifest["config"] = serde_json::json!({
        "mediaType": "application/vnd.oci.empty.v1+json", "digest": format!("sha256:{}", sha256(&config)), "size": 2
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let put =
        http.put(format!("http://{address}/v2/os/node/manifests/latest")).header("content-type", MANIFEST);
    assert_eq!(login(put).body(manifest.clone()).send().await.unwrap().status(), 201);

    let image = Image {
        url: format!("oci://{address}/os/node@sha256:{}", sha256(&manifest)),
        disk_format: Some(ferric_api::host::ImageFormat::Qcow2),
        ..Image::default()
    };
    assert_eq!(Bench::new().failure(&image).await.0, "ImageUnauthorized");
    let mut bench = Bench::new().with_secret();
    bench.drawer.put(&pull_secret(), &address, "robot", "hunter2");
    assert_eq!(bench.ready(&image).await.digest, format!("sha256:{}", sha256(&layer)));
    let other = Image { url: format!("oci://{address}/os/node@sha256:{}", "0".repeat(64)), ..image };
    let (reason, message) = bench.failure(&other).await;
    assert!(reason == "ImageUnreachable" && message.contains("404"), "{reason} {message}");
}

#[tokio::test]
async fn what_is_not_what_the_reference_says_is_refused() {
    let layer = b"a disk".to_vec();
    let good = manifest_of(&[&layer]);
    let registry = Registry::start(good.clone(), &layer, Guard::None).await;
    let mut bench = Bench::new();
    let (reason, message) = bench.failure(&registry.image(&"0".repeat(64))).await;
    assert_eq!(reason, "ChecksumMismatch");
    assert!(message.contains(&sha256(&good)), "{message}");
    let other = Image { checksum: Some("1".repeat(64)), ..registry.image(&sha256(&good)) };
    assert_eq!(bench.failure(&other).await.0, "ChecksumMismatch");

    let swapped = Registry::start(good.clone(), b"another disk", Guard::None).await;
    assert_eq!(bench.failure(&swapped.image(&sha256(&good))).await.0, "ChecksumMismatch");

    for (manifest, text) in [
        (manifest_of(&[]), "0 layers"),
        (manifest_of(&[&layer, &layer]), "2 layers"),
        (b"{\"schemaVersion\": 2, \"manifests\": [{}]}".to_vec(), "an index"),
        (b"{\"schemaVersion\": 1}".to_vec(), "schema version"),
        (b"<html>".to_vec(), "cannot be read"),
        (vec![b' '; MAX_MANIFEST + 1], "at most 4194304 bytes"),
    ] {
        let digest = sha256(&manifest);
        let registry = Registry::start(manifest, &layer, Guard::None).await;
        let (_, message) = bench.failure(&registry.image(&digest)).await;
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn references_are_read_strictly() {
    let digest = "ab".repeat(32);
    let parse = |text: &str| Artifact::parse(text).unwrap();
    let base = |text: String| parse(&text).unwrap().base.to_string();
    assert_eq!(base(format!("oci://r.example:5000/a/b-c@sha256:{digest}")), "https://r.example:5000/");
    assert_eq!(base(format!("oci://localhost:5000/a@sha256:{digest}")), "http://localhost:5000/");
    assert_eq!(base(format!("oci://[::1]:5000/a@sha256:{digest}")), "http://[::1]:5000/");
    for text in [
        "oci://r.example/a:latest".to_owned(),
        "oci://r.example/a@sha256:ab".to_owned(),
        format!("oci://r.example@sha256:{digest}"),
        format!("oci:///a@sha256:{digest}"),
        format!("oci://r.example/@sha256:{digest}"),
        format!("oci://r.example/../a@sha256:{digest}"),
        format!("oci://r.example/a/../../b@sha256:{digest}"),
        format!("oci://r.example/A@sha256:{digest}"),
        format!("oci://u:p@r.example/a@sha256:{digest}"),
        format!("oci://r.example?x=/a@sha256:{digest}"),
    ] {
        assert!(parse(&text).is_err(), "{text}");
    }
    assert!(Artifact::parse("https://r.example/a").is_none());
}

#[test]
fn challenges_are_read() {
    let challenge = |text| challenge_of(text).map(|c| (c.realm, c.service));
    let realm = "https://auth.example/token".to_owned();
    assert_eq!(
        challenge("Bearer realm=\"https://auth.example/token\",service=\"r, s\",scope=\"x\""),
        Some((realm.clone(), Some("r, s".to_owned())))
    );
    assert_eq!(challenge("bearer scope=\"x\", realm=\"https://auth.example/token\""), Some((realm, None)));
    for text in
        ["", "Basic realm=\"x\"", "Bearer", "Bearer realm=x", "Bearer realm=\"x", "Bearer service=\"x\""]
    {
        assert_eq!(challenge(text), None, "{text}");
    }
}

/// A million inputs and more: `FERRIC_FUZZ_CASES`. Changed, cut and doubled parts of real manifests.
#[test]
fn no_manifest_makes_it_panic() {
    let cases: u64 = std::env::var("FERRIC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000);
    let seeds =
        [manifest_of(&[b"a"]), manifest_of(&[b"a", b"b"]), b"{\"schemaVersion\":2,\"layers\":[[[[".to_vec()];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % end.max(1)
    };
    for _ in 0..cases {
        let mut input = seeds[next(seeds.len())].clone();
        for _ in 0..=next(5) {
            let at = next(input.len());
            match next(5) {
                _ if input.is_empty() => {}
                0 => input[at] = b"{}[]\",:-0e\\u\xff\0"[next(14)],
                1 => input[at] = next(256) as u8,
                2 => input.truncate(at),
                3 => {
                    let part = input[at..input.len().min(at + next(60))].to_vec();
                    input.splice(at..at, part);
                }
                _ => drop(input.drain(at..input.len().min(at + next(20)))),
            }
        }
        let _ = image_layer(&input);
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Artifact::parse(&text);
        let _ = Artifact::parse(&format!("oci://{text}"));
        let _ = challenge_of(&text);
        let _ = challenge_of(&format!("Bearer {text}"));
        let _ = token_of(&bytes);
        let _ = image_layer(&bytes);
    }
}
