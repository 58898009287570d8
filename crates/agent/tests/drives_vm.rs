//! The real agent as the first process of a virtual machine with NVMe drives and an ATA drive: they are erased by their own
//! commands, through Linux's drivers. Needs QEMU, and the kernel and initramfs of the agent image:
//!
//! `FERRIC_AGENT_IMAGE=<folder> FERRIC_AGENT=<static agent> cargo test -p ferric-agent --test drives_vm -- --ignored`
//!
//! Without `FERRIC_AGENT` the agent of the image runs.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ferric_protocol::v1::{
    Clean, CleanMode, CleanScope, DiskEvidence, Power, PowerAction, RootDeviceHints, Task, task::Work,
    task_result::Outcome,
};
use support::{FROM_VM, NOW, Provider, Session};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 256 * MIB;
const SECRET: &[u8] = b"a tenant's secret 0123456789abcdef";
/// An emulated processor boots Linux in half a minute, or in some minutes where others compute beside it.
const BOOT: Duration = Duration::from_secs(240);
const MAC: &str = "52:54:00:12:34:56";

/// A virtual machine; it ends with this.
struct Vm(Child);

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A disk full of something, with secrets here and there.
fn disk(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, vec![0xa5; SIZE as usize]).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    for at in (MIB / 2..SIZE).step_by(7 * MIB as usize + 333) {
        file.write_all_at(SECRET, at).unwrap();
    }
    path
}

fn secrets(path: &Path) -> usize {
    // The first byte decides nearly always; `windows` alone takes minutes in a debug build.
    let bytes = fs::read(path).unwrap();
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == SECRET[0]);
    starts.filter(|(at, _)| bytes[*at..].starts_with(SECRET)).count()
}

