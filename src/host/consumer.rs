//! What uses a host, and what it wants on it.

use std::collections::BTreeMap;

use ferric_api::host::{
    CleaningMode, HostStandby, Image, ImageFormat, RootDeviceHints, SecretName, StagedRecord,
};
use ferric_api::names::CAPI_PAUSED_ANNOTATION;
use ferric_api::{BareMetalHost, BareMetalMachine};

use super::record::finished;
use crate::capi::{Cluster, Machine};
use crate::key::Key;

/// What uses a host.
#[derive(Debug, Clone, PartialEq)]
pub enum Consumer {
    /// Nothing does. `desired` is what the host's own spec asks for.
    None {
        /// From `spec.image`.
        desired: Option<Desired>,
    },
    /// A machine whose claim and the host's agree.
    Machine {
        /// The machine.
        machine: Key,
        /// What it wants.
        desired: Result<Desired, String>,
    },
    /// A machine that is being deleted, or that names another host or claim: the host is to be let go.
    Releasing {
        /// Who let it go, as a phrase for people.
        by: String,
    },
    /// The consumer is not to be found (yet).
    Missing {
        /// Kind, namespace and name.
        what: String,
    },
    /// Something that this provider does not know; it is left to whoever wrote it.
    Foreign {
        /// Kind, namespace and name.
        what: String,
    },
    /// There is a consumer but the record holds no claim that matches: nothing is done until an operator decides.
    NoUsableRecord {
        /// Kind, namespace and name.
        what: String,
        /// The claim ID that the consumer holds, if it can be seen.
        claim_id: Option<String>,
        /// The provider ID that the consumer holds, if it can be seen.
        provider_id: Option<String>,
        /// The image that the consumer wants.
        image: Option<Image>,
    },
    /// The consumer's cluster is paused.
    Paused {
        /// What paused it.
        by: String,
    },
}

/// What should run on a host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Desired {
    /// The image.
    pub image: Image,
    /// Secret with the credentials of the image's registry.
    pub pull_secret: Option<Key>,
    /// Which disk.
    pub hints: Option<RootDeviceHints>,
    /// User data: Secret and the keys under which it may stand.
    pub user_data: Option<SecretSource>,
    /// Network data.
    pub network_data: Option<SecretSource>,
    /// Additional metadata.
    pub meta_data: Option<SecretSource>,
    /// Metadata that the provider itself knows, e.g. `provider_id`.
    pub facts: BTreeMap<String, String>,
    /// Instance ID: new for every claim.
    pub instance_id: String,
    /// What is wiped when the image is released; the host's own mode when absent.
    pub cleaning_mode: Option<CleaningMode>,
}

/// A Secret and the keys that are looked for, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSource {
    /// Namespace and name.
    pub secret: Key,
    /// Keys in order of preference.
    pub keys: &'static [&'static str],
}

/// What is to be wiped before the host is free (again): what the consumer of the image on its disk asked for, else
/// what the host says.
pub fn cleaning_mode(host: &BareMetalHost) -> CleaningMode {
    let image = host.spec.record.as_ref().and_then(|r| r.image.as_ref());
    image.and_then(|image| image.cleaning_mode).or(host.spec.automated_cleaning_mode).unwrap_or_default()
}

/// Which disk is the root disk to a cleaning: the one that an image was, or may have been, written to; before that, the
/// one that the hints of the consumer or the host name. `None`: the one that is written without hints.
pub fn cleaning_root(host: &BareMetalHost, desired: Option<&Desired>) -> Option<RootDeviceHints> {
    let record = host.spec.record.as_ref();
    let (serial, name, chosen) = match record.map(|r| (r.image.as_ref(), r.staged.as_ref())) {
        Some((Some(image), _)) => (&image.root_serial_number, &image.root_device, &image.root_device_hints),
        Some((None, Some(staged))) => {
            (&staged.root_serial_number, &staged.root_device, &staged.root_device_hints)
        }
        _ => {
            let own = || host.spec.root_device_hints.clone();
            return desired.map_or_else(own, |desired| desired.hints.clone());
        }
    };
    if let Some(serial) = serial {
        return Some(RootDeviceHints { serial_number: Some(serial.clone()), ..RootDeviceHints::default() });
    }
    // A disk without a serial number, or a write that never came to its end, or an image that others wrote.
    let named =
        |name: &String| RootDeviceHints { device_name: Some(name.clone()), ..RootDeviceHints::default() };
    let chosen = || chosen.clone().or_else(|| host.spec.root_device_hints.clone());
    name.as_ref().map(named).or_else(chosen)
}

