//! What a fleet is made of.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A fleet of simulated servers.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// How many servers.
    pub count: usize,
    /// Servers are called `<prefix><number>`, the number padded with zeros.
    pub prefix: String,
    /// How many racks the servers stand in, in turn.
    pub racks: usize,
    /// Hardware classes; servers of one rack take them in turn.
    pub classes: Vec<HardwareClass>,
    /// Address of the first server's BMC, in 127.0.0.0/8; the others follow it.
    pub base_address: Ipv4Addr,
    /// Port of every BMC; 0 takes a free one.
    pub port: u16,
    /// UDP port on which every BMC speaks IPMI as well; 0 takes a free one, `None` for Redfish alone.
    pub ipmi_port: Option<u16>,
    /// Everything that looks random (UUIDs, passwords, jitter) follows from it.
    pub seed: u64,
    /// What the disks are.
    pub disks: DiskMode,
    /// How long things take.
    pub delays: Delays,
    /// Folder for everything that must survive a restart of the simulator: disks, the fleet's CA, node identities.
    pub state_dir: PathBuf,
    /// Folders with the programs that control-plane hosts run: `etcd`, `kube-apiserver`, `kube-controller-manager`,
    /// `kubeadm`, `fakekubelet`. The first folder that has a program wins.
    pub binaries: Vec<PathBuf>,
    /// How often a running node renews its lease; `None` for never.
    pub node_heartbeat: Option<Duration>,
    /// How often a running node looks for its pods, which then run or are gone; `None` for never.
    pub node_pods: Option<Duration>,
}

impl FleetConfig {
    /// `count` servers of one class in one rack, fast, with disks in `state_dir`, on a free port.
    pub fn new(count: usize, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            count,
            prefix: "host-".to_owned(),
            racks: 1,
            classes: vec![HardwareClass::default()],
            base_address: Ipv4Addr::new(127, 64, 0, 1),
            port: 0,
            ipmi_port: None,
            seed: 1,
            disks: DiskMode::File,
            delays: Delays::default(),
            state_dir: state_dir.into(),
            binaries: Vec::new(),
            node_heartbeat: None,
            node_pods: None,
        }
    }
}

/// What the servers' disks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskMode {
    /// Sparse files `<state_dir>/servers/<name>/<disk>.img`. They hold what was written, and boot only if it does.
    #[default]
    File,
    /// Memory, in which blocks that are equal on any of the disks are held once: for benchmarks with thousands of
    /// servers. Gone when the simulator ends.
    Counting,
}

/// How long things take. Each is varied by up to a quarter, by the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delays {
    /// From the command until the power reads as on.
    pub power_on: Duration,
    /// From the command until the power reads as off.
    pub power_off: Duration,
    /// Firmware's self test: from power on to the first boot source.
    pub post: Duration,
    /// Between two tries of a boot source that does not answer.
    pub boot_retry: Duration,
    /// From the boot loader on the disk to the operating system's first work.
    pub os_start: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            power_on: Duration::from_millis(20),
            power_off: Duration::from_millis(20),
            post: Duration::from_millis(100),
            boot_retry: Duration::from_millis(500),
            os_start: Duration::from_millis(50),
        }
    }
}

impl Delays {
    /// No delay at all, for benchmarks.
    #[must_use]
    pub fn none() -> Self {
        let zero = Duration::ZERO;
        Self {
            power_on: zero,
            power_off: zero,
            post: zero,
            boot_retry: Duration::from_millis(100),
            os_start: zero,
        }
    }

    /// About what servers on a rack take: minutes of self test.
    #[must_use]
    pub fn realistic() -> Self {
        Self {
            power_on: Duration::from_secs(3),
            power_off: Duration::from_secs(5),
            post: Duration::from_secs(180),
            boot_retry: Duration::from_secs(5),
            os_start: Duration::from_secs(25),
        }
    }
}

