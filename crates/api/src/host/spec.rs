//! The spec of a `BareMetalHost`. Field names are those of Metal3's `BareMetalHost`, so that its manifests work after
//! a change of `apiVersion`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BareMetalHostStatus, HostRecord};
use crate::rules;

/// What one server is and what should run on it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "BareMetalHost",
    plural = "baremetalhosts",
    shortname = "bmh",
    category = "cluster-api",
    namespaced,
    status = "BareMetalHostStatus",
    doc = "One server: how to reach its BMC, what should run on it, what state it is in, and the record of what was done to it.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.provisioning.state","description":"Where in its life the host is"}"#,
    printcolumn = r#"{"name":"Consumer","type":"string","jsonPath":".spec.consumerRef.name","description":"What uses the host"}"#,
    printcolumn = r#"{"name":"Power","type":"string","jsonPath":".status.power","description":"Power state last read from the BMC"}"#,
    printcolumn = r#"{"name":"Waiting for","type":"string","jsonPath":".status.waitingFor.message","description":"What the host waits for"}"#,
    printcolumn = r#"{"name":"Since","type":"date","jsonPath":".status.waitingFor.since","description":"Since when it waits"}"#,
    printcolumn = r#"{"name":"Error","type":"string","jsonPath":".status.errorType","description":"Kind of the last error"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::ipmi_needs_mac(),
    validation = rules::ipmi_without_secure_boot(),
    validation = rules::wol_needs_mac(),
    validation = rules::wol_without_secure_boot(),
    validation = rules::wol_stays_on(),
    validation = rules::wol_not_on_standby(),
    validation = rules::staged_has_image(),
    validation = rules::staged_is_written(),
    validation = rules::staged_is_ours(),
    validation = rules::staged_is_cleaned(),
    validation = rules::external_or_image(),
    validation = rules::live_iso_by_redfish(),
    validation = rules::kernel_not_by_wol(),
    validation = rules::mac_immutable(),
    validation = rules::approval_stands(),
    validation = rules::unapproved_is_unused(),
)]
pub struct BareMetalHostSpec {
    /// How to reach the server's BMC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<BmcDetails>,
    /// Whether an operator has approved a server that enrolled itself by discovery. `Pending`: nothing is done to the server,
    /// its BMC is not spoken to, and nothing may use it. Set it to `Approved`, together with `bmc`, to take the server in; or
    /// delete the host. Absent: as `Approved`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// MAC address of the NIC that the server boots from.
    #[serde(default, rename = "bootMACAddress", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = rules::mac())]
    pub boot_mac_address: Option<String>,
    /// CPU architecture as `uname -m` says it, when it is known in advance; for people, inspection finds it anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub architecture: Option<String>,
    /// Firmware mode to boot in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_mode: Option<BootMode>,
    /// Whether the server should be powered on while it is provisioned. A free host is kept off, unless `standby` says
    /// otherwise.
    #[serde(default)]
    pub online: bool,
    /// How ready the host is kept while it is free; it says nothing about a host in use. `Running`: in our agent, so that a
    /// claim goes to the write without a start through firmware. `Staged`: off, with `stagedImage` on its disk. `Off` (in
    /// YAML with quotes), and absent: off once our agent has run on it. An autoscaler that has standby pools writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<HostStandby>,
    /// The image that is written to the disk of the free host while `standby` is `Staged`. What is on that disk is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_image: Option<Image>,
    /// Image to write when the host has no consumer. A claimed host takes its image from its consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Which disk the image goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_device_hints: Option<RootDeviceHints>,
    /// Secret (in the host's namespace) with the user data, key `value` or `userData`; for hosts without a consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<SecretName>,
    /// Secret (in the host's namespace) with the network data, key `value` or `networkData`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data: Option<SecretName>,
    /// Secret (in the host's namespace) with the network of our agent on this host, key `networkData` or `value`, in the
    /// form of OpenStack's `network_data.json`. Where absent, the agent asks DHCP and routers. It is read anew for every
    /// boot of the agent. A host without a consumer and without `networkData` hands it on to its operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::secret_name())]
    pub preprovisioning_network_data_name: Option<String>,
    /// Secret (in the host's namespace) with additional metadata, key `value` or `metaData`, as YAML or JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<SecretName>,
    /// What is wiped before the host is free and after it is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automated_cleaning_mode: Option<CleaningMode>,
    /// Which disks automated cleaning wipes; the root disk when absent. All other disks are not touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automated_cleaning_disks: Option<CleaningDisks>,
    /// How the hardware is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspection_mode: Option<InspectionMode>,
    /// The server runs something that others installed: its power is managed, its disks never touched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub externally_provisioned: bool,
    /// What uses the host. Written by the claim, cleared by the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_ref: Option<ConsumerRef>,
    /// Free text for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub description: Option<String>,
    /// What was done to the server: written by the manager only, lives with the claim under one resourceVersion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<HostRecord>,
}

