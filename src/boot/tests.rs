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
    let token_lifetime = Duration::from_secs(600);
    (
        BootServer {
            token_key: KEY.into(),
            token_lifetime,
            agent_url,
            ca_sha256,
            artifacts,
            image: None,
            lookup: None,
            leader,
            metrics: Arc::default(),
        },
        sender,
    )
}

const ROOM: u64 = 4096;

/// A folder as `make agent-image` makes it, with an ISO of 300 000 bytes whose room begins at 131 000.
fn image_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut entries = serde_json::Map::new();
    for (key, name, size) in [
        ("kernel", "vmlinuz", 10_000_usize),
        ("initrd", "initrd.img", 200_000),
        ("iso", "agent.iso", 300_000),
        ("ipxeBios", "undionly.kpxe", 3),
        ("ipxeEfi", "snponly.efi", 4),
    ] {
        let content: Vec<u8> = (0..size).map(|n| (n * 31 % 253) as u8).collect();
        let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&content));
        std::fs::write(folder.path().join(name), &content).unwrap();
        entries.insert(key.into(), serde_json::json!({ "name": name, "size": size, "sha256": hash }));
    }
    entries["iso"]["grubConfig"] = serde_json::json!({ "offset": 131_000, "length": ROOM });
    let manifest = serde_json::json!({
        "version": 1, "flavour": "virtual", "architecture": "amd64", "files": entries, "more": "is passed over",
    });
    std::fs::write(folder.path().join("manifest.json"), manifest.to_string()).unwrap();
    folder
}

fn server_with_image(folder: &std::path::Path) -> (BootServer, watch::Sender<Leadership>) {
    let (mut server, leader) = server(Leadership::Leader);
    server.image = Some(AgentImage::open(folder).unwrap());
    (server, leader)
}

/// Serves on a port of its own until dropped.
struct Running {
    address: std::net::SocketAddr,
    _stop: tokio_util::sync::DropGuard,
}

impl Running {
    async fn start(server: BootServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(server.serve(listener, shutdown.clone()));
        Self { address, _stop: shutdown.drop_guard() }
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        range: Option<&str>,
    ) -> (http::response::Parts, bytes::Bytes) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(path).header("host", "x");
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let (parts, body) = client.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        drop(client);
        let _ = connection.await;
        (parts, body)
    }
}

fn far() -> u64 {
    now() + 3600
}

fn token(expires: u64) -> String {
    BootToken { host: "racks/r1-h1".into(), boot_number: 3, expires }.mint(KEY).unwrap()
}

#[test]
fn the_script_starts_the_kernel_with_the_boot_data_and_the_time() {
    let (server, _leader) = server(Leadership::Leader);
    let token = token(2_000);
    let script = server.script(&token, 1_000).unwrap();
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
    assert!(server.script(&token, 1_000).is_ok());
    assert!(server.script(&token, 1_999).is_ok());
    for (token, now) in [(token.as_str(), 2_000), ("AAAA", 1), ("", 1)] {
        assert_eq!(server.script(token, now).unwrap_err().0, StatusCode::FORBIDDEN);
    }
}

#[test]
fn a_standby_names_the_holder() {
    let (server, _leader) = server(Leadership::Standby { holder: Some("ferric-1".into()) });
    let (status, sentence) = server.script(&token(2_000), 1_000).unwrap_err();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(sentence.contains("ferric-1"));
}

