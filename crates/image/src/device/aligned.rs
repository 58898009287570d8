//! Memory as direct I/O wants it.

use std::ops::{Deref, DerefMut, Range};

/// Direct I/O begins, ends and lies in memory at multiples of this, in bytes: no disk that is sold has larger logical
/// blocks, and it is the page size of x86-64. open(2), "`O_DIRECT`", leaves the figure to the device.
pub(crate) const ALIGN: usize = 4096;

/// A buffer of a fixed size whose first byte lies at a multiple of [`ALIGN`] in memory, of which the first
/// [`len`](slice::len) bytes are in use.
#[derive(Debug)]
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    /// Where the aligned part of `bytes` begins: never reallocated, so it stays aligned.
    start: usize,
    capacity: usize,
    length: usize,
}

impl Aligned {
    /// A buffer of zeros, all of it in use. Memory that is never touched is never taken from the system.
    pub(crate) fn zeroed(capacity: usize) -> Self {
        let bytes = vec![0; capacity + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { bytes, start, capacity, length: capacity }
    }

    /// Uses this many bytes, at most all that there are; what was there before is there still.
    pub(crate) fn set_len(&mut self, length: usize) {
        self.length = length.min(self.capacity);
    }

    /// How many bytes can be in use.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// Whether the memory begins at a multiple of `align` bytes.
pub(crate) fn is_aligned(memory: &[u8], align: usize) -> bool {
    memory.as_ptr().align_offset(align) == 0
}

/// Cuts `length` bytes at `offset` into what lies before, between and behind multiples of `align`; parts may be empty.
/// What spans no whole multiple is all "before".
pub(crate) fn split(offset: u64, length: u64, align: u64) -> [Range<u64>; 3] {
    let end = offset + length;
    let first = offset.next_multiple_of(align).min(end);
    let last = (end - end % align).max(first);
    if first == last { [offset..end, end..end, end..end] } else { [offset..first, first..last, last..end] }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_keeps_its_bytes() {
        for capacity in [0, 1, 4095, 4096, 1 << 20] {
            let mut buffer = Aligned::zeroed(capacity);
            assert!(is_aligned(&buffer, ALIGN));
            assert!(buffer.len() == capacity && buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
            buffer.set_len(capacity / 2);
            assert_eq!(buffer.len(), capacity / 2);
            buffer.set_len(usize::MAX);
            assert!(buffer.len() == capacity && buffer.iter().all(|byte| *byte == 7));
        }
    }

    proptest! {
        #[test]
        fn the_parts_are_the_whole(offset in 0u64..20_000, length in 0u64..20_000, power in 0u32..14) {
            let align = 1 << power;
            let [before, between, behind] = split(offset, length, align);
            prop_assert_eq!((before.start, behind.end), (offset, offset + length));
            prop_assert_eq!((before.end, between.end), (between.start, behind.start));
            if !between.is_empty() {
                prop_assert_eq!((between.start % align, between.end % align), (0, 0));
                prop_assert!(before.end - before.start < align && behind.end - behind.start < align);
            } else {
                prop_assert!(behind.is_empty() && length < 2 * align);
            }
        }
    }
}
