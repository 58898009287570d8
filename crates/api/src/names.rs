//! Names that appear in other people's objects: labels, annotations, finalizers.

/// Annotation: while present, the host is not touched at all (value is free text, a reason is welcome).
pub const PAUSED_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/paused";
/// Annotation: the host is left alone, and its deletion releases it without powering it off.
pub const DETACHED_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/detached";
/// Annotation: asks for a reboot; removed when done. A suffix `…/reboot-<key>` keeps the host off until removed.
pub const REBOOT_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/reboot";
/// Annotation: asks for a new inspection; removed when it starts.
pub const INSPECT_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/inspect";
/// Annotation: cuts the back-off short once; removed when read.
pub const RETRY_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/retry";
/// Annotation: value is the current claim ID; lets the consumer go although the BMC is dead, quarantines the host.
pub const ABANDON_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/abandon";
/// Annotation: value `adopt` or `release`; decides what happens to a host that has a consumer but no usable record.
pub const DECIDE_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/decide";

/// Annotation of a `BareMetalMachineTemplate`: what its nodes keep for themselves, as `cpu=200m,memory=2Gi`; its published
/// capacity is net of that.
pub const NODE_RESERVE_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/node-reserve";
/// Annotation: the BMC that a machine has by what it says in band may be another than the one that is configured. The value
/// is what the condition `BMCMismatch` names: it holds for that BMC only.
pub const ACCEPT_BMC_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/accept-bmc";
/// Annotation of a host: the NodeGroupAutoscaler (`namespace/name`) that writes `spec.standby`. It takes it back when the host
/// is no longer its own; what people write without the annotation it does not touch.
pub const STANDBY_OF_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/standby-of";
/// Annotation of a host: watts that it takes while it is on and idle, and, after a comma, while it is off: `180,12`. For the
/// estimate of energy.
pub const WATTS_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/watts";
/// Annotation of a discovered host: the address of its BMC, as the BMC itself says it to the machine.
pub const DISCOVERED_BMC_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/discovered-bmc-address";
/// Annotation of the ConfigMap with an operator's quirk rules: which of them are refused and why, as of the last change;
/// absent when all are used. Written by the manager that holds the lease.
pub const QUIRKS_REFUSED_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/quirks-refused";

/// Annotation of a machine: the host (`namespace/name`) that its intent moved on from last. Before the machine claims
/// another, that host must have been read as not naming it.
///
/// The compare-and-swaps alone do not see to that. Two managers may look at one machine: the first finds that the host
/// is no good and is about to move on; the host comes good and the second claims it, which does not touch the machine;
/// the host starts to work; the first moves on. Writing down what was left, in the same write that leaves it, and
/// looking there *after* that write closes the gap: either the host's controller sees that the machine has left, or we
/// see that the host was claimed, and wait until it has let go.
pub const LEFT_HOST_ANNOTATION: &str = "ferric.infrastructure.cluster.x-k8s.io/left-host";

/// Metal3's annotation of the same meaning as [`PAUSED_ANNOTATION`].
pub const METAL3_PAUSED_ANNOTATION: &str = "baremetalhost.metal3.io/paused";
/// Metal3's annotation of the same meaning as [`DETACHED_ANNOTATION`].
pub const METAL3_DETACHED_ANNOTATION: &str = "baremetalhost.metal3.io/detached";
/// Metal3's annotation of the same meaning as [`REBOOT_ANNOTATION`].
pub const METAL3_REBOOT_ANNOTATION: &str = "reboot.metal3.io";
/// Metal3's annotation of the same meaning as [`INSPECT_ANNOTATION`].
pub const METAL3_INSPECT_ANNOTATION: &str = "inspect.metal3.io";

/// Label of a host: the rack it stands in; hosts of one cluster are spread over racks.
pub const RACK_LABEL: &str = "ferric.infrastructure.cluster.x-k8s.io/rack";
/// Label of a host: its failure domain; wins over [`ZONE_LABEL`].
pub const FAILURE_DOMAIN_LABEL: &str = "infrastructure.cluster.x-k8s.io/failure-domain";
/// Label of a host: the zone, used as failure domain when [`FAILURE_DOMAIN_LABEL`] is absent.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Label that Cluster API's core puts on every object of a cluster; on a host it names the cluster that uses it.
pub const CLUSTER_NAME_LABEL: &str = "cluster.x-k8s.io/cluster-name";
/// Label of a Secret: value `prometheus`; only then are its credentials sent to the server of a Prometheus trigger. Who may make
/// a NodeGroupAutoscaler may not thereby send any Secret of the namespace anywhere.
pub const USED_FOR_LABEL: &str = "ferric.infrastructure.cluster.x-k8s.io/used-for";
/// Label by which one of several managers picks its objects (`--watch-filter`).
pub const WATCH_FILTER_LABEL: &str = "cluster.x-k8s.io/watch-filter";
/// Label that makes `clusterctl move` take a Secret along with the object that names it.
pub const MOVE_LABEL: &str = "clusterctl.cluster.x-k8s.io/move";
/// Annotation: Cluster API's pause of a single object.
pub const CAPI_PAUSED_ANNOTATION: &str = "cluster.x-k8s.io/paused";
/// Annotation: the infrastructure object belongs to somebody else; it is never touched.
pub const MANAGED_BY_ANNOTATION: &str = "cluster.x-k8s.io/managed-by";
/// Annotation: set while work is in flight that a pause cannot stop; `clusterctl move` waits for it to go.
pub const BLOCK_MOVE_ANNOTATION: &str = "clusterctl.cluster.x-k8s.io/block-move";
/// Annotation: the object is deleted by `clusterctl move`; let go without touching the machine.
pub const DELETE_FOR_MOVE_ANNOTATION: &str = "clusterctl.cluster.x-k8s.io/delete-for-move";
/// Annotation of a template in a topology dry run.
pub const TOPOLOGY_DRY_RUN_ANNOTATION: &str = "topology.cluster.x-k8s.io/dry-run";

/// Finalizer of a [`crate::BareMetalHost`].
pub const HOST_FINALIZER: &str = "baremetalhost.infrastructure.cluster.x-k8s.io";
/// Finalizer of a [`crate::BareMetalMachine`].
pub const MACHINE_FINALIZER: &str = "baremetalmachine.infrastructure.cluster.x-k8s.io";
/// Finalizer of a [`crate::BareMetalCluster`].
pub const CLUSTER_FINALIZER: &str = "baremetalcluster.infrastructure.cluster.x-k8s.io";
