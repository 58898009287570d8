//! A system that runs from an ISO image: the BMC gets the image's URL as virtual media and the server is switched on.
//! Nothing is fetched, written or configured by us.

use ferric_api::ProvisioningState as State;
use ferric_api::host::{Image, ImageFormat, ImageRecord};
use ferric_bmc::{BootMethod, PowerAction, PowerState};

use super::boot::read_power;
use super::{LONG, act, fresh_power, record, wait};
use crate::host::consumer::Desired;
use crate::host::memory::BootSet;
use crate::host::{Action, Job, Observation, Plan, RecordWrite, Wait};

/// Stands in the record in place of a digest: what the BMC fetches nobody has hashed.
pub const LIVE_ISO: &str = "live-iso";

/// Whether an image is run from its ISO.
pub fn is_wanted(image: &Image) -> bool {
    image.effective_format() == ImageFormat::LiveIso
}

/// Whether the image that the record speaks of is run from its ISO.
pub fn is_recorded(image: &ImageRecord) -> bool {
    image.digest == LIVE_ISO
}

/// Gets the ISO into the drive and the server to start from it.
pub(super) fn provision(o: &Observation<'_>, desired: &Desired) -> Plan {
    let state = State::Provisioning;
    let methods = o.bmc.facts.as_ref().map(|facts| facts.value.boot_methods.as_slice()).unwrap_or_default();
    if !methods.contains(&BootMethod::VirtualMedia) {
        let message =
            "another format, or a BMC with virtual media: format live-iso needs a BMC that inserts the ISO";
        return wait(state, Wait::new("NoVirtualMedia", message, LONG));
    }
    // What ran before, our agent among it, is certainly dead then; and a medium is seen at the next power-on only.
    if let Some(plan) = switch_off(o, state) {
        return plan;
    }
    if record(o).is_none_or(|r| r.image.is_none()) {
        // From here on the disks are not what they were: the system may write to them.
        let write = RecordWrite::BeginWrite {
            image: desired.image.clone(),
            digest: LIVE_ISO.to_owned(),
            cleaning_mode: desired.cleaning_mode,
            hints: desired.hints.clone().map(Box::new),
        };
        return act(state, Action::Write { write, guarded: true });
    }
    if o.bmc.boot != Some(BootSet::LiveIso) {
        return act(state, Action::Job { job: Job::BootLiveIso, guarded: true });
    }
    act(state, Action::Write { write: RecordWrite::StartDisk { written: None }, guarded: false })
}

/// Takes the ISO out of the drive before anything else is done to the server. `None`: it is out.
pub(super) fn eject(o: &Observation<'_>, state: State) -> Option<Plan> {
    let record = record(o)?;
    record.image.as_ref().filter(|image| is_recorded(image))?;
    // An agent boot that has begun has set the drive to what it needs.
    let agent_boot = record.agent.as_ref().is_some_and(|agent| !agent.ended);
    if agent_boot || o.bmc.boot == Some(BootSet::Disk) {
        return None;
    }
    let off = switch_off(o, state);
    Some(off.unwrap_or_else(|| act(state, Action::Job { job: Job::BootDisk, guarded: true })))
}

fn switch_off(o: &Observation<'_>, state: State) -> Option<Plan> {
    match fresh_power(o) {
        None => Some(read_power(state)),
        Some(PowerState::Off) => None,
        Some(_) => Some(act(state, Action::Job { job: Job::Power(PowerAction::ForceOff), guarded: true })),
    }
}
