//! The IPMI driver: IPMI v2.0 over LAN, ours from the bytes up.
//!
//! [`wire`] is the bytes, [`keys`] the cryptography, [`machine`] a session as a pure state machine, [`link`] its socket
//! and clock, [`commands`] what is asked. IPMI can turn power on and off and choose what the next boot starts from; it
//! has no virtual media and no URL to boot from, so that the agent is booted by PXE.

mod commands;
mod facts;
#[cfg(test)]
mod fuzz_tests;
pub mod in_band;
mod keys;
mod link;
mod machine;
mod options;
#[cfg(test)]
mod peers;
#[cfg(any(test, feature = "ipmi-server"))]
pub mod server;
mod sol;
mod suite;
#[cfg(test)]
mod testing;
mod wire;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ferric_api::HardwareDetails;
use ferric_api::host::BootMode;
use tokio::time::{Instant, timeout};

use crate::breaker::Refusals;
use crate::desk::{self, Desk};
use crate::error::BmcError;
use crate::tls::sha256_of;
use crate::turns::{Together, Urgency};
use crate::types::{
    Bmc, BootTarget, ConnectOptions, Credentials, ManagerFacts, PowerAction, PowerState, SystemFacts,
};
use commands::boot::{self, Flags};
use commands::chassis::{self, Control};
use commands::device::Device;
use commands::fru::Inventory;
use commands::{Outcome, outcome};
use link::{Link, LinkError};
use machine::{Failure, Request};
pub use sol::console::{Console, ConsoleInput, open_console};

/// When a BMC whose sessions are all taken is worth another try. It ends idle ones after 60 s (6.12.15).
const SLOTS_RETRY: Duration = Duration::from_secs(30);

/// A BMC that speaks IPMI over LAN.
#[derive(Debug)]
pub(crate) struct Ipmi {
    address: String,
    link: Link,
    refusal_key: [u8; 32],
    refusals: Arc<Refusals>,
    desk: Arc<Desk>,
    power_reads: Together<PowerState>,
    /// Changes go one after the other.
    changes: tokio::sync::Mutex<()>,
    kept: Mutex<Kept>,
}

/// What does not change while a BMC is held.
#[derive(Debug, Default)]
struct Kept {
    device: Option<Device>,
    /// `Some(None)`: it has none that can be told.
    uuid: Option<Option<String>>,
    inventory: Option<Inventory>,
    /// Numbers of the sensors with thresholds.
    sensors: Option<Vec<u8>>,
}

impl Ipmi {
    /// Sends nothing.
    pub(crate) fn new(
        options: &ConnectOptions,
        refusals: Arc<Refusals>,
        desk: Arc<Desk>,
    ) -> Result<Self, BmcError> {
        let config = options::config(options)?;
        let address = format!("ipmi://{}:{}", options.address.host(), options.address.port());
        let Credentials { username, password, .. } =
            options.credentials.as_ref().ok_or_else(|| BmcError::BadOptions { message: String::new() })?;
        let refusal_key = sha256_of(&[address.as_bytes(), username.as_bytes(), password.as_bytes()]);
        let link = Link::new(options.address.host(), options.address.port(), config, desk.counters.clone());
        Ok(Self {
            address,
            link,
            refusal_key,
            refusals,
            desk,
            power_reads: Together::default(),
            changes: tokio::sync::Mutex::default(),
            kept: Mutex::default(),
        })
    }

