//! Credentials of registries, from Secrets of type `kubernetes.io/dockerconfigjson`.
//!
//! They are read when an image is fetched, and nothing keeps them longer than the fetch takes. No type in here can be
//! printed with what is secret in it, and no sentence repeats anything of a Secret but its name.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use serde::Deserialize;
use url::Url;

use crate::key::Key;

/// The key of a Secret of type `kubernetes.io/dockerconfigjson` that holds its value.
pub const DOCKER_CONFIG_KEY: &str = ".dockerconfigjson";
/// Largest configuration that is read, in bytes: what a Secret may hold.
const MAX_CONFIG: usize = 1 << 20;
/// Under these names Docker Hub stands in configurations and references.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Why a pull Secret could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullSecretError {
    /// It is not there, or not of the right kind: a sentence.
    #[error("{0}")]
    Unusable(String),
    /// The API server did not answer as it should: a sentence.
    #[error("{0}")]
    Unreachable(String),
}

/// Where pull Secrets are read.
#[async_trait]
pub trait PullSecrets: Send + Sync + 'static {
    /// The value of [`DOCKER_CONFIG_KEY`] of a Secret, as it is now.
    ///
    /// # Errors
    /// When there is no such Secret or key, or the API server cannot be asked.
    async fn docker_config(&self, secret: &Key) -> Result<Vec<u8>, PullSecretError>;
}

/// There are no pull Secrets.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPullSecrets;

#[async_trait]
impl PullSecrets for NoPullSecrets {
    async fn docker_config(&self, secret: &Key) -> Result<Vec<u8>, PullSecretError> {
        Err(PullSecretError::Unusable(format!("Secret {secret} does not exist")))
    }
}

/// A name and a password. Cannot be printed.
#[derive(Clone)]
pub(super) struct Login {
    header: HeaderValue,
    /// The Secret that it is from.
    pub(super) secret: Key,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("secret", &self.secret).finish_non_exhaustive()
    }
}

impl Login {
    /// As RFC 7617 section 2 has it; marked so that it is not printed.
    pub(super) fn basic(&self) -> HeaderValue {
        self.header.clone()
    }

    fn new(username: &str, password: &str, secret: &Key) -> Option<Self> {
        // RFC 7617 section 2: a name with a colon cannot be told from the password behind it.
        if username.is_empty() || username.contains(':') {
            return None;
        }
        let text = format!("Basic {}", STANDARD.encode(format!("{username}:{password}")));
        let mut header = HeaderValue::try_from(text).ok()?;
        header.set_sensitive(true);
        Some(Self { header, secret: secret.clone() })
    }
}

/// Finds the credentials of a registry in a Docker configuration: the entry with the longest path that the repository
/// lies below, as the kubelet does it. `Ok(None)`: there is none for this registry.
///
/// # Errors
/// With a sentence that repeats nothing of the configuration. Pure; never panics.
pub(super) fn login_for(
    config: &[u8],
    registry: &Url,
    repository: &str,
    secret: &Key,
) -> Result<Option<Login>, String> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        auths: BTreeMap<String, Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        auth: Option<String>,
        #[serde(default)]
        username: Option<String>,
        #[serde(default)]
        password: Option<String>,
    }
    let broken = |what: &str| format!("Secret {secret}, key {DOCKER_CONFIG_KEY}: {what}");
    if config.len() > MAX_CONFIG {
        return Err(broken("it is larger than a Secret can be"));
    }
    // What the parser says may quote the value.
    let config: Config =
        serde_json::from_slice(config).map_err(|_| broken("it is not a Docker configuration in JSON"))?;
    let fits = |name: &str| covers(name, registry, repository);
    let best = config.auths.iter().filter_map(|(name, entry)| Some((fits(name)?, entry)));
    let Some((_, entry)) = best.max_by_key(|(length, _)| *length) else { return Ok(None) };
    let unusable = || broken("the registry's entry holds no usable name and password");
    let decoded = match entry.auth.as_deref().filter(|auth| !auth.is_empty()) {
        Some(auth) => {
            let bytes = STANDARD.decode(auth.trim()).map_err(|_| unusable())?;
            let text = String::from_utf8(bytes).map_err(|_| unusable())?;
            Some(text.split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned())).ok_or_else(unusable)?)
        }
        None => entry.username.clone().zip(entry.password.clone()),
    };
    let (username, password) = decoded.ok_or_else(unusable)?;
    Login::new(&username, password.trim_end_matches('\0'), secret).map(Some).ok_or_else(unusable)
}

