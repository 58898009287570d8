//! What may happen to a transfer on its way: cuts, stalls, changes in between, proxies, answers without end.

use std::collections::BTreeMap;

use tokio::sync::Notify;

use super::*;

/// An answer that begins and never ends.
fn endless(from: usize) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    answer.resize(answer.len() + from, 7);
    answer
}

fn versioned(version: &str, body: &[u8], arrives: usize) -> Vec<u8> {
    cut("200 OK", &format!("ETag: \"{version}\"\r\n"), body, arrives)
}

fn part(version: &str, image: &[u8], from: u64) -> Vec<u8> {
    let body = &image[usize::try_from(from).unwrap()..];
    let (last, size) = (image.len() - 1, image.len());
    let headers = format!("ETag: \"{version}\"\r\nContent-Range: bytes {from}-{last}/{size}\r\n");
    cut("206 Partial Content", &headers, body, body.len())
}

#[tokio::test]
async fn a_file_that_was_replaced_in_between_is_fetched_anew() {
    let (old, new) = (noise(300_000), noise(310_000).into_iter().rev().collect::<Vec<u8>>());
    // As RFC 9110 section 13.1.5 has it; a server that knows no If-Range but says what it sends; one that says nothing at
    // all, where only the checksum tells.
    for kind in ["If-Range", "ETag", "none"] {
        let (first, second) = (old.clone(), new.clone());
        let server = Server::start(move |n, _, offset| match (n, offset, kind) {
            (0, _, "none") => cut("200 OK", "", &first, 200_000),
            (0, ..) => versioned("v1", &first, 200_000),
            (1, Some(_), "If-Range") => versioned("v2", &second, second.len()),
            (1, Some(from), "ETag") => part("v2", &second, from),
            (1, Some(from), _) => rest(&second, from),
            _ => versioned("v2", &second, second.len()),
        })
        .await;
        let mut bench = Bench::new(1 << 20);
        let image = image_of(server.url("/a.raw"), sha256(&new));
        assert_eq!(ready(bench.obtain(&image).await).size, 310_000, "{kind}");
        let requests = server.requests();
        let from_the_start = requests.iter().filter(|request| request.ends_with("None")).count();
        assert_eq!(
            (requests.len(), from_the_start),
            if kind == "If-Range" { (2, 1) } else { (3, 2) },
            "{kind}"
        );
    }
}

#[tokio::test]
async fn a_resumed_transfer_asks_for_the_version_that_it_began_with() {
    let bytes = noise(200_000);
    let served = bytes.clone();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let server = Server::start_with_heads(move |n, head, offset| {
        seen.lock().unwrap().push(head.to_ascii_lowercase());
        match (n, offset) {
            (0, _) => versioned("v1", &served, 100_000),
            (_, Some(from)) => part("v1", &served, from),
            _ => ok(b"not asked for"),
        }
    })
    .await;
    let mut bench = Bench::new(1 << 20);
    let _ = ready(bench.obtain(&image_of(server.url("/a.raw"), sha256(&bytes))).await);
    let heads = heads.lock().unwrap();
    assert!(!heads[0].contains("if-range"), "{heads:?}");
    assert!(heads[1].contains("if-range: \"v1\"\r\n"), "{heads:?}");
}

#[tokio::test]
async fn a_transfer_that_stalls_is_given_up_and_resumed() {
    let bytes = noise(300_000);
    let (served, end) = (bytes.clone(), Arc::new(Notify::new()));
    let server = Server::start_stalling(Arc::clone(&end), move |n, _, offset| match (n, offset) {
        (0, _) => (versioned("v1", &served, 100_000), true),
        (_, Some(from)) => (part("v1", &served, from), false),
        _ => (ok(b"not asked for"), false),
    })
    .await;
    let mut bench = Bench::with_patience(1 << 20, Duration::from_millis(500));
    let image = image_of(server.url("/a.raw"), sha256(&bytes));
    assert_eq!(ready(bench.obtain(&image).await).size, 300_000);
    assert!(server.requests()[1].starts_with("/a.raw Some("), "{:?}", server.requests());

    // One that never sends anything is told after a few attempts, and nothing of it is left.
    let silent = Server::start_stalling(Arc::clone(&end), |_, _, _| (Vec::new(), true)).await;
    let mut bench = Bench::with_patience(1 << 20, Duration::from_millis(200));
    let image = image_of(silent.url("/a.raw"), sha256(&bytes));
    let (reason, _, permanent) = failure(bench.obtain(&image).await);
    assert_eq!((reason, permanent), ("ImageUnreachable", false));
    assert_eq!((bench.files(), silent.requests().len()), (vec![], 4));
    end.notify_waiters();
}

