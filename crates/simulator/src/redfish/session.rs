//! Sessions and basic authentication.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Open sessions at once; the oldest gives way to a new one.
const MAX_SESSIONS: usize = 16;
/// An unused session ends after this time.
pub(crate) const SESSION_LIMIT: Duration = Duration::from_secs(1800);

#[derive(Debug)]
struct Session {
    id: u64,
    token: String,
    used: Instant,
}

/// The open sessions of one BMC.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Vec<Session>,
    last: u64,
}

impl Sessions {
    /// Opens a session: its number and token.
    pub(crate) fn open(&mut self, now: Instant) -> (u64, String) {
        self.open.retain(|session| now.duration_since(session.used) < SESSION_LIMIT);
        if self.open.len() >= MAX_SESSIONS {
            self.open.remove(0);
        }
        self.last += 1;
        let token = uuid::Uuid::new_v4().simple().to_string();
        self.open.push(Session { id: self.last, token: token.clone(), used: now });
        (self.last, token)
    }

    /// Whether a token is that of an open session.
    pub(crate) fn accepts(&mut self, token: &str, now: Instant) -> bool {
        let found = self
            .open
            .iter_mut()
            .find(|session| session.token == token && now.duration_since(session.used) < SESSION_LIMIT);
        found.map(|session| session.used = now).is_some()
    }

    /// Ends a session; whether there was one.
    pub(crate) fn close(&mut self, id: u64) -> bool {
        let before = self.open.len();
        self.open.retain(|session| session.id != id);
        self.open.len() < before
    }

    /// Ends all sessions, as a change of the password does.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }

    /// Numbers of the open sessions.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.open.iter().map(|session| session.id).collect()
    }
}

/// User name and password of a `Basic` authorization header.
pub(crate) fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sessions_open_expire_give_way_and_close() {
        let mut sessions = Sessions::default();
        let start = Instant::now();
        let (first, token) = sessions.open(start);
        assert!(sessions.accepts(&token, start));
        assert!(!sessions.accepts("other", start));
        assert!(!sessions.accepts(&token, start + SESSION_LIMIT));
        assert!(sessions.close(first) && !sessions.close(first));
        let (_, oldest) = sessions.open(start);
        for _ in 0..MAX_SESSIONS {
            sessions.open(start);
        }
        assert!(!sessions.accepts(&oldest, start));
    }

    #[test]
    fn basic_headers() {
        assert_eq!(basic("Basic YTpiOmM="), Some(("a".to_owned(), "b:c".to_owned())));
        for bad in ["", "Basic", "Basic !", "Bearer YTpi", "Basic YQ=="] {
            assert_eq!(basic(bad), None, "{bad}");
        }
    }
}
