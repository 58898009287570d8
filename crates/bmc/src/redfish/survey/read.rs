//! Reads a survey, piece by piece. An odd or missing piece costs that piece; a BMC that stops answering ends it.

use ferric_api::HardwareDetails;
use ferric_api::hardware::FirmwareComponent;
use serde_json::Value;
use tokio::time::{Duration, timeout};

use super::{
    Can, FirmwareFound, ManagerFound, MediaSlot, SecureBoot, Service, Survey, SystemFound, health, would,
};
use crate::error::BmcError;
use crate::redfish::client::{Resource, one_fact};
use crate::redfish::inspect::{self, Reader};
use crate::redfish::{Redfish, boot, facts, identity, json, media, power};

/// Most systems that are listed with their identity.
const SYSTEMS: usize = 64;
/// Most pieces of firmware that are listed.
const FIRMWARE: usize = 256;
/// Most that are kept of an inspection, requests for them, and how long they may take: they are of use, and not needed.
const FIRMWARE_KEPT: usize = 128;
const FIRMWARE_REQUESTS: usize = 64;
const FIRMWARE_TIME: Duration = Duration::from_secs(30);
/// Longest name or version of one, in characters.
const LONGEST: usize = 128;

impl Redfish {
    /// Reads everything into a survey, the most telling first.
    pub(super) async fn survey(&self, survey: &mut Survey) -> Result<(), BmcError> {
        let root = self.client.root().await?;
        let service =
            one_fact(self.client.get("/redfish/v1/").await)?.map(|root| root.json).unwrap_or_default();
        survey.service = Some(Service {
            redfish_version: json::string(&service, "/RedfishVersion"),
            vendor: json::string(&service, "/Vendor"),
            product: json::string(&service, "/Product"),
            sessions: root.sessions.is_some(),
            expand: root.expand,
            events: service.get("EventService").is_some(),
        });
        let chosen = self.system().await;
        self.list_systems(survey, chosen.as_ref().ok()).await?;
        let system = chosen?;
        let facts_only = facts(&system.json, None);
        survey.power = Some(facts_only.power.as_str());
        survey.system_uuid = facts_only.system_uuid;
        let manager = self.manager(&system.json).await?;
        survey.manager = manager.as_ref().map(manager_found);
        survey.can = self.can(&system, manager.as_ref()).await?;
        survey.would = would::would(&system, survey, self.client.kind.active().manner.clone());
        survey.health.system = health::of(&system.json);
        survey.health.take_system(&system.json);
        survey.health.manager = manager.as_ref().and_then(|manager| health::of(&manager.json));
        survey.health.settle();
        survey.secure_boot = self.secure_boot(&system.json).await?;
        let manager = manager.map(|manager| manager.json);
        survey.hardware = Some(inspect::inspect(&self.client, &system.json, manager.as_ref()).await?);
        let reader = Reader::new(&self.client).await?;
        health::read(&reader, &system.json, &mut survey.health).await?;
        survey.firmware = firmware(&reader, &service).await?;
        Ok(())
    }

    /// Adds to an inspection whether Secure Boot is on, and which firmware is installed.
    pub(in crate::redfish) async fn complete(
        &self,
        system: &Value,
        details: &mut HardwareDetails,
    ) -> Result<(), BmcError> {
        if let Some(secure) = self.secure_boot(system).await? {
            (details.secure_boot, details.secure_boot_enabled) = (secure.current, secure.enabled);
        }
        let read = async {
            let service = one_fact(self.client.get("/redfish/v1/").await)?;
            let service = service.map(|root| root.json).unwrap_or_default();
            let reader = Reader::with(&self.client, FIRMWARE_REQUESTS).await?;
            firmware(&reader, &service).await
        };
        // A BMC that takes long for it is not failed for it; one that stops answering is.
        let found = match timeout(FIRMWARE_TIME, read).await {
            Ok(found) => found?,
            Err(_) => Vec::new(),
        };
        details.firmware.components = found.into_iter().take(FIRMWARE_KEPT).map(component).collect();
        Ok(())
    }

    async fn list_systems(&self, survey: &mut Survey, chosen: Option<&Resource>) -> Result<(), BmcError> {
        let paths = one_fact(self.systems().await)?.unwrap_or_default();
        for path in paths.into_iter().take(SYSTEMS) {
            let same = |one: &str, other: &str| one.trim_end_matches('/') == other.trim_end_matches('/');
            let is_chosen = chosen.filter(|chosen| same(&chosen.path, &path));
            let read = match is_chosen {
                Some(_) => None,
                None => self.client.fact(&path).await?,
            };
            let system = is_chosen.or(read.as_ref()).map(|system| &system.json).unwrap_or(&Value::Null);
            survey.systems.push(SystemFound {
                chosen: is_chosen.is_some(),
                manufacturer: json::string(system, "/Manufacturer"),
                product: json::string(system, "/Model"),
                serial_number: json::text(system, "/SerialNumber").and_then(identity::serial),
                uuid: json::text(system, "/UUID").and_then(identity::uuid),
                path,
            });
        }
        Ok(())
    }

