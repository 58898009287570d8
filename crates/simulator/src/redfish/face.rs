//! How the BMC of a vendor family differs from the plain one: a table for each family (`families/*.yaml`), not code.
//!
//! Inside the simulator every resource has one path, that of the plain face. A face gives resources other paths, patches
//! what they show (RFC 7386), adds resources that only stand there, and says which words it takes.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::resources::{BOOT_OPTIONS, RESET_INFO, ROOT, SETTINGS};
use crate::config::Family;
use crate::life::{BootEnabled, BootMode, BootTarget, Power, ResetType};
use crate::rules::merge;

/// A face.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Face {
    /// On what it was seen, for readers of the table.
    #[allow(dead_code)]
    seen: String,
    /// Paths of its own, by those of the plain face. What stands below moves along.
    #[serde(default)]
    own: BTreeMap<String, String>,
    /// Targets of the boot override, and what firmware does with them.
    pub(crate) targets: BTreeMap<String, Boots>,
    /// What `BootSourceOverrideEnabled` takes.
    pub(crate) enabled: Vec<BootEnabled>,
    /// Whether it lists them.
    #[serde(default = "yes")]
    pub(crate) tells_enabled: bool,
    /// Whether `BootSourceOverrideMode` may be written.
    #[serde(default = "yes")]
    pub(crate) mode_writable: bool,
    /// The mode that an override falls back to which names none.
    pub(crate) forgets_mode: Option<BootMode>,
    /// Whether there is a `HttpBootUri`.
    pub(crate) http_boot_uri: bool,
    /// Where the boot override is written.
    #[serde(default)]
    pub(crate) boot_at: BootAt,
    /// How media are changed.
    #[serde(default)]
    pub(crate) media_by: MediaBy,
    /// The one way of reading images that it has (`TransferMethod`), which has to be named; `None`: piece by piece.
    pub(crate) transfer: Option<String>,
    /// Where the reset types are listed.
    #[serde(default)]
    pub(crate) reset_info: ResetInfo,
    /// Reset types, and what they do.
    pub(crate) resets: BTreeMap<String, Does>,
    /// Entries of the firmware's boot list.
    #[serde(default)]
    pub(crate) options: BTreeMap<String, BootOption>,
    /// Its event service; `None`: there is none.
    pub(crate) events: Option<Events>,
    pub(crate) etag: Etag,
    pub(crate) sessions: SessionRules,
    pub(crate) errors: Errors,
    pub(crate) success: Success,
    /// Merge patches on what the plain face shows, by its paths.
    #[serde(default)]
    show: BTreeMap<String, Value>,
    /// Resources that only stand there, by their paths.
    #[serde(default)]
    more: BTreeMap<String, Value>,
}

fn yes() -> bool {
    true
}

/// What firmware does with a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Boots {
    None,
    Pxe,
    Cd,
    Hdd,
    UefiHttp,
    /// The entry of its list that the override names.
    Option,
}

impl Boots {
    fn target(self) -> Option<BootTarget> {
        Some(match self {
            Self::None => BootTarget::None,
            Self::Pxe => BootTarget::Pxe,
            Self::Cd => BootTarget::Cd,
            Self::Hdd => BootTarget::Hdd,
            Self::UefiHttp => BootTarget::UefiHttp,
            Self::Option => return None,
        })
    }
}

/// What a reset type does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Does {
    On,
    ForceOff,
    GracefulShutdown,
    GracefulRestart,
    ForceRestart,
    PowerCycle,
    /// On where it is off, else a word to the operating system.
    Button,
    Nothing,
}

