//! Memory modules, from the firmware's own table (SMBIOS 3.7, DSP0134). Pure: bytes in, facts out. What is cut off or
//! odd costs that one fact.

use ferric_protocol::v1::MemoryModule;

use super::dmi;

/// A structure begins with type, length and handle (6.1.2).
const HEADER: usize = 4;
/// Memory device (7.18).
const MEMORY_DEVICE: u8 = 17;
/// End-of-table.
const END_OF_TABLE: u8 = 127;
/// No machine has more slots; a table that repeats itself must not fill the memory.
const MOST_MODULES: usize = 1024;
/// Longer names are cut.
const LONGEST_TEXT: usize = 64;
/// Names of kinds of memory, from 01h on (7.18.2). Empty: not one that says anything.
const TYPES: [&str; 36] = [
    "",
    "",
    "DRAM",
    "EDRAM",
    "VRAM",
    "SRAM",
    "RAM",
    "ROM",
    "Flash",
    "EEPROM",
    "FEPROM",
    "EPROM",
    "CDRAM",
    "3DRAM",
    "SDRAM",
    "SGRAM",
    "RDRAM",
    "DDR",
    "DDR2",
    "DDR2 FB-DIMM",
    "",
    "",
    "",
    "DDR3",
    "FBD2",
    "DDR4",
    "LPDDR",
    "LPDDR2",
    "LPDDR3",
    "LPDDR4",
    "Logical non-volatile device",
    "HBM",
    "HBM2",
    "DDR5",
    "LPDDR5",
    "HBM3",
];

/// The modules that are plugged in. `entry_point` says how many structures the table has, where it is of version 2
/// (5.2.1); one of version 3 (5.2.2), an unknown or a missing one does not, and the table's own end counts.
pub(super) fn memory_modules(entry_point: &[u8], table: &[u8]) -> Vec<MemoryModule> {
    let most = structure_count(entry_point).unwrap_or(usize::MAX);
    Structures { rest: table }
        .take(most)
        .filter(|structure| structure.kind() == MEMORY_DEVICE)
        .filter_map(|structure| memory_device(&structure))
        .take(MOST_MODULES)
        .collect()
}

/// Bytes of ordinary memory in these modules; 0 where one of them does not say how large it is, since half a sum is none.
pub(super) fn installed(modules: &[MemoryModule]) -> u64 {
    let ordinary: Vec<u64> =
        modules.iter().filter(|module| !module.persistent).map(|module| module.size_bytes).collect();
    if ordinary.contains(&0) { 0 } else { ordinary.iter().fold(0, |sum, size| sum.saturating_add(*size)) }
}

/// Number of structures in an entry point of version 2, at 1Ch (5.2.1). Zero is what no table has.
fn structure_count(entry_point: &[u8]) -> Option<usize> {
    let bytes = entry_point.strip_prefix(b"_SM_")?;
    let count = bytes.get(0x1c - 4..0x1e - 4)?;
    Some(usize::from(u16::from_le_bytes([count[0], count[1]]))).filter(|count| *count > 0)
}

/// One structure: its formatted area with the header, and its strings.
struct Structure<'a> {
    area: &'a [u8],
    strings: &'a [u8],
}

/// The structures of a table, one after the other; ends at the first that cannot be one.
struct Structures<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Structures<'a> {
    type Item = Structure<'a>;

    fn next(&mut self) -> Option<Structure<'a>> {
        let length = usize::from(*self.rest.get(1)?);
        if length < HEADER {
            return None;
        }
        let (area, tail) = self.rest.split_at_checked(length)?;
        // Strings end with a null each and the set with one more; without strings there are two nulls (6.1.3).
        let end = tail.windows(2).position(|pair| pair == [0, 0]);
        let (strings, rest) = match end {
            Some(end) => (&tail[..end], &tail[end + 2..]),
            None => (tail, &[][..]),
        };
        self.rest = if area[0] == END_OF_TABLE { &[] } else { rest };
        Some(Structure { area, strings })
    }
}

impl Structure<'_> {
    fn kind(&self) -> u8 {
        self.area.first().copied().unwrap_or(END_OF_TABLE)
    }

    /// A field of the formatted area; `None` where the structure is of a version that did not have it.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.area.get(offset..offset + N)?.try_into().ok()
    }

    fn byte(&self, offset: usize) -> u8 {
        self.area.get(offset).copied().unwrap_or(0)
    }

    fn word(&self, offset: usize) -> u16 {
        self.bytes(offset).map_or(0, u16::from_le_bytes)
    }

    fn double_word(&self, offset: usize) -> u32 {
        self.bytes(offset).map_or(0, u32::from_le_bytes)
    }

    /// The string whose number, from 1, is at the offset (6.1.3). Empty for what makers leave in.
    fn text(&self, offset: usize) -> String {
        let Some(index) = usize::from(self.byte(offset)).checked_sub(1) else { return String::new() };
        let bytes = self.strings.split(|byte| *byte == 0).nth(index).unwrap_or_default();
        let text: String = String::from_utf8_lossy(bytes)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(LONGEST_TEXT)
            .collect();
        dmi::said(text.trim()).to_owned()
    }
}

