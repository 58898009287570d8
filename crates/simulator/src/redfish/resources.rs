//! What the BMC shows: a tree of JSON resources as a pure function of the server's facts and state.

use serde_json::{Value, json};

use super::events::{self, Subscription};
use super::face::{BootAt, Face};
use crate::config::DiskKind;
use crate::life::{Life, Phase, Power};
use crate::spec::{DiskSpec, ServerSpec};

/// Root of the tree.
pub(crate) const ROOT: &str = "/redfish/v1";
pub(crate) const SYSTEM: &str = "/redfish/v1/Systems/1";
/// Where some families take boot settings.
pub(crate) const SETTINGS: &str = "/redfish/v1/Systems/1/Settings";
pub(crate) const BOOT_OPTIONS: &str = "/redfish/v1/Systems/1/BootOptions";
pub(crate) const RESET_INFO: &str = "/redfish/v1/Systems/1/ResetInfo";
pub(crate) const RESET: &str = "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset";
pub(crate) const MANAGER_RESET: &str = "/redfish/v1/Managers/1/Actions/Manager.Reset";
pub(crate) const MEDIA: &str = "/redfish/v1/Managers/1/VirtualMedia/Cd";
pub(crate) const INSERT: &str = "/redfish/v1/Managers/1/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia";
pub(crate) const EJECT: &str = "/redfish/v1/Managers/1/VirtualMedia/Cd/Actions/VirtualMedia.EjectMedia";
pub(crate) const SUBSCRIPTIONS: &str = "/redfish/v1/EventService/Subscriptions";
pub(crate) const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";

/// What the tree is a picture of.
pub(crate) struct View<'a> {
    pub(crate) face: &'static Face,
    pub(crate) spec: &'a ServerSpec,
    pub(crate) life: &'a Life,
    /// Power as the BMC says it.
    pub(crate) power: Power,
    pub(crate) sessions: &'a [u64],
    pub(crate) subscriptions: &'a [Subscription],
    pub(crate) now: String,
    pub(crate) asset_tag: &'a str,
    pub(crate) host_name: &'a str,
}

/// Whether a resource is shown without a login.
pub(crate) fn is_public(path: &str) -> bool {
    matches!(path, "/redfish" | ROOT)
}

/// The resource at a path (without a slash at its end), or nothing.
pub(crate) fn get(view: &View<'_>, path: &str) -> Option<Value> {
    if path == "/redfish" {
        return Some(json!({"v1": "/redfish/v1/"}));
    }
    if let Some(standing) = view.face.standing(path) {
        return Some(standing);
    }
    let plain = view.face.plain_path(path)?;
    let value = view.face.lists(&plain).or_else(|| plain_get(view, &plain))?;
    Some(view.face.shown(&plain, value, &view.spec.serial))
}

