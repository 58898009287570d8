//! The driver for Proxmox VE against a stand-in of the parts of its API that the driver uses, written from the published
//! schema. It was never run against Proxmox VE.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response, StatusCode};
use ferric_bmc::{
    Bmc, BmcError, BmcPool, BootMethod, BootTarget, ConnectOptions, Credentials, PowerAction, PowerState,
};
use serde_json::{Value, json};

const VM: &str = "/api2/json/nodes/pve1/qemu/101";
const TOKEN: &str = "PVEAPIToken=ferric@pve!hosts=0b1c2d3e-secret";

/// A node with one virtual machine.
struct StandIn {
    running: bool,
    config: Value,
    /// How the next task ends.
    exit: String,
    /// Looks at a task before it has ended.
    looks: u32,
    tasks: u32,
    /// What was asked that changes something.
    log: Vec<String>,
    refuse: Option<(u16, Value)>,
}

type Shared = Arc<Mutex<StandIn>>;

fn stand_in() -> StandIn {
    StandIn {
        running: false,
        config: json!({
            "digest": "d1", "boot": "order=scsi0;net0", "cores": 4, "sockets": 2, "memory": "8192",
            "scsi0": "local-lvm:vm-101-disk-0,size=32G,serial=DISK0",
            "net0": "virtio=BC:24:11:2C:69:EC,bridge=vmbr0", "smbios1": "uuid=b6f0a3a5-9c3b-4d21-8f5e-7e1f0a2b3c4d",
        }),
        exit: "OK".to_owned(),
        looks: 0,
        tasks: 0,
        log: Vec::new(),
        refuse: None,
    }
}

fn answer(shared: &Shared, method: &Method, path: &str, token: &str, body: &str) -> (u16, Value) {
    let mut it = shared.lock().unwrap();
    if token != TOKEN {
        return (401, Value::Null);
    }
    if *method != Method::GET {
        it.log.push(format!("{method} {} {body}", path.strip_prefix(VM).unwrap_or(path)));
        if let Some(refusal) = it.refuse.take() {
            return refusal;
        }
    }
    let data = |data: Value| (200, json!({ "data": data }));
    let task = |it: &mut StandIn, running: Option<bool>| {
        if it.exit == "OK" {
            it.running = running.unwrap_or(it.running);
        }
        it.tasks += 1;
        it.looks = 1;
        data(json!(format!("UPID:pve1:0000A1B2:{:08X}:65000000:qmstart:101:ferric@pve!hosts:", it.tasks)))
    };
    match (method.as_str(), path.strip_prefix(VM).unwrap_or(path)) {
        ("GET", "/status/current") => data(json!({"status": if it.running { "running" } else { "stopped" }})),
        ("GET", "/config") => data(it.config.clone()),
        ("PUT", "/config") => {
            let form: Vec<(String, String)> =
                url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
            for (key, value) in form {
                match key.as_str() {
                    "digest" if it.config["digest"] != value => {
                        return (
                            500,
                            json!({"data": null, "message": "detected modified configuration - file changed by other user? Try again.\n"}),
                        );
                    }
                    "digest" => {}
                    _ => it.config[key] = json!(value),
                }
            }
            data(Value::Null)
        }
        ("POST", "/status/start") => task(&mut it, Some(true)),
        ("POST", "/status/stop") => task(&mut it, Some(false)),
        // The guest takes its time.
        ("POST", "/status/shutdown") => task(&mut it, None),
        ("GET", path) if path.starts_with("/api2/json/nodes/pve1/tasks/UPID%3Apve1%3A") => {
            if it.looks > 0 {
                it.looks -= 1;
                return data(json!({"status": "running"}));
            }
            data(json!({"status": "stopped", "exitstatus": it.exit}))
        }
        _ => (501, json!({"data": null, "message": format!("Method '{method} {path}' not implemented\n")})),
    }
}

