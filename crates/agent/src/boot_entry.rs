//! Makes the firmware start from the disk that was written.

use std::{collections::BTreeMap, io};

use ferric_image::{Arch, BlockDevice, Esp, EspError};

use crate::load_option::{self, BootChange, BootOptions, LoadOption, Place};

/// Most boot options that are read: more than any firmware shows.
const MOST_OPTIONS: usize = 512;

/// The firmware's variables of one machine that was started by UEFI. All methods may block.
pub trait FirmwareVariables {
    /// The names of all variables of the firmware itself (`EFI_GLOBAL_VARIABLE`).
    ///
    /// # Errors
    /// When they cannot be listed.
    fn names(&self) -> io::Result<Vec<String>>;

    /// The value of a variable; `None` where there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Writes a variable that stays and that an operating system sees, whole.
    ///
    /// # Errors
    /// When the firmware does not take it: its flash may be full, or locked.
    fn write(&self, name: &str, value: &[u8]) -> io::Result<()>;

    /// Removes a variable.
    ///
    /// # Errors
    /// When the firmware does not let it go.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootEntry {
    /// The option that was made, as a person reads it: `Boot0003 \EFI\debian\shimx64.efi`. Empty: none was made.
    pub entry: String,
    /// Why none was made, though the machine starts all the same. Empty: nothing went wrong.
    pub warning: String,
}

/// Makes a boot option for the loader on a disk, puts it in its place, and removes those of ours for disks that were written
/// before. What cannot be done is a warning where the firmware finds the loader by itself.
///
/// # Errors
/// A sentence, when the machine would not start from the disk.
pub fn set(
    firmware: &dyn FirmwareVariables,
    device: &mut dyn BlockDevice,
    arch: Arch,
    place: Place,
) -> Result<BootEntry, String> {
    let warning = |warning: String| Ok(BootEntry { warning, ..BootEntry::default() });
    let block = device.block_size();
    let esp = match Esp::read(device) {
        Ok(esp) => esp,
        Err(error @ EspError::NoPartition) => {
            return Err(format!(
                "{error}, and the server is in UEFI mode: it would not start from the image"
            ));
        }
        // Firmware may understand what we do not.
        Err(error) => return warning(format!("no boot entry was made: {error}")),
    };
    let Some(path) = esp.loader(arch) else {
        return Err(format!(
            "the EFI system partition (number {}) holds no boot loader, neither \\EFI\\<vendor>\\shim or grub nor \
             \\EFI\\BOOT\\BOOT…, and the server is in UEFI mode: it would not start from the image",
            esp.partition.number
        ));
    };
    match put(firmware, &esp, block, path, place) {
        Ok(number) => Ok(BootEntry {
            entry: format!("{} {path}", load_option::variable(number)),
            warning: String::new(),
        }),
        Err(error) if esp.has_fallback(arch) => {
            warning(format!("no boot entry was made, the firmware has to find the fallback loader: {error}"))
        }
        Err(error) => Err(format!(
            "no boot entry was made, and the image has no fallback loader that the firmware would find by itself: {error}"
        )),
    }
}

fn put(firmware: &dyn FirmwareVariables, esp: &Esp, block: u32, path: &str, place: Place) -> io::Result<u16> {
    let wanted = LoadOption::new(&esp.partition, block, path)
        .ok_or_else(|| io::Error::other("the path of the loader is too long"))?;
    let now = boot_options(firmware)?;
    let change = load_option::put(&now, &wanted, place)
        .ok_or_else(|| io::Error::other("the firmware has no number left for a boot entry"))?;
    let BootChange { number, write, order, remove } = change;
    if write {
        firmware.write(&load_option::variable(number), &wanted.bytes)?;
    }
    if let Some(order) = order {
        firmware.write("BootOrder", &load_option::order_bytes(&order))?;
    }
    for number in remove {
        // It is not in the order any more: that it stays does no harm.
        if let Err(error) = firmware.remove(&load_option::variable(number)) {
            tracing::warn!(number, %error, "an old boot entry could not be removed");
        }
    }
    Ok(number)
}

fn boot_options(firmware: &dyn FirmwareVariables) -> io::Result<BootOptions> {
    let mut options = BTreeMap::new();
    for name in firmware.names()? {
        let Some(number) = number(&name) else { continue };
        if options.len() >= MOST_OPTIONS {
            return Err(io::Error::other(format!("the firmware has more than {MOST_OPTIONS} boot entries")));
        }
        // One that cannot be read keeps its number.
        let value = firmware.read(&name).ok().flatten().unwrap_or_default();
        options.insert(number, value);
    }
    let order = load_option::read_order(&firmware.read("BootOrder")?.unwrap_or_default());
    Ok(BootOptions { options, order })
}

/// The number in `Boot####`.
fn number(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("Boot").filter(|digits| digits.len() == 4)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
#[path = "boot_entry_tests.rs"]
mod tests;