/// The resource at a path of the plain face.
fn plain_get(view: &View<'_>, path: &str) -> Option<Value> {
    let rest = path.strip_prefix(ROOT)?;
    let parts: Vec<&str> = rest.split('/').skip(1).collect();
    match parts.as_slice() {
        [] => Some(root(view)),
        ["Systems"] => Some(collection(path, "ComputerSystemCollection.ComputerSystemCollection", ["1"])),
        ["Systems", "1", rest @ ..] => system(view, path, rest),
        ["Managers"] => Some(collection(path, "ManagerCollection.ManagerCollection", ["1"])),
        ["Managers", "1", rest @ ..] => manager(view, path, rest),
        ["Chassis"] => Some(collection(path, "ChassisCollection.ChassisCollection", ["1"])),
        ["Chassis", "1"] => Some(chassis(view)),
        ["SessionService"] => Some(json!({
            "@odata.id": path, "@odata.type": "#SessionService.v1_1_8.SessionService",
            "Id": "SessionService", "Name": "Session Service", "ServiceEnabled": true,
            "SessionTimeout": view.face.sessions.timeout_seconds, "Sessions": link(SESSIONS),
        })),
        ["SessionService", "Sessions"] => {
            let ids = view.sessions.iter().map(u64::to_string);
            Some(collection(path, "SessionCollection.SessionCollection", ids))
        }
        ["SessionService", "Sessions", id] => {
            let id: u64 = id.parse().ok()?;
            view.sessions.contains(&id).then(|| session(view.spec, id))
        }
        ["EventService"] => Some(events::service(view.face.events.as_ref()?, path)),
        ["EventService", "Subscriptions"] => {
            view.face.events.as_ref()?;
            let ids = view.subscriptions.iter().map(|one| one.id.to_string());
            Some(collection(path, "EventDestinationCollection.EventDestinationCollection", ids))
        }
        ["EventService", "Subscriptions", id] => {
            let id: u64 = id.parse().ok()?;
            view.subscriptions.iter().find(|one| one.id == id).map(|one| one.resource(path))
        }
        ["UpdateService"] => Some(json!({
            "@odata.id": path, "@odata.type": "#UpdateService.v1_11_0.UpdateService", "Id": "UpdateService",
            "Name": "Update Service", "ServiceEnabled": false,
            "FirmwareInventory": link("/redfish/v1/UpdateService/FirmwareInventory"),
        })),
        ["UpdateService", "FirmwareInventory"] => {
            Some(collection(path, "SoftwareInventoryCollection.SoftwareInventoryCollection", ["BIOS", "BMC"]))
        }
        ["UpdateService", "FirmwareInventory", part @ ("BIOS" | "BMC")] => {
            let version = if *part == "BIOS" { ServerSpec::BIOS_VERSION } else { ServerSpec::BMC_VERSION };
            Some(json!({
                "@odata.id": path, "@odata.type": "#SoftwareInventory.v1_8_0.SoftwareInventory",
                "Id": part, "Name": part, "Version": version, "Updateable": false, "Status": healthy(),
            }))
        }
        _ => None,
    }
}

/// A session as its own resource.
pub(crate) fn session(spec: &ServerSpec, id: u64) -> Value {
    json!({
        "@odata.id": format!("{SESSIONS}/{id}"), "@odata.type": "#Session.v1_5_0.Session",
        "Id": id.to_string(), "Name": format!("Session {id}"), "UserName": spec.username,
    })
}

fn root(view: &View<'_>) -> Value {
    let mut root = json!({
        "@odata.id": "/redfish/v1/", "@odata.type": "#ServiceRoot.v1_15_0.ServiceRoot",
        "Id": "RootService", "Name": "Root Service", "RedfishVersion": "1.17.0",
        "UUID": view.spec.uuid, "Vendor": ServerSpec::MANUFACTURER, "Product": "Simulated BMC",
        "ProtocolFeaturesSupported": {
            "ExpandQuery": {"ExpandAll": false, "Levels": false, "Links": false, "NoLinks": false},
            "FilterQuery": false, "SelectQuery": false, "OnlyMemberQuery": false, "ExcerptQuery": false,
        },
        "Systems": link("/redfish/v1/Systems"), "Managers": link("/redfish/v1/Managers"),
        "Chassis": link("/redfish/v1/Chassis"), "SessionService": link("/redfish/v1/SessionService"),
        "UpdateService": link("/redfish/v1/UpdateService"),
        "Links": {"Sessions": link(SESSIONS)},
    });
    if view.face.events.is_some() {
        root["EventService"] = link("/redfish/v1/EventService");
    }
    root
}

