//! Disks for benches: thousands of them in one process, each as large as it says, for the memory of one.
//!
//! A disk is a map of the blocks that are not zero, and equal blocks of all disks are kept once, in a [`BlockStore`].
//! So a thousand hosts that write the same image hold it once, plus a few kilobytes of config drive each, and what is
//! read back is still what was written, byte for byte: the pipeline's verification is not weakened.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{BlockDevice, check_range, is_zero};

/// Small enough that a config drive costs little, large enough that the map does.
const BLOCK: usize = 4096;

/// Blocks that disks share. Clones are handles to the same store.
#[derive(Debug, Clone, Default)]
pub struct BlockStore {
    blocks: Arc<Mutex<Blocks>>,
}

#[derive(Debug, Default)]
struct Blocks {
    set: HashSet<Arc<[u8]>>,
    /// Sweep when the set has grown to this: unused blocks are found by looking at all.
    sweep_at: usize,
}

impl BlockStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many different blocks are held.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.blocks).set.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn intern(&self, data: &[u8]) -> Arc<[u8]> {
        let mut blocks = lock(&self.blocks);
        if let Some(known) = blocks.set.get(data) {
            return known.clone();
        }
        if blocks.set.len() >= blocks.sweep_at.max(1024) {
            blocks.set.retain(|block| Arc::strong_count(block) > 1);
            blocks.sweep_at = blocks.set.len() * 2;
        }
        let block: Arc<[u8]> = data.into();
        blocks.set.insert(block.clone());
        block
    }
}

/// What was done to a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Calls of `write_at`.
    pub writes: u64,
    /// Bytes given to `write_at`.
    pub bytes_written: u64,
    /// Bytes given to `write_zeroes`.
    pub bytes_zeroed: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Calls of `sync`.
    pub syncs: u64,
}

/// A counting disk. Clones are handles to the same disk.
#[derive(Debug, Clone)]
pub struct CountingDevice {
    size: u64,
    store: BlockStore,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    blocks: BTreeMap<u64, Arc<[u8]>>,
    counts: DeviceCounts,
}

impl CountingDevice {
    /// A disk of zeros whose blocks live in `store`.
    #[must_use]
    pub fn new(size: u64, store: &BlockStore) -> Self {
        Self { size, store: store.clone(), inner: Arc::default() }
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> DeviceCounts {
        lock(&self.inner).counts
    }
}

impl BlockDevice for CountingDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buffer.len() as u64)?;
        let mut inner = lock(&self.inner);
        inner.counts.bytes_read += buffer.len() as u64;
        for (number, within, part) in pieces(offset, buffer.len()) {
            let into = &mut buffer[part];
            match inner.blocks.get(&number) {
                Some(block) => into.copy_from_slice(&block[within..within + into.len()]),
                None => into.fill(0),
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_range(self.size, offset, data.len() as u64)?;
        let mut inner = lock(&self.inner);
        inner.counts.writes += 1;
        inner.counts.bytes_written += data.len() as u64;
        let mut whole = [0; BLOCK];
        for (number, within, part) in pieces(offset, data.len()) {
            let data = &data[part];
            let block = if data.len() == BLOCK {
                data
            } else {
                match inner.blocks.get(&number) {
                    Some(block) => whole.copy_from_slice(block),
                    None => whole.fill(0),
                }
                whole[within..within + data.len()].copy_from_slice(data);
                &whole
            };
            if is_zero(block) {
                inner.blocks.remove(&number);
            } else {
                inner.blocks.insert(number, self.store.intern(block));
            }
        }
        Ok(())
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        check_range(self.size, offset, length)?;
        let end = offset + length;
        let first_whole = offset.div_ceil(BLOCK as u64);
        let end_whole = end / BLOCK as u64;
        if first_whole >= end_whole {
            // Less than a block, or parts of two.
            self.write_at(offset, &vec![0; length as usize])?;
        } else {
            let (head, tail) = (first_whole * BLOCK as u64 - offset, end - end_whole * BLOCK as u64);
            self.write_at(offset, &[0; BLOCK][..head as usize])?;
            self.write_at(end - tail, &[0; BLOCK][..tail as usize])?;
            let mut inner = lock(&self.inner);
            let mut after = inner.blocks.split_off(&first_whole);
            let mut kept = after.split_off(&end_whole);
            inner.blocks.append(&mut kept);
        }
        lock(&self.inner).counts.bytes_zeroed += length;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        lock(&self.inner).counts.syncs += 1;
        Ok(())
    }

    fn drop_caches(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts a range into (block number, offset within the block, range within the caller's buffer).
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < length).then(|| {
            let at = offset + done as u64;
            let within = (at % BLOCK as u64) as usize;
            let part = done..length.min(done + BLOCK - within);
            done = part.end;
            (at / BLOCK as u64, within, part)
        })
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
