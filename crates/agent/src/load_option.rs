//! Boot options of UEFI firmware as bytes, and what is to become of them when a disk was written. Pure.
//!
//! Numbers of sections are those of the UEFI Specification 2.10.

use std::collections::{BTreeMap, BTreeSet};

use ferric_image::Partition;

/// `LOAD_OPTION_ACTIVE` (3.1.3): firmware tries it.
const ACTIVE: u32 = 1;
/// Media device path (10.3.5).
const MEDIA: u8 = 0x04;
/// Hard drive node (10.3.5.1), with its length in bytes.
const HARD_DRIVE: (u8, u16) = (0x01, 42);
/// File path node (10.3.5.4).
const FILE_PATH: u8 = 0x04;
/// End of the whole device path (10.3.1).
const END: [u8; 4] = [0x7f, 0xff, 4, 0];
/// `PartitionFormat` of a GUID partition table, and `SignatureType` of a GUID (10.3.5.1).
const GPT: [u8; 2] = [0x02, 0x02];
/// Descriptions of our options begin like this; nobody else's do.
const OURS: &str = "Ferric: ";
/// Largest option that is looked at, in bytes.
const MAX_OPTION: usize = 64 << 10;

/// A boot option for a loader on a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOption {
    /// What firmware shows.
    pub description: String,
    /// The option as the firmware's variable holds it (`EFI_LOAD_OPTION`, 3.1.3).
    pub bytes: Vec<u8>,
}

impl LoadOption {
    /// An option of ours that starts `path` (such as `\EFI\debian\shimx64.efi`) from a partition of a disk with blocks of
    /// `block` bytes. The device path is the short form that begins with the hard drive (3.1.2): the disk may move to
    /// another port. `None` if the path is longer than a device path can say.
    #[must_use]
    pub fn new(partition: &Partition, block: u32, path: &str) -> Option<Self> {
        let description = format!("{OURS}{}", vendor(path));
        let file: Vec<u8> = units(path);
        let file_length = u16::try_from(file.len() + 4).ok()?;
        let block = u64::from(block.max(1));

        let mut device = vec![MEDIA, HARD_DRIVE.0];
        device.extend_from_slice(&HARD_DRIVE.1.to_le_bytes());
        device.extend_from_slice(&partition.number.to_le_bytes());
        device.extend_from_slice(&(partition.start / block).to_le_bytes());
        device.extend_from_slice(&(partition.length / block).to_le_bytes());
        // Mixed-endian, as appendix A has a GUID in memory.
        device.extend_from_slice(&partition.guid.to_bytes_le());
        device.extend_from_slice(&GPT);
        device.extend_from_slice(&[MEDIA, FILE_PATH]);
        device.extend_from_slice(&file_length.to_le_bytes());
        device.extend_from_slice(&file);
        device.extend_from_slice(&END);

        let mut bytes = ACTIVE.to_le_bytes().to_vec();
        bytes.extend_from_slice(&u16::try_from(device.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(&units(&description));
        bytes.extend_from_slice(&device);
        Some(Self { description, bytes })
    }
}

/// The folder that a loader lies in.
fn vendor(path: &str) -> &str {
    let mut parts = path.rsplit('\\');
    let _file = parts.next();
    parts.next().filter(|folder| !folder.is_empty()).unwrap_or("disk")
}

/// Text as firmware has it (2.3.1, `CHAR16`): UCS-2, little-endian, with a zero at the end.
fn units(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// The description of an option; `None` where the bytes are none.
#[must_use]
pub fn description(option: &[u8]) -> Option<String> {
    if option.len() > MAX_OPTION {
        return None;
    }
    let pairs = option.get(6..)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let all: Vec<u16> = pairs.collect();
    let end = all.iter().position(|unit| *unit == 0)?;
    Some(String::from_utf16_lossy(&all[..end]))
}

/// Reads `BootOrder` (3.3): numbers of 16 bits. An odd byte at the end is left out.
#[must_use]
pub fn read_order(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// Writes `BootOrder`.
#[must_use]
pub fn order_bytes(order: &[u16]) -> Vec<u8> {
    order.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Name of the variable of an option (3.3): four upper-case digits.
#[must_use]
pub fn variable(number: u16) -> String {
    format!("Boot{number:04X}")
}

/// What firmware has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootOptions {
    /// The options, by number.
    pub options: BTreeMap<u16, Vec<u8>>,
    /// The order in which they are tried.
    pub order: Vec<u16>,
}

/// What is to be done, in this order: a machine that loses its power in between starts from what it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootChange {
    /// Number of the option afterwards.
    pub number: u16,
    /// The option is not there as it should be: write it.
    pub write: bool,
    /// The order is another: write this one.
    pub order: Option<Vec<u16>>,
    /// Options of ours for disks that were written before: remove them.
    pub remove: Vec<u16>,
}

/// Where in the order an option is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is tried first.
    First,
    /// It is tried when nothing else came to anything: the firmware goes on asking the network first, where it did so.
    Last,
}

/// Puts an option in its place. The flash that holds the variables wears out: what is right already is not written.
/// `None` if all numbers are taken.
#[must_use]
pub fn put(firmware: &BootOptions, wanted: &LoadOption, place: Place) -> Option<BootChange> {
    let ours = |bytes: &[u8]| description(bytes).is_some_and(|text| text.starts_with(OURS));
    let own: BTreeSet<u16> =
        firmware.options.iter().filter(|(_, bytes)| ours(bytes)).map(|(number, _)| *number).collect();
    let same = firmware.options.iter().find(|(_, bytes)| **bytes == wanted.bytes).map(|(number, _)| *number);
    // A number that is in the order without an option is somebody's that comes and goes, such as a card's.
    let free = || (0..=u16::MAX).find(|n| !firmware.options.contains_key(n) && !firmware.order.contains(n));
    let number = same.or_else(|| own.first().copied()).or_else(free)?;
    let remove: Vec<u16> = own.into_iter().filter(|n| *n != number).collect();
    let mut order = Vec::new();
    for other in &firmware.order {
        if *other != number && !remove.contains(other) && !order.contains(other) {
            order.push(*other);
        }
    }
    match place {
        Place::First => order.insert(0, number),
        Place::Last => order.push(number),
    }
    Some(BootChange {
        number,
        write: same.is_none(),
        order: (order != firmware.order).then_some(order),
        remove,
    })
}

#[cfg(test)]
#[path = "load_option_tests.rs"]
mod tests;
