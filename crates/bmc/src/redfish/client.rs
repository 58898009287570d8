//! Requests as the identity of a BMC: logged in, few at a time, with one renewal of a token and patience with a BMC
//! that says that it is busy.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::http::{Answer, Http, Request};
use super::json;
use super::record::Recorder;
use super::session::{DEFAULT_SESSIONS, Login};
use super::task::{self, Outcome};
use crate::error::BmcError;
use crate::quirks::{IfMatch, Kind};

/// The service root as the standard names it; everything else is found by links.
const SERVICE_ROOT: &str = "/redfish/v1/";
const DEFAULT_SYSTEMS: &str = "/redfish/v1/Systems";

/// How often a read that was answered "busy" is repeated.
const BUSY_RETRIES: u32 = 2;
/// Most members of a collection that are looked at.
const MEMBERS: usize = 1024;
/// Longest pause between two reads, whatever `Retry-After` says.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What the service root says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// Where sessions are made; `None`: the service has none.
    pub(crate) sessions: Option<Box<str>>,
    /// The collection of systems.
    pub(crate) systems: Box<str>,
    /// The collection of managers.
    pub(crate) managers: Option<Box<str>>,
    /// Where events are subscribed to.
    pub(crate) events: Option<Box<str>>,
    /// Whether collections can be had with their members.
    pub(crate) expand: bool,
}

/// A resource as it was read.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) path: String,
    pub(crate) json: Value,
    pub(crate) etag: Option<String>,
}

/// A BMC that one is logged in to.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) http: Http,
    pub(crate) login: Arc<Login>,
    /// What kind of BMC it is, and the rules that follow.
    pub(crate) kind: Kind,
    /// Keeps what is read, for a capture.
    pub(crate) recorder: Option<Recorder>,
    requests: Semaphore,
    root: Mutex<Option<Arc<Root>>>,
}

impl Client {
    pub(crate) fn new(http: Http, login: Arc<Login>, kind: Kind) -> Self {
        let requests = Semaphore::new(http.desk.limits.concurrency.max(1));
        Self { http, login, kind, recorder: None, requests, root: Mutex::default() }
    }

