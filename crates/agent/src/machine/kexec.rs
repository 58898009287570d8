//! Starts the kernel of a written disk without the firmware: finds it on the disk, has the running kernel load it, and
//! leaves the restart to the end of the agent. Nothing is changed on the disk: filesystems are mounted read-only, without
//! replaying their journals, and only for as long as this looks.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ferric_agent::loader_config::{
    Choice, KernelEntry, LoaderConfigError, MOST_CONFIG, Variables, newest, parse_bls, parse_grub,
    parse_grubenv,
};
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, ResolveFlags, memfd_create, openat2},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use super::{ioctl, modules::Loader, sysfs};

/// Where a filesystem of the disk is looked at.
const PLACE: &str = "/run/written";
/// Filesystems that boot loaders read, the modules that they need, and what keeps the kernel from replaying their journals
/// (Documentation/filesystems/ext4, xfs and btrfs).
const FILESYSTEMS: [(&str, &str); 4] =
    [("ext4", "noload"), ("xfs", "norecovery,nouuid"), ("btrfs", "rescue=nologreplay"), ("vfat", "")];
/// Code pages that the kernel's vfat asks for at mounting, in its own configuration or that of other distributions
/// (Documentation/filesystems/vfat: codepage, iocharset).
const CODE_PAGES: [&str; 4] = ["nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"];
/// Where GRUB has its configuration, on its own filesystem or that of the system.
const GRUB: [&str; 4] = ["boot/grub/grub.cfg", "boot/grub2/grub.cfg", "grub/grub.cfg", "grub2/grub.cfg"];
/// Where the entries of the Boot Loader Specification are.
const ENTRIES: [&str; 2] = ["boot/loader/entries", "loader/entries"];
/// Most entries that are looked at.
const MOST_ENTRIES: usize = 256;
/// Largest kernel or initramfs, in bytes.
const MOST_FILE: u64 = 1 << 30;
/// How long the partitions of the written disk get to appear.
const SETTLE: Duration = Duration::from_secs(5);

/// Loads the kernel that the disk would start. Returns what its entry calls itself; the error is a sentence.
pub(super) fn load(disk: &str) -> Result<String, String> {
    if sysfs::text("/sys/kernel/security/lockdown").contains("[integrity]") {
        return Err("the running kernel is locked down, and loads only kernels that are signed".to_owned());
    }
    let name = disk.rsplit('/').next().unwrap_or_default();
    if let Some(mut loader) = Loader::for_running_kernel() {
        for module in FILESYSTEMS.iter().map(|(filesystem, _)| filesystem).chain(&CODE_PAGES) {
            loader.load_with(module, c"");
        }
    }
    let partitions = partitions(disk, name)?;
    let (mut mounted, mut unmounted, mut found) = (0, None, None);
    for partition in &partitions {
        let filesystem = match Mounted::on(partition) {
            Ok(filesystem) => filesystem,
            Err(error) => {
                unmounted = Some(format!("{}: {error}", partition.display()));
                continue;
            }
        };
        mounted += 1;
        match entry_below(&filesystem.root) {
            Ok(None) => {}
            Ok(Some(entry)) => match load_entry(&filesystem.root, &entry) {
                Ok(()) => return Ok(entry.title),
                Err(error) => found = Some(format!("{} on {}: {error}", entry.kernel, partition.display())),
            },
            Err(error) => found = Some(format!("{}: {error}", partition.display())),
        }
    }
    Err(found.unwrap_or_else(|| nowhere(partitions.len(), mounted, unmounted.as_deref())))
}

/// Why nothing was found to start. Most disks have a partition without a filesystem: it is no fault by itself, and named.
fn nowhere(partitions: usize, mounted: usize, unmounted: Option<&str>) -> String {
    let named = unmounted.map_or_else(String::new, |why| format!(" (the last that was not: {why})"));
    format!(
        "no boot loader configuration was found: of the {partitions} partitions, {mounted} could be mounted{named}"
    )
}

