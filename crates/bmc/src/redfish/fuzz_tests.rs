//! Damaged documents and captures, as text: from the bytes through the built-in rules to what the driver makes of them. The
//! seeds are what the simulator's vendor families show (`fuzz/corpus/redfish`). `FERRIC_FUZZ_CASES` says how many inputs
//! each decoder gets; the default is a short replay.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::{Value, json};

use super::properties::decode;
use super::{events, identity, json as js};
use crate::capture::{Capture, redact};
use crate::fuzz::fuzz;
use crate::quirks::{Kind, SharedQuirks};
use crate::types::{ConnectOptions, Credentials, EventSink};

/// The documents of all families, one a line.
fn documents() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/redfish");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap());
    let lines: Vec<Vec<u8>> =
        texts.flat_map(|text| text.lines().map(Into::into).collect::<Vec<_>>()).collect();
    assert!(lines.len() > 20, "the corpus is not whole");
    lines
}

fn path_of(document: &Value) -> String {
    js::string(document, "/@odata.id").unwrap_or_else(|| "/x".to_owned())
}

/// All that is made of a document.
fn read(rules: &Arc<SharedQuirks>, document: &mut Value) {
    let kind = Kind::new(rules.clone());
    kind.learn(|identity| {
        identity.learn_root(document);
        identity.learn_system(document);
        identity.learn_manager(document);
    });
    kind.active().mend(&path_of(document), document);
    decode(document, document, 200);
    for pointer in ["/UUID", "/SerialNumber"] {
        if let Some(text) = js::text(document, pointer) {
            let _ = (identity::uuid(text), identity::serial(text));
        }
    }
    let sink = EventSink { destination: "http://provider".into(), context: "context".into() };
    let listed: Vec<_> = events::listed("/x", document).into_iter().collect();
    let _ = (events::is_offered(document), events::decide(&listed, &sink, true));
    assert!(events::bodies(document, &sink).len() <= 4);
}

#[test]
fn no_document_harms_the_redfish_driver() {
    let seeds = documents();
    for seed in &seeds {
        assert!(serde_json::from_slice::<Value>(seed).is_ok(), "{}", String::from_utf8_lossy(seed));
    }
    let rules = Arc::default();
    fuzz(&seeds, 5, |bytes| {
        if let Ok(mut document) = serde_json::from_slice::<Value>(bytes) {
            read(&rules, &mut document);
        }
    });
}

#[test]
fn no_capture_harms_the_redfish_driver() {
    let documents: Vec<Value> =
        documents().iter().map(|bytes| serde_json::from_slice(bytes).unwrap()).collect();
    // Small captures, so that the damage meets each part of them.
    let captures = documents.chunks(3).map(|part| {
        let answers =
            part.iter().map(|it| (path_of(it), json!({"status": 200, "etag": "\"1\"", "body": it})));
        let answers: serde_json::Map<String, Value> = answers.collect();
        let capture =
            json!({"format": "ferric-bmc-capture", "version": 1, "program": "x", "answers": answers});
        capture.to_string().into_bytes()
    });
    let seeds: Vec<Vec<u8>> = captures.collect();
    let options = ConnectOptions {
        address: "redfish://10.0.0.7".parse().unwrap(),
        credentials: Some(Credentials::new("operator7", "pass-word-of-nobody")),
        ca_pem: None,
        certificate_sha256: None,
        insecure: false,
    };
    let rules = Arc::default();
    fuzz(&seeds, 5, |bytes| {
        let Ok(capture) = serde_json::from_slice::<Capture>(bytes) else { return };
        for answer in capture.answers.values() {
            if let Some(mut body) = answer.body.clone() {
                read(&rules, &mut body);
            }
        }
        // What a user sends in may be redacted again.
        let _ = redact(capture.answers, &options);
    });
}
