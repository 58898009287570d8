//! Takes out of answers what tells whose they are: first all such values are gathered by their keys, then they are
//! replaced wherever they stand, in texts, keys and paths, and what looks like one is replaced besides.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use super::CapturedAnswer;
use super::literals::Literals;
use super::names::{Kind, StandIns, kind};
use super::scan::{scan, urls};
use crate::types::ConnectOptions;

/// What stands for what nothing is kept of.
const GONE: &str = "REDACTED";
/// How deep documents are followed.
const DEPTH: usize = 128;

/// Answers without what tells whose they are.
pub(crate) fn redact(
    answers: BTreeMap<String, CapturedAnswer>,
    options: &ConnectOptions,
) -> BTreeMap<String, CapturedAnswer> {
    let mut redactor = Redactor::default();
    for (path, answer) in &answers {
        redactor.words.extend(path.split('/').map(str::to_ascii_lowercase));
        if let Some(body) = &answer.body {
            redactor.gather(None, body, 0);
        }
    }
    if let Some(credentials) = &options.credentials {
        redactor.names.push((Kind::User, credentials.username.clone()));
        redactor.literals.add(&credentials.password, GONE);
    }
    if options.address.host().parse::<std::net::IpAddr>().is_err() {
        redactor.names.push((Kind::Host, options.address.host().to_owned()));
    }
    redactor.settle();
    answers
        .into_iter()
        .map(|(path, answer)| {
            let CapturedAnswer { status, etag, body } = answer;
            let etag = etag.map(|etag| redactor.text(None, &etag));
            let body = body.map(|body| redactor.value(None, body, 0));
            (redactor.text(None, &path), CapturedAnswer { status, etag, body })
        })
        .collect()
}

#[derive(Debug, Default)]
struct Redactor {
    stand_ins: StandIns,
    literals: Literals,
    names: Vec<(Kind, String)>,
    /// Keys and parts of paths in lower case: these words are no names.
    words: HashSet<String>,
}

