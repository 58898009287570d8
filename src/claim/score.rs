//! Which host for a machine: the filter with a reason for every host that is passed over, the deterministic score, and
//! the sentence that is shown when no host is free.
//!
//! The order of preference is: a host that has not failed twice in a row, the rack with the fewest hosts of the same cluster
//! and owner set, then a host that stands by in our agent, then one with the machine's image on its disk, then one without
//! any, then a rendezvous hash of (machine UID, host UID). The hash makes many machines that choose at once, in one process
//! or in two, choose different hosts although they see the same fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ferric_api::condition::{self, types};
use ferric_api::host::{HostStandby, Image, OperationalStatus};
use ferric_api::{BareMetalHost, BareMetalMachine, ProvisioningState, names};
use kube::ResourceExt;

use super::selector::{Labels, Selector};
use crate::key::Key;

/// Machines that are spread over racks together: the machines of one owner set of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Group {
    /// Namespace.
    pub namespace: String,
    /// Name of the cluster.
    pub cluster: String,
    /// `control-plane`, or the name of the MachineDeployment or MachineSet; empty for a machine of its own.
    pub set: String,
}

impl Group {
    /// The group of a machine, from the labels that Cluster API gives it.
    pub fn of(machine: &BareMetalMachine) -> Self {
        let labels = machine.labels();
        let label = |key: &str| labels.get(key).cloned();
        let set = if labels.contains_key("cluster.x-k8s.io/control-plane") {
            "control-plane".to_owned()
        } else {
            label("cluster.x-k8s.io/deployment-name")
                .or_else(|| label("cluster.x-k8s.io/set-name"))
                .unwrap_or_default()
        };
        Self {
            namespace: machine.namespace().unwrap_or_default(),
            cluster: label(names::CLUSTER_NAME_LABEL).unwrap_or_default(),
            set,
        }
    }
}

/// What a machine asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Namespace that the host must be in.
    pub namespace: String,
    /// UID of the machine, for the tie-break.
    pub machine_uid: String,
    /// What the host's labels must satisfy.
    pub selector: Selector,
    /// Failure domain that the host must stand in.
    pub failure_domain: Option<String>,
    /// Which machines it is spread with.
    pub group: Group,
    /// What the machine is to run, if that is known.
    pub image: Option<Image>,
    /// The host that the machine names and that was just read as not to be had: whatever a cache says of it is older.
    pub except: Option<Key>,
}

/// Why a host is passed over. The order is that in which the reasons are looked at: a host that does not even match
/// the selector is no news when it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rejection {
    /// It is in another namespace.
    Namespace,
    /// Its labels do not match the selector.
    Selector,
    /// It stands in another failure domain, or in none.
    FailureDomain,
    /// It is being deleted.
    Deleting,
    /// No operator has approved it yet.
    NotApproved,
    /// It runs what others installed.
    ExternallyProvisioned,
    /// It has a consumer, a claim or an image of its own.
    InUse,
    /// It is quarantined.
    Quarantined,
    /// It is paused or detached.
    Paused,
    /// Its BMC is not registered.
    NotRegistered,
    /// An error stands.
    Unhealthy,
    /// It is not `available` (yet).
    State(ProvisioningState),
    /// It was just read as not to be had.
    Except,
    /// Another machine names it and is about to claim it.
    Assumed,
    /// It became free a moment ago.
    JustFreed,
}

impl Rejection {
    /// The reason as a phrase after a count of hosts.
    fn phrase(self, n: usize) -> String {
        let (is, does) = if n == 1 { ("is", "doesn't") } else { ("are", "don't") };
        match self {
            Self::Namespace => format!("{is} in other namespaces"),
            Self::Selector => format!("{does} match the selector"),
            Self::FailureDomain => format!("{is} in other failure domains"),
            Self::Deleting => format!("{is} being deleted"),
            Self::NotApproved => format!("{} for approval", if n == 1 { "waits" } else { "wait" }),
            Self::ExternallyProvisioned => format!("{is} externally provisioned"),
            Self::InUse => format!("{is} in use"),
            Self::Quarantined => format!("{is} quarantined"),
            Self::Paused => format!("{is} paused"),
            Self::NotRegistered => format!("{is} not registered"),
            Self::Unhealthy => format!("{is} unhealthy"),
            Self::State(ProvisioningState::None) => format!("{is} new"),
            Self::State(state) => format!("{is} {}", state_name(state)),
            Self::Except => format!("{is} no longer to be had"),
            Self::Assumed => format!("{is} about to be claimed"),
            Self::JustFreed => format!("{is} just freed"),
        }
    }
}

