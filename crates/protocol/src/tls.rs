//! Who trusts whom, and why.
//!
//! The agent trusts one CA, by the SHA-256 of its certificate that came with the boot data; the provider sends that CA
//! behind its own certificate, so nothing else has to be carried. The provider trusts no certificate at all: an agent's
//! is self-signed, made anew at each boot, and only proves possession of a key, whose fingerprint the boot token ties to
//! a host.
//!
//! A machine's clock may be off by years. Certificates are therefore judged by the time in the boot data, carried on by
//! the monotonic clock ([`BootClock`]).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ring::digest;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::{
        NoServerSessionStorage, ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject,
};

use crate::BootData;

/// Largest client certificate that is looked at; ours have about 400 bytes.
const MAX_CLIENT_CERTIFICATE: usize = 8 * 1024;

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate is not one.
    #[error("the certificate cannot be read: {0}")]
    Certificate(#[source] Error),
    /// The configuration was refused.
    #[error("the TLS configuration was refused: {0}")]
    Config(#[source] Error),
    /// No key or certificate could be made.
    #[error("the agent's key or certificate could not be made: {0}")]
    Generate(#[from] rcgen::Error),
    /// The PEM text cannot be used.
    #[error("the PEM text cannot be used: {0}")]
    Pem(String),
    /// The pin is not a SHA-256.
    #[error("a CA pin must be 64 hexadecimal digits, got {0:?}")]
    Pin(String),
}

/// Lower-case hex of the SHA-256 of a certificate: how a CA is pinned.
#[must_use]
pub fn certificate_sha256(certificate: &CertificateDer<'_>) -> String {
    hex::encode(digest::digest(&digest::SHA256, certificate))
}

/// Lower-case hex of the SHA-256 of a certificate's public key (SPKI): how an agent is known.
pub fn spki_sha256(certificate: &CertificateDer<'_>) -> Result<String, TlsError> {
    let parsed = ParsedCertificate::try_from(certificate).map_err(TlsError::Certificate)?;
    Ok(hex::encode(digest::digest(&digest::SHA256, &parsed.subject_public_key_info())))
}

/// An agent's key and self-signed certificate, made at each boot and kept in memory only.
#[derive(Debug)]
pub struct AgentIdentity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    fingerprint: String,
}

impl AgentIdentity {
    /// Makes an ECDSA P-256 key and its certificate.
    pub fn generate() -> Result<Self, TlsError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "ferric agent");
        let certificate = parameters.self_signed(&key)?.der().clone();
        let fingerprint = spki_sha256(&certificate)?;
        Ok(Self { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()), fingerprint })
    }

    /// [`spki_sha256`] of the certificate: what the provider will know this agent by.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// The time in the boot data, carried on by the monotonic clock.
#[derive(Debug, Clone)]
pub struct BootClock {
    at_start: u64,
    started: Instant,
}

impl BootClock {
    /// Takes `unix_seconds` as the present.
    #[must_use]
    pub fn starting_at(unix_seconds: u64) -> Self {
        Self { at_start: unix_seconds, started: Instant::now() }
    }

    /// The present, in seconds since 1970.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.at_start.saturating_add(self.started.elapsed().as_secs())
    }
}

impl TimeProvider for BootClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.now())))
    }
}

/// The agent's side: trusts the pinned CA only, shows the agent's certificate. ALPN is left to the caller.
pub fn client_config(boot: &BootData, identity: &AgentIdentity) -> Result<ClientConfig, TlsError> {
    client_config_with_clock(boot, identity, BootClock::starting_at(boot.time()))
}

/// [`client_config`] with a clock that was started earlier.
pub fn client_config_with_clock(
    boot: &BootData,
    identity: &AgentIdentity,
    clock: BootClock,
) -> Result<ClientConfig, TlsError> {
    let provider = crypto_provider();
    let verifier = PinnedCaVerifier::new(boot.ca_sha256(), &provider)?;
    let key = PrivateKeyDer::Pkcs8(identity.key.clone_key());
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(clock))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![identity.certificate.clone()], key)
        .map_err(TlsError::Config)?;
    // An agent connects a handful of times in its life; memory for tickets buys nothing.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// For images that are not served by the provider: trusts the given certificates (PEM) and shows none of its own.
pub fn image_client_config(ca_pem: &[u8], clock: BootClock) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        let certificate = certificate.map_err(|e| TlsError::Pem(e.to_string()))?;
        roots.add(certificate).map_err(TlsError::Certificate)?;
    }
    if roots.is_empty() {
        return Err(TlsError::Pem("no certificate in it".to_owned()));
    }
    let mut config = ClientConfig::builder_with_details(crypto_provider(), Arc::new(clock))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Whether a client must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// A listener that also serves boot artifacts, which firmware fetches without one.
    Optional,
    /// A listener for agents only.
    Required,
}

/// The provider's side. `chain` is the provider's certificate followed by the CA that agents pin.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_auth: ClientAuth,
) -> Result<ServerConfig, TlsError> {
    let provider = crypto_provider();
    let verifier = AnyAgentVerifier::new(client_auth, &provider);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)
        .map_err(TlsError::Config)?;
    // Every connection proves its key anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Believes a server when the chain that it shows holds the pinned CA, and its own certificate is signed by that CA, is
/// in date and is for the name that was dialled.
#[derive(Debug)]
pub struct PinnedCaVerifier {
    pin: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedCaVerifier {
    /// `ca_sha256` is the [`certificate_sha256`] of the CA.
    pub fn new(ca_sha256: &str, provider: &CryptoProvider) -> Result<Self, TlsError> {
        if ca_sha256.len() != 64 || !ca_sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TlsError::Pin(ca_sha256.to_owned()));
        }
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { pin: ca_sha256.to_ascii_lowercase(), algorithms })
    }
}

impl ServerCertVerifier for PinnedCaVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| certificate_sha256(certificate) == self.pin)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Lets in any client that proves possession of the key in the certificate it shows. Who that is, is decided by
/// [`spki_sha256`] and the boot token.
#[derive(Debug)]
pub struct AnyAgentVerifier {
    client_auth: ClientAuth,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyAgentVerifier {
    /// Makes the verifier.
    #[must_use]
    pub fn new(client_auth: ClientAuth, provider: &CryptoProvider) -> Self {
        Self { client_auth, algorithms: provider.signature_verification_algorithms }
    }
}

impl ClientCertVerifier for AnyAgentVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // A self-signed certificate has nothing behind it. Dates are not looked at: the machine's clock may be wrong.
        if end_entity.len() > MAX_CLIENT_CERTIFICATE || !intermediates.is_empty() {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        ParsedCertificate::try_from(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The one crypto provider of this project.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
