//! The driver against the BMCs of every family: what it finds, that what it sends is taken, and what the server does then.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{client, wait_for};
use ferric_bmc::BootMethod::{Network, UefiHttp, VirtualMedia};
use ferric_bmc::{
    Bmc, BmcPool, BootMethod, BootTarget, ConnectOptions, Credentials, Limits, PowerAction, PowerState,
};
use ferric_simulator::{
    Delays, DiskMode, Family, Faults, Fleet, FleetConfig, HardwareClass, JournalEvent, ServerSpec,
};

const LIMIT: Duration = Duration::from_secs(30);
/// Nothing listens there: firmware tries it, and that is all that is looked at.
const URL: &str = "http://127.0.0.1:9/boot";

/// What is expected of a family.
struct Expected {
    family: Family,
    vendor: &'static str,
    firmware: &'static str,
    methods: &'static [BootMethod],
}

const EXPECTED: [Expected; 7] = [
    Expected {
        family: Family::Plain,
        vendor: "Ferric Simulator",
        firmware: "1.0.0",
        methods: &[VirtualMedia, UefiHttp, Network],
    },
    Expected {
        family: Family::Idrac,
        vendor: "Dell Inc.",
        firmware: "6.00.30.00",
        methods: &[VirtualMedia, Network],
    },
    Expected {
        family: Family::Ilo,
        vendor: "HPE",
        firmware: "iLO 5 v2.72",
        methods: &[VirtualMedia, Network],
    },
    Expected {
        family: Family::Xcc,
        vendor: "Lenovo",
        firmware: "TGBT42S 2.83 2023-07-05",
        methods: &[VirtualMedia, Network],
    },
    Expected {
        family: Family::Supermicro,
        vendor: "Supermicro",
        firmware: "11.01.01",
        methods: &[VirtualMedia, Network],
    },
    Expected {
        family: Family::Megarac,
        vendor: "ASRockRack",
        firmware: "1.04.00",
        methods: &[VirtualMedia, UefiHttp, Network],
    },
    Expected {
        family: Family::Listed,
        vendor: "Ferric Simulator",
        firmware: "1.0.0",
        methods: &[VirtualMedia, Network],
    },
];

/// A server of each family, mixed in one fleet.
async fn fleet(folder: &std::path::Path, third: u8) -> Fleet {
    let mut config = FleetConfig::new(EXPECTED.len(), folder);
    config.base_address = [127, 77, third, 1].into();
    config.delays = Delays::none();
    config.disks = DiskMode::Counting;
    let class = |expected: &Expected| {
        let family = expected.family;
        HardwareClass { name: family.name().to_owned(), bmc: family, ..HardwareClass::default() }
    };
    config.classes = EXPECTED.iter().map(class).collect();
    Fleet::start(config).await.unwrap()
}

fn connect(fleet: &Fleet, pool: &BmcPool, server: &ServerSpec) -> Arc<dyn Bmc> {
    let address = format!("redfish://{}:{}{}", server.bmc_ip, fleet.port(), server.system_path());
    let options = ConnectOptions {
        address: address.parse().unwrap(),
        credentials: Some(Credentials::new(server.username.clone(), server.password.clone())),
        ca_pem: Some(fleet.ca_pem().into()),
        certificate_sha256: None,
        insecure: false,
    };
    pool.get(&server.name, &options).unwrap()
}