fn state_name(state: ProvisioningState) -> String {
    serde_json::to_value(state).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The failure domain that a host stands in.
pub fn failure_domain(host: &BareMetalHost) -> Option<&str> {
    let labels = host.metadata.labels.as_ref()?;
    let value = labels.get(names::FAILURE_DOMAIN_LABEL).or_else(|| labels.get(names::ZONE_LABEL))?;
    (!value.is_empty()).then_some(value)
}

/// The rack that a host stands in; without a rack label its failure domain counts as one.
pub fn rack(host: &BareMetalHost) -> Option<&str> {
    let label = host.metadata.labels.as_ref().and_then(|l| l.get(names::RACK_LABEL));
    label.map(String::as_str).filter(|r| !r.is_empty()).or_else(|| failure_domain(host))
}

/// Why nobody can have the host, whoever asks; `None` if it is free.
pub fn occupied(host: &BareMetalHost) -> Option<Rejection> {
    let spec = &host.spec;
    let record = spec.record.as_ref();
    if host.metadata.deletion_timestamp.is_some() {
        return Some(Rejection::Deleting);
    }
    if spec.waits_for_approval() {
        return Some(Rejection::NotApproved);
    }
    if spec.externally_provisioned {
        return Some(Rejection::ExternallyProvisioned);
    }
    if spec.consumer_ref.is_some() || spec.image.is_some() || record.is_some_and(|r| r.claim.is_some()) {
        return Some(Rejection::InUse);
    }
    if record.is_some_and(|r| r.quarantined.is_some()) {
        return Some(Rejection::Quarantined);
    }
    let annotated = |key: &str| host.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(key));
    if [
        names::PAUSED_ANNOTATION,
        names::METAL3_PAUSED_ANNOTATION,
        names::DETACHED_ANNOTATION,
        names::METAL3_DETACHED_ANNOTATION,
    ]
    .into_iter()
    .any(annotated)
    {
        return Some(Rejection::Paused);
    }
    let Some(status) = &host.status else { return Some(Rejection::State(ProvisioningState::None)) };
    if status.provisioning.state != ProvisioningState::Available {
        return Some(Rejection::State(status.provisioning.state));
    }
    if !condition::is_true(&status.conditions, types::REGISTERED) {
        return Some(Rejection::NotRegistered);
    }
    let unhealthy = condition::get(&status.conditions, types::HEALTHY).is_some_and(|c| c.status == "False");
    if unhealthy || status.error_type.is_some() {
        return Some(Rejection::Unhealthy);
    }
    if status.operational_status == Some(OperationalStatus::Detached) {
        return Some(Rejection::Paused);
    }
    None
}

/// Why this machine cannot have the host, with a detail for the selector; `None` if it can.
pub fn reject(ask: &Ask, host: &BareMetalHost) -> Option<(Rejection, Option<String>)> {
    if host.metadata.namespace.as_deref() != Some(ask.namespace.as_str()) {
        return Some((Rejection::Namespace, None));
    }
    if ask.except.as_ref().is_some_and(|except| *except == Key::of(host)) {
        return Some((Rejection::Except, None));
    }
    let none = Labels::new();
    if let Some(blame) = ask.selector.mismatch(host.metadata.labels.as_ref().unwrap_or(&none)) {
        return Some((Rejection::Selector, Some(blame)));
    }
    if ask.failure_domain.as_deref().is_some_and(|d| failure_domain(host) != Some(d)) {
        return Some((Rejection::FailureDomain, None));
    }
    occupied(host).map(|rejection| (rejection, None))
}