/// What the agent is told of the name of the disk that is cleaned, besides the hints.
pub fn cleaning_root_name(host: &BareMetalHost) -> Option<String> {
    let record = host.spec.record.as_ref()?;
    match (&record.image, &record.staged) {
        (Some(image), _) => image.root_device.clone(),
        (None, staged) => staged.as_ref()?.root_device.clone(),
    }
}

/// What is to be kept on the disk of the host while it is free: an image, and nobody's data. `None`: nothing.
pub fn staged_desire(host: &BareMetalHost) -> Option<Desired> {
    let spec = &host.spec;
    let image = spec.staged_image.clone().filter(Image::is_written)?;
    let free =
        spec.consumer_ref.is_none() && spec.image.is_none() && host.metadata.deletion_timestamp.is_none();
    // Refused at the door too, but whoever may go round that must not lose a disk by it.
    let ours = !spec.externally_provisioned
        && !spec.wakes_only()
        && spec.automated_cleaning_mode != Some(CleaningMode::Disabled);
    if spec.standby != Some(HostStandby::Staged) || !free || !ours {
        return None;
    }
    let namespace = host.metadata.namespace.clone().unwrap_or_default();
    Some(Desired {
        pull_secret: pull_secret(&image, &namespace),
        image,
        hints: spec.root_device_hints.clone(),
        ..Desired::default()
    })
}

/// What is to be in the provider's cache because it is to be staged. What is on the disk already need not be there, where
/// others may need the room: whoever claims the host asks for it himself.
pub fn to_stage(host: &BareMetalHost) -> Option<Desired> {
    let record =
        host.spec.record.as_ref().filter(|record| record.identity.is_some() && record.image.is_none())?;
    staged_desire(host)
        .filter(|desired| !finished(record).is_some_and(|staged| is_staged_as(staged, desired)))
}

/// Whether what is staged is what is to be, as far as the specs can tell: what a URL names may have changed since, which is
/// found out before it is used.
pub fn is_staged_as(staged: &StagedRecord, desired: &Desired) -> bool {
    let checksum = desired.image.checksum.as_deref().unwrap_or_default().to_ascii_lowercase();
    let by_file = checksum.contains("://") || checksum.is_empty();
    staged.url == desired.image.url
        && (by_file || staged.digest.to_ascii_lowercase().ends_with(&checksum))
        && (desired.image.effective_format() == ImageFormat::Qcow2) == (staged.format == "extents")
        && staged.root_device_hints == desired.hints
}

impl Consumer {
    /// What is wanted on the host, if anything and if it can be told.
    pub fn desired(&self) -> Option<&Desired> {
        match self {
            Self::None { desired } => desired.as_ref(),
            Self::Machine { desired, .. } => desired.as_ref().ok(),
            _ => None,
        }
    }
}

