//! How actions are sent: what rules say about requests, merged and typed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::patch::weight;

/// Longest pause that a rule may ask for, in seconds: an operation has two minutes in all.
const LONGEST_PAUSE: u64 = 60;
/// Most keys that a rule adds to a request or takes off it.
const KEYS: usize = 16;

/// Reset types of the `Resource` schema (DSP8010) that do the same kind of thing: one may stand in for another.
const FAMILIES: &[&[&str]] = &[
    &["On", "ForceOn", "PushPowerButton"],
    &["ForceOff", "PushPowerButton"],
    &["GracefulShutdown", "PushPowerButton"],
    &["ForceRestart", "PowerCycle", "FullPowerCycle", "GracefulRestart"],
];

/// Where a boot override is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Through {
    /// The system resource.
    System,
    /// The resource that `@Redfish.Settings` names, if there is one.
    Settings,
}

/// What `BootSourceOverrideEnabled` says for a boot that is meant to be the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Enabled {
    /// The next boot.
    Once,
    /// Every boot until it is changed.
    Continuous,
}

/// Whether a boot override names its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Mode {
    /// Always, where the BMC tells one.
    Always,
    /// Never.
    Never,
}

/// How an image gets into a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum InsertBy {
    /// By the insert action.
    Action,
    /// By changing the slot's resource.
    Patch,
}

/// Which tag a change carries as `If-Match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum IfMatch {
    /// None.
    None,
    /// `*`.
    Any,
    /// The one that a read right before the change gives; `*` where it gives none.
    Fresh,
}

/// `send` of a rule as it is written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Send {
    reset: BTreeMap<String, String>,
    boot_override: BootOverride,
    virtual_media: VirtualMedia,
    if_match: Option<IfMatch>,
    power_off_wait_seconds: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct BootOverride {
    through: Option<Through>,
    enabled: Option<Enabled>,
    mode: Option<Mode>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct VirtualMedia {
    insert_by: Option<InsertBy>,
    add: BTreeMap<String, Value>,
    omit: Vec<String>,
    settle_seconds: Option<u64>,
}

impl Send {
    /// What is wrong with it, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        if *self == Self::default() {
            return Err("send says nothing".into());
        }
        for (asked, sent) in &self.reset {
            let known = |name: &String| FAMILIES.iter().any(|family| family.contains(&name.as_str()));
            if let Some(name) = [asked, sent].into_iter().find(|name| !known(name)) {
                return Err(format!("reset names {name:?}, which is no reset type that the provider sends"));
            }
            let alike = FAMILIES
                .iter()
                .any(|family| family.contains(&asked.as_str()) && family.contains(&sent.as_str()));
            if !alike {
                return Err(format!("reset sends {sent} for {asked}, which does something else"));
            }
        }
        let VirtualMedia { add, omit, settle_seconds, .. } = &self.virtual_media;
        if add.len() + omit.len() > KEYS || add.values().any(|value| weight(value) > 256) {
            return Err(format!("virtualMedia has more than {KEYS} keys, or a value of more than 256 bytes"));
        }
        if add.contains_key("Image") || omit.iter().any(|key| key == "Image") {
            return Err("virtualMedia adds or omits Image, which is what the request is about".into());
        }
        let pauses = [*settle_seconds, self.power_off_wait_seconds];
        if pauses.into_iter().flatten().any(|seconds| seconds > LONGEST_PAUSE) {
            return Err(format!("a pause is longer than {LONGEST_PAUSE} seconds"));
        }
        Ok(())
    }
}

/// How actions are sent to one BMC; [`Manner::default`] is what the standard says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Manner {
    reset: BTreeMap<String, String>,
    /// Where a boot override is written to; by default where it stands.
    pub(crate) through: Option<Through>,
    /// How long a boot override lasts; by default once where the BMC has that.
    pub(crate) enabled: Option<Enabled>,
    /// Whether a boot override names its mode; by default where it is refused without.
    pub(crate) mode: Option<Mode>,
    /// How an image gets into a slot; by default by the action, where there is one.
    pub(crate) insert_by: Option<InsertBy>,
    add: BTreeMap<String, Value>,
    omit: Vec<String>,
    /// How long to wait after a medium is seen in its slot.
    pub(crate) settle: Duration,
    /// Which tag a change carries; by default the one that came with the resource.
    pub(crate) if_match: Option<IfMatch>,
    /// How long the power stays off before it is turned on.
    pub(crate) power_off_wait: Duration,
}

