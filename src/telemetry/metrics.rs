//! Prometheus metrics, each named after the question that it answers. None has a label per host or per cluster: at
//! 10,000 hosts that alone would outweigh the manager. Which host is meant, its conditions and events say.

use std::time::Duration;

use ferric_api::autoscaling::NodeGroupAutoscalerStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Labels of `ferric_hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// Provisioning state.
    pub state: String,
}

/// Labels of `ferric_reconcile_duration_seconds`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReconcileLabels {
    /// Which controller: `host`, `machine`, `cluster`.
    pub controller: &'static str,
    /// `done`, `wait`, `conflict` or `error`.
    pub result: &'static str,
}

/// Label of counters by result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// What came out.
    pub result: &'static str,
}

/// Label of counters by reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// Why.
    pub reason: String,
}

/// Label of `ferric_refusals_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabel {
    /// What was asked for: `boot`, `registration`, `session` or `image`.
    pub what: &'static str,
}

/// Label of `ferric_bmc_quirk_rules`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RuleLabel {
    /// `used` or `refused`.
    pub state: &'static str,
}

/// Label of counters by kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// Kubernetes kind.
    pub kind: String,
}

/// Label of `ferric_image_bytes_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DirectionLabel {
    /// `fetched` from image servers, or `served` to agents.
    pub direction: &'static str,
}

/// Label of `ferric_standby_energy_joules_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EnergyLabel {
    /// `used`, or `saved` by being off.
    pub state: &'static str,
}

