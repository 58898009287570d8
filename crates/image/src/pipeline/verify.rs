//! Reads back what was written: one thread reads, another hashes.

use std::{
    ops::ControlFlow,
    sync::mpsc::{Receiver, sync_channel},
    thread,
};

use super::{
    ContentHash, ImageError, Progress, Stage,
    content::Hasher,
    pool::{Pool, Returns, pool},
    start,
    write::{Writer, failed},
};
use crate::device::{BlockDevice, aligned::Aligned};

/// Blocks between reader and hasher.
const BLOCKS: usize = 4;

impl Writer<'_> {
    /// Compares `length` bytes of the disk, holes included, with what they must hash to.
    pub(super) fn verify(&mut self, expected: &ContentHash, length: u64) -> Result<(), ImageError> {
        let block = self.block();
        verify(self.device, block, expected, length, self.observer)
    }
}

/// Compares the first `length` bytes of a disk with what they must hash to, `block` bytes at once, past the page cache.
pub(super) fn verify(
    device: &mut dyn BlockDevice,
    block: usize,
    expected: &ContentHash,
    length: u64,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), ImageError> {
    device.drop_caches().map_err(failed("drop caches", 0, length))?;
    let (empty, returns) = pool(BLOCKS, block);
    let (to, from) = sync_channel(BLOCKS);
    let found = thread::scope(|scope| {
        let hasher = start(scope, "image-hash", move || hash(expected.hasher(), &from, &returns))?;
        let read = read_back(device, length, &empty, observe, |block| to.send(block).is_ok());
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
    device: &mut dyn BlockDevice,
    length: u64,
    empty: &Pool,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    mut give: impl FnMut(Aligned) -> bool,
) -> Result<(), ImageError> {
    let mut offset = 0;
    while offset < length {
        // A hasher that has gone has panicked, which is what will be heard of.
        let Some(mut block) = empty.take() else { return Ok(()) };
        let size = (length - offset).min(block.len() as u64);
        block.set_len(size as usize);
        device.read_at(offset, &mut block).map_err(failed("read back", offset, size))?;
        if !give(block) {
            return Ok(());
        }
        offset += size;
        let progress = Progress { stage: Stage::Verifying, done: offset, total: Some(length) };
        if observe(progress).is_break() {
            return Err(ImageError::Cancelled { stage: Stage::Verifying, bytes: offset });
        }
    }
    Ok(())
}

/// Hash of all blocks.
fn hash(mut hasher: Hasher, from: &Receiver<Aligned>, returns: &Returns) -> ContentHash {
    while let Ok(block) = from.recv() {
        hasher.update(&block);
        returns.give(block);
    }
    hasher.finish()
}
