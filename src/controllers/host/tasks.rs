//! Tasks for the agent: built from what the consumer asks for and the Secrets that it names.

use std::sync::Arc;
use std::time::Duration;

use ferric_api::BareMetalHost;
use ferric_api::host::{
    BootAfterWrite, CleaningDisks, CleaningMode, DiskPreference, DiskType, RootDeviceHints,
};
use ferric_protocol::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::execute::Outcome;
use super::jobs::label_for_move;
use super::{HostContext, ReconcileError};
use crate::deploy::config_drive;
use crate::deploy::images::{ImageState, ReadyImage};
use crate::host::consumer::{Desired, SecretSource, cleaning_root, cleaning_root_name, staged_desire};
use crate::host::record::format_of;
use crate::host::{AgentTask, Consumer, Wait};
use crate::key::Key;
use crate::patch;

/// When an image that is to be staged is looked for again.
const IMAGE_LOOK: Duration = Duration::from_secs(10);

/// Gives the connected agent a task.
pub(super) async fn submit(
    host: &BareMetalHost,
    key: &Key,
    context: &Arc<HostContext>,
    task: &AgentTask,
) -> Result<Outcome, ReconcileError> {
    let Some(agent) = context.hub.view(key) else { return Ok(Outcome::Again) };
    let work = match task {
        AgentTask::Clean { mode, .. } => v1::task::Work::Clean(v1::Clean {
            mode: match mode {
                CleaningMode::Full => v1::CleanMode::Full.into(),
                CleaningMode::Metadata | CleaningMode::Disabled => v1::CleanMode::Metadata.into(),
            },
            devices: Vec::new(),
            scope: match host.spec.automated_cleaning_disks.unwrap_or_default() {
                CleaningDisks::Root => v1::CleanScope::Root.into(),
                CleaningDisks::All => v1::CleanScope::All.into(),
            },
            root_device_hints: cleaning_root(host, context.consumer(host).desired()).as_ref().map(hints),
            root_device: cleaning_root_name(host).unwrap_or_default(),
        }),
        AgentTask::Kexec { .. } => power(v1::PowerAction::Kexec),
        AgentTask::Restart { .. } => power(v1::PowerAction::Reboot),
        AgentTask::PowerOff { .. } => power(v1::PowerAction::PowerOff),
        AgentTask::Stage { .. } => match stage(host, key, context) {
            Ok(stage) => v1::task::Work::Stage(stage),
            // That an image is not there says nothing against the host, which others may want.
            Err(message) => return Ok(Outcome::Wait(Wait::new("StagedImage", message, IMAGE_LOOK))),
        },
        AgentTask::Deploy { .. } => match deploy(host, key, context).await? {
            Ok(deploy) => v1::task::Work::Deploy(deploy),
            Err((reason, message)) => {
                context.with(key, |r| r.bmc.fail(reason.to_owned(), message, None, false, Timestamp::now()));
                return Ok(Outcome::Again);
            }
        },
    };
    let task = v1::Task { id: task.id().to_owned(), work: Some(work) };
    tracing::info!(host = %key, task = %task.id, "agent task");
    // An agent that left in this moment wakes the host when it comes back. Another one that came is not given what
    // was put together for this one.
    let _ = context.hub.submit_to(key, &agent.fingerprint, task);
    Ok(Outcome::Again)
}

