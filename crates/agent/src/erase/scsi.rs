//! How an ATA command travels through Linux's SCSI layer, byte for byte. Pure.
//!
//! The command is ATA PASS-THROUGH (16) of SCSI / ATA Translation - 4 (SAT-4, INCITS 552), 12.2.2.3; the header is
//! `struct sg_io_hdr` of Linux (`include/scsi/sg.h`), version 3, as a 64-bit machine has it.

use std::time::Duration;

use super::{
    ata::{Command, Registers, Transfer},
    drive::CommandError,
};

/// Request code of `SG_IO`.
pub const SG_IO: u32 = 0x2285;
/// Room for sense data: no descriptor that is read here lies behind it (SPC-4, 4.5.1: at most 252).
pub const SENSE_BYTES: usize = 252;
/// Length of the command.
pub const CDB_BYTES: usize = 16;
/// Size of `struct sg_io_hdr`.
const HEADER_BYTES: usize = 88;

/// Where the parts of an exchange are in memory.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Of the command.
    pub cdb: u64,
    /// Of the sense data.
    pub sense: u64,
    /// Of the data.
    pub data: u64,
}

/// ATA PASS-THROUGH (16).
#[must_use]
pub fn cdb(command: &Command) -> [u8; CDB_BYTES] {
    let Command { command: code, feature, count, lba, extended, transfer, registers, timeout: _ } = command;
    // PROTOCOL: 3 non-data, 4 PIO data-in, 5 PIO data-out. T_DIR (bit 3): from the device. BYT_BLOK (bit 2): T_LENGTH
    // counts blocks. T_LENGTH (bits 1:0): 2 is COUNT. CK_COND is bit 5.
    let (protocol, flags) = match transfer {
        Transfer::None => (3, 0),
        Transfer::FromDrive => (4, 0b1110),
        Transfer::ToDrive => (5, 0b0110),
    };
    let [f0, f1] = feature.to_le_bytes();
    let [c0, c1] = count.to_le_bytes();
    let [l0, l1, l2, l3, l4, l5, _, _] = lba.to_le_bytes();
    let check = u8::from(*registers) << 5;
    let protocol = protocol << 1 | u8::from(*extended);
    [0x85, protocol, check | flags, f1, f0, c1, c0, l3, l0, l4, l1, l5, l2, 0, *code, 0]
}

/// `struct sg_io_hdr` for such a command with `length` bytes of data.
#[must_use]
pub fn header(
    transfer: Transfer,
    length: usize,
    timeout: Duration,
    at: Addresses,
) -> [u64; HEADER_BYTES / 8] {
    let mut bytes = [0; HEADER_BYTES];
    // SG_DXFER_NONE, _TO_DEV, _FROM_DEV.
    let direction: i32 = match transfer {
        Transfer::None => -1,
        Transfer::ToDrive => -2,
        Transfer::FromDrive => -3,
    };
    bytes[..4].copy_from_slice(&i32::from(b'S').to_ne_bytes());
    bytes[4..8].copy_from_slice(&direction.to_ne_bytes());
    (bytes[8], bytes[9]) = (CDB_BYTES as u8, SENSE_BYTES as u8);
    bytes[12..16].copy_from_slice(&u32::try_from(length).unwrap_or(0).to_ne_bytes());
    if length > 0 {
        bytes[16..24].copy_from_slice(&at.data.to_ne_bytes());
    }
    bytes[24..32].copy_from_slice(&at.cdb.to_ne_bytes());
    bytes[32..40].copy_from_slice(&at.sense.to_ne_bytes());
    let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    bytes[40..44].copy_from_slice(&timeout.to_ne_bytes());
    let mut words = [0; HEADER_BYTES / 8];
    for (word, part) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*part);
    }
    words
}

/// What became of a command, from the header and the sense data as the kernel left them.
pub fn answer(
    registers_wanted: bool,
    header: &[u64; HEADER_BYTES / 8],
    sense: &[u8; SENSE_BYTES],
) -> Result<Registers, CommandError> {
    // status, masked_status, msg_status, sb_len_wr, host_status (16), driver_status (16).
    let [status, _, _, sense_length, h0, h1, d0, d1] = header[8].to_ne_bytes();
    let (host, driver) = (u16::from_ne_bytes([h0, h1]), u16::from_ne_bytes([d0, d1]));
    // DID_TIME_OUT of include/scsi/scsi_status.h.
    if host == 3 {
        return Err(CommandError::Refused("nothing in time".to_owned()));
    }
    // Bit 3 of the driver's status only says that there is sense data (DRIVER_SENSE).
    if host != 0 || driver & !0x08 != 0 {
        return Err(CommandError::Refused(format!(
            "an error of the bus (host {host:#x}, driver {driver:#x})"
        )));
    }
    // GOOD and CHECK CONDITION of SAM-5, 5.3.1.
    let sense = &sense[..usize::from(sense_length).min(SENSE_BYTES)];
    match status & 0x3e {
        0 if !registers_wanted => Ok(Registers::default()),
        0 => Err(CommandError::Nonsense("the registers were asked for and did not come")),
        2 => checked(registers_wanted, sense),
        other => Err(CommandError::Refused(format!("SCSI status {other:#04x}"))),
    }
}

