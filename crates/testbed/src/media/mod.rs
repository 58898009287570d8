//! The agent image: what servers boot our agent from. Kernel and initramfs, iPXE, and the template of an ISO, all in one
//! folder with a manifest, which the manager serves (`--agent-image-dir`).
//!
//! The kernel, GRUB and iPXE are Debian's, fetched with apt and unpacked into the cache folder; the agent is one static
//! program, `/init` of the initramfs. The same packages, agent, xorriso and zstd give the same bytes.

mod elf;
mod fat;
mod iso;
pub mod manifest;
mod modules;
mod packages;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::{Args, ValueEnum};
use ferric_image::cpio::Archive;
use sha2::{Digest, Sha256};

use self::iso::Grub;
use self::manifest::{File, Files, Iso, Manifest};
use self::modules::Modules;
use self::packages::{Package, Packages, run, sha256_of};
use crate::assets::Progress;
use crate::error::{Error, Result};
use crate::process::find_on_path;

/// What machines an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Flavour {
    /// Virtual machines: virtio, NVMe, and what clouds have. Debian's cloud kernel, which knows no SATA.
    Virtual,
    /// Servers: SATA, SAS and RAID controllers, and network cards of all vendors.
    Hardware,
}

impl Flavour {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Virtual => "virtual",
            Self::Hardware => "hardware",
        }
    }

    /// The package that depends on the newest kernel.
    fn kernel_package(self) -> &'static str {
        match self {
            Self::Virtual => "linux-image-cloud-amd64",
            Self::Hardware => "linux-image-amd64",
        }
    }

    /// Packages with firmware that some network cards and disk controllers do not start without. They are in Debian's
    /// section non-free-firmware, which not every machine has among its sources.
    fn firmware_packages(self) -> &'static [&'static str] {
        match self {
            Self::Virtual => &[],
            Self::Hardware => &[
                "firmware-bnx2",
                "firmware-bnx2x",
                "firmware-qlogic",
                "firmware-netronome",
                "firmware-cavium",
                "firmware-misc-nonfree",
            ],
        }
    }
}

/// What to make.
#[derive(Debug, Clone, Args)]
pub struct AgentImageOptions {
    /// What machines it is for.
    #[arg(long, value_enum, default_value_t = Flavour::Virtual)]
    pub flavour: Flavour,
    /// The agent, a static program.
    #[arg(long, value_name = "FILE")]
    pub agent: PathBuf,
    /// Folder that is made or replaced [default: agent-image/<flavour>].
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}

/// Kernel and initramfs together should not be larger in the flavour for virtual machines.
const AIM: u64 = 40_000_000;

/// Makes an agent image, or finds that it is there already. Returns its folder.
pub fn build(options: &AgentImageOptions, progress: &Progress) -> Result<PathBuf> {
    let begin = Instant::now();
    for program in ["xorriso", "zstd"] {
        if find_on_path(program).is_none() {
            return Err(Error::Assets(format!(
                "{program} is not on the PATH; install it: apt-get install --no-install-recommends xorriso zstd"
            )));
        }
    }
    let flavour = options.flavour;
    let agent = std::fs::read(&options.agent).map_err(Error::file("read", &options.agent))?;
    check_agent(&options.agent, &agent)?;
    let cache = cache_folder()?;
    let packages = Packages::new(cache.join("packages"), progress.clone())?;
    let _lock = lock(&cache)?;

    let all = resolve(&packages, flavour)?;
    let inputs = inputs(flavour, &options.agent, &all)?;
    let out = options.out.clone().unwrap_or_else(|| Path::new("agent-image").join(flavour.name()));
    if let Some(manifest) = Manifest::up_to_date(&out, &inputs) {
        progress(&format!("agent image: {} is up to date", out.display()));
        show(&manifest, progress);
        return Ok(out);
    }
    progress(&format!("agent image: making {}, about a minute without what is to be fetched", out.display()));

    let above = out.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(above).map_err(Error::file("create", above))?;
    let temporary = |prefix: &str| {
        tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(above)
            .map_err(Error::file("create a folder in", above))
    };
    let (new, work) = (temporary(".new-")?, temporary(".work-")?);
    let kernel_version = all.kernel.name.trim_start_matches("linux-image-").to_owned();
    let kernel = packages.unpacked(&all.kernel)?;
    copy_kernel(&kernel, &kernel_version, new.path())?;
    let firmware =
        all.firmware.iter().map(|package| packages.unpacked(package)).collect::<Result<Vec<PathBuf>>>()?;
    progress("agent image: packing kernel modules and agent, about 30 s");
    let missing_firmware =
        write_initrd(&kernel, &kernel_version, flavour, agent, &firmware, new.path(), work.path())?;
    if !missing_firmware.is_empty() {
        progress(&format!(
            "agent image: {} firmware files are in no package that apt offers; some network cards need theirs: add \
             non-free-firmware to the sources of apt",
            missing_firmware.len()
        ));
    }
    let ipxe = packages.unpacked(&all.ipxe)?.join("usr/lib/ipxe");
    for name in ["undionly.kpxe", "snponly.efi"] {
        copy(&ipxe.join(name), &new.path().join(name))?;
    }
    let grub = Grub {
        common: packages.unpacked(&all.grub_common)?,
        bios: packages.unpacked(&all.grub_bios)?,
        efi: packages.unpacked(&all.grub_efi)?,
    };
    progress("agent image: writing the ISO");
    let grub_config = iso::write(new.path(), work.path(), &grub)?;
    let file = |name: &str| File::of(new.path(), name);
    let manifest = Manifest {
        version: manifest::VERSION,
        flavour: flavour.name().to_owned(),
        architecture: "amd64".to_owned(),
        kernel_version,
        files: Files {
            kernel: file("vmlinuz")?,
            initrd: file("initrd.img")?,
            iso: Iso { file: file("agent.iso")?, grub_config },
            ipxe_bios: file("undionly.kpxe")?,
            ipxe_efi: file("snponly.efi")?,
        },
        packages: all.list().into_iter().cloned().collect(),
        missing_firmware,
        inputs,
    };
    manifest.write(new.path())?;
    replace(new, &out)?;
    show(&manifest, progress);
    progress(&format!("agent image: {} in {:.0} s", out.display(), begin.elapsed().as_secs_f32()));
    Ok(out)
}

