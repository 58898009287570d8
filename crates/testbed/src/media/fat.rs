//! The FAT image that UEFI firmware starts from: one file, `EFI/BOOT/BOOTX64.EFI`. The same file gives the same image.

/// Bytes of a sector.
const SECTOR: usize = 512;
/// Sectors of a cluster: FAT12 holds 4084 clusters, that is 8 MiB.
const CLUSTER_SECTORS: usize = 4;
const CLUSTER: usize = SECTOR * CLUSTER_SECTORS;
/// Most clusters of a FAT12.
const MOST_CLUSTERS: usize = 4084;
/// Entries of the root folder: one sector of them.
const ROOT_ENTRIES: usize = 16;
const ENTRY: usize = 32;
/// 1 January 1980, the first day of FAT.
const DATE: u16 = (1 << 5) | 1;

/// A FAT12 image that holds `loader` as `EFI/BOOT/BOOTX64.EFI`; `None` if it is too large for one.
pub(super) fn efi_image(loader: &[u8]) -> Option<Vec<u8>> {
    // Two folders, then the loader.
    let clusters = 2 + loader.len().div_ceil(CLUSTER);
    if clusters > MOST_CLUSTERS {
        return None;
    }
    let fat_sectors = ((clusters + 2) * 3).div_ceil(2).div_ceil(SECTOR);
    let root = SECTOR * (1 + 2 * fat_sectors);
    let data = root + ROOT_ENTRIES * ENTRY;
    // Firmware and GRUB count in sectors of a CD.
    let size = (data + clusters * CLUSTER).next_multiple_of(2048);
    let mut image = vec![0; size];
    image[..SECTOR].copy_from_slice(&boot_sector(size / SECTOR, fat_sectors));

    let mut table = vec![0xff8, 0xfff, 0xfff, 0xfff];
    let first = 4;
    let length = loader.len().div_ceil(CLUSTER);
    for n in 0..length {
        let last = n + 1 == length;
        table.push(if last { 0xfff } else { u16::try_from(first + n + 1).ok()? });
    }
    let table = pack(&table);
    for copy in 0..2 {
        let at = SECTOR * (1 + copy * fat_sectors);
        image[at..at + table.len()].copy_from_slice(&table);
    }

    let cluster = |number: usize| data + (number - 2) * CLUSTER;
    image[root..root + ENTRY].copy_from_slice(&entry(b"EFI        ", 0x10, 2, 0));
    let (efi, boot) = (cluster(2), cluster(3));
    image[efi..efi + ENTRY].copy_from_slice(&entry(b".          ", 0x10, 2, 0));
    image[efi + 32..efi + 64].copy_from_slice(&entry(b"..         ", 0x10, 0, 0));
    image[efi + 64..efi + 96].copy_from_slice(&entry(b"BOOT       ", 0x10, 3, 0));
    image[boot..boot + ENTRY].copy_from_slice(&entry(b".          ", 0x10, 3, 0));
    image[boot + 32..boot + 64].copy_from_slice(&entry(b"..         ", 0x10, 2, 0));
    let length = u32::try_from(loader.len()).ok()?;
    let start = if loader.is_empty() { 0 } else { 4 };
    image[boot + 64..boot + 96].copy_from_slice(&entry(b"BOOTX64 EFI", 0x20, start, length));
    let at = cluster(first);
    image[at..at + loader.len()].copy_from_slice(loader);
    Some(image)
}

fn boot_sector(sectors: usize, fat_sectors: usize) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    let short = |n: usize| u16::try_from(n).unwrap_or(0).to_le_bytes();
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"FERRIC  ");
    put(11, &short(SECTOR));
    put(13, &[CLUSTER_SECTORS as u8]);
    put(14, &short(1));
    put(16, &[2]);
    put(17, &short(ROOT_ENTRIES));
    put(19, &short(sectors));
    put(21, &[0xf8]);
    put(22, &short(fat_sectors));
    put(24, &short(32));
    put(26, &short(64));
    put(38, &[0x29]);
    put(39, b"FRRC");
    put(43, b"FERRIC     ");
    put(54, b"FAT12   ");
    put(510, &[0x55, 0xaa]);
    sector
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u16, size: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    entry[26..28].copy_from_slice(&cluster.to_le_bytes());
    entry[28..].copy_from_slice(&size.to_le_bytes());
    entry
}

/// Entries of twelve bits, two in three bytes.
fn pack(entries: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * 3 / 2 + 3);
    for pair in entries.chunks(2) {
        let (low, high) = (pair[0], pair.get(1).copied().unwrap_or(0));
        let bits = u32::from(low) | u32::from(high) << 12;
        bytes.extend_from_slice(&bits.to_le_bytes()[..3]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Cursor, Read};

    use super::*;

    #[test]
    fn another_reader_finds_the_loader() {
        for size in [1, CLUSTER, CLUSTER + 1, 700_001, 5 << 20] {
            let loader: Vec<u8> = (0..size).map(|n: usize| (n * 7 % 251) as u8).collect();
            let image = efi_image(&loader).unwrap();
            assert_eq!(image.len() % 2048, 0);
            let volume = fatfs::FileSystem::new(Cursor::new(image), fatfs::FsOptions::new()).unwrap();
            assert_eq!(volume.fat_type(), fatfs::FatType::Fat12);
            let mut read = Vec::new();
            volume.root_dir().open_file("EFI/BOOT/BOOTX64.EFI").unwrap().read_to_end(&mut read).unwrap();
            assert!(read == loader, "{size}");
        }
        assert!(efi_image(&vec![0; 9 << 20]).is_none());
    }
}