/// Reads off who uses a host, from the host and what the caches hold of its consumer.
pub fn observe(
    host: &BareMetalHost,
    machine: Option<&BareMetalMachine>,
    owner: Option<&Machine>,
    cluster: Option<&Cluster>,
) -> Consumer {
    let Some(consumer) = &host.spec.consumer_ref else {
        return Consumer::None { desired: own_desire(host) };
    };
    let name = consumer.name.clone().unwrap_or_default();
    let namespace =
        consumer.namespace.clone().or_else(|| host.metadata.namespace.clone()).unwrap_or_default();
    let kind = consumer.kind.clone().unwrap_or_default();
    let what = format!("{kind} {namespace}/{name}");
    let group = consumer.api_version.as_deref().unwrap_or_default().split('/').next().unwrap_or_default();
    if kind != "BareMetalMachine" || group != ferric_api::GROUP {
        return Consumer::Foreign { what };
    }
    if let Some(cluster) = cluster
        && cluster.is_paused()
    {
        return Consumer::Paused { by: format!("pause of Cluster {}", Key::of(cluster)) };
    }
    let record_claim = host.spec.record.as_ref().and_then(|r| r.claim.as_ref());
    let Some(machine) = machine else {
        return Consumer::Missing { what };
    };
    let key = Key::of(machine);
    if machine.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(CAPI_PAUSED_ANNOTATION)) {
        return Consumer::Paused {
            by: format!("annotation {CAPI_PAUSED_ANNOTATION} of BareMetalMachine {key}"),
        };
    }
    let names_us = machine.spec.host_ref.as_ref().is_some_and(|host_ref| {
        Some(host_ref.name.as_str()) == host.metadata.name.as_deref()
            && Some(host_ref.namespace.as_str()) == host.metadata.namespace.as_deref()
    });
    let Some(claim) = record_claim else {
        return Consumer::NoUsableRecord {
            what,
            claim_id: machine.spec.claim_id.clone().filter(|_| names_us),
            provider_id: machine.spec.provider_id.clone().filter(|_| names_us),
            image: machine.spec.image.clone(),
        };
    };
    if !names_us {
        return Consumer::Releasing { by: format!("BareMetalMachine {key} names another host") };
    }
    if machine.spec.claim_id.as_deref() != Some(claim.id.as_str()) {
        return Consumer::Releasing { by: format!("BareMetalMachine {key} holds another claim") };
    }
    if machine.metadata.deletion_timestamp.is_some() {
        return Consumer::Releasing { by: format!("BareMetalMachine {key} is being deleted") };
    }
    Consumer::Machine {
        desired: machine_desire(host, machine, owner, &claim.id, claim.provider_id.as_deref()),
        machine: key,
    }
}

fn machine_desire(
    host: &BareMetalHost,
    machine: &BareMetalMachine,
    owner: Option<&Machine>,
    claim_id: &str,
    provider_id: Option<&str>,
) -> Result<Desired, String> {
    let key = Key::of(machine);
    let image =
        machine.spec.image.clone().ok_or_else(|| {
            format!("BareMetalMachine {key} to get an image: set spec.image in its template")
        })?;
    let data = owner
        .and_then(|owner| owner.spec.bootstrap.data_secret_name.clone())
        .ok_or_else(|| format!("the bootstrap data of the Machine that owns BareMetalMachine {key}"))?;
    let secret = |name: &str| Key::new(key.namespace.clone(), name);
    let mut facts = known_facts(host, claim_id);
    if let Some(provider_id) = provider_id {
        facts.insert("provider_id".to_owned(), provider_id.to_owned());
    }
    if let Some(owner) = owner {
        facts.insert("cluster_name".to_owned(), owner.spec.cluster_name.clone());
        facts.insert("machine_name".to_owned(), owner.metadata.name.clone().unwrap_or_default());
    }
    Ok(Desired {
        pull_secret: pull_secret(&image, &key.namespace),
        image,
        hints: machine.spec.root_device_hints.clone().or_else(|| host.spec.root_device_hints.clone()),
        user_data: Some(SecretSource { secret: secret(&data), keys: &["value"] }),
        network_data: source(machine.spec.network_data.as_ref(), &key.namespace, &["value", "networkData"]),
        meta_data: source(machine.spec.meta_data.as_ref(), &key.namespace, &["value", "metaData"]),
        facts,
        instance_id: claim_id.to_owned(),
        cleaning_mode: machine.spec.automated_cleaning_mode,
    })
}

