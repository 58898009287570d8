//! CRD types of Ferric and their validation.
//!
//! What lives here: the Kubernetes API of group `infrastructure.cluster.x-k8s.io`, version `v1alpha1`, the CEL that
//! refuses bad manifests at the API server, and the newtypes at its edges ([`BmcAddress`], [`MacAddress`],
//! [`ProviderId`]). What must not: a client, an async runtime, any decision about what to do with an object.

pub mod address;
pub mod autoscaling;
pub mod cluster;
pub mod condition;
mod crds;
pub mod hardware;
pub mod host;
pub mod mac;
pub mod machine;
pub mod names;
pub mod provider_id;
mod rules;

pub use address::{AddressError, BmcAddress, BmcScheme};
pub use autoscaling::{ClusterAutoscalingPolicy, NodeGroupAutoscaler};
pub use cluster::{BareMetalCluster, BareMetalClusterTemplate};
pub use condition::ConditionStatus;
pub use crds::crds;
pub use hardware::{HardwareData, HardwareDetails};
pub use host::{BareMetalHost, HostRecord, ProvisioningState};
pub use mac::MacAddress;
pub use machine::{BareMetalMachine, BareMetalMachineTemplate};
pub use provider_id::ProviderId;

/// API group of every kind that Ferric serves.
pub const GROUP: &str = "infrastructure.cluster.x-k8s.io";
/// The one served and stored version.
pub const VERSION: &str = "v1alpha1";
/// `GROUP/VERSION`, as in a manifest's `apiVersion`.
pub const API_VERSION: &str = "infrastructure.cluster.x-k8s.io/v1alpha1";
