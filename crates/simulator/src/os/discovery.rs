//! Token discovery as `kubeadm join` does it: the public `cluster-info`, believed only if its signature fits the token's
//! secret and its authority fits the pins. The checks are pure.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::{digest, hmac};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;

use super::kube::{Credentials, Kube, Trust};
use super::kubeadm::BootstrapToken;

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// A cluster that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// `https://host:port`.
    pub(crate) server: String,
    /// Its authority, PEM.
    pub(crate) ca_pem: String,
}

/// Finds the cluster. Every failure is worth another try: the cluster may not be up yet.
pub(crate) async fn discover(with: &BootstrapToken) -> Result<Cluster, String> {
    let endpoint = format!("https://{}", with.api_server_endpoint.trim_start_matches("https://"));
    let text = |error: super::kube::KubeError| error.to_string();
    let first = Kube::new(&endpoint, Trust::Anyone, Credentials::Anonymous).map_err(text)?;
    let info = first.get(PATH).await.map_err(text)?;
    let cluster = check(&info, with)?;
    // Once more, this time from the authority that was just checked.
    let again =
        Kube::new(&endpoint, Trust::Authority(&cluster.ca_pem), Credentials::Anonymous).map_err(text)?;
    let confirmed = again.get(PATH).await.map_err(text)?;
    if confirmed["data"]["kubeconfig"] != info["data"]["kubeconfig"] {
        return Err("cluster-info differs between the first look and the second".to_owned());
    }
    Ok(cluster)
}

/// Checks a `cluster-info` ConfigMap against a token.
fn check(info: &Value, with: &BootstrapToken) -> Result<Cluster, String> {
    let (id, secret) = with.token.split_once('.').ok_or("the bootstrap token has no dot")?;
    let data = &info["data"];
    let kubeconfig = data["kubeconfig"].as_str().ok_or("cluster-info holds no kubeconfig")?;
    let signature = data[format!("jws-kubeconfig-{id}")]
        .as_str()
        .ok_or_else(|| format!("cluster-info is not signed for token {id} (yet)"))?;
    check_signature(kubeconfig, signature, secret)?;
    let config: Value =
        serde_yaml_ng::from_str(kubeconfig).map_err(|error| format!("cluster-info: {error}"))?;
    let cluster = &config["clusters"][0]["cluster"];
    let server = cluster["server"].as_str().ok_or("cluster-info names no server")?.to_owned();
    let ca = cluster["certificate-authority-data"].as_str().ok_or("cluster-info holds no authority")?;
    let ca = STANDARD.decode(ca).map_err(|error| format!("cluster-info's authority: {error}"))?;
    let ca_pem = String::from_utf8(ca).map_err(|error| format!("cluster-info's authority: {error}"))?;
    check_pin(&ca_pem, with)?;
    Ok(Cluster { server, ca_pem })
}

/// A detached JWS, HS256 with the token's secret.
fn check_signature(payload: &str, signature: &str, secret: &str) -> Result<(), String> {
    let mut parts = signature.split('.');
    let (Some(header), Some(""), Some(tag), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("cluster-info's signature is no detached JWS".to_owned());
    };
    let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| "cluster-info's signature is not base64url")?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
    hmac::verify(&key, signed.as_bytes(), &tag)
        .map_err(|_| "cluster-info's signature does not fit the bootstrap token".to_owned())
}

fn check_pin(ca_pem: &str, with: &BootstrapToken) -> Result<(), String> {
    if with.ca_cert_hashes.is_empty() {
        let skip = with.unsafe_skip_ca_verification;
        return if skip { Ok(()) } else { Err("no caCertHashes are given".to_owned()) };
    }
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("cluster-info's authority: {error}"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| format!("cluster-info's authority: {error}"))?;
        let pin = hex::encode(digest::digest(&digest::SHA256, parsed.public_key().raw));
        if with.ca_cert_hashes.iter().any(|hash| hash.eq_ignore_ascii_case(&format!("sha256:{pin}"))) {
            return Ok(());
        }
    }
    Err("the cluster's authority does not fit caCertHashes".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn signed(payload: &str, secret: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"abcdef"}"#);
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let tag = hmac::sign(&key, format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload)).as_bytes());
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn world() -> (Value, BootstrapToken) {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(ca.der()).unwrap();
        let pin = hex::encode(digest::digest(&digest::SHA256, parsed.public_key().raw));
        let kubeconfig = format!(
            "clusters:\n- name: ''\n  cluster: {{server: 'https://127.0.0.1:6443', certificate-authority-data: {}}}\n",
            STANDARD.encode(ca.pem())
        );
        let info =
            json!({"data": {"kubeconfig": kubeconfig, "jws-kubeconfig-abcdef": signed(&kubeconfig, SECRET)}});
        let token = BootstrapToken {
            token: format!("abcdef.{SECRET}"),
            ca_cert_hashes: vec![format!("sha256:{pin}")],
            ..BootstrapToken::default()
        };
        (info, token)
    }

    #[test]
    fn believes_what_is_signed_and_pinned() {
        let (info, token) = world();
        assert_eq!(check(&info, &token).unwrap().server, "https://127.0.0.1:6443");
    }

    #[test]
    fn believes_nothing_else() {
        let (info, token) = world();
        let other_token = BootstrapToken { token: "abcdef.fedcba9876543210".to_owned(), ..token.clone() };
        assert!(check(&info, &other_token).unwrap_err().contains("signature"));
        let other_id = BootstrapToken { token: format!("ghijkl.{SECRET}"), ..token.clone() };
        assert!(check(&info, &other_id).unwrap_err().contains("not signed"));
        let other_pin = BootstrapToken { ca_cert_hashes: vec!["sha256:00".to_owned()], ..token.clone() };
        assert!(check(&info, &other_pin).unwrap_err().contains("caCertHashes"));
        let no_pin = BootstrapToken { ca_cert_hashes: Vec::new(), ..token.clone() };
        assert!(check(&info, &no_pin).is_err());
        let mut changed = info.clone();
        changed["data"]["kubeconfig"] = json!("clusters: []");
        assert!(check(&changed, &token).unwrap_err().contains("signature"));
        assert!(check(&json!({}), &token).is_err());
    }
}
