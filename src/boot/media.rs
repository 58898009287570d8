//! A host's own boot medium: the template of the agent image with the host's configuration of GRUB in the place that is
//! reserved for it. The medium is nowhere stored; each read is answered from the template and the few bytes that differ.

use ferric_protocol::{BootData, net::MAX_COMMAND_LINE};

use super::composite::Composite;
use super::image::{AgentImage, Region};
use super::iso9660::{MOST_FILE, SECTOR};
use super::lookup::System;

/// What GRUB does: start the kernel with the boot data on its command line. If that fails, the machine says so and
/// tries again. `None` if it does not fit into `room` bytes or the kernel's command line, or could mean something else to GRUB.
pub fn grub_config(boot: &BootData, arguments: &str, room: u64) -> Option<Vec<u8>> {
    grub_config_of("the agent", &format!("{arguments} {}", boot.to_kernel_args()), room)
}

/// The same for a kernel with these words on its command line; `what` is said to be loaded.
pub fn grub_config_of(what: &str, words: &str, room: u64) -> Option<Vec<u8>> {
    // Between single quotes everything but a single quote stands for itself.
    if words.contains(|c: char| c == '\'' || c.is_control()) || what.contains('\'') {
        return None;
    }
    // The kernel would cut it off without a word.
    if words.len() > MAX_COMMAND_LINE {
        return None;
    }
    let words: Vec<String> = words.split_whitespace().map(|word| format!("'{word}'")).collect();
    let mut text = format!(
        "set timeout=0\n\
         if [ \"$grub_platform\" = pc ]; then\n  serial --unit=0 --speed=115200\n  terminal_output console serial\nfi\n\
         echo 'Ferric: loading {what}'\n\
         linux /boot/vmlinuz {words}\n\
         initrd /boot/initrd.img\n\
         boot\n\
         echo 'Ferric: {what} does not start from this medium; trying again in a minute'\n\
         sleep 60\n\
         reboot\n",
        words = words.join(" ")
    )
    .into_bytes();
    let room = usize::try_from(room).ok()?;
    if text.len() > room {
        return None;
    }
    text.resize(room, b'\n');
    Some(text)
}

/// The medium of a system that runs from memory: the template with another kernel and initramfs. The error is a sentence
/// for the log.
pub fn system_medium(image: &AgentImage, system: &System) -> Result<Composite, &'static str> {
    let places = image.places.ok_or("kernel and initramfs are not found in the ISO of the agent image")?;
    let room = image.grub_config;
    let text = grub_config_of("the system", &system.parameters, room.length)
        .and_then(|text| Patch::new(room, text))
        .ok_or("the kernel's command line does not fit into the room that the ISO has for it")?;
    let medium = Composite::default().artifact(image.iso.clone()).padded(SECTOR);
    let kernel = (medium.size() / SECTOR, system.kernel.size());
    let medium = medium.append(system.kernel.clone()).padded(SECTOR);
    let initramfs = system_initrd(system);
    let initrd = (medium.size() / SECTOR, initramfs.size());
    if kernel.1 > MOST_FILE || initrd.1 > MOST_FILE {
        return Err("a file on a CD has at most 4 GiB");
    }
    let medium = medium.append(initramfs).padded(SECTOR);
    let patches =
        places.patches(kernel, initrd, medium.size() / SECTOR).ok_or("the medium would be too large")?;
    Ok(patches.into_iter().chain([text]).fold(medium, Composite::patched))
}

/// The initramfs of a system that runs from memory, with what it is configured with. An archive begins at a multiple of
/// four bytes, as the kernel's description of the initramfs buffer format has it.
pub fn system_initrd(system: &System) -> Composite {
    system.initrd.clone().padded(4).bytes(system.seed.clone())
}

/// Bytes that stand in the place of others.
#[derive(Debug, Clone)]
pub struct Patch {
    at: u64,
    bytes: Vec<u8>,
}

