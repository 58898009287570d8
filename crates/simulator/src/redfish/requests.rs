//! Requests that change something, read strictly: what a BMC would refuse is refused here too.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::face::{BootAt, Does, Face, MediaBy};
use super::resources::{EJECT, INSERT, MANAGER_RESET, MEDIA, RESET, SETTINGS, SYSTEM};
use crate::life::{BootEnabled, BootMode, BootTarget, Life};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Reset(Does),
    Boot(BootPatch),
    AssetTag(String),
    Insert(String),
    Eject,
    ResetManager,
    Nothing,
}

/// The settings that a request names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BootPatch {
    /// The word for the target, and what it boots; inner `None`: what the option says.
    target: Option<(&'static str, Option<BootTarget>)>,
    /// An entry of the firmware's list, and what it boots.
    option: Option<(String, BootTarget)>,
    enabled: Option<BootEnabled>,
    mode: Option<BootMode>,
    http_boot_uri: Option<Option<String>>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) message_id: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, message_id: &'static str, message: impl Into<String>) -> Self {
        Self { status, message_id, message: message.into() }
    }

    fn value(property: &str, value: &Value) -> Self {
        Self::new(
            400,
            "PropertyValueNotInList",
            format!("The value {value} for the property {property} is not in the list of acceptable values."),
        )
    }

    fn missing(property: &str) -> Self {
        Self::new(400, "ActionParameterMissing", format!("The parameter {property} is missing."))
    }

    fn unknown(property: &str) -> Self {
        Self::new(
            400,
            "PropertyUnknown",
            format!("The property {property} is not in the list of valid properties."),
        )
    }
}

/// Reads a request other than a login or a logout, by its plain path.
pub(crate) fn parse(face: &'static Face, method: &str, path: &str, body: &[u8]) -> Result<Command, Refusal> {
    let missing = || Refusal::new(404, "ResourceMissingAtURI", format!("There is no resource {path}."));
    if (path == SETTINGS && face.boot_at == BootAt::System)
        || (matches!(path, INSERT | EJECT) && face.media_by == MediaBy::Patch)
    {
        return Err(missing());
    }
    let known = match (method, path) {
        ("PATCH", MEDIA) if face.media_by == MediaBy::ActionsInTurn => false,
        ("PATCH", SYSTEM | SETTINGS | MEDIA) | ("POST", RESET | INSERT | EJECT | MANAGER_RESET) => true,
        (_, SYSTEM | SETTINGS | MEDIA | RESET | INSERT | EJECT | MANAGER_RESET) => false,
        _ => return Err(missing()),
    };
    if !known {
        return Err(Refusal::new(405, "OperationNotAllowed", format!("{method} is not allowed on {path}.")));
    }
    let body = object(body)?;
    match path {
        SYSTEM | SETTINGS => patch_system(face, path, &body),
        RESET => {
            let name: String = required(&body, "ResetType")?;
            let does = face.resets.get(&name);
            does.copied().map(Command::Reset).ok_or_else(|| Refusal::value("ResetType", &name.into()))
        }
        MANAGER_RESET => Ok(Command::ResetManager),
        EJECT => Ok(Command::Eject),
        INSERT => insert(face, &body),
        _ if body.get("Image").is_some_and(Value::is_null)
            || body.get("Inserted") == Some(&Value::Bool(false)) =>
        {
            Ok(Command::Eject)
        }
        _ => insert(face, &body),
    }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    serde_json::from_slice(body).map_err(|error| {
        Refusal::new(
            400,
            "MalformedJSON",
            format!("The request body could not be read as a JSON object: {error}."),
        )
    })
}

fn required<T: DeserializeOwned>(body: &Map<String, Value>, name: &str) -> Result<T, Refusal> {
    let value = body.get(name).ok_or_else(|| Refusal::missing(name))?;
    T::deserialize(value).map_err(|_| Refusal::value(name, value))
}