fn system(view: &View<'_>, path: &str, rest: &[&str]) -> Option<Value> {
    let spec = view.spec;
    match rest {
        [] => Some(computer_system(view)),
        ["Settings"] if view.face.boot_at == BootAt::Settings => Some(json!({
            "@odata.id": path, "@odata.type": "#ComputerSystem.v1_8_0.ComputerSystem", "Id": "Settings",
            "Name": "Settings", "Boot": boot(view),
        })),
        ["Processors"] => {
            let ids = (1..=spec.class.sockets).map(|n| format!("CPU{n}"));
            Some(collection(path, "ProcessorCollection.ProcessorCollection", ids))
        }
        ["Processors", id] => {
            let number: u32 = id.strip_prefix("CPU")?.parse().ok()?;
            (1..=spec.class.sockets).contains(&number).then(|| processor(spec, path, id))
        }
        ["EthernetInterfaces"] => {
            let ids = spec.nics.iter().map(|nic| nic.name.clone());
            Some(collection(path, "EthernetInterfaceCollection.EthernetInterfaceCollection", ids))
        }
        ["EthernetInterfaces", id] => {
            let nic = spec.nics.iter().find(|nic| nic.name == *id)?;
            Some(json!({
                "@odata.id": path, "@odata.type": "#EthernetInterface.v1_9_0.EthernetInterface",
                "Id": id, "Name": format!("Ethernet port {id}"), "MACAddress": nic.mac,
                "PermanentMACAddress": nic.mac, "SpeedMbps": 25_000, "LinkStatus": "LinkUp",
                "InterfaceEnabled": true, "FullDuplex": true, "Status": healthy(),
            }))
        }
        ["Storage"] => Some(collection(path, "StorageCollection.StorageCollection", ["1"])),
        ["Storage", "1"] => Some(json!({
            "@odata.id": path, "@odata.type": "#Storage.v1_15_0.Storage", "Id": "1", "Name": "Disks",
            "Drives": (0..spec.disks.len()).map(|n| link(&format!("{path}/Drives/{n}"))).collect::<Vec<_>>(),
            "Drives@odata.count": spec.disks.len(), "Status": healthy(),
        })),
        ["Storage", "1", "Drives", number] => {
            let disk = spec.disks.get(number.parse::<usize>().ok()?)?;
            Some(drive(disk, path, number))
        }
        _ => None,
    }
}

fn computer_system(view: &View<'_>) -> Value {
    let spec = view.spec;
    let progress = match view.life.phase {
        Phase::Dark => "None",
        Phase::Post | Phase::NoBootableDisk(_) => "SystemHardwareInitializationComplete",
        Phase::Fetching { .. } | Phase::ReadingDisk | Phase::HangsAtPxe => "OSBootStarted",
        Phase::Agent | Phase::Os | Phase::LiveOs | Phase::SystemInMemory | Phase::Crashed(_) => "OSRunning",
    };
    let threads = spec.class.sockets * spec.class.cores_per_socket * spec.class.threads_per_core;
    let mut system = json!({
        "@odata.id": SYSTEM, "@odata.type": "#ComputerSystem.v1_20_0.ComputerSystem",
        "Id": "1", "Name": spec.name, "SystemType": "Physical", "UUID": spec.uuid,
        "Manufacturer": ServerSpec::MANUFACTURER, "Model": spec.class.model, "SKU": spec.class.name,
        "SerialNumber": spec.serial, "PartNumber": "SIM-1", "AssetTag": view.asset_tag,
        "HostName": view.host_name, "BiosVersion": ServerSpec::BIOS_VERSION,
        "PowerState": view.power, "Status": healthy(), "IndicatorLED": "Off",
        "BootProgress": {"LastState": progress},
        "Boot": boot(view),
        "ProcessorSummary": {
            "Count": spec.class.sockets, "CoreCount": spec.class.sockets * spec.class.cores_per_socket,
            "LogicalProcessorCount": threads, "Model": spec.class.cpu_model, "Status": healthy(),
        },
        "MemorySummary": {"TotalSystemMemoryGiB": spec.class.memory_gib, "Status": {"HealthRollup": "OK"}},
        "Processors": link("/redfish/v1/Systems/1/Processors"),
        "EthernetInterfaces": link("/redfish/v1/Systems/1/EthernetInterfaces"),
        "Storage": link("/redfish/v1/Systems/1/Storage"),
        "Links": {
            "Chassis": [link("/redfish/v1/Chassis/1")], "ManagedBy": [link("/redfish/v1/Managers/1")],
        },
        "Actions": {"#ComputerSystem.Reset": view.face.reset_action(RESET)},
    });
    if let Some(settings) = view.face.settings() {
        system["@Redfish.Settings"] = settings;
    }
    system
}

/// The boot settings.
fn boot(view: &View<'_>) -> Value {
    let (face, boot) = (view.face, &view.life.boot);
    let mut shown = json!({
        "BootSourceOverrideEnabled": boot.enabled,
        "BootSourceOverrideTarget": boot.named.unwrap_or_else(|| face.target_name(boot.target)),
        "BootSourceOverrideMode": boot.mode,
        "BootSourceOverrideMode@Redfish.AllowableValues": ["UEFI", "Legacy"],
        "HttpBootUri": boot.http_boot_uri,
    });
    if let Some(named) = &boot.option {
        let key = if named.starts_with("Boot") { "BootNext" } else { "UefiTargetBootSourceOverride" };
        shown[key] = named.as_str().into();
    }
    if let Some(shown) = shown.as_object_mut() {
        face.boot(shown);
    }
    shown
}

