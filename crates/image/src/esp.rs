//! What firmware finds on the EFI system partition of a written disk: its boot loaders. Reads only.
//!
//! UEFI 2.10 section 13.3 has the partition and its FAT filesystem, section 3.5.1.1 the path of the loader that firmware
//! takes when no boot option names another. What is read is bounded, and a filesystem that makes its reader panic is an
//! unreadable one.

use std::{
    collections::HashMap,
    io::{self, Read, Seek, SeekFrom, Write},
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    device::{BlockDevice, Region},
    gpt::{GptError, Partition, PartitionTable, TYPE_EFI_SYSTEM},
};

/// Blocks of this size are read and kept.
const BLOCK: u64 = 4096;
/// Most blocks read of one partition: 16 MiB.
const MOST_BLOCKS: usize = 4096;
/// Most single reads, by which a chain that is a ring comes to an end.
const MOST_READS: u32 = 1_000_000;
/// Most names looked at.
const MOST_NAMES: usize = 4096;

/// Why no loader is known.
#[derive(Debug, thiserror::Error)]
pub enum EspError {
    /// There is no good GUID partition table.
    #[error("the partition table cannot be read: {0}")]
    Table(#[from] GptError),
    /// The table names no EFI system partition.
    #[error("the disk has no EFI system partition")]
    NoPartition,
    /// There are some, and none can be read.
    #[error("the EFI system partition (number {number}) cannot be read: {why}")]
    Unreadable {
        /// Number of the first.
        number: u32,
        /// What is wrong with it.
        why: String,
    },
}

/// An EFI system partition and what can be started from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Esp {
    /// Where it is.
    pub partition: Partition,
    /// The files `\EFI\<folder>\<name>.efi`, as boot options name them, sorted.
    pub loaders: Vec<String>,
}

/// The machine language of the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86-64.
    X64,
    /// 64-bit Arm.
    Aa64,
}

impl Arch {
    /// That of this program.
    #[must_use]
    pub fn own() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X64),
            "aarch64" => Some(Self::Aa64),
            _ => None,
        }
    }

    /// As UEFI 2.10 table 3.5 writes it into file names.
    fn suffix(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Aa64 => "aa64",
        }
    }
}

impl Esp {
    /// Finds the EFI system partition of a disk: the first by number that holds a loader, else the first that can be
    /// read.
    ///
    /// # Errors
    /// When the disk has no GUID partition table, no such partition, or none that can be read.
    pub fn read(device: &mut dyn BlockDevice) -> Result<Self, EspError> {
        let table = PartitionTable::read_primary(device)?;
        let (mut empty, mut unreadable) = (None, None);
        for partition in table.partitions().into_iter().filter(|p| p.type_guid == TYPE_EFI_SYSTEM) {
            match loaders(device, &partition) {
                Ok(loaders) if loaders.is_empty() => {
                    empty.get_or_insert(Self { partition, loaders });
                }
                Ok(loaders) => return Ok(Self { partition, loaders }),
                Err(why) => {
                    unreadable.get_or_insert(EspError::Unreadable { number: partition.number, why });
                }
            }
        }
        match (empty, unreadable) {
            (_, Some(error)) => Err(error),
            (Some(esp), None) => Ok(esp),
            (None, None) => Err(EspError::NoPartition),
        }
    }

    /// The loader that a boot option should name: the vendor's shim, which Secure Boot wants, else its GRUB or
    /// systemd-boot, else what firmware takes by itself.
    #[must_use]
    pub fn loader(&self, arch: Arch) -> Option<&str> {
        let suffix = arch.suffix();
        let named = |wanted: &str| {
            self.loaders.iter().find(|path| {
                let path = path.to_ascii_lowercase();
                path.ends_with(&format!("\\{wanted}{suffix}.efi")) && !path.starts_with("\\efi\\boot\\")
            })
        };
        let vendor = ["shim", "grub", "systemd-boot"].into_iter().find_map(named);
        vendor.or_else(|| self.fallback_path(arch)).map(String::as_str)
    }

    /// Whether firmware finds a loader without a boot option.
    #[must_use]
    pub fn has_fallback(&self, arch: Arch) -> bool {
        self.fallback_path(arch).is_some()
    }

    fn fallback_path(&self, arch: Arch) -> Option<&String> {
        let wanted = format!("\\efi\\boot\\boot{}.efi", arch.suffix());
        self.loaders.iter().find(|path| path.to_ascii_lowercase() == wanted)
    }
}

fn loaders(device: &mut dyn BlockDevice, partition: &Partition) -> Result<Vec<String>, String> {
    let region = Region::new(device, partition.start, partition.length).map_err(|e| e.to_string())?;
    let bounded = Bounded { region, length: partition.length, position: 0, blocks: HashMap::new(), reads: 0 };
    // The reader of FAT trusts what a filesystem says of itself more than an image deserves.
    let found = catch_unwind(AssertUnwindSafe(|| files(bounded)));
    let found = found.unwrap_or_else(|_| Err(io::Error::other("its filesystem makes no sense")));
    found.map_err(|e| e.to_string())
}

fn files(bounded: Bounded<'_>) -> io::Result<Vec<String>> {
    let filesystem = fatfs::FileSystem::new(bounded, fatfs::FsOptions::new())?;
    let mut found = Vec::new();
    let mut names = 0;
    let mut count = || {
        names += 1;
        if names > MOST_NAMES { Err(io::Error::other("it has too many files")) } else { Ok(()) }
    };
    for entry in filesystem.root_dir().iter() {
        let efi = entry?;
        count()?;
        if !efi.is_dir() || !efi.file_name().eq_ignore_ascii_case("efi") {
            continue;
        }
        for entry in efi.to_dir().iter() {
            let folder = entry?;
            count()?;
            let vendor = folder.file_name();
            if !folder.is_dir() || vendor == "." || vendor == ".." {
                continue;
            }
            for entry in folder.to_dir().iter() {
                let file = entry?;
                count()?;
                let name = file.file_name();
                // An empty file is what a loader was before it was lost.
                if file.is_file() && file.len() > 0 && name.to_ascii_lowercase().ends_with(".efi") {
                    found.push(format!("\\EFI\\{vendor}\\{name}"));
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A partition that can be read, so much of it, and not written.
struct Bounded<'a> {
    region: Region<'a>,
    length: u64,
    position: u64,
    blocks: HashMap<u64, Vec<u8>>,
    reads: u32,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.reads > MOST_READS {
            return Err(io::Error::other("reading it does not come to an end"));
        }
        if self.position >= self.length || buffer.is_empty() {
            return Ok(0);
        }
        let start = self.position / BLOCK * BLOCK;
        if !self.blocks.contains_key(&start) {
            if self.blocks.len() >= MOST_BLOCKS {
                return Err(io::Error::other("its folders are too large"));
            }
            let mut block = vec![0; BLOCK.min(self.length - start) as usize];
            self.region.seek(SeekFrom::Start(start))?;
            self.region.read_exact(&mut block)?;
            self.blocks.insert(start, block);
        }
        let block = self.blocks.get(&start).map(Vec::as_slice).unwrap_or_default();
        let rest = block.get((self.position - start) as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Bounded<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
#[path = "esp_tests.rs"]
mod tests;
