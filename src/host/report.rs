//! From a plan to a status, and whether the difference is worth a write now.

use std::time::Duration;

use ferric_api::condition::{self, types};
use ferric_api::host::{
    BareMetalHostStatus, BmcStatus, CredentialsStatus, Image, ImageFormat, ImageRecord, InspectionMode,
    OperationalStatus, ProvisioningState as State, WaitingFor,
};
use ferric_api::{BmcAddress, ConditionStatus};
use ferric_bmc::{BootMethod, PowerState};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::live;
use super::{Observation, Plan, Step, standby, uninvited};

/// A new state is written when it has stood this long: what passes faster than anybody reads costs no write.
const SETTLE: Duration = Duration::from_secs(2);
/// The same for how far the work in a state is: what it waits for, per cent done.
const SETTLE_DETAIL: Duration = Duration::from_secs(10);

/// How much a new status differs from the old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Not at all.
    None,
    /// In how far the work in the same state is.
    Detail,
    /// In what is going on at the moment.
    Passing,
    /// In something that others act on: a milestone, an error, a pause.
    Lasting,
}

impl Difference {
    /// How long it must have stood until it is written; `None` if there is nothing to write.
    pub fn settles_in(self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Detail => Some(SETTLE_DETAIL),
            Self::Passing => Some(SETTLE),
            Self::Lasting => Some(Duration::ZERO),
        }
    }
}