impl Manner {
    /// Takes over what a rule says; it wins over what was there.
    pub(super) fn take(&mut self, send: &Send) {
        let Send { reset, boot_override, virtual_media, if_match, power_off_wait_seconds } = send;
        self.reset.extend(reset.iter().map(|(asked, sent)| (asked.clone(), sent.clone())));
        self.through = boot_override.through.or(self.through);
        self.enabled = boot_override.enabled.or(self.enabled);
        self.mode = boot_override.mode.or(self.mode);
        let VirtualMedia { insert_by, add, omit, settle_seconds } = virtual_media;
        self.insert_by = insert_by.or(self.insert_by);
        for key in omit {
            self.add.remove(key);
            if !self.omit.contains(key) {
                self.omit.push(key.clone());
            }
        }
        self.omit.retain(|key| !add.contains_key(key));
        self.add.extend(add.iter().map(|(key, value)| (key.clone(), value.clone())));
        if let Some(seconds) = settle_seconds {
            self.settle = Duration::from_secs(*seconds);
        }
        self.if_match = if_match.or(self.if_match);
        if let Some(seconds) = power_off_wait_seconds {
            self.power_off_wait = Duration::from_secs(*seconds);
        }
    }

    /// The reset type that is sent for one that was chosen.
    pub(crate) fn reset<'a>(&'a self, chosen: &'a str) -> &'a str {
        self.reset.get(chosen).map_or(chosen, String::as_str)
    }

    /// Bodies of an insert request as this BMC wants them. `protocol`: of the image's URL, as Redfish names it.
    pub(crate) fn insert_bodies(&self, bodies: Vec<Value>, protocol: Option<&str>) -> Vec<Value> {
        let mut wanted: Vec<Value> = Vec::with_capacity(bodies.len());
        for mut body in bodies {
            if let Value::Object(body) = &mut body {
                for key in &self.omit {
                    body.remove(key);
                }
                for (key, value) in &self.add {
                    match (value.as_str(), protocol) {
                        (Some("$protocol"), Some(protocol)) => body.insert(key.clone(), protocol.into()),
                        (Some("$protocol"), None) => None,
                        _ => body.insert(key.clone(), value.clone()),
                    };
                }
            }
            if !wanted.contains(&body) {
                wanted.push(body);
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn send(written: Value) -> Result<Send, String> {
        let send: Send = serde_json::from_value(written).map_err(|error| error.to_string())?;
        send.check().map(|()| send)
    }

    #[test]
    fn later_rules_win() {
        let mut manner = Manner::default();
        manner.take(
            &send(json!({"reset": {"On": "ForceOn"}, "ifMatch": "any", "powerOffWaitSeconds": 5,
            "virtualMedia": {"add": {"MediaType": "CD"}, "omit": ["Inserted"]}}))
            .unwrap(),
        );
        manner.take(
            &send(json!({"ifMatch": "fresh", "virtualMedia":
            {"add": {"Inserted": true, "TransferProtocolType": "$protocol"}, "omit": ["MediaType"]}}))
            .unwrap(),
        );
        assert_eq!((manner.reset("On"), manner.reset("ForceOff")), ("ForceOn", "ForceOff"));
        assert_eq!(manner.if_match, Some(IfMatch::Fresh));
        assert_eq!(manner.power_off_wait, Duration::from_secs(5));
        let bodies = vec![json!({"Image": "u", "MediaType": "DVD"}), json!({"Image": "u"})];
        assert_eq!(
            manner.insert_bodies(bodies.clone(), Some("HTTPS")),
            [json!({"Image": "u", "Inserted": true, "TransferProtocolType": "HTTPS"})]
        );
        assert_eq!(Manner::default().insert_bodies(bodies.clone(), None), bodies);
    }

    #[test]
    fn what_is_refused() {
        for (written, sentence) in [
            (json!({}), "says nothing"),
            (json!({"reset": {"ForceOff": "On"}}), "does something else"),
            (json!({"reset": {"On": "Nmi"}}), "no reset type"),
            (json!({"rest": {}}), "unknown field `rest`"),
            (json!({"ifMatch": "sometimes"}), "unknown variant `sometimes`"),
            (json!({"powerOffWaitSeconds": 600}), "longer than 60"),
            (json!({"virtualMedia": {"add": {"Image": "x"}}}), "adds or omits Image"),
        ] {
            let error = send(written.clone()).unwrap_err();
            assert!(error.contains(sentence), "{written}: {error}");
        }
    }
}