#[tokio::test]
async fn an_answer_that_says_no_length_is_bounded_by_the_room() {
    let server = Server::start(|_, _, _| endless(3 << 20)).await;
    let mut bench = Bench::new(1 << 20);
    let image = image_of(server.url("/a.raw"), sha256(b"short"));
    assert_eq!(failure(bench.obtain(&image).await).0, "ImageCacheFull");
    assert_eq!(bench.files(), [""; 0]);

    let server = Server::start(|_, _, _| endless(3 << 20)).await;
    let list = image_of("http://nowhere.invalid/a".into(), server.url("/SHA256SUMS"));
    let (reason, message, _) = failure(Bench::new(1 << 20).obtain(&list).await);
    assert!(reason == "ImageUnreachable" && message.contains("at most 1048576 bytes"), "{message}");
}

/// Set for the child process that a test starts: the URLs that it is to fetch.
const CHILD: &str = "FERRIC_TEST_PROXIED";

/// What a process with HTTP_PROXY, HTTPS_PROXY and NO_PROXY does. The environment is that of a child, which runs this
/// same test: a process's own cannot be changed safely.
#[tokio::test]
async fn images_are_fetched_through_the_proxy_of_the_environment() {
    if let Ok(urls) = std::env::var(CHILD) {
        return fetch_and_tell(&urls).await;
    }
    let bytes = b"an image".to_vec();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let proxy = Server::start_with_heads(move |_, head, _| {
        seen.lock().unwrap().push(head.to_owned());
        match head.split(' ').next() {
            Some("GET") => ok(b"an image"),
            _ => cut("502 Bad Gateway", "", b"", 0),
        }
    })
    .await;
    let direct = Server::start(|_, _, _| ok(b"an image")).await;
    // The names do not exist: only the proxy can know them.
    let urls = format!("http://images.invalid/a https://images.invalid/b {}", direct.url("/c"));
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "deploy::images::tests::transfer::images_are_fetched_through_the_proxy_of_the_environment",
        ])
        .env(CHILD, urls)
        .env("HTTP_PROXY", format!("http://us:hunter2@{}", proxy.address))
        .env("HTTPS_PROXY", format!("http://us:hunter2@{}", proxy.address))
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env_remove("http_proxy")
        .env_remove("https_proxy")
        .env_remove("no_proxy")
        .env_remove("REQUEST_METHOD")
        .kill_on_drop(true)
        .output();
    let output = child.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let told: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("fetched ")?.split_once(' ')).collect();
    assert_eq!(told["/a"], "ready", "{text}");
    assert!(told["/b"].starts_with("ImageUnreachable"), "{text}");
    assert_eq!(told["/c"], "ready", "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let heads = heads.lock().unwrap();
    assert!(
        heads.iter().any(|head| head.starts_with("GET http://images.invalid/a HTTP/1.1\r\n")),
        "{heads:?}"
    );
    assert!(heads.iter().any(|head| head.starts_with("CONNECT images.invalid:443 ")), "{heads:?}");
    assert!(
        heads.iter().all(|head| head.to_ascii_lowercase().contains("proxy-authorization: basic ")),
        "{heads:?}"
    );
    assert_eq!(direct.requests(), ["/c None"]);
    assert_eq!(sha256(&bytes), sha256(b"an image"));
}

/// The child's part: a line for each URL.
async fn fetch_and_tell(urls: &str) {
    for url in urls.split(' ') {
        let mut bench = Bench::new(1 << 20);
        let state = match bench.obtain(&image_of(url.to_owned(), sha256(b"an image"))).await {
            ImageState::Ready(_) => "ready".to_owned(),
            ImageState::Failed { reason, message, .. } => format!("{reason} {message}"),
            other => panic!("{other:?}"),
        };
        let path = url::Url::parse(url).unwrap().path().to_owned();
        let _ = std::io::Write::write_all(
            &mut std::io::stdout(),
            format!("\nfetched {path} {state}\n").as_bytes(),
        );
    }
}
