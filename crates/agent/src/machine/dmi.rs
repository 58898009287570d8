//! What the firmware says of the machine, as the kernel shows it in `/sys/class/dmi/id` (SMBIOS 3.7, types 0 and 1).

use std::path::Path;

use ferric_protocol::v1::Firmware;

use super::sysfs;

/// Texts that makers leave in.
const NOTHING: [&str; 6] = [
    "Not Specified",
    "To Be Filled By O.E.M.",
    "To be filled by O.E.M.",
    "None",
    "Default string",
    "System Serial Number",
];

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
    let read = |name: &str| {
        let text = sysfs::text(sys.join("class/dmi/id").join(name));
        if NOTHING.contains(&text.as_str()) { String::new() } else { text }
    };
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