fn patch_system(face: &'static Face, path: &str, body: &Map<String, Value>) -> Result<Command, Refusal> {
    let mut command = Command::Nothing;
    for (name, value) in body {
        command = match (name.as_str(), value) {
            ("Boot", _) if path == SYSTEM && face.boot_at == BootAt::Settings => {
                let message =
                    "Support of this operation for boot properties is moved to the future state URI.";
                return Err(Refusal::new(400, "OperationSupportedInFutureStateURI", message));
            }
            ("Boot", Value::Object(boot)) => Command::Boot(boot_patch(face, boot)?),
            ("AssetTag", Value::String(tag)) => Command::AssetTag(tag.clone()),
            ("Boot" | "AssetTag", other) => return Err(Refusal::value(name, other)),
            _ => return Err(Refusal::unknown(name)),
        };
    }
    Ok(command)
}

fn boot_patch(face: &'static Face, boot: &Map<String, Value>) -> Result<BootPatch, Refusal> {
    let mut patch = BootPatch::default();
    for (name, value) in boot {
        match name.as_str() {
            "BootSourceOverrideTarget" => {
                let target = value.as_str().and_then(|target| face.target(target));
                patch.target = Some(target.ok_or_else(|| Refusal::value(name, value))?);
            }
            "BootSourceOverrideEnabled" => {
                let enabled = required(boot, name)?;
                if !face.enabled.contains(&enabled) {
                    return Err(Refusal::value(name, value));
                }
                patch.enabled = Some(enabled);
            }
            "BootSourceOverrideMode" if !face.mode_writable => {
                let message =
                    format!("The property {name} is a read only property and cannot be assigned a value.");
                return Err(Refusal::new(400, "PropertyNotWritable", message));
            }
            "BootSourceOverrideMode" => patch.mode = Some(required(boot, name)?),
            "BootNext" | "UefiTargetBootSourceOverride" if !face.options.is_empty() => {
                let named: String = required(boot, name)?;
                let boots = face.option(&named).ok_or_else(|| Refusal::value(name, value))?;
                patch.option = Some((named, boots));
            }
            "HttpBootUri" if !face.http_boot_uri => return Err(Refusal::unknown(name)),
            "HttpBootUri" => {
                let uri: Option<String> = required(boot, name)?;
                let uri = uri.filter(|uri| !uri.is_empty());
                if uri
                    .as_deref()
                    .is_some_and(|uri| !uri.starts_with("http://") && !uri.starts_with("https://"))
                {
                    return Err(Refusal::value(name, value));
                }
                patch.http_boot_uri = Some(uri);
            }
            _ => return Err(Refusal::unknown(name)),
        }
    }
    Ok(patch)
}

fn insert(face: &Face, body: &Map<String, Value>) -> Result<Command, Refusal> {
    if let Some(wanted) = &face.transfer
        && required::<String>(body, "TransferMethod")? != *wanted
    {
        return Err(Refusal::value("TransferMethod", &body["TransferMethod"]));
    }
    let image: String = required(body, "Image")?;
    if !image.starts_with("http://") && !image.starts_with("https://") {
        return Err(Refusal::value("Image", &Value::String(image)));
    }
    for name in body.keys() {
        let known = [
            "Image",
            "Inserted",
            "WriteProtected",
            "TransferMethod",
            "TransferProtocolType",
            "MediaType",
            "UserName",
            "Password",
        ];
        if !known.contains(&name.as_str()) {
            return Err(Refusal::unknown(name));
        }
    }
    Ok(Command::Insert(image))
}

