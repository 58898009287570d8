//! Who we are to a BMC: a session where it has them, basic authentication where it has not, and a pause after a refusal.
//!
//! A session is made when it is first needed and shared by all requests. It is deleted when the BMC is forgotten or its
//! options change; otherwise it is left to the BMC's own idle timeout, and made anew when the token is no longer taken.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::http::{Answer, Http, Request, X_AUTH_TOKEN};
use super::json as js;
use crate::breaker::Refusals;
use crate::error::BmcError;
use crate::tls::sha256_of;
use crate::types::Credentials;

/// Where sessions are made when the service root does not say.
pub(crate) const DEFAULT_SESSIONS: &str = "/redfish/v1/SessionService/Sessions";

/// How long basic authentication is used after a BMC had no session slot free.
const BASIC_FOR: Duration = Duration::from_secs(10 * 60);

/// The identity that requests to one BMC carry.
#[derive(Debug)]
pub(crate) struct Login {
    credentials: Option<Credentials>,
    refusal_key: [u8; 32],
    refusals: Arc<Refusals>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts logins, so that requests that failed together log in once.
    generation: u64,
    auth: Option<Auth>,
    /// Until when basic authentication is not tried, since it was refused while no session slot was free.
    no_basic_until: Option<Instant>,
}

#[derive(Debug)]
enum Auth {
    Session {
        token: HeaderValue,
        location: Option<Box<str>>,
    },
    /// Until when, if sessions are worth another try.
    Basic {
        until: Option<Instant>,
    },
}

/// What a request carries, and which login it came from.
#[derive(Debug, Clone)]
pub(crate) struct Badge {
    generation: u64,
    pub(crate) header: Option<(HeaderName, HeaderValue)>,
}

/// The identities of all BMCs: hosts behind one BMC that name the same user share a session. BMCs have few of them.
#[derive(Debug, Default)]
pub(crate) struct Logins(std::sync::Mutex<HashMap<[u8; 32], Weak<Login>>>);

impl Logins {
    /// The identity of a user at an address.
    pub(crate) fn get(
        &self,
        address: &str,
        credentials: Option<Credentials>,
        refusals: Arc<Refusals>,
    ) -> Arc<Login> {
        let login = Login::new(address, credentials, refusals);
        if login.credentials.is_none() {
            return Arc::new(login);
        }
        let mut logins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = logins.get(&login.refusal_key).and_then(Weak::upgrade) {
            return shared;
        }
        if logins.len() >= 64 && logins.len() == logins.capacity() {
            logins.retain(|_, login| login.strong_count() > 0);
        }
        let login = Arc::new(login);
        logins.insert(login.refusal_key, Arc::downgrade(&login));
        login
    }
}

impl Login {
    fn new(address: &str, credentials: Option<Credentials>, refusals: Arc<Refusals>) -> Self {
        let refusal_key = match &credentials {
            Some(Credentials { username, password }) => {
                sha256_of(&[address.as_bytes(), username.as_bytes(), password.as_bytes()])
            }
            None => sha256_of(&[]),
        };
        Self { credentials, refusal_key, refusals, state: Mutex::default() }
    }

    /// What a request carries. `sessions` is where sessions are made. `stale`: a badge that was refused.
    pub(crate) async fn badge(
        &self,
        http: &Http,
        sessions: Option<&str>,
        stale: Option<&Badge>,
    ) -> Result<Badge, BmcError> {
        let Some(credentials) = &self.credentials else {
            return match stale {
                None => Ok(Badge { generation: 0, header: None }),
                Some(_) => Err(BmcError::Unauthorized {
                    message: "it wants credentials and the host has none".into(),
                    retry_at: None,
                }),
            };
        };
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(stale) = stale
            && stale.generation == state.generation
        {
            match state.auth.take() {
                // The login was not refused, so this says that it is switched off, not that the password is wrong; but
                // who knows: it is not tried again soon.
                Some(Auth::Basic { until: Some(_) }) => {
                    state.no_basic_until = Some(now + BASIC_FOR);
                    return Err(full(http));
                }
                // The password itself was refused.
                Some(Auth::Basic { until: None }) => {
                    return Err(self.refused(now, "basic authentication was refused".into()));
                }
                Some(Auth::Session { .. }) | None => {}
            }
        }
        if let Some(Auth::Basic { until: Some(until) }) = state.auth
            && now >= until
        {
            state.auth = None;
        }
        if state.auth.is_none() {
            if let Some(until) = self.refusals.until(&self.refusal_key, now) {
                return Err(BmcError::Unauthorized {
                    message: "they were refused before".into(),
                    retry_at: Some(until),
                });
            }
            let auth = self.log_in(http, sessions, credentials).await?;
            if matches!(auth, Auth::Basic { until: Some(_) })
                && state.no_basic_until.is_some_and(|until| now < until)
            {
                return Err(full(http));
            }
            state.auth = Some(auth);
            state.generation += 1;
        }
        let header = match &state.auth {
            Some(Auth::Session { token, .. }) => Some((X_AUTH_TOKEN, token.clone())),
            _ => Some((header::AUTHORIZATION, basic(credentials))),
        };
        Ok(Badge { generation: state.generation, header })
    }