#[test]
fn the_url_keeps_the_path_of_its_base() {
    let at = |base| boot_url(&url(base), "tok", BootFile::Script).to_string();
    assert_eq!(at("http://p:80/"), "http://p/boot/tok/boot.ipxe");
    assert_eq!(at("http://p:8081/x/"), "http://p:8081/x/boot/tok/boot.ipxe");
    assert_eq!(boot_url(&url("http://p"), "tok", BootFile::Iso).as_str(), "http://p/boot/tok/agent.iso");
    assert_eq!(artifact_url(&url("http://p/x"), "vmlinuz").as_str(), "http://p/x/agent/vmlinuz");
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
async fn only_scripts_are_served_without_an_agent_image() {
    let (server, _leader) = server(Leadership::Leader);
    let running = Running::start(server).await;
    let token = token(far());
    let good = format!("/boot/{token}/boot.ipxe");
    let iso = format!("/boot/{token}/agent.iso");
    let table = [
        (good.as_str(), StatusCode::OK),
        (good.as_str(), StatusCode::OK),
        ("/boot/AAAA/boot.ipxe", StatusCode::FORBIDDEN),
        ("/boot/AAAA/agent.iso", StatusCode::FORBIDDEN),
        (iso.as_str(), StatusCode::NOT_FOUND),
        ("/agent/vmlinuz", StatusCode::NOT_FOUND),
        ("/boot/AAAA/other", StatusCode::NOT_FOUND),
        ("/", StatusCode::NOT_FOUND),
    ];
    for (path, expected) in table {
        let (parts, body) = running.ask("GET", path, None).await;
        assert_eq!(parts.status, expected, "{path}");
        assert_eq!(body.starts_with(b"#!ipxe\n"), expected == StatusCode::OK);
    }
}

#[tokio::test]
async fn a_medium_is_the_template_with_the_boot_data_of_its_token() {
    let folder = image_folder();
    let template = std::fs::read(folder.path().join("agent.iso")).unwrap();
    let (server, _leader) = server_with_image(folder.path());
    let running = Running::start(server).await;
    let token = token(far());
    let path = format!("/boot/{token}/agent.iso");
    let (parts, medium) = running.ask("GET", &path, None).await;
    assert_eq!(parts.status, StatusCode::OK);
    let header = |parts: &http::response::Parts, name: &str| {
        parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    assert_eq!(header(&parts, "content-length"), "300000");
    assert_eq!(header(&parts, "content-type"), "application/vnd.efi-iso");
    assert_eq!(
        (header(&parts, "accept-ranges"), header(&parts, "cache-control")),
        ("bytes".into(), "no-store".into())
    );
    assert!(parts.headers.get("etag").is_none());
    let room = 131_000..131_000 + ROOM as usize;
    assert!(medium[..room.start] == template[..room.start] && medium[room.end..] == template[room.end..]);
    let config = std::str::from_utf8(&medium[room.clone()]).unwrap();
    assert!(config.contains(&format!("'ferric.token={token}'")) && config.contains("'console=ttyS0,115200'"));

    let (parts, none) = running.ask("HEAD", &path, None).await;
    assert_eq!((parts.status, none.len()), (StatusCode::OK, 0));
    assert_eq!(header(&parts, "content-length"), "300000");

    // In any pieces, at any time: always the same medium.
    for (range, first, last) in [
        ("bytes=0-2047", 0, 2047),
        ("bytes=130999-131000", 130_999, 131_000),
        ("bytes=131500-131600", 131_500, 131_600),
        ("bytes=262143-262145", 262_143, 262_145),
        ("bytes=135000-", 135_000, 299_999),
        ("bytes=-10", 299_990, 299_999),
    ] {
        let (parts, part) = running.ask("GET", &path, Some(range)).await;
        assert_eq!(parts.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(header(&parts, "content-range"), format!("bytes {first}-{last}/300000"));
        assert!(part == medium[first..=last], "{range}");
    }
    let (parts, _) = running.ask("GET", &path, Some("bytes=300000-")).await;
    assert_eq!(parts.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&parts, "content-range"), "bytes */300000");
}

#[tokio::test]
async fn the_files_of_the_image_are_served_to_whoever_asks_and_no_others() {
    let folder = image_folder();
    let (server, _leader) = server_with_image(folder.path());
    let running = Running::start(server).await;
    for name in ["vmlinuz", "initrd.img", "undionly.kpxe", "snponly.efi"] {
        let (parts, body) = running.ask("GET", &format!("/agent/{name}"), None).await;
        assert_eq!(parts.status, StatusCode::OK, "{name}");
        assert!(body == std::fs::read(folder.path().join(name)).unwrap());
    }
    for name in ["agent.iso", "manifest.json", "..%2fmanifest.json", "%2e%2e", ""] {
        let (parts, _) = running.ask("GET", &format!("/agent/{name}"), None).await;
        assert_eq!(parts.status, StatusCode::NOT_FOUND, "{name}");
    }
}

#[test]
fn a_medium_does_not_change_with_the_time() {
    let folder = image_folder();
    let (server, _leader) = server_with_image(folder.path());
    let token = token(2_000);
    let config = |now| {
        let (_, patch, _) = server.iso(&token, now).unwrap();
        let mut bytes = vec![0; ROOM as usize];
        patch.apply(131_000, &mut bytes);
        String::from_utf8(bytes).unwrap()
    };
    assert!(config(1_500).contains("'ferric.time=1400'"), "{}", config(1_500));
    assert_eq!(config(1_500), config(1_999));
    // A token from the future of this clock does not set the agent's clock ahead of it.
    assert!(config(1_000).contains("'ferric.time=1000'"));
    let (status, _) = server.iso(&token, 2_000).unwrap_err();
    assert_eq!(status, StatusCode::FORBIDDEN);
}

struct OneCard;

const NETWORK: &str = "ferric.net=nic:l0,52:54:00:ab:cd:ef ferric.net=ip:l0,10.0.0.5/24";

impl BootLookup for OneCard {
    fn boot_for(&self, _: ferric_api::MacAddress) -> Option<KnownHost> {
        None
    }

    fn card_of(&self, _: ferric_api::MacAddress) -> Option<KnownHost> {
        None
    }

    fn discover(&self, _: ferric_api::MacAddress, _: bool) -> Option<String> {
        None
    }

    fn boot_mac(&self, host: &crate::key::Key) -> Option<ferric_api::MacAddress> {
        (host.to_string() == "racks/r1-h1").then(|| "52:54:00:AB:CD:EF".parse().unwrap())
    }

    fn network(&self, host: &crate::key::Key) -> Result<Option<Arc<str>>, NetworkNotRead> {
        match host.name.as_str() {
            "r1-h1" => Ok(Some(NETWORK.into())),
            "r1-h2" => Ok(Some("x".repeat(2_000).into())),
            _ => Err(NetworkNotRead),
        }
    }

    fn system<'a>(
        &'a self,
        host: &'a crate::key::Key,
        deployment: u64,
    ) -> futures::future::BoxFuture<'a, Result<System, NoSystem>> {
        let bytes = |text: &'static str| Composite::default().bytes(text.as_bytes().into());
        let system = System {
            kernel: bytes("the kernel"),
            initrd: bytes("the initramfs"),
            seed: "the seed".into(),
            parameters: "console=ttyS0".to_owned(),
        };
        Box::pin(std::future::ready(match (host.name.as_str(), deployment) {
            ("r1-h1", 77) => Ok(system),
            ("r1-h2", 77) => Err(NoSystem::NotReady("a secret name".to_owned())),
            _ => Err(NoSystem::Over),
        }))
    }

    fn uninvited(&self, _: &crate::key::Key) {}

    fn count(&self, _: &'static str) {}
}

fn system_token(host: &str, deployment: u64, expires: u64) -> String {
    let facts = BootToken { host: host.to_owned(), boot_number: deployment, expires };
    facts.mint_for(TokenUse::System, KEY).unwrap()
}

#[tokio::test]
async fn a_system_is_served_to_its_token_alone() {
    let (mut server, _leader) = server(Leadership::Leader);
    server.lookup = Some(Arc::new(OneCard));
    let running = Running::start(server).await;
    let get = async |token: &str, name: &str| {
        let (parts, body) = running.ask("GET", &format!("/boot/{token}/{name}"), None).await;
        (parts.status, String::from_utf8(body.to_vec()).unwrap())
    };
    let good = system_token("racks/r1-h1", 77, u64::MAX);
    let (status, script) = get(&good, "boot.ipxe").await;
    assert_eq!(status, StatusCode::OK);
    assert!(script.contains("\nkernel vmlinuz initrd=initrd.img console=ttyS0 || goto failed\n"), "{script}");
    assert!(!script.contains(&good), "the running system must not learn the token");
    assert_eq!(get(&good, "vmlinuz").await, (StatusCode::OK, "the kernel".to_owned()));
    assert_eq!(get(&good, "initrd.img").await, (StatusCode::OK, "the initramfs\0\0\0the seed".to_owned()));
    assert_eq!(get(&good, "user-data").await.0, StatusCode::NOT_FOUND);
    // Without an agent image there is no medium.
    assert_eq!(get(&good, "agent.iso").await.0, StatusCode::NOT_FOUND);
    let (parts, body) = running.ask("GET", &format!("/boot/{good}/initrd.img"), Some("bytes=4-8")).await;
    assert_eq!((parts.status, &body[..]), (StatusCode::PARTIAL_CONTENT, b"initr".as_slice()));

    let agent = BootToken { host: "racks/r1-h1".to_owned(), boot_number: 77, expires: u64::MAX };
    let refused = [
        // Of another deployment, of another host, expired, one of an agent boot, forged.
        system_token("racks/r1-h1", 76, u64::MAX),
        system_token("racks/r1-h3", 77, u64::MAX),
        system_token("racks/r1-h1", 77, 1),
        agent.mint(KEY).unwrap(),
        "AAAA".to_owned(),
    ];
    for token in &refused {
        for name in ["vmlinuz", "initrd.img"] {
            let (status, body) = get(token, name).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{name}");
            assert!(!body.contains("seed"));
        }
    }
    let (status, body) = get(&system_token("racks/r1-h2", 77, u64::MAX), "initrd.img").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!body.contains("secret"), "what is missing is for the log: {body}");
}

