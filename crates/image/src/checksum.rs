//! What a downloaded file must hash to.
//!
//! A checksum is written as hex, with or without `sha256:` in front, or stands in a list of checksums beside the image
//! (`SHA256SUMS`). MD5 is refused: it does not protect against anybody.

use std::{fmt, str::FromStr};

use ring::digest;

/// A hash that is strong enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl ChecksumAlgorithm {
    /// Length of the hash in hexadecimal digits.
    #[must_use]
    pub fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    pub(crate) fn hasher(self) -> digest::Context {
        digest::Context::new(match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        })
    }
}

impl fmt::Display for ChecksumAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        })
    }
}

impl FromStr for ChecksumAlgorithm {
    type Err = ChecksumError;

    fn from_str(name: &str) -> Result<Self, ChecksumError> {
        match name.to_ascii_lowercase().as_str() {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            "md5" => Err(ChecksumError::Md5),
            _ => Err(ChecksumError::UnknownAlgorithm(name.chars().take(40).collect())),
        }
    }
}

/// Why a checksum cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// Anybody can make a second file with the same MD5.
    #[error("md5 checksums are refused: use sha256 or sha512")]
    Md5,
    /// Neither of those that are known.
    #[error("unknown checksum type {0:?}: use sha256 or sha512")]
    UnknownAlgorithm(String),
    /// The length fits no known hash.
    #[error("a checksum of {0} digits is none: sha256 has 64, sha512 has 128")]
    Length(usize),
    /// The length fits another hash than was said.
    #[error("a {algorithm} checksum has {} digits, not {got}", algorithm.hex_length())]
    WrongLength {
        /// What was said.
        algorithm: ChecksumAlgorithm,
        /// The digits there are.
        got: usize,
    },
    /// Something in it is not a hexadecimal digit.
    #[error("the checksum is not hexadecimal")]
    NotHex,
    /// The list does not name the file.
    #[error("the list of checksums has no line for {file:?} (of {lines} lines)")]
    NotListed {
        /// The file that was looked for.
        file: String,
        /// How many lines there were.
        lines: usize,
    },
    /// The list names the file more than once, with different checksums.
    #[error("the list of checksums has different lines for {0:?}")]
    Ambiguous(String),
}

/// A hash to compare with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Checksum {
    algorithm: ChecksumAlgorithm,
    hex: String,
}

impl Checksum {
    /// Checks length and digits; the digits become lower case.
    pub fn new(algorithm: ChecksumAlgorithm, hex: &str) -> Result<Self, ChecksumError> {
        if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ChecksumError::NotHex);
        }
        if hex.len() != algorithm.hex_length() {
            return Err(ChecksumError::WrongLength { algorithm, got: hex.len() });
        }
        Ok(Self { algorithm, hex: hex.to_ascii_lowercase() })
    }

    /// What a hasher of this type has come to.
    pub(crate) fn of(algorithm: ChecksumAlgorithm, hasher: digest::Context) -> Self {
        Self { algorithm, hex: hex::encode(hasher.finish()) }
    }

    /// Reads `sha256:HEX`, `sha512:HEX` or bare `HEX`, whose length then tells the type unless `algorithm` does.
    ///
    /// ```
    /// use ferric_image::{Checksum, ChecksumAlgorithm};
    ///
    /// let checksum = Checksum::parse(&"0F".repeat(32), None)?;
    /// assert_eq!(checksum.algorithm(), ChecksumAlgorithm::Sha256);
    /// assert_eq!(checksum.to_string(), format!("sha256:{}", "0f".repeat(32)));
    /// # Ok::<(), ferric_image::ChecksumError>(())
    /// ```
    pub fn parse(text: &str, algorithm: Option<ChecksumAlgorithm>) -> Result<Self, ChecksumError> {
        let text = text.trim();
        let (named, hex) = match text.split_once(':') {
            Some((name, hex)) => (Some(name.parse()?), hex.trim()),
            None => (None, text),
        };
        if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ChecksumError::NotHex);
        }
        let deduced = || match hex.len() {
            64 => Ok(ChecksumAlgorithm::Sha256),
            128 => Ok(ChecksumAlgorithm::Sha512),
            32 => Err(ChecksumError::Md5),
            other => Err(ChecksumError::Length(other)),
        };
        let said = match algorithm.or(named) {
            Some(said) => said,
            None => deduced()?,
        };
        Self::new(said, hex)
    }

    /// Finds the checksum of `file` in the text of a list: lines of `HEX  name`, `HEX *name` or `SHA256 (name) = HEX`.
    /// A text that is only a checksum is that checksum.
    pub fn from_sums(
        text: &str,
        file: &str,
        algorithm: Option<ChecksumAlgorithm>,
    ) -> Result<Self, ChecksumError> {
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        if let [only] = lines.as_slice()
            && !only.contains(char::is_whitespace)
        {
            return Self::parse(only, algorithm);
        }
        let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        let wanted = base(file);
        let mut found: Option<Self> = None;
        // A list may hold other hashes of the file beside; what is wrong with them matters only if no good one is there.
        let mut unusable = None;
        for (name, named, hex) in lines.iter().filter_map(|line| sums_line(line)) {
            if base(name) != wanted {
                continue;
            }
            match named.map(str::parse).transpose().and_then(|named| Self::parse(hex, named)) {
                Ok(checksum) if algorithm.is_some_and(|said| said != checksum.algorithm) => {}
                Ok(checksum) if found.as_ref().is_some_and(|other| *other != checksum) => {
                    return Err(ChecksumError::Ambiguous(wanted));
                }
                Ok(checksum) => found = Some(checksum),
                Err(error) => unusable = Some(error),
            }
        }
        if let (None, Some(error)) = (&found, unusable) {
            return Err(error);
        }
        found.ok_or(ChecksumError::NotListed { file: wanted, lines: lines.len() })
    }

    /// The type.
    #[must_use]
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// The hash, in lower-case hex.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

