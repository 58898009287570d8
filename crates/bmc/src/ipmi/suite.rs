//! Cipher suites (22.15.2) and their algorithms: which there are, which are taken, which never.

/// A cipher suite that this driver speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Suite {
    /// 2: RAKP-HMAC-SHA1, HMAC-SHA1-96, nothing encrypted.
    Sha1Clear,
    /// 3: RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128.
    Sha1,
    /// 16: RAKP-HMAC-SHA256, HMAC-SHA256-128, nothing encrypted.
    Sha256Clear,
    /// 17: RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128.
    Sha256,
}

/// Authentication, integrity and confidentiality algorithm by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Algorithms {
    /// Table 13-17.
    pub(crate) authentication: u8,
    /// Table 13-18.
    pub(crate) integrity: u8,
    /// Table 13-19.
    pub(crate) confidentiality: u8,
}

impl Suite {
    /// What is tried when the address names none, best first.
    pub(crate) const DEFAULT: [Self; 2] = [Self::Sha256, Self::Sha1];
    /// All, for tables.
    pub(crate) const ALL: [Self; 4] = [Self::Sha1Clear, Self::Sha1, Self::Sha256Clear, Self::Sha256];

    /// Its number.
    pub(crate) fn id(self) -> u8 {
        match self {
            Self::Sha1Clear => 2,
            Self::Sha1 => 3,
            Self::Sha256Clear => 16,
            Self::Sha256 => 17,
        }
    }

    /// The suite of a number that somebody chose; otherwise why there is none, as an end of a sentence.
    pub(crate) fn chosen(id: u8) -> Result<Self, &'static str> {
        match id {
            0 => Err(
                "has no authentication: anybody could log in, so it is never used; turn it off in the BMC",
            ),
            1 | 15 => Err("signs no message after the login: anybody on the network could send commands"),
            6..=14 => Err("rests on MD5 or leaves messages unsigned or in RC4"),
            4 | 5 | 18 | 19 => Err("encrypts with RC4, which is broken"),
            _ => Self::ALL.into_iter().find(|suite| suite.id() == id).ok_or("is not known"),
        }
    }

    /// Its algorithms.
    pub(crate) fn algorithms(self) -> Algorithms {
        let (authentication, integrity) = if self.is_sha256() { (3, 4) } else { (1, 1) };
        Algorithms { authentication, integrity, confidentiality: u8::from(self.encrypts()) }
    }

    /// Whether its hash is SHA-256, not SHA-1.
    pub(crate) fn is_sha256(self) -> bool {
        matches!(self, Self::Sha256 | Self::Sha256Clear)
    }

    /// Whether payloads are encrypted (AES-CBC-128).
    pub(crate) fn encrypts(self) -> bool {
        matches!(self, Self::Sha1 | Self::Sha256)
    }

    /// Length of the code behind a packet and in RAKP 4, in bytes: HMAC-SHA1-96 and HMAC-SHA256-128 (13.28.1, 13.28.4).
    pub(crate) fn code_length(self) -> usize {
        if self.is_sha256() { 16 } else { 12 }
    }
}

/// Marks a record of a standard suite (22.15.1).
const STANDARD: u8 = 0xC0;
/// Marks a record of an OEM suite, which has three bytes of enterprise number more (22.15.1).
const OEM: u8 = 0xC1;

/// The numbers of the standard suites in the records that Get Channel Cipher Suites gave, all parts together.
pub(crate) fn numbers(records: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    let mut rest = records;
    while let Some((&start, after)) = rest.split_first() {
        let skip = match start {
            STANDARD => {
                found.extend(after.first());
                1
            }
            OEM => 4,
            // An algorithm of the suite before, or nonsense.
            _ => 0,
        };
        rest = after.get(skip..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn those_of_the_table() {
        for suite in Suite::ALL {
            assert_eq!(Suite::chosen(suite.id()), Ok(suite));
        }
        let algorithms = |id| {
            let Algorithms { authentication, integrity, confidentiality } =
                Suite::chosen(id).unwrap().algorithms();
            (authentication, integrity, confidentiality)
        };
        // The table of 22.15.2.
        assert_eq!(algorithms(2), (1, 1, 0));
        assert_eq!(algorithms(3), (1, 1, 1));
        assert_eq!(algorithms(16), (3, 4, 0));
        assert_eq!(algorithms(17), (3, 4, 1));
        for id in (0..=u8::MAX).filter(|id| ![2, 3, 16, 17].contains(id)) {
            assert!(Suite::chosen(id).is_err(), "{id}");
        }
        assert!(Suite::chosen(0).unwrap_err().contains("no authentication"));
    }

    #[test]
    fn records() {
        // Suites 3 and 17 and an OEM suite in between, as a BMC lists them.
        let records = [
            0xC0, 3, 0x01, 0x41, 0x81, 0xC1, 0x80, 0x02, 0x57, 0x01, 0x01, 0x41, 0x81, 0xC0, 17, 0x03, 0x44,
            0x81,
        ];
        assert_eq!(numbers(&records), [3, 17]);
        for none in [&[][..], &[0xC0], &[0xC1, 0xC0, 3]] {
            assert!(numbers(none).is_empty());
        }
    }

    proptest! {
        #[test]
        fn nothing_harms(bytes: Vec<u8>) {
            prop_assert!(numbers(&bytes).len() <= bytes.len());
        }
    }
}
