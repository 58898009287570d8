//! A driver for existing virtual machines of Proxmox VE, by its REST API (`/api2/json`, its published schema): power and
//! boot order. It is here to show that the trait is one; it was never run against Proxmox VE.
//!
//! The address is `proxmox://host[:8006]/nodes/NODE/qemu/VMID`; the user of the Secret is the token's whole name
//! (`user@realm!token`), the password its secret. The token needs `VM.Audit`, `VM.PowerMgmt` and `VM.Config.Options`.

mod config;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ferric_api::HardwareDetails;
use ferric_api::hardware::{Cpu, Nic, Storage, SystemVendor};
use reqwest::header::{self, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::breaker::Refusals;
use crate::desk::{self, Desk};
use crate::error::BmcError;
use crate::redfish::http::{Answer, Http, Request};
use crate::tls::{SharedClient, sha256_of};
use crate::turns::{Together, Urgency};
use crate::types::{
    Bmc, BootMethod, BootTarget, ConnectOptions, Credentials, PowerAction, PowerState, SystemFacts,
};
use config::First;

/// How long a task is watched. A start that fails does so at once; one that goes on is read back by the power.
const TASK: Duration = Duration::from_secs(60);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(500);

/// A virtual machine of Proxmox VE.
#[derive(Debug)]
pub(crate) struct Proxmox {
    http: Http,
    identity: (HeaderName, HeaderValue),
    /// `/api2/json/nodes/NODE`.
    node: String,
    /// `/api2/json/nodes/NODE/qemu/VMID`.
    vm: String,
    refusal_key: [u8; 32],
    refusals: Arc<Refusals>,
    power_reads: Together<PowerState>,
    changes: tokio::sync::Mutex<()>,
}

impl Proxmox {
    /// Sends nothing.
    pub(crate) fn new(
        options: &ConnectOptions,
        client: Arc<SharedClient>,
        refusals: Arc<Refusals>,
        desk: Arc<Desk>,
    ) -> Result<Self, BmcError> {
        let bad = |message: &str| BmcError::BadOptions { message: message.to_owned() };
        let address = &options.address;
        let path = address.path().trim_end_matches('/');
        let (node, id) = place(path).ok_or_else(|| {
            bad("the address names no virtual machine: proxmox://host/nodes/NODE/qemu/VMID")
        })?;
        let base = address.base_url().and_then(|base| base.parse().ok());
        let base = base.ok_or_else(|| bad("the address makes no URL"))?;
        let Some(Credentials { username, password, .. }) = &options.credentials else {
            return Err(bad("Proxmox VE wants an API token: name a Secret in bmc.credentialsName"));
        };
        if !username.contains('!') {
            return Err(bad("the Secret's username is no API token: it is user@realm!token"));
        }
        let mut value = HeaderValue::from_str(&format!("PVEAPIToken={username}={password}"))
            .map_err(|_| bad("the token holds characters that none has"))?;
        value.set_sensitive(true);
        let refusal_key = sha256_of(&[address.host().as_bytes(), username.as_bytes(), password.as_bytes()]);
        let node = format!("/api2/json/nodes/{node}");
        Ok(Self {
            vm: format!("{node}/qemu/{id}"),
            node,
            http: Http { client, base, desk, forms: true },
            identity: (header::AUTHORIZATION, value),
            refusal_key,
            refusals,
            power_reads: Together::default(),
            changes: tokio::sync::Mutex::default(),
        })
    }

    fn desk(&self) -> &Desk {
        &self.http.desk
    }

    /// What is answered, without its envelope.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, BmcError> {
        if let Some(until) = self.refusals.until(&self.refusal_key, Instant::now()) {
            let message = "the token was refused before".to_owned();
            return Err(BmcError::Unauthorized { message, retry_at: Some(until) });
        }
        self.desk().pace().await;
        let request = Request { method: method.clone(), link: path, body, etag: None };
        let answer = self.http.send(&request, Some(&self.identity)).await?;
        if answer.ok() {
            return match &answer.body {
                Ok(body) => Ok(body.get("data").cloned().unwrap_or(Value::Null)),
                Err(error) => Err(BmcError::Malformed { url: path.to_owned(), message: error.to_string() }),
            };
        }
        if answer.status == StatusCode::UNAUTHORIZED {
            let retry_at = Some(self.refusals.refuse(self.refusal_key, Instant::now()));
            let message = "Proxmox VE does not take the token".to_owned();
            return Err(BmcError::Unauthorized { message, retry_at });
        }
        Err(refusal(&answer, &method, path))
    }

    async fn config(&self) -> Result<Value, BmcError> {
        self.ask(Method::GET, &format!("{}/config", self.vm), None).await
    }

    async fn see_power(&self) -> Result<PowerState, BmcError> {
        let status = self.ask(Method::GET, &format!("{}/status/current", self.vm), None).await?;
        Ok(match status.get("status").and_then(Value::as_str) {
            Some("running") => PowerState::On,
            Some("stopped") => PowerState::Off,
            _ => PowerState::Unknown,
        })
    }

    /// Begins something, and watches its task until that has ended, or long enough to know that it did not fail at once.
    async fn command(&self, command: &str) -> Result<(), BmcError> {
        let begun = Instant::now();
        let task = self.ask(Method::POST, &format!("{}/status/{command}", self.vm), Some(&json!({}))).await?;
        let Some(task) = task.as_str().filter(|task| task.starts_with("UPID:")) else { return Ok(()) };
        let path = format!("{}/tasks/{}/status", self.node, escaped(task));
        loop {
            let status = self.ask(Method::GET, &path, None).await?;
            let text = |key| status.get(key).and_then(Value::as_str).unwrap_or_default();
            if text("status") == "stopped" {
                return match text("exitstatus") {
                    "OK" => Ok(()),
                    said if said.starts_with("WARNINGS") => Ok(()),
                    said => Err(BmcError::TaskFailed {
                        what: format!("{command} of the virtual machine"),
                        state: "stopped".to_owned(),
                        message: said.chars().take(300).collect(),
                    }),
                };
            }
            // A shutdown waits for the guest; nobody waits for that here.
            if command == "shutdown" || begun.elapsed() >= TASK {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    async fn change_power(&self, action: PowerAction) -> Result<(), BmcError> {
        let _turn = self.changes.lock().await;
        let power = self.see_power().await?;
        match (action, power) {
            (PowerAction::On, PowerState::On)
            | (PowerAction::ForceOff | PowerAction::GracefulShutdown, PowerState::Off) => Ok(()),
            (PowerAction::On, _) => self.command("start").await,
            (PowerAction::ForceOff, _) => self.command("stop").await,
            (PowerAction::GracefulShutdown, _) => self.command("shutdown").await,
            // What changed in the configuration of a machine that runs comes into force when it starts, not at a reset.
            (PowerAction::ForceRestart | PowerAction::PowerCycle, power) => {
                if power != PowerState::Off {
                    self.command("stop").await?;
                }
                self.command("start").await
            }
        }
    }

    async fn change_boot(&self, target: &BootTarget) -> Result<(), BmcError> {
        let first = match target {
            BootTarget::Disk => First::Disks,
            // There is no order for one boot alone.
            BootTarget::Network | BootTarget::NetworkAlways => First::Network,
            BootTarget::UefiHttp { .. } | BootTarget::UefiHttpAlways { .. } => {
                return Err(not_here("UEFI HTTP boot of a URL"));
            }
            BootTarget::VirtualMedia { .. } | BootTarget::LiveMedia { .. } => {
                return Err(not_here("virtual media"));
            }
        };
        let _turn = self.changes.lock().await;
        let config = self.config().await?;
        let Some(order) = config::boot_order(&config, first) else { return Ok(()) };
        // The digest is of what was read: somebody else's change in between is not lost.
        let digest = config.get("digest").and_then(Value::as_str);
        let body = match digest {
            Some(digest) => json!({"boot": order, "digest": digest}),
            None => json!({"boot": order}),
        };
        self.ask(Method::PUT, &format!("{}/config", self.vm), Some(&body)).await.map(drop)
    }

    async fn facts(&self) -> Result<SystemFacts, BmcError> {
        let config = self.config().await?;
        let (system_uuid, serial_number) = config::smbios(&config);
        Ok(SystemFacts {
            system_uuid,
            serial_number,
            manufacturer: Some("QEMU".to_owned()),
            product: Some("Proxmox VE virtual machine".to_owned()),
            bmc_firmware: None,
            power: self.see_power().await?,
            boot_methods: vec![BootMethod::Network],
            macs: config::cards(&config).into_iter().map(|card| card.mac).collect(),
            health: None,
            unhealthy: Vec::new(),
        })
    }

    async fn hardware(&self) -> Result<HardwareDetails, BmcError> {
        let config = self.config().await?;
        let number = |key: &str| match config.get(key) {
            Some(Value::String(text)) => text.parse().ok(),
            Some(value) => value.as_i64(),
            None => None,
        };
        let cards = config::cards(&config).into_iter();
        let disks = config::disks(&config).into_iter();
        Ok(HardwareDetails {
            system_vendor: SystemVendor {
                manufacturer: "QEMU".to_owned(),
                product_name: "Proxmox VE virtual machine".to_owned(),
                serial_number: config::smbios(&config).1.unwrap_or_default(),
            },
            ram_mebibytes: number("memory").unwrap_or(0),
            cpu: Cpu {
                count: number("cores").unwrap_or(1).saturating_mul(number("sockets").unwrap_or(1)),
                ..Cpu::default()
            },
            nics: cards
                .map(|card| Nic { name: card.name, mac: card.mac.to_string(), ..Nic::default() })
                .collect(),
            storage: disks
                .map(|disk| Storage {
                    name: disk.name,
                    size_bytes: disk.size_bytes,
                    serial_number: disk.serial,
                    ..Storage::default()
                })
                .collect(),
            ..HardwareDetails::default()
        })
    }
}

/// Node and number of the virtual machine in a path.
fn place(path: &str) -> Option<(&str, u32)> {
    let mut parts = path.strip_prefix("/nodes/")?.split('/');
    let (node, kind, id) = (parts.next()?, parts.next()?, parts.next()?);
    let name = !node.is_empty() && node.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let id = id.parse().ok().filter(|id| *id >= 100)?;
    (name && kind == "qemu" && parts.next().is_none()).then_some((node, id))
}

/// A task's name in a path.
fn escaped(task: &str) -> String {
    url::form_urlencoded::byte_serialize(task.as_bytes()).collect()
}

fn not_here(what: &str) -> BmcError {
    BmcError::NotSupported { what: format!("{what}: the driver for Proxmox VE boots by PXE") }
}

/// The error that a bad answer means: what it says stands in `message` or `errors`.
fn refusal(answer: &Answer, method: &Method, path: &str) -> BmcError {
    let body = answer.json();
    let said = body.get("message").and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let errors = body.get("errors").filter(|errors| errors.is_object()).map(ToString::to_string);
    let message = match (said, errors) {
        (Some(said), Some(errors)) => format!("{said} {errors}"),
        (Some(said), None) => said.to_owned(),
        (None, Some(errors)) => errors,
        (None, None) => answer.message(),
    };
    let message: String = message.chars().filter(|c| !c.is_control()).take(400).collect();
    // A lock of the machine, or somebody else's change of its configuration.
    if message.contains("got timeout")
        || message.contains("is locked")
        || message.contains("detected modified")
    {
        return BmcError::Busy {
            status: answer.status.as_u16(),
            url: path.to_owned(),
            message,
            retry_after: None,
        };
    }
    BmcError::Unexpected {
        status: answer.status.as_u16(),
        method: method.to_string(),
        url: path.to_owned(),
        message,
    }
}

#[async_trait]
impl Bmc for Proxmox {
    async fn probe(&self) -> Result<SystemFacts, BmcError> {
        self.desk().operation("the probe", Urgency::Survey, self.facts()).await
    }

    async fn power(&self) -> Result<PowerState, BmcError> {
        self.desk().read("the power read", &self.power_reads, || self.see_power()).await
    }

    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError> {
        let work = self.change_power(action);
        self.desk().operation("the change of power", desk::urgency(action), work).await
    }

    async fn set_boot(&self, target: &BootTarget) -> Result<(), BmcError> {
        self.desk().operation("the change of boot order", Urgency::Change, self.change_boot(target)).await
    }

    async fn inspect(&self) -> Result<HardwareDetails, BmcError> {
        self.desk().operation("the inspection", Urgency::Survey, self.hardware()).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places() {
        assert_eq!(place("/nodes/pve-1/qemu/101"), Some(("pve-1", 101)));
        for none in [
            "",
            "/",
            "/nodes/pve/qemu",
            "/nodes/pve/qemu/x",
            "/nodes/pve/lxc/101",
            "/nodes//qemu/101",
            "/nodes/pve/qemu/101/status",
            "/nodes/pve/qemu/99",
            "/nodes/../qemu/101",
            "/nodes/a%2Fb/qemu/101",
        ] {
            assert_eq!(place(none), None, "{none}");
        }
        assert_eq!(escaped("UPID:pve:0001:root@pam!x:"), "UPID%3Apve%3A0001%3Aroot%40pam%21x%3A");
    }
}
