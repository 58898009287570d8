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

use super::accounts;
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
            Some(Credentials { username, password, previous_password }) => {
                let previous = previous_password.as_deref().unwrap_or_default();
                sha256_of(&[address, username, password, previous].map(str::as_bytes))
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
            _ => Some((header::AUTHORIZATION, basic(&credentials.username, &credentials.password))),
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
        let answer = ask_for_session(http, sessions, &credentials.username, &credentials.password).await?;
        if answer.ok() {
            if must_change(&answer) {
                return Err(self.refused(Instant::now(), MUST_CHANGE.to_owned()));
            }
            return Ok(auth_of(&answer));
        }
        let no_slot =
            js::has_message(answer.json(), &["SessionLimitExceeded", "CreateLimitReachedForResource"]);
        match answer.status.as_u16() {
            _ if no_slot => {
                tracing::debug!(bmc = %http.base, "no session slot is free: using basic authentication");
                Ok(Auth::Basic { until: Some(Instant::now() + BASIC_FOR) })
            }
            401 | 403 => self.replace_password(http, sessions, credentials, answer.message()).await,
            404 | 405 | 501 => Ok(Auth::Basic { until: None }),
            // Some answer a wrong password with this.
            400 if js::has_message(
                answer.json(),
                &["NoValidSession", "ResourceAtUriUnauthorized", "UnauthorizedLoginAttempt"],
            ) =>
            {
                self.replace_password(http, sessions, credentials, answer.message()).await
            }
            _ => Err(answer.into_error(&Method::POST)),
        }
    }

    /// After a refusal: if there is a previous password and the BMC takes that, it gets the new one. Each of the two is
    /// tried once; whatever goes wrong is a refusal, with its pause, since BMCs lock accounts.
    async fn replace_password(
        &self,
        http: &Http,
        sessions: &str,
        credentials: &Credentials,
        said: String,
    ) -> Result<Auth, BmcError> {
        let refused = |why: String| self.refused(Instant::now(), why);
        let Some(previous) = &credentials.previous_password else { return Err(refused(said)) };
        let Credentials { username, password, .. } = credentials;
        let answer = ask_for_session(http, sessions, username, previous).await?;
        if !answer.ok() {
            return Err(refused(format!("{said}; nor is the previous password taken")));
        }
        let old = auth_of(&answer);
        let header = match &old {
            Auth::Session { token, .. } => (X_AUTH_TOKEN, token.clone()),
            Auth::Basic { .. } => (header::AUTHORIZATION, basic(username, previous)),
        };
        let changed = accounts::set_password(http, &header, username, password, answer.json()).await;
        self.end(http, old).await;
        if let Err(error) = changed {
            // What passes by waiting is told as what it is.
            return Err(match error.is_transient() {
                true => error,
                false => refused(format!("the previous password is taken, but cannot be replaced: {error}")),
            });
        }
        let answer = ask_for_session(http, sessions, username, password).await?;
        if !answer.ok() {
            let why = answer.message();
            return Err(refused(format!("the password was replaced and is refused all the same: {why}")));
        }
        tracing::info!(bmc = %http.base, user = username, "the previous password was replaced by the new one");
        Ok(auth_of(&answer))
    }

    fn refused(&self, now: Instant, message: String) -> BmcError {
        BmcError::Unauthorized { message, retry_at: Some(self.refusals.refuse(self.refusal_key, now)) }
    }

    /// Ends the session, if there is one.
    pub(crate) async fn log_out(&self, http: &Http) {
        if let Some(auth) = self.state.lock().await.auth.take() {
            self.end(http, auth).await;
        }
    }

    async fn end(&self, http: &Http, auth: Auth) {
        if let Auth::Session { token, location: Some(location) } = auth {
            let request = Request { method: Method::DELETE, link: &location, body: None, etag: None };
            if let Err(error) = http.send(&request, Some(&(X_AUTH_TOKEN, token))).await {
                tracing::debug!(bmc = %http.base, %error, "the session was left to expire");
            }
        }
    }
}

/// What to do about a password that is only good for being changed.
const MUST_CHANGE: &str = "it wants another password before it does anything: put the new one into the Secret's key password, and \
    the present one into previousPassword";

/// Whether a login was taken only so that the password can be changed (DSP0266, 13.2.5.2).
fn must_change(answer: &Answer) -> bool {
    js::has_message(answer.json(), &["PasswordChangeRequired"])
}

async fn ask_for_session(
    http: &Http,
    sessions: &str,
    username: &str,
    password: &str,
) -> Result<Answer, BmcError> {
    http.desk.counters.login();
    let body = json!({"UserName": username, "Password": password});
    http.send(&Request { method: Method::POST, link: sessions, body: Some(&body), etag: None }, None).await
}

fn auth_of(answer: &Answer) -> Auth {
    match token(answer) {
        Some(token) => Auth::Session { token, location: location(answer) },
        None => Auth::Basic { until: None },
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

fn basic(username: &str, password: &str) -> HeaderValue {
    let text = STANDARD.encode(format!("{username}:{password}"));
    // Base64 is always a valid header.
    let mut value =
        HeaderValue::from_str(&format!("Basic {text}")).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}
