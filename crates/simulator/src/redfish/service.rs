//! One request to one BMC: faults, login, reading, writing.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Deserialize;
use serde_json::Value;

use super::Unreachable;
use super::events::Subscriptions;
use super::face::{Events, Face, TagForm, face};
use super::requests::{self, Command, Refusal};
use super::resources::{self, ROOT, SESSIONS, SUBSCRIPTIONS, View};
use super::session;
use crate::fault::BmcFault;
use crate::journal::JournalEvent;
use crate::rules::{self, Effect};
use crate::server::{Inner, Server};

/// Largest request body.
const BODY_LIMIT: usize = 64 * 1024;
/// Longest time for a request body to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

type Answer = Response<Full<Bytes>>;
/// An answer whose body may take its time.
pub(crate) type SlowAnswer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Answers one request. An error closes the connection without an answer.
pub(crate) async fn answer(
    server: &Arc<Server>,
    request: Request<Incoming>,
) -> Result<SlowAnswer, Unreachable> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let effect = {
        let mut inner = server.lock();
        if inner.restarts() {
            return Err(Unreachable);
        }
        let Inner { faults, rule_counts, .. } = &mut *inner;
        rule_counts.strike(&faults.rules, &method, &path)
    };
    let words = face(server.spec.class.bmc);
    let answer = match effect {
        None => serve(server, request).await?,
        Some(Effect::Delay { ms }) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            serve(server, request).await?
        }
        Some(Effect::Status { status, retry_after }) => {
            let mut answer =
                refused(words, &Refusal::new(status, "GeneralError", "A fault of the simulator."));
            if let Some(seconds) = retry_after {
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            answer
        }
        Some(Effect::DoneButStatus { status }) => {
            serve(server, request).await?;
            refused(words, &Refusal::new(status, "GeneralError", "A fault of the simulator."))
        }
        Some(Effect::Close) => return Err(Unreachable),
        Some(Effect::DoneButClose) => {
            serve(server, request).await?;
            return Err(Unreachable);
        }
        Some(Effect::DoneButRestart { ms }) => {
            serve(server, request).await?;
            let mut inner = server.lock();
            inner.restarts_until = Some(Instant::now() + Duration::from_millis(ms));
            inner.sessions.clear();
            return Err(Unreachable);
        }
        Some(Effect::Truncated) => {
            changed(serve(server, request).await?, |text| {
                let half = text.len() / 2;
                text.slice(..half)
            })
            .await
        }
        Some(Effect::NotJson) => {
            changed(serve(server, request).await?, |_| Bytes::from_static(b"<html>Please wait.</html>")).await
        }
        Some(Effect::Without { places }) => {
            edited(serve(server, request).await?, |value| rules::without(value, &places)).await
        }
        Some(Effect::Merged { patch }) => {
            edited(serve(server, request).await?, |value| rules::merge(value, &patch)).await
        }
        Some(Effect::Trickle { bytes, chunk, pause_ms }) => {
            return Ok(trickle(bytes, chunk, Duration::from_millis(pause_ms)));
        }
    };
    Ok(answer.map(Full::boxed_unsync))
}

/// The answer with another body, if it has one.
async fn changed(answer: Answer, change: impl FnOnce(Bytes) -> Bytes) -> Answer {
    let (parts, body) = answer.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let bytes = if bytes.is_empty() { bytes } else { change(bytes) };
    Response::from_parts(parts, Full::new(bytes))
}

async fn edited(answer: Answer, edit: impl FnOnce(&mut Value)) -> Answer {
    changed(answer, |bytes| match serde_json::from_slice::<Value>(&bytes) {
        Ok(mut value) => {
            edit(&mut value);
            Bytes::from(value.to_string())
        }
        Err(_) => bytes,
    })
    .await
}