impl BareMetalHostSpec {
    /// Whether an operator has yet to approve the server.
    pub fn waits_for_approval(&self) -> bool {
        self.approval == Some(Approval::Pending)
    }

    /// Whether the server has no BMC and can only be woken: nothing reads its power or switches it off from outside.
    pub fn wakes_only(&self) -> bool {
        const SCHEME: &str = "wol://";
        let address = self.bmc.as_ref().and_then(|bmc| bmc.address.get(..SCHEME.len()));
        address.is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
    }
}

/// How ready a free host is kept. In YAML write `"Off"` with quotes: without, kubectl takes it for a boolean.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostStandby {
    /// In our agent, which waits for a task.
    Running,
    /// Off, with an image on its disk, verified, and nothing that says whose it is: no user data, no config drive.
    Staged,
    /// Off.
    Off,
}

/// Whether an operator has approved a server that enrolled itself.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Approval {
    /// Not yet: it is known, and left alone.
    Pending,
    /// It is a host like any other.
    Approved,
}

/// How to reach a BMC.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::address_needs_credentials(),
    validation = rules::ca_or_unverified(),
    validation = rules::fingerprint_alone(),
)]
pub struct BmcDetails {
    /// `<scheme>://<host>[:port][/path]`; without a scheme `ipmi` is meant. See the docs for the schemes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    #[x_kube(
        validation = rules::address_characters(),
        validation = rules::address_scheme(),
        validation = rules::address_credentials(),
        validation = rules::address_host(),
        validation = rules::address_ipv6(),
        validation = rules::address_ipv4(),
        validation = rules::address_port(),
    )]
    pub address: String,
    /// Name of the Secret with keys `username` and `password`, in the host's own namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::secret_name())]
    pub credentials_name: String,
    /// Accept any certificate of the BMC. A condition says so for as long as it is set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disable_certificate_verification: bool,
    /// Name of a Secret in the host's namespace whose key `ca.crt` holds the CA certificates (PEM) of this BMC.
    #[serde(default, rename = "caName", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::secret_name())]
    pub ca_name: Option<String>,
    /// SHA-256 fingerprint of the one certificate of the BMC that is trusted, whatever name or dates it carries: 64
    /// hexadecimal digits, with or without colons between the bytes, as `ferric bmc probe` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 95))]
    #[x_kube(validation = rules::certificate_fingerprint())]
    pub certificate_fingerprint: Option<String>,
}

/// A Secret in the object's own namespace. There is no namespace field on purpose: a reference that crosses
/// namespaces would let whoever may write this object read Secrets that they may not read.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(validation = rules::secret_named())]
pub struct SecretName {
    /// Name of the Secret.
    #[serde(default)]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::secret_name())]
    pub name: String,
}

/// Firmware mode.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootMode {
    /// UEFI without Secure Boot.
    #[serde(rename = "UEFI")]
    Uefi,
    /// UEFI with Secure Boot.
    #[serde(rename = "UEFISecureBoot")]
    UefiSecureBoot,
    /// BIOS.
    #[serde(rename = "legacy")]
    Legacy,
}

/// What automated cleaning wipes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[serde(rename_all = "lowercase")]
pub enum CleaningMode {
    /// Partition tables and signatures. What else is on the disks can still be read.
    #[default]
    Metadata,
    /// Every byte, by the strongest method that each drive has: erase by the drive itself, else zeros written over it.
    Full,
    /// Nothing.
    Disabled,
}

/// Which disks automated cleaning wipes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[serde(rename_all = "lowercase")]
pub enum CleaningDisks {
    /// The disk that the last image was written to; before any was, the one that an image would be written to.
    #[default]
    Root,
    /// Every disk that is not removable.
    All,
}

