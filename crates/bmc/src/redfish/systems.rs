//! Which system of a BMC is meant, and reading it and its manager.
//!
//! A BMC may have several: blades of a chassis, a base board of GPUs. One is never picked by its place in a list: the
//! address names it by its path, or by its UUID or serial number, or there is only one.

use ferric_api::BmcAddress;
use serde_json::Value;

use super::client::{Resource, one_fact};
use super::{Kept, Redfish, identity, json};
use crate::error::BmcError;

/// Most systems that are read to find one by its identity.
const SYSTEMS: usize = 128;

/// The system that an address means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    path: Option<Box<str>>,
    uuid: Option<Box<str>>,
    serial: Option<Box<str>>,
}

impl Choice {
    /// The choice in an address: its path, and `uuid` and `serial` of its query.
    pub(crate) fn of(address: &BmcAddress) -> Result<Self, BmcError> {
        let path = address.path().trim_end_matches('/');
        let names_system = !matches!(path, "" | "/redfish" | "/redfish/v1" | "/redfish/v1/Systems");
        let mut choice = Self { path: names_system.then(|| path.into()), ..Self::default() };
        for (key, value) in url::form_urlencoded::parse(address.query().as_bytes()) {
            match key.as_ref() {
                "uuid" => {
                    choice.uuid = Some(identity::uuid(&value).ok_or_else(|| useless("uuid", &value))?.into())
                }
                "serial" => {
                    choice.serial =
                        Some(identity::serial(&value).ok_or_else(|| useless("serial", &value))?.into());
                }
                _ => {}
            }
        }
        Ok(choice)
    }

    /// Whether the address tells the identity of the system.
    fn names_identity(&self) -> bool {
        self.uuid.is_some() || self.serial.is_some()
    }

    /// Whether a system is the one. By serial number a Dell is known by its service tag as well.
    fn fits(&self, system: &Value) -> bool {
        let uuid =
            |wanted: &str| json::text(system, "/UUID").and_then(identity::uuid).as_deref() == Some(wanted);
        let serial = |wanted: &str| {
            ["/SerialNumber", "/SKU"]
                .iter()
                .filter_map(|pointer| identity::serial(json::text(system, pointer)?))
                .any(|serial| serial.eq_ignore_ascii_case(wanted))
        };
        self.uuid.as_deref().is_none_or(uuid) && self.serial.as_deref().is_none_or(serial)
    }

    fn words(&self) -> String {
        let part =
            |name: &str, value: &Option<Box<str>>| value.as_ref().map(|value| format!("{name} {value}"));
        let parts = [part("UUID", &self.uuid), part("serial number", &self.serial)];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" and ")
    }
}

fn useless(key: &str, value: &str) -> BmcError {
    let value: String = value.chars().take(64).collect();
    BmcError::BadOptions {
        message: format!(
            "{key}={value} in the address tells no system: give the {key} that the BMC shows, or the path"
        ),
    }
}

impl Redfish {
    /// Reads the system, finding it first if need be.
    pub(super) async fn system(&self) -> Result<Resource, BmcError> {
        if self.client.kind.refresh() {
            // What was found was found by other rules.
            *self.kept() = Kept::default();
            self.client.forget_root();
        }
        let kept = self.kept().system.clone();
        if let Some(path) = kept {
            match self.read_system(&path).await {
                // Gone, or another blade is in its place.
                Err(BmcError::Unexpected { status: 404, .. }) => {}
                Ok(system) if !self.choice.fits(&system.json) => {}
                other => return other,
            }
            *self.kept() = Kept::default();
            self.client.forget_root();
        }
        let path = match &self.choice.path {
            Some(path) => path.to_string(),
            None if self.choice.names_identity() => self.system_by_identity().await?,
            None => self.only_system().await?,
        };
        let system = match self.read_system(&path).await {
            Err(BmcError::Unexpected { status: 404, .. }) => return Err(self.no_such_system(&path).await?),
            other => other?,
        };
        if !self.choice.fits(&system.json) {
            let message = format!("the system {path} has not {}: mend the address", self.choice.words());
            return Err(BmcError::NoSystem { message });
        }
        self.kept().system = Some(path.into());
        Ok(system)
    }

    /// Reads a system that is the one, and learns from it what kind of BMC this is.
    async fn read_system(&self, path: &str) -> Result<Resource, BmcError> {
        let kind = &self.client.kind;
        let mut system = self.client.get_raw(path).await?;
        kind.learn(|identity| identity.learn_system(&system.json));
        let active = kind.active();
        if active.wants_firmware {
            let mut mended = system.json.clone();
            active.mend(path, &mut mended);
            self.manager(&mended).await?;
        }
        kind.active().mend(path, &mut system.json);
        Ok(system)
    }

