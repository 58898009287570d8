//! Boot override: what a BMC can do, and what to send it.

use serde_json::{Map, Value, json};

use super::json;
use crate::quirks::{Enabled, Manner, Mode};
use crate::types::{BootMethod, BootTarget};

/// Where a system lists the targets of a boot override.
pub(crate) const TARGETS: &str = "/Boot/BootSourceOverrideTarget@Redfish.AllowableValues";
const ENABLED: &str = "/Boot/BootSourceOverrideEnabled@Redfish.AllowableValues";

/// Ways of booting the agent that a system offers, best first. `media`: it has a slot for a virtual CD.
pub(crate) fn methods(system: &Value, media: bool) -> Vec<BootMethod> {
    let mut methods = Vec::new();
    if system.pointer("/Boot").is_none_or(|boot| !boot.is_object()) {
        return methods;
    }
    if media && media_target(system).is_some() {
        methods.push(BootMethod::VirtualMedia);
    }
    // Where the key is missing the firmware asks DHCP for the URL: that is network boot, not a URL by the BMC.
    if names_target(system, "UefiHttp") && system.pointer("/Boot/HttpBootUri").is_some() {
        methods.push(BootMethod::UefiHttp);
    }
    if allows_target(system, "Pxe") {
        methods.push(BootMethod::Network);
    }
    methods
}

/// The override target that means the virtual CD.
fn media_target(system: &Value) -> Option<&'static str> {
    ["Cd", "UsbCd"].into_iter().find(|target| allows_target(system, target))
}

/// Whether the BMC lists the target, or lists nothing at all.
pub(crate) fn allows_target(system: &Value, target: &str) -> bool {
    json::strings(system, TARGETS).is_none_or(|allowed| allowed.iter().any(|value| value == target))
}

/// Whether the BMC lists the target.
fn names_target(system: &Value, target: &str) -> bool {
    json::strings(system, TARGETS).is_some_and(|allowed| allowed.iter().any(|value| value == target))
}

/// What to send.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Patch {
    /// Nothing: it is so already.
    Nothing,
    /// The first of these that is not refused as a bad request.
    Try(Vec<Value>),
    /// The BMC cannot do it.
    NotSupported(&'static str),
}

/// What to send for a target, given the system resource as it is and how this BMC wants it.
pub(crate) fn patch(target: &BootTarget, system: &Value, manner: &Manner) -> Patch {
    match target {
        BootTarget::Disk => disk(system),
        BootTarget::Network if allows_target(system, "Pxe") => once(system, manner, "Pxe", None),
        BootTarget::NetworkAlways if allows_target(system, "Pxe") => always(system, manner, "Pxe", None),
        BootTarget::Network | BootTarget::NetworkAlways => {
            Patch::NotSupported("network boot: its boot override has no target Pxe")
        }
        BootTarget::UefiHttp { url } if allows_target(system, "UefiHttp") => {
            once(system, manner, "UefiHttp", Some(url))
        }
        BootTarget::UefiHttpAlways { url } if allows_target(system, "UefiHttp") => {
            always(system, manner, "UefiHttp", Some(url))
        }
        BootTarget::UefiHttp { .. } | BootTarget::UefiHttpAlways { .. } => {
            Patch::NotSupported("UEFI HTTP boot: its boot override has no target UefiHttp")
        }
        BootTarget::VirtualMedia { .. } | BootTarget::LiveMedia { .. } => match media_target(system) {
            Some(name) if matches!(target, BootTarget::LiveMedia { .. }) => {
                always(system, manner, name, None)
            }
            Some(name) => once(system, manner, name, None),
            None => {
                Patch::NotSupported("boot from virtual media: its boot override has no target Cd or UsbCd")
            }
        },
    }
}

fn once(system: &Value, manner: &Manner, target: &str, url: Option<&str>) -> Patch {
    let enabled = match manner.enabled {
        Some(Enabled::Once) => "Once",
        Some(Enabled::Continuous) => "Continuous",
        None if allows_enabled(system, "Once") => "Once",
        None => "Continuous",
    };
    overridden(system, manner, enabled, target, url)
}

fn always(system: &Value, manner: &Manner, target: &str, url: Option<&str>) -> Patch {
    let enabled = if allows_enabled(system, "Continuous") { "Continuous" } else { "Once" };
    overridden(system, manner, enabled, target, url)
}

