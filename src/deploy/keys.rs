//! The provider's own keys: the CA that agents pin, and the key of boot tokens, kept in one Secret; and the serving
//! certificate, made in memory from the CA and renewed before it expires.
//!
//! The Secret is made at the first start. Two managers that start together agree, because creating an object that
//! exists fails and replacing one needs its resourceVersion: who comes second takes what the first has written.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use ferric_api::MacAddress;
use ferric_protocol::{
    BootToken, DiscoveryToken, TokenError, TokenUse,
    tls::{ClientAuth, TlsError, certificate_sha256, server_config},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use tokio::time::timeout;
use url::{Host, Url};

use crate::key::Key;

/// Name of the Secret.
pub const SECRET_NAME: &str = "ferric-agent-keys";
const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const TOKEN_KEY: &str = "token.key";

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Certificates begin in the past, since clocks differ.
const SKEW: Duration = DAY;
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A CA with less than this left is replaced at the next start. Agents that run then must be booted anew.
const CA_LEFT: Duration = Duration::from_secs(180 * 24 * 3600);
const SERVING_LIFE: Duration = Duration::from_secs(60 * 24 * 3600);
const SERVING_LEFT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Bytes of the key of boot tokens.
const TOKEN_KEY_BYTES: usize = 32;
/// Time for one request to the API server.
const REQUEST: Duration = Duration::from_secs(15);
/// How often another writer may come in between.
const ATTEMPTS: usize = 5;

/// Keys that cannot be had or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The Secret could not be read or written.
    #[error("Secret {namespace}/{SECRET_NAME} could not be read or written: {source}")]
    Api {
        /// Where the Secret is.
        namespace: String,
        /// What went wrong.
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("no answer from the API server about Secret {namespace}/{SECRET_NAME} within {} s", REQUEST.as_secs())]
    Timeout {
        /// Where the Secret is.
        namespace: String,
    },
    /// Others write it all the time.
    #[error("Secret {namespace}/{SECRET_NAME} was changed by others {ATTEMPTS} times in a row")]
    Contended {
        /// Where the Secret is.
        namespace: String,
    },
    /// The Secret holds something else.
    #[error(
        "key {key:?} of Secret {SECRET_NAME} is unusable: {message}; delete the Secret to have a new one made"
    )]
    Unusable {
        /// Which key.
        key: &'static str,
        /// Why.
        message: String,
    },
    /// A certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Generate(#[from] rcgen::Error),
    /// The random number generator failed.
    #[error("the system's random number generator failed")]
    Random,
    /// The serving certificate was refused.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The CA that agents pin, and the key of boot tokens.
#[derive(Clone)]
pub struct ProviderKeys {
    ca_pem: String,
    ca: CertificateDer<'static>,
    ca_key_pem: String,
    token_key: Vec<u8>,
}

