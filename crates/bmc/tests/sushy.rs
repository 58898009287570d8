//! The driver against sushy-tools, the Redfish emulator that Metal3 tests with, serving systems from memory. It is
//! installed into the user's cache folder when it is not there.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../../tests/shared/python.rs"]
mod python;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferric_bmc::{
    Bmc, BmcError, BmcPool, BootMethod, BootTarget, ConnectOptions, Credentials, Limits, PowerAction,
    PowerState, ProbeOptions, Quirks, probe,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const VERSION: &str = "2.2.0";
const UUID: &str = "27946b59-9e44-4fa7-8e91-f3527a1ef094";
const MAC: &str = "00:5c:52:31:3a:9c";

fn sushy_tools() -> PathBuf {
    python::with("sushy-tools", VERSION).unwrap()
}

/// A running emulator; ended when dropped, and when the test that started it dies.
struct Emulator {
    process: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks the kernel to end the emulator with its parent, then becomes it.
const START: &str = "import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv.pop(1)): sys.exit(1)
from sushy_tools.emulator.main import main
sys.exit(main())";

impl Emulator {
    async fn start(settings: impl Fn(&Path) -> String) -> Self {
        let python = tokio::task::spawn_blocking(sushy_tools).await.unwrap();
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            // Free when asked; if somebody else takes it first the emulator ends, and another port is tried.
            let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let config = folder.path().join("emulator.conf");
            let common = format!(
                "SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\n\
                 SUSHY_EMULATOR_LISTEN_PORT = {}\nSUSHY_EMULATOR_STATE_DIR = {:?}\n\
                 SUSHY_EMULATOR_FAKE_SYSTEMS = [{{'uuid': '{UUID}', 'name': 'fake', 'power_state': 'Off', \
                 'fake_ipa': False, 'nics': [{{'mac': '{MAC}', 'ip': '172.22.0.100'}}]}}]\n",
                address.port(),
                folder.path(),
            );
            std::fs::write(&config, common + &settings(folder.path())).unwrap();
            let log = File::create(folder.path().join("log")).unwrap();
            let process = Command::new(&python)
                .args(["-c", START, &std::process::id().to_string(), "--config"])
                .arg(&config)
                .env("TMPDIR", folder.path())
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            let mut emulator = Self { process, address, folder };
            let deadline = Instant::now() + Duration::from_secs(60);
            while emulator.process.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).await.is_ok() {
                    return emulator;
                }
                assert!(Instant::now() < deadline, "it does not listen: {}", emulator.log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            println!("the emulator ended early: {}", emulator.log());
        }
        panic!("the emulator does not start");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn options(&self, scheme: &str) -> ConnectOptions {
        ConnectOptions {
            address: format!("{scheme}://{}", self.address).parse().unwrap(),
            credentials: None,
            ca_pem: None,
            certificate_sha256: None,
            insecure: false,
        }
    }