/// Labels of `ferric_node_group_replicas`. There are few groups: one for each rack and kind of server of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GroupLabels {
    /// Namespace of the NodeGroupAutoscaler.
    pub namespace: String,
    /// Its name.
    pub group: String,
    /// `current`, `desired`, `min`, `max`, `in_flight` or `usable_hosts`.
    pub what: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// Every metric of the manager. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// How many hosts are in which state?
    pub hosts: Family<StateLabel, Gauge>,
    /// How long do reconciles take, how many are there and how do they end?
    pub reconcile_duration: Family<ReconcileLabels, Histogram, fn() -> Histogram>,
    /// How many operations on BMCs, and how did they end?
    pub bmc_requests: Family<ResultLabel, Counter>,
    /// How many agents are connected now?
    pub agent_sessions: Gauge,
    /// How much image data moved?
    pub image_bytes: Family<DirectionLabel, Counter>,
    /// How did attempts to claim a host end?
    pub claims: Family<ResultLabel, Counter>,
    /// What did machines get that asked by DHCP: a boot, an address, nothing?
    pub network_boots: Family<ResultLabel, Counter>,
    /// What came of machines that nobody enrolled, where they are discovered?
    pub discoveries: Family<ResultLabel, Counter>,
    /// What was asked for by somebody who may not have it: a boot, a registration, a session, an image?
    pub refusals: Family<RefusalLabel, Counter>,
    /// How many replicas do node groups have, should have, may have?
    pub node_groups: Family<GroupLabels, Gauge>,
    /// What was decided of node groups?
    pub autoscaling_decisions: Family<ReasonLabel, Counter>,
    /// What do free hosts take, and what would they have taken, had they been on? An estimate.
    pub standby_energy: Family<EnergyLabel, Counter>,
    /// How many quirk rules for BMCs are used, and how many of the operator's are refused?
    pub bmc_quirk_rules: Family<RuleLabel, Gauge>,
    /// What goes wrong, and how often?
    pub errors: Family<ReasonLabel, Counter>,
    /// Is this replica the leader?
    pub leader: Gauge,
    /// How many Kubernetes events were dropped because the queue was full or the API server refused them?
    pub events_dropped: Counter,
    /// How many objects could not be parsed, and are therefore not seen?
    pub unparsable_objects: Family<KindLabel, Counter>,
    /// How often did a watch break?
    pub watch_failures: Family<KindLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Fresh metrics in a registry of their own.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("ferric");
        let metrics = Self {
            hosts: Family::default(),
            reconcile_duration: Family::new_with_constructor(reconcile_histogram),
            bmc_requests: Family::default(),
            agent_sessions: Gauge::default(),
            image_bytes: Family::default(),
            claims: Family::default(),
            network_boots: Family::default(),
            discoveries: Family::default(),
            refusals: Family::default(),
            node_groups: Family::default(),
            autoscaling_decisions: Family::default(),
            standby_energy: Family::default(),
            bmc_quirk_rules: Family::default(),
            errors: Family::default(),
            leader: Gauge::default(),
            events_dropped: Counter::default(),
            unparsable_objects: Family::default(),
            watch_failures: Family::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("hosts", "Hosts by provisioning state", metrics.hosts.clone());
        r.register(
            "reconcile_duration_seconds",
            "Time of a reconcile by controller and result (done, wait, conflict, error)",
            metrics.reconcile_duration.clone(),
        );
        r.register("bmc_requests", "Requests to BMCs by result", metrics.bmc_requests.clone());
        r.register("agent_sessions", "Agents connected now", metrics.agent_sessions.clone());
        r.register(
            "image_bytes",
            "Image bytes fetched from image servers and served to agents",
            metrics.image_bytes.clone(),
        );
        r.register("claims", "Attempts to claim a host by result", metrics.claims.clone());
        r.register(
            "network_boots",
            "DHCP messages by what came of them (boot, discovery, address, uninvited, unknown, unsupported, ...)",
            metrics.network_boots.clone(),
        );
        r.register(
            "discoveries",
            "Machines that nobody enrolled, by what came of them (offered, limited, discovered, refused)",
            metrics.discoveries.clone(),
        );
        r.register(
            "refusals",
            "Requests of machines that were refused, by what was asked for (boot, registration, session, image)",
            metrics.refusals.clone(),
        );
        r.register(
            "node_group_replicas",
            "Replicas of node groups (current, desired, min, max, in_flight, usable_hosts), and its hosts in quarantine (quarantined)",
            metrics.node_groups.clone(),
        );
        r.register(
            "standby_energy_joules",
            "What free hosts took (used) and what they would have taken beyond that, had they been on (saved): an estimate \
             by the annotation watts or an assumption, not a measurement",
            metrics.standby_energy.clone(),
        );
        r.register(
            "autoscaling_decisions",
            "Decisions about node groups by reason (ScaleUp, ScaleDown, ScaleUpRecommended, ScaleDownRecommended)",
            metrics.autoscaling_decisions.clone(),
        );
        r.register(
            "bmc_quirk_rules",
            "Quirk rules for BMCs by state (used, refused), built-in ones among them",
            metrics.bmc_quirk_rules.clone(),
        );
        r.register("errors", "Errors by reason", metrics.errors.clone());
        r.register("leader", "1 on the replica that holds the lease, else 0", metrics.leader.clone());
        r.register(
            "events_dropped",
            "Kubernetes events that were not delivered",
            metrics.events_dropped.clone(),
        );
        r.register(
            "unparsable_objects",
            "Objects that could not be parsed and are therefore not seen, by kind",
            metrics.unparsable_objects.clone(),
        );
        r.register(
            "watch_failures",
            "Watches that broke and were taken up again, by kind",
            metrics.watch_failures.clone(),
        );
        r.register(
            "build",
            "Version of the manager",
            Info::new(BuildLabels { version: env!("CARGO_PKG_VERSION") }),
        );
        r.register_collector(Box::new(Process));
        Self { registry, ..metrics }
    }

    /// Everything in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail; half a page is better than none if it ever does.
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            tracing::warn!(%error, "metrics could not be encoded");
        }
        text
    }

    /// Books one reconcile.
    pub fn reconciled(&self, controller: &'static str, result: &'static str, took: Duration) {
        self.reconcile_duration
            .get_or_create(&ReconcileLabels { controller, result })
            .observe(took.as_secs_f64());
    }

    /// Books what came of one DHCP message.
    pub fn network_boot(&self, result: &'static str) {
        self.network_boots.get_or_create(&ResultLabel { result }).inc();
    }

    /// Books what came of a machine that nobody enrolled: `offered`, `limited`, `discovered` or `refused`.
    pub fn discovery(&self, result: &'static str) {
        self.discoveries.get_or_create(&ResultLabel { result }).inc();
    }

    /// Books that a machine was refused what it may not have: `boot`, `registration`, `session` or `image`.
    pub fn refused(&self, what: &'static str) {
        self.refusals.get_or_create(&RefusalLabel { what }).inc();
    }

    /// Books how many quirk rules are used and refused now.
    pub fn quirk_rules(&self, used: usize, refused: usize) {
        for (state, count) in [("used", used), ("refused", refused)] {
            let gauge = self.bmc_quirk_rules.get_or_create(&RuleLabel { state });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Books what a node group's status says.
    pub fn node_group(&self, namespace: &str, group: &str, status: &NodeGroupAutoscalerStatus) {
        let numbers = [
            ("current", status.current_replicas),
            ("desired", status.desired_replicas),
            ("min", status.effective_min_replicas),
            ("max", status.effective_max_replicas),
            ("in_flight", status.in_flight),
            ("usable_hosts", status.usable_hosts),
        ];
        for (what, number) in numbers {
            self.node_group_number(namespace, group, what, number);
        }
    }

    /// Books how many hosts of a node group failed and are left alone; none where that is not known.
    pub fn node_group_quarantined(&self, namespace: &str, group: &str, hosts: Option<i32>) {
        self.node_group_number(namespace, group, "quarantined", hosts);
    }

    /// Shows nothing any more of a node group that is gone.
    pub fn node_group_gone(&self, namespace: &str, group: &str) {
        self.node_group(namespace, group, &NodeGroupAutoscalerStatus::default());
        self.node_group_quarantined(namespace, group, None);
    }

    fn node_group_number(&self, namespace: &str, group: &str, what: &'static str, number: Option<i32>) {
        let labels = GroupLabels { namespace: namespace.to_owned(), group: group.to_owned(), what };
        match number {
            Some(number) => {
                self.node_groups.get_or_create(&labels).set(number.into());
            }
            None => {
                self.node_groups.remove(&labels);
            }
        }
    }

    /// Books what free hosts took and saved, in joules since the last time.
    pub fn standby_energy(&self, used: u64, saved: u64) {
        for (state, joules) in [("used", used), ("saved", saved)] {
            self.standby_energy.get_or_create(&EnergyLabel { state }).inc_by(joules);
        }
    }

    /// Books a decision about a node group.
    pub fn decided(&self, reason: &str) {
        self.autoscaling_decisions.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    /// Books one error.
    pub fn error(&self, reason: &str) {
        self.errors.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    /// Books how an attempt to claim a host ended.
    pub fn claim(&self, result: &'static str) {
        self.claims.get_or_create(&ResultLabel { result }).inc();
    }

    /// Books how a BMC request ended.
    pub fn bmc_request(&self, result: &'static str) {
        self.bmc_requests.get_or_create(&ResultLabel { result }).inc();
    }

    /// Books image bytes; `direction` is `fetched` or `served`.
    pub fn image_bytes(&self, direction: &'static str, bytes: u64) {
        self.image_bytes.get_or_create(&DirectionLabel { direction }).inc_by(bytes);
    }

    /// A host went from one state to another; `None` is "not there". Pass `None, Some(new)` for a new host and
    /// `Some(old), None` for one that is gone.
    pub fn host_state(&self, old: Option<&str>, new: Option<&str>) {
        if old == new {
            return;
        }
        if let Some(state) = old {
            self.hosts.get_or_create(&StateLabel { state: state.to_owned() }).dec();
        }
        if let Some(state) = new {
            self.hosts.get_or_create(&StateLabel { state: state.to_owned() }).inc();
        }
    }
}

fn reconcile_histogram() -> Histogram {
    // 0.5 ms to 8 s: a reconcile does at most a few API calls.
    Histogram::new(exponential_buckets(0.0005, 4.0, 8))
}

/// Memory and CPU time of the process, read when asked for.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        if let Some(bytes) = resident_bytes() {
            let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(
                "process_resident_memory_bytes",
                "Resident memory of the process",
                None,
                gauge.metric_type(),
            )?;
            gauge.encode(metric)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let metric = encoder.encode_descriptor(
                "process_cpu_seconds",
                "CPU time of the process, user and system",
                None,
                counter.metric_type(),
            )?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

/// `VmRSS` of the process in bytes.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// User and system time of the process. The kernel counts in ticks of 1/100 s on every Linux that we run on.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses and may hold blanks; fields 14 and 15 are utime and stime.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    #[allow(clippy::cast_precision_loss)]
    Some((user + system) as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn hosts_move_between_states() {
        let metrics = Metrics::new();
        metrics.host_state(None, Some("registering"));
        metrics.host_state(None, Some("registering"));
        metrics.host_state(Some("registering"), Some("available"));
        metrics.host_state(Some("available"), Some("available"));
        let text = metrics.encode();
        assert!(text.contains("ferric_hosts{state=\"registering\"} 1\n"), "{text}");
        assert!(text.contains("ferric_hosts{state=\"available\"} 1\n"), "{text}");
    }

    #[test]
    fn what_happened_is_counted() {
        let metrics = Metrics::new();
        metrics.reconciled("host", "done", Duration::from_millis(3));
        metrics.error("BmcUnreachable");
        metrics.claim("claimed");
        metrics.bmc_request("ok");
        metrics.image_bytes("served", 4096);
        metrics.quirk_rules(9, 2);
        metrics.quirk_rules(8, 0);
        metrics.standby_energy(90, 1400);
        metrics.standby_energy(10, 0);
        metrics.node_group_quarantined("racks", "a", Some(1));
        metrics.node_group_quarantined("racks", "b", Some(1));
        metrics.node_group_quarantined("racks", "b", None);
        let text = metrics.encode();
        for line in [
            "ferric_reconcile_duration_seconds_count{controller=\"host\",result=\"done\"} 1",
            "ferric_errors_total{reason=\"BmcUnreachable\"} 1",
            "ferric_claims_total{result=\"claimed\"} 1",
            "ferric_bmc_requests_total{result=\"ok\"} 1",
            "ferric_image_bytes_total{direction=\"served\"} 4096",
            "ferric_bmc_quirk_rules{state=\"used\"} 8",
            "ferric_bmc_quirk_rules{state=\"refused\"} 0",
            "ferric_standby_energy_joules_total{state=\"used\"} 100",
            "ferric_standby_energy_joules_total{state=\"saved\"} 1400",
            "ferric_node_group_replicas{namespace=\"racks\",group=\"a\",what=\"quarantined\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn of_a_group_that_is_gone_nothing_is_left() {
        let metrics = Metrics::new();
        let status = NodeGroupAutoscalerStatus {
            current_replicas: Some(1),
            desired_replicas: Some(2),
            effective_min_replicas: Some(0),
            effective_max_replicas: Some(3),
            in_flight: Some(1),
            usable_hosts: Some(4),
            ..NodeGroupAutoscalerStatus::default()
        };
        for group in ["a", "b"] {
            metrics.node_group("racks", group, &status);
            metrics.node_group_quarantined("racks", group, Some(0));
        }
        metrics.node_group_gone("racks", "b");
        let text = metrics.encode();
        assert_eq!(text.matches("group=\"a\"").count(), 7, "{text}");
        assert_eq!(text.matches("group=\"b\"").count(), 0, "{text}");
    }

    #[test]
    fn the_process_is_measured() {
        assert!(resident_bytes().unwrap() > 100_000);
        assert!(cpu_seconds().unwrap() >= 0.0);
        assert!(Metrics::new().encode().contains("process_resident_memory_bytes "));
    }
}