impl ProviderKeys {
    /// Reads the Secret; makes it, or what is missing in it, if need be.
    pub async fn load_or_create(client: Client, namespace: &str) -> Result<Self, KeyError> {
        let api: Api<Secret> = Api::namespaced(client, namespace);
        let failed = |source| KeyError::Api { namespace: namespace.to_owned(), source: Box::new(source) };
        for _ in 0..ATTEMPTS {
            let now = SystemTime::now();
            let found = in_time(namespace, api.get_opt(SECRET_NAME)).await?.map_err(failed)?;
            let data = found.as_ref().and_then(|s| s.data.as_ref());
            let (keys, complete) = Self::from_data(data.unwrap_or(&BTreeMap::new()), now)?;
            let post = PostParams::default();
            let written = match found {
                Some(_) if complete => return Ok(keys),
                Some(mut secret) => {
                    secret.data.get_or_insert_default().extend(keys.to_data());
                    in_time(namespace, api.replace(SECRET_NAME, &post, &secret)).await?
                }
                None => in_time(namespace, api.create(&post, &keys.to_secret(namespace))).await?,
            };
            match written {
                Ok(_) => return Ok(keys),
                // Somebody was faster: what they have written counts.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(KeyError::Contended { namespace: namespace.to_owned() })
    }

    /// New keys.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self::from_data(&BTreeMap::new(), SystemTime::now())?.0)
    }

    /// Takes what is there and makes what is missing or about to expire. True when nothing had to be made.
    fn from_data(data: &BTreeMap<String, ByteString>, now: SystemTime) -> Result<(Self, bool), KeyError> {
        let token_key = data.get(TOKEN_KEY).map(|v| v.0.clone());
        if token_key.as_ref().is_some_and(|k| k.len() < TOKEN_KEY_BYTES) {
            let message = format!("it has fewer than {TOKEN_KEY_BYTES} bytes");
            return Err(KeyError::Unusable { key: TOKEN_KEY, message });
        }
        let ca = match (data.get(CA_CERT), data.get(CA_KEY)) {
            (Some(cert), Some(key)) => read_ca(&cert.0, &key.0, now)?,
            _ => None,
        };
        let complete = token_key.is_some() && ca.is_some();
        let token_key = token_key.map_or_else(random_key, Ok)?;
        let (ca_pem, ca, ca_key_pem) = ca.map_or_else(|| make_ca(now), Ok)?;
        Ok((Self { ca_pem, ca, ca_key_pem, token_key }, complete))
    }

    fn to_data(&self) -> BTreeMap<String, ByteString> {
        let Self { ca_pem, ca: _, ca_key_pem, token_key } = self;
        let entries = [
            (CA_CERT, ca_pem.clone().into_bytes()),
            (CA_KEY, ca_key_pem.clone().into_bytes()),
            (TOKEN_KEY, token_key.clone()),
        ];
        entries.map(|(key, value)| (key.to_owned(), ByteString(value))).into()
    }

    fn to_secret(&self, namespace: &str) -> Secret {
        let mut secret = Secret { data: Some(self.to_data()), ..Default::default() };
        secret.metadata.name = Some(SECRET_NAME.into());
        secret.metadata.namespace = Some(namespace.into());
        secret.type_ = Some("Opaque".into());
        secret
    }

    /// SHA-256 (hex) of the CA certificate: what agents are told to trust.
    pub fn ca_sha256(&self) -> String {
        certificate_sha256(&self.ca)
    }

    /// The CA certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Key of the boot tokens.
    pub fn token_key(&self) -> &[u8] {
        &self.token_key
    }

    /// Makes the boot token for a boot of a host, good until `expires`.
    pub fn mint(&self, host: &Key, boot_number: i64, expires: jiff::Timestamp) -> Result<String, TokenError> {
        let boot_number = u64::try_from(boot_number).unwrap_or(0);
        let expires = u64::try_from(expires.as_second()).unwrap_or(0);
        BootToken { host: host.to_string(), boot_number, expires }.mint(&self.token_key)
    }

    /// Makes the token for the system that a host runs from memory, by the deployment that is about: good until `expires`,
    /// and only for as long as the host's record speaks of that deployment.
    pub fn mint_system(
        &self,
        host: &Key,
        deployment: u64,
        expires: jiff::Timestamp,
    ) -> Result<String, TokenError> {
        let expires = u64::try_from(expires.as_second()).unwrap_or(0);
        let facts = BootToken { host: host.to_string(), boot_number: deployment, expires };
        facts.mint_for(TokenUse::System, &self.token_key)
    }

    /// Makes the token by which events of a host's BMC are known. It is the same each time, so that a subscription is found
    /// again, and does not end: it wakes the host and is good for nothing else.
    pub fn mint_events(&self, host: &Key) -> Result<String, TokenError> {
        let facts = BootToken { host: host.to_string(), boot_number: 0, expires: u64::MAX };
        facts.mint_for(TokenUse::Events, &self.token_key)
    }

    /// Makes the discovery token of this number for the machine with this MAC address, good until `expires`.
    pub fn mint_discovery(&self, mac: MacAddress, number: u64, expires: jiff::Timestamp) -> String {
        let expires = u64::try_from(expires.as_second()).unwrap_or(0);
        DiscoveryToken { mac: mac.octets(), number, expires }.mint(&self.token_key)
    }

    /// The serving certificate for whatever name or address agents dial: that of `agent_url`, and the address that is
    /// bound unless that is "any".
    pub fn serving(&self, agent_url: &Url, bind: Option<IpAddr>) -> ServingKeys {
        let dialled = match agent_url.host() {
            Some(Host::Domain(name)) => Some(name.to_owned()),
            Some(Host::Ipv4(address)) => Some(address.to_string()),
            Some(Host::Ipv6(address)) => Some(address.to_string()),
            None => None,
        };
        let bound = bind.filter(|a| !a.is_unspecified()).map(|a| a.to_string());
        let mut names: Vec<String> = dialled.into_iter().chain(bound).collect();
        names.dedup();
        ServingKeys { inner: Arc::new(Serving { ca: self.clone(), names, current: Mutex::new(None) }) }
    }

    fn sign(&self, names: &[String], now: SystemTime) -> Result<ServerConfig, KeyError> {
        let issuer = Issuer::from_ca_cert_der(&self.ca, KeyPair::from_pem(&self.ca_key_pem)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "ferric provider");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = ((now - SKEW).into(), (now + SERVING_LIFE).into());
        let certificate = params.signed_by(&key, &issuer)?;
        let chain = vec![certificate.der().clone(), self.ca.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(server_config(chain, key, ClientAuth::Required)?)
    }
}

impl fmt::Debug for ProviderKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderKeys").field("ca_sha256", &self.ca_sha256()).finish_non_exhaustive()
    }
}