async fn serve() -> (Shared, SocketAddr) {
    let shared: Shared = Arc::new(Mutex::new(stand_in()));
    let state = shared.clone();
    let app = Router::new().fallback(move |request: Request<Body>| {
        let state = state.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = String::from_utf8(to_bytes(body, 1 << 16).await.unwrap().to_vec()).unwrap();
            let token = parts.headers.get("authorization").map_or("", |value| value.to_str().unwrap());
            let (status, body) = answer(&state, &parts.method, parts.uri.path(), token, &body);
            let mut response = Response::new(Body::from(body.to_string()));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (shared, address)
}

fn options(address: SocketAddr, path: &str) -> ConnectOptions {
    ConnectOptions {
        address: format!("proxmox+http://{address}{path}").parse().unwrap(),
        credentials: Some(Credentials::new("ferric@pve!hosts", "0b1c2d3e-secret")),
        ca_pem: None,
        certificate_sha256: None,
        insecure: false,
    }
}

async fn vm() -> (Shared, BmcPool, Arc<dyn Bmc>, ConnectOptions) {
    let (shared, address) = serve().await;
    let (pool, options) = (BmcPool::default(), options(address, "/nodes/pve1/qemu/101"));
    let bmc = pool.get("host", &options).unwrap();
    (shared, pool, bmc, options)
}

fn log(shared: &Shared) -> Vec<String> {
    std::mem::take(&mut shared.lock().unwrap().log)
}

#[tokio::test]
async fn the_life_of_a_virtual_machine() {
    let (shared, _pool, bmc, _) = vm().await;
    let facts = bmc.probe().await.unwrap();
    assert_eq!(facts.system_uuid.as_deref(), Some("b6f0a3a5-9c3b-4d21-8f5e-7e1f0a2b3c4d"));
    assert_eq!((facts.power, facts.boot_methods), (PowerState::Off, vec![BootMethod::Network]));
    assert_eq!(facts.macs[0].to_string(), "bc:24:11:2c:69:ec");
    let hardware = bmc.inspect().await.unwrap();
    assert_eq!(
        (hardware.cpu.count, hardware.ram_mebibytes, hardware.storage[0].size_bytes),
        (8, 8192, 32 << 30)
    );
    assert!(log(&shared).is_empty(), "what only reads changes nothing");

    bmc.set_boot(&BootTarget::Network).await.unwrap();
    bmc.set_boot(&BootTarget::Network).await.unwrap();
    bmc.set_power(PowerAction::On).await.unwrap();
    bmc.set_power(PowerAction::On).await.unwrap();
    assert_eq!(bmc.power().await.unwrap(), PowerState::On);
    bmc.set_boot(&BootTarget::Disk).await.unwrap();
    bmc.set_power(PowerAction::PowerCycle).await.unwrap();
    bmc.set_power(PowerAction::GracefulShutdown).await.unwrap();
    assert_eq!(bmc.power().await.unwrap(), PowerState::On, "accepted is not done");
    bmc.set_power(PowerAction::ForceOff).await.unwrap();
    assert_eq!(bmc.power().await.unwrap(), PowerState::Off);
    assert_eq!(
        log(&shared),
        [
            "PUT /config boot=order%3Dnet0%3Bscsi0&digest=d1",
            "POST /status/start ",
            "PUT /config boot=order%3Dscsi0%3Bnet0&digest=d1",
            "POST /status/stop ",
            "POST /status/start ",
            "POST /status/shutdown ",
            "POST /status/stop ",
        ]
    );
}

#[tokio::test]
async fn what_goes_wrong_is_told() {
    let (shared, pool, bmc, options) = vm().await;
    shared.lock().unwrap().exit = "start failed: org.freedesktop.systemd1: no memory".to_owned();
    let error = bmc.set_power(PowerAction::On).await.unwrap_err();
    assert!(
        matches!(&error, BmcError::TaskFailed { message, .. } if message.contains("no memory")),
        "{error}"
    );
    shared.lock().unwrap().config["digest"] = json!("d2");
    shared.lock().unwrap().refuse = Some((
        500,
        json!({"message": "detected modified configuration - file changed by other user? Try again.\n"}),
    ));
    assert_eq!(bmc.set_boot(&BootTarget::Network).await.unwrap_err().reason(), "BMCBusy");
    shared.lock().unwrap().refuse =
        Some((403, json!({"message": "Permission check failed (/vms/101, VM.Config.Options)\n"})));
    let error = bmc.set_boot(&BootTarget::Network).await.unwrap_err();
    assert!(error.to_string().contains("VM.Config.Options") && !error.is_transient(), "{error}");
    let media = BootTarget::VirtualMedia { url: "http://x/agent.iso".to_owned() };
    assert_eq!(bmc.set_boot(&media).await.unwrap_err().reason(), "BMCNotSupported");

    // A token that is refused is left alone.
    let mut other = options.clone();
    other.credentials = Some(Credentials::new("ferric@pve!hosts", "hunter2-wrong"));
    let bmc = pool.get("other", &other).unwrap();
    for _ in 0..2 {
        let error = bmc.power().await.unwrap_err();
        assert!(matches!(error, BmcError::Unauthorized { retry_at: Some(_), .. }), "{error}");
        assert!(!format!("{error:?} {other:?}").contains("hunter2"));
    }
    for (path, user) in [("/nodes/pve1/qemu/101", "root@pam"), ("/nodes/pve1", "a@b!c"), ("", "a@b!c")] {
        let mut bad = self::options("127.0.0.1:9".parse().unwrap(), path);
        bad.credentials = Some(Credentials::new(user, "x"));
        assert_eq!(pool.get("bad", &bad).err().unwrap().reason(), "BMCBadOptions", "{path} {user}");
    }
}
