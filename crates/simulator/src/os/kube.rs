//! The few requests that a joining node makes to its cluster, with a time and a byte limit on each.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::Value;

/// Longest time for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Largest answer.
const ANSWER_LIMIT: usize = 8 << 20;

/// What a request came to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubeError {
    #[error("{method} {path}: HTTP {status}: {message}")]
    Status { method: &'static str, path: String, status: u16, message: String },
    #[error("{method} {path}: {why}")]
    Transport { method: &'static str, path: String, why: String },
    #[error("the client for the cluster cannot be made: {0}")]
    Client(String),
}

impl KubeError {
    pub(crate) fn status(&self) -> Option<u16> {
        if let Self::Status { status, .. } = self { Some(*status) } else { None }
    }
}

/// Who the client says it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Credentials<'a> {
    Anonymous,
    Token(&'a str),
    Certificate { cert_pem: &'a str, key_pem: &'a str },
}

/// Whom the client trusts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// Anyone: for the first look at a cluster whose authority is then compared with a pin.
    Anyone,
    /// Certificates under this authority (PEM).
    Authority(&'a str),
}

/// A client of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Kube {
    server: String,
    http: reqwest::Client,
    token: Option<String>,
}

impl Kube {
    /// `server` is `https://host:port`.
    pub(crate) fn new(
        server: &str,
        trust: Trust<'_>,
        credentials: Credentials<'_>,
    ) -> Result<Self, KubeError> {
        let config = tls(trust, credentials).map_err(|error| KubeError::Client(error.to_string()))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .timeout(REQUEST_LIMIT)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| KubeError::Client(error.to_string()))?;
        let token = if let Credentials::Token(token) = credentials { Some(token.to_owned()) } else { None };
        Ok(Self { server: server.trim_end_matches('/').to_owned(), http, token })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, KubeError> {
        self.send("GET", path, None, "application/json").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, KubeError> {
        self.send("POST", path, Some(body), "application/json").await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Result<Value, KubeError> {
        self.send("DELETE", path, Some(options), "application/json").await
    }

    /// Strategic merge patch.
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Value, KubeError> {
        self.send("PATCH", path, Some(body), "application/strategic-merge-patch+json").await
    }

    async fn send(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
        content_type: &str,
    ) -> Result<Value, KubeError> {
        let failed = |why: String| KubeError::Transport { method, path: path.to_owned(), why };
        let verb =
            reqwest::Method::from_bytes(method.as_bytes()).map_err(|error| failed(error.to_string()))?;
        let mut request = self.http.request(verb, format!("{}{path}", self.server));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", content_type).body(body.to_string());
        }
        let mut response = request.send().await.map_err(|error| failed(chain(&error)))?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(chain(&error)))? {
            if bytes.len() + chunk.len() > ANSWER_LIMIT {
                return Err(failed(format!("the answer has more than {ANSWER_LIMIT} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(value);
        }
        let said = value.get("message").and_then(Value::as_str).map(str::to_owned);
        let message = said.unwrap_or_else(|| String::from_utf8_lossy(&bytes).chars().take(200).collect());
        Err(KubeError::Status { method, path: path.to_owned(), status: status.as_u16(), message })
    }
}

/// An error with its causes: `reqwest` alone says only "error sending request".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn tls(trust: Trust<'_>, credentials: Credentials<'_>) -> Result<ClientConfig, Box<dyn std::error::Error>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))),
        Trust::Authority(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(certificate?)?;
            }
            builder.with_root_certificates(roots)
        }
    };
    Ok(match credentials {
        Credentials::Certificate { cert_pem, key_pem } => {
            let chain = CertificateDer::pem_slice_iter(cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?)?
        }
        _ => builder.with_no_client_auth(),
    })
}

/// Believes any certificate. What is read through it is checked by a pin and a signature before it is used.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
