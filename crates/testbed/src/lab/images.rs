//! The operating systems that virtual servers are given: Debian with a kubelet, and one that only says that it is there.

use std::path::{Path, PathBuf};

use super::recipe::Recipe;
use crate::assets::{Assets, Binary, Module};
use crate::error::Result;

/// A form of the node image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Raw, sparse.
    Raw,
    /// Raw, compressed with zstd.
    RawZstd,
    /// qcow2 with clusters compressed by zstd.
    Qcow2,
}

impl Form {
    /// Name of the file.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Raw => "node.raw",
            Self::RawZstd => "node.raw.zst",
            Self::Qcow2 => "node.qcow2",
        }
    }

    /// What a host's `image.format` says of it.
    #[must_use]
    pub fn format(self) -> &'static str {
        match self {
            Self::Raw | Self::RawZstd => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// The node image in the forms in which images are served.
#[derive(Clone, Debug)]
pub struct NodeImage {
    folder: PathBuf,
}

impl NodeImage {
    /// Takes it from the cache folder, or makes it, in 2 to 4 minutes.
    pub async fn ensure(assets: &Assets) -> Result<Self> {
        let pins = assets.module_cache(Module::Kubernetes)?;
        let recipe = Recipe {
            name: "node-image",
            script: include_str!("node_image/build.sh"),
            pins: pins.file_name().unwrap_or_default().as_encoded_bytes(),
            result: Form::Raw.file_name(),
            duration: "2 to 4 minutes",
        };
        if let Some(folder) = recipe.find()? {
            return Ok(Self { folder });
        }
        let programs = assets.ensure_all(&[Binary::Kubelet, Binary::Kubeadm]).await?;
        Ok(Self { folder: recipe.make(&programs).await? })
    }

    /// The file of a form.
    #[must_use]
    pub fn file(&self, form: Form) -> PathBuf {
        self.folder.join(form.file_name())
    }
}

/// Kernel and initramfs of the tiny system, which run from memory as well.
pub async fn tiny_kernel() -> Result<(PathBuf, PathBuf)> {
    let disk = tiny_system().await?;
    Ok((disk.with_file_name("vmlinuz"), disk.with_file_name("initrd.img")))
}

/// The file of the tiny system: a kernel and an init that prints what it finds on the config drive to the serial port,
/// in lines that begin with `tiny:`.
pub async fn tiny_system() -> Result<PathBuf> {
    let recipe = Recipe {
        name: "tiny-system",
        script: include_str!("tiny_system/build.sh"),
        pins: &[],
        result: "tiny.raw",
        duration: "some seconds",
    };
    let folder = match recipe.find()? {
        Some(folder) => folder,
        None => recipe.make(&[]).await?,
    };
    Ok(folder.join(recipe.result))
}

/// The file of a live ISO (UEFI) of the tiny system: its kernel prints `tiny.live`, and nothing is written to a disk.
pub async fn tiny_iso() -> Result<PathBuf> {
    let disk = tiny_system().await?;
    let made_of = disk.parent().and_then(Path::file_name).unwrap_or_default();
    let recipe = Recipe {
        // Not tiny-system-…, since what is made anew takes the place of what has the same beginning.
        name: "live-iso",
        script: include_str!("tiny_system/live.sh"),
        pins: made_of.as_encoded_bytes(),
        result: "tiny.iso",
        duration: "some seconds",
    };
    let folder = match recipe.find()? {
        Some(folder) => folder,
        None => recipe.make(std::slice::from_ref(&disk)).await?,
    };
    Ok(folder.join(recipe.result))
}
