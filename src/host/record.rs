//! Pure transitions of a host's record, its claim and its finalizer, and the merge patch that carries them.
//!
//! Each [`RecordWrite`] is one compare-and-swap: it is applied to the host as it was read, and the difference is sent
//! together with that host's resourceVersion.

use ferric_api::BareMetalHost;
use ferric_api::host::{
    AgentRecord, ClaimRecord, CleanRecord, CleaningMode, HostIdentity, HostRecord, Image, ImageRecord,
    RootDeviceHints, StagedRecord,
};
use ferric_api::names::{
    BLOCK_MOVE_ANNOTATION, CLUSTER_NAME_LABEL, DECIDE_ANNOTATION, HOST_FINALIZER, INSPECT_ANNOTATION,
    METAL3_INSPECT_ANNOTATION, RETRY_ANNOTATION,
};
use ferric_protocol::v1::DeployResult;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value};

mod staged;

pub use staged::{StagedDisk, finished, format_of};
use staged::{begun, unstage};

/// One change of a host's spec or metadata by the manager.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordWrite {
    /// The server is known: finalizer and identity. A record of another machine is dropped.
    Enrol {
        /// What the BMC says of itself.
        identity: HostIdentity,
    },
    /// The hardware was inspected.
    Inspected,
    /// The power was read as off and the agent is about to be booted under this number. Of a server without a BMC the power
    /// is not known: what runs there may go on until the agent has registered.
    BeginBoot {
        /// The number.
        number: i64,
    },
    /// A key registered with the token of the current boot.
    AgentRegistered {
        /// SHA-256 of the key, hex.
        fingerprint: String,
        /// What the agent says of its machine. It is kept where there is no BMC to say it: from then on it has to be this
        /// machine.
        machine: HostIdentity,
    },
    /// The current agent boot is over.
    EndBoot,
    /// Our agent runs on the free host and has nothing to do: nothing is under way that a pause could not stop.
    StandBy,
    /// The free host is to be switched off though our agent runs on it, to save power: the agent boot is over.
    StandDown,
    /// An image is about to be written to the disk of the free host, for nobody yet: the disk's old content is gone from here
    /// on, and what the record said of an image that was staged before.
    BeginStage {
        /// The image, how it is understood, and the hints by which the disk is chosen.
        staged: Box<StagedRecord>,
    },
    /// It is on the disk, verified. Unless `keep_agent`, because somebody has claimed the host meanwhile, it is switched off
    /// to save power: the agent boot is over.
    FinishStage {
        /// What the agent says of it.
        disk: StagedDisk,
        /// Whether the agent boot goes on.
        keep_agent: bool,
    },
    /// The staged image is of no use any more, and the disk is to be cleaned.
    Unstage,
    /// The disk with the staged image belongs to others from here on; the agent boot is over.
    DropStaged,
    /// The image is about to be written: the disk's old content is gone from here on.
    BeginWrite {
        /// The image.
        image: Box<Image>,
        /// `sha256:<hex>` or `sha512:<hex>`.
        digest: String,
        /// What is wiped when it is released.
        cleaning_mode: Option<CleaningMode>,
        /// The hints by which the disk is chosen.
        hints: Option<Box<RootDeviceHints>>,
    },
    /// The image is on the disk, verified; the agent is still in charge.
    FinishWrite {
        /// What the agent says of it.
        written: WrittenDisk,
    },
    /// The host is told to start from the written disk; the agent boot is over.
    StartDisk {
        /// What the agent says of the disk, when the write is finished by the same change.
        written: Option<WrittenDisk>,
    },
    /// The disks are clean. `keep_agent`: more is to be done in the same agent boot.
    Cleaned {
        /// How.
        mode: CleaningMode,
        /// Whether the agent boot goes on.
        keep_agent: bool,
    },
    /// Cleaning is disabled: forget the image without wiping it.
    Forget,
    /// The old workload is dead (power read as off, or our agent runs in its place): the claim ends here.
    Release,
    /// The claim ends and nothing was started under it.
    Free,
    /// An operator decided that the host is what its consumer says it is.
    Adopt {
        /// Claim ID of the consumer.
        claim_id: String,
        /// Provider ID of the consumer.
        provider_id: Option<String>,
        /// Image of the consumer.
        image: Option<Box<Image>>,
        /// What the BMC says of itself.
        identity: HostIdentity,
    },
    /// An operator let the consumer go although the BMC is dead.
    Abandon {
        /// Why the host is quarantined.
        reason: String,
    },
    /// The retry annotation was read.
    ClearRetry,
    /// The host object may go.
    RemoveFinalizer,
}