    async fn log_in(
        &self,
        http: &Http,
        sessions: Option<&str>,
        credentials: &Credentials,
    ) -> Result<Auth, BmcError> {
        let Some(sessions) = sessions else {
            return Ok(Auth::Basic { until: None });
        };
        http.desk.counters.login();
        let body = json!({"UserName": credentials.username, "Password": credentials.password});
        let request = Request { method: Method::POST, link: sessions, body: Some(&body), etag: None };
        let answer = http.send(&request, None).await?;
        if answer.ok() {
            return Ok(match token(&answer) {
                Some(token) => Auth::Session { token, location: location(&answer) },
                None => Auth::Basic { until: None },
            });
        }
        let no_slot =
            js::has_message(answer.json(), &["SessionLimitExceeded", "CreateLimitReachedForResource"]);
        match answer.status.as_u16() {
            _ if no_slot => {
                tracing::debug!(bmc = %http.base, "no session slot is free: using basic authentication");
                Ok(Auth::Basic { until: Some(Instant::now() + BASIC_FOR) })
            }
            401 | 403 => Err(self.refused(Instant::now(), answer.message())),
            404 | 405 | 501 => Ok(Auth::Basic { until: None }),
            // Some answer a wrong password with this.
            400 if js::has_message(
                answer.json(),
                &["NoValidSession", "ResourceAtUriUnauthorized", "UnauthorizedLoginAttempt"],
            ) =>
            {
                Err(self.refused(Instant::now(), answer.message()))
            }
            _ => Err(answer.into_error(&Method::POST)),
        }
    }

    fn refused(&self, now: Instant, message: String) -> BmcError {
        BmcError::Unauthorized { message, retry_at: Some(self.refusals.refuse(self.refusal_key, now)) }
    }

    /// Ends the session, if there is one.
    pub(crate) async fn log_out(&self, http: &Http) {
        let auth = self.state.lock().await.auth.take();
        if let Some(Auth::Session { token, location: Some(location) }) = auth {
            let request = Request { method: Method::DELETE, link: &location, body: None, etag: None };
            if let Err(error) = http.send(&request, Some(&(X_AUTH_TOKEN, token))).await {
                tracing::debug!(bmc = %http.base, %error, "the session was left to expire");
            }
        }
    }
}

fn full(http: &Http) -> BmcError {
    BmcError::Busy {
        status: StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        url: http.address(),
        message: "all its sessions are taken, and it takes no basic authentication: log others out"
            .to_owned(),
        retry_after: None,
    }
}

fn token(answer: &Answer) -> Option<HeaderValue> {
    let mut token = answer.headers.get(&X_AUTH_TOKEN)?.clone();
    token.set_sensitive(true);
    (!token.is_empty()).then_some(token)
}

fn location(answer: &Answer) -> Option<Box<str>> {
    answer
        .header(&header::LOCATION)
        .map(str::to_owned)
        .or_else(|| js::string(answer.json(), "/@odata.id"))
        .map(Into::into)
}

fn basic(credentials: &Credentials) -> HeaderValue {
    let text = STANDARD.encode(format!("{}:{}", credentials.username, credentials.password));
    // Base64 is always a valid header.
    let mut value =
        HeaderValue::from_str(&format!("Basic {text}")).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}
