//! The agent image: a folder with kernel, initramfs, iPXE and the template of an ISO, made by `make agent-image`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::iso9660::Places;

/// Version of the manifest that is understood.
const VERSION: u32 = 1;
/// Largest room for a host's configuration; all of it is made in memory.
const MOST_ROOM: u64 = 64 * 1024;
/// Largest manifest that is read.
const MOST_MANIFEST: u64 = 1024 * 1024;

/// The files of an agent image, opened and checked once: a folder that is replaced later changes nothing.
#[derive(Debug, Clone)]
pub struct AgentImage {
    /// The kernel.
    pub kernel: Arc<Artifact>,
    /// The initramfs.
    pub initrd: Arc<Artifact>,
    /// iPXE for BIOS.
    pub ipxe_bios: Arc<Artifact>,
    /// iPXE for UEFI.
    pub ipxe_efi: Arc<Artifact>,
    /// The template of a host's ISO.
    pub iso: Arc<Artifact>,
    /// Where in the template the configuration of GRUB goes.
    pub grub_config: Region,
    /// Where in the template it says where kernel and initramfs lie; `None` if that is not understood.
    pub places: Option<Places>,
}

/// A file that is served.
#[derive(Debug)]
pub struct Artifact {
    /// Its name, also in the URL.
    pub name: String,
    /// The file.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Region {
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// Why a folder is no agent image.
#[derive(Debug, thiserror::Error)]
pub enum AgentImageError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The manifest is not understood.
    #[error("{} is not understood: {reason}; make the agent image anew with this version's `make agent-image`", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file is not what the manifest says.
    #[error("{} is not the file of the manifest: {reason}; make the agent image anew", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Manifest {
    version: u32,
    files: Files,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Files {
    kernel: Entry,
    initrd: Entry,
    iso: Iso,
    ipxe_bios: Entry,
    ipxe_efi: Entry,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Iso {
    #[serde(flatten)]
    entry: Entry,
    grub_config: Region,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    size: u64,
    sha256: String,
}

impl AgentImage {
    /// Opens the image in `folder` and compares each file with the manifest.
    pub fn open(folder: &Path) -> Result<Self, AgentImageError> {
        let path = folder.join("manifest.json");
        let broken = |reason: String| AgentImageError::Manifest { path: path.clone(), reason };
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MOST_MANIFEST).read_to_end(&mut text))
            .map_err(|source| AgentImageError::Read { path: path.clone(), source })?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(broken(format!("its version is {}, expected {VERSION}", manifest.version)));
        }
        let Files { kernel, initrd, iso, ipxe_bios, ipxe_efi } = manifest.files;
        let Region { offset, length } = iso.grub_config;
        if length == 0
            || length > MOST_ROOM
            || offset.checked_add(length).is_none_or(|end| end > iso.entry.size)
        {
            return Err(broken(format!("{length} bytes at {offset} are no part of the ISO")));
        }
        let open = |entry: &Entry| Artifact::open(folder, entry).map(Arc::new);
        let template = open(&iso.entry)?;
        let places = Places::find(|at, to| template.file.read_exact_at(to, at));
        Ok(Self {
            kernel: open(&kernel)?,
            initrd: open(&initrd)?,
            ipxe_bios: open(&ipxe_bios)?,
            ipxe_efi: open(&ipxe_efi)?,
            iso: template,
            grub_config: iso.grub_config,
            places,
        })
    }

    /// The files that firmware and iPXE fetch as they are.
    pub fn artifacts(&self) -> [&Arc<Artifact>; 4] {
        [&self.kernel, &self.initrd, &self.ipxe_bios, &self.ipxe_efi]
    }
}

impl Artifact {
    fn open(folder: &Path, entry: &Entry) -> Result<Self, AgentImageError> {
        let path = folder.join(&entry.name);
        let broken = |reason: String| AgentImageError::Content { path: path.clone(), reason };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if entry.name.is_empty() || entry.name.starts_with('.') || !entry.name.bytes().all(plain) {
            return Err(broken("its name is not one of a file in the folder".to_owned()));
        }
        let unreadable = |source| AgentImageError::Read { path: path.clone(), source };
        let mut file = File::open(&path).map_err(unreadable)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut size = 0_u64;
        loop {
            let count = file.read(&mut buffer).map_err(unreadable)?;
            if count == 0 {
                break;
            }
            size += count as u64;
            if size > entry.size {
                break;
            }
            hash.update(&buffer[..count]);
        }
        if size != entry.size {
            return Err(broken(format!("it should have {} bytes", entry.size)));
        }
        let found = hex::encode(hash.finalize());
        if !found.eq_ignore_ascii_case(&entry.sha256) {
            return Err(broken(format!("its SHA-256 is {found}, expected {}", entry.sha256)));
        }
        Ok(Self { name: entry.name.clone(), file, size })
    }
}
