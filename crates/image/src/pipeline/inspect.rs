//! Third stage: hashes what is to be written, and finds its zeros.

use std::sync::mpsc::{Receiver, SyncSender};

use super::{
    ContentHash, ImageError, ZERO_STEP,
    content::Hasher,
    source::Download,
    unpack::{Data, Item, Start},
};
use crate::{
    device::{Run, aligned::Aligned, runs},
    extents::check_chunk,
};

/// What the third stage hands to the writer.
pub(super) enum Step {
    /// What is known before anything is written.
    Start(Start),
    /// To be written.
    Part(Part),
    /// All was written.
    End(End),
}

/// A part of a disk that is to be written.
pub(super) struct Part {
    /// Where.
    pub(super) offset: u64,
    /// What.
    pub(super) bytes: Aligned,
    /// Its zeros and the rest.
    pub(super) runs: Vec<Run>,
    /// Bytes of the download that were needed so far.
    pub(super) read: u64,
}

/// What is known when all was written.
#[derive(Debug)]
pub(super) struct End {
    /// The whole download; its checksum was not compared yet.
    pub(super) download: Download,
    /// What the image on the disk must hash to.
    pub(super) content: ContentHash,
}

/// Inspects everything that comes, or until the writer is gone. An error is the last thing that is sent.
pub(super) fn inspect(from: &Receiver<Result<Item, ImageError>>, to: &SyncSender<Result<Step, ImageError>>) {
    let mut content = Hasher::default();
    // Without a word from the stage before, it was the writer that has gone, or a thread has panicked.
    while let Ok(item) = from.recv() {
        let step = item.and_then(|item| step(item, &mut content));
        let last = matches!(step, Err(_) | Ok(Step::End(_)));
        if to.send(step).is_err() || last {
            return;
        }
    }
}

fn step(item: Item, content: &mut Hasher) -> Result<Step, ImageError> {
    match item {
        Item::Start(start) => Ok(Step::Start(start)),
        Item::Data(Data { offset, bytes, read, expected }) => {
            match expected {
                Some((number, sha256)) => check_chunk(number, &bytes, &sha256)
                    .map_err(|source| ImageError::Extents { bytes: read, source })?,
                None => content.update(&bytes),
            }
            let runs = runs(&bytes, ZERO_STEP);
            Ok(Step::Part(Part { offset, bytes, runs, read }))
        }
        Item::End { download, content: said } => {
            let content = said.unwrap_or_else(|| std::mem::take(content).finish());
            Ok(Step::End(End { download, content }))
        }
    }
}