/// The status that a plan gives.
pub fn status(o: &Observation<'_>, plan: &Plan) -> BareMetalHostStatus {
    let old = o.host.status.clone().unwrap_or_default();
    let now = Time(o.now);
    let generation = o.host.metadata.generation;
    let record = o.host.spec.record.as_ref();
    let mut new = BareMetalHostStatus {
        observed_generation: generation,
        provisioning: old.provisioning.clone(),
        operational_status: None,
        powered_on: None,
        power: None,
        waiting_for: None,
        bmc: old.bmc.clone(),
        good_credentials: old.good_credentials.clone(),
        tried_credentials: old.tried_credentials.clone(),
        error_type: plan.error.as_ref().map(|e| e.kind),
        error_message: plan.error.as_ref().map(|e| e.message.clone()),
        error_count: plan.error.as_ref().map_or(0, |e| i32::try_from(e.count).unwrap_or(i32::MAX)),
        next_retry_time: plan.error.as_ref().and_then(|e| e.retry_at).map(Time),
        progress_percent: None,
        uninvited_boots: uninvited::counted(old.uninvited_boots.clone(), o.bmc.uninvited),
        standby: standby::told(o, plan, old.standby.as_ref()),
        conditions: old.conditions.clone(),
    };
    new.provisioning.state = plan.state;
    new.provisioning.boot_mode = o.host.spec.boot_mode;
    let image = record.and_then(|r| r.image.as_ref());
    new.provisioning.image = image.filter(|i| i.booted_at.is_some()).and_then(|i| shown_image(o, i));
    new.provisioning.root_device_hints = o.host.spec.root_device_hints.clone();
    let power = o.bmc.power_state();
    match power {
        Some(PowerState::On | PowerState::PoweringOff) => new.powered_on = Some(true),
        Some(PowerState::Off | PowerState::PoweringOn) => new.powered_on = Some(false),
        // A restarted manager does not claim to know less than its predecessor until it has looked.
        None => new.powered_on = old.powered_on,
        Some(PowerState::Unknown) => {}
    }
    new.power = match power {
        Some(power) => Some(power.as_str().to_owned()),
        None => old.power.clone(),
    };
    if let Some(facts) = &o.bmc.facts {
        let facts = &facts.value;
        new.bmc = Some(BmcStatus {
            driver: Some(driver(o).to_owned()),
            manufacturer: facts.manufacturer.clone(),
            product: facts.product.clone(),
            firmware: facts.bmc_firmware.clone(),
            system_uuid: facts.system_uuid.clone(),
            serial_number: facts.serial_number.clone(),
            boot_methods: facts.boot_methods.iter().map(|m| boot_method(*m).to_owned()).collect(),
            unsupported: if o.host.spec.wakes_only() {
                WITHOUT_A_BMC.iter().map(|what| (*what).to_owned()).collect()
            } else {
                Vec::new()
            },
        });
    }
    if let Some((name, version)) = &o.bmc.credentials {
        let credentials = CredentialsStatus { name: name.clone(), version: version.clone() };
        if o.bmc.facts.is_some() {
            new.good_credentials = Some(credentials.clone());
        }
        new.tried_credentials = Some(credentials);
    }
    if let Step::Wait(wait) = &plan.step {
        let since =
            old.waiting_for.filter(|w| w.reason == wait.reason).map_or_else(|| now.clone(), |w| w.since);
        new.waiting_for = Some(WaitingFor {
            reason: wait.reason.to_owned(),
            message: wait.message.clone(),
            since,
            deadline: wait.deadline.map(Time),
        });
        new.progress_percent = wait.progress;
    }
    new.operational_status = Some(operational_status(o, plan));
    let mut gone = None;
    let mut set = |kind: &str, status: ConditionStatus, reason: &str, message: &str| {
        condition::set(&mut new.conditions, kind, status, reason, message, generation, &now);
    };
    let registered = registered(o, plan);
    set(types::REGISTERED, registered.0, &registered.1, &registered.2);
    let (inspected, reason) = match record.and_then(|r| r.inspected_at.as_ref()) {
        Some(_) => (true, "Inspected"),
        None if o.host.spec.inspection_mode == Some(InspectionMode::Disabled) => (true, "InspectionDisabled"),
        None => (false, "NotInspected"),
    };
    set(types::INSPECTED, inspected.into(), reason, "");
    let quarantined = record.and_then(|r| r.quarantined.as_deref());
    // Whatever state the record tells of: it is in doubt whether this object speaks of this server.
    let in_doubt = plan.registered.as_ref().filter(|(registered, _, _)| !registered);
    match (plan.state, quarantined) {
        (_, Some(why)) => set(types::AVAILABLE, ConditionStatus::False, "Quarantined", why),
        (State::Available, None) if in_doubt.is_some() => {
            let (_, reason, message) = in_doubt.cloned().unwrap_or_default();
            set(types::AVAILABLE, ConditionStatus::False, reason, &message);
        }
        (State::Available, None) => set(types::AVAILABLE, ConditionStatus::True, "Available", ""),
        (state, None) => set(types::AVAILABLE, ConditionStatus::False, state_reason(state), ""),
    }
    let provisioned = matches!(plan.state, State::Provisioned | State::ExternallyProvisioned);
    let warnings = image.filter(|_| provisioned).map(warnings).unwrap_or_default();
    set(types::PROVISIONED, provisioned.into(), state_reason(plan.state), &warnings);
    match &plan.error {
        None => set(types::HEALTHY, ConditionStatus::True, "NoError", ""),
        Some(error) => set(types::HEALTHY, ConditionStatus::False, &error.reason, &error.message),
    }
    match hardware_health(o) {
        Some((status, reason, message)) => set(types::HARDWARE_HEALTHY, status, reason, &message),
        // Not asked yet by this process.
        None if o.bmc.facts.is_none() => {}
        None => gone = Some(types::HARDWARE_HEALTHY),
    }
    let settled = provisioned || (plan.state == State::Available && quarantined.is_none());
    let message = match &plan.step {
        Step::Wait(wait) => format!("waiting for {}", wait.message),
        _ => String::new(),
    };
    match (&plan.error, in_doubt) {
        (Some(error), _) => set(types::READY, ConditionStatus::False, &error.reason, &error.message),
        (None, Some((_, reason, message))) => set(types::READY, ConditionStatus::False, reason, message),
        (None, None) if settled => set(types::READY, ConditionStatus::True, state_reason(plan.state), ""),
        (None, None) => set(types::READY, ConditionStatus::False, state_reason(plan.state), &message),
    }
    match &plan.paused {
        Some(by) => set(types::PAUSED, ConditionStatus::True, "Paused", by),
        None => set(types::PAUSED, ConditionStatus::False, "NotPaused", ""),
    }
    if let Some(kind) = gone {
        condition::remove(&mut new.conditions, kind);
    }
    new
}

