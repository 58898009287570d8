//! Whatever a BMC answers, nothing panics.
#![allow(clippy::unwrap_used)]

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::Value;

use super::{adapters, boot, boot_options, facts, identity, inspect, json, media, power, task};
use crate::cases::{cases, matching};
use crate::quirks::Manner;
use crate::types::{BootTarget, PowerAction, PowerState};

/// Keys that the driver looks for, so that odd values come to stand where they are read.
const KEYS: &[&str] = &[
    "@odata.id",
    "@odata.type",
    "@odata.etag",
    "@Redfish.Settings",
    "SettingsObject",
    "@Redfish.ActionInfo",
    "@Message.ExtendedInfo",
    "Message",
    "MessageId",
    "error",
    "Actions",
    "#ComputerSystem.Reset",
    "#VirtualMedia.InsertMedia",
    "target",
    "ResetType@Redfish.AllowableValues",
    "Boot",
    "BootSourceOverrideTarget",
    "BootSourceOverrideEnabled",
    "BootSourceOverrideMode",
    "BootSourceOverrideTarget@Redfish.AllowableValues",
    "BootSourceOverrideEnabled@Redfish.AllowableValues",
    "HttpBootUri",
    "Members",
    "Drives",
    "Devices",
    "Id",
    "Name",
    "UUID",
    "SerialNumber",
    "SKU",
    "Manufacturer",
    "Model",
    "PowerState",
    "Status",
    "State",
    "Links",
    "ManagedBy",
    "Sessions",
    "MediaTypes",
    "Image",
    "Inserted",
    "MemorySummary",
    "TotalSystemMemoryGiB",
    "ProcessorSummary",
    "Count",
    "TotalThreads",
    "CapacityMiB",
    "CapacityBytes",
    "Identifiers",
    "DurableName",
    "DurableNameFormat",
    "MACAddress",
    "SpeedMbps",
    "IPv4Addresses",
    "Address",
    "TaskState",
    "Messages",
    "Parameters",
    "AllowableValues",
    "HostCorrelation",
    "HostMACAddress",
    "Ethernet",
    "PermanentMACAddress",
    "AssociatedMACAddresses",
    "AssociatedNetworkAddresses",
    "CurrentLinkSpeedMbps",
    "Alias",
    "UefiDevicePath",
    "BootOptionReference",
];

const TEXTS: &[&str] = &[
    "",
    "On",
    "Off",
    "Dell Inc.",
    "Supermicro",
    "#ComputerSystem.v1_16_0.ComputerSystem",
    "Cd",
    "UsbCd",
    "Pxe",
    "None",
    "CD",
    "Running",
    "Exception",
    "NAA",
    "EUI",
    "ResetType",
    "1e400",
    "-9223372036854775809",
    "aa:bb:cc:dd:ee:ff",
    "é€\u{0}",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(TEXTS).prop_map(Value::from),
        matching(".{0,12}").prop_map(Value::from),
    ];
    let key = prop_oneof![
        9 => proptest::sample::select(KEYS).prop_map(str::to_owned),
        1 => matching(".{0,6}"),
    ];
    leaf.prop_recursive(6, 96, 10, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(key.clone(), inner, 0..12).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// All that the driver makes of a document, beside another one.
pub(super) fn decode(value: &Value, second: &Value, status: u16) {
    let _ = (facts(value, Some(second)), boot::methods(value, true));
    for target in [
        BootTarget::Disk,
        BootTarget::Network,
        BootTarget::UefiHttp { url: "http://x".into() },
        BootTarget::VirtualMedia { url: "http://x".into() },
        BootTarget::NetworkAlways,
        BootTarget::UefiHttpAlways { url: "http://x".into() },
        BootTarget::LiveMedia { url: "http://x".into() },
    ] {
        if let Some((alias, by)) = boot_options::wanted(&target, value) {
            let _ = (boot_options::is(second, alias), boot_options::once(second, by));
        }
        let _ = boot::patch(&target, value, &Manner::default());
    }
    let _ = (boot::settings(value), boot::takes_override(value));
    let _ = (media::slot("/x", value), media::content(value), media::is_connected(value));
    let _ = media::order(json::members(value, "/Members"));
    let _ = (json::message(value), json::has_message(value, &["X"]));
    let _ = task::outcome(reqwest::StatusCode::from_u16(status).unwrap(), value);
    let _ = super::client::root_of(value);
    if let Some(action) = power::reset_action(value) {
        assert!(!action.target.is_empty());
    }
    let _ = power::allowed_of_info(value, "ResetType");
    adapters::of(value);
    inspect::of(value, Some(second), &[value.clone(), second.clone()]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases(2000)) })]

    #[test]
    fn nothing_panics(value in any_json(), second in any_json(), status in 200u16..600) {
        decode(&value, &second, status);
    }

    #[test]
    fn any_text_is_an_identity_or_none(text in matching("\\PC{0,64}")) {
        if let Some(uuid) = identity::uuid(&text) {
            prop_assert_eq!(uuid.len(), 36);
            prop_assert_eq!(identity::uuid(&uuid), Some(uuid.clone()));
        }
        if let Some(serial) = identity::serial(&text) {
            prop_assert!(!serial.is_empty());
        }
    }

    #[test]
    fn only_allowed_types_are_sent(allowed in vec(matching("[A-Za-z]{1,12}|On|ForceOff|ForceOn|ForceRestart|PowerCycle"), 1..6)) {
        use PowerAction::{ForceOff, ForceRestart, GracefulShutdown, On, PowerCycle};
        use PowerState as S;
        for action in [On, ForceOff, GracefulShutdown, ForceRestart, PowerCycle] {
            for state in [S::On, S::Off, S::PoweringOn, S::PoweringOff, S::Unknown] {
                if let power::Reset::Send(sent) = power::choose(action, state, Some(&allowed)) {
                    prop_assert!(allowed.iter().any(|value| value == sent));
                }
            }
        }
    }
}