/// An archive (cpio, "newc") with one executable.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, mode, content) in [(name, 0o100_755, content), ("TRAILER!!!", 0, &[][..])] {
        let fields = [1, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        bytes.extend_from_slice(b"070701");
        fields.iter().for_each(|field| bytes.extend_from_slice(format!("{field:08x}").as_bytes()));
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn start(folder: &Path, image: &Path, disks: &[PathBuf; 5], arguments: &str) -> Vm {
    let mut initrd = fs::read(image.join("initrd.img")).unwrap();
    if let Some(agent) = std::env::var_os("FERRIC_AGENT") {
        // What comes later in an initramfs replaces what came before.
        initrd.resize(initrd.len().next_multiple_of(512), 0);
        initrd.extend(archive("init", &fs::read(agent).unwrap()));
    }
    let combined = folder.join("initrd.img");
    fs::write(&combined, initrd).unwrap();
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", "pc", "-accel", "tcg", "-m", "512", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(image.join("vmlinuz")).arg("-initrd").arg(combined);
    // An address comes by DHCP. There is no source of random numbers: neither the processor nor a device is one.
    command.args(["-append", &format!("console=ttyS0 quiet {arguments}")]);
    command.args(["-nic", &format!("user,model=virtio-net-pci,mac={MAC}")]);
    command.arg("-serial").arg(format!("file:{}", folder.join("serial.log").display()));
    for (number, path) in disks.iter().enumerate() {
        command.args([
            "-drive",
            &format!("file={},format=raw,if=none,discard=unmap,id=d{number}", path.display()),
        ]);
    }
    command.args(["-device", "ide-hd,serial=ata,drive=d3"]);
    command.args(["-device", "virtio-blk-pci,serial=virtio,drive=d4"]);
    command.args(["-device", "nvme,serial=alone,drive=d0"]);
    command.args(["-device", "nvme,serial=shared,id=shared"]);
    command.args(["-device", "nvme-ns,drive=d1,bus=shared,nsid=1"]);
    command.args(["-device", "nvme-ns,drive=d2,bus=shared,nsid=2"]);
    Vm(command.stdin(Stdio::null()).spawn().unwrap())
}

async fn clean(session: &mut Session, id: &str, clean: Clean) -> Vec<DiskEvidence> {
    let task = Task { id: id.into(), work: Some(Work::Clean(clean)) };
    let began = Instant::now();
    let outcome = session.complete(&task).await;
    match outcome {
        Outcome::Clean(result) => {
            for disk in &result.disks {
                println!("{id}: {disk:#?}");
            }
            println!("{id}: {:.1} s", began.elapsed().as_secs_f32());
            result.disks
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs QEMU and the agent image: FERRIC_AGENT_IMAGE"]
async fn drives_are_erased_by_their_own_commands_and_others_are_not_touched() {
    let image = PathBuf::from(std::env::var_os("FERRIC_AGENT_IMAGE").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let disks = ["alone", "first", "second", "ata", "virtio"].map(|name| disk(folder.path(), name));
    let [alone, first, second, ata, virtio] = &disks;
    assert!(disks.iter().all(|disk| secrets(disk) > 30));
    let untouched = fs::read(first).unwrap();

    let mut provider = Provider::start().await;
    let arguments = provider
        .boot_by(&format!("{FROM_VM}:{}", provider.relay.address.port()), NOW + 3600)
        .to_kernel_args();
    let mut vm = start(folder.path(), &image, &disks, &arguments);
    let serial = || fs::read_to_string(folder.path().join("serial.log")).unwrap_or_default();
    let Some(mut session) = provider.session_within(BOOT).await else { panic!("{}", serial()) };
    session.hello().await;

    // Mode full, of the root disk.
    let hints = RootDeviceHints { serial_number: Some("alone".into()), ..RootDeviceHints::default() };
    let task = Clean {
        mode: CleanMode::Full.into(),
        scope: CleanScope::Root.into(),
        root_device_hints: Some(hints),
        ..Clean::default()
    };
    let evidence = clean(&mut session, "root", task).await;
    let (erased, others): (Vec<_>, Vec<_>) = evidence.into_iter().partition(|disk| disk.serial == "alone");
    assert_eq!((erased[0].method.as_str(), erased[0].bytes), ("nvme-format-user-data-erase", SIZE));
    assert!(erased[0].attempts.iter().any(|attempt| attempt.method == "nvme-sanitize-crypto-erase"));
    assert_eq!(others.len(), 4);
    assert!(others.iter().all(|disk| disk.method == "untouched"));

    // Mode full, of one of two namespaces of a controller.
    let inventory = provider.registered().remove(0).1;
    let named =
        inventory.disks.iter().find(|disk| disk.serial_number == "shared" && disk.nvme_namespace_id == 2);
    let devices = vec![named.unwrap().name.clone()];
    let task = Clean { mode: CleanMode::Full.into(), devices, ..Clean::default() };
    let evidence = clean(&mut session, "namespace", task).await;
    assert_eq!(evidence[0].method, "nvme-format-user-data-erase");
    // Mode full, of an ATA drive, which says through SG_IO that it has none of its own methods.
    let named = inventory.disks.iter().find(|disk| disk.serial_number == "ata").unwrap();
    let task = Clean { mode: CleanMode::Full.into(), devices: vec![named.name.clone()], ..Clean::default() };
    let evidence = clean(&mut session, "ata", task).await;
    assert_eq!((evidence[0].method.as_str(), evidence[0].verified_bytes), ("overwrite", SIZE));
    let secure = evidence[0].attempts.iter().find(|attempt| attempt.method == "ata-secure-erase").unwrap();
    assert_eq!(secure.reason, "the drive does not offer the security feature set");
    // Mode full, of a disk without commands of its own that can zero itself.
    let named = inventory.disks.iter().find(|disk| disk.serial_number == "virtio").unwrap();
    let task = Clean { mode: CleanMode::Full.into(), devices: vec![named.name.clone()], ..Clean::default() };
    let evidence = clean(&mut session, "virtio", task).await;
    assert_eq!(evidence[0].method, "deallocate");
    assert!(evidence[0].attempts.is_empty() && evidence[0].verified_bytes < SIZE);
    // Mode metadata of all: the rest of the first namespace stays, and nothing else is claimed.
    let task = Clean { mode: CleanMode::Metadata.into(), scope: CleanScope::All.into(), ..Clean::default() };
    let evidence = clean(&mut session, "metadata", task).await;
    assert!(evidence.iter().all(|disk| disk.method == "zero-metadata" && disk.bytes < SIZE));

    let off = Work::Power(Power { action: PowerAction::PowerOff.into() });
    session.complete(&Task { id: "off".into(), work: Some(off) }).await;
    let since = Instant::now();
    let status = loop {
        if let Some(status) = vm.0.try_wait().unwrap() {
            break status;
        }
        assert!(since.elapsed() < BOOT, "it is not off: {}", serial());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(status.success(), "{}", serial());
    println!("{}", serial());

    assert_eq!([alone, second, ata, virtio].map(|disk| secrets(disk)), [0; 4]);
    assert!(secrets(first) > 20);
    let middle = SIZE as usize / 3..SIZE as usize / 2;
    assert!(fs::read(first).unwrap()[middle.clone()] == untouched[middle]);
}