/// What did not go as it was to, though the server was started.
fn warnings(image: &ImageRecord) -> String {
    let staged = image.staged_problem.as_ref().map(|why| format!("the staged image was not used: {why}"));
    let all: Vec<String> = image.boot_warning.clone().into_iter().chain(staged).collect();
    all.join("; ")
}

/// What the BMC says of the hardware; `None`: nothing. It is for people: a host that is not well is used all the same.
fn hardware_health(o: &Observation<'_>) -> Option<(ConditionStatus, &'static str, String)> {
    let facts = &o.bmc.facts.as_ref()?.value;
    let said = |health: &str| match health {
        "OK" => Some("OK"),
        "Warning" => Some("Warning"),
        "Critical" => Some("Critical"),
        _ => None,
    };
    let parts = facts.unhealthy.iter().map(|part| part.health.as_str());
    let all: Vec<&'static str> = facts.health.as_deref().into_iter().chain(parts).filter_map(said).collect();
    let worst = ["Critical", "Warning", "OK"].into_iter().find(|health| all.contains(health))?;
    let named: Vec<String> =
        facts.unhealthy.iter().map(|part| format!("{}: {}", part.name, part.health)).collect();
    let message = match (worst, named.is_empty()) {
        ("OK", _) => String::new(),
        (_, true) => "the BMC does not say which part it is".to_owned(),
        (_, false) => named.join("; "),
    };
    Some(((worst == "OK").into(), worst, message))
}

/// What cannot be done to a server without a BMC.
const WITHOUT_A_BMC: [&str; 8] = [
    "ReadPower",
    "PowerOff",
    "Restart",
    "SetBootSource",
    "VirtualMedia",
    "SecureBoot",
    "HardwareInventory",
    "Fencing",
];

/// By what the BMC is spoken to.
fn driver(o: &Observation<'_>) -> &'static str {
    let address = o.host.spec.bmc.as_ref().and_then(|bmc| bmc.address.parse::<BmcAddress>().ok());
    address.map_or("redfish", |address| address.family())
}

/// The image that a host runs, as far as the record tells.
fn shown_image(o: &Observation<'_>, record: &ImageRecord) -> Option<Image> {
    if live::runs_kernel(record) {
        // The record knows it by its mark alone.
        let desired = o.consumer.desired().map(|desired| desired.image.clone());
        return desired.filter(|image| live::mark(image).as_deref() == Some(&*record.digest));
    }
    let checksum = record.digest.split_once(':');
    Some(Image {
        url: record.url.clone(),
        checksum: checksum.map(|(_, hex)| hex.to_owned()),
        checksum_type: checksum.map(|(kind, _)| kind.to_owned()),
        disk_format: live::is_recorded(record).then_some(ImageFormat::LiveIso),
        ..Image::default()
    })
}

fn registered(o: &Observation<'_>, plan: &Plan) -> (ConditionStatus, String, String) {
    if let Some((status, reason, message)) = &plan.registered {
        return ((*status).into(), (*reason).to_owned(), message.clone());
    }
    if o.bmc.facts.is_some() {
        let insecure = o.host.spec.bmc.as_ref().is_some_and(|bmc| bmc.disable_certificate_verification);
        return if o.host.spec.wakes_only() {
            let message = "there is no BMC: the server is woken by magic packets, its power is not known, and only what runs \
                           on it restarts it or switches it off";
            (ConditionStatus::True, "WakeOnLAN".to_owned(), message.to_owned())
        } else if insecure {
            let message =
                "the certificate of the BMC is not verified: spec.bmc.disableCertificateVerification is set";
            (ConditionStatus::True, "CertificateNotVerified".to_owned(), message.to_owned())
        } else {
            (ConditionStatus::True, "Registered".to_owned(), String::new())
        };
    }
    if let Some(failure) = o.bmc.failure.as_ref().filter(|f| f.from_bmc) {
        return (ConditionStatus::False, failure.reason.clone(), failure.message.clone());
    }
    let old = o.host.status.as_ref().and_then(|s| condition::get(&s.conditions, types::REGISTERED));
    match old {
        // A restarted manager says what its predecessor saw until it has looked itself.
        Some(old) if old.status == "True" && o.host.spec.bmc.is_some() => {
            (ConditionStatus::True, old.reason.clone(), old.message.clone())
        }
        _ if plan.state == State::Unmanaged => {
            (ConditionStatus::False, "NoBMC".to_owned(), "spec.bmc is not set".to_owned())
        }
        _ => (ConditionStatus::Unknown, "Registering".to_owned(), "the BMC has not answered yet".to_owned()),
    }
}

fn operational_status(o: &Observation<'_>, plan: &Plan) -> OperationalStatus {
    let annotation = |name: &str| o.host.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(name));
    if annotation(ferric_api::names::DETACHED_ANNOTATION)
        || annotation(ferric_api::names::METAL3_DETACHED_ANNOTATION)
    {
        OperationalStatus::Detached
    } else if plan.error.is_some() {
        OperationalStatus::Error
    } else if plan.state == State::Unmanaged {
        OperationalStatus::Discovered
    } else {
        OperationalStatus::Ok
    }
}

