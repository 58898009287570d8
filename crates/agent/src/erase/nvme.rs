//! NVMe admin commands and what controllers answer, byte for byte. Pure.
//!
//! Numbers are those of the NVM Express Base Specification 2.0 and the NVM Command Set Specification 1.0; the header is
//! `struct nvme_passthru_cmd` of Linux (`include/uapi/linux/nvme_ioctl.h`).

use std::time::Duration;

/// Size of every Identify data structure, in bytes (Base 2.0, 5.17).
pub const IDENTIFY_BYTES: usize = 4096;
/// Size of the Sanitize Status log page, in bytes (Base 2.0, 5.16.1.25).
pub const SANITIZE_LOG_BYTES: usize = 512;
/// Request code of `NVME_IOCTL_ADMIN_CMD`, `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
pub const IOCTL_ADMIN_CMD: u32 = 3 << 30 | (IOCTL_BYTES as u32) << 16 | (b'N' as u32) << 8 | 0x41;
/// Size of `struct nvme_passthru_cmd`.
const IOCTL_BYTES: usize = 72;

/// Opcodes of the Admin Command Set (Base 2.0, figure 138).
const GET_LOG_PAGE: u8 = 0x02;
const IDENTIFY: u8 = 0x06;
const FORMAT_NVM: u8 = 0x80;
const SANITIZE: u8 = 0x84;
/// Log page identifier of Sanitize Status (Base 2.0, figure 202).
const LOG_SANITIZE_STATUS: u32 = 0x81;
/// Values of CNS (Base 2.0, figure 273).
const CNS_NAMESPACE: u32 = 0x00;
const CNS_CONTROLLER: u32 = 0x01;
const CNS_ACTIVE_NAMESPACES: u32 = 0x02;
const CNS_ALLOCATED_NAMESPACES: u32 = 0x10;

/// What answers at once.
const SHORT: Duration = Duration::from_secs(30);
/// Starting a sanitize only starts it.
const START: Duration = Duration::from_secs(120);
/// A format with a user data erase may erase every block before it answers, and does not say how long that takes.
const FORMAT: Duration = Duration::from_secs(4 * 3600);

/// One command. It can only be made by the functions here, so that what it transfers is what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminCommand {
    opcode: u8,
    namespace: u32,
    cdw10: u32,
    cdw11: u32,
    transfer: usize,
    timeout: Duration,
}

/// What a sanitize does (Base 2.0, figure 309: SANACT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanitizeAction {
    /// Leaves the state after a sanitize that failed.
    ExitFailureMode = 1,
    /// Erases the blocks of the media.
    BlockErase = 2,
    /// Replaces the media's keys.
    CryptoErase = 4,
}

/// What a format erases (NVM Command Set 1.0, figure 93: SES).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatErase {
    /// The contents.
    UserData = 1,
    /// The key.
    Crypto = 2,
}

impl AdminCommand {
    fn new(opcode: u8, namespace: u32, cdw10: u32, transfer: usize, timeout: Duration) -> Self {
        Self { opcode, namespace, cdw10, cdw11: 0, transfer, timeout }
    }

    /// Identify Controller.
    #[must_use]
    pub fn identify_controller() -> Self {
        Self::new(IDENTIFY, 0, CNS_CONTROLLER, IDENTIFY_BYTES, SHORT)
    }

    /// Identify Namespace.
    #[must_use]
    pub fn identify_namespace(namespace: u32) -> Self {
        Self::new(IDENTIFY, namespace, CNS_NAMESPACE, IDENTIFY_BYTES, SHORT)
    }

    /// The namespaces that are attached to the controller.
    #[must_use]
    pub fn active_namespaces() -> Self {
        Self::new(IDENTIFY, 0, CNS_ACTIVE_NAMESPACES, IDENTIFY_BYTES, SHORT)
    }

    /// All namespaces of the NVM subsystem. Only of controllers with namespace management.
    #[must_use]
    pub fn allocated_namespaces() -> Self {
        Self::new(IDENTIFY, 0, CNS_ALLOCATED_NAMESPACES, IDENTIFY_BYTES, SHORT)
    }

    /// Get Log Page: Sanitize Status.
    #[must_use]
    pub fn sanitize_status() -> Self {
        // NUMDL, bits 31:16: dwords, counted from 0.
        let dwords = (SANITIZE_LOG_BYTES as u32 / 4 - 1) << 16;
        Self::new(GET_LOG_PAGE, u32::MAX, LOG_SANITIZE_STATUS | dwords, SANITIZE_LOG_BYTES, SHORT)
    }

