//! Whatever a BMC answers, redaction does not panic, and what is known to be secret does not pass.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::names::StandIns;
use super::scan::{scan, urls};
use super::{CapturedAnswer, redact};
use crate::cases::{cases, matching};
use crate::types::{ConnectOptions, Credentials};

const PASSWORD: &str = "correct7horse";
const SERIAL: &str = "MXQ302099S";
const MAC: &str = "7C:C2:55:50:A8:FF";

/// Texts made of pieces that look like something, so that pieces stand beside and in one another.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(
            &[
                PASSWORD,
                SERIAL,
                MAC,
                "7cc25550a8ff",
                "10.0.0.7",
                "fe80::1",
                "::",
                ":",
                "-",
                ".",
                "/",
                "0x",
                "://",
                "http://u:p@h/x",
                "@",
                "a.b",
                "é",
                "\u{0}",
                " ",
                "4C4C4544-0035-3410-8050-C6C04F314733",
                "00"
            ][..]
        )
        .prop_map(str::to_owned),
        matching(".{0,5}"),
        matching("[0-9a-fA-F:.-]{0,40}"),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn body() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        proptest::sample::select(
            &[
                "SerialNumber",
                "Name",
                "MACAddress",
                "Password",
                "UUID",
                "HostName",
                "UserName",
                "@odata.id",
                "FirmwareVersion",
                "DurableName",
                "Image"
            ][..]
        )
        .prop_map(str::to_owned),
        text(),
    ];
    let leaf =
        prop_oneof![text().prop_map(Value::from), any::<i64>().prop_map(Value::from), Just(Value::Null)];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..5)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases(500)) })]

    #[test]
    fn no_secret_passes(body in body(), path in text()) {
        let known = json!({"SerialNumber": SERIAL, "MACAddress": MAC});
        let answer = |body| CapturedAnswer { status: 200, etag: None, body: Some(body) };
        let answers = BTreeMap::from([(path, answer(body)), ("/redfish/v1/Systems/1".to_owned(), answer(known))]);
        let options = ConnectOptions {
            address: "redfish://10.0.0.7".parse().unwrap(),
            credentials: Some(Credentials::new("operator7", PASSWORD)),
            ca_pem: None,
            certificate_sha256: None,
            insecure: false,
        };
        let after = serde_json::to_string(&redact(answers, &options)).unwrap().to_lowercase();
        for secret in [PASSWORD, SERIAL] {
            prop_assert!(!after.contains(&secret.to_lowercase()), "{} in {}", secret, after);
        }
    }

    #[test]
    fn any_text_is_scanned(text in text()) {
        let mut names = StandIns::default();
        let plain = urls(&text, &mut names);
        let _ = (scan(&plain, true, &mut names), scan(&text, false, &mut names));
    }
}