fn boot_method(method: BootMethod) -> &'static str {
    match method {
        BootMethod::VirtualMedia => "VirtualMedia",
        BootMethod::UefiHttp => "UefiHttp",
        BootMethod::Network => "Network",
    }
}

/// The state as a condition's reason.
pub fn state_reason(state: State) -> &'static str {
    match state {
        State::None => "New",
        State::Unmanaged => "Unmanaged",
        State::Registering => "Registering",
        State::Inspecting => "Inspecting",
        State::Preparing => "Preparing",
        State::Available => "Available",
        State::Provisioning => "Provisioning",
        State::Provisioned => "Provisioned",
        State::Deprovisioning => "Deprovisioning",
        State::ExternallyProvisioned => "ExternallyProvisioned",
        State::PoweringOffBeforeDelete => "PoweringOffBeforeDelete",
        State::Deleting => "Deleting",
    }
}

/// How much `new` differs from `old`.
pub fn difference(old: Option<&BareMetalHostStatus>, new: &BareMetalHostStatus) -> Difference {
    let Some(old) = old else { return new_state(new) };
    let strip = |status: &BareMetalHostStatus| {
        let mut status = status.clone();
        status.observed_generation = None;
        for condition in &mut status.conditions {
            condition.observed_generation = None;
        }
        status
    };
    if strip(old) == strip(new) {
        return Difference::None;
    }
    let told = |status: &BareMetalHostStatus, kind: &str| {
        condition::get(&status.conditions, kind).map(|c| (c.status.clone(), c.reason.clone()))
    };
    let differs = |kinds: &[&str]| kinds.iter().any(|kind| told(old, kind) != told(new, kind));
    if old.error_type != new.error_type || differs(&[types::HEALTHY, types::PAUSED]) {
        return Difference::Lasting;
    }
    if old.provisioning.state != new.provisioning.state {
        return new_state(new);
    }
    if differs(&[types::AVAILABLE, types::PROVISIONED, types::REGISTERED, types::HARDWARE_HEALTHY]) {
        return Difference::Lasting;
    }
    let ready = |status: &BareMetalHostStatus| status.standby.as_ref().and_then(|standby| standby.state);
    if old.powered_on != new.powered_on || old.power != new.power || ready(old) != ready(new) {
        Difference::Passing
    } else {
        Difference::Detail
    }
}