/// What the host's own spec asks for; nothing while it is being deleted.
fn own_desire(host: &BareMetalHost) -> Option<Desired> {
    let image = host.spec.image.clone()?;
    if host.metadata.deletion_timestamp.is_some() || host.spec.externally_provisioned {
        return None;
    }
    let namespace = host.metadata.namespace.clone().unwrap_or_default();
    let uid = host.metadata.uid.clone().unwrap_or_default();
    Some(Desired {
        pull_secret: pull_secret(&image, &namespace),
        image,
        hints: host.spec.root_device_hints.clone(),
        user_data: source(host.spec.user_data.as_ref(), &namespace, &["value", "userData"]),
        network_data: source(host.spec.network_data.as_ref(), &namespace, &["value", "networkData"])
            .or_else(|| agents_network(host, &namespace)),
        meta_data: source(host.spec.meta_data.as_ref(), &namespace, &["value", "metaData"]),
        facts: known_facts(host, &uid),
        instance_id: uid,
        cleaning_mode: None,
    })
}

/// What the host's own operating system gets where nothing else is said, as Metal3 has it.
fn agents_network(host: &BareMetalHost, namespace: &str) -> Option<SecretSource> {
    let name = host.spec.preprovisioning_network_data_name.as_ref().filter(|name| !name.is_empty())?;
    Some(SecretSource { secret: Key::new(namespace, name.clone()), keys: &["networkData", "value"] })
}

fn source(name: Option<&SecretName>, namespace: &str, keys: &'static [&'static str]) -> Option<SecretSource> {
    let name = name.filter(|secret| !secret.name.is_empty())?;
    Some(SecretSource { secret: Key::new(namespace, name.name.clone()), keys })
}

/// The Secret that an image names, in the namespace of the object that has the image.
fn pull_secret(image: &Image, namespace: &str) -> Option<Key> {
    let name = image.oci_auth_secret_name.as_deref().filter(|name| !name.is_empty())?;
    Some(Key::new(namespace, name))
}

fn known_facts(host: &BareMetalHost, instance_id: &str) -> BTreeMap<String, String> {
    let name = host.metadata.name.clone().unwrap_or_default();
    BTreeMap::from([
        ("instance_id".to_owned(), instance_id.to_owned()),
        ("local_hostname".to_owned(), name.clone()),
        ("host".to_owned(), name),
        ("host_namespace".to_owned(), host.metadata.namespace.clone().unwrap_or_default()),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::host::{BareMetalHostSpec, HostRecord, ImageRecord};

    use super::*;

    #[test]
    fn a_cleaning_is_for_the_disk_that_was_written_or_would_be() {
        let by_name =
            |name: &str| RootDeviceHints { device_name: Some(name.to_owned()), ..RootDeviceHints::default() };
        let by_serial =
            |s: &str| RootDeviceHints { serial_number: Some(s.to_owned()), ..RootDeviceHints::default() };
        let host = |image: Option<ImageRecord>| {
            let mut host = BareMetalHost::new("a", BareMetalHostSpec::default());
            host.spec.root_device_hints = Some(by_name("/dev/host"));
            host.spec.record = image.map(|image| HostRecord { image: Some(image), ..HostRecord::default() });
            host
        };
        let desired = Desired { hints: Some(by_name("/dev/consumer")), ..Desired::default() };
        let root = |image, desired| cleaning_root(&host(image), desired).unwrap();
        assert_eq!(root(None, None), by_name("/dev/host"));
        assert_eq!(root(None, Some(&desired)), by_name("/dev/consumer"));
        // Begun and not finished: the consumer may be gone, its hints are in the record.
        let begun = ImageRecord { root_device_hints: Some(by_name("/dev/then")), ..ImageRecord::default() };
        assert_eq!(root(Some(begun.clone()), Some(&desired)), by_name("/dev/then"));
        assert_eq!(root(Some(ImageRecord::default()), Some(&desired)), by_name("/dev/host"));
        let named = ImageRecord { root_device: Some("/dev/sdb".to_owned()), ..begun };
        assert_eq!(root(Some(named.clone()), None), by_name("/dev/sdb"));
        let known = ImageRecord { root_serial_number: Some("S1".to_owned()), ..named };
        assert_eq!(root(Some(known), None), by_serial("S1"));
    }
}