/// What the record keeps of a finished write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WrittenDisk {
    /// The disk.
    pub root_device: String,
    /// Its serial number, if it has one.
    pub root_serial_number: Option<String>,
    /// The boot option that the firmware tries first now.
    pub boot_entry: Option<String>,
    /// Why there is none.
    pub boot_warning: Option<String>,
    /// The kernel of the disk that the agent has loaded.
    pub loaded_kernel: Option<String>,
    /// It had been staged, and was there.
    pub kept_staged: bool,
    /// Why it was written although one had been staged.
    pub staged_problem: Option<String>,
}

impl From<&DeployResult> for WrittenDisk {
    fn from(result: &DeployResult) -> Self {
        let said = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Self {
            root_device: result.root_device.clone(),
            root_serial_number: said(&result.root_serial.trim().to_owned()),
            boot_entry: said(&result.boot_entry),
            boot_warning: warning(&result.boot_warning, &result.load_problem),
            loaded_kernel: said(&result.loaded_kernel),
            kept_staged: result.kept_staged,
            staged_problem: said(&result.staged_problem),
        }
    }
}

/// What went wrong with starting the disk, though it starts.
fn warning(boot: &str, load: &str) -> Option<String> {
    let load = match load {
        "" => String::new(),
        why => format!("started through the firmware, not by kexec: {why}"),
    };
    let said: Vec<&str> = [boot, &load].into_iter().filter(|text| !text.is_empty()).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

impl WrittenDisk {
    fn note(&self, image: &mut ImageRecord) {
        let Self {
            root_device,
            root_serial_number,
            boot_entry,
            boot_warning,
            loaded_kernel,
            kept_staged,
            staged_problem,
        } = self.clone();
        image.root_device = Some(root_device);
        image.root_serial_number = root_serial_number;
        (image.boot_entry, image.boot_warning) = (boot_entry, boot_warning);
        image.loaded_kernel = loaded_kernel;
        (image.kept_staged, image.staged_problem) = (kept_staged, staged_problem);
        image.staged = None;
    }
}

impl RecordWrite {
    /// The host after this change.
    pub fn apply(&self, host: &BareMetalHost, now: Timestamp) -> BareMetalHost {
        let mut host = host.clone();
        let time = || Time(now);
        let mut record = host.spec.record.take().unwrap_or_default();
        match self {
            Self::Enrol { identity } => {
                add_finalizer(&mut host);
                if record.identity.as_ref().is_some_and(|known| !same_machine(known, identity)) {
                    record = HostRecord::default();
                }
                record.identity = Some(identity.clone());
            }
            Self::Inspected => {
                record.inspected_at = Some(time());
                remove_annotations(&mut host, &[INSPECT_ANNOTATION, METAL3_INSPECT_ANNOTATION]);
            }
            Self::BeginBoot { number } => {
                add_finalizer(&mut host);
                block_move(&mut host, true);
                record.agent =
                    Some(AgentRecord { boot_number: *number, key_fingerprint: None, ended: false });
                if !host.spec.wakes_only() {
                    quiesced(&mut record, now);
                }
            }
            Self::AgentRegistered { fingerprint, machine } => {
                if let Some(agent) = record.agent.as_mut() {
                    agent.key_fingerprint = Some(fingerprint.clone());
                }
                if host.spec.wakes_only() {
                    quiesced(&mut record, now);
                    learn(&mut record, machine);
                }
            }
            Self::EndBoot => {
                end_agent(&mut record);
                block_move(&mut host, false);
            }
            Self::StandBy => block_move(&mut host, false),
            Self::StandDown => {
                stood_down(&mut record, now);
                end_agent(&mut record);
                block_move(&mut host, false);
            }
            Self::BeginStage { staged } => {
                if record.agent.as_ref().is_some_and(|agent| !agent.ended) {
                    block_move(&mut host, true);
                }
                record.staged = Some(begun(staged, record.staged.as_ref(), now));
            }
            Self::FinishStage { disk, keep_agent } => {
                disk.note(&mut record, now);
                if !keep_agent {
                    stood_down(&mut record, now);
                    end_agent(&mut record);
                    block_move(&mut host, false);
                }
            }
            Self::Unstage => unstage(&mut record, now),
            Self::DropStaged => {
                record.staged = None;
                record.cleaned = None;
                end_agent(&mut record);
                block_move(&mut host, false);
            }
            Self::BeginWrite { image, digest, cleaning_mode, hints } => {
                if record.agent.as_ref().is_some_and(|agent| !agent.ended) {
                    // The agent of a host that stood by had nothing to do until now.
                    block_move(&mut host, true);
                }
                record.cleaned = None;
                record.quiesced_at = None;
                // Of a write that was begun before for another image, what was staged may still have to be wiped.
                let before = record.image.take().and_then(|image| image.staged);
                let staged = record.staged.take().filter(|staged| staged.content_hash.is_some()).or(before);
                record.image = Some(ImageRecord {
                    url: image.url.clone(),
                    digest: digest.clone(),
                    write_started_at: Some(time()),
                    cleaning_mode: *cleaning_mode,
                    root_device_hints: hints.as_deref().cloned(),
                    staged,
                    ..ImageRecord::default()
                });
            }
            Self::FinishWrite { written } => {
                if let Some(image) = record.image.as_mut() {
                    image.write_finished_at = Some(time());
                    written.note(image);
                }
                block_move(&mut host, false);
            }
            Self::StartDisk { written } => {
                if let Some(image) = record.image.as_mut() {
                    if let Some(written) = written {
                        image.write_finished_at = Some(time());
                        written.note(image);
                    }
                    image.booted_at = Some(time());
                }
                end_agent(&mut record);
                block_move(&mut host, false);
            }
            Self::Cleaned { mode, keep_agent } => {
                record.cleaned = Some(CleanRecord { mode: *mode, at: time() });
                record.image = None;
                record.staged = None;
                record.quiesced_at = None;
                if !keep_agent {
                    end_agent(&mut record);
                    block_move(&mut host, false);
                }
            }
            Self::Forget => {
                record.image = None;
                record.staged = None;
                record.cleaned = None;
                record.quiesced_at = None;
                end_agent(&mut record);
                block_move(&mut host, false);
            }
            Self::Release => {
                if host.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(DECIDE_ANNOTATION)) {
                    // Nobody knows what ran there: what the record says of the disks is from before.
                    unstage(&mut record, now);
                }
                drop_claim(&mut host, &mut record);
                // A server without a BMC is released once its agent runs, which has yet to wipe the disks.
                if !host.spec.wakes_only() {
                    end_agent(&mut record);
                    block_move(&mut host, false);
                }
                record.quiesced_at = Some(time());
            }
            Self::Free => drop_claim(&mut host, &mut record),
            Self::Adopt { claim_id, provider_id, image, identity } => {
                add_finalizer(&mut host);
                remove_annotations(&mut host, &[DECIDE_ANNOTATION]);
                record = HostRecord {
                    identity: Some(identity.clone()),
                    claim: Some(ClaimRecord { id: claim_id.clone(), provider_id: provider_id.clone() }),
                    image: Some(ImageRecord {
                        url: image.as_ref().map(|i| i.url.clone()).unwrap_or_default(),
                        digest: "adopted".to_owned(),
                        write_started_at: Some(time()),
                        write_finished_at: Some(time()),
                        booted_at: Some(time()),
                        ..ImageRecord::default()
                    }),
                    inspected_at: record.inspected_at,
                    ..HostRecord::default()
                };
            }
            Self::Abandon { reason } => {
                drop_claim(&mut host, &mut record);
                end_agent(&mut record);
                block_move(&mut host, false);
                record.quarantined = Some(reason.clone());
            }
            Self::ClearRetry => remove_annotations(&mut host, &[RETRY_ANNOTATION]),
            Self::RemoveFinalizer => {
                if let Some(finalizers) = host.metadata.finalizers.as_mut() {
                    finalizers.retain(|f| f != HOST_FINALIZER);
                }
            }
        }
        host.spec.record = (record != HostRecord::default()).then_some(record);
        host
    }

    /// The JSON merge patch (RFC 7396) that makes this change, or `None` when it changes nothing.
    pub fn patch(&self, host: &BareMetalHost, now: Timestamp) -> Option<Value> {
        let after = self.apply(host, now);
        let view = |h: &BareMetalHost| {
            serde_json::json!({
                "metadata": {
                    "finalizers": h.metadata.finalizers,
                    "annotations": h.metadata.annotations,
                    "labels": h.metadata.labels,
                },
                "spec": { "record": h.spec.record, "consumerRef": h.spec.consumer_ref },
            })
        };
        merge_diff(&view(host), &view(&after))
    }
}

