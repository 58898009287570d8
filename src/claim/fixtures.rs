//! Objects for the tests of this module.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use ferric_api::condition::{self, ConditionStatus, types};
use ferric_api::host::{BareMetalHostStatus, Image};
use ferric_api::{API_VERSION, BareMetalHost, BareMetalMachine, ProvisioningState, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference, Time};

use super::score::{Ask, Group};
use super::selector::Selector;
use crate::capi::{Cluster, Machine};

pub(crate) struct Hosts;

impl Hosts {
    pub(crate) fn now() -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(1_000_000).unwrap())
    }

    pub(crate) fn selector(pairs: &[(&str, &str)]) -> Selector {
        let match_labels = Some(labels(pairs));
        Selector::parse(Some(&LabelSelector { match_labels, match_expressions: None })).unwrap()
    }
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A host that anybody may claim.
pub(crate) fn host(name: &str, pairs: &[(&str, &str)]) -> BareMetalHost {
    let mut host = BareMetalHost::new(name, Default::default());
    host.metadata.namespace = Some("ns".into());
    host.metadata.uid = Some(format!("uid-{name}"));
    host.metadata.resource_version = Some("1".into());
    host.metadata.labels = Some(labels(pairs));
    let mut status = BareMetalHostStatus::default();
    status.provisioning.state = ProvisioningState::Available;
    let now = Hosts::now();
    condition::set(&mut status.conditions, types::REGISTERED, ConditionStatus::True, "Ok", "", None, &now);
    host.status = Some(status);
    host
}

pub(crate) fn free_host(name: &str) -> BareMetalHost {
    host(name, &[])
}

pub(crate) fn ask(machine: &str) -> Ask {
    Ask {
        namespace: "ns".into(),
        machine_uid: format!("uid-{machine}"),
        selector: Selector::default(),
        failure_domain: None,
        group: Group::default(),
        image: None,
        except: None,
    }
}

/// A machine as Cluster API makes it, with an image.
pub(crate) fn machine(name: &str) -> BareMetalMachine {
    let mut machine = BareMetalMachine::new(name, Default::default());
    machine.metadata.namespace = Some("ns".into());
    machine.metadata.uid = Some(format!("uid-{name}"));
    machine.metadata.resource_version = Some("1".into());
    machine.metadata.generation = Some(1);
    machine.metadata.labels = Some(labels(&[(names::CLUSTER_NAME_LABEL, "prod")]));
    machine.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "cluster.x-k8s.io/v1beta2".into(),
        kind: "Machine".into(),
        name: name.into(),
        uid: format!("uid-owner-{name}"),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    machine.spec.image = Some(Image { url: "http://images/os.raw".into(), ..Default::default() });
    machine
}

/// The Machine that owns [`machine`], its bootstrap data there.
pub(crate) fn owner(name: &str) -> Machine {
    let mut owner = Machine::new(name, Default::default());
    owner.metadata.namespace = Some("ns".into());
    owner.spec.cluster_name = "prod".into();
    owner.spec.bootstrap.data_secret_name = Some(format!("{name}-bootstrap"));
    owner
}

/// A Cluster whose infrastructure is there.
pub(crate) fn cluster() -> Cluster {
    let mut cluster = Cluster::new("prod", Default::default());
    cluster.metadata.namespace = Some("ns".into());
    cluster
        .status
        .get_or_insert_default()
        .initialization
        .get_or_insert_default()
        .infrastructure_provisioned = Some(true);
    cluster
}

pub(crate) fn api_version() -> String {
    API_VERSION.to_owned()
}

/// RFC 7396.
pub(crate) fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
    let serde_json::Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = serde_json::json!({});
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(serde_json::Value::Null), value);
        }
    }
}

/// The object after a merge patch.
pub(crate) fn merged<K: serde::Serialize + serde::de::DeserializeOwned>(
    object: &K,
    patch: &serde_json::Value,
) -> K {
    let mut value = serde_json::to_value(object).unwrap();
    merge(&mut value, patch);
    serde_json::from_value(value).unwrap()
}
