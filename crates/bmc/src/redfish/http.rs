//! One HTTP request and its answer: deadline, size limit, redirects on the same host only, and errors that say what
//! happened. Knows nothing of Redfish but where its messages stand.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use url::Url;

use super::json;
use crate::desk::Desk;
use crate::error::BmcError;
use crate::tls::SharedClient;
use tokio::time::Instant;

/// Most redirects that are followed for one request.
const REDIRECTS: usize = 3;

pub(crate) const X_AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const ODATA_VERSION: HeaderName = HeaderName::from_static("odata-version");

/// What requests to one BMC have in common.
#[derive(Debug)]
pub(crate) struct Http {
    pub(crate) client: Arc<SharedClient>,
    pub(crate) base: Url,
    pub(crate) desk: Arc<Desk>,
    /// Bodies are sent as forms, not as JSON.
    pub(crate) forms: bool,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    /// A link as the BMC wrote it.
    pub(crate) link: &'a str,
    pub(crate) body: Option<&'a Value>,
    pub(crate) etag: Option<&'a str>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) url: Url,
    /// The body; `Null` where there is none.
    pub(crate) body: Result<Value, NotJson>,
}

impl Answer {
    /// A header as text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How long to wait before the next try, as the BMC says.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.header(&header::RETRY_AFTER)?.trim().parse().ok().map(|s: u64| Duration::from_secs(s.min(3600)))
    }

    /// The body as JSON; `Null` where it is none.
    pub(crate) fn json(&self) -> &Value {
        self.body.as_ref().unwrap_or(&Value::Null)
    }

    /// What it says to a person.
    pub(crate) fn message(&self) -> String {
        match &self.body {
            Ok(value) => json::message(value)
                .unwrap_or_else(|| self.status.canonical_reason().unwrap_or("no message").into()),
            Err(text) => text.start.clone(),
        }
    }

    /// Whether it is a good answer.
    pub(crate) fn ok(&self) -> bool {
        self.status.is_success()
    }

    /// The error that a bad answer means.
    pub(crate) fn into_error(self, method: &Method) -> BmcError {
        let (status, url, message) = (self.status.as_u16(), self.url.path().to_owned(), self.message());
        let busy = matches!(status, 409 | 412 | 423 | 429 | 503)
            || json::has_message(
                self.json(),
                &["ResourceInUse", "ServiceTemporarilyUnavailable", "ResourceInStandby", "OperationTimeout"],
            );
        if status == 401 {
            BmcError::Unauthorized { message, retry_at: None }
        } else if busy {
            BmcError::Busy { status, url, message, retry_after: self.retry_after() }
        } else {
            BmcError::Unexpected { status, method: method.to_string(), url, message }
        }
    }
}

impl Http {
    /// `scheme://host:port`, for messages.
    pub(crate) fn address(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// A link of the BMC as a URL of this BMC. BMCs write absolute links with names and addresses by which they may not
    /// be reachable from here; only the path counts, and the credentials go to the BMC alone.
    pub(crate) fn resolve(&self, link: &str) -> Result<Url, BmcError> {
        let joined = self.base.join(link).map_err(|error| unusable(link, &error.to_string()))?;
        let mut url = self.base.clone();
        url.set_path(joined.path());
        url.set_query(joined.query());
        Ok(url)
    }

    /// Where a redirect leads, if it stays with the BMC.
    fn redirect(&self, from: &Url, location: &str) -> Result<Url, BmcError> {
        let url = from.join(location).map_err(|error| unusable(location, &error.to_string()))?;
        if url.origin() != self.base.origin() {
            return Err(unusable(
                from.path(),
                &format!("it redirects to another host ({url}), which is not followed"),
            ));
        }
        Ok(url)
    }

    /// Sends a request with this authentication. Bad statuses are answers, not errors.
    pub(crate) async fn send(
        &self,
        request: &Request<'_>,
        auth: Option<&(HeaderName, HeaderValue)>,
    ) -> Result<Answer, BmcError> {
        let mut url = self.resolve(request.link)?;
        for _ in 0..=REDIRECTS {
            let deadline = self.desk.limits.request;
            let answer = match tokio::time::timeout(deadline, self.once(request, &url, auth)).await {
                Ok(answer) => answer,
                Err(_) => Err(BmcError::Timeout {
                    what: format!("{} {}", request.method, url.path()),
                    after: deadline,
                }),
            };
            match &answer {
                Err(error @ (BmcError::Unreachable { .. } | BmcError::Timeout { .. })) => {
                    self.desk.breaker.failed(
                        Instant::now(),
                        &self.desk.limits,
                        rand::random(),
                        &error.to_string(),
                    );
                }
                // Also with a certificate that is not trusted.
                _ => self.desk.breaker.answered(),
            }
            let answer = answer?;
            let repeats = match answer.status.as_u16() {
                301 | 302 => matches!(request.method, Method::GET),
                307 | 308 => true,
                _ => false,
            };
            let Some(location) = answer.header(&header::LOCATION).filter(|_| repeats) else {
                return Ok(answer);
            };
            url = self.redirect(&url, location)?;
        }
        Err(BmcError::Malformed { url: url.path().to_owned(), message: "too many redirects".into() })
    }

    async fn once(
        &self,
        request: &Request<'_>,
        url: &Url,
        auth: Option<&(HeaderName, HeaderValue)>,
    ) -> Result<Answer, BmcError> {
        let mut response =
            self.exchange(request, url, auth).await.map_err(|error| self.transport_error(&error, url))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let too_large = || BmcError::Malformed {
            url: url.path().to_owned(),
            message: format!("it is larger than {} bytes", self.desk.limits.body),
        };
        if response.content_length().is_some_and(|length| length > self.desk.limits.body as u64) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.body_error(&error, url))? {
            if bytes.len() + chunk.len() > self.desk.limits.body {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, url: url.clone(), body: parse(&bytes) })
    }

