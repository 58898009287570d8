#![allow(clippy::unwrap_used)]

use super::*;

/// An authority as the kubeadm control-plane provider makes it: RSA 2048, PKCS#1. It signs nothing but this test.
const CA: (&str, &str) = (include_str!("testdata/rsa-ca.crt"), include_str!("testdata/rsa-ca.key"));

#[test]
fn an_rsa_authority_signs() {
    let authority = Authority::from_pem(CA.0, CA.1).unwrap();
    let names = ["127.64.0.1".to_owned(), "node-1".to_owned()];
    let leaf = authority.issue("kube-apiserver", Some("system:masters"), &names, Usage::Both).unwrap();
    let parse = |pem: &str| rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (ca, leaf) = (parse(CA.0), parse(&leaf.cert_pem));
    let (_, ca) = x509_parser::parse_x509_certificate(&ca).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    assert_eq!(leaf.issuer(), ca.subject());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(parse(CA.0)).unwrap();
    assert_eq!(leaf.subject().to_string(), "O=system:masters, CN=kube-apiserver");
    ring::signature::UnparsedPublicKey::new(
        &ring::signature::RSA_PKCS1_2048_8192_SHA256,
        &ca.public_key().subject_public_key.data,
    )
    .verify(leaf.tbs_certificate.as_ref(), &leaf.signature_value.data)
    .unwrap();
}

#[test]
fn keys_of_other_forms_are_refused() {
    assert!(Authority::from_pem(CA.0, "nonsense").is_err());
    assert!(
        Authority::from_pem(CA.0, "-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n")
            .is_err()
    );
}
