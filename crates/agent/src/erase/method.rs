//! Which methods a drive has, strongest first, and what keeps it from the others. Pure.
//!
//! The order is one of what is reached: a sanitize and an ATA secure erase reach blocks that are not shown (spare, set
//! aside), a format those of the namespace, deallocating and overwriting only the addresses that the drive shows. Among
//! equals the cryptographic one is first: it is done in seconds and does not wear the drive.

use super::{
    ata::Identity,
    drive::{Interface, Queue},
    nvme::Controller,
};

/// A way to erase a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// NVMe Sanitize, crypto erase.
    NvmeSanitizeCrypto,
    /// NVMe Sanitize, block erase.
    NvmeSanitizeBlock,
    /// NVMe Format NVM with cryptographic erase.
    NvmeFormatCrypto,
    /// NVMe Format NVM with user data erase.
    NvmeFormatUserData,
    /// ATA SANITIZE DEVICE, CRYPTO SCRAMBLE EXT.
    AtaSanitizeCrypto,
    /// ATA SANITIZE DEVICE, BLOCK ERASE EXT.
    AtaSanitizeBlock,
    /// ATA SECURITY ERASE UNIT, enhanced.
    AtaEraseEnhanced,
    /// ATA SECURITY ERASE UNIT.
    AtaErase,
    /// TRIM, UNMAP or zeroing by the drive, where it says that it reads as zeros afterwards.
    Deallocate,
    /// Zeros written to every address.
    Overwrite,
}

impl Method {
    /// As it stands in the evidence.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NvmeSanitizeCrypto => "nvme-sanitize-crypto-erase",
            Self::NvmeSanitizeBlock => "nvme-sanitize-block-erase",
            Self::NvmeFormatCrypto => "nvme-format-crypto-erase",
            Self::NvmeFormatUserData => "nvme-format-user-data-erase",
            Self::AtaSanitizeCrypto => "ata-sanitize-crypto-scramble",
            Self::AtaSanitizeBlock => "ata-sanitize-block-erase",
            Self::AtaEraseEnhanced => "ata-secure-erase-enhanced",
            Self::AtaErase => "ata-secure-erase",
            Self::Deallocate => "deallocate",
            Self::Overwrite => "overwrite",
        }
    }

    /// What it did, in one sentence that says on whose word.
    #[must_use]
    pub fn did(self) -> &'static str {
        match self {
            Self::NvmeSanitizeCrypto => {
                "the drive reports that it replaced the keys of all of its media, blocks that it does not show included"
            }
            Self::NvmeSanitizeBlock => {
                "the drive reports that it erased all blocks of its media, those that it does not show included"
            }
            Self::NvmeFormatCrypto => "the drive reports that it replaced the key of the namespace",
            Self::NvmeFormatUserData => "the drive reports that it erased the contents of the namespace",
            Self::AtaSanitizeCrypto => {
                "the drive reports that it replaced the keys of all of its media, sectors that it does not show included"
            }
            Self::AtaSanitizeBlock => {
                "the drive reports that it erased all blocks of its media, those that it does not show included"
            }
            Self::AtaEraseEnhanced => {
                "the drive reports that it erased all sectors by its maker's own way, those that it set aside included"
            }
            Self::AtaErase => "the drive reports that it erased all sectors that can be addressed",
            Self::Deallocate => {
                "the drive was told to zero every address and took it as done; when its cells are erased is its own affair"
            }
            Self::Overwrite => {
                "zeros were written to every address; blocks that the drive set aside or keeps spare are not reached"
            }
        }
    }
}

/// What is known of a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Facts {
    /// A namespace of an NVMe controller.
    Nvme {
        /// What the controller can do.
        controller: Controller,
        /// How many namespaces there are; `None` where that cannot be found out.
        namespaces: Option<usize>,
    },
    /// An ATA drive.
    Ata(Identity),
    /// A drive of this kind that does not say what it can.
    Silent(Interface, String),
    /// A drive that only reads and writes.
    Plain,
}

/// A method, and what is in its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub method: Method,
    /// `None`: it can be tried.
    pub obstacle: Option<String>,
}

/// The methods of a drive of this kind, strongest first.
#[must_use]
pub fn methods(facts: &Facts, queue: Queue) -> Vec<Candidate> {
    let own = match facts {
        Facts::Nvme { controller, namespaces } => nvme(controller, *namespaces),
        Facts::Ata(identity) => ata(identity),
        Facts::Silent(interface, why) => {
            let methods = match interface {
                Interface::Nvme { .. } => nvme(&Controller::default(), None),
                Interface::Ata => ata(&Identity::default()),
                Interface::Other => Vec::new(),
            };
            methods.into_iter().map(|(method, _)| (method, Some(why.clone()))).collect()
        }
        Facts::Plain => Vec::new(),
    };
    let plain = [(Method::Deallocate, deallocate(queue)), (Method::Overwrite, None)];
    own.into_iter().chain(plain).map(|(method, obstacle)| Candidate { method, obstacle }).collect()
}

