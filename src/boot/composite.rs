//! A file that is put together while it is sent: pieces of other files one after the other, with some bytes replaced.
//! Nothing of it is stored; any part of it can be read by itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::image::Artifact;
use super::media::Patch;
use crate::deploy::images::CachedFile;

/// A file to send.
#[derive(Clone, Default)]
pub struct Composite {
    parts: Vec<Part>,
    patches: Vec<Patch>,
    size: u64,
}

#[derive(Clone)]
struct Part {
    at: u64,
    length: u64,
    content: Content,
}

#[derive(Clone)]
enum Content {
    Artifact(Arc<Artifact>),
    Cached(Arc<CachedFile>),
    Bytes(Bytes),
    Zeros,
}

impl Composite {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// With a file of the agent image at its end.
    #[must_use]
    pub fn artifact(self, artifact: Arc<Artifact>) -> Self {
        self.push(artifact.size, Content::Artifact(artifact))
    }

    /// With a file of the image cache at its end.
    #[must_use]
    pub fn cached(self, file: Arc<CachedFile>) -> Self {
        self.push(file.size, Content::Cached(file))
    }

    /// With these bytes at its end.
    #[must_use]
    pub fn bytes(self, bytes: Bytes) -> Self {
        self.push(bytes.len() as u64, Content::Bytes(bytes))
    }

    /// With another such file at its end.
    #[must_use]
    pub fn append(mut self, other: Self) -> Self {
        let at = self.size;
        self.parts.extend(other.parts.into_iter().map(|part| Part { at: at + part.at, ..part }));
        self.patches.extend(other.patches.into_iter().map(|patch| patch.moved(at)));
        self.size += other.size;
        self
    }

    /// With as many zeros at its end as make its size a multiple of `unit`, at least 1.
    #[must_use]
    pub fn padded(self, unit: u64) -> Self {
        let zeros = self.size.next_multiple_of(unit.max(1)) - self.size;
        self.push(zeros, Content::Zeros)
    }

    /// With other bytes in a place of what is there so far.
    #[must_use]
    pub fn patched(mut self, patch: Patch) -> Self {
        self.patches.push(patch);
        self
    }

    fn push(mut self, length: u64, content: Content) -> Self {
        if length > 0 {
            self.parts.push(Part { at: self.size, length, content });
            self.size += length;
        }
        self
    }

    /// Reads from byte `at` on; what was asked for must lie within.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.saturating_add(buffer.len() as u64);
        if end > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for part in self.parts.iter().filter(|part| part.at < end && at < part.at + part.length) {
            let (first, last) = (part.at.max(at), (part.at + part.length).min(end));
            // All of them are within the length of the buffer or of bytes in memory.
            let index = |offset: u64, base: u64| usize::try_from(offset - base).unwrap_or(usize::MAX);
            let Some(to) = buffer.get_mut(index(first, at)..index(last, at)) else { continue };
            let file = |file: &File, to: &mut [u8]| file.read_exact_at(to, first - part.at);
            match &part.content {
                Content::Artifact(artifact) => file(&artifact.file, to)?,
                Content::Cached(cached) => file(&cached.file, to)?,
                Content::Bytes(bytes) => {
                    if let Some(from) = bytes.get(index(first, part.at)..index(last, part.at)) {
                        to.copy_from_slice(from);
                    }
                }
                Content::Zeros => to.fill(0),
            }
        }
        for patch in &self.patches {
            patch.apply(at, buffer);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::super::image::Region;
    use super::*;

    proptest! {
        #[test]
        fn any_part_read_is_that_part_of_the_whole(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..6),
            unit in 1_u64..40, patch in prop::collection::vec(any::<u8>(), 1..30),
            place in 0_usize..200, first in 0_usize..400, length in 0_usize..400,
        ) {
            let (mut composite, mut whole) = (Composite::default(), Vec::new());
            let before = Composite::default().bytes(vec![7; 33].into());
            for (number, piece) in pieces.iter().enumerate() {
                composite = match number % 2 {
                    0 => composite.bytes(piece.clone().into()),
                    _ => {
                        let mut file = tempfile::tempfile().unwrap();
                        io::Write::write_all(&mut file, piece).unwrap();
                        let size = piece.len() as u64;
                        composite.artifact(Arc::new(Artifact { name: String::new(), file, size }))
                    }
                };
                whole.extend_from_slice(piece);
                composite = composite.padded(unit);
                whole.resize(whole.len().next_multiple_of(unit as usize), 0);
            }
            let place = place.min(whole.len());
            let patch = &patch[..patch.len().min(whole.len() - place)];
            let region = Region { offset: place as u64, length: patch.len() as u64 };
            composite = composite.patched(Patch::new(region, patch.to_vec()).unwrap());
            whole[place..place + patch.len()].copy_from_slice(patch);
            composite = before.append(composite);
            whole.splice(..0, [7; 33]);
            prop_assert_eq!(composite.size(), whole.len() as u64);
            let first = first.min(whole.len());
            let mut part = vec![0xEE; length.min(whole.len() - first)];
            composite.read_exact_at(&mut part, first as u64).unwrap();
            prop_assert_eq!(&part[..], &whole[first..first + part.len()]);
            let mut beyond = vec![0; whole.len() - first + 1];
            prop_assert!(composite.read_exact_at(&mut beyond, first as u64).is_err());
        }
    }
}