/// The serving certificate. Clones share it.
#[derive(Clone)]
pub struct ServingKeys {
    inner: Arc<Serving>,
}

struct Serving {
    ca: ProviderKeys,
    names: Vec<String>,
    current: Mutex<Option<(Arc<ServerConfig>, SystemTime)>>,
}

impl ServingKeys {
    /// The configuration for a connection that comes now.
    pub fn config(&self) -> Result<Arc<ServerConfig>, KeyError> {
        self.config_at(SystemTime::now())
    }

    fn config_at(&self, now: SystemTime) -> Result<Arc<ServerConfig>, KeyError> {
        let Serving { ca, names, current } = &*self.inner;
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((config, ends)) = &*current
            && now + SERVING_LEFT < *ends
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(ca.sign(names, now)?);
        *current = Some((Arc::clone(&config), now + SERVING_LIFE));
        Ok(config)
    }
}

async fn in_time<T>(
    namespace: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Result<T, kube::Error>, KeyError> {
    timeout(REQUEST, request).await.map_err(|_| KeyError::Timeout { namespace: namespace.to_owned() })
}

fn random_key() -> Result<Vec<u8>, KeyError> {
    let mut key = vec![0; TOKEN_KEY_BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_| KeyError::Random)?;
    Ok(key)
}

type Ca = (String, CertificateDer<'static>, String);

fn make_ca(now: SystemTime) -> Result<Ca, KeyError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "ferric agent CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    (params.not_before, params.not_after) = ((now - SKEW).into(), (now + CA_LIFE).into());
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), certificate.der().clone(), key.serialize_pem()))
}

/// Reads a CA; none when it is about to expire.
fn read_ca(cert: &[u8], key: &[u8], now: SystemTime) -> Result<Option<Ca>, KeyError> {
    let unusable = |key, message: &dyn fmt::Display| KeyError::Unusable { key, message: message.to_string() };
    let ca = CertificateDer::from_pem_slice(cert).map_err(|e| unusable(CA_CERT, &format!("{e:?}")))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&ca).map_err(|e| unusable(CA_CERT, &e))?;
    let key_pem = std::str::from_utf8(key).map_err(|e| unusable(CA_KEY, &e))?;
    let pair = KeyPair::from_pem(key_pem).map_err(|e| unusable(CA_KEY, &e))?;
    if parsed.public_key().raw != pair.subject_public_key_info() {
        return Err(unusable(CA_KEY, &"it is not the key of the certificate in ca.crt"));
    }
    let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    if now + CA_LEFT >= SystemTime::UNIX_EPOCH + Duration::from_secs(ends) {
        return Ok(None);
    }
    Ok(Some((String::from_utf8_lossy(cert).into_owned(), ca.clone(), key_pem.to_owned())))
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