/// How the hardware is looked at. `fast` is Metal3's name of `outOfBand`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[schemars(transform = accept_fast)]
pub enum InspectionMode {
    /// Out of band, and in band whenever the agent is booted anyway.
    #[serde(rename = "agent")]
    Agent,
    /// Out of band only: the BMC is asked, the server is not booted for it.
    #[serde(rename = "outOfBand", alias = "fast")]
    OutOfBand,
    /// Not at all.
    #[serde(rename = "disabled")]
    Disabled,
}

/// Lets the schema accept the alias that deserialisation does.
fn accept_fast(schema: &mut schemars::Schema) {
    let known = [
        (InspectionMode::Agent, "agent"),
        (InspectionMode::OutOfBand, "outOfBand"),
        (InspectionMode::Disabled, "disabled"),
    ];
    let names: Vec<&str> = known.iter().map(|(_, name)| *name).chain(["fast"]).collect();
    schema.remove("oneOf");
    schema.insert("type".into(), "string".into());
    schema.insert("enum".into(), names.into());
}

/// A disk image.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::image_checksum_given(),
    validation = rules::checksum_type_fits(),
    validation = rules::image_format_uncompressed(),
    validation = rules::image_format_not_raw(),
    validation = rules::auth_secret_of_artifact(),
    validation = rules::live_iso_by_http(),
    validation = rules::kernel_by_http(),
    validation = rules::kernel_with_initrd(),
    validation = rules::initrd_of_kernel(),
    validation = rules::parameters_of_kernel(),
    validation = rules::after_write_of_written(),
)]
pub struct Image {
    /// Where the image is: `http://`, `https://`, or `oci://registry/repository@sha256:…` for an OCI artifact whose only
    /// layer is the image. It may be compressed with gzip, zstd or xz.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = rules::image_url_given(), validation = rules::image_url())]
    pub url: String,
    /// SHA-256 or SHA-512 of the file at `url`, as hex, or an http(s) URL of a file that lists it. An OCI artifact needs
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(
        validation = rules::checksum_not_md5(),
        validation = rules::checksum_length(),
        validation = rules::checksum_url(),
    )]
    pub checksum: Option<String>,
    /// `sha256`, `sha512` or `auto`; when absent, deduced from the length of the checksum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = rules::checksum_type(), validation = rules::checksum_type_not_md5())]
    pub checksum_type: Option<String>,
    /// Format of the image; when absent, what the suffix of `url` says (`.qcow2`, `.vdi`, `.vmdk`, a suffix of compression
    /// aside), else `raw`. Formats `vdi` and `vmdk` are taken but not written: the host says so. `live-iso` is
    /// not written either: the BMC inserts it as virtual media, and the server runs from it. Nor is `kernel`: `url` is a
    /// Linux kernel, which the server boots with `initrd` into its memory at each start, as Ironic's ramdisk deploy does.
    #[serde(default, rename = "format", skip_serializing_if = "Option::is_none")]
    pub disk_format: Option<ImageFormat>,
    /// The initramfs of an image of format `kernel`, with all of the operating system in it. The provider appends user
    /// data, network data and metadata as files below `/var/lib/cloud/seed`, where cloud-init finds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Initrd>,
    /// Arguments for the kernel's command line of an image of format `kernel`, such as `console=ttyS0,115200`. No secrets:
    /// every process of the system can read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = rules::kernel_parameters())]
    pub kernel_parameters: Option<String>,
    /// How the server is started from the disk that the image was written to; `Reboot` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_after_write: Option<BootAfterWrite>,
    /// Name of a Secret of type `kubernetes.io/dockerconfigjson`, in the namespace of the object that names it, with the
    /// credentials of the registry of an `oci://` image. Absent: the registry is asked as anybody may ask.
    #[serde(default, rename = "ociAuthSecretName", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::secret_name())]
    pub oci_auth_secret_name: Option<String>,
}

impl Image {
    /// Whether the same bytes are written for both, as far as the specs can tell.
    pub fn is_same(&self, other: &Self) -> bool {
        let checksum = |image: &Self| image.checksum.as_deref().unwrap_or_default().to_ascii_lowercase();
        self.url == other.url
            && checksum(self) == checksum(other)
            && self.effective_format() == other.effective_format()
    }

    /// Whether it is written to a disk: not what runs from memory, nor what nobody here can write.
    pub fn is_written(&self) -> bool {
        matches!(self.effective_format(), ImageFormat::Raw | ImageFormat::Qcow2)
    }