impl Does {
    pub(crate) fn reset(self, power: Power) -> Option<ResetType> {
        Some(match self {
            Self::On => ResetType::On,
            Self::ForceOff => ResetType::ForceOff,
            Self::GracefulShutdown => ResetType::GracefulShutdown,
            Self::GracefulRestart => ResetType::GracefulRestart,
            Self::ForceRestart => ResetType::ForceRestart,
            Self::PowerCycle => ResetType::PowerCycle,
            Self::Button if power == Power::Off => ResetType::On,
            Self::Button => ResetType::GracefulShutdown,
            Self::Nothing => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum BootAt {
    #[default]
    System,
    /// The resource that `@Redfish.Settings` names; the system refuses.
    Settings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum MediaBy {
    /// By actions, or by changing the resource.
    #[default]
    Both,
    /// By changing the resource: there are no actions.
    Patch,
    /// By actions alone, of which only that is shown which makes sense.
    ActionsInTurn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ResetInfo {
    /// At the action.
    #[default]
    None,
    /// In an `ActionInfo`.
    Only,
    Both,
}

/// An entry of the firmware's boot list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BootOption {
    name: String,
    path: String,
    boots: Boots,
}

/// How events are subscribed to.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Events {
    #[serde(default = "yes")]
    pub(crate) enabled: bool,
    /// Kinds of events, in the old words.
    #[serde(default)]
    pub(crate) types: Vec<String>,
    /// A subscription must name some.
    #[serde(default)]
    pub(crate) types_demanded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum TagForm {
    None,
    Strong,
    Weak,
}

/// Tags of resources.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Etag {
    pub(crate) form: TagForm,
    /// Also as `@odata.etag`.
    #[serde(default)]
    pub(crate) in_body: bool,
    /// Changes of resources need `If-Match`.
    #[serde(default)]
    pub(crate) demanded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Full {
    /// The session used longest ago ends.
    #[default]
    Oldest,
    /// The login is refused.
    Refuse,
}

/// How sessions are kept.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SessionRules {
    pub(crate) most: usize,
    /// An unused session ends after so long.
    pub(crate) timeout_seconds: u64,
    #[serde(default)]
    pub(crate) full: Full,
    /// `Location` of a new session is a whole URL.
    #[serde(default)]
    pub(crate) absolute_location: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct General {
    code: String,
    message: String,
}

/// How a refusal is worded.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Errors {
    registry: String,
    /// What stands in the place of the first message.
    general: Option<General>,
    /// Whether messages have texts.
    texts: bool,
}

/// How a change is answered that was made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Success {
    pub(crate) status: u16,
    pub(crate) body: Option<Value>,
}

/// The face of a family.
pub(crate) fn face(family: Family) -> &'static Face {
    macro_rules! table {
        ($($family:ident: $file:literal),*) => {
            match family {
                $(Family::$family => {
                    // The tests read every table.
                    static FACE: LazyLock<Face> = LazyLock::new(|| {
                        read(include_str!(concat!("families/", $file, ".yaml"))).unwrap_or_else(|why| panic!("{}: {why}", $file))
                    });
                    &FACE
                })*
            }
        };
    }
    table!(Plain: "plain", Idrac: "idrac", Ilo: "ilo", Xcc: "xcc", Supermicro: "supermicro", Megarac: "megarac",
        Listed: "listed")
}

fn read(text: &str) -> Result<Face, String> {
    serde_yaml_ng::from_str(text).map_err(|error| error.to_string())
}

impl Face {
    /// Its own path of a resource.
    pub(crate) fn path(&self, plain: &str) -> String {
        let moved = self.own.iter().filter_map(|(from, to)| Some((from, to, below(plain, from)?)));
        match moved.max_by_key(|(from, ..)| from.len()) {
            Some((_, to, rest)) => format!("{to}{rest}"),
            None => plain.to_owned(),
        }
    }

    /// The plain path of a resource that has this one here; `None`: nothing can be there.
    pub(crate) fn plain_path(&self, own: &str) -> Option<String> {
        let moved = self.own.iter().filter_map(|(from, to)| Some((from, to, below(own, to)?)));
        let plain = match moved.max_by_key(|(_, to, _)| to.len()) {
            Some((from, _, rest)) => format!("{from}{rest}"),
            None => own.to_owned(),
        };
        // A path of the plain face that has moved away.
        (self.path(&plain) == own).then_some(plain)
    }

    /// A resource that only stands there.
    pub(crate) fn standing(&self, own: &str) -> Option<Value> {
        let mut value = self.more.get(own)?.clone();
        value["@odata.id"] = own.into();
        Some(value)
    }

    /// What it shows in the place of what the plain face would.
    pub(crate) fn shown(&self, plain: &str, mut value: Value, serial: &str) -> Value {
        self.move_links(&mut value);
        if let Some(patch) = self.show.get(plain) {
            let mut patch = patch.clone();
            fill(&mut patch, serial);
            merge(&mut value, &patch);
        }
        value
    }

    fn move_links(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        Value::String(path)
                            if path.starts_with(ROOT)
                                && matches!(key.as_str(), "@odata.id" | "target" | "@Redfish.ActionInfo") =>
                        {
                            *path = self.path(path);
                        }
                        other => self.move_links(other),
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.move_links(value)),
            _ => {}
        }
    }