/// A body of white space, in pieces.
fn trickle(bytes: u64, chunk: u32, pause: Duration) -> SlowAnswer {
    let chunk = Bytes::from(vec![b' '; chunk.clamp(1, 1 << 20) as usize]);
    let pieces = futures::stream::unfold(bytes, move |left| {
        let chunk = chunk.clone();
        async move {
            if left == 0 {
                return None;
            }
            if left < bytes {
                tokio::time::sleep(pause).await;
            }
            let now = (chunk.len() as u64).min(left);
            let piece = chunk.slice(..usize::try_from(now).unwrap_or(0));
            Some((Ok::<_, Infallible>(Frame::data(piece)), left - now))
        }
    });
    let mut answer = Response::new(StreamBody::new(pieces).boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

async fn serve(server: &Arc<Server>, request: Request<Incoming>) -> Result<Answer, Unreachable> {
    let faults = server.faults();
    if let Some(delay) = faults.bmc_delay_ms {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    match faults.bmc {
        Some(BmcFault::Unreachable) => return Err(Unreachable),
        Some(BmcFault::Hangs) => {
            server.fault_ends().await;
            return Err(Unreachable);
        }
        Some(BmcFault::Unavailable) => {
            let busy = Refusal::new(503, "ServiceTemporarilyUnavailable", "The service is busy.");
            return Ok(refused(face(server.spec.class.bmc), &busy));
        }
        Some(BmcFault::Garbage) => {
            return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "<html>Internal Server Error</html>"));
        }
        None => {}
    }
    let (parts, body) = request.into_parts();
    let collected = tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_LIMIT).collect()).await;
    let Ok(Ok(body)) = collected else {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the request body is too large or too slow"));
    };
    let path = parts.uri.path();
    let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    Ok(respond(server, &parts.method, path, &parts.headers, &body.to_bytes()))
}

fn respond(server: &Arc<Server>, method: &Method, path: &str, headers: &HeaderMap, body: &Bytes) -> Answer {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let words = face(server.spec.class.bmc);
    let mut inner = server.lock();
    if reads {
        inner.counters.reads += 1;
    }
    if *method == Method::POST && path == SESSIONS {
        return login(server, &mut inner, body);
    }
    let public = reads && resources::is_public(path);
    if !public && !authorised(server, &mut inner, headers) {
        inner.counters.refused += 1;
        if headers.contains_key(header::AUTHORIZATION) {
            inner.journal.push(JournalEvent::Login { ok: false });
        }
        let refusal =
            Refusal::new(401, "NoValidSession", "There is no valid session, or the credentials are wrong.");
        let mut answer = refused(words, &refusal);
        let challenge = HeaderValue::from_static("Basic realm=\"BMC\"");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        return answer;
    }
    if reads {
        return read(server, &inner, path, headers, *method == Method::HEAD);
    }
    if *method == Method::DELETE
        && let Some(id) = path.strip_prefix(SESSIONS).and_then(|id| id.strip_prefix('/')?.parse().ok())
    {
        let gone = inner.sessions.close(id);
        return if gone { empty(StatusCode::NO_CONTENT) } else { refused(words, &no_resource(path)) };
    }
    inner.counters.writes += 1;
    if let Some(rest) = path.strip_prefix(SUBSCRIPTIONS)
        && let Some(rules) = words.events.as_ref().filter(|rules| rules.enabled)
    {
        let answer = subscription(words, &mut inner.subscriptions, rules, method, rest, body);
        inner.journal.push(JournalEvent::Write {
            method: method.to_string(),
            path: path.to_owned(),
            body: requests::redacted(body),
            status: answer.status().as_u16(),
        });
        return answer;
    }
    let plain = words.plain_path(path).ok_or_else(|| no_resource(path));
    let outcome = precondition(server, &inner, method, path, headers)
        .and(plain)
        .and_then(|plain| requests::parse(words, method.as_str(), &plain, body))
        .and_then(|command| execute(server, &mut inner, command));
    let answer = match outcome {
        Ok(()) => done(words),
        Err(refusal) => refused(words, &refusal),
    };
    inner.journal.push(JournalEvent::Write {
        method: method.to_string(),
        path: path.to_owned(),
        body: requests::redacted(body),
        status: answer.status().as_u16(),
    });
    answer
}

