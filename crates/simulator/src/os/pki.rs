//! Certificates of a control-plane machine, signed with the authorities that came in its user data. Those have RSA keys
//! in the old PKCS#1 form; the certificates made here have P-256 keys, which every component accepts.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Server,
    Client,
    Both,
}

impl Authority {
    pub(crate) fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, String> {
        let key = read_key(key_pem)?;
        let issuer =
            Issuer::from_ca_cert_pem(cert_pem, key).map_err(|error| format!("an authority: {error}"))?;
        Ok(Self { issuer })
    }

    pub(crate) fn issue(
        &self,
        common_name: &str,
        organization: Option<&str>,
        names: &[String],
        usage: Usage,
    ) -> Result<Certificate, String> {
        let failed = |error: rcgen::Error| format!("a certificate for {common_name}: {error}");
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
        let year = i32::from(jiff::Zoned::now().year());
        params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
        params.not_after = rcgen::date_time_ymd(year + 2, 1, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Certificate { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

impl Certificate {
    /// Writes `<name>.crt` and `<name>.key`.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> Result<(PathBuf, PathBuf), String> {
        let (cert, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        if let Some(parent) = cert.parent() {
            std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
        }
        for (path, text) in [(&cert, &self.cert_pem), (&key, &self.key_pem)] {
            crate::tls::write_secret(path, text.as_bytes()).map_err(|error| error.to_string())?;
        }
        Ok((cert, key))
    }
}

fn read_key(pem: &str) -> Result<KeyPair, String> {
    let failed = |error: String| format!("an authority's key: {error}");
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| failed(error.to_string()))?;
    let pkcs8 = match &key {
        PrivateKeyDer::Pkcs1(key) => rsa_pkcs8(key.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der().to_vec(),
        _ => return Err(failed("neither PKCS#1 nor PKCS#8".to_owned())),
    };
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8)).map_err(|error| failed(error.to_string()))
}

/// Wraps an RSA key: `SEQUENCE { 0, SEQUENCE { rsaEncryption, NULL }, OCTET STRING { key } }`.
fn rsa_pkcs8(pkcs1: &[u8]) -> Vec<u8> {
    const VERSION_AND_ALGORITHM: [u8; 18] = [
        0x02, 0x01, 0x00, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05,
        0x00,
    ];
    let content = [VERSION_AND_ALGORITHM.as_slice(), &tlv(0x04, pkcs1)].concat();
    tlv(0x30, &content)
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut out = vec![tag];
    match significant.as_slice() {
        [] => out.push(0),
        [one] if *one < 0x80 => out.push(*one),
        // At most eight bytes of length.
        many => {
            out.push(0x80 | u8::try_from(many.len()).unwrap_or(8));
            out.extend_from_slice(many);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
#[path = "pki_tests.rs"]
mod tests;
