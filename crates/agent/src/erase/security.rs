//! ATA SECURITY ERASE UNIT, and the way back from one that was interrupted.
//!
//! The command wants a password to be set first. A drive that loses power with one set comes back locked. The password is
//! a fixed one ([`ata::PASSWORD`]); whatever happens after it was set, it is taken off again, by this agent or by the next
//! one that boots on the machine ([`release`]).

use super::{
    ata::{self, Command, Identity, SECTOR_BYTES},
    drive::{CommandError, Drive, Interface},
};

/// What was done about a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    /// There was nothing to do.
    Nothing,
    /// Ours was set and is set no more.
    Ours,
    /// One is set that is not ours; the drive was left as it is.
    Foreign,
}

/// Takes our password off a drive, where an interrupted erase left it. Other passwords stay: one try is all that a drive
/// gets here.
pub fn release(drive: &mut dyn Drive) -> Result<Released, CommandError> {
    if drive.interface() != Interface::Ata {
        return Ok(Released::Nothing);
    }
    let identity = identify(drive)?;
    if !identity.enabled && !identity.locked {
        return Ok(Released::Nothing);
    }
    if identity.frozen || identity.expired {
        return Ok(Released::Foreign);
    }
    let mut sector = ata::password_sector();
    if identity.locked && drive.ata(&Command::unlock(), &mut sector).is_err() {
        return Ok(Released::Foreign);
    }
    if drive.ata(&Command::disable_password(), &mut sector).is_err() {
        return Ok(Released::Foreign);
    }
    let after = identify(drive)?;
    Ok(if after.enabled || after.locked { Released::Foreign } else { Released::Ours })
}

/// IDENTIFY DEVICE.
pub(super) fn identify(drive: &mut dyn Drive) -> Result<Identity, CommandError> {
    let mut data = [0; SECTOR_BYTES];
    drive.ata(&Command::identify(), &mut data)?;
    Identity::parse(&data)
        .ok_or(CommandError::Nonsense("IDENTIFY DEVICE data are damaged or of no ATA drive"))
}

/// Why an erase came to nothing.
#[derive(Debug)]
pub(super) enum EraseFailed {
    /// The drive is as it was before.
    Harmless(String),
    /// Our password is still set.
    Locked(String),
}

/// Sets the password; from here on the drive must not be left.
pub(super) fn prepare(drive: &mut dyn Drive) -> Result<(), EraseFailed> {
    let set = drive.ata(&Command::set_password(), &mut ata::password_sector());
    let set = set.map_err(|e| format!("SECURITY SET PASSWORD: {e}")).and_then(|_| match identify(drive) {
        Ok(identity) if identity.enabled => Ok(()),
        Ok(_) => Err("the drive took a password and has none".to_owned()),
        Err(e) => Err(format!("IDENTIFY DEVICE after the password was set: {e}")),
    });
    set.map_err(|why| clean_up(drive, why))
}

/// The erase itself. It takes as long as `identity` says.
pub(super) fn erase(drive: &mut dyn Drive, identity: &Identity, enhanced: bool) -> Result<(), EraseFailed> {
    let estimate = estimate(identity, enhanced);
    let erased = drive
        .ata(&Command::erase_prepare(), &mut [])
        .map_err(|e| format!("SECURITY ERASE PREPARE: {e}"))
        .and_then(|_| {
            let mut sector = ata::erase_sector(enhanced);
            let erased = drive.ata(&Command::erase_unit(estimate), &mut sector);
            erased.map_err(|e| format!("SECURITY ERASE UNIT: {e}"))
        });
    match erased {
        // A drive that erased itself has no password any more.
        Ok(_) => match identify(drive) {
            Ok(identity) if !identity.enabled && !identity.locked => Ok(()),
            Ok(_) => {
                Err(clean_up(drive, "the drive says that it is erased and kept the password".to_owned()))
            }
            Err(e) => Err(clean_up(drive, format!("IDENTIFY DEVICE after the erase: {e}"))),
        },
        Err(why) => Err(clean_up(drive, why)),
    }
}

/// How long the drive says that it takes.
pub(super) fn estimate(identity: &Identity, enhanced: bool) -> Option<std::time::Duration> {
    if enhanced { identity.enhanced_erase_time } else { identity.erase_time }
}

fn clean_up(drive: &mut dyn Drive, why: String) -> EraseFailed {
    match release(drive) {
        Ok(Released::Nothing | Released::Ours) => EraseFailed::Harmless(why),
        Ok(Released::Foreign) => EraseFailed::Locked(why),
        Err(error) => EraseFailed::Locked(format!("{why}; then: {error}")),
    }
}