/// One memory device (7.18); `None` for an empty slot.
fn memory_device(structure: &Structure<'_>) -> Option<MemoryModule> {
    let size_bytes = size(structure)?;
    let kind = structure.byte(0x12);
    Some(MemoryModule {
        locator: structure.text(0x10),
        bank: structure.text(0x11),
        size_bytes,
        r#type: TYPES
            .get(usize::from(kind).wrapping_sub(1))
            .map(|name| (*name).to_owned())
            .unwrap_or_default(),
        speed_mts: speed(structure, 0x15, 0x54),
        configured_speed_mts: speed(structure, 0x20, 0x58),
        manufacturer: structure.text(0x17),
        serial_number: structure.text(0x18),
        part_number: structure.text(0x1a),
        persistent: is_persistent(kind, structure.byte(0x28)),
    })
}

/// Size at 0Ch: megabytes, or kilobytes with bit 15 set; 7FFFh for what stands as megabytes at 1Ch, with bit 31 reserved
/// (7.18). 0 where it is not known; `None` for an empty slot.
fn size(structure: &Structure<'_>) -> Option<u64> {
    const EMPTY: u16 = 0;
    const UNKNOWN: u16 = 0xffff;
    const EXTENDED: u16 = 0x7fff;
    const IN_KILOBYTES: u16 = 0x8000;
    match u16::from_le_bytes(structure.bytes(0x0c)?) {
        EMPTY => None,
        UNKNOWN => Some(0),
        EXTENDED => Some(u64::from(structure.double_word(0x1c) & 0x7fff_ffff) << 20),
        size if size & IN_KILOBYTES != 0 => Some(u64::from(size & !IN_KILOBYTES) << 10),
        size => Some(u64::from(size) << 20),
    }
}

/// Megatransfers a second; FFFFh for what stands in the longer field, with bit 31 reserved (7.18). 0 is not known.
fn speed(structure: &Structure<'_>, offset: usize, extended: usize) -> u32 {
    match structure.word(offset) {
        0xffff => structure.double_word(extended) & 0x7fff_ffff,
        speed => speed.into(),
    }
}

