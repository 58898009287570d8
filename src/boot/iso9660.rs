//! Puts another kernel and initramfs onto a boot medium without making it anew: they are appended to the template, and the
//! two directory records that say where these files lie are replaced, with the size of the volume. Numbers of sections are
//! those of ECMA-119 (ISO 9660), 4th edition.

use std::io;

use super::image::Region;
use super::media::Patch;

/// Bytes of a sector, which is also a logical block here (6.1.2).
pub const SECTOR: u64 = 2048;
/// The largest file: its length is a number of 32 bits (9.1.4).
pub const MOST_FILE: u64 = u32::MAX as u64;
/// Where the primary volume descriptor lies (6.7.1).
const PRIMARY: u64 = 16 * SECTOR;
/// The largest directory that is read.
const MOST_DIRECTORY: u64 = 64 * 1024;
/// The flag of a directory (9.1.6).
const DIRECTORY: u8 = 2;

/// Where on a template the three places are that say where the kernel and the initramfs lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Volume space size, a number in both orders (8.4.8).
    volume: u64,
    /// Extent and data length in the directory record of the kernel (9.1.3, 9.1.4).
    kernel: u64,
    /// The same of the initramfs.
    initrd: u64,
}

/// A file in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    /// Where the record's extent and data length begin on the medium.
    place: u64,
    extent: u32,
    length: u32,
    directory: bool,
}

impl Places {
    /// Finds `/boot/vmlinuz` and `/boot/initrd.img` on a medium that `read` reads. `None`: it is not one as `make agent-image`
    /// makes it, or cannot be read.
    pub fn find(read: impl Fn(u64, &mut [u8]) -> io::Result<()>) -> Option<Self> {
        let mut primary = [0; SECTOR as usize];
        read(PRIMARY, &mut primary).ok()?;
        // Type 1, identifier, version 1 (8.4.1 to 8.4.3), and logical blocks of a sector (8.4.12).
        if !primary.starts_with(b"\x01CD001\x01") || primary[128..132] != [0, 8, 8, 0] {
            return None;
        }
        // The record of the root (8.4.18) has nothing in it that lies on the medium before it is read.
        let root = record(&primary[156..190], PRIMARY + 156)?;
        let boot = look_up(&read, root, b"BOOT").filter(|found| found.directory)?;
        let file = |name: &[u8]| look_up(&read, boot, name).filter(|found| !found.directory);
        Some(Self {
            volume: PRIMARY + 80,
            kernel: file(b"VMLINUZ")?.place,
            initrd: file(b"INITRD.IMG")?.place,
        })
    }

    /// What has to be changed for a kernel and an initramfs that begin at these sectors and have these lengths in bytes, on a
    /// medium of `sectors`. `None`: that cannot be said in 32 bits.
    pub fn patches(&self, kernel: (u64, u64), initrd: (u64, u64), sectors: u64) -> Option<[Patch; 3]> {
        let file = |place: u64, (sector, length): (u64, u64)| {
            let numbers = [both(u32::try_from(sector).ok()?), both(u32::try_from(length).ok()?)].concat();
            Patch::new(Region { offset: place, length: 16 }, numbers)
        };
        let sectors = both(u32::try_from(sectors).ok()?);
        let volume = Patch::new(Region { offset: self.volume, length: 8 }, sectors.to_vec());
        Some([volume?, file(self.kernel, kernel)?, file(self.initrd, initrd)?])
    }
}

