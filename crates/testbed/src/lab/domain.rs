//! What a virtual server is, and how libvirt is told. Pure.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Firmware of a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// OVMF.
    Uefi,
    /// SeaBIOS.
    Bios,
}

/// What a disk is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskBus {
    /// virtio-blk.
    Virtio,
    /// virtio-scsi.
    Scsi,
    /// NVMe.
    Nvme,
}

/// A disk of a virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// What it is attached to.
    pub bus: DiskBus,
    /// Its size in bytes.
    pub size: u64,
    /// Its serial number, at most 20 characters.
    pub serial: String,
    /// A sector of 512 bytes whose writes fail with EIO, each time. On NVMe only.
    pub broken_sector: Option<u64>,
}

/// How a virtual server is reached over its BMC's protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BmcKind {
    /// Redfish, with the way of booting that this scheme of its address names, such as `redfish-virtualmedia`.
    Redfish(&'static str),
    /// Redfish that knows power and boot device only: no virtual media.
    RedfishWithoutMedia,
    /// IPMI over LAN.
    Ipmi,
    /// IPMI over LAN by a simulated BMC, and the server has one that it speaks to itself. The server tries the network before
    /// its disk at each boot.
    OwnIpmi(Wired),
    /// None at all: its network card wakes it. The server tries the network before its disk at each boot.
    WakeOnLan,
}

/// Serial number of a server in the inventory of its simulated BMC.
const SERIAL: &str = "S1234567";

/// Which simulated BMC a virtual server speaks to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wired {
    /// The one that is spoken to over LAN.
    Right,
    /// That of another server.
    Wrong,
}

/// A virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// Its name.
    pub name: String,
    /// Its firmware.
    pub firmware: Firmware,
    /// Its disks; it boots from the first.
    pub disks: Vec<DiskSpec>,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub processors: u32,
    /// How its BMC is spoken to.
    pub bmc: BmcKind,
    /// Keys and values of root device hints, such as `serialNumber` and `"disk-b"`, as YAML.
    pub hints: Vec<(String, String)>,
}

impl ServerSpec {
    /// A server with UEFI, one virtio disk and virtual media.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            firmware: Firmware::Uefi,
            disks: vec![DiskSpec {
                bus: DiskBus::Virtio,
                size: 8 << 30,
                serial: format!("{name}-a"),
                broken_sector: None,
            }],
            memory: 2048,
            processors: 2,
            bmc: BmcKind::Redfish("redfish-virtualmedia"),
            hints: Vec::new(),
        }
    }
}

/// Where a virtual server's things are, and what it is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) uuid: uuid::Uuid,
    /// Hardware addresses of its network ports, all on the lab's bridge. The first boots.
    pub(super) macs: Vec<String>,
    /// Files of its disks.
    pub(super) disks: Vec<PathBuf>,
    /// File that its serial port is written to.
    pub(super) serial: PathBuf,
    /// TCP port of the simulated BMC that it speaks to itself, on the loopback; 0 where it has none.
    pub(super) own_bmc: u16,
}

/// The name that libvirt gives to the n-th disk of a bus.
fn target(bus: DiskBus, number: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(number % 26).unwrap_or(0));
    match bus {
        DiskBus::Virtio => format!("vd{letter}"),
        DiskBus::Scsi | DiskBus::Nvme => format!("sd{letter}"),
    }
}

/// The XML of a domain.
pub(super) fn xml(spec: &ServerSpec, place: &Place) -> String {
    let mut devices = String::new();
    let mut more = String::new();
    let network_first = matches!(spec.bmc, BmcKind::OwnIpmi(_) | BmcKind::WakeOnLan);
    if matches!(spec.bmc, BmcKind::OwnIpmi(_)) {
        own_bmc(&mut more, place.own_bmc);
    }
    for (number, (disk, path)) in spec.disks.iter().zip(&place.disks).enumerate() {
        match disk.bus {
            DiskBus::Nvme => nvme(&mut more, number, disk, path),
            bus => {
                let target = target(bus, number);
                let bus = if bus == DiskBus::Virtio { "virtio" } else { "scsi" };
                let order = match (number, network_first) {
                    (0, false) => "\n      <boot order='1'/>",
                    (0, true) => "\n      <boot order='2'/>",
                    _ => "",
                };
                let _ = write!(
                    devices,
                    "
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='unsafe' discard='unmap'/>
      <source file='{}'/>
      <target dev='{target}' bus='{bus}'/>
      <serial>{}</serial>{order}
    </disk>",
                    escape(&path.display().to_string()),
                    escape(&disk.serial),
                );
            }
        }
    }
    if spec.disks.iter().any(|disk| disk.bus == DiskBus::Scsi) {
        devices.push_str("\n    <controller type='scsi' index='0' model='virtio-scsi'/>");
    }
    for (number, mac) in place.macs.iter().enumerate() {
        let order = if network_first && number == 0 { "\n      <boot order='1'/>" } else { "" };
        let _ = write!(
            devices,
            "
    <interface type='bridge'>
      <mac address='{mac}'/>
      <source bridge='lab0'/>
      <model type='virtio'/>{order}
    </interface>"
        );
    }
    let os = match spec.firmware {
        Firmware::Bios => "<os>",
        Firmware::Uefi => "<os firmware='efi'>",
    };
    let loader = match spec.firmware {
        Firmware::Bios => "<bios useserial='yes'/>",
        Firmware::Uefi => "<firmware><feature enabled='no' name='secure-boot'/></firmware>",
    };
    let commandline = if more.is_empty() {
        String::new()
    } else {
        format!("\n  <qemu:commandline>{more}\n  </qemu:commandline>")
    };
    format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>{processors}</vcpu>
  <sysinfo type='smbios'>
    <system>
      <entry name='manufacturer'>Ferric</entry>
      <entry name='product'>Lab</entry>
      <entry name='serial'>{number}</entry>
      <entry name='uuid'>{uuid}</entry>
    </system>
  </sysinfo>
  {os}
    <type arch='x86_64' machine='q35'>hvm</type>
    {loader}
    <smbios mode='sysinfo'/>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}
    <serial type='file'>
      <source path='{serial}' append='on'/>
    </serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>{commandline}
