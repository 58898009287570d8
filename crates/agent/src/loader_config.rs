//! Which kernel a written disk would start, as its boot loader's configuration says: for starting it without the firmware.
//! Pure: reads text that others wrote, and gives up rather than guess. What is understood is what distributions generate:
//! `grub.cfg` of grub-mkconfig, and entries of the Boot Loader Specification (type 1).

mod bls;
mod grub;

use std::collections::BTreeMap;

pub use bls::{newest, parse as parse_bls};
pub use grub::{Choice, parse as parse_grub};

/// Largest configuration file that is read, in bytes.
pub const MOST_CONFIG: usize = 1 << 20;
/// Longest command line that is passed on, in bytes: what x86-64 takes (COMMAND_LINE_SIZE, without its end).
pub const MOST_ARGUMENTS: usize = 2047;
/// Most initramfs files of one entry.
const MOST_INITRDS: usize = 16;

/// What is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEntry {
    /// What the entry calls itself.
    pub title: String,
    /// Path of the kernel on the filesystem that the boot loader reads it from, with a leading `/`.
    pub kernel: String,
    /// Paths of the initramfs files, in order.
    pub initrds: Vec<String>,
    /// The command line.
    pub arguments: String,
}

/// Why no kernel is chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoaderConfigError {
    /// It is not written as expected.
    #[error("the configuration is not understood: {0}")]
    NotUnderstood(&'static str),
    /// It names no Linux kernel.
    #[error("the configuration has no entry with a Linux kernel")]
    NoKernel,
    /// What it names cannot be used.
    #[error("the entry {title:?} cannot be used: {why}")]
    Unusable {
        /// What the entry calls itself.
        title: String,
        /// Why.
        why: &'static str,
    },
}

/// Variables of GRUB, such as those that `grubenv` holds.
pub type Variables = BTreeMap<String, String>;

/// The first bytes of `grubenv` (GRUB's environment block, which is 1024 bytes long).
const GRUBENV: &str = "# GRUB Environment Block\n";

/// Reads `grubenv`: lines of `name=value`, then `#` to its end. What is not one has no variables.
pub fn parse_grubenv(text: &str) -> Variables {
    let Some(text) = text.strip_prefix(GRUBENV) else { return Variables::new() };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.replace("\\\\", "\\")))
        .collect()
}

impl KernelEntry {
    /// An entry whose parts can be passed on: paths without steps upwards, a command line without control characters.
    fn checked(
        title: &str,
        kernel: &str,
        initrds: &[String],
        arguments: String,
    ) -> Result<Self, LoaderConfigError> {
        let unusable = |why| LoaderConfigError::Unusable { title: title.chars().take(80).collect(), why };
        let path = |text: &str| {
            let text = without_device(text).ok_or_else(|| unusable("a path does not begin with /"))?;
            if text.split('/').any(|part| part == "..") || text.contains(|c: char| c.is_control()) {
                return Err(unusable("a path leads elsewhere"));
            }
            Ok(text.to_owned())
        };
        if initrds.len() > MOST_INITRDS {
            return Err(unusable("it has too many initramfs files"));
        }
        if arguments.len() > MOST_ARGUMENTS || arguments.contains(|c: char| c.is_control()) {
            return Err(unusable("its command line is too long or not one line"));
        }
        Ok(Self {
            title: title.to_owned(),
            kernel: path(kernel)?,
            initrds: initrds.iter().map(|initrd| path(initrd)).collect::<Result<_, _>>()?,
            arguments,
        })
    }
}

/// A path of GRUB's without the device before it, such as `(hd0,gpt1)`.
fn without_device(path: &str) -> Option<&str> {
    let path = match path.strip_prefix('(') {
        Some(rest) => rest.split_once(')')?.1,
        None => path,
    };
    path.starts_with('/').then_some(path)
}

#[cfg(test)]
#[path = "loader_config/tests.rs"]
mod tests;
