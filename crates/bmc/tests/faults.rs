//! The driver against a BMC that misbehaves.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use common::{Fake, Reply, SYSTEM, pass, refusal, simple, simple_with};
use ferric_bmc::{BmcError, BmcPool, BootMethod, BootTarget, Limits, PowerState};
use serde_json::json;

#[tokio::test]
async fn a_read_that_is_answered_busy_is_repeated() {
    let (fake, pool, bmc) = simple().await;
    bmc.power().await.unwrap();
    let mut left = 2;
    fake.hook(move |asked| {
        (asked.path == SYSTEM && left > 0).then(|| {
            left -= 1;
            refusal(503, "Base.1.8.ServiceTemporarilyUnavailable", "resetting").header("retry-after", "0")
        })
    });
    bmc.power().await.unwrap();
    fake.hook(|asked| {
        (asked.path == SYSTEM).then(|| {
            refusal(503, "Base.1.8.ServiceTemporarilyUnavailable", "resetting").header("retry-after", "0")
        })
    });
    fake.take_log();
    let error = bmc.power().await.unwrap_err();
    assert!(matches!(error, BmcError::Busy { status: 503, .. }), "{error}");
    assert_eq!(fake.take_log().len(), 3);
    assert_eq!(pool.counters().snapshot().errors["BMCBusy"], 1);
}