/// (name, algorithm, hex) of a line of a list.
fn sums_line(line: &str) -> Option<(&str, Option<&str>, &str)> {
    if let Some((left, hex)) = line.rsplit_once(") = ") {
        let (algorithm, name) = left.split_once(" (")?;
        return Some((name, Some(algorithm), hex.trim()));
    }
    let (hex, name) = line.split_once(char::is_whitespace)?;
    let name = name.trim_start();
    Some((name.strip_prefix('*').unwrap_or(name), None, hex))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn hex(digit: char, length: usize) -> String {
        digit.to_string().repeat(length)
    }

    #[test]
    fn the_type_is_what_is_said_or_what_the_length_says() {
        use ChecksumAlgorithm::{Sha256, Sha512};
        let good = [
            (hex('a', 64), None, Sha256),
            (hex('A', 128), None, Sha512),
            (format!("sha256:{}", hex('a', 64)), None, Sha256),
            (format!(" SHA512:{} \n", hex('a', 128)), None, Sha512),
            (hex('a', 64), Some(Sha256), Sha256),
        ];
        for (text, said, algorithm) in good {
            let checksum = Checksum::parse(&text, said).unwrap();
            assert_eq!(checksum.algorithm(), algorithm, "{text}");
            assert_eq!(checksum.hex(), hex('a', algorithm.hex_length()));
        }
        let bad = [
            (hex('a', 32), None, ChecksumError::Md5),
            (format!("md5:{}", hex('a', 32)), None, ChecksumError::Md5),
            (hex('a', 40), None, ChecksumError::Length(40)),
            (String::new(), None, ChecksumError::Length(0)),
            (hex('a', 64), Some(Sha512), ChecksumError::WrongLength { algorithm: Sha512, got: 64 }),
            (format!("sha1:{}", hex('a', 40)), None, ChecksumError::UnknownAlgorithm("sha1".into())),
            (hex('g', 64), None, ChecksumError::NotHex),
            ("http://x/SUMS".into(), None, ChecksumError::UnknownAlgorithm("http".into())),
        ];
        for (text, said, error) in bad {
            assert_eq!(Checksum::parse(&text, said), Err(error), "{text}");
        }
    }

    #[test]
    fn finds_a_file_in_a_list() {
        let (a, b, long) = (hex('a', 64), hex('b', 64), hex('c', 128));
        let list = format!(
            "# made today\n{a}  other.img\n{b} *disk.img.zst\n\nSHA512 (disk.img.zst) = {long}\n{a}  ./dir/disk2.img\n"
        );
        let find = |file, algorithm| Checksum::from_sums(&list, file, algorithm);
        assert_eq!(find("other.img", None).unwrap().hex(), a);
        assert_eq!(find("disk2.img", None).unwrap().hex(), a);
        assert_eq!(find("a/disk.img.zst", Some(ChecksumAlgorithm::Sha512)).unwrap().hex(), long);
        assert_eq!(find("disk.img.zst", None), Err(ChecksumError::Ambiguous("disk.img.zst".into())));
        assert_eq!(find("no.img", None), Err(ChecksumError::NotListed { file: "no.img".into(), lines: 4 }));
        assert_eq!(Checksum::from_sums(&format!("{a}\n"), "x", None).unwrap().hex(), a);
        let weak = hex('d', 32);
        assert_eq!(Checksum::from_sums(&format!("{weak}  x\n{a}  x\n"), "x", None).unwrap().hex(), a);
        assert_eq!(Checksum::from_sums(&format!("{weak}  x\n{a}  y\n"), "x", None), Err(ChecksumError::Md5));
        assert!(Checksum::from_sums("<html>not found</html>", "x", None).is_err());
    }
}
