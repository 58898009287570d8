//! The judge of disks: whether a disk file holds an image, and whether it was wiped. It shares no code with what writes
//! disks.
//!
//! A written disk is *not* equal to its image in the first bytes, because an image ends where the disk does not. These,
//! and only these, may differ, and each is checked in another way:
//!
//! | bytes of the image | what may be there | how it is checked |
//! |---|---|---|
//! | the size field in the protective MBR (offset 12 of the 16 bytes of the entry of type 0xEE) | the size of the disk | it is the size of the disk |
//! | block 1, the primary GPT header | where the backup is, the last usable block, checksums | read by the `gpt` crate, with the backup at the end of the disk |
//! | entries of the partition array that the image does not use | one more partition, the config drive | every partition of the image is there, number, type, identity, place and name; behind them at most one more |
//! | the last block, the image's backup header | zeros | it is zeros, or as in the image |
//!
//! Everything else, and so every byte of every partition, is compared by SHA-256: of the image file, and of the disk's
//! first bytes with the four places above taken from the image.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use gpt::partition::Partition;
use sha2::{Digest, Sha256};

const BLOCK: u64 = 512;
const MBR_ENTRIES: Range<usize> = 446..510;
const MBR_ENTRY: usize = 16;
const PROTECTIVE: u8 = 0xee;
const PIECE: usize = 1 << 20;

/// A disk that holds an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holds {
    /// SHA-256 of the image, and of the disk as described in the module.
    pub sha256: String,
    /// Bytes that were compared.
    pub bytes: u64,
    /// Names of the partitions on the disk, by number.
    pub partitions: Vec<String>,
}

/// Whether the disk holds the image; else a sentence that says what is different.
pub fn holds_image(disk: &Path, image: &Path) -> Result<Holds, String> {
    let said = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let mut source = File::open(image).map_err(|error| said(image, error))?;
    let mut target = File::open(disk).map_err(|error| said(disk, error))?;
    let size = source.metadata().map_err(|error| said(image, error))?.len();
    let disk_size = target.metadata().map_err(|error| said(disk, error))?.len();
    if size % BLOCK != 0 || size < 64 * BLOCK || disk_size < size {
        return Err(format!("an image of {size} bytes cannot be on a disk of {disk_size} bytes"));
    }
    let table = tables(image, disk, size, disk_size)?;
    let excused = excused(&mut source, size, &table)?;

    let (mut expected, mut found) = (Sha256::new(), Sha256::new());
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut first_difference = None;
    let mut at = 0;
    while at < size {
        let length = usize::try_from((size - at).min(PIECE as u64)).unwrap_or(PIECE);
        let (left, right) = (&mut left[..length], &mut right[..length]);
        read_at(&mut source, at, left).map_err(|error| said(image, error))?;
        read_at(&mut target, at, right).map_err(|error| said(disk, error))?;
        for range in &excused {
            let (from, to) =
                (range.start.clamp(at, at + length as u64), range.end.clamp(at, at + length as u64));
            let part = (from - at) as usize..(to - at) as usize;
            right[part.clone()].copy_from_slice(&left[part]);
        }
        if first_difference.is_none() {
            first_difference = left.iter().zip(right.iter()).position(|(l, r)| l != r).map(|n| at + n as u64);
        }
        expected.update(&left);
        found.update(&right);
        at += length as u64;
    }
    let (expected, found) = (hex::encode(expected.finalize()), hex::encode(found.finalize()));
    if expected != found {
        let first =
            first_difference.map_or_else(String::new, |n| format!("; the first different byte is {n}"));
        return Err(format!("SHA-256 of the image is {expected}, of the disk {found}{first}"));
    }
    Ok(Holds { sha256: expected, bytes: size, partitions: table.names })
}

struct Tables {
    /// Numbers (from 1) of the image's partitions.
    numbers: Vec<u32>,
    names: Vec<String>,
    array: Range<u64>,
    entry: u64,
}

/// Reads both tables and checks that the disk's is the image's, moved to the disk's size.
fn tables(image: &Path, disk: &Path, size: u64, disk_size: u64) -> Result<Tables, String> {
    let open = |path: &Path| {
        // Both copies must be there and their checksums right.
        gpt::GptConfig::new()
            .writable(false)
            .only_valid_headers(true)
            .open(path)
            .map_err(|error| format!("{}: no good GPT: {error}", path.display()))
    };
    let (ours, theirs) = (open(image)?, open(disk)?);
    let header =
        |table: &gpt::GptDisk<File>| table.primary_header().cloned().map_err(|error| error.to_string());
    let (wanted, got) = (header(&ours)?, header(&theirs)?);
    let last = disk_size / BLOCK - 1;
    if got.backup_lba != last {
        return Err(format!(
            "the backup of the GPT is at block {}, the disk ends with block {last}",
            got.backup_lba
        ));
    }
    if (wanted.disk_guid, wanted.part_start, wanted.num_parts, wanted.part_size)
        != (got.disk_guid, got.part_start, got.num_parts, got.part_size)
    {
        return Err("the GPT of the disk has another identity or another array of partitions".to_owned());
    }
    let same = |wanted: &Partition, got: Option<&Partition>| got.is_some_and(|got| got == wanted);
    for (number, partition) in ours.partitions() {
        if !same(partition, theirs.partitions().get(number)) {
            return Err(format!("partition {number} ({}) of the image is not on the disk", partition.name));
        }
    }
    let more: Vec<&Partition> = theirs
        .partitions()
        .iter()
        .filter(|(n, _)| !ours.partitions().contains_key(n))
        .map(|(_, p)| p)
        .collect();
    if more.len() > 1 {
        return Err(format!("the disk has {} partitions more than the image", more.len()));
    }
    if let Some(inside) = more.iter().find(|partition| partition.first_lba * BLOCK < size - BLOCK) {
        return Err(format!("partition {} lies where the image is", inside.name));
    }
    let start = wanted.part_start * BLOCK;
    let entry = u64::from(wanted.part_size);
    Ok(Tables {
        numbers: ours.partitions().keys().copied().collect(),
        names: theirs.partitions().values().map(|partition| partition.name.clone()).collect(),
        array: start..start + entry * u64::from(wanted.num_parts),
        entry,
    })
}