async fn powered(bmc: &dyn Bmc, action: PowerAction, wanted: PowerState) {
    bmc.set_power(action).await.unwrap();
    let begin = Instant::now();
    while bmc.power().await.unwrap() != wanted {
        assert!(begin.elapsed() < LIMIT, "{action:?} never came to {wanted}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What was booted since an entry of the journal.
fn boots(fleet: &Fleet, name: &str, since: u64) -> Vec<String> {
    let journal = fleet.journal(name, since).unwrap();
    let boots = journal.into_iter().filter_map(|entry| match entry.event {
        JournalEvent::Boot { source, .. } => Some(source),
        _ => None,
    });
    boots.collect()
}

async fn first_boot(fleet: &Fleet, name: &str, since: u64) -> String {
    let begin = Instant::now();
    loop {
        if let Some(first) = boots(fleet, name, since).into_iter().next() {
            return first;
        }
        assert!(begin.elapsed() < LIMIT, "{name} never booted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn end(fleet: &Fleet, name: &str) -> u64 {
    fleet.journal(name, 0).unwrap().last().map_or(0, |entry| entry.seq)
}

/// How many writes were refused since an entry of the journal.
fn refused(fleet: &Fleet, name: &str, since: u64) -> Vec<String> {
    let journal = fleet.journal(name, since).unwrap();
    let refused = journal.into_iter().filter_map(|entry| match entry.event {
        JournalEvent::Write { method, path, body, status } if status >= 400 => {
            Some(format!("{method} {path} {body} {status}"))
        }
        _ => None,
    });
    refused.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_and_done() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path(), 31).await;
    let pool = BmcPool::new(Limits::default());
    let servers: Vec<ServerSpec> = fleet.servers().cloned().collect();
    for (server, expected) in servers.iter().zip(&EXPECTED) {
        let (name, family) = (server.name.as_str(), expected.family);
        assert_eq!(server.class.bmc, family);
        let bmc = connect(&fleet, &pool, server);
        let facts = bmc.probe().await.unwrap();
        assert_eq!(facts.manufacturer.as_deref(), Some(expected.vendor), "{family:?}");
        assert_eq!(facts.bmc_firmware.as_deref(), Some(expected.firmware), "{family:?}");
        assert_eq!(facts.boot_methods, expected.methods, "{family:?}");
        assert_eq!(facts.serial_number.as_deref(), Some(server.serial.as_str()), "{family:?}");
        assert_eq!(facts.system_uuid, Some(server.uuid.to_string()), "{family:?}");
        let hardware = bmc.inspect().await.unwrap();
        assert_eq!(hardware.nics.len(), server.nics.len(), "{family:?}");
        assert_eq!(hardware.storage.len(), server.disks.len(), "{family:?}");

        for method in expected.methods {
            let since = end(&fleet, name);
            let (target, source) = match method {
                VirtualMedia => (BootTarget::VirtualMedia { url: URL.into() }, "Cd"),
                UefiHttp => (BootTarget::UefiHttp { url: URL.into() }, "UefiHttp"),
                Network => (BootTarget::Network, "Pxe"),
            };
            bmc.set_boot(&target).await.unwrap_or_else(|error| panic!("{family:?} {method:?}: {error}"));
            powered(&*bmc, PowerAction::On, PowerState::On).await;
            assert_eq!(first_boot(&fleet, name, since).await, source, "{family:?}");
            powered(&*bmc, PowerAction::ForceOff, PowerState::Off).await;

            let since = end(&fleet, name);
            bmc.set_boot(&BootTarget::Disk).await.unwrap_or_else(|error| panic!("{family:?}: {error}"));
            assert_eq!(fleet.status(name).unwrap().media, None, "{family:?}: the medium is out");
            powered(&*bmc, PowerAction::On, PowerState::On).await;
            assert_eq!(first_boot(&fleet, name, since).await, "Disk", "{family:?} after {method:?}");

            // A restart of a server that is on boots once more.
            let since = end(&fleet, name);
            bmc.set_power(PowerAction::PowerCycle).await.unwrap();
            assert_eq!(first_boot(&fleet, name, since).await, "Disk", "{family:?}");
            wait_for(&fleet, name, LIMIT, "an empty disk", |status| status.state == "NoBootableDisk").await;
            powered(&*bmc, PowerAction::ForceOff, PowerState::Off).await;
        }
        // What a BMC refuses of a first try is known: more would be a storm of wrong requests.
        let refused = refused(&fleet, name, 0);
        let most = match family {
            // The system names its settings only by refusing.
            Family::Megarac => 3 * 4,
            _ => 0,
        };
        assert!(refused.len() <= most, "{family:?}: {refused:#?}");
        assert_eq!(fleet.status(name).unwrap().counters.logins, 1, "{family:?}: one session");
    }
    pool.close().await;
    fleet.stop().await;
}

/// Tables of sessions that others filled: basic authentication goes on, and a session again once one is free.
#[tokio::test(flavor = "multi_thread")]
async fn full_tables_of_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path(), 32).await;
    let pool = BmcPool::new(Limits::default());
    for server in fleet.servers().cloned().collect::<Vec<_>>() {
        let login = serde_json::json!({"UserName": server.username, "Password": server.password}).to_string();
        let sessions = format!("{}/redfish/v1/SessionService/Sessions", fleet.bmc_url(&server));
        let mut opened = 0;
        let full = loop {
            let answer = client(&fleet).post(&sessions).body(login.clone()).send().await.unwrap();
            match answer.status().as_u16() {
                201 if opened < 20 => opened += 1,
                201 => break false,
                503 => break true,
                other => panic!("{other}"),
            }
        };
        let bmc = connect(&fleet, &pool, &server);
        assert_eq!(bmc.power().await.unwrap(), PowerState::Off, "{:?}, full: {full}", server.class.bmc);
        fleet.set_faults(&server.name, Faults { basic_auth_off: true, ..Faults::default() }).unwrap();
        let answer = bmc.power().await;
        assert_eq!(answer.is_err(), full, "{:?}: {answer:?}", server.class.bmc);
    }
    pool.close().await;
    fleet.stop().await;
}

/// The manifests that an operator would write: each address leads to its system, and in a way that the BMC has.
#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_a_mixed_fleet() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path(), 33).await;
    for server in fleet.servers() {
        let [_, host] = fleet.host_manifests(server, &ferric_simulator::ManifestOptions::default());
        let address = host["spec"]["bmc"]["address"].as_str().unwrap();
        assert!(address.ends_with(&server.system_path()), "{address}");
        let by_url = EXPECTED[server.index].methods.contains(&UefiHttp);
        assert_eq!(address.starts_with("redfish-uefihttp:"), by_url, "{address}");
    }
    fleet.stop().await;
}

/// A subscription is made once, found again by another process, made anew when it was lost, and gone with the host; BMCs
/// without an event service are left alone.
#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_to_events() {
    use ferric_bmc::{EventSink, Subscribed};
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path(), 34).await;
    for server in fleet.servers().cloned().collect::<Vec<_>>() {
        let family = server.class.bmc;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let destination = format!("http://{}/events", listener.local_addr().unwrap());
        let sink =
            EventSink { destination: destination.clone(), context: format!("context-of-{}", server.name) };
        let sends = !matches!(family, Family::Idrac | Family::Listed);
        let pool = BmcPool::new(Limits::default());
        let bmc = connect(&fleet, &pool, &server);
        let first = bmc.subscribe(&sink).await.unwrap();
        assert_eq!(first, if sends { Subscribed::Made } else { Subscribed::NotOffered }, "{family:?}");
        if !sends {
            let writes = fleet.status(&server.name).unwrap().counters.writes;
            assert_eq!(writes, 0, "{family:?}");
            continue;
        }
        assert_eq!(bmc.subscribe(&sink).await.unwrap(), Subscribed::Kept, "{family:?}");
        pool.close().await;
        let pool = BmcPool::new(Limits::default());
        let bmc = connect(&fleet, &pool, &server);
        assert_eq!(bmc.subscribe(&sink).await.unwrap(), Subscribed::Kept, "{family:?}: after a restart");

        // What a power change pushes.
        bmc.set_power(PowerAction::On).await.unwrap();
        let pushed = tokio::time::timeout(LIMIT, pushed(&listener)).await.unwrap();
        assert!(pushed.starts_with("POST /events "), "{pushed}");
        assert!(pushed.contains(&format!("\"Context\":\"{}\"", sink.context)), "{pushed}");

        // Lost, and made anew.
        let (_, listed) = common::redfish(
            &fleet,
            &server.name,
            "GET",
            "/EventService/Subscriptions",
            serde_json::Value::Null,
        )
        .await;
        let path =
            listed["Members"][0]["@odata.id"].as_str().unwrap().trim_start_matches("/redfish/v1").to_owned();
        let (status, _) =
            common::redfish(&fleet, &server.name, "DELETE", &path, serde_json::Value::Null).await;
        assert!(status < 300, "{status}");
        assert_eq!(bmc.subscribe(&sink).await.unwrap(), Subscribed::Made, "{family:?}");

        // The host goes.
        drop(bmc);
        pool.forget(&server.name);
        let begin = Instant::now();
        loop {
            let path = "/EventService/Subscriptions";
            let (_, listed) =
                common::redfish(&fleet, &server.name, "GET", path, serde_json::Value::Null).await;
            if listed["Members"].as_array().is_some_and(Vec::is_empty) {
                break;
            }
            assert!(begin.elapsed() < LIMIT, "{family:?}: {listed}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    fleet.stop().await;
}

/// The next event that is posted, with its head.
async fn pushed(listener: &tokio::net::TcpListener) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut text = Vec::new();
    // The event's last key, by the order of the alphabet.
    while !text.ends_with(b"\"Name\":\"Event\"}") {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..read]);
    }
    stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
    String::from_utf8(text).unwrap()
}
