//! What the firmware says of the machine, as the kernel shows it: `/sys/class/dmi/id` (SMBIOS 3.7, types 0 and 1), the
//! table itself for memory, and the variable of Secure Boot.

use std::path::Path;

use ferric_protocol::v1::{Firmware, MemoryModule};

use super::{smbios, sysfs};

/// Texts that makers leave in.
const NOTHING: [&str; 9] = [
    "Not Specified",
    "Not Available",
    "Unknown",
    "NO DIMM",
    "To Be Filled By O.E.M.",
    "To be filled by O.E.M.",
    "None",
    "Default string",
    "System Serial Number",
];

/// The text, unless it is one that says nothing.
pub(super) fn said(text: &str) -> &str {
    if NOTHING.contains(&text) { "" } else { text }
}

/// Type 1 of SMBIOS.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct System {
    pub(super) uuid: String,
    pub(super) serial: String,
    pub(super) manufacturer: String,
    pub(super) product: String,
}

/// Reads type 1. The UUID is in lower case, in the byte order that the kernel shows (SMBIOS 2.6 and later).
pub(super) fn system(sys: &Path) -> System {
    let read = |name: &str| said(&sysfs::text(sys.join("class/dmi/id").join(name))).to_owned();
    System {
        uuid: read("product_uuid").to_ascii_lowercase(),
        serial: read("product_serial"),
        manufacturer: read("sys_vendor"),
        product: read("product_name"),
    }
}

/// Reads type 0.
pub(super) fn firmware(sys: &Path) -> Firmware {
    let read = |name: &str| sysfs::text(sys.join("class/dmi/id").join(name));
    Firmware { vendor: read("bios_vendor"), version: read("bios_version"), date: read("bios_date") }
}

/// Reads type 17. The kernel shows the table as the firmware left it (Documentation/ABI/testing/sysfs-firmware-dmi-tables).
pub(super) fn memory_modules(sys: &Path) -> Vec<MemoryModule> {
    let tables = sys.join("firmware/dmi/tables");
    smbios::memory_modules(
        &sysfs::bytes(tables.join("smbios_entry_point")),
        &sysfs::bytes(tables.join("DMI")),
    )
}

/// Whether Secure Boot is in force. `None` where there is no such variable: without UEFI, or with one that does not have
/// it.
pub(super) fn secure_boot(sys: &Path) -> Option<bool> {
    let name = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    secure_boot_variable(&sysfs::bytes(sys.join(name)))
}

/// Four bytes of attributes (Documentation/filesystems/efivarfs.rst), then one that is 1 where it is in force and 0 where
/// it is not (UEFI 2.10, 3.3).
fn secure_boot_variable(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [_, _, _, _, value @ (0 | 1)] => Some(*value == 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secure_boot_is_one_byte_after_the_attributes() {
        for (bytes, state) in [
            (&[6, 0, 0, 0, 1][..], Some(true)),
            (&[6, 0, 0, 0, 0], Some(false)),
            (&[6, 0, 0, 0, 2], None),
            (&[6, 0, 0, 0], None),
            (&[6, 0, 0, 0, 1, 0], None),
            (&[], None),
        ] {
            assert_eq!(secure_boot_variable(bytes), state, "{bytes:?}");
        }
    }

    #[test]
    fn what_makers_leave_in_says_nothing() {
        assert_eq!((said("Default string"), said("NO DIMM"), said("S-1")), ("", "", "S-1"));
    }
}