fn processor(spec: &ServerSpec, path: &str, id: &str) -> Value {
    let class = &spec.class;
    let (architecture, set) = if class.cpu_arch == "arm64" { ("ARM", "ARM-A64") } else { ("x86", "x86-64") };
    json!({
        "@odata.id": path, "@odata.type": "#Processor.v1_18_0.Processor", "Id": id, "Name": id,
        "ProcessorType": "CPU", "ProcessorArchitecture": architecture, "InstructionSet": set,
        "Manufacturer": ServerSpec::MANUFACTURER, "Model": class.cpu_model, "MaxSpeedMHz": class.clock_mhz,
        "OperatingSpeedMHz": class.clock_mhz, "TotalCores": class.cores_per_socket,
        "TotalThreads": class.cores_per_socket * class.threads_per_core, "Socket": id, "Status": healthy(),
    })
}

fn drive(disk: &DiskSpec, path: &str, number: &str) -> Value {
    let (media, protocol) = match disk.kind {
        DiskKind::Hdd => ("HDD", "SATA"),
        DiskKind::Ssd => ("SSD", "SATA"),
        DiskKind::Nvme => ("SSD", "NVMe"),
    };
    json!({
        "@odata.id": path, "@odata.type": "#Drive.v1_17_0.Drive", "Id": number,
        "Name": format!("Disk {number}"), "CapacityBytes": disk.size_bytes, "MediaType": media,
        "Protocol": protocol, "Manufacturer": disk.vendor, "Model": disk.model, "SerialNumber": disk.serial,
        "Identifiers": [{"DurableName": disk.wwn.trim_start_matches("0x"), "DurableNameFormat": "NAA"}],
        "RotationSpeedRPM": if disk.kind == DiskKind::Hdd { 7200 } else { 0 }, "Status": healthy(),
    })
}

fn manager(view: &View<'_>, path: &str, rest: &[&str]) -> Option<Value> {
    match rest {
        [] => Some(json!({
            "@odata.id": path, "@odata.type": "#Manager.v1_18_0.Manager", "Id": "1", "Name": "BMC",
            "ManagerType": "BMC", "Model": "Simulated BMC", "FirmwareVersion": ServerSpec::BMC_VERSION,
            "UUID": view.spec.uuid, "DateTime": view.now, "DateTimeLocalOffset": "+00:00",
            "PowerState": "On", "Status": healthy(),
            "VirtualMedia": link("/redfish/v1/Managers/1/VirtualMedia"),
            "EthernetInterfaces": link("/redfish/v1/Managers/1/EthernetInterfaces"),
            "Links": {
                "ManagerForServers": [link(SYSTEM)], "ManagerForChassis": [link("/redfish/v1/Chassis/1")],
            },
            "Actions": {"#Manager.Reset": {
                "target": MANAGER_RESET, "ResetType@Redfish.AllowableValues": ["GracefulRestart", "ForceRestart"],
            }},
        })),
        ["VirtualMedia"] => Some(collection(path, "VirtualMediaCollection.VirtualMediaCollection", ["Cd"])),
        ["VirtualMedia", "Cd"] => {
            let media = view.life.media.as_deref();
            let name = media.and_then(|url| url.rsplit('/').next());
            let mut slot = json!({
                "@odata.id": MEDIA, "@odata.type": "#VirtualMedia.v1_6_2.VirtualMedia", "Id": "Cd",
                "Name": "Virtual CD", "MediaTypes": ["CD", "DVD"], "Inserted": media.is_some(),
                "WriteProtected": true, "Image": media, "ImageName": name, "TransferMethod": "Stream",
                "TransferProtocolType": media.map(|_| "HTTP"),
                "ConnectedVia": if media.is_some() { "URI" } else { "NotConnected" },
            });
            let actions = json!({
                "#VirtualMedia.InsertMedia": {
                    "target": INSERT, "TransferProtocolType@Redfish.AllowableValues": ["HTTP"],
                    "TransferMethod@Redfish.AllowableValues": ["Stream"],
                },
                "#VirtualMedia.EjectMedia": {"target": EJECT},
            });
            if let Some(actions) = view.face.media_actions(actions, media.is_some()) {
                slot["Actions"] = actions;
            }
            Some(slot)
        }
        ["EthernetInterfaces"] => {
            Some(collection(path, "EthernetInterfaceCollection.EthernetInterfaceCollection", ["1"]))
        }
        ["EthernetInterfaces", "1"] => Some(json!({
            "@odata.id": path, "@odata.type": "#EthernetInterface.v1_9_0.EthernetInterface", "Id": "1",
            "Name": "Management port", "InterfaceEnabled": true,
            "MACAddress": view.spec.bmc_mac_text(),
            "IPv4Addresses": [{"Address": view.spec.bmc_ip, "SubnetMask": "255.0.0.0", "AddressOrigin": "Static"}],
            "Status": healthy(),
        })),
        _ => None,
    }
}

