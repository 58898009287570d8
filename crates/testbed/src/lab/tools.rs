//! What a lab needs of this machine, and how it comes there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::process::{self, find_on_path};

/// What has to be there, and the Debian package that brings it.
const NEEDED: [(&str, &str); 25] = [
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/qemu-img", "qemu-utils"),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    ("/usr/lib/ipxe/undionly.kpxe", "ipxe"),
    ("/usr/sbin/libvirtd", "libvirt-daemon-system"),
    (
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        "libvirt-daemon-driver-qemu",
    ),
    ("/usr/bin/virsh", "libvirt-clients"),
    ("/usr/lib/python3/dist-packages/libvirt.py", "python3-libvirt"),
    ("/usr/bin/ipmitool", "ipmitool"),
    ("/usr/bin/ipmi_sim", "openipmi"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/sbin/dnsmasq", "dnsmasq-base"),
    ("/usr/bin/mcopy", "mtools"),
    ("/usr/sbin/mkfs.vfat", "dosfstools"),
    ("/usr/sbin/sfdisk", "fdisk"),
    ("/usr/sbin/mkfs.ext4", "e2fsprogs"),
    ("/usr/bin/grub-mkimage", "grub-common"),
    ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    ("/usr/lib/grub/x86_64-efi/normal.mod", "grub-efi-amd64-bin"),
    ("/usr/bin/xorriso", "xorriso"),
    ("/usr/bin/zstd", "zstd"),
    ("/usr/bin/python3", "python3-venv"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/sbin/depmod", "kmod"),
    ("/usr/bin/cpio", "cpio"),
];
const APT_LIMIT: Duration = Duration::from_secs(900);
const PIP_LIMIT: Duration = Duration::from_secs(600);
const SUSHY_TOOLS: &str = "sushy-tools==2.2.0";
const VIRTUALBMC: &str = "virtualbmc==3.3.0";
/// Part of the environment's folder name; raised when what is in it changes.
const ENVIRONMENT: &str = "lab-bmc-1";

/// Programs of a lab that are not this project's.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The Python environment that holds sushy-tools and VirtualBMC.
    pub(super) python: PathBuf,
}

/// Why there can be no lab on this machine, if so. Says what is missing in words for an operator.
#[must_use]
pub fn obstacle() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some(format!("the virtual servers are x86-64, this machine is {}", std::env::consts::ARCH));
    }
    if !rustix::process::geteuid().is_root() {
        return Some("a network of its own, libvirt and QEMU's taps need root".to_owned());
    }
    let missing = missing();
    if !missing.is_empty() && find_on_path("apt-get").is_none() {
        return Some(format!("these are missing: {}", missing.join(", ")));
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    // A container may be root and yet not allowed to.
    let tried = std::process::Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--", "ip", "link", "set", "lo", "up"])
        .output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Some(format!("no network and mount namespaces can be made here: {told}"))
        }
        Err(error) => Some(format!("unshare of util-linux cannot be run: {error}")),
    }
}

/// Packages of which something is not there.
fn missing() -> Vec<&'static str> {
    let absent = NEEDED.iter().filter(|(path, _)| !Path::new(path).exists());
    absent.map(|(_, package)| *package).collect()
}

impl Tools {
    /// Finds what a lab needs; what is missing is installed, with apt-get and pip.
    pub async fn ensure() -> Result<Self> {
        packages().await?;
        Ok(Self { python: environment().await? })
    }
}

/// Installs the Debian packages that are missing.
async fn packages() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let begin = Instant::now();
    let list = missing.join(" ");
    let remedy = format!("apt-get install --no-install-recommends {list}");
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Assets(format!("the lab needs more packages; as root: {remedy}")));
    }
    eprintln!("lab: {remedy}");
    for arguments in
        [vec!["update", "-q"], [vec!["install", "-qy", "--no-install-recommends"], missing].concat()]
    {
        let mut command = tokio::process::Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        process::run(command, APT_LIMIT).await?;
    }
    eprintln!("lab: packages took {} s", begin.elapsed().as_secs());
    let left = self::missing();
    match left.is_empty() {
        true => Ok(()),
        false => Err(Error::Assets(format!(
            "after `{remedy}` something is still missing of {}: the lab knows Debian 12",
            left.join(", ")
        ))),
    }
}

/// The Python of an environment with the BMC emulators. It is made with the system's own Python, since only that sees
/// the system's libvirt module.
async fn environment() -> Result<PathBuf> {
    let folder = super::cache()?.join("python");
    let home = folder.join(ENVIRONMENT);
    let (python, ready) = (home.join("bin/python"), home.join(".ready"));
    if ready.exists() {
        return Ok(python);
    }
    std::fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
    let _lock = lock(&folder.join(format!("{ENVIRONMENT}.lock"))).await?;
    if !ready.exists() {
        eprintln!("lab: installing sushy-tools and VirtualBMC into {}, about 20 s", home.display());
        let _ = std::fs::remove_dir_all(&home);
        let mut command = tokio::process::Command::new("/usr/bin/python3");
        command.args(["-m", "venv", "--system-site-packages"]).arg(&home);
        process::run(command, PIP_LIMIT).await?;
        let mut command = tokio::process::Command::new(&python);
        command.args(["-m", "pip", "install", "-q", SUSHY_TOOLS, VIRTUALBMC]);
        process::run(command, PIP_LIMIT).await?;
        File::create(&ready).map_err(Error::file("create", &ready))?;
    }
    Ok(python)
}

/// Keeps others out until the file is dropped.
pub(super) async fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).map_err(Error::file("create", path))?;
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
    locked
        .map_err(|error| Error::Assets(format!("waiting for the lock failed: {error}")))?
        .map_err(Error::file("lock", path))
}
