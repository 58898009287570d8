//! Which kernel modules the agent takes along, and the tables by which it finds them: what `depmod` would write.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use super::Flavour;
use super::elf::{ModInfo, mod_info, normal_name};
use crate::error::{Error, Result};

/// Folders below `kernel/` that are taken whole, and modules that are taken by name. What a kernel does not have is
/// passed over: much of it is built in, in one kernel or the other.
struct Choice {
    folders: &'static [&'static str],
    names: &'static [&'static str],
    /// Of the folders, what no agent needs.
    without: &'static [&'static str],
}

/// Disks, network cards and buses of virtual machines.
const VIRTUAL: Choice = Choice {
    folders: &[
        "drivers/virtio/",
        "drivers/nvme/host/",
        "drivers/ata/",
        "drivers/net/ethernet/",
        "drivers/net/hyperv/",
        "drivers/hv/",
        "drivers/net/vmxnet3/",
        "drivers/net/bonding/",
        "drivers/pci/controller/",
        "net/8021q/",
    ],
    names: &[
        "virtio_blk",
        "virtio_scsi",
        "virtio_net",
        "virtio_rng",
        "sd_mod",
        "sr_mod",
        "vmw_pvscsi",
        "hv_storvsc",
        "xen_blkfront",
        "xen_netfront",
        "isofs",
        "vfat",
        // What a written disk may have its kernel on, for starting it without the firmware.
        "ext4",
        "xfs",
        "btrfs",
        "nls_cp437",
        "nls_ascii",
        "nls_iso8859_1",
        "nls_utf8",
        "efivarfs",
        // Debian's kernel for clouds has neither.
        "ipmi_si",
        "ipmi_devintf",
    ],
    without: &["hv_utils", "hyperv_fb", "nvme_fabrics", "nvme_tcp", "nvme_rdma", "nvme_fc"],
};

/// The same, and the controllers and network cards of servers.
const HARDWARE: Choice = Choice {
    folders: &[
        "drivers/virtio/",
        "drivers/nvme/host/",
        "drivers/ata/",
        "drivers/scsi/",
        "drivers/message/",
        "drivers/net/ethernet/",
        "drivers/net/hyperv/",
        "drivers/hv/",
        "drivers/net/vmxnet3/",
        "drivers/net/bonding/",
        "drivers/net/phy/",
        "drivers/net/mdio/",
        "drivers/net/pcs/",
        "drivers/net/usb/",
        "drivers/usb/host/",
        "drivers/usb/storage/",
        "drivers/char/ipmi/",
        "drivers/pci/controller/",
        "net/8021q/",
    ],
    names: VIRTUAL.names,
    without: &[
        "hv_utils",
        "hyperv_fb",
        "nvme_fabrics",
        "nvme_tcp",
        "nvme_rdma",
        "nvme_fc",
        "scsi_debug",
        "iscsi_tcp",
        "libiscsi_tcp",
        "bnx2fc",
        "bnx2i",
        "cxgb3i",
        "cxgb4i",
        "qedf",
        "qedi",
        "be2iscsi",
        "qla4xxx",
        // Of a BMC the agent only reads.
        "ipmi_watchdog",
        "ipmi_poweroff",
    ],
};

/// The modules of a kernel.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// By name.
    modules: BTreeMap<String, Module>,
}

#[derive(Debug)]
struct Module {
    /// Below the folder of the kernel version, such as `kernel/drivers/net/virtio_net.ko`.
    path: String,
    info: ModInfo,
}

