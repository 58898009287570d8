//! What a machine of a template will offer as a node, from the hosts that it may be put on: cluster-autoscaler reads it to
//! scale a group from zero.
//!
//! cluster-autoscaler takes `status.capacity` for what pods can be given, so it is published net of what a node keeps for
//! itself. It reads the map as strings only: one number in it, and it drops all of it without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ferric_api::hardware::HardwareDetails;
use ferric_api::machine::{BareMetalMachineTemplateStatus, NodeInfo};

/// Resources of GPUs by the PCI vendor of the card: the names that the vendors' device plugins give.
const GPU_RESOURCES: [(&str, &str); 2] = [("10de", "nvidia.com/gpu"), ("1002", "amd.com/gpu")];

/// The pods that a kubelet takes unless told otherwise (`maxPods` of its configuration).
pub(super) const MAX_PODS: i64 = 110;
/// What the kubelet evicts pods for: its default `evictionHard` of `memory.available`, in MiB.
const EVICTION_MEBIBYTES: i64 = 100;
/// Memory that kernel and firmware keep, as one in so many.
const KERNEL_SHARE: i64 = 50;

/// What one server is to a scheduler.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Logical processors.
    pub cpus: i64,
    /// Memory in mebibytes.
    pub memory_mebibytes: i64,
    /// GPUs by the name of their resource.
    pub gpus: BTreeMap<&'static str, i64>,
    /// Architecture as Kubernetes says it: `amd64`, `arm64`.
    pub architecture: String,
}

impl Shape {
    /// What inspection found of a server; none where processors or memory are not known.
    #[must_use]
    pub fn of(hardware: &HardwareDetails) -> Option<Self> {
        if hardware.cpu.count <= 0 || hardware.ram_mebibytes <= 0 {
            return None;
        }
        let mut gpus = BTreeMap::new();
        for gpu in hardware.gpus.iter().flatten() {
            let known = GPU_RESOURCES.iter().find(|(vendor, _)| gpu.vendor_id.eq_ignore_ascii_case(vendor));
            if let Some((_, resource)) = known {
                *gpus.entry(*resource).or_default() += 1;
            }
        }
        Some(Self {
            cpus: hardware.cpu.count,
            memory_mebibytes: hardware.ram_mebibytes,
            gpus,
            architecture: architecture(&hardware.cpu.arch).to_owned(),
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} CPUs, {} MiB", self.cpus, self.memory_mebibytes)?;
        for (resource, count) in &self.gpus {
            write!(f, ", {count} {resource}")?;
        }
        match self.architecture.as_str() {
            "" => Ok(()),
            architecture => write!(f, ", {architecture}"),
        }
    }
}

/// `GOARCH` of what `uname -m` says; what is not known stays as it is.
fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What a node keeps for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Mebibytes.
    pub memory_mebibytes: i64,
}

impl Reserve {
    /// What nodes of such a size keep as a rule: of processors 6 % of the first, 1 % of the second, 0.5 % of the next two
    /// and 0.25 % of the others; of memory 255 MiB and 11 MiB a pod (what managed Kubernetes services reserve: GKE for
    /// processors, EKS for memory), the kubelet's eviction threshold, and 2 % for kernel and firmware. Never more than a
    /// half.
    #[must_use]
    pub fn usual(shape: &Shape) -> Self {
        let of = |from: i64, to: i64| (shape.cpus.min(to) - from).max(0);
        // In hundred-thousandths, so that a quarter of a per cent is a whole number.
        let cpu = of(0, 1) * 6000 + of(1, 2) * 1000 + of(2, 4) * 500 + of(4, i64::MAX) * 250;
        let memory = 255
            + 11 * MAX_PODS
            + EVICTION_MEBIBYTES
            + (shape.memory_mebibytes + KERNEL_SHARE - 1) / KERNEL_SHARE;
        Self { cpu_milli: (cpu + 99) / 100, memory_mebibytes: memory.min(shape.memory_mebibytes / 2) }
    }