fn overridden(system: &Value, manner: &Manner, enabled: &str, target: &str, url: Option<&str>) -> Patch {
    let mut boot = Map::new();
    boot.insert("BootSourceOverrideEnabled".into(), enabled.into());
    boot.insert("BootSourceOverrideTarget".into(), target.into());
    if let Some(url) = url {
        boot.insert("HttpBootUri".into(), url.into());
    }
    // The mode is left as it is, but HTTP boot exists in UEFI mode only.
    let mode = json::text(system, "/Boot/BootSourceOverrideMode");
    let wanted = if url.is_some() { mode.map(|_| "UEFI") } else { mode };
    let changes = wanted != mode;
    if let Some(wanted) = wanted.filter(|_| changes || manner.mode == Some(Mode::Always)) {
        boot.insert("BootSourceOverrideMode".into(), wanted.into());
    }
    let mut tries = vec![json!({ "Boot": boot.clone() })];
    // Some refuse an override without its mode.
    if let Some(wanted) = wanted
        && manner.mode.is_none()
        && !changes
    {
        boot.insert("BootSourceOverrideMode".into(), wanted.into());
        tries.push(json!({ "Boot": boot }));
    }
    Patch::Try(tries)
}

fn disk(system: &Value) -> Patch {
    let Some(boot) = system.get("Boot").filter(|boot| boot.is_object()) else {
        // Without an override there is none to clear.
        return Patch::Nothing;
    };
    let enabled = json::text(boot, "/BootSourceOverrideEnabled");
    let target = json::text(boot, "/BootSourceOverrideTarget");
    let is_disk = target.is_none_or(|target| matches!(target, "None" | "Hdd"));
    if enabled == Some("Disabled") || is_disk {
        return Patch::Nothing;
    }
    let mut tries = Vec::new();
    if allows_enabled(system, "Disabled") {
        tries.push(json!({"Boot": {"BootSourceOverrideEnabled": "Disabled"}}));
    }
    if allows_target(system, "None") {
        tries.push(
            json!({"Boot": {"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None"}}),
        );
    }
    if allows_target(system, "Hdd") {
        // Where an override cannot be cleared, it points at the disk for good.
        tries.push(
            json!({"Boot": {"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Hdd"}}),
        );
    }
    if tries.is_empty() { Patch::NotSupported("clearing its boot override") } else { Patch::Try(tries) }
}

fn allows_enabled(system: &Value, value: &str) -> bool {
    json::strings(system, ENABLED).is_none_or(|allowed| allowed.iter().any(|entry| entry == value))
}

/// The settings resource that takes boot changes, where the system resource itself holds no override.
pub(crate) fn settings(system: &Value) -> Option<String> {
    json::link(system, "/@Redfish.Settings/SettingsObject")
}

