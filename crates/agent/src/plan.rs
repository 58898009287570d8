//! What a task means on this machine, and whether it can be done. Pure: decides from the task and the inventory, touches
//! nothing. Everything that can be refused is refused here, before a disk is opened.

use ferric_image::{
    BlockDevice, Checksum, ChecksumAlgorithm, Compression, ConfigDrive, ConfigDriveError, ContentHash,
    ImageError, OpenStackDrive, WipeError, WipeMode, WriteOptions, gpt::Partition, write_config_drive,
};
use ferric_protocol::v1::{
    self, CleanMode, CleanScope, Deploy, Disk, DiskEvidence, TaskError, TaskErrorCode,
};
use url::Url;

use crate::{
    erase::{Attempt, EraseError, Evidence},
    hints::{self, HintError},
    load_option::Place,
};

/// What is to be written where.
#[derive(Debug, Clone)]
pub struct WritePlan {
    /// The disk to write.
    pub disk: Disk,
    /// Where the image is.
    pub url: Url,
    /// How to write it. The length of the download is not known yet.
    pub write: WriteOptions,
    /// Certificates to trust for the download; empty: the provider's CA.
    pub ca_pem: Vec<u8>,
}

/// A deploy task, understood.
#[derive(Debug, Clone)]
pub struct DeployPlan {
    /// The image.
    pub image: WritePlan,
    /// What may be of use of what an earlier agent wrote.
    pub staged: Option<StagedPlan>,
    /// What to put beside it.
    pub config_drive: Option<Drive>,
    /// Whether to have its kernel loaded.
    pub load_kernel: bool,
    /// When the firmware is to try it.
    pub place: Place,
}

/// An image that an earlier agent wrote.
#[derive(Debug, Clone)]
pub struct StagedPlan {
    /// What it hashed to when it was read back, or why that cannot be told.
    pub content: Result<ContentHash, String>,
    /// How many bytes it has.
    pub bytes: u64,
    /// Whether it is the image that is to be written.
    pub same_image: bool,
    /// Whether the disk that it was written to is the one that is written now.
    pub on_chosen: bool,
    /// Other disks that may be the one that it was written to.
    pub elsewhere: Vec<Disk>,
}

/// A config drive in one of its layouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drive {
    /// For cloud-init.
    NoCloud(ConfigDrive),
    /// For cloud-init and Ignition.
    OpenStack(OpenStackDrive),
}

impl Drive {
    /// Puts it on a disk that an image was written to.
    pub fn write(&self, device: &mut dyn BlockDevice) -> Result<Partition, ConfigDriveError> {
        match self {
            Self::NoCloud(drive) => write_config_drive(device, drive),
            Self::OpenStack(drive) => drive.write(device),
        }
    }
}

/// A clean task, understood.
#[derive(Debug, Clone)]
pub struct CleanPlan {
    /// How thoroughly.
    pub mode: WipeMode,
    /// Which disks, in order.
    pub disks: Vec<Disk>,
    /// The other disks that are not removable.
    pub untouched: Vec<Disk>,
}

/// An error as the provider is told it.
pub fn error(code: TaskErrorCode, message: impl Into<String>) -> TaskError {
    TaskError { code: code.into(), message: message.into() }
}

fn invalid(message: impl Into<String>) -> TaskError {
    error(TaskErrorCode::InvalidTask, message)
}

fn unsupported(message: impl Into<String>) -> TaskError {
    error(TaskErrorCode::Unsupported, message)
}

/// Understands a deploy task.
pub fn deploy(
    task: &Deploy,
    disks: &[Disk],
    min_root_bytes: u64,
    block_bytes: usize,
) -> Result<DeployPlan, TaskError> {
    let config_drive = task.config_drive.as_ref().map(config_drive).transpose()?;
    let (image, hints) = (task.image.as_ref(), task.root_device_hints.as_ref());
    let image = write(image, hints, disks, min_root_bytes, block_bytes)?;
    let staged = task.staged.as_ref().map(|staged| self::staged(staged, &image.disk, disks));
    Ok(DeployPlan {
        image,
        staged,
        config_drive,
        load_kernel: task.load_kernel,
        place: if task.network_first { Place::Last } else { Place::First },
    })
}

/// Understands a stage task.
pub fn stage(
    task: &v1::Stage,
    disks: &[Disk],
    min_root_bytes: u64,
    block_bytes: usize,
) -> Result<WritePlan, TaskError> {
    write(task.image.as_ref(), task.root_device_hints.as_ref(), disks, min_root_bytes, block_bytes)
}

