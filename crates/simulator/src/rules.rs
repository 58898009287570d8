//! Faults by rule: which requests meet which fault. Pure but for the counts.

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which requests meet a fault, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// HTTP method; every one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path, in which `*` stands for any characters, none included; every path when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Requests that match and go well before the rule strikes.
    #[serde(default)]
    pub after: u64,
    /// How often it strikes; until it is taken away when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// What is wrong.
    pub effect: Effect,
}

/// What a request meets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Effect {
    /// It waits, and then goes its way.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// It is answered with this status, and nothing is done.
    Status {
        /// HTTP status, 400 to 599.
        status: u16,
        /// `Retry-After`, seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    },
    /// What was asked for is done, and the answer is this status all the same.
    DoneButStatus {
        /// HTTP status, 400 to 599.
        status: u16,
    },
    /// The connection is closed without an answer, and nothing is done.
    Close,
    /// What was asked for is done, and the connection is closed without an answer.
    DoneButClose,
    /// What was asked for is done, and the BMC restarts: connections end, sessions are lost, nothing answers for a
    /// while.
    DoneButRestart {
        /// Milliseconds until it answers again.
        ms: u64,
    },
    /// The body ends in the middle.
    Truncated,
    /// The body is no JSON.
    NotJson,
    /// The body lacks these places.
    Without {
        /// JSON pointers (RFC 6901).
        places: Vec<String>,
    },
    /// The body is changed by a JSON merge patch (RFC 7396).
    Merged {
        /// The patch.
        patch: Value,
    },
    /// The body is white space that does not end for a long time.
    Trickle {
        /// Bytes in all.
        bytes: u64,
        /// Bytes at once; at most 1 MiB.
        chunk: u32,
        /// Milliseconds between two chunks.
        pause_ms: u64,
    },
}

/// How often rules matched.
#[derive(Debug, Default)]
pub(crate) struct Counts(Vec<u64>);

impl Counts {
    /// The effect that a request meets: that of the first rule that strikes. Every rule that matches counts.
    pub(crate) fn strike(&mut self, rules: &[Rule], method: &Method, path: &str) -> Option<Effect> {
        self.0.resize(rules.len(), 0);
        let mut struck = None;
        for (rule, count) in rules.iter().zip(&mut self.0) {
            if !rule.matches(method, path) || struck.is_some() {
                continue;
            }
            *count += 1;
            let number = count.saturating_sub(rule.after);
            if number > 0 && rule.times.is_none_or(|times| number <= times) {
                struck = Some(rule.effect.clone());
            }
        }
        struck
    }
}

impl Rule {
    fn matches(&self, method: &Method, path: &str) -> bool {
        let named = self.method.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method.as_str()));
        named && self.path.as_ref().is_none_or(|pattern| like(pattern, path))
    }
}

/// Whether a text is like a pattern in which `*` stands for any characters.
fn like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Takes places out of a JSON value.
pub(crate) fn without(value: &mut Value, places: &[String]) {
    for place in places {
        let Some((parent, key)) = place.rsplit_once('/') else { continue };
        let key = key.replace("~1", "/").replace("~0", "~");
        match value.pointer_mut(parent) {
            Some(Value::Object(map)) => {
                map.remove(&key);
            }
            Some(Value::Array(items)) => {
                if let Some(index) = key.parse::<usize>().ok().filter(|index| *index < items.len()) {
                    items.remove(index);
                }
            }
            _ => {}
        }
    }
}

/// Changes a JSON value by a merge patch (RFC 7396, section 2).
pub(crate) fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    let Value::Object(map) = value else { return };
    for (key, change) in changes {
        if change.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, wanted) in [
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/bc", false),
            ("*", "", true),
            ("*/Actions/*", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", true),
            ("*/Actions/*.Reset", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", true),
            ("*Reset", "/Actions/ComputerSystem.ResetX", false),
            ("/a*a", "/a", false),
            ("/a*b*b", "/axb", false),
        ] {
            assert_eq!(like(pattern, text), wanted, "{pattern} {text}");
        }
    }

    #[test]
    fn rules_strike_in_order_and_so_often() {
        let rules: Vec<Rule> = serde_json::from_value(json!([
            {"method": "post", "path": "*Reset", "after": 1, "times": 2, "effect": {"status": {"status": 500}}},
            {"path": "/redfish/*", "effect": {"delay": {"ms": 5}}},
        ]))
        .unwrap();
        let mut counts = Counts::default();
        let mut ask = |method: Method, path: &str| counts.strike(&rules, &method, path);
        let delay = Some(Effect::Delay { ms: 5 });
        let status = Some(Effect::Status { status: 500, retry_after: None });
        assert_eq!(ask(Method::POST, "/redfish/Reset"), delay, "the first goes well");
        assert_eq!(ask(Method::GET, "/redfish/Reset"), delay);
        assert_eq!(ask(Method::POST, "/redfish/Reset"), status);
        assert_eq!(ask(Method::POST, "/redfish/Reset"), status);
        assert_eq!(ask(Method::POST, "/redfish/Reset"), delay);
        assert_eq!(ask(Method::GET, "/"), None);
    }

    #[test]
    fn bodies_are_changed() {
        let mut value = json!({"a": {"b": 1, "c/d": 2}, "e": [1, 2]});
        without(
            &mut value,
            &["/a/b".into(), "/a/c~1d".into(), "/e/0".into(), "/e/7".into(), "/x/y".into(), "".into()],
        );
        assert_eq!(value, json!({"a": {}, "e": [2]}));
        merge(&mut value, &json!({"a": {"b": {"c": null, "d": 1}}, "e": null, "f": "x"}));
        assert_eq!(value, json!({"a": {"b": {"d": 1}}, "f": "x"}));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            json!({}),
            json!({"effect": "x"}),
            json!({"effect": {"delay": {}}}),
            json!({"effect": "close", "x": 1}),
        ] {
            assert!(serde_json::from_value::<Rule>(bad.clone()).is_err(), "{bad}");
        }
    }
}