/// Whether a system or its settings resource is where the override stands.
pub(crate) fn takes_override(holder: &Value) -> bool {
    holder.pointer("/Boot/BootSourceOverrideTarget").is_some()
        || holder.pointer("/Boot/BootSourceOverrideEnabled").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "BootSourceOverrideTarget@Redfish.AllowableValues";
    const E: &str = "BootSourceOverrideEnabled@Redfish.AllowableValues";

    fn tries(target: &BootTarget, boot: Value) -> Vec<Value> {
        match patch(target, &json!({ "Boot": boot }), &Manner::default()) {
            Patch::Try(tries) => tries.into_iter().map(|mut body| body["Boot"].take()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_time_boots() {
        let url = "https://boot/x".to_owned();
        assert_eq!(
            tries(&BootTarget::Network, json!({})),
            [json!({"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe"})]
        );
        assert_eq!(
            tries(
                &BootTarget::Network,
                json!({E: ["Continuous", "Disabled"], "BootSourceOverrideMode": "Legacy"})
            ),
            [
                json!({"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Pxe"}),
                json!({"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Pxe",
                    "BootSourceOverrideMode": "Legacy"})
            ]
        );
        assert_eq!(
            tries(
                &BootTarget::UefiHttp { url: url.clone() },
                json!({T: ["Pxe", "UefiHttp"], "BootSourceOverrideMode": "Legacy"})
            ),
            [json!({"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "UefiHttp",
                "HttpBootUri": url, "BootSourceOverrideMode": "UEFI"})]
        );
        assert_eq!(
            tries(&BootTarget::VirtualMedia { url: url.clone() }, json!({T: ["Pxe", "UsbCd"]})),
            [json!({"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "UsbCd"})]
        );
        for (enabled, expected) in [(json!(["Once", "Continuous"]), "Continuous"), (json!(["Once"]), "Once")]
        {
            assert_eq!(
                tries(&BootTarget::LiveMedia { url: url.clone() }, json!({T: ["Cd"], E: enabled.clone()})),
                [json!({"BootSourceOverrideEnabled": expected, "BootSourceOverrideTarget": "Cd"})]
            );
            assert_eq!(
                tries(&BootTarget::NetworkAlways, json!({T: ["Pxe"], E: enabled.clone()})),
                [json!({"BootSourceOverrideEnabled": expected, "BootSourceOverrideTarget": "Pxe"})]
            );
            assert_eq!(
                tries(&BootTarget::UefiHttpAlways { url: url.clone() }, json!({T: ["UefiHttp"], E: enabled})),
                [json!({"BootSourceOverrideEnabled": expected, "BootSourceOverrideTarget": "UefiHttp",
                    "HttpBootUri": url})]
            );
        }
        for target in [
            BootTarget::Network,
            BootTarget::NetworkAlways,
            BootTarget::UefiHttp { url: url.clone() },
            BootTarget::UefiHttpAlways { url: url.clone() },
            BootTarget::VirtualMedia { url },
        ] {
            let answer = patch(&target, &json!({"Boot": {T: ["Hdd"]}}), &Manner::default());
            assert!(matches!(answer, Patch::NotSupported(_)), "{target:?}: {answer:?}");
        }
    }

    #[test]
    fn as_rules_say() {
        let system = json!({"Boot": {"BootSourceOverrideMode": "Legacy", E: ["Once", "Continuous"]}});
        let manner = |mode, enabled| {
            let mut manner = Manner::default();
            (manner.mode, manner.enabled) = (mode, enabled);
            manner
        };
        let modes = |manner: &Manner, target: &BootTarget| match patch(target, &system, manner) {
            Patch::Try(tries) => tries
                .iter()
                .map(|body| {
                    body["Boot"].get("BootSourceOverrideMode").and_then(Value::as_str).map(str::to_owned)
                })
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let (network, http) = (BootTarget::Network, BootTarget::UefiHttp { url: "http://x".into() });
        let legacy = || Some("Legacy".to_owned());
        assert_eq!(modes(&manner(None, None), &network), [None, legacy()]);
        assert_eq!(modes(&manner(Some(Mode::Always), None), &network), [legacy()]);
        assert_eq!(modes(&manner(Some(Mode::Never), None), &network), [None]);
        assert_eq!(modes(&manner(Some(Mode::Never), None), &http), [Some("UEFI".to_owned())]);
        match patch(&network, &system, &manner(None, Some(Enabled::Continuous))) {
            Patch::Try(tries) => assert_eq!(tries[0]["Boot"]["BootSourceOverrideEnabled"], "Continuous"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn back_to_the_disk() {
        for clear in [
            json!({}),
            json!({"Boot": {"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "Pxe"}}),
            json!({"Boot": {"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Hdd"}}),
            json!({"Boot": {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "None"}}),
        ] {
            assert_eq!(patch(&BootTarget::Disk, &clear, &Manner::default()), Patch::Nothing, "{clear}");
        }
        let set = json!({"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Cd"});
        assert_eq!(tries(&BootTarget::Disk, set)[0], json!({"BootSourceOverrideEnabled": "Disabled"}));
        let set = json!({"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Cd",
            T: ["Cd", "Hdd"], E: ["Continuous"]});
        assert_eq!(
            tries(&BootTarget::Disk, set),
            [json!({"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Hdd"})]
        );
        let stuck = json!({"Boot": {"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Cd",
            T: ["Cd"], E: ["Continuous"]}});
        assert!(matches!(patch(&BootTarget::Disk, &stuck, &Manner::default()), Patch::NotSupported(_)));
    }

    #[test]
    fn ways_of_booting() {
        use BootMethod::{Network, UefiHttp, VirtualMedia};
        let table = [
            (json!({}), true, vec![]),
            (json!({"Boot": {}}), true, vec![VirtualMedia, Network]),
            (json!({"Boot": {}}), false, vec![Network]),
            (json!({"Boot": {T: ["Pxe", "UefiHttp"], "HttpBootUri": null}}), true, vec![UefiHttp, Network]),
            (json!({"Boot": {T: ["Pxe", "UefiHttp", "Cd"]}}), true, vec![VirtualMedia, Network]),
            (json!({"Boot": {T: ["Hdd"]}}), true, vec![]),
            (json!({"Boot": "odd"}), true, vec![]),
        ];
        for (system, media, expected) in table {
            assert_eq!(methods(&system, media), expected, "{system}");
        }
    }
}
