//! ATA commands and what drives answer, byte for byte. Pure.
//!
//! Numbers are those of ATA/ATAPI Command Set - 4 (ACS-4, INCITS 529).

use std::time::Duration;

/// What a drive transfers at once, in bytes.
pub const SECTOR_BYTES: usize = 512;
/// The password under which a drive is erased, padded with zeros. It is no secret: it keeps nobody out, it is how the
/// command works, and whoever finds a drive that was left locked is to know it.
pub const PASSWORD: &[u8] = b"ferric-erase";

/// Command codes (ACS-4, table B.2).
const IDENTIFY_DEVICE: u8 = 0xec;
const SANITIZE_DEVICE: u8 = 0xb4;
const SECURITY_SET_PASSWORD: u8 = 0xf1;
const SECURITY_UNLOCK: u8 = 0xf2;
const SECURITY_ERASE_PREPARE: u8 = 0xf3;
const SECURITY_ERASE_UNIT: u8 = 0xf4;
const SECURITY_DISABLE_PASSWORD: u8 = 0xf6;
/// Subcommand of SANITIZE DEVICE in FEATURE (ACS-4, table 138).
const SANITIZE_STATUS_EXT: u16 = 0x0000;

/// What answers at once. A drive that spins up first takes up to half a minute.
const SHORT: Duration = Duration::from_secs(60);
/// For an erase of which the drive does not say how long it takes.
const UNKNOWN_ERASE: Duration = Duration::from_secs(24 * 3600);
/// The longest that any erase is waited for.
const LONGEST_ERASE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Which way data go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// None.
    None,
    /// One sector from the drive.
    FromDrive,
    /// One sector to the drive.
    ToDrive,
}

/// One command. It can only be made by the functions here, so that what it transfers is what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub(super) command: u8,
    pub(super) feature: u16,
    pub(super) count: u16,
    pub(super) lba: u64,
    /// One of the 48-bit commands.
    pub(super) extended: bool,
    pub(super) transfer: Transfer,
    /// The registers are wanted, success or not.
    pub(super) registers: bool,
    pub(super) timeout: Duration,
}

/// What a sanitize does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanitizeAction {
    /// CRYPTO SCRAMBLE EXT: replaces the keys.
    CryptoScramble,
    /// BLOCK ERASE EXT: erases the blocks of the media.
    BlockErase,
}

impl Command {
    fn new(command: u8, transfer: Transfer) -> Self {
        let count = u16::from(transfer != Transfer::None);
        Self {
            command,
            feature: 0,
            count,
            lba: 0,
            extended: false,
            transfer,
            registers: false,
            timeout: SHORT,
        }
    }

    /// IDENTIFY DEVICE.
    #[must_use]
    pub fn identify() -> Self {
        Self::new(IDENTIFY_DEVICE, Transfer::FromDrive)
    }

    /// SECURITY SET PASSWORD.
    #[must_use]
    pub fn set_password() -> Self {
        Self::new(SECURITY_SET_PASSWORD, Transfer::ToDrive)
    }

    /// SECURITY UNLOCK.
    #[must_use]
    pub fn unlock() -> Self {
        Self::new(SECURITY_UNLOCK, Transfer::ToDrive)
    }

    /// SECURITY DISABLE PASSWORD.
    #[must_use]
    pub fn disable_password() -> Self {
        Self::new(SECURITY_DISABLE_PASSWORD, Transfer::ToDrive)
    }

    /// SECURITY ERASE PREPARE, without which SECURITY ERASE UNIT is refused.
    #[must_use]
    pub fn erase_prepare() -> Self {
        Self::new(SECURITY_ERASE_PREPARE, Transfer::None)
    }

    /// SECURITY ERASE UNIT. The drive answers when it is done: twice the time that it said is waited, and ten minutes.
    #[must_use]
    pub fn erase_unit(estimate: Option<Duration>) -> Self {
        let timeout = estimate.map_or(UNKNOWN_ERASE, |estimate| estimate * 2 + Duration::from_secs(600));
        let timeout = timeout.min(LONGEST_ERASE);
        Self { timeout, ..Self::new(SECURITY_ERASE_UNIT, Transfer::ToDrive) }
    }

    /// Starts a sanitize, which goes on by itself. One that fails can be left (COUNT bit 4, FAILURE MODE): a drive must not
    /// stay unusable because of it.
    #[must_use]
    pub fn sanitize(action: SanitizeAction) -> Self {
        // The keys of LBA are "Cryp" and "BkEr" in ASCII (ACS-4, 7.36).
        let (feature, lba) = match action {
            SanitizeAction::CryptoScramble => (0x0011, 0x4372_7970),
            SanitizeAction::BlockErase => (0x0012, 0x426b_4572),
        };
        let command = Self::new(SANITIZE_DEVICE, Transfer::None);
        Self { feature, lba, count: 1 << 4, extended: true, registers: true, ..command }
    }