fn write(
    image: Option<&v1::Image>,
    hints: Option<&v1::RootDeviceHints>,
    disks: &[Disk],
    min_root_bytes: u64,
    block_bytes: usize,
) -> Result<WritePlan, TaskError> {
    let image = image.ok_or_else(|| invalid("the task has no image"))?;
    let url = Url::parse(&image.url).map_err(|e| invalid(format!("the image's URL {:?}: {e}", image.url)))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(invalid(format!("the image's URL {url} is neither http nor https")));
    }
    let algorithm = match image.checksum_algorithm() {
        v1::ChecksumAlgorithm::Sha256 => ChecksumAlgorithm::Sha256,
        v1::ChecksumAlgorithm::Sha512 => ChecksumAlgorithm::Sha512,
        v1::ChecksumAlgorithm::Unspecified => {
            return Err(unsupported("the image's checksum type is not known"));
        }
    };
    let checksum = Checksum::new(algorithm, &image.checksum).map_err(|e| invalid(e.to_string()))?;
    let compression = match image.compression() {
        v1::Compression::None => Compression::None,
        v1::Compression::Gzip => Compression::Gzip,
        v1::Compression::Zstd => Compression::Zstd,
        v1::Compression::Xz => Compression::Xz,
        v1::Compression::Extents => Compression::Extents,
        v1::Compression::Unspecified => return Err(unsupported("the image's compression is not known")),
    };
    if image.format() != v1::ImageFormat::Raw {
        return Err(unsupported("the image's format is not raw"));
    }
    let write = match compression {
        Compression::Extents => {
            WriteOptions { source: Some(checksum), ..WriteOptions::new(named_checksum(&url)?, compression) }
        }
        _ => WriteOptions::new(checksum, compression),
    };
    let disk = hints::root_disk(disks, hints, min_root_bytes)
        .map_err(|e| error(TaskErrorCode::NoDisk, e.to_string()))?;
    Ok(WritePlan {
        disk: disk.clone(),
        url,
        write: WriteOptions { max_bytes: image.max_bytes, block_bytes, ..write },
        ca_pem: image.ca_pem.clone(),
    })
}

/// Finds the disk that an image was staged on: by what the disk says of itself, by its name only where it says nothing.
/// Which disk it is decides where is looked, and never what is believed of it.
fn staged(staged: &v1::Staged, chosen: &Disk, disks: &[Disk]) -> StagedPlan {
    let (serial, wwn) = (staged.root_serial.trim(), staged.root_wwn.trim());
    let is_it = |disk: &&Disk| match (serial, wwn) {
        ("", "") => disk.name == staged.root_device,
        _ => disk.serial_number.trim() == serial && disk.wwn.trim() == wwn,
    };
    let on_chosen = is_it(&chosen);
    let elsewhere = disks.iter().filter(is_it).filter(|disk| !on_chosen && !disk.removable);
    StagedPlan {
        content: staged.content_hash.parse().map_err(|e: ferric_image::NotAHash| e.to_string()),
        bytes: staged.bytes,
        same_image: staged.same_image,
        on_chosen,
        elsewhere: elsewhere.cloned().collect(),
    }
}

/// The checksum that the last segment of the path is: a file of extents has no other name.
fn named_checksum(url: &Url) -> Result<Checksum, TaskError> {
    let name = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
    Checksum::parse(name, None)
        .map_err(|e| invalid(format!("the extents at {url} are not named by their checksum: {e}")))
}

fn config_drive(drive: &v1::ConfigDrive) -> Result<Drive, TaskError> {
    let v1::ConfigDrive { format: _, instance_id, meta_data, user_data, network_data } = drive;
    if instance_id.is_empty() || instance_id.contains(['\n', '\r', '"', '\\']) {
        return Err(invalid(format!("{instance_id:?} is not an instance id")));
    }
    let user_data = user_data.clone();
    let network = (!network_data.is_empty()).then(|| network_data.clone());
    let meta_data = |least: String| if meta_data.is_empty() { least.into_bytes() } else { meta_data.clone() };
    let (drive, size) = match drive.format() {
        v1::ConfigDriveFormat::Nocloud => {
            let meta_data = meta_data(format!("instance-id: \"{instance_id}\"\n"));
            let drive = ConfigDrive { meta_data, user_data, network_config: network };
            let size = drive.partition_bytes();
            (Drive::NoCloud(drive), size)
        }
        v1::ConfigDriveFormat::Config2 => {
            let meta_data = meta_data(format!("{{\"uuid\": \"{instance_id}\"}}\n"));
            let drive = OpenStackDrive { meta_data, user_data, network_data: network };
            let size = drive.partition_bytes();
            (Drive::OpenStack(drive), size)
        }
        v1::ConfigDriveFormat::Unspecified => {
            return Err(unsupported("the config drive's format is neither NoCloud nor config-2"));
        }
    };
    size.map_err(|e| invalid(e.to_string()))?;
    Ok(drive)
}