    /// The service root; read once.
    pub(crate) async fn root(&self) -> Result<Arc<Root>, BmcError> {
        if let Some(root) = self.root.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(root);
        }
        let request = Request { method: Method::GET, link: SERVICE_ROOT, body: None, etag: None };
        let _permit = self.requests.acquire().await;
        let mut answer = self.http.send(&request, None).await?;
        // Against the standard the root may want to know who asks. Then sessions are out of reach as well.
        let closed = matches!(answer.status.as_u16(), 401 | 403);
        if closed {
            let badge = self.login.badge(&self.http, None, None).await?;
            answer = self.http.send(&request, badge.header.as_ref()).await?;
            if answer.status == StatusCode::UNAUTHORIZED {
                self.login.badge(&self.http, None, Some(&badge)).await?;
            }
        }
        if answer.status == StatusCode::NOT_FOUND {
            return Err(BmcError::NotSupported { what: "Redfish: it has no service root".into() });
        }
        self.record(SERVICE_ROOT, &answer);
        let mut json = object(answer)?;
        self.kind.learn(|identity| identity.learn_root(&json));
        self.kind.active().mend(SERVICE_ROOT, &mut json);
        let mut root = root_of(&json);
        if closed {
            root.sessions = None;
        }
        let root = Arc::new(root);
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = Some(root.clone());
        Ok(root)
    }

    /// Forgets what the service root said.
    pub(crate) fn forget_root(&self) {
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Sends a request as whom we are. Bad statuses are answers, except for a refusal of who we are.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Answer, BmcError> {
        let root = self.root().await?;
        let (mut stale, mut busy) = (None, 0);
        loop {
            self.http.desk.pace().await;
            let answer = {
                let _permit = self.requests.acquire().await;
                let badge = self.login.badge(&self.http, root.sessions.as_deref(), stale.as_ref()).await?;
                let answer = self.http.send(request, badge.header.as_ref()).await?;
                if answer.status == StatusCode::UNAUTHORIZED {
                    if stale.is_some() {
                        return Err(answer.into_error(&request.method));
                    }
                    stale = Some(badge);
                    continue;
                }
                answer
            };
            let is_busy = matches!(answer.status.as_u16(), 429 | 503);
            if !is_busy || request.method != Method::GET || busy >= BUSY_RETRIES {
                return Ok(answer);
            }
            busy += 1;
            let pause = answer.retry_after().unwrap_or(Duration::from_millis(500 * u64::from(busy)));
            sleep(pause.min(LONGEST_PAUSE)).await;
        }
    }

    fn record(&self, link: &str, answer: &Answer) {
        if let Some(recorder) = &self.recorder {
            let etag = answer.header(&header::ETAG);
            recorder.note(link, answer.status.as_u16(), etag, answer.body.as_ref().ok());
        }
    }

    /// Reads a resource, and patches it by the rules that fit the BMC.
    pub(crate) async fn get(&self, link: &str) -> Result<Resource, BmcError> {
        let mut resource = self.get_raw(link).await?;
        self.kind.active().mend(link, &mut resource.json);
        Ok(resource)
    }

    /// Reads a resource as the BMC has it.
    pub(crate) async fn get_raw(&self, link: &str) -> Result<Resource, BmcError> {
        let answer = self.send(&Request { method: Method::GET, link, body: None, etag: None }).await?;
        self.record(link, &answer);
        let header = answer.header(&header::ETAG).map(str::to_owned);
        let json = object(answer)?;
        let etag = header.or_else(|| json::string(&json, "/@odata.etag"));
        Ok(Resource { path: link.to_owned(), json, etag })
    }

    /// Reads a resource that is worth one fact: `None` when the BMC has it not or answers nonsense. Fails only where
    /// the BMC as a whole does not answer.
    pub(crate) async fn fact(&self, link: &str) -> Result<Option<Resource>, BmcError> {
        one_fact(self.get(link).await)
    }

    /// The members of a collection, as links; page by page.
    pub(crate) async fn members(&self, link: &str) -> Result<Vec<json::Member>, BmcError> {
        let mut members = Vec::new();
        let mut next = Some(link.to_owned());
        for _ in 0..20 {
            let Some(link) = next else { break };
            let page = self.get(&link).await?;
            members.extend(json::members(&page.json, "/Members"));
            if members.len() >= MEMBERS {
                tracing::debug!(bmc = %self.http.base, link, "only the first {MEMBERS} members are looked at");
                members.truncate(MEMBERS);
                break;
            }
            next = json::link(&page.json, "/Members@odata.nextLink");
        }
        let active = self.kind.active();
        for member in &mut members {
            if let Some(inline) = &mut member.inline {
                active.mend(&member.path, inline);
            }
        }
        Ok(members)
    }

    /// Posts the first of some bodies that is not refused as a bad request, and waits for the task if there is one.
    pub(crate) async fn post(&self, link: &str, bodies: &[Value], what: &str) -> Result<(), BmcError> {
        let mut last = None;
        for body in bodies {
            let answer =
                self.send(&Request { method: Method::POST, link, body: Some(body), etag: None }).await?;
            if answer.ok() {
                return self.settle(answer, what).await;
            }
            let bad_request = is_bad_request(&answer);
            let error = refusal(answer, &Method::POST, what);
            if !bad_request {
                return Err(error);
            }
            last = Some(error);
        }
        Err(last.unwrap_or_else(|| BmcError::NotSupported { what: what.to_owned() }))
    }

    /// Deletes a resource; one that is gone already is no error.
    pub(crate) async fn delete(&self, link: &str, what: &str) -> Result<(), BmcError> {
        let answer = self.send(&Request { method: Method::DELETE, link, body: None, etag: None }).await?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(()),
            _ if answer.ok() => Ok(()),
            _ => Err(refusal(answer, &Method::DELETE, what)),
        }
    }

    /// Posts a body and does not wait for what it starts; a task that failed at once is an error.
    pub(crate) async fn start(&self, link: &str, body: &Value, what: &str) -> Result<(), BmcError> {
        let answer = self.send(&Request { method: Method::POST, link, body: Some(body), etag: None }).await?;
        if !answer.ok() {
            return Err(refusal(answer, &Method::POST, what));
        }
        match task::outcome(answer.status, answer.json()) {
            Outcome::Failed { state, message } => {
                Err(BmcError::TaskFailed { what: what.to_owned(), state, message })
            }
            _ => Ok(()),
        }
    }

    /// Patches a resource with the first of some bodies that is not refused as a bad request, and waits for the task
    /// if there is one. What changed in between is read again once.
    pub(crate) async fn patch(
        &self,
        resource: &Resource,
        bodies: &[Value],
        what: &str,
    ) -> Result<(), BmcError> {
        let link = resource.path.as_str();
        let any = || Some("*".to_owned());
        let mut etag = match self.kind.active().manner.if_match {
            None => resource.etag.clone(),
            Some(IfMatch::None) => None,
            Some(IfMatch::Any) => any(),
            Some(IfMatch::Fresh) => self.get(link).await?.etag.or_else(any),
        };
        let mut reread = false;
        let mut last = None;
        for body in bodies {
            loop {
                let request =
                    Request { method: Method::PATCH, link, body: Some(body), etag: etag.as_deref() };
                let answer = self.send(&request).await?;
                if answer.ok() {
                    return self.settle(answer, what).await;
                }
                if answer.status == StatusCode::PRECONDITION_REQUIRED && !reread {
                    reread = true;
                    etag = self.get(link).await?.etag.filter(|_| etag.is_none()).or_else(any);
                    continue;
                }
                if answer.status == StatusCode::PRECONDITION_FAILED && !reread {
                    reread = true;
                    let fresh = self.get(link).await?.etag;
                    // Some refuse the very tag that they gave, e.g. a weak one: then it is of no use.
                    etag = if fresh == etag { None } else { fresh };
                    continue;
                }
                let bad_request = is_bad_request(&answer);
                let error = refusal(answer, &Method::PATCH, what);
                if !bad_request {
                    return Err(error);
                }
                last = Some(error);
                break;
            }
        }
        Err(last.unwrap_or_else(|| BmcError::NotSupported { what: what.to_owned() }))
    }

    /// Waits for the task that an answer speaks of. The deadline is the operation's.
    async fn settle(&self, mut answer: Answer, what: &str) -> Result<(), BmcError> {
        if answer.status != StatusCode::ACCEPTED {
            return Ok(());
        }
        let monitor = answer
            .header(&header::LOCATION)
            .map(str::to_owned)
            .or_else(|| json::string(answer.json(), "/TaskMonitor"))
            .or_else(|| json::string(answer.json(), "/@odata.id"));
        let Some(monitor) = monitor else { return Ok(()) };
        loop {
            match task::outcome(answer.status, answer.json()) {
                Outcome::Done => return Ok(()),
                Outcome::Failed { state, message } => {
                    return Err(BmcError::TaskFailed { what: what.to_owned(), state, message });
                }
                Outcome::Running => {}
            }
            let pause = answer.retry_after().unwrap_or(self.http.desk.limits.task_poll);
            sleep(pause.min(LONGEST_PAUSE)).await;
            let request = Request { method: Method::GET, link: &monitor, body: None, etag: None };
            answer = self.send(&request).await?;
        }
    }
}

