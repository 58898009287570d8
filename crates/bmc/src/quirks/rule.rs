//! The file format of quirks: read, checked, and each rule by itself, so that a bad one costs only itself.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::manner::Send;
use super::patch::{Operation, Pointer, RawOperation};
use super::version::Range;
use super::{Identity, QuirkError};

/// The version of the format.
const VERSION: u64 = 1;
/// Largest file, in bytes.
const FILE: usize = 256 << 10;
/// Most rules of a file.
const RULES: usize = 512;
/// Most operations and conditions of a rule.
const PARTS: usize = 64;
/// Most characters of a name or a pattern.
const NAME: usize = 100;
/// Most characters of `seen`.
const SEEN: usize = 1000;

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Box<str>,
    pub(super) seen: Box<str>,
    /// Which file it is from.
    pub(super) source: Arc<str>,
    vendors: Vec<String>,
    products: Vec<String>,
    firmware: Option<Range>,
    types: Vec<String>,
    path: Option<String>,
    conditions: Vec<Condition>,
    operations: Vec<Operation>,
    pub(super) send: Option<Send>,
}

#[derive(Debug)]
struct Condition {
    at: Pointer,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present(bool),
    Equals(Value),
    Contains(String),
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) rules: Vec<Rule>,
    /// Names of rules that are left out.
    pub(super) without: Vec<String>,
    pub(super) errors: Vec<QuirkError>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    version: u64,
    #[serde(default)]
    rules: Vec<Value>,
    #[serde(default)]
    without: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: String,
    seen: String,
    #[serde(rename = "match")]
    fits: RawMatch,
    #[serde(default)]
    patch: Vec<RawOperation>,
    send: Option<Send>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMatch {
    vendor: Texts,
    product: Option<Texts>,
    firmware: Option<String>,
    #[serde(rename = "type")]
    types: Option<Texts>,
    path: Option<String>,
    #[serde(default, rename = "where")]
    conditions: Vec<RawCondition>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    at: String,
    present: Option<bool>,
    equals: Option<Value>,
    contains: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn checked(self, key: &str) -> Result<Vec<String>, String> {
        let list = match self {
            Self::One(text) => vec![text],
            Self::Many(list) => list,
        };
        let fits = |text: &String| !text.trim().is_empty() && text.len() <= NAME;
        if list.is_empty() || list.len() > PARTS || !list.iter().all(fits) {
            return Err(format!("match.{key} needs 1 to {PARTS} texts of 1 to {NAME} bytes"));
        }
        Ok(list)
    }
}

