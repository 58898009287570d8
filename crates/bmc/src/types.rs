//! What every driver speaks: power, boot, facts, and how to reach a BMC.

use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use ferric_api::host::BootMode;
use ferric_api::{BmcAddress, HardwareDetails, MacAddress};

use crate::error::BmcError;

/// Power of a server as the BMC says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PowerState {
    /// On.
    On,
    /// Off.
    Off,
    /// Between off and on.
    PoweringOn,
    /// Between on and off.
    PoweringOff,
    /// The BMC does not say, or says something that is not in the standard.
    Unknown,
}

impl PowerState {
    /// The name as Redfish writes it, or `Unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "On",
            Self::Off => "Off",
            Self::PoweringOn => "PoweringOn",
            Self::PoweringOff => "PoweringOff",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What to do with the power. The driver maps it to what the BMC allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PowerAction {
    /// Turn on; no error when it is on.
    On,
    /// Turn off at once; no error when it is off.
    ForceOff,
    /// Ask the operating system to shut down; no error when it is off.
    GracefulShutdown,
    /// Restart at once. A server that is off is turned on.
    ForceRestart,
    /// Off, then on. A server that is off is turned on.
    PowerCycle,
}

/// What the next boot starts from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BootTarget {
    /// The disk, as the firmware's own boot order says: one-time overrides are cleared and virtual media ejected.
    Disk,
    /// PXE, once.
    Network,
    /// UEFI HTTP boot of a URL, once.
    UefiHttp {
        /// What the firmware fetches.
        url: String,
    },
    /// PXE, at each boot until another target is set; only once where the BMC knows nothing else.
    NetworkAlways,
    /// UEFI HTTP boot of a URL, at each boot until another target is set; only once where the BMC knows nothing else.
    UefiHttpAlways {
        /// What the firmware fetches.
        url: String,
    },
    /// A virtual CD, once.
    VirtualMedia {
        /// The ISO image that the BMC fetches.
        url: String,
    },
    /// A virtual CD, at each boot until another target is set; only once where the BMC knows nothing else.
    LiveMedia {
        /// The ISO image that the BMC fetches.
        url: String,
    },
}

/// A way of booting the agent that a BMC offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BootMethod {
    /// An ISO image as a virtual CD.
    VirtualMedia,
    /// UEFI HTTP boot of a URL that the BMC is told.
    UefiHttp,
    /// PXE.
    Network,
}

/// What a probe finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemFacts {
    /// SMBIOS UUID in lower case.
    pub system_uuid: Option<String>,
    /// Serial number; of a Dell, the service tag.
    pub serial_number: Option<String>,
    /// Manufacturer.
    pub manufacturer: Option<String>,
    /// Product name.
    pub product: Option<String>,
    /// Firmware version of the BMC.
    pub bmc_firmware: Option<String>,
    /// Power.
    pub power: PowerState,
    /// Ways of booting the agent, best first.
    pub boot_methods: Vec<BootMethod>,
    /// MAC addresses that the BMC names without further requests. Often empty: [`Bmc::inspect`] asks each interface.
    pub macs: Vec<MacAddress>,
    /// `OK`, `Warning` or `Critical`.
    pub health: Option<String>,
    /// The parts that are not `OK`, as far as they were found; at most [`MOST_PARTS`].
    pub unhealthy: Vec<UnhealthyPart>,
}

/// Most parts that are named as not well: more make no sentence.
pub const MOST_PARTS: usize = 16;

/// A part of a server that is not well.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnhealthyPart {
    /// What the BMC calls it, or says of it; at most 128 characters.
    pub name: String,
    /// `Warning` or `Critical`.
    pub health: String,
}

/// Where a BMC is to send its events, and by what they are known.
#[derive(Clone, PartialEq, Eq)]
pub struct EventSink {
    /// URL that events are posted to.
    pub destination: String,
    /// What each of them carries (`Context`, DSP2046 EventDestination): only who made it knows it. Never printed.
    pub context: String,
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { destination, context: _ } = self;
        f.debug_struct("EventSink").field("destination", destination).field("context", &"<redacted>").finish()
    }
}