#[tokio::test]
async fn a_change_in_between_is_read_again() {
    let (fake, _pool, bmc) = simple().await;
    bmc.probe().await.unwrap();
    // The tag moved on after the read.
    let mut left = 1;
    fake.hook(move |asked| {
        let patch = asked.method == "PATCH";
        (patch && left > 0).then(|| {
            left -= 1;
            Reply::status(412)
        })
    });
    let mut reads = 0;
    let shared = fake.state.clone();
    let hook = shared.lock().unwrap().hook.take();
    let mut hook = hook.unwrap();
    fake.hook(move |asked| {
        if asked.is("GET", SYSTEM) {
            reads += 1;
            let mut system = common::simple_tree().remove(SYSTEM).unwrap();
            system["@odata.etag"] = json!(format!("\"{reads}\""));
            return Some(Reply::json(200, system));
        }
        hook(asked)
    });
    fake.take_log();
    bmc.set_boot(&BootTarget::Network).await.unwrap();
    let tags: Vec<String> = fake
        .take()
        .iter()
        .filter(|asked| asked.method == "PATCH")
        .map(|asked| asked.headers["if-match"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(tags, ["\"1\"", "\"2\""]);

    // A tag that is never taken is left out; a second refusal is an error.
    fake.hook(|asked| {
        (asked.method == "PATCH" && asked.headers.contains_key("if-match")).then(|| Reply::status(412))
    });
    bmc.set_boot(&BootTarget::Network).await.unwrap();
    fake.hook(|asked| (asked.method == "PATCH").then(|| Reply::status(412)));
    let error = bmc.set_boot(&BootTarget::Network).await.unwrap_err();
    assert!(matches!(error, BmcError::Busy { status: 412, .. }), "{error}");
}

#[tokio::test]
async fn an_endless_task_ends_with_the_operation() {
    let limits = Limits {
        task_poll: Duration::from_millis(5),
        operation: Duration::from_millis(300),
        ..Limits::default()
    };
    let (fake, _pool, bmc) = simple_with(limits).await;
    fake.hook(|asked| {
        (asked.method == "PATCH" || asked.path == "/task")
            .then(|| Reply::json(202, json!({"TaskState": "Running"})).header("location", "/task"))
    });
    let error = bmc.set_boot(&BootTarget::Network).await.unwrap_err();
    assert!(matches!(error, BmcError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn slow_answers_time_out() {
    let limits = Limits { request: Duration::from_secs(1), ..Limits::default() };
    let (fake, _pool, bmc) = simple_with(limits).await;
    bmc.power().await.unwrap();
    fake.hook(|asked| {
        (asked.path == SYSTEM).then(|| Reply::json(200, json!({})).after(Duration::from_secs(60)))
    });
    let error = bmc.power().await.unwrap_err();
    assert!(matches!(error, BmcError::Timeout { .. }), "{error}");
    assert!(error.is_transient());

    // A body that never ends.
    fake.hook(|asked| {
        let endless = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        (asked.path == SYSTEM).then(|| Reply { body: Body::from_stream(endless), ..Reply::status(200) })
    });
    let error = bmc.power().await.unwrap_err();
    assert!(matches!(error, BmcError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn answers_that_cannot_be_read() {
    let limits = Limits { body: 64 << 10, ..Limits::default() };
    let (fake, _pool, bmc) = simple_with(limits).await;
    bmc.power().await.unwrap();
    type Case = (fn() -> Body, &'static str);
    let bodies: [Case; 8] = [
        (|| Body::from("{\"PowerState\": \"O"), "no JSON"),
        (|| Body::from("<html>login</html>"), "no JSON"),
        (|| Body::from("[1, 2]"), "no JSON object"),
        (|| Body::empty(), "no JSON object"),
        (|| Body::from("[".repeat(60_000)), "no JSON"),
        (|| Body::from(vec![b' '; 100 << 10]), "larger than"),
        (
            || {
                // Without a length: cut off while reading.
                let chunks = (0..1000).map(|_| Ok::<_, std::io::Error>(vec![b' '; 4096]));
                Body::from_stream(futures::stream::iter(chunks))
            },
            "larger than",
        ),
        (
            || {
                // The pause lets the beginning go out.
                let broken = async {
                    tokio::task::yield_now().await;
                    Err(std::io::Error::other("broken"))
                };
                let start = futures::stream::iter([Ok(b"{\"Power".to_vec())]);
                Body::from_stream(futures::StreamExt::chain(start, futures::stream::once(broken)))
            },
            "cut short",
        ),
    ];
    for (body, expected) in bodies {
        fake.hook(move |asked| (asked.path == SYSTEM).then(|| Reply { body: body(), ..Reply::status(200) }));
        let error = bmc.power().await.unwrap_err();
        assert!(matches!(error, BmcError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}: wanted {expected}");
    }
}

#[tokio::test]
async fn wrong_types_cost_one_fact() {
    let (fake, _pool, bmc) = simple().await;
    fake.edit(SYSTEM, |system| {
        system["UUID"] = json!(["not", "text"]);
        system["SerialNumber"] = json!(42);
        system["Status"] = json!("fine");
        system["PowerState"] = json!({"now": "On"});
        system["Boot"]["BootSourceOverrideTarget@Redfish.AllowableValues"] = json!("Pxe");
        system["MemorySummary"] = json!([]);
        system["Memory"] = json!({"@odata.id": "/redfish/v1/gone"});
        system["Storage"] = json!({"@odata.id": ["/odd"]});
        system["Processors"] = json!({"@odata.id": "/redfish/v1/Systems/1"});
    });
    fake.edit("/redfish/v1/Managers/1", |manager| *manager = json!([]));
    let facts = bmc.probe().await.unwrap();
    assert_eq!((facts.system_uuid, facts.serial_number, facts.health), (None, None, None));
    assert_eq!((facts.power, facts.bmc_firmware), (PowerState::Unknown, None));
    assert_eq!(facts.boot_methods, [BootMethod::Network], "the slot was lost with the manager");
    assert_eq!(facts.product.as_deref(), Some("Model 1"));
    let found = bmc.inspect().await.unwrap();
    assert_eq!((found.cpu.count, found.ram_mebibytes, found.nics.len()), (32, 0, 1));
    assert_eq!(found.nics[0].mac, "02:00:00:00:00:01");
}

#[tokio::test]
async fn half_an_inspection_is_none() {
    let (fake, _pool, bmc) = simple().await;
    bmc.probe().await.unwrap();
    fake.hook(|asked| {
        asked.path.contains("EthernetInterfaces/a").then(|| refusal(500, "x", "internal error"))
    });
    assert_eq!(bmc.inspect().await.unwrap().nics, [], "one bad resource is one fact");
    fake.hook(|asked| {
        asked.path.contains("EthernetInterfaces").then(|| Reply::status(503).header("retry-after", "0"))
    });
    assert!(bmc.inspect().await.is_err(), "a BMC that is going away is not a server without NICs");
}

#[tokio::test]
async fn redirects_stay_with_the_bmc() {
    let (fake, _pool, bmc) = simple().await;
    fake.hook(|asked| {
        (asked.path == SYSTEM).then(|| Reply::status(308).header("location", "/redfish/v1/Elsewhere"))
    });
    let system = fake.resource(SYSTEM);
    fake.state.lock().unwrap().resources.insert("/redfish/v1/elsewhere".into(), system);
    assert_eq!(bmc.power().await.unwrap(), PowerState::Off);

    let other = Fake::simple().await;
    let elsewhere = format!("http://{}{SYSTEM}", other.address);
    fake.hook(move |asked| {
        (asked.path == SYSTEM).then(|| Reply::status(307).header("location", elsewhere.clone()))
    });
    let error = bmc.power().await.unwrap_err();
    assert!(error.to_string().contains("another host"), "{error}");
    fake.hook(|asked| (asked.path == SYSTEM).then(|| Reply::status(307).header("location", SYSTEM)));
    assert!(bmc.power().await.unwrap_err().to_string().contains("too many redirects"));

    // A link to another host is taken as a path on this one.
    fake.unhook();
    let link = format!("http://{}/redfish/v1/Managers/1", other.address);
    fake.edit(SYSTEM, |system| system["Links"]["ManagedBy"] = json!([{ "@odata.id": link }]));
    assert_eq!(bmc.probe().await.unwrap().bmc_firmware.as_deref(), Some("1.2.3"));
    assert_eq!(other.take_log(), [""; 0]);
}

#[tokio::test]
async fn a_dead_bmc_is_left_alone_and_comes_back() {
    let (fake, pool) = (Fake::simple().await, BmcPool::default());
    // A port that is taken and that nobody listens on.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let dead = socket.local_addr().unwrap();
    let mut options = fake.options("");
    options.address = format!("redfish+http://{dead}").parse().unwrap();
    let bmc = pool.get("host", &options).unwrap();
    for _ in 0..3 {
        let error = bmc.power().await.unwrap_err();
        assert!(matches!(error, BmcError::Unreachable { .. }), "{error}");
    }
    let sent = pool.counters().snapshot().requests;
    let error = bmc.power().await.unwrap_err();
    assert!(matches!(error, BmcError::CircuitOpen { .. }), "{error}");
    assert!(error.retry_after().unwrap() <= Duration::from_secs(6));
    assert_eq!(pool.counters().snapshot().requests, sent, "nothing was sent");

    pass(Duration::from_secs(7)).await;
    assert!(matches!(bmc.power().await, Err(BmcError::Unreachable { .. })), "one more try");
    let error = bmc.power().await.unwrap_err();
    assert!(error.retry_after().unwrap() > Duration::from_secs(7), "{error}");
    let errors = pool.counters().snapshot().errors;
    assert_eq!((errors["BMCUnreachable"], errors["BMCCircuitOpen"]), (4, 2));
}

#[tokio::test]
async fn few_at_a_time_and_a_short_queue() {
    let limits = Limits { queue: 4, concurrency: 1, ..Limits::default() };
    let (fake, _pool, bmc) = simple_with(limits).await;
    bmc.power().await.unwrap();
    let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = running.clone();
    fake.hook(move |asked| {
        (asked.path == SYSTEM).then(|| {
            seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Reply::json(200, json!({"PowerState": "On"})).after(Duration::from_millis(200))
        })
    });
    let count = || running.swap(0, std::sync::atomic::Ordering::SeqCst);
    // Reads that wait for the same thing are one; the first had begun before the others asked.
    let reads = (0..6).map(|_| bmc.power());
    let results = futures::future::join_all(reads).await;
    assert!(results.iter().all(|result| matches!(result, Ok(PowerState::On))), "{results:?}");
    assert_eq!(count(), 2);

    let probes = (0..6).map(|_| bmc.probe());
    let results = futures::future::join_all(probes).await;
    let busy = results.iter().filter(|result| matches!(result, Err(BmcError::Busy { .. }))).count();
    assert_eq!(busy, 1, "one at work, four that wait");
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 5);
    assert_eq!(count(), 5);
}

#[tokio::test]
async fn hosts_behind_one_bmc_wait_in_one_line() {
    let limits = Limits { concurrency: 1, ..Limits::default() };
    let (fake, pool, first) = simple_with(limits).await;
    let second = pool.get("another host", &fake.options("")).unwrap();
    first.power().await.unwrap();
    second.power().await.unwrap();
    fake.hook(|asked| {
        let slow = || Reply::json(200, json!({"PowerState": "On"})).after(Duration::from_millis(50));
        (asked.path == SYSTEM).then(slow)
    });
    let begin = std::time::Instant::now();
    let (a, b) = tokio::join!(first.power(), second.power());
    a.unwrap();
    b.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(100), "one after the other");
}

#[tokio::test]
async fn ten_thousand_idle_bmcs_are_cheap() {
    let pool = BmcPool::default();
    let fake = Fake::simple().await;
    let before = resident();
    for n in 0..10_000 {
        let mut options = fake.options("");
        options.address = format!("redfish://127.1.{}.{}", n / 250, n % 250).parse().unwrap();
        options.insecure = true;
        pool.get(&format!("host-{n}"), &options).unwrap();
    }
    assert_eq!(pool.len(), 10_000);
    let grown = resident().saturating_sub(before);
    println!("10,000 idle BMCs take {} KiB", grown >> 10);
    assert!(grown < 32 << 20, "10,000 BMCs take {} KiB", grown >> 10);
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a_read_on_a_connection_that_was_just_closed_is_sent_again() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Answers one request a connection and hangs up on the second without saying so before.
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                let asked = String::from_utf8_lossy(&buffer[..read]).into_owned();
                let body = match asked.split(' ').nth(1).unwrap() {
                    "/redfish/v1/" => json!({"Systems": {"@odata.id": "/s"}}),
                    "/s" => json!({"Members": [{"@odata.id": "/s/1"}]}),
                    _ => json!({"PowerState": "On"}),
                }
                .to_string();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    let options = ferric_bmc::ConnectOptions {
        address: format!("redfish+http://{address}").parse().unwrap(),
        credentials: None,
        ca_pem: None,
        certificate_sha256: None,
        insecure: false,
    };
    let pool = BmcPool::default();
    let bmc = pool.get("host", &options).unwrap();
    for _ in 0..3 {
        assert_eq!(bmc.power().await.unwrap(), PowerState::On);
    }
    server.abort();
}

/// A thousand hosts behind BMCs that take connections and never answer, two behind each, in one pool with one that
/// does: it is asked as if it were alone.
#[tokio::test]
async fn a_storm_behind_slow_bmcs_leaves_the_others_alone() {
    let for_ever = Duration::from_secs(3600);
    let limits = Limits { connect: for_ever, request: for_ever, operation: for_ever, ..Limits::default() };
    let (fake, pool, well) = simple_with(limits).await;
    let silent = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut storm = tokio::task::JoinSet::new();
    for host in 0..1000 {
        let mut options = fake.options("");
        let bmc = host / 2;
        let address = format!("redfish+http://127.200.{}.{}:{port}{SYSTEM}", bmc / 250, 1 + bmc % 250);
        options.address = address.parse().unwrap();
        let slow = pool.get(&format!("slow-{host}"), &options).unwrap();
        storm.spawn(async move { slow.power().await });
    }
    tokio::task::yield_now().await;
    fake.take_log();
    let reads = async {
        for _ in 0..50 {
            well.power().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reads).await.unwrap();
    assert!(storm.try_join_next().is_none(), "the others wait for their BMCs");
    assert_eq!(pool.counters().snapshot().errors, Default::default());
    storm.abort_all();
}
