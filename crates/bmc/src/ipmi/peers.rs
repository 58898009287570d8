//! The tests' BMC over UDP, and `ipmitool` as its client: codecs and cryptography of both suites are those that others
//! speak, and not only what both our ends take for IPMI. (OpenIPMI's `ipmi_sim`, the peer of the driver, has no suite
//! with SHA-256.)
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ferric_api::host::BootMode;
use tokio::net::UdpSocket;

use super::server::Fate;
use super::suite::Suite;
use super::testing::FakeBmc;
use super::{ConsoleInput, open_console};
use crate::pool::BmcPool;
use crate::types::{BootTarget, ConnectOptions, Credentials, PowerAction, PowerState};

const IPMITOOL: &str = "/usr/bin/ipmitool";

/// Serves until the runtime ends.
async fn serve(bmc: FakeBmc) -> (SocketAddr, Arc<Mutex<FakeBmc>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let bmc = Arc::new(Mutex::new(FakeBmc { port: address.port(), ..bmc }));
    let shared = bmc.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
            let answer = shared.lock().unwrap().handle(&buffer[..length]);
            if let Some(answer) = answer {
                let _ = socket.send_to(&answer, client).await;
            }
        }
    });
    (address, bmc)
}

async fn ipmitool(address: SocketAddr, suite: Suite, command: &str) -> String {
    let (port, id) = (address.port().to_string(), suite.id().to_string());
    let output = tokio::process::Command::new(IPMITOOL)
        .args(["-I", "lanplus", "-C", &id, "-H", "127.0.0.1", "-p", &port, "-U", "admin", "-P", "secret"])
        .args(command.split(' '))
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn options(address: SocketAddr, suite: Suite) -> ConnectOptions {
    ConnectOptions {
        address: format!("ipmi://{address}?ciphersuite={}", suite.id()).parse().unwrap(),
        credentials: Some(Credentials::new("admin", "secret")),
        ca_pem: None,
        certificate_sha256: None,
        insecure: false,
    }
}

#[tokio::test]
async fn ipmitool_and_the_driver_see_the_same_bmc_in_every_suite() {
    let has_ipmitool = Path::new(IPMITOOL).exists();
    if !has_ipmitool {
        let _ = writeln!(std::io::stderr(), "SKIPPED: ipmitool as client needs: apt-get install ipmitool");
    }
    for suite in Suite::ALL {
        let fake =
            FakeBmc { suites: vec![suite], fru: super::commands::fru::tests::image(), ..FakeBmc::default() };
        let (address, fake) = serve(fake).await;
        let pool = BmcPool::default();
        let bmc = pool.get("host", &options(address, suite)).unwrap();
        assert_eq!(bmc.probe().await.unwrap().product.as_deref(), Some("Rocket 2000"));
        bmc.set_boot_in(&BootTarget::Network, Some(BootMode::Uefi)).await.unwrap();
        bmc.set_power(PowerAction::On).await.unwrap();
        assert_eq!(bmc.power().await.unwrap(), PowerState::On);
        if has_ipmitool {
            assert_eq!(ipmitool(address, suite, "chassis power status").await.trim(), "Chassis Power is on");
            let flags = ipmitool(address, suite, "chassis bootparam get 5").await;
            for words in ["Boot Flag Valid", "only next boot", "BIOS EFI boot", "Force PXE"] {
                assert!(flags.contains(words), "{words}: {flags}");
            }
            ipmitool(address, suite, "chassis bootdev disk options=persistent").await;
            assert_eq!(fake.lock().unwrap().boot_flags, [0xC0, 0x08, 0, 0, 0]);
            assert!(ipmitool(address, suite, "fru print 0").await.contains("Rocket 2000"));
            ipmitool(address, suite, "chassis power off").await;
            assert_eq!(bmc.power().await.unwrap(), PowerState::Off);
        }
        bmc.set_boot_in(&BootTarget::Network, Some(BootMode::Legacy)).await.unwrap();
        assert_eq!(fake.lock().unwrap().boot_flags, [0x80, 0x04, 0, 0, 0]);
        bmc.set_boot(&BootTarget::Disk).await.unwrap();
        assert_eq!(fake.lock().unwrap().boot_flags, [0; 5]);
        pool.close().await;
        assert_eq!(fake.lock().unwrap().sessions(), 0, "all sessions are closed");
    }
}

#[tokio::test]
async fn a_bmc_that_forgets_the_boot_flags_is_told_on() {
    let fake = FakeBmc { keeps_boot_flags: false, boot_flags: [0x80, 0x08, 0, 0, 0], ..FakeBmc::default() };
    let (address, fake) = serve(fake).await;
    let pool = BmcPool::default();
    let bmc = pool.get("host", &options(address, Suite::Sha256)).unwrap();
    let error = bmc.set_boot(&BootTarget::Network).await.unwrap_err();
    assert_eq!(error.to_string(), "the BMC refuses the boot flags: it accepted PXE, and reads back the disk");
    // No override is told in two ways; where neither is taken, the disk has to do.
    bmc.set_boot(&BootTarget::Disk).await.unwrap();
    let sent: Vec<_> = fake
        .lock()
        .unwrap()
        .journal
        .iter()
        .filter(|it| it.1 == 8 && it.2[0] == 5)
        .map(|it| (it.2[1], it.2[2]))
        .collect();
    assert_eq!(sent, [(0xA0, 0x04), (0, 0), (0xA0, 0), (0xA0, 0x08)]);
    pool.close().await;
}

#[tokio::test]
async fn a_cycle_that_is_not_known_is_a_reset_and_nothing_is_sent_twice() {
    let (address, fake) = serve(FakeBmc { power: true, ..FakeBmc::default() }).await;
    let pool = BmcPool::default();
    let bmc = pool.get("host", &options(address, Suite::Sha256)).unwrap();
    bmc.set_power(PowerAction::On).await.unwrap();
    bmc.identify(0).await.unwrap();
    // The status first; then the cycle is refused.
    fake.lock().unwrap().codes_of.insert((0, 2), vec![0xCC]);
    bmc.set_power(PowerAction::PowerCycle).await.unwrap();
    let controls: Vec<u8> =
        fake.lock().unwrap().journal.iter().filter(|it| it.0 == 0 && it.1 == 2).map(|it| it.2[0]).collect();
    assert_eq!(controls, [3]);
    pool.close().await;
}

#[tokio::test]
async fn what_is_lost_is_asked_again_and_a_change_of_power_is_not() {
    let (address, fake) = serve(FakeBmc { power: true, ..FakeBmc::default() }).await;
    let pool = BmcPool::default();
    let bmc = pool.get("host", &options(address, Suite::Sha256)).unwrap();
    fake.lock().unwrap().fate_of.insert((0, 1), Fate::Lost);
    assert_eq!(bmc.power().await.unwrap(), PowerState::On);
    fake.lock().unwrap().fate_of.insert((0, 2), Fate::DoneButSilent);
    let error = bmc.set_power(PowerAction::PowerCycle).await.unwrap_err();
    assert!(error.to_string().contains("is not repeated blindly"), "{error}");
    assert_eq!(fake.lock().unwrap().count(0, 2), 1);
    assert_eq!(bmc.power().await.unwrap(), PowerState::On);
    fake.lock().unwrap().fate_of.insert((0, 4), Fate::DoneButSays(0xD5));
    assert_eq!(bmc.identify(5).await.unwrap_err().reason(), "BMCCommandRefused");
    assert_eq!(fake.lock().unwrap().count(0, 4), 1);
    pool.close().await;
}

#[tokio::test]
async fn a_bmc_may_show_the_disk_only_after_the_next_start() {
    // As VirtualBMC does: it takes everything, and shows what the running server was started with.
    let flags = [0x80, 0x04, 0, 0, 0];
    let fake = FakeBmc { power: true, keeps_boot_flags: false, boot_flags: flags, ..FakeBmc::default() };
    let (address, fake) = serve(fake).await;
    let pool = BmcPool::default();
    let bmc = pool.get("host", &options(address, Suite::Sha256)).unwrap();
    bmc.set_boot(&BootTarget::Disk).await.unwrap();
    fake.lock().unwrap().power = false;
    assert_eq!(bmc.set_boot(&BootTarget::Disk).await.unwrap_err().reason(), "BMCCommandRefused");
    pool.close().await;
}

/// What a console shows, until it ends with these characters.
async fn shown(console: &mut super::Console, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        text.extend(console.output.recv().await.unwrap().unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_serial_console_in_every_suite() {
    for suite in Suite::ALL {
        let (address, fake) =
            serve(FakeBmc { suites: vec![suite], serial: true, ..FakeBmc::default() }).await;
        let options = options(address, suite);
        let mut console = open_console(&options, false).await.unwrap();
        let long = "all work and no play ".repeat(200);
        for text in ["login: ", &long, "x"] {
            console.input.send(ConsoleInput::Characters(text.into())).await.unwrap();
        }
        let text = shown(&mut console, "X").await;
        assert_eq!(text, format!("login: {long}x").to_ascii_uppercase());
        console.input.send(ConsoleInput::Break).await.unwrap();
        console.input.send(ConsoleInput::Characters(b"y".to_vec())).await.unwrap();
        assert_eq!(shown(&mut console, "Y").await, "Y");
        assert_eq!(fake.lock().unwrap().breaks, 1);

        // One user at a time; who takes it ends the other's.
        let error = open_console(&options, false).await.unwrap_err();
        assert!(error.to_string().contains("another console has it"), "{error}");
        let mut other = open_console(&options, true).await.unwrap();
        other.input.send(ConsoleInput::Characters(b"mine".to_vec())).await.unwrap();
        assert_eq!(shown(&mut other, "MINE").await, "MINE");
        drop((console, other.input));
        while other.output.recv().await.is_some() {}
        let begin = std::time::Instant::now();
        while fake.lock().unwrap().sessions() > 0 {
            assert!(begin.elapsed().as_secs() < 30, "the sessions are not closed");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    let (address, fake) = serve(FakeBmc::default()).await;
    let error = open_console(&options(address, Suite::Sha256), false).await.unwrap_err();
    assert!(error.to_string().contains("turned off"), "{error}");
    assert_eq!(fake.lock().unwrap().sessions(), 0);
}

/// `ipmitool` as the console of our server. It wants a terminal, which `script` makes.
#[tokio::test]
async fn ipmitool_opens_the_serial_port() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const SCRIPT: &str = "/usr/bin/script";
    if !Path::new(IPMITOOL).exists() || !Path::new(SCRIPT).exists() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: ipmitool as console needs: apt-get install ipmitool");
        return;
    }
    let (address, fake) = serve(FakeBmc { serial: true, ..FakeBmc::default() }).await;
    let port = address.port();
    let command =
        format!("{IPMITOOL} -I lanplus -C 17 -H 127.0.0.1 -p {port} -U admin -P secret sol activate");
    let mut process = tokio::process::Command::new(SCRIPT)
        .args(["-qec", &command, "/dev/null"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut typed, mut shown) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let mut text = String::new();
    for (wanted, answer) in
        [("operational", "ferric\r"), ("FERRIC", "\r~B"), ("~B", "done\r"), ("DONE", "\r~.")]
    {
        let mut buffer = [0; 1024];
        while !text.contains(wanted) {
            let read =
                tokio::time::timeout(std::time::Duration::from_secs(30), shown.read(&mut buffer)).await;
            let count = read.unwrap_or_else(|_| panic!("no {wanted}: {text}")).unwrap();
            assert!(count > 0, "it ended before {wanted}: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        typed.write_all(answer.as_bytes()).await.unwrap();
        typed.flush().await.unwrap();
    }
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), process.wait()).await;
    assert!(ended.is_ok(), "{text}");
    assert_eq!(fake.lock().unwrap().sessions(), 0, "{text}");
}