    /// Sends a request. A read that met a connection which the BMC had just closed is sent once more, on a new one.
    async fn exchange(
        &self,
        request: &Request<'_>,
        url: &Url,
        auth: Option<&(HeaderName, HeaderValue)>,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let mut again = request.method == Method::GET;
        loop {
            self.desk.counters.request();
            match self.build(request, url, auth).send().await {
                Err(error) if again && !error.is_connect() && !error.is_timeout() => again = false,
                other => return other,
            }
        }
    }

    fn build(
        &self,
        request: &Request<'_>,
        url: &Url,
        auth: Option<&(HeaderName, HeaderValue)>,
    ) -> reqwest::RequestBuilder {
        let mut builder = self
            .client
            .http
            .request(request.method.clone(), url.clone())
            .header(header::ACCEPT, "application/json")
            .header(ODATA_VERSION, "4.0");
        if let Some((name, value)) = auth {
            builder = builder.header(name, value);
        }
        if let Some(etag) = request.etag {
            builder = builder.header(header::IF_MATCH, etag);
        }
        if let Some(body) = request.body {
            let (kind, text) = match self.forms {
                true => ("application/x-www-form-urlencoded", form(body)),
                false => ("application/json", body.to_string()),
            };
            builder = builder.header(header::CONTENT_TYPE, kind).body(text);
        }
        builder
    }

    fn transport_error(&self, error: &reqwest::Error, url: &Url) -> BmcError {
        let address = self.address();
        if let Some(message) = certificate_problem(error) {
            return BmcError::CertificateRejected { address, message };
        }
        if error.is_timeout() && !error.is_connect() {
            return BmcError::Timeout { what: url.path().to_owned(), after: self.desk.limits.request };
        }
        BmcError::Unreachable { address, message: root_cause(error) }
    }

    fn body_error(&self, error: &reqwest::Error, url: &Url) -> BmcError {
        BmcError::Malformed {
            url: url.path().to_owned(),
            message: format!("it was cut short: {}", root_cause(error)),
        }
    }
}

/// The texts of an object as a form.
fn form(body: &Value) -> String {
    let texts = body.as_object().into_iter().flatten();
    let texts = texts.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(texts).finish()
}

fn unusable(link: &str, message: &str) -> BmcError {
    BmcError::Malformed { url: link.chars().take(200).collect(), message: message.to_owned() }
}

/// A body that is no JSON.
#[derive(Debug)]
pub(crate) struct NotJson {
    error: String,
    start: String,
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is no JSON ({}) and begins with {:?}", self.error, self.start)
    }
}

/// The body as JSON, or its beginning where it is none.
fn parse(bytes: &[u8]) -> Result<Value, NotJson> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(160)]);
        NotJson { error: error.to_string(), start: start.chars().filter(|c| !c.is_control()).collect() }
    })
}

/// An error and what caused it, outermost first. An I/O error hides what it wraps from `source`.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let first: &(dyn StdError + 'static) = error;
    std::iter::successors(Some(first), |error| inner(*error))
}

fn inner<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
        None => error.source(),
    }
}

/// The innermost error: the outer ones repeat the URL.
fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// What is wrong with the certificate, if that is what failed.
fn certificate_problem(error: &reqwest::Error) -> Option<String> {
    causes(error).find_map(|cause| match cause.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(problem)) => Some(explain(problem)),
        Some(rustls::Error::NoCertificatesPresented) => Some("it presents none".into()),
        _ => None,
    })
}

/// What is wrong with a certificate, in words that say what to mend.
fn explain(problem: &rustls::CertificateError) -> String {
    use rustls::CertificateError as E;
    let words = match problem {
        E::UnknownIssuer | E::BadSignature => "it is signed by none of the trusted CAs",
        E::Expired | E::ExpiredContext { .. } => "it has expired, or the clock here is wrong",
        E::NotValidYet | E::NotValidYetContext { .. } => "it is not valid yet, or the clock here is wrong",
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "it is for another name than the address has"
        }
        E::ApplicationVerificationFailure => "its fingerprint is another than the one that is trusted",
        _ => return problem.to_string(),
    };
    format!("{words} ({problem})")
}