/// Understands a clean task. `min_root_bytes` is that of a deploy task: without hints both mean the same root disk.
pub fn clean(task: &v1::Clean, disks: &[Disk], min_root_bytes: u64) -> Result<CleanPlan, TaskError> {
    let mode = match task.mode() {
        CleanMode::Metadata => WipeMode::Metadata,
        CleanMode::Full => WipeMode::Full,
        CleanMode::Unspecified => return Err(unsupported("the clean mode is not known")),
    };
    let scope = CleanScope::try_from(task.scope)
        .map_err(|_| unsupported("the scope of the cleaning is not known"))?;
    let mut chosen: Vec<Disk> = if !task.devices.is_empty() {
        let named = |name: &String| {
            let known = disks.iter().find(|disk| disk.name == *name);
            known.cloned().ok_or_else(|| error(TaskErrorCode::NoDisk, format!("there is no disk {name}")))
        };
        task.devices.iter().map(named).collect::<Result<_, _>>()?
    } else if scope == CleanScope::Root {
        vec![root_of(task, disks, min_root_bytes).map_err(|e| error(TaskErrorCode::NoDisk, e.to_string()))?]
    } else {
        disks.iter().filter(|disk| !disk.removable).cloned().collect()
    };
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    chosen.dedup_by(|a, b| a.name == b.name);
    let left = |disk: &&Disk| !disk.removable && chosen.iter().all(|chosen| chosen.name != disk.name);
    let untouched = disks.iter().filter(left).cloned().collect();
    Ok(CleanPlan { mode, disks: chosen, untouched })
}

fn root_of(task: &v1::Clean, disks: &[Disk], min_root_bytes: u64) -> Result<Disk, HintError> {
    let hints = task.root_device_hints.as_ref();
    match hints::root_disk(disks, hints, min_root_bytes) {
        Err(HintError::Ambiguous { .. }) if disks.iter().any(|disk| disk.name == task.root_device) => {
            let named: Vec<Disk> =
                disks.iter().filter(|disk| disk.name == task.root_device).cloned().collect();
            hints::root_disk(&named, hints, min_root_bytes).cloned()
        }
        chosen => chosen.cloned(),
    }
}

/// The evidence of a disk that was cleaned.
pub fn evidence(disk: Disk, evidence: Evidence) -> DiskEvidence {
    let Evidence { method, did, verification, bytes, verified_samples, verified_bytes, duration, attempts } =
        evidence;
    let attempt =
        |attempt: Attempt| v1::CleanAttempt { method: attempt.method.to_owned(), reason: attempt.reason };
    DiskEvidence {
        device: disk.name,
        serial: disk.serial_number,
        method: method.to_owned(),
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        bytes,
        verified_samples,
        verified_bytes,
        did,
        verification,
        attempts: attempts.into_iter().map(attempt).collect(),
    }
}

/// What there is to say of a disk that was not to be cleaned.
pub fn untouched(disk: Disk) -> DiskEvidence {
    DiskEvidence {
        device: disk.name,
        serial: disk.serial_number,
        method: "untouched".to_owned(),
        did: "nothing: it was not to be cleaned".to_owned(),
        ..DiskEvidence::default()
    }
}

/// What the provider is told about a failed write.
pub fn image_error(disk: &Disk, e: &ImageError) -> TaskError {
    let code = match e {
        ImageError::Source { .. } => TaskErrorCode::ImageUnavailable,
        ImageError::Truncated { .. }
        | ImageError::Overlong { .. }
        | ImageError::Decode { .. }
        | ImageError::Extents { .. }
        | ImageError::Empty => TaskErrorCode::ImageCorrupt,
        ImageError::TooLarge { .. } | ImageError::LimitExceeded { .. } => TaskErrorCode::ImageTooLarge,
        ImageError::Checksum { .. } | ImageError::OtherImage { .. } => TaskErrorCode::ChecksumMismatch,
        ImageError::Device { .. } => TaskErrorCode::DiskFailed,
        ImageError::Verify { .. } => TaskErrorCode::VerifyFailed,
        ImageError::Threads(_) => TaskErrorCode::Internal,
        ImageError::Cancelled { .. } => TaskErrorCode::Cancelled,
    };
    // What is wrong with the image is so on any disk.
    match code {
        TaskErrorCode::DiskFailed | TaskErrorCode::VerifyFailed | TaskErrorCode::ImageTooLarge => {
            error(code, format!("{}: {e}", disk.name))
        }
        _ => error(code, e.to_string()),
    }
}