/// Whether two identities can be the same machine: nothing that both name differs, and they name something in common.
pub fn same_machine(a: &HostIdentity, b: &HostIdentity) -> bool {
    let pairs = [
        (&a.system_uuid, &b.system_uuid),
        (&a.serial_number, &b.serial_number),
        (&a.boot_mac_address, &b.boot_mac_address),
    ];
    let mut common = false;
    for (a, b) in pairs {
        if let (Some(a), Some(b)) = (a, b) {
            if !a.eq_ignore_ascii_case(b) {
                return false;
            }
            common = true;
        }
    }
    common || (*a == HostIdentity::default() && *b == HostIdentity::default())
}

/// The merge patch (RFC 7396) that turns `before` into `after`, or `None` if they are equal.
pub fn merge_diff(before: &Value, after: &Value) -> Option<Value> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let mut patch = Map::new();
            for (key, value) in after {
                match before.get(key) {
                    Some(old) => {
                        if let Some(change) = merge_diff(old, value) {
                            patch.insert(key.clone(), change);
                        }
                    }
                    None if value.is_null() => {}
                    None => {
                        patch.insert(key.clone(), value.clone());
                    }
                }
            }
            for key in before.keys().filter(|key| !after.contains_key(*key)) {
                patch.insert(key.clone(), Value::Null);
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        (before, after) => (before != after).then(|| after.clone()),
    }
}

