//! Images that are OCI artifacts: `oci://registry/repository@sha256:…`. The digest in the reference is of the manifest, the
//! manifest names the one layer that is the image by digest and size; so no checksum is needed beside it.
//!
//! Registries are asked as anybody may ask: without a name, or with the token that they give to everybody; where a pull
//! Secret is named, its name and password are given to the registry, or to the token service that the registry names.

use ferric_image::{Checksum, ChecksumAlgorithm};
use http::{HeaderValue, StatusCode, header};
use reqwest::{RequestBuilder, Response};
use ring::digest;
use serde::Deserialize;
use url::Url;

use super::{
    failure::Failure,
    fetch::{Clients, FetchError, bounded},
    pull_secret::Login,
    request::{Hope, INVALID, Refusal, shown},
};

/// Largest manifest: what registries themselves take.
const MAX_MANIFEST: usize = 4 << 20;
/// Largest answer with a token.
const MAX_TOKEN: usize = 64 << 10;
/// Longest `WWW-Authenticate` that is looked at.
const MAX_CHALLENGE: usize = 4096;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A reference that was understood.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Artifact {
    /// Where the registry's API is.
    base: Url,
    repository: String,
    /// Of the manifest.
    digest: Checksum,
}

/// The layer that is the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) checksum: Checksum,
    pub(super) size: u64,
}

/// Where to fetch the image, and with which right.
pub(super) struct Blob {
    pub(super) url: Url,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) checksum: Checksum,
}

impl Artifact {
    /// Understands a reference; `None` when it is not one of an OCI artifact at all.
    pub(super) fn parse(text: &str) -> Option<Result<Self, Refusal>> {
        let rest = text.strip_prefix("oci://")?;
        Some(Self::parse_rest(rest).ok_or_else(|| Refusal {
            reason: INVALID,
            message: "an OCI artifact is named as oci://registry/repository@sha256:digest, with the digest of its \
                      manifest: a tag may mean another image tomorrow"
                .into(),
        }))
    }

    fn parse_rest(rest: &str) -> Option<Self> {
        let (name, digest) = rest.split_once('@')?;
        let (registry, repository) = name.split_once('/')?;
        let digest = digest.strip_prefix("sha256:")?;
        let digest = Checksum::new(ChecksumAlgorithm::Sha256, digest).ok()?;
        let part = |part: &str| {
            let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
            edge(part.as_bytes().first()) && edge(part.as_bytes().last()) && part.bytes().all(inner)
        };
        if repository.len() > 255 || !repository.split('/').all(part) || registry.contains(['?', '#', '\\']) {
            return None;
        }
        let https = Url::parse(&format!("https://{registry}/")).ok()?;
        // As every client of registries does it: what runs on this machine has no certificate.
        let base = if is_here(&https) { Url::parse(&format!("http://{registry}/")).ok()? } else { https };
        let plain = base.path() == "/" && base.username().is_empty() && base.password().is_none();
        plain.then_some(Self { base, repository: repository.to_owned(), digest })
    }

    fn url(&self, kind: &str, digest: &Checksum) -> Result<Url, Failure> {
        let path = format!("v2/{}/{kind}/{digest}", self.repository);
        self.base.join(&path).map_err(|e| Failure::soon(INVALID, format!("{path} is not a path: {e}")))
    }

    /// Where the registry's API is.
    pub(super) fn registry(&self) -> &Url {
        &self.base
    }