/// Makes or ends a subscription; `rest` is what of the path comes after the collection.
fn subscription(
    words: &Face,
    all: &mut Subscriptions,
    rules: &Events,
    method: &Method,
    rest: &str,
    body: &Bytes,
) -> Answer {
    let id = rest.strip_prefix('/').and_then(|id| id.parse().ok());
    match (method, id) {
        (&Method::POST, None) if rest.is_empty() => match all.make(rules, body) {
            Ok(id) => {
                let mut answer = empty(StatusCode::CREATED);
                if let Ok(location) = HeaderValue::from_str(&format!("{SUBSCRIPTIONS}/{id}")) {
                    answer.headers_mut().insert(header::LOCATION, location);
                }
                answer
            }
            Err(refusal) => refused(words, &refusal),
        },
        (&Method::DELETE, Some(id)) if all.end(id) => done(words),
        (&Method::DELETE, _) => refused(words, &no_resource(rest)),
        _ => refused(
            words,
            &Refusal::new(405, "OperationNotAllowed", format!("{method} is not allowed here.")),
        ),
    }
}

fn execute(server: &Arc<Server>, inner: &mut Inner, command: Command) -> Result<(), Refusal> {
    match command {
        Command::Reset(does) => {
            let Some(reset) = does.reset(inner.life.power) else { return Ok(()) };
            inner.life.accepts(reset).map_err(|_| {
                let message = format!("{reset:?} is not possible while the power is {:?}.", inner.life.power);
                Refusal::new(409, "ActionNotSupported", message)
            })?;
            server.reset(inner, reset);
        }
        Command::Boot(patch) => patch.apply(face(server.spec.class.bmc), &mut inner.life)?,
        Command::AssetTag(tag) => inner.asset_tag = tag,
        Command::Insert(url) => {
            if inner.life.media.is_some() {
                let message = "The drive holds a medium; eject it first.";
                return Err(Refusal::new(409, "ResourceInUse", message));
            }
            inner.life.media = Some(url);
        }
        Command::Eject => inner.life.media = None,
        Command::ResetManager => inner.sessions.clear(),
        Command::Nothing => {}
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    user_name: String,
    password: String,
}

fn login(server: &Server, inner: &mut Inner, body: &[u8]) -> Answer {
    let words = face(server.spec.class.bmc);
    let given: Option<Credentials> = serde_json::from_slice(body).ok();
    let ok = given.is_some_and(|given| right(server, inner, &given.user_name, &given.password));
    inner.journal.push(JournalEvent::Login { ok });
    if !ok {
        inner.counters.refused += 1;
        let why = "The user name or the password is wrong.";
        return refused(words, &Refusal::new(401, "ResourceAtUriUnauthorized", why));
    }
    let opened = match inner.faults.session_table_full {
        true => None,
        false => inner.sessions.open(Instant::now(), &words.sessions),
    };
    let Some((id, token)) = opened else {
        return refused(words, &Refusal::new(503, "SessionLimitExceeded", "No session is free."));
    };
    inner.counters.logins += 1;
    let mut answer = json_answer(StatusCode::CREATED, &resources::session(&server.spec, id));
    if let Ok(token) = HeaderValue::from_str(&token) {
        answer.headers_mut().insert(TOKEN, token);
    }
    let host = match words.sessions.absolute_location {
        true => format!("https://{}", server.spec.bmc_ip),
        false => String::new(),
    };
    if let Ok(location) = HeaderValue::from_str(&format!("{host}{SESSIONS}/{id}")) {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    answer
}

fn right(server: &Server, inner: &Inner, user: &str, password: &str) -> bool {
    let wanted = inner.faults.password.as_ref().unwrap_or(&server.spec.password);
    user == server.spec.username && password == wanted
}

fn authorised(server: &Server, inner: &mut Inner, headers: &HeaderMap) -> bool {
    if let Some(token) = headers.get(TOKEN).and_then(|token| token.to_str().ok()) {
        return inner.sessions.accepts(token, Instant::now(), &face(server.spec.class.bmc).sessions);
    }
    if inner.faults.basic_auth_off {
        return false;
    }
    let basic = headers.get(header::AUTHORIZATION).and_then(|value| session::basic(value.to_str().ok()?));
    basic.is_some_and(|(user, password)| right(server, inner, &user, &password))
}

fn look(server: &Server, inner: &Inner, path: &str) -> Option<Value> {
    let sessions = inner.sessions.ids();
    let offset = jiff::SignedDuration::from_secs(inner.faults.clock_offset_seconds.unwrap_or(0));
    let now = jiff::Timestamp::now();
    let now = now.checked_add(offset).unwrap_or(now);
    let view = View {
        face: face(server.spec.class.bmc),
        spec: &server.spec,
        life: &inner.life,
        power: inner.reported_power(Instant::now()),
        sessions: &sessions,
        subscriptions: inner.subscriptions.all(),
        now: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        asset_tag: &inner.asset_tag,
        host_name: &inner.os.hostname,
    };
    resources::get(&view, path)
}

fn read(server: &Server, inner: &Inner, path: &str, headers: &HeaderMap, head: bool) -> Answer {
    let words = face(server.spec.class.bmc);
    let Some(mut value) = look(server, inner, path) else { return refused(words, &no_resource(path)) };
    let tag = etag(&value, words);
    if let Some(tag) = tag.as_ref().filter(|_| words.etag.in_body) {
        value["@odata.etag"] = tag.as_str().into();
    }
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut answer = if tag.as_deref().zip(known).is_some_and(|(tag, known)| matches(known, tag)) {
        empty(StatusCode::NOT_MODIFIED)
    } else if head {
        empty(StatusCode::OK)
    } else {
        json_answer(StatusCode::OK, &value)
    };
    if let Some(Ok(tag)) = tag.as_deref().map(HeaderValue::from_str) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    let allow = if path.starts_with(ROOT) { "GET, HEAD, PATCH" } else { "GET, HEAD" };
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    answer
}

/// `If-Match`: the resource must still be what the client saw.
fn precondition(
    server: &Server,
    inner: &Inner,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let words = face(server.spec.class.bmc);
    let Some(wanted) = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()) else {
        if words.etag.demanded && *method == Method::PATCH {
            let message =
                "The request did not provide the required precondition, such as an If-Match header.";
            return Err(Refusal::new(428, "PreconditionHeaderMissing", message));
        }
        return Ok(());
    };
    let Some(value) = look(server, inner, path) else { return Ok(()) };
    if etag(&value, words).is_none_or(|tag| matches(wanted, &tag)) {
        return Ok(());
    }
    Err(Refusal::new(412, "PreconditionFailed", "The resource has changed since its ETag was read."))
}

fn etag(value: &Value, words: &Face) -> Option<String> {
    let weak = match words.etag.form {
        TagForm::None => return None,
        TagForm::Strong => "",
        TagForm::Weak => "W/",
    };
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    Some(format!("{weak}\"{:016x}\"", hasher.finish()))
}

fn matches(list: &str, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim_start_matches("W/").to_owned();
    list.split(',').map(str::trim).any(|one| one == "*" || opaque(one) == opaque(tag))
}

fn no_resource(path: &str) -> Refusal {
    Refusal::new(404, "ResourceMissingAtURI", format!("There is no resource {path}."))
}

fn refused(words: &Face, refusal: &Refusal) -> Answer {
    let Refusal { status, message_id, message } = refusal;
    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(status, &words.refusal(message_id, message))
}

/// The answer to a change that was made.
fn done(words: &Face) -> Answer {
    let status = StatusCode::from_u16(words.success.status).unwrap_or(StatusCode::NO_CONTENT);
    match &words.success.body {
        Some(body) => json_answer(status, body),
        None => empty(status),
    }
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    build(status, Some("application/json"), value.to_string())
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    build(status, Some("text/html"), text.to_owned())
}

fn empty(status: StatusCode) -> Answer {
    build(status, None, String::new())
}

fn build(status: StatusCode, content_type: Option<&'static str>, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    headers.insert(HeaderName::from_static("odata-version"), HeaderValue::from_static("4.0"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}