type Ranked = (Method, Option<String>);

fn nvme(controller: &Controller, namespaces: Option<usize>) -> Vec<Ranked> {
    let lacks =
        |offered: bool, what: &str| (!offered).then(|| format!("the controller does not offer {what}"));
    // A drive is one namespace to whoever asks for it to be cleaned: what reaches others is not for this task.
    let others = || match namespaces {
        Some(1) => None,
        Some(count) => {
            Some(format!("it would erase all {count} namespaces of the drive, and one was asked for"))
        }
        None => Some("it would erase all namespaces of the drive, whose number is not known".to_owned()),
    };
    let format_others = || if controller.format_is_for_all { others() } else { None };
    let format = || lacks(controller.format, "Format NVM");
    vec![
        (
            Method::NvmeSanitizeCrypto,
            lacks(controller.sanitize_crypto, "Sanitize with crypto erase").or_else(others),
        ),
        (
            Method::NvmeSanitizeBlock,
            lacks(controller.sanitize_block, "Sanitize with block erase").or_else(others),
        ),
        (
            Method::NvmeFormatCrypto,
            format()
                .or_else(|| lacks(controller.format_crypto, "Format NVM with cryptographic erase"))
                .or_else(format_others),
        ),
        (Method::NvmeFormatUserData, format().or_else(format_others)),
    ]
}

fn ata(identity: &Identity) -> Vec<Ranked> {
    let lacks = |offered: bool, what: &str| (!offered).then(|| format!("the drive does not offer {what}"));
    let security = || {
        let states = [
            (!identity.security, "the drive does not offer the security feature set"),
            (
                identity.frozen,
                "the firmware has frozen the drive's security until the next power cycle; many do so at every boot, \
                 and have a setting for it",
            ),
            (identity.expired, "too many wrong passwords were tried since the last power cycle"),
            (identity.locked || identity.enabled, "a password that is not ours is set"),
        ];
        states.iter().find(|(stands, _)| *stands).map(|(_, why)| (*why).to_owned())
    };
    let sanitize = |offered, what| {
        lacks(offered, what).or_else(|| identity.locked.then(|| "the drive is locked".to_owned()))
    };
    vec![
        (Method::AtaSanitizeCrypto, sanitize(identity.sanitize_crypto, "CRYPTO SCRAMBLE EXT")),
        (Method::AtaSanitizeBlock, sanitize(identity.sanitize_block, "BLOCK ERASE EXT")),
        (
            Method::AtaEraseEnhanced,
            security().or_else(|| lacks(identity.enhanced_erase, "the enhanced secure erase")),
        ),
        (Method::AtaErase, security()),
    ]
}

