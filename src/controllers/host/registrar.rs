//! Registers an agent's key in its host's record: the one place where a boot token is spent.

use std::sync::Arc;

use async_trait::async_trait;
use ferric_api::BareMetalHost;
use ferric_api::host::{AgentRecord, HostIdentity};
use ferric_protocol::DiscoveryToken;
use ferric_protocol::v1::{Inventory, PowerAction};
use kube::ResourceExt;

use super::execute::{self, Outcome};
use super::{HostContext, discover};
use crate::deploy::{RegisterError, Registrar};
use crate::host::RecordWrite;
use crate::host::duplicates::{is_telling, swapped_uuid};
use crate::key::Key;
use crate::patch;

/// Tries of the compare-and-swap: whoever else writes the host does so rarely.
const TRIES: usize = 4;

/// The host controller's side of agent registration.
pub struct HostRegistrar {
    context: Arc<HostContext>,
}

impl HostRegistrar {
    /// Works on the context of the host controller.
    pub fn new(context: Arc<HostContext>) -> Self {
        Self { context }
    }

    /// The host as the API server has it now.
    async fn live(&self, key: &Key) -> Result<Arc<BareMetalHost>, RegisterError> {
        match patch::get_opt(&self.context.api(key), &key.name).await {
            Ok(Some(live)) => Ok(Arc::new(live)),
            Ok(None) => Err(RegisterError::UnknownHost),
            Err(error) => Err(RegisterError::Conflict { message: error.to_string() }),
        }
    }
}

#[async_trait]
impl Registrar for HostRegistrar {
    async fn register(
        &self,
        key: &Key,
        boot_number: i64,
        fingerprint: &str,
        inventory: &Inventory,
    ) -> Result<(), RegisterError> {
        let context = &self.context;
        let mut cached = context.latest(key);
        let mut host = match cached.clone() {
            Some(host) => host,
            None => self.live(key).await?,
        };
        for _ in 0..TRIES {
            match already_registered(&host, boot_number, fingerprint, inventory) {
                Ok(true) => {
                    context.table().fingerprints.insert(fingerprint.to_owned(), key.clone());
                    return Ok(());
                }
                Ok(false) => {}
                // An agent that is refused does not come again, and the server stands there until the boot is given
                // up: a cache that has yet to be filled, or is behind another manager's write, may not refuse it.
                Err(_) if cached.take().is_some() => {
                    host = self.live(key).await?;
                    continue;
                }
                Err(refused) => return Err(refused),
            }
            let write = RecordWrite::AgentRegistered {
                fingerprint: fingerprint.to_owned(),
                machine: identity(inventory),
            };
            let outcome = execute::write(&host, key, context, &write).await;
            host = match outcome {
                Ok(Outcome::Changed(changed)) => changed,
                Ok(Outcome::Gone) => return Err(RegisterError::UnknownHost),
                Ok(_) => match context.newer(key, &host) {
                    Some(newer) => newer,
                    None => self.live(key).await?,
                },
                Err(error) => return Err(RegisterError::Conflict { message: error.to_string() }),
            };
        }
        Err(RegisterError::Conflict { message: "the host is written by others at the same time".to_owned() })
    }

    async fn discovered(
        &self,
        token: &DiscoveryToken,
        fingerprint: &str,
        inventory: &Inventory,
    ) -> Result<PowerAction, RegisterError> {
        discover::report(&self.context, token, fingerprint, inventory).await
    }

    async fn session_allowed(&self, host: &Key, fingerprint: &str) -> bool {
        let Some(host_now) = self.context.latest(host) else { return false };
        match host_now.spec.record.as_ref().and_then(|r| r.agent.as_ref()) {
            Some(AgentRecord { key_fingerprint: Some(known), .. }) => {
                known == fingerprint && !is_over(&host_now)
            }
            // The cache does not show yet what this process wrote at the registration.
            Some(AgentRecord { key_fingerprint: None, ended: false, .. }) => {
                self.context.table().fingerprints.get(fingerprint) == Some(host)
            }
            _ => false,
        }
    }

