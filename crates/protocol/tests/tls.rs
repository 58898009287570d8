//! Handshakes between the agent's and the provider's configuration, in memory.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use ferric_protocol::{
    BootData,
    tls::{
        AgentIdentity, BootClock, ClientAuth, certificate_sha256, client_config_with_clock, server_config,
        spki_sha256,
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

const PRESENT: u64 = 1_800_000_000; // 2027-01-15

struct Provider {
    ca: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
    key: KeyPair,
}

fn provider(name: &str) -> Provider {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (ca.not_before, ca.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2030, 1, 1));
    ca.distinguished_name.push(rcgen::DnType::CommonName, "provider ca");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (leaf.not_before, leaf.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2028, 1, 1));
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &ca).unwrap().der().clone();
    Provider { ca: ca.der().clone(), leaf, key }
}

fn key_of(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

/// The client's view of the handshake, and the certificate that the server saw.
fn handshake(
    server: rustls::ServerConfig,
    client: rustls::ClientConfig,
    name: &'static str,
) -> Result<Option<CertificateDer<'static>>, rustls::Error> {
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from(name).unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(server.peer_certificates().map(|c| c[0].clone().into_owned()))
}

fn client(pin: &str, identity: &AgentIdentity, now: u64) -> rustls::ClientConfig {
    let boot = BootData::new("https://provider.test:1", pin, "t", now).unwrap();
    client_config_with_clock(&boot, identity, BootClock::starting_at(now)).unwrap()
}

fn server(provider: &Provider, auth: ClientAuth) -> rustls::ServerConfig {
    server_config(vec![provider.leaf.clone(), provider.ca.clone()], key_of(&provider.key), auth).unwrap()
}

#[test]
fn a_pinned_ca_is_believed_and_the_agent_is_known_by_its_key() {
    let (provider, agent) = (provider("provider.test"), AgentIdentity::generate().unwrap());
    let pin = certificate_sha256(&provider.ca);
    let seen =
        handshake(server(&provider, ClientAuth::Required), client(&pin, &agent, PRESENT), "provider.test")
            .unwrap();
    assert_eq!(spki_sha256(&seen.unwrap()).unwrap(), agent.fingerprint());
    assert_ne!(agent.fingerprint(), AgentIdentity::generate().unwrap().fingerprint());
}

#[test]
fn another_ca_another_name_and_a_missing_ca_are_refused() {
    let (good, evil) = (provider("provider.test"), provider("provider.test"));
    let agent = AgentIdentity::generate().unwrap();
    let pin = certificate_sha256(&good.ca);
    let fails = |server, name| {
        let error = handshake(server, client(&pin, &agent, PRESENT), name).unwrap_err();
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    };
    fails(server(&evil, ClientAuth::Required), "provider.test");
    fails(server(&good, ClientAuth::Required), "other.test");
    let without_ca = server_config(vec![good.leaf.clone()], key_of(&good.key), ClientAuth::Required).unwrap();
    fails(without_ca, "provider.test");
    // The pinned CA is shown, but did not sign the certificate.
    let borrowed =
        server_config(vec![evil.leaf.clone(), good.ca.clone()], key_of(&evil.key), ClientAuth::Required)
            .unwrap();
    fails(borrowed, "provider.test");
}

#[test]
fn certificates_are_judged_by_the_time_in_the_boot_data() {
    let (provider, agent) = (provider("provider.test"), AgentIdentity::generate().unwrap());
    let pin = certificate_sha256(&provider.ca);
    for (now, good) in [(PRESENT, true), (1_600_000_000, false), (1_900_000_000, false)] {
        let result =
            handshake(server(&provider, ClientAuth::Required), client(&pin, &agent, now), "provider.test");
        assert_eq!(result.is_ok(), good, "{now}: {result:?}");
    }
}

#[test]
fn a_client_without_a_certificate_is_let_in_only_where_it_may() {
    let provider = provider("provider.test");
    let bare = || {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(provider.ca.clone()).unwrap();
        rustls::ClientConfig::builder_with_details(
            ferric_protocol::tls::crypto_provider(),
            Arc::new(BootClock::starting_at(PRESENT)),
        )
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
    };
    assert_eq!(handshake(server(&provider, ClientAuth::Optional), bare(), "provider.test"), Ok(None));
    assert!(handshake(server(&provider, ClientAuth::Required), bare(), "provider.test").is_err());
}

/// A signer that has another key than its certificate says: shows somebody else's certificate.
#[test]
fn somebody_elses_certificate_is_refused() {
    let (provider, victim) = (provider("provider.test"), AgentIdentity::generate().unwrap());
    let pin = certificate_sha256(&provider.ca);
    // Take the victim's certificate off the wire.
    let seen =
        handshake(server(&provider, ClientAuth::Required), client(&pin, &victim, PRESENT), "provider.test")
            .unwrap()
            .unwrap();
    #[derive(Debug)]
    struct Thief(Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Thief {
        fn resolve(
            &self,
            _: &[&[u8]],
            _: &[rustls::SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let own = rustls::crypto::ring::sign::any_supported_type(&key_of(&KeyPair::generate().unwrap())).unwrap();
    let mut config = client(&pin, &victim, PRESENT);
    config.client_auth_cert_resolver =
        Arc::new(Thief(Arc::new(rustls::sign::CertifiedKey::new(vec![seen], own))));
    assert!(handshake(server(&provider, ClientAuth::Required), config, "provider.test").is_err());
}
