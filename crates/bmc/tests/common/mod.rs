//! A small BMC for tests: resources from JSON, a log of what was asked, and a hook in front that may answer instead.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

pub mod trees;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use ferric_bmc::{Bmc, BmcPool, Capture, ConnectOptions, Credentials, Limits, ProbeOptions, Quirks};
use serde_json::{Value, json};

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Asked {
    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method.as_str() == method && self.path == path
    }
}

/// What is answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
    pub delay: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::empty(), delay: Duration::ZERO }
    }

    pub fn json(status: u16, body: Value) -> Self {
        Self { body: Body::from(body.to_string()), ..Self::status(status) }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Hook = Box<dyn FnMut(&Asked) -> Option<Reply> + Send>;

#[derive(Default)]
pub struct State {
    pub resources: HashMap<String, Value>,
    pub log: Vec<Asked>,
    pub hook: Option<Hook>,
    /// User and password; without, everybody may.
    pub credentials: Option<(String, String)>,
    /// Tokens that are taken.
    pub tokens: Vec<String>,
    pub logins: usize,
}

/// A BMC on a free loopback port, stopped when dropped.
pub struct Fake {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub async fn start(resources: HashMap<String, Value>) -> Self {
        let state = Arc::new(Mutex::new(State {
            resources: resources.into_iter().map(|(path, value)| (normal(&path), value)).collect(),
            ..State::default()
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = state.clone();
        let app = axum::Router::new().fallback(move |request: Request<Body>| answer(shared.clone(), request));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, state, task }
    }

    /// The BMC that a capture was made of: what answered well then answers the same, the rest is not there.
    pub async fn replay(capture: &Capture) -> Self {
        let good = capture.answers.iter().filter(|(_, answer)| answer.status == 200);
        Self::start(good.filter_map(|(path, answer)| Some((path.clone(), answer.body.clone()?))).collect())
            .await
    }

    /// A BMC with one system, one manager and one virtual CD.
    pub async fn simple() -> Self {
        let fake = Self::start(simple_tree()).await;
        fake.state.lock().unwrap().credentials = Some(("admin".into(), "secret".into()));
        fake
    }

    pub fn hook(&self, hook: impl FnMut(&Asked) -> Option<Reply> + Send + 'static) {
        self.state.lock().unwrap().hook = Some(Box::new(hook));
    }

    pub fn unhook(&self) {
        self.state.lock().unwrap().hook = None;
    }

    /// Changes a resource.
    pub fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        edit(self.state.lock().unwrap().resources.get_mut(&normal(path)).unwrap());
    }

    pub fn resource(&self, path: &str) -> Value {
        self.state.lock().unwrap().resources[&normal(path)].clone()
    }

    /// What was asked since the last call, as `METHOD path`.
    pub fn take_log(&self) -> Vec<String> {
        self.take().into_iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect()
    }

    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    pub fn options(&self, path: &str) -> ConnectOptions {
        ConnectOptions {
            address: format!("redfish+http://{}{path}", self.address).parse().unwrap(),
            credentials: Some(Credentials::new("admin", "secret")),
            ca_pem: None,
            certificate_sha256: None,
            insecure: false,
        }
    }
}

/// A probe of a fake BMC with the built-in rules.
pub fn probing(fake: &Fake, path: &str, capture: bool) -> ProbeOptions {
    ProbeOptions {
        connect: fake.options(path),
        limits: Limits::default(),
        quirks: Quirks::default(),
        capture,
        time: Duration::from_secs(120),
    }
}

fn normal(path: &str) -> String {
    path.trim_end_matches('/').to_ascii_lowercase()
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let bytes: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let asked = Asked { method: parts.method, path, headers: parts.headers, body };
    let reply = {
        let mut state = state.lock().unwrap();
        state.log.push(asked.clone());
        let mut hook = state.hook.take();
        let hooked = hook.as_mut().and_then(|hook| hook(&asked));
        state.hook = hook;
        hooked.unwrap_or_else(|| serve(&mut state, &asked))
    };
    tokio::time::sleep(reply.delay).await;
    let mut response = Response::builder().status(StatusCode::from_u16(reply.status).unwrap());
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(reply.body).unwrap()
}

fn serve(state: &mut State, asked: &Asked) -> Reply {
    let path = asked.path.split('?').next().unwrap_or_default();
    let key = normal(path);
    if key.ends_with("/sessions") && asked.method == Method::POST {
        let given = (asked.body["UserName"].as_str(), asked.body["Password"].as_str());
        let wanted =
            state.credentials.as_ref().map(|(user, password)| (Some(user.as_str()), Some(password.as_str())));
        if wanted.is_some_and(|wanted| wanted != given) {
            return refusal(401, "Base.1.8.ResourceAtUriUnauthorized", "wrong user name or password");
        }
        state.logins += 1;
        let token = format!("token-{}", state.logins);
        state.tokens.push(token.clone());
        return Reply::json(201, json!({}))
            .header("x-auth-token", token.clone())
            .header("location", format!("{path}/{token}"));
    }
    if key != "/redfish/v1" && !may(state, &asked.headers) {
        return refusal(401, "Base.1.8.NoValidSession", "no valid session");
    }
    match asked.method {
        Method::GET => match state.resources.get(&key) {
            Some(resource) => Reply::json(200, resource.clone()),
            None => refusal(404, "Base.1.8.ResourceMissingAtURI", "no such resource"),
        },
        Method::DELETE => {
            let name = path.rsplit('/').next().unwrap_or_default();
            state.tokens.retain(|token| token != name);
            Reply::status(204)
        }
        Method::POST if key.ends_with("/virtualmedia.insertmedia") => {
            let slot = key.split("/actions/").next().unwrap();
            let slot = state.resources.get_mut(slot).unwrap();
            slot["Image"] = asked.body["Image"].clone();
            slot["Inserted"] = json!(true);
            slot["ConnectedVia"] = json!("URI");
            Reply::status(204)
        }
        Method::POST if key.ends_with("/virtualmedia.ejectmedia") => {
            let slot = key.split("/actions/").next().unwrap();
            let slot = state.resources.get_mut(slot).unwrap();
            slot["Image"] = Value::Null;
            slot["Inserted"] = json!(false);
            Reply::status(204)
        }
        Method::POST if key.ends_with("/computersystem.reset") => {
            let system = state.resources.get_mut(key.split("/actions/").next().unwrap()).unwrap();
            let off = matches!(asked.body["ResetType"].as_str(), Some("ForceOff" | "GracefulShutdown"));
            system["PowerState"] = json!(if off { "Off" } else { "On" });
            Reply::status(204)
        }
        Method::PATCH => match state.resources.get_mut(&key) {
            Some(resource) => {
                if let (Some((user, password)), Some(new)) =
                    (&mut state.credentials, asked.body["Password"].as_str())
                    && resource["UserName"] == user.as_str()
                {
                    new.clone_into(password);
                    return Reply::status(204);
                }
                merge(resource, &asked.body);
                Reply::status(204)
            }
            None => Reply::status(404),
        },
        _ => Reply::status(405),
    }
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn may(state: &State, headers: &HeaderMap) -> bool {
    let Some((user, password)) = &state.credentials else { return true };
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    use base64::Engine as _;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    state.tokens.iter().any(|token| token == header("x-auth-token"))
        || header("authorization") == format!("Basic {basic}")
}

/// An error answer as Redfish writes it.
pub fn refusal(status: u16, id: &str, message: &str) -> Reply {
    let info = json!([{"MessageId": id, "Message": message}]);
    Reply::json(status, json!({"error": {"code": id, "message": "general", "@Message.ExtendedInfo": info}}))
}

pub const SYSTEM: &str = "/redfish/v1/Systems/1";
pub const SLOT: &str = "/redfish/v1/Managers/1/VirtualMedia/Cd";
pub const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";

/// One system, one manager, one virtual CD.
pub fn simple_tree() -> HashMap<String, Value> {
    let link = |path: &str| json!({ "@odata.id": path });
    let collection =
        |paths: &[&str]| json!({"Members": paths.iter().map(|path| link(path)).collect::<Vec<_>>()});
    let reset = "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset";
    let action = |name: &str| json!({"target": format!("{SLOT}/Actions/VirtualMedia.{name}")});
    let tree = [
        (
            "/redfish/v1",
            json!({"Systems": link("/redfish/v1/Systems"), "Managers": link("/redfish/v1/Managers"),
                "Links": {"Sessions": link(SESSIONS)}}),
        ),
        ("/redfish/v1/Systems", collection(&[SYSTEM])),
        (
            SYSTEM,
            json!({"@odata.id": SYSTEM, "@odata.type": "#ComputerSystem.v1_16_0.ComputerSystem",
                "@odata.etag": "\"1\"", "Id": "1", "Name": "system",
                "UUID": "6173ECEC-6EF5-11EE-834A-0A8FC3A58A71", "SerialNumber": "S1", "Manufacturer": "Maker",
                "Model": "Model 1", "PowerState": "Off", "Status": {"Health": "OK"},
                "Boot": {"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None",
                    "BootSourceOverrideMode": "UEFI", "HttpBootUri": null,
                    "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Cd", "Hdd", "UefiHttp"]},
                "MemorySummary": {"TotalSystemMemoryGiB": 64},
                "ProcessorSummary": {"LogicalProcessorCount": 32},
                "EthernetInterfaces": link("/redfish/v1/Systems/1/EthernetInterfaces"),
                "Links": {"ManagedBy": [link("/redfish/v1/Managers/1")]},
                "Actions": {"#ComputerSystem.Reset": {"target": reset, "ResetType@Redfish.AllowableValues":
                    ["On", "ForceOff", "GracefulShutdown", "ForceRestart"]}}}),
        ),
        (
            "/redfish/v1/Systems/1/EthernetInterfaces",
            collection(&["/redfish/v1/Systems/1/EthernetInterfaces/a"]),
        ),
        ("/redfish/v1/Systems/1/EthernetInterfaces/a", json!({"Id": "a", "MACAddress": "02:00:00:00:00:01"})),
        ("/redfish/v1/Managers", collection(&["/redfish/v1/Managers/1"])),
        (
            "/redfish/v1/Managers/1",
            json!({"FirmwareVersion": "1.2.3", "VirtualMedia": link("/redfish/v1/Managers/1/VirtualMedia")}),
        ),
        ("/redfish/v1/Managers/1/VirtualMedia", collection(&[SLOT])),
        (
            SLOT,
            json!({"Id": "Cd", "MediaTypes": ["CD", "DVD"], "Image": null, "Inserted": false, "Actions":
                {"#VirtualMedia.InsertMedia": action("InsertMedia"), "#VirtualMedia.EjectMedia": action("EjectMedia")}}),
        ),
    ];
    tree.into_iter().map(|(path, value)| (path.to_owned(), value)).collect()
}

/// A pool's BMC for a fake one.
pub fn get(pool: &BmcPool, fake: &Fake) -> Arc<dyn Bmc> {
    pool.get("host", &fake.options("")).unwrap()
}

/// A fake BMC, and the driver for it.
pub async fn simple() -> (Fake, BmcPool, Arc<dyn Bmc>) {
    simple_with(Limits::default()).await
}

/// The same with other limits.
pub async fn simple_with(limits: Limits) -> (Fake, BmcPool, Arc<dyn Bmc>) {
    let (fake, pool) = (Fake::simple().await, BmcPool::new(limits));
    let bmc = get(&pool, &fake);
    (fake, pool, bmc)
}

/// Moves the clock. Between two calls time is real, since sockets are.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