/// Whether an error costs one fact only.
pub(crate) fn one_fact<T>(result: Result<T, BmcError>) -> Result<Option<T>, BmcError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(
            error
            @ (BmcError::Unexpected { .. } | BmcError::NotSupported { .. } | BmcError::Malformed { .. }),
        ) => {
            tracing::debug!(%error, "one fact is missing");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The service root, by its resource.
pub(crate) fn root_of(root: &Value) -> Root {
    let sessions = json::link(root, "/Links/Sessions")
        .or_else(|| root.get("SessionService").map(|_| DEFAULT_SESSIONS.to_owned()));
    // `$expand=.` means: the members, not what they link to.
    let expand = "/ProtocolFeaturesSupported/ExpandQuery";
    Root {
        sessions: sessions.map(Into::into),
        systems: json::link(root, "/Systems").unwrap_or_else(|| DEFAULT_SYSTEMS.into()).into(),
        managers: json::link(root, "/Managers").map(Into::into),
        events: json::link(root, "/EventService").map(Into::into),
        expand: json::boolean(root, &format!("{expand}/NoLinks")) == Some(true),
    }
}

/// The JSON object that a good answer holds.
fn object(answer: Answer) -> Result<Value, BmcError> {
    if !answer.ok() {
        return Err(answer.into_error(&Method::GET));
    }
    let url = answer.url.path().to_owned();
    match answer.body {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(BmcError::Malformed { url, message: "it is no JSON object".into() }),
        Err(text) => Err(BmcError::Malformed { url, message: text.to_string() }),
    }
}

fn is_bad_request(answer: &Answer) -> bool {
    matches!(answer.status.as_u16(), 400 | 422)
}

/// The error of a refused change; one that the BMC does not know at all is not supported.
fn refusal(answer: Answer, method: &Method, what: &str) -> BmcError {
    match answer.status.as_u16() {
        405 | 501 => BmcError::NotSupported { what: format!("{what}: {}", answer.message()) },
        _ => answer.into_error(method),
    }
}
