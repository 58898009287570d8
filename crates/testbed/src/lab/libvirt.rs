//! libvirtd without systemd, in the foreground, and `virsh`.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process::{self, Process, ProcessSpec};

const READY_LIMIT: Duration = Duration::from_secs(60);
const VIRSH_LIMIT: Duration = Duration::from_secs(60);
/// Where clients find it. The socket is the lab's own: its folders are mounted over the machine's.
pub(super) const URI: &str = "qemu:///system";

/// A running libvirtd; killed when dropped. Its virtual servers go with the lab's process namespace.
#[derive(Debug)]
pub(super) struct Libvirt {
    process: Process,
}

impl Libvirt {
    /// Starts it, with a storage pool for virtual media in `folder`.
    pub(super) async fn start(folder: &Path, logs: &Path) -> Result<Self> {
        let media = folder.join("media");
        std::fs::create_dir_all(&media).map_err(Error::file("create", &media))?;
        let spec = ProcessSpec::new("libvirtd", "/usr/sbin/libvirtd", logs.join("libvirtd.log"))
            .flag("pid-file", folder.join("libvirtd.pid"));
        let mut process = Process::spawn(spec)?;
        process
            .wait_ready("libvirtd to answer", READY_LIMIT, async || {
                virsh(["list", "--all"]).await.map(drop).map_err(|error| error.to_string())
            })
            .await?;
        let target = media.display().to_string();
        virsh(["pool-define-as", "default", "dir", "--target", &target]).await?;
        virsh(["pool-start", "default"]).await?;
        Ok(Self { process })
    }

    pub(super) fn check(&mut self) -> Result<()> {
        self.process.check()
    }
}

/// Runs `virsh` and returns what it printed.
pub(super) async fn virsh<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<String> {
    let mut command = tokio::process::Command::new("virsh");
    command.args(["--quiet", "--connect", URI]).args(arguments);
    process::run(command, VIRSH_LIMIT).await
}

/// Makes libvirt know a domain.
pub(super) async fn define(xml: &Path) -> Result<()> {
    virsh([OsStr::new("define"), xml.as_os_str()]).await.map(drop)
}

/// Whether a domain runs, as libvirt knows it.
pub(super) async fn is_on(name: &str) -> Result<bool> {
    Ok(virsh(["domstate", name]).await?.trim() == "running")
}