    /// Ends the session, if there is one.
    pub(crate) async fn close(&self) {
        let _ = timeout(self.desk.limits.request, self.link.close()).await;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy(&self, message: String, retry_after: Option<Duration>) -> BmcError {
        BmcError::Busy { status: 0, url: self.address.clone(), message, retry_after }
    }

    /// What an operation does in its turn: nothing while its credentials are known to be refused. The network is what the
    /// circuit breaker looks at.
    async fn attempt<T>(
        &self,
        work: impl Future<Output = Result<T, BmcError>> + Send,
    ) -> Result<T, BmcError> {
        if let Some(until) = self.refusals.until(&self.refusal_key, Instant::now()) {
            return Err(BmcError::Unauthorized {
                message: "they were refused before".to_owned(),
                retry_at: Some(until),
            });
        }
        let Desk { breaker, limits, .. } = &*self.desk;
        let result = work.await;
        match &result {
            Err(error @ (BmcError::Unreachable { .. } | BmcError::Timeout { .. })) => {
                breaker.failed(Instant::now(), limits, rand::random(), &error.to_string());
            }
            _ => breaker.answered(),
        }
        result
    }

    async fn operation<T>(
        &self,
        what: &'static str,
        urgency: Urgency,
        work: impl Future<Output = Result<T, BmcError>> + Send,
    ) -> Result<T, BmcError> {
        self.desk.operation(what, urgency, self.attempt(work)).await
    }

    fn failed(&self, what: &str, error: LinkError) -> BmcError {
        let failure = match error {
            LinkError::Network(message) => {
                return BmcError::Unreachable { address: self.address.clone(), message };
            }
            LinkError::Failed(failure) => failure,
        };
        let refused = |message: String| BmcError::CommandRefused { what: what.to_owned(), message };
        match failure {
            Failure::Silent { after, pong } => BmcError::Unreachable {
                address: self.address.clone(),
                message: match pong {
                    true => {
                        "it answers to an ASF ping and not to IPMI: enable IPMI over LAN in it".to_owned()
                    }
                    false => {
                        format!("no answer within {} s; is IPMI over LAN enabled in it?", after.as_secs())
                    }
                },
            },
            Failure::NoAnswer { what, after } => BmcError::Timeout { what: what.to_owned(), after },
            Failure::Unconfirmed { after } => BmcError::Timeout {
                what: format!("{what}: it was sent once and not confirmed, and is not repeated blindly"),
                after,
            },
            Failure::OldVersion => BmcError::NotSupported { what: "IPMI v2.0, only an older version".into() },
            Failure::NoSuite { message } => {
                let wanted: Vec<String> =
                    self.link.suites().iter().map(|suite| suite.id().to_string()).collect();
                BmcError::NotSupported {
                    what: format!(
                        "cipher suite {}: {message}; enable 17 or 3 in the BMC",
                        wanted.join(" or ")
                    ),
                }
            }
            Failure::Credentials { message } => BmcError::Unauthorized {
                message: message.to_owned(),
                retry_at: Some(self.refusals.refuse(self.refusal_key, Instant::now())),
            },
            Failure::Privilege { wanted, by_address: true } => refused(format!(
                "it needs privilege {0}: set ?privilegelevel={0} in the BMC address",
                wanted.name()
            )),
            Failure::Privilege { wanted, by_address: false } => refused(format!(
                "the user may not have privilege {0}: give it to the user in the BMC",
                wanted.name()
            )),
            Failure::SlotsFull => {
                self.busy("all its sessions are taken: log others out".to_owned(), Some(SLOTS_RETRY))
            }
            Failure::Refused { what, why } => {
                BmcError::CommandRefused { what: what.to_owned(), message: why.to_owned() }
            }
            Failure::Closing => self.busy("its session is being closed".to_owned(), None),
        }
    }

    /// Asks, and gives the answer's data if the BMC did what it was asked.
    async fn ask(&self, what: &str, request: Request) -> Result<Vec<u8>, BmcError> {
        let needed = request.privilege;
        let answer = self.link.ask(request).await.map_err(|error| self.failed(what, error))?;
        let refused = |message| Err(BmcError::CommandRefused { what: what.to_owned(), message });
        match outcome(answer.code) {
            Outcome::Done => Ok(answer.data),
            Outcome::Busy(message) => Err(self.busy(format!("{what}: {message}"), None)),
            Outcome::Unknown(message) => Err(BmcError::NotSupported { what: format!("{what}: {message}") }),
            Outcome::Privilege => refused(format!(
                "it needs more privilege than {}, or the BMC gave less than it said",
                needed.name()
            )),
            Outcome::Refused(message) => refused(message),
        }
    }

    /// Asks for something that a BMC need not know, or the user need not be allowed: a refusal is `None`. Silence is an
    /// error: half of what was asked is not taken for the whole.
    async fn fact(&self, what: &str, request: Request) -> Result<Option<Vec<u8>>, BmcError> {
        match self.link.ask(request).await {
            Ok(answer) if outcome(answer.code) == Outcome::Done => Ok(Some(answer.data)),
            Ok(_) | Err(LinkError::Failed(Failure::Privilege { .. })) => Ok(None),
            Err(error) => Err(self.failed(what, error)),
        }
    }

    async fn status(&self) -> Result<chassis::Status, BmcError> {
        let data = self.ask("the chassis status", chassis::get_status()).await?;
        chassis::status(&data).ok_or_else(|| BmcError::Malformed {
            url: self.address.clone(),
            message: format!("the chassis status has {} bytes", data.len()),
        })
    }

    async fn change_power(&self, action: PowerAction) -> Result<(), BmcError> {
        let _turn = self.changes.lock().await;
        // Read first, so that what is so is not asked for, and what is sent once goes into a session that lives.
        let power = self.status().await?.power;
        let Some(control) = chassis::choose(action, power) else { return Ok(()) };
        let what = "the change of power";
        match self.ask(what, chassis::control(control)).await {
            // A power cycle is optional.
            Err(BmcError::NotSupported { .. } | BmcError::CommandRefused { .. })
                if control == Control::Cycle =>
            {
                self.ask(what, chassis::control(Control::Reset)).await.map(drop)
            }
            Err(error @ BmcError::CommandRefused { .. }) => {
                // Refused perhaps because it is so by now.
                match chassis::choose(action, self.status().await?.power) {
                    None => Ok(()),
                    Some(_) => Err(error),
                }
            }
            other => other.map(drop),
        }
    }

    async fn change_boot(&self, target: &BootTarget, mode: Option<BootMode>) -> Result<(), BmcError> {
        let mut device = match target {
            BootTarget::Disk => boot::Device::None,
            BootTarget::Network | BootTarget::NetworkAlways => boot::Device::Network,
            BootTarget::UefiHttp { .. } | BootTarget::UefiHttpAlways { .. } => {
                return Err(not_by_ipmi("UEFI HTTP boot of a URL"));
            }
            BootTarget::VirtualMedia { .. } | BootTarget::LiveMedia { .. } => {
                return Err(not_by_ipmi("virtual media"));
            }
        };
        let _turn = self.changes.lock().await;
        let persistent = *target == BootTarget::NetworkAlways;
        let flags = Flags { device, efi: mode != Some(BootMode::Legacy), persistent };
        for request in boot::prepare() {
            self.fact("the preparation of the boot flags", request).await?;
        }
        let what = "the boot flags";
        self.ask(what, boot::set_flags(flags, false)).await?;
        let mut found = self.boot_device(device).await?;
        if found != device && device == boot::Device::None {
            self.ask(what, boot::set_flags(flags, true)).await?;
            found = self.boot_device(device).await?;
        }
        if found != device && device == boot::Device::None {
            // VirtualBMC accepts this and changes nothing. Its disk is as good.
            device = boot::Device::Disk;
            self.ask(what, boot::set_flags(Flags { device, ..flags }, false)).await?;
            found = self.boot_device(device).await?;
        }
        self.fact("the end of the change of boot flags", boot::complete()).await?;
        if found == device {
            return Ok(());
        }
        // VirtualBMC shows what it was told only when the server starts next. For the disk that will do: a server that
        // boots from the network all the same is sent on to its disk.
        if *target == BootTarget::Disk && self.status().await?.power == PowerState::On {
            tracing::debug!(bmc = self.address, found = found.name(), "the boot flags are not shown yet");
            return Ok(());
        }
        Err(BmcError::CommandRefused {
            what: what.to_owned(),
            message: format!("it accepted {}, and reads back {}", device.name(), found.name()),
        })
    }

    /// What the boot flags read back as; a BMC that cannot say is believed.
    async fn boot_device(&self, wanted: boot::Device) -> Result<boot::Device, BmcError> {
        let data = self.fact("the boot flags", boot::get_flags()).await?;
        Ok(data.and_then(|data| boot::device(&data, wanted)).unwrap_or(wanted))
    }
}

fn not_by_ipmi(what: &str) -> BmcError {
    BmcError::NotSupported {
        what: format!("{what}: IPMI has no such thing; it boots by PXE, or use Redfish"),
    }
}

#[async_trait]
impl Bmc for Ipmi {
    async fn probe(&self) -> Result<SystemFacts, BmcError> {
        self.operation("the probe", Urgency::Survey, self.read_facts()).await
    }

    async fn power(&self) -> Result<PowerState, BmcError> {
        let read = || self.attempt(async { Ok(self.status().await?.power) });
        self.desk.read("the power read", &self.power_reads, read).await
    }

    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError> {
        self.operation("the change of power", desk::urgency(action), self.change_power(action)).await
    }

    async fn set_boot(&self, target: &BootTarget) -> Result<(), BmcError> {
        self.set_boot_in(target, None).await
    }

    async fn set_boot_in(&self, target: &BootTarget, mode: Option<BootMode>) -> Result<(), BmcError> {
        self.operation("the change of boot target", Urgency::Change, self.change_boot(target, mode)).await
    }

    async fn identify(&self, seconds: u8) -> Result<(), BmcError> {
        let light =
            async { self.ask("the identification light", chassis::identify(seconds)).await.map(drop) };
        self.operation("the identification light", Urgency::Change, light).await
    }

    async fn inspect(&self) -> Result<HardwareDetails, BmcError> {
        self.operation("the inspection", Urgency::Survey, self.read_hardware()).await
    }

    async fn manager_facts(&self) -> Result<ManagerFacts, BmcError> {
        self.operation("what the BMC says of itself", Urgency::Survey, self.read_manager()).await
    }
}
