//! Last stage, on the caller's thread: writes, and says how far it has come.

use std::{
    io,
    ops::{ControlFlow, Range},
    sync::mpsc::Receiver,
};

use super::{
    ImageError, Progress, Stage, WriteOptions, ZERO_STEP,
    inspect::{End, Part, Step},
    pool::Returns,
    unpack::Start,
    zeros::{Zeros, steps},
};
use crate::device::{BlockDevice, Run, aligned::Aligned, runs};

/// Writes to a disk, zeros as zeros.
pub(super) struct Writer<'a> {
    pub(super) device: &'a mut dyn BlockDevice,
    pub(super) options: &'a WriteOptions,
    /// Bytes that the image has at most.
    pub(super) limit: u64,
    pub(super) observer: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    /// Bytes that were made zeros instead of being written.
    pub(super) zeroed: u64,
    pub(super) zeros: Zeros,
}

/// What is on the disk, except for its first block.
#[derive(Debug)]
pub(super) struct Body {
    /// The first block, which is still to be written.
    pub(super) head: Aligned,
    /// Bytes of the image.
    pub(super) bytes: u64,
    /// What was said at its end.
    pub(super) end: End,
}

impl Writer<'_> {
    /// How much is written at once, and last of all.
    pub(super) fn block(&self) -> usize {
        self.options.block_bytes.max(ZERO_STEP)
    }

    /// Writes everything but the first block, which holds zeros when this returns, however it returns. Nothing is
    /// touched before the first part has come out whole.
    pub(super) fn body(
        &mut self,
        from: &Receiver<Result<Step, ImageError>>,
        returns: &Returns,
    ) -> Result<Body, ImageError> {
        let size = match self.next(from, 0)? {
            Step::Start(start) => self.check_start(start)?,
            Step::Part(_) | Step::End(_) => return Err(lost(0)),
        };
        let mut head =
            Aligned::zeroed(size.map_or(self.block(), |size| size.min(self.block() as u64) as usize));
        let (mut done, mut read, mut touched) = (0, 0, false);
        let end = loop {
            let step = self.next(from, read)?;
            if let Step::Part(part) = &step {
                self.check_size(part.offset + part.bytes.len() as u64)?;
            }
            // Without any part an image is zeros if it is a disk, and nothing at all if it is a stream.
            if !touched && (size.is_some() || matches!(step, Step::Part(_))) {
                self.zero_ends()?;
                touched = true;
            }
            match step {
                Step::Start(_) => return Err(lost(read)),
                Step::Part(part) => {
                    self.hole(done..part.offset, read)?;
                    let held = hold(&mut head, &part);
                    self.write(part.offset, &part.bytes, &part.runs, held)?;
                    (done, read) = (part.offset + part.bytes.len() as u64, part.read);
                    returns.give(part.bytes);
                    self.observe(Stage::Writing, read, self.options.download_bytes)?;
                }
                Step::End(end) => break end,
            }
        };
        if !touched {
            return Err(ImageError::Empty);
        }
        let bytes = size.unwrap_or(done);
        self.hole(done..bytes, read)?;
        self.settle()?;
        head.set_len(head.len().min(bytes as usize));
        Ok(Body { head, bytes, end })
    }

    /// Writes the first block, everything else being on stable storage, and then that too.
    pub(super) fn head(&mut self, head: &Aligned) -> Result<(), ImageError> {
        self.sync()?;
        self.write(0, head, &runs(head, ZERO_STEP), 0)?;
        self.settle()?;
        self.sync()
    }

    /// Best effort: what cannot be trusted should not boot. The error that counts has happened before.
    pub(super) fn spoil(&mut self, length: usize) {
        let _ = self.device.write_zeroes(0, length as u64).and_then(|()| self.device.sync());
    }

    /// Asks whether to go on.
    pub(super) fn observe(&mut self, stage: Stage, done: u64, total: Option<u64>) -> Result<(), ImageError> {
        match (self.observer)(Progress { stage, done, total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ImageError::Cancelled { stage, bytes: done }),
        }
    }

    fn next(&mut self, from: &Receiver<Result<Step, ImageError>>, read: u64) -> Result<Step, ImageError> {
        let step = from.recv().unwrap_or_else(|_| Err(lost(read)));
        if let Err(ImageError::Source { bytes, .. }) = &step {
            // Who cancels may close the source also: then that is not why the write ends.
            self.observe(Stage::Writing, *bytes, self.options.download_bytes)?;
        }
        step
    }

    /// Refuses what is known not to be right. Returns the size of the disk, if it is one.
    fn check_start(&self, start: Start) -> Result<Option<u64>, ImageError> {
        match start {
            Start::Stream { at_least } => {
                at_least.map_or(Ok(()), |bytes| self.check_size(bytes))?;
                Ok(None)
            }
            Start::Disk { bytes, source } => match &self.options.source {
                Some(expected) if *expected != source => {
                    Err(ImageError::OtherImage { expected: expected.clone(), found: source })
                }
                _ => self.check_size(bytes).map(|()| Some(bytes)),
            },
        }
    }

    fn check_size(&self, image: u64) -> Result<(), ImageError> {
        let device = self.device.size();
        if image > device {
            return Err(ImageError::TooLarge { image, device });
        }
        if image > self.limit {
            return Err(ImageError::LimitExceeded { limit: self.limit });
        }
        Ok(())
    }

    /// Zeros the first and the last block of the disk: where partition tables live.
    fn zero_ends(&mut self) -> Result<(), ImageError> {
        let size = self.device.size();
        let length = size.min(self.block() as u64);
        self.zero(0..length)?;
        self.zero(size - length..size)
    }

    /// Makes what lies between two parts zeros: it is never merely skipped.
    fn hole(&mut self, hole: Range<u64>, read: u64) -> Result<(), ImageError> {
        for step in steps(hole) {
            self.zeroed += step.end - step.start;
            if let Some(due) = self.zeros.add(step) {
                self.zero(due)?;
            }
            self.observe(Stage::Writing, read, self.options.download_bytes)?;
        }
        Ok(())
    }

    /// Writes runs of a part, without its first `held` bytes, whose turn comes later.
    fn write(&mut self, offset: u64, data: &[u8], runs: &[Run], held: usize) -> Result<(), ImageError> {
        for Run { range, zero } in runs {
            let (start, end) = (range.start.max(held), range.end);
            let at = offset + start as u64;
            if start >= end {
                continue;
            }
            if *zero {
                let range = at..offset + end as u64;
                self.zeroed += range.end - range.start;
                if let Some(due) = self.zeros.add(range) {
                    self.zero(due)?;
                }
            } else {
                let data = &data[start..end];
                self.device.write_at(at, data).map_err(failed("write", at, data.len() as u64))?;
            }
        }
        Ok(())
    }

    /// Makes the zeros that were put off.
    fn settle(&mut self) -> Result<(), ImageError> {
        self.zeros.take().map_or(Ok(()), |due| self.zero(due))
    }

    fn zero(&mut self, range: Range<u64>) -> Result<(), ImageError> {
        let length = range.end - range.start;
        self.device.punch_zeroes(range.start, length).map_err(failed("zero", range.start, length))
    }

    fn sync(&mut self) -> Result<(), ImageError> {
        let length = self.device.size();
        self.device.sync().map_err(failed("sync", 0, length))
    }
}

/// Copies what belongs to the first block; returns how much of the part that is.
fn hold(head: &mut Aligned, part: &Part) -> usize {
    let start = usize::try_from(part.offset).unwrap_or(usize::MAX).min(head.len());
    let held = (head.len() - start).min(part.bytes.len());
    head[start..start + held].copy_from_slice(&part.bytes[..held]);
    held
}

pub(super) fn failed(
    operation: &'static str,
    offset: u64,
    length: u64,
) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Device { operation, offset, length, source }
}

/// A stage has gone without a word. If it panicked, the panic goes on in the caller's thread.
fn lost(bytes: u64) -> ImageError {
    let source = io::Error::new(io::ErrorKind::BrokenPipe, "the reading half ended without an end");
    ImageError::Source { bytes, source }
}