/// Whether an entry of this name is about the repository: the length of its path, if so. Names are `host[:port][/path]`,
/// with or without a scheme; `/v1` and `/v2` are the versions of the API that Docker wrote behind them.
fn covers(name: &str, registry: &Url, repository: &str) -> Option<usize> {
    let scheme = name.split_once("://").map_or("https", |(scheme, _)| scheme).to_ascii_lowercase();
    let rest = name.split_once("://").map_or(name, |(_, rest)| rest);
    if !matches!(scheme.as_str(), "http" | "https") {
        return None;
    }
    // The scheme of the registry, so that a port left out means the same in both.
    let entry = Url::parse(&format!("{}://{rest}", registry.scheme())).ok()?;
    let (host, wanted) = (entry.host_str()?, registry.host_str()?);
    let hub = |host: &str| DOCKER_HUB.contains(&host);
    if host != wanted && !(hub(host) && hub(wanted)) {
        return None;
    }
    if entry.port_or_known_default() != registry.port_or_known_default() {
        return None;
    }
    let path = entry.path().trim_matches('/');
    if path.is_empty() || matches!(path, "v1" | "v2") {
        return Some(0);
    }
    let below = repository.strip_prefix(path)?;
    (below.is_empty() || below.starts_with('/')).then_some(path.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn find(config: &serde_json::Value, registry: &str, repository: &str) -> Result<Option<String>, String> {
        let config = serde_json::to_vec(config).unwrap();
        let login =
            login_for(&config, &Url::parse(registry).unwrap(), repository, &Key::new("racks", "pull"))?;
        Ok(login.map(|login| {
            let header = login.basic();
            assert!(header.is_sensitive());
            let text = header.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
            String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
        }))
    }

    #[test]
    fn the_entry_of_the_registry_with_the_longest_path_counts() {
        let named = |name: &str| serde_json::json!({ "username": name, "password": "p:w" });
        let config = serde_json::json!({ "auths": {
            "r.example": named("all"),
            "r.example/os": named("os"),
            "https://r.example/os/node/": named("node"),
            "r.example:5000": { "auth": STANDARD.encode("five:thousand") },
            "https://index.docker.io/v1/": named("hub"),
            "other.example": named("other"),
        }});
        let table = [
            ("https://r.example/", "kernel", Some("all:p:w")),
            ("https://r.example/", "os/tiny", Some("os:p:w")),
            ("https://r.example/", "osx", Some("all:p:w")),
            ("https://r.example/", "os/node", Some("node:p:w")),
            ("https://r.example:443/", "os/node/x", Some("node:p:w")),
            ("https://r.example:5000/", "os/node", Some("five:thousand")),
            ("https://r.example:5001/", "os/node", None),
            ("https://registry-1.docker.io/", "x/y", Some("hub:p:w")),
            ("https://sub.r.example/", "os", None),
            ("https://example/", "os", None),
        ];
        for (registry, repository, expected) in table {
            let found = find(&config, registry, repository).unwrap();
            assert_eq!(found.as_deref(), expected, "{registry}{repository}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_without_repeating_it() {
        let entry = |entry: serde_json::Value| serde_json::json!({ "auths": { "r.example": entry } });
        for config in [
            serde_json::json!("hunter2"),
            serde_json::json!({ "auths": "hunter2" }),
            entry(serde_json::json!({ "auth": "hunter2!" })),
            entry(serde_json::json!({ "auth": STANDARD.encode("hunter2") })),
            entry(serde_json::json!({ "auth": STANDARD.encode([0xff, b':']) })),
            entry(serde_json::json!({ "username": "hunter2" })),
            entry(serde_json::json!({ "username": "a:b", "password": "hunter2" })),
            entry(serde_json::json!({})),
        ] {
            let error = find(&config, "https://r.example/", "a").unwrap_err();
            assert!(error.starts_with("Secret racks/pull") && !error.contains("hunter2"), "{error}");
        }
        assert_eq!(find(&serde_json::json!({}), "https://r.example/", "a"), Ok(None));
    }

    #[test]
    fn a_login_is_never_printed() {
        let login = Login::new("name", "hunter2", &Key::new("racks", "pull")).unwrap();
        let text = format!("{login:?} {:?}", login.basic());
        assert!(!text.contains("hunter2") && !text.contains(&STANDARD.encode("name:hunter2")), "{text}");
    }

    proptest! {
        #[test]
        fn no_configuration_makes_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            name in "\\PC{0,40}",
            auth in "\\PC{0,40}",
        ) {
            let registry = Url::parse("https://r.example/").unwrap();
            let secret = Key::new("a", "b");
            let _ = login_for(&bytes, &registry, "os", &secret);
            let config = serde_json::json!({ "auths": { name: { "auth": auth } } });
            let _ = login_for(&serde_json::to_vec(&config).unwrap(), &registry, "os", &secret);
        }
    }
}
