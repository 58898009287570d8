//! An image that was written before: whether the disk still holds it, all of it and nothing else in its place. Nothing is
//! believed but what is read from the disk now.

use std::ops::ControlFlow;

use super::{ContentHash, ImageError, Progress, ZERO_STEP, verify::verify, write::failed};
use crate::device::BlockDevice;

/// Reads the first `bytes` bytes of the disk, past the page cache, and compares their hash with that of the image as it was
/// read back when it was written. Nothing is written. Any difference is [`ImageError::Verify`].
pub fn prove_image(
    device: &mut dyn BlockDevice,
    content: &ContentHash,
    bytes: u64,
    block_bytes: usize,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), ImageError> {
    if bytes == 0 {
        return Err(ImageError::Empty);
    }
    if bytes > device.size() {
        return Err(ImageError::TooLarge { image: bytes, device: device.size() });
    }
    verify(device, block_bytes.max(ZERO_STEP), content, bytes, observe)
}

/// Makes the last block of the disk zeros as far as the image does not reach into it, as a write does: an older partition
/// table's backup may be there. To be called after [`prove_image`].
pub fn clear_end(device: &mut dyn BlockDevice, bytes: u64, block_bytes: usize) -> Result<(), ImageError> {
    let size = device.size();
    let start = size.saturating_sub(block_bytes.max(ZERO_STEP) as u64).max(bytes);
    if start < size {
        device.punch_zeroes(start, size - start).map_err(failed("zero", start, size - start))?;
    }
    device.sync().map_err(failed("sync", 0, size))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use ring::digest;

    use super::*;
    use crate::{
        Checksum, ChecksumAlgorithm, Compression, Faults, FaultyDevice, MemDevice, WriteOptions, Written,
    };

    const DISK: usize = 1_000_000;

    fn quiet(_: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn image() -> Vec<u8> {
        (0..700_001u32)
            .map(|at| if (at / 100_000) % 2 == 1 { 0 } else { at.wrapping_mul(2_654_435_761) as u8 })
            .collect()
    }

    fn written(compression: Compression) -> (Vec<u8>, Written) {
        let image = image();
        let file = match compression {
            Compression::Extents => {
                let mut disk = crate::Qcow2::open(crate::qcow2_of(&image), u64::MAX).unwrap();
                let made_from = Checksum::new(ChecksumAlgorithm::Sha256, &"42".repeat(32)).unwrap();
                let mut file = Vec::new();
                crate::extents::pack(&mut disk, &made_from, &mut file, &mut |_, _| Ok(())).unwrap();
                file
            }
            _ => image,
        };
        let hash = hex::encode(digest::digest(&digest::SHA256, &file));
        let checksum = Checksum::new(ChecksumAlgorithm::Sha256, &hash).unwrap();
        let mut device = MemDevice::from_bytes(vec![0xee; DISK]);
        let options = WriteOptions { block_bytes: ZERO_STEP, ..WriteOptions::new(checksum, compression) };
        let written = crate::write_image(&mut &file[..], &mut device, &options, &mut quiet).unwrap();
        (device.to_bytes(), written)
    }

    fn prove(disk: Vec<u8>, content: &ContentHash, bytes: u64) -> Result<(), ImageError> {
        prove_image(&mut MemDevice::from_bytes(disk), content, bytes, ZERO_STEP, &mut quiet)
    }

    #[test]
    fn what_was_written_is_found_again_by_what_was_said_of_it_then() {
        for compression in [Compression::None, Compression::Extents] {
            let (disk, written) = written(compression);
            let content: ContentHash = written.content.to_string().parse().unwrap();
            assert_eq!(content, written.content);
            prove(disk.clone(), &content, written.bytes_written).unwrap();
            // More or less than the image is not the image.
            assert!(prove(disk.clone(), &content, written.bytes_written - 1).is_err());
            assert!(prove(disk.clone(), &content, written.bytes_written + 1).is_err());
            assert!(matches!(prove(disk.clone(), &content, 0), Err(ImageError::Empty)));
            let error = prove(disk, &content, DISK as u64 + 1).unwrap_err();
            assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
        }
    }

    #[test]
    fn the_end_of_the_disk_is_made_zeros_and_the_image_is_not_touched() {
        let (mut disk, written) = written(Compression::None);
        disk[written.bytes_written as usize..].fill(0xee);
        let mut device = MemDevice::from_bytes(disk.clone());
        clear_end(&mut device, written.bytes_written, ZERO_STEP).unwrap();
        let after = device.to_bytes();
        assert!(after[..DISK - ZERO_STEP] == disk[..DISK - ZERO_STEP]);
        assert!(after[DISK - ZERO_STEP..].iter().all(|byte| *byte == 0));
        // An image that fills the disk has no end behind it.
        let full = vec![0x11; DISK];
        for (bytes, kept) in [(DISK, DISK), (DISK - 10, DISK - 10)] {
            let mut device = MemDevice::from_bytes(full.clone());
            clear_end(&mut device, bytes as u64, ZERO_STEP).unwrap();
            let after = device.to_bytes();
            assert!(after[..kept] == full[..kept] && after[kept..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_disk_that_cannot_be_read_proves_nothing() {
        let (disk, written) = written(Compression::None);
        let faults = Faults { flip: Some((65_537, 1)), ..Faults::default() };
        let mut device = FaultyDevice::new(MemDevice::from_bytes(disk), faults);
        let result = prove_image(&mut device, &written.content, written.bytes_written, ZERO_STEP, &mut quiet);
        assert!(matches!(result, Err(ImageError::Verify { .. })), "{result:?}");
    }

    #[test]
    fn who_stops_it_has_proved_nothing() {
        let (disk, written) = written(Compression::None);
        let mut device = MemDevice::from_bytes(disk);
        let mut stop = |_| ControlFlow::Break(());
        let result = prove_image(&mut device, &written.content, written.bytes_written, ZERO_STEP, &mut stop);
        assert!(matches!(result, Err(ImageError::Cancelled { .. })), "{result:?}");
    }

    #[test]
    fn only_hashes_are_hashes() {
        for text in ["", "blake3:", "blake3:00", "md5:00112233445566778899aabbccddeeff", "00", "sha256:zz"] {
            assert!(text.parse::<ContentHash>().is_err(), "{text}");
        }
        let other = format!("md5:{}", "00".repeat(32));
        assert!(other.parse::<ContentHash>().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// One byte of the image that is another, wherever it is and whatever it is, is noticed; one behind it is not looked at.
        #[test]
        fn one_other_byte_is_noticed(at in 0..DISK, change in 1..=255u8) {
            let (mut disk, written) = written(Compression::None);
            disk[at] ^= change;
            let found = prove(disk, &written.content, written.bytes_written);
            prop_assert_eq!(found.is_err(), (at as u64) < written.bytes_written, "{:?}", found);
        }
    }
}
