//! The certificates of the BMCs: one authority for the fleet, kept in the state folder so that Secrets stay right when
//! the simulator is started again, and a certificate per BMC, made when somebody first connects to it.

use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::error::{Error, Result};

pub(crate) struct FleetTls {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    /// One key for all BMCs: ten thousand keys would buy nothing.
    key: KeyPair,
    provider: Arc<CryptoProvider>,
    tickets: Arc<dyn ProducesTickets>,
}

impl FleetTls {
    pub(crate) fn load_or_make(folder: &Path) -> Result<Self> {
        let (cert_path, key_path) = (folder.join("bmc-ca.crt"), folder.join("bmc-ca.key"));
        let failed = |source| Error::Certificate { what: "the BMCs' authority".to_owned(), source };
        let (ca_pem, issuer) = if cert_path.exists() && key_path.exists() {
            let pem = std::fs::read_to_string(&cert_path).map_err(Error::file("read", &cert_path))?;
            let key = std::fs::read_to_string(&key_path).map_err(Error::file("read", &key_path))?;
            let key = KeyPair::from_pem(&key).map_err(failed)?;
            let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(failed)?;
            (pem, issuer)
        } else {
            let key = KeyPair::generate().map_err(failed)?;
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "simulated BMCs");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
            let pem = params.self_signed(&key).map_err(failed)?.pem();
            std::fs::write(&cert_path, &pem).map_err(Error::file("write", &cert_path))?;
            write_secret(&key_path, key.serialize_pem().as_bytes())?;
            (pem, Issuer::new(params, key))
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self {
            ca_pem,
            issuer,
            key: KeyPair::generate().map_err(failed)?,
            tickets: rustls::crypto::ring::Ticketer::new()?,
            provider,
        })
    }

    /// Certificate of the authority, PEM.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// TLS settings of the BMC at `ip`: with a certificate of the authority, or with one that signed itself.
    pub(crate) fn server_config(&self, ip: IpAddr, of_authority: bool) -> Result<Arc<ServerConfig>> {
        let failed = |source| Error::Certificate { what: format!("a certificate for {ip}"), source };
        let mut params = CertificateParams::new(vec![ip.to_string()]).map_err(failed)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("bmc {ip}"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (certificate, key) = if of_authority {
            (params.signed_by(&self.key, &self.issuer).map_err(failed)?, self.key.serialize_der())
        } else {
            let key = KeyPair::generate().map_err(failed)?;
            (params.self_signed(&key).map_err(failed)?, key.serialize_der())
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        // Tickets only: a cache per BMC would be most of an idle server's memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A ticket of the one certificate is none of the other's: whoever shows it would not be shown the certificate.
        config.ticketer = match of_authority {
            true => Arc::clone(&self.tickets),
            false => rustls::crypto::ring::Ticketer::new()?,
        };
        config.send_tls13_tickets = 1;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Writes a file that only its owner may read.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(Error::file("write", path))
}