/// Reads a file. What is wrong with the file as a whole costs all of it, what is wrong with a rule that rule.
pub(super) fn parse(source: &str, text: &str) -> File {
    let whole = |message: String| File {
        errors: vec![QuirkError { file: source.into(), rule: None, message }],
        ..File::default()
    };
    if text.len() > FILE {
        return whole(format!("it is larger than {FILE} bytes"));
    }
    let file: RawFile = match serde_yaml_ng::from_str::<Value>(text)
        .map_err(|error| error.to_string())
        .and_then(|value| serde_json::from_value(value).map_err(|error| error.to_string()))
    {
        Ok(file) => file,
        Err(error) => return whole(format!("it cannot be read: {error}")),
    };
    if file.version != VERSION {
        return whole(format!("its version is {}, and this provider knows version {VERSION}", file.version));
    }
    if file.rules.len() > RULES {
        return whole(format!("it has more than {RULES} rules"));
    }
    let mut parsed = File { without: file.without, ..File::default() };
    let shared: Arc<str> = source.into();
    for (at, raw) in file.rules.into_iter().enumerate() {
        let name = raw.get("name").and_then(Value::as_str).filter(|name| is_name(name)).map(str::to_owned);
        let result = rule(raw, &shared).and_then(|rule| {
            let twice = parsed.rules.iter().any(|other| other.name == rule.name);
            if twice { Err("another rule of the file has this name".into()) } else { Ok(rule) }
        });
        match result {
            Ok(rule) => parsed.rules.push(rule),
            Err(message) => {
                let named = name.unwrap_or_else(|| format!("number {}", at + 1));
                parsed.errors.push(QuirkError { file: source.into(), rule: Some(named), message });
            }
        }
    }
    parsed
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn rule(raw: Value, source: &Arc<str>) -> Result<Rule, String> {
    let RawRule { name, seen, fits, patch, send } =
        serde_json::from_value(raw).map_err(|error| error.to_string())?;
    if !is_name(&name) {
        return Err(format!(
            "name has to be 1 to {NAME} lower-case letters, digits and hyphens, such as supermicro-usb-cd"
        ));
    }
    let seen = seen.trim();
    if seen.is_empty() || seen.len() > SEEN {
        return Err(format!("seen has to say on what the quirk was seen, in at most {SEEN} bytes"));
    }
    let RawMatch { vendor, product, firmware, types, path, conditions } = fits;
    if patch.is_empty() && send.is_none() {
        return Err("it needs patch or send, else it does nothing".into());
    }
    if patch.is_empty() && (types.is_some() || path.is_some() || !conditions.is_empty()) {
        return Err("match.type, match.path and match.where say what is patched, and it has no patch".into());
    }
    if !patch.is_empty() && types.is_none() && path.is_none() {
        return Err("a rule with patch needs match.type or match.path: which documents are patched".into());
    }
    if patch.len() > PARTS || conditions.len() > PARTS {
        return Err(format!("it has more than {PARTS} entries in patch or match.where"));
    }
    if let Some(send) = &send {
        send.check()?;
    }
    let lower = |list: Vec<String>| list.iter().map(|text| text.trim().to_lowercase()).collect();
    let types = types.map(|types| types.checked("type")).transpose()?.unwrap_or_default();
    if path.as_ref().is_some_and(|path| path.len() > 256 || !path.starts_with('/')) {
        return Err("match.path has to begin with / and be no longer than 256 bytes".into());
    }
    Ok(Rule {
        name: name.into(),
        seen: seen.into(),
        source: source.clone(),
        vendors: lower(vendor.checked("vendor")?),
        products: lower(product.map(|product| product.checked("product")).transpose()?.unwrap_or_default()),
        firmware: firmware.as_deref().map(Range::parse).transpose()?,
        types,
        path: path.map(|path| path.trim_end_matches('/').to_owned()),
        conditions: conditions.into_iter().map(condition).collect::<Result<_, _>>()?,
        operations: patch.into_iter().map(RawOperation::check).collect::<Result<_, _>>()?,
        send,
    })
}

fn condition(raw: RawCondition) -> Result<Condition, String> {
    let RawCondition { at, present, equals, contains } = raw;
    let test = match (present, equals, contains) {
        (Some(present), None, None) => Test::Present(present),
        (None, Some(value), None) => Test::Equals(value),
        (None, None, Some(text)) => Test::Contains(text.to_lowercase()),
        _ => return Err("an entry of where needs exactly one of present, equals and contains".into()),
    };
    Ok(Condition { at: Pointer::parse(&at)?, test })
}

/// Whether a value says something: neither null nor empty.
fn is_filled(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

impl Condition {
    fn holds(&self, document: &Value) -> bool {
        let found = self.at.get(document);
        match &self.test {
            Test::Present(wanted) => found.is_some_and(is_filled) == *wanted,
            Test::Equals(value) => found == Some(value),
            Test::Contains(text) => match found {
                Some(Value::Array(list)) => {
                    list.iter().filter_map(Value::as_str).any(|item| item.to_lowercase() == *text)
                }
                Some(Value::String(whole)) => whole.to_lowercase().contains(text.as_str()),
                _ => false,
            },
        }
    }
}

impl Rule {
    /// Whether it is about this maker and product.
    pub(super) fn is_about(&self, identity: &Identity) -> bool {
        fn named(patterns: &[String], names: &[String]) -> bool {
            patterns.iter().any(|pattern| pattern == "*" || names.iter().any(|name| name.contains(pattern)))
        }
        named(&self.vendors, &identity.vendors)
            && (self.products.is_empty() || named(&self.products, &identity.products))
    }

    /// Whether it asks for a firmware version.
    pub(super) fn asks_firmware(&self) -> bool {
        self.firmware.is_some()
    }

    /// Whether it is about this BMC.
    pub(super) fn fits(&self, identity: &Identity) -> bool {
        let firmware = identity.firmware.as_deref();
        let in_range =
            self.firmware.as_ref().is_none_or(|range| firmware.is_some_and(|text| range.holds(text)));
        in_range && self.is_about(identity)
    }

    /// Whether it patches anything.
    pub(super) fn patches(&self) -> bool {
        !self.operations.is_empty()
    }

    /// Patches a document, if it is about it.
    pub(super) fn apply(&self, path: &str, document: &mut Value, budget: &mut usize) {
        if self.is_about_document(path, document) {
            for operation in &self.operations {
                operation.apply(document, budget);
            }
        }
    }

    fn is_about_document(&self, path: &str, document: &Value) -> bool {
        let odata_type = document.get("@odata.type").and_then(Value::as_str).unwrap_or_default();
        (self.types.is_empty() || self.types.iter().any(|wanted| is_type(odata_type, wanted)))
            && self.path.as_ref().is_none_or(|pattern| is_path(path, pattern))
            && self.conditions.iter().all(|condition| condition.holds(document))
    }
}

/// Whether `#ComputerSystem.v1_16_0.ComputerSystem` is a `ComputerSystem`, or a `ComputerSystem.v1_16`.
fn is_type(odata_type: &str, wanted: &str) -> bool {
    let odata_type = odata_type.strip_prefix('#').unwrap_or(odata_type);
    odata_type
        .strip_prefix(wanted.strip_prefix('#').unwrap_or(wanted))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '_']))
}

/// Whether a path fits a pattern, segment by segment; a `*` stands for any characters of one segment.
fn is_path(path: &str, pattern: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let mut wanted = pattern.split('/');
    let fits = path.split('/').all(|segment| wanted.next().is_some_and(|pattern| is_like(segment, pattern)));
    fits && wanted.next().is_none()
}

fn is_like(segment: &str, pattern: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return segment == pattern };
    let Some(mut left) = segment.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_paths() {
        let system = "#ComputerSystem.v1_16_0.ComputerSystem";
        for (wanted, fits) in [
            ("ComputerSystem", true),
            ("#ComputerSystem.v1_16", true),
            ("ComputerSystem.v1_1", false),
            ("Computer", false),
            ("Manager", false),
        ] {
            assert_eq!(is_type(system, wanted), fits, "{wanted}");
        }
        for (path, pattern, fits) in [
            ("/redfish/v1/Systems/1/", "/redfish/v1/Systems/*", true),
            ("/redfish/v1/Systems/1?x", "/redfish/v1/Systems/1", true),
            ("/redfish/v1/Systems/1/Bios", "/redfish/v1/Systems/*", false),
            ("/redfish/v1/Systems", "/redfish/v1/Systems/*", false),
            ("/a/Cd1x2", "/a/C*1*2", true),
            ("/a/Cd1x3", "/a/C*1*2", false),
            ("/a/ab", "/a/ab*b", false),
        ] {
            assert_eq!(is_path(path, pattern), fits, "{path} {pattern}");
        }
    }
}