impl BootPatch {
    /// Puts the settings in place.
    pub(crate) fn apply(self, face: &Face, life: &mut Life) -> Result<(), Refusal> {
        let mut boot = life.boot.clone();
        if let Some((named, boots)) = self.option {
            (boot.option, boot.target) = (Some(named), boots);
        }
        match self.target {
            Some((name, Some(target))) => {
                (boot.named, boot.target, boot.option) = (Some(name), target, None);
            }
            Some((name, None)) => {
                let named = boot.option.as_deref().and_then(|named| face.option(named));
                boot.target = named.ok_or_else(|| {
                    Refusal::new(
                        400,
                        "PropertyValueConflict",
                        format!("{name} needs an entry of the boot list."),
                    )
                })?;
                boot.named = Some(name);
            }
            None => {}
        }
        let overrides = self.target.is_some() || self.enabled.is_some();
        boot.enabled = self.enabled.unwrap_or(boot.enabled);
        boot.mode = self.mode.or(face.forgets_mode.filter(|_| overrides)).unwrap_or(boot.mode);
        if let Some(uri) = self.http_boot_uri {
            boot.http_boot_uri = uri;
        }
        if boot.target == BootTarget::UefiHttp
            && boot.mode == BootMode::Legacy
            && boot.enabled != BootEnabled::Disabled
        {
            return Err(Refusal::new(400, "PropertyValueConflict", "UefiHttp needs the boot mode UEFI."));
        }
        life.boot = boot;
        Ok(())
    }
}