/// What the provider is told about a failed config drive.
pub fn config_drive_error(e: &ConfigDriveError) -> TaskError {
    let code = match e {
        ConfigDriveError::Table(_) | ConfigDriveError::TooLarge(_) | ConfigDriveError::Filesystem(_) => {
            TaskErrorCode::ConfigDriveFailed
        }
        ConfigDriveError::Io(_) => TaskErrorCode::DiskFailed,
        ConfigDriveError::Verify(_) => TaskErrorCode::VerifyFailed,
    };
    error(code, e.to_string())
}

/// What the provider is told about a failed wipe.
pub fn wipe_error(disk: &Disk, e: &WipeError) -> TaskError {
    let code = match e {
        WipeError::Device { .. } => TaskErrorCode::DiskFailed,
        WipeError::NotZero { .. } | WipeError::MarkerLost { .. } | WipeError::MarkerFound { .. } => {
            TaskErrorCode::VerifyFailed
        }
        WipeError::Cancelled(_) => TaskErrorCode::Cancelled,
    };
    error(code, format!("{}: {e}", disk.name))
}

/// What the provider is told about a drive that could not be erased.
pub fn erase_error(disk: &Disk, e: &EraseError) -> TaskError {
    let code = match e {
        EraseError::Wipe { error, .. } => wipe_error(disk, error).code(),
        EraseError::Foreign | EraseError::Locked { .. } | EraseError::Busy(_) => TaskErrorCode::DiskFailed,
    };
    error(code, format!("{}: {e}", disk.name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn disks() -> Vec<Disk> {
        let disk = |name: &str, size_bytes, removable| Disk {
            name: name.into(),
            size_bytes,
            removable,
            ..Disk::default()
        };
        vec![disk("/dev/sdb", 100, false), disk("/dev/sda", 200, false), disk("/dev/usb", 50, true)]
    }

    fn task() -> Deploy {
        Deploy {
            image: Some(v1::Image {
                url: "https://images.example/a.raw.zst".into(),
                checksum_algorithm: v1::ChecksumAlgorithm::Sha256.into(),
                checksum: "AB".repeat(32),
                format: v1::ImageFormat::Raw.into(),
                compression: v1::Compression::Zstd.into(),
                max_bytes: 77,
                ca_pem: vec![],
            }),
            root_device_hints: None,
            load_kernel: false,
            network_first: false,
            staged: None,
            config_drive: Some(v1::ConfigDrive {
                format: v1::ConfigDriveFormat::Nocloud.into(),
                instance_id: "claim-1".into(),
                meta_data: vec![],
                user_data: b"u".to_vec(),
                network_data: vec![],
            }),
        }
    }

    #[test]
    fn a_good_task_is_understood() {
        let plan = deploy(&task(), &disks(), 100, 4096).unwrap();
        let image = plan.image;
        assert_eq!(image.disk.name, "/dev/sdb");
        assert_eq!(image.url.as_str(), "https://images.example/a.raw.zst");
        assert_eq!((image.write.max_bytes, image.write.block_bytes), (77, 4096));
        assert_eq!(image.write.checksum.hex(), "ab".repeat(32));
        let Some(Drive::NoCloud(drive)) = plan.config_drive else { panic!("{:?}", plan.config_drive) };
        assert_eq!(drive.meta_data, b"instance-id: \"claim-1\"\n");
        assert_eq!((drive.user_data.as_slice(), drive.network_config), (b"u".as_slice(), None));
        let mut task = task();
        let asked = task.config_drive.as_mut().unwrap();
        asked.format = v1::ConfigDriveFormat::Config2.into();
        asked.network_data = b"{}".to_vec();
        let plan = deploy(&task, &disks(), 100, 4096).unwrap();
        let Some(Drive::OpenStack(drive)) = plan.config_drive else { panic!("{:?}", plan.config_drive) };
        assert_eq!(drive.meta_data, b"{\"uuid\": \"claim-1\"}\n");
        assert_eq!((drive.user_data.as_slice(), drive.network_data), (b"u".as_slice(), Some(b"{}".to_vec())));
    }

    #[test]
    fn what_was_staged_is_looked_for_where_it_was_written_and_on_no_other_disk() {
        let disk = |name: &str, serial: &str, wwn: &str| Disk {
            name: name.into(),
            serial_number: serial.into(),
            wwn: wwn.into(),
            size_bytes: 100,
            ..Disk::default()
        };
        let disks = [disk("/dev/sda", "A", "w1"), disk("/dev/sdb", "B", "w2"), disk("/dev/sdc", "", "")];
        let found = |name: &str, serial: &str, wwn: &str| {
            let said = v1::Staged {
                content_hash: format!("blake3:{}", "00".repeat(32)),
                root_device: name.into(),
                root_serial: serial.into(),
                root_wwn: wwn.into(),
                ..Default::default()
            };
            let plan = staged(&said, &disks[0], &disks);
            assert!(plan.content.is_ok());
            (plan.on_chosen, plan.elsewhere.into_iter().map(|disk| disk.name).collect::<Vec<_>>())
        };
        assert_eq!(found("/dev/sda", "A", "w1"), (true, vec![]));
        // Names may change; what a disk says of itself does not.
        assert_eq!(found("/dev/sdb", "A", "w1"), (true, vec![]));
        assert_eq!(found("/dev/sda", "B", "w2"), (false, vec!["/dev/sdb".to_owned()]));
        assert_eq!(found("/dev/sda", "A", "w2"), (false, vec![]));
        assert_eq!(found("/dev/sda", "A", ""), (false, vec![]));
        assert_eq!(found("/dev/sdc", "", ""), (false, vec!["/dev/sdc".to_owned()]));
        assert_eq!(found("/dev/sda", "", ""), (true, vec![]));
        assert_eq!(found("/dev/gone", "", ""), (false, vec![]));
        let nonsense = v1::Staged { content_hash: "md5:00".into(), ..Default::default() };
        assert!(staged(&nonsense, &disks[0], &disks).content.is_err());
    }

    #[test]
    fn extents_are_compared_with_their_name_and_with_the_image_that_they_were_made_from() {
        let mut task = task();
        let image = task.image.as_mut().unwrap();
        image.compression = v1::Compression::Extents.into();
        image.url = format!("https://images.example/images/sha256:{}", "cd".repeat(32));
        let write = deploy(&task, &disks(), 100, 4096).unwrap().image.write;
        assert_eq!(write.checksum.hex(), "cd".repeat(32));
        assert_eq!(write.source.unwrap().hex(), "ab".repeat(32));
        task.image.as_mut().unwrap().url = "https://images.example/a".into();
        let error = deploy(&task, &disks(), 100, 4096).unwrap_err();
        assert!(error.message.contains("not named by their checksum"), "{}", error.message);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_a_reason() {
        use TaskErrorCode::{InvalidTask, NoDisk, Unsupported};
        type Spoil = fn(&mut Deploy);
        fn image(task: &mut Deploy) -> &mut v1::Image {
            task.image.as_mut().unwrap()
        }
        fn drive(task: &mut Deploy) -> &mut v1::ConfigDrive {
            task.config_drive.as_mut().unwrap()
        }
        let table: [(Spoil, TaskErrorCode, &str); 12] = [
            (|t| t.image = None, InvalidTask, "no image"),
            (|t| image(t).url = "ftp://x/y".into(), InvalidTask, "neither http nor https"),
            (|t| image(t).url = "nonsense".into(), InvalidTask, "nonsense"),
            (|t| image(t).checksum_algorithm = 0, Unsupported, "checksum type"),
            (|t| image(t).checksum_algorithm = 99, Unsupported, "checksum type"),
            (|t| image(t).checksum = String::new(), InvalidTask, "64 digits"),
            (|t| image(t).compression = 0, Unsupported, "compression"),
            (|t| image(t).format = 7, Unsupported, "not raw"),
            (|t| drive(t).format = 0, Unsupported, "NoCloud"),
            (|t| drive(t).instance_id = "a\nb".into(), InvalidTask, "instance id"),
            (|t| drive(t).user_data = vec![0; 65 << 20], InvalidTask, "too large"),
            (
                |t| {
                    t.root_device_hints =
                        Some(v1::RootDeviceHints { rotational: Some(true), ..Default::default() })
                },
                NoDisk,
                "rotational=true",
            ),
        ];
        for (spoil, code, text) in table {
            let mut task = task();
            spoil(&mut task);
            let error = deploy(&task, &disks(), 0, 4096).unwrap_err();
            assert_eq!(error.code(), code, "{}", error.message);
            assert!(error.message.contains(text), "{}", error.message);
        }
    }

    #[test]
    fn cleaning_takes_the_disks_that_are_named_or_those_of_its_scope() {
        let root = v1::RootDeviceHints { device_name: Some("/dev/sda".into()), ..Default::default() };
        let plan = |devices: &[&str], scope: i32, hints: Option<&v1::RootDeviceHints>| {
            let devices = devices.iter().map(|name| (*name).to_owned()).collect();
            let mode = CleanMode::Metadata.into();
            let root_device_hints = hints.cloned();
            let task = v1::Clean { mode, devices, scope, root_device_hints, ..Default::default() };
            clean(&task, &disks(), 100)
        };
        let names = |disks: Vec<Disk>| disks.into_iter().map(|disk| disk.name).collect::<Vec<_>>();
        let chosen = |devices: &[&str], scope: CleanScope, hints| {
            plan(devices, scope.into(), hints).map(|plan| (names(plan.disks), names(plan.untouched)))
        };
        let (all, old, only) = (CleanScope::All, CleanScope::Unspecified, CleanScope::Root);
        for scope in [all, old] {
            let (disks, untouched) = chosen(&[], scope, None).unwrap();
            assert_eq!(disks, ["/dev/sda", "/dev/sdb"]);
            assert!(untouched.is_empty());
        }
        // The one that would be written, by the same choice.
        let expected = |disk: &str, other: &str| (vec![disk.to_owned()], vec![other.to_owned()]);
        assert_eq!(chosen(&[], only, None).unwrap(), expected("/dev/sdb", "/dev/sda"));
        assert_eq!(chosen(&[], only, Some(&root)).unwrap(), expected("/dev/sda", "/dev/sdb"));
        let gone = v1::RootDeviceHints { serial_number: Some("X".into()), ..Default::default() };
        let error = chosen(&[], only, Some(&gone)).unwrap_err();
        assert_eq!(error.code(), TaskErrorCode::NoDisk);
        assert!(error.message.contains("serialNumber=X"), "{}", error.message);
        let named = chosen(&["/dev/usb", "/dev/sda", "/dev/usb"], only, None).unwrap();
        assert_eq!(named.0, ["/dev/sda", "/dev/usb"]);
        assert_eq!(chosen(&["/dev/none"], all, None).unwrap_err().code(), TaskErrorCode::NoDisk);
        assert_eq!(plan(&[], 99, None).unwrap_err().code(), TaskErrorCode::Unsupported);
        let unknown = clean(&v1::Clean::default(), &disks(), 100).unwrap_err();
        assert_eq!(unknown.code(), TaskErrorCode::Unsupported);
    }

    #[test]
    fn of_disks_that_share_a_serial_number_the_one_that_was_written_is_cleaned() {
        let disk = |name: &str, serial: &str| Disk {
            name: name.into(),
            serial_number: serial.into(),
            size_bytes: 100,
            ..Disk::default()
        };
        let disks = [disk("/dev/nvme0n1", "A"), disk("/dev/nvme1n1", "B"), disk("/dev/nvme1n2", "B")];
        let chosen = |serial: &str, name: &str| {
            let hints = v1::RootDeviceHints { serial_number: Some(serial.into()), ..Default::default() };
            let task = v1::Clean {
                mode: CleanMode::Full.into(),
                scope: CleanScope::Root.into(),
                root_device_hints: Some(hints),
                root_device: name.into(),
                ..Default::default()
            };
            clean(&task, &disks, 1).map(|plan| plan.disks[0].name.clone())
        };
        assert_eq!(chosen("B", "/dev/nvme1n2").unwrap(), "/dev/nvme1n2");
        // Renamed since: the serial number decides.
        assert_eq!(chosen("A", "/dev/nvme1n1").unwrap(), "/dev/nvme0n1");
        for unknown in ["", "/dev/nvme0n1", "/dev/nvme2n2"] {
            assert_eq!(chosen("B", unknown).unwrap_err().code(), TaskErrorCode::NoDisk, "{unknown}");
        }
    }
}
