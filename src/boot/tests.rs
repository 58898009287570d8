#![allow(clippy::unwrap_used)]

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;

use super::*;

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn server(leadership: Leadership) -> (BootServer, watch::Sender<Leadership>) {
    let (sender, leader) = watch::channel(leadership);
    let artifacts =
        Artifacts::new(url("http://art/vmlinuz"), url("http://art/initrd.zst"), "console=ttyS0").unwrap();
    let (agent_url, ca_sha256) = (url("https://10.0.0.1:8443/"), "ab".repeat(32));
    (BootServer { token_key: KEY.into(), agent_url, ca_sha256, artifacts, leader }, sender)
}

fn token(expires: u64) -> String {
    BootToken { host: "racks/r1-h1".into(), boot_number: 3, expires }.mint(KEY).unwrap()
}

#[test]
fn the_script_starts_the_kernel_with_the_boot_data_and_the_time() {
    let (server, _leader) = server(Leadership::Leader);
    let token = token(2_000);
    let script = server.answer(&token, 1_000).unwrap();
    let lines: Vec<_> = script.lines().collect();
    let [magic, kernel, initrd, boot] = lines.as_slice() else { panic!("{script}") };
    assert_eq!((*magic, *boot), ("#!ipxe", "boot"));
    assert_eq!(*initrd, "initrd --name initrd.img http://art/initrd.zst");
    let arguments = kernel.strip_prefix("kernel http://art/vmlinuz initrd=initrd.img ").unwrap();
    let data = BootData::parse(arguments).unwrap();
    assert_eq!(data.provider_url(), "https://10.0.0.1:8443");
    assert_eq!((data.token(), data.time()), (token.as_str(), 1_000));
    assert!(arguments.ends_with(" console=ttyS0"));
}

#[test]
fn a_token_may_be_shown_again_until_it_expires() {
    let (server, _leader) = server(Leadership::Leader);
    let token = token(2_000);
    assert!(server.answer(&token, 1_000).is_ok());
    assert!(server.answer(&token, 1_999).is_ok());
    for (token, now) in [(token.as_str(), 2_000), ("AAAA", 1), ("", 1)] {
        assert_eq!(server.answer(token, now).unwrap_err().0, StatusCode::FORBIDDEN);
    }
}

#[test]
fn a_standby_names_the_holder() {
    let (server, _leader) = server(Leadership::Standby { holder: Some("ferric-1".into()) });
    let (status, sentence) = server.answer(&token(2_000), 1_000).unwrap_err();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(sentence.contains("ferric-1"));
}

#[test]
fn the_url_keeps_the_path_of_its_base() {
    let at = |base| boot_url(&url(base), "tok").to_string();
    assert_eq!(at("http://p:80/"), "http://p/boot/tok/boot.ipxe");
    assert_eq!(at("http://p:8081/x/"), "http://p:8081/x/boot/tok/boot.ipxe");
}

#[test]
fn nothing_can_be_smuggled_into_a_script() {
    let art = |kernel: &str, arguments| Artifacts::new(url(kernel), url("http://art/i"), arguments);
    assert!(matches!(art("ftp://art/k", ""), Err(ArtifactsError::Url { what: "kernel", .. })));
    for bad in ["a\nchain http://evil", "a\r", "${net0/mac}", "a || shell", "x=\"y", "a && b"] {
        assert_eq!(art("http://art/k", bad), Err(ArtifactsError::Arguments), "{bad:?}");
    }
    assert!(art("http://art/k?a=1&b=2", "a=b,c quiet").is_ok());
}

#[tokio::test]
async fn only_scripts_are_served() {
    let (server, _leader) = server(Leadership::Leader);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.serve(listener, shutdown.clone()));
    let far = u64::try_from(jiff::Timestamp::now().as_second()).unwrap() + 3600;
    let good = format!("/boot/{}/boot.ipxe", token(far));
    let table = [
        (good.as_str(), StatusCode::OK),
        (good.as_str(), StatusCode::OK),
        ("/boot/AAAA/boot.ipxe", StatusCode::FORBIDDEN),
        ("/boot/AAAA/other", StatusCode::NOT_FOUND),
        ("/", StatusCode::NOT_FOUND),
    ];
    for (path, expected) in table {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request =
            http::Request::get(path).header("host", "x").body(Empty::<bytes::Bytes>::new()).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), expected, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.starts_with(b"#!ipxe\n"), expected == StatusCode::OK);
        drop(client);
        let _ = connection.await;
    }
    shutdown.cancel();
    serving.await.unwrap().unwrap();
}