    /// The repository in the registry.
    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    /// Asks the registry which layer is the image.
    pub(super) async fn resolve(&self, clients: &Clients, login: Option<&Login>) -> Result<Blob, Failure> {
        let url = self.url("manifests", &self.digest)?;
        let accept = format!("{MANIFEST}, {DOCKER_MANIFEST}");
        let ask = || clients.lists.get(url.clone()).header(header::ACCEPT, &accept);
        let mut authorization = None;
        let mut response = send(ask(), &url).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let right = self.right(clients, &response, login).await?;
            response = send(ask().header(header::AUTHORIZATION, right.clone()), &url).await?;
            authorization = Some(right);
        }
        match response.status() {
            status if status.is_success() => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(unauthorized(&url, &format!("the registry answers {status}"), login));
            }
            status => return Err(unreachable(&url, format!("the registry answers {status}")).into()),
        }
        let manifest = bounded(response, MAX_MANIFEST).await.map_err(|message| unreachable(&url, message))?;
        let found = hex::encode(digest::digest(&digest::SHA256, &manifest));
        if found != self.digest.hex() {
            let message = format!(
                "{}: the manifest has sha256:{found}, the spec asks for {}",
                shown(&url),
                self.digest
            );
            return Err(Failure { reason: "ChecksumMismatch", message, hope: Hope::Later, permanent: true });
        }
        let Layer { checksum, size: _ } = image_layer(&manifest).map_err(|problem| Failure {
            reason: INVALID,
            message: format!("the manifest of {}: {problem}", shown(&url)),
            hope: Hope::Later,
            permanent: true,
        })?;
        Ok(Blob { url: self.url("blobs", &checksum)?, authorization, checksum })
    }

    /// What the registry's challenge asks for: a token of its token service, or name and password themselves.
    async fn right(
        &self,
        clients: &Clients,
        response: &Response,
        login: Option<&Login>,
    ) -> Result<HeaderValue, Failure> {
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<&str> = challenges.iter().filter_map(|value| value.to_str().ok()).collect();
        if let Some(challenge) = challenges.iter().find_map(|text| challenge_of(text)) {
            return self.token(clients, challenge, login).await;
        }
        if !challenges.iter().any(|text| wants_password(text)) {
            return Err(unauthorized(&self.base, "the registry does not say how it is to be asked", login));
        }
        match login {
            Some(login) => Ok(login.basic()),
            None => Err(unauthorized(&self.base, "the registry wants a name and a password", login)),
        }
    }

    /// Gets the token that the registry's challenge speaks of, as the distribution project's token specification has it.
    async fn token(
        &self,
        clients: &Clients,
        challenge: Challenge,
        login: Option<&Login>,
    ) -> Result<HeaderValue, Failure> {
        let Challenge { realm, service } = challenge;
        let refused = |why: &str| unauthorized(&self.base, why, login);
        let mut url = Url::parse(&realm).map_err(|_| refused("the registry's token service has no URL"))?;
        // A token for a registry that is asked by https is not fetched in plain text, and a password is never sent so.
        let plain =
            url.scheme() == "http" && self.base.scheme() == "http" && (login.is_none() || is_here(&url));
        if url.scheme() != "https" && !plain {
            return Err(refused("the registry's token service is not asked by https"));
        }
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", &service);
        }
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull", self.repository));
        let mut request = clients.lists.get(url.clone());
        if let Some(login) = login {
            request = request.header(header::AUTHORIZATION, login.basic());
        }
        let response = send(request, &url).await?;
        match response.status() {
            status if status.is_success() => {}
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(unreachable(&url, format!("the token service answers {status}")).into());
            }
            status => return Err(refused(&format!("the registry's token service answers {status}"))),
        }
        let answer = bounded(response, MAX_TOKEN).await.map_err(|message| unreachable(&url, message))?;
        token_of(&answer).ok_or_else(|| refused("the registry's token service gives no token"))
    }
}

/// Whether a URL is of this machine.
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The registry does not give the image away like this.
fn unauthorized(url: &Url, why: &str, login: Option<&Login>) -> Failure {
    let remedy = match login {
        Some(login) => format!("mend name and password of Secret {}", login.secret),
        None => "name a Secret with its credentials in image.ociAuthSecretName".to_owned(),
    };
    let message = format!("{}: {why}: {remedy}", shown(url));
    Failure { reason: "ImageUnauthorized", message, hope: Hope::Later, permanent: true }
}

async fn send(request: RequestBuilder, url: &Url) -> Result<Response, FetchError> {
    request.send().await.map_err(|e| unreachable(url, super::fetch::why(e)))
}

fn unreachable(url: &Url, message: String) -> FetchError {
    FetchError::Unreachable { url: shown(url), message }
}

#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
}

/// Whether a challenge asks for name and password (RFC 7617).
fn wants_password(text: &str) -> bool {
    text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic"))
}

/// Reads `Bearer realm="…",service="…",scope="…"`.
fn challenge_of(text: &str) -> Option<Challenge> {
    if text.len() > MAX_CHALLENGE || !text.get(..7)?.eq_ignore_ascii_case("bearer ") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    let mut rest = &text[7..];
    while let Some((name, after)) = rest.split_once("=\"") {
        let (value, after) = after.split_once('"')?;
        match name.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
        rest = after;
    }
    Some(Challenge { realm: realm?, service })
}

fn token_of(answer: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let Answer { token, access_token } = serde_json::from_slice(answer).ok()?;
    let token = token.or(access_token).filter(|token| !token.is_empty())?;
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Which layer of a manifest is the image, or what is wrong with it. Pure; never panics.
pub(super) fn image_layer(manifest: &[u8]) -> Result<Layer, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest {
        schema_version: u32,
        #[serde(default)]
        media_type: Option<String>,
        #[serde(default)]
        layers: Vec<Descriptor>,
        #[serde(default)]
        manifests: Vec<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Descriptor {
        digest: String,
        size: u64,
    }
    if manifest.len() > MAX_MANIFEST {
        return Err(format!("it has more than {MAX_MANIFEST} bytes"));
    }
    let manifest: Manifest =
        serde_json::from_slice(manifest).map_err(|e| format!("it cannot be read: {e}"))?;
    if manifest.schema_version != 2 {
        return Err(format!("its schema version is {}, not 2", manifest.schema_version));
    }
    if !manifest.manifests.is_empty() {
        return Err("it is an index of several: name the manifest of one of them".into());
    }
    if let Some(kind) = manifest.media_type.filter(|kind| kind != MANIFEST && kind != DOCKER_MANIFEST) {
        return Err(format!("its type is {:?}", kind.chars().take(100).collect::<String>()));
    }
    let [Descriptor { digest, size }] = manifest.layers.as_slice() else {
        let count = manifest.layers.len();
        return Err(format!("it has {count} layers; an artifact that is a disk image has one"));
    };
    let checksum = Checksum::parse(digest, None).map_err(|e| format!("the digest of its layer: {e}"))?;
    Ok(Layer { checksum, size: *size })
}

#[cfg(test)]
#[path = "oci_tests.rs"]
mod tests;
