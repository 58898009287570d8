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
    deploy::images::{ImageCache, ImageState, ReadyImage},
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
    /// Wants a token for everything.
    token: Option<&'static str>,
    asked: Mutex<Vec<String>>,
    url: std::sync::OnceLock<String>,
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
    async fn start(manifest: Vec<u8>, layer: &[u8], token: Option<&'static str>) -> Self {
        let (asked, url) = (Mutex::default(), std::sync::OnceLock::new());
        let shelf = Arc::new(Shelf { manifest, layer: layer.to_vec(), token, asked, url });
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
        let wanted = format!("Bearer {}", self.token?);
        if headers.get("authorization").is_some_and(|value| value == wanted.as_str()) {
            return None;
        }
        let url = self.url.get().unwrap();
        let challenge =
            format!("Bearer realm=\"{url}/token\",service=\"shelf\",scope=\"repository:os/node:pull\"");
        Some(
            Response::builder()
                .status(401)
                .header("www-authenticate", challenge)
                .body(Body::empty())
                .unwrap(),
        )
    }
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
) -> String {
    shelf.asked.lock().unwrap().push(format!("token for {} of {}", query["scope"], query["service"]));
    format!("{{\"token\": \"{}\"}}", shelf.token.unwrap())
}

struct Bench {
    _dir: tempfile::TempDir,
    cache: ImageCache,
    woken: mpsc::UnboundedReceiver<Key>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (wake, woken) = mpsc::unbounded_channel();
        let cache = ImageCache::open(dir.path(), 1 << 30, 2, wake).unwrap();
        Self { _dir: dir, cache, woken }
    }

    async fn obtain(&mut self, image: &Image) -> ImageState {
        let host = Key::new("racks", "r1-h1");
        assert!(matches!(self.cache.ensure(&host, image), ImageState::Fetching { .. }));
        self.woken.recv().await.unwrap();
        self.cache.ensure(&host, image)
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
    for token in [None, Some("open-sesame")] {
        let registry = Registry::start(manifest.clone(), &layer, token).await;
        let mut bench = Bench::new();
        let ready = bench.ready(&registry.image(&digest)).await;
        assert_eq!((ready.digest, ready.size), (format!("sha256:{}", sha256(&layer)), 6000));
        let expected: &[&str] = match token {
            None => &["manifest", "blob"],
            Some(_) => &["manifest", "token for repository:os/node:pull of shelf", "manifest", "blob"],
        };
        assert_eq!(registry.asked(), expected);
    }
}

#[tokio::test]
async fn an_artifact_may_be_qcow2() {
    let disk = vec![7; 100_000];
    let layer = ferric_image::qcow2_of(&disk);
    let manifest = manifest_of(&[&layer]);
    let registry = Registry::start(manifest.clone(), &layer, None).await;
    let image = Image {
        disk_format: Some(ferric_api::host::ImageFormat::Qcow2),
        checksum: Some(sha256(&layer)),
        ..registry.image(&sha256(&manifest))
    };
    let ready = Bench::new().ready(&image).await;
    assert_eq!(ready.compression, ferric_protocol::v1::Compression::Extents);
}

/// A real registry, where one was named: `FERRIC_REGISTRY_BINARY`, the `registry` of github.com/distribution/distribution.
#[tokio::test]
async fn a_real_registry_answers_likewise() {
    let Some(program) = std::env::var_os("FERRIC_REGISTRY_BINARY") else {
        let text = "SKIPPED a_real_registry_answers_likewise: FERRIC_REGISTRY_BINARY names no registry";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes());
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let port = ferric_testbed::Port::reserve().unwrap();
    let address = format!("127.0.0.1:{}", port.number());
    let config = dir.path().join("config.yml");
    let text = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        dir.path().join("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let spec = ferric_testbed::ProcessSpec::new("registry", program, dir.path().join("log"))
        .arg("serve")
        .arg(&config);
    let mut registry = ferric_testbed::Process::spawn(spec).unwrap();
    let clients = Clients::new().unwrap();
    let http = &clients.lists;
    let probe = async || match http.get(format!("http://{address}/v2/")).send().await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(answer.status().to_string()),
        Err(error) => Err(error.to_string()),
    };
    registry.wait_ready("the registry to answer", std::time::Duration::from_secs(30), probe).await.unwrap();

    let layer = ferric_image::qcow2_of(&vec![9; 500_000]);
    let config = b"{}".to_vec();
    for blob in [&layer, &config] {
        let begun = http.post(format!("http://{address}/v2/os/node/blobs/uploads/")).send().await.unwrap();
        let mut place = Url::parse(begun.headers()["location"].to_str().unwrap()).unwrap();
        place.query_pairs_mut().append_pair("digest", &format!("sha256:{}", sha256(blob)));
        assert_eq!(http.put(place).body(blob.clone()).send().await.unwrap().status(), 201);
    }
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest_of(&[&layer])).unwrap();
    manifest["config"] = serde_json::json!({
        "mediaType": "application/vnd.oci.empty.v1+json", "digest": format!("sha256:{}", sha256(&config)), "size": 2
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let put =
        http.put(format!("http://{address}/v2/os/node/manifests/latest")).header("content-type", MANIFEST);
    assert_eq!(put.body(manifest.clone()).send().await.unwrap().status(), 201);

    let image = Image {
        url: format!("oci://{address}/os/node@sha256:{}", sha256(&manifest)),
        disk_format: Some(ferric_api::host::ImageFormat::Qcow2),
        ..Image::default()
    };
    let mut bench = Bench::new();
    assert_eq!(bench.ready(&image).await.digest, format!("sha256:{}", sha256(&layer)));
    let other = Image { url: format!("oci://{address}/os/node@sha256:{}", "0".repeat(64)), ..image };
    let (reason, message) = bench.failure(&other).await;
    assert!(reason == "ImageUnreachable" && message.contains("404"), "{reason} {message}");
}

#[tokio::test]
async fn what_is_not_what_the_reference_says_is_refused() {
    let layer = b"a disk".to_vec();
    let good = manifest_of(&[&layer]);
    let registry = Registry::start(good.clone(), &layer, None).await;
    let mut bench = Bench::new();
    let (reason, message) = bench.failure(&registry.image(&"0".repeat(64))).await;
    assert_eq!(reason, "ChecksumMismatch");
    assert!(message.contains(&sha256(&good)), "{message}");
    let other = Image { checksum: Some("1".repeat(64)), ..registry.image(&sha256(&good)) };
    assert_eq!(bench.failure(&other).await.0, "ChecksumMismatch");

    let swapped = Registry::start(good.clone(), b"another disk", None).await;
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
        let registry = Registry::start(manifest, &layer, None).await;
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