    /// Reads the annotation `node-reserve`: `cpu=200m,memory=2Gi`. What is not said is as usual.
    pub fn parse(text: &str, shape: &Shape) -> Result<Self, ReserveError> {
        let mut reserve = Self::usual(shape);
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let bad = || ReserveError { part: part.chars().take(64).collect() };
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            let number = |suffix: &str| value.trim().strip_suffix(suffix).and_then(|n| n.parse::<u32>().ok());
            match name.trim() {
                "cpu" => {
                    let milli =
                        number("m").map(i64::from).or_else(|| number("").map(|n| i64::from(n) * 1000));
                    reserve.cpu_milli = milli.ok_or_else(bad)?;
                }
                "memory" => {
                    let mebibytes =
                        number("Mi").map(i64::from).or_else(|| number("Gi").map(|n| i64::from(n) * 1024));
                    reserve.memory_mebibytes = mebibytes.ok_or_else(bad)?;
                }
                _ => return Err(bad()),
            }
        }
        Ok(reserve)
    }
}

/// The annotation cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{part:?} is no reserve: write cpu=<cores or thousandths as 200m> and memory=<Mi or Gi>, e.g. cpu=200m,memory=2Gi"
)]
pub struct ReserveError {
    part: String,
}

/// What the machines of a template will offer.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// To be published.
    pub status: BareMetalMachineTemplateStatus,
    /// What is wrong with it, for people.
    pub warning: Option<String>,
}

/// What a machine of a template will offer, whichever of these hosts it is put on: of each resource the least. Nothing where
/// no host is known. `reserve` is the template's annotation.
#[must_use]
pub fn offer(shapes: impl IntoIterator<Item = Shape>, reserve: Option<&str>) -> Offer {
    let mut kinds: BTreeMap<Shape, usize> = BTreeMap::new();
    for shape in shapes {
        *kinds.entry(shape).or_default() += 1;
    }
    let Some(least) = least(kinds.keys()) else {
        return Offer { status: BareMetalMachineTemplateStatus::default(), warning: None };
    };
    let mut warnings = Vec::new();
    let reserve = match reserve.map(|text| Reserve::parse(text, &least)) {
        None => Reserve::usual(&least),
        Some(Ok(reserve)) => reserve,
        Some(Err(error)) => {
            warnings.push(format!("the annotation is not used: {error}"));
            Reserve::usual(&least)
        }
    };
    if kinds.len() > 1 {
        let kinds: Vec<String> = kinds.iter().map(|(shape, count)| format!("{count} of {shape}")).collect();
        warnings.push(format!(
            "the hosts that hostSelector matches differ ({}): the least of each resource is published; select one kind of \
             server per template",
            kinds.join("; ")
        ));
    }
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), format!("{}m", (least.cpus * 1000 - reserve.cpu_milli).max(0))),
        ("memory".to_owned(), format!("{}Mi", (least.memory_mebibytes - reserve.memory_mebibytes).max(0))),
    ]);
    capacity.extend(least.gpus.iter().map(|(resource, count)| ((*resource).to_owned(), count.to_string())));
    let node_info = (!least.architecture.is_empty())
        .then(|| NodeInfo { architecture: least.architecture, operating_system: "linux".to_owned() });
    Offer {
        status: BareMetalMachineTemplateStatus { capacity, node_info },
        warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
    }
}