    /// The paths of all systems.
    pub(super) async fn systems(&self) -> Result<Vec<String>, BmcError> {
        let root = self.client.root().await?;
        Ok(self.client.members(&root.systems).await?.into_iter().map(|member| member.path).collect())
    }

    async fn only_system(&self) -> Result<String, BmcError> {
        let mut systems = self.systems().await?;
        match (systems.pop(), systems.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(BmcError::NoSystem { message: "the BMC names no system".into() }),
            (Some(last), false) => {
                systems.push(last);
                Err(BmcError::NoSystem {
                    message: format!(
                        "the BMC has several systems: append the path of one to the address, or ?uuid= or ?serial= \
                         with its identity: {}",
                        listed(&systems)
                    ),
                })
            }
        }
    }

    async fn system_by_identity(&self) -> Result<String, BmcError> {
        let mut systems = self.systems().await?;
        systems.truncate(SYSTEMS);
        let mut found: Vec<String> = Vec::new();
        for path in &systems {
            let system = self.client.fact(path).await?;
            if system.is_some_and(|system| self.choice.fits(&system.json)) {
                found.push(path.clone());
            }
        }
        match (found.pop(), found.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                found.push(last);
                let (which, list) = (self.choice.words(), listed(&found));
                Err(BmcError::NoSystem {
                    message: format!(
                        "several systems have {which}: append the path of one to the address: {list}"
                    ),
                })
            }
            (None, _) => Err(BmcError::NoSystem {
                message: format!(
                    "the BMC has no system with {}: it has {}",
                    self.choice.words(),
                    listed(&systems)
                ),
            }),
        }
    }

    async fn no_such_system(&self, path: &str) -> Result<BmcError, BmcError> {
        let systems = one_fact(self.systems().await)?.unwrap_or_default();
        Ok(BmcError::NoSystem {
            message: format!("the BMC has no system {path}: it has {}", listed(&systems)),
        })
    }

    /// The manager of the system: the BMC's own resource.
    pub(super) async fn manager(&self, system: &Value) -> Result<Option<Resource>, BmcError> {
        let link = match json::link(system, "/Links/ManagedBy") {
            Some(link) => link,
            None => {
                let root = self.client.root().await?;
                let Some(managers) = &root.managers else { return Ok(None) };
                let members = one_fact(self.client.members(managers).await)?.unwrap_or_default();
                match members.into_iter().next() {
                    Some(member) => member.path,
                    None => return Ok(None),
                }
            }
        };
        let Some(mut manager) = one_fact(self.client.get_raw(&link).await)? else { return Ok(None) };
        self.client.kind.learn(|identity| identity.learn_manager(&manager.json));
        self.client.kind.active().mend(&link, &mut manager.json);
        Ok(Some(manager))
    }
}

/// A list of paths for people, not endless.
fn listed(paths: &[String]) -> String {
    const SHOWN: usize = 32;
    let more = paths.len().saturating_sub(SHOWN);
    let list = paths[..paths.len() - more].join(", ");
    if more > 0 { format!("{list} and {more} more") } else { list }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn choice(address: &str) -> Result<Choice, BmcError> {
        Choice::of(&address.parse().unwrap())
    }

    #[test]
    fn addresses_choose() {
        let blade =
            json!({"UUID": "4C4C4544-0035-3410-8050-C6C04F314733", "SerialNumber": "S1", "SKU": "TAG1"});
        for (address, fits) in [
            ("redfish://bmc", true),
            ("redfish://bmc/redfish/v1/Systems/", true),
            ("redfish://bmc?uuid=4c4c4544-0035-3410-8050-c6c04f314733", true),
            ("redfish://bmc?uuid=4c4c4544-0035-3410-8050-c6c04f314734", false),
            ("redfish://bmc/redfish/v1?serial=s1", true),
            ("redfish://bmc?serial=TAG1&other=x", true),
            ("redfish://bmc?serial=S2", false),
            ("redfish://bmc?serial=S1&uuid=4c4c4544003534108050c6c04f314733", true),
        ] {
            let choice = choice(address).unwrap();
            assert_eq!(choice.fits(&blade), fits, "{address}");
            assert_eq!(choice.path, None, "{address}");
        }
        assert_eq!(
            choice("redfish://bmc/redfish/v1/Systems/2/").unwrap().path.as_deref(),
            Some("/redfish/v1/Systems/2")
        );
        for useless in ["redfish://bmc?uuid=1", "redfish://bmc?serial=none"] {
            assert!(choice(useless).unwrap_err().to_string().contains("tells no system"));
        }
    }
}