    /// A resource, as somebody else than the driver sees it.
    async fn read(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

/// Reads the power until it is as wanted. The emulator takes up to 11 s over it.
async fn wait_for(bmc: &dyn Bmc, wanted: PowerState) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while bmc.power().await.unwrap() != wanted {
        assert!(Instant::now() < deadline, "the power is not {wanted}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_life_over_plain_http() {
    let emulator = Emulator::start(|_| String::new()).await;
    let pool = BmcPool::default();
    let bmc = pool.get("host", &emulator.options("redfish+http")).unwrap();
    let system = format!("/redfish/v1/Systems/{UUID}");

    let facts = bmc.probe().await.unwrap();
    assert_eq!(facts.system_uuid.as_deref(), Some(UUID));
    assert_eq!(facts.manufacturer.as_deref(), Some("Sushy Emulator"));
    assert_eq!(facts.power, PowerState::Off);
    assert_eq!(facts.boot_methods, [BootMethod::VirtualMedia, BootMethod::UefiHttp, BootMethod::Network]);

    bmc.set_power(PowerAction::On).await.unwrap();
    wait_for(bmc.as_ref(), PowerState::On).await;
    bmc.set_power(PowerAction::On).await.unwrap();

    bmc.set_boot(&BootTarget::Network).await.unwrap();
    assert_eq!(emulator.read(&system).await["Boot"]["BootSourceOverrideTarget"], "Pxe");

    let iso = axum::Router::new().fallback(|| async { "an image" });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, iso).await.unwrap() });
    let slot = format!("{system}/VirtualMedia/Cd");
    for name in ["first.iso", "second.iso"] {
        let url = format!("http://{server}/{name}");
        bmc.set_boot(&BootTarget::VirtualMedia { url: url.clone() }).await.unwrap();
        let shown = emulator.read(&slot).await;
        assert_eq!((&shown["Image"], &shown["Inserted"]), (&url.into(), &true.into()));
        assert_eq!(emulator.read(&system).await["Boot"]["BootSourceOverrideTarget"], "Cd");
    }
    bmc.set_boot(&BootTarget::Disk).await.unwrap();
    assert_eq!(emulator.read(&slot).await["Inserted"], false);
    assert_eq!(emulator.read(&system).await["Boot"]["BootSourceOverrideTarget"], "Hdd");
    let url = format!("http://{server}/http.iso");
    // The emulator advertises it and cannot keep the URL for systems in memory: its refusal is passed on.
    let error = bmc.set_boot(&BootTarget::UefiHttp { url }).await.unwrap_err();
    assert!(
        matches!(&error, BmcError::Unexpected { status: 400, message, .. } if message.contains("HttpBootUri")),
        "{error}"
    );
    task.abort();

    let found = bmc.inspect().await.unwrap();
    assert_eq!(found.system_vendor.manufacturer, "Sushy Emulator");
    assert_eq!(found.nics.iter().map(|nic| nic.mac.as_str()).collect::<Vec<_>>(), [MAC]);

