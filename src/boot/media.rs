//! A host's own boot medium: the template of the agent image with the host's configuration of GRUB in the place that is
//! reserved for it. The medium is nowhere stored; each read is answered from the template and the few bytes that differ.

use ferric_protocol::{BootData, net::MAX_COMMAND_LINE};

use super::image::Region;

/// What GRUB does: start the kernel with the boot data on its command line. If that fails, the machine says so and
/// tries again. `None` if it does not fit into `room` bytes or the kernel's command line, or could mean something else to GRUB.
pub fn grub_config(boot: &BootData, arguments: &str, room: u64) -> Option<Vec<u8>> {
    let words = format!("{arguments} {}", boot.to_kernel_args());
    // Between single quotes everything but a single quote stands for itself.
    if words.contains(|c: char| c == '\'' || c.is_control()) {
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
         echo 'Ferric: loading the agent'\n\
         linux /boot/vmlinuz {}\n\
         initrd /boot/initrd.img\n\
         boot\n\
         echo 'Ferric: the agent does not start from this medium; trying again in a minute'\n\
         sleep 60\n\
         reboot\n",
        words.join(" ")
    )
    .into_bytes();
    let room = usize::try_from(room).ok()?;
    if text.len() > room {
        return None;
    }
    text.resize(room, b'\n');
    Some(text)
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

    use proptest::prelude::*;

    use super::*;

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
