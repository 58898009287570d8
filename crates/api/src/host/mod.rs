//! `BareMetalHost`: one server. How to reach its BMC, what should run on it, what state it is in, and the record of
//! what was done to it.

mod record;
mod spec;
mod status;

pub use record::{
    AgentRecord, ClaimRecord, CleanRecord, HostIdentity, HostRecord, ImageRecord, StagedRecord,
};
pub use spec::{
    Approval, BareMetalHost, BareMetalHostSpec, BmcDetails, BootAfterWrite, BootMode, CleaningDisks,
    CleaningMode, ConsumerRef, DiskPreference, DiskType, HostStandby, Image, ImageFormat, Initrd,
    InspectionMode, RootDeviceHints, SecretName,
};
pub use status::{
    BareMetalHostStatus, BmcStatus, CredentialsStatus, ErrorType, OperationalStatus, ProvisionStatus,
    ProvisioningState, StandbyFailures, StandbyStatus, UninvitedBoots, WaitingFor,
};
