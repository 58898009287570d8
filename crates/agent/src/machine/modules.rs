//! Kernel modules: which one a device asks for, what it needs, and loading it.
//!
//! Formats: `modules.alias` (`alias PATTERN MODULE`), `modules.dep` (`FILE: FILE…`) and `modules.softdep`
//! (`softdep MODULE pre: MODULE… post: MODULE…`) as depmod(8) writes them. Nothing else loads modules: the initramfs has no
//! modprobe that the kernel could call.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ffi::CStr,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::sysfs;

/// How deep `/sys/devices` is followed.
const DEPTH: usize = 24;

/// Loaded whether a device asks for them or not: disks and CDs behind controllers, and what the agent itself needs.
const ALWAYS: [&str; 8] =
    ["af_packet", "efivarfs", "sd_mod", "sr_mod", "nvme", "virtio_pci", "virtio_blk", "ipv6"];

/// Not loaded with the others, though devices ask for them: a BMC that does not answer keeps these drivers for many seconds.
const APART: [&str; 2] = ["ipmi_si", "ipmi_ssif"];
/// What gives programs a way to these drivers. No device asks for it.
const APART_FOR_PROGRAMS: &str = "ipmi_devintf";

/// What depmod wrote, in memory.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Pattern and module.
    aliases: Vec<(String, String)>,
    /// File of a module and the files that it needs, nearest first.
    files: HashMap<String, (String, Vec<String>)>,
    /// Module, and what is better there before it: names of modules, or aliases.
    soft: HashMap<String, Vec<String>>,
}

impl Index {
    /// Reads the texts of `modules.alias`, `modules.dep` and `modules.softdep`. Lines that are none are passed over.
    pub(super) fn parse(aliases: &str, dependencies: &str, softdeps: &str) -> Self {
        let aliases = aliases
            .lines()
            .filter_map(|line| {
                let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
                Some((pattern.trim().to_owned(), underscored(module.trim())))
            })
            .collect();
        let files = dependencies
            .lines()
            .filter_map(|line| {
                let (file, needs) = line.split_once(':')?;
                let needs = needs.split_ascii_whitespace().map(str::to_owned).collect();
                Some((module_name(file), (file.to_owned(), needs)))
            })
            .collect();
        let mut soft: HashMap<String, Vec<String>> = HashMap::new();
        for line in softdeps.lines() {
            let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "softdep").skip(1);
            let Some(module) = words.next() else { continue };
            let before = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
            soft.entry(underscored(module)).or_default().extend(before.map(str::to_owned));
        }
        Self { aliases, files, soft }
    }

    /// Modules that fit the modalias of a device.
    pub(super) fn fitting<'a>(&'a self, modalias: &str) -> impl Iterator<Item = &'a str> {
        self.aliases
            .iter()
            .filter(move |(p, _)| fits(p.as_bytes(), modalias.as_bytes()))
            .map(|(_, m)| m.as_str())
    }

    /// Files to load for a module, in this order. Empty where there is none (it may be built in).
    pub(super) fn order(&self, module: &str) -> Vec<&str> {
        let mut order = Vec::new();
        self.put(module, &mut HashSet::new(), &mut order);
        order
    }

    fn put<'a>(&'a self, module: &str, seen: &mut HashSet<String>, order: &mut Vec<&'a str>) {
        let name = underscored(module);
        if !seen.insert(name.clone()) {
            return;
        }
        for word in self.soft.get(&name).into_iter().flatten() {
            if self.files.contains_key(&underscored(word)) {
                self.put(word, seen, order);
            } else {
                for module in self.fitting(word) {
                    self.put(module, seen, order);
                }
            }
        }
        let Some((file, needs)) = self.files.get(&name) else { return };
        // depmod lists what is needed from near to far.
        for needed in needs.iter().rev() {
            let name = module_name(needed);
            if self.files.contains_key(&name) {
                self.put(&name, seen, order);
            } else if seen.insert(name) {
                order.push(needed);
            }
        }
        order.push(file);
    }
}

/// Drivers that are loaded apart from the others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Apart {
    /// Whether there are any for this kernel.
    pub(super) has: bool,
    /// Files of those that a device asks for, and of what they need, in the order in which they are loaded.
    pub(super) files: Vec<PathBuf>,
}

impl Apart {
    /// Whether no device asks for any.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Loads them. Blocks for as long as the drivers look for their devices.
    pub(super) fn load(&self) {
        for file in &self.files {
            if let Err(error) = insert(file, c"") {
                tracing::info!(file = %file.display(), %error, "IPMI driver not loaded");
            }
        }
    }
}

