//! Everything that a BMC tells of itself and its server, and what the provider would do with it: for people, and for
//! reports. Reads only.

mod crawl;
pub(super) mod health;
pub(super) mod read;
mod would;

use std::sync::Arc;

use ferric_api::HardwareDetails;
use serde::Serialize;
use tokio::time::{Duration, timeout};

use super::record::Recorder;
use super::{Logins, Redfish};
use crate::breaker::Refusals;
use crate::capture::Capture;
use crate::counters::Counters;
use crate::desk::Desk;
use crate::error::BmcError;
use crate::limits::Limits;
use crate::quirks::{QuirkMatch, Quirks, SharedQuirks};
use crate::tls::Clients;
use crate::types::{BootMethod, ConnectOptions, UnhealthyPart};

/// What a probe is to do.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// How to reach the BMC.
    pub connect: ConnectOptions,
    /// Deadlines and limits; `operation` does not count, `time` does.
    pub limits: Limits,
    /// The quirk rules.
    pub quirks: Quirks,
    /// Whether to read more than the provider would, for a capture.
    pub capture: bool,
    /// How long all of it may take. What was read until then is given.
    pub time: Duration,
}

/// What a probe found.
#[derive(Debug)]
pub struct Probed {
    /// What the BMC tells, as far as it was read.
    pub survey: Survey,
    /// Why it was not read to the end.
    pub error: Option<BmcError>,
    /// The answers of the BMC, redacted.
    pub capture: Option<Capture>,
}

/// What a BMC tells. What it does not tell is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Survey {
    /// The address that was asked.
    pub address: String,
    /// SHA-256 fingerprint of the certificate that the BMC showed, in hexadecimal digits with colons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_sha256: Option<String>,
    /// The service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// The systems behind the BMC.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub systems: Vec<SystemFound>,
    /// The BMC's own resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manager: Option<ManagerFound>,
    /// Power of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<&'static str>,
    /// SMBIOS UUID of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_uuid: Option<String>,
    /// Its hardware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<HardwareDetails>,
    /// Whether firmware starts signed programs only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<SecureBoot>,
    /// Health of system, BMC and chassis.
    pub health: Health,
    /// What firmware is installed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub firmware: Vec<FirmwareFound>,
    /// What it can do.
    pub can: Can,
    /// What the provider would send.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub would: Vec<Would>,
    /// The quirk rules that are about this BMC.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quirks: Vec<QuirkMatch>,
    /// How many requests it took, those for a capture included.
    pub requests: u64,
}

/// A Redfish service.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Version of Redfish that it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redfish_version: Option<String>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// What product it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Whether it makes sessions; else each request carries the password.
    pub sessions: bool,
    /// Whether it gives collections with their members.
    pub expand: bool,
    /// Whether it has an event service.
    pub events: bool,
}

/// A system behind a BMC.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SystemFound {
    /// Its path, which an address may end with.
    pub path: String,
    /// Whether the address means it.
    pub chosen: bool,
    /// Manufacturer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Product.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Serial number, which an address may name as `?serial=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// UUID, which an address may name as `?uuid=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// The BMC's own resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagerFound {
    /// Its path.
    pub path: String,
    /// Model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Firmware version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// Its clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date_time: Option<String>,
}

/// UEFI Secure Boot.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecureBoot {
    /// Whether it was in force at the last boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<bool>,
    /// Whether it is switched on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Mode of the keys, e.g. `UserMode`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Health, each `OK`, `Warning` or `Critical`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// The worst of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<String>,
    /// The system with all its parts, as the BMC rolls it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The BMC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
    /// Temperatures and fans of the chassis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thermal: Option<String>,
    /// Power supplies of the chassis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<String>,
    /// The parts that are not `OK`, as far as they are named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unhealthy: Vec<UnhealthyPart>,
    /// The hottest sensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hottest: Option<Temperature>,
    /// How many fans were told of.
    pub fans: usize,
    /// How many power supplies were told of.
    pub power_supplies: usize,
    /// Power taken now, in watts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watts: Option<i64>,
}

