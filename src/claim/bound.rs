//! How a machine and the host that it names stand to each other, and the two writes that make a claim.
//!
//! A claim holds only if both sides name each other: the machine by `hostRef` and `claimID`, the host by `consumerRef`
//! (namespace and name) and `record.claim.id`. The consumer's UID may differ: `clusterctl move` and restore give the
//! machine a new one. Intent comes first, so that a kill between the writes leaves a machine that names a free host,
//! which is simply claimed when somebody looks again; never a host that nobody knows of.

use ferric_api::host::{ClaimRecord, ConsumerRef};
use ferric_api::machine::HostRef;
use ferric_api::{API_VERSION, BareMetalHost, BareMetalMachine, ProviderId, names};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::host::record::merge_diff;
use crate::key::Key;

/// Kind that a `consumerRef` to a machine names.
pub const CONSUMER_KIND: &str = "BareMetalMachine";

/// How a host stands to a machine that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Both sides name each other.
    Held,
    /// Both sides name each other but the host knows the machine by another UID: it was moved or restored.
    HeldByOldUid,
    /// The host's record holds our claim, but its consumer is gone or another: somebody edited it.
    RecordOnly,
    /// The host names us as its consumer, but its record holds no claim: only an operator can decide.
    ConsumerOnly,
    /// The host names nobody.
    Unclaimed,
    /// The host is somebody else's, or a former machine's of our name.
    Others,
}

impl Relation {
    /// Whether something of ours may run on the host: it is neither left nor let go without the host's consent.
    pub fn ties(self) -> bool {
        match self {
            Self::Held | Self::HeldByOldUid | Self::RecordOnly | Self::ConsumerOnly => true,
            Self::Unclaimed | Self::Others => false,
        }
    }
}

/// How `host` stands to `machine`, which names it.
pub fn relation(machine: &BareMetalMachine, host: &BareMetalHost) -> Relation {
    let consumer = host.spec.consumer_ref.as_ref();
    let names_us = consumer.is_some_and(|c| is_consumer(c, machine));
    let claim = host.spec.record.as_ref().and_then(|r| r.claim.as_ref());
    match (claim, names_us) {
        (Some(claim), true) if is_claim(claim, machine) => {
            let uid = consumer.and_then(|c| c.uid.as_deref());
            if uid == machine.metadata.uid.as_deref() { Relation::Held } else { Relation::HeldByOldUid }
        }
        (Some(claim), false) if is_claim(claim, machine) => Relation::RecordOnly,
        (None, true) => Relation::ConsumerOnly,
        (None, false) if consumer.is_none() => Relation::Unclaimed,
        _ => Relation::Others,
    }
}

fn is_consumer(consumer: &ConsumerRef, machine: &BareMetalMachine) -> bool {
    let group = consumer.api_version.as_deref().and_then(|v| v.split_once('/')).map(|(group, _)| group);
    consumer.kind.as_deref() == Some(CONSUMER_KIND)
        && group == Some(ferric_api::GROUP)
        && consumer.namespace == machine.metadata.namespace
        && consumer.name == machine.metadata.name
}

fn is_claim(claim: &ClaimRecord, machine: &BareMetalMachine) -> bool {
    !claim.id.is_empty() && Some(claim.id.as_str()) == machine.spec.claim_id.as_deref()
}

/// The host and the claim ID that a machine names; both or nothing.
pub fn intent(machine: &BareMetalMachine) -> Option<(Key, &str)> {
    let host = machine.spec.host_ref.as_ref()?;
    let claim = machine.spec.claim_id.as_deref().filter(|id| !id.is_empty())?;
    Some((Key::new(&host.namespace, &host.name), claim))
}

/// The host that the machine's intent moved on from last.
pub fn left_host(machine: &BareMetalMachine) -> Option<Key> {
    Key::parse(machine.annotations().get(names::LEFT_HOST_ANNOTATION)?)
}

