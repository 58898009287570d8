//! What the record says of an image that is on the disk of a free host.

use ferric_api::host::{HostRecord, StagedRecord};
use ferric_protocol::v1::{Compression, StageResult};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What the record keeps of a staged image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StagedDisk {
    /// The disk.
    pub root_device: String,
    /// Its serial number, if it has one.
    pub root_serial_number: Option<String>,
    /// Its World Wide Name, if it has one.
    pub root_wwn: Option<String>,
    /// Bytes of the image.
    pub bytes: i64,
    /// What they hash to.
    pub content_hash: String,
}

impl StagedDisk {
    /// Notes that the image is there and was read back.
    pub(super) fn note(&self, record: &mut HostRecord, now: Timestamp) {
        let Some(staged) = record.staged.as_mut() else { return };
        let Self { root_device, root_serial_number, root_wwn, bytes, content_hash } = self.clone();
        staged.root_device = Some(root_device);
        (staged.root_serial_number, staged.root_wwn) = (root_serial_number, root_wwn);
        (staged.bytes, staged.content_hash) = (Some(bytes), Some(content_hash));
        staged.finished_at = Some(Time(now));
    }
}

impl From<&StageResult> for StagedDisk {
    fn from(result: &StageResult) -> Self {
        let said = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        Self {
            root_device: result.root_device.clone(),
            root_serial_number: said(&result.root_serial),
            root_wwn: said(&result.root_wwn),
            bytes: i64::try_from(result.bytes_written).unwrap_or(0),
            content_hash: result.content_hash.clone(),
        }
    }
}

/// How an image's file is understood, for the record.
pub fn format_of(compression: Compression) -> &'static str {
    match compression {
        Compression::Unspecified | Compression::None => "none",
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
        Compression::Xz => "xz",
        Compression::Extents => "extents",
    }
}

/// The staged image of a free host, if its write was finished and nothing has been done about it since.
pub fn finished(record: &HostRecord) -> Option<&StagedRecord> {
    record.staged.as_ref().filter(|staged| staged.finished_at.is_some() && staged.content_hash.is_some())
}

/// An image that is about to be staged after another one. A record keeps whole seconds, and by when it began one staging is
/// told from the next.
pub(super) fn begun(staged: &StagedRecord, before: Option<&StagedRecord>, now: Timestamp) -> StagedRecord {
    let before = before.and_then(|before| before.started_at.as_ref());
    let least = before.and_then(|at| at.0.checked_add(SignedDuration::from_secs(1)).ok());
    let started_at = Some(Time(least.map_or(now, |least| least.max(now))));
    StagedRecord { started_at, ..proofless(staged) }
}

/// What the record says of an image, without what proves that it is on a disk.
fn proofless(staged: &StagedRecord) -> StagedRecord {
    StagedRecord { finished_at: None, bytes: None, content_hash: None, ..staged.clone() }
}

/// What is staged is nothing that anybody may use any more. Which disk it is on is kept until that is clean. When it was
/// begun is when it was given up from here on: nothing that an agent still says of it brings it back.
pub(super) fn unstage(record: &mut HostRecord, now: Timestamp) {
    record.staged = record.staged.as_ref().map(|staged| begun(staged, Some(staged), now));
    record.cleaned = None;
}
