//! Values that flags are written in.

use std::net::SocketAddr;
use std::str::FromStr;

/// Where a server listens; `0` turns it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bind {
    /// The server is off.
    Off,
    /// It listens here.
    At(SocketAddr),
}

impl Bind {
    /// The address, unless off.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self::Off);
        }
        // `:8080` is how Kubernetes' own components write "every address".
        let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
        full.parse().map(Self::At).map_err(|_| {
            "give an IP address and a port such as 0.0.0.0:8080 or [::]:8080, or 0 for off".to_owned()
        })
    }
}

impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("0"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// A number of bytes, written with `Ki`, `Mi`, `Gi`, `Ti` or without a suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let advice = "give a whole number of bytes, or one with Ki, Mi, Gi or Ti, such as 20Gi";
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let number: u64 = digits.parse().map_err(|_| advice.to_owned())?;
        let shift = match &text[digits.len()..] {
            "" => 0,
            "Ki" => 10,
            "Mi" => 20,
            "Gi" => 30,
            "Ti" => 40,
            _ => return Err(advice.to_owned()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| "is more than 64 bits hold".to_owned())
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (shift, suffix) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}