    bmc.set_power(PowerAction::ForceOff).await.unwrap();
    wait_for(bmc.as_ref(), PowerState::Off).await;
}

#[tokio::test]
async fn a_probe_and_its_capture() {
    let emulator = Emulator::start(|_| String::new()).await;
    let options = |address: ferric_bmc::ConnectOptions| ProbeOptions {
        connect: address,
        limits: Limits::default(),
        quirks: Quirks::default(),
        capture: true,
        time: Duration::from_secs(60),
    };
    let probed = probe(options(emulator.options("redfish+http"))).await;
    assert!(probed.error.is_none(), "{:?}", probed.error);
    let survey = &probed.survey;
    assert_eq!(survey.system_uuid.as_deref(), Some(UUID));
    assert_eq!(survey.power, Some("Off"));
    assert_eq!(survey.can.boot, [BootMethod::VirtualMedia, BootMethod::UefiHttp, BootMethod::Network]);
    let slot = survey.can.media.iter().find(|slot| slot.chosen).unwrap();
    assert!(slot.path.ends_with("/VirtualMedia/Cd"), "{slot:?}");
    assert_eq!(survey.hardware.as_ref().unwrap().nics[0].mac, MAC);
    assert!(survey.would.iter().any(|would| would.action == "turn off" && would.how == "reset ForceOff"));
    assert_eq!(survey.quirks, []);

    let capture = probed.capture.unwrap();
    let text = serde_json::to_string(&capture).unwrap();
    for leak in [UUID, MAC, &emulator.address.to_string(), "172.22.0.100"] {
        assert!(!text.contains(leak), "{leak}");
    }
    let replay = common::Fake::replay(&capture).await;
    let again = probe(options(replay.options(""))).await;
    assert!(again.error.is_none(), "{:?}", again.error);
    assert_eq!(again.survey.can.boot, survey.can.boot);
    assert_eq!(again.survey.power, survey.power);
}

#[tokio::test]
async fn basic_authentication() {
    let emulator = Emulator::start(|folder| {
        let file = folder.join("htpasswd");
        let hash =
            "import bcrypt, sys\nprint('admin:' + bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode())";
        let output = Command::new(sushy_tools()).args(["-c", hash]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(&file, output.stdout).unwrap();
        format!("SUSHY_EMULATOR_AUTH_FILE = {file:?}\n")
    })
    .await;
    let pool = BmcPool::default();
    let mut options = emulator.options("redfish+http");
    let with = |password: &str| Some(Credentials::new("admin", password));
    options.credentials = with("wrong");
    let error = pool.get("host", &options).unwrap().probe().await.unwrap_err();
    assert!(matches!(error, BmcError::Unauthorized { retry_at: Some(_), .. }), "{error}");
    options.credentials = with("secret");
    assert_eq!(pool.get("host", &options).unwrap().probe().await.unwrap().power, PowerState::Off);
}

fn ring_sha256(der: &[u8]) -> [u8; 32] {
    ring::digest::digest(&ring::digest::SHA256, der).as_ref().try_into().unwrap()
}

#[tokio::test]
async fn certificates() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let bmc_key = rcgen::KeyPair::generate().unwrap();
    let bmc = rcgen::CertificateParams::new(vec!["127.0.0.1".into()])
        .unwrap()
        .signed_by(&bmc_key, &issuer)
        .unwrap();
    let self_signed = rcgen::generate_simple_self_signed(vec!["bmc".into()]).unwrap();

    let serve = |certificate: String, key: String| async move {
        Emulator::start(|folder| {
            let (certificate_file, key_file) = (folder.join("tls.crt"), folder.join("tls.key"));
            std::fs::write(&certificate_file, &certificate).unwrap();
            std::fs::write(&key_file, &key).unwrap();
            format!("SUSHY_EMULATOR_SSL_CERT = {certificate_file:?}\nSUSHY_EMULATOR_SSL_KEY = {key_file:?}\n")
        })
        .await
    };
    let pool = BmcPool::default();
    let reach = |options: ConnectOptions| {
        let bmc = pool.get("host", &options).unwrap();
        async move { bmc.probe().await }
    };
    let rejected = |result: Result<_, BmcError>| match result {
        Err(error @ BmcError::CertificateRejected { .. }) => assert!(!error.is_transient()),
        other => panic!("{other:?}"),
    };

    let emulator = serve(bmc.pem(), bmc_key.serialize_pem()).await;
    let base = emulator.options("redfish");
    let with = |pem: String| ConnectOptions { ca_pem: Some(pem.into_bytes()), ..base.clone() };
    reach(with(ca.pem())).await.unwrap();
    reach(with(self_signed.cert.pem() + &ca.pem())).await.unwrap();
    rejected(reach(with(self_signed.cert.pem())).await);
    rejected(reach(base.clone()).await);
    reach(ConnectOptions { insecure: true, ..base.clone() }).await.unwrap();
    // By its fingerprint alone, whatever it is for.
    let digest = ring_sha256(bmc.der());
    reach(ConnectOptions { certificate_sha256: Some(digest), ..base.clone() }).await.unwrap();
    rejected(reach(ConnectOptions { certificate_sha256: Some([7; 32]), ..base.clone() }).await);
    let shown = probe(ProbeOptions {
        connect: base.clone(),
        limits: Limits::default(),
        quirks: Quirks::default(),
        capture: false,
        time: Duration::from_secs(60),
    })
    .await;
    assert!(matches!(shown.error, Some(BmcError::CertificateRejected { .. })), "{:?}", shown.error);
    let colons: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(shown.survey.certificate_sha256.unwrap(), colons.join(":"), "what to trust is shown");
    let error = pool.get("host", &with("no PEM".into())).err().unwrap();
    assert_eq!(error.reason(), "BMCBadOptions");

    // A certificate for another name is not this BMC's, unless it is trusted as it is.
    let emulator = serve(self_signed.cert.pem(), self_signed.signing_key.serialize_pem()).await;
    let base = emulator.options("redfish");
    let with = |pem: String| ConnectOptions { ca_pem: Some(pem.into_bytes()), ..base.clone() };
    reach(with(self_signed.cert.pem())).await.unwrap();
    rejected(reach(with(ca.pem())).await);
}