    /// SANITIZE STATUS EXT. `leave_failure`: also leaves the state after one that failed (COUNT bit 0).
    #[must_use]
    pub fn sanitize_status(leave_failure: bool) -> Self {
        let command = Self::new(SANITIZE_DEVICE, Transfer::None);
        let count = u16::from(leave_failure);
        Self { feature: SANITIZE_STATUS_EXT, count, extended: true, registers: true, ..command }
    }

    /// Which way data go; [`SECTOR_BYTES`] of them, if any.
    #[must_use]
    pub fn transfer(&self) -> Transfer {
        self.transfer
    }

    /// Whether the registers are an answer, success or not.
    #[must_use]
    pub fn wants_registers(&self) -> bool {
        self.registers
    }

    /// How long the kernel waits for the answer before it resets the drive.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// What SECURITY SET PASSWORD (the user's password, level "high": the master password unlocks as well), SECURITY UNLOCK and
/// SECURITY DISABLE PASSWORD take (ACS-4, tables 145, 149, 131).
#[must_use]
pub fn password_sector() -> [u8; SECTOR_BYTES] {
    security_sector(0)
}

/// What SECURITY ERASE UNIT takes: word 0 bit 1 asks for the enhanced erase (ACS-4, table 134).
#[must_use]
pub fn erase_sector(enhanced: bool) -> [u8; SECTOR_BYTES] {
    security_sector(u16::from(enhanced) << 1)
}

fn security_sector(control: u16) -> [u8; SECTOR_BYTES] {
    let mut sector = [0; SECTOR_BYTES];
    sector[..2].copy_from_slice(&control.to_le_bytes());
    sector[2..2 + PASSWORD.len()].copy_from_slice(PASSWORD);
    sector
}

/// The registers after a command, where they were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    /// ERROR.
    pub error: u8,
    /// STATUS.
    pub status: u8,
    /// COUNT.
    pub count: u16,
    /// LBA.
    pub lba: u64,
}

/// What IDENTIFY DEVICE says of erasing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identity {
    /// Word 59 bits 12 and 13.
    pub sanitize_crypto: bool,
    /// Word 59 bits 12 and 15.
    pub sanitize_block: bool,
    /// Word 59 bits 12 and 14. It is not used: it is no better than overwriting from here.
    pub sanitize_overwrite: bool,
    /// Word 82 bit 1, and word 128 bit 0.
    pub security: bool,
    /// Word 128 bit 1: a password is set.
    pub enabled: bool,
    /// Word 128 bit 2: nothing can be read or written.
    pub locked: bool,
    /// Word 128 bit 3: passwords cannot be changed until the next power cycle.
    pub frozen: bool,
    /// Word 128 bit 4: too many wrong passwords since the last power cycle.
    pub expired: bool,
    /// Word 128 bit 5.
    pub enhanced_erase: bool,
    /// Word 89: how long an erase takes.
    pub erase_time: Option<Duration>,
    /// Word 90: how long an enhanced erase takes.
    pub enhanced_erase_time: Option<Duration>,
}

impl Identity {
    /// From IDENTIFY DEVICE. `None` where its checksum does not hold, or it says that it is no ATA drive.
    #[must_use]
    pub fn parse(data: &[u8; SECTOR_BYTES]) -> Option<Self> {
        let word = |number: usize| u16::from_le_bytes([data[2 * number], data[2 * number + 1]]);
        // Word 255: A5h, then what makes all bytes add up to 0.
        let sum = data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if word(0) & 1 << 15 != 0 || (data[510] == 0xa5 && sum != 0) {
            return None;
        }
        let bit = |number, bit: u16| word(number) & 1 << bit != 0;
        // Word 83 bits 15:14 are 01b where words 82 and 83 are valid.
        let valid = word(83) >> 14 == 1;
        let security = valid && bit(82, 1) && bit(128, 0);
        let sanitize = bit(59, 12);
        Some(Self {
            sanitize_crypto: sanitize && bit(59, 13),
            sanitize_block: sanitize && bit(59, 15),
            sanitize_overwrite: sanitize && bit(59, 14),
            security,
            enabled: security && bit(128, 1),
            locked: security && bit(128, 2),
            frozen: security && bit(128, 3),
            expired: security && bit(128, 4),
            enhanced_erase: security && bit(128, 5),
            erase_time: minutes(word(89)),
            enhanced_erase_time: minutes(word(90)),
        })
    }
}

/// Words 89 and 90 (ACS-4, 9.11.8.2): units of two minutes in 15 bits, or in 8 bits where bit 15 is clear.
fn minutes(word: u16) -> Option<Duration> {
    let units = if word & 1 << 15 != 0 { word & 0x7fff } else { word & 0xff };
    (units != 0).then(|| Duration::from_secs(u64::from(units) * 120))
}

/// How far a sanitize is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanitizeState {
    /// None goes on; the last one, if there was any, was completed.
    Idle,
    /// One goes on, so many of 65536 done.
    Running(u16),
    /// The last one failed.
    Failed,
}

