//! The IPMI driver against OpenIPMI's `ipmi_sim`, looked at by `ipmitool`, over a good network and a bad one.
#![allow(clippy::unwrap_used)]

#[path = "common/ipmi_sim.rs"]
mod ipmi_sim;
#[path = "common/pyghmi.rs"]
mod pyghmi;
#[path = "../../../tests/shared/python.rs"]
mod python;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ferric_api::host::BootMode;
use ferric_bmc::{Bmc, BmcError, BmcPool, BootMethod, BootTarget, ConnectOptions, PowerAction, PowerState};
use ipmi_sim::{Sim, available, options};
use tokio::net::UdpSocket;

/// Waits until the power reads so; the simulator turns it on two seconds after a cycle.
async fn wait_for(bmc: &dyn Bmc, wanted: PowerState) {
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    while bmc.power().await.unwrap() != wanted {
        assert!(tokio::time::Instant::now() < until, "the power is not {wanted}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_life() {
    if !available() {
        return;
    }
    let sim = Sim::start();
    let pool = BmcPool::default();
    let bmc = pool.get("host", &sim.options()).unwrap();

    let facts = bmc.probe().await.unwrap();
    assert_eq!(facts.power, PowerState::Off);
    assert_eq!(facts.bmc_firmware.as_deref(), Some("9.08"));
    assert_eq!(facts.boot_methods, [BootMethod::Network]);
    assert_eq!(facts.system_uuid.as_deref(), Some("1d2c3b4a-5e6f-478a-b09c-adbecfd0e1f2"));

    for mode in [None, Some(BootMode::Legacy), Some(BootMode::Uefi)] {
        bmc.set_boot_in(&BootTarget::Network, mode).await.unwrap();
    }
    assert!(sim.ipmitool("chassis bootparam get 5").contains("Force PXE"));
    bmc.set_power(PowerAction::On).await.unwrap();
    wait_for(&*bmc, PowerState::On).await;
    assert_eq!(sim.ipmitool("chassis power status").trim(), "Chassis Power is on");
    bmc.set_power(PowerAction::On).await.unwrap();

    bmc.set_boot(&BootTarget::Disk).await.unwrap();
    assert!(sim.ipmitool("chassis bootparam get 5").contains("No override"));
    bmc.set_power(PowerAction::ForceRestart).await.unwrap();
    wait_for(&*bmc, PowerState::On).await;
    bmc.set_power(PowerAction::PowerCycle).await.unwrap();
    wait_for(&*bmc, PowerState::On).await;
    bmc.set_power(PowerAction::GracefulShutdown).await.unwrap();
    bmc.set_power(PowerAction::ForceOff).await.unwrap();
    wait_for(&*bmc, PowerState::Off).await;
    bmc.set_power(PowerAction::ForceOff).await.unwrap();
    bmc.identify(7).await.unwrap();
    let told: Vec<String> = sim.told().into_iter().filter(|line| !line.starts_with("boot")).collect();
    assert_eq!(
        told,
        ["power 1", "reset 1", "power 0", "power 1", "shutdown 1", "power 0", "identify 7 0"],
        "each once, and nothing that is so already"
    );

    let url = "http://192.0.2.1/x".to_owned();
    for target in [BootTarget::UefiHttp { url: url.clone() }, BootTarget::VirtualMedia { url }] {
        let error = bmc.set_boot(&target).await.unwrap_err();
        assert_eq!(error.reason(), "BMCNotSupported");
        assert!(error.to_string().contains("PXE"), "{error}");
    }
    pool.close().await;
    let sessions = sim.ipmitool("session info active");
    let active = sessions.lines().find_map(|line| line.strip_prefix("active sessions")).unwrap();
    assert_eq!(active.trim(), ": 1", "only the one that asks: {sessions}");
    assert_eq!(pool.counters().snapshot().logins, 1, "one session served all");
}

#[tokio::test]
async fn inventory_and_health() {
    if !available() {
        return;
    }
    for (temperature, health) in [(0x30, "OK"), (0x75, "Warning"), (0x95, "Critical")] {
        let sim = Sim::start_at(temperature);
        let pool = BmcPool::default();
        let bmc = pool.get("host", &sim.options()).unwrap();
        let facts = bmc.probe().await.unwrap();
        assert_eq!(facts.health.as_deref(), Some(health));
        assert_eq!(
            (facts.manufacturer.as_deref(), facts.product.as_deref()),
            (Some("Acme"), Some("Rocket 2000"))
        );
        // The UUID says which machine it is.
        assert_eq!(facts.serial_number, None);
        let details = bmc.inspect().await.unwrap();
        let vendor = &details.system_vendor;
        assert_eq!((vendor.manufacturer.as_str(), vendor.product_name.as_str()), ("Acme", "Rocket 2000"));
        assert_eq!(
            (vendor.serial_number.as_str(), details.firmware.bmc_version.as_str()),
            ("S1234567", "9.08")
        );
        let fru = sim.ipmitool("fru print 0");
        for (name, value) in
            [("Product Manufacturer", "Acme"), ("Product Serial", "S1234567"), ("Board Product", "X11")]
        {
            let line = fru.lines().find(|line| line.trim().starts_with(name)).unwrap_or_default();
            assert!(line.ends_with(value), "{fru}");
        }
        assert!(sim.ipmitool("sdr list").contains("CPU Temp"));
        pool.close().await;
    }
}

#[tokio::test]
async fn what_it_says_of_itself() {
    if !available() {
        return;
    }
    let sim = Sim::start();
    let pool = BmcPool::default();
    let bmc = pool.get("host", &sim.options()).unwrap();
    let facts = bmc.manager_facts().await.unwrap();
    assert_eq!(facts.macs, ["52:54:00:99:00:01".parse().unwrap()]);
    assert_eq!(facts.addresses, ["10.1.0.7".parse::<std::net::IpAddr>().unwrap()]);
    let guid = facts.system_guid.unwrap().map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(guid, "f2e1d0cfbead9cb08a476f5e4a3b2c1d", "in the bytes of IPMI");
    assert_eq!((facts.serial_numbers, facts.shared), (vec!["S1234567".to_owned()], false));
    // As another client reads them.
    assert_eq!(sim.ipmitool("raw 0x0c 2 1 5 0 0").trim(), "11 52 54 00 99 00 01");
    assert_eq!(sim.ipmitool("raw 0x0c 2 1 3 0 0").trim(), "11 0a 01 00 07");
    pool.close().await;
}

/// pyghmi's server is the IPMI of VirtualBMC.
#[tokio::test]
async fn a_life_with_the_server_of_virtualbmc() {
    let Some(server) = pyghmi::Server::start() else { return };
    let pool = BmcPool::default();
    let bmc = pool.get("host", &options(server.address, "", "admin", "secret")).unwrap();
    let facts = bmc.probe().await.unwrap();
    assert_eq!(facts.power, PowerState::Off);
    assert_eq!(facts.system_uuid.as_deref(), Some(pyghmi::UUID));
    bmc.set_boot(&BootTarget::Network).await.unwrap();
    bmc.set_power(PowerAction::On).await.unwrap();
    wait_for(&*bmc, PowerState::On).await;
    bmc.set_boot(&BootTarget::Disk).await.unwrap();
    bmc.set_power(PowerAction::ForceRestart).await.unwrap();
    // It has no power cycle.
    bmc.set_power(PowerAction::PowerCycle).await.unwrap();
    bmc.set_power(PowerAction::ForceOff).await.unwrap();
    wait_for(&*bmc, PowerState::Off).await;
    // It takes "no override" and changes nothing, so it is given the disk.
    assert_eq!(server.told(), ["boot network", "on", "boot hd", "reset", "reset", "off"]);
    pool.close().await;
    let (_, error) = refusal(options(server.address, "", "admin", "wrong-secret")).await;
    assert!(matches!(error, BmcError::Unauthorized { .. }), "{error:?}");
}

async fn refusal(options: ConnectOptions) -> (BmcPool, BmcError) {
    let pool = BmcPool::default();
    let error = pool.get("host", &options).unwrap().probe().await.unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
    (pool, error)
}

#[tokio::test]
async fn refusals() {
    if !available() {
        return;
    }
    let sim = Sim::start();
    for (user, password, words) in
        [("admin", "wrong-secret", "password"), ("nobody", "secret", "no such user")]
    {
        let options = options(sim.address, "", user, password);
        let (pool, error) = refusal(options.clone()).await;
        assert!(matches!(error, BmcError::Unauthorized { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.retry_after().unwrap() > Duration::from_secs(800));
        // Neither this host nor another with the same credentials tries again.
        let sent = pool.counters().snapshot().requests;
        pool.get("twin", &options).unwrap().power().await.unwrap_err();
        assert_eq!(pool.counters().snapshot().requests, sent);
        // Others are none the worse.
        let fine = pool.get("host", &sim.options()).unwrap();
        assert_eq!(fine.power().await.unwrap(), PowerState::Off);
        pool.close().await;
    }

    let (_, error) = refusal(options(sim.address, "?ciphersuite=17", "admin", "secret")).await;
    assert_eq!(error.reason(), "BMCNotSupported");
    assert!(error.to_string().contains("it offers 0, 1, 2, 3"), "{error}");

    let pool = BmcPool::default();
    let reader =
        pool.get("reader", &options(sim.address, "?privilegelevel=user", "admin", "secret")).unwrap();
    assert_eq!(reader.power().await.unwrap(), PowerState::Off);
    let error = reader.set_power(PowerAction::On).await.unwrap_err();
    assert!(error.to_string().contains("?privilegelevel=OPERATOR"), "{error}");
    let operator = pool.get("operator", &options(sim.address, "", "operator", "secret")).unwrap();
    operator.set_power(PowerAction::On).await.unwrap();
    assert_eq!(reader.power().await.unwrap(), PowerState::On);
    for bad in ["?ciphersuite=0", "?privilegelevel=GOD", "?interface=lan"] {
        let error = pool.get("bad", &options(sim.address, bad, "admin", "secret")).err().unwrap();
        assert_eq!(error.reason(), "BMCBadOptions", "{bad}");
    }
    pool.close().await;
}

#[tokio::test]
async fn all_sessions_taken() {
    if !available() {
        return;
    }
    let sim = Sim::start();
    let greedy = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    greedy.connect(sim.address).await.unwrap();
    // RMCP+ Open Session Request for suite 3: each answer takes one of its slots.
    let mut request = vec![6, 0, 0xFF, 7, 6, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 3, 0, 0, 9, 9, 9, 9];
    for kind in 0..3 {
        request.extend([kind, 0, 0, 8, 1, 0, 0, 0]);
    }
    let mut answer = [0; 100];
    let mut taken = 0;
    loop {
        greedy.send(&request).await.unwrap();
        let length = greedy.recv(&mut answer).await.unwrap();
        if length < 24 || answer[17] != 0 {
            break;
        }
        taken += 1;
        assert!(taken < 200);
    }
    let (_, error) = refusal(sim.options()).await;
    assert!(matches!(error, BmcError::Busy { .. }), "{error:?}");
    assert!(error.to_string().contains("sessions are taken"), "{error}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_bmc_that_restarts_and_one_that_is_gone() {
    if !available() {
        return;
    }
    let mut sim = Sim::start();
    let pool = BmcPool::default();
    let bmc = pool.get("host", &sim.options()).unwrap();
    assert_eq!(bmc.power().await.unwrap(), PowerState::Off);
    sim.press(true);
    sim.restart();
    // The session is gone: the question is asked again in another.
    assert_eq!(bmc.power().await.unwrap(), PowerState::On);
    assert_eq!(pool.counters().snapshot().logins, 2);
    sim.stop();
    let error = bmc.power().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    pool.close().await;
}

/// What a bad network does with the datagrams of one direction, by their number.
#[derive(Clone, Copy)]
struct Weather {
    lost: u64,
    twice: u64,
    late: u64,
    damaged: u64,
}

/// Hands datagrams on, badly; each client gets a socket of its own towards the BMC. Ends with the runtime.
async fn proxy(bmc: SocketAddr, weather: Weather) -> SocketAddr {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let mut backs: Vec<(SocketAddr, Arc<UdpSocket>)> = Vec::new();
        let mut buffer = [0; 2048];
        let mut number = 0;
        loop {
            let Ok((length, client)) = front.recv_from(&mut buffer).await else { continue };
            let back = match backs.iter().find(|(known, _)| *known == client) {
                Some((_, back)) => back.clone(),
                None => {
                    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                    back.connect(bmc).await.unwrap();
                    backs.push((client, back.clone()));
                    tokio::spawn(answers(back.clone(), front.clone(), client, weather));
                    back
                }
            };
            number += 1;
            // On the way there: lost or damaged.
            let mut datagram = buffer[..length].to_vec();
            if number % weather.lost == 0 {
                continue;
            }
            if number % weather.damaged == 0 {
                datagram[length / 2] ^= 0xFF;
            }
            let _ = back.send(&datagram).await;
        }
    });
    address
}

async fn answers(back: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr, weather: Weather) {
    let (mut buffer, mut number, mut held) = ([0; 2048], 0, Vec::<Vec<u8>>::new());
    while let Ok(length) = back.recv(&mut buffer).await {
        number += 1;
        let mut datagram = buffer[..length].to_vec();
        if number % weather.late == 0 {
            // Behind the one that follows.
            held.push(datagram);
            continue;
        }
        if number % weather.damaged == 1 {
            datagram[length - 5] ^= 0x01;
        }
        for _ in 0..if number % weather.twice == 0 { 2 } else { 1 } {
            let _ = front.send_to(&datagram, client).await;
        }
        for late in held.drain(..) {
            let _ = front.send_to(&late, client).await;
        }
    }
}

#[tokio::test]
async fn a_network_that_loses_doubles_delays_and_damages() {
    if !available() {
        return;
    }
    let sim = Sim::start();
    let weather = Weather { lost: 11, twice: 3, late: 7, damaged: 13 };
    let address = proxy(sim.address, weather).await;
    let pool = BmcPool::default();
    let bmc = pool.get("host", &options(address, "", "admin", "secret")).unwrap();
    for round in 0..20 {
        let on = round % 2 == 1;
        sim.press(on);
        let power = bmc.power().await.unwrap();
        assert_eq!(power, if on { PowerState::On } else { PowerState::Off }, "round {round}");
    }
    pool.close().await;
}

/// The serial console of `ipmi_sim`, whose serial port is a TCP connection that says what it is told, in capitals.
#[tokio::test]
async fn a_serial_console() {
    use ferric_bmc::{ConsoleInput, open_console};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    if !available() {
        return;
    }
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = port.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 256];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    let said = buffer[..count].to_ascii_uppercase();
                    if stream.write_all(&said).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let sim = tokio::task::spawn_blocking(move || Sim::start_with_serial(address)).await.unwrap();
    // Twice: the port was let go of.
    for _ in 0..2 {
        let mut console = open_console(&options(sim.address, "", "admin", "secret"), false).await.unwrap();
        for text in ["login: root\r", &"0123456789abcdef".repeat(64), "\n."] {
            console.input.send(ConsoleInput::Characters(text.into())).await.unwrap();
        }
        let mut shown = Vec::new();
        while !shown.ends_with(b".") {
            let more = tokio::time::timeout(Duration::from_secs(30), console.output.recv()).await;
            shown.extend(more.unwrap().unwrap().unwrap());
        }
        let expected = format!("LOGIN: ROOT\r{}\n.", "0123456789ABCDEF".repeat(64));
        assert_eq!(String::from_utf8(shown).unwrap(), expected);
        drop(console.input);
        while console.output.recv().await.is_some() {}
    }
}
