//! The CEL rules of the CRDs: what the API server refuses, and the sentence that it answers with.
//!
//! One function a rule; the types name them in `#[x_kube(validation = …)]`. Every sentence says what is wrong *and* what
//! to do. A rule holds for input that another rule refuses, so that one mistake gives one sentence.
//! The sentences never quote the value, which may hold a password by mistake.

pub(crate) mod autoscaling;

use kube::core::Rule;

use crate::address::SCHEMES;

fn rule(expression: impl Into<String>, sentence: &str) -> Rule {
    Rule::new(expression).message(sentence)
}

// --- BMC address -------------------------------------------------------------------------------------------------

/// CEL: the address without its scheme.
const REST: &str = "(self.contains('://') ? self.substring(self.indexOf('://') + 3) : self)";
/// 1 to 65535 in decimal.
const PORT: &str = "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
/// Ends host and port.
const AUTHORITY_END: &str = "([/?]|$)";

/// The address holds no white space and no control character.
pub(crate) fn address_characters() -> Rule {
    rule(
        r"!self.matches(r'[\s\x00-\x1f\x7f]')",
        "the BMC address holds a space or a control character: write <scheme>://<host>[:port][/path]",
    )
}

/// The scheme is a known one, or absent.
pub(crate) fn address_scheme() -> Rule {
    let names: Vec<String> = SCHEMES.iter().map(|(name, _, _)| name.replace('+', "[+]")).collect();
    rule(
        format!(r"!self.contains('://') || self.lowerAscii().matches(r'^({})://')", names.join("|")),
        "the BMC address has an unknown scheme: use redfish, redfish-virtualmedia, redfish-uefihttp, idrac-redfish, \
         idrac-virtualmedia, ilo5-redfish, ilo5-virtualmedia (each also with +http or +https), ipmi, wol or proxmox",
    )
}

/// No `user:password@`.
pub(crate) fn address_credentials() -> Rule {
    rule(
        format!("!{REST}.matches('^[^/?]*@')"),
        "the BMC address holds credentials: put them into the Secret that bmc.credentialsName names and leave only \
         <scheme>://<host>[:port][/path]",
    )
}

/// A host is named, and written as one.
pub(crate) fn address_host() -> Rule {
    let name = "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?[.]?";
    rule(
        format!(
            r"self == '' || self.matches(r'\s') || {REST}.matches('^[^/?]*@') || {REST}.matches(r'^({name}|\[[0-9A-Fa-f:.]+\])(:[^/?]*)?{AUTHORITY_END}')",
        ),
        "the BMC address is malformed: write <scheme>://<host>[:port][/path] with a DNS name, an IPv4 address or an \
         IPv6 address in brackets as host",
    )
}

/// A host in brackets is an IPv6 address.
pub(crate) fn address_ipv6() -> Rule {
    rule(
        format!(
            r"!{REST}.matches(r'^\[[0-9A-Fa-f:.]+\](:[^/?]*)?{AUTHORITY_END}') || isIP({REST}.find('[0-9A-Fa-f:.]+')) && {REST}.find('[0-9A-Fa-f:.]+').contains(':')",
        ),
        "the BMC address has something in brackets that is no IPv6 address: write [2001:db8::10]",
    )
}

/// A host of digits and dots is an IPv4 address.
pub(crate) fn address_ipv4() -> Rule {
    rule(
        format!("!{REST}.matches(r'^[0-9.]+(:[^/?:]*)?{AUTHORITY_END}') || isIP({REST}.find('^[0-9.]+'))"),
        "the BMC address has a host of digits and dots that is no IPv4 address: write 192.0.2.10",
    )
}

/// The port is a port.
pub(crate) fn address_port() -> Rule {
    rule(
        format!(
            r"{REST}.matches(r'^([^/?]*@|\[[^\]]*$)') || {REST}.matches(r'^(\[[^\]/?]*\][^:/?]*|[^/?:\[]*)(:{PORT})?{AUTHORITY_END}')",
        ),
        "the port of the BMC address must be a number from 1 to 65535; an IPv6 host stands in brackets",
    )
}

