//! One HTTP client per distinct way of trusting: it holds the TLS configuration and the idle connections of all BMCs
//! that are trusted alike, and goes away with the last of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use ring::digest::{Context, SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::BmcError;
use crate::limits::Limits;
use crate::types::ConnectOptions;

/// A client shared by all BMCs that are trusted alike.
#[derive(Debug)]
pub(crate) struct SharedClient {
    pub(crate) http: reqwest::Client,
    verifier: Arc<Verifier>,
}

impl SharedClient {
    /// SHA-256 of the certificate that was shown last, trusted or not.
    pub(crate) fn seen(&self) -> Option<[u8; 32]> {
        *self.verifier.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shared clients in use.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    by_trust: Mutex<HashMap<[u8; 32], Weak<SharedClient>>>,
    system_roots: OnceLock<Arc<RootCertStore>>,
}

impl Clients {
    /// The client for these options; made if there is none yet.
    pub(crate) fn get(
        &self,
        options: &ConnectOptions,
        limits: &Limits,
    ) -> Result<Arc<SharedClient>, BmcError> {
        let key = trust_key(options);
        let mut clients = self.by_trust.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let provider = Arc::new(provider::default_provider());
        let verifier = self.verifier(options, provider.clone())?;
        let http = build(verifier.clone(), provider, limits)?;
        let client = Arc::new(SharedClient { http, verifier });
        clients.retain(|_, client| client.strong_count() > 0);
        clients.insert(key, Arc::downgrade(&client));
        Ok(client)
    }

    fn verifier(
        &self,
        options: &ConnectOptions,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<Verifier>, BmcError> {
        let verifier =
            |trust| Arc::new(Verifier { trust, provider: provider.clone(), seen: Mutex::default() });
        if let Some(pin) = options.certificate_sha256 {
            return Ok(verifier(Trust::Fingerprint(pin)));
        }
        if options.insecure {
            return Ok(verifier(Trust::Anything));
        }
        let bad = |message: String| BmcError::BadOptions { message };
        let (roots, pinned) = match &options.ca_pem {
            None => (self.system_roots().clone(), Vec::new()),
            Some(pem) => {
                let certificates: Vec<CertificateDer<'static>> =
                    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| {
                        bad(format!("the CA of the BMC is no list of PEM certificates: {error}"))
                    })?;
                let mut roots = RootCertStore::empty();
                let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
                if added == 0 {
                    return Err(bad("the CA of the BMC holds no certificate in PEM that can be read".into()));
                }
                (Arc::new(roots), certificates)
            }
        };
        let chain = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            Some(builder.build().map_err(|error| bad(format!("the CA of the BMC cannot be used: {error}")))?)
        };
        Ok(verifier(Trust::Chain { chain, pinned }))
    }

    fn system_roots(&self) -> &Arc<RootCertStore> {
        self.system_roots.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(roots)
        })
    }
}

fn build(
    verifier: Arc<Verifier>,
    provider: Arc<CryptoProvider>,
    limits: &Limits,
) -> Result<reqwest::Client, BmcError> {
    let bad = |message: String| BmcError::BadOptions { message };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .user_agent(concat!("ferric/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        // Redirects are followed by hand, on the same host only: a client would carry the token along.
        .redirect(reqwest::redirect::Policy::none())
        // BMCs are on a network of their own; a proxy in the environment is meant for other things.
        .no_proxy()
        .connect_timeout(limits.connect)
        .pool_idle_timeout(limits.idle_connection)
        .pool_max_idle_per_host(1)
        .build()
        .map_err(|error| bad(error.to_string()))
}

/// Equal for options that trust alike.
fn trust_key(options: &ConnectOptions) -> [u8; 32] {
    let mut text = vec![u8::from(options.insecure), u8::from(options.ca_pem.is_some())];
    if let Some(pin) = &options.certificate_sha256 {
        text.push(2);
        text.extend_from_slice(pin);
    } else if !options.insecure {
        text.extend_from_slice(options.ca_pem.as_deref().unwrap_or_default());
    }
    sha256(&text)
}

/// A SHA-256 fingerprint of 64 hexadecimal digits, with or without colons or spaces; `None` where it is none.
pub fn certificate_fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !matches!(c, ':' | ' ')).map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let mut fingerprint = [0; 32];
    if digits.len() != 2 * fingerprint.len() {
        return None;
    }
    for (byte, pair) in fingerprint.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8);
    }
    Some(fingerprint)
}

/// SHA-256.
pub(crate) fn sha256(text: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text).as_ref());
    hash
}

/// SHA-256 of several parts, each with its length before it: equal for equal parts, and keeps no secret.
pub(crate) fn sha256_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[derive(Debug)]
enum Trust {
    Anything,
    /// The certificate with this SHA-256.
    Fingerprint([u8; 32]),
    Chain {
        /// `None`: there is no root at all.
        chain: Option<Arc<WebPkiServerVerifier>>,
        /// Certificates that are trusted as they are: BMCs come with a self-signed one that names nobody.
        pinned: Vec<CertificateDer<'static>>,
    },
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    /// SHA-256 of the certificate that was shown last.
    seen: Mutex<Option<[u8; 32]>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let hash = sha256(end_entity.as_ref());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(hash);
        match &self.trust {
            Trust::Anything => Ok(ServerCertVerified::assertion()),
            Trust::Fingerprint(pin) if *pin == hash => Ok(ServerCertVerified::assertion()),
            Trust::Fingerprint(_) => Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::ApplicationVerificationFailure,
            )),
            Trust::Chain { pinned, .. } if pinned.iter().any(|pin| pin.as_ref() == end_entity.as_ref()) => {
                Ok(ServerCertVerified::assertion())
            }
            Trust::Chain { chain: Some(chain), .. } => {
                chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            Trust::Chain { chain: None, .. } => {
                Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.trust {
            Trust::Anything => Ok(HandshakeSignatureValid::assertion()),
            Trust::Fingerprint(_) | Trust::Chain { .. } => {
                verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
            }
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.trust {
            Trust::Anything => Ok(HandshakeSignatureValid::assertion()),
            Trust::Fingerprint(_) | Trust::Chain { .. } => {
                verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints() {
        let colons = vec!["aB"; 32].join(":");
        for (text, expected) in [
            ("ab".repeat(32).as_str(), Some([0xab; 32])),
            (colons.as_str(), Some([0xab; 32])),
            ("", None),
            ("ab", None),
            ("zz".repeat(32).as_str(), None),
            ("ab".repeat(33).as_str(), None),
            ("é".repeat(64).as_str(), None),
        ] {
            assert_eq!(certificate_fingerprint(text), expected, "{text}");
        }
    }
}