    /// Starts a sanitize of the whole NVM subsystem. One that fails can be left (AUSE, bit 3): a drive must not stay
    /// unusable because of it.
    #[must_use]
    pub fn sanitize(action: SanitizeAction) -> Self {
        let unrestricted = if action == SanitizeAction::ExitFailureMode { 0 } else { 1 << 3 };
        Self::new(SANITIZE, 0, action as u32 | unrestricted, 0, START)
    }

    /// Format NVM: erases a namespace and leaves its format as it is.
    #[must_use]
    pub fn format(namespace: u32, format: LbaFormat, erase: FormatErase) -> Self {
        let LbaFormat { index, extended, protection, protection_first } = format;
        let cdw10 = u32::from(index & 0xf)
            | u32::from(extended) << 4
            | u32::from(protection & 7) << 5
            | u32::from(protection_first) << 8
            | (erase as u32) << 9
            | u32::from(index >> 4 & 3) << 12;
        Self::new(FORMAT_NVM, namespace, cdw10, 0, FORMAT)
    }

    /// Bytes that come from the controller.
    #[must_use]
    pub fn transfer(&self) -> usize {
        self.transfer
    }

    /// How long the kernel waits for the answer before it takes the controller for dead.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// `struct nvme_passthru_cmd`, its data at this address.
    #[must_use]
    pub fn to_ioctl(&self, address: u64) -> [u64; IOCTL_BYTES / 8] {
        let mut bytes = [0; IOCTL_BYTES];
        bytes[0] = self.opcode;
        bytes[4..8].copy_from_slice(&self.namespace.to_ne_bytes());
        if self.transfer > 0 {
            bytes[24..32].copy_from_slice(&address.to_ne_bytes());
        }
        let length = u32::try_from(self.transfer).unwrap_or(0);
        bytes[36..40].copy_from_slice(&length.to_ne_bytes());
        bytes[40..44].copy_from_slice(&self.cdw10.to_ne_bytes());
        bytes[44..48].copy_from_slice(&self.cdw11.to_ne_bytes());
        let timeout = u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX);
        bytes[64..68].copy_from_slice(&timeout.to_ne_bytes());
        let mut words = [0; IOCTL_BYTES / 8];
        for (word, part) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*part);
        }
        words
    }
}

/// The first word of the answer, from the header as the kernel left it.
#[must_use]
pub fn ioctl_result(header: &[u64; IOCTL_BYTES / 8]) -> u32 {
    let [_, _, _, _, a, b, c, d] = header[8].to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Status of a command as `NVME_IOCTL_ADMIN_CMD` returns it: the status field of the completion without its phase bit
/// (Base 2.0, 3.3.3.2.1).
#[must_use]
pub fn status_text(status: u32) -> String {
    let (kind, code) = (status >> 8 & 7, status & 0xff);
    let name = match (kind, code) {
        (0, 0x01) => ": invalid command opcode",
        (0, 0x02) => ": invalid field in command",
        (0, 0x06) => ": internal error",
        (0, 0x15) => ": operation denied",
        (0, 0x1c) => ": sanitize failed",
        (0, 0x1d) => ": sanitize in progress",
        (0, 0x20) => ": namespace is write protected",
        (1, 0x0a) => ": invalid format",
        (1, 0x0b) => ": firmware activation requires a conventional reset",
        _ => "",
    };
    format!("NVMe status {kind:x}h/{code:02x}h{name}")
}

/// What a controller can do (Identify Controller; Base 2.0, figure 275).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Controller {
    /// SANICAP bit 0.
    pub sanitize_crypto: bool,
    /// SANICAP bit 1.
    pub sanitize_block: bool,
    /// OACS bit 1.
    pub format: bool,
    /// OACS bit 3.
    pub namespace_management: bool,
    /// FNA bit 2: a format may replace the key.
    pub format_crypto: bool,
    /// FNA bits 0 and 1: a format, or a format that erases, is one of all namespaces.
    pub format_is_for_all: bool,
}

impl Controller {
    /// From Identify Controller.
    #[must_use]
    pub fn parse(data: &[u8; IDENTIFY_BYTES]) -> Self {
        let oacs = u16::from_le_bytes([data[256], data[257]]);
        let sanicap = u32::from_le_bytes([data[328], data[329], data[330], data[331]]);
        let fna = data[524];
        Self {
            sanitize_crypto: sanicap & 1 != 0,
            sanitize_block: sanicap & 2 != 0,
            format: oacs & 2 != 0,
            namespace_management: oacs & 8 != 0,
            format_crypto: fna & 4 != 0,
            format_is_for_all: fna & 3 != 0,
        }
    }
}

