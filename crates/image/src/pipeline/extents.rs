//! Writes a stream of extents: chunks where they belong, zeros everywhere else.

use std::{io::Read, ops::Range};

use super::{Decoder, ImageError, Job, Stage, ZERO_STEP, zero_ends};
use crate::{
    device::BlockDevice,
    extents::{ExtentsError, ExtentsReader, Item},
};

/// Holes are zeroed in steps of this size, so that progress can be told and cancelling works.
const HOLE_STEP: u64 = 256 << 20;

impl Job<'_> {
    /// Like [`Job::run`]: nothing is touched before the header and the first item have come, and the first block is
    /// written when the checksum of the whole download was found right.
    pub(super) fn run_extents(
        mut self,
        source: &mut dyn Read,
        device: &mut dyn BlockDevice,
    ) -> Result<super::Written, ImageError> {
        let block = self.options.block_bytes.max(ZERO_STEP) as u64;
        let mut decoder = Decoder::new(source, self.options, self.limit)?;
        let mut extents = match ExtentsReader::new(&mut decoder) {
            Ok(extents) => extents,
            Err(error) => return Err(explain(&mut decoder, error)),
        };
        let size = extents.header().disk_bytes;
        if let Some(expected) = &self.options.source
            && *expected != extents.header().source
        {
            let (expected, found) = (expected.clone(), extents.header().source.clone());
            return Err(ImageError::OtherImage { expected, found });
        }
        self.check_size(size, device)?;
        let mut head = vec![0; block.min(size) as usize];
        let (mut done, mut touched) = (0, false);
        let content = loop {
            let item = match extents.next(&mut decoder) {
                Ok(item) => item,
                Err(error) => return Err(explain(&mut decoder, error)),
            };
            if !touched {
                zero_ends(device, block)?;
                touched = true;
            }
            match item {
                Item::Chunk { offset, data } => {
                    self.hole(device, done..offset, decoder.bytes_read())?;
                    done = offset + data.len() as u64;
                    let held = if offset == 0 { head.len().min(data.len()) } else { 0 };
                    head[..held].copy_from_slice(&data[..held]);
                    self.write(device, offset + held as u64, &data[held..])?;
                    self.observe(Stage::Writing, decoder.bytes_read(), self.options.download_bytes)?;
                }
                Item::End { content_sha256 } => break content_sha256,
            }
        };
        self.hole(device, done..size, decoder.bytes_read())?;
        drop(extents);
        let download = decoder.finish("")?;
        self.complete(device, &head, content, size, download)
    }

    /// Makes what lies between two chunks zeros: it is never merely skipped.
    fn hole(
        &mut self,
        device: &mut dyn BlockDevice,
        hole: Range<u64>,
        bytes_read: u64,
    ) -> Result<(), ImageError> {
        let mut offset = hole.start;
        while offset < hole.end {
            let length = (hole.end - offset).min(HOLE_STEP);
            device.write_zeroes(offset, length).map_err(|source| ImageError::Device {
                operation: "zero",
                offset,
                length,
                source,
            })?;
            self.zeroed += length;
            offset += length;
            self.observe(Stage::Writing, bytes_read, self.options.download_bytes)?;
        }
        Ok(())
    }
}

fn explain(decoder: &mut Decoder<'_>, error: ExtentsError) -> ImageError {
    match error {
        ExtentsError::Source(source) => decoder.damaged(source),
        source => ImageError::Extents { bytes: decoder.bytes_read(), source },
    }
}