/// The packages of an image.
struct Resolved {
    kernel: Package,
    ipxe: Package,
    grub_common: Package,
    grub_bios: Package,
    grub_efi: Package,
    firmware: Vec<Package>,
}

impl Resolved {
    fn list(&self) -> Vec<&Package> {
        [&self.kernel, &self.ipxe, &self.grub_common, &self.grub_bios, &self.grub_efi]
            .into_iter()
            .chain(&self.firmware)
            .collect()
    }
}

fn resolve(packages: &Packages, flavour: Flavour) -> Result<Resolved> {
    let newest = packages.get(flavour.kernel_package())?;
    let kernel =
        newest.depends.split([',', ' ']).find(|word| word.starts_with("linux-image-")).ok_or_else(|| {
            Error::malformed(
                format!("package {}", newest.name),
                format!("it depends on no kernel: {}", newest.depends),
            )
        })?;
    let mut firmware = Vec::new();
    for name in flavour.firmware_packages() {
        firmware.extend(packages.find(name)?);
    }
    Ok(Resolved {
        kernel: packages.get(kernel)?,
        ipxe: packages.get("ipxe")?,
        grub_common: packages.get("grub-common")?,
        grub_bios: packages.get("grub-pc-bin")?,
        grub_efi: packages.get("grub-efi-amd64-bin")?,
        firmware,
    })
}

/// SHA-256 of all that decides what is made: agent, packages, and this code.
fn inputs(flavour: Flavour, agent: &Path, packages: &Resolved) -> Result<String> {
    let mut hash = Sha256::new();
    let mut text = |text: &str| {
        hash.update(text.as_bytes());
        hash.update([0]);
    };
    text(flavour.name());
    text(&sha256_of(agent)?);
    for package in packages.list() {
        text(&package.name);
        text(&package.sha256);
    }
    for code in [
        include_str!("mod.rs"),
        include_str!("../../../image/src/cpio.rs"),
        include_str!("fat.rs"),
        include_str!("iso.rs"),
        include_str!("modules.rs"),
    ] {
        text(code);
    }
    Ok(hex::encode(hash.finalize()))
}

/// An agent that needs a loader would not start, as the initramfs holds none.
fn check_agent(path: &Path, agent: &[u8]) -> Result<()> {
    let malformed = |reason: &str| Err(Error::malformed(path.display().to_string(), reason));
    if agent.get(..6) != Some(b"\x7fELF\x02\x01") || agent.get(18..20) != Some(&[0x3e, 0]) {
        return malformed("it is no program for amd64");
    }
    let read = |at: usize, length: usize| {
        let bytes = agent.get(at..at.checked_add(length)?)?;
        bytes
            .iter()
            .rev()
            .try_fold(0_usize, |value, byte| value.checked_mul(256)?.checked_add((*byte).into()))
    };
    let (table, size, count) = (read(0x20, 8), read(0x36, 2).unwrap_or(0), read(0x38, 2).unwrap_or(0));
    const INTERPRETER: usize = 3;
    let loader = table.is_some_and(|table| {
        (0..count)
            .any(|n| n.checked_mul(size).and_then(|at| read(table.checked_add(at)?, 4)) == Some(INTERPRETER))
    });
    if loader {
        return malformed("it is not static: build it with RUSTFLAGS='-C target-feature=+crt-static'");
    }
    Ok(())
}

fn copy_kernel(package: &Path, version: &str, folder: &Path) -> Result<()> {
    let boot = package.join("boot");
    let config = boot.join(format!("config-{version}"));
    let text = std::fs::read_to_string(&config).map_err(Error::file("read", &config))?;
    for needed in ["CONFIG_RD_ZSTD=y", "CONFIG_BLK_DEV_INITRD=y", "CONFIG_DEVTMPFS=y"] {
        if !text.lines().any(|line| line == needed) {
            return Err(Error::malformed(
                format!("the kernel {version}"),
                format!("it is built without {needed}"),
            ));
        }
    }
    copy(&boot.join(format!("vmlinuz-{version}")), &folder.join("vmlinuz"))
}