/// The format of a namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LbaFormat {
    /// Which of the controller's formats.
    pub index: u8,
    /// Metadata follow each block.
    pub extended: bool,
    /// Type of protection information.
    pub protection: u8,
    /// Protection information comes first in the metadata.
    pub protection_first: bool,
}

impl LbaFormat {
    /// The current one, from Identify Namespace (NVM Command Set 1.0, figure 97: FLBAS at 26, DPS at 29).
    #[must_use]
    pub fn parse(data: &[u8; IDENTIFY_BYTES]) -> Self {
        let (flbas, dps) = (data[26], data[29]);
        Self {
            index: flbas & 0xf | (flbas >> 5 & 3) << 4,
            extended: flbas & 0x10 != 0,
            protection: dps & 7,
            protection_first: dps & 8 != 0,
        }
    }
}

/// The namespaces of a list, which ends with a zero (Base 2.0, 4.1.3).
#[must_use]
pub fn namespaces(data: &[u8; IDENTIFY_BYTES]) -> Vec<u32> {
    data.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).take_while(|id| *id != 0).collect()
}

/// How far a sanitize is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanitizeState {
    /// There was none since the drive was made.
    Never,
    /// The last one was completed.
    Completed,
    /// One goes on.
    Running,
    /// The last one failed.
    Failed,
    /// Something that the specification does not have.
    Unknown(u8),
}

/// The Sanitize Status log (Base 2.0, figure 256).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SanitizeStatus {
    /// How far it is.
    pub state: SanitizeState,
    /// Of 65536.
    pub progress: u16,
    /// What was asked for; `None` where it is neither a block nor a crypto erase.
    pub action: Option<SanitizeAction>,
    /// How long a block erase takes, in seconds, where the drive says so.
    pub block_seconds: Option<u32>,
    /// How long a crypto erase takes.
    pub crypto_seconds: Option<u32>,
}