    /// The format given, else what the suffix of the URL's path says, else raw: an image written in the wrong format
    /// makes a disk that does not boot.
    pub fn effective_format(&self) -> ImageFormat {
        if let Some(format) = self.disk_format {
            return format;
        }
        let path = self.url.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
        let path = [".gz", ".zst", ".xz"].iter().find_map(|end| path.strip_suffix(end)).unwrap_or(&path);
        let suffixes =
            [(".qcow2", ImageFormat::Qcow2), (".vdi", ImageFormat::Vdi), (".vmdk", ImageFormat::Vmdk)];
        let named = suffixes.into_iter().find(|(suffix, _)| path.ends_with(suffix));
        named.map_or(ImageFormat::Raw, |(_, format)| format)
    }
}

/// Format of a disk image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// The bytes of the disk.
    Raw,
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
    /// VirtualBox disk image.
    Vdi,
    /// VMware disk.
    Vmdk,
    /// A bootable ISO that runs from memory.
    LiveIso,
    /// A Linux kernel that runs from memory with an initramfs.
    Kernel,
}

/// How a server is started from a disk that was just written.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootAfterWrite {
    /// Its BMC switches it off and on, and its firmware starts the disk.
    Reboot,
    /// The agent starts the kernel that the boot loader on the disk would start, without the firmware in between. Where
    /// that cannot be done, as `Reboot`; the condition `Provisioned` says why. Each later start is through the firmware.
    Kexec,
}

/// The initramfs of a system that runs from memory.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::initrd_checksum_type_fits())]
pub struct Initrd {
    /// Where the file is: `http://` or `https://`. It is given to the kernel as it is, in whatever way it is compressed.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = rules::initrd_url())]
    pub url: String,
    /// SHA-256 or SHA-512 of the file at `url`, as hex, or an http(s) URL of a file that lists it.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = rules::initrd_checksum())]
    pub checksum: String,
    /// `sha256`, `sha512` or `auto`; when absent, deduced from the length of the checksum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = rules::initrd_checksum_type())]
    pub checksum_type: Option<String>,
}

/// Which disk is meant: all hints given must match. Field names and meanings are Metal3's, but for `maxSizeGigabytes`,
/// `type` and `prefer`, which it lacks. A removable disk never matches.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::size_range())]
pub struct RootDeviceHints {
    /// Device path, e.g. `/dev/sda`, `/dev/disk/by-path/…` or `/dev/disk/by-id/…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = rules::device_name())]
    pub device_name: Option<String>,
    /// SCSI address `host:channel:target:lun`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = rules::hctl())]
    pub hctl: Option<String>,
    /// Part of the model name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = rules::hint_given())]
    pub model: Option<String>,
    /// Part of the vendor name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = rules::hint_given())]
    pub vendor: Option<String>,
    /// Serial number, exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = rules::hint_given())]
    pub serial_number: Option<String>,
    /// Least size in gibibytes (2^30 bytes), at least 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::min_size())]
    pub min_size_gigabytes: Option<i64>,
    /// Greatest size in gibibytes (2^30 bytes), at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::max_size())]
    pub max_size_gigabytes: Option<i64>,
    /// Kind of disk.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub disk_type: Option<DiskType>,
    /// Which disk, where the other hints fit several: the smallest, if nothing is said here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<DiskPreference>,
    /// World Wide Name, exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = rules::wwn())]
    pub wwn: Option<String>,
    /// World Wide Name with the vendor's extension, exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = rules::wwn())]
    pub wwn_with_extension: Option<String>,
    /// The vendor's extension of the World Wide Name, exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = rules::wwn())]
    pub wwn_vendor_extension: Option<String>,
    /// Whether the disk rotates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
}

/// Kind of disk, as `HardwareData` names it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskType {
    /// It rotates.
    #[serde(rename = "HDD")]
    Hdd,
    /// It does not, and is no NVMe disk.
    #[serde(rename = "SSD")]
    Ssd,
    /// An NVMe namespace.
    #[serde(rename = "NVME")]
    Nvme,
}

/// Which of several disks.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskPreference {
    /// The one with the fewest bytes.
    Smallest,
    /// The one with the most bytes.
    Largest,
}

/// What uses a host.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(validation = rules::consumer_named())]
pub struct ConsumerRef {
    /// API version of the consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub api_version: Option<String>,
    /// Kind of the consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub kind: Option<String>,
    /// Namespace of the consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// Name of the consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// UID of the consumer; tells a machine that was made anew from the one that was claimed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uid: Option<String>,
}