/// A milestone is told at once, unless the BMC is still at work: a server that is stopped after it was cleaned is told
/// as available and off, in one write.
fn new_state(new: &BareMetalHostStatus) -> Difference {
    let at_work = new.waiting_for.as_ref().is_some_and(|waiting| waiting.reason == "BMC");
    match new.provisioning.state {
        State::Available | State::Provisioned | State::ExternallyProvisioned if at_work => {
            Difference::Passing
        }
        State::Available
        | State::Provisioned
        | State::ExternallyProvisioned
        | State::Unmanaged
        | State::Deprovisioning => Difference::Lasting,
        _ => Difference::Passing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: State, waits_for: Option<&str>) -> BareMetalHostStatus {
        let mut status = BareMetalHostStatus::default();
        status.provisioning.state = state;
        status.waiting_for = waits_for.map(|reason| WaitingFor {
            reason: reason.to_owned(),
            message: reason.to_owned(),
            since: Time(jiff::Timestamp::UNIX_EPOCH),
            deadline: None,
        });
        status
    }

    #[test]
    fn milestones_are_told_at_once_and_progress_seldom() {
        let preparing = status(State::Preparing, Some("AgentBoot"));
        let cases = [
            (status(State::Preparing, Some("AgentBoot")), Difference::None),
            (status(State::Preparing, Some("AgentTask")), Difference::Detail),
            (status(State::Provisioning, Some("ImageFetch")), Difference::Passing),
            (status(State::Available, Some("BMC")), Difference::Passing),
            (status(State::Available, None), Difference::Lasting),
        ];
        for (new, expected) in cases {
            assert_eq!(difference(Some(&preparing), &new), expected, "{new:?}");
        }
        assert_eq!(difference(None, &preparing), Difference::Passing);
        assert_eq!(difference(None, &status(State::Available, None)), Difference::Lasting);
    }

    #[test]
    fn what_is_not_well_is_named_and_stops_nothing() {
        use ferric_bmc::{SystemFacts, UnhealthyPart};
        let part = |name: &str, health: &str| UnhealthyPart { name: name.into(), health: health.into() };
        let table = [
            (Some("OK"), vec![], Some(("True", "OK", ""))),
            (None, vec![], None),
            (Some("Unheard-of"), vec![], None),
            (Some("Warning"), vec![], Some(("False", "Warning", "the BMC does not say which part it is"))),
            (
                Some("Warning"),
                vec![part("PSU 2", "Critical"), part("memory", "Warning")],
                Some(("False", "Critical", "PSU 2: Critical; memory: Warning")),
            ),
            // The BMC itself is not part of the system's sum.
            (Some("OK"), vec![part("BMC", "Warning")], Some(("False", "Warning", "BMC: Warning"))),
        ];
        let host = ferric_api::BareMetalHost::new("h", Default::default());
        for (health, unhealthy, expected) in table {
            let mut memory = crate::host::memory::BmcMemory::new(jiff::Timestamp::UNIX_EPOCH);
            let facts = SystemFacts {
                system_uuid: None,
                serial_number: None,
                manufacturer: None,
                product: None,
                bmc_firmware: None,
                power: PowerState::Off,
                boot_methods: Vec::new(),
                macs: Vec::new(),
                health: health.map(str::to_owned),
                unhealthy,
            };
            let at = jiff::Timestamp::UNIX_EPOCH;
            memory.facts = Some(crate::host::memory::Seen { value: facts, at });
            let observation = Observation {
                host: &host,
                consumer: crate::host::Consumer::None { desired: None },
                duplicate_of: None,
                bmc: &memory,
                agent: None,
                image: None,
                now: at,
                limits: crate::host::Limits::default(),
            };
            let plan = crate::host::plan(&observation);
            let status = super::status(&observation, &plan);
            let told = condition::get(&status.conditions, types::HARDWARE_HEALTHY);
            let told = told.map(|c| (c.status.as_str(), c.reason.as_str(), c.message.as_str()));
            assert_eq!(told, expected, "{health:?}");
            assert!(condition::is_true(&status.conditions, types::HEALTHY));
            // Another health at a power read is looked into.
            memory.see_health(None);
            assert!(memory.facts.is_some());
            memory.see_health(health.map(str::to_owned));
            assert!(memory.facts.is_some());
            memory.see_health(Some("Other".to_owned()));
            assert!(memory.facts.is_none());
        }
    }

    #[test]
    fn errors_and_power_are_told_before_progress() {
        let old = status(State::Provisioned, None);
        let mut broken = old.clone();
        broken.error_type = Some(ferric_api::host::ErrorType::PowerManagement);
        assert_eq!(difference(Some(&old), &broken), Difference::Lasting);
        let off = BareMetalHostStatus { powered_on: Some(false), ..old.clone() };
        assert_eq!(difference(Some(&old), &off), Difference::Passing);
    }
}
