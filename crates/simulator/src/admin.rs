//! The control API of a fleet: JSON over plain HTTP, on loopback only.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::error::{Error, Result};
use crate::fault::Faults;
use crate::fleet::Fleet;
use crate::spec::ServerSpec;

const BODY_LIMIT: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

type Answer = Response<Full<Bytes>>;

/// The control API, bound and not yet served.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Listens on 127.0.0.1; port 0 takes a free one.
    pub async fn bind(port: u16) -> Result<Self> {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failed = |source| Error::Listen { address: wanted.to_string(), source };
        let listener = TcpListener::bind(wanted).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the future is dropped.
    ///
    /// `GET /healthz`, `GET /servers`, `GET /servers/{name}`, `GET /servers/{name}/journal[?since=N]`,
    /// `GET` and `POST /servers/{name}/faults`, `GET /ca.crt`.
    pub async fn serve(self, fleet: Arc<Fleet>) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let accepted = tokio::select! {
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let fleet = Arc::clone(&fleet);
            connections.spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let fleet = Arc::clone(&fleet);
                    async move { Ok::<_, std::convert::Infallible>(answer(&fleet, request).await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }
}

async fn answer(fleet: &Fleet, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_LIMIT).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => return text(StatusCode::PAYLOAD_TOO_LARGE, "the request body is too large or too slow"),
    };
    let path: Vec<&str> = parts.uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let found = match (&parts.method, path.as_slice()) {
        (&Method::GET, ["healthz"]) => return text(StatusCode::OK, "ok"),
        (&Method::GET, ["ca.crt"]) => return text(StatusCode::OK, fleet.ca_pem()),
        (&Method::GET, ["servers"]) => {
            Ok(Value::from(fleet.servers().map(|spec| full(fleet, spec)).collect::<Vec<_>>()))
        }
        (&Method::GET, ["servers", name]) => spec(fleet, name).map(|spec| full(fleet, spec)),
        (&Method::GET, ["servers", name, "journal"]) => {
            let query = parts.uri.query().unwrap_or_default();
            let since = query.split('&').find_map(|pair| pair.strip_prefix("since=")?.parse().ok());
            fleet.journal(name, since.unwrap_or(0)).map(|entries| value(&entries))
        }
        (&Method::GET, ["servers", name, "faults"]) => fleet.status(name).map(|status| value(&status.faults)),
        (&(Method::POST | Method::PUT), ["servers", name, "faults"]) => {
            let faults: Faults = match serde_json::from_slice(&body) {
                Ok(faults) => faults,
                Err(error) => return text(StatusCode::BAD_REQUEST, &format!("these are no faults: {error}")),
            };
            fleet.set_faults(name, faults.clone()).map(|()| value(&faults))
        }
        _ => return text(StatusCode::NOT_FOUND, "no such resource"),
    };
    match found {
        Ok(found) => build(StatusCode::OK, "application/json", found.to_string()),
        Err(error) => text(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

fn spec<'a>(fleet: &'a Fleet, name: &str) -> Result<&'a ServerSpec> {
    fleet.find(name).map(|server| &server.spec)
}

fn full(fleet: &Fleet, spec: &ServerSpec) -> Value {
    let mut full = value(&fleet.info(spec));
    full["status"] = fleet.status(&spec.name).map_or(json!(null), |status| value(&status));
    full
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

fn text(status: StatusCode, text: &str) -> Answer {
    build(status, "text/plain; charset=utf-8", text.to_owned())
}

fn build(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer
}
