//! Small files of `/sys` and `/proc`.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// No attribute that is read here is longer.
const LONGEST: u64 = 1 << 20;

/// The bytes of a file; none where there is none or it is not readable.
pub(super) fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Ok(file) = fs::File::open(path) else { return bytes };
    let _ = file.take(LONGEST).read_to_end(&mut bytes);
    bytes
}

/// The text of a file, trimmed; empty where there is none or it is not readable.
pub(super) fn text(path: impl AsRef<Path>) -> String {
    String::from_utf8_lossy(&bytes(path)).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
}

/// A number in decimal.
pub(super) fn number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    text(path).parse().ok()
}

/// Whether the file holds `1`.
pub(super) fn flag(path: impl AsRef<Path>) -> bool {
    text(path) == "1"
}

/// The entries of a folder, sorted by name; none where there is no such folder.
pub(super) fn entries(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    paths
}

/// The last part of a path.
pub(super) fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The last part of what a symbolic link points to.
pub(super) fn link_name(path: impl AsRef<Path>) -> String {
    fs::read_link(path).map(|target| name(&target)).unwrap_or_default()
}