/// A kind of server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HardwareClass {
    /// Name; becomes a label of the host.
    pub name: String,
    /// Model of the server.
    pub model: String,
    /// Processor architecture as Kubernetes says it: `amd64` or `arm64`.
    pub cpu_arch: String,
    /// Model of the processor.
    pub cpu_model: String,
    /// Processor sockets.
    pub sockets: u32,
    /// Cores of one processor.
    pub cores_per_socket: u32,
    /// Threads of one core.
    pub threads_per_core: u32,
    /// Clock of the processor.
    pub clock_mhz: u32,
    /// Memory.
    pub memory_gib: u32,
    /// Network ports; the server boots from the first.
    pub nics: u32,
    /// Disks; firmware boots from the first.
    pub disks: Vec<DiskClass>,
    /// GPUs of NVIDIA.
    pub gpus: u32,
    /// The family of its BMC.
    pub bmc: Family,
}

/// Whose BMC's Redfish is imitated: paths, words, tags, sessions and answers; a table each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Nobody's: all that the provider can use.
    #[default]
    Plain,
    /// Dell iDRAC 9.
    Idrac,
    /// HPE iLO 5.
    Ilo,
    /// Lenovo XCC.
    Xcc,
    /// Supermicro.
    Supermicro,
    /// AMI MegaRAC: boot override in a settings resource, `If-Match` demanded.
    Megarac,
    /// Nobody's: boots only by entries of the firmware's list.
    Listed,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Plain, Self::Idrac, Self::Ilo, Self::Xcc, Self::Supermicro, Self::Megarac, Self::Listed];

    /// Its name, as it is given on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Idrac => "idrac",
            Self::Ilo => "ilo",
            Self::Xcc => "xcc",
            Self::Supermicro => "supermicro",
            Self::Megarac => "megarac",
            Self::Listed => "listed",
        }
    }
}

impl std::str::FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|family| family.name() == text);
        found.ok_or_else(|| format!("{text:?} is no family of BMCs; there are {}", names()))
    }
}

impl Default for HardwareClass {
    fn default() -> Self {
        Self {
            name: "standard".to_owned(),
            model: "Sim 1U".to_owned(),
            cpu_arch: "amd64".to_owned(),
            cpu_model: "Simulated CPU @ 2.40GHz".to_owned(),
            sockets: 2,
            cores_per_socket: 8,
            threads_per_core: 2,
            clock_mhz: 2400,
            memory_gib: 64,
            nics: 2,
            disks: vec![DiskClass::default()],
            gpus: 0,
            bmc: Family::Plain,
        }
    }
}

impl HardwareClass {
    /// A class that differs from the default in its name and sizes.
    #[must_use]
    pub fn sized(name: &str, cores: u32, memory_gib: u32, disk_bytes: u64) -> Self {
        Self {
            name: name.to_owned(),
            sockets: 1,
            cores_per_socket: cores,
            memory_gib,
            disks: vec![DiskClass { size_bytes: disk_bytes, ..DiskClass::default() }],
            ..Self::default()
        }
    }
}

/// A kind of disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DiskClass {
    /// Size; a multiple of 1 MiB keeps partition tools happy.
    pub size_bytes: u64,
    /// Model.
    pub model: String,
    /// Maker.
    pub vendor: String,
    /// What it is.
    pub kind: DiskKind,
}

impl Default for DiskClass {
    fn default() -> Self {
        Self {
            size_bytes: 64 << 20,
            model: "SimDisk".to_owned(),
            vendor: "FERRIC".to_owned(),
            kind: DiskKind::Ssd,
        }
    }
}

/// What a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskKind {
    /// Rotating, SATA.
    Hdd,
    /// Solid state, SATA.
    Ssd,
    /// Solid state, NVMe.
    Nvme,
}

impl std::str::FromStr for DiskKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "hdd" => Ok(Self::Hdd),
            "ssd" => Ok(Self::Ssd),
            "nvme" => Ok(Self::Nvme),
            other => Err(format!("unknown kind of disk {other:?}: use hdd, ssd or nvme")),
        }
    }
}