</domain>
",
        name = escape(&spec.name),
        number = match spec.bmc {
            BmcKind::OwnIpmi(Wired::Right) => SERIAL.to_owned(),
            _ => escape(&spec.name),
        },
        uuid = place.uuid,
        memory = spec.memory,
        processors = spec.processors,
        serial = escape(&place.serial.display().to_string()),
    )
}

/// A BMC that lives in another program, behind a keyboard controller style interface (IPMI 2.0, 9) at its usual place.
fn own_bmc(more: &mut String, port: u16) {
    let arguments = [
        "-chardev",
        &format!("socket,id=ipmi0,host=127.0.0.1,port={port},reconnect=2"),
        "-device",
        "ipmi-bmc-extern,id=bmc0,chardev=ipmi0",
        "-device",
        "isa-ipmi-kcs,bmc=bmc0",
    ];
    for argument in arguments {
        let _ = write!(more, "\n    <qemu:arg value='{}'/>", escape(argument));
    }
}

/// Slot of the first NVMe disk on the root bus. libvirt gives slots from the beginning on and does not know of this one;
/// q35's own devices are at 0x1f.
const NVME_SLOT: usize = 0x18;

/// libvirt has no emulated NVMe, so QEMU is told directly.
fn nvme(more: &mut String, number: usize, disk: &DiskSpec, path: &Path) {
    let faults = match disk.broken_sector {
        Some(_) => format!("blkdebug:{}:", faults_file(path).display()),
        None => String::new(),
    };
    // Behind those that libvirt gives when a BMC chooses a boot device: the same twice, and QEMU does not start.
    let order = if number == 0 { ",bootindex=100" } else { "" };
    let arguments = [
        "-drive".to_owned(),
        // A comma in a path would begin another option.
        format!(
            "file={faults}{},if=none,id=nvme{number},format=raw,cache=unsafe,discard=unmap",
            path.display().to_string().replace(',', ",,")
        ),
        "-device".to_owned(),
        format!(
            "nvme,drive=nvme{number},serial={},bus=pcie.0,addr=0x{:x}{order}",
            disk.serial,
            NVME_SLOT + number
        ),
    ];
    for argument in arguments {
        let _ = write!(more, "\n    <qemu:arg value='{}'/>", escape(&argument));
    }
}

/// Where the faults of a disk are told to QEMU.
fn faults_file(disk: &Path) -> PathBuf {
    disk.with_extension("faults")
}

/// The faults of a disk, as a file for QEMU's blkdebug (docs/devel/blkdebug.txt), and where it is to be.
pub(super) fn faults(disk: &DiskSpec, path: &Path) -> Option<(PathBuf, String)> {
    const EIO: u8 = 5;
    let sector = disk.broken_sector?;
    let text = format!(
        "[inject-error]\nevent = \"write_aio\"\niotype = \"write\"\nerrno = \"{EIO}\"\nsector = \"{sector}\"\n"
    );
    Some((faults_file(path), text))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(spec: &ServerSpec) -> Place {
        Place {
            uuid: uuid::Uuid::nil(),
            macs: vec!["52:54:00:00:00:01".to_owned()],
            disks: spec.disks.iter().map(|disk| PathBuf::from(format!("/lab/{}.raw", disk.serial))).collect(),
            serial: "/lab/it's.log".into(),
            own_bmc: 9001,
        }
    }

    #[test]
    fn a_bmc_of_its_own_is_wired() {
        let spec = ServerSpec { bmc: BmcKind::OwnIpmi(Wired::Right), ..ServerSpec::new("one") };
        let own = xml(&spec, &place(&spec));
        for part in [
            "port=9001",
            "isa-ipmi-kcs,bmc=bmc0",
            "<model type='virtio'/>\n      <boot order='1'/>",
            "order='2'",
        ] {
            assert!(own.contains(part), "{part} is not in {own}");
        }
    }

    #[test]
    fn firmware_and_disks_are_told() {
        let mut spec = ServerSpec::new("one");
        let uefi = xml(&spec, &place(&spec));
        for part in ["firmware='efi'", "bus='virtio'", "order='1'", "it&apos;s.log", "type='qemu'"] {
            assert!(uefi.contains(part), "{part} is not in {uefi}");
        }
        assert!(!uefi.contains("qemu:arg"));
        spec.firmware = Firmware::Bios;
        spec.disks = vec![
            DiskSpec { bus: DiskBus::Nvme, size: 1, serial: "n".to_owned(), broken_sector: None },
            spec.disks[0].clone(),
        ];
        let bios = xml(&spec, &place(&spec));
        for part in
            ["nvme,drive=nvme0,serial=n,bus=pcie.0,addr=0x18,bootindex=100", "file=/lab/n.raw,", "<os>"]
        {
            assert!(bios.contains(part), "{part} is not in {bios}");
        }
        assert!(!bios.contains("order='1'"), "{bios}");
    }
}