/// One word and one sentence for a condition.
pub(super) type Refused = (&'static str, String);

async fn deploy(
    host: &BareMetalHost,
    key: &Key,
    context: &HostContext,
) -> Result<Result<v1::Deploy, Refused>, ReconcileError> {
    let consumer = context.consumer(host);
    let Some(desired) = consumer.desired() else {
        return Ok(Err(("NoImage", "nothing is to be written any more".to_owned())));
    };
    let ImageState::Ready(image) = context.images.ensure(key, &desired.image, desired.pull_secret.as_ref())
    else {
        return Ok(Err(("ImageNotReady", "the image is not in the cache any more".to_owned())));
    };
    let config_drive = match configuration(context, &consumer, desired).await? {
        Ok(drive) => drive,
        Err(refused) => return Ok(Err(refused)),
    };
    Ok(Ok(v1::Deploy {
        image: Some(image_for_agent(&context.boot.agent_url, &image)),
        root_device_hints: desired.hints.as_ref().map(hints),
        config_drive: Some(config_drive),
        load_kernel: desired.image.boot_after_write == Some(BootAfterWrite::Kexec),
        // Nothing else makes such a server start our agent again.
        network_first: host.spec.wakes_only(),
        staged: staged(host, &image),
    }))
}

/// What the agent is to look for of an image that was staged before the host was claimed.
fn staged(host: &BareMetalHost, image: &ReadyImage) -> Option<v1::Staged> {
    let staged = host.spec.record.as_ref()?.image.as_ref()?.staged.as_ref()?;
    Some(v1::Staged {
        content_hash: staged.content_hash.clone()?,
        bytes: staged.bytes.and_then(|bytes| u64::try_from(bytes).ok())?,
        root_device: staged.root_device.clone().unwrap_or_default(),
        root_serial: staged.root_serial_number.clone().unwrap_or_default(),
        root_wwn: staged.root_wwn.clone().unwrap_or_default(),
        same_image: staged.digest == image.digest && staged.format == format_of(image.compression),
    })
}

/// The image that is to be on the disk of the free host, if it is the one that the record says is about to be written.
fn stage(host: &BareMetalHost, key: &Key, context: &HostContext) -> Result<v1::Stage, String> {
    let Some(desired) = staged_desire(host) else {
        return Err("an image to be named that is to be staged".to_owned());
    };
    let ImageState::Ready(image) = context.images.ensure(key, &desired.image, desired.pull_secret.as_ref())
    else {
        return Err("the image that is to be staged to be in the cache again".to_owned());
    };
    let begun = host.spec.record.as_ref().and_then(|record| record.staged.as_ref());
    if begun.is_none_or(|begun| begun.digest != image.digest || begun.format != format_of(image.compression))
    {
        return Err("the record to name the image that is to be staged now".to_owned());
    }
    Ok(v1::Stage {
        image: Some(image_for_agent(&context.boot.agent_url, &image)),
        root_device_hints: desired.hints.as_ref().map(hints),
    })
}

fn power(action: v1::PowerAction) -> v1::task::Work {
    v1::task::Work::Power(v1::Power { action: action.into() })
}

/// Reads the Secrets that the consumer names, and puts together what an operating system is configured with.
pub(super) async fn configuration(
    context: &HostContext,
    consumer: &Consumer,
    desired: &Desired,
) -> Result<Result<v1::ConfigDrive, Refused>, ReconcileError> {
    // Bootstrap data has an owner with which it moves.
    let bootstrap = matches!(consumer, Consumer::Machine { .. });
    let sources =
        [(&desired.user_data, !bootstrap), (&desired.network_data, true), (&desired.meta_data, true)];
    let mut data = Vec::new();
    for (source, label) in sources {
        data.push(match source {
            None => None,
            Some(source) => match read(context, source, label).await? {
                Ok(data) => Some(data),
                Err(message) => return Ok(Err(("SecretMissing", message))),
            },
        });
    }
    let [user_data, network_data, meta_data]: [Option<Found>; 3] = data.try_into().unwrap_or_default();
    let Found { value: user_data, format } = user_data.unwrap_or_default();
    let data = config_drive::Data {
        format,
        user_data,
        network_data: network_data.unwrap_or_default().value,
        meta_data: meta_data.map(|found| found.value),
    };
    Ok(config_drive::config_drive(data, &desired.facts, &desired.instance_id))
}

fn image_for_agent(agent_url: &url::Url, image: &ReadyImage) -> v1::Image {
    let (algorithm, checksum) = image.digest.split_once(':').unwrap_or(("sha256", &image.digest));
    v1::Image {
        url: format!("{}/{}", agent_url.as_str().trim_end_matches('/'), image.path.trim_start_matches('/')),
        checksum_algorithm: match algorithm {
            "sha512" => v1::ChecksumAlgorithm::Sha512.into(),
            _ => v1::ChecksumAlgorithm::Sha256.into(),
        },
        checksum: checksum.to_owned(),
        format: v1::ImageFormat::Raw.into(),
        compression: image.compression.into(),
        // What a compressed image unpacks to is bounded by the disk.
        max_bytes: if image.compression == v1::Compression::None { image.size } else { 0 },
        ca_pem: Vec::new(),
    }
}

fn hints(hints: &RootDeviceHints) -> v1::RootDeviceHints {
    let RootDeviceHints {
        device_name,
        hctl,
        model,
        vendor,
        serial_number,
        min_size_gigabytes,
        max_size_gigabytes,
        disk_type,
        prefer,
        wwn,
        wwn_with_extension,
        wwn_vendor_extension,
        rotational,
    } = hints.clone();
    let disk_type = disk_type.map(|kind| match kind {
        DiskType::Hdd => v1::DiskType::Hdd,
        DiskType::Ssd => v1::DiskType::Ssd,
        DiskType::Nvme => v1::DiskType::Nvme,
    });
    let prefer = prefer.map(|prefer| match prefer {
        DiskPreference::Smallest => v1::DiskPreference::Smallest,
        DiskPreference::Largest => v1::DiskPreference::Largest,
    });
    v1::RootDeviceHints {
        device_name,
        hctl,
        model,
        vendor,
        serial_number,
        min_size_gigabytes: min_size_gigabytes.and_then(|size| u64::try_from(size).ok()),
        max_size_gigabytes: max_size_gigabytes.and_then(|size| u64::try_from(size).ok()),
        r#type: disk_type.map(Into::into),
        prefer: prefer.map(Into::into),
        wwn,
        wwn_with_extension,
        wwn_vendor_extension,
        rotational,
    }
}

/// What was found in a Secret.
#[derive(Default)]
struct Found {
    value: Vec<u8>,
    /// The key `format` beside it.
    format: Option<String>,
}

/// Reads one key of a Secret; the message names what is missing. `label`: `clusterctl move` is to take it along.
async fn read(
    context: &HostContext,
    source: &SecretSource,
    label: bool,
) -> Result<Result<Found, String>, ReconcileError> {
    let SecretSource { secret: key, keys } = source;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(mut secret) = patch::get_opt(&api, &key.name).await? else {
        return Ok(Err(format!("Secret {key} does not exist")));
    };
    if label {
        secret = label_for_move(&api, secret).await?;
    }
    let data = secret.data.unwrap_or_default();
    let value = keys.iter().find_map(|name| data.get(*name)).map(|value| value.0.clone());
    // As Cluster API has it for bootstrap data: what the value is written in.
    let format = data.get("format").and_then(|format| String::from_utf8(format.0.clone()).ok());
    let found = value.map(|value| Found { value, format });
    Ok(found.ok_or_else(|| format!("Secret {key} has none of the keys {}", keys.join(", "))))
}