/// An address comes with credentials, except for Wake-on-LAN.
pub(crate) fn address_needs_credentials() -> Rule {
    rule(
        "!has(self.address) || self.address == '' || self.address.lowerAscii().startsWith('wol://') || \
         (has(self.credentialsName) && self.credentialsName != '')",
        "bmc.address is given without bmc.credentialsName: name a Secret in the host's namespace with the keys username \
         and password (only wol:// does without)",
    )
    .field_path(".credentialsName")
}

/// A CA and "trust anything" contradict one another.
pub(crate) fn ca_or_unverified() -> Rule {
    rule(
        "!(has(self.caName) && has(self.disableCertificateVerification) && self.disableCertificateVerification)",
        "bmc.caName and bmc.disableCertificateVerification exclude one another: keep caName and remove \
         disableCertificateVerification",
    )
}

/// A fingerprint trusts one certificate, and neither what a CA signed nor everything.
pub(crate) fn fingerprint_alone() -> Rule {
    rule(
        "!has(self.certificateFingerprint) || !has(self.caName) && \
         !(has(self.disableCertificateVerification) && self.disableCertificateVerification)",
        "bmc.certificateFingerprint excludes bmc.caName and bmc.disableCertificateVerification: keep the fingerprint and \
         remove them",
    )
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn certificate_fingerprint() -> Rule {
    rule(
        "self.matches('^([0-9a-fA-F]{64}|([0-9a-fA-F]{2}:){31}[0-9a-fA-F]{2})$')",
        "bmc.certificateFingerprint is no SHA-256 fingerprint: give 64 hexadecimal digits, with or without colons between \
         the bytes, as ferric bmc probe prints them",
    )
}

// --- host --------------------------------------------------------------------------------------------------------

/// CEL: this host's address has one of `schemes`.
fn has_scheme(schemes: &str) -> String {
    format!(
        "has(self.bmc) && has(self.bmc.address) && self.bmc.address.lowerAscii().matches(r'^({schemes})://')"
    )
}

/// CEL: this host's BMC speaks IPMI, by scheme or for want of one.
fn is_ipmi() -> String {
    format!(
        "({} || has(self.bmc) && has(self.bmc.address) && self.bmc.address != '' && !self.bmc.address.contains('://'))",
        has_scheme("ipmi|libvirt")
    )
}

/// IPMI hosts boot over the network only, so the NIC must be known.
pub(crate) fn ipmi_needs_mac() -> Rule {
    rule(
        format!("!{} || has(self.bootMACAddress)", is_ipmi()),
        "an IPMI host needs spec.bootMACAddress: add the MAC address of the NIC that it boots from (a BMC address without \
         a scheme means ipmi)",
    )
    .field_path(".bootMACAddress")
}

/// Secure Boot is switched through Redfish.
pub(crate) fn ipmi_without_secure_boot() -> Rule {
    rule(
        format!("!{} || !has(self.bootMode) || self.bootMode != 'UEFISecureBoot'", is_ipmi()),
        "IPMI cannot switch Secure Boot: use bootMode UEFI, or a Redfish address (a BMC address without a scheme means \
         ipmi)",
    )
    .field_path(".bootMode")
}

/// The magic packet is addressed to a MAC.
pub(crate) fn wol_needs_mac() -> Rule {
    rule(
        format!("!({}) || has(self.bootMACAddress)", has_scheme("wol")),
        "a Wake-on-LAN host needs spec.bootMACAddress: add the MAC address of the NIC that the magic packet wakes",
    )
    .field_path(".bootMACAddress")
}

/// Secure Boot is switched through Redfish.
pub(crate) fn wol_without_secure_boot() -> Rule {
    rule(
        format!(
            "!({}) || !has(self.bootMode) || self.bootMode != 'UEFISecureBoot'",
            has_scheme("wol|proxmox([+]http)?")
        ),
        "Wake-on-LAN and Proxmox VE cannot switch Secure Boot here: use bootMode UEFI",
    )
    .field_path(".bootMode")
}

/// What runs on a server without a BMC is not switched off by anybody else.
pub(crate) fn wol_stays_on() -> Rule {
    rule(
        format!(
            "!({}) || has(self.online) && self.online || !has(self.image) && !(has(self.externallyProvisioned) && \
             self.externallyProvisioned)",
            has_scheme("wol")
        ),
        "nothing switches a Wake-on-LAN host off while an operating system runs on it: set online to true for a host with \
         image or externallyProvisioned, and shut its system down by hand",
    )
    .field_path(".online")
}

/// A server that nobody switches off or restarts from outside is not moved between pools.
pub(crate) fn wol_not_on_standby() -> Rule {
    rule(
        format!("!({}) || !has(self.standby) || self.standby == 'Off'", has_scheme("wol")),
        "a Wake-on-LAN host cannot stand by in the agent or staged, for nothing reads its power or restarts it: use \
         standby Off, or remove standby",
    )
    .field_path(".standby")
}

/// CEL: the host is to stand by with an image on its disk.
const STAGED: &str = "has(self.standby) && self.standby == 'Staged'";

/// Nothing is staged that nobody named.
pub(crate) fn staged_has_image() -> Rule {
    rule(
        format!("!({STAGED}) || has(self.stagedImage)"),
        "standby Staged keeps an image on the disk of the free host and none is named: add stagedImage with url and \
         checksum, or use another standby",
    )
    .field_path(".stagedImage")
}

/// What runs from memory is not kept on a disk.
pub(crate) fn staged_is_written() -> Rule {
    rule(
        "!has(self.stagedImage) || !has(self.stagedImage.format) || self.stagedImage.format in ['raw', 'qcow2']",
        "stagedImage is kept on a disk, so only images of format raw or qcow2 can be staged: use such an image, or \
         remove stagedImage and use another standby",
    )
    .field_path(".stagedImage.format")
}

/// Disks that are not ours are not written.
pub(crate) fn staged_is_ours() -> Rule {
    rule(
        format!("!({STAGED}) || !(has(self.externallyProvisioned) && self.externallyProvisioned)"),
        "externallyProvisioned leaves the disks alone and standby Staged writes one of them: remove one of the two",
    )
    .field_path(".standby")
}

/// Where nothing is wiped there may be something on the disk that nobody has given up, or that the next user must not see.
pub(crate) fn staged_is_cleaned() -> Rule {
    rule(
        format!("!({STAGED}) || !has(self.automatedCleaningMode) || self.automatedCleaningMode != 'disabled'"),
        "automatedCleaningMode disabled keeps what is on the disks of a free host and standby Staged writes one of them: \
         use cleaning mode metadata or full, or another standby",
    )
    .field_path(".standby")
}

/// A host's disks belong to Ferric or to others.
pub(crate) fn external_or_image() -> Rule {
    rule(
        "!(has(self.externallyProvisioned) && self.externallyProvisioned && has(self.image))",
        "externallyProvisioned and image exclude one another: remove image to leave the disks alone, or \
         externallyProvisioned to have the image written",
    )
    .field_path(".image")
}

/// The boot MAC is part of what identifies the machine. Case and separator may change.
pub(crate) fn mac_immutable() -> Rule {
    rule(
        "!has(oldSelf.bootMACAddress) || (has(self.bootMACAddress) && self.bootMACAddress.lowerAscii().replace('-', \
         ':') == oldSelf.bootMACAddress.lowerAscii().replace('-', ':'))",
        "bootMACAddress does not change once set, for it says which machine this is: delete the host (annotated \
         ferric.infrastructure.cluster.x-k8s.io/detached to leave the machine running) and create it anew",
    )
    .field_path(".bootMACAddress")
}

/// An approval is not taken back: a server that may be in use would be left as it is, without anybody who looks after it.
pub(crate) fn approval_stands() -> Rule {
    rule(
        "!has(self.approval) || self.approval != 'Pending' || (has(oldSelf.approval) && oldSelf.approval == 'Pending')",
        "approval does not go back to Pending: annotate the host with ferric.infrastructure.cluster.x-k8s.io/paused to have \
         it left alone, or delete it",
    )
    .field_path(".approval")
}

/// What nobody approved, nothing uses.
pub(crate) fn unapproved_is_unused() -> Rule {
    rule(
        "!has(self.approval) || self.approval != 'Pending' || !(has(self.consumerRef) || has(self.image) || \
         (has(self.externallyProvisioned) && self.externallyProvisioned))",
        "a host that waits for approval is used by nothing: set approval to Approved, or remove consumerRef, image and \
         externallyProvisioned",
    )
    .field_path(".approval")
}

/// Six hex pairs.
pub(crate) fn mac() -> Rule {
    rule(
        "self.matches('^[0-9a-fA-F]{2}((:[0-9a-fA-F]{2}){5}|(-[0-9a-fA-F]{2}){5})$')",
        "the MAC address is malformed: write six hex pairs such as 52:54:00:ab:cd:ef, or remove the field",
    )
}

/// A Secret by name alone.
pub(crate) fn secret_name() -> Rule {
    rule(
        "self == '' || self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",
        "this is not the name of a Secret: give the name alone (lower-case letters, digits, '-' and '.'); the Secret is \
         looked for in the namespace of this object",
    )
}

/// The same where the name may not be left out.
pub(crate) fn secret_named() -> Rule {
    rule(
        "has(self.name) && self.name != ''",
        "the reference names no Secret: set name, or remove the reference",
    )
    .field_path(".name")
}

/// A consumer is named.
pub(crate) fn consumer_named() -> Rule {
    rule(
        "has(self.kind) && self.kind != '' && has(self.name) && self.name != ''",
        "consumerRef needs kind and name: complete it, or remove consumerRef to say that nothing uses the host",
    )
}

// --- image -------------------------------------------------------------------------------------------------------

/// The image is fetched over HTTP, from a server or a registry.
pub(crate) fn image_url() -> Rule {
    rule(
        r"self == '' || self.matches(r'^[hH][tT][tT][pP][sS]?://[^\s/?#]+([/?#][^\s]*)?$') || self.matches(r'^oci://[^\s/?#@]+/[a-z0-9]([a-z0-9._/-]*[a-z0-9])?@sha256:[0-9a-f]{64}$')",
        "image.url must be an http:// or https:// URL, such as https://images.example.org/node.raw.zst, or an OCI \
         artifact by the digest of its manifest, such as oci://registry.example.org/node@sha256:0123… (64 hex digits): \
         serve the image there",
    )
}

/// The image is somewhere.
pub(crate) fn image_url_given() -> Rule {
    rule("self != ''", "image.url is empty: give the http(s) URL of the image, or remove image")
}

/// Nothing is written unverified.
pub(crate) fn image_checksum_given() -> Rule {
    rule(
        "(has(self.checksum) && self.checksum != '') || (has(self.format) && self.format == 'live-iso') || \
         (has(self.url) && self.url.startsWith('oci://'))",
        "image.checksum is missing: give the SHA-256 (64 hex digits) or SHA-512 (128 hex digits) of the file at \
         image.url, or the http(s) URL of a file that lists it (only format live-iso and oci:// do without)",
    )
    .field_path(".checksum")
}

/// MD5 proves nothing.
pub(crate) fn checksum_not_md5() -> Rule {
    rule(
        "!self.matches('^[0-9a-fA-F]{32}$')",
        "MD5 checksums are refused because MD5 can be forged: give the SHA-256 (64 hex digits) or SHA-512 (128 hex \
         digits) of the file at image.url",
    )
}

/// A checksum has the length of SHA-256 or SHA-512.
pub(crate) fn checksum_length() -> Rule {
    rule(
        "self == '' || self.contains('://') || self.matches('^([0-9a-fA-F]{32}|[0-9a-fA-F]{64}|[0-9a-fA-F]{128})$')",
        "image.checksum is neither hex of the right length nor a URL: give 64 hex digits (SHA-256) or 128 (SHA-512) \
         without prefix or spaces, or the http(s) URL of a file that lists it",
    )
}

/// A checksum file is fetched over HTTP.
pub(crate) fn checksum_url() -> Rule {
    rule(
        r"!self.contains('://') || self.matches(r'^[hH][tT][tT][pP][sS]?://[^\s/?#]+([/?#][^\s]*)?$')",
        "the URL in image.checksum must begin with http:// or https://: serve the checksum file there, or give the \
         checksum itself as hex",
    )
}

/// Known checksum types.
pub(crate) fn checksum_type() -> Rule {
    rule(
        "self in ['sha256', 'sha512', 'auto', 'md5']",
        "image.checksumType must be sha256, sha512 or auto: correct it, or remove it to have it deduced from the length \
         of the checksum",
    )
}

/// MD5 proves nothing.
pub(crate) fn checksum_type_not_md5() -> Rule {
    rule(
        "self != 'md5'",
        "image.checksumType md5 is refused because MD5 can be forged: give the SHA-256 or SHA-512 of the image",
    )
}

/// Type and length agree.
pub(crate) fn checksum_type_fits() -> Rule {
    rule(
        "!has(self.checksum) || !has(self.checksumType) || self.checksum.contains('://') || \
         !(self.checksumType == 'sha256' && self.checksum.size() == 128 || \
         self.checksumType == 'sha512' && self.checksum.size() == 64)",
        "image.checksumType contradicts the length of image.checksum (sha256 has 64 hex digits, sha512 has 128): correct \
         one of them, or remove checksumType",
    )
    .field_path(".checksumType")
}

/// CEL: the URL's path ends in one of `suffixes`.
fn url_ends(suffixes: &str) -> String {
    format!(r"self.url.lowerAscii().matches(r'^[^?#]*[.]({suffixes})([?#]|$)')")
}

/// The formats that compress themselves are not compressed once more.
pub(crate) fn image_format_uncompressed() -> Rule {
    rule(
        format!("!has(self.format) || self.format == 'raw' || !{}", url_ends("gz|zst|xz|bz2")),
        "only raw images may be compressed: unpack the file at image.url, or convert it to raw and set format raw",
    )
    .field_path(".format")
}

/// A file that says it is something else is not written as raw bytes.
pub(crate) fn image_format_not_raw() -> Rule {
    rule(
        format!(
            "!has(self.format) || self.format != 'raw' || !{}",
            url_ends("(qcow2|vdi|vmdk)([.](gz|zst|xz|bz2))?")
        ),
        "image.format raw contradicts the suffix of image.url, and writing such a file as it is makes a disk that does \
         not boot: set the format that the suffix says, or rename the file",
    )
    .field_path(".format")
}

/// A BMC fetches over HTTP.
pub(crate) fn live_iso_by_http() -> Rule {
    rule(
        "!has(self.format) || self.format != 'live-iso' || !has(self.url) || !self.url.startsWith('oci://')",
        "image.format live-iso is fetched by the BMC, which knows no registry: give an http:// or https:// URL",
    )
    .field_path(".url")
}

/// Only Redfish inserts an ISO.
pub(crate) fn live_iso_by_redfish() -> Rule {
    rule(
        format!(
            "!has(self.image) || !has(self.image.format) || self.image.format != 'live-iso' || !({} || {})",
            is_ipmi(),
            has_scheme("wol|proxmox([+]http)?")
        ),
        "image.format live-iso needs a BMC that inserts the ISO as virtual media, which IPMI, Wake-on-LAN and Proxmox VE do not: use \
         a Redfish address, or an image that is written",
    )
    .field_path(".image.format")
}

/// A kernel is fetched from a web server.
pub(crate) fn kernel_by_http() -> Rule {
    rule(
        "!has(self.format) || self.format != 'kernel' || !has(self.url) || !self.url.startsWith('oci://')",
        "image.format kernel is fetched from a web server: give an http:// or https:// URL of the kernel",
    )
    .field_path(".url")
}

/// A kernel needs its system.
pub(crate) fn kernel_with_initrd() -> Rule {
    rule(
        "!has(self.format) || self.format != 'kernel' || has(self.initrd)",
        "image.format kernel runs a kernel with its initramfs from memory: add image.initrd with url and checksum",
    )
    .field_path(".initrd")
}

/// What is written has its own initramfs.
pub(crate) fn initrd_of_kernel() -> Rule {
    rule(
        "!has(self.initrd) || has(self.format) && self.format == 'kernel'",
        "image.initrd belongs to a kernel that runs from memory: set image.format to kernel, or remove initrd",
    )
    .field_path(".initrd")
}

/// What is written has its own command line.
pub(crate) fn parameters_of_kernel() -> Rule {
    rule(
        "!has(self.kernelParameters) || self.kernelParameters == '' || has(self.format) && self.format == 'kernel'",
        "image.kernelParameters belong to a kernel that runs from memory: set image.format to kernel, or remove \
         kernelParameters",
    )
    .field_path(".kernelParameters")
}

/// What is not written is not started from a disk.
pub(crate) fn after_write_of_written() -> Rule {
    rule(
        "!has(self.bootAfterWrite) || !has(self.format) || !(self.format in ['kernel', 'live-iso'])",
        "image.bootAfterWrite is about images that are written to a disk: remove it, or use another format",
    )
    .field_path(".bootAfterWrite")
}

/// They go through iPXE and GRUB unchanged.
pub(crate) fn kernel_parameters() -> Rule {
    rule(
        r#"self.matches('^([ -~]*)$') && !self.matches('["\'$`\\\\]') && !self.contains('&&') && !self.contains('||')"#,
        "image.kernelParameters must be one line of printable ASCII without quotes, $, `, backslashes, && and ||, which \
         boot loaders give a meaning of their own",
    )
}

/// The initramfs is fetched from a web server.
pub(crate) fn initrd_url() -> Rule {
    rule(
        r"self.matches(r'^[hH][tT][tT][pP][sS]?://[^\s/?#]+([/?#][^\s]*)?$')",
        "image.initrd.url must be an http:// or https:// URL: serve the initramfs there",
    )
}

/// Nothing is booted unverified.
pub(crate) fn initrd_checksum() -> Rule {
    rule(
        r"self.matches(r'^([0-9a-fA-F]{64}|[0-9a-fA-F]{128}|[hH][tT][tT][pP][sS]?://[^\s/?#]+([/?#][^\s]*)?)$')",
        "image.initrd.checksum must be the SHA-256 (64 hex digits) or SHA-512 (128 hex digits) of the file at \
         image.initrd.url, without prefix or spaces, or the http(s) URL of a file that lists it; MD5 can be forged",
    )
}

/// Known checksum types.
pub(crate) fn initrd_checksum_type() -> Rule {
    rule(
        "self in ['sha256', 'sha512', 'auto']",
        "image.initrd.checksumType must be sha256, sha512 or auto: correct it, or remove it to have it deduced from the \
         length of the checksum",
    )
}

/// Type and length agree.
pub(crate) fn initrd_checksum_type_fits() -> Rule {
    rule(
        "!has(self.checksumType) || self.checksum.contains('://') || \
         !(self.checksumType == 'sha256' && self.checksum.size() == 128 || \
         self.checksumType == 'sha512' && self.checksum.size() == 64)",
        "image.initrd.checksumType contradicts the length of image.initrd.checksum (sha256 has 64 hex digits, sha512 has \
         128): correct one of them, or remove checksumType",
    )
    .field_path(".checksumType")
}

/// Wake-on-LAN cannot say what a server boots.
pub(crate) fn kernel_not_by_wol() -> Rule {
    rule(
        format!(
            "!has(self.image) || !has(self.image.format) || self.image.format != 'kernel' || !({})",
            has_scheme("wol")
        ),
        "image.format kernel needs a BMC that says what the server boots, which Wake-on-LAN does not: use a Redfish or \
         IPMI address, or an image that is written",
    )
    .field_path(".image.format")
}

/// Only registries are given credentials.
pub(crate) fn auth_secret_of_artifact() -> Rule {
    rule(
        "!has(self.ociAuthSecretName) || self.ociAuthSecretName == '' || !has(self.url) || self.url == '' || \
         self.url.startsWith('oci://')",
        "image.ociAuthSecretName holds the credentials of a registry, and image.url names none: give an oci:// URL, or \
         remove ociAuthSecretName",
    )
    .field_path(".ociAuthSecretName")
}

// --- root device hints -------------------------------------------------------------------------------------------

/// A device node.
pub(crate) fn device_name() -> Rule {
    rule(
        "self.matches('^/dev(/[A-Za-z0-9_+@=,:.-]+)+$') && !self.contains('/.')",
        "rootDeviceHints.deviceName must be a path below /dev/, such as /dev/sda or /dev/disk/by-path/pci-0000:00:1f.2-ata-1",
    )
}

/// A SCSI address.
pub(crate) fn hctl() -> Rule {
    rule(
        "self.matches('^[0-9]{1,10}(:[0-9]{1,20}){3}$')",
        "rootDeviceHints.hctl must be four numbers host:channel:target:lun, such as 0:0:0:0",
    )
}

/// A World Wide Name as udev prints it.
pub(crate) fn wwn() -> Rule {
    rule(
        "self.matches('^(((0x|naa[.]|eui[.])?[0-9a-fA-F]{16}([0-9a-fA-F]{16})?)|(uuid|nvme)[.][0-9A-Za-z-]+)$')",
        "a World Wide Name is 16 or 32 hex digits, such as 0x5000c500a0b1c2d3 or eui.0025388b710116a1: copy it from \
         HardwareData or from lsblk -o NAME,WWN",
    )
}

/// A size that a disk may have.
pub(crate) fn min_size() -> Rule {
    rule(
        "self >= 0 && self <= 1048576",
        "rootDeviceHints.minSizeGigabytes must be from 0 to 1048576 (one pebibyte)",
    )
}

/// A size that a disk may have.
pub(crate) fn max_size() -> Rule {
    rule(
        "self >= 1 && self <= 1048576",
        "rootDeviceHints.maxSizeGigabytes must be from 1 to 1048576 (one pebibyte)",
    )
}

/// A range that a disk may lie in.
pub(crate) fn size_range() -> Rule {
    rule(
        "!has(self.minSizeGigabytes) || !has(self.maxSizeGigabytes) || self.minSizeGigabytes <= self.maxSizeGigabytes",
        "no disk is as large as rootDeviceHints.minSizeGigabytes and no larger than maxSizeGigabytes: raise the one or \
         lower the other",
    )
    .field_path(".maxSizeGigabytes")
}

/// An empty hint would match nothing.
pub(crate) fn hint_given() -> Rule {
    rule(
        "self != ''",
        "the root device hint is empty and would match no disk: give a value, or remove the hint",
    )
}

// --- cluster -----------------------------------------------------------------------------------------------------

/// A name or an address, nothing around it.
pub(crate) fn endpoint_host() -> Rule {
    rule(
        "self.matches('^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?[.]?$') && !self.matches('^[0-9.]+$') || isIP(self)",
        "controlPlaneEndpoint.host must be a DNS name or an IP address, without scheme, port or brackets: correct it, or \
         remove controlPlaneEndpoint to wait for the Cluster's",
    )
}

/// A port.
pub(crate) fn endpoint_port() -> Rule {
    rule(
        "self >= 1 && self <= 65535",
        "controlPlaneEndpoint.port must be from 1 to 65535: give the port of the API server, usually 6443",
    )
}

/// Certificates and kubeconfigs name the endpoint. On the kind, not on the spec, which templates share.
pub(crate) fn endpoint_immutable() -> Rule {
    rule(
        "!has(oldSelf.spec.controlPlaneEndpoint) || (has(self.spec.controlPlaneEndpoint) && \
         self.spec.controlPlaneEndpoint == oldSelf.spec.controlPlaneEndpoint)",
        "controlPlaneEndpoint does not change once set, for certificates and kubeconfigs name it: create a new cluster \
         for a new endpoint",
    )
    .field_path(".spec.controlPlaneEndpoint")
}

// --- machine -----------------------------------------------------------------------------------------------------

/// `ferric://<host name>/<claim ID>`.
pub(crate) fn provider_id() -> Rule {
    rule(
        r"self.matches(r'^ferric://[^/\s]+/[^/\s]+$')",
        "providerID is ferric://<host name>/<claim ID> and is written by the manager: remove it",
    )
}

/// A host by namespace and name.
pub(crate) fn host_ref_named() -> Rule {
    rule(
        "self.namespace != '' && self.name != ''",
        "hostRef needs namespace and name and is written by the manager: remove it",
    )
}

/// What belongs to one machine does not belong into a template.
pub(crate) fn template_unbound() -> Rule {
    rule(
        "!has(self.spec) || !(has(self.spec.hostRef) || has(self.spec.claimID) || has(self.spec.providerID))",
        "hostRef, claimID and providerID belong to one machine and are written by the manager: remove them from the \
         template; choose hosts with hostSelector",
    )
    .field_path(".spec")
}

/// A selector that can be evaluated.
pub(crate) fn selector() -> Rule {
    rule(
        "!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn'] ? has(e.values) && \
         e.values.size() > 0 : e.operator in ['Exists', 'DoesNotExist'] && (!has(e.values) || e.values.size() == 0))",
        "hostSelector.matchExpressions: use operator In or NotIn with values, or Exists or DoesNotExist without",
    )
}