impl Patch {
    /// `bytes` fill the region.
    pub fn new(region: Region, bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() as u64 == region.length).then_some(Self { at: region.offset, bytes })
    }

    /// The same, this many bytes further on.
    #[must_use]
    pub fn moved(self, by: u64) -> Self {
        Self { at: self.at.saturating_add(by), ..self }
    }

    /// Changes what was read of the file from offset `at` on.
    pub fn apply(&self, at: u64, read: &mut [u8]) {
        let (start, end) = (self.at.max(at), (self.at + self.bytes.len() as u64).min(at + read.len() as u64));
        if start >= end {
            return;
        }
        // All four are within the length of one of the two slices.
        let index = |offset: u64, base: u64| usize::try_from(offset - base).unwrap_or(usize::MAX);
        if let (Some(to), Some(from)) = (
            read.get_mut(index(start, at)..index(end, at)),
            self.bytes.get(index(start, self.at)..index(end, self.at)),
        ) {
            to.copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::boot::image::Artifact;
    use crate::boot::iso9660::Places;

    #[test]
    fn a_systems_medium_has_its_kernel_initramfs_and_command_line() {
        use crate::boot::iso9660::{SECTOR, tests};

        let mut template = tests::medium();
        let room = Region { offset: 28 * SECTOR, length: 2048 };
        let file = |bytes: Vec<u8>| {
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, &bytes).unwrap();
            let size = bytes.len() as u64;
            Arc::new(Artifact { name: String::new(), file, size })
        };
        let other = file(vec![]);
        let mut image = AgentImage {
            kernel: other.clone(),
            initrd: other.clone(),
            ipxe_bios: other.clone(),
            ipxe_efi: other.clone(),
            iso: file(template.clone()),
            grub_config: room,
            places: Places::find(tests::reader(&template)),
        };
        let (kernel, initrd) = (vec![b'K'; 5000], vec![b'I'; 3001]);
        let system = System {
            kernel: Composite::default().bytes(kernel.clone().into()),
            initrd: Composite::default().bytes(initrd.clone().into()),
            seed: vec![b'S'; 512].into(),
            parameters: "console=ttyS0 a=b".to_owned(),
        };
        let medium = system_medium(&image, &system).unwrap();
        let mut bytes = vec![0; usize::try_from(medium.size()).unwrap()];
        medium.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes.len() as u64 % SECTOR, 0);
        let content = |name: &[u8]| {
            let (sector, length) = tests::file_of(&bytes, name);
            let at = sector as usize * SECTOR as usize;
            bytes[at..at + length as usize].to_vec()
        };
        assert_eq!(content(b"VMLINUZ"), kernel);
        let mut expected = initrd;
        expected.resize(3004, 0);
        expected.extend([b'S'; 512]);
        assert_eq!(content(b"INITRD.IMG"), expected);
        let config = &bytes[28 * SECTOR as usize..29 * SECTOR as usize];
        let config = String::from_utf8(config.to_vec()).unwrap();
        assert!(config.contains("\nlinux /boot/vmlinuz 'console=ttyS0' 'a=b'\n"), "{config}");
        // All else is as it was in the template.
        template[28 * SECTOR as usize..29 * SECTOR as usize].copy_from_slice(config.as_bytes());
        let differ = template.iter().zip(&bytes).filter(|(a, b)| a != b).count();
        assert!((1..=40).contains(&differ), "{differ} bytes differ");

        let quoted = System { parameters: "it's".to_owned(), ..system };
        assert!(system_medium(&image, &quoted).is_err());
        image.places = None;
        assert!(system_medium(&image, &quoted).is_err());
    }

    fn boot(url: &str) -> BootData {
        BootData::new(url, &"ab".repeat(32), "dG9rZW4", 1_800_000_000).unwrap()
    }

    #[test]
    fn the_configuration_starts_the_kernel_with_the_boot_data() {
        let boot = boot("https://[2001:db8::1]:6183");
        let text = String::from_utf8(grub_config(&boot, "console=tty0", 4096).unwrap()).unwrap();
        assert_eq!(text.len(), 4096);
        let line = text.lines().find(|line| line.starts_with("linux ")).unwrap();
        let words = line.strip_prefix("linux /boot/vmlinuz ").unwrap().replace('\'', "");
        assert!(words.starts_with("console=tty0 ferric.url="));
        assert_eq!(BootData::parse(&words).unwrap(), boot);
    }

    #[test]
    fn what_does_not_fit_or_is_not_plain_is_refused() {
        assert_eq!(grub_config(&boot("https://a"), "", 300), None);
        assert!(grub_config(&boot("https://a"), "", 700).is_some());
        assert_eq!(grub_config(&boot("https://a/it's"), "", 4096), None);
        for bad in ["a'b", "a\nb", "a\u{1b}"] {
            assert_eq!(grub_config(&boot("https://a"), bad, 4096), None, "{bad:?}");
        }
        // What means something to GRUB's shell stands between quotes.
        let text = String::from_utf8(grub_config(&boot("https://a/$x;y&z"), "", 4096).unwrap()).unwrap();
        assert!(text.contains(" 'ferric.url=https://a/$x;y&z' "));
    }

    proptest! {
        #[test]
        fn any_part_read_is_that_part_of_the_patched_file(
            file in prop::collection::vec(any::<u8>(), 1..200),
            patch in prop::collection::vec(any::<u8>(), 1..50),
            at in 0_usize..200, first in 0_usize..200, length in 0_usize..200,
        ) {
            let at = at.min(file.len().saturating_sub(patch.len()));
            let patch = &patch[..patch.len().min(file.len() - at)];
            let mut whole = file.clone();
            whole[at..at + patch.len()].copy_from_slice(patch);
            let first = first.min(file.len());
            let last = (first + length).min(file.len());
            let mut part = file[first..last].to_vec();
            let region = Region { offset: at as u64, length: patch.len() as u64 };
            Patch::new(region, patch.to_vec()).unwrap().apply(first as u64, &mut part);
            prop_assert_eq!(&part, &whole[first..last]);
        }
    }
}