impl Redactor {
    fn gather(&mut self, key: Option<&str>, value: &Value, depth: usize) {
        if depth > DEPTH {
            return;
        }
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    self.words.insert(key.to_ascii_lowercase());
                    self.gather(Some(key), value, depth + 1);
                }
            }
            Value::Array(list) => list.iter().for_each(|item| self.gather(key, item, depth + 1)),
            Value::String(text) => match key.and_then(kind) {
                Some(kind @ (Kind::Serial | Kind::Host | Kind::User)) if is_name(text) => {
                    self.names.push((kind, text.trim().to_owned()));
                }
                Some(Kind::Wide) => {
                    for digits in text.split(|c: char| !c.is_ascii_hexdigit()).filter(|run| run.len() >= 12) {
                        let stand_in = self.stand_ins.hex(digits);
                        self.literals.add(digits, &stand_in);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// Makes the stand-ins of all names. Serial numbers first: host names are often made of them.
    fn settle(&mut self) {
        let names = std::mem::take(&mut self.names);
        for wanted in [Kind::Serial, Kind::Host, Kind::User] {
            for (kind, text) in names.iter().filter(|(kind, _)| *kind == wanted) {
                // A word that answers are made of stays where it is one; at its own key it goes. What tells one server
                // from another has a digit, and may well be part of a path.
                let telling =
                    *kind == Kind::Serial && text.len() > 4 && text.bytes().any(|b| b.is_ascii_digit());
                if telling || !self.words.contains(&text.to_ascii_lowercase()) {
                    let stand_in = self.stand_ins.name(*kind, text);
                    self.literals.add(text, &stand_in);
                }
            }
        }
        self.literals.sort();
    }

    fn value(&mut self, key: Option<&str>, value: Value, depth: usize) -> Value {
        match value {
            _ if depth > DEPTH => Value::Null,
            Value::Object(map) => {
                let map: Map<String, Value> = map
                    .into_iter()
                    .map(|(key, value)| (self.text(None, &key), self.value(Some(&key), value, depth + 1)))
                    .collect();
                Value::Object(map)
            }
            Value::Array(list) => {
                list.into_iter().map(|item| self.value(key, item, depth + 1)).collect::<Vec<_>>().into()
            }
            Value::String(text) => self.text(key, &text).into(),
            Value::Number(_) if matches!(key.and_then(kind), Some(Kind::Serial | Kind::Secret)) => 0.into(),
            other => other,
        }
    }

    fn text(&mut self, key: Option<&str>, text: &str) -> String {
        let kind = key.and_then(kind);
        match kind {
            Some(Kind::Secret) if !text.is_empty() && !text.starts_with('/') => return GONE.to_owned(),
            Some(kind @ (Kind::Serial | Kind::Host | Kind::User)) if is_name(text) => {
                return self.stand_ins.name(kind, text.trim());
            }
            _ => {}
        }
        if text.contains('@') && is_mail(text) {
            return GONE.to_owned();
        }
        let plain = urls(text, &mut self.stand_ins);
        let known = self.literals.apply(&plain);
        scan(&known, kind == Some(Kind::Version), &mut self.stand_ins)
    }
}

/// Whether a text names something: not empty, no placeholder, no link.
fn is_name(text: &str) -> bool {
    !text.starts_with('/') && crate::redfish::real_serial(text).is_some()
}

fn is_mail(text: &str) -> bool {
    text.split_whitespace().any(|word| {
        word.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty()
                && host.contains('.')
                && host.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
                && !word.contains('/')
                && !word.starts_with('#')
                && user.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+'))
                && !host.starts_with("odata.")
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::Credentials;
    use serde_json::json;

    fn options() -> ConnectOptions {
        ConnectOptions {
            address: "redfish://bmc7.lab.example".parse().unwrap(),
            credentials: Some(Credentials::new("operator7", "hunter2secret")),
            ca_pem: None,
            certificate_sha256: None,
            insecure: false,
        }
    }

    fn answers(bodies: &[(&str, Value)]) -> BTreeMap<String, CapturedAnswer> {
        let answer = |body: &Value| CapturedAnswer { status: 200, etag: None, body: Some(body.clone()) };
        bodies.iter().map(|(path, body)| ((*path).to_owned(), answer(body))).collect()
    }

    #[test]
    fn nothing_tells_whose_it_is() {
        let before = answers(&[
            (
                "/redfish/v1/Systems/F54P1G3",
                json!({"@odata.id": "/redfish/v1/Systems/F54P1G3", "SerialNumber": "F54P1G3", "SKU": "To be filled by O.E.M.",
                    "UUID": "4C4C4544-0035-3410-8050-C6C04F314733", "HostName": "idrac-f54p1g3.lab.example",
                    "Name": "idrac-F54P1G3", "AssetTag": "", "BiosVersion": "1.8.2.1", "CapacityBytes": 5,
                    "Note": "operator7 logged in with hunter2secret at bmc7.lab.example",
                    "Location": {"PostalAddress": {"Street": "Main 1"}, "Rack": "R7"},
                    "MAC": "70:B5:E8:F0:52:DC", "Path": "MAC(70B5E8F052DC,0x1)", "F54P1G3": 1,
                    "Image": "https://10.1.2.3:6180/boot/secrettoken/agent.iso", "IPv4": ["10.1.2.3", "0.0.0.0"]}),
            ),
            (
                "/redfish/v1/Managers/1",
                json!({"FirmwareVersion": "7.2.2.0", "Links": {"ManagerForServers": [{"@odata.id": "/redfish/v1/Systems/F54P1G3"}]},
                    "Identifiers": [{"DurableName": "naa.5000039848121234", "DurableNameFormat": "NAA"}], "Old": "x 5000039848121234"}),
            ),
        ]);
        let after = redact(before, &options());
        let text = serde_json::to_string(&after).unwrap();
        for leak in [
            "F54P1G3",
            "f54p1g3",
            "4C4C4544",
            "F052DC",
            "F0:52:DC",
            "10.1.2.3",
            "operator7",
            "hunter2",
            "bmc7",
            "lab.example",
            "Main 1",
            "R7",
            "secrettoken",
            "9848121234",
        ] {
            assert!(!text.contains(leak), "{leak} in {text}");
        }
        let system = after["/redfish/v1/Systems/SERIAL0001"].body.as_ref().unwrap();
        assert_eq!(system["@odata.id"], "/redfish/v1/Systems/SERIAL0001");
        assert_eq!((&system["BiosVersion"], &system["CapacityBytes"]), (&json!("1.8.2.1"), &json!(5)));
        assert_eq!(system["SKU"], "To be filled by O.E.M.", "a placeholder says nothing and matters");
        assert_eq!(system["IPv4"], json!(["192.0.2.1", "0.0.0.0"]));
        let manager = after["/redfish/v1/Managers/1"].body.as_ref().unwrap();
        assert_eq!(manager["FirmwareVersion"], "7.2.2.0");
        assert_eq!(manager["Links"]["ManagerForServers"][0]["@odata.id"], "/redfish/v1/Systems/SERIAL0001");
        assert_eq!(manager["Identifiers"][0]["DurableName"], "naa.5000030000000001");
    }

    #[test]
    fn words_that_answers_are_made_of_stay() {
        let mut options = options();
        options.credentials = Some(Credentials::new("Systems", "pw"));
        let after = redact(
            answers(&[(
                "/redfish/v1",
                json!({"Systems": {"@odata.id": "/redfish/v1/Systems"}, "UserName": "Systems"}),
            )]),
            &options,
        );
        let root = after["/redfish/v1"].body.as_ref().unwrap();
        assert_eq!(root["Systems"]["@odata.id"], "/redfish/v1/Systems");
        assert_eq!(root["UserName"], "user0001");
    }
}