/// Packs the initramfs; returns the firmware files that are missing.
fn write_initrd(
    kernel: &Path,
    version: &str,
    flavour: Flavour,
    agent: Vec<u8>,
    firmware: &[PathBuf],
    folder: &Path,
    work: &Path,
) -> Result<Vec<String>> {
    let mut archive = Archive::default();
    for name in ["dev", "proc", "sys", "run", "tmp", "etc"] {
        archive.folder(name);
    }
    // The kernel opens it for the first process before anything is mounted.
    archive.device("dev/console", 0o600, (5, 1));
    archive.device("dev/null", 0o666, (1, 3));
    archive.file("init", 0o755, agent);
    let source = kernel.join("lib/modules").join(version);
    let modules = Modules::read(&source)?;
    let chosen = modules.choose(flavour);
    let target = format!("lib/modules/{version}");
    for path in chosen.iter().filter_map(|name| modules.path(name)) {
        let file = source.join(path);
        let content = std::fs::read(&file).map_err(Error::file("read", &file))?;
        archive.file(&format!("{target}/{path}"), 0o644, content);
    }
    for name in ["modules.builtin", "modules.builtin.modinfo"] {
        let file = source.join(name);
        let content = std::fs::read(&file).map_err(Error::file("read", &file))?;
        archive.file(&format!("{target}/{name}"), 0o644, content);
    }
    for (name, text) in [
        ("modules.dep", modules.dep(&chosen)),
        ("modules.alias", modules.alias(&chosen)),
        ("modules.softdep", modules.softdep(&chosen)),
    ] {
        archive.file(&format!("{target}/{name}"), 0o644, text.into_bytes());
    }
    let missing = match flavour {
        // What virtual machines have needs none.
        Flavour::Virtual => Vec::new(),
        Flavour::Hardware => add_firmware(&mut archive, &modules.firmware(&chosen), firmware)?,
    };
    let plain = work.join("initrd.cpio");
    std::fs::write(&plain, archive.to_bytes()).map_err(Error::file("write", &plain))?;
    run(Command::new("zstd")
        .args(["-q", "-f", "-19", "-T0", "-o"])
        .arg(folder.join("initrd.img"))
        .arg(&plain))?;
    Ok(missing)
}

/// Adds the firmware files that are there; returns the names of the others.
fn add_firmware(
    archive: &mut Archive,
    wanted: &BTreeSet<String>,
    packages: &[PathBuf],
) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for name in wanted {
        // It is the text of a module: nothing but a path below the folder of firmware.
        if Path::new(name).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            continue;
        }
        let found = packages
            .iter()
            .map(|package| package.join("lib/firmware").join(name))
            .find(|path| path.is_file());
        match found {
            Some(path) => {
                let content = std::fs::read(&path).map_err(Error::file("read", &path))?;
                archive.file(&format!("lib/firmware/{name}"), 0o644, content);
            }
            None => missing.push(name.clone()),
        }
    }
    Ok(missing)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let content = std::fs::read(from).map_err(Error::file("read", from))?;
    std::fs::write(to, content).map_err(Error::file("write", to))
}

/// Puts the new folder in the place of the old one.
fn replace(new: tempfile::TempDir, out: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let new = new.keep();
    // Temporary folders are private; what is served is not.
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))
        .map_err(Error::file("open up", &new))?;
    match std::fs::remove_dir_all(out) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::file("replace", out)(error));
        }
        _ => {}
    }
    std::fs::rename(&new, out).map_err(Error::file("create", out))
}

fn show(manifest: &Manifest, progress: &Progress) {
    let Files { kernel, initrd, iso, ipxe_bios, ipxe_efi } = &manifest.files;
    for file in [kernel, initrd, &iso.file, ipxe_bios, ipxe_efi] {
        progress(&format!("  {:<14} {:>6.1} MB", file.name, file.size as f64 / 1e6));
    }
    let both = kernel.size + initrd.size;
    let verdict = if manifest.flavour == Flavour::Virtual.name() && both > AIM {
        ", more than the aim of 40 MB"
    } else {
        ""
    };
    progress(&format!(
        "  kernel {} and initramfs of flavour {}: {:.1} MB{verdict}",
        manifest.kernel_version,
        manifest.flavour,
        both as f64 / 1e6
    ));
}

fn cache_folder() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("XDG_CACHE_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("ferric"))
        .ok_or_else(|| Error::Assets("no cache folder: set HOME or XDG_CACHE_HOME".to_owned()))
}

/// Two builders would fetch the same packages.
fn lock(cache: &Path) -> Result<std::fs::File> {
    let path = cache.join("agent-image.lock");
    let file = std::fs::File::create(&path).map_err(Error::file("create", &path))?;
    file.lock().map_err(Error::file("lock", &path))?;
    Ok(file)
}