/// Whether the host names the machine as its consumer, under whatever claim.
pub fn names(host: &BareMetalHost, machine: &BareMetalMachine) -> bool {
    host.spec.consumer_ref.as_ref().is_some_and(|consumer| is_consumer(consumer, machine))
}

/// The first write: finalizer, `hostRef` and a fresh claim ID, as a merge patch, and with them the host that is left,
/// if there was an intent before. To be sent with the machine's resourceVersion.
pub fn intent_patch(machine: &BareMetalMachine, host: &Key, claim_id: &str) -> Value {
    let host_ref = HostRef { namespace: host.namespace.clone(), name: host.name.clone() };
    let mut patch = json!({
        "metadata": { "finalizers": with_finalizer(machine) },
        "spec": { "hostRef": host_ref, "claimID": claim_id },
    });
    if let Some((left, _)) = intent(machine).filter(|(left, _)| left != host) {
        patch["metadata"]["annotations"] = json!({ names::LEFT_HOST_ANNOTATION: left.to_string() });
    }
    patch
}

/// The machine's finalizers and ours.
pub fn with_finalizer(machine: &BareMetalMachine) -> Vec<String> {
    let mut finalizers = machine.finalizers().to_vec();
    if !finalizers.iter().any(|f| f == names::MACHINE_FINALIZER) {
        finalizers.push(names::MACHINE_FINALIZER.to_owned());
    }
    finalizers
}

/// The second write: `consumerRef`, the claim and the cluster's label, as a merge patch. To be sent with the host's
/// resourceVersion. `None` if the machine has no intent for this host.
///
/// What the record still says of an image or of a release belongs to an earlier claim and goes with the same write:
/// it must never be taken for ours.
pub fn claim_patch(machine: &BareMetalMachine, host: &BareMetalHost, cluster: &str) -> Option<Value> {
    let (key, claim_id) = intent(machine)?;
    if key != Key::of(host) {
        return None;
    }
    let mut after = host.clone();
    after.spec.consumer_ref = Some(ConsumerRef {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some(CONSUMER_KIND.to_owned()),
        namespace: machine.metadata.namespace.clone(),
        name: machine.metadata.name.clone(),
        uid: machine.metadata.uid.clone(),
    });
    let record = after.spec.record.get_or_insert_default();
    record.claim = Some(ClaimRecord {
        id: claim_id.to_owned(),
        provider_id: Some(ProviderId::new(&key.name, claim_id).to_string()),
    });
    record.image = None;
    record.quiesced_at = None;
    if !cluster.is_empty() {
        after.labels_mut().insert(names::CLUSTER_NAME_LABEL.to_owned(), cluster.to_owned());
    }
    difference(host, &after)
}

/// Tells a host the new UID of its consumer. To be sent with the host's resourceVersion.
pub fn uid_patch(machine: &BareMetalMachine) -> Value {
    json!({ "spec": { "consumerRef": { "uid": machine.metadata.uid } } })
}

