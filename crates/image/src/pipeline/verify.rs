//! Reads back what was written: one thread reads, another hashes.

use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread,
};

use super::{
    ContentHash, ImageError, Stage,
    content::Hasher,
    pool::{Pool, Returns, pool},
    start,
    write::{Writer, failed},
};
use crate::device::aligned::Aligned;

/// Blocks between reader and hasher.
const BLOCKS: usize = 4;

impl Writer<'_> {
    /// Compares `length` bytes of the disk, holes included, with what they must hash to.
    pub(super) fn verify(&mut self, expected: &ContentHash, length: u64) -> Result<(), ImageError> {
        self.device.drop_caches().map_err(failed("drop caches", 0, length))?;
        let (empty, returns) = pool(BLOCKS, self.block());
        let (to, from) = sync_channel(BLOCKS);
        let found = thread::scope(|scope| {
            let hasher = start(scope, "image-hash", move || hash(expected.hasher(), &from, &returns))?;
            let read = self.read_back(length, &empty, |block| to.send(block).is_ok());
            // The hasher comes to its end.
            drop((to, empty));
            let found = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            read.map(|()| found)
        })?;
        if found == *expected {
            return Ok(());
        }
        Err(ImageError::Verify { bytes: length, expected: *expected, found })
    }

    fn read_back(
        &mut self,
        length: u64,
        empty: &Pool,
        mut give: impl FnMut(Aligned) -> bool,
    ) -> Result<(), ImageError> {
        let mut offset = 0;
        while offset < length {
            // A hasher that has gone has panicked, which is what will be heard of.
            let Some(mut block) = empty.take() else { return Ok(()) };
            let size = (length - offset).min(block.len() as u64);
            block.set_len(size as usize);
            self.device.read_at(offset, &mut block).map_err(failed("read back", offset, size))?;
            if !give(block) {
                return Ok(());
            }
            offset += size;
            self.observe(Stage::Verifying, offset, Some(length))?;
        }
        Ok(())
    }
}

/// Hash of all blocks.
fn hash(mut hasher: Hasher, from: &Receiver<Aligned>, returns: &Returns) -> ContentHash {
    while let Ok(block) = from.recv() {
        hasher.update(&block);
        returns.give(block);
    }
    hasher.finish()
}