fn deallocate(queue: Queue) -> Option<String> {
    let without = |what: &str| Some(format!("the kernel has no {what} for this drive"));
    match queue {
        Queue { discard_max_bytes: 0, .. } => without("discard"),
        Queue { write_zeroes_max_bytes: 0, .. } => without("command that guarantees zeros"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use Method::*;

    use super::*;

    const TRIM: Queue =
        Queue { rotational: false, discard_max_bytes: 1 << 30, write_zeroes_max_bytes: 1 << 20 };

    /// The methods that can be tried, in order.
    fn open(facts: &Facts, queue: Queue) -> Vec<Method> {
        let open = methods(facts, queue).into_iter().filter(|candidate| candidate.obstacle.is_none());
        open.map(|candidate| candidate.method).collect()
    }

    fn obstacle(facts: &Facts, method: Method) -> String {
        let all = methods(facts, Queue::default());
        all.into_iter().find(|c| c.method == method).unwrap().obstacle.unwrap_or_default()
    }

    #[test]
    fn nvme_drives() {
        let all = Controller {
            sanitize_crypto: true,
            sanitize_block: true,
            format: true,
            namespace_management: true,
            format_crypto: true,
            format_is_for_all: false,
        };
        let none = Controller::default();
        let table: [(Controller, Option<usize>, Queue, &[Method]); 10] = [
            (
                all,
                Some(1),
                TRIM,
                &[
                    NvmeSanitizeCrypto,
                    NvmeSanitizeBlock,
                    NvmeFormatCrypto,
                    NvmeFormatUserData,
                    Deallocate,
                    Overwrite,
                ],
            ),
            (all, Some(2), TRIM, &[NvmeFormatCrypto, NvmeFormatUserData, Deallocate, Overwrite]),
            (all, None, TRIM, &[NvmeFormatCrypto, NvmeFormatUserData, Deallocate, Overwrite]),
            (all, Some(0), TRIM, &[NvmeFormatCrypto, NvmeFormatUserData, Deallocate, Overwrite]),
            (Controller { format_is_for_all: true, ..all }, Some(2), Queue::default(), &[Overwrite]),
            (
                Controller { format_is_for_all: true, sanitize_crypto: false, ..all },
                Some(1),
                TRIM,
                &[NvmeSanitizeBlock, NvmeFormatCrypto, NvmeFormatUserData, Deallocate, Overwrite],
            ),
            (
                Controller { format_crypto: false, format: true, ..none },
                Some(1),
                Queue::default(),
                &[NvmeFormatUserData, Overwrite],
            ),
            (Controller { format_crypto: true, ..none }, Some(1), TRIM, &[Deallocate, Overwrite]),
            (none, Some(1), Queue { write_zeroes_max_bytes: 0, ..TRIM }, &[Overwrite]),
            (none, Some(1), Queue { discard_max_bytes: 0, ..TRIM }, &[Overwrite]),
        ];
        for (controller, namespaces, queue, expected) in table {
            let facts = Facts::Nvme { controller, namespaces };
            assert_eq!(open(&facts, queue), expected, "{facts:?} {queue:?}");
        }
        let two = Facts::Nvme { controller: all, namespaces: Some(2) };
        assert!(obstacle(&two, NvmeSanitizeCrypto).contains("all 2 namespaces"));
        let nothing = Facts::Nvme { controller: none, namespaces: Some(1) };
        assert!(obstacle(&nothing, NvmeFormatCrypto).contains("does not offer Format NVM"));
    }

    #[test]
    fn ata_drives() {
        let security = Identity { security: true, ..Identity::default() };
        let ssd = Identity { sanitize_crypto: true, sanitize_block: true, enhanced_erase: true, ..security };
        let table: [(Identity, Queue, &[Method]); 9] = [
            (Identity::default(), Queue::default(), &[Overwrite]),
            (security, Queue { rotational: true, ..Queue::default() }, &[AtaErase, Overwrite]),
            (
                ssd,
                TRIM,
                &[AtaSanitizeCrypto, AtaSanitizeBlock, AtaEraseEnhanced, AtaErase, Deallocate, Overwrite],
            ),
            (
                Identity { frozen: true, ..ssd },
                TRIM,
                &[AtaSanitizeCrypto, AtaSanitizeBlock, Deallocate, Overwrite],
            ),
            (Identity { frozen: true, ..security }, TRIM, &[Deallocate, Overwrite]),
            (Identity { enabled: true, ..security }, Queue::default(), &[Overwrite]),
            (Identity { expired: true, ..security }, Queue::default(), &[Overwrite]),
            (Identity { locked: true, enabled: true, ..ssd }, Queue::default(), &[Overwrite]),
            (
                Identity { enhanced_erase: true, ..security },
                Queue::default(),
                &[AtaEraseEnhanced, AtaErase, Overwrite],
            ),
        ];
        for (identity, queue, expected) in table {
            assert_eq!(open(&Facts::Ata(identity), queue), expected, "{identity:?} {queue:?}");
        }
        let frozen = Facts::Ata(Identity { frozen: true, ..security });
        assert!(obstacle(&frozen, AtaErase).contains("frozen"));
        assert!(obstacle(&frozen, AtaSanitizeBlock).contains("does not offer BLOCK ERASE EXT"));
    }

    #[test]
    fn every_other_drive_is_deallocated_or_overwritten_and_every_obstacle_is_told() {
        assert_eq!(open(&Facts::Plain, TRIM), [Deallocate, Overwrite]);
        assert_eq!(open(&Facts::Plain, Queue::default()), [Overwrite]);
        let silent = Facts::Silent(Interface::Nvme { namespace: 1 }, "it did not answer".to_owned());
        assert_eq!(open(&silent, TRIM), [Deallocate, Overwrite]);
        assert_eq!(obstacle(&silent, NvmeSanitizeBlock), "it did not answer");
        assert_eq!(methods(&silent, TRIM).len(), 6);
        let silent = Facts::Silent(Interface::Ata, "it did not answer".to_owned());
        assert_eq!(obstacle(&silent, AtaErase), "it did not answer");
    }
}