    /// What a boot override says, as far as it is the family's.
    pub(crate) fn boot(&self, shown: &mut Map<String, Value>) {
        let names: Vec<&str> = self.targets.keys().map(String::as_str).collect();
        shown.insert("BootSourceOverrideTarget@Redfish.AllowableValues".into(), json!(names));
        if self.tells_enabled {
            shown.insert("BootSourceOverrideEnabled@Redfish.AllowableValues".into(), json!(self.enabled));
        }
        if !self.http_boot_uri {
            shown.remove("HttpBootUri");
        }
        if !self.options.is_empty() {
            shown.insert("BootOptions".into(), json!({"@odata.id": BOOT_OPTIONS}));
            shown.insert("BootOrder".into(), json!(self.options.keys().collect::<Vec<_>>()));
        }
    }

    /// Its name for what the firmware will do.
    pub(crate) fn target_name(&self, target: BootTarget) -> &str {
        let found = self.targets.iter().find(|(_, boots)| boots.target() == Some(target));
        found.map_or("None", |(name, _)| name.as_str())
    }

    /// What a target means: its name as it is kept, and what it boots; inner `None`: what the entry says.
    pub(crate) fn target(&'static self, name: &str) -> Option<(&'static str, Option<BootTarget>)> {
        self.targets.get_key_value(name).map(|(name, boots)| (name.as_str(), boots.target()))
    }

    /// What an entry of the firmware's list boots, by its reference or its device path.
    pub(crate) fn option(&self, named: &str) -> Option<BootTarget> {
        let found = self.options.iter().find(|(id, option)| *id == named || option.path == named);
        found.and_then(|(_, option)| option.boots.target())
    }

    /// Resources of the firmware's list and of the reset types, by their plain paths.
    pub(crate) fn lists(&self, plain: &str) -> Option<Value> {
        if plain == RESET_INFO && self.reset_info != ResetInfo::None {
            return Some(json!({
                "@odata.id": plain, "@odata.type": "#ActionInfo.v1_1_2.ActionInfo", "Id": "ResetActionInfo",
                "Name": "Reset Action Info", "Parameters": [{
                    "Name": "ResetType", "Required": true, "DataType": "String",
                    "AllowableValues": self.resets.keys().collect::<Vec<_>>(),
                }],
            }));
        }
        let id = below(plain, BOOT_OPTIONS).filter(|_| !self.options.is_empty())?;
        if id.is_empty() {
            let ids = self.options.keys();
            return Some(super::resources::collection(
                plain,
                "BootOptionCollection.BootOptionCollection",
                ids,
            ));
        }
        let id = id.trim_start_matches('/');
        let option = self.options.get(id)?;
        Some(json!({
            "@odata.id": plain, "@odata.type": "#BootOption.v1_0_4.BootOption", "Id": id, "Name": "Boot Option",
            "BootOptionReference": id, "BootOptionEnabled": true, "DisplayName": option.name,
            "UefiDevicePath": option.path,
        }))
    }

    /// The reset action of the system.
    pub(crate) fn reset_action(&self, target: &str) -> Value {
        let mut action = json!({ "target": target });
        if self.reset_info != ResetInfo::Only {
            action["ResetType@Redfish.AllowableValues"] = json!(self.resets.keys().collect::<Vec<_>>());
        }
        if self.reset_info != ResetInfo::None {
            action["@Redfish.ActionInfo"] = RESET_INFO.into();
        }
        action
    }

    /// The settings resource, where the override is written there.
    pub(crate) fn settings(&self) -> Option<Value> {
        (self.boot_at == BootAt::Settings).then(|| {
            json!({
                "@odata.type": "#Settings.v1_3_0.Settings", "SettingsObject": {"@odata.id": SETTINGS},
                "SupportedApplyTimes": ["OnReset"],
            })
        })
    }