/// What became of a subscription to events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribed {
    /// The BMC sends no events, or its event service is off.
    NotOffered,
    /// It was there.
    Kept,
    /// It was made.
    Made,
}

/// What a BMC says of itself, to be compared with what its server hears from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManagerFacts {
    /// MAC addresses of its network ports.
    pub macs: Vec<MacAddress>,
    /// Its addresses, but for those of one link.
    pub addresses: Vec<IpAddr>,
    /// System GUID in the bytes of IPMI (Get System GUID, 22.14), whose order differs from BMC to BMC.
    pub system_guid: Option<[u8; 16]>,
    /// Serial numbers of its server besides [`SystemFacts::serial_number`].
    pub serial_numbers: Vec<String>,
    /// It manages several systems, as that of a chassis does: its network is not that of the one system.
    pub shared: bool,
}

/// A BMC and the one server behind it.
#[async_trait]
pub trait Bmc: Send + Sync {
    /// Logs in, finds the system and reads its facts, in one pass of few requests.
    async fn probe(&self) -> Result<SystemFacts, BmcError>;
    /// Reads the power. Never from a cache.
    async fn power(&self) -> Result<PowerState, BmcError>;
    /// Asks for a change of power. `Ok` means accepted, not done: read it back with [`Bmc::power`].
    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError>;
    /// Sets what the next boot starts from. Does not boot.
    async fn set_boot(&self, target: &BootTarget) -> Result<(), BmcError>;
    /// The same for firmware in a mode, where that is known. Only protocols whose boot flags name the mode (IPMI) tell
    /// it apart.
    async fn set_boot_in(&self, target: &BootTarget, mode: Option<BootMode>) -> Result<(), BmcError> {
        let _ = mode;
        self.set_boot(target).await
    }
    /// Lets the server's identification light blink for so many seconds; 0 turns it off.
    async fn identify(&self, seconds: u8) -> Result<(), BmcError> {
        let _ = seconds;
        Err(BmcError::NotSupported { what: "an identification light through this driver".into() })
    }
    /// How the server was when it was read last, by whatever read it: `OK`, `Warning` or `Critical`. Asks nobody. `None`:
    /// nothing was read, or said.
    fn health_seen(&self) -> Option<String> {
        None
    }
    /// Reads the hardware out of band.
    async fn inspect(&self) -> Result<HardwareDetails, BmcError>;
    /// Sees to it that the BMC has one subscription to its events for this sink; one that is there is found again. It is
    /// removed when the host is dropped from the pool.
    async fn subscribe(&self, sink: &EventSink) -> Result<Subscribed, BmcError> {
        let _ = sink;
        Ok(Subscribed::NotOffered)
    }

    /// Reads what the BMC says of itself. What it does not say is left out; without a BMC of the server's own, all.
    async fn manager_facts(&self) -> Result<ManagerFacts, BmcError> {
        Ok(ManagerFacts::default())
    }
}

/// A user of a BMC.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password; never printed.
    pub password: String,
    /// The password before; never printed. Where the BMC still takes that one and not the other, the driver replaces it,
    /// if it can (Redfish).
    pub previous_password: Option<String>,
}

impl Credentials {
    /// A user and the password.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into(), previous_password: None }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &"<redacted>")
            .field("previous_password", &self.previous_password.as_ref().map(|_| "<redacted>"))
            .finish()
    }
}

/// How to reach a BMC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Where it is; the path names the system where a BMC has several.
    pub address: BmcAddress,
    /// Who to log in as; without, requests carry no credentials.
    pub credentials: Option<Credentials>,
    /// The CA certificates (PEM) that are trusted for this BMC, and no others; the system's roots when absent.
    pub ca_pem: Option<Vec<u8>>,
    /// Trust the certificate with this SHA-256 fingerprint, and no other, whatever name or dates it carries.
    pub certificate_sha256: Option<[u8; 32]>,
    /// Accept any certificate.
    pub insecure: bool,
}