impl SanitizeState {
    /// From the registers of SANITIZE STATUS EXT (ACS-4, tables 139 and 140): COUNT bit 14 says that one goes on; an
    /// aborted command whose LBA 7:0 is 1 that the last one failed.
    #[must_use]
    pub fn of(registers: &Registers) -> Option<Self> {
        // STATUS bit 0: error. ERROR bit 2: aborted.
        if registers.status & 1 != 0 {
            return (registers.error & 4 != 0 && registers.lba & 0xff == 1).then_some(Self::Failed);
        }
        let progress = registers.lba as u16;
        Some(if registers.count & 1 << 14 != 0 { Self::Running(progress) } else { Self::Idle })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn identify(words: &[(usize, u16)]) -> [u8; SECTOR_BYTES] {
        let mut data = [0; SECTOR_BYTES];
        for (number, word) in words {
            data[2 * number..2 * number + 2].copy_from_slice(&word.to_le_bytes());
        }
        data
    }

    #[test]
    fn identity_says_how_a_drive_can_be_erased() {
        let none = Identity::parse(&identify(&[])).unwrap();
        assert_eq!(none, Identity::default());
        let words = [(59, 0xf000), (82, 2), (83, 0x4000), (89, 3), (90, 0x8000 | 300), (128, 0x21)];
        let ssd = Identity::parse(&identify(&words)).unwrap();
        assert!(
            ssd.sanitize_crypto
                && ssd.sanitize_block
                && ssd.sanitize_overwrite
                && ssd.security
                && ssd.enhanced_erase
        );
        assert!(!ssd.enabled && !ssd.locked && !ssd.frozen && !ssd.expired);
        assert_eq!(ssd.erase_time, Some(Duration::from_secs(360)));
        assert_eq!(ssd.enhanced_erase_time, Some(Duration::from_secs(36_000)));
        let words = [(59, 0xa000), (82, 2), (83, 0x4000), (89, 0x1203), (128, 0x1f)];
        let hdd = Identity::parse(&identify(&words)).unwrap();
        assert!(!hdd.sanitize_crypto && !hdd.sanitize_block, "without bit 12 the others say nothing");
        assert!(hdd.enabled && hdd.locked && hdd.frozen && hdd.expired && !hdd.enhanced_erase);
        assert_eq!((hdd.erase_time, hdd.enhanced_erase_time), (Some(Duration::from_secs(360)), None));
        for invalid in [[(82, 2), (83, 0x8000), (128, 3)], [(82, 0), (83, 0x4000), (128, 3)]] {
            let identity = Identity::parse(&identify(&invalid)).unwrap();
            assert!(!identity.security && !identity.enabled);
        }
    }

    #[test]
    fn a_broken_answer_is_none() {
        assert_eq!(Identity::parse(&identify(&[(0, 0x8580)])), None, "a CD drive");
        let mut data = identify(&[(82, 2)]);
        data[510] = 0xa5;
        assert_eq!(Identity::parse(&data), None, "the checksum does not hold");
        data[511] = 0u8.wrapping_sub(0xa5 + 2);
        assert!(Identity::parse(&data).is_some());
    }

    #[test]
    fn sectors_hold_the_password_and_what_is_asked_for() {
        let mut expected = [0; SECTOR_BYTES];
        expected[2..14].copy_from_slice(b"ferric-erase");
        assert_eq!(password_sector(), expected);
        assert_eq!(erase_sector(false), expected);
        expected[0] = 2;
        assert_eq!(erase_sector(true), expected);
        assert!(PASSWORD.len() <= 32, "words 1 to 16");
    }

    #[test]
    fn an_erase_is_waited_for_as_long_as_it_may_take_and_no_longer() {
        let hours = |h: u64| Duration::from_secs(h * 3600);
        assert_eq!(Command::erase_unit(None).timeout(), hours(24));
        assert_eq!(Command::erase_unit(Some(hours(1))).timeout(), hours(2) + Duration::from_secs(600));
        assert_eq!(Command::erase_unit(Some(hours(1092))).timeout(), hours(168));
    }

    #[test]
    fn registers_say_how_far_a_sanitize_is() {
        let of = |status, error, count, lba| SanitizeState::of(&Registers { error, status, count, lba });
        assert_eq!(of(0x50, 0, 0x8000, 0xffff), Some(SanitizeState::Idle));
        assert_eq!(of(0x50, 0, 0x4000, 0x1234), Some(SanitizeState::Running(0x1234)));
        assert_eq!(of(0x51, 4, 0, 1), Some(SanitizeState::Failed));
        assert_eq!(of(0x51, 4, 0, 3), None, "frozen, or not supported");
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(data in prop::collection::vec(any::<u8>(), SECTOR_BYTES)) {
            let data: [u8; SECTOR_BYTES] = data.try_into().unwrap();
            if let Some(identity) = Identity::parse(&data) {
                prop_assert!(Command::erase_unit(identity.erase_time).timeout() <= LONGEST_ERASE);
            }
        }
    }
}