fn add_finalizer(host: &mut BareMetalHost) {
    let finalizers = host.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == HOST_FINALIZER) {
        finalizers.push(HOST_FINALIZER.to_owned());
    }
}

fn remove_annotations(host: &mut BareMetalHost, names: &[&str]) {
    if let Some(annotations) = host.metadata.annotations.as_mut() {
        annotations.retain(|name, _| !names.contains(&name.as_str()));
    }
}

/// `clusterctl move` waits while the annotation stands: something runs that a pause cannot stop.
fn block_move(host: &mut BareMetalHost, on: bool) {
    if on {
        host.metadata
            .annotations
            .get_or_insert_default()
            .insert(BLOCK_MOVE_ANNOTATION.to_owned(), String::new());
    } else {
        remove_annotations(host, &[BLOCK_MOVE_ANNOTATION]);
    }
}

/// What ran is dead, and nobody uses the host any more.
fn quiesced(record: &mut HostRecord, now: Timestamp) {
    if record.image.is_some() && record.claim.is_none() && record.quiesced_at.is_none() {
        record.quiesced_at = Some(Time(now));
    }
}

/// How long it is remembered that a host was switched off to save power: caps are for 24 hours.
const STOOD_DOWN: SignedDuration = SignedDuration::from_hours(24);
/// Most times that are remembered: as many as a cap can be high.
const STOOD_DOWN_MOST: usize = 100;