    async fn host_for(&self, fingerprint: &str) -> Option<(Key, i64)> {
        let known = self.context.table().fingerprints.get(fingerprint).cloned();
        let holds = |host: &BareMetalHost| {
            let agent = host.spec.record.as_ref().and_then(|r| r.agent.as_ref());
            agent.is_some_and(|agent| agent.key_fingerprint.as_deref() == Some(fingerprint)) && !is_over(host)
        };
        let host = match known.and_then(|key| self.context.latest(&key)).filter(|host| holds(host)) {
            Some(host) => host,
            // After a restart the table is empty until each host was reconciled once.
            None => self.context.hosts.store().find(holds)?,
        };
        let number = host.spec.record.as_ref()?.agent.as_ref()?.boot_number;
        Some((Key::new(host.namespace()?, host.name_any()), number))
    }
}

/// Whether the agent of the recorded boot has nothing left to do. One that wrote an image is still to be told to
/// restart into it.
fn is_over(host: &BareMetalHost) -> bool {
    host.spec.record.as_ref().is_some_and(|record| {
        record.agent.as_ref().is_some_and(|agent| agent.ended)
            && record.image.as_ref().is_none_or(|image| image.booted_at.is_none())
    })
}

/// Whether this key holds the boot already; an error if it may not have it.
fn already_registered(
    host: &BareMetalHost,
    boot_number: i64,
    fingerprint: &str,
    inventory: &Inventory,
) -> Result<bool, RegisterError> {
    let record = host.spec.record.as_ref();
    if let Some(identity) = record.and_then(|r| r.identity.as_ref()) {
        check_machine(identity, inventory)?;
    }
    let agent = record.and_then(|r| r.agent.as_ref()).filter(|agent| agent.boot_number == boot_number);
    match agent {
        None => Err(RegisterError::Spent),
        Some(AgentRecord { key_fingerprint: Some(known), .. }) if known == fingerprint && !is_over(host) => {
            Ok(true)
        }
        Some(AgentRecord { key_fingerprint: None, ended: false, .. }) => Ok(false),
        Some(_) => Err(RegisterError::Spent),
    }
}

/// What an agent says of its machine, as far as it tells it from others.
fn identity(inventory: &Inventory) -> HostIdentity {
    let telling = |text: &str| Some(text.trim().to_owned()).filter(|text| is_telling(text));
    HostIdentity {
        system_uuid: telling(&inventory.system_uuid.to_ascii_lowercase()),
        serial_number: telling(&inventory.serial_number),
        boot_mac_address: None,
    }
}

/// The machine that registers must be the one behind the BMC that was told to boot it.
fn check_machine(identity: &HostIdentity, inventory: &Inventory) -> Result<(), RegisterError> {
    let pairs = [
        ("system UUID", identity.system_uuid.as_deref(), inventory.system_uuid.as_str()),
        ("serial number", identity.serial_number.as_deref(), inventory.serial_number.as_str()),
    ];
    for (what, expected, got) in pairs {
        if let Some(expected) = expected
            && !got.is_empty()
            && !expected.eq_ignore_ascii_case(got)
            && !swapped_uuid(expected).is_some_and(|swapped| swapped.eq_ignore_ascii_case(got))
        {
            return Err(RegisterError::WrongMachine {
                what: what.to_owned(),
                expected: expected.to_owned(),
                got: got.to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_machine_is_known_by_its_uuid_in_either_byte_order_and_refused_otherwise() {
        let identity = HostIdentity {
            system_uuid: Some("00112233-4455-6677-8899-aabbccddeeff".to_owned()),
            ..HostIdentity::default()
        };
        let reports = |uuid: &str| {
            check_machine(&identity, &Inventory { system_uuid: uuid.to_owned(), ..Inventory::default() })
        };
        assert!(reports("00112233-4455-6677-8899-AABBCCDDEEFF").is_ok());
        assert!(reports("33221100-5544-7766-8899-aabbccddeeff").is_ok());
        assert!(matches!(
            reports("33221100-5544-7766-8899-aabbccddee00"),
            Err(RegisterError::WrongMachine { .. })
        ));
    }
}