    async fn can(&self, system: &Resource, manager: Option<&Resource>) -> Result<Can, BmcError> {
        let slot = self.slot(&system.json, manager.map(|manager| &manager.json)).await?;
        let reset = power::reset_action(&system.json);
        let reset_types = match reset {
            Some(reset) => match (reset.allowed, reset.info) {
                (Some(allowed), _) => Some(allowed),
                (None, Some(info)) => self.reset_types(&info).await?.map(|types| types.to_vec()),
                (None, None) => None,
            },
            None => None,
        };
        let holder = self.override_holder(system).await?;
        let holder = holder.as_ref().unwrap_or(system);
        let says = if boot::takes_override(&holder.json) { &holder.json } else { &system.json };
        Ok(Can {
            boot: self.methods(&system.json, slot.is_some()).await?,
            reset_types,
            override_targets: json::strings(says, boot::TARGETS),
            override_path: says.get("Boot").map(|_| holder.path.clone()),
            override_mode: json::string(says, "/Boot/BootSourceOverrideMode"),
            media: self.media(system, manager, slot.as_deref()).await?,
        })
    }

    async fn media(
        &self,
        system: &Resource,
        manager: Option<&Resource>,
        chosen: Option<&media::Slot>,
    ) -> Result<Vec<MediaSlot>, BmcError> {
        let of_system = json::link(&system.json, "/VirtualMedia");
        let of_manager = manager.and_then(|manager| json::link(&manager.json, "/VirtualMedia"));
        let mut slots: Vec<MediaSlot> = Vec::new();
        for collection in of_system.into_iter().chain(of_manager) {
            for member in
                one_fact(self.client.members(&collection).await)?.unwrap_or_default().into_iter().take(16)
            {
                if slots.iter().any(|slot| slot.path == member.path) {
                    continue;
                }
                let Some(resource) = self.client.fact(&member.path).await? else { continue };
                slots.push(MediaSlot {
                    media_types: json::strings(&resource.json, "/MediaTypes").unwrap_or_default(),
                    chosen: chosen.is_some_and(|chosen| chosen.path == member.path),
                    occupied: matches!(
                        media::content(&resource.json),
                        media::Content::Image(_) | media::Content::Unnamed
                    ),
                    whole_only: media::Transfer::of(&resource.json) == media::Transfer::Upload,
                    path: member.path,
                });
            }
        }
        Ok(slots)
    }

    async fn secure_boot(&self, system: &Value) -> Result<Option<SecureBoot>, BmcError> {
        let Some(link) = json::link(system, "/SecureBoot") else { return Ok(None) };
        Ok(self.client.fact(&link).await?.map(|resource| SecureBoot {
            current: json::text(&resource.json, "/SecureBootCurrentBoot").map(|text| text == "Enabled"),
            enabled: json::boolean(&resource.json, "/SecureBootEnable"),
            mode: json::string(&resource.json, "/SecureBootMode"),
        }))
    }
}

fn component(found: FirmwareFound) -> FirmwareComponent {
    let short = |text: String| {
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect::<String>()
    };
    FirmwareComponent {
        name: short(found.name),
        version: found.version.map(short).unwrap_or_default(),
        updateable: found.updateable,
    }
}

fn manager_found(manager: &Resource) -> ManagerFound {
    ManagerFound {
        path: manager.path.clone(),
        model: json::string(&manager.json, "/Model"),
        firmware: json::string(&manager.json, "/FirmwareVersion"),
        date_time: json::string(&manager.json, "/DateTime"),
    }
}

async fn firmware(reader: &Reader<'_>, service: &Value) -> Result<Vec<FirmwareFound>, BmcError> {
    let Some(link) = json::link(service, "/UpdateService") else { return Ok(Vec::new()) };
    let Some(update) = reader.resource(&link).await? else { return Ok(Vec::new()) };
    let found = reader.collection(&update, "/FirmwareInventory").await?;
    Ok(found
        .iter()
        .filter_map(|item| {
            Some(FirmwareFound {
                name: json::string(item, "/Name").or_else(|| json::string(item, "/Id"))?,
                version: json::string(item, "/Version"),
                updateable: json::boolean(item, "/Updateable"),
            })
        })
        .take(FIRMWARE)
        .collect())
}