impl SanitizeStatus {
    /// From the log page.
    #[must_use]
    pub fn parse(data: &[u8; SANITIZE_LOG_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
        let seconds = |at| Some(word(at)).filter(|seconds| *seconds != u32::MAX);
        let state = match data[2] & 7 {
            0 => SanitizeState::Never,
            // 4: completed, and blocks were deallocated although that was not asked for.
            1 | 4 => SanitizeState::Completed,
            2 => SanitizeState::Running,
            3 => SanitizeState::Failed,
            other => SanitizeState::Unknown(other),
        };
        Self {
            state,
            progress: u16::from_le_bytes([data[0], data[1]]),
            action: match word(4) & 7 {
                2 => Some(SanitizeAction::BlockErase),
                4 => Some(SanitizeAction::CryptoErase),
                _ => None,
            },
            block_seconds: seconds(12),
            crypto_seconds: seconds(16),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn bytes(command: &AdminCommand) -> Vec<u8> {
        command.to_ioctl(0x1122_3344_5566_7788).iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// The header with these bytes set, all others 0; numbers as the machine has them.
    fn header(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut header = vec![0; 72];
        for (at, part) in parts {
            header[*at..at + part.len()].copy_from_slice(part);
        }
        header
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn commands_are_what_the_specification_says() {
        const ADDRESS: &[u8] = &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11];
        const ALL: &[u8] = &[0xff; 4];
        let seconds = |s: u32| (s * 1000).to_le_bytes();
        let (short, start, long) = (seconds(30), seconds(120), seconds(4 * 3600));
        let identify = |cns: u8, namespace: u8| {
            let parts: [(usize, &[u8]); 6] = [
                (0, &[0x06]),
                (4, &[namespace]),
                (24, ADDRESS),
                (36, &[0, 0x10]),
                (40, &[cns]),
                (64, &short),
            ];
            header(&parts)
        };
        assert_eq!(bytes(&AdminCommand::identify_controller()), identify(1, 0));
        assert_eq!(bytes(&AdminCommand::identify_namespace(7)), identify(0, 7));
        assert_eq!(bytes(&AdminCommand::active_namespaces()), identify(2, 0));
        assert_eq!(bytes(&AdminCommand::allocated_namespaces()), identify(0x10, 0));
        let log: [(usize, &[u8]); 6] =
            [(0, &[0x02]), (4, ALL), (24, ADDRESS), (36, &[0, 2]), (40, &[0x81, 0, 0x7f, 0]), (64, &short)];
        assert_eq!(bytes(&AdminCommand::sanitize_status()), header(&log));
        for (action, cdw10) in [
            (SanitizeAction::ExitFailureMode, 1),
            (SanitizeAction::BlockErase, 0b1010),
            (SanitizeAction::CryptoErase, 0b1100),
        ] {
            let parts: [(usize, &[u8]); 3] = [(0, &[0x84]), (40, &[cdw10]), (64, &start)];
            assert_eq!(bytes(&AdminCommand::sanitize(action)), header(&parts));
        }
        let plain = LbaFormat { index: 3, ..LbaFormat::default() };
        let odd = LbaFormat { index: 0x25, extended: true, protection: 2, protection_first: true };
        for (format, erase, cdw10) in [
            (plain, FormatErase::UserData, [0x03, 0x02]),
            (plain, FormatErase::Crypto, [0x03, 0x04]),
            (odd, FormatErase::UserData, [0x55, 0x23]),
        ] {
            let parts: [(usize, &[u8]); 4] = [(0, &[0x80]), (4, &[9]), (40, &cdw10), (64, &long)];
            assert_eq!(bytes(&AdminCommand::format(9, format, erase)), header(&parts));
        }
        // The request code of Linux on every machine that it runs on here.
        assert_eq!(IOCTL_ADMIN_CMD, 0xc048_4e41);
    }

    #[test]
    fn answers_are_understood() {
        let mut data = [0; IDENTIFY_BYTES];
        assert_eq!(Controller::parse(&data), Controller::default());
        (data[256], data[328], data[524]) = (0b1010, 0b11, 0b100);
        let controller = Controller::parse(&data);
        assert!(controller.format && controller.namespace_management && controller.format_crypto);
        assert!(controller.sanitize_crypto && controller.sanitize_block && !controller.format_is_for_all);
        for fna in [1, 2] {
            data[524] = fna;
            assert!(Controller::parse(&data).format_is_for_all);
        }
        let mut data = [0; IDENTIFY_BYTES];
        (data[26], data[29]) = (0b0101_0101, 0b1010);
        let odd = LbaFormat { index: 0x25, extended: true, protection: 2, protection_first: true };
        assert_eq!(LbaFormat::parse(&data), odd);
        let mut data = [0; IDENTIFY_BYTES];
        assert!(namespaces(&data).is_empty());
        (data[0], data[4], data[9], data[16]) = (1, 5, 1, 9);
        assert_eq!(namespaces(&data), [1, 5, 256], "what follows the zero does not count");
        assert_eq!(namespaces(&[1; IDENTIFY_BYTES]).len(), 1024);
        let mut header = [0; 9];
        header[8] = u64::from_ne_bytes([0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(ioctl_result(&header), u32::from_ne_bytes([1, 2, 3, 4]));
        assert_eq!(status_text(0x4002), "NVMe status 0h/02h: invalid field in command");
        assert_eq!(status_text(0x10a), "NVMe status 1h/0ah: invalid format");
        assert_eq!(status_text(0x7ff), "NVMe status 7h/ffh");
    }

    #[test]
    fn the_log_says_how_far_a_sanitize_is() {
        let mut log = [0; SANITIZE_LOG_BYTES];
        let never = SanitizeStatus::parse(&log);
        assert_eq!((never.state, never.action), (SanitizeState::Never, None));
        (log[0], log[1], log[2], log[4]) = (0x34, 0x12, 2, 0b1100);
        log[12..16].fill(0xff);
        log[16] = 60;
        let running = SanitizeStatus::parse(&log);
        assert_eq!((running.state, running.progress), (SanitizeState::Running, 0x1234));
        assert_eq!(running.action, Some(SanitizeAction::CryptoErase));
        assert_eq!((running.block_seconds, running.crypto_seconds), (None, Some(60)));
        for (low, state) in [
            (0b1000_0001, SanitizeState::Completed),
            (4, SanitizeState::Completed),
            (3, SanitizeState::Failed),
            (6, SanitizeState::Unknown(6)),
        ] {
            log[2] = low;
            assert_eq!(SanitizeStatus::parse(&log).state, state);
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(data in prop::collection::vec(any::<u8>(), IDENTIFY_BYTES)) {
            let identify: [u8; IDENTIFY_BYTES] = data.clone().try_into().unwrap();
            let log: [u8; SANITIZE_LOG_BYTES] = data[..SANITIZE_LOG_BYTES].try_into().unwrap();
            let _ = Controller::parse(&identify);
            let _ = AdminCommand::format(1, LbaFormat::parse(&identify), FormatErase::Crypto).to_ioctl(0);
            prop_assert!(namespaces(&identify).len() <= 1024);
            let _ = SanitizeStatus::parse(&log);
        }
    }
}
