//! Sessions and basic authentication.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::face::{Full, SessionRules};

#[derive(Debug)]
struct Session {
    id: u64,
    token: String,
    used: Instant,
}

impl Session {
    fn is_open(&self, now: Instant, rules: &SessionRules) -> bool {
        now.duration_since(self.used) < Duration::from_secs(rules.timeout_seconds)
    }
}

/// The open sessions of one BMC.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Vec<Session>,
    last: u64,
}

impl Sessions {
    /// Opens a session: its number and token; `None`: the table is full.
    pub(crate) fn open(&mut self, now: Instant, rules: &SessionRules) -> Option<(u64, String)> {
        self.open.retain(|session| session.is_open(now, rules));
        if self.open.len() >= rules.most {
            if rules.full == Full::Refuse {
                return None;
            }
            self.open.remove(0);
        }
        self.last += 1;
        // Easily found where it should not be.
        let token = format!("simulated-session-token-{}", uuid::Uuid::new_v4().simple());
        self.open.push(Session { id: self.last, token: token.clone(), used: now });
        Some((self.last, token))
    }

    /// Whether a token is that of an open session.
    pub(crate) fn accepts(&mut self, token: &str, now: Instant, rules: &SessionRules) -> bool {
        let found =
            self.open.iter_mut().find(|session| session.token == token && session.is_open(now, rules));
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
        let rules =
            SessionRules { most: 2, timeout_seconds: 30, full: Full::Oldest, absolute_location: false };
        let limit = Duration::from_secs(30);
        let mut sessions = Sessions::default();
        let start = Instant::now();
        let (first, token) = sessions.open(start, &rules).unwrap();
        assert!(sessions.accepts(&token, start, &rules));
        assert!(!sessions.accepts("other", start, &rules));
        assert!(!sessions.accepts(&token, start + limit, &rules));
        assert!(sessions.close(first) && !sessions.close(first));
        let (_, oldest) = sessions.open(start, &rules).unwrap();
        for _ in 0..rules.most {
            sessions.open(start, &rules).unwrap();
        }
        assert!(!sessions.accepts(&oldest, start, &rules));
        let strict = SessionRules { full: Full::Refuse, ..rules };
        assert_eq!(sessions.open(start, &strict), None);
        assert!(sessions.open(start + limit, &strict).is_some(), "the unused ones are gone");
    }

    #[test]
    fn basic_headers() {
        assert_eq!(basic("Basic YTpiOmM="), Some(("a".to_owned(), "b:c".to_owned())));
        for bad in ["", "Basic", "Basic !", "Bearer YTpi", "Basic YQ=="] {
            assert_eq!(basic(bad), None, "{bad}");
        }
    }
}
