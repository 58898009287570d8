//! Boot options: where a boot override knows no target of the kind that is wanted, it may still name one option of the
//! firmware's list (`BootOption`, DSP2046).

use serde_json::{Value, json};

use super::boot::{TARGETS, allows_target};
use super::json;
use crate::types::BootTarget;

/// How an override names an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// `UefiBootNext`: by its reference, e.g. `Boot0003`.
    Next,
    /// `UefiTarget`: by its device path.
    Path,
}

/// What kind of option is wanted, as `Alias` has it, and how it is named; `None` where the override knows the target
/// itself, or cannot name options.
pub(crate) fn wanted(target: &BootTarget, system: &Value) -> Option<(&'static str, By)> {
    let alias = match target {
        BootTarget::Network if !allows_target(system, "Pxe") => "Pxe",
        BootTarget::VirtualMedia { .. } | BootTarget::LiveMedia { .. }
            if !allows_target(system, "Cd") && !allows_target(system, "UsbCd") =>
        {
            "Cd"
        }
        _ => return None,
    };
    json::strings(system, TARGETS)?;
    if allows_target(system, "UefiBootNext") {
        Some((alias, By::Next))
    } else if allows_target(system, "UefiTarget") {
        Some((alias, By::Path))
    } else {
        None
    }
}

/// Whether an option is of the kind: by its alias, else by its device path or its name.
pub(crate) fn is(option: &Value, alias: &str) -> bool {
    if json::boolean(option, "/BootOptionEnabled") == Some(false) {
        return false;
    }
    if let Some(said) = json::text(option, "/Alias") {
        return said == alias;
    }
    let path = json::text(option, "/UefiDevicePath").unwrap_or_default();
    let name = json::text(option, "/DisplayName").unwrap_or_default().to_ascii_lowercase();
    match alias {
        // Uri() makes it HTTP boot. IPv4 is what the provider answers.
        "Pxe" => path.contains("MAC(") && path.contains("IPv4(") && !path.contains("Uri("),
        _ => name.contains("virtual") && ["cd", "dvd", "optical"].iter().any(|word| name.contains(word)),
    }
}

/// What boots an option once; `None` where it does not tell what it is named by.
pub(crate) fn once(option: &Value, by: By) -> Option<Value> {
    let enabled = "Once";
    let boot = match by {
        By::Next => {
            let reference =
                json::string(option, "/BootOptionReference").or_else(|| json::string(option, "/Id"))?;
            json!({"BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": "UefiBootNext", "BootNext": reference})
        }
        By::Path => {
            let path = json::string(option, "/UefiDevicePath")?;
            json!({"BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": "UefiTarget",
                "UefiTargetBootSourceOverride": path})
        }
    };
    Some(json!({ "Boot": boot }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn listing(targets: &[&str]) -> Value {
        json!({"Boot": {"BootSourceOverrideTarget@Redfish.AllowableValues": targets}})
    }

    #[test]
    fn options_are_wanted_only_where_the_target_is_not_known() {
        let media = BootTarget::VirtualMedia { url: "http://x".into() };
        for (target, targets, expected) in [
            (&BootTarget::Network, &["Pxe", "UefiBootNext"][..], None),
            (&BootTarget::Network, &["Hdd", "UefiBootNext", "UefiTarget"][..], Some(("Pxe", By::Next))),
            (&BootTarget::Network, &["UefiTarget"][..], Some(("Pxe", By::Path))),
            (&BootTarget::Network, &["Hdd"][..], None),
            (&media, &["Pxe", "UefiTarget"][..], Some(("Cd", By::Path))),
            (&media, &["UsbCd", "UefiTarget"][..], None),
            (&BootTarget::Disk, &["UefiTarget"][..], None),
        ] {
            assert_eq!(wanted(target, &listing(targets)), expected, "{target:?} {targets:?}");
        }
        assert_eq!(
            wanted(&BootTarget::Network, &json!({"Boot": {}})),
            None,
            "nothing listed: all may be tried"
        );
    }

    #[test]
    fn options_are_told_apart() {
        let pxe = json!({"UefiDevicePath": "PciRoot(0x1)/MAC(507C6F11F2A6,0x1)/IPv4(0.0.0.0)", "BootOptionReference": "Boot0001"});
        let http = json!({"UefiDevicePath": "PciRoot(0x1)/MAC(507C6F11F2A6,0x1)/IPv4(0.0.0.0)/Uri()"});
        let cd = json!({"DisplayName": "Virtual CDROM", "Id": "0007"});
        for (option, alias, expected) in [
            (&pxe, "Pxe", true),
            (&http, "Pxe", false),
            (&cd, "Cd", true),
            (&pxe, "Cd", false),
            (&json!({"Alias": "Cd", "DisplayName": "x"}), "Cd", true),
            (&json!({"Alias": "Hdd", "DisplayName": "virtual cd"}), "Cd", false),
            (&json!({"Alias": "Cd", "BootOptionEnabled": false}), "Cd", false),
            (&json!({"DisplayName": "SATA CD"}), "Cd", false),
        ] {
            assert_eq!(is(option, alias), expected, "{option} {alias}");
        }
        assert_eq!(once(&pxe, By::Next).unwrap()["Boot"]["BootNext"], "Boot0001");
        assert!(once(&pxe, By::Path).unwrap()["Boot"]["UefiTargetBootSourceOverride"].is_string());
        assert_eq!(once(&cd, By::Next).unwrap()["Boot"]["BootNext"], "0007");
        assert_eq!(once(&cd, By::Path), None);
    }
}