/// CHECK CONDITION: the registers that were asked for, or an error.
fn checked(registers_wanted: bool, sense: &[u8]) -> Result<Registers, CommandError> {
    let registers = registers(sense);
    match registers {
        Some(registers) if registers_wanted => Ok(registers),
        Some(Registers { error, status, .. }) => {
            let aborted = if error & 4 != 0 { ": command aborted" } else { "" };
            Err(CommandError::Refused(format!("ATA status {status:02x}h, error {error:02x}h{aborted}")))
        }
        None => {
            let (key, code, qualifier) = match sense {
                [0x72 | 0x73, key, code, qualifier, ..] => (key & 0xf, *code, *qualifier),
                [0x70 | 0x71, _, key, _, _, _, _, _, _, _, _, _, code, qualifier, ..] => {
                    (key & 0xf, *code, *qualifier)
                }
                _ => return Err(CommandError::Refused("an error without sense data".to_owned())),
            };
            Err(CommandError::Refused(format!("sense key {key:x}h, {code:02x}h/{qualifier:02x}h")))
        }
    }
}

/// The registers from sense data: the ATA Status Return descriptor (SAT-4, 12.2.2.6), or fixed format (12.2.2.7), which has
/// room for the lower halves only.
fn registers(sense: &[u8]) -> Option<Registers> {
    match sense.first()? {
        0x72 | 0x73 => {
            let mut rest = sense.get(8..)?;
            loop {
                let (kind, length) = (*rest.first()?, usize::from(*rest.get(1)?));
                let descriptor = rest.get(2..2 + length)?;
                if kind == 0x09 && length >= 12 {
                    let d = descriptor;
                    return Some(Registers {
                        error: d[1],
                        status: d[11],
                        count: u16::from_be_bytes([d[2], d[3]]),
                        lba: u64::from_be_bytes([0, 0, d[8], d[6], d[4], d[9], d[7], d[5]]),
                    });
                }
                rest = rest.get(2 + length..)?;
            }
        }
        // ATA PASS-THROUGH INFORMATION AVAILABLE: only then are these fields registers.
        0x70 | 0x71 if sense.get(12..14)? == [0x00, 0x1d] => Some(Registers {
            error: sense[3],
            status: sense[4],
            count: u16::from(sense[6]),
            lba: u64::from_le_bytes([sense[9], sense[10], sense[11], 0, 0, 0, 0, 0]),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::erase::ata::SanitizeAction;

    #[test]
    fn commands_are_what_the_specification_says() {
        let table: [(Command, [u8; 16]); 9] = [
            (Command::identify(), [0x85, 8, 0x0e, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xec, 0]),
            (Command::set_password(), [0x85, 10, 0x06, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xf1, 0]),
            (Command::unlock(), [0x85, 10, 0x06, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xf2, 0]),
            (Command::erase_prepare(), [0x85, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf3, 0]),
            (Command::erase_unit(None), [0x85, 10, 0x06, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xf4, 0]),
            (Command::disable_password(), [0x85, 10, 0x06, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xf6, 0]),
            (
                Command::sanitize(SanitizeAction::CryptoScramble),
                [0x85, 7, 0x20, 0, 0x11, 0, 0x10, 0x43, 0x70, 0, 0x79, 0, 0x72, 0, 0xb4, 0],
            ),
            (
                Command::sanitize(SanitizeAction::BlockErase),
                [0x85, 7, 0x20, 0, 0x12, 0, 0x10, 0x42, 0x72, 0, 0x45, 0, 0x6b, 0, 0xb4, 0],
            ),
            (Command::sanitize_status(true), [0x85, 7, 0x20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xb4, 0]),
        ];
        for (command, expected) in table {
            assert_eq!(cdb(&command), expected, "{command:?}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_header_is_that_of_linux() {
        let at = Addresses { cdb: 0x0102, sense: 0x0304, data: 0x0506 };
        let bytes = |words: [u64; 11]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let mut expected = vec![0; 88];
        for (offset, part) in [
            (0, &b"S\0\0\0\xfd\xff\xff\xff"[..]),
            (8, &[16, 252, 0, 0, 0, 2, 0, 0]),
            (16, &[6, 5]),
            (24, &[2, 1]),
            (32, &[4, 3]),
            (40, &[0x60, 0xea]),
        ] {
            expected[offset..offset + part.len()].copy_from_slice(part);
        }
        let minute = Duration::from_secs(60);
        assert_eq!(bytes(header(Transfer::FromDrive, 512, minute, at)), expected);
        expected[4] = 0xfe;
        assert_eq!(bytes(header(Transfer::ToDrive, 512, minute, at)), expected);
        (expected[4], expected[13], expected[16], expected[17]) = (0xff, 0, 0, 0);
        assert_eq!(bytes(header(Transfer::None, 0, minute, at)), expected);
    }

    fn answered(status: u8, length: u8, host: u16, driver: u16) -> [u64; 11] {
        let mut header = [0; 11];
        let ([h0, h1], [d0, d1]) = (host.to_ne_bytes(), driver.to_ne_bytes());
        header[8] = u64::from_ne_bytes([status, 0, 0, length, h0, h1, d0, d1]);
        header
    }

    fn sense(bytes: &[u8]) -> [u8; SENSE_BYTES] {
        let mut sense = [0; SENSE_BYTES];
        sense[..bytes.len()].copy_from_slice(bytes);
        sense
    }

    #[test]
    fn answers_are_understood() {
        let quiet = sense(&[]);
        assert_eq!(answer(false, &answered(0, 0, 0, 0), &quiet).unwrap(), Registers::default());
        // libata on success with CK_COND: recovered error, ATA PASS-THROUGH INFORMATION AVAILABLE.
        let descriptor = sense(&[
            0x72, 1, 0, 0x1d, 0, 0, 0, 14, 9, 12, 1, 0, 0x40, 0, 0x66, 0x34, 0x55, 0x12, 0x44, 0x33, 0, 0x50,
        ]);
        let registers = answer(true, &answered(2, 22, 0, 8), &descriptor).unwrap();
        let lba = 0x4455_6633_1234;
        assert_eq!(registers, Registers { error: 0, status: 0x50, count: 0x4000, lba });
        let fixed = sense(&[0x70, 0, 1, 4, 0x51, 0, 7, 10, 0, 1, 2, 3, 0, 0x1d]);
        let registers = answer(true, &answered(2, 18, 0, 8), &fixed).unwrap();
        assert_eq!(registers, Registers { error: 4, status: 0x51, count: 7, lba: 0x03_0201 });
        let aborted = sense(&[0x72, 0xb, 0, 0, 0, 0, 0, 14, 9, 12, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x51]);
        let texts = [
            (answered(2, 22, 0, 8), aborted, "ATA status 51h, error 04h: command aborted"),
            (answered(2, 8, 0, 8), sense(&[0x72, 5, 0x20, 0, 0, 0, 0, 0]), "sense key 5h, 20h/00h"),
            (
                answered(2, 18, 0, 8),
                sense(&[0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0]),
                "sense key 5h, 20h/00h",
            ),
            (answered(2, 0, 0, 0), quiet, "without sense data"),
            (answered(8, 0, 0, 0), quiet, "SCSI status 0x08"),
            (answered(0, 0, 3, 0), quiet, "nothing in time"),
            (answered(0, 0, 1, 0), quiet, "host 0x1"),
            (answered(0, 0, 0, 6), quiet, "driver 0x6"),
        ];
        for (header, sense, text) in texts {
            let error = answer(false, &header, &sense).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(answer(true, &answered(0, 0, 0, 0), &quiet).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            wanted: bool,
            word: u64,
            status in prop::sample::select(vec![0u8, 2]),
            begin in prop::sample::select(vec![0x70u8, 0x72, 0]),
            bytes in prop::collection::vec(any::<u8>(), SENSE_BYTES),
        ) {
            let mut sense: [u8; SENSE_BYTES] = bytes.try_into().unwrap();
            sense[0] = begin;
            let mut header = [0; 11];
            header[8] = word;
            let _ = answer(wanted, &header, &sense);
            let _ = answer(wanted, &answered(status, 252, 0, 8), &sense);
        }
    }
}
