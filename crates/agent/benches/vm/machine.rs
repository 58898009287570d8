//! A virtual machine, emulated: hardware virtualisation is not to be had everywhere.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Result, net::TAP};

/// UEFI as Debian's package ovmf has it.
pub const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// How it comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// The network card's own ROM, which is iPXE.
    Bios,
    /// UEFI's own PXE, which fetches iPXE.
    Uefi,
    /// None: QEMU loads the kernel.
    None,
}

/// What there is of it.
pub struct Spec<'a> {
    pub firmware: Firmware,
    pub memory_mib: u32,
    pub disk: Option<&'a Path>,
    /// Kernel, initramfs and arguments where there is no firmware.
    pub direct: Option<(&'a Path, &'a Path, &'a str)>,
}

/// Runs until it is dropped.
pub struct Machine {
    child: Child,
    serial: PathBuf,
    pub started: Instant,
}

impl Machine {
    pub fn start(folder: &Path, spec: &Spec<'_>) -> Result<Self> {
        let serial = folder.join("serial");
        let _ = fs::remove_file(&serial);
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-accel",
            "tcg,thread=multi",
            "-machine",
            "q35",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-no-reboot",
        ])
        .args(["-display", "none", "-m", &spec.memory_mib.to_string()])
        .arg("-serial")
        .arg(format!("file:{}", serial.display()))
        .arg("-netdev")
        .arg(format!("tap,id=n0,ifname={TAP},script=no,downscript=no"))
        .args(["-device", "virtio-rng-pci"]);
        // UEFI brings a driver of its own.
        let rom = if spec.firmware == Firmware::Bios { "" } else { ",romfile=" };
        qemu.arg("-device").arg(format!("virtio-net-pci,netdev=n0,mac=52:54:00:77:00:01,bootindex=1{rom}"));
        if spec.firmware == Firmware::Uefi {
            let variables = folder.join("variables.fd");
            fs::copy(OVMF_VARS, &variables)?;
            qemu.arg("-drive").arg(format!("if=pflash,format=raw,readonly=on,file={OVMF_CODE}"));
            qemu.arg("-drive").arg(format!("if=pflash,format=raw,file={}", variables.display()));
        }
        if let Some(disk) = spec.disk {
            qemu.arg("-drive")
                .arg(format!("if=none,id=d0,format=raw,cache=unsafe,discard=unmap,file={}", disk.display()))
                .args(["-device", "virtio-blk-pci,drive=d0"]);
        }
        if let Some((kernel, initramfs, arguments)) = spec.direct {
            qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs).args(["-append", arguments]);
        }
        let started = Instant::now();
        let child = qemu.stdin(Stdio::null()).spawn()?;
        Ok(Self { child, serial, started })
    }

    /// Waits for a text on the serial port.
    pub async fn says(&self, text: &str, patience: Duration) -> Option<Duration> {
        while self.started.elapsed() < patience {
            if self.said().contains(text) {
                return Some(self.started.elapsed());
            }
            // The only way that a file has to say that it grew; short against what is measured.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// All of the serial port.
    pub fn said(&self) -> String {
        fs::read(&self.serial)
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