/// The ranges in which the disk may differ from the image.
fn excused(image: &mut File, size: u64, table: &Tables) -> Result<Vec<Range<u64>>, String> {
    let mut mbr = [0; BLOCK as usize];
    read_at(image, 0, &mut mbr).map_err(|error| error.to_string())?;
    let entries = (MBR_ENTRIES.start..MBR_ENTRIES.end).step_by(MBR_ENTRY);
    let protective = entries.filter(|at| mbr[at + 4] == PROTECTIVE).map(|at| at as u64 + 12..at as u64 + 16);
    let mut ranges: Vec<Range<u64>> = protective.collect();
    ranges.push(BLOCK..2 * BLOCK);
    let slots = (1..).zip((table.array.start..table.array.end).step_by(table.entry.max(1) as usize));
    let unused = slots.filter(|(number, _)| !table.numbers.contains(number));
    ranges.extend(unused.map(|(_, at)| at..at + table.entry));
    ranges.push(size - BLOCK..size);
    Ok(ranges)
}

fn read_at(file: &mut File, at: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(buffer)
}

/// SHA-256 (hex) of a file.
pub fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex::encode(hash.finalize())),
            length => hash.update(&piece[..length]),
        }
    }
}

/// Whether a disk has nothing left by which firmware or an operating system would find what was on it: no MBR, no GPT at
/// either end, no filesystem signature in the first MiB. A server that was never written has no disk file yet.
pub fn is_wiped(disk: &Path) -> Result<(), String> {
    let mut file = match File::open(disk) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("{}: {error}", disk.display())),
    };
    let failed = |error: std::io::Error| format!("{}: {error}", disk.display());
    let size = file.metadata().map_err(failed)?.len();
    let edge = size.min(1 << 20);
    let mut bytes = vec![0; usize::try_from(edge).unwrap_or_default()];
    for at in [0, size - edge] {
        read_at(&mut file, at, &mut bytes).map_err(failed)?;
        if let Some(offset) = bytes.iter().position(|byte| *byte != 0) {
            return Err(format!("byte {} of {} is not zero", at + offset as u64, disk.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::FileExt;

    use ferric_image::{ConfigDrive, FileDevice, build_test_image_file, write_config_drive};

    use super::*;

    const SIZE: u64 = 4 << 20;

    /// An image, and a disk that it was written to with a config drive behind it.
    fn written(folder: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
        let (image, disk) = (folder.join("image.raw"), folder.join("disk.img"));
        build_test_image_file(&image, SIZE, 7).unwrap();
        std::fs::copy(&image, &disk).unwrap();
        File::options().write(true).open(&disk).unwrap().set_len(32 << 20).unwrap();
        let mut device = FileDevice::open(&disk).unwrap();
        let drive = ConfigDrive { meta_data: b"instance-id: i\n".to_vec(), ..ConfigDrive::default() };
        write_config_drive(&mut device, &drive).unwrap();
        (image, disk)
    }

    fn flip(path: &Path, at: u64) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    #[test]
    fn a_written_disk_holds_its_image_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (image, disk) = written(folder.path());
        let holds = holds_image(&disk, &image).unwrap();
        assert_eq!(holds.sha256, sha256(&image).unwrap());
        assert_eq!(holds.partitions, ["esp", "root", "config-drive"]);
        let other = folder.path().join("other.raw");
        build_test_image_file(&other, SIZE, 8).unwrap();
        assert!(holds_image(&disk, &other).is_err());
    }

    #[test]
    fn one_bit_anywhere_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (image, disk) = written(folder.path());
        // Boot code, a partition's entry, gaps, the first and the last byte of the partitions, the stale backup's array.
        for at in [0, 1024 + 40, 20_000, 1 << 20, (2 << 20) + 5, SIZE - 513] {
            flip(&disk, at);
            assert!(holds_image(&disk, &image).is_err(), "byte {at}");
            flip(&disk, at);
        }
        holds_image(&disk, &image).unwrap();
    }

    #[test]
    fn the_table_must_be_whole_at_both_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (image, disk) = written(folder.path());
        for at in [512 + 60, (32 << 20) - 512 + 60] {
            flip(&disk, at);
            let error = holds_image(&disk, &image).unwrap_err();
            assert!(error.contains("GPT"), "{error}");
            flip(&disk, at);
        }
    }

    #[test]
    fn a_wiped_disk_has_empty_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (_, disk) = written(folder.path());
        assert!(is_wiped(&disk).is_err());
        let file = File::options().write(true).open(&disk).unwrap();
        let zeros = vec![0; 1 << 20];
        file.write_all_at(&zeros, 0).unwrap();
        assert!(is_wiped(&disk).unwrap_err().contains("not zero"));
        file.write_all_at(&zeros, 31 << 20).unwrap();
        is_wiped(&disk).unwrap();
        is_wiped(&folder.path().join("none.img")).unwrap();
    }
}