/// Whether it is no memory that an operating system gets by itself: ROM and flash of all kinds and logical non-volatile
/// devices (7.18.2), NVDIMM-F, NVDIMM-P and Optane (7.18.6). An NVDIMM-N is ordinary memory with a battery.
fn is_persistent(kind: u8, technology: u8) -> bool {
    matches!(kind, 0x08..=0x0c | 0x1f) || matches!(technology, 0x05..=0x07)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// A structure as it stands in a table.
    fn structure(area: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut bytes = area.to_vec();
        for text in strings {
            bytes.extend(text.bytes());
            bytes.push(0);
        }
        if strings.is_empty() {
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    /// A memory device of version 3.3, with these fields set.
    fn device(fields: &[(usize, &[u8])], strings: &[&str]) -> Vec<u8> {
        let mut area = vec![0; 0x5c];
        area[..4].copy_from_slice(&[MEMORY_DEVICE, 0x5c, 0x11, 0]);
        for (offset, bytes) in fields {
            area[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        structure(&area, strings)
    }

    fn one(table: &[u8]) -> MemoryModule {
        let modules = memory_modules(&[], table);
        assert_eq!(modules.len(), 1, "{modules:?}");
        modules.into_iter().next().unwrap()
    }

    #[test]
    fn a_table_of_a_server_is_read() {
        let names = ["DIMM_A1", "P0 CHANNEL A", "Samsung", "80CE0123", "A1_Asset", "M393A4K40DB3-CWE  "];
        let fields: [(usize, &[u8]); 6] = [
            (0x0c, &0x7fff_u16.to_le_bytes()),
            (0x10, &[1, 2, 0x1a]),
            (0x15, &3200_u16.to_le_bytes()),
            (0x17, &[3, 4, 5, 6]),
            (0x1c, &65_536_u32.to_le_bytes()),
            (0x20, &2933_u16.to_le_bytes()),
        ];
        let mut table = structure(&[1, 8, 1, 0, 1, 2, 0, 0], &["Acme", "Server"]);
        table.extend(device(&fields, &names));
        table.extend(device(&[(0x10, &[1, 2])], &["DIMM_A2", "P0 CHANNEL A"]));
        table.extend(structure(&[4, 5, 4, 0, 0], &[]));
        table.extend(device(&fields, &["DIMM_B1", "", "Not Specified", "NO DIMM", "", "Unknown"]));
        table.extend(structure(&[END_OF_TABLE, 4, 0xff, 0xfe], &[]));
        table.extend(device(&fields, &names));
        let modules = memory_modules(b"_SM3_", &table);
        let [first, second] = modules.as_slice() else { panic!("{modules:?}") };
        assert_eq!(
            *first,
            MemoryModule {
                locator: "DIMM_A1".into(),
                bank: "P0 CHANNEL A".into(),
                size_bytes: 64 << 30,
                r#type: "DDR4".into(),
                speed_mts: 3200,
                configured_speed_mts: 2933,
                manufacturer: "Samsung".into(),
                serial_number: "80CE0123".into(),
                part_number: "M393A4K40DB3-CWE".into(),
                persistent: false,
            }
        );
        assert_eq!((second.locator.as_str(), second.manufacturer.as_str()), ("DIMM_B1", ""));
        assert_eq!(installed(&modules), 128 << 30);
    }

    #[test]
    fn sizes_are_in_three_units() {
        for (size, extended, bytes) in [
            (0x4000_u16, 0_u32, 16 << 30),
            (0x8000 | 512, 0, 512 << 10),
            (0x7fff, 32_768, 32 << 30),
            (0x7fff, 0x8000_0000 | 1, 1 << 20),
            (0xffff, 7, 0),
        ] {
            let table = device(&[(0x0c, &size.to_le_bytes()), (0x1c, &extended.to_le_bytes())], &[]);
            assert_eq!(one(&table).size_bytes, bytes, "{size:#x} {extended:#x}");
        }
        assert!(memory_modules(&[], &device(&[(0x0c, &[0, 0])], &[])).is_empty(), "an empty slot");
    }

    #[test]
    fn speeds_above_the_short_field_stand_in_the_long_one() {
        let size: (usize, &[u8]) = (0x0c, &[0, 1]);
        let table = device(&[size, (0x15, &[0xff, 0xff]), (0x54, &70_000_u32.to_le_bytes())], &[]);
        assert_eq!((one(&table).speed_mts, one(&table).configured_speed_mts), (70_000, 0));
    }

    #[test]
    fn an_old_and_short_structure_has_fewer_facts() {
        // Version 2.1 ends after the type detail; its strings have only the locators.
        let mut area = vec![0; 0x15];
        area[..4].copy_from_slice(&[MEMORY_DEVICE, 0x15, 0, 0]);
        area[0x0c..0x0e].copy_from_slice(&512_u16.to_le_bytes());
        area[0x10..0x13].copy_from_slice(&[1, 9, 0x0f]);
        let module = one(&structure(&area, &["DIMM0"]));
        assert_eq!((module.locator.as_str(), module.bank.as_str()), ("DIMM0", ""), "there is no string 9");
        assert_eq!((module.size_bytes, module.r#type.as_str(), module.speed_mts), (512 << 20, "SDRAM", 0));
    }

    #[test]
    fn persistent_memory_is_listed_and_not_counted() {
        for (kind, technology, persistent) in [
            (0x1a, 0x03, false),
            (0x1a, 0x04, false),
            (0x1a, 0x07, true),
            (0x1f, 0x00, true),
            (0x09, 0x00, true),
            (0x22, 0x00, false),
            (0xfe, 0x00, false),
        ] {
            let table = device(&[(0x0c, &[0, 4]), (0x12, &[kind]), (0x28, &[technology])], &[]);
            assert_eq!(one(&table).persistent, persistent, "{kind:#x} {technology:#x}");
        }
        let module = |size_bytes, persistent| MemoryModule { size_bytes, persistent, ..Default::default() };
        assert_eq!(installed(&[module(8, false), module(8, true), module(4, false)]), 12);
        assert_eq!(installed(&[module(8, false), module(0, false)]), 0, "half a sum is none");
    }

    #[test]
    fn an_entry_point_of_version_2_ends_the_table() {
        let mut entry_point = vec![0; 0x1f];
        entry_point[..4].copy_from_slice(b"_SM_");
        entry_point[0x1c] = 1;
        let table = device(&[(0x0c, &[0, 4])], &[]).repeat(2);
        assert_eq!(memory_modules(&entry_point, &table).len(), 1);
        assert_eq!(memory_modules(&entry_point[..0x10], &table).len(), 2);
        assert_eq!(memory_modules(b"_SM3_", &table).len(), 2);
    }

    #[test]
    fn a_table_that_is_cut_off_ends_there() {
        let table = device(&[(0x0c, &[0, 4]), (0x10, &[1])], &["DIMM0"]);
        assert!(memory_modules(&[], &table[..0x5b]).is_empty());
        assert_eq!(one(&table[..0x5e]).locator, "DI");
        assert!(
            memory_modules(&[], &[MEMORY_DEVICE, 0, 0, 0, 0, 0]).is_empty(),
            "no structure is that short"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            entry_point in prop::collection::vec(any::<u8>(), 0..40),
            table in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let _ = installed(&memory_modules(&entry_point, &table));
        }

        #[test]
        fn no_memory_device_makes_it_panic(
            area in prop::collection::vec(any::<u8>(), 0..0x60),
            strings in prop::collection::vec(any::<u8>(), 0..80),
            count in 0usize..4,
        ) {
            let mut table = vec![MEMORY_DEVICE, u8::try_from(area.len() + HEADER).unwrap(), 0, 0];
            table.extend(area);
            table.extend(strings);
            let modules = memory_modules(&[], &table.repeat(count));
            prop_assert!(modules.len() <= MOST_MODULES);
            for module in modules {
                prop_assert!(module.locator.chars().count() <= LONGEST_TEXT);
                prop_assert!(!module.serial_number.contains(char::is_control));
            }
        }
    }
}