/// The body as it may be kept: without secrets.
pub(crate) fn redacted(body: &[u8]) -> Value {
    let mut value = serde_json::from_slice(body).unwrap_or(Value::Null);
    for key in ["Password", "Context"] {
        if let Some(secret) = value.get_mut(key) {
            *secret = Value::from("…");
        }
    }
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::super::face::face;
    use super::*;
    use crate::config::Family;

    fn plain() -> &'static Face {
        face(Family::Plain)
    }

    fn ask(method: &str, path: &str, body: &Value) -> Result<Command, u16> {
        asked(Family::Plain, method, path, body)
    }

    fn asked(family: Family, method: &str, path: &str, body: &Value) -> Result<Command, u16> {
        parse(face(family), method, path, body.to_string().as_bytes()).map_err(|refusal| refusal.status)
    }

    #[test]
    fn families_take_their_own_words() {
        let boot = |boot: Value| json!({ "Boot": boot });
        let once = |target: &str| {
            boot(json!({"BootSourceOverrideTarget": target, "BootSourceOverrideEnabled": "Once"}))
        };
        assert_eq!(
            asked(Family::Megarac, "PATCH", SYSTEM, &once("Pxe")),
            Err(400),
            "it has settings for that"
        );
        assert!(asked(Family::Megarac, "PATCH", SETTINGS, &once("Pxe")).is_ok());
        assert_eq!(asked(Family::Plain, "PATCH", SETTINGS, &once("Pxe")), Err(404));
        assert_eq!(
            asked(Family::Xcc, "PATCH", SYSTEM, &boot(json!({"BootSourceOverrideEnabled": "Continuous"}))),
            Err(400)
        );
        assert_eq!(asked(Family::Xcc, "POST", INSERT, &json!({"Image": "http://x"})), Err(404));
        assert_eq!(
            asked(Family::Ilo, "PATCH", SYSTEM, &boot(json!({"BootSourceOverrideMode": "UEFI"}))),
            Err(400)
        );
        assert_eq!(
            asked(Family::Idrac, "PATCH", SYSTEM, &boot(json!({"HttpBootUri": "http://x"}))),
            Err(400)
        );
        assert_eq!(asked(Family::Listed, "POST", RESET, &json!({"ResetType": "PowerCycle"})), Err(400));
        assert_eq!(
            asked(Family::Xcc, "POST", RESET, &json!({"ResetType": "Nmi"})),
            Ok(Command::Reset(Does::Nothing))
        );

        let mut life = Life::default();
        let mut give = |family, body: &Value| match asked(family, "PATCH", SYSTEM, body).unwrap() {
            Command::Boot(patch) => patch.apply(face(family), &mut life).map(|()| life.boot.clone()),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            give(Family::Supermicro, &once("UsbCd")).unwrap().mode,
            BootMode::Legacy,
            "it was not named"
        );
        assert_eq!(give(Family::Listed, &once("UefiTarget")).unwrap_err().status, 400, "of no entry");
        let path = face(Family::Listed).lists("/redfish/v1/Systems/1/BootOptions/Boot0001").unwrap()["UefiDevicePath"].clone();
        let mut named = once("UefiTarget");
        named["Boot"]["UefiTargetBootSourceOverride"] = path;
        let set = give(Family::Listed, &named).unwrap();
        assert_eq!((set.target, set.named), (BootTarget::Cd, Some("UefiTarget")));
    }

    #[test]
    fn reset_types() {
        assert_eq!(ask("POST", RESET, &json!({"ResetType": "On"})), Ok(Command::Reset(Does::On)));
        assert_eq!(ask("POST", RESET, &json!({"ResetType": "Nmi"})), Err(400));
        assert_eq!(ask("POST", RESET, &json!({})), Err(400));
        assert_eq!(parse(plain(), "POST", RESET, b"{").unwrap_err().status, 400);
        assert_eq!(ask("PATCH", RESET, &json!({})), Err(405));
        assert_eq!(ask("POST", "/redfish/v1/Systems/2", &json!({})), Err(404));
    }

    #[test]
    fn boot_settings_are_merged_and_checked() {
        let mut life = Life::default();
        let patch = |boot: Value| ask("PATCH", SYSTEM, &json!({"Boot": boot}));
        let uri = "http://provider/boot";
        let Ok(Command::Boot(first)) = patch(json!({
            "BootSourceOverrideTarget": "UefiHttp", "BootSourceOverrideEnabled": "Once",
            "BootSourceOverrideMode": "UEFI", "HttpBootUri": uri,
        })) else {
            panic!("refused")
        };
        first.apply(plain(), &mut life).unwrap();
        assert_eq!(life.boot.http_boot_uri.as_deref(), Some(uri));
        let Ok(Command::Boot(second)) = patch(json!({"BootSourceOverrideEnabled": "Disabled"})) else {
            panic!("refused")
        };
        second.apply(plain(), &mut life).unwrap();
        assert_eq!(life.boot.target, BootTarget::UefiHttp);
        assert_eq!(patch(json!({"BootSourceOverrideTarget": "Floppy"})), Err(400));
        assert_eq!(patch(json!({"Oem": 1})), Err(400));
        assert_eq!(patch(json!({"HttpBootUri": "ftp://x"})), Err(400));
        let Ok(Command::Boot(legacy)) =
            patch(json!({"BootSourceOverrideMode": "Legacy", "BootSourceOverrideEnabled": "Once"}))
        else {
            panic!("refused")
        };
        assert_eq!(legacy.apply(plain(), &mut life).unwrap_err().status, 400);
    }

    #[test]
    fn media_by_action_and_by_patch() {
        let url = "http://provider/agent.iso";
        let inserted = Ok(Command::Insert(url.to_owned()));
        assert_eq!(
            ask("POST", INSERT, &json!({"Image": url, "Inserted": true, "WriteProtected": true})),
            inserted
        );
        assert_eq!(ask("PATCH", MEDIA, &json!({"Image": url})), inserted);
        assert_eq!(ask("PATCH", MEDIA, &json!({"Image": null, "Inserted": false})), Ok(Command::Eject));
        assert_eq!(parse(plain(), "POST", EJECT, b""), Ok(Command::Eject));
        assert_eq!(ask("POST", INSERT, &json!({})), Err(400));
        assert_eq!(ask("POST", INSERT, &json!({"Image": "nfs://x/y"})), Err(400));
    }

    #[test]
    fn passwords_are_not_kept() {
        assert_eq!(redacted(br#"{"Image":"x","Password":"p"}"#), json!({"Image": "x", "Password": "…"}));
        assert_eq!(redacted(b"{"), Value::Null);
    }
}