impl Index {
    fn apart(&self, folder: &Path, modaliases: &BTreeSet<String>) -> Apart {
        let has = APART.iter().any(|module| self.files.contains_key(*module));
        let asked =
            |module: &&str| modaliases.iter().any(|alias| self.fitting(alias).any(|fit| fit == *module));
        let wanted: Vec<&str> = APART.iter().copied().filter(asked).collect();
        let mut files: Vec<PathBuf> = Vec::new();
        for module in wanted.iter().copied().chain((!wanted.is_empty()).then_some(APART_FOR_PROGRAMS)) {
            for file in self.order(module).into_iter().map(|file| folder.join(file)) {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Apart { has, files }
    }
}

fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/drivers/net/virtio_net.ko` → `virtio_net`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    underscored(name.split(".ko").next().unwrap_or(name))
}

/// Shell patterns as modalias uses them: `*`, `?` and `[…]`. Never more than length × length steps.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => set(&pattern[p..], text[t]),
            Some(byte) if *byte == text[t] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                p = at + 1;
                t = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Length of the set at the beginning of `pattern` if it holds `byte`.
fn set(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|b| *b == b']')?;
    let inner = &pattern[1..end];
    let mut at = 0;
    while at < inner.len() {
        if inner.get(at + 1) == Some(&b'-') && at + 2 < inner.len() {
            if (inner[at]..=inner[at + 2]).contains(&byte) {
                return Some(end + 1);
            }
            at += 3;
        } else {
            if inner[at] == byte {
                return Some(end + 1);
            }
            at += 1;
        }
    }
    None
}

/// Loads what the machine's devices ask for.
#[derive(Debug)]
pub(super) struct Loader {
    folder: PathBuf,
    index: Index,
    tried: HashSet<String>,
    loaded: usize,
}

impl Loader {
    /// For the running kernel; `None` where the initramfs has no modules for it.
    pub(super) fn for_running_kernel() -> Option<Self> {
        let release = sysfs::text("/proc/sys/kernel/osrelease");
        let folder = ["/lib/modules", "/usr/lib/modules"]
            .iter()
            .map(|base| Path::new(base).join(&release))
            .find(|folder| folder.join("modules.dep").exists())?;
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let index = Index::parse(&read("modules.alias"), &read("modules.dep"), &read("modules.softdep"));
        Some(Self { folder, index, tried: HashSet::new(), loaded: 0 })
    }

    /// How many were loaded so far.
    pub(super) fn loaded(&self) -> usize {
        self.loaded
    }

    /// Loads for every device that is there now. Returns whether anything new was loaded.
    pub(super) fn round(&mut self) -> bool {
        let before = self.loaded;
        let mut wanted: BTreeSet<String> = ALWAYS.iter().map(|name| (*name).to_owned()).collect();
        for modalias in modaliases(Path::new("/sys/devices")) {
            wanted.extend(self.index.fitting(&modalias).map(str::to_owned));
        }
        wanted.retain(|module| !APART.contains(&module.as_str()));
        for module in wanted {
            self.load(&module);
        }
        self.loaded > before
    }

    /// The drivers of the machine's BMC, to be loaded by somebody who can wait.
    pub(super) fn apart(&self) -> Apart {
        self.index.apart(&self.folder, &modaliases(Path::new("/sys/devices")))
    }

    /// Loads one that no device asks for, with parameters for itself.
    pub(super) fn load_with(&mut self, module: &str, parameters: &CStr) {
        let own = self.index.files.get(&underscored(module)).map(|(file, _)| file.clone());
        for file in self.index.order(module).into_iter().map(str::to_owned).collect::<Vec<_>>() {
            let parameters = if Some(&file) == own.as_ref() { parameters } else { c"" };
            self.insert_once(module, file, parameters);
        }
    }

    fn load(&mut self, module: &str) {
        let files: Vec<String> = self.index.order(module).into_iter().map(str::to_owned).collect();
        for file in files {
            self.insert_once(module, file, c"");
        }
    }

    fn insert_once(&mut self, module: &str, file: String, parameters: &CStr) {
        if !self.tried.insert(file.clone()) {
            return;
        }
        match insert(&self.folder.join(&file), parameters) {
            Ok(()) => self.loaded += 1,
            Err(error) => tracing::debug!(module, file, %error, "module not loaded"),
        }
    }
}

fn insert(file: &Path, parameters: &CStr) -> io::Result<()> {
    let module = File::open(file)?;
    match rustix::system::finit_module(&module, parameters, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Modaliases of all devices.
fn modaliases(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for path in sysfs::entries(&folder) {
            let Ok(kind) = path.symlink_metadata().map(|metadata| metadata.file_type()) else { continue };
            if kind.is_dir() && depth < DEPTH {
                folders.push((path, depth + 1));
            } else if kind.is_file() && path.ends_with("modalias") {
                let modalias = sysfs::text(&path);
                if !modalias.is_empty() {
                    found.insert(modalias);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_fit_as_a_shell_would() {
        for (pattern, text, expected) in [
            ("virtio:d00000001v*", "virtio:d00000001v00001AF4", true),
            ("pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00", true),
            ("pci:v00008086d*", "pci:v00001AF4d00001041", false),
            ("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v1p2d3dc4dsc5dp6ic08isc06ip50in0", true),
            (
                "cpu:type:x86,ven*fam*mod*:feature:*0099*",
                "cpu:type:x86,ven0000fam0006mod0055:feature:,0000,0099,",
                true,
            ),
            ("a[0-9]c", "a5c", true),
            ("a[0-9]c", "axc", false),
            ("a?c", "abc", true),
            ("", "", true),
            ("*", "", true),
            ("a", "", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let index = Index::parse(
            "# aliases\nalias virtio:d00000001v* virtio_net\nalias pci:* virtio-pci\nbroken\n",
            "kernel/net/net_failover.ko: kernel/net/failover.ko\n\
             kernel/drivers/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko\n\
             kernel/drivers/virtio/virtio-pci.ko:\n",
            "",
        );
        assert_eq!(index.fitting("virtio:d00000001v00001AF4").collect::<Vec<_>>(), ["virtio_net"]);
        assert_eq!(
            index.order("virtio_net"),
            ["kernel/net/failover.ko", "kernel/net/net_failover.ko", "kernel/drivers/net/virtio_net.ko"]
        );
        assert_eq!(index.order("virtio_pci"), ["kernel/drivers/virtio/virtio-pci.ko"]);
        assert!(index.order("built_in").is_empty());
    }

    #[test]
    fn what_is_better_before_a_module_comes_before_it() {
        let index = Index::parse(
            "alias crc32c crc32c_intel\nalias crypto-crc32c crc32c_intel\nalias crc32c crc32c-generic\n",
            "kernel/fs/xfs.ko: kernel/lib/libcrc32c.ko\nkernel/lib/libcrc32c.ko:\nkernel/fs/ext4.ko: kernel/fs/jbd2.ko\n\
             kernel/crypto/crc32c-intel.ko:\nkernel/crypto/crc32c-generic.ko:\nkernel/a.ko:\nkernel/b.ko:\n",
            "# softdeps\nsoftdep ext4 pre: crypto-crc32c\nsoftdep libcrc32c pre: crc32c post: nothing\nsoftdep\n\
             softdep a pre: b\nsoftdep b pre: a\n",
        );
        assert_eq!(
            index.order("xfs"),
            [
                "kernel/crypto/crc32c-intel.ko",
                "kernel/crypto/crc32c-generic.ko",
                "kernel/lib/libcrc32c.ko",
                "kernel/fs/xfs.ko"
            ]
        );
        assert_eq!(
            index.order("ext4"),
            ["kernel/crypto/crc32c-intel.ko", "kernel/fs/jbd2.ko", "kernel/fs/ext4.ko"]
        );
        assert_eq!(index.order("a"), ["kernel/b.ko", "kernel/a.ko"]);
    }

    #[test]
    fn drivers_of_a_bmc_are_for_somebody_who_can_wait() {
        let index = Index::parse(
            "alias acpi*:IPI0001:* ipmi_si\nalias platform:dmi-ipmi-si ipmi_si\nalias acpi*:IPI0001:* ipmi_ssif\n",
            "kernel/i/ipmi_si.ko: kernel/i/ipmi_msghandler.ko\nkernel/i/ipmi_ssif.ko: kernel/i/ipmi_msghandler.ko\n\
             kernel/i/ipmi_devintf.ko: kernel/i/ipmi_msghandler.ko\nkernel/i/ipmi_msghandler.ko:\n",
            "",
        );
        let apart = |index: &Index, aliases: &[&str]| {
            index.apart(Path::new("/m"), &aliases.iter().map(|alias| (*alias).to_owned()).collect())
        };
        let files = |names: &[&str]| names.iter().map(|name| Path::new("/m/kernel/i").join(name)).collect();
        let by_table =
            Apart { has: true, files: files(&["ipmi_msghandler.ko", "ipmi_si.ko", "ipmi_devintf.ko"]) };
        assert_eq!(apart(&index, &["platform:dmi-ipmi-si"]), by_table);
        let by_acpi = ["ipmi_msghandler.ko", "ipmi_si.ko", "ipmi_ssif.ko", "ipmi_devintf.ko"];
        assert_eq!(apart(&index, &["acpi:IPI0001:", "pci:x"]), Apart { has: true, files: files(&by_acpi) });
        assert_eq!(apart(&index, &["pci:x"]), Apart { has: true, files: Vec::new() });
        assert_eq!(apart(&Index::default(), &["platform:dmi-ipmi-si"]), Apart::default());
    }

    proptest! {
        #[test]
        fn no_pattern_makes_it_panic(pattern in "[a-c*?\\[\\]-]{0,12}", text in "[a-c]{0,12}") {
            let _ = fits(pattern.as_bytes(), text.as_bytes());
        }

        #[test]
        fn a_text_fits_itself_and_a_star(text in "[a-z0-9:]{0,20}", cut in 0usize..20) {
            prop_assert!(fits(text.as_bytes(), text.as_bytes()));
            let cut = cut.min(text.len());
            let pattern = format!("{}*", &text[..cut]);
            prop_assert!(fits(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