/// Notes that the host is switched off to save power.
fn stood_down(record: &mut HostRecord, now: Timestamp) {
    let times = &mut record.stood_down_at;
    times.retain(|at| now.duration_since(at.0) < STOOD_DOWN);
    times.push(Time(now));
    let spare = times.len().saturating_sub(STOOD_DOWN_MOST);
    times.drain(..spare);
}

/// Completes the identity of a machine that no BMC speaks for.
fn learn(record: &mut HostRecord, machine: &HostIdentity) {
    let Some(identity) = record.identity.as_mut() else { return };
    for (known, found) in [
        (&mut identity.system_uuid, &machine.system_uuid),
        (&mut identity.serial_number, &machine.serial_number),
    ] {
        if known.is_none() {
            known.clone_from(found);
        }
    }
}

fn end_agent(record: &mut HostRecord) {
    if let Some(agent) = record.agent.as_mut() {
        agent.ended = true;
    }
}

fn drop_claim(host: &mut BareMetalHost, record: &mut HostRecord) {
    host.spec.consumer_ref = None;
    record.claim = None;
    remove_annotations(host, &[DECIDE_ANNOTATION, ferric_api::names::ABANDON_ANNOTATION]);
    if let Some(labels) = host.metadata.labels.as_mut() {
        labels.remove(CLUSTER_NAME_LABEL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// RFC 7396, section 2.
    fn merge(target: &mut Value, patch: &Value) {
        match patch {
            Value::Object(patch) => {
                if !target.is_object() {
                    *target = Value::Object(Map::new());
                }
                let Value::Object(target) = target else { return };
                for (key, value) in patch {
                    if value.is_null() {
                        target.remove(key);
                    } else {
                        merge(target.entry(key.clone()).or_insert(Value::Null), value);
                    }
                }
            }
            other => *target = other.clone(),
        }
    }

    fn json_object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<bool>().prop_map(Value::from), "[a-z]{0,3}".prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect()))
        })
        .prop_map(|v| json!({ "root": v }))
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_goal(before in json_object(), after in json_object()) {
            let mut value = before.clone();
            if let Some(patch) = merge_diff(&before, &after) {
                merge(&mut value, &patch);
            }
            prop_assert_eq!(value, after);
        }
    }

    #[test]
    fn a_machine_without_a_bmc_is_known_by_its_first_agent_from_then_on() {
        let found = |serial: &str| RecordWrite::AgentRegistered {
            fingerprint: "ab".to_owned(),
            machine: HostIdentity { serial_number: Some(serial.to_owned()), ..HostIdentity::default() },
        };
        for (address, expected) in [("wol://192.0.2.255", Some("s1")), ("redfish://192.0.2.1", None)] {
            let bmc = ferric_api::host::BmcDetails { address: address.to_owned(), ..Default::default() };
            let mut host = BareMetalHost::new("h", Default::default());
            host.spec.bmc = Some(bmc);
            let now = Timestamp::UNIX_EPOCH;
            for write in [
                RecordWrite::Enrol { identity: HostIdentity::default() },
                RecordWrite::BeginBoot { number: 1 },
                found("s1"),
                RecordWrite::BeginBoot { number: 2 },
                found("s2"),
            ] {
                host = write.apply(&host, now);
            }
            let identity = host.spec.record.and_then(|record| record.identity).unwrap_or_default();
            assert_eq!(identity.serial_number.as_deref(), expected, "{address}");
        }
    }

    #[test]
    fn machines_differ_when_anything_they_both_name_differs() {
        let id = |uuid: Option<&str>, serial: Option<&str>| HostIdentity {
            system_uuid: uuid.map(str::to_owned),
            serial_number: serial.map(str::to_owned),
            boot_mac_address: None,
        };
        assert!(same_machine(&id(Some("A"), None), &id(Some("a"), Some("1"))));
        assert!(!same_machine(&id(Some("a"), Some("1")), &id(Some("a"), Some("2"))));
        assert!(!same_machine(&id(Some("a"), None), &id(None, Some("1"))));
    }
}