/// The partitions of the disk as the kernel sees them, once it has looked at what was written.
fn partitions(disk: &str, name: &str) -> Result<Vec<PathBuf>, String> {
    let began = Instant::now();
    let mut refused = None;
    while began.elapsed() < SETTLE {
        // The disk may still be held for a moment by who wrote it.
        let read = File::open(disk).and_then(|disk| ioctl::read_partitions(&disk));
        match read {
            Ok(()) => {
                let found = sysfs::entries(Path::new("/sys/class/block").join(name));
                let found: Vec<PathBuf> = found
                    .into_iter()
                    .filter(|path| path.join("partition").exists())
                    .map(|path| Path::new("/dev").join(sysfs::name(&path)))
                    .filter(|device| device.exists())
                    .collect();
                if !found.is_empty() {
                    return Ok(found);
                }
            }
            Err(error) => refused = Some(error),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Err(match refused {
        Some(error) => format!("the kernel does not read the partitions of {disk}: {error}"),
        None => format!("{disk} shows no partitions"),
    })
}

/// A filesystem that is mounted for as long as this lives.
struct Mounted {
    root: OwnedFd,
}

impl Mounted {
    /// Mounts it as the first filesystem that it is. The error is that of the last attempt that says more than that it is
    /// another filesystem.
    fn on(partition: &Path) -> Result<Self, String> {
        fs::create_dir_all(PLACE).map_err(|error| format!("{PLACE} cannot be made: {error}"))?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let mut why = None;
        for (filesystem, options) in FILESYSTEMS {
            let options = std::ffi::CString::new(options).map_err(|error| error.to_string())?;
            let mounted =
                mount(partition, PLACE, filesystem, flags, Some(options.as_c_str())).and_then(|()| {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    rustix::fs::open(PLACE, flags, Mode::empty()).inspect_err(|_| leave())
                });
            match mounted {
                Ok(root) => return Ok(Self { root }),
                Err(Errno::INVAL) if why.is_some() => {}
                Err(error) => why = Some(format!("as {filesystem}: {}", io::Error::from(error))),
            }
        }
        Err(why.unwrap_or_default())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        leave();
    }
}

/// Open files keep it until they are closed; nobody sees it any more at once.
fn leave() {
    if let Err(error) = unmount(PLACE, UnmountFlags::DETACH) {
        tracing::warn!(%error, "the filesystem of the written disk stays mounted");
    }
}

/// Opens a file of the filesystem. Symbolic links are followed as the system itself would: none leads out of it.
fn open(root: &OwnedFd, path: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = File::from(openat2(root, path, flags, Mode::empty(), resolve)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MOST_FILE {
        return Err(io::Error::other(format!("{path} is no file, or too large")));
    }
    Ok(file)
}

fn text(root: &OwnedFd, path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    open(root, path).ok()?.take(MOST_CONFIG as u64 + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= MOST_CONFIG).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// What a boot loader would start from this filesystem; nothing where it has no configuration here.
fn entry_below(root: &OwnedFd) -> Result<Option<KernelEntry>, LoaderConfigError> {
    for path in GRUB {
        let Some(config) = text(root, path) else { continue };
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let environment = text(root, &format!("{folder}/grubenv")).unwrap_or_default();
        let environment = parse_grubenv(&environment);
        return match parse_grub(&config, &environment)? {
            Choice::Entry(entry) => Ok(Some(entry)),
            Choice::BootLoaderSpecification { saved } => {
                specified(root, saved.as_deref(), &environment)?.ok_or(LoaderConfigError::NoKernel).map(Some)
            }
        };
    }
    specified(root, None, &Variables::new())
}

fn specified(
    root: &OwnedFd,
    saved: Option<&str>,
    environment: &Variables,
) -> Result<Option<KernelEntry>, LoaderConfigError> {
    for folder in ENTRIES {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let Ok(opened) = openat2(root, folder, flags, Mode::empty(), resolve) else { continue };
        let Ok(entries) = rustix::fs::Dir::read_from(&opened) else { continue };
        let names: Vec<String> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().to_str().ok()?.strip_suffix(".conf").map(str::to_owned))
            .take(MOST_ENTRIES)
            .collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let Some(name) = newest(&all, saved) else { continue };
        let Some(entry) = text(root, &format!("{folder}/{name}.conf")) else { continue };
        return parse_bls(&entry, environment).map(Some);
    }
    Ok(None)
}

/// Has the running kernel load it. What it read is in its memory then.
fn load_entry(root: &OwnedFd, entry: &KernelEntry) -> io::Result<()> {
    let kernel = open(root, &entry.kernel)?;
    let initrd = match entry.initrds.as_slice() {
        [] => None,
        [one] => Some(OwnedFd::from(open(root, one)?)),
        several => {
            let whole = memfd_create("initrd", MemfdFlags::CLOEXEC)?;
            let mut file = File::from(whole);
            for path in several {
                io::copy(&mut open(root, path)?, &mut file)?;
            }
            Some(file.into())
        }
    };
    // As GRUB does.
    let arguments = format!("BOOT_IMAGE={} {}", entry.kernel, entry.arguments);
    ioctl::kexec_file_load(kernel.as_fd(), initrd.as_ref().map(AsFd::as_fd), arguments.trim_end())
}