    /// Which actions of the slot are shown.
    pub(crate) fn media_actions(&self, mut actions: Value, inserted: bool) -> Option<Value> {
        if let Some(transfer) = &self.transfer {
            let list = "TransferMethod@Redfish.AllowableValues";
            actions["#VirtualMedia.InsertMedia"][list] = json!([transfer]);
        }
        match self.media_by {
            MediaBy::Both => {}
            MediaBy::Patch => return None,
            MediaBy::ActionsInTurn => {
                let senseless =
                    if inserted { "#VirtualMedia.InsertMedia" } else { "#VirtualMedia.EjectMedia" };
                actions.as_object_mut().map(|actions| actions.remove(senseless));
            }
        }
        Some(actions)
    }

    /// The body of a refusal.
    pub(crate) fn refusal(&self, message_id: &str, message: &str) -> Value {
        let Errors { registry, general, texts } = &self.errors;
        let id = format!("{registry}.{message_id}");
        let mut info = json!({"MessageId": id, "MessageArgs": []});
        if *texts {
            merge(
                &mut info,
                &json!({
                    "@odata.type": "#Message.v1_1_2.Message", "Message": message, "Severity": "Critical",
                    "Resolution": "None.",
                }),
            );
        }
        let (code, first) = match general {
            Some(general) => (general.code.as_str(), general.message.as_str()),
            None => (id.as_str(), message),
        };
        json!({"error": {"code": code, "message": first, "@Message.ExtendedInfo": [info]}})
    }
}

/// What of a path comes after another one, if it is that one or stands below it.
fn below<'a>(path: &'a str, above: &str) -> Option<&'a str> {
    path.strip_prefix(above).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Puts the server's serial number in.
fn fill(value: &mut Value, serial: &str) {
    match value {
        Value::String(text) if text.contains("$serial") => *text = text.replace("$serial", serial),
        Value::Object(map) => map.values_mut().for_each(|value| fill(value, serial)),
        Value::Array(list) => list.iter_mut().for_each(|value| fill(value, serial)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::resources::{MEDIA, SYSTEM};
    use super::*;

    #[test]
    fn every_table_is_read_and_paths_lead_back() {
        for family in Family::ALL {
            let face = face(family);
            assert!(!face.seen.is_empty() && face.targets.contains_key("None"), "{family:?}");
            assert!(face.enabled.contains(&BootEnabled::Once), "{family:?}");
            for path in [
                ROOT,
                SYSTEM,
                MEDIA,
                "/redfish/v1/Systems/1/Storage/1",
                "/redfish/v1/Managers/1/EthernetInterfaces",
            ] {
                assert_eq!(face.plain_path(&face.path(path)).as_deref(), Some(path), "{family:?}");
            }
            for path in face.own.keys() {
                assert!(face.path(path) == *path || face.plain_path(path).is_none(), "{family:?}: {path}");
            }
        }
    }

    #[test]
    fn words_of_a_family() {
        let idrac = face(Family::Idrac);
        assert_eq!(
            idrac.path("/redfish/v1/Systems/1/Storage"),
            "/redfish/v1/Systems/System.Embedded.1/Storage"
        );
        assert_eq!(idrac.plain_path("/redfish/v1/Systems/10").as_deref(), Some("/redfish/v1/Systems/10"));
        assert_eq!(idrac.plain_path("/redfish/v1/Systems/1"), None);
        assert_eq!(idrac.target("UefiTarget"), Some(("UefiTarget", None)));
        assert_eq!(idrac.option("Boot0000"), Some(BootTarget::Pxe));
        let supermicro = face(Family::Supermicro);
        assert_eq!(supermicro.target("Cd"), Some(("Cd", Some(BootTarget::Hdd))));
        assert_eq!(supermicro.target("UsbCd"), Some(("UsbCd", Some(BootTarget::Cd))));
        assert_eq!(supermicro.target("Elsewhere"), None);
        assert_eq!(Does::Button.reset(Power::Off), Some(ResetType::On));
        assert_eq!(Does::Button.reset(Power::On), Some(ResetType::GracefulShutdown));
        let refused = face(Family::Ilo).refusal("PropertyNotWritable", "no");
        assert_eq!(refused["error"]["code"], "iLO.0.10.ExtendedInfo");
        assert!(refused["error"]["@Message.ExtendedInfo"][0].get("Message").is_none());
    }
}
