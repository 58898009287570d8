//! Systems that run without being written: from an ISO image, whose URL the BMC gets as virtual media; or from memory, a
//! kernel with its initramfs, which the provider serves at each boot. The server is switched on, and that is all: no disk
//! is written or configured by us.

use ferric_api::ProvisioningState as State;
use ferric_api::host::{Image, ImageFormat, ImageRecord, Initrd};
use ferric_bmc::{BootMethod, PowerAction, PowerState};
use sha2::{Digest, Sha256};

use super::boot::read_power;
use super::life::ready;
use super::{LONG, act, fresh_power, record, wait, wake};
use crate::deploy::images::ImageState;
use crate::host::consumer::Desired;
use crate::host::memory::BootSet;
use crate::host::{Action, Job, Observation, Plan, RecordWrite, Step, Wait};

/// Stands in the record in place of a digest: what the BMC fetches nobody has hashed.
pub const LIVE_ISO: &str = "live-iso";
/// Stands before the digest of what a kernel is run with.
pub const KERNEL: &str = "kernel:";

/// What the record says in place of a digest of an image that is not written. `None`: it is written.
///
/// Of a kernel it names all that decides about the system: another initramfs or command line is another system.
pub fn mark(image: &Image) -> Option<String> {
    match image.effective_format() {
        ImageFormat::LiveIso => Some(LIVE_ISO.to_owned()),
        ImageFormat::Kernel => {
            let initrd = image.initrd.clone().unwrap_or_default();
            let parts = [
                Some(image.url.as_str()),
                image.checksum.as_deref(),
                Some(initrd.url.as_str()),
                Some(initrd.checksum.as_str()),
                image.kernel_parameters.as_deref(),
            ];
            let mut hash = Sha256::new();
            for part in parts {
                let part = part.unwrap_or_default();
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            Some(format!("{KERNEL}{}", hex::encode(hash.finalize())))
        }
        _ => None,
    }
}

/// Whether the image that the record speaks of is not written.
pub fn is_recorded(image: &ImageRecord) -> bool {
    image.digest == LIVE_ISO || runs_kernel(image)
}

/// Whether the image that the record speaks of is a kernel that runs from memory.
pub fn runs_kernel(image: &ImageRecord) -> bool {
    image.digest.starts_with(KERNEL)
}

/// Whether the provider's cache has to have the image: not what the BMC fetches itself.
pub fn is_fetched(image: &Image) -> bool {
    image.effective_format() != ImageFormat::LiveIso
}

/// The files that the provider's cache has to have, as images of their own: one, or a kernel and its initramfs.
pub fn files(image: &Image) -> (Image, Option<Image>) {
    let Some(Initrd { url, checksum, checksum_type }) =
        image.initrd.clone().filter(|_| image.effective_format() == ImageFormat::Kernel)
    else {
        return (image.clone(), None);
    };
    let raw = Some(ImageFormat::Raw);
    let kernel = Image { disk_format: raw, initrd: None, kernel_parameters: None, ..image.clone() };
    let initrd = Image { url, checksum: Some(checksum), checksum_type, disk_format: raw, ..Image::default() };
    (kernel, Some(initrd))
}

/// Where two files are that are needed together.
pub fn both(first: ImageState, second: ImageState) -> ImageState {
    use ImageState::{Failed, Fetching, Ready};
    match (first, second) {
        (failed @ Failed { .. }, _) | (_, failed @ Failed { .. }) => failed,
        (Ready(first), Ready(_)) => Ready(first),
        (Ready(ready), Fetching { bytes_done, bytes_total })
        | (Fetching { bytes_done, bytes_total }, Ready(ready)) => Fetching {
            bytes_done: bytes_done.saturating_add(ready.size),
            bytes_total: bytes_total.map(|total| total.saturating_add(ready.size)),
        },
        (
            Fetching { bytes_done: done, bytes_total: total },
            Fetching { bytes_done: more_done, bytes_total: more_total },
        ) => Fetching {
            bytes_done: done.saturating_add(more_done),
            bytes_total: total.zip(more_total).map(|(total, more)| total.saturating_add(more)),
        },
    }
}

/// Gets the server to start the system.
pub(super) fn provision(o: &Observation<'_>, desired: &Desired, mark: String) -> Plan {
    let state = State::Provisioning;
    if wake::is_blind(o) {
        let message =
            "another format, or a server with a BMC: what is not written needs one that is told what to boot";
        return wait(state, Wait::new("NotByWakeOnLAN", message, LONG));
    }
    let (set, job) = if desired.image.effective_format() == ImageFormat::Kernel {
        if let Err(plan) = ready(o, desired) {
            return *plan;
        }
        (BootSet::Kernel, Job::BootKernel)
    } else {
        let methods =
            o.bmc.facts.as_ref().map(|facts| facts.value.boot_methods.as_slice()).unwrap_or_default();
        if !methods.contains(&BootMethod::VirtualMedia) {
            let message = "another format, or a BMC with virtual media: format live-iso needs a BMC that inserts the ISO";
            return wait(state, Wait::new("NoVirtualMedia", message, LONG));
        }
        (BootSet::LiveIso, Job::BootLiveIso)
    };
    // What ran before, our agent among it, is certainly dead then; and a medium is seen at the next power-on only.
    if let Some(plan) = switch_off(o, state) {
        return plan;
    }
    if record(o).is_none_or(|r| r.image.is_none()) {
        // From here on the disks are not what they were: the system may write to them.
        let write = RecordWrite::BeginWrite {
            image: Box::new(desired.image.clone()),
            digest: mark,
            cleaning_mode: desired.cleaning_mode,
            hints: desired.hints.clone().map(Box::new),
        };
        return act(state, Action::Write { write, guarded: true });
    }
    if o.bmc.boot != Some(set) {
        return act(state, Action::Job { job, guarded: true });
    }
    act(state, Action::Write { write: RecordWrite::StartDisk { written: None }, guarded: false })
}

/// A server that runs a kernel from memory is told to at each power-on, where nothing on its disks would do.
pub(super) fn tell_again(o: &Observation<'_>, plan: Plan) -> Plan {
    let starts = Step::Act(Action::Job { job: Job::Power(PowerAction::On), guarded: true });
    let kernel = record(o).and_then(|r| r.image.as_ref()).is_some_and(runs_kernel);
    if plan.step != starts || !kernel || o.bmc.boot == Some(BootSet::Kernel) {
        return plan;
    }
    let state = State::Provisioned;
    // The image of a machine may have been changed since; the record does not hold the old one.
    let same = |desired: &&Desired| {
        let recorded = record(o).and_then(|r| r.image.as_ref()).map(|image| image.digest.as_str());
        mark(&desired.image).as_deref() == recorded
    };
    let Some(desired) = o.consumer.desired().filter(same) else {
        let message = "the image to be again the one that the server was provisioned with: it is off, and a system that \
                       runs from memory is nowhere else";
        return wait(state, Wait::new("ImageChanged", message, LONG));
    };
    match ready(o, desired) {
        Err(waiting) => Plan { state, ..*waiting },
        Ok(_) => act(state, Action::Job { job: Job::BootKernel, guarded: true }),
    }
}

/// Takes the ISO out of the drive, and what each boot starts from back, before anything else is done to the server.
/// `None`: it is so.
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

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
