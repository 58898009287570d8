//! Certificates and keys of a control plane. ECDSA P-256 throughout: quick to make, and every component accepts it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::error::{Error, Result};

/// A certificate authority that issues certificates.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct CertAndKey {
    /// The certificate.
    pub cert_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: String,
}

impl std::fmt::Debug for CertAndKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertAndKey").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A server proves who it is.
    Server,
    /// A client proves who it is.
    Client,
    /// Both, as between the members of etcd.
    Peer,
}

impl Ca {
    /// Makes a new self-signed authority.
    pub fn new(common_name: &str) -> Result<Self> {
        let failed = failed(common_name);
        let key = KeyPair::generate().map_err(&failed)?;
        let mut params = params(common_name, None, &[]).map_err(&failed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert_pem = params.self_signed(&key).map_err(&failed)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), cert_pem })
    }

    /// Takes up an existing authority, such as one that Cluster API made.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self> {
        let failed = failed("an authority from existing PEM files");
        let key = KeyPair::from_pem(key_pem).map_err(&failed)?;
        let issuer = Issuer::from_ca_cert_pem(cert_pem, key).map_err(&failed)?;
        Ok(Self { issuer, cert_pem: cert_pem.to_owned() })
    }

    /// The authority's certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's private key.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues a certificate with a new key. `organization` is a group to Kubernetes; `names` are DNS names or
    /// IP addresses.
    pub fn issue(
        &self,
        common_name: &str,
        organization: Option<&str>,
        names: &[String],
        usage: Usage,
    ) -> Result<CertAndKey> {
        let failed = failed(common_name);
        let key = KeyPair::generate().map_err(&failed)?;
        let mut params = params(common_name, organization, names).map_err(&failed)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Peer => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer).map_err(&failed)?;
        Ok(CertAndKey { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

/// A key pair for signing ServiceAccount tokens: private and public key as PEM.
pub(crate) fn service_account_keys() -> Result<(String, String)> {
    let key = KeyPair::generate().map_err(failed("the ServiceAccount key"))?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// Where a certificate and its key were written.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl CertAndKey {
    /// Writes `<name>.crt` and `<name>.key` into `folder`.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> Result<Files> {
        let files =
            Files { cert: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) };
        write_file(&files.cert, &self.cert_pem)?;
        write_secret(&files.key, &self.key_pem)?;
        Ok(files)
    }
}

pub(crate) fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::file("write", path))
}

/// Writes a file that only its owner may read.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(Error::file("write", path))
}

fn params(
    common_name: &str,
    organization: Option<&str>,
    names: &[String],
) -> std::result::Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    // Dates wide enough that neither a wrong clock nor a long-lived cache matters.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 12, 31);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    Ok(params)
}

fn failed(what: &str) -> impl Fn(rcgen::Error) -> Error {
    move |source| Error::Certificate { what: format!("a certificate for {what}"), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_authority_read_back_issues_under_the_same_certificate() {
        let ca = Ca::new("kubernetes").unwrap();
        let again = Ca::from_pem(ca.cert_pem(), &ca.key_pem()).unwrap();
        assert_eq!(again.cert_pem(), ca.cert_pem());
        let leaf = again.issue("admin", Some("system:masters"), &[], Usage::Client).unwrap();
        assert!(leaf.cert_pem.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(leaf.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    }

    #[test]
    fn a_debug_print_shows_no_key() {
        let ca = Ca::new("kubernetes").unwrap();
        let leaf = ca.issue("x", None, &["127.0.0.1".to_owned()], Usage::Server).unwrap();
        assert!(!format!("{ca:?}{leaf:?}").contains("PRIVATE"));
    }
}
