//! How the files of the cache are called. The name of a file is the digest that it must have; extents have a suffix, by
//! which nothing that was downloaded can be taken for them.

use std::{io, path::Path};

use ferric_image::{Checksum, ChecksumAlgorithm, extents::ExtentsReader};

use super::{ledger::Entry, since_1970};

/// Suffix of the files that the cache has made itself.
const EXTENTS: &str = ".extents";

/// Name of the file with this digest.
pub(super) fn file_name(digest: &str, extents: bool) -> String {
    let suffix = if extents { EXTENTS } else { "" };
    format!("{}{suffix}", digest.replace(':', "-"))
}

/// Digest of the file with this name, and whether it holds extents.
fn digest_of(file_name: &str) -> Option<(String, bool)> {
    let (name, extents) = match file_name.strip_suffix(EXTENTS) {
        Some(name) => (name, true),
        None => (file_name, false),
    };
    let (algorithm, hex) = name.split_once('-')?;
    let algorithm: ChecksumAlgorithm = algorithm.parse().ok()?;
    let digest = Checksum::new(algorithm, hex).ok()?.to_string();
    (self::file_name(&digest, extents) == file_name).then_some((digest, extents))
}

/// The images in a folder, unverified. Other files are left alone; extents that do not begin as such go.
pub(super) fn files_in(dir: &Path) -> io::Result<Vec<(String, Entry)>> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        let name = file.file_name();
        let Some((digest, extents)) = name.to_str().and_then(digest_of) else { continue };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            continue;
        }
        let source = if extents {
            let Ok(reader) = ExtentsReader::new(&mut std::fs::File::open(file.path())?) else {
                remove_file(&file.path());
                continue;
            };
            Some(reader.header().source.to_string())
        } else {
            None
        };
        let used_at = metadata.modified().map_or(0, since_1970);
        found.push((digest, Entry { size: metadata.len(), used_at, users: 0, verified: None, source }));
    }
    Ok(found)
}

/// Removes whatever has this digest.
pub(super) fn remove(dir: &Path, digest: &str) {
    [false, true].into_iter().for_each(|extents| remove_file(&dir.join(file_name(digest, extents))));
}

/// Removes a file that need not be there.
pub(super) fn remove_file(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file of the image cache could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_others_are_not() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for extents in [false, true] {
            assert_eq!(digest_of(&file_name(&digest, extents)), Some((digest.clone(), extents)));
        }
        let other = file_name(&digest, false);
        for name in ["README", "sha256-ab", "sha256-", &format!("{other}.tmp"), &other.to_uppercase()] {
            assert_eq!(digest_of(name), None, "{name}");
        }
    }
}