/// A sensor's reading.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Temperature {
    /// Name of the sensor.
    pub name: String,
    /// Degrees Celsius.
    pub celsius: i64,
}

/// A piece of firmware.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FirmwareFound {
    /// Its name.
    pub name: String,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether the BMC can replace it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updateable: Option<bool>,
}

/// What a BMC can do, as far as the provider makes use of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Can {
    /// Ways of booting the agent, best first: `VirtualMedia`, `UefiHttp`, `Network`.
    #[serde(serialize_with = "names")]
    pub boot: Vec<BootMethod>,
    /// Reset types that it allows; absent where it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_types: Option<Vec<String>>,
    /// Boot override targets that it lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub override_targets: Option<Vec<String>>,
    /// Where a boot override is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub override_path: Option<String>,
    /// The mode that the boot override is in: `UEFI` or `Legacy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub override_mode: Option<String>,
    /// Slots for virtual media.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<MediaSlot>,
}

fn names<S: serde::Serializer>(methods: &[BootMethod], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(methods.iter().map(|method| format!("{method:?}")))
}

/// A slot for virtual media.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MediaSlot {
    /// Its path.
    pub path: String,
    /// What it takes, as far as it says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub media_types: Vec<String>,
    /// Whether the provider would use it.
    pub chosen: bool,
    /// Whether something is in it.
    pub occupied: bool,
    /// Whether it takes images as a whole only, copied before they are inserted.
    pub whole_only: bool,
}

/// What the provider would send for something.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Would {
    /// For what.
    pub action: String,
    /// What, or why nothing.
    pub how: String,
}

/// Asks a BMC everything that the provider wants to know of it, and more for a capture. Changes nothing.
pub async fn probe(options: ProbeOptions) -> Probed {
    let ProbeOptions { connect, limits, quirks, capture, time } = options;
    // One operation after the other; each has its own deadline besides.
    let limits = Arc::new(Limits {
        operation: time,
        inspect_requests: limits.inspect_requests.max(600),
        request_burst: limits.request_burst.max(5000),
        ..limits
    });
    let shared = Arc::new(SharedQuirks::default());
    shared.set(quirks);
    let counters = Arc::new(Counters::default());
    let mut survey = Survey { address: connect.address.to_string(), ..Survey::default() };
    let failed = |survey, error| Probed { survey, error: Some(error), capture: None };
    if !connect.address.is_redfish() {
        return failed(survey, BmcError::NotSupported { what: "a probe: only Redfish is probed".into() });
    }
    let client = match Clients::default().get(&connect, &limits) {
        Ok(client) => client,
        Err(error) => return failed(survey, error),
    };
    let refusals = Arc::new(Refusals::new(limits.login_pause));
    let desk = Arc::new(Desk::new(connect.address.to_string(), counters.clone(), limits));
    let redfish = Redfish::new(&connect, client.clone(), refusals, &Logins::default(), desk, shared);
    let mut redfish = match redfish {
        Ok(redfish) => redfish,
        Err(error) => return failed(survey, error),
    };
    let recorder = Recorder::default();
    redfish.client.recorder = Some(recorder.clone());

    let work = async {
        let result = redfish.survey(&mut survey).await;
        // Where the provider does not get on, what else there is may tell why.
        if capture && result.as_ref().err().is_none_or(|error| !error.is_of_connection()) {
            redfish.crawl(&recorder).await?;
        }
        result
    };
    let ended = timeout(time, work).await;
    let error = match ended {
        Ok(result) => result.err(),
        Err(_) => Some(BmcError::Timeout { what: "the probe".into(), after: time }),
    };
    redfish.close().await;
    let answers = recorder.answers();
    let bodies = answers.iter().filter_map(|(path, answer)| Some((path.as_str(), answer.body.as_ref()?)));
    survey.quirks = redfish.client.kind.active().matches(bodies);
    survey.certificate_sha256 = client.seen().map(|hash| colons(&hash));
    survey.requests = counters.snapshot().requests;
    let capture = capture.then(|| Capture::of(answers, &connect));
    Probed { survey, error, capture }
}

/// Bytes as people write fingerprints.
fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
