//! A writer of cpio archives in the form that the kernel unpacks ("newc"): the same entries give the same bytes.

use std::collections::BTreeMap;

/// Type bits of an inode.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// The entries of an archive, sorted by path; all of them belong to root and have no date.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    mode: u32,
    device: (u32, u32),
    content: Vec<u8>,
}

impl Archive {
    /// Adds a folder, and those above it.
    pub fn folder(&mut self, path: &str) {
        self.parents(path);
        self.entries.entry(path.to_owned()).or_insert(Entry {
            mode: FOLDER | 0o755,
            device: (0, 0),
            content: Vec::new(),
        });
    }

    /// Adds a file with its permissions, and the folders above it.
    pub fn file(&mut self, path: &str, permissions: u32, content: Vec<u8>) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry { mode: FILE | permissions, device: (0, 0), content });
    }

    /// Adds a character device, and the folders above it. Writing one into an archive needs no privilege.
    pub fn device(&mut self, path: &str, permissions: u32, device: (u32, u32)) {
        self.parents(path);
        let mode = CHARACTER_DEVICE | permissions;
        self.entries.insert(path.to_owned(), Entry { mode, device, content: Vec::new() });
    }

    fn parents(&mut self, path: &str) {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above);
        }
    }

    /// The archive's bytes. A folder sorts before what is in it, as the kernel wants it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            write(&mut bytes, inode, path, entry);
        }
        let end = Entry { mode: 0, device: (0, 0), content: Vec::new() };
        write(&mut bytes, 0, "TRAILER!!!", &end);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

fn write(bytes: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) {
    let links = if entry.mode & 0o170_000 == FOLDER { 2 } else { 1 };
    let size = u32::try_from(entry.content.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
    let (major, minor) = entry.device;
    // inode, mode, user, group, links, date, size, device of the file (2), device it is (2), size of the name, check
    let fields = [inode, entry.mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
    bytes.extend_from_slice(b"070701");
    for field in fields {
        bytes.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    bytes.extend_from_slice(path.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend_from_slice(&entry.content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Mode, device, path and content.
    type Read = (u32, (u32, u32), String, Vec<u8>);

    /// The entries, read as the kernel reads them (init/initramfs.c).
    fn read(mut bytes: &[u8]) -> Vec<Read> {
        let mut entries = Vec::new();
        let start = bytes.len();
        let align = |bytes: &mut &[u8]| {
            let over = (start - bytes.len()) % 4;
            *bytes = &bytes[(4 - over) % 4..];
        };
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, device, name) = (field(1), field(6), (field(9), field(10)), field(11));
            assert_eq!((field(2), field(3), field(5)), (0, 0, 0), "owner, group, date");
            bytes = &bytes[110..];
            let path = std::str::from_utf8(&bytes[..name as usize - 1]).unwrap().to_owned();
            assert_eq!(bytes[name as usize - 1], 0);
            bytes = &bytes[name as usize..];
            align(&mut bytes);
            let content = bytes[..size as usize].to_vec();
            bytes = &bytes[size as usize..];
            align(&mut bytes);
            if path == "TRAILER!!!" {
                return entries;
            }
            entries.push((mode, device, path, content));
        }
    }

    #[test]
    fn what_is_written_is_read_again_in_the_same_order() {
        let mut archive = Archive::default();
        archive.file("lib/modules/a.ko", 0o644, b"module".to_vec());
        archive.file("init", 0o755, b"#!x".to_vec());
        archive.device("dev/console", 0o600, (5, 1));
        let entries = read(&archive.to_bytes());
        let paths: Vec<_> = entries.iter().map(|(.., path, _)| path.as_str()).collect();
        assert_eq!(paths, ["dev", "dev/console", "init", "lib", "lib/modules", "lib/modules/a.ko"]);
        assert_eq!((entries[1].0, entries[1].1), (0o020_600, (5, 1)));
        assert_eq!((entries[2].0, entries[2].3.as_slice()), (0o100_755, b"#!x".as_slice()));
        assert_eq!(entries[3].0, 0o040_755);
        assert_eq!(archive.to_bytes().len() % 512, 0);
    }
}