fn chassis(view: &View<'_>) -> Value {
    let spec = view.spec;
    json!({
        "@odata.id": "/redfish/v1/Chassis/1", "@odata.type": "#Chassis.v1_22_0.Chassis", "Id": "1",
        "Name": spec.name, "ChassisType": "RackMount", "Manufacturer": ServerSpec::MANUFACTURER,
        "Model": spec.class.model, "SerialNumber": spec.serial, "PowerState": view.power,
        "Location": {"Placement": {"Rack": spec.rack}}, "Status": healthy(),
        "Links": {"ComputerSystems": [link(SYSTEM)], "ManagedBy": [link("/redfish/v1/Managers/1")]},
    })
}

pub(crate) fn collection(path: &str, kind: &str, ids: impl IntoIterator<Item = impl AsRef<str>>) -> Value {
    let members: Vec<Value> = ids.into_iter().map(|id| link(&format!("{path}/{}", id.as_ref()))).collect();
    let name = kind.split('.').next().unwrap_or(kind);
    json!({
        "@odata.id": path, "@odata.type": format!("#{kind}"), "Name": name,
        "Members@odata.count": members.len(), "Members": members,
    })
}

fn link(path: &str) -> Value {
    json!({"@odata.id": path})
}

fn healthy() -> Value {
    json!({"State": "Enabled", "Health": "OK", "HealthRollup": "OK"})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{Family, FleetConfig};

    fn links(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        Value::String(path)
                            if matches!(key.as_str(), "@odata.id" | "@Redfish.ActionInfo") =>
                        {
                            found.insert(path.trim_end_matches('/').to_owned());
                        }
                        other => links(other, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| links(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_link_leads_somewhere() {
        for family in Family::ALL {
            links_of(family);
        }
    }

    fn links_of(family: Family) {
        let mut config = FleetConfig::new(1, "/nowhere");
        config.classes[0].bmc = family;
        let spec = crate::spec::derive(&config).unwrap().remove(0);
        let view = View {
            face: super::super::face::face(family),
            spec: &spec,
            life: &Life::default(),
            power: Power::Off,
            sessions: &[3],
            subscriptions: &[],
            now: "2026-01-01T00:00:00Z".to_owned(),
            asset_tag: "",
            host_name: "",
        };
        let (mut todo, mut seen) = (vec!["/redfish/v1".to_owned()], BTreeSet::new());
        while let Some(path) = todo.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let value = get(&view, &path).unwrap_or_else(|| panic!("{family:?}: {path} leads nowhere"));
            assert_eq!(value["@odata.id"].as_str().unwrap().trim_end_matches('/'), path);
            let mut found = BTreeSet::new();
            links(&value, &mut found);
            todo.extend(found);
        }
        assert!(seen.len() > 20, "{seen:?}");
        assert!(seen.contains(&spec.system_path()), "{family:?}");
        for nowhere in
            ["/", "/redfish/v2", "/redfish/v1/Systems/2", "/redfish/v1/Systems/1/Storage/1/Drives/9"]
        {
            assert_eq!(get(&view, nowhere), None, "{nowhere}");
        }
    }
}
