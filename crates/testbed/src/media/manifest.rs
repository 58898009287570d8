//! `manifest.json`: what is in the folder of an agent image, for the provider that serves it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::packages::{Package, sha256_of};
use crate::error::{Error, Result};

/// Name of the manifest's file.
pub const MANIFEST: &str = "manifest.json";
/// Version of its form.
pub const VERSION: u32 = 1;

/// What is in the folder of an agent image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Version of the form: 1.
    pub version: u32,
    /// `virtual` or `hardware`.
    pub flavour: String,
    /// `amd64`.
    pub architecture: String,
    /// Version of the kernel, as `uname -r` says it.
    pub kernel_version: String,
    /// The files.
    pub files: Files,
    /// The Debian packages that they come from.
    pub packages: Vec<Package>,
    /// Firmware files that the modules may ask for and that no package offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_firmware: Vec<String>,
    /// SHA-256 of all that the image was made from.
    pub inputs: String,
}

/// The files of an agent image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Files {
    /// The kernel.
    pub kernel: File,
    /// The initramfs.
    pub initrd: File,
    /// The template of a host's ISO.
    pub iso: Iso,
    /// iPXE for BIOS.
    pub ipxe_bios: File,
    /// iPXE for UEFI.
    pub ipxe_efi: File,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name in the folder.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

impl File {
    /// Reads the facts of a file in `folder`.
    pub(super) fn of(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let size = path.metadata().map_err(Error::file("read", &path))?.len();
        Ok(Self { name: name.to_owned(), size, sha256: sha256_of(&path)? })
    }

    fn is_there(&self, folder: &Path) -> bool {
        folder.join(&self.name).metadata().is_ok_and(|meta| meta.is_file() && meta.len() == self.size)
    }
}

/// The template of a host's ISO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Iso {
    /// The file.
    #[serde(flatten)]
    pub file: File,
    /// Where the host's configuration of GRUB goes.
    pub grub_config: Region,
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Manifest {
    /// The manifest of a folder that was made from these inputs and is complete.
    pub(super) fn up_to_date(folder: &Path, inputs: &str) -> Option<Self> {
        let manifest: Self = serde_json::from_slice(&std::fs::read(folder.join(MANIFEST)).ok()?).ok()?;
        let Files { kernel, initrd, iso, ipxe_bios, ipxe_efi } = &manifest.files;
        let whole = [kernel, initrd, &iso.file, ipxe_bios, ipxe_efi].iter().all(|file| file.is_there(folder));
        (whole && manifest.inputs == inputs).then_some(manifest)
    }

    /// Writes the manifest into `folder`.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MANIFEST);
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::malformed(path.display().to_string(), error))?;
        text.push('\n');
        std::fs::write(&path, text).map_err(Error::file("write", &path))
    }
}