/// The better of two hosts has the smaller score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// It failed again and again: only where there is no other.
    fails: bool,
    neighbours: usize,
    readiness: Readiness,
    tie: u64,
}

/// How soon a host runs the machine's image, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Readiness {
    /// It waits in our agent.
    Running,
    /// The image is on its disk.
    Staged,
    /// It has to be started, and the image to be written.
    Off,
    /// So has this one, and what is on its disk for others is lost by it.
    StagedForOthers,
}

fn readiness(ask: &Ask, host: &BareMetalHost) -> Readiness {
    let standby = host.status.as_ref().and_then(|status| status.standby.as_ref());
    match standby.and_then(|standby| standby.state) {
        Some(HostStandby::Running) => Readiness::Running,
        Some(HostStandby::Staged) => {
            let same =
                ask.image.as_ref().zip(host.spec.staged_image.as_ref()).is_some_and(|(a, b)| a.is_same(b));
            if same { Readiness::Staged } else { Readiness::StagedForOthers }
        }
        Some(HostStandby::Off) | None => Readiness::Off,
    }
}

/// The score of a host: `neighbours` is how many hosts of the machine's group stand in the host's rack.
pub fn score(ask: &Ask, host: &BareMetalHost, neighbours: usize) -> Score {
    let uid = host.metadata.uid.as_deref().unwrap_or_default();
    // Bigger wins in rendezvous hashing; smaller wins here.
    Score {
        fails: fails(host),
        neighbours,
        readiness: readiness(ask, host),
        tie: !rendezvous(&ask.machine_uid, uid),
    }
}

/// So many failures in a row are no accident.
pub const FAILURES: u32 = 2;

/// How often the host has failed in a row since it last ran what it was given.
pub fn failures(host: &BareMetalHost) -> u32 {
    let standby = host.status.as_ref().and_then(|status| status.standby.as_ref());
    let failures = standby.and_then(|standby| standby.failures.as_ref());
    failures.map_or(0, |failures| failures.count.max(0).unsigned_abs())
}

fn fails(host: &BareMetalHost) -> bool {
    failures(host) >= FAILURES
}