#[tokio::test]
async fn a_standby_serves_no_system() {
    let (mut server, _leader) = server(Leadership::Standby { holder: Some("ferric-1".into()) });
    server.lookup = Some(Arc::new(OneCard));
    let token = system_token("racks/r1-h1", 77, u64::MAX);
    let refused = server.system(&token, 1_000).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn parameters_that_mean_something_to_ipxe_make_no_script() {
    assert!(system_script("console=ttyS0 a=b").is_some());
    for bad in ["a ${b}", "a && b", "a || b", "'a'", "a\nb"] {
        assert_eq!(system_script(bad), None, "{bad}");
    }
    assert_eq!(system_script(&"x".repeat(2_047)), None);
}

#[test]
fn a_medium_says_which_card_to_use() {
    let folder = image_folder();
    let (mut server, _leader) = server_with_image(folder.path());
    server.lookup = Some(Arc::new(OneCard));
    let (_, patch, _) = server.iso(&token(2_000), 1_500).unwrap();
    let mut bytes = vec![0; ROOM as usize];
    patch.apply(131_000, &mut bytes);
    assert!(String::from_utf8(bytes).unwrap().contains(" 'BOOTIF=01-52-54-00-ab-cd-ef' "));
}

#[test]
fn scripts_and_media_say_what_the_network_is_and_without_it_nothing_boots() {
    let folder = image_folder();
    let (mut server, _leader) = server_with_image(folder.path());
    server.lookup = Some(Arc::new(OneCard));
    let script = server.script(&token(2_000), 1_000).unwrap();
    assert!(script.contains(&format!(" {NETWORK}\n")), "{script}");
    let (_, patch, _) = server.iso(&token(2_000), 1_500).unwrap();
    let mut bytes = vec![0; ROOM as usize];
    patch.apply(131_000, &mut bytes);
    let quoted = NETWORK.replace(' ', "' '");
    assert!(String::from_utf8(bytes).unwrap().contains(&quoted));
    let of = |host: &str| {
        let facts = BootToken { host: host.to_owned(), boot_number: 3, expires: 2_000 };
        facts.mint(KEY).unwrap()
    };
    for (host, status) in
        [("racks/r1-h2", StatusCode::INTERNAL_SERVER_ERROR), ("racks/r1-h3", StatusCode::SERVICE_UNAVAILABLE)]
    {
        assert_eq!(server.script(&of(host), 1_000).unwrap_err().0, status, "{host}");
        assert_eq!(server.iso(&of(host), 1_000).map(|_| ()).unwrap_err().0, status, "{host}");
    }
}

#[test]
fn what_is_left_of_the_command_line_is_less_than_the_kernel_takes() {
    let room = command_line_room(&url("https://10.0.0.1:8443/"), &"t".repeat(200));
    assert!((1_200..1_700).contains(&room), "{room}");
    assert_eq!(command_line_room(&url("https://10.0.0.1:8443/"), &"t".repeat(4_000)), 0);
}

#[test]
fn with_an_agent_image_scripts_say_which_card_booted() {
    let folder = image_folder();
    let (server, _leader) = server_with_image(folder.path());
    assert!(server.script(&token(2_000), 1_000).unwrap().contains(" BOOTIF=01-${netX/mac:hexhyp}\n"));
}

#[test]
fn a_folder_that_is_not_what_its_manifest_says_is_refused() {
    let refused = |change: &dyn Fn(&std::path::Path)| {
        let folder = image_folder();
        change(folder.path());
        AgentImage::open(folder.path()).map(|_| ()).unwrap_err().to_string()
    };
    let manifest = |from: &'static str, to: &'static str| {
        move |folder: &std::path::Path| {
            let path = folder.join("manifest.json");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{text}");
            std::fs::write(path, text.replace(from, to)).unwrap();
        }
    };
    assert!(AgentImage::open(image_folder().path()).is_ok());
    let error = refused(&|folder| std::fs::write(folder.join("vmlinuz"), vec![0; 10_000]).unwrap());
    assert!(error.contains("vmlinuz") && error.contains("SHA-256"), "{error}");
    let error = refused(&|folder| std::fs::write(folder.join("initrd.img"), "short").unwrap());
    assert!(error.contains("200000 bytes"), "{error}");
    assert!(
        refused(&|folder| std::fs::remove_file(folder.join("snponly.efi")).unwrap()).contains("snponly.efi")
    );
    assert!(
        refused(&|folder| std::fs::remove_file(folder.join("manifest.json")).unwrap())
            .contains("manifest.json")
    );
    assert!(refused(&manifest("\"version\":1", "\"version\":2")).contains("version is 2, expected 1"));
    assert!(refused(&manifest("131000", "299000")).contains("no part of the ISO"));
    assert!(refused(&manifest("\"length\":4096", "\"length\":400000")).contains("no part of the ISO"));
    assert!(refused(&manifest("131000", "18446744073709551615")).contains("no part of the ISO"));
    assert!(refused(&manifest("\"vmlinuz\"", "\"../vmlinuz\"")).contains("name"));
    assert!(refused(&manifest("\"kernel\"", "\"kernal\"")).contains("kernel"));
}

/// A discovery token boots the agent, with the card that asked and no host's network.
#[test]
fn a_discovery_token_gets_the_agent_and_nothing_of_a_host() {
    let folder = image_folder();
    let (mut server, _leader) = server_with_image(folder.path());
    server.lookup = Some(Arc::new(OneCard));
    let facts =
        ferric_protocol::DiscoveryToken { mac: [0x52, 0x54, 0, 0xab, 0xcd, 1], number: 3, expires: 10_000 };
    let token = facts.mint(KEY);
    let script = server.script(&token, 9_000).unwrap();
    assert!(script.contains(&format!("ferric.token={token}")) && script.contains("BOOTIF="), "{script}");
    assert!(!script.contains(NETWORK), "{script}");
    let (_, patch, ticket) = server.iso(&token, 9_000).unwrap();
    assert_eq!(ticket, Ticket::Discovery(facts));
    let mut text = vec![0; ROOM as usize];
    patch.apply(131_000, &mut text);
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("BOOTIF=01-52-54-00-ab-cd-01"), "{text}");
    assert_eq!(server.script(&token, 10_000).unwrap_err().0, StatusCode::FORBIDDEN);
    assert_eq!(server.script("AAAA", 9_000).unwrap_err().0, StatusCode::FORBIDDEN);
}