impl Modules {
    /// Reads all modules below `folder`, which is `lib/modules/<version>`.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut modules = Self::default();
        let mut folders = vec![folder.join("kernel")];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(&next).map_err(Error::file("read", &next))? {
                let entry = entry.map_err(Error::file("read", &next))?;
                let path = entry.path();
                if entry.file_type().map_err(Error::file("read", &path))?.is_dir() {
                    folders.push(path);
                } else if let Ok(below) = path.strip_prefix(folder)
                    && let Some(below) = below.to_str().filter(|text| text.ends_with(".ko"))
                {
                    let content = std::fs::read(&path).map_err(Error::file("read", &path))?;
                    modules.add(below, &content).ok_or_else(|| {
                        Error::malformed(path.display().to_string(), "it is no kernel module for amd64")
                    })?;
                }
            }
        }
        if modules.modules.is_empty() {
            return Err(Error::malformed(folder.display().to_string(), "it holds no kernel modules"));
        }
        Ok(modules)
    }

    fn add(&mut self, path: &str, content: &[u8]) -> Option<()> {
        let name = normal_name(path.rsplit('/').next()?.strip_suffix(".ko")?);
        self.modules.insert(name, Module { path: path.to_owned(), info: mod_info(content)? });
        Some(())
    }

    /// The names of the modules for a flavour, with everything that they need.
    pub(super) fn choose(&self, flavour: Flavour) -> BTreeSet<String> {
        let choice = match flavour {
            Flavour::Virtual => &VIRTUAL,
            Flavour::Hardware => &HARDWARE,
        };
        let wanted = self.modules.iter().filter(|(name, module)| {
            let below = module.path.strip_prefix("kernel/").unwrap_or(&module.path);
            let listed = choice.folders.iter().any(|folder| below.starts_with(folder));
            choice.names.contains(&name.as_str()) || listed && !choice.without.contains(&name.as_str())
        });
        self.closure(wanted.map(|(name, _)| name.clone()))
    }

    /// These modules and all that they need, softly or not.
    fn closure(&self, wanted: impl Iterator<Item = String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open: Vec<String> = wanted.collect();
        while let Some(name) = open.pop() {
            let Some(module) = self.modules.get(&name) else { continue };
            if found.insert(name) {
                open.extend(module.info.depends.iter().cloned());
                let soft = module.info.softdeps.iter().flat_map(|text| text.split_whitespace());
                open.extend(soft.filter(|word| !word.ends_with(':')).flat_map(|word| self.resolve(word)));
            }
        }
        found
    }

    /// The module of this name, or those with this exact alias: which of them works is up to the processor.
    fn resolve(&self, word: &str) -> Vec<String> {
        let name = normal_name(word);
        if self.modules.contains_key(&name) {
            return vec![name];
        }
        self.modules
            .iter()
            .filter(|(_, module)| module.info.aliases.iter().any(|alias| normal_name(alias) == name))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Path of a module below the folder of the kernel version.
    pub(super) fn path(&self, name: &str) -> Option<&str> {
        self.modules.get(name).map(|module| module.path.as_str())
    }

    /// Firmware files that the chosen modules may ask for.
    pub(super) fn firmware(&self, chosen: &BTreeSet<String>) -> BTreeSet<String> {
        chosen
            .iter()
            .filter_map(|name| self.modules.get(name))
            .flat_map(|module| module.info.firmware.iter().cloned())
            .collect()
    }

    /// `modules.dep`: of each module the modules that it needs, itself first; loaded from the last to the first.
    pub(super) fn dep(&self, chosen: &BTreeSet<String>) -> String {
        let mut text = String::new();
        for (name, module) in self.chosen(chosen) {
            let mut order = Vec::new();
            self.needed(name, &mut order);
            let needed: Vec<&str> = order
                .iter()
                .rev()
                .filter(|other| *other != name)
                .filter_map(|name| self.path(name))
                .collect();
            let separator = if needed.is_empty() { "" } else { " " };
            let _ = writeln!(text, "{}:{separator}{}", module.path, needed.join(" "));
        }
        text
    }

    /// Depth first: what is needed comes before whoever needs it.
    fn needed(&self, name: &str, order: &mut Vec<String>) {
        if order.iter().any(|known| known == name) {
            return;
        }
        let Some(module) = self.modules.get(name) else { return };
        for needed in &module.info.depends {
            self.needed(needed, order);
        }
        order.push(name.to_owned());
    }

    /// `modules.alias`: which module drives which devices.
    pub(super) fn alias(&self, chosen: &BTreeSet<String>) -> String {
        let mut text = String::from("# Aliases extracted from modules themselves.\n");
        for (name, module) in self.chosen(chosen) {
            for alias in &module.info.aliases {
                let _ = writeln!(text, "alias {alias} {name}");
            }
        }
        text
    }

    /// `modules.softdep`: which modules are better loaded with which.
    pub(super) fn softdep(&self, chosen: &BTreeSet<String>) -> String {
        let mut text = String::from("# Soft dependencies extracted from modules themselves.\n");
        for (name, module) in self.chosen(chosen) {
            for softdep in &module.info.softdeps {
                let _ = writeln!(text, "softdep {name} {softdep}");
            }
        }
        text
    }

    fn chosen<'a>(&'a self, chosen: &'a BTreeSet<String>) -> impl Iterator<Item = (&'a String, &'a Module)> {
        chosen.iter().filter_map(|name| self.modules.get_key_value(name))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::elf::tests::module;
    use super::*;

    fn kernel() -> Modules {
        let mut modules = Modules::default();
        for (path, info) in [
            (
                "kernel/drivers/net/virtio_net.ko",
                vec!["alias=virtio:d00000001v*", "depends=net_failover,virtio"],
            ),
            ("kernel/drivers/net/net_failover.ko", vec!["depends=failover"]),
            ("kernel/net/core/failover.ko", vec!["depends="]),
            ("kernel/drivers/virtio/virtio.ko", vec![]),
            (
                "kernel/drivers/scsi/sd_mod.ko",
                vec!["depends=scsi_mod", "softdep=pre: crct10dif post: nothing"],
            ),
            ("kernel/drivers/scsi/scsi_mod.ko", vec![]),
            ("kernel/drivers/scsi/megaraid/megaraid_sas.ko", vec!["depends=scsi_mod", "firmware=raid.bin"]),
            ("kernel/crypto/crct10dif-generic.ko", vec!["alias=crct10dif"]),
            ("kernel/drivers/scsi/scsi_debug.ko", vec!["depends=scsi_mod"]),
            ("kernel/sound/noise.ko", vec![]),
        ] {
            modules.add(path, &module(&info)).unwrap();
        }
        modules
    }

    #[test]
    fn what_is_needed_comes_along() {
        let modules = kernel();
        let names = |flavour| modules.choose(flavour).into_iter().collect::<Vec<_>>();
        let both =
            ["crct10dif_generic", "failover", "net_failover", "scsi_mod", "sd_mod", "virtio", "virtio_net"];
        assert_eq!(names(Flavour::Virtual), both);
        let mut hardware = both.to_vec();
        hardware.insert(2, "megaraid_sas");
        assert_eq!(names(Flavour::Hardware), hardware);
        assert_eq!(
            modules.firmware(&modules.choose(Flavour::Hardware)).into_iter().collect::<Vec<_>>(),
            ["raid.bin"]
        );
    }

    #[test]
    fn the_tables_are_those_of_depmod() {
        let modules = kernel();
        let chosen = modules.choose(Flavour::Virtual);
        let dep = modules.dep(&chosen);
        assert!(dep.contains(
            "kernel/drivers/net/virtio_net.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/net/net_failover.ko \
             kernel/net/core/failover.ko\n"
        ), "{dep}");
        assert!(dep.contains("kernel/drivers/virtio/virtio.ko:\n"));
        assert!(modules.alias(&chosen).contains("alias virtio:d00000001v* virtio_net\n"));
        assert!(modules.softdep(&chosen).contains("softdep sd_mod pre: crct10dif post: nothing\n"));
    }
}
