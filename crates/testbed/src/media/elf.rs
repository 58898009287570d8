//! What a kernel module says of itself: its section `.modinfo`, a list of `key=value` texts.

/// What is read of a module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ModInfo {
    /// Names of the modules that it needs.
    pub(super) depends: Vec<String>,
    /// Devices that it drives, as patterns.
    pub(super) aliases: Vec<String>,
    /// `pre: a b post: c`, as written.
    pub(super) softdeps: Vec<String>,
    /// Firmware files that it may load.
    pub(super) firmware: Vec<String>,
}

/// Reads a module; `None` if it is no 64-bit little-endian ELF file with that section.
pub(super) fn mod_info(module: &[u8]) -> Option<ModInfo> {
    let section = section(module, b".modinfo")?;
    let mut info = ModInfo::default();
    for text in section.split(|byte| *byte == 0) {
        let Some((key, value)) = std::str::from_utf8(text).ok().and_then(|text| text.split_once('=')) else {
            continue;
        };
        match key {
            "depends" => {
                info.depends.extend(value.split(',').filter(|name| !name.is_empty()).map(normal_name));
            }
            "alias" => info.aliases.push(value.to_owned()),
            "softdep" => info.softdeps.push(value.to_owned()),
            "firmware" => info.firmware.push(value.to_owned()),
            _ => {}
        }
    }
    Some(info)
}

/// The kernel takes `-` and `_` in the name of a module for the same.
pub(super) fn normal_name(name: &str) -> String {
    name.replace('-', "_")
}

fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let short = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let word =
        |at: usize| Some(u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize);
    let long = |at: usize| {
        usize::try_from(u64::from_le_bytes(elf.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
    };
    let (table, size, count, names) = (long(0x28)?, short(0x3a)?, short(0x3c)?, short(0x3e)?);
    let header = |n: usize| table.checked_add(n.checked_mul(size)?);
    let content = |header: usize| {
        let start = long(header.checked_add(0x18)?)?;
        elf.get(start..start.checked_add(long(header.checked_add(0x20)?)?)?)
    };
    let names = content(header(names)?)?;
    (0..count).find_map(|n| {
        let header = header(n)?;
        let name = names.get(word(header)?..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        if name == wanted { content(header) } else { None }
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An ELF file with nothing but a section `.modinfo`.
    pub(in super::super) fn module(info: &[&str]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut text = Vec::new();
        for line in info {
            text.extend_from_slice(line.as_bytes());
            text.push(0);
        }
        let mut elf = vec![0; 0x40];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let names_at = elf.len() as u64;
        elf.extend_from_slice(names);
        let text_at = elf.len() as u64;
        elf.extend_from_slice(&text);
        let table = elf.len() as u64;
        let mut header = |name: u32, at: u64, size: u64| {
            let mut bytes = [0; 0x40];
            bytes[..4].copy_from_slice(&name.to_le_bytes());
            bytes[0x18..0x20].copy_from_slice(&at.to_le_bytes());
            bytes[0x20..0x28].copy_from_slice(&size.to_le_bytes());
            elf.extend_from_slice(&bytes);
        };
        header(0, 0, 0);
        header(1, text_at, text.len() as u64);
        header(10, names_at, names.len() as u64);
        elf[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        for (at, value) in [(0x3a, 0x40u16), (0x3c, 3), (0x3e, 2)] {
            elf[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        elf
    }

    #[test]
    fn reads_what_a_module_says() {
        let elf = module(&[
            "license=GPL",
            "alias=virtio:d00000001v*",
            "depends=virtio-ring,virtio",
            "softdep=pre: crc32c",
            "firmware=a/b.bin",
        ]);
        let info = mod_info(&elf).unwrap_or_default();
        assert_eq!(info.depends, ["virtio_ring", "virtio"]);
        assert_eq!(info.aliases, ["virtio:d00000001v*"]);
        assert_eq!(
            (info.softdeps.as_slice(), info.firmware.as_slice()),
            (["pre: crc32c".to_owned()].as_slice(), ["a/b.bin".to_owned()].as_slice())
        );
        assert_eq!(mod_info(&module(&["depends="])), Some(ModInfo::default()));
    }

    #[test]
    fn cut_files_are_refused_without_a_panic() {
        let elf = module(&["depends=a"]);
        for length in 0..elf.len() {
            let _ = mod_info(&elf[..length]);
        }
        assert_eq!(mod_info(b"\x7fELF\x01\x01"), None);
    }
}