/// Of each resource the least; a GPU only where all have one, an architecture only where all have the same.
fn least<'a>(shapes: impl Iterator<Item = &'a Shape> + Clone) -> Option<Shape> {
    let mut least = shapes.clone().next()?.clone();
    let mut architectures = BTreeSet::new();
    for shape in shapes {
        least.cpus = least.cpus.min(shape.cpus);
        least.memory_mebibytes = least.memory_mebibytes.min(shape.memory_mebibytes);
        least.gpus = least
            .gpus
            .iter()
            .filter_map(|(resource, count)| Some((*resource, *count.min(shape.gpus.get(resource)?))))
            .collect();
        architectures.insert(&shape.architecture);
    }
    if architectures.len() > 1 {
        least.architecture.clear();
    }
    Some(least)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::hardware::{Cpu, Gpu};
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn hardware(cpus: i64, mebibytes: i64, gpus: &[&str]) -> HardwareDetails {
        HardwareDetails {
            cpu: Cpu { count: cpus, arch: "x86_64".to_owned(), ..Cpu::default() },
            ram_mebibytes: mebibytes,
            gpus: Some(gpus.iter().map(|id| Gpu { vendor_id: (*id).to_owned(), ..Gpu::default() }).collect()),
            ..HardwareDetails::default()
        }
    }

    fn shape(cpus: i64, mebibytes: i64, gpus: &[&str]) -> Shape {
        Shape::of(&hardware(cpus, mebibytes, gpus)).unwrap()
    }

    /// The figures for processors are those of GKE's documentation, "Allocatable CPU resources".
    #[rstest]
    #[case(1, 60)]
    #[case(2, 70)]
    #[case(4, 80)]
    #[case(8, 90)]
    #[case(64, 230)]
    fn processors_kept(#[case] cpus: i64, #[case] milli: i64) {
        assert_eq!(Reserve::usual(&shape(cpus, 65_536, &[])).cpu_milli, milli);
    }

    #[rstest]
    #[case(65_536, 255 + 1210 + 100 + 1311)]
    #[case(1024, 512)]
    fn memory_kept(#[case] mebibytes: i64, #[case] kept: i64) {
        assert_eq!(Reserve::usual(&shape(8, mebibytes, &[])).memory_mebibytes, kept);
    }

    #[test]
    fn one_kind_of_server() {
        let gpu_server = || shape(64, 524_288, &["10de", "10DE", "1a03"]);
        let offer = offer([gpu_server(), gpu_server()], None);
        let said: Vec<_> = offer.status.capacity.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(said, ["cpu=63770m", "memory=512237Mi", "nvidia.com/gpu=2"]);
        let info = offer.status.node_info.unwrap();
        assert_eq!((info.architecture.as_str(), info.operating_system.as_str()), ("amd64", "linux"));
        assert_eq!(offer.warning, None);
    }

    #[test]
    fn no_host_offers_nothing() {
        assert_eq!(offer([], None).status, BareMetalMachineTemplateStatus::default());
        assert_eq!(Shape::of(&hardware(0, 1024, &[])), None);
        assert_eq!(Shape::of(&hardware(8, 0, &[])), None);
    }

    #[test]
    fn of_different_servers_the_least_and_a_warning() {
        let mut arm = shape(96, 32_768, &[]);
        arm.architecture = "arm64".to_owned();
        let offer = offer([shape(32, 65_536, &["1002", "1002"]), arm], Some("cpu=1,memory=1Gi"));
        assert_eq!(offer.status.capacity["cpu"], "31000m");
        assert_eq!(offer.status.capacity["memory"], "31744Mi");
        assert_eq!(offer.status.capacity.len(), 2, "not every server has a GPU");
        assert_eq!(offer.status.node_info, None);
        let warning = offer.warning.unwrap();
        assert!(warning.contains("1 of 96 CPUs, 32768 MiB, arm64"), "{warning}");
    }

    #[rstest]
    #[case("", Some((90, 2876)))]
    #[case("cpu=250m", Some((250, 2876)))]
    #[case(" memory=512Mi , cpu=2 ", Some((2000, 512)))]
    #[case("cpu", None)]
    #[case("cpu=-1", None)]
    #[case("memory=1", None)]
    #[case("disk=1Gi", None)]
    fn annotations(#[case] text: &str, #[case] expected: Option<(i64, i64)>) {
        let shape = shape(8, 65_536, &[]);
        let found = Reserve::parse(text, &shape).ok().map(|r| (r.cpu_milli, r.memory_mebibytes));
        assert_eq!(found, expected);
        assert_eq!(offer([shape], Some(text)).warning.is_some(), expected.is_none());
    }

    proptest! {
        /// What is published is never more than any of the hosts has, and is text that is a quantity.
        #[test]
        fn never_more_than_there_is(hosts in prop::collection::vec((1i64..512, 1i64..4_000_000, 0usize..8), 1..20), annotation in "\\PC{0,30}") {
            let shapes: Vec<Shape> = hosts.iter().map(|(c, m, g)| shape(*c, *m, &vec!["10de"; *g])).collect();
            let offer = offer(shapes.clone(), Some(&annotation));
            let number = |name: &str, suffix: &str| {
                offer.status.capacity.get(name).map_or(0, |v| v.strip_suffix(suffix).unwrap().parse::<i64>().unwrap())
            };
            for shape in &shapes {
                prop_assert!((0..=shape.cpus * 1000).contains(&number("cpu", "m")));
                prop_assert!((0..=shape.memory_mebibytes).contains(&number("memory", "Mi")));
                prop_assert!(number("nvidia.com/gpu", "") <= shape.gpus.get("nvidia.com/gpu").copied().unwrap_or(0));
            }
        }
    }
}