/// A number in both orders (7.3.3).
fn both(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Reads a directory record that lies at `at` (9.1).
fn record(bytes: &[u8], at: u64) -> Option<Record> {
    let number = |from: usize| {
        let little = u32::from_le_bytes(bytes.get(from..from + 4)?.try_into().ok()?);
        let big = u32::from_be_bytes(bytes.get(from + 4..from + 8)?.try_into().ok()?);
        (little == big).then_some(little)
    };
    let directory = bytes.get(25)? & DIRECTORY != 0;
    Some(Record { place: at + 2, extent: number(2)?, length: number(10)?, directory })
}

/// Finds a name in a directory. Names are compared without version, trailing dot and case.
fn look_up(
    read: &impl Fn(u64, &mut [u8]) -> io::Result<()>,
    directory: Record,
    wanted: &[u8],
) -> Option<Record> {
    let length = u64::from(directory.length).min(MOST_DIRECTORY);
    let start = u64::from(directory.extent) * SECTOR;
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    read(start, &mut bytes).ok()?;
    // No record lies in two sectors (6.8.1.1); where a sector has no more of them, a zero stands.
    for (number, sector) in bytes.chunks(SECTOR as usize).enumerate() {
        let mut at = 0;
        while let Some(size) = sector.get(at).copied().map(usize::from).filter(|size| *size > 33) {
            let Some(found) = sector.get(at..at + size) else { break };
            let name = found.get(33..33 + usize::from(found[32])).unwrap_or_default();
            let name = name.split(|byte| *byte == b';').next().unwrap_or_default();
            let name = name.strip_suffix(b".").unwrap_or(name);
            if name.eq_ignore_ascii_case(wanted) {
                return record(found, start + number as u64 * SECTOR + at as u64);
            }
            at += size;
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn entry(name: &[u8], sector: u32, length: u32, flags: u8) -> Vec<u8> {
        let mut bytes = vec![0; 33 + name.len()];
        if bytes.len() % 2 == 1 {
            bytes.push(0);
        }
        bytes[0] = u8::try_from(bytes.len()).unwrap();
        bytes[2..10].copy_from_slice(&both(sector));
        bytes[10..18].copy_from_slice(&both(length));
        bytes[25] = flags;
        bytes[32] = u8::try_from(name.len()).unwrap();
        bytes[33..33 + name.len()].copy_from_slice(name);
        bytes
    }

    /// A medium of 30 sectors: root at 20, /boot at 21 and 22, kernel at 24, initramfs at 26, the latter's record in the
    /// second sector of the directory.
    pub(in crate::boot) fn medium() -> Vec<u8> {
        let mut iso = vec![0; 30 * SECTOR as usize];
        let mut put = |at: usize, bytes: &[u8]| iso[at..at + bytes.len()].copy_from_slice(bytes);
        put(PRIMARY as usize, b"\x01CD001\x01");
        put(PRIMARY as usize + 80, &both(30));
        put(PRIMARY as usize + 128, &[0, 8, 8, 0]);
        put(PRIMARY as usize + 156, &entry(&[0], 20, 2048, DIRECTORY));
        let root = [entry(&[0], 20, 2048, DIRECTORY), entry(&[1], 20, 2048, DIRECTORY)].concat();
        put(20 * 2048, &[root, entry(b"BOOT", 21, 4096, DIRECTORY)].concat());
        let boot = [entry(b"GRUB", 28, 2048, DIRECTORY), entry(b"VMLINUZ.;1", 24, 3000, 0)].concat();
        put(21 * 2048, &boot);
        put(22 * 2048, &entry(b"INITRD.IMG;1", 26, 100, 0));
        iso
    }

    pub(in crate::boot) fn reader(iso: &[u8]) -> impl Fn(u64, &mut [u8]) -> io::Result<()> + '_ {
        |at, to| {
            let from = usize::try_from(at).map_err(io::Error::other)?;
            let end = from.checked_add(to.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            to.copy_from_slice(iso.get(from..end).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    /// Sector and length of a file in /boot, as a reader of the medium finds it.
    pub(in crate::boot) fn file_of(iso: &[u8], name: &[u8]) -> (u32, u32) {
        let root = record(&iso[PRIMARY as usize + 156..], 0).unwrap();
        let boot = look_up(&reader(iso), root, b"BOOT").unwrap();
        let found = look_up(&reader(iso), boot, name).unwrap();
        (found.extent, found.length)
    }

    #[test]
    fn the_files_are_found_and_moved() {
        let mut iso = medium();
        let places = Places::find(reader(&iso)).unwrap();
        assert_eq!((file_of(&iso, b"VMLINUZ"), file_of(&iso, b"INITRD.IMG")), ((24, 3000), (26, 100)));
        for patch in places.patches((30, 9000), (35, MOST_FILE), 5_000_000).unwrap() {
            patch.apply(0, &mut iso);
        }
        assert_eq!(file_of(&iso, b"VMLINUZ"), (30, 9000));
        assert_eq!(file_of(&iso, b"INITRD.IMG"), (35, u32::MAX));
        assert_eq!(iso[PRIMARY as usize + 80..][..8], both(5_000_000));
        assert!(places.patches((30, 1), (35, MOST_FILE + 1), 40).is_none());
        assert!(places.patches((MOST_FILE + 1, 1), (35, 1), 40).is_none());
    }

    #[test]
    fn what_is_no_such_medium_is_left_alone() {
        let whole = medium();
        let changed = |at: usize, byte: u8| {
            let mut iso = whole.clone();
            iso[at] = byte;
            Places::find(reader(&iso))
        };
        assert_eq!(Places::find(reader(&[])), None);
        assert_eq!(Places::find(reader(&whole[..25 * 2048])), Places::find(reader(&whole)));
        assert_eq!(Places::find(reader(&whole[..21 * 2048])), None);
        // Another descriptor, other blocks, a number that is not the same in both orders, no kernel, a file as folder.
        for (at, byte) in [(PRIMARY, 2), (PRIMARY + 128, 1), (PRIMARY + 158, 9)] {
            assert_eq!(changed(at as usize, byte), None);
        }
        let kernel = 21 * 2048 + entry(b"GRUB", 0, 0, 0).len();
        assert_eq!((changed(kernel + 33, b'X'), changed(kernel + 25, DIRECTORY)), (None, None));
    }

    proptest! {
        #[test]
        fn damage_does_no_harm(at in 16 * 2048_usize..23 * 2048, byte: u8, more in 0_usize..64) {
            let mut iso = medium();
            iso[at..at + more].fill(byte);
            if let Some(places) = Places::find(reader(&iso)) {
                prop_assert!(places.kernel < 1 << 44 && places.initrd < 1 << 44);
            }
        }
    }
}