fn difference(before: &BareMetalHost, after: &BareMetalHost) -> Option<Value> {
    let view = |h: &BareMetalHost| {
        json!({
            "metadata": { "labels": h.metadata.labels },
            "spec": { "record": h.spec.record, "consumerRef": h.spec.consumer_ref },
        })
    };
    merge_diff(&view(before), &view(after))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::claim::fixtures::{api_version, free_host, machine, merged};
    use ferric_api::host::ImageRecord;

    fn intending() -> BareMetalMachine {
        let mut machine = machine("m");
        machine.spec.host_ref = Some(HostRef { namespace: "ns".into(), name: "h".into() });
        machine.spec.claim_id = Some("c1".into());
        machine
    }

    #[test]
    fn a_claim_makes_both_sides_name_each_other_and_forgets_what_was_before() {
        let mut host = free_host("h");
        let record = host.spec.record.get_or_insert_default();
        record.image = Some(ImageRecord { url: "http://old".into(), ..Default::default() });
        record.quiesced_at = Some(crate::claim::fixtures::Hosts::now());
        record.inspected_at = record.quiesced_at.clone();
        let host = merged(&host, &claim_patch(&intending(), &host, "prod").unwrap());
        assert_eq!(relation(&intending(), &host), Relation::Held);
        let record = host.spec.record.as_ref().unwrap();
        assert_eq!((record.image.as_ref(), record.quiesced_at.as_ref()), (None, None));
        assert!(record.inspected_at.is_some());
        let claim = record.claim.as_ref().unwrap();
        assert_eq!(claim.provider_id.as_deref(), Some("ferric://h/c1"));
        assert_eq!(host.labels()[names::CLUSTER_NAME_LABEL], "prod");
    }

    #[test]
    fn no_claim_without_an_intent_for_this_very_host() {
        assert_eq!(claim_patch(&machine("m"), &free_host("h"), "prod"), None);
        assert_eq!(claim_patch(&intending(), &free_host("other"), "prod"), None);
    }

    #[test]
    fn an_intent_keeps_other_finalizers() {
        let mut machine = machine("m");
        machine.metadata.finalizers = Some(vec!["x/y".into()]);
        let patch = intent_patch(&machine, &Key::new("ns", "h"), "c1");
        assert_eq!(patch["metadata"]["finalizers"], json!(["x/y", names::MACHINE_FINALIZER]));
        assert_eq!(patch["spec"], json!({"hostRef": {"namespace": "ns", "name": "h"}, "claimID": "c1"}));
    }

    #[test]
    fn an_intent_that_moves_on_writes_down_what_it_left() {
        assert_eq!(left_host(&intending()), None);
        let moved = merged(&intending(), &intent_patch(&intending(), &Key::new("ns", "h2"), "c2"));
        assert_eq!(left_host(&moved), Some(Key::new("ns", "h")));
        assert_eq!(intent(&moved), Some((Key::new("ns", "h2"), "c2")));
    }

    #[rstest::rstest]
    #[case(Some(("m", "uid-m")), Some("c1"), Relation::Held)]
    #[case(Some(("m", "uid-before-the-move")), Some("c1"), Relation::HeldByOldUid)]
    #[case(Some(("m", "uid-m")), Some("c0"), Relation::Others)]
    #[case(Some(("m", "uid-m")), None, Relation::ConsumerOnly)]
    #[case(Some(("other", "uid-o")), Some("c1"), Relation::RecordOnly)]
    #[case(None, Some("c1"), Relation::RecordOnly)]
    #[case(Some(("other", "uid-o")), Some("c0"), Relation::Others)]
    #[case(Some(("other", "uid-o")), None, Relation::Others)]
    #[case(None, Some("c0"), Relation::Others)]
    #[case(None, None, Relation::Unclaimed)]
    fn relations(
        #[case] consumer: Option<(&str, &str)>,
        #[case] claim: Option<&str>,
        #[case] expected: Relation,
    ) {
        let mut host = free_host("h");
        host.spec.consumer_ref = consumer.map(|(name, uid)| ConsumerRef {
            api_version: Some(api_version()),
            kind: Some(CONSUMER_KIND.into()),
            namespace: Some("ns".into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
        });
        host.spec.record.get_or_insert_default().claim =
            claim.map(|id| ClaimRecord { id: id.into(), provider_id: None });
        assert_eq!(relation(&intending(), &host), expected);
    }

    #[test]
    fn a_consumer_of_another_kind_or_namespace_is_not_us() {
        let mut host = free_host("h");
        for (kind, namespace) in [("HostClaim", "ns"), (CONSUMER_KIND, "other")] {
            host.spec.consumer_ref = Some(ConsumerRef {
                api_version: Some(api_version()),
                kind: Some(kind.into()),
                namespace: Some(namespace.into()),
                name: Some("m".into()),
                uid: None,
            });
            assert_eq!(relation(&intending(), &host), Relation::Others);
        }
    }
}