/// FNV-1a over both UIDs, then the finaliser of MurmurHash3 for avalanche. Stable over versions and processes.
fn rendezvous(machine: &str, host: &str) -> u64 {
    let mut h: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in machine.bytes().chain([0]).chain(host.bytes()) {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Chooses among hosts. `neighbours` tells how many hosts of the ask's group stand in a rack, `assumed` whether
/// another machine of this process is about to claim a host.
pub fn choose<'a, H>(
    ask: &Ask,
    hosts: impl IntoIterator<Item = &'a H>,
    neighbours: impl Fn(&str) -> usize,
    assumed: impl Fn(&BareMetalHost) -> bool,
) -> Result<&'a H, NoneFree>
where
    H: AsRef<BareMetalHost> + 'a,
{
    let mut best: Option<(Score, &'a H)> = None;
    let mut none = NoneFree::new(ask);
    for entry in hosts {
        let host = entry.as_ref();
        if let Some((rejection, detail)) = reject(ask, host) {
            none.count(rejection, detail);
            continue;
        }
        if assumed(host) {
            none.count(Rejection::Assumed, None);
            continue;
        }
        let score = score(ask, host, rack(host).map_or(0, &neighbours));
        if best.as_ref().is_none_or(|(b, _)| score < *b) {
            best = Some((score, entry));
        }
    }
    best.map(|(_, host)| host).ok_or(none)
}

/// No host is free: what was looked for, and what was rejected and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoneFree {
    namespace: String,
    selector: String,
    failure_domain: Option<String>,
    rejected: BTreeMap<Rejection, usize>,
    details: BTreeSet<String>,
}

impl NoneFree {
    /// Nothing was looked at yet.
    pub fn new(ask: &Ask) -> Self {
        Self {
            namespace: ask.namespace.clone(),
            selector: ask.selector.to_string(),
            failure_domain: ask.failure_domain.clone(),
            rejected: BTreeMap::new(),
            details: BTreeSet::new(),
        }
    }

    /// Counts a rejected host.
    pub fn count(&mut self, rejection: Rejection, detail: Option<String>) {
        *self.rejected.entry(rejection).or_default() += 1;
        // A fleet of thousands has few ways not to match; the sentence shows two at most.
        if let Some(detail) = detail
            && self.details.len() < 8
        {
            self.details.insert(detail);
        }
    }

    /// How many hosts were rejected for this reason.
    pub fn rejected(&self, rejection: Rejection) -> usize {
        self.rejected.get(&rejection).copied().unwrap_or(0)
    }
}

impl fmt::Display for NoneFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no free host in namespace {}", self.namespace)?;
        if !self.selector.is_empty() {
            write!(f, " for selector {}", self.selector)?;
        }
        if let Some(domain) = &self.failure_domain {
            write!(f, " in failure domain {domain}")?;
        }
        f.write_str(": ")?;
        let mut counts: Vec<_> = self.rejected.iter().collect();
        // Most first; hosts elsewhere last, for they are the least likely remedy.
        counts.sort_by_key(|(r, n)| (**r == Rejection::Namespace, std::cmp::Reverse(**n), **r));
        let here = counts.iter().filter(|(r, _)| **r != Rejection::Namespace).count();
        if here == 0 {
            f.write_str("it holds no BareMetalHost")?;
        }
        for (i, (rejection, n)) in counts.into_iter().enumerate() {
            let host = match (i, *n) {
                (0, 1) => " host",
                (0, _) => " hosts",
                _ => "",
            };
            let sep = if i > 0 || here == 0 { ", " } else { "" };
            write!(f, "{sep}{n}{host} {}", rejection.phrase(*n))?;
            if *rejection == Rejection::Selector && !self.details.is_empty() {
                let shown: Vec<&str> = self.details.iter().take(2).map(String::as_str).collect();
                let more = if self.details.len() > 2 { "; …" } else { "" };
                write!(f, " ({}{more})", shown.join("; "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::claim::fixtures::{Hosts, ask, free_host, host};

    fn pick(ask: &Ask, hosts: &[Arc<BareMetalHost>]) -> Result<String, NoneFree> {
        choose(ask, hosts, |_| 0, |_| false).map(|h| h.name_any())
    }

    #[test]
    fn a_free_host_is_taken() {
        assert_eq!(pick(&ask("m"), &[Arc::new(free_host("a"))]).unwrap(), "a");
    }

    #[test]
    fn a_host_that_failed_twice_is_taken_only_where_there_is_no_other() {
        let failed = |name: &str, count: i32| {
            let mut host = free_host(name);
            let failures = serde_json::json!({"count": count, "lastTime": "2026-01-01T00:00:00Z", "reason": "WriteFailed"});
            let standby = serde_json::json!({ "failures": failures });
            host.status.as_mut().unwrap().standby = Some(serde_json::from_value(standby).unwrap());
            Arc::new(host)
        };
        let machines: Vec<String> = (0..32).map(|number| format!("m-{number}")).collect();
        let picked = |count: i32, alone: bool| -> BTreeSet<String> {
            let mut hosts = vec![failed("failed", count)];
            if !alone {
                hosts.push(Arc::new(free_host("other")));
            }
            let neighbours = |_: &str| 0;
            let picked =
                |machine: &String| choose(&ask(machine), &hosts, neighbours, |_| false).unwrap().name_any();
            machines.iter().map(picked).collect()
        };
        let both = BTreeSet::from(["failed".to_owned(), "other".to_owned()]);
        assert_eq!(picked(1, false), both, "once is an accident");
        assert_eq!(picked(2, false), BTreeSet::from(["other".to_owned()]));
        assert_eq!(picked(2, true), BTreeSet::from(["failed".to_owned()]));
    }

    /// One change that makes a free host not free, and what is said of it.
    type Spoiler = (fn(&mut BareMetalHost), &'static str);

    #[test]
    fn every_reason_of_rejection_is_seen_and_named() {
        let spoilers: &[Spoiler] = &[
            (|h| h.metadata.deletion_timestamp = Some(Hosts::now()), "1 host is being deleted"),
            (|h| h.spec.approval = Some(ferric_api::host::Approval::Pending), "1 host waits for approval"),
            (|h| h.spec.externally_provisioned = true, "1 host is externally provisioned"),
            (|h| h.spec.consumer_ref = Some(Default::default()), "1 host is in use"),
            (|h| h.spec.image = Some(Default::default()), "1 host is in use"),
            (|h| h.spec.record.get_or_insert_default().claim = Some(Default::default()), "1 host is in use"),
            (
                |h| h.spec.record.get_or_insert_default().quarantined = Some("smoke".into()),
                "1 host is quarantined",
            ),
            (
                |h| _ = h.annotations_mut().insert(names::PAUSED_ANNOTATION.into(), String::new()),
                "1 host is paused",
            ),
            (
                |h| _ = h.annotations_mut().insert(names::METAL3_DETACHED_ANNOTATION.into(), String::new()),
                "1 host is paused",
            ),
            (|h| h.status = None, "1 host is new"),
            (
                |h| h.status.as_mut().unwrap().provisioning.state = ProvisioningState::Inspecting,
                "1 host is inspecting",
            ),
            (|h| h.status.as_mut().unwrap().conditions.clear(), "1 host is not registered"),
            (
                |h| {
                    h.status.as_mut().unwrap().error_type = Some(ferric_api::host::ErrorType::PowerManagement)
                },
                "1 host is unhealthy",
            ),
            (
                |h| h.metadata.namespace = Some("elsewhere".into()),
                "holds no BareMetalHost, 1 host is in other namespaces",
            ),
        ];
        for (spoil, text) in spoilers {
            let mut spoiled = free_host("a");
            spoil(&mut spoiled);
            let none = pick(&ask("m"), &[Arc::new(spoiled)]).unwrap_err().to_string();
            assert!(none.contains(text), "{none:?} should say {text:?}");
        }
    }

    #[test]
    fn the_sentence_says_what_was_looked_for_and_what_was_rejected() {
        let mut ask = ask("m");
        ask.selector = Hosts::selector(&[("class", "gpu")]);
        ask.failure_domain = Some("rack-7".into());
        let gpu = |name: &str| host(name, &[("class", "gpu"), (names::ZONE_LABEL, "rack-7")]);
        let mut hosts = vec![Arc::new(free_host("x")), Arc::new(free_host("y"))];
        for name in ["a", "b", "c"] {
            let mut used = gpu(name);
            used.spec.consumer_ref = Some(Default::default());
            hosts.push(Arc::new(used));
        }
        let mut inspecting = gpu("d");
        inspecting.status.as_mut().unwrap().provisioning.state = ProvisioningState::Inspecting;
        hosts.push(Arc::new(inspecting));
        assert_eq!(
            pick(&ask, &hosts).unwrap_err().to_string(),
            "no free host in namespace ns for selector class=gpu in failure domain rack-7: 3 hosts are in use, 2 \
             don't match the selector (missing label class=gpu), 1 is inspecting"
        );
        assert_eq!(
            pick(&ask, &[]).unwrap_err().to_string(),
            "no free host in namespace ns for selector class=gpu in failure domain rack-7: it holds no BareMetalHost"
        );
    }

    #[test]
    fn the_failure_domain_is_obeyed_and_its_own_label_wins_over_the_zone() {
        let mut ask = ask("m");
        ask.failure_domain = Some("west".into());
        let zone = host("zone", &[(names::ZONE_LABEL, "west")]);
        let other = host("other", &[(names::ZONE_LABEL, "west"), (names::FAILURE_DOMAIN_LABEL, "east")]);
        assert_eq!(pick(&ask, &[Arc::new(other), Arc::new(zone)]).unwrap(), "zone");
    }

    #[test]
    fn the_emptiest_rack_wins() {
        let hosts: Vec<_> = ["r1", "r2", "r3"]
            .iter()
            .flat_map(|r| (0..5).map(move |i| Arc::new(host(&format!("{r}-{i}"), &[(names::RACK_LABEL, r)]))))
            .collect();
        let count = |rack: &str| if rack == "r2" { 1 } else { 4 };
        let chosen = choose(&ask("m"), &hosts, count, |_| false).unwrap();
        assert!(chosen.name_any().starts_with("r2"));
    }

    #[test]
    fn of_one_rack_a_host_that_stands_by_wins() {
        let mut hosts: Vec<_> = ["r1", "r2"]
            .iter()
            .flat_map(|r| (0..5).map(move |i| host(&format!("{r}-{i}"), &[(names::RACK_LABEL, r)])))
            .collect();
        for ready in ["r1-3", "r2-1"] {
            let host = hosts.iter_mut().find(|host| host.name_any() == ready).unwrap();
            let standby =
                ferric_api::host::StandbyStatus { state: Some(HostStandby::Running), ..Default::default() };
            host.status.as_mut().unwrap().standby = Some(standby);
        }
        let hosts: Vec<_> = hosts.into_iter().map(Arc::new).collect();
        for machine in 0..20 {
            let ask = ask(&format!("m{machine}"));
            let fullest = |rack: &str| usize::from(rack == "r1");
            assert_eq!(choose(&ask, &hosts, fullest, |_| false).unwrap().name_any(), "r2-1");
            let taken = |host: &BareMetalHost| host.name_any() == "r2-1";
            assert_eq!(choose(&ask, &hosts, |_| 0, taken).unwrap().name_any(), "r1-3");
        }
    }

    #[test]
    fn of_hosts_that_are_off_one_with_the_image_wins_and_one_with_another_is_spared() {
        let image =
            |url: &str| Image { url: url.to_owned(), checksum: Some("AB".repeat(32)), ..Image::default() };
        let host = |name: &str, state: Option<HostStandby>, staged: Option<&str>| {
            let mut host = free_host(name);
            host.spec.staged_image = staged.map(image);
            let standby = ferric_api::host::StandbyStatus { state, ..Default::default() };
            host.status.as_mut().unwrap().standby = Some(standby);
            Arc::new(host)
        };
        use HostStandby::{Off, Running, Staged};
        let hosts = [
            host("others", Some(Staged), Some("http://i/b")),
            host("off", Some(Off), None),
            // On its way: whether the image is there is not known yet.
            host("coming", None, Some("http://i/a")),
            host("staged", Some(Staged), Some("http://i/a")),
            host("running", Some(Running), None),
        ];
        for machine in 0..20 {
            let wanted = Image { checksum: Some("ab".repeat(32)), ..image("http://i/a") };
            let ask = Ask { image: Some(wanted), ..ask(&format!("m{machine}")) };
            let best = |without: &[&str]| {
                let taken = |host: &BareMetalHost| without.contains(&&*host.name_any());
                choose(&ask, &hosts, |_| 0, taken).unwrap().name_any()
            };
            assert_eq!(best(&[]), "running");
            assert_eq!(best(&["running"]), "staged");
            assert!(["off", "coming"].contains(&&*best(&["running", "staged"])));
            assert_eq!(best(&["running", "staged", "off", "coming"]), "others");
        }
    }

    #[test]
    fn many_machines_at_once_choose_different_hosts() {
        let hosts: Vec<_> = (0..100).map(|i| Arc::new(free_host(&format!("h{i}")))).collect();
        let chosen: BTreeSet<_> = (0..100).map(|i| pick(&ask(&format!("m{i}")), &hosts).unwrap()).collect();
        // 100 balls in 100 bins fill 63 on average; a herd would fill one.
        assert!(chosen.len() > 45, "only {} different hosts", chosen.len());
        let again: BTreeSet<_> = (0..100).map(|i| pick(&ask(&format!("m{i}")), &hosts).unwrap()).collect();
        assert_eq!(chosen, again);
    }

    #[test]
    fn a_host_that_another_machine_is_about_to_claim_is_left_alone() {
        let hosts = [Arc::new(free_host("a")), Arc::new(free_host("b"))];
        let chosen = choose(&ask("m"), &hosts, |_| 0, |h| h.name_any() == "a").unwrap();
        assert_eq!(chosen.name_any(), "b");
        let none = choose(&ask("m"), &hosts, |_| 0, |_| true).unwrap_err();
        assert_eq!(none.rejected(Rejection::Assumed), 2);
    }
}
